use std::{fmt, sync::Arc};

use async_trait::async_trait;
use ifmesh_signaling::{Client, ClientConfig, Event, SocketRole};
use ifmesh_transport::{
    Capabilities, Clock, CloseError, Closed, Ending, Envelope, IfTransport, Lane, LinkStatus,
    MAX_CHUNKED_FRAME, SendError, SharedRandom, TransportEvent,
};
use ifmsg::{AgentId, Destination};
use rand_core::CryptoRng;
use tokio::{task::JoinHandle, time::timeout};

use crate::{
    config::RelayConfig,
    error::StartError,
    hub::{Hub, Shared},
    state::State,
};

/// Links to every trusted agent that relays at the same signaling server, over its WebSocket.
///
/// A link is up when the peer has proved its key end to end; the server can make none. Links end when the connection to the
/// server does, and come back by themselves at the same or the next server. Frames of up to 64 KiB pass longer ones.
///
/// Ends with [`close`](IfTransport::close), or when dropped: then without flushing.
pub struct RelayTransport {
    agent: AgentId,
    shared: Arc<Shared>,
    ending: Ending,
    hub: JoinHandle<()>,
}

/// What happened since the transport was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayMetrics {
    /// Links that came up.
    pub links_up: u64,
    /// Frames that were accepted.
    pub frames_sent: u64,
    /// Frames that came.
    pub frames_received: u64,
    /// Hellos, frames and peers that were refused; each is an event as well, as far as there is room for it.
    pub refused: u64,
    /// What came for links that are over, or from peers of which nothing is taken now.
    pub ignored: u64,
    /// What the server dropped because too much waited there.
    pub overflows: u64,
    /// Accepted frames of the reliable lane that were still here when their link went down.
    pub unsent: u64,
}

impl RelayTransport {
    /// Registers at a signaling server and begins to link with everybody there. `clock` dates the links; `random` makes nonces
    /// and spreads retries over time.
    ///
    /// Returns after the first registration; links come up later. Must be called within a tokio runtime with time and I/O.
    /// Cancel safe: a dropped call leaves nothing behind.
    pub async fn start(
        config: RelayConfig,
        clock: Arc<dyn Clock>,
        random: Box<dyn CryptoRng + Send>,
    ) -> Result<Arc<Self>, StartError> {
        let random = SharedRandom::new(random);
        let mut signaling = ClientConfig::new(
            &config.signaling,
            config.agent.clone(),
            config.identity.clone(),
            config.epoch,
        );
        signaling.role = SocketRole::Relay;
        signaling.tls = config.tls.clone();
        signaling.server_id = config.server_id.clone();
        signaling.limits.return_interval = config.limits.return_interval;
        let mut client = Client::connect(signaling, random.clone())?;

        let mut last = None;
        let registered = async {
            loop {
                match client.recv().await {
                    Some(Event::Registered {
                        url, agents, relay, ..
                    }) => break Ok((url, agents, relay)),
                    Some(Event::Disconnected { reason, .. }) => last = Some(reason),
                    Some(Event::Refused(refusal)) => break Err(StartError::Refused(refusal)),
                    Some(_) => {}
                    None => break Err(StartError::Unreachable { last: None }),
                }
            }
        };
        let registered = timeout(config.limits.start_timeout, registered).await;
        let (server, agents, terms) = registered.unwrap_or(Err(StartError::Unreachable { last }))?;

        let shared = Arc::new(Shared::new(State::new(config.agent.clone(), config.limits)));
        let (ending, closing, finished) = Ending::new();
        let agent = config.agent.clone();
        let hub = Hub {
            client,
            config,
            clock,
            random,
            shared: Arc::clone(&shared),
            closing,
            server,
        };
        Ok(Arc::new(Self {
            agent,
            shared,
            ending,
            hub: tokio::spawn(hub.run(agents, terms, finished)),
        }))
    }

    /// This agent's name.
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// What happened so far.
    pub fn metrics(&self) -> RelayMetrics {
        self.shared.state().metrics
    }
}

#[async_trait]
impl IfTransport for RelayTransport {
    fn name(&self) -> &str {
        "relay"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            max_frame: MAX_CHUNKED_FRAME,
            ordered: true,
            reliable: true,
            broadcast: false,
        }
    }

    async fn send(&self, envelope: Envelope) -> Result<(), SendError> {
        let (closing, gate) = {
            let state = self.shared.state();
            let gate = match &envelope.to {
                Destination::Agent(peer) => state.gate(peer),
                Destination::Everyone => None,
            };
            (state.closing, gate)
        };
        if closing {
            return Err(SendError::Closed);
        }
        let Destination::Agent(peer) = envelope.to else {
            return Err(SendError::NoBroadcast);
        };
        let Some((number, gate)) = gate else {
            return Err(SendError::NoLink(peer));
        };
        let size = envelope.frame.len();
        if size > gate.limit {
            let limit = gate.limit;
            return Err(SendError::TooLarge { size, limit });
        }
        let accepted = match envelope.lane {
            Lane::Reliable => match gate.room(&envelope.frame).await {
                Some(room) => {
                    let item = gate.pack(envelope.frame);
                    self.shared.state().push(&peer, number, item, room)
                }
                None => false,
            },
            Lane::BestEffort => {
                // Never waits for the link, but a loop that only sends must let others run now and then.
                tokio::task::consume_budget().await;
                let item = gate.pack(envelope.frame);
                self.shared.state().push_loose(&peer, number, item)
            }
        };
        if accepted {
            self.shared.work.notify_one();
            Ok(())
        } else if self.shared.state().closing {
            Err(SendError::Closed)
        } else {
            Err(SendError::NoLink(peer))
        }
    }

    async fn recv(&self) -> Result<TransportEvent, Closed> {
        loop {
            // A loop that only reads must let others run now and then.
            tokio::task::consume_budget().await;
            let news = self.shared.news.notified();
            let (event, finished, has_work) = {
                let mut state = self.shared.state();
                (state.read(), state.finished, state.has_work())
            };
            if let Some(event) = event {
                self.shared.read.notify_one();
                if has_work {
                    self.shared.work.notify_one();
                }
                return Ok(event);
            }
            if finished {
                return Err(Closed);
            }
            news.await;
        }
    }

    fn links(&self) -> Vec<LinkStatus> {
        self.shared.state().links()
    }

    async fn close(&self) -> Result<(), CloseError> {
        self.shared.state().close();
        self.ending.close().await
    }
}

impl Drop for RelayTransport {
    fn drop(&mut self) {
        self.hub.abort();
    }
}

impl fmt::Debug for RelayTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayTransport")
            .field("agent", &self.agent)
            .finish_non_exhaustive()
    }
}
