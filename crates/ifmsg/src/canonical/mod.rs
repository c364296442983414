//! Canonical JSON: RFC 8785 (JCS) under a strict I-JSON profile.
//!
//! Two programs that hold the same message must hash the same bytes. So every message has exactly one spelling, and this
//! module knows it in three directions:
//!
//! - [`canonicalise`] turns any strict I-JSON text into that spelling,
//! - [`check`] accepts exactly the bytes which `canonicalise` leaves unchanged, and [`scan_object`] does the same while it
//!   hands out the members of the outermost object. Neither builds a tree of values: this is the receive path,
//! - [`to_canonical`] writes anything that serde can serialise.
//!
//! ```
//! use ifmsg::canonical::{Limits, canonicalise, check};
//!
//! let limits = Limits::default();
//! let canonical = canonicalise(br#" { "b" : 1.0, "a" : "\u20ac" } "#, &limits)?;
//! assert_eq!(canonical, r#"{"a":"€","b":1}"#.as_bytes());
//! assert_eq!(check(&canonical, &limits), Ok(()));
//! # Ok::<(), ifmsg::canonical::CanonicalError>(())
//! ```
//!
//! # What is refused, and why
//!
//! A signature covers what both sides read out of the bytes. So what two readers might read differently is refused, never
//! repaired: duplicate member names (compared after unescaping), lone surrogates, invalid UTF-8, a byte order mark, raw
//! control characters, numbers that a reader would round away. [`Limits`] bounds everything else, before memory is taken.
//!
//! # Numbers
//!
//! RFC 8785, section 3.2.2.3 spells a number as ECMAScript does: the shortest decimal that reads back as the same double.
//! Around that, in this order:
//!
//! 1. An *integer literal* (an optional minus and digits, no fraction, no exponent) beyond ±(2^53 - 1) is
//!    [`IntegerTooLarge`](CanonicalErrorKind::IntegerTooLarge). Beyond it doubles skip integers, so the digits that were
//!    signed would not be the digits that are read (RFC 7493, section 2.2).
//! 2. Any other literal is read as the nearest double, and rounding there is no error: `333333333.33333329` is
//!    `333333333.3333333`, `1e-400` is `0`. One that overflows (`1e400`) is
//!    [`NumberOutOfRange`](CanonicalErrorKind::NumberOutOfRange).
//! 3. A double whose ECMAScript spelling is a plain run of digits beyond ±(2^53 - 1), such as `1e20`, is `IntegerTooLarge`
//!    as well: its canonical spelling would be a literal that rule 1 refuses, and canonical bytes must be readable again.
//!    Doubles from 1e21 up are spelled with an exponent, and are fine: `1E30` is `1e+30`.
//! 4. `-0` is `0`, `1.0` is `1`, `4.50` is `4.5`.
//!
//! # Strings
//!
//! RFC 8785, section 3.2.2.2: escaped are `"`, `\` and U+0000 to U+001F only, as `\b \t \n \f \r \" \\` where such a form
//! exists, else as `\u00xx` in lower case. All else is literal, U+007F and `/` included. Unicode noncharacters (U+FFFE) pass:
//! RFC 7493 would have them refused, but every reader agrees on what they are, and Unicode itself took that advice back
//! (Corrigendum 9). Nothing is normalised.
//!
//! # Order
//!
//! RFC 8785, section 3.2.3: members are sorted by the UTF-16 code units of their unescaped names. That is the order of the UTF-8
//! bytes, but for one case: U+E000 to U+FFFF come after everything beyond U+FFFF.

mod error;
mod number;
mod order;
mod rewriter;
mod scanner;
mod serialise;
mod string;
mod value;
mod writer;

pub use error::{CanonicalError, CanonicalErrorKind};
pub use number::write_number;
pub(crate) use serialise::ObjectDocument;
pub use string::write_string;
pub use value::{Elements, Member, Members, Value, ValueKind};

use rewriter::Rewriter;
use scanner::Scanner;
use serde::Serialize;
use serialise::Serialiser;
use writer::Writer;

/// Bounds on one document. They hold for what goes in and for what comes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Longest document in bytes.
    pub max_bytes: usize,
    /// Deepest nesting of arrays and objects: `[]` is one deep. Counts as [`Limits::DEEPEST`] at most.
    pub max_depth: u16,
    /// Most members in any one object.
    pub max_members: u32,
    /// Most values in the document: every scalar, array and object is one, names are not.
    pub max_values: u32,
}

impl Limits {
    /// No document nests deeper than this, whatever `max_depth` says: depth is paid for in stack.
    pub const DEEPEST: u16 = 256;

    /// For what was scanned before, under limits that held.
    pub(crate) const SCANNED: Self = Self {
        max_bytes: usize::MAX,
        max_depth: Self::DEEPEST,
        max_members: u32::MAX,
        max_values: u32::MAX,
    };

    /// `max_depth`, held to what the stack is good for.
    const fn depth(&self) -> u16 {
        if self.max_depth < Self::DEEPEST {
            self.max_depth
        } else {
            Self::DEEPEST
        }
    }
}

impl Default for Limits {
    /// Depth 32, 4,096 members, 65,536 values; 16 MiB for a payload, and 64 KiB for the envelope around it.
    fn default() -> Self {
        Self {
            max_bytes: (16 << 20) + (64 << 10),
            max_depth: 32,
            max_members: 4_096,
            max_values: 65_536,
        }
    }
}

/// Canonical bytes of any strict I-JSON text: whitespace, members in any order and any escapes are allowed in it.
///
/// What comes out is accepted by [`check`] under the same limits, and canonicalises to itself.
///
/// # Errors
/// The input's writer is at fault, always, and trying again does not help. The offset counts bytes of `input`.
pub fn canonicalise(input: &[u8], limits: &Limits) -> Result<Vec<u8>, CanonicalError> {
    let text = open(input, limits)?;
    let mut writer = Writer::new(limits, text.len());
    Rewriter::new(text, &mut writer).document(limits.depth())?;
    writer.finish()
}

/// Accepts exactly those bytes that [`canonicalise`] leaves unchanged under the same limits.
///
/// One pass, and no allocation.
///
/// # Errors
/// The input's writer is at fault. Where [`CanonicalError::is_spelling`] holds, `canonicalise` may still take the input.
pub fn check(input: &[u8], limits: &Limits) -> Result<(), CanonicalError> {
    Scanner::new(open(input, limits)?, limits).document()
}

/// [`check`], which also hands each member of the outermost object to `visit`, in canonical order, as it passes.
///
/// Each value has been checked when it is handed over, but **what follows it has not**: nothing that was visited counts
/// before this function has returned `Ok`. `visit` ends the scan with an error of its own. Allocates for names
/// that hold escapes only.
///
/// ```
/// use ifmsg::canonical::{CanonicalError, Limits, scan_object};
///
/// let mut sum = 0;
/// scan_object::<CanonicalError>(br#"{"a":1,"b":2}"#, &Limits::default(), |member| {
///     sum += member.value.as_integer().unwrap_or(0);
///     Ok(())
/// })?;
/// assert_eq!(sum, 3);
/// # Ok::<(), CanonicalError>(())
/// ```
///
/// # Errors
/// As [`check`]; [`NotAnObject`](CanonicalErrorKind::NotAnObject); whatever `visit` returns.
pub fn scan_object<'a, E: From<CanonicalError>>(
    input: &'a [u8],
    limits: &Limits,
    visit: impl FnMut(Member<'a>) -> Result<(), E>,
) -> Result<(), E> {
    Scanner::new(open(input, limits)?, limits).object_document(visit)
}

/// Canonical bytes of anything that serde can serialise, as `serde_json` would spell it.
///
/// Stricter than `serde_json`: NaN and infinities are refused (it writes `null`), so are members that come twice and
/// integers beyond ±(2^53 - 1). An `f32` is written as the double of the same value.
///
/// # Errors
/// The value is at fault, or its `Serialize` refuses. The offset counts bytes of output written so far.
pub fn to_canonical<T: Serialize + ?Sized>(value: &T, limits: &Limits) -> Result<Vec<u8>, CanonicalError> {
    let mut writer = Writer::new(limits, 0);
    value.serialize(Serialiser::new(&mut writer, limits.depth()))?;
    writer.finish()
}

/// The input as text, if it is short enough to be looked at, UTF-8, and begins with no byte order mark.
fn open<'a>(input: &'a [u8], limits: &Limits) -> Result<&'a str, CanonicalError> {
    if input.len() > limits.max_bytes {
        return Err(CanonicalErrorKind::TooLarge.at(limits.max_bytes));
    }
    // RFC 8259, section 8.1: "Implementations MUST NOT add a byte order mark (U+FEFF) to the beginning".
    if input.starts_with(b"\xef\xbb\xbf") {
        return Err(CanonicalErrorKind::ByteOrderMark.at(0));
    }
    std::str::from_utf8(input).map_err(|error| CanonicalErrorKind::InvalidUtf8.at(error.valid_up_to()))
}
