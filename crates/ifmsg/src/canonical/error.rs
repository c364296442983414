use std::fmt;

/// Why bytes or values have no canonical form, or are not in it.
///
/// Holds a place and a reason, and nothing of the document: it is safe to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
#[error("{kind} (at byte {offset})")]
pub struct CanonicalError {
    /// What is wrong.
    pub kind: CanonicalErrorKind,
    /// Where: bytes before the place in the input, or, while serialising, bytes written so far.
    pub offset: usize,
}

impl CanonicalError {
    /// Whether [`check`](super::check) found JSON that is merely not spelled canonically, up to here.
    ///
    /// If so, [`canonicalise`](super::canonicalise) may take the input; if not, it refuses it as well.
    pub const fn is_spelling(&self) -> bool {
        use CanonicalErrorKind as Kind;
        matches!(
            self.kind,
            Kind::Whitespace | Kind::NotSorted | Kind::EscapeNotCanonical | Kind::NumberNotCanonical
        )
    }
}

impl serde::ser::Error for CanonicalError {
    /// Drops the text: it may quote the value.
    fn custom<T: fmt::Display>(_: T) -> Self {
        CanonicalErrorKind::NotSerialisable.at(0)
    }
}

/// The reasons of a [`CanonicalError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum CanonicalErrorKind {
    /// Not JSON: no value, name, separator or digit begins or goes on with this byte. The offset is that of the byte.
    #[error("not JSON: unexpected byte")]
    UnexpectedByte,
    /// Not JSON: the document ends too early.
    #[error("not JSON: the document ends in the middle")]
    UnexpectedEnd,
    /// Something other than whitespace follows the document.
    #[error("something follows the document")]
    TrailingBytes,
    /// A backslash begins no escape of JSON. The offset is that of the backslash.
    #[error("not JSON: no such escape")]
    InvalidEscape,
    /// A control character (U+0000 to U+001F) stands in a string: it must be escaped.
    #[error("raw control character in a string: escape it")]
    ControlCharacter,
    /// `\ud800` to `\udfff` without its other half. The offset is that of the backslash.
    #[error("lone surrogate: it stands for no character")]
    LoneSurrogate,
    /// Not UTF-8. The offset is that of the first bad sequence.
    #[error("not UTF-8")]
    InvalidUtf8,
    /// The document begins with U+FEFF.
    #[error("byte order mark: remove it")]
    ByteOrderMark,
    /// Two members of one object have the same name after unescaping. The offset is that of the later name.
    #[error("two members of an object have the same name")]
    DuplicateMember,
    /// The number is beyond the largest double, or (while serialising) not a number.
    #[error("number beyond the range of a double: send it as a string")]
    NumberOutOfRange,
    /// The number is, or would be spelled as, an integer beyond ±(2^53 - 1).
    #[error("integer beyond 2^53 - 1: send it as a string")]
    IntegerTooLarge,
    /// [`scan_object`](super::scan_object): the document is not an object.
    #[error("not a JSON object")]
    NotAnObject,

    /// Longer than [`Limits::max_bytes`](super::Limits::max_bytes).
    #[error("document too long")]
    TooLarge,
    /// Nested deeper than [`Limits::max_depth`](super::Limits::max_depth). The offset is that of the opening bracket.
    #[error("arrays and objects nested too deep")]
    TooDeep,
    /// An object has more members than [`Limits::max_members`](super::Limits::max_members).
    #[error("too many members in an object")]
    TooManyMembers,
    /// The document has more values than [`Limits::max_values`](super::Limits::max_values).
    #[error("too many values in the document")]
    TooManyValues,

    /// Only [`check`](super::check): there is whitespace between tokens.
    #[error("not canonical: whitespace between tokens")]
    Whitespace,
    /// Only [`check`](super::check): a name comes after a greater one. The offset is that of the name.
    #[error("not canonical: members out of order")]
    NotSorted,
    /// Only [`check`](super::check): another spelling of this escape is the canonical one. The offset is that of the backslash.
    #[error("not canonical: escape in another spelling")]
    EscapeNotCanonical,
    /// Only [`check`](super::check): another spelling of this number is the canonical one. The offset is that of its first byte.
    #[error("not canonical: number in another spelling")]
    NumberNotCanonical,

    /// Only [`to_canonical`](super::to_canonical): the value's `Serialize` refused, or a map's key is no string.
    #[error("the value cannot be written as JSON")]
    NotSerialisable,
}

impl CanonicalErrorKind {
    pub(super) const fn at(self, offset: usize) -> CanonicalError {
        CanonicalError { kind: self, offset }
    }
}
