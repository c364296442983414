//! What goes: flights, resends, broadcasts and control messages, as links become free.

use std::{
    collections::{BTreeSet, VecDeque},
    ops::Bound,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use ifmsg::{
    AgentId, Delivery, Draft, Now, Performative, SignedMessage, UnsignedMessage, encode_binary, sign_flight,
};

use super::{CONTROL_ROOM, Classify, Departure, FRAME_ROOM, Machine};
use crate::{
    Class, Envelope, Lane, Route,
    session::{
        Flight, HandedOver, SessionEvent, SessionLimits,
        control::{self, Reliable},
        peer::{Peer, SharedFlight},
    },
};

impl Machine {
    /// The next envelope, for a lane that is not `busy`. `None` until something happens. What it says is told by
    /// [`departs`](Self::departs).
    pub(in crate::session) fn poll_transmit(
        &mut self,
        now: Now,
        busy: &BTreeSet<(AgentId, Lane)>,
    ) -> Option<Departure> {
        self.sign_broadcasts(busy);
        for lane in [Lane::Reliable, Lane::BestEffort] {
            let ready = |peer: &mut Peer| {
                peer.linked && !busy.contains(&(peer.agent.clone(), lane)) && peer.has_work(lane, now.elapsed)
            };
            let mut after = Bound::Unbounded;
            // One whose work turns out to be finished must not keep the others waiting.
            while let Some(agent) = self
                .peers
                .range_mut((after, Bound::Unbounded))
                .find_map(|(_, peer)| ready(peer).then(|| peer.agent.clone()))
            {
                let departure = match lane {
                    Lane::Reliable => self.transmit_reliable(&agent, now),
                    Lane::BestEffort => self.transmit_best_effort(&agent, now),
                };
                if departure.is_some() {
                    self.metrics.frames_sent += 1;
                    return departure;
                }
                after = Bound::Excluded(agent);
            }
        }
        None
    }

    /// Tells of messages that are about to leave, by this road of a router.
    pub(in crate::session) fn departs(&mut self, departure: &Departure, road: Option<&Arc<str>>) {
        if self.is_observed && !departure.flight.messages.is_empty() {
            self.events.push(SessionEvent::Sent {
                flight: departure.flight.clone(),
                road: road.cloned(),
            });
        }
    }

    /// Tells which roads took an envelope, as far as that is not what was told when it left.
    pub(in crate::session) fn carried(&mut self, done: &HandedOver, roads: &[Arc<str>]) {
        if done.flight.messages.is_empty() {
            return;
        }
        let mut instead_of = done.named.as_ref().filter(|named| !roads.contains(named));
        for road in roads.iter().filter(|road| done.named.as_ref() != Some(road)) {
            self.events.push(SessionEvent::Carried {
                flight: done.flight.clone(),
                road: road.clone(),
                instead_of: instead_of.take().cloned(),
            });
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
                let ack = (peer.ack_rides(now.elapsed, &self.limits)
                    && bytes + CONTROL_ROOM <= self.max_frame)
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
            let attempt = if message.header().delivery == Delivery::Reliable {
                let (signed, transmission) = (message.clone(), route.transmission);
                let attempt = peer
                    .direct
                    .signed_and_sent(sequence, signed, now, &peer.rtt, transmission);
                // What has expired in the meantime is finished, and stays out of the frame.
                let Some(attempt) = attempt else { continue };
                attempt
            } else {
                1
            };
            wanted.push(message);
            attempts.push(attempt);
        }
        self.metrics.messages_sent += wanted.len() as u64;
        let frame = encode_binary(&wanted).ok()?;
        let envelope = Envelope::new(agent.clone(), lane, frame);
        let messages = wanted.into_iter().zip(attempts).collect();
        Some(departure(Envelope { route, ..envelope }, agent, messages))
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
            if !peer.outbound(which).has_due(now) {
                continue;
            }
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
            let envelope = Envelope {
                attempt: attempts.iter().copied().max().unwrap_or(1),
                route,
                ..envelope
            };
            let messages = messages.into_iter().zip(attempts).collect();
            return Some(departure(envelope, agent, messages));
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
        Some(departure(Envelope { route, ..envelope }, agent, messages))
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

    pub(super) fn nonce(&mut self) -> String {
        let mut bytes = [0; 16];
        self.random.fill_bytes(&mut bytes);
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What sessions say to each other.
fn control_departure(agent: &AgentId, lane: Lane, frame: impl Into<Bytes>) -> Departure {
    let mut envelope = Envelope::new(agent.clone(), lane, frame);
    envelope.route.class = Class::CONTROL;
    departure(envelope, agent, Vec::new())
}

fn departure(envelope: Envelope, to: &AgentId, messages: Vec<(SignedMessage, u32)>) -> Departure {
    let flight = Flight {
        peer: to.clone(),
        lane: envelope.lane,
        messages,
    };
    Departure {
        envelope,
        flight: Arc::new(flight),
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
