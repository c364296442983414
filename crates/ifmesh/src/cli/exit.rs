//! Exit codes, and failures that end in one.

use std::fmt;

/// Done.
pub(crate) const DONE: u8 = 0;
/// Done, but a message was lost, refused, expired or did not verify.
pub(crate) const NOT_ALL_WELL: u8 = 1;
/// A flag, a file or an input line is wrong.
pub(crate) const USAGE: u8 = 2;
/// The network, a server or a peer was not there.
pub(crate) const UNAVAILABLE: u8 = 3;
/// Ctrl-C.
pub(crate) const INTERRUPTED: u8 = 130;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) struct Failure {
    code: u8,
    message: String,
}

impl Failure {
    /// A flag, a file or an input line is wrong.
    pub(crate) fn usage(message: impl fmt::Display) -> Self {
        Self {
            code: USAGE,
            message: message.to_string(),
        }
    }

    /// It was done, and something is not as it should be.
    pub(crate) fn not_all_well(message: impl fmt::Display) -> Self {
        Self {
            code: NOT_ALL_WELL,
            message: message.to_string(),
        }
    }

    /// The network, a server or a peer was not there.
    pub(crate) fn unavailable(message: impl fmt::Display) -> Self {
        Self {
            code: UNAVAILABLE,
            message: message.to_string(),
        }
    }

    /// Ctrl-C.
    pub(crate) fn interrupted() -> Self {
        Self {
            code: INTERRUPTED,
            message: "interrupted; everything was closed".to_owned(),
        }
    }

    pub(crate) fn code(&self) -> u8 {
        self.code
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<ifmesh::StartError> for Failure {
    fn from(error: ifmesh::StartError) -> Self {
        match error {
            ifmesh::StartError::Transport {
                error: ifmesh::BackendError::Unavailable(_),
                ..
            } => Self::unavailable(error),
            _ => Self::usage(error),
        }
    }
}

/// Ends when the user asks for an end: Ctrl-C, or SIGTERM where there are signals.
pub(crate) async fn asked_to_end() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    let _ = tokio::signal::ctrl_c().await;
}
