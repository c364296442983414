//! A signaling server that changes, drops, forges and repeats what it carries. All it can gain is that no link comes up.
//!
//! Falsified by a link that comes up all the same, or by a refusal that is not reported, or for another reason.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use common::*;
use futures::{SinkExt as _, StreamExt as _};
use ifmesh_signaling::{ClientFrame, FrameLimits, Role, ServerFrame, SessionId, Sha256Digest};
use ifmesh_transport::{IfTransport as _, LinkState};
use ifmesh_transport_webrtc::WebRtcTransport;
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_tungstenite::{accept_async, connect_async, tungstenite::Message};

/// Stands between agents and an honest server. Gets every frame that it carries, and returns what goes on instead.
type Attack = Box<dyn FnMut(Value) -> Vec<Value> + Send>;

/// What the server says to an agent unasked.
type Injected = mpsc::Receiver<Value>;

async fn in_the_middle(server: SocketAddr, attack: Attack, injected: Option<Injected>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let attack = Arc::new(Mutex::new(attack));
    tokio::spawn(async move {
        let mut injected = injected;
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(carry(stream, server, Arc::clone(&attack), injected.take()));
        }
    });
    url
}

async fn carry(
    stream: TcpStream,
    server: SocketAddr,
    attack: Arc<Mutex<Attack>>,
    injected: Option<Injected>,
) -> Option<()> {
    let (mut to_agent, mut from_agent) = accept_async(stream).await.ok()?.split();
    let (socket, _) = connect_async(format!("ws://{server}")).await.ok()?;
    let (mut to_server, mut from_server) = socket.split();
    // Without anything to inject: one that never speaks.
    let (_silent, silence) = mpsc::channel(1);
    let mut injected = injected.unwrap_or(silence);
    let changed = |message: Message| match message {
        Message::Text(text) => {
            let frame = serde_json::from_str(&text).unwrap();
            let frames = attack.lock().unwrap()(frame);
            frames
                .iter()
                .map(|frame| Message::Text(frame.to_string().into()))
                .collect()
        }
        Message::Ping(_) | Message::Pong(_) => vec![],
        other => vec![other],
    };
    loop {
        tokio::select! {
            message = from_agent.next() => for message in changed(message?.ok()?) {
                to_server.send(message).await.ok()?;
            },
            message = from_server.next() => for message in changed(message?.ok()?) {
                to_agent.send(message).await.ok()?;
            },
            Some(frame) = injected.recv() => {
                to_agent.send(Message::Text(frame.to_string().into())).await.ok()?;
            }
        }
    }
}

/// Does this to each offer, or each answer, and lets everything else pass.
fn each(kind: &'static str, mut change: impl FnMut(&mut Value) + Send + 'static) -> Attack {
    Box::new(move |mut frame| {
        if frame["type"] == kind {
            change(&mut frame);
        }
        vec![frame]
    })
}

fn replace_in_sdp(kind: &'static str, old: &'static str, new: &'static str) -> Attack {
    each(kind, move |frame| {
        let sdp = frame[kind]["sdp"].as_str().unwrap();
        frame[kind]["sdp"] = sdp.replace(old, new).into();
    })
}

/// The value of a line of the frame's SDP, replaced by as many other characters.
fn replace_line(kind: &'static str, start: &'static str, value: &'static str) -> Attack {
    each(kind, move |frame| {
        let sdp = frame[kind]["sdp"].as_str().unwrap();
        let lines = sdp.lines().map(|line| match line.strip_prefix(start) {
            Some(_) => format!("{start}{value}\r\n"),
            None => format!("{line}\r\n"),
        });
        frame[kind]["sdp"] = lines.collect::<String>().into();
    })
}

fn no_link(transport: &WebRtcTransport) {
    let up = transport.links().iter().any(|link| link.state == LinkState::Up);
    assert!(!up, "{:?}", transport.links());
    assert_eq!(transport.metrics().links_up, 0);
}

/// Alice and bob behind the attacker; whoever of them refuses first, for this reason.
async fn refused(attack: Attack, reason: &str) {
    let server = server().await;
    let url = in_the_middle(server.local_addr(), attack, None).await;
    let (alice, bob) = (join(&url, "alice", 1).await, join(&url, "bob", 1).await);
    let found = tokio::select! {
        found = refusal(&*alice) => found,
        found = refusal(&*bob) => found,
    };
    assert_eq!(found, reason);
    no_link(&alice);
    no_link(&bob);
}

const FINGERPRINT: &str =
    "sha-256 11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_offer_is_refused() {
    refused(replace_in_sdp("offer", "v=0", "v=1"), "sdp-mismatch").await;
    refused(
        replace_line("offer", "a=ice-pwd:", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"),
        "sdp-mismatch",
    )
    .await;
    refused(
        replace_line("offer", "a=fingerprint:", FINGERPRINT),
        "fingerprint-mismatch",
    )
    .await;
    refused(replace_line("offer", "a=ice-ufrag:", "mallory"), "ufrag-mismatch").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_answer_is_refused() {
    refused(replace_in_sdp("answer", "v=0", "v=1"), "sdp-mismatch").await;
    refused(
        replace_line("answer", "a=fingerprint:", FINGERPRINT),
        "fingerprint-mismatch",
    )
    .await;
    refused(
        replace_line("answer", "a=ice-ufrag:", "mallory"),
        "ufrag-mismatch",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_description_without_its_statement_is_refused() {
    let without = |frame: &mut Value| drop(frame.as_object_mut().unwrap().remove("statement"));
    refused(each("offer", without), "unsigned-description").await;
    refused(each("answer", without), "unsigned-description").await;
}

/// A statement whose members agree with what the server put into the SDP, and whose signature therefore does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_statement_is_refused() {
    for (member, value) in [
        ("fingerprint", json!("11".repeat(32))),
        ("ice_ufrag", json!("mallory")),
        ("epoch", json!(9)),
        ("session", json!("11".repeat(16))),
        ("expires", json!("2099-01-01T00:00:00.000Z")),
        ("to", json!("carol")),
    ] {
        let attack = each("offer", move |frame| frame["statement"][member] = value.clone());
        refused(attack, "bad-signature").await;
    }
}

/// The server signs by itself, with a key of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_description_is_refused() {
    let forge = |frame: &mut Value| {
        let sdp = frame["offer"]["sdp"].as_str().unwrap().to_owned();
        let (from, to) = (frame["from"].as_str().unwrap(), frame["to"].as_str().unwrap());
        let to_sign = ifmesh_signaling::DescriptionToSign {
            from: &id(from),
            to: &id(to),
            session: SessionId::from_bytes([1; 16]),
            role: Role::Offer,
            epoch: 1,
            sdp: &sdp,
            expires: ifmesh_transport::Clock::now(&ifmesh_transport::SystemClock).plus_millis(30_000),
        };
        let signed = ifmesh_signaling::sign_description(&identity("mallory"), &to_sign).unwrap();
        frame["statement"] = serde_json::to_value(signed).unwrap();
    };
    refused(each("offer", forge), "bad-signature").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_description_under_another_name_is_refused() {
    // Bob's offer comes to alice as carol's, whom she trusts as well.
    let server = server().await;
    let attack = each("offer", |frame| frame["from"] = "carol".into());
    let through = in_the_middle(server.local_addr(), attack, None).await;
    let alice = join(&through, "alice", 1).await;
    let _bob = join(&url(&server), "bob", 1).await;
    assert_eq!(refusal(&*alice).await, "bad-signature");
    no_link(&alice);
}

/// Each answer is turned into the offer's own description, in the answerer's name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_that_is_sent_back_as_its_answer_is_refused() {
    let mut offered = Value::Null;
    let attack = Box::new(move |mut frame: Value| {
        if frame["type"] == "offer" {
            offered = frame.clone();
        } else if frame["type"] == "answer" {
            frame["answer"]["sdp"] = offered["offer"]["sdp"].clone();
            frame["statement"] = offered["statement"].clone();
        }
        vec![frame]
    });
    refused(attack, "bad-signature").await;
}

/// An answer that was signed for another offer of the same agents.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_answer_to_another_offer_is_refused() {
    let mut first = None;
    let attack = each("answer", move |frame| match &first {
        None => {
            // The first one gets lost, by way of a change; its text is kept.
            first = Some(frame.clone());
            let sdp = frame["answer"]["sdp"].as_str().unwrap();
            frame["answer"]["sdp"] = format!("{sdp}a=lost\r\n").into();
        }
        Some(first) => *frame = first.clone(),
    });
    let server = server().await;
    let through = in_the_middle(server.local_addr(), attack, None).await;
    let mut impatient = config(&url(&server), "bob", 1);
    impatient.limits.handshake_timeout = std::time::Duration::from_millis(500);
    let (alice, bob) = (join(&through, "alice", 1).await, start(impatient).await);
    assert_eq!(refusal(&*bob).await, "sdp-mismatch");
    assert_eq!(refusal(&*bob).await, "wrong-session");
    no_link(&alice);
    no_link(&bob);
}

/// Fails if a repeated offer or answer, of this life or of the one before, ends a link or makes one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_repeated_harms_no_link() {
    let server = server().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let record = {
        let seen = Arc::clone(&seen);
        Box::new(move |frame: Value| {
            if frame["from"] == "bob" {
                seen.lock().unwrap().push(frame.clone());
            }
            vec![frame]
        })
    };
    let (inject, injected) = mpsc::channel(64);
    let through = in_the_middle(server.local_addr(), record, Some(injected)).await;
    let alice = join(&through, "alice", 1).await;
    let bob = join(&url(&server), "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    let again: Vec<Value> = seen.lock().unwrap().clone();
    assert!(again.iter().any(|frame| frame["type"] == "offer"));
    for frame in &again {
        inject.send(frame.clone()).await.unwrap();
    }
    assert_eq!(refusal(&*alice).await, "replayed-offer");
    exchange(&alice, &bob).await;

    // A later life of bob's; then offers of the former one, which now are stale.
    bob.close().await.unwrap();
    let bob = join(&url(&server), "bob", 2).await;
    while !matches!(
        good_event(&*alice).await,
        ifmesh_transport::TransportEvent::LinkUp { .. }
    ) {}
    up(&*bob, "alice").await;
    for frame in &again {
        inject.send(frame.clone()).await.unwrap();
    }
    assert_eq!(refusal(&*alice).await, "stale-epoch");
    for _ in 0..20 {
        exchange(&alice, &bob).await;
    }
    assert_eq!((alice.metrics().links_up, bob.metrics().links_up), (2, 1));
}

/// Fails if a server's word about who came, in which epoch, and who left, ends a link.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lies_about_who_is_there_harms_no_link() {
    let server = server().await;
    let (inject, injected) = mpsc::channel(64);
    let honest = Box::new(|frame| vec![frame]);
    let through = in_the_middle(server.local_addr(), honest, Some(injected)).await;
    // The larger id, which offers when it hears of a later life.
    let bob = join(&through, "bob", 1).await;
    let alice = join(&url(&server), "alice", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    for epoch in 2..20 {
        inject
            .send(json!({"type": "agent-joined", "agent_id": "alice", "epoch": epoch}))
            .await
            .unwrap();
        inject
            .send(json!({"type": "agent-left", "agent_id": "alice"}))
            .await
            .unwrap();
        inject
            .send(json!({"type": "error", "message": "", "code": "agent-not-found", "agent_id": "alice"}))
            .await
            .unwrap();
        exchange(&alice, &bob).await;
    }
    // Its last word, at least, it will have taken in by now: that a newcomer is there.
    inject
        .send(json!({"type": "agent-joined", "agent_id": "alice", "epoch": 99}))
        .await
        .unwrap();
    let carol = join(&url(&server), "carol", 1).await;
    up(&*bob, "carol").await;
    up(&*alice, "carol").await;
    for _ in 0..50 {
        exchange(&alice, &bob).await;
    }
    // To each other and to carol, once.
    assert_eq!((alice.metrics().links_up, bob.metrics().links_up), (2, 2));
    drop(carol);
}

/// The frames that these tests take apart are spelt as the protocol spells them.
#[test]
fn frames_are_spelt_as_these_tests_take_them_apart() {
    let limits = FrameLimits {
        max_bytes: 10_000,
        max_agents: 10,
    };
    let joined = json!({"type": "agent-joined", "agent_id": "alice", "epoch": 2});
    assert!(ServerFrame::parse(&joined.to_string(), &limits).is_ok());
    let statement = {
        let sdp = format!("a=ice-ufrag:EsAw\r\na=fingerprint:{FINGERPRINT}\r\n");
        let to_sign = ifmesh_signaling::DescriptionToSign {
            from: &id("bob"),
            to: &id("alice"),
            session: SessionId::from_bytes([1; 16]),
            role: Role::Answer {
                to: Sha256Digest::of(b""),
            },
            epoch: 1,
            sdp: &sdp,
            expires: ifmsg::Timestamp::from_unix_millis(0),
        };
        serde_json::to_value(ifmesh_signaling::sign_description(&identity("bob"), &to_sign).unwrap()).unwrap()
    };
    let answer = json!({"type": "answer", "from": "bob", "to": "alice",
        "answer": {"type": "answer", "sdp": ""}, "statement": statement});
    assert!(ClientFrame::parse(&answer.to_string(), &limits).is_ok());
    for member in ["fingerprint", "ice_ufrag", "epoch", "session", "expires", "to"] {
        assert!(!answer["statement"][member].is_null(), "{member}");
    }
}
