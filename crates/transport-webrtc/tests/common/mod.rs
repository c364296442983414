//! A signaling server and agents on loopback, each agent on a runtime of its own, so that it can die as a process does.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared by all tests; each uses a part"
)]

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ifmesh_signaling::{Server, ServerConfig};
use ifmesh_transport::{Envelope, IfTransport, Lane, SystemClock, TransportEvent};
use ifmesh_transport_webrtc::{PeerTrust, WebRtcConfig, WebRtcTransport};
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

pub(crate) async fn server() -> Server {
    server_at("127.0.0.1:0").await
}

pub(crate) async fn server_at(address: &str) -> Server {
    let config = ServerConfig::new(address.parse().unwrap(), id("server-1"));
    Server::bind(config, random(1)).await.unwrap()
}

pub(crate) fn url(server: &Server) -> String {
    format!("ws://{}", server.local_addr())
}

/// Trusts each name with its well-known key. Impatient, so that deaths are noticed within two seconds.
pub(crate) fn config(url: &str, name: &str, epoch: u64) -> WebRtcConfig {
    let keys = |peer: &AgentId| PeerTrust::Key(*identity(peer.as_str()).public_key());
    let mut config = WebRtcConfig::new(id(name), identity(name), epoch, [url], Arc::new(keys));
    config.bind = vec!["127.0.0.1:0".parse().unwrap()];
    config.limits.silence = Duration::from_millis(1_500);
    config
}

pub(crate) async fn start(config: WebRtcConfig) -> Arc<WebRtcTransport> {
    let random = Box::new(random(
        config.epoch.wrapping_mul(31) + config.agent.as_str().len() as u64,
    ));
    timeout(
        SOON,
        WebRtcTransport::start(config, Arc::new(SystemClock), random),
    )
    .await
    .expect("a start in time")
    .expect("a start")
}

pub(crate) async fn join(url: &str, name: &str, epoch: u64) -> Arc<WebRtcTransport> {
    start(config(url, name, epoch)).await
}

/// Agents that can die.
#[derive(Default)]
pub(crate) struct Processes {
    running: BTreeMap<AgentId, Runtime>,
}

impl Processes {
    /// Starts an agent on a runtime of its own.
    pub(crate) async fn start(&mut self, config: WebRtcConfig) -> Arc<WebRtcTransport> {
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

pub(crate) async fn receives(transport: &dyn IfTransport, from: &str, frame: &str) {
    let expected = TransportEvent::Frame {
        from: id(from),
        lane: Lane::Reliable,
        frame: frame.to_owned().into(),
        road: None,
    };
    assert_eq!(good_event(transport).await, expected);
}

/// A frame each way.
pub(crate) async fn exchange(a: &WebRtcTransport, b: &WebRtcTransport) {
    for (one, other) in [(a, b), (b, a)] {
        send(one, other.agent().as_str(), "hello there").await;
        receives(other, one.agent().as_str(), "hello there").await;
    }
}

/// Events until a refusal; its reason.
pub(crate) async fn refusal(transport: &dyn IfTransport) -> &'static str {
    loop {
        match event(transport).await {
            TransportEvent::Refused { reason, .. } => return reason,
            TransportEvent::LinkUp { peer } => panic!("a link to {peer}"),
            _ => {}
        }
    }
}
