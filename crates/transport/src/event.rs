use std::sync::Arc;

use bytes::Bytes;
use ifmsg::AgentId;

use crate::Lane;

/// What a transport reports.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum TransportEvent {
    /// A frame came. Nothing in it is verified yet.
    Frame {
        /// The peer whose link it came by. It says where to answer, not who wrote it.
        from: AgentId,
        /// The lane it came by.
        lane: Lane,
        /// The frame.
        frame: Bytes,
        /// Which of a router's roads it came by. `None` from any other transport.
        road: Option<Arc<str>>,
    },
    /// Envelopes for this peer are accepted from now on. Comes once, and again only after a `LinkDown`.
    LinkUp {
        /// The peer.
        peer: AgentId,
    },
    /// The link is gone. What was accepted before may or may not have arrived.
    LinkDown {
        /// The peer.
        peer: AgentId,
        /// Why, as far as this side knows.
        reason: DownReason,
    },
    /// From a router: what was sent to a peer by a road that is gone, and is not known to have arrived. Best sent again now.
    Lost {
        /// The peer.
        peer: AgentId,
        /// The numbers of the transmissions, [`crate::Route::transmission`].
        transmissions: Vec<u64>,
    },
    /// From a router: what is thought of one road to one peer has changed.
    Road(RoadChange),
    /// Something that came by the network was refused below the session: a connection, a statement, a chunk.
    Refused {
        /// Who claims to have sent it, where that is known.
        peer: Option<AgentId>,
        /// A short, stable, lowercase name for metrics and the witness: `fingerprint-mismatch`.
        reason: &'static str,
        /// For people. Holds no payload and no secret.
        detail: String,
    },
}

/// What a router thinks of one of its roads to one peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RoadHealth {
    /// It carries, as far as anybody can tell.
    Up,
    /// There is a link, and reason to doubt it: an answer is overdue, or it has yet to prove itself after a failure.
    Degraded,
    /// No link, or one that does not answer.
    Down,
}

impl RoadHealth {
    /// A short, stable, lowercase name for metrics and the witness.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// One road to one peer changed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoadChange {
    /// The peer.
    pub peer: AgentId,
    /// The road.
    pub road: Arc<str>,
    /// What was thought of it.
    pub from: RoadHealth,
    /// What is thought of it now.
    pub to: RoadHealth,
    /// Why: a short, stable, lowercase name for metrics and the witness.
    pub reason: &'static str,
    /// If first attempts take another road to this peer from now on: the former one and the new one.
    pub switched: Option<(Arc<str>, Arc<str>)>,
}

impl RoadChange {
    /// A change that switches nothing.
    pub fn new(
        peer: AgentId,
        road: Arc<str>,
        from: RoadHealth,
        to: RoadHealth,
        reason: &'static str,
    ) -> Self {
        Self {
            peer,
            road,
            from,
            to,
            reason,
            switched: None,
        }
    }
}

/// Why a link went down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DownReason {
    /// The peer said goodbye.
    PeerClosed,
    /// Nothing was heard from the peer for too long.
    Timeout,
    /// The peer broke the protocol, and was cut off.
    Misbehaved,
    /// A newer connection of the same peer took its place.
    Replaced,
    /// The network failed.
    Network,
    /// This side closed it.
    Local,
    /// This side no longer trusts the peer.
    Untrusted,
    /// The peer is there, and took nothing for too long.
    Stalled,
}

impl DownReason {
    /// A short, stable, lowercase name for metrics and the witness.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PeerClosed => "peer-closed",
            Self::Timeout => "timeout",
            Self::Misbehaved => "misbehaved",
            Self::Replaced => "replaced",
            Self::Network => "network",
            Self::Local => "local",
            Self::Untrusted => "untrusted",
            Self::Stalled => "stalled",
        }
    }
}
