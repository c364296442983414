//! Healthy load in real time on a machine whose cores are all busy: no traffic may leave its road. `soak MINUTES`; ends with an
//! error at the first failover.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test")]

use std::{
    process::ExitCode,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use ifmesh_transport::{IfTransport, Policy, Road, Router, RouterConfig};
use ifmesh_transport_mem::{Faults, Mesh};
use serde_json::json;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> ExitCode {
    let minutes: f64 = std::env::args()
        .nth(1)
        .map_or(10.0, |minutes| minutes.parse().unwrap());
    let end = Instant::now() + Duration::from_secs_f64(minutes * 60.0);
    for _ in 0..thread::available_parallelism().map_or(2, usize::from) {
        thread::spawn(move || while Instant::now() < end {});
    }
    let (first, second) = (Mesh::new(1), Mesh::new(2));
    let latency = Duration::from_millis(1)..=Duration::from_millis(3);
    for mesh in [&first, &second] {
        mesh.faults(Faults::none().latency(latency.clone())).unwrap();
    }
    let routers: Arc<Mutex<Vec<Arc<Router>>>> = Arc::default();
    let (made, dice) = (routers.clone(), first.clone());
    let connect = move |name: &str, transports: Vec<Arc<_>>| {
        let roads = transports.into_iter().zip(["first", "second"]);
        let roads = roads.map(|(transport, name)| Road::new(name, transport as Arc<dyn IfTransport>));
        let config = RouterConfig::new(Policy::Failover);
        let router = Router::start(roads.collect(), config, Box::new(dice.rng(name))).unwrap();
        made.lock().unwrap().push(router.clone());
        router as Arc<dyn IfTransport>
    };
    let others = [second.clone()];
    let agents = first
        .agents_over(&others, ["ada", "bea"], |_, _| (), connect)
        .unwrap();
    agents.all_up().await;
    let receiver = agents.clone();
    let reading = tokio::spawn(async move { while receiver.recv("bea").await.is_ok() {} });
    let mut sent = 0_u64;
    while Instant::now() < end {
        agents.send("ada", "bea", json!({ "n": sent })).await.unwrap();
        sent += 1;
    }
    reading.abort();
    let metrics: Vec<_> = routers
        .lock()
        .unwrap()
        .iter()
        .map(|router| router.metrics())
        .collect();
    let failovers: u64 = metrics.iter().map(|metrics| metrics.failovers).sum();
    let overdue: u64 = metrics.iter().map(|metrics| metrics.overdue).sum();
    println!("{sent} messages in {minutes} minutes, {overdue} overdue, {failovers} failovers");
    ExitCode::from(u8::from(failovers > 0))
}
