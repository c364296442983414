use std::{net::SocketAddr, path::PathBuf};

use clap::Args;
use ifmesh::AgentId;
use ifmesh_signaling::{RegistrationMode, Server, ServerConfig};
use serde_json::json;

use super::{Failure, exit, print_json};

/// Run a signaling server: it introduces agents to each other, and is not trusted by them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ifmesh signaling
  ifmesh signaling --listen 0.0.0.0:8443 --allow swarm/trust.toml")]
pub(crate) struct Signaling {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// The server's name, which agents sign when they register.
    #[arg(long, default_value = "signaling")]
    name: AgentId,
    /// Only agents of this trust file may register.
    #[arg(long, value_name = "TRUST")]
    allow: Option<PathBuf>,
    /// Let clients register without a key, as the original protocol's do. Names are then anybody's.
    #[arg(long, conflicts_with = "allow")]
    open: bool,
    /// Print JSON lines: one when it listens, one when it has ended.
    #[arg(long)]
    json: bool,
}

impl Signaling {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        let mut config = ServerConfig::new(self.listen, self.name);
        if self.open {
            config.mode = RegistrationMode::Open;
        }
        if let Some(path) = &self.allow {
            let trust = ifmesh::read_trust(path).map_err(Failure::usage)?;
            for (agent, binding) in trust.bindings() {
                config.allow(agent.clone(), &binding.key);
            }
        }
        let server = Server::bind(config, ifmesh::random())
            .await
            .map_err(Failure::unavailable)?;
        let address = server.local_addr();
        if self.json {
            print_json(&json!({ "event": "listening", "url": format!("ws://{address}") }));
        } else {
            println!("signaling server on ws://{address} (Ctrl-C ends it)");
        }
        exit::asked_to_end().await;
        let metrics = server.metrics();
        server.shutdown().await;
        if self.json {
            print_json(&json!({ "event": "closed" }));
        } else {
            println!("closed; {metrics:?}");
        }
        Ok(exit::DONE)
    }
}
