use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use clap::Args;
use ifmsg::{Admission, TrustStore, canonical::Limits};
use serde_json::json;

use super::{Failure, exit, print_json};

/// Verify messages offline: one, or a file of them with one on each line.
///
/// Says of each whether a trusted key that speaks for its source signed exactly this. It does not judge age or repetition:
/// that takes a receiver's memory.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ifmesh verify --trust swarm/trust.toml messages.ndjson
  ifmesh agent --config swarm/agent-1.toml | jq -c 'select(.event==\"message\").message' | ifmesh verify --trust swarm/trust.toml -")]
pub(crate) struct Verify {
    /// The trust file.
    #[arg(long)]
    trust: PathBuf,
    /// Signed messages in JSON, one on each line, or one binary frame; - is standard input.
    file: PathBuf,
    /// Print one JSON object for each message.
    #[arg(long)]
    json: bool,
}

impl Verify {
    pub(crate) fn run(self) -> Result<u8, Failure> {
        let trust = ifmesh::read_trust(&self.trust).map_err(Failure::usage)?;
        let content = read(&self.file)?;
        let (mut good, mut bad) = (0, 0);
        for (number, frame) in frames(&content) {
            for result in check(&trust, frame) {
                match &result {
                    Ok(_) => good += 1,
                    Err(_) => bad += 1,
                }
                self.report(number, &result);
            }
        }
        if good + bad == 0 {
            return Err(Failure::usage(format!(
                "{}: there is no message in it",
                self.file.display()
            )));
        }
        if !self.json {
            println!("{good} verified, {bad} refused");
        }
        Ok(if bad == 0 { exit::DONE } else { exit::NOT_ALL_WELL })
    }

    fn report(&self, line: usize, result: &Result<Verified, Refused>) {
        match (result, self.json) {
            (Ok(message), true) => print_json(&json!({
                "line": line, "verified": true, "id": message.id, "source": message.source,
                "destination": message.destination, "digest": message.digest, "key_id": message.key_id,
            })),
            (Err(refused), true) => {
                print_json(
                    &json!({ "line": line, "verified": false, "reason": refused.name, "detail": refused.detail }),
                );
            }
            (Ok(message), false) => println!(
                "line {line}: verified  {} from {} to {}  sha256:{}",
                message.id, message.source, message.destination, message.digest
            ),
            (Err(refused), false) => println!("line {line}: REFUSED   {} ({})", refused.name, refused.detail),
        }
    }
}

struct Verified {
    id: String,
    source: String,
    destination: String,
    digest: String,
    key_id: String,
}

struct Refused {
    name: &'static str,
    detail: String,
}

impl From<ifmsg::Rejection> for Refused {
    fn from(rejection: ifmsg::Rejection) -> Self {
        Self {
            name: rejection.name(),
            detail: rejection.to_string(),
        }
    }
}

fn check(trust: &TrustStore, frame: Bytes) -> Vec<Result<Verified, Refused>> {
    let flight = match ifmsg::decode(&frame, &Limits::default()) {
        Ok(flight) => flight,
        Err(error) => return vec![Err(ifmsg::Rejection::from(error).into())],
    };
    let results = Admission::authenticate(trust, &flight).into_iter();
    results
        .map(|result| {
            let message = result?;
            let header = message.header();
            Ok(Verified {
                id: header.id.to_string(),
                source: header.source.to_string(),
                destination: header.destination.to_string(),
                digest: message.digest().to_hex(),
                key_id: message.key().id().to_hex(),
            })
        })
        .collect()
}

/// The file's lines with their numbers; a binary frame is one piece.
fn frames(content: &Bytes) -> Vec<(usize, Bytes)> {
    if content.starts_with(b"IFB1") {
        return vec![(1, content.clone())];
    }
    let lines = content.split(|&byte| byte == b'\n').enumerate();
    lines
        .filter(|(_, line)| !line.trim_ascii().is_empty())
        .map(|(index, line)| (index + 1, content.slice_ref(line.trim_ascii())))
        .collect()
}

fn read(path: &Path) -> Result<Bytes, Failure> {
    let read = if path == Path::new("-") {
        let mut content = Vec::new();
        std::io::stdin().lock().read_to_end(&mut content).map(|_| content)
    } else {
        fs::read(path)
    };
    read.map(Bytes::from)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))
}
