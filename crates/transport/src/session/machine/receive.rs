//! What comes: from the transport to the application, and what it does to the streams.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use ifmsg::{
    Admitted, AgentId, Header, Host, MessageId, Now, Performative, PublicKey, RejectedMessage, Rejection,
    SignedMessage, UnsignedMessage, VerifiedMessage,
};

use super::Machine;
use crate::{
    TransportEvent,
    session::{
        Outcome, SessionEvent, SessionLimits,
        control::{self, Control, Hello, Reliable},
        inbox::{InboxItem, Origin},
        peer::{Claimed, Known, Peer},
    },
};

impl Machine {
    pub(in crate::session) fn on_transport(&mut self, event: TransportEvent, now: Now) {
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
                key: Box::new(key),
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
                peer.turned_away[which as usize] = false;
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
                if self.is_observed {
                    tell_received(&mut self.events, &message, road);
                }
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
            let known = peer.remember(&message.header().id);
            if known != Known::New {
                if known == Known::Waiting {
                    let header = message.header();
                    peer.inbound(which).repeats(header.sequence, header.id.clone());
                }
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
            if self.is_observed {
                tell_received(&mut self.events, &message, road.as_ref());
            }
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
                if let (Some(peer), Some(which)) = (self.peers.get_mut(source), Reliable::of(header.stream()))
                {
                    peer.turned_away[which as usize] = true;
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

    pub(super) fn resolve(&mut self, peer: &AgentId, finished: Vec<(u64, Outcome)>) {
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
            if self.is_observed {
                tell_finished(&mut self.events, &ticket.message, peer, &outcome);
            }
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
    pub(in crate::session) fn take(&mut self) -> Option<InboxItem> {
        let awaited = &self.awaited;
        self.inbox
            .take(|header| !header.in_reply_to.as_ref().is_some_and(|id| awaited.contains(id)))
    }

    /// From now on the reply to this message waits for [`take_reply`](Self::take_reply).
    pub(in crate::session) fn await_reply(&mut self, to: MessageId) {
        self.awaited.insert(to);
    }

    /// Nobody waits for this reply any more.
    pub(in crate::session) fn forget_reply(&mut self, to: &MessageId) {
        self.awaited.remove(to);
        self.progress = true;
    }

    pub(in crate::session) fn take_reply(&mut self, to: &MessageId) -> Option<InboxItem> {
        self.inbox.take(|header| header.in_reply_to.as_ref() == Some(to))
    }

    /// The application is done with a message: it goes on record, and is acknowledged.
    pub(in crate::session) fn commit(&mut self, message: &VerifiedMessage, origin: Option<Origin>) {
        let source = message.source();
        let (Some((which, epoch)), Some(peer)) = (origin, self.peers.get_mut(source)) else {
            return;
        };
        if peer.settle(&message.header().id) {
            self.dirty_marks.insert(source.clone());
        }
        if peer.epoch == Some(epoch) {
            peer.inbound(which).taken(message.header().sequence);
            self.dirty_marks.insert(source.clone());
        } else {
            peer.former_taken(message.as_signed().body().len());
            // There is nothing new to record, but there may be room to tell of.
            if peer.has_turned_away() {
                self.dirty_marks.insert(source.clone());
            }
        }
    }
}

/// With what was told last, if that was received by the same road.
fn tell_received(events: &mut Vec<SessionEvent>, message: &VerifiedMessage, road: Option<&Arc<str>>) {
    let message = message.as_signed().to_unsigned();
    match events.last_mut() {
        Some(SessionEvent::Received { messages, road: same }) if same.as_ref() == road => {
            messages.push(message);
        }
        _ => events.push(SessionEvent::Received {
            messages: vec![message],
            road: road.cloned(),
        }),
    }
}

/// With what was told last, if the same peer brought the same fate.
fn tell_finished(
    events: &mut Vec<SessionEvent>,
    message: &UnsignedMessage,
    peer: &AgentId,
    outcome: &Outcome,
) {
    match events.last_mut() {
        Some(SessionEvent::Finished {
            messages,
            peer: same_peer,
            outcome: same_outcome,
        }) if same_peer == peer && same_outcome == outcome => messages.push(message.clone()),
        _ => events.push(SessionEvent::Finished {
            messages: vec![message.clone()],
            peer: peer.clone(),
            outcome: outcome.clone(),
        }),
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

/// What admission asks of the session.
struct SessionHost<'a> {
    peers: &'a BTreeMap<AgentId, Peer>,
    limits: &'a SessionLimits,
    /// What of this frame was given room before.
    claimed: std::cell::Cell<[Claimed; 2]>,
}

impl Host for SessionHost<'_> {
    fn has_room(&self, header: &Header) -> bool {
        let Some(which) = Reliable::of(header.stream()) else {
            return true;
        };
        let Some(peer) = self.peers.get(&header.source) else {
            return true;
        };
        // What is missing below a message that was accepted has its room, or those that wait for it could keep it out.
        let mut claimed = self.claimed.get();
        let of_stream = &mut claimed[which as usize];
        *of_stream = (of_stream.0.max(header.sequence), of_stream.1 + 1);
        let in_epoch = peer.epoch == Some(header.epoch);
        let inbound = peer.inbound_ref(which);
        let (mut messages, bytes) = peer.load_with(claimed, in_epoch);
        if in_epoch && inbound.is_missing(header.sequence) {
            // Its room was kept when a later one came. Counted again, it would be kept out by what came beside it since.
            messages = peer.load_in().0 + claimed[0].1 + claimed[1].1;
        }
        let fits = messages <= self.limits.inbox_messages && bytes < self.limits.inbox_bytes;
        if fits {
            self.claimed.set(claimed);
        }
        // Each stream goes on by one message at a time, whatever the other one keeps.
        fits || (in_epoch && inbound.is_next(header.sequence) && peer.nothing_else_waits(which))
    }

    fn proves_liveness(&self, message: &SignedMessage) -> bool {
        let header = message.header();
        let Some(peer) = self.peers.get(&header.source) else {
            return false;
        };
        peer.is_our_nonce(hello_of(message).and_then(|hello| hello.echo).as_deref())
    }
}
