//! The session's logic, without I/O and without a clock: inputs take `now`, outputs are polled.
//!
//! Inputs: [`submit`](Machine::submit) a draft, [`on_transport`](Machine::on_transport), [`on_timeout`](Machine::on_timeout),
//! [`take`](Machine::take) from the inbox. Outputs: [`marks`](Machine::marks) for the journal, then
//! [`poll_transmit`](Machine::poll_transmit), [`events`](Machine::events), [`next_timeout`](Machine::next_timeout).

mod receive;
mod transmit;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use ifmsg::{
    Admission, AgentId, Delivery, Destination, Draft, Header, Identity, Mark, MessageId, Now, Performative,
    PublicKey, Stamp, Stream, Timestamp, TrustPolicy, UnsignedMessage,
};
use rand_core::CryptoRng;
use tokio::sync::oneshot;

use super::{
    Flight, ObserverError, Outcome, PeerStatus, Refusal, SessionEvent, SessionLimits, SessionMetrics,
    control,
    inbox::Inbox,
    outbound::Outbound,
    outcome::{Receipt, SubmitError},
    peer::Peer,
};
use crate::{Capabilities, Class, Envelope, Feedback};

/// What a frame adds around the bodies of a flight, at most: its header, and for each message its place, path and length.
const FRAME_ROOM: usize = 84 + 2 + 8 * 32 + 4;

/// More than a control message takes.
const CONTROL_ROOM: usize = 24 * 1024;

/// How often our keepalive may speak to a peer.
const KEEPALIVE: Duration = Duration::from_secs(1);

/// [`crate::IfTransport::class_of`] of the transport below.
pub(super) type Classify = Box<dyn Fn(&Header, usize) -> Class + Send + Sync>;

pub(super) struct Machine {
    me: AgentId,
    identity: Identity,
    epoch: u64,
    limits: SessionLimits,
    max_body: usize,
    max_frame: usize,
    classify: Classify,
    next_transmission: u64,
    random: Box<dyn CryptoRng + Send>,
    admission: Admission,
    peers: BTreeMap<AgentId, Peer>,
    /// What former runs received from whom.
    marks: BTreeMap<[u8; 32], Mark>,
    next_broadcast: u64,
    next_best_effort_broadcast: u64,
    /// Best-effort streams to peers that are met now begin here: beyond all that was ever said to somebody who is forgotten.
    first_best_effort: u64,
    unsigned_broadcast: VecDeque<(u64, UnsignedMessage)>,
    best_effort_broadcast: VecDeque<UnsignedMessage>,
    inbox: Inbox,
    /// Messages whose reply somebody waits for.
    awaited: BTreeSet<MessageId>,
    tickets: BTreeMap<u64, Ticket>,
    next_ticket: u64,
    next_id: u64,
    dirty_marks: BTreeSet<AgentId>,
    events: Vec<SessionEvent>,
    /// Somebody wants to hear of each message.
    is_observed: bool,
    metrics: SessionMetrics,
    /// A peer came or went since the last `peers_if_changed`.
    peers_changed: bool,
    /// A window opened, or the inbox got something, since the last `progress`.
    progress: bool,
    closed: bool,
    ended: bool,
    /// Why nothing may happen now.
    halted: Option<ObserverError>,
    /// What peers' keepalives said, for ours.
    said: Vec<(AgentId, PublicKey, serde_json::Value)>,
    has_keepalive: bool,
}

/// An envelope to hand to the transport, and the messages in it.
#[derive(Debug)]
pub(super) struct Departure {
    pub(super) envelope: Envelope,
    pub(super) flight: Arc<Flight>,
}

/// Waits for the outcome at each of a message's peers.
struct Ticket {
    message: UnsignedMessage,
    remaining: usize,
    outcomes: Vec<(AgentId, Outcome)>,
    sender: oneshot::Sender<Vec<(AgentId, Outcome)>>,
}

/// Least and most retransmission times over a reliable transport. It is there for what a peer had no room for.
const PATIENT_TIMEOUT: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(60));

impl Machine {
    pub(super) fn new(
        config: super::SessionConfig,
        capabilities: Capabilities,
        classify: Classify,
        random: Box<dyn CryptoRng + Send>,
    ) -> Self {
        let mut limits = config.limits;
        // All unacknowledged messages must fit the receiver's replay window.
        limits.window_messages = limits.window_messages.clamp(1, 1_000);
        // An acknowledgement may ride along.
        limits.flight_messages = limits.flight_messages.clamp(1, ifmsg::MAX_FLIGHT - 1);
        if capabilities.reliable {
            // What such a transport has accepted it repeats by itself, in order. A copy of ours would wait behind the original, and
            // on a bad path, where round trips take seconds, copies would take all that it can carry.
            limits.least_timeout = limits.least_timeout.max(PATIENT_TIMEOUT.0);
            limits.most_timeout = limits.most_timeout.max(PATIENT_TIMEOUT.1);
        }
        let mut admission = Admission::new(config.agent.clone(), config.trust, limits.max_age);
        for (key, mark) in &config.marks {
            admission.replay_mut().restore(key, mark);
        }
        Self {
            me: config.agent,
            identity: config.identity,
            epoch: config.epoch,
            max_body: limits
                .message
                .max_bytes
                .min(capabilities.max_frame.saturating_sub(FRAME_ROOM)),
            max_frame: capabilities.max_frame,
            limits,
            classify,
            next_transmission: 0,
            random,
            admission,
            peers: BTreeMap::new(),
            marks: config
                .marks
                .iter()
                .map(|(key, mark)| (*key.as_bytes(), *mark))
                .collect(),
            next_broadcast: 1,
            next_best_effort_broadcast: 1,
            first_best_effort: 1,
            unsigned_broadcast: VecDeque::new(),
            best_effort_broadcast: VecDeque::new(),
            inbox: Inbox::default(),
            awaited: BTreeSet::new(),
            tickets: BTreeMap::new(),
            next_ticket: 0,
            next_id: 0,
            dirty_marks: BTreeSet::new(),
            events: Vec::new(),
            is_observed: config.observer.is_some(),
            metrics: SessionMetrics::default(),
            peers_changed: true,
            progress: false,
            closed: false,
            ended: false,
            halted: None,
            said: Vec::new(),
            has_keepalive: config.keepalive.is_some(),
        }
    }

    // ------------------------------------------------------------------------------------------------------ sending

    /// Whether a draft would be accepted now. After [`SubmitError::WindowFull`] it may be asked again.
    pub(super) fn may_submit(&self, draft: &Draft, now: Timestamp) -> Result<(), SubmitError> {
        self.check_draft(draft, now)?;
        if draft.delivery_class() == Delivery::Reliable && !self.has_window(draft.destination()) {
            return Err(SubmitError::WindowFull);
        }
        Ok(())
    }

    /// Accepts a draft that [`may_submit`](Self::may_submit) let pass.
    pub(super) fn submit(&mut self, draft: Draft, now: Now) -> Result<Receipt, SubmitError> {
        let (delivery, destination) = (draft.delivery_class(), draft.destination().clone());
        let (peers, expiry) = (self.recipients(&destination), draft.expiry());
        let sequence = self.peek_sequence(&destination, delivery);
        let message = self.stamp(draft, sequence, now.wall)?;
        let size = message.body().len();
        if size > self.max_body {
            return Err(SubmitError::TooLarge {
                size,
                limit: self.max_body,
            });
        }
        let id = message.header().id.clone();
        let (sender, outcomes) = oneshot::channel();
        let receipt = Receipt {
            id: id.clone(),
            sequence,
            outcomes,
        };
        self.metrics.submitted += 1;
        if delivery == Delivery::BestEffort {
            self.submit_best_effort(&destination, message);
            // Nobody will know more; a receiver that is gone does not mind.
            let _ = sender.send(
                peers
                    .into_iter()
                    .map(|peer| (peer, Outcome::Unconfirmed))
                    .collect(),
            );
            return Ok(receipt);
        }
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let remaining = peers.len();
        let ticket_state = Ticket {
            message: message.clone(),
            remaining,
            outcomes: Vec::new(),
            sender,
        };
        if remaining == 0 {
            // Nobody is there: the number was not taken, for nobody would ever see it.
            let _ = ticket_state.sender.send(Vec::new());
            return Ok(receipt);
        }
        self.tickets.insert(ticket, ticket_state);
        let expires = expiry.map(|at| {
            let left = u64::try_from(at.millis_since(now.wall)).unwrap_or(0);
            now.elapsed + Duration::from_millis(left + 1)
        });
        match &destination {
            Destination::Agent(agent) => {
                let peer = self.peer(agent);
                peer.direct.push(size, ticket, expires);
                peer.unsigned.push_back((sequence, message));
            }
            Destination::Everyone => {
                self.next_broadcast += 1;
                for agent in &peers {
                    self.peer(agent).broadcast.push(size, ticket, expires);
                }
                self.unsigned_broadcast.push_back((sequence, message));
            }
        }
        Ok(receipt)
    }

    fn check_draft(&self, draft: &Draft, now: Timestamp) -> Result<(), SubmitError> {
        if self.closed {
            return Err(SubmitError::Closed);
        }
        if let Some(error) = &self.halted {
            return Err(SubmitError::OffTheRecord(error.clone()));
        }
        if draft.performative_ref().is_some_and(Performative::is_reserved) {
            return Err(SubmitError::ReservedPerformative);
        }
        if draft.expiry().is_some_and(|expires| now > expires) {
            return Err(SubmitError::AlreadyExpired);
        }
        if let Destination::Agent(agent) = draft.destination() {
            if *agent == self.me {
                return Err(SubmitError::ToOurselves);
            }
            let trust = self.admission.trust();
            let may_appear = match trust.policy() {
                TrustPolicy::Allowlist => false,
                TrustPolicy::Tofu => true,
                TrustPolicy::SelfCertifying => PublicKey::from_did_key(agent.as_str()).is_ok(),
            };
            if trust.binding(agent).is_none() && !may_appear {
                return Err(SubmitError::UnknownAgent(agent.clone()));
            }
        }
        Ok(())
    }

    /// Whom a message goes to: its destination, or every peer that has been up in this run.
    fn recipients(&self, destination: &Destination) -> Vec<AgentId> {
        match destination {
            Destination::Agent(agent) => vec![agent.clone()],
            Destination::Everyone => self
                .peers
                .values()
                .filter(|peer| peer.member)
                .map(|peer| peer.agent.clone())
                .collect(),
        }
    }

    fn has_window(&self, destination: &Destination) -> bool {
        let fits = |stream: &Outbound| {
            let (messages, bytes) = stream.load();
            stream.span() < self.limits.window_messages && (messages == 0 || bytes < self.limits.window_bytes)
        };
        match destination {
            Destination::Agent(agent) => self.peers.get(agent).is_none_or(|peer| fits(&peer.direct)),
            Destination::Everyone => {
                let mut members = self.peers.values().filter(|peer| peer.member);
                members.all(|peer| fits(&peer.broadcast))
            }
        }
    }

    fn peek_sequence(&mut self, destination: &Destination, delivery: Delivery) -> u64 {
        match (destination, delivery) {
            (Destination::Agent(agent), Delivery::Reliable) => self.peer(agent).direct.next(),
            (Destination::Agent(agent), Delivery::BestEffort) => self.peer(agent).next_best_effort(),
            (Destination::Everyone, Delivery::Reliable) => self.next_broadcast,
            (Destination::Everyone, Delivery::BestEffort) => {
                self.next_best_effort_broadcast += 1;
                self.next_best_effort_broadcast - 1
            }
        }
    }

    /// An id that no other message of this agent has.
    pub(super) fn new_id(&mut self) -> MessageId {
        self.next_id += 1;
        MessageId::of_numbers(self.epoch, self.next_id)
    }

    fn stamp(&mut self, draft: Draft, sequence: u64, now: Timestamp) -> Result<UnsignedMessage, SubmitError> {
        let stamp = Stamp {
            id: self.new_id(),
            source: self.me.clone(),
            timestamp: now,
            epoch: self.epoch,
            sequence,
        };
        Ok(draft.stamp(stamp, &self.limits.message)?)
    }

    fn submit_best_effort(&mut self, destination: &Destination, message: UnsignedMessage) {
        let room = self.limits.best_effort_queue;
        let (queue, peer) = match destination {
            Destination::Agent(agent) => {
                let peer = self.peer(agent);
                if !peer.confirmed {
                    peer.missed |= !peer.linked;
                    let (digest, peer) = (Some(message.digest()), agent.clone());
                    return self.drop_message(SessionEvent::Dropped {
                        digest,
                        peer,
                        reason: "no-link",
                    });
                }
                (&mut peer.best_effort, agent.clone())
            }
            Destination::Everyone => (&mut self.best_effort_broadcast, self.me.clone()),
        };
        queue.push_back(message);
        if queue.len() > room
            && let Some(oldest) = queue.pop_front()
        {
            let digest = Some(oldest.digest());
            self.drop_message(SessionEvent::Dropped {
                digest,
                peer,
                reason: "best-effort-queue-full",
            });
        }
    }

    fn drop_message(&mut self, event: SessionEvent) {
        self.metrics.dropped += 1;
        self.events.push(event);
    }

    fn peer(&mut self, agent: &AgentId) -> &mut Peer {
        let (limits, first) = (&self.limits, self.first_best_effort);
        self.peers
            .entry(agent.clone())
            .or_insert_with(|| Peer::new(agent.clone(), limits, first))
    }

    // -------------------------------------------------------------------------------------------------------- time

    /// Gives up what has expired.
    pub(super) fn on_timeout(&mut self, now: Duration) {
        let mut given_up = Vec::new();
        for peer in self.peers.values_mut() {
            let mut finished = peer.direct.expire(now);
            finished.extend(peer.broadcast.expire(now));
            if !finished.is_empty() {
                // Later messages must not wait for these at the peer.
                peer.question_if_unplanned(now);
                peer.drop_finished();
                given_up.push((peer.agent.clone(), finished));
            }
        }
        if !given_up.is_empty() {
            self.drop_finished_broadcasts();
        }
        for (agent, finished) in given_up {
            self.resolve(&agent, finished);
        }
    }

    fn drop_finished_broadcasts(&mut self) {
        let peers = &self.peers;
        let is_wanted = |sequence| {
            peers
                .values()
                .any(|peer| peer.member && peer.broadcast.is_outstanding(sequence))
        };
        self.unsigned_broadcast
            .retain(|(sequence, _)| is_wanted(*sequence));
    }

    /// When `on_timeout` and `poll_transmit` want to be called at the latest.
    pub(super) fn next_timeout(&self, now: Duration) -> Option<Duration> {
        self.peers
            .values()
            .filter_map(|peer| {
                let keepalive = peer.keepalive_at.filter(|at| self.has_keepalive && *at > now);
                peer.next_timeout(now)
                    .into_iter()
                    .chain(keepalive.filter(|_| peer.confirmed))
                    .min()
            })
            .min()
    }

    /// Peers to which the transport is to be asked for a link.
    pub(super) fn asleep(&mut self, now: Duration) -> Vec<AgentId> {
        self.peers
            .values_mut()
            .filter_map(|peer| peer.wakes(now).then(|| peer.agent.clone()))
            .collect()
    }

    // ------------------------------------------------------------------------------------------------------ journal

    /// What has been taken and is not on record yet. Acknowledged only after [`recorded`](Self::recorded).
    pub(super) fn marks(&mut self) -> Vec<(AgentId, PublicKey, Mark)> {
        let mark = |agent: AgentId| {
            let peer = self.peers.get(&agent)?;
            let key = peer.key?;
            let highest = |stream| self.admission.replay().highest(&key, stream);
            let mark = peer.mark([highest(Stream::BestEffort), highest(Stream::BestEffortBroadcast)])?;
            Some((agent, key, mark))
        };
        let dirty = std::mem::take(&mut self.dirty_marks);
        let mut marks = Vec::with_capacity(dirty.len());
        marks.extend(dirty.into_iter().filter_map(mark));
        marks
    }

    pub(super) fn recorded(&mut self, agent: &AgentId, mark: &Mark, now: Duration) {
        if let Some(peer) = self.peers.get_mut(agent) {
            peer.recorded(mark, now, &self.limits);
        }
    }

    /// The journal failed: the mark is tried again with the next one.
    pub(super) fn not_recorded(&mut self, agent: AgentId, error: super::JournalError) {
        self.metrics.journal_failures += 1;
        self.dirty_marks.insert(agent);
        self.events.push(SessionEvent::JournalFailed { error });
    }

    // ------------------------------------------------------------------------------------------------------ the rest

    /// No more drafts are accepted.
    pub(super) fn stop_accepting(&mut self) {
        self.closed = true;
    }

    /// Everything reliable has an outcome, and nothing is owed to a peer that is there.
    pub(super) fn is_idle(&self) -> bool {
        let quiet = |peer: &Peer| !(peer.confirmed && peer.ack_pending());
        self.tickets.is_empty() && self.peers.values().all(quiet)
    }

    /// The session is over: every message that is left gets its outcome.
    pub(super) fn end(&mut self) {
        self.closed = true;
        self.ended = true;
        self.progress = true;
        let agents: Vec<AgentId> = self.peers.keys().cloned().collect();
        for agent in agents {
            self.abandon_peer(&agent, &Refusal::SessionClosed);
        }
    }

    /// Gives up on a peer: it is no recipient of broadcasts any more, and what it has not acknowledged is refused.
    pub(super) fn forget(&mut self, agent: &AgentId) {
        self.abandon_peer(agent, &Refusal::PeerForgotten);
        if let Some(peer) = self.peers.get_mut(agent) {
            peer.member = false;
        }
    }

    fn abandon_peer(&mut self, agent: &AgentId, refusal: &Refusal) {
        if let Some(peer) = self.peers.get_mut(agent) {
            let mut finished = peer.direct.abandon(refusal);
            finished.extend(peer.broadcast.abandon(refusal));
            peer.drop_finished();
            self.drop_finished_broadcasts();
            self.resolve(agent, finished);
        }
    }

    /// Nothing will come any more.
    pub(super) fn has_ended(&self) -> bool {
        self.ended
    }

    /// Whether somebody who waits should look again.
    pub(super) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress) || self.closed
    }

    /// The application may take so much that it is worth an acknowledgement.
    pub(super) fn much_waits(&self) -> bool {
        self.inbox.released >= self.limits.ack_every
    }

    pub(super) fn peers_if_changed(&mut self) -> Option<Vec<PeerStatus>> {
        std::mem::take(&mut self.peers_changed).then(|| self.peers())
    }

    /// What happened, in exchange for room for what will.
    pub(super) fn events(&mut self, told: &mut Vec<SessionEvent>) {
        told.clear();
        std::mem::swap(&mut self.events, told);
    }

    /// What the transport is to be told.
    pub(super) fn feedback(&mut self) -> Vec<(AgentId, Feedback)> {
        let mut all = Vec::new();
        for peer in self.peers.values_mut() {
            let (direct, broadcast) = (peer.direct.take_feedback(), peer.broadcast.take_feedback());
            all.extend(
                direct
                    .into_iter()
                    .chain(broadcast)
                    .map(|news| (peer.agent.clone(), news)),
            );
        }
        all
    }

    /// What has been received may be handed out: its events were told.
    pub(super) fn release(&mut self) {
        self.inbox.released = self.inbox.items.len();
    }

    /// Nothing is accepted, or everything again.
    pub(super) fn halt(&mut self, error: Option<ObserverError>) {
        self.metrics.halts += u64::from(error.is_some() && self.halted.is_none());
        self.halted = error;
    }

    // ------------------------------------------------------------------------------------------------------ keepalive

    /// What peers' keepalives said.
    pub(super) fn take_said(&mut self) -> Vec<(AgentId, PublicKey, serde_json::Value)> {
        std::mem::take(&mut self.said)
    }

    /// Our keepalive has something to say to this peer now.
    pub(super) fn ask_keepalive(&mut self, agent: &AgentId) {
        self.peer(agent).keepalive_at = Some(Duration::ZERO);
    }

    /// Peers that our keepalive may speak to now.
    pub(super) fn keepalives_due(&mut self, now: Duration) -> Vec<AgentId> {
        let due = |peer: &&mut Peer| peer.confirmed && peer.keepalive_at.is_none_or(|at| at <= now);
        let due = self.peers.values_mut().filter(due);
        due.map(|peer| {
            peer.keepalive_at = Some(now + KEEPALIVE);
            peer.agent.clone()
        })
        .collect()
    }

    /// Says something to a peer with the next control message.
    pub(super) fn say(&mut self, agent: &AgentId, value: serde_json::Value) {
        if value.to_string().len() <= control::MAX_SAID {
            self.peer(agent).say = Some(value);
        }
    }

    pub(super) fn metrics(&self) -> SessionMetrics {
        self.metrics.clone()
    }

    pub(super) fn peers(&self) -> Vec<PeerStatus> {
        let status = |peer: &Peer| PeerStatus {
            peer: peer.agent.clone(),
            up: peer.confirmed,
            epoch: peer.epoch,
            round_trip: peer.rtt.smoothed(),
            unacknowledged: peer.direct.load().0 + peer.broadcast.load().0,
        };
        self.peers.values().map(status).collect()
    }

    /// What is queued unsigned.
    #[cfg(test)]
    pub(super) fn unsigned(&self) -> usize {
        let direct: usize = self.peers.values().map(|peer| peer.unsigned.len()).sum();
        direct + self.unsigned_broadcast.len()
    }

    /// What a peer has waiting here.
    #[cfg(test)]
    pub(super) fn load_of(&self, peer: &AgentId) -> (usize, usize) {
        self.peers[peer].load_in()
    }

    /// How many refusals are kept for a peer.
    #[cfg(test)]
    pub(super) fn refusals_of(&self, peer: &AgentId) -> usize {
        let peer = &self.peers[peer];
        control::Reliable::BOTH
            .map(|which| peer.inbound_ref(which).refusals())
            .iter()
            .sum()
    }

    pub(super) fn trust(&self) -> &ifmsg::TrustStore {
        self.admission.trust()
    }

    /// Exchanges the trust store, and tells what that changes.
    pub(super) fn set_trust(&mut self, trust: ifmsg::TrustStore) {
        let former = std::mem::replace(self.admission.trust_mut(), trust);
        let now = self.admission.trust();
        let agents: BTreeSet<&AgentId> = [&former, now]
            .into_iter()
            .flat_map(|trust| trust.bindings().map(|(agent, _)| agent))
            .collect();
        for agent in agents {
            let [from, to] = [&former, now].map(|trust| trust.binding(agent).map(|binding| binding.key));
            if from != to {
                let (agent, from, to) = (agent.clone(), from.map(Box::new), to.map(Box::new));
                self.events.push(SessionEvent::TrustChanged { agent, from, to });
            }
        }
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("agent", &self.me)
            .field("epoch", &self.epoch)
            .finish_non_exhaustive()
    }
}
