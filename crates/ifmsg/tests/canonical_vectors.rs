//! Documents with their canonical bytes: RFC 8785's own (sections 3.2.2 to 3.2.4), and ours, made with a JavaScript engine.
//!
//! Falsified by any difference in any byte. `JCS_TESTDATA=<folder>` adds another collection with the same folders `input` and
//! `output`, such as the `testdata` that RFC 8785's author publishes with his implementations.
#![allow(clippy::expect_used, reason = "a test may panic")]

use std::{
    fs,
    path::{Path, PathBuf},
};

use ifmsg::canonical::{Limits, canonicalise, check};

#[test]
fn our_collection() {
    let count = compare(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/canonical"));
    assert!(count >= 7, "only {count} documents are there");
}

#[test]
fn another_collection() {
    match std::env::var_os("JCS_TESTDATA").map(PathBuf::from) {
        Some(folder) => assert!(compare(&folder) > 0, "no documents in {}", folder.display()),
        None => println!("SKIPPED: JCS_TESTDATA names no folder"),
    }
}

fn compare(folder: &Path) -> usize {
    let limits = Limits::default();
    let mut count = 0;
    for entry in fs::read_dir(folder.join("input")).expect("a folder `input`") {
        let path = entry.expect("readable").path();
        let input = fs::read(&path).expect("readable");
        let output = folder.join("output").join(path.file_name().expect("a file"));
        let expected = fs::read(output).expect("each input has its output");
        let ours =
            canonicalise(&input, &limits).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(
            String::from_utf8_lossy(&ours),
            String::from_utf8_lossy(&expected),
            "{}",
            path.display()
        );
        assert_eq!(check(&expected, &limits), Ok(()), "{}", path.display());
        count += 1;
    }
    count
}
