//! IFMessages over the WebSocket of a signaling server: a road for networks where UDP is blocked.
//!
//! [`RelayTransport`] is an [`IfTransport`](ifmesh_transport::IfTransport). It registers at a signaling server that relays, and
//! links with every agent there whom its [`PeerKeys`] trust. Frames travel as binary WebSocket frames that name their
//! addressee; the server puts the author's name in its place and passes them on, without looking inside.
//!
//! - **The server is not trusted.** A link comes up when each side has proved its key to the other, over nonces that the
//!   other one chose (see below). What a server adds, changes or repeats after that is refused by the session above, whose
//!   signatures it does not touch.
//! - **Credit.** A receiver says what it has taken; a sender has no more than a window outstanding for each peer. So a
//!   receiver that stalls stops those who send to it, and nobody else, and what waits at the server is bounded.
//! - **Large frames** travel in [chunks](ifmesh_transport::Splitter), and small ones pass between them.
//!
//! ```
//! use std::sync::Arc;
//! use ifmesh_signaling::{Server, ServerConfig};
//! use ifmesh_transport::{Envelope, IfTransport as _, Lane, PeerTrust, SystemClock, TransportEvent};
//! use ifmesh_transport_relay::{RelayConfig, RelayTransport};
//! use ifmsg::{AgentId, Identity};
//! # use rand::{SeedableRng, rngs::StdRng};
//! # fn random(seed: u8) -> Box<StdRng> { Box::new(StdRng::from_seed([seed; 32])) }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = ServerConfig::new("127.0.0.1:0".parse()?, AgentId::new("signaling-1")?);
//! let server = Server::bind(config, *random(0)).await?;
//!
//! let start = async |name: &str, seed: u8| {
//!     let keys = |peer: &AgentId| match peer.as_str() {
//!         "alice" => PeerTrust::Key(*Identity::from_seed(&[1; 32]).public_key()),
//!         "bob" => PeerTrust::Key(*Identity::from_seed(&[2; 32]).public_key()),
//!         _ => PeerTrust::Refuse,
//!     };
//!     let urls = [format!("ws://{}", server.local_addr())];
//!     let (id, identity) = (AgentId::new(name)?, Identity::from_seed(&[seed; 32]));
//!     let config = RelayConfig::new(id, identity, 1, urls, Arc::new(keys));
//!     let started = RelayTransport::start(config, Arc::new(SystemClock), random(seed)).await?;
//!     Ok::<_, Box<dyn std::error::Error>>(started)
//! };
//! let (alice, bob) = (start("alice", 1).await?, start("bob", 2).await?);
//!
//! assert!(matches!(alice.recv().await?, TransportEvent::LinkUp { .. }));
//! alice.send(Envelope::new(AgentId::new("bob")?, Lane::Reliable, "a frame")).await?;
//! assert!(matches!(bob.recv().await?, TransportEvent::LinkUp { .. }));
//! let TransportEvent::Frame { frame, .. } = bob.recv().await? else { panic!() };
//! assert_eq!(frame, "a frame");
//! alice.close().await?;
//! # Ok(())
//! # }
//! ```
#![doc = include_str!("hello.md")]

mod config;
mod error;
mod hello;
mod hub;
mod link;
mod outbound;
mod state;
mod transport;
mod wire;

pub use config::{RelayConfig, RelayLinkLimits};
pub use error::StartError;
pub use ifmesh_transport::{PeerKeys, PeerTrust};
pub use transport::{RelayMetrics, RelayTransport};
