//! What can go wrong in the engine, and whose fault it is.

use super::Lane;

/// Why the engine refused or failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum EngineError {
    /// The caller was too early: wait for `PeerEvent::ChannelOpen` of this lane, then send again.
    #[error("the {0} channel is not open yet; wait until it is")]
    NotOpen(Lane),
    /// The connection is over. Retrying needs a new `Peer`.
    #[error("the connection is closed; negotiate a new one")]
    Closed,
    /// The caller's frame does not fit into one message of this connection. Chunk it.
    #[error("a frame of {size} bytes exceeds the {limit} bytes that both sides accept; send it in chunks")]
    TooLarge {
        /// Bytes in the refused frame.
        size: usize,
        /// Largest frame of this connection.
        limit: usize,
    },
    /// The peer (or who forwarded it) sent a session description that we refuse. A retry with the same text is useless.
    #[error("the peer's session description was refused: {0}")]
    Description(String),
    /// The peer sent a candidate that cannot be read, or more than we take. The connection goes on without it.
    #[error("the peer's candidate was refused: {0}")]
    Candidate(String),
    /// An answer came when none was expected: the caller called twice, or on the answering side.
    #[error("this connection expects no answer")]
    Unexpected,
    /// The configuration cannot work. Ours, or the operator's.
    #[error("the configuration cannot work: {0}")]
    Config(String),
    /// The library or the operating system failed (no socket, no entropy, ...). A retry may help.
    #[error("webrtc failed: {0}")]
    Library(String),
}

impl From<webrtc::error::Error> for EngineError {
    fn from(error: webrtc::error::Error) -> Self {
        use webrtc::error::Error;
        match error {
            Error::ErrDataChannelClosed | Error::ErrConnectionClosed => Self::Closed,
            other => Self::Library(other.to_string()),
        }
    }
}
