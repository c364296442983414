use std::time::Duration;

use tokio::time::Instant;

/// What everything periodic of a transport keeps time by, so that the process wakes once for all its peers and not once for
/// each.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Beat(Instant);

impl Beat {
    /// Counts from now.
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    /// The first beat that is not before `at`, of those that are `period` apart.
    pub(crate) fn not_before(self, at: Instant, period: Duration) -> Instant {
        let micros = |time: Duration| u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
        let (since, period) = (
            micros(at.saturating_duration_since(self.0)),
            micros(period).max(1),
        );
        let beats = since.div_ceil(period);
        self.0 + Duration::from_micros(beats.saturating_mul(period))
    }

    /// The next beat after now.
    pub(crate) fn next(self, period: Duration) -> Instant {
        self.not_before(Instant::now() + Duration::from_micros(1), period)
    }
}
