use std::path::PathBuf;

use clap::Args;
use ifmesh::{AgentId, setup};
use serde_json::json;

use super::{Failure, exit, print_json};

/// Make keys, trust and configuration for a number of agents, in a folder.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ifmesh init swarm --names agent-finance,agent-legal
  ifmesh signaling --allow swarm/trust.toml &
  ifmesh agent --config swarm/agent-legal.toml &
  ifmesh send --config swarm/agent-finance.toml --to agent-legal '{\"claim\":\"settled\"}'")]
pub(crate) struct Init {
    /// The folder. Nothing in it is ever overwritten.
    folder: PathBuf,
    /// How many agents: agent-1, agent-2, ...
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u16).range(1..=1000), conflicts_with = "names")]
    agents: u16,
    /// Their names instead, separated by commas.
    #[arg(long, value_delimiter = ',')]
    names: Vec<AgentId>,
    /// The signaling servers that they use, separated by commas.
    #[arg(long, value_delimiter = ',', default_value = "ws://127.0.0.1:8443")]
    signaling: Vec<String>,
    /// The transports that they use, best first, separated by commas: webrtc, dds, relay.
    #[arg(long, value_delimiter = ',', default_value = "webrtc")]
    transport: Vec<String>,
    /// The DDS domain of those that use dds.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u16).range(0..=232))]
    domain: u16,
    /// Refused, with the reason: there is no DDS Security.
    #[arg(long, hide = true)]
    dds_security: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Init {
    pub(crate) fn run(self) -> Result<u8, Failure> {
        if self.dds_security {
            let reason = ifmesh_transport_dds::NO_SECURITY;
            return Err(Failure::usage(format!("--dds-security cannot be had: {reason}")));
        }
        let names = if self.names.is_empty() {
            let name = |number| AgentId::new(format!("agent-{number}")).map_err(Failure::usage);
            (1..=self.agents).map(name).collect::<Result<Vec<_>, _>>()?
        } else {
            self.names
        };
        // DDS needs no server.
        let needs_server = self.transport.iter().any(|transport| transport != "dds");
        let roads = setup::Roads {
            transports: self.transport,
            signaling: self.signaling,
            domain: self.domain,
        };
        let swarm = setup::init(&self.folder, &names, &roads).map_err(Failure::usage)?;
        if self.json {
            let agents: serde_json::Map<_, _> = swarm
                .agents
                .iter()
                .map(|(agent, path)| (agent.to_string(), json!(path)))
                .collect();
            print_json(&json!({ "trust": swarm.trust, "agents": agents }));
            return Ok(exit::DONE);
        }
        println!("{} agents in {}:", swarm.agents.len(), self.folder.display());
        for (agent, path) in &swarm.agents {
            println!("  {agent:<24} {}", path.display());
        }
        println!("They trust each other by {}. Next:", swarm.trust.display());
        if needs_server {
            println!("  ifmesh signaling --allow {}", swarm.trust.display());
        }
        for (_, path) in swarm.agents.iter().take(2) {
            println!("  ifmesh agent --config {}", path.display());
        }
        Ok(exit::DONE)
    }
}
