//! IFMessage: what a message is.
//!
//! No I/O, no async, no clock of its own, no randomness of its own.

mod hex;
mod id;
mod key;
mod time;

pub mod canonical;

pub use id::{AgentId, Destination, InvalidId, MAX_ID_LEN, MessageId};
pub use key::{
    BadSignature, Identity, InvalidIdentity, InvalidPublicKey, KeyId, PublicKey, SUITE_ED25519_SHA256,
    SignatureBytes, Statement, StatementKind,
};
pub use time::{InvalidTimestamp, Timestamp};
