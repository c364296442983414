//! Randomness as a pure function: no stream to fall out of step with.

use std::time::Duration;

use ifmsg::AgentId;
use sha2::{Digest, Sha256};

/// 32 bytes that depend on the seed and the purpose, and on nothing else.
pub(crate) fn derive(seed: u64, purpose: &[&str]) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update(b"ifmesh-mem\0");
    hash.update(seed.to_be_bytes());
    for part in purpose {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.finalize().into()
}

/// The dice of one direction between two agents.
#[derive(Debug)]
pub(crate) struct Dice {
    key: [u8; 32],
}

/// What was thrown for one frame. Whether it means anything is for the faults to say; each fault looks at numbers of its
/// own, so that turning one on does not change what another does.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fate([u64; 8]);

impl Dice {
    pub(crate) fn new(seed: u64, from: &AgentId, to: &AgentId) -> Self {
        Self {
            key: derive(seed, &["link", from.as_str(), to.as_str()]),
        }
    }

    /// The fate of frame `number`.
    pub(crate) fn throw(&self, number: u64) -> Fate {
        let mut numbers = [0; 8];
        for (block, half) in numbers.chunks_exact_mut(4).enumerate() {
            let mut hash = Sha256::new();
            hash.update(self.key);
            hash.update(number.to_be_bytes());
            hash.update([block as u8]);
            let digest = hash.finalize();
            for (slot, bytes) in half.iter_mut().zip(digest.chunks_exact(8)) {
                *slot = bytes.iter().fold(0, |sum, &byte| sum << 8 | u64::from(byte));
            }
        }
        Fate(numbers)
    }
}

impl Fate {
    pub(crate) fn lost(self, probability: f64) -> bool {
        happens(self.0[0], probability)
    }

    pub(crate) fn doubled(self, probability: f64) -> bool {
        happens(self.0[1], probability)
    }

    pub(crate) fn held(self, probability: f64, most: Duration) -> Duration {
        if happens(self.0[2], probability) {
            between(self.0[3], Duration::ZERO, most)
        } else {
            Duration::ZERO
        }
    }

    pub(crate) fn latency(self, least: Duration, most: Duration) -> Duration {
        between(self.0[4], least, most)
    }

    pub(crate) fn latency_of_copy(self, least: Duration, most: Duration) -> Duration {
        between(self.0[5], least, most)
    }

    pub(crate) fn corrupted(self, probability: f64) -> bool {
        happens(self.0[6], probability)
    }

    /// Flips one to three bits, all different. Does nothing to an empty frame.
    pub(crate) fn flip_bits(self, frame: &mut [u8]) {
        let bits = frame.len() as u64 * 8;
        if bits == 0 {
            return;
        }
        let [first, second, third] = [self.0[7], self.0[7] >> 16, self.0[7] >> 32].map(|throw| throw % bits);
        let mut flip = |bit: u64| frame[(bit / 8) as usize] ^= 1 << (bit % 8);
        flip(first);
        let wanted = self.0[7] >> 62;
        if wanted >= 1 && second != first {
            flip(second);
        }
        if wanted >= 2 && third != first && third != second {
            flip(third);
        }
    }
}

/// True with this probability: the upper 53 bits as a fraction of 1.
fn happens(throw: u64, probability: f64) -> bool {
    ((throw >> 11) as f64) < probability * (1u64 << 53) as f64
}

/// Uniform over the nanoseconds from `least` to `most`, both included.
fn between(throw: u64, least: Duration, most: Duration) -> Duration {
    let span = most.saturating_sub(least).as_nanos() + 1;
    // A range beyond 2^64 ns is 584 years.
    let offset = (u128::from(throw) * span) >> 64;
    least.saturating_add(Duration::from_nanos(u64::try_from(offset).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dice(seed: u64, from: &str, to: &str) -> Dice {
        Dice::new(seed, &AgentId::new(from).unwrap(), &AgentId::new(to).unwrap())
    }

    /// Falsified by a fate that depends on more or on less than seed, direction and number.
    #[test]
    fn fates_depend_on_seed_direction_and_number() {
        let fate = |seed, from, to, number| dice(seed, from, to).throw(number).0;
        assert_eq!(fate(1, "a", "b", 9), fate(1, "a", "b", 9));
        for other in [
            fate(2, "a", "b", 9),
            fate(1, "b", "a", 9),
            fate(1, "a", "b", 10),
            fate(1, "ab", "c", 9),
        ] {
            assert_ne!(other, fate(1, "a", "b", 9));
        }
    }

    /// Falsified by 0 that happens, 1 that does not, or a duration outside of its range.
    #[test]
    fn extremes_hold() {
        for throw in [0, 1, u64::MAX / 2, u64::MAX] {
            assert!(!happens(throw, 0.0));
            assert!(happens(throw, 1.0));
            let (least, most) = (Duration::from_millis(2), Duration::from_millis(3));
            assert!((least..=most).contains(&between(throw, least, most)));
            assert_eq!(between(throw, least, least), least);
        }
        assert_eq!(
            between(u64::MAX, Duration::ZERO, Duration::from_nanos(7)),
            Duration::from_nanos(7)
        );
    }

    /// Falsified by a corruption that leaves a frame as it was.
    #[test]
    fn corruption_always_changes_something() {
        let dice = dice(3, "a", "b");
        for number in 0..1_000 {
            let mut frame = vec![0u8; 1 + (number as usize % 5)];
            dice.throw(number).flip_bits(&mut frame);
            let flipped: u32 = frame.iter().map(|byte| byte.count_ones()).sum();
            assert!((1..=3).contains(&flipped), "{number}: {flipped}");
        }
        dice.throw(0).flip_bits(&mut []);
    }
}
