//! What comes by the roads: frames, links, verdicts.

use std::time::Duration;

use bytes::Bytes;
use ifmsg::AgentId;

use super::{FORGOTTEN_AFTER, Roads, Table, peer::Peer, relaying::Relayed};
use crate::{
    Class, DownReason, Lane, RoadChange, RoadHealth, TransportEvent,
    router::{
        frame::{Parsed, RouterFrame},
        health::{Changed, Health},
    },
};

impl Table {
    /// A road carries frames of this size: one that opened late knows only now.
    pub(in crate::router) fn on_size(&mut self, road: usize, max_frame: usize) {
        self.max_frames[road] = max_frame;
    }

    /// A road reported something. What is for the session waits in `poll_event`.
    pub(in crate::router) fn on_road(&mut self, road: usize, event: TransportEvent, now: Duration) {
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

    pub(super) fn on_frame(&mut self, road: usize, from: AgentId, lane: Lane, frame: Bytes, now: Duration) {
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

    pub(super) fn refuse(&mut self, peer: AgentId, reason: &'static str, detail: &str) {
        self.metrics.refused += 1;
        self.events.push_back(TransportEvent::Refused {
            peer: Some(peer),
            reason,
            detail: detail.to_owned(),
        });
    }

    pub(super) fn on_link_up(&mut self, road: usize, agent: &AgentId, now: Duration) {
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

    pub(super) fn on_link_down(&mut self, road: usize, agent: &AgentId, reason: DownReason, now: Duration) {
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
    pub(in crate::router) fn on_road_closed(&mut self, road: usize, now: Duration) {
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
    pub(super) fn on_changed(&mut self, agent: &AgentId, road: usize, changed: Changed) {
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
}
