//! The meta-test: same seed, same trace, byte for byte; another seed, another trace. Falsified by any difference, or by
//! none. And time costs nothing.

#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use common::ms;
use ifmesh_transport::{Envelope, IfTransport, Lane};
use ifmesh_transport_mem::{Faults, Mesh, MeshConfig, Trace, simulate, simulate_with};
use proptest::prelude::*;
use rand::Rng;

/// Six agents talk at random for two minutes over a network that does everything to them.
fn busy(seed: u64, config: MeshConfig) -> Trace {
    simulate_with(seed, config, async |mesh| {
        mesh.faults(
            Faults::none()
                .loss(0.05)
                .duplication(0.05)
                .corruption(0.02)
                .reordering(0.1, ms(80))
                .latency(ms(1)..=ms(120))
                .bandwidth(200_000),
        )
        .unwrap();
        let names = ["a", "b", "c", "d", "e", "f"];
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks = Vec::new();
        for name in names {
            let transport = mesh.join(name).unwrap();
            tasks.push(talk(&mesh, transport, name, names, stop.clone()));
        }
        mesh.at(ms(10_000), |mesh| {
            mesh.partition(&["a", "b"], &["c", "d"]).unwrap()
        });
        mesh.at(ms(20_000), |mesh| mesh.partition_one_way(&["e"], &["f"]).unwrap());
        mesh.at(ms(25_000), |mesh| mesh.slow_receiver("f", ms(20)).unwrap());
        mesh.at(ms(40_000), |mesh| mesh.heal());
        mesh.at(ms(60_000), |mesh| mesh.crash("c").unwrap());
        mesh.at(ms(70_000), |mesh| mesh.break_link("a", "d").unwrap());
        tokio::time::sleep(ms(80_000)).await;
        tasks.push(talk(&mesh, mesh.restart("c").unwrap(), "c2", names, stop.clone()));
        tokio::time::sleep(ms(40_000)).await;
        stop.store(true, Ordering::Relaxed);
        for task in tasks {
            task.await.unwrap();
        }
        mesh.trace()
    })
    .unwrap()
}

/// Reads what comes; sends to anybody, at random times.
fn talk(
    mesh: &Mesh,
    transport: Arc<ifmesh_transport_mem::MemTransport>,
    name: &str,
    names: [&'static str; 6],
    stop: Arc<AtomicBool>,
) -> tokio::task::JoinHandle<()> {
    let mut random = mesh.rng(name);
    tokio::spawn(async move {
        let reader = transport.clone();
        let reading = tokio::spawn(async move { while reader.recv().await.is_ok() {} });
        while !stop.load(Ordering::Relaxed) {
            let lane = if random.next_u32().is_multiple_of(3) {
                Lane::BestEffort
            } else {
                Lane::Reliable
            };
            let to = ifmsg::AgentId::new(names[random.next_u32() as usize % names.len()]).unwrap();
            let frame = vec![random.next_u32() as u8; random.next_u32() as usize % 4_000];
            // No link, closed: all of that belongs to it.
            let _ = transport.send(Envelope::new(to, lane, frame)).await;
            tokio::time::sleep(ms(u64::from(random.next_u32() % 400))).await;
        }
        let _ = transport.close().await;
        reading.await.unwrap();
    })
}

#[test]
fn the_same_seed_gives_the_same_trace_byte_for_byte() {
    for config in [MeshConfig::default(), MeshConfig::reliable().with_broadcast()] {
        let first = busy(42, config.clone());
        let second = busy(42, config.clone());
        assert_eq!(first.text(), second.text());
        assert_eq!(first, second);
        assert_ne!(
            first.digest(),
            busy(43, config).digest(),
            "another seed, another story"
        );
        // The story is worth comparing: everything happened in it.
        let mut seen: BTreeMap<&str, u64> = BTreeMap::new();
        for line in first.text().lines() {
            *seen.entry(line.split(' ').nth(1).unwrap()).or_default() += 1;
        }
        for event in [
            "sent",
            "delivered",
            "lost",
            "duplicated",
            "corrupted",
            "dropped",
            "cut",
            "mend",
            "down",
            "up",
            "crash",
            "restart",
            "close",
            "slow",
            "break",
            "faults",
            "join",
        ] {
            assert!(seen.contains_key(event), "nothing was {event}: {seen:?}");
        }
        assert!(seen["sent"] > 2_000, "{seen:?}");
    }
}

/// Falsified by an agent whose arrival changes the luck of frames on a link that is not its own.
#[test]
fn another_agent_changes_nobodys_luck() {
    let story = |agents: u32| {
        simulate(7, async |mesh| {
            let (alice, bob) = common::pair(&mesh).await;
            let mut others = Vec::new();
            for number in 0..agents {
                others.push(mesh.join(format!("other-{number}")).unwrap());
            }
            mesh.faults(Faults::none().loss(0.5).latency(ms(1)..=ms(100)))
                .unwrap();
            for number in 0..200u32 {
                for other in &others {
                    common::send(other, &alice, "noise").await;
                }
                common::send(&alice, &bob, number.to_be_bytes()).await;
            }
            tokio::time::sleep(ms(200)).await;
            let trace = mesh.trace();
            let lines = trace.text().lines().filter(|line| line.contains(" alice>bob #"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        })
        .unwrap()
    };
    let alone = story(0);
    assert!(alone.len() > 300);
    assert_eq!(alone, story(3));
}

/// Falsified by a fault that, turned on, changes whom another one hits.
#[test]
fn faults_do_not_disturb_each_other() {
    let lost = |faults: Faults| {
        simulate(8, async |mesh| {
            let (alice, bob) = common::pair(&mesh).await;
            mesh.faults(faults.loss(0.3)).unwrap();
            for number in 0..300u32 {
                common::send(&alice, &bob, number.to_be_bytes()).await;
            }
            let trace = mesh.trace();
            let lost = trace
                .text()
                .lines()
                .filter_map(|line| line.split_once(" lost ").map(|(_, what)| what.to_owned()));
            lost.collect::<Vec<_>>()
        })
        .unwrap()
    };
    let plain = lost(Faults::none());
    assert!(!plain.is_empty());
    assert_eq!(
        plain,
        lost(
            Faults::none()
                .duplication(0.5)
                .corruption(0.5)
                .reordering(0.5, ms(9))
        )
    );
}

#[test]
fn a_virtual_hour_takes_no_time() {
    #[allow(clippy::disallowed_methods, reason = "real time is what this test is about")]
    let start = std::time::Instant::now();
    let heard = simulate(9, async |mesh| {
        let (alice, bob) = common::pair(&mesh).await;
        mesh.faults(Faults::none().latency(ms(50)..=ms(150))).unwrap();
        for _ in 0..3_600 {
            common::send(&alice, &bob, "still here").await;
            assert!(matches!(
                common::event(&bob).await,
                ifmesh_transport::TransportEvent::Frame { .. }
            ));
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert!(mesh.now() >= Duration::from_secs(3_600));
        mesh.counts().of("delivered")
    })
    .unwrap();
    assert_eq!(heard, 3_600);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

#[test]
fn an_old_trace_is_bounded_and_still_counts() {
    let trace = |trace_lines| {
        simulate_with(
            10,
            MeshConfig {
                trace_lines,
                ..MeshConfig::default()
            },
            async |mesh| {
                let (alice, bob) = common::pair(&mesh).await;
                for _ in 0..100 {
                    common::send(&alice, &bob, "x").await;
                }
                mesh.trace()
            },
        )
        .unwrap()
    };
    let (all, few) = (trace(1_000), trace(10));
    assert_eq!(all.omitted(), 0);
    assert_eq!(few.text().lines().count(), 10);
    assert_eq!(few.omitted() as usize + 10, all.text().lines().count());
    assert!(all.text().ends_with(few.text()));
    assert_eq!(all.digest(), few.digest());
}

#[derive(Debug, Clone)]
enum Step {
    Send(u8, u8, bool, u16),
    Wait(u16),
    Partition(u8, u8, bool),
    Break(u8, u8),
    Restart(u8),
    Crash(u8),
    Heal,
    Faults(f64, f64, u64),
    Read(u8),
}

fn step() -> impl Strategy<Value = Step> {
    let agent = || 0..4u8;
    prop_oneof![
        8 => (agent(), agent(), any::<bool>(), 0..3_000u16).prop_map(|(a, b, lane, size)| Step::Send(a, b, lane, size)),
        4 => (0..5_000u16).prop_map(Step::Wait),
        1 => (agent(), agent(), any::<bool>()).prop_map(|(a, b, one_way)| Step::Partition(a, b, one_way)),
        1 => (agent(), agent()).prop_map(|(a, b)| Step::Break(a, b)),
        1 => agent().prop_map(Step::Restart),
        1 => agent().prop_map(Step::Crash),
        1 => Just(Step::Heal),
        1 => (0.0..0.5, 0.0..0.5, 1..2_000u64).prop_map(|(loss, double, kilobytes)| Step::Faults(loss, double, kilobytes)),
        4 => agent().prop_map(Step::Read),
    ]
}

/// Plays any story; checks at its end that, once healed, everybody is linked with everybody who lives.
fn play(seed: u64, steps: &[Step], config: MeshConfig) -> Trace {
    simulate_with(seed, config, async |mesh| {
        let name = |agent: u8| format!("agent-{agent}");
        let mut agents: Vec<_> = (0..4).map(|agent| mesh.join(name(agent)).unwrap()).collect();
        for step in steps {
            match *step {
                Step::Send(a, b, reliable, size) => {
                    let lane = if reliable {
                        Lane::Reliable
                    } else {
                        Lane::BestEffort
                    };
                    let (from, to) = (&agents[a as usize], &agents[b as usize]);
                    let sending = common::try_send(from, to, lane, vec![a; size.into()]);
                    let _ = tokio::time::timeout(ms(100), sending).await;
                }
                Step::Wait(millis) => tokio::time::sleep(ms(millis.into())).await,
                Step::Partition(a, b, true) => mesh.partition_one_way(&[&name(a)], &[&name(b)]).unwrap(),
                Step::Partition(a, b, false) => mesh.partition(&[&name(a)], &[&name(b)]).unwrap(),
                Step::Break(a, b) => mesh.break_link(name(a), name(b)).unwrap(),
                Step::Restart(a) => agents[a as usize] = mesh.restart(name(a)).unwrap(),
                Step::Crash(a) => _ = mesh.crash(name(a)),
                Step::Heal => mesh.heal(),
                Step::Faults(loss, double, kilobytes) => mesh
                    .faults(
                        Faults::none()
                            .loss(loss)
                            .duplication(double)
                            .latency(ms(0)..=ms(300))
                            .bandwidth(kilobytes * 1_000),
                    )
                    .unwrap(),
                Step::Read(a) => _ = tokio::time::timeout(ms(50), agents[a as usize].recv()).await,
            }
        }
        mesh.heal();
        for agent in 0..4 {
            agents[agent as usize] = mesh.restart(name(agent)).unwrap();
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        for agent in &agents {
            let links = agent.links();
            assert_eq!(links.len(), 3);
            assert!(
                links
                    .iter()
                    .all(|link| link.state == ifmesh_transport::LinkState::Up),
                "{links:?}"
            );
            for other in agents.iter().filter(|other| other.id() != agent.id()) {
                common::send(agent, other, "healed").await;
            }
        }
        for agent in &agents {
            let mut healed = 0;
            while let Ok(Ok(event)) = tokio::time::timeout(ms(50), agent.recv()).await {
                healed += usize::from(matches!(event, ifmesh_transport::TransportEvent::Frame { .. }));
            }
            assert_eq!(healed, 3);
            assert_eq!(agent.close().await, Ok(()));
        }
        mesh.trace()
    })
    .unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Falsified by a story after which the mesh does not heal, or which does not repeat itself.
    #[test]
    fn any_story_repeats_itself_and_heals(
        seed: u64,
        reliable: bool,
        steps in proptest::collection::vec(step(), 1..120),
    ) {
        let config = if reliable { MeshConfig::reliable() } else { MeshConfig::default() };
        prop_assert_eq!(play(seed, &steps, config.clone()), play(seed, &steps, config));
    }
}
