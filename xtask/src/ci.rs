//! The checks of CI, in order.

use std::time::Duration;

use crate::run::{Failure, Result};

/// Every check, the quick ones first and the tests last, so that the output ends with theirs. Each is a verb of its own: whoever
/// sees one fail repeats that one.
const CHECKS: &[&str] = &["fmt", "lint", "unused", "docs", "deny", "chaos", "test"];

/// Runs the checks and stops at the first that fails.
pub(crate) fn run(_: &[String]) -> Result<()> {
    let mut times: Vec<(&str, Duration)> = Vec::new();
    for check in CHECKS {
        println!("\n== cargo xtask {check}");
        if *check == "test" {
            for (check, time) in &times {
                println!("{check:<8}{:>7.1} s", time.as_secs_f64());
            }
        }
        let started = now();
        let verb = crate::VERBS.iter().find(|(name, _, _)| name == check);
        let (_, _, act) = verb.ok_or_else(|| Failure::from(format!("no verb `{check}`")))?;
        act(&[]).map_err(|failure| format!("{check}: {failure}"))?;
        times.push((check, started.elapsed()));
    }
    Ok(())
}

#[allow(
    clippy::disallowed_methods,
    reason = "how long a build took is measured in real time"
)]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}
