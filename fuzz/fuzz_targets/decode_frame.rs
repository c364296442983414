//! Any bytes: refused, or read as a frame that is written again as it was.
#![no_main]

#[path = "../../crates/ifmsg/tests/support/fuzz_wire.rs"]
#[allow(dead_code, reason = "shared by all targets")]
mod fuzz_wire;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_wire::decode_frame_holds(data));
