//! TURN credentials that the signaling server hands out, against coturn.
//!
//! Falsified if coturn does not take what the signaling server makes of the secret that they share, or takes what another secret
//! makes; or if an agent that was configured without TURN servers does not use those that it was handed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

use std::{net::UdpSocket, process::Command, sync::Arc, time::Duration};

use ifmesh_signaling::{IceConfig, Server, ServerConfig};
use ifmesh_tests::program::Running;
use ifmesh_transport::{Clock as _, IfTransport as _, Path, PeerTrust, SystemClock, TransportEvent};
use ifmesh_transport_webrtc::{WebRtcConfig, WebRtcTransport};
use ifmsg::{AgentId, Identity};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::time::timeout;

const SECRET: &str = "north wind";
const SOON: Duration = Duration::from_secs(30);
/// Longer than a link over TURN takes.
const HOPELESS: Duration = Duration::from_secs(5);

/// coturn with the secret, and its port.
fn turn(folder: &std::path::Path) -> (Running, u16) {
    // Nobody takes it before coturn does.
    let port = UdpSocket::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let file = |name| folder.join(name).display().to_string();
    let mut command = Command::new("turnserver");
    command.args([
        "-n",
        "--no-cli",
        "--no-tls",
        "--no-dtls",
        "--allow-loopback-peers",
    ]);
    command.args(["--use-auth-secret", "--realm=ifmesh", "--log-file=stdout"]);
    command.args([
        format!("--static-auth-secret={SECRET}"),
        "--listening-ip=127.0.0.1".to_owned(),
        "--relay-ip=127.0.0.1".to_owned(),
        format!("--listening-port={port}"),
        format!("--pidfile={}", file("turn.pid")),
        format!("--userdb={}", file("turn.db")),
    ]);
    let turn = Running::start("coturn", &mut command);
    // RFC 8489: a binding request with nothing in it.
    let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    for _ in 0..400 {
        let _ = socket.send_to(&request, ("127.0.0.1", port));
        if socket.recv_from(&mut [0; 512]).is_ok() {
            return (turn, port);
        }
    }
    panic!("coturn does not answer");
}

async fn signaling(port: u16, secret: &str) -> Server {
    let id = AgentId::new("signaling").unwrap();
    let mut config = ServerConfig::new("127.0.0.1:0".parse().unwrap(), id);
    let ice = IceConfig::new([""; 0], || SystemClock.now());
    let url = format!("turn:127.0.0.1:{port}");
    config.ice = Some(ice.turn([url], secret.as_bytes(), Duration::from_secs(600)));
    Server::bind(config, StdRng::from_seed([1; 32])).await.unwrap()
}

/// An agent that shows itself to peers by relayed candidates only, and knows no TURN server.
async fn agent(server: &Server, name: &str, seed: u8) -> Arc<WebRtcTransport> {
    let keys = |peer: &AgentId| {
        let seed = if peer.as_str() == "alice" { 1 } else { 2 };
        PeerTrust::Key(*Identity::from_seed(&[seed; 32]).public_key())
    };
    let urls = [format!("ws://{}", server.local_addr())];
    let identity = Identity::from_seed(&[seed; 32]);
    let mut config = WebRtcConfig::new(AgentId::new(name).unwrap(), identity, 1, urls, Arc::new(keys));
    config.bind = vec!["127.0.0.1:0".parse().unwrap()];
    config.relay_only = true;
    let random = Box::new(StdRng::from_seed([seed; 32]));
    WebRtcTransport::start(config, Arc::new(SystemClock), random)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_meet_over_a_turn_server_that_only_the_signaling_server_knows() {
    let folder = tempfile::tempdir().unwrap();
    let (_turn, port) = turn(folder.path());
    let server = signaling(port, SECRET).await;
    let (alice, bob) = (agent(&server, "alice", 1).await, agent(&server, "bob", 2).await);
    let up = async {
        loop {
            match alice.recv().await.unwrap() {
                TransportEvent::LinkUp { .. } => break,
                other => eprintln!("{other:?}"),
            }
        }
    };
    timeout(SOON, up).await.expect("a link over TURN");
    assert_eq!(alice.links()[0].path, Some(Path::Relayed));
    drop((alice, bob));

    // The same with a secret that coturn does not know: no allocation, no candidate, no link.
    let server = signaling(port, "south wind").await;
    let (alice, bob) = (agent(&server, "alice", 1).await, agent(&server, "bob", 2).await);
    let up = async {
        loop {
            if let TransportEvent::LinkUp { .. } = alice.recv().await.unwrap() {
                break;
            }
        }
    };
    assert!(timeout(HOPELESS, up).await.is_err(), "coturn took a wrong secret");
    drop(bob);
}
