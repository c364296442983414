//! Lowercase hexadecimal, the only spelling the wire knows.

const DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Writes `bytes` as lowercase hexadecimal.
pub fn encode(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        out.push(char::from(DIGITS[usize::from(byte >> 4)]));
        out.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    out
}

/// Reads exactly `N` bytes of lowercase hexadecimal; `None` for any other length or character.
pub fn decode<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    if text.len() != N * 2 {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(out)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// A fixed-size byte string that is shown and read as lowercase hexadecimal.
macro_rules! hex_newtype {
    ($(#[$doc:meta])* $name:ident, $len:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Wraps the raw bytes.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The raw bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// Reads lowercase hexadecimal of exactly this length; `None` for anything else.
            pub fn from_hex(text: &str) -> Option<Self> {
                $crate::hex::decode(text.as_bytes()).map(Self)
            }

            /// Lowercase hexadecimal.
            pub fn to_hex(&self) -> String {
                $crate::hex::encode(&self.0)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.to_hex())
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.to_hex())
            }
        }
    };
}
pub(crate) use hex_newtype;

#[cfg(test)]
mod tests {
    #[test]
    fn uppercase_and_wrong_lengths_are_refused() {
        assert_eq!(super::decode::<2>(b"00ff"), Some([0, 255]));
        for bad in [&b"00FF"[..], b"00f", b"00ff0", b"0x0f", b"00f "] {
            assert_eq!(super::decode::<2>(bad), None, "{bad:?}");
        }
    }
}
