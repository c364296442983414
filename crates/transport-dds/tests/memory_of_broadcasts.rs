//! What a sender holds of what it has sent to everybody. Falsified by memory that grows with it, beyond what the configuration allows.
//!
//! What is measured is the whole process's, so each such test has one for itself: a file with nothing else in it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::kept::{KEPT, keeps_no_more};
use ifmsg::Destination;

/// They go to the inbox of every agent, and on record, whose bound is its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn broadcasts_and_their_record_are_not_kept_without_bound() {
    let alice = keeps_no_more(Destination::Everyone, 2 * KEPT).await;
    assert_ne!(alice.metrics().bus_dropped, 0, "what was too fast for the record");
}
