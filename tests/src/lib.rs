//! What the tests in `tests/` share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::needless_range_loop,
    reason = "a test ends where something is wrong"
)]

#[cfg(target_os = "linux")]
pub mod internet;
pub mod interop;
pub mod program;
pub mod traffic;
