use bytes::Bytes;
use ifmsg::{AgentId, Destination};

use crate::SendError;

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
    /// 1 for the first try. A router takes attempt *n* as "not the road that attempt *n - 1* took".
    pub attempt: u32,
    /// What the session tells a router; other transports have no use for it.
    pub route: Route,
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
            route: Route::default(),
            frame: frame.into(),
        }
    }

    /// For backends without broadcast, whose links carry frames of up to `limit` bytes: the one peer that it is for.
    ///
    /// # Errors
    /// [`SendError::NoBroadcast`] and [`SendError::TooLarge`].
    pub fn peer(&self, limit: usize) -> Result<&AgentId, SendError> {
        match (&self.to, self.frame.len()) {
            (Destination::Everyone, _) => Err(SendError::NoBroadcast),
            (_, size) if size > limit => Err(SendError::TooLarge { size, limit }),
            (Destination::Agent(peer), _) => Ok(peer),
        }
    }
}

/// What a router is told about an envelope, so that it need not look inside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Route {
    /// What [`crate::IfTransport::class_of`] said about its messages.
    pub class: Class,
    /// A number of the sender's, by which [`crate::Feedback`] speaks of this envelope later. 0: nothing will be said.
    pub transmission: u64,
    /// The number of the transmission that this one repeats. 0: none.
    pub repeats: u64,
}

/// Which of a router's rules an envelope falls under. Messages of different classes never share an envelope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Class(pub u16);

impl Class {
    /// What sessions say to each other: hellos and acknowledgements.
    pub const CONTROL: Self = Self(u16::MAX);
}

/// What became of a transmission, as far as its session knows: from acknowledgements that the peer signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Feedback {
    /// A message of it arrived, and it was sent this long ago. Said at most once for a transmission that nothing repeats.
    Arrived {
        /// [`Route::transmission`].
        transmission: u64,
        /// From handing it to the transport to the acknowledgement.
        round_trip: std::time::Duration,
    },
    /// A message of it should have been acknowledged by now, and is about to be sent again.
    Overdue {
        /// [`Route::transmission`].
        transmission: u64,
    },
}
