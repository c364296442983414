//! What everything above DDS costs, beside bare `rustdds` with the same samples, QoS and network, in one run:
//! `cargo bench -p ifmesh-transport-dds`. It takes root, for a network of its own.
//!
//! Three pairs of agents, each agent on a runtime of its own with one thread, take turns, so that whatever else this machine does
//! meets all alike; what is printed last are medians.
//!
//! - `rustdds`: the samples of `idl/ifmesh.idl`, with payloads of 300 B. A reader acknowledges what it throws away, so
//!   the receiving program acknowledges each 64 that it has taken, and the sender has no more than 512 under way. Nothing is lost
//!   that way, which is checked.
//! - `frames`: [`DdsTransport`] alone, frames of 300 B on the reliable lane, unsigned.
//! - `messages`: a session over it. Messages of 300 B, signed, verified, in order, acknowledged by the receiving application. A
//!   sender that is fast enough has about 50 of them in one sample, under one signature.
//!
//! The round trip of messages is compared with that of bare `rustdds` and the time that signing and verifying its two messages
//! takes, from a draft to the bytes of a frame and from those to a verified message. That time is taken where it is spent, in the
//! round trips of a program over bare `rustdds` that does so itself, in between of which its thread sleeps; in a loop it is less,
//! which is printed, too. So is the round trip of a program that spins for as long instead: what busy threads cost DDS. What was measured stands in the documentation of the crate.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark"
)]

#[cfg(target_os = "linux")]
#[path = "../tests/common/mod.rs"]
mod common;

#[cfg(target_os = "linux")]
#[allow(dead_code, unreachable_pub, reason = "the types of the IDL, as they are")]
#[path = "../src/wire.rs"]
mod wire;

#[cfg(target_os = "linux")]
fn main() {
    linux::run();
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod linux {
    use std::{net::IpAddr, sync::Arc, time::Duration};

    use bytes::Bytes;
    use ifmesh_transport::{Envelope, IfTransport as _, Lane, Session, SystemClock, TransportEvent};
    use ifmesh_transport_dds::{DdsConfig, DdsTransport};
    use ifmsg::{
        Admission, Admitted, Draft, Header, Host, Identity, MessageId, Now, Permissions, SignedMessage,
        Stamp, Timestamp, TrustPolicy, TrustStore, UnsignedMessage, canonical::Limits,
    };
    use rustdds::{
        DomainParticipant, DomainParticipantBuilder, QosPolicies, QosPolicyBuilder, TopicKind, no_key, policy,
    };
    use serde_json::json;
    use tokio::{
        runtime::Runtime,
        sync::mpsc,
        time::{Instant, timeout},
    };

    use super::{
        common::{agent, id, identity, random, talk},
        wire::{FRAME_TYPE, Frame, FrameCdr, Kind},
    };

    const ROUNDS: usize = 7;
    const BURST: u64 = 64 * 1_000;
    const TRIPS: usize = 1_000;
    /// The text in a message.
    const TEXT: usize = 112;
    /// Of a sample's payload, of a frame, of a message.
    const SIZE: usize = 300;

    pub(super) fn run() {
        let _network = ifmesh_testnet::isolate().unwrap();
        let body = stamp("alice", draft("bob", false), 1).body().len();
        assert_eq!(body, SIZE, "adjust TEXT");
        let (raw, frames, messages) = (raw(), frames(), messages());
        let pairs = [("rustdds", raw), ("frames", frames), ("messages", messages)];
        let mut rates = [(); 3].map(|()| Vec::new());
        let mut trips = [(); 3].map(|()| Vec::new());
        let [mut signed_trips, mut signing, mut signing_hot, mut busy_trips] = [(); 4].map(|()| Vec::new());
        for round in 0..=ROUNDS {
            for (n, (name, pair)) in pairs.iter().enumerate() {
                let rate = BURST as f64 / pair.run(Task::Burst).as_secs_f64();
                let trip = pair.run(Task::Trips);
                println!("{name:9} {rate:8.0} a second, round trip {trip:?}");
                // The first one warms up.
                if round > 0 {
                    rates[n].push(rate);
                    trips[n].push(trip.as_secs_f64() * 1e6);
                }
            }
            let tasks = [
                Task::SignedTrips,
                Task::Signing,
                Task::SigningHot,
                Task::BusyTrips,
            ];
            let [trip, cold, hot, busy] = tasks.map(|task| pairs[0].1.run(task));
            println!(
                "rustdds, and the program signs: round trip {trip:?}, of it signing and verifying {cold:?}; {hot:?} in a loop; \
                 the program spins: round trip {busy:?}"
            );
            if round > 0 {
                signed_trips.push(trip.as_secs_f64() * 1e6);
                signing.push(cold.as_secs_f64() * 1e6);
                signing_hot.push(hot.as_secs_f64() * 1e6);
                busy_trips.push(busy.as_secs_f64() * 1e6);
            }
        }
        let [raw_rate, frame_rate, message_rate] = rates.map(median);
        let [raw_trip, frame_trip, message_trip] = trips.map(median);
        let [signed_trip, signing, signing_hot, busy_trip] =
            [signed_trips, signing, signing_hot, busy_trips].map(median);
        println!(
            "medians of {ROUNDS} rounds, {SIZE} B:\n\
             rustdds  {raw_rate:8.0} samples/s,  round trip {raw_trip:4.0} us; {signed_trip:.0} us where the program signs and verifies\n\
             signing and verifying both messages {signing:.0} us between sleeps, {signing_hot:.0} us in a loop; \
             round trip where the program spins as long {busy_trip:.0} us\n\
             frames   {frame_rate:8.0} frames/s,   round trip {frame_trip:4.0} us; ratio {:.2}, {:+.0} us\n\
             messages {message_rate:8.0} messages/s, round trip {message_trip:4.0} us; ratio {:.2}, {:+.0} us \
             beside rustdds, signing and verifying; {:+.0} us beside the program",
            frame_rate / raw_rate,
            frame_trip - raw_trip,
            message_rate / raw_rate,
            message_trip - raw_trip - signing,
            message_trip - signed_trip,
        );
    }

    fn median(mut figures: Vec<f64>) -> f64 {
        figures.sort_by(f64::total_cmp);
        figures[figures.len() / 2]
    }

    #[derive(Debug, Clone, Copy)]
    enum Task {
        /// How long [`BURST`] take, until the last has arrived.
        Burst,
        /// How long one takes there and back; the median.
        Trips,
        /// The same, and the program signs and verifies. For bare `rustdds`, as what follows.
        SignedTrips,
        /// How long signing and verifying two messages took in the last of these; the median.
        Signing,
        /// The same, in a loop that does nothing else.
        SigningHot,
        /// Round trips of a program that spins for as long as signing and verifying took.
        BusyTrips,
    }

    /// Two agents that do what they are told.
    struct Pair {
        tasks: mpsc::Sender<Task>,
        results: std::sync::Mutex<mpsc::Receiver<Duration>>,
        _runtimes: [Runtime; 2],
    }

    impl Pair {
        fn run(&self, task: Task) -> Duration {
            self.tasks.blocking_send(task).unwrap();
            self.results
                .lock()
                .unwrap()
                .blocking_recv()
                .expect("a result of the pair")
        }

        /// `one` gets each task, and says how long it took.
        fn new<R>(
            runtimes: [Runtime; 2],
            one: impl FnOnce(mpsc::Receiver<Task>, mpsc::Sender<Duration>) -> R,
            other: impl Future<Output = ()> + Send + 'static,
        ) -> Self
        where
            R: Future<Output = ()> + Send + 'static,
        {
            let (tasks, receiver) = mpsc::channel(1);
            let (sender, results) = mpsc::channel(1);
            runtimes[0].spawn(one(receiver, sender));
            runtimes[1].spawn(other);
            Self {
                tasks,
                results: results.into(),
                _runtimes: runtimes,
            }
        }
    }

    fn runtimes() -> [Runtime; 2] {
        [(); 2].map(|()| {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap()
        })
    }

    // ----------------------------------------------------------------------------------------------------- rustdds

    type Writer = no_key::DataWriter<Frame, FrameCdr>;
    type Reader = no_key::SimpleDataReader<Frame, FrameCdr>;

    /// That of inboxes of the reliable lane.
    fn qos(samples: i32, writer: bool) -> QosPolicies {
        let qos = QosPolicyBuilder::new()
            .reliability(policy::Reliability::Reliable {
                max_blocking_time: rustdds::Duration::from_secs(10),
            })
            .durability(policy::Durability::Volatile)
            .history(policy::History::KeepAll)
            .resource_limits(policy::ResourceLimits {
                max_samples: samples,
                max_instances: samples,
                max_samples_per_instance: samples,
            });
        if writer {
            let deadline = rustdds::Duration::from_millis(5);
            return qos.deadline(policy::Deadline(deadline)).build();
        }
        qos.build()
    }

    fn endpoints(participant: &DomainParticipant, to: &str, from: &str) -> (Writer, Reader) {
        let none = QosPolicies::qos_none();
        let topic = |name: &str| {
            let name = format!("ifmesh/inbox/{name}/reliable");
            let topic = participant.create_topic(name, FRAME_TYPE.to_owned(), &none, TopicKind::NoKey);
            topic.unwrap()
        };
        let publisher = participant.create_publisher(&none).unwrap();
        let subscriber = participant.create_subscriber(&none).unwrap();
        let reader = subscriber.create_simple_datareader_no_key(&topic(from), Some(qos(1_024, false)));
        let writer = publisher.create_datawriter_no_key(&topic(to), Some(qos(256, true)));
        (writer.unwrap(), reader.unwrap())
    }

    async fn next(reader: &Reader) -> Frame {
        std::future::poll_fn(|context| {
            use std::task::Poll;
            if let Ok(Some(sample)) = reader.try_take_one() {
                return Poll::Ready(sample.into_value());
            }
            reader.set_waker(Some(context.waker().clone()));
            match reader.try_take_one() {
                Ok(Some(sample)) => Poll::Ready(sample.into_value()),
                _ => Poll::Pending,
            }
        })
        .await
    }

    /// What a raw sample is for, in its field `link`.
    const FIND: u64 = 0;
    const ECHO: u64 = 1;
    const COUNT: u64 = 2;
    const SIGNED: u64 = 3;
    /// With the nanoseconds that the receiver spins for as its number.
    const BUSY: u64 = 4;
    /// Samples that are acknowledged together, and that may be under way.
    const ACK_EVERY: u64 = 64;
    const WINDOW: u64 = 512;

    fn sample(names: [&Arc<str>; 2], link: u64, number: u64, payload: Bytes) -> Frame {
        Frame {
            source: Arc::clone(names[0]),
            destination: Arc::clone(names[1]),
            kind: Kind::Data,
            link,
            number,
            payload,
        }
    }

    fn raw() -> Pair {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let participant = || {
            let builder = DomainParticipantBuilder::new(9).with_only_networks([loopback]);
            builder.build().unwrap()
        };
        let (here, there) = (participant(), participant());
        let (to, back) = endpoints(&here, "there", "here");
        let (answers, questions) = endpoints(&there, "here", "there");
        let one = async move |mut tasks: mpsc::Receiver<Task>, results: mpsc::Sender<Duration>| {
            let _here = here;
            let [alice, bob]: [Arc<str>; 2] = ["alice".into(), "bob".into()];
            let payload = Bytes::from(vec![7; SIZE]);
            let question = |link, number| sample([&alice, &bob], link, number, payload.clone());
            // Until both ways are matched.
            loop {
                to.async_write(question(FIND, 0), None).await.unwrap();
                if timeout(Duration::from_millis(50), next(&back)).await.is_ok() {
                    break;
                }
            }
            let expect = async |link, number| {
                loop {
                    let answer = next(&back).await;
                    if answer.link != FIND {
                        assert_eq!((answer.link, answer.number), (link, number));
                        return answer.payload;
                    }
                }
            };
            let mut program = Program::new("alice", "bob");
            let mut signing = Duration::ZERO;
            while let Some(task) = tasks.recv().await {
                let took = match task {
                    Task::Burst => {
                        let started = Instant::now();
                        let mut acknowledged = 0;
                        for number in 1..=BURST {
                            while number > acknowledged + WINDOW {
                                acknowledged += ACK_EVERY;
                                expect(COUNT, acknowledged).await;
                            }
                            to.async_write(question(COUNT, number), None).await.unwrap();
                        }
                        while acknowledged < BURST {
                            acknowledged += ACK_EVERY;
                            expect(COUNT, acknowledged).await;
                        }
                        started.elapsed()
                    }
                    Task::Trips => {
                        let mut trips = Vec::new();
                        for number in 0..TRIPS as u64 {
                            let started = Instant::now();
                            to.async_write(question(ECHO, number), None).await.unwrap();
                            expect(ECHO, number).await;
                            trips.push(started.elapsed());
                        }
                        middle(trips)
                    }
                    Task::SignedTrips => {
                        let (mut trips, mut signings) = (Vec::new(), Vec::new());
                        for number in 0..TRIPS as u64 {
                            let started = Instant::now();
                            let signed = program.sign();
                            let signed_at = started.elapsed();
                            let question = sample([&alice, &bob], SIGNED, number, signed);
                            to.async_write(question, None).await.unwrap();
                            let answer = expect(SIGNED, number).await;
                            let answered_at = started.elapsed();
                            program.verify(&answer);
                            trips.push(started.elapsed());
                            signings.push(signed_at + started.elapsed() - answered_at);
                        }
                        // The other side does as much.
                        signing = 2 * middle(signings);
                        middle(trips)
                    }
                    Task::BusyTrips => {
                        // Each side spins once before it sends.
                        let spin = signing / 2;
                        let payload = Bytes::from(vec![7; program.sign().len()]);
                        let mut trips = Vec::new();
                        for _ in 0..TRIPS {
                            let started = Instant::now();
                            spin_for(spin);
                            let number = u64::try_from(spin.as_nanos()).unwrap();
                            let question = sample([&alice, &bob], BUSY, number, payload.clone());
                            to.async_write(question, None).await.unwrap();
                            expect(BUSY, number).await;
                            trips.push(started.elapsed());
                        }
                        middle(trips)
                    }
                    Task::Signing => signing,
                    Task::SigningHot => {
                        let (mut one, mut other) =
                            (Program::new("carol", "dave"), Program::new("dave", "carol"));
                        let mut signings = Vec::new();
                        for _ in 0..TRIPS {
                            let started = Instant::now();
                            other.verify(&one.sign());
                            signings.push(started.elapsed());
                        }
                        2 * middle(signings)
                    }
                };
                results.send(took).await.unwrap();
            }
        };
        let other = async move {
            let _there = there;
            let [alice, bob]: [Arc<str>; 2] = ["alice".into(), "bob".into()];
            let mut program = Program::new("bob", "alice");
            let mut expected = 1;
            loop {
                let question = next(&questions).await;
                if question.link == COUNT {
                    assert_eq!(question.number, expected, "a sample was lost");
                    expected += 1;
                    if question.number % ACK_EVERY != 0 {
                        continue;
                    }
                    if question.number == BURST {
                        expected = 1;
                    }
                }
                if question.link == BUSY {
                    spin_for(Duration::from_nanos(question.number));
                }
                let mut answer = question.payload;
                if question.link == SIGNED {
                    program.verify(&answer);
                    answer = program.sign();
                }
                let answer = sample([&bob, &alice], question.link, question.number, answer);
                answers.async_write(answer, None).await.unwrap();
            }
        };
        Pair::new(runtimes(), one, other)
    }

    // ------------------------------------------------------------------------------------------------------ frames

    fn start(runtime: &Runtime, name: &str, domain: u16) -> Arc<DdsTransport> {
        let mut config = DdsConfig::default();
        config.domain = domain;
        let random = Box::new(random(u64::from(domain) * 10 + name.len() as u64));
        let starting = DdsTransport::start(config, agent(name, 1), Arc::new(SystemClock), random);
        runtime.block_on(starting).unwrap()
    }

    /// The next frame's length.
    async fn next_frame(transport: &DdsTransport) -> usize {
        loop {
            if let TransportEvent::Frame { frame, .. } = transport.recv().await.unwrap() {
                return frame.len();
            }
        }
    }

    fn frames() -> Pair {
        let runtimes = runtimes();
        let (alice, bob) = (start(&runtimes[0], "alice", 1), start(&runtimes[1], "bob", 1));
        let one = async move |mut tasks: mpsc::Receiver<Task>, results: mpsc::Sender<Duration>| {
            let (counted, echoed) = (Bytes::from(vec![7; SIZE]), Bytes::from(vec![7; SIZE - 1]));
            let send = async |frame: &Bytes| {
                let envelope = Envelope::new(id("bob"), Lane::Reliable, frame.clone());
                alice.send(envelope).await.unwrap();
            };
            while !matches!(alice.recv().await.unwrap(), TransportEvent::LinkUp { .. }) {}
            while let Some(task) = tasks.recv().await {
                let took = match task {
                    Task::SignedTrips | Task::Signing | Task::SigningHot | Task::BusyTrips => {
                        unreachable!("of bare rustdds alone")
                    }
                    Task::Burst => {
                        let started = Instant::now();
                        for _ in 0..BURST {
                            send(&counted).await;
                        }
                        // All have arrived.
                        next_frame(&alice).await;
                        started.elapsed()
                    }
                    Task::Trips => {
                        let mut trips = Vec::new();
                        for _ in 0..TRIPS {
                            let started = Instant::now();
                            send(&echoed).await;
                            next_frame(&alice).await;
                            trips.push(started.elapsed());
                        }
                        middle(trips)
                    }
                };
                results.send(took).await.unwrap();
            }
        };
        let other = async move {
            let answer = Bytes::from(vec![7; SIZE]);
            let mut came = 0;
            loop {
                if next_frame(&bob).await == SIZE {
                    came += 1;
                    if came % BURST != 0 {
                        continue;
                    }
                }
                let envelope = Envelope::new(id("alice"), Lane::Reliable, answer.clone());
                bob.send(envelope).await.unwrap();
            }
        };
        Pair::new(runtimes, one, other)
    }

    // ---------------------------------------------------------------------------------------------------- messages

    /// With a body of [`SIZE`] bytes, give or take the digits of its numbers.
    fn draft(to: &str, echo: bool) -> Draft {
        let payload = json!({ "echo": echo, "text": "x".repeat(TEXT + usize::from(echo)) });
        Draft::new(to.try_into().unwrap(), payload)
    }

    fn stamp(source: &str, draft: Draft, sequence: u64) -> UnsignedMessage {
        let stamp = Stamp {
            id: MessageId::new("4d8a17bb-123456").unwrap(),
            source: id(source),
            timestamp: wall(),
            epoch: 1,
            sequence,
        };
        draft.stamp(stamp, &Limits::default()).unwrap()
    }

    fn messages() -> Pair {
        let runtimes = runtimes();
        let start = |number: usize, name: &str| {
            let transport = start(&runtimes[number], name, 2);
            let _inside = runtimes[number].enter();
            talk::session(transport, name, 1)
        };
        let (alice, bob): (Arc<Session>, Arc<Session>) = (start(0, "alice"), start(1, "bob"));
        let one = async move |mut tasks: mpsc::Receiver<Task>, results: mpsc::Sender<Duration>| {
            let (counted, echoed) = (draft("bob", false), draft("bob", true));
            while let Some(task) = tasks.recv().await {
                let took = match task {
                    Task::SignedTrips | Task::Signing | Task::SigningHot | Task::BusyTrips => {
                        unreachable!("of bare rustdds alone")
                    }
                    Task::Burst => {
                        let started = Instant::now();
                        let mut last = None;
                        for _ in 0..BURST {
                            last = Some(alice.send(counted.clone()).await.unwrap());
                        }
                        last.unwrap().acknowledged().await.unwrap();
                        started.elapsed()
                    }
                    Task::Trips => {
                        let mut trips = Vec::new();
                        for _ in 0..TRIPS {
                            let started = Instant::now();
                            alice.send(echoed.clone()).await.unwrap();
                            alice.recv().await.unwrap();
                            trips.push(started.elapsed());
                        }
                        middle(trips)
                    }
                };
                results.send(took).await.unwrap();
            }
        };
        let other = async move {
            let answer = draft("alice", false);
            loop {
                let message = bob.recv().await.unwrap();
                if message.payload()["echo"] == true {
                    bob.send(answer.clone()).await.unwrap();
                }
            }
        };
        Pair::new(runtimes, one, other)
    }

    fn middle(mut trips: Vec<Duration>) -> Duration {
        trips.sort_unstable();
        trips[trips.len() / 2]
    }

    fn spin_for(time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    }

    /// What signs and verifies messages by itself, without a session.
    struct Program {
        identity: Identity,
        name: &'static str,
        peer: &'static str,
        gate: Admission,
        sequence: u64,
    }

    impl Program {
        fn new(name: &'static str, peer: &'static str) -> Self {
            let mut trust = TrustStore::new(TrustPolicy::Allowlist);
            let key = *identity(peer).public_key();
            trust.bind(id(peer), key, Permissions::ALL).unwrap();
            Self {
                identity: identity(name),
                name,
                peer,
                gate: Admission::new(id(name), trust, Duration::from_secs(600)),
                sequence: 0,
            }
        }

        fn sign(&mut self) -> Bytes {
            self.sequence += 1;
            let message = stamp(self.name, draft(self.peer, false), self.sequence);
            ifmsg::encode_binary(&[SignedMessage::sign(&self.identity, message)]).unwrap()
        }

        fn verify(&mut self, frame: &Bytes) {
            let flight = ifmsg::decode(frame, &Limits::default()).unwrap();
            let now = Now {
                wall: wall(),
                elapsed: Duration::ZERO,
            };
            let admitted = self.gate.admit(&flight, now, &Open);
            assert!(matches!(admitted[..], [Admitted::Message { .. }]));
        }
    }

    fn wall() -> Timestamp {
        Timestamp::from_unix_millis(1_800_000_000_000)
    }

    struct Open;

    impl Host for Open {
        fn has_room(&self, _: &Header) -> bool {
            true
        }

        fn proves_liveness(&self, _: &SignedMessage) -> bool {
            true
        }
    }
}
