use std::{fmt, net::SocketAddr, sync::Arc, time::Duration};

use ifmesh_transport::{ChunkLimits, MAX_CHUNKED_FRAME, PeerKeys};
use ifmsg::{AgentId, Identity};

use crate::engine::EngineConfig;

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
    /// Signaling servers, `ws://host:port`, one or more. One is used at a time; after a failure the next is tried.
    pub signaling: Vec<String>,
    /// If set: only a signaling server of this name is registered with.
    pub server_id: Option<AgentId>,
    /// STUN and TURN servers. None by default: host candidates only.
    pub ice_servers: Vec<IceServer>,
    /// Use relayed candidates only, so that peers do not learn this machine's addresses. Needs a TURN server.
    pub relay_only: bool,
    /// Local addresses, one socket each per connection. A wildcard stands for every interface but loopback, port 0 for a
    /// free one. By default `0.0.0.0:0` and `127.0.0.1:0`.
    pub bind: Vec<SocketAddr>,
    /// Whom to connect with, and which key to hold each to.
    pub keys: Arc<dyn PeerKeys>,
    /// Bounds and timers.
    pub limits: WebRtcLimits,
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
            server_id: None,
            ice_servers: Vec::new(),
            relay_only: false,
            bind: EngineConfig::default().bind,
            keys,
            limits: WebRtcLimits::default(),
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
            keepalive: (silence / 25).clamp(Duration::from_millis(20), Duration::from_millis(400)),
            max_message_size: MAX_MESSAGE as u32,
            ..EngineConfig::default()
        }
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
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

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

    fn engine(&self) -> crate::engine::IceServer {
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
    /// From an offer (sent or received) to the peer's verified hello: 10 s.
    pub handshake_timeout: Duration,
    /// How long the agent with the smaller id waits for the other one's offer before it offers itself: 2 s, and up to a
    /// quarter more.
    pub offer_wait: Duration,
    /// Silence, not even an answer to a keepalive, after which a link is given up: 10 s. At least 100 ms.
    pub silence: Duration,
    /// A failed negotiation is repeated after anything up to this: 100 ms; up to twice as much each time,
    pub backoff_min: Duration,
    /// and at most this: 10 s.
    pub backoff_max: Duration,
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
            handshake_timeout: Duration::from_secs(10),
            offer_wait: Duration::from_secs(2),
            silence: Duration::from_secs(10),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            close_timeout: Duration::from_secs(2),
        }
    }
}
