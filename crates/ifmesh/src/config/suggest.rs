//! "Did you mean": a name that is nearly right.

/// The known name that is nearest to this one, if any is near.
pub(crate) fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    let distance = |one: &&str| strsim::damerau_levenshtein(name, one);
    let best = known.iter().copied().min_by_key(distance)?;
    (distance(&best) <= (name.len() / 3).max(2)).then_some(best)
}

/// Adds a suggestion to what serde says about an unknown name: "unknown field `a`, expected one of `b`, `c`".
pub(crate) fn with_suggestion(error: &str) -> String {
    let Some((_, unknown)) = error.split_once("unknown ") else {
        return error.trim_end().to_owned();
    };
    let quoted: Vec<&str> = unknown.split('`').skip(1).step_by(2).collect();
    let [name, known @ ..] = &quoted[..] else {
        return error.trim_end().to_owned();
    };
    match nearest(name, known) {
        Some(near) => format!("{}\ndid you mean `{near}`?", error.trim_end()),
        None => error.trim_end().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        let said = "unknown field `singaling`, expected one of `signaling`, `addresses`";
        assert!(with_suggestion(said).ends_with("did you mean `signaling`?"));
        let said = "unknown field `pigeons`, expected one of `signaling`, `addresses`";
        assert_eq!(with_suggestion(said), said);
        assert_eq!(with_suggestion("expected a string"), "expected a string");
        assert_eq!(nearest("webrct", &["dds", "relay", "webrtc"]), Some("webrtc"));
    }
}
