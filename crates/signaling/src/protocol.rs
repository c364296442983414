//! The frames, one JSON object per WebSocket text frame.
//!
//! A superset of the original protocol: its seven frame types are spelt as they always were, members that it never knew
//! are optional, and members that we do not know are ignored (and relayed as they came).

use std::fmt;

use ifmsg::{AgentId, PublicKey, SignatureBytes};
use serde::{Deserialize, Serialize};

use crate::{
    spelling::{self, hex_bytes},
    statement::SignedDescription,
};

/// The largest integer that every JSON reader keeps exactly.
pub const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

hex_bytes! {
    /// 32 random bytes of a server, signed once by whoever registers; 64 lowercase hexadecimal digits on the wire.
    Nonce, 32, "a nonce is 64 lowercase hexadecimal digits"
}

/// What a client sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ClientFrame {
    /// Asks for a name. The original sends `agent_id` alone; a proven registration needs all three.
    Register {
        /// The name.
        agent_id: AgentId,
        /// The key that the client will prove.
        #[serde(default, skip_serializing_if = "Option::is_none", with = "spelling::option")]
        public_key: Option<PublicKey>,
        /// The client's epoch: grows with each start of the agent.
        #[serde(
            default,
            skip_serializing_if = "Option::is_none",
            with = "spelling::epoch::option"
        )]
        epoch: Option<u64>,
        /// What the socket is for. Absent: to exchange signals.
        #[serde(default, skip_serializing_if = "SocketRole::is_signals")]
        role: SocketRole,
    },
    /// Answers a [`ServerFrame::Challenge`].
    Proof {
        /// Over [`registration_statement`](crate::registration_statement).
        #[serde(with = "spelling")]
        signature: SignatureBytes,
    },
    /// An offer to one agent.
    Offer(OfferFrame),
    /// An answer to one agent.
    Answer(AnswerFrame),
    /// A candidate for one agent.
    IceCandidate(CandidateFrame),
    /// Asks for fresh [`IceServers`], before the former ones expire.
    IceServers {},
}

/// What a registered socket is for. An agent may have one socket of each role at a server; each role has names, presence and
/// limits of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SocketRole {
    /// Offers, answers and candidates, as text.
    #[default]
    Signals,
    /// [`RelayFrame`](crate::RelayFrame)s, as binary frames.
    Relay,
}

impl SocketRole {
    fn is_signals(&self) -> bool {
        *self == Self::Signals
    }
}

/// What a server lets a relay socket do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RelayTerms {
    /// Bytes in a binary frame, header included. A longer one closes the connection.
    pub max_frame: usize,
    /// Bytes that may wait at the server on the way from one agent to one other, each frame counted with
    /// [`RELAY_FRAME_COST`](crate::RELAY_FRAME_COST) more than it has. What comes beyond is dropped, and its sender is told
    /// [`ErrorCode::RelayOverflow`].
    pub pair_bytes: usize,
}

impl RelayTerms {
    /// What every server that relays allows.
    pub fn least() -> Self {
        Self {
            max_frame: 4 * 1024,
            pair_bytes: 64 * 1024,
        }
    }
}

/// STUN and TURN servers with credentials, as a server hands them out (`RTCIceServer` of W3C WebRTC, 4.2.2).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[non_exhaustive]
pub struct IceServers {
    /// The servers.
    pub ice_servers: Vec<IceServer>,
    /// For how many seconds, from when this came, new allocations are granted with these credentials.
    pub ice_expires_in: u64,
}

/// One STUN or TURN server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IceServer {
    /// `stun:host:port`, `turn:host:port?transport=udp`.
    pub urls: Vec<String>,
    /// Empty for STUN.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub username: String,
    /// Empty for STUN. `Debug` does not show it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub credential: String,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer")
            .field("urls", &self.urls)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// What a server sends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ServerFrame {
    /// Asks for a [`ClientFrame::Proof`].
    Challenge {
        /// Fresh for each registration.
        #[serde(with = "spelling")]
        nonce: Nonce,
        /// The server's name; part of what is signed.
        server_id: AgentId,
    },
    /// The name is the client's.
    Registered {
        /// The name.
        agent_id: AgentId,
        /// Everybody else, in the order of registration.
        connected_agents: Vec<AgentId>,
        /// The same agents with what the server knows of them. Absent towards a client that registered without a key.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        agents: Vec<AgentInfo>,
        /// The server's name. Absent towards a client that registered without a key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        server_id: Option<AgentId>,
        /// What this socket may relay. Present exactly if it registered with [`SocketRole::Relay`].
        #[serde(default, skip_serializing_if = "Option::is_none")]
        relay: Option<RelayTerms>,
        /// STUN and TURN servers, if the server hands any out. Absent towards a client that registered without a key.
        #[serde(default, flatten, skip_serializing_if = "Option::is_none")]
        ice: Option<IceServers>,
    },
    /// Answers [`ClientFrame::IceServers`]. Without servers, if the server hands none out.
    IceServers(IceServers),
    /// The server is about to shut down, and closes with 1001 after this. Its clients may go elsewhere.
    GoingAway {
        /// Other servers, `ws://` or `wss://`, the best first. May be empty.
        urls: Vec<String>,
    },
    /// Somebody else registered.
    AgentJoined(AgentInfo),
    /// Somebody else's socket closed.
    AgentLeft {
        /// Whose.
        agent_id: AgentId,
    },
    /// As it was sent.
    Offer(OfferFrame),
    /// As it was sent.
    Answer(AnswerFrame),
    /// As it was sent.
    IceCandidate(CandidateFrame),
    /// The last frame was refused, or the registration, or the connection.
    Error {
        /// For people.
        message: String,
        /// For programs. Absent towards a client that registered without a key.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<ErrorCode>,
        /// Whom it is about, if anybody.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        agent_id: Option<AgentId>,
    },
}

/// An agent as the server knows it. A hint: keys come from the trust store, never from a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct AgentInfo {
    /// Its name.
    pub agent_id: AgentId,
    /// The key it proved to the server, if it proved one.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "spelling::option")]
    pub public_key: Option<PublicKey>,
    /// The epoch it registered with.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        with = "spelling::epoch::option"
    )]
    pub epoch: Option<u64>,
}

impl AgentInfo {
    /// An agent of which nothing but the name is known.
    pub fn unproven(agent_id: AgentId) -> Self {
        Self {
            agent_id,
            public_key: None,
            epoch: None,
        }
    }
}

/// `{"type":"offer","from":..,"to":..,"offer":{"type":"offer","sdp":..},"statement":{..}?}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferFrame {
    pub(crate) from: AgentId,
    pub(crate) to: AgentId,
    offer: Description,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    statement: Option<Box<SignedDescription>>,
}

/// `{"type":"answer","from":..,"to":..,"answer":{"type":"answer","sdp":..},"statement":{..}?}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerFrame {
    pub(crate) from: AgentId,
    pub(crate) to: AgentId,
    answer: Description,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    statement: Option<Box<SignedDescription>>,
}

/// `{"type":"ice-candidate","from":..,"to":..,"candidate":{..}}`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CandidateFrame {
    pub(crate) from: AgentId,
    pub(crate) to: AgentId,
    candidate: IceCandidate,
}

/// `RTCSessionDescriptionInit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Description {
    #[serde(rename = "type")]
    kind: DescriptionKind,
    sdp: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum DescriptionKind {
    Offer,
    Answer,
}

/// `RTCIceCandidateInit` (W3C WebRTC, 4.8.1.1), as browsers spell it. An empty `candidate` ends the candidates.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct IceCandidate {
    /// `candidate:...`, RFC 8839 5.1.
    pub candidate: String,
    /// The media section's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sdp_mid: Option<String>,
    /// The media section's index.
    #[serde(rename = "sdpMLineIndex", skip_serializing_if = "Option::is_none")]
    pub sdp_mline_index: Option<u16>,
    /// Of which ICE generation it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username_fragment: Option<String>,
}

/// What one agent tells another through the server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Signal {
    /// An offer. Not to be acted upon before [`verify_description`](crate::verify_description) accepts it.
    Offer {
        /// The session description.
        sdp: String,
        /// What its author signed; an original client sends none.
        statement: Option<Box<SignedDescription>>,
    },
    /// An answer. Not to be acted upon before [`verify_description`](crate::verify_description) accepts it.
    Answer {
        /// The session description.
        sdp: String,
        /// What its author signed; an original client sends none.
        statement: Option<Box<SignedDescription>>,
    },
    /// A candidate. Unsigned: a false one costs a connectivity check and nothing else.
    Candidate(IceCandidate),
}

impl Signal {
    /// The frame that carries this signal.
    pub fn into_frame(self, from: AgentId, to: AgentId) -> ClientFrame {
        match self {
            Self::Offer { sdp, statement } => ClientFrame::Offer(OfferFrame {
                from,
                to,
                offer: Description {
                    kind: DescriptionKind::Offer,
                    sdp,
                },
                statement,
            }),
            Self::Answer { sdp, statement } => ClientFrame::Answer(AnswerFrame {
                from,
                to,
                answer: Description {
                    kind: DescriptionKind::Answer,
                    sdp,
                },
                statement,
            }),
            Self::Candidate(candidate) => ClientFrame::IceCandidate(CandidateFrame { from, to, candidate }),
        }
    }
}

/// Why a server refused. New codes may come; an unknown one reads as [`ErrorCode::Other`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum ErrorCode {
    /// Not one JSON object, or a member is missing or of the wrong form.
    Malformed,
    /// No such frame type.
    UnknownType,
    /// Not a text frame.
    BinaryFrame,
    /// Register first.
    NotRegistered,
    /// This socket has another name, or is already registering.
    AlreadyRegistered,
    /// A `proof` without a `challenge`.
    UnexpectedProof,
    /// `from` is not the socket's own name.
    FromMismatch,
    /// The addressee is not connected.
    AgentNotFound,
    /// The name belongs to another key, or to a live client without one. Final.
    IdTaken,
    /// The name is registered with a higher epoch: a later start of this agent exists. Final.
    StaleEpoch,
    /// The signature is not one of this key over this challenge. Final.
    BadProof,
    /// This server registers nobody without `public_key` and `epoch`. Final.
    KeyRequired,
    /// The server's list does not let this key have this name. Final.
    NotAllowed,
    /// The server has as many agents as it may. Later, or elsewhere.
    ServerFull,
    /// This server relays nothing. Final.
    RelayOff,
    /// A relayed frame was dropped: too much waits for its addressee already. The sender did not keep to the
    /// [`RelayTerms`], or many write to one that does not read.
    RelayOverflow,
    /// A socket of this role does not send such frames.
    WrongRole,
    /// A code that this version does not know.
    #[serde(other)]
    Other,
}

impl ErrorCode {
    /// Whether the same registration would be refused again.
    pub fn is_final(self) -> bool {
        matches!(
            self,
            Self::IdTaken
                | Self::StaleEpoch
                | Self::BadProof
                | Self::KeyRequired
                | Self::NotAllowed
                | Self::RelayOff
        )
    }
}

/// What a parser lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameLimits {
    /// Bytes in a frame.
    pub max_bytes: usize,
    /// Agents in one `registered` frame.
    pub max_agents: usize,
}

/// Why a text is not a frame. The peer's fault, and no retry helps.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// Longer than the limit.
    #[error("the frame has {len} bytes, at most {max} are read")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit.
        max: usize,
    },
    /// Not a JSON object with a string member `type`.
    #[error("a frame is one JSON object with a string member \"type\"")]
    NotAFrame,
    /// The type is not one of this direction.
    #[error("unknown frame type")]
    UnknownType,
    /// A member is missing, repeated or of the wrong form.
    #[error("malformed frame: {0}")]
    Malformed(String),
    /// More agents than the limit.
    #[error("the frame names more than {max} agents")]
    TooManyAgents {
        /// The limit.
        max: usize,
    },
}

impl ClientFrame {
    const TYPES: &'static [&'static str] = &[
        "register",
        "proof",
        "offer",
        "answer",
        "ice-candidate",
        "ice-servers",
    ];

    /// Reads a client's frame. Never panics; allocates in proportion to `text`.
    pub fn parse(text: &str, limits: &FrameLimits) -> Result<Self, FrameError> {
        let frame: Self = parse(text, limits, Self::TYPES)?;
        match &frame {
            Self::Offer(offer) => offer.check()?,
            Self::Answer(answer) => answer.check()?,
            _ => {}
        }
        Ok(frame)
    }

    /// The JSON text.
    pub fn to_text(&self) -> String {
        to_text(self)
    }

    /// Who speaks to whom, in a frame that is relayed.
    pub(crate) fn route(&self) -> Option<(&AgentId, &AgentId)> {
        match self {
            Self::Register { .. } | Self::Proof { .. } | Self::IceServers {} => None,
            Self::Offer(frame) => Some((&frame.from, &frame.to)),
            Self::Answer(frame) => Some((&frame.from, &frame.to)),
            Self::IceCandidate(frame) => Some((&frame.from, &frame.to)),
        }
    }
}

impl ServerFrame {
    const TYPES: &'static [&'static str] = &[
        "challenge",
        "registered",
        "agent-joined",
        "agent-left",
        "offer",
        "answer",
        "ice-candidate",
        "ice-servers",
        "going-away",
        "error",
    ];

    /// Reads a server's frame. Never panics; allocates in proportion to `text`.
    pub fn parse(text: &str, limits: &FrameLimits) -> Result<Self, FrameError> {
        let frame: Self = parse(text, limits, Self::TYPES)?;
        match &frame {
            Self::Offer(offer) => offer.check()?,
            Self::Answer(answer) => answer.check()?,
            Self::Registered {
                connected_agents,
                agents,
                ..
            } if connected_agents.len().max(agents.len()) > limits.max_agents => {
                return Err(FrameError::TooManyAgents {
                    max: limits.max_agents,
                });
            }
            _ => {}
        }
        Ok(frame)
    }

    /// The JSON text.
    pub fn to_text(&self) -> String {
        to_text(self)
    }
}

impl OfferFrame {
    /// Sender, addressee, signal.
    pub fn into_signal(self) -> (AgentId, AgentId, Signal) {
        let signal = Signal::Offer {
            sdp: self.offer.sdp,
            statement: self.statement,
        };
        (self.from, self.to, signal)
    }

    fn check(&self) -> Result<(), FrameError> {
        expect_kind(
            self.offer.kind,
            DescriptionKind::Offer,
            "offer.type is not \"offer\"",
        )
    }
}

impl CandidateFrame {
    /// Sender, addressee, signal.
    pub fn into_signal(self) -> (AgentId, AgentId, Signal) {
        (self.from, self.to, Signal::Candidate(self.candidate))
    }
}

impl AnswerFrame {
    /// Sender, addressee, signal.
    pub fn into_signal(self) -> (AgentId, AgentId, Signal) {
        let signal = Signal::Answer {
            sdp: self.answer.sdp,
            statement: self.statement,
        };
        (self.from, self.to, signal)
    }

    fn check(&self) -> Result<(), FrameError> {
        expect_kind(
            self.answer.kind,
            DescriptionKind::Answer,
            "answer.type is not \"answer\"",
        )
    }
}

fn expect_kind(kind: DescriptionKind, expected: DescriptionKind, message: &str) -> Result<(), FrameError> {
    if kind == expected {
        Ok(())
    } else {
        Err(FrameError::Malformed(message.to_owned()))
    }
}

/// Reads the type alone first, so that a frame of a later version is told from a broken one.
fn parse<'a, T: Deserialize<'a>>(
    text: &'a str,
    limits: &FrameLimits,
    types: &[&str],
) -> Result<T, FrameError> {
    #[derive(Deserialize)]
    struct Head {
        #[serde(rename = "type")]
        kind: String,
    }
    if text.len() > limits.max_bytes {
        return Err(FrameError::TooLong {
            len: text.len(),
            max: limits.max_bytes,
        });
    }
    // A derived struct reads from an array too; a frame is an object.
    if !text.trim_ascii_start().starts_with('{') {
        return Err(FrameError::NotAFrame);
    }
    let head: Head = serde_json::from_str(text).map_err(|_| FrameError::NotAFrame)?;
    if !types.contains(&head.kind.as_str()) {
        return Err(FrameError::UnknownType);
    }
    serde_json::from_str(text).map_err(|error| FrameError::Malformed(shorten(error.to_string())))
}

/// The message quotes what the peer wrote; a log line need not hold all of it.
fn shorten(mut message: String) -> String {
    const MAX: usize = 160;
    if message.len() > MAX {
        let end = (0..=MAX)
            .rev()
            .find(|&i| message.is_char_boundary(i))
            .unwrap_or(0);
        message.truncate(end);
    }
    message
}

fn to_text<T: Serialize>(frame: &T) -> String {
    // Strings, integers and lists of them always serialise; an empty text would be refused by every reader.
    serde_json::to_string(frame).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: FrameLimits = FrameLimits {
        max_bytes: 4096,
        max_agents: 3,
    };

    fn id(text: &str) -> AgentId {
        AgentId::new(text).unwrap()
    }

    /// The original's frames, character by character.
    #[test]
    fn the_original_spelling_survives_a_round_trip() {
        for text in [
            r#"{"type":"register","agent_id":"a"}"#,
            r#"{"type":"offer","from":"a","to":"b","offer":{"type":"offer","sdp":"v=0\r\n"}}"#,
            r#"{"type":"answer","from":"a","to":"b","answer":{"type":"answer","sdp":"v=0\r\n"}}"#,
            r#"{"type":"ice-candidate","from":"a","to":"b","candidate":{"candidate":"candidate:1 1 udp 1 127.0.0.1 9 typ host","sdpMid":"0","sdpMLineIndex":0}}"#,
        ] {
            assert_eq!(ClientFrame::parse(text, &LIMITS).unwrap().to_text(), text);
        }
        for text in [
            r#"{"type":"registered","agent_id":"a","connected_agents":["b"]}"#,
            r#"{"type":"agent-joined","agent_id":"a"}"#,
            r#"{"type":"agent-left","agent_id":"a"}"#,
            r#"{"type":"error","message":"Error: Agent b not found"}"#,
        ] {
            assert_eq!(ServerFrame::parse(text, &LIMITS).unwrap().to_text(), text);
        }
    }

    #[test]
    fn what_is_no_frame_is_refused_with_its_reason() {
        use FrameError::*;
        for (text, expected) in [
            ("", NotAFrame),
            ("[]", NotAFrame),
            (r#"["register"]"#, NotAFrame),
            (r#"{"type":1}"#, NotAFrame),
            (r#"{"agent_id":"a"}"#, NotAFrame),
            (
                r#"{"type":"register","type":"register","agent_id":"a"}"#,
                NotAFrame,
            ),
            (r#"{"type":"dance"}"#, UnknownType),
            (r#"{"type":"agent-left","agent_id":"a"}"#, UnknownType),
        ] {
            assert_eq!(ClientFrame::parse(text, &LIMITS), Err(expected), "{text}");
        }
        for text in [
            r#"{"type":"register"}"#,
            r#"{"type":"register","agent_id":"*"}"#,
            r#"{"type":"register","agent_id":"a","agent_id":"b"}"#,
            r#"{"type":"register","agent_id":"a","epoch":-1}"#,
            r#"{"type":"register","agent_id":"a","epoch":1.5}"#,
            r#"{"type":"register","agent_id":"a","epoch":9007199254740992}"#,
            r#"{"type":"register","agent_id":"a","epoch":null}"#,
            r#"{"type":"register","agent_id":"a","public_key":"00"}"#,
            r#"{"type":"proof","signature":"AB"}"#,
            r#"{"type":"offer","from":"a","to":"b","offer":{"type":"answer","sdp":""}}"#,
            r#"{"type":"offer","from":"a","to":"b"}"#,
            r#"{"type":"offer","from":"a","from":"c","to":"b","offer":{"type":"offer","sdp":""}}"#,
            r#"{"type":"offer","from":"a","fr\u006fm":"c","to":"b","offer":{"type":"offer","sdp":""}}"#,
            r#"{"type":"ice-candidate","from":"a","to":"b","candidate":null}"#,
        ] {
            let refused = ClientFrame::parse(text, &LIMITS);
            assert!(matches!(refused, Err(Malformed(_))), "{text}: {refused:?}");
        }
    }

    #[test]
    fn limits_hold() {
        let long = format!(
            r#"{{"type":"register","agent_id":"a","x":"{}"}}"#,
            "x".repeat(5000)
        );
        assert!(matches!(
            ClientFrame::parse(&long, &LIMITS),
            Err(FrameError::TooLong { .. })
        ));
        let many = r#"{"type":"registered","agent_id":"a","connected_agents":["b","c","d","e"]}"#;
        assert_eq!(
            ServerFrame::parse(many, &LIMITS),
            Err(FrameError::TooManyAgents { max: 3 })
        );
        let deep = format!(r#"{{"type":"register","agent_id":"a","x":{}"#, "[".repeat(2000));
        assert_eq!(ClientFrame::parse(&deep, &LIMITS), Err(FrameError::NotAFrame));
    }

    #[test]
    fn codes_are_spelt_in_lower_case_and_unknown_ones_are_kept_apart() {
        let frame = ServerFrame::Error {
            message: "m".into(),
            code: Some(ErrorCode::StaleEpoch),
            agent_id: None,
        };
        assert_eq!(
            frame.to_text(),
            r#"{"type":"error","message":"m","code":"stale-epoch"}"#
        );
        let later = r#"{"type":"error","message":"m","code":"later"}"#;
        assert_eq!(
            ServerFrame::parse(later, &LIMITS).unwrap(),
            ServerFrame::Error {
                message: "m".into(),
                code: Some(ErrorCode::Other),
                agent_id: None,
            }
        );
    }

    #[test]
    fn a_signal_is_the_same_on_both_sides() {
        let signal = Signal::Candidate(IceCandidate {
            candidate: "candidate:1".into(),
            username_fragment: Some("u".into()),
            ..IceCandidate::default()
        });
        let text = signal.clone().into_frame(id("a"), id("b")).to_text();
        let ServerFrame::IceCandidate(back) = ServerFrame::parse(&text, &LIMITS).unwrap() else {
            panic!("{text}");
        };
        assert_eq!(back.into_signal(), (id("a"), id("b"), signal));
    }

    proptest! {
        #[test]
        fn no_text_panics_a_parser(text in any::<String>()) {
            let _ = ClientFrame::parse(&text, &LIMITS);
            let _ = ServerFrame::parse(&text, &LIMITS);
        }

        #[test]
        fn no_near_frame_panics_and_what_parses_prints_to_itself(
            kind in prop::sample::select(vec!["register", "proof", "offer", "answer", "ice-candidate", "challenge", "registered", "error"]),
            members in prop::collection::vec(("agent_id|from|to|offer|answer|candidate|epoch|nonce|message|code|statement", "null|1|-1|\"a\"|\\{\\}|\\[\\]|\\{\"type\":\"offer\",\"sdp\":\"\"\\}"), 0..6),
        ) {
            let mut text = format!(r#"{{"type":"{kind}""#);
            for (name, value) in members {
                text.push_str(&format!(r#","{name}":{value}"#));
            }
            text.push('}');
            if let Ok(frame) = ClientFrame::parse(&text, &LIMITS) {
                prop_assert_eq!(ClientFrame::parse(&frame.to_text(), &LIMITS), Ok(frame));
            }
            if let Ok(frame) = ServerFrame::parse(&text, &LIMITS) {
                prop_assert_eq!(ServerFrame::parse(&frame.to_text(), &LIMITS), Ok(frame));
            }
        }
    }
}
