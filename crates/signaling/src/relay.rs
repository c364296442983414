//! Relayed frames: what a socket of the role `relay` sends and gets as binary WebSocket frames.
//!
//! ```text
//! 0      1  1, the version
//! 1      1  n, 1 to 128
//! 2      n  an agent id: from a client the addressee, from the server the author
//! 2+n    .. the body, which the server does not look at
//! ```

use bytes::{BufMut as _, Bytes, BytesMut};
use ifmsg::AgentId;

const VERSION: u8 = 1;

/// What a frame counts for in [`RelayTerms::pair_bytes`](crate::RelayTerms::pair_bytes), in addition to its bytes: it bounds
/// the number of frames that wait.
pub const RELAY_FRAME_COST: usize = 64;

/// A relayed frame: one agent's name, and what goes to it or came from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RelayFrame {
    /// The addressee towards the server, the author from it. The latter is what the *server* says.
    pub agent: AgentId,
    /// What the agents say to each other.
    pub body: Bytes,
}

impl RelayFrame {
    /// The bytes of a binary WebSocket frame.
    pub fn encode(&self) -> Bytes {
        encode(&self.agent, &self.body)
    }

    /// The header alone, with room for a body of `len` bytes: for bodies that are put together in place.
    pub fn start(agent: &AgentId, len: usize) -> BytesMut {
        let name = agent.as_str().as_bytes();
        let mut frame = BytesMut::with_capacity(2 + name.len() + len);
        frame.put_u8(VERSION);
        // An id has at most 128 bytes.
        frame.put_u8(u8::try_from(name.len()).unwrap_or(u8::MAX));
        frame.put_slice(name);
        frame
    }

    /// Reads a binary frame; `None`: it is none of this protocol. The body is not copied.
    pub fn decode(frame: &Bytes) -> Option<Self> {
        let (&[version, len], rest) = frame.split_first_chunk()?;
        let len = usize::from(len);
        if version != VERSION || rest.len() < len {
            return None;
        }
        let agent = std::str::from_utf8(&rest[..len]).ok()?;
        Some(Self {
            agent: AgentId::new(agent).ok()?,
            body: frame.slice(2 + len..),
        })
    }

    /// How many bytes stand before the body of a frame that names `agent`.
    pub fn header_len(agent: &AgentId) -> usize {
        2 + agent.as_str().len()
    }
}

/// [`RelayFrame::encode`] from parts.
pub(crate) fn encode(agent: &AgentId, body: &[u8]) -> Bytes {
    let mut frame = RelayFrame::start(agent, body.len());
    frame.put_slice(body);
    frame.freeze()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_frame_reads_back_and_nothing_shorter_or_other_does() {
        let frame = RelayFrame {
            agent: AgentId::new("a".repeat(128)).unwrap(),
            body: Bytes::from_static(b"body"),
        };
        let bytes = frame.encode();
        assert_eq!(bytes.len(), RelayFrame::header_len(&frame.agent) + 4);
        assert_eq!(RelayFrame::decode(&bytes), Some(frame));
        for len in 0..130 {
            assert_eq!(RelayFrame::decode(&bytes.slice(..len)), None, "{len}");
        }
        for bad in [
            &b"\x02\x01a"[..],
            b"\x01\x00",
            b"\x01\x01*",
            b"\x01\x01\xff",
            b"\x01\x02a",
        ] {
            assert_eq!(RelayFrame::decode(&Bytes::copy_from_slice(bad)), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_what_reads_is_written_the_same(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let bytes = Bytes::from(bytes);
            if let Some(frame) = RelayFrame::decode(&bytes) {
                prop_assert_eq!(frame.encode(), bytes);
            }
        }
    }
}
