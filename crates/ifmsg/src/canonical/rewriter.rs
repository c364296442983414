//! Reads any strict I-JSON text and writes it canonically.

use super::{
    CanonicalError, CanonicalErrorKind as Kind,
    number::Literal,
    scanner::read_word,
    string::{decode_escape, plain_run, write_escaped},
    writer::Writer,
};

pub(super) struct Rewriter<'a, 'w> {
    text: &'a str,
    at: usize,
    writer: &'w mut Writer,
}

impl<'a, 'w> Rewriter<'a, 'w> {
    pub(super) fn new(text: &'a str, writer: &'w mut Writer) -> Self {
        Self { text, at: 0, writer }
    }

    /// One value, with whitespace around it and nothing else.
    pub(super) fn document(mut self, depth: u16) -> Result<(), CanonicalError> {
        self.value(depth)?;
        match self.peek_token() {
            None => Ok(()),
            Some(_) => Err(Kind::TrailingBytes.at(self.at)),
        }
    }

    fn value(&mut self, depth: u16) -> Result<(), CanonicalError> {
        let Some(first) = self.peek_token() else {
            return Err(self.unexpected());
        };
        match first {
            b'"' => {
                self.writer.count_value(self.at)?;
                self.string()?;
                Ok(())
            }
            b'-' | b'0'..=b'9' => {
                self.writer.count_value(self.at)?;
                self.number()
            }
            b'{' => {
                self.writer.count_value(self.at)?;
                self.object(depth)
            }
            b'[' => {
                self.writer.count_value(self.at)?;
                self.array(depth)
            }
            b't' => self.literal("true"),
            b'f' => self.literal("false"),
            b'n' => self.literal("null"),
            _ => Err(self.unexpected()),
        }
    }

    fn object(&mut self, depth: u16) -> Result<(), CanonicalError> {
        let inner = depth.checked_sub(1).ok_or(Kind::TooDeep.at(self.at))?;
        self.at += 1;
        let mut object = self.writer.begin_object();
        if self.peek_token() != Some(b'}') {
            loop {
                if self.peek_token() != Some(b'"') {
                    return Err(self.unexpected());
                }
                let offset = self.at;
                self.writer.begin_name(&object, offset)?;
                let start = self.writer.out.len();
                let escaped = self.string()?;
                self.writer.end_name(&mut object, start, escaped, offset)?;
                if self.peek_token() != Some(b':') {
                    return Err(self.unexpected());
                }
                self.at += 1;
                self.value(inner)?;
                match self.peek_token() {
                    Some(b',') => self.at += 1,
                    Some(b'}') => break,
                    _ => return Err(self.unexpected()),
                }
            }
        }
        self.at += 1;
        self.writer.end_object(&object)
    }

    fn array(&mut self, depth: u16) -> Result<(), CanonicalError> {
        let inner = depth.checked_sub(1).ok_or(Kind::TooDeep.at(self.at))?;
        self.at += 1;
        self.writer.out.push(b'[');
        if self.peek_token() != Some(b']') {
            loop {
                self.value(inner)?;
                match self.peek_token() {
                    Some(b',') => self.at += 1,
                    Some(b']') => break,
                    _ => return Err(self.unexpected()),
                }
                self.writer.out.push(b',');
            }
        }
        self.at += 1;
        self.writer.out.push(b']');
        Ok(())
    }

    /// Says whether anything is escaped in what was written.
    fn string(&mut self) -> Result<bool, CanonicalError> {
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        // What has been read, and what of it has been written.
        let (mut at, mut written) = (self.at + 1, self.at);
        loop {
            at = plain_run(bytes, at);
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    self.writer.out.extend_from_slice(&bytes[written..at]);
                    let (char, next) = decode_escape(bytes, at)?;
                    escaped |= write_escaped(&mut self.writer.out, char.encode_utf8(&mut [0; 4]).as_bytes());
                    (at, written) = (next, next);
                }
                Some(_) => return Err(Kind::ControlCharacter.at(at)),
                None => return Err(Kind::UnexpectedEnd.at(at)),
            }
        }
        self.at = at + 1;
        self.writer.out.extend_from_slice(&bytes[written..self.at]);
        Ok(escaped)
    }

    fn number(&mut self) -> Result<(), CanonicalError> {
        let literal = Literal::read(self.text, self.at)?;
        let mut buffer = ryu_js::Buffer::new();
        let canonical = literal.canonical(&mut buffer).map_err(|kind| kind.at(self.at))?;
        self.writer.out.extend_from_slice(canonical.as_bytes());
        self.at += literal.len();
        Ok(())
    }

    fn literal(&mut self, word: &str) -> Result<(), CanonicalError> {
        self.writer.count_value(self.at)?;
        self.at = read_word(self.text, self.at, word)?;
        self.writer.out.extend_from_slice(word.as_bytes());
        Ok(())
    }

    /// The next byte that is no whitespace, after going up to it.
    fn peek_token(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// What is wrong with the byte at hand, where another was needed.
    fn unexpected(&self) -> CanonicalError {
        if self.at < self.text.len() {
            Kind::UnexpectedByte.at(self.at)
        } else {
            Kind::UnexpectedEnd.at(self.at)
        }
    }
}
