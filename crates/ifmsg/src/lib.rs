//! IFMessage 2.1: what a message is.
//!
//! A [`Draft`] is numbered and dated by the sender's session, signed (alone or with others, [`sign_flight`]), written in one
//! of two encodings, and read again as an [`UnverifiedFlight`]. Only [`Admission`], which holds the [`TrustStore`] and the
//! replay windows, makes a [`VerifiedMessage`] of it, and nothing else hands a payload to an application.
//!
//! ```
//! use bytes::Bytes;
//! use ifmsg::{AgentId, Draft, Identity, SignedMessage, Stamp, Timestamp, canonical::Limits};
//!
//! let alice = Identity::from_seed(&[1; 32]);
//! let draft = Draft::new("bob".try_into()?, serde_json::json!({ "claim": "settled" }));
//! let stamp = Stamp {
//!     id: "m-1".try_into()?,
//!     source: AgentId::new("alice")?,
//!     timestamp: Timestamp::parse("2026-11-22T12:00:00.000Z")?,
//!     epoch: 1,
//!     sequence: 1,
//! };
//! let message = SignedMessage::sign(&alice, draft.stamp(stamp, &Limits::default())?);
//! let flight = ifmsg::decode(&Bytes::from(message.to_json()), &Limits::default())?;
//! assert_eq!(flight.key_id(), alice.key_id());
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! No I/O, no async, no clock of its own, no randomness of its own: all of that is handed in. Builds for wasm32.

mod admission;
mod codec;
mod flight;
mod id;
mod key;
mod merkle;
mod message;
mod performative;
mod replay;
mod time;
mod trust;

pub mod canonical;
pub mod hex;

pub use admission::{
    Admission, Admitted, DEFAULT_MAX_AGE, Equivocation, Host, Now, RejectedMessage, Rejection,
    VerifiedMessage,
};
pub use codec::{
    DecodeError, FrameError, NotOneFlight, SignatureError, UnverifiedFlight, decode, encode_binary,
};
pub use flight::{FlightSize, MAX_FLIGHT, SignedMessage, sign_flight};
pub use id::{AgentId, Destination, InvalidId, MAX_ID_LEN, MessageId};
pub use key::{
    BadSignature, Identity, InvalidIdentity, InvalidPublicKey, KeyId, PublicKey, SUITE_ED25519_SHA256,
    SignatureBytes, Statement, StatementKind,
};
pub use message::{
    Delivery, Draft, DraftError, Header, Level, MAX_CITATION_LEN, MAX_CITATIONS, MAX_EXTENSIONS,
    MAX_SAFE_INTEGER, MessageDigest, MessageError, Stamp, Stream, TraceId, UnsignedMessage, VERSION,
};
pub use performative::{ExtensionName, InvalidPerformative, Performative};
pub use replay::{EPOCH_GRACE, Mark, Place, ReplayGuard, Verdict, WINDOW};
pub use time::{InvalidTimestamp, Timestamp};
pub use trust::{
    Binding, MAX_LEARNT, Permissions, Revocation, Rotation, RotationError, TrustDocument, TrustDocumentError,
    TrustEntry, TrustError, TrustPolicy, TrustStore,
};
