//! Two and more agents that introduce themselves through a signaling server, told as short stories.
//!
//! Falsified by a link that does not come up, comes up twice, or does not outlive the server.

mod common;

use common::*;
use ifmesh_transport::{DownReason, IfTransport as _, LinkState, Path, TransportEvent};

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
