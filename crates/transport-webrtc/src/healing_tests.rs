//! What goes wrong between agents that are linked, and how it mends.
//!
//! Falsified by a link that does not come back, or that goes down where it need not.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ifmesh_signaling::{Server, ServerConfig};
use ifmesh_transport::{
    DownReason, Envelope, IfTransport as _, Lane, LinkState, SendError, SystemClock, TransportEvent,
};
use ifmsg::{AgentId, Identity};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::time::{Instant, timeout};

use crate::{PeerTrust, WebRtcConfig, WebRtcTransport, engine::Faults};

const SOON: Duration = Duration::from_secs(20);

/// A frame that makes the task that reads it fall.
const FALL: &[u8] = b"fall, please";

pub(crate) fn fall_if_asked(frame: &[u8]) {
    assert!(frame != FALL, "a test asked for it");
}

fn id(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

fn identity(name: &str) -> Identity {
    let mut seed = [0; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    Identity::from_seed(&seed)
}

async fn server_at(address: &str) -> Server {
    let config = ServerConfig::new(address.parse().unwrap(), id("server-1"));
    Server::bind(config, StdRng::seed_from_u64(1)).await.unwrap()
}

fn config(server: &Server, name: &str) -> WebRtcConfig {
    let url = format!("ws://{}", server.local_addr());
    let keys = |peer: &AgentId| PeerTrust::Key(*identity(peer.as_str()).public_key());
    let mut config = WebRtcConfig::new(id(name), identity(name), 1, [url], Arc::new(keys));
    config.bind = vec!["127.0.0.1:0".parse().unwrap()];
    config.limits.silence = Duration::from_secs(8);
    config
}

async fn start(config: WebRtcConfig) -> Arc<WebRtcTransport> {
    let random = Box::new(StdRng::seed_from_u64(config.agent.as_str().len() as u64));
    let started = WebRtcTransport::start(config, Arc::new(SystemClock), random);
    timeout(SOON, started).await.expect("a start in time").unwrap()
}

async fn event(transport: &WebRtcTransport) -> TransportEvent {
    timeout(SOON, transport.recv())
        .await
        .expect("an event in time")
        .unwrap()
}

async fn up(transport: &WebRtcTransport, name: &str) {
    assert_eq!(event(transport).await, TransportEvent::LinkUp { peer: id(name) });
}

async fn send(transport: &WebRtcTransport, to: &str, frame: &'static [u8]) -> Result<(), SendError> {
    let envelope = Envelope::new(id(to), Lane::Reliable, frame);
    timeout(SOON, transport.send(envelope))
        .await
        .expect("room in time")
}

async fn receives(transport: &WebRtcTransport, frame: &[u8]) {
    match event(transport).await {
        TransportEvent::Frame { frame: found, .. } => assert_eq!(found, frame),
        other => panic!("{other:?}"),
    }
}

/// Fails if the network may not change under a link: if that takes the link down, loses or repeats a frame, or is not mended
/// before the link would have been given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_network_costs_no_link_and_no_frame() {
    let server = server_at("127.0.0.1:0").await;
    let faults = Faults::new(1);
    let [alice, bob] = ["alice", "bob"].map(|name| {
        let mut config = config(&server, name);
        config.faults = Some(Arc::clone(&faults));
        start(config)
    });
    let (alice, bob) = tokio::join!(alice, bob);
    up(&alice, "bob").await;
    up(&bob, "alice").await;
    for _ in 0..2 {
        faults.change_network();
        let started = Instant::now();
        send(&alice, "bob", b"to bob").await.unwrap();
        send(&bob, "alice", b"to alice").await.unwrap();
        receives(&bob, b"to bob").await;
        receives(&alice, b"to alice").await;
        eprintln!("mended after {:?}", started.elapsed());
        assert!(started.elapsed() < Duration::from_secs(8));
    }
    // By the larger id, and only by that.
    assert_eq!((bob.metrics().restarts, alice.metrics().restarts), (2, 0));
    assert_eq!((bob.metrics().links_up, alice.metrics().links_up), (1, 1));
    let link = &alice.links()[0];
    assert_eq!(link.state, LinkState::Up);
    assert!(
        link.local.is_some() && link.remote.is_some() && link.since.is_some(),
        "{link:?}"
    );
    assert!(link.round_trip.is_some(), "{link:?}");
}

/// Fails if a path that is gone without a server stays gone when the server is back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_and_the_server_may_fail_together() {
    let first = server_at("127.0.0.1:0").await;
    let address = first.local_addr().to_string();
    let faults = Faults::new(1);
    let [alice, bob] = ["alice", "bob"].map(|name| {
        let mut config = config(&first, name);
        config.limits.silence = Duration::from_secs(2);
        config.faults = Some(Arc::clone(&faults));
        start(config)
    });
    let (alice, bob) = tokio::join!(alice, bob);
    up(&alice, "bob").await;
    up(&bob, "alice").await;
    first.shutdown().await;
    faults.change_network();
    for (side, peer) in [(&alice, "bob"), (&bob, "alice")] {
        let (peer, reason) = (id(peer), DownReason::Timeout);
        assert_eq!(event(side).await, TransportEvent::LinkDown { peer, reason });
    }
    let _second = server_at(&address).await;
    up(&alice, "bob").await;
    up(&bob, "alice").await;
    send(&alice, "bob", b"again").await.unwrap();
    receives(&bob, b"again").await;
}

/// Fails if a link outlives the trust that it was made with, or does not come back with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn withdrawn_trust_cuts_the_link_and_returning_trust_mends_it() {
    let server = server_at("127.0.0.1:0").await;
    let trusted = Arc::new(AtomicBool::new(true));
    let keys = {
        let trusted = Arc::clone(&trusted);
        move |peer: &AgentId| match trusted.load(Ordering::Relaxed) {
            true => PeerTrust::Key(*identity(peer.as_str()).public_key()),
            false => PeerTrust::Refuse,
        }
    };
    let mut careful = config(&server, "alice");
    careful.keys = Arc::new(keys);
    let alice = start(careful).await;
    let bob = start(config(&server, "bob")).await;
    up(&alice, "bob").await;
    up(&bob, "alice").await;
    trusted.store(false, Ordering::Relaxed);
    let started = Instant::now();
    let refused = event(&alice).await;
    assert!(
        matches!(
            refused,
            TransportEvent::Refused {
                reason: "trust-withdrawn",
                ..
            }
        ),
        "{refused:?}"
    );
    let down = TransportEvent::LinkDown {
        peer: id("bob"),
        reason: DownReason::Untrusted,
    };
    assert_eq!(event(&alice).await, down);
    assert!(started.elapsed() < Duration::from_secs(3));
    assert_eq!(
        send(&alice, "bob", b"no").await,
        Err(SendError::NoLink(id("bob")))
    );
    trusted.store(true, Ordering::Relaxed);
    loop {
        match event(&alice).await {
            TransportEvent::LinkUp { .. } => break,
            TransportEvent::Refused { .. } => {}
            other => panic!("{other:?}"),
        }
    }
}

/// Fails if a link whose task has fallen stays up, or does not come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_falls_leaves_no_link_stuck() {
    let server = server_at("127.0.0.1:0").await;
    let alice = start(config(&server, "alice")).await;
    let bob = start(config(&server, "bob")).await;
    up(&alice, "bob").await;
    up(&bob, "alice").await;
    for _ in 0..2 {
        send(&bob, "alice", FALL).await.unwrap();
        let (peer, reason) = (id("bob"), DownReason::Local);
        assert_eq!(event(&alice).await, TransportEvent::LinkDown { peer, reason });
        up(&alice, "bob").await;
        let (peer, reason) = (id("alice"), DownReason::PeerClosed);
        assert_eq!(event(&bob).await, TransportEvent::LinkDown { peer, reason });
        up(&bob, "alice").await;
        send(&bob, "alice", b"again").await.unwrap();
        receives(&alice, b"again").await;
    }
    timeout(SOON, alice.close()).await.expect("an end").unwrap();
}

/// Fails if a peer that reads nothing is not reported, holds up others, keeps its link for ever, or takes memory without end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_peer_is_reported_and_then_disconnected() {
    let server = server_at("127.0.0.1:0").await;
    let mut impatient = config(&server, "alice");
    impatient.limits.stall_report = Duration::from_millis(300);
    impatient.limits.stall_limit = Duration::from_millis(1_500);
    let alice = start(impatient).await;
    let mut narrow = config(&server, "bob");
    narrow.limits.event_bytes = 0;
    let bob = start(narrow).await;
    let carol = start(config(&server, "carol")).await;
    for _ in 0..2 {
        let linked = event(&alice).await;
        assert!(matches!(linked, TransportEvent::LinkUp { .. }), "{linked:?}");
    }
    let flood = tokio::spawn({
        let alice = Arc::clone(&alice);
        async move {
            let frame = bytes::Bytes::from(vec![0; 60_000]);
            let mut accepted = 0_usize;
            while alice
                .send(Envelope::new(id("bob"), Lane::Reliable, frame.clone()))
                .await
                .is_ok()
            {
                accepted += frame.len();
            }
            accepted
        }
    });
    let mut reported = false;
    loop {
        match event(&alice).await {
            TransportEvent::Refused { peer, reason, .. } => {
                assert_eq!((peer, reason), (Some(id("bob")), "peer-stalled"));
                reported = true;
                send(&alice, "carol", b"meanwhile").await.unwrap();
            }
            TransportEvent::LinkDown { peer, reason } => {
                assert_eq!((peer, reason), (id("bob"), DownReason::Stalled));
                break;
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(reported);
    loop {
        match event(&carol).await {
            TransportEvent::Frame { frame, .. } => break assert_eq!(frame, &b"meanwhile"[..]),
            TransportEvent::LinkUp { .. } => {}
            other => panic!("{other:?}"),
        }
    }
    let accepted = timeout(SOON, flood).await.expect("no link, no send").unwrap();
    eprintln!("{accepted} bytes were accepted");
    // What the library queues at the other end, and a little on this side.
    assert!(accepted < 40 << 20, "{accepted}");
    drop(bob);
}
