//! Makes keys, trust and configuration for a new swarm.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use ifmsg::{AgentId, Identity, TrustDocument, TrustEntry};

/// What [`init`] wrote.
#[derive(Debug)]
pub struct Swarm {
    /// The trust file that all agents share.
    pub trust: PathBuf,
    /// Each agent and its configuration file.
    pub agents: Vec<(AgentId, PathBuf)>,
}

/// Why nothing, or not everything, was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SetupError {
    /// A file is there already. Nothing is ever overwritten: a key that is gone is an identity that is gone.
    #[error("{} exists already; choose another folder, or remove it", .0.display())]
    Exists(PathBuf),
    /// A file cannot be written.
    #[error("cannot write {}: {error}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// No transport has this name.
    #[error("no transport is named {0:?}; there are webrtc, dds and relay")]
    UnknownTransport(String),
    /// An agent is named twice.
    #[error("agent {0} is named twice")]
    Twice(AgentId),
    /// Two names become the same file name.
    #[error("agents {0} and {1} would share a file name; rename one of them")]
    SameFile(AgentId, AgentId),
}

/// How the agents of a swarm reach each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Roads {
    /// Built-in transports, best first: `webrtc`, `dds`, `relay`.
    pub transports: Vec<String>,
    /// The signaling servers of those that need one.
    pub signaling: Vec<String>,
    /// The DDS domain.
    pub domain: u16,
}

impl Roads {
    /// WebRTC alone, with these signaling servers.
    pub fn webrtc(signaling: &[String]) -> Self {
        Self {
            transports: vec!["webrtc".to_owned()],
            signaling: signaling.to_vec(),
            domain: 0,
        }
    }
}

/// Writes a key, a state folder and a configuration for each agent, and one trust file that binds all of them.
pub fn init(folder: &Path, agents: &[AgentId], roads: &Roads) -> Result<Swarm, SetupError> {
    let odd = roads
        .transports
        .iter()
        .find(|road| !BUILT_IN.contains(&road.as_str()));
    if let Some(odd) = odd {
        return Err(SetupError::UnknownTransport(odd.clone()));
    }

    for (at, agent) in agents.iter().enumerate() {
        for former in &agents[..at] {
            if agent == former {
                return Err(SetupError::Twice(agent.clone()));
            }
            if file_name(agent) == file_name(former) {
                return Err(SetupError::SameFile(former.clone(), agent.clone()));
            }
        }
    }
    let trust = folder.join("trust.toml");
    if trust.exists() {
        return Err(SetupError::Exists(trust));
    }
    let keys = folder.join("keys");
    fs::create_dir_all(&keys).map_err(|error| SetupError::Write {
        path: keys.clone(),
        error,
    })?;
    let mut document = TrustDocument::default();
    let mut written = Vec::new();
    let mut random = crate::random();
    for agent in agents {
        let identity = Identity::generate(&mut *random);
        let name = file_name(agent);
        write_key(&keys.join(format!("{name}.pem")), &identity)?;
        let key = identity.public_key().to_hex();
        let entry = TrustEntry {
            key,
            levels: [1, 2].into(),
            broadcast: true,
            learnt: false,
        };
        document.agents.insert(agent.clone(), entry);
        let config = folder.join(format!("{name}.toml"));
        write_new(&config, config_text(agent, &name, roads).as_bytes(), false)?;
        written.push((agent.clone(), config));
    }
    let text = toml::to_string_pretty(&document).map_err(|error| SetupError::Write {
        path: trust.clone(),
        error: io::Error::other(error),
    })?;
    write_new(
        &trust,
        format!("# Which key speaks for which agent.\n{text}").as_bytes(),
        false,
    )?;
    Ok(Swarm {
        trust,
        agents: written,
    })
}

/// Writes a private key, readable by its owner only.
pub fn write_key(path: &Path, identity: &Identity) -> Result<(), SetupError> {
    write_new(path, identity.to_pkcs8_pem().as_bytes(), true)
}

/// The characters of an id that no file system minds; the others become `_`.
pub fn file_name(agent: &AgentId) -> String {
    agent
        .as_str()
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || "-+@".contains(c) {
                c
            } else {
                '_'
            }
        })
        .collect()
}

/// The transports that the example shows.
const BUILT_IN: [&str; 3] = ["webrtc", "dds", "relay"];

fn config_text(agent: &AgentId, name: &str, roads: &Roads) -> String {
    let list = |words: &[String]| {
        let words = words
            .iter()
            .map(|word| toml::Value::String(word.clone()))
            .collect();
        toml::Value::Array(words).to_string()
    };
    let servers = list(&roads.signaling);
    // From the documented example, so that every key stands in the file with its explanation.
    let mut text = crate::EXAMPLE
        .replace(
            "\"agent-finance\"",
            &toml::Value::String(agent.to_string()).to_string(),
        )
        .replace("keys/agent-finance.pem", &format!("keys/{name}.pem"))
        .replace("state/agent-finance", &format!("state/{name}"))
        .replace("[\"ws://127.0.0.1:8443\"]", &servers)
        .replace("domain = 0", &format!("domain = {}", roads.domain));
    for road in BUILT_IN {
        let wanted = roads.transports.iter().any(|other| other == road);
        text = switch(&text, &format!("[transport.{road}]"), wanted);
    }
    if roads.transports.len() > 1 {
        text = text.replace("order = []", &format!("order = {}", list(&roads.transports)));
    }
    text
}

/// Puts the lines of a table into comments, or takes them out. Tables end at the first empty line.
fn switch(text: &str, header: &str, on: bool) -> String {
    let is_on = text.lines().any(|line| line == header);
    if is_on == on {
        return text.to_owned();
    }
    let mut inside = false;
    let lines = text.lines().map(|line| {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        inside = bare == header || inside && !line.is_empty();
        match (inside, on) {
            (false, _) => line.to_owned(),
            (true, true) => bare.to_owned(),
            (true, false) => format!("# {line}"),
        }
    });
    let mut switched = lines.collect::<Vec<_>>().join("\n");
    switched.push('\n');
    switched
}

fn write_new(path: &Path, content: &[u8], secret: bool) -> Result<(), SetupError> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    if secret {
        use std::os::unix::fs::OpenOptionsExt as _;
        options.mode(0o600);
    }
    #[cfg(not(unix))]
    let _ = secret;
    let written = options
        .open(path)
        .and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    written.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => SetupError::Exists(path.to_owned()),
        _ => SetupError::Write {
            path: path.to_owned(),
            error,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Config;

    #[test]
    fn what_init_writes_is_read_again_and_never_overwritten() {
        let folder = tempfile::tempdir().unwrap();
        let agents = ["a/b", "did:key:x", "c"].map(|name| AgentId::new(name).unwrap());
        let urls = ["ws://127.0.0.1:1".to_owned(), "ws://127.0.0.1:2".to_owned()];
        let roads = Roads::webrtc(&urls);
        let swarm = init(folder.path(), &agents, &roads).unwrap();
        for (agent, path) in &swarm.agents {
            let config = Config::from_file(path).unwrap();
            assert_eq!(config.agent, *agent);
            assert_eq!(config.transports.len(), 1);
            assert_eq!(
                config.transports[0].table["signaling"][1].as_str(),
                Some("ws://127.0.0.1:2")
            );
            assert_eq!(config.trust.bindings().len(), 3);
            assert_eq!(
                config.trust.binding(agent).unwrap().key,
                *config.identity.public_key()
            );
        }
        assert!(matches!(
            init(folder.path(), &agents, &roads),
            Err(SetupError::Exists(_))
        ));
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = fs::metadata(folder.path().join("keys/c.pem"))
                .unwrap()
                .permissions()
                .mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn each_choice_of_transports_is_a_file_that_can_be_read() {
        let agents = [AgentId::new("a").unwrap()];
        for wanted in [
            &["dds"][..],
            &["relay"],
            &["webrtc", "dds"],
            &["dds", "relay", "webrtc"],
        ] {
            let folder = tempfile::tempdir().unwrap();
            let roads = Roads {
                transports: wanted.iter().map(|&road| road.to_owned()).collect(),
                signaling: vec!["wss://example.org".to_owned()],
                domain: 7,
            };
            let swarm = init(folder.path(), &agents, &roads).unwrap();
            let config = Config::from_file(&swarm.agents[0].1).unwrap();
            let mut names: Vec<&str> = config.transports.iter().map(|table| &*table.name).collect();
            let order: Vec<&str> = config
                .router
                .rules
                .default
                .order
                .iter()
                .map(|name| &**name)
                .collect();
            assert_eq!(order, if wanted.len() > 1 { wanted } else { &[] });
            names.sort_unstable();
            let mut wanted = wanted.to_vec();
            wanted.sort_unstable();
            assert_eq!(names, wanted);
            crate::Backends::default().check(&config.transports).unwrap();
            for table in config.transports.iter().filter(|table| table.kind == "dds") {
                assert_eq!(table.table["domain"].as_integer(), Some(7));
            }
        }
    }

    #[test]
    fn names_that_collide_are_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let agents = ["a/b", "a:b"].map(|name| AgentId::new(name).unwrap());
        assert!(matches!(
            init(folder.path(), &agents, &Roads::webrtc(&[])),
            Err(SetupError::SameFile(..))
        ));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
