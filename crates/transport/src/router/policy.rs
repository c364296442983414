//! Which roads an envelope takes: policies, and the rules that choose among them.

use std::sync::Arc;

use ifmsg::{AgentId, Delivery, Destination, Header, Level, Performative};

use crate::Class;

/// How the roads to a peer are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// The first road that is up. When it fails the next one; back, when the former has proved itself.
    Failover,
    /// All roads that are up, or the first `n`: the first copy wins, the others die before verification.
    FanOut {
        /// How many roads at most; `None` is all of them.
        roads: Option<usize>,
    },
    /// As `Failover`; and if no acknowledgement has come within the time in which 95 of 100 come, a copy by the second road.
    Hedged {
        /// Bytes of copies for each byte of first attempts, in thousandths. 100 is a tenth.
        budget_permille: u16,
    },
}

impl Policy {
    /// Hedged, with copies of up to a tenth of the traffic.
    pub const HEDGED: Self = Self::Hedged { budget_permille: 100 };

    /// A short, stable, lowercase name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Failover => "failover",
            Self::FanOut { .. } => "fan-out",
            Self::Hedged { .. } => "hedged",
        }
    }
}

/// A policy and the roads it may use, in order of preference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The policy.
    pub policy: Policy,
    /// Names of roads, best first. Empty is all of the router's roads, in its order.
    pub order: Vec<Arc<str>>,
}

/// Which messages a rule is for. What is `None` or empty matches every message; what is there must match.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Match {
    /// The destination is one of these agents. A broadcast is for nobody of them.
    pub destinations: Vec<AgentId>,
    /// It is (not) for everyone.
    pub broadcast: Option<bool>,
    /// The performative is one of these.
    pub performatives: Vec<Performative>,
    /// The level.
    pub level: Option<Level>,
    /// The delivery class.
    pub delivery: Option<Delivery>,
    /// The body has at least so many bytes.
    pub at_least_bytes: Option<usize>,
    /// The body has at most so many bytes.
    pub at_most_bytes: Option<usize>,
}

impl Match {
    /// Whether a message with this header and so many bytes is meant.
    pub fn matches(&self, header: &Header, size: usize) -> bool {
        let destination = match &header.destination {
            Destination::Agent(agent) => self.destinations.is_empty() || self.destinations.contains(agent),
            Destination::Everyone => self.destinations.is_empty(),
        };
        let broadcast = header.destination == Destination::Everyone;
        let performative = self.performatives.is_empty()
            || header
                .performative
                .as_ref()
                .is_some_and(|found| self.performatives.contains(found));
        destination
            && performative
            && self.broadcast.is_none_or(|wanted| wanted == broadcast)
            && self.level.is_none_or(|level| level == header.level)
            && self.delivery.is_none_or(|delivery| delivery == header.delivery)
            && self.at_least_bytes.is_none_or(|bytes| size >= bytes)
            && self.at_most_bytes.is_none_or(|bytes| size <= bytes)
    }
}

/// Sends some messages by another plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// A name for people: `config check` says which rule decides.
    pub name: String,
    /// For which messages.
    pub matches: Match,
    /// How they travel.
    pub plan: Plan,
}

/// The first rule that matches decides; without one, the default plan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Asked in order.
    pub rules: Vec<Rule>,
    /// For all that no rule is for.
    pub default: Plan,
}

impl Rules {
    /// No rules: everything by this policy over all roads.
    pub fn only(policy: Policy) -> Self {
        Self {
            rules: Vec::new(),
            default: Plan {
                policy,
                order: Vec::new(),
            },
        }
    }

    /// Which rule a message falls under: 0 is none of them, n the n-th.
    pub fn class_of(&self, header: &Header, size: usize) -> Class {
        let found = self
            .rules
            .iter()
            .position(|rule| rule.matches.matches(header, size));
        // There are never so many: `Router::new` refuses them.
        Class(found.map_or(0, |at| u16::try_from(at + 1).unwrap_or(0)))
    }

    /// What a class stands for.
    pub fn plan(&self, class: Class) -> &Plan {
        match usize::from(class.0) {
            0 => &self.default,
            number => self
                .rules
                .get(number - 1)
                .map_or(&self.default, |rule| &rule.plan),
        }
    }

    /// The rule of a class; `None` is the default.
    pub fn rule(&self, class: Class) -> Option<&Rule> {
        usize::from(class.0)
            .checked_sub(1)
            .and_then(|at| self.rules.get(at))
    }
}
