//! The 56 bytes before each part.

use std::ops::Range;

/// Bytes that a chunk has before its part of the frame.
pub const CHUNK_HEADER: usize = 56;

/// The largest frame that travels in chunks: a message of 16 MiB, and what is around it.
pub const MAX_CHUNKED_FRAME: usize = (16 << 20) + (128 << 10);

const MAGIC: &[u8; 4] = b"IFC1";

/// No frame has more chunks than it has times this many bytes, rounded up: each chunk costs its receiver a little beyond
/// its bytes.
pub(super) const LEAST_PART: usize = 1_024;

/// Whether these bytes are a chunk, or a frame of their own.
pub fn is_chunk(bytes: &[u8]) -> bool {
    bytes.starts_with(MAGIC)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) number: u64,
    pub(super) index: u32,
    pub(super) whole: Whole,
}

/// What all chunks of a frame say alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Whole {
    pub(super) count: u32,
    pub(super) total: u32,
    pub(super) digest: [u8; 32],
}

impl Header {
    /// `None` if there are fewer bytes than a header has.
    pub(super) fn read(chunk: &[u8]) -> Option<Self> {
        let rest = chunk.strip_prefix(MAGIC)?;
        let (number, rest) = rest.split_first_chunk::<8>()?;
        let (index, rest) = rest.split_first_chunk::<4>()?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let (total, rest) = rest.split_first_chunk::<4>()?;
        let (digest, _) = rest.split_first_chunk::<32>()?;
        Some(Self {
            number: u64::from_be_bytes(*number),
            index: u32::from_be_bytes(*index),
            whole: Whole {
                count: u32::from_be_bytes(*count),
                total: u32::from_be_bytes(*total),
                digest: *digest,
            },
        })
    }

    pub(super) fn write(&self) -> [u8; CHUNK_HEADER] {
        let mut bytes = [0; CHUNK_HEADER];
        bytes[0..4].copy_from_slice(MAGIC);
        bytes[4..12].copy_from_slice(&self.number.to_be_bytes());
        bytes[12..16].copy_from_slice(&self.index.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.whole.count.to_be_bytes());
        bytes[20..24].copy_from_slice(&self.whole.total.to_be_bytes());
        bytes[24..56].copy_from_slice(&self.whole.digest);
        bytes
    }
}

impl Whole {
    /// Where the part with this index lies in the frame. The index is below the count, which is not 0.
    pub(super) fn part(&self, index: u32) -> Range<usize> {
        let at = |index: u64| {
            let at = index * u64::from(self.total) / u64::from(self.count);
            usize::try_from(at).unwrap_or(usize::MAX)
        };
        at(u64::from(index))..at(u64::from(index) + 1)
    }

    /// The most chunks that a frame of this length may have.
    pub(super) fn most_chunks(total: usize) -> usize {
        total.div_ceil(LEAST_PART)
    }
}
