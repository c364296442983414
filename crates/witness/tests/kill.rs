//! A writer that is killed (SIGKILL) at a moment of nobody's choosing loses nothing that it said was durable.
//!
//! Falsified by a kill after which the log does not open, does not verify, lacks an acknowledged line, or does not begin with what an
//! acknowledged checkpoint covers. The writer is this program itself, started again with a variable set: every other time the log
//! alone, and every other time the front with its thread, which writes much at once.
#![cfg(unix)]
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::{
    collections::hash_map::RandomState,
    env,
    hash::{BuildHasher as _, Hasher as _},
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use common::*;
use ifmesh_witness::{
    Entry, Event, Log, MAX_METADATA_TEXT, NotRecorded, Policy, Settings, VerifyError, When, Witness, read,
    verify, verify_against,
};
use ifmsg::canonical;

const VARIABLE: &str = "IFMESH_WITNESS_KILLED_WRITER";
const FRONT: &str = "IFMESH_WITNESS_KILLED_FRONT";

/// How many kills; `cargo xtask kills` does 1,000.
fn kills() -> u64 {
    let wanted = env::var("IFMESH_WITNESS_KILLS").ok();
    wanted.map_or(30, |text| text.parse().unwrap())
}

/// Up to 4 ms, of nobody's choosing.
fn moment() -> Duration {
    Duration::from_micros(RandomState::new().build_hasher().finish() % 4_000)
}

/// Not a test of its own: what the child process runs, until it is killed.
#[test]
fn writer() {
    let Some(dir) = env::var_os(VARIABLE).map(PathBuf::from) else {
        return;
    };
    if env::var_os(FRONT).is_some() {
        write_by_the_front(&dir);
    } else {
        write_by_the_log(&dir);
    }
}

fn say_note(note: &str) {
    let mut quoted = Vec::new();
    canonical::write_string(&mut quoted, note);
    println!("note {}", String::from_utf8(quoted).unwrap());
}

/// What is written is safe from a kill as soon as the front says that it is written; flushed, it is under a checkpoint as well.
fn write_by_the_front(dir: &Path) {
    let settings = Settings {
        segment_bytes: 4_000_000,
        ..settings(dir)
    };
    let time = AtomicI64::new(0);
    let clock = move || at(time.fetch_add(1, Ordering::Relaxed));
    // Before what this life records is its own `log_opened`.
    let before = events(dir) + 1;
    let (witness, _) = Witness::open(settings, identity(), Policy::Required, Arc::new(clock)).unwrap();
    for step in 0u64.. {
        let long = |number| sent(number).with("detail", "x".repeat(MAX_METADATA_TEXT));
        let number = step * 1_000;
        let mut entries: Vec<Entry> = (0..300).map(|more| long(number + more)).collect();
        entries.extend((0..10).map(|line| sent_together(number + line * 60..number + (line + 1) * 60)));
        // Of what may wait a little, only what the front says to be written is safe.
        let when = if step % 2 == 0 { When::Now } else { When::Soon };
        while let Err(NotRecorded::Full) = witness.offer(&mut entries, when) {
            std::thread::yield_now();
        }
        println!("durable {}", before + witness.progress().1);
        if step % 3 == 2 {
            let checkpoint = witness.flush().unwrap();
            say_note(checkpoint.note());
            println!("durable {}", before + (step + 1) * 900);
        }
    }
}

fn write_by_the_log(dir: &Path) {
    let settings = Settings {
        segment_bytes: 20_000,
        ..settings(dir)
    };
    let mut durable = events(dir) + 1;
    let (mut log, _) = Log::open(settings, identity(), at(0)).unwrap();
    for number in 0u64.. {
        let entry = match number % 7 {
            0 => Entry::new(Event::KeyPinned),
            5 => sent_together(number * 100..number * 100 + 20),
            _ => sent(number),
        };
        durable += entry.events();
        log.append(at(1), &entry).unwrap();
        if number % 7 == 3 {
            say_note(log.checkpoint().unwrap().note());
        }
        if matches!(number % 7, 0 | 3) {
            println!("durable {durable}");
        }
    }
}

/// How many events a log in good order tells of; none, if there is no log.
fn events(dir: &Path) -> u64 {
    let mut events = 0;
    match read(dir, &keys(), |_| events += 1) {
        Ok(_) | Err(VerifyError::NoLog(_)) => events,
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn nothing_durable_is_lost_to_a_kill() {
    let mut dir = tempfile::tempdir().unwrap();
    let (mut torn, mut all, mut acknowledged, mut held) = (0, 0, 0, None);
    let kills = kills();
    for kill in 0..kills {
        // Each opening reads the whole log.
        if kill % 25 == 24 {
            dir = tempfile::tempdir().unwrap();
            (all, acknowledged, held) = (all + acknowledged, 0, None);
        }
        let mut child = Command::new(env::current_exe().unwrap())
            .args(["writer", "--exact", "--nocapture", "--test-threads=1"])
            .env(VARIABLE, dir.path())
            .envs((kill % 2 == 1).then_some((FRONT, "")))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        // Each child gets another number of lines into its life.
        let mut wanted = 1 + kill * 37 % if kill % 2 == 1 { 7 } else { 29 };
        let mut line = String::new();
        let mut killed = false;
        // After the kill, what it had said and we had not read still counts.
        while out.read_line(&mut line).unwrap() > 0 {
            if line.ends_with('\n') {
                if let Some(events) = line.trim_end().strip_prefix("durable ") {
                    acknowledged = acknowledged.max(events.parse::<u64>().unwrap());
                    wanted = wanted.saturating_sub(1);
                } else if let Some(note) = line.trim_end().strip_prefix("note ") {
                    held = Some(serde_json::from_str::<String>(note).unwrap());
                }
            }
            line.clear();
            if wanted == 0 && !killed {
                // It goes on writing meanwhile: the kill hits whatever it is at then.
                std::thread::sleep(moment());
                child.kill().unwrap();
                killed = true;
            }
        }
        assert!(killed, "the writer ended by itself");
        child.wait().unwrap();

        let (log, recovered) = Log::open(settings(dir.path()), identity(), at(2)).unwrap();
        torn += u64::from(recovered.torn_line + recovered.torn_checkpoint > 0);
        drop(log);
        // With the opening just now.
        let found = events(dir.path()) - 1;
        assert!(found >= acknowledged, "{found} of {acknowledged} acknowledged");
        assert_eq!(verify(dir.path(), &keys()).unwrap().lines, recovered.lines + 1);
        if let Some(note) = &held {
            verify_against(dir.path(), &keys(), [note.as_str()]).unwrap();
        }
    }
    all += acknowledged;
    println!("{kills} kills, {all} events acknowledged, {torn} torn ends mended");
}
