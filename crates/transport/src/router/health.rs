//! What is thought of one road to one peer: a state machine that takes `now` and facts, and gives a verdict.
//!
//! # The facts
//! - There is a link, or there is none: the backend says so.
//! - *Proof*: something that was sent by this road was answered: a message acknowledged, a ping answered.
//! - *Word*: any frame came from the peer by this road. It proves one direction only.
//! - *Doubt*: a message is overdue, or a ping.
//!
//! # The rules
//! 1. Doubt alone decides nothing. It sends a ping, and the road has `grace` to answer. So a lost message, a slow
//!    application or a moment without CPU moves no traffic.
//! 2. No proof within `grace`, and no word either, while another road has answered meanwhile: [`RoadHealth::Degraded`], and
//!    traffic moves. With word from the peer, but no proof, it takes four times as long: that is a busy road, or one that is
//!    dead in one direction. If no other road answers either, the peer is slow, not the road, and traffic stays for
//!    `down_after` more. Once the other has answered, this one has as long again as the other took, and at least `grace`: a
//!    peer that stood still answers by one road before the other.
//! 3. No proof within `down_after` more: [`RoadHealth::Down`].
//! 4. From `Degraded` any proof leads back. From `Down`, or after the link was gone, the road has to answer three pings over
//!    `failback_after`, a time that doubles with each failure in the last minute: no flapping.

use std::{collections::VecDeque, time::Duration};

use crate::RoadHealth;

/// The times by which roads are judged. All of them bound how long an application can notice a dead road.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthConfig {
    /// How long a doubted road has to answer a ping before traffic moves. 50 ms by default. A longer round trip is allowed for.
    pub grace: Duration,
    /// How long a road that traffic has left may stay silent before it is called down. 500 ms by default.
    pub down_after: Duration,
    /// After so much silence a road is asked whether it is still there. 1 s by default.
    pub keepalive: Duration,
    /// How long a road must answer without fault before it is trusted again. 1 s by default; doubles with each failure
    /// within a minute, up to a minute.
    pub failback_after: Duration,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            grace: Duration::from_millis(50),
            down_after: Duration::from_millis(500),
            keepalive: Duration::from_secs(1),
            failback_after: Duration::from_secs(1),
        }
    }
}

/// Failures this long ago no longer count.
const MEMORY: Duration = Duration::from_secs(60);
/// The longest probation.
const MOST_PROBATION: Duration = Duration::from_secs(60);
/// What an answer may take where none has come yet.
const UNKNOWN_ROUND_TRIP: Duration = Duration::from_millis(250);
/// A road that takes longer is called silent.
const MOST_ROUND_TRIP: Duration = Duration::from_secs(5);
/// Pings that wait for an answer at the same time.
const MOST_PINGS: usize = 8;
/// Pings that a road on probation answers at least.
const PROBATION_PINGS: u32 = 3;

/// One road to one peer.
#[derive(Debug, Clone)]
pub(super) struct Health {
    config: HealthConfig,
    linked: bool,
    verdict: RoadHealth,
    /// It was up once: a first link is taken at its word, a later one has to prove itself.
    known: bool,
    /// When anything last came by it.
    heard: Option<Duration>,
    /// When the latest thing was sent that is known to have been answered.
    proved: Option<Duration>,
    /// Smoothed, and its variation (RFC 6298).
    round_trip: Option<(Duration, Duration)>,
    doubt: Option<Doubt>,
    probation: Option<Probation>,
    /// Pings that wait for their answers, oldest first; a few.
    pings: VecDeque<Ping>,
    pinged: Option<Duration>,
    /// Somebody wants to know whether it answers.
    asked: Option<Duration>,
    failures: u32,
    failed: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Doubt {
    since: Duration,
    /// Since when it is degraded for it.
    degraded: Option<Duration>,
    /// When another road answered something that was sent since then.
    other_answered: Option<Duration>,
}

#[derive(Debug, Clone, Copy)]
struct Probation {
    since: Duration,
    answers: u32,
}

#[derive(Debug, Clone, Copy)]
struct Ping {
    nonce: u64,
    at: Duration,
    /// Its time is over. The answer may still come, and tells how slow the road is.
    late: bool,
}

/// A verdict that has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Changed {
    pub(super) from: RoadHealth,
    pub(super) to: RoadHealth,
    pub(super) reason: &'static str,
}

impl Health {
    pub(super) fn new(config: HealthConfig) -> Self {
        Self {
            config,
            linked: false,
            verdict: RoadHealth::Down,
            known: false,
            heard: None,
            proved: None,
            round_trip: None,
            doubt: None,
            probation: None,
            pings: VecDeque::new(),
            pinged: None,
            asked: None,
            failures: 0,
            failed: None,
        }
    }

    pub(super) fn verdict(&self) -> RoadHealth {
        self.verdict
    }

    pub(super) fn is_linked(&self) -> bool {
        self.linked
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip.map(|(smoothed, _)| smoothed)
    }

    /// The backend has a link. `alone`: no other road leads to the peer, so there is nothing to be careful about.
    pub(super) fn link_up(&mut self, now: Duration, alone: bool) -> Option<Changed> {
        self.linked = true;
        self.heard = Some(now);
        self.pings.clear();
        self.pinged = None;
        self.doubt = None;
        if self.known && !alone {
            self.probation = Some(Probation {
                since: now,
                answers: 0,
            });
            return self.judge(RoadHealth::Degraded, "link-up");
        }
        self.known = true;
        self.probation = None;
        self.judge(RoadHealth::Up, "link-up")
    }

    /// The backend's link is gone.
    pub(super) fn link_down(&mut self, now: Duration) -> Option<Changed> {
        self.linked = false;
        self.pings.clear();
        if self.verdict == RoadHealth::Up {
            self.fail(now);
        }
        self.judge(RoadHealth::Down, "link-down")
    }

    /// It is the only road that is left: there is no choice, nobody asks it anything, and it is taken at its link's word.
    pub(super) fn is_alone(&mut self) -> Option<Changed> {
        if !self.linked {
            return None;
        }
        self.probation = None;
        self.doubt = None;
        self.judge(RoadHealth::Up, "only-road")
    }

    /// A frame came by it.
    pub(super) fn heard(&mut self, now: Duration) {
        self.heard = Some(now);
    }

    /// Something sent at `sent` was answered.
    pub(super) fn proved(&mut self, sent: Duration, round_trip: Duration, now: Duration) -> Option<Changed> {
        self.heard = Some(now);
        self.proved = self.proved.max(Some(sent));
        self.sample(round_trip);
        // The answer to something that was sent long before the doubt proves nothing about the time since.
        let settles = self
            .doubt
            .is_some_and(|doubt| sent + self.answer_time() >= doubt.since);
        if settles {
            let was_degraded = self.doubt.take().is_some_and(|doubt| doubt.degraded.is_some());
            if was_degraded && self.probation.is_none() && self.verdict == RoadHealth::Degraded {
                return self.judge(RoadHealth::Up, "answers-again");
            }
        }
        None
    }

    /// Something sent at `sent` should have been answered by now.
    pub(super) fn overdue(&mut self, sent: Duration, now: Duration) {
        let later_one_answered = self.proved.is_some_and(|proved| proved >= sent);
        if self.linked && self.verdict != RoadHealth::Down && !later_one_answered && self.doubt.is_none() {
            self.doubt = Some(Doubt {
                since: now,
                degraded: None,
                other_answered: None,
            });
        }
    }

    /// The answer to a ping. `None` if it was not asked.
    pub(super) fn pong(&mut self, nonce: u64, now: Duration) -> Option<Changed> {
        let at = self.pings.iter().position(|ping| ping.nonce == nonce)?;
        let ping = self.pings.drain(..=at).next_back()?;
        if let Some(probation) = &mut self.probation {
            probation.answers += 1;
        }
        let changed = self.proved(ping.at, now.saturating_sub(ping.at), now);
        if self.verdict == RoadHealth::Down && self.linked && self.probation.is_none() {
            // It was written off, and answers: it may prove itself.
            self.doubt = None;
            self.probation = Some(Probation {
                since: now,
                answers: 1,
            });
            return self.judge(RoadHealth::Degraded, "answers-again");
        }
        changed.or_else(|| self.end_probation(now))
    }

    /// Since when it is doubted without a verdict.
    pub(super) fn doubted_since(&self) -> Option<Duration> {
        self.doubt
            .filter(|doubt| doubt.degraded.is_none())
            .map(|doubt| doubt.since)
    }

    /// Something that was sent since then has been answered.
    pub(super) fn has_answered_since(&self, since: Duration) -> bool {
        self.linked && self.proved.is_some_and(|proved| proved >= since)
    }

    /// Another road is doubted: this one is to be pinged, too, so that they can be compared.
    pub(super) fn ask(&mut self, since: Duration) {
        // Of several doubted roads the latest counts: its question answers those of the others.
        self.asked = self.asked.max(Some(since));
    }

    /// Time has passed. `other_answers`: another road has answered since this one is doubted.
    pub(super) fn on_timeout(&mut self, now: Duration, other_answers: bool) -> Option<Changed> {
        if !self.linked {
            return None;
        }
        let patience = self.answer_time();
        let mut late = None;
        let overdue = |ping: &&mut Ping| !ping.late && ping.at + patience <= now;
        for ping in self.pings.iter_mut().filter(overdue) {
            ping.late = true;
            late = Some(*ping);
        }
        if let Some(ping) = late {
            if self.probation.is_some() {
                // It has to begin anew.
                self.pings.clear();
                self.probation = Some(Probation {
                    since: now,
                    answers: 0,
                });
                if self
                    .heard
                    .is_none_or(|heard| heard + self.config.down_after <= now)
                {
                    self.fail(now);
                    return self.judge(RoadHealth::Down, "no-answer");
                }
            } else {
                // As good a doubt as a message without an answer.
                self.overdue(ping.at, now);
            }
        }
        let mut doubt = self.doubt?;
        if other_answers && doubt.other_answered.is_none() {
            doubt.other_answered = Some(now);
        }
        if doubt.degraded.is_none() && now >= self.decides_at(doubt) {
            doubt.degraded = Some(now);
            self.doubt = Some(doubt);
            if self.verdict == RoadHealth::Up {
                self.fail(now);
            }
            return self.judge(RoadHealth::Degraded, "no-answer");
        }
        self.doubt = Some(doubt);
        match doubt.degraded {
            Some(since) if now >= since + self.config.down_after => self.judge(RoadHealth::Down, "no-answer"),
            _ => None,
        }
    }

    /// This process stood still for so long: what came meanwhile has yet to be read, so nobody is late for it.
    pub(super) fn stood_still(&mut self, time: Duration) {
        if let Some(doubt) = &mut self.doubt {
            doubt.since += time;
            doubt.other_answered = doubt.other_answered.map(|at| at + time);
        }
        for ping in &mut self.pings {
            ping.at += time;
        }
    }

    /// Whether the road is to be pinged now, and if so, remembers that it was.
    pub(super) fn ping(&mut self, now: Duration, nonce: impl FnOnce() -> u64) -> Option<u64> {
        if !self.linked || self.ping_at() > now {
            return None;
        }
        let nonce = nonce();
        if self.pings.len() == MOST_PINGS {
            self.pings.pop_front();
        }
        self.pings.push_back(Ping {
            nonce,
            at: now,
            late: false,
        });
        self.pinged = Some(now);
        Some(nonce)
    }

    /// When `on_timeout` or `ping` want to be called.
    pub(super) fn next_timeout(&self) -> Option<Duration> {
        if !self.linked {
            return None;
        }
        let waits = self.doubt.is_none() && self.verdict != RoadHealth::Down;
        let answer = self
            .pings
            .iter()
            .find(|ping| waits && !ping.late)
            .map(|ping| ping.at + self.answer_time());
        let doubt = self.doubt.map(|doubt| match doubt.degraded {
            None => self.decides_at(doubt),
            Some(since) => since + self.config.down_after,
        });
        [Some(self.ping_at()), answer, doubt].into_iter().flatten().min()
    }

    /// When the next ping is due: at once in doubt, then every `grace`; on probation as often as three answers need; when
    /// called down, or silent, once in each keepalive.
    fn ping_at(&self) -> Duration {
        let last = self.pinged.unwrap_or(Duration::ZERO);
        if let Some(doubt) = self.doubt {
            let fresh = self.pinged.is_none_or(|pinged| pinged < doubt.since);
            return if fresh {
                doubt.since
            } else {
                last + self.answer_time()
            };
        }
        if let Some(probation) = self.probation {
            return if self.pinged.is_none_or(|pinged| pinged < probation.since) {
                probation.since
            } else {
                last + (self.probation_time() / (PROBATION_PINGS + 1)).min(self.config.keepalive)
            };
        }
        if self.verdict == RoadHealth::Down {
            return last + self.config.keepalive;
        }
        if let Some(asked) = self.asked
            && self.pinged.is_none_or(|pinged| pinged < asked)
        {
            return asked;
        }
        let silent_since = self.heard.unwrap_or(Duration::ZERO);
        silent_since.max(last) + self.config.keepalive
    }

    /// When a doubt becomes a verdict, as far as can be said now: earlier if another road answers.
    fn decides_at(&self, doubt: Doubt) -> Duration {
        let word = self.heard.is_some_and(|heard| heard > doubt.since);
        let earliest = doubt.since + self.answer_time() * if word { 4 } else { 1 };
        let latest = earliest + self.config.down_after;
        let Some(at) = doubt.other_answered else {
            return latest;
        };
        let as_long_again = at + at.saturating_sub(doubt.since);
        as_long_again.clamp(earliest, latest).max(at + self.config.grace)
    }

    /// How long an answer may take.
    fn answer_time(&self) -> Duration {
        let usual = self
            .round_trip
            .map_or(UNKNOWN_ROUND_TRIP, |(smoothed, variation)| {
                smoothed + variation * 4
            });
        self.config.grace.max(usual.min(MOST_ROUND_TRIP))
    }

    fn probation_time(&self) -> Duration {
        let doubled = 1 << self.failures.saturating_sub(1).min(6);
        (self.config.failback_after * doubled).min(MOST_PROBATION.max(self.config.failback_after))
    }

    fn end_probation(&mut self, now: Duration) -> Option<Changed> {
        let probation = self.probation?;
        let served = now >= probation.since + self.probation_time();
        if !served || probation.answers < PROBATION_PINGS {
            return None;
        }
        self.probation = None;
        self.doubt = None;
        self.judge(RoadHealth::Up, "recovered")
    }

    fn fail(&mut self, now: Duration) {
        let lately = self.failed.is_some_and(|failed| failed + MEMORY >= now);
        self.failures = if lately { self.failures + 1 } else { 1 };
        self.failed = Some(now);
    }

    fn sample(&mut self, measured: Duration) {
        self.round_trip = Some(match self.round_trip {
            None => (measured, measured / 2),
            Some((smoothed, variation)) => (
                smoothed * 7 / 8 + measured / 8,
                variation * 3 / 4 + smoothed.abs_diff(measured) / 4,
            ),
        });
    }

    fn judge(&mut self, to: RoadHealth, reason: &'static str) -> Option<Changed> {
        if to == RoadHealth::Down {
            // There is nothing left to doubt, and a probation begins anew with the next answer: while it went on, answers would
            // not lead out of this.
            self.doubt = None;
            self.probation = None;
        }
        let from = std::mem::replace(&mut self.verdict, to);
        (from != to).then_some(Changed { from, to, reason })
    }
}
