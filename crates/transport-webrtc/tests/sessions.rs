//! The session on top: what it promises over real data channels, and how fast.
//!
//! Falsified by a message that is lost, repeated, out of order or without an outcome, also when one of the two dies.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::{sync::Arc, time::Duration};

use common::*;
use ifmesh_transport::{Session, SessionConfig, SystemClock};
use ifmesh_transport_webrtc::{WebRtcConfig, WebRtcTransport};
use ifmsg::{Draft, Permissions, TrustPolicy, TrustStore};
use serde_json::json;
use tokio::time::{Instant, timeout};

const MESSAGES: u64 = 2_000;

fn session(transport: Arc<WebRtcTransport>, name: &str, epoch: u64) -> Arc<Session> {
    let mut trust = TrustStore::new(TrustPolicy::Allowlist);
    for peer in ["alice", "bob"] {
        let key = *identity(peer).public_key();
        trust.bind(id(peer), key, Permissions::ALL).unwrap();
    }
    let config = SessionConfig::new(id(name), identity(name), trust, epoch);
    let random = Box::new(random(epoch + name.len() as u64));
    Arc::new(Session::start(transport, config, Arc::new(SystemClock), random))
}

fn draft(to: &str, n: u64) -> Draft {
    Draft::new(to.try_into().unwrap(), json!({ "n": n }))
}

async fn number(session: &Session) -> u64 {
    let message = timeout(SOON, session.recv())
        .await
        .expect("a message in time")
        .expect("a session");
    message.payload()["n"].as_u64().unwrap()
}

/// All of these, acknowledged.
async fn send_all(session: &Session, to: &str, numbers: std::ops::Range<u64>) {
    let mut receipts = Vec::new();
    for n in numbers {
        receipts.push(session.send(draft(to, n)).await.unwrap());
    }
    for receipt in receipts {
        timeout(SOON, receipt.acknowledged())
            .await
            .expect("an outcome in time")
            .unwrap();
    }
}

async fn receive_all(session: &Session, numbers: std::ops::Range<u64>) {
    for n in numbers {
        assert_eq!(number(session).await, n);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_messages_each_way_once_and_in_order() {
    let server = server().await;
    let alice = session(join(&url(&server), "alice", 1).await, "alice", 1);
    let bob = session(join(&url(&server), "bob", 1).await, "bob", 1);
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

    let mut trips = Vec::new();
    for n in 0..200 {
        let started = Instant::now();
        alice.send(draft("bob", n)).await.unwrap();
        assert_eq!(number(&bob).await, n);
        bob.send(draft("alice", n)).await.unwrap();
        assert_eq!(number(&alice).await, n);
        trips.push(started.elapsed());
    }
    trips.sort();
    eprintln!(
        "round trip of a signed message and its answer: p50 {:?}, p99 {:?}",
        trips[100], trips[198]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_sent_to_a_dead_agent_reaches_its_next_life() {
    let server = server().await;
    let mut processes = Processes::default();
    let impatient = |epoch| -> WebRtcConfig { config(&url(&server), "bob", epoch) };
    let alice = session(join(&url(&server), "alice", 1).await, "alice", 1);
    let bob = session(processes.start(impatient(1)).await, "bob", 1);
    tokio::join!(send_all(&alice, "bob", 0..500), receive_all(&bob, 0..500));

    processes.kill(&id("bob"));
    drop(bob);
    let sending = tokio::spawn({
        let alice = Arc::clone(&alice);
        async move { send_all(&alice, "bob", 500..1_000).await }
    });
    let transport = processes.start(impatient(2)).await;
    let bob = session(transport, "bob", 2);
    let started = Instant::now();
    receive_all(&bob, 500..1_000).await;
    eprintln!("500 messages {:?} after the restart", started.elapsed());
    timeout(SOON, sending).await.expect("outcomes in time").unwrap();
    // And back.
    tokio::join!(send_all(&bob, "alice", 0..100), receive_all(&alice, 0..100));
    let linger = Duration::from_secs(1);
    let closing = async { tokio::join!(alice.close(linger), bob.close(linger)) };
    timeout(SOON, closing).await.expect("closes that end");
}

/// Fails if a message of sixteen mebibytes does not come through, or is sent more than once because it takes its time; or if
/// the peer's words to us wait for the end of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_of_sixteen_mebibytes_comes_once() {
    let server = server().await;
    let alice = session(join(&url(&server), "alice", 1).await, "alice", 1);
    let bob = session(join(&url(&server), "bob", 1).await, "bob", 1);
    alice.send(draft("bob", 0)).await.unwrap();
    assert_eq!(number(&bob).await, 0);
    let text = "0123456789abcdef".repeat(1 << 20);
    let large = Draft::new("bob".try_into().unwrap(), json!({ "text": text }));
    let started = Instant::now();
    let receipt = alice.send(large).await.unwrap();
    // Meanwhile, the other way.
    tokio::join!(send_all(&bob, "alice", 0..10), receive_all(&alice, 0..10));
    eprintln!("the other way after {:?}", started.elapsed());
    let came = timeout(SOON, bob.recv())
        .await
        .expect("a message in time")
        .unwrap();
    assert_eq!(came.payload()["text"].as_str().unwrap().len(), 16 << 20);
    eprintln!("16 MiB after {:?}", started.elapsed());
    timeout(SOON, receipt.acknowledged())
        .await
        .expect("an outcome in time")
        .unwrap();
    assert_eq!(alice.metrics().resent, 0, "sent more than once");
}
