//! A log opens again after a death at any moment, and refuses what a death does not explain.
//!
//! Falsified by a torn end that does not open, that takes a whole line along or goes unmentioned; by a log that lost signed
//! lines and opens all the same; by an error of the disk that goes unnoticed or is taken for success later.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::fs;

use common::*;
use ifmesh_witness::{
    Event, FaultKind, Log, LogError, Record, Settings, VerifyError, verify, verify_against,
};
use ifmsg::Identity;

fn fault_of(error: LogError) -> Option<VerifyError> {
    match error {
        LogError::Damaged { error, .. } => Some(error),
        _ => None,
    }
}

/// Lines without a checkpoint, as a death between write and checkpoint leaves them.
fn unsigned_log(dir: &std::path::Path) -> u64 {
    let (mut log, _) = Log::open(settings(dir), identity(), at(0)).unwrap();
    let signed = fs::metadata(segment(dir, 0)).unwrap().len();
    for number in 0..2 {
        log.append(at(1), &sent(number)).unwrap();
    }
    log.commit().unwrap();
    signed
}

#[test]
fn lines_cut_at_any_byte_open_again_unless_they_were_signed() {
    let whole = tempfile::tempdir().unwrap();
    let signed = unsigned_log(whole.path());
    let bytes = fs::read(segment(whole.path(), 0)).unwrap();
    for len in 0..=bytes.len() {
        let dir = tempfile::tempdir().unwrap();
        copy(whole.path(), dir.path());
        fs::write(segment(dir.path(), 0), &bytes[..len]).unwrap();
        let whole_lines = bytes[..len].iter().filter(|byte| **byte == b'\n').count() as u64;
        let torn = bytes[..len]
            .iter()
            .rev()
            .take_while(|byte| **byte != b'\n')
            .count() as u64;
        let opened = Log::open(settings(dir.path()), identity(), at(5));
        if (len as u64) < signed {
            match opened {
                Err(LogError::Damaged {
                    error: VerifyError::Fault(fault),
                    ..
                }) => assert_eq!(fault.kind, FaultKind::Shorter { size: 1, lines: 0 }),
                other => panic!("{len}: {other:?}"),
            }
            // Not mended either: it may be evidence.
            assert_eq!(fs::read(segment(dir.path(), 0)).unwrap(), &bytes[..len]);
            continue;
        }
        let (log, recovered) = opened.unwrap();
        assert_eq!(
            (recovered.lines, recovered.torn_line),
            (whole_lines, torn),
            "{len}"
        );
        assert_eq!(recovered.unsigned_lines, whole_lines - 1);
        assert_eq!(log.size(), whole_lines + 1);
        let verified = verify(dir.path(), &keys()).unwrap();
        assert_eq!((verified.lines, verified.unsigned_lines), (whole_lines + 1, 0));
        let opened = Record::parse(lines(dir.path()).pop().unwrap().as_bytes()).unwrap();
        assert_eq!(opened.event, Event::LogOpened);
        assert_eq!(opened.metadata.get("torn_line_bytes"), Some(&torn.into()));
    }
}

#[test]
fn checkpoints_cut_at_any_byte_open_again_but_for_the_openings() {
    let whole = tempfile::tempdir().unwrap();
    small_log(whole.path(), 3);
    let bytes = fs::read(checkpoints(whole.path(), 0)).unwrap();
    let first = notes(whole.path())[0].len();
    for len in 0..=bytes.len() {
        let dir = tempfile::tempdir().unwrap();
        copy(whole.path(), dir.path());
        fs::write(checkpoints(dir.path(), 0), &bytes[..len]).unwrap();
        let verified = verify(dir.path(), &keys());
        if len < first {
            // No death leaves lines after an opening without a checkpoint over that.
            let damaged = Log::open(settings(dir.path()), identity(), at(5)).err();
            for fault in [verified.err(), damaged.and_then(fault_of)] {
                assert!(
                    matches!(&fault, Some(VerifyError::Fault(fault)) if fault.kind == FaultKind::UnsignedOpening { size: 1 }),
                    "{len}: {fault:?}"
                );
            }
            continue;
        }
        if bytes[len - 1] != b'\n' {
            assert!(matches!(
                verified,
                Err(VerifyError::Fault(fault)) if fault.kind == FaultKind::TornCheckpoint
            ));
        }
        let (log, recovered) = Log::open(settings(dir.path()), identity(), at(5)).unwrap();
        assert_eq!(recovered.lines, 5);
        assert!(
            recovered.torn_checkpoint < first as u64 + 2,
            "{len}: {recovered:?}"
        );
        let note = log.last_checkpoint().unwrap().note().to_owned();
        drop(log);
        assert_eq!(
            verify_against(dir.path(), &keys(), [note.as_str()])
                .unwrap()
                .lines,
            6
        );
    }
}

#[test]
fn a_death_just_after_a_rotation_opens_again() {
    let dir = tempfile::tempdir().unwrap();
    segmented_log(dir.path(), 2);
    let size = verify(dir.path(), &keys()).unwrap().lines;
    fs::write(segment(dir.path(), 2), b"").unwrap();
    assert_eq!(verify(dir.path(), &keys()).unwrap().segments, 3);
    let (log, recovered) = Log::open(settings(dir.path()), identity(), at(5)).unwrap();
    assert_eq!((recovered.lines, log.size()), (size, size + 1));
    drop(log);
    assert_eq!(verify(dir.path(), &keys()).unwrap().unsigned_lines, 0);
}

#[test]
fn many_lives_and_segments_are_one_log() {
    let dir = tempfile::tempdir().unwrap();
    let mut held = Vec::new();
    for life in 0..6 {
        let settings = Settings {
            segment_bytes: 2_000,
            ..settings(dir.path())
        };
        let (mut log, recovered) = Log::open(settings, identity(), at(life)).unwrap();
        assert_eq!((recovered.torn_line, recovered.torn_checkpoint), (0, 0));
        for number in 0..10 {
            log.append(at(life), &sent(number)).unwrap();
        }
        held.push(log.checkpoint().unwrap().note().to_owned());
    }
    for note in held {
        let verified = verify_against(dir.path(), &keys(), [note.as_str()]).unwrap();
        assert_eq!(verified.lines, 66);
        assert!(verified.segments > 6, "{verified:?}");
    }
}

#[test]
fn a_new_key_continues_the_log_of_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    small_log(dir.path(), 3);
    let new = Identity::from_seed(&[13; 32]);
    assert!(Log::open(settings(dir.path()), new.clone(), at(5)).is_err());
    let settings = Settings {
        former_keys: vec![*identity().public_key()],
        ..settings(dir.path())
    };
    let keys_now = settings.keys(&new);
    drop(Log::open(settings, new, at(5)).unwrap());
    assert_eq!(verify(dir.path(), &keys_now).unwrap().lines, 6);
    assert!(verify(dir.path(), &keys()).is_err());
}

#[test]
fn a_checkpoint_comes_with_time_and_with_lines() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(settings(dir.path()), identity(), at(0)).unwrap();
    log.append(at(10), &sent(0)).unwrap();
    assert_eq!(log.tick(at(99)).unwrap(), None);
    assert_eq!(log.tick(at(100)).unwrap().map(|signed| signed.size()), Some(2));
    assert_eq!(log.tick(at(9_000)).unwrap(), None);
    for number in 0..2_500 {
        log.append(at(9_000), &sent(number)).unwrap();
    }
    // So many lines are signed at once, and durable when the time has come: not later, however many come in.
    assert_eq!(log.last_checkpoint().map(|signed| signed.size()), Some(2_002));
    assert_eq!(log.committed(), 2);
    assert_eq!(
        log.tick(at(9_000)).unwrap().map(|signed| signed.size()),
        Some(2_502)
    );
    assert_eq!(log.committed(), 2_502);
    log.append(at(9_000), &sent(0)).unwrap();
    assert_eq!(log.tick(at(9_099)).unwrap(), None);
    // A clock that was set back makes it due, instead of never.
    assert_eq!(
        log.tick(at(8_999)).unwrap().map(|signed| signed.size()),
        Some(2_503)
    );
}

#[test]
fn trust_is_on_disk_when_append_returns_and_traffic_after_a_commit() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(settings(dir.path()), identity(), at(0)).unwrap();
    log.append(at(1), &sent(0)).unwrap();
    assert_eq!(lines(dir.path()).len(), 1);
    log.append(at(1), &ifmesh_witness::Entry::new(Event::KeyPinned))
        .unwrap();
    assert_eq!(lines(dir.path()).len(), 3);
    log.append(at(1), &sent(1)).unwrap();
    log.commit().unwrap();
    assert_eq!(lines(dir.path()).len(), 4);
}

#[test]
fn one_log_has_one_writer() {
    let dir = tempfile::tempdir().unwrap();
    let first = Log::open(settings(dir.path()), identity(), at(0)).unwrap();
    let second = Log::open(settings(dir.path()), identity(), at(0));
    assert_eq!(second.unwrap_err(), LogError::InUse(dir.path().to_owned()));
    drop(first);
    Log::open(settings(dir.path()), identity(), at(0)).unwrap();
}

/// `/dev/full` takes nothing and says that there is no room.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_named_and_ends_the_log_until_it_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let settings = Settings {
        segment_bytes: 1_000,
        ..settings(dir.path())
    };
    let (mut log, _) = Log::open(settings.clone(), identity(), at(0)).unwrap();
    let full = checkpoints(dir.path(), 1);
    std::os::unix::fs::symlink("/dev/full", &full).unwrap();
    let error = loop {
        if let Err(error) = log
            .append(at(1), &sent(0))
            .and_then(|_| log.checkpoint().map(drop))
        {
            break error;
        }
    };
    assert_eq!(error, LogError::DiskFull(full.clone()));
    assert_eq!(log.append(at(1), &sent(0)), Err(LogError::Failed));
    assert_eq!(log.commit(), Err(LogError::Failed));
    drop(log);
    fs::remove_file(full).unwrap();
    drop(Log::open(settings, identity(), at(2)).unwrap());
    assert_eq!(verify(dir.path(), &keys()).unwrap().unsigned_lines, 0);
}
