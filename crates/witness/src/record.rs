//! What a line of the log says.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use ifmsg::{
    AgentId, MessageDigest, MessageId, Timestamp, TraceId,
    canonical::{self, CanonicalError, Limits, Value, ValueKind},
};

use crate::{hex, tree::Hash};

/// No line is longer, its newline not counted. What is longer on disk is no line of ours.
pub const MAX_LINE: usize = 32 << 10;

/// Most entries of [`Entry::with`] in one record; what comes after them is left out.
pub const MAX_METADATA: usize = 16;

/// Longest text in metadata, in bytes; what is longer is cut at a character.
pub const MAX_METADATA_TEXT: usize = 256;

const MAX_METADATA_NAME: usize = 64;

macro_rules! events {
    ($($(#[$doc:meta])* $name:ident = $text:literal,)*) => {
        /// What happened. The names on the wire are those of PROTOCOL's witness section; a verifier refuses a name it does not know.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Event {
            $($(#[$doc])* $name,)*
        }

        impl Event {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The name in the log.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $text,)* }
            }

            /// Reads the name; `None` for any other.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $($text => Some(Self::$name),)* _ => None }
            }
        }
    };
}

events! {
    /// Registered at a signaling server.
    SignalingConnected = "signaling_connected",
    /// An offer was made; `sdp_hash` names it.
    WebrtcOfferCreated = "webrtc_offer_created",
    /// An answer was made; `sdp_hash` names it.
    WebrtcAnswerCreated = "webrtc_answer_created",
    /// A candidate went to the peer.
    IceCandidateSent = "ice_candidate_sent",
    /// A data channel to the peer is open.
    DatachannelOpen = "datachannel_open",
    /// A message was handed to a link.
    IfmessageSent = "ifmessage_sent",
    /// A message was verified, and went to the application.
    IfmessageReceived = "ifmessage_received",
    /// The connection to a signaling server is gone.
    SignalingDisconnected = "signaling_disconnected",
    /// The link to a peer is gone.
    PeerDisconnected = "peer_disconnected",
    /// The link to a peer is up, whatever the transport.
    PeerConnected = "peer_connected",
    /// One of several roads to a peer became better or worse.
    RoadChanged = "road_changed",
    /// A message or frame was refused.
    IfmessageRejected = "ifmessage_rejected",
    /// The peer acknowledged a message.
    IfmessageAcknowledged = "ifmessage_acknowledged",
    /// A message expired before the peer acknowledged it.
    IfmessageExpired = "ifmessage_expired",
    /// A message was given up or dropped without having expired.
    IfmessageDropped = "ifmessage_dropped",
    /// A key was bound to an agent.
    KeyPinned = "key_pinned",
    /// A key handed over to its successor.
    KeyRotated = "key_rotated",
    /// An agent has no key any more.
    KeyRevoked = "key_revoked",
    /// Another key than the bound one was refused.
    KeyRefused = "key_refused",
    /// One number, two messages, both signed.
    Equivocation = "equivocation",
    /// A link was refused: a false proof, a stranger, a lie below the session.
    LinkRefused = "link_refused",
    /// Another agent's log is not the one whose checkpoint is held here: it was cut, forked or rewritten. Both are kept.
    LogForked = "log_forked",
    /// The receiver's state could not be kept.
    JournalFailed = "journal_failed",
    /// Events were lost before they reached the log; `count` says how many at most.
    EventsDropped = "events_dropped",
    /// The log was opened: a life of the agent begins.
    LogOpened = "log_opened",
    /// The log was closed in good order.
    LogClosed = "log_closed",
}

impl Event {
    /// Whether the log has it on disk before it says that it has it: events that change whom the agent trusts, or that tell on
    /// somebody, and the log's own. Traffic is made durable in groups.
    pub const fn is_durable_at_once(self) -> bool {
        matches!(
            self,
            Self::KeyPinned
                | Self::KeyRotated
                | Self::KeyRevoked
                | Self::KeyRefused
                | Self::Equivocation
                | Self::LogForked
                | Self::EventsDropped
                | Self::LogOpened
                | Self::LogClosed
        )
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A value in metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Detail {
    /// A number within ±(2^53 - 1).
    Number(i64),
    /// A name or a reason; never a payload, never a secret.
    Text(Arc<str>),
}

impl From<u64> for Detail {
    fn from(number: u64) -> Self {
        Self::Number(i64::try_from(number).unwrap_or(i64::MAX).min(MAX_NUMBER))
    }
}

impl From<u32> for Detail {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl From<i64> for Detail {
    fn from(number: i64) -> Self {
        Self::Number(number.clamp(-MAX_NUMBER, MAX_NUMBER))
    }
}

impl From<&str> for Detail {
    fn from(text: &str) -> Self {
        Self::Text(text[..text.floor_char_boundary(MAX_METADATA_TEXT)].into())
    }
}

impl From<MessageId> for Detail {
    fn from(id: MessageId) -> Self {
        // No id is longer than a text may be.
        Self::Text(id.into())
    }
}

impl From<String> for Detail {
    fn from(text: String) -> Self {
        text.as_str().into()
    }
}

const MAX_NUMBER: i64 = (1 << 53) - 1;

/// What a caller has to say about an event. The log adds who, when and where in the log.
///
/// Making one cannot fail: a log that a hostile peer's text could keep from logging would be none. Text is cut, names
/// are mended, both as documented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub(crate) event: Event,
    pub(crate) peer: Option<AgentId>,
    pub(crate) trace: Option<TraceId>,
    pub(crate) transport: Option<Arc<str>>,
    pub(crate) digest: Option<MessageDigest>,
    pub(crate) sdp_hash: Option<[u8; 32]>,
    /// Sorted by name.
    pub(crate) metadata: Vec<(Cow<'static, str>, Detail)>,
}

impl Entry {
    /// Something happened.
    pub fn new(event: Event) -> Self {
        Self {
            event,
            peer: None,
            trace: None,
            transport: None,
            digest: None,
            sdp_hash: None,
            metadata: Vec::new(),
        }
    }

    /// With whom.
    #[must_use]
    pub fn peer(mut self, peer: AgentId) -> Self {
        self.peer = Some(peer);
        self
    }

    /// The trace it belongs to. Without one it is the first 12 bytes of the message's digest, so that both sides of
    /// a message write the same, and else that of this life of the log.
    #[must_use]
    pub fn trace(mut self, trace: TraceId) -> Self {
        self.trace = Some(trace);
        self
    }

    /// The transport's name. Cut as metadata is.
    #[must_use]
    pub fn transport(mut self, name: impl Into<Arc<str>>) -> Self {
        let name = name.into();
        self.transport = Some(match name.floor_char_boundary(MAX_METADATA_NAME) {
            end if end < name.len() => name[..end].into(),
            _ => name,
        });
        self
    }

    /// The message, by its digest: by this it is found and proved later.
    #[must_use]
    pub fn digest(mut self, digest: MessageDigest) -> Self {
        self.digest = Some(digest);
        self
    }

    /// SHA-256 of a session description.
    #[must_use]
    pub fn sdp_hash(mut self, hash: [u8; 32]) -> Self {
        self.sdp_hash = Some(hash);
        self
    }

    /// Adds a name and a number or a short text. Characters of `name` outside `a-z0-9_` become `_`, and it is cut to 64; of
    /// the same name the last holds; after [`MAX_METADATA`] names a new one is left out.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Detail>) -> Self {
        let mut name = name.into();
        if name.len() > MAX_METADATA_NAME || !name.bytes().all(|byte| is_name_char(byte.into())) {
            let mended = name
                .chars()
                .take(MAX_METADATA_NAME)
                .map(|char| if is_name_char(char) { char } else { '_' });
            name = Cow::Owned(mended.collect());
        }
        match self.metadata.binary_search_by(|(other, _)| other.cmp(&name)) {
            Ok(at) => self.metadata[at].1 = value.into(),
            Err(at) if self.metadata.len() < MAX_METADATA => self.metadata.insert(at, (name, value.into())),
            Err(_) => {}
        }
        self
    }

    /// What happened.
    pub fn event(&self) -> Event {
        self.event
    }
}

/// A line, read. Everything in it was checked for form; whether it is true to the log is for the verifier to say.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Record {
    /// Its place, from 0: also the index of its leaf in the tree.
    pub seq: u64,
    /// When the witness heard of it, by the agent's own clock.
    pub timestamp: Timestamp,
    /// What happened.
    pub event: Event,
    /// Whose log this is.
    pub agent: AgentId,
    /// With whom.
    pub peer: Option<AgentId>,
    /// The trace it belongs to.
    pub trace: TraceId,
    /// The transport's name.
    pub transport: Option<String>,
    /// The message.
    pub digest: Option<MessageDigest>,
    /// SHA-256 of a session description.
    pub sdp_hash: Option<[u8; 32]>,
    /// Names and numbers.
    pub metadata: BTreeMap<String, Detail>,
    /// Hash of the line before: [`Hash::of_leaf`] over its bytes without the newline. [`Hash::ZERO`] in the first line.
    pub prev: Hash,
}

/// Why bytes are no line of a witness log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BadLine {
    /// Longer than [`MAX_LINE`].
    #[error("longer than any line this log writes")]
    TooLong,
    /// Not canonical JSON.
    #[error("not a canonical JSON object: {0}")]
    NotCanonical(#[from] CanonicalError),
    /// A member is not what it should be.
    #[error("its member `{0}` is missing or has a value that is not allowed")]
    Member(&'static str),
    /// A member that no record has.
    #[error("a member that no record has")]
    UnknownMember,
    /// An event that this version does not know.
    #[error("an event that this version does not know; verify with a newer one")]
    UnknownEvent,
}

impl Record {
    /// Reads a line, without its newline.
    ///
    /// # Errors
    /// Whoever wrote the line is at fault.
    pub fn parse(line: &[u8]) -> Result<Self, BadLine> {
        if line.len() > MAX_LINE {
            return Err(BadLine::TooLong);
        }
        let mut fields = Fields::default();
        let limits = Limits {
            max_bytes: MAX_LINE,
            max_depth: 2,
            max_members: 32,
            max_values: 64,
        };
        canonical::scan_object(line, &limits, |member| fields.set(&member.name, member.value))?;
        Ok(Self {
            seq: fields.seq.ok_or(BadLine::Member("seq"))?,
            timestamp: fields.timestamp.ok_or(BadLine::Member("timestamp"))?,
            event: fields.event.ok_or(BadLine::Member("event"))?,
            agent: fields.agent.ok_or(BadLine::Member("agent_id"))?,
            peer: fields.peer,
            trace: fields.trace.ok_or(BadLine::Member("trace_id"))?,
            transport: fields.transport,
            digest: fields.digest,
            sdp_hash: fields.sdp_hash,
            metadata: fields.metadata,
            prev: fields.prev.ok_or(BadLine::Member("prev"))?,
        })
    }
}

#[derive(Default)]
struct Fields {
    seq: Option<u64>,
    timestamp: Option<Timestamp>,
    event: Option<Event>,
    agent: Option<AgentId>,
    peer: Option<AgentId>,
    trace: Option<TraceId>,
    transport: Option<String>,
    digest: Option<MessageDigest>,
    sdp_hash: Option<[u8; 32]>,
    metadata: BTreeMap<String, Detail>,
    prev: Option<Hash>,
}

impl Fields {
    fn set(&mut self, name: &str, value: Value<'_>) -> Result<(), BadLine> {
        match name {
            "agent_id" => self.agent = Some(text(value, "agent_id", |text| AgentId::new(text).ok())?),
            "digest" => self.digest = Some(text(value, "digest", MessageDigest::from_hex)?),
            "event" => {
                let name = value.as_str().ok_or(BadLine::Member("event"))?;
                self.event = Some(Event::from_name(&name).ok_or(BadLine::UnknownEvent)?);
            }
            "metadata" => self.metadata = metadata(value).ok_or(BadLine::Member("metadata"))?,
            "peer_id" => self.peer = Some(text(value, "peer_id", |text| AgentId::new(text).ok())?),
            "prev" => self.prev = Some(text(value, "prev", Hash::from_hex)?),
            "sdp_hash" => {
                self.sdp_hash = Some(text(value, "sdp_hash", |text| {
                    ifmsg::hex::decode(text.as_bytes())
                })?);
            }
            "seq" => {
                let seq = value.as_integer().and_then(|seq| u64::try_from(seq).ok());
                self.seq = Some(seq.ok_or(BadLine::Member("seq"))?);
            }
            "timestamp" => {
                self.timestamp = Some(text(value, "timestamp", |text| Timestamp::parse(text).ok())?);
            }
            "trace_id" => self.trace = Some(text(value, "trace_id", TraceId::from_hex)?),
            "transport" => {
                self.transport = Some(text(value, "transport", |text| {
                    (text.len() <= MAX_METADATA_NAME).then(|| text.to_owned())
                })?);
            }
            _ => return Err(BadLine::UnknownMember),
        }
        Ok(())
    }
}

fn text<T>(value: Value<'_>, name: &'static str, read: impl FnOnce(&str) -> Option<T>) -> Result<T, BadLine> {
    value
        .as_str()
        .and_then(|text| read(&text))
        .ok_or(BadLine::Member(name))
}

fn metadata(value: Value<'_>) -> Option<BTreeMap<String, Detail>> {
    let mut map = BTreeMap::new();
    for (name, value) in value.members()? {
        let value = match value.kind() {
            ValueKind::Number => Detail::Number(value.as_integer()?),
            ValueKind::String => Detail::Text(value.as_str()?.as_ref().into()),
            _ => return None,
        };
        let fits = name.chars().all(is_name_char) && name.len() <= MAX_METADATA_NAME;
        if !fits || matches!(&value, Detail::Text(text) if text.len() > MAX_METADATA_TEXT) {
            return None;
        }
        map.insert(name.into_owned(), value);
    }
    // An entry without metadata has no such member: one spelling for one record.
    (!map.is_empty() && map.len() <= MAX_METADATA).then_some(map)
}

fn is_name_char(char: char) -> bool {
    matches!(char, 'a'..='z' | '0'..='9' | '_')
}

/// What the log adds to an [`Entry`].
pub(crate) struct Place<'a> {
    pub(crate) seq: u64,
    pub(crate) timestamp: &'a str,
    pub(crate) agent: &'a AgentId,
    pub(crate) run: TraceId,
    pub(crate) prev: &'a Hash,
}

/// Appends the line of this entry, canonical as written (the members below stand in canonical order), without newline.
///
/// The serialiser of [`canonical`] gives the same bytes for twice the time; a test holds the two together.
pub(crate) fn write_line(out: &mut Vec<u8>, entry: &Entry, place: &Place<'_>) {
    // Ids, names of events and timestamps are of characters that JSON does not escape.
    let plain = |out: &mut Vec<u8>, before: &str, text: &str| {
        out.extend_from_slice(before.as_bytes());
        out.extend_from_slice(text.as_bytes());
    };
    plain(out, r#"{"agent_id":""#, place.agent.as_str());
    if let Some(digest) = &entry.digest {
        plain(out, r#"","digest":""#, "");
        hex::push(out, digest.as_bytes());
    }
    plain(out, r#"","event":""#, entry.event.name());
    out.push(b'"');
    if !entry.metadata.is_empty() {
        for (at, (name, value)) in entry.metadata.iter().enumerate() {
            plain(out, if at == 0 { r#","metadata":{""# } else { r#",""# }, name);
            out.extend_from_slice(b"\":");
            match value {
                Detail::Number(number) => push_number(out, *number),
                Detail::Text(text) => canonical::write_string(out, text),
            }
        }
        out.push(b'}');
    }
    if let Some(peer) = &entry.peer {
        plain(out, r#","peer_id":""#, peer.as_str());
        out.push(b'"');
    }
    plain(out, r#","prev":""#, "");
    hex::push(out, place.prev.as_bytes());
    if let Some(hash) = &entry.sdp_hash {
        plain(out, r#"","sdp_hash":""#, "");
        hex::push(out, hash);
    }
    plain(out, r#"","seq":"#, "");
    push_number(out, place.seq.try_into().unwrap_or(MAX_NUMBER));
    plain(out, r#","timestamp":""#, place.timestamp);
    plain(out, r#"","trace_id":""#, "");
    let trace = entry.trace.unwrap_or_else(|| match &entry.digest {
        Some(digest) => trace_of(digest.as_bytes()),
        None => place.run,
    });
    hex::push(out, trace.as_bytes());
    out.push(b'"');
    if let Some(transport) = &entry.transport {
        out.extend_from_slice(br#","transport":"#);
        canonical::write_string(out, transport);
    }
    out.push(b'}');
}

/// The first twelve bytes of a hash, as a trace.
pub(crate) fn trace_of(hash: &[u8; 32]) -> TraceId {
    let mut trace = [0; 12];
    trace.copy_from_slice(&hash[..12]);
    TraceId::from_bytes(trace)
}

fn push_number(out: &mut Vec<u8>, number: i64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = number.unsigned_abs();
    loop {
        at -= 1;
        // A remainder of ten is one digit.
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if number < 0 {
        out.push(b'-');
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::btree_map, option, prelude::*};

    fn detail() -> impl Strategy<Value = Detail> {
        prop_oneof![
            any::<i64>().prop_map(Detail::from),
            any::<u64>().prop_map(Detail::from),
            any::<String>().prop_map(Detail::from),
            "[\\x00-\\x7f]{0,300}".prop_map(Detail::from),
        ]
    }

    prop_compose! {
        fn entry()(
            event in 0..Event::ALL.len(),
            peer in option::of("[A-Za-z0-9._:/@+-]{1,128}"),
            trace in option::of(any::<[u8; 12]>()),
            transport in option::of(any::<String>()),
            digest in option::of(any::<[u8; 32]>()),
            sdp_hash in option::of(any::<[u8; 32]>()),
            metadata in btree_map(any::<String>(), detail(), 0..20),
        ) -> Entry {
            let mut entry = Entry::new(Event::ALL[event]);
            entry.peer = peer.map(|id| AgentId::new(id).unwrap());
            entry.trace = trace.map(TraceId::from_bytes);
            entry.digest = digest.map(MessageDigest::from_bytes);
            entry.sdp_hash = sdp_hash;
            if let Some(name) = &transport {
                entry = entry.transport(name.as_str());
            }
            metadata.into_iter().fold(entry, |entry, (name, value)| entry.with(name, value))
        }
    }

    proptest! {
        /// Whatever an entry holds, its line is canonical, short enough, and says what the entry said.
        #[test]
        fn every_line_is_canonical_and_reads_back(entry in entry(), seq in 0u64..1 << 53, prev in any::<[u8; 32]>()) {
            let agent = AgentId::new("alice").unwrap();
            let (run, prev) = (TraceId::from_bytes([7; 12]), Hash::from_bytes(prev));
            let timestamp = "2026-11-22T12:00:00.000Z";
            let mut line = Vec::new();
            write_line(&mut line, &entry, &Place { seq, timestamp, agent: &agent, run, prev: &prev });
            prop_assert!(line.len() <= MAX_LINE);
            prop_assert_eq!(canonical::check(&line, &Limits::default()), Ok(()));
            let record = Record::parse(&line).unwrap();
            prop_assert_eq!((record.seq, record.prev, &record.agent), (seq, prev, &agent));
            prop_assert_eq!(record.timestamp.to_string(), timestamp);
            let digest_trace = entry.digest.map(|digest| trace_of(digest.as_bytes()));
            prop_assert_eq!(record.trace, entry.trace.or(digest_trace).unwrap_or(run));
            let read = Entry {
                event: record.event,
                peer: record.peer,
                trace: entry.trace,
                transport: record.transport.map(Into::into),
                digest: record.digest,
                sdp_hash: record.sdp_hash,
                metadata: record.metadata.into_iter().map(|(name, value)| (name.into(), value)).collect(),
            };
            prop_assert_eq!(read, entry);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(line in any::<Vec<u8>>()) {
            prop_assert!(Record::parse(&line).is_err());
        }
    }

    #[test]
    fn names_read_back_and_no_two_are_one() {
        for (at, event) in Event::ALL.iter().enumerate() {
            assert_eq!(Event::from_name(event.name()), Some(*event));
            assert_eq!(
                Event::ALL.iter().position(|other| other.name() == event.name()),
                Some(at)
            );
        }
        assert_eq!(Event::from_name("ifmessage"), None);
    }

    #[test]
    fn a_record_says_nothing_that_no_record_has() {
        let line = r#"{"agent_id":"a","event":"ifmessage_sent","prev":"P","seq":0,"timestamp":"2026-11-22T12:00:00.000Z","trace_id":"070707070707070707070707"}"#
            .replace('P', &Hash::ZERO.to_string());
        assert_eq!(
            Record::parse(line.as_bytes()).unwrap().event,
            Event::IfmessageSent
        );
        for (from, to, expected) in [
            (r#""seq":0"#, r#""seq":-1"#, BadLine::Member("seq")),
            (r#""seq":0,"#, "", BadLine::Member("seq")),
            ("ifmessage_sent", "ifmessage_eaten", BadLine::UnknownEvent),
            (r#""prev""#, r#""payload":1,"prev""#, BadLine::UnknownMember),
            (
                r#""prev""#,
                r#""metadata":{},"prev""#,
                BadLine::Member("metadata"),
            ),
            (
                r#""prev""#,
                r#""metadata":{"a":true},"prev""#,
                BadLine::Member("metadata"),
            ),
            (
                r#""prev""#,
                r#""metadata":{"A":1},"prev""#,
                BadLine::Member("metadata"),
            ),
            (
                r#""prev""#,
                r#""metadata":{"a":1.5},"prev""#,
                BadLine::Member("metadata"),
            ),
        ] {
            assert_eq!(
                Record::parse(line.replace(from, to).as_bytes()),
                Err(expected),
                "{to}"
            );
        }
    }
}
