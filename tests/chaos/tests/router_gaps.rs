//! How long an application waits when a road dies under load, with default settings, in virtual time: so it is exact, and the
//! machine's speed has no part in it. Falsified by a gap beyond the bounds below, by a message that does not arrive or arrives
//! out of order, or by traffic that leaves a road which only jitters and loses a little.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use ifmesh_transport::{IfTransport, Policy, Road, Router, RouterConfig};
use ifmesh_transport_mem::{Agents, Faults, Mesh, simulate};
use serde_json::json;
use tokio::time::Instant;

/// A message each so often.
const PACE: Duration = Duration::from_millis(5);

type Routers = Arc<Mutex<Vec<Arc<Router>>>>;

/// Two agents over two roads.
async fn two_roads(mesh: &Mesh, faults: &Faults) -> (Mesh, Agents, Routers) {
    let second = Mesh::new(mesh.seed() ^ 1);
    for road in [mesh, &second] {
        road.faults(faults.clone()).unwrap();
    }
    let routers = Routers::default();
    let (made, dice) = (routers.clone(), mesh.clone());
    let connect = move |name: &str, transports: Vec<Arc<_>>| {
        let roads = transports.into_iter().zip(["first", "second"]);
        let roads = roads.map(|(transport, name)| Road::new(name, transport as Arc<dyn IfTransport>));
        let config = RouterConfig::new(Policy::Failover);
        let router = Router::start(roads.collect(), config, Box::new(dice.rng(name))).unwrap();
        made.lock().unwrap().push(router.clone());
        router as Arc<dyn IfTransport>
    };
    let others = [second.clone()];
    let agents = mesh
        .agents_over(&others, ["ada", "bea"], |_, _| (), connect)
        .unwrap();
    agents.all_up().await;
    (second, agents, routers)
}

/// The longest time between two messages at the receiver, beyond the pace, when `fault` strikes the first road in mid-stream.
fn gap(seed: u64, fault: impl Fn(&Mesh)) -> Duration {
    simulate(seed, async |mesh| {
        let latency = Duration::from_millis(1)..=Duration::from_millis(1 + seed % 10);
        let (_second, agents, _routers) = two_roads(&mesh, &Faults::none().latency(latency)).await;
        let (before, after) = (60 + seed % 37, 150);
        let receiver = agents.clone();
        let reading = tokio::spawn(async move {
            let (mut last, mut gap) = (Instant::now(), Duration::ZERO);
            for number in 0..before + after {
                let message = receiver.recv("bea").await.unwrap();
                assert_eq!(message.payload()["n"], number, "lost, repeated or out of order");
                gap = gap.max(last.elapsed());
                last = Instant::now();
            }
            gap
        });
        for number in 0..before + after {
            if number == before {
                fault(&mesh);
            }
            agents.send("ada", "bea", json!({ "n": number })).await.unwrap();
            tokio::time::sleep(PACE).await;
        }
        let gap = tokio::time::timeout(Duration::from_secs(60), reading).await;
        gap.unwrap().unwrap().saturating_sub(PACE)
    })
    .unwrap()
}

fn judge(what: &str, fault: impl Fn(&Mesh), bound: Duration) {
    let mut gaps: Vec<Duration> = (0..60).map(|seed| gap(seed, &fault)).collect();
    gaps.sort_unstable();
    let [p50, p95, most] = [30, 57, 59].map(|at| gaps[at]);
    println!("{what}: gap p50 {p50:?}, p95 {p95:?}, most {most:?}");
    assert!(p95 <= bound, "{what}: p95 is {p95:?}");
}

#[test]
fn a_blackholed_road_costs_at_most_300_ms() {
    let blackhole = |mesh: &Mesh| mesh.partition(&["ada"], &["bea"]).unwrap();
    judge("blackholed", blackhole, Duration::from_millis(300));
}

#[test]
fn a_road_that_is_dead_in_one_direction_costs_at_most_600_ms() {
    let deaf = |mesh: &Mesh| mesh.partition_one_way(&["ada"], &["bea"]).unwrap();
    judge("dead in one direction", deaf, Duration::from_millis(600));
}

#[test]
fn a_closed_road_costs_at_most_20_ms() {
    let close = |mesh: &Mesh| mesh.break_link("ada", "bea").unwrap();
    judge("closed", close, Duration::from_millis(20));
}

#[test]
fn jitter_and_a_little_loss_move_no_traffic_in_ten_minutes() {
    simulate(1, async |mesh| {
        let jitter = Duration::from_millis(1)..=Duration::from_millis(20);
        let (_second, agents, routers) = two_roads(&mesh, &Faults::none().latency(jitter).loss(0.01)).await;
        let receiver = agents.clone();
        let reading = tokio::spawn(async move { while receiver.recv("bea").await.is_ok() {} });
        for number in 0..12_000 {
            agents.send("ada", "bea", json!({ "n": number })).await.unwrap();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        reading.abort();
        for router in routers.lock().unwrap().iter() {
            assert_eq!(router.metrics().failovers, 0, "{:?}", router.metrics());
        }
    })
    .unwrap();
}
