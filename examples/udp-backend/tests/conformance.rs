//! The suite that every backend must pass, over sockets on loopback. Falsified by any case that fails.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use ifmesh_example_udp::Udp;
use ifmesh_transport::{
    IfTransport,
    conformance::{Fixture, Member},
};
use ifmsg::AgentId;
use tokio::net::UdpSocket;

#[derive(Default)]
struct Loopback {
    addresses: Vec<(AgentId, SocketAddr)>,
    life: u64,
    running: BTreeMap<AgentId, Arc<dyn IfTransport>>,
}

impl Loopback {
    fn run(&mut self, agent: &AgentId, socket: UdpSocket) -> Arc<dyn IfTransport> {
        self.life += 1;
        let others = self.addresses.iter().filter(|(other, _)| other != agent);
        let transport: Arc<dyn IfTransport> = Arc::new(Udp::start(socket, self.life, others.cloned().collect()));
        self.running.insert(agent.clone(), transport.clone());
        transport
    }
}

#[async_trait]
impl Fixture for Loopback {
    async fn start(&mut self, agents: usize) -> Vec<Member> {
        let mut sockets = Vec::new();
        for number in 0..agents {
            let id = AgentId::new(format!("agent-{number}")).unwrap();
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            self.addresses.push((id.clone(), socket.local_addr().unwrap()));
            sockets.push((id, socket));
        }
        let sockets = sockets.into_iter();
        sockets.map(|(id, socket)| Member { transport: self.run(&id, socket), id }).collect()
    }

    async fn kill(&mut self, agent: &AgentId) {
        self.running.remove(agent);
    }

    async fn restart(&mut self, agent: &AgentId) -> Arc<dyn IfTransport> {
        let (_, address) = self.addresses.iter().find(|(id, _)| id == agent).unwrap();
        // The former socket goes with its task, which ends at its next turn.
        let socket = loop {
            match UdpSocket::bind(address).await {
                Ok(socket) => break socket,
                Err(_) => tokio::task::yield_now().await,
            }
        };
        self.run(agent, socket)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }
}

ifmesh_transport::conformance_tests! {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    Loopback::default()
}
