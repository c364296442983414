//! Round trips of 300 B while one datagram in a hundred is lost on its way, in either direction, on loopback; and of five, and
//! of twenty.
//!
//! Measured on two cores, 99th percentile and longest, the same day: without the clock that `probing.rs` puts forward and with
//! probes for half a second only, 1 %: 10.9 ms and 1.0 s, 5 %: 935 ms and 9.0 s; with both, 1 %: 7.7 ms and 0.15 s, 5 %: 26 ms and
//! 0.44 s. At 20 %: 5.0 s and 17 s without, 0.41 to 1.7 s and 1.6 to 3.7 s with. Another day, one core busy with something else:
//! 1 %: 9.1 ms and 0.17 s, 5 %: 23 ms and 0.39 s, 20 %: 0.42 s and 1.1 s.
//!
//! `cargo bench -p ifmesh-transport-webrtc --bench loss`. Fails if the 99th percentile is above 20 ms. Losses are injected where
//! datagrams leave, the same ones for the same seed, as far as the timing is the same.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ifmesh_signaling::{Server, ServerConfig};
use ifmesh_transport::{Envelope, IfTransport as _, Lane, SystemClock, TransportEvent};
use ifmesh_transport_webrtc::{PeerTrust, WebRtcConfig, WebRtcTransport};
use ifmsg::{AgentId, Identity};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::time::Instant;

const SAMPLES: usize = 5_000;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(Box::pin(run()))
}

async fn run() -> Result<(), Failure> {
    let mut worst = Duration::ZERO;
    for (percent, samples) in [(0, SAMPLES), (1, SAMPLES), (5, SAMPLES / 5), (20, SAMPLES / 20)] {
        let p99 = round_trips(percent, samples).await?;
        if percent == 1 {
            worst = p99;
        }
    }
    let share = worst.as_secs_f64() / 0.02;
    println!("99th percentile at 1 %: {share:.2} of the 20 ms that it may take");
    if worst > Duration::from_millis(20) {
        return Err("the 99th percentile at 1 % is above 20 ms".into());
    }
    Ok(())
}

async fn round_trips(percent: u32, samples: usize) -> Result<Duration, Failure> {
    let config = ServerConfig::new("127.0.0.1:0".parse()?, AgentId::new("signaling-1")?);
    let server = Server::bind(config, StdRng::seed_from_u64(0)).await?;
    let url = format!("ws://{}", server.local_addr());
    let (alice, bob) = (
        start(&url, "alice", percent).await?,
        start(&url, "bob", percent).await?,
    );
    let echo = {
        let bob = Arc::clone(&bob);
        tokio::spawn(async move {
            while let Ok(event) = bob.recv().await {
                if let TransportEvent::Frame { from, frame, .. } = event {
                    let _ = bob.send(Envelope::new(from, Lane::Reliable, frame)).await;
                }
            }
        })
    };
    while !matches!(alice.recv().await?, TransportEvent::LinkUp { .. }) {}
    let frame = Bytes::from(vec![1; 300]);
    let peer = AgentId::new("bob")?;
    let mut took = Vec::with_capacity(samples);
    for _ in 0..samples {
        let started = Instant::now();
        alice
            .send(Envelope::new(peer.clone(), Lane::Reliable, frame.clone()))
            .await?;
        loop {
            match alice.recv().await? {
                TransportEvent::Frame { .. } => break,
                // A link that got nothing through was given up: a session would send again.
                TransportEvent::LinkUp { .. } => {
                    let again = Envelope::new(peer.clone(), Lane::Reliable, frame.clone());
                    alice.send(again).await?;
                }
                _ => {}
            }
        }
        took.push(started.elapsed());
    }
    took.sort_unstable();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
    println!(
        "{percent} % lost: p50 {:?}, p90 {:?}, p99 {:?}, p99.9 {:?}, max {:?} ({samples} samples)",
        at(0.5),
        at(0.9),
        at(0.99),
        at(0.999),
        at(1.0),
    );
    echo.abort();
    let _ = alice.close().await;
    let _ = bob.close().await;
    Ok(at(0.99))
}

async fn start(url: &str, name: &str, percent: u32) -> Result<Arc<WebRtcTransport>, Failure> {
    let identity = |name: &str| {
        let mut seed = [0; 32];
        seed[..name.len()].copy_from_slice(name.as_bytes());
        Identity::from_seed(&seed)
    };
    let keys = move |peer: &AgentId| PeerTrust::Key(*identity(peer.as_str()).public_key());
    let mut config = WebRtcConfig::new(AgentId::new(name)?, identity(name), 1, [url], Arc::new(keys));
    config.bind = vec!["127.0.0.1:0".parse()?];
    config.lose(percent * 10_000, name.len() as u64);
    let random = Box::new(StdRng::seed_from_u64(name.len() as u64));
    Ok(WebRtcTransport::start(config, Arc::new(SystemClock), random).await?)
}
