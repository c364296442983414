//! What the tests of this crate have in common.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each test file uses a part; all of it is test code"
)]

use std::{sync::Arc, time::Duration};

use ifmesh_transport::{DownReason, Envelope, IfTransport, Lane, SendError, TransportEvent};
use ifmesh_transport_mem::{MemTransport, Mesh};

pub(crate) const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Two agents that have read that they are linked.
pub(crate) async fn pair(mesh: &Mesh) -> (Arc<MemTransport>, Arc<MemTransport>) {
    let (alice, bob) = (mesh.join("alice").unwrap(), mesh.join("bob").unwrap());
    assert_eq!(event(&alice).await, up("bob"));
    assert_eq!(event(&bob).await, up("alice"));
    (alice, bob)
}

pub(crate) async fn send(from: &MemTransport, to: &MemTransport, frame: impl Into<Vec<u8>>) {
    try_send(from, to, Lane::Reliable, frame).await.unwrap();
}

pub(crate) async fn try_send(
    from: &MemTransport,
    to: &MemTransport,
    lane: Lane,
    frame: impl Into<Vec<u8>>,
) -> Result<(), SendError> {
    from.send(Envelope::new(to.id().clone(), lane, frame.into()))
        .await
}

/// The next event; an hour of virtual time is long enough for all of them.
pub(crate) async fn event(agent: &MemTransport) -> TransportEvent {
    tokio::time::timeout(Duration::from_secs(3_600), agent.recv())
        .await
        .unwrap()
        .unwrap()
}

/// All frames that come until nothing has come for a second, each with its time.
pub(crate) async fn frames(mesh: &Mesh, agent: &MemTransport) -> Vec<(Duration, Vec<u8>)> {
    let mut frames = Vec::new();
    while let Ok(event) = tokio::time::timeout(ms(1_000), agent.recv()).await {
        match event.unwrap() {
            TransportEvent::Frame { frame, .. } => frames.push((mesh.now(), frame.to_vec())),
            other => panic!("only frames are expected here, not {other:?}"),
        }
    }
    frames
}

pub(crate) fn up(peer: &str) -> TransportEvent {
    TransportEvent::LinkUp {
        peer: peer.try_into().unwrap(),
    }
}

pub(crate) fn down(peer: &str, reason: DownReason) -> TransportEvent {
    TransportEvent::LinkDown {
        peer: peer.try_into().unwrap(),
        reason,
    }
}
