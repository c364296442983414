//! What must hold for every input, whatever its bytes: called by the fuzz targets, and by tests on the committed corpora.

use ifmsg::canonical::{
    CanonicalError, CanonicalErrorKind as Kind, Limits, Value, ValueKind, canonicalise, check, scan_object,
    write_string,
};

/// `canonicalise` refuses, or what it returns is canonical and means the same.
pub(crate) fn canonicalise_holds(input: &[u8]) {
    let limits = Limits::default();
    let foreign = serde_json::from_slice::<serde_json::Value>(input);
    match canonicalise(input, &limits) {
        Ok(canonical) => {
            assert_eq!(
                canonicalise(&canonical, &limits).as_ref(),
                Ok(&canonical),
                "it is idempotent"
            );
            assert_eq!(
                check(&canonical, &limits),
                Ok(()),
                "what it returns passes the check"
            );
            assert_eq!(
                check(input, &limits).is_ok(),
                input == canonical,
                "the check agrees"
            );
            let before = foreign.expect("what is taken is JSON");
            let after = serde_json::from_slice(&canonical).expect("what is returned is JSON");
            assert!(same(&before, &after), "the value is the same");
        }
        Err(error) => {
            assert!(error.offset <= input.len(), "{error}");
            assert!(
                !error.is_spelling(),
                "spelling is nothing to refuse here: {error}"
            );
            assert!(check(input, &limits).is_err(), "the check refuses as well");
            if foreign.is_ok() {
                let profile = matches!(
                    error.kind,
                    Kind::DuplicateMember
                        | Kind::IntegerTooLarge
                        | Kind::TooDeep
                        | Kind::TooManyMembers
                        | Kind::TooManyValues
                        | Kind::TooLarge
                );
                assert!(profile, "JSON is refused by the profile only: {error}");
            }
        }
    }
}

/// `check` accepts what `canonicalise` leaves unchanged and nothing else, and reads out of it what is in it.
pub(crate) fn check_holds(input: &[u8]) {
    let limits = Limits::default();
    let verdict = check(input, &limits);
    let canonical = canonicalise(input, &limits);
    match verdict {
        Ok(()) => assert_eq!(
            canonical.as_deref(),
            Ok(input),
            "what is accepted is left unchanged"
        ),
        Err(error) if error.is_spelling() => {
            assert!(
                canonical.as_deref() != Ok(input),
                "refused for its spelling: {error}"
            );
        }
        // Up to here the spelling was canonical, so both have read the same.
        Err(error) => assert_eq!(canonical, Err(error)),
    }

    let mut rebuilt = Rebuilt::default();
    let scanned = scan_object::<CanonicalError>(input, &limits, |member| {
        assert_eq!(&input[member.span.clone()], member.value.raw());
        rebuilt.member(&member.name, member.value);
        Ok(())
    });
    match (verdict, input.first()) {
        (Ok(()), Some(b'{')) => {
            assert_eq!(scanned, Ok(()));
            assert_eq!(rebuilt.object(), input, "the members are the object");
        }
        (Err(error), Some(b'{')) => assert_eq!(scanned, Err(error)),
        _ => assert!(scanned.is_err(), "no object"),
    }
}

/// Writes a value anew out of what the accessors say.
#[derive(Default)]
struct Rebuilt(Vec<u8>);

impl Rebuilt {
    fn member(&mut self, name: &str, value: Value<'_>) {
        self.0.push(if self.0.is_empty() { b'{' } else { b',' });
        write_string(&mut self.0, name);
        self.0.push(b':');
        self.0.extend(rebuild(value));
    }

    fn object(mut self) -> Vec<u8> {
        if self.0.is_empty() {
            self.0.push(b'{');
        }
        self.0.push(b'}');
        self.0
    }
}

fn rebuild(value: Value<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    match value.kind() {
        ValueKind::Null => {
            assert!(value.is_null());
            out.extend(b"null");
        }
        ValueKind::Boolean => out.extend(value.as_bool().expect("a boolean").to_string().bytes()),
        ValueKind::Number => {
            let double = value.as_f64().expect("a number");
            if let Some(integer) = value.as_integer() {
                assert_eq!(integer as f64, double);
            }
            ifmsg::canonical::write_number(&mut out, double).expect("finite");
        }
        ValueKind::String => write_string(&mut out, &value.as_str().expect("a string")),
        ValueKind::Array => {
            for element in value.elements().expect("an array") {
                out.push(if out.is_empty() { b'[' } else { b',' });
                out.extend(rebuild(element));
            }
            if out.is_empty() {
                out.push(b'[');
            }
            out.push(b']');
        }
        ValueKind::Object => {
            let mut rebuilt = Rebuilt::default();
            for (name, value) in value.members().expect("an object") {
                rebuilt.member(&name, value);
            }
            out = rebuilt.object();
        }
    }
    out
}

/// Equal, where `1` equals `1.0`: serde_json keeps the two apart. It reads doubles exactly with `float_roundtrip`, which this crate
/// asks for.
fn same(a: &serde_json::Value, b: &serde_json::Value) -> bool {
    use serde_json::Value::{Array, Number, Object};
    match (a, b) {
        (Number(a), Number(b)) => a.as_f64() == b.as_f64(),
        (Array(a), Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Object(a), Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}
