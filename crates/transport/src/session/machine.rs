//! The session's logic, without I/O and without a clock: inputs take `now`, outputs are polled.
//!
//! Inputs: [`submit`](Machine::submit) a draft, [`on_transport`](Machine::on_transport), [`on_timeout`](Machine::on_timeout),
//! [`take`](Machine::take) from the inbox. Outputs: [`marks`](Machine::marks) for the journal, then
//! [`poll_transmit`](Machine::poll_transmit), [`events`](Machine::events), [`next_timeout`](Machine::next_timeout).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use ifmsg::{
    Admission, Admitted, AgentId, Delivery, Destination, Draft, Header, Host, Identity, Mark, MessageId, Now,
    Performative, PublicKey, RejectedMessage, Rejection, SignedMessage, Stamp, Stream, Timestamp,
    TrustPolicy, UnsignedMessage, VerifiedMessage, encode_binary, sign_flight,
};
use rand_core::CryptoRng;
use tokio::sync::oneshot;

use super::{
    HandedOver, ObserverError, Outcome, PeerStatus, Refusal, SessionEvent, SessionLimits, SessionMetrics,
    control::{self, Control, Hello, Reliable},
    outcome::{Receipt, SubmitError},
    peer::{Peer, SharedFlight},
};
use crate::{Capabilities, Class, Envelope, Feedback, Lane, Route, TransportEvent};

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

/// An envelope to hand to the transport, and the messages in it, each with the number of its attempt.
#[derive(Debug)]
pub(super) struct Departure {
    pub(super) peer: AgentId,
    pub(super) envelope: Envelope,
    pub(super) messages: Vec<(SignedMessage, u32)>,
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
        let destination = draft.destination();
        if draft.delivery_class() == Delivery::Reliable
            && !self.has_window(destination, &self.recipients(destination))
        {
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

    fn has_window(&self, destination: &Destination, peers: &[AgentId]) -> bool {
        let fits = |peer: &Peer| {
            let stream = match destination {
                Destination::Agent(_) => &peer.direct,
                Destination::Everyone => &peer.broadcast,
            };
            let (messages, bytes) = stream.load();
            stream.span() < self.limits.window_messages && (messages == 0 || bytes < self.limits.window_bytes)
        };
        peers.iter().all(|agent| self.peers.get(agent).is_none_or(fits))
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

    // ---------------------------------------------------------------------------------------------------- receiving

    pub(super) fn on_transport(&mut self, event: TransportEvent, now: Now) {
        match event {
            TransportEvent::Frame {
                from, frame, road, ..
            } => self.on_frame(&from, &frame, road.as_ref(), now),
            TransportEvent::LinkUp { peer } => {
                let nonce = self.nonce();
                self.peer(&peer).link_up(nonce, now.elapsed);
            }
            TransportEvent::LinkDown { peer, reason } => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    let was_up = state.confirmed;
                    state.link_down();
                    for message in std::mem::take(&mut state.best_effort) {
                        let (digest, peer) = (Some(message.digest()), peer.clone());
                        self.metrics.dropped += 1;
                        self.events.push(SessionEvent::Dropped {
                            digest,
                            peer,
                            reason: "no-link",
                        });
                    }
                    if was_up {
                        self.peers_changed = true;
                        let peer = peer.clone();
                        self.events.push(SessionEvent::PeerDown { peer, reason });
                    }
                }
                self.forget_stranger(&peer);
            }
            TransportEvent::Lost { peer, transmissions } => {
                if let Some(state) = self.peers.get_mut(&peer) {
                    state.direct.lost(&transmissions);
                    state.broadcast.lost(&transmissions);
                }
            }
            TransportEvent::Road(change) => self.events.push(SessionEvent::Road { change }),
            TransportEvent::Refused { peer, reason, detail } => {
                self.events
                    .push(SessionEvent::TransportRefused { peer, reason, detail });
            }
        }
    }

    /// Somebody who never proved anything, and to whom nothing was said but hellos, leaves nothing behind: names cost a hostile server
    /// nothing.
    fn forget_stranger(&mut self, agent: &AgentId) {
        if self.peers.get(agent).is_some_and(Peer::is_stranger)
            && let Some(peer) = self.peers.remove(agent)
        {
            // A number that was used once must not be used again for anything else, whoever it was that heard it.
            self.first_best_effort = self.first_best_effort.max(peer.upcoming_best_effort());
            self.peers_changed = true;
        }
    }

    fn on_frame(&mut self, link: &AgentId, frame: &Bytes, road: Option<&Arc<str>>, now: Now) {
        self.metrics.frames_received += 1;
        let flight = match ifmsg::decode(frame, &self.limits.message) {
            Ok(flight) => flight,
            Err(error) => {
                self.metrics.reject("malformed");
                return self.events.push(SessionEvent::Malformed {
                    link: link.clone(),
                    error,
                });
            }
        };
        let host = SessionHost {
            peers: &self.peers,
            limits: &self.limits,
            claimed: Default::default(),
        };
        for admitted in self.admission.admit(&flight, now, &host) {
            match admitted {
                Admitted::Message { message, pinned, .. } => self.on_message(message, pinned, road, now),
                Admitted::Rejected(rejected) => self.on_rejected(rejected, now),
                _ => {}
            }
        }
    }

    fn on_message(&mut self, message: VerifiedMessage, pinned: bool, road: Option<&Arc<str>>, now: Now) {
        let source = message.source().clone();
        let key = *message.as_signed().key();
        if pinned {
            self.events.push(SessionEvent::Pinned {
                agent: source.clone(),
                key,
            });
        }
        let header = message.header();
        let is_control = header
            .performative
            .as_ref()
            .is_some_and(Performative::is_reserved);
        let is_current = self.enter_epoch(&source, &key, header.epoch, now);
        // Admitted within the grace of a former run, whose streams are gone, and whose acknowledgements speak of an inbox
        // that is gone as well. Best effort does not mind.
        if !is_current && (is_control || header.stream().is_reliable()) {
            let digest = Some(message.digest());
            return self.drop_message(SessionEvent::Dropped {
                digest,
                peer: source,
                reason: "former-epoch",
            });
        }
        if is_control {
            return self.on_control(&source, &message, now);
        }
        match Reliable::of(header.stream()) {
            Some(which) => {
                let limits = self.limits;
                let digest = Some(message.digest());
                let peer = self.peer(&source);
                peer.turned_away = false;
                peer.owe_ack(now.elapsed, &limits);
                if peer.inbound(which).insert(message, road.cloned()) {
                    self.deliver(&source, which);
                } else {
                    self.drop_message(SessionEvent::Dropped {
                        digest,
                        peer: source,
                        reason: "given-up",
                    });
                }
            }
            None => {
                self.dirty_marks.insert(source);
                self.progress = true;
                self.metrics.received += 1;
                self.events.push(SessionEvent::Received {
                    message: message.clone(),
                    road: road.cloned(),
                });
                if let Some(oldest) = self
                    .inbox
                    .push_best_effort(message, self.limits.best_effort_queue)
                {
                    let (digest, peer) = (Some(oldest.digest()), oldest.source().clone());
                    self.drop_message(SessionEvent::Dropped {
                        digest,
                        peer,
                        reason: "inbox-full",
                    });
                }
            }
        }
    }

    /// Makes the epoch the peer's current one, if it is newer. Whether it is the current one.
    fn enter_epoch(&mut self, source: &AgentId, key: &PublicKey, epoch: u64, now: Now) -> bool {
        let peer = self.peer(source);
        peer.key = Some(*key);
        let former = peer.epoch;
        if former.is_some_and(|former| former >= epoch) {
            return former == Some(epoch);
        }
        let mark = self.marks.get(key.as_bytes()).copied();
        let peer = self.peer(source);
        let dropped = peer.begin_epoch(epoch, mark.as_ref());
        self.metrics.dropped += dropped as u64;
        let peer = self.peer(source);
        // A new run at the other end of a link that never went down: greet it anew.
        if former.is_some() && peer.linked && peer.confirmed {
            let nonce = self.nonce();
            self.peer(source).greet(nonce, now.elapsed);
        }
        true
    }

    /// Passes on what is in order.
    fn deliver(&mut self, source: &AgentId, which: Reliable) {
        let Some(peer) = self.peers.get_mut(source) else {
            return;
        };
        let epoch = peer.epoch.unwrap_or_default();
        while let Some((message, road)) = peer.inbound(which).next() {
            self.dirty_marks.insert(source.clone());
            // The peer's former run may have sent it already: the id is the idempotency key across a restart.
            if !peer.remember(&message.header().id) {
                self.metrics.duplicates += 1;
                self.events.push(SessionEvent::Dropped {
                    digest: Some(message.digest()),
                    peer: source.clone(),
                    reason: "repeated-id",
                });
                continue;
            }
            peer.inbound(which).put_in_inbox(&message);
            self.metrics.received += 1;
            self.events.push(SessionEvent::Received {
                message: message.clone(),
                road,
            });
            self.progress = true;
            self.inbox.push(InboxItem {
                message,
                origin: Some((which, epoch)),
            });
        }
    }

    fn on_rejected(&mut self, rejected: RejectedMessage, now: Now) {
        let (header, reason) = (&rejected.header, &rejected.reason);
        self.metrics.reject(reason.name());
        let source = &header.source;
        match reason {
            // Its sender has not heard that it arrived. Nothing was verified, so nothing but an acknowledgement follows.
            Rejection::Duplicate | Rejection::TooOld => {
                self.metrics.duplicates += 1;
                if let Some(peer) = self.peers.get_mut(source)
                    && header.stream().is_reliable()
                {
                    let limits = &self.limits;
                    peer.owe_ack(now.elapsed, limits);
                }
            }
            // Nothing was verified. It is said to nobody before there is room again, and then costs no more than a message.
            Rejection::NoRoom => {
                if let Some(peer) = self.peers.get_mut(source) {
                    peer.turned_away = true;
                }
            }
            // It proves no live sender, but its hello asks for a proof that *we* are live: the answer lets it prove itself.
            Rejection::NotLive => {
                let nonce = rejected
                    .message
                    .as_ref()
                    .and_then(hello_of)
                    .and_then(|hello| hello.nonce);
                if let (Some(nonce), Some(peer)) = (nonce, self.peers.get_mut(source)) {
                    peer.owe_echo(nonce, now.elapsed);
                }
            }
            _ if rejected.authentic && takes_its_number(reason) => {
                let key = self.admission.trust().binding(source).map(|binding| binding.key);
                if let (Some(which), Some(key)) = (Reliable::of(header.stream()), key)
                    && self.enter_epoch(&source.clone(), &key, header.epoch, now)
                {
                    let limits = self.limits;
                    let peer = self.peer(source);
                    peer.inbound(which).refuse(header.sequence, reason.name());
                    peer.owe_ack(now.elapsed, &limits);
                    self.dirty_marks.insert(source.clone());
                    self.deliver(&source.clone(), which);
                }
            }
            _ => {}
        }
        self.events.push(SessionEvent::Rejected {
            rejected: Box::new(rejected),
        });
    }

    fn on_control(&mut self, source: &AgentId, message: &VerifiedMessage, now: Now) {
        let named = message.header().performative.as_ref().map(Performative::as_str);
        let control: Control = match (named, message.payload_as()) {
            (Some(control::PERFORMATIVE), Ok(control)) => control,
            _ => return self.metrics.reject("unknown-control"),
        };
        self.metrics.control_received += 1;
        if let Some(said) = control.witness
            && self.has_keepalive
        {
            self.said.push((source.clone(), *message.as_signed().key(), said));
        }
        let mut finished = Vec::new();
        let (mut floors_raised, mut dropped) = (Vec::new(), 0);
        let epoch = self.epoch;
        let next_broadcast = self.next_broadcast;
        let peer = self.peer(source);
        for ack in control.acks.iter().filter(|ack| ack.epoch == epoch) {
            let mut rtt = peer.rtt.clone();
            finished.extend(peer.outbound(ack.stream).acknowledge(ack, now.elapsed, &mut rtt));
            peer.rtt = rtt;
        }
        if control.room {
            peer.hear_of_room(now.elapsed);
        }
        if !control.acks.is_empty() {
            peer.heard_news(now.elapsed);
        }
        for floor in &control.floors {
            dropped += peer
                .inbound(floor.stream)
                .raise_floor(floor.floor.clamp(1, ifmsg::MAX_SAFE_INTEGER));
            floors_raised.push(floor.stream);
        }
        if !control.floors.is_empty() {
            peer.owe_ack_now(now.elapsed);
        }
        let confirmed = control
            .hello
            .as_ref()
            .is_some_and(|hello| peer.hear_hello(hello, now.elapsed));
        if confirmed && !peer.member {
            peer.join(next_broadcast, now.elapsed);
        }
        let peer_epoch = peer.epoch.unwrap_or_default();
        self.metrics.dropped += dropped as u64;
        self.resolve(source, finished);
        for which in floors_raised {
            self.dirty_marks.insert(source.clone());
            self.deliver(source, which);
        }
        if confirmed {
            self.peers_changed = true;
            self.events.push(SessionEvent::PeerUp {
                peer: source.clone(),
                epoch: peer_epoch,
            });
        }
    }

    fn resolve(&mut self, peer: &AgentId, finished: Vec<(u64, Outcome)>) {
        self.progress |= !finished.is_empty();
        for (number, outcome) in finished {
            let Some(ticket) = self.tickets.get_mut(&number) else {
                continue;
            };
            match outcome {
                Outcome::Acknowledged => self.metrics.acknowledged += 1,
                Outcome::Expired => self.metrics.expired += 1,
                _ => self.metrics.refused += 1,
            }
            let header = ticket.message.header();
            self.events.push(SessionEvent::Finished {
                id: header.id.clone(),
                digest: ticket.message.digest(),
                trace: header.trace_id,
                conversation: header.conversation_id.clone(),
                destination: header.destination.clone(),
                peer: peer.clone(),
                outcome: outcome.clone(),
            });
            ticket.outcomes.push((peer.clone(), outcome));
            ticket.remaining -= 1;
            if ticket.remaining == 0
                && let Some(ticket) = self.tickets.remove(&number)
            {
                // Whoever dropped the receipt does not want to know.
                let _ = ticket.sender.send(ticket.outcomes);
            }
        }
    }

    /// The next message for the application that nobody waits for as a reply.
    pub(super) fn take(&mut self) -> Option<InboxItem> {
        let awaited = &self.awaited;
        self.inbox
            .take(|header| !header.in_reply_to.as_ref().is_some_and(|id| awaited.contains(id)))
    }

    /// From now on the reply to this message waits for [`take_reply`](Self::take_reply).
    pub(super) fn await_reply(&mut self, to: MessageId) {
        self.awaited.insert(to);
    }

    /// Nobody waits for this reply any more.
    pub(super) fn forget_reply(&mut self, to: &MessageId) {
        self.awaited.remove(to);
        self.progress = true;
    }

    pub(super) fn take_reply(&mut self, to: &MessageId) -> Option<InboxItem> {
        self.inbox.take(|header| header.in_reply_to.as_ref() == Some(to))
    }

    /// The application is done with a message: it goes on record, and is acknowledged.
    pub(super) fn commit(&mut self, message: &VerifiedMessage, origin: Option<Origin>) {
        let source = message.source();
        let (Some((which, epoch)), Some(peer)) = (origin, self.peers.get_mut(source)) else {
            return;
        };
        if peer.epoch == Some(epoch) {
            peer.inbound(which).taken(message.header().sequence);
            self.dirty_marks.insert(source.clone());
        } else {
            peer.former_taken(message.as_signed().body().len());
            // There is nothing new to record, but there may be room to tell of.
            if peer.turned_away {
                self.dirty_marks.insert(source.clone());
            }
        }
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
        std::mem::take(&mut self.dirty_marks)
            .into_iter()
            .filter_map(mark)
            .collect()
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

    // ------------------------------------------------------------------------------------------------- transmitting

    /// The next envelope, for a lane that is not `busy`. `None` until something happens. What it says is told by
    /// [`departs`](Self::departs).
    pub(super) fn poll_transmit(&mut self, now: Now, busy: &BTreeSet<(AgentId, Lane)>) -> Option<Departure> {
        self.sign_broadcasts(busy);
        for lane in [Lane::Reliable, Lane::BestEffort] {
            let ready = |peer: &mut Peer| {
                peer.linked && !busy.contains(&(peer.agent.clone(), lane)) && peer.has_work(lane, now.elapsed)
            };
            let ready: Vec<AgentId> = self
                .peers
                .values_mut()
                .filter_map(|peer| ready(peer).then(|| peer.agent.clone()))
                .collect();
            // One whose work turns out to be finished must not keep the others waiting.
            for agent in ready {
                let departure = match lane {
                    Lane::Reliable => self.transmit_reliable(&agent, now),
                    Lane::BestEffort => self.transmit_best_effort(&agent, now),
                };
                if departure.is_some() {
                    self.metrics.frames_sent += 1;
                    return departure;
                }
            }
        }
        None
    }

    /// Tells of messages that are about to leave, by this road of a router.
    pub(super) fn departs(&mut self, departure: &Departure, road: Option<&Arc<str>>) {
        let events = departure
            .messages
            .iter()
            .map(|(message, attempt)| SessionEvent::Sent {
                message: message.clone(),
                peer: departure.peer.clone(),
                lane: departure.envelope.lane,
                attempt: *attempt,
                road: road.cloned(),
            });
        self.events.extend(events);
    }

    /// Tells which roads took an envelope, as far as that is not what was told when it left.
    pub(super) fn carried(&mut self, done: &HandedOver, roads: &[Arc<str>]) {
        let (peer, lane) = &done.to;
        let mut instead_of = done.named.as_ref().filter(|named| !roads.contains(named));
        for road in roads.iter().filter(|road| done.named.as_ref() != Some(road)) {
            let instead_of = instead_of.take();
            let events = done
                .messages
                .iter()
                .map(|(message, attempt)| SessionEvent::Carried {
                    message: message.clone(),
                    peer: peer.clone(),
                    lane: *lane,
                    attempt: *attempt,
                    road: road.clone(),
                    instead_of: instead_of.cloned(),
                });
            self.events.extend(events);
        }
    }

    fn transmit_reliable(&mut self, agent: &AgentId, now: Now) -> Option<Departure> {
        let peer = self.peers.get_mut(agent)?;
        if peer.reliable_control_due(now.elapsed) {
            // In JSON, which brings the public key along: it introduces us to a peer that trusts on first use.
            let message = self.control(agent, now)?;
            return Some(control_departure(agent, Lane::Reliable, message.to_json()));
        }
        if !peer.confirmed {
            return None;
        }
        self.resend(agent, now.elapsed)
            .or_else(|| self.send_shared(agent, true, now.elapsed))
            .or_else(|| {
                let peer = self.peers.get_mut(agent)?;
                let mut batch = take_flight(
                    &mut peer.unsigned,
                    |(_, message)| message,
                    &self.limits,
                    &self.classify,
                );
                if batch.is_empty() {
                    return None;
                }
                // An acknowledgement that is owed anyway rides along under the same signature.
                let bytes: usize = batch.iter().map(|(_, message)| message.body().len() + 4).sum();
                let ack = (peer.ack_pending() && bytes + CONTROL_ROOM <= self.max_frame)
                    .then(|| self.control_unsigned(agent, now))
                    .flatten();
                batch.extend(ack.map(|ack| (0, ack)));
                self.send_flight(agent, batch, Lane::Reliable, now.elapsed)
            })
    }

    fn transmit_best_effort(&mut self, agent: &AgentId, now: Now) -> Option<Departure> {
        let peer = self.peers.get_mut(agent)?;
        if peer.ack_due(now.elapsed) || peer.has_said() {
            let message = self.control(agent, now)?;
            let frame = encode_binary(&[message]).ok()?;
            return Some(control_departure(agent, Lane::BestEffort, frame));
        }
        if !peer.confirmed {
            return None;
        }
        self.send_shared(agent, false, now.elapsed).or_else(|| {
            let queue = &mut self.peers.get_mut(agent)?.best_effort;
            let batch = take_flight(queue, |message| message, &self.limits, &self.classify);
            let batch: Vec<_> = batch.into_iter().map(|message| (0, message)).collect();
            if batch.is_empty() {
                return None;
            }
            self.send_flight(agent, batch, Lane::BestEffort, now.elapsed)
        })
    }

    /// Signs messages to one peer under one signature.
    fn send_flight(
        &mut self,
        agent: &AgentId,
        batch: Vec<(u64, UnsignedMessage)>,
        lane: Lane,
        now: Duration,
    ) -> Option<Departure> {
        let (sequences, messages): (Vec<u64>, Vec<UnsignedMessage>) = batch.into_iter().unzip();
        let flight = sign_flight(&self.identity, messages).ok()?;
        let route = self.route(flight.first()?, 0);
        let peer = self.peers.get_mut(agent)?;
        let mut wanted = Vec::with_capacity(flight.len());
        let mut attempts = Vec::with_capacity(flight.len());
        for (sequence, message) in sequences.into_iter().zip(flight) {
            let reliable = message.header().delivery == Delivery::Reliable;
            // What has expired in the meantime is finished, and stays out of the frame.
            if reliable && !peer.direct.signed(sequence, message.clone()) {
                continue;
            }
            let attempt = if reliable {
                peer.direct.sent(sequence, now, &peer.rtt, route.transmission)
            } else {
                1
            };
            wanted.push(message);
            attempts.push(attempt);
        }
        self.metrics.messages_sent += wanted.len() as u64;
        let frame = encode_binary(&wanted).ok()?;
        let envelope = Envelope::new(agent.clone(), lane, frame);
        Some(Departure {
            peer: agent.clone(),
            envelope: Envelope { route, ..envelope },
            messages: wanted.into_iter().zip(attempts).collect(),
        })
    }

    /// What a router is told about a frame that begins with this message.
    fn route(&mut self, first: &SignedMessage, repeats: u64) -> Route {
        self.next_transmission += 1;
        Route {
            class: (self.classify)(first.header(), first.body().len()),
            transmission: self.next_transmission,
            repeats,
        }
    }

    /// Sends due messages again: as many of one flight as fit a frame, the same bytes, one attempt higher.
    fn resend(&mut self, agent: &AgentId, now: Duration) -> Option<Departure> {
        for which in Reliable::BOTH {
            let peer = self.peers.get_mut(agent)?;
            let mut batch: Vec<(u64, SignedMessage)> = Vec::new();
            let mut bytes = 0;
            for (sequence, message) in peer.outbound(which).due(now) {
                bytes += message.body().len() + FRAME_ROOM;
                let full = !batch.is_empty() && bytes > self.limits.flight_bytes.min(self.max_frame);
                if full
                    || batch
                        .first()
                        .is_some_and(|(_, first)| !first.is_of_the_flight_of(message))
                {
                    break;
                }
                batch.push((sequence, message.clone()));
            }
            let Some((first_sequence, first)) = batch.first().cloned() else {
                continue;
            };
            let repeats = peer.outbound(which).transmission_of(first_sequence);
            let route = self.route(&first, repeats);
            let peer = self.peers.get_mut(agent)?;
            let mut attempts = Vec::with_capacity(batch.len());
            for (sequence, _) in &batch {
                let rtt = peer.rtt.clone();
                let attempt = peer
                    .outbound(which)
                    .sent(*sequence, now, &rtt, route.transmission);
                attempts.push(attempt);
                self.metrics.resent += u64::from(attempt > 1);
            }
            let messages: Vec<SignedMessage> = batch.into_iter().map(|(_, message)| message).collect();
            let frame = encode_binary(&messages).ok()?;
            let envelope = Envelope::new(agent.clone(), Lane::Reliable, frame);
            return Some(Departure {
                peer: agent.clone(),
                envelope: Envelope {
                    attempt: attempts.iter().copied().max().unwrap_or(1),
                    route,
                    ..envelope
                },
                messages: messages.into_iter().zip(attempts).collect(),
            });
        }
        None
    }

    /// Sends a broadcast flight that was encoded for all peers.
    fn send_shared(&mut self, agent: &AgentId, reliable: bool, now: Duration) -> Option<Departure> {
        let peer = self.peers.get_mut(agent)?;
        let at = peer
            .shared
            .iter()
            .position(|flight| flight.reliable == reliable)?;
        let flight = peer.shared.remove(at)?;
        let route = self.route(flight.messages.first()?, 0);
        let peer = self.peers.get_mut(agent)?;
        let lane = if reliable {
            Lane::Reliable
        } else {
            Lane::BestEffort
        };
        let mut messages = Vec::with_capacity(flight.messages.len());
        for message in flight.messages.iter() {
            let sequence = message.header().sequence;
            let attempt = if reliable {
                peer.broadcast.sent(sequence, now, &peer.rtt, route.transmission)
            } else {
                1
            };
            messages.push((message.clone(), attempt));
        }
        self.metrics.messages_sent += flight.messages.len() as u64;
        let envelope = Envelope::new(agent.clone(), lane, flight.frame);
        Some(Departure {
            peer: agent.clone(),
            envelope: Envelope { route, ..envelope },
            messages,
        })
    }

    /// Signs and encodes broadcasts once, as soon as one peer could take them.
    fn sign_broadcasts(&mut self, busy: &BTreeSet<(AgentId, Lane)>) {
        for reliable in [true, false] {
            let lane = if reliable {
                Lane::Reliable
            } else {
                Lane::BestEffort
            };
            loop {
                let idle = |peer: &&Peer| {
                    peer.confirmed
                        && !busy.contains(&(peer.agent.clone(), lane))
                        && !peer.shared.iter().any(|flight| flight.reliable == reliable)
                };
                let pending = if reliable {
                    !self.unsigned_broadcast.is_empty()
                } else {
                    !self.best_effort_broadcast.is_empty()
                };
                if !pending || !self.peers.values().any(|peer| idle(&peer)) {
                    break;
                }
                let batch = if reliable {
                    let batch = take_flight(
                        &mut self.unsigned_broadcast,
                        |(_, message)| message,
                        &self.limits,
                        &self.classify,
                    );
                    batch.into_iter().map(|(_, message)| message).collect()
                } else {
                    take_flight(
                        &mut self.best_effort_broadcast,
                        |message| message,
                        &self.limits,
                        &self.classify,
                    )
                };
                if self.share_flight(batch, reliable).is_none() {
                    break;
                }
            }
        }
    }

    fn share_flight(&mut self, batch: Vec<UnsignedMessage>, reliable: bool) -> Option<()> {
        let messages: Arc<[SignedMessage]> = sign_flight(&self.identity, batch).ok()?.into();
        let frame = encode_binary(&messages).ok()?;
        for peer in self.peers.values_mut().filter(|peer| peer.member) {
            if reliable {
                let mut wanted = 0;
                for message in messages.iter() {
                    wanted += usize::from(peer.broadcast.signed(message.header().sequence, message.clone()));
                }
                // A peer that joined in between wants none or some of it, and one that is away gets it later: both by
                // way of `resend`, which sends what is due message by message.
                if !peer.confirmed || wanted < messages.len() {
                    continue;
                }
                // Claimed now, so that `resend` does not take it for a message that was never sent.
                for message in messages.iter() {
                    peer.broadcast.queued(message.header().sequence);
                }
            } else if !peer.confirmed || peer.shared.len() >= self.limits.best_effort_queue {
                self.metrics.dropped += messages.len() as u64;
                continue;
            }
            peer.shared.push_back(SharedFlight {
                frame: frame.clone(),
                messages: messages.clone(),
                reliable,
            });
        }
        Some(())
    }

    fn control(&mut self, agent: &AgentId, now: Now) -> Option<SignedMessage> {
        let message = self.control_unsigned(agent, now)?;
        Some(SignedMessage::sign(&self.identity, message))
    }

    fn control_unsigned(&mut self, agent: &AgentId, now: Now) -> Option<UnsignedMessage> {
        let peer = self.peers.get_mut(agent)?;
        let control = peer.control(now.elapsed, &self.limits);
        peer.ack_sent(now.elapsed);
        let sequence = peer.next_best_effort();
        let payload = serde_json::to_value(control).ok()?;
        let draft = Draft::new(agent.clone().into(), payload)
            .delivery(Delivery::BestEffort)
            .performative(Performative::new(control::PERFORMATIVE).ok()?);
        self.metrics.control_sent += 1;
        self.stamp(draft, sequence, now.wall).ok()
    }

    fn nonce(&mut self) -> String {
        let mut bytes = [0; 16];
        self.random.fill_bytes(&mut bytes);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
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

    pub(super) fn events(&mut self) -> Vec<SessionEvent> {
        std::mem::take(&mut self.events)
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
        Reliable::BOTH
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
                let agent = agent.clone();
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

/// A refused message whose number is used up: its sender may be told, and its stream goes on behind it.
fn takes_its_number(reason: &Rejection) -> bool {
    matches!(
        reason,
        Rejection::Expired(_) | Rejection::LevelNotPermitted | Rejection::BroadcastNotPermitted
    )
}

/// The hello in a control message.
fn hello_of(message: &SignedMessage) -> Option<Hello> {
    let act = message.header().performative.as_ref()?;
    if act.as_str() != control::PERFORMATIVE {
        return None;
    }
    let control: Control = serde_json::from_slice(message.payload_bytes()).ok()?;
    control.hello
}

/// What sessions say to each other.
fn control_departure(agent: &AgentId, lane: Lane, frame: impl Into<Bytes>) -> Departure {
    let mut envelope = Envelope::new(agent.clone(), lane, frame);
    envelope.route.class = Class::CONTROL;
    Departure {
        peer: agent.clone(),
        envelope,
        messages: Vec::new(),
    }
}

/// Takes messages of one class off a queue, up to the bounds of a flight; always one, if there is one.
fn take_flight<T>(
    queue: &mut VecDeque<T>,
    message: impl Fn(&T) -> &UnsignedMessage,
    limits: &SessionLimits,
    classify: &Classify,
) -> Vec<T> {
    let mut flight = Vec::new();
    let mut bytes = 0;
    let mut class = None;
    while let Some(first) = queue.front() {
        let unsigned = message(first);
        bytes += unsigned.body().len() + 4;
        let full = bytes > limits.flight_bytes || flight.len() >= limits.flight_messages;
        // A router sends them by different roads.
        let other = class.replace(classify(unsigned.header(), unsigned.body().len()));
        if !flight.is_empty() && (full || other != class) {
            break;
        }
        flight.extend(queue.pop_front());
    }
    flight
}

/// What admission asks of the session.
struct SessionHost<'a> {
    peers: &'a BTreeMap<AgentId, Peer>,
    limits: &'a SessionLimits,
    /// Messages of this frame that were given room before.
    claimed: std::cell::Cell<usize>,
}

impl Host for SessionHost<'_> {
    fn has_room(&self, header: &Header) -> bool {
        let Some(which) = Reliable::of(header.stream()) else {
            return true;
        };
        let Some(peer) = self.peers.get(&header.source) else {
            return true;
        };
        let (messages, bytes) = peer.load_in();
        let claimed = self.claimed.replace(self.claimed.get() + 1);
        let fits = messages + claimed < self.limits.inbox_messages && bytes < self.limits.inbox_bytes;
        fits || (peer.inbound_ref(which).is_next(header.sequence) && peer.inbox_is_empty())
    }

    fn proves_liveness(&self, message: &SignedMessage) -> bool {
        let header = message.header();
        let Some(peer) = self.peers.get(&header.source) else {
            return false;
        };
        peer.is_our_nonce(hello_of(message).and_then(|hello| hello.echo).as_deref())
    }
}

/// The stream and epoch of a reliable message.
pub(super) type Origin = (Reliable, u64);

/// Messages for the application.
#[derive(Debug, Default)]
struct Inbox {
    items: VecDeque<InboxItem>,
    best_effort: usize,
    /// So many of them, the first ones, may be handed out.
    released: usize,
}

#[derive(Debug)]
pub(super) struct InboxItem {
    pub(super) message: VerifiedMessage,
    /// `None` for best effort, which nobody acknowledges.
    pub(super) origin: Option<Origin>,
}

impl Inbox {
    fn push(&mut self, item: InboxItem) {
        self.items.push_back(item);
    }

    /// Adds a best-effort message; beyond `room` of them the oldest gives way, and is returned.
    fn push_best_effort(&mut self, message: VerifiedMessage, room: usize) -> Option<VerifiedMessage> {
        self.items.push_back(InboxItem {
            message,
            origin: None,
        });
        self.best_effort += 1;
        if self.best_effort <= room {
            return None;
        }
        let oldest = self.items.iter().position(|item| item.origin.is_none())?;
        self.best_effort -= 1;
        self.released -= usize::from(oldest < self.released);
        self.items.remove(oldest).map(|item| item.message)
    }

    /// The first message that is wanted; nearly always the first of all.
    fn take(&mut self, wanted: impl Fn(&Header) -> bool) -> Option<InboxItem> {
        let mut released = self.items.iter().take(self.released);
        let at = released.position(|item| wanted(item.message.header()))?;
        let item = self.items.remove(at)?;
        self.released -= 1;
        self.best_effort -= usize::from(item.origin.is_none());
        Some(item)
    }
}
