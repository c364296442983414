//! Proofs that a third party checks with nothing but public keys.

use std::path::Path;

use ifmsg::MessageDigest;
use serde::{Deserialize, Serialize};

use crate::{
    checkpoint::{Checkpoint, CheckpointError, LogKeys},
    circle::cosigned,
    record::{BadLine, Record},
    tree::{Hash, consistency_proof, inclusion_proof, root, verify_consistency, verify_inclusion},
    verify::verified,
    walk::{VerifyError, walk},
};

/// Longest path of either proof.
const MAX_PATH: usize = 130;

/// That a line stands in a log: the line, its path, and the signed checkpoint that covers it. JSON by serde.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InclusionProof {
    /// The line, byte for byte, without its newline.
    pub line: String,
    /// Its place, from 0.
    pub index: u64,
    /// Hashes from the leaf up (RFC 9162, section 2.1.3), in lowercase hexadecimal.
    pub path: Vec<String>,
    /// The signed note; with cosignatures of peers, where there are any.
    pub checkpoint: String,
}

/// That a log only grew between two checkpoints. JSON by serde.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsistencyProof {
    /// The smaller signed note.
    pub old: String,
    /// The larger signed note.
    pub new: String,
    /// Hashes (RFC 9162, section 2.1.4), in lowercase hexadecimal.
    pub path: Vec<String>,
}

/// Why there is no proof.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProveError {
    /// The log itself does not verify: nothing is proved from it.
    #[error("{0}")]
    Log(#[from] VerifyError),
    /// Nothing has been signed yet.
    #[error("the log has no checkpoint yet; the writer makes one within 100 ms")]
    NoCheckpoint,
}

/// Why a proof does not prove.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// Not a proof at all.
    #[error("not a proof: {0}")]
    Malformed(String),
    /// Its checkpoint is no good.
    #[error("{0}")]
    Checkpoint(#[from] CheckpointError),
    /// Its line is no line of a log.
    #[error("the line is {0}")]
    Line(#[from] BadLine),
    /// The line says another agent or another number than the proof.
    #[error("the line belongs elsewhere")]
    Elsewhere,
    /// The line is about another message.
    #[error("the line is about another message")]
    OtherMessage,
    /// The path does not lead to the signed root.
    #[error("the path does not lead from the line to the signed root")]
    Path,
    /// Two signed checkpoints of one log contradict each other: **the agent keeps two histories**. Keep both as evidence.
    #[error("two signed checkpoints contradict each other: keep both, they prove a forked log")]
    Forked,
}

/// Proves every line about this message that a checkpoint covers: one when it was sent or received, another when it was
/// acknowledged or refused. Empty if there is none. A line that is about several messages tells the digests and ids of all of them.
/// Verifies the whole log on the way, and takes 32 bytes of memory for each line.
///
/// # Errors
/// [`ProveError`].
pub fn prove(dir: &Path, keys: &LogKeys, digest: &MessageDigest) -> Result<Vec<InclusionProof>, ProveError> {
    let (mut leaves, mut found) = (Vec::new(), Vec::new());
    let walked = walk(dir, keys, Vec::new(), |line| {
        if line.record.is_about(digest) {
            found.push((line.record.seq, String::from_utf8_lossy(line.bytes).into_owned()));
        }
        leaves.push(line.leaf);
    })?;
    let log = verified(dir, walked)?;
    let last = log.last.ok_or(ProveError::NoCheckpoint)?;
    let covers = |checkpoint: &Checkpoint| found.iter().all(|(index, _)| *index < checkpoint.size());
    // The one that peers have signed, if it covers what is to be proved and is of this log.
    let cosigned = cosigned(dir)
        .and_then(|note| Checkpoint::open(&note, keys).ok())
        .filter(covers)
        .filter(|checkpoint| {
            let size = usize::try_from(checkpoint.size()).unwrap_or(usize::MAX);
            leaves
                .get(..size)
                .is_some_and(|leaves| root(leaves) == *checkpoint.root())
        });
    let checkpoint = cosigned.unwrap_or(last);
    // A usize holds the size: there are as many leaves in memory.
    leaves.truncate(checkpoint.size().try_into().unwrap_or(usize::MAX));
    Ok(found
        .into_iter()
        .filter_map(|(index, line)| {
            Some(InclusionProof {
                line,
                index,
                path: to_hex(&inclusion_proof(index, &leaves)?),
                checkpoint: checkpoint.note().to_owned(),
            })
        })
        .collect())
}

/// Checks a proof about this message and gives what the line says of it, which now is what the agent signed. Needs no log and no
/// network.
///
/// It proves that the *agent* said so, not that it was so: another agent's log is the other half of the story.
///
/// # Errors
/// [`ProofError`]: whoever made the proof is at fault, or it is about something else.
pub fn check_proof(json: &[u8], keys: &LogKeys, digest: &MessageDigest) -> Result<Record, ProofError> {
    let proof: InclusionProof = from_json(json)?;
    let checkpoint = Checkpoint::open(&proof.checkpoint, keys)?;
    let record = Record::parse(proof.line.as_bytes())?;
    if record.agent != *keys.agent() || record.seq != proof.index {
        return Err(ProofError::Elsewhere);
    }
    let record = record.of(digest).ok_or(ProofError::OtherMessage)?.into_owned();
    let path = from_hex(&proof.path)?;
    let leaf = Hash::of_leaf(proof.line.as_bytes());
    if verify_inclusion(&leaf, proof.index, checkpoint.size(), &path, checkpoint.root()) {
        Ok(record)
    } else {
        Err(ProofError::Path)
    }
}

/// Proves that the log in `dir` has only grown since a checkpoint that somebody holds.
///
/// # Errors
/// [`ProveError`]; [`VerifyError::Forked`] or [`VerifyError::Cut`] inside it say that it has not.
pub fn prove_consistency(
    dir: &Path,
    keys: &LogKeys,
    held_note: &str,
) -> Result<ConsistencyProof, ProveError> {
    let held = Checkpoint::open(held_note, keys).map_err(VerifyError::Held)?;
    let mut leaves = Vec::new();
    let walked = walk(dir, keys, vec![held.clone()], |line| leaves.push(line.leaf))?;
    let log = verified(dir, walked)?;
    let new = log.last.ok_or(ProveError::NoCheckpoint)?;
    leaves.truncate(new.size().try_into().unwrap_or(usize::MAX));
    let (lines, size) = (new.size(), held.size());
    let path = consistency_proof(size, &leaves).ok_or(ProveError::Log(VerifyError::Cut { size, lines }))?;
    Ok(ConsistencyProof {
        old: held_note.to_owned(),
        new: new.note().to_owned(),
        path: to_hex(&path),
    })
}

/// Checks that the log only grew between the two checkpoints, and gives the newer.
///
/// # Errors
/// [`ProofError::Forked`] if both checkpoints are signed and have one size and two roots, which is proof in itself; [`ProofError::Path`] if
/// the path does not prove it, which proves nothing.
pub fn check_consistency_proof(json: &[u8], keys: &LogKeys) -> Result<Checkpoint, ProofError> {
    let proof: ConsistencyProof = from_json(json)?;
    let old = Checkpoint::open(&proof.old, keys)?;
    let new = Checkpoint::open(&proof.new, keys)?;
    if old.size() == new.size() && old.root() != new.root() {
        return Err(ProofError::Forked);
    }
    let path = from_hex(&proof.path)?;
    if verify_consistency(old.size(), old.root(), new.size(), new.root(), &path) {
        Ok(new)
    } else {
        Err(ProofError::Path)
    }
}

fn from_json<'a, T: Deserialize<'a>>(json: &'a [u8]) -> Result<T, ProofError> {
    serde_json::from_slice(json).map_err(|error| ProofError::Malformed(error.to_string()))
}

fn to_hex(path: &[Hash]) -> Vec<String> {
    path.iter().map(Hash::to_string).collect()
}

fn from_hex(path: &[String]) -> Result<Vec<Hash>, ProofError> {
    if path.len() > MAX_PATH {
        return Err(ProofError::Path);
    }
    path.iter()
        .map(|hash| Hash::from_hex(hash).ok_or(ProofError::Path))
        .collect()
}
