//! One story that every foreign stack has to act out with ours: see [`act`].

mod chromium;
mod forger;

use std::{collections::BTreeMap, fs, path::Path, process::Command, time::Duration};

use serde_json::{Value, json};

pub use chromium::Chromium;

use crate::program::{PATIENCE, Running, ifmesh, init};
use forger::Forger;

/// Which side of the negotiation the foreign peer takes. The agent with the larger id offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// It offers.
    Offerer,
    /// It answers.
    Answerer,
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Offerer => "zz-foreign",
            Self::Answerer => "aa-foreign",
        }
    }

    fn event(self) -> &'static str {
        match self {
            Self::Offerer => "offered",
            Self::Answerer => "answered",
        }
    }
}

/// A peer that nobody here wrote the WebRTC stack of. It takes commands and tells events, both JSON.
pub trait Foreign {
    /// Tells it something.
    fn command(&mut self, command: &Value);
    /// The next thing that happened to it.
    fn next(&mut self, patience: Duration) -> Option<Value>;
}

impl Foreign for Running {
    fn command(&mut self, command: &Value) {
        self.say(command);
    }

    fn next(&mut self, patience: Duration) -> Option<Value> {
        Running::next(self, patience)
    }
}

const OURS: &str = "mm-ours";
/// Trusted as a name, and up to no good. Its connection with the foreign peer has the same roles as ours.
const FORGER: &str = "nn-forger";

/// A foreign peer joins a swarm of real programs, registers with a proven key, becomes a link in its role, and then:
///
/// 1. our agent sends it messages of every kind; each arrives as it was sent, in order, and is acknowledged;
/// 2. it sends our agent messages in every form that a frame can have; each arrives as it was sent, and is acknowledged;
/// 3. it sends one that was changed after it was signed, which ours refuses, and takes what was really signed;
/// 4. a third agent does the same to it, and it refuses and takes likewise.
///
/// `start` starts the peer with its settings.
pub fn act<F: Foreign>(role: Role, start: impl FnOnce(&Value) -> F) {
    let folder = tempfile::tempdir().unwrap();
    let swarm = folder.path().join("swarm");
    let name = role.name();
    init(&swarm, &[OURS, FORGER, name], "ws://127.0.0.1:1");
    let (_server, url) = Running::signaling(Command::new(ifmesh()), "127.0.0.1:0", &swarm.join("trust.toml"));
    at_loopback(&swarm, OURS, &url);
    let mut ours = Running::agent(Command::new(ifmesh()), &swarm, OURS);
    let mut foreign = start(&settings(&swarm, name, &url));

    event(&mut foreign, "registered", |_| true);
    event(&mut foreign, role.event(), |event| event["peer"] == OURS);
    let link = event(&mut foreign, "link", |event| event["peer"] == OURS);
    assert!(link["max_frame"].as_u64().unwrap() >= 16_384, "{link}");
    event(&mut foreign, "up", |event| event["peer"] == OURS);
    ours.event_where("peer-up", |event| event["peer"] == name);

    ours_to(&mut ours, &mut foreign, name);
    let genuine = theirs_to(&mut ours, &mut foreign, name);

    // The forged one had the number of the genuine one, which nobody has taken yet.
    let refused = ours.event("rejected");
    assert_eq!(
        (&refused["reason"], &refused["claimed_source"]),
        (&json!("bad-signature"), &json!(name))
    );
    foreign.command(&json!({"do": "repair", "peer": OURS}));
    let message = ours.event("message")["message"].clone();
    assert_eq!(message["payload"], genuine);
    event(&mut foreign, "acknowledged", |event| event["id"] == message["id"]);

    let forger = Forger::start(&swarm, FORGER, name, &url);
    event(&mut foreign, "link", |event| event["peer"] == FORGER);
    let (forged, genuine) = forger.message(name);
    forger.send(forged);
    let refused = event(&mut foreign, "rejected", |_| true);
    assert_eq!(refused["reason"], "bad-signature", "{refused}");
    forger.send(genuine);
    let message = event(&mut foreign, "message", |_| true)["message"].clone();
    assert_eq!(
        (&message["source"], &message["payload"]),
        (&json!(FORGER), &json!({"forged": false}))
    );
}

/// What can go wrong on the way from one language to another.
fn payloads() -> Vec<Value> {
    vec![
        json!({}),
        json!({"text": "ça va? \u{1F980} \"\\\u{8}\u{7f}\u{2028}\u{fffe} </script>"}),
        json!({"numbers": [0, -1, 1.5, 1e21, 1e-7, 123_456_789.123_456_78, 9_007_199_254_740_991_u64, 5e-324, 1.797_693_134_862_315_7e308]}),
        json!({"order": {"\u{e000}": 1, "\u{1F600}": 2, "a": 3, "Z": 4, "10": 5, "9": 6, "__proto__": 7}}),
        json!({"deep": [[[[[[[[{"null": null, "true": true}]]]]]]]]}),
        json!({"long": "0123456789abcdef".repeat(2_000)}),
    ]
}

/// What our agent sends arrives as it was sent, in order, and is acknowledged.
fn ours_to(ours: &mut Running, foreign: &mut impl Foreign, name: &str) {
    let mut lines = Vec::new();
    for payload in payloads() {
        lines.push(json!({"to": name, "payload": payload}));
    }
    lines.push(json!({
        "to": name, "payload": {}, "level": 2, "performative": "query-if", "conversation_id": "talk/1",
        "in_reply_to": "x@y", "traceId": "0123456789abcdef01234567", "citation_ids": ["if://citation/1"],
        "expires": "2999-12-31T23:59:59.999Z", "x_mark": [1, {"two": 2}]
    }));
    // Enough at once that they share signatures, in frames of many messages.
    for number in 0..200 {
        lines.push(json!({"to": name, "payload": {"number": number}}));
    }
    for line in &lines {
        ours.say(line);
    }
    let mut forms = BTreeMap::<String, usize>::new();
    for line in &lines {
        let event = event(foreign, "message", |_| true);
        let message = &event["message"];
        for (member, value) in line.as_object().unwrap() {
            let member = if member == "to" { "destination" } else { member };
            assert_eq!(message[member], *value, "{member}");
        }
        assert_eq!(message["source"], OURS);
        *forms
            .entry(event["form"].as_str().unwrap().to_owned())
            .or_default() += 1;
    }
    assert!(forms.contains_key("binary"), "{forms:?}");
    for _ in &lines {
        ours.event("acknowledged");
    }
}

/// What the peer sends arrives as it was sent, in order, in every form, and is acknowledged; at last it sends a forged one.
/// Returns what was signed there.
fn theirs_to(ours: &mut Running, foreign: &mut impl Foreign, name: &str) -> Value {
    for form in ["json", "binary", "parts"] {
        let messages: Vec<Value> = payloads()
            .into_iter()
            .map(|payload| json!({"payload": payload, "performative": "inform", "x_form": form}))
            .collect();
        foreign.command(&json!({"do": "send", "peer": OURS, "form": form, "messages": messages}));
        let ids = event(foreign, "sent", |_| true)["ids"].clone();
        for (message, id) in messages.iter().zip(ids.as_array().unwrap()) {
            let got = ours.event("message")["message"].clone();
            for (member, value) in message.as_object().unwrap() {
                assert_eq!(got[member], *value, "{form}: {member}");
            }
            assert_eq!((&got["id"], &got["source"]), (id, &json!(name)));
        }
        for id in ids.as_array().unwrap() {
            let acknowledged = event(foreign, "acknowledged", |_| true);
            assert_eq!(acknowledged["id"], *id, "{form}");
        }
    }
    let payload = json!({"forged": false});
    foreign.command(&json!({"do": "forge", "peer": OURS, "message": {"payload": payload}}));
    payload
}

/// Reads on until this event. A refusal on the way is a failure, unless that is what is waited for.
fn event(foreign: &mut impl Foreign, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut passed = Vec::new();
    loop {
        let Some(event) = foreign.next(PATIENCE) else {
            panic!("the foreign peer did not say {name:?} in time, but: {passed:#?}");
        };
        if event["event"] == name && wanted(&event) {
            return event;
        }
        assert!(
            !matches!(event["event"].as_str(), Some("rejected" | "refused" | "error")),
            "{event}"
        );
        passed.push(event.to_string());
    }
}

/// The foreign peer over aiortc, `tests/interop/aiortc_peer.py`, with its [`settings`].
pub fn aiortc(settings: &Value) -> Running {
    let python = std::env::var_os("IFMESH_PYTHON")
        .expect("IFMESH_PYTHON names no Python: `cargo xtask test` makes one and sets it");
    let peer = concat!(env!("CARGO_MANIFEST_DIR"), "/interop/aiortc_peer.py");
    Running::start("aiortc", Command::new(python).arg(peer).arg(settings.to_string()))
}

/// What a foreign peer must know to be this agent of a swarm.
pub fn settings(swarm: &Path, agent: &str, url: &str) -> Value {
    json!({
        "agent": agent,
        "key": fs::read_to_string(swarm.join(format!("keys/{agent}.pem"))).unwrap(),
        "trusted": trusted(swarm),
        "signaling": url,
        "epoch": 1_700_000_000_000_u64,
    })
}

/// The keys of everybody, by name.
fn trusted(swarm: &Path) -> BTreeMap<String, String> {
    let trust = ifmesh::read_trust(&swarm.join("trust.toml")).unwrap();
    trust
        .bindings()
        .map(|(agent, binding)| (agent.to_string(), binding.key.to_hex()))
        .collect()
}

/// Points an agent's file at this server, and at nothing but loopback.
pub fn at_loopback(swarm: &Path, agent: &str, url: &str) {
    let path = swarm.join(format!("{agent}.toml"));
    let text = fs::read_to_string(&path)
        .unwrap()
        .replace("ws://127.0.0.1:1", url);
    fs::write(
        &path,
        text.replace("addresses = []", "addresses = [\"127.0.0.1\"]"),
    )
    .unwrap();
}
