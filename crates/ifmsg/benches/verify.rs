//! What a verified message costs beside a strict Ed25519 verification by the library, and nothing else.
//!
//! Prints, as its last line, `verified message / bare verify_strict (300 B): <ratio>`. Both are measured in one loop, turn by
//! turn, so that a machine whose speed changes changes both. 0.56 was measured, with JSON 0.59: the gate has a table for a key that
//! it has heard often, which saves far more than all else costs. Without it the ratios were 1.05 and 1.08.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a bench fails by panicking"
)]
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]

#[path = "../tests/support/world.rs"]
mod world;

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput};
use ed25519_dalek::Signer as _;
use ifmsg::{
    Admission, SignedMessage, UnsignedMessage, canonical::Limits, decode, encode_binary, sign_flight,
};
use serde_json::json;
use world::*;

/// Bodies of about 300 bytes.
fn body(sequence: u64) -> UnsignedMessage {
    let text = "the claim is settled, the costs are shared; both parties sign within the week, and the clerk files it by noon";
    let draft = to_bob(json!({ "claim": text, "amount": 4711, "n": sequence }));
    unsigned(draft, 1, sequence)
}

fn alone(sequence: u64) -> SignedMessage {
    SignedMessage::sign(&alice(), body(sequence))
}

/// Decodes and admits one frame, all of whose messages are good.
fn receive(gate: &mut Admission, frame: &Bytes, limits: &Limits) {
    let flight = decode(frame, limits).unwrap();
    let admitted = gate.admit(&flight, now(), &Open);
    assert!(
        admitted
            .iter()
            .all(|one| matches!(one, ifmsg::Admitted::Message { .. }))
    );
    black_box(admitted);
}

fn verify(c: &mut Criterion) {
    let limits = Limits::default();
    let frames = |size: u64| {
        move || {
            let messages = sign_flight(&alice(), (1..=size).map(body).collect()).unwrap();
            (bob(), encode_binary(&messages).unwrap())
        }
    };
    let mut group = c.benchmark_group("receive, per frame");
    for size in [1, 8, 64, 256] {
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::new("binary flight of", size), |b| {
            b.iter_batched_ref(
                frames(size),
                |(gate, frame)| receive(gate, frame, &limits),
                BatchSize::SmallInput,
            );
        });
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("json", |b| {
        let set_up = || (bob(), Bytes::from(alone(1).to_json()));
        b.iter_batched_ref(
            set_up,
            |(gate, frame)| receive(gate, frame, &limits),
            BatchSize::SmallInput,
        );
    });
    group.bench_function("duplicate", |b| {
        let (mut gate, frame) = frames(1)();
        receive(&mut gate, &frame, &limits);
        b.iter(|| black_box(gate.admit(&decode(&frame, &limits).unwrap(), now(), &Open)));
    });
    group.finish();

    let mut group = c.benchmark_group("sign, per flight");
    for size in [1, 8, 64, 256] {
        let (identity, bodies): (_, Vec<_>) = (alice(), (1..=size).map(body).collect());
        group.throughput(Throughput::Elements(size));
        group.bench_function(BenchmarkId::from_parameter(size), |b| {
            b.iter_batched(
                || bodies.clone(),
                |bodies| encode_binary(&sign_flight(&identity, bodies).unwrap()).unwrap(),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

const ROUNDS: u64 = 4_000;

/// The requirement: a verified message may cost a tenth more than its verification by the library.
fn ratio() {
    let limits = Limits::default();
    let identity = alice();
    let frames: Vec<(Bytes, Bytes)> = (1..=ROUNDS)
        .map(|n| {
            let message = alone(n);
            (
                encode_binary(std::slice::from_ref(&message)).unwrap(),
                message.to_json().into(),
            )
        })
        .collect();
    let bare = ed25519_dalek::SigningKey::from_bytes(&[1; 32]);
    let bytes = [0x61; 300];
    let signature = bare.sign(&bytes);
    let key = bare.verifying_key();
    assert_eq!(key.as_bytes(), identity.public_key().as_bytes());

    let (mut by_binary, mut by_json) = (bob(), bob());
    let mut times: [Vec<Duration>; 3] = Default::default();
    for (binary, json) in &frames {
        let mut turn = |n: usize, work: &mut dyn FnMut()| {
            let start = Instant::now();
            work();
            times[n].push(start.elapsed());
        };
        turn(0, &mut || {
            key.verify_strict(black_box(&bytes), &signature).unwrap()
        });
        // Just read from a socket, so not cold.
        let (binary, json) = (Bytes::copy_from_slice(binary), Bytes::copy_from_slice(json));
        turn(1, &mut || receive(&mut by_binary, &binary, &limits));
        turn(2, &mut || receive(&mut by_json, &json, &limits));
    }
    let [bare, binary, json] = times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    });
    let per_bare = |time: Duration| time.as_secs_f64() / bare.as_secs_f64();
    println!(
        "body: {} B; bare verify_strict {bare:?}, binary {binary:?}, JSON {json:?}",
        body(1).body().len()
    );
    println!(
        "verified message in JSON / bare verify_strict (300 B): {:.3}",
        per_bare(json)
    );
    println!(
        "verified message / bare verify_strict (300 B): {:.3}",
        per_bare(binary)
    );
}

fn main() {
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
        .configure_from_args();
    verify(&mut criterion);
    criterion.final_summary();
    ratio();
}
