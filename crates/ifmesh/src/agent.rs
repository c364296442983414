//! An agent: identity, trust, state, transport and session in one hand.

use std::{path::Path, sync::Arc, time::Duration};

use ifmesh_transport::{
    Clock, IfTransport, LinkObserver, Observer, PeerKeys, PeerStatus, Receipt, Relays, Router, RouterError,
    Session, SessionConfig, SessionMetrics, SubmitError, SystemClock, Taken,
};
use ifmsg::{AgentId, Destination, Draft, InvalidId, Performative, VerifiedMessage};

use crate::{
    BackendContext, BackendError, Backends, Config, ConfigError, StateError, TransportTable, Witness,
    backends::Keys, pins::PinKeeper, state::State, witness::Observers,
};

/// An agent that is running. Ends when it is [closed](Self::close) or dropped.
///
/// ```no_run
/// use ifmesh::{Agent, Performative};
/// use serde_json::json;
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let agent = Agent::from_file("agent.toml").await?;
/// agent.send("agent-legal", Performative::Inform, json!({ "claim": "settled" })).await?.acknowledged().await?;
/// while let Some(message) = agent.recv().await {
///     println!("{}: {}", message.source(), message.payload());
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Agent {
    id: AgentId,
    session: Session,
    linger: Duration,
    witness: Option<Arc<Witness>>,
    router: Option<Arc<Router>>,
}

/// Why an agent did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The configuration is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The witness log cannot be written.
    #[error("witness: {0}")]
    Witness(#[from] ifmesh_witness::LogError),
    /// What the witness keeps of its peers cannot be read.
    #[error("witness: {0}")]
    Circle(#[from] ifmesh_witness::CircleError),
    /// A transport did not come up.
    #[error("[transport.{road}]: {error}")]
    Transport {
        /// The name of its table.
        road: String,
        /// Why.
        error: BackendError,
    },
    /// The router refuses its rules.
    #[error("router: {0}")]
    Router(#[from] RouterError),
}

impl StartError {
    pub(crate) fn road(table: &TransportTable, error: BackendError) -> Self {
        Self::Transport {
            road: table.name.to_string(),
            error,
        }
    }
}

/// An agent before it starts.
#[derive(Debug)]
pub struct AgentBuilder {
    config: Config,
    backends: Backends,
    observer: Option<Arc<dyn Observer>>,
}

/// Why a message was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AgentSendError {
    /// The destination is no agent id and not `*`.
    #[error("the destination is {0}")]
    Destination(#[from] InvalidId),
    /// The session refused it.
    #[error(transparent)]
    Submit(#[from] SubmitError),
}

impl AgentBuilder {
    /// With these backends instead of the built-in ones.
    #[must_use]
    pub fn backends(mut self, backends: Backends) -> Self {
        self.backends = backends;
        self
    }

    /// With somebody to watch it.
    #[must_use]
    pub fn observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = Some(observer);
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// What is wrong with the configuration, or what could not be reached.
    pub async fn start(self) -> Result<Agent, StartError> {
        Agent::start_with(self.config, self.backends, self.observer).await
    }
}

impl Agent {
    /// Starts the agent of a file; see `agent.example.toml`.
    pub async fn from_file(path: impl AsRef<Path>) -> Result<Self, StartError> {
        Self::start(Config::from_file(path)?, None).await
    }

    /// An agent that is to be told more than its file says.
    pub fn builder(config: Config) -> AgentBuilder {
        AgentBuilder {
            config,
            backends: Backends::default(),
            observer: None,
        }
    }

    /// Starts an agent, with somebody to watch it.
    pub async fn start(config: Config, observer: Option<Arc<dyn Observer>>) -> Result<Self, StartError> {
        let mut builder = Self::builder(config);
        builder.observer = observer;
        builder.start().await
    }

    async fn start_with(
        config: Config,
        backends: Backends,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<Self, StartError> {
        backends.check(&config.transports)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let state = State::open(&config.state, clock.now())?;
        let (epoch, marks) = (state.epoch, state.marks.clone());
        let (pins, trust) = PinKeeper::open(&config.state, &config.trust)?;
        let mut observers: Vec<Arc<dyn Observer>> = vec![Arc::new(pins)];
        let (mut witness, mut keepalive) = (None, None);
        let is_routed = config.transports.len() > 1 || config.relays.is_some();
        if let Some(wanted) = &config.witness {
            let (agent, identity) = (&config.agent, &config.identity);
            // With a router no road is named where none is known.
            let below = if is_routed {
                "router"
            } else {
                &config.transports[0].name
            };
            let (opened, recovered) = Witness::open(wanted, agent, identity, below, clock.clone()).await?;
            tracing::info!(?recovered, folder = %wanted.folder.display(), "the witness log is open");
            let opened = Arc::new(opened);
            keepalive = Some(opened.keepalive(agent, identity, &trust)?);
            observers.push(opened.clone());
            witness = Some(opened);
        }
        observers.extend(observer);
        let journal = state.into_journal()?;
        let keys = Keys::new(trust.clone());
        let context = |table: &TransportTable| BackendContext {
            road: table.name.clone(),
            agent: config.agent.clone(),
            identity: config.identity.clone(),
            epoch,
            keys: keys.clone() as Arc<dyn PeerKeys>,
            observer: witness.clone().map(|witness| witness as Arc<dyn LinkObserver>),
            clock: clock.clone(),
        };
        let mut roads = backends.start(&config.transports, context).await?;
        let mut routing = config.router.clone();
        routing.relays = config.relays.clone().map(|wish| Relays {
            agent: config.agent.clone(),
            through: wish.through,
            for_others: wish.for_others,
            max_hops: wish.max_hops,
            keys: keys.clone() as Arc<dyn PeerKeys>,
        });
        let only = if is_routed { None } else { roads.pop() };
        // A single transport has nothing to route.
        let (transport, router) = match only {
            Some(road) => (road.transport, None),
            None => {
                let router = Router::start(roads, routing, crate::random())?;
                (router.clone() as Arc<dyn IfTransport>, Some(router))
            }
        };
        let mut session = SessionConfig::new(config.agent.clone(), config.identity, trust, epoch);
        session.limits = config.limits;
        session.marks = marks;
        session.keepalive = keepalive;
        session.journal = Some(Box::new(journal));
        session.observer = Some(Arc::new(Observers(observers)));
        let session = Session::start(transport, session, clock, crate::random());
        keys.follow(&session);
        Ok(Self {
            id: config.agent,
            session,
            linger: config.linger,
            witness,
            router,
        })
    }

    /// Sends a reliable message with this payload, a JSON object. Waits while the peer's window is full.
    pub async fn send(
        &self,
        to: &str,
        performative: Performative,
        payload: serde_json::Value,
    ) -> Result<Receipt, AgentSendError> {
        let draft = Draft::new(Destination::new(to)?, payload).performative(performative);
        Ok(self.session.send(draft).await?)
    }

    /// Sends a message with everything that a [`Draft`] can say.
    pub async fn submit(&self, draft: Draft) -> Result<Receipt, SubmitError> {
        self.session.send(draft).await
    }

    /// Sends a message and waits for its answer. Put a `timeout` around it.
    pub async fn request(
        &self,
        to: &str,
        performative: Performative,
        payload: serde_json::Value,
    ) -> Result<VerifiedMessage, AgentSendError> {
        let draft = Draft::new(Destination::new(to)?, payload).performative(performative);
        Ok(self.session.request(draft).await?)
    }

    /// Answers a message: to its source, in its conversation and trace.
    pub async fn reply(
        &self,
        to: &VerifiedMessage,
        performative: Performative,
        payload: serde_json::Value,
    ) -> Result<Receipt, SubmitError> {
        let header = to.header();
        let mut draft = Draft::new(header.source.clone().into(), payload)
            .performative(performative)
            .in_reply_to(header.id.clone());
        if let Some(conversation) = &header.conversation_id {
            draft = draft.conversation(conversation.clone());
        }
        if let Some(trace) = header.trace_id {
            draft = draft.trace(trace);
        }
        self.session.send(draft).await
    }

    /// The next message; `None` once the agent is closed. A message that is returned here is acknowledged to its sender.
    pub async fn recv(&self) -> Option<VerifiedMessage> {
        self.session.recv().await
    }

    /// The next message, acknowledged only when it is [committed](Taken::commit).
    pub async fn next(&self) -> Option<Taken> {
        self.session.next().await
    }

    /// Waits until the peers are as wanted; `None` if the agent is closed first.
    pub async fn peers_until(&self, wanted: impl FnMut(&[PeerStatus]) -> bool) -> Option<Vec<PeerStatus>> {
        self.session.peers_until(wanted).await
    }

    /// The agent's name.
    pub fn id(&self) -> &AgentId {
        &self.id
    }

    /// Every known peer.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.session.peers()
    }

    /// Counters.
    pub fn metrics(&self) -> SessionMetrics {
        self.session.metrics()
    }

    /// The session below.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Ends the agent: messages that are on their way get the configured time to be acknowledged.
    pub async fn close(&self) {
        self.session.close(self.linger).await;
        if let Some(witness) = &self.witness
            && let Err(error) = witness.clone().close().await
        {
            tracing::error!(%error, "the witness log was not closed in good order");
        }
    }

    /// Its router, if it has more than one transport.
    pub fn router(&self) -> Option<&Arc<Router>> {
        self.router.as_ref()
    }

    /// Its witness, if it has one.
    pub fn witness(&self) -> Option<&Arc<Witness>> {
        self.witness.as_ref()
    }
}
