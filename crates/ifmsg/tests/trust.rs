//! Who may speak for whom: the three policies, rotation, revocation, what a restart keeps, and bounds.
//!
//! Falsified by a message that is admitted under a key that the policy does not name for its source, by a change of key without
//! both signatures, by a revoked key that is taken again, or by state that a stranger can make grow.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "support/world.rs"]
mod world;

use ifmsg::{
    Admission, BadSignature, Identity, InvalidPublicKey, MAX_LEARNT, Permissions, Rejection, Revocation,
    Rotation, RotationError, SignedMessage, Timestamp, TrustDocument, TrustDocumentError, TrustError,
    TrustPolicy, TrustStore, encode_binary, sign_flight,
};
use serde_json::json;
use world::*;

fn identity(n: u64) -> Identity {
    let mut seed = [0x77; 32];
    seed[..8].copy_from_slice(&n.to_be_bytes());
    Identity::from_seed(&seed)
}

/// A message of `source`, signed by `identity`.
fn from(source: &str, identity: &Identity, sequence: u64) -> SignedMessage {
    let message = to_bob(json!({})).stamp(stamp(source, 1, sequence), &Default::default());
    SignedMessage::sign(identity, message.unwrap())
}

fn says(gate: &mut Admission, source: &str, identity: &Identity, sequence: u64) -> Result<(), &'static str> {
    let outcome = admit(gate, from(source, identity, sequence).to_json());
    outcome.map(drop).map_err(|reason| reason.name())
}

fn says_in_binary(
    gate: &mut Admission,
    source: &str,
    identity: &Identity,
    sequence: u64,
) -> Result<(), &'static str> {
    let frame = encode_binary(&[from(source, identity, sequence)]).unwrap();
    admit(gate, frame).map(drop).map_err(|reason| reason.name())
}

fn when() -> Timestamp {
    now().wall
}

/// Out to a file and back.
fn through_a_file(store: &TrustStore) -> TrustStore {
    let document = TrustDocument::from(store);
    let text = serde_json::to_string(&document).unwrap();
    let read: TrustDocument = serde_json::from_str(&text).unwrap();
    assert_eq!(read, document);
    let store = TrustStore::try_from(&read).unwrap();
    assert_eq!(TrustDocument::from(&store), document);
    store
}

#[test]
fn allowlist_takes_the_bound_key_and_no_other() {
    let mut gate = bob();
    assert_eq!(says(&mut gate, "alice", &alice(), 1), Ok(()));
    assert_eq!(says_in_binary(&mut gate, "alice", &alice(), 2), Ok(()));
    assert_eq!(says(&mut gate, "alice", &carol(), 3), Err("wrong-source"));
    assert_eq!(says(&mut gate, "alice", &mallory(), 3), Err("unknown-key"));
    assert_eq!(says(&mut gate, "mallory", &mallory(), 1), Err("unknown-key"));
    assert_eq!(says(&mut gate, "mallory", &alice(), 1), Err("wrong-source"));
    // A name that names its own key is not enough here.
    let did = mallory().public_key().to_did_key();
    assert_eq!(says(&mut gate, &did, &mallory(), 1), Err("unknown-key"));
    // Taken away, and bound anew to another key.
    assert!(gate.trust_mut().unbind(&id("alice")));
    assert!(!gate.trust_mut().unbind(&id("alice")));
    assert_eq!(says(&mut gate, "alice", &alice(), 4), Err("unknown-key"));
    gate.trust_mut()
        .bind(id("alice"), *mallory().public_key(), Permissions::ALL)
        .unwrap();
    assert_eq!(says(&mut gate, "alice", &mallory(), 1), Ok(()));
    assert_eq!(says(&mut gate, "alice", &alice(), 5), Err("unknown-key"));
}

#[test]
fn one_key_may_speak_for_several_names_and_each_can_be_taken_away() {
    let mut store = trust();
    store
        .bind(id("alice-2"), *alice().public_key(), Permissions::ALL)
        .unwrap();
    let mut gate = gate(store);
    assert_eq!(says(&mut gate, "alice-2", &alice(), 1), Ok(()));
    gate.trust_mut().unbind(&id("alice-2"));
    assert_eq!(
        says(&mut gate, "alice", &alice(), 2),
        Ok(()),
        "the key is still known"
    );
    assert_eq!(says(&mut gate, "alice-2", &alice(), 3), Err("wrong-source"));
}

#[test]
fn tofu_pins_the_first_key_that_verifies_and_refuses_a_change() {
    let mut gate = gate(TrustStore::new(TrustPolicy::Tofu));
    assert_eq!(
        says_in_binary(&mut gate, "alice", &alice(), 1),
        Err("needs-introduction")
    );
    // A signature that does not verify pins nothing.
    let mut forged = from("alice", &mallory(), 1).to_json();
    let name = b"\"signature_bytes\":\"";
    let at = forged
        .windows(name.len())
        .position(|window| window == name)
        .unwrap();
    let digit = &mut forged[at + 30];
    *digit = if *digit == b'0' { b'1' } else { b'0' };
    assert_eq!(admit(&mut gate, forged).unwrap_err(), Rejection::BadSignature);
    assert_eq!(gate.trust().bindings().len(), 0);

    let flight = read(from("alice", &alice(), 1).to_json()).unwrap();
    let admitted = gate.admit(&flight, now(), &Open).pop().unwrap();
    assert!(matches!(
        admitted,
        ifmsg::Admitted::Message {
            pinned: true,
            opened_epoch: true,
            ..
        }
    ));
    let binding = gate.trust().binding(&id("alice")).unwrap();
    assert_eq!((binding.key, binding.learnt), (*alice().public_key(), true));

    // From now on its short name is enough, and nobody else is Alice: not now, and not after a restart.
    assert_eq!(says_in_binary(&mut gate, "alice", &alice(), 2), Ok(()));
    for sequence in 3..6 {
        assert_eq!(says(&mut gate, "alice", &mallory(), sequence), Err("key-changed"));
        assert_eq!(
            says_in_binary(&mut gate, "alice", &mallory(), sequence),
            Err("key-changed")
        );
        let restarted = through_a_file(gate.trust());
        assert_eq!(restarted.policy(), TrustPolicy::Tofu);
        *gate.trust_mut() = restarted;
    }
    assert_eq!(says(&mut gate, "alice", &alice(), 7), Ok(()));
}

#[test]
fn tofu_lets_nobody_pin_a_name_that_names_another_key() {
    let mut gate = gate(TrustStore::new(TrustPolicy::Tofu));
    let did = alice().public_key().to_did_key();
    assert_eq!(says(&mut gate, &did, &mallory(), 1), Err("unknown-key"));
    assert_eq!(
        says(&mut gate, "did:key:z6MkNobody", &mallory(), 1),
        Err("unknown-key")
    );
    assert_eq!(says(&mut gate, &did, &alice(), 1), Ok(()));
}

#[test]
fn tofu_learns_no_unusable_key() {
    let mut gate = gate(TrustStore::new(TrustPolicy::Tofu));
    for key in [format!("01{}", "00".repeat(31)), "02".repeat(32)] {
        let mut tree = tree(&from("alice", &alice(), 1));
        tree["signature"]["public_key"] = json!(key);
        assert_eq!(admit(&mut gate, bytes(&tree)).unwrap_err().name(), "unknown-key");
    }
    assert_eq!(gate.trust().bindings().len(), 0);
}

#[test]
fn self_certifying_names_prove_themselves_and_others_need_a_binding() {
    let mut store = TrustStore::new(TrustPolicy::SelfCertifying);
    store
        .bind(id("carol"), *carol().public_key(), Permissions::ALL)
        .unwrap();
    let mut gate = gate(store);
    let did = alice().public_key().to_did_key();
    // Even the short name of a binary frame is enough: the source names the key.
    assert_eq!(says_in_binary(&mut gate, &did, &alice(), 1), Ok(()));
    assert_eq!(says(&mut gate, &did, &alice(), 2), Ok(()));
    assert!(gate.trust().binding(&id(&did)).unwrap().learnt);
    assert_eq!(says(&mut gate, &did, &mallory(), 3), Err("key-changed"));
    assert_eq!(
        says(&mut gate, &mallory().public_key().to_did_key(), &alice(), 3),
        Err("wrong-source")
    );
    assert_eq!(
        says(&mut gate, &carol().public_key().to_did_key(), &mallory(), 3),
        Err("unknown-key")
    );
    assert_eq!(says(&mut gate, "alice", &alice(), 3), Err("wrong-source"));
    assert_eq!(says(&mut gate, "mallory", &mallory(), 3), Err("unknown-key"));
    assert_eq!(says(&mut gate, "carol", &carol(), 1), Ok(()));
}

#[test]
fn rotation_needs_both_keys_and_starts_from_the_current_one() {
    let mut gate = bob();
    let (old, new) = (alice(), identity(1));
    let rotation = Rotation::sign(id("alice"), &old, &new, when());
    let refused = |gate: &mut Admission, change: &dyn Fn(&mut Rotation)| {
        let mut changed = rotation.clone();
        change(&mut changed);
        gate.trust_mut().rotate(&changed).unwrap_err()
    };
    let bad = RotationError::BadSignature(BadSignature);
    assert_eq!(refused(&mut gate, &|r| r.signature_from = r.signature_to), bad);
    assert_eq!(refused(&mut gate, &|r| r.signature_to = r.signature_from), bad);
    assert_eq!(
        refused(&mut gate, &|r| r.timestamp = r.timestamp.plus_millis(1)),
        bad
    );
    assert_eq!(refused(&mut gate, &|r| r.to = *mallory().public_key()), bad);
    assert_eq!(
        refused(&mut gate, &|r| r.agent = id("carol")),
        RotationError::NotCurrent
    );
    assert_eq!(
        refused(&mut gate, &|r| r.agent = id("dave")),
        RotationError::UnknownAgent
    );
    let stolen = Rotation::sign(id("alice"), &mallory(), &new, when());
    assert_eq!(gate.trust_mut().rotate(&stolen), Err(RotationError::NotCurrent));
    assert_eq!(
        says(&mut gate, "alice", &old, 1),
        Ok(()),
        "nothing has changed yet"
    );

    gate.trust_mut().rotate(&rotation).unwrap();
    assert_eq!(says(&mut gate, "alice", &new, 1), Ok(()));
    assert_eq!(says_in_binary(&mut gate, "alice", &new, 2), Ok(()));
    assert_eq!(says(&mut gate, "alice", &old, 2), Err("unknown-key"));
    assert_eq!(
        gate.trust_mut().rotate(&rotation),
        Err(RotationError::NotCurrent),
        "it works once"
    );
}

#[test]
fn rotation_keeps_what_the_agent_may_do_and_never_leads_to_a_revoked_key() {
    let permissions = Permissions {
        broadcast: false,
        ..Permissions::ALL
    };
    let mut store = TrustStore::new(TrustPolicy::Allowlist);
    store
        .bind(id("alice"), *alice().public_key(), permissions)
        .unwrap();
    store
        .rotate(&Rotation::sign(id("alice"), &alice(), &identity(1), when()))
        .unwrap();
    assert_eq!(store.binding(&id("alice")).unwrap().permissions, permissions);
    let gone = identity(2);
    store
        .revoke(&Revocation::sign(&gone, *gone.public_key(), when()))
        .unwrap();
    let to_gone = Rotation::sign(id("alice"), &identity(1), &gone, when());
    assert_eq!(store.rotate(&to_gone), Err(RotationError::Unusable));
    assert_eq!(
        store.binding(&id("alice")).unwrap().key,
        *identity(1).public_key()
    );
}

#[test]
fn a_key_revokes_itself_for_good() {
    let mut gate = bob();
    gate.trust_mut()
        .bind(id("alice-2"), *alice().public_key(), Permissions::ALL)
        .unwrap();
    let by_another = Revocation::sign(&carol(), *alice().public_key(), when());
    assert_eq!(gate.trust_mut().revoke(&by_another), Err(BadSignature));
    let mut redated = Revocation::sign(&alice(), *alice().public_key(), when());
    redated.timestamp = when().plus_millis(1);
    assert_eq!(gate.trust_mut().revoke(&redated), Err(BadSignature));
    assert_eq!(says(&mut gate, "alice", &alice(), 1), Ok(()));

    gate.trust_mut()
        .revoke(&Revocation::sign(&alice(), *alice().public_key(), when()))
        .unwrap();
    for _ in 0..2 {
        for name in ["alice", "alice-2", "dave"] {
            assert_eq!(says(&mut gate, name, &alice(), 2), Err("revoked-key"), "{name}");
            assert_eq!(
                says_in_binary(&mut gate, name, &alice(), 2),
                Err("revoked-key"),
                "{name}"
            );
        }
        let again = gate
            .trust_mut()
            .bind(id("alice"), *alice().public_key(), Permissions::ALL);
        assert_eq!(again, Err(TrustError::Revoked));
        // And after a restart.
        let restarted = through_a_file(gate.trust());
        *gate.trust_mut() = restarted;
    }
    assert_eq!(says(&mut gate, "carol", &carol(), 1), Ok(()));
}

#[test]
fn the_root_revokes_any_key_until_it_is_revoked_itself() {
    let root = identity(9);
    let mut store = trust();
    store.set_root(Some(*root.public_key()));
    let mut store = through_a_file(&store);
    store
        .revoke(&Revocation::sign(&root, *alice().public_key(), when()))
        .unwrap();
    assert!(store.binding(&id("alice")).is_none());
    // A stranger's key as well: it may be met later.
    store
        .revoke(&Revocation::sign(&root, *mallory().public_key(), when()))
        .unwrap();
    let bound = store.bind(id("mallory"), *mallory().public_key(), Permissions::ALL);
    assert_eq!(bound, Err(TrustError::Revoked));
    store
        .revoke(&Revocation::sign(&root, *root.public_key(), when()))
        .unwrap();
    let after = Revocation::sign(&root, *carol().public_key(), when());
    assert_eq!(store.revoke(&after), Err(BadSignature));
    assert!(store.binding(&id("carol")).is_some());
}

#[test]
fn strangers_leave_nothing_behind() {
    for policy in [
        TrustPolicy::Allowlist,
        TrustPolicy::Tofu,
        TrustPolicy::SelfCertifying,
    ] {
        let mut gate = gate(TrustStore::new(policy));
        let mut frame = encode_binary(&[from("alice", &alice(), 1)]).unwrap().to_vec();
        for n in 0u64..100_000 {
            frame[8..16].copy_from_slice(&n.to_be_bytes());
            assert!(admit(&mut gate, frame.clone()).is_err());
        }
        assert!(gate.replay().is_empty(), "{policy:?}");
        assert_eq!(gate.trust().bindings().len(), 0, "{policy:?}");
    }
}

#[test]
fn no_more_is_learnt_than_there_is_room_for_even_from_one_flight() {
    let mut document = TrustDocument {
        policy: TrustPolicy::Tofu,
        ..TrustDocument::default()
    };
    let key = identity(0).public_key().to_hex();
    for n in 0..MAX_LEARNT - 3 {
        let entry = serde_json::from_value(json!({ "key": key, "learnt": true })).unwrap();
        document.agents.insert(id(&format!("a-{n}")), entry);
    }
    let mut gate = gate(TrustStore::try_from(&document).unwrap());
    let bodies = (1..=10).map(|n| {
        let stamp = stamp(&format!("b-{n}"), 1, n);
        to_bob(json!({})).stamp(stamp, &Default::default()).unwrap()
    });
    let flight = sign_flight(&alice(), bodies.collect()).unwrap();
    // One JSON message introduces the key; the rest of the flight names ten agents at once.
    let mut outcomes = vec![
        admit(&mut gate, flight[0].to_json())
            .map(drop)
            .map_err(|reason| reason.name()),
    ];
    for message in &flight[1..] {
        outcomes.push(
            admit(&mut gate, message.to_json())
                .map(drop)
                .map_err(|reason| reason.name()),
        );
    }
    assert_eq!(outcomes.iter().filter(|one| one.is_ok()).count(), 3);
    assert!(outcomes[3..].iter().all(|one| *one == Err("trust-store-full")));
    assert_eq!(gate.trust().bindings().len(), MAX_LEARNT);
    assert_eq!(gate.replay().len(), 1);
    // Room made is room to learn in.
    assert!(gate.trust_mut().unbind(&id("a-0")));
    assert_eq!(says(&mut gate, "dave", &carol(), 1), Ok(()));
    assert_eq!(says(&mut gate, "erin", &mallory(), 1), Err("trust-store-full"));
}

#[test]
fn a_document_with_a_mistake_is_refused_and_says_where() {
    let good = alice().public_key().to_hex();
    let read = |document: serde_json::Value| {
        let document: TrustDocument = serde_json::from_value(document).unwrap();
        TrustStore::try_from(&document).unwrap_err()
    };
    let key = |place: &str, error| TrustDocumentError::Key {
        place: place.to_owned(),
        error,
    };
    let weak = format!("01{}", "00".repeat(31));
    assert_eq!(
        read(json!({ "agents": { "alice": { "key": good.to_uppercase() } } })),
        key("agents.alice", InvalidPublicKey::NotHex)
    );
    assert_eq!(
        read(json!({ "agents": { "alice": { "key": weak } } })),
        key("agents.alice", InvalidPublicKey::Weak)
    );
    assert_eq!(
        read(json!({ "root": "?" })),
        key("root", InvalidPublicKey::NotHex)
    );
    assert_eq!(
        read(json!({ "revoked": ["?"] })),
        key("revoked", InvalidPublicKey::NotHex)
    );
    assert_eq!(
        read(json!({ "agents": { "alice": { "key": good, "levels": [1, 3] } } })),
        TrustDocumentError::Level(id("alice"))
    );
    assert_eq!(
        read(json!({ "revoked": [good], "agents": { "alice": { "key": good } } })),
        TrustDocumentError::Binding {
            agent: id("alice"),
            error: TrustError::Revoked
        }
    );
    for unknown in [
        json!({ "polcy": "tofu" }),
        json!({ "policy": "everyone" }),
        json!({ "agents": { "alice": { "key": good, "admin": true } } }),
        json!({ "agents": { "not an id": { "key": good } } }),
        json!({ "agents": { "alice": {} } }),
    ] {
        assert!(
            serde_json::from_value::<TrustDocument>(unknown.clone()).is_err(),
            "{unknown}"
        );
    }
}

#[test]
fn permissions_survive_a_file() {
    for n in 0u8..8 {
        let permissions = Permissions {
            function_level: n & 1 != 0,
            module_level: n & 2 != 0,
            broadcast: n & 4 != 0,
        };
        let mut store = TrustStore::default();
        store
            .bind(id("alice"), *alice().public_key(), permissions)
            .unwrap();
        let read = through_a_file(&store);
        assert_eq!(read.binding(&id("alice")).unwrap().permissions, permissions);
    }
}
