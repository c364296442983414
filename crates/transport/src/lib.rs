//! How messages travel.
//!
//! Two floors of the house live here. [`IfTransport`] is what a backend implements: it carries [`Envelope`]s and promises
//! little. The session stands on any transport and makes the promises: signed, verified, exactly once, in order, with an
//! honest outcome for each message. A router over several transports is itself an [`IfTransport`], so it fits between the two.

mod chunk;
mod clock;
mod ending;
mod envelope;
mod error;
mod event;
mod events;
mod link;
mod notice;
mod random;
mod router;
mod session;
mod trust;
mod upkeep;

#[cfg(feature = "conformance")]
pub mod conformance;

use std::sync::Arc;

use async_trait::async_trait;
use ifmsg::{AgentId, Header};

pub use chunk::{
    Assembler, CHUNK_HEADER, ChunkError, ChunkLimits, ChunkMetrics, MAX_CHUNKED_FRAME, Splitter, is_chunk,
};
pub use clock::{Clock, SystemClock, VirtualClock};
pub use ending::{Ending, awaited};
pub use envelope::{Class, Envelope, Feedback, Lane, Route};
pub use error::{CloseError, Closed, SendError};
pub use event::{DownReason, RoadChange, RoadHealth, TransportEvent};
pub use events::{Events, LEAST_CHARGE, Unread, charge};
pub use link::{Capabilities, LinkState, LinkStatus, Path, RoadStatus};
pub use notice::{LinkNotice, LinkObserver};
pub use random::SharedRandom;
pub use router::{
    HealthConfig, Match, Plan, Policy, Relays, Road, Router, RouterConfig, RouterError, RouterMetrics, Rule,
    Rules,
};
pub use session::{
    Flight, Journal, JournalError, Keepalive, NotAcknowledged, Observer, ObserverError, Outcome, PeerStatus,
    Receipt, Refusal, RoundTrip, Session, SessionConfig, SessionEvent, SessionLimits, SessionMetrics,
    SubmitError, Taken, next_epoch,
};
pub use trust::{PeerKeys, PeerTrust};
pub use upkeep::is_upkeep;

/// One way to move envelopes between agents. A backend promises no more than its [`Capabilities`] say.
///
/// # For those who implement it
/// - A link may lose, repeat, delay and reorder: the session above mends all of it. What a link may not do is hand over
///   an envelope that was *changed* and call it intact where the medium could have told.
/// - Bound every queue. [`Lane::Reliable`] presses back: `send` waits. [`Lane::BestEffort`] never waits: the oldest
///   queued envelope gives way, and [`LinkStatus::dropped`] counts it.
/// - Everything that a peer or a server can send you is hostile until the session has verified it. Never panic on it.
/// - Own your tasks: after `close` no task, socket or timer of yours is left.
/// - Run the [`conformance`](crate::conformance) suite (feature `conformance`).
///
/// [`Envelope::peer`] checks what every backend checks; [`Splitter::cut`] and [`Assembler`] carry frames over links that take
/// less at once. CONTRIBUTING.md, "A new backend", has the rest, and `examples/udp-backend` is one from end to end.
#[async_trait]
pub trait IfTransport: Send + Sync + std::fmt::Debug {
    /// Name in config, metrics and the witness log: `webrtc`, `dds`, `mem`.
    fn name(&self) -> &str;

    /// What this backend can do. Constant for the life of the transport.
    fn capabilities(&self) -> Capabilities;

    /// Hands an envelope to the link. `Ok` is "accepted", never "delivered".
    ///
    /// On [`Lane::Reliable`] it waits while the link's bounded queue is full; on [`Lane::BestEffort`] it never waits.
    /// Envelopes of one lane to one peer are accepted in the order of the calls.
    ///
    /// Cancel safe: an envelope whose `send` was dropped before it was ready was not accepted.
    async fn send(&self, envelope: Envelope) -> Result<(), SendError>;

    /// [`send`](Self::send), and says which roads took the envelope. Only a router has roads; any other transport names none.
    async fn send_by_roads(&self, envelope: Envelope) -> Result<Vec<Arc<str>>, SendError> {
        self.send(envelope).await.map(|()| Vec::new())
    }

    /// The road that this envelope would take if it were sent now, for whoever puts on record what is about to leave. Only a
    /// router has roads.
    fn road_of(&self, _envelope: &Envelope) -> Option<Arc<str>> {
        None
    }

    /// The next thing that happened: a frame, a link up, a link down.
    ///
    /// Events wait in a bounded queue; while it is full, frames of reliable lanes press back on the link. One caller at a
    /// time: with two, each event goes to one of them. After `close` it hands out what is still queued, then [`Closed`].
    ///
    /// Cancel safe: no event is lost.
    async fn recv(&self) -> Result<TransportEvent, Closed>;

    /// Every known peer with the state of its link, sorted by peer.
    fn links(&self) -> Vec<LinkStatus>;

    /// Somebody wants to send to this peer. A transport that links on demand begins to, and says so by `LinkUp`; any other
    /// does nothing. Returns at once, and may be called as often as one likes.
    ///
    /// A session calls it for peers that it has messages for and no link to.
    fn wake(&self, _peer: &AgentId) {}

    /// Which class a message falls into; messages of different classes never share an envelope. Only a router has classes.
    fn class_of(&self, _header: &Header, _size: usize) -> Class {
        Class::default()
    }

    /// What became of a transmission to a peer: facts by which a router judges its roads. Returns at once.
    fn feedback(&self, _peer: &AgentId, _feedback: Feedback) {}

    /// Flushes what was accepted, as far as peers still take it within the backend's bound, tells the peers, frees sockets
    /// and tasks. Idempotent: later calls return `Ok` at once or wait for the first.
    async fn close(&self) -> Result<(), CloseError>;
}
