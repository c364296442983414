//! An agent over aiortc, written in Python from PROTOCOL.md, talks with ours: tests/interop/aiortc_peer.py.
//!
//! Falsified by anything that PROTOCOL.md says and our agent does not do or understand: registration with a proven key,
//! signed descriptions, candidates, the hello on the channel, the session's hello, floors and acknowledgements, both forms
//! of a message, flights in parts. And by either side taking a message that was changed after it was signed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

use std::process::Command;

use ifmesh_tests::{
    interop::{Role, act},
    program::Running,
};
use serde_json::Value;

#[test]
fn aiortc_offers() {
    act(Role::Offerer, start);
}

#[test]
fn aiortc_answers() {
    act(Role::Answerer, start);
}

fn start(settings: &Value) -> Running {
    let python = std::env::var_os("IFMESH_PYTHON")
        .expect("IFMESH_PYTHON names no Python: `cargo xtask test` makes one and sets it");
    let peer = concat!(env!("CARGO_MANIFEST_DIR"), "/interop/aiortc_peer.py");
    Running::start("aiortc", Command::new(python).arg(peer).arg(settings.to_string()))
}
