//! Names: agents, messages, traces, destinations.

use std::{fmt, sync::Arc};

use serde::{Deserialize, Serialize};

/// Longest id in bytes.
pub const MAX_ID_LEN: usize = 128;

/// The text is not an id: ids match `[A-Za-z0-9._:/@+-]{1,128}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an id: 1 to 128 characters out of A-Z a-z 0-9 . _ : / @ + - are needed")]
pub struct InvalidId;

macro_rules! id_newtype {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks and takes `text`.
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidId> {
                let text = text.as_ref();
                if is_id(text.as_bytes()) { Ok(Self(text.into())) } else { Err(InvalidId) }
            }

            /// The id as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $name {
            type Error = InvalidId;
            fn try_from(text: &str) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                Self::new(text)
            }
        }

        impl From<$name> for Arc<str> {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.as_str().to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

id_newtype! {
    /// An agent's name. A name proves nothing: the trust store binds it to a key. Cheap to clone.
    AgentId
}

id_newtype! {
    /// A message's name, unique per source; the idempotency key across a restart. Cheap to clone.
    MessageId
}

impl MessageId {
    /// `run-number`, as a session names messages whose drafts have no id of their own.
    pub fn of_numbers(run: u64, number: u64) -> Self {
        let (mut of_run, mut of_number) = (itoa::Buffer::new(), itoa::Buffer::new());
        Self(
            [of_run.format(run), "-", of_number.format(number)]
                .concat()
                .into(),
        )
    }
}

/// Whom a message is for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    /// One agent.
    Agent(AgentId),
    /// Everyone: `*` on the wire.
    Everyone,
}

impl Destination {
    /// `*` or an agent id.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidId> {
        match text.as_ref() {
            "*" => Ok(Self::Everyone),
            other => AgentId::new(other).map(Self::Agent),
        }
    }

    /// As on the wire.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Agent(id) => id.as_str(),
            Self::Everyone => "*",
        }
    }
}

impl From<AgentId> for Destination {
    fn from(id: AgentId) -> Self {
        Self::Agent(id)
    }
}

impl TryFrom<&str> for Destination {
    type Error = InvalidId;
    fn try_from(text: &str) -> Result<Self, InvalidId> {
        Self::new(text)
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether `text` matches `[A-Za-z0-9._:/@+-]{1,128}`.
pub(crate) fn is_id(text: &[u8]) -> bool {
    (1..=MAX_ID_LEN).contains(&text.len()) && text.iter().all(|&byte| ID_BYTE[usize::from(byte)])
}

const ID_BYTE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        table[byte] = matches!(byte as u8,
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b':' | b'/' | b'@' | b'+' | b'-');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_parsed_not_trusted() {
        for good in [
            "a",
            "agent-1",
            "did:key:z6Mk",
            "if://x/y@z+1.0_b",
            &"x".repeat(128),
        ] {
            assert_eq!(AgentId::new(good).map(String::from).as_deref(), Ok(good));
        }
        for bad in ["", "*", "a b", "ä", "a\n", "a\0", "a\"", &"x".repeat(129)] {
            assert_eq!(AgentId::new(bad), Err(InvalidId), "{bad:?}");
        }
        assert_eq!(Destination::new("*"), Ok(Destination::Everyone));
    }
}
