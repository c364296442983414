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
//! receiving program acknowledges what it takes. Each of its figures is a median of seven rounds at 300 B; these are those of
//! five runs on two cores that did nothing else:
//!
//! | | a second | round trip |
//! |---|---|---|
//! | `rustdds`, samples | 222,000 to 229,000 | 93 to 97 us; 209 to 219 us where the program signs and verifies messages itself |
//! | this transport, unsigned frames | 0.81 to 0.92 of that, 0.84 in the median | 2 us less to 7 us more, 3 us more in the median |
//! | a session over it, signed and acknowledged messages, about 50 under one signature | 0.90 to 0.98 of that, 0.92 in the median | 14 to 22 us more than the program that signs, 21 us in the median |
//!
//! Where the two cores were shared, a session was seen at 0.51 to 0.91 of the rate, before a message was written in one pass, and on
//! days when the machine was slower at 77 us more than the program. Link-time optimisation (`thin`), a window of 1,000 messages, and an
//! acknowledgement for each 128 instead of 64 brought nothing that stood out from the spread.
//!
//! That program is the measure of a round trip because the sum of its parts is not what anybody gets. By the clock, signing
//! and verifying both messages takes 102 to 107 us in its round trips, 98 to 101 us in a loop. Added to the round trip of bare
//! `rustdds` that is 10 to 18 us less than the program takes, and 28 to 39 us less than a session does. Most of it is that threads
//! wake later where the program is busy in between: one that spins for as long as signing takes has a round trip of 8 to 21 us
//! more than that sum.
//!
//! What a session adds to the program is work of its own: a round trip is four datagrams in both, and wakes as many
//! threads. Traced, its thread runs for 62 to 68 us from waking to the next write, that of the program for 56. To let those for whom
//! a sample came run before it is looked whether there are more brought nothing that stood out.
//!
//! Where a round trip goes, in microseconds for one way (medians of 14,000, in one run with marks in the code, when each message still
//! brought the acknowledgement of the last one; now one does every 5 ms):
//!
//! | | the program that signs | a session |
//! |---|---|---|
//! | number, write and sign a message; here with the acknowledgement of the last one, 5 us | 23 | 33 |
//! | from the session to the DDS writer | | 2 |
//! | the writer, which wakes the library's thread | 18 | 24 |
//! | that thread, UDP, the thread at the other end, waking the program; 300 B more with an acknowledgement | 61 | 65 |
//! | from the inbox to the session | | 2 |
//! | read and verify; here also the windows, and the acknowledgement | 44 | 53 |
//! | from the session to the application | | 3 |
//!
//! **Memory.** A reliable writer of `rustdds` drops what was acknowledged only every 6 s, whatever its QoS says. What it holds until then
//! is bounded by what it is given: [`DdsLimits::kept_bytes`], 512 MiB for each peer, of which an eighth may be sent at once, and as
//! much in each second after. 150,000 messages of 300 B a second, about 50 in one frame, take three quarters of that pace; single frames of 300 B are
//! held to 80,000 a second in the long run, and messages to 200,000. `tests/memory.rs`: 128 MiB in frames of 16 KiB took 78 MB with 64 MiB of `kept_bytes`, the reader's
//! samples included, and 155 MB with 512 MiB.
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
