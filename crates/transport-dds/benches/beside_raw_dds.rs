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
//! The round trip of messages is compared with that of bare samples and what two signatures by `ed25519-dalek` and two verifications
//! by its `verify_strict` take. This is measured where it is spent, in the round trips of a program over bare `rustdds` that signs
//! what it sends and verifies what it gets, and does nothing else: what anybody would have to do.
//!
//! Four threads take part in a round trip: that of each agent's program, and that of its `rustdds`. Which of them share a core decides
//! more than anything else that is measured here, and left alone, Linux decides it anew every second or so, for each pair otherwise.
//! So round trips are measured with each agent on a core of its own, with the programs on one core and `rustdds` on
//! another, and as it comes.
//!
//! What was measured stands in the documentation of the crate.
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
    use std::{collections::BTreeSet, fmt, fs, net::IpAddr, sync::Arc, time::Duration};

    use bytes::Bytes;
    use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
    use ifmesh_transport::{Envelope, IfTransport as _, Lane, Session, SystemClock, TransportEvent};
    use ifmesh_transport_dds::{DdsConfig, DdsTransport};
    use ifmsg::{Draft, MessageId, Stamp, Timestamp, UnsignedMessage, canonical::Limits};
    use nix::{
        sched::{CpuSet, sched_getaffinity, sched_setaffinity},
        unistd::Pid,
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
        common::{agent, id, random, talk},
        wire::{FRAME_TYPE, Frame, FrameCdr, Kind},
    };

    /// Of bursts, and what is in one.
    const ROUNDS: usize = 7;
    const BURST: u64 = 64 * 1_000;
    /// Of round trips for each placement, what is in one, and how many of them come first and do not count: until caches and the
    /// scheduler have settled.
    const TURNS: usize = 10;
    const TRIPS: usize = 2_000;
    const SETTLE: usize = 500;
    /// The text in a message.
    const TEXT: usize = 112;
    /// Of a sample's payload, of a frame, of a message.
    const SIZE: usize = 300;

    pub(super) fn run() {
        let _network = ifmesh_testnet::isolate().unwrap();
        let body = stamp("alice", draft("bob", false), 1).body().len();
        assert_eq!(body, SIZE, "adjust TEXT");
        let (raw, frames, messages) = (raw(), frames(), messages());
        let pairs = [&raw, &frames, &messages];
        let mut rates = [(); 3].map(|()| Vec::new());
        // The first of each warms up.
        for round in 0..=ROUNDS {
            let of_round = pairs.map(|pair| BURST as f64 / pair.run(Task::Burst).as_secs_f64());
            println!(
                "a second: rustdds {:.0}, frames {:.0}, messages {:.0}",
                of_round[0], of_round[1], of_round[2]
            );
            if round > 0 {
                rates
                    .iter_mut()
                    .zip(of_round)
                    .for_each(|(rates, rate)| rates.push(rate));
            }
        }
        let [raw_rate, frame_rate, message_rate] = rates.map(median);
        println!(
            "{SIZE} B, medians of {ROUNDS} rounds of {BURST}: rustdds {raw_rate:.0} a second, frames {:.2} of it, messages {:.2}",
            frame_rate / raw_rate,
            message_rate / raw_rate,
        );
        println!("round trips, medians of {TURNS} turns of {TRIPS}, differences with their quartiles:");
        let placements: &[Placement] = match cores().len() {
            1 => &[Placement::AsItComes],
            _ => &[Placement::ByAgent, Placement::ByKind, Placement::AsItComes],
        };
        for placement in placements {
            pairs.iter().for_each(|pair| pair.place(*placement));
            round_trips(*placement, pairs);
        }
    }

    fn round_trips(placement: Placement, [raw, frames, messages]: [&Pair; 3]) {
        let mut trips = [(); 5].map(|()| Vec::new());
        for _ in 0..TURNS {
            let run = |pair: &Pair, task| pair.run(task).as_secs_f64() * 1e6;
            let of_turn = [
                run(raw, Task::Trips),
                run(frames, Task::Trips),
                run(raw, Task::SignedTrips),
                run(raw, Task::Signing),
                run(messages, Task::Trips),
            ];
            trips
                .iter_mut()
                .zip(of_turn)
                .for_each(|(trips, trip)| trips.push(trip));
        }
        // Of what was measured one after the other.
        let beside = |one: usize, others: &[usize]| {
            let difference =
                |turn: usize| trips[one][turn] - others.iter().map(|other| trips[*other][turn]).sum::<f64>();
            let mut differences: Vec<f64> = (0..TURNS).map(difference).collect();
            differences.sort_by(f64::total_cmp);
            let at = |quarter: usize| differences[differences.len() * quarter / 4];
            format!("{:+.0} us ({:+.0} to {:+.0})", at(2), at(1), at(3))
        };
        let [raw, frames, signed, signing, messages] = trips.clone().map(median);
        println!("{placement}");
        println!("  rustdds          {raw:4.0} us; {signing:.0} us to sign and verify");
        println!(
            "  frames           {frames:4.0} us, {} beside rustdds",
            beside(1, &[0])
        );
        println!(
            "  rustdds, signed  {signed:4.0} us, {} beside the sum of both",
            beside(2, &[0, 3])
        );
        println!(
            "  messages         {messages:4.0} us, {} beside the sum of both",
            beside(4, &[0, 3])
        );
    }

    /// Who shares a core.
    #[derive(Debug, Clone, Copy)]
    enum Placement {
        ByAgent,
        ByKind,
        AsItComes,
    }

    impl fmt::Display for Placement {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(match self {
                Self::ByAgent => "each agent on a core of its own:",
                Self::ByKind => "the programs on one core, rustdds on another:",
                Self::AsItComes => "as it comes:",
            })
        }
    }

    /// Those that this process may use.
    fn cores() -> Vec<usize> {
        let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
        (0..CpuSet::count())
            .filter(|core| set.is_set(*core).unwrap())
            .collect()
    }

    fn threads() -> BTreeSet<i32> {
        let tasks = fs::read_dir("/proc/self/task").unwrap();
        tasks
            .map(|task| task.unwrap().file_name().to_str().unwrap().parse().unwrap())
            .collect()
    }

    /// What `make` makes, and the threads that it starts.
    fn threads_of<T>(make: impl FnOnce() -> T) -> (T, BTreeSet<i32>) {
        let before = threads();
        let made = make();
        (made, &threads() - &before)
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
    }

    /// Two agents that do what they are told.
    struct Pair {
        tasks: mpsc::Sender<Task>,
        results: std::sync::Mutex<mpsc::Receiver<Duration>>,
        agents: [Agent; 2],
    }

    /// Where an agent's program runs, and all threads of both.
    struct Agent {
        runtime: Runtime,
        program: BTreeSet<i32>,
        rustdds: BTreeSet<i32>,
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

        fn place(&self, placement: Placement) {
            let all = cores();
            for (number, agent) in self.agents.iter().enumerate() {
                for (kind, threads) in [&agent.program, &agent.rustdds].into_iter().enumerate() {
                    let cores = match placement {
                        Placement::ByAgent => &all[number..=number],
                        Placement::ByKind => &all[kind..=kind],
                        Placement::AsItComes => &all[..],
                    };
                    let mut set = CpuSet::new();
                    cores.iter().for_each(|core| set.set(*core).unwrap());
                    for thread in threads {
                        // One that has ended needs no core.
                        let _ = sched_setaffinity(Pid::from_raw(*thread), &set);
                    }
                }
            }
        }

        /// `one` gets each task, and says how long it took.
        fn new<R>(
            agents: [Agent; 2],
            one: impl FnOnce(mpsc::Receiver<Task>, mpsc::Sender<Duration>) -> R,
            other: impl Future<Output = ()> + Send + 'static,
        ) -> Self
        where
            R: Future<Output = ()> + Send + 'static,
        {
            let (tasks, receiver) = mpsc::channel(1);
            let (sender, results) = mpsc::channel(1);
            agents[0].runtime.spawn(one(receiver, sender));
            agents[1].runtime.spawn(other);
            Self {
                tasks,
                results: results.into(),
                agents,
            }
        }
    }

    /// An agent whose `rustdds` is yet to come.
    fn agents() -> [Agent; 2] {
        [(); 2].map(|()| {
            let (runtime, program) = threads_of(|| {
                tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
                    .unwrap()
            });
            Agent {
                runtime,
                program,
                rustdds: BTreeSet::new(),
            }
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
        let mut agents = agents();
        let [here, there] = [0, 1].map(|number| {
            let builder = DomainParticipantBuilder::new(9).with_only_networks([loopback]);
            let (participant, threads) = threads_of(|| builder.build().unwrap());
            agents[number].rustdds = threads;
            participant
        });
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
                        for number in 0..(SETTLE + TRIPS) as u64 {
                            let started = Instant::now();
                            to.async_write(question(ECHO, number), None).await.unwrap();
                            expect(ECHO, number).await;
                            trips.push(started.elapsed());
                        }
                        middle(trips)
                    }
                    Task::SignedTrips => {
                        let (mut trips, mut signings) = (Vec::new(), Vec::new());
                        for number in 0..(SETTLE + TRIPS) as u64 {
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
                    Task::Signing => signing,
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
                let mut answer = question.payload;
                if question.link == SIGNED {
                    program.verify(&answer);
                    answer = program.sign();
                }
                let answer = sample([&bob, &alice], question.link, question.number, answer);
                answers.async_write(answer, None).await.unwrap();
            }
        };
        Pair::new(agents, one, other)
    }

    // ------------------------------------------------------------------------------------------------------ frames

    fn start(on: &mut Agent, name: &str, domain: u16) -> Arc<DdsTransport> {
        let mut config = DdsConfig::default();
        config.domain = domain;
        let random = Box::new(random(u64::from(domain) * 10 + name.len() as u64));
        let starting = DdsTransport::start(config, agent(name, 1), Arc::new(SystemClock), random);
        let (transport, threads) = threads_of(|| on.runtime.block_on(starting).unwrap());
        on.rustdds = threads;
        transport
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
        let mut agents = agents();
        let (alice, bob) = (start(&mut agents[0], "alice", 1), start(&mut agents[1], "bob", 1));
        let one = async move |mut tasks: mpsc::Receiver<Task>, results: mpsc::Sender<Duration>| {
            let (counted, echoed) = (Bytes::from(vec![7; SIZE]), Bytes::from(vec![7; SIZE - 1]));
            let send = async |frame: &Bytes| {
                let envelope = Envelope::new(id("bob"), Lane::Reliable, frame.clone());
                alice.send(envelope).await.unwrap();
            };
            while !matches!(alice.recv().await.unwrap(), TransportEvent::LinkUp { .. }) {}
            while let Some(task) = tasks.recv().await {
                let took = match task {
                    Task::SignedTrips | Task::Signing => unreachable!("of bare rustdds alone"),
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
                        for _ in 0..SETTLE + TRIPS {
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
        Pair::new(agents, one, other)
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
        let mut agents = agents();
        let mut start = |number: usize, name: &str| {
            let transport = start(&mut agents[number], name, 2);
            let _inside = agents[number].runtime.enter();
            talk::session(transport, name, 1)
        };
        let (alice, bob): (Arc<Session>, Arc<Session>) = (start(0, "alice"), start(1, "bob"));
        let one = async move |mut tasks: mpsc::Receiver<Task>, results: mpsc::Sender<Duration>| {
            let (counted, echoed) = (draft("bob", false), draft("bob", true));
            while let Some(task) = tasks.recv().await {
                let took = match task {
                    Task::SignedTrips | Task::Signing => unreachable!("of bare rustdds alone"),
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
                        for _ in 0..SETTLE + TRIPS {
                            let question = echoed.clone();
                            let started = Instant::now();
                            alice.send(question).await.unwrap();
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
            let mut next = answer.clone();
            loop {
                let message = bob.recv().await.unwrap();
                // Its bytes are canonical.
                if message.payload_bytes().starts_with(br#"{"echo":true"#) {
                    bob.send(next).await.unwrap();
                    next = answer.clone();
                }
            }
        };
        Pair::new(agents, one, other)
    }

    fn middle(trips: Vec<Duration>) -> Duration {
        let mut settled = trips[SETTLE..].to_vec();
        settled.sort_unstable();
        settled[settled.len() / 2]
    }

    /// What signs and verifies by itself, with the library that everybody has.
    struct Program {
        key: SigningKey,
        peer: VerifyingKey,
        body: [u8; SIZE],
    }

    impl Program {
        fn new(name: &str, peer: &str) -> Self {
            let key = |name: &str| SigningKey::from_bytes(&seed(name));
            Self {
                key: key(name),
                peer: key(peer).verifying_key(),
                body: [7; SIZE],
            }
        }

        fn sign(&mut self) -> Bytes {
            self.body[0] ^= 1;
            let signature = self.key.sign(&self.body).to_bytes();
            [&signature[..], &self.body].concat().into()
        }

        fn verify(&mut self, sample: &Bytes) {
            let (signature, body) = sample.split_first_chunk().unwrap();
            let signature = Signature::from_bytes(signature);
            self.peer.verify_strict(body, &signature).unwrap();
        }
    }

    fn seed(name: &str) -> [u8; 32] {
        let mut seed = [0; 32];
        seed[..name.len()].copy_from_slice(name.as_bytes());
        seed
    }

    fn wall() -> Timestamp {
        Timestamp::from_unix_millis(1_800_000_000_000)
    }
}
