//! Frames in parts, for links that carry less than a frame at once. Pure: bytes and `now` go in, bytes come out.
//!
//! A frame that fits its link travels as it is. One that does not is cut by a [`Splitter`] into chunks, each of which says
//! all there is to know about the whole, and an [`Assembler`] at the other end puts them together. On the wire, numbers big
//! endian:
//!
//! ```text
//!  0   4  "IFC1"
//!  4   8  number           of the frame, counted by its sender on this link
//! 12   4  index            of this chunk, from 0
//! 16   4  count            of the frame's chunks
//! 20   4  total            length of the frame
//! 24  32  digest           SHA-256 of the frame
//! 56      the bytes from floor(index * total / count) up to floor((index + 1) * total / count)
//! ```
//!
//! Where a chunk belongs and how long it is follows from its numbers, so chunks cannot overlap and none can be longer than
//! it says. A frame whose own first bytes are `IFC1` is sent in one chunk.
//!
//! The digest tells a sender or a link that cut badly from one that did not. It proves nothing about the author: that is
//! the session's signature.

mod assembler;
mod header;
mod splitter;

pub use assembler::{Assembler, ChunkError, ChunkLimits, ChunkMetrics};
pub use header::{CHUNK_HEADER, MAX_CHUNKED_FRAME, is_chunk};
pub use splitter::Splitter;
