//! How an agent's life ends: by a crash, or by a close.

use ifmesh_transport::DownReason;

use super::{Item, Life, Network, Node, Place};

impl Network {
    /// Gone, without a word to anybody.
    pub(super) fn end(&mut self, node: Node) {
        let id = self.agents[node].id.clone();
        self.write("crash", format_args!("{id}"));
        let former = std::mem::replace(&mut self.agents[node].life, Life::Crashed);
        if let Life::Closing { give_up } = former {
            self.agenda.remove(&give_up);
            self.closing.remove(&node);
        }
        self.shut_gates(node);
        let unsent: Vec<u64> = self
            .flights
            .iter()
            .filter(|(_, flight)| flight.from == node)
            .filter(|(_, flight)| matches!(flight.place, Place::Queue | Place::Wire | Place::Held))
            .map(|(&id, _)| id)
            .collect();
        for flight in unsent {
            self.drop_flight(flight, "crash");
        }
        self.clear_inbox(node);
        self.wake_all(node);
        self.reconsider_all(node);
    }

    pub(super) fn clear_inbox(&mut self, node: Node) {
        let frames: Vec<u64> = self.agents[node]
            .inbox
            .values()
            .filter_map(|item| match item {
                Item::Frame(id) => Some(*id),
                _ => None,
            })
            .collect();
        for flight in frames {
            self.drop_flight(flight, "crash");
        }
        self.agents[node].inbox.clear();
        for peer in 0..self.agents.len() {
            if let Some(link) = self.links.get_mut(&(node, peer)) {
                link.unread = 0;
            }
        }
    }

    /// So that all who wait look again.
    pub(crate) fn wake_everybody(&mut self) {
        (0..self.agents.len()).for_each(|node| self.wake_all(node));
    }

    pub(super) fn wake_all(&mut self, node: Node) {
        let agent = &self.agents[node];
        agent.news.notify_waiters();
        agent.news.notify_one();
        agent.ended.notify_waiters();
    }

    pub(super) fn finish_closing(&mut self) {
        while let Some(&node) = self.closing.iter().find(|&&node| self.agents[node].outgoing == 0) {
            self.finish(node, 0);
        }
    }

    pub(super) fn give_up(&mut self, node: Node) {
        let rest: Vec<u64> = self
            .flights
            .iter()
            .filter(|(_, flight)| flight.from == node && !matches!(flight.place, Place::Inbox(_)))
            .map(|(&id, _)| id)
            .collect();
        let unsent = rest
            .iter()
            .filter(|id| self.flights.get(id).is_some_and(|flight| !flight.is_copy))
            .count();
        for flight in rest {
            self.drop_flight(flight, "unsent");
        }
        self.finish(node, unsent);
    }

    pub(super) fn finish(&mut self, node: Node, unsent: usize) {
        if let Life::Closing { give_up } = self.agents[node].life {
            self.agenda.remove(&give_up);
        }
        self.closing.remove(&node);
        self.agents[node].life = Life::Closed { unsent };
        let id = self.agents[node].id.clone();
        self.write("close", format_args!("{id} unsent {unsent}"));
        for peer in (0..self.agents.len()).filter(|&peer| peer != node) {
            let heard = self.links.get(&(node, peer)).is_some_and(|link| !link.cut);
            let as_linked = self.pair(node, peer).is_some_and(|pair| {
                let mine = if node < peer {
                    pair.incarnations.0
                } else {
                    pair.incarnations.1
                };
                mine == self.agents[node].incarnation
            });
            if heard && as_linked {
                self.close_gate(peer, node, DownReason::PeerClosed);
            }
            self.reconsider(node, peer);
        }
        self.wake_all(node);
    }
}
