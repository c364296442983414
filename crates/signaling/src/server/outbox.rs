//! The queue of frames for one client: bounded in frames and bytes, never waited for.
//!
//! Text and relayed frames share it, so that what a server says of an agent comes after what it relayed from it; but each has
//! bounds of its own. A client that misses a text has a wrong picture of the mesh, so it is ended; a relayed frame without room is
//! refused to its *sender*, who could otherwise end whom it likes.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use super::{
    config::{RelayLimits, ServerLimits},
    connection::Ending,
};
use crate::relay::RELAY_FRAME_COST;

/// What the rest of the server holds of a connection. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Outbox {
    queue: mpsc::Sender<Item>,
    max_frames: usize,
    texts: Arc<Texts>,
    max_bytes: usize,
    /// Bytes of relayed frames.
    relayed: Arc<AtomicUsize>,
    ending: watch::Sender<Option<Ending>>,
    /// When the client was last heard; closed when its connection is over.
    heard: watch::Receiver<Instant>,
    probe: Arc<Notify>,
}

/// What the connection itself holds.
#[derive(Debug)]
pub(super) struct Inbox {
    queue: mpsc::Receiver<Item>,
    texts: Arc<Texts>,
    pub(super) probe: Arc<Notify>,
}

#[derive(Debug, Default)]
struct Texts {
    frames: AtomicUsize,
    bytes: AtomicUsize,
}

#[derive(Debug)]
enum Item {
    Text(Utf8Bytes),
    Relayed(Relayed),
}

/// A relayed frame, and the room that it takes up until it is dropped.
#[derive(Debug)]
struct Relayed {
    frame: Bytes,
    charge: usize,
    charged: [Arc<AtomicUsize>; 3],
}

impl Drop for Relayed {
    fn drop(&mut self) {
        for account in &self.charged {
            account.fetch_sub(self.charge, Relaxed);
        }
    }
}

/// What bounds relayed frames, beside the outbox: what waits from one sender to one addressee, and in all.
#[derive(Debug, Clone, Copy)]
pub(super) struct RelayRoom<'a> {
    pub(super) pair: &'a Arc<AtomicUsize>,
    pub(super) total: &'a Arc<AtomicUsize>,
    pub(super) limits: &'a RelayLimits,
}

/// The outbox of a socket. One that relays has room for as many relayed frames as its limits let wait.
pub(super) fn outbox(
    limits: &ServerLimits,
    relay: Option<&RelayLimits>,
    heard: watch::Receiver<Instant>,
) -> (Outbox, Inbox) {
    let max_frames = limits.queue_frames.max(1);
    // Each relayed frame is charged at least `RELAY_FRAME_COST`.
    let relayed = relay.map_or(0, |relay| relay.queue_bytes / RELAY_FRAME_COST);
    let (sender, receiver) = mpsc::channel(max_frames + relayed);
    let texts = Arc::new(Texts::default());
    let probe = Arc::new(Notify::new());
    let outbox = Outbox {
        queue: sender,
        max_frames,
        texts: Arc::clone(&texts),
        max_bytes: limits.queue_bytes,
        relayed: Arc::default(),
        ending: watch::Sender::new(None),
        heard,
        probe: Arc::clone(&probe),
    };
    (
        outbox,
        Inbox {
            queue: receiver,
            texts,
            probe,
        },
    )
}

impl Outbox {
    /// Queues a text, or ends the connection: a client that misses a frame has a wrong picture of the mesh, and one that
    /// reconnects has a right one. Whether the frame was queued.
    pub(super) fn push(&self, frame: Utf8Bytes) -> bool {
        let len = frame.len();
        let before = self.texts.bytes.fetch_add(len, Relaxed);
        let waiting = self.texts.frames.fetch_add(1, Relaxed);
        // A single frame over the limit still goes into an empty queue: a full `registered` must not lock anybody out.
        let fits = before == 0 || before.saturating_add(len) <= self.max_bytes;
        if fits && waiting < self.max_frames && self.queue.try_send(Item::Text(frame)).is_ok() {
            return true;
        }
        self.texts.bytes.fetch_sub(len, Relaxed);
        self.texts.frames.fetch_sub(1, Relaxed);
        self.end(Ending::TooSlow);
        false
    }

    /// Queues a relayed frame, if there is room for it.
    pub(super) fn push_relayed(&self, frame: Bytes, room: RelayRoom<'_>) -> bool {
        let charge = frame.len() + RELAY_FRAME_COST;
        let accounts = [
            (room.pair, room.limits.pair_bytes),
            (&self.relayed, room.limits.queue_bytes),
            (room.total, room.limits.total_bytes),
        ];
        let mut fits = true;
        for (account, limit) in accounts {
            fits &= account.fetch_add(charge, Relaxed).saturating_add(charge) <= limit;
        }
        let charged = accounts.map(|(account, _)| Arc::clone(account));
        // Dropped here, it gives its charge back.
        let relayed = Relayed {
            frame,
            charge,
            charged,
        };
        fits && self.queue.try_send(Item::Relayed(relayed)).is_ok()
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
    pub(super) async fn next(&mut self) -> Option<Message> {
        let item = self.queue.recv().await?;
        Some(self.taken(item))
    }

    /// The next frame, if one is queued.
    pub(super) fn try_next(&mut self) -> Option<Message> {
        let item = self.queue.try_recv().ok()?;
        Some(self.taken(item))
    }

    fn taken(&self, item: Item) -> Message {
        match item {
            Item::Text(text) => {
                self.texts.bytes.fetch_sub(text.len(), Relaxed);
                self.texts.frames.fetch_sub(1, Relaxed);
                Message::Text(text)
            }
            Item::Relayed(relayed) => Message::Binary(relayed.frame.clone()),
        }
    }
}
