//! What is made of the table of a DDS transport, which its crate reads.

use std::sync::Arc;

use async_trait::async_trait;
use ifmesh_transport::IfTransport;
use ifmesh_transport_dds::{DdsAgent, DdsConfig, DdsTransport, StartError};

use super::{Backend, BackendContext, BackendError, read};

/// `kind = "dds"`: DDS/RTPS between agents on one machine or one network, without a server.
#[derive(Debug, Clone, Copy, Default)]
pub struct Dds;

#[async_trait]
impl Backend for Dds {
    fn check(&self, table: &toml::Table) -> Result<(), BackendError> {
        let config: DdsConfig = read(table)?;
        config
            .check()
            .map_err(|error| BackendError::Config(error.to_string()))
    }

    async fn start(
        &self,
        table: &toml::Table,
        context: BackendContext,
    ) -> Result<Arc<dyn IfTransport>, BackendError> {
        let agent = DdsAgent {
            agent: context.agent,
            identity: context.identity,
            epoch: context.epoch,
            keys: context.keys,
        };
        match DdsTransport::start(read(table)?, agent, context.clock, crate::random()).await {
            Ok(transport) => Ok(transport),
            Err(error @ StartError::Participant { .. }) => Err(BackendError::Unavailable(error.to_string())),
            Err(error) => Err(BackendError::Config(error.to_string())),
        }
    }
}
