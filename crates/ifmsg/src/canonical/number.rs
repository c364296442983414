use super::{CanonicalError, CanonicalErrorKind as Kind};

/// 2^53 - 1: up to here every integer is a double of its own.
pub(super) const MAX_SAFE_INTEGER: u64 = (1 << 53) - 1;
const MAX_SAFE_DIGITS: &[u8] = b"9007199254740991";

/// Appends the ECMAScript `Number::toString` form of `value` (RFC 8785, section 3.2.2.3).
///
/// Writes every finite double, those too whose spelling a document may not hold: see the number rules in the
/// [module documentation](super).
///
/// # Errors
/// [`NumberOutOfRange`](Kind::NumberOutOfRange) for NaN and infinities; the offset is `out`'s length. Nothing is appended then.
pub fn write_number(out: &mut Vec<u8>, value: f64) -> Result<(), CanonicalError> {
    // RFC 8785, section 3.2.2.3: "occurrences of NaN or Infinity in JSON data [...] MUST cause a compliant JCS implementation
    // to terminate with an appropriate error."
    if !value.is_finite() {
        return Err(Kind::NumberOutOfRange.at(out.len()));
    }
    out.extend_from_slice(ryu_js::Buffer::new().format_finite(value).as_bytes());
    Ok(())
}

/// A literal that obeys the grammar of RFC 8259, section 6.
pub(super) struct Literal<'a> {
    text: &'a str,
    /// Neither fraction nor exponent.
    integer: bool,
}

impl<'a> Literal<'a> {
    /// Reads the literal that begins at `start`.
    pub(super) fn read(text: &'a str, start: usize) -> Result<Self, CanonicalError> {
        let bytes = text.as_bytes();
        let mut at = start;
        if bytes.get(at) == Some(&b'-') {
            at += 1;
        }
        // "Leading zeros are not allowed."
        at = if bytes.get(at) == Some(&b'0') {
            at + 1
        } else {
            digits(bytes, at)?
        };
        let integer_end = at;
        if bytes.get(at) == Some(&b'.') {
            at = digits(bytes, at + 1)?;
        }
        if let Some(b'e' | b'E') = bytes.get(at) {
            at += 1;
            if let Some(b'+' | b'-') = bytes.get(at) {
                at += 1;
            }
            at = digits(bytes, at)?;
        }
        Ok(Self {
            text: &text[start..at],
            integer: at == integer_end,
        })
    }

    pub(super) fn len(&self) -> usize {
        self.text.len()
    }

    pub(super) fn text(&self) -> &'a str {
        self.text
    }

    /// The literal's canonical spelling; the number rules of the module documentation in code.
    pub(super) fn canonical<'b>(&self, buffer: &'b mut ryu_js::Buffer) -> Result<&'b str, Kind>
    where
        'a: 'b,
    {
        if self.integer {
            let digits = self.text.strip_prefix('-').unwrap_or(self.text).as_bytes();
            return match digits {
                b"0" => Ok("0"),
                _ if digits.len() < MAX_SAFE_DIGITS.len() => Ok(self.text),
                _ if digits.len() == MAX_SAFE_DIGITS.len() && digits <= MAX_SAFE_DIGITS => Ok(self.text),
                _ => Err(Kind::IntegerTooLarge),
            };
        }
        let value = self.text.parse::<f64>().map_err(|_| Kind::NumberOutOfRange)?;
        check_range(value)?;
        Ok(buffer.format_finite(value))
    }
}

/// Whether a document may hold this double: see the number rules in the module documentation.
pub(super) fn check_range(value: f64) -> Result<(), Kind> {
    if !value.is_finite() {
        return Err(Kind::NumberOutOfRange);
    }
    // From 2^53 up every double is an integer; from 1e21 up ECMAScript writes an exponent.
    if value.abs() > MAX_SAFE_INTEGER as f64 && value.abs() < 1e21 {
        return Err(Kind::IntegerTooLarge);
    }
    Ok(())
}

/// One digit or more: where they end.
fn digits(bytes: &[u8], start: usize) -> Result<usize, CanonicalError> {
    let end = bytes[start..]
        .iter()
        .position(|byte| !byte.is_ascii_digit())
        .map_or(bytes.len(), |count| start + count);
    match bytes.get(end) {
        _ if end > start => Ok(end),
        Some(_) => Err(Kind::UnexpectedByte.at(end)),
        None => Err(Kind::UnexpectedEnd.at(end)),
    }
}
