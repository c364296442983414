//! How much a connection may send.

use std::time::Duration;

use tokio::time::Instant;

/// Tokens that come back at a steady rate, up to a burst. Kept as one instant: when the bucket will be full again.
#[derive(Debug)]
pub(super) struct TokenBucket {
    per_token: Duration,
    capacity: Duration,
    full_at: Instant,
}

impl TokenBucket {
    pub(super) fn new(per_second: u32, burst: u32, now: Instant) -> Self {
        let per_token = Duration::from_secs(1) / per_second.max(1);
        Self {
            per_token,
            capacity: per_token * burst.max(1),
            full_at: now,
        }
    }

    /// Takes tokens. If there were too few: when there will have been enough.
    pub(super) fn take(&mut self, tokens: u32, now: Instant) -> Option<Instant> {
        self.full_at = self.full_at.max(now) + self.per_token * tokens;
        // The clock may have started less than the capacity ago.
        let ready = self.full_at.checked_sub(self.capacity)?;
        (ready > now).then_some(ready)
    }

    /// Takes one token, if there is one.
    pub(super) fn try_take(&mut self, now: Instant) -> bool {
        let full_at = self.full_at.max(now) + self.per_token;
        let is_there = full_at <= now + self.capacity;
        if is_there {
            self.full_at = full_at;
        }
        is_there
    }

    pub(super) fn is_full(&self, now: Instant) -> bool {
        self.full_at <= now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_and_the_rest_comes_at_the_rate() {
        let start = Instant::now() + Duration::from_secs(100);
        let mut bucket = TokenBucket::new(10, 3, start);
        for _ in 0..3 {
            assert_eq!(bucket.take(1, start), None);
        }
        assert_eq!(bucket.take(1, start), Some(start + Duration::from_millis(100)));
        assert_eq!(bucket.take(1, start), Some(start + Duration::from_millis(200)));
        // Idle time fills it up to the burst and no further.
        let later = start + Duration::from_secs(60);
        for _ in 0..3 {
            assert_eq!(bucket.take(1, later), None);
        }
        assert!(bucket.take(1, later).is_some());
        // Three tokens at once.
        let later = later + Duration::from_secs(60);
        assert_eq!(bucket.take(3, later), None);
        assert_eq!(bucket.take(1, later), Some(later + Duration::from_millis(100)));
    }
}
