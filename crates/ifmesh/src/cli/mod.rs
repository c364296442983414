//! The command line. One file for each command.

mod agent;
mod config;
mod demo;
pub(crate) mod exit;
mod init;
mod keygen;
mod lines;
mod send;
mod signaling;
mod verify;
mod witness;

use clap::{Parser, Subcommand};

pub(crate) use exit::Failure;

const AFTER_HELP: &str = "\
Exit codes:
  0    done, and everything is as it should be
  1    done, but a message was lost, refused, expired or did not verify
  2    a flag, a file or an input line is wrong: nothing was started
  3    the network, a server or a peer was not there in time
  130  interrupted (Ctrl-C); everything was closed cleanly

IFMESH_LOG=debug shows what happens inside (on standard error).

Example: see it work
  ifmesh demo";

/// Signed agent messages over any transport.
#[derive(Debug, Parser)]
#[command(version, about, after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::Demo),
    Init(init::Init),
    Keygen(keygen::Keygen),
    Signaling(signaling::Signaling),
    Agent(agent::Agent),
    Send(send::Send),
    Config(config::Config),
    Verify(verify::Verify),
    Witness(Box<witness::Witness>),
}

pub(crate) async fn run(arguments: Arguments) -> Result<u8, Failure> {
    match arguments.command {
        Command::Demo(command) => Box::pin(command.run()).await,
        Command::Init(command) => command.run(),
        Command::Keygen(command) => command.run(),
        Command::Config(command) => command.run(),
        Command::Signaling(command) => Box::pin(command.run()).await,
        Command::Agent(command) => Box::pin(command.run()).await,
        Command::Send(command) => Box::pin(command.run()).await,
        Command::Verify(command) => command.run(),
        Command::Witness(command) => Box::pin(command.run()).await,
    }
}

/// Prints one JSON object on a line of its own.
pub(crate) fn print_json(value: &serde_json::Value) {
    use std::io::Write as _;
    // Whoever reads us is gone: there is nobody left to tell.
    let _ = writeln!(std::io::stdout().lock(), "{value}");
}
