//! Partitions, crashes, restarts, breaking links, slow receivers, schedules. Falsified by a frame that crosses a partition,
//! an agent that learns what it cannot know, or learns it at another time than the configuration says.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::time::Duration;

use common::{down, event, frames, ms, pair, send, try_send, up};
use ifmesh_transport::{
    CloseError, Closed, DownReason, IfTransport, Lane, LinkState, SendError, TransportEvent,
};
use ifmesh_transport_mem::{Faults, Mesh, MeshConfig, MeshError, simulate, simulate_with};

/// The default: three seconds.
const DETECTION: Duration = Duration::from_secs(3);

#[test]
fn a_partition_cuts_both_ways_and_is_noticed_in_time() {
    simulate(1, async |mesh| {
        let (alice, bob) = pair(&mesh).await;
        mesh.partition(&["alice"], &["bob"]).unwrap();
        send(&alice, &bob, "lost").await;
        assert_eq!(event(&bob).await, down("alice", DownReason::Timeout));
        assert_eq!(mesh.now(), DETECTION);
        assert_eq!(event(&alice).await, down("bob", DownReason::Timeout));
        let outcome = try_send(&alice, &bob, Lane::Reliable, "refused").await;
        assert_eq!(outcome, Err(SendError::NoLink(bob.id().clone())));
        mesh.heal();
        assert_eq!(event(&alice).await, up("bob"));
        assert_eq!(event(&bob).await, up("alice"));
        send(&alice, &bob, "arrives").await;
        let arrived = frames(&mesh, &bob).await;
        assert_eq!(arrived.len(), 1);
        assert_eq!(arrived[0].1, b"arrives");
    })
    .unwrap();
}

#[test]
fn a_short_partition_is_not_noticed_but_eats_frames() {
    for (config, expected) in [
        (MeshConfig::default(), &[b"3"][..]),
        (MeshConfig::reliable(), &[b"1", b"2", b"3"]),
    ] {
        simulate_with(2, config, async |mesh| {
            let (alice, bob) = pair(&mesh).await;
            mesh.faults(Faults::none().latency(ms(10)..=ms(10))).unwrap();
            send(&alice, &bob, "1").await; // in the air when the cut comes
            mesh.partition(&["alice"], &["bob"]).unwrap();
            send(&alice, &bob, "2").await;
            mesh.at(ms(500), |mesh| mesh.mend(&["bob"], &["alice"]).unwrap());
            mesh.at(ms(501), |mesh| assert_eq!(mesh.counts().of("mend"), 2));
            tokio::time::sleep(ms(600)).await;
            send(&alice, &bob, "3").await;
            let arrived: Vec<_> = frames(&mesh, &bob)
                .await
                .into_iter()
                .map(|(_, frame)| frame)
                .collect();
            assert_eq!(arrived, expected, "a reliable link sends again, another does not");
            tokio::time::sleep(2 * DETECTION).await;
            assert_eq!(mesh.counts().of("down"), 0);
        })
        .unwrap();
    }
}

#[test]
fn a_one_way_partition_cuts_one_way() {
    simulate(3, async |mesh| {
        let (alice, bob) = pair(&mesh).await;
        mesh.partition_one_way(&["alice"], &["bob"]).unwrap();
        send(&alice, &bob, "lost").await;
        send(&bob, &alice, "arrives").await;
        assert!(matches!(event(&alice).await, TransportEvent::Frame { .. }));
        // Bob hears nothing, gives up, and is heard to hang up.
        assert_eq!(event(&bob).await, down("alice", DownReason::Timeout));
        assert_eq!(event(&alice).await, down("bob", DownReason::Network));
        assert_eq!(mesh.now(), DETECTION);
        // Half a connection is none.
        assert_eq!(alice.links()[0].state, LinkState::Down);
        mesh.heal();
        assert_eq!(event(&alice).await, up("bob"));
        assert_eq!(event(&bob).await, up("alice"));
    })
    .unwrap();
}

#[test]
fn a_partition_spares_those_who_are_not_named() {
    simulate(4, async |mesh| {
        let (alice, bob) = pair(&mesh).await;
        let carol = mesh.join("carol").unwrap();
        for agent in [&alice, &bob] {
            assert_eq!(event(agent).await, up("carol"));
        }
        mesh.partition(&["alice"], &["bob"]).unwrap();
        for agent in [&alice, &bob] {
            send(agent, &carol, agent.id().as_str()).await;
        }
        assert_eq!(event(&carol).await, up("alice"));
        assert_eq!(event(&carol).await, up("bob"));
        assert_eq!(frames(&mesh, &carol).await.len(), 2);
    })
    .unwrap();
}

#[test]
fn a_crash_is_silent_and_a_restart_is_a_new_life() {
    simulate(5, async |mesh| {
        let (alice, bob) = pair(&mesh).await;
        mesh.faults(Faults::none().latency(ms(10)..=ms(10))).unwrap();
        send(&bob, &alice, "sent before the crash").await;
        mesh.crash("bob").unwrap();
        assert_eq!(bob.recv().await, Err(Closed));
        assert_eq!(
            try_send(&bob, &alice, Lane::Reliable, "dead").await,
            Err(SendError::Closed)
        );
        assert_eq!(mesh.crash("bob"), Err(MeshError::NotRunning(bob.id().clone())));
        // It had left: a crash does not call it back.
        assert!(matches!(event(&alice).await, TransportEvent::Frame { .. }));
        send(&alice, &bob, "into the void").await;
        assert_eq!(event(&alice).await, down("bob", DownReason::Timeout));
        assert_eq!(mesh.now(), DETECTION);

        let second = mesh.restart("bob").unwrap();
        assert_eq!(event(&alice).await, up("bob"));
        assert_eq!(event(&second).await, up("alice"));
        // The former life's handle is dead for good, and its end harms nobody.
        assert_eq!(bob.close().await, Ok(()));
        drop(bob);
        send(&second, &alice, "alive").await;
        assert!(matches!(event(&alice).await, TransportEvent::Frame { .. }));
    })
    .unwrap();
}

#[test]
fn what_had_not_left_dies_with_its_sender() {
    simulate(16, async |mesh| {
        let (alice, bob) = pair(&mesh).await;
        mesh.faults(Faults::none().bandwidth(1_000)).unwrap();
        for _ in 0..10 {
            send(&alice, &bob, vec![0; 100]).await; // one leaves every 100 ms
        }
        mesh.at(ms(350), |mesh| mesh.crash("alice").unwrap());
        assert_eq!(frames(&mesh, &bob).await.len(), 3);
        assert_eq!(event(&bob).await, down("alice", DownReason::Timeout));
        assert_eq!(mesh.now(), DETECTION + ms(350));
    })
    .unwrap();
}

#[test]
fn a_dead_peer_takes_nothing_and_frees_who_waits_once_it_is_noticed() {
    simulate_with(17, MeshConfig::reliable(), async |mesh| {
        let (alice, bob) = pair(&mesh).await;
        mesh.crash("bob").unwrap();
        let mut accepted = 0;
        let refused = loop {
            match try_send(&alice, &bob, Lane::Reliable, vec![0; 65_472]).await {
                Ok(()) => accepted += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(accepted, 16, "the window, and no more");
        assert_eq!(refused, SendError::NoLink(bob.id().clone()));
        assert_eq!(mesh.now(), DETECTION);
    })
    .unwrap();
}

#[tokio::test(start_paused = true)]
async fn no_task_outlives_the_mesh() {
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let mesh = Mesh::new(18);
    let (alice, bob) = pair(&mesh).await;
    drop(mesh);
    send(&alice, &bob, "the mesh lives as long as its transports").await;
    assert!(matches!(event(&bob).await, TransportEvent::Frame { .. }));
    assert_eq!(alive(), 1);
    drop((alice, bob));
    // An aborted task is gone when it is next polled.
    tokio::task::yield_now().await;
    assert_eq!(alive(), 0);
}

#[test]
fn a_quick_restart_replaces_the_link() {
    simulate(6, async |mesh| {
        let (alice, bob) = pair(&mesh).await;
        mesh.faults(Faults::none().latency(ms(10)..=ms(10))).unwrap();
        send(&alice, &bob, "for the former life").await;
        let second = mesh.restart("bob").unwrap();
        assert_eq!(event(&alice).await, down("bob", DownReason::Replaced));
        assert_eq!(event(&alice).await, up("bob"));
        assert_eq!(event(&second).await, up("alice"));
        assert_eq!(mesh.now(), Duration::ZERO);
        assert_eq!(
            frames(&mesh, &second).await,
            vec![],
            "a new life gets nothing of the former one's"
        );
    })
    .unwrap();
}

#[test]
fn a_dropped_handle_is_a_crash() {
    simulate(7, async |mesh| {
        let (alice, bob) = pair(&mesh).await;
        drop(bob);
        assert_eq!(event(&alice).await, down("bob", DownReason::Timeout));
        assert_eq!(mesh.counts().of("crash"), 1);
    })
    .unwrap();
}

#[test]
fn a_broken_link_is_told_at_once_and_set_up_again() {
    let config = MeshConfig {
        setup: ms(40),
        ..MeshConfig::reliable()
    };
    simulate_with(8, config, async |mesh| {
        let (alice, bob) = pair(&mesh).await;
        assert_eq!(mesh.now(), ms(40));
        mesh.faults(Faults::none().latency(ms(10)..=ms(10))).unwrap();
        send(&alice, &bob, "on its way").await;
        mesh.break_link("alice", "bob").unwrap();
        assert_eq!(event(&alice).await, down("bob", DownReason::Network));
        assert_eq!(alice.links()[0].state, LinkState::Connecting);
        assert_eq!(event(&alice).await, up("bob"));
        assert_eq!(mesh.now(), ms(80));
        assert_eq!(event(&bob).await, down("alice", DownReason::Network));
        assert_eq!(event(&bob).await, up("alice"));
        assert_eq!(frames(&mesh, &bob).await, vec![]);
    })
    .unwrap();
}

#[test]
fn links_come_up_after_setup_and_not_across_a_partition() {
    let config = MeshConfig {
        setup: ms(100),
        ..MeshConfig::default()
    };
    simulate_with(9, config, async |mesh| {
        let (alice, _bob) = (mesh.join("alice").unwrap(), mesh.join("bob").unwrap());
        assert_eq!(alice.links()[0].state, LinkState::Connecting);
        mesh.at(ms(50), |mesh| {
            mesh.partition_one_way(&["bob"], &["alice"]).unwrap()
        });
        mesh.at(ms(1_000), |mesh| mesh.heal());
        assert_eq!(event(&alice).await, up("bob"));
        assert_eq!(mesh.now(), ms(1_100));
    })
    .unwrap();
}

#[test]
fn a_slow_receiver_takes_its_time_and_holds_up_its_senders() {
    let times = simulate(10, async |mesh| {
        let (alice, bob) = pair(&mesh).await;
        mesh.slow_receiver("bob", ms(100)).unwrap();
        let to_bob = {
            let bob = bob.clone();
            async move {
                for _ in 0..64 {
                    send(&alice, &bob, vec![0; 65_472]).await; // 16 fill the window
                }
            }
        };
        let sender = tokio::spawn(to_bob);
        let mut times = Vec::new();
        while times.len() < 64 {
            assert!(matches!(event(&bob).await, TransportEvent::Frame { .. }));
            times.push((mesh.now(), mesh.counts().of("sent")));
        }
        sender.await.unwrap();
        times
    })
    .unwrap();
    for (taken, (time, sent)) in times.iter().enumerate() {
        assert_eq!(*time, ms(100 * taken as u64));
        assert!(*sent <= taken as u64 + 17, "{sent} accepted, {taken} taken");
    }
}

#[test]
fn a_close_that_cannot_flush_says_how_much_is_left() {
    let config = MeshConfig {
        detection: Duration::from_secs(60),
        ..MeshConfig::reliable()
    };
    simulate_with(11, config, async |mesh| {
        let (alice, bob) = pair(&mesh).await;
        mesh.partition(&["alice"], &["bob"]).unwrap();
        for _ in 0..3 {
            send(&alice, &bob, "held").await;
        }
        assert_eq!(alice.close().await, Err(CloseError::Unsent { envelopes: 3 }));
        assert_eq!(mesh.now(), Duration::from_secs(5));
        assert_eq!(alice.close().await, Ok(()));
        // The goodbye did not get through either; Bob has heard nothing since the partition.
        assert_eq!(event(&bob).await, down("alice", DownReason::Timeout));
        assert_eq!(mesh.now(), Duration::from_secs(60));
    })
    .unwrap();
}

#[test]
fn nobody_is_forced_to_read_while_links_flap() {
    simulate(12, async |mesh| {
        let (alice, bob) = pair(&mesh).await;
        for round in 0..10_000u32 {
            send(&alice, &bob, round.to_be_bytes()).await;
            mesh.break_link("alice", "bob").unwrap();
        }
        let mut events = 0;
        let mut state = true;
        while let Ok(Ok(event)) = tokio::time::timeout(ms(10), bob.recv()).await {
            events += 1;
            match event {
                TransportEvent::LinkUp { .. } => assert!(!std::mem::replace(&mut state, true)),
                TransportEvent::LinkDown { .. } => assert!(std::mem::replace(&mut state, false)),
                TransportEvent::Frame { .. } => assert!(state, "a frame over a link that is down"),
                other => panic!("{other:?}"),
            }
        }
        assert!(state, "the last link is up");
        assert!(
            events <= 150,
            "{events} events were kept for a peer who did not read"
        );
    })
    .unwrap();
}

#[test]
fn schedules_run_in_order_at_their_time() {
    simulate(13, async |mesh| {
        let (sender, mut times) = tokio::sync::mpsc::channel(10);
        for (after, name) in [(30, "c"), (10, "a"), (30, "d"), (20, "b")] {
            let sender = sender.clone();
            mesh.at(ms(after), move |mesh| {
                sender.try_send((mesh.now(), name)).unwrap()
            });
        }
        let mut seen = Vec::new();
        for _ in 0..4 {
            seen.push(times.recv().await.unwrap());
        }
        assert_eq!(seen, [(ms(10), "a"), (ms(20), "b"), (ms(30), "c"), (ms(30), "d")]);
    })
    .unwrap();
}

/// Falsified by an assertion in a scheduled action that fails and that nobody hears of.
#[test]
fn a_panic_in_a_schedule_fails_the_test() {
    let story = |waits_in_recv: bool| {
        simulate(15, async move |mesh| {
            let alice = mesh.join("alice").unwrap();
            mesh.at(ms(10), |_| panic!("as expected"));
            if waits_in_recv {
                let _ = alice.recv().await;
            } else {
                tokio::time::sleep(ms(20)).await;
            }
        })
    };
    for waits_in_recv in [true, false] {
        let panic = std::panic::catch_unwind(|| story(waits_in_recv)).unwrap_err();
        assert!(panic.downcast_ref::<String>().unwrap().ends_with("as expected"));
    }
}

#[test]
fn wrong_names_are_errors() {
    simulate(14, async |mesh| {
        let _alice = mesh.join("alice").unwrap();
        let nobody = || MeshError::UnknownAgent("bob".try_into().unwrap());
        assert_eq!(mesh.partition(&["alice"], &["bob"]), Err(nobody()));
        assert_eq!(mesh.crash("bob"), Err(nobody()));
        assert_eq!(mesh.restart("bob").err(), Some(nobody()));
        assert!(matches!(mesh.join("alice"), Err(MeshError::AlreadyJoined(_))));
        assert!(matches!(mesh.join("not an id"), Err(MeshError::InvalidId(_))));
        let mut config = MeshConfig {
            window: 1,
            ..MeshConfig::default()
        };
        assert!(matches!(
            Mesh::with(1, config.clone()),
            Err(MeshError::Window { .. })
        ));
        config.capabilities.max_frame = 65_535;
        assert!(matches!(
            Mesh::with(1, config),
            Err(MeshError::MaxFrameTooSmall { .. })
        ));
    })
    .unwrap();
}
