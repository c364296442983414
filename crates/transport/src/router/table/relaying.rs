//! Frames by way of other agents: the last road.

use std::time::Duration;

use bytes::Bytes;
use ifmsg::{AgentId, Destination};

use super::{Outgoing, Table, peer::Peer};
use crate::{
    Class, DownReason, Envelope, Lane,
    router::frame::{Parsed, RouterFrame},
};

/// A frame that a relay was asked to pass on.
pub(super) struct Relayed {
    pub(super) hops: u8,
    pub(super) origin: AgentId,
    pub(super) destination: AgentId,
    pub(super) frame: Bytes,
}

impl Table {
    /// A frame that is passed on: for this agent, or for another one.
    pub(super) fn on_relayed(&mut self, relay: AgentId, lane: Lane, relayed: Relayed, now: Duration) {
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
    pub(super) fn relay_road(&self) -> usize {
        self.names.len() - 1
    }

    /// The best road to a peer that is no relay.
    pub(super) fn direct_road(&self, peer: &Peer) -> Option<usize> {
        let relay = self.ways.is_some().then(|| self.relay_road());
        self.ranked(peer, Class::CONTROL)
            .into_iter()
            .find(|road| Some(*road) != relay)
    }

    /// How an envelope travels by relays: to whom, by which road, and wrapped.
    pub(in crate::router) fn wrap(&self, envelope: &Envelope) -> Option<Outgoing> {
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
    pub(super) fn follow_ways(&mut self, now: Duration) {
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
    pub(super) fn announce(&mut self, now: Duration) {
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
}
