//! The suite that every backend must pass, on one machine over loopback and on two that a wire joins. Falsified by any case
//! that fails. There are no strangers here, so the transport is held to more than it promises: nothing is lost.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, reason = "a test")]

mod common;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use common::*;
use ifmesh_transport::{
    Capabilities, CloseError, Closed, Envelope, IfTransport, LinkStatus, SendError, TransportEvent,
    conformance::{Fixture, Member},
};
use ifmesh_transport_dds::DdsTransport;
use ifmsg::AgentId;

/// As if it promised that the reliable lane loses nothing.
#[derive(Debug)]
struct Strict(Arc<DdsTransport>);

#[async_trait]
impl IfTransport for Strict {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            reliable: true,
            ..self.0.capabilities()
        }
    }

    async fn send(&self, envelope: Envelope) -> Result<(), SendError> {
        self.0.send(envelope).await
    }

    async fn recv(&self) -> Result<TransportEvent, Closed> {
        self.0.recv().await
    }

    fn links(&self) -> Vec<LinkStatus> {
        self.0.links()
    }

    async fn close(&self) -> Result<(), CloseError> {
        self.0.close().await
    }
}

struct DdsFixture {
    processes: Processes,
    /// Handles that stay, as those of a process would: only `kill` ends them.
    kept: BTreeMap<AgentId, Arc<DdsTransport>>,
    patience: Duration,
}

impl DdsFixture {
    fn new(hosts: usize) -> Self {
        Self {
            processes: Processes::new(hosts),
            kept: BTreeMap::new(),
            patience: Duration::from_secs(10),
        }
    }

    /// Two machines, whose wire loses packets of both.
    fn lossy(percent: f64) -> Self {
        let mut fixture = Self::new(2);
        // 16 MiB take 15 s at 20 %.
        fixture.patience = Duration::from_secs(60);
        // Of one host: the other's packets all pass by it.
        fixture.processes.net.hosts[0].loss(percent).unwrap();
        fixture
    }

    async fn join(&mut self, host: usize, name: &str, epoch: u64) -> Arc<DdsTransport> {
        let transport = self.processes.start(host, name, epoch).await;
        self.kept.insert(id(name), Arc::clone(&transport));
        transport
    }

    fn host(&self, agent: usize) -> usize {
        agent % self.processes.net.hosts.len()
    }
}

#[async_trait]
impl Fixture for DdsFixture {
    async fn start(&mut self, agents: usize) -> Vec<Member> {
        let mut members = Vec::new();
        for number in 0..agents {
            let name = format!("agent-{number}");
            let transport = self.join(self.host(number), &name, 1).await;
            members.push(Member {
                id: id(&name),
                transport: Arc::new(Strict(transport)),
            });
        }
        members
    }

    async fn kill(&mut self, agent: &AgentId) {
        self.kept.remove(agent);
        self.processes.kill(agent);
    }

    async fn restart(&mut self, agent: &AgentId) -> Arc<dyn IfTransport> {
        let number = agent.as_str().trim_start_matches("agent-").parse().unwrap_or(0);
        Arc::new(Strict(self.join(self.host(number), agent.as_str(), 2).await))
    }

    fn patience(&self) -> Duration {
        self.patience
    }
}

mod one_machine {
    use super::*;

    ifmesh_transport::conformance_tests! {
        #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
        DdsFixture::new(1)
    }
}

mod two_machines {
    use super::*;

    ifmesh_transport::conformance_tests! {
        #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
        DdsFixture::new(2)
    }
}

mod one_percent_lost {
    use super::*;

    ifmesh_transport::conformance_tests! {
        #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
        DdsFixture::lossy(1.0)
    }
}

mod twenty_percent_lost {
    use super::*;

    ifmesh_transport::conformance_tests! {
        #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
        DdsFixture::lossy(20.0)
    }
}
