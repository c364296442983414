//! Two engines on loopback. Each test names what would falsify it.

use super::*;
use tokio::time::{Instant, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

fn loopback() -> EngineConfig {
    EngineConfig {
        bind: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        ..EngineConfig::default()
    }
}

struct End {
    peer: Peer,
    events: mpsc::Receiver<PeerEvent>,
}

impl End {
    async fn next(&mut self) -> PeerEvent {
        timeout(PATIENCE, self.events.recv())
            .await
            .expect("an event in time")
            .expect("a pump that runs")
    }

    /// The next frame, whatever else happens.
    async fn frame(&mut self) -> (Lane, Bytes) {
        loop {
            match self.next().await {
                PeerEvent::Frame(lane, frame) => return (lane, frame),
                PeerEvent::Closed(reason) => panic!("closed: {reason:?}"),
                _ => {}
            }
        }
    }

    async fn closed(&mut self) -> CloseReason {
        loop {
            if let PeerEvent::Closed(reason) = self.next().await {
                return reason;
            }
        }
    }
}

/// Negotiated, not yet open: (offering, answering).
async fn negotiated(config: &EngineConfig) -> (End, End) {
    let (to_a, a_events) = mpsc::channel(64);
    let (to_b, b_events) = mpsc::channel(64);
    let (a, offer) = Peer::offer(config, to_a).await.expect("an offer");
    let (b, answer) = Peer::answer(config, &offer.sdp, to_b).await.expect("an answer");
    a.accept_answer(&answer.sdp).await.expect("an accepted answer");
    (
        End {
            peer: a,
            events: a_events,
        },
        End {
            peer: b,
            events: b_events,
        },
    )
}

async fn connected(config: &EngineConfig) -> (End, End) {
    let (mut a, mut b) = negotiated(config).await;
    let End {
        peer: a_peer,
        events: a_events,
    } = &mut a;
    let End {
        peer: b_peer,
        events: b_events,
    } = &mut b;
    tokio::join!(open(a_events, b_peer), open(b_events, a_peer));
    (a, b)
}

async fn open(events: &mut mpsc::Receiver<PeerEvent>, other: &Peer) {
    let mut open = 0;
    while open < 2 {
        match timeout(PATIENCE, events.recv())
            .await
            .expect("an event in time")
            .expect("a pump that runs")
        {
            PeerEvent::LocalCandidate(candidate) => {
                other.add_candidate(candidate).await.expect("a good candidate")
            }
            PeerEvent::ChannelOpen(_) => open += 1,
            PeerEvent::Closed(reason) => panic!("closed: {reason:?}"),
            _ => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opens_and_carries_a_frame_each_way() {
    let started = Instant::now();
    let (mut a, mut b) = connected(&loopback()).await;
    eprintln!("open after {:?}", started.elapsed());
    a.peer
        .send(Lane::Messaging, Bytes::from_static(b"ping"))
        .await
        .unwrap();
    assert_eq!(b.frame().await, (Lane::Messaging, Bytes::from_static(b"ping")));
    b.peer
        .send(Lane::BestEffort, Bytes::from_static(b"pong"))
        .await
        .unwrap();
    assert_eq!(a.frame().await, (Lane::BestEffort, Bytes::from_static(b"pong")));
    a.peer.close().await;
    assert_eq!(b.closed().await, CloseReason::Remote);
}
