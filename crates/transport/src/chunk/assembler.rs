use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use bytes::{Buf as _, Bytes};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

use super::header::{CHUNK_HEADER, Header, MAX_CHUNKED_FRAME, Whole, is_chunk};

/// What one peer may have lying around unfinished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkLimits {
    /// The longest frame, in bytes: [`MAX_CHUNKED_FRAME`].
    pub max_frame: usize,
    /// Unfinished frames at once: 16.
    pub max_messages: usize,
    /// Bytes of unfinished frames, each counted with the whole length that it claims: 32 MiB + 256 KiB. A frame alone
    /// always fits.
    pub max_bytes: usize,
    /// How long an unfinished frame may go without a new chunk: 10 s.
    pub patience: Duration,
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self {
            max_frame: MAX_CHUNKED_FRAME,
            max_messages: 16,
            max_bytes: 2 * MAX_CHUNKED_FRAME,
            patience: Duration::from_secs(10),
        }
    }
}

/// Why a chunk was refused, and the frame that it belongs to given up.
///
/// The peer's fault, except for [`TimedOut`](Self::TimedOut) on links that lose. Chunks of the same frame that come later
/// are dropped and counted, so one bad frame is one error. A sender that sends the frame again gives it another number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ChunkError {
    /// Too short for its header, no chunks, an index beyond the count, or more chunks than the length allows.
    #[error("a chunk whose header makes no sense")]
    Malformed,
    /// The frame is longer than this side takes.
    #[error("chunks of a frame of {total} bytes; at most {limit} are taken")]
    TooLarge {
        /// What the chunk says.
        total: usize,
        /// What this side takes.
        limit: usize,
    },
    /// The chunk is longer or shorter than its place in the frame.
    #[error("chunk {index} of frame {number} has {len} bytes where {expected} belong")]
    WrongLength {
        /// The frame.
        number: u64,
        /// The chunk.
        index: u32,
        /// What it has.
        len: usize,
        /// What it must have.
        expected: usize,
    },
    /// Two chunks of a frame disagree about its length, its digest or how many there are.
    #[error("the chunks of frame {number} disagree about the whole")]
    Inconsistent {
        /// The frame.
        number: u64,
    },
    /// Two chunks for the same place have different bytes.
    #[error("two chunks {index} of frame {number} differ")]
    Conflict {
        /// The frame.
        number: u64,
        /// The place.
        index: u32,
    },
    /// All chunks came, and their bytes are not what the digest says.
    #[error("frame {number} is complete and does not have its digest")]
    WrongDigest {
        /// The frame.
        number: u64,
    },
    /// More frames are unfinished than one peer may have.
    #[error("{limit} frames are unfinished already")]
    TooMany {
        /// What this side takes.
        limit: usize,
    },
    /// More bytes are promised than one peer may have.
    #[error("unfinished frames of {limit} bytes are all that one peer may have")]
    TooMuch {
        /// What this side takes.
        limit: usize,
    },
    /// No new chunk for too long.
    #[error("frame {number} is unfinished and no new chunk came in time")]
    TimedOut {
        /// The frame.
        number: u64,
    },
}

impl ChunkError {
    /// A short, stable, lowercase name for metrics and the witness.
    pub fn name(self) -> &'static str {
        match self {
            Self::Malformed => "chunk-malformed",
            Self::TooLarge { .. } => "chunk-too-large",
            Self::WrongLength { .. } => "chunk-wrong-length",
            Self::Inconsistent { .. } => "chunk-inconsistent",
            Self::Conflict { .. } => "chunk-conflict",
            Self::WrongDigest { .. } => "chunk-wrong-digest",
            Self::TooMany { .. } => "chunk-too-many",
            Self::TooMuch { .. } => "chunk-too-much",
            Self::TimedOut { .. } => "chunk-timed-out",
        }
    }
}

/// What happened since the assembler was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ChunkMetrics {
    /// Chunks that came.
    pub chunks: u64,
    /// Frames that were put together.
    pub frames: u64,
    /// Chunks that were there already.
    pub duplicates: u64,
    /// Chunks of frames that were finished or given up before.
    pub late: u64,
    /// Frames that were given up, those that timed out included, and chunks that belong to none.
    pub refused: u64,
}

/// Finished and given-up frames whose late chunks are told from new frames.
const REMEMBERED: usize = 256;

/// Puts frames together from the chunks of one peer on one link and lane.
///
/// Chunks may come in any order, several frames at once, and more than once. What does not add up is given up: a frame that
/// comes out is as long as its chunks said and has the digest that they said. Memory is bounded by [`ChunkLimits`], plus one
/// buffer's growth; without chunks it is a few hundred bytes.
#[derive(Debug)]
pub struct Assembler {
    limits: ChunkLimits,
    partial: BTreeMap<u64, Partial>,
    promised: usize,
    over: VecDeque<u64>,
    metrics: ChunkMetrics,
}

impl Assembler {
    /// Nothing begun.
    pub fn new(limits: ChunkLimits) -> Self {
        Self {
            limits,
            partial: BTreeMap::new(),
            promised: 0,
            over: VecDeque::new(),
            metrics: ChunkMetrics::default(),
        }
    }

    /// Takes in what came by the link. Returns a frame that is whole: what is no chunk at once, as it came.
    ///
    /// Call [`expire`](Self::expire) now and then as well.
    ///
    /// # Errors
    /// Why the chunk, and the frame that it belongs to, was given up. Frames besides it are not touched.
    pub fn accept(&mut self, bytes: Bytes, now: Instant) -> Result<Option<Bytes>, ChunkError> {
        if !is_chunk(&bytes) {
            return Ok(Some(bytes));
        }
        self.metrics.chunks += 1;
        let Some(header) = Header::read(&bytes) else {
            self.metrics.refused += 1;
            return Err(ChunkError::Malformed);
        };
        if self.over.contains(&header.number) {
            self.metrics.late += 1;
            return Ok(None);
        }
        let result = self.extend(&header, bytes, now);
        if result.is_err() {
            self.metrics.refused += 1;
            self.end(header.number);
        }
        result
    }

    /// Gives up frames to which nothing was added for [`ChunkLimits::patience`]; an error for each.
    pub fn expire(&mut self, now: Instant) -> Vec<ChunkError> {
        let patience = self.limits.patience;
        let stale = |partial: &Partial| now.saturating_duration_since(partial.extended) >= patience;
        let expired: Vec<u64> = self
            .partial
            .iter()
            .filter(|(_, partial)| stale(partial))
            .map(|(number, _)| *number)
            .collect();
        self.metrics.refused += expired.len() as u64;
        expired
            .into_iter()
            .map(|number| {
                self.end(number);
                ChunkError::TimedOut { number }
            })
            .collect()
    }

    /// When [`expire`](Self::expire) has something to do, if no more chunks come.
    pub fn next_expiry(&self) -> Option<Instant> {
        let oldest = self.partial.values().map(|partial| partial.extended).min()?;
        Some(oldest + self.limits.patience)
    }

    /// Frames that are unfinished, and the bytes that they hold.
    pub fn load(&self) -> (usize, usize) {
        let held = self.partial.values().map(Partial::held).sum();
        (self.partial.len(), held)
    }

    /// Counters.
    pub fn metrics(&self) -> ChunkMetrics {
        self.metrics
    }

    fn extend(&mut self, header: &Header, chunk: Bytes, now: Instant) -> Result<Option<Bytes>, ChunkError> {
        let (number, index) = (header.number, header.index);
        match self.partial.get(&number) {
            Some(partial) if partial.whole != header.whole => {
                return Err(ChunkError::Inconsistent { number });
            }
            Some(_) => {}
            None => self.admit(&header.whole)?,
        }
        // Zero chunks are caught here, too.
        if index >= header.whole.count {
            return Err(ChunkError::Malformed);
        }
        check_length(header, &chunk)?;
        let promised = &mut self.promised;
        let partial = self.partial.entry(number).or_insert_with(|| {
            *promised += header.whole.total as usize;
            Partial::new(header.whole, now)
        });
        match partial.add(index, chunk.slice(CHUNK_HEADER..)) {
            Added::New => partial.extended = now,
            Added::Again => self.metrics.duplicates += 1,
            Added::Conflict => return Err(ChunkError::Conflict { number, index }),
        }
        if !partial.is_complete() {
            return Ok(None);
        }
        let frame = partial.finish().ok_or(ChunkError::WrongDigest { number })?;
        self.metrics.frames += 1;
        self.end(number);
        Ok(Some(frame))
    }

    /// Whether there is room for another frame.
    fn admit(&self, whole: &Whole) -> Result<(), ChunkError> {
        let (total, count) = (whole.total as usize, whole.count as usize);
        let limits = &self.limits;
        if count > Whole::most_chunks(total) {
            return Err(ChunkError::Malformed);
        }
        if total > limits.max_frame {
            let limit = limits.max_frame;
            return Err(ChunkError::TooLarge { total, limit });
        }
        // A frame in one chunk takes up nothing.
        if count > 1 && self.partial.len() >= limits.max_messages.max(1) {
            let limit = limits.max_messages;
            return Err(ChunkError::TooMany { limit });
        }
        if count > 1 && !self.partial.is_empty() && self.promised + total > limits.max_bytes {
            let limit = limits.max_bytes;
            return Err(ChunkError::TooMuch { limit });
        }
        Ok(())
    }

    fn end(&mut self, number: u64) {
        if let Some(partial) = self.partial.remove(&number) {
            self.promised -= partial.whole.total as usize;
        }
        if self.over.len() == REMEMBERED {
            self.over.pop_front();
        }
        self.over.push_back(number);
    }
}

fn check_length(header: &Header, chunk: &[u8]) -> Result<(), ChunkError> {
    let (len, expected) = (chunk.len() - CHUNK_HEADER, header.whole.part(header.index).len());
    if len == expected {
        return Ok(());
    }
    Err(ChunkError::WrongLength {
        number: header.number,
        index: header.index,
        len,
        expected,
    })
}

/// Room for so many times what has come: none of it is touched before it is needed.
const GROWTH: usize = 64;

/// A frame on its way to being whole.
#[derive(Debug)]
struct Partial {
    whole: Whole,
    /// The parts below `next`, in one piece, and their hash.
    front: Vec<u8>,
    hash: Sha256,
    next: u32,
    /// Parts beyond a gap.
    beyond: BTreeMap<u32, Bytes>,
    extended: Instant,
}

enum Added {
    New,
    Again,
    Conflict,
}

impl Partial {
    fn new(whole: Whole, now: Instant) -> Self {
        Self {
            whole,
            front: Vec::new(),
            hash: Sha256::new(),
            next: 0,
            beyond: BTreeMap::new(),
            extended: now,
        }
    }

    /// A part with a valid index and the right length.
    fn add(&mut self, index: u32, part: Bytes) -> Added {
        let known = match index {
            _ if index < self.next => Some(&self.front[self.whole.part(index)]),
            _ => self.beyond.get(&index).map(Bytes::as_ref),
        };
        if let Some(known) = known {
            return if known == part {
                Added::Again
            } else {
                Added::Conflict
            };
        }
        if index > self.next {
            self.beyond.insert(index, part);
            return Added::New;
        }
        self.append(&part);
        while let Some(part) = self.beyond.remove(&self.next) {
            self.append(&part);
        }
        Added::New
    }

    fn append(&mut self, part: &[u8]) {
        if self.front.capacity() - self.front.len() < part.len() {
            // Grows with what has come, not with what was promised, and never beyond the promise. In few steps: in each, all that
            // has come may be copied, and nobody else gets on meanwhile.
            let room = (self.front.len() + part.len())
                .saturating_mul(GROWTH)
                .min(self.whole.total as usize);
            self.front.reserve_exact(room - self.front.len());
        }
        self.front.extend_from_slice(part);
        self.hash.update(part);
        self.next += 1;
    }

    fn is_complete(&self) -> bool {
        self.next == self.whole.count
    }

    /// `None`: the digest is not the one that the chunks named.
    fn finish(&mut self) -> Option<Bytes> {
        let digest: [u8; 32] = std::mem::take(&mut self.hash).finalize().into();
        (digest == self.whole.digest).then(|| Bytes::from(std::mem::take(&mut self.front)))
    }

    fn held(&self) -> usize {
        self.front.len() + self.beyond.values().map(|part| part.remaining()).sum::<usize>()
    }
}
