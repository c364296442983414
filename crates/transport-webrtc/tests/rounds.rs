//! Two hundred connects and disconnects in one process, and some before them. Falsified by one file descriptor more than before
//! the very first, by one task more than that and the one that remembers each name, or by memory that grows by more than a tenth
//! in two hundred. Alone in its process, because it counts what the process has.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

mod common;

use std::time::Duration;

use common::*;
use ifmesh_transport::{DownReason, IfTransport as _, TransportEvent};
use tokio::{runtime::Handle, time::timeout};

/// In these the allocator, the runtime and the caches of the process still grow.
const WARM_UP: u64 = 40;
const ROUNDS: u64 = 200;
/// A peer that has left is remembered, with what it offered and how often, by a task that sleeps.
const NAMES: u64 = 10;

#[derive(Debug, Clone, Copy)]
struct Held {
    files: usize,
    tasks: usize,
    resident: usize,
}

fn held() -> Held {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = statm.split_whitespace().nth(1).unwrap().parse().unwrap();
    Held {
        files: std::fs::read_dir("/proc/self/fd").unwrap().count(),
        tasks: Handle::current().metrics().num_alive_tasks(),
        resident: pages * 4_096,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_rounds_leave_nothing_behind() {
    let server = server().await;
    let alice = join(&url(&server), "alice", 1).await;
    let mut start = settled(None).await;
    start.tasks += NAMES as usize;
    let mut warm = None;
    for round in 1..=WARM_UP + ROUNDS {
        if round == WARM_UP + 1 {
            warm = Some(settled(Some(start)).await);
        }
        // In turns: one that comes back more often than twice a second is slowed down.
        let name = format!("bob-{}", round % NAMES);
        let bob = join(&url(&server), &name, round).await;
        up(&*alice, &name).await;
        up(&*bob, "alice").await;
        exchange(&alice, &bob).await;
        bob.close().await.unwrap();
        let reason = DownReason::PeerClosed;
        let peer = id(&name);
        assert_eq!(
            good_event(&*alice).await,
            TransportEvent::LinkDown { peer, reason }
        );
    }
    let warm = warm.unwrap();
    let end = settled(Some(start)).await;
    println!("expected     {start:?}\nwarm         {warm:?}\nat the end   {end:?}");
    assert_eq!(end.files, start.files, "file descriptors stay");
    assert_eq!(end.tasks, start.tasks, "tasks stay");
    assert!(end.resident <= warm.resident + warm.resident / 10, "memory grows");
}

/// Once the last connection's end has come through: files and tasks as at the start, or what is left after a while.
async fn settled(start: Option<Held>) -> Held {
    let down = async {
        let mut last = held();
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = held();
            let enough = match start {
                Some(start) => (now.files, now.tasks) == (start.files, start.tasks),
                None => (now.files, now.tasks) == (last.files, last.tasks),
            };
            if enough {
                return;
            }
            last = now;
        }
    };
    let _ = timeout(Duration::from_secs(10), down).await;
    held()
}
