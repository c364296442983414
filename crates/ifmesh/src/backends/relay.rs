//! The table of a relay transport, and what is made of it.

use std::sync::Arc;

use async_trait::async_trait;
use ifmesh_transport::IfTransport;
use ifmesh_transport_relay::{RelayConfig, RelayTransport, StartError};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Backend, BackendContext, BackendError, read};

/// `kind = "relay"`: by way of a signaling server's WebSocket, where UDP is blocked.
#[derive(Debug, Clone, Copy, Default)]
pub struct Relay;

/// The table `[transport.relay]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct RelaySection {
    /// Signaling servers that relay, tried in turn: `wss://host:443`, `ws://host:port`.
    pub signaling: Vec<String>,
}

#[async_trait]
impl Backend for Relay {
    fn check(&self, table: &toml::Table) -> Result<(), BackendError> {
        check_signaling(&read::<RelaySection>(table)?.signaling)
    }

    async fn start(
        &self,
        table: &toml::Table,
        context: BackendContext,
    ) -> Result<Arc<dyn IfTransport>, BackendError> {
        let section: RelaySection = read(table)?;
        let mut config = RelayConfig::new(
            context.agent,
            context.identity,
            context.epoch,
            section.signaling,
            context.keys,
        );
        config.observer = context.observer;
        match RelayTransport::start(config, context.clock, crate::random()).await {
            Ok(transport) => Ok(transport),
            Err(error @ StartError::Unreachable { .. }) => Err(BackendError::Unavailable(error.to_string())),
            Err(error) => Err(BackendError::Config(error.to_string())),
        }
    }
}

pub(super) fn check_signaling(urls: &[String]) -> Result<(), BackendError> {
    if urls.is_empty() {
        let text = "signaling names no server: signaling = [\"ws://127.0.0.1:8443\"]";
        return Err(BackendError::Config(text.to_owned()));
    }
    let odd = urls
        .iter()
        .find(|url| !url.starts_with("ws://") && !url.starts_with("wss://"));
    odd.map_or(Ok(()), |url| {
        let text = format!("signaling: {url:?} does not begin with ws:// or wss://");
        Err(BackendError::Config(text))
    })
}
