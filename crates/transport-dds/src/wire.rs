//! The types of `idl/ifmesh.idl` as plain CDR: how they are written, how they are read, and the names of the topics.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use ifmsg::AgentId;
use rustdds::{Keyed, RepresentationIdentifier, no_key, with_key};
use sha2::{Digest as _, Sha256};

/// `ifmesh::Frame`.
pub(crate) const FRAME_TYPE: &str = "ifmesh::Frame";
/// `ifmesh::Presence`.
pub(crate) const PRESENCE_TYPE: &str = "ifmesh::Presence";
/// Where agents say that they are there.
pub(crate) const PRESENCE_TOPIC: &str = "ifmesh/presence";

/// Texts of statements are identifiers; nothing longer is read.
const MAX_TEXT: usize = 512;

/// The inbox topic of one life of an agent, for one lane.
pub(crate) fn inbox_topic(agent: &AgentId, life: u64, lane: &str) -> String {
    let plain: String = agent
        .as_str()
        .chars()
        .take(40)
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '_' })
        .collect();
    let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(agent.as_str()).into();
    format!("ifmesh/inbox/{plain}_{a:02x}{b:02x}{c:02x}{d:02x}/{life:016x}/{lane}")
}

/// The topic on which broadcasts of a profile travel.
pub(crate) fn bus_topic(profile: &str) -> String {
    format!("ifmesh/bus/{profile}")
}

/// What a [`Frame`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A frame, or a chunk of one.
    Data,
    /// A signed statement.
    Statement,
}

/// A sample of an inbox or a bus.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) source: Arc<str>,
    pub(crate) destination: Arc<str>,
    pub(crate) kind: Kind,
    pub(crate) link: u64,
    pub(crate) number: u64,
    pub(crate) payload: Bytes,
}

/// A sample of the presence topic. Nothing in it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Presence {
    pub(crate) agent: String,
    pub(crate) version: String,
    pub(crate) public_key: [u8; 32],
    pub(crate) epoch: u64,
    pub(crate) life: u64,
    pub(crate) participant: String,
    pub(crate) capabilities: String,
    pub(crate) max_frame: u32,
    pub(crate) signature: [u8; 64],
}

/// Presence on its way in. Its key is nothing, so that the library below keeps one instance, not one for each name that a
/// stranger thinks up.
#[derive(Debug, Clone)]
pub(crate) struct Heard(pub(crate) Presence);

impl Keyed for Heard {
    type K = ();

    fn key(&self) {}
}

impl Keyed for Presence {
    type K = String;

    fn key(&self) -> String {
        self.agent.clone()
    }
}

/// What cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a sample of this type")]
pub(crate) struct Malformed;

/// Writes and reads [`Frame`].
#[derive(Debug)]
pub(crate) struct FrameCdr;

/// Writes [`Presence`], reads [`Heard`].
#[derive(Debug)]
pub(crate) struct PresenceCdr;

impl Frame {
    fn write(&self) -> Bytes {
        let strings = self.source.len() + self.destination.len();
        let mut out = Writer::with_capacity(64 + strings + self.payload.len());
        out.string(&self.source);
        out.string(&self.destination);
        out.octet(match self.kind {
            Kind::Data => 0,
            Kind::Statement => 1,
        });
        out.u64(self.link);
        out.u64(self.number);
        out.u32(self.payload.len());
        out.0.put_slice(&self.payload);
        out.0.freeze()
    }

    fn read(bytes: &[u8], big: bool) -> Result<Self, Malformed> {
        let mut input = Reader { bytes, at: 0, big };
        let source = input.string()?.into();
        let destination = input.string()?.into();
        let kind = match input.octet()? {
            0 => Kind::Data,
            1 => Kind::Statement,
            _ => return Err(Malformed),
        };
        let link = input.u64()?;
        let number = input.u64()?;
        let len = input.u32()?;
        let payload = Bytes::copy_from_slice(input.take(len)?);
        Ok(Self {
            source,
            destination,
            kind,
            link,
            number,
            payload,
        })
    }
}

impl Presence {
    fn write(&self) -> Bytes {
        let mut out = Writer::with_capacity(512);
        out.string(&self.agent);
        out.string(&self.version);
        out.0.put_slice(&self.public_key);
        out.u64(self.epoch);
        out.u64(self.life);
        out.string(&self.participant);
        out.string(&self.capabilities);
        out.u32(self.max_frame as usize);
        out.0.put_slice(&self.signature);
        out.0.freeze()
    }

    fn read(bytes: &[u8], big: bool) -> Result<Self, Malformed> {
        let mut input = Reader { bytes, at: 0, big };
        let agent = input.string()?.to_owned();
        let version = input.string()?.to_owned();
        let public_key = input.take(32)?.try_into().map_err(|_| Malformed)?;
        let epoch = input.u64()?;
        let life = input.u64()?;
        let participant = input.string()?.to_owned();
        let capabilities = input.string()?.to_owned();
        let max_frame = u32::try_from(input.u32()?).map_err(|_| Malformed)?;
        let signature = input.take(64)?.try_into().map_err(|_| Malformed)?;
        Ok(Self {
            agent,
            version,
            public_key,
            epoch,
            life,
            participant,
            capabilities,
            max_frame,
            signature,
        })
    }
}

/// Plain CDR, little endian: each number at a multiple of its size, counted from the start.
struct Writer(BytesMut);

impl Writer {
    fn with_capacity(capacity: usize) -> Self {
        Self(BytesMut::with_capacity(capacity))
    }

    fn align(&mut self, to: usize) {
        let pad = self.0.len().next_multiple_of(to) - self.0.len();
        self.0.put_bytes(0, pad);
    }

    fn octet(&mut self, octet: u8) {
        self.0.put_u8(octet);
    }

    fn u32(&mut self, number: usize) {
        self.align(4);
        self.0.put_u32_le(u32::try_from(number).unwrap_or(u32::MAX));
    }

    fn u64(&mut self, number: u64) {
        self.align(8);
        self.0.put_u64_le(number);
    }

    fn string(&mut self, text: &str) {
        self.u32(text.len() + 1);
        self.0.put_slice(text.as_bytes());
        self.0.put_u8(0);
    }
}

struct Reader<'b> {
    bytes: &'b [u8],
    at: usize,
    big: bool,
}

impl<'b> Reader<'b> {
    fn take(&mut self, len: usize) -> Result<&'b [u8], Malformed> {
        let end = self.at.checked_add(len).ok_or(Malformed)?;
        let taken = self.bytes.get(self.at..end).ok_or(Malformed)?;
        self.at = end;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        self.at = self.at.next_multiple_of(N);
        self.take(N)?.try_into().map_err(|_| Malformed)
    }

    fn octet(&mut self) -> Result<u8, Malformed> {
        self.array().map(|[octet]| octet)
    }

    fn u32(&mut self) -> Result<usize, Malformed> {
        let bytes = self.array()?;
        let number = if self.big {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        };
        usize::try_from(number).map_err(|_| Malformed)
    }

    fn u64(&mut self) -> Result<u64, Malformed> {
        let bytes = self.array()?;
        Ok(if self.big {
            u64::from_be_bytes(bytes)
        } else {
            u64::from_le_bytes(bytes)
        })
    }

    fn string(&mut self) -> Result<&'b str, Malformed> {
        let len = self.u32()?;
        if len > MAX_TEXT {
            return Err(Malformed);
        }
        let (0, text) = self.take(len)?.split_last().ok_or(Malformed)? else {
            return Err(Malformed);
        };
        std::str::from_utf8(text).map_err(|_| Malformed)
    }
}

/// What plain CDR may be announced as. XCDR2 is not among it.
const ENCODINGS: &[RepresentationIdentifier] =
    &[RepresentationIdentifier::CDR_LE, RepresentationIdentifier::CDR_BE];

fn is_big(encoding: RepresentationIdentifier) -> bool {
    encoding == RepresentationIdentifier::CDR_BE
}

impl no_key::SerializerAdapter<Frame> for FrameCdr {
    type Error = Malformed;

    fn output_encoding() -> RepresentationIdentifier {
        RepresentationIdentifier::CDR_LE
    }

    fn to_bytes(value: &Frame) -> Result<Bytes, Malformed> {
        Ok(value.write())
    }
}

impl no_key::DeserializerAdapter<Frame> for FrameCdr {
    type Error = Malformed;
    type Decoded = Frame;

    fn supported_encodings() -> &'static [RepresentationIdentifier] {
        ENCODINGS
    }

    fn transform_decoded(decoded: Frame) -> Frame {
        decoded
    }
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct FrameDecoder;

impl no_key::Decode<'_, Frame> for FrameDecoder {
    type Error = Malformed;

    fn decode_bytes(self, bytes: &[u8], encoding: RepresentationIdentifier) -> Result<Frame, Malformed> {
        Frame::read(bytes, is_big(encoding))
    }
}

impl no_key::DefaultDecoder<Frame> for FrameCdr {
    type Decoder = FrameDecoder;
    const DECODER: FrameDecoder = FrameDecoder;
}

impl no_key::SerializerAdapter<Presence> for PresenceCdr {
    type Error = Malformed;

    fn output_encoding() -> RepresentationIdentifier {
        RepresentationIdentifier::CDR_LE
    }

    fn to_bytes(value: &Presence) -> Result<Bytes, Malformed> {
        Ok(value.write())
    }
}

impl with_key::SerializerAdapter<Presence> for PresenceCdr {
    fn key_to_bytes(key: &String) -> Result<Bytes, Malformed> {
        let mut out = Writer::with_capacity(key.len() + 5);
        out.string(key);
        Ok(out.0.freeze())
    }
}

impl no_key::DeserializerAdapter<Heard> for PresenceCdr {
    type Error = Malformed;
    type Decoded = Heard;

    fn supported_encodings() -> &'static [RepresentationIdentifier] {
        ENCODINGS
    }

    fn transform_decoded(decoded: Heard) -> Heard {
        decoded
    }
}

impl with_key::DeserializerAdapter<Heard> for PresenceCdr {
    type DecodedKey = ();

    fn transform_decoded_key((): ()) {}
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct PresenceDecoder;

impl no_key::Decode<'_, Heard> for PresenceDecoder {
    type Error = Malformed;

    fn decode_bytes(self, bytes: &[u8], encoding: RepresentationIdentifier) -> Result<Heard, Malformed> {
        Presence::read(bytes, is_big(encoding)).map(Heard)
    }
}

impl with_key::Decode<'_, Heard, ()> for PresenceDecoder {
    fn decode_key_bytes(self, _: &[u8], _: RepresentationIdentifier) -> Result<(), Malformed> {
        Ok(())
    }
}

impl no_key::DefaultDecoder<Heard> for PresenceCdr {
    type Decoder = PresenceDecoder;
    const DECODER: PresenceDecoder = PresenceDecoder;
}

impl with_key::DefaultDecoder<Heard> for PresenceCdr {
    type Decoder = PresenceDecoder;
    const DECODER: PresenceDecoder = PresenceDecoder;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame() -> Frame {
        Frame {
            source: "alice".into(),
            destination: "bob".into(),
            kind: Kind::Data,
            link: 0x0102_0304_0506_0708,
            number: 9,
            payload: Bytes::from_static(b"payload"),
        }
    }

    fn presence() -> Presence {
        Presence {
            agent: "alice".into(),
            version: "1".into(),
            public_key: [7; 32],
            epoch: 3,
            life: 4,
            participant: "p".into(),
            capabilities: "reliable".into(),
            max_frame: 65_536,
            signature: [9; 64],
        }
    }

    /// Falsified by a field that stands where CDR does not put it: offsets counted by hand.
    #[test]
    fn the_bytes_are_plain_cdr() {
        let bytes = frame().write();
        let mut expected = vec![6, 0, 0, 0];
        expected.extend(b"alice\0");
        expected.extend([0, 0]); // to 12
        expected.extend([4, 0, 0, 0]);
        expected.extend(b"bob\0"); // to 20
        expected.push(0); // kind
        expected.extend([0, 0, 0]); // to 24
        expected.extend(0x0102_0304_0506_0708u64.to_le_bytes());
        expected.extend(9u64.to_le_bytes());
        expected.extend([7, 0, 0, 0]);
        expected.extend(b"payload");
        assert_eq!(bytes, expected);
    }

    #[test]
    fn what_is_written_is_read() {
        assert_eq!(Frame::read(&frame().write(), false), Ok(frame()));
        assert_eq!(Presence::read(&presence().write(), false), Ok(presence()));
    }

    /// Falsified by a cut that is taken, or by a panic on noise.
    #[test]
    fn what_is_cut_or_noise_is_refused() {
        let (frame, presence) = (frame().write(), presence().write());
        for len in 0..frame.len() {
            assert_eq!(Frame::read(&frame[..len], false), Err(Malformed), "{len}");
        }
        for len in 0..presence.len() {
            assert_eq!(Presence::read(&presence[..len], false), Err(Malformed), "{len}");
        }
        for byte in 0..=255 {
            for len in 0..200 {
                let noise = vec![byte; len];
                for big in [false, true] {
                    let _ = (Frame::read(&noise, big), Presence::read(&noise, big));
                }
            }
        }
        assert_eq!(Frame::read(&[0xff; 64], false), Err(Malformed));
    }

    #[test]
    fn topics_of_different_agents_and_lives_differ() {
        let id = |text: &str| AgentId::new(text).unwrap();
        let topic = inbox_topic(&id("a/b.c"), 0xab, "reliable");
        assert!(topic.starts_with("ifmesh/inbox/a_b_c_"), "{topic}");
        assert!(topic.ends_with("/00000000000000ab/reliable"), "{topic}");
        assert_ne!(topic, inbox_topic(&id("a_b.c"), 0xab, "reliable"));
        assert_ne!(topic, inbox_topic(&id("a/b.c"), 0xac, "reliable"));
    }
}
