//! The paths between agents beyond IPv4 on loopback: IPv6, and a TURN server (coturn) with credentials from the agent's own
//! configuration and from the signaling server.
//!
//! Falsified by a link that does not come, goes another way than it says, or by a relay through which a round trip takes the
//! 200 ms of the library's timers.
//!
//! Those with a relay need `turnserver` (Debian: coturn), and say so where it is missing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

mod common;

use std::{
    net::{SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    time::Duration,
};

use common::*;
use ifmesh_signaling::{IceConfig, Server, ServerConfig};
use ifmesh_transport::{Clock as _, IfTransport as _, LinkStatus, Path, SystemClock};
use ifmesh_transport_webrtc::{IceServer, WebRtcTransport};
use tokio::time::Instant;

struct Coturn {
    child: Child,
    address: SocketAddr,
}

impl Coturn {
    /// `None`: it is not installed.
    fn start(credentials: &[&str]) -> Option<Self> {
        let free = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let folder = std::env::temp_dir().join(format!("ifmesh-coturn-{}", free.port()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = |name: &str| folder.join(name).display().to_string();
        let child = Command::new("turnserver")
            .args([
                "-n",
                "--no-cli",
                "--no-tls",
                "--no-dtls",
                "--allow-loopback-peers",
            ])
            .args([
                "--listening-ip=127.0.0.1",
                "--relay-ip=127.0.0.1",
                "--realm=ifmesh",
            ])
            .arg(format!("--listening-port={}", free.port()))
            .arg(format!("--pidfile={}", file("pid")))
            .arg(format!("--userdb={}", file("db")))
            .arg("--log-file=stdout")
            .args(credentials)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        let Ok(child) = child else {
            eprintln!("turnserver is missing: install coturn to test relayed paths");
            return None;
        };
        let coturn = Self { child, address: free };
        // RFC 8489: a binding request with nothing in it.
        let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        for _ in 0..200 {
            let _ = socket.send_to(&request, free);
            if socket.recv_from(&mut [0; 512]).is_ok() {
                return Some(coturn);
            }
        }
        panic!("coturn does not answer");
    }

    fn url(&self) -> String {
        format!("turn:{}?transport=udp", self.address)
    }
}

impl Drop for Coturn {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn link(transport: &WebRtcTransport) -> LinkStatus {
    transport.links().remove(0)
}

/// The median of some round trips.
async fn round_trip(alice: &WebRtcTransport, bob: &WebRtcTransport) -> Duration {
    let mut took = Vec::new();
    for _ in 0..21 {
        let started = Instant::now();
        exchange(alice, bob).await;
        took.push(started.elapsed());
    }
    took.sort_unstable();
    took[10]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_link_over_ipv6() {
    if UdpSocket::bind("[::1]:0").is_err() {
        return eprintln!("there is no IPv6 here, not even on loopback");
    }
    let server = server().await;
    let [alice, bob] = ["alice", "bob"].map(|name| {
        let mut config = config(&url(&server), name, 1);
        config.bind = vec!["[::1]:0".parse().unwrap()];
        start(config)
    });
    let (alice, bob) = tokio::join!(alice, bob);
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    exchange(&alice, &bob).await;
    let link = link(&alice);
    assert_eq!(link.path, Some(Path::Direct));
    assert!(link.local.unwrap().contains(" udp [::1]:"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_hide_link_through_a_relay() {
    let Some(coturn) = Coturn::start(&["--lt-cred-mech", "--user=me:secret"]) else {
        return;
    };
    let server = server().await;
    let [alice, bob] = ["alice", "bob"].map(|name| {
        let mut config = config(&url(&server), name, 1);
        config.relay_only = true;
        let mut turn = IceServer::stun(coturn.url());
        turn.username = "me".to_owned();
        turn.credential = "secret".to_owned();
        // Several servers, of which one is not there.
        config.ice_servers = vec![IceServer::stun("stun:127.0.0.1:9"), turn];
        start(config)
    });
    let (alice, bob) = tokio::join!(alice, bob);
    let started = Instant::now();
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    eprintln!("a relayed link after {:?}", started.elapsed());
    for side in [&alice, &bob] {
        let link = link(side);
        assert_eq!(link.path, Some(Path::Relayed), "{link:?}");
        assert!(link.local.unwrap().starts_with("relay udp 127.0.0.1:"));
    }
    // Two ways there and back.
    let took = round_trip(&alice, &bob).await;
    eprintln!("there and back through the relay, twice: {took:?}");
    assert!(took < Duration::from_millis(100), "{took:?}");
}

/// As `ice_servers` hands them out: with a secret that only the two servers share.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_signaling_servers_credentials_open_the_relay() {
    let Some(coturn) = Coturn::start(&["--use-auth-secret", "--static-auth-secret=shared"]) else {
        return;
    };
    let mut config = ServerConfig::new("127.0.0.1:0".parse().unwrap(), id("server-1"));
    let ice = IceConfig::new(Vec::<String>::new(), || SystemClock.now());
    config.ice = Some(ice.turn([coturn.url()], b"shared", Duration::from_secs(600)));
    let server = Server::bind(config, random(1)).await.unwrap();
    let [alice, bob] = ["alice", "bob"].map(|name| {
        let mut config = common::config(&url(&server), name, 1);
        config.relay_only = true;
        start(config)
    });
    let (alice, bob) = tokio::join!(alice, bob);
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    exchange(&alice, &bob).await;
    assert_eq!(link(&alice).path, Some(Path::Relayed));
}
