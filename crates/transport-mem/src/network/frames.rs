//! A frame's way: queue -> wire (bandwidth) -> air (latency, faults) -> inbox.

use ifmesh_transport::Lane;

use super::{Action, Flight, Item, Network, Node, Place};

impl Network {
    pub(super) fn launch(&mut self, flight: Flight) -> u64 {
        let id = self.ticks();
        self.agents[flight.from].outgoing += 1;
        if flight.lane == Lane::BestEffort {
            let cost = flight.cost();
            self.make_room(flight.from, flight.to, cost);
            if let Some(link) = self.links.get_mut(&(flight.from, flight.to)) {
                link.best_effort.insert(id);
                link.best_effort_bytes += cost;
            }
        }
        self.flights.insert(id, flight);
        id
    }

    /// The oldest give way.
    pub(super) fn make_room(&mut self, from: Node, to: Node, cost: usize) {
        while let Some(link) = self.links.get(&(from, to)) {
            let oldest = match link.best_effort.first() {
                Some(&oldest) if link.best_effort_bytes + cost > self.config.window => oldest,
                _ => return,
            };
            let is_copy = self.flights.get(&oldest).is_some_and(|flight| flight.is_copy);
            self.drop_flight(oldest, "oldest");
            if let Some(link) = self.links.get_mut(&(from, to))
                && !is_copy
            {
                link.dropped += 1;
            }
        }
    }

    /// Puts frames on the wire for as long as it is free.
    pub(super) fn pump(&mut self, from: Node, to: Node) {
        loop {
            let Some(link) = self.links.get_mut(&(from, to)) else {
                return;
            };
            if link.wire.is_some() {
                return;
            }
            let Some(id) = link.queue.pop_first() else {
                return;
            };
            let Some(flight) = self.flights.get_mut(&id) else {
                continue;
            };
            let faults = link.faults.as_ref().unwrap_or(&self.faults);
            let transmission = faults.transmission(flight.frame.len());
            if transmission.is_zero() {
                self.meet_fate(id);
            } else {
                flight.place = Place::Wire;
                link.wire = Some(id);
                self.schedule(self.now.saturating_add(transmission), Action::Leave(from, to, id));
            }
        }
    }

    pub(super) fn leave_wire(&mut self, from: Node, to: Node, flight: u64) {
        if let Some(link) = self.links.get_mut(&(from, to)) {
            link.wire = None;
        }
        self.meet_fate(flight);
        self.pump(from, to);
    }

    /// A frame has left its sender: lost, changed, doubled, or none of it.
    pub(super) fn meet_fate(&mut self, id: u64) {
        let Some(flight) = self.flights.get_mut(&id) else {
            return;
        };
        let (from, to, number) = (flight.from, flight.to, flight.number);
        let Some(link) = self.links.get(&(from, to)) else {
            return;
        };
        let faults = link.faults.as_ref().unwrap_or(&self.faults);
        let fate = flight.fate;
        if self.config.capabilities.reliable && flight.lane == Lane::Reliable {
            self.take_off(id);
            return;
        }
        let (lost, doubled) = (fate.lost(faults.loss), fate.doubled(faults.duplication));
        let corrupted = fate.corrupted(faults.corruption) && !flight.frame.is_empty();
        if link.cut {
            self.drop_flight(id, "partition");
            return;
        }
        if lost {
            self.forget(id);
            self.write_pair("lost", from, to, format_args!(" #{number}"));
            return;
        }
        if doubled {
            let copy = Flight {
                frame: flight.frame.clone(),
                is_copy: true,
                place: Place::Queue,
                charge: flight.charge.clone(),
                ..*flight
            };
            let copy = self.launch(copy);
            self.write_pair("duplicated", from, to, format_args!(" #{number}"));
            self.take_off(copy);
        }
        if corrupted && let Some(flight) = self.flights.get_mut(&id) {
            let mut bytes = flight.frame.to_vec();
            fate.flip_bits(&mut bytes);
            flight.frame = bytes.into();
            self.write_pair("corrupted", from, to, format_args!(" #{number}"));
        }
        self.take_off(id);
    }

    /// On its way through the air, for as long as the latency says; or held, where a reliable link is cut.
    pub(super) fn take_off(&mut self, id: u64) {
        let Some(flight) = self.flights.get_mut(&id) else {
            return;
        };
        let Some(link) = self.links.get_mut(&(flight.from, flight.to)) else {
            return;
        };
        if link.cut {
            flight.place = Place::Held;
            link.held.insert(id);
            return;
        }
        let faults = link.faults.as_ref().unwrap_or(&self.faults);
        let fate = flight.fate;
        let (least, most) = (*faults.latency.start(), *faults.latency.end());
        let latency = if flight.is_copy {
            fate.latency_of_copy(least, most)
        } else {
            fate.latency(least, most)
                .saturating_add(fate.held(faults.reordering, faults.hold))
        };
        link.last_latency = Some(latency);
        let mut arrival = self.now.saturating_add(latency);
        if self.config.capabilities.ordered && flight.lane == Lane::Reliable {
            arrival = arrival.max(link.last_arrival);
            link.last_arrival = arrival;
        }
        if arrival <= self.now {
            self.arrive(id);
            return;
        }
        let moment = self.schedule(arrival, Action::Arrive(id));
        if let Some(flight) = self.flights.get_mut(&id) {
            flight.place = Place::Air(moment);
        }
    }

    pub(super) fn arrive(&mut self, id: u64) {
        let Some(flight) = self.flights.get_mut(&id) else {
            return;
        };
        let (from, to, number, generation) = (flight.from, flight.to, flight.number, flight.generation);
        let reliable = self.config.capabilities.reliable && flight.lane == Lane::Reliable;
        if let Some(link) = self.links.get_mut(&(from, to))
            && link.cut
        {
            if reliable {
                flight.place = Place::Held;
                link.held.insert(id);
            } else {
                self.drop_flight(id, "partition");
            }
            return;
        }
        let sees_sender = self
            .links
            .get(&(to, from))
            .is_some_and(|link| link.gate.is_some());
        let same_link = self
            .pair(from, to)
            .is_some_and(|pair| pair.generation == generation);
        if !sees_sender || !same_link {
            self.drop_flight(id, "no-link");
            return;
        }
        let seat = self.ticks();
        if let Some(flight) = self.flights.get_mut(&id) {
            flight.place = Place::Inbox(seat);
        }
        self.agents[from].outgoing -= 1;
        let receiver = &mut self.agents[to];
        receiver.inbox.insert(seat, Item::Frame(id));
        receiver.news.notify_one();
        self.write_pair("delivered", from, to, format_args!(" #{number}"));
    }

    pub(super) fn drop_flight(&mut self, id: u64, why: &str) {
        let Some(flight) = self.forget(id) else {
            return;
        };
        let (from, to) = (flight.from, flight.to);
        self.write_pair("dropped", from, to, format_args!(" #{} {why}", flight.number));
        let same_link = self
            .pair(from, to)
            .is_some_and(|pair| pair.generation == flight.generation);
        if self.config.capabilities.reliable
            && same_link
            && let Some(charge) = flight.charge
            && let Some(link) = self.links.get_mut(&(from, to))
            && link.gate.is_some()
        {
            link.stranded.push(charge);
        }
    }

    /// Takes a flight out of wherever it is.
    pub(super) fn forget(&mut self, id: u64) -> Option<Flight> {
        let flight = self.flights.remove(&id)?;
        let link = self.links.get_mut(&(flight.from, flight.to))?;
        if link.best_effort.remove(&id) {
            link.best_effort_bytes -= flight.cost();
        }
        match flight.place {
            Place::Queue => {
                link.queue.remove(&id);
            }
            // The wire stays busy until the time that the frame would have taken is over.
            Place::Wire => {}
            Place::Held => {
                link.held.remove(&id);
            }
            Place::Air(moment) => {
                self.agenda.remove(&moment);
            }
            Place::Inbox(seat) => {
                self.agents[flight.to].inbox.remove(&seat);
            }
        }
        if !matches!(flight.place, Place::Inbox(_)) {
            self.agents[flight.from].outgoing -= 1;
        }
        Some(flight)
    }
}
