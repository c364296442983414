//! The task that listens to the signaling server, and hands what it says to the tasks of the peers.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use ifmesh_signaling::{AgentInfo, Client, ErrorCode, Event, Signal};
use ifmesh_transport::{DownReason, LinkNotice, PeerTrust, TransportEvent, awaited};
use ifmsg::AgentId;
use tokio::{
    sync::{mpsc, watch},
    task::{self, JoinSet},
};

use crate::{
    board::{Wish, count},
    peer::{Common, PeerTask, Presence},
};

/// Signals of one peer that nobody has looked at yet. A negotiation has one description and about ten candidates.
const PEER_SIGNALS: usize = 128;

/// Agents that are known to be there without a task of their own, on demand.
const MAX_KNOWN: usize = 10_000;

pub(crate) struct Hub {
    client: Client,
    common: Arc<Common>,
    peers: BTreeMap<AgentId, PeerHandle>,
    /// On demand: who is there.
    known: BTreeMap<AgentId, AgentInfo>,
    wishes: mpsc::Receiver<Wish>,
    tasks: JoinSet<()>,
    closing: watch::Receiver<bool>,
    /// The address of the server in use.
    server: String,
}

/// A peer's task; dropping this ends it.
struct PeerHandle {
    presence: watch::Sender<Presence>,
    signals: mpsc::Sender<Signal>,
    idle: Arc<AtomicBool>,
    task: task::Id,
}

impl Hub {
    pub(crate) fn new(
        client: Client,
        common: Arc<Common>,
        wishes: mpsc::Receiver<Wish>,
        closing: watch::Receiver<bool>,
    ) -> Self {
        Self {
            client,
            common,
            peers: BTreeMap::new(),
            known: BTreeMap::new(),
            wishes,
            tasks: JoinSet::new(),
            closing,
            server: String::new(),
        }
    }

    /// Serves until `closing`, then lets everything end, and tells how many frames did not get out.
    pub(crate) async fn run(mut self, agents: Vec<AgentInfo>, done: watch::Sender<Option<u64>>) {
        self.on_registered(agents);
        let mut signaling = true;
        let mut closing = self.closing.clone();
        loop {
            tokio::select! {
                biased;
                _ = awaited(&mut closing, |closing| closing) => break,
                Some(ended) = self.tasks.join_next_with_id() => {
                    if let Err(error) = ended {
                        self.on_fallen(error.id());
                    }
                }
                Some(wish) = self.wishes.recv() => self.on_wish(wish),
                event = self.client.recv(), if signaling => match event {
                    Some(event) => self.on_event(event),
                    // Refused for good. Links that are up do not need it.
                    None => signaling = false,
                },
            }
        }
        self.common.board.close();
        let peers = async { while self.tasks.join_next().await.is_some() {} };
        // At the same time: peers that learn that this agent left must not be told long before its links end.
        tokio::join!(self.client.close(), peers);
        let unsent = self.common.board.counters.unsent.load(Ordering::Relaxed);
        done.send_replace(Some(unsent));
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Registered { agents, url, .. } => {
                tracing::info!(url, agents = agents.len(), "signaling connected");
                self.server.clone_from(&url);
                self.common
                    .notices
                    .tell(|| LinkNotice::SignalingConnected { server: url });
                self.on_registered(agents);
            }
            Event::Joined(agent) => self.on_present(agent),
            Event::Left(id) => self.on_absent(&id),
            Event::Signal { from, signal } => self.on_signal(from, signal),
            Event::ServerError {
                code: Some(ErrorCode::AgentNotFound),
                agent_id: Some(id),
                ..
            } => self.on_absent(&id),
            Event::ServerError { code, message, .. } => {
                tracing::warn!(?code, message, "the signaling server refused a frame");
            }
            Event::Disconnected { reason, retry_in } => {
                tracing::warn!(%reason, ?retry_in, "signaling disconnected");
                self.common.notices.tell(|| LinkNotice::SignalingLost {
                    server: self.server.clone(),
                    reason: reason.to_string(),
                });
                self.nobody_present(&BTreeSet::new());
            }
            Event::Refused(refusal) => {
                tracing::error!(%refusal, "signaling refused for good");
                self.nobody_present(&BTreeSet::new());
                self.refused(None, "signaling-refused", refusal.to_string());
            }
            _ => {}
        }
    }

    fn on_registered(&mut self, agents: Vec<AgentInfo>) {
        let present = agents.iter().map(|agent| agent.agent_id.clone()).collect();
        self.nobody_present(&present);
        for agent in agents {
            self.on_present(agent);
        }
    }

    fn on_present(&mut self, agent: AgentInfo) {
        let id = agent.agent_id.clone();
        if self.common.config.mesh.is_on_demand() && self.common.config.keys.trust(&id) != PeerTrust::Refuse {
            if self.known.len() < MAX_KNOWN || self.known.contains_key(&id) {
                self.known.insert(id.clone(), agent.clone());
                self.common.board.set_dormant(&id, true);
            }
            if !self.peers.contains_key(&id) {
                return;
            }
        }
        let Ok(handle) = self.peer(&id) else {
            return;
        };
        handle.presence.send_modify(|presence| {
            presence.registration += 1;
            presence.present = true;
            presence.epoch = agent.epoch;
            presence.key = agent.public_key;
        });
    }

    fn on_absent(&mut self, id: &AgentId) {
        if self.known.remove(id).is_some() {
            self.common.board.set_dormant(id, false);
            self.common.board.forget(id, self.common.config.limits.max_peers);
        }
        if let Some(handle) = self.peers.get(id) {
            handle
                .presence
                .send_if_modified(|presence| std::mem::replace(&mut presence.present, false));
        }
    }

    fn on_wish(&mut self, wish: Wish) {
        match wish {
            Wish::Wake(id) => {
                let Some(agent) = self.known.get(&id).cloned() else {
                    return;
                };
                let Ok(handle) = self.peer(&id) else {
                    return;
                };
                handle.presence.send_modify(|presence| {
                    presence.present = true;
                    presence.epoch = agent.epoch;
                    presence.key = agent.public_key;
                    presence.wanted += 1;
                });
            }
            Wish::Rest(id) => {
                if let Some(handle) = self.peers.get(&id) {
                    handle.presence.send_modify(|presence| presence.unused += 1);
                }
            }
        }
    }

    /// A peer's task came to a bad end: its connections are gone with it. It starts anew.
    fn on_fallen(&mut self, task: task::Id) {
        let fallen = self.peers.iter().find(|(_, handle)| handle.task == task);
        let Some(id) = fallen.map(|(id, _)| id.clone()) else {
            return;
        };
        tracing::error!(peer = %id, "a peer's task fell; it starts anew");
        let presence = self
            .peers
            .remove(&id)
            .map(|handle| handle.presence.borrow().clone());
        if self.common.board.down(&id) {
            let (events, peer) = (self.common.events.clone(), id.clone());
            let down = TransportEvent::LinkDown {
                peer,
                reason: DownReason::Local,
            };
            self.tasks.spawn(async move { events.push(down).await });
        }
        self.common.board.connecting(&id, false);
        if let (Some(presence), Ok(handle)) = (presence, self.peer(&id)) {
            handle.presence.send_replace(presence);
        }
    }

    /// Except these.
    fn nobody_present(&mut self, except: &BTreeSet<AgentId>) {
        let there = self.peers.keys().chain(self.known.keys());
        let gone: BTreeSet<AgentId> = there.filter(|id| !except.contains(*id)).cloned().collect();
        for id in gone {
            self.on_absent(&id);
        }
    }

    fn on_signal(&mut self, from: AgentId, signal: Signal) {
        let describes = !matches!(signal, Signal::Candidate(_));
        let handle = match self.peer(&from) {
            Ok(handle) => handle,
            Err(reason) => {
                if describes {
                    let detail = "what it sent was not looked at".to_owned();
                    self.refused(Some(from), reason, detail);
                }
                return;
            }
        };
        if handle.signals.try_send(signal).is_err() {
            count(&self.common.board.counters.signals_dropped);
        }
    }

    /// The peer's task, started if need be; or why there is none.
    fn peer(&mut self, id: &AgentId) -> Result<&PeerHandle, &'static str> {
        const TOO_MANY: &str = "too-many-peers";
        if self.common.config.keys.trust(id) == PeerTrust::Refuse {
            // The former trust is over; so is what was being negotiated under it.
            self.on_absent(id);
            return Err("untrusted-peer");
        }
        if !self.peers.contains_key(id) {
            if self.peers.len() >= self.common.config.limits.max_peers {
                let on_demand = self.common.config.mesh.is_on_demand();
                let idle = |handle: &PeerHandle| {
                    handle.idle.load(Ordering::Relaxed)
                        && (on_demand || !handle.presence.borrow().present)
                        && handle.signals.capacity() == PEER_SIGNALS
                };
                let evicted = self.peers.iter().find(|(_, handle)| idle(handle));
                let evicted = evicted.map(|(id, _)| id.clone());
                let Some(evicted) = evicted else {
                    tracing::warn!(peer = %id, "too many peers");
                    return Err(TOO_MANY);
                };
                self.peers.remove(&evicted);
            }
            let (presence, present) = watch::channel(Presence::default());
            let (signals, signalled) = mpsc::channel(PEER_SIGNALS);
            let idle = Arc::new(AtomicBool::new(false));
            let task = self.tasks.spawn(PeerTask::run(
                id.clone(),
                Arc::clone(&self.common),
                present,
                signalled,
                Arc::clone(&idle),
                self.closing.clone(),
            ));
            let handle = PeerHandle {
                presence,
                signals,
                idle,
                task: task.id(),
            };
            self.peers.insert(id.clone(), handle);
        }
        self.peers.get(id).ok_or(TOO_MANY)
    }

    fn refused(&self, peer: Option<AgentId>, reason: &'static str, detail: String) {
        count(&self.common.board.counters.refused);
        tracing::info!(?peer, reason, detail, "refused");
        self.common
            .events
            .offer_aside(TransportEvent::Refused { peer, reason, detail });
    }
}
