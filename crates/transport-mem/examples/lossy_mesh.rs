//! Three agents on a network that loses, repeats and parts; and yet each message arrives once, in order.
//!
//! `cargo run -p ifmesh-transport-mem --example lossy_mesh -- 42`: the same seed, the same story.

use std::time::Duration;

use ifmesh_transport_mem::{Faults, simulate};
use serde_json::json;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seed = std::env::args().nth(1).map_or(Ok(7), |text| text.parse())?;
    let ms = Duration::from_millis;
    let trace = simulate(seed, async |mesh| -> Result<_, Box<dyn std::error::Error>> {
        let agents = mesh.agents(["alice", "bob", "carol"])?;
        mesh.faults(Faults::none().loss(0.2).duplication(0.1).latency(ms(5)..=ms(50)))?;
        let mut receipts = Vec::new();
        for n in 0..10 {
            receipts.push(agents.send("alice", "bob", json!({ "n": n })).await?);
        }
        mesh.at(ms(50), |mesh| _ = mesh.partition(&["alice"], &["bob", "carol"]));
        mesh.at(ms(5_000), |mesh| mesh.heal());
        for n in 0..10 {
            assert_eq!(agents.recv("bob").await?.payload()["n"], n);
            println!("{:>9.3?}  bob: {n}", mesh.now());
        }
        for receipt in receipts {
            receipt.acknowledged().await?;
        }
        println!("{:>9.3?}  alice: all acknowledged", mesh.now());
        Ok(mesh.trace())
    })??;
    println!("\n{trace}");
    Ok(())
}
