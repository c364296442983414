//! Any bytes: accepted exactly if they are canonical, and read as what they say.
#![no_main]

#[path = "../../crates/ifmsg/tests/support/fuzz_properties.rs"]
#[allow(dead_code, reason = "shared by all targets")]
mod fuzz_properties;

libfuzzer_sys::fuzz_target!(|data: &[u8]| fuzz_properties::check_holds(data));
