use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};

use ifmesh_transport::PeerKeys;
use ifmsg::{AgentId, Identity};
use serde::Deserialize;

/// Who an agent on the domain is.
#[derive(Clone)]
pub struct DdsAgent {
    /// This agent's name.
    pub agent: AgentId,
    /// Its key: signs its presence, its hellos and its heartbeats.
    pub identity: Identity,
    /// Grows with each start of the agent; at most 2^53-1. Peers drop what is left of an earlier life when a higher one comes.
    pub epoch: u64,
    /// Whom to link with, and which key to hold each to.
    pub keys: Arc<dyn PeerKeys>,
}

impl fmt::Debug for DdsAgent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DdsAgent")
            .field("agent", &self.agent)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}

/// Where and how an agent speaks DDS. It can be read from a configuration file:
///
/// ```
/// # use ifmesh_transport_dds::{DdsConfig, Interfaces};
/// let config: DdsConfig = toml::from_str(
///     r#"
///     domain = 7
///     participant = "forklift-3"
///     interfaces = ["192.0.2.17", "127.0.0.1"]   # or "all"; by default ["127.0.0.1"]
///     discovery_warning_ms = 10_000
///
///     [profiles.status]                          # what is not said stays as it is
///     depth = 16
///     lifespan_ms = 500
///     "#,
/// )?;
/// assert_eq!(config.domain, 7);
/// # Ok::<_, toml::de::Error>(())
/// ```
///
/// Keys that nobody knows are refused; so are, with the alternative, those of other DDS implementations that `rustdds` has
/// nothing for: see [`DdsConfigError::Unsupported`].
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "Table")]
#[non_exhaustive]
pub struct DdsConfig {
    /// The DDS domain, 0 to 232. Participants of different domains do not meet. 0 by default.
    pub domain: u16,
    /// A name for people, in the signed presence. At most 128 printable ASCII characters. By default the agent's id.
    /// `rustdds` cannot announce it as the DDS entity's own name, so a tool that lists participants does not show it.
    pub participant: Option<String>,
    /// Through which interfaces anything may leave. Loopback only by default.
    pub interfaces: Interfaces,
    /// Which QoS profile each kind of topic takes.
    pub topics: TopicProfiles,
    /// QoS profiles by name. `control`, `data` and `status` are always there.
    pub profiles: BTreeMap<String, Profile>,
    /// After this long without a peer there is a warning that says what to check. 10 s by default; zero: never.
    pub discovery_warning: Duration,
    /// Bounds and timers.
    pub limits: DdsLimits,
}

impl Default for DdsConfig {
    fn default() -> Self {
        Self {
            domain: 0,
            participant: None,
            interfaces: Interfaces::default(),
            topics: TopicProfiles::default(),
            profiles: BTreeMap::from([
                (CONTROL.to_owned(), Profile::CONTROL),
                (DATA.to_owned(), Profile::DATA),
                (STATUS.to_owned(), Profile::STATUS),
            ]),
            discovery_warning: Duration::from_secs(10),
            limits: DdsLimits::default(),
        }
    }
}

impl DdsConfig {
    /// Whether it can work, as far as that can be told without a network.
    ///
    /// # Errors
    /// What is wrong, and what to write instead. The caller's fault.
    pub fn check(&self) -> Result<(), DdsConfigError> {
        if self.domain > MAX_DOMAIN {
            return Err(DdsConfigError::Domain { domain: self.domain });
        }
        let printable = |name: &String| {
            (1..=128).contains(&name.len()) && name.bytes().all(|byte| (0x20..0x7f).contains(&byte))
        };
        if !self.participant.as_ref().is_none_or(printable) {
            return Err(DdsConfigError::Participant);
        }
        if self.interfaces == Interfaces::Only(Vec::new()) {
            return Err(DdsConfigError::NoInterface);
        }
        let limit = |ok: bool, name: &'static str, must: &'static str| {
            if ok {
                Ok(())
            } else {
                Err(DdsConfigError::Limit { name, must })
            }
        };
        let limits = &self.limits;
        let frames = 65_536..=DdsLimits::MOST_FRAME;
        limit(
            frames.contains(&limits.max_frame),
            "max_frame",
            "be 64 KiB to 16 MiB",
        )?;
        let windows = 131_072..=64 << 20;
        limit(
            windows.contains(&limits.window_bytes),
            "window_bytes",
            "be 128 KiB to 64 MiB",
        )?;
        limit(limits.kept_bytes >= 8 << 20, "kept_bytes", "be at least 8 MiB")?;
        let samples = 1_100..=LOOPBACK_SAMPLE;
        limit(
            samples.contains(&self.max_sample()),
            "max_sample",
            "be 1,100 to 49,152 bytes",
        )?;
        limit(limits.max_peers > 0, "max_peers", "be at least 1")?;
        limit(
            limits.heartbeat >= Duration::from_millis(20) && limits.silence >= 3 * limits.heartbeat,
            "silence",
            "be at least three heartbeats, of at least 20 ms each",
        )?;
        let presence = self.profile(&self.topics.presence)?;
        require(
            presence.reliability == Reliability::Reliable
                && presence.durability == Durability::TransientLocal,
            &self.topics.presence,
            "presence",
            "reliable and transient-local: who comes late must learn who is there",
        )?;
        let reliable = self.profile(&self.topics.reliable)?;
        require(
            reliable.reliability == Reliability::Reliable
                && reliable.durability == Durability::Volatile
                && reliable.history == History::KeepAll,
            &self.topics.reliable,
            "the reliable lane",
            "reliable, volatile and keep-all: nothing may give way unseen",
        )?;
        let best_effort = self.profile(&self.topics.best_effort)?;
        require(
            best_effort.reliability == Reliability::BestEffort
                && best_effort.durability == Durability::Volatile,
            &self.topics.best_effort,
            "the best-effort lane",
            "best-effort and volatile: it must never wait",
        )?;
        let broadcast = self.profile(&self.topics.broadcast)?;
        require(
            broadcast.reliability == Reliability::BestEffort,
            &self.topics.broadcast,
            "best-effort broadcasts",
            "best-effort: one slow reader must not hold up the others",
        )?;
        self.profile(&self.topics.record)?;
        for (name, profile) in &self.profiles {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
            if name.is_empty() || name.len() > 40 || !name.bytes().all(plain) {
                return Err(DdsConfigError::ProfileName {
                    profile: name.clone(),
                });
            }
            if matches!(profile.history, History::KeepLast(depth) if !(1..=8_192).contains(&depth)) {
                return Err(DdsConfigError::Depth {
                    profile: name.clone(),
                });
            }
        }
        Ok(())
    }

    pub(crate) fn max_sample(&self) -> usize {
        let loopback = match &self.interfaces {
            Interfaces::Only(addresses) => addresses.iter().all(IpAddr::is_loopback),
            Interfaces::All => false,
        };
        let chosen = if loopback { LOOPBACK_SAMPLE } else { LAN_SAMPLE };
        self.limits.max_sample.unwrap_or(chosen)
    }

    pub(crate) fn profile(&self, name: &str) -> Result<&Profile, DdsConfigError> {
        self.profiles
            .get(name)
            .ok_or_else(|| DdsConfigError::UnknownProfile {
                profile: name.to_owned(),
            })
    }
}

/// Ports end at 65,535: 7400 + 250 * domain.
const MAX_DOMAIN: u16 = 232;

const CONTROL: &str = "control";
const DATA: &str = "data";
const STATUS: &str = "status";

fn require(ok: bool, profile: &str, topic: &'static str, must: &'static str) -> Result<(), DdsConfigError> {
    if ok {
        return Ok(());
    }
    let profile = profile.to_owned();
    Err(DdsConfigError::ProfileUnfit { profile, topic, must })
}

/// Through which network interfaces anything may leave.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Interfaces {
    /// Those with these addresses. Multicast is joined and sent there alone, and no other address is announced. The sockets
    /// themselves are bound to all interfaces, as `rustdds` does it: what comes in elsewhere is read, and verified, too.
    Only(Vec<IpAddr>),
    /// All of them.
    All,
}

impl Default for Interfaces {
    fn default() -> Self {
        Self::Only(vec![IpAddr::V4(Ipv4Addr::LOCALHOST)])
    }
}

/// Which profile each kind of topic takes.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct TopicProfiles {
    /// `ifmesh/presence`: `control`.
    pub presence: String,
    /// Inboxes of the reliable lane: `data`.
    pub reliable: String,
    /// Inboxes of the best-effort lane: `status`.
    pub best_effort: String,
    /// Broadcasts of the best-effort lane, on `ifmesh/bus/<profile>`: `status`.
    pub broadcast: String,
    /// The record of reliable broadcasts, on `ifmesh/bus/<profile>`, for readers that are no agents or come late: `control`.
    /// Agents get them in their inboxes.
    pub record: String,
}

impl Default for TopicProfiles {
    fn default() -> Self {
        Self {
            presence: CONTROL.to_owned(),
            reliable: DATA.to_owned(),
            best_effort: STATUS.to_owned(),
            broadcast: STATUS.to_owned(),
            record: CONTROL.to_owned(),
        }
    }
}

/// The QoS of a topic, for its writers and its readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// DDS RELIABILITY.
    pub reliability: Reliability,
    /// DDS DURABILITY.
    pub durability: Durability,
    /// DDS HISTORY.
    pub history: History,
    /// DDS DEADLINE that writers offer. `rustdds` sends it, and repairs losses the faster the shorter it is. Readers ask
    /// for none.
    pub deadline: Option<Duration>,
    /// DDS LIFESPAN that writers offer: readers of other implementations drop what is older. `rustdds` does not.
    pub lifespan: Option<Duration>,
}

impl Profile {
    /// What must not be missed, also by who comes late: reliable, transient-local, keep-last 64.
    pub const CONTROL: Self = Self {
        reliability: Reliability::Reliable,
        durability: Durability::TransientLocal,
        history: History::KeepLast(64),
        deadline: Some(Duration::from_millis(5)),
        lifespan: None,
    };
    /// What must arrive: reliable, volatile, keep-all within limits.
    pub const DATA: Self = Self {
        reliability: Reliability::Reliable,
        durability: Durability::Volatile,
        history: History::KeepAll,
        deadline: Some(Duration::from_millis(5)),
        lifespan: None,
    };
    /// Of which only the latest matters: best effort, volatile, keep-last 256.
    pub const STATUS: Self = Self {
        reliability: Reliability::BestEffort,
        durability: Durability::Volatile,
        history: History::KeepLast(256),
        deadline: None,
        lifespan: None,
    };
}

/// DDS RELIABILITY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Reliability {
    /// Repaired until it arrived, or its writer is gone.
    Reliable,
    /// Sent once.
    BestEffort,
}

/// DDS DURABILITY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// For those who are there.
    Volatile,
    /// For those who come late too, as long as the writer lives.
    TransientLocal,
}

/// DDS HISTORY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum History {
    /// The last so many, 1 to 8,192.
    KeepLast(u32),
    /// All that are not acknowledged, within the resource limits.
    KeepAll,
}

/// What peers may use up, and how long things may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DdsLimits {
    /// Peers known at once: 256. Of more, nothing is taken.
    pub max_peers: usize,
    /// The largest frame, in bytes: 16 MiB. At least 64 KiB.
    pub max_frame: usize,
    /// The largest payload of a sample, in bytes, 1,100 to 49,152; longer frames travel in chunks. `None`: 48 KiB on
    /// loopback, and 1,200 if any other interface is allowed, because `rustdds` cuts what exceeds a packet into fragments of
    /// 256 bytes.
    pub max_sample: Option<usize>,
    /// Bytes of accepted frames waiting for one peer, on each lane: 1 MiB. A frame counts for at least 1 KiB.
    pub queue_bytes: usize,
    /// Bytes of received frames waiting for `recv`: 8 MiB. A frame counts for at least 1 KiB.
    pub event_bytes: usize,
    /// What a peer may send on the reliable lane before this side has taken what came before: 512 KiB. A sample counts for
    /// 512 bytes more than its payload has.
    pub window_bytes: usize,
    /// What `rustdds` may keep of what was sent to one peer on the reliable lane: 512 MiB, counted like `window_bytes`, and no
    /// less than 8 MiB. It drops what was acknowledged only every 6 s, so this also bounds how much is sent: an eighth of it
    /// at once, and an eighth of it in each second after. The record of reliable broadcasts has as much for itself; what is faster
    /// than that goes to the agents, and not on record.
    pub kept_bytes: usize,
    /// How often a link says that it is alive: 500 ms.
    pub heartbeat: Duration,
    /// Silence, no verified heartbeat, after which a link is down: 3 s.
    pub silence: Duration,
    /// How long one write may wait for the library, before it is tried again: 1 s.
    pub write_timeout: Duration,
    /// How long writes to one peer may fail before its link is taken down: 5 s.
    pub stall: Duration,
    /// How long `close` tries to get rid of what was accepted: 2 s.
    pub close_timeout: Duration,
}

impl DdsLimits {
    /// The largest `max_frame`: 16 MiB.
    pub const MOST_FRAME: usize = 16 << 20;
}

impl Default for DdsLimits {
    fn default() -> Self {
        Self {
            max_peers: 256,
            max_frame: Self::MOST_FRAME,
            max_sample: None,
            queue_bytes: 1 << 20,
            event_bytes: 8 << 20,
            window_bytes: 512 << 10,
            kept_bytes: 512 << 20,
            heartbeat: Duration::from_millis(500),
            silence: Duration::from_secs(3),
            write_timeout: Duration::from_secs(1),
            stall: Duration::from_secs(5),
            close_timeout: Duration::from_secs(2),
        }
    }
}

/// What is wrong with a configuration. The caller's fault; retrying cannot help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DdsConfigError {
    /// Other DDS implementations have this, `rustdds` does not.
    #[error("`{key}` cannot be had: {alternative}")]
    Unsupported {
        /// What was asked for.
        key: &'static str,
        /// Why not, and what to do instead.
        alternative: &'static str,
    },
    /// Domains end at 232.
    #[error(
        "there is no DDS domain {domain}: they are 0 to 232, since its ports are 7400 + 250 * domain and up"
    )]
    Domain {
        /// What was asked for.
        domain: u16,
    },
    /// The name is empty, too long, or not printable.
    #[error("a participant's name has 1 to 128 printable ASCII characters")]
    Participant,
    /// No interface at all.
    #[error(
        "no interface: name at least one address, as in `interfaces = [\"127.0.0.1\"]`, or write \"all\""
    )]
    NoInterface,
    /// Not an address.
    #[error("`{text}` is not an interface: write its address, as `ip addr` shows it, or \"all\"")]
    Interface {
        /// What was written.
        text: String,
    },
    /// A topic takes a profile that is not there.
    #[error("there is no profile `{profile}`: define [profiles.{profile}], or take control, data or status")]
    UnknownProfile {
        /// Its name.
        profile: String,
    },
    /// Profile names become part of topic names.
    #[error("`{profile}` is no name for a profile: use 1 to 40 of A-Z, a-z, 0-9 and _")]
    ProfileName {
        /// Its name.
        profile: String,
    },
    /// A topic takes a profile that breaks its promises.
    #[error("profile `{profile}` does not fit {topic}, which must be {must}")]
    ProfileUnfit {
        /// The profile.
        profile: String,
        /// What takes it.
        topic: &'static str,
        /// What it must be.
        must: &'static str,
    },
    /// A history without room, or with too much.
    #[error("profile `{profile}`: keep-last takes a depth of 1 to 8,192")]
    Depth {
        /// The profile.
        profile: String,
    },
    /// A bound or a timer out of range.
    #[error("`{name}` must {must}")]
    Limit {
        /// Which.
        name: &'static str,
        /// What holds for it.
        must: &'static str,
    },
}

/// DDS/RTPS between agents on one machine or one network, without a server.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
struct Table {
    /// The DDS domain. Participants of different domains do not meet.
    #[cfg_attr(feature = "schema", schemars(range(max = 232)))]
    domain: u16,
    /// A name for people. The agent's id, if left out.
    participant: Option<String>,
    /// By which interfaces anything may leave.
    interfaces: Option<InterfacesTable>,
    /// Which QoS profile each kind of topic takes.
    topics: TopicProfiles,
    /// QoS profiles by name; what is not said of `control`, `data` and `status` stays as it is, and of others is as in `data`.
    profiles: BTreeMap<String, ProfileTable>,
    /// Warns, with what to check, when nobody was found after so long. 0: never.
    discovery_warning_ms: Option<u64>,
    /// The largest frame, in bytes.
    max_frame: Option<usize>,
    /// Peers known at once.
    max_peers: Option<usize>,
    /// What a peer may send on the reliable lane before this side has taken what came before.
    window_bytes: Option<usize>,
    /// What `rustdds` may keep of what was sent to one peer on the reliable lane; an eighth of it may be sent in a second.
    #[cfg_attr(feature = "schema", schemars(range(min = 8_388_608)))]
    kept_bytes: Option<usize>,
    /// The largest payload of a sample, in bytes; longer frames travel in chunks.
    max_sample: Option<usize>,
    /// How often a link says that it is alive.
    heartbeat_ms: Option<u64>,
    /// Silence after which a link is down.
    silence_ms: Option<u64>,

    // Here only to be refused by name.
    #[cfg_attr(feature = "schema", schemars(skip))]
    peers: Option<Unsupported>,
    #[cfg_attr(feature = "schema", schemars(skip))]
    initial_peers: Option<Unsupported>,
    #[cfg_attr(feature = "schema", schemars(skip))]
    discovery_server: Option<Unsupported>,
    #[cfg_attr(feature = "schema", schemars(skip))]
    tcp: Option<Unsupported>,
    #[cfg_attr(feature = "schema", schemars(skip))]
    shared_memory: Option<Unsupported>,
    #[cfg_attr(feature = "schema", schemars(skip))]
    lease_ms: Option<Unsupported>,
    #[cfg_attr(feature = "schema", schemars(skip))]
    partition: Option<Unsupported>,
    #[cfg_attr(feature = "schema", schemars(skip))]
    security: Option<Unsupported>,
}

#[derive(Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
enum InterfacesTable {
    /// "all".
    Word(String),
    /// Their addresses.
    Addresses(Vec<String>),
}

#[derive(Debug, Default, Clone, Copy, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields)]
struct ProfileTable {
    reliability: Option<Reliability>,
    durability: Option<Durability>,
    history: Option<HistoryTable>,
    /// Of keep-last.
    depth: Option<u32>,
    /// 0: none.
    deadline_ms: Option<u64>,
    /// 0: none.
    lifespan_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
enum HistoryTable {
    KeepAll,
    KeepLast,
}

/// Why there is no DDS Security, and what to do instead.
pub const NO_SECURITY: &str = "DDS Security in rustdds 0.15 loses all samples whose data is protected, takes up to 2.4 s to begin, \
    and needs OpenSSL; SECURITY.md has what was tried. Everything is signed and verified above DDS. For secrecy stay on loopback or \
    on a network segment of your own, or use the WebRTC transport, which encrypts";

/// Takes whatever was written.
#[derive(Debug)]
struct Unsupported;

impl<'de> Deserialize<'de> for Unsupported {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        serde::de::IgnoredAny::deserialize(deserializer).map(|_| Self)
    }
}

impl Table {
    fn refused(&self) -> Result<(), DdsConfigError> {
        const PEERS: &str = "rustdds finds peers by multicast only. Put the agents on one network segment whose interface has \
            multicast, or use the WebRTC transport between networks";
        let all = [
            ("peers", &self.peers, PEERS),
            ("initial_peers", &self.initial_peers, PEERS),
            (
                "discovery_server",
                &self.discovery_server,
                "rustdds knows no discovery server. Use multicast on one segment, or the WebRTC transport with its signaling \
                 server",
            ),
            (
                "tcp",
                &self.tcp,
                "rustdds speaks UDP only. Where UDP is blocked, use the relay transport",
            ),
            (
                "shared_memory",
                &self.shared_memory,
                "rustdds speaks UDP only; on one machine it takes loopback",
            ),
            (
                "lease_ms",
                &self.lease_ms,
                "rustdds' lease is fixed at 50 s. Links have heartbeats of their own: `heartbeat_ms` and `silence_ms`",
            ),
            (
                "partition",
                &self.partition,
                "rustdds matches endpoints regardless of partitions. Use another `domain`",
            ),
            ("security", &self.security, NO_SECURITY),
        ];
        for (key, value, alternative) in all {
            if value.is_some() {
                return Err(DdsConfigError::Unsupported { key, alternative });
            }
        }
        Ok(())
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for DdsConfig {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DdsConfig".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Table::json_schema(generator)
    }
}

impl TryFrom<Table> for DdsConfig {
    type Error = DdsConfigError;

    fn try_from(table: Table) -> Result<Self, DdsConfigError> {
        table.refused()?;
        let mut config = Self {
            domain: table.domain,
            participant: table.participant,
            topics: table.topics,
            ..Self::default()
        };
        match table.interfaces {
            None => {}
            Some(InterfacesTable::Word(word)) if word == "all" => config.interfaces = Interfaces::All,
            Some(InterfacesTable::Word(text)) => return Err(DdsConfigError::Interface { text }),
            Some(InterfacesTable::Addresses(addresses)) => {
                let parse = |text: String| text.parse().map_err(|_| DdsConfigError::Interface { text });
                let addresses = addresses.into_iter().map(parse);
                config.interfaces = Interfaces::Only(addresses.collect::<Result<_, _>>()?);
            }
        }
        for (name, table) in table.profiles {
            let base = config.profiles.get(&name).copied().unwrap_or(Profile::DATA);
            config.profiles.insert(name, table.over(base));
        }
        let limits = &mut config.limits;
        set(&mut limits.max_frame, table.max_frame);
        set(&mut limits.max_peers, table.max_peers);
        set(&mut limits.window_bytes, table.window_bytes);
        set(&mut limits.kept_bytes, table.kept_bytes);
        limits.max_sample = table.max_sample;
        set(
            &mut limits.heartbeat,
            table.heartbeat_ms.map(Duration::from_millis),
        );
        set(&mut limits.silence, table.silence_ms.map(Duration::from_millis));
        set(
            &mut config.discovery_warning,
            table.discovery_warning_ms.map(Duration::from_millis),
        );
        config.check()?;
        Ok(config)
    }
}

/// What fits a packet of 1,500 bytes with everything around it.
const LAN_SAMPLE: usize = 1_200;
/// What fits a packet of loopback's 64 KiB.
const LOOPBACK_SAMPLE: usize = 49_152;

impl ProfileTable {
    fn over(self, base: Profile) -> Profile {
        let millis = |millis: Option<u64>, base| match millis {
            None => base,
            Some(0) => None,
            Some(millis) => Some(Duration::from_millis(millis)),
        };
        let depth = match base.history {
            History::KeepLast(depth) => depth,
            History::KeepAll => 1,
        };
        Profile {
            reliability: self.reliability.unwrap_or(base.reliability),
            durability: self.durability.unwrap_or(base.durability),
            history: match (self.history, self.depth) {
                (Some(HistoryTable::KeepAll), _) => History::KeepAll,
                (Some(HistoryTable::KeepLast), given) => History::KeepLast(given.unwrap_or(depth)),
                (None, Some(depth)) => History::KeepLast(depth),
                (None, None) => base.history,
            },
            deadline: millis(self.deadline_ms, base.deadline),
            lifespan: millis(self.lifespan_ms, base.lifespan),
        }
    }
}

fn set<T>(field: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *field = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<DdsConfig, String> {
        toml::from_str(text).map_err(|error| error.message().to_owned())
    }

    #[test]
    fn nothing_said_is_the_default() {
        assert_eq!(read(""), Ok(DdsConfig::default()));
        assert_eq!(DdsConfig::default().check(), Ok(()));
    }

    /// Falsified by a key of other implementations that is ignored, or refused without an alternative.
    #[test]
    fn what_rustdds_cannot_do_is_refused_by_name() {
        for key in [
            "peers",
            "initial_peers",
            "discovery_server",
            "tcp",
            "shared_memory",
            "lease_ms",
            "partition",
            "security",
        ] {
            for value in ["[\"192.0.2.1\"]", "true", "5", "{ a = 1 }"] {
                let error = read(&format!("{key} = {value}")).unwrap_err();
                assert!(error.starts_with(&format!("`{key}` cannot be had: ")), "{error}");
                assert!(error.len() > 60, "{error}");
            }
        }
        assert!(read("peer = 1").unwrap_err().contains("unknown field"));
    }

    #[test]
    fn profiles_are_overridden_and_added() {
        let config = read(
            "[profiles.status]\ndepth = 16\nlifespan_ms = 500\n\
             [profiles.video]\nreliability = \"best-effort\"\nhistory = \"keep-last\"\ndeadline_ms = 0\n\
             [topics]\nbroadcast = \"video\"",
        )
        .unwrap();
        let status = config.profiles["status"];
        assert_eq!(status.history, History::KeepLast(16));
        assert_eq!(status.lifespan, Some(Duration::from_millis(500)));
        assert_eq!(status.reliability, Reliability::BestEffort);
        let video = config.profiles["video"];
        assert_eq!((video.history, video.deadline), (History::KeepLast(1), None));
        assert_eq!(config.topics.broadcast, "video");
        assert_eq!(config.profiles["data"], Profile::DATA);
    }

    /// Falsified by a profile that breaks what a lane promises and is taken.
    #[test]
    fn profiles_that_break_promises_are_refused() {
        for (text, fragment) in [
            (
                "[profiles.data]\nreliability = \"best-effort\"",
                "the reliable lane",
            ),
            ("[profiles.data]\ndepth = 1", "the reliable lane"),
            ("[profiles.control]\ndurability = \"volatile\"", "presence"),
            (
                "[profiles.status]\nreliability = \"reliable\"",
                "the best-effort lane",
            ),
            ("[topics]\nbroadcast = \"data\"", "best-effort broadcasts"),
            ("[topics]\nreliable = \"none\"", "no profile `none`"),
            ("[profiles.status]\ndepth = 0", "1 to 8,192"),
            ("[profiles.\"a b\"]", "no name for a profile"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(fragment), "{text}: {error}");
        }
    }

    #[test]
    fn what_cannot_work_is_refused() {
        for (text, fragment) in [
            ("domain = 233", "no DDS domain 233"),
            ("participant = \"\"", "participant's name"),
            ("interfaces = []", "no interface"),
            ("interfaces = [\"eth0\"]", "`eth0` is not an interface"),
            ("interfaces = \"some\"", "`some` is not an interface"),
            ("max_frame = 1", "`max_frame` must"),
            ("kept_bytes = 8388607", "`kept_bytes` must"),
            ("silence_ms = 100", "`silence` must"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(fragment), "{text}: {error}");
        }
        assert_eq!(read("interfaces = \"all\"").unwrap().interfaces, Interfaces::All);
        assert_eq!(read("kept_bytes = 8388608").unwrap().limits.kept_bytes, 8 << 20);
    }
}
