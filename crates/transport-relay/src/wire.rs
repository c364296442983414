//! What two agents say to each other through the relay: the bodies of relayed frames. Numbers are big endian.
//!
//! ```text
//! 0   1  kind       1 data, reliable lane   2 data, best-effort lane   3 hello
//!                   4 credit   5 goodbye   6 ping   7 pong
//! hello:
//! 1  ..  one JSON object
//! all others:
//! 1   8  tag        the first eight bytes of the nonce that the *addressee* chose for this link
//! 9  ..  data: a frame, or a chunk of one
//!        credit: u64, what the addressee may count as taken, since the link came up
//!        ping, pong: u64; a pong repeats its ping's
//! ```

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use ifmesh_signaling::RelayFrame;
use ifmesh_transport::Lane;
use ifmsg::AgentId;

/// What stands before the payload of a data frame.
pub(crate) const DATA_HEADER: usize = 9;

/// Names one life of a link to the side that chose it.
pub(crate) type Tag = [u8; 8];

/// A body, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Body {
    Hello(Bytes),
    Linked(Tag, Linked),
}

/// What is said over a link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Linked {
    Data(Lane, Bytes),
    Credit(u64),
    Goodbye,
    Ping(u64),
    Pong(u64),
}

impl Body {
    /// `None`: nothing of this protocol.
    pub(crate) fn decode(mut body: Bytes) -> Option<Self> {
        let kind = body.try_get_u8().ok()?;
        if kind == 3 {
            return Some(Self::Hello(body));
        }
        let mut tag = Tag::default();
        body.try_copy_to_slice(&mut tag).ok()?;
        let linked = match kind {
            1 => Linked::Data(Lane::Reliable, body),
            2 => Linked::Data(Lane::BestEffort, body),
            4..=7 => {
                let number = if kind == 5 { 0 } else { body.try_get_u64().ok()? };
                if body.has_remaining() {
                    return None;
                }
                match kind {
                    4 => Linked::Credit(number),
                    5 => Linked::Goodbye,
                    6 => Linked::Ping(number),
                    _ => Linked::Pong(number),
                }
            }
            _ => return None,
        };
        Some(Self::Linked(tag, linked))
    }

    /// The whole relayed frame, the relay's header included.
    pub(crate) fn encode(&self, to: &AgentId) -> Bytes {
        let len = match self {
            Self::Hello(hello) => 1 + hello.len(),
            Self::Linked(_, Linked::Data(_, payload)) => DATA_HEADER + payload.len(),
            Self::Linked(..) => DATA_HEADER + 8,
        };
        let mut frame = RelayFrame::start(to, len);
        match self {
            Self::Hello(hello) => {
                frame.put_u8(3);
                frame.put_slice(hello);
            }
            Self::Linked(tag, linked) => linked.put(&mut frame, *tag),
        }
        frame.freeze()
    }
}

impl Linked {
    fn put(&self, frame: &mut BytesMut, tag: Tag) {
        let kind = match self {
            Self::Data(Lane::Reliable, _) => 1,
            Self::Data(Lane::BestEffort, _) => 2,
            Self::Credit(_) => 4,
            Self::Goodbye => 5,
            Self::Ping(_) => 6,
            Self::Pong(_) => 7,
        };
        frame.put_u8(kind);
        frame.put_slice(&tag);
        match self {
            Self::Data(_, payload) => frame.put_slice(payload),
            Self::Credit(number) | Self::Ping(number) | Self::Pong(number) => frame.put_u64(*number),
            Self::Goodbye => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn no_bytes_panic_and_what_reads_is_written_the_same(kind in 0u8..9, rest in prop::collection::vec(any::<u8>(), 0..40)) {
            let bytes = Bytes::from([vec![kind], rest].concat());
            if let Some(body) = Body::decode(bytes.clone()) {
                let frame = RelayFrame::decode(&body.encode(&AgentId::new("bob").unwrap())).unwrap();
                prop_assert_eq!(frame.body, bytes);
            }
        }
    }

    fn bodies() -> Vec<Body> {
        let linked = |linked| Body::Linked(*b"tag-1234", linked);
        vec![
            Body::Hello(Bytes::from_static(b"{}")),
            linked(Linked::Data(Lane::Reliable, Bytes::from_static(b"frame"))),
            linked(Linked::Data(Lane::BestEffort, Bytes::new())),
            linked(Linked::Credit(u64::MAX)),
            linked(Linked::Goodbye),
            linked(Linked::Ping(1)),
            linked(Linked::Pong(2)),
        ]
    }

    #[test]
    fn what_is_written_reads_back() {
        let to = AgentId::new("bob").unwrap();
        for body in bodies() {
            let frame = RelayFrame::decode(&body.encode(&to)).unwrap();
            assert_eq!(frame.agent, to);
            assert_eq!(Body::decode(frame.body), Some(body));
        }
    }

    /// Fails if bytes that mean nothing are given a meaning.
    #[test]
    fn what_is_short_long_or_unknown_is_nothing() {
        let to = AgentId::new("bob").unwrap();
        for body in bodies() {
            let bytes = RelayFrame::decode(&body.encode(&to)).unwrap().body;
            let fixed = matches!(&body, Body::Linked(_, linked) if !matches!(linked, Linked::Data(..)));
            for len in 0..bytes.len() {
                let short = Body::decode(bytes.slice(..len));
                assert!(short.is_none() || (!fixed && short != Some(body.clone())));
            }
            if fixed {
                let mut long = bytes.to_vec();
                long.push(0);
                assert_eq!(Body::decode(long.into()), None);
            }
        }
        for kind in (0..=255u8).filter(|kind| !(1..=7).contains(kind)) {
            assert_eq!(Body::decode(vec![kind; 32].into()), None, "{kind}");
        }
    }
}
