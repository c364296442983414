use std::{borrow::Cow, fs, path::PathBuf};

use clap::Args;
use ifmesh::AgentId;
use ifmesh_witness::{Cosigned, InclusionProof, Record, check_proof};
use ifmsg::MessageDigest;
use serde_json::json;

use super::{
    logs::{Keys, cannot_read, digest, digests},
    say,
    show::human,
};
use crate::cli::{Failure, exit, print_json};

/// Check a proof offline, with nothing but public keys: that this record stands in the log its owner signed.
///
/// It proves that the owner recorded it, and cannot take that back; not that what it says is so.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ifmesh witness check-proof proof.json --trust swarm/trust.toml --message message.json
  ifmesh witness check-proof proof.json --key 8a88e3dd...5c --json

Exit codes: 0 proved, 1 not proved, 2 a flag or a file is wrong.")]
pub(super) struct CheckProof {
    /// What `ifmesh witness prove` printed: a proof on each line.
    file: PathBuf,
    #[command(flatten)]
    keys: Keys,
    /// The message that it has to be about; in JSON or as a binary frame. Left out: whatever it is about.
    #[arg(long)]
    message: Option<PathBuf>,
    /// Its digest, in place of the message.
    #[arg(long, value_parser = digest, conflicts_with = "message")]
    digest: Option<MessageDigest>,
    /// Print one JSON object for each message that a proof is about.
    #[arg(long)]
    json: bool,
}

impl CheckProof {
    pub(super) fn run(self) -> Result<u8, Failure> {
        let text = fs::read_to_string(&self.file).map_err(|error| cannot_read(&self.file, &error))?;
        let wanted = match (&self.message, self.digest) {
            (Some(path), _) => Some(digests(path)?),
            (None, digest) => digest.map(|digest| vec![digest]),
        };
        let proofs: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
        if !proofs.iter().any(|line| line.starts_with('{')) {
            return Err(Failure::usage(format!(
                "{}: there is no proof in it; `ifmesh witness prove` writes them",
                self.file.display()
            )));
        }
        let mut code = exit::DONE;
        for json in proofs {
            let result = self.check(json, wanted.as_deref())?;
            if result.is_err() {
                code = exit::NOT_ALL_WELL;
            }
            match (result, self.json) {
                (Ok((records, cosigned)), true) => {
                    for record in records {
                        print_json(&json!({
                            "proved": true, "agent": record.agent, "seq": record.seq, "event": record.event.name(),
                            "timestamp": record.timestamp.to_string(), "peer": record.peer,
                            "digest": record.digest.map(|digest| digest.to_hex()),
                            "cosigned_by": &cosigned,
                        }));
                    }
                }
                (Ok((records, cosigned)), false) => {
                    let by = if cosigned.is_empty() {
                        "nobody whose key is known".to_owned()
                    } else {
                        cosigned.join(", ")
                    };
                    for record in records {
                        say(format_args!(
                            "proved: {} recorded\n  {}",
                            record.agent,
                            human(&record)
                        ));
                    }
                    say(format_args!("  cosigned by {by}"));
                }
                (Err(reason), true) => print_json(&json!({ "proved": false, "reason": reason })),
                (Err(reason), false) => say(format_args!("NOT proved: {reason}")),
            }
        }
        Ok(code)
    }

    /// `Err` outside is the caller's fault, inside the proof's.
    fn check(&self, json: &str, wanted: Option<&[MessageDigest]>) -> Result<Result<Proved, String>, Failure> {
        // Whose key is needed the proof itself says; that it is the signer's shows when the checkpoint verifies.
        let claimed = serde_json::from_str::<InclusionProof>(json)
            .map_err(|error| format!("not a proof: {error}"))
            .and_then(|proof| match Record::parse(proof.line.as_bytes()) {
                Ok(record) => Ok((proof, record)),
                Err(error) => Err(format!("the line is {error}")),
            });
        let (proof, claimed) = match claimed {
            Ok(claimed) => claimed,
            Err(reason) => return Ok(Err(reason)),
        };
        let keys = self.keys.of(&claimed.agent)?;
        let mut digests: Vec<_> = claimed.each().filter_map(|record| record.digest).collect();
        if digests.is_empty() {
            return Ok(Err("its line is about no message".to_owned()));
        }
        digests.retain(|digest| wanted.is_none_or(|wanted| wanted.contains(digest)));
        let Some(first) = digests.first() else {
            return Ok(Err("it is about another message".to_owned()));
        };
        // The line is proved for all of them, or for none.
        if let Err(error) = check_proof(json.as_bytes(), &keys, first) {
            return Ok(Err(error.to_string()));
        }
        let records = digests.iter().filter_map(|digest| claimed.of(digest));
        let records = records.map(Cow::into_owned).collect();
        let trust = self.keys.given()?;
        let known = |agent: &AgentId| trust.binding(agent).map(|binding| binding.key);
        let cosigned = Cosigned::open(&proof.checkpoint, &keys, known).map_err(Failure::usage)?;
        let names = cosigned.cosigners.iter().map(|(agent, _)| agent.to_string());
        Ok(Ok((records, names.collect())))
    }
}

/// What the line says of each message that was asked for, and who cosigned the checkpoint over it.
type Proved = (Vec<Record>, Vec<String>);
