//! Frames in parts. Falsified by a frame that comes out other than it went in, or twice, or not at all; by memory beyond the
//! limits; and by a lie that is not told apart by name.
#![allow(clippy::unwrap_used, reason = "a test ends where something is wrong")]

#[path = "support/fuzz_chunks.rs"]
mod fuzz_chunks;

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use ifmesh_transport::{
    Assembler, CHUNK_HEADER, ChunkError, ChunkLimits, MAX_CHUNKED_FRAME, Splitter, is_chunk,
};
use proptest::prelude::*;
use tokio::time::Instant;

/// Bytes that differ from place to place.
fn frame(len: usize, seed: u64) -> Bytes {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend_from_slice(&next().to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

fn cut(number: u64, frame: &Bytes, most: usize) -> Vec<Bytes> {
    Splitter::new(number, frame.clone(), most).collect()
}

fn assembler() -> Assembler {
    Assembler::new(ChunkLimits::default())
}

/// The chunk with one byte changed.
fn changed(chunk: &Bytes, at: usize) -> Bytes {
    let mut bytes = BytesMut::from(&chunk[..]);
    bytes[at] ^= 1;
    bytes.freeze()
}

/// All chunks in order; what came out at the end.
fn put_in(assembler: &mut Assembler, chunks: &[Bytes]) -> Result<Option<Bytes>, ChunkError> {
    let now = Instant::now();
    let (last, rest) = chunks.split_last().unwrap();
    for chunk in rest {
        assert_eq!(assembler.accept(chunk.clone(), now)?, None);
    }
    assembler.accept(last.clone(), now)
}

#[test]
fn a_frame_that_fits_is_not_touched() {
    let small = frame(300, 1);
    assert!(!Splitter::is_needed(&small, 16_384));
    let out = assembler()
        .accept(small.clone(), Instant::now())
        .unwrap()
        .unwrap();
    assert_eq!(out.as_ptr(), small.as_ptr(), "it was copied");
}

#[test]
fn what_looks_like_a_chunk_travels_in_one() {
    let odd = Bytes::from_static(b"IFC1 or so");
    assert!(Splitter::is_needed(&odd, 16_384));
    let chunks = cut(1, &odd, 16_384);
    assert_eq!(chunks.len(), 1);
    assert_eq!(put_in(&mut assembler(), &chunks), Ok(Some(odd)));
}

#[test]
fn sixteen_mebibytes_pass_and_one_byte_more_than_the_limit_does_not() {
    let big = frame(MAX_CHUNKED_FRAME, 2);
    let chunks = cut(1, &big, 16_384);
    assert!(
        chunks
            .iter()
            .all(|chunk| is_chunk(chunk) && chunk.len() <= 16_384)
    );
    let mut assembler = assembler();
    assert_eq!(put_in(&mut assembler, &chunks), Ok(Some(big)));
    assert_eq!(assembler.load(), (0, 0));
    let bigger = frame(MAX_CHUNKED_FRAME + 1, 2);
    let first = Splitter::new(2, bigger, 16_384).next_chunk().unwrap();
    let refused = assembler.accept(first, Instant::now());
    let (total, limit) = (MAX_CHUNKED_FRAME + 1, MAX_CHUNKED_FRAME);
    assert_eq!(refused, Err(ChunkError::TooLarge { total, limit }));
}

/// One lie after the other, each on a frame of its own, each told by name; what comes late is dropped, and the frame that was
/// unfinished beside them all comes out.
#[test]
fn each_lie_has_its_name_and_harms_one_frame() {
    let now = Instant::now();
    let mut assembler = assembler();
    let good = frame(5_000, 3);
    let good_chunks = cut(1, &good, 2_000);
    assert_eq!(assembler.accept(good_chunks[0].clone(), now), Ok(None));

    let mut lie = |number: u64, chunks: &dyn Fn(&[Bytes]) -> Vec<Bytes>| {
        let honest = cut(number, &frame(5_000, number), 2_000);
        let mut error = None;
        for chunk in chunks(&honest) {
            match assembler.accept(chunk, now) {
                Ok(out) => assert_eq!(out, None),
                Err(refused) => assert_eq!(error.replace(refused), None, "one error for each frame"),
            }
        }
        for chunk in honest {
            assert_eq!(assembler.accept(chunk, now), Ok(None), "it is given up");
        }
        error
    };
    let bad_digest = |chunks: &[Bytes]| chunks.iter().map(|chunk| changed(chunk, 55)).collect();
    assert_eq!(lie(2, &bad_digest), Some(ChunkError::WrongDigest { number: 2 }));
    let bad_byte = |chunks: &[Bytes]| {
        let mut chunks = chunks.to_vec();
        chunks[1] = changed(&chunks[1], CHUNK_HEADER);
        chunks
    };
    assert_eq!(lie(3, &bad_byte), Some(ChunkError::WrongDigest { number: 3 }));
    let other_count = |chunks: &[Bytes]| vec![chunks[0].clone(), changed(&chunks[1], 19)];
    assert_eq!(lie(4, &other_count), Some(ChunkError::Inconsistent { number: 4 }));
    let other_total = |chunks: &[Bytes]| vec![chunks[0].clone(), changed(&chunks[1], 23)];
    assert_eq!(lie(5, &other_total), Some(ChunkError::Inconsistent { number: 5 }));
    let two_for_one = |chunks: &[Bytes]| vec![chunks[0].clone(), changed(&chunks[0], 60)];
    let conflict = ChunkError::Conflict { number: 6, index: 0 };
    assert_eq!(lie(6, &two_for_one), Some(conflict));
    let two_beyond = |chunks: &[Bytes]| vec![chunks[2].clone(), changed(&chunks[2], 60)];
    let conflict = ChunkError::Conflict { number: 7, index: 2 };
    assert_eq!(lie(7, &two_beyond), Some(conflict));
    let short = |chunks: &[Bytes]| vec![chunks[0].slice(..100)];
    assert!(matches!(
        lie(8, &short),
        Some(ChunkError::WrongLength {
            number: 8,
            index: 0,
            len: 44,
            ..
        })
    ));
    let beyond_count = |chunks: &[Bytes]| vec![changed(&chunks[0], 12)];
    assert_eq!(lie(9, &beyond_count), Some(ChunkError::Malformed));
    let too_fine = |chunks: &[Bytes]| vec![changed(&chunks[0], 17)];
    assert_eq!(lie(10, &too_fine), Some(ChunkError::Malformed));
    assert_eq!(
        assembler.accept(Bytes::from_static(b"IFC1 and no more"), now),
        Err(ChunkError::Malformed)
    );

    assert_eq!(put_in(&mut assembler, &good_chunks[1..]), Ok(Some(good)));
    assert_eq!(assembler.load(), (0, 0));
    assert_eq!(assembler.metrics().refused, 10);
    assert!(assembler.metrics().late > 0);
}

#[test]
fn a_hundred_thousand_unfinished_frames_hold_no_more_than_the_limits() {
    let now = Instant::now();
    let limits = ChunkLimits::default();
    let mut assembler = Assembler::new(limits);
    let two = frame(1_100, 1);
    let mut refused = 0;
    for number in 0..100_000 {
        let first = Splitter::new(number, two.clone(), 1_024).next_chunk();
        refused += u64::from(assembler.accept(first.unwrap(), now).is_err());
    }
    let (frames, bytes) = assembler.load();
    assert_eq!(frames, limits.max_messages);
    assert!(bytes <= limits.max_messages * 1_024);
    assert_eq!(refused, 100_000 - limits.max_messages as u64);
    assert_eq!(assembler.metrics().refused, refused);
    // A frame in one chunk needs no room, and the rest is given up in time.
    let odd = Bytes::from_static(b"IFC1");
    assert_eq!(put_in(&mut assembler, &cut(1 << 40, &odd, 16_384)), Ok(Some(odd)));
    let later = now + limits.patience;
    assert_eq!(assembler.next_expiry(), Some(later));
    assert_eq!(assembler.expire(later - Duration::from_nanos(1)), []);
    assert_eq!(assembler.expire(later).len(), limits.max_messages);
    assert_eq!((assembler.load(), assembler.next_expiry()), ((0, 0), None));
}

#[test]
fn what_is_promised_counts_not_what_has_come() {
    let now = Instant::now();
    let mut assembler = assembler();
    let promise = |number| {
        Splitter::new(number, frame(MAX_CHUNKED_FRAME, number), 16_384)
            .next_chunk()
            .unwrap()
    };
    assert_eq!(assembler.accept(promise(1), now), Ok(None));
    assert_eq!(assembler.accept(promise(2), now), Ok(None));
    let limit = 2 * MAX_CHUNKED_FRAME;
    assert_eq!(
        assembler.accept(promise(3), now),
        Err(ChunkError::TooMuch { limit })
    );
    assert!(assembler.load().1 <= 2 * 16_384);
}

/// What comes again does not keep a frame alive.
#[test]
fn a_frame_lives_as_long_as_something_new_comes() {
    let mut now = Instant::now();
    let mut assembler = assembler();
    let chunks = cut(1, &frame(10_000, 1), 2_000);
    let step = Duration::from_secs(6);
    for chunk in &chunks[..3] {
        assert_eq!(assembler.expire(now), []);
        assert_eq!(assembler.accept(chunk.clone(), now), Ok(None));
        now += step;
    }
    assert_eq!(assembler.accept(chunks[0].clone(), now), Ok(None));
    now += step;
    assert_eq!(assembler.expire(now), [ChunkError::TimedOut { number: 1 }]);
    assert_eq!(assembler.metrics().duplicates, 1);
}

#[test]
fn a_digest_in_steps_is_the_digest() {
    let big = frame(100_000, 9);
    let mut slow = Splitter::new(1, big.clone(), 16_384);
    let mut steps = 1;
    while !slow.digest_some(999) {
        steps += 1;
    }
    assert_eq!(steps, 101);
    assert_eq!(slow.collect::<Vec<_>>(), cut(1, &big, 16_384));
}

#[test]
fn the_corpus_holds() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../fuzz/corpus/chunks");
    let mut replayed = 0;
    for entry in std::fs::read_dir(corpus).unwrap() {
        fuzz_chunks::chunks_hold(&std::fs::read(entry.unwrap().path()).unwrap());
        replayed += 1;
    }
    assert!(replayed > 0);
}

proptest! {
    /// Several frames at once, all chunks in any order and some of them twice: each frame comes out once, as it went in.
    #[test]
    fn any_order_and_repetition_gives_each_frame_once(
        frames in prop::collection::vec((1usize..40_000, any::<u64>(), 1_024usize..20_000), 1..6),
        dice in prop::collection::vec(any::<prop::sample::Index>(), 400),
        copies in 1usize..3,
    ) {
        let frames: Vec<(Bytes, usize)> = frames
            .into_iter()
            .map(|(len, seed, most)| (frame(len, seed), most))
            .collect();
        let mut waiting: Vec<Bytes> = Vec::new();
        for (number, (frame, most)) in frames.iter().enumerate() {
            for _ in 0..copies {
                waiting.extend(cut(number as u64, frame, *most));
            }
        }
        let mut assembler = assembler();
        let mut out = Vec::new();
        let mut dice = dice.iter().cycle();
        while !waiting.is_empty() {
            let chunk = waiting.swap_remove(dice.next().unwrap().index(waiting.len()));
            out.extend(assembler.accept(chunk, Instant::now()).unwrap());
        }
        let mut expected: Vec<Bytes> = frames.into_iter().map(|(frame, _)| frame).collect();
        out.sort();
        expected.sort();
        prop_assert_eq!(out, expected);
        prop_assert_eq!(assembler.load(), (0, 0));
        prop_assert_eq!(assembler.metrics().refused, 0);
    }

    /// No changed byte anywhere makes another frame come out.
    #[test]
    fn a_changed_byte_never_makes_another_frame(
        len in 1usize..20_000,
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
    ) {
        let honest = frame(len, 7);
        let mut chunks = cut(1, &honest, 2_048);
        let which = which.index(chunks.len());
        let at = 4 + at.index(chunks[which].len() - 4);
        chunks[which] = changed(&chunks[which], at);
        let mut assembler = assembler();
        for chunk in chunks {
            if let Ok(Some(out)) = assembler.accept(chunk, Instant::now()) {
                prop_assert!((4..12).contains(&at), "only its number can change");
                prop_assert_eq!(&out, &honest);
            }
        }
    }

    #[test]
    fn whatever_comes_memory_is_bounded(input in prop::collection::vec(any::<u8>(), 0..2_000)) {
        fuzz_chunks::chunks_hold(&input);
    }

    /// Chunks that are nearly right.
    #[test]
    fn whatever_is_changed_memory_is_bounded(
        chunks in prop::collection::vec(
            (0u64..6, 1usize..4_100, any::<prop::sample::Index>(), 0usize..80, any::<bool>(), 0u8..4),
            1..40,
        ),
    ) {
        let mut input = Vec::new();
        for (number, len, index, at, change, seconds) in chunks {
            let all = cut(number, &frame(len, number), 1_100);
            let mut chunk = all[index.index(all.len())].clone();
            if change {
                chunk = changed(&chunk, at.min(chunk.len() - 1));
            }
            input.extend_from_slice(&u16::try_from(chunk.len()).unwrap().to_be_bytes());
            input.push(seconds);
            input.extend_from_slice(&chunk);
        }
        fuzz_chunks::chunks_hold(&input);
    }
}
