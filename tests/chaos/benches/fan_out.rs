//! What a second copy of every message costs its receiver: the CPU time of the receiver's thread, which runs nothing but its
//! router and its session, for one road and for fan-out over two. The goal is a ratio of at most 1.15.
//!
//! `cargo xtask bench fan_out`. Linux only: it reads `/proc/thread-self/schedstat`.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a bench"
)]

use std::{fs, sync::Arc, thread};

use ifmesh_transport::{
    IfTransport, Policy, Road, Router, RouterConfig, Session, SessionConfig, SystemClock,
};
use ifmesh_transport_mem::{MemTransport, Mesh, draft};
use ifmsg::{AgentId, Permissions, TrustPolicy, TrustStore};
use serde_json::json;

const MESSAGES: u64 = 40_000;
const ROUNDS: usize = 5;

fn main() {
    let text = "x".repeat(200);
    let mut rounds: Vec<[f64; 2]> = (0..ROUNDS)
        .map(|_| [1, 2].map(|roads| measure(roads, &text)))
        .collect();
    rounds.sort_by(|a, b| (a[1] / a[0]).total_cmp(&(b[1] / b[0])));
    let [one, two] = rounds[ROUNDS / 2];
    println!("one road  {one:.2} us of the receiver's CPU for each message");
    println!("two roads {two:.2} us, fan-out");
    println!("ratio     {:.3}, median of {ROUNDS}; the goal is 1.15", two / one);
}

/// Microseconds of the receiver's CPU for each message.
fn measure(roads: u64, text: &str) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap();
    runtime.block_on(async {
        let meshes: Vec<Mesh> = (0..roads).map(Mesh::new).collect();
        let sender = session("ada", &meshes);
        let transports: Vec<_> = meshes.iter().map(|mesh| mesh.join("bea").unwrap()).collect();
        let keys = meshes[0].clone();
        let receiver = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .build()
                .unwrap();
            runtime.block_on(async {
                let session = start("bea", transports, &keys);
                // What it takes to get to know each other is not counted.
                for _ in 0..1_000 {
                    session.recv().await.unwrap();
                }
                let before = cpu();
                for _ in 0..MESSAGES {
                    session.recv().await.unwrap();
                }
                let spent = cpu() - before;
                spent / 1e3 / MESSAGES as f64
            })
        });
        for number in 0..MESSAGES + 1_000 {
            let draft = draft("bea", json!({ "n": number, "text": text })).unwrap();
            sender.send(draft).await.unwrap();
        }
        while !receiver.is_finished() {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        receiver.join().unwrap()
    })
}

fn session(name: &str, meshes: &[Mesh]) -> Session {
    let transports = meshes.iter().map(|mesh| mesh.join(name).unwrap()).collect();
    start(name, transports, &meshes[0])
}

fn start(name: &str, transports: Vec<Arc<MemTransport>>, keys: &Mesh) -> Session {
    let roads = transports.into_iter().enumerate();
    let roads = roads.map(|(at, road)| Road::new(format!("road-{at}"), road as Arc<dyn IfTransport>));
    let config = RouterConfig::new(Policy::FanOut { roads: None });
    let router = Router::start(roads.collect(), config, Box::new(keys.rng(name))).unwrap();
    let mut trust = TrustStore::new(TrustPolicy::Allowlist);
    for peer in ["ada", "bea"] {
        let key = *keys.identity(peer).public_key();
        trust
            .bind(AgentId::new(peer).unwrap(), key, Permissions::ALL)
            .unwrap();
    }
    let config = SessionConfig::new(AgentId::new(name).unwrap(), keys.identity(name), trust, 1);
    let random = Box::new(keys.rng(&format!("session {name}")));
    Session::start(router, config, Arc::new(SystemClock), random)
}

/// Nanoseconds that this thread has run.
fn cpu() -> f64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}
