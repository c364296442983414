//! The table of a WebRTC transport, and what is made of it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use ifmesh_transport::IfTransport;
use ifmesh_transport_webrtc::{Drill, IceServer, MeshMode, StartError, WebRtcConfig, WebRtcTransport};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Backend, BackendContext, BackendError, read};

/// `kind = "webrtc"`: DataChannels between agents that a signaling server introduces.
#[derive(Debug, Clone, Default)]
pub struct WebRtc {
    /// Lets somebody rehearse failures.
    pub drill: Option<Drill>,
}

/// The table `[transport.webrtc]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WebRtcSection {
    /// Signaling servers, tried in turn: `ws://host:port`, `wss://host:port`.
    pub signaling: Vec<String>,
    /// The local addresses to offer; all of the machine's, if empty.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub addresses: Vec<IpAddr>,
    /// STUN and TURN servers, for peers behind NATs.
    #[serde(default)]
    pub ice_servers: Vec<IceServerSection>,
    /// Which paths may be taken.
    #[serde(default)]
    pub ice_transport_policy: IceTransportPolicy,
    /// With whom to keep links: `full` is with everybody, `on-demand` with those who are sent to.
    #[serde(default)]
    pub mesh: MeshModeName,
    /// On demand: a link that was not used for so long is closed.
    #[serde(default = "default_idle")]
    pub idle_seconds: u64,
    /// On demand: most links at a time; the one that was not used for longest gives way.
    #[serde(default = "default_connections")]
    pub max_connections: usize,
}

fn default_idle() -> u64 {
    60
}

fn default_connections() -> usize {
    64
}

/// The key `mesh`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum MeshModeName {
    /// With everybody, at once.
    #[default]
    Full,
    /// With those who are sent to.
    OnDemand,
}

/// One of `ice_servers`.
#[derive(Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct IceServerSection {
    /// `stun:host:port`, `turn:host:port`. TURN goes over UDP.
    pub urls: Vec<String>,
    /// Empty for STUN.
    #[serde(default)]
    pub username: String,
    /// Empty for STUN. Never shown.
    #[serde(default)]
    pub credential: String,
}

impl fmt::Debug for IceServerSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServerSection")
            .field("urls", &self.urls)
            .finish_non_exhaustive()
    }
}

/// The key `ice_transport_policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum IceTransportPolicy {
    /// Every path, the straightest that works.
    #[default]
    All,
    /// Only by way of a TURN server, so that peers do not learn this machine's addresses.
    Relay,
}

#[async_trait]
impl Backend for WebRtc {
    fn check(&self, table: &toml::Table) -> Result<(), BackendError> {
        let section: WebRtcSection = read(table)?;
        super::relay::check_signaling(&section.signaling)
    }

    async fn start(
        &self,
        table: &toml::Table,
        context: BackendContext,
    ) -> Result<Arc<dyn IfTransport>, BackendError> {
        let section: WebRtcSection = read(table)?;
        let mut config = WebRtcConfig::new(
            context.agent,
            context.identity,
            context.epoch,
            section.signaling,
            context.keys,
        );
        if !section.addresses.is_empty() {
            let bind = section
                .addresses
                .iter()
                .map(|address| SocketAddr::new(*address, 0));
            config.bind = bind.collect();
        }
        let server = |server: IceServerSection| IceServer {
            urls: server.urls,
            username: server.username,
            credential: server.credential,
        };
        config.ice_servers = section.ice_servers.into_iter().map(server).collect();
        config.relay_only = section.ice_transport_policy == IceTransportPolicy::Relay;
        config.observer = context.observer;
        config.drill.clone_from(&self.drill);
        if section.mesh == MeshModeName::OnDemand {
            config.mesh = MeshMode::OnDemand {
                idle: Duration::from_secs(section.idle_seconds),
                max_connections: section.max_connections,
            };
        }
        match WebRtcTransport::start(config, context.clock, crate::random()).await {
            Ok(transport) => Ok(transport),
            Err(error @ StartError::Unreachable { .. }) => Err(BackendError::Unavailable(error.to_string())),
            Err(error) => Err(BackendError::Config(error.to_string())),
        }
    }
}
