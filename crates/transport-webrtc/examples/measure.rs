//! How long two agents take to link, how long a frame takes there and back, and how many go through.
//!
//! `cargo run --release -p ifmesh-transport-webrtc --example measure`: a signaling server and two agents in this process, on
//! loopback.
#![allow(clippy::unwrap_used, reason = "an example, run by hand")]

use std::{error::Error, sync::Arc, time::Duration};

use ifmesh_signaling::{Server, ServerConfig};
use ifmesh_transport::{Envelope, IfTransport as _, Lane, SystemClock, TransportEvent};
use ifmesh_transport_webrtc::{PeerTrust, WebRtcConfig, WebRtcTransport};
use ifmsg::{AgentId, Identity};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

const SET_UPS: u64 = 30;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let config = ServerConfig::new("127.0.0.1:0".parse()?, AgentId::new("signaling-1")?);
    let server = Server::bind(config, StdRng::seed_from_u64(0)).await?;
    let url = format!("ws://{}", server.local_addr());

    let mut times = Vec::new();
    for epoch in 1..=SET_UPS {
        let alice = start(&url, "alice", epoch).await?;
        let started = Instant::now();
        let bob = start(&url, "bob", epoch).await?;
        let (a, b) = tokio::join!(alice.recv(), bob.recv());
        assert!(matches!(
            (a?, b?),
            (TransportEvent::LinkUp { .. }, TransportEvent::LinkUp { .. })
        ));
        times.push(started.elapsed());
        let (a, b) = tokio::join!(alice.close(), bob.close());
        a?;
        b?;
    }
    show(
        "from the second start to LinkUp on both sides, registration included",
        times,
    );

    let alice = start(&url, "alice", SET_UPS + 1).await?;
    let bob = start(&url, "bob", SET_UPS + 1).await?;
    let (a, b) = tokio::join!(alice.recv(), bob.recv());
    a?;
    b?;

    let mut times = Vec::new();
    for _ in 0..5_000 {
        let started = Instant::now();
        send(&alice, "bob", 256).await?;
        bob.recv().await?;
        send(&bob, "alice", 256).await?;
        alice.recv().await?;
        times.push(started.elapsed());
    }
    show("256 bytes there and back", times);

    for (size, count) in [(300, 200_000), (16_384, 30_000), (262_144, 2_000)] {
        let started = Instant::now();
        let sender = Arc::clone(&alice);
        let sending = tokio::spawn(async move {
            for _ in 0..count {
                send(&sender, "bob", size).await.unwrap();
            }
        });
        for _ in 0..count {
            bob.recv().await?;
        }
        sending.await?;
        let seconds = started.elapsed().as_secs_f64();
        let rate = f64::from(count) / seconds;
        println!(
            "{count} frames of {size} bytes, one way: {rate:.0}/s, {:.1} MB/s",
            rate * size as f64 / 1e6
        );
    }
    alice.close().await?;
    bob.close().await?;
    Ok(())
}

async fn start(
    url: &str,
    name: &str,
    epoch: u64,
) -> Result<Arc<WebRtcTransport>, Box<dyn Error + Send + Sync>> {
    let keys = |peer: &AgentId| PeerTrust::Key(*identity(peer.as_str()).public_key());
    let mut config = WebRtcConfig::new(AgentId::new(name)?, identity(name), epoch, [url], Arc::new(keys));
    config.bind = vec!["127.0.0.1:0".parse()?];
    let random = Box::new(StdRng::seed_from_u64(epoch + name.len() as u64));
    Ok(WebRtcTransport::start(config, Arc::new(SystemClock), random).await?)
}

fn identity(name: &str) -> Identity {
    let mut seed = [0; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    Identity::from_seed(&seed)
}

async fn send(from: &WebRtcTransport, to: &str, size: usize) -> Result<(), Box<dyn Error + Send + Sync>> {
    from.send(Envelope::new(AgentId::new(to)?, Lane::Reliable, vec![0; size]))
        .await?;
    Ok(())
}

fn show(what: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |part: usize| times[(times.len() - 1) * part / 100];
    println!("{what}: p50 {:?}, p99 {:?}, of {}", at(50), at(99), times.len());
}
