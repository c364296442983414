//! Verifies a log that may have been in anybody's hands.

use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Read as _},
    path::Path,
};

use ifmsg::AgentId;

use crate::{
    checkpoint::{Checkpoint, LogKeys, agent_of_origin},
    record::{MAX_LINE, Record},
    tree::Hash,
    walk::{FaultKind, VerifyError, Walked, fault, io_error, walk},
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
/// show a torn end, and in the moment of its opening no checkpoint over that.
///
/// # Errors
/// The first thing that is wrong, with segment and line; or why the disk could not be read.
pub fn verify(dir: &Path, keys: &LogKeys) -> Result<Verified, VerifyError> {
    verified(dir, walk(dir, keys, Vec::new(), |_| {})?)
}

/// As [`verify`], and the log has to begin with what each of the held checkpoints covers: nothing under them was changed, and
/// nothing cut.
///
/// # Errors
/// Those of [`verify`]; [`VerifyError::Forked`], [`VerifyError::Cut`] and [`VerifyError::Held`].
pub fn verify_against<'a>(
    dir: &Path,
    keys: &LogKeys,
    held_notes: impl IntoIterator<Item = &'a str>,
) -> Result<Verified, VerifyError> {
    let held = held_notes.into_iter().map(|note| Checkpoint::open(note, keys));
    let held = held.collect::<Result<_, _>>().map_err(VerifyError::Held)?;
    verified(dir, walk(dir, keys, held, |_| {})?)
}

/// As [`verify`], and shows every record on the way, in order; one that is about several messages as [one for each](Record::each).
/// **What was shown counts only if all of it verifies**: keep it to yourself until this has returned.
///
/// # Errors
/// As [`verify`].
pub fn read(dir: &Path, keys: &LogKeys, mut on_record: impl FnMut(&Record)) -> Result<Verified, VerifyError> {
    let walked = walk(dir, keys, Vec::new(), |line| {
        line.record.each().for_each(|record| on_record(&record));
    })?;
    verified(dir, walked)
}

/// Whose log this folder seems to hold, by its checkpoints and its lines; unverified, and empty if there is no log. More than one
/// only where somebody meddled with it.
///
/// # Errors
/// If the folder cannot be read.
pub fn peek_agents(dir: &Path) -> Result<Vec<AgentId>, VerifyError> {
    let mut paths = Vec::new();
    let entries = fs::read_dir(dir).map_err(|error| io_error(dir, &error))?;
    for entry in entries {
        let path = entry.map_err(|error| io_error(dir, &error))?.path();
        let is_digits = |stem: &str| stem.len() == 8 && stem.bytes().all(|byte| byte.is_ascii_digit());
        let stem = path.file_stem().and_then(|stem| stem.to_str());
        let extension = path.extension().and_then(|extension| extension.to_str());
        if stem.is_some_and(is_digits) && matches!(extension, Some("jsonl" | "checkpoints")) {
            paths.push(path);
        }
    }
    paths.sort();
    let mut agents = Vec::new();
    for path in paths {
        let mut first = Vec::new();
        let opened = File::open(&path).map_err(|error| io_error(&path, &error))?;
        BufReader::new(opened)
            .take(MAX_LINE as u64)
            .read_until(b'\n', &mut first)
            .map_err(|error| io_error(&path, &error))?;
        let line = first.strip_suffix(b"\n").unwrap_or(&first);
        let agent = std::str::from_utf8(line).ok().and_then(agent_of_origin);
        let agent = agent.or_else(|| Record::parse(line).ok().map(|record| record.agent));
        if let Some(agent) = agent
            && !agents.contains(&agent)
        {
            agents.push(agent);
        }
    }
    Ok(agents)
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
