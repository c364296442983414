//! A proof convinces somebody who has public keys and nothing else, of what is so and of nothing else.
//!
//! Falsified by a proof of a line that is in the log and does not check, or by one that checks after any change to it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod common;

use std::path::Path;

use common::*;
use ifmesh_witness::{
    ConsistencyProof, Entry, Event, Log, LogKeys, Mention, ProofError, ProveError, VerifyError,
    check_consistency_proof, check_proof, prove, prove_consistency, read,
};
use ifmsg::{Identity, MessageDigest};

#[test]
fn every_line_about_a_message_is_proved_and_for_that_message_only() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(settings(dir.path()), identity(), at(0)).unwrap();
    for number in 0..20 {
        log.append(at(1), &sent(number)).unwrap();
    }
    let acknowledged = Entry::new(Event::IfmessageAcknowledged).message(Mention::new(digest(7)));
    log.append(at(2), &acknowledged).unwrap();
    log.checkpoint().unwrap();
    // Beyond the last checkpoint: in the log, and not proved.
    log.append(at(3), &sent(99)).unwrap();
    log.commit().unwrap();
    let proofs = prove(dir.path(), &keys(), &digest(7)).unwrap();
    let events: Vec<_> = proofs
        .iter()
        .map(|proof| {
            let json = serde_json::to_vec(proof).unwrap();
            assert_eq!(
                check_proof(&json, &keys(), &digest(8)),
                Err(ProofError::OtherMessage)
            );
            check_proof(&json, &keys(), &digest(7)).unwrap().event
        })
        .collect();
    assert_eq!(events, [Event::IfmessageSent, Event::IfmessageAcknowledged]);
    for number in 0..20 {
        assert!(!prove(dir.path(), &keys(), &digest(number)).unwrap().is_empty());
    }
    assert_eq!(prove(dir.path(), &keys(), &digest(99)), Ok(vec![]));
    assert_eq!(prove(dir.path(), &keys(), &digest(1_000)), Ok(vec![]));
}

/// Falsified by a message that is proved to be what another of its line is.
#[test]
fn each_of_the_messages_of_one_line_is_proved_for_itself() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _) = Log::open(settings(dir.path()), identity(), at(0)).unwrap();
    log.append(at(1), &sent_together(5..25)).unwrap();
    log.close(at(2)).unwrap();
    for number in 5..25 {
        let proofs = prove(dir.path(), &keys(), &digest(number)).unwrap();
        assert_eq!(proofs.len(), 1);
        let json = serde_json::to_vec(&proofs[0]).unwrap();
        let record = check_proof(&json, &keys(), &digest(number)).unwrap();
        assert_eq!(
            (record.seq, record.event, record.digest),
            (1, Event::IfmessageSent, Some(digest(number)))
        );
        let said = |name: &str| record.metadata.get(name).cloned();
        assert_eq!(said("message_id"), Some(format!("1-{number}").into()));
        assert_eq!(said("conversation"), Some(format!("talk-{}", number / 10).into()));
        assert_eq!(said("attempt"), Some(1u32.into()));
        assert!(record.messages.is_empty());
        for other in [4, 25] {
            let refused = check_proof(&json, &keys(), &digest(other));
            assert_eq!(refused, Err(ProofError::OtherMessage));
        }
    }
    let mut told = Vec::new();
    read(dir.path(), &keys(), |record| told.extend(record.digest)).unwrap();
    assert_eq!(told, (5..25).map(digest).collect::<Vec<_>>());
}

#[test]
fn no_changed_bit_still_proves() {
    let dir = tempfile::tempdir().unwrap();
    small_log(dir.path(), 5);
    for (of, seq) in [(digest(2), 3), (digest(101), 2)] {
        no_changed_bit_proves(dir.path(), &of, seq);
    }
}

fn no_changed_bit_proves(dir: &Path, of: &MessageDigest, seq: u64) {
    let proof = prove(dir, &keys(), of).unwrap().remove(0);
    let json = serde_json::to_vec(&proof).unwrap();
    let record = check_proof(&json, &keys(), of).unwrap();
    assert_eq!(record.seq, seq);
    for place in 0..json.len() {
        for bit in 0..8 {
            let mut changed = json.clone();
            changed[place] ^= 1 << bit;
            assert!(check_proof(&changed, &keys(), of).is_err(), "{place} {bit}");
        }
    }
    let stranger = LogKeys::new(agent(), *Identity::from_seed(&[14; 32]).public_key());
    assert!(check_proof(&json, &stranger, of).is_err());
}

#[test]
fn growth_is_proved_from_every_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    small_log(dir.path(), 12);
    for note in notes(dir.path()) {
        let proof = prove_consistency(dir.path(), &keys(), &note).unwrap();
        let json = serde_json::to_vec(&proof).unwrap();
        assert_eq!(check_consistency_proof(&json, &keys()).unwrap().size(), 14);
        let without = ConsistencyProof {
            path: Vec::new(),
            ..proof.clone()
        };
        let expected = if proof.path.is_empty() {
            Ok(14)
        } else {
            Err(ProofError::Path)
        };
        let json = serde_json::to_vec(&without).unwrap();
        assert_eq!(
            check_consistency_proof(&json, &keys()).map(|new| new.size()),
            expected
        );
    }
}

#[test]
fn two_histories_of_one_size_are_proof_of_a_fork() {
    let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    small_log(one.path(), 3);
    let (mut log, _) = Log::open(settings(other.path()), identity(), at(0)).unwrap();
    for number in 10..14 {
        log.append(at(1), &sent(number)).unwrap();
    }
    let forged = log.checkpoint().unwrap().note().to_owned();
    let held = notes(one.path()).pop().unwrap();
    let proof = ConsistencyProof {
        old: held.clone(),
        new: forged,
        path: Vec::new(),
    };
    let json = serde_json::to_vec(&proof).unwrap();
    assert_eq!(check_consistency_proof(&json, &keys()), Err(ProofError::Forked));
    assert_eq!(
        prove_consistency(other.path(), &keys(), &held),
        Err(ProveError::Log(VerifyError::Forked { size: 5 }))
    );
}
