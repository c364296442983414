//! A small world for tests: two agents, a stranger, a clock, and shortcuts to sign and to admit.
#![allow(dead_code, reason = "each test binary uses its own part")]

use std::time::Duration;

use bytes::Bytes;
use ifmsg::{
    Admission, Admitted, AgentId, DEFAULT_MAX_AGE, DecodeError, Draft, Header, Host, Identity, Now,
    Permissions, RejectedMessage, Rejection, SignedMessage, Stamp, Timestamp, TrustPolicy, TrustStore,
    UnsignedMessage, UnverifiedFlight, VerifiedMessage, canonical::Limits, decode, sign_flight,
};
use serde_json::{Map, Value, json};

/// 2026-11-22T14:10:00.000Z, the present of every test.
pub(crate) const NOW_MILLIS: i64 = 1_795_356_600_000;

pub(crate) fn now() -> Now {
    now_after(Duration::ZERO)
}

/// Both clocks have moved on.
pub(crate) fn now_after(passed: Duration) -> Now {
    Now {
        wall: Timestamp::from_unix_millis(NOW_MILLIS).plus_millis(passed.as_millis() as i64),
        elapsed: Duration::from_secs(1_000) + passed,
    }
}

pub(crate) fn id(text: &str) -> AgentId {
    AgentId::new(text).expect("an id")
}

/// Alice is trusted, Bob receives, Carol is trusted as somebody else, Mallory is a stranger.
pub(crate) fn alice() -> Identity {
    Identity::from_seed(&[1; 32])
}

pub(crate) fn carol() -> Identity {
    Identity::from_seed(&[3; 32])
}

pub(crate) fn mallory() -> Identity {
    Identity::from_seed(&[66; 32])
}

pub(crate) fn trust() -> TrustStore {
    let mut trust = TrustStore::new(TrustPolicy::Allowlist);
    for (name, identity) in [("alice", alice()), ("carol", carol())] {
        trust
            .bind(id(name), *identity.public_key(), Permissions::ALL)
            .expect("no collision");
    }
    trust
}

/// Bob's gate.
pub(crate) fn bob() -> Admission {
    gate(trust())
}

pub(crate) fn gate(trust: TrustStore) -> Admission {
    Admission::new(id("bob"), trust, DEFAULT_MAX_AGE)
}

/// Room for everything, no nonce out.
pub(crate) struct Open;

impl Host for Open {
    fn has_room(&self, _: &Header) -> bool {
        true
    }
    fn proves_liveness(&self, _: &SignedMessage) -> bool {
        false
    }
}

pub(crate) fn stamp(source: &str, epoch: u64, sequence: u64) -> Stamp {
    Stamp {
        id: format!("m-{epoch}-{sequence}")
            .as_str()
            .try_into()
            .expect("an id"),
        source: id(source),
        timestamp: Timestamp::from_unix_millis(NOW_MILLIS),
        epoch,
        sequence,
    }
}

pub(crate) fn to_bob(payload: Value) -> Draft {
    Draft::new(id("bob").into(), payload)
}

pub(crate) fn unsigned(draft: Draft, epoch: u64, sequence: u64) -> UnsignedMessage {
    draft
        .stamp(stamp("alice", epoch, sequence), &Limits::default())
        .expect("a message")
}

/// Alice's message to Bob.
pub(crate) fn message(epoch: u64, sequence: u64) -> SignedMessage {
    let draft = to_bob(json!({ "claim": "settled", "number": sequence }));
    SignedMessage::sign(&alice(), unsigned(draft, epoch, sequence))
}

/// A flight of Alice's to Bob, numbered from 1.
pub(crate) fn flight(size: u64) -> Vec<SignedMessage> {
    let drafts = (1..=size).map(|n| unsigned(to_bob(json!({ "n": n })), 1, n));
    sign_flight(&alice(), drafts.collect()).expect("a size in range")
}

pub(crate) fn read(frame: impl Into<Bytes>) -> Result<UnverifiedFlight, DecodeError> {
    decode(&frame.into(), &Limits::default())
}

/// What became of the only message of a frame.
pub(crate) fn admit(gate: &mut Admission, frame: impl Into<Bytes>) -> Result<VerifiedMessage, Rejection> {
    let mut all = admit_all(gate, frame);
    assert!(all.len() <= 1, "one message at most");
    all.pop()
        .expect("one message")
        .map_err(|rejected| rejected.reason)
}

/// What became of each message of a frame; a frame that cannot be read is one rejection.
pub(crate) fn admit_all(
    gate: &mut Admission,
    frame: impl Into<Bytes>,
) -> Vec<Result<VerifiedMessage, Refusal>> {
    admit_at(gate, frame, now())
}

pub(crate) fn admit_at(
    gate: &mut Admission,
    frame: impl Into<Bytes>,
    now: Now,
) -> Vec<Result<VerifiedMessage, Refusal>> {
    match read(frame) {
        Err(error) => vec![Err(Refusal {
            reason: error.into(),
            rejected: None,
        })],
        Ok(flight) => gate.admit(&flight, now, &Open).into_iter().map(outcome).collect(),
    }
}

pub(crate) fn outcome(admitted: Admitted) -> Result<VerifiedMessage, Refusal> {
    match admitted {
        Admitted::Message { message, .. } => Ok(message),
        Admitted::Rejected(rejected) => Err(Refusal {
            reason: rejected.reason.clone(),
            rejected: Some(Box::new(rejected)),
        }),
        other => panic!("unknown outcome {other:?}"),
    }
}

/// A rejection, and what the gate told of it.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) reason: Rejection,
    pub(crate) rejected: Option<Box<RejectedMessage>>,
}

/// A JSON message as a tree, to be changed.
pub(crate) fn tree(message: &SignedMessage) -> Map<String, Value> {
    serde_json::from_slice(&message.to_json()).expect("JSON")
}

pub(crate) fn bytes(tree: &Map<String, Value>) -> Bytes {
    serde_json::to_vec(tree).expect("JSON").into()
}

/// Signs any object by the letter of the protocol, without help from the crate: what an attacker, or a sender with a bug, can
/// make. The members of `tree` are the body; a `signature` in it is replaced.
pub(crate) fn sign_by_hand(seed: [u8; 32], tree: &Map<String, Value>) -> Map<String, Value> {
    use ed25519_dalek::Signer as _;
    use sha2::{Digest as _, Sha256};

    let mut tree = tree.clone();
    tree.remove("signature");
    let body = ifmsg::canonical::to_canonical(&tree, &Limits::default()).expect("I-JSON");
    let root: [u8; 32] = Sha256::new()
        .chain_update([0])
        .chain_update(&body)
        .finalize()
        .into();
    let key = ed25519_dalek::SigningKey::from_bytes(&seed);
    let public = key.verifying_key().to_bytes();
    let signature = key.sign(&signed_bytes(&public, 1, &root)).to_bytes();
    let mut fields: Vec<&String> = tree.keys().collect();
    fields.sort();
    let signature = json!({
        "algorithm": "ed25519",
        "public_key": hex(&public),
        "signature_bytes": hex(&signature),
        "signed_fields": fields,
    });
    tree.insert("signature".to_owned(), signature);
    tree
}

/// `S = "IFMESH-SIG\0" || 0x01 || key_id[8] || n: u32 BE || root[32]`
pub(crate) fn signed_bytes(public_key: &[u8; 32], size: u32, root: &[u8; 32]) -> Vec<u8> {
    use sha2::{Digest as _, Sha256};
    let key_id = Sha256::new()
        .chain_update(b"IFMESH-KEY\0\x01")
        .chain_update(public_key)
        .finalize();
    [b"IFMESH-SIG\0\x01", &key_id[..8], &size.to_be_bytes(), root].concat()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
