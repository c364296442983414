//! The task between the signaling client and the state of the links.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ifmesh_signaling::{AgentInfo, Client, ErrorCode, Event, RelayFrame, RelayTerms};
use ifmesh_transport::{Clock, DownReason, LinkNotice, PeerTrust, SharedRandom, awaited};
use ifmsg::{AgentId, PublicKey, Timestamp};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until},
};

use crate::{
    config::RelayConfig,
    hello,
    state::{Outgoing, State},
    wire::Body,
};

/// Between two looks at what is due.
const LEAST_TICK: Duration = Duration::from_millis(20);

/// What the transport and its hub share.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// There is something to send.
    pub(crate) work: Notify,
    /// There is something to read, or room to take more in.
    pub(crate) news: Notify,
    pub(crate) read: Notify,
}

impl Shared {
    pub(crate) fn new(state: State) -> Self {
        Self {
            state: Mutex::new(state),
            work: Notify::new(),
            news: Notify::new(),
            read: Notify::new(),
        }
    }

    /// Held for moments, never across an await; no user code and no cryptography under it.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(crate) struct Hub {
    pub(crate) client: Client,
    pub(crate) config: RelayConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: SharedRandom,
    pub(crate) shared: Arc<Shared>,
    pub(crate) closing: watch::Receiver<bool>,
    /// The server that this agent is registered with.
    pub(crate) server: String,
}

impl Hub {
    /// Serves until `closing`, then lets everything get out, and tells how many frames did not.
    pub(crate) async fn run(
        mut self,
        agents: Vec<AgentInfo>,
        terms: Option<RelayTerms>,
        done: watch::Sender<Option<u64>>,
    ) {
        self.on_registered(agents, terms);
        let sender = self.client.relay_sender();
        let signals = self.client.sender();
        let shared = Arc::clone(&self.shared);
        let mut closing = self.closing.clone();
        let mut close_by: Option<Instant> = None;
        let mut not_before = Instant::now();
        let mut signaling = true;
        loop {
            let (has_work, has_room, deadline, is_drained) = {
                let state = shared.state();
                (
                    state.has_work(),
                    state.has_room(),
                    state.deadline(),
                    state.is_drained(),
                )
            };
            if close_by.is_some() && (is_drained || !signaling) {
                break;
            }
            // What is due may have to wait for the socket, or for `recv`; asking again at once would change nothing.
            let timer = deadline.map_or(not_before, |deadline| deadline.max(not_before));
            // Not biased: neither what comes nor what goes may hold up the other.
            tokio::select! {
                _ = awaited(&mut closing, |closing| closing), if close_by.is_none() => {
                    shared.state().close();
                    close_by = Some(Instant::now() + self.config.limits.close_timeout);
                }
                () = sleep_until(close_by.unwrap_or(timer)), if close_by.is_some() => break,
                event = self.client.recv(), if signaling && has_room => match event {
                    Some(event) => self.on_event(event),
                    None => signaling = false,
                },
                permit = sender.reserve(), if signaling && has_work => match permit {
                    Some(permit) => {
                        let next = shared.state().next(Instant::now());
                        if let Some(next) = next {
                            permit.send(self.encode(next));
                        }
                    }
                    None => signaling = false,
                },
                () = shared.work.notified() => {}
                () = shared.read.notified(), if !has_room => {}
                () = sleep_until(timer), if deadline.is_some() => {
                    let at = self.now();
                    not_before = at.0 + LEAST_TICK;
                    if shared.state().tick(&mut self.random, at) {
                        signals.doubt();
                    }
                    shared.news.notify_one();
                }
            }
        }
        let unsent = shared.state().finish();
        shared.news.notify_waiters();
        shared.news.notify_one();
        self.client.close().await;
        done.send_replace(Some(unsent));
    }

    fn on_event(&mut self, event: Event) {
        let at = self.now();
        let shared = Arc::clone(&self.shared);
        match event {
            Event::Registered {
                url, agents, relay, ..
            } => {
                tracing::info!(url, agents = agents.len(), "relay connected");
                self.server = url;
                self.on_registered(agents, relay);
            }
            Event::Joined(agent) => {
                let is_trusted = self.trusts(&agent.agent_id);
                shared.state().on_present(agent, is_trusted, &mut self.random, at);
            }
            Event::Left(id) => shared.state().on_absent(&id, DownReason::Network, at),
            Event::Relayed(frame) => self.on_relayed(frame),
            Event::ServerError {
                code: Some(ErrorCode::AgentNotFound),
                agent_id: Some(id),
                ..
            } => shared.state().on_absent(&id, DownReason::Network, at),
            Event::ServerError {
                code: Some(ErrorCode::RelayOverflow),
                agent_id: Some(id),
                ..
            } => shared.state().on_overflow(&id, &mut self.random, at),
            Event::ServerError { code, message, .. } => {
                tracing::warn!(?code, message, "the signaling server refused a frame");
            }
            Event::Disconnected { reason, retry_in } => {
                tracing::warn!(%reason, ?retry_in, "relay disconnected");
                shared.state().on_disconnected(at);
                let server = std::mem::take(&mut self.server);
                if !server.is_empty() {
                    self.notice(&LinkNotice::SignalingLost {
                        server,
                        reason: reason.to_string(),
                    });
                }
            }
            Event::Refused(refusal) => {
                tracing::error!(%refusal, "relay refused for good");
                let mut state = shared.state();
                state.on_disconnected(at);
                state.refused(None, "relay-refused", refusal.to_string());
            }
            _ => {}
        }
        shared.news.notify_one();
    }

    fn on_registered(&mut self, agents: Vec<AgentInfo>, terms: Option<RelayTerms>) {
        let trusted: BTreeSet<AgentId> = agents
            .iter()
            .map(|agent| &agent.agent_id)
            .filter(|id| self.trusts(id))
            .cloned()
            .collect();
        let at = self.now();
        self.shared
            .state()
            .on_registered(agents, terms, &trusted, &mut self.random, at);
        self.notice(&LinkNotice::SignalingConnected {
            server: self.server.clone(),
        });
    }

    fn on_relayed(&mut self, frame: RelayFrame) {
        let RelayFrame { agent, body } = frame;
        let at = self.now();
        let shared = Arc::clone(&self.shared);
        match Body::decode(body) {
            Some(Body::Linked(tag, linked)) => {
                shared
                    .state()
                    .on_linked(&agent, tag, linked, &mut self.random, at);
            }
            Some(Body::Hello(bytes)) => {
                let trust = self.config.keys.trust(&agent);
                if trust == PeerTrust::Refuse {
                    let detail = "its hello was not looked at".to_owned();
                    return shared.state().refused(Some(&agent), "untrusted-peer", detail);
                }
                let claimed = shared.state().hello_from(&agent, at);
                let Some(claimed) = claimed else {
                    return;
                };
                let Some(key) = key(trust, claimed) else {
                    let detail = "the server names no key of it".to_owned();
                    return shared.state().refused(Some(&agent), "untrusted-peer", detail);
                };
                match hello::read(&bytes, &key, &agent, &self.config.agent) {
                    Ok(hello) => shared.state().on_hello(&agent, hello, &mut self.random, at),
                    Err(error) => shared
                        .state()
                        .refused(Some(&agent), error.name(), error.to_string()),
                }
            }
            None => shared.state().on_garbage(&agent),
        }
    }

    fn encode(&self, outgoing: Outgoing) -> bytes::Bytes {
        let (to, body) = match outgoing {
            Outgoing::Linked(to, tag, linked) => (to, Body::Linked(tag, linked)),
            Outgoing::Hello(to, mut hello) => {
                hello.epoch = self.config.epoch;
                let bytes = hello::write(&self.config.identity, &self.config.agent, &to, &hello);
                (to, Body::Hello(bytes))
            }
        };
        body.encode(&to)
    }

    fn trusts(&self, peer: &AgentId) -> bool {
        self.config.keys.trust(peer) != PeerTrust::Refuse
    }

    fn notice(&self, notice: &LinkNotice) {
        if let Some(observer) = &self.config.observer {
            observer.on_notice("relay", notice);
        }
    }

    fn now(&self) -> (Instant, Timestamp) {
        (Instant::now(), self.clock.now())
    }
}

fn key(trust: PeerTrust, claimed: Option<PublicKey>) -> Option<PublicKey> {
    match trust {
        PeerTrust::Key(key) => Some(key),
        PeerTrust::AcceptClaimed => claimed,
        PeerTrust::Refuse => None,
    }
}
