//! A stranger on the same domain, with a DDS participant of its own: garbage, false presence, replays, floods, and a reader
//! that acknowledges nothing. Falsified by a frame of the stranger's that arrives, a true link that goes down or stands
//! still, or memory that grows with what the stranger says.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

use common::{talk::*, *};
use ifmesh_transport::{DownReason, Envelope, IfTransport, Lane, TransportEvent};
use ifmesh_transport_dds::DdsTransport;
use rustdds::{
    DomainParticipant, DomainParticipantBuilder, QosPolicies, QosPolicyBuilder, RepresentationIdentifier,
    TopicKind, no_key, policy, with_key,
};
use tokio::time::{Instant, timeout};

/// The bytes of a sample, whatever they are.
#[derive(Debug, Clone)]
struct Raw(Vec<u8>);

impl rustdds::Keyed for Raw {
    type K = u32;

    fn key(&self) -> u32 {
        0
    }
}

struct AsIs;

#[derive(Debug, thiserror::Error)]
#[error("never")]
struct Never;

impl no_key::SerializerAdapter<Raw> for AsIs {
    type Error = Never;

    fn output_encoding() -> RepresentationIdentifier {
        RepresentationIdentifier::CDR_LE
    }

    fn to_bytes(value: &Raw) -> Result<bytes::Bytes, Never> {
        Ok(value.0.clone().into())
    }
}

impl with_key::SerializerAdapter<Raw> for AsIs {
    fn key_to_bytes(_: &u32) -> Result<bytes::Bytes, Never> {
        Ok(bytes::Bytes::new())
    }
}

impl no_key::DeserializerAdapter<Raw> for AsIs {
    type Error = Never;
    type Decoded = Raw;

    fn supported_encodings() -> &'static [RepresentationIdentifier] {
        &[RepresentationIdentifier::CDR_LE]
    }

    fn transform_decoded(decoded: Raw) -> Raw {
        decoded
    }
}

#[derive(Clone)]
struct Decoder;

impl no_key::Decode<'_, Raw> for Decoder {
    type Error = Never;

    fn decode_bytes(self, bytes: &[u8], _: RepresentationIdentifier) -> Result<Raw, Never> {
        Ok(Raw(bytes.to_vec()))
    }
}

impl no_key::DefaultDecoder<Raw> for AsIs {
    type Decoder = Decoder;
    const DECODER: Decoder = Decoder;
}

fn participant() -> DomainParticipant {
    let builder = DomainParticipantBuilder::new(0);
    let loopback: std::net::IpAddr = "127.0.0.1".parse().unwrap();
    builder.with_only_networks([loopback]).build().unwrap()
}

fn qos(reliable: bool) -> QosPolicies {
    let reliability = if reliable {
        policy::Reliability::Reliable {
            max_blocking_time: rustdds::Duration::from_millis(10),
        }
    } else {
        policy::Reliability::BestEffort
    };
    QosPolicyBuilder::new()
        .reliability(reliability)
        .durability(policy::Durability::Volatile)
        .history(policy::History::KeepAll)
        .resource_limits(policy::ResourceLimits {
            max_samples: 8_192,
            max_instances: 8_192,
            max_samples_per_instance: 8_192,
        })
        .build()
}

/// The inbox topics that discovery shows, once there are so many.
fn inboxes(participant: &DomainParticipant, many: usize) -> Vec<String> {
    let deadline = Instant::now() + SOON;
    loop {
        let mut names: Vec<String> = participant
            .discovered_topics()
            .iter()
            .map(|topic| topic.topic_name().clone())
            .filter(|name| name.starts_with("ifmesh/inbox/"))
            .collect();
        names.sort();
        names.dedup();
        if names.len() >= many {
            return names;
        }
        assert!(Instant::now() < deadline, "{names:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn writer(participant: &DomainParticipant, topic: &str, reliable: bool) -> no_key::DataWriter<Raw, AsIs> {
    let qos = qos(reliable);
    let topic = participant.create_topic(
        topic.to_owned(),
        "ifmesh::Frame".to_owned(),
        &qos,
        TopicKind::NoKey,
    );
    let publisher = participant.create_publisher(&qos).unwrap();
    publisher
        .create_datawriter_no_key(&topic.unwrap(), Some(qos))
        .unwrap()
}

fn reader(
    participant: &DomainParticipant,
    topic: &str,
    reliable: bool,
) -> no_key::SimpleDataReader<Raw, AsIs> {
    let qos = qos(reliable);
    let topic = participant.create_topic(
        topic.to_owned(),
        "ifmesh::Frame".to_owned(),
        &qos,
        TopicKind::NoKey,
    );
    let subscriber = participant.create_subscriber(&qos).unwrap();
    subscriber
        .create_simple_datareader_no_key(&topic.unwrap(), Some(qos))
        .unwrap()
}

/// A stranger at work on a thread of its own, on the host, until it is dropped. It writes no more samples than it is told to, so that
/// how much it is beside each message does not depend on the machine.
struct Stranger {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    most: Arc<AtomicU64>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Stranger {
    /// `work` is called again and again; it returns how many samples it wrote.
    fn start<W: FnMut() -> u64>(net: &Net, setup: impl FnOnce() -> W + Send + 'static) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let most = Arc::new(AtomicU64::new(0));
        let (stopped, counted, told) = (Arc::clone(&stop), Arc::clone(&sent), Arc::clone(&most));
        let _here = net.enter(0);
        let thread = thread::spawn(move || {
            let mut work = setup();
            while !stopped.load(Ordering::Relaxed) {
                if counted.load(Ordering::Relaxed) < told.load(Ordering::Relaxed) {
                    counted.fetch_add(work(), Ordering::Relaxed);
                } else {
                    thread::sleep(Duration::from_millis(1));
                }
            }
        });
        Self {
            stop,
            sent,
            most,
            thread: Some(thread),
        }
    }

    fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Lets it write so many more samples.
    fn go_on(&self, samples: u64) {
        self.most.fetch_add(samples, Ordering::Relaxed);
    }

    /// Until it has written all that it may.
    async fn done(&self) {
        timeout(3 * SOON, async {
            while self.sent() < self.most.load(Ordering::Relaxed) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        })
        .await
        .expect("a stranger at work");
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn linked(processes: &mut Processes) -> (Arc<DdsTransport>, Arc<DdsTransport>) {
    let alice = processes.start(0, "alice", 1).await;
    let bob = processes.start(0, "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    (alice, bob)
}

/// Exchanges so many messages each way, beside each of which the stranger writes so many samples. Each message arrives once,
/// and nothing else does.
async fn talk_beside(
    stranger: &Stranger,
    samples: u64,
    alice: &Arc<DdsTransport>,
    bob: &Arc<DdsTransport>,
    messages: u64,
) {
    let alice = session(Arc::clone(alice), "alice", 1);
    let bob = session(Arc::clone(bob), "bob", 1);
    for round in 0..messages {
        stranger.go_on(samples);
        tokio::join!(
            send_all(&alice, "bob", round..round + 1),
            receive_all(&bob, round..round + 1),
            send_all(&bob, "alice", round..round + 1),
            receive_all(&alice, round..round + 1),
        );
        stranger.done().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_garbage_changes_nothing() {
    let mut processes = Processes::new(1);
    let alice = processes.start(0, "alice", 1).await;
    let bob = processes.start(0, "bob", 1).await;
    let before = resident_kb();
    let stranger = Stranger::start(&processes.net, || {
        let participant = participant();
        let topics = inboxes(&participant, 4);
        let mut writers: Vec<_> = topics
            .iter()
            .map(|topic| writer(&participant, topic, topic.ends_with("/reliable")))
            .collect();
        writers.push(writer(&participant, "ifmesh/bus/status", false));
        writers.push(writer(&participant, "ifmesh/presence", true));
        let mut state = 1u64;
        move || {
            // A linear congruential generator's upper bytes, of many lengths.
            let mut next = || {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                state >> 33
            };
            let _alive = &participant;
            let length = (next() % 2_000) as usize;
            let noise = Raw((0..length).map(|_| next() as u8).collect());
            // Those that look like frames reach further.
            let plausible = Raw(frame(0, next(), next() % 8, &noise.0));
            let statement = Raw(frame(1, 0, 0, b"{\"type\":\"hello\"}"));
            let mut sent = 0;
            for writer in &writers {
                for sample in [&noise, &plausible, &statement] {
                    sent += u64::from(writer.write(sample.clone(), None).is_ok());
                }
            }
            sent
        }
    });
    // While the link comes up, too.
    stranger.go_on(1_000);
    talk_beside(&stranger, 1_000, &alice, &bob, 40).await;
    let grown = resident_kb().saturating_sub(before);
    let (sent, metrics) = (stranger.sent(), alice.metrics());
    eprintln!("{sent} samples of garbage; {grown} kB more; {metrics:?}");
    // The rest was pushed out of caches, or meant for bob.
    assert!(metrics.stray_samples > 1_000 && metrics.unread > 1_000);
    // The stranger's own buffers, three participants and their caches are in it.
    assert!(grown < 150_000, "{grown} kB");
}

/// Frame, as `idl/ifmesh.idl` has it, little endian.
fn frame(kind: u8, link: u64, number: u64, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let align = |bytes: &mut Vec<u8>, to: usize| bytes.resize(bytes.len().next_multiple_of(to), 0);
    for text in ["bob", "alice"] {
        align(&mut bytes, 4);
        bytes.extend((text.len() as u32 + 1).to_le_bytes());
        bytes.extend(text.as_bytes());
        bytes.push(0);
    }
    bytes.push(kind);
    align(&mut bytes, 8);
    bytes.extend(link.to_le_bytes());
    bytes.extend(number.to_le_bytes());
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(payload);
    bytes
}

/// The stranger listens to everything and says all of it again, from an endpoint of its own. Falsified by one frame that
/// arrives twice, or by a link that a replayed hello or heartbeat disturbs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_overheard_and_said_again_counts_for_nothing() {
    let mut processes = Processes::new(1);
    let alice = processes.start(0, "alice", 1).await;
    let stranger = Stranger::start(&processes.net, || {
        let participant = participant();
        // Alice's inbox, before bob comes: his hellos are overheard too.
        let topics = inboxes(&participant, 2);
        let pairs: Vec<_> = topics
            .iter()
            .map(|topic| {
                let reliable = topic.ends_with("/reliable");
                (
                    reader(&participant, topic, reliable),
                    writer(&participant, topic, reliable),
                )
            })
            .collect();
        let mut heard: Vec<(usize, Raw)> = Vec::new();
        move || {
            let _alive = &participant;
            let mut sent = 0;
            for (number, (reader, writer)) in pairs.iter().enumerate() {
                while let Ok(Some(sample)) = reader.try_take_one() {
                    let raw = sample.into_value();
                    // Its own words come back to it.
                    if heard.len() < 2_000 && !heard.iter().any(|(_, known)| known.0 == raw.0) {
                        heard.push((number, raw.clone()));
                        sent += u64::from(writer.write(raw, None).is_ok());
                    }
                }
            }
            // And all of it again.
            for (number, raw) in &heard {
                sent += u64::from(pairs[*number].1.write(raw.clone(), None).is_ok());
            }
            if sent == 0 {
                thread::sleep(Duration::from_millis(1));
            }
            sent
        }
    });
    // Hellos are said again as soon as they are heard.
    stranger.go_on(1_000);
    // The stranger is there first.
    timeout(SOON, async {
        while alice.metrics().participants == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .unwrap();
    let bob = processes.start(0, "bob", 1).await;
    talk_beside(&stranger, 100, &alice, &bob, 40).await;
    eprintln!("{} replays; {:?}", stranger.sent(), alice.metrics());
    // Those that are no statements, which are dropped by their contents before anybody asks who wrote them.
    assert!(alice.metrics().stray_samples > 1_000);
    assert_eq!(alice.metrics().links_up, 1);
}

/// A stranger's process reads every inbox, reliably, and stops: it acknowledges nothing more, ever. DDS writers wait for such
/// a reader. Falsified by frames that no longer arrive at all.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_reader_that_acknowledges_nothing_slows_and_does_not_stop() {
    let mut processes = Processes::new(1);
    let (alice, bob) = linked(&mut processes).await;
    let stranger = Child::start(&processes.net.hosts[0], "silent-reader");
    assert_eq!(stranger.said(), "reading");
    let pid = nix::unistd::Pid::from_raw(stranger.id() as i32);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGSTOP).unwrap();

    let (mut arrived, mut refused, mut down) = (0, false, 0);
    let started = Instant::now();
    let sending = async {
        for number in 0.. {
            let envelope = Envelope::new(id("bob"), Lane::Reliable, format!("{number}"));
            if alice.send(envelope).await.is_err() {
                // The link is being made anew.
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    let watching = async {
        loop {
            match event(&*alice).await {
                TransportEvent::Refused { reason, .. } => refused |= reason == "inbox-stalled",
                TransportEvent::LinkDown { reason, .. } => {
                    assert_eq!(reason, DownReason::Network);
                    down += 1;
                }
                _ => {}
            }
        }
    };
    let receiving = async {
        // Far more than a writer keeps for those who have not acknowledged.
        while arrived < 1_000 {
            if let TransportEvent::Frame { .. } = event(&*bob).await {
                arrived += 1;
            }
        }
    };
    tokio::select! {
        () = sending => {}
        () = watching => {}
        done = timeout(3 * SOON, receiving) => done.expect("a thousand frames in time"),
    }
    eprintln!(
        "1,000 frames in {:?}; the link was made anew {down} times",
        started.elapsed()
    );
    assert!(refused, "nothing was said of the stalled inbox");
    drop(stranger);
}

/// Not a test of its own: what another starts as a process.
#[test]
fn child_main() {
    common::child_main(|_| {
        let participant = participant();
        let topics = inboxes(&participant, 4);
        let _readers: Vec<_> = topics
            .iter()
            .map(|topic| reader(&participant, topic, topic.ends_with("/reliable")))
            .collect();
        // Until the writers know of them.
        thread::sleep(Duration::from_secs(1));
        say("reading");
        loop {
            thread::park();
        }
    });
}
