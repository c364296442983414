//! `ifmesh demo --hybrid`: a steady stream over two roads, of which one is pulled out from under two agents, and put back.

use std::{collections::BTreeMap, fmt, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{input::Plan, score::Score};

/// The road that fails.
pub(super) const ROAD: &str = "webrtc";

/// How often the input is sent, if nobody says.
pub(super) const REPEAT: u32 = 100;

/// How long the stream lasts.
const STREAM: Duration = Duration::from_secs(10);
/// When the road is pulled out, and when it is put back.
const OUT: Duration = Duration::from_secs(2);
const BACK: Duration = Duration::from_secs(5);
/// How long after that everybody may take to be back on it.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often messages are given out.
const TICK: Duration = Duration::from_millis(5);
/// Messages of a pair that a switch may have delayed: those accepted so long before and after it.
const AROUND_US: u64 = 500_000;

/// The agents whose sockets fall silent.
const DRILLED: [usize; 2] = [0, 1];

/// What happens when, and what was seen.
#[derive(Debug)]
pub(super) struct Script {
    started: Instant,
    items: usize,
    pairs: usize,
    stage: Stage,
    /// When each agent's sockets fell silent, and when they spoke again, by its own clock.
    drills: BTreeMap<(usize, bool), u64>,
    switches: Vec<Switch>,
    /// Messages sent again, for each agent and peer, as last heard.
    resent: BTreeMap<(usize, String), u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Before,
    Out,
    Back,
}

/// First attempts to a peer take another road.
#[derive(Debug, Clone)]
struct Switch {
    agent: usize,
    peer: String,
    from: String,
    to: String,
    at_us: u64,
    resent_before: u64,
}

impl Script {
    pub(super) fn new(plan: &Plan) -> Self {
        let (agents, drilled) = (plan.agents.len(), DRILLED.len().min(plan.agents.len()));
        let untouched = agents - drilled;
        Self {
            started: Instant::now(),
            items: plan.items.len(),
            // Both directions of each pair that has a drilled agent in it.
            pairs: agents * (agents - 1) - untouched * untouched.saturating_sub(1),
            stage: Stage::Before,
            drills: BTreeMap::new(),
            switches: Vec::new(),
            resent: BTreeMap::new(),
        }
    }

    pub(super) fn begin(&mut self) {
        self.started = Instant::now();
    }

    /// How many of the items may have been given out by now.
    pub(super) fn allowed(&self) -> usize {
        let share = self.started.elapsed().as_secs_f64() / STREAM.as_secs_f64();
        (self.items as f64 * share) as usize
    }

    pub(super) fn next_tick(&self) -> Instant {
        Instant::now() + TICK
    }

    /// The drill that is due: for whom, and whether sockets fall silent.
    pub(super) fn drill(&mut self) -> Option<(&'static [usize], bool)> {
        let elapsed = self.started.elapsed();
        match self.stage {
            Stage::Before if elapsed >= OUT => {
                self.stage = Stage::Out;
                Some((&DRILLED, true))
            }
            Stage::Out if elapsed >= BACK => {
                self.stage = Stage::Back;
                Some((&DRILLED, false))
            }
            _ => None,
        }
    }

    /// The line that says so to an agent.
    pub(super) fn line(on: bool) -> String {
        json!({ "drill": "blackhole", "transport": ROAD, "on": on }).to_string()
    }

    pub(super) fn drilled(&mut self, agent: usize, on: bool, at_us: u64) {
        self.drills.insert((agent, on), at_us);
    }

    pub(super) fn switched(
        &mut self,
        agent: usize,
        peer: String,
        from: String,
        to: String,
        at_us: u64,
        resent: u64,
    ) {
        self.resent(agent, peer.clone(), resent);
        self.switches.push(Switch {
            agent,
            peer,
            from,
            to,
            at_us,
            resent_before: resent,
        });
    }

    pub(super) fn resent(&mut self, agent: usize, peer: String, resent: u64) {
        self.resent.insert((agent, peer), resent);
    }

    /// Whether every affected pair has left the road and come back to it, or nobody will wait any longer.
    pub(super) fn is_over(&self) -> bool {
        let back = self.switches.iter().filter(|switch| switch.to == ROAD).count();
        let over = self.stage == Stage::Back && back >= self.pairs;
        over || self.started.elapsed() >= BACK + PATIENCE
    }

    pub(super) fn account(&self, plan: &Plan, score: &Score) -> Failovers {
        let position = |name: &str| plan.agents.iter().position(|agent| agent.as_str() == name);
        let mut found = Vec::new();
        for (at, switch) in self.switches.iter().enumerate() {
            let peer = position(&switch.peer);
            let leaves = switch.from == ROAD;
            let drills = [Some(switch.agent), peer]
                .into_iter()
                .flatten()
                .filter_map(|agent| self.drills.get(&(agent, leaves)).copied());
            // It is gone as soon as one end is, and back when both are.
            let cause = if leaves { drills.min() } else { drills.max() };
            let cause = cause.filter(|cause| *cause <= switch.at_us);
            let (from, to) = (
                cause.unwrap_or(switch.at_us).saturating_sub(AROUND_US),
                switch.at_us + AROUND_US,
            );
            let gap = peer.and_then(|peer| score.longest_us(switch.agent, peer, from, to));
            let pair = |other: &&Switch| other.agent == switch.agent && other.peer == switch.peer;
            let before = self.switches[..at]
                .iter()
                .rev()
                .find(pair)
                .map_or(0, |former| former.resent_before);
            let after = self.switches[at + 1..]
                .iter()
                .find(pair)
                .map(|later| later.resent_before);
            let until = after.or_else(|| self.resent.get(&(switch.agent, switch.peer.clone())).copied());
            // What was sent again on the way here counts for the switch that it led to.
            let resent = if leaves {
                until.unwrap_or(0).saturating_sub(before)
            } else {
                0
            };
            found.push(Failover {
                agent: plan.agents[switch.agent].to_string(),
                peer: switch.peer.clone(),
                from: switch.from.clone(),
                to: switch.to.clone(),
                detect_ms: cause.map(|cause| (switch.at_us - cause) as f64 / 1e3),
                gap_ms: gap.map(|gap| gap as f64 / 1e3),
                resent,
            });
        }
        Failovers {
            expected: self.pairs,
            found,
        }
    }
}

#[derive(Debug)]
struct Failover {
    agent: String,
    peer: String,
    from: String,
    to: String,
    /// From the drill to the switch; none if no drill caused it.
    detect_ms: Option<f64>,
    /// The longest time from accepting to handing out a message of this pair around the switch.
    gap_ms: Option<f64>,
    resent: u64,
}

/// What became of the drill.
#[derive(Debug)]
pub(super) struct Failovers {
    expected: usize,
    found: Vec<Failover>,
}

impl Failovers {
    /// Every affected pair left the road and came back.
    pub(super) fn is_perfect(&self) -> bool {
        let away = self.found.iter().filter(|one| one.from == ROAD).count();
        let back = self.found.iter().filter(|one| one.to == ROAD).count();
        away >= self.expected && back >= self.expected
    }

    pub(super) fn to_json(&self) -> Value {
        let round = |value: Option<f64>| value.map(|value| (value * 10.0).round() / 10.0);
        let one = |one: &Failover| {
            json!({
                "agent": one.agent,
                "peer": one.peer,
                "from": one.from,
                "to": one.to,
                "detect_ms": round(one.detect_ms),
                "gap_ms": round(one.gap_ms),
                "resent": one.resent,
            })
        };
        self.found.iter().map(one).collect()
    }
}

impl fmt::Display for Failovers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "switches     {}; each pair that lost {ROAD} left it and came back: {}",
            self.found.len(),
            if self.is_perfect() { "yes" } else { "NO" }
        )?;
        let ms = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0} ms"));
        for one in &self.found {
            writeln!(
                f,
                "  {:<16} to {:<16} {:>6} -> {:<6}  noticed after {:>8}, longest delay {:>8}, {} sent again",
                one.agent,
                one.peer,
                one.from,
                one.to,
                ms(one.detect_ms),
                ms(one.gap_ms),
                one.resent
            )?;
        }
        let mut gaps: Vec<f64> = self
            .found
            .iter()
            .filter(|one| one.from == ROAD)
            .filter_map(|one| one.gap_ms)
            .collect();
        gaps.sort_by(f64::total_cmp);
        if let Some(last) = gaps.len().checked_sub(1) {
            let at = |share: usize| gaps[(gaps.len() * share / 100).min(last)];
            writeln!(
                f,
                "failover     longest delay of a message: p50 {:.0} ms, p95 {:.0} ms",
                at(50),
                at(95)
            )?;
        }
        Ok(())
    }
}
