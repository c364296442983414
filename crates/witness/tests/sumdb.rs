//! Checkpoints and proofs verify with code that is not ours and that others rely on: Go's `sumdb/note` and `sumdb/tlog`.
//!
//! Falsified by a proof of ours that they refuse, or by one that they accept after a change. Needs `go` and its package
//! `golang.org/x/mod` as Debian installs it (`golang-go`, `golang-golang-x-mod-dev`); nothing is fetched.
#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]

mod common;

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
};

use common::*;
use ifmesh_witness::{prove, prove_consistency, verifier_key};
use ifmsg::Identity;
use serde_json::{Value, json};

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sumdb/main.go");

/// What Go says of each proof.
fn verdicts(proofs: &[Value]) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("sumdb");
    let built = Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(SOURCE)
        .env("GO111MODULE", "off")
        .env("GOPATH", "/usr/share/gocode")
        .env("GOCACHE", folder.path().join("cache"))
        .env("CGO_ENABLED", "0")
        .output()
        .expect("`go` is needed: `cargo xtask test` installs it");
    let error = String::from_utf8_lossy(&built.stderr);
    assert!(
        built.status.success(),
        "golang-golang-x-mod-dev is needed: {error}"
    );
    run(&program, proofs)
}

fn run(program: &Path, proofs: &[Value]) -> Vec<String> {
    let mut child = Command::new(program)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let text: String = proofs.iter().map(|proof| format!("{proof}\n")).collect();
    let writing = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    let lines = String::from_utf8(output.stdout).unwrap();
    lines.lines().map(str::to_owned).collect()
}

/// A proof with the key that it is to be checked by.
fn with_key(proof: impl serde::Serialize, key: &str) -> Value {
    let mut proof = serde_json::to_value(proof).unwrap();
    proof["key"] = key.into();
    proof
}

#[test]
fn go_verifies_what_is_proved_and_refuses_what_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    small_log(dir.path(), 40);
    let key = verifier_key(&agent(), identity().public_key());
    let mut good = Vec::new();
    for line in 0..40 {
        for proof in prove(dir.path(), &keys(), &digest(first_message(line))).unwrap() {
            good.push(with_key(proof, &key));
        }
    }
    assert_eq!(good.len(), 40);
    for note in notes(dir.path()) {
        let proof = prove_consistency(dir.path(), &keys(), &note).unwrap();
        good.push(with_key(proof, &key));
    }
    let mut bad = Vec::new();
    let stranger = verifier_key(&agent(), Identity::from_seed(&[12; 32]).public_key());
    for proof in &good {
        let mut change = |member: &str, value: Value| {
            let mut changed = proof.clone();
            changed[member] = value;
            bad.push(changed);
        };
        change("key", json!(stranger));
        if proof.get("line").is_some() {
            change(
                "line",
                json!(proof["line"].as_str().unwrap().replace("bob", "eve")),
            );
            change("index", json!((proof["index"].as_u64().unwrap() + 1) % 40));
        } else if proof["old"] != proof["new"] {
            change("old", proof["new"].clone());
            change("path", json!([]));
        }
        let mut path = proof["path"].as_array().unwrap().clone();
        if let Some(first) = path.first_mut() {
            *first = json!("00".repeat(32));
            change("path", json!(path));
        }
    }
    let said = verdicts(&[good.as_slice(), bad.as_slice()].concat());
    assert_eq!(said.len(), good.len() + bad.len());
    for (said, proof) in said.iter().zip(&good) {
        assert_eq!(said, "verified", "{proof}");
    }
    for (said, proof) in said[good.len()..].iter().zip(&bad) {
        assert!(said.starts_with("refused"), "{proof}");
    }
}
