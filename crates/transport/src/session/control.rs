//! What sessions say to each other: one performative, five optional parts.
//!
//! A control message is an IFMessage like any other (best effort, signed, numbered, in the replay window), so a second
//! implementation needs no second parser, and the witness sees it like all the rest.

use ifmsg::Stream;
use serde::{Deserialize, Serialize};

/// The performative of control messages.
pub(crate) const PERFORMATIVE: &str = "x-ifmesh-session";

/// Longest text of what a keepalive says.
pub(super) const MAX_SAID: usize = 8 * 1024;

/// Most ranges and refusals in one acknowledgement.
pub(super) const MAX_RANGES: usize = 64;

/// The payload of a control message.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Control {
    /// Says that the sender is live, and asks whether the receiver is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) hello: Option<Hello>,
    /// What the sender has received.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) acks: Vec<Ack>,
    /// What the sender is done with; asks for an acknowledgement.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) floors: Vec<Floor>,
    /// The sender turned messages away for want of room, and has room again.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) room: bool,
    /// What the sender's [`Keepalive`](super::Keepalive) says: the witness's, opaque here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) witness: Option<serde_json::Value>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hello {
    /// A question, repeated until it is answered: 32 hexadecimal digits, new for every link. The peer echoes them at once,
    /// which proves that it is live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) nonce: Option<String>,
    /// The answer: the nonce of the peer's last hello.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) echo: Option<String>,
}

/// Which of the two acknowledged streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Reliable {
    /// To this agent alone.
    Direct,
    /// To everyone.
    Broadcast,
}

impl Reliable {
    pub(super) const BOTH: [Self; 2] = [Self::Direct, Self::Broadcast];

    pub(super) fn of(stream: Stream) -> Option<Self> {
        match stream {
            Stream::Reliable => Some(Self::Direct),
            Stream::ReliableBroadcast => Some(Self::Broadcast),
            Stream::BestEffort | Stream::BestEffortBroadcast => None,
        }
    }

    pub(super) fn stream(self) -> Stream {
        match self {
            Self::Direct => Stream::Reliable,
            Self::Broadcast => Stream::ReliableBroadcast,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ack {
    /// The run of the acknowledged sender.
    pub(super) epoch: u64,
    /// The stream.
    pub(super) stream: Reliable,
    /// Every number up to this one has been taken by the application.
    pub(super) cumulative: u64,
    /// Beyond it: first and last of runs that are held, and need not be sent again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) held: Vec<(u64, u64)>,
    /// Beyond it: numbers that are refused for good, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) refused: Vec<(u64, String)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Floor {
    /// The stream.
    pub(super) stream: Reliable,
    /// Every number below this one is finished, and will never be sent again.
    pub(super) floor: u64,
}

fn is_false(value: &bool) -> bool {
    !value
}
