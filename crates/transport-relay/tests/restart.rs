//! The session over the relay, while the signaling server dies and comes back.
//!
//! Falsified by a message that is lost, repeated, out of order or without an outcome.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::sync::Arc;

use common::*;
use ifmesh_transport::{Session, SessionConfig, SystemClock};
use ifmesh_transport_relay::RelayTransport;
use ifmsg::{Draft, Permissions, TrustPolicy, TrustStore};
use serde_json::json;
use tokio::{runtime::Runtime, time::timeout};

const MESSAGES: u64 = 3_000;
const DEATHS: u64 = 3;

fn session(transport: Arc<RelayTransport>, name: &str) -> Arc<Session> {
    let mut trust = TrustStore::new(TrustPolicy::Allowlist);
    for peer in ["alice", "bob"] {
        let key = *identity(peer).public_key();
        trust.bind(id(peer), key, Permissions::ALL).unwrap();
    }
    let config = SessionConfig::new(id(name), identity(name), trust, 1);
    let random = Box::new(random(name.len() as u64));
    Arc::new(Session::start(transport, config, Arc::new(SystemClock), random))
}

fn process() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap()
}

async fn send_all(session: &Session, to: &str) {
    let mut receipts = Vec::new();
    for n in 0..MESSAGES {
        let draft = Draft::new(to.try_into().unwrap(), json!({ "n": n }));
        receipts.push(timeout(SOON, session.send(draft)).await.expect("room").unwrap());
    }
    for receipt in receipts {
        timeout(SOON * 3, receipt.acknowledged())
            .await
            .expect("an outcome in time")
            .unwrap();
    }
}

/// Each number once, in order.
async fn receive_all(session: &Session, progress: &tokio::sync::watch::Sender<u64>) {
    for n in 0..MESSAGES {
        let message = timeout(SOON * 3, session.recv())
            .await
            .expect("a message in time")
            .expect("a session");
        assert_eq!(message.payload()["n"].as_u64(), Some(n));
        progress.send_replace(n);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_doubled_while_the_server_dies_and_returns() {
    let mut running = process();
    let mut server = running.spawn(server()).await.unwrap();
    let address = server.local_addr();
    let alice = session(join(&url(&server), "alice", 1).await, "alice");
    let bob = session(join(&url(&server), "bob", 1).await, "bob");
    let (progress, mut reached) = tokio::sync::watch::channel(0);
    let (other, _) = tokio::sync::watch::channel(0);
    let killing = async {
        for death in 1..=DEATHS {
            // In the middle of the traffic: frames are in every queue there is.
            let at = death * MESSAGES / (DEATHS + 1);
            reached.wait_for(|n| *n >= at).await.unwrap();
            // As kill -9 would: nobody is told, sockets are reset by the kernel.
            std::mem::replace(&mut running, process()).shutdown_background();
            server = running.spawn(server_at(address)).await.unwrap();
        }
    };
    tokio::join!(
        killing,
        send_all(&alice, "bob"),
        send_all(&bob, "alice"),
        receive_all(&alice, &other),
        receive_all(&bob, &progress),
    );
    assert_eq!(server.metrics().relay_agents, 2);
    running.shutdown_background();
}
