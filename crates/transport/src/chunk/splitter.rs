use bytes::{BufMut as _, Bytes, BytesMut};
use sha2::{Digest as _, Sha256};

use super::header::{CHUNK_HEADER, Header, LEAST_PART, Whole, is_chunk};

/// Cuts one frame into chunks, one at a time, so that a sender can put other frames in between.
#[derive(Debug, Clone)]
pub struct Splitter {
    number: u64,
    frame: Bytes,
    count: u32,
    next: u32,
    digest: Digest,
}

#[derive(Debug, Clone)]
enum Digest {
    /// Of the first so many bytes.
    Begun(Sha256, usize),
    Done([u8; 32]),
}

impl Splitter {
    /// What goes over a link that carries `most` bytes at once: the frame as it is where it can be, else its chunks, as
    /// [`new`](Self::new) says.
    pub fn cut(number: u64, frame: Bytes, most: usize) -> impl Iterator<Item = Bytes> {
        let mut parts = Self::is_needed(&frame, most).then(|| Self::new(number, frame.clone(), most));
        let mut whole = parts.is_none().then_some(frame);
        std::iter::from_fn(move || whole.take().or_else(|| parts.as_mut()?.next_chunk()))
    }

    /// Whether a frame cannot travel as it is over a link that carries `most` bytes at once: it is longer, or looks like a
    /// chunk.
    pub fn is_needed(frame: &[u8], most: usize) -> bool {
        frame.len() > most || is_chunk(frame)
    }

    /// Will cut `frame` into chunks of at most `most` bytes each, header included, but parts of a frame are never made
    /// smaller than 1,024 bytes. `number` must differ from those of the frames before on the same link.
    ///
    /// The frame must not be empty and not longer than [`MAX_CHUNKED_FRAME`](super::MAX_CHUNKED_FRAME): receivers refuse
    /// others.
    pub fn new(number: u64, frame: Bytes, most: usize) -> Self {
        let part = most.saturating_sub(CHUNK_HEADER).max(LEAST_PART);
        // Parts differ by one byte at most, and the longest is no longer than `part`.
        let count = frame.len().div_ceil(part).max(1);
        Self {
            number,
            frame,
            count: u32::try_from(count).unwrap_or(u32::MAX),
            next: 0,
            digest: Digest::Begun(Sha256::new(), 0),
        }
    }

    /// Takes at most `bytes` more into the digest that every chunk carries; whether it is complete. For those who must not
    /// stop for the ten milliseconds that 16 MiB take; [`next_chunk`](Self::next_chunk) does what is left at once.
    pub fn digest_some(&mut self, bytes: usize) -> bool {
        if let Digest::Begun(hash, done) = &mut self.digest {
            let end = done.saturating_add(bytes).min(self.frame.len());
            hash.update(&self.frame[*done..end]);
            *done = end;
            if end < self.frame.len() {
                return false;
            }
            self.digest = Digest::Done(std::mem::take(hash).finalize().into());
        }
        true
    }

    /// The next chunk, in the order of their indices; `None` after the last one.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        if self.next == self.count {
            return None;
        }
        self.digest_some(usize::MAX);
        let Digest::Done(digest) = self.digest else {
            return None;
        };
        let whole = Whole {
            count: self.count,
            total: u32::try_from(self.frame.len()).unwrap_or(u32::MAX),
            digest,
        };
        let header = Header {
            number: self.number,
            index: self.next,
            whole,
        };
        let part = &self.frame[whole.part(self.next)];
        let mut chunk = BytesMut::with_capacity(CHUNK_HEADER + part.len());
        chunk.put_slice(&header.write());
        chunk.put_slice(part);
        self.next += 1;
        Some(chunk.freeze())
    }

    /// How many chunks are still to come.
    pub fn remaining(&self) -> usize {
        (self.count - self.next) as usize
    }

    /// The whole frame's length in bytes.
    pub fn frame_len(&self) -> usize {
        self.frame.len()
    }
}

impl Iterator for Splitter {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        self.next_chunk()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.remaining(), Some(self.remaining()))
    }
}
