//! Reads canonical bytes and refuses all others.

use std::{borrow::Cow, cmp::Ordering, ops::Range};

use super::{
    CanonicalError, CanonicalErrorKind as Kind, Limits, Member, Value, ValueKind,
    number::Literal,
    order::Name,
    string::{decode_escape, escape, plain_run, unescape},
};

pub(super) struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth: u16,
    max_members: u32,
    values_left: u32,
}

impl<'a> Scanner<'a> {
    pub(super) fn new(text: &'a str, limits: &Limits) -> Self {
        Self {
            text,
            at: 0,
            depth: limits.depth(),
            max_members: limits.max_members,
            values_left: limits.max_values,
        }
    }

    /// One value and nothing after it.
    pub(super) fn document(mut self) -> Result<(), CanonicalError> {
        self.value(self.depth)?;
        self.end()
    }

    /// One object and nothing after it.
    pub(super) fn object_document<E: From<CanonicalError>>(
        mut self,
        mut visit: impl FnMut(Member<'a>) -> Result<(), E>,
    ) -> Result<(), E> {
        match self.peek() {
            Some(b'{') => {}
            Some(b'"' | b'-' | b'0'..=b'9' | b'[' | b't' | b'f' | b'n') => {
                return Err(Kind::NotAnObject.at(0).into());
            }
            _ => return Err(self.unexpected().into()),
        }
        self.count_value()?;
        let text = self.text;
        self.object(self.depth, |name, kind, span| {
            visit(Member {
                name: name.unescaped(text),
                value: Value {
                    kind,
                    raw: &text[span.clone()],
                },
                span,
            })
        })?;
        Ok(self.end()?)
    }

    fn value(&mut self, depth: u16) -> Result<ValueKind, CanonicalError> {
        let Some(first) = self.peek() else {
            return Err(self.unexpected());
        };
        match first {
            b'"' => {
                self.count_value()?;
                self.string()?;
                Ok(ValueKind::String)
            }
            b'-' | b'0'..=b'9' => {
                self.count_value()?;
                self.number()?;
                Ok(ValueKind::Number)
            }
            b'{' => {
                self.count_value()?;
                self.object(depth, |_, _, _| Ok::<(), CanonicalError>(()))?;
                Ok(ValueKind::Object)
            }
            b'[' => {
                self.count_value()?;
                self.array(depth)?;
                Ok(ValueKind::Array)
            }
            b't' => self.literal("true", ValueKind::Boolean),
            b'f' => self.literal("false", ValueKind::Boolean),
            b'n' => self.literal("null", ValueKind::Null),
            _ => Err(self.unexpected()),
        }
    }

    fn object<E: From<CanonicalError>>(
        &mut self,
        depth: u16,
        mut visit: impl FnMut(Quoted, ValueKind, Range<usize>) -> Result<(), E>,
    ) -> Result<(), E> {
        let Some(inner) = depth.checked_sub(1) else {
            return Err(Kind::TooDeep.at(self.at).into());
        };
        self.at += 1;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        let mut former: Option<Quoted> = None;
        for count in 0.. {
            let start = self.at;
            if self.peek() != Some(b'"') {
                return Err(self.unexpected().into());
            }
            if count == self.max_members {
                return Err(Kind::TooManyMembers.at(start).into());
            }
            let name = self.string()?;
            if let Some(former) = former {
                match former.name(self.text).cmp(name.name(self.text)) {
                    Ordering::Less => {}
                    Ordering::Equal => return Err(Kind::DuplicateMember.at(start).into()),
                    Ordering::Greater => return Err(Kind::NotSorted.at(start).into()),
                }
            }
            former = Some(name);
            self.expect(b':')?;
            let start = self.at;
            let kind = self.value(inner)?;
            visit(name, kind, start..self.at)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.unexpected().into()),
            }
        }
        self.at += 1;
        Ok(())
    }

    fn array(&mut self, depth: u16) -> Result<(), CanonicalError> {
        let inner = depth.checked_sub(1).ok_or(Kind::TooDeep.at(self.at))?;
        self.at += 1;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.value(inner)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.unexpected()),
            }
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<Quoted, CanonicalError> {
        let bytes = self.text.as_bytes();
        let start = self.at + 1;
        let mut escaped = false;
        let mut at = start;
        loop {
            at = plain_run(bytes, at);
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    let (char, next) = decode_escape(bytes, at)?;
                    if escape(char).map(str::as_bytes) != Some(&bytes[at..next]) {
                        return Err(Kind::EscapeNotCanonical.at(at));
                    }
                    escaped = true;
                    at = next;
                }
                Some(_) => return Err(Kind::ControlCharacter.at(at)),
                None => return Err(Kind::UnexpectedEnd.at(at)),
            }
        }
        self.at = at + 1;
        Ok(Quoted {
            start,
            end: at,
            escaped,
        })
    }

    fn number(&mut self) -> Result<(), CanonicalError> {
        let literal = Literal::read(self.text, self.at)?;
        match literal.canonical(&mut ryu_js::Buffer::new()) {
            Ok(canonical) if canonical == literal.text() => {
                self.at += literal.len();
                Ok(())
            }
            Ok(_) => Err(Kind::NumberNotCanonical.at(self.at)),
            Err(kind) => Err(kind.at(self.at)),
        }
    }

    fn literal(&mut self, word: &str, kind: ValueKind) -> Result<ValueKind, CanonicalError> {
        self.count_value()?;
        self.at = read_word(self.text, self.at, word)?;
        Ok(kind)
    }

    fn count_value(&mut self) -> Result<(), CanonicalError> {
        self.values_left = self
            .values_left
            .checked_sub(1)
            .ok_or(Kind::TooManyValues.at(self.at))?;
        Ok(())
    }

    fn expect(&mut self, byte: u8) -> Result<(), CanonicalError> {
        if self.peek() != Some(byte) {
            return Err(self.unexpected());
        }
        self.at += 1;
        Ok(())
    }

    fn end(&self) -> Result<(), CanonicalError> {
        match self.peek() {
            None => Ok(()),
            Some(b' ' | b'\t' | b'\n' | b'\r') => Err(self.unexpected()),
            Some(_) => Err(Kind::TrailingBytes.at(self.at)),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    /// What is wrong with the byte at hand, where another was needed.
    fn unexpected(&self) -> CanonicalError {
        match self.peek() {
            None => Kind::UnexpectedEnd.at(self.at),
            Some(b' ' | b'\t' | b'\n' | b'\r') => Kind::Whitespace.at(self.at),
            Some(_) => Kind::UnexpectedByte.at(self.at),
        }
    }
}

/// Where the literal `word` ends that begins at `start`.
pub(super) fn read_word(text: &str, start: usize, word: &str) -> Result<usize, CanonicalError> {
    let rest = &text.as_bytes()[start..];
    if rest.starts_with(word.as_bytes()) {
        return Ok(start + word.len());
    }
    let same = rest
        .iter()
        .zip(word.as_bytes())
        .take_while(|(a, b)| a == b)
        .count();
    let kind = if same == rest.len() {
        Kind::UnexpectedEnd
    } else {
        Kind::UnexpectedByte
    };
    Err(kind.at(start + same))
}

/// What stands between the quotes of a string, by place.
#[derive(Clone, Copy)]
struct Quoted {
    start: usize,
    end: usize,
    escaped: bool,
}

impl Quoted {
    fn name(self, text: &str) -> Name<'_> {
        Name {
            raw: &text.as_bytes()[self.start..self.end],
            escaped: self.escaped,
        }
    }

    fn unescaped(self, text: &str) -> Cow<'_, str> {
        let raw = &text[self.start..self.end];
        if self.escaped {
            unescape(raw).unwrap_or(Cow::Borrowed(raw))
        } else {
            Cow::Borrowed(raw)
        }
    }
}

/// Walks over the parts of an array or object that has been checked.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    /// Stands behind the opening bracket.
    pub(super) fn new(text: &'a str) -> Self {
        Self { text, at: 1 }
    }

    /// The next element of an array.
    pub(super) fn element(&mut self) -> Option<Value<'a>> {
        let mut scanner = self.scanner()?;
        let start = scanner.at;
        let kind = scanner.value(scanner.depth).ok()?;
        self.pass(scanner.at);
        Some(Value {
            kind,
            raw: &self.text[start..scanner.at],
        })
    }

    /// The next member of an object.
    pub(super) fn member(&mut self) -> Option<(Cow<'a, str>, Value<'a>)> {
        let mut scanner = self.scanner()?;
        let name = scanner.string().ok()?;
        self.pass(scanner.at);
        Some((name.unescaped(self.text), self.element()?))
    }

    /// Goes behind what was read and behind the comma, colon or bracket that follows it.
    fn pass(&mut self, end: usize) {
        self.at = end + 1;
    }

    /// Stands at the next part; `None` at the end. Limits held when the whole was checked.
    fn scanner(&self) -> Option<Scanner<'a>> {
        // Behind the closing bracket, or at that of an empty array or object.
        if self.at + 1 >= self.text.len() {
            return None;
        }
        Some(Scanner {
            text: self.text,
            at: self.at,
            depth: Limits::DEEPEST,
            max_members: u32::MAX,
            values_left: u32::MAX,
        })
    }
}
