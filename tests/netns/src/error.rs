use std::fmt;

/// Why there is no such network here. It says what to do; `unwrap` shows it as it is.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Namespaces are root's.
    #[error("network namespaces need root. Run the tests as root, or leave this one out")]
    NotRoot,
    /// A program of the system is not there.
    #[error("`{program}` is missing. Install it (Debian: `apt-get install iproute2 nftables util-linux`)")]
    Missing {
        /// Its name.
        program: String,
    },
    /// The kernel or a program refused.
    #[error("{what}: {why}")]
    Refused {
        /// What was wanted.
        what: String,
        /// What it said.
        why: String,
    },
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error {
    pub(crate) fn refused(what: impl Into<String>, why: impl fmt::Display) -> Self {
        Self::Refused {
            what: what.into(),
            why: why.to_string().trim().to_owned(),
        }
    }
}
