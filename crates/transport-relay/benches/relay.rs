//! What the relay carries on loopback: round trips of 300 bytes alone and while 16 MiB are on their way to the same peer; frames
//! and bytes per second.
//!
//! `cargo bench -p ifmesh-transport-relay --bench relay`. Fails if the 99th percentile grows more than fivefold. Both agents and
//! the signaling server share one process; absolute figures move with the load. The server's rate limits are lifted.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ifmesh_signaling::{RelayLimits, Server, ServerConfig};
use ifmesh_transport::{Envelope, IfTransport as _, Lane, PeerTrust, SystemClock, TransportEvent};
use ifmesh_transport_relay::{RelayConfig, RelayTransport};
use ifmsg::{AgentId, Identity};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{sync::mpsc, time::Instant};

const SMALL: usize = 300;
const LARGE: usize = 16 << 20;
const SAMPLES: usize = 4_000;
const FLOOD: usize = 200_000;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(Box::pin(run()))
}

async fn run() -> Result<(), Failure> {
    let mut config = ServerConfig::new("127.0.0.1:0".parse()?, AgentId::new("signaling-1")?);
    config.relay = Some(RelayLimits {
        bytes_per_second: u32::MAX,
        byte_burst: u32::MAX,
        frames_per_second: u32::MAX,
        frame_burst: u32::MAX,
        ..RelayLimits::default()
    });
    let server = Server::bind(config, StdRng::seed_from_u64(0)).await?;
    let url = format!("ws://{}", server.local_addr());
    let (alice, bob) = (start(&url, "alice").await?, start(&url, "bob").await?);
    while !matches!(alice.recv().await?, TransportEvent::LinkUp { .. }) {}

    // Bob sends frames of 300 bytes back, and counts all others.
    let (came, mut others) = mpsc::channel::<usize>(1_024);
    tokio::spawn(async move {
        while let Ok(event) = bob.recv().await {
            if let TransportEvent::Frame { from, frame, .. } = event {
                if frame.len() == SMALL {
                    let _ = bob.send(Envelope::new(from, Lane::Reliable, frame)).await;
                } else {
                    let _ = came.send(frame.len()).await;
                }
            }
        }
    });

    let alone = round_trips(&alice).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let large = tokio::spawn({
        let (alice, stop) = (Arc::clone(&alice), Arc::clone(&stop));
        async move {
            let frame = Bytes::from(vec![7; LARGE]);
            let (started, mut sent) = (Instant::now(), 0);
            while !stop.load(Ordering::Relaxed) {
                let envelope = Envelope::new(to_bob(), Lane::Reliable, frame.clone());
                if alice.send(envelope).await.is_err() || others.recv().await != Some(LARGE) {
                    break;
                }
                sent += LARGE;
            }
            (sent as f64 / started.elapsed().as_secs_f64() / 1e6, others)
        }
    });
    let beside = round_trips(&alice).await?;
    stop.store(true, Ordering::Relaxed);
    let (megabytes, mut others) = large.await?;

    let flood = Instant::now();
    let sending = async {
        let frame = Bytes::from(vec![7; SMALL + 1]);
        for _ in 0..FLOOD {
            let envelope = Envelope::new(to_bob(), Lane::Reliable, frame.clone());
            alice.send(envelope).await?;
        }
        Ok::<_, Failure>(())
    };
    let receiving = async {
        for _ in 0..FLOOD {
            others.recv().await;
        }
    };
    let (sent, ()) = tokio::join!(sending, receiving);
    sent?;
    let rate = FLOOD as f64 / flood.elapsed().as_secs_f64();

    let factor = beside.1.as_secs_f64() / alone.1.as_secs_f64();
    println!(
        "round trip of 300 B alone:           p50 {:?}, p99 {:?}",
        alone.0, alone.1
    );
    println!(
        "beside 16 MiB on the same link:      p50 {:?}, p99 {:?}: {factor:.1} times",
        beside.0, beside.1
    );
    println!("frames of 16 MiB:                    {megabytes:.0} MB/s (beside the round trips)");
    println!("frames of 301 B, one way:            {rate:.0}/s");
    alice.close().await?;
    server.shutdown().await;
    if factor > 5.0 {
        return Err("small frames wait for a large one".into());
    }
    Ok(())
}

/// p50 and p99.
async fn round_trips(alice: &RelayTransport) -> Result<(Duration, Duration), Failure> {
    let frame = Bytes::from(vec![1; SMALL]);
    let mut trips = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let started = Instant::now();
        let envelope = Envelope::new(to_bob(), Lane::Reliable, frame.clone());
        alice.send(envelope).await?;
        while !matches!(alice.recv().await?, TransportEvent::Frame { .. }) {}
        trips.push(started.elapsed());
    }
    trips.sort();
    Ok((trips[SAMPLES / 2], trips[SAMPLES * 99 / 100]))
}

fn identity(name: &str) -> Identity {
    let mut seed = [0; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    Identity::from_seed(&seed)
}

#[allow(clippy::unwrap_used, reason = "a name that is a name")]
fn to_bob() -> AgentId {
    AgentId::new("bob").unwrap()
}

async fn start(url: &str, name: &str) -> Result<Arc<RelayTransport>, Failure> {
    let keys = |peer: &AgentId| PeerTrust::Key(*identity(peer.as_str()).public_key());
    let config = RelayConfig::new(AgentId::new(name)?, identity(name), 1, [url], Arc::new(keys));
    let random = Box::new(StdRng::seed_from_u64(name.len() as u64));
    Ok(RelayTransport::start(config, Arc::new(SystemClock), random).await?)
}
