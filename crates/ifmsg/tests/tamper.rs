//! A changed byte is a refused message, whichever byte it is.
//!
//! Every single bit of messages in both encodings is flipped in turn. Falsified by a flip that is admitted with other content.
//! A flip may leave the very same document in another spelling (`1e+30` as `1E+30` in JSON): it must then give the same digest,
//! and which flips those are is asserted as well, so that the list cannot grow unseen.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "support/drafts.rs"]
mod drafts;
#[path = "support/world.rs"]
mod world;

use bytes::Bytes;
use drafts::meant;
use ifmsg::{
    Delivery, Level, MessageDigest, Performative, SignedMessage, TraceId, encode_binary, sign_flight,
};
use proptest::{collection, prelude::*, sample};
use serde_json::json;
use world::*;

/// A message with every member, and with everything in its payload that can be spelled in more than one way.
fn full(sequence: u64) -> ifmsg::UnsignedMessage {
    let draft = to_bob(json!({
        "float": 1e30, "control": "\u{1f}\n", "slash": "/", "text": "ä€😀", "list": [0, -1, true, null, ""], "sequence": sequence,
    }))
    .level(Level::Module)
    .performative(Performative::QueryIf)
    .conversation("c-1".try_into().unwrap())
    .in_reply_to("m-0".try_into().unwrap())
    .trace(TraceId::from_bytes([0xab; 12]))
    .citation("if://citation/4711")
    .delivery(Delivery::BestEffort)
    .expires(now().wall.plus_millis(60_000))
    .extension("x_note", json!("signed"));
    unsigned(draft, 1, sequence)
}

fn full_flight(size: u64) -> Vec<SignedMessage> {
    sign_flight(&alice(), (1..=size).map(full).collect()).unwrap()
}

/// The digests of what is admitted out of a frame.
fn admitted(frame: impl Into<Bytes>) -> Vec<MessageDigest> {
    let outcomes = admit_all(&mut bob(), frame);
    outcomes
        .into_iter()
        .flatten()
        .map(|message| message.digest())
        .collect()
}

/// Flips each bit of a frame and returns, as text, the changed surroundings of the flips that were admitted.
fn harmless_flips(frame: &[u8]) -> Vec<String> {
    let good = admitted(frame.to_vec());
    assert!(!good.is_empty(), "the frame itself is good");
    let mut harmless = Vec::new();
    let mut frame = frame.to_vec();
    for at in 0..frame.len() {
        for bit in 0..8 {
            frame[at] ^= 1 << bit;
            let digests = admitted(frame.clone());
            if !digests.is_empty() {
                let around = String::from_utf8_lossy(&frame[at.saturating_sub(2)..at + 3]).into_owned();
                assert_eq!(digests, good, "{around}");
                harmless.push(around);
            }
            frame[at] ^= 1 << bit;
        }
    }
    harmless
}

#[test]
fn every_bit_of_a_json_message() {
    let message = SignedMessage::sign(&alice(), full(1));
    // Capital E of an exponent and a capital digit of an escape: the same document, so the same digest.
    assert_eq!(harmless_flips(&message.to_json()), ["01F\\n", ":1E+3"]);
}

#[test]
fn every_bit_of_a_json_message_of_a_flight() {
    let flight = full_flight(3);
    assert_eq!(harmless_flips(&flight[1].to_json()), ["01F\\n", ":1E+3"]);
}

#[test]
fn every_bit_of_a_binary_frame() {
    let frame = encode_binary(&[SignedMessage::sign(&alice(), full(1))]).unwrap();
    assert_eq!(harmless_flips(&frame), [""; 0]);
}

#[test]
fn every_bit_of_a_whole_flight() {
    assert_eq!(harmless_flips(&encode_binary(&full_flight(3)).unwrap()), [""; 0]);
}

#[test]
fn every_bit_of_a_part_of_a_flight() {
    let flight = full_flight(3);
    let part = [flight[0].clone(), flight[2].clone()];
    assert_eq!(harmless_flips(&encode_binary(&part).unwrap()), [""; 0]);
}

#[test]
fn every_cut_and_every_missing_or_doubled_byte() {
    let flight = full_flight(3);
    for frame in [
        flight[1].to_json(),
        encode_binary(&flight).unwrap().to_vec(),
        encode_binary(&flight[1..]).unwrap().to_vec(),
    ] {
        let good = admitted(frame.clone());
        for at in 0..frame.len() {
            assert_eq!(admitted(frame[..at].to_vec()), [], "cut at {at}");
            let without = [&frame[..at], &frame[at + 1..]].concat();
            let doubled = [&frame[..=at], &frame[at..]].concat();
            for changed in [without, doubled] {
                if changed == frame {
                    continue;
                }
                let digests = admitted(changed.clone());
                // `1e+30` as `1e30` is the same number.
                let spelled = digests == good && ifmsg::canonical::check(&frame, &Default::default()).is_ok();
                assert!(
                    digests.is_empty() || spelled,
                    "{}",
                    String::from_utf8_lossy(&changed)
                );
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn random_damage_is_refused_or_does_no_harm(
        meant in collection::vec(meant(), 1..4),
        form in 0..3,
        edits in collection::vec((any::<sample::Index>(), any::<u8>(), 0..3), 1..6),
    ) {
        let messages = sign_flight(&alice(), meant.iter().zip(1..).map(|(meant, n)| meant.unsigned(7, n)).collect()).unwrap();
        let good: Vec<_> = messages.iter().map(SignedMessage::digest).collect();
        let mut frame = match form {
            0 => messages[0].to_json(),
            1 => encode_binary(&messages).unwrap().to_vec(),
            _ => encode_binary(&messages[messages.len() - 1..]).unwrap().to_vec(),
        };
        for (at, byte, edit) in edits {
            let at = at.index(frame.len());
            match edit {
                0 => frame[at] = byte,
                1 => frame.insert(at, byte),
                _ => drop(frame.remove(at)),
            }
        }
        for digest in admitted(frame) {
            prop_assert!(good.contains(&digest));
        }
    }

    #[test]
    fn parts_of_two_good_messages_make_no_third(
        (one, other) in (meant(), meant()),
        form in 0..3,
        cuts: [sample::Index; 4],
    ) {
        let of = |meant: &drafts::Meant| {
            let flight = sign_flight(&alice(), vec![meant.unsigned(7, 1), meant.unsigned(7, 2)]).unwrap();
            let frame = match form {
                0 => flight[0].to_json(),
                1 => encode_binary(&flight).unwrap().to_vec(),
                _ => encode_binary(&flight[..1]).unwrap().to_vec(),
            };
            (frame, flight.iter().map(SignedMessage::digest).collect::<Vec<_>>())
        };
        let ((one, mut good), (other, more)) = (of(&one), of(&other));
        good.extend(more);
        let range = |frame: &[u8], a: sample::Index, b: sample::Index| {
            let (a, b) = (a.index(frame.len()), b.index(frame.len()));
            a.min(b)..a.max(b)
        };
        let (hole, piece) = (range(&one, cuts[0], cuts[1]), range(&other, cuts[2], cuts[3]));
        let same_place = hole.start.min(other.len())..hole.end.min(other.len());
        for piece in [piece, same_place] {
            let spliced = [&one[..hole.start], &other[piece], &one[hole.end..]].concat();
            for digest in admitted(spliced) {
                prop_assert!(good.contains(&digest));
            }
        }
    }

    /// Splices that keep the syntax: members of one message in another.
    #[test]
    fn members_of_two_good_messages_make_no_third((one, other) in (meant(), meant()), take: u32) {
        let message = |meant: &drafts::Meant| SignedMessage::sign(&alice(), meant.unsigned(7, 1));
        let (one, other) = (message(&one), message(&other));
        let (mut mixed, from) = (tree(&one), tree(&other));
        for (n, (name, value)) in from.into_iter().enumerate() {
            if take >> n & 1 == 1 {
                mixed.insert(name, value);
            }
        }
        for digest in admitted(bytes(&mixed)) {
            prop_assert!([one.digest(), other.digest()].contains(&digest));
        }
    }
}
