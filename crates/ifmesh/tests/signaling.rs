//! `ifmesh signaling` as an operator runs it.
//!
//! Falsified if a flag does not do what its help says, or if a file that is not what it should be starts a server all the same.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use std::{
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Stdio,
};

use common::{Running, agent, code, ifmesh, run, stderr, stdout};

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

/// An authority of one's own, as an operator has it: its certificate, and one that it gave to a server on this machine. PEM files
/// in `folder`.
fn authority(folder: &Path) {
    let write = |name: &str, text: String| fs::write(folder.join(name), text).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    write("authority.pem", params.self_signed(&key).unwrap().pem());
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    write("cert.pem", params.signed_by(&key, &issuer).unwrap().pem());
    write("key.pem", key.serialize_pem());
}

/// Fails if a file cannot say whose certificates to take and which server to register with, for either kind of transport, or if
/// what it says is not kept to.
#[test]
fn agents_meet_at_a_server_that_their_own_authority_vouches_for() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    authority(folder);
    let path = |name: &str| folder.join(name).display().to_string();
    let (cert, key) = (path("cert.pem"), path("key.pem"));
    let server = Running::start(ifmesh().args([
        "signaling",
        "--listen",
        "127.0.0.1:0",
        "--name",
        "meeting-point",
        "--tls-cert",
        &cert,
        "--tls-key",
        &key,
        "--json",
    ]));
    let listening = server.event("listening");
    let port = listening["url"]
        .as_str()
        .unwrap()
        .rsplit_once(':')
        .unwrap()
        .1
        .to_owned();
    let url = format!("wss://localhost:{port}");
    let swarm = folder.join("swarm");
    let made = run(&[
        "init",
        swarm.to_str().unwrap(),
        "--names",
        "one,other",
        "--signaling",
        &url,
    ]);
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    // By each kind of transport alone. The path is relative to the file.
    for road in ["webrtc", "relay"] {
        let table = format!(
            "[transport.{road}]\nsignaling = [\"{url}\"]\nca = \"../authority.pem\"\nserver_id = \"meeting-point\"\n\
             [transport.{road}.limits]\nsilence_seconds = 30\n"
        );
        for name in ["one", "other"] {
            let file = swarm.join(format!("{name}.toml"));
            let written = fs::read_to_string(&file).unwrap();
            let (agent, _) = written.split_once("[transport.").unwrap();
            fs::write(&file, agent.to_owned() + &table).unwrap();
        }
        let checked = run(&["config", "check", "--config", &path("swarm/one.toml")]);
        assert_eq!(code(&checked), 0, "{}", stderr(&checked));
        for line in [
            "authority.pem\"",
            "server_id = \"meeting-point\"",
            "limits.silence_seconds = 30",
        ] {
            assert!(stdout(&checked).contains(line), "{}", stdout(&checked));
        }
        let (mut one, other) = (agent(&swarm, "one"), agent(&swarm, "other"));
        one.say(&format!(
            "{{\"to\":\"other\",\"id\":\"by-{road}\",\"payload\":{{}}}}"
        ));
        other.event_where("message", |event| event["message"]["id"] == format!("by-{road}"));
        one.event_where("acknowledged", |event| event["id"] == format!("by-{road}"));
    }

    let mut misled = ifmesh();
    misled.env("IFMESH_CONFIG__TRANSPORT__RELAY__SERVER_ID", "elsewhere");
    misled.args(["agent", "--config", &path("swarm/one.toml")]);
    let refused = misled.stdin(Stdio::null()).output().unwrap();
    assert_ne!(code(&refused), 0);
    assert!(
        stderr(&refused).contains("calls itself meeting-point"),
        "{}",
        stderr(&refused)
    );
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
