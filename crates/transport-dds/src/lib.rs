//! IFMessages over DDS/RTPS, without any server.
//!
//! [`DdsTransport`] is an [`IfTransport`](ifmesh_transport::IfTransport): agents on one LAN, one vehicle or one machine find
//! each other by DDS discovery and a signed presence, and exchange frames through an inbox topic for each of them. The types
//! are in `idl/ifmesh.idl`; other DDS implementations read and write them.

mod awaited;
mod board;
mod config;
mod engine;
mod error;
mod hub;
mod link;
mod meter;
mod queues;
mod random;
mod statement;
mod transport;
mod warning;
mod wire;

pub use config::{
    DdsAgent, DdsConfig, DdsConfigError, DdsLimits, Durability, History, Interfaces, Profile, Reliability,
    TopicProfiles,
};
pub use error::StartError;
pub use transport::{DdsMetrics, DdsTransport};
