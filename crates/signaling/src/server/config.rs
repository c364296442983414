//! What a server is told before it starts.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::Duration,
};

use ifmsg::{AgentId, PublicKey};

use super::ice::IceConfig;
use crate::tls::ServerTls;

/// How a server takes agents in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RegistrationMode {
    /// Every agent proves a key. The default.
    #[default]
    Proven,
    /// Clients of the original protocol register without a key. Who sends a key must still prove it, and a name that was
    /// proved is never given to a client without that key. Any local program or web page can take any other name: for
    /// loopback and trusted networks.
    Open,
}

/// What a [`Server`](crate::Server) is told.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ServerConfig {
    /// Where to listen. Port 0 takes a free one: see [`Server::local_addr`](crate::Server::local_addr).
    pub listen: SocketAddr,
    /// The server's name. It is part of what a client signs, so that a proof for one server is worth nothing at another.
    pub server_id: AgentId,
    /// How agents are taken in.
    pub mode: RegistrationMode,
    /// If set: only these names, each only with one of these keys, and nobody without a key.
    pub allow: Option<HashMap<AgentId, HashSet<PublicKey>>>,
    /// What a client may use up.
    pub limits: ServerLimits,
    /// What is relayed between sockets of the role [`Relay`](crate::SocketRole::Relay); `None`: nothing. By default the default
    /// limits.
    pub relay: Option<RelayLimits>,
    /// If set: `wss://` is spoken, and nothing else.
    pub tls: Option<ServerTls>,
    /// Where clients may go when this server shuts down, `ws://` or `wss://` urls, the best first; they are told.
    pub alternatives: Vec<String>,
    /// STUN and TURN servers for those who register with a key; `None`: they are told of none.
    pub ice: Option<IceConfig>,
    /// If set: where `/healthz` and `/metrics` are, over plain HTTP. Not for the open network.
    pub admin: Option<SocketAddr>,
}

impl ServerConfig {
    /// The defaults: proven registration, everybody who has a key, the default limits.
    pub fn new(listen: SocketAddr, server_id: AgentId) -> Self {
        Self {
            listen,
            server_id,
            mode: RegistrationMode::default(),
            allow: None,
            limits: ServerLimits::default(),
            relay: Some(RelayLimits::default()),
            tls: None,
            alternatives: Vec::new(),
            ice: None,
            admin: None,
        }
    }

    /// Lets `agent_id` register with `key`, and from now on nobody who is not let.
    pub fn allow(&mut self, agent_id: AgentId, key: &PublicKey) -> &mut Self {
        self.allow
            .get_or_insert_default()
            .entry(agent_id)
            .or_default()
            .insert(*key);
        self
    }
}

/// What clients may use up. Each limit that a client reaches is counted in [`ServerMetrics`](crate::ServerMetrics).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerLimits {
    /// Bytes in a frame: 256 KiB. A longer one closes the connection with 1009.
    pub max_frame_bytes: usize,
    /// Frames read per second from one connection, control frames included: 500. A frame counts once for every 4 KiB that it
    /// begins. Beyond it the connection is read more slowly; nothing is lost, and TCP makes the sender wait.
    pub frames_per_second: u32,
    /// Frames that a connection may send at once before it is slowed down: 2,000.
    pub frame_burst: u32,
    /// Refused frames (malformed, spoofed, binary) before the connection is closed with 1008: 16.
    pub max_violations: u32,
    /// Sockets, registered or not: 2,048. One more is answered 503.
    pub max_connections: usize,
    /// Sockets from one IPv4 address, or one IPv6 network of 64 bits: 1,024. One more is answered 503. Raise it behind a proxy.
    pub max_connections_per_address: usize,
    /// New sockets per second from one address: 100. Those beyond are answered 503.
    pub connections_per_second_per_address: u32,
    /// New sockets that an address may open at once: 1,000.
    pub connection_burst_per_address: u32,
    /// Registered agents: 1,024. With 1,024 names of 128 characters a `registered` frame has 450 KB.
    pub max_agents: usize,
    /// Frames waiting for one client: 2,048. A client that reads more slowly than that is closed with 4008.
    pub queue_frames: usize,
    /// Bytes waiting for one client: 4 MiB. As above.
    pub queue_bytes: usize,
    /// From the TCP connection to `registered`: 10 s. Then 4002.
    pub registration_timeout: Duration,
    /// Between pings: 10 s.
    pub ping_interval: Duration,
    /// Without any frame, pongs included: 30 s. Then 4003, and `agent-left`. Also how long one write may take.
    pub idle_timeout: Duration,
    /// How long the holder of a name without a key has to answer a ping when somebody else asks for the name: 2 s.
    pub probe_timeout: Duration,
    /// For a closing handshake: 1 s.
    pub close_timeout: Duration,
    /// How long a proved name stays reserved for its key after its socket closed: 5 minutes.
    pub key_memory: Duration,
    /// How many names are so reserved; the oldest are forgotten first: 4,096.
    pub max_remembered_keys: usize,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            max_frame_bytes: 256 * 1024,
            frames_per_second: 500,
            frame_burst: 2_000,
            max_violations: 16,
            max_connections: 2_048,
            max_connections_per_address: 1_024,
            connections_per_second_per_address: 100,
            connection_burst_per_address: 1_000,
            max_agents: 1_024,
            queue_frames: 2_048,
            queue_bytes: 4 * 1024 * 1024,
            registration_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            probe_timeout: Duration::from_secs(2),
            close_timeout: Duration::from_secs(1),
            key_memory: Duration::from_secs(300),
            max_remembered_keys: 4_096,
        }
    }
}

/// What relayed frames may use up. A sender beyond its rate is read more slowly, nothing is lost; a frame beyond what may wait
/// is dropped, and its sender is told. Both are counted in [`ServerMetrics`](crate::ServerMetrics).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelayLimits {
    /// Bytes in a frame, header included: 66,560, room for 64 KiB and a header. At most [`ServerLimits::max_frame_bytes`]
    /// counts. A longer one closes the connection with 1009.
    pub max_frame_bytes: usize,
    /// Bytes that an agent may relay per second: 16 MiB. Much less than a frame a second, and it counts as silent.
    pub bytes_per_second: u32,
    /// Bytes that it may relay at once before it is slowed down: 4 MiB.
    pub byte_burst: u32,
    /// Frames that an agent may send per second, control frames included: 20,000.
    pub frames_per_second: u32,
    /// Frames that it may send at once before it is slowed down: 20,000.
    pub frame_burst: u32,
    /// Bytes that may wait on the way from one agent to one other, each frame with
    /// [`RELAY_FRAME_COST`](crate::RELAY_FRAME_COST) more: 512 KiB. Clients are told, and send at most half of it before their
    /// peer has taken it.
    pub pair_bytes: usize,
    /// Bytes that may wait for one agent, from all others: 16 MiB.
    pub queue_bytes: usize,
    /// Bytes that may wait for all agents: 256 MiB.
    pub total_bytes: usize,
}

impl Default for RelayLimits {
    fn default() -> Self {
        Self {
            max_frame_bytes: 65 * 1024,
            bytes_per_second: 16 << 20,
            byte_burst: 4 << 20,
            frames_per_second: 20_000,
            frame_burst: 20_000,
            pair_bytes: 512 << 10,
            queue_bytes: 16 << 20,
            total_bytes: 256 << 20,
        }
    }
}
