use std::{
    fs,
    path::{Path, PathBuf},
};

use clap::Args;
use ifmesh::AgentId;
use ifmesh_witness::{
    Checkpoint, Cosigned, Evidence, Fault, LogKeys, NotProved, Verdict, Verified, VerifyError,
    check_equivocation, cosigned, equivocations, evidence, held_notes, verify_against,
};
use ifmsg::{PublicKey, TrustStore};
use serde_json::{Value, json};

use super::{
    logs::{FoundLog, Keys, cannot_read},
    say,
};
use crate::cli::{Failure, exit, print_json};

/// Check a log, or every log in a folder: each line's form, number and chain, the tree, the checkpoints and their signatures.
///
/// Names the first line that is wrong and what is wrong with it. Whoever holds the owner's key, or can take away lines and
/// checkpoints together, shows only against a checkpoint that somebody else holds: --checkpoint, what peers have cosigned, and
/// what the other logs in the folder hold of this one. Evidence that an agent holds against others' logs is judged and shown.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ifmesh witness verify logs
  ifmesh witness verify logs/agent-finance --trust swarm/trust.toml --checkpoint held.note --json

Exit codes: 0 all as signed, 1 not as signed or evidence against a log, 2 a flag or a file is wrong.")]
pub(super) struct Verify {
    /// A log's folder, or a folder with several of them.
    dir: PathBuf,
    #[command(flatten)]
    keys: Keys,
    /// A signed checkpoint of this log that somebody else kept: the log must begin with what it covers.
    #[arg(long)]
    checkpoint: Option<PathBuf>,
    /// Print one JSON object for each log.
    #[arg(long)]
    json: bool,
}

/// What was found about one log.
struct Checked {
    result: Result<Verified, VerifyError>,
    cosigned: Option<Cosigned>,
    /// Who else here holds a checkpoint of it, and over how many lines.
    held_by: Vec<(AgentId, u64)>,
    /// What this agent holds against others' logs.
    against: Vec<Against>,
    /// Proofs that others signed two messages under one number: whose, or why it proves nothing.
    lies: Vec<(PathBuf, Result<AgentId, NotProved>)>,
}

struct Against {
    evidence: Evidence,
    file: PathBuf,
    /// `None` without a key to judge it by.
    verdict: Option<Verdict>,
}

impl Verify {
    pub(super) fn run(self) -> Result<u8, Failure> {
        let logs = self.keys.logs(&self.dir)?;
        let given = match &self.checkpoint {
            Some(_) if logs.len() > 1 => {
                return Err(Failure::usage("--checkpoint is of one log: name its folder"));
            }
            Some(path) => Some(self.given(path, &logs[0].keys)?),
            None => None,
        };
        let mut code = exit::DONE;
        for log in &logs {
            let checked = self.check(log, &logs, given.as_deref())?;
            if let Err(VerifyError::Io { .. }) = &checked.result {
                return Err(Failure::usage(format!("{:?}", checked.result)));
            }
            if checked.is_damning() {
                code = exit::NOT_ALL_WELL;
            }
            if self.json {
                print_json(&to_json(log, &checked));
            } else {
                say(to_text(log, &checked));
            }
        }
        if !self.json && logs.iter().any(|log| log.keys_beside) {
            say("The keys lay beside the logs; --trust FILE checks against a trust file of your own.");
        }
        Ok(code)
    }

    fn given(&self, path: &Path, keys: &LogKeys) -> Result<String, Failure> {
        let note = fs::read_to_string(path).map_err(|error| cannot_read(path, &error))?;
        match Checkpoint::open(&note, keys) {
            Ok(_) => Ok(note),
            Err(error) => Err(Failure::usage(format!(
                "--checkpoint {}: no checkpoint of the log of {}: {error}; what is needed is one note, such as the files peers/*.note \
                 that other agents hold",
                path.display(),
                keys.agent()
            ))),
        }
    }

    fn check(&self, log: &FoundLog, logs: &[FoundLog], given: Option<&str>) -> Result<Checked, Failure> {
        let (trust, _) = self.keys.trust(&log.dir)?;
        let known = |agent: &AgentId| trust.binding(agent).map(|binding| binding.key);
        // What peers have signed has to be in the log too, and what they say they were shown.
        let signed = cosigned(&log.dir);
        let held = held_elsewhere(log, logs);
        let notes = given.into_iter().chain(signed.as_deref());
        let notes = notes.chain(held.iter().map(|(_, held)| held.note()));
        let result = verify_against(&log.dir, &log.keys, notes);
        let cosigned = signed
            .and_then(|note| Cosigned::open(&note, &log.keys, known).ok())
            .filter(|_| result.is_ok());
        let against = evidence(&log.dir);
        let against = against.into_iter().map(|(evidence, file)| Against {
            verdict: key_of(&evidence.agent, logs, &trust).map(|keys| evidence.judge(&keys)),
            evidence,
            file,
        });
        let lies = equivocations(&log.dir).into_iter().map(|path| {
            let content = fs::read(&path).map_err(|error| cannot_read(&path, &error))?;
            let checked = check_equivocation(&content, &trust);
            Ok::<_, Failure>((path, checked))
        });
        Ok(Checked {
            lies: lies.collect::<Result<_, _>>()?,
            result,
            cosigned,
            held_by: held.iter().map(|(by, held)| (by.clone(), held.size())).collect(),
            against: against.collect(),
        })
    }
}

/// The checkpoints of this log that the other logs here hold and the owner has signed. What it has not signed accuses nobody.
fn held_elsewhere(log: &FoundLog, logs: &[FoundLog]) -> Vec<(AgentId, Checkpoint)> {
    let others = logs.iter().filter(|other| other.dir != log.dir);
    let held = others.flat_map(|other| {
        let of_it = held_notes(&other.dir).into_iter();
        let of_it = of_it.filter(|(agent, _)| agent == log.keys.agent());
        of_it.filter_map(|(_, path)| {
            let note = fs::read_to_string(path).ok()?;
            let held = Checkpoint::open(&note, &log.keys).ok()?;
            Some((other.keys.agent().clone(), held))
        })
    });
    held.collect()
}

/// The keys to judge evidence against an agent by.
fn key_of(agent: &AgentId, logs: &[FoundLog], trust: &TrustStore) -> Option<LogKeys> {
    let of_log = logs.iter().find(|log| log.keys.agent() == agent);
    let bound: Option<PublicKey> = trust.binding(agent).map(|binding| binding.key);
    of_log
        .map(|log| log.keys.clone())
        .or_else(|| Some(LogKeys::new(agent.clone(), bound?)))
}

impl Checked {
    /// Something is not as signed, or somebody lied.
    fn is_damning(&self) -> bool {
        self.result.is_err()
            || self.against.iter().any(Against::counts)
            || self.lies.iter().any(|(_, lie)| lie.is_ok())
    }
}

impl Against {
    fn counts(&self) -> bool {
        self.verdict != Some(Verdict::Void)
    }

    fn to_text(&self, by: &AgentId) -> String {
        let (agent, reason, file) = (&self.evidence.agent, &self.evidence.reason, self.file.display());
        let (held, shown) = self.evidence.sizes();
        let [held, shown] = [held, shown].map(|size| size.unwrap_or_default());
        match self.verdict {
            Some(Verdict::Proved) => format!(
                "PROOF against the log of {agent}: it signed two different histories of {held} lines ({reason}): {file}"
            ),
            Some(Verdict::Void) => format!(
                "void: this says that the log of {agent} was forked, and its checkpoints do not show it: {file}"
            ),
            Some(_) => format!(
                "EVIDENCE against the log of {agent}: it signed {held} lines and then {shown}, and by the word of {by} it did not show that the one grew into the other ({reason}): {file}"
            ),
            None => format!(
                "evidence against the log of {agent} ({reason}), not judged, for its key is not known; --trust FILE names a trust file that has it: {file}"
            ),
        }
    }
}

fn to_text(log: &FoundLog, checked: &Checked) -> String {
    let (dir, agent) = (log.dir.display(), log.keys.agent());
    let mut text = match &checked.result {
        Ok(verified) => {
            let unsigned = match verified.unsigned_lines {
                0 => String::new(),
                lines => format!(" BUT {lines} at the end, which no checkpoint covers yet"),
            };
            format!(
                "{dir}: {agent}, {} in {}, {}: all as signed{unsigned}\n  root {}{}",
                count(verified.lines, "line"),
                count(u64::from(verified.segments), "segment"),
                count(verified.checkpoints, "checkpoint"),
                verified.root,
                checked.cosigned.as_ref().map(by_whom).unwrap_or_default()
            )
        }
        Err(error) => format!(
            "{dir}: {agent}: NOT as signed: {error}{}",
            holders(error, &checked.held_by)
        ),
    };
    for against in &checked.against {
        text.push_str("\n  ");
        text.push_str(&against.to_text(agent));
    }
    for (path, lie) in &checked.lies {
        let path = path.display();
        text.push_str(&match lie {
            Ok(liar) => {
                format!("\n  PROOF against {liar}: it signed two different messages under one number: {path}")
            }
            Err(error) => format!("\n  no proof of two messages under one number: {error}: {path}"),
        });
    }
    text
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Who holds the checkpoint that tells.
fn holders(error: &VerifyError, held_by: &[(AgentId, u64)]) -> String {
    let (VerifyError::Forked { size } | VerifyError::Cut { size, .. }) = error else {
        return String::new();
    };
    let names = held_by.iter().filter(|(_, held)| held == size);
    let names: Vec<&str> = names.map(|(agent, _)| agent.as_str()).collect();
    match names.as_slice() {
        [] => String::new(),
        names => format!(" (by {})", names.join(", ")),
    }
}

fn by_whom(cosigned: &Cosigned) -> String {
    let names: Vec<&str> = cosigned
        .cosigners
        .iter()
        .map(|(agent, _)| agent.as_str())
        .collect();
    let others = match cosigned.others {
        0 => String::new(),
        others => {
            format!("; {others} cosignatures of unknown keys, or that do not verify, count for nothing")
        }
    };
    let names = if names.is_empty() {
        "nobody whose key is known".to_owned()
    } else {
        names.join(", ")
    };
    let size = cosigned.checkpoint.size();
    format!("\n  the first {size} lines cosigned by {names}{others}")
}

fn to_json(log: &FoundLog, checked: &Checked) -> Value {
    let against = checked.against.iter().map(|against| {
        let (held, shown) = against.evidence.sizes();
        json!({
            "agent": against.evidence.agent,
            "reason": against.evidence.reason,
            "verdict": match against.verdict {
                Some(Verdict::Proved) => "proved",
                Some(Verdict::Void) => "void",
                Some(_) => "claimed",
                None => "key-unknown",
            },
            "held_lines": held,
            "shown_lines": shown,
            "file": against.file.display().to_string(),
        })
    });
    let lies = checked.lies.iter().map(|(path, lie)| {
        json!({
            "agent": lie.as_ref().ok(),
            "proved": lie.is_ok(),
            "reason": lie.as_ref().err().map(ToString::to_string),
            "file": path.display().to_string(),
        })
    });
    let mut value = json!({
        "log": log.dir.display().to_string(),
        "agent": log.keys.agent(),
        "verified": checked.result.is_ok(),
        "keys_beside": log.keys_beside,
        "held_by": checked.held_by.iter().map(|(agent, _)| agent).collect::<Vec<_>>(),
        "against": against.collect::<Vec<_>>(),
        "equivocations": lies.collect::<Vec<_>>(),
    });
    match &checked.result {
        Ok(verified) => {
            value["lines"] = verified.lines.into();
            value["segments"] = verified.segments.into();
            value["checkpoints"] = verified.checkpoints.into();
            value["unsigned_lines"] = verified.unsigned_lines.into();
            value["root"] = verified.root.to_string().into();
            let cosigned = checked.cosigned.as_ref();
            let cosigners = cosigned.map(|cosigned| cosigned.cosigners.iter().map(|(agent, _)| agent));
            value["cosigned_lines"] = cosigned.map_or(0, |cosigned| cosigned.checkpoint.size()).into();
            value["cosigned_by"] = json!(cosigners.into_iter().flatten().collect::<Vec<_>>());
        }
        Err(error) => {
            value["reason"] = format!("{error}{}", holders(error, &checked.held_by)).into();
            if let VerifyError::Fault(Fault { segment, line, .. }) = error {
                value["segment"] = (*segment).into();
                value["line"] = (*line).into();
            }
        }
    }
    value
}
