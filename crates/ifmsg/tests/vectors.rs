//! The project's own vectors, for those who write a second implementation: `vectors/*.json`.
//!
//! Every file is made anew and compared byte for byte. Falsified by any change of what is written on the wire. After a change
//! that is meant, `IFMSG_BLESS=1 cargo test -p ifmsg --test vectors` writes them.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "support/world.rs"]
mod world;

use std::{fs, path::Path};

use ifmsg::{
    Delivery, Destination, Draft, Identity, Level, Performative, Revocation, Rotation, SignedMessage,
    Statement, StatementKind, TraceId, UnsignedMessage,
    canonical::{Limits, canonicalise, to_canonical},
    encode_binary, sign_flight,
};
use serde_json::{Value, json};
use world::*;

/// A list, one canonical line for each item.
fn compare(file: &str, items: &[Value]) {
    let lines: Vec<String> = items
        .iter()
        .map(|item| String::from_utf8(to_canonical(item, &Limits::default()).unwrap()).unwrap())
        .collect();
    let text = format!("[\n{}\n]\n", lines.join(",\n"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors").join(file);
    if std::env::var_os("IFMSG_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let kept = fs::read_to_string(&path).unwrap_or_default();
    for (now, kept) in text.lines().zip(kept.lines()) {
        assert_eq!(now, kept, "{file}");
    }
    assert_eq!(text, kept, "{file}");
}

fn text(bytes: impl AsRef<[u8]>) -> String {
    String::from_utf8(bytes.as_ref().to_vec()).unwrap()
}

fn seed(name: &str) -> [u8; 32] {
    match name {
        "alice" => [1; 32],
        "carol" => [3; 32],
        _ => [66; 32],
    }
}

#[test]
fn keys() {
    let item = |(name, seed): (&str, [u8; 32])| {
        let identity = Identity::from_seed(&seed);
        json!({
            "name": name,
            "seed": hex(&seed),
            "public_key": identity.public_key().to_hex(),
            "key_id": identity.key_id().to_hex(),
            "did_key": identity.public_key().to_did_key(),
        })
    };
    let named = ["alice", "carol", "mallory"].map(|name| (name, seed(name)));
    let counted = (0u8..5).map(|n| ("", [n.wrapping_mul(51); 32]));
    compare(
        "keys.json",
        &named.into_iter().chain(counted).map(item).collect::<Vec<_>>(),
    );
}

#[test]
fn canonical() {
    let good = [
        "{}",
        " [ ] ",
        "\"\"",
        "0",
        "-0",
        "1.0",
        "-0.0",
        "1e2",
        "100e-2",
        "4.50",
        "1E30",
        "1e-7",
        "0.000001",
        "1e21",
        "123456789012.5",
        "5e-324",
        "1e-400",
        "333333333.33333329",
        "9007199254740991",
        "-9007199254740991",
        "1.7976931348623157e308",
        "[true,false,null]",
        "{\"b\":1,\"a\":2}",
        "{\"a\":{\"z\":1,\"y\":[{\"b\":0,\"a\":0}]}}",
        "{\"\\u20ac\":1,\"\\r\":2,\"\\ufb33\":3,\"1\":4,\"\\ud83d\\ude00\":5,\"\\u0080\":6,\"\\u00f6\":7}",
        "\"\\u0061\\/\\u000a\\u001F\\u007f\\\"\\\\\"",
        "\"\\u00e9 is not e\\u0301\"",
        "{\"\":1,\"a\\u0000\":2,\"a\":3}",
        "{\"10\":1,\"9\":2,\"1\":3}",
        "\t{\r\n \"a\" : [ 1 , 2 ] } ",
        "\"\\ufffe\"",
        "\"\u{7f}\u{80}\u{2028}\"",
    ];
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let good = good.map(str::to_owned).into_iter().chain([deep(32)]);
    let bad: Vec<Vec<u8>> = [
        "",
        " ",
        "{",
        "[1,]",
        "{\"a\":1,}",
        "{\"a\" 1}",
        "{a:1}",
        "01",
        "+1",
        "1.",
        ".5",
        "1e",
        "-",
        "nul",
        "True",
        "NaN",
        "Infinity",
        "'a'",
        "\"a",
        "\"\\x\"",
        "\"\\u12\"",
        "\"\\ud800\"",
        "\"\\udc00\\ud800\"",
        "\"\t\"",
        "\"\u{1f}\"",
        "{\"a\":1,\"a\":1}",
        "{\"a\":1,\"\\u0061\":2}",
        "{\"o\":{\"x\":0,\"x\":0}}",
        "9007199254740992",
        "-9007199254740992",
        "1e20",
        "9007199254740993.0",
        "1e400",
        "-1e400",
        "1 2",
        "{}x",
        "\u{feff}{}",
        "/**/1",
    ]
    .iter()
    .map(|text| text.as_bytes().to_vec())
    .chain([
        deep(33).into_bytes(),
        b"\"\xff\"".to_vec(),
        b"\"\xc0\xaf\"".to_vec(),
        b"\"\xed\xa0\x80\"".to_vec(),
    ])
    .collect();
    let limits = Limits::default();
    let good = good.map(|input| {
        let canonical = canonicalise(input.as_bytes(), &limits).unwrap();
        json!({ "input": input, "canonical": text(canonical) })
    });
    let bad = bad.iter().map(|input| {
        let error = canonicalise(input, &limits).unwrap_err();
        let reason = format!("{:?}", error.kind);
        match std::str::from_utf8(input) {
            Ok(input) => json!({ "input": input, "refused": reason, "offset": error.offset }),
            Err(_) => json!({ "input_hex": hex(input), "refused": reason, "offset": error.offset }),
        }
    });
    compare("canonical.json", &good.chain(bad).collect::<Vec<_>>());
}

fn drafts() -> [(&'static str, Draft); 4] {
    let full = to_bob(
        json!({ "b": [1, 2.5, -0.0, 1e30, null, true], "a": { "é": "€\n\u{1}😀", "\u{fb33}": 1, "😀": 2 } }),
    )
    .level(Level::Module)
    .performative(Performative::Propose)
    .conversation("c-7".try_into().unwrap())
    .in_reply_to("m-0".try_into().unwrap())
    .trace(TraceId::from_bytes([0xab, 0xcd, 0xef, 0, 1, 2, 3, 4, 5, 6, 7, 8]))
    .citation("if://citation/4711")
    .citation("if://citation/ä")
    .expires(now().wall.plus_millis(60_000))
    .extension("x_z", json!({ "any": ["thing"] }))
    .extension("x_a", json!(null));
    [
        ("the least", to_bob(json!({}))),
        ("everything", full),
        (
            "to everyone, best effort",
            Draft::new(Destination::Everyone, json!({ "here": true })).delivery(Delivery::BestEffort),
        ),
        (
            "an act of one's own",
            to_bob(json!({ "n": 1 })).performative(Performative::new("x-heartbeat").unwrap()),
        ),
    ]
}

#[test]
fn messages() {
    let item = |(n, (name, draft)): (usize, (&str, Draft))| {
        let message = SignedMessage::sign(&alice(), unsigned(draft, 1_795_356_600_000, n as u64 + 1));
        let json_form = text(message.to_json());
        let tree = tree(&message);
        json!({
            "name": name,
            "seed": hex(&seed("alice")),
            "message": without_signature(&tree),
            "body": text(message.body()),
            "digest": message.digest().to_hex(),
            "signed_bytes": hex(&signed_bytes(alice().public_key().as_bytes(), 1, message.digest().as_bytes())),
            "signature": tree["signature"]["signature_bytes"],
            "json": json_form,
            "binary": hex(&encode_binary(&[message]).unwrap()),
        })
    };
    compare(
        "messages.json",
        &drafts().into_iter().enumerate().map(item).collect::<Vec<_>>(),
    );
}

fn without_signature(tree: &serde_json::Map<String, Value>) -> Value {
    let mut tree = tree.clone();
    tree.remove("signature");
    tree.into()
}

/// RFC 9162, section 2.1.1, written again: the crate's own tree is private.
fn root(leaves: &[[u8; 32]]) -> [u8; 32] {
    use sha2::{Digest as _, Sha256};
    if let [leaf] = leaves {
        return *leaf;
    }
    let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
    let hash = Sha256::new()
        .chain_update([1])
        .chain_update(root(left))
        .chain_update(root(right));
    hash.finalize().into()
}

#[test]
fn flights() {
    let item = |size: usize| {
        let messages = flight(size as u64);
        let leaves: Vec<[u8; 32]> = messages
            .iter()
            .map(|message| *message.digest().as_bytes())
            .collect();
        let root = root(&leaves);
        let part = |indices: &[usize]| {
            let part: Vec<_> = indices.iter().map(|&n| messages[n].clone()).collect();
            json!({ "indices": indices, "binary": hex(&encode_binary(&part).unwrap()) })
        };
        let mut parts: Vec<Value> = (0..size).map(|n| part(&[n])).collect();
        parts.push(part(&[0, size - 1]));
        if size > 3 {
            parts.push(part(&[1, 2, 3]));
        }
        json!({
            "seed": hex(&seed("alice")),
            "bodies": messages.iter().map(|message| text(message.body())).collect::<Vec<_>>(),
            "digests": leaves.iter().map(|leaf| hex(leaf)).collect::<Vec<_>>(),
            "root": hex(&root),
            "signed_bytes": hex(&signed_bytes(alice().public_key().as_bytes(), size as u32, &root)),
            "signature": tree(&messages[0])["signature"]["signature_bytes"],
            "proofs": messages.iter().map(|message| tree(message)["signature"]["batch"].clone()).collect::<Vec<_>>(),
            "json": messages.iter().map(|message| text(message.to_json())).collect::<Vec<_>>(),
            "binary": hex(&encode_binary(&messages).unwrap()),
            "parts": parts,
        })
    };
    compare("flights.json", &[item(5), item(3), item(2)]);
}

#[test]
fn statements() {
    let parts: [&[u8]; 3] = [b"alice", b"", &[0, 255]];
    let item = |(kind, name): (StatementKind, &str)| {
        let statement = parts
            .iter()
            .fold(Statement::new(kind), Statement::part)
            .number(1_795_356_600_000);
        json!({
            "kind": format!("{kind:?}"),
            "prefix": name,
            "seed": hex(&seed("alice")),
            "parts": parts.iter().map(|part| hex(part)).chain([hex(&1_795_356_600_000u64.to_be_bytes())]).collect::<Vec<_>>(),
            "bytes": hex(statement.as_bytes()),
            "signature": alice().sign_statement(&statement).to_hex(),
        })
    };
    let kinds = [
        (StatementKind::SessionDescription, "IFMESH-SDP"),
        (StatementKind::Hello, "IFMESH-HELLO"),
        (StatementKind::RelayHello, "IFMESH-RELAY"),
        (StatementKind::DdsPresence, "IFMESH-DDS-PRESENCE"),
        (StatementKind::DdsHello, "IFMESH-DDS-HELLO"),
        (StatementKind::DdsAlive, "IFMESH-DDS-ALIVE"),
        (StatementKind::Registration, "IFMESH-REG"),
        (StatementKind::Checkpoint, "IFMESH-CKPT"),
        (StatementKind::Rotation, "IFMESH-ROT"),
        (StatementKind::Revocation, "IFMESH-REVOKE"),
    ];
    let mut items: Vec<Value> = kinds.into_iter().map(item).collect();
    let when = now().wall;
    let rotation = Rotation::sign(id("alice"), &alice(), &carol(), when);
    let key = |identity: Identity| hex(identity.public_key().as_bytes());
    items.push(json!({
        "rotation": {
            "agent": rotation.agent, "from": key(alice()), "to": key(carol()), "timestamp": when.to_string(),
            "signature_from": rotation.signature_from.to_hex(), "signature_to": rotation.signature_to.to_hex(),
        },
    }));
    let revocation = Revocation::sign(&alice(), *alice().public_key(), when);
    items.push(json!({
        "revocation": {
            "key": key(alice()), "timestamp": when.to_string(), "signature": revocation.signature.to_hex(),
            "by": key(alice()),
        },
    }));
    compare("statements.json", &items);
}

/// What Bob refuses. He trusts Alice and Carol, has no state, and it is `now`; `before` was admitted first.
#[test]
fn refusals() {
    let good = tree(&message(1, 1));
    let json = |tree: &serde_json::Map<String, Value>| bytes(tree).to_vec();
    let set = |name: &str, value: Value| {
        let mut tree = good.clone();
        tree.insert(name.to_owned(), value);
        tree
    };
    let resigned = |name: &str, value: Value| json(&sign_by_hand(seed("alice"), &set(name, value)));
    let signature = |name: &str, value: Value| {
        let mut tree = good.clone();
        tree["signature"][name] = value;
        json(&tree)
    };
    let binary = |messages: &[SignedMessage]| encode_binary(messages).unwrap().to_vec();
    let body = |sequence| -> UnsignedMessage { unsigned(to_bob(json!({ "claim": "open" })), 1, sequence) };
    let mut unsigned_message = good.clone();
    unsigned_message.remove("signature");
    let mut flipped = binary(&[message(1, 1)]);
    flipped[20] ^= 1;
    let mut cut = binary(&flight(3));
    cut.pop();
    let text = |message: &SignedMessage| String::from_utf8(message.to_json()).unwrap();
    let twice = text(&message(1, 1)).replacen("\"id\":", "\"i\\u0064\":\"m-0\",\"id\":", 1);
    let fields = good["signature"]["signed_fields"].as_array().unwrap();
    let batch = tree(&sign_flight(&alice(), vec![body(1), body(2), body(3)]).unwrap()[1]);
    let mut wrong_index = batch.clone();
    wrong_index["signature"]["batch"]["index"] = json!(0);
    let mut no_place = batch;
    no_place["signature"]["batch"]["index"] = json!(3);
    let at = |minutes: i64| json!(now().wall.plus_millis(minutes * 60_000).to_string());

    let cases: Vec<(&str, Vec<SignedMessage>, Vec<u8>)> = vec![
        ("no signature", vec![], json(&unsigned_message)),
        (
            "a stranger's key",
            vec![],
            json(&sign_by_hand(seed("mallory"), &good)),
        ),
        (
            "Carol's key for Alice",
            vec![],
            json(&sign_by_hand(seed("carol"), &good)),
        ),
        (
            "a changed payload",
            vec![],
            json(&set("payload", json!({ "claim": "open" }))),
        ),
        ("a flipped bit of the signature", vec![], flipped),
        (
            "signature that is no hex",
            vec![],
            signature("signature_bytes", json!("?".repeat(64))),
        ),
        (
            "signed_fields shortened",
            vec![],
            signature("signed_fields", json!(fields[1..].to_vec())),
        ),
        ("algorithm none", vec![], signature("algorithm", json!("none"))),
        (
            "a member twice, once through an escape",
            vec![],
            twice.into_bytes(),
        ),
        ("an unknown member", vec![], resigned("priority", json!(1))),
        (
            "null for an optional member",
            vec![],
            resigned("expires", Value::Null),
        ),
        ("version 2.0", vec![], resigned("version", json!("2.0"))),
        ("number 0", vec![], resigned("sequence_num", json!(0))),
        ("for Carol", vec![], resigned("destination", json!("carol"))),
        ("from Bob", vec![], resigned("source", json!("bob"))),
        ("expired", vec![], resigned("expires", at(-1))),
        ("six minutes old", vec![], resigned("timestamp", at(-6))),
        ("six minutes ahead", vec![], resigned("timestamp", at(6))),
        ("a replay", vec![message(1, 1)], text(&message(1, 1)).into_bytes()),
        (
            "a replay in the other form",
            vec![message(1, 1)],
            binary(&[message(1, 1)]),
        ),
        (
            "below the window",
            vec![message(1, 1_025)],
            binary(&[message(1, 1)]),
        ),
        (
            "an epoch that is over",
            vec![message(2, 1)],
            binary(&[message(1, 1)]),
        ),
        (
            "another message under its number",
            vec![message(1, 1)],
            binary(&[SignedMessage::sign(&alice(), body(1))]),
        ),
        ("another place in the flight", vec![], json(&wrong_index)),
        ("no place in the flight", vec![], json(&no_place)),
        ("a flight whose end is missing", vec![], cut),
    ];
    let item = |(name, before, frame): (&str, Vec<SignedMessage>, Vec<u8>)| {
        let mut gate = bob();
        for message in &before {
            admit(&mut gate, message.to_json()).unwrap();
        }
        let refused = admit(&mut gate, frame.clone()).unwrap_err().name();
        json!({
            "name": name,
            "before": before.iter().map(text).collect::<Vec<_>>(),
            "frame": hex(&frame),
            "refused": refused,
        })
    };
    let mut items = vec![json!({
        "receiver": "bob",
        "now": now().wall.to_string(),
        "max_age_seconds": 300,
        "trusted": { "alice": alice().public_key().to_hex(), "carol": carol().public_key().to_hex() },
    })];
    items.extend(cases.into_iter().map(item));
    compare("refusals.json", &items);
}
