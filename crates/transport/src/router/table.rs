//! The router's logic, without I/O and without a clock: what happened and `now` go in, events and frames come out.

mod coming;
mod links;
mod peer;
mod relaying;
mod sending;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use ifmsg::AgentId;
use rand_core::CryptoRng;

use super::{HealthConfig, RouterMetrics, Rules, frame::RouterFrame, relay::Ways};
use crate::{Envelope, Lane, RoadHealth, TransportEvent};
use peer::Peer;

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

    /// Best effort: what is lost here is sent again, or missed.
    fn send_own(&mut self, road: usize, to: AgentId, frame: &RouterFrame) {
        let envelope = Envelope::new(to, Lane::BestEffort, frame.encode());
        self.outgoing.push(Outgoing { road, envelope });
    }
}

fn bit(road: usize) -> Roads {
    1 << road
}
