//! Holds several agents' logs against each other: what one side claims and the other lacks.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
    path::Path,
};

use ifmesh::AgentId;
use ifmesh_witness::{Detail, Event, LogKeys, Record, Verified, VerifyError, read};

type Digest = [u8; 32];

/// What of a log is needed to compare it with others. Digests and names only.
#[derive(Debug)]
pub(crate) struct Side {
    pub(crate) agent: AgentId,
    pub(crate) lines: u64,
    sent: HashMap<(Digest, AgentId), Sent>,
    received: HashSet<(Digest, AgentId)>,
    received_ids: HashSet<(AgentId, String)>,
    refused: HashSet<Digest>,
    /// Lives that ended without a word, and events that the log itself says were lost.
    pub(crate) killed: u32,
    dropped: u64,
}

#[derive(Debug, Default)]
struct Sent {
    id: String,
    best_effort: bool,
    sent: bool,
    acknowledged: bool,
    given_up: bool,
}

impl Side {
    /// Reads and verifies a log.
    pub(crate) fn read(dir: &Path, keys: &LogKeys) -> Result<(Self, Verified), VerifyError> {
        let mut side = Self {
            agent: keys.agent().clone(),
            lines: 0,
            sent: HashMap::new(),
            received: HashSet::new(),
            received_ids: HashSet::new(),
            refused: HashSet::new(),
            killed: 0,
            dropped: 0,
        };
        let mut is_open = false;
        let verified = read(dir, keys, |record| side.take(record, &mut is_open))?;
        side.lines = verified.lines;
        // A log that is still being written has not ended without a word.
        Ok((side, verified))
    }

    fn take(&mut self, record: &Record, is_open: &mut bool) {
        let text = |name: &str| match record.metadata.get(name) {
            Some(Detail::Text(text)) => text.to_string(),
            _ => String::new(),
        };
        match record.event {
            Event::LogOpened => {
                self.killed += u32::from(std::mem::replace(is_open, true));
            }
            Event::LogClosed => *is_open = false,
            Event::EventsDropped => {
                if let Some(Detail::Number(count)) = record.metadata.get("count") {
                    self.dropped += u64::try_from(*count).unwrap_or(0);
                }
            }
            _ => {}
        }
        let (Some(digest), Some(peer)) = (record.digest, record.peer.clone()) else {
            return;
        };
        let digest = *digest.as_bytes();
        match record.event {
            Event::IfmessageSent => {
                let sent = self.sent.entry((digest, peer)).or_default();
                sent.sent = true;
                sent.id = text("message_id");
                sent.best_effort |= text("lane") == "best-effort";
            }
            Event::IfmessageAcknowledged => {
                let sent = self.sent.entry((digest, peer)).or_default();
                sent.acknowledged = true;
            }
            Event::IfmessageReceived => {
                self.received_ids.insert((peer.clone(), text("message_id")));
                self.received.insert((digest, peer));
            }
            Event::IfmessageExpired | Event::IfmessageDropped | Event::IfmessageRejected => {
                if let Some(sent) = self.sent.get_mut(&(digest, peer)) {
                    sent.given_up = true;
                }
                // A copy of what was received before is no refusal of it.
                if !matches!(text("reason").as_str(), "duplicate" | "too-old") {
                    self.refused.insert(digest);
                }
            }
            _ => {}
        }
    }
}

/// What the comparison found.
#[derive(Debug, Default)]
pub(crate) struct Joined {
    /// Messages on record as sent to an agent whose log is here, once for each receiver.
    pub(crate) sent: u64,
    /// Of these, how many the other side has: received, or refused with a reason.
    pub(crate) matched: u64,
    /// Of these, how many were sent again under the same id, and received so, after their sender had been killed.
    pub(crate) sent_again: u64,
    /// Best effort, expired or given up: the sender claims no delivery.
    pub(crate) unclaimed: u64,
    /// What one side claims and the other lacks.
    pub(crate) missing: Vec<Missing>,
}

/// What one side claims and the other lacks.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Missing {
    pub(crate) claimant: AgentId,
    pub(crate) claim: Claim,
    pub(crate) other: AgentId,
    pub(crate) digest: Digest,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Claim {
    Sent,
    Acknowledged,
    Received,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (claimant, other, digest) = (&self.claimant, &self.other, ifmsg::hex::encode(&self.digest));
        match self.claim {
            Claim::Sent => write!(
                f,
                "{claimant} sent sha256:{digest} to {other}, whose log does not have it"
            ),
            Claim::Acknowledged => write!(
                f,
                "{claimant} says that {other} acknowledged sha256:{digest}, and the log of {other} never received it"
            ),
            Claim::Received => write!(
                f,
                "{claimant} received sha256:{digest} from {other}, whose log never sent it"
            ),
        }
    }
}

/// Holds every record of one log about another agent here against that agent's.
pub(crate) fn join(sides: &[Side]) -> Joined {
    let by_agent: BTreeMap<&AgentId, &Side> = sides.iter().map(|side| (&side.agent, side)).collect();
    let mut joined = Joined::default();
    for side in sides {
        let missing = |claim, other: &AgentId, digest: &Digest| Missing {
            claimant: side.agent.clone(),
            claim,
            other: other.clone(),
            digest: *digest,
        };
        for ((digest, peer), sent) in &side.sent {
            let Some(other) = by_agent.get(peer) else { continue };
            joined.sent += u64::from(sent.sent);
            let received = other.received.contains(&(*digest, side.agent.clone()));
            if received || other.refused.contains(digest) {
                joined.matched += 1;
            } else if side.killed > 0
                && !sent.acknowledged
                && other
                    .received_ids
                    .contains(&(side.agent.clone(), sent.id.clone()))
            {
                joined.sent_again += 1;
            } else if sent.acknowledged {
                joined.missing.push(missing(Claim::Acknowledged, peer, digest));
            } else if sent.best_effort || sent.given_up {
                joined.unclaimed += 1;
            } else {
                joined.missing.push(missing(Claim::Sent, peer, digest));
            }
        }
        for (digest, peer) in &side.received {
            let Some(other) = by_agent.get(peer) else { continue };
            let sent = other.sent.get(&(*digest, side.agent.clone()));
            // A sender that is killed may take the record of its last moments with it; one that says what it lost has said so.
            let excused = other.killed > 0 || other.dropped > 0;
            if !sent.is_some_and(|sent| sent.sent) && !excused {
                joined.missing.push(missing(Claim::Received, peer, digest));
            }
        }
    }
    joined.missing.sort();
    joined
}
