//! An agent in headless Chromium, written in JavaScript from PROTOCOL.md, talks with ours: tests/interop/chromium_peer.js.
//!
//! Falsified by what falsifies interop_aiortc.rs, with the WebRTC stack that most of the world runs, and signatures by
//! WebCrypto. It runs in a network of its own: a browser left alone reaches for the world.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

use ifmesh_testnet::isolate;
use ifmesh_tests::interop::{Chromium, Role, act};

#[test]
fn chromium_offers() {
    let _network = isolate().unwrap();
    act(Role::Offerer, Chromium::start);
}

#[test]
fn chromium_answers() {
    let _network = isolate().unwrap();
    act(Role::Answerer, Chromium::start);
}
