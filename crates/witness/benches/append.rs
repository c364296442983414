//! Events per second into a log on disk with a signed, durable checkpoint every 100 ms: into the log itself, through the
//! front, and back through `verify`.
#![allow(clippy::unwrap_used, reason = "a bench may panic")]
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ifmesh_witness::{
    Entry, Event, Log, LogKeys, Mention, NotRecorded, Policy, Settings, When, Witness, verify,
};
use ifmsg::{AgentId, Identity, MessageDigest, Timestamp};

const TIME: Duration = Duration::from_secs(3);

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    Timestamp::from_unix_millis(since.as_millis().try_into().unwrap())
}

fn entry(peer: &AgentId, number: u64) -> Entry {
    let mut digest = [0xd1; 32];
    digest[..8].copy_from_slice(&number.to_be_bytes());
    Entry::new(Event::IfmessageReceived)
        .peer(peer.clone())
        .transport("webrtc")
        .message(Mention::new(MessageDigest::from_bytes(digest)))
}

fn main() {
    let identity = Identity::from_seed(&[1; 32]);
    let agent = AgentId::new("agent-finance").unwrap();
    let peer = AgentId::new("agent-legal").unwrap();
    let keys = LogKeys::new(agent.clone(), *identity.public_key());

    let dir = tempfile::tempdir_in(".").unwrap();
    let (mut log, _) = Log::open(Settings::new(dir.path(), agent.clone()), identity.clone(), now()).unwrap();
    let start = Instant::now();
    let (mut number, mut ticks) = (0, 0);
    while start.elapsed() < TIME {
        for _ in 0..64 {
            log.append(now(), &entry(&peer, number)).unwrap();
            number += 1;
        }
        ticks += u64::from(log.tick(now()).unwrap().is_some());
    }
    log.close(now()).unwrap();
    report("Log::append", number, start.elapsed());
    let start = Instant::now();
    let verified = verify(dir.path(), &keys).unwrap();
    report("verify", verified.lines, start.elapsed());
    println!(
        "  {} checkpoints, {ticks} of them by the clock",
        verified.checkpoints
    );

    let dir = tempfile::tempdir_in(".").unwrap();
    let settings = Settings::new(dir.path(), agent);
    let (witness, _) = Witness::open(settings, identity, Policy::Required, Arc::new(now)).unwrap();
    let start = Instant::now();
    let (mut number, mut full) = (0, 0u64);
    while start.elapsed() < TIME {
        loop {
            match witness.try_record(entry(&peer, number)) {
                Ok(()) => number += 1,
                Err(NotRecorded::Full) => {
                    full += 1;
                    std::thread::sleep(Duration::from_millis(1));
                    break;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    witness.flush().unwrap();
    report("Witness::try_record, flushed", number, start.elapsed());
    println!("  {full} times the queue was full");
    // As sessions do it: the events of one step together.
    let start = Instant::now();
    let mut number = 0;
    while start.elapsed() < TIME {
        let mut step = (number..number + 64).map(|number| entry(&peer, number)).collect();
        match witness.offer(&mut step, When::Now) {
            Ok(()) => number += 64,
            Err(NotRecorded::Full) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    }
    witness.flush().unwrap();
    report("Witness::offer, flushed", number, start.elapsed());
    witness.close().unwrap();
    verify(dir.path(), &keys).unwrap();
}

fn report(what: &str, count: u64, time: Duration) {
    println!(
        "{what}: {:.0} events/s ({count} in {time:.2?})",
        count as f64 / time.as_secs_f64()
    );
}
