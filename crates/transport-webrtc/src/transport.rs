use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use ifmesh_signaling::{Client, ClientConfig, Event};
use ifmesh_transport::{
    Capabilities, Clock, CloseError, Closed, Ending, Envelope, Events, IfTransport, Lane, LinkNotice,
    LinkStatus, SendError, SharedRandom, TransportEvent, Unread, is_upkeep,
};
use ifmsg::{AgentId, Destination};
use rand_core::CryptoRng;
use tokio::{sync::Semaphore, task::JoinHandle, time::timeout};

use crate::{
    board::{Board, Outbound, Wish},
    config::{MAX_FRAME, WebRtcConfig},
    error::StartError,
    hub::Hub,
    notices::Notices,
    peer::Common,
};

/// Links to every trusted agent that a signaling server knows, over WebRTC data channels.
///
/// A link is up when the peer has proved its key *on the data channel itself*; a signaling server that changes what it
/// carries gets no link. Established links do not need the server; without it no new ones come. A link that ends is set up
/// again for as long as the server says that the peer is there.
///
/// Ends with [`close`](IfTransport::close), or when dropped: then without flushing.
pub struct WebRtcTransport {
    agent: AgentId,
    on_demand: bool,
    link_patience: Duration,
    board: Arc<Board>,
    events: Unread,
    ending: Ending,
    hub: JoinHandle<()>,
}

/// What happened since the transport was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WebRtcMetrics {
    /// Offers that went to the signaling server.
    pub offers_sent: u64,
    /// Answers that did.
    pub answers_sent: u64,
    /// Links that fell silent and for which this side looked for another path.
    pub restarts: u64,
    /// Links that came up.
    pub links_up: u64,
    /// Descriptions, hellos and peers that were refused; each is an event as well, as far as there is room for it.
    pub refused: u64,
    /// Signals that were of no use or too many.
    pub signals_dropped: u64,
}

impl WebRtcTransport {
    /// Registers at a signaling server and begins to link with everybody there. `clock` dates what is signed; `random` makes
    /// session ids and spreads retries over time.
    ///
    /// Returns after the first registration; links come up later. Must be called within a tokio runtime with time and I/O.
    /// Cancel safe: a dropped call leaves nothing behind.
    pub async fn start(
        config: WebRtcConfig,
        clock: Arc<dyn Clock>,
        random: Box<dyn CryptoRng + Send>,
    ) -> Result<Arc<Self>, StartError> {
        if config.bind.is_empty() {
            return Err(StartError::NoAddress);
        }
        let random = SharedRandom::new(random);
        let mut signaling = ClientConfig::new(
            &config.signaling,
            config.agent.clone(),
            config.identity.clone(),
            config.epoch,
        );
        signaling.server_id = config.server_id.clone();
        signaling.tls = config.tls.clone();
        signaling.limits.return_interval = config.limits.return_interval;
        let mut client = Client::connect(signaling, random.clone())?;

        let mut last = None;
        let registered = async {
            loop {
                match client.recv().await {
                    Some(Event::Registered { agents, url, .. }) => break Ok((agents, url)),
                    Some(Event::Disconnected { reason, .. }) => last = Some(reason),
                    Some(Event::Refused(refusal)) => break Err(StartError::Refused(refusal)),
                    Some(_) => {}
                    None => break Err(StartError::Unreachable { last: None }),
                }
            }
        };
        let registered = timeout(config.limits.start_timeout, registered).await;
        let (agents, server) = registered.unwrap_or(Err(StartError::Unreachable { last }))?;

        let notices = Notices(config.observer.clone());
        notices.tell(|| LinkNotice::SignalingConnected { server });
        let (board, wishes) = Board::new(Arc::clone(&clock));
        let (events, unread) = Events::new(config.limits.event_bytes);
        let agent = config.agent.clone();
        let limits = config.limits;
        let on_demand = config.mesh.is_on_demand();
        let setups = || Arc::new(Semaphore::new(limits.max_setups.clamp(1, Semaphore::MAX_PERMITS)));
        let common = Common {
            engine: config.engine(),
            config,
            notices,
            ice: client.ice_servers(),
            offers: setups(),
            answers: setups(),
            clock,
            random,
            signals: client.sender(),
            events,
            board: Arc::clone(&board),
        };
        let (ending, closing, finished) = Ending::new();
        let hub = Hub::new(client, Arc::new(common), wishes, closing);
        Ok(Arc::new(Self {
            agent,
            on_demand,
            link_patience: limits.handshake_timeout,
            board,
            events: unread,
            ending,
            hub: tokio::spawn(hub.run(agents, finished)),
        }))
    }

    /// This agent's name.
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// What happened so far.
    pub fn metrics(&self) -> WebRtcMetrics {
        let counters = &self.board.counters;
        WebRtcMetrics {
            offers_sent: counters.offers_sent.load(Ordering::Relaxed),
            answers_sent: counters.answers_sent.load(Ordering::Relaxed),
            restarts: counters.restarts.load(Ordering::Relaxed),
            links_up: counters.links_up.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            signals_dropped: counters.signals_dropped.load(Ordering::Relaxed),
        }
    }
}

impl WebRtcTransport {
    /// The link to a peer. On demand, and on the lane that waits, also one that is made for this.
    async fn link(&self, peer: &AgentId, lane: Lane) -> Result<Arc<Outbound>, SendError> {
        let found = self.board.outbound(peer);
        if !self.on_demand || !matches!(found, Err(SendError::NoLink(_))) {
            return found;
        }
        let mut changes = self.board.changes();
        self.wake(peer);
        if lane == Lane::BestEffort {
            return found;
        }
        let linked = async {
            loop {
                changes.borrow_and_update();
                match self.board.outbound(peer) {
                    Err(SendError::NoLink(_)) if self.board.is_dormant(peer) => {}
                    decided => return decided,
                }
                if changes.changed().await.is_err() {
                    return Err(SendError::Closed);
                }
            }
        };
        timeout(self.link_patience, linked).await.unwrap_or(found)
    }
}

#[async_trait]
impl IfTransport for WebRtcTransport {
    fn name(&self) -> &str {
        "webrtc"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            max_frame: MAX_FRAME,
            ordered: true,
            reliable: true,
            broadcast: false,
        }
    }

    async fn send(&self, envelope: Envelope) -> Result<(), SendError> {
        let Destination::Agent(peer) = envelope.to else {
            return Err(if self.board.is_closing() {
                SendError::Closed
            } else {
                SendError::NoBroadcast
            });
        };
        let upkeep = self.on_demand && is_upkeep(&envelope.frame);
        // Upkeep of a link is no reason to make one.
        let outbound = match upkeep {
            true => self.board.outbound(&peer)?,
            false => self.link(&peer, envelope.lane).await?,
        };
        if !upkeep {
            self.board.used(&outbound);
        }
        let (size, limit) = (envelope.frame.len(), outbound.limit());
        if size > limit {
            return Err(SendError::TooLarge { size, limit });
        }
        let accepted = match envelope.lane {
            Lane::Reliable => outbound.send(envelope.frame).await,
            Lane::BestEffort => {
                // Never waits for the link, but a loop that only sends must let others run now and then.
                tokio::task::consume_budget().await;
                outbound.send_loose(envelope.frame)
            }
        };
        if accepted {
            Ok(())
        } else if self.board.is_closing() {
            Err(SendError::Closed)
        } else {
            Err(SendError::NoLink(peer))
        }
    }

    async fn recv(&self) -> Result<TransportEvent, Closed> {
        self.events.recv().await
    }

    fn wake(&self, peer: &AgentId) {
        if self.on_demand && self.board.outbound(peer).is_err() {
            self.board.wish(Wish::Wake(peer.clone()));
        }
    }

    fn links(&self) -> Vec<LinkStatus> {
        self.board.links()
    }

    async fn close(&self) -> Result<(), CloseError> {
        self.board.close();
        self.ending.close().await
    }
}

impl Drop for WebRtcTransport {
    fn drop(&mut self) {
        // Takes the tasks of all peers along.
        self.hub.abort();
    }
}

impl fmt::Debug for WebRtcTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebRtcTransport")
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}
