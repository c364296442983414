use std::{fmt, sync::Arc, time::Duration};

use ifmesh_signaling::{ClientTls, RelayTerms};
use ifmesh_transport::{LinkObserver, PeerKeys};
use ifmsg::{AgentId, Identity};

/// What a [`RelayTransport`](crate::RelayTransport) is told.
#[derive(Clone)]
#[non_exhaustive]
pub struct RelayConfig {
    /// This agent's name.
    pub agent: AgentId,
    /// Its key: proves the name to the server, signs hellos.
    pub identity: Identity,
    /// Grows with each start of the agent; at most 2^53-1. Peers drop what is left of an earlier life when a higher one comes.
    pub epoch: u64,
    /// Signaling servers that relay, `ws://host:port` or `wss://host:port`, one or more, best first. One is used at a time; after
    /// a failure the next is tried, and a better one is gone back to. Agents meet only at the same server.
    pub signaling: Vec<String>,
    /// Whose certificates are taken for those of a `wss://` server.
    pub tls: ClientTls,
    /// If set: only a signaling server of this name is registered with.
    pub server_id: Option<AgentId>,
    /// Whom to link with, and which key to hold each to.
    pub keys: Arc<dyn PeerKeys>,
    /// Is told of connections to signaling servers.
    pub observer: Option<Arc<dyn LinkObserver>>,
    /// Bounds and timers.
    pub limits: RelayLinkLimits,
}

impl RelayConfig {
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
            keys,
            observer: None,
            limits: RelayLinkLimits::default(),
        }
    }
}

impl fmt::Debug for RelayConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayConfig")
            .field("agent", &self.agent)
            .field("epoch", &self.epoch)
            .field("signaling", &self.signaling)
            .field("limits", &self.limits)
            .finish_non_exhaustive()
    }
}

/// What peers and servers may use up, and how long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayLinkLimits {
    /// Peers known at once: 256. Of more, nothing is taken.
    pub max_peers: usize,
    /// Bytes of accepted frames waiting for one peer, on each lane: 1 MiB, and as much again of frames over 64 KiB on the
    /// reliable one. A frame counts for at least 1 KiB; a single one may be larger.
    pub queue_bytes: usize,
    /// Bytes that one peer may send before this side has read them: 256 KiB, at least 64 KiB. Each frame counts 64 more. In
    /// addition one frame of up to 16 MiB may be on its way in parts.
    pub window: usize,
    /// Bytes of received frames waiting for `recv`, from all peers: 64 MiB. Beyond it the socket is not read.
    pub event_bytes: usize,
    /// From `start` to the first registration: 10 s.
    pub start_timeout: Duration,
    /// Between two tries to get back to a signaling server that stands further up in the list: 30 s, and up to half of it more
    /// or less.
    pub return_interval: Duration,
    /// A hello without an answer is repeated after this: 500 ms; up to twice as much each time,
    pub backoff_min: Duration,
    /// and at most this: 10 s.
    pub backoff_max: Duration,
    /// Between pings over a link: 5 s.
    pub ping_interval: Duration,
    /// Silence, not even an answer to a ping, after which a link is given up: 20 s.
    pub silence: Duration,
    /// How long `close` tries to get rid of what was accepted: 2 s.
    pub close_timeout: Duration,
}

impl Default for RelayLinkLimits {
    fn default() -> Self {
        Self {
            max_peers: 256,
            queue_bytes: 1 << 20,
            window: 256 << 10,
            event_bytes: 64 << 20,
            start_timeout: Duration::from_secs(10),
            return_interval: Duration::from_secs(30),
            backoff_min: Duration::from_millis(500),
            backoff_max: Duration::from_secs(10),
            ping_interval: Duration::from_secs(5),
            silence: Duration::from_secs(20),
            close_timeout: Duration::from_secs(2),
        }
    }
}

impl RelayLinkLimits {
    /// At least what a few pieces of a frame take up; at most what the server lets wait, less what hellos, credit and pings take.
    pub(crate) fn window(&self, terms: &RelayTerms) -> u64 {
        let window = self.window.clamp(64 << 10, 1 << 30).min(terms.pair_bytes / 2);
        window as u64
    }
}
