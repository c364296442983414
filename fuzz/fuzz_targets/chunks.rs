//! Any bytes in chunks: bounded, and what comes out has the digest that was claimed.
#![no_main]

#[path = "../../crates/transport/tests/support/fuzz_chunks.rs"]
mod fuzz_chunks;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_chunks::chunks_hold(data));
