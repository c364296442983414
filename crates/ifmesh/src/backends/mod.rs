//! What carries messages: backends by name, those that are built in and those of others.

mod dds;
mod relay;
mod road;
mod signaling;
mod webrtc;

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, OnceLock},
};

use async_trait::async_trait;
use ifmesh_transport::{Clock, IfTransport, LinkObserver, PeerKeys, PeerTrust, Road, Session};
use ifmsg::{AgentId, Identity, TrustStore};

pub use dds::Dds;
pub use relay::{Relay, RelayLimitsSection, RelaySection};
pub use webrtc::{
    IceServerSection, IceTransportPolicy, MeshModeName, WebRtc, WebRtcLimitsSection, WebRtcSection,
};

use crate::{StartError, config::TransportTable};
use road::LateRoad;

/// What a backend is told about the agent it is to carry for.
#[derive(Clone)]
#[non_exhaustive]
pub struct BackendContext {
    /// The road's name: that of its table.
    pub road: Arc<str>,
    /// The agent.
    pub agent: AgentId,
    /// Its key, for backends that prove it to their peers.
    pub identity: Identity,
    /// The number of its run.
    pub epoch: u64,
    /// Whom it may link with.
    pub keys: Arc<dyn PeerKeys>,
    /// Is to be told what happens below the session.
    pub observer: Option<Arc<dyn LinkObserver>>,
    /// The time.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for BackendContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BackendContext")
            .field("road", &self.road)
            .field("agent", &self.agent)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// Why a backend did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// The table is wrong. Retrying cannot help.
    #[error("{0}")]
    Config(String),
    /// Something out there did not answer. An agent with another road goes on, and tries again.
    #[error("{0}")]
    Unavailable(String),
}

/// Makes transports of one kind out of their tables.
///
/// ```
/// use std::sync::Arc;
/// use async_trait::async_trait;
/// use ifmesh::{Backend, BackendContext, BackendError, Backends};
/// # use ifmesh_transport::IfTransport;
/// # async fn connect(_: &str) -> Result<Arc<dyn IfTransport>, std::io::Error> { unimplemented!() }
///
/// /// For tables with `kind = "pigeon"`.
/// #[derive(Debug)]
/// struct Pigeon;
///
/// #[async_trait]
/// impl Backend for Pigeon {
///     async fn start(&self, table: &toml::Table, _: BackendContext) -> Result<Arc<dyn IfTransport>, BackendError> {
///         let loft = table["loft"].as_str().ok_or_else(|| BackendError::Config("loft: a name is needed".into()))?;
///         connect(loft).await.map_err(|error| BackendError::Unavailable(error.to_string()))
///     }
/// }
///
/// let backends = Backends::default().with("pigeon", Pigeon);
/// ```
#[async_trait]
pub trait Backend: Send + Sync + fmt::Debug {
    /// Whether a table can work, without a network.
    ///
    /// # Errors
    /// What is wrong with it, for its author.
    fn check(&self, table: &toml::Table) -> Result<(), BackendError> {
        let _ = table;
        Ok(())
    }

    /// Starts a transport.
    ///
    /// # Errors
    /// That of [`check`](Self::check), or what is missing out there.
    async fn start(
        &self,
        table: &toml::Table,
        context: BackendContext,
    ) -> Result<Arc<dyn IfTransport>, BackendError>;
}

/// Backends by the `kind` of the tables they are for. By default `webrtc`, `dds` and `relay`.
#[derive(Debug, Clone)]
pub struct Backends(BTreeMap<String, Arc<dyn Backend>>);

impl Default for Backends {
    fn default() -> Self {
        Self(BTreeMap::new())
            .with("webrtc", WebRtc::default())
            .with("dds", Dds)
            .with("relay", Relay)
    }
}

impl Backends {
    /// With one more, or with another one under a name.
    #[must_use]
    pub fn with(mut self, kind: impl Into<String>, backend: impl Backend + 'static) -> Self {
        self.0.insert(kind.into(), Arc::new(backend));
        self
    }

    /// Whether each table is of a known kind, and can work.
    ///
    /// # Errors
    /// The first that does not.
    pub fn check(&self, tables: &[TransportTable]) -> Result<(), StartError> {
        tables.iter().try_for_each(|table| {
            let checked = self.find(table)?.check(&table.table);
            checked.map_err(|error| StartError::road(table, error))
        })
    }

    fn find(&self, table: &TransportTable) -> Result<&Arc<dyn Backend>, StartError> {
        self.0.get(&table.kind).ok_or_else(|| {
            let known: Vec<&str> = self.0.keys().map(String::as_str).collect();
            let near = crate::config::nearest(&table.kind, &known);
            let hint = near.map_or_else(String::new, |near| format!("; did you mean {near}?"));
            let text = format!(
                "no backend is named {:?}; there are {}{hint}",
                table.kind,
                known.join(", ")
            );
            StartError::road(table, BackendError::Config(text))
        })
    }

    /// Starts a transport for each table. One that is unreachable now is tried again and again, if there is another.
    pub(crate) async fn start(
        &self,
        tables: &[TransportTable],
        context: impl Fn(&TransportTable) -> BackendContext,
    ) -> Result<Vec<Road>, StartError> {
        self.check(tables)?;
        let starting = tables.iter().map(|table| {
            let context = context(table);
            async move {
                let backend = self.find(table)?;
                Ok::<_, StartError>((table, backend, backend.start(&table.table, context).await))
            }
        });
        let started = futures::future::join_all(starting).await;
        let started = started.into_iter().collect::<Result<Vec<_>, _>>()?;
        let any = started.iter().any(|(_, _, result)| result.is_ok());
        let mut roads = Vec::new();
        let mut failed = None;
        for (table, backend, result) in started {
            let transport = match result {
                Ok(transport) => transport,
                Err(BackendError::Unavailable(error)) if any => {
                    tracing::warn!(road = %table.name, error, "unreachable; trying again while other roads carry");
                    LateRoad::start(backend.clone(), table.table.clone(), context(table))
                }
                Err(error) => {
                    failed = failed.or(Some(StartError::road(table, error)));
                    continue;
                }
            };
            roads.push(Road::new(table.name.clone(), transport));
        }
        match failed {
            None => Ok(roads),
            Some(error) => {
                for road in roads {
                    // It has carried nothing yet.
                    let _ = road.transport.close().await;
                }
                Err(error)
            }
        }
    }
}

/// Whom to link with: what the trust file says until the session is there, and from then on what the session says, which learns
/// and can be told otherwise.
pub(crate) struct Keys {
    first: TrustStore,
    live: OnceLock<Arc<dyn PeerKeys>>,
}

impl Keys {
    pub(crate) fn new(first: TrustStore) -> Arc<Self> {
        Arc::new(Self {
            first,
            live: OnceLock::new(),
        })
    }

    pub(crate) fn follow(&self, session: &Session) {
        let _ = self.live.set(session.keys());
    }
}

impl PeerKeys for Keys {
    fn trust(&self, peer: &AgentId) -> PeerTrust {
        match self.live.get() {
            Some(live) => live.trust(peer),
            None => PeerTrust::of(&self.first, peer),
        }
    }
}

/// Reads a table into what a backend wants.
fn read<T: serde::de::DeserializeOwned>(table: &toml::Table) -> Result<T, BackendError> {
    let read = T::deserialize(table.clone());
    read.map_err(|error| BackendError::Config(crate::config::with_suggestion(error.message())))
}
