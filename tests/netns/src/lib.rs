//! Networks for tests, made of Linux network namespaces: nothing outside is reached, nothing outside disturbs, and tests run
//! side by side because each has networks of its own.
//!
//! The small one is [`isolate`]: the calling thread, and all that it starts, gets a loopback interface of its own, with
//! multicast.
//!
//! The large one is a [`Network`]: [`Host`]s on [`Lan`]s, joined by NATs of every [`NatKind`], with delay,
//! reordering, loss and blackouts when the test says so. Programs run on a host by [`Host::command`], threads by [`Host::enter`].
//!
//! ```no_run
//! use ifmesh_testnet::{Cut, NatKind, Network};
//!
//! # fn main() -> Result<(), ifmesh_testnet::Error> {
//! let network = Network::new()?;
//! let (internet, home) = (network.lan()?, network.lan()?);
//! let server = network.host("server")?;
//! server.join(&internet, "203.0.113.1/24")?;
//! let nat = network.nat("nat", NatKind::PortRestricted, (&internet, "203.0.113.2/24"), (&home, "10.0.0.1/24"))?;
//! let laptop = network.host("laptop")?;
//! laptop.join(&home, "10.0.0.2/24")?;
//! laptop.route("default", "10.0.0.1")?;
//!
//! laptop.loss(5.0)?; // per cent, each way
//! nat.cut(Cut::Udp)?;
//! let output = laptop.command("ping").args(["-c1", "203.0.113.1"]).output();
//! # Ok(())
//! # }
//! ```
//!
//! The namespaces have no names: they live while this process holds them, a thread stands in them or a program runs in
//! them. So nothing is left behind, however the test ends, once the programs that it started have ended.
//!
//! It takes Linux, root, Debian's packages `iproute2`, `nftables` and `util-linux`, and for delays `/dev/net/tun`. Where one is missing every function says which, as an
//! [`Error`]: let the test fail with it. Elsewhere than on Linux this crate is empty, and its users leave out their tests.
#![cfg(target_os = "linux")]

mod delay;
mod error;
mod faults;
mod isolate;
mod namespace;
mod nat;
mod network;

pub use error::Error;
pub use faults::Cut;
pub use isolate::isolate;
pub use namespace::Entered;
pub use nat::NatKind;
pub use network::{Host, Lan, Network};
