//! What one client can do to the others: nothing.
//!
//! Falsified if a client can use up more than its share, stop others from being served, or stay unnoticed when it is gone.

mod common;

use std::time::Duration;

use common::*;
use futures::{SinkExt as _, StreamExt as _};
use ifmesh_signaling::ServerMetrics;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::tungstenite::Message;

fn offer(from: &str, to: &str, sdp: &str) -> String {
    json!({"type": "offer", "from": from, "to": to, "offer": {"type": "offer", "sdp": sdp}}).to_string()
}

#[tokio::test]
async fn speaking_as_somebody_else_is_refused_counted_and_ends() {
    let mut settings = config();
    settings.limits.max_violations = 3;
    let server = start(settings).await;
    let mut victim = Raw::connect(&server).await;
    victim.prove("victim", &identity(1), 1).await;
    let mut mallory = Raw::connect(&server).await;
    mallory.prove("mallory", &identity(2), 1).await;
    assert_eq!(victim.json().await["type"], "agent-joined");
    for _ in 0..3 {
        mallory.send(offer("alice", "victim", "v=0")).await;
        assert_eq!(mallory.error_code().await, "from-mismatch");
    }
    assert_eq!(mallory.close_code().await, Some(1008));
    // The first thing the victim hears is that mallory left: no spoofed frame came before.
    assert_eq!(
        victim.json().await,
        json!({"type": "agent-left", "agent_id": "mallory"})
    );
    let ServerMetrics {
        from_mismatches,
        violators_closed,
        frames_relayed,
        ..
    } = server.metrics();
    assert_eq!((from_mismatches, violators_closed, frames_relayed), (3, 1, 0));
}

#[tokio::test]
async fn a_frame_over_the_limit_closes_with_1009_and_one_at_the_limit_passes() {
    let mut settings = open();
    settings.limits.max_frame_bytes = 2_000;
    let server = start(settings).await;
    let mut a = Raw::connect(&server).await;
    a.register_plain("a").await;
    let room = 2_000 - offer("a", "a", "").len();
    let exact = offer("a", "a", &"x".repeat(room));
    a.send(exact.clone()).await;
    assert_eq!(a.text().await, exact);
    a.send(offer("a", "a", &"x".repeat(room + 1))).await;
    assert_eq!(a.close_code().await, Some(1009));

    // In many fragments, and without ever ending.
    let mut b = Raw::connect(&server).await;
    b.register_plain("b").await;
    b.send_message(Message::Frame(
        tokio_tungstenite::tungstenite::protocol::frame::Frame::message(
            vec![b'x'; 1_500],
            tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode::Data(
                tokio_tungstenite::tungstenite::protocol::frame::coding::Data::Text,
            ),
            false,
        ),
    ))
    .await;
    b.send_message(Message::Frame(
        tokio_tungstenite::tungstenite::protocol::frame::Frame::message(
            vec![b'x'; 1_500],
            tokio_tungstenite::tungstenite::protocol::frame::coding::OpCode::Data(
                tokio_tungstenite::tungstenite::protocol::frame::coding::Data::Continue,
            ),
            false,
        ),
    ))
    .await;
    assert_eq!(b.close_code().await, Some(1009));
    assert_eq!(server.metrics().frames_oversize, 2);
}

#[tokio::test]
async fn binary_frames_are_refused_politely() {
    let server = start(open()).await;
    let mut a = Raw::connect(&server).await;
    a.send_message(Message::Binary(vec![0, 255, 1].into())).await;
    assert_eq!(a.error_code().await, "binary-frame");
    assert_eq!(a.register_plain("a").await["type"], "registered");
}

/// A flooder is slowed down, loses nothing, and others do not notice.
#[tokio::test]
async fn a_flood_is_slowed_down_and_nobody_else_waits() {
    let mut settings = open();
    settings.limits.frames_per_second = 100;
    settings.limits.frame_burst = 10;
    let server = start(settings).await;
    let mut sink = Raw::connect(&server).await;
    sink.register_plain("sink").await;
    let mut flooder = Raw::connect(&server).await;
    flooder.register_plain("flooder").await;
    assert_eq!(sink.json().await["type"], "agent-joined");
    let started = tokio::time::Instant::now();
    for n in 0..60 {
        flooder.send(offer("flooder", "sink", &n.to_string())).await;
    }
    let mut bystander = Raw::connect(&server).await;
    bystander.register_plain("bystander").await;
    let (mut next, mut before_bystander) = (0, None);
    while next < 60 {
        let frame = sink.json().await;
        if frame["type"] == "agent-joined" {
            before_bystander = Some(next);
        } else {
            assert_eq!(frame["offer"]["sdp"], next.to_string());
            next += 1;
        }
    }
    assert!(
        before_bystander.is_some(),
        "the bystander waited for the flood to end"
    );
    // 60 frames, 10 of them free, at 100 per second.
    assert!(
        started.elapsed() >= Duration::from_millis(490),
        "{:?}",
        started.elapsed()
    );
    assert!(server.metrics().frames_throttled > 0);
}

#[tokio::test]
async fn a_client_that_does_not_read_is_dropped_and_stalls_nobody() {
    let mut settings = open();
    settings.limits.queue_bytes = 512 * 1024;
    settings.limits.frame_burst = 100_000;
    settings.limits.close_timeout = Duration::from_millis(200);
    let server = start(settings).await;
    let mut slow = Raw::connect(&server).await;
    slow.register_plain("slow").await;
    let mut reader = Raw::connect(&server).await;
    reader.register_plain("reader").await;
    let mut sender = Raw::connect(&server).await;
    sender.register_plain("sender").await;
    assert_eq!(reader.json().await["agent_id"], "sender");
    let big = "x".repeat(100_000);
    let mut dropped = false;
    for n in 0..2_000 {
        sender.send(offer("sender", "slow", &big)).await;
        sender.send(offer("sender", "reader", &n.to_string())).await;
        // Each frame to the reader comes through at once, whatever the slow one does.
        let mut frame = reader.json().await;
        if frame["type"] == "agent-left" {
            assert_eq!(frame["agent_id"], "slow");
            dropped = true;
            frame = reader.json().await;
        }
        assert_eq!(frame["offer"]["sdp"], n.to_string());
        if dropped {
            break;
        }
    }
    assert!(dropped, "200 MB were queued");
    assert_eq!(server.metrics().slow_clients, 1);
}

#[tokio::test]
async fn who_does_not_register_in_time_is_closed() {
    let mut settings = config();
    settings.limits.registration_timeout = Duration::from_millis(100);
    let server = start(settings).await;
    // Nothing at all, not even a handshake.
    let mut tcp = TcpStream::connect(server.local_addr()).await.unwrap();
    let mut none = [0; 1];
    assert_eq!(timeout(SOON, tcp.read(&mut none)).await.unwrap().unwrap_or(0), 0);
    // A handshake, then pings for ever.
    let raw = Raw::connect(&server).await;
    let (mut sink, mut source) = raw.socket.split();
    let pinging = tokio::spawn(async move {
        while sink.send(Message::Ping(Default::default())).await.is_ok() {
            tokio::task::yield_now().await;
        }
    });
    let code = timeout(SOON, async {
        while let Some(Ok(message)) = source.next().await {
            if let Message::Close(frame) = message {
                return frame.map(|frame| u16::from(frame.code));
            }
        }
        None
    });
    assert_eq!(code.await.unwrap(), Some(4002));
    pinging.abort();
    // A challenge that is never answered.
    let mut half = Raw::connect(&server).await;
    let key = identity(1).public_key().to_hex();
    half.send(json!({"type": "register", "agent_id": "a", "public_key": key, "epoch": 1}).to_string())
        .await;
    assert_eq!(half.json().await["type"], "challenge");
    assert_eq!(half.close_code().await, Some(4002));
    assert_eq!(server.metrics().registration_timeouts, 3);
}

/// What a cut cable looks like: the socket is open and nothing comes.
#[tokio::test]
async fn a_silent_client_leaves_within_the_idle_timeout() {
    let mut settings = open();
    settings.limits.ping_interval = Duration::from_millis(100);
    settings.limits.idle_timeout = Duration::from_millis(400);
    let server = start(settings).await;
    let mut watcher = Raw::connect(&server).await;
    watcher.register_plain("watcher").await;
    let mut silent = Raw::connect(&server).await;
    silent.register_plain("silent").await;
    assert_eq!(watcher.json().await["type"], "agent-joined");
    // The watcher reads, so its pongs keep it; the silent one does not.
    assert_eq!(
        watcher.json().await,
        json!({"type": "agent-left", "agent_id": "silent"})
    );
    assert_eq!(silent.close_code().await, Some(4003));
    assert_eq!(server.metrics().idle_timeouts, 1);
    assert_eq!(server.metrics().agents, 1);
}

#[tokio::test]
async fn one_connection_too_many_is_turned_away() {
    let mut settings = open();
    settings.limits.max_connections = 1;
    let server = start(settings).await;
    let mut a = Raw::connect(&server).await;
    a.register_plain("a").await;
    let mut tcp = TcpStream::connect(server.local_addr()).await.unwrap();
    let mut answer = String::new();
    timeout(SOON, tcp.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(server.metrics().connections_refused, 1);
}

#[tokio::test]
async fn what_is_no_websocket_is_refused() {
    let server = start(open()).await;
    for request in ["GET / HTTP/1.1\r\nHost: x\r\n\r\n", "\0\0\0\0\r\n\r\n"] {
        let mut tcp = TcpStream::connect(server.local_addr()).await.unwrap();
        tcp.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        let _ = timeout(SOON, tcp.read_to_end(&mut answer)).await.unwrap();
    }
    assert_eq!(server.metrics().handshakes_failed, 2);
    let mut a = Raw::connect(&server).await;
    assert_eq!(a.register_plain("a").await["type"], "registered");
}
