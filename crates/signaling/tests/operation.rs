//! What an operator needs: to end a server without losing its clients, to see how it does, to bound what an address takes, and
//! to hand out TURN servers.
//!
//! Falsified if a client that was told where to go goes elsewhere or is lured from TLS; if health or metrics lie; if one
//! address can take all sockets; if credentials expire while a client is connected.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use std::{net::SocketAddr, time::Duration};

use common::*;
use futures::{SinkExt as _, StreamExt as _};
use ifmesh_signaling::{Client, ClientConfig, Event, IceConfig, SocketRole};
use ifmsg::Timestamp;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{accept_async, tungstenite::Message};

#[tokio::test]
async fn a_server_that_ends_sends_its_clients_elsewhere() {
    let second = start(config()).await;
    let mut settings = config();
    let nobody = "ws://127.0.0.1:1".to_owned();
    settings.alternatives = vec![nobody, url(second.local_addr())];
    let first = start(settings).await;
    let mut told = Raw::connect(&first).await;
    told.prove("raw", &identity(2), 1).await;
    // It knows the first server only.
    let mut alice = client(&first, "alice", 1, 1);
    assert_eq!(registered(&mut alice).await, [id("raw")]);
    assert_eq!(told.json().await["type"], "agent-joined");

    first.shutdown().await;
    let going_away = loop {
        let frame = told.json().await;
        if frame["type"] != "agent-left" {
            break frame;
        }
    };
    assert_eq!(
        going_away,
        json!({"type": "going-away", "urls": ["ws://127.0.0.1:1", url(second.local_addr())]})
    );
    assert_eq!(told.close_code().await, Some(1001));
    match event_where(&mut alice, |event| matches!(event, Event::Registered { .. })).await {
        Event::Registered { url: at, .. } => assert_eq!(at, url(second.local_addr())),
        _ => unreachable!(),
    }
    second.shutdown().await;
}

#[tokio::test]
async fn of_the_urls_that_a_server_names_few_are_tried_and_only_urls() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let good = start(config()).await;
    let mut config = ClientConfig::new([url(address)], id("alice"), identity(1), 1);
    config.limits.backoff_max = Duration::from_millis(100);
    let mut alice = Client::connect(config, random()).unwrap();
    let (stream, _) = listener.accept().await.unwrap();
    let mut socket = accept_async(stream).await.unwrap();
    let registered = json!({"type": "registered", "agent_id": "alice", "connected_agents": []});
    socket
        .send(Message::Text(registered.to_string().into()))
        .await
        .unwrap();
    // Of a thousand urls, eight are tried; what is none is not.
    let mut urls = vec!["http://x".to_owned(), "".to_owned(), url(good.local_addr())];
    urls.extend((0..1_000).map(|_| "ws://127.0.0.1:1".to_owned()));
    let going = json!({"type": "going-away", "urls": urls});
    socket
        .send(Message::Text(going.to_string().into()))
        .await
        .unwrap();
    socket.close(None).await.unwrap();
    drop(socket);
    let mut tried = Vec::new();
    loop {
        match event(&mut alice).await {
            Event::Registered { url, .. } => {
                tried.push(url);
                if tried.len() == 2 {
                    break;
                }
            }
            Event::Disconnected { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(tried, [url(address), url(good.local_addr())]);
}

async fn http(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    // A request that is too long is cut off, which may be a reset.
    let _ = timeout(SOON, stream.read_to_string(&mut answer)).await.unwrap();
    answer
}

#[tokio::test]
async fn health_and_metrics_are_served_apart() {
    let mut settings = config();
    settings.admin = Some("127.0.0.1:0".parse().unwrap());
    let server = start(settings).await;
    let mut alice = client(&server, "alice", 1, 1);
    registered(&mut alice).await;
    let admin = server.admin_addr().unwrap();
    let health = http(admin, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(
        health.starts_with("HTTP/1.1 200 OK\r\n") && health.ends_with("\r\n\r\nok\n"),
        "{health}"
    );
    let metrics = http(admin, "GET /metrics?x HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(metrics.contains("text/plain; version=0.0.4"), "{metrics}");
    for line in [
        "# TYPE ifmesh_signaling_agents gauge\nifmesh_signaling_agents 1\n",
        "# TYPE ifmesh_signaling_registrations_total counter\nifmesh_signaling_registrations_total 1\n",
        "# HELP ifmesh_signaling_agents Agents registered now.\n",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    // Each line is a comment or a name and a number: what a scraper needs.
    for line in metrics.split("\r\n\r\n").nth(1).unwrap().lines() {
        let is_sample = line
            .split_once(' ')
            .is_some_and(|(_, value)| value.parse::<u64>().is_ok());
        assert!(line.starts_with("# ") || is_sample, "{line}");
    }
    let head = http(admin, "HEAD /healthz HTTP/1.1\r\n\r\n").await;
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    assert!(
        http(admin, "POST /metrics HTTP/1.1\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 405")
    );
    assert!(
        http(admin, "GET / HTTP/1.1\r\n\r\n")
            .await
            .starts_with("HTTP/1.1 404")
    );
    assert_eq!(http(admin, &"x".repeat(10_000)).await, "");
    server.shutdown().await;
    assert!(TcpStream::connect(admin).await.is_err());
}

#[tokio::test]
async fn one_address_cannot_take_all_sockets() {
    let mut settings = config();
    settings.limits.max_connections_per_address = 3;
    let server = start(settings).await;
    let address = server.local_addr();
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(TcpStream::connect(address).await.unwrap());
    }
    let mut turned_away = TcpStream::connect(address).await.unwrap();
    let mut answer = String::new();
    timeout(SOON, turned_away.read_to_string(&mut answer))
        .await
        .unwrap()
        .unwrap();
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    assert_eq!(server.metrics().connections_refused, 1);
    // Another address has its own share.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let stream = socket.connect(address).await.unwrap();
    let request = url(address);
    tokio_tungstenite::client_async(request, stream).await.unwrap();
    // And so has the first, once it lets go.
    drop(held);
    let again = async {
        loop {
            let stream = TcpStream::connect(address).await.unwrap();
            if tokio_tungstenite::client_async(url(address), stream)
                .await
                .is_ok()
            {
                break;
            }
        }
    };
    timeout(SOON, again).await.unwrap();
}

#[tokio::test]
async fn turn_servers_are_handed_out_on_registration() {
    let now = Timestamp::parse("2026-11-22T14:10:00.000Z").unwrap();
    let mut settings = open();
    let ice = IceConfig::new(["stun:127.0.0.1:3478"], move || now);
    settings.ice = Some(ice.turn(["turn:127.0.0.1:3478"], b"north", Duration::from_secs(600)));
    let server = start(settings).await;
    let mut alice = client(&server, "alice", 1, 1);
    let mut servers = alice.ice_servers();
    assert!(servers.borrow().ice_servers.is_empty());
    registered(&mut alice).await;
    let granted = servers.borrow_and_update().clone();
    assert_eq!(granted.ice_expires_in, 600);
    assert_eq!(granted.ice_servers[0].urls, ["stun:127.0.0.1:3478"]);
    assert_eq!(granted.ice_servers[1].username, "1795357200:alice");
    assert_eq!(granted.ice_servers[1].credential, "DXSiYUi6PyMp+egH4X4aPnWiafI=");
    // Asked for again; and not given to the original's clients, whoever they are.
    let mut raw = Raw::connect(&server).await;
    let welcome = raw.prove("bob", &identity(2), 1).await;
    assert_eq!(welcome["ice_servers"][1]["username"], "1795357200:bob");
    raw.send(json!({"type": "ice-servers"}).to_string()).await;
    let again = raw.json().await;
    assert_eq!(again["type"], "ice-servers");
    assert_eq!(again["ice_servers"], welcome["ice_servers"]);
    assert_eq!(again["ice_expires_in"], 600);
    let mut original = Raw::connect(&server).await;
    let welcome = original.register_plain("carol").await;
    assert!(welcome.get("ice_servers").is_none(), "{welcome}");
    original.send(json!({"type": "ice-servers"}).to_string()).await;
    assert_eq!(original.json().await["type"], "error");
    let relay = {
        let mut config = ClientConfig::new([url(server.local_addr())], id("alice"), identity(1), 1);
        config.role = SocketRole::Relay;
        let mut relay = Client::connect(config, random()).unwrap();
        registered(&mut relay).await;
        relay
    };
    assert!(relay.ice_servers().borrow().ice_servers.is_empty());
}

#[tokio::test]
async fn credentials_are_renewed_before_they_expire() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let config = ClientConfig::new([url(address)], id("alice"), identity(1), 1);
    let alice = Client::connect(config, random()).unwrap();
    let mut servers = alice.ice_servers();
    let (stream, _) = listener.accept().await.unwrap();
    let mut socket = accept_async(stream).await.unwrap();
    let grant = |kind: &str, username: &str| {
        let server = json!({"urls": ["turn:x:1"], "username": username, "credential": "c"});
        // In a second: the client asks after three, not at once and for ever.
        let mut frame = json!({"type": kind, "ice_servers": [server], "ice_expires_in": 1});
        if kind == "registered" {
            frame["agent_id"] = "alice".into();
            frame["connected_agents"] = json!([]);
        }
        Message::Text(frame.to_string().into())
    };
    socket.send(grant("registered", "one")).await.unwrap();
    let mut asked = 0;
    while asked == 0 {
        match timeout(SOON, socket.next()).await.unwrap().unwrap().unwrap() {
            Message::Text(text) if text.contains("ice-servers") => asked += 1,
            _ => {}
        }
    }
    assert_eq!(servers.borrow_and_update().ice_servers[0].username, "one");
    socket.send(grant("ice-servers", "two")).await.unwrap();
    timeout(SOON, servers.changed()).await.unwrap().unwrap();
    assert_eq!(servers.borrow_and_update().ice_servers[0].username, "two");
    // What it has stays through a disconnection.
    drop(socket);
    drop(listener);
    assert_eq!(servers.borrow().ice_servers[0].username, "two");
}
