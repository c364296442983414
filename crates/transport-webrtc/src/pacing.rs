//! How much of a long frame may be on its way at once, so that short frames do not wait behind it. Pure: what is
//! unacknowledged and `now` go in, whether to send goes out.
//!
//! One chunk at a time is enough where an acknowledgement comes back within a millisecond, and holds up nobody. Where it takes
//! longer, one chunk at a time would leave the path idle; there the window grows for as long as chunks take no longer than the
//! path does, that is, until what is on its way begins to queue up somewhere.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// A window of one chunk will do for paths that are faster than this.
const FAST: Duration = Duration::from_millis(1);
/// The largest window, in chunks.
const MOST_CHUNKS: usize = 12;

#[derive(Debug)]
pub(crate) struct Pacing {
    chunk: usize,
    window: usize,
    /// Bytes of all frames that were handed over.
    sent: u64,
    /// Chunks that are not acknowledged: where each ends, and when it was handed over.
    marks: VecDeque<(u64, Instant)>,
    /// The fastest chunk of this frame.
    fastest: Option<Duration>,
    /// The window was made smaller when this much was sent; what was sent before that says nothing new.
    cut_at: u64,
}

impl Pacing {
    /// For chunks of this many bytes.
    pub(crate) fn new(chunk: usize) -> Self {
        Self {
            chunk,
            window: chunk,
            sent: 0,
            marks: VecDeque::new(),
            fastest: None,
            cut_at: 0,
        }
    }

    /// Another long frame: the path may have changed since the last one.
    pub(crate) fn restart(&mut self) {
        self.window = self.chunk;
        self.fastest = None;
    }

    /// A whole frame was handed over.
    pub(crate) fn frame_sent(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// A chunk was handed over.
    pub(crate) fn chunk_sent(&mut self, bytes: usize, now: Instant) {
        self.sent += bytes as u64;
        // Chunks that are never looked at again do not pile up.
        if self.marks.len() == 2 * MOST_CHUNKS {
            self.marks.pop_front();
        }
        self.marks.push_back((self.sent, now));
    }

    /// Whether another chunk may go, when this many bytes are unacknowledged.
    pub(crate) fn may_send(&mut self, unacknowledged: usize, now: Instant) -> bool {
        let acknowledged = self.sent.saturating_sub(unacknowledged as u64);
        while let Some((end, at)) = self.marks.front().copied()
            && end <= acknowledged
        {
            self.marks.pop_front();
            self.learn(end, now.saturating_duration_since(at));
        }
        unacknowledged < self.window
    }

    fn learn(&mut self, end: u64, took: Duration) {
        let fastest = *self
            .fastest
            .insert(self.fastest.map_or(took, |fastest| fastest.min(took)));
        if fastest < FAST {
            self.window = self.chunk;
        } else if took <= fastest + fastest / 4 {
            self.window = (self.window + self.chunk / 2).min(MOST_CHUNKS * self.chunk);
        } else if took > 2 * fastest && end > self.cut_at {
            self.window = (self.window / 2).max(self.chunk);
            self.cut_at = self.sent;
        }
    }
}

#[cfg(test)]
mod tests {
    //! Falsified by a window that grows where short frames would wait for it, or stays small where the path is long.

    use super::*;

    const CHUNK: usize = 16_384;

    /// A path with a delay and a rate in bytes a second, sending as fast as the pacing allows. What passes in a second, and the
    /// most that was ever unacknowledged.
    fn second(delay: Duration, rate: f64) -> (usize, usize) {
        let start = Instant::now();
        let mut pacing = Pacing::new(CHUNK);
        let mut on_the_way: VecDeque<(Instant, usize)> = VecDeque::new();
        let (mut free_at, mut passed, mut most) = (start, 0, 0);
        let mut now = start;
        while now < start + Duration::from_secs(1) {
            while on_the_way.front().is_some_and(|(at, _)| *at <= now) {
                passed += on_the_way.pop_front().map_or(0, |(_, bytes)| bytes);
            }
            let unacknowledged = on_the_way.iter().map(|(_, bytes)| bytes).sum();
            most = most.max(unacknowledged);
            if pacing.may_send(unacknowledged, now) {
                pacing.chunk_sent(CHUNK, now);
                free_at = free_at.max(now) + Duration::from_secs_f64(CHUNK as f64 / rate);
                on_the_way.push_back((free_at + delay, CHUNK));
            } else {
                now += Duration::from_micros(100);
            }
        }
        (passed, most)
    }

    #[test]
    fn a_short_path_has_one_chunk_on_it() {
        let (passed, most) = second(Duration::from_micros(100), 200e6);
        assert_eq!(most, CHUNK);
        assert!(passed > 40_000_000, "{passed}");
    }

    #[test]
    fn a_long_path_is_filled() {
        let (passed, most) = second(Duration::from_millis(50), 100e6);
        assert_eq!(most, MOST_CHUNKS * CHUNK);
        assert!(passed > 2_000_000, "{passed}");
    }

    #[test]
    fn a_long_and_narrow_path_is_not_flooded() {
        // 50 ms at 1 MB/s hold 50,000 bytes.
        let (passed, most) = second(Duration::from_millis(50), 1e6);
        assert!(most <= 8 * CHUNK, "{most}");
        assert!(passed > 600_000, "{passed}");
    }
}
