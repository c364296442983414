use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use futures::future::join_all;
use ifmesh_transport::{
    Capabilities, Clock, CloseError, Closed, Ending, Envelope, Events, IfTransport, Lane, LinkStatus,
    SendError, SharedRandom, TransportEvent, Unread,
};
use ifmsg::{AgentId, Destination};
use rand_core::{CryptoRng, Rng as _};
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{
    board::{Board, count},
    config::{DdsAgent, DdsConfig},
    engine::{self, Engine},
    error::StartError,
    hub::{Hub, ToBus},
    link::Common,
    statement::VERSION,
    wire::Presence,
};

/// Links to every trusted agent on a DDS domain.
///
/// A link is up when a signed hello came back into this agent's own inbox, and down when the peer's signed heartbeats end:
/// what DDS itself says of endpoints (discovered, matched, acknowledged, alive) counts for nothing. A link that ends is set
/// up again for as long as the peer is there.
///
/// Ends with [`close`](IfTransport::close), or when dropped: then without flushing. The library's threads end with it, in
/// the background when dropped.
pub struct DdsTransport {
    agent: AgentId,
    name: Arc<str>,
    max_frame: usize,
    max_sample: usize,
    board: Arc<Board>,
    events: Unread,
    bus: mpsc::Sender<ToBus>,
    ending: Ending,
    hub: JoinHandle<()>,
}

/// What happened since the transport was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct DdsMetrics {
    /// DDS participants that were found on the domain, of whatever kind.
    pub participants: u64,
    /// Links that came up.
    pub links_up: u64,
    /// Statements, samples and peers that were refused; each kind is an event as well now and then.
    pub refused: u64,
    /// Samples from endpoints that no trusted agent has named as its own.
    pub stray_samples: u64,
    /// Samples that could not be read.
    pub unread: u64,
    /// Best-effort broadcasts that were dropped, and reliable ones that did not go on record: there was no room for them here or in
    /// the library, they were more than [`DdsLimits::kept_bytes`](crate::DdsLimits::kept_bytes) allows, or longer than a sample.
    pub bus_dropped: u64,
}

impl DdsTransport {
    /// Joins the domain and begins to link with everybody there who is trusted. `clock` dates what `links` says; `random`
    /// makes the ids of this life and of links.
    ///
    /// Returns once the participant is made, which takes up to a second; links come up later. Must be called within a tokio
    /// runtime with time. Cancel safe: a dropped call leaves nothing behind, once the library is ready to be closed.
    pub async fn start(
        config: DdsConfig,
        agent: DdsAgent,
        clock: Arc<dyn Clock>,
        random: Box<dyn CryptoRng + Send>,
    ) -> Result<Arc<Self>, StartError> {
        config.check()?;
        let mut random = SharedRandom::new(random);
        let mut life = [0; 8];
        random.fill_bytes(&mut life);
        let life = u64::from_be_bytes(life);

        let (engine, inputs) = Engine::open(&config, &agent.agent, life).await?;
        let DdsAgent {
            agent,
            identity,
            epoch,
            keys,
        } = agent;
        let name: Arc<str> = agent.as_str().into();
        let mut presence = Presence {
            agent: agent.to_string(),
            version: VERSION.to_owned(),
            public_key: *identity.public_key().as_bytes(),
            epoch,
            life,
            participant: config.participant.clone().unwrap_or_else(|| agent.to_string()),
            capabilities: "reliable,best-effort,broadcast".to_owned(),
            max_frame: u32::try_from(config.limits.max_frame).unwrap_or(u32::MAX),
            signature: [0; 64],
        };
        presence.sign(&identity);

        let board = Arc::<Board>::default();
        let (events, unread) = Events::new(config.limits.event_bytes);
        let common = Common {
            agent: agent.clone(),
            name: Arc::clone(&name),
            identity,
            limits: config.limits,
            max_sample: config.max_sample(),
            events,
            board: Arc::clone(&board),
        };
        let (ending, closing, finished) = Ending::new();
        let (bus, to_bus) = mpsc::channel(BUS_QUEUE);
        let (max_frame, max_sample) = (common.limits.max_frame, common.max_sample);
        let hub = Hub::new(Arc::new(common), config, keys, clock, random, presence);
        Ok(Arc::new(Self {
            agent,
            name,
            max_frame,
            max_sample,
            board,
            events: unread,
            bus,
            ending,
            hub: tokio::spawn(hub.run(engine, inputs, to_bus, closing, finished)),
        }))
    }

    /// This agent's name.
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// What happened so far.
    pub fn metrics(&self) -> DdsMetrics {
        let counters = &self.board.counters;
        DdsMetrics {
            participants: counters.participants.load(Ordering::Relaxed),
            links_up: counters.links_up.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            stray_samples: counters.stray_samples.load(Ordering::Relaxed),
            unread: counters.unread.load(Ordering::Relaxed),
            bus_dropped: counters.bus_dropped.load(Ordering::Relaxed),
        }
    }

    fn frame_for_all(&self, envelope: &Envelope) -> crate::wire::Frame {
        engine::frame(&self.name, &"*".into(), envelope.frame.clone())
    }

    /// To each linked peer's inbox: all of them have room before one gets it. A peer whose link ends meanwhile gets nothing.
    async fn send_to_all(&self, envelope: Envelope) {
        let outbounds = self.board.outbounds();
        let len = envelope.frame.len();
        let rooms = join_all(outbounds.iter().map(|outbound| outbound.reserve(len))).await;
        for (outbound, room) in outbounds.iter().zip(rooms) {
            if let Some(room) = room {
                outbound.accept(envelope.frame.clone(), room);
            }
        }
        if len <= self.max_sample {
            self.offer_to_bus(ToBus::Record(self.frame_for_all(&envelope)));
        } else {
            count(&self.board.counters.bus_dropped);
        }
    }

    fn offer_to_bus(&self, sample: ToBus) {
        if self.bus.try_send(sample).is_err() {
            count(&self.board.counters.bus_dropped);
        }
    }

    /// One sample for all; in parts, one for each.
    fn send_loosely_to_all(&self, envelope: &Envelope) {
        let fits = envelope.frame.len() <= self.max_sample && !ifmesh_transport::is_chunk(&envelope.frame);
        if fits {
            self.offer_to_bus(ToBus::Broadcast(self.frame_for_all(envelope)));
            return;
        }
        for outbound in self.board.outbounds() {
            outbound.accept_loose(envelope.frame.clone());
        }
    }
}

/// Broadcasts on their way to the bus.
const BUS_QUEUE: usize = 256;

#[async_trait]
impl IfTransport for DdsTransport {
    fn name(&self) -> &str {
        "dds"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            max_frame: self.max_frame,
            ordered: true,
            // Among those who may write to an inbox are strangers: they can make the library's cache overflow.
            reliable: false,
            broadcast: true,
        }
    }

    async fn send(&self, envelope: Envelope) -> Result<(), SendError> {
        let (size, limit) = (envelope.frame.len(), self.max_frame);
        if self.board.is_closing() {
            return Err(SendError::Closed);
        }
        if envelope.lane == Lane::BestEffort {
            // Never waits for the link, but a loop that only sends must let others run now and then.
            tokio::task::consume_budget().await;
        }
        let Destination::Agent(peer) = &envelope.to else {
            if size > limit {
                return Err(SendError::TooLarge { size, limit });
            }
            match envelope.lane {
                Lane::Reliable => self.send_to_all(envelope).await,
                Lane::BestEffort => self.send_loosely_to_all(&envelope),
            }
            return if self.board.is_closing() {
                Err(SendError::Closed)
            } else {
                Ok(())
            };
        };
        let outbound = self.board.outbound(peer)?;
        let limit = outbound.limit();
        if size > limit {
            return Err(SendError::TooLarge { size, limit });
        }
        let accepted = match envelope.lane {
            Lane::Reliable => match outbound.reserve(size).await {
                Some(room) => outbound.accept(envelope.frame.clone(), room),
                None => false,
            },
            Lane::BestEffort => outbound.accept_loose(envelope.frame.clone()),
        };
        if accepted {
            Ok(())
        } else if self.board.is_closing() {
            Err(SendError::Closed)
        } else {
            Err(SendError::NoLink(peer.clone()))
        }
    }

    async fn recv(&self) -> Result<TransportEvent, Closed> {
        self.events.recv().await
    }

    fn links(&self) -> Vec<LinkStatus> {
        self.board.links()
    }

    async fn close(&self) -> Result<(), CloseError> {
        self.board.close();
        self.ending.close().await
    }
}

impl Drop for DdsTransport {
    fn drop(&mut self) {
        // Takes the tasks of all links along, and the participant.
        self.hub.abort();
    }
}

impl fmt::Debug for DdsTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DdsTransport")
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}
