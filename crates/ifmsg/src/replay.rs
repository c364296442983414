//! Replay windows (RFC 6479) with a digest tag per slot, per key, epoch and stream.
//!
//! Check before verification, commit after it: [`ReplayGuard::check`] changes nothing, and [`ReplayGuard::commit`] decides
//! again and takes the number, in one step.

use std::{collections::BTreeMap, time::Duration};

use crate::{MAX_SAFE_INTEGER, MessageDigest, PublicKey, Stream};

/// How many numbers a window remembers below the highest it has seen.
pub const WINDOW: u64 = 1_024;

/// How long the window of a former epoch lives on after a higher one was opened.
pub const EPOCH_GRACE: Duration = Duration::from_secs(30);

/// What the window says of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Never seen, in an open epoch.
    Fresh,
    /// Never seen, in an epoch that is not open yet: it opens if the message proves to be live.
    NewEpoch,
    /// Seen: same number, same digest. A second path, or a replay.
    Duplicate,
    /// Same number, another digest. With a valid signature, its sender has said two things under one number.
    Conflict,
    /// Further back than the window reaches. It was delivered or given up long ago.
    TooOld,
    /// Of an epoch before the open one.
    StaleEpoch,
    /// The sequence number is 0 or beyond 2^53 - 1.
    OutOfRange,
}

/// The place that a message claims: the run of its sender, the stream, the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The run of the sender.
    pub epoch: u64,
    /// The stream.
    pub stream: Stream,
    /// The number, from 1.
    pub sequence: u64,
}

/// What a receiver must remember across a restart, so that the restart opens no door to a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// The highest epoch that was opened.
    pub epoch: u64,
    /// For each of [`Stream::ALL`]: every number up to this one is done with.
    pub floors: [u64; 4],
}

/// The windows of all keys. Memory is bounded by the number of keys: about 8 KiB for each stream in use, at most two epochs
/// of four streams.
#[derive(Debug, Default)]
pub struct ReplayGuard {
    keys: BTreeMap<[u8; 32], Key>,
}

#[derive(Debug, Default)]
struct Key {
    current: Option<Epoch>,
    /// The epoch before, and when its window dies.
    former: Option<(Epoch, Duration)>,
}

#[derive(Debug)]
struct Epoch {
    number: u64,
    streams: [Window; 4],
}

impl ReplayGuard {
    /// No windows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes up where a former run left off. Closes doors only: what is further along than the mark stays as it is.
    pub fn restore(&mut self, key: &PublicKey, mark: &Mark) {
        let state = self.keys.entry(*key.as_bytes()).or_default();
        match &mut state.current {
            Some(current) if current.number > mark.epoch => {}
            Some(current) if current.number == mark.epoch => {
                for (window, floor) in current.streams.iter_mut().zip(mark.floors) {
                    window.floor = window.floor.max(floor);
                }
            }
            current => {
                *current = Some(Epoch {
                    number: mark.epoch,
                    streams: mark.floors.map(Window::starting_after),
                });
            }
        }
    }

    /// What `commit` would say. Changes nothing: it is asked before the signature is verified.
    ///
    /// `now` is the time since any fixed point, and never runs backwards.
    pub fn check(&self, key: &PublicKey, place: Place, digest: &MessageDigest, now: Duration) -> Verdict {
        if !(1..=MAX_SAFE_INTEGER).contains(&place.sequence) {
            return Verdict::OutOfRange;
        }
        let Some(state) = self.keys.get(key.as_bytes()) else {
            return Verdict::NewEpoch;
        };
        let Some(current) = &state.current else {
            return Verdict::NewEpoch;
        };
        if place.epoch > current.number {
            return Verdict::NewEpoch;
        }
        let epoch = match &state.former {
            _ if place.epoch == current.number => current,
            Some((former, until)) if place.epoch == former.number && now < *until => former,
            _ => return Verdict::StaleEpoch,
        };
        epoch.streams[place.stream as usize].check(place.sequence, tag(digest))
    }

    /// Takes the number, if it is to be had: call it once the signature has verified, and, on [`Verdict::NewEpoch`], once
    /// the message has proven to be live. Any verdict but `Fresh` and `NewEpoch` leaves everything as it was.
    pub fn commit(
        &mut self,
        key: &PublicKey,
        place: Place,
        digest: &MessageDigest,
        now: Duration,
    ) -> Verdict {
        let verdict = self.check(key, place, digest, now);
        if !matches!(verdict, Verdict::Fresh | Verdict::NewEpoch) {
            return verdict;
        }
        let state = self.keys.entry(*key.as_bytes()).or_default();
        if verdict == Verdict::NewEpoch {
            let opened = Epoch {
                number: place.epoch,
                streams: Default::default(),
            };
            state.former = state
                .current
                .replace(opened)
                .map(|former| (former, now + EPOCH_GRACE));
        }
        let former = state.former.as_mut().map(|(former, _)| former);
        let mut epochs = [state.current.as_mut(), former].into_iter().flatten();
        if let Some(epoch) = epochs.find(|epoch| epoch.number == place.epoch) {
            epoch.streams[place.stream as usize].insert(place.sequence, tag(digest));
        }
        verdict
    }

    /// The open epoch of a key.
    pub fn epoch(&self, key: &PublicKey) -> Option<u64> {
        self.keys
            .get(key.as_bytes())?
            .current
            .as_ref()
            .map(|epoch| epoch.number)
    }

    /// How many keys have windows.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key has a window.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Forgets a key that is no longer trusted.
    pub fn forget(&mut self, key: &PublicKey) {
        self.keys.remove(key.as_bytes());
    }

    /// Every number of a stream up to this one is done with, whether it was seen or not.
    pub fn raise_floor(&mut self, key: &PublicKey, epoch: u64, stream: Stream, floor: u64) {
        let Some(current) = self
            .keys
            .get_mut(key.as_bytes())
            .and_then(|state| state.current.as_mut())
        else {
            return;
        };
        if current.number == epoch {
            let window = &mut current.streams[stream as usize];
            window.floor = window.floor.max(floor.min(MAX_SAFE_INTEGER));
        }
    }

    /// The highest number seen in a stream of the open epoch; 0 for none.
    pub fn highest(&self, key: &PublicKey, stream: Stream) -> u64 {
        let current = self
            .keys
            .get(key.as_bytes())
            .and_then(|state| state.current.as_ref());
        current.map_or(0, |epoch| epoch.streams[stream as usize].top)
    }
}

/// One stream's window.
///
/// RFC 6479 keeps a ring that only ever moves up; in place of its bits stand 64-bit tags, so that "seen" can tell a second
/// copy from a second message. Slots are made when the stream is first used.
#[derive(Debug, Default)]
struct Window {
    /// The highest number taken.
    top: u64,
    /// Every number up to here is done with.
    floor: u64,
    /// The tag of number n at n mod [`WINDOW`], for the numbers in (top - WINDOW, top]; 0 is "not seen".
    slots: Vec<u64>,
}

impl Window {
    fn starting_after(floor: u64) -> Self {
        Self {
            top: floor,
            floor,
            slots: Vec::new(),
        }
    }

    fn check(&self, sequence: u64, tag: u64) -> Verdict {
        if sequence > self.top {
            // The floor may have been raised beyond everything that was seen.
            return if sequence > self.floor {
                Verdict::Fresh
            } else {
                Verdict::TooOld
            };
        }
        if sequence + WINDOW <= self.top {
            return Verdict::TooOld;
        }
        match self.slots.get((sequence % WINDOW) as usize).copied().unwrap_or(0) {
            0 if sequence <= self.floor => Verdict::TooOld,
            0 => Verdict::Fresh,
            seen if seen == tag => Verdict::Duplicate,
            _ => Verdict::Conflict,
        }
    }

    fn insert(&mut self, sequence: u64, tag: u64) {
        if self.slots.is_empty() {
            self.slots = vec![0; WINDOW as usize];
        }
        if sequence > self.top {
            // > the window is moved: the blocks between the old top and the new one are cleared (RFC 6479, section 2)
            let skipped = (sequence - self.top).min(WINDOW);
            for offset in 0..skipped {
                self.slots[((sequence - offset) % WINDOW) as usize] = 0;
            }
            self.top = sequence;
        }
        self.slots[(sequence % WINDOW) as usize] = tag;
    }
}

/// The first eight bytes of the digest, with 0 kept free for "not seen".
fn tag(digest: &MessageDigest) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = *digest.as_bytes();
    u64::from_be_bytes([a, b, c, d, e, f, g, h]).max(1)
}
