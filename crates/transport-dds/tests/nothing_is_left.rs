//! Falsified by a thread, a file descriptor or much memory that is there after a hundred opened, used and closed transports,
//! and was not before.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::{fs, sync::Arc};

use common::*;
use ifmesh_transport::{IfTransport as _, SystemClock};
use ifmesh_transport_dds::DdsTransport;

/// Threads, descriptors, resident kilobytes.
fn used() -> (usize, usize, usize) {
    let count = |folder: &str| fs::read_dir(folder).unwrap().count();
    (count("/proc/self/task"), count("/proc/self/fd"), resident_kb())
}

#[test]
fn a_hundred_rounds_leave_nothing() {
    const ROUNDS: u64 = 100;
    let net = Net::new(1);
    let _here = net.enter(0);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut before = (0, 0, 0);
    for round in 0..ROUNDS {
        runtime.block_on(async {
            let start = |name: &str| {
                let random = Box::new(random(2 * round + name.len() as u64));
                DdsTransport::start(
                    net.config(0),
                    agent(name, round + 1),
                    Arc::new(SystemClock),
                    random,
                )
            };
            let (alice, bob) = tokio::join!(start("alice"), start("bob"));
            let (alice, bob) = (alice.unwrap(), bob.unwrap());
            up(&*alice, "bob").await;
            up(&*bob, "alice").await;
            exchange(&alice, &bob).await;
            let (one, other) = tokio::join!(alice.close(), bob.close());
            one.unwrap();
            other.unwrap();
        });
        // The first rounds fill caches of the allocator and of the libraries.
        if round == 9 {
            before = used();
        }
    }
    let after = used();
    eprintln!("threads, descriptors, kB resident: {before:?} after 10 rounds, {after:?} after {ROUNDS}");
    assert!(after.0 <= before.0, "threads: {} became {}", before.0, after.0);
    assert!(
        after.1 <= before.1,
        "descriptors: {} became {}",
        before.1,
        after.1
    );
    assert!(after.2 < before.2 + 20_000, "kB: {} became {}", before.2, after.2);
}
