//! Who gets a name.
//!
//! Falsified if anybody without the key gets or takes over a proved name, or if its owner is locked out of it.

mod common;

use std::time::Duration;

use common::*;
use ifmesh_signaling::ErrorCode;
use serde_json::json;

#[tokio::test]
async fn a_proof_registers_and_shows_keys_to_others() {
    let server = start(config()).await;
    let mut a = Raw::connect(&server).await;
    let registered = a.prove("a", &identity(1), 7).await;
    assert_eq!(
        registered,
        json!({"type": "registered", "agent_id": "a", "connected_agents": [], "server_id": "server-1"})
    );
    let mut b = Raw::connect(&server).await;
    let registered = b.prove("b", &identity(2), 8).await;
    let key = identity(1).public_key().to_hex();
    assert_eq!(
        registered["agents"],
        json!([{"agent_id": "a", "public_key": key, "epoch": 7}])
    );
    let key = identity(2).public_key().to_hex();
    assert_eq!(
        a.json().await,
        json!({"type": "agent-joined", "agent_id": "b", "public_key": key, "epoch": 8})
    );
}

#[tokio::test]
async fn without_a_key_nobody_registers() {
    let server = start(config()).await;
    let mut a = Raw::connect(&server).await;
    assert_eq!(a.register_plain("a").await["code"], "key-required");
    assert_eq!(a.close_code().await, Some(4000));
    assert_eq!(server.metrics().agents, 0);
}

#[tokio::test]
async fn a_proof_by_another_key_is_refused() {
    let server = start(config()).await;
    let mut thief = Raw::connect(&server).await;
    let refused = thief.prove_as("a", &identity(1), &identity(2), 1).await;
    assert_eq!(refused["code"], "bad-proof");
    assert_eq!(thief.close_code().await, Some(4000));
}

/// The challenge is fresh on every connection, so a proof that was overheard opens nothing.
#[tokio::test]
async fn a_proof_cannot_be_replayed() {
    let server = start(config()).await;
    let key = identity(1).public_key().to_hex();
    let register = json!({"type": "register", "agent_id": "a", "public_key": key, "epoch": 1}).to_string();
    let mut nonces = Vec::new();
    let mut proof = None;
    for _ in 0..2 {
        let mut socket = Raw::connect(&server).await;
        socket.send(register.clone()).await;
        let challenge = socket.json().await;
        nonces.push(challenge["nonce"].as_str().unwrap().to_owned());
        let signed = proof.get_or_insert_with(|| {
            let nonce = ifmesh_signaling::Nonce::from_hex(&nonces[0]).unwrap();
            let statement = ifmesh_signaling::registration_statement(
                &id("server-1"),
                &nonce,
                &id("a"),
                1,
                identity(1).public_key(),
            );
            identity(1).sign_statement(&statement).to_hex()
        });
        socket
            .send(json!({"type": "proof", "signature": signed}).to_string())
            .await;
        let answer = socket.json().await;
        if nonces.len() == 1 {
            assert_eq!(answer["type"], "registered");
        } else {
            assert_eq!(answer["code"], "bad-proof");
        }
    }
    assert_ne!(nonces[0], nonces[1]);
}

#[tokio::test]
async fn a_living_name_is_not_taken_by_another_key() {
    let server = start(config()).await;
    let mut owner = Raw::connect(&server).await;
    owner.prove("a", &identity(1), 1).await;
    let mut thief = Raw::connect(&server).await;
    assert_eq!(thief.prove("a", &identity(2), 99).await["code"], "id-taken");
    // Still there.
    let mut friend = Raw::connect(&server).await;
    assert_eq!(
        friend.prove("b", &identity(3), 1).await["connected_agents"],
        json!(["a"])
    );
    assert_eq!(server.metrics().evictions, 0);
}

#[tokio::test]
async fn a_name_is_not_snatched_while_its_owner_reconnects() {
    let mut settings = open();
    settings.limits.key_memory = Duration::from_millis(300);
    let server = start(settings).await;
    let mut watcher = Raw::connect(&server).await;
    watcher.register_plain("watcher").await;
    let mut owner = Raw::connect(&server).await;
    owner.prove("a", &identity(1), 5).await;
    assert_eq!(watcher.json().await["type"], "agent-joined");
    drop(owner);
    assert_eq!(watcher.json().await["type"], "agent-left");

    let mut thief = Raw::connect(&server).await;
    assert_eq!(thief.prove("a", &identity(2), 99).await["code"], "id-taken");
    let mut plain = Raw::connect(&server).await;
    assert_eq!(plain.register_plain("a").await["code"], "id-taken");
    let mut earlier = Raw::connect(&server).await;
    assert_eq!(earlier.prove("a", &identity(1), 4).await["code"], "stale-epoch");
    let mut owner = Raw::connect(&server).await;
    assert_eq!(owner.prove("a", &identity(1), 5).await["type"], "registered");

    // Forgotten in the end: a lost key does not block a name for ever.
    drop(owner);
    let deadline = tokio::time::Instant::now() + SOON;
    loop {
        let mut other = Raw::connect(&server).await;
        if other.prove("a", &identity(2), 1).await["type"] == "registered" {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "never forgotten");
    }
}

#[tokio::test]
async fn the_same_key_comes_back_with_the_same_or_a_higher_epoch_and_never_a_lower() {
    let server = start(config()).await;
    let mut watcher = Raw::connect(&server).await;
    watcher.prove("watcher", &identity(9), 1).await;
    let mut sockets = Vec::new();
    for epoch in [5, 5, 6] {
        let mut socket = Raw::connect(&server).await;
        assert_eq!(socket.prove("a", &identity(1), epoch).await["type"], "registered");
        sockets.push(socket);
    }
    let mut stale = Raw::connect(&server).await;
    assert_eq!(stale.prove("a", &identity(1), 5).await["code"], "stale-epoch");
    for socket in &mut sockets[..2] {
        assert_eq!(socket.close_code().await, Some(4001));
    }
    // Everybody saw each of them come and go, in order, and the last one stay.
    for (kind, epoch) in [
        ("joined", 5),
        ("left", 0),
        ("joined", 5),
        ("left", 0),
        ("joined", 6),
    ] {
        let frame = watcher.json().await;
        assert_eq!(frame["type"], format!("agent-{kind}"));
        assert_eq!(frame["epoch"].as_u64().unwrap_or(0), epoch);
    }
    assert_eq!(server.metrics().evictions, 2);
    assert_eq!(server.metrics().agents, 2);
}

#[tokio::test]
async fn a_key_beats_no_key_and_not_the_reverse() {
    let server = start(open()).await;
    let mut plain = Raw::connect(&server).await;
    plain.register_plain("a").await;
    let mut proven = Raw::connect(&server).await;
    assert_eq!(proven.prove("a", &identity(1), 1).await["type"], "registered");
    assert_eq!(plain.close_code().await, Some(4001));
    let mut plain = Raw::connect(&server).await;
    assert_eq!(plain.register_plain("a").await["code"], "id-taken");
}

#[tokio::test]
async fn a_list_of_agents_lets_nobody_else_in() {
    let mut settings = open();
    settings.allow(id("a"), identity(1).public_key());
    let server = start(settings).await;
    for (name, seed) in [("a", 2), ("b", 1), ("b", 2)] {
        let mut socket = Raw::connect(&server).await;
        assert_eq!(
            socket.prove(name, &identity(seed), 1).await["code"],
            "not-allowed"
        );
    }
    let mut plain = Raw::connect(&server).await;
    assert_eq!(plain.register_plain("c").await["code"], "not-allowed");
    let mut allowed = Raw::connect(&server).await;
    assert_eq!(allowed.prove("a", &identity(1), 1).await["type"], "registered");
}

#[tokio::test]
async fn a_full_server_says_so_and_still_lets_its_agents_come_back() {
    let mut settings = config();
    settings.limits.max_agents = 1;
    let server = start(settings).await;
    let mut a = Raw::connect(&server).await;
    a.prove("a", &identity(1), 1).await;
    let mut b = Raw::connect(&server).await;
    assert_eq!(b.prove("b", &identity(2), 1).await["code"], "server-full");
    assert!(!ErrorCode::ServerFull.is_final());
    let mut again = Raw::connect(&server).await;
    assert_eq!(again.prove("a", &identity(1), 1).await["type"], "registered");
}

#[tokio::test]
async fn frames_out_of_order_are_errors_and_no_more() {
    let server = start(config()).await;
    let mut a = Raw::connect(&server).await;
    let key = identity(1).public_key().to_hex();
    for (frame, code) in [
        (
            json!({"type": "proof", "signature": "00".repeat(64)}),
            "unexpected-proof",
        ),
        (
            json!({"type": "register", "agent_id": "a", "public_key": key}),
            "malformed",
        ),
        (
            json!({"type": "register", "agent_id": "a", "epoch": 1}),
            "malformed",
        ),
        (
            json!({"type": "offer", "from": "a", "to": "b", "offer": {"type": "offer", "sdp": ""}}),
            "not-registered",
        ),
        (json!({"type": "hello"}), "unknown-type"),
    ] {
        a.send(frame.to_string()).await;
        assert_eq!(a.error_code().await, code);
    }
    assert_eq!(a.prove("a", &identity(1), 1).await["type"], "registered");
    assert_eq!(a.prove("c", &identity(1), 1).await["code"], "already-registered");
}
