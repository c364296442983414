use std::borrow::Cow;

use super::{CanonicalError, CanonicalErrorKind as Kind};

/// Appends `text` as a canonical JSON string literal, quotes included.
pub fn write_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    write_escaped(out, text.as_bytes());
    out.push(b'"');
}

/// What [`write_string`] puts between the quotes. Says whether anything had to be escaped.
pub(super) fn write_escaped(out: &mut Vec<u8>, text: &[u8]) -> bool {
    let mut at = 0;
    loop {
        let end = plain_run(text, at);
        out.extend_from_slice(&text[at..end]);
        let Some(escape) = text.get(end).and_then(|&byte| escape(char::from(byte))) else {
            return at != 0;
        };
        out.extend_from_slice(escape.as_bytes());
        at = end + 1;
    }
}

/// The canonical escape of a character that has to be escaped: RFC 8785, section 3.2.2.2.
pub(super) fn escape(char: char) -> Option<&'static str> {
    match char {
        '"' => Some(r#"\""#),
        '\\' => Some(r"\\"),
        _ => CONTROLS.get(char as usize).copied(),
    }
}

#[rustfmt::skip]
const CONTROLS: [&str; 32] = [
    r"\u0000", r"\u0001", r"\u0002", r"\u0003", r"\u0004", r"\u0005", r"\u0006", r"\u0007",
    r"\b",     r"\t",     r"\n",     r"\u000b", r"\f",     r"\r",     r"\u000e", r"\u000f",
    r"\u0010", r"\u0011", r"\u0012", r"\u0013", r"\u0014", r"\u0015", r"\u0016", r"\u0017",
    r"\u0018", r"\u0019", r"\u001a", r"\u001b", r"\u001c", r"\u001d", r"\u001e", r"\u001f",
];

/// The character behind the escape that begins at `start` with a backslash, and where the escape ends.
pub(super) fn decode_escape(text: &[u8], start: usize) -> Result<(char, usize), CanonicalError> {
    let char = match text.get(start + 1) {
        Some(b'"') => '"',
        Some(b'\\') => '\\',
        Some(b'/') => '/',
        Some(b'b') => '\x08',
        Some(b't') => '\t',
        Some(b'n') => '\n',
        Some(b'f') => '\x0c',
        Some(b'r') => '\r',
        Some(b'u') => return decode_unicode_escape(text, start),
        Some(_) => return Err(Kind::InvalidEscape.at(start)),
        None => return Err(Kind::UnexpectedEnd.at(text.len())),
    };
    Ok((char, start + 2))
}

fn decode_unicode_escape(text: &[u8], start: usize) -> Result<(char, usize), CanonicalError> {
    let first = code_unit(text, start)?;
    if let Some(char) = char::from_u32(first) {
        return Ok((char, start + 6));
    }
    // Half of a pair: the other half has to follow at once, as an escape.
    let is_high = (0xd800..0xdc00).contains(&first);
    if is_high && text.get(start + 6..start + 8) == Some(br"\u") {
        let second = code_unit(text, start + 6)?;
        if (0xdc00..0xe000).contains(&second) {
            let code_point = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            if let Some(char) = char::from_u32(code_point) {
                return Ok((char, start + 12));
            }
        }
    }
    Err(Kind::LoneSurrogate.at(start))
}

/// The four hexadecimal digits of the `\uXXXX` that begins at `start`.
fn code_unit(text: &[u8], start: usize) -> Result<u32, CanonicalError> {
    let mut unit = 0;
    for at in start + 2..start + 6 {
        let &byte = text.get(at).ok_or(Kind::UnexpectedEnd.at(text.len()))?;
        let digit = char::from(byte)
            .to_digit(16)
            .ok_or(Kind::InvalidEscape.at(start))?;
        unit = unit << 4 | digit;
    }
    Ok(unit)
}

/// The text behind what stands between the quotes of a string literal, `None` if an escape is bad.
pub(super) fn unescape(raw: &str) -> Option<Cow<'_, str>> {
    let Some(first) = raw.find('\\') else {
        return Some(Cow::Borrowed(raw));
    };
    let mut text = String::with_capacity(raw.len());
    let (mut at, mut next) = (0, first);
    loop {
        text.push_str(&raw[at..next]);
        let (char, end) = decode_escape(raw.as_bytes(), next).ok()?;
        text.push(char);
        at = end;
        match raw[at..].find('\\') {
            Some(count) => next = at + count,
            None => break,
        }
    }
    text.push_str(&raw[at..]);
    Some(Cow::Owned(text))
}

/// Where the run of bytes ends that stand for themselves in a string: at a quote, a backslash, a control character, or at
/// the end of the text. Looks at eight bytes at a time.
pub(super) fn plain_run(text: &[u8], start: usize) -> usize {
    let (chunks, rest) = text[start..].as_chunks::<8>();
    let mut at = start;
    for chunk in chunks {
        let special = specials(u64::from_le_bytes(*chunk));
        if special != 0 {
            return at + special.trailing_zeros() as usize / 8;
        }
        at += 8;
    }
    for &byte in rest {
        if byte < 0x20 || byte == b'"' || byte == b'\\' {
            return at;
        }
        at += 1;
    }
    at
}

/// Sets the top bit of each byte that is special. A borrow may set it in bytes *above* a special one as well, so only the
/// lowest is to be believed.
const fn specials(word: u64) -> u64 {
    const ONES: u64 = u64::from_le_bytes([1; 8]);
    const TOPS: u64 = u64::from_le_bytes([0x80; 8]);
    const QUOTES: u64 = u64::from_le_bytes([b'"'; 8]);
    const BACKSLASHES: u64 = u64::from_le_bytes([b'\\'; 8]);
    const SPACES: u64 = u64::from_le_bytes([0x20; 8]);
    let (quote, backslash) = (word ^ QUOTES, word ^ BACKSLASHES);
    let control = word.wrapping_sub(SPACES) & !word;
    let quote = quote.wrapping_sub(ONES) & !quote;
    let backslash = backslash.wrapping_sub(ONES) & !backslash;
    (control | quote | backslash) & TOPS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_eight_byte_scan_stops_where_a_byte_scan_stops() {
        // Every byte at every place of a word, beside every neighbour that could confuse a borrow.
        for byte in 0..=255 {
            for place in 0..16 {
                for filler in [b'a', 0x20, 0x21, 0x23, b']', b'[', 0x7f, 0x80, 0xff] {
                    let mut text = [filler; 19];
                    text[place] = byte;
                    let expected = text
                        .iter()
                        .position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\')
                        .unwrap_or(text.len());
                    assert_eq!(plain_run(&text, 0), expected, "{text:?}");
                }
            }
        }
    }
}
