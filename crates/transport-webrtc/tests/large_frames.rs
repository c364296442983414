//! Frames that no message of a data channel can hold.
//!
//! Falsified by one that does not arrive as it was, by a short frame that waits for the end of a long one, or by a peer that is
//! kept waiting by another one's long frames.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

mod common;

use bytes::Bytes;
use common::*;
use ifmesh_transport::{Envelope, IfTransport as _, Lane, TransportEvent};
use ifmesh_transport_webrtc::WebRtcTransport;
use tokio::time::timeout;

/// Bytes that differ from place to place.
fn frame(len: usize, seed: u8) -> Bytes {
    let word = |at: usize| (at as u32).wrapping_mul(2_654_435_761).to_le_bytes()[3] ^ seed;
    (0..len).map(word).collect::<Vec<u8>>().into()
}

async fn next_frame(transport: &WebRtcTransport) -> (Lane, Bytes) {
    loop {
        if let TransportEvent::Frame { lane, frame, .. } = good_event(transport).await {
            return (lane, frame);
        }
    }
}

async fn give(transport: &WebRtcTransport, to: &str, lane: Lane, frame: &Bytes) {
    let envelope = Envelope::new(id(to), lane, frame.clone());
    timeout(SOON, transport.send(envelope))
        .await
        .expect("room in time")
        .expect("a link");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_frame_arrives_on_either_lane() {
    let server = server().await;
    let alice = join(&url(&server), "alice", 1).await;
    let bob = join(&url(&server), "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    let most = alice.capabilities().max_frame;
    assert!(most >= 16 << 20);
    for (number, len) in [65_537, 300_000, 16 << 20, most].into_iter().enumerate() {
        let sent = frame(len, number as u8);
        give(&alice, "bob", Lane::Reliable, &sent).await;
        assert!(next_frame(&bob).await == (Lane::Reliable, sent), "{len} bytes");
    }
    let sent = frame(1_000_000, 9);
    give(&bob, "alice", Lane::BestEffort, &sent).await;
    assert!(next_frame(&alice).await == (Lane::BestEffort, sent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn short_frames_pass_long_ones() {
    let server = server().await;
    let mut patient = config(&url(&server), "alice", 1);
    patient.limits.close_timeout = SOON;
    let alice = start(patient).await;
    let bob = join(&url(&server), "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    let (first, second) = (frame(16 << 20, 1), frame(16 << 20, 2));
    give(&alice, "bob", Lane::Reliable, &first).await;
    for number in 0..100 {
        send(&*alice, "bob", &format!("{number:03}")).await;
    }
    // Beyond the room for long frames: this one waits for the end of the first.
    give(&alice, "bob", Lane::Reliable, &second).await;
    for number in 0..100 {
        receives(&*bob, "alice", &format!("{number:03}")).await;
    }
    assert!(next_frame(&bob).await.1 == first);
    assert!(next_frame(&bob).await.1 == second);
    // Nothing is left behind by closing in the middle of one.
    give(&alice, "bob", Lane::Reliable, &first).await;
    timeout(SOON, alice.close()).await.expect("an end").unwrap();
    assert!(
        next_frame(&bob).await.1 == first,
        "it was accepted, and closing flushes"
    );
}
