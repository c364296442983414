//! One signature, two encodings: JSON for people and browsers, binary frames between native peers.
//!
//! Either form turns into the other without a private key, and both verify to the same digest.

use std::{borrow::Cow, fmt, ops::Range, sync::Arc};

use bytes::{BufMut, Bytes};

use crate::{
    BadSignature, Header, InvalidPublicKey, KeyId, MAX_FLIGHT, MessageDigest, MessageError, PublicKey,
    SUITE_ED25519_SHA256, SignatureBytes, SignedMessage,
    canonical::{self, CanonicalError, Limits, Member},
    flight::{self, Proof, Sealed, Siblings},
    hex,
    key::key_id,
    merkle::{self, Node},
    message::Content,
};

const MAGIC: &[u8; 4] = b"IFB1";
const HEADER_LEN: usize = 84;
/// A body may keep a frame alive that is larger than twice itself by this much.
const PINNED_SLACK: usize = 16 * 1024;

/// Reads a frame: a binary frame if it begins with `IFB1`, one message in JSON otherwise.
///
/// JSON in another order or spelling is made canonical first; a binary frame must hold canonical bodies. Nothing that comes
/// out is verified: it goes to [`crate::Admission`].
pub fn decode(frame: &Bytes, limits: &Limits) -> Result<UnverifiedFlight, DecodeError> {
    if frame.starts_with(MAGIC) {
        decode_binary(frame, limits)
    } else {
        decode_json(frame, limits)
    }
}

/// Writes messages of one flight as a binary frame. A part of a flight travels with its Merkle paths.
///
/// All messages must be of one flight and in its order, as [`crate::sign_flight`] returned them; messages may be left out.
pub fn encode_binary(messages: &[SignedMessage]) -> Result<Bytes, NotOneFlight> {
    let first = messages.first().ok_or(NotOneFlight)?;
    write_binary(first.key.id(), messages.iter().map(|message| &message.sealed))
}

/// The messages given to [`encode_binary`] are none, or of several flights, or out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a binary frame holds messages of one flight, in its order")]
pub struct NotOneFlight;

impl SignedMessage {
    /// The canonical JSON form: the body and its `signature` member.
    pub fn to_json(&self) -> Vec<u8> {
        write_json(&self.sealed, &self.key)
    }
}

/// A frame that has been read: some or all messages of a flight, none of them verified.
///
/// It shows what messages claim in their headers, for those who route and log. It hands out no payload.
pub struct UnverifiedFlight {
    pub(crate) key: KeyClaim,
    pub(crate) messages: Vec<Sealed>,
}

/// How a frame names its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyClaim {
    Id(KeyId),
    /// The 32 bytes as they came. They are compared with trusted keys; only a policy that learns makes a point of them, which
    /// costs a tenth of a verification.
    Key([u8; 32], KeyId),
}

impl KeyClaim {
    pub(crate) fn id(&self) -> KeyId {
        match self {
            Self::Id(id) => *id,
            Self::Key(_, id) => *id,
        }
    }
}

impl UnverifiedFlight {
    /// The key that is said to have signed it.
    pub fn key_id(&self) -> KeyId {
        self.key.id()
    }

    /// What the messages claim of themselves.
    pub fn headers(&self) -> impl ExactSizeIterator<Item = &Header> {
        self.messages.iter().map(|message| &message.content.header)
    }

    /// The digests of the messages.
    pub fn digests(&self) -> impl ExactSizeIterator<Item = MessageDigest> {
        self.messages.iter().map(|message| message.content.digest)
    }

    /// The same flight as a binary frame.
    pub fn to_binary(&self) -> Bytes {
        // What was decoded is of one flight and in order.
        write_binary(self.key.id(), self.messages.iter()).unwrap_or_default()
    }

    /// The same messages in JSON. A binary frame names its key by id only, so the key must be known.
    pub fn to_json(&self, key: &PublicKey) -> Vec<Vec<u8>> {
        self.messages
            .iter()
            .map(|message| write_json(message, key))
            .collect()
    }

    /// Verifies the one signature, the way `strictly` does. With a whole flight at hand the root is computed from the leaves, else
    /// from each path.
    pub(crate) fn verify_signature(
        &self,
        key: &PublicKey,
        mut strictly: impl FnMut(&[u8], &SignatureBytes) -> Result<(), BadSignature>,
    ) -> Result<(), BadSignature> {
        let mut verified: Option<(Node, usize, SignatureBytes)> = None;
        let mut shared_root: Option<Node> = None;
        for Sealed {
            content,
            index,
            proof,
        } in &self.messages
        {
            let root = match &proof.siblings {
                Siblings::Leaves(leaves) => *shared_root.get_or_insert_with(|| merkle::root(leaves)),
                Siblings::Path(path) => {
                    merkle::root_from_path(*index, proof.size, &content.digest, path).ok_or(BadSignature)?
                }
            };
            let this = (root, proof.size, proof.signature);
            if verified != Some(this) {
                strictly(&flight::signed_bytes(key, proof.size, &root), &proof.signature)?;
                verified = Some(this);
            }
        }
        Ok(())
    }
}

impl fmt::Debug for UnverifiedFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UnverifiedFlight")
            .field("key", &self.key.id())
            .field("messages", &self.messages.len())
            .finish_non_exhaustive()
    }
}

/// Why a frame could not be read. Its sender's fault, or damage on the way; the same bytes fail again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DecodeError {
    /// A message in the frame is refused.
    #[error("{0}")]
    Message(#[from] MessageError),
    /// A JSON message has no `signature`.
    #[error("the message is not signed")]
    Unsigned,
    /// The `signature` member is refused.
    #[error("the signature is refused: {0}")]
    Signature(#[from] SignatureError),
    /// The binary frame is refused.
    #[error("the binary frame is refused: {0}")]
    Frame(#[from] FrameError),
}

impl From<CanonicalError> for DecodeError {
    fn from(error: CanonicalError) -> Self {
        Self::Message(error.into())
    }
}

/// What is wrong with a `signature` member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// A member is missing, unknown or of the wrong type.
    #[error("{0}")]
    Shape(&'static str),
    /// `algorithm` is not `ed25519`.
    #[error("algorithm must be \"ed25519\"")]
    Algorithm,
    /// `public_key` is not 64 lowercase hexadecimal digits. Whether they are a usable key is asked when it is to be learnt.
    #[error("public_key: {0}")]
    PublicKey(#[from] InvalidPublicKey),
    /// `signature_bytes` is not 128 lowercase hexadecimal digits.
    #[error("signature_bytes must be 128 lowercase hexadecimal digits")]
    SignatureBytes,
    /// `signed_fields` is not the sorted list of the body's members.
    #[error("signed_fields must be the sorted names of all members but the signature")]
    SignedFields,
    /// `batch` has an index, a size or a path that fit no flight.
    #[error("batch is no place in a flight of at most {MAX_FLIGHT} messages")]
    Batch,
}

/// What is wrong with a binary frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// It ends too early.
    #[error("it ends too early")]
    Truncated,
    /// Bytes follow its last message.
    #[error("bytes follow its last message")]
    TrailingBytes,
    /// A suite that this version does not know.
    #[error("unknown suite {0}")]
    Suite(u8),
    /// Flags or reserved bytes that this version does not know.
    #[error("flags and reserved bytes must be zero")]
    Flags,
    /// No message, more than [`MAX_FLIGHT`], or more than the flight has.
    #[error("it must hold 1 to {MAX_FLIGHT} messages, and no more than its flight has")]
    Count,
    /// Places in the flight that do not rise or do not exist.
    #[error("places in the flight must rise and exist")]
    Index,
}

// ---------------------------------------------------------------------------------------------------------- binary

fn write_binary<'a>(
    key: KeyId,
    messages: impl ExactSizeIterator<Item = &'a Sealed> + Clone,
) -> Result<Bytes, NotOneFlight> {
    let count = messages.len();
    let first = &messages.clone().next().ok_or(NotOneFlight)?.proof;
    let mut last = None;
    for Sealed { index, proof, .. } in messages.clone() {
        let fits =
            Arc::ptr_eq(proof, first) || (proof.signature == first.signature && proof.size == first.size);
        if !fits || last.is_some_and(|last| index <= last) {
            return Err(NotOneFlight);
        }
        last = Some(index);
    }
    let bodies: usize = messages
        .clone()
        .map(|message| 4 + message.content.body.len())
        .sum();
    let mut out = Vec::with_capacity(HEADER_LEN + bodies);
    out.put_slice(MAGIC);
    out.put_u8(0);
    out.put_u8(SUITE_ED25519_SHA256);
    out.put_u16(0);
    out.put_slice(key.as_bytes());
    // Both are at most MAX_FLIGHT, and bodies are bounded by limits far below 4 GiB.
    out.put_u16(first.size as u16);
    out.put_u16(count as u16);
    out.put_slice(first.signature.as_bytes());
    for message in messages {
        if count < first.size {
            out.put_u16(message.index as u16);
            message.path().iter().for_each(|node| out.put_slice(node));
        }
        let body = &message.content.body;
        out.put_u32(body.len() as u32);
        out.put_slice(body);
    }
    Ok(out.into())
}

fn decode_binary(frame: &Bytes, limits: &Limits) -> Result<UnverifiedFlight, DecodeError> {
    let mut reader = Reader {
        frame,
        at: MAGIC.len(),
    };
    let [flags, suite, reserved_high, reserved_low] = reader.array()?;
    if suite != SUITE_ED25519_SHA256 {
        return Err(FrameError::Suite(suite).into());
    }
    if (flags, reserved_high, reserved_low) != (0, 0, 0) {
        return Err(FrameError::Flags.into());
    }
    let key = KeyClaim::Id(KeyId::from_bytes(reader.array()?));
    let size = usize::from(u16::from_be_bytes(reader.array()?));
    let count = usize::from(u16::from_be_bytes(reader.array()?));
    if !(1..=MAX_FLIGHT).contains(&size) || !(1..=size).contains(&count) {
        return Err(FrameError::Count.into());
    }
    let signature = SignatureBytes::from_bytes(reader.array()?);
    let proof = |siblings| {
        Arc::new(Proof {
            signature,
            size,
            siblings,
        })
    };
    let mut messages = Vec::with_capacity(count);
    if size == 1 {
        messages.push(Sealed::alone(Arc::new(reader.content(limits)?), signature));
    } else if count == size {
        let mut contents = Vec::with_capacity(count);
        for _ in 0..count {
            contents.push(reader.content(limits)?);
        }
        let leaves = contents.iter().map(|content| content.digest).collect();
        let proof = proof(Siblings::Leaves(leaves));
        messages.extend(contents.into_iter().enumerate().map(|(index, content)| Sealed {
            content: Arc::new(content),
            index,
            proof: proof.clone(),
        }));
    } else {
        let mut last = None;
        for _ in 0..count {
            let index = usize::from(u16::from_be_bytes(reader.array()?));
            if index >= size || last.is_some_and(|last| index <= last) {
                return Err(FrameError::Index.into());
            }
            last = Some(index);
            let mut path = Vec::with_capacity(merkle::path_len(index, size));
            for _ in 0..merkle::path_len(index, size) {
                path.push(reader.array()?);
            }
            messages.push(Sealed {
                content: Arc::new(reader.content(limits)?),
                index,
                proof: proof(Siblings::Path(path.into())),
            });
        }
    }
    if reader.at != frame.len() {
        return Err(FrameError::TrailingBytes.into());
    }
    Ok(UnverifiedFlight { key, messages })
}

struct Reader<'a> {
    frame: &'a Bytes,
    at: usize,
}

impl Reader<'_> {
    fn array<const N: usize>(&mut self) -> Result<[u8; N], FrameError> {
        let bytes = self.frame[self.at..].first_chunk().ok_or(FrameError::Truncated)?;
        self.at += N;
        Ok(*bytes)
    }

    fn content(&mut self, limits: &Limits) -> Result<Content, DecodeError> {
        let len = u32::from_be_bytes(self.array()?) as usize;
        let end = self.at.checked_add(len).filter(|&end| end <= self.frame.len());
        let mut body = self.frame.slice(self.at..end.ok_or(FrameError::Truncated)?);
        self.at += len;
        // A slice keeps the whole frame in memory. Whoever keeps a small message must not keep megabytes for it.
        if self.frame.len() > 2 * len + PINNED_SLACK {
            body = Bytes::copy_from_slice(&body);
        }
        Ok(Content::read(body, limits)?)
    }
}

// ------------------------------------------------------------------------------------------------------------ JSON

/// What the `signature` member may add to a message's own bounds: a full path, and the names of all its members.
const SIGNATURE_ROOM: usize = 64 * 1024;

fn write_json(message: &Sealed, key: &PublicKey) -> Vec<u8> {
    let Sealed {
        content,
        index,
        proof,
    } = message;
    let body = &content.body;
    let mut out = Vec::with_capacity(body.len() + 512);
    // "sequence_num" < "signature" < "source", and every message has a source.
    out.extend_from_slice(&body[..content.source_at]);
    out.extend_from_slice(b"\"signature\":{\"algorithm\":\"ed25519\",");
    if proof.size > 1 {
        out.extend_from_slice(format!("\"batch\":{{\"index\":{index},\"path\":[").as_bytes());
        for (n, node) in message.path().iter().enumerate() {
            out.extend_from_slice(if n == 0 { b"\"" } else { b",\"" });
            out.extend_from_slice(hex::encode(node).as_bytes());
            out.push(b'"');
        }
        out.extend_from_slice(format!("],\"size\":{}}},", proof.size).as_bytes());
    }
    let (key, signature) = (key.to_hex(), proof.signature.to_hex());
    let fields = format!("\"public_key\":\"{key}\",\"signature_bytes\":\"{signature}\",\"signed_fields\":");
    out.extend_from_slice(fields.as_bytes());
    out.extend_from_slice(&signed_fields(body));
    out.extend_from_slice(b"},");
    out.extend_from_slice(&body[content.source_at..]);
    out
}

/// The canonical array of the names of a canonical object's members.
fn signed_fields(body: &[u8]) -> Vec<u8> {
    let mut out = vec![b'['];
    // It cannot fail again.
    let _: Result<(), CanonicalError> = canonical::scan_object(body, &Limits::SCANNED, |member| {
        push_name(&mut out, &member.name);
        Ok(())
    });
    out.push(b']');
    out
}

fn push_name(list: &mut Vec<u8>, name: &str) {
    if list.len() > 1 {
        list.push(b',');
    }
    canonical::write_string(list, name);
}

fn decode_json(frame: &Bytes, limits: &Limits) -> Result<UnverifiedFlight, DecodeError> {
    let outer = Limits {
        max_bytes: limits.max_bytes.saturating_add(SIGNATURE_ROOM),
        max_values: limits.max_values.saturating_add(1_024),
        max_members: limits.max_members.saturating_add(1),
        ..*limits
    };
    // Native peers send canonical bytes; everybody else's are made canonical, which also finds duplicate members.
    let (text, outline) = match Outline::read(frame, &outer) {
        Ok(outline) => (Cow::Borrowed(&frame[..]), outline),
        Err(_) => {
            let text = canonical::canonicalise(frame, &outer)?;
            let outline = Outline::read(&text, &outer)?;
            (Cow::Owned(text), outline)
        }
    };
    let Outline { names, signature } = outline;
    let span = signature.ok_or(DecodeError::Unsigned)?;
    if text.get(span.start..span.end) == Some(b"null") {
        return Err(DecodeError::Unsigned);
    }
    let body = without_member(&text, span.start - "\"signature\":".len()..span.end);
    let content = Arc::new(Content::read(body, limits)?);
    let (key, signature, batch) = read_signature(&text[span], &outer, &names)?;
    let message = match batch {
        None => Sealed::alone(content, signature),
        Some((index, size, path)) => Sealed {
            content,
            index,
            proof: Arc::new(Proof {
                signature,
                size,
                siblings: Siblings::Path(path.into()),
            }),
        },
    };
    Ok(UnverifiedFlight {
        key: KeyClaim::Key(key, key_id(&key)),
        messages: vec![message],
    })
}

/// What a canonical JSON message is made of.
struct Outline {
    /// The canonical array of the names of all members but the signature.
    names: Vec<u8>,
    /// Where the signature's value stands.
    signature: Option<Range<usize>>,
}

impl Outline {
    fn read(text: &[u8], limits: &Limits) -> Result<Self, CanonicalError> {
        let (mut names, mut signature) = (vec![b'['], None);
        canonical::scan_object(text, limits, |member: Member<'_>| {
            if member.name == "signature" {
                signature = Some(member.span);
            } else {
                push_name(&mut names, &member.name);
            }
            Ok::<(), CanonicalError>(())
        })?;
        names.push(b']');
        Ok(Self { names, signature })
    }
}

/// An object without one of its members, whose name and value stand at `member`.
fn without_member(text: &[u8], member: Range<usize>) -> Bytes {
    let (mut before, mut after) = (&text[..member.start], &text[member.end..]);
    if after.first() == Some(&b',') {
        after = &after[1..];
    } else if before.last() == Some(&b',') {
        before = &before[..before.len() - 1];
    }
    [before, after].concat().into()
}

/// A message's place in its flight, the flight's size, and the path.
type Batch = (usize, usize, Vec<Node>);

fn read_signature(
    text: &[u8],
    limits: &Limits,
    names: &[u8],
) -> Result<([u8; 32], SignatureBytes, Option<Batch>), DecodeError> {
    let (mut algorithm, mut key, mut bytes, mut fields, mut batch) = (false, None, None, false, None);
    if text.first() != Some(&b'{') {
        return Err(SignatureError::Shape("it must be an object").into());
    }
    canonical::scan_object(text, limits, |member: Member<'_>| {
        let string = member.value.as_str();
        match member.name.as_ref() {
            "algorithm" => {
                algorithm = string.as_deref() == Some("ed25519");
                if !algorithm {
                    return Err(SignatureError::Algorithm.into());
                }
            }
            "public_key" => {
                let read = hex::decode(string.as_deref().unwrap_or_default().as_bytes());
                key = Some(read.ok_or(SignatureError::PublicKey(InvalidPublicKey::NotHex))?);
            }
            "signature_bytes" => {
                let read = SignatureBytes::from_hex(string.as_deref().unwrap_or_default());
                bytes = Some(read.ok_or(SignatureError::SignatureBytes)?);
            }
            "signed_fields" => {
                // It describes, it never selects: what is signed is always the whole body.
                fields = member.value.raw() == names;
                if !fields {
                    return Err(SignatureError::SignedFields.into());
                }
            }
            "batch" => batch = Some(read_batch(member.value.raw(), limits)?),
            _ => return Err(SignatureError::Shape("it has an unknown member").into()),
        }
        Ok::<(), DecodeError>(())
    })?;
    if !algorithm {
        return Err(SignatureError::Algorithm.into());
    }
    if !fields {
        return Err(SignatureError::SignedFields.into());
    }
    let key = key.ok_or(SignatureError::Shape("public_key is missing"))?;
    let signature = bytes.ok_or(SignatureError::SignatureBytes)?;
    Ok((key, signature, batch))
}

fn read_batch(text: &[u8], limits: &Limits) -> Result<Batch, DecodeError> {
    let (mut index, mut size, mut path) = (None, None, None);
    if text.first() != Some(&b'{') {
        return Err(SignatureError::Batch.into());
    }
    canonical::scan_object(text, limits, |member: Member<'_>| {
        let number = member
            .value
            .as_integer()
            .and_then(|number| usize::try_from(number).ok());
        match member.name.as_ref() {
            "index" => index = number,
            "size" => size = number,
            "path" => path = read_path(member.value.raw()),
            _ => return Err(SignatureError::Batch.into()),
        }
        Ok::<(), DecodeError>(())
    })?;
    match (index, size, path) {
        (Some(index), Some(size), Some(path))
            if (2..=MAX_FLIGHT).contains(&size)
                && index < size
                && path.len() == merkle::path_len(index, size) =>
        {
            Ok((index, size, path))
        }
        _ => Err(SignatureError::Batch.into()),
    }
}

/// Reads a canonical array of 64-digit strings.
fn read_path(text: &[u8]) -> Option<Vec<Node>> {
    let inner = text.strip_prefix(b"[")?.strip_suffix(b"]")?;
    inner
        .split(|&byte| byte == b',')
        .map(|item| hex::decode(item.strip_prefix(b"\"")?.strip_suffix(b"\"")?))
        .collect()
}
