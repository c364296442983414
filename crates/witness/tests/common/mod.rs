//! A small log, and what the tests need to know of it.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{fs, ops::Range, path::Path};

use ifmesh_witness::{Entry, Event, Log, LogKeys, Mention, Metadata, Settings};
use ifmsg::{
    AgentId, Destination, Draft, Header, Identity, MessageDigest, MessageId, Stamp, Timestamp,
    canonical::Limits,
};

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
        .message(Mention::of(&header(number), digest(number)))
        .with("attempt", 1u32)
}

/// Several messages in one line.
pub(crate) fn sent_together(numbers: Range<u64>) -> Entry {
    let mut entry = sent(numbers.start);
    let (peer, road) = (AgentId::new("bob").unwrap(), "mem".into());
    let metadata = Metadata::default().with("attempt", 1u32);
    for number in numbers.skip(1) {
        let message = (&header(number), digest(number));
        assert!(entry.also(Event::IfmessageSent, &peer, Some(&road), &metadata, message));
    }
    entry
}

fn header(number: u64) -> Header {
    let stamp = Stamp {
        id: MessageId::of_numbers(1, number),
        source: agent(),
        timestamp: at(0),
        epoch: 1,
        sequence: 1 + number,
    };
    let talk = MessageId::new(format!("talk-{}", number / 10)).unwrap();
    let draft = Draft::new(Destination::new("bob").unwrap(), serde_json::json!({})).conversation(talk);
    draft.stamp(stamp, &Limits::default()).unwrap().header().clone()
}

/// A log of `lines` lines between `log_opened` and `log_closed`, with a checkpoint after every third. The second, and every third
/// after it, is about three messages: a hundred times its number and the next two.
pub(crate) fn small_log(dir: &Path, lines: u64) {
    let (mut log, _) = Log::open(settings(dir), identity(), at(0)).unwrap();
    for line in 0..lines {
        let number = first_message(line);
        let entry = match line % 3 {
            1 => sent_together(number..number + 3),
            _ => sent(number),
        };
        log.append(at(1), &entry).unwrap();
        if line % 3 == 2 {
            log.checkpoint().unwrap();
        }
    }
    log.close(at(2)).unwrap();
}

/// The number of the message that this line of a [`small_log`] is about, or of the first of them.
pub(crate) fn first_message(line: u64) -> u64 {
    if line % 3 == 1 { 100 * line } else { line }
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
