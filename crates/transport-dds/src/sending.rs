//! The sending end of a link's reliable lane: its numbers, its credit, its pace, and whose turn it is to write.
//!
//! Whoever sends a frame writes it into the library then and there, if nothing waits before it and nothing has to be waited for.
//! Everything else is queued for the link's task, and while anything is, nobody overtakes it.
//!
//! Credit bounds what the peer has not taken, pace bounds what the library keeps: its reliable writer drops what was
//! acknowledged on a timer of 6 s, whatever QoS says.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use ifmesh_transport::Splitter;
use tokio::{sync::watch, time::Instant};

use crate::{
    config::DdsLimits,
    engine::Writers,
    meter::Bucket,
    wire::{Frame, Kind},
};

/// What a sample costs beside its payload, in bytes of credit.
pub(crate) const SAMPLE_COST: u64 = 512;

/// Within 7 s, that is between two cleanings of the library and a second for being late, a bucket lets eight times its rate pass.
pub(crate) const SHARES: f64 = 8.0;

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
    /// How much may be written in a second.
    pace: f64,
    max_sample: usize,
    /// The last sample that the peer said it has taken.
    taken: watch::Sender<u64>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Frames that wait for the link's task, and the one that it is sending.
    queued: usize,
    /// Of the last sample that was sent.
    number: u64,
    /// What was sent and is not known to be taken: its number, and its cost.
    under_way: VecDeque<(u64, u64)>,
    /// The costs together.
    credit: u64,
    /// What may be written now.
    allowed: Bucket,
}

impl State {
    fn new(pace: f64, now: Instant) -> Self {
        Self {
            queued: 0,
            number: 0,
            under_way: VecDeque::new(),
            credit: 0,
            allowed: Bucket::full(pace, now),
        }
    }

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
        self.allowed.spend(cost as f64);
    }

    /// When the library may be given this much.
    fn allowed_at(&mut self, cost: u64, pace: f64, now: Instant) -> Instant {
        now + self.allowed.wait(cost as f64, pace, now)
    }
}

impl Sending {
    pub(crate) fn new(
        writers: Arc<Writers>,
        names: [Arc<str>; 2],
        remote: u64,
        window: u64,
        limits: &DdsLimits,
        max_sample: usize,
    ) -> Self {
        let [source, destination] = names;
        let pace = limits.kept_bytes as f64 / SHARES;
        Self {
            writers,
            source,
            destination,
            remote,
            window,
            pace,
            max_sample,
            taken: watch::channel(0).0,
            state: Mutex::new(State::new(pace, Instant::now())),
        }
    }

    /// Writes a frame, if it is its turn and the peer and the library have room for it. `false`: it was not sent, counts as
    /// [queued](Self::unqueued), and is to be.
    pub(crate) fn send_now(&self, payload: &Bytes) -> bool {
        let taken = self.last_taken();
        let mut state = self.state();
        let cost = cost(payload);
        let now = Instant::now();
        let possible = state.queued == 0
            && !Splitter::is_needed(payload, self.max_sample)
            && state.has_room(cost, self.window, taken)
            && state.allowed_at(cost, self.pace, now) == now;
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

    /// For the link's task: waits until the peer has room and the pace allows it, and returns the number of the sample that
    /// comes next. Cancel safe.
    pub(crate) async fn room(&self, cost: u64) -> u64 {
        let mut taken = self.taken.subscribe();
        loop {
            let last = *taken.borrow_and_update();
            let now = Instant::now();
            let (has_room, at, next) = {
                let mut state = self.state();
                let has_room = state.has_room(cost, self.window, last);
                (has_room, state.allowed_at(cost, self.pace, now), state.number + 1)
            };
            match has_room {
                true if at == now => return next,
                true => tokio::time::sleep_until(at).await,
                // The sender of these is in `self`.
                false => drop(taken.changed().await),
            }
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
    use std::time::Duration;

    use super::*;

    /// Falsified by credit that is given twice, or never given back.
    #[test]
    fn no_more_is_under_way_than_the_window() {
        let mut state = State::new(1e9, Instant::now());
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

    /// Falsified by a writer that is given more between two of the library's cleanings than it may keep, or by one that is kept
    /// from what it may.
    #[test]
    fn no_more_is_written_in_seven_seconds_than_may_be_kept() {
        const KEPT: f64 = 8e6;
        const COST: u64 = 1_000;
        let pace = KEPT / SHARES;
        let start = Instant::now();
        let mut state = State::new(pace, start);
        let mut written = Vec::new();
        let mut now = start;
        let end = start + Duration::from_secs(60);
        while now < end {
            let at = state.allowed_at(COST, pace, now);
            if at == now {
                state.sent(COST);
                written.push(now);
            }
            now = at;
        }
        for (n, first) in written.iter().enumerate().step_by(997) {
            let within = written[n..].partition_point(|at| *at - *first <= Duration::from_secs(7));
            assert!(
                within as f64 * COST as f64 <= KEPT + COST as f64,
                "{within} samples"
            );
        }
        let most = pace * 61.0 / COST as f64;
        assert!(written.len() as f64 > 0.99 * most, "{} samples", written.len());
    }
}
