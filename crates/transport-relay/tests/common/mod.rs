//! A signaling server and agents on loopback, each agent on a runtime of its own, so that it can die as a process does.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared by all tests; each uses a part"
)]

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use ifmesh_signaling::{Server, ServerConfig};
use ifmesh_transport::{Envelope, IfTransport, Lane, PeerTrust, SystemClock, TransportEvent};
use ifmesh_transport_relay::{RelayConfig, RelayTransport};
use ifmsg::{AgentId, Identity};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{runtime::Runtime, time::timeout};

/// Nothing here takes longer unless it never happens.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) fn id(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
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

pub(crate) fn server_config() -> ServerConfig {
    ServerConfig::new("127.0.0.1:0".parse().unwrap(), id("server-1"))
}

pub(crate) async fn server() -> Server {
    Server::bind(server_config(), random(1)).await.unwrap()
}

/// A server where one was before: the port may take a moment to be free.
pub(crate) async fn server_at(address: SocketAddr) -> Server {
    let mut config = server_config();
    config.listen = address;
    let bound = async {
        loop {
            match Server::bind(config.clone(), random(2)).await {
                Ok(server) => break server,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    timeout(SOON, bound).await.expect("a free port")
}

pub(crate) fn url(server: &Server) -> String {
    format!("ws://{}", server.local_addr())
}

/// Trusts each name with its well-known key.
pub(crate) fn config(url: &str, name: &str, epoch: u64) -> RelayConfig {
    let keys = |peer: &AgentId| PeerTrust::Key(*identity(peer.as_str()).public_key());
    RelayConfig::new(id(name), identity(name), epoch, [url], Arc::new(keys))
}

pub(crate) async fn start(config: RelayConfig) -> Arc<RelayTransport> {
    let random = Box::new(random(
        config.epoch.wrapping_mul(31) + config.agent.as_str().len() as u64,
    ));
    timeout(SOON, RelayTransport::start(config, Arc::new(SystemClock), random))
        .await
        .expect("a start in time")
        .expect("a start")
}

pub(crate) async fn join(url: &str, name: &str, epoch: u64) -> Arc<RelayTransport> {
    start(config(url, name, epoch)).await
}

/// Agents that can die.
#[derive(Default)]
pub(crate) struct Processes {
    running: BTreeMap<AgentId, Runtime>,
}

impl Processes {
    /// Starts an agent on a runtime of its own.
    pub(crate) async fn start(&mut self, config: RelayConfig) -> Arc<RelayTransport> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let agent = config.agent.clone();
        let transport = runtime.spawn(start(config)).await.unwrap();
        self.running.insert(agent, runtime);
        transport
    }

    /// Everything of this agent's stops where it is. Nobody is told.
    pub(crate) fn kill(&mut self, agent: &AgentId) {
        if let Some(runtime) = self.running.remove(agent) {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        while let Some((_, runtime)) = self.running.pop_first() {
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

pub(crate) async fn up(transport: &dyn IfTransport, name: &str) {
    let expected = TransportEvent::LinkUp { peer: id(name) };
    assert_eq!(event(transport).await, expected);
}

pub(crate) async fn send(transport: &dyn IfTransport, to: &str, frame: impl Into<bytes::Bytes>) {
    let envelope = Envelope::new(id(to), Lane::Reliable, frame);
    timeout(SOON, transport.send(envelope))
        .await
        .expect("room in time")
        .expect("a link");
}

pub(crate) async fn receives(transport: &dyn IfTransport, from: &str, expected: &[u8]) {
    match event(transport).await {
        TransportEvent::Frame { from: who, frame, .. } => {
            assert_eq!((who, frame.as_ref()), (id(from), expected));
        }
        other => panic!("a frame was expected: {other:?}"),
    }
}

/// A frame each way.
pub(crate) async fn exchange(a: &RelayTransport, b: &RelayTransport) {
    for (one, other) in [(a, b), (b, a)] {
        send(one, other.agent().as_str(), "hello there").await;
        receives(other, one.agent().as_str(), b"hello there").await;
    }
}
