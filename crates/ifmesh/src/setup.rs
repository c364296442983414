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
    /// An agent is named twice.
    #[error("agent {0} is named twice")]
    Twice(AgentId),
    /// Two names become the same file name.
    #[error("agents {0} and {1} would share a file name; rename one of them")]
    SameFile(AgentId, AgentId),
}

/// Writes a key, a state folder and a configuration for each agent, and one trust file that binds all of them.
pub fn init(folder: &Path, agents: &[AgentId], signaling: &[String]) -> Result<Swarm, SetupError> {
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
        write_new(&config, config_text(agent, &name, signaling).as_bytes(), false)?;
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

fn config_text(agent: &AgentId, name: &str, signaling: &[String]) -> String {
    let servers = signaling
        .iter()
        .map(|url| toml::Value::String(url.clone()))
        .collect();
    let servers = toml::Value::Array(servers);
    // From the documented example, so that every key stands in the file with its explanation.
    crate::EXAMPLE
        .replace(
            "\"agent-finance\"",
            &toml::Value::String(agent.to_string()).to_string(),
        )
        .replace("keys/agent-finance.pem", &format!("keys/{name}.pem"))
        .replace("state/agent-finance", &format!("state/{name}"))
        .replace("[\"ws://127.0.0.1:8443\"]", &servers.to_string())
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
        let swarm = init(folder.path(), &agents, &urls).unwrap();
        for (agent, path) in &swarm.agents {
            let config = Config::from_file(path).unwrap();
            assert_eq!(config.agent, *agent);
            assert_eq!(config.webrtc.signaling, urls);
            assert_eq!(config.trust.bindings().len(), 3);
            assert_eq!(
                config.trust.binding(agent).unwrap().key,
                *config.identity.public_key()
            );
        }
        assert!(matches!(
            init(folder.path(), &agents, &urls),
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
    fn names_that_collide_are_refused_before_anything_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let agents = ["a/b", "a:b"].map(|name| AgentId::new(name).unwrap());
        assert!(matches!(
            init(folder.path(), &agents, &[]),
            Err(SetupError::SameFile(..))
        ));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
