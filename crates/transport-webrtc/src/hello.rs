//! The first message each way on a data channel; its bytes are in `hello.md`.

use bytes::Bytes;
use ifmesh_signaling::{SessionId, Sha256Digest};
use ifmsg::{AgentId, Identity, PublicKey, SignatureBytes, Statement, StatementKind};
use serde::{Deserialize, Serialize};

use crate::engine::Lane;

/// A hello of names with 128 characters has about 900 bytes.
const MAX_HELLO: usize = 4_096;
const VERSION: &str = "1";

/// What both sides know when the channel opens, as this side sees it.
#[derive(Debug, Clone)]
pub(crate) struct Facts {
    pub(crate) agent: AgentId,
    pub(crate) peer: AgentId,
    /// The key that the peer is held to.
    pub(crate) key: PublicKey,
    pub(crate) session: SessionId,
    pub(crate) epoch: u64,
    pub(crate) peer_epoch: u64,
    /// Of our certificate.
    pub(crate) fingerprint: Sha256Digest,
    /// Of the certificate that the peer's signed description names.
    pub(crate) peer_fingerprint: Sha256Digest,
}

/// Writes our hello.
pub(crate) fn write(identity: &Identity, facts: &Facts, max_frame: usize) -> Bytes {
    let mut hello = Hello {
        kind: Kind::Hello,
        version: VERSION.to_owned(),
        from: facts.agent.to_string(),
        to: facts.peer.to_string(),
        session: facts.session.to_hex(),
        epoch: facts.epoch,
        peer_epoch: facts.peer_epoch,
        fingerprint: facts.fingerprint.to_hex(),
        peer_fingerprint: facts.peer_fingerprint.to_hex(),
        max_frame: max_frame as u64,
        signature: String::new(),
    };
    hello.signature = identity.sign_statement(&hello.statement()).to_hex();
    // Strings and numbers always serialise.
    serde_json::to_vec(&hello).unwrap_or_default().into()
}

/// Reads the peer's first message: the largest frame that it takes, or why it is not its hello.
///
/// The signature is checked first, so every later reason is one that the peer is answerable for.
pub(crate) fn read(frame: &[u8], facts: &Facts) -> Result<usize, HelloRejected> {
    use HelloRejected as Rejected;

    if frame.len() > MAX_HELLO {
        return Err(Rejected::Malformed);
    }
    let hello: Hello = serde_json::from_slice(frame).map_err(|_| Rejected::Malformed)?;
    if hello.version != VERSION {
        return Err(Rejected::Version);
    }
    let signature = SignatureBytes::from_hex(&hello.signature).ok_or(Rejected::Malformed)?;
    facts
        .key
        .verify_statement(&hello.statement(), &signature)
        .map_err(|_| Rejected::BadSignature)?;
    if hello.from != facts.peer.as_str() || hello.to != facts.agent.as_str() {
        return Err(Rejected::WrongNames);
    }
    if hello.session != facts.session.to_hex() {
        return Err(Rejected::WrongSession);
    }
    if hello.epoch != facts.peer_epoch || hello.peer_epoch != facts.epoch {
        return Err(Rejected::WrongEpoch);
    }
    if hello.fingerprint != facts.peer_fingerprint.to_hex()
        || hello.peer_fingerprint != facts.fingerprint.to_hex()
    {
        return Err(Rejected::WrongFingerprint);
    }
    match usize::try_from(hello.max_frame) {
        Ok(0) => Err(Rejected::Malformed),
        Ok(max_frame) => Ok(max_frame),
        Err(_) => Ok(usize::MAX),
    }
}

/// Why a first message is not to be trusted. The peer's fault, or of who stands in its place; the connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HelloRejected {
    #[error("the first message is not a hello")]
    Malformed,
    #[error("the hello is of another version")]
    Version,
    #[error("the hello does not verify under the key trusted for its author")]
    BadSignature,
    #[error("the hello names other agents")]
    WrongNames,
    #[error("the hello belongs to another session")]
    WrongSession,
    #[error("the hello names other epochs")]
    WrongEpoch,
    #[error("the hello names other certificates than this connection's")]
    WrongFingerprint,
}

impl HelloRejected {
    /// For metrics and the witness.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Malformed => "hello-malformed",
            Self::Version => "hello-version",
            Self::BadSignature => "hello-bad-signature",
            Self::WrongNames => "hello-wrong-names",
            Self::WrongSession => "hello-wrong-session",
            Self::WrongEpoch => "hello-wrong-epoch",
            Self::WrongFingerprint => "hello-wrong-fingerprint",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Hello {
    #[serde(rename = "type")]
    kind: Kind,
    version: String,
    from: String,
    to: String,
    session: String,
    epoch: u64,
    peer_epoch: u64,
    fingerprint: String,
    peer_fingerprint: String,
    max_frame: u64,
    signature: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Hello,
}

impl Hello {
    fn statement(&self) -> Statement {
        Statement::new(StatementKind::Hello)
            .part(&self.version)
            .part(&self.from)
            .part(&self.to)
            .part(&self.session)
            .number(self.epoch)
            .number(self.peer_epoch)
            .part(&self.fingerprint)
            .part(&self.peer_fingerprint)
            .number(self.max_frame)
            .part(Lane::Messaging.label())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(me: (&str, u8), peer: (&str, u8)) -> Facts {
        let digest = |seed: u8| Sha256Digest::from_bytes([seed; 32]);
        Facts {
            agent: AgentId::new(me.0).unwrap(),
            peer: AgentId::new(peer.0).unwrap(),
            key: *Identity::from_seed(&[peer.1; 32]).public_key(),
            session: SessionId::from_bytes([7; 16]),
            epoch: u64::from(me.1),
            peer_epoch: u64::from(peer.1),
            fingerprint: digest(me.1),
            peer_fingerprint: digest(peer.1),
        }
    }

    fn alice() -> (Identity, Facts) {
        (Identity::from_seed(&[1; 32]), facts(("alice", 1), ("bob", 2)))
    }

    fn bob() -> Facts {
        facts(("bob", 2), ("alice", 1))
    }

    #[test]
    fn a_hello_says_what_the_peer_takes() {
        let (identity, facts) = alice();
        assert_eq!(read(&write(&identity, &facts, 65_536), &bob()), Ok(65_536));
    }

    /// The module's documentation, written out once more by hand.
    #[test]
    fn the_bytes_are_as_documented() {
        let (identity, facts) = alice();
        let frame: serde_json::Value = serde_json::from_slice(&write(&identity, &facts, 262_144)).unwrap();
        let mut bytes = b"IFMESH-HELLO\0".to_vec();
        for part in [
            &b"1"[..],
            b"alice",
            b"bob",
            b"07070707070707070707070707070707",
            &1u64.to_be_bytes(),
            &2u64.to_be_bytes(),
            "01".repeat(32).as_bytes(),
            "02".repeat(32).as_bytes(),
            &262_144u64.to_be_bytes(),
            b"if-agent-messaging",
        ] {
            bytes.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(part);
        }
        let statement = serde_json::from_value::<Hello>(frame.clone())
            .unwrap()
            .statement();
        assert_eq!(statement.as_bytes(), bytes);
        assert_eq!(frame["type"], "hello");
        assert_eq!(frame.as_object().unwrap().len(), 11);
    }

    /// Fails if any fact of the connection could differ and the hello be taken all the same.
    #[test]
    fn a_hello_for_anything_else_is_refused() {
        use HelloRejected::*;
        let (identity, facts) = alice();
        let hello = |change: &dyn Fn(&mut Facts)| {
            let mut changed = facts.clone();
            change(&mut changed);
            read(&write(&identity, &changed, 1), &bob())
        };
        let carol = AgentId::new("carol").unwrap();
        let other = Sha256Digest::from_bytes([9; 32]);
        assert_eq!(hello(&|_| ()), Ok(1));
        assert_eq!(hello(&|f| f.agent = carol.clone()), Err(WrongNames));
        assert_eq!(hello(&|f| f.peer = carol.clone()), Err(WrongNames));
        assert_eq!(
            hello(&|f| f.session = SessionId::from_bytes([8; 16])),
            Err(WrongSession)
        );
        assert_eq!(hello(&|f| f.epoch = 3), Err(WrongEpoch));
        assert_eq!(hello(&|f| f.peer_epoch = 3), Err(WrongEpoch));
        assert_eq!(hello(&|f| f.fingerprint = other), Err(WrongFingerprint));
        assert_eq!(hello(&|f| f.peer_fingerprint = other), Err(WrongFingerprint));
        // Our own hello, sent back.
        assert_eq!(read(&write(&identity, &facts, 1), &facts), Err(BadSignature));
        let stranger = Identity::from_seed(&[3; 32]);
        assert_eq!(read(&write(&stranger, &facts, 1), &bob()), Err(BadSignature));
        assert_eq!(read(&write(&identity, &facts, 0), &bob()), Err(Malformed));
    }

    /// Fails if a single changed byte is taken.
    #[test]
    fn every_flipped_byte_is_refused() {
        let (identity, facts) = alice();
        let good = write(&identity, &facts, 65_536);
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            assert!(read(&bad, &bob()).is_err(), "byte {at}");
        }
        for len in 0..good.len() {
            assert_eq!(read(&good[..len], &bob()), Err(HelloRejected::Malformed));
        }
        let mut long = good.to_vec();
        long.resize(MAX_HELLO + 1, b' ');
        assert_eq!(read(&long, &bob()), Err(HelloRejected::Malformed));
    }
}
