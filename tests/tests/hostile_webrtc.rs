//! An agent with a witness, a friend of its, and a peer with a good key that does everything wrong: a flood of offers, handshakes
//! that it never ends, ten thousand candidates, garbage on the channel, and a hundred thousand frames that it begins and never
//! ends. Our own library begins no such frame, so that peer is another one: tests/interop/aiortc_peer.py.
//!
//! Falsified by one of these that is not on record with its reason, by sockets or memory that grow with what the peer sends, or by
//! a message between the friends that does not arrive meanwhile.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

use std::{collections::BTreeSet, fs, path::Path, process::Command, sync::Arc, time::Duration};

use bytes::Bytes;
use ifmesh::{Witness, WitnessConfig, WitnessPolicy};
use ifmesh_signaling::{
    Client, ClientConfig, DescriptionToSign, IceCandidate, Role, Server, ServerConfig, SessionId, Signal,
    sign_description,
};
use ifmesh_tests::{
    internet::now,
    interop::{aiortc, at_loopback, settings},
    program::{PATIENCE, Running, ifmesh, init},
};
use ifmesh_transport::{
    Clock as _, Envelope, IfTransport as _, Lane, LinkObserver, Observer, PeerTrust, Session, SessionConfig,
    SystemClock,
};
use ifmesh_transport_webrtc::{WebRtcConfig, WebRtcTransport};
use ifmsg::{AgentId, Draft, Identity, Permissions, TrustPolicy, TrustStore};
use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);
const OFFERS: u64 = 300;
const CANDIDATES: u16 = 10_000;
const GARBAGE: usize = 500;
const BEGUN: u64 = 100_000;

/// In good order, and nobody is behind it.
const SDP: &str = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
    m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\na=sendrecv\r\n\
    a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\na=setup:actpass\r\n\
    a=fingerprint:sha-256 11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00\r\n\
    a=sctp-port:5000\r\na=max-message-size:262144\r\n";

fn id(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

fn identity(name: &str) -> Identity {
    Identity::from_seed(&[name.as_bytes()[0]; 32])
}

fn random(seed: u64) -> StdRng {
    StdRng::seed_from_u64(seed)
}

fn trust() -> TrustStore {
    let mut trust = TrustStore::new(TrustPolicy::Allowlist);
    for name in ["alice", "bob", "mallory", "trudy"] {
        trust
            .bind(id(name), *identity(name).public_key(), Permissions::ALL)
            .unwrap();
    }
    trust
}

async fn join(url: &str, name: &str, observer: Option<Arc<dyn LinkObserver>>) -> Arc<WebRtcTransport> {
    let keys = |peer: &AgentId| PeerTrust::Key(*identity(peer.as_str()).public_key());
    let mut config = WebRtcConfig::new(id(name), identity(name), 1, [url], Arc::new(keys));
    config.bind = vec!["127.0.0.1:0".parse().unwrap()];
    config.limits.handshake_timeout = Duration::from_secs(1);
    config.observer = observer;
    WebRtcTransport::start(config, Arc::new(SystemClock), Box::new(random(2)))
        .await
        .unwrap()
}

fn session(name: &str, transport: Arc<WebRtcTransport>, observer: Option<Arc<dyn Observer>>) -> Session {
    let mut config = SessionConfig::new(id(name), identity(name), trust(), 1);
    config.observer = observer;
    Session::start(transport, config, Arc::new(SystemClock), Box::new(random(3)))
}

fn files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}

/// (peer, reason) of each refusal that is on record.
fn refusals(log: &Path) -> BTreeSet<(String, String)> {
    let text = fs::read_to_string(log.join("00000000.jsonl")).unwrap();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    let lines = whole.lines().map(|line| serde_json::from_str(line).unwrap());
    lines
        .filter(|line: &Value| line["event"] == "link_refused" || line["event"] == "ifmessage_rejected")
        .map(|line| {
            let member = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (member(&line["peer_id"]), member(&line["metadata"]["reason"]))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_hostile_peer_does_is_on_record_and_harms_nobody_else() {
    let config = ServerConfig::new("127.0.0.1:0".parse().unwrap(), id("server-1"));
    let server = Server::bind(config, random(1)).await.unwrap();
    let url = format!("ws://{}", server.local_addr());
    let folder = tempfile::tempdir().unwrap();
    let witness = WitnessConfig::new(folder.path(), WitnessPolicy::Required);
    let clock = Arc::new(SystemClock);
    let (witness, _) = Witness::open(&witness, &id("alice"), &identity("alice"), "webrtc", clock)
        .await
        .unwrap();
    let witness = Arc::new(witness);
    let alice = session(
        "alice",
        join(&url, "alice", Some(witness.clone())).await,
        Some(witness.clone()),
    );
    let bob = session("bob", join(&url, "bob", None).await, None);
    let mut said = 0;
    let mut talk = async || {
        said += 1;
        let draft = Draft::new(id("alice").into(), json!({ "said": said }));
        let receipt = bob.send(draft).await.unwrap();
        let heard = timeout(SOON, alice.recv())
            .await
            .expect("a message in time")
            .unwrap();
        assert_eq!(
            (heard.source(), &heard.payload()["said"]),
            (&id("bob"), &json!(said))
        );
        timeout(SOON, receipt.acknowledged())
            .await
            .expect("an outcome in time")
            .unwrap();
    };
    talk().await;
    let at_first = files();

    // Offers that verify, faster than anybody needs them; what is under way when they end is never followed up.
    let config = ClientConfig::new([&url], id("mallory"), identity("mallory"), 1);
    let mallory = Client::connect(config, random(4)).unwrap();
    for number in 0..OFFERS {
        let to_sign = DescriptionToSign {
            from: &id("mallory"),
            to: &id("alice"),
            session: SessionId::random(&mut random(1_000 + number)),
            role: Role::Offer,
            epoch: 1,
            sdp: SDP,
            expires: SystemClock.now().plus_millis(30_000),
        };
        let statement = sign_description(&identity("mallory"), &to_sign).unwrap();
        let offer = Signal::Offer {
            sdp: SDP.to_owned(),
            statement: Some(Box::new(statement)),
        };
        mallory.send(id("alice"), offer).await.unwrap();
        if number % 50 == 0 {
            talk().await;
        }
    }
    assert!(files() < at_first + 60, "{} and {at_first} at first", files());
    for number in 0..CANDIDATES {
        let candidate = IceCandidate {
            candidate: format!("candidate:1 1 udp 1 127.0.0.1 {} typ host", 1_024 + number),
            ..IceCandidate::default()
        };
        mallory
            .send(id("alice"), Signal::Candidate(candidate))
            .await
            .unwrap();
        if number % 1_000 == 0 {
            talk().await;
        }
    }
    assert!(files() < at_first + 60, "{} and {at_first} at first", files());

    // And one with a link, over which comes what is no flight.
    let trudy = join(&url, "trudy", None).await;
    let linked = async {
        while !trudy
            .links()
            .iter()
            .any(|link| link.peer == id("alice") && link.state == ifmesh_transport::LinkState::Up)
        {
            trudy.recv().await.unwrap();
        }
    };
    timeout(SOON, linked).await.expect("a link in time");
    for number in 0..GARBAGE {
        let garbage = Bytes::from(vec![number as u8; number]);
        let envelope = Envelope::new(id("alice"), Lane::Reliable, garbage);
        timeout(SOON, trudy.send(envelope))
            .await
            .expect("room in time")
            .unwrap();
        if number % 50 == 0 {
            talk().await;
        }
    }
    talk().await;

    let expected = [
        ("mallory", "too-many-offers"),
        ("mallory", "handshake-unfinished"),
        ("mallory", "too-many-candidates"),
        ("trudy", "malformed"),
    ];
    let recorded = async {
        loop {
            let found = refusals(folder.path());
            let is_there =
                |(peer, reason): &(&str, &str)| found.contains(&((*peer).to_owned(), (*reason).to_owned()));
            if expected.iter().all(is_there) {
                break;
            }
            if !found.is_empty() {
                println!("{found:?}");
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    timeout(SOON, recorded)
        .await
        .unwrap_or_else(|_| panic!("not all of {expected:?} are in {:?}", refusals(folder.path())));
}

/// What a process holds in memory, in KiB.
fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

/// Programs, all three. Of what mallory begins, alice keeps 16 frames, refuses the next by name, and after 64 refusals ends the link.
#[test]
fn frames_that_are_begun_and_never_ended_are_on_record_and_harm_nobody_else() {
    let folder = tempfile::tempdir().unwrap();
    let swarm = folder.path().join("swarm");
    init(&swarm, &["alice", "bob", "mallory"], "ws://127.0.0.1:1");
    let (_server, url) = Running::signaling(Command::new(ifmesh()), "127.0.0.1:0", &swarm.join("trust.toml"));
    let agent = |name: &str| {
        at_loopback(&swarm, name, &url);
        Running::agent(Command::new(ifmesh()), &swarm, name)
    };
    let (mut alice, mut bob) = (agent("alice"), agent("bob"));
    let mut mallory = aiortc(&settings(&swarm, "mallory", &url));
    mallory.event_where("up", |event| event["peer"] == "alice");
    let mut absent = BTreeSet::from(["bob", "mallory"]);
    while !absent.is_empty() {
        let up = alice.event("peer-up");
        absent.remove(up["peer"].as_str().unwrap());
    }
    let before = resident(alice.id());

    mallory.say(&json!({"do": "begin", "peer": "alice", "frames": BEGUN}));
    let is_end = |event: &Value| event["event"] == "peer-down" && event["peer"] == "mallory";
    let (mut said, mut ended) = (0, false);
    let begun = loop {
        said += 1;
        bob.say(&json!({"to": "alice", "payload": {"said": said}}));
        let heard = loop {
            let event = alice.next(PATIENCE).expect("what bob said, in time");
            ended |= is_end(&event);
            if event["event"] == "message" {
                break event["message"].clone();
            }
        };
        assert_eq!(
            (&heard["source"], &heard["payload"]["said"]),
            (&json!("bob"), &json!(said))
        );
        bob.event("acknowledged");
        let grown = resident(alice.id()).saturating_sub(before);
        assert!(grown < 16 << 10, "{grown} KiB more than before");
        if let Some(event) = mallory.next(Duration::from_millis(1))
            && event["event"] == "begun"
        {
            break event["frames"].as_u64().unwrap();
        }
    };
    // All that alice ever took of them.
    assert!(begun >= 80, "{begun} went out before the link ended");
    if !ended {
        alice.event_where("peer-down", is_end);
    }

    let refusal = ("mallory".to_owned(), "chunk-too-many".to_owned());
    let log = swarm.join("state/alice/witness");
    let started = now();
    while !refusals(&log).contains(&refusal) {
        assert!(
            started.elapsed() < PATIENCE,
            "only {:?} is on record",
            refusals(&log)
        );
        std::thread::sleep(Duration::from_millis(100));
    }
}
