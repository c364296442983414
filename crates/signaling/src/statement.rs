//! What is signed around signaling: session descriptions, and registrations.
//!
//! # Bytes
//!
//! A statement is a prefix followed by parts; each part stands behind its length in bytes, a u32 in big endian. Every part
//! is **the string exactly as it stands in the JSON member, in UTF-8**; the epoch alone is a number and stands as eight
//! bytes, big endian. Signatures are Ed25519 over these bytes (the bytes themselves, not a hash of them), verified by the
//! strict rule.
//!
//! A session description (`statement` beside `offer` or `answer`), ten parts:
//!
//! ```text
//! "IFMESH-SDP\0"
//!  1 from         the author's agent id                     equals the frame's `from`
//!  2 to           the addressee's agent id                  equals the frame's `to`
//!  3 session      32 lowercase hex digits                   random; chosen by the offerer, repeated by the answerer
//!  4 role         "offer" or "answer"                       equals the frame's type
//!  5 epoch        8 bytes, big endian                       the author's epoch; in JSON an integer, 0 to 2^53-1
//!  6 fingerprint  64 lowercase hex digits, no colons        the SHA-256 of `a=fingerprint:sha-256` in the SDP
//!  7 ice_ufrag    text                                      the value of `a=ice-ufrag:` in the SDP
//!  8 sdp_hash     64 lowercase hex digits                   SHA-256 of the SDP text in UTF-8, as in `offer.sdp`
//!  9 expires      YYYY-MM-DDTHH:MM:SS.sssZ                  at most 60 s after the verifier's now; 30 s is usual
//! 10 offer        64 lowercase hex digits, or nothing       answers: SHA-256 of the offer's statement bytes (prefix and
//!                                                           ten parts); offers: an empty part, and no JSON member
//! ```
//!
//! The JSON member has these ten members by these names (`offer` only in an answer's) and `signature`, 128 lowercase hex
//! digits. A registration's proof, five parts:
//!
//! ```text
//! "IFMESH-REG\0"
//!  1 server_id    as in `challenge`
//!  2 nonce        64 lowercase hex digits, as in `challenge`
//!  3 agent_id     as in `register`
//!  4 epoch        8 bytes, big endian
//!  5 public_key   64 lowercase hex digits, as in `register`
//! ```
//!
//! Everything here is a pure function: no I/O, and the time is handed in.

use ifmsg::{AgentId, Identity, PublicKey, SignatureBytes, Statement, StatementKind, Timestamp};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{
    protocol::Nonce,
    spelling::{self, hex_bytes},
};

/// A statement that expires later than this after the verifier's now is refused.
pub const MAX_DESCRIPTION_TTL_MILLIS: i64 = 60_000;

/// How long a description is usually valid: half the maximum, which leaves clocks 30 s to differ either way.
pub const DEFAULT_DESCRIPTION_TTL_MILLIS: i64 = 30_000;

hex_bytes! {
    /// Names one negotiation: 128 random bits, chosen by the offerer. 32 lowercase hexadecimal digits on the wire.
    SessionId, 16, "a session is 32 lowercase hexadecimal digits"
}

hex_bytes! {
    /// A SHA-256 digest: of an SDP, of a statement, or of a certificate (a DTLS fingerprint). 64 lowercase hexadecimal
    /// digits on the wire.
    Sha256Digest, 32, "a digest is 64 lowercase hexadecimal digits"
}

impl SessionId {
    /// A new session.
    pub fn random<R: CryptoRng + ?Sized>(random: &mut R) -> Self {
        let mut bytes = [0; 16];
        random.fill_bytes(&mut bytes);
        Self::from_bytes(bytes)
    }
}

impl Sha256Digest {
    /// Hashes `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_bytes(Sha256::digest(bytes).into())
    }
}

/// Signs what the description says about itself: who, to whom, with which certificate, until when.
///
/// The fingerprint, the ICE user fragment and the hash are taken from `sdp`; that may fail ([`SdpError`]).
pub fn sign_description(
    identity: &Identity,
    description: &DescriptionToSign<'_>,
) -> Result<SignedDescription, SdpError> {
    let (fingerprint, ice_ufrag) = sdp_identity(description.sdp)?;
    let mut signed = SignedDescription {
        from: description.from.clone(),
        to: description.to.clone(),
        session: description.session,
        role: description.role.kind(),
        epoch: description.epoch,
        fingerprint,
        ice_ufrag: ice_ufrag.to_owned(),
        sdp_hash: Sha256Digest::of(description.sdp.as_bytes()),
        expires: description.expires,
        offer: description.role.offer(),
        signature: SignatureBytes::from_bytes([0; 64]),
    };
    signed.signature = identity.sign_statement(&signed.statement());
    Ok(signed)
}

/// Accepts a description, or says why not. Nothing that an unverified description says may be acted upon.
///
/// The signature is checked first, so every other reason is one that the author is answerable for.
///
/// What it cannot know: whether this very statement came before. It may, for up to 60 s (a server can repeat frames); remember
/// [`VerifiedDescription::digest`] that long, or let the hello on the data channel, with its nonces, settle it.
pub fn verify_description(
    statement: Option<&SignedDescription>,
    sdp: &str,
    expected: &ExpectedDescription<'_>,
) -> Result<VerifiedDescription, DescriptionRejected> {
    use DescriptionRejected as Rejected;

    let signed = statement.ok_or(Rejected::Unsigned)?;
    let bytes = signed.statement();
    expected
        .key
        .verify_statement(&bytes, &signed.signature)
        .map_err(|_| Rejected::BadSignature)?;

    if signed.from != *expected.from {
        return Err(Rejected::WrongFrom);
    }
    if signed.to != *expected.to {
        return Err(Rejected::WrongTo);
    }
    if signed.role != expected.role.kind() {
        return Err(Rejected::WrongRole);
    }
    if expected.session.is_some_and(|session| session != signed.session) {
        return Err(Rejected::WrongSession);
    }
    if signed.offer != expected.role.offer() {
        return Err(Rejected::WrongOffer);
    }
    if signed.epoch < expected.min_epoch {
        return Err(Rejected::StaleEpoch {
            epoch: signed.epoch,
            min: expected.min_epoch,
        });
    }
    let left = signed.expires.millis_since(expected.now);
    if left <= 0 {
        return Err(Rejected::Expired);
    }
    if left > MAX_DESCRIPTION_TTL_MILLIS {
        return Err(Rejected::TtlTooLong);
    }

    let (fingerprint, ice_ufrag) = sdp_identity(sdp)?;
    if fingerprint != signed.fingerprint {
        return Err(Rejected::FingerprintMismatch);
    }
    if ice_ufrag != signed.ice_ufrag {
        return Err(Rejected::UfragMismatch);
    }
    if Sha256Digest::of(sdp.as_bytes()) != signed.sdp_hash {
        return Err(Rejected::SdpMismatch);
    }
    Ok(VerifiedDescription {
        session: signed.session,
        epoch: signed.epoch,
        fingerprint,
        digest: Sha256Digest::of(bytes.as_bytes()),
        sdp_hash: signed.sdp_hash,
    })
}

/// What [`sign_description`] signs.
#[derive(Debug, Clone, Copy)]
pub struct DescriptionToSign<'a> {
    /// The author.
    pub from: &'a AgentId,
    /// The addressee.
    pub to: &'a AgentId,
    /// The negotiation: random for an offer, the offer's for an answer.
    pub session: SessionId,
    /// Offer, or answer to which offer.
    pub role: Role,
    /// The author's epoch.
    pub epoch: u64,
    /// The session description, exactly as it is sent.
    pub sdp: &'a str,
    /// Usually now plus [`DEFAULT_DESCRIPTION_TTL_MILLIS`].
    pub expires: Timestamp,
}

/// What [`verify_description`] holds a description against. All of it is known before the frame comes.
#[derive(Debug, Clone, Copy)]
pub struct ExpectedDescription<'a> {
    /// The key that the trust store holds for `from`.
    pub key: &'a PublicKey,
    /// The frame's `from`.
    pub from: &'a AgentId,
    /// The verifier's own name.
    pub to: &'a AgentId,
    /// Offer, or answer to which offer of ours.
    pub role: Role,
    /// The session of our offer; `None` for an offer, which opens one.
    pub session: Option<SessionId>,
    /// The highest epoch known of `from`; a lower one is a replay from an earlier life.
    pub min_epoch: u64,
    /// The verifier's now.
    pub now: Timestamp,
}

/// Which half of a negotiation a description is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Opens a session.
    Offer,
    /// Answers one offer.
    Answer {
        /// The [digest](SignedDescription::digest) of the offer's statement.
        to: Sha256Digest,
    },
}

impl Role {
    fn kind(self) -> RoleKind {
        match self {
            Self::Offer => RoleKind::Offer,
            Self::Answer { .. } => RoleKind::Answer,
        }
    }

    fn offer(self) -> Option<Sha256Digest> {
        match self {
            Self::Offer => None,
            Self::Answer { to } => Some(to),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RoleKind {
    Offer,
    Answer,
}

/// The member `statement` beside an offer or answer: claims, until [`verify_description`] accepts them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedDescription {
    from: AgentId,
    to: AgentId,
    #[serde(with = "spelling")]
    session: SessionId,
    role: RoleKind,
    #[serde(with = "spelling::epoch")]
    epoch: u64,
    #[serde(with = "spelling")]
    fingerprint: Sha256Digest,
    ice_ufrag: String,
    #[serde(with = "spelling")]
    sdp_hash: Sha256Digest,
    #[serde(with = "spelling")]
    expires: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none", with = "spelling::option")]
    offer: Option<Sha256Digest>,
    #[serde(with = "spelling")]
    signature: SignatureBytes,
}

impl SignedDescription {
    /// SHA-256 of the bytes that are signed: what an answer names its offer by.
    pub fn digest(&self) -> Sha256Digest {
        Sha256Digest::of(self.statement().as_bytes())
    }

    /// The exact bytes that are signed.
    pub fn statement(&self) -> Statement {
        let role = match self.role {
            RoleKind::Offer => "offer",
            RoleKind::Answer => "answer",
        };
        Statement::new(StatementKind::SessionDescription)
            .part(self.from.as_str())
            .part(self.to.as_str())
            .part(self.session.to_hex())
            .part(role)
            .number(self.epoch)
            .part(self.fingerprint.to_hex())
            .part(&self.ice_ufrag)
            .part(self.sdp_hash.to_hex())
            .part(self.expires.to_string())
            .part(self.offer.map(|offer| offer.to_hex()).unwrap_or_default())
    }
}

/// A description that its author signed for this session and this addressee.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifiedDescription {
    /// The negotiation it belongs to.
    pub session: SessionId,
    /// The author's epoch.
    pub epoch: u64,
    /// SHA-256 of the certificate that the author will show in DTLS.
    pub fingerprint: Sha256Digest,
    /// SHA-256 of the statement: what an answer names its offer by.
    pub digest: Sha256Digest,
    /// SHA-256 of the SDP text, for the witness.
    pub sdp_hash: Sha256Digest,
}

/// Why a description is not to be acted upon. The peer's fault or the server's, never ours; only a new description helps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DescriptionRejected {
    /// There is no statement.
    #[error("the description is unsigned")]
    Unsigned,
    /// Not signed by the key that is trusted for `from`, or changed since.
    #[error("the statement's signature does not verify under the key trusted for its author")]
    BadSignature,
    /// Signed by this key under another name.
    #[error("the statement names another author")]
    WrongFrom,
    /// Meant for somebody else.
    #[error("the statement names another addressee")]
    WrongTo,
    /// An offer's statement beside an answer, or the reverse.
    #[error("the statement is for the other role")]
    WrongRole,
    /// Of another negotiation.
    #[error("the statement belongs to another session")]
    WrongSession,
    /// Answers an offer that is not the one we made.
    #[error("the statement answers another offer")]
    WrongOffer,
    /// From an earlier life of the author.
    #[error("the statement has epoch {epoch}, {min} is known")]
    StaleEpoch {
        /// The statement's epoch.
        epoch: u64,
        /// The highest known.
        min: u64,
    },
    /// Too old.
    #[error("the statement has expired: compare the clocks of both machines")]
    Expired,
    /// Valid for longer than the protocol allows.
    #[error("the statement expires more than 60 s ahead: compare the clocks of both machines")]
    TtlTooLong,
    /// The SDP has another certificate.
    #[error("the DTLS fingerprint in the SDP is not the signed one")]
    FingerprintMismatch,
    /// The SDP has other ICE credentials.
    #[error("the ICE user fragment in the SDP is not the signed one")]
    UfragMismatch,
    /// The SDP was changed elsewhere.
    #[error("the SDP is not the signed one")]
    SdpMismatch,
    /// The SDP lacks what is signed, or contradicts itself.
    #[error(transparent)]
    Sdp(#[from] SdpError),
}

/// Why an SDP cannot be signed for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SdpError {
    /// No `a=fingerprint:`.
    #[error("the SDP has no a=fingerprint line")]
    NoFingerprint,
    /// A fingerprint that is not `sha-256` and 32 pairs of hexadecimal digits. RFC 8122 knows other hashes; a second hash of
    /// another certificate would be a second identity, so there is one.
    #[error("the SDP has a fingerprint that is not sha-256")]
    UnsupportedFingerprint,
    /// Two fingerprints differ: one channel, one certificate.
    #[error("the SDP has fingerprints that differ")]
    ConflictingFingerprints,
    /// No `a=ice-ufrag:`.
    #[error("the SDP has no a=ice-ufrag line")]
    NoUfrag,
    /// Not 4 to 256 characters (RFC 8839, 5.4).
    #[error("the SDP has an ICE user fragment that is not 4 to 256 characters")]
    BadUfrag,
    /// Two user fragments differ: one channel, one transport.
    #[error("the SDP has ICE user fragments that differ")]
    ConflictingUfrags,
}

/// The certificate fingerprint and the ICE user fragment of an SDP, wherever they stand (session or media level).
///
/// All of them must agree. Lines end with CRLF or LF.
pub fn sdp_identity(sdp: &str) -> Result<(Sha256Digest, &str), SdpError> {
    let mut fingerprint = None;
    let mut ufrag = None;
    for line in sdp.split(['\r', '\n']) {
        if let Some(value) = line.strip_prefix("a=fingerprint:") {
            let found = read_fingerprint(value).ok_or(SdpError::UnsupportedFingerprint)?;
            if *fingerprint.get_or_insert(found) != found {
                return Err(SdpError::ConflictingFingerprints);
            }
        } else if let Some(value) = line.strip_prefix("a=ice-ufrag:") {
            // RFC 8839, 5.4: ufrag = 4*256ice-char. Stacks in the field use other visible characters too.
            if !(4..=256).contains(&value.len()) || !value.bytes().all(|byte| byte.is_ascii_graphic()) {
                return Err(SdpError::BadUfrag);
            }
            if *ufrag.get_or_insert(value) != value {
                return Err(SdpError::ConflictingUfrags);
            }
        }
    }
    Ok((
        fingerprint.ok_or(SdpError::NoFingerprint)?,
        ufrag.ok_or(SdpError::NoUfrag)?,
    ))
}

/// The bytes that a client signs to prove its key to a server.
pub fn registration_statement(
    server_id: &AgentId,
    nonce: &Nonce,
    agent_id: &AgentId,
    epoch: u64,
    public_key: &PublicKey,
) -> Statement {
    Statement::new(StatementKind::Registration)
        .part(server_id.as_str())
        .part(nonce.to_hex())
        .part(agent_id.as_str())
        .number(epoch)
        .part(public_key.to_hex())
}

/// RFC 8122, 5: `hash-func SP fingerprint`, the fingerprint pairs of upper-case hexadecimal digits joined by colons. Names of
/// hash functions compare without case; lower-case digits are accepted as every stack does.
fn read_fingerprint(value: &str) -> Option<Sha256Digest> {
    let (hash, pairs) = value.split_once(' ')?;
    if !hash.eq_ignore_ascii_case("sha-256") || pairs.len() != 32 * 3 - 1 {
        return None;
    }
    let mut bytes = [0; 32];
    let mut count = 0;
    for (byte, pair) in bytes.iter_mut().zip(pairs.split(':')) {
        if pair.len() != 2 || !pair.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return None;
        }
        *byte = u8::from_str_radix(pair, 16).ok()?;
        count += 1;
    }
    (count == 32).then_some(Sha256Digest::from_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FINGERPRINT: &str =
        "AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99";
    const OTHER: &str =
        "00:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99";

    fn sdp() -> String {
        format!(
            "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=fingerprint:sha-256 {FINGERPRINT}\r\n\
             m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\na=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n"
        )
    }

    fn id(text: &str) -> AgentId {
        AgentId::new(text).unwrap()
    }

    const NOW: Timestamp = Timestamp::from_unix_millis(1_795_000_000_000);

    struct World {
        alice: Identity,
        bob: Identity,
        a: AgentId,
        b: AgentId,
        sdp: String,
    }

    impl World {
        fn new() -> Self {
            Self {
                alice: Identity::from_seed(&[1; 32]),
                bob: Identity::from_seed(&[2; 32]),
                a: id("alice"),
                b: id("bob"),
                sdp: sdp(),
            }
        }

        fn to_sign(&self) -> DescriptionToSign<'_> {
            DescriptionToSign {
                from: &self.a,
                to: &self.b,
                session: SessionId::from_bytes([7; 16]),
                role: Role::Offer,
                epoch: 5,
                sdp: &self.sdp,
                expires: NOW.plus_millis(DEFAULT_DESCRIPTION_TTL_MILLIS),
            }
        }

        fn expected(&self) -> ExpectedDescription<'_> {
            ExpectedDescription {
                key: self.alice.public_key(),
                from: &self.a,
                to: &self.b,
                role: Role::Offer,
                session: None,
                min_epoch: 5,
                now: NOW,
            }
        }
    }

    #[test]
    fn an_honest_offer_and_its_answer_verify() {
        let w = World::new();
        let offer = sign_description(&w.alice, &w.to_sign()).unwrap();
        let verified = verify_description(Some(&offer), &w.sdp, &w.expected()).unwrap();
        assert_eq!(verified.session, SessionId::from_bytes([7; 16]));
        assert_eq!(verified.digest, offer.digest());

        let role = Role::Answer { to: verified.digest };
        let answer = sign_description(
            &w.bob,
            &DescriptionToSign {
                from: &w.b,
                to: &w.a,
                role,
                ..w.to_sign()
            },
        )
        .unwrap();
        let expected = ExpectedDescription {
            key: w.bob.public_key(),
            from: &w.b,
            to: &w.a,
            role,
            session: Some(verified.session),
            ..w.expected()
        };
        verify_description(Some(&answer), &w.sdp, &expected).unwrap();
        // The same answer, after we made another offer.
        let again = ExpectedDescription {
            role: Role::Answer {
                to: Sha256Digest::from_bytes([0; 32]),
            },
            ..expected
        };
        assert_eq!(
            verify_description(Some(&answer), &w.sdp, &again),
            Err(DescriptionRejected::WrongOffer)
        );
        let other_session = ExpectedDescription {
            session: Some(SessionId::from_bytes([8; 16])),
            ..expected
        };
        assert_eq!(
            verify_description(Some(&answer), &w.sdp, &other_session),
            Err(DescriptionRejected::WrongSession)
        );
    }

    /// Fails if any text that reaches the receiver can differ from what was signed.
    #[test]
    fn a_server_that_touches_the_sdp_is_caught() {
        use DescriptionRejected::*;
        let w = World::new();
        let offer = sign_description(&w.alice, &w.to_sign()).unwrap();
        for (what, sdp, reason) in [
            (
                "another certificate",
                w.sdp.replace(FINGERPRINT, OTHER),
                FingerprintMismatch,
            ),
            (
                "a second certificate",
                format!("{}a=fingerprint:sha-256 {OTHER}\r\n", w.sdp),
                Sdp(SdpError::ConflictingFingerprints),
            ),
            (
                "a second certificate at the front",
                w.sdp
                    .replacen("t=0 0", &format!("a=fingerprint:sha-256 {OTHER}\r\nt=0 0"), 1),
                Sdp(SdpError::ConflictingFingerprints),
            ),
            (
                "a second certificate behind a bare LF",
                format!("{}a=fingerprint:sha-256 {OTHER}\n", w.sdp),
                Sdp(SdpError::ConflictingFingerprints),
            ),
            (
                "another hash function",
                format!("{}a=fingerprint:sha-1 AA:BB\r\n", w.sdp),
                Sdp(SdpError::UnsupportedFingerprint),
            ),
            ("another ufrag", w.sdp.replace("EsAw", "EsAx"), UfragMismatch),
            (
                "a second ufrag",
                format!("{}a=ice-ufrag:other\r\n", w.sdp),
                Sdp(SdpError::ConflictingUfrags),
            ),
            (
                "a candidate",
                format!("{}a=candidate:1 1 udp 1 6.6.6.6 6 typ host\r\n", w.sdp),
                SdpMismatch,
            ),
            (
                "the same certificate twice",
                format!("{}a=fingerprint:sha-256 {FINGERPRINT}\r\n", w.sdp),
                SdpMismatch,
            ),
            ("the password", w.sdp.replace("P2uY", "P2uZ"), SdpMismatch),
            ("line ends", w.sdp.replace("\r\n", "\n"), SdpMismatch),
            ("nothing left", String::new(), Sdp(SdpError::NoFingerprint)),
            (
                "no ufrag",
                w.sdp.replace("a=ice-ufrag", "a=x"),
                Sdp(SdpError::NoUfrag),
            ),
        ] {
            assert_eq!(
                verify_description(Some(&offer), &sdp, &w.expected()),
                Err(reason),
                "{what}"
            );
        }
        assert_eq!(verify_description(None, &w.sdp, &w.expected()), Err(Unsigned));
    }

    /// Every member is under the signature: whoever edits one, in JSON, gets `BadSignature`.
    #[test]
    fn no_member_of_the_statement_can_be_edited() {
        let w = World::new();
        let role = Role::Answer {
            to: Sha256Digest::from_bytes([3; 32]),
        };
        let signed = sign_description(&w.alice, &DescriptionToSign { role, ..w.to_sign() }).unwrap();
        let json = serde_json::to_value(&signed).unwrap();
        let expected = ExpectedDescription { role, ..w.expected() };
        verify_description(Some(&signed), &w.sdp, &expected).unwrap();
        let edits = [
            ("from", "mallory".into()),
            ("to", "mallory".into()),
            ("session", "00".repeat(16).into()),
            ("role", "offer".into()),
            ("epoch", 6.into()),
            ("fingerprint", "00".repeat(32).into()),
            ("ice_ufrag", "EsAx".into()),
            ("sdp_hash", "00".repeat(32).into()),
            ("expires", NOW.plus_millis(59_000).to_string().into()),
            ("offer", "00".repeat(32).into()),
            ("signature", "00".repeat(64).into()),
        ];
        assert_eq!(
            edits.len(),
            json.as_object().unwrap().len(),
            "a member has no edit"
        );
        for (name, value) in edits {
            let mut edited = json.clone();
            assert_ne!(edited[name], value);
            edited[name] = value;
            let edited: SignedDescription = serde_json::from_value(edited).unwrap();
            assert_eq!(
                verify_description(Some(&edited), &w.sdp, &expected),
                Err(DescriptionRejected::BadSignature),
                "{name}"
            );
        }
    }

    /// Validly signed, and still not for this receiver, this time, this place.
    #[test]
    fn a_true_statement_in_the_wrong_place_is_refused() {
        use DescriptionRejected::*;
        let w = World::new();
        let mallory = id("mallory");
        let base = w.to_sign();
        let answer = Role::Answer {
            to: Sha256Digest::from_bytes([3; 32]),
        };
        for (reason, signed) in [
            (
                WrongFrom,
                DescriptionToSign {
                    from: &mallory,
                    ..base
                },
            ),
            (WrongTo, DescriptionToSign { to: &mallory, ..base }),
            (WrongRole, DescriptionToSign { role: answer, ..base }),
            (
                StaleEpoch { epoch: 4, min: 5 },
                DescriptionToSign { epoch: 4, ..base },
            ),
            (Expired, DescriptionToSign { expires: NOW, ..base }),
            (
                TtlTooLong,
                DescriptionToSign {
                    expires: NOW.plus_millis(60_001),
                    ..base
                },
            ),
        ] {
            let signed = sign_description(&w.alice, &signed).unwrap();
            assert_eq!(
                verify_description(Some(&signed), &w.sdp, &w.expected()),
                Err(reason)
            );
        }
        let by_bob = sign_description(&w.bob, &base).unwrap();
        assert_eq!(
            verify_description(Some(&by_bob), &w.sdp, &w.expected()),
            Err(BadSignature)
        );
        let longest = DescriptionToSign {
            expires: NOW.plus_millis(60_000),
            ..base
        };
        let longest = sign_description(&w.alice, &longest).unwrap();
        verify_description(Some(&longest), &w.sdp, &w.expected()).unwrap();
    }

    /// Pins the bytes: a second implementation is written from the table above.
    #[test]
    fn the_bytes_are_those_of_the_document() {
        let w = World::new();
        let role = Role::Answer {
            to: Sha256Digest::from_bytes([3; 32]),
        };
        let signed = sign_description(&w.alice, &DescriptionToSign { role, ..w.to_sign() }).unwrap();
        let mut bytes = b"IFMESH-SDP\0".to_vec();
        let epoch = 5u64.to_be_bytes();
        let fingerprint = FINGERPRINT.replace(':', "").to_lowercase();
        let sdp_hash = ifmsg::hex::encode(&Sha256::digest(w.sdp.as_bytes()));
        for part in [
            &b"alice"[..],
            b"bob",
            b"07070707070707070707070707070707",
            b"answer",
            &epoch,
            fingerprint.as_bytes(),
            b"EsAw",
            sdp_hash.as_bytes(),
            b"2026-11-18T11:07:10.000Z",
            "03".repeat(32).as_bytes(),
        ] {
            bytes.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(part);
        }
        assert_eq!(
            String::from_utf8_lossy(signed.statement().as_bytes()),
            String::from_utf8_lossy(&bytes)
        );
        assert_eq!(signed.statement().as_bytes(), bytes);
    }

    #[test]
    fn fingerprints_are_read_as_rfc_8122_writes_them() {
        let with = |line: &str| format!("a=ice-ufrag:EsAw\r\n{line}\r\n");
        let lower = format!("a=fingerprint:SHA-256 {}", FINGERPRINT.to_lowercase());
        assert!(sdp_identity(&with(&lower)).is_ok());
        for bad in [
            "a=fingerprint:sha-256".to_owned(),
            format!("a=fingerprint:sha-256  {FINGERPRINT}"),
            format!("a=fingerprint:sha-256 {FINGERPRINT} "),
            format!("a=fingerprint:sha-256 {}", &FINGERPRINT[..92]),
            format!("a=fingerprint:sha-256 {}", FINGERPRINT.replace("AA", "+A")),
            format!("a=fingerprint:sha-256 {}", FINGERPRINT.replace(':', "-")),
            format!("a=fingerprint:sha-512 {FINGERPRINT}"),
        ] {
            assert_eq!(
                sdp_identity(&with(&bad)),
                Err(SdpError::UnsupportedFingerprint),
                "{bad}"
            );
        }
        for bad in ["abc".to_owned(), "x".repeat(257), "ab cd".to_owned()] {
            assert_eq!(
                sdp_identity(&format!("a=ice-ufrag:{bad}\r\n")),
                Err(SdpError::BadUfrag)
            );
        }
    }

    proptest! {
        #[test]
        fn no_sdp_panics(sdp in "(a=fingerprint:(sha-256 )?[0-9A-F:é]{0,100}|a=ice-ufrag:.{0,9}|.{0,5}|\r|\n){0,8}") {
            let _ = sdp_identity(&sdp);
        }

        /// Fails if any single edit of the SDP is accepted.
        #[test]
        fn every_edit_of_the_sdp_is_refused(at in 0usize..300, with in any::<char>()) {
            let w = World::new();
            let signed = sign_description(&w.alice, &w.to_sign()).unwrap();
            let mut chars: Vec<char> = w.sdp.chars().collect();
            let at = at % chars.len();
            prop_assume!(chars[at] != with);
            chars[at] = with;
            let edited: String = chars.into_iter().collect();
            prop_assert!(verify_description(Some(&signed), &edited, &w.expected()).is_err());
        }
    }
}
