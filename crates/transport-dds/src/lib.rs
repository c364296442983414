//! IFMessages over DDS/RTPS, without any server.
//!
//! [`DdsTransport`] is an [`IfTransport`](ifmesh_transport::IfTransport): agents on one LAN, one vehicle or one machine find
//! each other by DDS discovery and a signed presence, and exchange frames through an inbox topic for each life of each of
//! them. The types are in `idl/ifmesh.idl`; agents over other DDS implementations can take part. The wire is in
//! PROTOCOL.md, section 11; what strangers on the domain can do, in SECURITY.md.
//!
//! 1. **Presence** is a keyed, transient-local topic of signed statements. Whoever is not trusted is shown as
//!    [`Refused`](ifmesh_transport::TransportEvent::Refused), and gets nothing.
//! 2. **Hello.** A link is up when a signed hello that answers ours came into our own inbox. That DDS has matched endpoints
//!    does not mean that they work.
//! 3. **Heartbeats** are signed, and give credit: what DDS acknowledges is cached, not taken. 3 s of silence end a link.
//!
//! Nothing is announced or sent but on loopback unless [`DdsConfig::interfaces`] says so.
//!
//! # What it costs
//! `cargo bench -p ifmesh-transport-dds` compares it with bare `rustdds` on samples of the same type, size and QoS, whose
//! receiving program acknowledges what it takes, at 300 B, in one run and turn by turn. These are the medians of 14 runs on a virtual
//! machine with two cores, on a host that was busy with others, which shows in how long signatures took:
//!
//! | | a second | round trip |
//! |---|---|---|
//! | `rustdds`, samples | 179,000 to 237,000 | 111 to 136 us; 228 to 297 us where the program signs and verifies |
//! | this transport, unsigned frames | 0.80 to 1.08 of that, 0.90 in the median | 4 us less to 6 us more |
//! | a session over it, signed and acknowledged messages, about 50 under one signature | 0.76 to 1.03 of that, 0.86 in the median | 12 to 46 us more than the program that signs; see below |
//!
//! **Round trips.** A message must be signed at one end and verified at the other, and so must its answer. The measure is a program that
//! does this with `ed25519-dalek` on samples of bare `rustdds`, and nothing else: numbers nothing, checks no repetition, reads no
//! JSON. How much longer a session takes goes with how busy the host is. While two signatures and their verification took no longer
//! than in a loop, 93 to 97 us, nearly the same code took 0 to 22 us more than the program, 9 in the median of eleven runs; where
//! these took 110 to 113 us, 19 to 36, and at 114 to 123 us 32 to 46.
//!
//! It is not work. `cargo bench -p ifmesh-transport` lets two sessions talk with nothing in between: a round trip costs 0.94 to 0.96 of
//! what two signatures and two strict verifications by the library cost (1.08 in one run of five), since keys that sign often are
//! verified by a table. What is left is that between two messages the core does other things, its caches forget, and a session
//! has more to remember than that program: with marks in the code, its steps take three to four times as long over DDS as in a
//! loop. Link-time optimisation of everything as one unit, as release builds have it, was worth 5 to 10 us. Another allocator, optimising
//! for size, and a history of messages that is copied instead of kept brought nothing that stood out from the spread.
//!
//! **Memory.** A reliable writer of `rustdds` drops what was acknowledged only every 6 s, whatever its QoS says. What it holds until then
//! is bounded by what it is given: [`DdsLimits::kept_bytes`], 512 MiB for each peer, of which an eighth may be sent at once, and as
//! much in each second after. 150,000 messages of 300 B a second, about 50 in one frame, take three quarters of that pace; single frames of 300 B are
//! held to 80,000 a second in the long run, and messages to 200,000. The record of reliable broadcasts has a bound of the same size
//! for itself; what comes faster than that is not put on it, and counted ([`DdsMetrics::bus_dropped`]). `tests/memory_of_*.rs`: 128 MiB in
//! frames of 16 KiB took 78 MB with 64 MiB of `kept_bytes`, the reader's samples included, and 155 MB with 512 MiB; as broadcasts,
//! which are on record, too, 118 MB with 64 MiB.
//!
//! ```no_run
//! use std::sync::Arc;
//! use ifmesh_transport::{Envelope, IfTransport as _, Lane, PeerTrust, SystemClock, TransportEvent};
//! use ifmesh_transport_dds::{DdsAgent, DdsConfig, DdsTransport};
//! use ifmsg::{AgentId, Identity};
//! # use rand::{SeedableRng, rngs::StdRng};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let bob = *Identity::from_seed(&[2; 32]).public_key();
//! let keys = move |peer: &AgentId| match peer.as_str() {
//!     "bob" => PeerTrust::Key(bob),
//!     _ => PeerTrust::Refuse,
//! };
//! let agent = DdsAgent {
//!     agent: AgentId::new("alice")?,
//!     identity: Identity::from_seed(&[1; 32]),
//!     epoch: 1,
//!     keys: Arc::new(keys),
//! };
//! # let random = Box::new(StdRng::from_seed([7; 32]));
//! let alice = DdsTransport::start(DdsConfig::default(), agent, Arc::new(SystemClock), random).await?;
//! while let Ok(event) = alice.recv().await {
//!     if let TransportEvent::LinkUp { peer } = event {
//!         alice.send(Envelope::new(peer, Lane::Reliable, "a frame")).await?;
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod board;
mod config;
mod engine;
mod error;
mod hub;
mod link;
mod meter;
mod queues;
mod record;
mod sending;
mod statement;
mod transport;
mod warning;
mod wire;

pub use config::{
    DdsAgent, DdsConfig, DdsConfigError, DdsLimits, Durability, History, Interfaces, NO_SECURITY, Profile,
    Reliability, TopicProfiles,
};
pub use error::StartError;
pub use transport::{DdsMetrics, DdsTransport};
