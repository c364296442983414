//! Peers that pass frames on for others: who reaches whom through whom, and for how long that holds.
//!
//! An agent that wants relays says so to those it names, every few seconds; each answers with whom it reaches. What is not
//! said again is forgotten. A relayed frame counts down how often it may still be passed on, and never goes back the way it
//! came; so nothing circles.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use ifmsg::AgentId;

use super::frame::MOST_REACHED;
use crate::{PeerKeys, PeerTrust};

/// How often it is said who reaches whom.
const REFRESH: Duration = Duration::from_secs(5);
/// How long that holds.
const HOLDS: Duration = Duration::from_secs(16);

/// What relays an agent uses, and whether it is one.
#[derive(Clone)]
pub struct Relays {
    /// This agent's name.
    pub agent: AgentId,
    /// Who may pass frames on for this agent. They see who talks to whom, and how much; they can delay and drop, and nothing
    /// else: signatures are between the ends.
    pub through: Vec<AgentId>,
    /// Whether this agent passes frames on for others.
    pub for_others: bool,
    /// Over how many relays a frame of this agent may go, at most. 1 to 8.
    pub max_hops: u8,
    /// Who is worth reaching: whoever is refused is neither announced nor reached.
    pub keys: Arc<dyn PeerKeys>,
}

impl fmt::Debug for Relays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Relays")
            .field("agent", &self.agent)
            .field("through", &self.through)
            .field("for_others", &self.for_others)
            .field("max_hops", &self.max_hops)
            .finish_non_exhaustive()
    }
}

/// Ways through relays.
#[derive(Debug)]
pub(super) struct Ways {
    pub(super) relays: Relays,
    /// For each agent, through which relay, over how many, and until when.
    ways: BTreeMap<AgentId, BTreeMap<AgentId, (u8, Duration)>>,
    /// Who wants to be told whom this agent reaches, until when.
    told: BTreeMap<AgentId, Duration>,
    refresh_at: Duration,
}

impl Ways {
    pub(super) fn new(relays: Relays) -> Self {
        Self {
            relays,
            ways: BTreeMap::new(),
            told: BTreeMap::new(),
            refresh_at: Duration::ZERO,
        }
    }

    pub(super) fn may_pass_on(&self, agent: &AgentId) -> bool {
        self.relays.through.contains(agent)
    }

    /// A peer said whom it reaches, and thereby that it wants to be told the same. Whether it did so for the first time.
    pub(super) fn heard(&mut self, from: &AgentId, names: Vec<(AgentId, u8)>, now: Duration) -> bool {
        let has_room = self.told.len() < MOST_REACHED || self.told.contains_key(from);
        let is_new =
            self.relays.for_others && has_room && self.told.insert(from.clone(), now + HOLDS).is_none();
        if !self.may_pass_on(from) {
            return is_new;
        }
        for through in self.ways.values_mut() {
            through.remove(from);
        }
        for (agent, hops) in names.into_iter().take(MOST_REACHED) {
            let refused = self.relays.keys.trust(&agent) == PeerTrust::Refuse;
            if agent != self.relays.agent
                && agent != *from
                && !refused
                && (1..=self.relays.max_hops).contains(&hops)
            {
                self.ways
                    .entry(agent)
                    .or_default()
                    .insert(from.clone(), (hops, now + HOLDS));
            }
        }
        self.ways.retain(|_, through| !through.is_empty());
        is_new
    }

    /// A frame of this agent came through a relay: there is a way back.
    pub(super) fn came_from(&mut self, origin: &AgentId, relay: &AgentId, now: Duration) -> bool {
        if self.relays.keys.trust(origin) == PeerTrust::Refuse || *origin == self.relays.agent {
            return false;
        }
        if self.ways.len() >= MOST_REACHED && !self.ways.contains_key(origin) {
            return false;
        }
        let through = self.ways.entry(origin.clone()).or_default();
        let way = through
            .entry(relay.clone())
            .or_insert((self.relays.max_hops, now));
        way.1 = now + HOLDS;
        true
    }

    /// The peer has no link any more: nothing goes through it.
    pub(super) fn gone(&mut self, relay: &AgentId) {
        self.told.remove(relay);
        for through in self.ways.values_mut() {
            through.remove(relay);
        }
        self.ways.retain(|_, through| !through.is_empty());
    }

    /// The shortest way to an agent that does not go back to `not_through`.
    pub(super) fn through(&self, agent: &AgentId, not_through: Option<&AgentId>) -> Option<(AgentId, u8)> {
        let through = self.ways.get(agent)?;
        let open = through.iter().filter(|(relay, _)| Some(*relay) != not_through);
        let (relay, (hops, _)) = open.min_by_key(|(_, (hops, _))| *hops)?;
        Some((relay.clone(), *hops))
    }

    /// Agents that can be reached.
    pub(super) fn reached(&self) -> impl Iterator<Item = &AgentId> {
        self.ways.keys()
    }

    /// Forgets what was not said again.
    pub(super) fn expire(&mut self, now: Duration) {
        self.told.retain(|_, until| *until > now);
        for through in self.ways.values_mut() {
            through.retain(|_, (_, until)| *until > now);
        }
        self.ways.retain(|_, through| !through.is_empty());
    }

    /// What to say to whom, if it is time: `linked` are the peers with a link of their own.
    pub(super) fn announce(
        &mut self,
        linked: &[AgentId],
        now: Duration,
    ) -> Vec<(AgentId, Vec<(AgentId, u8)>)> {
        if now < self.refresh_at {
            return Vec::new();
        }
        self.refresh_at = now + REFRESH;
        let wants = self.relays.through.iter().filter(|relay| linked.contains(relay));
        let mut listeners: Vec<&AgentId> = wants.chain(self.told.keys()).collect();
        listeners.sort();
        listeners.dedup();
        let names = |listener: &AgentId| {
            if !self.relays.for_others {
                return Vec::new();
            }
            let known =
                |agent: &&AgentId| self.relays.keys.trust(agent) != PeerTrust::Refuse && *agent != listener;
            let near = linked.iter().filter(known).map(|agent| (agent.clone(), 1));
            let far = self
                .ways
                .keys()
                .filter(known)
                .filter(|agent| !linked.contains(agent));
            let far = far.filter_map(|agent| {
                let (_, hops) = self.through(agent, Some(listener))?;
                Some((agent.clone(), hops.checked_add(1)?))
            });
            near.chain(far).take(MOST_REACHED).collect()
        };
        listeners
            .into_iter()
            .map(|listener| (listener.clone(), names(listener)))
            .collect()
    }

    /// Something changed that others should hear of soon.
    pub(super) fn announce_soon(&mut self, now: Duration) {
        self.refresh_at = self.refresh_at.min(now);
    }

    pub(super) fn next_timeout(&self) -> Duration {
        self.refresh_at
    }
}
