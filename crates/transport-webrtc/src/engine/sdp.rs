//! The little that must be known about a session description, read strictly.
//!
//! A description comes from outside. Everything here refuses what it does not understand, before the library sees it.

use std::fmt;

use super::{EngineError, MAX_CANDIDATES};

/// Longer descriptions are refused unread. A data-only description with 64 candidates has about 8 KiB.
const MAX_SDP: usize = 32 * 1024;

/// SHA-256 over a DTLS certificate (RFC 8122, section 5).
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// Hashes a certificate in DER.
    pub(crate) fn of_certificate(der: &[u8]) -> Self {
        use sha2::Digest as _;
        Self(sha2::Sha256::digest(der).into())
    }

    /// Reads the value of an `a=fingerprint:sha-256` line: 32 pairs of hex digits, separated by colons.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 32];
        let mut pairs = text.split(':');
        for byte in &mut bytes {
            let pair = pairs.next()?;
            if pair.len() != 2 || !pair.bytes().all(|b| b.is_ascii_hexdigit()) {
                return None;
            }
            *byte = u8::from_str_radix(pair, 16).ok()?;
        }
        pairs.next().is_none().then_some(Self(bytes))
    }

    /// The 32 bytes.
    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Lowercase hex without separators, as our signed statements write it.
impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fingerprint({self})")
    }
}

/// A session description that passed: one data section, one certificate, one set of ICE credentials.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Description {
    /// The text, without what the library stumbles over (see [`Description::parse`]).
    pub(crate) sdp: String,
    /// The certificate that DTLS will enforce.
    pub(crate) fingerprint: Fingerprint,
    /// The ICE user fragment.
    pub(crate) ice_ufrag: String,
    /// The `a=mid` of the data section, empty when it has none.
    pub(crate) mid: String,
}

impl Description {
    /// Reads a description, ours or the peer's.
    ///
    /// Refused: more than 32 KiB, anything but exactly one `m=application` section, more than one certificate or set of
    /// credentials, no SHA-256 fingerprint, more than 64 candidates.
    ///
    /// Left out of the text: fingerprints with other hashes (the library refuses the handshake when it meets one, and
    /// aiortc sends three), candidates over TCP and with mDNS names (see [`usable_candidate`]).
    pub(crate) fn parse(sdp: &str) -> Result<Self, EngineError> {
        let refuse = |reason: &str| Err(EngineError::Description(reason.to_owned()));
        if sdp.len() > MAX_SDP {
            return refuse("it is longer than 32 KiB");
        }

        let mut text = String::with_capacity(sdp.len());
        let mut fingerprint = None;
        let mut ice_ufrag: Option<&str> = None;
        let mut mid = "";
        let mut sections = 0;
        let mut candidates = 0;
        for line in sdp.lines() {
            if let Some(section) = line.strip_prefix("m=") {
                sections += 1;
                if !section.starts_with("application ") {
                    return refuse("it has a section that is not for data channels");
                }
            } else if let Some(value) = line.strip_prefix("a=fingerprint:") {
                let Some((algorithm, value)) = value.split_once(' ') else {
                    return refuse("it has a malformed fingerprint");
                };
                if !algorithm.eq_ignore_ascii_case("sha-256") {
                    continue;
                }
                let Some(value) = Fingerprint::parse(value.trim()) else {
                    return refuse("it has a malformed fingerprint");
                };
                if *fingerprint.get_or_insert(value) != value {
                    return refuse("it names two certificates");
                }
            } else if let Some(value) = line.strip_prefix("a=ice-ufrag:") {
                if *ice_ufrag.get_or_insert(value) != value {
                    return refuse("it has two sets of ICE credentials");
                }
            } else if let Some(value) = line.strip_prefix("a=mid:") {
                mid = value;
            } else if let Some(value) = line.strip_prefix("a=candidate:") {
                candidates += 1;
                if candidates > MAX_CANDIDATES {
                    return refuse("it has more than 64 candidates");
                }
                if !usable_candidate(value) {
                    continue;
                }
            }
            text.push_str(line);
            text.push_str("\r\n");
        }

        if sections != 1 {
            return refuse("it does not have exactly one data section");
        }
        match (fingerprint, ice_ufrag) {
            (Some(fingerprint), Some(ice_ufrag)) => Ok(Self {
                fingerprint,
                ice_ufrag: ice_ufrag.to_owned(),
                mid: mid.to_owned(),
                sdp: text,
            }),
            (None, _) => refuse("it has no SHA-256 fingerprint"),
            (_, None) => refuse("it has no ICE credentials"),
        }
    }
}

/// Whether a candidate can help: over UDP, with an address. An mDNS name (`.local`) cannot be resolved without a
/// multicast socket for each connection; a browser that hides behind one still reaches *us*, and ICE then learns its
/// address from its own checks (a peer-reflexive candidate). Over TCP we neither listen nor dial.
pub(crate) fn usable_candidate(candidate: &str) -> bool {
    let candidate = candidate.strip_prefix("candidate:").unwrap_or(candidate);
    let mut fields = candidate.split_ascii_whitespace();
    let transport = fields.nth(2).unwrap_or_default();
    let address = fields.nth(1).unwrap_or_default();
    transport.eq_ignore_ascii_case("udp") && address.parse::<std::net::IpAddr>().is_ok()
}

/// Address and port of a candidate that is a relay.
pub(crate) fn relay_of(candidate: &str) -> Option<(String, u16)> {
    let fields: Vec<&str> = candidate.split_ascii_whitespace().collect();
    let [_, _, _, _, address, port, "typ", "relay", ..] = fields[..] else {
        return None;
    };
    Some((address.to_owned(), port.parse().ok()?))
}
#[test]
fn relays_are_told_from_other_candidates() {
    let relay = "candidate:1 1 udp 16777215 203.0.113.1 54769 typ relay raddr 10.0.2.3 rport 50719";
    assert_eq!(relay_of(relay), Some(("203.0.113.1".to_owned(), 54_769)));
    assert_eq!(relay_of(&relay.replace("typ relay", "typ srflx")), None);
    assert_eq!(relay_of("candidate:1 1 udp 1 203.0.113.1"), None);
}
