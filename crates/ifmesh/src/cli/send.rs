use std::{path::PathBuf, time::Duration};

use clap::Args;
use ifmesh::{Agent, Destination, Draft, Performative};
use serde_json::{Value, json};

use super::{Failure, exit, print_json};

/// Send one message and wait until it is acknowledged.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ifmesh send --config swarm/agent-1.toml --to agent-2 '{\"claim\":\"settled\"}'
  ifmesh send --config swarm/agent-1.toml --to agent-2 --performative request --reply '{\"quote\":\"IF-7\"}'")]
pub(crate) struct Send {
    /// The sending agent's file.
    #[arg(long)]
    config: PathBuf,
    /// The receiving agent.
    #[arg(long)]
    to: String,
    /// The communicative act.
    #[arg(long, default_value = "inform")]
    performative: String,
    /// Wait for an answer as well, and print its payload.
    #[arg(long)]
    reply: bool,
    /// How many seconds to wait for the peer, the acknowledgement and the answer, in all.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    timeout: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
    /// The payload, a JSON object.
    payload: String,
}

impl Send {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        let payload: Value = serde_json::from_str(&self.payload)
            .map_err(|error| Failure::usage(format!("the payload is not JSON: {error}")))?;
        let to = Destination::new(&self.to).map_err(|error| Failure::usage(format!("--to: {error}")))?;
        let Destination::Agent(peer) = &to else {
            return Err(Failure::usage(
                "--to: one agent is needed; `ifmesh agent` can send to *",
            ));
        };
        let performative = Performative::new(&self.performative)
            .map_err(|error| Failure::usage(format!("--performative: {error}")))?;
        let draft = Draft::new(to.clone(), payload).performative(performative);
        let agent = tokio::select! {
            agent = Agent::from_file(&self.config) => agent?,
            () = exit::asked_to_end() => return Err(Failure::interrupted()),
        };
        let exchange = async {
            let is_up =
                |peers: &[ifmesh::PeerStatus]| peers.iter().any(|status| status.up && status.peer == *peer);
            agent.peers_until(is_up).await;
            if self.reply {
                let answer = agent.session().request(draft).await.map_err(Failure::usage)?;
                return Ok::<_, Failure>((
                    exit::DONE,
                    json!({ "outcome": "answered", "answer": answer.payload() }),
                ));
            }
            let receipt = agent.submit(draft).await.map_err(Failure::usage)?;
            let id = receipt.id().to_string();
            Ok(match receipt.acknowledged().await {
                Ok(()) => (exit::DONE, json!({ "outcome": "acknowledged", "id": id })),
                Err(error) => (
                    exit::NOT_ALL_WELL,
                    json!({ "outcome": error.outcome.to_string(), "id": id }),
                ),
            })
        };
        let result = tokio::select! {
            result = tokio::time::timeout(Duration::from_secs(self.timeout), exchange) => result,
            () = exit::asked_to_end() => {
                agent.close().await;
                return Err(Failure::interrupted());
            }
        };
        let (code, report) = match result {
            Ok(done) => done?,
            Err(_) => {
                let is_up = agent
                    .peers()
                    .iter()
                    .any(|status| status.up && status.peer == *peer);
                let problem = if is_up {
                    "it did not acknowledge (or answer) in time"
                } else {
                    "it did not come up in time: is it running, and registered at the same signaling server?"
                };
                return Err(Failure::unavailable(format!("{peer}: {problem}")));
            }
        };
        agent.close().await;
        if self.json {
            print_json(&report);
        } else if let Some(answer) = report.get("answer") {
            println!("{answer}");
        } else {
            println!("{}", report["outcome"].as_str().unwrap_or_default());
        }
        Ok(code)
    }
}
