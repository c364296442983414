use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use ifmesh_signaling::ClientTls;
use ifmesh_transport::{ChunkLimits, LinkObserver, MAX_CHUNKED_FRAME, PeerKeys};
use ifmsg::{AgentId, Identity};

use crate::engine::{EngineConfig, Faults};

/// What a [`WebRtcTransport`](crate::WebRtcTransport) is told.
#[derive(Clone)]
#[non_exhaustive]
pub struct WebRtcConfig {
    /// This agent's name.
    pub agent: AgentId,
    /// Its key: proves the name to the server, signs offers, answers and hellos.
    pub identity: Identity,
    /// Grows with each start of the agent; at most 2^53-1. Peers drop what is left of an earlier life when a higher one comes.
    pub epoch: u64,
    /// Signaling servers, `ws://host:port` or `wss://host:port`, one or more, best first. One is used at a time; after a failure
    /// the next is tried, and a better one is gone back to. Agents find each other only at the same server.
    pub signaling: Vec<String>,
    /// Whose certificates are taken for those of a `wss://` server.
    pub tls: ClientTls,
    /// If set: only a signaling server of this name is registered with.
    pub server_id: Option<AgentId>,
    /// STUN and TURN servers, beside those that the signaling server hands out. None by default.
    pub ice_servers: Vec<IceServer>,
    /// Use those that the signaling server hands out, too: true. They see this agent's address, which the signaling server
    /// sees anyway, and can carry connections or not, but read nothing.
    pub take_ice_servers: bool,
    /// Use relayed candidates only, so that peers do not learn this machine's addresses. Needs a TURN server.
    pub relay_only: bool,
    /// Local addresses, one socket each per connection. A wildcard stands for every interface but loopback, port 0 for a
    /// free one; an IPv6 wildcard for nothing where no interface has an IPv6 address beyond its own link. By default `0.0.0.0:0`, `[::]:0` and
    /// `127.0.0.1:0`.
    pub bind: Vec<SocketAddr>,
    /// Whom to connect with, and which key to hold each to.
    pub keys: Arc<dyn PeerKeys>,
    /// With whom to keep links.
    pub mesh: MeshMode,
    /// Is told what the transport does, for the witness.
    pub observer: Option<Arc<dyn LinkObserver>>,
    /// Bounds and timers.
    pub limits: WebRtcLimits,
    /// Lets somebody rehearse failures.
    pub drill: Option<Drill>,
    /// What goes wrong, in tests.
    pub(crate) faults: Option<Arc<Faults>>,
}

/// Breaks the network of a transport on purpose, to rehearse failures. Cheap to clone; all clones are the same drill.
#[derive(Debug, Clone)]
pub struct Drill(Arc<Faults>);

impl Default for Drill {
    fn default() -> Self {
        Self(Faults::new(0))
    }
}

impl Drill {
    /// While `on`, nothing leaves the transport's sockets and nothing that comes is read, and nobody is told: as when a cable
    /// is cut far away.
    pub fn blackhole(&self, on: bool) {
        self.0.lose(if on { 1_000_000 } else { 0 });
    }
}

/// With whom to keep links. All agents of a mesh should use the same mode: one that links with everybody brings back what one on
/// demand has put to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum MeshMode {
    /// With everybody that is trusted and there, at once.
    #[default]
    Full,
    /// With those who are sent to, or who link by themselves.
    OnDemand {
        /// A link over which no messages went for this long is closed. What sessions and routers say to each other to keep
        /// themselves in order ([`is_upkeep`](ifmesh_transport::is_upkeep)) does not count, and opens no link.
        idle: Duration,
        /// Of more links than this, the one that was not used for longest is closed. At least 1.
        max_connections: usize,
    },
}

impl MeshMode {
    pub(crate) fn is_on_demand(self) -> bool {
        matches!(self, Self::OnDemand { .. })
    }
}

impl WebRtcConfig {
    /// The defaults.
    pub fn new(
        agent: AgentId,
        identity: Identity,
        epoch: u64,
        signaling: impl IntoIterator<Item = impl Into<String>>,
        keys: Arc<dyn PeerKeys>,
    ) -> Self {
        Self {
            agent,
            identity,
            epoch,
            signaling: signaling.into_iter().map(Into::into).collect(),
            tls: ClientTls::default(),
            server_id: None,
            ice_servers: Vec::new(),
            take_ice_servers: true,
            relay_only: false,
            bind: EngineConfig::default().bind,
            keys,
            mesh: MeshMode::default(),
            observer: None,
            limits: WebRtcLimits::default(),
            drill: None,
            faults: None,
        }
    }

    pub(crate) fn engine(&self) -> EngineConfig {
        let silence = self.limits.silence.max(Duration::from_millis(100));
        EngineConfig {
            ice_servers: self.ice_servers.iter().map(IceServer::engine).collect(),
            relay_only: self.relay_only,
            bind: self.bind.clone(),
            setup_timeout: self.limits.handshake_timeout,
            disconnected_after: silence / 4,
            failed_after: silence - silence / 4,
            keepalive: (silence / 20).clamp(Duration::from_millis(20), Duration::from_millis(500)),
            max_message_size: TAKEN_MESSAGE,
            faults: self
                .faults
                .clone()
                .or_else(|| self.drill.clone().map(|drill| drill.0)),
            ..EngineConfig::default()
        }
    }
}

impl WebRtcConfig {
    /// So many of a million datagrams are lost on their way out. For benches.
    #[doc(hidden)]
    pub fn lose(&mut self, per_million: u32, seed: u64) {
        let faults = Faults::new(seed);
        faults.lose(per_million);
        self.faults = Some(faults);
    }
}

impl fmt::Debug for WebRtcConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebRtcConfig")
            .field("agent", &self.agent)
            .field("epoch", &self.epoch)
            .field("signaling", &self.signaling)
            .field("ice_servers", &self.ice_servers)
            .field("bind", &self.bind)
            .field("mesh", &self.mesh)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// The largest message that we take. The library queues up to 512 messages that nobody has read, whatever their size, so this
/// bounds what a peer can have us keep.
const TAKEN_MESSAGE: u32 = 65_536;

/// What a message of a data channel may have in every stack in the field, in bytes. A peer that takes larger frames takes
/// them in chunks.
pub(crate) const MAX_MESSAGE: usize = 262_144;

/// The largest frame, in bytes.
pub(crate) const MAX_FRAME: usize = MAX_CHUNKED_FRAME;

/// One STUN or TURN server, as in `RTCIceServer`.
#[derive(Clone, PartialEq, Eq)]
pub struct IceServer {
    /// `stun:host:port`, `turn:host:port?transport=udp`. TURN over TCP or TLS is not supported.
    pub urls: Vec<String>,
    /// Empty for STUN.
    pub username: String,
    /// Empty for STUN. Never shown.
    pub credential: String,
}

impl IceServer {
    /// A server that asks for no credentials.
    pub fn stun(url: impl Into<String>) -> Self {
        Self {
            urls: vec![url.into()],
            username: String::new(),
            credential: String::new(),
        }
    }

    pub(crate) fn engine(&self) -> crate::engine::IceServer {
        crate::engine::IceServer {
            urls: self.urls.clone(),
            username: self.username.clone(),
            credential: self.credential.clone(),
        }
    }
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer")
            .field("urls", &self.urls)
            .finish_non_exhaustive()
    }
}

/// What peers and servers may use up, and how long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WebRtcLimits {
    /// Peers known at once: 256. Of more, nothing is taken.
    pub max_peers: usize,
    /// Bytes of accepted frames waiting for one peer, on each lane: 1 MiB. A frame counts for at least 1 KiB.
    pub queue_bytes: usize,
    /// Bytes of accepted frames over 64 KiB of the reliable lane that wait for one peer, besides those: 16 MiB + 128 KiB.
    /// One frame always fits.
    pub bulk_bytes: usize,
    /// Unfinished frames of one peer, on each lane.
    pub chunks: ChunkLimits,
    /// Bytes of received frames waiting for `recv`: 8 MiB. A frame counts for at least 1 KiB.
    pub event_bytes: usize,
    /// From `start` to the first registration: 10 s.
    pub start_timeout: Duration,
    /// Between two tries to get back to a signaling server that stands further up in the list: 30 s, and up to half of it more
    /// or less.
    pub return_interval: Duration,
    /// From an offer (sent or received) to the peer's verified hello: 10 s.
    pub handshake_timeout: Duration,
    /// How long the agent with the smaller id waits for the other one's offer before it offers itself: 2 s, and up to a
    /// quarter more.
    pub offer_wait: Duration,
    /// Silence, not even an answer to a keepalive, after which a link is given up: 10 s. At least 100 ms. After a quarter of it
    /// another path is looked for.
    pub silence: Duration,
    /// A failed negotiation is repeated after this and up to as much again: 100 ms. It doubles each time,
    pub backoff_min: Duration,
    /// up to this and as much again: 10 s.
    pub backoff_max: Duration,
    /// Links that are being set up at once, in each direction; the others wait: 16.
    pub max_setups: usize,
    /// A peer that takes nothing for this long is reported as `peer-stalled`: 10 s;
    pub stall_report: Duration,
    /// and for this long, is disconnected: 60 s. Meanwhile those who send to it wait, and nobody else.
    pub stall_limit: Duration,
    /// How long `close` tries to get rid of what was accepted: 2 s.
    pub close_timeout: Duration,
}

impl Default for WebRtcLimits {
    fn default() -> Self {
        Self {
            max_peers: 256,
            queue_bytes: 1 << 20,
            bulk_bytes: MAX_CHUNKED_FRAME,
            chunks: ChunkLimits::default(),
            event_bytes: 8 << 20,
            start_timeout: Duration::from_secs(10),
            return_interval: Duration::from_secs(30),
            handshake_timeout: Duration::from_secs(10),
            offer_wait: Duration::from_secs(2),
            silence: Duration::from_secs(10),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            max_setups: 16,
            stall_report: Duration::from_secs(10),
            stall_limit: Duration::from_secs(60),
            close_timeout: Duration::from_secs(2),
        }
    }
}
