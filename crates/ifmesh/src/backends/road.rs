//! A road that could not be opened when the agent started.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use ifmesh_transport::{
    Capabilities, CloseError, Closed, Envelope, IfTransport, LinkStatus, SendError, TransportEvent,
};
use ifmsg::Destination;
use tokio::{sync::watch, task::JoinHandle};

use super::{Backend, BackendContext, BackendError};

/// How long between two tries, at first and at most.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Tries to start its transport until that works; until then it has no links.
///
/// What the transport will be able to do is not known before: until it is open, it claims what every transport can.
#[derive(Debug)]
pub(super) struct LateRoad {
    name: String,
    inner: Arc<OnceLock<Arc<dyn IfTransport>>>,
    state: watch::Sender<State>,
    trying: JoinHandle<()>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Trying,
    Open,
    Closed,
}

impl LateRoad {
    pub(super) fn start(
        backend: Arc<dyn Backend>,
        table: toml::Table,
        context: BackendContext,
    ) -> Arc<dyn IfTransport> {
        let inner: Arc<OnceLock<Arc<dyn IfTransport>>> = Arc::default();
        let (state, name) = (watch::channel(State::Trying).0, context.road.to_string());
        let trying = {
            let (inner, state) = (inner.clone(), state.clone());
            tokio::spawn(async move {
                let mut wait = WAIT.0;
                loop {
                    tokio::time::sleep(wait).await;
                    match backend.start(&table, context.clone()).await {
                        Ok(transport) => {
                            let _ = inner.set(transport);
                            return state.send_modify(|state| *state = State::Open);
                        }
                        Err(error @ BackendError::Unavailable(_)) => {
                            tracing::debug!(road = %context.road, %error, "still unreachable");
                        }
                        Err(error) => {
                            tracing::error!(road = %context.road, %error, "given up");
                            return state.send_modify(|state| *state = State::Closed);
                        }
                    }
                    wait = (wait * 2).min(WAIT.1);
                }
            })
        };
        Arc::new(Self {
            name,
            inner,
            state,
            trying,
        })
    }
}

#[async_trait]
impl IfTransport for LateRoad {
    fn name(&self) -> &str {
        self.inner.get().map_or(&self.name, |inner| inner.name())
    }

    fn capabilities(&self) -> Capabilities {
        let least = Capabilities {
            max_frame: 65_536,
            ordered: false,
            reliable: false,
            broadcast: false,
        };
        self.inner.get().map_or(least, |inner| inner.capabilities())
    }

    async fn send(&self, envelope: Envelope) -> Result<(), SendError> {
        match (self.inner.get(), &envelope.to) {
            (Some(inner), _) => inner.send(envelope).await,
            (None, Destination::Agent(peer)) => Err(SendError::NoLink(peer.clone())),
            (None, Destination::Everyone) => Err(SendError::NoBroadcast),
        }
    }

    async fn recv(&self) -> Result<TransportEvent, Closed> {
        let mut state = self.state.subscribe();
        let reached = state
            .wait_for(|state| *state != State::Trying)
            .await
            .map(|state| *state);
        match (reached, self.inner.get()) {
            (Ok(State::Open), Some(inner)) => inner.recv().await,
            _ => Err(Closed),
        }
    }

    fn links(&self) -> Vec<LinkStatus> {
        self.inner.get().map_or_else(Vec::new, |inner| inner.links())
    }

    async fn close(&self) -> Result<(), CloseError> {
        self.trying.abort();
        match self.inner.get() {
            Some(inner) => inner.close().await,
            None => {
                self.state.send_modify(|state| *state = State::Closed);
                Ok(())
            }
        }
    }
}

impl Drop for LateRoad {
    fn drop(&mut self) {
        self.trying.abort();
    }
}
