//! Writes what serde serialises, in the shapes that `serde_json` gives it.

use std::ops::Range;

use serde::ser::{self, Serialize};

use super::{
    CanonicalError, CanonicalErrorKind as Kind, Limits,
    number::{MAX_SAFE_INTEGER, check_range, write_number},
    rewriter::Rewriter,
    string::{unescape, write_escaped},
    writer::{Object, Writer},
};

/// An object that is written member by member, in the order of their names.
pub(crate) struct ObjectDocument {
    writer: Writer,
    object: Object,
    /// Of the members' values.
    depth: u16,
}

impl ObjectDocument {
    pub(crate) fn new(limits: &Limits, capacity: usize) -> Result<Self, CanonicalError> {
        let mut writer = Writer::new(limits, capacity);
        writer.count_value(0)?;
        Ok(Self {
            object: writer.begin_object(),
            writer,
            depth: limits.depth().checked_sub(1).ok_or(Kind::TooDeep.at(0))?,
        })
    }

    /// Writes a member, and says where its value stands. One that does not come after all before it is refused.
    pub(crate) fn member<T: Serialize + ?Sized>(
        &mut self,
        name: &str,
        value: &T,
    ) -> Result<Range<usize>, CanonicalError> {
        let Self { writer, object, .. } = self;
        let offset = writer.out.len();
        writer.begin_name(object, offset)?;
        let start = writer.out.len();
        writer.out.push(b'"');
        let escaped = write_escaped(&mut writer.out, name.as_bytes());
        writer.out.push(b'"');
        writer.end_name(object, start, escaped, offset)?;
        if !object.is_sorted() {
            return Err(Kind::NotSorted.at(offset));
        }
        let value_at = writer.out.len();
        value.serialize(Serialiser::new(writer, self.depth))?;
        Ok(value_at..writer.out.len())
    }

    pub(crate) fn finish(mut self) -> Result<Vec<u8>, CanonicalError> {
        self.writer.end_object(&self.object)?;
        self.writer.finish()
    }
}

pub(super) struct Serialiser<'w> {
    writer: &'w mut Writer,
    depth: u16,
    /// Whether a member's name is being written, where integers of any size are fine: they end up between quotes.
    name: bool,
}

impl<'w> Serialiser<'w> {
    pub(super) fn new(writer: &'w mut Writer, depth: u16) -> Self {
        Self {
            writer,
            depth,
            name: false,
        }
    }

    fn begin(&mut self) -> Result<(), CanonicalError> {
        self.writer.count_value(self.writer.out.len())?;
        self.writer.make_room(1)
    }

    fn word(mut self, word: &str) -> Result<(), CanonicalError> {
        self.begin()?;
        self.writer.out.extend_from_slice(word.as_bytes());
        Ok(())
    }

    fn integer(self, magnitude: u128, digits: &str) -> Result<(), CanonicalError> {
        if magnitude > u128::from(MAX_SAFE_INTEGER) && !self.name {
            return Err(Kind::IntegerTooLarge.at(self.writer.out.len()));
        }
        self.word(digits)
    }

    /// How deep the inside of an array or object may still be.
    fn inner_depth(&self) -> Result<u16, CanonicalError> {
        // An array or object is no name.
        if self.name {
            return Err(Kind::NotSerialisable.at(self.writer.out.len()));
        }
        self.depth
            .checked_sub(1)
            .ok_or(Kind::TooDeep.at(self.writer.out.len()))
    }

    fn array(mut self, end: &'static str) -> Result<Array<'w>, CanonicalError> {
        let depth = self.inner_depth()?;
        self.begin()?;
        self.writer.out.push(b'[');
        Ok(Array {
            writer: self.writer,
            depth,
            first: true,
            end,
        })
    }

    fn object(mut self, end: &'static str) -> Result<Map<'w>, CanonicalError> {
        let depth = self.inner_depth()?;
        self.begin()?;
        let object = self.writer.begin_object();
        Ok(Map {
            writer: self.writer,
            depth,
            object,
            end,
            verbatim: false,
        })
    }

    /// Opens `{"variant":`; the value has to come next, and then a `}`.
    fn variant(mut self, variant: &str) -> Result<Self, CanonicalError> {
        let depth = self.inner_depth()?;
        self.begin()?;
        self.writer.make_room(variant.len())?;
        self.writer.out.extend_from_slice(b"{\"");
        write_escaped(&mut self.writer.out, variant.as_bytes());
        self.writer.out.extend_from_slice(b"\":");
        Ok(Self { depth, ..self })
    }
}

macro_rules! integers {
    ($($method:ident: $type:ty;)*) => {$(
        fn $method(self, value: $type) -> Result<(), CanonicalError> {
            #[allow(unused_comparisons, reason = "the unsigned types share this")]
            let magnitude = if value < 0 { (value as i128).unsigned_abs() } else { value as u128 };
            self.integer(magnitude, itoa::Buffer::new().format(value))
        }
    )*};
}

impl<'w> ser::Serializer for Serialiser<'w> {
    type Ok = ();
    type Error = CanonicalError;
    type SerializeSeq = Array<'w>;
    type SerializeTuple = Array<'w>;
    type SerializeTupleStruct = Array<'w>;
    type SerializeTupleVariant = Array<'w>;
    type SerializeMap = Map<'w>;
    type SerializeStruct = Map<'w>;
    type SerializeStructVariant = Map<'w>;

    integers! {
        serialize_i8: i8;
        serialize_i16: i16;
        serialize_i32: i32;
        serialize_i64: i64;
        serialize_i128: i128;
        serialize_u8: u8;
        serialize_u16: u16;
        serialize_u32: u32;
        serialize_u64: u64;
        serialize_u128: u128;
    }

    fn serialize_bool(self, value: bool) -> Result<(), CanonicalError> {
        self.word(if value { "true" } else { "false" })
    }

    fn serialize_f32(self, value: f32) -> Result<(), CanonicalError> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(mut self, value: f64) -> Result<(), CanonicalError> {
        check_range(value).map_err(|kind| kind.at(self.writer.out.len()))?;
        self.begin()?;
        write_number(&mut self.writer.out, value)
    }

    fn serialize_char(self, value: char) -> Result<(), CanonicalError> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(mut self, value: &str) -> Result<(), CanonicalError> {
        self.begin()?;
        self.writer.make_room(value.len())?;
        self.writer.out.push(b'"');
        write_escaped(&mut self.writer.out, value.as_bytes());
        self.writer.out.push(b'"');
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), CanonicalError> {
        self.collect_seq(value)
    }

    fn serialize_none(self) -> Result<(), CanonicalError> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), CanonicalError> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), CanonicalError> {
        self.word("null")
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), CanonicalError> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), CanonicalError> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), CanonicalError> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), CanonicalError> {
        let Self { writer, depth, .. } = self.variant(variant)?;
        value.serialize(Serialiser::new(writer, depth))?;
        writer.out.push(b'}');
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Array<'w>, CanonicalError> {
        self.array("]")
    }

    fn serialize_tuple(self, _: usize) -> Result<Array<'w>, CanonicalError> {
        self.array("]")
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Array<'w>, CanonicalError> {
        self.array("]")
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Array<'w>, CanonicalError> {
        self.variant(variant)?.array("]}")
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Map<'w>, CanonicalError> {
        self.object("")
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Map<'w>, CanonicalError> {
        // How serde_json's `RawValue` and (with `arbitrary_precision`) `Number` say that they hold JSON text.
        if matches!(
            name,
            "$serde_json::private::RawValue" | "$serde_json::private::Number"
        ) {
            let Self { writer, depth, .. } = self;
            let object = Object::default();
            return Ok(Map {
                writer,
                depth,
                object,
                end: "",
                verbatim: true,
            });
        }
        self.object("")
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Map<'w>, CanonicalError> {
        self.variant(variant)?.object("}")
    }
}

pub(super) struct Array<'w> {
    writer: &'w mut Writer,
    /// Of the elements.
    depth: u16,
    first: bool,
    end: &'static str,
}

impl Array<'_> {
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CanonicalError> {
        if !self.first {
            self.writer.out.push(b',');
        }
        self.first = false;
        value.serialize(Serialiser::new(self.writer, self.depth))
    }

    fn end(self) {
        self.writer.out.extend_from_slice(self.end.as_bytes());
    }
}

macro_rules! arrays {
    ($($trait:ident :: $method:ident;)*) => {$(
        impl ser::$trait for Array<'_> {
            type Ok = ();
            type Error = CanonicalError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CanonicalError> {
                self.element(value)
            }

            fn end(self) -> Result<(), CanonicalError> {
                Array::end(self);
                Ok(())
            }
        }
    )*};
}

arrays! {
    SerializeSeq::serialize_element;
    SerializeTuple::serialize_element;
    SerializeTupleStruct::serialize_field;
    SerializeTupleVariant::serialize_field;
}

pub(super) struct Map<'w> {
    writer: &'w mut Writer,
    /// Of the members' values.
    depth: u16,
    object: Object,
    /// What comes after the object.
    end: &'static str,
    /// No object at all, but JSON text, given as one field.
    verbatim: bool,
}

impl Map<'_> {
    fn name<T: Serialize + ?Sized>(&mut self, name: &T) -> Result<(), CanonicalError> {
        let Self { writer, object, .. } = self;
        let offset = writer.out.len();
        writer.begin_name(object, offset)?;
        let start = writer.out.len();
        // Written as a value first, since a name may be of any type that spells a scalar; but it is not counted as one.
        name.serialize(Serialiser {
            writer,
            depth: 0,
            name: true,
        })?;
        writer.uncount_value();
        let escaped = match writer.out.get(start) {
            Some(b'"') => writer.out[start..].contains(&b'\\'),
            Some(b'-' | b'0'..=b'9' | b't' | b'f') => {
                writer.out.insert(start, b'"');
                writer.out.push(b'"');
                false
            }
            _ => return Err(Kind::NotSerialisable.at(start)),
        };
        writer.end_name(object, start, escaped, offset)
    }

    fn value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CanonicalError> {
        value.serialize(Serialiser::new(self.writer, self.depth))
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), CanonicalError> {
        if self.verbatim {
            return self.json_text(value);
        }
        self.name(name)?;
        self.value(value)
    }

    /// Takes a string that is JSON text, and writes what it says.
    fn json_text<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CanonicalError> {
        let start = self.writer.out.len();
        self.value(value)?;
        self.writer.uncount_value();
        let wrong = Kind::NotSerialisable.at(start);
        let literal = std::str::from_utf8(&self.writer.out[start..]).map_err(|_| wrong)?;
        let quoted = literal
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'))
            .ok_or(wrong)?;
        let text = unescape(quoted).ok_or(wrong)?.into_owned();
        self.writer.out.truncate(start);
        Rewriter::new(&text, self.writer)
            .document(self.depth)
            .map_err(|error| error.kind.at(start))
    }

    fn end(self) -> Result<(), CanonicalError> {
        if self.verbatim {
            return Ok(());
        }
        self.writer.end_object(&self.object)?;
        self.writer.out.extend_from_slice(self.end.as_bytes());
        Ok(())
    }
}

impl ser::SerializeMap for Map<'_> {
    type Ok = ();
    type Error = CanonicalError;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), CanonicalError> {
        self.name(key)
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), CanonicalError> {
        self.value(value)
    }

    fn end(self) -> Result<(), CanonicalError> {
        Map::end(self)
    }
}

macro_rules! structs {
    ($($trait:ident)*) => {$(
        impl ser::$trait for Map<'_> {
            type Ok = ();
            type Error = CanonicalError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), CanonicalError> {
                self.field(name, value)
            }

            fn end(self) -> Result<(), CanonicalError> {
                Map::end(self)
            }
        }
    )*};
}

structs! { SerializeStruct SerializeStructVariant }
