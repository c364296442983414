//! Replays the committed fuzz corpora, so that what the fuzzers once reached stays covered by a plain `cargo test`.
//!
//! Falsified by any file there for which a property of `support/fuzz_properties.rs` does not hold.
#![allow(clippy::expect_used, reason = "a test may panic")]

#[path = "support/fuzz_properties.rs"]
mod fuzz_properties;

use std::{fs, path::Path};

#[test]
fn canonicalise() {
    replay("canonicalise", fuzz_properties::canonicalise_holds);
}

#[test]
fn canonical_check() {
    replay("canonical_check", fuzz_properties::check_holds);
}

fn replay(target: &str, property: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../fuzz/corpus")
        .join(target);
    let mut count = 0;
    for entry in fs::read_dir(&folder).expect("the corpus is committed") {
        let path = entry.expect("readable").path();
        // A failing property panics: this says on which file.
        println!("{}", path.display());
        property(&fs::read(&path).expect("readable"));
        count += 1;
    }
    assert!(
        count >= 30,
        "{} holds {count} files: the corpus is gone",
        folder.display()
    );
}
