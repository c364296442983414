//! What was meant is what is read: any draft, signed alone or in a flight, in either encoding, through every conversion.
//!
//! Falsified by a field, payload or extension that is read as anything but what was written, by a digest that depends on the
//! encoding, or by a conversion and its inverse that do not give the same bytes back.

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
use drafts::{Meant, meant, respell, same};
use ifmsg::{MessageDigest, SignedMessage, VerifiedMessage, encode_binary, sign_flight};
use proptest::{collection, prelude::*, sample};
use serde_json::Value;
use world::*;

fn signed(meant: &[Meant]) -> Vec<SignedMessage> {
    let messages = meant.iter().zip(1..).map(|(meant, n)| meant.unsigned(7, n));
    sign_flight(&alice(), messages.collect()).unwrap()
}

fn assert_is_meant(read: &VerifiedMessage, meant: &Meant, sequence: u64) {
    let header = read.header();
    assert_eq!(header.id, meant.id);
    assert_eq!(header.timestamp, meant.timestamp);
    assert_eq!(header.level, meant.level);
    assert_eq!(header.source, id("alice"));
    assert_eq!(header.destination, meant.destination);
    assert_eq!(header.performative, meant.performative);
    assert_eq!(header.conversation_id, meant.conversation_id);
    assert_eq!(header.in_reply_to, meant.in_reply_to);
    assert_eq!(header.trace_id, meant.trace_id);
    assert_eq!(header.citation_ids, meant.citation_ids);
    assert_eq!((header.epoch, header.sequence), (7, sequence));
    assert_eq!(header.delivery, meant.delivery);
    assert_eq!(header.expires, meant.expires);
    let payload = Value::Object(meant.payload.clone());
    assert!(
        same(&read.payload(), &payload),
        "{} for {payload}",
        read.payload()
    );
    for (name, value) in &meant.extensions {
        let read = read.extension(name).expect("the extension is there");
        assert!(same(&read, value), "{read} for {value}");
    }
    assert_eq!(read.extension("x_none"), None);
    assert_eq!(read.extension("payload"), None, "only extensions");
}

fn digests(messages: &[SignedMessage]) -> Vec<MessageDigest> {
    messages.iter().map(SignedMessage::digest).collect()
}

/// Turns a frame into JSON messages and each of them back into a frame.
fn there_and_back(frame: &Bytes) -> (Vec<Vec<u8>>, Vec<Bytes>) {
    let flight = read(frame.clone()).unwrap();
    assert_eq!(flight.to_binary(), frame, "what was read is written as it was");
    let json = flight.to_json(alice().public_key());
    let frames = json.iter().map(|json| {
        let one = read(json.clone()).unwrap();
        assert_eq!(
            one.to_json(alice().public_key()),
            std::slice::from_ref(json),
            "what was read is written as it was"
        );
        one.to_binary()
    });
    let frames = frames.collect();
    (json, frames)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn a_flight_is_read_as_it_was_meant(meant in collection::vec(meant(), 1..=12)) {
        let messages = signed(&meant);
        let frame = encode_binary(&messages).unwrap();
        let mut gate = bob();
        for ((read, meant), n) in admit_all(&mut gate, frame).iter().zip(&meant).zip(1..) {
            assert_is_meant(read.as_ref().unwrap(), meant, n);
        }
        // Each alone, in JSON, at a gate of its own.
        for ((message, meant), n) in messages.iter().zip(&meant).zip(1..) {
            let read = admit(&mut bob(), message.to_json()).unwrap();
            assert_is_meant(&read, meant, n);
            prop_assert_eq!(read.digest(), message.digest());
            prop_assert_eq!(read.as_signed().to_json(), message.to_json());
        }
    }

    #[test]
    fn json_in_any_spelling_is_the_same_message(meant in meant(), seed: u64) {
        let message = &signed(std::slice::from_ref(&meant))[0];
        let canonical = message.to_json();
        prop_assert!(ifmsg::canonical::check(&canonical, &Default::default()).is_ok());
        let tree: Value = serde_json::from_slice(&canonical).unwrap();
        let spelled = respell(&tree, seed);
        let read = admit(&mut bob(), spelled.clone()).unwrap();
        prop_assert_eq!(read.digest(), message.digest());
        assert_is_meant(&read, &meant, 1);
        prop_assert_eq!(read.as_signed().to_json(), canonical, "{}", spelled);
    }

    #[test]
    fn any_part_of_a_flight_survives_conversion(meant in meant(), size in 1u64..=40, pick: sample::Index, seed: u64) {
        // One draft, numbered anew: what differs between the messages is what is tested above.
        let meant = vec![meant; size as usize];
        let messages = signed(&meant);
        let part: Vec<_> = messages
            .iter()
            .enumerate()
            .filter(|(n, _)| *n == pick.index(messages.len()) || seed >> (n % 64) & 1 == 1)
            .map(|(_, message)| message.clone())
            .collect();
        let frame = encode_binary(&part).unwrap();
        let (json, frames) = there_and_back(&frame);
        for ((message, json), frame) in part.iter().zip(&json).zip(frames) {
            prop_assert_eq!(&message.to_json(), json);
            prop_assert_eq!(frame, encode_binary(std::slice::from_ref(message)).unwrap());
        }
        let all = admit_all(&mut bob(), frame.clone());
        let read: Vec<_> = all.into_iter().map(Result::unwrap).collect();
        prop_assert_eq!(
            read.iter().map(VerifiedMessage::digest).collect::<Vec<_>>(),
            digests(&part)
        );
        // What was admitted is evidence, and is sent on as it came.
        let evidence: Vec<_> = read.iter().map(|read| read.as_signed().clone()).collect();
        prop_assert_eq!(encode_binary(&evidence).unwrap(), frame);
    }
}

#[test]
fn every_subset_of_every_small_flight_survives_conversion() {
    for size in 1..=7 {
        let messages = flight(size);
        for subset in 1u32..1 << size {
            let part: Vec<_> = messages
                .iter()
                .enumerate()
                .filter(|(n, _)| subset >> n & 1 == 1)
                .map(|(_, message)| message.clone())
                .collect();
            let frame = encode_binary(&part).unwrap();
            there_and_back(&frame);
            let read = admit_all(&mut bob(), frame);
            let read: Vec<_> = read.into_iter().map(|one| one.unwrap().digest()).collect();
            assert_eq!(read, digests(&part), "{subset:b} of {size}");
        }
    }
}

#[test]
fn a_flight_of_256_is_read_and_one_of_257_is_not_signed() {
    let messages = flight(256);
    let frame = encode_binary(&messages).unwrap();
    assert!(admit_all(&mut bob(), frame).iter().all(Result::is_ok));
    assert!(admit(&mut bob(), messages[255].to_json()).is_ok());
    let again = (1..=257).map(|n| unsigned(to_bob(serde_json::json!({})), 1, n));
    assert_eq!(
        sign_flight(&alice(), again.collect()).unwrap_err(),
        ifmsg::FlightSize
    );
    assert_eq!(sign_flight(&alice(), vec![]).unwrap_err(), ifmsg::FlightSize);
}

#[test]
fn a_frame_takes_messages_of_one_flight_in_order() {
    let (one, other) = (flight(3), flight(4));
    let refused = Err(ifmsg::NotOneFlight);
    assert_eq!(encode_binary(&[]), refused);
    assert_eq!(encode_binary(&[one[1].clone(), one[0].clone()]), refused);
    assert_eq!(encode_binary(&[one[0].clone(), one[0].clone()]), refused);
    assert_eq!(encode_binary(&[one[0].clone(), other[1].clone()]), refused);
    assert_eq!(encode_binary(&[message(1, 1), message(1, 2)]), refused);
}

#[test]
fn a_kept_message_keeps_no_large_frame() {
    let big = unsigned(to_bob(serde_json::json!({ "big": "b".repeat(1 << 20) })), 1, 1);
    let small = unsigned(to_bob(serde_json::json!({ "n": 2 })), 1, 2);
    let messages = sign_flight(&alice(), vec![big, small]).unwrap();
    let frame = encode_binary(&messages).unwrap();
    let frame_at = frame.as_ptr_range();
    let read = admit_all(&mut bob(), frame.clone());
    let lies_in_the_frame = |n: usize| frame_at.contains(&read[n].as_ref().unwrap().payload_bytes().as_ptr());
    assert!(
        lies_in_the_frame(0),
        "a message that is most of its frame is not copied"
    );
    assert!(
        !lies_in_the_frame(1),
        "a small one must not keep a megabyte alive"
    );
}
