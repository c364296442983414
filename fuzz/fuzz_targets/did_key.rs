//! Any text: refused, or the only spelling of its key.
#![no_main]

#[path = "../../crates/ifmsg/tests/support/fuzz_wire.rs"]
#[allow(dead_code, reason = "shared by all targets")]
mod fuzz_wire;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_wire::did_key_holds(data));
