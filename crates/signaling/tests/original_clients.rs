//! Clients of the original protocol work unchanged against a server in open mode.
//!
//! Falsified by any difference, down to the order of members, between what the original server answered and what this one does.

mod common;

use common::*;

#[tokio::test]
async fn the_original_transcript_character_by_character() {
    let server = start(open()).await;
    let mut a = Raw::connect(&server).await;
    a.send(r#"{"type":"register","agent_id":"agent-a"}"#).await;
    assert_eq!(
        a.text().await,
        r#"{"type":"registered","agent_id":"agent-a","connected_agents":[]}"#
    );
    let mut b = Raw::connect_to(&format!("{}/any/path?x=1", url(server.local_addr()))).await;
    b.send(r#"{"type":"register","agent_id":"agent-b"}"#).await;
    assert_eq!(
        b.text().await,
        r#"{"type":"registered","agent_id":"agent-b","connected_agents":["agent-a"]}"#
    );
    assert_eq!(a.text().await, r#"{"type":"agent-joined","agent_id":"agent-b"}"#);

    let offer = r#"{"type":"offer","from":"agent-b","to":"agent-a","offer":{"type":"offer","sdp":"v=0\r\no=- 1 2 IN IP4 0.0.0.0\r\n"}}"#;
    b.send(offer).await;
    assert_eq!(a.text().await, offer);
    let answer =
        r#"{"type":"answer","from":"agent-a","to":"agent-b","answer":{"type":"answer","sdp":"v=0\r\n"}}"#;
    a.send(answer).await;
    assert_eq!(b.text().await, answer);
    let candidate = r#"{"type":"ice-candidate","from":"agent-a","to":"agent-b","candidate":{"candidate":"candidate:1 1 UDP 1 10.0.0.1 9 typ host","sdpMLineIndex":0,"sdpMid":"0","usernameFragment":null}}"#;
    a.send(candidate).await;
    assert_eq!(b.text().await, candidate);

    a.send(r#"{"type":"offer","from":"agent-a","to":"agent-x","offer":{"type":"offer","sdp":"v=0\r\n"}}"#)
        .await;
    assert_eq!(
        a.text().await,
        r#"{"type":"error","message":"Error: Agent agent-x not found"}"#
    );
    // The original dropped a candidate for an absent agent without a word; what is answered next is the second frame.
    a.send(
        r#"{"type":"ice-candidate","from":"agent-a","to":"agent-x","candidate":{"candidate":"","sdpMid":"0"}}"#,
    )
    .await;
    a.send(r#"{"type":"register","agent_id":"agent-a"}"#).await;
    assert_eq!(
        a.text().await,
        r#"{"type":"registered","agent_id":"agent-a","connected_agents":["agent-b"]}"#
    );

    drop(b);
    assert_eq!(a.text().await, r#"{"type":"agent-left","agent_id":"agent-b"}"#);
    assert_eq!(server.metrics().candidates_dropped, 1);
    server.shutdown().await;
}

#[tokio::test]
async fn a_client_without_a_key_sees_a_proven_one_as_the_original_would() {
    let server = start(open()).await;
    let mut plain = Raw::connect(&server).await;
    plain.register_plain("plain").await;
    let mut proven = Raw::connect(&server).await;
    let answer = proven.prove("proven", &identity(1), 1).await;
    assert_eq!(answer["agents"][0]["agent_id"], "plain");
    assert_eq!(
        plain.text().await,
        r#"{"type":"agent-joined","agent_id":"proven"}"#
    );
}

/// The original let anybody take any name. Here the living keep theirs, and the dead do not.
#[tokio::test]
async fn a_name_without_a_key_stays_with_the_living_and_leaves_the_dead() {
    let mut config = open();
    config.limits.probe_timeout = std::time::Duration::from_millis(100);
    let server = start(config).await;
    let mut first = Raw::connect(&server).await;
    first.register_plain("a").await;
    // Reads, and so answers pings.
    let reading = tokio::spawn(async move { first.close_code().await });
    let mut second = Raw::connect(&server).await;
    assert_eq!(
        second.register_plain("a").await["message"],
        "Error: Agent a belongs to another client"
    );

    // Does not read: to the server it is a half-open connection.
    let mut dead = Raw::connect(&server).await;
    dead.register_plain("b").await;
    let mut heir = Raw::connect(&server).await;
    assert_eq!(heir.register_plain("b").await["type"], "registered");
    assert_eq!(dead.close_code().await, Some(4003));

    server.shutdown().await;
    assert_eq!(reading.await.unwrap(), Some(1001));
}
