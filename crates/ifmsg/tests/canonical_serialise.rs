//! `to_canonical` gives values the shapes that serde_json gives them, and the accessors of a scanned value read them back.
//!
//! Falsified by any type whose canonical bytes differ from canonicalising what serde_json writes for it.
#![allow(clippy::expect_used, reason = "a test may panic")]

use std::collections::{BTreeMap, HashMap};

use ifmsg::canonical::{
    CanonicalError, Limits, Member, ValueKind, canonicalise, scan_object, to_canonical, write_string,
};
use serde::Serialize;

#[derive(Serialize)]
struct Everything<'a> {
    unit: (),
    nothing: Option<u8>,
    something: Option<u8>,
    tuple: (i8, u16, i32, u64, f64),
    wide: (i128, u128),
    char: char,
    text: &'a str,
    bytes: &'a [u8],
    list: Vec<Vec<bool>>,
    map: BTreeMap<String, i64>,
    integer_keys: BTreeMap<u64, ()>,
    negative_keys: BTreeMap<i8, ()>,
    boolean_keys: BTreeMap<bool, ()>,
    char_keys: BTreeMap<char, ()>,
    variant_keys: HashMap<Shape, ()>,
    newtype: Newtype,
    unit_struct: Unit,
    pair: Pair,
    shapes: Vec<Shape>,
    #[serde(rename = "a \"b\" \\ \n")]
    quoted: u8,
    #[serde(rename = "A")]
    upper: u8,
}

#[derive(Serialize)]
struct Newtype(Vec<u8>);
#[derive(Serialize)]
struct Unit;
#[derive(Serialize)]
struct Pair(u8, &'static str);

#[derive(Serialize, PartialEq, Eq, Hash)]
enum Shape {
    Point,
    Circle(u8),
    Line(u8, u8),
    #[serde(rename = "\"box\"")]
    Box {
        width: u8,
        height: u8,
    },
}

#[test]
fn shapes_are_those_of_serde_json() {
    let everything = Everything {
        unit: (),
        nothing: None,
        something: Some(1),
        tuple: (-1, 2, -3, 9_007_199_254_740_991, 1e-7),
        wide: (-9_007_199_254_740_991, 7),
        char: '\u{1f600}',
        text: "é\0\"/\u{7f}",
        bytes: &[0, 255],
        list: vec![vec![], vec![true, false]],
        map: BTreeMap::from([
            ("\u{fb33}".to_owned(), -1),
            ("\u{1f600}".to_owned(), 1),
            (String::new(), 0),
        ]),
        // Between quotes an integer of any size is text.
        integer_keys: BTreeMap::from([(u64::MAX, ()), (9, ()), (10, ())]),
        negative_keys: BTreeMap::from([(-1, ()), (-10, ())]),
        boolean_keys: BTreeMap::from([(true, ()), (false, ())]),
        char_keys: BTreeMap::from([('"', ()), ('\n', ())]),
        variant_keys: HashMap::from([(Shape::Point, ())]),
        newtype: Newtype(vec![1]),
        unit_struct: Unit,
        pair: Pair(1, "x"),
        shapes: vec![
            Shape::Point,
            Shape::Circle(1),
            Shape::Line(1, 2),
            Shape::Box { width: 1, height: 2 },
        ],
        quoted: 1,
        upper: 1,
    };
    let written = serde_json::to_vec(&everything).expect("serde_json takes it");
    let expected = canonicalise(&written, &Limits::default()).expect("canonical");
    let ours = to_canonical(&everything, &Limits::default()).expect("serialisable");
    assert_eq!(String::from_utf8_lossy(&ours), String::from_utf8_lossy(&expected));
}

/// A double is written as such, not as the shorter digits that would do for its `f32`: both sides read doubles.
#[test]
fn an_f32_is_written_as_the_double_it_is() {
    assert_eq!(
        to_canonical(&0.1_f32, &Limits::default()),
        Ok(b"0.10000000149011612".to_vec())
    );
    assert_eq!(to_canonical(&-0.0_f32, &Limits::default()), Ok(b"0".to_vec()));
}

/// serde_json's `RawValue` and `Number` (with `arbitrary_precision`) come as a struct by this name. Which features serde_json
/// has been built with must not show in the bytes.
#[test]
fn json_text_inside_a_value_is_made_canonical() {
    #[derive(Serialize)]
    #[serde(rename = "$serde_json::private::RawValue")]
    struct Raw {
        #[serde(rename = "$serde_json::private::RawValue")]
        text: &'static str,
    }
    let limits = Limits {
        max_depth: 3,
        ..Limits::default()
    };
    let raw = |text| to_canonical(&[("x", Raw { text })], &limits);
    assert_eq!(
        raw(r#" {"b": 1.0, "a": "\u0041"} "#),
        Ok(br#"[["x",{"a":"A","b":1}]]"#.to_vec())
    );
    for refused in ["{\"a\":1,\"a\":2}", "[[]]", "", "1 2", "nul"] {
        assert!(raw(refused).is_err(), "{refused}");
    }
}

#[test]
fn a_value_is_read_through_its_accessors() {
    let input = r#"{"\n":null,"array":[1,"a",[],{"k":[{}]}],"big":1e+300,"half":0.5,"int":-42,"obj":{"\"":true,"a":{"z":0}},"text":"a\"\u0000é"}"#;
    let mut members: Vec<Member<'_>> = Vec::new();
    scan_object::<CanonicalError>(input.as_bytes(), &Limits::default(), |member| {
        members.push(member);
        Ok(())
    })
    .expect("canonical");
    let value = |name: &str| {
        members
            .iter()
            .find(|member| member.name == name)
            .expect("there")
            .value
    };

    assert!(value("\n").is_null());
    assert_eq!(value("text").as_str().as_deref(), Some("a\"\0é"));
    assert_eq!(value("int").as_integer(), Some(-42));
    assert_eq!(value("half").as_integer(), None);
    assert_eq!(value("big").as_integer(), None);
    assert_eq!(value("half").as_f64(), Some(0.5));
    assert_eq!(value("text").as_integer(), None);
    assert_eq!(value("int").as_str(), None);
    assert_eq!(value("int").as_bool(), None);
    assert!(value("text").elements().is_none() && value("array").members().is_none());

    let elements: Vec<_> = value("array")
        .elements()
        .expect("an array")
        .map(|element| element.raw_text())
        .collect();
    assert_eq!(elements, ["1", "\"a\"", "[]", "{\"k\":[{}]}"]);
    let inner: Vec<_> = value("obj").members().expect("an object").collect();
    assert_eq!(inner[0].0, "\"");
    assert_eq!(inner[0].1.as_bool(), Some(true));
    assert_eq!(
        (inner[1].1.kind(), inner[1].1.raw()),
        (ValueKind::Object, &b"{\"z\":0}"[..])
    );
    assert_eq!(inner.len(), 2);

    for member in &members {
        assert_eq!(&input[member.span.clone()], member.value.raw_text());
    }
    let shown = format!("{members:?}");
    assert!(
        !shown.contains("42"),
        "what a message says stays out of logs: {shown}"
    );
}

#[test]
fn strings_are_escaped_where_they_must_be_and_nowhere_else() {
    let mut out = b"x=".to_vec();
    write_string(&mut out, "\0\x08\t\n\x0b\x0c\r\x1f \"/\\\x7f\u{80}é\u{2028}😀");
    let expected = "x=\"\\u0000\\b\\t\\n\\u000b\\f\\r\\u001f \\\"/\\\\\x7f\u{80}é\u{2028}😀\"";
    assert_eq!(String::from_utf8_lossy(&out), expected);
}
