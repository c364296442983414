//! Keys that the trust policy learnt (`tofu`, `self-certifying`), kept in the state folder: the trust file stays its author's.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use ifmesh_transport::{Observer, SessionEvent};
use ifmsg::{AgentId, PublicKey, TrustDocument, TrustEntry, TrustStore};
use serde::{Deserialize, Serialize};

use crate::{StateError, state::replace};

/// Writes each newly learnt key to disk as soon as it is learnt.
#[derive(Debug)]
pub(crate) struct PinKeeper {
    path: PathBuf,
    pins: Mutex<Pins>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pins {
    #[serde(default)]
    agents: BTreeMap<AgentId, String>,
}

impl PinKeeper {
    /// Reads what former runs learnt, and adds it to the configured trust. What is configured wins.
    pub(crate) fn open(state: &Path, configured: &TrustStore) -> Result<(Self, TrustStore), StateError> {
        let path = state.join("learnt.toml");
        let damaged = |problem: String| StateError::Damaged {
            path: path.clone(),
            problem,
        };
        let pins: Pins = match fs::read_to_string(&path) {
            Ok(text) => toml::from_str(&text).map_err(|error| damaged(error.to_string()))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Pins::default(),
            Err(error) => return Err(StateError::Io { path, error }),
        };
        let mut document = TrustDocument::from(configured);
        for (agent, key) in &pins.agents {
            document
                .agents
                .entry(agent.clone())
                .or_insert_with(|| TrustEntry {
                    key: key.clone(),
                    levels: [1, 2].into(),
                    broadcast: true,
                    learnt: true,
                });
        }
        let trust = TrustStore::try_from(&document).map_err(|error| damaged(error.to_string()))?;
        Ok((
            Self {
                path: path.clone(),
                pins: Mutex::new(pins),
            },
            trust,
        ))
    }

    fn pin(&self, agent: &AgentId, key: &PublicKey) {
        let text = {
            let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
            pins.agents.insert(agent.clone(), key.to_hex());
            toml::to_string(&*pins)
        };
        let written = text
            .map_err(|error| error.to_string())
            .and_then(|text| replace(&self.path, text.as_bytes()).map_err(|error| error.to_string()));
        if let Err(error) = written {
            tracing::error!(path = %self.path.display(), %agent, %error, "a learnt key is not on disk: the next run learns anew");
        }
    }
}

impl Observer for PinKeeper {
    fn on_event(&self, event: &SessionEvent) {
        if let SessionEvent::Pinned { agent, key } = event {
            self.pin(agent, key);
        }
    }
}
