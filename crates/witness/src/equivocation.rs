//! Two messages that one key signed under one number: kept whole, for nothing less proves to others that it did.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use ifmsg::{Admission, AgentId, Rejection, SignedMessage, TrustStore, canonical::Limits};

use crate::circle::file_name;

/// Most proofs that are kept against one agent. One is enough to know it by.
const MOST_OF_ONE: usize = 8;

/// Most proofs that are kept against all agents.
const MOST: usize = 256;

/// Most bytes of a proof.
const MOST_BYTES: usize = 1 << 20;

const EXTENSION: &str = "equivocation";

/// Decides which proofs are kept in a log's folder: at most 8 of an agent, 256 in all, of 1 MiB each.
#[derive(Debug)]
pub struct Equivocations {
    folder: PathBuf,
    kept: BTreeMap<String, usize>,
}

impl Equivocations {
    /// Counts those that former runs have kept. A folder that cannot be read has none.
    pub fn open(dir: &Path) -> Self {
        let mut kept = BTreeMap::new();
        for path in equivocations(dir) {
            *kept.entry(owner(&path)).or_default() += 1;
        }
        Self {
            folder: dir.join("peers"),
            kept,
        }
    }

    /// The file that these two messages belong in, and its content: both in their JSON form, one on each line, which `ifmesh verify`
    /// reads. `None` if enough is kept, or they are too large.
    pub fn keep(&mut self, first: &SignedMessage, second: &SignedMessage) -> Option<(PathBuf, Vec<u8>)> {
        let agent = file_name(&second.header().source);
        let of_it = self.kept.get(&agent).copied().unwrap_or(0);
        if of_it >= MOST_OF_ONE || self.kept.values().sum::<usize>() >= MOST {
            return None;
        }
        let content = [first.to_json(), second.to_json()].map(|json| [json.as_slice(), b"\n"].concat());
        let content = content.concat();
        if content.len() > MOST_BYTES {
            return None;
        }
        let digest = second.digest().to_hex();
        let path = self
            .folder
            .join(format!("{agent}.{}.{EXTENSION}", digest.get(..16)?));
        self.kept.insert(agent, of_it + 1);
        Some((path, content))
    }
}

/// Why two messages do not prove that their signer lied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotProved {
    /// There are not two.
    #[error("it does not hold two messages, one on each line")]
    NotTwo,
    /// One does not verify.
    #[error("one of its messages does not verify: {0}")]
    Message(Rejection),
    /// Each has a number of its own, or they are one and the same.
    #[error("its messages are not two under one number of one agent")]
    NoLie,
}

/// Whether the content of such a file proves that an agent signed two messages under one number, and which agent. Takes nothing
/// but public keys.
///
/// # Errors
/// [`NotProved`].
pub fn check_equivocation(content: &[u8], trust: &TrustStore) -> Result<AgentId, NotProved> {
    let lines: Vec<&[u8]> = content.trim_ascii_end().split(|byte| *byte == b'\n').collect();
    let [first, second] = lines[..] else {
        return Err(NotProved::NotTwo);
    };
    let verify = |line: &[u8]| {
        let flight = ifmsg::decode(&Bytes::copy_from_slice(line), &Limits::default())
            .map_err(|error| NotProved::Message(error.into()))?;
        let verified = Admission::authenticate(trust, &flight)
            .pop()
            .ok_or(NotProved::NotTwo)?;
        verified.map_err(NotProved::Message)
    };
    let (first, second) = (verify(first)?, verify(second)?);
    // Towards each receiver a stream to one agent is a stream of its own.
    let place = |message: &SignedMessage| {
        let header = message.header();
        let of = (header.source.clone(), *message.key());
        (
            of,
            header.destination.clone(),
            header.epoch,
            header.stream(),
            header.sequence,
        )
    };
    if place(&first) != place(&second) || first.digest() == second.digest() {
        return Err(NotProved::NoLie);
    }
    Ok(second.header().source.clone())
}

/// The proofs that are kept in a log's folder.
pub fn equivocations(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir.join("peers")) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == EXTENSION))
        .collect();
    paths.sort();
    paths
}

/// The agent's part of a file's name.
fn owner(path: &Path) -> String {
    let stem = path
        .file_stem()
        .and_then(|stem| stem.to_str())
        .unwrap_or_default();
    let end = stem.rfind('.').unwrap_or(stem.len());
    stem[..end].to_owned()
}
