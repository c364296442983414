//! What routers say to each other: frames that begin with `IFR1` and never reach a session.
//!
//! | byte 5 | what | then |
//! |---|---|---|
//! | 1 | ping | 8 bytes to be sent back by the same road |
//! | 2 | pong | the 8 bytes of the ping |
//! | 3 | relay | hops left: u8; origin and final destination: length u8 and name each; the frame |
//! | 4 | reach | number of names: u16; for each hops: u8, length u8, name |
//!
//! They are not signed. Whoever can forge them can also drop what he sees: he can make a road look better or worse than it
//! is, and so delay messages, but never forge, change or lose one. That is the session's to see to.

use bytes::{BufMut as _, Bytes, BytesMut};
use ifmsg::AgentId;

/// How such a frame begins. A frame of messages begins with `IFB1`, or with `{`.
const MAGIC: &[u8; 4] = b"IFR1";

/// Most names in one `reach`.
pub(super) const MOST_REACHED: usize = 1_024;

/// What a relayed frame adds at most.
pub(super) const RELAY_ROOM: usize = 4 + 1 + 1 + 2 * 129;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum RouterFrame {
    Ping(u64),
    Pong(u64),
    Relay {
        /// How many relays may still pass it on.
        hops: u8,
        origin: AgentId,
        destination: AgentId,
        frame: Bytes,
    },
    /// Whom the sender passes frames on to, and over how many relays in all, itself included.
    Reach(Vec<(AgentId, u8)>),
}

/// What a frame is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Parsed {
    /// The session's.
    Session,
    /// A router's.
    Router(RouterFrame),
    /// It begins like a router's, and is none.
    Malformed,
}

impl RouterFrame {
    pub(crate) fn parse(frame: &Bytes) -> Parsed {
        let Some(rest) = frame.strip_prefix(MAGIC) else {
            return Parsed::Session;
        };
        Reader(rest)
            .frame(frame)
            .map_or(Parsed::Malformed, Parsed::Router)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(16);
        out.put_slice(MAGIC);
        match self {
            Self::Ping(nonce) => {
                out.put_u8(1);
                out.put_u64(*nonce);
            }
            Self::Pong(nonce) => {
                out.put_u8(2);
                out.put_u64(*nonce);
            }
            Self::Relay {
                hops,
                origin,
                destination,
                frame,
            } => {
                out.put_u8(3);
                out.put_u8(*hops);
                put_name(&mut out, origin);
                put_name(&mut out, destination);
                out.put_slice(frame);
            }
            Self::Reach(names) => {
                out.put_u8(4);
                let count = names.len().min(MOST_REACHED);
                out.put_u16(u16::try_from(count).unwrap_or(0));
                for (name, hops) in &names[..count] {
                    out.put_u8(*hops);
                    put_name(&mut out, name);
                }
            }
        }
        out.freeze()
    }
}

/// An agent id has at most 128 bytes.
fn put_name(out: &mut BytesMut, name: &AgentId) {
    let bytes = name.as_str().as_bytes();
    out.put_u8(u8::try_from(bytes.len()).unwrap_or(0));
    out.put_slice(bytes);
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn frame(mut self, whole: &Bytes) -> Option<RouterFrame> {
        let frame = match self.u8()? {
            1 => RouterFrame::Ping(self.u64()?),
            2 => RouterFrame::Pong(self.u64()?),
            3 => {
                let hops = self.u8()?;
                let (origin, destination) = (self.name()?, self.name()?);
                let frame = whole.slice(whole.len() - self.0.len()..);
                self.0 = &[];
                RouterFrame::Relay {
                    hops,
                    origin,
                    destination,
                    frame,
                }
            }
            4 => {
                let count = usize::from(u16::from_be_bytes([self.u8()?, self.u8()?]));
                if count > MOST_REACHED {
                    return None;
                }
                // No more is set aside than what came can fill.
                let mut names = Vec::with_capacity(count.min(self.0.len() / 3));
                for _ in 0..count {
                    let hops = self.u8()?;
                    names.push((self.name()?, hops));
                }
                RouterFrame::Reach(names)
            }
            _ => return None,
        };
        self.0.is_empty().then_some(frame)
    }

    fn u8(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn u64(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*first))
    }

    fn name(&mut self) -> Option<AgentId> {
        let length = usize::from(self.u8()?);
        let (name, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        AgentId::new(std::str::from_utf8(name).ok()?).ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends where something is wrong")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = AgentId> {
        "[a-z0-9._:/@+-]{1,128}".prop_map(|name| AgentId::new(name).unwrap())
    }

    fn frame() -> impl Strategy<Value = RouterFrame> {
        prop_oneof![
            any::<u64>().prop_map(RouterFrame::Ping),
            any::<u64>().prop_map(RouterFrame::Pong),
            (any::<u8>(), name(), name(), any::<Vec<u8>>()).prop_map(|(hops, origin, destination, frame)| {
                RouterFrame::Relay {
                    hops,
                    origin,
                    destination,
                    frame: frame.into(),
                }
            }),
            proptest::collection::vec((name(), any::<u8>()), 0..20).prop_map(RouterFrame::Reach),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(frame in frame()) {
            prop_assert_eq!(RouterFrame::parse(&frame.encode()), Parsed::Router(frame));
        }

        #[test]
        fn garbage_is_no_frame_and_no_panic(bytes in any::<Vec<u8>>(), kind in 0_u8..6) {
            let mut framed = MAGIC.to_vec();
            framed.push(kind);
            framed.extend(&bytes);
            if let Parsed::Router(frame) = RouterFrame::parse(&framed.clone().into()) {
                prop_assert_eq!(frame.encode(), framed);
            }
            prop_assert_eq!(RouterFrame::parse(&[b"{", &bytes[..]].concat().into()), Parsed::Session);
        }

        #[test]
        fn a_cut_frame_is_malformed(frame in frame(), cut in 1_usize..9) {
            let bytes = frame.encode();
            let cut = bytes.slice(..(bytes.len() - cut.min(bytes.len() - 4)));
            // A relayed frame may be shorter, and says nothing about its own length.
            if !matches!(frame, RouterFrame::Relay { .. }) {
                prop_assert_eq!(RouterFrame::parse(&cut), Parsed::Malformed);
            }
        }
    }
}
