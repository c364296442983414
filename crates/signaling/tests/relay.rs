//! The relay, as the server sees it: bytes with a name on them.
//!
//! Falsified if a relayed frame arrives changed, at another agent, or under another name than its author's; if a client can use
//! up more than its share, or have another one dropped; if what was relayed comes after the news that its author left.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use common::*;
use futures::SinkExt as _;
use ifmesh_signaling::{RelayFrame, Server, ServerConfig};
use serde_json::json;
use tokio::time::{Instant, timeout};
use tokio_tungstenite::tungstenite::Message;

fn frame(agent: &str, body: &[u8]) -> Vec<u8> {
    let frame = RelayFrame {
        agent: id(agent),
        body: body.to_vec().into(),
    };
    frame.encode().to_vec()
}

impl Raw {
    async fn relay(&mut self, to: &str, body: &[u8]) {
        self.send_message(Message::Binary(frame(to, body).into())).await;
    }
}

/// Alice and Bob, registered to relay, at a server like this.
async fn pair(settings: ServerConfig) -> (Server, Raw, Raw) {
    let server = start(settings).await;
    let mut alice = Raw::connect(&server).await;
    alice.prove_relay("alice", &identity(1), 1).await;
    let mut bob = Raw::connect(&server).await;
    bob.prove_relay("bob", &identity(2), 1).await;
    assert_eq!(alice.json().await["type"], "agent-joined");
    (server, alice, bob)
}

#[tokio::test]
async fn a_frame_arrives_as_it_was_under_its_authors_name() {
    let (server, mut alice, mut bob) = pair(config()).await;
    for body in [&b""[..], b"\0\xff{}", &[9; 60_000]] {
        alice.relay("bob", body).await;
        assert_eq!(bob.binary().await, frame("alice", body));
    }
    // Nobody is there, or not to relay.
    let mut carol = Raw::connect(&server).await;
    carol.prove("carol", &identity(3), 1).await;
    for nobody in ["nobody", "carol"] {
        alice.relay(nobody, b"?").await;
        let error = alice.json().await;
        assert_eq!(
            (&error["code"], &error["agent_id"]),
            (&json!("agent-not-found"), &json!(nobody))
        );
    }
    let metrics = server.metrics();
    assert_eq!((metrics.relay_frames, metrics.relay_bytes), (3, 60_004));
    assert_eq!(
        (metrics.relay_not_found, metrics.relay_agents, metrics.agents),
        (2, 2, 1)
    );
}

/// One agent has a socket of each role, and neither ends the other.
#[tokio::test]
async fn the_roles_have_names_and_presence_of_their_own() {
    let (server, mut alice, _bob) = pair(config()).await;
    let mut signals = Raw::connect(&server).await;
    let welcome = signals.prove("alice", &identity(1), 1).await;
    assert_eq!(
        (&welcome["connected_agents"], welcome.get("relay")),
        (&json!([]), None)
    );
    let mut carol = Raw::connect(&server).await;
    let welcome = carol.prove_relay("carol", &identity(3), 1).await;
    assert_eq!(welcome["connected_agents"], json!(["alice", "bob"]));
    assert_eq!(
        welcome["relay"],
        json!({"max_frame": 66_560, "pair_bytes": 524_288})
    );
    assert_eq!(
        alice.json().await,
        json!({"type": "agent-joined", "agent_id": "carol",
        "public_key": identity(3).public_key().to_hex(), "epoch": 1})
    );
    // Signals do not go by a relay socket, nor relayed frames by one for signals.
    let offer = json!({"type": "offer", "from": "alice", "to": "bob", "offer": {"type": "offer", "sdp": ""}});
    alice.send(offer.to_string()).await;
    assert_eq!(alice.error_code().await, "wrong-role");
    signals
        .send_message(Message::Binary(frame("bob", b"x").into()))
        .await;
    assert_eq!(signals.error_code().await, "binary-frame");
    // A later life of a relay takes the place of the former one, and of nothing else.
    let mut again = Raw::connect(&server).await;
    again.prove_relay("alice", &identity(1), 2).await;
    assert_eq!(alice.close_code().await, Some(4001));
    signals.send(json!({"type": "ice-servers"}).to_string()).await;
    assert_eq!(signals.json().await["type"], "ice-servers");
}

#[tokio::test]
async fn who_relays_has_proved_a_key() {
    let server = start(open()).await;
    let mut client = Raw::connect(&server).await;
    client
        .send(json!({"type": "register", "agent_id": "a", "role": "relay"}).to_string())
        .await;
    assert_eq!(client.error_code().await, "key-required");
}

#[tokio::test]
async fn a_server_may_relay_nothing() {
    let mut settings = config();
    settings.relay = None;
    let server = start(settings).await;
    let mut client = Raw::connect(&server).await;
    assert_eq!(
        client.prove_relay("a", &identity(1), 1).await["code"],
        "relay-off"
    );
    assert_eq!(client.close_code().await, Some(4000));
}

#[tokio::test]
async fn what_is_no_relay_frame_is_refused_and_ends() {
    let mut settings = config();
    settings.limits.max_violations = 3;
    let (_server, mut alice, _bob) = pair(settings).await;
    for bad in [&b""[..], b"\x02\x03bob", b"\x01\x09bob"] {
        alice.send_message(Message::Binary(bad.to_vec().into())).await;
        assert_eq!(alice.error_code().await, "malformed");
    }
    assert_eq!(alice.close_code().await, Some(1008));
}

#[tokio::test]
async fn a_frame_over_the_limit_ends_its_sender_with_1009() {
    let (_server, mut alice, mut bob) = pair(config()).await;
    alice.relay("bob", &vec![0; 66_560 - 5]).await;
    assert_eq!(bob.binary().await.len(), 66_560 + 2);
    alice.relay("bob", &vec![0; 66_560 - 4]).await;
    assert_eq!(alice.close_code().await, Some(1009));
}

/// Bob reads nothing; Alice writes to him without end. She hears of what is dropped, and nobody else is the worse for it.
#[tokio::test]
async fn who_floods_a_stalled_receiver_is_told_and_harms_nobody() {
    let mut settings = config();
    if let Some(relay) = &mut settings.relay {
        relay.pair_bytes = 200_000;
        relay.byte_burst = 64 << 20;
    }
    let (server, mut alice, mut bob) = pair(settings).await;
    let mut carol = Raw::connect(&server).await;
    carol.prove_relay("carol", &identity(3), 1).await;
    assert_eq!(alice.json().await["type"], "agent-joined");
    assert_eq!(bob.json().await["type"], "agent-joined");
    let mut sent = 0u64;
    // Until what TCP takes, and then what the pair may have, is used up.
    while server.metrics().relay_overflows == 0 {
        alice.relay("bob", &[7; 60_000]).await;
        sent += 1;
        assert!(sent < 1_000, "60 MB were accepted for who reads nothing");
    }
    let error = alice.json().await;
    assert_eq!(
        (&error["code"], &error["agent_id"]),
        (&json!("relay-overflow"), &json!("bob"))
    );
    for body in [b"one", b"two"] {
        alice.relay("carol", body).await;
        assert_eq!(carol.binary().await, frame("alice", body));
        carol.relay("bob", body).await;
    }
    // Once he reads, he gets all that was not refused, in order.
    let mut from_carol = 0;
    let mut from_alice = 0;
    while from_carol < 2 {
        let bytes = bob.binary().await;
        match RelayFrame::decode(&bytes.into()).unwrap().agent.as_str() {
            "carol" => from_carol += 1,
            _ => from_alice += 1,
        }
    }
    let metrics = server.metrics();
    assert_eq!(from_alice + metrics.relay_overflows, sent);
    assert_eq!((metrics.slow_clients, metrics.relay_agents), (0, 3));
}

#[tokio::test]
async fn a_fast_sender_is_slowed_down_and_loses_nothing() {
    let mut settings = config();
    if let Some(relay) = &mut settings.relay {
        relay.bytes_per_second = 200_000;
        relay.byte_burst = 20_000;
    }
    let (server, mut alice, mut bob) = pair(settings).await;
    let started = Instant::now();
    let send = async {
        for number in 0..20u8 {
            alice.relay("bob", &[number; 5_000]).await;
        }
    };
    let receive = async {
        for number in 0..20u8 {
            assert_eq!(bob.binary().await, frame("alice", &[number; 5_000]));
        }
    };
    timeout(SOON, async { tokio::join!(send, receive) })
        .await
        .unwrap();
    // 100 KB at 200 KB/s, less the burst.
    assert!(
        started.elapsed() >= Duration::from_millis(350),
        "{:?}",
        started.elapsed()
    );
    assert!(server.metrics().frames_throttled > 0);
}

#[tokio::test]
async fn the_news_that_an_agent_left_comes_after_what_it_sent() {
    let (_server, mut alice, mut bob) = pair(config()).await;
    for number in 0..50u8 {
        alice
            .socket
            .feed(Message::Binary(frame("bob", &[number; 2_000]).into()))
            .await
            .unwrap();
    }
    alice.socket.close(None).await.unwrap();
    for number in 0..50u8 {
        assert_eq!(bob.binary().await, frame("alice", &[number; 2_000]));
    }
    assert_eq!(
        bob.json().await,
        json!({"type": "agent-left", "agent_id": "alice"})
    );
}
