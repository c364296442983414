//! Who offers, when, and which of several connections to one peer is the link. Pure: what happened and `now` go in, what to
//! do comes out.
//!
//! # The rules
//! 1. The agent with the **larger id offers**, as soon as it hears of the other. The other one waits, and offers itself when
//!    no offer came within `offer_wait` and up to a quarter more. Anybody may offer at any time.
//! 2. **Glare.** When both have offered, the smaller id drops its own offer and answers. The larger one ignores the other's
//!    offer, but not for ever: when its own is older than `offer_wait` and unanswered, it was lost, and the larger one
//!    answers.
//! 3. **One link.** A connection becomes the link when its hello has verified; the link before it ends first. So an offer
//!    that a server repeats, or that nobody stands behind, harms no link.
//! 4. A description that verifies with a **higher epoch** ends the link to the earlier life at once.
//! 5. A failed attempt, or a link that ended, is followed by another attempt after a time that doubles, with jitter, for as
//!    long as the signaling server says that the peer is there.
//! 6. What the *server* says about a peer (present, epoch) starts attempts and ends nothing but an unanswered offer.
//! 7. When a link falls **silent**, the agent with the larger id, and only that one, restarts its ICE: an offer with the
//!    link's own session. What is on its way over the link is kept. When the server tells anew that the peer is there, it does so
//!    once more: the first offer may have gone astray. If nothing comes of it, the link ends by its own clocks, and rule 5
//!    follows.
//! 8. **On demand** an attempt is made only for somebody who wants to send, by either side and at once. Offers are answered
//!    as ever.

use std::{collections::VecDeque, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use ifmesh_signaling::Sha256Digest;
use tokio::time::Instant;

use crate::config::WebRtcLimits;

/// Names a connection, in the order in which they were begun.
pub(crate) type Attempt = u64;

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    /// The server says that the peer registered, with this epoch if it proved one.
    Present { epoch: Option<u64> },
    /// The server says that it left, or could not be found; or there is no server.
    Absent,
    /// An offer that verified.
    Offer { digest: Sha256Digest, epoch: u64 },
    /// The answer to this offer verified.
    Answered { attempt: Attempt, epoch: u64 },
    /// The peer's hello verified.
    Verified { attempt: Attempt },
    /// The connection could not be made, or is over.
    Ended { attempt: Attempt },
    /// Nothing was heard over this link for a while.
    Silent { attempt: Attempt },
    /// The link is heard again.
    Heard { attempt: Attempt },
    /// An offer that verified and has the session of this link.
    RestartOffer { attempt: Attempt, digest: Sha256Digest },
    /// The answer to our restart was taken, or the restart came to nothing.
    Restarted { attempt: Attempt },
    /// Somebody wants to send to the peer.
    Wanted,
    /// The link is no longer used.
    Unused,
    /// The deadline came.
    Tick,
}

/// What to do, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    /// Make a connection and send an offer.
    Offer { attempt: Attempt },
    /// Make a connection for the offer that just went in, and send the answer.
    Answer { attempt: Attempt },
    /// Close a connection that is not the link. No `Ended` need follow.
    Drop { attempt: Attempt },
    /// Close the link; something newer takes its place. `Ended` must follow.
    Replace { attempt: Attempt },
    /// This connection is the link now.
    Adopt { attempt: Attempt },
    /// Restart the ICE of the link, and send an offer.
    Restart { attempt: Attempt },
    /// Restart the ICE of the link as the offer that just went in says, and send the answer.
    AnswerRestart { attempt: Attempt },
    /// Close the link in good order. `Ended` must follow.
    Rest { attempt: Attempt },
    /// The offer that just went in is not taken.
    Refuse(RefusedOffer),
}

/// Why an offer that verified is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefusedOffer {
    /// It came before.
    Replayed,
    /// More than a peer in good order makes.
    TooMany,
    /// It would restart a link whose restarts are the other side's to make.
    OutOfTurn,
}

/// Offers that each side may make at once, and after which time it may make one more.
const OFFER_BURST: u32 = 8;
const OFFER_INTERVAL: Duration = Duration::from_millis(500);
/// How long somebody wants to send, unless they say so again.
const WANTED_FOR: Duration = Duration::from_secs(30);
/// Offers that are remembered. At most `OFFER_BURST` plus two a second are taken, for the 60 s that a statement can be valid.
const REMEMBERED_OFFERS: usize = 128;

/// The negotiations with one peer.
#[derive(Debug)]
pub(crate) struct Negotiation {
    limits: WebRtcLimits,
    /// Ours is the larger id.
    first: bool,
    on_demand: bool,
    /// On demand: until when.
    wanted: Option<Instant>,
    /// As the server says.
    present: bool,
    /// The epoch that the server says, as long as it has not led to nothing.
    claimed: Option<u64>,
    link: Option<Link>,
    pending: Option<Pending>,
    next: Attempt,
    offer_at: Option<Instant>,
    failures: u32,
    /// For the peer's offers, and for ours, which a server can provoke.
    theirs: Allowance,
    ours: Allowance,
    remembered: VecDeque<Sha256Digest>,
}

#[derive(Debug, Clone, Copy)]
struct Link {
    attempt: Attempt,
    epoch: u64,
    since: Instant,
    replaced: bool,
    silent: bool,
    restarting: bool,
}

#[derive(Debug, Clone, Copy)]
struct Pending {
    attempt: Attempt,
    since: Instant,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Our offer is out, to the life that the server named.
    Offered { to: Option<u64> },
    /// Both descriptions are known.
    Described { epoch: u64 },
    /// It waits for the former link to end.
    Verified { epoch: u64 },
}

#[derive(Debug)]
struct Allowance {
    left: u32,
    since: Option<Instant>,
}

impl Negotiation {
    pub(crate) fn new(first: bool, on_demand: bool, limits: WebRtcLimits) -> Self {
        Self {
            limits,
            first,
            on_demand,
            wanted: None,
            present: false,
            claimed: None,
            link: None,
            pending: None,
            next: 1,
            offer_at: None,
            failures: 0,
            theirs: Allowance::new(),
            ours: Allowance::new(),
            remembered: VecDeque::new(),
        }
    }

    /// Takes in what happened. `dice` is a random number, for jitter.
    pub(crate) fn handle(&mut self, input: Input, now: Instant, dice: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        match input {
            Input::Present { epoch } => self.on_present(epoch, now, dice, &mut actions),
            Input::Absent => self.on_absent(&mut actions),
            Input::Offer { digest, epoch } => self.on_offer(digest, epoch, now, &mut actions),
            Input::Answered { attempt, epoch } => self.on_answered(attempt, epoch, &mut actions),
            Input::Verified { attempt } => self.on_verified(attempt, now, &mut actions),
            Input::Ended { attempt } => self.on_ended(attempt, now, dice, &mut actions),
            Input::Silent { attempt } => self.on_silent(attempt, now, &mut actions),
            Input::Heard { attempt } => {
                if let Some(link) = self.link_of(attempt) {
                    link.silent = false;
                }
            }
            Input::RestartOffer { attempt, digest } => {
                self.on_restart_offer(attempt, digest, now, &mut actions);
            }
            Input::Restarted { attempt } => {
                if let Some(link) = self.link_of(attempt) {
                    link.restarting = false;
                }
            }
            Input::Wanted => self.on_wanted(now, dice, &mut actions),
            Input::Unused => self.on_unused(&mut actions),
            Input::Tick => self.on_tick(now, &mut actions),
        }
        actions
    }

    /// When to put in a `Tick`.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.offer_at
    }

    /// The connection to which a candidate of the peer's belongs, unless it says otherwise.
    pub(crate) fn current(&self) -> Option<Attempt> {
        self.pending
            .map(|pending| pending.attempt)
            .or(self.link.map(|link| link.attempt))
    }

    /// Our offer that waits for its answer.
    pub(crate) fn offered(&self) -> Option<Attempt> {
        self.pending
            .filter(|pending| matches!(pending.stage, Stage::Offered { .. }))
            .map(|pending| pending.attempt)
    }

    /// Whether the peer is there, as it was last told.
    pub(crate) fn is_present(&self) -> bool {
        self.present
    }

    /// The link.
    pub(crate) fn link(&self) -> Option<Attempt> {
        self.link.map(|link| link.attempt)
    }

    /// The link whose restart waits for its answer.
    pub(crate) fn restarting(&self) -> Option<Attempt> {
        self.link.filter(|link| link.restarting).map(|link| link.attempt)
    }

    /// Whether a connection is being made.
    pub(crate) fn is_connecting(&self) -> bool {
        self.pending.is_some() || self.offer_at.is_some()
    }

    /// Whether there is nothing to do and nothing to wait for.
    pub(crate) fn is_idle(&self) -> bool {
        (!self.present || self.on_demand)
            && self.offer_at.is_none()
            && self.link.is_none()
            && self.pending.is_none()
    }

    fn on_present(&mut self, epoch: Option<u64>, now: Instant, dice: u64, actions: &mut Vec<Action>) {
        self.present = true;
        self.claimed = epoch;
        if let Some(pending) = self.pending
            && let Stage::Offered { to } = pending.stage
            && to != epoch
        {
            // The offer went to a life that is over.
            actions.push(Action::Drop {
                attempt: pending.attempt,
            });
            self.pending = None;
        }
        if self.pending.is_none() && self.wants_link(now) {
            self.offer_at = Some(now + self.wait(dice));
            self.on_tick(now, actions);
        }
        // An offer to restart may have gone to a socket that was dead already.
        self.restart(true, now, actions);
    }

    fn on_silent(&mut self, attempt: Attempt, now: Instant, actions: &mut Vec<Action>) {
        if let Some(link) = self.link_of(attempt) {
            link.silent = true;
            self.restart(false, now, actions);
        }
    }

    /// Rule 7; `again`, even if an answer is waited for.
    fn restart(&mut self, again: bool, now: Instant, actions: &mut Vec<Action>) {
        if !self.first || !self.present || self.pending.is_some() {
            return;
        }
        if let Some(link) = &mut self.link
            && link.silent
            && !link.replaced
            && (again || !link.restarting)
            && self.ours.take(now)
        {
            link.restarting = true;
            actions.push(Action::Restart {
                attempt: link.attempt,
            });
        }
    }

    fn on_restart_offer(
        &mut self,
        attempt: Attempt,
        digest: Sha256Digest,
        now: Instant,
        actions: &mut Vec<Action>,
    ) {
        if let Err(refused) = self.take_offer(digest, now) {
            return actions.push(Action::Refuse(refused));
        }
        // By rule 7 only the larger id restarts, so there is no glare.
        if self.first {
            return actions.push(Action::Refuse(RefusedOffer::OutOfTurn));
        }
        if self.link_of(attempt).is_some() {
            actions.push(Action::AnswerRestart { attempt });
        }
    }

    fn on_wanted(&mut self, now: Instant, dice: u64, actions: &mut Vec<Action>) {
        self.wanted = Some(now + WANTED_FOR);
        if self.link.is_none() && self.pending.is_none() && self.offer_at.is_none() && self.wants_link(now) {
            self.offer_at = Some(now + self.wait(dice));
            self.on_tick(now, actions);
        }
    }

    fn on_unused(&mut self, actions: &mut Vec<Action>) {
        self.wanted = None;
        if let Some(link) = &mut self.link
            && self.on_demand
            && !link.replaced
            && self.pending.is_none()
        {
            link.replaced = true;
            actions.push(Action::Rest {
                attempt: link.attempt,
            });
        }
    }

    fn on_absent(&mut self, actions: &mut Vec<Action>) {
        self.present = false;
        self.claimed = None;
        self.offer_at = None;
        if let Some(attempt) = self.offered() {
            actions.push(Action::Drop { attempt });
            self.pending = None;
        }
    }

    fn on_offer(&mut self, digest: Sha256Digest, epoch: u64, now: Instant, actions: &mut Vec<Action>) {
        if let Err(refused) = self.take_offer(digest, now) {
            return actions.push(Action::Refuse(refused));
        }
        self.replace_earlier_life(epoch, actions);
        if let Some(pending) = self.pending {
            if let Stage::Offered { to } = pending.stage {
                let to_this_life = to.is_none_or(|to| to >= epoch);
                if self.first && to_this_life && now < pending.since + self.limits.offer_wait {
                    // Glare: the other side yields.
                    return;
                }
            }
            actions.push(Action::Drop {
                attempt: pending.attempt,
            });
        }
        let attempt = self.begin(Stage::Described { epoch }, now);
        actions.push(Action::Answer { attempt });
    }

    fn take_offer(&mut self, digest: Sha256Digest, now: Instant) -> Result<(), RefusedOffer> {
        if self.remembered.contains(&digest) {
            return Err(RefusedOffer::Replayed);
        }
        if !self.theirs.take(now) {
            return Err(RefusedOffer::TooMany);
        }
        if self.remembered.len() == REMEMBERED_OFFERS {
            self.remembered.pop_front();
        }
        self.remembered.push_back(digest);
        Ok(())
    }

    fn on_answered(&mut self, attempt: Attempt, epoch: u64, actions: &mut Vec<Action>) {
        let Some(pending) = &mut self.pending else {
            return;
        };
        if pending.attempt != attempt {
            return;
        }
        match self.link {
            // The offer was meant for a later life, which the server made up.
            Some(link) if !link.replaced && epoch <= link.epoch => {
                actions.push(Action::Drop { attempt });
                self.pending = None;
                self.claimed = Some(link.epoch);
            }
            _ => {
                pending.stage = Stage::Described { epoch };
                self.replace_earlier_life(epoch, actions);
            }
        }
    }

    fn on_verified(&mut self, attempt: Attempt, now: Instant, actions: &mut Vec<Action>) {
        match &mut self.pending {
            Some(pending) if pending.attempt == attempt => {
                let Stage::Described { epoch } = pending.stage else {
                    return;
                };
                pending.stage = Stage::Verified { epoch };
                match &mut self.link {
                    Some(link) if !link.replaced => {
                        link.replaced = true;
                        actions.push(Action::Replace {
                            attempt: link.attempt,
                        });
                    }
                    Some(_) => {}
                    None => self.adopt(now, actions),
                }
            }
            _ => actions.push(Action::Drop { attempt }),
        }
    }

    fn on_ended(&mut self, attempt: Attempt, now: Instant, dice: u64, actions: &mut Vec<Action>) {
        if let Some(link) = self.link
            && link.attempt == attempt
        {
            self.link = None;
            if now >= link.since + self.limits.backoff_max {
                self.failures = 0;
            }
            self.adopt(now, actions);
        } else if self.pending.is_some_and(|pending| pending.attempt == attempt) {
            self.pending = None;
            if let Some(link) = self.link {
                // Nobody of a later life answered: the server's word led to nothing.
                self.claimed = Some(link.epoch);
            }
        } else {
            return;
        }
        if self.pending.is_none() && self.wants_link(now) {
            let backoff = self.backoff(dice);
            self.failures = self.failures.saturating_add(1);
            let wait = if self.first {
                Duration::ZERO
            } else {
                self.wait(dice)
            };
            self.offer_at = Some(now + wait + backoff);
        }
    }

    fn on_tick(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if self.offer_at.is_some_and(|at| at <= now) {
            self.offer_at = None;
            if self.pending.is_some() || !self.wants_link(now) {
                return;
            }
            if !self.ours.take(now) {
                self.offer_at = Some(now + OFFER_INTERVAL);
                return;
            }
            let attempt = self.begin(Stage::Offered { to: self.claimed }, now);
            actions.push(Action::Offer { attempt });
        }
    }

    fn link_of(&mut self, attempt: Attempt) -> Option<&mut Link> {
        self.link
            .as_mut()
            .filter(|link| link.attempt == attempt && !link.replaced)
    }

    fn begin(&mut self, stage: Stage, now: Instant) -> Attempt {
        let attempt = self.next;
        self.next += 1;
        self.offer_at = None;
        self.pending = Some(Pending {
            attempt,
            since: now,
            stage,
        });
        attempt
    }

    /// Makes the verified connection the link, if there is one and no other link.
    fn adopt(&mut self, now: Instant, actions: &mut Vec<Action>) {
        if let Some(Pending {
            attempt,
            stage: Stage::Verified { epoch },
            ..
        }) = self.pending
            && self.link.is_none()
        {
            self.pending = None;
            self.offer_at = None;
            self.link = Some(Link {
                attempt,
                epoch,
                since: now,
                replaced: false,
                silent: false,
                restarting: false,
            });
            self.wanted = None;
            actions.push(Action::Adopt { attempt });
        }
    }

    fn replace_earlier_life(&mut self, epoch: u64, actions: &mut Vec<Action>) {
        if let Some(link) = &mut self.link
            && link.epoch < epoch
            && !link.replaced
        {
            link.replaced = true;
            actions.push(Action::Replace {
                attempt: link.attempt,
            });
        }
    }

    /// Whether the peer is there without a link to it, or, if the server can be believed, in a later life than the link's.
    fn wants_link(&self, now: Instant) -> bool {
        let in_use = self.link.is_some_and(|link| !link.replaced);
        let wanted = !self.on_demand || in_use || self.wanted.is_some_and(|until| now < until);
        self.present
            && wanted
            && self
                .link
                .is_none_or(|link| link.replaced || self.claimed > Some(link.epoch))
    }

    /// How long to leave the first offer to the other side.
    fn wait(&self, dice: u64) -> Duration {
        if self.first || self.on_demand {
            Duration::ZERO
        } else {
            self.limits.offer_wait + spread(self.limits.offer_wait / 4, dice)
        }
    }

    /// Exponential, with as much again of jitter.
    fn backoff(&self, dice: u64) -> Duration {
        ExponentialBuilder::new()
            .with_min_delay(self.limits.backoff_min)
            .with_max_delay(self.limits.backoff_max)
            .without_max_times()
            .with_jitter()
            .with_jitter_seed(dice)
            .build()
            .nth(self.failures.min(64) as usize)
            .unwrap_or(self.limits.backoff_max)
    }
}

impl Allowance {
    fn new() -> Self {
        Self {
            left: OFFER_BURST,
            since: None,
        }
    }

    fn take(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let intervals = now.saturating_duration_since(since).as_millis() / OFFER_INTERVAL.as_millis();
        if intervals > 0 {
            let more = u32::try_from(intervals).unwrap_or(u32::MAX);
            self.left = self.left.saturating_add(more).min(OFFER_BURST);
            self.since = Some(now);
        }
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}

/// Anything from nothing to `most`.
fn spread(most: Duration, dice: u64) -> Duration {
    let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
    Duration::from_micros(dice % micros.saturating_add(1).max(1))
}

#[cfg(test)]
mod tests;
