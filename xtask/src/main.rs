//! The verbs that CI and developers use: `cargo xtask help`.
//!
//! Each verb is one function below; CI is nothing but some of them in a row. No dependencies, so that the first verb on a
//! fresh machine starts within seconds.

mod cargo_deny;
mod ci;
mod debian;
mod foreign;
mod mutants;
mod run;
mod unused;

use std::{env, process::ExitCode};

use run::{Result, cargo};

/// A verb, what `help` says of it, and what it does with the arguments that follow it.
type Verb = (&'static str, &'static str, fn(&[String]) -> Result<()>);

const VERBS: &[Verb] = &[
    ("help", "say what there is", help),
    ("fmt", "check the formatting; with --fix, mend it", fmt),
    (
        "lint",
        "clippy over everything, fuzz targets too; warnings are errors",
        lint,
    ),
    ("docs", "build the documentation; warnings are errors", docs),
    (
        "test",
        "install what tests need of the system and the foreign peers, then run every test; arguments go to cargo test",
        test,
    ),
    (
        "nat",
        "connect two agents behind every pair of NATs, and show how; `test` does it too",
        nat,
    ),
    (
        "chaos",
        "play 10,000 random stories over failing roads; --hours 2, --cases 100, --kind session, --seed 7 --quick",
        chaos,
    ),
    (
        "mutants",
        "break the router and the session on purpose, each time one thing, and look whether the stories of chaos notice",
        mutants::run,
    ),
    (
        "soak",
        "ten minutes of healthy load with all cores busy: no traffic may leave its road; or so many minutes",
        soak,
    ),
    (
        "fuzz-smoke",
        "replay the fuzz corpora on the properties that fuzzing checks",
        fuzz_smoke,
    ),
    (
        "kills",
        "kill a writer of a witness log 1,000 times at random moments; a number kills it so often",
        kills,
    ),
    (
        "bench",
        "run the benchmarks; a name chooses one, what follows -- goes to it",
        bench,
    ),
    (
        "deny",
        "check licences, bans and sources of all dependencies",
        cargo_deny::policy,
    ),
    (
        "advisories",
        "check dependencies for known vulnerabilities; needs GitHub",
        cargo_deny::advisories,
    ),
    (
        "unused",
        "find dependencies that no source file names",
        unused::check,
    ),
    (
        "ci",
        "what .ci/run does: all checks in order, with the time each took",
        ci::run,
    ),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let (verb, rest) = match arguments.split_first() {
        None => ("help", [].as_slice()),
        Some((verb, rest)) => (verb.trim_start_matches('-'), rest),
    };
    let Some((_, _, act)) = VERBS.iter().find(|(name, _, _)| *name == verb) else {
        eprintln!("xtask: no verb `{verb}`; `cargo xtask help` lists them");
        return ExitCode::from(2);
    };
    match act(rest) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask {verb}: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn help(_: &[String]) -> Result<()> {
    println!("cargo xtask <verb>\n");
    for (name, about, _) in VERBS {
        println!("  {name:<12}{about}");
    }
    Ok(())
}

fn fmt(arguments: &[String]) -> Result<()> {
    match arguments {
        [] => cargo(["fmt", "--all", "--", "--check"]).run(),
        [fix] if fix == "--fix" => cargo(["fmt", "--all"]).run(),
        _ => Err("the one argument is --fix".into()),
    }
}

fn lint(_: &[String]) -> Result<()> {
    cargo([
        "clippy",
        "--workspace",
        "--all-targets",
        "--all-features",
        "--",
        "-D",
        "warnings",
    ])
    .run()?;
    // The fuzz targets are a workspace of their own. Checking them needs no libFuzzer: any name stands for it.
    cargo([
        "clippy",
        "--manifest-path",
        "fuzz/Cargo.toml",
        "--",
        "-D",
        "warnings",
    ])
    .env("CUSTOM_LIBFUZZER_PATH", "not-linked/libfuzzer.a")
    .env("CARGO_TARGET_DIR", run::target().join("fuzz-check"))
    .run()
}

fn docs(_: &[String]) -> Result<()> {
    cargo(["doc", "--workspace", "--all-features", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings")
        .run()
}

fn test(arguments: &[String]) -> Result<()> {
    need_networks()?;
    let python = foreign::install()?;
    let names_package = |argument: &String| argument.starts_with("-p") || argument.starts_with("--package");
    let everything = !arguments.iter().any(names_package);
    cargo(["test", "--all-features"])
        .args(everything.then_some("--workspace"))
        .args(arguments)
        .env(foreign::VARIABLE, python)
        .run_and_count_tests()
}

/// What tests need to make networks of their own.
fn need_networks() -> Result<()> {
    debian::need(debian::PROGRAMS)?;
    if debian::is_root() {
        return Ok(());
    }
    Err(
        "tests make network namespaces, which needs root: `sudo -E cargo xtask`. Without root run `cargo test -p` with the \
         crates that you work on"
            .into(),
    )
}

fn nat(_: &[String]) -> Result<()> {
    need_networks()?;
    // The program that the agents are, with the same features as in `test`, so that nothing is built twice.
    cargo(["build", "--workspace", "--all-features", "--bin", "ifmesh"]).run()?;
    cargo(["test", "--workspace", "--all-features", "--test", "nat_matrix"])
        .args(["--", "--nocapture"])
        .run()
}

fn chaos(arguments: &[String]) -> Result<()> {
    cargo(["run", "--profile", "chaos", "-p", "ifmesh-chaos", "--"])
        .args(arguments)
        .run()
}

fn soak(arguments: &[String]) -> Result<()> {
    cargo([
        "run",
        "--profile",
        "chaos",
        "-p",
        "ifmesh-chaos",
        "--example",
        "soak",
        "--",
    ])
    .args(arguments)
    .run()
}

fn kills(arguments: &[String]) -> Result<()> {
    let wanted = arguments.first().map_or("1000", String::as_str);
    cargo(["test", "--release", "-p", "ifmesh-witness", "--test", "kill"])
        .args(["--", "--nocapture"])
        .env("IFMESH_WITNESS_KILLS", wanted)
        .run()
}

fn fuzz_smoke(_: &[String]) -> Result<()> {
    cargo(["test", "--workspace", "--all-features", "--test", "*corpus*"]).run()
}

fn bench(arguments: &[String]) -> Result<()> {
    match arguments {
        [name, rest @ ..] if !name.starts_with('-') => {
            cargo(["bench", "--workspace", "--all-features", "--bench", name])
                .args(rest)
                .run()
        }
        _ => cargo(["bench", "--workspace", "--all-features", "--bench", "*"])
            .args(arguments)
            .run(),
    }
}
