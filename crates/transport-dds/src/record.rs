//! How much goes on the record of reliable broadcasts.
//!
//! Its writer holds what it was given until the library cleans it on a timer of 6 s, and after that as many samples as its QoS
//! says, for readers that are slow, dead or yet to come. Those may take a quarter of `kept_bytes`; a pace keeps what is between two
//! cleanings within the rest.

use bytes::Bytes;
use tokio::time::Instant;

use crate::{
    config::DdsConfig,
    meter::Bucket,
    sending::{SAMPLE_COST, SHARES, cost},
};

/// Of `kept_bytes`, for what outlives a cleaning.
const LASTING: f64 = 0.25;

/// Samples that outlive a cleaning, at most. Readers that acknowledge nothing are found dead after 50 s.
const MOST_SAMPLES: usize = 8_192;

/// Decides what goes on the record.
pub(crate) struct Record {
    /// In bytes, a second.
    pace: f64,
    allowed: Bucket,
}

impl Record {
    pub(crate) fn new(config: &DdsConfig, now: Instant) -> Self {
        let pace = config.limits.kept_bytes as f64 * (1.0 - LASTING) / SHARES;
        Self {
            pace,
            allowed: Bucket::full(pace, now),
        }
    }

    /// Whether this may be written now.
    pub(crate) fn admits(&mut self, payload: &Bytes, now: Instant) -> bool {
        self.allowed.take(cost(payload) as f64, self.pace, now)
    }
}

/// How many samples its writer may hold beyond a cleaning.
pub(crate) fn lasting_samples(config: &DdsConfig) -> usize {
    let each = config.max_sample() + SAMPLE_COST as usize;
    let bytes = config.limits.kept_bytes as f64 * LASTING;
    (bytes as usize / each).clamp(1, MOST_SAMPLES)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Falsified by more than `kept_bytes` that the library holds at any time, however fast and long is written.
    #[test]
    fn what_lasts_and_what_is_written_between_two_cleanings_is_within_the_bound() {
        for kept in [8 << 20, 64 << 20, 512 << 20] {
            let mut config = DdsConfig::default();
            config.limits.kept_bytes = kept;
            let lasting = lasting_samples(&config) * (config.max_sample() + SAMPLE_COST as usize);
            let start = Instant::now();
            let mut record = Record::new(&config, start);
            let sample = Bytes::from(vec![7; config.max_sample()]);
            // After a pause, as much as there can be within one timer and a second for being late.
            let begin = start + Duration::from_secs(60);
            let ticks = (0..70_000).map(|tick| begin + tick * Duration::from_micros(100));
            let written = ticks.filter(|at| record.admits(&sample, *at)).count();
            let written = written * cost(&sample) as usize;
            assert!(lasting + written <= kept, "{lasting} + {written} of {kept}");
            assert!(lasting + written > kept / 2, "{lasting} + {written} of {kept}");
        }
    }
}
