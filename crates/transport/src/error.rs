use ifmsg::AgentId;

/// Why an envelope was not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// The network's fault: there is no link to this peer now. Try again after its `LinkUp`.
    #[error("no link to {0} now; try again when it is up")]
    NoLink(AgentId),
    /// The caller's fault: the frame exceeds what this link carries. Retrying cannot help.
    #[error("a frame of {size} bytes is larger than the link's limit of {limit}")]
    TooLarge {
        /// The frame's size in bytes.
        size: usize,
        /// The largest frame that the link carries, in bytes.
        limit: usize,
    },
    /// The caller's fault: `Everyone` on a transport without broadcast. Send to each peer.
    #[error("this transport cannot broadcast; send to each peer")]
    NoBroadcast,
    /// The transport was closed on this side. Retrying cannot help.
    #[error("the transport is closed")]
    Closed,
}

/// The transport was closed on this side, and all of its events have been handed out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the transport is closed")]
pub struct Closed;

/// The transport is closed, but not everything it had accepted left this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CloseError {
    /// Envelopes that were accepted had not left within the time that closing may take.
    #[error("closed with {envelopes} accepted envelopes unsent: their peers took nothing more in time")]
    Unsent {
        /// How many.
        envelopes: usize,
    },
}
