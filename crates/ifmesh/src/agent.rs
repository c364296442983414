//! An agent: identity, trust, state, transport and session in one hand.

use std::{path::Path, sync::Arc, time::Duration};

use ifmesh_transport::{
    Clock, IfTransport, Observer, PeerStatus, Receipt, Session, SessionConfig, SessionMetrics, SubmitError,
    SystemClock, Taken,
};
use ifmsg::{AgentId, Destination, Draft, InvalidId, Performative, VerifiedMessage};

use crate::{Config, ConfigError, StateError, Witness, pins::PinKeeper, state::State, witness::Observers};

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
    /// The transport did not come up.
    #[error("webrtc: {0}")]
    WebRtc(#[from] ifmesh_transport_webrtc::StartError),
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

impl Agent {
    /// Starts the agent of a file; see `agent.example.toml`.
    pub async fn from_file(path: impl AsRef<Path>) -> Result<Self, StartError> {
        Self::start(Config::from_file(path)?, None).await
    }

    /// Starts an agent, with somebody to watch it.
    pub async fn start(config: Config, observer: Option<Arc<dyn Observer>>) -> Result<Self, StartError> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let state = State::open(&config.state, clock.now())?;
        let (epoch, marks) = (state.epoch, state.marks.clone());
        let (pins, trust) = PinKeeper::open(&config.state, &config.trust)?;
        let mut observers: Vec<Arc<dyn Observer>> = vec![Arc::new(pins)];
        let (mut witness, mut keepalive) = (None, None);
        if let Some(wanted) = &config.witness {
            let (agent, identity) = (&config.agent, &config.identity);
            let (opened, recovered) = Witness::open(wanted, agent, identity, "webrtc", clock.clone()).await?;
            tracing::info!(?recovered, folder = %wanted.folder.display(), "the witness log is open");
            let opened = Arc::new(opened);
            keepalive = Some(opened.keepalive(agent, identity, &trust)?);
            observers.push(opened.clone());
            witness = Some(opened);
        }
        observers.extend(observer);
        let journal = state.into_journal()?;
        let transport = crate::webrtc::start(&config, &trust, epoch, clock.clone()).await?;
        let transport: Arc<dyn IfTransport> = transport;
        let mut session = SessionConfig::new(config.agent.clone(), config.identity, trust, epoch);
        session.limits = config.limits;
        session.marks = marks;
        session.keepalive = keepalive;
        session.journal = Some(Box::new(journal));
        session.observer = Some(Arc::new(Observers(observers)));
        let session = Session::start(transport, session, clock, crate::random());
        Ok(Self {
            id: config.agent,
            session,
            linger: config.linger,
            witness,
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

    /// Its witness, if it has one.
    pub fn witness(&self) -> Option<&Arc<Witness>> {
        self.witness.as_ref()
    }
}
