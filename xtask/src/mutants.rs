//! Breaks the router and the session on purpose, and looks whether the random stories notice.

use std::{fs, path::Path};

use crate::run::{Result, Step, cargo, root, target};

/// A planted defect: in this file, this text is replaced by that.
struct Mutant {
    name: &'static str,
    file: &'static str,
    text: &'static str,
    replacement: &'static str,
}

const fn mutant(
    name: &'static str,
    file: &'static str,
    text: &'static str,
    replacement: &'static str,
) -> Mutant {
    Mutant {
        name,
        file,
        text,
        replacement,
    }
}

const REPLAY: &str = "crates/ifmsg/src/replay.rs";
const INBOUND: &str = "crates/transport/src/session/inbound.rs";
const OUTBOUND: &str = "crates/transport/src/session/outbound.rs";
const RECEIVE: &str = "crates/transport/src/session/machine/receive.rs";
const SENDING: &str = "crates/transport/src/router/table/sending.rs";
const COMING: &str = "crates/transport/src/router/table/coming.rs";
const TABLE: &str = "crates/transport/src/router/table.rs";
const HEALTH: &str = "crates/transport/src/router/health.rs";

/// What each of them changes stands in CONTRIBUTING.md.
const MUTANTS: &[Mutant] = &[
    mutant(
        "skip-dedupe",
        REPLAY,
        "seen if seen == tag => Verdict::Duplicate,",
        "seen if seen == tag => Verdict::Fresh,",
    ),
    mutant(
        "accept-repeated-id",
        RECEIVE,
        "if known != Known::New {",
        "if known != Known::New && false {",
    ),
    mutant(
        "ack-before-commit",
        INBOUND,
        "let in_inbox = self.in_inbox.front().map(|(first, _)| *first);",
        "let in_inbox = None;",
    ),
    mutant(
        "deliver-out-of-order",
        INBOUND,
        "let (message, road) = self.waiting.remove(&expected)?;",
        "let (message, road) = self.waiting.pop_first()?.1;",
    ),
    mutant(
        "forget-resend",
        OUTBOUND,
        "outstanding.due = Some(due);",
        "outstanding.due = Some(Duration::MAX);",
    ),
    mutant(
        "forget-what-a-former-run-held",
        OUTBOUND,
        "if peer_forgot && outstanding.held {",
        "if peer_forgot && outstanding.held && false {",
    ),
    mutant(
        "accept-stale-epoch",
        RECEIVE,
        "if !is_current && (is_control || header.stream().is_reliable()) {",
        "if !is_current && is_control {",
    ),
    mutant(
        "say-once-where-broadcasts-begin",
        OUTBOUND,
        "            next,\n",
        "            next,\n            acknowledged: next - 1,\n",
    ),
    mutant(
        "resend-by-the-same-road",
        SENDING,
        "if taken == 0 { best } else { other.unwrap_or(best) }",
        "if taken == 0 { best } else { other.map_or(best, |_| taken.trailing_zeros() as usize) }",
    ),
    mutant(
        "ignore-link-down",
        COMING,
        "TransportEvent::LinkDown { peer, reason } => self.on_link_down(road, &peer, reason, now),",
        "TransportEvent::LinkDown { .. } => {}",
    ),
    mutant(
        "hedge-without-budget",
        TABLE,
        "if !peer.copies.spend(size) {",
        "if !peer.copies.spend(size) && false {",
    ),
    mutant(
        "never-fail-back",
        HEALTH,
        "if !served || probation.answers < PROBATION_PINGS {",
        "if !served || probation.answers < u32::MAX {",
    ),
    mutant(
        "ignore-silence",
        HEALTH,
        "if self.linked && self.verdict != RoadHealth::Down && !later_one_answered && self.doubt.is_none() {",
        "if self.linked && !later_one_answered && self.doubt.is_none() && false {",
    ),
];

/// Stories that each of them must not survive.
const CASES: &str = "10000";

/// Plays stories with each mutant in a copy of the tree, and fails if one survives. Arguments are names; without any, all.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let chosen: Vec<&Mutant> = MUTANTS
        .iter()
        .filter(|mutant| arguments.is_empty() || arguments.iter().any(|name| name == mutant.name))
        .collect();
    if chosen.is_empty() {
        let names: Vec<&str> = MUTANTS.iter().map(|mutant| mutant.name).collect();
        return Err(format!("no such mutant; there are {}", names.join(", ")).into());
    }
    let copy = target().join("mutants");
    copy_tree(&copy)?;
    let mut survivors = Vec::new();
    for mutant in &chosen {
        let (file, original) = (copy.join(mutant.file), read(&root().join(mutant.file))?);
        write(&file, &planted(mutant, &original)?)?;
        let verdict = judge(&copy);
        write(&file, &original)?;
        let verdict = verdict.map_err(|error| format!("{}: {error}", mutant.name))?;
        match &verdict {
            Some(seen) => println!("{:<30} killed    {seen}", mutant.name),
            None => {
                println!("{:<30} SURVIVED  {CASES} stories", mutant.name);
                survivors.push(mutant.name);
            }
        }
    }
    if survivors.is_empty() {
        println!("all {} killed", chosen.len());
        Ok(())
    } else {
        Err(format!("the stories do not notice: {}", survivors.join(", ")).into())
    }
}

/// How to repeat the story that fails.
fn judge(copy: &Path) -> Result<Option<String>> {
    // Not ours: cargo would take what was built of the copy for what was built of the tree.
    let builds = target().join("mutants-build");
    let program = |step: Step| step.env("CARGO_TARGET_DIR", &builds).within(copy);
    let (built, output) = program(cargo([
        "build",
        "--quiet",
        "--profile",
        "chaos",
        "-p",
        "ifmesh-chaos",
    ]))
    .output()?;
    if !built {
        return Err(format!("it does not build:\n{output}").into());
    }
    let chaos = builds.join("chaos/ifmesh-chaos");
    let step = Step::new(chaos).args(["--quick", "--seed", "1", "--cases", CASES]);
    let (succeeded, output) = program(step).output()?;
    if succeeded {
        return Ok(None);
    }
    let seen = output
        .lines()
        .find_map(|line| line.strip_prefix("again: cargo xtask chaos "));
    let seen = seen.ok_or_else(|| format!("it fell over:\n{output}"))?;
    Ok(Some(seen.to_owned()))
}

fn planted(mutant: &Mutant, source: &str) -> Result<String> {
    match source.matches(mutant.text).count() {
        1 => Ok(source.replace(mutant.text, mutant.replacement)),
        found => Err(format!(
            "{}: its text is in {} {found} times, not once",
            mutant.name, mutant.file
        )
        .into()),
    }
}

/// What git knows of the tree, as it is now.
fn copy_tree(to: &Path) -> Result<()> {
    let listing = Step::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]);
    let (_, files) = listing.output()?;
    for file in files.lines() {
        let (from, to) = (root().join(file), to.join(file));
        let Ok(bytes) = fs::read(&from) else { continue };
        // What has not changed keeps its time, so that nothing is built in vain.
        if fs::read(&to).is_ok_and(|there| there == bytes) {
            continue;
        }
        let broken = |error: std::io::Error| format!("{}: {error}", to.display());
        if let Some(folder) = to.parent() {
            fs::create_dir_all(folder).map_err(broken)?;
        }
        fs::write(&to, bytes).map_err(broken)?;
    }
    Ok(())
}

fn read(path: &Path) -> Result<String> {
    Ok(fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?)
}

fn write(path: &Path, text: &str) -> Result<()> {
    Ok(fs::write(path, text).map_err(|error| format!("{}: {error}", path.display()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Falsified by code that has changed under a mutant, and by a mutant that CONTRIBUTING.md does not explain.
    #[test]
    fn every_mutant_fits_the_code_and_is_explained() {
        let manual = read(&root().join("CONTRIBUTING.md")).unwrap_or_default();
        for mutant in MUTANTS {
            let source = read(&root().join(mutant.file)).unwrap_or_default();
            assert!(planted(mutant, &source).is_ok(), "{}", mutant.name);
            assert!(
                manual.contains(&format!("| `{}` |", mutant.name)),
                "{}",
                mutant.name
            );
        }
    }
}
