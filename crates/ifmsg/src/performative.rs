//! What a message does, in the words of speech-act theory.

use std::{fmt, sync::Arc};

/// The text is neither one of the 22 communicative acts nor an `x-` name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a performative: one of FIPA's 22 communicative acts (inform, request, ...) or a name that begins with x- is needed"
)]
pub struct InvalidPerformative;

macro_rules! performatives {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// A communicative act: one of the 22 of FIPA's library (FIPA SC00037J), or an `x-` name of the application's own.
        ///
        /// It says what the sender means to do; ifmesh carries it and does not interpret it.
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Performative {
            $($(#[$doc])* $name,)*
            /// An act outside FIPA's library; the name begins with `x-`. Names under `x-ifmesh-` belong to the session.
            Extension(ExtensionName),
        }

        impl Performative {
            /// FIPA's 22 acts.
            pub const FIPA: [Self; 22] = [$(Self::$name,)*];

            /// As on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$name => $text,)*
                    Self::Extension(name) => &name.0,
                }
            }

            /// Reads the wire form.
            pub fn new(text: &str) -> Result<Self, InvalidPerformative> {
                match text {
                    $($text => Ok(Self::$name),)*
                    _ if text.starts_with("x-") && text.len() > 2 && crate::id::is_id(text.as_bytes()) => {
                        Ok(Self::Extension(ExtensionName(text.into())))
                    }
                    _ => Err(InvalidPerformative),
                }
            }
        }
    };
}

performatives! {
    /// Accepting a proposal made before.
    AcceptProposal = "accept-proposal",
    /// Agreeing to do something.
    Agree = "agree",
    /// Withdrawing a request made before.
    Cancel = "cancel",
    /// Calling for proposals.
    Cfp = "cfp",
    /// Telling that something is true, to one who was uncertain.
    Confirm = "confirm",
    /// Telling that something is false, to one who thought it true.
    Disconfirm = "disconfirm",
    /// Telling that something was tried and failed.
    Failure = "failure",
    /// Telling that something is true.
    Inform = "inform",
    /// Telling whether something is true.
    InformIf = "inform-if",
    /// Telling which object fits a description.
    InformRef = "inform-ref",
    /// Telling that a message was not understood.
    NotUnderstood = "not-understood",
    /// Asking to pass a message on to others.
    Propagate = "propagate",
    /// Offering to do something under conditions.
    Propose = "propose",
    /// Asking to send a message to those who fit a description.
    Proxy = "proxy",
    /// Asking whether something is true.
    QueryIf = "query-if",
    /// Asking which object fits a description.
    QueryRef = "query-ref",
    /// Refusing to do something, and why.
    Refuse = "refuse",
    /// Rejecting a proposal.
    RejectProposal = "reject-proposal",
    /// Asking for something to be done.
    Request = "request",
    /// Asking for something to be done once something is true.
    RequestWhen = "request-when",
    /// Asking for something to be done each time something becomes true.
    RequestWhenever = "request-whenever",
    /// Asking to be told of a value and of its changes.
    Subscribe = "subscribe",
}

impl Performative {
    /// Acts that the session keeps for itself.
    pub const RESERVED_PREFIX: &'static str = "x-ifmesh-";

    /// Whether the act belongs to the session, and never reaches an application.
    pub fn is_reserved(&self) -> bool {
        self.as_str().starts_with(Self::RESERVED_PREFIX)
    }
}

/// The checked name of a [`Performative::Extension`]: `x-` and at least one more character of an id. Made by
/// [`Performative::new`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExtensionName(Arc<str>);

impl fmt::Display for Performative {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::str::FromStr for Performative {
    type Err = InvalidPerformative;
    fn from_str(text: &str) -> Result<Self, InvalidPerformative> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_22_acts_and_x_names() {
        for act in Performative::FIPA {
            assert_eq!(Performative::new(act.as_str()), Ok(act));
        }
        assert_eq!(
            Performative::new("x-heartbeat")
                .map(|act| act.to_string())
                .as_deref(),
            Ok("x-heartbeat")
        );
        for bad in ["", "x-", "Inform", "tell", "x-ä", "x- "] {
            assert_eq!(Performative::new(bad), Err(InvalidPerformative), "{bad:?}");
        }
        assert!(Performative::new("x-ifmesh-ack").unwrap().is_reserved());
    }
}
