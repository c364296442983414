//! A router over meshes is a transport like any other. Falsified by a case of the suite that fails over it.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use ifmesh_transport::{
    IfTransport, Policy, Road, Router, RouterConfig,
    conformance::{Fixture, Member},
};
use ifmesh_transport_mem::{Faults, Mesh, MeshConfig};
use ifmsg::AgentId;

struct Roads {
    meshes: Vec<Mesh>,
    policy: Policy,
    kept: Vec<Arc<dyn IfTransport>>,
}

impl Roads {
    fn new(roads: u64, policy: Policy, config: &MeshConfig) -> Self {
        let meshes: Vec<Mesh> = (0..roads)
            .map(|road| Mesh::with(road, config.clone()).unwrap())
            .collect();
        let slow = Duration::from_millis(1)..=Duration::from_millis(9);
        meshes[0].faults(Faults::none().latency(slow)).unwrap();
        Self {
            meshes,
            policy,
            kept: Vec::new(),
        }
    }

    fn router(&mut self, transports: Vec<Arc<dyn IfTransport>>) -> Arc<dyn IfTransport> {
        let roads = transports
            .into_iter()
            .enumerate()
            .map(|(road, transport)| Road::new(format!("mesh-{road}"), transport));
        let random = Box::new(self.meshes[0].rng("router"));
        let router = Router::start(roads.collect(), RouterConfig::new(self.policy), random).unwrap();
        self.kept.push(router.clone());
        router
    }
}

#[async_trait]
impl Fixture for Roads {
    async fn start(&mut self, agents: usize) -> Vec<Member> {
        let mut members = Vec::new();
        for number in 0..agents {
            let name = format!("agent-{number}");
            let transports = self
                .meshes
                .iter()
                .map(|mesh| mesh.join(&name).unwrap() as Arc<dyn IfTransport>)
                .collect();
            let transport = self.router(transports);
            let id = AgentId::new(name).unwrap();
            members.push(Member { id, transport });
        }
        members
    }

    async fn kill(&mut self, agent: &AgentId) {
        self.meshes.iter().for_each(|mesh| mesh.crash(agent).unwrap());
    }

    async fn restart(&mut self, agent: &AgentId) -> Arc<dyn IfTransport> {
        let transports = self
            .meshes
            .iter()
            .map(|mesh| mesh.restart(agent).unwrap() as Arc<dyn IfTransport>)
            .collect();
        self.router(transports)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn copies(&self) -> usize {
        match self.policy {
            Policy::FanOut { .. } => self.meshes.len(),
            _ => 1,
        }
    }

    fn medium_loses(&self) -> bool {
        false
    }
}

mod one_road {
    use super::*;

    ifmesh_transport::conformance_tests! {
        #[tokio::test(start_paused = true)]
        Roads::new(1, Policy::Failover, &MeshConfig::reliable())
    }
}

mod two_roads_failover {
    use super::*;

    ifmesh_transport::conformance_tests! {
        #[tokio::test(start_paused = true)]
        Roads::new(2, Policy::Failover, &MeshConfig::reliable())
    }
}

mod three_roads_fan_out {
    use super::*;

    ifmesh_transport::conformance_tests! {
        #[tokio::test(start_paused = true)]
        Roads::new(3, Policy::FanOut { roads: None }, &MeshConfig::default())
    }
}

mod two_roads_hedged {
    use super::*;

    ifmesh_transport::conformance_tests! {
        #[tokio::test(start_paused = true)]
        Roads::new(2, Policy::HEDGED, &MeshConfig::default())
    }
}
