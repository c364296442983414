//! The session on top: what it promises over real DDS, when agents die, networks part and packets get lost.
//!
//! Falsified by a message that is lost, repeated, out of order or without an outcome.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::{sync::Arc, time::Duration};

use common::{talk::*, *};
use ifmesh_testnet::Cut;
use ifmesh_transport::{DownReason, SystemClock, TransportEvent};
use ifmesh_transport_dds::DdsTransport;
use tokio::time::{Instant, timeout};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_messages_each_way_once_and_in_order() {
    const MESSAGES: u64 = 2_000;
    let mut processes = Processes::new(1);
    let alice = session(processes.start(0, "alice", 1).await, "alice", 1);
    let bob = session(processes.start(0, "bob", 1).await, "bob", 1);
    // The first message waits for the link.
    alice.send(draft("bob", 0)).await.unwrap();
    assert_eq!(number(&bob).await, 0);
    let started = Instant::now();
    let all = 1..MESSAGES + 1;
    tokio::join!(
        send_all(&alice, "bob", all.clone()),
        send_all(&bob, "alice", all.clone()),
        receive_all(&alice, all.clone()),
        receive_all(&bob, all.clone()),
    );
    let rate = 2.0 * MESSAGES as f64 / started.elapsed().as_secs_f64();
    eprintln!("{rate:.0} acknowledged messages/s, both ways together");
}

/// Falsified by two agents that start at the same moment and have not exchanged a verified message each way within 2 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_message_comes_within_two_seconds() {
    for round in 0..5 {
        let net = Net::new(1);
        let runtimes = [net.runtime(0), net.runtime(0)];
        let started = Instant::now();
        let start = |number: usize, name: &str, round: u64| {
            let start = DdsTransport::start(
                net.config(0),
                agent(name, 1),
                Arc::new(SystemClock),
                Box::new(random(100 * round + number as u64)),
            );
            let name = name.to_owned();
            runtimes[number].spawn(async move { session(start.await.unwrap(), &name, 1) })
        };
        let (alice, bob) = (start(0, "alice", round), start(1, "bob", round));
        let (alice, bob) = (alice.await.unwrap(), bob.await.unwrap());
        let one_way = async {
            alice.send(draft("bob", 1)).await.unwrap();
            assert_eq!(number(&bob).await, 1);
        };
        let other_way = async {
            bob.send(draft("alice", 2)).await.unwrap();
            assert_eq!(number(&alice).await, 2);
        };
        tokio::join!(one_way, other_way);
        let took = started.elapsed();
        eprintln!("a verified message each way {took:?} after the start");
        assert!(took < Duration::from_secs(2), "{took:?}");
        for runtime in runtimes {
            runtime.shutdown_background();
        }
    }
}

/// Falsified by a link that is still up 4 s after `kill -9` of its peer's process.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn kill_9_is_noticed_within_four_seconds() {
    let mut processes = Processes::new(1);
    let alice = processes.start(0, "alice", 1).await;
    let mut bob = Child::start(&processes.net.hosts[0], "talk bob 1");
    up(&*alice, "bob").await;
    assert_eq!(bob.said(), "started");
    bob.kill();
    let killed = Instant::now();
    let down = loop {
        match good_event(&*alice).await {
            // Its session greets; nobody answers here.
            TransportEvent::Frame { .. } => {}
            event => break event,
        }
    };
    let expected = TransportEvent::LinkDown {
        peer: id("bob"),
        reason: DownReason::Timeout,
    };
    assert_eq!(down, expected);
    eprintln!("down {:?} after kill -9", killed.elapsed());
    assert!(
        killed.elapsed() < Duration::from_secs(4),
        "{:?}",
        killed.elapsed()
    );
    // Its next life does not wait until the library has given up the former one, which takes 50 s.
    let _bob = Child::start(&processes.net.hosts[0], "talk bob 2");
    let restarted = Instant::now();
    up(&*alice, "bob").await;
    eprintln!("up {:?} after the restart", restarted.elapsed());
}

/// The peer's process dies by `kill -9`, twice, while messages are sent to it. Its endpoints stay known to the library as
/// ones that acknowledge nothing. Falsified by a message that its next life does not get, or gets twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn exactly_once_across_kill_9() {
    let mut processes = Processes::new(1);
    let alice = session(processes.start(0, "alice", 1).await, "alice", 1);
    for life in 1..=3 {
        let first = (life - 1) * 600;
        let bob = Child::start(&processes.net.hosts[0], &format!("talk bob {life}"));
        assert_eq!(bob.said(), "started");
        let numbers = first..first + 300;
        // From the second life on, the 300 before were sent while nobody was there.
        let expected = if life == 1 { 0 } else { first - 300 }..first + 300;
        let heard = tokio::task::spawn_blocking(move || {
            for n in expected {
                assert_eq!(bob.said(), n.to_string(), "life {life}");
            }
            bob
        });
        send_all(&alice, "bob", numbers).await;
        let mut bob = heard.await.unwrap();
        bob.kill();
        if life < 3 {
            let alice = Arc::clone(&alice);
            tokio::spawn(async move { send_all(&alice, "bob", first + 300..first + 600).await });
            // So that some are sent into the dead inbox, and some after the link is down.
            tokio::time::sleep(Duration::from_millis(500) * u32::try_from(life).unwrap()).await;
        }
    }
}

/// Falsified by a message that a partition, which ends after the link is down, loses or repeats.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_once_across_partitions() {
    let mut processes = Processes::new(2);
    let alice = session(processes.start(0, "alice", 1).await, "alice", 1);
    let bob = session(processes.start(1, "bob", 1).await, "bob", 1);
    let partitions = async {
        for pause in [200, 1_000, 4_500] {
            tokio::time::sleep(Duration::from_millis(400)).await;
            processes.net.hosts[0].cut(Cut::All).unwrap();
            tokio::time::sleep(Duration::from_millis(pause)).await;
            processes.net.hosts[0].mend().unwrap();
        }
    };
    let paced = async |session: &ifmesh_transport::Session, to: &str| {
        let mut receipts = Vec::new();
        for n in 0..2_000 {
            receipts.push(session.send(draft(to, n)).await.unwrap());
            if n % 10 == 0 {
                tokio::time::sleep(Duration::from_millis(40)).await;
            }
        }
        for receipt in receipts {
            let outcome = timeout(3 * SOON, receipt.acknowledged());
            outcome.await.expect("an outcome in time").unwrap();
        }
    };
    tokio::join!(
        partitions,
        paced(&alice, "bob"),
        paced(&bob, "alice"),
        receive_all(&alice, 0..2_000),
        receive_all(&bob, 0..2_000),
    );
}

/// Falsified by a message that 1 or 20 % loss takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_once_under_loss() {
    for (loss, messages) in [(1.0, 5_000), (20.0, 1_000)] {
        let mut processes = Processes::new(2);
        let alice = session(processes.start(0, "alice", 1).await, "alice", 1);
        let bob = session(processes.start(1, "bob", 1).await, "bob", 1);
        processes.net.hosts[0].loss(loss).unwrap();
        let started = Instant::now();
        tokio::join!(
            send_all(&alice, "bob", 0..messages),
            send_all(&bob, "alice", 0..messages),
            receive_all(&alice, 0..messages),
            receive_all(&bob, 0..messages),
        );
        eprintln!("{messages} each way at {loss} % in {:?}", started.elapsed());
    }
}

/// Not a test of its own: what the others start as a process.
#[test]
fn child_main() {
    common::child_main(|role| {
        let words: Vec<_> = role.split(' ').collect();
        let [_, name, epoch] = words[..] else {
            panic!("{role}")
        };
        let epoch: u64 = epoch.parse().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let random = Box::new(random(1_000 + epoch));
            let start = DdsTransport::start(
                Default::default(),
                agent(name, epoch),
                Arc::new(SystemClock),
                random,
            );
            let session = session(start.await.unwrap(), name, epoch);
            say("started");
            while let Some(message) = session.recv().await {
                say(message.payload()["n"].as_u64().unwrap());
            }
        });
    });
}
