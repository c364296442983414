//! The router's logic, without I/O and without a clock: what happened and `now` go in, events and frames come out.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use ifmsg::{AgentId, Destination};
use rand_core::CryptoRng;

use super::{
    HealthConfig, Policy, RouterMetrics, Rules,
    copies::Copies,
    frame::{Parsed, RouterFrame},
    health::{Changed, Health},
    recent::Recent,
    relay::Ways,
};
use crate::{
    Class, DownReason, Envelope, Feedback, Lane, LinkState, LinkStatus, Path, RoadChange, RoadHealth,
    RoadStatus, SendError, TransportEvent,
};

/// Most transmissions to one peer whose fate is remembered: more than a session has under way to it.
const MOST_TRANSMISSIONS: usize = 4_096;

/// A peer without a link is forgotten after this time.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(120);

/// Which roads, as bits.
type Roads = u32;

/// What a router knows and decides.
pub(super) struct Table {
    names: Vec<Arc<str>>,
    /// The largest frame of each road.
    max_frames: Vec<usize>,
    rules: Rules,
    /// For each class, the roads by preference.
    orders: Vec<Vec<usize>>,
    health: HealthConfig,
    random: Box<dyn CryptoRng + Send>,
    peers: BTreeMap<AgentId, Peer>,
    /// Relays, which are the last road, if there are any.
    ways: Option<Ways>,
    events: VecDeque<TransportEvent>,
    outgoing: Vec<Outgoing>,
    metrics: RouterMetrics,
    /// Nothing has to be done before this time.
    due: Duration,
    /// A verdict or a link has changed since the last `take_changed`.
    changed: bool,
}

/// A frame that a relay was asked to pass on.
struct Relayed {
    hops: u8,
    origin: AgentId,
    destination: AgentId,
    frame: Bytes,
}

/// A frame that the router sends on its own account.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outgoing {
    pub(super) road: usize,
    pub(super) envelope: Envelope,
}

/// The roads that an envelope is to take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Choice {
    /// This one.
    One(usize),
    /// A copy by each; accepted by one of them is enough.
    Each(Vec<usize>),
}

struct Peer {
    roads: Vec<Health>,
    /// It has answered a ping, or sent one: it has a router too.
    has_router: bool,
    /// The session was told that there is a link.
    up: bool,
    /// Where first attempts of the default class go.
    current: Option<usize>,
    /// By which road it last sent messages: acknowledgements go back the same way.
    answers_by: Option<usize>,
    transmissions: VecDeque<Transmission>,
    copies: Copies,
    recent: Recent,
    unlinked_since: Option<Duration>,
}

/// An envelope on its way.
#[derive(Debug, Clone, Copy)]
struct Transmission {
    number: u64,
    roads: Roads,
    at: Duration,
}

impl Table {
    pub(super) fn new(
        roads: Vec<(Arc<str>, usize)>,
        rules: Rules,
        orders: Vec<Vec<usize>>,
        health: HealthConfig,
        ways: Option<Ways>,
        random: Box<dyn CryptoRng + Send>,
    ) -> Self {
        let (names, max_frames): (Vec<_>, Vec<_>) = roads.into_iter().unzip();
        // The first announcement is due at once.
        let due = if ways.is_some() {
            Duration::ZERO
        } else {
            Duration::MAX
        };
        Self {
            names,
            max_frames,
            rules,
            orders,
            health,
            random,
            peers: BTreeMap::new(),
            ways,
            events: VecDeque::new(),
            outgoing: Vec::new(),
            metrics: RouterMetrics::default(),
            due,
            changed: false,
        }
    }

    // ------------------------------------------------------------------------------------------------------ sending

    /// Which roads an envelope takes now.
    pub(super) fn choose(&self, envelope: &Envelope) -> Result<Choice, SendError> {
        let Destination::Agent(agent) = &envelope.to else {
            return Err(SendError::NoBroadcast);
        };
        let size = envelope.frame.len();
        let largest = self.max_frames.iter().copied().max().unwrap_or(0);
        if size > largest {
            return Err(SendError::TooLarge { size, limit: largest });
        }
        let no_link = || SendError::NoLink(agent.clone());
        let peer = self.peers.get(agent).ok_or_else(no_link)?;
        let class = envelope.route.class;
        let linked = self.ranked(peer, class);
        let ranked: Vec<usize> = linked
            .iter()
            .copied()
            .filter(|&road| self.max_frames[road] >= size)
            .collect();
        let Some(&best) = ranked.first() else {
            let limit = linked.iter().map(|&road| self.max_frames[road]).max();
            return Err(limit.map_or_else(no_link, |limit| SendError::TooLarge { size, limit }));
        };
        if class == Class::CONTROL {
            let back = peer.answers_by.filter(|road| ranked.contains(road));
            let back = back.filter(|&road| peer.roads[road].verdict() != RoadHealth::Down);
            return Ok(match envelope.lane {
                // A hello: there are few, they are small, and everything waits for them.
                Lane::Reliable => Choice::Each(ranked),
                Lane::BestEffort => Choice::One(back.unwrap_or(best)),
            });
        }
        let usable = |road: &usize| peer.roads[*road].verdict() != RoadHealth::Down;
        match self.rules.plan(class).policy {
            Policy::FanOut { roads } => {
                let mut each: Vec<usize> = ranked.iter().copied().filter(usable).collect();
                each.truncate(roads.unwrap_or(usize::MAX).max(1));
                Ok(if each.is_empty() {
                    Choice::One(best)
                } else {
                    Choice::Each(each)
                })
            }
            Policy::Failover | Policy::Hedged { .. } => {
                let taken = peer.roads_of(envelope.route.repeats);
                let other = ranked
                    .iter()
                    .copied()
                    .filter(usable)
                    .find(|&road| taken & bit(road) == 0);
                Ok(Choice::One(if taken == 0 { best } else { other.unwrap_or(best) }))
            }
        }
    }

    /// A road's name.
    pub(super) fn name(&self, road: usize) -> Arc<str> {
        self.names[road].clone()
    }

    /// Linked roads to a peer, the best first.
    fn ranked(&self, peer: &Peer, class: Class) -> Vec<usize> {
        let order = self
            .orders
            .get(usize::from(class.0))
            .or_else(|| self.orders.first());
        let order = if class == Class::CONTROL { None } else { order };
        let all: Vec<usize>;
        let order = match order {
            Some(order) => order,
            None => {
                all = (0..self.names.len()).collect();
                &all
            }
        };
        let mut ranked: Vec<usize> = order
            .iter()
            .copied()
            .filter(|&road| peer.roads[road].is_linked())
            .collect();
        // Stable: among equals the configured order holds.
        ranked.sort_by_key(|&road| peer.roads[road].verdict());
        ranked
    }

    /// An envelope is being handed to a road. Called before it is, so that no acknowledgement can come first.
    pub(super) fn sending(&mut self, envelope: &Envelope, road: usize, now: Duration) {
        let Destination::Agent(agent) = &envelope.to else {
            return;
        };
        let Some(peer) = self.peers.get_mut(agent) else {
            return;
        };
        let (number, size) = (envelope.route.transmission, envelope.frame.len() as u64);
        self.metrics.frames += 1;
        self.metrics.bytes += size;
        if number == 0 {
            return;
        }
        let at = match peer.transmission(number) {
            Ok(known) => {
                let known = &mut peer.transmissions[known];
                if known.roads & bit(road) == 0 {
                    known.roads |= bit(road);
                    self.metrics.copies += 1;
                    self.metrics.copied_bytes += size;
                }
                return;
            }
            Err(at) => at,
        };
        let transmission = Transmission {
            number,
            roads: bit(road),
            at: now,
        };
        // Nearly always the last one; another lane's may have overtaken it.
        peer.transmissions.insert(at, transmission);
        if peer.transmissions.len() > MOST_TRANSMISSIONS {
            peer.transmissions.pop_front();
        }
        if let Policy::Hedged { budget_permille } = self.rules.plan(envelope.route.class).policy
            && envelope.attempt == 1
            && let Some(due) = peer.copies.plan(envelope, budget_permille, now)
        {
            self.due = self.due.min(due);
        }
    }

    /// A road did not take an envelope.
    pub(super) fn send_failed(&mut self, envelope: &Envelope, road: usize, now: Duration) {
        self.metrics.send_errors += 1;
        let Destination::Agent(agent) = &envelope.to else {
            return;
        };
        if let Some(peer) = self.peers.get_mut(agent) {
            peer.roads[road].overdue(now, now);
            self.due = Duration::ZERO;
        }
    }

    pub(super) fn feedback(&mut self, agent: &AgentId, feedback: Feedback, now: Duration) {
        let Some(peer) = self.peers.get_mut(agent) else {
            return;
        };
        let number = match feedback {
            Feedback::Arrived { transmission, .. } | Feedback::Overdue { transmission } => transmission,
        };
        peer.copies.settle(number);
        let Ok(at) = peer.transmission(number) else {
            return;
        };
        let Transmission { roads, at: sent, .. } = peer.transmissions[at];
        let only = (roads.count_ones() == 1).then(|| roads.trailing_zeros() as usize);
        match feedback {
            Feedback::Arrived { round_trip, .. } => {
                peer.transmissions.remove(at);
                peer.copies.sample(round_trip);
                if peer.roads.iter().any(|road| road.doubted_since().is_some()) {
                    // An answer by one road decides about another.
                    self.due = Duration::ZERO;
                }
                if let Some(road) = only
                    && let Some(changed) = peer.roads[road].proved(sent, round_trip, now)
                {
                    self.on_changed(agent, road, changed);
                }
            }
            Feedback::Overdue { .. } => {
                // With a single road there is nothing to decide, and with a copy by each nobody to blame.
                if let Some(road) = only
                    && peer.may_be_pinged()
                {
                    self.metrics.overdue += 1;
                    peer.roads[road].overdue(sent, now);
                    self.due = Duration::ZERO;
                }
            }
        }
    }

    // ---------------------------------------------------------------------------------------------------- the roads

    /// A road carries frames of this size: one that opened late knows only now.
    pub(super) fn on_size(&mut self, road: usize, max_frame: usize) {
        self.max_frames[road] = max_frame;
    }

    /// A road reported something. What is for the session waits in `poll_event`.
    pub(super) fn on_road(&mut self, road: usize, event: TransportEvent, now: Duration) {
        match event {
            TransportEvent::Frame {
                from, lane, frame, ..
            } => self.on_frame(road, from, lane, frame, now),
            TransportEvent::LinkUp { peer } => self.on_link_up(road, &peer, now),
            TransportEvent::LinkDown { peer, reason } => self.on_link_down(road, &peer, reason, now),
            // A road may itself be a router.
            other => self.events.push_back(other),
        }
    }

    fn on_frame(&mut self, road: usize, from: AgentId, lane: Lane, frame: Bytes, now: Duration) {
        let name = self.names[road].clone();
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.roads[road].heard(now);
        }
        match RouterFrame::parse(&frame) {
            Parsed::Session => {
                if let Some(peer) = self.peers.get_mut(&from) {
                    if peer.recent.has_come(&frame, road, now) {
                        self.metrics.copies_received += 1;
                        return;
                    }
                    peer.answers_by = Some(road);
                }
                self.events.push_back(TransportEvent::Frame {
                    from,
                    lane,
                    frame,
                    road: Some(name),
                });
            }
            Parsed::Router(RouterFrame::Ping(nonce)) => {
                if let Some(peer) = self.peers.get_mut(&from) {
                    peer.has_router = true;
                    self.due = Duration::ZERO;
                }
                self.send_own(road, from, &RouterFrame::Pong(nonce));
            }
            Parsed::Router(RouterFrame::Pong(nonce)) => {
                if let Some(peer) = self.peers.get_mut(&from) {
                    peer.has_router = true;
                    let changed = peer.roads[road].pong(nonce, now);
                    self.due = Duration::ZERO;
                    if let Some(changed) = changed {
                        self.on_changed(&from, road, changed);
                    }
                }
            }
            Parsed::Router(RouterFrame::Relay {
                hops,
                origin,
                destination,
                frame,
            }) => {
                let relayed = Relayed {
                    hops,
                    origin,
                    destination,
                    frame,
                };
                self.on_relayed(from, lane, relayed, now);
            }
            Parsed::Router(RouterFrame::Reach(names)) => match &mut self.ways {
                Some(ways) => {
                    // Who asks for the first time is answered at once; after that they hear it in turn.
                    if ways.heard(&from, names, now) {
                        ways.announce_soon(now);
                        self.due = Duration::ZERO;
                    }
                    self.follow_ways(now);
                }
                None => self.refuse(from, "relay-not-wanted", "an offer to pass frames on"),
            },
            Parsed::Malformed => {
                self.refuse(
                    from,
                    "malformed-router-frame",
                    &format!("{} bytes by {name}", frame.len()),
                );
            }
        }
    }

    /// A frame that is passed on: for this agent, or for another one.
    fn on_relayed(&mut self, relay: AgentId, lane: Lane, relayed: Relayed, now: Duration) {
        let Some(ways) = &mut self.ways else {
            return self.refuse(relay, "relay-not-wanted", "a frame to be passed on");
        };
        let Relayed {
            hops,
            origin,
            destination,
            frame,
        } = relayed;
        let from_relay = ways.may_pass_on(&relay);
        if destination == ways.relays.agent {
            if !from_relay || !ways.came_from(&origin, &relay, now) {
                return self.refuse(
                    relay,
                    "relay-not-trusted",
                    "a frame passed on by somebody who may not",
                );
            }
            self.follow_ways(now);
            return match RouterFrame::parse(&frame) {
                // One in another: nobody sends that.
                Parsed::Router(RouterFrame::Relay { .. } | RouterFrame::Reach(_)) | Parsed::Malformed => {
                    self.refuse(relay, "malformed-router-frame", "a frame passed on");
                }
                _ => self.on_frame(self.relay_road(), origin, lane, frame, now),
            };
        }
        // Nobody speaks for others but a relay.
        if !ways.relays.for_others || (origin != relay && !from_relay) {
            return self.refuse(relay, "relay-not-allowed", "a frame to be passed on");
        }
        let Some(ways) = &self.ways else { return };
        let next = hops.checked_sub(1).and_then(|left| {
            let direct = self
                .peers
                .get(&destination)
                .and_then(|peer| self.direct_road(peer));
            let onward = || {
                ways.through(&destination, Some(&relay))
                    .filter(|_| left > 0)
                    .map(|(next, _)| next)
            };
            let next = if direct.is_some() {
                destination.clone()
            } else {
                onward()?
            };
            let road = self.peers.get(&next).and_then(|peer| self.direct_road(peer))?;
            Some((next, road, left))
        });
        let Some((next, road, hops)) = next else {
            self.metrics.relay_dropped += 1;
            return;
        };
        self.metrics.relayed += 1;
        let frame = RouterFrame::Relay {
            hops,
            origin,
            destination,
            frame,
        };
        let envelope = Envelope::new(next, lane, frame.encode());
        self.outgoing.push(Outgoing { road, envelope });
    }

    /// The number of the road that relays are; one too many where there are none.
    fn relay_road(&self) -> usize {
        self.names.len() - 1
    }

    /// The best road to a peer that is no relay.
    fn direct_road(&self, peer: &Peer) -> Option<usize> {
        let relay = self.ways.is_some().then(|| self.relay_road());
        self.ranked(peer, Class::CONTROL)
            .into_iter()
            .find(|road| Some(*road) != relay)
    }

    /// How an envelope travels by relays: to whom, by which road, and wrapped.
    pub(super) fn wrap(&self, envelope: &Envelope) -> Option<Outgoing> {
        let (ways, Destination::Agent(agent)) = (self.ways.as_ref()?, &envelope.to) else {
            return None;
        };
        let (relay, _) = ways.through(agent, None)?;
        let road = self.peers.get(&relay).and_then(|peer| self.direct_road(peer))?;
        let frame = RouterFrame::Relay {
            hops: ways.relays.max_hops,
            origin: ways.relays.agent.clone(),
            destination: agent.clone(),
            frame: envelope.frame.clone(),
        };
        let envelope = Envelope {
            to: relay.into(),
            frame: frame.encode(),
            ..envelope.clone()
        };
        Some(Outgoing { road, envelope })
    }

    /// Makes links by relays of the ways that there are.
    fn follow_ways(&mut self, now: Duration) {
        let Some(ways) = &self.ways else { return };
        let road = self.relay_road();
        let linked: Vec<AgentId> = self
            .peers
            .iter()
            .filter(|(_, peer)| peer.roads[road].is_linked())
            .map(|(agent, _)| agent.clone())
            .collect();
        // Relays are for those whom no road of this agent's own reaches.
        let is_near = |agent: &AgentId| {
            self.peers
                .get(agent)
                .is_some_and(|peer| self.direct_road(peer).is_some())
        };
        let reached: Vec<AgentId> = ways.reached().filter(|agent| !is_near(agent)).cloned().collect();
        for agent in linked.iter().filter(|agent| !reached.contains(agent)) {
            self.on_link_down(road, agent, DownReason::Network, now);
        }
        for agent in reached.iter().filter(|agent| !linked.contains(agent)) {
            self.on_link_up(road, agent, now);
        }
    }

    /// Says to those who want to know whom this agent reaches.
    fn announce(&mut self, now: Duration) {
        if self.ways.is_none() {
            return;
        }
        let relay_road = self.relay_road();
        let direct = |peer: &Peer| {
            peer.roads
                .iter()
                .enumerate()
                .any(|(road, health)| road != relay_road && health.is_linked())
        };
        let linked: Vec<AgentId> = self
            .peers
            .iter()
            .filter(|(_, peer)| direct(peer))
            .map(|(agent, _)| agent.clone())
            .collect();
        let Some(ways) = &mut self.ways else { return };
        ways.expire(now);
        for (listener, names) in ways.announce(&linked, now) {
            if let Some(road) = self.peers.get(&listener).and_then(|peer| self.direct_road(peer)) {
                self.send_own(road, listener, &RouterFrame::Reach(names));
            }
        }
        self.follow_ways(now);
    }

    fn refuse(&mut self, peer: AgentId, reason: &'static str, detail: &str) {
        self.metrics.refused += 1;
        self.events.push_back(TransportEvent::Refused {
            peer: Some(peer),
            reason,
            detail: detail.to_owned(),
        });
    }

    fn on_link_up(&mut self, road: usize, agent: &AgentId, now: Duration) {
        let (roads, health) = (self.names.len(), self.health);
        let peer = self
            .peers
            .entry(agent.clone())
            .or_insert_with(|| Peer::new(roads, health));
        let alone = !peer
            .roads
            .iter()
            .enumerate()
            .any(|(other, health)| other != road && health.is_linked());
        peer.unlinked_since = None;
        let is_new = !std::mem::replace(&mut peer.up, true);
        let changed = peer.roads[road].link_up(now, alone);
        if is_new {
            self.events
                .push_back(TransportEvent::LinkUp { peer: agent.clone() });
        }
        self.changed = true;
        self.due = Duration::ZERO;
        if let Some(ways) = self.ways.as_mut().filter(|_| is_new) {
            ways.announce_soon(now);
        }
        if let Some(changed) = changed {
            self.on_changed(agent, road, changed);
        }
    }

    fn on_link_down(&mut self, road: usize, agent: &AgentId, reason: DownReason, now: Duration) {
        let Some(peer) = self.peers.get_mut(agent) else {
            return;
        };
        let changed = peer.roads[road].link_down(now);
        if peer.answers_by == Some(road) {
            peer.answers_by = None;
        }
        let relay_road = self.names.len() - 1;
        let direct = |(other, health): (usize, &Health)| other != relay_road && health.is_linked();
        if road != relay_road
            && !peer.roads.iter().enumerate().any(direct)
            && let Some(ways) = &mut self.ways
        {
            // Nobody is reached through it any more; its links follow at the next turn.
            ways.gone(agent);
            ways.announce_soon(now);
            self.due = Duration::ZERO;
        }
        let mut left = peer
            .roads
            .iter()
            .enumerate()
            .filter(|(_, health)| health.is_linked())
            .map(|(at, _)| at);
        let (first, second) = (left.next(), left.next());
        let alone = first.filter(|_| second.is_none());
        let is_last = first.is_none() && std::mem::take(&mut peer.up);
        let promoted = alone.and_then(|road| Some((road, peer.roads[road].is_alone()?)));
        if is_last {
            peer.unlinked_since = Some(now);
            peer.transmissions.clear();
            peer.copies.clear();
        }
        self.changed = true;
        if let Some((road, changed)) = promoted {
            self.on_changed(agent, road, changed);
        }
        if let Some(changed) = changed {
            self.on_changed(agent, road, changed);
        }
        if is_last {
            self.due = self.due.min(now + FORGOTTEN_AFTER);
            self.events.push_back(TransportEvent::LinkDown {
                peer: agent.clone(),
                reason,
            });
        }
    }

    /// A road was closed, or has failed altogether.
    pub(super) fn on_road_closed(&mut self, road: usize, now: Duration) {
        let linked = |peer: &Peer| peer.roads[road].is_linked();
        let agents: Vec<AgentId> = self
            .peers
            .iter()
            .filter(|(_, peer)| linked(peer))
            .map(|(agent, _)| agent.clone())
            .collect();
        for agent in agents {
            self.on_link_down(road, &agent, DownReason::Local, now);
        }
    }

    /// A verdict has changed: says so, and hands what the road may have lost back to the session.
    fn on_changed(&mut self, agent: &AgentId, road: usize, changed: Changed) {
        let Some(peer) = self.peers.get(agent) else { return };
        let best = self.ranked(peer, Class::default()).first().copied();
        let up: Roads = peer.roads_that(|health| health.verdict() == RoadHealth::Up);
        let Some(peer) = self.peers.get_mut(agent) else {
            return;
        };
        let former = peer.current;
        peer.current = best.or(former);
        let mut change = RoadChange::new(
            agent.clone(),
            self.names[road].clone(),
            changed.from,
            changed.to,
            changed.reason,
        );
        if let (Some(former), Some(best)) = (former, best)
            && former != best
        {
            change.switched = Some((self.names[former].clone(), self.names[best].clone()));
            let order = &self.orders[0];
            let rank = |road| order.iter().position(|&other| other == road);
            if rank(best) < rank(former) {
                self.metrics.failbacks += 1;
            } else {
                self.metrics.failovers += 1;
            }
        }
        let mut lost = Vec::new();
        if changed.to != RoadHealth::Up && up != 0 {
            peer.transmissions.retain(|known| {
                let is_lost = known.roads & up == 0;
                if is_lost {
                    lost.push(known.number);
                }
                !is_lost
            });
        }
        self.changed = true;
        self.events.push_back(TransportEvent::Road(change));
        if !lost.is_empty() {
            self.metrics.handed_back += lost.len() as u64;
            self.events.push_back(TransportEvent::Lost {
                peer: agent.clone(),
                transmissions: lost,
            });
        }
    }

    // --------------------------------------------------------------------------------------------------------- time

    /// Judges what is due: doubts, pings, copies.
    pub(super) fn on_timeout(&mut self, now: Duration) {
        if now < self.due {
            return;
        }
        let late = now.saturating_sub(self.due);
        let stood_still = self.due > Duration::ZERO && late > self.health.grace;
        let agents: Vec<AgentId> = self.peers.keys().cloned().collect();
        for agent in &agents {
            for road in 0..self.names.len() {
                let Some(peer) = self.peers.get_mut(agent) else {
                    break;
                };
                if stood_still {
                    peer.roads[road].stood_still(late);
                }
                if !peer.may_be_pinged() {
                    continue;
                }
                let doubted = peer.roads[road].doubted_since();
                let other_answers = doubted.is_some_and(|since| peer.another_answers(road, since));
                let changed = peer.roads[road].on_timeout(now, other_answers);
                if let Some(since) = peer.roads[road].doubted_since() {
                    peer.ask_others(road, since);
                }
                let random = &mut self.random;
                if let Some(nonce) = peer.roads[road].ping(now, || random.next_u64()) {
                    self.metrics.pings += 1;
                    self.send_own(road, agent.clone(), &RouterFrame::Ping(nonce));
                }
                if let Some(changed) = changed {
                    self.on_changed(agent, road, changed);
                }
            }
            self.send_copies(agent, now);
        }
        self.peers.retain(|_, peer| {
            peer.unlinked_since
                .is_none_or(|since| now < since + FORGOTTEN_AFTER)
        });
        self.announce(now);
        let peers = self.peers.values().filter_map(Peer::next_timeout);
        let ways = self.ways.as_ref().map(Ways::next_timeout);
        self.due = peers.chain(ways).min().unwrap_or(Duration::MAX);
    }

    fn send_copies(&mut self, agent: &AgentId, now: Duration) {
        let Some(peer) = self.peers.get_mut(agent) else {
            return;
        };
        let due = peer.copies.due(now);
        for envelope in due {
            let Some(peer) = self.peers.get(agent) else { return };
            let taken = peer.roads_of(envelope.route.transmission);
            let other = self.ranked(peer, envelope.route.class).into_iter().find(|&road| {
                taken & bit(road) == 0
                    && peer.roads[road].verdict() == RoadHealth::Up
                    && self.max_frames[road] >= envelope.frame.len()
            });
            let Some(road) = other else { continue };
            let size = envelope.frame.len() as u64;
            let Some(peer) = self.peers.get_mut(agent) else {
                return;
            };
            if !peer.copies.spend(size) {
                self.metrics.copies_over_budget += 1;
                continue;
            }
            if let Ok(at) = peer.transmission(envelope.route.transmission) {
                peer.transmissions[at].roads |= bit(road);
            }
            self.metrics.copies += 1;
            self.metrics.copied_bytes += size;
            self.outgoing.push(Outgoing { road, envelope });
        }
    }

    /// When `on_timeout` wants to be called.
    pub(super) fn next_timeout(&self) -> Option<Duration> {
        Some(self.due).filter(|due| *due < Duration::MAX)
    }

    // ------------------------------------------------------------------------------------------------------ outputs

    pub(super) fn poll_event(&mut self) -> Option<TransportEvent> {
        self.events.pop_front()
    }

    pub(super) fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// So many copies went without their road.
    pub(super) fn skipped(&mut self, copies: usize) {
        self.metrics.copies_skipped += copies as u64;
    }

    /// Frames to be sent, none of which anybody waits for.
    pub(super) fn take_outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    /// Whether somebody who waits on a road should choose again.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn metrics(&self) -> RouterMetrics {
        self.metrics.clone()
    }

    /// What the roads say of their links, with what is thought of them.
    pub(super) fn links(&self, mut of_roads: Vec<Vec<LinkStatus>>) -> Vec<LinkStatus> {
        if self.ways.is_some() {
            let road = self.relay_road();
            let by_relay = self.peers.iter().filter(|(_, peer)| peer.roads[road].is_linked());
            let status = |agent: &AgentId| {
                let mut status = LinkStatus::new(agent.clone(), LinkState::Up);
                status.path = Some(Path::Relayed);
                status
            };
            of_roads.push(by_relay.map(|(agent, _)| status(agent)).collect());
        }
        let mut links: BTreeMap<AgentId, LinkStatus> = BTreeMap::new();
        for (road, statuses) in of_roads.into_iter().enumerate() {
            for status in statuses {
                let known = self.peers.get(&status.peer);
                let health = known.map_or(RoadHealth::Down, |peer| peer.roads[road].verdict());
                let mut of_road = RoadStatus::new(self.names[road].clone(), health, status.state);
                of_road.path = status.path;
                of_road.round_trip = known
                    .and_then(|peer| peer.roads[road].round_trip())
                    .or(status.round_trip);
                of_road.preferred = known.is_some_and(|peer| peer.current == Some(road) && peer.up);
                let link = links
                    .entry(status.peer.clone())
                    .or_insert_with(|| LinkStatus::new(status.peer.clone(), LinkState::Down));
                link.dropped += status.dropped;
                link.state = better(link.state, status.state);
                if of_road.preferred {
                    link.path = status.path;
                    link.round_trip = of_road.round_trip;
                    link.since = status.since;
                    link.local = status.local;
                    link.remote = status.remote;
                }
                link.roads.push(of_road);
            }
        }
        links.into_values().collect()
    }

    /// Best effort: what is lost here is sent again, or missed.
    fn send_own(&mut self, road: usize, to: AgentId, frame: &RouterFrame) {
        let envelope = Envelope::new(to, Lane::BestEffort, frame.encode());
        self.outgoing.push(Outgoing { road, envelope });
    }
}

impl Peer {
    fn new(roads: usize, health: HealthConfig) -> Self {
        Self {
            roads: vec![Health::new(health); roads],
            has_router: false,
            up: false,
            current: None,
            answers_by: None,
            transmissions: VecDeque::new(),
            copies: Copies::default(),
            recent: Recent::default(),
            unlinked_since: None,
        }
    }

    /// With one road there is nothing to choose, and a peer without a router would take a ping for garbage. With two roads it
    /// has a router.
    fn may_be_pinged(&self) -> bool {
        self.has_router || self.roads_that(Health::is_linked).count_ones() >= 2
    }

    fn roads_that(&self, wanted: impl Fn(&Health) -> bool) -> Roads {
        let wanted = self.roads.iter().enumerate().filter(|(_, health)| wanted(health));
        wanted.fold(0, |roads, (road, _)| roads | bit(road))
    }

    /// Whether something that went by another road since then has been answered.
    fn another_answers(&self, road: usize, since: Duration) -> bool {
        let mut others = self.roads.iter().enumerate().filter(|(other, _)| *other != road);
        others.any(|(_, health)| health.has_answered_since(since))
    }

    /// Pings the other roads, to compare them with one that is doubted.
    fn ask_others(&mut self, road: usize, since: Duration) {
        let others = self
            .roads
            .iter_mut()
            .enumerate()
            .filter(|(other, _)| *other != road);
        others.for_each(|(_, health)| health.ask(since));
    }

    /// Where a transmission is, or where it belongs: they are sorted by number.
    fn transmission(&self, number: u64) -> Result<usize, usize> {
        self.transmissions
            .binary_search_by_key(&number, |known| known.number)
    }

    /// The roads that a transmission took.
    fn roads_of(&self, number: u64) -> Roads {
        self.transmission(number)
            .map_or(0, |at| self.transmissions[at].roads)
    }

    fn next_timeout(&self) -> Option<Duration> {
        let pinged = self.may_be_pinged();
        let health = self
            .roads
            .iter()
            .filter(|_| pinged)
            .filter_map(Health::next_timeout)
            .min();
        let forgotten = self.unlinked_since.map(|since| since + FORGOTTEN_AFTER);
        [health, self.copies.next_due(), forgotten]
            .into_iter()
            .flatten()
            .min()
    }
}

fn bit(road: usize) -> Roads {
    1 << road
}

/// A link over several roads is as good as the best of them.
fn better(one: LinkState, other: LinkState) -> LinkState {
    let rank = |state| match state {
        LinkState::Up => 3,
        LinkState::Connecting => 2,
        LinkState::Dormant => 1,
        LinkState::Down => 0,
    };
    if rank(other) > rank(one) { other } else { one }
}
