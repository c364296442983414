//! Every attack on a session, by a peer whose link is up and whose key is trusted, over every transport.
//!
//! Falsified by a payload that reaches the application, by an attack that is refused for another reason than its own or
//! without a report, and by a genuine message that does not arrive after it. One table, two transports.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use ifmesh_signaling::{Server, ServerConfig};
use ifmesh_transport::{
    Clock, Envelope, IfTransport, Lane, Observer, Session, SessionConfig, SessionEvent, SystemClock,
    TransportEvent, VirtualClock,
};
use ifmesh_transport_mem::simulate;
use ifmesh_transport_webrtc::{PeerTrust, WebRtcConfig, WebRtcTransport};
use ifmsg::{
    AgentId, DecodeError, Delivery, Destination, Draft, Identity, Level, MessageError, Permissions,
    Rejection, SignatureError, SignedMessage, Stamp, Timestamp, TrustError, TrustPolicy, TrustStore,
    canonical::Limits, encode_binary,
};
use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::{Map, Value, json};
use tokio::{sync::Notify, time::timeout};

/// Nothing here takes longer unless it never happens.
const SOON: Duration = Duration::from_secs(20);

/// The run in which the attacker says what is true of it.
const RUN: u64 = 50;

#[test]
fn over_the_mesh() {
    simulate(1, async |mesh| {
        let clock = Arc::new(VirtualClock::starting_at(Timestamp::from_unix_millis(
            1_795_348_800_000,
        )));
        let [victim, friend, attacker] = ["victim", "friend", "trudy"].map(|name| mesh.join(name).unwrap());
        withstand(clock, victim, friend, attacker).await;
    })
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn over_webrtc() {
    let config = ServerConfig::new("127.0.0.1:0".parse().unwrap(), id("server-1"));
    let server = Server::bind(config, StdRng::seed_from_u64(1)).await.unwrap();
    let url = format!("ws://{}", server.local_addr());
    let join = async |name: &str, seed| {
        let keys = |peer: &AgentId| PeerTrust::Key(*identity(peer.as_str()).public_key());
        let mut config = WebRtcConfig::new(id(name), identity(name), 1, [url.clone()], Arc::new(keys));
        config.bind = vec!["127.0.0.1:0".parse().unwrap()];
        let random = Box::new(StdRng::seed_from_u64(seed));
        WebRtcTransport::start(config, Arc::new(SystemClock), random)
            .await
            .unwrap()
    };
    let (victim, friend, attacker) = (
        join("victim", 2).await,
        join("friend", 3).await,
        join("trudy", 4).await,
    );
    withstand(Arc::new(SystemClock), victim, friend, attacker).await;
}

/// One attack: the frames that the attacker sends, and the one reason for which all of them are refused.
struct Attack {
    name: &'static str,
    /// Sent before, and delivered.
    first: Option<Bytes>,
    frames: Vec<Bytes>,
    reason: fn(&Reason) -> bool,
}

/// Why a frame or a message was refused.
#[derive(Debug)]
enum Reason {
    Rejected(Rejection),
    Malformed(DecodeError),
}

fn attacks(world: &World) -> Vec<Attack> {
    let own = |sequence: u64| world.message("trudy", "trudy", RUN, sequence, to_victim());
    let tree = |message: &SignedMessage| -> Map<String, Value> {
        serde_json::from_slice(&message.to_json()).unwrap()
    };
    let json = |tree: Map<String, Value>| Bytes::from(serde_json::to_vec(&tree).unwrap());
    let simple = |name, frame: Bytes, reason| Attack {
        name,
        first: None,
        frames: vec![frame],
        reason,
    };

    let flips = {
        let frame = binary(&own(900));
        let flip = |bit: usize| {
            let mut frame = frame.to_vec();
            frame[bit / 8] ^= 1 << (bit % 8);
            Bytes::from(frame)
        };
        (0..frame.len() * 8).map(flip).collect()
    };
    let json_flips = {
        let frame = own(901).to_json();
        // Every byte, one bit each: the encoding has room to be read leniently, and must not be.
        let flip = |at: usize| {
            let mut frame = frame.clone();
            frame[at] ^= 1 << (at % 8);
            Bytes::from(frame)
        };
        (0..frame.len()).map(flip).collect()
    };
    let shortened = {
        let mut tree = tree(&own(902));
        let fields = tree["signature"]["signed_fields"].as_array_mut().unwrap();
        fields.retain(|field| field != "payload");
        tree["payload"] = json!({ "forged": "more" });
        json(tree)
    };
    let twice = {
        let text = String::from_utf8(own(903).to_json()).unwrap();
        Bytes::from(text.replacen('{', r#"{"payload":{"forged":true},"#, 1))
    };
    let unsigned = {
        let mut tree = tree(&own(904));
        tree.remove("signature");
        json(tree)
    };
    let foreign_key = {
        let mut tree = tree(&own(905));
        tree["signature"]["public_key"] = json!(identity("mallory").public_key().to_hex());
        json(tree)
    };
    let algorithm = {
        let mut tree = tree(&own(906));
        tree["signature"]["algorithm"] = json!("none");
        json(tree)
    };
    let forged = {
        let mut tree = tree(&own(907));
        tree["payload"] = json!({ "forged": "more" });
        json(tree)
    };
    let number_zero = {
        let mut tree = tree(&own(908));
        tree["sequence_num"] = json!(0);
        json(tree)
    };
    let past = world.clock.now().plus_millis(-60_000);
    let old = |draft: Draft, source: &str, age: i64| {
        let stamp = Stamp {
            timestamp: world.clock.now().plus_millis(-age),
            ..world.stamp(source, RUN + 7, 1)
        };
        let message = draft.stamp(stamp, &Limits::default()).unwrap();
        binary(&SignedMessage::sign(&identity(source), message))
    };
    let captured = world
        .captured
        .0
        .lock()
        .unwrap()
        .first()
        .expect("the friend has spoken")
        .clone();

    vec![
        Attack {
            name: "any bit changed in a binary frame",
            first: None,
            frames: flips,
            // Which reason depends on the bit; that none is delivered does not.
            reason: |_| true,
        },
        Attack {
            name: "any byte changed in JSON",
            first: None,
            frames: json_flips,
            reason: |_| true,
        },
        simple("another payload under the signature", forged, |reason| {
            matches!(reason, Reason::Rejected(Rejection::BadSignature))
        }),
        simple(
            "a stranger's key under a trusted name",
            binary(&world.message("friend", "mallory", RUN, 1, to_victim())),
            |reason| {
                matches!(
                    reason,
                    Reason::Rejected(Rejection::Untrusted(TrustError::UnknownKey))
                )
            },
        ),
        simple(
            "a stranger's key beside a trusted signature",
            foreign_key,
            |reason| {
                matches!(
                    reason,
                    Reason::Rejected(Rejection::Untrusted(TrustError::UnknownKey))
                )
            },
        ),
        simple(
            "a trusted key under another's name",
            binary(&world.message("friend", "trudy", RUN, 1, to_victim())),
            |reason| {
                matches!(
                    reason,
                    Reason::Rejected(Rejection::Untrusted(TrustError::WrongSource))
                )
            },
        ),
        simple(
            "a trusted key under the victim's own name",
            binary(&world.message("victim", "trudy", RUN, 1, to_victim())),
            |reason| matches!(reason, Reason::Rejected(Rejection::FromOurselves)),
        ),
        simple(
            "a captured message, replayed in binary",
            binary(&captured),
            |reason| matches!(reason, Reason::Rejected(Rejection::Duplicate)),
        ),
        simple(
            "a captured message, replayed in JSON",
            captured.to_json().into(),
            |reason| matches!(reason, Reason::Rejected(Rejection::Duplicate)),
        ),
        simple(
            "expired",
            binary(&world.message("trudy", "trudy", RUN, 10, to_victim().expires(past))),
            |reason| matches!(reason, Reason::Rejected(Rejection::Expired(_))),
        ),
        simple(
            "signed_fields shortened, and the rest changed",
            shortened,
            |reason| {
                matches!(
                    reason,
                    Reason::Malformed(DecodeError::Signature(SignatureError::SignedFields))
                )
            },
        ),
        simple("a member twice", twice, |reason| {
            matches!(
                reason,
                Reason::Malformed(DecodeError::Message(MessageError::Canonical(_)))
            )
        }),
        simple("unsigned", unsigned, |reason| {
            matches!(reason, Reason::Malformed(DecodeError::Unsigned))
        }),
        simple("algorithm none", algorithm, |reason| {
            matches!(
                reason,
                Reason::Malformed(DecodeError::Signature(SignatureError::Algorithm))
            )
        }),
        simple("number 0", number_zero, |reason| {
            matches!(
                reason,
                Reason::Malformed(DecodeError::Message(MessageError::Field {
                    name: "sequence_num",
                    ..
                }))
            )
        }),
        simple(
            "no message at all",
            Bytes::from_static(b"\xff\x00GET /"),
            |reason| matches!(reason, Reason::Malformed(DecodeError::Message(_))),
        ),
        Attack {
            name: "of a run that is over",
            first: Some(binary(&own(20))),
            frames: vec![binary(&world.message("trudy", "trudy", RUN - 1, 1, to_victim()))],
            reason: |reason| matches!(reason, Reason::Rejected(Rejection::StaleEpoch)),
        },
        simple(
            "of a run that began an hour ago",
            old(to_victim(), "late", 3_600_000),
            |reason| matches!(reason, Reason::Rejected(Rejection::NotLive)),
        ),
        simple(
            "of a run that begins in an hour",
            old(to_victim(), "late", -3_600_000),
            |reason| matches!(reason, Reason::Rejected(Rejection::NotLive)),
        ),
        simple(
            "for somebody else",
            binary(&world.message("trudy", "trudy", RUN, 30, draft("friend"))),
            |reason| matches!(reason, Reason::Rejected(Rejection::NotForUs(_))),
        ),
        simple(
            "at a level that is not permitted",
            binary(&world.message("trudy", "trudy", RUN, 31, to_victim().level(Level::Module))),
            |reason| matches!(reason, Reason::Rejected(Rejection::LevelNotPermitted)),
        ),
        simple(
            "to everyone, which is not permitted",
            binary(&world.message("trudy", "trudy", RUN, 32, draft("*"))),
            |reason| matches!(reason, Reason::Rejected(Rejection::BroadcastNotPermitted)),
        ),
        Attack {
            name: "two things under one number",
            first: Some(binary(&own(40))),
            frames: vec![binary(
                &world.message(
                    "trudy",
                    "trudy",
                    RUN,
                    40,
                    Draft::new(id("victim").into(), json!({ "forged": "differently" }))
                        .delivery(Delivery::BestEffort),
                ),
            )],
            reason: |reason| matches!(reason, Reason::Rejected(Rejection::Equivocation)),
        },
        Attack {
            name: "a number that fell out of the window",
            first: Some(binary(&own(5_000))),
            frames: vec![binary(&own(41))],
            reason: |reason| matches!(reason, Reason::Rejected(Rejection::TooOld)),
        },
    ]
}

struct World {
    clock: Arc<dyn Clock>,
    captured: Arc<Tap>,
}

impl World {
    fn stamp(&self, source: &str, epoch: u64, sequence: u64) -> Stamp {
        Stamp {
            id: format!("a-{epoch}-{sequence}").as_str().try_into().unwrap(),
            source: id(source),
            timestamp: self.clock.now(),
            epoch,
            sequence,
        }
    }

    fn message(&self, source: &str, signer: &str, epoch: u64, sequence: u64, draft: Draft) -> SignedMessage {
        let message = draft.stamp(self.stamp(source, epoch, sequence), &Limits::default());
        SignedMessage::sign(&identity(signer), message.unwrap())
    }
}

async fn withstand(
    clock: Arc<dyn Clock>,
    victim: Arc<dyn IfTransport>,
    friend: Arc<dyn IfTransport>,
    attacker: Arc<dyn IfTransport>,
) {
    let refused = Arc::new(Refused::default());
    let captured = Arc::new(Tap::default());
    let start = |name: &str, transport, observer: Arc<dyn Observer>| {
        let mut config = SessionConfig::new(id(name), identity(name), trust(), 1);
        config.observer = Some(observer);
        let random = Box::new(StdRng::seed_from_u64(name.len() as u64));
        Session::start(transport, config, clock.clone(), random)
    };
    let (victim, friend) = (
        start("victim", victim, refused.clone()),
        start("friend", friend, captured.clone()),
    );
    while (timeout(SOON, attacker.recv())
        .await
        .expect("a link in time")
        .unwrap())
        != (TransportEvent::LinkUp { peer: id("victim") })
    {}
    // Its application does not answer, but it takes what comes.
    let listening = tokio::spawn({
        let attacker = attacker.clone();
        async move { while attacker.recv().await.is_ok() {} }
    });
    let strike = async |frame: Bytes| {
        let envelope = Envelope::new(id("victim"), Lane::Reliable, frame);
        timeout(SOON, attacker.send(envelope))
            .await
            .expect("room in time")
            .expect("a link");
    };
    let genuine = async |n: usize| {
        let draft = Draft::new(id("victim").into(), json!({ "genuine": n }));
        let receipt = friend.send(draft).await.unwrap();
        let message = timeout(SOON, victim.recv())
            .await
            .expect("a message in time")
            .unwrap();
        assert_eq!(
            (message.source().as_str(), message.payload()),
            ("friend", json!({ "genuine": n }))
        );
        timeout(SOON, receipt.acknowledged())
            .await
            .expect("an outcome in time")
            .unwrap();
    };

    genuine(0).await;
    let world = World {
        clock: clock.clone(),
        captured,
    };
    for (n, attack) in attacks(&world).into_iter().enumerate() {
        if let Some(first) = attack.first {
            strike(first).await;
            let message = timeout(SOON, victim.recv())
                .await
                .expect("a message in time")
                .unwrap();
            assert_eq!(message.source().as_str(), "trudy");
        }
        refused.0.lock().unwrap().clear();
        let count = attack.frames.len();
        for frame in attack.frames {
            strike(frame).await;
        }
        let reasons = timeout(SOON, refused.take(count)).await;
        let reasons = reasons.unwrap_or_else(|_| panic!("{}: not each of {count} is reported", attack.name));
        for reason in &reasons {
            assert!((attack.reason)(reason), "{}: refused as {reason:?}", attack.name);
        }
        genuine(n + 1).await;
        assert!(
            refused.0.lock().unwrap().is_empty(),
            "{}: reported twice",
            attack.name
        );
    }
    listening.abort();
}

/// The reasons for which the victim refused something.
#[derive(Debug, Default)]
struct Refused(Mutex<Vec<Reason>>, Notify);

impl Refused {
    /// That many.
    async fn take(&self, count: usize) -> Vec<Reason> {
        loop {
            let news = self.1.notified();
            {
                let mut reasons = self.0.lock().unwrap();
                if reasons.len() >= count {
                    return std::mem::take(&mut *reasons);
                }
            }
            news.await;
        }
    }
}

impl Observer for Refused {
    fn on_event(&self, event: &SessionEvent) {
        let reason = match event {
            SessionEvent::Rejected { rejected } => Reason::Rejected(rejected.reason.clone()),
            SessionEvent::Malformed { error, .. } => Reason::Malformed(error.clone()),
            _ => return,
        };
        self.0.lock().unwrap().push(reason);
        self.1.notify_one();
    }
}

/// What the friend said.
#[derive(Debug, Default)]
struct Tap(Mutex<Vec<SignedMessage>>);

impl Observer for Tap {
    fn on_event(&self, event: &SessionEvent) {
        if let SessionEvent::Sent { flight, .. } = event {
            let messages = flight.messages.iter().map(|(message, _)| message);
            let reliable = messages.filter(|message| message.header().delivery == Delivery::Reliable);
            self.0.lock().unwrap().extend(reliable.cloned());
        }
    }
}

fn id(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

fn identity(name: &str) -> Identity {
    let mut seed = [9; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    Identity::from_seed(&seed)
}

fn trust() -> TrustStore {
    let mut trust = TrustStore::new(TrustPolicy::Allowlist);
    for name in ["victim", "friend", "late"] {
        trust
            .bind(id(name), *identity(name).public_key(), Permissions::ALL)
            .unwrap();
    }
    let restricted = Permissions {
        module_level: false,
        broadcast: false,
        ..Permissions::ALL
    };
    trust
        .bind(id("trudy"), *identity("trudy").public_key(), restricted)
        .unwrap();
    trust
}

fn draft(to: &str) -> Draft {
    Draft::new(Destination::new(to).unwrap(), json!({ "forged": true })).delivery(Delivery::BestEffort)
}

fn to_victim() -> Draft {
    draft("victim")
}

fn binary(message: &SignedMessage) -> Bytes {
    encode_binary(std::slice::from_ref(message)).unwrap()
}
