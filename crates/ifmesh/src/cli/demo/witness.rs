//! The demo's witness logs: where they are kept, and what they say in the end.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use ifmesh::{AgentId, setup};
use ifmesh_witness::{LogKeys, evidence};
use ifmsg::{TrustDocument, TrustStore};
use serde_json::{Value, json};

use crate::cli::{
    Failure,
    witness::join::{Joined, Side, join},
};

/// Most problems that are shown; the rest is counted.
const SHOWN: usize = 20;

/// The folder of all logs.
#[derive(Debug, Clone)]
pub(super) struct Logs {
    folder: PathBuf,
    /// They stay, so whoever reads them needs the keys.
    kept: bool,
}

impl Logs {
    pub(super) fn prepare(kept: Option<&Path>, temporary: &Path) -> Result<Self, Failure> {
        let folder = kept.map_or_else(|| temporary.join("witness"), Path::to_owned);
        let failed = |error| Failure::usage(format!("--witness {}: {error}", folder.display()));
        fs::create_dir_all(&folder).map_err(failed)?;
        if fs::read_dir(&folder).map_err(failed)?.next().is_some() {
            return Err(Failure::usage(format!(
                "--witness {}: the folder is not empty; name a new one: logs are not written over",
                folder.display()
            )));
        }
        Ok(Self {
            // Agents may have another working folder.
            folder: folder.canonicalize().map_err(failed)?,
            kept: kept.is_some(),
        })
    }

    /// Leaves the public keys beside logs that stay.
    pub(super) fn keep_trust(&self, trust: &TrustStore) -> Result<(), Failure> {
        if !self.kept {
            return Ok(());
        }
        let text = toml::to_string_pretty(&TrustDocument::from(trust)).map_err(Failure::usage)?;
        let path = self.folder.join("trust.toml");
        fs::write(&path, text).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
    }

    pub(super) fn folder(&self, agent: &AgentId) -> PathBuf {
        self.folder.join(setup::file_name(agent))
    }

    /// Verifies all logs and holds them against each other.
    pub(super) fn check(&self, agents: &[AgentId], trust: &TrustStore) -> Found {
        let mut found = Found::default();
        let mut sides = Vec::new();
        for agent in agents {
            let Some(binding) = trust.binding(agent) else {
                found.problems.push(format!("{agent}: its key is not known"));
                continue;
            };
            found.logs += 1;
            match Side::read(&self.folder(agent), &LogKeys::new(agent.clone(), binding.key)) {
                Ok((side, verified)) => {
                    let against = evidence(&self.folder(agent)).into_iter();
                    found.problems.extend(against.map(|(evidence, _)| {
                        format!(
                            "{agent} holds evidence against the log of {}: {}",
                            evidence.agent, evidence.reason
                        )
                    }));
                    found.lines += side.lines;
                    found.checkpoints += verified.checkpoints;
                    if verified.unsigned_lines > 0 {
                        let lines = verified.unsigned_lines;
                        found
                            .problems
                            .push(format!("{agent}: no checkpoint covers the last {lines} lines"));
                    }
                    sides.push(side);
                }
                Err(error) => found.problems.push(format!("{agent}: NOT as signed: {error}")),
            }
        }
        found.verified = sides.len();
        found.joined = join(&sides);
        let missing = found.joined.missing.iter().map(ToString::to_string);
        found.problems.extend(missing);
        found
    }
}

/// What the logs say.
#[derive(Debug, Default)]
pub(super) struct Found {
    logs: usize,
    verified: usize,
    lines: u64,
    checkpoints: u64,
    joined: Joined,
    problems: Vec<String>,
}

impl Found {
    pub(super) fn is_perfect(&self) -> bool {
        self.problems.is_empty()
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "logs": self.logs,
            "verified": self.verified,
            "lines": self.lines,
            "checkpoints": self.checkpoints,
            "sent": self.joined.sent,
            "matched": self.joined.matched,
            "sent_again": self.joined.sent_again,
            "unclaimed": self.joined.unclaimed,
            "missing": self.joined.missing.len(),
            "problems": self.problems.iter().take(SHOWN).collect::<Vec<_>>(),
        })
    }
}

impl fmt::Display for Found {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let joined = &self.joined;
        writeln!(
            f,
            "witness      {} of {} logs verified, {} lines under {} checkpoints",
            self.verified, self.logs, self.lines, self.checkpoints
        )?;
        writeln!(
            f,
            "             {} sent records, {} with the receiver's own",
            joined.sent, joined.matched
        )?;
        if joined.sent_again > 0 {
            writeln!(
                f,
                "             {} sent again under the same id after a kill",
                joined.sent_again
            )?;
        }
        if joined.unclaimed > 0 {
            writeln!(
                f,
                "             {} of which no delivery was claimed",
                joined.unclaimed
            )?;
        }
        for problem in self.problems.iter().take(SHOWN) {
            writeln!(f, "WITNESS: {problem}")?;
        }
        if self.problems.len() > SHOWN {
            writeln!(f, "WITNESS: and {} more", self.problems.len() - SHOWN)?;
        }
        Ok(())
    }
}
