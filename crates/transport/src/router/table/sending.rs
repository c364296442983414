//! Which roads an envelope takes, and what is learned from its fate.

use std::{sync::Arc, time::Duration};

use ifmsg::{AgentId, Destination};

use super::{
    Choice, MOST_TRANSMISSIONS, Table, bit,
    peer::{Peer, Transmission},
};
use crate::{Class, Envelope, Feedback, Lane, RoadHealth, SendError, router::Policy};

impl Table {
    /// Which roads an envelope takes now.
    pub(in crate::router) fn choose(&self, envelope: &Envelope) -> Result<Choice, SendError> {
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
    pub(in crate::router) fn name(&self, road: usize) -> Arc<str> {
        self.names[road].clone()
    }

    /// Linked roads to a peer, the best first.
    pub(super) fn ranked(&self, peer: &Peer, class: Class) -> Vec<usize> {
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
    pub(in crate::router) fn sending(&mut self, envelope: &Envelope, road: usize, now: Duration) {
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
    pub(in crate::router) fn send_failed(&mut self, envelope: &Envelope, road: usize, now: Duration) {
        self.metrics.send_errors += 1;
        let Destination::Agent(agent) = &envelope.to else {
            return;
        };
        if let Some(peer) = self.peers.get_mut(agent) {
            peer.roads[road].overdue(now, now);
            self.due = Duration::ZERO;
        }
    }

    pub(in crate::router) fn feedback(&mut self, agent: &AgentId, feedback: Feedback, now: Duration) {
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
}
