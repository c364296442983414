//! How long a connection takes to open, and what it carries, on loopback: our engine, and the library as it comes, in one run.
//!
//! `cargo bench -p ifmesh-transport-webrtc --bench setup`. Fails if our median is above 20 ms. Both peers share one process;
//! absolute figures move with the load. Measured on two cores, one of them busy with something else: 11.5 ms, and 806 ms by the
//! library's defaults, 70 times as long.

// The engine is private to the crate, and stays so: this compiles it a second time.
#[allow(dead_code)]
#[path = "../src/engine/mod.rs"]
mod engine;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use engine::{EngineConfig, Lane, Peer, PeerEvent};
use tokio::sync::mpsc;
use tokio::time::Instant;

type Events = mpsc::Receiver<PeerEvent>;

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    runtime.block_on(Box::pin(run()))
}

async fn run() -> Result<(), Failure> {
    let mut ours = Vec::new();
    for _ in 0..40 {
        let started = Instant::now();
        let (a, _, b, _) = pair().await;
        ours.push(started.elapsed());
        a.close().await;
        b.close().await;
    }
    let mut theirs = Vec::new();
    for _ in 0..10 {
        theirs.push(plain::open().await);
    }
    let ours = report("offer to open, engine", &mut ours);
    let theirs = report("offer to open, library's defaults", &mut theirs);
    let ratio = theirs.as_secs_f64() / ours.as_secs_f64();
    println!(
        "ratio of the medians: the library's defaults take {ratio:.0} times as long; ours is to be 20 ms at most"
    );

    throughput(300, 300_000).await;
    throughput(16 * 1024, 40_000).await;
    throughput(60 * 1024, 10_000).await;
    round_trips().await;
    idle().await;
    if ours > Duration::from_millis(20) {
        return Err("setting up takes too long".into());
    }
    Ok(())
}

/// The median.
fn report(what: &str, samples: &mut [Duration]) -> Duration {
    samples.sort_unstable();
    let at = |part: f64| samples[((samples.len() - 1) as f64 * part) as usize];
    println!(
        "{what}: p50 {:?}, p90 {:?}, min {:?} ({} samples)",
        at(0.5),
        at(0.9),
        samples[0],
        samples.len()
    );
    at(0.5)
}

async fn throughput(size: usize, count: u32) {
    let (a, _a_events, b, mut events) = pair().await;
    let started = Instant::now();
    let sender = tokio::spawn(async move {
        for _ in 0..count {
            if let Err(error) = a.send(Lane::Messaging, BytesMut::zeroed(size).freeze()).await {
                eprintln!("send: {error}");
                break;
            }
        }
        a
    });
    for _ in 0..count {
        frame(&mut events).await;
    }
    let took = started.elapsed().as_secs_f64();
    println!(
        "{size} B frames: {:.0}/s, {:.0} MB/s",
        f64::from(count) / took,
        f64::from(count) * size as f64 / took / 1e6
    );
    if let Ok(a) = sender.await {
        a.close().await;
    }
    b.close().await;
}

async fn round_trips() {
    let (a, mut a_events, b, mut b_events) = pair().await;
    let echo = tokio::spawn(async move {
        while let Some(event) = b_events.recv().await {
            if let PeerEvent::Frame(lane, frame) = event
                && b.send(lane, frame).await.is_err()
            {
                break;
            }
        }
    });
    let mut samples = Vec::new();
    for _ in 0..5_000 {
        let started = Instant::now();
        let _ = a.send(Lane::Messaging, Bytes::from_static(&[0; 256])).await;
        frame(&mut a_events).await;
        samples.push(started.elapsed());
    }
    report("round trip of 256 B", &mut samples);
    a.close().await;
    let _ = echo.await;
}

/// Processor time of 20 idle connections, both ends.
async fn idle() {
    const PAIRS: u32 = 20;
    let mut pairs = Vec::new();
    for _ in 0..PAIRS {
        pairs.push(pair().await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = ticks();
    tokio::time::sleep(Duration::from_secs(5)).await;
    let ticks = ticks() - before;
    println!(
        "idle: {:.3} % of a core for each peer",
        ticks as f64 / 5.0 / f64::from(2 * PAIRS)
    );
}

/// User and system time of this process, in hundredths of a second.
fn ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum()
}

/// Two open peers: (offering, its events, answering, its events).
async fn pair() -> (Peer, Events, Peer, Events) {
    let config = EngineConfig {
        bind: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        ..EngineConfig::default()
    };
    let (to_a, mut a_events) = mpsc::channel(256);
    let (to_b, mut b_events) = mpsc::channel(256);
    let Ok((a, offer)) = Peer::offer(&config, to_a).await else {
        panic!("no offer")
    };
    let Ok((b, answer)) = Peer::answer(&config, &offer.sdp, to_b).await else {
        panic!("no answer")
    };
    if let Err(error) = a.accept_answer(&answer.sdp).await {
        panic!("answer: {error}");
    }
    tokio::join!(open(&mut a_events, &b), open(&mut b_events, &a));
    (a, a_events, b, b_events)
}

async fn open(events: &mut Events, other: &Peer) {
    let mut open = 0;
    while open < 2 {
        match events.recv().await {
            Some(PeerEvent::LocalCandidate(candidate)) => drop(other.add_candidate(candidate).await),
            Some(PeerEvent::ChannelOpen(_)) => open += 1,
            Some(PeerEvent::Closed(reason)) => panic!("closed: {reason:?}"),
            Some(_) => {}
            None => panic!("gone"),
        }
    }
}

async fn frame(events: &mut Events) -> Bytes {
    loop {
        match events.recv().await {
            Some(PeerEvent::Frame(_, frame)) => return frame,
            Some(PeerEvent::Closed(reason)) => panic!("closed: {reason:?}"),
            Some(_) => {}
            None => panic!("gone"),
        }
    }
}

/// The library with its own defaults, for comparison.
mod plain {
    use super::*;
    use webrtc::data_channel::{DataChannel, DataChannelEvent};
    use webrtc::peer_connection::{
        PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler, RTCIceCandidateInit,
        RTCPeerConnectionIceEvent,
    };

    struct Handler {
        candidates: mpsc::Sender<RTCIceCandidateInit>,
        channels: mpsc::Sender<Arc<dyn DataChannel>>,
    }

    #[async_trait::async_trait]
    impl PeerConnectionEventHandler for Handler {
        async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
            if let Ok(candidate) = event.candidate.to_json() {
                let _ = self.candidates.try_send(candidate);
            }
        }

        async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
            let _ = self.channels.try_send(channel);
        }
    }

    async fn peer() -> (
        Arc<dyn PeerConnection>,
        mpsc::Receiver<RTCIceCandidateInit>,
        mpsc::Receiver<Arc<dyn DataChannel>>,
    ) {
        let (candidates, from_candidates) = mpsc::channel(64);
        let (channels, from_channels) = mpsc::channel(64);
        let builder = PeerConnectionBuilder::new()
            .with_handler(Arc::new(Handler { candidates, channels }))
            .with_udp_addrs(vec!["127.0.0.1:0"]);
        match Box::pin(builder.build()).await {
            Ok(peer) => (Arc::new(peer), from_candidates, from_channels),
            Err(error) => panic!("library: {error}"),
        }
    }

    async fn opened(channel: &Arc<dyn DataChannel>) {
        while !matches!(channel.poll().await, Some(DataChannelEvent::OnOpen) | None) {}
    }

    /// From creating the first peer to both ends of a channel being open.
    pub(super) async fn open() -> Duration {
        let started = Instant::now();
        let (a, mut a_candidates, _) = peer().await;
        let (b, mut b_candidates, mut b_channels) = peer().await;
        let opening = async {
            let channel = a.create_data_channel("x", None).await?;
            let offer = a.create_offer(None).await?;
            a.set_local_description(offer.clone()).await?;
            b.set_remote_description(offer).await?;
            let answer = b.create_answer(None).await?;
            b.set_local_description(answer.clone()).await?;
            a.set_remote_description(answer).await?;
            Ok::<_, webrtc::error::Error>(channel)
        };
        let channel = match opening.await {
            Ok(channel) => channel,
            Err(error) => panic!("library: {error}"),
        };
        let open = async {
            let accepted = async {
                if let Some(channel) = b_channels.recv().await {
                    opened(&channel).await;
                }
            };
            tokio::join!(opened(&channel), accepted);
        };
        tokio::pin!(open);
        loop {
            tokio::select! {
                Some(candidate) = a_candidates.recv() => drop(b.add_ice_candidate(candidate).await),
                Some(candidate) = b_candidates.recv() => drop(a.add_ice_candidate(candidate).await),
                () = &mut open => break,
            }
        }
        let took = started.elapsed();
        let _ = a.close().await;
        let _ = b.close().await;
        took
    }
}
