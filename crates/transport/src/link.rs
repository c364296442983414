use std::{sync::Arc, time::Duration};

use ifmsg::{AgentId, Timestamp};

use crate::RoadHealth;

/// What a backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// The largest frame that `send` accepts, in bytes. At least 65,536.
    pub max_frame: usize,
    /// Frames of the reliable lane to one peer arrive in the order they were accepted, while the link is up. This is promised
    /// of frames of up to 65,536 bytes among each other: a longer one may travel in parts and arrive after frames that were
    /// accepted later, so that short frames need not wait for long ones.
    pub ordered: bool,
    /// Frames of the reliable lane are not lost while the link is up.
    pub reliable: bool,
    /// `Destination::Everyone` is one send to all linked peers.
    pub broadcast: bool,
}

/// The state of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkState {
    /// Being set up.
    Connecting,
    /// Envelopes are accepted.
    Up,
    /// No link, and one comes when it is needed: see [`crate::IfTransport::wake`].
    Dormant,
    /// No link; `send` says [`crate::SendError::NoLink`].
    Down,
}

/// How a link reaches its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Path {
    /// Inside one process.
    InProcess,
    /// Straight to the peer.
    Direct,
    /// By way of a relay.
    Relayed,
}

impl Path {
    /// A short, stable, lowercase name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InProcess => "in-process",
            Self::Direct => "direct",
            Self::Relayed => "relayed",
        }
    }
}

/// One peer as a transport sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct LinkStatus {
    /// The peer.
    pub peer: AgentId,
    /// Whether envelopes are accepted.
    pub state: LinkState,
    /// How the peer is reached, once that is known.
    pub path: Option<Path>,
    /// The last measured round trip, where the backend measures one.
    pub round_trip: Option<Duration>,
    /// Best-effort envelopes that gave way to newer ones, since the transport was made.
    pub dropped: u64,
    /// Since when it is in this state, where the backend keeps that.
    pub since: Option<Timestamp>,
    /// This end of the path, as the backend writes it: for ICE the local candidate, `host udp 192.0.2.1:5000`.
    pub local: Option<String>,
    /// The peer's end of the path.
    pub remote: Option<String>,
    /// From a router: each of its roads to this peer, in its order of preference. Empty from any other transport.
    pub roads: Vec<RoadStatus>,
}

/// One of a router's roads to one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoadStatus {
    /// The road's name.
    pub road: Arc<str>,
    /// What the router thinks of it.
    pub health: RoadHealth,
    /// Whether first attempts take it now.
    pub preferred: bool,
    /// What the backend says of the link.
    pub link: LinkState,
    /// How it reaches the peer.
    pub path: Option<Path>,
    /// The smoothed round trip of acknowledged messages and keepalives.
    pub round_trip: Option<Duration>,
}

impl RoadStatus {
    /// A road with nothing else known.
    pub fn new(road: Arc<str>, health: RoadHealth, link: LinkState) -> Self {
        Self {
            road,
            health,
            preferred: false,
            link,
            path: None,
            round_trip: None,
        }
    }
}

impl LinkStatus {
    /// A link in this state, with nothing else known.
    pub fn new(peer: AgentId, state: LinkState) -> Self {
        Self {
            peer,
            state,
            path: None,
            round_trip: None,
            dropped: 0,
            since: None,
            local: None,
            remote: None,
            roads: Vec::new(),
        }
    }
}
