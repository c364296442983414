//! The second copy of a frame, told by its bytes: so that fan-out costs its receiver next to nothing.
//!
//! Only what came by *another* road a moment ago is a copy. What comes again later, or by the same road, was sent again because
//! something was missing, if only the acknowledgement: that is the session's to judge.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;

/// A copy comes within this time. Far less than a session waits before it sends again.
const MOMENT: Duration = Duration::from_millis(50);
/// Frames that are remembered for each peer.
const MOST: usize = 64;
/// Larger ones are not: they would hold memory for little.
const LARGEST: usize = 64 * 1024;
/// The header of a binary frame, which begins the comparison: it holds a signature, so different frames differ there.
const HEADER: usize = 84;

/// The latest frames of one peer.
#[derive(Debug, Default)]
pub(super) struct Recent(VecDeque<(Duration, usize, Bytes)>);

impl Recent {
    /// Whether these bytes came by another road a moment ago; if not, they are remembered.
    pub(super) fn has_come(&mut self, frame: &Bytes, road: usize, now: Duration) -> bool {
        if frame.len() > LARGEST {
            return false;
        }
        while self.0.front().is_some_and(|(at, ..)| *at + MOMENT < now) {
            self.0.pop_front();
        }
        let header = &frame[..frame.len().min(HEADER)];
        let is_copy = |(_, by, known): &(Duration, usize, Bytes)| {
            *by != road && known.len() == frame.len() && known.starts_with(header) && known == frame
        };
        // It is said of one copy only: with three roads the third is one of the first again.
        if self.0.iter().any(is_copy) {
            return true;
        }
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back((now, road, frame.clone()));
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn a_copy_is_what_came_by_another_road_a_moment_ago() {
        let mut recent = Recent::default();
        let (frame, other) = (Bytes::from(vec![1; 200]), Bytes::from(vec![2; 200]));
        assert!(!recent.has_come(&frame, 0, MS(0)));
        assert!(recent.has_come(&frame, 1, MS(10)), "by another road");
        assert!(recent.has_come(&frame, 2, MS(20)), "by a third");
        assert!(
            !recent.has_come(&frame, 0, MS(20)),
            "by the same road: sent again"
        );
        assert!(!recent.has_come(&other, 1, MS(20)), "something else");
        assert!(!recent.has_come(&frame, 1, MS(200)), "long after: sent again");
    }
}
