//! `ifmesh witness`: reads, checks and proves from the logs that agents keep.

mod check_proof;
pub(crate) mod join;
mod logs;
mod prove;
mod show;
mod trace;
mod verify;

use clap::{Args, Subcommand};

use super::Failure;

const AFTER_HELP: &str = "\
Exit codes:
  0  everything is as it was signed, and nothing is missing
  1  a log or a proof does not verify, or one side lacks what another claims
  2  a flag or a file is wrong

Keys: --trust names a trust file. Without it, trust.toml in the log's folder or the one above is taken, and the output says so:
then the log is checked against keys that lay beside it.

Example: run a demo, check its logs, and read one
  ifmesh demo --witness logs
  ifmesh witness verify logs
  ifmesh witness show logs/agent-finance";

/// Read, check and prove from the tamper-evident logs that agents keep.
#[derive(Debug, Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Witness {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Verify(verify::Verify),
    Show(show::Show),
    Prove(prove::Prove),
    CheckProof(check_proof::CheckProof),
    Trace(trace::Trace),
}

impl Witness {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        match self.command {
            Command::Verify(command) => command.run(),
            Command::Show(command) => Box::pin(command.run()).await,
            Command::Prove(command) => command.run(),
            Command::CheckProof(command) => command.run(),
            Command::Trace(command) => command.run(),
        }
    }
}

/// Prints a line. Whoever reads us may be gone: then there is nobody left to tell.
fn say(line: impl std::fmt::Display) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
