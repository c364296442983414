//! Three agents on a bad network, and what became of their frames.
//!
//! `cargo run -p ifmesh-transport-mem --example lossy_mesh -- 42`: the same seed, the same story.

use std::time::Duration;

use ifmesh_transport::{Envelope, IfTransport, Lane, TransportEvent};
use ifmesh_transport_mem::{Faults, simulate};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let seed = std::env::args().nth(1).map_or(Ok(7), |text| text.parse())?;
    let ms = Duration::from_millis;
    let trace = simulate(seed, async |mesh| -> Result<_, Box<dyn std::error::Error>> {
        let alice = mesh.join("alice")?;
        let (bob, _carol) = (mesh.join("bob")?, mesh.join("carol")?);
        mesh.faults(Faults::none().loss(0.2).duplication(0.1).latency(ms(5)..=ms(50)))?;
        mesh.at(ms(25), |mesh| _ = mesh.partition(&["alice"], &["bob", "carol"]));
        mesh.at(ms(5_000), |mesh| mesh.heal());
        for number in 0..10u8 {
            alice
                .send(Envelope::new(bob.id().clone(), Lane::Reliable, vec![number]))
                .await?;
        }
        let mut times_up = 0;
        while times_up < 3 {
            let event = bob.recv().await?;
            println!("{:>9.3?}  bob: {event:?}", mesh.now());
            times_up += u32::from(matches!(event, TransportEvent::LinkUp { .. }));
        }
        Ok(mesh.trace())
    })??;
    println!("\n{trace}");
    Ok(())
}
