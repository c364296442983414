//! What an agent is told in its file. `agent.example.toml` beside this crate's manifest shows every key with its default.

use std::{
    fmt, fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use ifmesh_transport::SessionLimits;
use ifmesh_witness::Policy;
use ifmsg::{AgentId, Identity, InvalidIdentity, TrustDocument, TrustDocumentError, TrustStore};
use serde::Deserialize;

use crate::WitnessConfig;

/// The file that documents every key; a test loads it.
pub const EXAMPLE: &str = include_str!("../agent.example.toml");

/// One agent's configuration, read and checked: keys are loaded, paths are resolved against the file's folder.
#[derive(Debug)]
#[non_exhaustive]
pub struct Config {
    /// The agent's name.
    pub agent: AgentId,
    /// Its key.
    pub identity: Identity,
    /// Whom it trusts.
    pub trust: TrustStore,
    /// Where it keeps what it must remember across a restart.
    pub state: PathBuf,
    /// The bounds of its session.
    pub limits: SessionLimits,
    /// How long closing waits for acknowledgements.
    pub linger: Duration,
    /// Where it keeps its witness log, if anywhere.
    pub witness: Option<WitnessConfig>,
    /// How it reaches others.
    pub webrtc: WebRtcSection,
}

/// The table `[transport.webrtc]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct WebRtcSection {
    /// Signaling servers, tried in turn: `ws://host:port`.
    pub signaling: Vec<String>,
    /// The local addresses to offer; all of the machine's, if empty.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// STUN and TURN servers, for peers behind NATs.
    #[serde(default)]
    pub ice_servers: Vec<IceServerSection>,
    /// Which paths may be taken.
    #[serde(default)]
    pub ice_transport_policy: IceTransportPolicy,
}

/// One of `ice_servers`.
#[derive(Clone, PartialEq, Eq, Deserialize)]
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
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IceTransportPolicy {
    /// Every path, the straightest that works.
    #[default]
    All,
    /// Only by way of a TURN server, so that peers do not learn this machine's addresses.
    Relay,
}

/// Why a configuration is refused. Each says which file, which key, and what would be right.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A file that is missing or cannot be read.
    #[error("cannot read {}: {error}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Not TOML, an unknown key, a value of the wrong type.
    #[error("{}: {error}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where and what.
        error: Box<toml::de::Error>,
    },
    /// The private key's file holds no Ed25519 key.
    #[error("{}: {error}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        error: InvalidIdentity,
    },
    /// The trust file is refused.
    #[error("{}: {error}", path.display())]
    Trust {
        /// The file.
        path: PathBuf,
        /// Why.
        error: TrustDocumentError,
    },
    /// The trust file binds another key to this agent, so nobody who shares it would believe this one.
    #[error(
        "{}: the key of {agent} there is not the one in agent.key; run `ifmesh keygen --show KEY` and compare",
        path.display()
    )]
    KeyMismatch {
        /// The trust file.
        path: PathBuf,
        /// The agent.
        agent: AgentId,
    },
    /// A value out of its range.
    #[error("{}: {key} is {value}; {allowed}", path.display())]
    Range {
        /// The file.
        path: PathBuf,
        /// The key.
        key: &'static str,
        /// What it is.
        value: usize,
        /// What it may be.
        allowed: &'static str,
    },
    /// No signaling server is named.
    #[error("{}: transport.webrtc.signaling names no server: signaling = [\"ws://127.0.0.1:8443\"]", path.display())]
    NoSignaling {
        /// The file.
        path: PathBuf,
    },
}

impl Config {
    /// Reads an agent's file and all that it names.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        let path = path.as_ref();
        let document: Document = read_toml(path)?;
        document.resolve(path)
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} ({}) by {}",
            self.agent,
            self.identity.key_id(),
            self.webrtc.signaling.join(", ")
        )
    }
}

/// Reads a trust file.
pub fn read_trust(path: &Path) -> Result<TrustStore, ConfigError> {
    let document: TrustDocument = read_toml(path)?;
    TrustStore::try_from(&document).map_err(|error| ConfigError::Trust {
        path: path.to_owned(),
        error,
    })
}

/// Reads a private key.
pub fn read_identity(path: &Path) -> Result<Identity, ConfigError> {
    let pem = zeroize::Zeroizing::new(read(path)?);
    Identity::from_pkcs8_pem(&pem).map_err(|error| ConfigError::Key {
        path: path.to_owned(),
        error,
    })
}

fn read(path: &Path) -> Result<String, ConfigError> {
    fs::read_to_string(path).map_err(|error| ConfigError::Read {
        path: path.to_owned(),
        error,
    })
}

fn read_toml<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, ConfigError> {
    toml::from_str(&read(path)?).map_err(|error| ConfigError::Syntax {
        path: path.to_owned(),
        error: Box::new(error),
    })
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    agent: AgentSection,
    #[serde(default)]
    session: SessionSection,
    witness: Option<WitnessSection>,
    transport: TransportSection,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct AgentSection {
    id: AgentId,
    key: PathBuf,
    trust: PathBuf,
    state: PathBuf,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct WitnessSection {
    folder: PathBuf,
    #[serde(default)]
    policy: PolicyName,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PolicyName {
    Required,
    #[default]
    BestEffort,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TransportSection {
    webrtc: WebRtcSection,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct SessionSection {
    window_messages: usize,
    window_bytes: usize,
    inbox_messages: usize,
    inbox_bytes: usize,
    max_message_bytes: usize,
    max_age_seconds: u64,
    linger_milliseconds: u64,
}

impl Default for SessionSection {
    fn default() -> Self {
        let limits = SessionLimits::default();
        Self {
            window_messages: limits.window_messages,
            window_bytes: limits.window_bytes,
            inbox_messages: limits.inbox_messages,
            inbox_bytes: limits.inbox_bytes,
            max_message_bytes: 256 * 1024,
            max_age_seconds: limits.max_age.as_secs(),
            linger_milliseconds: 5_000,
        }
    }
}

impl Document {
    fn resolve(self, path: &Path) -> Result<Config, ConfigError> {
        let folder = path.parent().unwrap_or(Path::new("."));
        let (key, trust_file) = (folder.join(&self.agent.key), folder.join(&self.agent.trust));
        let identity = read_identity(&key)?;
        let trust = read_trust(&trust_file)?;
        let agent = self.agent.id;
        if trust
            .binding(&agent)
            .is_some_and(|own| own.key != *identity.public_key())
        {
            return Err(ConfigError::KeyMismatch {
                path: trust_file,
                agent,
            });
        }
        if self.transport.webrtc.signaling.is_empty() {
            return Err(ConfigError::NoSignaling {
                path: path.to_owned(),
            });
        }
        let linger = Duration::from_millis(self.session.linger_milliseconds);
        let limits = self.session.limits(path)?;
        let state = folder.join(&self.agent.state);
        let witness = self.witness.map(|section| {
            let policy = match section.policy {
                PolicyName::Required => Policy::Required,
                PolicyName::BestEffort => Policy::BestEffort,
            };
            WitnessConfig::new(folder.join(section.folder), policy)
        });
        let webrtc = self.transport.webrtc;
        Ok(Config {
            agent,
            identity,
            trust,
            state,
            limits,
            linger,
            witness,
            webrtc,
        })
    }
}

impl SessionSection {
    fn limits(&self, path: &Path) -> Result<SessionLimits, ConfigError> {
        let within = |key, value: usize, least: usize, most: usize, allowed| {
            if (least..=most).contains(&value) {
                return Ok(value);
            }
            Err(ConfigError::Range {
                path: path.to_owned(),
                key,
                value,
                allowed,
            })
        };
        const MIB: usize = 1024 * 1024;
        let bytes = "from 65536 to 1073741824 is allowed";
        let mut limits = SessionLimits {
            window_messages: within(
                "session.window_messages",
                self.window_messages,
                1,
                1_000,
                "1 to 1000 is allowed",
            )?,
            window_bytes: within(
                "session.window_bytes",
                self.window_bytes,
                65_536,
                1_024 * MIB,
                bytes,
            )?,
            inbox_messages: within(
                "session.inbox_messages",
                self.inbox_messages,
                1,
                1_000_000,
                "1 to 1000000 is allowed",
            )?,
            inbox_bytes: within(
                "session.inbox_bytes",
                self.inbox_bytes,
                65_536,
                1_024 * MIB,
                bytes,
            )?,
            max_age: Duration::from_secs(self.max_age_seconds),
            ..SessionLimits::default()
        };
        limits.message.max_bytes = within(
            "session.max_message_bytes",
            self.max_message_bytes,
            1_024,
            16 * MIB,
            "1024 to 16777216 is allowed",
        )?;
        Ok(limits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example names every key, and names its default: leaving all optional keys out reads the same.
    #[test]
    fn the_example_is_complete_and_shows_the_defaults() {
        let full: Document = toml::from_str(EXAMPLE).unwrap();
        let section = toml::from_str::<toml::Table>(EXAMPLE).unwrap()["session"]
            .as_table()
            .unwrap()
            .clone();
        assert_eq!(
            format!("{:?}", full.session),
            format!("{:?}", SessionSection::default())
        );
        let debug = format!("{:?}", SessionSection::default());
        for key in debug
            .split(['{', ','])
            .skip(1)
            .filter_map(|part| part.split(':').next())
        {
            assert!(
                section.contains_key(key.trim()),
                "{} is not in the example",
                key.trim()
            );
        }
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_the_known_ones() {
        let error =
            toml::from_str::<Document>(&EXAMPLE.replace("window_messages", "window_mesages")).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("window_mesages") && text.contains("window_messages"),
            "{text}"
        );
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        let section = SessionSection {
            window_messages: 2_000,
            ..SessionSection::default()
        };
        let error = section.limits(Path::new("agent.toml")).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("session.window_messages is 2000; 1 to 1000"),
            "{error}"
        );
    }
}
