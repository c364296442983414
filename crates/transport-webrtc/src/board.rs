//! What all tasks of a transport share: the state of each peer, the counters, the way to the events.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ifmesh_transport::{Clock, LEAST_CHARGE, LinkState, LinkStatus, Path, SendError, charge};
use ifmsg::{AgentId, Timestamp};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, watch},
    time::Instant,
};

use crate::engine;

/// Wishes of callers that the hub has yet to look at; more are repeated by whoever has them.
const WISHES: usize = 1_024;

/// The peers, as `links` and `send` see them. Its lock is held for moments, never across an await.
#[derive(Debug)]
pub(crate) struct Board {
    closing: AtomicBool,
    peers: Mutex<BTreeMap<AgentId, Entry>>,
    clock: Arc<dyn Clock>,
    /// Time in `last_used` counts from here.
    started: Instant,
    /// Counts links that came and went.
    changes: watch::Sender<u64>,
    wishes: mpsc::Sender<Wish>,
    pub(crate) counters: Counters,
}

/// What somebody wants of a peer's task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Wish {
    /// A link.
    Wake(AgentId),
    /// No link, to make room for others.
    Rest(AgentId),
}

#[derive(Debug, Default)]
struct Entry {
    connecting: bool,
    /// A link comes when it is needed.
    dormant: bool,
    link: Option<Link>,
    since: Option<Timestamp>,
    dropped: Arc<AtomicU64>,
    /// The highest epoch of a description that verified.
    epoch: u64,
}

#[derive(Debug)]
struct Link {
    outbound: Arc<Outbound>,
    path: Option<engine::Path>,
    round_trip: Option<Duration>,
}

impl Board {
    /// And where wishes arrive.
    pub(crate) fn new(clock: Arc<dyn Clock>) -> (Arc<Self>, mpsc::Receiver<Wish>) {
        let (wishes, wished) = mpsc::channel(WISHES);
        let board = Self {
            closing: AtomicBool::new(false),
            peers: Mutex::default(),
            clock,
            started: Instant::now(),
            changes: watch::channel(0).0,
            wishes,
            counters: Counters::default(),
        };
        (Arc::new(board), wished)
    }

    pub(crate) fn outbound(&self, peer: &AgentId) -> Result<Arc<Outbound>, SendError> {
        if self.is_closing() {
            return Err(SendError::Closed);
        }
        match self.peers().get(peer).and_then(|entry| entry.link.as_ref()) {
            Some(link) => Ok(Arc::clone(&link.outbound)),
            None => Err(SendError::NoLink(peer.clone())),
        }
    }

    pub(crate) fn up(&self, peer: &AgentId, outbound: Arc<Outbound>) {
        let now = self.clock.now();
        outbound.used(self.started.elapsed());
        let mut peers = self.peers();
        let entry = peers.entry(peer.clone()).or_default();
        entry.since = Some(now);
        entry.link = Some(Link {
            outbound,
            path: None,
            round_trip: None,
        });
        drop(peers);
        self.changed();
    }

    /// What was found out about the link to a peer.
    pub(crate) fn measured(&self, peer: &AgentId, path: Option<engine::Path>, round_trip: Option<Duration>) {
        if let Some(link) = self.peers().get_mut(peer).and_then(|entry| entry.link.as_mut()) {
            link.path = path;
            link.round_trip = round_trip.or(link.round_trip);
        }
    }

    /// The last round trip to a peer.
    pub(crate) fn round_trip(&self, peer: &AgentId) -> Option<Duration> {
        self.peers().get(peer)?.link.as_ref()?.round_trip
    }

    /// Whether there was a link.
    pub(crate) fn down(&self, peer: &AgentId) -> bool {
        let now = self.clock.now();
        let link = match self.peers().get_mut(peer) {
            Some(entry) if entry.link.is_some() => {
                entry.since = Some(now);
                entry.link.take()
            }
            _ => None,
        };
        if let Some(link) = &link {
            link.outbound.close();
            self.changed();
        }
        link.is_some()
    }

    pub(crate) fn connecting(&self, peer: &AgentId, connecting: bool) {
        self.peers().entry(peer.clone()).or_default().connecting = connecting;
    }

    pub(crate) fn set_dormant(&self, peer: &AgentId, dormant: bool) {
        self.peers().entry(peer.clone()).or_default().dormant = dormant;
        if !dormant {
            self.changed();
        }
    }

    pub(crate) fn is_dormant(&self, peer: &AgentId) -> bool {
        self.peers().get(peer).is_some_and(|entry| entry.dormant)
    }

    pub(crate) fn wish(&self, wish: Wish) {
        // Whoever wishes more than the hub can hear repeats it.
        let _ = self.wishes.try_send(wish);
    }

    /// Changes whenever a link comes or goes, or nothing more will.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes
            .send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    /// How long nothing was sent to a linked peer, or came from it.
    pub(crate) fn unused_for(&self, peer: &AgentId) -> Option<Duration> {
        let peers = self.peers();
        let link = peers.get(peer)?.link.as_ref()?;
        Some(self.started.elapsed().saturating_sub(link.outbound.last_used()))
    }

    /// Of more than `most` links, those that were used least recently; never that to `except`.
    pub(crate) fn superfluous(&self, most: usize, except: &AgentId) -> Vec<AgentId> {
        let peers = self.peers();
        let linked = peers.iter().filter_map(|(peer, entry)| {
            let link = entry.link.as_ref()?;
            Some((link.outbound.last_used(), peer))
        });
        let mut linked: Vec<_> = linked.collect();
        let excess = linked.len().saturating_sub(most.max(1));
        linked.sort_unstable();
        linked
            .into_iter()
            .filter(|(_, peer)| *peer != except)
            .take(excess)
            .map(|(_, peer)| peer.clone())
            .collect()
    }

    /// A frame came from this peer.
    pub(crate) fn used(&self, outbound: &Outbound) {
        outbound.used(self.started.elapsed());
    }

    /// Raises the highest verified epoch of a peer.
    pub(crate) fn verified_epoch(&self, peer: &AgentId, epoch: u64) {
        let mut peers = self.peers();
        let entry = peers.entry(peer.clone()).or_default();
        entry.epoch = entry.epoch.max(epoch);
    }

    pub(crate) fn epoch(&self, peer: &AgentId) -> u64 {
        self.peers().get(peer).map_or(0, |entry| entry.epoch)
    }

    pub(crate) fn dropped_counter(&self, peer: &AgentId) -> Arc<AtomicU64> {
        Arc::clone(&self.peers().entry(peer.clone()).or_default().dropped)
    }

    /// Forgets peers that are gone for good, when there are too many of them.
    pub(crate) fn forget(&self, peer: &AgentId, most: usize) {
        let mut peers = self.peers();
        if peers.len() > most
            && let Some(entry) = peers.get(peer)
            && entry.link.is_none()
            && !entry.connecting
            && !entry.dormant
        {
            peers.remove(peer);
        }
    }

    pub(crate) fn links(&self) -> Vec<LinkStatus> {
        self.peers()
            .iter()
            .map(|(peer, entry)| {
                let state = match (&entry.link, entry.connecting) {
                    _ if self.is_closing() => LinkState::Down,
                    (Some(_), _) => LinkState::Up,
                    (None, true) => LinkState::Connecting,
                    (None, false) if entry.dormant => LinkState::Dormant,
                    (None, false) => LinkState::Down,
                };
                let mut status = LinkStatus::new(peer.clone(), state);
                status.since = entry.since;
                if let Some(link) = &entry.link {
                    status.round_trip = link.round_trip;
                    if let Some(path) = &link.path {
                        status.path = Some(match path.relayed {
                            true => Path::Relayed,
                            false => Path::Direct,
                        });
                        status.local = Some(path.local.clone());
                        status.remote = Some(path.remote.clone());
                    }
                }
                status.dropped = entry.dropped.load(Ordering::Relaxed);
                status
            })
            .collect()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.load(Ordering::Acquire)
    }

    /// From now on nothing is accepted, and whoever waits in `send` is told.
    pub(crate) fn close(&self) {
        self.closing.store(true, Ordering::Release);
        let outbounds: Vec<_> = self
            .peers()
            .values()
            .filter_map(|entry| entry.link.as_ref().map(|link| Arc::clone(&link.outbound)))
            .collect();
        for outbound in outbounds {
            outbound.close();
        }
        self.changed();
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<AgentId, Entry>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counted since the transport was made.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) offers_sent: AtomicU64,
    pub(crate) answers_sent: AtomicU64,
    pub(crate) restarts: AtomicU64,
    pub(crate) links_up: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) signals_dropped: AtomicU64,
    pub(crate) unsent: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// Frames of the reliable lane that are longer than this travel in chunks, so that others can go in between.
pub(crate) const CUT_ABOVE: usize = 64 * 1024;

/// Frames on their way into one link.
#[derive(Debug)]
pub(crate) struct Outbound {
    /// The largest frame that the peer takes.
    limit: usize,
    /// Whether the peer takes chunks.
    chunks: bool,
    queue_bytes: usize,
    room: Arc<Semaphore>,
    reliable: mpsc::Sender<Waiting>,
    bulk_bytes: usize,
    bulk_room: Arc<Semaphore>,
    bulk: mpsc::Sender<Waiting>,
    loose: Mutex<Loose>,
    loose_news: Notify,
    dropped: Arc<AtomicU64>,
    /// In microseconds of the board's time.
    last_used: AtomicU64,
    /// Bytes of the reliable lane that were handed to SCTP.
    sent: AtomicU64,
    sent_news: Notify,
}

/// A frame of the reliable lane, and the room that it takes up until SCTP has it.
pub(crate) type Waiting = (Bytes, OwnedSemaphorePermit);

/// The other end of an [`Outbound`]: frames of the reliable lane, in the order in which they were accepted.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) frames: mpsc::Receiver<Waiting>,
    /// Those to be cut.
    pub(crate) bulk: mpsc::Receiver<Waiting>,
}

impl Accepted {
    /// Takes nothing more.
    pub(crate) fn close(&mut self) {
        self.frames.close();
        self.bulk.close();
    }
}

#[derive(Debug, Default)]
struct Loose {
    queue: VecDeque<Bytes>,
    bytes: usize,
}

impl Outbound {
    pub(crate) fn new(
        limit: usize,
        chunks: bool,
        queue_bytes: usize,
        bulk_bytes: usize,
        dropped: Arc<AtomicU64>,
    ) -> (Arc<Self>, Accepted) {
        let queue_bytes = queue_bytes.clamp(LEAST_CHARGE, u32::MAX as usize);
        let bulk_bytes = bulk_bytes.clamp(CUT_ABOVE, u32::MAX as usize);
        // Whoever has room in bytes has room in the queue.
        let (reliable, frames) = mpsc::channel(queue_bytes / LEAST_CHARGE);
        let (bulk, to_cut) = mpsc::channel(bulk_bytes / CUT_ABOVE);
        let outbound = Self {
            limit,
            chunks,
            queue_bytes,
            room: Arc::new(Semaphore::new(queue_bytes)),
            reliable,
            bulk_bytes,
            bulk_room: Arc::new(Semaphore::new(bulk_bytes)),
            bulk,
            loose: Mutex::default(),
            loose_news: Notify::new(),
            dropped,
            last_used: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            sent_news: Notify::new(),
        };
        let accepted = Accepted { frames, bulk: to_cut };
        (Arc::new(outbound), accepted)
    }

    /// Bytes of the reliable lane are handed to SCTP.
    pub(crate) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
        self.sent_news.notify_one();
    }

    pub(crate) fn total_sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Waits until something was sent since the last call. For one task. Cancel safe.
    pub(crate) async fn something_sent(&self) {
        self.sent_news.notified().await;
    }

    pub(crate) fn takes_chunks(&self) -> bool {
        self.chunks
    }

    fn used(&self, now: Duration) {
        let micros = u64::try_from(now.as_micros()).unwrap_or(u64::MAX);
        self.last_used.store(micros, Ordering::Relaxed);
    }

    fn last_used(&self) -> Duration {
        Duration::from_micros(self.last_used.load(Ordering::Relaxed))
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Waits for room; `false`: the link is gone. Cancel safe: frames of dropped calls were not taken.
    pub(crate) async fn send(&self, frame: Bytes) -> bool {
        let (room, most, queue) = if self.chunks && frame.len() > CUT_ABOVE {
            // A long frame must not take the room of short ones that can go before its end.
            (&self.bulk_room, self.bulk_bytes, &self.bulk)
        } else {
            (&self.room, self.queue_bytes, &self.reliable)
        };
        let charge = charge(frame.len(), most);
        match Arc::clone(room).acquire_many_owned(charge).await {
            Ok(room) => queue.try_send((frame, room)).is_ok(),
            Err(_) => false,
        }
    }

    /// Never waits: what waits longest gives way. `false`: the link is gone.
    pub(crate) fn send_loose(&self, frame: Bytes) -> bool {
        if self.room.is_closed() {
            return false;
        }
        let mut loose = self.loose();
        loose.bytes += frame.len().max(LEAST_CHARGE);
        loose.queue.push_back(frame);
        while loose.bytes > self.queue_bytes && loose.queue.len() > 1 {
            if let Some(oldest) = loose.queue.pop_front() {
                loose.bytes -= oldest.len().max(LEAST_CHARGE);
                count(&self.dropped);
            }
        }
        drop(loose);
        self.loose_news.notify_one();
        true
    }

    /// The next best-effort frame. For one task. Cancel safe.
    pub(crate) async fn next_loose(&self) -> Bytes {
        loop {
            if let Some(frame) = self.try_next_loose() {
                return frame;
            }
            self.loose_news.notified().await;
        }
    }

    pub(crate) fn try_next_loose(&self) -> Option<Bytes> {
        let mut loose = self.loose();
        let frame = loose.queue.pop_front()?;
        loose.bytes -= frame.len().max(LEAST_CHARGE);
        Some(frame)
    }

    /// A best-effort frame that the link did not take.
    pub(crate) fn count_dropped(&self) {
        count(&self.dropped);
    }

    /// Takes nothing more. What was taken stays in the queues.
    pub(crate) fn close(&self) {
        self.room.close();
        self.bulk_room.close();
    }

    fn loose(&self) -> MutexGuard<'_, Loose> {
        self.loose.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
