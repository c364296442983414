//! The first thing that two agents say to each other through the relay; its bytes are in `hello.md`.

use bytes::Bytes;
use ifmsg::{AgentId, Identity, PublicKey, SignatureBytes, Statement, StatementKind};
use rand_core::CryptoRng;
use serde::{Deserialize, Serialize};

use crate::wire::Tag;

/// A hello of names with 128 characters has about 700 bytes.
const MAX_HELLO: usize = 4_096;
const VERSION: &str = "1";
/// The largest integer that every JSON reader keeps exactly.
const MAX_NUMBER: u64 = (1 << 53) - 1;

/// 16 random bytes, new for each attempt at a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Nonce([u8; 16]);

impl Nonce {
    pub(crate) fn random(random: &mut dyn CryptoRng) -> Self {
        let mut bytes = [0; 16];
        random.fill_bytes(&mut bytes);
        Self(bytes)
    }

    /// What frames for the side that chose this nonce bear.
    pub(crate) fn tag(self) -> Tag {
        let mut tag = Tag::default();
        tag.copy_from_slice(&self.0[..8]);
        tag
    }

    fn to_hex(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn from_hex(text: &str) -> Option<Self> {
        let mut bytes = [0; 16];
        let is_hex = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
        if text.len() != 32 || !text.bytes().all(is_hex) {
            return None;
        }
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
            *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
        }
        Some(Self(bytes))
    }
}

/// What a hello says, beside who to whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hello {
    /// The author's.
    pub(crate) epoch: u64,
    /// Chosen by the author for this attempt.
    pub(crate) nonce: Nonce,
    /// The addressee's nonce, if the author knows it: proves that this hello is no older than that.
    pub(crate) echo: Option<Nonce>,
    /// What the author takes before it has told that it took something.
    pub(crate) window: u64,
    /// The largest frame that the author takes, in bytes.
    pub(crate) max_frame: u64,
}

/// Signs and writes a hello.
pub(crate) fn write(identity: &Identity, from: &AgentId, to: &AgentId, hello: &Hello) -> Bytes {
    let mut text = Text {
        kind: Kind::RelayHello,
        version: VERSION.to_owned(),
        from: from.to_string(),
        to: to.to_string(),
        epoch: hello.epoch,
        nonce: hello.nonce.to_hex(),
        echo: hello.echo.map(Nonce::to_hex).unwrap_or_default(),
        window: hello.window,
        max_frame: hello.max_frame,
        signature: String::new(),
    };
    text.signature = identity.sign_statement(&text.statement()).to_hex();
    // Strings and numbers always serialise.
    serde_json::to_vec(&text).unwrap_or_default().into()
}

/// Reads a hello of `from` to `to`, or says why it is none. Whether it is *fresh* its echo decides.
pub(crate) fn read(
    bytes: &[u8],
    key: &PublicKey,
    from: &AgentId,
    to: &AgentId,
) -> Result<Hello, HelloRejected> {
    use HelloRejected as Rejected;

    if bytes.len() > MAX_HELLO {
        return Err(Rejected::Malformed);
    }
    let text: Text = serde_json::from_slice(bytes).map_err(|_| Rejected::Malformed)?;
    if text.version != VERSION {
        return Err(Rejected::Version);
    }
    let signature = SignatureBytes::from_hex(&text.signature).ok_or(Rejected::Malformed)?;
    key.verify_statement(&text.statement(), &signature)
        .map_err(|_| Rejected::BadSignature)?;
    if text.from != from.as_str() || text.to != to.as_str() {
        return Err(Rejected::WrongNames);
    }
    let nonce = Nonce::from_hex(&text.nonce).ok_or(Rejected::Malformed)?;
    let echo = match text.echo.as_str() {
        "" => None,
        echo => Some(Nonce::from_hex(echo).ok_or(Rejected::Malformed)?),
    };
    let numbers = [text.epoch, text.window, text.max_frame];
    if numbers.iter().any(|&number| number > MAX_NUMBER) || text.max_frame == 0 {
        return Err(Rejected::Malformed);
    }
    Ok(Hello {
        epoch: text.epoch,
        nonce,
        echo,
        window: text.window,
        max_frame: text.max_frame,
    })
}

/// Why a hello is not to be trusted. The fault of its author, or of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HelloRejected {
    #[error("it is not a hello")]
    Malformed,
    #[error("the hello is of another version")]
    Version,
    #[error("the hello does not verify under the key trusted for its author")]
    BadSignature,
    #[error("the hello names other agents")]
    WrongNames,
    #[error("the hello is of an earlier life of its author")]
    StaleEpoch,
}

impl HelloRejected {
    /// For metrics and the witness.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Malformed => "hello-malformed",
            Self::Version => "hello-version",
            Self::BadSignature => "hello-bad-signature",
            Self::WrongNames => "hello-wrong-names",
            Self::StaleEpoch => "hello-stale-epoch",
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    #[serde(rename = "type")]
    kind: Kind,
    version: String,
    from: String,
    to: String,
    epoch: u64,
    nonce: String,
    echo: String,
    window: u64,
    max_frame: u64,
    signature: String,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Kind {
    RelayHello,
}

impl Text {
    fn statement(&self) -> Statement {
        Statement::new(StatementKind::RelayHello)
            .part(&self.version)
            .part(&self.from)
            .part(&self.to)
            .number(self.epoch)
            .part(&self.nonce)
            .part(&self.echo)
            .number(self.window)
            .number(self.max_frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> AgentId {
        AgentId::new(text).unwrap()
    }

    fn alice() -> Identity {
        Identity::from_seed(&[1; 32])
    }

    fn hello() -> Hello {
        Hello {
            epoch: 1_795_356_600_000,
            nonce: Nonce([0xab; 16]),
            echo: Some(Nonce([0xcd; 16])),
            window: 262_144,
            max_frame: 16_908_288,
        }
    }

    fn written() -> Bytes {
        write(&alice(), &id("alice"), &id("bob"), &hello())
    }

    fn read_by_bob(bytes: &[u8]) -> Result<Hello, HelloRejected> {
        read(bytes, alice().public_key(), &id("alice"), &id("bob"))
    }

    #[test]
    fn a_hello_reads_back() {
        assert_eq!(read_by_bob(&written()), Ok(hello()));
        let first = Hello {
            echo: None,
            ..hello()
        };
        let bytes = write(&alice(), &id("alice"), &id("bob"), &first);
        assert_eq!(read_by_bob(&bytes), Ok(first));
    }

    /// What another implementation checks itself against; PROTOCOL.md prints it. Written out by hand once more.
    #[test]
    fn the_bytes_are_as_documented() {
        let vector: serde_json::Value =
            serde_json::from_str(include_str!("../tests/vectors/hello.json")).unwrap();
        let made: serde_json::Value = serde_json::from_slice(&written()).unwrap();
        assert_eq!(vector["hello"], made, "{made:#}");
        let mut bytes = b"IFMESH-RELAY\0".to_vec();
        for part in [
            &b"1"[..],
            b"alice",
            b"bob",
            &1_795_356_600_000u64.to_be_bytes(),
            "ab".repeat(16).as_bytes(),
            "cd".repeat(16).as_bytes(),
            &262_144u64.to_be_bytes(),
            &16_908_288u64.to_be_bytes(),
        ] {
            bytes.extend_from_slice(&u32::try_from(part.len()).unwrap().to_be_bytes());
            bytes.extend_from_slice(part);
        }
        let statement = serde_json::from_value::<Text>(made).unwrap().statement();
        assert_eq!(statement.as_bytes(), bytes);
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(vector["signed_bytes"], hex);
    }

    #[test]
    fn a_hello_of_or_for_somebody_else_is_refused() {
        use HelloRejected::*;
        let (a, b, c) = (id("alice"), id("bob"), id("carol"));
        let by = |key: &Identity, from, to| read(&written(), key.public_key(), from, to);
        assert_eq!(by(&alice(), &a, &b), Ok(hello()));
        assert_eq!(by(&Identity::from_seed(&[2; 32]), &a, &b), Err(BadSignature));
        assert_eq!(by(&alice(), &c, &b), Err(WrongNames));
        assert_eq!(by(&alice(), &a, &c), Err(WrongNames));
        // Our own, sent back.
        assert_eq!(by(&alice(), &b, &a), Err(WrongNames));
    }

    /// Fails if a single changed byte, or a part of a hello, is taken.
    #[test]
    fn every_flipped_byte_is_refused() {
        let good = written();
        for at in 0..good.len() {
            let mut bad = good.to_vec();
            bad[at] ^= 1;
            assert!(read_by_bob(&bad).is_err(), "byte {at}");
        }
        for len in 0..good.len() {
            assert_eq!(read_by_bob(&good[..len]), Err(HelloRejected::Malformed));
        }
        let mut long = good.to_vec();
        long.resize(MAX_HELLO + 1, b' ');
        assert_eq!(read_by_bob(&long), Err(HelloRejected::Malformed));
    }
}
