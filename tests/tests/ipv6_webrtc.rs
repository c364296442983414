//! Two real agents with the settings of `ifmesh init`, on a link with IPv6 alone and no route out of it.
//!
//! Falsified by agents that do not meet there: their only way is by an address of the link itself.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

use ifmesh_testnet::{Host, Network};
use ifmesh_tests::program::{Running, ifmesh, init};
use serde_json::json;

const SIGNALING: &str = "[fd00::1]:8443";

#[test]
fn agents_meet_where_there_is_ipv6_alone_and_no_way_out() {
    let network = Network::new().unwrap();
    let lan = network.lan().unwrap();
    let host = |name: &str, address: &str| {
        let host = network.host(name).unwrap();
        host.join(&lan, address).unwrap();
        host
    };
    let on = |host: &Host| host.command(ifmesh().to_str().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let swarm = folder.path().join("swarm");
    init(&swarm, &["one", "other"], &format!("ws://{SIGNALING}"));

    let server = host("server", "fd00::1/64");
    let (_signaling, _) = Running::signaling(on(&server), SIGNALING, &swarm.join("trust.toml"));
    let hosts = [host("one", "fd00::11/64"), host("other", "fd00::12/64")];
    let mut one = Running::agent(on(&hosts[0]), &swarm, "one");
    let mut other = Running::agent(on(&hosts[1]), &swarm, "other");
    one.event_where("peer-up", |event| event["peer"] == "other");
    other.event_where("peer-up", |event| event["peer"] == "one");

    one.say(&json!({"to": "other", "payload": {"said": "here"}}));
    let message = other.event("message")["message"].clone();
    assert_eq!(message["payload"], json!({"said": "here"}));
    one.event("acknowledged");
}
