//! The vectors in `tests/vectors/signaling.json` are what another implementation checks itself against.
//!
//! Falsified if this implementation signs other bytes, spells a frame otherwise, or does not accept its own vectors.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use ifmesh_signaling::{
    ClientFrame, DescriptionToSign, ExpectedDescription, FrameLimits, Nonce, Role, SessionId, Signal,
    SignedDescription, registration_statement, sign_description, verify_description,
};
use ifmsg::{AgentId, Identity, Timestamp};
use serde_json::{Value, json};

const SDP: &str = "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n\
    m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\n\
    a=ice-ufrag:EsAw\r\na=ice-pwd:P2uYro0UCOQ4zxjKXaWCBui1\r\n\
    a=fingerprint:sha-256 AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99\r\n\
    a=setup:actpass\r\na=sctp-port:5000\r\n";

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn id(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

/// What the file must say.
fn vectors() -> Value {
    let (alice, bob) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
    let (a, b) = (id("alice"), id("bob"));
    let expires = Timestamp::parse("2026-11-22T14:10:30.000Z").unwrap();
    let session = SessionId::from_hex("000102030405060708090a0b0c0d0e0f").unwrap();
    let describe = |signer: &Identity, from: &AgentId, to: &AgentId, role, epoch, sdp: &str| {
        let description = DescriptionToSign {
            from,
            to,
            session,
            role,
            epoch,
            sdp,
            expires,
        };
        sign_description(signer, &description).unwrap()
    };
    let vector = |signed: &SignedDescription, frame: ClientFrame| {
        json!({
            "frame": serde_json::from_str::<Value>(&frame.to_text()).unwrap(),
            "signed_bytes": hex(signed.statement().as_bytes()),
            "digest": signed.digest().to_hex(),
        })
    };
    let offer = describe(&alice, &a, &b, Role::Offer, 1_795_356_600_000, SDP);
    let answer_sdp = SDP.replace("setup:actpass", "setup:active");
    let role = Role::Answer { to: offer.digest() };
    let answer = describe(&bob, &b, &a, role, 1_795_356_600_001, &answer_sdp);
    let nonce = Nonce::from_bytes([0xab; 32]);
    let registration = registration_statement(&id("server-1"), &nonce, &a, 7, alice.public_key());
    json!({
        "about": "seed: Ed25519 secret of RFC 8032. signed_bytes: what is signed. now: when the descriptions verify.",
        "now": "2026-11-22T14:10:00.000Z",
        "alice": {"seed": hex(&[1; 32]), "public_key": alice.public_key().to_hex()},
        "bob": {"seed": hex(&[2; 32]), "public_key": bob.public_key().to_hex()},
        "offer": vector(
            &offer,
            Signal::Offer { sdp: SDP.into(), statement: Some(Box::new(offer.clone())) }.into_frame(a.clone(), b.clone()),
        ),
        "answer": vector(
            &answer,
            Signal::Answer { sdp: answer_sdp, statement: Some(Box::new(answer.clone())) }.into_frame(b, a),
        ),
        "registration": {
            "register": {"type": "register", "agent_id": "alice", "public_key": alice.public_key().to_hex(), "epoch": 7},
            "challenge": {"type": "challenge", "nonce": nonce.to_hex(), "server_id": "server-1"},
            "signed_bytes": hex(registration.as_bytes()),
            "proof": {"type": "proof", "signature": alice.sign_statement(&registration).to_hex()},
        },
    })
}

#[test]
fn the_file_is_what_this_implementation_makes() {
    let file: Value = serde_json::from_str(include_str!("vectors/signaling.json")).unwrap();
    let made = vectors();
    assert_eq!(file, made, "\nmade:\n{made:#}");
}

#[test]
fn the_files_own_offer_and_answer_verify() {
    let file: Value = serde_json::from_str(include_str!("vectors/signaling.json")).unwrap();
    let limits = FrameLimits {
        max_bytes: 1 << 16,
        max_agents: 1,
    };
    let frame = |name: &str| ClientFrame::parse(&file[name]["frame"].to_string(), &limits).unwrap();
    let now = Timestamp::parse(file["now"].as_str().unwrap()).unwrap();
    let (alice, bob) = (Identity::from_seed(&[1; 32]), Identity::from_seed(&[2; 32]));
    let ClientFrame::Offer(offer) = frame("offer") else {
        panic!("an offer was expected");
    };
    let (from, to, Signal::Offer { sdp, statement }) = offer.into_signal() else {
        panic!("an offer was expected");
    };
    let expected = ExpectedDescription {
        key: alice.public_key(),
        from: &from,
        to: &to,
        role: Role::Offer,
        session: None,
        min_epoch: 0,
        now,
    };
    let offer = verify_description(statement.as_deref(), &sdp, &expected).unwrap();
    let ClientFrame::Answer(answer) = frame("answer") else {
        panic!("an answer was expected");
    };
    let (from, to, Signal::Answer { sdp, statement }) = answer.into_signal() else {
        panic!("an answer was expected");
    };
    let expected = ExpectedDescription {
        key: bob.public_key(),
        from: &from,
        to: &to,
        role: Role::Answer { to: offer.digest },
        session: Some(offer.session),
        ..expected
    };
    verify_description(statement.as_deref(), &sdp, &expected).unwrap();
}
