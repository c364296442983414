use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use ifmesh::AgentId;
use ifmesh_signaling::{IceConfig, RegistrationMode, Server, ServerConfig, ServerTls};
use ifmesh_transport::{Clock as _, SystemClock};
use serde_json::json;
use zeroize::Zeroizing;

use super::{Failure, exit, print_json};

/// Run a signaling server: it introduces agents to each other, relays where they cannot meet, and is not trusted by them.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ifmesh signaling
  ifmesh signaling --listen 0.0.0.0:443 --tls-cert chain.pem --tls-key key.pem --allow swarm/trust.toml \\
    --admin 127.0.0.1:9090 --alternative wss://two.example.org
  ifmesh signaling --turn turn:turn.example.org:3478 --turn-secret-file turn.secret

The TURN secret is coturn's static-auth-secret (with use-auth-secret).")]
pub(crate) struct Signaling {
    /// Where to listen; port 0 takes a free one.
    #[arg(long, default_value = "127.0.0.1:8443")]
    listen: SocketAddr,
    /// The server's name, which agents sign when they register.
    #[arg(long, default_value = "signaling")]
    name: AgentId,
    /// Only agents of this trust file may register.
    #[arg(long, value_name = "TRUST")]
    allow: Option<PathBuf>,
    /// Let clients register without a key, as the original protocol's do. Names are then anybody's.
    #[arg(long, conflicts_with = "allow")]
    open: bool,
    /// Speak wss:// with this certificate chain, PEM, the server's own first.
    #[arg(long, value_name = "PEM", requires = "tls_key")]
    tls_cert: Option<PathBuf>,
    /// The certificate's private key, PEM.
    #[arg(long, value_name = "PEM", requires = "tls_cert")]
    tls_key: Option<PathBuf>,
    /// Serve /healthz and /metrics here, over plain HTTP. Not for the open network.
    #[arg(long, value_name = "ADDRESS")]
    admin: Option<SocketAddr>,
    /// Another server, where clients may go when this one ends. May be given several times, the best first.
    #[arg(long, value_name = "URL")]
    alternative: Vec<String>,
    /// Relay nothing between agents.
    #[arg(long)]
    no_relay: bool,
    /// Bytes per second that each agent may relay: at least 65536, by default 16 MiB.
    #[arg(long, value_name = "BYTES", conflicts_with = "no_relay", value_parser = clap::value_parser!(u32).range(65_536..))]
    relay_rate: Option<u32>,
    /// Sockets from one address at once. Raise it behind a proxy.
    #[arg(long, value_name = "N")]
    max_per_address: Option<usize>,
    /// A STUN server to hand out: stun:host:port. May be given several times.
    #[arg(long, value_name = "URL")]
    stun: Vec<String>,
    /// A TURN server to hand out, with short-lived credentials: turn:host:port. May be given several times.
    #[arg(long, value_name = "URL", requires = "turn_secret_file")]
    turn: Vec<String>,
    /// The file with the secret that is shared with the TURN servers.
    #[arg(long, value_name = "FILE", requires = "turn")]
    turn_secret_file: Option<PathBuf>,
    /// For how many seconds TURN credentials are good.
    #[arg(long, value_name = "SECONDS", default_value_t = 3_600, value_parser = clap::value_parser!(u64).range(60..=86_400))]
    turn_ttl: u64,
    /// Print JSON lines: one when it listens, one when it has ended.
    #[arg(long)]
    json: bool,
}

impl Signaling {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        let config = self.config()?;
        let scheme = if config.tls.is_some() { "wss" } else { "ws" };
        let server = Server::bind(config, ifmesh::random())
            .await
            .map_err(Failure::unavailable)?;
        let address = server.local_addr();
        let admin = server.admin_addr().map(|address| format!("http://{address}"));
        if self.json {
            let url = format!("{scheme}://{address}");
            print_json(&json!({ "event": "listening", "url": url, "admin": admin }));
        } else {
            println!("signaling server on {scheme}://{address} (Ctrl-C ends it)");
            if let Some(admin) = admin {
                println!("health and metrics on {admin}/healthz and {admin}/metrics");
            }
        }
        exit::asked_to_end().await;
        let metrics = server.metrics();
        server.shutdown().await;
        if self.json {
            print_json(&json!({ "event": "closed" }));
        } else {
            println!("closed; {metrics:?}");
        }
        Ok(exit::DONE)
    }

    fn config(&self) -> Result<ServerConfig, Failure> {
        let mut config = ServerConfig::new(self.listen, self.name.clone());
        if self.open {
            config.mode = RegistrationMode::Open;
        }
        if let Some(path) = &self.allow {
            let trust = ifmesh::read_trust(path).map_err(Failure::usage)?;
            for (agent, binding) in trust.bindings() {
                config.allow(agent.clone(), &binding.key);
            }
        }
        if let (Some(certificates), Some(key)) = (&self.tls_cert, &self.tls_key) {
            let (certificates, key) = (read(certificates)?, read(key)?);
            config.tls = Some(ServerTls::from_pem(&certificates, &key).map_err(Failure::usage)?);
        }
        config.admin = self.admin;
        config.alternatives = self.alternative.clone();
        match &mut config.relay {
            relay if self.no_relay => *relay = None,
            Some(relay) => {
                relay.bytes_per_second = self.relay_rate.unwrap_or(relay.bytes_per_second);
            }
            None => {}
        }
        if let Some(most) = self.max_per_address {
            config.limits.max_connections_per_address = most;
        }
        if !self.stun.is_empty() || !self.turn.is_empty() {
            let mut ice = IceConfig::new(&self.stun, || SystemClock.now());
            if let Some(path) = &self.turn_secret_file {
                let secret = read(path)?;
                let ttl = Duration::from_secs(self.turn_ttl);
                ice = ice.turn(&self.turn, secret.trim_ascii(), ttl);
            }
            config.ice = Some(ice);
        }
        Ok(config)
    }
}

/// May hold a secret: forgotten after use, and never shown.
fn read(path: &PathBuf) -> Result<Zeroizing<Vec<u8>>, Failure> {
    std::fs::read(path)
        .map(Zeroizing::new)
        .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))
}
