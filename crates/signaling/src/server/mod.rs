//! The server: takes agents in, tells them of each other, relays.

mod addresses;
mod admin;
mod bucket;
mod config;
mod connection;
mod handshake;
mod ice;
mod metrics;
mod outbox;
mod registry;

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicUsize},
    time::Duration,
};

use ifmsg::AgentId;
use rand_core::CryptoRng;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, timeout},
};

use self::{
    addresses::Addresses,
    metrics::{Counters, add, subtract},
    registry::{Registry, Welcome},
};
pub use self::{
    config::{RegistrationMode, RelayLimits, ServerConfig, ServerLimits},
    ice::IceConfig,
    metrics::ServerMetrics,
};
use crate::{
    flag::set,
    protocol::{Nonce, RelayTerms, SocketRole},
};

/// WebSocket close codes that a server sends (RFC 6455, 7.4; 4000 and above are ours).
pub mod close_code {
    /// The server shuts down. Reconnect, here or elsewhere.
    pub const GOING_AWAY: u16 = 1001;
    /// Not a frame of RFC 6455. A bug in the client.
    pub const PROTOCOL: u16 = 1002;
    /// A text frame that is not UTF-8. A bug in the client.
    pub const NOT_TEXT: u16 = 1007;
    /// Too many refused frames. A bug in the client.
    pub const POLICY: u16 = 1008;
    /// A frame over the size limit. A bug in the client.
    pub const TOO_LARGE: u16 = 1009;
    /// The registration was refused; the error frame before says why.
    pub const REFUSED: u16 = 4000;
    /// The same agent registered with another socket. Do not reconnect: two of you would take turns.
    pub const REPLACED: u16 = 4001;
    /// No registration in time.
    pub const REGISTRATION_TIMEOUT: u16 = 4002;
    /// Nothing was heard in time. Reconnect.
    pub const IDLE: u16 = 4003;
    /// The client does not read fast enough. Reconnect.
    pub const TOO_SLOW: u16 = 4008;
}

/// A running signaling server. Runs until [`shutdown`](Self::shutdown) or until dropped; then all its tasks end.
///
/// A WebSocket on any path is served, over TLS if [`ServerConfig::tls`] is set, else over plain TCP. What is at stake without TLS
/// is who talks to whom, whether they can, and TURN credentials; never what they say.
pub struct Server {
    local_addr: SocketAddr,
    admin_addr: Option<SocketAddr>,
    admin: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen}: {source}")]
pub struct BindError {
    /// Where.
    pub listen: SocketAddr,
    /// What the operating system says.
    #[source]
    pub source: io::Error,
}

impl Server {
    /// Listens, and serves from now on. `random` makes the challenges; it must be a cryptographic source.
    pub async fn bind(
        config: ServerConfig,
        random: impl CryptoRng + Send + 'static,
    ) -> Result<Self, BindError> {
        let (listener, local_addr) = listen(config.listen).await?;
        let admin = match config.admin {
            Some(address) => Some(listen(address).await?),
            None => None,
        };
        let counters = Arc::new(Counters::default());
        let registry = |role| {
            let limits = &config.limits;
            Mutex::new(Registry::new(
                limits.max_agents,
                limits.key_memory,
                limits.max_remembered_keys,
                Arc::clone(&counters),
                role,
            ))
        };
        let shared = Arc::new(Shared {
            signals: registry(SocketRole::Signals),
            relays: registry(SocketRole::Relay),
            relayed: Arc::default(),
            config,
            random: Mutex::new(Box::new(random)),
            counters,
        });
        let (stop, stopping) = watch::channel(false);
        let admin_addr = admin.as_ref().map(|(_, address)| *address);
        let admin = admin.map(|(listener, _)| {
            let counters = Arc::clone(&shared.counters);
            tokio::spawn(admin::serve(listener, counters, stopping.clone()))
        });
        let task = tokio::spawn(accept(listener, Arc::clone(&shared), stopping));
        Ok(Self {
            local_addr,
            admin_addr,
            admin,
            shared,
            stop,
            task,
        })
    }

    /// Stops: no new connections, every client is told where else it may go ([`ServerConfig::alternatives`]) and gets a close
    /// frame with 1001, and after at most twice the close timeout every socket is closed.
    pub async fn shutdown(mut self) {
        self.stop.send_replace(true);
        // The task ends by itself, in bounded time; it never panics, and if it did there would be nothing left to stop.
        let _ = (&mut self.task).await;
        // Last, so that `/healthz` says that the server is shutting down for as long as it is.
        if let Some(admin) = self.admin.take() {
            admin.abort();
            let _ = admin.await;
        }
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Where `/healthz` and `/metrics` are.
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin_addr
    }

    /// What happened so far.
    pub fn metrics(&self) -> ServerMetrics {
        self.shared.counters.snapshot()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Takes the set of connection tasks along.
        self.task.abort();
        if let Some(admin) = &self.admin {
            admin.abort();
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

/// What all connections share. Locks are held for moments, never across an await.
struct Shared {
    config: ServerConfig,
    signals: Mutex<Registry>,
    relays: Mutex<Registry>,
    /// Bytes of relayed frames that wait, in all.
    relayed: Arc<AtomicUsize>,
    random: Mutex<Box<dyn CryptoRng + Send>>,
    counters: Arc<Counters>,
}

impl Shared {
    fn registry(&self, role: SocketRole) -> MutexGuard<'_, Registry> {
        let registry = match role {
            SocketRole::Signals => &self.signals,
            SocketRole::Relay => &self.relays,
        };
        registry.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn welcome(&self, role: SocketRole, agent_id: &AgentId) -> Welcome {
        let ice = self.config.ice.as_ref().filter(|_| role == SocketRole::Signals);
        let relay = self.config.relay.as_ref();
        Welcome {
            server_id: self.config.server_id.clone(),
            relay: relay
                .filter(|_| role == SocketRole::Relay)
                .map(|limits| RelayTerms {
                    max_frame: limits.max_frame_bytes.min(self.config.limits.max_frame_bytes),
                    pair_bytes: limits.pair_bytes,
                }),
            ice: ice.map(|ice| ice.servers(agent_id)),
        }
    }

    fn nonce(&self) -> Nonce {
        let mut bytes = [0; 32];
        self.random
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .fill_bytes(&mut bytes);
        Nonce::from_bytes(bytes)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

async fn listen(listen: SocketAddr) -> Result<(TcpListener, SocketAddr), BindError> {
    let failed = |source| BindError { listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let local_addr = listener.local_addr().map_err(failed)?;
    Ok((listener, local_addr))
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let limits = shared.config.limits;
    let mut connections = JoinSet::new();
    let addresses = Addresses::default();
    loop {
        let (stream, address) = tokio::select! {
            () = set(&mut stopping) => break,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    tracing::error!(%error, "a connection ended with a bug of this server");
                }
                subtract(&shared.counters.connections);
                continue;
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, from)) => (stream, from.ip()),
                Err(error) => {
                    // Out of file descriptors, or the peer went away between SYN and accept.
                    tracing::warn!(%error, "cannot accept a connection");
                    sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
        };
        let place = if connections.len() < limits.max_connections {
            addresses.admit(address, &limits, Instant::now())
        } else {
            None
        };
        let Some(place) = place else {
            add(&shared.counters.connections_refused);
            if shared.config.tls.is_none() {
                turn_away(&stream);
            }
            continue;
        };
        add(&shared.counters.connections_accepted);
        add(&shared.counters.connections);
        // Small frames, each of which somebody waits for.
        let _ = stream.set_nodelay(true);
        let serve = connection::serve(stream, Arc::clone(&shared), stopping.clone());
        connections.spawn(async move {
            serve.await;
            drop(place);
        });
    }
    drop(listener);
    let all = async { while connections.join_next().await.is_some() {} };
    if timeout(limits.close_timeout * 2, all).await.is_err() {
        connections.shutdown().await;
    }
}

/// Best effort: a fresh socket has room for this.
fn turn_away(stream: &TcpStream) {
    let _ = stream
        .try_write(b"HTTP/1.1 503 Service Unavailable\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
}
