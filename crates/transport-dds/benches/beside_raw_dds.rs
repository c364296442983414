//! What everything above DDS costs: messages a second and round trips of a session over [`DdsTransport`], beside those of bare
//! `rustdds` on a topic with the same QoS, in one run. `cargo bench -p ifmesh-transport-dds`; takes root, for a network of
//! its own.
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
fn main() {
    linux::run();
}

#[cfg(not(target_os = "linux"))]
fn main() {}

#[cfg(target_os = "linux")]
mod linux {
    use std::{net::IpAddr, sync::Arc, time::Duration};

    use ifmesh_transport::{Session, SystemClock};
    use ifmesh_transport_dds::{DdsConfig, DdsTransport};
    use ifmsg::Draft;
    use rustdds::{
        DomainParticipant, DomainParticipantBuilder, QosPolicies, QosPolicyBuilder, TopicKind, no_key, policy,
    };
    use serde_json::json;
    use tokio::time::Instant;

    use super::common::{agent, random, talk};

    const MESSAGES: u64 = 200_000;
    const TRIPS: usize = 2_000;
    const PAYLOAD: usize = 300;

    pub(super) fn run() {
        let _network = ifmesh_testnet::isolate().unwrap();
        let runtime = || {
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap()
        };
        for round in 1..=3 {
            let (raw_rate, raw_trip) = runtime().block_on(raw());
            let (rate, trip) = runtime().block_on(ours(round));
            println!(
                "round {round}: rustdds {raw_rate:.0} samples/s of {PAYLOAD} B, round trip {raw_trip:?}; ifmesh {rate:.0} signed, \
                 acknowledged messages/s with payloads of {PAYLOAD} B, round trip {trip:?}; ratio {:.2}, {:?} more",
                rate / raw_rate,
                trip.saturating_sub(raw_trip)
            );
        }
    }

    type Writer = no_key::DataWriterCdr<Vec<u8>>;
    type Reader = no_key::SimpleDataReaderCdr<Vec<u8>>;

    /// That of inboxes of the reliable lane, but for the reader's cache: it must not throw anything away here.
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
            let topic =
                participant.create_topic(name.to_owned(), "Bytes".to_owned(), &none, TopicKind::NoKey);
            topic.unwrap()
        };
        let publisher = participant.create_publisher(&none).unwrap();
        let subscriber = participant.create_subscriber(&none).unwrap();
        let reader = subscriber.create_simple_datareader_no_key(&topic(from), Some(qos(8_192, false)));
        let writer = publisher.create_datawriter_no_key_cdr(&topic(to), Some(qos(256, true)));
        (writer.unwrap(), reader.unwrap())
    }

    async fn next(reader: &Reader) -> Vec<u8> {
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

    async fn raw() -> (f64, Duration) {
        let loopback: IpAddr = "127.0.0.1".parse().unwrap();
        let participant = || {
            DomainParticipantBuilder::new(9)
                .with_only_networks([loopback])
                .build()
                .unwrap()
        };
        let (here, there) = (participant(), participant());
        let (to, back) = endpoints(&here, "there", "here");
        let (answers, questions) = endpoints(&there, "here", "there");
        // Until both ways are matched.
        loop {
            to.async_write(vec![1; PAYLOAD], None).await.unwrap();
            let echo = async {
                let question = next(&questions).await;
                answers.async_write(question, None).await.unwrap();
                next(&back).await
            };
            if tokio::time::timeout(Duration::from_millis(50), echo)
                .await
                .is_ok()
            {
                break;
            }
        }
        // What was repeated on the way.
        while let Ok(Ok(Some(_))) =
            tokio::time::timeout(Duration::from_millis(100), async { questions.try_take_one() }).await
        {
        }
        while let Ok(Some(_)) = back.try_take_one() {}

        let echo = tokio::spawn(async move {
            for _ in 0..TRIPS {
                let question = next(&questions).await;
                answers.async_write(question, None).await.unwrap();
            }
            (questions, answers)
        });
        let mut trips = Vec::new();
        for _ in 0..TRIPS {
            let started = Instant::now();
            to.async_write(vec![2; PAYLOAD], None).await.unwrap();
            next(&back).await;
            trips.push(started.elapsed());
        }
        trips.sort();
        let (questions, _answers) = echo.await.unwrap();
        let started = Instant::now();
        let writing = tokio::spawn(async move {
            for _ in 0..MESSAGES {
                to.async_write(vec![3; PAYLOAD], None).await.unwrap();
            }
            to
        });
        // It may lose some: its acknowledgements stand for what its cache then throws away.
        let (mut arrived, mut last) = (0, started);
        while arrived < MESSAGES
            && let Ok(_) = tokio::time::timeout(Duration::from_millis(500), next(&questions)).await
        {
            arrived += 1;
            last = Instant::now();
        }
        let rate = arrived as f64 / (last - started).as_secs_f64();
        if arrived < MESSAGES {
            println!("rustdds lost {} of {MESSAGES} samples", MESSAGES - arrived);
        }
        drop(writing.await.unwrap());
        (rate, trips[TRIPS / 2])
    }

    async fn ours(round: u64) -> (f64, Duration) {
        let start = async |name: &str| {
            let random = Box::new(random(10 * round + name.len() as u64));
            let started = DdsTransport::start(
                DdsConfig::default(),
                agent(name, round),
                Arc::new(SystemClock),
                random,
            );
            talk::session(started.await.unwrap(), name, round)
        };
        let (alice, bob) = tokio::join!(start("alice"), start("bob"));
        let payload = json!({ "n": 0, "text": "x".repeat(PAYLOAD - 18) });
        let draft = |to: &str| Draft::new(to.try_into().unwrap(), payload.clone());
        alice.send(draft("bob")).await.unwrap();
        bob.recv().await.unwrap();
        bob.send(draft("alice")).await.unwrap();
        alice.recv().await.unwrap();

        let mut trips = Vec::new();
        for _ in 0..TRIPS {
            let started = Instant::now();
            alice.send(draft("bob")).await.unwrap();
            bob.recv().await.unwrap();
            bob.send(draft("alice")).await.unwrap();
            alice.recv().await.unwrap();
            trips.push(started.elapsed());
        }
        trips.sort();
        let started = Instant::now();
        let sender: Arc<Session> = Arc::clone(&alice);
        let drafts = draft("bob");
        let sending = tokio::spawn(async move {
            let mut last = None;
            for _ in 0..MESSAGES {
                last = Some(sender.send(drafts.clone()).await.unwrap());
            }
            last.unwrap().acknowledged().await.unwrap();
        });
        for _ in 0..MESSAGES {
            bob.recv().await.unwrap();
        }
        sending.await.unwrap();
        let rate = MESSAGES as f64 / started.elapsed().as_secs_f64();
        alice.close(Duration::from_secs(1)).await;
        bob.close(Duration::from_secs(1)).await;
        (rate, trips[TRIPS / 2])
    }
}
