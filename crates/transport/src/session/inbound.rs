//! The receiving side of one acknowledged stream: order, and what to acknowledge.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use ifmsg::{MessageId, VerifiedMessage, WINDOW};

use super::control::MAX_RANGES;

/// A message, and which of a router's roads brought it.
pub(super) type Arrived = (VerifiedMessage, Option<Arc<str>>);

/// One reliable stream from one peer, in one of its epochs. Every number comes here once: the replay window sees to it.
#[derive(Debug, Default)]
pub(super) struct Inbound {
    /// The next number to deliver; unknown until the peer has said where its stream stands.
    expected: Option<u64>,
    /// Messages that wait for an earlier one.
    waiting: BTreeMap<u64, Arrived>,
    /// Numbers that were refused, until the peer knows.
    refused: BTreeMap<u64, &'static str>,
    /// Numbers that are in the application's inbox.
    in_inbox: VecDeque<(u64, usize)>,
    /// Numbers whose message, by its id, came before under another one, and has yet to be taken under that.
    repeats: VecDeque<(u64, MessageId)>,
    /// Every number up to here is on record as taken.
    recorded: u64,
    /// Bytes in `waiting`.
    bytes: usize,
    /// Bytes in the inbox.
    inbox_bytes: usize,
}

impl Inbound {
    /// Takes up where a former run of this receiver left off.
    pub(super) fn resumed(taken: u64) -> Self {
        Self {
            expected: Some(taken + 1),
            recorded: taken,
            ..Self::default()
        }
    }

    /// Takes a verified message. `false`: its sender had given it up, and said so before it came.
    pub(super) fn insert(&mut self, message: VerifiedMessage, road: Option<Arc<str>>) -> bool {
        if self
            .expected
            .is_some_and(|expected| message.header().sequence < expected)
        {
            return false;
        }
        self.bytes += message.as_signed().body().len();
        self.waiting.insert(message.header().sequence, (message, road));
        true
    }

    /// The number was used up by a message that is refused for good.
    pub(super) fn refuse(&mut self, sequence: u64, reason: &'static str) {
        // A sender that keeps to its window has never more numbers open.
        let has_room = (self.refused.len() as u64) < WINDOW;
        if has_room && self.expected.is_none_or(|expected| sequence >= expected) {
            self.refused.insert(sequence, reason);
        }
    }

    /// The peer is done with every number below `floor`. Returns how many messages were dropped by that: they were given up
    /// while they waited here.
    pub(super) fn raise_floor(&mut self, floor: u64) -> usize {
        self.refused = self.refused.split_off(&floor);
        if self.expected.is_some_and(|expected| expected >= floor) {
            return 0;
        }
        self.expected = Some(floor);
        let kept = self.waiting.split_off(&floor);
        let dropped = std::mem::replace(&mut self.waiting, kept);
        self.bytes -= dropped
            .values()
            .map(|(message, _)| message.as_signed().body().len())
            .sum::<usize>();
        dropped.len()
    }

    /// The next message in order, if it is here. Either it goes to the inbox, or it counts as taken.
    ///
    /// A refused number ends the order until the peer has raised its floor beyond it, and so has shown that it knows. Were it
    /// passed over, it would lie below what is on record as taken; after a restart of this side, which forgets refusals, it
    /// would be acknowledged.
    pub(super) fn next(&mut self) -> Option<Arrived> {
        let expected = self.expected?;
        let (message, road) = self.waiting.remove(&expected)?;
        self.expected = Some(expected + 1);
        self.bytes -= message.as_signed().body().len();
        Some((message, road))
    }

    /// The message with this number went to the application's inbox.
    pub(super) fn put_in_inbox(&mut self, message: &VerifiedMessage) {
        let bytes = message.as_signed().body().len();
        self.inbox_bytes += bytes;
        self.in_inbox.push_back((message.header().sequence, bytes));
    }

    /// Messages that wait for an earlier one, and messages and bytes that wait for the application.
    pub(super) fn left_over(&self) -> (usize, usize, usize) {
        (self.waiting.len(), self.in_inbox.len(), self.inbox_bytes)
    }

    /// The application took the message with this number.
    pub(super) fn taken(&mut self, sequence: u64) {
        // Nearly always the first one.
        if let Some(at) = self.in_inbox.iter().position(|(number, _)| *number == sequence)
            && let Some((_, bytes)) = self.in_inbox.remove(at)
        {
            self.inbox_bytes -= bytes;
        }
    }

    /// The message with this number is in the inbox already, under a number of the peer's former run or of its other stream. This
    /// one is not taken before that one is: were it acknowledged now, the sender would forget what a crash of this side would lose.
    pub(super) fn repeats(&mut self, sequence: u64, id: MessageId) {
        self.repeats.push_back((sequence, id));
    }

    /// The application took the message with this id. Whether a number here waited for that.
    pub(super) fn taken_elsewhere(&mut self, id: &MessageId) -> bool {
        let before = self.repeats.len();
        self.repeats.retain(|(_, repeated)| repeated != id);
        self.repeats.len() < before
    }

    /// What was taken is on record up to here, and may be acknowledged. How many numbers of it are news.
    pub(super) fn record(&mut self, up_to: u64) -> u64 {
        let news = up_to.saturating_sub(self.recorded);
        self.recorded += news;
        news
    }

    /// Every number up to this one was taken by the application, or given up by the peer.
    pub(super) fn taken_up_to(&self) -> u64 {
        let in_inbox = self.in_inbox.front().map(|(first, _)| *first);
        let repeated = self.repeats.front().map(|(first, _)| *first);
        let first = [in_inbox, repeated, self.expected].into_iter().flatten().min();
        first.map_or(0, |first| first - 1)
    }

    /// What to acknowledge for good.
    pub(super) fn cumulative(&self) -> u64 {
        self.recorded.min(self.taken_up_to())
    }

    /// Runs of numbers beyond [`cumulative`](Self::cumulative) that need not be sent again.
    pub(super) fn held(&self) -> Vec<(u64, u64)> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        let delivered_from = self.cumulative() + 1;
        if let Some(expected) = self.expected
            && delivered_from < expected
        {
            runs.push((delivered_from, expected - 1));
        }
        for &sequence in self.waiting.keys() {
            if let Some((_, last)) = runs.last_mut()
                && *last + 1 == sequence
            {
                *last = sequence;
                continue;
            }
            if runs.len() == MAX_RANGES {
                break;
            }
            runs.push((sequence, sequence));
        }
        runs
    }

    /// Refused numbers and why, the lowest first.
    pub(super) fn refused(&self) -> Vec<(u64, String)> {
        self.refused
            .iter()
            .take(MAX_RANGES)
            .map(|(number, reason)| (*number, (*reason).to_owned()))
            .collect()
    }

    #[cfg(test)]
    pub(super) fn refusals(&self) -> usize {
        self.refused.len()
    }

    /// Whether this number is the one that everything else waits for.
    pub(super) fn is_next(&self, sequence: u64) -> bool {
        self.expected == Some(sequence)
    }

    /// Whether this number is one that later ones, which are here, wait for.
    pub(super) fn is_missing(&self, sequence: u64) -> bool {
        let is_ahead = self.expected.is_some_and(|expected| sequence >= expected);
        let last = self.waiting.last_key_value();
        is_ahead && last.is_some_and(|(last, _)| sequence < *last)
    }

    /// Messages and bytes that wait for an earlier one or for the application.
    pub(super) fn load(&self) -> (usize, usize) {
        (
            self.waiting.len() + self.in_inbox.len() + self.repeats.len(),
            self.bytes + self.inbox_bytes,
        )
    }

    /// How many numbers there are from the first that is not taken to the last that came or is `claimed`: what is here, and what is
    /// missing in between. As long as it is unknown where the stream stands, what is here, and so many that are `unplaced`.
    pub(super) fn span(&self, claimed: u64, unplaced: usize) -> usize {
        let Some(expected) = self.expected else {
            return self.waiting.len() + unplaced;
        };
        let waiting = self.waiting.last_key_value().map_or(0, |(last, _)| *last);
        let last = waiting.max(claimed).max(expected - 1);
        usize::try_from(last.saturating_sub(self.taken_up_to())).unwrap_or(usize::MAX)
    }

    /// Nothing waits for the application.
    pub(super) fn inbox_is_empty(&self) -> bool {
        self.in_inbox.is_empty()
    }
}
