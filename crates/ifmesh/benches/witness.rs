//! Messages per second between two agents with their witness logs on and off, in one run, alternating; and the ratio.
//!
//! Over the in-memory mesh, which costs next to nothing: over a network the witness's share is smaller.
#![allow(clippy::unwrap_used, reason = "a bench may panic")]
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use ifmesh::{
    AgentId, Destination, Draft, Identity, Observer, Session, Witness, WitnessConfig, WitnessPolicy,
};
use ifmesh_transport::{SessionConfig, SystemClock};
use ifmesh_transport_mem::{Mesh, MeshConfig};
use ifmsg::{Permissions, TrustPolicy, TrustStore};
use serde_json::json;

const MESSAGES: u64 = 40_000;
const ROUNDS: usize = 11;

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let (mut off, mut on) = (Vec::new(), Vec::new());
        round(None).await;
        for _ in 0..ROUNDS {
            off.push(round(None).await);
            let dir = tempfile::tempdir_in(".").unwrap();
            on.push(round(Some(dir.path())).await);
        }
        // Neighbours are compared with each other: what else the machine does changes more slowly than that.
        let ratios = off.iter().zip(&on).map(|(off, on)| on / off).collect();
        println!("witness off: {:.0} messages/s (median of {ROUNDS})", median(off));
        println!("witness on:  {:.0} messages/s (median of {ROUNDS})", median(on));
        println!("ratio:       {:.3} (median of {ROUNDS} pairs)", median(ratios));
    });
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

async fn round(logs: Option<&Path>) -> f64 {
    let names = ["ann", "bob"].map(|name| AgentId::new(name).unwrap());
    let identities = [Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32])];
    let mut trust = TrustStore::new(TrustPolicy::Allowlist);
    for (name, identity) in names.iter().zip(&identities) {
        trust
            .bind(name.clone(), *identity.public_key(), Permissions::ALL)
            .unwrap();
    }
    let mesh = Mesh::with(0, MeshConfig::reliable()).unwrap();
    let (mut sessions, mut witnesses) = (Vec::new(), Vec::new());
    for (name, identity) in names.iter().zip(identities) {
        let mut config = SessionConfig::new(name.clone(), identity.clone(), trust.clone(), 1);
        if let Some(logs) = logs {
            let wanted = WitnessConfig::new(logs.join(name.as_str()), WitnessPolicy::Required);
            let (witness, _) = Witness::open(&wanted, name, &identity, "mem", Arc::new(SystemClock))
                .await
                .unwrap();
            let witness = Arc::new(witness);
            config.observer = Some(witness.clone() as Arc<dyn Observer>);
            config.keepalive = Some(witness.keepalive(name, &identity, &trust).unwrap());
            witnesses.push(witness);
        }
        let transport = mesh.join(name).unwrap();
        sessions.push(Session::start(
            transport,
            config,
            Arc::new(SystemClock),
            ifmesh::random(),
        ));
    }
    let [ann, bob] = <[Session; 2]>::try_from(sessions).unwrap().map(Arc::new);
    ann.peers_until(|peers| peers.iter().any(|peer| peer.up)).await;
    let text = "x".repeat(200);
    let start = Instant::now();
    let receiver = tokio::spawn({
        let bob = bob.clone();
        async move {
            for _ in 0..MESSAGES {
                bob.recv().await.unwrap();
            }
        }
    });
    let mut last = None;
    for number in 0..MESSAGES {
        let draft = Draft::new(
            Destination::new("bob").unwrap(),
            json!({ "n": number, "text": text }),
        );
        last = Some(ann.send(draft).await.unwrap());
    }
    last.unwrap().acknowledged().await.unwrap();
    receiver.await.unwrap();
    let seconds = start.elapsed().as_secs_f64();
    ann.close(Duration::from_secs(1)).await;
    bob.close(Duration::from_secs(1)).await;
    for witness in witnesses {
        witness.close().await.unwrap();
    }
    MESSAGES as f64 / seconds
}
