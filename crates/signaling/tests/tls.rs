//! `wss://`.
//!
//! Falsified if a client talks to a server whose certificate it has no reason to take, or not to one that it has.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use common::*;
use ifmesh_signaling::{Client, ClientConfig, ClientTls, DisconnectReason, Event, ServerTls, TlsError};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

/// A certificate for these names that vouches for itself, and its key; both PEM.
fn certificate(names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

fn connect(url: String, tls: ClientTls) -> Client {
    let mut config = ClientConfig::new([url], id("alice"), identity(1), 1);
    config.tls = tls;
    Client::connect(config, random()).unwrap()
}

#[tokio::test]
async fn a_client_registers_over_tls_with_the_authority_it_was_given() {
    let (pem, key) = certificate(&["localhost", "127.0.0.1"]);
    let mut settings = config();
    settings.tls = Some(ServerTls::from_pem(pem.as_bytes(), key.as_bytes()).unwrap());
    let server = start(settings).await;
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("wss://{host}:{}", server.local_addr().port());
        let mut client = connect(url, ClientTls::from_ca_pem(pem.as_bytes()).unwrap());
        registered(&mut client).await;
        client.close().await;
    }
    server.shutdown().await;
}

#[tokio::test]
async fn a_server_is_not_talked_to_for_the_wrong_name_or_authority() {
    let (pem, key) = certificate(&["signaling.example"]);
    let (other, _) = certificate(&["localhost"]);
    let mut settings = config();
    settings.tls = Some(ServerTls::from_pem(pem.as_bytes(), key.as_bytes()).unwrap());
    let server = start(settings).await;
    let url = format!("wss://localhost:{}", server.local_addr().port());
    for (tls, why) in [
        (
            ClientTls::from_ca_pem(pem.as_bytes()).unwrap(),
            "not valid for name",
        ),
        (
            ClientTls::from_ca_pem(other.as_bytes()).unwrap(),
            "invalid peer certificate",
        ),
        (ClientTls::web(), "UnknownIssuer"),
    ] {
        let mut client = connect(url.clone(), tls);
        match event(&mut client).await {
            Event::Disconnected {
                reason: DisconnectReason::Unreachable { error, .. },
                ..
            } => assert!(error.contains(why), "{error}"),
            other => panic!("a refusal was expected: {other:?}"),
        }
    }
    assert_eq!(server.metrics().registrations, 0);
}

/// A server that cannot be overheard must not be left for one that can.
#[tokio::test]
async fn nobody_is_lured_from_tls() {
    let plain = start(config()).await;
    let (pem, key) = certificate(&["localhost"]);
    let mut settings = config();
    settings.tls = Some(ServerTls::from_pem(pem.as_bytes(), key.as_bytes()).unwrap());
    settings.alternatives = vec![common::url(plain.local_addr())];
    let server = start(settings).await;
    let url = format!("wss://localhost:{}", server.local_addr().port());
    let mut client = connect(url.clone(), ClientTls::from_ca_pem(pem.as_bytes()).unwrap());
    registered(&mut client).await;
    server.shutdown().await;
    // It looks for its own server, twice, and never for the other.
    for _ in 0..2 {
        event_where(&mut client, |event| {
            matches!(event, Event::Disconnected { reason: DisconnectReason::Unreachable { url: at, .. }, .. } if *at == url)
        })
        .await;
    }
    assert_eq!(plain.metrics().connections_accepted, 0);
}

/// Who speaks plainly to a TLS port, or does not speak, gets nothing and holds nobody up.
#[tokio::test]
async fn plain_and_silent_clients_of_a_tls_port_are_dropped() {
    let (pem, key) = certificate(&["localhost"]);
    let mut settings = config();
    settings.tls = Some(ServerTls::from_pem(pem.as_bytes(), key.as_bytes()).unwrap());
    settings.limits.registration_timeout = std::time::Duration::from_millis(300);
    let server = start(settings).await;
    let mut silent = TcpStream::connect(server.local_addr()).await.unwrap();
    let mut plain = TcpStream::connect(server.local_addr()).await.unwrap();
    plain
        .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    for stream in [&mut plain, &mut silent] {
        let mut answer = Vec::new();
        let _ = timeout(SOON, stream.read_to_end(&mut answer)).await.unwrap();
        assert!(!answer.starts_with(b"HTTP"), "{answer:?}");
    }
    let url = format!("wss://localhost:{}", server.local_addr().port());
    let mut client = connect(url, ClientTls::from_ca_pem(pem.as_bytes()).unwrap());
    registered(&mut client).await;
    assert_eq!(server.metrics().handshakes_failed, 1);
    assert_eq!(server.metrics().registration_timeouts, 1);
}

#[test]
fn files_that_are_not_what_they_should_be_are_refused_without_showing_them() {
    let (pem, key) = certificate(&["localhost"]);
    let (_, other_key) = certificate(&["localhost"]);
    let bad = |pem: &str, key: &str| ServerTls::from_pem(pem.as_bytes(), key.as_bytes()).unwrap_err();
    assert!(matches!(bad("", &key), TlsError::NoCertificate(_)));
    assert_eq!(bad(&pem, ""), TlsError::NoKey);
    assert_eq!(bad(&pem, &pem), TlsError::NoKey);
    assert!(matches!(bad(&pem, &other_key), TlsError::Unusable(_)));
    assert!(matches!(
        ClientTls::from_ca_pem(key.as_bytes()).unwrap_err(),
        TlsError::NoCertificate(_)
    ));
    let tls = ServerTls::from_pem(pem.as_bytes(), key.as_bytes()).unwrap();
    assert_eq!(format!("{tls:?}"), "ServerTls { .. }");
}
