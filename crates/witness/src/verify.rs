//! Verifies a log that may have been in anybody's hands.

use std::path::Path;

use crate::{
    checkpoint::{Checkpoint, LogKeys},
    tree::Hash,
    walk::{FaultKind, VerifyError, Walked, fault, walk},
};

/// A log that is in order.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Verified {
    /// Its lines.
    pub lines: u64,
    /// Its segments.
    pub segments: u32,
    /// Its checkpoints.
    pub checkpoints: u64,
    /// The root over all lines.
    pub root: Hash,
    /// The last checkpoint.
    pub last: Option<Checkpoint>,
    /// Lines after the last checkpoint. **Nothing vouches for these**: whoever can write the files can write them anew.
    pub unsigned_lines: u64,
}

/// Reads the whole log in `dir` and says whether it is what the agent wrote and signed: every line canonical, numbered and
/// chained; every checkpoint signed by one of `keys`, and its root that of the lines.
///
/// **What this cannot see.** Whoever holds the agent's key can write another log. Whoever can write the files can cut the end
/// off, lines and checkpoints both, or take all of it away. Against both helps a checkpoint that somebody else holds:
/// [`verify_against`].
///
/// Memory: the checkpoints of one segment. Time: a microsecond or two for each line. A log that is being written may
/// show a torn end.
///
/// # Errors
/// The first thing that is wrong, with segment and line; or why the disk could not be read.
pub fn verify(dir: &Path, keys: &LogKeys) -> Result<Verified, VerifyError> {
    verified(dir, walk(dir, keys, None, |_| {})?)
}

/// As [`verify`], and the log has to begin with what the held checkpoint covers: nothing under it was changed, and nothing cut.
///
/// # Errors
/// Those of [`verify`]; [`VerifyError::Forked`], [`VerifyError::Cut`] and [`VerifyError::Held`].
pub fn verify_against(dir: &Path, keys: &LogKeys, held_note: &str) -> Result<Verified, VerifyError> {
    let held = Checkpoint::open(held_note, keys).map_err(VerifyError::Held)?;
    verified(dir, walk(dir, keys, Some(&held), |_| {})?)
}

pub(crate) fn verified(dir: &Path, walked: Walked) -> Result<Verified, VerifyError> {
    let Some(last_segment) = walked.segments.checked_sub(1) else {
        return Err(VerifyError::NoLog(dir.to_owned()));
    };
    if walked.torn_line > 0 {
        return Err(fault(last_segment, walked.tail_lines + 1, FaultKind::TornLine));
    }
    if walked.torn_checkpoint > 0 {
        return Err(fault(
            last_segment,
            walked.tail_lines + 1,
            FaultKind::TornCheckpoint,
        ));
    }
    let lines = walked.frontier.size();
    Ok(Verified {
        lines,
        segments: walked.segments,
        checkpoints: walked.checkpoints,
        root: walked.frontier.root(),
        unsigned_lines: lines - walked.last.as_ref().map_or(0, Checkpoint::size),
        last: walked.last,
    })
}
