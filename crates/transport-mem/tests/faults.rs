//! What each fault does to frames. Falsified by a rate outside of its statistical bounds, a fault that touches what it
//! should spare, or a time that is not exactly what latency and bandwidth say.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use common::{frames, ms, pair, send, try_send};
use ifmesh_transport::Lane;
use ifmesh_transport_mem::{Faults, FaultsError, Mesh, MeshConfig, MeshError, simulate, simulate_with};

fn number(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[..4].try_into().unwrap())
}

/// Sends `count` numbered frames of 8 bytes over a link with these faults, and returns what arrived.
async fn through(mesh: &Mesh, faults: Faults, lane: Lane, count: u32) -> Vec<Vec<u8>> {
    let (alice, bob) = pair(mesh).await;
    mesh.faults(faults).unwrap();
    for number in 0..count {
        let frame = [number.to_be_bytes(), [0; 4]].concat();
        try_send(&alice, &bob, lane, frame).await.unwrap();
        if number % 1_000 == 0 {
            // The best-effort window must not overflow: that would be a drop, not a fault.
            tokio::time::sleep(ms(200)).await;
        }
    }
    frames(mesh, &bob)
        .await
        .into_iter()
        .map(|(_, frame)| frame)
        .collect()
}

#[test]
fn a_perfect_network_does_nothing() {
    let arrived = simulate(1, async |mesh| {
        through(&mesh, Faults::none(), Lane::BestEffort, 5_000).await
    })
    .unwrap();
    let numbers: Vec<u32> = arrived.iter().map(|frame| number(frame)).collect();
    assert_eq!(numbers, (0..5_000).collect::<Vec<_>>());
}

/// 10,000 frames at 10 %: the standard deviation is 30, so 850 to 1,150 are five of them. The seed is fixed.
#[test]
fn loss_loses_its_share_on_both_lanes() {
    for lane in [Lane::Reliable, Lane::BestEffort] {
        let (arrived, counts) = simulate(2, async |mesh| {
            let faults = Faults::none().loss(0.1);
            (through(&mesh, faults, lane, 10_000).await.len(), mesh.counts())
        })
        .unwrap();
        assert!(
            (8_850..=9_150).contains(&arrived),
            "{lane:?}: {arrived} of 10,000 arrived"
        );
        assert_eq!(counts.of("lost") as usize, 10_000 - arrived);
    }
}

#[test]
fn probabilities_0_and_1_are_certain() {
    let nothing = simulate(3, async |mesh| {
        through(&mesh, Faults::none().loss(1.0), Lane::Reliable, 500)
            .await
            .len()
    });
    assert_eq!(nothing.unwrap(), 0);
    let twice = simulate(3, async |mesh| {
        through(&mesh, Faults::none().duplication(1.0), Lane::Reliable, 500)
            .await
            .len()
    });
    assert_eq!(twice.unwrap(), 1_000);
}

#[test]
fn duplication_repeats_its_share_and_nothing_comes_three_times() {
    let arrived = simulate(4, async |mesh| {
        let faults = Faults::none().duplication(0.25).latency(ms(1)..=ms(20));
        through(&mesh, faults, Lane::Reliable, 4_000).await
    })
    .unwrap();
    let mut times = vec![0; 4_000];
    arrived
        .iter()
        .for_each(|frame| times[number(frame) as usize] += 1);
    assert!(times.iter().all(|&times| times == 1 || times == 2));
    let twice = times.iter().filter(|&&times| times == 2).count();
    // The standard deviation is 27.
    assert!((865..=1_135).contains(&twice), "{twice} of 4,000 came twice");
}

#[test]
fn corruption_changes_bits_and_nothing_else() {
    let arrived = simulate(5, async |mesh| {
        let (alice, bob) = pair(&mesh).await;
        mesh.faults(Faults::none().corruption(0.3)).unwrap();
        for _ in 0..2_000 {
            send(&alice, &bob, vec![0; 64]).await;
        }
        frames(&mesh, &bob).await
    })
    .unwrap();
    assert_eq!(arrived.len(), 2_000);
    let flipped = |frame: &[u8]| frame.iter().map(|byte| byte.count_ones()).sum::<u32>();
    let changed: Vec<u32> = arrived
        .iter()
        .map(|(_, frame)| flipped(frame))
        .filter(|&bits| bits > 0)
        .collect();
    // The standard deviation is 20.
    assert!(
        (500..=700).contains(&changed.len()),
        "{} of 2,000 were changed",
        changed.len()
    );
    assert!(changed.iter().all(|bits| (1..=3).contains(bits)));
    assert!(arrived.iter().all(|(_, frame)| frame.len() == 64));
}

#[test]
fn reordering_and_jitter_let_frames_overtake_unless_order_is_promised() {
    for faults in [
        Faults::none().reordering(0.1, ms(30)),
        Faults::none().latency(ms(1)..=ms(30)),
    ] {
        for (config, in_order) in [(MeshConfig::default(), false), (MeshConfig::reliable(), true)] {
            let numbers = simulate_with(6, config, async |mesh| {
                let (alice, bob) = pair(&mesh).await;
                mesh.faults(faults.clone()).unwrap();
                for number in 0..500u32 {
                    send(&alice, &bob, number.to_be_bytes()).await;
                    tokio::time::sleep(ms(1)).await;
                }
                let frames = frames(&mesh, &bob).await;
                frames.iter().map(|(_, frame)| number(frame)).collect::<Vec<_>>()
            })
            .unwrap();
            assert_eq!(numbers.len(), 500, "reordering loses nothing");
            assert_eq!(numbers.is_sorted(), in_order, "{faults:?}");
        }
    }
}

/// What a mesh promises, it keeps: SCTP does not lose what UDP loses.
#[test]
fn a_reliable_lane_is_spared_what_the_other_suffers() {
    let (reliable, best_effort) = simulate_with(7, MeshConfig::reliable(), async |mesh| {
        let (alice, bob) = pair(&mesh).await;
        mesh.faults(Faults::none().loss(0.5).duplication(0.5).corruption(0.5))
            .unwrap();
        for number in 0..500u32 {
            send(&alice, &bob, number.to_be_bytes()).await;
        }
        let reliable = frames(&mesh, &bob).await;
        for number in 0..500u32 {
            try_send(&alice, &bob, Lane::BestEffort, number.to_be_bytes())
                .await
                .unwrap();
        }
        (reliable, frames(&mesh, &bob).await)
    })
    .unwrap();
    assert!(reliable.iter().map(|(_, frame)| number(frame)).eq(0..500));
    assert!(!best_effort.iter().map(|(_, frame)| number(frame)).eq(0..500));
}

#[test]
fn latency_is_exact_and_within_its_range() {
    let times = simulate(8, async |mesh| {
        let (alice, bob) = pair(&mesh).await;
        mesh.faults(Faults::none().latency(ms(25)..=ms(25))).unwrap();
        send(&alice, &bob, "exact").await;
        let exact = frames(&mesh, &bob).await;
        let start = mesh.now();
        mesh.faults(Faults::none().latency(ms(10)..=ms(90))).unwrap();
        for _ in 0..500 {
            send(&alice, &bob, "anywhere").await;
        }
        let anywhere = frames(&mesh, &bob).await;
        (
            exact[0].0,
            anywhere.iter().map(|(time, _)| *time - start).collect::<Vec<_>>(),
        )
    })
    .unwrap();
    assert_eq!(times.0, ms(25));
    assert_eq!(times.1.len(), 500);
    // Handed out at the next whole millisecond.
    assert!(times.1.iter().all(|time| (ms(10)..=ms(91)).contains(time)));
    assert!(
        times.1[0] < ms(15) && times.1[499] > ms(85),
        "uniform over the range"
    );
}

/// 1,000 bytes at 100,000 bytes per second leave every 10 ms, whatever the lane; 5 ms later they arrive.
#[test]
fn bandwidth_shapes_time_exactly() {
    let times = simulate(9, async |mesh| {
        let (alice, bob) = pair(&mesh).await;
        mesh.faults(Faults::none().bandwidth(100_000).latency(ms(5)..=ms(5)))
            .unwrap();
        for number in 0..50 {
            let lane = if number % 2 == 0 {
                Lane::Reliable
            } else {
                Lane::BestEffort
            };
            try_send(&alice, &bob, lane, vec![0; 1_000]).await.unwrap();
        }
        // The other direction has a bandwidth of its own.
        send(&bob, &alice, vec![0; 1_000]).await;
        let (there, back) = (frames(&mesh, &bob).await, common::event(&alice).await);
        assert!(matches!(back, ifmesh_transport::TransportEvent::Frame { .. }));
        there.into_iter().map(|(time, _)| time).collect::<Vec<_>>()
    })
    .unwrap();
    assert_eq!(
        times,
        (1..=50).map(|number| ms(10 * number + 5)).collect::<Vec<_>>()
    );
}

/// Falsified by a best-effort flood over a thin link that delays what is sent after it by more than the window holds.
#[test]
fn frames_that_gave_way_take_no_bandwidth() {
    let config = MeshConfig {
        window: 300_000,
        ..MeshConfig::default()
    };
    let (arrived, dropped, took) = simulate_with(10, config, async |mesh| {
        let (alice, bob) = pair(&mesh).await;
        mesh.faults(Faults::none().bandwidth(1_000_000)).unwrap();
        for number in 0..10_000u32 {
            let frame = [number.to_be_bytes().to_vec(), vec![0; 932]].concat();
            try_send(&alice, &bob, Lane::BestEffort, frame).await.unwrap();
        }
        let arrived = frames(&mesh, &bob).await;
        let dropped = ifmesh_transport::IfTransport::links(&*alice)[0].dropped;
        (arrived.clone(), dropped, arrived.last().unwrap().0)
    })
    .unwrap();
    // 300 frames of 936 + 64 bytes fit into the window; at most one more was on the wire already.
    assert!((299..=301).contains(&arrived.len()), "{}", arrived.len());
    assert_eq!(arrived.len() as u64 + dropped, 10_000);
    assert_eq!(number(&arrived.last().unwrap().1), 9_999, "the newest stays");
    assert!(took <= ms(300), "{took:?}");
}

#[test]
fn a_direction_can_have_faults_of_its_own() {
    let (there, back) = simulate(11, async |mesh| {
        let (alice, bob) = pair(&mesh).await;
        mesh.faults_from("alice", "bob", Faults::none().loss(1.0))
            .unwrap();
        for number in 0..100u32 {
            send(&alice, &bob, number.to_be_bytes()).await;
            send(&bob, &alice, number.to_be_bytes()).await;
        }
        (frames(&mesh, &bob).await.len(), frames(&mesh, &alice).await.len())
    })
    .unwrap();
    assert_eq!((there, back), (0, 100));
}

#[test]
fn impossible_faults_are_refused_and_change_nothing() {
    simulate(12, async |mesh| {
        let refused = |faults| match mesh.faults(faults) {
            Err(MeshError::Faults(error)) => error,
            other => panic!("{other:?}"),
        };
        for value in [-0.1, 1.1, f64::INFINITY] {
            assert_eq!(
                refused(Faults::none().loss(value)),
                FaultsError::Probability { fault: "loss", value }
            );
        }
        assert!(matches!(
            refused(Faults::none().corruption(f64::NAN)),
            FaultsError::Probability {
                fault: "corruption",
                ..
            }
        ));
        #[allow(clippy::reversed_empty_ranges)]
        let backwards = ms(5)..=ms(4);
        assert_eq!(
            refused(Faults::none().latency(backwards)),
            FaultsError::EmptyLatency
        );
        assert_eq!(refused(Faults::none().bandwidth(0)), FaultsError::ZeroBandwidth);
        assert_eq!(mesh.counts().of("faults"), 0);
    })
    .unwrap();
}
