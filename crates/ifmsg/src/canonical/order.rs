use std::cmp::Ordering;

use super::string::decode_escape;

/// A member's name as it stands between its quotes in canonical bytes.
#[derive(Clone, Copy)]
pub(super) struct Name<'a> {
    pub(super) raw: &'a [u8],
    /// Whether `raw` holds any escape.
    pub(super) escaped: bool,
}

impl Name<'_> {
    /// RFC 8785, section 3.2.3: "pure comparison of their UTF-16 code units [...] in the unescaped form".
    pub(super) fn cmp(self, other: Self) -> Ordering {
        if self.escaped || other.escaped {
            return unescaped(self.raw)
                .map(weight)
                .cmp(unescaped(other.raw).map(weight));
        }
        for (&ours, &theirs) in self.raw.iter().zip(other.raw) {
            if ours != theirs {
                return weight(ours).cmp(&weight(theirs));
            }
        }
        self.raw.len().cmp(&other.raw.len())
    }
}

/// Makes the order of UTF-8 bytes the order of UTF-16 code units.
///
/// The two differ where U+E000 to U+FFFF (first byte EE or EF) meets something beyond U+FFFF (first byte F0 to F4): in
/// UTF-16 the latter begins with a surrogate, D800 to DBFF, and is the lesser. No other byte of UTF-8 is EE or EF, or greater
/// than F4.
const fn weight(byte: u8) -> u8 {
    match byte {
        0xee | 0xef => byte + 0x10,
        _ => byte,
    }
}

/// The UTF-8 bytes of a name with its escapes taken out; in canonical bytes each escape stands for one byte.
fn unescaped(raw: &[u8]) -> impl Iterator<Item = u8> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let &byte = raw.get(at)?;
        if let (b'\\', Ok((char, next))) = (byte, decode_escape(raw, at)) {
            at = next;
            return Some(char as u8);
        }
        at += 1;
        Some(byte)
    })
}
