use std::{fs, path::PathBuf};

use clap::Args;
use ifmesh_witness::{Event, InclusionProof, Record, prove};
use ifmsg::MessageDigest;

use super::{
    logs::{Keys, cannot_read, digest, digests},
    say,
};
use crate::cli::{Failure, exit};

/// Prove that a message is in this log: one line of JSON that anybody can check with nothing but public keys.
///
/// The proof holds the record, its path to the root of the tree, and a signed checkpoint with the cosignatures of the peers
/// that saw it. It holds no payload. The whole log is verified on the way.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ifmesh witness prove logs/agent-finance --message message.json > proof.json
  ifmesh witness prove logs/agent-finance --digest 5f0c...e1 --event ifmessage_acknowledged

Exit codes: 0 proved, 1 the log does not verify or does not have the message, 2 a flag or a file is wrong.")]
#[command(group(clap::ArgGroup::new("what").required(true).args(["message", "digest"])))]
pub(super) struct Prove {
    /// The log's folder.
    dir: PathBuf,
    #[command(flatten)]
    keys: Keys,
    /// The signed message, in JSON or as a binary frame; - is standard input.
    #[arg(long)]
    message: Option<PathBuf>,
    /// The message's digest, 64 hexadecimal digits, in place of the message.
    #[arg(long, value_parser = digest)]
    digest: Option<MessageDigest>,
    /// What is to be proved of it. Left out: that it was sent or received.
    #[arg(long, value_parser = |name: &str| Event::from_name(name).ok_or("an event's name is needed"))]
    event: Option<Event>,
    /// Print a proof of every record about the message, one on each line.
    #[arg(long, conflicts_with = "event")]
    all: bool,
    /// Write to this file instead of standard output.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Prove {
    pub(super) fn run(self) -> Result<u8, Failure> {
        let log = self.keys.log(&self.dir)?;
        let digests = match (&self.message, self.digest) {
            (Some(path), _) => digests(path)?,
            (None, Some(digest)) => vec![digest],
            (None, None) => Vec::new(),
        };
        let mut lines = Vec::new();
        for digest in &digests {
            let proofs = prove(&log.dir, &log.keys, digest).map_err(Failure::not_all_well)?;
            for proof in proofs.iter().filter(|proof| self.wants(proof)) {
                let json = serde_json::to_string(proof).map_err(Failure::usage)?;
                // One line of the log may be about several of them.
                if !lines.contains(&json) {
                    lines.push(json);
                }
                if !self.all {
                    break;
                }
            }
        }
        if lines.is_empty() {
            return Err(Failure::not_all_well(format!(
                "{}: the log of {} has no such record of this message",
                log.dir.display(),
                log.keys.agent()
            )));
        }
        match &self.out {
            Some(path) => {
                fs::write(path, lines.join("\n") + "\n").map_err(|error| cannot_read(path, &error))?
            }
            None => say(lines.join("\n")),
        }
        Ok(exit::DONE)
    }

    fn wants(&self, proof: &InclusionProof) -> bool {
        let Ok(record) = Record::parse(proof.line.as_bytes()) else {
            return false;
        };
        match self.event {
            _ if self.all => true,
            Some(event) => record.event == event,
            None => matches!(record.event, Event::IfmessageSent | Event::IfmessageReceived),
        }
    }
}
