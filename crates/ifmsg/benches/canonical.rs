//! Canonical JSON at the size of a message and at that of a large payload, beside a canonicaliser that builds a tree.
#![allow(clippy::expect_used, reason = "a test may panic")]

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ifmsg::canonical::{CanonicalError, Limits, canonicalise, check, scan_object, to_canonical};
use serde_json::{Value, json};

fn canonical(c: &mut Criterion) {
    let limits = Limits::default();
    let mut prose = message(1);
    prose["payload"]["text"] = "Agents speak; what they say is signed, \"as it is\".\n"
        .repeat(305)
        .into();
    for (name, value) in [
        ("300 B", message(1)),
        ("16 KiB of structure", message(190)),
        ("16 KiB of text", prose),
    ] {
        let ordered = canonicalise(value.to_string().as_bytes(), &limits).expect("valid");
        let shuffled = shuffled(&value).into_bytes();
        assert_eq!(canonicalise(&shuffled, &limits).as_ref(), Ok(&ordered));
        assert_eq!(serde_jcs::to_vec(&value).expect("valid"), ordered);

        let mut group = c.benchmark_group(format!("{name} ({} bytes)", ordered.len()));
        group.throughput(Throughput::Bytes(ordered.len() as u64));
        group.bench_function("check", |b| b.iter(|| check(black_box(&ordered), &limits)));
        group.bench_function("scan_object", |b| {
            b.iter(|| {
                scan_object::<CanonicalError>(black_box(&ordered), &limits, |member| {
                    black_box(member);
                    Ok(())
                })
            });
        });
        group.bench_function("canonicalise, in order", |b| {
            b.iter(|| canonicalise(black_box(&ordered), &limits));
        });
        group.bench_function("canonicalise, shuffled", |b| {
            b.iter(|| canonicalise(black_box(&shuffled), &limits));
        });
        group.bench_function("to_canonical", |b| {
            b.iter(|| to_canonical(black_box(&value), &limits))
        });
        group.bench_function("serde_jcs, from bytes", |b| {
            b.iter(|| {
                let value: Value = serde_json::from_slice(black_box(&shuffled)).expect("valid");
                serde_jcs::to_vec(&value).expect("valid")
            });
        });
        group.bench_function("serde_jcs, from a value", |b| {
            b.iter_batched(
                || value.clone(),
                |value| serde_jcs::to_vec(&value),
                BatchSize::SmallInput,
            );
        });
        group.finish();
    }
}

/// A message as agents send them; `steps` sets the payload's length.
fn message(steps: u32) -> Value {
    let steps: Vec<Value> = (0..steps)
        .map(|step| json!({ "step": step, "tool": "search", "score": f64::from(step) / 7.0, "note": "über \"alles\"\n", "done": true }))
        .collect();
    json!({
        "id": "msg-7f3a9c", "timestamp": "2026-11-22T14:10:00.001Z", "level": 1, "source": "planner-1",
        "destination": "worker-2", "version": "2.1", "performative": "request", "epoch": 1_795_356_600_001_u64,
        "sequence_num": 42, "payload": { "task": "summarise", "steps": steps },
    })
}

/// The same document with each object's members the other way round, and spaces.
fn shuffled(value: &Value) -> String {
    match value {
        Value::Array(elements) => format!(
            "[ {} ]",
            elements.iter().map(shuffled).collect::<Vec<_>>().join(", ")
        ),
        Value::Object(members) => {
            let members = members.iter().rev();
            let members = members.map(|(name, value)| format!("{}: {}", json!(name), shuffled(value)));
            format!("{{ {} }}", members.collect::<Vec<_>>().join(", "))
        }
        scalar => scalar.to_string(),
    }
}

criterion_group!(benches, canonical);
criterion_main!(benches);
