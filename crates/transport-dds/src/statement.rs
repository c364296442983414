//! What agents sign: that they are there, that a link works, that it is alive. PROTOCOL.md, "DDS", gives
//! their bytes.

use bytes::Bytes;
use ifmsg::{AgentId, Identity, PublicKey, SignatureBytes, Statement, StatementKind};
use serde::{Deserialize, Serialize};

use crate::wire::Presence;

pub(crate) const VERSION: &str = "1";
/// A hello of names with 128 characters has about 900 bytes.
const MAX_STATEMENT: usize = 4_096;

/// The sixteen bytes that DDS names an endpoint by, as they travel.
pub(crate) type Guid = [u8; 16];

impl Presence {
    /// Signs what it says.
    pub(crate) fn sign(&mut self, identity: &Identity) {
        self.signature = *identity.sign_statement(&self.statement()).as_bytes();
    }

    /// Whether the key that it names signed it.
    pub(crate) fn verify(&self, key: &PublicKey) -> bool {
        let signature = SignatureBytes::from_bytes(self.signature);
        key.verify_statement(&self.statement(), &signature).is_ok()
    }

    fn statement(&self) -> Statement {
        Statement::new(StatementKind::DdsPresence)
            .part(&self.version)
            .part(&self.agent)
            .part(self.public_key)
            .number(self.epoch)
            .number(self.life)
            .part(&self.participant)
            .part(&self.capabilities)
            .number(u64::from(self.max_frame))
    }
}

/// The first sample each way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) from: AgentId,
    pub(crate) to: AgentId,
    /// Of the sender.
    pub(crate) life: u64,
    /// Of the receiver, by its presence.
    pub(crate) peer_life: u64,
    /// The id that the sender gives the link. Grows with each attempt of this life.
    pub(crate) link: u64,
    /// The id that the receiver gave it, once its hello came; 0 before.
    pub(crate) peer_link: u64,
    /// How much the sender takes unread, in bytes.
    pub(crate) window: u64,
    /// The largest frame that it takes.
    pub(crate) max_frame: u64,
    /// From which endpoints its samples come.
    pub(crate) reliable: Guid,
    pub(crate) best_effort: Guid,
    pub(crate) bus: Guid,
}

/// A link is alive, or ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Alive {
    pub(crate) from: AgentId,
    pub(crate) to: AgentId,
    /// The sender's id for the link.
    pub(crate) link: u64,
    /// The receiver's.
    pub(crate) peer_link: u64,
    /// Grows with each of the sender's on this link.
    pub(crate) count: u64,
    /// The number of the last sample of the reliable lane that the sender has taken in, or given up.
    pub(crate) taken: u64,
    /// The number of the last one that it has sent.
    pub(crate) sent: u64,
    /// The last one.
    pub(crate) goodbye: bool,
}

/// A statement that was read and not yet verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Said {
    Hello(Hello),
    Alive(Alive),
}

/// A statement with its signature.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Signed {
    pub(crate) said: Said,
    signature: SignatureBytes,
}

impl Said {
    pub(crate) fn from(&self) -> &AgentId {
        match self {
            Self::Hello(hello) => &hello.from,
            Self::Alive(alive) => &alive.from,
        }
    }

    pub(crate) fn to(&self) -> &AgentId {
        match self {
            Self::Hello(hello) => &hello.to,
            Self::Alive(alive) => &alive.to,
        }
    }

    /// Signs it, and writes it down.
    pub(crate) fn write(&self, identity: &Identity) -> Bytes {
        let signature = identity.sign_statement(&self.statement()).to_hex();
        let json = match self {
            Self::Hello(hello) => Json::Hello(HelloJson {
                version: VERSION.to_owned(),
                from: hello.from.to_string(),
                to: hello.to.to_string(),
                life: hex64(hello.life),
                peer_life: hex64(hello.peer_life),
                link: hex64(hello.link),
                peer_link: hex64(hello.peer_link),
                window: hello.window,
                max_frame: hello.max_frame,
                reliable: hex(&hello.reliable),
                best_effort: hex(&hello.best_effort),
                bus: hex(&hello.bus),
                signature,
            }),
            Self::Alive(alive) => {
                let body = AliveJson {
                    from: alive.from.to_string(),
                    to: alive.to.to_string(),
                    link: hex64(alive.link),
                    peer_link: hex64(alive.peer_link),
                    count: alive.count,
                    taken: alive.taken,
                    sent: alive.sent,
                    signature,
                };
                if alive.goodbye {
                    Json::Goodbye(body)
                } else {
                    Json::Alive(body)
                }
            }
        };
        // Strings and numbers always serialise.
        serde_json::to_vec(&json).unwrap_or_default().into()
    }

    fn statement(&self) -> Statement {
        match self {
            Self::Hello(hello) => Statement::new(StatementKind::DdsHello)
                .part(VERSION)
                .part(hello.from.as_str())
                .part(hello.to.as_str())
                .number(hello.life)
                .number(hello.peer_life)
                .number(hello.link)
                .number(hello.peer_link)
                .number(hello.window)
                .number(hello.max_frame)
                .part(hello.reliable)
                .part(hello.best_effort)
                .part(hello.bus),
            Self::Alive(alive) => Statement::new(StatementKind::DdsAlive)
                .part(if alive.goodbye { "goodbye" } else { "alive" })
                .part(alive.from.as_str())
                .part(alive.to.as_str())
                .number(alive.link)
                .number(alive.peer_link)
                .number(alive.count)
                .number(alive.taken)
                .number(alive.sent),
        }
    }
}

impl Signed {
    /// Reads a statement; `None` if it is none.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_STATEMENT {
            return None;
        }
        let (said, signature) = match serde_json::from_slice(bytes).ok()? {
            Json::Hello(json) if json.version == VERSION => {
                let hello = Hello {
                    from: AgentId::new(&json.from).ok()?,
                    to: AgentId::new(&json.to).ok()?,
                    life: unhex64(&json.life)?,
                    peer_life: unhex64(&json.peer_life)?,
                    link: unhex64(&json.link)?,
                    peer_link: unhex64(&json.peer_link)?,
                    window: json.window,
                    max_frame: json.max_frame,
                    reliable: unhex(&json.reliable)?,
                    best_effort: unhex(&json.best_effort)?,
                    bus: unhex(&json.bus)?,
                };
                (Said::Hello(hello), json.signature)
            }
            Json::Hello(_) => return None,
            Json::Alive(json) => (Said::Alive(json.read(false)?), json.signature),
            Json::Goodbye(json) => (Said::Alive(json.read(true)?), json.signature),
        };
        let signature = SignatureBytes::from_hex(&signature)?;
        Some(Self { said, signature })
    }

    /// What was said, if this key signed it.
    pub(crate) fn verify(self, key: &PublicKey) -> Option<Said> {
        key.verify_statement(&self.said.statement(), &self.signature)
            .ok()?;
        Some(self.said)
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
enum Json {
    Hello(HelloJson),
    Alive(AliveJson),
    Goodbye(AliveJson),
}

#[derive(Debug, Serialize, Deserialize)]
struct HelloJson {
    version: String,
    from: String,
    to: String,
    life: String,
    peer_life: String,
    link: String,
    peer_link: String,
    window: u64,
    max_frame: u64,
    reliable: String,
    best_effort: String,
    bus: String,
    signature: String,
}

#[derive(Debug, Serialize, Deserialize)]
struct AliveJson {
    from: String,
    to: String,
    link: String,
    peer_link: String,
    count: u64,
    taken: u64,
    sent: u64,
    signature: String,
}

impl AliveJson {
    fn read(&self, goodbye: bool) -> Option<Alive> {
        Some(Alive {
            from: AgentId::new(&self.from).ok()?,
            to: AgentId::new(&self.to).ok()?,
            link: unhex64(&self.link)?,
            peer_link: unhex64(&self.peer_link)?,
            count: self.count,
            taken: self.taken,
            sent: self.sent,
            goodbye,
        })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn hex64(number: u64) -> String {
    hex(&number.to_be_bytes())
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

fn unhex64(text: &str) -> Option<u64> {
    unhex(text).map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> AgentId {
        AgentId::new(text).unwrap()
    }

    fn hello() -> Said {
        Said::Hello(Hello {
            from: id("alice"),
            to: id("bob"),
            life: 1,
            peer_life: 2,
            link: 3,
            peer_link: 4,
            window: 65_536,
            max_frame: 1 << 20,
            reliable: [5; 16],
            best_effort: [6; 16],
            bus: [7; 16],
        })
    }

    fn alive(goodbye: bool) -> Said {
        Said::Alive(Alive {
            from: id("alice"),
            to: id("bob"),
            link: 3,
            peer_link: 4,
            count: 5,
            taken: 6,
            sent: 7,
            goodbye,
        })
    }

    #[test]
    fn what_is_signed_is_read_and_verified() {
        let identity = Identity::from_seed(&[1; 32]);
        let stranger = Identity::from_seed(&[2; 32]);
        for said in [hello(), alive(false), alive(true)] {
            let signed = Signed::read(&said.write(&identity)).unwrap();
            assert_eq!(signed.clone().verify(identity.public_key()), Some(said));
            assert_eq!(signed.verify(stranger.public_key()), None);
        }
    }

    /// Falsified by a single changed byte that is taken: every field is signed.
    #[test]
    fn every_flipped_byte_is_refused() {
        let identity = Identity::from_seed(&[1; 32]);
        for said in [hello(), alive(false), alive(true)] {
            let good = said.write(&identity);
            for at in 0..good.len() {
                let mut bad = good.to_vec();
                bad[at] ^= 1;
                let taken = Signed::read(&bad).and_then(|signed| signed.verify(identity.public_key()));
                assert_eq!(taken, None, "byte {at}");
            }
        }
    }

    #[test]
    fn presence_covers_every_field() {
        let identity = Identity::from_seed(&[1; 32]);
        let key = identity.public_key();
        let mut good = Presence {
            agent: "alice".into(),
            version: VERSION.into(),
            public_key: *key.as_bytes(),
            epoch: 1,
            life: 2,
            participant: "p".into(),
            capabilities: "c".into(),
            max_frame: 3,
            signature: [0; 64],
        };
        good.sign(&identity);
        assert!(good.verify(key));
        let changes: [fn(&mut Presence); 9] = [
            |p| p.agent.push('x'),
            |p| p.version.push('x'),
            |p| p.public_key[0] ^= 1,
            |p| p.epoch += 1,
            |p| p.life += 1,
            |p| p.participant.push('x'),
            |p| p.capabilities.push('x'),
            |p| p.max_frame += 1,
            |p| p.signature[0] ^= 1,
        ];
        for (number, change) in changes.iter().enumerate() {
            let mut bad = good.clone();
            change(&mut bad);
            assert!(!bad.verify(key), "change {number}");
        }
    }
}
