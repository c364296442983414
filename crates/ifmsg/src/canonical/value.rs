use std::{borrow::Cow, fmt, ops::Range};

use super::{scanner::Cursor, string::unescape};

/// A member of an object in canonical bytes.
#[derive(Debug, Clone)]
pub struct Member<'a> {
    /// Its name, unescaped.
    pub name: Cow<'a, str>,
    /// Its value.
    pub value: Value<'a>,
    /// Where the value stands in the input.
    pub span: Range<usize>,
}

/// What a [`Value`] is. Exhaustive: JSON has no others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the kinds of JSON")]
pub enum ValueKind {
    Null,
    Boolean,
    Number,
    String,
    Array,
    Object,
}

/// A value in canonical bytes that have been checked. Cheap to copy; nothing has been parsed yet.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    pub(super) kind: ValueKind,
    pub(super) raw: &'a str,
}

impl<'a> Value<'a> {
    /// What it is.
    pub const fn kind(self) -> ValueKind {
        self.kind
    }

    /// Its canonical bytes.
    pub const fn raw(self) -> &'a [u8] {
        self.raw.as_bytes()
    }

    /// Its canonical bytes, which are text.
    pub const fn raw_text(self) -> &'a str {
        self.raw
    }

    /// Whether it is `null`.
    pub fn is_null(self) -> bool {
        self.kind == ValueKind::Null
    }

    /// A boolean.
    pub fn as_bool(self) -> Option<bool> {
        (self.kind == ValueKind::Boolean).then_some(self.raw == "true")
    }

    /// A string, unescaped. Borrowed unless it holds an escape.
    pub fn as_str(self) -> Option<Cow<'a, str>> {
        if self.kind != ValueKind::String {
            return None;
        }
        unescape(self.raw.get(1..self.raw.len() - 1)?)
    }

    /// A number that is an integer within ±(2^53 - 1); `None` for any other.
    pub fn as_integer(self) -> Option<i64> {
        // Canonical bytes hold no other spelling of an integer, and no integer literal beyond 2^53 - 1.
        if self.kind == ValueKind::Number {
            self.raw.parse().ok()
        } else {
            None
        }
    }

    /// A number as a double, exactly.
    pub fn as_f64(self) -> Option<f64> {
        if self.kind == ValueKind::Number {
            self.raw.parse().ok()
        } else {
            None
        }
    }

    /// An object's members in canonical order.
    pub fn members(self) -> Option<Members<'a>> {
        (self.kind == ValueKind::Object).then(|| Members(Cursor::new(self.raw)))
    }

    /// An array's elements in order.
    pub fn elements(self) -> Option<Elements<'a>> {
        (self.kind == ValueKind::Array).then(|| Elements(Cursor::new(self.raw)))
    }
}

impl fmt::Debug for Value<'_> {
    /// The kind and the length: what a message says stays out of logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}({} bytes)", self.kind, self.raw.len())
    }
}

/// Iterates over an object's members: [`Value::members`].
#[derive(Debug, Clone)]
pub struct Members<'a>(Cursor<'a>);

impl<'a> Iterator for Members<'a> {
    type Item = (Cow<'a, str>, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.member()
    }
}

/// Iterates over an array's elements: [`Value::elements`].
#[derive(Debug, Clone)]
pub struct Elements<'a>(Cursor<'a>);

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.element()
    }
}
