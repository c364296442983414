//! The sending side of one acknowledged stream to one peer: what is outstanding, and when to send it again.

use std::{collections::BTreeMap, time::Duration};

use ifmsg::SignedMessage;

use super::{control::Ack, outcome::Refusal, rtt::RoundTrip};
use crate::{Feedback, session::Outcome};

/// A message that its peer has yet to acknowledge.
#[derive(Debug)]
pub(super) struct Outstanding {
    /// `None` until its flight has been signed.
    pub(super) message: Option<SignedMessage>,
    pub(super) size: usize,
    pub(super) ticket: u64,
    /// How often it was sent.
    attempts: u32,
    /// The number of the latest transmission, for the router.
    transmission: u64,
    sent_at: Duration,
    /// When it is due again; `None` while it is held by the peer or was never sent.
    due: Option<Duration>,
    /// The peer has it, though its application has yet to take it.
    held: bool,
    /// It waits in a queue for the link.
    queued: bool,
    expires: Option<Duration>,
}

impl Outstanding {
    /// When it is to be sent (again): never while the peer holds it, or while it is unsigned or on its way to the link.
    fn due_at(&self) -> Option<Duration> {
        let waits = self.held || self.queued || self.message.is_none();
        (!waits).then(|| self.due.unwrap_or(Duration::ZERO))
    }
}

/// One stream to one peer.
#[derive(Debug, Default)]
pub(super) struct Outbound {
    outstanding: BTreeMap<u64, Outstanding>,
    bytes: usize,
    /// The number that the next message gets, as this peer must know it.
    next: u64,
    /// What the peer last acknowledged for good.
    acknowledged: u64,
    /// That has moved, or something was finished, since it was last asked.
    is_news: bool,
    /// Nothing expires before this time; it may be that nothing expires at it either.
    lasts_until: Duration,
    /// Nothing is due before this time; it may be that nothing is due at it either.
    quiet_until: Duration,
    /// When the latest message that is known to have arrived was sent (RFC 8985, RACK.xmit_ts).
    newest_arrival: Option<Duration>,
    /// What a router is still to be told.
    feedback: Vec<Feedback>,
}

/// What a message came to.
pub(super) type Finished = (u64, Outcome);

impl Outbound {
    /// A stream whose next message has this number. If it is not 1, the peer lags until it has acknowledged what lies below.
    pub(super) fn starting_at(next: u64) -> Self {
        Self {
            next,
            lasts_until: Duration::MAX,
            ..Self::default()
        }
    }

    /// Takes the next number.
    pub(super) fn push(&mut self, size: usize, ticket: u64, expires: Option<Duration>) -> u64 {
        let sequence = self.next;
        self.next += 1;
        self.bytes += size;
        let outstanding = Outstanding {
            message: None,
            size,
            ticket,
            attempts: 0,
            transmission: 0,
            sent_at: Duration::ZERO,
            due: None,
            held: false,
            queued: false,
            expires,
        };
        self.outstanding.insert(sequence, outstanding);
        self.lasts_until = self.lasts_until.min(expires.unwrap_or(Duration::MAX));
        sequence
    }

    /// The message with this number was signed, and handed to the link by this transmission; `None`: it is not wanted any more.
    pub(super) fn signed_and_sent(
        &mut self,
        sequence: u64,
        message: SignedMessage,
        now: Duration,
        rtt: &RoundTrip,
        transmission: u64,
    ) -> Option<u32> {
        self.outstanding.get_mut(&sequence)?.message = Some(message);
        Some(self.sent(sequence, now, rtt, transmission))
    }

    /// The message with this number was signed, and is due. Whether it is still wanted.
    pub(super) fn signed(&mut self, sequence: u64, message: SignedMessage) -> bool {
        let Some(outstanding) = self.outstanding.get_mut(&sequence) else {
            return false;
        };
        outstanding.message = Some(message);
        self.quiet_until = Duration::ZERO;
        true
    }

    /// The message with this number waits in a queue for the link, and `sent` will be called for it.
    pub(super) fn queued(&mut self, sequence: u64) {
        if let Some(outstanding) = self.outstanding.get_mut(&sequence) {
            outstanding.queued = true;
        }
    }

    /// Whether the message with this number is not finished yet.
    pub(super) fn is_outstanding(&self, sequence: u64) -> bool {
        self.outstanding.contains_key(&sequence)
    }

    /// The message with this number was handed to the link for the first time, or again, by this transmission.
    pub(super) fn sent(&mut self, sequence: u64, now: Duration, rtt: &RoundTrip, transmission: u64) -> u32 {
        let Some(outstanding) = self.outstanding.get_mut(&sequence) else {
            return 1;
        };
        if outstanding.attempts > 0 && outstanding.due.is_some_and(|due| due <= now) {
            let overdue = Feedback::Overdue {
                transmission: outstanding.transmission,
            };
            tell(&mut self.feedback, overdue);
        }
        outstanding.attempts += 1;
        outstanding.transmission = transmission;
        outstanding.sent_at = now;
        let due = now + rtt.timeout(outstanding.attempts) + travel(outstanding.size);
        outstanding.due = Some(due);
        outstanding.queued = false;
        self.quiet_until = self.quiet_until.min(due);
        outstanding.attempts
    }

    /// The number of the transmission that last carried this message; 0 if none has.
    pub(super) fn transmission_of(&self, sequence: u64) -> u64 {
        let found = self.outstanding.get(&sequence);
        found.map_or(0, |outstanding| outstanding.transmission)
    }

    /// These transmissions went by a road that is gone: what they carried is due again.
    pub(super) fn lost(&mut self, transmissions: &[u64]) {
        for outstanding in self.outstanding.values_mut() {
            if outstanding.attempts > 0
                && !outstanding.held
                && transmissions.contains(&outstanding.transmission)
            {
                outstanding.due = None;
                self.quiet_until = Duration::ZERO;
            }
        }
    }

    /// What a router is to be told.
    pub(super) fn take_feedback(&mut self) -> Vec<Feedback> {
        std::mem::take(&mut self.feedback)
    }

    /// Signed messages that were never sent to this peer, or are due again, in order.
    pub(super) fn due(&self, now: Duration) -> impl Iterator<Item = (u64, &SignedMessage)> {
        self.outstanding
            .iter()
            .filter_map(move |(sequence, outstanding)| {
                let message = outstanding.message.as_ref()?;
                (outstanding.due_at()? <= now).then_some((*sequence, message))
            })
    }

    /// Whether [`due`](Self::due) has anything.
    pub(super) fn has_due(&mut self, now: Duration) -> bool {
        if self.quiet_until <= now {
            self.quiet_until = self
                .outstanding
                .values()
                .filter_map(Outstanding::due_at)
                .min()
                .unwrap_or(Duration::MAX);
        }
        self.quiet_until <= now
    }

    /// No message is due before this time. Those without a link do not count: the caller knows about links.
    pub(super) fn next_due(&self) -> Option<Duration> {
        Some(self.quiet_until).filter(|at| *at < Duration::MAX && !self.outstanding.is_empty())
    }

    /// No message expires before this time.
    pub(super) fn next_expiry(&self) -> Option<Duration> {
        Some(self.lasts_until).filter(|at| *at < Duration::MAX && !self.outstanding.is_empty())
    }

    /// Everything is due again, and nothing is held: the peer is a new run, or the link is new.
    pub(super) fn resend_all(&mut self, peer_forgot: bool) {
        for outstanding in self.outstanding.values_mut() {
            if peer_forgot && outstanding.held {
                outstanding.held = false;
                self.lasts_until = Duration::ZERO;
            }
            outstanding.due = None;
            outstanding.queued = false;
        }
        self.quiet_until = Duration::ZERO;
    }

    /// What was sent a round trip ago or earlier, and is not held, is due: the peer had no room for it, and has now.
    pub(super) fn resend_settled(&mut self, round_trip: Duration, now: Duration) {
        for outstanding in self.outstanding.values_mut() {
            let settled =
                outstanding.sent_at + reordering(round_trip) + round_trip + travel(outstanding.size) <= now;
            if settled && !outstanding.held && outstanding.due.is_some_and(|due| due > now) {
                outstanding.due = Some(now);
                self.quiet_until = Duration::ZERO;
            }
        }
    }

    /// Gives up what has expired. What the peer holds has not: it came in time.
    pub(super) fn expire(&mut self, now: Duration) -> Vec<Finished> {
        if now < self.lasts_until {
            return Vec::new();
        }
        let expired = |outstanding: &Outstanding| {
            !outstanding.held && outstanding.expires.is_some_and(|expires| expires <= now)
        };
        let finished = self.finish(|_, outstanding| expired(outstanding).then_some(Outcome::Expired));
        let left = self.outstanding.values().filter(|outstanding| !outstanding.held);
        self.lasts_until = left
            .filter_map(|outstanding| outstanding.expires)
            .min()
            .unwrap_or(Duration::MAX);
        finished
    }

    /// Takes in an acknowledgement; `rtt` learns from messages that were sent once.
    ///
    /// > (RFC 6298, 3) Karn's algorithm: RTT samples MUST NOT be made using segments that were retransmitted
    pub(super) fn acknowledge(&mut self, ack: &Ack, now: Duration, rtt: &mut RoundTrip) -> Vec<Finished> {
        // A peer cannot acknowledge what was never sent.
        let cumulative = ack.cumulative.min(self.next - 1);
        self.is_news |= cumulative > self.acknowledged;
        self.acknowledged = self.acknowledged.max(cumulative);
        let covered = |sequence: u64| {
            sequence <= cumulative
                || ack
                    .held
                    .iter()
                    .any(|(first, last)| (*first..=*last).contains(&sequence))
        };
        let mut sample = None;
        for (&sequence, outstanding) in &mut self.outstanding {
            if outstanding.held || outstanding.attempts == 0 || !covered(sequence) {
                continue;
            }
            outstanding.held = true;
            outstanding.due = None;
            self.newest_arrival = self.newest_arrival.max(Some(outstanding.sent_at));
            if outstanding.attempts == 1 {
                let round_trip = now - outstanding.sent_at;
                // How long a long message takes says nothing of others.
                if travel(outstanding.size).is_zero() {
                    sample = Some(round_trip);
                }
                let transmission = outstanding.transmission;
                tell(
                    &mut self.feedback,
                    Feedback::Arrived {
                        transmission,
                        round_trip,
                    },
                );
            }
        }
        if let Some(sample) = sample {
            rtt.sample(sample);
        }
        self.mark_lost(now, rtt);
        let refused = |sequence: u64| {
            let found = ack.refused.iter().find(|(number, _)| *number == sequence);
            found.map(|(_, reason)| Outcome::Refused(Refusal::ByPeer(reason.chars().take(64).collect())))
        };
        let finished = self.finish(|sequence, outstanding| {
            // A number that was never sent cannot be acknowledged.
            let sent = outstanding.attempts > 0;
            let acknowledged = || (sequence <= cumulative).then_some(Outcome::Acknowledged);
            if sent {
                refused(sequence).or_else(acknowledged)
            } else {
                None
            }
        });
        self.is_news |= !finished.is_empty();
        finished
    }

    /// The lowest number that is not finished: what the peer need not wait for lies below it.
    pub(super) fn floor(&self) -> u64 {
        self.outstanding.keys().next().copied().unwrap_or(self.next)
    }

    /// The number of the next message.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Whether the peer has acknowledged or refused anything for good since this was last asked.
    pub(super) fn take_news(&mut self) -> bool {
        std::mem::take(&mut self.is_news)
    }

    /// The peer still waits for numbers that are finished.
    pub(super) fn peer_lags(&self) -> bool {
        self.acknowledged + 1 < self.floor()
    }

    /// The peer holds messages whose last acknowledgement is still to come.
    pub(super) fn awaits_news(&self) -> bool {
        self.peer_lags() || self.outstanding.values().any(|outstanding| outstanding.held)
    }

    /// Outstanding messages and bytes, the unsigned ones included.
    pub(super) fn load(&self) -> (usize, usize) {
        (self.outstanding.len(), self.bytes)
    }

    /// How many numbers lie between the first outstanding message and the next one. More than there are outstanding messages
    /// where later ones were finished first; all of them must fit the peer's replay window, or the first would be too old.
    pub(super) fn span(&self) -> usize {
        usize::try_from(self.next - self.floor()).unwrap_or(usize::MAX)
    }

    /// Takes everything out, with this outcome.
    pub(super) fn abandon(&mut self, refusal: &Refusal) -> Vec<Finished> {
        self.finish(|_, _| Some(Outcome::Refused(refusal.clone())))
    }

    /// > RACK: a packet is lost if some packet sent sufficiently later has been delivered (RFC 8985, section 3.1)
    fn mark_lost(&mut self, now: Duration, rtt: &RoundTrip) {
        let Some(newest) = self.newest_arrival else { return };
        let reordering = reordering(rtt.smoothed().unwrap_or_default());
        for outstanding in self.outstanding.values_mut() {
            // A link may let short frames pass a long one.
            let overtaken = outstanding.sent_at + reordering < newest
                && outstanding.sent_at + travel(outstanding.size) <= now;
            if overtaken && !outstanding.held && outstanding.due.is_some_and(|due| due > now) {
                outstanding.due = Some(now);
                self.quiet_until = Duration::ZERO;
            }
        }
    }

    fn finish(&mut self, judge: impl Fn(u64, &Outstanding) -> Option<Outcome>) -> Vec<Finished> {
        let mut finished = Vec::new();
        self.outstanding
            .retain(|&sequence, outstanding| match judge(sequence, outstanding) {
                Some(outcome) => {
                    self.bytes -= outstanding.size;
                    finished.push((outstanding.ticket, outcome));
                    false
                }
                None => true,
            });
        finished
    }
}

/// The messages of one flight have one transmission: it is told once.
fn tell(feedback: &mut Vec<Feedback>, news: Feedback) {
    if feedback.last() != Some(&news) {
        feedback.push(news);
    }
}

/// How much later than others a message may arrive.
fn reordering(round_trip: Duration) -> Duration {
    (round_trip / 4).max(Duration::from_millis(1))
}

/// How much longer a long message may take to arrive than a short one: a second for each megabyte, so that it is not sent again
/// while it is still under way.
fn travel(size: usize) -> Duration {
    const SHORT: usize = 64 * 1024;
    if size <= SHORT {
        return Duration::ZERO;
    }
    Duration::from_micros(size as u64)
}
