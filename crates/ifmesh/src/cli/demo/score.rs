//! The account of a demo: what was sent, what arrived where, how often and how fast.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    fmt,
    time::Duration,
};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{input::Plan, member::Event};

/// What has happened so far.
#[derive(Debug)]
pub(super) struct Score {
    items: HashMap<String, usize>,
    settled: Vec<Settled>,
    settled_count: usize,
    accepted_at: Vec<Option<u64>>,
    /// When each first arrived at each recipient.
    arrived_at: Vec<Vec<Option<u64>>>,
    sources: Vec<usize>,
    /// For each item and recipient, in the item's order.
    arrivals: Vec<Vec<Arrivals>>,
    recipients: Vec<Vec<usize>>,
    peers: Vec<BTreeSet<usize>>,
    agent_count: usize,
    started: Option<Instant>,
    setup: Option<Duration>,
    /// Counted when the mesh had formed.
    formed: usize,
    lives: Vec<u32>,
    open: usize,
    latencies_us: Vec<u64>,
    first_us: u64,
    last_us: u64,
    duplicates_dropped: u64,
    rejected: u64,
    restarts: u32,
    strangers: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settled {
    No,
    Acknowledged,
    Failed,
}

/// How often an item arrived, in this life of its recipient and in former ones.
#[derive(Debug, Clone, Copy, Default)]
struct Arrivals {
    life: u32,
    in_life: u32,
    /// Given again by a restarted recipient, which was killed before it could say that it had it.
    again: u32,
    twice: u32,
}

impl Score {
    pub(super) fn new(plan: &Plan) -> Self {
        let (items, agents) = (plan.items.len(), plan.agents.len());
        Self {
            items: plan
                .items
                .iter()
                .enumerate()
                .map(|(index, item)| (item.id.clone(), index))
                .collect(),
            settled: vec![Settled::No; items],
            settled_count: 0,
            accepted_at: vec![None; items],
            arrived_at: plan
                .items
                .iter()
                .map(|item| vec![None; item.recipients.len()])
                .collect(),
            sources: plan.items.iter().map(|item| item.source).collect(),
            arrivals: plan
                .items
                .iter()
                .map(|item| vec![Arrivals::default(); item.recipients.len()])
                .collect(),
            recipients: plan.items.iter().map(|item| item.recipients.clone()).collect(),
            peers: vec![BTreeSet::new(); agents],
            agent_count: agents,
            started: None,
            setup: None,
            formed: 0,
            lives: vec![0; agents],
            open: agents,
            latencies_us: Vec::new(),
            first_us: u64::MAX,
            last_us: 0,
            duplicates_dropped: 0,
            rejected: 0,
            restarts: 0,
            strangers: 0,
        }
    }

    /// Each agent's items, in order.
    pub(super) fn queues(&self, plan: &Plan) -> Vec<VecDeque<usize>> {
        let mut queues = vec![VecDeque::new(); self.agent_count];
        for (index, item) in plan.items.iter().enumerate() {
            queues[item.source].push_back(index);
        }
        queues
    }

    pub(super) fn started(&mut self) {
        self.started = Some(Instant::now());
    }

    pub(super) fn mesh_formed(&mut self) {
        self.setup = self.started.map(|started| started.elapsed());
        self.formed = self.connections();
    }

    pub(super) fn peer_up(&mut self, member: usize, event: &Event, plan: &Plan) {
        if let Event::PeerUp { peer } = event
            && let Some(peer) = plan.agents.iter().position(|agent| agent.as_str() == peer)
        {
            self.peers[member].insert(peer);
        }
    }

    /// A member died and is started again.
    pub(super) fn died(&mut self, member: usize) {
        self.peers[member].clear();
        self.peers.iter_mut().for_each(|peers| _ = peers.remove(&member));
        self.lives[member] += 1;
        self.restarts += 1;
    }

    /// An event of a former life: what had arrived had arrived.
    pub(super) fn late(&mut self, member: usize, event: &Event) {
        if let Event::Message { id, at_us } = event {
            self.arrived(member, id, *at_us, self.lives[member].saturating_sub(1));
        }
    }

    pub(super) fn take(&mut self, member: usize, event: &Event, plan: &Plan) {
        match event {
            Event::PeerDown { peer } => {
                if let Some(peer) = plan.agents.iter().position(|agent| agent.as_str() == peer) {
                    self.peers[member].remove(&peer);
                }
            }
            Event::Accepted { id, at_us } => {
                if let Some(&item) = self.items.get(id) {
                    self.accepted_at[item].get_or_insert(*at_us);
                    self.first_us = self.first_us.min(*at_us);
                }
            }
            Event::Outcome { id, acknowledged } => self.settle(id, *acknowledged),
            Event::Message { id, at_us } => self.arrived(member, id, *at_us, self.lives[member]),
            Event::Closed {
                duplicates, rejected, ..
            } => {
                self.duplicates_dropped += duplicates;
                self.rejected += rejected;
            }
            Event::Ended => self.open = self.open.saturating_sub(1),
            Event::PeerUp { .. } | Event::Refused { .. } | Event::Drill { .. } | Event::Switched { .. } => {}
        }
    }

    pub(super) fn item(&self, id: &str) -> Option<usize> {
        self.items.get(id).copied()
    }

    fn settle(&mut self, id: &str, acknowledged: bool) {
        let Some(&item) = self.items.get(id) else { return };
        if self.settled[item] == Settled::No {
            self.settled_count += 1;
            self.settled[item] = if acknowledged {
                Settled::Acknowledged
            } else {
                Settled::Failed
            };
        }
    }

    fn arrived(&mut self, member: usize, id: &str, at_us: u64, life: u32) {
        let place = self.items.get(id).and_then(|&item| {
            let recipient = self.recipients[item]
                .iter()
                .position(|recipient| *recipient == member)?;
            Some((item, recipient))
        });
        let Some((item, recipient)) = place else {
            self.strangers += 1;
            return;
        };
        self.arrived_at[item][recipient].get_or_insert(at_us);
        let arrivals = &mut self.arrivals[item][recipient];
        let first = arrivals.in_life == 0;
        if first {
            arrivals.in_life = 1;
            arrivals.life = life;
        } else if arrivals.life == life {
            arrivals.twice += 1;
        } else {
            arrivals.life = life;
            arrivals.again += 1;
        }
        self.last_us = self.last_us.max(at_us);
        if first && let Some(accepted) = self.accepted_at[item] {
            self.latencies_us.push(at_us.saturating_sub(accepted));
        }
    }

    /// The longest time that a message from one agent to another took, of those accepted between two moments.
    pub(super) fn longest_us(
        &self,
        source: usize,
        recipient: usize,
        from_us: u64,
        to_us: u64,
    ) -> Option<u64> {
        let items = (0..self.sources.len()).filter(|&item| self.sources[item] == source);
        items
            .filter_map(|item| {
                let at = self.recipients[item]
                    .iter()
                    .position(|other| *other == recipient)?;
                let accepted = self.accepted_at[item]?;
                let is_meant = (from_us..=to_us).contains(&accepted);
                is_meant.then_some(self.arrived_at[item][at]?.saturating_sub(accepted))
            })
            .max()
    }

    pub(super) fn connections(&self) -> usize {
        let both = |a: usize, b: &usize| a < *b && self.peers[*b].contains(&a);
        self.peers
            .iter()
            .enumerate()
            .map(|(a, peers)| peers.iter().filter(|b| both(a, b)).count())
            .sum()
    }

    pub(super) fn has_all_peers(&self, member: usize) -> bool {
        self.peers[member].len() + 1 == self.agent_count
    }

    pub(super) fn mesh_is_full(&self) -> bool {
        (0..self.agent_count).all(|member| self.has_all_peers(member))
    }

    pub(super) fn missing_connections(&self, plan: &Plan) -> String {
        let missing = |a: usize| {
            let others = (0..self.agent_count).filter(move |b| *b != a && !self.peers[a].contains(b));
            others.map(move |b| format!("{} has not seen {}", plan.agents[a], plan.agents[b]))
        };
        let missing: Vec<String> = (0..self.agent_count).flat_map(missing).take(10).collect();
        missing.join(", ")
    }

    pub(super) fn setup_ms(&self) -> u128 {
        self.setup.unwrap_or_default().as_millis()
    }

    pub(super) fn settled(&self) -> usize {
        self.settled_count
    }

    pub(super) fn all_settled(&self) -> bool {
        self.settled_count == self.settled.len()
    }

    pub(super) fn is_settled(&self, item: usize) -> bool {
        self.settled[item] != Settled::No
    }

    pub(super) fn restarts(&self) -> u32 {
        self.restarts
    }

    pub(super) fn open_members(&self) -> usize {
        self.open
    }

    /// The final account.
    pub(super) fn account(&self, plan: &Plan) -> Account {
        let all = || self.arrivals.iter().flatten();
        let delivered = all().filter(|arrivals| arrivals.in_life > 0).count();
        let mut latencies = self.latencies_us.clone();
        latencies.sort_unstable();
        let seconds = self.last_us.saturating_sub(self.first_us) as f64 / 1e6;
        Account {
            agents: plan.agents.len(),
            connections: self.formed,
            setup_ms: self.setup_ms(),
            sent: plan.items.len(),
            delivered,
            expected: all().count(),
            duplicates: all().map(|arrivals| u64::from(arrivals.twice)).sum(),
            again: all().map(|arrivals| u64::from(arrivals.again)).sum(),
            duplicates_dropped: self.duplicates_dropped,
            rejected: self.rejected,
            unacknowledged: self
                .settled
                .iter()
                .filter(|settled| **settled != Settled::Acknowledged)
                .count(),
            restarts: self.restarts,
            strangers: self.strangers,
            latency_ms: [50, 95, 99].map(|percent| percentile(&latencies, percent) as f64 / 1e3),
            msgs_per_s: if seconds > 0.0 {
                delivered as f64 / seconds
            } else {
                0.0
            },
        }
    }
}

/// The nearest-rank percentile.
fn percentile(sorted: &[u64], percent: usize) -> u64 {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

/// What the demo ends with.
#[derive(Debug)]
pub(super) struct Account {
    agents: usize,
    connections: usize,
    setup_ms: u128,
    sent: usize,
    delivered: usize,
    expected: usize,
    duplicates: u64,
    again: u64,
    duplicates_dropped: u64,
    rejected: u64,
    unacknowledged: usize,
    restarts: u32,
    strangers: u64,
    latency_ms: [f64; 3],
    msgs_per_s: f64,
}

impl Account {
    fn lost(&self) -> usize {
        self.expected - self.delivered
    }

    pub(super) fn is_perfect(&self) -> bool {
        self.lost() == 0
            && self.duplicates == 0
            && self.rejected == 0
            && self.unacknowledged == 0
            && self.strangers == 0
    }

    pub(super) fn to_json(&self) -> Value {
        let round = |value: f64| (value * 1e3).round() / 1e3;
        let [p50, p95, p99] = self.latency_ms.map(round);
        json!({
            "agents": self.agents,
            "connections": self.connections,
            "setup_ms": u64::try_from(self.setup_ms).unwrap_or(u64::MAX),
            "sent": self.sent,
            "delivered": self.delivered,
            "duplicates": self.duplicates,
            "lost": self.lost(),
            "rejected": self.rejected,
            "latency_ms": { "p50": p50, "p95": p95, "p99": p99 },
            "msgs_per_s": round(self.msgs_per_s),
        })
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [p50, p95, p99] = self.latency_ms;
        writeln!(f, "agents       {}", self.agents)?;
        writeln!(
            f,
            "connections  {}, set up in {} ms",
            self.connections, self.setup_ms
        )?;
        writeln!(
            f,
            "sent         {} messages, for {} deliveries",
            self.sent, self.expected
        )?;
        writeln!(f, "delivered    {}, every one verified", self.delivered)?;
        writeln!(
            f,
            "duplicates   {} delivered, {} dropped",
            self.duplicates, self.duplicates_dropped
        )?;
        writeln!(f, "lost         {}", self.lost())?;
        writeln!(f, "rejected     {}", self.rejected)?;
        writeln!(
            f,
            "latency      p50 {p50:.2} ms, p95 {p95:.2} ms, p99 {p99:.2} ms"
        )?;
        writeln!(f, "rate         {:.0} messages/s", self.msgs_per_s)?;
        if self.restarts > 0 {
            writeln!(
                f,
                "restarts     {} (of killed agents); {} messages handed out again after one",
                self.restarts, self.again
            )?;
        }
        if self.unacknowledged > 0 {
            writeln!(f, "NOT acknowledged: {}", self.unacknowledged)?;
        }
        if self.strangers > 0 {
            writeln!(f, "NOT sent by anyone here: {}", self.strangers)?;
        }
        Ok(())
    }
}
