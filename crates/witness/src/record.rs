//! What a line of the log says.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use ifmsg::{
    AgentId, Header, MessageDigest, MessageId, Timestamp, TraceId,
    canonical::{self, CanonicalError, Limits, Value, ValueKind},
};

use crate::{hex, tree::Hash};

/// No line is longer, its newline not counted. What is longer on disk is no line of ours.
pub const MAX_LINE: usize = 64 << 10;

/// Most entries of [`Entry::with`] in one record; what comes after them is left out.
pub const MAX_METADATA: usize = 16;

/// Most messages that one record is about.
pub const MAX_MESSAGES: usize = 64;

/// Most metadata beside several messages: the longest of both still makes a line that is short enough.
const METADATA_BESIDE: usize = 4;

/// Room that is made for the text of several messages; it grows.
const SEVERAL: usize = 1 << 10;

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

/// What metadata says of one message, in canonical order.
const NAMED: [&str; 3] = ["conversation", "in_reply_to", "message_id"];

/// A message that a record is about.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Mention {
    /// By this it is found and proved later.
    pub digest: MessageDigest,
    /// Its id.
    pub id: Option<MessageId>,
    /// The conversation it belongs to.
    pub conversation: Option<MessageId>,
    /// The id of the message that it answers.
    pub in_reply_to: Option<MessageId>,
    /// The trace it belongs to. Without one it is the first 12 bytes of the digest, so that both sides of a message write the
    /// same.
    pub trace: Option<TraceId>,
}

impl Mention {
    /// By its digest alone.
    pub fn new(digest: MessageDigest) -> Self {
        Self {
            digest,
            id: None,
            conversation: None,
            in_reply_to: None,
            trace: None,
        }
    }

    /// By all that its header says.
    pub fn of(header: &Header, digest: MessageDigest) -> Self {
        Self {
            digest,
            id: Some(header.id.clone()),
            conversation: header.conversation_id.clone(),
            in_reply_to: header.in_reply_to.clone(),
            trace: header.trace_id,
        }
    }

    fn trace_or_own(&self) -> TraceId {
        self.trace.unwrap_or_else(|| trace_of(self.digest.as_bytes()))
    }

    /// What metadata says of it, by the names of [`NAMED`].
    fn named(&self) -> [Option<&MessageId>; 3] {
        [&self.conversation, &self.in_reply_to, &self.id].map(Option::as_ref)
    }
}

/// What a caller has to say about an event. The log adds who, when and where in the log.
///
/// Making one cannot fail: a log that a hostile peer's text could keep from logging would be none. Text is cut, names
/// are mended, both as documented.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub(crate) event: Event,
    pub(crate) peer: Option<AgentId>,
    pub(crate) transport: Option<Arc<str>>,
    pub(crate) message: Option<Mention>,
    /// If there are several, to which the same happened: how many, and all of them as the line says it.
    pub(crate) several: (usize, Vec<u8>),
    pub(crate) sdp_hash: Option<[u8; 32]>,
    pub(crate) metadata: Metadata,
}

/// Names, and a number or a short text for each.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Metadata(Vec<(Cow<'static, str>, Detail)>);

impl Metadata {
    /// Adds one. Characters of `name` outside `a-z0-9_` become `_`, and it is cut to 64; of the same name the last holds; after
    /// [`MAX_METADATA`] names a new one is left out.
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
        // Sorted by name.
        let all = &mut self.0;
        match all.binary_search_by(|(other, _)| other.cmp(&name)) {
            Ok(at) => all[at].1 = value.into(),
            Err(at) if all.len() < MAX_METADATA => all.insert(at, (name, value.into())),
            Err(_) => {}
        }
        self
    }
}

impl Entry {
    /// Something happened.
    pub fn new(event: Event) -> Self {
        Self {
            event,
            peer: None,
            transport: None,
            message: None,
            several: (0, Vec::new()),
            sdp_hash: None,
            metadata: Metadata::default(),
        }
    }

    /// With whom.
    #[must_use]
    pub fn peer(mut self, peer: AgentId) -> Self {
        self.peer = Some(peer);
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

    /// The message.
    #[must_use]
    pub fn message(mut self, message: Mention) -> Self {
        self.message = Some(message);
        self
    }

    /// SHA-256 of a session description.
    #[must_use]
    pub fn sdp_hash(mut self, hash: [u8; 32]) -> Self {
        self.sdp_hash = Some(hash);
        self
    }

    /// Names, and numbers or short texts.
    #[must_use]
    pub fn metadata(mut self, metadata: Metadata) -> Self {
        self.metadata = metadata;
        self
    }

    /// Adds a name and a number or a short text, as [`Metadata::with`] does.
    #[must_use]
    pub fn with(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<Detail>) -> Self {
        self.metadata = self.metadata.with(name, value);
        self
    }

    /// What happened.
    pub fn event(&self) -> Event {
        self.event
    }

    /// How many events it stands for: one for each message, if it is about messages.
    pub fn events(&self) -> u64 {
        self.several.0.max(1) as u64
    }

    /// The same happened to this message, after those that it is about: one line tells of all of them, in this order. `false`, and
    /// nothing was taken in, if this entry says anything else, is about no message, or is full.
    pub fn also(
        &mut self,
        event: Event,
        peer: &AgentId,
        transport: Option<&Arc<str>>,
        metadata: &Metadata,
        message: (&Header, MessageDigest),
    ) -> bool {
        let is_same = self.event == event
            && self.peer.as_ref() == Some(peer)
            && self.transport.as_ref() == transport
            && self.metadata == *metadata
            && self.sdp_hash.is_none();
        let (count, text) = &mut self.several;
        let has_room = (*count).max(1) < MAX_MESSAGES
            && metadata.0.len() <= METADATA_BESIDE
            && !metadata.0.iter().any(|(name, _)| NAMED.contains(&&**name));
        let first = self.message.as_ref().filter(|_| is_same && has_room);
        let Some((first, id)) = first.and_then(|first| Some((first, first.id.as_ref()?))) else {
            return false;
        };
        if *count == 0 {
            *count = 1;
            text.reserve(SEVERAL);
            let named = [&first.conversation, &first.in_reply_to].map(Option::as_ref);
            write_one(text, &first.digest, id, named, first.trace);
        }
        *count += 1;
        text.push(b',');
        let (header, digest) = message;
        let named = [&header.conversation_id, &header.in_reply_to].map(Option::as_ref);
        write_one(text, &digest, &header.id, named, header.trace_id);
        true
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
    /// The message, if it is about one.
    pub digest: Option<MessageDigest>,
    /// If it is about several: all of them, and the same happened to each, in this order. [`each`](Self::each) takes them apart.
    pub messages: Vec<Mention>,
    /// SHA-256 of a session description.
    pub sdp_hash: Option<[u8; 32]>,
    /// Names and numbers; of one message also `message_id`, `conversation` and `in_reply_to`.
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
            max_depth: 4,
            max_members: 32,
            max_values: 64 + 8 * MAX_MESSAGES as u32,
        };
        canonical::scan_object(line, &limits, |member| fields.set(&member.name, member.value))?;
        if !fields.messages.is_empty() {
            if fields.digest.is_some() {
                return Err(BadLine::Member("digest"));
            }
            if NAMED.iter().any(|name| fields.metadata.contains_key(*name)) {
                return Err(BadLine::Member("metadata"));
            }
        }
        Ok(Self {
            seq: fields.seq.ok_or(BadLine::Member("seq"))?,
            timestamp: fields.timestamp.ok_or(BadLine::Member("timestamp"))?,
            event: fields.event.ok_or(BadLine::Member("event"))?,
            agent: fields.agent.ok_or(BadLine::Member("agent_id"))?,
            peer: fields.peer,
            trace: fields.trace.ok_or(BadLine::Member("trace_id"))?,
            transport: fields.transport,
            digest: fields.digest,
            messages: fields.messages,
            sdp_hash: fields.sdp_hash,
            metadata: fields.metadata,
            prev: fields.prev.ok_or(BadLine::Member("prev"))?,
        })
    }

    /// One record for each message that this is about, each as if the line were about that alone; this one, if they are not several.
    pub fn each(&self) -> impl Iterator<Item = Cow<'_, Self>> {
        let whole = self.messages.is_empty().then_some(Cow::Borrowed(self));
        let parts = self.messages.iter().map(|message| Cow::Owned(self.part(message)));
        whole.into_iter().chain(parts)
    }

    /// Whether it is about this message.
    pub fn is_about(&self, digest: &MessageDigest) -> bool {
        self.digest == Some(*digest) || self.messages.iter().any(|message| message.digest == *digest)
    }

    /// What it says of this message; `None` if it is not about it.
    pub fn of(&self, digest: &MessageDigest) -> Option<Cow<'_, Self>> {
        self.each().find(|record| record.digest == Some(*digest))
    }

    /// The line that says this, without its newline: of one that is not about [several](Self::messages) messages, byte for byte the
    /// line that it was read from.
    pub fn to_line(&self) -> String {
        let message = self.digest.map(|digest| Mention {
            trace: Some(self.trace),
            ..Mention::new(digest)
        });
        let metadata = self.metadata.iter();
        let entry = Entry {
            event: self.event,
            peer: self.peer.clone(),
            transport: self.transport.as_deref().map(Into::into),
            message,
            several: (0, Vec::new()),
            sdp_hash: self.sdp_hash,
            metadata: Metadata(
                metadata
                    .map(|(name, value)| (name.clone().into(), value.clone()))
                    .collect(),
            ),
        };
        let place = Place {
            seq: self.seq,
            timestamp: &self.timestamp.to_string(),
            agent: &self.agent,
            run: self.trace,
            prev: &self.prev,
        };
        let mut line = Vec::new();
        write_line(&mut line, &entry, &place);
        String::from_utf8_lossy(&line).into_owned()
    }

    fn part(&self, message: &Mention) -> Self {
        let mut metadata = self.metadata.clone();
        for (name, id) in NAMED.into_iter().zip(message.named()) {
            if let Some(id) = id {
                metadata.insert(name.to_owned(), id.clone().into());
            }
        }
        Self {
            seq: self.seq,
            timestamp: self.timestamp,
            event: self.event,
            agent: self.agent.clone(),
            peer: self.peer.clone(),
            trace: message.trace_or_own(),
            transport: self.transport.clone(),
            digest: Some(message.digest),
            messages: Vec::new(),
            sdp_hash: self.sdp_hash,
            metadata,
            prev: self.prev,
        }
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
    messages: Vec<Mention>,
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
            "messages" => self.messages = messages(value).ok_or(BadLine::Member("messages"))?,
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
    (1..=MAX_METADATA + NAMED.len())
        .contains(&map.len())
        .then_some(map)
}

fn messages(value: Value<'_>) -> Option<Vec<Mention>> {
    let mut messages = Vec::new();
    for element in value.elements()? {
        if messages.len() == MAX_MESSAGES {
            return None;
        }
        messages.push(mention(element)?);
    }
    // A line about one message says so itself: one spelling for one record.
    (messages.len() > 1).then_some(messages)
}

fn mention(value: Value<'_>) -> Option<Mention> {
    let mut elements = value.elements()?;
    let mut message = Mention::new(MessageDigest::from_hex(&elements.next()?.as_str()?)?);
    message.id = Some(MessageId::new(&*elements.next()?.as_str()?).ok()?);
    if let Some(more) = elements.next() {
        for (name, value) in more.members()? {
            let text = value.as_str()?;
            let id = || MessageId::new(&*text).ok();
            match &*name {
                "conversation" => message.conversation = Some(id()?),
                "in_reply_to" => message.in_reply_to = Some(id()?),
                "trace_id" => message.trace = Some(TraceId::from_hex(&text)?),
                _ => return None,
            }
        }
        let is_said =
            message.conversation.is_some() || message.in_reply_to.is_some() || message.trace.is_some();
        if !is_said {
            return None;
        }
    }
    elements.next().is_none().then_some(message)
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
    let message = entry.message.as_ref();
    let (count, several) = &entry.several;
    let alone = message.filter(|_| *count == 0);
    plain(out, r#"{"agent_id":""#, place.agent.as_str());
    if let Some(message) = alone {
        plain(out, r#"","digest":""#, "");
        hex::push(out, message.digest.as_bytes());
    }
    plain(out, r#"","event":""#, entry.event.name());
    out.push(b'"');
    if *count > 0 {
        out.extend_from_slice(br#","messages":["#);
        out.extend_from_slice(several);
        out.push(b']');
    }
    write_metadata(out, alone, &entry.metadata.0);
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
    let trace = alone.map_or(place.run, Mention::trace_or_own);
    hex::push(out, trace.as_bytes());
    out.push(b'"');
    if let Some(transport) = &entry.transport {
        out.extend_from_slice(br#","transport":"#);
        canonical::write_string(out, transport);
    }
    out.push(b'}');
}

/// One of several messages.
fn write_one(
    out: &mut Vec<u8>,
    digest: &MessageDigest,
    id: &MessageId,
    [conversation, in_reply_to]: [Option<&MessageId>; 2],
    trace: Option<TraceId>,
) {
    plain(out, "[\"", "");
    hex::push(out, digest.as_bytes());
    plain(out, r#"",""#, id.as_str());
    out.push(b'"');
    let mut before = r#",{""#;
    let named = [("conversation", conversation), ("in_reply_to", in_reply_to)];
    for (name, id) in named.into_iter().filter_map(|(name, id)| Some((name, id?))) {
        plain(out, before, name);
        plain(out, r#"":""#, id.as_str());
        before = r#"",""#;
    }
    if let Some(trace) = trace {
        plain(out, before, r#"trace_id":""#);
        hex::push(out, trace.as_bytes());
        before = r#"",""#;
    }
    out.extend_from_slice(if before.starts_with('"') { br#""}]"# } else { b"]" });
}

/// Metadata, and what is said of the one message, in order. Of one name, what is said of the message holds.
fn write_metadata(out: &mut Vec<u8>, message: Option<&Mention>, metadata: &[(Cow<'static, str>, Detail)]) {
    let named = message.map_or([None; 3], Mention::named);
    let mut named = NAMED
        .into_iter()
        .zip(named)
        .filter_map(|(name, id)| Some((name, id?)))
        .peekable();
    let mut metadata = metadata.iter().map(|(name, value)| (&**name, value)).peekable();
    let mut before = r#","metadata":{""#;
    loop {
        let next = metadata.peek().map(|(name, _)| *name);
        let of_message = named.next_if(|(name, _)| next.is_none_or(|next| *name <= next));
        if let Some((name, id)) = of_message {
            metadata.next_if(|(other, _)| *other == name);
            plain(out, before, name);
            plain(out, r#"":""#, id.as_str());
            out.push(b'"');
        } else if let Some((name, value)) = metadata.next() {
            plain(out, before, name);
            out.extend_from_slice(b"\":");
            match value {
                Detail::Number(number) => push_number(out, *number),
                Detail::Text(text) => canonical::write_string(out, text),
            }
        } else {
            break;
        }
        before = r#",""#;
    }
    if before.len() == 2 {
        out.push(b'}');
    }
}

/// Ids, names of events and timestamps are of characters that JSON does not escape.
fn plain(out: &mut Vec<u8>, before: &str, text: &str) {
    out.extend_from_slice(before.as_bytes());
    out.extend_from_slice(text.as_bytes());
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
    use ifmsg::{Destination, Draft, Stamp};
    use proptest::{collection::btree_map, option, prelude::*};

    fn detail() -> impl Strategy<Value = Detail> {
        prop_oneof![
            any::<i64>().prop_map(Detail::from),
            any::<u64>().prop_map(Detail::from),
            any::<String>().prop_map(Detail::from),
            "[\\x00-\\x7f]{0,300}".prop_map(Detail::from),
        ]
    }

    fn id() -> impl Strategy<Value = MessageId> {
        "[A-Za-z0-9._:/@+-]{1,128}".prop_map(|id| MessageId::new(id).unwrap())
    }

    prop_compose! {
        fn mention()(
            digest in any::<[u8; 32]>(),
            id in id().prop_map(Some),
            conversation in option::of(id()),
            in_reply_to in option::of(id()),
            trace in option::of(any::<[u8; 12]>()),
        ) -> Mention {
            let trace = trace.map(TraceId::from_bytes);
            Mention { digest: MessageDigest::from_bytes(digest), id, conversation, in_reply_to, trace }
        }
    }

    prop_compose! {
        fn entry()(
            event in 0..Event::ALL.len(),
            peer in option::of("[A-Za-z0-9._:/@+-]{1,128}"),
            transport in option::of(any::<String>()),
            message in option::of(mention()),
            sdp_hash in option::of(any::<[u8; 32]>()),
            metadata in btree_map(any::<String>(), detail(), 0..20),
        ) -> Entry {
            let mut entry = Entry::new(Event::ALL[event]);
            entry.peer = peer.map(|id| AgentId::new(id).unwrap());
            entry.message = message;
            entry.sdp_hash = sdp_hash;
            if let Some(name) = &transport {
                entry = entry.transport(name.as_str());
            }
            metadata.into_iter().fold(entry, |entry, (name, value)| entry.with(name, value))
        }
    }

    /// What a message with that to say of it says of itself.
    fn header_of(message: &Mention) -> Header {
        let mut draft =
            Draft::new(Destination::Everyone, serde_json::json!({})).id(message.id.clone().unwrap());
        if let Some(id) = &message.conversation {
            draft = draft.conversation(id.clone());
        }
        if let Some(id) = &message.in_reply_to {
            draft = draft.in_reply_to(id.clone());
        }
        if let Some(trace) = message.trace {
            draft = draft.trace(trace);
        }
        let stamp = Stamp {
            id: MessageId::new("unused").unwrap(),
            source: AgentId::new("alice").unwrap(),
            timestamp: Timestamp::from_unix_millis(0),
            epoch: 1,
            sequence: 1,
        };
        draft.stamp(stamp, &Limits::default()).unwrap().header().clone()
    }

    /// Whether `last` takes in that what `entry` says happened to this message as well.
    fn also(last: &mut Entry, entry: &Entry, message: &Mention) -> bool {
        let header = header_of(message);
        let Some(peer) = &entry.peer else {
            return false;
        };
        let message = (&header, message.digest);
        entry.sdp_hash.is_none()
            && last.also(
                entry.event,
                peer,
                entry.transport.as_ref(),
                &entry.metadata,
                message,
            )
    }

    const RUN: TraceId = TraceId::from_bytes([7; 12]);

    fn line_of(entry: &Entry, seq: u64, prev: Hash) -> Vec<u8> {
        let agent = AgentId::new("alice").unwrap();
        let timestamp = "2026-11-22T12:00:00.000Z";
        let mut line = Vec::new();
        write_line(
            &mut line,
            entry,
            &Place {
                seq,
                timestamp,
                agent: &agent,
                run: RUN,
                prev: &prev,
            },
        );
        line
    }

    /// What a reader is to find of an entry about one message or none.
    fn expected(entry: &Entry, seq: u64, prev: Hash) -> Record {
        let message = entry.message.as_ref();
        let mut metadata: BTreeMap<String, Detail> = entry
            .metadata
            .0
            .iter()
            .map(|(name, value)| (name.to_string(), value.clone()))
            .collect();
        for (name, id) in NAMED.into_iter().zip(message.map_or([None; 3], Mention::named)) {
            metadata.extend(id.map(|id| (name.to_owned(), Detail::from(id.clone()))));
        }
        Record {
            seq,
            timestamp: Timestamp::parse("2026-11-22T12:00:00.000Z").unwrap(),
            event: entry.event,
            agent: AgentId::new("alice").unwrap(),
            peer: entry.peer.clone(),
            trace: message.map_or(RUN, Mention::trace_or_own),
            transport: entry.transport.as_deref().map(str::to_owned),
            digest: message.map(|message| message.digest),
            messages: Vec::new(),
            sdp_hash: entry.sdp_hash,
            metadata,
            prev,
        }
    }

    proptest! {
        /// Whatever an entry holds, its line is canonical, short enough, and says what the entry said.
        #[test]
        fn every_line_is_canonical_and_reads_back(entry in entry(), seq in 0u64..1 << 53, prev in any::<[u8; 32]>()) {
            let prev = Hash::from_bytes(prev);
            let line = line_of(&entry, seq, prev);
            prop_assert!(line.len() <= MAX_LINE);
            prop_assert_eq!(canonical::check(&line, &Limits::default()), Ok(()));
            let record = Record::parse(&line).unwrap();
            prop_assert_eq!(record.to_line().into_bytes(), line);
            prop_assert_eq!(record, expected(&entry, seq, prev));
        }

        /// Joined or not, the lines say the same of every message, in the same order.
        #[test]
        fn what_is_joined_says_what_its_parts_would(
            entry in entry(),
            messages in prop::collection::vec(mention(), 1..100),
            other in entry(),
            other_at in 0usize..100,
        ) {
            let (mut told, mut joined): (Vec<Entry>, Vec<Entry>) = Default::default();
            for (at, message) in messages.iter().enumerate() {
                told.push(entry.clone().message(message.clone()));
                if !joined.last_mut().is_some_and(|last| also(last, &entry, message)) {
                    joined.push(entry.clone().message(Mention::of(&header_of(message), message.digest)));
                }
                if at == other_at {
                    told.push(other.clone());
                    joined.push(other.clone());
                }
            }
            prop_assert_eq!(joined.iter().map(Entry::events).sum::<u64>(), told.len() as u64);
            let (mut read, prev) = (Vec::new(), Hash::ZERO);
            for entry in &joined {
                let line = line_of(entry, 1, prev);
                prop_assert!(line.len() <= MAX_LINE);
                prop_assert_eq!(canonical::check(&line, &Limits::default()), Ok(()));
                let record = Record::parse(&line).unwrap();
                for part in record.each() {
                    if let Some(digest) = part.digest {
                        prop_assert!(record.is_about(&digest));
                        prop_assert!(record.of(&digest).is_some_and(|part| part.digest == Some(digest)));
                    }
                    read.push(part.into_owned());
                }
            }
            let expected: Vec<_> = told.iter().map(|entry| expected(entry, 1, prev)).collect();
            prop_assert_eq!(read, expected);
        }

        #[test]
        fn no_bytes_make_the_parser_panic(line in any::<Vec<u8>>()) {
            prop_assert!(Record::parse(&line).is_err());
        }
    }

    /// The longest line there is: as many messages as there may be, and beside them as much metadata.
    #[test]
    fn the_longest_joined_line_fits() {
        let id = || Some(MessageId::new("i".repeat(128)).unwrap());
        let message = Mention {
            digest: MessageDigest::from_bytes([1; 32]),
            id: id(),
            conversation: id(),
            in_reply_to: id(),
            trace: Some(RUN),
        };
        let mut one = Entry::new(Event::IfmessageAcknowledged)
            .peer(AgentId::new("p".repeat(128)).unwrap())
            .transport("\u{1}".repeat(64))
            .message(message.clone());
        for number in 0..METADATA_BESIDE {
            one = one.with(
                format!("{number}{}", "n".repeat(63)),
                "\u{1}".repeat(MAX_METADATA_TEXT),
            );
        }
        let mut all = one.clone();
        for _ in 1..MAX_MESSAGES {
            assert!(also(&mut all, &one, &message));
        }
        assert!(!also(&mut all, &one, &message), "it is full");
        let line = line_of(&all, MAX_NUMBER as u64, Hash::ZERO);
        assert!(line.len() <= MAX_LINE, "{}", line.len());
        assert_eq!(Record::parse(&line).unwrap().each().count(), MAX_MESSAGES);
        // With more metadata there would be no room, so each message has a line of its own.
        let mut more = one.with("z", 1u32);
        let like = more.clone();
        assert!(!also(&mut more, &like, &message));
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
        let messages = BadLine::Member("messages");
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
            (r#""prev""#, r#""messages":[],"prev""#, messages.clone()),
            (r#""prev""#, r#""messages":[["D","1"]],"prev""#, messages.clone()),
            (
                r#""prev""#,
                r#""messages":[["D","1"],["D"]],"prev""#,
                messages.clone(),
            ),
            (
                r#""prev""#,
                r#""messages":[["D","1"],["D","1",{}]],"prev""#,
                messages.clone(),
            ),
            (
                r#""prev""#,
                r#""messages":[["D","1"],["D","1",{"x":"y"}]],"prev""#,
                messages.clone(),
            ),
            (
                r#""prev""#,
                r#""messages":[["D","1"],["D","1",{"trace_id":"1"}]],"prev""#,
                messages.clone(),
            ),
            (
                r#""prev""#,
                r#""messages":[["D","1"],["D","1",{"conversation":"1"},1]],"prev""#,
                messages.clone(),
            ),
            (
                r#""prev""#,
                r#""messages":[["D","1"],["D",""]],"prev""#,
                messages.clone(),
            ),
            (
                r#""prev""#,
                r#""messages":[["D","1"],["1","1"]],"prev""#,
                messages.clone(),
            ),
            (r#""prev""#, r#""messages":{"D":"1"},"prev""#, messages.clone()),
            (
                r#""event":"ifmessage_sent","prev""#,
                r#""digest":"D","event":"ifmessage_sent","messages":[["D","1"],["D","2"]],"prev""#,
                BadLine::Member("digest"),
            ),
            (
                r#""prev""#,
                r#""messages":[["D","1"],["D","2"]],"metadata":{"message_id":"1"},"prev""#,
                BadLine::Member("metadata"),
            ),
        ] {
            assert_eq!(
                Record::parse(line.replace(from, &to.replace('D', &"d".repeat(64))).as_bytes()),
                Err(expected),
                "{to}"
            );
        }
    }
}
