//! A deterministic mesh in memory: any number of agents in one process, every fault a network has, virtual time.
//!
//! **The one invariant: the same seed and the same calls give the same trace, byte for byte.** A property test that fails
//! with seed 42 fails with seed 42 tomorrow.
//!
//! ```
//! use std::time::Duration;
//! use bytes::Bytes;
//! use ifmesh_transport::{Envelope, IfTransport, Lane};
//! use ifmesh_transport_mem::{Faults, simulate};
//!
//! let ms = Duration::from_millis;
//! let took = simulate(42, async |mesh| {
//!     let alice = mesh.join("alice").unwrap();
//!     let bob = mesh.join("bob").unwrap();
//!     mesh.faults(Faults::none().latency(ms(5)..=ms(50))).unwrap();
//!     alice.send(Envelope::new(bob.id().clone(), Lane::Reliable, Bytes::from("hello"))).await.unwrap();
//!     bob.recv().await.unwrap(); // LinkUp
//!     bob.recv().await.unwrap(); // the frame
//!     mesh.now()
//! })
//! .unwrap();
//! assert!(took >= ms(5) && took <= ms(51)); // virtual: no real time passed
//! ```
//!
//! # What keeps it deterministic, and what can break it
//! - Fates (lost? twice? how late?) are a pure function of seed, sender, receiver and the frame's number on that link. So
//!   another agent, or another fault on another link, changes nobody's luck.
//! - Events of the same instant happen in the order in which they were scheduled.
//! - Run on a current-thread runtime with paused time, as [`simulate`] makes it. On any other runtime the mesh works, but
//!   the order of your tasks is not its to decide.
//! - Your own code must play along: `select!` without `biased` draws from a random source that cannot be seeded, and the
//!   order of a `HashMap` differs from run to run.
//! - Tokio's timers tick in milliseconds: what is due at 1.2 ms is handed out at 2 ms. The trace tells the exact time.

mod agents;
mod config;
mod dice;
mod error;
mod faults;
mod mesh;
mod network;
mod trace;
mod transport;

pub use agents::{Agents, Disk, draft};
pub use config::MeshConfig;
pub use error::{FaultsError, MeshError};
pub use faults::Faults;
pub use mesh::{Mesh, simulate, simulate_with};
pub use trace::{Counts, Trace};
pub use transport::MemTransport;
