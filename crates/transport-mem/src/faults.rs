use std::{ops::RangeInclusive, time::Duration};

use crate::FaultsError;

/// What a link does to the frames on it. Applies to frames that leave from now on, in the direction it is set for.
///
/// Checked when it is handed to [`Mesh::faults`](crate::Mesh::faults), not while it is built.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    pub(crate) latency: RangeInclusive<Duration>,
    pub(crate) loss: f64,
    pub(crate) duplication: f64,
    pub(crate) corruption: f64,
    pub(crate) reordering: f64,
    pub(crate) hold: Duration,
    pub(crate) bandwidth: Option<u64>,
}

impl Default for Faults {
    fn default() -> Self {
        Self::none()
    }
}

impl Faults {
    /// A perfect network: no delay, no loss, no limit.
    pub const fn none() -> Self {
        Self {
            latency: Duration::ZERO..=Duration::ZERO,
            loss: 0.0,
            duplication: 0.0,
            corruption: 0.0,
            reordering: 0.0,
            hold: Duration::ZERO,
            bandwidth: None,
        }
    }

    /// One way, uniformly distributed. Where it varies, frames overtake each other, unless the mesh promises order.
    #[must_use]
    pub fn latency(mut self, latency: RangeInclusive<Duration>) -> Self {
        self.latency = latency;
        self
    }

    /// The probability, 0 to 1, that a frame vanishes.
    #[must_use]
    pub fn loss(mut self, probability: f64) -> Self {
        self.loss = probability;
        self
    }

    /// The probability, 0 to 1, that a frame arrives twice. The copy has a latency of its own.
    #[must_use]
    pub fn duplication(mut self, probability: f64) -> Self {
        self.duplication = probability;
        self
    }

    /// The probability, 0 to 1, that one to three bits of a frame are flipped. The receiver is not told; a copy stays intact.
    #[must_use]
    pub fn corruption(mut self, probability: f64) -> Self {
        self.corruption = probability;
        self
    }

    /// The probability, 0 to 1, that a frame is held back for up to `hold`, so that later ones overtake it.
    #[must_use]
    pub fn reordering(mut self, probability: f64, hold: Duration) -> Self {
        self.reordering = probability;
        self.hold = hold;
        self
    }

    /// Bytes per second in one direction. Both lanes share it, first come, first served; headers cost nothing.
    #[must_use]
    pub fn bandwidth(mut self, bytes_per_second: u64) -> Self {
        self.bandwidth = Some(bytes_per_second);
        self
    }

    pub(crate) fn check(&self) -> Result<(), FaultsError> {
        for (fault, value) in [
            ("loss", self.loss),
            ("duplication", self.duplication),
            ("corruption", self.corruption),
            ("reordering", self.reordering),
        ] {
            if !(0.0..=1.0).contains(&value) {
                return Err(FaultsError::Probability { fault, value });
            }
        }
        if self.latency.is_empty() {
            return Err(FaultsError::EmptyLatency);
        }
        if self.bandwidth == Some(0) {
            return Err(FaultsError::ZeroBandwidth);
        }
        Ok(())
    }

    /// How long `size` bytes take to leave.
    pub(crate) fn transmission(&self, size: usize) -> Duration {
        let Some(rate) = self.bandwidth else {
            return Duration::ZERO;
        };
        let nanos = (size as u128 * 1_000_000_000).div_ceil(u128::from(rate));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}
