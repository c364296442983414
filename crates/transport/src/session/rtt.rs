//! The retransmission time (RFC 6298).

use std::time::Duration;

/// Measures round trips, and says how long to wait for an acknowledgement.
#[derive(Debug, Clone)]
pub struct RoundTrip {
    smoothed: Option<Duration>,
    variation: Duration,
    least: Duration,
    most: Duration,
}

/// > (2.1) Until a round-trip time (RTT) measurement has been made [...] the sender SHOULD set RTO <- 1 second
const INITIAL: Duration = Duration::from_secs(1);

impl RoundTrip {
    /// Nothing is measured yet.
    ///
    /// RFC 6298 (2.4) asks for at least one second, for the sake of the Internet's routers. Below a session is a transport with
    /// its own congestion control; a resend there most often means "by another path", so `least` is far smaller.
    pub fn new(least: Duration, most: Duration) -> Self {
        Self {
            smoothed: None,
            variation: Duration::ZERO,
            least,
            most,
        }
    }

    /// Learns from a round trip that can be no other's (RFC 6298, 3: Karn's algorithm).
    pub fn sample(&mut self, measured: Duration) {
        match self.smoothed {
            // > (2.2) SRTT <- R, RTTVAR <- R/2
            None => {
                self.smoothed = Some(measured);
                self.variation = measured / 2;
            }
            // > (2.3) RTTVAR <- (1 - beta) * RTTVAR + beta * |SRTT - R'|
            // > SRTT <- (1 - alpha) * SRTT + alpha * R'
            // > [...] alpha=1/8 and beta=1/4
            Some(smoothed) => {
                self.variation = self.variation * 3 / 4 + smoothed.abs_diff(measured) / 4;
                self.smoothed = Some(smoothed * 7 / 8 + measured / 8);
            }
        }
    }

    /// How long to wait for an acknowledgement of this attempt.
    ///
    /// > (5.5) The host MUST set RTO <- RTO * 2 ("back off the timer").
    pub fn timeout(&self, attempt: u32) -> Duration {
        // > RTO <- SRTT + max (G, K*RTTVAR) where K = 4
        let base = self
            .smoothed
            .map_or(INITIAL, |smoothed| smoothed + self.variation * 4);
        let base = base.max(self.least);
        base.saturating_mul(1 << attempt.saturating_sub(1).min(16))
            .min(self.most.max(self.least))
    }

    /// The smoothed round trip, once one was measured.
    pub fn smoothed(&self) -> Option<Duration> {
        self.smoothed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn starts_at_a_second_follows_samples_and_backs_off() {
        let mut rtt = RoundTrip::new(MS(10), MS(5_000));
        assert_eq!(rtt.timeout(1), MS(1_000));
        rtt.sample(MS(100));
        assert_eq!(rtt.timeout(1), MS(300));
        for _ in 0..200 {
            rtt.sample(MS(100));
        }
        assert!(rtt.timeout(1) < MS(110), "{:?}", rtt.timeout(1));
        assert_eq!(rtt.timeout(2), rtt.timeout(1) * 2);
        assert_eq!(rtt.timeout(30), MS(5_000));
        let mut fast = RoundTrip::new(MS(10), MS(5_000));
        fast.sample(Duration::from_micros(50));
        assert_eq!(fast.timeout(1), MS(10));
    }
}
