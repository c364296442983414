use std::{sync::Arc, time::Duration};

use ifmsg::{AgentId, DEFAULT_MAX_AGE, Identity, Mark, PublicKey, Timestamp, TrustStore, canonical::Limits};

use super::{Journal, Keepalive, Observer};

/// Who a session is, whom it trusts, and its bounds.
#[derive(Debug)]
pub struct SessionConfig {
    /// The agent.
    pub agent: AgentId,
    /// Its key.
    pub identity: Identity,
    /// Whom it trusts.
    pub trust: TrustStore,
    /// This run's number; greater than that of every run before. See [`next_epoch`].
    pub epoch: u64,
    /// What former runs of this agent have received from whom, so that a restart opens no door to a replay.
    pub marks: Vec<(PublicKey, Mark)>,
    /// Where such marks are kept, before anything is acknowledged.
    pub journal: Option<Box<dyn Journal>>,
    /// Who watches.
    pub observer: Option<Arc<dyn Observer>>,
    /// What rides along in control messages.
    pub keepalive: Option<Arc<dyn Keepalive>>,
    /// The bounds.
    pub limits: SessionLimits,
}

impl SessionConfig {
    /// A session with default bounds, no memory of former runs, no journal and no observer.
    pub fn new(agent: AgentId, identity: Identity, trust: TrustStore, epoch: u64) -> Self {
        Self {
            agent,
            identity,
            trust,
            epoch,
            marks: Vec::new(),
            journal: None,
            observer: None,
            keepalive: None,
            limits: SessionLimits::default(),
        }
    }
}

/// The epoch of an agent that starts now: greater than that of its last run, even if the clock ran backwards in between.
pub fn next_epoch(last: Option<u64>, now: Timestamp) -> u64 {
    let by_clock = u64::try_from(now.unix_millis()).unwrap_or(0);
    by_clock.max(last.map_or(0, |last| last.saturating_add(1)))
}

/// The bounds of a session. Every queue that a peer or a caller can fill is named here.
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// Messages of one stream to one peer that are not acknowledged yet; `send` waits beyond it. At most 1,000, so that all
    /// of them fit the receiver's replay window of 1,024.
    pub window_messages: usize,
    /// The same in bytes. One message always fits.
    pub window_bytes: usize,
    /// Messages of one peer that wait here for an earlier one or for the application.
    pub inbox_messages: usize,
    /// The same in bytes. The next message in order always fits.
    pub inbox_bytes: usize,
    /// Best-effort messages that wait for the link, for each peer, or for the application; the oldest gives way.
    pub best_effort_queue: usize,
    /// How long an acknowledgement may wait for others to join it.
    pub ack_delay: Duration,
    /// Messages that the application took after which an acknowledgement waits no longer.
    pub ack_every: usize,
    /// The shortest time after which an unacknowledged message is sent again.
    pub least_timeout: Duration,
    /// The longest.
    pub most_timeout: Duration,
    /// How far a message's timestamp may be off when it opens an epoch.
    pub max_age: Duration,
    /// The bounds of a message's JSON.
    pub message: Limits,
    /// Messages in one flight, at most; up to 256.
    pub flight_messages: usize,
    /// Bytes after which a flight is closed.
    pub flight_bytes: usize,
}

impl Default for SessionLimits {
    fn default() -> Self {
        Self {
            window_messages: 512,
            window_bytes: 4 * 1024 * 1024,
            inbox_messages: 1_024,
            inbox_bytes: 8 * 1024 * 1024,
            best_effort_queue: 1_024,
            ack_delay: Duration::from_millis(5),
            ack_every: 64,
            least_timeout: Duration::from_millis(100),
            most_timeout: Duration::from_secs(5),
            max_age: DEFAULT_MAX_AGE,
            message: Limits::default(),
            flight_messages: 64,
            // 16 KiB frames carry more messages a second over a data channel than larger or smaller ones.
            flight_bytes: 16 * 1024,
        }
    }
}
