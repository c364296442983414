//! A small log, and what the tests need to know of it.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, path::Path};

use ifmesh_witness::{Entry, Event, Log, LogKeys, Settings};
use ifmsg::{AgentId, Identity, MessageDigest, Timestamp};

pub(crate) const START: i64 = 1_795_356_600_000;

pub(crate) fn identity() -> Identity {
    Identity::from_seed(&[11; 32])
}

pub(crate) fn agent() -> AgentId {
    AgentId::new("alice").unwrap()
}

pub(crate) fn keys() -> LogKeys {
    LogKeys::new(agent(), *identity().public_key())
}

pub(crate) fn at(millis: i64) -> Timestamp {
    Timestamp::from_unix_millis(START + millis)
}

pub(crate) fn settings(dir: &Path) -> Settings {
    Settings::new(dir, agent())
}

pub(crate) fn digest(number: u64) -> MessageDigest {
    let mut bytes = [0xd1; 32];
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    MessageDigest::from_bytes(bytes)
}

pub(crate) fn sent(number: u64) -> Entry {
    Entry::new(Event::IfmessageSent)
        .peer(AgentId::new("bob").unwrap())
        .transport("mem")
        .digest(digest(number))
        .with("attempt", 1u32)
}

/// A log of `lines` messages between `log_opened` and `log_closed`, with a checkpoint after every third.
pub(crate) fn small_log(dir: &Path, lines: u64) {
    let (mut log, _) = Log::open(settings(dir), identity(), at(0)).unwrap();
    for number in 0..lines {
        log.append(at(1), &sent(number)).unwrap();
        if number % 3 == 2 {
            log.checkpoint().unwrap();
        }
    }
    log.close(at(2)).unwrap();
}

/// A log of at least `segments` segments.
pub(crate) fn segmented_log(dir: &Path, segments: u32) {
    let settings = Settings {
        segment_bytes: 1_000,
        ..settings(dir)
    };
    let (mut log, _) = Log::open(settings, identity(), at(0)).unwrap();
    let mut number = 0;
    while !segment(dir, segments - 1).exists() {
        log.append(at(1), &sent(number)).unwrap();
        number += 1;
    }
    log.append(at(1), &sent(number)).unwrap();
    log.close(at(2)).unwrap();
}

pub(crate) fn segment(dir: &Path, number: u32) -> std::path::PathBuf {
    dir.join(format!("{number:08}.jsonl"))
}

pub(crate) fn checkpoints(dir: &Path, number: u32) -> std::path::PathBuf {
    dir.join(format!("{number:08}.checkpoints"))
}

pub(crate) fn lines(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(segment(dir, 0)).unwrap();
    text.lines().map(str::to_owned).collect()
}

pub(crate) fn write_lines(dir: &Path, lines: &[String]) {
    fs::write(
        segment(dir, 0),
        lines.iter().map(|line| format!("{line}\n")).collect::<String>(),
    )
    .unwrap();
}

/// The notes of the first segment.
pub(crate) fn notes(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(checkpoints(dir, 0)).unwrap();
    let lines: Vec<_> = text.lines().collect();
    lines.chunks(5).map(|note| note.join("\n") + "\n").collect()
}

pub(crate) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}
