//! The table of a WebRTC transport, and what is made of it.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use ifmesh_transport::IfTransport;
use ifmesh_transport_webrtc::{
    Drill, IceServer, MeshMode, StartError, WebRtcConfig, WebRtcLimits, WebRtcTransport,
};
use ifmsg::AgentId;
use schemars::JsonSchema;
use serde::Deserialize;

use super::{
    Backend, BackendContext, BackendError, read,
    signaling::{bounded, check_urls, seconds, tls},
};

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
    /// Signaling servers, best first: `ws://host:port`, `wss://host:port`.
    pub signaling: Vec<String>,
    /// The certificate authorities that vouch for `wss://` servers, a PEM file; those that the web trusts, if left out.
    pub ca: Option<PathBuf>,
    /// The name of the signaling server: none that calls itself something else is registered with.
    #[schemars(with = "Option<String>")]
    pub server_id: Option<AgentId>,
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
    /// What peers and servers may use up, and how long things may take.
    #[serde(default)]
    pub limits: WebRtcLimitsSection,
}

/// The table `[transport.webrtc.limits]`. What is left out is as [`WebRtcLimits`] has it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WebRtcLimitsSection {
    /// Peers known at once: 256. Of more, nothing is taken.
    pub max_peers: Option<usize>,
    /// Bytes that wait for one peer, on each lane: 1048576.
    pub queue_bytes: Option<usize>,
    /// Bytes of messages over 64 KiB that wait for one peer, besides those: 16908288.
    pub bulk_bytes: Option<usize>,
    /// Bytes that were received, from all peers, and wait for the session: 8388608.
    pub event_bytes: Option<usize>,
    /// Links that are being set up at once, in each direction: 16.
    pub max_setups: Option<usize>,
    /// From an offer to a link: 10.
    pub handshake_timeout_seconds: Option<u64>,
    /// Silence after which a link is given up: 10. After a quarter of it another path is looked for.
    pub silence_seconds: Option<u64>,
    /// The longest wait between two tries to link: 10, and up to as much again.
    pub backoff_max_seconds: Option<u64>,
    /// A peer that takes nothing for so long is reported: 10,
    pub stall_report_seconds: Option<u64>,
    /// and for so long, is disconnected: 60.
    pub stall_limit_seconds: Option<u64>,
    /// Between two tries to get back to a signaling server further up in the list: 30.
    pub return_interval_seconds: Option<u64>,
}

impl WebRtcLimitsSection {
    fn limits(&self) -> Result<WebRtcLimits, BackendError> {
        const MIB: usize = 1 << 20;
        let mut limits = WebRtcLimits::default();
        let into = &mut limits;
        bounded("max_peers", self.max_peers, 1, 100_000, |n| into.max_peers = n)?;
        bounded("queue_bytes", self.queue_bytes, 65_536, 1_024 * MIB, |n| {
            into.queue_bytes = n
        })?;
        bounded("bulk_bytes", self.bulk_bytes, 65_536, 1_024 * MIB, |n| {
            into.bulk_bytes = n
        })?;
        bounded("event_bytes", self.event_bytes, 65_536, 1_024 * MIB, |n| {
            into.event_bytes = n
        })?;
        bounded("max_setups", self.max_setups, 1, 1_000, |n| into.max_setups = n)?;
        seconds(
            "handshake_timeout_seconds",
            self.handshake_timeout_seconds,
            600,
            &mut into.handshake_timeout,
        )?;
        seconds("silence_seconds", self.silence_seconds, 60, &mut into.silence)?;
        seconds(
            "backoff_max_seconds",
            self.backoff_max_seconds,
            3_600,
            &mut into.backoff_max,
        )?;
        // After a little more than a minute SCTP has given up anyway.
        seconds(
            "stall_report_seconds",
            self.stall_report_seconds,
            60,
            &mut into.stall_report,
        )?;
        seconds(
            "stall_limit_seconds",
            self.stall_limit_seconds,
            60,
            &mut into.stall_limit,
        )?;
        seconds(
            "return_interval_seconds",
            self.return_interval_seconds,
            3_600,
            &mut into.return_interval,
        )?;
        Ok(limits)
    }
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
        check_urls(&section.signaling)?;
        tls(section.ca.as_deref(), &section.signaling)?;
        section.limits.limits().map(drop)
    }

    async fn start(
        &self,
        table: &toml::Table,
        context: BackendContext,
    ) -> Result<Arc<dyn IfTransport>, BackendError> {
        let section: WebRtcSection = read(table)?;
        let tls = tls(section.ca.as_deref(), &section.signaling)?;
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
        config.tls = tls;
        config.server_id = section.server_id;
        config.limits = section.limits.limits()?;
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends where something is wrong")]
mod tests {
    use super::*;

    #[test]
    fn the_example_names_every_limit_with_its_default() {
        let example: toml::Table = toml::from_str(crate::config::EXAMPLE).unwrap();
        let limits: WebRtcLimitsSection = example["transport"]["webrtc"]["limits"]
            .clone()
            .try_into()
            .unwrap();
        assert!(!format!("{limits:?}").contains("None"), "{limits:?}");
        assert_eq!(limits.limits().unwrap(), WebRtcLimits::default());
    }

    #[test]
    fn limits_out_of_bounds_are_refused_by_name() {
        for (line, wanted) in [
            (
                "silence_seconds = 61",
                "limits.silence_seconds is 61; 1 to 60 is allowed",
            ),
            ("queue_bytes = 10", "limits.queue_bytes is 10; 65536 to"),
            ("silence = 1", "unknown field `silence`"),
        ] {
            let file = format!("signaling = [\"ws://a\"]\n[limits]\n{line}");
            let error = WebRtc::default()
                .check(&toml::from_str(&file).unwrap())
                .unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }

    #[test]
    fn an_authority_protects_no_plain_server_and_must_be_there() {
        for (file, wanted) in [
            (
                "signaling = [\"wss://a\", \"ws://a\"]\nca = \"/dev/null\"",
                "\"ws://a\" is none",
            ),
            (
                "signaling = [\"wss://a\"]\nca = \"/nowhere/ca.pem\"",
                "ca: /nowhere/ca.pem: ",
            ),
            ("signaling = [\"wss://a\"]\nca = \"/dev/null\"", "no certificate"),
        ] {
            let error = WebRtc::default()
                .check(&toml::from_str(file).unwrap())
                .unwrap_err();
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }
}
