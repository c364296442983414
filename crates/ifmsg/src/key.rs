//! Keys, and statements signed with them.

mod comb;
mod prepared;

use std::{fmt, sync::Arc};

use ed25519_dalek::{
    Signer, SigningKey, VerifyingKey,
    pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes, spki::der::pem::LineEnding},
};
use rand_core::CryptoRng;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::hex::{self, hex_newtype};

pub(crate) use prepared::PreparedKeys;

hex_newtype! {
    /// Names a public key in eight bytes: `SHA-256("IFMESH-KEY\0" || 0x01 || public_key)[..8]`.
    ///
    /// A short name, not a proof: it selects a key out of the trust store, and the signature covers it.
    KeyId, 8
}

hex_newtype! {
    /// The 64 bytes of an Ed25519 signature (RFC 8032).
    SignatureBytes, 64
}

/// The only suite of this version: Ed25519 over SHA-256.
pub const SUITE_ED25519_SHA256: u8 = 1;

/// An Ed25519 public key that is fit for strict verification: a point on the curve, and not one of small order.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct PublicKey {
    key: VerifyingKey,
    id: KeyId,
}

/// Why bytes or text are not a usable public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidPublicKey {
    /// Not 64 lowercase hexadecimal digits.
    #[error("a public key is 64 lowercase hexadecimal digits")]
    NotHex,
    /// Not a `did:key` of an Ed25519 key.
    #[error("not a did:key of an Ed25519 key: did:key:z6Mk... is needed")]
    NotDidKey,
    /// The bytes are no point on the curve.
    #[error("these 32 bytes are not an Ed25519 public key")]
    NotAPoint,
    /// The point has small order: a signature under it proves nothing.
    #[error("this public key has small order, a signature under it proves nothing")]
    Weak,
}

/// The signature is not one of this key over these bytes, by the strict rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct BadSignature;

impl PublicKey {
    /// Takes the 32 bytes of RFC 8032, section 5.1.5.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self, InvalidPublicKey> {
        let key = VerifyingKey::from_bytes(bytes).map_err(|_| InvalidPublicKey::NotAPoint)?;
        if key.is_weak() {
            return Err(InvalidPublicKey::Weak);
        }
        if !is_reduced(bytes) {
            return Err(InvalidPublicKey::NotAPoint);
        }
        Ok(Self {
            key,
            id: key_id(bytes),
        })
    }

    /// Reads 64 lowercase hexadecimal digits.
    pub fn from_hex(text: &str) -> Result<Self, InvalidPublicKey> {
        Self::from_bytes(&hex::decode(text.as_bytes()).ok_or(InvalidPublicKey::NotHex)?)
    }

    /// Reads `did:key:z6Mk...`: base58btc over the multicodec prefix `ed 01` and the key.
    pub fn from_did_key(text: &str) -> Result<Self, InvalidPublicKey> {
        let encoded = text
            .strip_prefix("did:key:z")
            .ok_or(InvalidPublicKey::NotDidKey)?;
        // 34 bytes are at most 48 characters of base58; longer input is refused before it is decoded.
        if encoded.len() > 48 {
            return Err(InvalidPublicKey::NotDidKey);
        }
        let bytes = bs58::decode(encoded)
            .into_vec()
            .map_err(|_| InvalidPublicKey::NotDidKey)?;
        match bytes.as_slice() {
            [0xed, 0x01, key @ ..] => {
                Self::from_bytes(key.try_into().map_err(|_| InvalidPublicKey::NotDidKey)?)
            }
            _ => Err(InvalidPublicKey::NotDidKey),
        }
    }

    /// The 32 bytes of RFC 8032.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.key.as_bytes()
    }

    /// 64 lowercase hexadecimal digits.
    pub fn to_hex(&self) -> String {
        hex::encode(self.as_bytes())
    }

    /// `did:key:z6Mk...`, the self-certifying agent id of this key.
    pub fn to_did_key(&self) -> String {
        let mut bytes = Vec::with_capacity(34);
        bytes.extend_from_slice(&[0xed, 0x01]);
        bytes.extend_from_slice(self.as_bytes());
        format!("did:key:z{}", bs58::encode(bytes).into_string())
    }

    /// The key's short name.
    pub fn id(&self) -> KeyId {
        self.id
    }

    /// Verifies a [`Statement`] by the strict rule.
    pub fn verify_statement(
        &self,
        statement: &Statement,
        signature: &SignatureBytes,
    ) -> Result<(), BadSignature> {
        self.verify_strict(&statement.bytes, signature)
    }

    /// Verifies a signature over the text of a signed note, by the strict rule. Text that [`Identity::sign_note`] would not
    /// sign has no valid signature.
    pub fn verify_note(&self, text: &str, signature: &SignatureBytes) -> Result<(), BadSignature> {
        if !is_note_text(text) {
            return Err(BadSignature);
        }
        self.verify_strict(text.as_bytes(), signature)
    }

    /// The strict rule, everywhere and always: refuses small-order and non-canonical points and scalars, so that all
    /// verifiers agree on every signature (RFC 8032, 5.1.7, with the cofactorless equation).
    pub(crate) fn verify_strict(
        &self,
        message: &[u8],
        signature: &SignatureBytes,
    ) -> Result<(), BadSignature> {
        let signature = ed25519_dalek::Signature::from_bytes(signature.as_bytes());
        self.key
            .verify_strict(message, &signature)
            .map_err(|_| BadSignature)
    }
}

#[cfg(test)]
impl PublicKey {
    /// Pretends that this key has another's short name, which takes 2^64 attempts in earnest.
    pub(crate) fn colliding_with(self, other: &Self) -> Self {
        Self { id: other.id, ..self }
    }
}

impl std::hash::Hash for PublicKey {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_bytes().hash(state);
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({})", self.to_hex())
    }
}

/// An agent's private key. Zeroed when dropped; never shown by `Debug`.
#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
    /// Shared by all that it signs.
    public: Arc<PublicKey>,
}

/// Why text is not a private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidIdentity {
    /// Not a PEM file with an Ed25519 key in PKCS#8.
    #[error("not an Ed25519 private key in PKCS#8 PEM, as `openssl genpkey -algorithm ed25519` writes it")]
    NotPkcs8,
    /// The file holds a public key that is not the private key's own, or one that is unusable.
    #[error("the private key does not fit its public key")]
    Inconsistent,
}

impl Identity {
    /// A new key from a cryptographic random source.
    pub fn generate<R: CryptoRng + ?Sized>(random: &mut R) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        random.fill_bytes(&mut *seed);
        Self::from_seed(&seed)
    }

    /// The key that RFC 8032 derives from a 32-byte secret. Whoever knows the seed is this agent.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let verifying = key.verifying_key();
        Self {
            key,
            public: Arc::new(PublicKey {
                key: verifying,
                id: key_id(verifying.as_bytes()),
            }),
        }
    }

    /// Reads PKCS#8 PEM, as openssl writes it (RFC 5208, RFC 8410).
    pub fn from_pkcs8_pem(pem: &str) -> Result<Self, InvalidIdentity> {
        let key = SigningKey::from_pkcs8_pem(pem).map_err(|_| InvalidIdentity::NotPkcs8)?;
        let public = PublicKey::from_bytes(key.verifying_key().as_bytes())
            .map_err(|_| InvalidIdentity::Inconsistent)?;
        Ok(Self {
            key,
            public: Arc::new(public),
        })
    }

    /// Writes PKCS#8 PEM (version 1, without the public key: the form every openssl reads).
    pub fn to_pkcs8_pem(&self) -> Zeroizing<String> {
        let bytes = KeypairBytes {
            secret_key: self.key.to_bytes(),
            public_key: None,
        };
        // A fixed-size key always encodes; an empty file would be refused by every reader.
        bytes.to_pkcs8_pem(LineEnding::LF).unwrap_or_default()
    }

    /// The public half.
    pub fn public_key(&self) -> &PublicKey {
        &self.public
    }

    /// The public half's short name.
    pub fn key_id(&self) -> KeyId {
        self.public.id
    }

    /// Signs a [`Statement`].
    pub fn sign_statement(&self, statement: &Statement) -> SignatureBytes {
        self.sign(&statement.bytes)
    }

    /// Signs the text of a signed note (C2SP signed-note) as it stands, so that every reader of such notes can verify it.
    ///
    /// `None` if it is not the text of a note:
    ///
    /// > The text MUST be ... valid UTF-8, MUST NOT contain any ASCII control characters (those below U+0020) other than
    /// > newline, and MUST end in a newline.
    ///
    /// A note carries no prefix of ours, and needs none: everything else that this key signs begins with `IFMESH-` and a name
    /// that a NUL ends, and no text with a NUL is signed here. So no note can be taken for a message or a statement, nor
    /// the reverse.
    pub fn sign_note(&self, text: &str) -> Option<SignatureBytes> {
        is_note_text(text).then(|| self.sign(text.as_bytes()))
    }

    pub(crate) fn shared_public_key(&self) -> &Arc<PublicKey> {
        &self.public
    }

    pub(crate) fn sign(&self, message: &[u8]) -> SignatureBytes {
        SignatureBytes::from_bytes(self.key.sign(message).to_bytes())
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.key_id())
    }
}

/// What a signed statement is about. Each kind has its own prefix, so that no signature can be taken for another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StatementKind {
    /// An offer or answer (`IFMESH-SDP`).
    SessionDescription,
    /// The first frame of a data channel (`IFMESH-HELLO`).
    Hello,
    /// The first frame of a relayed link (`IFMESH-RELAY`).
    RelayHello,
    /// An agent says on a DDS domain that it is there (`IFMESH-DDS-PRESENCE`).
    DdsPresence,
    /// The first sample each way of a link over DDS (`IFMESH-DDS-HELLO`).
    DdsHello,
    /// A heartbeat or goodbye of a link over DDS (`IFMESH-DDS-ALIVE`).
    DdsAlive,
    /// Registration at a signaling server (`IFMESH-REG`).
    Registration,
    /// A checkpoint of a witness log (`IFMESH-CKPT`).
    Checkpoint,
    /// A key hands over to its successor (`IFMESH-ROT`).
    Rotation,
    /// A key is withdrawn (`IFMESH-REVOKE`).
    Revocation,
}

impl StatementKind {
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::SessionDescription => b"IFMESH-SDP\0",
            Self::Hello => b"IFMESH-HELLO\0",
            Self::RelayHello => b"IFMESH-RELAY\0",
            Self::DdsPresence => b"IFMESH-DDS-PRESENCE\0",
            Self::DdsHello => b"IFMESH-DDS-HELLO\0",
            Self::DdsAlive => b"IFMESH-DDS-ALIVE\0",
            Self::Registration => b"IFMESH-REG\0",
            Self::Checkpoint => b"IFMESH-CKPT\0",
            Self::Rotation => b"IFMESH-ROT\0",
            Self::Revocation => b"IFMESH-REVOKE\0",
        }
    }
}

/// The exact bytes of a statement: the prefix of its kind, then each part behind its length (u32, big endian).
///
/// The lengths make it injective: no two lists of parts give the same bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    bytes: Vec<u8>,
}

impl Statement {
    /// An empty statement of this kind.
    pub fn new(kind: StatementKind) -> Self {
        Self {
            bytes: kind.prefix().to_vec(),
        }
    }

    /// Adds one part.
    #[must_use]
    pub fn part(mut self, part: impl AsRef<[u8]>) -> Self {
        let part = part.as_ref();
        // Parts are identifiers, hashes and descriptions; 4 GiB of them never fit in any message.
        let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(part);
        self
    }

    /// Adds an unsigned number as eight bytes, big endian.
    #[must_use]
    pub fn number(self, number: u64) -> Self {
        self.part(number.to_be_bytes())
    }

    /// The bytes that are signed.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Whether text can be that of a signed note.
fn is_note_text(text: &str) -> bool {
    text.ends_with('\n') && text.bytes().all(|byte| byte >= 0x20 || byte == b'\n')
}

/// Whether y is below p = 2^255 - 19, little endian. With x = 0 ruled out (those points have small order), that leaves one
/// encoding for each point: RFC 8032, section 5.1.3, refuses the others, and so do we, since a key is named by its bytes.
fn is_reduced(bytes: &[u8; 32]) -> bool {
    bytes[0] < 0xed || bytes[1..31].iter().any(|&byte| byte != 0xff) || bytes[31] & 0x7f != 0x7f
}

pub(crate) fn key_id(public_key: &[u8; 32]) -> KeyId {
    let mut hash = Sha256::new();
    hash.update(b"IFMESH-KEY\0");
    hash.update([SUITE_ED25519_SHA256]);
    hash.update(public_key);
    let digest: [u8; 32] = hash.finalize().into();
    let mut id = [0; 8];
    id.copy_from_slice(&digest[..8]);
    KeyId::from_bytes(id)
}

#[cfg(test)]
mod vectors;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pem_round_trip_and_openssl_form() {
        let identity = Identity::from_seed(&[7; 32]);
        let pem = identity.to_pkcs8_pem();
        assert!(pem.starts_with("-----BEGIN PRIVATE KEY-----\n"), "{}", &pem[..30]);
        assert_eq!(
            Identity::from_pkcs8_pem(&pem).unwrap().public_key(),
            identity.public_key()
        );
        // Written by `openssl genpkey -algorithm ed25519` (RFC 8410, section 10.3).
        let openssl = "-----BEGIN PRIVATE KEY-----\n\
            MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
            -----END PRIVATE KEY-----\n";
        assert_eq!(
            Identity::from_pkcs8_pem(openssl).unwrap().public_key().to_hex(),
            "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1"
        );
        assert_eq!(
            Identity::from_pkcs8_pem("nothing").unwrap_err(),
            InvalidIdentity::NotPkcs8
        );
    }

    #[test]
    fn debug_shows_no_secret() {
        let identity = Identity::from_seed(&[0xab; 32]);
        assert_eq!(
            format!("{identity:?}"),
            format!("Identity({})", identity.key_id())
        );
    }

    #[test]
    fn weak_and_malformed_public_keys_are_refused() {
        let mut identity_point = [0; 32];
        identity_point[0] = 1;
        assert_eq!(
            PublicKey::from_bytes(&identity_point),
            Err(InvalidPublicKey::Weak)
        );
        assert_eq!(PublicKey::from_bytes(&[2; 32]), Err(InvalidPublicKey::NotAPoint));
        assert_eq!(PublicKey::from_hex("AB"), Err(InvalidPublicKey::NotHex));
    }

    #[test]
    fn did_key_round_trip() {
        let key = *Identity::from_seed(&[1; 32]).public_key();
        let did = key.to_did_key();
        assert!(did.starts_with("did:key:z6Mk"), "{did}");
        assert_eq!(PublicKey::from_did_key(&did), Ok(key));
        for bad in [
            "did:key:z6Mk",
            "did:web:x",
            "did:key:z0",
            &did[..did.len() - 1],
            &format!("{did}1"),
        ] {
            assert!(PublicKey::from_did_key(bad).is_err(), "{bad}");
        }
        // The did:key specification's own example.
        let example = "did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK";
        assert_eq!(PublicKey::from_did_key(example).unwrap().to_did_key(), example);
    }

    #[test]
    fn a_note_is_never_the_bytes_of_a_statement() {
        let identity = Identity::from_seed(&[4; 32]);
        let key = identity.public_key();
        let signature = identity.sign_note("origin\n1\n").unwrap();
        assert_eq!(key.verify_note("origin\n1\n", &signature), Ok(()));
        assert_eq!(key.verify_note("origin\n2\n", &signature), Err(BadSignature));
        for refused in ["", "no newline", "IFMESH-SIG\0\n", "tab\t\n", "return\r\n"] {
            assert_eq!(identity.sign_note(refused), None, "{refused:?}");
            let signed_anyway = identity.sign(refused.as_bytes());
            assert_eq!(key.verify_note(refused, &signed_anyway), Err(BadSignature));
        }
        for kind in [
            StatementKind::SessionDescription,
            StatementKind::Hello,
            StatementKind::RelayHello,
            StatementKind::DdsPresence,
            StatementKind::DdsHello,
            StatementKind::DdsAlive,
            StatementKind::Registration,
            StatementKind::Checkpoint,
            StatementKind::Rotation,
            StatementKind::Revocation,
        ] {
            assert!(kind.prefix().contains(&0), "{kind:?}");
        }
    }

    #[test]
    fn statements_of_different_kinds_or_parts_never_share_bytes() {
        let identity = Identity::from_seed(&[3; 32]);
        let hello = Statement::new(StatementKind::Hello).part("ab").part("c");
        let signature = identity.sign_statement(&hello);
        identity
            .public_key()
            .verify_statement(&hello, &signature)
            .unwrap();
        for other in [
            Statement::new(StatementKind::Hello).part("a").part("bc"),
            Statement::new(StatementKind::Registration).part("ab").part("c"),
            Statement::new(StatementKind::Hello).part("abc"),
        ] {
            assert_eq!(
                identity.public_key().verify_statement(&other, &signature),
                Err(BadSignature)
            );
        }
    }
}
