//! IFMessages over WebRTC DataChannels.
//!
//! [`WebRtcTransport`] is an [`IfTransport`](ifmesh_transport::IfTransport): it registers at a signaling server, connects to
//! every agent there whom its [`PeerKeys`] trust, and carries frames over two data channels, one ordered and reliable, one
//! best effort. The server only introduces; it is not trusted:
//!
//! 1. Offers and answers carry a statement that the agent signed ([`ifmesh_signaling`]); what does not verify never reaches
//!    the WebRTC stack.
//! 2. DTLS proves that the other end holds the certificate that the statement names.
//! 3. The first message each way on the data channel is a hello, signed over both certificates, both names, both epochs
//!    (see below). Only then is there a `LinkUp`, and only then do frames pass.
//!
//! ```
//! use std::sync::Arc;
//! use ifmesh_signaling::{Server, ServerConfig};
//! use ifmesh_transport::{Envelope, IfTransport as _, Lane, SystemClock, TransportEvent};
//! use ifmesh_transport_webrtc::{PeerTrust, WebRtcConfig, WebRtcTransport};
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
//!     let mut config = WebRtcConfig::new(id, identity, 1, urls, Arc::new(keys));
//!     config.bind = vec!["127.0.0.1:0".parse()?];
//!     let started = WebRtcTransport::start(config, Arc::new(SystemClock), random(seed)).await?;
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

mod board;
mod config;
mod connection;
// The engine is complete in itself; the transport on top of it uses most of it.
#[allow(dead_code)]
mod engine;
mod error;
#[cfg(test)]
mod healing_tests;
mod hello;
mod hub;
mod negotiation;
mod notices;
mod pacing;
mod peer;
mod probing;
#[cfg(test)]
mod tests;
mod transport;

pub use config::{Drill, IceServer, MeshMode, WebRtcConfig, WebRtcLimits};
pub use error::StartError;
pub use ifmesh_transport::{PeerKeys, PeerTrust};
pub use transport::{WebRtcMetrics, WebRtcTransport};
