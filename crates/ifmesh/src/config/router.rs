//! The table `[router]`, and what is made of it.

use std::{sync::Arc, time::Duration};

use ifmesh_transport::{HealthConfig, Match, Plan, Policy, RouterConfig, Rule, Rules};
use ifmsg::{AgentId, Delivery, Level, Performative};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{TransportTable, nearest};

/// The file's table.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct RouterSection {
    /// How the roads to a peer are used.
    policy: PolicyName,
    /// Names of transports, best first. Left out: all, as they stand in the file.
    order: Vec<String>,
    /// By how many roads `fan-out` sends; 0 is all.
    fan_out_roads: usize,
    /// How much `hedged` may copy, in percent of what is sent. 1 to 100.
    hedge_percent: u16,
    /// After so much silence a road is asked whether it is still there.
    keepalive_milliseconds: u64,
    /// How long a road that failed must answer without fault before it is taken again; longer after each failure.
    failback_milliseconds: u64,
    /// Agents that may pass frames on for this one, to those whom no road of its own reaches.
    #[schemars(with = "Vec<String>")]
    relays: Vec<AgentId>,
    /// Whether this agent passes frames on for others.
    relay_for_others: bool,
    /// Over how many relays a frame may go. 1 to 8.
    relay_hops: u8,
    /// Rules for some messages; the first that matches decides.
    rule: Vec<RuleSection>,
}

impl Default for RouterSection {
    fn default() -> Self {
        let health = HealthConfig::default();
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            policy: PolicyName::default(),
            order: Vec::new(),
            fan_out_roads: 0,
            hedge_percent: 10,
            keepalive_milliseconds: millis(health.keepalive),
            failback_milliseconds: millis(health.failback_after),
            relays: Vec::new(),
            relay_for_others: false,
            relay_hops: 2,
            rule: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum PolicyName {
    /// The first road that is up; the next one when it fails; back when it has proved itself.
    #[default]
    Failover,
    /// All roads at once: the first copy wins.
    FanOut,
    /// The first road, and a copy by the second when no acknowledgement comes in the usual time.
    Hedged,
}

/// One of `[[router.rule]]`: what is left out matches everything.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RuleSection {
    /// For people.
    name: String,
    /// To one of these agents.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    destination: Vec<AgentId>,
    /// Whether it is for everyone.
    broadcast: Option<bool>,
    /// With one of these performatives.
    #[serde(default)]
    performative: Vec<String>,
    /// 1 or 2.
    level: Option<u8>,
    /// The delivery class.
    delivery: Option<DeliveryName>,
    /// At least so large.
    at_least_bytes: Option<usize>,
    /// At most so large.
    at_most_bytes: Option<usize>,
    /// How these travel.
    policy: PolicyName,
    /// By which roads, best first; as the router's, if left out.
    #[serde(default)]
    order: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
enum DeliveryName {
    Reliable,
    BestEffort,
}

/// The relays that an agent uses, and whether it is one.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RelayWish {
    /// Who may pass frames on for it.
    pub through: Vec<AgentId>,
    /// Whether it does so for others.
    pub for_others: bool,
    /// Over how many relays.
    pub max_hops: u8,
}

impl RouterSection {
    /// Relays that are wished for. Whom they may reach, trust decides.
    pub(super) fn relays(&self) -> Option<RelayWish> {
        let wanted = self.relay_for_others || !self.relays.is_empty();
        wanted.then(|| RelayWish {
            through: self.relays.clone(),
            for_others: self.relay_for_others,
            max_hops: self.relay_hops,
        })
    }

    pub(super) fn resolve(self, transports: &[TransportTable]) -> Result<RouterConfig, String> {
        let names: Vec<&str> = transports.iter().map(|table| &*table.name).collect();
        if !(1..=100).contains(&self.hedge_percent) {
            return Err(format!(
                "hedge_percent is {}; 1 to 100 is allowed",
                self.hedge_percent
            ));
        }
        for (key, value) in [
            ("keepalive_milliseconds", self.keepalive_milliseconds),
            ("failback_milliseconds", self.failback_milliseconds),
        ] {
            if !(100..=600_000).contains(&value) {
                return Err(format!("{key} is {value}; 100 to 600000 is allowed"));
            }
        }
        if !(1..=8).contains(&self.relay_hops) {
            return Err(format!("relay_hops is {}; 1 to 8 is allowed", self.relay_hops));
        }
        let policy = |name| match name {
            PolicyName::Failover => Policy::Failover,
            PolicyName::FanOut => Policy::FanOut {
                roads: (self.fan_out_roads > 0).then_some(self.fan_out_roads),
            },
            PolicyName::Hedged => Policy::Hedged {
                budget_permille: self.hedge_percent * 10,
            },
        };
        let default = Plan {
            policy: policy(self.policy),
            order: order("order", &self.order, &names)?,
        };
        let mut rules = Vec::new();
        for section in &self.rule {
            let whose = format!("order of rule {:?}", section.name);
            let mut roads = order(&whose, &section.order, &names)?;
            if roads.is_empty() {
                roads.clone_from(&default.order);
            }
            let plan = Plan {
                policy: policy(section.policy),
                order: roads,
            };
            rules.push(Rule {
                name: section.name.clone(),
                matches: section.matches()?,
                plan,
            });
        }
        let mut config = RouterConfig::new(Policy::Failover);
        config.rules = Rules { rules, default };
        config.health.keepalive = Duration::from_millis(self.keepalive_milliseconds);
        config.health.failback_after = Duration::from_millis(self.failback_milliseconds);
        Ok(config)
    }
}

impl RuleSection {
    fn matches(&self) -> Result<Match, String> {
        let whose = |what: &str| format!("rule {:?}: {what}", self.name);
        let performative =
            |text: &String| Performative::new(text).map_err(|error| whose(&format!("performative: {error}")));
        let level = match self.level {
            None => None,
            Some(1) => Some(Level::Function),
            Some(2) => Some(Level::Module),
            Some(other) => return Err(whose(&format!("level is {other}; 1 or 2 is allowed"))),
        };
        Ok(Match {
            destinations: self.destination.clone(),
            broadcast: self.broadcast,
            performatives: self
                .performative
                .iter()
                .map(performative)
                .collect::<Result<_, _>>()?,
            level,
            delivery: self.delivery.map(|delivery| match delivery {
                DeliveryName::Reliable => Delivery::Reliable,
                DeliveryName::BestEffort => Delivery::BestEffort,
            }),
            at_least_bytes: self.at_least_bytes,
            at_most_bytes: self.at_most_bytes,
        })
    }
}

fn order(whose: &str, wanted: &[String], known: &[&str]) -> Result<Vec<Arc<str>>, String> {
    let mut order: Vec<Arc<str>> = Vec::new();
    for name in wanted {
        if !known.contains(&name.as_str()) {
            let near =
                nearest(name, known).map_or_else(String::new, |near| format!("; did you mean {near:?}?"));
            return Err(format!(
                "{whose}: there is no table [transport.{name}]; there are {}{near}",
                known.join(", ")
            ));
        }
        if order.iter().any(|other| **other == **name) {
            return Err(format!("{whose}: {name:?} stands there twice"));
        }
        order.push(name.as_str().into());
    }
    Ok(order)
}
