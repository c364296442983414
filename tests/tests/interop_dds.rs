//! An agent over Eclipse Cyclone DDS, written in Python from PROTOCOL.md and the IDL file, talks with ours:
//! tests/interop/cyclone_peer.py.
//!
//! Falsified by anything that PROTOCOL.md or the IDL says and our agent does not do or understand: types, topics and QoS,
//! signed presence, hellos and heartbeats, order and credit, chunks; by what is durable and does not reach who comes late; by a
//! `kill -9` of either side that is not noticed or not healed; by either side taking a message that was changed after it
//! was signed.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

use std::{io::BufRead as _, sync::Arc, time::Duration};

use ifmesh_testnet::{Host, Network};
use ifmesh_tests::program::{PATIENCE, Running, now_millis};
use ifmesh_transport::{
    Envelope, IfTransport, Lane, Observer, PeerTrust, Session, SessionConfig, SessionEvent, SystemClock,
};
use ifmesh_transport_dds::{DdsAgent, DdsConfig, DdsTransport};
use ifmsg::{
    AgentId, Destination, Draft, Identity, MessageId, Permissions, SignedMessage, Stamp, Timestamp,
    TrustPolicy, TrustStore, canonical::Limits,
};
use serde_json::{Value, json};
use tokio::time::Instant;

const OURS: &str = "mm/ours";
const FOREIGN: &str = "zz-foreign";
const LATE: &str = "late.foreign";

#[test]
fn cyclone_dds_talks_with_ours() {
    let network = Network::new().unwrap();
    let host = network.host("one").unwrap();
    let mut ours = ours(&host, 1);
    let mut foreign = foreign(&host, FOREIGN, 1);
    both_up(&mut ours, &mut foreign);

    // Ours to Cyclone's: every kind of payload, in order, acknowledged. The last ones travel in chunks.
    for payload in payloads() {
        ours.say(&json!({"to": FOREIGN, "payload": payload}));
    }
    for payload in payloads() {
        assert_eq!(event(&mut foreign, "message")["message"]["payload"], payload);
        ours.event("acknowledged");
    }
    // Cyclone's to ours, in every form of a frame.
    for form in ["json", "binary", "parts"] {
        let messages: Vec<Value> = payloads()
            .into_iter()
            .map(|payload| json!({"payload": payload}))
            .collect();
        foreign.say(&json!({"do": "send", "peer": OURS, "form": form, "messages": messages}));
        for payload in payloads() {
            assert_eq!(ours.event("message")["payload"], payload, "{form}");
        }
        for _ in payloads() {
            event(&mut foreign, "acknowledged");
        }
    }
    // A forged one, and what was really signed.
    foreign.say(&json!({"do": "forge", "peer": OURS, "message": {"payload": {"forged": false}}}));
    assert_eq!(ours.event("rejected")["reason"], "bad-signature");
    foreign.say(&json!({"do": "repair", "peer": OURS}));
    assert_eq!(ours.event("message")["payload"], json!({"forged": false}));
    event(&mut foreign, "acknowledged");
    ours.say(&json!({"forge": FOREIGN}));
    let refused = event_where(&mut foreign, |event| event["event"] == "rejected");
    assert_eq!(refused["reason"], "bad-signature");

    // Two thousand each way, both at once.
    let numbers: Vec<Value> = (0..200).map(|n| json!({"payload": {"n": n}})).collect();
    foreign.say(&json!({"do": "send", "peer": OURS, "form": "binary", "messages": numbers}));
    for n in 0..2_000 {
        ours.say(&json!({"to": FOREIGN, "payload": {"n": n}}));
    }
    for n in 0..2_000 {
        let message = event(&mut foreign, "message");
        assert_eq!(message["message"]["payload"]["n"], n);
    }
    for n in 0..200 {
        assert_eq!(ours.event("message")["payload"]["n"], n);
    }
}

/// Presence and the record of reliable broadcasts are durable: who joins after both were written gets both.
#[test]
fn who_comes_late_gets_what_is_durable() {
    let network = Network::new().unwrap();
    let host = network.host("one").unwrap();
    let mut ours = ours(&host, 1);
    ours.say(&json!({"broadcast": {"to": "everyone"}}));
    ours.event("broadcast");
    let mut late = foreign(&host, LATE, 1);
    let (mut present, mut record) = (false, false);
    while !(present && record) {
        let event = late.next(PATIENCE).expect("presence and the record in time");
        present |= event["event"] == "presence" && event["peer"] == OURS;
        record |= event["event"] == "broadcast" && event["message"]["payload"] == json!({"to": "everyone"});
        assert_ne!(event["event"], "rejected", "{event}");
    }
}

#[test]
fn kill_9_of_either_side_is_noticed_and_healed() {
    let network = Network::new().unwrap();
    let host = network.host("one").unwrap();
    let mut first = ours(&host, 1);
    let mut cyclone = foreign(&host, FOREIGN, 1);
    both_up(&mut first, &mut cyclone);

    cyclone.kill();
    let killed = Instant::now();
    first.event_where("peer-down", |event| event["peer"] == FOREIGN);
    assert!(
        killed.elapsed() < Duration::from_secs(4),
        "{:?}",
        killed.elapsed()
    );
    // Sent while nobody is there.
    first.say(&json!({"to": FOREIGN, "payload": {"while": "away"}}));
    let mut cyclone = foreign(&host, FOREIGN, 2);
    both_up(&mut first, &mut cyclone);
    assert_eq!(
        event(&mut cyclone, "message")["message"]["payload"],
        json!({"while": "away"})
    );
    first.event("acknowledged");

    first.kill();
    let killed = Instant::now();
    event_where(&mut cyclone, |event| {
        event["event"] == "down" && event["peer"] == OURS
    });
    assert!(
        killed.elapsed() < Duration::from_secs(4),
        "{:?}",
        killed.elapsed()
    );
    let messages = json!([{"payload": {"while": "away"}}]);
    cyclone.say(&json!({"do": "send", "peer": OURS, "form": "json", "messages": messages}));
    let mut second = ours(&host, 2);
    second.event_where("peer-up", |event| event["peer"] == FOREIGN);
    assert_eq!(second.event("message")["payload"], json!({"while": "away"}));
    event(&mut cyclone, "acknowledged");
}

fn payloads() -> Vec<Value> {
    vec![
        json!({}),
        json!({"text": "ça va? \u{1F980} \"\\\u{8}\u{7f}\u{2028}\u{fffe} </script>"}),
        json!({"numbers": [0, -1, 1.5, 1e21, 1e-7, 9_007_199_254_740_991_u64, 5e-324]}),
        json!({"long": "0123456789abcdef".repeat(2_000)}),
        json!({"longer": "0123456789abcdef".repeat(20_000)}),
    ]
}

fn both_up(ours: &mut Running, foreign: &mut Running) {
    event_where(foreign, |event| event["event"] == "link" && event["peer"] == OURS);
    event_where(foreign, |event| event["event"] == "up" && event["peer"] == OURS);
    ours.event_where("peer-up", |event| event["peer"] == FOREIGN);
}

/// Reads on until this event. A refusal on the way is a failure.
fn event(foreign: &mut Running, name: &str) -> Value {
    let event = event_where(foreign, |event| {
        event["event"] == name || event["event"] == "rejected" || event["event"] == "refused"
    });
    assert_eq!(event["event"], name, "{event}");
    event
}

fn event_where(foreign: &mut Running, wanted: impl Fn(&Value) -> bool) -> Value {
    let mut passed = Vec::new();
    loop {
        let Some(event) = foreign.next(PATIENCE) else {
            panic!("what was waited for did not come in time, but: {passed:#?}");
        };
        if wanted(&event) {
            return event;
        }
        passed.push(event.to_string());
    }
}

fn foreign(host: &Host, name: &str, epoch: u64) -> Running {
    let python = std::env::var("IFMESH_PYTHON")
        .expect("IFMESH_PYTHON names no Python: `cargo xtask test` makes one and sets it");
    let peer = concat!(env!("CARGO_MANIFEST_DIR"), "/interop/cyclone_peer.py");
    let settings = json!({
        "agent": name,
        "key": identity(name).to_pkcs8_pem().as_str(),
        "trusted": { OURS: identity(OURS).public_key().to_hex() },
        "epoch": 1_700_000_000_000_u64 + epoch,
    });
    let mut foreign = Running::start(
        "cyclone",
        host.command(&python).arg(peer).arg(settings.to_string()),
    );
    event(&mut foreign, "registered");
    foreign
}

fn identity(name: &str) -> Identity {
    let mut seed = [0; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    Identity::from_seed(&seed)
}

const CHILD: &str = "IFMESH_INTEROP_DDS_EPOCH";

/// Our agent, in a process of its own, so that it can be killed: this test binary again.
fn ours(host: &Host, epoch: u64) -> Running {
    let program = std::env::current_exe().unwrap();
    let mut command = host.command(program.to_str().unwrap());
    // Its own lines begin after the harness's.
    command.args([
        "our_agent",
        "--exact",
        "--nocapture",
        "--test-threads=1",
        "--quiet",
    ]);
    command.env(CHILD, epoch.to_string());
    let mut ours = Running::start("ours", &mut command);
    ours.event("ready");
    ours
}

/// Not a test of its own: what `ours` starts.
#[test]
fn our_agent() {
    let Ok(epoch) = std::env::var(CHILD) else {
        return;
    };
    let epoch = 1_700_000_000_000 + epoch.parse::<u64>().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(agent(epoch));
}

fn tell(event: Value) {
    println!("\n{event}");
}

#[derive(Debug)]
struct Teller;

impl Observer for Teller {
    fn on_event(&self, event: &SessionEvent) {
        match event {
            SessionEvent::PeerUp { peer, .. } => tell(json!({"event": "peer-up", "peer": peer.as_str()})),
            SessionEvent::PeerDown { peer, .. } => tell(json!({"event": "peer-down", "peer": peer.as_str()})),
            SessionEvent::Rejected { rejected } => {
                tell(json!({"event": "rejected", "reason": rejected.reason.name()}));
            }
            _ => {}
        }
    }
}

async fn agent(epoch: u64) {
    let id = |name: &str| AgentId::new(name).unwrap();
    let keys = |peer: &AgentId| PeerTrust::Key(*identity(peer.as_str()).public_key());
    let agent = DdsAgent {
        agent: id(OURS),
        identity: identity(OURS),
        epoch,
        keys: Arc::new(keys),
    };
    let transport = DdsTransport::start(
        DdsConfig::default(),
        agent,
        Arc::new(SystemClock),
        ifmesh::random(),
    )
    .await
    .unwrap();
    let mut trust = TrustStore::new(TrustPolicy::Allowlist);
    for name in [OURS, FOREIGN, LATE] {
        trust
            .bind(id(name), *identity(name).public_key(), Permissions::ALL)
            .unwrap();
    }
    let mut config = SessionConfig::new(id(OURS), identity(OURS), trust, epoch);
    config.observer = Some(Arc::new(Teller));
    let carrier: Arc<dyn IfTransport> = Arc::clone(&transport) as _;
    let session = Arc::new(Session::start(
        carrier,
        config,
        Arc::new(SystemClock),
        ifmesh::random(),
    ));
    tell(json!({"event": "ready"}));

    let (lines, mut commands) = tokio::sync::mpsc::channel(1_000);
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                return;
            }
        }
    });
    let receiver = Arc::clone(&session);
    tokio::spawn(async move {
        while let Some(message) = receiver.recv().await {
            tell(json!({"event": "message", "payload": message.payload()}));
        }
    });
    while let Some(line) = commands.recv().await {
        let command: Value = serde_json::from_str(&line).unwrap();
        if let Some(to) = command["to"].as_str() {
            let draft = Draft::new(Destination::new(to).unwrap(), command["payload"].clone());
            let receipt = session.send(draft).await.unwrap();
            tokio::spawn(async move {
                receipt.acknowledged().await.unwrap();
                tell(json!({"event": "acknowledged"}));
            });
        } else if let Some(to) = command["forge"].as_str() {
            let genuine = signed(to, json!({"forged": false}), epoch);
            let forged = String::from_utf8(genuine).unwrap().replace("false", "true ");
            let envelope = Envelope::new(id(to), Lane::Reliable, forged.replace("true ", "true"));
            transport.send(envelope).await.unwrap();
        } else {
            let frame = signed("*", command["broadcast"].clone(), epoch);
            let envelope = Envelope::new(Destination::Everyone, Lane::Reliable, frame);
            transport.send(envelope).await.unwrap();
            tell(json!({"event": "broadcast"}));
        }
    }
}

/// A frame of one message, signed without the session.
fn signed(to: &str, payload: Value, epoch: u64) -> Vec<u8> {
    let draft = Draft::new(Destination::new(to).unwrap(), payload);
    let stamp = Stamp {
        id: MessageId::new("alone-1").unwrap(),
        source: AgentId::new(OURS).unwrap(),
        timestamp: Timestamp::from_unix_millis(now_millis()),
        epoch,
        sequence: 100_000,
    };
    let message = draft.stamp(stamp, &Limits::default()).unwrap();
    SignedMessage::sign(&identity(OURS), message).to_json()
}
