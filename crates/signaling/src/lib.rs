//! Signaling: how two agents that cannot reach each other yet exchange offers, answers and candidates.
//!
//! One JSON object per WebSocket text frame. The [`Server`] relays; it is **not trusted**: it can delay, drop and invent
//! frames, and all that gains it is that no connection comes up, because every offer and answer carries a
//! [`SignedDescription`] that only the agent itself can make, and [`verify_description`] refuses everything else.
//!
//! - [`ClientFrame`], [`ServerFrame`]: the frames, both directions.
//! - [`sign_description`], [`verify_description`], [`registration_statement`]: what is signed, byte for byte.
//! - [`Server`]: introduces, proves who registers, bounds everything a client can fill. It also passes [`RelayFrame`]s on
//!   between sockets of the role [`Relay`](SocketRole::Relay), and hands out STUN and TURN servers ([`IceConfig`]).
//! - [`Client`]: registers, reconnects, goes where a server that ends sends it, hands out [`Event`]s.
//! - [`ServerTls`], [`ClientTls`]: `wss://`.
//!
//! ```
//! use ifmesh_signaling::{Client, ClientConfig, Event, Server, ServerConfig, Signal};
//! use ifmsg::{AgentId, Identity};
//! # use rand::SeedableRng;
//! # fn random() -> rand::rngs::StdRng { rand::rngs::StdRng::from_seed([1; 32]) }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let server = Server::bind(
//!     ServerConfig::new("127.0.0.1:0".parse()?, AgentId::new("signaling-1")?),
//!     random(),
//! )
//! .await?;
//!
//! let urls = [format!("ws://{}", server.local_addr())];
//! let (a, b) = (AgentId::new("agent-a")?, AgentId::new("agent-b")?);
//! let mut alice = Client::connect(ClientConfig::new(&urls, a, Identity::generate(&mut random()), 1), random())?;
//! let Some(Event::Registered { agents, .. }) = alice.recv().await else { panic!() };
//! assert!(agents.is_empty());
//!
//! let bob = Client::connect(ClientConfig::new(&urls, b.clone(), Identity::generate(&mut random()), 1), random())?;
//! let Some(Event::Joined(agent)) = alice.recv().await else { panic!() };
//! alice.send(agent.agent_id, Signal::Candidate(Default::default())).await?;
//!
//! bob.close().await;
//! assert_eq!(alice.recv().await, Some(Event::Left(b)));
//! server.shutdown().await;
//! # Ok(())
//! # }
//! ```

mod client;
mod flag;
mod protocol;
mod relay;
mod server;
mod spelling;
mod statement;
mod stream;
mod tls;

pub use client::{
    Client, ClientConfig, ClientLimits, DisconnectReason, Event, InvalidClientConfig, Refusal, RelayPermit,
    RelaySender, SendError, SignalSender,
};
pub use protocol::{
    AgentInfo, AnswerFrame, CandidateFrame, ClientFrame, ErrorCode, FrameError, FrameLimits, IceCandidate,
    IceServer, IceServers, MAX_SAFE_INTEGER, Nonce, OfferFrame, RelayTerms, ServerFrame, Signal, SocketRole,
};
pub use relay::{RELAY_FRAME_COST, RelayFrame};
pub use server::{
    BindError, IceConfig, RegistrationMode, RelayLimits, Server, ServerConfig, ServerLimits, ServerMetrics,
    close_code,
};
pub use statement::{
    DEFAULT_DESCRIPTION_TTL_MILLIS, DescriptionRejected, DescriptionToSign, ExpectedDescription,
    MAX_DESCRIPTION_TTL_MILLIS, Role, SdpError, SessionId, Sha256Digest, SignedDescription,
    VerifiedDescription, registration_statement, sdp_identity, sign_description, verify_description,
};
pub use tls::{ClientTls, ServerTls, TlsError};
