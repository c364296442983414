//! Hosts in network namespaces, and agents on them, each on a runtime of its own, so that it can die as a process does.
//! Nothing here leaves the namespaces that the test made.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "shared by all tests; each uses a part"
)]

use std::{sync::Arc, thread, time::Duration};

use ifmesh_testnet::{Host, Lan, Network};
use ifmesh_transport::{Envelope, IfTransport, Lane, PeerTrust, SystemClock, TransportEvent};
use ifmesh_transport_dds::{DdsAgent, DdsConfig, DdsTransport, Interfaces};
use ifmsg::{AgentId, Identity};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{runtime::Runtime, time::timeout};

pub(crate) mod kept;

/// Nothing here takes longer unless it never happens.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn id(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

/// Of this process, in kilobytes.
pub(crate) fn resident_kb() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.unwrap().trim().trim_end_matches(" kB").parse().unwrap()
}

/// The key that everybody knows to be `name`'s.
pub(crate) fn identity(name: &str) -> Identity {
    let mut seed = [0; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    Identity::from_seed(&seed)
}

pub(crate) fn random(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

/// Trusts each name with its well-known key, but for those that begin with `stranger`.
pub(crate) fn agent(name: &str, epoch: u64) -> DdsAgent {
    let keys = |peer: &AgentId| {
        if peer.as_str().starts_with("stranger") {
            return PeerTrust::Refuse;
        }
        PeerTrust::Key(*identity(peer.as_str()).public_key())
    };
    DdsAgent {
        agent: id(name),
        identity: identity(name),
        epoch,
        keys: Arc::new(keys),
    }
}

/// Hosts on one wire; the first one's agents may use loopback alone if it is the only one.
pub(crate) struct Net {
    _network: Network,
    _lan: Lan,
    pub(crate) hosts: Vec<Host>,
}

impl Net {
    pub(crate) fn new(hosts: usize) -> Self {
        // What is missing, and how to install it.
        let network = Network::new().unwrap_or_else(|error| panic!("{error}"));
        let lan = network.lan().unwrap();
        let hosts = (0..hosts).map(|number| {
            let host = network.host(&format!("host-{number}")).unwrap();
            host.join(&lan, &format!("{}/24", address(number))).unwrap();
            host
        });
        let hosts = hosts.collect();
        Self {
            _network: network,
            _lan: lan,
            hosts,
        }
    }

    /// What agents on this host are configured with.
    pub(crate) fn config(&self, host: usize) -> DdsConfig {
        let mut config = DdsConfig::default();
        if self.hosts.len() > 1 {
            config.interfaces = Interfaces::Only(vec![address(host).parse().unwrap()]);
        }
        config
    }

    /// A runtime whose threads stand on this host, and so does all that it starts.
    pub(crate) fn runtime(&self, host: usize) -> Runtime {
        let host = &self.hosts[host];
        thread::scope(|scope| {
            let made = scope.spawn(|| {
                let _here = host.enter().unwrap();
                tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
                    .unwrap()
            });
            made.join().unwrap()
        })
    }

    /// As `runtime`, with threads started already: what they start later is where they are.
    pub(crate) fn enter(&self, host: usize) -> ifmesh_testnet::Entered {
        self.hosts[host].enter().unwrap()
    }
}

pub(crate) fn address(host: usize) -> String {
    format!("10.77.0.{}", host + 1)
}

/// Agents that can die.
pub(crate) struct Processes {
    pub(crate) net: Net,
    running: Vec<(AgentId, Runtime)>,
}

impl Processes {
    pub(crate) fn new(hosts: usize) -> Self {
        Self {
            net: Net::new(hosts),
            running: Vec::new(),
        }
    }

    /// Starts an agent on a runtime of its own, on this host.
    pub(crate) async fn start(&mut self, host: usize, name: &str, epoch: u64) -> Arc<DdsTransport> {
        let config = self.net.config(host);
        self.start_with(host, name, epoch, config).await
    }

    pub(crate) async fn start_with(
        &mut self,
        host: usize,
        name: &str,
        epoch: u64,
        config: DdsConfig,
    ) -> Arc<DdsTransport> {
        self.start_agent(host, agent(name, epoch), config).await
    }

    pub(crate) async fn start_agent(
        &mut self,
        host: usize,
        agent: DdsAgent,
        config: DdsConfig,
    ) -> Arc<DdsTransport> {
        let runtime = self.net.runtime(host);
        let (id, epoch) = (agent.agent.clone(), agent.epoch);
        // Lives must differ, as those of real agents do.
        let name: u64 = id.as_str().bytes().map(u64::from).sum();
        let seed = epoch.wrapping_mul(31).wrapping_add(name);
        let start = DdsTransport::start(config, agent, Arc::new(SystemClock), Box::new(random(seed)));
        let started = runtime.spawn(timeout(SOON, start)).await.unwrap();
        let transport = started.expect("a start in time").expect("a start");
        self.running.push((id, runtime));
        transport
    }

    /// Everything of this agent's stops where it is. Its peers are told nothing that they trust.
    pub(crate) fn kill(&mut self, agent: &AgentId) {
        if let Some(at) = self.running.iter().position(|(id, _)| id == agent) {
            self.running.remove(at).1.shutdown_background();
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for (_, runtime) in self.running.drain(..) {
            runtime.shutdown_background();
        }
    }
}

pub(crate) async fn event(transport: &dyn IfTransport) -> TransportEvent {
    timeout(SOON, transport.recv())
        .await
        .expect("an event in time")
        .expect("an open transport")
}

/// The next event that is not a refusal.
pub(crate) async fn good_event(transport: &dyn IfTransport) -> TransportEvent {
    loop {
        match event(transport).await {
            TransportEvent::Refused { .. } => {}
            event => return event,
        }
    }
}

pub(crate) async fn up(transport: &dyn IfTransport, name: &str) {
    let expected = TransportEvent::LinkUp { peer: id(name) };
    assert_eq!(good_event(transport).await, expected);
}

pub(crate) async fn send(transport: &dyn IfTransport, to: &str, frame: &str) {
    let envelope = Envelope::new(id(to), Lane::Reliable, frame.to_owned());
    timeout(SOON, transport.send(envelope))
        .await
        .expect("room in time")
        .expect("a link");
}

pub(crate) async fn receives(transport: &dyn IfTransport, from: &str, expected: &str) {
    match good_event(transport).await {
        TransportEvent::Frame {
            from: peer, frame, ..
        } => {
            assert_eq!((peer.as_str(), &frame[..]), (from, expected.as_bytes()));
        }
        other => panic!("{other:?} instead of a frame"),
    }
}

/// A frame each way.
pub(crate) async fn exchange(a: &DdsTransport, b: &DdsTransport) {
    for (one, other) in [(a, b), (b, a)] {
        send(one, other.agent().as_str(), "hello there").await;
        receives(other, one.agent().as_str(), "hello there").await;
    }
}

/// Events until a refusal; its reason and what it says.
pub(crate) async fn refusal(transport: &dyn IfTransport) -> (&'static str, String) {
    loop {
        match event(transport).await {
            TransportEvent::Refused { reason, detail, .. } => return (reason, detail),
            TransportEvent::LinkUp { peer } => panic!("a link to {peer}"),
            _ => {}
        }
    }
}

/// A program that is this test binary again, on one of the hosts, and can be killed for good. The binary needs a test
/// `child_main` that calls `child_main`.
pub(crate) struct Child {
    process: std::process::Child,
    lines: std::sync::mpsc::Receiver<String>,
}

const CHILD: &str = "IFMESH_DDS_TEST_CHILD";

impl Child {
    pub(crate) fn start(host: &Host, role: &str) -> Self {
        use std::{
            io::{BufRead as _, BufReader},
            process::Stdio,
        };
        let program = std::env::current_exe().unwrap();
        let mut process = host
            .command(program.to_str().unwrap())
            .args(["child_main", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, role)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let (sender, lines) = std::sync::mpsc::sync_channel(100_000);
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                let said = line.split_once("> ").map(|(_, said)| said.to_owned());
                if said.is_some_and(|said| sender.send(said).is_err()) {
                    break;
                }
            }
        });
        Self { process, lines }
    }

    /// The next thing that it said.
    pub(crate) fn said(&self) -> String {
        self.lines
            .recv_timeout(SOON)
            .expect("a word of the child in time")
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the child says, and its parent reads.
pub(crate) fn say(word: impl std::fmt::Display) {
    println!("> {word}");
}

/// Does what the parent asked for, if this is a child.
pub(crate) fn child_main(roles: impl FnOnce(&str)) {
    if let Ok(role) = std::env::var(CHILD) {
        roles(&role);
    }
}

/// Messages with numbers, over a session.
pub(crate) mod talk {
    use ifmesh_transport::{Session, SessionConfig};
    use ifmsg::{Draft, Permissions, TrustPolicy, TrustStore};
    use serde_json::json;

    use super::*;

    pub(crate) fn session(transport: Arc<DdsTransport>, name: &str, epoch: u64) -> Arc<Session> {
        let mut trust = TrustStore::new(TrustPolicy::Allowlist);
        for peer in ["alice", "bob"] {
            let key = *identity(peer).public_key();
            trust.bind(id(peer), key, Permissions::ALL).unwrap();
        }
        let config = SessionConfig::new(id(name), identity(name), trust, epoch);
        let random = Box::new(random(epoch + name.len() as u64));
        Arc::new(Session::start(transport, config, Arc::new(SystemClock), random))
    }

    pub(crate) fn draft(to: &str, n: u64) -> Draft {
        Draft::new(to.try_into().unwrap(), json!({ "n": n }))
    }

    pub(crate) async fn number(session: &Session) -> u64 {
        let message = timeout(3 * SOON, session.recv())
            .await
            .expect("a message in time")
            .expect("a session");
        message.payload()["n"].as_u64().unwrap()
    }

    /// All of these, acknowledged.
    pub(crate) async fn send_all(session: &Session, to: &str, numbers: std::ops::Range<u64>) {
        let mut receipts = Vec::new();
        for n in numbers {
            receipts.push(session.send(draft(to, n)).await.unwrap());
        }
        for receipt in receipts {
            timeout(3 * SOON, receipt.acknowledged())
                .await
                .expect("an outcome in time")
                .unwrap();
        }
    }

    /// These, in this order, and nothing else.
    pub(crate) async fn receive_all(session: &Session, numbers: std::ops::Range<u64>) {
        for n in numbers {
            assert_eq!(number(session).await, n);
        }
    }
}
