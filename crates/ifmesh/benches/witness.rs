//! What a witness log costs two agents that talk: messages per second, and processor time for each message, with the logs on and
//! off.
//!
//! Pairs of rounds of half a second, one with and one without, now this one first, now that one; a pair gives one ratio. What else
//! the machine does changes more slowly than that. Each agent has a thread of its own, as it has in a process of its own. The
//! processor time counts all threads of this process, and not what others take.
//!
//! Over WebRTC on loopback, and over the in-memory mesh, which costs next to nothing.
//!
//! `cargo bench -p ifmesh --bench witness [-- FOLDER]`: the logs stand in FOLDER, else in this crate's.
//!
//! Measured on two cores, which hold both agents, both logs and the network, on ext4, while nothing was built. Of seven runs over
//! WebRTC and five over the mesh: messages a second, and the medians of the ratios, run by run:
//!
//! | over | policy | without | with | ratio | processor time without, with |
//! |---|---|---|---|---|---|
//! | WebRTC | best effort | 167,000 to 199,000 | 152,000 to 181,000 | 0.92 0.88 0.91 0.94 0.93 0.89 0.90 | 9.9 us, 10.7 us |
//! | WebRTC | required | 165,000 to 198,000 | 151,000 to 175,000 | 0.91 0.88 0.88 0.88 0.90 0.88 0.93 | 9.7 us, 10.8 us |
//! | mesh | best effort | 272,000 to 308,000 | 247,000 to 270,000 | 0.88 0.87 0.86 0.88 0.92 | 6.2 us, 7.0 us |
//! | mesh | required | 286,000 to 308,000 | 247,000 to 261,000 | 0.84 0.83 0.85 0.83 0.86 | 6.2 us, 7.1 us |
//!
//! So the 0.9 that it should be is what an agent over WebRTC has with the policy that is the default, in five of seven runs. The
//! sender, with two records of each message, is the one that falls behind. Of what its log costs, nearly half is the page cache of
//! the filesystem, by rounds in which lines were made and not written; hashing is hardly any of it. Before one line told of many messages
//! the ratios were 0.76, 0.77, 0.67 and 0.68.
#![allow(clippy::unwrap_used, reason = "a bench may panic")]
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::{
    path::{Path, PathBuf},
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
use tokio::runtime::Runtime;

const MESSAGES: u64 = 100_000;
const PAIRS: usize = 12;

/// What every agent of the configuration examples has, and what costs more: an action that cannot be recorded is not done.
const POLICIES: [WitnessPolicy; 2] = [WitnessPolicy::BestEffort, WitnessPolicy::Required];

/// What carries the messages.
#[derive(Debug, Clone, Copy)]
enum Over {
    WebRtc,
    Mem,
}

fn main() {
    // The signaling server's, and whoever waits for the agents.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let folder = std::env::args().skip(1).find(|arg| !arg.starts_with('-'));
    let folder = PathBuf::from(folder.unwrap_or_else(|| ".".to_owned()));
    println!("logs in {}, on {}", folder.display(), filesystem(&folder));
    runtime.block_on(Box::pin(async {
        for over in [Over::WebRtc, Over::Mem] {
            for policy in POLICIES {
                compare(over, policy, &folder).await;
            }
        }
    }));
}

async fn compare(over: Over, policy: WitnessPolicy, folder: &Path) {
    let (mut off, mut on) = (Vec::new(), Vec::new());
    let logs = |with: bool| with.then_some((policy, folder));
    round(over, logs(false)).await;
    round(over, logs(true)).await;
    for pair in 0..PAIRS {
        for with in [pair % 2 == 0, pair % 2 != 0] {
            let done = round(over, logs(with)).await;
            if with { &mut on } else { &mut off }.push(done);
        }
    }
    println!("{over:?}, {policy:?}: medians and quartiles of {PAIRS} pairs of {MESSAGES} messages");
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

/// Where two agents meet.
enum Meeting {
    Server(Server),
    Mesh(Mesh),
}

impl Meeting {
    async fn new(over: Over) -> Self {
        match over {
            Over::Mem => Self::Mesh(Mesh::with(0, MeshConfig::reliable()).unwrap()),
            Over::WebRtc => {
                let signaling = AgentId::new("signaling").unwrap();
                let config = ServerConfig::new("127.0.0.1:0".parse().unwrap(), signaling);
                Self::Server(Server::bind(config, ifmesh::random()).await.unwrap())
            }
        }
    }

    async fn join(&self, name: &AgentId, identity: &Identity, trust: &TrustStore) -> Arc<dyn IfTransport> {
        match self {
            Self::Mesh(mesh) => mesh.join(name).unwrap(),
            Self::Server(server) => {
                let url = format!("ws://{}", server.local_addr());
                let trust = trust.clone();
                let keys = Arc::new(move |peer: &AgentId| PeerTrust::of(&trust, peer));
                let config = WebRtcConfig::new(name.clone(), identity.clone(), 1, [url.as_str()], keys);
                let transport = WebRtcTransport::start(config, Arc::new(SystemClock), ifmesh::random());
                transport.await.unwrap()
            }
        }
    }
}

/// An agent, alone on a thread of its own as it is in a process of its own.
struct Agent {
    runtime: Runtime,
    session: Arc<Session>,
    witness: Option<Arc<Witness>>,
}

impl Agent {
    async fn start(name: &'static str, meeting: Arc<Meeting>, log: Option<WitnessConfig>) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let starting = runtime.spawn(async move {
            let mut trust = TrustStore::new(TrustPolicy::Allowlist);
            for name in NAMES {
                let key = *identity(name).public_key();
                trust.bind(id(name), key, Permissions::ALL).unwrap();
            }
            let (name, identity) = (id(name), identity(name));
            let transport = meeting.join(&name, &identity, &trust).await;
            let mut config = SessionConfig::new(name.clone(), identity.clone(), trust.clone(), 1);
            let mut witness = None;
            if let Some(log) = log {
                let opened = Witness::open(&log, &name, &identity, "bench", Arc::new(SystemClock)).await;
                let opened = Arc::new(opened.unwrap().0);
                config.observer = Some(opened.clone() as Arc<dyn Observer>);
                config.keepalive = Some(opened.keepalive(&name, &identity, &trust).unwrap());
                witness = Some(opened);
            }
            let session = Session::start(transport, config, Arc::new(SystemClock), ifmesh::random());
            (Arc::new(session), witness)
        });
        let (session, witness) = starting.await.unwrap();
        Self {
            runtime,
            session,
            witness,
        }
    }

    async fn close(self) {
        let Self {
            runtime,
            session,
            witness,
        } = self;
        let closing = runtime.spawn(async move {
            session.close(Duration::from_secs(1)).await;
            if let Some(witness) = witness {
                witness.close().await.unwrap();
            }
        });
        closing.await.unwrap();
        runtime.shutdown_background();
    }
}

const NAMES: [&str; 2] = ["ann", "bob"];

fn id(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

fn identity(name: &str) -> Identity {
    let mut seed = [0; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    Identity::from_seed(&seed)
}

/// The kind of filesystem that a folder is on, as Linux names it.
fn filesystem(folder: &Path) -> String {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let folder = folder.canonicalize().unwrap();
    let mount = mounts
        .lines()
        .filter_map(|mount| {
            let mut fields = mount.split_whitespace().skip(1);
            let (place, kind) = (Path::new(fields.next()?), fields.next()?);
            folder
                .starts_with(place)
                .then(|| (place.components().count(), kind))
        })
        // The later of two at one place hides the former.
        .max_by_key(|(depth, _)| *depth);
    mount.map_or_else(
        || "a filesystem without name".to_owned(),
        |(_, kind)| kind.to_owned(),
    )
}

async fn round(over: Over, logs: Option<(WitnessPolicy, &Path)>) -> Round {
    let logs = logs.map(|(policy, folder)| (policy, tempfile::tempdir_in(folder).unwrap()));
    let meeting = Arc::new(Meeting::new(over).await);
    let [ann, bob] = NAMES.map(|name| {
        let log = logs.as_ref();
        let log = log.map(|(policy, folder)| WitnessConfig::new(folder.path().join(name), *policy));
        Agent::start(name, meeting.clone(), log)
    });
    let (ann, bob) = (ann.await, bob.await);
    ann.session
        .peers_until(|peers| peers.iter().any(|peer| peer.up))
        .await;
    let (start, processor) = (Instant::now(), processor_time());
    let (sender, receiver) = (ann.session.clone(), bob.session.clone());
    let receiving = bob.runtime.spawn(async move {
        for _ in 0..MESSAGES {
            receiver.recv().await.unwrap();
        }
    });
    let sending = ann.runtime.spawn(async move {
        let text = "x".repeat(200);
        let mut last = None;
        for number in 0..MESSAGES {
            let draft = Draft::new(
                Destination::Agent(id("bob")),
                json!({ "n": number, "text": text }),
            );
            last = Some(sender.send(draft).await.unwrap());
        }
        last.unwrap().acknowledged().await.unwrap();
    });
    receiving.await.unwrap();
    sending.await.unwrap();
    let seconds = start.elapsed().as_secs_f64();
    ann.close().await;
    bob.close().await;
    Round {
        rate: MESSAGES as f64 / seconds,
        // What the logs leave to be done later counts too.
        cpu: (processor_time() - processor) * 1e6 / MESSAGES as f64,
    }
}
