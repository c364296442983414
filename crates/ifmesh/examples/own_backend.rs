//! A backend of one's own, by its name: two agents over the UDP backend of `examples/udp-backend`.
//!
//!     cargo run -p ifmesh --example own_backend

use std::{collections::BTreeMap, error::Error, net::SocketAddr, sync::Arc};

use async_trait::async_trait;
use ifmesh::{
    Agent, AgentId, Backend, BackendContext, BackendError, Backends, Config, Performative,
    setup::{self, Roads},
};
use ifmesh_example_udp::Udp;
use ifmesh_transport::IfTransport;
use serde::Deserialize;
use serde_json::json;
use tokio::net::UdpSocket;

/// For tables such as `[transport.udp]`, or any other with `kind = "udp"`.
#[derive(Debug)]
struct UdpBackend;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    listen: SocketAddr,
    peers: BTreeMap<AgentId, SocketAddr>,
}

#[async_trait]
impl Backend for UdpBackend {
    async fn start(
        &self,
        table: &toml::Table,
        context: BackendContext,
    ) -> Result<Arc<dyn IfTransport>, BackendError> {
        let table =
            Table::deserialize(table.clone()).map_err(|error| BackendError::Config(error.to_string()))?;
        let bound = UdpSocket::bind(table.listen).await;
        let socket =
            bound.map_err(|error| BackendError::Unavailable(format!("{}: {error}", table.listen)))?;
        Ok(Arc::new(Udp::start(
            socket,
            context.epoch,
            table.peers.into_iter().collect(),
        )))
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let names = [AgentId::new("ada")?, AgentId::new("bea")?];
    let swarm = setup::init(folder.path(), &names, &Roads::webrtc(&[]))?;
    // Two ports that nobody uses.
    let ports = [
        UdpSocket::bind("127.0.0.1:0").await?,
        UdpSocket::bind("127.0.0.1:0").await?,
    ];
    let addresses = [ports[0].local_addr()?, ports[1].local_addr()?];
    drop(ports);
    let mut agents = Vec::new();
    for (own, other) in [(0, 1), (1, 0)] {
        let (_, path) = &swarm.agents[own];
        let text = std::fs::read_to_string(path)?;
        let (before, _) = text.split_once("[transport.webrtc]").ok_or("a table of WebRTC")?;
        let (listen, peer, name) = (addresses[own], addresses[other], &names[other]);
        let table = format!("[transport.udp]\nlisten = \"{listen}\"\npeers = {{ {name} = \"{peer}\" }}\n");
        std::fs::write(path, format!("{before}{table}"))?;
        let backends = Backends::default().with("udp", UdpBackend);
        agents.push(
            Agent::builder(Config::from_file(path)?)
                .backends(backends)
                .start()
                .await?,
        );
    }
    let sent = agents[0]
        .send("bea", Performative::Inform, json!({ "by": "udp" }))
        .await?;
    let received = agents[1].recv().await.ok_or("closed")?;
    sent.acknowledged().await?;
    println!("{}: {}", received.source(), received.payload());
    Ok(())
}
