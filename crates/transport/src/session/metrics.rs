use std::{collections::BTreeMap, time::Duration};

use ifmsg::AgentId;

/// Counters of a session, since it began. Every message that came or went is in one of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct SessionMetrics {
    /// Messages accepted from the application.
    pub submitted: u64,
    /// Messages handed to links for the first time, once for each peer; acknowledgements that rode along included.
    pub messages_sent: u64,
    /// Messages handed to links again.
    pub resent: u64,
    /// Outcomes: acknowledged, once for each peer.
    pub acknowledged: u64,
    /// Outcomes: expired.
    pub expired: u64,
    /// Outcomes: refused.
    pub refused: u64,
    /// Messages verified and put in the application's inbox.
    pub received: u64,
    /// Copies of messages that had come before.
    pub duplicates: u64,
    /// Messages refused, by the stable name of the reason.
    pub rejected: BTreeMap<&'static str, u64>,
    /// Messages dropped: best effort without room or link, remains of former runs.
    pub dropped: u64,
    /// Session control messages sent alone.
    pub control_sent: u64,
    /// Session control messages received.
    pub control_received: u64,
    /// Frames handed to links.
    pub frames_sent: u64,
    /// Frames that came.
    pub frames_received: u64,
    /// Times the journal failed.
    pub journal_failures: u64,
    /// Times the session halted because its observer could not record.
    pub halts: u64,
}

impl SessionMetrics {
    pub(super) fn reject(&mut self, reason: &'static str) {
        *self.rejected.entry(reason).or_default() += 1;
    }
}

/// A peer as the session sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct PeerStatus {
    /// The peer.
    pub peer: AgentId,
    /// It has proven over the current link that it is live: messages flow.
    pub up: bool,
    /// Its current run.
    pub epoch: Option<u64>,
    /// The smoothed time from sending a message to its acknowledgement.
    pub round_trip: Option<Duration>,
    /// Messages that it has yet to acknowledge.
    pub unacknowledged: usize,
}
