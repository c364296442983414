//! The queue of frames for one client: bounded in frames and bytes, never waited for.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::connection::Ending;

/// What the rest of the server holds of a connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Outbox {
    queue: mpsc::Sender<Utf8Bytes>,
    bytes: Arc<AtomicUsize>,
    max_bytes: usize,
    ending: watch::Sender<Option<Ending>>,
    /// When the client was last heard; closed when its connection is over.
    heard: watch::Receiver<Instant>,
    probe: Arc<Notify>,
}

/// What the connection itself holds.
#[derive(Debug)]
pub(super) struct Inbox {
    queue: mpsc::Receiver<Utf8Bytes>,
    bytes: Arc<AtomicUsize>,
    pub(super) probe: Arc<Notify>,
}

pub(super) fn outbox(
    max_frames: usize,
    max_bytes: usize,
    heard: watch::Receiver<Instant>,
) -> (Outbox, Inbox) {
    let (sender, receiver) = mpsc::channel(max_frames.max(1));
    let bytes = Arc::new(AtomicUsize::new(0));
    let probe = Arc::new(Notify::new());
    let outbox = Outbox {
        queue: sender,
        bytes: Arc::clone(&bytes),
        max_bytes,
        ending: watch::Sender::new(None),
        heard,
        probe: Arc::clone(&probe),
    };
    (
        outbox,
        Inbox {
            queue: receiver,
            bytes,
            probe,
        },
    )
}

impl Outbox {
    /// Queues a frame, or ends the connection: a client that misses a frame has a wrong picture of the mesh, and one that
    /// reconnects has a right one. Whether the frame was queued.
    pub(super) fn push(&self, frame: Utf8Bytes) -> bool {
        let len = frame.len();
        let before = self.bytes.fetch_add(len, Relaxed);
        // A single frame over the limit still goes into an empty queue: a full `registered` must not lock anybody out.
        let fits = before == 0 || before.saturating_add(len) <= self.max_bytes;
        if fits && self.queue.try_send(frame).is_ok() {
            return true;
        }
        self.bytes.fetch_sub(len, Relaxed);
        self.end(Ending::TooSlow);
        false
    }

    /// Asks the connection to end. The first reason stays.
    pub(super) fn end(&self, ending: Ending) {
        self.ending.send_if_modified(|current| {
            let first = current.is_none();
            if first {
                *current = Some(ending);
            }
            first
        });
    }

    /// Waits until somebody asked the connection to end. Cancel safe.
    pub(super) async fn ended(&self) -> Ending {
        let mut ending = self.ending.subscribe();
        match ending.wait_for(Option::is_some).await {
            Ok(reason) => (*reason).unwrap_or(Ending::Lost),
            Err(_) => Ending::Lost,
        }
    }

    /// Pings the client and waits for any sign of life. `false`: its connection is over.
    pub(super) async fn is_alive(&self) -> bool {
        let mut heard = self.heard.clone();
        heard.mark_unchanged();
        self.probe.notify_one();
        heard.changed().await.is_ok()
    }
}

impl Inbox {
    /// The next frame. Cancel safe.
    pub(super) async fn next(&mut self) -> Option<Utf8Bytes> {
        let frame = self.queue.recv().await?;
        self.bytes.fetch_sub(frame.len(), Relaxed);
        Some(frame)
    }

    /// The next frame, if one is queued.
    pub(super) fn try_next(&mut self) -> Option<Utf8Bytes> {
        let frame = self.queue.try_recv().ok()?;
        self.bytes.fetch_sub(frame.len(), Relaxed);
        Some(frame)
    }
}
