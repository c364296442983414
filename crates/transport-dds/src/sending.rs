//! The sending end of a link's reliable lane: its numbers, its credit, and whose turn it is to write.
//!
//! Whoever sends a frame writes it into the library then and there, if nothing waits before it and nothing has to be waited for.
//! Everything else is queued for the link's task, and while anything is, nobody overtakes it.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use ifmesh_transport::Splitter;
use tokio::sync::watch;

use crate::{
    engine::Writers,
    wire::{Frame, Kind},
};

/// What a sample costs beside its payload, in bytes of credit.
pub(crate) const SAMPLE_COST: u64 = 512;

pub(crate) fn cost(payload: &Bytes) -> u64 {
    payload.len() as u64 + SAMPLE_COST
}

pub(crate) struct Sending {
    pub(crate) writers: Arc<Writers>,
    source: Arc<str>,
    destination: Arc<str>,
    /// The peer's id for the link.
    remote: u64,
    /// How much the peer takes unread.
    window: u64,
    max_sample: usize,
    /// The last sample that the peer said it has taken.
    taken: watch::Sender<u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Frames that wait for the link's task, and the one that it is sending.
    queued: usize,
    /// Of the last sample that was sent.
    number: u64,
    /// What was sent and is not known to be taken: its number, and its cost.
    under_way: VecDeque<(u64, u64)>,
    /// The costs together.
    credit: u64,
}

impl State {
    fn has_room(&mut self, cost: u64, window: u64, taken: u64) -> bool {
        while self.under_way.front().is_some_and(|(number, _)| *number <= taken) {
            self.credit -= self.under_way.pop_front().map_or(0, |(_, cost)| cost);
        }
        // With nothing under way a sample goes out however small the window is.
        self.under_way.is_empty() || self.credit + cost <= window
    }

    fn sent(&mut self, cost: u64) {
        self.number += 1;
        self.under_way.push_back((self.number, cost));
        self.credit += cost;
    }
}

impl Sending {
    pub(crate) fn new(
        writers: Arc<Writers>,
        names: [Arc<str>; 2],
        remote: u64,
        window: u64,
        max_sample: usize,
    ) -> Self {
        let [source, destination] = names;
        Self {
            writers,
            source,
            destination,
            remote,
            window,
            max_sample,
            taken: watch::channel(0).0,
            state: Mutex::default(),
        }
    }

    /// Writes a frame, if it is its turn and the peer and the library have room for it. `false`: it was not sent, counts as
    /// [queued](Self::unqueued), and is to be.
    pub(crate) fn send_now(&self, payload: &Bytes) -> bool {
        let taken = self.last_taken();
        let mut state = self.state();
        let cost = cost(payload);
        let possible = state.queued == 0
            && !Splitter::is_needed(payload, self.max_sample)
            && state.has_room(cost, self.window, taken);
        if possible {
            let frame = self.frame(Kind::Data, state.number + 1, payload.clone());
            // Under the lock, so that samples leave in the order of their numbers. It never waits.
            if self.writers.reliable.try_write(frame) {
                state.sent(cost);
                return true;
            }
        }
        state.queued += 1;
        false
    }

    /// For the link's task: from now on it alone sends.
    pub(crate) fn take_over(&self) {
        self.state().queued += 1;
    }

    /// A queued frame has left.
    pub(crate) fn unqueued(&self) {
        self.state().queued -= 1;
    }

    /// For the link's task: waits until the peer has room, and returns the number of the sample that comes next. Cancel safe.
    pub(crate) async fn room(&self, cost: u64) -> u64 {
        let mut taken = self.taken.subscribe();
        loop {
            let last = *taken.borrow_and_update();
            {
                let mut state = self.state();
                if state.has_room(cost, self.window, last) {
                    return state.number + 1;
                }
            }
            // The sender of these is in `self`.
            let _ = taken.changed().await;
        }
    }

    /// The sample that came next was written.
    pub(crate) fn sent(&self, cost: u64) {
        self.state().sent(cost);
    }

    /// The last sample that was sent.
    pub(crate) fn last_sent(&self) -> u64 {
        self.state().number
    }

    /// The peer said what it has taken.
    pub(crate) fn hear(&self, news: u64) {
        self.taken.send_if_modified(|taken| {
            let is_news = news > *taken;
            *taken = news.max(*taken);
            is_news
        });
    }

    /// The last sample that the peer said it has taken.
    pub(crate) fn last_taken(&self) -> u64 {
        *self.taken.borrow()
    }

    /// Waits until the peer has taken all that was sent. Cancel safe.
    pub(crate) async fn all_taken(&self) {
        let sent = self.last_sent();
        let _ = ifmesh_transport::awaited(&mut self.taken.subscribe(), |taken| taken >= sent).await;
    }

    /// A sample for the peer's inbox.
    pub(crate) fn frame(&self, kind: Kind, number: u64, payload: Bytes) -> Frame {
        Frame {
            source: Arc::clone(&self.source),
            destination: Arc::clone(&self.destination),
            kind,
            link: self.remote,
            number,
            payload,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Falsified by credit that is given twice, or never given back.
    #[test]
    fn no_more_is_under_way_than_the_window() {
        let mut state = State::default();
        // Alone a sample may be larger than the window.
        assert!(state.has_room(5_000, 1_000, 0));
        state.sent(5_000);
        assert!(!state.has_room(1, 1_000, 0));
        assert!(state.has_room(600, 1_000, 1));
        state.sent(600);
        assert!(state.has_room(400, 1_000, 1));
        state.sent(400);
        assert!(!state.has_room(1, 1_000, 1));
        // Hearing the same again frees nothing.
        assert!(!state.has_room(1, 1_000, 1));
        assert!(state.has_room(600, 1_000, 2));
        assert!(!state.has_room(601, 1_000, 2));
        assert!(state.has_room(1_000, 1_000, 3));
        assert_eq!(state.credit, 0);
    }
}
