//! The ten properties of the replay windows, one test each.
//!
//! 1. no number is delivered twice, under any interleaving of two or three paths
//! 2. any order in which no message is displaced by a window or more delivers all
//! 3. a bad signature changes no state
//! 4. jumps of 1, 63, 64, 65, W-1, W, W+1 and 2^53-1; 0 and numbers beyond 2^53-1 are refused
//! 5. epochs: up, down, back, grace and its end, restart with and without what was persisted
//! 6. same number, another digest: one equivocation, with both messages
//! 7. what left the window and comes again is too old
//! 8. a hundred thousand unknown keys make no windows
//! 9. a crash between check and commit loses nothing and delivers nothing twice
//! 10. a clock that runs backwards at a restart does not stop the epoch from growing
//!
//! Falsified by any sequence of events for which the guard and the models below disagree.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "support/world.rs"]
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
    time::Duration,
};

use ifmsg::{
    EPOCH_GRACE, Identity, MAX_SAFE_INTEGER, Mark, MessageDigest, Place, PublicKey, Rejection, ReplayGuard,
    SignedMessage, Stream, Timestamp, Verdict, WINDOW, encode_binary, sign_flight,
};
use proptest::{collection, prelude::*, sample};
use serde_json::json;
use world::*;

const START: Duration = Duration::from_secs(1_000);

fn key() -> PublicKey {
    static KEY: LazyLock<PublicKey> = LazyLock::new(|| *alice().public_key());
    *KEY
}

fn at(epoch: u64, sequence: u64) -> Place {
    Place {
        epoch,
        stream: Stream::Reliable,
        sequence,
    }
}

/// The digest of the message that belongs under this number, or of its `n`th forgery.
fn digest(sequence: u64, n: u8) -> MessageDigest {
    let mut bytes = [n; 32];
    bytes[..8].copy_from_slice(&sequence.to_be_bytes());
    bytes[0] = n;
    MessageDigest::from_bytes(bytes)
}

/// Check, verify, commit: as the gate does it. Whether the message is delivered.
fn take(guard: &mut ReplayGuard, place: Place, now: Duration) -> bool {
    let digest = digest(place.sequence, 0);
    let fresh = |verdict| matches!(verdict, Verdict::Fresh | Verdict::NewEpoch);
    fresh(guard.check(&key(), place, &digest, now)) && fresh(guard.commit(&key(), place, &digest, now))
}

// ------------------------------------------------------------------------------------------------------------------ 1

proptest! {
    /// Each path carries all messages in its own order and may repeat them; checks and commits of the paths interleave.
    #[test]
    fn p1_no_number_is_delivered_twice_under_any_interleaving(
        arrivals in collection::vec((0usize..3, 1u64..3_000, any::<bool>()), 1..400),
    ) {
        let mut guard = ReplayGuard::new();
        let mut delivered = BTreeSet::new();
        // What each path has checked and not committed yet: verification takes its time.
        let mut waiting: [Vec<u64>; 3] = Default::default();
        let mut commit = |guard: &mut ReplayGuard, sequence| {
            let verdict = guard.commit(&key(), at(1, sequence), &digest(sequence, 0), START);
            let fresh = matches!(verdict, Verdict::Fresh | Verdict::NewEpoch);
            assert!(!fresh || delivered.insert(sequence), "{sequence} was delivered twice");
        };
        for (path, sequence, commits) in arrivals {
            let verdict = guard.check(&key(), at(1, sequence), &digest(sequence, 0), START);
            if matches!(verdict, Verdict::Fresh | Verdict::NewEpoch) {
                waiting[path].push(sequence);
            }
            if commits {
                waiting[path].drain(..).for_each(|sequence| commit(&mut guard, sequence));
            }
        }
        waiting.into_iter().flatten().for_each(|sequence| commit(&mut guard, sequence));
    }

    /// The guard against the model that keeps everything: a set of (epoch, stream, number) and the highest of each.
    #[test]
    fn p1_the_guard_agrees_with_a_model_that_forgets_nothing(
        steps in collection::vec((
            prop_oneof![8 => Just(0u64), 1 => 0u64..3],
            sample::select(Stream::ALL.to_vec()),
            prop_oneof![1u64..20, 1000u64..1060, 2020u64..2080, 1u64..5_000],
            0u8..2,
            prop_oneof![6 => Just(0u64), 1 => 0u64..40_000],
            any::<bool>(),
        ), 1..300),
    ) {
        let mut guard = ReplayGuard::new();
        let mut model = Model::default();
        let mut now = START;
        for (epoch, stream, sequence, forgery, passed, commit) in steps {
            now += Duration::from_millis(passed);
            let place = Place { epoch, stream, sequence };
            let digest = digest(sequence, forgery);
            let expected = model.verdict(place, &digest, now);
            prop_assert_eq!(guard.check(&key(), place, &digest, now), expected, "{:?}", place);
            prop_assert_eq!(guard.check(&key(), place, &digest, now), expected, "checking changes nothing");
            if commit {
                prop_assert_eq!(guard.commit(&key(), place, &digest, now), expected);
                model.commit(expected, place, &digest, now);
            }
        }
    }
}

#[derive(Default)]
struct Model {
    seen: BTreeMap<(u64, usize, u64), MessageDigest>,
    current: Option<u64>,
    former: Option<(u64, Duration)>,
}

impl Model {
    fn verdict(&self, place: Place, digest: &MessageDigest, now: Duration) -> Verdict {
        match (self.current, self.former) {
            (None, _) => return Verdict::NewEpoch,
            (Some(current), _) if place.epoch > current => return Verdict::NewEpoch,
            (Some(current), _) if place.epoch == current => {}
            (_, Some((former, opened))) if place.epoch == former && now < opened + EPOCH_GRACE => {}
            _ => return Verdict::StaleEpoch,
        }
        let stream = place.stream as usize;
        let in_stream = (place.epoch, stream, 0)..=(place.epoch, stream, u64::MAX);
        let highest = self
            .seen
            .range(in_stream)
            .next_back()
            .map_or(0, |((_, _, n), _)| *n);
        if place.sequence + WINDOW <= highest {
            return Verdict::TooOld;
        }
        match self.seen.get(&(place.epoch, stream, place.sequence)) {
            None => Verdict::Fresh,
            Some(seen) if seen == digest => Verdict::Duplicate,
            Some(_) => Verdict::Conflict,
        }
    }

    fn commit(&mut self, verdict: Verdict, place: Place, digest: &MessageDigest, now: Duration) {
        if verdict == Verdict::NewEpoch {
            self.former = self.current.replace(place.epoch).map(|former| (former, now));
        }
        if matches!(verdict, Verdict::Fresh | Verdict::NewEpoch) {
            let place = (place.epoch, place.stream as usize, place.sequence);
            self.seen.insert(place, *digest);
        }
    }
}

// ------------------------------------------------------------------------------------------------------------------ 2

proptest! {
    /// Sorting by (number + random delay below the window) displaces no message by a window or more.
    #[test]
    fn p2_any_order_displaced_by_less_than_the_window_delivers_all(
        delays in collection::vec(0u64..WINDOW, 1..4_000),
        first in prop_oneof![Just(1u64), 1u64..1 << 50],
    ) {
        let mut order: Vec<(u64, u64)> = (first..).zip(&delays).map(|(n, delay)| (n + delay, n)).collect();
        order.sort();
        let mut guard = ReplayGuard::new();
        for (_, sequence) in order {
            prop_assert!(take(&mut guard, at(1, sequence), START), "{sequence} was lost");
        }
    }
}

// ------------------------------------------------------------------------------------------------------------------ 3

proptest! {
    #[test]
    fn p3_a_bad_signature_changes_no_state(
        epoch in 0u64..4, sequence in 1u64..5_000, bit in 0usize..512, first in 1u64..1_000,
    ) {
        let mut gate = bob();
        admit(&mut gate, message(1, first).to_json()).unwrap();
        let before = format!("{:?}", gate.replay());
        let draft = to_bob(json!({ "forged": true }));
        let mut frame = encode_binary(&[SignedMessage::sign(&alice(), unsigned(draft, epoch, sequence))]).unwrap().to_vec();
        frame[20 + bit / 8] ^= 1 << (bit % 8);
        prop_assert!(admit(&mut gate, frame).is_err());
        prop_assert_eq!(format!("{:?}", gate.replay()), before);
        prop_assert_eq!(gate.trust().bindings().len(), 2);
    }
}

// ------------------------------------------------------------------------------------------------------------------ 4

#[test]
fn p4_jumps_of_every_awkward_length() {
    for first in [1, 2, 63, 64, 1_023, 1_024, 1_025, 1 << 40] {
        for jump in [
            1,
            63,
            64,
            65,
            WINDOW - 1,
            WINDOW,
            WINDOW + 1,
            2 * WINDOW,
            MAX_SAFE_INTEGER - first,
        ] {
            let case = format!("{first} and {jump} more");
            let mut guard = ReplayGuard::new();
            let (low, high) = (at(1, first), at(1, first + jump));
            assert!(take(&mut guard, low, START), "{case}");
            assert!(take(&mut guard, high, START), "{case}");
            assert_eq!(guard.highest(&key(), Stream::Reliable), high.sequence, "{case}");
            let check = |guard: &ReplayGuard, place: Place| {
                guard.check(&key(), place, &digest(place.sequence, 0), START)
            };
            assert_eq!(check(&guard, high), Verdict::Duplicate, "{case}");
            let expected = if jump < WINDOW {
                Verdict::Duplicate
            } else {
                Verdict::TooOld
            };
            assert_eq!(check(&guard, low), expected, "{case}");
            // Everything between is fresh as far as the window reaches, and no slot kept an old tag.
            let reach = high.sequence.saturating_sub(WINDOW - 1).max(1);
            for sequence in (reach..high.sequence).filter(|&n| n != first) {
                assert_eq!(
                    check(&guard, at(1, sequence)),
                    Verdict::Fresh,
                    "{case}: {sequence}"
                );
            }
            if reach > 1 && reach - 1 != first {
                assert_eq!(check(&guard, at(1, reach - 1)), Verdict::TooOld, "{case}");
            }
        }
    }
}

#[test]
fn p4_numbers_out_of_range_are_refused_and_open_nothing() {
    let mut guard = ReplayGuard::new();
    for sequence in [0, MAX_SAFE_INTEGER + 1, u64::MAX - WINDOW, u64::MAX] {
        let digest = digest(sequence, 0);
        assert_eq!(
            guard.check(&key(), at(1, sequence), &digest, START),
            Verdict::OutOfRange
        );
        assert_eq!(
            guard.commit(&key(), at(1, sequence), &digest, START),
            Verdict::OutOfRange
        );
    }
    assert!(guard.is_empty());
    assert!(take(&mut guard, at(1, MAX_SAFE_INTEGER), START));
    assert!(take(&mut guard, at(1, MAX_SAFE_INTEGER - WINDOW + 1), START));
    assert!(!take(&mut guard, at(1, MAX_SAFE_INTEGER - WINDOW), START));
}

// ------------------------------------------------------------------------------------------------------------------ 5

#[test]
fn p5_an_epoch_opens_the_former_lives_on_for_its_grace_and_never_comes_back() {
    let mut guard = ReplayGuard::new();
    let check = |guard: &ReplayGuard, epoch, sequence, now| {
        guard.check(&key(), at(epoch, sequence), &digest(sequence, 0), now)
    };
    assert!(take(&mut guard, at(5, 1), START));
    assert_eq!(check(&guard, 4, 1, START), Verdict::StaleEpoch);
    assert_eq!(check(&guard, 6, 1, START), Verdict::NewEpoch);
    assert_eq!(guard.epoch(&key()), Some(5), "checking opens nothing");

    assert!(take(&mut guard, at(6, 1), START));
    assert_eq!(guard.epoch(&key()), Some(6));
    let last = START + EPOCH_GRACE - Duration::from_nanos(1);
    assert_eq!(
        check(&guard, 5, 1, last),
        Verdict::Duplicate,
        "the former window still knows"
    );
    assert!(take(&mut guard, at(5, 2), last), "a straggler is delivered");
    assert!(!take(&mut guard, at(5, 2), last), "once");
    assert_eq!(
        guard.epoch(&key()),
        Some(6),
        "a straggler does not turn the epoch back"
    );
    assert_eq!(check(&guard, 5, 3, START + EPOCH_GRACE), Verdict::StaleEpoch);

    // A third epoch: only the one before it lives on.
    assert!(take(&mut guard, at(9, 1), last));
    assert_eq!(check(&guard, 6, 2, last), Verdict::Fresh);
    assert_eq!(check(&guard, 5, 4, last), Verdict::StaleEpoch);
    assert_eq!(
        check(&guard, 7, 1, last),
        Verdict::StaleEpoch,
        "an epoch that was skipped stays closed"
    );
}

#[test]
fn p5_streams_and_keys_do_not_disturb_each_other() {
    let mut guard = ReplayGuard::new();
    let other = *carol().public_key();
    for stream in Stream::ALL {
        let place = Place {
            stream,
            ..at(1, 2_000)
        };
        assert!(take(&mut guard, place, START));
        assert!(take(
            &mut guard,
            Place {
                sequence: 977,
                ..place
            },
            START
        ));
        assert!(!take(
            &mut guard,
            Place {
                sequence: 976,
                ..place
            },
            START
        ));
    }
    assert_eq!(
        guard.commit(&other, at(1, 1), &digest(1, 0), START),
        Verdict::NewEpoch
    );
    assert_eq!(guard.len(), 2);
    guard.forget(&other);
    assert_eq!((guard.len(), guard.epoch(&other)), (1, None));
}

#[test]
fn p5_a_restart_with_what_was_persisted_opens_no_door() {
    let mark = Mark {
        epoch: 5,
        floors: [2_000, 0, 10, MAX_SAFE_INTEGER],
    };
    let stored = serde_json::to_string(&mark).unwrap();
    let mark = serde_json::from_str(&stored).unwrap();
    let mut guard = ReplayGuard::new();
    guard.restore(&key(), &mark);
    let verdict = |guard: &ReplayGuard, epoch, stream, sequence| {
        let place = Place {
            epoch,
            stream,
            sequence,
        };
        guard.check(&key(), place, &digest(sequence, 0), START)
    };
    for (stream, floor) in Stream::ALL.into_iter().zip(mark.floors) {
        for sequence in (floor.saturating_sub(3_000)..=floor).filter(|&n| n > 0) {
            assert_eq!(
                verdict(&guard, 5, stream, sequence),
                Verdict::TooOld,
                "{stream:?} {sequence}"
            );
        }
        if floor < MAX_SAFE_INTEGER {
            assert_eq!(verdict(&guard, 5, stream, floor + 1), Verdict::Fresh);
        }
        assert_eq!(verdict(&guard, 4, stream, floor.max(1)), Verdict::StaleEpoch);
        assert_eq!(verdict(&guard, 6, stream, 1), Verdict::NewEpoch);
    }
    // The stream goes on above its floor, and what lies below stays shut however the window moves.
    assert!(take(&mut guard, at(5, 2_001), START));
    assert!(take(&mut guard, at(5, 2_500), START));
    assert!(take(&mut guard, at(5, 2_400), START));
    assert_eq!(verdict(&guard, 5, Stream::Reliable, 2_000), Verdict::TooOld);

    // Restoring closes doors only.
    guard.restore(
        &key(),
        &Mark {
            epoch: 4,
            floors: [0; 4],
        },
    );
    assert_eq!(guard.epoch(&key()), Some(5));
    guard.restore(
        &key(),
        &Mark {
            epoch: 5,
            floors: [2_450, 0, 0, 0],
        },
    );
    assert_eq!(verdict(&guard, 5, Stream::Reliable, 2_500), Verdict::Duplicate);
    assert_eq!(verdict(&guard, 5, Stream::Reliable, 2_400), Verdict::Duplicate);
    assert_eq!(verdict(&guard, 5, Stream::Reliable, 2_449), Verdict::TooOld);
    assert_eq!(verdict(&guard, 5, Stream::ReliableBroadcast, 10), Verdict::TooOld);
    guard.restore(
        &key(),
        &Mark {
            epoch: 6,
            floors: [7; 4],
        },
    );
    assert_eq!(verdict(&guard, 5, Stream::Reliable, 2_501), Verdict::StaleEpoch);
}

#[test]
fn p5_a_raised_floor_shuts_everything_below_it() {
    let mut guard = ReplayGuard::new();
    assert!(take(&mut guard, at(1, 5), START));
    let verdict =
        |guard: &ReplayGuard, sequence| guard.check(&key(), at(1, sequence), &digest(sequence, 0), START);
    // Above what was seen, as when a sender gave numbers up.
    guard.raise_floor(&key(), 1, Stream::Reliable, 3_000);
    assert_eq!(verdict(&guard, 5), Verdict::Duplicate);
    for sequence in [1, 4, 6, 1_029, 2_999, 3_000] {
        assert_eq!(verdict(&guard, sequence), Verdict::TooOld, "{sequence}");
        assert!(!take(&mut guard, at(1, sequence), START));
    }
    assert_eq!(verdict(&guard, 3_001), Verdict::Fresh);
    // A floor never falls, and belongs to its epoch and stream.
    guard.raise_floor(&key(), 1, Stream::Reliable, 10);
    assert_eq!(verdict(&guard, 3_000), Verdict::TooOld);
    guard.raise_floor(&key(), 2, Stream::Reliable, 9_000);
    assert_eq!(verdict(&guard, 3_001), Verdict::Fresh);
    guard.raise_floor(carol().public_key(), 1, Stream::Reliable, 9_000);
    assert_eq!(guard.len(), 1, "no window for a key that has none");
}

#[test]
fn p5_a_restart_without_what_was_persisted_takes_no_old_epoch_for_new() {
    let month = Duration::from_secs(30 * 24 * 3_600);
    // Fresh state, a captured message of last month: it opens nothing, however often it comes.
    let mut gate = bob();
    for _ in 0..3 {
        let refused = admit_at(&mut gate, message(1, 1).to_json(), now_after(month))
            .pop()
            .unwrap();
        assert_eq!(refused.unwrap_err().reason, Rejection::NotLive);
    }
    assert!(gate.replay().is_empty());
    // Once a live message has opened the epoch, an older one of the same run is taken: it was resent.
    let mut live = stamp("alice", 1, 2);
    live.timestamp = now_after(month).wall;
    let live = to_bob(json!({})).stamp(live, &Default::default()).unwrap();
    let live = SignedMessage::sign(&alice(), live);
    assert!(admit_at(&mut gate, live.to_json(), now_after(month))[0].is_ok());
    assert!(admit_at(&mut gate, message(1, 1).to_json(), now_after(month))[0].is_ok());
}

// ------------------------------------------------------------------------------------------------------------------ 6

#[test]
fn p6_an_equivocation_is_reported_once_and_keeps_both_messages() {
    let mut gate = bob();
    let first = message(1, 1);
    admit(&mut gate, first.to_json()).unwrap();
    let lie = SignedMessage::sign(&alice(), unsigned(to_bob(json!({ "claim": "open" })), 1, 1));
    let refused = admit_all(&mut gate, lie.to_json()).pop().unwrap().unwrap_err();
    assert_eq!(refused.reason, Rejection::Equivocation);
    let proof = refused.rejected.unwrap().proof.expect("both messages");
    let kept = [
        proof.first.expect("the first is still known").as_signed().clone(),
        proof.second,
    ];
    assert_eq!(
        kept.each_ref().map(SignedMessage::digest),
        [first.digest(), lie.digest()]
    );
    // Both prove themselves to anybody who holds the key.
    for message in &kept {
        let flight = read(message.to_json()).unwrap();
        let judged = ifmsg::Admission::authenticate(&trust(), &flight);
        assert_eq!(judged[0].as_ref().unwrap().digest(), message.digest());
    }
    // Neither copy is news.
    for frame in [
        lie.to_json(),
        encode_binary(&[lie]).unwrap().to_vec(),
        first.to_json(),
    ] {
        assert_eq!(admit(&mut gate, frame).unwrap_err(), Rejection::Duplicate);
    }
    // A third message is.
    let third = SignedMessage::sign(&alice(), unsigned(to_bob(json!({ "claim": "lost" })), 1, 1));
    assert_eq!(
        admit(&mut gate, third.to_json()).unwrap_err(),
        Rejection::Equivocation
    );
}

/// Alone or of a flight, short or long, whatever has passed since: the latest thousand can be proved, but for one that is longer
/// than all others together may be.
#[test]
fn p6_each_of_the_latest_messages_proves_a_lie() {
    const LAST: u64 = 3_000;
    let mut gate = bob();
    let body = |n: u64, claim: &str| {
        let text = "x".repeat(usize::try_from(n * 7_919 % 700).unwrap());
        unsigned(to_bob(json!({ "claim": claim, "text": text })), 1, n)
    };
    let mut digests = BTreeMap::new();
    for first in (1..LAST).step_by(5) {
        // One alone, then a flight of four.
        for numbers in [first..=first, first + 1..=first + 4] {
            let flight = sign_flight(&alice(), numbers.map(|n| body(n, "agreed")).collect()).unwrap();
            digests.extend(
                flight
                    .iter()
                    .map(|message| (message.header().sequence, message.digest())),
            );
            for outcome in admit_all(&mut gate, encode_binary(&flight).unwrap().to_vec()) {
                assert!(outcome.is_ok());
            }
        }
    }
    let long = to_bob(json!({ "text": "x".repeat(1_100_000) }));
    let long = SignedMessage::sign(&alice(), unsigned(long, 1, LAST + 1));
    admit(&mut gate, long.to_json()).unwrap();
    let mut proof_of = |n: u64| {
        let lie = SignedMessage::sign(&alice(), body(n, "open"));
        let refused = admit_all(&mut gate, lie.to_json()).pop().unwrap().unwrap_err();
        assert_eq!(refused.reason, Rejection::Equivocation, "{n}");
        refused.rejected.unwrap().proof.unwrap().first
    };
    for n in LAST - 1_022..=LAST {
        let first = proof_of(n).expect("it is still known");
        assert_eq!(first.digest(), digests[&n]);
        // It proves itself to anybody who holds the key.
        let flight = read(first.as_signed().to_json()).unwrap();
        let judged = ifmsg::Admission::authenticate(&trust(), &flight);
        assert_eq!(judged[0].as_ref().unwrap().digest(), digests[&n]);
    }
    assert!(proof_of(LAST + 1).is_none());
}

#[test]
fn p6_without_a_valid_signature_it_is_nobodys_lie() {
    let mut gate = bob();
    admit(&mut gate, message(1, 1).to_json()).unwrap();
    let mut frame = encode_binary(&[SignedMessage::sign(&mallory(), unsigned(to_bob(json!({})), 1, 1))])
        .unwrap()
        .to_vec();
    frame[8..16].copy_from_slice(alice().key_id().as_bytes());
    let refused = admit_all(&mut gate, frame).pop().unwrap().unwrap_err();
    assert_eq!(refused.reason, Rejection::BadSignature);
    assert!(refused.rejected.unwrap().proof.is_none());
}

// ------------------------------------------------------------------------------------------------------------------ 7

proptest! {
    #[test]
    fn p7_what_left_the_window_and_comes_again_is_too_old(
        first in 1u64..1 << 40, behind in 0u64..5_000, moved in WINDOW..10_000, forgery in 0u8..2,
    ) {
        let mut guard = ReplayGuard::new();
        prop_assert!(take(&mut guard, at(1, first), START));
        prop_assert!(take(&mut guard, at(1, first + moved), START));
        let old = first.saturating_sub(behind).max(1);
        let verdict = guard.commit(&key(), at(1, old), &digest(old, forgery), START);
        prop_assert_eq!(verdict, Verdict::TooOld);
    }
}

// ------------------------------------------------------------------------------------------------------------------ 8

#[test]
fn p8_a_hundred_thousand_unknown_keys_make_no_windows() {
    let mut gate = bob();
    let frame = encode_binary(&[message(1, 1)]).unwrap();
    let mut forged = frame.to_vec();
    for n in 0u64..100_000 {
        forged[8..16].copy_from_slice(&n.to_be_bytes());
        let refused = admit(&mut gate, forged.clone()).unwrap_err();
        assert_eq!(refused.name(), "unknown-key");
    }
    // In JSON each brings a whole key and a good signature of its own.
    for n in 0u64..500 {
        let mut seed = [9; 32];
        seed[..8].copy_from_slice(&n.to_be_bytes());
        let stranger = SignedMessage::sign(&Identity::from_seed(&seed), unsigned(to_bob(json!({})), 1, 1));
        assert_eq!(
            admit(&mut gate, stranger.to_json()).unwrap_err().name(),
            "unknown-key"
        );
    }
    assert!(gate.replay().is_empty());
    assert_eq!(gate.trust().bindings().len(), 2);
    assert!(admit(&mut gate, frame).is_ok());
}

// ------------------------------------------------------------------------------------------------------------------ 9

proptest! {
    /// The receiver persists its floor, then crashes between check and commit of some message.
    #[test]
    fn p9_a_crash_between_check_and_commit_loses_nothing_and_repeats_nothing(
        before in 1u64..3_000, crash_at in 1u64..20,
    ) {
        let mut guard = ReplayGuard::new();
        for sequence in 1..=before {
            prop_assert!(take(&mut guard, at(3, sequence), START));
        }
        let next = before + crash_at;
        let checked = guard.check(&key(), at(3, next), &digest(next, 0), START);
        prop_assert_eq!(checked, Verdict::Fresh);
        drop(guard);

        let mut guard = ReplayGuard::new();
        guard.restore(&key(), &Mark { epoch: 3, floors: [before, 0, 0, 0] });
        for sequence in 1..=before {
            prop_assert!(!take(&mut guard, at(3, sequence), START), "{} again", sequence);
        }
        for sequence in before + 1..=next {
            prop_assert!(take(&mut guard, at(3, sequence), START), "{} was lost", sequence);
        }
    }
}

// ----------------------------------------------------------------------------------------------------------------- 10

proptest! {
    /// The rule for a start, `max(persisted + 1, unix milliseconds)`, against a receiver that has seen the run before.
    #[test]
    fn p10_a_clock_that_runs_backwards_does_not_stop_the_epoch(
        starts in collection::vec(-100_000_000i64..100_000_000, 2..20),
    ) {
        let mut guard = ReplayGuard::new();
        let mut persisted = 0;
        let mut now = START;
        for clock in starts {
            let wall = Timestamp::from_unix_millis(NOW_MILLIS + clock);
            let epoch = (persisted + 1).max(wall.unix_millis() as u64);
            prop_assert!(epoch > persisted);
            prop_assert_eq!(guard.check(&key(), at(epoch, 1), &digest(1, 0), now), Verdict::NewEpoch);
            prop_assert!(take(&mut guard, at(epoch, 1), now));
            prop_assert!(!take(&mut guard, at(epoch, 1), now));
            persisted = epoch;
            now += EPOCH_GRACE;
        }
    }
}

#[test]
fn p10_the_receivers_own_clock_may_run_backwards() {
    let mut gate = bob();
    assert!(admit(&mut gate, message(1, 1).to_json()).is_ok());
    let mut earlier = now();
    earlier.wall = earlier.wall.plus_millis(-3_600_000);
    assert!(
        admit_at(&mut gate, message(1, 2).to_json(), earlier)[0].is_ok(),
        "an open epoch stays open"
    );
    let again = admit_at(&mut gate, message(1, 1).to_json(), earlier)
        .pop()
        .unwrap();
    assert_eq!(again.unwrap_err().reason, Rejection::Duplicate);
}
