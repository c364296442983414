//! The `ifmesh` program: the same agent as the library's, for people and for any language that reads lines of JSON.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

/// Errors alone; and not those of the `webrtc` crate, which takes every datagram that cannot be sent for one. To ICE, which tries
/// each path, they are nothing special. The listeners of `rustdds` leave the multicast group by another interface than they joined it
/// by, which fails each time, and is nothing either: the socket is closed.
const QUIET: &str = "error,webrtc=off,rustdds::network::udp_listener=off";

fn main() -> ExitCode {
    let arguments = cli::Arguments::parse();
    tracing_subscriber::fmt()
        .with_env_filter(std::env::var("IFMESH_LOG").unwrap_or_else(|_| QUIET.to_owned()))
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("ifmesh: cannot start: {error}");
            return cli::exit::UNAVAILABLE.into();
        }
    };
    match runtime.block_on(cli::run(arguments)) {
        Ok(code) => code.into(),
        Err(failure) => {
            eprintln!("ifmesh: {failure}");
            failure.code().into()
        }
    }
}
