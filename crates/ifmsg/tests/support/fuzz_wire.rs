//! What must hold for every frame, trust document and `did:key`, whatever its bytes: called by the fuzz targets, and by tests on the
//! committed corpora.

use bytes::Bytes;
use ifmsg::{
    Admission, Admitted, AgentId, DEFAULT_MAX_AGE, Header, Host, Identity, Now, Permissions, PublicKey,
    Rejection, SignedMessage, Timestamp, TrustDocument, TrustPolicy, TrustStore, canonical::Limits, decode,
};

/// `decode` refuses, or what it read is written as the same frame, and converts there and back.
pub(crate) fn decode_frame_holds(input: &[u8]) {
    let limits = Limits::default();
    let frame = Bytes::copy_from_slice(input);
    let Ok(flight) = decode(&frame, &limits) else {
        return;
    };
    let digests: Vec<_> = flight.digests().collect();
    assert!((1..=ifmsg::MAX_FLIGHT).contains(&digests.len()));
    assert_eq!(flight.headers().len(), digests.len());
    let binary = flight.to_binary();
    if input.starts_with(b"IFB1") {
        assert_eq!(binary, frame, "a binary frame has one spelling");
    }
    let again = decode(&binary, &limits).expect("what is written is read");
    assert_eq!(again.digests().collect::<Vec<_>>(), digests);
    assert_eq!(again.key_id(), flight.key_id());
    for (json, digest) in flight.to_json(alice().public_key()).into_iter().zip(digests) {
        assert_eq!(
            ifmsg::canonical::check(
                &json,
                &Limits {
                    max_bytes: usize::MAX,
                    ..limits
                }
            ),
            Ok(())
        );
        let one = decode(&json.into(), &limits).expect("what is written is read");
        assert_eq!(one.digests().collect::<Vec<_>>(), [digest]);
    }
}

/// Nothing is admitted that Alice did not sign: whatever the bytes, an admitted message verifies anew from its own evidence, and
/// a second copy is refused. The gate never panics, and strangers leave no state.
pub(crate) fn admit_holds(input: &[u8]) {
    for policy in [
        TrustPolicy::Allowlist,
        TrustPolicy::Tofu,
        TrustPolicy::SelfCertifying,
    ] {
        let mut trust = TrustStore::new(policy);
        let bound = trust.bind(agent("alice"), *alice().public_key(), Permissions::ALL);
        assert_eq!(bound, Ok(()));
        let mut gate = Admission::new(agent("bob"), trust, DEFAULT_MAX_AGE);
        let Ok(flight) = decode(&Bytes::copy_from_slice(input), &Limits::default()) else {
            return;
        };
        for outcome in gate.admit(&flight, now(), &Anyone) {
            match outcome {
                Admitted::Message { message, .. } => {
                    let evidence = decode(&message.as_signed().to_json().into(), &Limits::default());
                    let evidence = evidence.expect("evidence is readable");
                    let judged = Admission::authenticate(gate.trust(), &evidence);
                    assert_eq!(
                        judged[0].as_ref().map(SignedMessage::digest),
                        Ok(message.digest())
                    );
                    assert!(message.payload().is_object());
                }
                Admitted::Rejected(rejected) => assert!(!rejected.reason.name().is_empty()),
                other => panic!("unknown outcome {other:?}"),
            }
        }
        let bounds = (gate.trust().bindings().len(), gate.replay().len());
        for outcome in gate.admit(&flight, now(), &Anyone) {
            let Admitted::Rejected(rejected) = outcome else {
                panic!("admitted twice");
            };
            assert_ne!(rejected.reason, Rejection::NoRoom);
        }
        assert_eq!((gate.trust().bindings().len(), gate.replay().len()), bounds);
    }
}

/// A document is refused, or makes a store that is written as a document that makes the same store.
pub(crate) fn trust_document_holds(input: &[u8]) {
    let Ok(document) = serde_json::from_slice::<TrustDocument>(input) else {
        return;
    };
    let Ok(store) = TrustStore::try_from(&document) else {
        return;
    };
    let written = TrustDocument::from(&store);
    assert_eq!(written, document, "nothing is lost and nothing is made up");
    let text = serde_json::to_string(&written).expect("a document is JSON");
    let read: TrustDocument = serde_json::from_str(&text).expect("what is written is read");
    assert_eq!(read, written);
    for (agent, binding) in store.bindings() {
        assert_eq!(written.agents[agent].key, binding.key.to_hex());
        assert!(!written.revoked.contains(&binding.key.to_hex()));
    }
}

/// Text is refused, or is the only spelling of its key.
pub(crate) fn did_key_holds(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else {
        return;
    };
    if let Ok(key) = PublicKey::from_did_key(text) {
        assert_eq!(key.to_did_key(), text);
        assert!(AgentId::new(text).is_ok(), "it is an agent's id");
        assert_eq!(PublicKey::from_bytes(key.as_bytes()), Ok(key));
    }
    if let Ok(key) = PublicKey::from_hex(text) {
        assert_eq!(key.to_hex(), text);
        assert_eq!(PublicKey::from_did_key(&key.to_did_key()), Ok(key));
    }
}

struct Anyone;

impl Host for Anyone {
    fn has_room(&self, _: &Header) -> bool {
        true
    }
    fn proves_liveness(&self, _: &SignedMessage) -> bool {
        false
    }
}

fn alice() -> Identity {
    Identity::from_seed(&[1; 32])
}

fn agent(name: &str) -> AgentId {
    AgentId::new(name).expect("an id")
}

fn now() -> Now {
    Now {
        wall: Timestamp::from_unix_millis(1_795_356_600_000),
        elapsed: std::time::Duration::from_secs(1),
    }
}
