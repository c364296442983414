use std::time::{SystemTime, UNIX_EPOCH};

use ifmsg::Timestamp;
use tokio::time::Instant;

/// The time of day. Durations are measured with [`tokio::time`], which virtual time drives.
pub trait Clock: Send + Sync + std::fmt::Debug {
    /// The time of day now. May jump, in either direction.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[allow(
        clippy::disallowed_methods,
        reason = "this is the one place where the machine's clock is read"
    )]
    fn now(&self) -> Timestamp {
        let millis = match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(after) => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
            Err(before) => i64::try_from(before.duration().as_millis()).map_or(i64::MIN, |millis| -millis),
        };
        Timestamp::from_unix_millis(millis)
    }
}

/// A time of day that moves with tokio's clock: with a paused runtime it is virtual time.
#[derive(Debug, Clone, Copy)]
pub struct VirtualClock {
    base: Timestamp,
    start: Instant,
}

impl VirtualClock {
    /// Reads `base` now, and moves with tokio's clock from here on.
    pub fn starting_at(base: Timestamp) -> Self {
        Self {
            base,
            start: Instant::now(),
        }
    }
}

impl Clock for VirtualClock {
    fn now(&self) -> Timestamp {
        let elapsed = i64::try_from(self.start.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.base.plus_millis(elapsed)
    }
}
