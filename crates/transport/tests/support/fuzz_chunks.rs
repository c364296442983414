//! What must hold whatever comes by a link: called by the fuzz target, and by a test on the committed corpus.

use std::time::Duration;

use bytes::Bytes;
use ifmesh_transport::{Assembler, CHUNK_HEADER, ChunkLimits, is_chunk};
use sha2::{Digest as _, Sha256};
use tokio::time::Instant;

/// Input: chunks, each behind its length (u16, big endian) and the seconds since the one before (u8).
///
/// No panic; no more unfinished than the limits say; and a frame that comes out of a chunk has the length and digest that this
/// chunk claims.
pub(crate) fn chunks_hold(mut input: &[u8]) {
    let limits = ChunkLimits {
        max_frame: 4_096,
        max_messages: 3,
        max_bytes: 8_192,
        patience: Duration::from_secs(10),
    };
    let mut assembler = Assembler::new(limits);
    let mut now = Instant::now();
    while let Some(([high, low, seconds], rest)) = input.split_first_chunk() {
        let (chunk, rest) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes([*high, *low]))));
        input = rest;
        now += Duration::from_secs(u64::from(*seconds));
        let (unfinished, _) = assembler.load();
        assert!(assembler.expire(now).len() <= unfinished);
        match assembler.accept(Bytes::copy_from_slice(chunk), now) {
            Ok(Some(frame)) if is_chunk(chunk) => {
                assert_eq!(chunk[20..24], u32::try_from(frame.len()).unwrap().to_be_bytes());
                assert_eq!(chunk[24..CHUNK_HEADER], Sha256::digest(&frame)[..]);
            }
            Ok(Some(frame)) => assert_eq!(frame, chunk),
            Ok(None) => assert!(is_chunk(chunk)),
            Err(error) => assert_ne!(error.name(), "chunk-timed-out"),
        }
        let (frames, bytes) = assembler.load();
        assert!(frames <= limits.max_messages, "{frames} frames are unfinished");
        assert!(bytes <= limits.max_bytes, "{bytes} bytes are held");
        assert!(assembler.next_expiry().is_none_or(|at| at > now));
    }
}
