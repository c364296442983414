use std::{fmt, sync::Arc};

use ifmsg::{
    AgentId, DecodeError, Destination, Mark, MessageDigest, MessageId, PublicKey, RejectedMessage,
    SignedMessage, VerifiedMessage,
};

use super::Outcome;
use crate::{DownReason, Lane, RoadChange};

/// What a session did, for the witness, for metrics, for logs. No payloads, no secrets.
#[derive(Debug)]
#[non_exhaustive]
pub enum SessionEvent {
    /// A peer proved over the link that it is live. Messages flow.
    PeerUp {
        /// The peer.
        peer: AgentId,
        /// Its run.
        epoch: u64,
    },
    /// The link to a peer is gone.
    PeerDown {
        /// The peer.
        peer: AgentId,
        /// Why.
        reason: DownReason,
    },
    /// The policy bound a key to an agent.
    Pinned {
        /// The agent.
        agent: AgentId,
        /// Its key.
        key: PublicKey,
    },
    /// A message was handed to the link.
    Sent {
        /// The message.
        message: SignedMessage,
        /// To whom.
        peer: AgentId,
        /// By which lane.
        lane: Lane,
        /// 1 for the first time.
        attempt: u32,
    },
    /// A message was verified, and goes to the application's inbox.
    Received {
        /// The message.
        message: VerifiedMessage,
        /// Which of a router's roads brought it; `None` without a router.
        road: Option<Arc<str>>,
    },
    /// A message was refused.
    Rejected {
        /// The message and why.
        rejected: Box<RejectedMessage>,
    },
    /// A frame could not be read.
    Malformed {
        /// The link it came by.
        link: AgentId,
        /// What is wrong with it.
        error: DecodeError,
    },
    /// A message's fate at one peer is known.
    Finished {
        /// The message's id.
        id: MessageId,
        /// Whom it was for.
        destination: Destination,
        /// Which peer.
        peer: AgentId,
        /// Its fate.
        outcome: Outcome,
    },
    /// A message was dropped, which is never silent: best effort without room or link, or left over from a former run.
    Dropped {
        /// Its digest, where one was made.
        digest: Option<MessageDigest>,
        /// The other side.
        peer: AgentId,
        /// A short, stable, lowercase name.
        reason: &'static str,
    },
    /// A router changed its mind about one of its roads.
    Road {
        /// What it thought and thinks.
        change: RoadChange,
    },
    /// The transport refused something below the session.
    TransportRefused {
        /// Who claims to have sent it.
        peer: Option<AgentId>,
        /// A short, stable, lowercase name.
        reason: &'static str,
        /// For people.
        detail: String,
    },
    /// The journal failed. Nothing is acknowledged until it works again.
    JournalFailed {
        /// What it said.
        error: JournalError,
    },
}

/// Watches a session. Called from the session's own task, in order, under no lock; it should be quick and must not block.
pub trait Observer: Send + Sync + fmt::Debug {
    /// Something happened.
    fn on_event(&self, event: &SessionEvent);
}

/// Keeps what a receiver must remember across a restart.
pub trait Journal: Send + fmt::Debug {
    /// Puts on record how far the streams of a peer's key were taken. Called before that is acknowledged. What was recorded
    /// last holds.
    fn record(&mut self, key: &PublicKey, mark: &Mark) -> Result<(), JournalError>;
}

/// The journal could not record. Tried again with the next acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the journal failed: {0}; nothing is acknowledged until it works again")]
pub struct JournalError(pub String);
