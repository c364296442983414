//! Whatever is done to a log by somebody without the agent's key is found, and the place is named.
//!
//! Falsified by any change to the bytes of a closed log after which `verify` (or, where the change is one that no reader of
//! the files alone can see, `verify_against` a held checkpoint) says that all is well.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::{fs, path::Path};

use common::*;
use ifmesh_witness::{
    CheckpointError, Fault, FaultKind, Hash, Log, LogKeys, VerifyError, verify, verify_against,
};
use ifmsg::Identity;

#[test]
fn an_untouched_log_verifies() {
    let dir = tempfile::tempdir().unwrap();
    small_log(dir.path(), 9);
    let verified = verify(dir.path(), &keys()).unwrap();
    assert_eq!(
        (verified.lines, verified.unsigned_lines, verified.segments),
        (11, 0, 1)
    );
    assert_eq!(verified.checkpoints, 5);
    assert_eq!(
        verified.last.as_ref().map(|last| *last.root()),
        Some(verified.root)
    );
    for note in notes(dir.path()) {
        assert_eq!(
            verify_against(dir.path(), &keys(), [note.as_str()]).as_ref(),
            Ok(&verified)
        );
    }
}

#[test]
fn every_flipped_bit_is_found() {
    let dir = tempfile::tempdir().unwrap();
    small_log(dir.path(), 2);
    for path in [segment(dir.path(), 0), checkpoints(dir.path(), 0)] {
        let bytes = fs::read(&path).unwrap();
        for place in 0..bytes.len() {
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[place] ^= 1 << bit;
                fs::write(&path, &changed).unwrap();
                match verify(dir.path(), &keys()) {
                    Err(VerifyError::Fault(fault)) if path.ends_with("00000000.jsonl") => {
                        // The accused line is the one that was changed, or, where only the next line's `prev` tells, that one.
                        let line = 1 + bytes[..place].iter().filter(|byte| **byte == b'\n').count() as u64;
                        assert!(fault.line <= line + 1, "{place} {bit}: {fault}, not line {line}");
                    }
                    Err(VerifyError::Fault(_)) => {}
                    other => panic!("byte {place} bit {bit} of {path:?}: {other:?}"),
                }
            }
        }
        fs::write(&path, &bytes).unwrap();
    }
    verify(dir.path(), &keys()).unwrap();
}

/// Edits the line and makes every later `prev` fit, as somebody does who knows the format and has no key.
fn edit_and_rechain(lines: &mut [String], from: usize) {
    lines[from] = lines[from].replace(r#""peer_id":"bob""#, r#""peer_id":"eve""#);
    for at in from + 1..lines.len() {
        let prev = Hash::of_leaf(lines[at - 1].as_bytes()).to_string();
        let start = lines[at].find(r#""prev":""#).unwrap() + 8;
        lines[at].replace_range(start..start + 64, &prev);
    }
}

type Tamper = fn(&Path);

#[test]
fn the_tamper_matrix() {
    fn with_lines(dir: &Path, act: impl FnOnce(&mut Vec<String>)) {
        let mut all = lines(dir);
        act(&mut all);
        write_lines(dir, &all);
    }
    fn with_notes(dir: &Path, act: impl FnOnce(&mut Vec<String>)) {
        let mut all = notes(dir);
        act(&mut all);
        fs::write(checkpoints(dir, 0), all.concat()).unwrap();
    }
    let table: &[(&str, Tamper, u64, FaultKind)] = &[
        (
            "a line deleted",
            |dir| with_lines(dir, |all| drop(all.remove(4))),
            5,
            FaultKind::Sequence {
                expected: 4,
                found: 5,
            },
        ),
        (
            "the first line deleted",
            |dir| with_lines(dir, |all| drop(all.remove(0))),
            1,
            FaultKind::Sequence {
                expected: 0,
                found: 1,
            },
        ),
        (
            "two lines swapped",
            |dir| with_lines(dir, |all| all.swap(3, 6)),
            4,
            FaultKind::Sequence {
                expected: 3,
                found: 6,
            },
        ),
        (
            "a line repeated",
            |dir| with_lines(dir, |all| all.insert(5, all[4].clone())),
            6,
            FaultKind::Sequence {
                expected: 5,
                found: 4,
            },
        ),
        (
            "a line edited",
            |dir| with_lines(dir, |all| all[4] = all[4].replace("bob", "eve")),
            6,
            FaultKind::Chain,
        ),
        (
            "a line edited and the rest chained anew: lines 5 to 7 are the third checkpoint's",
            |dir| with_lines(dir, |all| edit_and_rechain(all, 4)),
            5,
            FaultKind::Root { size: 7 },
        ),
        (
            "the last line edited",
            |dir| with_lines(dir, |all| all[10] = all[10].replace(".002Z", ".003Z")),
            11,
            FaultKind::Root { size: 11 },
        ),
        (
            "the last line cut",
            |dir| with_lines(dir, |all| drop(all.pop())),
            11,
            FaultKind::Shorter { size: 11, lines: 10 },
        ),
        (
            "all lines cut",
            |dir| with_lines(dir, Vec::clear),
            1,
            FaultKind::Shorter { size: 1, lines: 0 },
        ),
        (
            "the end cut within a line",
            |dir| {
                let bytes = fs::read(segment(dir, 0)).unwrap();
                fs::write(segment(dir, 0), &bytes[..bytes.len() - 5]).unwrap();
            },
            11,
            FaultKind::Shorter { size: 11, lines: 10 },
        ),
        (
            "a line spelled in another way",
            |dir| with_lines(dir, |all| all[2] = all[2].replace(r#","event""#, r#", "event""#)),
            3,
            // Compared by its kind below.
            FaultKind::Line(ifmesh_witness::BadLine::UnknownMember),
        ),
        (
            "a checkpoint signed with another key",
            |dir| {
                let other = tempfile::tempdir().unwrap();
                let (log, _) =
                    Log::open(settings(other.path()), Identity::from_seed(&[12; 32]), at(0)).unwrap();
                let forged = log.last_checkpoint().unwrap().note().to_owned();
                with_notes(dir, |all| all[0] = forged);
            },
            1,
            FaultKind::Checkpoint {
                number: 1,
                error: CheckpointError::UnknownKey,
            },
        ),
        (
            "a checkpoint's root exchanged for another's",
            |dir| {
                with_notes(dir, |all| {
                    let root = |note: &str| note.lines().nth(2).unwrap().to_owned();
                    all[1] = all[1].replace(&root(&all[1]), &root(&all[2]));
                });
            },
            1,
            FaultKind::Checkpoint {
                number: 2,
                error: CheckpointError::BadSignature,
            },
        ),
        (
            "checkpoints swapped",
            |dir| with_notes(dir, |all| all.swap(1, 2)),
            1,
            FaultKind::CheckpointOrder { number: 3, size: 4 },
        ),
        (
            "the checkpoints removed",
            |dir| fs::remove_file(checkpoints(dir, 0)).unwrap(),
            1,
            FaultKind::UnsignedOpening { size: 1 },
        ),
        (
            "the checkpoints of a second life removed",
            |dir| {
                let first = notes(dir).concat();
                small_log(dir, 2);
                fs::write(checkpoints(dir, 0), first).unwrap();
            },
            12,
            FaultKind::UnsignedOpening { size: 12 },
        ),
        (
            "the segment removed, its checkpoints left",
            |dir| fs::remove_file(segment(dir, 0)).unwrap(),
            1,
            FaultKind::MissingSegment,
        ),
    ];
    for (what, tamper, line, kind) in table {
        let dir = tempfile::tempdir().unwrap();
        small_log(dir.path(), 9);
        tamper(dir.path());
        let found = match verify(dir.path(), &keys()) {
            Err(VerifyError::Fault(fault)) => fault,
            other => panic!("{what}: {other:?}"),
        };
        if let (FaultKind::Line(_), FaultKind::Line(_)) = (&found.kind, kind) {
            assert_eq!((found.segment, found.line), (0, *line), "{what}");
            continue;
        }
        let expected = Fault {
            segment: 0,
            line: *line,
            kind: kind.clone(),
        };
        assert_eq!(found, expected, "{what}");
        // What does not verify is not continued either.
        assert!(
            Log::open(settings(dir.path()), identity(), at(9)).is_err(),
            "{what}"
        );
    }
}

#[test]
fn a_segment_that_is_gone_is_named() {
    for gone in 0..3 {
        let dir = tempfile::tempdir().unwrap();
        segmented_log(dir.path(), 4);
        assert_eq!(verify(dir.path(), &keys()).unwrap().segments, 4);
        fs::remove_file(segment(dir.path(), gone)).unwrap();
        fs::remove_file(checkpoints(dir.path(), gone)).unwrap();
        let expected = Fault {
            segment: gone,
            line: 1,
            kind: FaultKind::MissingSegment,
        };
        assert_eq!(verify(dir.path(), &keys()), Err(VerifyError::Fault(expected)));
    }
}

/// The last one with its checkpoints is a cut end: the files alone do not show it, a checkpoint that somebody holds does.
#[test]
fn a_last_segment_that_is_gone_shows_against_a_held_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    segmented_log(dir.path(), 4);
    let held = fs::read_to_string(checkpoints(dir.path(), 3)).unwrap();
    let last: Vec<_> = held.lines().collect();
    let held = last[last.len() - 5..].join("\n") + "\n";
    let size = verify_against(dir.path(), &keys(), [held.as_str()])
        .unwrap()
        .lines;
    fs::remove_file(segment(dir.path(), 3)).unwrap();
    fs::remove_file(checkpoints(dir.path(), 3)).unwrap();
    let verified = verify(dir.path(), &keys()).unwrap();
    assert_eq!(verified.segments, 3);
    let expected = VerifyError::Cut {
        size,
        lines: verified.lines,
    };
    assert_eq!(
        verify_against(dir.path(), &keys(), [held.as_str()]),
        Err(expected)
    );
}

#[test]
fn a_cut_of_lines_and_checkpoints_shows_against_a_held_checkpoint_only() {
    let dir = tempfile::tempdir().unwrap();
    small_log(dir.path(), 9);
    let held = notes(dir.path()).pop().unwrap();
    let kept: Vec<_> = lines(dir.path()).into_iter().take(7).collect();
    write_lines(dir.path(), &kept);
    fs::write(checkpoints(dir.path(), 0), notes(dir.path())[..3].concat()).unwrap();
    assert_eq!(verify(dir.path(), &keys()).unwrap().lines, 7);
    assert_eq!(
        verify_against(dir.path(), &keys(), [held.as_str()]),
        Err(VerifyError::Cut { size: 11, lines: 7 })
    );
}

#[test]
fn a_history_rewritten_with_the_agents_own_key_shows_against_a_held_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    small_log(dir.path(), 9);
    let held = notes(dir.path()).remove(2);
    let forged = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(settings(forged.path()), identity(), at(0)).unwrap();
    for number in 100..112 {
        log.append(at(1), &sent(number)).unwrap();
    }
    log.close(at(2)).unwrap();
    verify(forged.path(), &keys()).unwrap();
    assert_eq!(
        verify_against(forged.path(), &keys(), [held.as_str()]),
        Err(VerifyError::Forked { size: 7 })
    );
}

#[test]
fn another_key_or_agent_verifies_nothing() {
    let dir = tempfile::tempdir().unwrap();
    small_log(dir.path(), 3);
    let stranger = *Identity::from_seed(&[12; 32]).public_key();
    assert!(verify(dir.path(), &LogKeys::new(agent(), stranger)).is_err());
    assert!(
        verify(
            dir.path(),
            &LogKeys::new(agent(), stranger).also(*identity().public_key())
        )
        .is_ok()
    );
    let other = LogKeys::new("bob".try_into().unwrap(), *identity().public_key());
    assert!(verify(dir.path(), &other).is_err());
    let empty = tempfile::tempdir().unwrap();
    assert_eq!(
        verify(empty.path(), &keys()),
        Err(VerifyError::NoLog(empty.path().to_owned()))
    );
}
