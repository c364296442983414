//! What to do when an acknowledgement is overdue. SCTP learns of a loss when three later packets arrive, and else when its timer
//! runs out, which the library never lets be less than a second, and which doubles each time.
//!
//! 1. At the tail of what there is to send nothing comes later; so something does: **probes**, by the lane that repeats nothing.
//!    Their acknowledgements tell what is missing.
//!
//!    > When an SCTP endpoint receives three missing reports for a TSN, [it] SHOULD retransmit it (RFC 9260, section 7.2.4)
//! 2. That happens once for each packet. What is lost twice, and what was sent while the network was gone, waits for the timer:
//!    so the connection's **clock is put forward**, by as much as makes the timer run out in about twice the time in which
//!    acknowledgements come. Doubling, congestion window and all the rest are SCTP's.

use std::time::Duration;

use bytes::Bytes;
use ifmesh_transport::RoundTrip;
use ifmsg::AgentId;
use tokio::time::{Instant, sleep, timeout};

use crate::{
    board::{Board, Outbound},
    engine::{Lane, Peer},
};

/// What a probe says: nothing. It exists to be acknowledged.
pub(crate) const PROBE: &[u8] = b"IFP1";

/// An acknowledgement that takes longer than this, and than so many round trips, is looked into.
const LOOK_AFTER: (Duration, u32) = (Duration::from_millis(3), 3);
/// However long it has been overdue, it is looked for as often as this.
const LOOK_AT_LEAST: Duration = Duration::from_millis(250);
/// Probes in a row, and how long each waits for its acknowledgement before the next one goes.
const PROBES: u32 = 6;
const PROBE_INTERVAL: Duration = Duration::from_millis(2);
/// The longest time between two rows.
const PROBE_AT_LEAST: Duration = Duration::from_secs(1);
/// Bytes of unacknowledged probes and best-effort frames beyond which no more probes go: they could not.
const PROBED_ENOUGH: usize = 1_024;
/// The shortest and the longest time after which the clock is put forward, for a peer that acknowledges probes at once, and for
/// any other: a lone packet may be acknowledged after 200 ms (RFC 9260, section 6.2).
const HASTEN_AFTER: (Duration, Duration) = (Duration::from_millis(30), Duration::from_secs(1));
const HASTEN_FOREIGN_AFTER: Duration = Duration::from_millis(300);
/// How long to wait for something to be heard, before which the clock stays as it is.
const HASTEN_AGAIN: Duration = Duration::from_millis(10);
/// The first time doubles for each stall, so often, while nothing is learnt of how long acknowledgements take.
const MOST_ATTEMPTS: u32 = 3;
/// A peer that merely takes nothing looks like one to which all is lost, but acknowledges what is sent again, as what it has
/// acknowledged before: with no progress and no gap. The library's timer runs
/// out six times, stops for good, and by its own pace does so after 63 s; whoever takes nothing has a minute. So no more than
/// this is gained, and the time of silence,
const GAIN: Duration = Duration::from_secs(3);
/// unless nothing is answered: not since the clock was first put forward, or else not for so long.
const UNANSWERED: Duration = Duration::from_millis(250);
/// What was sent again five times without an answer, over a path that connectivity checks pass, is not sent a sixth time.
///
/// > If the value of this counter exceeds the limit indicated in the protocol parameter 'Association.Max.Retrans', the endpoint
/// > SHOULD consider the peer endpoint unreachable [...] (RFC 9260, section 8.1)
const UNREACHABLE: Duration = Duration::from_secs(50);
/// The timer has stopped for good, and nothing can start it again.
const DEAD: Duration = Duration::from_secs(66);
/// What was not heard for so long is silent.
const SILENT: Duration = Duration::from_secs(1);

/// Provokes acknowledgements, and then retransmissions, where they are missing. Ends when it gives the peer up.
pub(crate) async fn probe(peer: &Peer, outbound: &Outbound, board: &Board, peer_id: &AgentId) {
    let mut overdue = Overdue::new(outbound.takes_chunks(), Instant::now());
    loop {
        outbound.something_sent().await;
        overdue.begin(Instant::now());
        loop {
            let open = peer.buffered_amount(Lane::Messaging).await;
            let (silent, unanswered) = peer.silent_for();
            let facts = Facts {
                now: Instant::now(),
                sent: outbound.total_sent(),
                open,
                round_trip: board.round_trip(peer_id).unwrap_or_default(),
                silent,
                unanswered,
            };
            match overdue.look(&facts) {
                Step::Rest => break,
                Step::Wait(time) => sleep(time).await,
                Step::Probe => send_probes(peer, open).await,
                Step::GiveUp => {
                    tracing::info!(peer = %peer_id, open, "the peer is heard, and acknowledges nothing");
                    return;
                }
                Step::Hasten => {
                    let gained = peer.hasten();
                    overdue.hastened(gained, Instant::now());
                    sleep(HASTEN_AGAIN).await;
                }
            }
        }
    }
}

/// One at a time: several in a packet are acknowledged once.
async fn send_probes(peer: &Peer, open: usize) {
    for _ in 0..PROBES {
        if peer.buffered_amount(Lane::BestEffort).await > PROBED_ENOUGH {
            break;
        }
        let probe = Bytes::from_static(PROBE);
        if !matches!(peer.try_send(Lane::BestEffort, probe).await, Ok(true)) {
            break;
        }
        let _ = timeout(PROBE_INTERVAL, peer.drained(Lane::BestEffort)).await;
        if peer.buffered_amount(Lane::Messaging).await < open {
            break;
        }
    }
}

/// What is known of a link.
#[derive(Debug, Clone, Copy)]
struct Facts {
    now: Instant,
    /// Bytes that were ever handed over, and of these the unacknowledged ones.
    sent: u64,
    open: usize,
    /// Of a connectivity check.
    round_trip: Duration,
    /// How long nothing was heard, and how long no acknowledgement that names no gap.
    silent: Duration,
    unanswered: Duration,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Nothing, until something is sent.
    Rest,
    /// Look again after this.
    Wait(Duration),
    /// Send a row of probes.
    Probe,
    /// Put the clock forward.
    Hasten,
    /// Nothing helps.
    GiveUp,
}

/// Decides. Pure: what is known goes in, what to do comes out.
#[derive(Debug)]
struct Overdue {
    probes: bool,
    /// How long acknowledgements take.
    usual: RoundTrip,
    /// 1, and one more for each time that the clock was put forward since `usual` learnt something.
    attempt: u32,
    /// Where what was sent last ends, and when that was, until it is acknowledged or sent again.
    mark: Option<(u64, Instant)>,
    sent: u64,
    acknowledged: u64,
    /// Since when no acknowledgement has come.
    since: Instant,
    looked_at: Instant,
    probed_at: Option<Instant>,
    /// First and last.
    hastened_at: Option<(Instant, Instant)>,
    gained: Duration,
    silence: Duration,
}

impl Overdue {
    fn new(probes: bool, now: Instant) -> Self {
        let (least, most) = HASTEN_AFTER;
        let least = if probes { least } else { HASTEN_FOREIGN_AFTER };
        Self {
            probes,
            usual: RoundTrip::new(least, most),
            attempt: 1,
            mark: None,
            sent: 0,
            acknowledged: 0,
            since: now,
            looked_at: now,
            probed_at: None,
            hastened_at: None,
            gained: Duration::ZERO,
            silence: Duration::ZERO,
        }
    }

    /// Something was sent, after all had been acknowledged.
    fn begin(&mut self, now: Instant) {
        self.progress(now);
        self.looked_at = now;
    }

    fn progress(&mut self, now: Instant) {
        self.since = now;
        (self.probed_at, self.hastened_at) = (None, None);
        (self.gained, self.silence) = (Duration::ZERO, Duration::ZERO);
    }

    fn look(&mut self, facts: &Facts) -> Step {
        let now = facts.now;
        let acknowledged = facts.sent.saturating_sub(facts.open as u64);
        if acknowledged > self.acknowledged {
            self.acknowledged = acknowledged;
            if let Some((end, at)) = self.mark
                && end <= acknowledged
            {
                self.usual.sample(now.saturating_duration_since(at));
                (self.mark, self.attempt) = (None, 1);
            }
            self.progress(now);
        }
        if facts.open == 0 {
            return Step::Rest;
        }
        if facts.sent > self.sent {
            self.sent = facts.sent;
            if self.gained.is_zero() {
                self.mark.get_or_insert((facts.sent, now));
            }
        }
        if facts.silent > SILENT {
            self.silence += now.saturating_duration_since(self.looked_at);
        }
        self.looked_at = now;

        let overdue = now.saturating_duration_since(self.since);
        let after = LOOK_AFTER.0.max(facts.round_trip * LOOK_AFTER.1);
        // Looked at more often than that, or what is lost right after a look waits twice as long.
        let again = (after / 3).max(overdue / 16).min(LOOK_AT_LEAST.max(after / 3));
        if overdue < after {
            return Step::Wait(again);
        }
        let next_row = (overdue / 4).min(PROBE_AT_LEAST);
        let is_time = |at: Instant| now.saturating_duration_since(at) >= next_row;
        if self.probes && self.probed_at.is_none_or(is_time) {
            self.probed_at = Some(now);
            return Step::Probe;
        }
        let usual = self.usual.timeout(self.attempt).max(facts.round_trip * 2);
        let (first, last) = self.hastened_at.unwrap_or((self.since, self.since));
        let waited = now.saturating_duration_since(last);
        if waited < usual {
            return Step::Wait(again);
        }
        let enough = now.saturating_duration_since(first).min(waited.max(UNANSWERED));
        let is_answered = facts.unanswered < enough;
        let by_its_clock = overdue + self.gained;
        if by_its_clock > DEAD {
            Step::GiveUp
        } else if self.gained < GAIN + self.silence {
            Step::Hasten
        } else if is_answered || by_its_clock >= UNREACHABLE && facts.silent > SILENT {
            Step::Wait(again)
        } else if by_its_clock < UNREACHABLE {
            Step::Hasten
        } else {
            Step::GiveUp
        }
    }

    /// The clock was put forward, if it was.
    ///
    /// > RTT samples MUST NOT be made using segments that were retransmitted (RFC 6298, 3)
    fn hastened(&mut self, gained: Option<Duration>, now: Instant) {
        let Some(gained) = gained else { return };
        if self.gained.is_zero() {
            self.attempt = (self.attempt + 1).min(MOST_ATTEMPTS);
        }
        self.gained += gained;
        self.hastened_at = Some((self.hastened_at.map_or(now, |(first, _)| first), now));
        self.mark = None;
    }
}

#[cfg(test)]
mod tests {
    //! Falsified by a clock that is put forward where acknowledgements come as they always did, or not where they do not come,
    //! or without end; and by probes that stop while something is missing.

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    /// A path on which nothing is acknowledged any more after `until`; before that, each 1,000 bytes after `round_trip`. Looks as
    /// the caller would, with steps of 800 ms. When rows of probes went, and when the clock was put forward.
    fn watch(
        round_trip: Duration,
        until: Duration,
        end: Duration,
        unanswered: bool,
    ) -> (Vec<Duration>, Vec<Duration>) {
        let start = Instant::now();
        let mut overdue = Overdue::new(true, start);
        let (mut probes, mut hastened) = (Vec::new(), Vec::new());
        let mut now = start;
        overdue.begin(now);
        while now < start + end {
            let at = now - start;
            let sent = 1_000 * (1 + at.as_millis() as u64 / 10);
            let heard = at.min(until).saturating_sub(round_trip);
            let acknowledged = 1_000 * (heard.as_millis() as u64 / 10);
            let facts = Facts {
                now,
                sent,
                open: (sent - acknowledged) as usize,
                round_trip: MS(1),
                silent: MS(0),
                unanswered: if unanswered {
                    at.saturating_sub(until)
                } else {
                    MS(0)
                },
            };
            now += match overdue.look(&facts) {
                Step::Rest => MS(1),
                Step::Wait(time) => time,
                Step::Probe => {
                    probes.push(at);
                    MS(12)
                }
                Step::Hasten => {
                    hastened.push(at);
                    overdue.hastened(Some(MS(800)), now);
                    MS(3)
                }
                Step::GiveUp => return (probes, hastened),
            };
        }
        (probes, hastened)
    }

    #[test]
    fn a_path_that_is_slower_than_its_connectivity_checks_is_not_hastened() {
        let (_, hastened) = watch(MS(150), MS(60_000), MS(20_000), false);
        // Before anything was learnt of it.
        assert!(hastened.iter().all(|at| *at < MS(200)), "{hastened:?}");
        assert!(hastened.len() <= 2, "{hastened:?}");
    }

    #[test]
    fn what_is_lost_is_hastened_and_a_peer_that_takes_nothing_is_left_its_time() {
        let lost = MS(10_000);
        let (probes, hastened) = watch(MS(1), lost, MS(70_000), false);
        let soon: Vec<_> = hastened.iter().filter(|at| **at > lost).collect();
        assert_eq!(soon.len(), 4, "3 s in steps of 800 ms: {soon:?}");
        assert!(**soon.last().unwrap() < lost + MS(400), "{soon:?}");
        let probes: Vec<_> = probes.iter().filter(|at| **at > lost).collect();
        assert!(probes[0] < &(lost + MS(20)), "{probes:?}");
        assert!(probes.last().unwrap() > &&MS(68_000), "they go on");
        assert!(probes.len() < 90, "and become fewer: {}", probes.len());
    }

    #[test]
    fn without_any_answer_five_times_are_soon_over() {
        let lost = MS(10_000);
        let (_, hastened) = watch(MS(1), lost, MS(100_000), true);
        let gained = MS(800) * hastened.iter().filter(|at| **at > lost).count() as u32;
        // 1 + 2 + 4 + 8 + 16 s, and the sixth time after 32 s more.
        assert!(gained > MS(31_000) && gained < MS(63_000), "{gained:?}");
        assert!(*hastened.last().unwrap() < lost + MS(10_000), "{hastened:?}");
    }

    #[test]
    fn a_timer_that_has_stopped_is_not_waited_for() {
        // Answered to the end: 62 s by the caller's clock, and 3.2 s ahead of it.
        let (probes, _) = watch(MS(1), MS(10_000), MS(200_000), false);
        let last = *probes.last().unwrap();
        assert!(last > MS(70_000) && last < MS(73_000), "{last:?}");
    }
}
