//! Plays random stories until it has played enough, or one breaks a promise.
//!
//! `ifmesh-chaos [--cases N | --hours H] [--seed S] [--kind NAME]... [--quick]`: 10,000 cases of all kinds by default.
//! `--quick` stops at the first failure without making it smaller and without recording it. What it prints repeats it.
#![allow(clippy::unwrap_used, reason = "a test ends where something is wrong")]

use std::{
    panic,
    process::ExitCode,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use ifmesh_chaos::{Batch, KINDS, Kind, run};

/// Stories that share a seed.
const CASES: u32 = 25;
/// How often it says how far it is.
const REPORT: Duration = Duration::from_secs(10);

#[derive(Debug)]
struct Plan {
    cases: u64,
    time: Option<Duration>,
    seed: u64,
    kinds: Vec<Kind>,
    quick: bool,
}

fn main() -> ExitCode {
    let plan = match plan(std::env::args().skip(1)) {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("ifmesh-chaos: {error}");
            return ExitCode::from(2);
        }
    };
    // A failing story is told once, at the end; shrinking it fails hundreds of times more.
    panic::set_hook(Box::new(|_| ()));
    let workers = thread::available_parallelism().map_or(1, usize::from);
    let names: Vec<&str> = plan.kinds.iter().map(|kind| kind.name).collect();
    println!("seed {}, {workers} threads, {}", plan.seed, names.join(" "));
    let (next, done, stop) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let failures: Mutex<Vec<String>> = Mutex::default();
    let started = now();
    thread::scope(|scope| {
        let work = || {
            while !stop.load(Ordering::Relaxed) {
                let number = next.fetch_add(1, Ordering::Relaxed);
                let enough = match plan.time {
                    Some(time) => started.elapsed() >= time,
                    None => number * u64::from(CASES) >= plan.cases,
                };
                if enough {
                    return;
                }
                let kind = plan.kinds[number as usize % plan.kinds.len()];
                let seed = plan.seed.wrapping_add(number);
                let batch = Batch {
                    kind,
                    cases: CASES,
                    seed: Some(seed),
                    record: !plan.quick,
                };
                if let Err(failure) = run(batch) {
                    stop.store(true, Ordering::Relaxed);
                    let again = format!(
                        "cargo xtask chaos --cases {CASES} --kind {} --seed {seed}",
                        kind.name
                    );
                    failures
                        .lock()
                        .unwrap()
                        .push(format!("{failure}\n\nagain: {again}"));
                    return;
                }
                done.fetch_add(u64::from(CASES), Ordering::Relaxed);
            }
        };
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let mut reported = started;
        while workers.iter().any(|worker| !worker.is_finished()) {
            thread::park_timeout(Duration::from_millis(100));
            if reported.elapsed() >= REPORT {
                reported = now();
                let (done, next) = (done.load(Ordering::Relaxed), next.load(Ordering::Relaxed));
                let seed = plan.seed.wrapping_add(next.saturating_sub(1));
                println!(
                    "{done} cases in {:.0} s, at seed {seed}",
                    started.elapsed().as_secs_f64()
                );
            }
        }
    });
    let (cases, seconds) = (done.load(Ordering::Relaxed), started.elapsed().as_secs_f64());
    let failures = failures.into_inner().unwrap();
    for failure in &failures {
        println!("\nA promise was broken.\n{failure}");
    }
    println!("{cases} cases held, {} failed, {seconds:.0} s", failures.len());
    ExitCode::from(u8::from(!failures.is_empty()))
}

fn plan(mut arguments: impl Iterator<Item = String>) -> Result<Plan, String> {
    let mut plan = Plan {
        cases: 10_000,
        time: None,
        seed: fresh_seed(),
        kinds: Vec::new(),
        quick: false,
    };
    while let Some(argument) = arguments.next() {
        let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
        let bad = |value: &str| format!("{argument} {value}: not a number");
        match argument.as_str() {
            "--cases" => {
                let value = value()?;
                plan.cases = value.parse().map_err(|_| bad(&value))?;
            }
            "--hours" => {
                let value = value()?;
                let hours: f64 = value.parse().map_err(|_| bad(&value))?;
                plan.time = Some(Duration::try_from_secs_f64(hours * 3_600.0).map_err(|_| bad(&value))?);
            }
            "--seed" => {
                let value = value()?;
                plan.seed = value.parse().map_err(|_| bad(&value))?;
            }
            "--kind" => {
                let value = value()?;
                let known = KINDS.into_iter().filter(|kind| kind.name.starts_with(&value));
                let before = plan.kinds.len();
                plan.kinds.extend(known);
                if plan.kinds.len() == before {
                    let all = KINDS.map(|kind| kind.name).join(", ");
                    return Err(format!("no kind {value}; there are {all}"));
                }
            }
            "--quick" => plan.quick = true,
            _ => {
                return Err(format!(
                    "no option {argument}; there are --cases --hours --seed --kind --quick"
                ));
            }
        }
    }
    if plan.kinds.is_empty() {
        plan.kinds = KINDS.to_vec();
    }
    Ok(plan)
}

/// Short enough to be typed again.
#[allow(clippy::disallowed_methods, reason = "another seed each time")]
fn fresh_seed() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| now.as_millis() as u64 % 1_000_000_000_000 * 1_000)
}

#[allow(
    clippy::disallowed_methods,
    reason = "how long it takes is measured in real time"
)]
fn now() -> Instant {
    Instant::now()
}
