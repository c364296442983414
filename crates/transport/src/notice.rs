use std::fmt;

use ifmsg::AgentId;

/// What a transport did that is neither a frame nor a link: for the witness, for logs. No payloads, no secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LinkNotice {
    /// A signaling server has taken the registration.
    SignalingConnected {
        /// Its address, without credentials.
        server: String,
    },
    /// The connection to the signaling server is gone.
    SignalingLost {
        /// Its address, without credentials.
        server: String,
        /// For people.
        reason: String,
    },
    /// An SDP offer was made for this peer.
    OfferCreated {
        /// The peer.
        peer: AgentId,
        /// SHA-256 of the SDP.
        sdp_hash: [u8; 32],
    },
    /// An SDP answer was made for this peer.
    AnswerCreated {
        /// The peer.
        peer: AgentId,
        /// SHA-256 of the SDP.
        sdp_hash: [u8; 32],
    },
    /// An ICE candidate was sent to this peer.
    CandidateSent {
        /// The peer.
        peer: AgentId,
    },
    /// A data channel is open, and its peer has proved its key.
    ChannelOpen {
        /// The peer.
        peer: AgentId,
        /// The channel's label.
        label: &'static str,
    },
}

/// Is told what a transport does. Called from the transport's tasks, under no lock; it should be quick and must not block.
pub trait LinkObserver: Send + Sync + fmt::Debug {
    /// The transport of this name did something.
    fn on_notice(&self, transport: &str, notice: &LinkNotice);
}
