//! The bounded queues between the application and the links.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use ifmesh_transport::{LEAST_CHARGE, charge};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};

use crate::sending::Sending;

/// Frames on their way into one link.
pub(crate) struct Outbound {
    /// The largest frame that the peer takes.
    limit: usize,
    queue_bytes: usize,
    room: Arc<Semaphore>,
    pub(crate) sending: Sending,
    reliable: mpsc::Sender<Waiting>,
    pub(crate) loose: Loose,
}

/// A frame of the reliable lane, and the room that it takes up until it has left.
pub(crate) type Waiting = (Bytes, OwnedSemaphorePermit);

impl Outbound {
    pub(crate) fn new(
        limit: usize,
        queue_bytes: usize,
        dropped: Arc<AtomicU64>,
        sending: Sending,
    ) -> (Self, mpsc::Receiver<Waiting>) {
        let queue_bytes = queue_bytes.clamp(LEAST_CHARGE, u32::MAX as usize);
        // Whoever has room in bytes has room in the queue.
        let (reliable, waiting) = mpsc::channel(queue_bytes / LEAST_CHARGE);
        let outbound = Self {
            limit,
            queue_bytes,
            room: Arc::new(Semaphore::new(queue_bytes)),
            sending,
            reliable,
            loose: Loose::new(queue_bytes, dropped),
        };
        (outbound, waiting)
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Waits for room; `None`: the link is gone. Cancel safe.
    pub(crate) async fn reserve(&self, len: usize) -> Option<OwnedSemaphorePermit> {
        let charge = charge(len, self.queue_bytes);
        Arc::clone(&self.room).acquire_many_owned(charge).await.ok()
    }

    /// Sends a frame for which there is room, or queues it; `false`: the link is gone.
    pub(crate) fn accept(&self, frame: Bytes, room: OwnedSemaphorePermit) -> bool {
        !self.room.is_closed()
            && (self.sending.send_now(&frame) || self.reliable.try_send((frame, room)).is_ok())
    }

    /// Never waits: what waits longest gives way. `false`: the link is gone.
    pub(crate) fn accept_loose(&self, frame: Bytes) -> bool {
        if self.room.is_closed() {
            return false;
        }
        self.loose.push(frame);
        true
    }

    /// Takes nothing more. What was taken stays in the queues.
    pub(crate) fn close(&self) {
        self.room.close();
    }
}

/// Best-effort frames: the oldest give way, and are counted.
#[derive(Debug)]
pub(crate) struct Loose {
    most: usize,
    queue: Mutex<LooseQueue>,
    news: Notify,
    dropped: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct LooseQueue {
    frames: VecDeque<Bytes>,
    bytes: usize,
}

impl Loose {
    pub(crate) fn new(most: usize, dropped: Arc<AtomicU64>) -> Self {
        Self {
            most,
            queue: Mutex::default(),
            news: Notify::new(),
            dropped,
        }
    }

    pub(crate) fn push(&self, frame: Bytes) {
        let mut queue = self.queue();
        queue.bytes += frame.len().max(LEAST_CHARGE);
        queue.frames.push_back(frame);
        while queue.bytes > self.most && queue.frames.len() > 1 {
            if let Some(oldest) = queue.frames.pop_front() {
                queue.bytes -= oldest.len().max(LEAST_CHARGE);
                self.count_dropped();
            }
        }
        drop(queue);
        self.news.notify_one();
    }

    /// The next frame. For one task. Cancel safe.
    pub(crate) async fn next(&self) -> Bytes {
        loop {
            if let Some(frame) = self.try_next() {
                return frame;
            }
            self.news.notified().await;
        }
    }

    pub(crate) fn try_next(&self) -> Option<Bytes> {
        let mut queue = self.queue();
        let frame = queue.frames.pop_front()?;
        queue.bytes -= frame.len().max(LEAST_CHARGE);
        Some(frame)
    }

    /// A frame that the link did not take.
    pub(crate) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    fn queue(&self) -> MutexGuard<'_, LooseQueue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
