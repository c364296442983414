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
        }
    }
}
