//! Hedging: when a copy of a message goes by a second road, and how many of them there may be.

use std::{collections::VecDeque, time::Duration};

use crate::Envelope;

/// Acknowledgements by which the time of a copy is measured.
const SAMPLES: usize = 64;
/// Before so many have come, nothing is copied.
const LEAST_SAMPLES: usize = 16;
/// The measured time is computed anew after so many.
const AGAIN_AFTER: usize = 8;
/// Envelopes to one peer that wait to be copied; beyond it the oldest is not copied.
const MOST_WAITING: usize = 256;
/// Unused budget does not grow beyond this many bytes.
const MOST_SAVED: u64 = 256 * 1024;
/// No copy earlier than this: timers are no finer.
const LEAST_WAIT: Duration = Duration::from_millis(1);

/// The copies of one peer's messages.
#[derive(Debug, Default)]
pub(super) struct Copies {
    waiting: VecDeque<(Duration, Envelope)>,
    round_trips: VecDeque<Duration>,
    since_computed: usize,
    percentile_95: Option<Duration>,
    /// In thousandths of bytes.
    budget: u64,
}

impl Copies {
    /// Plans a copy of an envelope that is sent now. When, if there is to be one.
    pub(super) fn plan(
        &mut self,
        envelope: &Envelope,
        budget_permille: u16,
        now: Duration,
    ) -> Option<Duration> {
        let earned = envelope.frame.len() as u64 * u64::from(budget_permille);
        self.budget = (self.budget + earned).min(MOST_SAVED * 1_000);
        let at = now + self.percentile_95?.max(LEAST_WAIT);
        if self.waiting.len() == MOST_WAITING {
            self.waiting.pop_front();
        }
        self.waiting.push_back((at, envelope.clone()));
        Some(at)
    }

    /// The transmission was acknowledged, or its session sends it again by itself: no copy.
    pub(super) fn settle(&mut self, transmission: u64) {
        if !self.waiting.is_empty() {
            self.waiting
                .retain(|(_, envelope)| envelope.route.transmission != transmission);
        }
    }

    /// An acknowledgement took this long.
    pub(super) fn sample(&mut self, round_trip: Duration) {
        if self.round_trips.len() == SAMPLES {
            self.round_trips.pop_front();
        }
        self.round_trips.push_back(round_trip);
        self.since_computed += 1;
        if self.round_trips.len() >= LEAST_SAMPLES && self.since_computed >= AGAIN_AFTER {
            self.since_computed = 0;
            let mut sorted: Vec<Duration> = self.round_trips.iter().copied().collect();
            sorted.sort_unstable();
            self.percentile_95 = sorted.get(sorted.len() * 95 / 100).copied();
        }
    }

    /// Envelopes whose time has come.
    pub(super) fn due(&mut self, now: Duration) -> Vec<Envelope> {
        let (due, waiting) = std::mem::take(&mut self.waiting)
            .into_iter()
            .partition(|(at, _)| *at <= now);
        self.waiting = waiting;
        VecDeque::into_iter(due).map(|(_, envelope)| envelope).collect()
    }

    pub(super) fn next_due(&self) -> Option<Duration> {
        self.waiting.iter().map(|(at, _)| *at).min()
    }

    /// Takes a copy of this size out of the budget, if it is in it.
    pub(super) fn spend(&mut self, bytes: u64) -> bool {
        match self.budget.checked_sub(bytes * 1_000) {
            Some(left) => {
                self.budget = left;
                true
            }
            None => false,
        }
    }

    /// There is no link any more.
    pub(super) fn clear(&mut self) {
        self.waiting.clear();
    }
}
