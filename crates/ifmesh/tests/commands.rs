//! Every other command, as a user or another program runs it.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::fs;

use common::{Running, agent, code, ifmesh, run, stderr, stdout, swarm};
use serde_json::Value;

#[test]
fn every_command_has_help_with_an_example() {
    for command in ["demo", "init", "keygen", "signaling", "agent", "send", "verify"] {
        let output = run(&[command, "--help"]);
        assert_eq!(code(&output), 0);
        let text = stdout(&output);
        assert!(
            text.contains("Example") && text.contains(&format!("ifmesh {command}")),
            "{command}: {text}"
        );
    }
    assert!(stdout(&run(&["--help"])).contains("Exit codes:"));
    assert_eq!(code(&run(&["demo", "--agents", "1"])), 2);
}

#[test]
fn dds_security_is_refused_with_the_reason_and_the_alternative() {
    let folder = tempfile::tempdir().unwrap();
    let swarm = folder.path().join("swarm");
    let output = run(&[
        "init",
        swarm.to_str().unwrap(),
        "--transport",
        "dds",
        "--dds-security",
    ]);
    assert_eq!(code(&output), 2);
    let text = stderr(&output);
    for part in ["--dds-security cannot be had", "SECURITY.md", "WebRTC"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(!swarm.exists());
}

/// Falsified by a server that nobody needs among the next steps, or by one that is left out.
#[test]
fn init_names_the_next_steps_of_the_chosen_transports() {
    let folder = tempfile::tempdir().unwrap();
    for (transports, needs_server) in [("dds", false), ("webrtc,dds", true), ("relay", true)] {
        let swarm = folder.path().join(transports);
        let made = run(&["init", swarm.to_str().unwrap(), "--transport", transports]);
        assert_eq!(code(&made), 0, "{}", stderr(&made));
        let text = stdout(&made);
        assert_eq!(text.contains("ifmesh signaling"), needs_server, "{text}");
        assert_eq!(text.matches("ifmesh agent --config").count(), 2, "{text}");
    }
}

#[test]
fn keygen_makes_a_key_that_it_can_show_and_never_overwrites() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key.pem");
    let path = path.to_str().unwrap();
    let made = run(&["keygen", path, "--json"]);
    let shown = run(&["keygen", "--show", path, "--json"]);
    assert_eq!((code(&made), stdout(&made)), (0, stdout(&shown)));
    let key: Value = serde_json::from_str(&stdout(&made)).unwrap();
    assert!(key["did"].as_str().unwrap().starts_with("did:key:z6Mk"));
    let again = run(&["keygen", path]);
    assert_eq!(code(&again), 2);
    assert!(stderr(&again).contains("exists already"), "{}", stderr(&again));
}

#[test]
fn agents_talk_in_lines_and_what_they_print_verifies_offline() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, _) = swarm(folder.path(), "alice,bob");
    let (mut alice, bob) = (agent(folder.path(), "alice"), agent(folder.path(), "bob"));
    alice.event("peer-up");
    alice.say(r#"{"to":"bob","performative":"query-if","payload":{"open":true,"text":"ça va?"},"x_mark":1}"#);
    alice.say(r#"{"to":"nobody","payload":{}}"#);
    alice.say("garbage");
    let id = alice.event("accepted")["id"].clone();
    assert!(
        alice.event("line-refused")["error"]
            .as_str()
            .unwrap()
            .contains("no trusted key is known for nobody")
    );
    let message = bob.event("message")["message"].clone();
    assert_eq!(
        (&message["id"], &message["payload"]["text"], &message["x_mark"]),
        (&id, &"ça va?".into(), &1.into())
    );
    let (rest, code_of_alice) = alice.rest();
    assert_eq!(code_of_alice, 0);
    assert!(
        rest.iter().any(|line| line.contains("\"acknowledged\"")),
        "{rest:?}"
    );
    assert!(rest.last().unwrap().contains("\"closed\""), "{rest:?}");

    // Anyone with the trust file can check what bob printed; nobody can change it.
    let trust = folder.path().join("trust.toml");
    let file = folder.path().join("messages.ndjson");
    let verify = |text: &str| {
        fs::write(&file, text).unwrap();
        run(&[
            "verify",
            "--trust",
            trust.to_str().unwrap(),
            file.to_str().unwrap(),
        ])
    };
    let good = message.to_string();
    let output = verify(&good);
    assert_eq!(code(&output), 0, "{}", stdout(&output));
    let changed = good.replace("ça va?", "ça va!");
    let unsigned = r#"{"id":"1"}"#;
    let output = verify(&format!("{good}\n{changed}\n\n{unsigned}\n"));
    let text = stdout(&output);
    assert_eq!(code(&output), 1);
    assert!(
        text.contains("line 1: verified") && text.contains("line 2: REFUSED   bad-signature"),
        "{text}"
    );
    assert!(
        text.contains("line 4: REFUSED   unsigned") && text.contains("1 verified, 2 refused"),
        "{text}"
    );
    assert_eq!(code(&verify("")), 2);
}

#[test]
fn send_waits_for_the_acknowledgement_and_for_a_reply() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, _) = swarm(folder.path(), "alice,bob");
    let config = folder.path().join("alice.toml");
    let config = config.to_str().unwrap();
    let absent = run(&["send", "--config", config, "--to", "bob", "--timeout", "1", "{}"]);
    assert_eq!(code(&absent), 3, "{}", stderr(&absent));
    let mut bob = agent(folder.path(), "bob");
    let sent = run(&["send", "--config", config, "--to", "bob", "{\"n\":1}"]);
    assert_eq!(
        (code(&sent), stdout(&sent).as_str()),
        (0, "acknowledged\n"),
        "{}",
        stderr(&sent)
    );
    assert_eq!(bob.event("message")["message"]["payload"]["n"], 1);
    let asking =
        Running::start(ifmesh().args(["send", "--config", config, "--to", "bob", "--reply", "{\"n\":2}"]));
    let question = bob.event("message")["message"]["id"].clone();
    bob.say(&format!(
        r#"{{"to":"alice","in_reply_to":{question},"payload":{{"n":3}}}}"#
    ));
    assert_eq!(asking.line(), r#"{"n":3}"#);
    assert_eq!(asking.rest().1, 0);
    for bad in [["--to", "a b", "{}"], ["--to", "bob", "{"], ["--to", "bob", "[]"]] {
        assert_eq!(
            code(&run(&[&["send", "--config", config][..], &bad[..]].concat())),
            2,
            "{bad:?}"
        );
    }
}

#[test]
fn an_agent_that_is_killed_goes_on_where_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, _) = swarm(folder.path(), "alice,bob");
    let mut alice = agent(folder.path(), "alice");
    let bob = agent(folder.path(), "bob");
    alice.event("peer-up");
    alice.say(r#"{"to":"bob","payload":{"n":1}}"#);
    assert_eq!(bob.event("message")["message"]["payload"]["n"], 1);
    alice.event("acknowledged");
    bob.signal("KILL");
    drop(bob);
    alice.say(r#"{"to":"bob","payload":{"n":2}}"#);
    alice.say(r#"{"to":"bob","payload":{"n":3}}"#);
    alice.event("accepted");
    let bob = agent(folder.path(), "bob");
    // Not the first one again, and the others once and in order.
    assert_eq!(bob.event("message")["message"]["payload"]["n"], 2);
    assert_eq!(bob.event("message")["message"]["payload"]["n"], 3);
    alice.event("acknowledged");
    alice.event("acknowledged");
    let (rest, _) = bob.rest();
    assert!(!rest.iter().any(|line| line.contains("\"message\"")), "{rest:?}");
}

#[test]
fn ctrl_c_closes_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let (server, _) = swarm(folder.path(), "alice,bob");
    let (alice, bob) = (agent(folder.path(), "alice"), agent(folder.path(), "bob"));
    alice.event("peer-up");
    bob.signal("INT");
    // Said goodbye: not noticed by its silence.
    assert_eq!(alice.event("peer-down")["reason"], "peer-closed");
    let (rest, code) = bob.rest();
    assert_eq!(code, 0);
    assert!(rest.last().unwrap().contains("\"closed\""), "{rest:?}");
    server.signal("TERM");
    assert_eq!(server.rest().1, 0);
    let demo = Running::start(ifmesh().args(["demo", "--repeat", "1000"]));
    while !demo.line().contains("connections in") {}
    demo.signal("INT");
    assert_eq!(demo.rest().1, 130);
}

#[test]
fn what_is_wrong_with_a_configuration_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let (_server, _) = swarm(folder.path(), "alice,bob");
    let path = folder.path().join("alice.toml");
    let good = fs::read_to_string(&path).unwrap();
    let refused = |text: &str, expected: &str| {
        fs::write(&path, text).unwrap();
        let output = run(&["agent", "--config", path.to_str().unwrap()]);
        assert_eq!(code(&output), 2);
        assert!(
            stderr(&output).contains(expected),
            "{expected:?} is not in:\n{}",
            stderr(&output)
        );
    };
    refused(
        &good.replace("window_bytes", "windowbytes"),
        "unknown field `windowbytes`",
    );
    refused(
        &good.replace("= 512", "= 5000"),
        "session.window_messages is 5000; 1 to 1000 is allowed",
    );
    refused(
        &good.replace("keys/alice.pem", "keys/bob.pem"),
        "the key of alice there is not the one in agent.key",
    );
    refused(
        &good.replace("keys/alice.pem", "trust.toml"),
        "not an Ed25519 private key",
    );
    refused(&good.replace("trust.toml", "absent.toml"), "cannot read");
    fs::write(&path, &good).unwrap();
    let _alice = agent(folder.path(), "alice");
    let output = run(&["agent", "--config", path.to_str().unwrap()]);
    assert_eq!(code(&output), 2);
    assert!(
        stderr(&output).contains("this agent is running already"),
        "{}",
        stderr(&output)
    );
}

/// Falsified by a message about which `config check` says something else than the file does.
#[test]
fn config_check_explains_what_would_happen() {
    let folder = tempfile::tempdir().unwrap();
    let swarm = folder.path().join("swarm");
    let made = run(&["init", swarm.to_str().unwrap(), "--transport", "webrtc,dds"]);
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    let config = swarm.join("agent-1.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let rule = "[[router.rule]]\nname = \"alarms\"\nperformative = [\"x-alarm\"]\npolicy = \"fan-out\"\n\n[transport.webrtc]";
    std::fs::write(&config, text.replace("[transport.webrtc]", rule)).unwrap();
    let config = config.to_str().unwrap();
    let ask = |message: &str| stdout(&run(&["config", "check", "--config", config, message]));
    let alarm = ask(r#"{"to":"agent-2","performative":"x-alarm","payload":{}}"#);
    assert!(
        alarm.contains("\"alarms\" decides") && alarm.contains("Fan-out"),
        "{alarm}"
    );
    let other = ask(r#"{"to":"agent-2","performative":"inform","payload":{}}"#);
    assert!(
        other.contains("No rule matches") && other.contains("goes by webrtc while that is up"),
        "{other}"
    );
    let stranger = ask(r#"{"to":"agent-9","payload":{}}"#);
    assert!(stranger.contains("No key is known"), "{stranger}");
    // A name that is nearly right.
    let text = std::fs::read_to_string(config).unwrap();
    std::fs::write(
        config,
        text.replace("policy = \"failover\"", "polcy = \"failover\""),
    )
    .unwrap();
    let wrong = run(&["config", "check", "--config", config]);
    assert_eq!(code(&wrong), 2);
    assert!(
        stderr(&wrong).contains("did you mean `policy`?"),
        "{}",
        stderr(&wrong)
    );
}
