use std::{fs, path::PathBuf};

use clap::Args;
use ifmesh::AgentId;
use ifmesh_witness::{Cosigned, Fault, Verified, VerifyError, cosigned, verify, verify_against};
use serde_json::{Value, json};

use super::{
    logs::{FoundLog, Keys, cannot_read},
    say,
};
use crate::cli::{Failure, exit, print_json};

/// Check a log, or every log in a folder: each line's form, number and chain, the tree, the checkpoints and their signatures.
///
/// Names the first line that is wrong and what is wrong with it. Whoever holds the owner's key, or can take away lines and
/// checkpoints together, shows only against a checkpoint that somebody else holds: --checkpoint, or what peers have cosigned.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ifmesh witness verify logs
  ifmesh witness verify logs/agent-finance --trust swarm/trust.toml --checkpoint held.note --json

Exit codes: 0 all as signed, 1 not as signed, 2 a flag or a file is wrong.")]
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

impl Verify {
    pub(super) fn run(self) -> Result<u8, Failure> {
        let logs = self.keys.logs(&self.dir)?;
        let held = match &self.checkpoint {
            Some(_) if logs.len() > 1 => {
                return Err(Failure::usage("--checkpoint is of one log: name its folder"));
            }
            Some(path) => Some(fs::read_to_string(path).map_err(|error| cannot_read(path, &error))?),
            None => None,
        };
        let mut code = exit::DONE;
        for log in &logs {
            // What peers have signed has to be in the log too.
            let signed = cosigned(&log.dir);
            let result = match held.as_ref().or(signed.as_ref()) {
                Some(note) => verify_against(&log.dir, &log.keys, note),
                None => verify(&log.dir, &log.keys),
            };
            let (trust, _) = self.keys.trust(&log.dir)?;
            let known = |agent: &AgentId| trust.binding(agent).map(|binding| binding.key);
            let cosigned = signed
                .and_then(|note| Cosigned::open(&note, &log.keys, known).ok())
                .filter(|_| result.is_ok());
            if let Err(VerifyError::Io { .. }) = &result {
                return Err(Failure::usage(format!("{result:?}")));
            }
            if result.is_err() {
                code = exit::NOT_ALL_WELL;
            }
            if self.json {
                print_json(&to_json(log, &result, cosigned.as_ref()));
            } else {
                say(to_text(log, &result, cosigned.as_ref()));
            }
        }
        if !self.json && logs.iter().any(|log| log.keys_beside) {
            say("The keys lay beside the logs; --trust FILE checks against a trust file of your own.");
        }
        Ok(code)
    }
}

fn to_text(log: &FoundLog, result: &Result<Verified, VerifyError>, cosigned: Option<&Cosigned>) -> String {
    let (dir, agent) = (log.dir.display(), log.keys.agent());
    match result {
        Ok(verified) => {
            let unsigned = match verified.unsigned_lines {
                0 => String::new(),
                lines => format!(" BUT {lines} at the end, which no checkpoint covers yet"),
            };
            format!(
                "{dir}: {agent}, {} lines in {} segments, {} checkpoints: all as signed{unsigned}\n  root {}{}",
                verified.lines,
                verified.segments,
                verified.checkpoints,
                verified.root,
                cosigned.map(by_whom).unwrap_or_default()
            )
        }
        Err(error) => format!("{dir}: {agent}: NOT as signed: {error}"),
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

fn to_json(log: &FoundLog, result: &Result<Verified, VerifyError>, cosigned: Option<&Cosigned>) -> Value {
    let mut value = json!({
        "log": log.dir.display().to_string(),
        "agent": log.keys.agent(),
        "verified": result.is_ok(),
        "keys_beside": log.keys_beside,
    });
    match result {
        Ok(verified) => {
            value["lines"] = verified.lines.into();
            value["segments"] = verified.segments.into();
            value["checkpoints"] = verified.checkpoints.into();
            value["unsigned_lines"] = verified.unsigned_lines.into();
            value["root"] = verified.root.to_string().into();
            let cosigners = cosigned.map(|cosigned| cosigned.cosigners.iter().map(|(agent, _)| agent));
            value["cosigned_lines"] = cosigned.map_or(0, |cosigned| cosigned.checkpoint.size()).into();
            value["cosigned_by"] = json!(cosigners.into_iter().flatten().collect::<Vec<_>>());
        }
        Err(error) => {
            value["reason"] = error.to_string().into();
            if let VerifyError::Fault(Fault { segment, line, .. }) = error {
                value["segment"] = (*segment).into();
                value["line"] = (*line).into();
            }
        }
    }
    value
}
