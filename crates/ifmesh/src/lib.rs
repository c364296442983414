//! ifmesh: signed agent messages over any transport.
//!
//! An [`Agent`] reads a file, finds its peers, and exchanges messages with them that are signed, verified, acknowledged, in
//! order and delivered once. The `ifmesh` program runs the same agent for any other language, over lines of JSON.

mod agent;
mod backends;
mod circle;
mod config;
mod pins;
mod state;
mod witness;

pub mod setup;

pub use agent::{Agent, AgentBuilder, AgentSendError, StartError};
pub use backends::{
    Backend, BackendContext, BackendError, Backends, Dds, IceServerSection, IceTransportPolicy, MeshModeName,
    Relay, RelayLimitsSection, RelaySection, WebRtc, WebRtcLimitsSection, WebRtcSection,
};
pub use config::{
    Config, ConfigError, EXAMPLE, Explanation, MessageKind, RelayWish, TransportTable, read_identity,
    read_trust,
};
pub use ifmesh_transport::{
    NotAcknowledged, Observer, Outcome, PeerStatus, Receipt, Refusal, Session, SessionEvent, SessionMetrics,
    SubmitError, Taken,
};
pub use ifmesh_transport_webrtc::Drill;
pub use ifmesh_witness::Policy as WitnessPolicy;
pub use ifmsg::{
    AgentId, Delivery, Destination, Draft, Identity, Level, MessageId, Performative, Timestamp,
    VerifiedMessage,
};
pub use state::StateError;
pub use witness::{Witness, WitnessConfig};

/// A cryptographic random source, seeded by the operating system; for keys and nonces.
///
/// # Panics
/// If the operating system has no randomness to give: then no key and no nonce would be worth anything.
pub fn random() -> Box<dyn rand::CryptoRng + Send> {
    Box::new(rand::make_rng::<rand::rngs::StdRng>())
}
