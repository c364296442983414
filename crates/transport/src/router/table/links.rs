//! What is said of links to people.

use std::collections::BTreeMap;

use ifmsg::AgentId;

use super::Table;
use crate::{LinkState, LinkStatus, Path, RoadHealth, RoadStatus};

impl Table {
    /// What the roads say of their links, with what is thought of them.
    pub(in crate::router) fn links(&self, mut of_roads: Vec<Vec<LinkStatus>>) -> Vec<LinkStatus> {
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
