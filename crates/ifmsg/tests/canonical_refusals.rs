//! Every way to be refused, with its reason and its place.
//!
//! Falsified by any refusal that is missing, has another kind, or points elsewhere.
#![allow(clippy::expect_used, reason = "a test may panic")]

use std::collections::{BTreeMap, HashMap};

use ifmsg::canonical::{
    CanonicalError, CanonicalErrorKind as Kind, Limits, canonicalise, check, scan_object, to_canonical,
};
use serde::Serialize;

type Row = (&'static [u8], Kind, usize);

/// Refused by `canonicalise` and by `check` alike, at the same place.
const BOTH: &[Row] = &[
    // Not JSON.
    (b"", Kind::UnexpectedEnd, 0),
    (b"[", Kind::UnexpectedEnd, 1),
    (b"{", Kind::UnexpectedEnd, 1),
    (b"{\"a\"", Kind::UnexpectedEnd, 4),
    (b"{\"a\":", Kind::UnexpectedEnd, 5),
    (b"{\"a\":1", Kind::UnexpectedEnd, 6),
    (b"{\"a\":1,", Kind::UnexpectedEnd, 7),
    (b"[1,", Kind::UnexpectedEnd, 3),
    (b"\"abc", Kind::UnexpectedEnd, 4),
    (b"\"abc\\", Kind::UnexpectedEnd, 5),
    (b"\"\\u00", Kind::UnexpectedEnd, 5),
    (b"tru", Kind::UnexpectedEnd, 3),
    (b"-", Kind::UnexpectedEnd, 1),
    (b"1.", Kind::UnexpectedEnd, 2),
    (b"1e", Kind::UnexpectedEnd, 2),
    (b"1e+", Kind::UnexpectedEnd, 3),
    (b"[,1]", Kind::UnexpectedByte, 1),
    (b"[1,]", Kind::UnexpectedByte, 3),
    (b"[1}", Kind::UnexpectedByte, 2),
    (b"{,}", Kind::UnexpectedByte, 1),
    (b"{1:2}", Kind::UnexpectedByte, 1),
    (b"{\"a\";1}", Kind::UnexpectedByte, 4),
    (b"{\"a\":1,}", Kind::UnexpectedByte, 7),
    (b"{\"a\":1]", Kind::UnexpectedByte, 6),
    (b"nulL", Kind::UnexpectedByte, 3),
    (b"True", Kind::UnexpectedByte, 0),
    (b"NaN", Kind::UnexpectedByte, 0),
    (b"Infinity", Kind::UnexpectedByte, 0),
    (b"-Infinity", Kind::UnexpectedByte, 1),
    (b"+1", Kind::UnexpectedByte, 0),
    (b".5", Kind::UnexpectedByte, 0),
    (b"[1.]", Kind::UnexpectedByte, 3),
    (b"[1.e1]", Kind::UnexpectedByte, 3),
    (b"[1e]", Kind::UnexpectedByte, 3),
    (b"[-a]", Kind::UnexpectedByte, 2),
    (b"[01]", Kind::UnexpectedByte, 2),
    (b"[-1-]", Kind::UnexpectedByte, 3),
    (b"[0x1]", Kind::UnexpectedByte, 2),
    (b"'a'", Kind::UnexpectedByte, 0),
    (b"/**/1", Kind::UnexpectedByte, 0),
    (b"[\x0c1]", Kind::UnexpectedByte, 1),
    (b"[\xc2\xa01]", Kind::UnexpectedByte, 1),
    (b"01", Kind::TrailingBytes, 1),
    (b"{}{}", Kind::TrailingBytes, 2),
    (b"1,", Kind::TrailingBytes, 1),
    (b"null\0", Kind::TrailingBytes, 4),
    (b"\"a\\x41\"", Kind::InvalidEscape, 2),
    (b"\"\\'\"", Kind::InvalidEscape, 1),
    (b"\"\\U0041\"", Kind::InvalidEscape, 1),
    (b"\"\\u00g0\"", Kind::InvalidEscape, 1),
    (b"\"\\u+041\"", Kind::InvalidEscape, 1),
    (b"\"\\u00\"", Kind::InvalidEscape, 1),
    // Bytes and characters.
    (b"\"a\nb\"", Kind::ControlCharacter, 2),
    (b"\"\0\"", Kind::ControlCharacter, 1),
    (b"\"1234567890\x1f\"", Kind::ControlCharacter, 11),
    (b"{\"\t\":1}", Kind::ControlCharacter, 2),
    (b"\"\\ud800\"", Kind::LoneSurrogate, 1),
    (b"\"\\udbff\\ue000\"", Kind::LoneSurrogate, 1),
    (b"\"\\ud83d\\ue000\"", Kind::LoneSurrogate, 1),
    (b"\"\\ud83d\\udbff\"", Kind::LoneSurrogate, 1),
    (b"\"\\udc00\\ud800\"", Kind::LoneSurrogate, 1),
    (b"\"\\ud800\\ud800\"", Kind::LoneSurrogate, 1),
    (b"\"\\ud83d \\ude00\"", Kind::LoneSurrogate, 1),
    (b"\"\\ud83d\\n\"", Kind::LoneSurrogate, 1),
    (b"{\"\\uDFFF\":1}", Kind::LoneSurrogate, 2),
    (b"\"\\ud83d\\uzzzz\"", Kind::InvalidEscape, 7),
    (b"[\"\xff\"]", Kind::InvalidUtf8, 2),
    (b"\"\xc0\xaf\"", Kind::InvalidUtf8, 1),
    (b"\"\xed\xa0\x80\"", Kind::InvalidUtf8, 1),
    (b"\"\xf4\x90\x80\x80\"", Kind::InvalidUtf8, 1),
    (b"\"\xe2\x82", Kind::InvalidUtf8, 1),
    (b"\xef\xbb\xbf{}", Kind::ByteOrderMark, 0),
    // Meaning.
    (b"{\"a\":1,\"a\":1}", Kind::DuplicateMember, 7),
    (b"{\"\":1,\"\":2}", Kind::DuplicateMember, 6),
    (b"[{\"\\n\":1,\"\\n\":2}]", Kind::DuplicateMember, 9),
    (b"9007199254740992", Kind::IntegerTooLarge, 0),
    (b"[-9007199254740992]", Kind::IntegerTooLarge, 1),
    (b"[1,18446744073709551616]", Kind::IntegerTooLarge, 3),
    (b"9007199254740992.0", Kind::IntegerTooLarge, 0),
    (b"9007199254740991.5", Kind::IntegerTooLarge, 0),
    (b"1e20", Kind::IntegerTooLarge, 0),
    (b"-999999999999999900000.0", Kind::IntegerTooLarge, 0),
    (b"1e400", Kind::NumberOutOfRange, 0),
    (b"[0,-1.8e308]", Kind::NumberOutOfRange, 3),
];

/// Refused by `check` for their spelling; taken by `canonicalise`, as shown.
const SPELLING: &[(&[u8], Kind, usize, &str)] = &[
    (b" 1", Kind::Whitespace, 0, "1"),
    (b"1\n", Kind::Whitespace, 1, "1"),
    (b"[ ]", Kind::Whitespace, 1, "[]"),
    (b"[1 ,2]", Kind::Whitespace, 2, "[1,2]"),
    (b"[1,\t2]", Kind::Whitespace, 3, "[1,2]"),
    (b"{ }", Kind::Whitespace, 1, "{}"),
    (b"{\"a\" :1}", Kind::Whitespace, 4, r#"{"a":1}"#),
    (b"{\"a\":\r1}", Kind::Whitespace, 5, r#"{"a":1}"#),
    (b"{\"a\":1 }", Kind::Whitespace, 6, r#"{"a":1}"#),
    (b"{\"b\":1,\"a\":2}", Kind::NotSorted, 7, r#"{"a":2,"b":1}"#),
    (b"{\"ab\":1,\"a\":2}", Kind::NotSorted, 8, r#"{"a":2,"ab":1}"#),
    (b"{\"a\":1,\"\\t\":2}", Kind::NotSorted, 7, r#"{"\t":2,"a":1}"#),
    (
        b"{\"\xef\xac\xb3\":1,\"\xf0\x9f\x98\x80\":2}",
        Kind::NotSorted,
        9,
        "{\"\u{1f600}\":2,\"\u{fb33}\":1}",
    ),
    (b"\"\\/\"", Kind::EscapeNotCanonical, 1, "\"/\""),
    (b"\"\\u0041\"", Kind::EscapeNotCanonical, 1, "\"A\""),
    (b"\"\\u000a\"", Kind::EscapeNotCanonical, 1, r#""\n""#),
    (b"\"\\u000F\"", Kind::EscapeNotCanonical, 1, r#""\u000f""#),
    (b"\"\\u0022\"", Kind::EscapeNotCanonical, 1, r#""\"""#),
    (b"\"\\u007f\"", Kind::EscapeNotCanonical, 1, "\"\x7f\""),
    (
        b"\"\\ud83d\\ude00\"",
        Kind::EscapeNotCanonical,
        1,
        "\"\u{1f600}\"",
    ),
    (b"{\"\\u0061\":1}", Kind::EscapeNotCanonical, 2, r#"{"a":1}"#),
    (b"-0", Kind::NumberNotCanonical, 0, "0"),
    (b"[1.0]", Kind::NumberNotCanonical, 1, "[1]"),
    (b"1e2", Kind::NumberNotCanonical, 0, "100"),
    (b"1E+30", Kind::NumberNotCanonical, 0, "1e+30"),
    (b"4.50", Kind::NumberNotCanonical, 0, "4.5"),
    (b"0.0000001", Kind::NumberNotCanonical, 0, "1e-7"),
    (b"1e-400", Kind::NumberNotCanonical, 0, "0"),
    (
        b"333333333.33333329",
        Kind::NumberNotCanonical,
        0,
        "333333333.3333333",
    ),
    (
        b"9007199254740991.4",
        Kind::NumberNotCanonical,
        0,
        "9007199254740991",
    ),
    (b"9e15", Kind::NumberNotCanonical, 0, "9000000000000000"),
];

/// `check` stops at the order, `canonicalise` goes on and finds what is worse.
const HIDDEN_DUPLICATES: &[(&[u8], usize)] = &[
    (b"{\"b\":1,\"a\":2,\"b\":3}", 13),
    (b"{\"a\":1,\"\\u0061\":2}", 7),
    (b"{\"\xc3\xa9\":1,\"\\u00E9\":2}", 8),
    (b"{\"c\":0,\"b\":1,\"b\":2,\"c\":3}", 13),
    (b"{\"z\":{\"k\":1,\"j\":1,\"k\":1}}", 18),
];

#[test]
fn what_both_refuse() {
    for &(input, kind, offset) in BOTH {
        let shown = String::from_utf8_lossy(input);
        assert_eq!(
            outcome(canonicalise(input, &Limits::default())),
            Err((kind, offset)),
            "{shown}"
        );
        assert_eq!(
            outcome(check(input, &Limits::default())),
            Err((kind, offset)),
            "{shown}"
        );
        let error = check(input, &Limits::default()).expect_err("refused");
        assert!(!error.is_spelling(), "{shown}");
    }
}

#[test]
fn what_only_the_check_refuses() {
    for &(input, kind, offset, canonical) in SPELLING {
        let shown = String::from_utf8_lossy(input);
        let error = check(input, &Limits::default()).expect_err("refused");
        assert_eq!((error.kind, error.offset), (kind, offset), "{shown}");
        assert!(error.is_spelling(), "{shown}");
        let ours = canonicalise(input, &Limits::default()).expect("taken");
        assert_eq!(String::from_utf8_lossy(&ours), canonical, "{shown}");
    }
}

#[test]
fn duplicates_that_only_sorting_or_unescaping_brings_together() {
    for &(input, offset) in HIDDEN_DUPLICATES {
        let shown = String::from_utf8_lossy(input);
        let found = outcome(canonicalise(input, &Limits::default()));
        assert_eq!(found, Err((Kind::DuplicateMember, offset)), "{shown}");
        assert!(
            check(input, &Limits::default()).is_err_and(|error| error.is_spelling()),
            "{shown}"
        );
    }
}

#[test]
fn limits_hold_to_the_last_unit() {
    let limits = Limits {
        max_bytes: 40,
        max_depth: 3,
        max_members: 2,
        max_values: 5,
    };
    let fits: &[&[u8]] = &[
        b"[[[]]]",
        b"{\"a\":{\"a\":{}}}",
        b"{\"a\":1,\"b\":2}",
        b"[1,2,3,4]",
        b"{\"a\":[1,2],\"b\":3}",
        b"\"12345678901234567890123456789012345678\"",
        b"[9e15,9e15]",
    ];
    for input in fits {
        let canonical = canonicalise(input, &limits).expect("fits");
        assert_eq!(
            check(&canonical, &limits),
            Ok(()),
            "{}",
            String::from_utf8_lossy(input)
        );
        let value: serde_json::Value = serde_json::from_slice(&canonical).expect("JSON");
        assert_eq!(to_canonical(&value, &limits), Ok(canonical), "{value}");
    }
    let over: &[Row] = &[
        (b"[[[[]]]]", Kind::TooDeep, 3),
        (b"[1,[[{}]]]", Kind::TooDeep, 5),
        (b"{\"a\":{\"a\":{\"a\":{}}}}", Kind::TooDeep, 15),
        (b"{\"a\":1,\"b\":2,\"c\":3}", Kind::TooManyMembers, 13),
        (b"[1,2,3,4,5]", Kind::TooManyValues, 9),
        (b"[[],[],[],{},null]", Kind::TooManyValues, 13),
        (b"{\"a\":[1,2,3,true]}", Kind::TooManyValues, 12),
        (b"\"123456789012345678901234567890123456789\"", Kind::TooLarge, 40),
    ];
    for &(input, kind, offset) in over {
        let shown = String::from_utf8_lossy(input);
        assert_eq!(
            outcome(canonicalise(input, &limits)),
            Err((kind, offset)),
            "{shown}"
        );
        assert_eq!(outcome(check(input, &limits)), Err((kind, offset)), "{shown}");
    }
    // Short where it goes in, too long where it comes out: 4 bytes become 16.
    assert_eq!(
        outcome(canonicalise(b"[9e15,9e15,9e15]", &limits)),
        Err((Kind::TooLarge, 40))
    );
    // The same on the way out of serde.
    assert_eq!(
        outcome(to_canonical(&[[[[0; 0]]]], &limits)),
        Err((Kind::TooDeep, 3))
    );
    assert_eq!(
        outcome(to_canonical(&[1, 2, 3, 4, 5], &limits)),
        Err((Kind::TooManyValues, 9))
    );
    assert_eq!(
        outcome(to_canonical("123456789012345678901234567890123456789", &limits)),
        Err((Kind::TooLarge, 40))
    );
    assert_eq!(
        outcome(to_canonical(&"1".repeat(1 << 20), &limits)),
        Err((Kind::TooLarge, 40))
    );
    let three = BTreeMap::from([("a", 1), ("b", 2), ("c", 3)]);
    assert_eq!(
        outcome(to_canonical(&three, &limits)),
        Err((Kind::TooManyMembers, 12))
    );
}

/// The wire's own limits: the defaults.
#[test]
fn the_default_limits_are_those_of_the_wire() {
    let limits = Limits::default();
    let nested = |depth: usize| [b"[".repeat(depth), b"]".repeat(depth)].concat();
    assert_eq!(check(&nested(32), &limits), Ok(()));
    assert_eq!(outcome(check(&nested(33), &limits)), Err((Kind::TooDeep, 32)));

    let members = |count: usize| {
        let members: Vec<String> = (0..count).map(|index| format!("\"{index:05}\":0")).collect();
        format!("{{{}}}", members.join(","))
    };
    assert_eq!(check(members(4_096).as_bytes(), &limits), Ok(()));
    let over = check(members(4_097).as_bytes(), &limits).expect_err("one too many");
    assert_eq!(over.kind, Kind::TooManyMembers);

    let values = |count: usize| format!("[{}]", vec!["0"; count].join(","));
    assert_eq!(check(values(65_535).as_bytes(), &limits), Ok(()));
    let over = check(values(65_536).as_bytes(), &limits).expect_err("the array is a value as well");
    assert_eq!(over.kind, Kind::TooManyValues);

    assert_eq!(limits.max_bytes, 16 * 1024 * 1024 + 64 * 1024);
}

/// A limit that somebody sets too high costs no stack: the test's thread has 512 KiB of it.
#[test]
fn no_limit_allows_more_depth_than_the_stack_has() {
    let limits = Limits {
        max_bytes: usize::MAX,
        max_depth: u16::MAX,
        max_members: u32::MAX,
        max_values: u32::MAX,
    };
    let test = move || {
        for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
            let levels = usize::from(Limits::DEEPEST) / open.matches(['[', '{']).count();
            let fits = format!("{}0{}", open.repeat(levels), close.repeat(levels));
            assert_eq!(
                canonicalise(fits.as_bytes(), &limits).as_deref(),
                Ok(fits.as_bytes())
            );
            assert_eq!(check(fits.as_bytes(), &limits), Ok(()));
            let over = open.repeat(100_000);
            assert_eq!(
                outcome(check(over.as_bytes(), &limits)).map_err(|(kind, _)| kind),
                Err(Kind::TooDeep)
            );
            assert_eq!(
                outcome(canonicalise(over.as_bytes(), &limits)).map_err(|(kind, _)| kind),
                Err(Kind::TooDeep)
            );
        }
    };
    let thread = std::thread::Builder::new()
        .stack_size(512 * 1024)
        .spawn(test)
        .expect("a thread");
    thread.join().expect("no overflow");
}

#[test]
fn only_objects_are_scanned() {
    for (input, kind) in [
        (&b"[]"[..], Kind::NotAnObject),
        (b"\"a\"", Kind::NotAnObject),
        (b"-1", Kind::NotAnObject),
        (b"null", Kind::NotAnObject),
        (b" {}", Kind::Whitespace),
        (b"", Kind::UnexpectedEnd),
        (b"}", Kind::UnexpectedByte),
    ] {
        let scanned =
            scan_object::<CanonicalError>(input, &Limits::default(), |_| panic!("nothing to visit"));
        assert_eq!(
            outcome(scanned),
            Err((kind, 0)),
            "{}",
            String::from_utf8_lossy(input)
        );
    }
}

#[test]
fn what_serde_cannot_get_past_us() {
    #[derive(Serialize)]
    struct Twice {
        a: u8,
        #[serde(flatten)]
        more: BTreeMap<&'static str, u8>,
    }
    struct Angry;
    impl Serialize for Angry {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("the secret is 1234"))
        }
    }
    let limits = Limits::default();
    assert_eq!(
        outcome(to_canonical(&[1.0, f64::NAN], &limits)),
        Err((Kind::NumberOutOfRange, 3))
    );
    assert_eq!(
        outcome(to_canonical(&f64::NEG_INFINITY, &limits)),
        Err((Kind::NumberOutOfRange, 0))
    );
    assert_eq!(
        outcome(to_canonical(&f32::INFINITY, &limits)),
        Err((Kind::NumberOutOfRange, 0))
    );
    assert_eq!(
        outcome(to_canonical(&(1_u64 << 53), &limits)),
        Err((Kind::IntegerTooLarge, 0))
    );
    assert_eq!(
        outcome(to_canonical(&i64::MIN, &limits)),
        Err((Kind::IntegerTooLarge, 0))
    );
    assert_eq!(
        outcome(to_canonical(&i128::MIN, &limits)),
        Err((Kind::IntegerTooLarge, 0))
    );
    assert_eq!(
        outcome(to_canonical(&u128::MAX, &limits)),
        Err((Kind::IntegerTooLarge, 0))
    );
    assert_eq!(
        outcome(to_canonical(&1e20, &limits)),
        Err((Kind::IntegerTooLarge, 0))
    );
    let twice = Twice {
        a: 1,
        more: BTreeMap::from([("a", 2)]),
    };
    assert_eq!(
        outcome(to_canonical(&twice, &limits)),
        Err((Kind::DuplicateMember, 6))
    );
    for key in [Some(None), None::<Option<()>>] {
        let kind = to_canonical(&HashMap::from([(key, 1)]), &limits).map_err(|error| error.kind);
        assert_eq!(kind, Err(Kind::NotSerialisable));
    }
    let kind = to_canonical(&HashMap::from([([1, 2], 1)]), &limits).map_err(|error| error.kind);
    assert_eq!(kind, Err(Kind::NotSerialisable));
    let error = to_canonical(&Angry, &limits).expect_err("angry");
    assert_eq!((error.kind, error.offset), (Kind::NotSerialisable, 0));
    assert!(
        !format!("{error} {error:?}").contains("1234"),
        "an error holds nothing of the document"
    );
}

#[test]
fn a_visitor_ends_the_scan_with_its_own_error() {
    #[derive(Debug, PartialEq)]
    enum Mine {
        Json(CanonicalError),
        Enough,
    }
    impl From<CanonicalError> for Mine {
        fn from(error: CanonicalError) -> Self {
            Self::Json(error)
        }
    }
    let mut seen = Vec::new();
    let input = b"{\"a\":1,\"b\":2,\"c\":broken";
    let result = scan_object(input, &Limits::default(), |member| {
        seen.push(member.name.into_owned());
        if seen.len() == 2 {
            Err(Mine::Enough)
        } else {
            Ok(())
        }
    });
    assert_eq!(
        (result, &seen[..]),
        (Err(Mine::Enough), &["a".to_owned(), "b".to_owned()][..])
    );

    let result = scan_object(input, &Limits::default(), |_| Ok(()));
    assert_eq!(
        result,
        Err(Mine::Json(check(input, &Limits::default()).expect_err("broken")))
    );
}

fn outcome<T>(result: Result<T, CanonicalError>) -> Result<(), (Kind, usize)> {
    result.map(drop).map_err(|error| (error.kind, error.offset))
}
