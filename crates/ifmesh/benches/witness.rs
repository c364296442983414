//! What a witness log costs two agents that talk: messages per second, and processor time for each message, with the logs on and
//! off.
//!
//! Pairs of short rounds, one with and one without, now this one first, now that one; a pair gives one ratio. What else the
//! machine does changes more slowly than that. The processor time counts all threads of this process, and not what others take.
//!
//! Over WebRTC on loopback, and over the in-memory mesh, which costs next to nothing.
//!
//! Measured with `cargo bench -p ifmesh --bench witness` on two cores, which hold both agents, both logs and the network, and another
//! program that took most of one of them: over WebRTC 94,341 messages a second without logs and 73,100 with, a ratio of 0.77
//! (quartiles 0.72 and 0.86); over the mesh 132,033 and 94,190, 0.70 (0.65 to 0.75). Short of the 0.9 that it should be. A message
//! costs 17.2 us of processor time over WebRTC, and its three records 4.2 us: SHA-256 over 1.3 KB of lines and the tree's nodes,
//! allocations, copies to the page cache and their way to the disk. Lines go to the operating system some tens of KiB at a time, so
//! larger writes would save nothing. To leave the writing to the log's own thread was measured to be slower.
#![allow(clippy::unwrap_used, reason = "a bench may panic")]
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ifmesh::{
    AgentId, Destination, Draft, Identity, Observer, Session, Witness, WitnessConfig, WitnessPolicy,
};
use ifmesh_signaling::{Server, ServerConfig};
use ifmesh_transport::{IfTransport, PeerTrust, SessionConfig, SystemClock};
use ifmesh_transport_mem::{Mesh, MeshConfig};
use ifmesh_transport_webrtc::{WebRtcConfig, WebRtcTransport};
use ifmsg::{Permissions, TrustPolicy, TrustStore};
use serde_json::json;

const MESSAGES: u64 = 20_000;
const PAIRS: usize = 20;

/// What carries the messages.
#[derive(Debug, Clone, Copy)]
enum Over {
    WebRtc,
    Mem,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(Box::pin(async {
        for over in [Over::WebRtc, Over::Mem] {
            compare(over).await;
        }
    }));
}

async fn compare(over: Over) {
    let (mut off, mut on) = (Vec::new(), Vec::new());
    round(over, false).await;
    round(over, true).await;
    for pair in 0..PAIRS {
        for with in [pair % 2 == 0, pair % 2 != 0] {
            let done = round(over, with).await;
            if with { &mut on } else { &mut off }.push(done);
        }
    }
    println!("{over:?}: medians and quartiles of {PAIRS} pairs of {MESSAGES} messages");
    for (name, rounds) in [("off", &off), ("on", &on)] {
        let rate = Spread::of(rounds.iter().map(|round| round.rate));
        let cpu = rounds.iter().map(|round| round.cpu).sum::<f64>() / rounds.len() as f64;
        println!(
            "  witness {name}: {:.0} messages/s ({:.0} to {:.0}), {:.2} us of processor time for each",
            rate.median, rate.low, rate.high, cpu
        );
    }
    let ratio = Spread::of(off.iter().zip(&on).map(|(off, on)| on.rate / off.rate));
    let of = |rounds: &[Round]| rounds.iter().map(|round| round.cpu).sum::<f64>();
    println!(
        "  ratio of messages/s: {:.3} ({:.3} to {:.3})",
        ratio.median, ratio.low, ratio.high
    );
    println!("  ratio of processor time: {:.3}", of(&on) / of(&off));
}

struct Round {
    /// Messages per second.
    rate: f64,
    /// Microseconds of processor time for each message.
    cpu: f64,
}

/// The median and the quartiles.
struct Spread {
    low: f64,
    median: f64,
    high: f64,
}

impl Spread {
    fn of(all: impl Iterator<Item = f64>) -> Self {
        let mut all: Vec<f64> = all.collect();
        all.sort_by(f64::total_cmp);
        let at = |quarter: usize| all[(all.len() - 1) * quarter / 4];
        Self {
            low: at(1),
            median: at(2),
            high: at(3),
        }
    }
}

/// Processor time of this process so far, in seconds; NaN where there is no /proc.
fn processor_time() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, in brackets, may hold spaces. A tick is 10 ms on every Linux.
    let ticks = stat.rsplit_once(')').and_then(|(_, rest)| {
        let mut fields = rest.split_whitespace().skip(11);
        Some(fields.next()?.parse::<f64>().ok()? + fields.next()?.parse::<f64>().ok()?)
    });
    ticks.map_or(f64::NAN, |ticks| ticks / 100.0)
}

/// A transport for each of two agents.
async fn transports(
    over: Over,
    names: &[AgentId; 2],
    identities: &[Identity; 2],
    trust: &TrustStore,
) -> (Vec<Arc<dyn IfTransport>>, Option<Server>) {
    let mut transports: Vec<Arc<dyn IfTransport>> = Vec::new();
    let server = match over {
        Over::Mem => {
            let mesh = Mesh::with(0, MeshConfig::reliable()).unwrap();
            transports.extend(names.each_ref().map(|name| mesh.join(name).unwrap() as _));
            None
        }
        Over::WebRtc => {
            let config =
                ServerConfig::new("127.0.0.1:0".parse().unwrap(), AgentId::new("signaling").unwrap());
            let server = Server::bind(config, ifmesh::random()).await.unwrap();
            let url = format!("ws://{}", server.local_addr());
            for (name, identity) in names.iter().zip(identities) {
                let trust = trust.clone();
                let keys = Arc::new(move |peer: &AgentId| PeerTrust::of(&trust, peer));
                let config = WebRtcConfig::new(name.clone(), identity.clone(), 1, [url.as_str()], keys);
                let transport = WebRtcTransport::start(config, Arc::new(SystemClock), ifmesh::random());
                transports.push(transport.await.unwrap());
            }
            Some(server)
        }
    };
    (transports, server)
}

async fn round(over: Over, with_logs: bool) -> Round {
    let logs = with_logs.then(|| tempfile::tempdir_in(".").unwrap());
    let logs = logs.as_ref().map(|logs| logs.path());
    let names = ["ann", "bob"].map(|name| AgentId::new(name).unwrap());
    let identities = [Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32])];
    let mut trust = TrustStore::new(TrustPolicy::Allowlist);
    for (name, identity) in names.iter().zip(&identities) {
        trust
            .bind(name.clone(), *identity.public_key(), Permissions::ALL)
            .unwrap();
    }
    let (transports, _server) = transports(over, &names, &identities, &trust).await;
    let (mut sessions, mut witnesses) = (Vec::new(), Vec::new());
    for ((name, identity), transport) in names.iter().zip(identities).zip(transports) {
        let mut config = SessionConfig::new(name.clone(), identity.clone(), trust.clone(), 1);
        if let Some(logs) = logs {
            let wanted = WitnessConfig::new(logs.join(name.as_str()), WitnessPolicy::Required);
            let (witness, _) = Witness::open(&wanted, name, &identity, "bench", Arc::new(SystemClock))
                .await
                .unwrap();
            let witness = Arc::new(witness);
            config.observer = Some(witness.clone() as Arc<dyn Observer>);
            config.keepalive = Some(witness.keepalive(name, &identity, &trust).unwrap());
            witnesses.push(witness);
        }
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
    let (start, processor) = (Instant::now(), processor_time());
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
    Round {
        rate: MESSAGES as f64 / seconds,
        // What the logs leave to be done later counts too.
        cpu: (processor_time() - processor) * 1e6 / MESSAGES as f64,
    }
}
