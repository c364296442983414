//! The demo, run as a user runs it: over real WebRTC between real processes, over memory, and through kill -9.
//!
//! Falsified by a message that is lost, doubled or unverified, a missing connection, an account with other members.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::collections::BTreeSet;

use common::{Running, code, ifmesh, run, stdout};
use serde_json::Value;

fn account(arguments: &[&str]) -> Value {
    let output = run(&[&["demo", "--json"], arguments].concat());
    assert_eq!(
        code(&output),
        0,
        "{}\n{}",
        stdout(&output),
        common::stderr(&output)
    );
    let text = stdout(&output);
    assert_eq!(text.lines().count(), 1, "one object and nothing else: {text}");
    serde_json::from_str(&text).unwrap()
}

#[test]
fn five_processes_exchange_every_message_once() {
    let account = account(&[]);
    let members: BTreeSet<&str> = account.as_object().unwrap().keys().map(String::as_str).collect();
    let named =
        "agents connections setup_ms sent delivered duplicates lost rejected latency_ms msgs_per_s witness";
    assert_eq!(members, named.split(' ').collect());
    let percentiles: Vec<&String> = account["latency_ms"].as_object().unwrap().keys().collect();
    assert_eq!(percentiles, ["p50", "p95", "p99"]);
    let count = |name: &str| account[name].as_u64().unwrap();
    assert_eq!((count("agents"), count("connections")), (5, 10));
    assert!(
        count("sent") >= 50 && count("delivered") > count("sent"),
        "{account}"
    );
    assert_eq!((count("lost"), count("duplicates"), count("rejected")), (0, 0, 0));
    assert!(account["latency_ms"]["p50"].as_f64().unwrap() > 0.0);
    assert!(account["msgs_per_s"].as_f64().unwrap() > 0.0);
}

#[test]
fn the_same_over_dds_and_through_the_relay() {
    for transport in ["dds", "relay"] {
        let account = account(&["--transport", transport]);
        assert_eq!(
            (&account["connections"], &account["delivered"]),
            (&10.into(), &82.into())
        );
        assert_eq!((&account["lost"], &account["duplicates"]), (&0.into(), &0.into()));
    }
}

/// Falsified by a pair that lost WebRTC and did not move to DDS, or did not come back; and by what was lost or doubled meanwhile.
#[test]
fn a_road_that_falls_silent_is_left_and_taken_again() {
    let account = account(&["--hybrid", "--repeat", "20"]);
    assert_eq!((&account["lost"], &account["duplicates"]), (&0.into(), &0.into()));
    let failovers = account["failovers"].as_array().unwrap();
    // Two of five agents: seven pairs, both directions.
    for (from, to) in [("webrtc", "dds"), ("dds", "webrtc")] {
        let found = failovers
            .iter()
            .filter(|one| one["from"] == from && one["to"] == to);
        assert!(found.count() >= 14, "{account:#}");
    }
    let members: BTreeSet<&str> = failovers[0]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    assert_eq!(
        members,
        "agent peer from to detect_ms gap_ms resent".split(' ').collect()
    );
}

#[test]
fn the_same_over_memory_a_hundred_times() {
    let account = account(&["--transport", "mem", "--repeat", "100"]);
    assert_eq!(account["sent"], 6_100);
    assert_eq!((&account["lost"], &account["duplicates"]), (&0.into(), &0.into()));
}

#[test]
fn fewer_agents_leave_out_what_names_the_others() {
    let account = account(&["--agents", "2", "--transport", "mem"]);
    assert_eq!(
        (&account["agents"], &account["connections"]),
        (&2.into(), &1.into())
    );
    assert!(account["sent"].as_u64().unwrap() > 5);
}

/// One agent is killed in mid-stream, then another, each with no chance to say goodbye; the demo starts them again.
#[test]
fn kill_9_of_an_agent_loses_and_doubles_nothing() {
    let demo = Running::start(ifmesh().args(["demo", "--repeat", "60"]));
    let mut pids = Vec::new();
    loop {
        let line = demo.line();
        if let Some((_, pid)) = line.split_once(" process ") {
            pids.push(pid.parse::<u32>().unwrap());
        }
        if line.contains("connections in") {
            break;
        }
    }
    assert_eq!(pids.len(), 5);
    common::signal(pids[2], "KILL");
    let (rest, code) = demo.rest();
    let text = rest.join("\n");
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("died; starting it again"),
        "it was killed too late to matter: {text}"
    );
    assert!(text.contains("restarts     1"), "{text}");
    assert!(
        text.contains("\nlost         0\n") && text.contains("\nduplicates   0 delivered"),
        "{text}"
    );
}

#[test]
fn input_is_refused_line_by_line_before_anything_starts() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("bad.ndjson");
    let lines = [
        (r#"{"source":"a","destination":"b","payload":{}}"#, None),
        (
            r#"{"source":"a","destination":"b","payload":{"x":1,"\u0078":2}}"#,
            Some("line 2: not JSON that can be signed"),
        ),
        (
            r#"{"source":"a","destination":"b","payload":[]}"#,
            Some("line 3: the payload must be a JSON object"),
        ),
        (
            r#"{"source":"a","destination":"a","payload":{}}"#,
            Some("line 4: a would send to itself"),
        ),
        (
            r#"{"destination":"b","payload":{}}"#,
            Some("line 5: source is missing"),
        ),
        (
            r#"{"source":"a","destination":"b c","payload":{}}"#,
            Some("line 6: destination: not an id"),
        ),
        (
            r#"{"source":"a","destination":"b","payload":{},"level":3}"#,
            Some("line 7: level: 1 or 2"),
        ),
        (
            r#"{"source":"a","destination":"b","payload":{},"performative":"tell"}"#,
            Some("line 8: performative"),
        ),
        (
            r#"{"source":"a","destination":"b","payload":{},"signature":{}}"#,
            Some("line 9: member \"signature\""),
        ),
        (
            r#"{"source":"a","destination":"b","payload":{},"citation_ids":["http://x"]}"#,
            Some("line 10: citation"),
        ),
        ("{", Some("line 11: not JSON that can be signed")),
    ];
    let text: String = lines.iter().map(|(line, _)| format!("{line}\n")).collect();
    std::fs::write(&path, text).unwrap();
    let output = run(&["demo", "--input", path.to_str().unwrap()]);
    assert_eq!(code(&output), 2);
    assert_eq!(stdout(&output), "", "something was started");
    let text = common::stderr(&output);
    for reason in lines.iter().filter_map(|(_, reason)| *reason) {
        assert!(text.contains(reason), "{reason:?} is not in:\n{text}");
    }
    assert!(!text.contains("line 1:"), "{text}");
    assert_eq!(code(&run(&["demo", "--input", "/nowhere/at/all"])), 2);
}
