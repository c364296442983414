//! Reads a whole log from disk and holds every line against the one before, the tree and the checkpoints.

use std::{
    collections::VecDeque,
    fmt, fs,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
};

use crate::{
    checkpoint::{Checkpoint, CheckpointError, LogKeys},
    record::{BadLine, Event, MAX_LINE, Record},
    tree::{Frontier, Hash},
};

/// Longest file of checkpoints that is read.
const MAX_CHECKPOINTS: u64 = 1 << 30;

/// Where in the log something is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The segment: 3 is `00000003.jsonl`, with its checkpoints beside it.
    pub segment: u32,
    /// The line in it, from 1: the first that cannot be trusted.
    pub line: u64,
    /// What is wrong.
    pub kind: FaultKind,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "segment {:08}, line {}: {}",
            self.segment, self.line, self.kind
        )
    }
}

/// What is wrong with a log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultKind {
    /// A segment is gone, and later ones, or its checkpoints, are there.
    #[error("the segment is missing")]
    MissingSegment,
    /// The line cannot be read.
    #[error("the line is {0}")]
    Line(BadLine),
    /// The line is another agent's.
    #[error("the line belongs to the log of another agent")]
    OtherAgent,
    /// The number is not the next.
    #[error(
        "the line's seq is {found}, and {expected} was due: lines were removed, repeated, inserted or moved"
    )]
    Sequence {
        /// The next number.
        expected: u64,
        /// The line's.
        found: u64,
    },
    /// `prev` is not the hash of the line before.
    #[error("its prev is not the hash of the line before: one of the two was changed")]
    Chain,
    /// The bytes after this line's number end without a newline.
    #[error(
        "the log ends within a line: its writer died while writing, or the end was cut; opening the log for writing mends the former"
    )]
    TornLine,
    /// The file of checkpoints ends within one.
    #[error(
        "the checkpoints end within one: their writer died while writing, or the end was cut; opening the log for writing mends the former"
    )]
    TornCheckpoint,
    /// A checkpoint cannot be trusted.
    #[error("checkpoint {number} of the segment is no good: {error}")]
    Checkpoint {
        /// Counted from 1 within the segment.
        number: u64,
        /// What is wrong with it.
        error: CheckpointError,
    },
    /// Checkpoints are out of order.
    #[error("checkpoint {number} of the segment covers {size} lines, which is out of order")]
    CheckpointOrder {
        /// Counted from 1 within the segment.
        number: u64,
        /// The lines that it covers.
        size: u64,
    },
    /// The lines are not those that were signed.
    #[error(
        "between this line and line number {size} of the log, a line is not the one that was signed: the checkpoint over {size} lines has another root"
    )]
    Root {
        /// The lines that the checkpoint covers.
        size: u64,
    },
    /// An opening is under a checkpoint on disk before the log takes any other line, and here no checkpoint covers it.
    #[error(
        "no checkpoint covers the `log_opened` of line number {size} of the log, and more follows it: the checkpoints were removed"
    )]
    UnsignedOpening {
        /// The lines up to the opening.
        size: u64,
    },
    /// Lines that were signed are gone.
    #[error(
        "the log is shorter than its own checkpoint: {size} lines were signed, and {lines} are left; restore what was cut"
    )]
    Shorter {
        /// The lines that the checkpoint covers.
        size: u64,
        /// The lines that are there.
        lines: u64,
    },
}

/// A log could not be verified, or is not what was signed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// Tampered with or damaged.
    #[error("{0}")]
    Fault(Fault),
    /// The log does not begin with what somebody else holds a checkpoint of: it was rewritten, or two logs are kept.
    #[error(
        "the log is not the one whose checkpoint over {size} lines is held elsewhere: it was rewritten or forked"
    )]
    Forked {
        /// The lines that the held checkpoint covers.
        size: u64,
    },
    /// Lines are gone which a checkpoint covers that somebody else holds.
    #[error("the log has {lines} lines, and a checkpoint over {size} is held elsewhere: its end was cut")]
    Cut {
        /// The lines that the held checkpoint covers.
        size: u64,
        /// The lines that are there.
        lines: u64,
    },
    /// The checkpoint to compare with is no good itself.
    #[error("the held checkpoint is no good: {0}")]
    Held(CheckpointError),
    /// There is no log.
    #[error("there is no log in {0}")]
    NoLog(PathBuf),
    /// The disk could not be read. Says nothing about the log.
    #[error("cannot read {path}: {kind}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        kind: io::ErrorKind,
    },
}

/// What a walk found: all of it is in order, but for what `torn_` says.
#[derive(Debug, Default)]
pub(crate) struct Walked {
    pub(crate) frontier: Frontier,
    pub(crate) prev: Option<Hash>,
    pub(crate) segments: u32,
    pub(crate) last: Option<Checkpoint>,
    pub(crate) checkpoints: u64,
    /// Lines and whole bytes in the last segment.
    pub(crate) tail_lines: u64,
    pub(crate) tail_bytes: u64,
    /// Bytes after the last whole line, and after the last whole checkpoint.
    pub(crate) torn_line: u64,
    pub(crate) torn_checkpoint: u64,
    pub(crate) checkpoint_bytes: u64,
}

/// A line that has been held against the chain; the tree and the checkpoints speak at the end of the walk.
pub(crate) struct WalkedLine<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) record: &'a Record,
    pub(crate) leaf: Hash,
}

pub(crate) fn segment_path(dir: &Path, segment: u32) -> PathBuf {
    dir.join(format!("{segment:08}.jsonl"))
}

pub(crate) fn checkpoints_path(dir: &Path, segment: u32) -> PathBuf {
    dir.join(format!("{segment:08}.checkpoints"))
}

pub(crate) fn walk(
    dir: &Path,
    keys: &LogKeys,
    mut held: Vec<Checkpoint>,
    mut on_line: impl FnMut(&WalkedLine<'_>),
) -> Result<Walked, VerifyError> {
    held.sort_by_key(Checkpoint::size);
    let mut walk = Walk {
        keys,
        held: held.into(),
        opening: 0,
        done: Walked::default(),
    };
    let segments = segments(dir)?;
    walk.compare_held()?;
    for segment in 0..segments {
        walk.segment(dir, segment, segment + 1 == segments, &mut on_line)?;
    }
    walk.done.segments = segments;
    if let Some(held) = walk.held.front() {
        return Err(VerifyError::Cut {
            size: held.size(),
            lines: walk.done.frontier.size(),
        });
    }
    Ok(walk.done)
}

/// How many segments there are. Every one from 0 on has to be there: a file with a number above a gap tells of the gap.
fn segments(dir: &Path) -> Result<u32, VerifyError> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        entries => entries.map_err(|error| io_error(dir, &error))?,
    };
    let (mut found, mut end) = (Vec::new(), 0);
    for entry in entries {
        let name = entry.map_err(|error| io_error(dir, &error))?.file_name();
        let Some((stem, extension)) = name.to_str().and_then(|name| name.split_once('.')) else {
            continue;
        };
        let Ok(number) = stem.parse::<u32>() else {
            continue;
        };
        if stem.len() != 8 || number == u32::MAX {
            continue;
        }
        match extension {
            "jsonl" => found.push(number),
            "checkpoints" => {}
            _ => continue,
        }
        end = end.max(number + 1);
    }
    found.sort_unstable();
    for segment in 0..end {
        if found.get(segment as usize) != Some(&segment) {
            return Err(fault(segment, 1, FaultKind::MissingSegment));
        }
    }
    Ok(end)
}

struct Walk<'a> {
    keys: &'a LogKeys,
    /// Those that more lines than have been seen are to be held against, the smallest first.
    held: VecDeque<Checkpoint>,
    /// The lines up to the last opening.
    opening: u64,
    done: Walked,
}

impl Walk<'_> {
    fn segment(
        &mut self,
        dir: &Path,
        segment: u32,
        is_last: bool,
        on_line: &mut impl FnMut(&WalkedLine<'_>),
    ) -> Result<(), VerifyError> {
        let signed = self.checkpoints(dir, segment, is_last)?;
        let covered = signed
            .last()
            .or(self.done.last.as_ref())
            .map_or(0, Checkpoint::size);
        let mut signed = signed.into_iter().peekable();
        let path = segment_path(dir, segment);
        let file = File::open(&path).map_err(|error| io_error(&path, &error))?;
        let mut file = BufReader::with_capacity(64 << 10, file);
        let mut bytes = Vec::new();
        // Whole lines and bytes so far. `since` is the first line since the last checkpoint, and so the first that a root of the next one may accuse.
        let mut since = 1;
        let (mut number, mut offset) = (0, 0);
        loop {
            bytes.clear();
            let read = file
                .by_ref()
                .take(MAX_LINE as u64 + 1)
                .read_until(b'\n', &mut bytes)
                .map_err(|error| io_error(&path, &error))?;
            if read == 0 {
                break;
            }
            let Some((b'\n', line)) = bytes.split_last() else {
                if bytes.len() > MAX_LINE {
                    return Err(fault(segment, number + 1, FaultKind::Line(BadLine::TooLong)));
                }
                if !is_last {
                    return Err(fault(segment, number + 1, FaultKind::TornLine));
                }
                self.done.torn_line = read as u64;
                break;
            };
            let (record, leaf) = self.line(line).map_err(|kind| fault(segment, number + 1, kind))?;
            if record.event == Event::LogOpened {
                self.opening = self.done.frontier.size();
            } else if covered < self.opening {
                let size = self.opening;
                return Err(fault(segment, since, FaultKind::UnsignedOpening { size }));
            }
            on_line(&WalkedLine {
                bytes: line,
                record: &record,
                leaf,
            });
            number += 1;
            offset += read as u64;
            self.compare_held()?;
            while let Some(checkpoint) = signed.next_if(|next| next.size() == self.done.frontier.size()) {
                if *checkpoint.root() != self.done.frontier.root() {
                    let size = checkpoint.size();
                    return Err(fault(segment, since, FaultKind::Root { size }));
                }
                since = number + 1;
                self.done.last = Some(checkpoint);
            }
        }
        if let Some(next) = signed.next() {
            let kind = FaultKind::Shorter {
                size: next.size(),
                lines: self.done.frontier.size(),
            };
            return Err(fault(segment, number + 1, kind));
        }
        (self.done.tail_lines, self.done.tail_bytes) = (number, offset);
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(Record, Hash), FaultKind> {
        let record = Record::parse(line).map_err(FaultKind::Line)?;
        if record.agent != *self.keys.agent() {
            return Err(FaultKind::OtherAgent);
        }
        let expected = self.done.frontier.size();
        if record.seq != expected {
            let found = record.seq;
            return Err(FaultKind::Sequence { expected, found });
        }
        if record.prev != self.done.prev.unwrap_or(Hash::ZERO) {
            return Err(FaultKind::Chain);
        }
        let leaf = Hash::of_leaf(line);
        self.done.frontier.push(leaf);
        self.done.prev = Some(leaf);
        Ok((record, leaf))
    }

    fn compare_held(&mut self) -> Result<(), VerifyError> {
        let size = self.done.frontier.size();
        while let Some(held) = self.held.pop_front_if(|held| held.size() == size) {
            if *held.root() != self.done.frontier.root() {
                return Err(VerifyError::Forked { size });
            }
        }
        Ok(())
    }

    /// The checkpoints of a segment, in order. Each covers at least one line of it that no earlier one does.
    fn checkpoints(
        &mut self,
        dir: &Path,
        segment: u32,
        is_last: bool,
    ) -> Result<Vec<Checkpoint>, VerifyError> {
        let path = checkpoints_path(dir, segment);
        let mut bytes = Vec::new();
        match File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            file => {
                file.and_then(|file| file.take(MAX_CHECKPOINTS).read_to_end(&mut bytes))
                    .map_err(|error| io_error(&path, &error))?;
            }
        }
        self.done.checkpoint_bytes = 0;
        let mut checkpoints = Vec::new();
        let mut covered = self.done.frontier.size();
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            let number = checkpoints.len() as u64 + 1;
            let Some(note) = first_note(rest) else {
                if !is_last {
                    return Err(fault(segment, 1, FaultKind::TornCheckpoint));
                }
                self.done.torn_checkpoint = rest.len() as u64;
                break;
            };
            let checkpoint = std::str::from_utf8(note)
                .map_err(|_| CheckpointError::Malformed)
                .and_then(|note| Checkpoint::open(note, self.keys))
                .map_err(|error| fault(segment, 1, FaultKind::Checkpoint { number, error }))?;
            if checkpoint.size() <= covered {
                let size = checkpoint.size();
                return Err(fault(segment, 1, FaultKind::CheckpointOrder { number, size }));
            }
            covered = checkpoint.size();
            rest = &rest[note.len()..];
            self.done.checkpoint_bytes += note.len() as u64;
            self.done.checkpoints += 1;
            checkpoints.push(checkpoint);
        }
        Ok(checkpoints)
    }
}

/// Notes stand one after the other; ours have five lines: origin, size, root, an empty one, a signature.
fn first_note(bytes: &[u8]) -> Option<&[u8]> {
    let mut newlines = bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
    let (end, _) = newlines.nth(4)?;
    bytes.get(..=end)
}

pub(crate) fn fault(segment: u32, line: u64, kind: FaultKind) -> VerifyError {
    VerifyError::Fault(Fault { segment, line, kind })
}

pub(crate) fn io_error(path: &Path, error: &io::Error) -> VerifyError {
    VerifyError::Io {
        path: path.to_owned(),
        kind: error.kind(),
    }
}
