//! What became of a message.

use std::fmt;

use ifmsg::{AgentId, DraftError, MessageId};
use tokio::sync::oneshot;

use super::ObserverError;

/// What became of a message, at one peer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The peer's application took it, once and in order; the peer signed that.
    Acknowledged,
    /// It expired before it was acknowledged. From its expiry on the peer refuses it; it may have taken it just before.
    Expired,
    /// It will not be delivered, and this is why.
    Refused(Refusal),
    /// Best effort: it was handed to the link, or dropped because there was none. Nobody will know more.
    Unconfirmed,
}

/// Why a message was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Refusal {
    /// The peer verified it and refused it; the name is that of an [`ifmsg::Rejection`].
    ByPeer(String),
    /// This session was closed first. It may or may not have arrived.
    SessionClosed,
    /// The peer was forgotten on this side.
    PeerForgotten,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Acknowledged => f.write_str("acknowledged"),
            Self::Expired => f.write_str("expired before it was acknowledged"),
            Self::Refused(Refusal::ByPeer(reason)) => write!(f, "refused by the peer: {reason}"),
            Self::Refused(Refusal::SessionClosed) => f.write_str("the session was closed first"),
            Self::Refused(Refusal::PeerForgotten) => f.write_str("the peer was forgotten"),
            Self::Unconfirmed => f.write_str("sent as best effort, unconfirmed"),
        }
    }
}

/// A reliable message was not acknowledged by everyone it was for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not acknowledged by {peer}: {outcome}")]
pub struct NotAcknowledged {
    /// The first peer that did not.
    pub peer: AgentId,
    /// What happened there.
    pub outcome: Outcome,
}

/// The sender's slip for a message that the session has accepted. Dropping it changes nothing for the message.
#[derive(Debug)]
pub struct Receipt {
    pub(super) id: MessageId,
    pub(super) sequence: u64,
    pub(super) outcomes: oneshot::Receiver<Vec<(AgentId, Outcome)>>,
}

impl Receipt {
    /// The message's id.
    pub fn id(&self) -> &MessageId {
        &self.id
    }

    /// Its number in its stream.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Waits until every peer's outcome is known: one entry for a message to one agent, one for each peer for a broadcast
    /// (none, if there was nobody). A message without expiry waits as long as its peer stays away.
    pub async fn outcomes(self) -> Vec<(AgentId, Outcome)> {
        // The session resolves every ticket, at the latest when it is dropped with its tickets.
        self.outcomes.await.unwrap_or_default()
    }

    /// Waits until every peer has acknowledged it, or one of them did not.
    ///
    /// For a best-effort message the outcome is `Unconfirmed`, and this is an error.
    pub async fn acknowledged(self) -> Result<(), NotAcknowledged> {
        for (peer, outcome) in self.outcomes().await {
            if outcome != Outcome::Acknowledged {
                return Err(NotAcknowledged { peer, outcome });
            }
        }
        Ok(())
    }
}

/// Why the session did not accept a message. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The caller's fault: the draft is no message.
    #[error(transparent)]
    Draft(#[from] DraftError),
    /// The caller's fault: it is addressed to this agent itself.
    #[error("an agent does not send to itself")]
    ToOurselves,
    /// The caller's fault: no key is bound to this agent, so nothing it says could ever be believed. Add it to the trust
    /// store, or mend the spelling.
    #[error("no trusted key is known for {0}: add it to the trust store, or check the spelling")]
    UnknownAgent(AgentId),
    /// The caller's fault: performatives under `x-ifmesh-` are the session's own.
    #[error("performatives that begin with x-ifmesh- are reserved")]
    ReservedPerformative,
    /// The caller's fault: it has expired already.
    #[error("the message has expired already")]
    AlreadyExpired,
    /// The caller's fault: it is larger than the transport carries.
    #[error("a message of {size} bytes is larger than the transport's limit of {limit}")]
    TooLarge {
        /// Bytes of the body.
        size: usize,
        /// Most bytes that a body may have.
        limit: usize,
    },
    /// The stream's window is full: its peer has yet to acknowledge earlier messages. Only `try_send` says so; `send` waits.
    #[error("the window is full: earlier messages have yet to be acknowledged")]
    WindowFull,
    /// The session is halted: what it does cannot be put on record. Nothing leaves and nothing is handed out until it can.
    /// Mend what the observer names, and try again.
    #[error("the session is halted, because nothing may happen off the record: {0}")]
    OffTheRecord(ObserverError),
    /// The session is closed.
    #[error("the session is closed")]
    Closed,
}
