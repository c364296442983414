//! The suite that every backend must pass, over UDP on loopback with a real signaling server. Falsified by any case that
//! fails.

mod common;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use common::*;
use ifmesh_signaling::Server;
use ifmesh_transport::{
    IfTransport,
    conformance::{Fixture, Member},
};
use ifmesh_transport_webrtc::WebRtcTransport;
use ifmsg::AgentId;

struct WebRtcFixture {
    server: Server,
    processes: Processes,
    /// Handles that stay, as those of a process would: only `kill` ends them.
    kept: BTreeMap<AgentId, Arc<WebRtcTransport>>,
}

impl WebRtcFixture {
    async fn new() -> Self {
        Self {
            server: server().await,
            processes: Processes::default(),
            kept: BTreeMap::new(),
        }
    }

    async fn join(&mut self, name: &str, epoch: u64) -> Arc<WebRtcTransport> {
        let config = config(&url(&self.server), name, epoch);
        let transport = self.processes.start(config).await;
        self.kept.insert(id(name), Arc::clone(&transport));
        transport
    }
}

#[async_trait]
impl Fixture for WebRtcFixture {
    async fn start(&mut self, agents: usize) -> Vec<Member> {
        let mut members = Vec::new();
        for number in 0..agents {
            let name = format!("agent-{number}");
            let transport = self.join(&name, 1).await;
            members.push(Member {
                id: id(&name),
                transport,
            });
        }
        members
    }

    async fn kill(&mut self, agent: &AgentId) {
        self.kept.remove(agent);
        self.processes.kill(agent);
    }

    async fn restart(&mut self, agent: &AgentId) -> Arc<dyn IfTransport> {
        self.join(agent.as_str(), 2).await
    }

    fn patience(&self) -> Duration {
        // Two frames of 16 MiB, through a stack that is not optimised here, on a machine that does other things.
        Duration::from_secs(40)
    }
}

ifmesh_transport::conformance_tests! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    WebRtcFixture::new().await
}
