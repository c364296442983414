//! Two hundred agents that come and go leave nothing behind: neither in the server's process nor in their own.
//!
//! Falsified by a task, a socket or an entry that stays. One test in this file: others in the same process would open files of
//! their own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::*;
use ifmesh_transport::IfTransport as _;
use tokio::{runtime::Handle, time::timeout};

const ROUNDS: u64 = 200;

fn open_files() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// Kilobytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn two_hundred_rounds_leave_nothing() {
    let server = server().await;
    let alice = join(&url(&server), "alice", 1).await;
    let round = async |epoch: u64| {
        let bob = join(&url(&server), "bob", epoch).await;
        up(&*bob, "alice").await;
        up(&*alice, "bob").await;
        exchange(&alice, &bob).await;
        // In good order, or as it comes.
        if epoch.is_multiple_of(2) {
            bob.close().await.unwrap();
        }
        drop(bob);
        let gone = event(&*alice).await;
        assert!(
            matches!(gone, ifmesh_transport::TransportEvent::LinkDown { .. }),
            "{gone:?}"
        );
        // The server's side of the socket is gone, too.
        let ended = async {
            while server.metrics().connections > 1 {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, ended).await.expect("the socket to be closed");
    };
    // Caches and allocators fill in the first rounds.
    for epoch in 1..=20 {
        round(epoch).await;
    }
    let before = (open_files(), tasks());
    let memory = resident();
    for epoch in 21..=20 + ROUNDS {
        round(epoch).await;
    }
    assert_eq!((open_files(), tasks()), before, "open files, tasks");
    let grown = resident().saturating_sub(memory);
    assert!(grown * 10 <= memory, "{grown} kB more than {memory} kB");
    eprintln!("{ROUNDS} rounds: {before:?} files and tasks, {memory} kB, {grown} kB more");
    assert_eq!(server.metrics().relay_agents, 1);
}
