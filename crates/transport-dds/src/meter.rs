use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::statement::Guid;

/// How many signatures of strangers are checked a second, from one participant
const EACH: f64 = 20.0;
/// and from all of them: a check costs 45 us, so this is 2 % of a core.
const ALL: f64 = 500.0;
/// How many heartbeats of linked peers are checked a second.
const KNOWN: f64 = 20_000.0;
/// Participants that are told apart.
const PARTICIPANTS: usize = 1_024;

/// Bounds the signatures that others can make this agent check.
#[derive(Debug)]
pub(crate) struct Meter {
    all: Bucket,
    known: Bucket,
    each: HashMap<[u8; 12], Bucket>,
}

impl Meter {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            all: Bucket::full(ALL, now),
            known: Bucket::full(KNOWN, now),
            each: HashMap::new(),
        }
    }

    /// Whether a statement from this endpoint may be checked now.
    pub(crate) fn admits(&mut self, writer: &Guid, now: Instant) -> bool {
        let mut participant = [0; 12];
        participant.copy_from_slice(&writer[..12]);
        if self.each.len() >= PARTICIPANTS && !self.each.contains_key(&participant) {
            self.each.retain(|_, bucket| !bucket.is_full(EACH, now));
            if self.each.len() >= PARTICIPANTS {
                return false;
            }
        }
        let bucket = self
            .each
            .entry(participant)
            .or_insert_with(|| Bucket::full(EACH, now));
        bucket.take(1.0, EACH, now) && self.all.take(1.0, ALL, now)
    }

    /// Whether a heartbeat of a linked peer may be checked now.
    pub(crate) fn admits_known(&mut self, now: Instant) -> bool {
        self.known.take(1.0, KNOWN, now)
    }
}

/// Holds what may be used within one second.
#[derive(Debug)]
pub(crate) struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    pub(crate) fn full(rate: f64, now: Instant) -> Self {
        Self { left: rate, at: now }
    }

    fn refill(&mut self, rate: f64, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.left = (self.left + passed * rate).min(rate);
        self.at = now;
    }

    /// Takes this much if it is there.
    pub(crate) fn take(&mut self, amount: f64, rate: f64, now: Instant) -> bool {
        let enough = self.wait(amount, rate, now).is_zero();
        if enough {
            self.spend(amount);
        }
        enough
    }

    /// How long it takes until it holds this much.
    pub(crate) fn wait(&mut self, amount: f64, rate: f64, now: Instant) -> Duration {
        self.refill(rate, now);
        let missing = (amount - self.left).max(0.0);
        Duration::try_from_secs_f64(missing / rate).unwrap_or(Duration::MAX)
    }

    pub(crate) fn spend(&mut self, amount: f64) {
        self.left -= amount;
    }

    fn is_full(&mut self, rate: f64, now: Instant) -> bool {
        self.refill(rate, now);
        self.left >= rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Falsified by one participant that uses up what others may use, or by more checks than the bound in all.
    #[test]
    fn one_participant_does_not_use_up_the_others_share() {
        let start = Instant::now();
        let mut meter = Meter::new(start);
        let guid = |number: u16| {
            let mut guid = [0; 16];
            guid[..2].copy_from_slice(&number.to_be_bytes());
            guid
        };
        let admitted =
            |meter: &mut Meter, number, now| (0..1_000).filter(|_| meter.admits(&guid(number), now)).count();
        assert_eq!(admitted(&mut meter, 0, start), 20);
        assert_eq!(admitted(&mut meter, 1, start), 20);
        let all: usize = (2..100).map(|number| admitted(&mut meter, number, start)).sum();
        assert_eq!(all, 460);
        let later = start + Duration::from_secs(1);
        assert_eq!(admitted(&mut meter, 0, later), 20);
        // Names that are thought up take no memory without end.
        for number in 0..5_000 {
            meter.admits(&guid(number), later);
        }
        assert!(meter.each.len() <= PARTICIPANTS);
    }
}
