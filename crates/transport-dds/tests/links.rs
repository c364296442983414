//! How links come and go. Falsified by an agent that is not found, found by whom it must not be, or not let go of.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::*;
use ifmesh_transport::{
    DownReason, Envelope, IfTransport as _, Lane, LinkState, PeerTrust, SystemClock, TransportEvent,
};
use ifmesh_transport_dds::{DdsTransport, Interfaces, StartError};
use ifmsg::Destination;
use tokio::time::{Instant, timeout};

/// Falsified by a third agent that comes late and is not linked with both, or by links among the first two that suffer.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn who_comes_late_finds_those_who_are_there() {
    let mut processes = Processes::new(2);
    let alice = processes.start(0, "alice", 1).await;
    let bob = processes.start(1, "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    exchange(&alice, &bob).await;
    let carol = processes.start(1, "carol", 1).await;
    up(&*alice, "carol").await;
    up(&*bob, "carol").await;
    let mut found = [event(&*carol).await, event(&*carol).await];
    found.sort_by_key(|event| format!("{event:?}"));
    for (event, name) in found.iter().zip(["alice", "bob"]) {
        assert_eq!(*event, TransportEvent::LinkUp { peer: id(name) });
    }
    exchange(&alice, &carol).await;
    exchange(&carol, &bob).await;
    exchange(&bob, &alice).await;
}

/// Falsified by a stranger that is not shown, or that gets a link or a frame.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn strangers_are_shown_and_get_no_traffic() {
    let mut processes = Processes::new(1);
    let alice = processes.start(0, "alice", 1).await;
    let stranger = processes.start(0, "stranger", 1).await;
    let (reason, _) = refusal(&*alice).await;
    assert_eq!(reason, "untrusted-peer");
    let bob = processes.start(0, "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    exchange(&alice, &bob).await;
    // The stranger trusts alice, greets her, and hears nothing back.
    let nothing = timeout(Duration::from_secs(2), async {
        loop {
            match event(&*stranger).await {
                TransportEvent::Refused { .. } => {}
                event => break event,
            }
        }
    });
    assert_eq!(nothing.await.ok(), None);
    assert!(alice.links().iter().all(|link| link.peer != id("stranger")));
}

/// Falsified by an agent under a trusted name, with a key of its own, that gets a link.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_trusted_name_with_another_key_gets_no_link() {
    let mut processes = Processes::new(1);
    let alice = processes.start(0, "alice", 1).await;
    let mut mallory = agent("bob", 9);
    mallory.identity = identity("mallory");
    let config = processes.net.config(0);
    let _mallory = processes.start_agent(0, mallory, config).await;
    let (reason, _) = refusal(&*alice).await;
    assert_eq!(reason, "wrong-key");
    // The true bob still gets his link, though the false one claims a higher epoch.
    let bob = processes.start(0, "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    exchange(&alice, &bob).await;
}

/// Falsified by trust that is taken back and a link that comes up all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn trust_is_asked_anew_for_each_link() {
    use std::sync::atomic::{AtomicBool, Ordering};
    let mut processes = Processes::new(1);
    let trusted = Arc::new(AtomicBool::new(true));
    let mut alice = agent("alice", 1);
    let answer = Arc::clone(&trusted);
    alice.keys = Arc::new(move |peer: &ifmsg::AgentId| {
        if answer.load(Ordering::Relaxed) {
            PeerTrust::Key(*identity(peer.as_str()).public_key())
        } else {
            PeerTrust::Refuse
        }
    });
    let config = processes.net.config(0);
    let alice = processes.start_agent(0, alice, config).await;
    let bob = processes.start(0, "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    trusted.store(false, Ordering::Relaxed);
    bob.close().await.unwrap();
    let _bob = processes.start(0, "bob", 2).await;
    let (mut down, mut refused) = (false, false);
    while !(down && refused) {
        match event(&*alice).await {
            TransportEvent::LinkDown { .. } => down = true,
            TransportEvent::Refused { reason, .. } => refused |= reason == "untrusted-peer",
            other => panic!("{other:?}"),
        }
    }
}

/// Falsified by a link between domains.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn domains_do_not_meet_and_loneliness_is_explained() {
    let mut processes = Processes::new(1);
    let mut config = processes.net.config(0);
    config.discovery_warning = Duration::from_secs(1);
    let alice = processes.start_with(0, "alice", 1, config.clone()).await;
    config.domain = 1;
    let bob = processes.start_with(0, "bob", 1, config).await;
    for (transport, domain) in [(&alice, "domain 0"), (&bob, "domain 1")] {
        let (reason, detail) = refusal(&**transport).await;
        assert_eq!(reason, "nobody-found");
        for hint in [
            domain,
            "multicast",
            "firewall",
            "127.0.0.1",
            "no other participant",
        ] {
            assert!(detail.contains(hint), "{hint}: {detail}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn an_address_of_no_interface_is_refused() {
    let mut processes = Processes::new(1);
    let mut config = processes.net.config(0);
    let address = "192.0.2.99".parse().unwrap();
    config.interfaces = Interfaces::Only(vec![address]);
    let runtime = processes.net.runtime(0);
    let start = DdsTransport::start(
        config,
        agent("alice", 1),
        Arc::new(SystemClock),
        Box::new(random(1)),
    );
    let error = runtime.spawn(start).await.unwrap().unwrap_err();
    assert_eq!(error, StartError::Interface { address });
    runtime.shutdown_background();
    processes.kill(&id("alice"));
}

/// Falsified by agents on all interfaces that do not find each other across the wire and on their own machine.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn all_interfaces_reach_near_and_far() {
    let mut processes = Processes::new(2);
    let mut config = processes.net.config(0);
    config.interfaces = Interfaces::All;
    let alice = processes.start_with(0, "alice", 1, config.clone()).await;
    let bob = processes.start_with(0, "bob", 1, config.clone()).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    let carol = processes.start_with(1, "carol", 1, config).await;
    up(&*alice, "carol").await;
    up(&*bob, "carol").await;
    exchange(&alice, &bob).await;
    for _ in 0..2 {
        assert!(matches!(good_event(&*carol).await, TransportEvent::LinkUp { .. }));
    }
    exchange(&alice, &carol).await;
}

/// Falsified by a single packet that leaves by another interface than loopback, which is the default.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn nothing_leaves_by_another_interface() {
    let mut processes = Processes::new(1);
    let sent = |processes: &Processes| -> u64 {
        let mut ip = processes.net.hosts[0].command("ip");
        let output = ip.args(["-s", "-j", "link", "show", "eth0"]).output().unwrap();
        let links: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        links[0]["stats64"]["tx"]["packets"].as_u64().unwrap()
    };
    let before = sent(&processes);
    let alice = processes.start(0, "alice", 1).await;
    let bob = processes.start(0, "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    exchange(&alice, &bob).await;
    bob.close().await.unwrap();
    alice.close().await.unwrap();
    assert_eq!(sent(&processes) - before, 0, "packets by eth0");

    // The same counter does count, when config says so.
    let mut config = processes.net.config(0);
    config.interfaces = Interfaces::Only(vec![address(0).parse().unwrap()]);
    let carol = processes.start_with(0, "carol", 1, config).await;
    carol.close().await.unwrap();
    assert!(sent(&processes) > before, "no packets by eth0");
}

/// Without multicast only the first twelve would find each other; and where so many are found at once, endpoints that are made side by
/// side leave the library standing still. Falsified by one that is not found.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn more_than_twelve_agents_on_one_machine() {
    const AGENTS: usize = 18;
    let mut processes = Processes::new(1);
    let agents = start_many(&mut processes, AGENTS).await;
    let (first, last) = (&agents[0], &agents[AGENTS - 1]);
    for transport in [first, last] {
        links_come_up(transport, AGENTS - 1).await;
    }
    send(&**first, "agent-17", "hello").await;
    receives(&**last, "agent-00", "hello").await;
}

/// As on many machines, where `lo` has none: nobody hears of itself there, and twelve find each other. Falsified by one that is not
/// found, or by a start that waits too long for what does not come.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn loopback_needs_no_multicast() {
    const AGENTS: usize = 8;
    let mut processes = Processes::new(1);
    let mut ip = processes.net.hosts[0].command("ip");
    let off = ip.args(["link", "set", "dev", "lo", "multicast", "off"]).status();
    assert!(off.unwrap().success());
    for transport in &start_many(&mut processes, AGENTS).await {
        links_come_up(transport, AGENTS - 1).await;
    }
}

async fn start_many(processes: &mut Processes, many: usize) -> Vec<Arc<DdsTransport>> {
    let mut agents = Vec::new();
    for number in 0..many {
        agents.push(processes.start(0, &format!("agent-{number:02}"), 1).await);
    }
    agents
}

async fn links_come_up(transport: &DdsTransport, many: usize) {
    let mut found = 0;
    while found < many {
        if let TransportEvent::LinkUp { .. } = event(transport).await {
            found += 1;
        }
    }
}

/// Falsified by a partition that is not noticed within 4 s on both sides, or not mended after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_partition_is_noticed_and_mended() {
    let mut processes = Processes::new(2);
    let alice = processes.start(0, "alice", 1).await;
    let bob = processes.start(1, "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    processes.net.hosts[0].cut(ifmesh_testnet::Cut::Udp).unwrap();
    let cut = Instant::now();
    for (transport, peer) in [(&alice, "bob"), (&bob, "alice")] {
        let down = TransportEvent::LinkDown {
            peer: id(peer),
            reason: DownReason::Timeout,
        };
        assert_eq!(good_event(&**transport).await, down);
        assert!(cut.elapsed() < Duration::from_secs(4), "{:?}", cut.elapsed());
        assert!(transport.links().iter().all(|link| link.state != LinkState::Up));
    }
    processes.net.hosts[0].mend().unwrap();
    let mended = Instant::now();
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    eprintln!("a link {:?} after the partition ended", mended.elapsed());
    exchange(&alice, &bob).await;
}

/// Agents get it in their inboxes; whoever reads the record does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_broadcast_that_is_too_long_for_the_record_is_counted() {
    let mut processes = Processes::new(1);
    let alice = processes.start(0, "alice", 1).await;
    for (len, dropped) in [(49_152, 0), (49_153, 1), (1, 1)] {
        let frame = Bytes::from(vec![7; len]);
        let envelope = Envelope::new(Destination::Everyone, Lane::Reliable, frame);
        alice.send(envelope).await.unwrap();
        assert_eq!(alice.metrics().bus_dropped, dropped, "{len} bytes");
    }
}
