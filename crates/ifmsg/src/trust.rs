//! Keys are identities; agent ids are bindings. The trust store says which key speaks for which agent, and what that agent
//! may do. No key that a message brings along is ever a source of trust.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::{
    AgentId, BadSignature, Identity, KeyId, Level, PublicKey, SignatureBytes, Statement, StatementKind,
    Timestamp, codec::KeyClaim,
};

/// Most bindings that are learnt rather than configured (`tofu`, `self-certifying`).
pub const MAX_LEARNT: usize = 10_000;

/// How a key comes to speak for an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TrustPolicy {
    /// Only by a binding that was configured.
    #[default]
    Allowlist,
    /// Trust on first use: the first key that verifiably speaks for an id is pinned to it; a change is refused. An id of the
    /// form `did:key:...` is pinned to the key that it names, and to no other.
    Tofu,
    /// The id is `did:key:z6Mk...` and names its own key. Other ids need a binding.
    SelfCertifying,
}

/// What an agent may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Permissions {
    /// It may send messages of level 1, function to function.
    pub function_level: bool,
    /// It may send messages of level 2, module to module.
    pub module_level: bool,
    /// It may send to `*`.
    pub broadcast: bool,
}

impl Permissions {
    /// Everything.
    pub const ALL: Self = Self {
        function_level: true,
        module_level: true,
        broadcast: true,
    };

    /// Whether messages of this level are permitted.
    pub fn allows(&self, level: Level) -> bool {
        match level {
            Level::Function => self.function_level,
            Level::Module => self.module_level,
        }
    }
}

impl Default for Permissions {
    fn default() -> Self {
        Self::ALL
    }
}

/// The key that speaks for an agent, and what the agent may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    /// The key.
    pub key: PublicKey,
    /// What the agent may do.
    pub permissions: Permissions,
    /// Learnt by the policy rather than configured.
    pub learnt: bool,
}

/// Which key speaks for which agent.
#[derive(Debug, Clone, Default)]
pub struct TrustStore {
    policy: TrustPolicy,
    root: Option<PublicKey>,
    bindings: BTreeMap<AgentId, Binding>,
    /// Every bound key by its short name.
    keys: BTreeMap<KeyId, PublicKey>,
    revoked: BTreeMap<KeyId, PublicKey>,
    learnt: usize,
}

/// Why no trusted key speaks for a message's source.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustError {
    /// The key speaks for nobody.
    #[error("the key is not known")]
    UnknownKey,
    /// The key is known, but it does not speak for this source.
    #[error("the key is known, but it speaks for another agent")]
    WrongSource,
    /// Another key is pinned to this source. Accept the change by hand, or by a rotation that both keys signed.
    #[error("another key is pinned to this agent")]
    KeyChanged,
    /// The key was withdrawn.
    #[error("the key was revoked")]
    Revoked,
    /// No more than [`MAX_LEARNT`] bindings are learnt.
    #[error("the trust store is full")]
    Full,
    /// The frame names its key by id only, which teaches nothing. The sender must introduce itself in JSON form.
    #[error("the key is not known, and the frame brings only its short name")]
    NeedsIntroduction,
}

/// A key that may speak for a source, if the signature verifies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) key: PublicKey,
    pub(crate) permissions: Permissions,
    /// To be bound once the signature has verified.
    pub(crate) learn: bool,
}

impl TrustStore {
    /// Trusts nobody yet.
    pub fn new(policy: TrustPolicy) -> Self {
        Self {
            policy,
            ..Self::default()
        }
    }

    /// Binds a configured key to an id; a former binding of the id is replaced.
    ///
    /// Fails if another known key has the same short name (a collision of 64 bits: an attack, not an accident), or if the
    /// key was revoked.
    pub fn bind(
        &mut self,
        agent: AgentId,
        key: PublicKey,
        permissions: Permissions,
    ) -> Result<(), TrustError> {
        self.insert(
            agent,
            Binding {
                key,
                permissions,
                learnt: false,
            },
        )
    }

    /// Names the key whose revocations hold for every key of the swarm.
    pub fn set_root(&mut self, root: Option<PublicKey>) {
        self.root = root;
    }

    /// Takes a binding away. Whether there was one.
    pub fn unbind(&mut self, agent: &AgentId) -> bool {
        let Some(binding) = self.bindings.remove(agent) else {
            return false;
        };
        self.learnt -= usize::from(binding.learnt);
        self.drop_unused_key(&binding.key);
        true
    }

    /// Hands an agent over from one key to its successor.
    pub fn rotate(&mut self, rotation: &Rotation) -> Result<(), RotationError> {
        let bound = self
            .bindings
            .get(&rotation.agent)
            .ok_or(RotationError::UnknownAgent)?;
        if bound.key != rotation.from {
            return Err(RotationError::NotCurrent);
        }
        rotation.verify()?;
        let successor = Binding {
            key: rotation.to,
            ..*bound
        };
        self.insert(rotation.agent.clone(), successor)
            .map_err(|_| RotationError::Unusable)
    }

    /// Withdraws a key for good: its bindings are gone and it can never be bound again.
    pub fn revoke(&mut self, revocation: &Revocation) -> Result<(), BadSignature> {
        let root = self.root.filter(|root| !self.revoked.contains_key(&root.id()));
        revocation.verify(root.as_ref())?;
        self.revoke_key(&revocation.key);
        Ok(())
    }

    /// How keys come to speak for agents here.
    pub fn policy(&self) -> TrustPolicy {
        self.policy
    }

    /// The binding of an agent.
    pub fn binding(&self, agent: &AgentId) -> Option<&Binding> {
        self.bindings.get(agent)
    }

    /// All bindings, sorted by agent.
    pub fn bindings(&self) -> impl ExactSizeIterator<Item = (&AgentId, &Binding)> {
        self.bindings.iter()
    }

    /// The key that speaks for `source`, given what a frame says of its key. Changes nothing.
    pub(crate) fn resolve(&self, source: &AgentId, claim: &KeyClaim) -> Result<Resolved, TrustError> {
        let known = self.keys.get(&claim.id()).filter(|key| match claim {
            KeyClaim::Id(_) => true,
            KeyClaim::Key(claimed, _) => claimed == key.as_bytes(),
        });
        if self.revoked.contains_key(&claim.id()) {
            return Err(TrustError::Revoked);
        }
        if let Some(binding) = self.bindings.get(source) {
            return match known {
                Some(key) if *key == binding.key => Ok(Resolved {
                    key: binding.key,
                    permissions: binding.permissions,
                    learn: false,
                }),
                Some(_) => Err(TrustError::WrongSource),
                None if binding.learnt => Err(TrustError::KeyChanged),
                None => Err(TrustError::UnknownKey),
            };
        }
        let candidate = match (self.policy, claim) {
            (TrustPolicy::Allowlist, _) => None,
            // A name that names its own key is nobody else's to pin.
            (TrustPolicy::Tofu, _) if source.as_str().starts_with("did:key:") => {
                PublicKey::from_did_key(source.as_str()).ok()
            }
            (TrustPolicy::Tofu, KeyClaim::Key(key, _)) => PublicKey::from_bytes(key).ok(),
            // A known key that speaks for one more name; its short name is enough to find it.
            (TrustPolicy::Tofu, KeyClaim::Id(_)) => {
                return known.copied().map_or(Err(TrustError::NeedsIntroduction), |_| {
                    Err(TrustError::WrongSource)
                });
            }
            (TrustPolicy::SelfCertifying, _) => PublicKey::from_did_key(source.as_str()).ok(),
        };
        let Some(key) = candidate else {
            return Err(if known.is_some() {
                TrustError::WrongSource
            } else {
                TrustError::UnknownKey
            });
        };
        if key.id() != claim.id() || matches!(claim, KeyClaim::Key(claimed, _) if claimed != key.as_bytes()) {
            return Err(if known.is_some() {
                TrustError::WrongSource
            } else {
                TrustError::UnknownKey
            });
        }
        if self.learnt >= MAX_LEARNT {
            return Err(TrustError::Full);
        }
        Ok(Resolved {
            key,
            permissions: Permissions::ALL,
            learn: true,
        })
    }

    /// Binds a key that the policy let in, now that its signature has verified.
    pub(crate) fn learn(&mut self, agent: &AgentId, key: PublicKey) -> Result<(), TrustError> {
        // Asked again: a flight may bring many new names at once.
        if self.learnt >= MAX_LEARNT {
            return Err(TrustError::Full);
        }
        self.insert(
            agent.clone(),
            Binding {
                key,
                permissions: Permissions::ALL,
                learnt: true,
            },
        )
    }

    fn insert(&mut self, agent: AgentId, binding: Binding) -> Result<(), TrustError> {
        if self.revoked.contains_key(&binding.key.id()) {
            return Err(TrustError::Revoked);
        }
        if self
            .keys
            .get(&binding.key.id())
            .is_some_and(|known| *known != binding.key)
        {
            return Err(TrustError::WrongSource);
        }
        self.unbind(&agent);
        self.learnt += usize::from(binding.learnt);
        self.keys.insert(binding.key.id(), binding.key);
        self.bindings.insert(agent, binding);
        Ok(())
    }

    fn revoke_key(&mut self, key: &PublicKey) {
        let agents: Vec<AgentId> = self
            .bindings
            .iter()
            .filter(|(_, binding)| binding.key == *key)
            .map(|(id, _)| id.clone())
            .collect();
        for agent in agents {
            self.unbind(&agent);
        }
        self.revoked.insert(key.id(), *key);
    }

    fn drop_unused_key(&mut self, key: &PublicKey) {
        if !self.bindings.values().any(|binding| binding.key == *key) {
            self.keys.remove(&key.id());
        }
    }
}

/// A key hands its agent over to its successor. Signed by both, so that neither can be named against its will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rotation {
    /// The agent.
    pub agent: AgentId,
    /// The key that speaks for it now.
    pub from: PublicKey,
    /// The key that will.
    pub to: PublicKey,
    /// When it was signed.
    pub timestamp: Timestamp,
    /// By `from`.
    pub signature_from: SignatureBytes,
    /// By `to`.
    pub signature_to: SignatureBytes,
}

/// Why a rotation is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RotationError {
    /// The agent has no key here.
    #[error("no key is bound to this agent")]
    UnknownAgent,
    /// `from` is not the agent's key now.
    #[error("the rotation starts from a key that is not the agent's")]
    NotCurrent,
    /// One of the signatures does not verify.
    #[error("the old and the new key must both have signed")]
    BadSignature(#[from] BadSignature),
    /// The new key was revoked, or collides with another.
    #[error("the new key cannot be used")]
    Unusable,
}

impl Rotation {
    /// Signs with both keys.
    pub fn sign(agent: AgentId, from: &Identity, to: &Identity, timestamp: Timestamp) -> Self {
        let statement = Self::statement(&agent, from.public_key(), to.public_key(), timestamp);
        Self {
            signature_from: from.sign_statement(&statement),
            signature_to: to.sign_statement(&statement),
            from: *from.public_key(),
            to: *to.public_key(),
            agent,
            timestamp,
        }
    }

    fn verify(&self) -> Result<(), BadSignature> {
        let statement = Self::statement(&self.agent, &self.from, &self.to, self.timestamp);
        self.from.verify_statement(&statement, &self.signature_from)?;
        self.to.verify_statement(&statement, &self.signature_to)
    }

    fn statement(agent: &AgentId, from: &PublicKey, to: &PublicKey, timestamp: Timestamp) -> Statement {
        Statement::new(StatementKind::Rotation)
            .part(agent.as_str())
            .part(from.as_bytes())
            .part(to.as_bytes())
            .part(timestamp.to_string())
    }
}

/// A key is withdrawn, by itself or by the swarm's root key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// The key.
    pub key: PublicKey,
    /// When it was signed.
    pub timestamp: Timestamp,
    /// By the key itself, or by the root.
    pub signature: SignatureBytes,
}

impl Revocation {
    /// Withdraws `key`; `signer` holds that key, or the root's.
    pub fn sign(signer: &Identity, key: PublicKey, timestamp: Timestamp) -> Self {
        let signature = signer.sign_statement(&Self::statement(&key, timestamp));
        Self {
            key,
            timestamp,
            signature,
        }
    }

    fn verify(&self, root: Option<&PublicKey>) -> Result<(), BadSignature> {
        let statement = Self::statement(&self.key, self.timestamp);
        self.key
            .verify_statement(&statement, &self.signature)
            .or_else(|bad| {
                root.map_or(Err(bad), |root| {
                    root.verify_statement(&statement, &self.signature)
                })
            })
    }

    fn statement(key: &PublicKey, timestamp: Timestamp) -> Statement {
        Statement::new(StatementKind::Revocation)
            .part(key.as_bytes())
            .part(timestamp.to_string())
    }
}

/// A trust store as a file holds it (TOML or JSON): `agents.<id>.key` and what each may do.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustDocument {
    /// How keys come to speak for agents.
    #[serde(default)]
    pub policy: TrustPolicy,
    /// The swarm's root key, 64 hexadecimal digits: its revocations hold for every key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<String>,
    /// Withdrawn keys.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub revoked: BTreeSet<String>,
    /// Agent id to key and permissions.
    #[serde(default)]
    pub agents: BTreeMap<AgentId, TrustEntry>,
}

/// One agent of a [`TrustDocument`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrustEntry {
    /// 64 lowercase hexadecimal digits.
    pub key: String,
    /// The levels it may send at; both if left out.
    #[serde(default = "both_levels")]
    pub levels: BTreeSet<u8>,
    /// Whether it may send to `*`; yes if left out.
    #[serde(default = "yes")]
    pub broadcast: bool,
    /// Learnt by the policy rather than configured.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub learnt: bool,
}

fn both_levels() -> BTreeSet<u8> {
    BTreeSet::from([1, 2])
}

fn yes() -> bool {
    true
}

/// Why a [`TrustDocument`] is no trust store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TrustDocumentError {
    /// A key is unusable.
    #[error("{place}: {error}")]
    Key {
        /// Which key: `root`, `revoked`, or `agents.<id>`.
        place: String,
        /// What is wrong with it.
        error: crate::InvalidPublicKey,
    },
    /// A level other than 1 or 2.
    #[error("agents.{0}.levels: only 1 and 2 exist")]
    Level(AgentId),
    /// A key that was revoked, or that collides with another.
    #[error("agents.{agent}: {error}")]
    Binding {
        /// The agent.
        agent: AgentId,
        /// Why its key is refused.
        error: TrustError,
    },
}

impl TryFrom<&TrustDocument> for TrustStore {
    type Error = TrustDocumentError;

    fn try_from(document: &TrustDocument) -> Result<Self, TrustDocumentError> {
        let read = |place: &str, text: &str| {
            PublicKey::from_hex(text).map_err(|error| TrustDocumentError::Key {
                place: place.to_owned(),
                error,
            })
        };
        let mut store = Self::new(document.policy);
        store.root = document
            .root
            .as_deref()
            .map(|text| read("root", text))
            .transpose()?;
        for text in &document.revoked {
            store.revoke_key(&read("revoked", text)?);
        }
        for (agent, entry) in &document.agents {
            let key = read(&format!("agents.{agent}"), &entry.key)?;
            if entry.levels.iter().any(|level| !matches!(level, 1 | 2)) {
                return Err(TrustDocumentError::Level(agent.clone()));
            }
            let permissions = Permissions {
                function_level: entry.levels.contains(&1),
                module_level: entry.levels.contains(&2),
                broadcast: entry.broadcast,
            };
            store
                .insert(
                    agent.clone(),
                    Binding {
                        key,
                        permissions,
                        learnt: entry.learnt,
                    },
                )
                .map_err(|error| TrustDocumentError::Binding {
                    agent: agent.clone(),
                    error,
                })?;
        }
        Ok(store)
    }
}

impl From<&TrustStore> for TrustDocument {
    fn from(store: &TrustStore) -> Self {
        let entry = |binding: &Binding| TrustEntry {
            key: binding.key.to_hex(),
            levels: [
                (1, binding.permissions.function_level),
                (2, binding.permissions.module_level),
            ]
            .into_iter()
            .filter_map(|(level, allowed)| allowed.then_some(level))
            .collect(),
            broadcast: binding.permissions.broadcast,
            learnt: binding.learnt,
        };
        Self {
            policy: store.policy,
            root: store.root.map(|key| key.to_hex()),
            revoked: store.revoked.values().map(PublicKey::to_hex).collect(),
            agents: store
                .bindings
                .iter()
                .map(|(agent, binding)| (agent.clone(), entry(binding)))
                .collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rest of this module is tested from outside (`tests/trust.rs`); this needs a collision that nobody can make.
    #[test]
    fn a_key_with_anothers_short_name_is_refused_everywhere() {
        let alice = *Identity::from_seed(&[1; 32]).public_key();
        let twin = Identity::from_seed(&[2; 32]).public_key().colliding_with(&alice);
        let [a, t] = ["alice", "twin"].map(|name| AgentId::new(name).unwrap());
        for policy in [
            TrustPolicy::Allowlist,
            TrustPolicy::Tofu,
            TrustPolicy::SelfCertifying,
        ] {
            let mut store = TrustStore::new(policy);
            assert_eq!(store.bind(a.clone(), alice, Permissions::ALL), Ok(()));
            assert_eq!(
                store.bind(t.clone(), twin, Permissions::ALL),
                Err(TrustError::WrongSource)
            );
            assert_eq!(store.learn(&t, twin), Err(TrustError::WrongSource));
            assert_eq!(
                store.bind(a.clone(), twin, Permissions::ALL),
                Err(TrustError::WrongSource)
            );
            for source in [&a, &t] {
                let claim = KeyClaim::Key(*twin.as_bytes(), twin.id());
                assert_eq!(
                    store.resolve(source, &claim),
                    Err(TrustError::UnknownKey),
                    "{policy:?}"
                );
            }
            let short = KeyClaim::Id(twin.id());
            assert_eq!(store.resolve(&a, &short).map(|found| found.key), Ok(alice));
            assert_eq!(store.resolve(&t, &short), Err(TrustError::WrongSource));

            // Revoking one withdraws the short name, and so both: what cannot be told apart is not trusted.
            store.revoke_key(&twin);
            assert_eq!(store.resolve(&a, &short), Err(TrustError::Revoked));
        }
    }
}
