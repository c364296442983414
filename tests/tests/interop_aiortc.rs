//! An agent over aiortc, written in Python from PROTOCOL.md, talks with ours: tests/interop/aiortc_peer.py.
//!
//! Falsified by anything that PROTOCOL.md says and our agent does not do or understand: registration with a proven key,
//! signed descriptions, candidates, the hello on the channel, the session's hello, floors and acknowledgements, both forms
//! of a message, flights in parts. And by either side taking a message that was changed after it was signed.

use ifmesh_tests::interop::{Role, act, aiortc};

#[test]
fn aiortc_offers() {
    act(Role::Offerer, aiortc);
}

#[test]
fn aiortc_answers() {
    act(Role::Answerer, aiortc);
}
