use std::net::IpAddr;

use crate::DdsConfigError;

/// Why a transport did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The caller's fault.
    #[error("the DDS configuration cannot work: {0}")]
    Config(#[from] DdsConfigError),
    /// The caller's fault: no interface of this machine has the address.
    #[error("no interface of this machine has the address {address}; `ip addr` lists those there are")]
    Interface {
        /// The address.
        address: IpAddr,
    },
    /// The machine's or the library's: the participant could not be made. Retrying may help.
    #[error(
        "no DDS participant in domain {domain}: {reason}. Its UDP ports are {first} to {last}: are they free, and allowed?"
    )]
    Participant {
        /// The domain.
        domain: u16,
        /// What the library said.
        reason: String,
        /// The first port of the domain.
        first: u32,
        /// The last one that participants here take.
        last: u32,
    },
}

impl StartError {
    pub(crate) fn participant(domain: u16, reason: &impl std::fmt::Display) -> Self {
        let first = 7400 + 250 * u32::from(domain);
        Self::Participant {
            domain,
            reason: reason.to_string(),
            first,
            last: first + 249,
        }
    }
}
