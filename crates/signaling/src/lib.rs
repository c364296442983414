//! Signaling: how two agents that cannot reach each other yet exchange offers, answers and candidates.
//!
//! One JSON object per WebSocket text frame. The [`Server`] relays; it is **not trusted**: it can delay, drop and invent
//! frames, and all that gains it is that no connection comes up, because every offer and answer carries a
//! [`SignedDescription`] that only the agent itself can make, and [`verify_description`] refuses everything else.
//!
//! - [`ClientFrame`], [`ServerFrame`]: the frames, both directions.
//! - [`sign_description`], [`verify_description`], [`registration_statement`]: what is signed, byte for byte.
//! - [`Server`]: relays, proves who registers, bounds everything a client can fill.
//! - [`Client`]: registers, reconnects, hands out [`Event`]s.

mod client;
mod flag;
mod protocol;
mod server;
mod spelling;
mod statement;

pub use client::{
    Client, ClientConfig, ClientLimits, DisconnectReason, Event, InvalidClientConfig, Refusal, SendError,
    SignalSender,
};
pub use protocol::{
    AgentInfo, AnswerFrame, CandidateFrame, ClientFrame, ErrorCode, FrameError, FrameLimits, IceCandidate,
    MAX_SAFE_INTEGER, Nonce, OfferFrame, ServerFrame, Signal,
};
pub use server::{
    BindError, RegistrationMode, Server, ServerConfig, ServerLimits, ServerMetrics, close_code,
};
pub use statement::{
    DEFAULT_DESCRIPTION_TTL_MILLIS, DescriptionRejected, DescriptionToSign, ExpectedDescription,
    MAX_DESCRIPTION_TTL_MILLIS, Role, SdpError, SessionId, Sha256Digest, SignedDescription,
    VerifiedDescription, registration_statement, sdp_identity, sign_description, verify_description,
};
