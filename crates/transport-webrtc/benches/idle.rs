//! What idle peers cost one agent: memory for each at 2, 10 and 50 of them, and processor time with 20.
//!
//! `cargo bench -p ifmesh-transport-webrtc --bench idle`. Goals: 512 KiB for each peer, 1 % of a core. The agent has this process
//! for itself; its peers and the signaling server run in a second one, whose processor time is printed too: it is that
//! of 20 agents with one idle peer each. Fails above the goals.
//! Measured on two cores, in four runs: 314 to 354 KiB each; 0.35 to 0.40 % of a core, and 0.45 to 0.60 % for the second process.
//! Before connections at rest slept until the next keepalive, and all together, it was 1.30 and 1.25 %.
//!
//! The whole program costs more: 21 `ifmesh agent` processes on files of `ifmesh init`, each with the 20 others and a witness log, took
//! 1.0 % of a core each (fields 14 and 15 of `/proc/PID/stat`, 60 s, three to four minutes after the start), and 0.7 % without
//! `[witness]`. In the first three minutes, while they show each other what they have seen of the others' logs, it is 1.3 %.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use ifmesh_signaling::{Server, ServerConfig};
use ifmesh_transport::{IfTransport as _, SystemClock, TransportEvent};
use ifmesh_transport_webrtc::{PeerTrust, WebRtcConfig, WebRtcTransport};
use ifmsg::{AgentId, Identity};
use rand::{SeedableRng as _, rngs::StdRng};

type Failure = Box<dyn std::error::Error>;

/// The agent whose cost is measured. The larger id: it offers.
const HUB: &str = "z-hub";
/// The argument that makes this program the second process.
const PEERS: &str = "peers";
/// How long processor time is counted. The system counts it in hundredths of a second.
const WATCHED: Duration = Duration::from_secs(20);

fn main() -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    if std::env::args().any(|argument| argument == PEERS) {
        runtime.block_on(Box::pin(serve_peers()))
    } else {
        runtime.block_on(Box::pin(measure()))
    }
}

async fn measure() -> Result<(), Failure> {
    let mut peers = Peers::start()?;
    let hub = start(&peers.url, HUB).await?;
    // What the process takes for the first link is not the link's.
    peers.link(&hub, 1).await?;
    let before = resident();
    let (mut linked, mut worst, mut share) = (0, 0, 0.0);
    for count in [2, 10, 20, 50] {
        peers.link(&hub, count - linked).await?;
        linked = count;
        tokio::time::sleep(Duration::from_secs(2)).await;
        if count == 20 {
            let (ours, theirs) = (ticks("self"), ticks(&peers.process.id().to_string()));
            tokio::time::sleep(WATCHED).await;
            // Hundredths of a second.
            let of_a_core = |ticks: u64| ticks as f64 / WATCHED.as_secs_f64();
            share = of_a_core(ticks("self") - ours);
            let theirs = of_a_core(ticks(&peers.process.id().to_string()) - theirs);
            println!(
                "20 idle peers: {share:.2} % of a core; those 20 and their server together: {theirs:.2} %"
            );
            continue;
        }
        let each = resident().saturating_sub(before) / count;
        println!("{count} idle peers: {} KiB each", each / 1_024);
        worst = worst.max(each);
    }
    let memory = worst as f64 / (512.0 * 1_024.0);
    println!("of the goals, 512 KiB each and 1 % of a core with 20: {memory:.2} and {share:.2}");
    let _ = hub.close().await;
    drop(peers.orders);
    let _ = peers.process.wait();
    if worst > 512 * 1_024 || share > 1.0 {
        return Err("an idle peer costs too much".into());
    }
    Ok(())
}

/// The second process.
struct Peers {
    process: Child,
    /// How many more are to start, one number a line. Its end ends them.
    orders: ChildStdin,
    url: String,
}

impl Peers {
    fn start() -> Result<Self, Failure> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(PEERS)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let orders = process.stdin.take().ok_or("no standard input")?;
        let said: ChildStdout = process.stdout.take().ok_or("no standard output")?;
        let mut url = String::new();
        BufReader::new(said).read_line(&mut url)?;
        Ok(Self {
            process,
            orders,
            url: url.trim().to_owned(),
        })
    }

    /// Starts more of them, and waits until the hub is linked with them.
    async fn link(&mut self, hub: &WebRtcTransport, more: usize) -> Result<(), Failure> {
        writeln!(self.orders, "{more}")?;
        for _ in 0..more {
            while !matches!(hub.recv().await?, TransportEvent::LinkUp { .. }) {}
        }
        Ok(())
    }
}

async fn serve_peers() -> Result<(), Failure> {
    let config = ServerConfig::new("127.0.0.1:0".parse()?, AgentId::new("signaling-1")?);
    let server = Server::bind(config, StdRng::seed_from_u64(0)).await?;
    let url = format!("ws://{}", server.local_addr());
    println!("{url}");
    let mut peers = Vec::new();
    loop {
        let (order, read) = tokio::task::spawn_blocking(|| {
            let mut order = String::new();
            let read = std::io::stdin().read_line(&mut order);
            (order, read)
        })
        .await?;
        if read? == 0 {
            break;
        }
        for _ in 0..order.trim().parse::<usize>()? {
            peers.push(start(&url, &format!("peer-{}", peers.len())).await?);
        }
    }
    for peer in peers {
        let _ = peer.close().await;
    }
    Ok(())
}

fn resident() -> usize {
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse::<usize>().ok());
    pages.unwrap_or(0) * 4_096
}

/// User and system time of a process, in hundredths of a second.
fn ticks(process: &str) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum()
}

async fn start(url: &str, name: &str) -> Result<Arc<WebRtcTransport>, Failure> {
    let identity = |name: &str| {
        let mut seed = [0; 32];
        seed[..name.len()].copy_from_slice(name.as_bytes());
        Identity::from_seed(&seed)
    };
    let is_hub = name == HUB;
    let keys = move |peer: &AgentId| match peer.as_str() {
        // A star, not a mesh.
        peer if peer == HUB || is_hub => PeerTrust::Key(*identity(peer).public_key()),
        _ => PeerTrust::Refuse,
    };
    let mut config = WebRtcConfig::new(AgentId::new(name)?, identity(name), 1, [url], Arc::new(keys));
    config.bind = vec!["127.0.0.1:0".parse()?];
    let random = Box::new(StdRng::seed_from_u64(name.len() as u64));
    Ok(WebRtcTransport::start(config, Arc::new(SystemClock), random).await?)
}
