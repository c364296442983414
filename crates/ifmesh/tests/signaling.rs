//! `ifmesh signaling` as an operator runs it.
//!
//! Falsified if a flag does not do what its help says, or if a file that is not what it should be starts a server all the same.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
};

use common::{Running, code, ifmesh, run, stderr};

/// What an address answers to a request for this path.
fn get(url: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn health_and_metrics_have_an_address_of_their_own() {
    let server = Running::start(ifmesh().args([
        "signaling",
        "--listen",
        "127.0.0.1:0",
        "--admin",
        "127.0.0.1:0",
        "--json",
    ]));
    let listening = server.event("listening");
    let admin = listening["admin"].as_str().unwrap();
    assert!(get(admin, "/healthz").starts_with("HTTP/1.1 200 OK\r\n"));
    assert!(get(admin, "/metrics").contains("\nifmesh_signaling_agents 0\n"));
    server.signal("TERM");
    let (rest, code) = server.rest();
    assert_eq!((rest.len(), code), (1, 0), "{rest:?}");
    assert!(rest[0].contains("closed"), "{rest:?}");
}

#[test]
fn with_a_certificate_it_speaks_tls_and_with_half_of_one_it_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    fs::write(path("cert.pem"), made.cert.pem()).unwrap();
    fs::write(path("key.pem"), made.signing_key.serialize_pem()).unwrap();
    let server = Running::start(ifmesh().args([
        "signaling",
        "--listen",
        "127.0.0.1:0",
        "--tls-cert",
        &path("cert.pem"),
        "--tls-key",
        &path("key.pem"),
        "--json",
    ]));
    let listening = server.event("listening");
    assert!(
        listening["url"].as_str().unwrap().starts_with("wss://"),
        "{listening}"
    );

    let alone = run(&["signaling", "--tls-cert", &path("cert.pem")]);
    assert_eq!(code(&alone), 2);
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    for (cert, key, why) in [
        (&key, &key, "no certificate"),
        (&cert, &cert, "no private key"),
        (&path("none.pem"), &key, "cannot read"),
    ] {
        let refused = run(&["signaling", "--tls-cert", cert, "--tls-key", key]);
        assert_eq!(code(&refused), 2);
        assert!(stderr(&refused).contains(why), "{}", stderr(&refused));
    }
}

#[test]
fn turn_servers_need_their_secret() {
    let folder = tempfile::tempdir().unwrap();
    let secret = folder.path().join("secret");
    fs::write(&secret, "north wind\n").unwrap();
    let secret = secret.to_str().unwrap();
    let alone = run(&["signaling", "--turn", "turn:127.0.0.1:3478"]);
    assert_eq!(code(&alone), 2);
    let long = run(&[
        "signaling",
        "--turn",
        "turn:x:1",
        "--turn-secret-file",
        secret,
        "--turn-ttl",
        "1",
    ]);
    assert_eq!(code(&long), 2);
    let server = Running::start(ifmesh().args([
        "signaling",
        "--listen",
        "127.0.0.1:0",
        "--turn",
        "turn:127.0.0.1:3478",
        "--turn-secret-file",
        secret,
        "--json",
    ]));
    server.event("listening");
}
