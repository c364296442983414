//! Canonical JSON over random documents, random spellings of them, and random damage to their bytes.
//!
//! Falsified by: a spelling of a document with other canonical bytes than serde_jcs (another implementation, over a tree) gives the
//! document; bytes on which `check` and `canonicalise` disagree; an order other than that of UTF-16; a number that reads back otherwise.
#![allow(clippy::expect_used, reason = "a test may panic")]

#[path = "support/fuzz_properties.rs"]
mod fuzz_properties;

use fuzz_properties::{canonicalise_holds, check_holds};
use ifmsg::canonical::{
    CanonicalError, Limits, canonicalise, check, scan_object, to_canonical, write_number,
};
use proptest::{collection::vec, prelude::*, sample::select, test_runner::FileFailurePersistence};
use serde_json::{Map, Number, Value};

fn config(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource(
            "proptest-regressions",
        ))),
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(1_000))]

    #[test]
    fn every_spelling_of_a_document_has_the_same_canonical_bytes(value in document(), style in vec(any::<u8>(), 0..256)) {
        let expected = serde_jcs::to_vec(&value).expect("serde_jcs takes it");
        prop_assert_eq!(to_canonical(&value, &Limits::default()), Ok(expected.clone()));
        let text = Style::new(&style).spell(&value);
        prop_assert_eq!(canonicalise(text.as_bytes(), &Limits::default()), Ok(expected.clone()), "{}", text);
        prop_assert_eq!(check(&expected, &Limits::default()), Ok(()));
        canonicalise_holds(text.as_bytes());
        check_holds(text.as_bytes());
        check_holds(&expected);
    }

    #[test]
    fn check_and_canonicalise_agree_on_damaged_documents(value in document(), damage in vec(damage(), 1..4)) {
        let mut bytes = serde_jcs::to_vec(&value).expect("serde_jcs takes it");
        for damage in damage {
            damage.inflict(&mut bytes);
            canonicalise_holds(&bytes);
            check_holds(&bytes);
        }
    }

    #[test]
    fn check_and_canonicalise_agree_on_every_beginning(value in document()) {
        let bytes = serde_jcs::to_vec(&value).expect("serde_jcs takes it");
        for end in 0..bytes.len().min(300) {
            canonicalise_holds(&bytes[..end]);
            check_holds(&bytes[..end]);
        }
    }

    #[test]
    fn check_and_canonicalise_agree_on_a_heap_of_tokens(tokens in vec(select(TOKENS), 0..24)) {
        let bytes = tokens.concat();
        canonicalise_holds(&bytes);
        check_holds(&bytes);
    }

    #[test]
    fn members_come_in_the_order_of_utf16(mut names in vec(text(), 0..40)) {
        names.sort();
        names.dedup();
        let members: Map<String, Value> = names.iter().map(|name| (name.clone(), Value::Null)).collect();
        let canonical = to_canonical(&members, &Limits::default()).expect("an object");
        let mut seen = Vec::new();
        scan_object::<CanonicalError>(&canonical, &Limits::default(), |member| {
            seen.push(member.name.into_owned());
            Ok(())
        }).expect("canonical");
        names.sort_by(|a, b| a.encode_utf16().cmp(b.encode_utf16()));
        prop_assert_eq!(seen, names);
    }

    #[test]
    fn numbers_read_back_as_they_were(bits in any::<u64>()) {
        let value = f64::from_bits(bits);
        let mut out = Vec::new();
        if write_number(&mut out, value).is_ok() {
            let text = String::from_utf8(out).expect("digits");
            prop_assert_eq!(text.parse::<f64>().expect("a number"), value);
            prop_assert_eq!(text.into_bytes(), serde_jcs::to_vec(&value).expect("finite"));
        } else {
            prop_assert!(!value.is_finite());
        }
    }

    #[test]
    fn integers_round_trip_up_to_two_to_the_53(value in any::<i64>(), shift in 0..64_u32) {
        let value: i64 = value >> shift;
        let bytes = value.to_string().into_bytes();
        let safe = value.unsigned_abs() < 1 << 53;
        prop_assert_eq!(check(&bytes, &Limits::default()).is_ok(), safe);
        prop_assert_eq!(to_canonical(&value, &Limits::default()).ok(), safe.then_some(bytes));
    }
}

const TOKENS: &[&[u8]] = &[
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"{\"a\":",
    b",\"b\":",
    b",\"a\":",
    b"\"a\":1",
    b"\"\":",
    b"\"",
    b"\"a\"",
    b"\"b\"",
    b"\\",
    b"\\u0000",
    b"\\n",
    b"\\u000a",
    b"\\ud83d",
    b"\\ude00",
    b"\\/",
    b"0",
    b"-",
    b"1",
    b"-0",
    b"1.5",
    b".",
    b"e",
    b"E+3",
    b"9007199254740991",
    b"1e21",
    b"1e+21",
    b"true",
    b"false",
    b"null",
    b" ",
    b"\n",
    b"\t",
    b"\0",
    b"\x7f",
    b"\xc3\xa9",
    b"\xee\x80\x80",
    b"\xf0\x9f\x98\x80",
    b"\xff",
    b"\xed\xa0\x80",
    b"\xef\xbb\xbf",
];

/// Something done to bytes; places are taken modulo the length.
#[derive(Debug, Clone)]
enum Damage {
    Set(usize, u8),
    Insert(usize, &'static [u8]),
    Remove(usize, usize),
    Swap(usize, usize),
    Cut(usize),
    Repeat(usize, usize),
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = any::<usize>;
    prop_oneof![
        (place(), any::<u8>()).prop_map(|(at, byte)| Damage::Set(at, byte)),
        (place(), select(TOKENS)).prop_map(|(at, token)| Damage::Insert(at, token)),
        (place(), 1..4_usize).prop_map(|(at, count)| Damage::Remove(at, count)),
        (place(), place()).prop_map(|(a, b)| Damage::Swap(a, b)),
        place().prop_map(Damage::Cut),
        (place(), 1..12_usize).prop_map(|(at, count)| Damage::Repeat(at, count)),
    ]
}

impl Damage {
    fn inflict(self, bytes: &mut Vec<u8>) {
        let len = bytes.len();
        if len == 0 {
            return;
        }
        match self {
            Self::Set(at, byte) => bytes[at % len] = byte,
            Self::Insert(at, token) => {
                let at = at % (len + 1);
                bytes.splice(at..at, token.iter().copied());
            }
            Self::Remove(at, count) => {
                let at = at % len;
                bytes.drain(at..(at + count).min(len));
            }
            Self::Swap(a, b) => bytes.swap(a % len, b % len),
            Self::Cut(at) => bytes.truncate(at % len),
            Self::Repeat(at, count) => {
                let at = at % len;
                let again = bytes[at..(at + count).min(len)].to_vec();
                bytes.splice(at..at, again);
            }
        }
    }
}

fn document() -> impl Strategy<Value = Value> {
    let scalar = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::Bool),
        number().prop_map(Value::Number),
        text().prop_map(Value::String),
    ];
    scalar.prop_recursive(5, 60, 8, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..8).prop_map(Value::Array),
            vec((text(), inner), 0..8).prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Numbers that a document may hold.
fn number() -> impl Strategy<Value = Number> {
    const SAFE: i64 = (1 << 53) - 1;
    let finite = any::<u64>().prop_map(f64::from_bits);
    let everyday = (-1_000_000..1_000_000_i32, 0..12_i32)
        .prop_map(|(digits, point)| f64::from(digits) / 10_f64.powi(point));
    let double = prop_oneof![finite, everyday]
        .prop_filter("a document may hold it", |value| {
            value.is_finite() && (value.abs() <= SAFE as f64 || value.abs() >= 1e21)
        })
        .prop_filter_map("finite", Number::from_f64);
    prop_oneof![
        (-1_000..1_000_i64).prop_map(Number::from),
        (-SAFE..=SAFE).prop_map(Number::from),
        double
    ]
}

/// Text that gathers where escapes and orders have their edges.
fn text() -> impl Strategy<Value = String> {
    let edge = select(vec![
        '\0',
        '\x08',
        '\t',
        '\n',
        '\x0b',
        '\x0c',
        '\r',
        '\x1f',
        ' ',
        '!',
        '"',
        '#',
        '/',
        '\\',
        ']',
        '\x7f',
        '\u{80}',
        'é',
        '€',
        '\u{d7ff}',
        '\u{e000}',
        '\u{fb33}',
        '\u{feff}',
        '\u{ffff}',
        '\u{10000}',
        '\u{1f600}',
        '\u{10ffff}',
        'u',
        '0',
        'a',
        'b',
    ]);
    let char = prop_oneof![3 => edge, 1 => any::<char>(), 4 => proptest::char::range('a', 'e')];
    prop_oneof![
        8 => vec(char, 0..6).prop_map(String::from_iter),
        1 => "[ -~]{0,40}",
    ]
}

/// Spells a document as its choices say: order, whitespace, escapes, numbers.
struct Style<'a> {
    choices: std::iter::Cycle<std::slice::Iter<'a, u8>>,
}

impl<'a> Style<'a> {
    fn new(choices: &'a [u8]) -> Self {
        let choices = if choices.is_empty() { &[0] } else { choices };
        Self {
            choices: choices.iter().cycle(),
        }
    }

    fn choose(&mut self, count: usize) -> usize {
        usize::from(self.choices.next().copied().unwrap_or(0)) % count
    }

    fn spell(&mut self, value: &Value) -> String {
        let mut out = String::new();
        self.space(&mut out);
        self.value(value, &mut out);
        self.space(&mut out);
        out
    }

    fn value(&mut self, value: &Value, out: &mut String) {
        match value {
            Value::Null | Value::Bool(_) => out.push_str(&value.to_string()),
            Value::Number(number) => self.number(number, out),
            Value::String(text) => self.text(text, out),
            Value::Array(elements) => {
                out.push('[');
                self.space(out);
                for (index, element) in elements.iter().enumerate() {
                    self.comma(index, out);
                    self.value(element, out);
                    self.space(out);
                }
                out.push(']');
            }
            Value::Object(members) => {
                let mut members: Vec<_> = members.iter().collect();
                for index in (1..members.len()).rev() {
                    let other = self.choose(index + 1);
                    members.swap(index, other);
                }
                out.push('{');
                self.space(out);
                for (index, (name, value)) in members.into_iter().enumerate() {
                    self.comma(index, out);
                    self.text(name, out);
                    self.space(out);
                    out.push(':');
                    self.space(out);
                    self.value(value, out);
                    self.space(out);
                }
                out.push('}');
            }
        }
    }

    fn comma(&mut self, index: usize, out: &mut String) {
        if index > 0 {
            out.push(',');
            self.space(out);
        }
    }

    fn space(&mut self, out: &mut String) {
        out.push_str(["", "", " ", "\n", "\t\r\n "][self.choose(5)]);
    }

    fn text(&mut self, text: &str, out: &mut String) {
        out.push('"');
        for char in text.chars() {
            let short = match char {
                '"' => "\\\"",
                '\\' => "\\\\",
                '/' => "\\/",
                '\x08' => "\\b",
                '\t' => "\\t",
                '\n' => "\\n",
                '\x0c' => "\\f",
                '\r' => "\\r",
                _ => "",
            };
            let must = char < ' ' || matches!(char, '"' | '\\');
            match self.choose(4) {
                0 | 1 if !must => out.push(char),
                0..=2 if !short.is_empty() => out.push_str(short),
                3 => char
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .for_each(|unit| out.push_str(&format!("\\u{unit:04X}"))),
                _ => char
                    .encode_utf16(&mut [0; 2])
                    .iter()
                    .for_each(|unit| out.push_str(&format!("\\u{unit:04x}"))),
            }
        }
        out.push('"');
    }

    fn number(&mut self, number: &Number, out: &mut String) {
        let plain = number.to_string();
        let value = number.as_f64().expect("a double");
        match self.choose(5) {
            0 => out.push_str(&format!("{value:e}")),
            1 => out.push_str(&format!("{value:E}").replace('E', "E+").replace("+-", "-")),
            2 if plain.contains('.') && !plain.contains('e') => out.push_str(&format!("{plain}000")),
            2 if !plain.contains(['.', 'e']) => out.push_str(&format!("{plain}.0")),
            3 if !plain.contains('e') => out.push_str(&format!("{plain}e0")),
            _ => out.push_str(&plain),
        }
    }
}
