//! The client keeps its connection up, gives up when it must, and survives any server.
//!
//! Falsified if it stays away after a restart, hammers a server that refused it, or ends because of what a server sent.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use common::*;
use futures::{SinkExt as _, StreamExt as _};
use ifmesh_signaling::{
    Client, ClientConfig, DisconnectReason, ErrorCode, Event, InvalidClientConfig, Refusal, Signal,
};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};

fn offer(sdp: &str) -> Signal {
    Signal::Offer {
        sdp: sdp.into(),
        statement: None,
    }
}

/// A server that the test plays itself.
struct Stage {
    listener: TcpListener,
}

impl Stage {
    async fn new() -> Self {
        Self {
            listener: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    fn config(&self) -> ClientConfig {
        ClientConfig::new(
            [url(self.listener.local_addr().unwrap())],
            id("a"),
            identity(1),
            1,
        )
    }

    async fn accept(&self) -> WebSocketStream<TcpStream> {
        let (stream, _) = timeout(SOON, self.listener.accept()).await.unwrap().unwrap();
        accept_async(stream).await.unwrap()
    }

    /// Takes a registration without asking for proof, as the original does.
    async fn accept_and_register(&self) -> WebSocketStream<TcpStream> {
        let mut socket = self.accept().await;
        let register = timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap();
        assert!(register.to_text().unwrap().contains(r#""type":"register""#));
        say(
            &mut socket,
            r#"{"type":"registered","agent_id":"a","connected_agents":["b"]}"#,
        )
        .await;
        socket
    }
}

async fn say(socket: &mut WebSocketStream<TcpStream>, text: &str) {
    socket.send(Message::Text(text.into())).await.unwrap();
}

#[tokio::test]
async fn comes_back_when_the_server_restarts_on_the_same_port() {
    let server = start(config()).await;
    let mut settings = config();
    settings.listen = server.local_addr();
    let mut a = client(&server, "a", 1, 1);
    let mut b = client(&server, "b", 2, 1);
    registered(&mut a).await;
    registered(&mut b).await;
    server.shutdown().await;
    let gone = event_where(&mut a, |event| matches!(event, Event::Disconnected { .. })).await;
    match gone {
        Event::Disconnected {
            reason: DisconnectReason::Closed { code: 1001, .. },
            retry_in,
        } => {
            assert!(retry_in >= Duration::from_millis(100) && retry_in <= Duration::from_secs(10));
        }
        other => panic!("{other:?}"),
    }
    // Accepted while there is no server, sent when there is one.
    a.send(id("b"), offer("later")).await.unwrap();
    let server = start(settings).await;
    registered(&mut b).await;
    registered(&mut a).await;
    let back = event_where(&mut b, |event| {
        matches!(event, Event::Signal { .. } | Event::Left(_))
    });
    // b may have come back after a's offer was sent; then a hears of it.
    tokio::select! {
        event = back => assert_eq!(event, Event::Signal { from: id("a"), signal: offer("later") }),
        event = event_where(&mut a, |event| matches!(event, Event::ServerError { .. })) => {
            assert!(matches!(event, Event::ServerError { code: Some(ErrorCode::AgentNotFound), agent_id: Some(to), .. } if to == id("b")));
        }
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_refusal_is_final_and_not_repeated() {
    let server = start(config()).await;
    let mut owner = client(&server, "a", 1, 1);
    registered(&mut owner).await;
    let mut thief = client(&server, "a", 2, 1);
    match event(&mut thief).await {
        Event::Refused(Refusal::ByServer { code, .. }) => assert_eq!(code, ErrorCode::IdTaken),
        other => panic!("{other:?}"),
    }
    assert_eq!(timeout(SOON, thief.recv()).await.unwrap(), None);
    assert!(thief.send(id("a"), offer("")).await.is_err());
    assert_eq!(server.metrics().registrations_refused, 1);
}

#[tokio::test]
async fn two_processes_with_one_key_do_not_take_turns() {
    let server = start(config()).await;
    let mut first = client(&server, "a", 1, 1);
    registered(&mut first).await;
    let mut second = client(&server, "a", 1, 2);
    registered(&mut second).await;
    assert!(matches!(
        event(&mut first).await,
        Event::Refused(Refusal::Replaced { .. })
    ));
    assert_eq!(first.recv().await, None);
    assert_eq!(server.metrics().registrations, 2);
}

#[tokio::test]
async fn goes_on_to_the_next_server() {
    let server = start(config()).await;
    let dead = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let full = {
        let mut settings = config();
        settings.allow(id("somebody"), identity(7).public_key());
        start(settings).await
    };
    let config = ClientConfig::new(
        [url(dead), url(full.local_addr()), url(server.local_addr())],
        id("a"),
        identity(1),
        1,
    );
    let mut a = Client::connect(config, random()).unwrap();
    assert!(matches!(
        event(&mut a).await,
        Event::Disconnected {
            reason: DisconnectReason::Unreachable { .. },
            ..
        }
    ));
    assert!(matches!(
        event(&mut a).await,
        Event::Disconnected {
            reason: DisconnectReason::Refused(_),
            ..
        }
    ));
    match event(&mut a).await {
        Event::Registered { url: at, .. } => assert_eq!(at, url(server.local_addr())),
        other => panic!("{other:?}"),
    }
}

/// Fails if agents that failed over at different times stay apart for ever, or if going back takes more than one registration.
#[tokio::test]
async fn agents_meet_again_at_the_first_server() {
    let first = start(config()).await;
    let second = start(config()).await;
    let mut settings = config();
    settings.listen = first.local_addr();
    let urls = [url(first.local_addr()), url(second.local_addr())];
    let connect = |name: &str, seed| {
        let mut config = ClientConfig::new(urls.clone(), id(name), identity(seed), 1);
        config.limits.return_interval = Duration::from_millis(100);
        Client::connect(config, random()).unwrap()
    };
    let mut a = connect("a", 1);
    registered(&mut a).await;
    first.shutdown().await;
    let at = |event: &Event, wanted: &str| matches!(event, Event::Registered { url, .. } if url == wanted);
    event_where(&mut a, |event| at(event, &urls[1])).await;
    // To b the first server is the only one that it ever saw.
    let first = start(settings).await;
    let mut b = connect("b", 2);
    event_where(&mut b, |event| at(event, &urls[0])).await;
    let back = event_where(&mut a, |event| {
        matches!(
            event,
            Event::Disconnected {
                reason: DisconnectReason::Returned { .. },
                ..
            }
        )
    });
    back.await;
    assert_eq!(registered(&mut a).await, [id("b")]);
    let joined = event(&mut b).await;
    assert!(
        matches!(&joined, Event::Joined(agent) if agent.agent_id == id("a")),
        "{joined:?}"
    );
    a.send(id("b"), offer("here")).await.unwrap();
    let here = Event::Signal {
        from: id("a"),
        signal: offer("here"),
    };
    assert_eq!(event(&mut b).await, here);
    assert_eq!(
        (first.metrics().registrations, second.metrics().registrations),
        (2, 1)
    );
    assert_eq!(second.metrics().agents, 0);
}

/// Fails if an agent takes itself for another process where two urls lead to one server.
#[tokio::test]
async fn one_server_with_two_urls_is_gone_back_to_once() {
    let server = start(config()).await;
    let port = server.local_addr().port();
    // The first way there opens later.
    let gate = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let by_gate = url(gate.local_addr().unwrap());
    let open = async {
        let (mut refused, _) = gate.accept().await.unwrap();
        refused.shutdown().await.unwrap();
        loop {
            let (mut inside, _) = gate.accept().await.unwrap();
            let mut outside = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut inside, &mut outside).await });
        }
    };
    let gatekeeper = async {
        let mut config = ClientConfig::new(
            [by_gate.clone(), url(server.local_addr())],
            id("a"),
            identity(1),
            1,
        );
        config.limits.return_interval = Duration::from_millis(100);
        let mut a = Client::connect(config, random()).unwrap();
        let at =
            |event: &Event, wanted: &str| matches!(event, Event::Registered { url, .. } if url == wanted);
        event_where(&mut a, |event| at(event, &url(server.local_addr()))).await;
        event_where(&mut a, |event| at(event, &by_gate)).await;
        a.close().await;
    };
    tokio::select! {
        () = open => {}
        () = gatekeeper => {}
    }
    assert_eq!(server.metrics().registrations, 2);
}

#[tokio::test]
async fn a_server_of_another_name_gets_no_proof() {
    let server = start(config()).await;
    let mut config = ClientConfig::new([url(server.local_addr())], id("a"), identity(1), 1);
    config.server_id = Some(id("server-2"));
    let mut a = Client::connect(config, random()).unwrap();
    match event(&mut a).await {
        Event::Refused(Refusal::WrongServer { found, .. }) => assert_eq!(found, id("server-1")),
        other => panic!("{other:?}"),
    }
    assert_eq!(server.metrics().registrations, 0);
}

#[tokio::test]
async fn registers_with_a_server_of_the_original_protocol() {
    let stage = Stage::new().await;
    let mut a = Client::connect(stage.config(), random()).unwrap();
    let mut server = stage.accept_and_register().await;
    assert_eq!(registered(&mut a).await, [id("b")]);
    say(
        &mut server,
        r#"{"type":"error","message":"Error: Agent c not found"}"#,
    )
    .await;
    assert_eq!(
        event(&mut a).await,
        Event::ServerError {
            code: None,
            message: "Error: Agent c not found".into(),
            agent_id: None
        }
    );
}

#[tokio::test]
async fn a_hostile_server_is_endured() {
    let stage = Stage::new().await;
    let mut a = Client::connect(stage.config(), random()).unwrap();
    let mut server = stage.accept_and_register().await;
    registered(&mut a).await;
    let nonsense = [
        "",
        "[]",
        "{}",
        "null",
        r#"{"type":"challenge","nonce":"zz","server_id":"s"}"#,
        r#"{"type":"registered","agent_id":"a","connected_agents":[]}"#,
        r#"{"type":"agent-left","agent_id":"a"}"#,
        r#"{"type":"agent-joined","agent_id":"a"}"#,
        r#"{"type":"offer","from":"b","to":"c","offer":{"type":"offer","sdp":""}}"#,
        r#"{"type":"offer","from":"a","to":"a","offer":{"type":"offer","sdp":""}}"#,
        r#"{"type":"offer","from":"b","to":"a","offer":{"type":"offer","sdp":""},"statement":{}}"#,
        r#"{"type":"from-the-future"}"#,
    ];
    for text in nonsense {
        say(&mut server, text).await;
    }
    server.send(Message::Binary(vec![1, 2, 3].into())).await.unwrap();
    say(
        &mut server,
        r#"{"type":"offer","from":"b","to":"a","offer":{"type":"offer","sdp":"real"}}"#,
    )
    .await;
    assert_eq!(
        event(&mut a).await,
        Event::Signal {
            from: id("b"),
            signal: offer("real")
        }
    );
    assert_eq!(a.ignored_frames(), nonsense.len() as u64 + 1);
    // Too much at once ends the connection, not the client.
    let big = json!({"type": "error", "message": "x".repeat(2 << 20)}).to_string();
    let _ = server.send(Message::Text(big.into())).await;
    assert!(matches!(
        event(&mut a).await,
        Event::Disconnected {
            reason: DisconnectReason::Broken(_),
            ..
        }
    ));
    let _again = stage.accept_and_register().await;
    registered(&mut a).await;
}

#[tokio::test]
async fn a_server_that_goes_silent_is_left() {
    let stage = Stage::new().await;
    let mut config = stage.config();
    config.limits.ping_interval = Duration::from_millis(50);
    config.limits.idle_timeout = Duration::from_millis(300);
    config.limits.connect_timeout = Duration::from_millis(500);
    let mut a = Client::connect(config, random()).unwrap();
    // Never read again, so no pong is ever sent.
    let _silent = stage.accept_and_register().await;
    registered(&mut a).await;
    assert!(matches!(
        event(&mut a).await,
        Event::Disconnected {
            reason: DisconnectReason::Idle,
            ..
        }
    ));
    // Takes the connection and does not register.
    let _mute = stage.accept().await;
    assert!(matches!(
        event(&mut a).await,
        Event::Disconnected {
            reason: DisconnectReason::RegistrationTimeout { .. },
            ..
        }
    ));
}

/// Fails if a client that has reason to doubt its server waits as long as any other, or leaves one that answers.
#[tokio::test]
async fn a_server_that_is_doubted_must_answer_soon() {
    let stage = Stage::new().await;
    let mut a = Client::connect(stage.config(), random()).unwrap();
    let _silent = stage.accept_and_register().await;
    registered(&mut a).await;
    a.sender().doubt();
    assert!(matches!(
        event(&mut a).await,
        Event::Disconnected {
            reason: DisconnectReason::Idle,
            ..
        }
    ));
    let mut answering = stage.accept_and_register().await;
    registered(&mut a).await;
    a.sender().doubt();
    let stays = async {
        tokio::select! {
            event = a.recv() => panic!("{event:?}"),
            () = async { while answering.next().await.is_some() {} } => panic!("closed"),
        }
    };
    assert!(timeout(Duration::from_secs(3), stays).await.is_err());
}

/// Fails if the doubt waits until a write is over that may never be.
#[tokio::test]
async fn a_doubted_server_that_takes_nothing_is_left_soon() {
    let stage = Stage::new().await;
    let mut a = Client::connect(stage.config(), random()).unwrap();
    // Never read again.
    let _deaf = stage.accept_and_register().await;
    registered(&mut a).await;
    // More than the kernel keeps for both ends: in the end a write is stuck, and the queue behind it is full.
    let sender = a.sender();
    let large = offer(&"x".repeat(256 << 10));
    while timeout(Duration::from_millis(500), sender.send(id("b"), large.clone()))
        .await
        .is_ok()
    {}
    sender.doubt();
    // A third of the time that a write may take otherwise.
    let left = timeout(Duration::from_secs(10), a.recv()).await;
    assert!(matches!(
        left.expect("left long before the write would be given up"),
        Some(Event::Disconnected {
            reason: DisconnectReason::Idle,
            ..
        })
    ));
}

/// An owner who only sends must not lock itself up behind events that it does not take.
#[tokio::test]
async fn signals_go_out_while_events_wait() {
    let stage = Stage::new().await;
    let mut config = stage.config();
    config.limits.queue_events = 1;
    config.limits.queue_signals = 1;
    let a = Client::connect(config, random()).unwrap();
    let mut server = stage.accept_and_register().await;
    for _ in 0..20 {
        say(&mut server, r#"{"type":"agent-joined","agent_id":"b"}"#).await;
    }
    for n in 0..20 {
        timeout(SOON, a.send(id("b"), offer(&n.to_string())))
            .await
            .expect("not stuck")
            .unwrap();
    }
    let mut offers = 0;
    while offers < 20 {
        if let Message::Text(_) = timeout(SOON, server.next()).await.unwrap().unwrap().unwrap() {
            offers += 1;
        }
    }
    timeout(Duration::from_secs(3), a.close()).await.expect("bounded");
}

#[tokio::test]
async fn what_waited_too_long_is_dropped_and_counted() {
    let stage = Stage::new().await;
    let mut config = stage.config();
    config.limits.max_signal_age = Duration::from_millis(50);
    let mut a = Client::connect(config, random()).unwrap();
    a.send(id("b"), offer("old")).await.unwrap();
    let mut socket = stage.accept().await;
    let _register = socket.next().await;
    // The signal grows old, while nobody waits.
    tokio::time::pause();
    tokio::time::advance(Duration::from_millis(60)).await;
    tokio::time::resume();
    say(
        &mut socket,
        r#"{"type":"registered","agent_id":"a","connected_agents":[]}"#,
    )
    .await;
    registered(&mut a).await;
    a.send(id("b"), offer("new")).await.unwrap();
    let Message::Text(text) = timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap() else {
        panic!("a text frame was expected");
    };
    assert!(text.contains("new"), "{text}");
    assert_eq!(a.expired_signals(), 1);
}

#[tokio::test]
async fn a_configuration_that_cannot_work_is_refused_at_once() {
    let with = |urls: &[&str], epoch| {
        let config = ClientConfig::new(urls.iter().copied(), id("a"), identity(1), epoch);
        Client::connect(config, random()).map(|_| ()).unwrap_err()
    };
    assert_eq!(with(&[], 1), InvalidClientConfig::NoUrls);
    for bad in ["", "http://x", "wss://", "127.0.0.1:1", "ws://", "ws://\0"] {
        assert_eq!(
            with(&[bad], 1),
            InvalidClientConfig::BadUrl(bad.to_owned()),
            "{bad:?}"
        );
    }
    assert_eq!(
        with(&["ws://127.0.0.1:1"], 1 << 53),
        InvalidClientConfig::BadEpoch(1 << 53)
    );
}

#[tokio::test]
async fn a_dropped_client_leaves_at_once() {
    let server = start(config()).await;
    let mut a = client(&server, "a", 1, 1);
    registered(&mut a).await;
    let mut b = client(&server, "b", 2, 1);
    registered(&mut b).await;
    assert!(matches!(event(&mut a).await, Event::Joined(_)));
    drop(b);
    assert_eq!(event(&mut a).await, Event::Left(id("b")));
}
