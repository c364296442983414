//! The suite that every backend must pass, over a perfect mesh: once as the default promises (little), once as a mesh that
//! promises everything, once with latency. Falsified by any case that fails.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{ops::RangeInclusive, sync::Arc, time::Duration};

use async_trait::async_trait;
use ifmesh_transport::{
    IfTransport,
    conformance::{Fixture, Member},
};
use ifmesh_transport_mem::{Faults, Mesh, MeshConfig};
use ifmsg::AgentId;

struct MemFixture {
    mesh: Mesh,
    /// Handles that stay, as those of a process would: only `kill` ends them.
    kept: Vec<Arc<dyn IfTransport>>,
}

impl MemFixture {
    fn new(config: MeshConfig) -> Self {
        Self {
            mesh: Mesh::with(1, config).unwrap(),
            kept: Vec::new(),
        }
    }

    fn with_latency(config: MeshConfig, latency: RangeInclusive<u64>) -> Self {
        let fixture = Self::new(config);
        let (least, most) = latency.into_inner();
        let latency = Duration::from_millis(least)..=Duration::from_millis(most);
        fixture.mesh.faults(Faults::none().latency(latency)).unwrap();
        fixture
    }
}

#[async_trait]
impl Fixture for MemFixture {
    async fn start(&mut self, agents: usize) -> Vec<Member> {
        (0..agents)
            .map(|number| {
                let transport = self.mesh.join(format!("agent-{number}")).unwrap();
                self.kept.push(transport.clone());
                Member {
                    id: transport.id().clone(),
                    transport,
                }
            })
            .collect()
    }

    async fn kill(&mut self, agent: &AgentId) {
        self.mesh.crash(agent).unwrap();
    }

    async fn restart(&mut self, agent: &AgentId) -> Arc<dyn IfTransport> {
        let transport = self.mesh.restart(agent).unwrap();
        self.kept.push(transport.clone());
        transport
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn medium_loses(&self) -> bool {
        false
    }
}

mod promising_little {
    use super::*;

    ifmesh_transport::conformance_tests! {
        #[tokio::test(start_paused = true)]
        MemFixture::new(MeshConfig::default())
    }
}

mod promising_everything {
    use super::*;

    ifmesh_transport::conformance_tests! {
        #[tokio::test(start_paused = true)]
        MemFixture::new(MeshConfig::reliable().with_broadcast())
    }
}

mod with_latency {
    use super::*;

    ifmesh_transport::conformance_tests! {
        #[tokio::test(start_paused = true)]
        MemFixture::with_latency(MeshConfig::reliable().with_broadcast(), 5..=50)
    }
}

mod unordered_with_latency {
    use super::*;

    ifmesh_transport::conformance_tests! {
        #[tokio::test(start_paused = true)]
        MemFixture::with_latency(MeshConfig::default().with_broadcast(), 5..=50)
    }
}

mod on_many_threads_in_real_time {
    use super::*;

    ifmesh_transport::conformance_tests! {
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        MemFixture::with_latency(MeshConfig { detection: Duration::from_millis(50), ..MeshConfig::reliable() }, 0..=2)
    }
}

#[tokio::test(start_paused = true)]
async fn run_all_runs_all() {
    let fixture = async || MemFixture::new(MeshConfig::reliable());
    assert_eq!(ifmesh_transport::conformance::run_all(fixture).await, Ok(()));
}
