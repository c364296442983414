//! Links that come when they are needed.
//!
//! Falsified by a link that nobody asked for, by a send that finds none, by one that stays when nobody uses it, or by more of
//! them than are allowed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::*;
use ifmesh_signaling::{Server, ServerConfig};
use ifmesh_transport::{
    DownReason, Envelope, HealthConfig, IfTransport as _, Keepalive, Lane, LinkState, Policy, Road, Router,
    RouterConfig, SendError, Session, SessionConfig, SystemClock, TransportEvent,
};
use ifmesh_transport_webrtc::{MeshMode, WebRtcConfig, WebRtcTransport};
use ifmsg::{AgentId, Draft, Permissions, PublicKey, TrustPolicy, TrustStore};
use serde_json::json;
use tokio::time::{Instant, timeout};

fn on_demand(server: &Server, name: &str, idle: Duration, max_connections: usize) -> WebRtcConfig {
    let mut config = config(&url(server), name, 1);
    config.mesh = MeshMode::OnDemand {
        idle,
        max_connections,
    };
    config
}

fn state(transport: &WebRtcTransport, peer: &str) -> Option<LinkState> {
    let links = transport.links();
    links
        .iter()
        .find(|link| link.peer == id(peer))
        .map(|link| link.state)
}

/// Until the server has told of this peer.
async fn knows(transport: &WebRtcTransport, peer: &str) {
    let known = async {
        while state(transport, peer) != Some(LinkState::Dormant) {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, known).await.expect("the peer to be known");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_link_comes_with_the_first_frame_and_goes_when_it_is_not_used() {
    let server = server().await;
    let idle = Duration::from_secs(2);
    let alice = start(on_demand(&server, "alice", idle, 8)).await;
    let bob = start(on_demand(&server, "bob", idle, 8)).await;
    knows(&alice, "bob").await;
    knows(&bob, "alice").await;
    // Whoever sends makes the link, the smaller id as well as the larger.
    for (one, other) in [(&alice, &bob), (&bob, &alice)] {
        let (one_name, other_name) = (one.agent().as_str(), other.agent().as_str());
        assert_eq!(
            (one.metrics().offers_sent, state(one, other_name)),
            (0, Some(LinkState::Dormant))
        );
        let started = Instant::now();
        send(&**one, other_name, "hello").await;
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "no need to wait for the other side"
        );
        up(&**one, other_name).await;
        up(&**other, one_name).await;
        receives(&**other, one_name, "hello").await;
        for (side, peer) in [(one, other_name), (other, one_name)] {
            let down = good_event(&**side).await;
            assert!(matches!(down, TransportEvent::LinkDown { .. }), "{down:?}");
            assert_eq!(state(side, peer), Some(LinkState::Dormant));
        }
        assert!(started.elapsed() >= idle);
        assert_eq!(one.metrics().offers_sent, 1);
    }
    // Best effort does not wait, and its link comes all the same.
    let envelope = Envelope::new(id("bob"), Lane::BestEffort, "lost");
    assert_eq!(alice.send(envelope).await, Err(SendError::NoLink(id("bob"))));
    up(&*alice, "bob").await;
    // Nobody of that name is there to be linked with.
    let envelope = Envelope::new(id("nobody"), Lane::Reliable, "lost");
    assert_eq!(alice.send(envelope).await, Err(SendError::NoLink(id("nobody"))));
    bob.close().await.unwrap();
    let reason = DownReason::PeerClosed;
    assert_eq!(
        good_event(&*alice).await,
        TransportEvent::LinkDown {
            peer: id("bob"),
            reason
        }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_link_that_was_not_used_for_longest_makes_room() {
    let server = server().await;
    let idle = Duration::from_secs(60);
    let hub = start(on_demand(&server, "hub", idle, 2)).await;
    let mut others = Vec::new();
    for name in ["a", "b", "c"] {
        others.push(start(on_demand(&server, name, idle, 2)).await);
        knows(&hub, name).await;
    }
    for name in ["a", "b"] {
        send(&*hub, name, "hello").await;
        up(&*hub, name).await;
    }
    send(&*hub, "a", "again").await;
    send(&*hub, "c", "hello").await;
    up(&*hub, "c").await;
    let reason = DownReason::Local;
    assert_eq!(
        good_event(&*hub).await,
        TransportEvent::LinkDown {
            peer: id("b"),
            reason
        }
    );
    assert_eq!(state(&hub, "a"), Some(LinkState::Up));
    assert_eq!(state(&hub, "b"), Some(LinkState::Dormant));
    send(&*hub, "b", "hello").await;
    up(&*hub, "b").await;
}

/// Fails if a session does not ask for the link that its message needs, again after it was put to rest, or if it asks for others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_wakes_whom_it_has_messages_for() {
    let server = server().await;
    let idle = Duration::from_secs(1);
    let mut sessions = Vec::new();
    for name in ["alice", "bob", "carol"] {
        let transport = start(on_demand(&server, name, idle, 8)).await;
        let mut trust = TrustStore::new(TrustPolicy::Allowlist);
        for peer in ["alice", "bob", "carol"] {
            let key = *identity(peer).public_key();
            trust.bind(id(peer), key, Permissions::ALL).unwrap();
        }
        let config = SessionConfig::new(id(name), identity(name), trust, 1);
        let session = Session::start(transport, config, Arc::new(SystemClock), Box::new(random(1)));
        sessions.push(session);
    }
    let [alice, bob, carol] = sessions.try_into().unwrap();
    for round in 0..2 {
        let draft = Draft::new("bob".try_into().unwrap(), json!({ "round": round }));
        let receipt = alice.send(draft).await.unwrap();
        let message = timeout(SOON, bob.recv())
            .await
            .expect("a message in time")
            .unwrap();
        assert_eq!(message.payload()["round"], round);
        timeout(SOON, receipt.acknowledged())
            .await
            .expect("an outcome")
            .unwrap();
        let down = alice.peers_until(|peers| peers.iter().all(|peer| !peer.up));
        timeout(SOON, down).await.expect("rest").unwrap();
    }
    assert_eq!(carol.peers().iter().filter(|peer| peer.up).count(), 0);
}

/// Fails if routers that ask after their roads, or sessions that say something unasked, keep a link alive or make one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upkeep_neither_keeps_a_link_nor_makes_one() {
    const FRAMES: u64 = 3;
    // Routers ask only where they have two roads.
    let (server, other_server) = (server().await, common::server().await);
    let idle = Duration::from_secs(2);
    let mut sessions = Vec::new();
    for name in ["alice", "bob"] {
        let resting = start(on_demand(&server, name, idle, 8)).await;
        let standing = start(config(&url(&other_server), name, 1)).await;
        let keepalive = Duration::from_millis(200);
        let health = HealthConfig {
            keepalive,
            ..HealthConfig::default()
        };
        let config = RouterConfig {
            health,
            ..RouterConfig::new(Policy::Failover)
        };
        let roads = vec![
            Road::new("resting", resting.clone()),
            Road::new("standing", standing),
        ];
        let router = Router::start(roads, config, Box::new(random(1))).unwrap();
        let mut trust = TrustStore::new(TrustPolicy::Allowlist);
        for peer in ["alice", "bob"] {
            trust
                .bind(id(peer), *identity(peer).public_key(), Permissions::ALL)
                .unwrap();
        }
        let mut config = SessionConfig::new(id(name), identity(name), trust, 1);
        config.keepalive = Some(Arc::new(Chatter::default()));
        let session = Session::start(router, config, Arc::new(SystemClock), Box::new(random(2)));
        sessions.push((resting, session));
    }
    let [(resting, alice), (_, bob)] = sessions.try_into().unwrap();
    let linked = alice.peers_until(|peers| peers.iter().any(|peer| peer.up));
    timeout(SOON, linked).await.expect("the standing road").unwrap();
    knows(&resting, "bob").await;
    for round in 0..2 {
        // A session that has another road wakes nobody.
        resting.wake(&id("bob"));
        let woken = async {
            while state(&resting, "bob") != Some(LinkState::Up) {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, woken).await.expect("a link");
        let up_since = Instant::now();
        let draft = Draft::new("bob".try_into().unwrap(), json!({ "round": round }));
        let receipt = alice.send(draft).await.unwrap();
        timeout(SOON, bob.recv()).await.expect("a message").unwrap();
        timeout(SOON, receipt.acknowledged())
            .await
            .expect("an outcome")
            .unwrap();
        knows(&resting, "bob").await;
        assert!(up_since.elapsed() >= idle);
        // It rests while the routers and the sessions go on.
        let said = || alice.metrics().frames_sent;
        let before = said();
        let links = resting.metrics().links_up;
        let talked = async {
            while said() < before + FRAMES {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, talked).await.expect("talk");
        assert_eq!(
            (resting.metrics().links_up, state(&resting, "bob")),
            (links, Some(LinkState::Dormant))
        );
    }
}

/// Has something to say each time that it is asked.
#[derive(Debug, Default)]
struct Chatter(AtomicU64);

impl Keepalive for Chatter {
    fn say(&self, _: &AgentId) -> Option<serde_json::Value> {
        Some(json!(self.0.fetch_add(1, Ordering::Relaxed)))
    }

    fn hear(&self, _: &AgentId, _: &PublicKey, _: &serde_json::Value) -> bool {
        false
    }
}

/// A hundred agents in one process, each of which sends to two others that it has never met.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_agents_are_ordinary() {
    const AGENTS: usize = 100;
    const PEERS: usize = 2;
    let mut config = ServerConfig::new("127.0.0.1:0".parse().unwrap(), id("server-1"));
    config.limits.frames_per_second = 10_000;
    config.limits.frame_burst = 10_000;
    let server = Server::bind(config, random(1)).await.unwrap();
    let name = |number: usize| format!("agent-{:03}", number % AGENTS);
    let mut agents = Vec::new();
    for number in 0..AGENTS {
        let mut config = on_demand(&server, &name(number), Duration::from_secs(60), 2 * PEERS);
        // A hundred at once are enough to be slow.
        config.limits.max_setups = 2;
        config.limits.handshake_timeout = Duration::from_secs(60);
        config.limits.silence = Duration::from_secs(60);
        agents.push(start(config).await);
    }
    for agent in &agents {
        knows(
            agent,
            &name(AGENTS - 1 - usize::from(agent.agent().as_str() == name(AGENTS - 1))),
        )
        .await;
    }
    let started = Instant::now();
    let mut senders = Vec::new();
    for (number, agent) in agents.iter().enumerate() {
        let agent = Arc::clone(agent);
        senders.push(tokio::spawn(async move {
            for step in 1..=PEERS {
                let to = name(number + step * step);
                let from = agent.agent().to_string();
                let envelope = Envelope::new(id(&to), Lane::Reliable, from);
                timeout(4 * SOON, agent.send(envelope))
                    .await
                    .expect("room in time")
                    .expect("a link");
            }
        }));
    }
    let mut received = BTreeMap::new();
    for (number, agent) in agents.iter().enumerate() {
        let mut frames = 0;
        while frames < PEERS {
            match timeout(4 * SOON, agent.recv())
                .await
                .expect("an event in time")
                .unwrap()
            {
                TransportEvent::Frame { from, frame, .. } => {
                    assert_eq!(frame, from.as_str());
                    assert_eq!(received.insert((from, number), ()), None, "twice");
                    frames += 1;
                }
                TransportEvent::LinkUp { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    for sender in senders {
        sender.await.unwrap();
    }
    eprintln!("{} links after {:?}", AGENTS * PEERS, started.elapsed());
    for agent in &agents {
        let up = agent
            .links()
            .iter()
            .filter(|link| link.state == LinkState::Up)
            .count();
        assert_eq!(up, 2 * PEERS);
    }
    let closes = agents.iter().map(|agent| timeout(SOON, agent.close()));
    for closed in futures::future::join_all(closes).await {
        // Whoever closes later may find that the other end is gone.
        let _ = closed.expect("a close that ends");
    }
}
