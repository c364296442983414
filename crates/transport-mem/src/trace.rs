use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    time::Duration,
};

use sha2::{Digest, Sha256};

/// Everything that happened, in order: one line each, virtual time first.
///
/// `0.005000000 sent alice>bob #12 reliable 300 1f00ba5e`: the seconds since the mesh was made, what happened, in which
/// direction, the frame's number in that direction, lane, size and the first 4 bytes of its SHA-256.
#[derive(Clone, PartialEq, Eq)]
pub struct Trace {
    text: String,
    omitted: u64,
    digest: [u8; 32],
}

impl Trace {
    /// The latest lines, as many as [`MeshConfig::trace_lines`](crate::MeshConfig::trace_lines) keeps.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// How many lines came before [`Trace::text`].
    pub fn omitted(&self) -> u64 {
        self.omitted
    }

    /// SHA-256 over all lines, those that are no longer kept among them.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.omitted > 0 {
            writeln!(f, "... {} lines before", self.omitted)?;
        }
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({}, {} lines omitted)", hex(&self.digest), self.omitted)
    }
}

/// How often each thing happened: the second word of the trace's lines, counted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Counts(BTreeMap<&'static str, u64>);

impl Counts {
    /// How often `event` happened: `sent`, `delivered`, `lost`, `duplicated`, `corrupted`, `dropped`, `up`, `down`,
    /// `join`, `crash`, `restart`, `close`, `cut`, `mend`, `faults`, `slow`, `break`. 0 for a word that the trace does not know.
    pub fn of(&self, event: &str) -> u64 {
        self.0.get(event).copied().unwrap_or(0)
    }
}

/// Where the lines are written.
#[derive(Debug)]
pub(crate) struct Log {
    lines: VecDeque<String>,
    keep: usize,
    omitted: u64,
    hash: Sha256,
    counts: Counts,
}

impl Log {
    pub(crate) fn new(keep: usize) -> Self {
        Self {
            lines: VecDeque::new(),
            keep,
            omitted: 0,
            hash: Sha256::new(),
            counts: Counts::default(),
        }
    }

    pub(crate) fn write(&mut self, now: Duration, event: &'static str, rest: fmt::Arguments<'_>) {
        let line = format!("{}.{:09} {event} {rest}\n", now.as_secs(), now.subsec_nanos());
        self.hash.update(line.as_bytes());
        *self.counts.0.entry(event).or_default() += 1;
        self.lines.push_back(line);
        if self.lines.len() > self.keep {
            self.lines.pop_front();
            self.omitted += 1;
        }
    }

    pub(crate) fn read(&self) -> Trace {
        Trace {
            text: self.lines.iter().map(String::as_str).collect(),
            omitted: self.omitted,
            digest: self.hash.clone().finalize().into(),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        self.counts.clone()
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .map(|digit| char::from(DIGITS[usize::from(digit)]))
        .collect()
}
