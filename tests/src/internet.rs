//! A small internet: a signaling server and a STUN and TURN server at one public address, homes behind NATs, and real
//! programs everywhere.

use std::{
    fs,
    net::UdpSocket,
    path::PathBuf,
    time::{Duration, Instant},
};

use ifmesh_testnet::{Host, Lan, NatKind, Network};
use tempfile::TempDir;

use crate::program::{PATIENCE, Running, ifmesh, init};

/// The public address of both servers.
const SERVER: &str = "203.0.113.1";
/// The next hop of all.
const BACKBONE: &str = "203.0.113.254";
/// Where the signaling server listens.
const SIGNALING: &str = "203.0.113.1:8443";
/// Where the STUN and TURN server does.
const TURN: &str = "203.0.113.1:3478";

/// The public network, its servers' machine, and a swarm whose agents know both.
#[derive(Debug)]
pub struct Internet {
    network: Network,
    wan: Lan,
    /// Everybody's next hop. What is for no address of this internet ends here in silence, as it does out there: without a route
    /// senders would be told, and coturn closes an allocation that was told so.
    _backbone: Host,
    /// The servers' machine.
    pub server: Host,
    folder: TempDir,
}

impl Internet {
    /// Without servers yet, for agents with these names.
    pub fn new(names: &[&str]) -> Self {
        let network = Network::new().unwrap();
        let wan = network.lan().unwrap();
        let backbone = network.host("backbone").unwrap();
        backbone.join(&wan, &format!("{BACKBONE}/24")).unwrap();
        let server = network.host("server").unwrap();
        server.join(&wan, &format!("{SERVER}/24")).unwrap();
        server.route("default", BACKBONE).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let internet = Self {
            network,
            wan,
            _backbone: backbone,
            server,
            folder,
        };
        init(&internet.swarm(), names, &format!("ws://{SIGNALING}"));
        for name in names {
            internet.configure(name, "ice_servers = []", &ice_servers());
        }
        internet
    }

    /// The folder of the swarm.
    pub fn swarm(&self) -> PathBuf {
        self.folder.path().join("swarm")
    }

    /// Changes a line in an agent's file.
    pub fn configure(&self, name: &str, from: &str, to: &str) {
        let path = self.swarm().join(format!("{name}.toml"));
        let text = fs::read_to_string(&path).unwrap();
        assert!(text.contains(&format!("\n{from}\n")), "{from} is not in {text}");
        fs::write(path, text.replace(&format!("\n{from}\n"), &format!("\n{to}\n"))).unwrap();
    }

    /// Lets an agent go by way of the signaling server, too.
    pub fn relay(&self, name: &str) {
        let path = self.swarm().join(format!("{name}.toml"));
        let text = fs::read_to_string(&path).unwrap();
        let table = format!("\n[transport.relay]\nsignaling = [\"ws://{SIGNALING}\"]\n");
        fs::write(path, text + &table).unwrap();
    }

    /// A machine with a public address, 203.0.113.`last`.
    pub fn public(&self, name: &str, last: u8) -> Host {
        let host = self.network.host(name).unwrap();
        host.join(&self.wan, &format!("203.0.113.{last}/24")).unwrap();
        host.route("default", BACKBONE).unwrap();
        host
    }

    /// A home network 10.0.`number`.0/24 behind a NAT with the public address 203.0.113.(100 + `number`).
    pub fn home(&self, number: u8, kind: NatKind) -> Home<'_> {
        let lan = self.network.lan().unwrap();
        let outside = format!("203.0.113.{}/24", 100 + number);
        let inside = format!("10.0.{number}.1/24");
        let nat = self
            .network
            .nat("nat", kind, (&self.wan, &outside), (&lan, &inside))
            .unwrap();
        nat.route("default", BACKBONE).unwrap();
        Home {
            internet: self,
            number,
            lan,
            nat,
        }
    }

    /// Starts the signaling server.
    pub fn signaling(&self) -> Running {
        let command = self.server.command(ifmesh().to_str().unwrap());
        Running::signaling(command, SIGNALING, &self.swarm().join("trust.toml")).0
    }

    /// Starts coturn, and waits until it answers.
    pub fn turn(&self) -> Running {
        let file = |name| self.folder.path().join(name).display().to_string();
        let mut command = self.server.command("turnserver");
        command.args(["-n", "--no-cli", "--no-tls", "--no-dtls", "--lt-cred-mech"]);
        command.args(["--user=me:secret", "--realm=ifmesh", "--log-file=stdout"]);
        command.args([
            format!("--listening-ip={SERVER}"),
            format!("--relay-ip={SERVER}"),
            format!("--pidfile={}", file("turn.pid")),
            format!("--userdb={}", file("turn.db")),
        ]);
        let turn = Running::start_quietly("coturn", &mut command);
        // RFC 8489: a binding request with nothing in it.
        let request = [&[0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42][..], &[7; 12]].concat();
        let _here = self.server.enter().unwrap();
        let socket = UdpSocket::bind((SERVER, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        let started = now();
        while started.elapsed() < PATIENCE {
            socket.send_to(&request, TURN).unwrap();
            if socket.recv_from(&mut [0; 512]).is_ok() {
                return turn;
            }
        }
        panic!("coturn does not answer");
    }

    /// Starts an agent of the swarm on a machine, and waits until it is registered.
    pub fn agent(&self, host: &Host, name: &str) -> Running {
        let mut command = host.command(ifmesh().to_str().unwrap());
        if let Ok(level) = std::env::var("IFMESH_LOG") {
            command.env("IFMESH_LOG", level);
        }
        Running::agent(command, &self.swarm(), name)
    }
}

/// A network behind a NAT.
#[derive(Debug)]
pub struct Home<'a> {
    internet: &'a Internet,
    number: u8,
    lan: Lan,
    /// The router.
    pub nat: Host,
}

impl Home<'_> {
    /// A machine at home, 10.0.number.`last`.
    pub fn host(&self, name: &str, last: u8) -> Host {
        let host = self.internet.network.host(name).unwrap();
        let number = self.number;
        host.join(&self.lan, &format!("10.0.{number}.{last}/24")).unwrap();
        host.route("default", &format!("10.0.{number}.1")).unwrap();
        host
    }
}

fn ice_servers() -> String {
    format!(
        "ice_servers = [{{ urls = [\"stun:{TURN}\"] }}, \
         {{ urls = [\"turn:{TURN}\"], username = \"me\", credential = \"secret\" }}]"
    )
}

/// Real time: what is tested here happens in real programs.
#[allow(clippy::disallowed_methods, reason = "real programs take real time")]
pub fn now() -> Instant {
    Instant::now()
}
