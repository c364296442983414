//! Telling what agents say to each other from what keeps their links in order.

use bytes::Bytes;
use ifmsg::{canonical::Limits, decode};

use crate::{
    router::{Parsed, RouterFrame},
    session::CONTROL,
};

/// No control message is longer: what a keepalive may say, its acknowledgements and its header.
const MOST: usize = 16 * 1024;

/// Whether a frame has nothing for an application in it: what routers ask each other, and what sessions say unasked or in answer.
/// For transports that close links which nobody uses: such frames do not count as use, neither sent nor received.
///
/// It is read and not verified. A peer can pass messages off as upkeep, or the other way round; that decides about the link to
/// that peer, and nothing else.
pub fn is_upkeep(frame: &Bytes) -> bool {
    match RouterFrame::parse(frame) {
        Parsed::Router(RouterFrame::Relay { frame, .. }) => is_control(&frame),
        Parsed::Router(_) => true,
        Parsed::Malformed => false,
        Parsed::Session => is_control(frame),
    }
}

fn is_control(frame: &Bytes) -> bool {
    let name = CONTROL.as_bytes();
    // Most frames are settled here, without being decoded.
    if frame.len() > MOST || !frame.windows(name.len()).any(|part| part == name) {
        return false;
    }
    let is_control = |header: &ifmsg::Header| {
        let act = header.performative.as_ref();
        act.is_some_and(|act| act.as_str() == CONTROL)
    };
    decode(frame, &Limits::default()).is_ok_and(|flight| flight.headers().all(is_control))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test ends where something is wrong")]
mod tests {
    use ifmsg::{
        AgentId, Draft, Identity, MessageId, Performative, Stamp, Timestamp, encode_binary, sign_flight,
    };
    use serde_json::json;

    use super::*;

    /// One flight of messages with these performatives.
    fn flight(acts: &[&str]) -> Bytes {
        let message = |(sequence, act): (usize, &&str)| {
            let draft = Draft::new("bob".try_into().unwrap(), json!({"about": CONTROL}));
            let stamp = Stamp {
                id: MessageId::of_numbers(1, sequence as u64 + 1),
                source: AgentId::new("alice").unwrap(),
                timestamp: Timestamp::from_unix_millis(0),
                epoch: 1,
                sequence: sequence as u64 + 1,
            };
            let draft = draft.performative(Performative::new(act).unwrap());
            draft.stamp(stamp, &Limits::default()).unwrap()
        };
        let messages = acts.iter().enumerate().map(message).collect();
        encode_binary(&sign_flight(&Identity::from_seed(&[1; 32]), messages).unwrap()).unwrap()
    }

    #[test]
    fn what_is_for_an_application_is_told_from_what_is_not() {
        let relayed = |frame: Bytes| {
            let (origin, destination) = (AgentId::new("alice").unwrap(), AgentId::new("bob").unwrap());
            let relay = RouterFrame::Relay {
                hops: 1,
                origin,
                destination,
                frame,
            };
            relay.encode()
        };
        let upkeep = [
            RouterFrame::Ping(1).encode(),
            RouterFrame::Pong(1).encode(),
            RouterFrame::Reach(Vec::new()).encode(),
            flight(&[CONTROL]),
            relayed(flight(&[CONTROL])),
        ];
        assert!(upkeep.iter().all(is_upkeep));
        let messages = [
            flight(&["inform"]),
            // An acknowledgement that rides along.
            flight(&["inform", CONTROL]),
            relayed(flight(&["inform"])),
            Bytes::from(CONTROL),
            Bytes::from_static(b"IFR1 and nonsense"),
            Bytes::new(),
        ];
        assert!(!messages.iter().any(is_upkeep));
    }
}
