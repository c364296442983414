//! How links come, go and come back.
//!
//! Falsified by a link with somebody who is not trusted; by one that stays after its peer's life is over, or does not come back
//! with the next life, or with the server; by a large frame that holds up small ones, or arrives changed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::{sync::Arc, time::Duration};

use common::*;
use ifmesh_signaling::{ClientTls, RelayLimits, Server, ServerTls};
use ifmesh_transport::{
    DownReason, Envelope, IfTransport as _, Lane, LinkState, Path, PeerTrust, SendError, SystemClock,
    TransportEvent,
};
use ifmesh_transport_relay::{RelayConfig, RelayTransport, StartError};
use ifmsg::AgentId;
use tokio::time::timeout;

async fn down(transport: &RelayTransport, name: &str) -> DownReason {
    match event(transport).await {
        TransportEvent::LinkDown { peer, reason } => {
            assert_eq!(peer, id(name));
            reason
        }
        other => panic!("a LinkDown was expected: {other:?}"),
    }
}

#[tokio::test]
async fn a_link_says_how_it_reaches_its_peer() {
    let server = server().await;
    let alice = join(&url(&server), "alice", 1).await;
    let bob = join(&url(&server), "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    exchange(&alice, &bob).await;
    let link = &alice.links()[0];
    assert_eq!((&link.peer, link.state), (&id("bob"), LinkState::Up));
    assert_eq!(link.path, Some(Path::Relayed));
    assert!(link.since.is_some());
    assert!(link.round_trip.is_some_and(|trip| trip < SOON), "{link:?}");
}

/// As through a firewall that lets nothing but HTTPS pass.
#[tokio::test]
async fn agents_are_linked_over_tls() {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (cert, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    let mut settings = server_config();
    settings.tls = Some(ServerTls::from_pem(cert.as_bytes(), key.as_bytes()).unwrap());
    let server = Server::bind(settings, random(1)).await.unwrap();
    let url = format!("wss://localhost:{}", server.local_addr().port());
    let member = async |name: &str| {
        let mut config = config(&url, name, 1);
        config.tls = ClientTls::from_ca_pem(cert.as_bytes()).unwrap();
        start(config).await
    };
    let (alice, bob) = (member("alice").await, member("bob").await);
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    exchange(&alice, &bob).await;
    alice.close().await.unwrap();
    assert_eq!(down(&bob, "alice").await, DownReason::PeerClosed);
}

/// Both know each other's key, and only one of them trusts the other.
#[tokio::test]
async fn who_is_not_trusted_gets_no_link() {
    let server = server().await;
    let mut wary = config(&url(&server), "wary", 1);
    wary.keys = Arc::new(|peer: &AgentId| match peer.as_str() {
        "alice" => PeerTrust::Key(*identity("alice").public_key()),
        _ => PeerTrust::Refuse,
    });
    let wary = start(wary).await;
    let mallory = join(&url(&server), "mallory", 1).await;
    match event(&*wary).await {
        TransportEvent::Refused { peer, reason, .. } => {
            assert_eq!((peer, reason), (Some(id("mallory")), "untrusted-peer"));
        }
        other => panic!("a refusal was expected: {other:?}"),
    }
    // Alice comes later, and is linked with both.
    let alice = join(&url(&server), "alice", 1).await;
    up(&*mallory, "alice").await;
    loop {
        match event(&*wary).await {
            TransportEvent::LinkUp { peer } => break assert_eq!(peer, id("alice")),
            TransportEvent::Refused { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let envelope = Envelope::new(id("wary"), Lane::Reliable, "?");
    assert_eq!(mallory.send(envelope).await, Err(SendError::NoLink(id("wary"))));
    drop(alice);
}

/// Whoever registers under a trusted name with another key is refused by the hello, though the server let it in.
#[tokio::test]
async fn a_name_without_its_key_gets_no_link() {
    let server = server().await;
    let alice = join(&url(&server), "alice", 1).await;
    let keys = |peer: &AgentId| PeerTrust::Key(*identity(peer.as_str()).public_key());
    let false_bob = RelayConfig::new(id("bob"), identity("mallory"), 1, [url(&server)], Arc::new(keys));
    let false_bob = start(false_bob).await;
    match event(&*alice).await {
        TransportEvent::Refused { peer, reason, .. } => {
            assert_eq!((peer, reason), (Some(id("bob")), "hello-bad-signature"));
        }
        other => panic!("a refusal was expected: {other:?}"),
    }
    assert_eq!((alice.metrics().links_up, false_bob.metrics().links_up), (0, 0));
}

/// What the server says of keys decides only where that was asked for.
#[tokio::test]
async fn a_claimed_key_links_where_claims_are_accepted() {
    let server = server().await;
    let claims = |name: &str| {
        let mut config = config(&url(&server), name, 1);
        config.keys = Arc::new(|_: &AgentId| PeerTrust::AcceptClaimed);
        config.identity = identity(&format!("{name}-of-today"));
        config
    };
    let (alice, bob) = (start(claims("alice")).await, start(claims("bob")).await);
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    exchange(&alice, &bob).await;
}

#[tokio::test]
async fn a_later_life_takes_the_place_of_the_former_one_at_once() {
    let server = server().await;
    let alice = join(&url(&server), "alice", 1).await;
    let former = join(&url(&server), "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*former, "alice").await;
    let later = join(&url(&server), "bob", 2).await;
    down(&alice, "bob").await;
    up(&*alice, "bob").await;
    up(&*later, "alice").await;
    exchange(&alice, &later).await;
    // The former one is out for good.
    assert_eq!(down(&former, "alice").await, DownReason::Network);
    let mut early = config(&url(&server), "bob", 1);
    early.limits.start_timeout = Duration::from_secs(5);
    let started = RelayTransport::start(early, Arc::new(SystemClock), Box::new(random(9))).await;
    assert!(matches!(started, Err(StartError::Refused(_))), "{started:?}");
    exchange(&alice, &later).await;
}

/// The server is killed, and another one is started at the same place; or was running elsewhere all the time.
#[tokio::test]
async fn links_come_back_with_the_server_and_at_the_next_one() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let process = runtime();
    let first = process.spawn(server()).await.unwrap();
    let second = server().await;
    let urls = [url(&first), url(&second)];
    let member = async |name: &str| {
        let mut config = config("ws://127.0.0.1:1", name, 1);
        config.signaling = urls.to_vec();
        start(config).await
    };
    let (alice, bob) = (member("alice").await, member("bob").await);
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    exchange(&alice, &bob).await;

    let address = first.local_addr();
    process.shutdown_background();
    drop(first);
    assert_eq!(down(&alice, "bob").await, DownReason::Network);
    assert_eq!(down(&bob, "alice").await, DownReason::Network);
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    exchange(&alice, &bob).await;
    assert_eq!(second.metrics().relay_agents, 2);

    let first: Server = server_at(address).await;
    second.shutdown().await;
    down(&alice, "bob").await;
    down(&bob, "alice").await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    exchange(&alice, &bob).await;
    assert_eq!(first.metrics().relay_agents, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_large_frame_arrives_and_small_ones_pass_it() {
    let server = server().await;
    let alice = join(&url(&server), "alice", 1).await;
    let bob = join(&url(&server), "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    let large: bytes::Bytes = (0..16u32 << 20)
        .map(|n| (n ^ (n >> 8)) as u8)
        .collect::<Vec<_>>()
        .into();
    send(&*alice, "bob", large.clone()).await;
    for n in 0..100u8 {
        send(&*alice, "bob", vec![n; 300]).await;
    }
    let (mut small, mut before_large) = (0u8, None);
    while before_large.is_none() || small < 100 {
        match event(&*bob).await {
            TransportEvent::Frame { frame, .. } if frame.len() == 300 => {
                assert_eq!(frame[0], small);
                small += 1;
            }
            TransportEvent::Frame { frame, .. } => {
                assert!(frame == large, "a frame of {} bytes came changed", frame.len());
                before_large = Some(small);
            }
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(before_large, Some(100));
    let limit = alice.capabilities().max_frame;
    let envelope = Envelope::new(id("bob"), Lane::Reliable, vec![0; limit + 1]);
    let refused = timeout(SOON, alice.send(envelope)).await.unwrap();
    assert_eq!(
        refused,
        Err(SendError::TooLarge {
            size: limit + 1,
            limit
        })
    );
}

/// A slow relay: frames wait, none is lost, and the pair's queue at the server is never overrun.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_throttles_loses_nothing() {
    let mut settings = server_config();
    settings.relay = Some(RelayLimits {
        bytes_per_second: 2 << 20,
        byte_burst: 64 << 10,
        pair_bytes: 64 << 10,
        max_frame_bytes: 4 << 10,
        ..RelayLimits::default()
    });
    let server = Server::bind(settings, random(1)).await.unwrap();
    let alice = join(&url(&server), "alice", 1).await;
    let bob = join(&url(&server), "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    let frames: Vec<Vec<u8>> = (0..200u8).map(|n| vec![n; 10_000]).collect();
    let sending = async {
        for frame in &frames {
            send(&*alice, "bob", frame.clone()).await;
        }
    };
    let receiving = async {
        for frame in &frames {
            receives(&*bob, "alice", frame).await;
        }
    };
    tokio::join!(sending, receiving);
    let metrics = server.metrics();
    assert_eq!((metrics.relay_overflows, alice.metrics().overflows), (0, 0));
    assert!(metrics.frames_throttled > 0);
}
