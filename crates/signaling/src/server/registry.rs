//! Who has which name. No I/O and no clock: the time is handed in, frames go into queues that never block.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use ifmsg::{AgentId, PublicKey};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Utf8Bytes;

use super::{
    connection::Ending,
    metrics::{Counters, add, subtract},
    outbox::Outbox,
};
use crate::protocol::{AgentInfo, ErrorCode, IceServers, RelayTerms, ServerFrame, SocketRole};

/// Names of sockets of one role, and the keys they are bound to.
#[derive(Debug)]
pub(super) struct Registry {
    agents: HashMap<AgentId, Entry>,
    /// Names in the order of registration.
    order: BTreeMap<u64, AgentId>,
    next: u64,
    memory: KeyMemory,
    max_agents: usize,
    counters: Arc<Counters>,
    role: SocketRole,
}

#[derive(Debug)]
struct Entry {
    /// Place in `order`; a connection recognises its own entry by it.
    place: u64,
    key: Option<ProvenKey>,
    outbox: Outbox,
}

/// A key that its owner has proved, and the epoch it was proved for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ProvenKey {
    pub(super) key: PublicKey,
    pub(super) epoch: u64,
}

/// What a `registered` frame says to our own clients, beside who is there.
#[derive(Debug)]
pub(super) struct Welcome {
    pub(super) server_id: AgentId,
    pub(super) relay: Option<RelayTerms>,
    pub(super) ice: Option<IceServers>,
}

/// Why a name was not given.
#[derive(Debug)]
pub(super) enum Denied {
    /// For this reason.
    Final(ErrorCode),
    /// Another client without a key holds it: it goes to the new one if that one is dead.
    Held { place: u64, outbox: Outbox },
}

impl Registry {
    pub(super) fn new(
        max_agents: usize,
        key_memory: Duration,
        max_remembered: usize,
        counters: Arc<Counters>,
        role: SocketRole,
    ) -> Self {
        Self {
            agents: HashMap::new(),
            order: BTreeMap::new(),
            next: 0,
            memory: KeyMemory::new(key_memory, max_remembered),
            max_agents,
            counters,
            role,
        }
    }

    /// How many have a name now.
    fn gauge(&self) -> &AtomicU64 {
        match self.role {
            SocketRole::Signals => &self.counters.agents,
            SocketRole::Relay => &self.counters.relay_agents,
        }
    }

    /// Gives `agent_id` to the connection behind `outbox`, queues `registered` there and `agent-joined` everywhere else.
    ///
    /// The rule: a name belongs to the key that proved it, while its socket is open and for some minutes after. The same key with
    /// the same or a higher epoch always wins: it is this agent, coming back before the server noticed that it was gone (same
    /// epoch) or started anew (higher). A key beats no key. Between two clients without keys the living one stays.
    pub(super) fn register(
        &mut self,
        agent_id: &AgentId,
        key: Option<ProvenKey>,
        welcome: Welcome,
        outbox: &Outbox,
        now: Instant,
    ) -> Result<u64, Denied> {
        let holder = self.agents.get(agent_id);
        let bound = match holder {
            Some(entry) => entry.key,
            None => self.memory.recall(agent_id, now),
        };
        match (bound, key) {
            (Some(bound), Some(new)) if bound.key != new.key => {
                return Err(Denied::Final(ErrorCode::IdTaken));
            }
            (Some(bound), Some(new)) if new.epoch < bound.epoch => {
                return Err(Denied::Final(ErrorCode::StaleEpoch));
            }
            (Some(_), None) => return Err(Denied::Final(ErrorCode::IdTaken)),
            (None, None) => {
                if let Some(entry) = holder {
                    return Err(Denied::Held {
                        place: entry.place,
                        outbox: entry.outbox.clone(),
                    });
                }
            }
            _ => {}
        }
        if let Some(entry) = holder {
            entry.outbox.end(Ending::Replaced);
            let place = entry.place;
            add(&self.counters.evictions);
            self.leave(agent_id, place, now);
        } else if self.agents.len() >= self.max_agents {
            return Err(Denied::Final(ErrorCode::ServerFull));
        }

        // Queued before the entry is visible, so that it is the first frame of this registration.
        outbox.push(self.registered(agent_id, key.is_some().then_some(welcome)).into());
        self.announce(agent_id, key);
        let place = self.next;
        self.next += 1;
        self.order.insert(place, agent_id.clone());
        self.agents.insert(
            agent_id.clone(),
            Entry {
                place,
                key,
                outbox: outbox.clone(),
            },
        );
        add(self.gauge());
        add(&self.counters.registrations);
        Ok(place)
    }

    /// The `registered` frame of `agent_id`; with what only our own clients read if a `welcome` is given.
    pub(super) fn registered(&self, agent_id: &AgentId, welcome: Option<Welcome>) -> String {
        let others = || self.order.values().filter(|other| *other != agent_id);
        let agents = match &welcome {
            Some(_) => others()
                .filter_map(|id| self.agents.get(id).map(|entry| info(id, entry.key)))
                .collect(),
            None => Vec::new(),
        };
        let (server_id, relay, ice) = match welcome {
            Some(welcome) => (Some(welcome.server_id), welcome.relay, welcome.ice),
            None => (None, None, None),
        };
        ServerFrame::Registered {
            agent_id: agent_id.clone(),
            connected_agents: others().cloned().collect(),
            agents,
            server_id,
            relay,
            ice,
        }
        .to_text()
    }

    /// Ends the connection that holds `agent_id` at `place`, if it still does, and frees the name.
    pub(super) fn evict(&mut self, agent_id: &AgentId, place: u64, ending: Ending, now: Instant) {
        if let Some(entry) = self.agents.get(agent_id)
            && entry.place == place
        {
            entry.outbox.end(ending);
            add(&self.counters.evictions);
            self.leave(agent_id, place, now);
        }
    }

    /// The connection that holds `agent_id` at `place` is over. Nothing happens if the name has gone to another.
    pub(super) fn leave(&mut self, agent_id: &AgentId, place: u64, now: Instant) {
        if self.agents.get(agent_id).is_none_or(|entry| entry.place != place) {
            return;
        }
        if let Some(entry) = self.agents.remove(agent_id) {
            self.order.remove(&place);
            subtract(self.gauge());
            if let Some(key) = entry.key {
                self.memory.remember(agent_id.clone(), key, now);
            }
        }
        let left = ServerFrame::AgentLeft {
            agent_id: agent_id.clone(),
        };
        let text = Utf8Bytes::from(left.to_text());
        for other in self.agents.values() {
            other.outbox.push(text.clone());
        }
    }

    /// Queues a frame for `to`. `false`: there is no such agent, or it is being dropped.
    pub(super) fn relay(&self, to: &AgentId, frame: Utf8Bytes) -> bool {
        self.agents.get(to).is_some_and(|entry| entry.outbox.push(frame))
    }

    /// The way to `to`, if it is there.
    pub(super) fn outbox(&self, to: &AgentId) -> Option<Outbox> {
        self.agents.get(to).map(|entry| entry.outbox.clone())
    }

    /// Tells everybody of a newcomer; clients without a key get the original's frame.
    fn announce(&self, agent_id: &AgentId, key: Option<ProvenKey>) {
        let text = |key| Utf8Bytes::from(ServerFrame::AgentJoined(info(agent_id, key)).to_text());
        let (plain, full) = (text(None), text(key));
        for other in self.agents.values() {
            other.outbox.push(if other.key.is_some() {
                full.clone()
            } else {
                plain.clone()
            });
        }
    }
}

fn info(agent_id: &AgentId, key: Option<ProvenKey>) -> AgentInfo {
    AgentInfo {
        agent_id: agent_id.clone(),
        public_key: key.map(|proven| proven.key),
        epoch: key.map(|proven| proven.epoch),
    }
}

/// Keys of names whose socket has closed: a reconnecting agent finds its name still its own. Bounded in time and number.
#[derive(Debug)]
struct KeyMemory {
    keys: HashMap<AgentId, (ProvenKey, Instant)>,
    /// Oldest first. May name entries that were renewed; those are recognised by their time.
    order: VecDeque<(AgentId, Instant)>,
    ttl: Duration,
    max: usize,
}

impl KeyMemory {
    fn new(ttl: Duration, max: usize) -> Self {
        Self {
            keys: HashMap::new(),
            order: VecDeque::new(),
            ttl,
            max,
        }
    }

    fn remember(&mut self, agent_id: AgentId, key: ProvenKey, now: Instant) {
        self.keys.insert(agent_id.clone(), (key, now));
        self.order.push_back((agent_id, now));
        while let Some((oldest, since)) = self.order.front() {
            if self.order.len() <= self.max && now.duration_since(*since) < self.ttl {
                break;
            }
            if self.keys.get(oldest).is_some_and(|(_, at)| at == since) {
                self.keys.remove(oldest);
            }
            self.order.pop_front();
        }
    }

    fn recall(&self, agent_id: &AgentId, now: Instant) -> Option<ProvenKey> {
        let (key, since) = self.keys.get(agent_id)?;
        (now.duration_since(*since) < self.ttl).then_some(*key)
    }
}

#[cfg(test)]
mod tests {
    use ifmsg::Identity;

    use super::*;

    #[test]
    fn keys_are_remembered_for_their_time_and_no_more_than_their_number() {
        let key = |seed, epoch| ProvenKey {
            key: *Identity::from_seed(&[seed; 32]).public_key(),
            epoch,
        };
        let id = |n: u32| AgentId::new(format!("agent-{n}")).unwrap();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut memory = KeyMemory::new(Duration::from_secs(10), 3);
        memory.remember(id(1), key(1, 1), at(0));
        assert_eq!(memory.recall(&id(1), at(9)), Some(key(1, 1)));
        assert_eq!(memory.recall(&id(1), at(10)), None);
        // Renewed: the time counts from the last disconnection.
        memory.remember(id(1), key(1, 2), at(9));
        assert_eq!(memory.recall(&id(1), at(18)), Some(key(1, 2)));
        for n in 2..100 {
            memory.remember(id(n), key(2, 1), at(18));
            assert!(memory.keys.len() <= 3 && memory.order.len() <= 3);
        }
        assert_eq!(memory.recall(&id(1), at(18)), None);
        assert_eq!(memory.recall(&id(99), at(18)), Some(key(2, 1)));
        // What has expired is also gone from memory as soon as anything else is remembered.
        memory.remember(id(100), key(2, 1), at(60));
        assert_eq!((memory.keys.len(), memory.order.len()), (1, 1));
    }
}
