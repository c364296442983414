//! Who sees whom, and since when.

use ifmesh_transport::DownReason;
use tokio::sync::watch;

use super::{Action, Item, Life, Link, MAX_UNREAD_LINK_EVENTS, Network, Node};

impl Network {
    pub(super) fn reconsider_all(&mut self, node: Node) {
        for peer in (0..self.agents.len()).filter(|&peer| peer != node) {
            self.reconsider(node, peer);
        }
    }

    /// Something has changed between these two: starts or stops the timers that follow from it.
    pub(super) fn reconsider(&mut self, a: Node, b: Node) {
        let (a, b) = (a.min(b), a.max(b));
        let Some(pair) = self.pairs.get(&(a, b)) else {
            return;
        };
        let setup = pair.setup;
        let as_linked = pair.incarnations == (self.agents[a].incarnation, self.agents[b].incarnation);
        let (mut linked, mut open) = (as_linked, true);
        for (from, to) in [(a, b), (b, a)] {
            let is_cut = |from, to| self.links.get(&(from, to)).is_some_and(|link: &Link| link.cut);
            open &= !is_cut(from, to) && self.agents[from].life == Life::Running;
            let audible = self.agents[to].is_alive() && as_linked && !is_cut(to, from);
            let Some(link) = self.links.get(&(from, to)) else {
                return;
            };
            linked &= link.gate.is_some();
            match link.detect {
                None if link.gate.is_some() && !audible => {
                    let due = self.now.saturating_add(self.config.detection);
                    let moment = self.schedule(due, Action::Detect(from, to));
                    if let Some(link) = self.links.get_mut(&(from, to)) {
                        link.detect = Some(moment);
                    }
                }
                Some(moment) if audible => {
                    self.agenda.remove(&moment);
                    if let Some(link) = self.links.get_mut(&(from, to)) {
                        link.detect = None;
                    }
                }
                _ => {}
            }
        }
        let wanted = match setup {
            None if open && !linked => {
                let due = self.now.saturating_add(self.config.setup);
                Some(self.schedule(due, Action::SetUp(a, b)))
            }
            Some(moment) if !open => {
                self.agenda.remove(&moment);
                None
            }
            unchanged => unchanged,
        };
        if let Some(pair) = self.pairs.get_mut(&(a, b)) {
            pair.setup = wanted;
        }
    }

    pub(super) fn set_up(&mut self, a: Node, b: Node) {
        self.close_gate(a, b, DownReason::Replaced);
        self.close_gate(b, a, DownReason::Replaced);
        let incarnations = (self.agents[a].incarnation, self.agents[b].incarnation);
        if let Some(pair) = self.pairs.get_mut(&(a, b)) {
            pair.setup = None;
            pair.generation += 1;
            pair.incarnations = incarnations;
        }
        for (from, to) in [(a, b), (b, a)] {
            if let Some(link) = self.links.get_mut(&(from, to)) {
                link.gate = Some(watch::Sender::new(()));
                link.unread += 1;
            }
            let seat = self.ticks();
            let agent = &mut self.agents[from];
            agent.inbox.insert(seat, Item::Up(to));
            agent.news.notify_one();
            self.write_pair("up", from, to, "");
        }
    }

    pub(super) fn detect(&mut self, from: Node, to: Node) {
        if let Some(link) = self.links.get_mut(&(from, to)) {
            link.detect = None;
        }
        self.close_gate(from, to, DownReason::Timeout);
        // It hangs up, and is heard if that direction works.
        if self.links.get(&(from, to)).is_some_and(|link| !link.cut) {
            self.close_gate(to, from, DownReason::Network);
        }
        self.reconsider(from, to);
    }

    /// `from` no longer sees `to` as up, and is told so.
    pub(super) fn close_gate(&mut self, from: Node, to: Node, reason: DownReason) {
        if !self.shut_gate(from, to) {
            return;
        }
        self.write_pair("down", from, to, format_args!(" {}", reason.as_str()));
        if self.agents[from].life != Life::Running || self.forget_unread_link(from, to) {
            return;
        }
        if let Some(link) = self.links.get_mut(&(from, to)) {
            link.unread += 1;
        }
        let seat = self.ticks();
        let agent = &mut self.agents[from];
        agent.inbox.insert(seat, Item::Down(to, reason));
        agent.news.notify_one();
    }

    /// As `close_gate`, but nobody is told. `false` if it was shut.
    pub(super) fn shut_gate(&mut self, from: Node, to: Node) -> bool {
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return false;
        };
        let was_open = link.gate.take().is_some();
        let detect = link.detect.take();
        let held = std::mem::take(&mut link.held);
        link.stranded.clear();
        if let Some(moment) = detect {
            self.agenda.remove(&moment);
        }
        for flight in held {
            self.drop_flight(flight, "link-down");
        }
        was_open
    }

    pub(super) fn shut_gates(&mut self, node: Node) {
        for peer in 0..self.agents.len() {
            if let Some(link) = self.links.get_mut(&(node, peer)) {
                link.gate = None;
                link.stranded.clear();
                if let Some(moment) = link.detect.take() {
                    self.agenda.remove(&moment);
                }
            }
        }
    }

    /// Where too many link events wait, the last `Up` goes, and what came by that link with it. `true` if it did: then the
    /// reader, who has not seen it go up, need not see it go down.
    pub(super) fn forget_unread_link(&mut self, node: Node, peer: Node) -> bool {
        let unread = self.links.get(&(node, peer)).map_or(0, |link| link.unread);
        if unread < MAX_UNREAD_LINK_EVENTS {
            return false;
        }
        let inbox = &self.agents[node].inbox;
        let last = inbox.iter().rev().find_map(|(&seat, item)| match item {
            Item::Up(who) if *who == peer => Some(seat),
            _ => None,
        });
        let Some(up) = last else {
            return false;
        };
        let frames: Vec<u64> = inbox
            .range(up..)
            .filter_map(|(_, item)| match item {
                Item::Frame(id) if self.flights.get(id).is_some_and(|flight| flight.from == peer) => {
                    Some(*id)
                }
                _ => None,
            })
            .collect();
        for id in frames {
            self.drop_flight(id, "unread");
        }
        self.agents[node].inbox.remove(&up);
        self.read_link_event(node, peer);
        true
    }

    pub(super) fn read_link_event(&mut self, node: Node, peer: Node) {
        if let Some(link) = self.links.get_mut(&(node, peer)) {
            link.unread = link.unread.saturating_sub(1);
        }
    }
}
