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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends where something is wrong")]
mod tests {
    use super::*;

    /// The example's table of comments says what holds without it, and leaves out no key of the schema.
    #[test]
    fn the_example_names_every_key_with_its_default() {
        let lines = crate::config::EXAMPLE.lines();
        let lines = lines.skip_while(|line| *line != "# [transport.dds]");
        let lines = lines.take_while(|line| !line.is_empty());
        let text: String = lines
            .map(|line| line.strip_prefix("# ").unwrap().to_owned() + "\n")
            .collect();
        let example: toml::Table = toml::from_str(&text).unwrap();
        let table = example["transport"]["dds"].as_table().unwrap();
        assert_eq!(read::<DdsConfig>(table).unwrap(), DdsConfig::default());
        let schema = crate::Config::schema();
        for named in ["DdsConfig", "TopicProfiles", "ProfileTable"] {
            let properties = schema["$defs"][named]["properties"].as_object().unwrap();
            assert!(properties.len() >= 5, "{named}");
            for key in properties.keys().filter(|key| *key != "kind") {
                let shown =
                    text.contains(&format!("{key} = ")) || text.contains(&format!("[transport.dds.{key}"));
                assert!(shown, "{named}: {key} is not in the example");
            }
        }
    }
}
