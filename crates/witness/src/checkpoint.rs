//! Checkpoints: the tree's size and root, signed, as C2SP tlog-checkpoint and signed-note write them.

use std::fmt;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ifmsg::{AgentId, Identity, PublicKey, SignatureBytes};
use sha2::{Digest as _, Sha256};

use crate::tree::Hash;

/// The algorithm byte of Ed25519 in signed-note.
const ED25519: u8 = 0x01;

/// The algorithm byte of a timestamped Ed25519 cosignature (C2SP tlog-cosignature).
const COSIGNATURE: u8 = 0x04;

/// Most signature lines that are looked at in a note from elsewhere, as in Go's `sumdb/note`.
const MAX_SIGNATURES: usize = 100;

/// Longest note that is looked at.
const MAX_NOTE: usize = 64 << 10;

/// Whose log it is, and which keys may sign its checkpoints: all that a verifier has to know beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogKeys {
    agent: AgentId,
    origin: String,
    keys: Vec<PublicKey>,
}

impl LogKeys {
    /// The log of this agent, signed with this key.
    pub fn new(agent: AgentId, key: PublicKey) -> Self {
        Self {
            origin: origin(&agent),
            agent,
            keys: vec![key],
        }
    }

    /// A further key whose checkpoints are taken: one that the agent had before, or has rotated to.
    #[must_use]
    pub fn also(mut self, key: PublicKey) -> Self {
        if !self.keys.contains(&key) {
            self.keys.push(key);
        }
        self
    }

    /// Whose log it is.
    pub fn agent(&self) -> &AgentId {
        &self.agent
    }

    /// The first line of its checkpoints.
    pub fn origin(&self) -> &str {
        &self.origin
    }
}

/// The log's name in its checkpoints: `ifmesh-witness/<agent id>`, with `%2B` for `+`, which a note's key name must not hold.
/// (`%` is no character of an agent id, so no two agents share an origin.)
pub fn origin(agent: &AgentId) -> String {
    format!("ifmesh-witness/{}", agent.as_str().replace('+', "%2B"))
}

/// Whose log has this origin.
pub fn agent_of_origin(origin: &str) -> Option<AgentId> {
    let agent = origin.strip_prefix("ifmesh-witness/")?.replace("%2B", "+");
    AgentId::new(agent).ok()
}

/// The key in the form that verifiers of signed notes take (`name+hash+base64`), such as Go's `note.NewVerifier`.
pub fn verifier_key(agent: &AgentId, key: &PublicKey) -> String {
    let name = origin(agent);
    let hash = u32::from_be_bytes(key_hash(&name, key));
    let mut bytes = vec![ED25519];
    bytes.extend_from_slice(key.as_bytes());
    format!("{name}+{hash:08x}+{}", STANDARD.encode(bytes))
}

/// A checkpoint whose signature has been verified, or that was just signed.
#[derive(Clone, PartialEq, Eq)]
pub struct Checkpoint {
    size: u64,
    root: Hash,
    note: String,
}

/// Why text is no checkpoint of this log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CheckpointError {
    /// Not a signed note with three lines of text: origin, size, root.
    #[error("not a signed note with an origin, a size and a root")]
    Malformed,
    /// The checkpoint of another log.
    #[error("the checkpoint of another log")]
    OtherLog,
    /// None of its signatures is of a key that may sign this log.
    #[error("signed with no key of this log; give the verifier the key that the agent had then")]
    UnknownKey,
    /// It names a key of this log, and the signature does not verify.
    #[error("the signature does not verify")]
    BadSignature,
}

impl Checkpoint {
    pub(crate) fn sign(origin: &str, identity: &Identity, size: u64, root: Hash) -> Option<Self> {
        let text = text_of(origin, size, &root);
        let signature = identity.sign_note(&text)?;
        let mut bytes = key_hash(origin, identity.public_key()).to_vec();
        bytes.extend_from_slice(signature.as_bytes());
        let note = format!("{text}\n\u{2014} {origin} {}\n", STANDARD.encode(bytes));
        Some(Self { size, root, note })
    }

    /// Reads a signed note and verifies it. Signatures of keys that are not of this log (witnesses of the witness) are passed
    /// over.
    ///
    /// # Errors
    /// Whoever wrote the note is at fault, or it is of another log, or `keys` lacks a key.
    pub fn open(note: &str, keys: &LogKeys) -> Result<Self, CheckpointError> {
        if note.len() > MAX_NOTE {
            return Err(CheckpointError::Malformed);
        }
        // > A signed note consists of a text, a blank line and one or more signature lines. The last blank line counts, and
        // the text keeps its own last newline.
        let (text, signatures) = note
            .rfind("\n\n")
            .and_then(|at| Some((note.get(..=at)?, note.get(at + 2..)?)))
            .ok_or(CheckpointError::Malformed)?;
        let (size, root) = parse_text(text, keys)?;
        let signatures = signatures.strip_suffix('\n').ok_or(CheckpointError::Malformed)?;
        let mut verified = false;
        for (at, line) in signatures.split('\n').enumerate() {
            let (name, hash, signature) = parse_signature(line).ok_or(CheckpointError::Malformed)?;
            if at >= MAX_SIGNATURES {
                return Err(CheckpointError::Malformed);
            }
            let ours = keys.keys.iter().find(|key| key_hash(&keys.origin, key) == hash);
            let Some(key) = ours.filter(|_| name == keys.origin) else {
                continue;
            };
            let signature: [u8; 64] = signature.try_into().map_err(|_| CheckpointError::BadSignature)?;
            key.verify_note(text, &SignatureBytes::from_bytes(signature))
                .map_err(|_| CheckpointError::BadSignature)?;
            verified = true;
        }
        if !verified {
            return Err(CheckpointError::UnknownKey);
        }
        Ok(Self {
            size,
            root,
            note: note.to_owned(),
        })
    }

    /// The text that the signature is over.
    fn text(&self, origin: &str) -> String {
        text_of(origin, self.size, &self.root)
    }

    /// A cosigner's signature line over this checkpoint: "I hold this, and it follows from all that I held before".
    ///
    /// > The signed message MUST be ... a header line, a timestamp line, and the whole note body. (C2SP tlog-cosignature)
    pub fn cosign(
        &self,
        origin: &str,
        cosigner: &AgentId,
        identity: &Identity,
        seconds: u64,
    ) -> Option<String> {
        let signature = identity.sign_note(&cosigned_text(seconds, &self.text(origin)))?;
        let name = cosigner_name(cosigner);
        let mut bytes = key_hash_of(&name, COSIGNATURE, identity.public_key()).to_vec();
        bytes.extend_from_slice(&seconds.to_be_bytes());
        bytes.extend_from_slice(signature.as_bytes());
        Some(format!("\u{2014} {name} {}\n", STANDARD.encode(bytes)))
    }

    /// How many lines it covers.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The root of the tree over those lines.
    pub fn root(&self) -> &Hash {
        &self.root
    }

    /// The signed note. Give it to somebody else: what they hold, nobody can take back.
    pub fn note(&self) -> &str {
        &self.note
    }
}

impl fmt::Debug for Checkpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Checkpoint({} lines, {})", self.size, self.root)
    }
}

/// The name of an agent's key in its cosignatures.
fn cosigner_name(agent: &AgentId) -> String {
    format!("ifmesh-cosigner/{}", agent.as_str().replace('+', "%2B"))
}

/// Who says to have made this cosignature line.
pub(crate) fn cosigner_of(line: &str) -> Option<AgentId> {
    let (name, ..) = parse_signature(line.strip_suffix('\n').unwrap_or(line))?;
    AgentId::new(name.strip_prefix("ifmesh-cosigner/")?.replace("%2B", "+")).ok()
}

fn cosigned_text(seconds: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {seconds}\n{text}")
}

fn text_of(origin: &str, size: u64, root: &Hash) -> String {
    format!("{origin}\n{size}\n{}\n", STANDARD.encode(root.as_bytes()))
}

/// Verifies one cosignature line over the tree with this size and root, in C2SP tlog-cosignature form. Gives its time, in
/// seconds since the Unix epoch.
///
/// # Errors
/// [`CheckpointError`].
pub fn verify_cosignature(
    line: &str,
    origin: &str,
    size: u64,
    root: &Hash,
    cosigner: &AgentId,
    key: &PublicKey,
) -> Result<u64, CheckpointError> {
    let line = line.strip_suffix('\n').unwrap_or(line);
    let (name, hash, bytes) = parse_signature(line).ok_or(CheckpointError::Malformed)?;
    let expected = cosigner_name(cosigner);
    if name != expected || hash != key_hash_of(&expected, COSIGNATURE, key) {
        return Err(CheckpointError::UnknownKey);
    }
    let (seconds, signature) = bytes.split_first_chunk::<8>().ok_or(CheckpointError::Malformed)?;
    let signature: [u8; 64] = signature.try_into().map_err(|_| CheckpointError::BadSignature)?;
    let seconds = u64::from_be_bytes(*seconds);
    key.verify_note(
        &cosigned_text(seconds, &text_of(origin, size, root)),
        &SignatureBytes::from_bytes(signature),
    )
    .map_err(|_| CheckpointError::BadSignature)?;
    Ok(seconds)
}

fn parse_text(text: &str, keys: &LogKeys) -> Result<(u64, Hash), CheckpointError> {
    let body = text.strip_suffix('\n').ok_or(CheckpointError::Malformed)?;
    let mut lines = body.split('\n');
    let (Some(origin), Some(size), Some(root), None) =
        (lines.next(), lines.next(), lines.next(), lines.next())
    else {
        return Err(CheckpointError::Malformed);
    };
    if origin != keys.origin {
        return Err(CheckpointError::OtherLog);
    }
    let number: u64 = size.parse().map_err(|_| CheckpointError::Malformed)?;
    // > the tree size as ASCII decimal with no leading zeroes. (`parse` would also take a plus sign.)
    if number.to_string() != size {
        return Err(CheckpointError::Malformed);
    }
    let root = STANDARD.decode(root).map_err(|_| CheckpointError::Malformed)?;
    let root = root.try_into().map_err(|_| CheckpointError::Malformed)?;
    Ok((number, Hash::from_bytes(root)))
}

/// `— <key name> base64(32-bit key hash || signature)`
fn parse_signature(line: &str) -> Option<(&str, [u8; 4], Vec<u8>)> {
    let (name, encoded) = line.strip_prefix("\u{2014} ")?.split_once(' ')?;
    let bytes = STANDARD.decode(encoded).ok()?;
    let (hash, signature) = bytes.split_first_chunk::<4>()?;
    (!name.is_empty()).then(|| (name, *hash, signature.to_vec()))
}

/// > key ID = SHA-256(key name || 0x0A || signature type || public key)[:4]
fn key_hash(name: &str, key: &PublicKey) -> [u8; 4] {
    key_hash_of(name, ED25519, key)
}

fn key_hash_of(name: &str, algorithm: u8, key: &PublicKey) -> [u8; 4] {
    let mut hash = Sha256::new();
    hash.update(name);
    hash.update([b'\n', algorithm]);
    hash.update(key.as_bytes());
    let digest: [u8; 32] = hash.finalize().into();
    [digest[0], digest[1], digest[2], digest[3]]
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example in the documentation of golang.org/x/mod/sumdb/note, which Go signs and verifies.
    #[test]
    fn keys_and_signatures_are_those_of_go() {
        let key = "ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
        let bytes = STANDARD.decode(key).unwrap();
        assert_eq!(bytes[0], ED25519);
        let key = PublicKey::from_bytes(bytes[1..].try_into().unwrap()).unwrap();
        assert_eq!(key_hash("PeterNeumann", &key), [0xc7, 0x4f, 0x20, 0xa3]);
        let text = "If you think cryptography is the answer to your problem,\n\
            then you don't know what your problem is.\n";
        let line = "\u{2014} PeterNeumann \
            x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=";
        let (name, hash, signature) = parse_signature(line).unwrap();
        assert_eq!((name, hash), ("PeterNeumann", [0xc7, 0x4f, 0x20, 0xa3]));
        let signature = SignatureBytes::from_bytes(signature.try_into().unwrap());
        assert_eq!(key.verify_note(text, &signature), Ok(()));
    }

    #[test]
    fn every_other_byte_makes_another_note() {
        let identity = Identity::from_seed(&[5; 32]);
        let agent = AgentId::new("did:key:a+b").unwrap();
        let keys = LogKeys::new(agent.clone(), *identity.public_key());
        assert_eq!(keys.origin(), "ifmesh-witness/did:key:a%2Bb");
        let checkpoint =
            Checkpoint::sign(keys.origin(), &identity, 7, Hash::of_leaf(b"")).expect("a note's text");
        assert_eq!(
            Checkpoint::open(checkpoint.note(), &keys).as_ref(),
            Ok(&checkpoint)
        );
        for at in 0..checkpoint.note().len() {
            for bit in 0..8 {
                let mut bytes = checkpoint.note().as_bytes().to_vec();
                bytes[at] ^= 1 << bit;
                if let Ok(text) = String::from_utf8(bytes) {
                    assert!(Checkpoint::open(&text, &keys).is_err(), "{at} {bit}: {text}");
                }
            }
        }
        let stranger = LogKeys::new(agent, *Identity::from_seed(&[6; 32]).public_key());
        assert_eq!(
            Checkpoint::open(checkpoint.note(), &stranger),
            Err(CheckpointError::UnknownKey)
        );
        let other = LogKeys::new(AgentId::new("b").unwrap(), *identity.public_key());
        assert_eq!(
            Checkpoint::open(checkpoint.note(), &other),
            Err(CheckpointError::OtherLog)
        );
        // A cosignature of somebody we do not know does no harm.
        let cosigned = format!("{}\u{2014} someone AAAAAAECAw==\n", checkpoint.note());
        assert_eq!(Checkpoint::open(&cosigned, &keys).map(|found| found.size), Ok(7));
    }
}
