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
//! `cargo bench -p ifmesh-transport-dds` compares it with bare `rustdds` on samples of the same type, size and QoS, at 300 B, in one run
//! and turn by turn. A program that sends bare samples must acknowledge what it takes, and sign what it sends: bursts of bare samples
//! are acknowledged by the receiving program, and round trips are measured beside the sum of a bare round trip and what two signatures
//! and two strict verifications by `ed25519-dalek` take in it. On a virtual machine with two cores, medians of several runs and
//! their range, which is wide: it depends on what else the host of such a machine does.
//!
//! | seven runs | |
//! |---|---|
//! | `rustdds`, samples a second | 166,000 (149,000 to 185,000) |
//! | this transport, unsigned frames | 0.89 of that (0.70 to 1.10) |
//! | a session over it: signed and acknowledged messages, about 50 under one signature | 0.91 of that (0.77 to 1.27) |
//!
//! | round trips, by who shares a core; eight runs while the host was quiet | `rustdds` | signing and verifying | a session |
//! |---|---|---|---|
//! | the programs on one core, `rustdds` on the other | 83 us | 124 us | 27 us (21 to 29) *less* than the sum |
//! | as it comes | 85 us | 125 us | 10 us more than the sum (13 less to 22 more) |
//! | each agent on a core of its own | 85 us | 125 us | 14 us (11 to 20) more than the sum |
//!
//! While the host was busy, signing and all else took up to a third longer, and a session up to 60 us more than the sum.
//!
//! A session saves about 19 us of each verification, since keys that sign often are verified by a table, and spends about as much on
//! what a program that only signs and verifies does not do: 4 us to read a message, 3 us to check that it is no repetition and to put it
//! in order, 4 us to number and write the answer, and 7 us to pass both from task to task. All of that is less than half where caches
//! are warm: with nothing in between (`cargo bench -p ifmesh-transport`) a round trip of two sessions takes 0.74 to 0.85 of two
//! signatures and verifications by the library on a quiet host. Where the core of a program is also that of its `rustdds`, each finds
//! the caches full of the other's, and `rustdds` itself takes 5 us longer for each sample. Measured, and without an effect beyond 3 us:
//! another allocator, larger and smaller tables, tables fetched ahead, a shorter history of messages, another order of the tasks.
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
mod participant;
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
