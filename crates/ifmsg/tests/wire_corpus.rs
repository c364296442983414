//! Replays the committed fuzz corpora of frames, trust documents and keys, each of whose files also with every byte changed.
//!
//! Falsified by any file there, or any neighbour of it, for which a property of `support/fuzz_wire.rs` does not hold.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking"
)]

#[path = "support/fuzz_wire.rs"]
mod fuzz_wire;

use std::{fs, path::Path};

#[test]
fn decode_frame() {
    replay("decode_frame", fuzz_wire::decode_frame_holds);
}

#[test]
fn admit() {
    replay("admit", fuzz_wire::admit_holds);
}

#[test]
fn trust_document() {
    replay("trust_document", fuzz_wire::trust_document_holds);
}

#[test]
fn did_key() {
    replay("did_key", fuzz_wire::did_key_holds);
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
        let mut bytes = fs::read(&path).expect("readable");
        property(&bytes);
        for at in 0..bytes.len() {
            let kept = bytes[at];
            for other in [kept ^ 1, kept ^ 0x20, b'"', 0, 0xff] {
                bytes[at] = other;
                property(&bytes);
            }
            bytes[at] = kept;
            property(&bytes[..at]);
        }
        count += 1;
    }
    assert!(count > 4, "the corpus of {target} is not empty");
}
