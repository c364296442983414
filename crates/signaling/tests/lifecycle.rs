//! Coming, going, shutting down.
//!
//! Falsified if an agent's end goes unnoticed, or if a closed server leaves a socket or a task behind.

mod common;

use std::time::Duration;

use common::*;
use ifmesh_signaling::{Event, IceCandidate, Server, Signal};
use serde_json::json;
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::MaybeTlsStream;

#[tokio::test]
async fn join_relay_leave() {
    let server = start(config()).await;
    let mut a = client(&server, "a", 1, 1);
    assert_eq!(registered(&mut a).await, []);
    let mut b = client(&server, "b", 2, 1);
    assert_eq!(registered(&mut b).await, [id("a")]);
    match event(&mut a).await {
        Event::Joined(agent) => {
            assert_eq!(agent.agent_id, id("b"));
            assert_eq!(agent.public_key, Some(*identity(2).public_key()));
            assert_eq!(agent.epoch, Some(1));
        }
        other => panic!("{other:?}"),
    }
    let signals = [
        Signal::Offer {
            sdp: "v=0\r\n".into(),
            statement: None,
        },
        Signal::Candidate(IceCandidate {
            candidate: "candidate:1".into(),
            ..IceCandidate::default()
        }),
        Signal::Answer {
            sdp: "ü \u{1F600}".into(),
            statement: None,
        },
    ];
    for signal in &signals {
        a.send(id("b"), signal.clone()).await.unwrap();
    }
    for signal in signals {
        assert_eq!(
            event(&mut b).await,
            Event::Signal {
                from: id("a"),
                signal
            }
        );
    }
    b.close().await;
    assert_eq!(event(&mut a).await, Event::Left(id("b")));
    assert_eq!(server.metrics().frames_relayed, 3);
    server.shutdown().await;
}

#[tokio::test]
async fn a_reset_is_a_leave_at_once() {
    let server = start(open()).await;
    let mut watcher = Raw::connect(&server).await;
    watcher.register_plain("watcher").await;
    let mut victim = Raw::connect(&server).await;
    victim.register_plain("victim").await;
    watcher.json().await;
    let MaybeTlsStream::Plain(stream) = victim.socket.get_ref() else {
        unreachable!()
    };
    stream.set_zero_linger().unwrap();
    let killed = tokio::time::Instant::now();
    drop(victim);
    assert_eq!(
        watcher.json().await,
        json!({"type": "agent-left", "agent_id": "victim"})
    );
    assert!(
        killed.elapsed() < Duration::from_secs(5),
        "that was the idle timeout"
    );
}

#[tokio::test]
async fn shutdown_says_goodbye_to_all_and_waits_for_nobody() {
    let mut settings = open();
    settings.limits.close_timeout = Duration::from_millis(200);
    let server = start(settings).await;
    let mut raws = Vec::new();
    for name in ["a", "b", "c"] {
        let mut raw = Raw::connect(&server).await;
        raw.register_plain(name).await;
        raws.push(raw);
    }
    // One in the middle of its handshake.
    let half = TcpStream::connect(server.local_addr()).await.unwrap();
    let address = server.local_addr();
    timeout(Duration::from_secs(2), server.shutdown())
        .await
        .expect("bounded");
    for raw in &mut raws {
        assert_eq!(raw.close_code().await, Some(1001));
    }
    drop(half);
    // The port is free again.
    let mut settings = open();
    settings.listen = address;
    Server::bind(settings, random()).await.unwrap();
}

#[tokio::test]
async fn a_dropped_server_closes_its_sockets() {
    let server = start(open()).await;
    let mut a = Raw::connect(&server).await;
    a.register_plain("a").await;
    drop(server);
    assert_eq!(a.close_code().await, None);
}

#[tokio::test]
async fn a_taken_port_is_an_error_that_names_it() {
    let server = start(open()).await;
    let mut settings = open();
    settings.listen = server.local_addr();
    let error = Server::bind(settings, random()).await.unwrap_err();
    assert!(
        error.to_string().contains(&server.local_addr().to_string()),
        "{error}"
    );
}
