use ifmesh_transport::SubmitError;
use ifmsg::{AgentId, InvalidId, TrustError};

/// What was asked of the mesh cannot be. The caller's fault, but for [`MeshError::Runtime`]; a retry cannot help.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MeshError {
    /// Not a name for an agent.
    #[error(transparent)]
    InvalidId(#[from] InvalidId),
    /// `join` of an agent that is there; `restart` replaces it.
    #[error("{0} has joined already; `restart` gives it a new life")]
    AlreadyJoined(AgentId),
    /// No agent of this name ever joined.
    #[error("no agent {0} ever joined; `join` comes first")]
    UnknownAgent(AgentId),
    /// `crash` of an agent that has closed or crashed already.
    #[error("{0} is not running")]
    NotRunning(AgentId),
    /// Faults that no network can have.
    #[error(transparent)]
    Faults(#[from] FaultsError),
    /// Every transport carries at least 64 KiB.
    #[error("max_frame is {max_frame}, but every transport carries at least 65536 bytes")]
    MaxFrameTooSmall {
        /// What was asked for.
        max_frame: usize,
    },
    /// The window must hold the largest frame, and be below 4 GiB.
    #[error("a window of {window} bytes: {needed} are needed for the largest frame, and fewer than 4 GiB")]
    Window {
        /// What was asked for.
        window: usize,
        /// What the largest frame takes.
        needed: usize,
    },
    /// A session did not accept a message.
    #[error(transparent)]
    Submit(#[from] SubmitError),
    /// Two names whose keys have the same short name: choose another name, or another seed.
    #[error(transparent)]
    Trust(#[from] TrustError),
    /// The machine's fault: no runtime for [`simulate`](crate::simulate).
    #[error("the operating system refuses a runtime: {0}")]
    Runtime(std::io::ErrorKind),
}

/// Faults that no network can have.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum FaultsError {
    /// A probability is outside of 0 to 1.
    #[error("{fault} has probability {value}; 0 to 1 is possible")]
    Probability {
        /// Which one.
        fault: &'static str,
        /// What was asked for.
        value: f64,
    },
    /// The latency ends before it begins.
    #[error("the latency range is empty")]
    EmptyLatency,
    /// No byte would ever arrive: use a partition.
    #[error("a bandwidth of 0 moves nothing; use a partition")]
    ZeroBandwidth,
}
