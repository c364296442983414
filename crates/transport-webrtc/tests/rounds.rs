//! Two hundred connects and disconnects in one process. Falsified by file descriptors or tasks that stay, or by memory that
//! grows by more than a tenth. Alone in its process, because it counts what the process has.
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

/// Before these the allocator, the runtime and the caches of the process still grow.
const WARM_UP: u64 = 40;
const ROUNDS: u64 = 200;

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
    let mut before = None;
    for round in 1..=WARM_UP + ROUNDS {
        if round == WARM_UP + 1 {
            before = Some(settled(None).await);
        }
        // In turns: one that comes back more often than twice a second is slowed down.
        let name = format!("bob-{}", round % 10);
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
    let before = before.unwrap();
    let after = settled(Some(before)).await;
    eprintln!("before {before:?}\nafter  {after:?}");
    assert!(after.files <= before.files, "file descriptors stay");
    assert!(after.tasks <= before.tasks, "tasks stay");
    assert!(
        after.resident <= before.resident + before.resident / 10,
        "memory grows"
    );
}

/// Once the last connection's end has come through: files and tasks as before, or what is left after a while.
async fn settled(before: Option<Held>) -> Held {
    let down = async {
        let mut last = held();
        loop {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let now = held();
            let enough = match before {
                Some(before) => now.files <= before.files && now.tasks <= before.tasks,
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
