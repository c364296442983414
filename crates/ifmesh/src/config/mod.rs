//! What an agent is told in its file. `agent.example.toml` beside this crate's manifest shows every key with its default.

mod environment;
mod explain;
mod router;
mod suggest;

use std::{
    ffi::OsString,
    fmt, fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use ifmesh_transport::{RouterConfig, SessionLimits};
use ifmesh_witness::Policy;
use ifmsg::{AgentId, Identity, InvalidIdentity, TrustDocument, TrustDocumentError, TrustStore};
use schemars::JsonSchema;
use serde::Deserialize;

pub use explain::{Explanation, MessageKind};
pub use router::RelayWish;
pub(crate) use suggest::{nearest, with_suggestion};

use crate::WitnessConfig;
use router::RouterSection;

/// The file that documents every key; a test loads it.
pub const EXAMPLE: &str = include_str!("../../agent.example.toml");

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
    /// How it reaches others: at least one.
    pub transports: Vec<TransportTable>,
    /// Which messages take which of them.
    pub router: RouterConfig,
    /// Whether agents pass frames on for each other.
    pub relays: Option<RelayWish>,
    /// The environment variables that had a say in this.
    pub overrides: Vec<String>,
}

/// One of the tables `[transport.NAME]`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TransportTable {
    /// Its name, by which the router knows the road.
    pub name: Arc<str>,
    /// Which backend it is for: the key `kind`, or else the name.
    pub kind: String,
    /// Everything else; the path `ca` is resolved.
    pub table: toml::Table,
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
        /// Where and what, with a suggestion where a name is nearly right.
        error: String,
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
    /// There is no table `[transport.NAME]`.
    #[error("{}: there is no transport; add a table such as [transport.webrtc]", path.display())]
    NoTransport {
        /// The file.
        path: PathBuf,
    },
    /// A table of a transport is refused.
    #[error("{}: [transport.{road}]: {reason}", path.display())]
    Transport {
        /// The file.
        path: PathBuf,
        /// The table's name.
        road: String,
        /// What is wrong.
        reason: String,
    },
    /// The table of the router is refused.
    #[error("{}: [router]: {reason}", path.display())]
    Router {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// An environment variable that is meant to override a key names none, or has no value for it.
    #[error("environment variable {variable}: {reason}")]
    Environment {
        /// The variable.
        variable: String,
        /// What is wrong.
        reason: String,
    },
}

impl Config {
    /// Reads an agent's file and all that it names. Environment variables override its keys:
    /// `IFMESH_CONFIG__SESSION__WINDOW_MESSAGES=100` is the key `window_messages` of the table `[session]`.
    ///
    /// # Errors
    /// What is wrong, where, and what would be right.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, ConfigError> {
        Self::from_file_and(path.as_ref(), std::env::vars_os())
    }

    /// As [`from_file`](Self::from_file), with this environment.
    ///
    /// # Errors
    /// As `from_file`.
    pub fn from_file_and(
        path: &Path,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigError> {
        let text = read(path)?;
        let overrides = environment::overrides(environment)?;
        let variables: Vec<String> = overrides.iter().map(|one| one.variable().to_owned()).collect();
        let document: Document = if overrides.is_empty() {
            // From the text itself, so that errors name lines.
            parse(path, &text)?
        } else {
            let mut table: toml::Table = parse(path, &text)?;
            overrides.into_iter().try_for_each(|one| one.apply(&mut table))?;
            Document::deserialize(table).map_err(|error| match parse::<Document>(path, &text) {
                Ok(_) => ConfigError::Environment {
                    variable: variables.join(", "),
                    reason: with_suggestion(&error.to_string()),
                },
                Err(error) => error,
            })?
        };
        document.resolve(path, variables)
    }

    /// What the file may say, as JSON Schema 2020-12.
    pub fn schema() -> serde_json::Value {
        schemars::schema_for!(Document).to_value()
    }
}

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let roads: Vec<&str> = self.transports.iter().map(|table| &*table.name).collect();
        let (agent, key) = (&self.agent, self.identity.key_id());
        write!(f, "{agent} ({key}) by {}", roads.join(", "))
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
    parse(path, &read(path)?)
}

fn parse<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T, ConfigError> {
    toml::from_str(text).map_err(|error| syntax(path, &error))
}

fn syntax(path: &Path, error: &toml::de::Error) -> ConfigError {
    ConfigError::Syntax {
        path: path.to_owned(),
        error: with_suggestion(&error.to_string()),
    }
}

/// The file as it is written.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(title = "An agent of ifmesh")]
#[serde(deny_unknown_fields)]
struct Document {
    /// Who the agent is.
    agent: AgentSection,
    /// Bounds of its conversations.
    #[serde(default)]
    session: SessionSection,
    /// Its tamper-evident log; none without this table.
    witness: Option<WitnessSection>,
    /// Which messages take which transport.
    #[serde(default)]
    router: RouterSection,
    /// How it reaches others, by name. Their order is the order of preference, unless the router's `order` says otherwise.
    #[schemars(schema_with = "transport_schema")]
    transport: toml::Table,
}

/// Tables of the known kinds, by their names or by `kind`, and those of others, of which nothing is known.
fn transport_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
    let kinds = [
        (
            "webrtc",
            section::<crate::backends::WebRtcSection>(generator, "webrtc"),
        ),
        (
            "dds",
            section::<ifmesh_transport_dds::DdsConfig>(generator, "dds"),
        ),
        (
            "relay",
            section::<crate::backends::RelaySection>(generator, "relay"),
        ),
    ];
    let by_kind = kinds.iter().map(|(kind, section)| {
        let says_so =
            serde_json::json!({ "required": ["kind"], "properties": { "kind": { "const": kind } } });
        serde_json::json!({ "if": says_so, "then": section })
    });
    let by_kind: Vec<_> = by_kind.collect();
    let by_name: serde_json::Map<_, _> = kinds
        .into_iter()
        .map(|(kind, section)| (kind.to_owned(), section.to_value()))
        .collect();
    schemars::json_schema!({
        "type": "object",
        "minProperties": 1,
        "properties": by_name,
        "additionalProperties": {
            "type": "object",
            "properties": { "kind": { "type": "string", "description": "The backend; the table's name, if left out." } },
            "allOf": by_kind
        }
    })
}

/// The table of a backend, which may say what it is.
fn section<T: JsonSchema>(generator: &mut schemars::SchemaGenerator, kind: &str) -> schemars::Schema {
    let reference = generator.subschema_for::<T>();
    let named = generator.definitions_mut().get_mut(T::schema_name().as_ref());
    if let Some(properties) = named.and_then(|schema| schema.get_mut("properties")) {
        properties["kind"] = serde_json::json!({ "const": kind });
    }
    reference
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct AgentSection {
    /// Its name: 1 to 128 characters out of A-Z a-z 0-9 . _ : / @ + -
    #[schemars(with = "String")]
    id: AgentId,
    /// Its private key: Ed25519 in PKCS#8 PEM. Relative to this file, as all paths here.
    key: PathBuf,
    /// Whom it trusts.
    trust: PathBuf,
    /// What it must remember across a restart.
    state: PathBuf,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WitnessSection {
    folder: PathBuf,
    #[serde(default)]
    policy: PolicyName,
}

#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum PolicyName {
    Required,
    #[default]
    BestEffort,
}

#[derive(Debug, Deserialize, JsonSchema)]
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
    fn resolve(self, path: &Path, overrides: Vec<String>) -> Result<Config, ConfigError> {
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
        let transports = transports(self.transport, path)?;
        let relays = self.router.relays();
        let router = self
            .router
            .resolve(&transports)
            .map_err(|reason| ConfigError::Router {
                path: path.to_owned(),
                reason,
            })?;
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
        Ok(Config {
            agent,
            identity,
            trust,
            state,
            limits,
            linger,
            witness,
            transports,
            router,
            relays,
            overrides,
        })
    }
}

/// The tables under `[transport]`, in the file's order.
fn transports(tables: toml::Table, path: &Path) -> Result<Vec<TransportTable>, ConfigError> {
    if tables.is_empty() {
        return Err(ConfigError::NoTransport {
            path: path.to_owned(),
        });
    }
    let folder = path.parent().unwrap_or(Path::new("."));
    let read = |(name, value): (String, toml::Value)| {
        let refused = |reason: String| ConfigError::Transport {
            path: path.to_owned(),
            road: name.clone(),
            reason,
        };
        let toml::Value::Table(mut table) = value else {
            return Err(refused(
                "is no table; write [transport.NAME] on a line of its own".to_owned(),
            ));
        };
        let kind = match table.remove("kind") {
            None => name.clone(),
            Some(toml::Value::String(kind)) => kind,
            Some(other) => {
                return Err(refused(format!(
                    "kind is {other}; the name of a backend is needed"
                )));
            }
        };
        // Backends do not know where the file is.
        if let Some(toml::Value::String(ca)) = table.get_mut("ca") {
            *ca = folder.join(&*ca).display().to_string();
        }
        let name = name.as_str().into();
        Ok(TransportTable { name, kind, table })
    };
    tables.into_iter().map(read).collect()
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
    fn an_unknown_key_of_a_transport_is_refused_with_a_suggestion() {
        let table = toml::from_str("signaling = [\"ws://a\"]\nadresses = []").unwrap();
        let table = TransportTable {
            name: "main".into(),
            kind: "webrtc".to_owned(),
            table,
        };
        let error = crate::Backends::default()
            .check(&[table])
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("[transport.main]") && error.contains("did you mean `addresses`?"),
            "{error}"
        );
    }

    /// The schema in the repository is the one of this program. Set `IFMESH_WRITE_SCHEMA` to write it anew.
    #[test]
    fn the_schema_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/agent.schema.json");
        let schema = format!("{:#}\n", Config::schema());
        if std::env::var_os("IFMESH_WRITE_SCHEMA").is_some() {
            fs::write(path, &schema).unwrap();
        }
        assert_eq!(fs::read_to_string(path).unwrap(), schema);
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
