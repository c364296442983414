//! What a sender holds of what it has sent. Falsified by memory that grows with it, beyond what the configuration allows.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::sync::Arc;

use bytes::Bytes;
use common::*;
use ifmesh_transport::{Envelope, IfTransport as _, Lane, TransportEvent};
use ifmesh_transport_dds::DdsTransport;
use ifmsg::Destination;

const FRAME: usize = 16 << 10;
const FRAMES: usize = 8_192;
/// May be kept of the 128 MiB that are sent.
const KEPT: usize = 64 << 20;
/// The reader's thousand samples, windows, queues, and what the allocator has not given back.
const MORE: usize = 40 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_sent_is_not_kept_without_bound() {
    let alice = keeps_no_more(Destination::Agent(id("bob")), KEPT).await;
    assert_eq!(alice.metrics().bus_dropped, 0);
}

/// They go to the inbox of every agent, and on record, whose bound is its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nor_are_broadcasts_and_their_record() {
    let alice = keeps_no_more(Destination::Everyone, 2 * KEPT).await;
    assert_ne!(alice.metrics().bus_dropped, 0, "what was too fast for the record");
}

async fn keeps_no_more(to: Destination, kept: usize) -> Arc<DdsTransport> {
    let mut processes = Processes::new(1);
    let mut config = processes.net.config(0);
    config.limits.kept_bytes = KEPT;
    let alice = processes.start_with(0, "alice", 1, config).await;
    let bob = processes.start(0, "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    exchange(&alice, &bob).await;
    let before = resident_kb();
    let sender = tokio::spawn(async move {
        for _ in 0..FRAMES {
            // Its own memory for each, as of a real sender.
            let envelope = Envelope::new(to.clone(), Lane::Reliable, Bytes::from(vec![7; FRAME]));
            alice.send(envelope).await.unwrap();
        }
        alice
    });
    let (mut came, mut most) = (0, before);
    while came < FRAMES {
        if let TransportEvent::Frame { frame, .. } = bob.recv().await.unwrap() {
            assert_eq!(frame.len(), FRAME);
            came += 1;
        }
        if came % 64 == 0 {
            most = most.max(resident_kb());
        }
    }
    eprintln!("{before} kB resident before, {most} at most");
    assert!((most - before) << 10 < kept + MORE, "{before} kB became {most}");
    sender.await.unwrap()
}
