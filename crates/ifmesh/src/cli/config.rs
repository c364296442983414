use std::path::PathBuf;

use clap::{Args, Subcommand};
use ifmesh::{Backends, Config as AgentConfig};

use super::{Failure, exit, lines, print_json};

/// Look at an agent's configuration.
#[derive(Debug, Args)]
pub(crate) struct Config {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Check(Check),
    Schema(Schema),
}

/// Check an agent's file and all that it names, and say what would happen to a message.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ifmesh config check --config swarm/agent-1.toml
  ifmesh config check --config swarm/agent-1.toml '{\"to\":\"agent-2\",\"performative\":\"inform\",\"payload\":{}}'

Exit code 2 if the configuration would be refused.")]
struct Check {
    /// The agent's file.
    #[arg(long)]
    config: PathBuf,
    /// A message, as `ifmesh agent` takes it.
    message: Option<String>,
}

/// Print the JSON Schema of an agent's file.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ifmesh config schema > agent.schema.json")]
struct Schema {}

impl Config {
    pub(crate) fn run(self) -> Result<u8, Failure> {
        match self.command {
            Command::Schema(Schema {}) => print_json(&AgentConfig::schema()),
            Command::Check(check) => check.run()?,
        }
        Ok(exit::DONE)
    }
}

impl Check {
    fn run(self) -> Result<(), Failure> {
        let config = AgentConfig::from_file(&self.config).map_err(Failure::usage)?;
        Backends::default()
            .check(&config.transports)
            .map_err(Failure::usage)?;
        println!("{config}: this configuration is good.");
        for variable in &config.overrides {
            println!("  overridden by {variable}");
        }
        for table in &config.transports {
            println!("  {:<12} {}", table.name, table.kind);
            for line in settings(&table.table) {
                println!("    {line}");
            }
        }
        if let Some(message) = &self.message {
            let line = lines::read(message, &config.limits.message).map_err(Failure::usage)?;
            println!("{}", config.explain(line.draft).map_err(Failure::usage)?);
        }
        Ok(())
    }
}

/// What an operator looks for first when agents do not meet: which servers, vouched for by whom, which domain, and which bounds are not the
/// defaults. Other keys may hold secrets.
fn settings(table: &toml::Table) -> Vec<String> {
    let line = |name: &str, (key, value): (&String, &toml::Value)| format!("{name}{key} = {value}");
    let top = ["signaling", "ca", "server_id", "domain", "interfaces"];
    let top = table.iter().filter(|(key, _)| top.contains(&key.as_str()));
    let limits = table.get("limits").and_then(toml::Value::as_table);
    let limits = limits.into_iter().flatten().map(|entry| line("limits.", entry));
    top.map(|entry| line("", entry)).chain(limits).collect()
}
