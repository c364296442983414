//! The message: its header, its canonical body, and how a draft becomes one.
//!
//! `Draft -> UnsignedMessage` here, `-> SignedMessage` in [`crate::flight`]; from the network `UnverifiedMessage ->
//! VerifiedMessage` in [`crate::admission`]. All four hold the same [`Content`]: canonical bytes, written or scanned once.

use std::{fmt, ops::Range, sync::Arc};

use bytes::Bytes;
use sha2::{Digest as _, Sha256};

use crate::{
    AgentId, Destination, MessageId, Performative, Timestamp,
    canonical::{self, CanonicalError, Limits, Member, ObjectDocument},
    hex::hex_newtype,
};

hex_newtype! {
    /// A message's digest: `SHA-256(0x00 || body)`. Duplicate tag, acknowledgement id, witness leaf.
    MessageDigest, 32
}

hex_newtype! {
    /// Joins the records of one causal chain: 12 bytes, 24 hexadecimal digits (`traceId`).
    TraceId, 12
}

/// The version this crate speaks.
pub const VERSION: &str = "2.1";

/// The largest integer that every JSON implementation keeps exactly: 2^53 - 1.
pub const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;

/// Most citations in one message.
pub const MAX_CITATIONS: usize = 256;

/// Most `x_` members in one message.
pub const MAX_EXTENSIONS: usize = 64;

/// Longest citation, in bytes.
pub const MAX_CITATION_LEN: usize = 512;

/// At which level of the fractal a message lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Level {
    /// Function to function.
    #[default]
    Function = 1,
    /// Module to module.
    Module = 2,
}

/// What the sender wants promised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Delivery {
    /// Acknowledged, resent, in order, exactly once.
    #[default]
    Reliable,
    /// Sent once; may be lost; never delivered twice.
    BestEffort,
}

impl Delivery {
    /// As on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reliable => "reliable",
            Self::BestEffort => "best-effort",
        }
    }
}

/// Everything in a message but its payload and its extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Header {
    /// Unique per source; the idempotency key across a restart.
    pub id: MessageId,
    /// When the sender made it, by the sender's clock.
    pub timestamp: Timestamp,
    /// Function or module level.
    pub level: Level,
    /// Who sent it. Proven only in a [`crate::VerifiedMessage`].
    pub source: AgentId,
    /// Whom it is for.
    pub destination: Destination,
    /// The communicative act, if the sender named one.
    pub performative: Option<Performative>,
    /// The conversation it belongs to.
    pub conversation_id: Option<MessageId>,
    /// The id of the message it answers.
    pub in_reply_to: Option<MessageId>,
    /// The causal chain it belongs to.
    pub trace_id: Option<TraceId>,
    /// What it cites: `if://citation/...`.
    pub citation_ids: Vec<String>,
    /// The run of the sender it comes from.
    pub epoch: u64,
    /// Its number within (key, epoch, stream), from 1.
    pub sequence: u64,
    /// What the sender wants promised.
    pub delivery: Delivery,
    /// After this it is refused.
    pub expires: Option<Timestamp>,
}

/// Which of its sender's streams a message belongs to: one destination and one delivery class, as a receiver sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Reliable, to this agent alone.
    Reliable,
    /// Best effort, to this agent alone.
    BestEffort,
    /// Reliable, to everyone.
    ReliableBroadcast,
    /// Best effort, to everyone.
    BestEffortBroadcast,
}

impl Stream {
    /// All four.
    pub const ALL: [Self; 4] = [
        Self::Reliable,
        Self::BestEffort,
        Self::ReliableBroadcast,
        Self::BestEffortBroadcast,
    ];

    /// The stream of a delivery class to one agent or to everyone.
    pub fn new(delivery: Delivery, broadcast: bool) -> Self {
        match (delivery, broadcast) {
            (Delivery::Reliable, false) => Self::Reliable,
            (Delivery::BestEffort, false) => Self::BestEffort,
            (Delivery::Reliable, true) => Self::ReliableBroadcast,
            (Delivery::BestEffort, true) => Self::BestEffortBroadcast,
        }
    }

    /// Whether it is one of the acknowledged, ordered streams.
    pub fn is_reliable(self) -> bool {
        matches!(self, Self::Reliable | Self::ReliableBroadcast)
    }

    /// Whether it goes to everyone.
    pub fn is_broadcast(self) -> bool {
        matches!(self, Self::ReliableBroadcast | Self::BestEffortBroadcast)
    }
}

impl Header {
    /// The stream it belongs to.
    pub fn stream(&self) -> Stream {
        Stream::new(self.delivery, self.destination == Destination::Everyone)
    }

    /// Whether its `expires` has passed.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| now > expires)
    }
}

/// A message that the sender has yet to number, date and sign.
///
/// ```
/// # use ifmsg::{Draft, Performative};
/// let draft = Draft::new("agent-legal".try_into()?, serde_json::json!({ "claim": "settled" }))
///     .performative(Performative::Inform)
///     .citation("if://citation/4711");
/// # Ok::<(), ifmsg::InvalidId>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    destination: Destination,
    payload: serde_json::Value,
    id: Option<MessageId>,
    level: Level,
    performative: Option<Performative>,
    conversation_id: Option<MessageId>,
    in_reply_to: Option<MessageId>,
    trace_id: Option<TraceId>,
    citation_ids: Vec<String>,
    delivery: Delivery,
    expires: Option<Timestamp>,
    extensions: Vec<(String, serde_json::Value)>,
}

/// What only the sender's session can say of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    /// The id, for a draft that has none of its own.
    pub id: MessageId,
    /// Who sends it.
    pub source: AgentId,
    /// Now.
    pub timestamp: Timestamp,
    /// The run of the sender.
    pub epoch: u64,
    /// The next number of the stream.
    pub sequence: u64,
}

/// Why a draft is no message. The caller's fault; the same draft fails again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DraftError {
    /// The payload is not a JSON object.
    #[error("the payload must be a JSON object")]
    PayloadNotObject,
    /// An extension's name does not begin with `x_`, is no id, or stands twice.
    #[error(
        "extension {0:?} is refused: names are unique, begin with x_ and match [A-Za-z0-9._:/@+-]{{1,128}}"
    )]
    Extension(String),
    /// A citation is not an `if://citation/` URI of at most 512 bytes.
    #[error("citation {0:?} is refused: if://citation/... of at most 512 bytes is needed")]
    Citation(String),
    /// More than [`MAX_CITATIONS`] citations or [`MAX_EXTENSIONS`] extensions.
    #[error("too many {0}: at most {1} are carried")]
    TooMany(&'static str, usize),
    /// The epoch or the sequence number is out of range: 1 to 2^53 - 1 (an epoch may be 0).
    #[error("{0} is out of range")]
    OutOfRange(&'static str),
    /// The body breaks a rule of the canonical form: too large, too deep, a number that JSON cannot carry.
    #[error("the message has no canonical form: {0}")]
    Canonical(#[from] CanonicalError),
}

impl Draft {
    /// A reliable message of level 1 with this payload, which must be a JSON object.
    pub fn new(destination: Destination, payload: serde_json::Value) -> Self {
        Self {
            destination,
            payload,
            id: None,
            level: Level::default(),
            performative: None,
            conversation_id: None,
            in_reply_to: None,
            trace_id: None,
            citation_ids: Vec::new(),
            delivery: Delivery::default(),
            expires: None,
            extensions: Vec::new(),
        }
    }

    /// Names the communicative act.
    #[must_use]
    pub fn performative(mut self, performative: Performative) -> Self {
        self.performative = Some(performative);
        self
    }

    /// Chooses the id. Two messages of one source with the same id are one message to a receiver: use it to send again
    /// after a crash without doing the work twice.
    #[must_use]
    pub fn id(mut self, id: MessageId) -> Self {
        self.id = Some(id);
        self
    }

    /// Sets the level.
    #[must_use]
    pub fn level(mut self, level: Level) -> Self {
        self.level = level;
        self
    }

    /// Makes it part of a conversation.
    #[must_use]
    pub fn conversation(mut self, id: MessageId) -> Self {
        self.conversation_id = Some(id);
        self
    }

    /// Makes it an answer to the message with this id.
    #[must_use]
    pub fn in_reply_to(mut self, id: MessageId) -> Self {
        self.in_reply_to = Some(id);
        self
    }

    /// Makes it part of a causal chain.
    #[must_use]
    pub fn trace(mut self, id: TraceId) -> Self {
        self.trace_id = Some(id);
        self
    }

    /// Adds a citation, `if://citation/...`.
    #[must_use]
    pub fn citation(mut self, uri: impl Into<String>) -> Self {
        self.citation_ids.push(uri.into());
        self
    }

    /// Chooses the delivery class.
    #[must_use]
    pub fn delivery(mut self, delivery: Delivery) -> Self {
        self.delivery = delivery;
        self
    }

    /// Refused by receivers, and given up by the sender, after this time.
    #[must_use]
    pub fn expires(mut self, at: Timestamp) -> Self {
        self.expires = Some(at);
        self
    }

    /// Adds an extension member. Its name begins with `x_`; it is signed like all the rest.
    #[must_use]
    pub fn extension(mut self, name: impl Into<String>, value: serde_json::Value) -> Self {
        self.extensions.push((name.into(), value));
        self
    }

    /// Whom it is for.
    pub fn destination(&self) -> &Destination {
        &self.destination
    }

    /// The id, if one was chosen.
    pub fn message_id(&self) -> Option<&MessageId> {
        self.id.as_ref()
    }

    /// The act, if one was named.
    pub fn performative_ref(&self) -> Option<&Performative> {
        self.performative.as_ref()
    }

    /// The delivery class.
    pub fn delivery_class(&self) -> Delivery {
        self.delivery
    }

    /// When it expires, if ever.
    pub fn expiry(&self) -> Option<Timestamp> {
        self.expires
    }

    /// Numbers and dates the draft, and writes its canonical body.
    pub fn stamp(self, stamp: Stamp, limits: &Limits) -> Result<UnsignedMessage, DraftError> {
        let header = Header {
            id: self.id.unwrap_or(stamp.id),
            timestamp: stamp.timestamp,
            level: self.level,
            source: stamp.source,
            destination: self.destination,
            performative: self.performative,
            conversation_id: self.conversation_id,
            in_reply_to: self.in_reply_to,
            trace_id: self.trace_id,
            citation_ids: self.citation_ids,
            epoch: stamp.epoch,
            sequence: stamp.sequence,
            delivery: self.delivery,
            expires: self.expires,
        };
        let content = Content::write(header, &self.payload, self.extensions, limits)?;
        Ok(UnsignedMessage {
            content: Arc::new(content),
        })
    }
}

/// A numbered and dated message that nobody has signed yet.
#[derive(Debug, Clone)]
pub struct UnsignedMessage {
    pub(crate) content: Arc<Content>,
}

impl UnsignedMessage {
    /// What it says of itself.
    pub fn header(&self) -> &Header {
        &self.content.header
    }

    /// Its digest.
    pub fn digest(&self) -> MessageDigest {
        self.content.digest
    }

    /// The canonical body.
    pub fn body(&self) -> &Bytes {
        &self.content.body
    }
}

/// A canonical body, read once.
#[derive(Clone)]
pub(crate) struct Content {
    pub(crate) body: Bytes,
    pub(crate) header: Header,
    pub(crate) payload: Range<usize>,
    /// Where `"source":` begins. The JSON form's signature stands before it.
    pub(crate) source_at: usize,
    pub(crate) digest: MessageDigest,
}

impl Content {
    /// Reads canonical bytes in one pass; anything that is not canonical or not a message is refused.
    pub(crate) fn read(body: Bytes, limits: &Limits) -> Result<Self, MessageError> {
        let (header, payload, source_at) = read_members(&body, limits)?;
        let digest = digest(&body);
        Ok(Self {
            body,
            header,
            payload,
            source_at,
            digest,
        })
    }

    fn write(
        header: Header,
        payload: &serde_json::Value,
        mut extensions: Vec<(String, serde_json::Value)>,
        limits: &Limits,
    ) -> Result<Self, DraftError> {
        check_draft(&header, payload, &mut extensions)?;
        let mut object = ObjectDocument::new(limits, 512)?;
        // In the order of RFC 8785, section 3.2.3: sorted by name.
        if !header.citation_ids.is_empty() {
            object.member("citation_ids", &header.citation_ids)?;
        }
        if let Some(id) = &header.conversation_id {
            object.member("conversation_id", id.as_str())?;
        }
        if header.delivery != Delivery::default() {
            object.member("delivery", header.delivery.as_str())?;
        }
        object.member("destination", header.destination.as_str())?;
        object.member("epoch", &header.epoch)?;
        if let Some(at) = header.expires {
            object.member("expires", &at.to_string())?;
        }
        object.member("id", header.id.as_str())?;
        if let Some(id) = &header.in_reply_to {
            object.member("in_reply_to", id.as_str())?;
        }
        object.member("level", &(header.level as u64))?;
        let payload = object.member("payload", payload)?;
        if let Some(act) = &header.performative {
            object.member("performative", act.as_str())?;
        }
        object.member("sequence_num", &header.sequence)?;
        let source_at = object.member("source", header.source.as_str())?.start - SOURCE_NAME.len();
        object.member("timestamp", &header.timestamp.to_string())?;
        if let Some(id) = header.trace_id {
            object.member("traceId", &id.to_hex())?;
        }
        object.member("version", VERSION)?;
        for (name, value) in &extensions {
            object.member(name, value)?;
        }
        let body = Bytes::from(object.finish()?);
        let digest = digest(&body);
        Ok(Self {
            body,
            header,
            payload,
            source_at,
            digest,
        })
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.body[self.payload.clone()]
    }
}

impl fmt::Debug for Content {
    /// Leaves the payload out: it is the application's own, and logs are not the place for it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content")
            .field("header", &self.header)
            .field("digest", &self.digest)
            .field("bytes", &self.body.len())
            .finish()
    }
}

/// Why bytes are not a message. Their sender's fault; the same bytes fail again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// Not canonical JSON within the bounds.
    #[error("{0}")]
    Canonical(#[from] CanonicalError),
    /// A required member is missing.
    #[error("member {0:?} is missing")]
    Missing(&'static str),
    /// A member's value is of the wrong type or out of its range.
    #[error("member {name:?} is refused: {problem}")]
    Field {
        /// The member.
        name: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A member that is neither known nor an extension. At most its first 64 characters are kept.
    #[error("member {0:?} is not known; extensions begin with x_")]
    UnknownMember(String),
    /// A version that this crate does not speak.
    #[error("this is not version 2.1 of IFMessage")]
    Version,
    /// More than [`MAX_CITATIONS`] citations or [`MAX_EXTENSIONS`] extensions.
    #[error("too many {0}")]
    TooMany(&'static str),
}

pub(crate) fn digest(body: &[u8]) -> MessageDigest {
    let mut hash = Sha256::new();
    hash.update([0]);
    hash.update(body);
    MessageDigest::from_bytes(hash.finalize().into())
}

#[derive(Default)]
struct Fields {
    id: Option<MessageId>,
    timestamp: Option<Timestamp>,
    level: Option<Level>,
    source: Option<AgentId>,
    source_at: usize,
    destination: Option<Destination>,
    version: bool,
    payload: Option<Range<usize>>,
    performative: Option<Performative>,
    conversation_id: Option<MessageId>,
    in_reply_to: Option<MessageId>,
    trace_id: Option<TraceId>,
    citation_ids: Vec<String>,
    epoch: Option<u64>,
    sequence: Option<u64>,
    delivery: Option<Delivery>,
    expires: Option<Timestamp>,
    extensions: usize,
}

fn read_members(body: &[u8], limits: &Limits) -> Result<(Header, Range<usize>, usize), MessageError> {
    let mut fields = Fields::default();
    canonical::scan_object(body, limits, |member| fields.take(member))?;
    let missing = MessageError::Missing;
    if !fields.version {
        return Err(missing("version"));
    }
    let header = Header {
        id: fields.id.ok_or(missing("id"))?,
        timestamp: fields.timestamp.ok_or(missing("timestamp"))?,
        level: fields.level.ok_or(missing("level"))?,
        source: fields.source.ok_or(missing("source"))?,
        destination: fields.destination.ok_or(missing("destination"))?,
        performative: fields.performative,
        conversation_id: fields.conversation_id,
        in_reply_to: fields.in_reply_to,
        trace_id: fields.trace_id,
        citation_ids: fields.citation_ids,
        epoch: fields.epoch.ok_or(missing("epoch"))?,
        sequence: fields.sequence.ok_or(missing("sequence_num"))?,
        delivery: fields.delivery.unwrap_or_default(),
        expires: fields.expires,
    };
    Ok((
        header,
        fields.payload.ok_or(missing("payload"))?,
        fields.source_at,
    ))
}

impl Fields {
    fn take(&mut self, member: Member<'_>) -> Result<(), MessageError> {
        match member.name.as_ref() {
            "id" => self.id = Some(text("id", &member, |text| MessageId::new(text), ID)?),
            "timestamp" => self.timestamp = Some(text("timestamp", &member, Timestamp::parse, TIME)?),
            "level" => {
                self.level = Some(match member.value.as_integer() {
                    Some(1) => Level::Function,
                    Some(2) => Level::Module,
                    _ => return Err(field("level", "1 or 2 is needed")),
                });
            }
            "source" => {
                self.source = Some(text("source", &member, |text| AgentId::new(text), ID)?);
                self.source_at = member.span.start - SOURCE_NAME.len();
            }
            "destination" => {
                self.destination = Some(text(
                    "destination",
                    &member,
                    |text| Destination::new(text),
                    "an id or * is needed",
                )?);
            }
            "version" => {
                if member.value.as_str().as_deref() != Some(VERSION) {
                    return Err(MessageError::Version);
                }
                self.version = true;
            }
            "payload" => {
                if member.value.raw().first() != Some(&b'{') {
                    return Err(field("payload", "an object is needed"));
                }
                self.payload = Some(member.span);
            }
            "performative" => {
                let problem = "a FIPA communicative act or a name that begins with x- is needed";
                self.performative = Some(text("performative", &member, Performative::new, problem)?);
            }
            "conversation_id" => {
                self.conversation_id =
                    Some(text("conversation_id", &member, |text| MessageId::new(text), ID)?);
            }
            "in_reply_to" => {
                self.in_reply_to = Some(text("in_reply_to", &member, |text| MessageId::new(text), ID)?)
            }
            "traceId" => {
                let read = |text: &str| TraceId::from_hex(text).ok_or(());
                self.trace_id = Some(text(
                    "traceId",
                    &member,
                    read,
                    "24 lowercase hexadecimal digits are needed",
                )?);
            }
            "citation_ids" => self.citation_ids = citations(&member)?,
            "epoch" => self.epoch = Some(natural("epoch", &member, 0)?),
            "sequence_num" => self.sequence = Some(natural("sequence_num", &member, 1)?),
            "delivery" => {
                self.delivery = Some(match member.value.as_str().as_deref() {
                    Some("reliable") => Delivery::Reliable,
                    Some("best-effort") => Delivery::BestEffort,
                    _ => return Err(field("delivery", "\"reliable\" or \"best-effort\" is needed")),
                });
            }
            "expires" => self.expires = Some(text("expires", &member, Timestamp::parse, TIME)?),
            name if is_extension_name(name) => {
                self.extensions += 1;
                if self.extensions > MAX_EXTENSIONS {
                    return Err(MessageError::TooMany("extensions"));
                }
            }
            name => return Err(MessageError::UnknownMember(name.chars().take(64).collect())),
        }
        Ok(())
    }
}

/// What stands before the value of `source`.
const SOURCE_NAME: &str = "\"source\":";

const ID: &str = "an id is needed: 1 to 128 characters out of A-Z a-z 0-9 . _ : / @ + -";
const TIME: &str = "a timestamp is needed: YYYY-MM-DDTHH:MM:SS.sssZ";

fn field(name: &'static str, problem: &'static str) -> MessageError {
    MessageError::Field { name, problem }
}

fn text<T, E>(
    name: &'static str,
    member: &Member<'_>,
    read: impl FnOnce(&str) -> Result<T, E>,
    problem: &'static str,
) -> Result<T, MessageError> {
    let text = member.value.as_str().ok_or(field(name, problem))?;
    read(&text).map_err(|_| field(name, problem))
}

fn natural(name: &'static str, member: &Member<'_>, least: u64) -> Result<u64, MessageError> {
    let problem = if least == 0 {
        "an integer from 0 is needed"
    } else {
        "an integer from 1 is needed"
    };
    // The scanner has refused integers beyond 2^53 - 1 already.
    let number = member
        .value
        .as_integer()
        .and_then(|number| u64::try_from(number).ok());
    number
        .filter(|&number| number >= least)
        .ok_or(field(name, problem))
}

fn citations(member: &Member<'_>) -> Result<Vec<String>, MessageError> {
    let problem = "an array of if://citation/... strings is needed";
    let citations: Vec<String> =
        serde_json::from_slice(member.value.raw()).map_err(|_| field("citation_ids", problem))?;
    if citations.len() > MAX_CITATIONS {
        return Err(MessageError::TooMany("citations"));
    }
    if !citations.iter().all(|uri| is_citation(uri)) {
        return Err(field("citation_ids", problem));
    }
    Ok(citations)
}

fn is_citation(uri: &str) -> bool {
    const PREFIX: &str = "if://citation/";
    uri.starts_with(PREFIX) && (PREFIX.len() + 1..=MAX_CITATION_LEN).contains(&uri.len())
}

fn is_extension_name(name: &str) -> bool {
    name.len() > 2 && name.starts_with("x_") && crate::id::is_id(name.as_bytes())
}

fn check_draft(
    header: &Header,
    payload: &serde_json::Value,
    extensions: &mut [(String, serde_json::Value)],
) -> Result<(), DraftError> {
    if !payload.is_object() {
        return Err(DraftError::PayloadNotObject);
    }
    if header.epoch > MAX_SAFE_INTEGER {
        return Err(DraftError::OutOfRange("epoch"));
    }
    if !(1..=MAX_SAFE_INTEGER).contains(&header.sequence) {
        return Err(DraftError::OutOfRange("sequence number"));
    }
    if header.citation_ids.len() > MAX_CITATIONS {
        return Err(DraftError::TooMany("citations", MAX_CITATIONS));
    }
    if let Some(bad) = header.citation_ids.iter().find(|uri| !is_citation(uri)) {
        return Err(DraftError::Citation(bad.clone()));
    }
    if extensions.len() > MAX_EXTENSIONS {
        return Err(DraftError::TooMany("extensions", MAX_EXTENSIONS));
    }
    extensions.sort_by(|(a, _), (b, _)| a.cmp(b));
    let twice = extensions
        .windows(2)
        .find(|pair| pair[0].0 == pair[1].0)
        .map(|pair| &pair[0]);
    if let Some((bad, _)) = twice.or_else(|| extensions.iter().find(|(name, _)| !is_extension_name(name))) {
        return Err(DraftError::Extension(bad.clone()));
    }
    Ok(())
}
