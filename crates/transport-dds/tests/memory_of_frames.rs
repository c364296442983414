//! What a sender holds of what it has sent to one peer. Falsified by memory that grows with it, beyond what the configuration allows.
//!
//! What is measured is the whole process's, so each such test has one for itself: a file with nothing else in it.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::{
    id,
    kept::{KEPT, keeps_no_more},
};
use ifmsg::Destination;

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn what_was_sent_is_not_kept_without_bound() {
    let alice = keeps_no_more(Destination::Agent(id("bob")), KEPT).await;
    assert_eq!(alice.metrics().bus_dropped, 0);
}
