use bytes::Bytes;
use ifmsg::Destination;

/// Which promise a link should lend to an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Wait rather than drop. Still no promise of delivery: that is the session's.
    Reliable,
    /// Drop rather than wait, oldest first.
    BestEffort,
}

/// One or more signed messages, encoded once, on their way to a peer. Cloning it clones a pointer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope {
    /// The peer whose link carries it, or everyone where [`crate::Capabilities::broadcast`] says so.
    pub to: Destination,
    /// Which lane it takes.
    pub lane: Lane,
    /// 1 for the first try. A router takes attempt *n* as "not the link that attempt *n - 1* took".
    pub attempt: u32,
    /// A frame as `ifmsg` encodes it: JSON or binary. Opaque to transports.
    pub frame: Bytes,
}

impl Envelope {
    /// A first attempt.
    pub fn new(to: impl Into<Destination>, lane: Lane, frame: impl Into<Bytes>) -> Self {
        Self {
            to: to.into(),
            lane,
            attempt: 1,
            frame: frame.into(),
        }
    }
}
