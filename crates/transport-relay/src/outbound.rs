//! Frames on their way into one link: three queues that take turns.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use ifmesh_transport::{Lane, Splitter};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Least charge for a frame, in bytes; bounds the number of frames that wait.
const LEAST_CHARGE: usize = 1_024;
/// Frames of up to so many bytes keep their order among each other; longer ones may be overtaken.
const SHORT: usize = 64 * 1_024;
/// Bytes that a queue may send before the next one has its turn.
const TURN: usize = 16 * 1_024;

/// What `send` needs of a link without holding its lock.
#[derive(Debug)]
pub(crate) struct Gate {
    room: Arc<Semaphore>,
    /// For long frames, which must not keep short ones from being accepted.
    large_room: Arc<Semaphore>,
    queue_bytes: usize,
    /// The largest payload that travels in one piece.
    most: usize,
    /// The largest frame that the peer takes.
    pub(crate) limit: usize,
    numbers: AtomicU64,
}

impl Gate {
    pub(crate) fn new(queue_bytes: usize, most: usize, limit: usize) -> Arc<Self> {
        let queue_bytes = queue_bytes.clamp(LEAST_CHARGE, u32::MAX as usize);
        Arc::new(Self {
            room: Arc::new(Semaphore::new(queue_bytes)),
            large_room: Arc::new(Semaphore::new(queue_bytes)),
            queue_bytes,
            most,
            limit,
            numbers: AtomicU64::new(1),
        })
    }

    /// Waits for room; `None`: the link is gone. Cancel safe.
    pub(crate) async fn room(&self, frame: &[u8]) -> Option<OwnedSemaphorePermit> {
        let charge = u32::try_from(charge(frame.len()).min(self.queue_bytes)).unwrap_or(u32::MAX);
        let room = match frame.len() > SHORT {
            true => &self.large_room,
            false => &self.room,
        };
        Arc::clone(room).acquire_many_owned(charge).await.ok()
    }

    /// The frame as it will travel. Hashes a frame that is too large for one piece: milliseconds for many megabytes.
    pub(crate) fn pack(&self, frame: Bytes) -> Item {
        if !Splitter::is_needed(&frame, self.most) {
            return Item::Whole(frame);
        }
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        let mut splitter = Splitter::new(number, frame, self.most);
        splitter.digest_some(usize::MAX);
        Item::Parts(Box::new(splitter))
    }

    /// Takes nothing more, and tells whoever waits.
    pub(crate) fn close(&self) {
        self.room.close();
        self.large_room.close();
    }
}

/// A frame, in one piece or in parts.
#[derive(Debug)]
pub(crate) enum Item {
    Whole(Bytes),
    Parts(Box<Splitter>),
}

impl Item {
    fn len(&self) -> usize {
        match self {
            Self::Whole(frame) => frame.len(),
            Self::Parts(splitter) => splitter.frame_len(),
        }
    }
}

/// Short frames of the reliable lane, long ones of it, and the best-effort lane. They take turns, so that none waits for more
/// than a few pieces of another.
#[derive(Debug, Default)]
pub(crate) struct Outbound {
    small: VecDeque<(Item, OwnedSemaphorePermit)>,
    large: VecDeque<(Item, OwnedSemaphorePermit)>,
    loose: VecDeque<Item>,
    loose_bytes: usize,
    turn: usize,
    left: usize,
    /// The piece that is next, if there was no credit for it.
    next: Option<(Lane, Bytes)>,
}

impl Outbound {
    pub(crate) fn push(&mut self, item: Item, room: OwnedSemaphorePermit) {
        match item.len() > SHORT {
            true => self.large.push_back((item, room)),
            false => self.small.push_back((item, room)),
        }
    }

    /// What waits longest gives way. How many did.
    pub(crate) fn push_loose(&mut self, item: Item, queue_bytes: usize) -> u64 {
        self.loose_bytes += charge(item.len());
        self.loose.push_back(item);
        let mut dropped = 0;
        while self.loose_bytes > queue_bytes && self.loose.len() > 1 {
            if let Some(oldest) = self.loose.pop_front() {
                self.loose_bytes -= charge(oldest.len());
                dropped += 1;
            }
        }
        dropped
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.next.is_none() && self.small.is_empty() && self.large.is_empty() && self.loose.is_empty()
    }

    /// Frames of the reliable lane that have not left.
    pub(crate) fn unsent(&self) -> u64 {
        let next = matches!(self.next, Some((Lane::Reliable, _)));
        (self.small.len() + self.large.len() + usize::from(next)) as u64
    }

    /// The next piece, if `fits` says that there is credit for so many bytes; otherwise it stays the next.
    pub(crate) fn next(&mut self, fits: impl Fn(usize) -> bool) -> Option<(Lane, Bytes)> {
        if self.next.is_none() {
            self.next = self.choose();
        }
        let (_, piece) = self.next.as_ref()?;
        if fits(piece.len()) { self.next.take() } else { None }
    }

    fn choose(&mut self) -> Option<(Lane, Bytes)> {
        const QUEUES: usize = 3;
        for _ in 0..=QUEUES {
            if self.left > 0 {
                let piece = match self.turn {
                    0 => next_piece(&mut self.small).map(|piece| (Lane::Reliable, piece)),
                    1 => next_piece(&mut self.large).map(|piece| (Lane::Reliable, piece)),
                    _ => self.next_loose().map(|piece| (Lane::BestEffort, piece)),
                };
                if let Some((lane, piece)) = piece {
                    // An empty frame has its price, too.
                    self.left = self.left.saturating_sub(piece.len().max(1));
                    return Some((lane, piece));
                }
            }
            self.turn = (self.turn + 1) % QUEUES;
            self.left = TURN;
        }
        None
    }

    fn next_loose(&mut self) -> Option<Bytes> {
        loop {
            let (piece, is_over) = self.loose.front_mut()?.next_piece();
            if is_over && let Some(item) = self.loose.pop_front() {
                self.loose_bytes -= charge(item.len());
            }
            if piece.is_some() {
                return piece;
            }
        }
    }
}

impl Item {
    /// The next piece, and whether it is the last one.
    fn next_piece(&mut self) -> (Option<Bytes>, bool) {
        match self {
            Self::Whole(frame) => (Some(frame.clone()), true),
            Self::Parts(splitter) => {
                let part = splitter.as_mut().next_chunk();
                (part, splitter.remaining() == 0)
            }
        }
    }
}

fn next_piece(queue: &mut VecDeque<(Item, OwnedSemaphorePermit)>) -> Option<Bytes> {
    loop {
        let (item, _) = queue.front_mut()?;
        let (piece, is_over) = item.next_piece();
        if is_over {
            queue.pop_front();
        }
        if piece.is_some() {
            return piece;
        }
    }
}

fn charge(len: usize) -> usize {
    len.max(LEAST_CHARGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn pushed(outbound: &mut Outbound, gate: &Gate, frame: Bytes) {
        let room = gate.room(&frame).await.unwrap();
        outbound.push(gate.pack(frame), room);
    }

    /// Fails if a small frame waits for more than a turn of a large one, or a large one for ever for small ones.
    #[tokio::test]
    async fn small_frames_overtake_large_ones_and_do_not_starve_them() {
        let gate = Gate::new(64 << 20, 16 * 1024, usize::MAX);
        let mut outbound = Outbound::default();
        pushed(&mut outbound, &gate, vec![1; 1 << 20].into()).await;
        for _ in 0..1_000 {
            pushed(&mut outbound, &gate, vec![2; 300].into()).await;
        }
        let mut since_small = 0;
        let mut since_large = 0;
        let (mut small, mut large) = (0, 0);
        while let Some((_, piece)) = outbound.next(|_| true) {
            if piece.len() == 300 {
                (small, since_small, since_large) = (small + 1, 0, since_large + piece.len());
            } else {
                (large, since_large, since_small) = (large + 1, 0, since_small + piece.len());
            }
            assert!(large == 65 || since_large <= 2 * TURN);
            assert!(small == 1_000 || since_small <= 2 * TURN);
        }
        assert_eq!((small, large), (1_000, 65));
        assert!(outbound.is_empty());
    }

    #[tokio::test]
    async fn without_credit_nothing_leaves_and_nothing_is_lost() {
        let gate = Gate::new(1 << 20, 16 * 1024, usize::MAX);
        let mut outbound = Outbound::default();
        pushed(&mut outbound, &gate, Bytes::from_static(b"first")).await;
        pushed(&mut outbound, &gate, Bytes::from_static(b"second")).await;
        for _ in 0..3 {
            assert_eq!(outbound.next(|len| len > 5), None);
        }
        assert_eq!(outbound.unsent(), 2);
        assert_eq!(outbound.next(|_| true).unwrap().1, "first");
        assert_eq!(outbound.next(|_| true).unwrap().1, "second");
        assert_eq!(outbound.next(|_| true), None);
    }

    #[test]
    fn the_oldest_of_the_best_effort_lane_gives_way() {
        let mut outbound = Outbound::default();
        let mut dropped = 0;
        for number in 0..10u8 {
            dropped += outbound.push_loose(Item::Whole(vec![number].into()), 3 * LEAST_CHARGE);
        }
        assert_eq!(dropped, 7);
        for number in 7..10u8 {
            assert_eq!(
                outbound.next(|_| true),
                Some((Lane::BestEffort, vec![number].into()))
            );
        }
    }
}
