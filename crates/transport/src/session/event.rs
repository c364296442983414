use std::{fmt, sync::Arc};

use async_trait::async_trait;
use ifmsg::{
    AgentId, DecodeError, Mark, MessageDigest, PublicKey, RejectedMessage, SignedMessage, UnsignedMessage,
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
        key: Box<PublicKey>,
    },
    /// [`Session::change_trust`](super::Session::change_trust) bound an agent to another key, to its first one, or to none.
    TrustChanged {
        /// The agent.
        agent: AgentId,
        /// The key it was bound to.
        from: Option<Box<PublicKey>>,
        /// The key it is bound to now.
        to: Option<Box<PublicKey>>,
    },
    /// Messages are about to be handed to the link.
    Sent {
        /// The messages.
        flight: Arc<Flight>,
        /// The road that a router has chosen for it; `None` without a router. If others take it, [`Carried`](Self::Carried)
        /// follows.
        road: Option<Arc<str>>,
    },
    /// A router's road took messages, and is not the one that [`Sent`](Self::Sent) named.
    Carried {
        /// The messages.
        flight: Arc<Flight>,
        /// The road that took them.
        road: Arc<str>,
        /// The road that `Sent` named, if it did not take them. `None`: it did, and this is a copy.
        instead_of: Option<Arc<str>>,
    },
    /// Messages were verified, and go to the application's inbox, in this order.
    Received {
        /// The messages.
        messages: Vec<UnsignedMessage>,
        /// Which of a router's roads brought them; `None` without a router.
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
    /// The fate of messages at one peer is known.
    Finished {
        /// The messages.
        messages: Vec<UnsignedMessage>,
        /// Which peer.
        peer: AgentId,
        /// Their fate.
        outcome: Outcome,
    },
    /// A message was dropped, which is never silent: best effort without room or link, left over from a former run, or one
    /// that its sender's former run had sent already under the same id.
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

/// Messages in one frame, to one peer.
#[derive(Debug)]
pub struct Flight {
    /// To whom.
    pub peer: AgentId,
    /// By which lane.
    pub lane: Lane,
    /// Each message, and which attempt this is to send it: 1 for the first.
    pub messages: Vec<(SignedMessage, u32)>,
}

/// Watches a session, and may hold it back. Called from the session's own task, in order, under no lock.
#[async_trait]
pub trait Observer: Send + Sync + fmt::Debug {
    /// Something happened. Should be quick, and must not block.
    fn on_event(&self, event: &SessionEvent);

    /// Waits until what was told may have its consequences: called after events, and before anything that they speak of goes
    /// on; before what was sent leaves, and before what was received is handed out.
    ///
    /// # Errors
    /// The session halts: it accepts nothing ([`SubmitError::OffTheRecord`](super::SubmitError::OffTheRecord)), sends nothing,
    /// hands nothing out, and asks again twice a second.
    async fn settle(&self) -> Result<(), ObserverError> {
        Ok(())
    }

    /// How much was told so far, and how much of that is safe from the death of this process, in any unit that only grows. What
    /// was received is acknowledged only once the second number has reached what the first was after it was told.
    fn progress(&self) -> (u64, u64) {
        (0, 0)
    }
}

/// The observer cannot do without what it could not record. The session goes on as soon as it can.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ObserverError(pub String);

/// Says something to each peer in the session's own control messages, from time to time, and hears what it says. Both are
/// called from the session's own task, under no lock; they should be quick and must not block.
pub trait Keepalive: Send + Sync + fmt::Debug {
    /// What to tell this peer, if anything: at most 8 KiB of JSON, or nothing is said. Asked about once a second for each peer
    /// that is up, and at once after [`hear`](Self::hear) asked for it. It may get lost.
    fn say(&self, peer: &AgentId) -> Option<serde_json::Value>;

    /// What a peer said, over its own verified signature. Whether there is an answer to give at once.
    fn hear(&self, peer: &AgentId, key: &PublicKey, said: &serde_json::Value) -> bool;
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
