//! Which logs a folder holds, and which keys check them.

use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use bytes::Bytes;
use clap::Args;
use ifmesh::AgentId;
use ifmesh_witness::{LogKeys, peek_agents};
use ifmsg::{MessageDigest, PublicKey, TrustStore, canonical::Limits};

use crate::cli::Failure;

/// Where public keys come from.
#[derive(Debug, Args)]
pub(super) struct Keys {
    /// The trust file with the agents' public keys. Left out: trust.toml in the log's folder or the one above.
    #[arg(long)]
    trust: Option<PathBuf>,
    /// The log owner's public key, 64 hexadecimal digits; instead of the trust file's.
    #[arg(long, value_parser = public_key)]
    key: Option<PublicKey>,
    /// A key that the owner had before; may be repeated.
    #[arg(long, value_parser = public_key)]
    former_key: Vec<PublicKey>,
}

/// A log, and what is to check it.
#[derive(Debug)]
pub(super) struct FoundLog {
    pub(super) dir: PathBuf,
    pub(super) keys: LogKeys,
    /// The keys lay beside the log, which whoever changed the log could have changed too.
    pub(super) keys_beside: bool,
}

impl Keys {
    /// The logs in a folder: itself, or each of its subfolders that holds one.
    pub(super) fn logs(&self, dir: &Path) -> Result<Vec<FoundLog>, Failure> {
        let mut dirs = vec![dir.to_owned()];
        if agents_in(dir)?.is_empty() {
            dirs = Vec::new();
            let entries = fs::read_dir(dir).map_err(|error| cannot_read(dir, &error))?;
            for entry in entries {
                let path = entry.map_err(|error| cannot_read(dir, &error))?.path();
                if path.is_dir() && !agents_in(&path)?.is_empty() {
                    dirs.push(path);
                }
            }
            dirs.sort();
        }
        if dirs.is_empty() {
            let dir = dir.display();
            return Err(Failure::usage(format!(
                "{dir}: there is no witness log in it, nor in the folders in it; segments end in .jsonl"
            )));
        }
        dirs.iter().map(|dir| self.log(dir)).collect()
    }

    /// The one log in a folder.
    pub(super) fn log(&self, dir: &Path) -> Result<FoundLog, Failure> {
        let agents = agents_in(dir)?;
        let Some(first) = agents.first().cloned() else {
            return Err(no_log_in(dir));
        };
        if let Some(key) = self.key {
            return Ok(self.found(dir, first, key, false));
        }
        let (trust, keys_beside) = self.trust(dir)?;
        let known = agents
            .iter()
            .find_map(|agent| Some((agent.clone(), trust.binding(agent)?.key)));
        match known {
            Some((agent, key)) => Ok(self.found(dir, agent, key, keys_beside)),
            None => Err(Failure::usage(format!(
                "{}: no key is known for {first}; name it with --key, or a trust file that has it with --trust",
                dir.display()
            ))),
        }
    }

    fn found(&self, dir: &Path, agent: AgentId, key: PublicKey, keys_beside: bool) -> FoundLog {
        let keys = LogKeys::new(agent, key);
        FoundLog {
            dir: dir.to_owned(),
            keys: self
                .former_key
                .iter()
                .fold(keys, |keys, former| keys.also(*former)),
            keys_beside,
        }
    }

    /// The keys of one agent, without any log.
    pub(super) fn of(&self, agent: &AgentId) -> Result<LogKeys, Failure> {
        let key = match (self.key, &self.trust) {
            (Some(key), _) => key,
            (None, Some(path)) => {
                let trust = ifmesh::read_trust(path).map_err(Failure::usage)?;
                let unknown = || {
                    let path = path.display();
                    Failure::usage(format!("{path}: it has no key for {agent}; name it with --key"))
                };
                trust.binding(agent).ok_or_else(unknown)?.key
            }
            (None, None) => {
                return Err(Failure::usage(format!(
                    "the public key of {agent} is needed: --trust FILE or --key HEX"
                )));
            }
        };
        Ok(self.found(Path::new(""), agent.clone(), key, false).keys)
    }

    /// The trust store that was named; empty, if none was.
    pub(super) fn given(&self) -> Result<TrustStore, Failure> {
        match &self.trust {
            Some(path) => ifmesh::read_trust(path).map_err(Failure::usage),
            None => Ok(TrustStore::new(ifmsg::TrustPolicy::Allowlist)),
        }
    }

    /// The trust store that goes with a log, and whether it lay beside it; empty, if there is none.
    pub(super) fn trust(&self, dir: &Path) -> Result<(TrustStore, bool), Failure> {
        if let Some(path) = &self.trust {
            return Ok((ifmesh::read_trust(path).map_err(Failure::usage)?, false));
        }
        let beside = [dir.join("trust.toml"), dir.join("../trust.toml")];
        match beside.iter().find(|path| path.is_file()) {
            Some(path) => Ok((ifmesh::read_trust(path).map_err(Failure::usage)?, true)),
            None => Ok((TrustStore::new(ifmsg::TrustPolicy::Allowlist), true)),
        }
    }
}

/// The digests of the messages in a file: one in JSON form, or a binary frame; `-` is standard input.
pub(super) fn digests(path: &Path) -> Result<Vec<MessageDigest>, Failure> {
    let read = if path == Path::new("-") {
        let mut content = Vec::new();
        std::io::stdin().lock().read_to_end(&mut content).map(|_| content)
    } else {
        fs::read(path)
    };
    let content = read.map_err(|error| cannot_read(path, &error))?;
    let content = if content.starts_with(b"IFB1") {
        Bytes::from(content)
    } else {
        Bytes::copy_from_slice(content.trim_ascii())
    };
    let flight = ifmsg::decode(&content, &Limits::default())
        .map_err(|error| Failure::usage(format!("{}: not a signed message: {error}", path.display())))?;
    Ok(flight.digests().collect())
}

pub(super) fn digest(text: &str) -> Result<MessageDigest, String> {
    MessageDigest::from_hex(text).ok_or_else(|| "64 lowercase hexadecimal digits are needed".to_owned())
}

fn public_key(text: &str) -> Result<PublicKey, String> {
    PublicKey::from_hex(text)
        .or_else(|error| PublicKey::from_did_key(text).map_err(|_| error))
        .map_err(|error| error.to_string())
}

fn agents_in(dir: &Path) -> Result<Vec<AgentId>, Failure> {
    if !dir.is_dir() {
        let what = if dir.exists() {
            "is a file"
        } else {
            "does not exist"
        };
        return Err(Failure::usage(format!(
            "{} {what}; name the folder of a log, such as state/agent-finance/witness",
            dir.display()
        )));
    }
    peek_agents(dir).map_err(Failure::usage)
}

/// Where one log is needed, and the folder is none; perhaps it has some.
pub(super) fn no_log_in(dir: &Path) -> Failure {
    if let Err(failure) = agents_in(dir) {
        return failure;
    }
    let mut inside: Vec<String> = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.is_dir() && agents_in(path).is_ok_and(|agents| !agents.is_empty()))
        .map(|path| path.display().to_string())
        .collect();
    inside.sort();
    let dir = dir.display();
    Failure::usage(match inside.as_slice() {
        [] => format!("{dir}: there is no witness log in it; segments end in .jsonl"),
        logs => format!("{dir} holds several logs; name one: {}", logs.join(", ")),
    })
}

pub(super) fn cannot_read(path: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(format!("cannot read {}: {error}", path.display()))
}
