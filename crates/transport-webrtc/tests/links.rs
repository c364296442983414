//! Two and more agents that introduce themselves through a signaling server, told as short stories.
//!
//! Falsified by a link that does not come up, comes up twice, or does not outlive the server.

mod common;

use std::{sync::Arc, time::Duration};

use common::*;
use ifmesh_transport::{DownReason, IfTransport as _, LinkState, Path, SystemClock, TransportEvent};
use ifmesh_transport_webrtc::{PeerTrust, StartError, WebRtcTransport};
use ifmsg::AgentId;
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_agents_link_and_talk() {
    let server = server().await;
    let started = tokio::time::Instant::now();
    let alice = join(&url(&server), "alice", 1).await;
    let bob = join(&url(&server), "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    eprintln!("linked {:?} after the first start", started.elapsed());
    exchange(&alice, &bob).await;
    let links = alice.links();
    assert_eq!(links.len(), 1);
    assert_eq!(
        (links[0].state, links[0].path),
        (LinkState::Up, Some(Path::Direct))
    );
    // One offer, by the larger id.
    assert_eq!((alice.metrics().offers_sent, bob.metrics().offers_sent), (0, 1));
    alice.close().await.unwrap();
    let down = TransportEvent::LinkDown {
        peer: id("alice"),
        reason: DownReason::PeerClosed,
    };
    assert_eq!(good_event(&*bob).await, down);
    bob.close().await.unwrap();
}

/// Fails if simultaneous offers end in no link or in two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_offer_at_once_and_get_one_link() {
    let server = server().await;
    for round in 1..=5 {
        let mut eager = config(&url(&server), "alice", round);
        eager.limits.offer_wait = Duration::ZERO;
        let bob = join(&url(&server), "bob", round).await;
        let alice = start(eager).await;
        up(&*alice, "bob").await;
        up(&*bob, "alice").await;
        // Any second link would put a LinkDown or LinkUp between these frames.
        for _ in 0..20 {
            exchange(&alice, &bob).await;
        }
        assert_eq!((alice.metrics().links_up, bob.metrics().links_up), (1, 1));
        assert_eq!((alice.metrics().offers_sent, bob.metrics().offers_sent), (1, 1));
        let (a, b) = tokio::join!(alice.close(), bob.close());
        a.unwrap();
        b.unwrap();
    }
}

/// Fails if the link to an earlier life lives on beside that to a later one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_life_takes_the_place_of_an_earlier_one_that_still_runs() {
    let server = server().await;
    for (stays, restarts) in [("alice", "bob"), ("dave", "carol")] {
        let one = join(&url(&server), stays, 1).await;
        let former = join(&url(&server), restarts, 1).await;
        up(&*one, restarts).await;
        up(&*former, stays).await;
        let latter = join(&url(&server), restarts, 2).await;
        let down = TransportEvent::LinkDown {
            peer: id(restarts),
            reason: DownReason::Replaced,
        };
        assert_eq!(good_event(&*one).await, down);
        up(&*one, restarts).await;
        up(&*latter, stays).await;
        exchange(&one, &latter).await;
        for transport in [one, former, latter] {
            transport.close().await.unwrap();
        }
    }
}

/// Fails if established links need the server, or if its return does not bring in who came meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn links_outlive_the_server_and_its_return_brings_new_ones() {
    let first = server().await;
    let address = first.local_addr().to_string();
    let url = url(&first);
    let alice = join(&url, "alice", 1).await;
    let bob = join(&url, "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    first.shutdown().await;
    for _ in 0..50 {
        exchange(&alice, &bob).await;
    }
    let _second = server_at(&address).await;
    let carol = join(&url, "carol", 1).await;
    up(&*alice, "carol").await;
    up(&*bob, "carol").await;
    for _ in 0..2 {
        assert!(matches!(good_event(&*carol).await, TransportEvent::LinkUp { .. }));
    }
    exchange(&alice, &carol).await;
    exchange(&bob, &carol).await;
    exchange(&alice, &bob).await;
}

/// Fails if a key that nobody trusts gets a link, under a name of its own or under somebody else's.
/// Fails if agents that failed over to another server stay apart from those who only see the first one, or if going back costs a
/// link that is up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_go_back_to_the_first_server_and_keep_their_links() {
    let (first, second) = (server().await, server().await);
    let urls = [url(&first), url(&second)];
    let address = first.local_addr().to_string();
    let join = |name: &str| {
        let mut config = config(&urls[0], name, 1);
        config.signaling = urls.to_vec();
        config.limits.return_interval = Duration::from_millis(200);
        start(config)
    };
    let (alice, bob) = (join("alice").await, join("bob").await);
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    first.shutdown().await;
    let moved = async {
        while second.metrics().registrations < 2 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, moved).await.expect("both at the second server");
    exchange(&alice, &bob).await;
    let first = server_at(&address).await;
    // Whoever comes now never hears of the second server.
    let carol = join("carol").await;
    for (side, name) in [(&alice, "alice"), (&bob, "bob")] {
        up(&**side, "carol").await;
        let linked = good_event(&*carol).await;
        assert!(
            matches!(linked, TransportEvent::LinkUp { .. }),
            "{name}: {linked:?}"
        );
    }
    exchange(&alice, &bob).await;
    assert_eq!(
        alice.metrics().links_up,
        2,
        "the link to bob is still the first one"
    );
    assert_eq!(first.metrics().registrations, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_gets_no_link() {
    let server = server().await;
    let known = |peer: &AgentId| match peer.as_str() {
        "mallory" => PeerTrust::Refuse,
        name => PeerTrust::Key(*identity(name).public_key()),
    };
    let mut careful = config(&url(&server), "alice", 1);
    careful.keys = Arc::new(known);
    let alice = start(careful).await;
    let mallory = join(&url(&server), "mallory", 1).await;
    assert_eq!(refusal(&*alice).await, "untrusted-peer");
    let mut impostor = config(&url(&server), "bob", 1);
    impostor.identity = identity("mallory");
    let impostor = start(impostor).await;
    assert_eq!(refusal(&*alice).await, "bad-signature");
    let mut careful = config(&url(&server), "carol", 1);
    careful.keys = Arc::new(known);
    let carol = start(careful).await;
    up(&*alice, "carol").await;
    up(&*carol, "alice").await;
    exchange(&alice, &carol).await;
    assert!(alice.metrics().refused >= 2);
    for transport in [&mallory, &impostor] {
        let linked = transport
            .links()
            .iter()
            .any(|link| link.peer == id("alice") && link.state == LinkState::Up);
        assert!(!linked, "{:?}", transport.links());
    }
}

/// Fails if an agent whose key only the server vouches for is not linked where that is allowed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claimed_key_will_do_where_the_session_decides() {
    let server = server().await;
    let open = |name: &str| {
        let mut config = config(&url(&server), name, 1);
        config.identity = identity("nobody knows this one");
        config.keys = Arc::new(|_: &AgentId| PeerTrust::AcceptClaimed);
        config
    };
    let (alice, bob) = (start(open("alice")).await, start(open("bob")).await);
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    exchange(&alice, &bob).await;
}

/// Fails if `start` hangs, or says Ok, or does not say whose fault it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_that_cannot_work_says_why() {
    let begin = async |config| {
        let random = Box::new(random(1));
        timeout(
            SOON,
            WebRtcTransport::start(config, Arc::new(SystemClock), random),
        )
        .await
        .expect("an end in time")
        .expect_err("no start")
    };
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("ws://{}", nobody.local_addr().unwrap());
    drop(nobody);
    let mut unreachable = config(&address, "alice", 1);
    unreachable.limits.start_timeout = Duration::from_millis(500);
    let error = begin(unreachable).await;
    assert!(
        matches!(error, StartError::Unreachable { last: Some(_) }),
        "{error}"
    );

    let server = server().await;
    let _alice = join(&url(&server), "alice", 1).await;
    let mut thief = config(&url(&server), "alice", 2);
    thief.identity = identity("mallory");
    let error = begin(thief).await;
    assert!(matches!(error, StartError::Refused(_)), "{error}");

    let mut nowhere = config(&url(&server), "bob", 1);
    nowhere.bind.clear();
    assert_eq!(begin(nowhere).await, StartError::NoAddress);
    let error = begin(config("http://127.0.0.1:1", "bob", 1)).await;
    assert!(matches!(error, StartError::Signaling(_)), "{error}");
}

/// Fails if one peer that floods the server with offers and candidates keeps another from linking.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_signals_starves_nobody() {
    use ifmesh_signaling::{Client, ClientConfig, IceCandidate, Signal};
    let server = server().await;
    let alice = join(&url(&server), "alice", 1).await;
    let config = ClientConfig::new([url(&server)], id("mallory"), identity("mallory"), 1);
    let flooder = Client::connect(config, random(5)).unwrap();
    let sender = flooder.sender();
    let flood = tokio::spawn(async move {
        for round in 0.. {
            let candidate = IceCandidate {
                candidate: "candidate:1 1 udp 1 127.0.0.1 9 typ host".to_owned(),
                ..IceCandidate::default()
            };
            let signal = match round % 3 {
                0 => Signal::Offer {
                    sdp: "v=0\r\n".repeat(1_000),
                    statement: None,
                },
                1 => Signal::Answer {
                    sdp: String::new(),
                    statement: None,
                },
                _ => Signal::Candidate(candidate),
            };
            if sender.send(id("alice"), signal).await.is_err() {
                break;
            }
        }
    });
    assert_ne!(refusal(&*alice).await, "");
    let bob = join(&url(&server), "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    for _ in 0..50 {
        exchange(&alice, &bob).await;
    }
    flood.abort();
}

/// Fails if what a peer sent right before a link was replaced, or an agent closed, keeps others waiting; or if closing twice
/// a mesh of six in the middle of its set-up hangs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mesh_that_closes_while_it_sets_up_ends() {
    let server = server().await;
    let mut agents = Vec::new();
    for number in 0..6 {
        agents.push(join(&url(&server), &format!("agent-{number}"), 1).await);
    }
    let closes = agents.iter().map(|agent| timeout(SOON, agent.close()));
    for closed in futures::future::join_all(closes).await {
        let _ = closed.expect("a close that ends");
    }
    for agent in &agents {
        while timeout(SOON, agent.recv()).await.expect("the end").is_ok() {}
    }
}

/// Fails if what a closing agent has flushed is lost to a peer that reads it later.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_what_was_flushed_before_the_goodbye() {
    let server = server().await;
    let mut narrow = config(&url(&server), "alice", 1);
    narrow.limits.event_bytes = 0;
    let alice = start(narrow).await;
    let bob = join(&url(&server), "bob", 1).await;
    up(&*bob, "alice").await;
    for number in 0..120 {
        send(&*bob, "alice", &format!("{number:04000}")).await;
    }
    bob.close().await.unwrap();
    up(&*alice, "bob").await;
    for number in 0..120 {
        receives(&*alice, "bob", &format!("{number:04000}")).await;
    }
    let down = TransportEvent::LinkDown {
        peer: id("bob"),
        reason: DownReason::PeerClosed,
    };
    assert_eq!(good_event(&*alice).await, down);
}

/// Fails if more peers are taken than the limit says, or if who was turned away gets no link once there is room.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_agent_turns_peers_away_until_one_leaves() {
    let server = server().await;
    let mut small = config(&url(&server), "alice", 1);
    small.limits.max_peers = 1;
    let alice = start(small).await;
    let bob = join(&url(&server), "bob", 1).await;
    up(&*alice, "bob").await;
    let mut persistent = config(&url(&server), "carol", 1);
    persistent.limits.handshake_timeout = Duration::from_millis(300);
    let carol = start(persistent).await;
    assert_eq!(refusal(&*alice).await, "too-many-peers");
    bob.close().await.unwrap();
    while good_event(&*alice).await != (TransportEvent::LinkUp { peer: id("carol") }) {}
    while good_event(&*carol).await != (TransportEvent::LinkUp { peer: id("alice") }) {}
}
