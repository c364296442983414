//! How fixed-size values are spelt in JSON: one spelling each, everything else is refused.

use std::borrow::Cow;

use ifmsg::{PublicKey, SignatureBytes, Timestamp};
use serde::{Deserialize, Deserializer, Serializer, de::Error as _};

/// A value with exactly one spelling as a JSON string.
pub(crate) trait Spelling: Sized {
    /// Named in the error when the text is no such thing.
    const WHAT: &'static str;
    fn spell(&self) -> String;
    fn read(text: &str) -> Option<Self>;
}

impl Spelling for PublicKey {
    const WHAT: &'static str = "a public key is 64 lowercase hexadecimal digits of a usable Ed25519 key";
    fn spell(&self) -> String {
        self.to_hex()
    }
    fn read(text: &str) -> Option<Self> {
        Self::from_hex(text).ok()
    }
}

impl Spelling for SignatureBytes {
    const WHAT: &'static str = "a signature is 128 lowercase hexadecimal digits";
    fn spell(&self) -> String {
        self.to_hex()
    }
    fn read(text: &str) -> Option<Self> {
        Self::from_hex(text)
    }
}

impl Spelling for Timestamp {
    const WHAT: &'static str = "a timestamp is YYYY-MM-DDTHH:MM:SS.sssZ";
    fn spell(&self) -> String {
        self.to_string()
    }
    fn read(text: &str) -> Option<Self> {
        Self::parse(text).ok()
    }
}

pub(crate) fn serialize<T: Spelling, S: Serializer>(value: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.spell())
}

pub(crate) fn deserialize<'de, T: Spelling, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    let text = Cow::<'de, str>::deserialize(deserializer)?;
    T::read(&text).ok_or_else(|| D::Error::custom(T::WHAT))
}

/// The same for a member that may be absent. `null` is not absent: it is refused.
pub(crate) mod option {
    use super::*;

    pub(crate) fn serialize<T: Spelling, S: Serializer>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match value {
            Some(value) => super::serialize(value, serializer),
            None => serializer.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, T: Spelling, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        super::deserialize(deserializer).map(Some)
    }
}

/// A fixed-size byte string, lowercase hexadecimal on the wire.
macro_rules! hex_bytes {
    ($(#[$doc:meta])* $name:ident, $len:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Wraps the raw bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Reads lowercase hexadecimal of exactly this length; `None` for anything else.
            pub fn from_hex(text: &str) -> Option<Self> {
                ifmsg::hex::decode(text.as_bytes()).map(Self)
            }

            /// Lowercase hexadecimal, as on the wire.
            pub fn to_hex(&self) -> String {
                ifmsg::hex::encode(&self.0)
            }
        }

        impl $crate::spelling::Spelling for $name {
            const WHAT: &'static str = $what;
            fn spell(&self) -> String {
                self.to_hex()
            }
            fn read(text: &str) -> Option<Self> {
                Self::from_hex(text)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.to_hex())
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.to_hex())
            }
        }
    };
}
pub(crate) use hex_bytes;

/// An integer that every JSON reader keeps exactly: 0 to 2^53-1.
pub(crate) mod epoch {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(*value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let value = u64::deserialize(deserializer)?;
        if value > crate::protocol::MAX_SAFE_INTEGER {
            return Err(D::Error::custom("an epoch is an integer from 0 to 2^53-1"));
        }
        Ok(value)
    }

    pub(crate) mod option {
        use super::*;

        pub(crate) fn serialize<S: Serializer>(
            value: &Option<u64>,
            serializer: S,
        ) -> Result<S::Ok, S::Error> {
            match value {
                Some(value) => serializer.serialize_u64(*value),
                None => serializer.serialize_none(),
            }
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            deserializer: D,
        ) -> Result<Option<u64>, D::Error> {
            super::deserialize(deserializer).map(Some)
        }
    }
}
