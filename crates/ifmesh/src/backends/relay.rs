//! The table of a relay transport, and what is made of it.

use std::{path::PathBuf, sync::Arc};

use async_trait::async_trait;
use ifmesh_transport::IfTransport;
use ifmesh_transport_relay::{RelayConfig, RelayLinkLimits, RelayTransport, StartError};
use ifmsg::AgentId;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Backend, BackendContext, BackendError, read,
    signaling::{bounded, check_urls, seconds, tls},
};

/// `kind = "relay"`: by way of a signaling server's WebSocket, where UDP is blocked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Relay;

/// The table `[transport.relay]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RelaySection {
    /// Signaling servers that relay, best first: `wss://host:443`, `ws://host:port`.
    pub signaling: Vec<String>,
    /// The certificate authorities that vouch for `wss://` servers, a PEM file; those that the web trusts, if left out.
    pub ca: Option<PathBuf>,
    /// The name of the signaling server: none that calls itself something else is registered with.
    #[schemars(with = "Option<String>")]
    pub server_id: Option<AgentId>,
    /// What peers and servers may use up, and how long things may take.
    #[serde(default)]
    pub limits: RelayLimitsSection,
}

/// The table `[transport.relay.limits]`. What is left out is as [`RelayLinkLimits`] has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RelayLimitsSection {
    /// Peers known at once: 256. Of more, nothing is taken.
    pub max_peers: Option<usize>,
    /// Bytes that wait for one peer, on each lane: 1048576.
    pub queue_bytes: Option<usize>,
    /// Bytes that one peer may send before this side has read them: 262144.
    pub window_bytes: Option<usize>,
    /// Bytes that were received, from all peers, and wait for the session: 67108864.
    pub event_bytes: Option<usize>,
    /// The longest wait between two hellos: 10.
    pub backoff_max_seconds: Option<u64>,
    /// Between pings over a link: 5.
    pub ping_interval_seconds: Option<u64>,
    /// Silence after which a link is given up: 20.
    pub silence_seconds: Option<u64>,
    /// Between two tries to get back to a signaling server further up in the list: 30.
    pub return_interval_seconds: Option<u64>,
}

impl RelayLimitsSection {
    fn limits(&self) -> Result<RelayLinkLimits, BackendError> {
        const MIB: usize = 1 << 20;
        let mut limits = RelayLinkLimits::default();
        let into = &mut limits;
        bounded("max_peers", self.max_peers, 1, 100_000, |n| into.max_peers = n)?;
        bounded("queue_bytes", self.queue_bytes, 65_536, 1_024 * MIB, |n| {
            into.queue_bytes = n
        })?;
        bounded("window_bytes", self.window_bytes, 65_536, 1_024 * MIB, |n| {
            into.window = n
        })?;
        bounded("event_bytes", self.event_bytes, 65_536, 1_024 * MIB, |n| {
            into.event_bytes = n
        })?;
        seconds(
            "backoff_max_seconds",
            self.backoff_max_seconds,
            3_600,
            &mut into.backoff_max,
        )?;
        seconds(
            "ping_interval_seconds",
            self.ping_interval_seconds,
            600,
            &mut into.ping_interval,
        )?;
        seconds("silence_seconds", self.silence_seconds, 3_600, &mut into.silence)?;
        seconds(
            "return_interval_seconds",
            self.return_interval_seconds,
            3_600,
            &mut into.return_interval,
        )?;
        if limits.silence <= limits.ping_interval {
            let text = "limits.silence_seconds must be more than limits.ping_interval_seconds";
            return Err(BackendError::Config(text.to_owned()));
        }
        Ok(limits)
    }
}

#[async_trait]
impl Backend for Relay {
    fn check(&self, table: &toml::Table) -> Result<(), BackendError> {
        let section: RelaySection = read(table)?;
        check_urls(&section.signaling)?;
        tls(section.ca.as_deref(), &section.signaling)?;
        section.limits.limits().map(drop)
    }

    async fn start(
        &self,
        table: &toml::Table,
        context: BackendContext,
    ) -> Result<Arc<dyn IfTransport>, BackendError> {
        let section: RelaySection = read(table)?;
        let tls = tls(section.ca.as_deref(), &section.signaling)?;
        let mut config = RelayConfig::new(
            context.agent,
            context.identity,
            context.epoch,
            section.signaling,
            context.keys,
        );
        config.tls = tls;
        config.server_id = section.server_id;
        config.limits = section.limits.limits()?;
        config.observer = context.observer;
        match RelayTransport::start(config, context.clock, crate::random()).await {
            Ok(transport) => Ok(transport),
            Err(error @ StartError::Unreachable { .. }) => Err(BackendError::Unavailable(error.to_string())),
            Err(error) => Err(BackendError::Config(error.to_string())),
        }
    }
}
