//! What all tasks of a transport share: the state of each peer, and the counters.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use ifmesh_transport::{LinkState, LinkStatus, Path, SendError};
use ifmsg::{AgentId, Timestamp};

use crate::queues::Outbound;

/// The peers, as `links` and `send` see them. Its lock is held for moments, never across an await.
#[derive(Default)]
pub(crate) struct Board {
    closing: AtomicBool,
    peers: Mutex<BTreeMap<AgentId, Entry>>,
    pub(crate) counters: Counters,
}

#[derive(Default)]
struct Entry {
    connecting: bool,
    link: Option<Arc<Outbound>>,
    since: Option<Timestamp>,
    dropped: Arc<AtomicU64>,
}

impl Board {
    pub(crate) fn outbound(&self, peer: &AgentId) -> Result<Arc<Outbound>, SendError> {
        if self.is_closing() {
            return Err(SendError::Closed);
        }
        match self.peers().get(peer).and_then(|entry| entry.link.as_ref()) {
            Some(outbound) => Ok(Arc::clone(outbound)),
            None => Err(SendError::NoLink(peer.clone())),
        }
    }

    /// All links that are up.
    pub(crate) fn outbounds(&self) -> Vec<Arc<Outbound>> {
        let peers = self.peers();
        peers.values().filter_map(|entry| entry.link.clone()).collect()
    }

    pub(crate) fn up(&self, peer: &AgentId, outbound: Arc<Outbound>, now: Timestamp) {
        let mut peers = self.peers();
        let entry = peers.entry(peer.clone()).or_default();
        entry.link = Some(outbound);
        entry.connecting = false;
        entry.since = Some(now);
    }

    pub(crate) fn down(&self, peer: &AgentId, now: Timestamp) {
        if let Some(entry) = self.peers().get_mut(peer) {
            entry.since = Some(now);
            if let Some(outbound) = entry.link.take() {
                outbound.close();
            }
        }
    }

    pub(crate) fn connecting(&self, peer: &AgentId, now: Timestamp) {
        let mut peers = self.peers();
        let entry = peers.entry(peer.clone()).or_default();
        entry.connecting = true;
        entry.since = Some(now);
    }

    pub(crate) fn dropped_counter(&self, peer: &AgentId) -> Arc<AtomicU64> {
        Arc::clone(&self.peers().entry(peer.clone()).or_default().dropped)
    }

    /// Nobody sends any more: the links' endpoints end.
    pub(crate) fn clear(&self) {
        for entry in self.peers().values_mut() {
            entry.link = None;
        }
    }

    pub(crate) fn forget(&self, peer: &AgentId) {
        self.peers().remove(peer);
    }

    pub(crate) fn links(&self) -> Vec<LinkStatus> {
        self.peers()
            .iter()
            .map(|(peer, entry)| {
                let state = match (&entry.link, entry.connecting) {
                    _ if self.is_closing() => LinkState::Down,
                    (Some(_), _) => LinkState::Up,
                    (None, true) => LinkState::Connecting,
                    (None, false) => LinkState::Down,
                };
                let mut status = LinkStatus::new(peer.clone(), state);
                status.path = entry.link.as_ref().map(|_| Path::Direct);
                status.dropped = entry.dropped.load(Ordering::Relaxed);
                status.since = entry.since;
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
        for outbound in self.outbounds() {
            outbound.close();
        }
    }

    fn peers(&self) -> MutexGuard<'_, BTreeMap<AgentId, Entry>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counted since the transport was made.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) participants: AtomicU64,
    pub(crate) links_up: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) stray_samples: AtomicU64,
    pub(crate) unread: AtomicU64,
    pub(crate) bus_dropped: AtomicU64,
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
