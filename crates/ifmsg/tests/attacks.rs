//! Every attack on a message that has a name, and the one reason for which each is refused.
//!
//! Falsified by an attack that is admitted, that is refused for another reason, or whose reason changes its stable name.
//! That nothing is refused here which should be admitted is shown by `the_message_that_is_attacked_is_good`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "support/world.rs"]
mod world;

use std::time::Duration;

use bytes::Bytes;
use ifmsg::{
    Admission, DecodeError, Delivery, Destination, FrameError, InvalidPublicKey, Level, MessageError,
    Permissions, Rejection, Revocation, SignatureError, SignedMessage, Timestamp, TrustError, TrustPolicy,
    TrustStore, canonical::CanonicalErrorKind as Kind,
};
use serde_json::{Map, Value, json};
use world::*;

/// One attack: what Bob's gate is like, what the attacker sends, and what it must say.
struct Attack {
    name: &'static str,
    gate: Admission,
    frame: Bytes,
    reason: Rejection,
    reason_name: &'static str,
}

fn attack(
    name: &'static str,
    frame: impl Into<Bytes>,
    reason: impl Into<Rejection>,
    reason_name: &'static str,
) -> Attack {
    Attack {
        name,
        gate: bob(),
        frame: frame.into(),
        reason: reason.into(),
        reason_name,
    }
}

#[test]
fn the_message_that_is_attacked_is_good() {
    let admitted = admit(&mut bob(), message(1, 1).to_json()).unwrap();
    assert_eq!(admitted.digest(), message(1, 1).digest());
    // What is signed by hand is as good, so the attacks that use it fail for what they change and nothing else.
    let by_hand = sign_by_hand([1; 32], &tree(&message(1, 1)));
    assert_eq!(by_hand, tree(&message(1, 1)));
    assert!(admit(&mut bob(), bytes(&by_hand)).is_ok());
}

#[test]
fn every_attack_is_refused_for_its_own_reason() {
    let attacks = [signers(), places(), bodies(), signature_members(), flights()];
    for mut attack in attacks.into_iter().flatten() {
        let before = (attack.gate.replay().len(), attack.gate.trust().bindings().len());
        let refusal = admit(&mut attack.gate, attack.frame.clone()).unwrap_err();
        assert_eq!(refusal, attack.reason, "{}", attack.name);
        assert_eq!(refusal.name(), attack.reason_name, "{}", attack.name);
        let after = (attack.gate.replay().len(), attack.gate.trust().bindings().len());
        let took_its_number = matches!(
            attack.reason,
            Rejection::Expired(_) | Rejection::LevelNotPermitted | Rejection::BroadcastNotPermitted
        );
        if !took_its_number {
            assert_eq!(
                after, before,
                "{}: no window was opened, no key learnt",
                attack.name
            );
        }
    }
}

/// Who signs.
fn signers() -> Vec<Attack> {
    let good = tree(&message(1, 1));
    let by_mallory = sign_by_hand([66; 32], &good);
    let mut swapped = by_mallory.clone();
    swapped["signature"]["public_key"] = good["signature"]["public_key"].clone();
    let mut swapped_to_carol = good.clone();
    swapped_to_carol["signature"]["public_key"] = json!(carol().public_key().to_hex());
    let mut unsigned = good.clone();
    unsigned.remove("signature");
    let mut null = good.clone();
    null["signature"] = Value::Null;

    let mut attacks = vec![
        attack("unsigned", bytes(&unsigned), DecodeError::Unsigned, "unsigned"),
        attack(
            "signature is null",
            bytes(&null),
            DecodeError::Unsigned,
            "unsigned",
        ),
        attack(
            "signed by a stranger",
            bytes(&by_mallory),
            TrustError::UnknownKey,
            "unknown-key",
        ),
        attack(
            "signed by a stranger, in binary",
            binary(&SignedMessage::sign(&mallory(), unsigned_message())),
            TrustError::UnknownKey,
            "unknown-key",
        ),
        attack(
            "Carol speaks for Alice",
            bytes(&sign_by_hand([3; 32], &good)),
            TrustError::WrongSource,
            "wrong-source",
        ),
        attack(
            "Carol speaks for Alice, in binary",
            binary(&SignedMessage::sign(&carol(), unsigned_message())),
            TrustError::WrongSource,
            "wrong-source",
        ),
        attack(
            "Carol speaks for a name that nobody has",
            bytes(&sign_by_hand([3; 32], &with(&good, "source", json!("dave")))),
            TrustError::WrongSource,
            "wrong-source",
        ),
        attack(
            "a stranger's signature under Alice's key",
            bytes(&swapped),
            Rejection::BadSignature,
            "bad-signature",
        ),
        attack(
            "Alice's signature under Carol's key",
            bytes(&swapped_to_carol),
            TrustError::WrongSource,
            "wrong-source",
        ),
        attack(
            "a stranger's signature under Alice's short name",
            {
                let mut frame = binary(&SignedMessage::sign(&mallory(), unsigned_message())).to_vec();
                frame[8..16].copy_from_slice(alice().key_id().as_bytes());
                frame
            },
            Rejection::BadSignature,
            "bad-signature",
        ),
    ];
    let mut revoked = attack(
        "a revoked key",
        message(1, 1).to_json(),
        TrustError::Revoked,
        "revoked-key",
    );
    let revocation = Revocation::sign(&alice(), *alice().public_key(), now().wall);
    revoked.gate.trust_mut().revoke(&revocation).unwrap();
    attacks.push(revoked);

    let mut tofu = TrustStore::new(TrustPolicy::Tofu);
    tofu.bind(id("carol"), *carol().public_key(), Permissions::ALL)
        .unwrap();
    let mut changed = attack(
        "another key for a pinned name",
        bytes(&by_mallory),
        TrustError::KeyChanged,
        "key-changed",
    );
    changed.gate = gate(tofu.clone());
    assert!(admit(&mut changed.gate, message(1, 1).to_json()).is_ok());
    attacks.push(changed);
    let mut short = attack(
        "a short name teaches nothing",
        binary(&message(1, 1)),
        TrustError::NeedsIntroduction,
        "needs-introduction",
    );
    short.gate = gate(tofu);
    attacks.push(short);
    attacks
}

/// Where and when the message claims to belong.
fn places() -> Vec<Attack> {
    let mut attacks = Vec::new();
    let good = tree(&message(1, 1));
    let resigned = |name: &str, value: Value| bytes(&sign_by_hand([1; 32], &with(&good, name, value)));
    let after = |gate: &mut Admission, epoch, sequence| {
        assert!(admit(gate, message(epoch, sequence).to_json()).is_ok());
    };

    attacks.push(attack(
        "for somebody else",
        resigned("destination", json!("carol")),
        Rejection::NotForUs(id("carol")),
        "not-for-us",
    ));
    attacks.push(attack(
        "from ourselves",
        resigned("source", json!("bob")),
        Rejection::FromOurselves,
        "from-ourselves",
    ));
    attacks.push(attack(
        "from ourselves, to everyone",
        bytes(&sign_by_hand(
            [1; 32],
            &with(&with(&good, "source", json!("bob")), "destination", json!("*")),
        )),
        Rejection::FromOurselves,
        "from-ourselves",
    ));

    let mut replayed = attack(
        "replayed",
        message(1, 1).to_json(),
        Rejection::Duplicate,
        "duplicate",
    );
    after(&mut replayed.gate, 1, 1);
    attacks.push(replayed);
    let mut other_form = attack(
        "replayed in binary",
        binary(&message(1, 1)),
        Rejection::Duplicate,
        "duplicate",
    );
    after(&mut other_form.gate, 1, 1);
    attacks.push(other_form);
    let mut too_old = attack(
        "replayed from below the window",
        message(1, 1).to_json(),
        Rejection::TooOld,
        "too-old",
    );
    after(&mut too_old.gate, 1, 1);
    after(&mut too_old.gate, 1, 1_025);
    attacks.push(too_old);
    let mut stale = attack(
        "of an epoch before",
        message(1, 1).to_json(),
        Rejection::StaleEpoch,
        "stale-epoch",
    );
    after(&mut stale.gate, 2, 1);
    attacks.push(stale);
    let mut lie = attack(
        "another message under the same number",
        resigned("payload", json!({ "claim": "open" })),
        Rejection::Equivocation,
        "equivocation",
    );
    after(&mut lie.gate, 1, 1);
    attacks.push(lie);

    let minutes = |minutes: i64| json!(now().wall.plus_millis(minutes * 60_000).to_string());
    attacks.push(attack(
        "old, and opens an epoch",
        resigned("timestamp", minutes(-6)),
        Rejection::NotLive,
        "not-live",
    ));
    attacks.push(attack(
        "from the future, and opens an epoch",
        resigned("timestamp", minutes(6)),
        Rejection::NotLive,
        "not-live",
    ));
    let just_over = now().wall.plus_millis(-300_001);
    attacks.push(attack(
        "a millisecond too old to open an epoch",
        resigned("timestamp", json!(just_over.to_string())),
        Rejection::NotLive,
        "not-live",
    ));
    let expired = now().wall.plus_millis(-1);
    attacks.push(attack(
        "expired",
        resigned("expires", json!(expired.to_string())),
        Rejection::Expired(expired),
        "expired",
    ));

    let restricted = |permissions| {
        let mut trust = TrustStore::new(TrustPolicy::Allowlist);
        trust
            .bind(id("alice"), *alice().public_key(), permissions)
            .unwrap();
        gate(trust)
    };
    for (name, level, permissions) in [
        (
            "level 2 is not permitted",
            Level::Module,
            Permissions {
                module_level: false,
                ..Permissions::ALL
            },
        ),
        (
            "level 1 is not permitted",
            Level::Function,
            Permissions {
                function_level: false,
                ..Permissions::ALL
            },
        ),
    ] {
        let message = SignedMessage::sign(&alice(), world::unsigned(to_bob(json!({})).level(level), 1, 1));
        let mut attack = attack(
            name,
            message.to_json(),
            Rejection::LevelNotPermitted,
            "level-not-permitted",
        );
        attack.gate = restricted(permissions);
        attacks.push(attack);
    }
    for delivery in [Delivery::Reliable, Delivery::BestEffort] {
        let draft = ifmsg::Draft::new(Destination::Everyone, json!({})).delivery(delivery);
        let mut attack = attack(
            "broadcast is not permitted",
            SignedMessage::sign(&alice(), world::unsigned(draft, 1, 1)).to_json(),
            Rejection::BroadcastNotPermitted,
            "broadcast-not-permitted",
        );
        attack.gate = restricted(Permissions {
            broadcast: false,
            ..Permissions::ALL
        });
        attacks.push(attack);
    }
    attacks
}

/// Bodies that are no message, each with a valid signature of Alice's over it.
fn bodies() -> Vec<Attack> {
    let good = tree(&message(1, 1));
    let malformed = |name, frame: Bytes, error: MessageError| {
        attack(name, frame, DecodeError::Message(error), "malformed")
    };
    let resigned = |name: &str, value: Value| bytes(&sign_by_hand([1; 32], &with(&good, name, value)));
    let field = |name, problem| MessageError::Field { name, problem };

    let mut attacks = vec![
        malformed(
            "version 2.0",
            resigned("version", json!("2.0")),
            MessageError::Version,
        ),
        malformed(
            "version as a number",
            resigned("version", json!(2.1)),
            MessageError::Version,
        ),
        malformed(
            "an unknown member",
            resigned("priority", json!(1)),
            MessageError::UnknownMember("priority".to_owned()),
        ),
        malformed(
            "an unknown member whose name is long",
            resigned(&"é".repeat(100), json!(1)),
            MessageError::UnknownMember("é".repeat(64)),
        ),
        malformed(
            "an extension without a name",
            resigned("x_", json!(1)),
            MessageError::UnknownMember("x_".to_owned()),
        ),
        malformed(
            "a member in another case",
            resigned("Source", json!("alice")),
            MessageError::UnknownMember("Source".to_owned()),
        ),
        malformed(
            "level 3",
            resigned("level", json!(3)),
            field("level", "1 or 2 is needed"),
        ),
        malformed(
            "level as text",
            resigned("level", json!("1")),
            field("level", "1 or 2 is needed"),
        ),
        malformed(
            "payload is a list",
            resigned("payload", json!([])),
            field("payload", "an object is needed"),
        ),
        malformed(
            "payload is null",
            resigned("payload", Value::Null),
            field("payload", "an object is needed"),
        ),
        malformed(
            "number 0",
            resigned("sequence_num", json!(0)),
            field("sequence_num", "an integer from 1 is needed"),
        ),
        malformed(
            "a number below zero",
            resigned("sequence_num", json!(-1)),
            field("sequence_num", "an integer from 1 is needed"),
        ),
        malformed(
            "an epoch with a fraction",
            resigned("epoch", json!(1.5)),
            field("epoch", "an integer from 0 is needed"),
        ),
        malformed(
            "a performative that FIPA does not know",
            resigned("performative", json!("tell")),
            field(
                "performative",
                "a FIPA communicative act or a name that begins with x- is needed",
            ),
        ),
        malformed(
            "a delivery class that does not exist",
            resigned("delivery", json!("RELIABLE")),
            field("delivery", "\"reliable\" or \"best-effort\" is needed"),
        ),
        malformed(
            "a trace id in capitals",
            resigned("traceId", json!("ABCDEFABCDEFABCDEFABCDEF")),
            field("traceId", "24 lowercase hexadecimal digits are needed"),
        ),
        malformed(
            "a citation of something else",
            resigned("citation_ids", json!(["https://example.org/"])),
            field("citation_ids", "an array of if://citation/... strings is needed"),
        ),
        malformed(
            "too many citations",
            resigned("citation_ids", json!(vec!["if://citation/1"; 257])),
            MessageError::TooMany("citations"),
        ),
        malformed(
            "a timestamp in another time zone",
            resigned("timestamp", json!("2026-11-22T15:10:00.000+01")),
            field("timestamp", "a timestamp is needed: YYYY-MM-DDTHH:MM:SS.sssZ"),
        ),
        malformed(
            "too many extensions",
            {
                let mut tree = good.clone();
                tree.extend((0..65).map(|n| (format!("x_{n}"), json!(n))));
                bytes(&sign_by_hand([1; 32], &tree))
            },
            MessageError::TooMany("extensions"),
        ),
    ];
    let ids = "an id is needed: 1 to 128 characters out of A-Z a-z 0-9 . _ : / @ + -";
    for name in ["id", "source", "conversation_id", "in_reply_to"] {
        attacks.push(malformed(
            "an id with a space",
            resigned(name, json!("a b")),
            field(name, ids),
        ));
        attacks.push(malformed(
            "an empty id",
            resigned(name, json!("")),
            field(name, ids),
        ));
        attacks.push(malformed(
            "a long id",
            resigned(name, json!("a".repeat(129))),
            field(name, ids),
        ));
    }
    // `null` is not "absent": two readers would disagree.
    for (name, problem) in [
        ("conversation_id", ids),
        ("in_reply_to", ids),
        ("expires", "a timestamp is needed: YYYY-MM-DDTHH:MM:SS.sssZ"),
        ("traceId", "24 lowercase hexadecimal digits are needed"),
        ("citation_ids", "an array of if://citation/... strings is needed"),
        ("delivery", "\"reliable\" or \"best-effort\" is needed"),
        (
            "performative",
            "a FIPA communicative act or a name that begins with x- is needed",
        ),
    ] {
        attacks.push(malformed(
            "null",
            resigned(name, Value::Null),
            field(name, problem),
        ));
    }
    for name in [
        "id",
        "timestamp",
        "level",
        "source",
        "destination",
        "version",
        "payload",
        "epoch",
        "sequence_num",
    ] {
        let mut tree = good.clone();
        tree.remove(name);
        let frame = bytes(&sign_by_hand([1; 32], &tree));
        attacks.push(malformed(
            "a required member is missing",
            frame,
            MessageError::Missing(name),
        ));
    }

    // Text that no tree can hold. The offsets are those of the second name, or of the number.
    let text = String::from_utf8(message(1, 1).to_json()).unwrap();
    for (name, from, to, kind, at) in [
        (
            "a member twice",
            "\"id\":",
            "\"id\":\"m-0\",\"id\":",
            Kind::DuplicateMember,
            "\"id\":\"m-1",
        ),
        (
            "a member twice, once through an escape",
            "\"id\":",
            "\"i\\u0064\":\"m-0\",\"id\":",
            Kind::DuplicateMember,
            "\"id\":\"m-1",
        ),
        (
            "the signature twice",
            "\"signature\":",
            "\"signature\":{},\"signature\":",
            Kind::DuplicateMember,
            "\"signature\":{\"al",
        ),
        (
            "a member of the payload twice",
            "\"claim\":",
            "\"claim\":1,\"clai\\u006d\":",
            Kind::DuplicateMember,
            "\"clai\\u006d",
        ),
        (
            "an epoch that doubles cannot hold",
            "\"epoch\":1,",
            "\"epoch\":9007199254740992,",
            Kind::IntegerTooLarge,
            "9007199254740992",
        ),
        (
            "a number beyond all doubles",
            "\"number\":1",
            "\"number\":1e999",
            Kind::NumberOutOfRange,
            "1e999",
        ),
        (
            "half a surrogate pair",
            "\"settled\"",
            "\"\\ud800\"",
            Kind::LoneSurrogate,
            "\\ud800",
        ),
    ] {
        let frame = text.replacen(from, to, 1);
        assert_ne!(frame, text, "{name}");
        let offset = frame.find(at).unwrap();
        let error = ifmsg::canonical::canonicalise(frame.as_bytes(), &Default::default()).unwrap_err();
        assert_eq!((error.kind, error.offset), (kind, offset), "{name}");
        attacks.push(malformed(name, frame.into(), MessageError::Canonical(error)));
    }
    attacks
}

/// What stands in the signature.
fn signature_members() -> Vec<Attack> {
    let good = tree(&message(1, 1));
    let refused = |name, frame: Bytes, error: SignatureError| {
        attack(name, frame, DecodeError::Signature(error), "malformed")
    };
    let changed = |member: &str, value: Value| {
        let mut tree = good.clone();
        tree["signature"][member] = value;
        bytes(&tree)
    };
    let without = |member: &str| {
        let mut tree = good.clone();
        tree["signature"].as_object_mut().unwrap().remove(member);
        bytes(&tree)
    };
    let fields: Vec<String> = serde_json::from_value(good["signature"]["signed_fields"].clone()).unwrap();
    let mut shortened = fields.clone();
    shortened.retain(|name| name != "payload");
    let mut reordered = fields.clone();
    reordered.swap(0, 1);
    let mut extended = fields.clone();
    extended.push("x_more".to_owned());
    let mut repeated = fields.clone();
    repeated.push(fields[fields.len() - 1].clone());

    let mut unsigned_member = good.clone();
    unsigned_member.insert("x_smuggled".to_owned(), json!(true));
    let mut zero_path = good.clone();
    zero_path["signature"]["batch"] = json!({ "index": 0, "size": 1, "path": [] });

    let mut high = hex_of(&good);
    // S + L: the same scalar to a lax verifier, another signature to a strict one (RFC 8032, section 5.1.7: S < L).
    add_group_order(&mut high);

    vec![
        refused(
            "64 characters that are no hex",
            changed(
                "signature_bytes",
                json!("dummy-signature-bytes-dummy-signature-bytes-dummy-signature-byte"),
            ),
            SignatureError::SignatureBytes,
        ),
        refused(
            "capital hex",
            changed(
                "signature_bytes",
                json!(
                    good["signature"]["signature_bytes"]
                        .as_str()
                        .unwrap()
                        .to_uppercase()
                ),
            ),
            SignatureError::SignatureBytes,
        ),
        refused(
            "half a signature",
            changed("signature_bytes", json!("00".repeat(32))),
            SignatureError::SignatureBytes,
        ),
        refused(
            "signature_bytes as a number",
            changed("signature_bytes", json!(1)),
            SignatureError::SignatureBytes,
        ),
        refused(
            "no signature_bytes",
            without("signature_bytes"),
            SignatureError::SignatureBytes,
        ),
        attack(
            "all zero",
            changed("signature_bytes", json!("00".repeat(64))),
            Rejection::BadSignature,
            "bad-signature",
        ),
        attack(
            "S + L",
            changed("signature_bytes", json!(hex(&high))),
            Rejection::BadSignature,
            "bad-signature",
        ),
        refused(
            "algorithm none",
            changed("algorithm", json!("none")),
            SignatureError::Algorithm,
        ),
        refused(
            "algorithm in capitals",
            changed("algorithm", json!("Ed25519")),
            SignatureError::Algorithm,
        ),
        refused("no algorithm", without("algorithm"), SignatureError::Algorithm),
        refused(
            "no public_key",
            without("public_key"),
            SignatureError::Shape("public_key is missing"),
        ),
        refused(
            "a public key that is no hex",
            changed("public_key", json!("alice")),
            SignatureError::PublicKey(InvalidPublicKey::NotHex),
        ),
        attack(
            "a public key of small order",
            changed("public_key", json!(format!("01{}", "00".repeat(31)))),
            TrustError::UnknownKey,
            "unknown-key",
        ),
        attack(
            "a public key that is no point",
            changed("public_key", json!("02".repeat(32))),
            TrustError::UnknownKey,
            "unknown-key",
        ),
        refused(
            "signed_fields shortened",
            changed("signed_fields", json!(shortened)),
            SignatureError::SignedFields,
        ),
        refused(
            "signed_fields reordered",
            changed("signed_fields", json!(reordered)),
            SignatureError::SignedFields,
        ),
        refused(
            "signed_fields extended",
            changed("signed_fields", json!(extended)),
            SignatureError::SignedFields,
        ),
        refused(
            "signed_fields repeated",
            changed("signed_fields", json!(repeated)),
            SignatureError::SignedFields,
        ),
        refused(
            "signed_fields empty",
            changed("signed_fields", json!([])),
            SignatureError::SignedFields,
        ),
        refused(
            "no signed_fields",
            without("signed_fields"),
            SignatureError::SignedFields,
        ),
        refused(
            "a member that was not signed",
            bytes(&unsigned_member),
            SignatureError::SignedFields,
        ),
        refused(
            "an unknown member of the signature",
            changed("key", json!("x")),
            SignatureError::Shape("it has an unknown member"),
        ),
        refused(
            "the signature is text",
            bytes(&with(&good, "signature", json!("trust me"))),
            SignatureError::Shape("it must be an object"),
        ),
        refused("a batch of one", bytes(&zero_path), SignatureError::Batch),
    ]
}

/// What flights and binary frames claim of themselves.
fn flights() -> Vec<Attack> {
    let flight = flight(3);
    let good = tree(&flight[1]);
    assert!(admit(&mut bob(), bytes(&good)).is_ok());
    let in_batch = |member: &str, value: Value| {
        let mut tree = good.clone();
        tree["signature"]["batch"][member] = value;
        bytes(&tree)
    };
    let batch = |name, frame| {
        attack(
            name,
            frame,
            DecodeError::Signature(SignatureError::Batch),
            "malformed",
        )
    };
    let bad = |name, frame: Bytes| attack(name, frame, Rejection::BadSignature, "bad-signature");
    let mut no_batch = good.clone();
    no_batch["signature"].as_object_mut().unwrap().remove("batch");
    let path = good["signature"]["batch"]["path"].clone();
    let swapped = json!([path[1], path[0]]);

    let mut attacks = vec![
        bad("another place in the flight", in_batch("index", json!(0))),
        bad("a larger flight", in_batch("size", json!(4))),
        bad("a path in another order", in_batch("path", swapped)),
        bad(
            "a path of zeros",
            in_batch("path", json!(["00".repeat(32), "00".repeat(32)])),
        ),
        bad("a flight's message as if alone", bytes(&no_batch)),
        batch("a place beyond the flight", in_batch("index", json!(3))),
        batch("a place below zero", in_batch("index", json!(-1))),
        batch(
            "a flight of two with the path of three",
            in_batch("size", json!(2)),
        ),
        batch("a flight that is too large", in_batch("size", json!(257))),
        batch("a flight without a size", in_batch("size", Value::Null)),
        batch("a path that is too short", in_batch("path", json!([path[0]]))),
        batch(
            "a path that is too long",
            in_batch("path", json!([path[0], path[1], path[0]])),
        ),
        batch(
            "a path in capitals",
            in_batch("path", json!(["AB".repeat(32), path[1]])),
        ),
        batch("an empty path", in_batch("path", json!([]))),
        batch("an unknown member of the batch", in_batch("root", json!("00"))),
        batch("a batch that is a list", {
            let mut tree = good.clone();
            tree["signature"]["batch"] = json!([1, 2]);
            bytes(&tree)
        }),
    ];

    let whole = ifmsg::encode_binary(&flight).unwrap();
    let alone = binary(&message(1, 1));
    let partial = ifmsg::encode_binary(&flight[..2]).unwrap();
    let frame =
        |name, frame: Vec<u8>, error: FrameError| attack(name, frame, DecodeError::Frame(error), "malformed");
    let edit = |frame: &Bytes, at: usize, to: &[u8]| {
        let mut frame = frame.to_vec();
        frame[at..at + to.len()].copy_from_slice(to);
        frame
    };
    attacks.extend([
        frame("flags", edit(&alone, 4, &[1]), FrameError::Flags),
        frame("an unknown suite", edit(&alone, 5, &[2]), FrameError::Suite(2)),
        frame("reserved bytes", edit(&alone, 7, &[1]), FrameError::Flags),
        frame("a flight of none", edit(&alone, 16, &[0, 0]), FrameError::Count),
        frame("no message", edit(&alone, 18, &[0, 0]), FrameError::Count),
        frame(
            "more messages than the flight has",
            edit(&alone, 18, &[0, 2]),
            FrameError::Count,
        ),
        frame(
            "a flight that is too large, in binary",
            edit(&alone, 16, &[1, 1]),
            FrameError::Count,
        ),
        frame(
            "fewer messages than it says",
            edit(&whole, 16, &[0, 4, 0, 4]),
            FrameError::Truncated,
        ),
        frame(
            "more messages than it says",
            edit(&whole, 16, &[0, 2, 0, 2]),
            FrameError::TrailingBytes,
        ),
        frame(
            "bytes at the end",
            [&alone[..], b"\0"].concat(),
            FrameError::TrailingBytes,
        ),
        frame(
            "the end is missing",
            alone[..alone.len() - 1].to_vec(),
            FrameError::Truncated,
        ),
        frame(
            "nothing but a header",
            alone[..84].to_vec(),
            FrameError::Truncated,
        ),
        frame("nothing but the magic", b"IFB1".to_vec(), FrameError::Truncated),
        frame(
            "a length of 4 GiB",
            edit(&alone, 84, &[0xff; 4]),
            FrameError::Truncated,
        ),
        frame(
            "a place beyond the flight, in binary",
            edit(&partial, 84, &[0, 3]),
            FrameError::Index,
        ),
        frame(
            "the same place twice",
            {
                let item = &partial[84..84 + 2 + 64 + 4 + flight[0].body().len()];
                [&partial[..84], item, item].concat()
            },
            FrameError::Index,
        ),
    ]);
    attacks
}

#[test]
fn one_lie_in_a_flight_costs_the_whole_flight_and_changes_nothing() {
    let flight = flight(3);
    let whole = ifmsg::encode_binary(&flight).unwrap();
    let partial = ifmsg::encode_binary(&flight[..2]).unwrap();
    let swap = |frame: &Bytes, from: &[u8], to: &[u8]| {
        let at = frame
            .windows(from.len())
            .position(|window| window == from)
            .unwrap();
        [&frame[..at], to, &frame[at + from.len()..]].concat()
    };
    for (name, frame) in [
        ("a changed message", swap(&whole, b"{\"n\":2}", b"{\"n\":7}")),
        (
            "a changed message of a part",
            swap(&partial, b"{\"n\":2}", b"{\"n\":7}"),
        ),
        ("a larger flight", {
            let mut frame = partial.to_vec();
            frame[17] = 4;
            frame
        }),
    ] {
        let mut gate = bob();
        for refusal in admit_all(&mut gate, frame) {
            let refusal = refusal.unwrap_err();
            assert_eq!(refusal.reason, Rejection::BadSignature, "{name}");
            assert!(!refusal.rejected.unwrap().authentic, "{name}");
        }
        assert!(gate.replay().is_empty(), "{name}");
        assert!(
            admit_all(&mut gate, whole.clone()).iter().all(Result::is_ok),
            "{name}"
        );
    }
}

#[test]
fn in_one_flight_a_message_that_comes_twice_is_taken_once() {
    let one = || world::unsigned(to_bob(json!({ "n": 1 })), 1, 1);
    let other = world::unsigned(to_bob(json!({ "n": 2 })), 1, 1);
    let flight = ifmsg::sign_flight(&alice(), vec![one(), one(), other]).unwrap();
    let all = admit_all(&mut bob(), ifmsg::encode_binary(&flight).unwrap());
    let reasons: Vec<_> = all
        .into_iter()
        .map(|one| one.map(drop).map_err(|no| no.reason))
        .collect();
    assert_eq!(
        reasons,
        [Ok(()), Err(Rejection::Duplicate), Err(Rejection::Equivocation)]
    );
}

#[test]
fn only_an_authentic_refusal_may_be_told_to_the_sender() {
    let tell = |frame: Bytes| {
        let refusal = admit_all(&mut bob(), frame).pop().unwrap().unwrap_err();
        (refusal.reason.name(), refusal.rejected.unwrap().authentic)
    };
    let good = tree(&message(1, 1));
    let signed = |seed, name: &str, value| bytes(&sign_by_hand([seed; 32], &with(&good, name, value)));
    let old = json!(now().wall.plus_millis(-1).to_string());
    assert_eq!(tell(signed(1, "expires", old.clone())), ("expired", true));
    assert_eq!(tell(signed(66, "expires", old)), ("unknown-key", false));
    assert_eq!(
        tell(signed(1, "destination", json!("carol"))),
        ("not-for-us", false)
    );
    let long_ago = Timestamp::from_unix_millis(0).to_string();
    assert_eq!(tell(signed(1, "timestamp", json!(long_ago))), ("not-live", true));
}

#[test]
fn age_does_not_matter_inside_an_open_epoch_and_expiry_does() {
    let mut gate = bob();
    assert!(admit(&mut gate, message(1, 1).to_json()).is_ok());
    let later = now_after(Duration::from_secs(3_600));
    let resent = admit_at(&mut gate, message(1, 2).to_json(), later);
    assert!(resent[0].is_ok());
    let expires = now().wall;
    let expired = SignedMessage::sign(
        &alice(),
        world::unsigned(to_bob(json!({})).expires(expires), 1, 3),
    );
    // Exactly at its expiry it is still good.
    assert!(!expired.header().is_expired(now().wall));
    let refused = admit_at(&mut gate, expired.to_json(), later)
        .pop()
        .unwrap()
        .unwrap_err();
    assert_eq!(refused.reason, Rejection::Expired(expires));
    // It has taken its number: nothing else may come under it.
    let again = admit_at(&mut gate, expired.to_json(), later)
        .pop()
        .unwrap()
        .unwrap_err();
    assert_eq!(again.reason, Rejection::Duplicate);
}

fn unsigned_message() -> ifmsg::UnsignedMessage {
    world::unsigned(to_bob(json!({ "claim": "settled", "number": 1 })), 1, 1)
}

fn binary(message: &SignedMessage) -> Bytes {
    ifmsg::encode_binary(std::slice::from_ref(message)).unwrap()
}

fn with(tree: &Map<String, Value>, name: &str, value: Value) -> Map<String, Value> {
    let mut tree = tree.clone();
    tree.insert(name.to_owned(), value);
    tree
}

fn hex_of(tree: &Map<String, Value>) -> [u8; 64] {
    let text = tree["signature"]["signature_bytes"].as_str().unwrap();
    *ifmsg::SignatureBytes::from_hex(text).unwrap().as_bytes()
}

/// Adds L = 2^252 + 27742317777372353535851937790883648493 to the second half, little endian.
fn add_group_order(signature: &mut [u8; 64]) {
    let order = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let mut carry = 0;
    for (byte, add) in signature[32..].iter_mut().zip(order) {
        let sum = u16::from(*byte) + add + carry;
        *byte = sum as u8;
        carry = sum >> 8;
    }
    assert_eq!(carry, 0);
}
