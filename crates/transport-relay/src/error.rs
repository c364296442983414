use ifmesh_signaling::{DisconnectReason, InvalidClientConfig, Refusal};

/// Why a transport did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The caller's fault: no or bad urls, an epoch too large.
    #[error("the signaling configuration cannot work: {0}")]
    Signaling(#[from] InvalidClientConfig),
    /// Every signaling server refused this agent for good, or relays nothing. Retrying cannot help before the name, the key or
    /// the server's configuration changes.
    #[error("no signaling server relays for this agent: {0}")]
    Refused(Refusal),
    /// No signaling server could be reached, or took this agent, in time. Retrying may help.
    #[error("no registration within the start timeout; the last attempt: {}", .last.as_ref().map_or_else(|| "none ended".to_owned(), ToString::to_string))]
    Unreachable {
        /// How the last attempt ended, if one did.
        last: Option<DisconnectReason>,
    },
}
