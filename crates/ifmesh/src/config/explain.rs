//! What would happen to a message, in plain words: `ifmesh config check`.

use std::fmt;

use ifmesh_transport::{Plan, Policy, Rule};
use ifmsg::{Delivery, Draft, Stamp, Timestamp};

use super::Config;

/// A message that is asked about: a draft says all that rules look at.
pub type MessageKind = Draft;

/// What would happen to a message.
#[derive(Debug)]
pub struct Explanation<'a> {
    config: &'a Config,
    plan: &'a Plan,
    rule: Option<&'a Rule>,
    delivery: Delivery,
    bytes: usize,
    trusted: Option<bool>,
}

impl Config {
    /// What would happen to this message.
    ///
    /// # Errors
    /// If it is no message.
    pub fn explain(&self, draft: MessageKind) -> Result<Explanation<'_>, ifmsg::DraftError> {
        let delivery = draft.delivery_class();
        let trusted = match draft.destination() {
            ifmsg::Destination::Agent(agent) => Some(self.trust.binding(agent).is_some()),
            ifmsg::Destination::Everyone => None,
        };
        let stamp = Stamp {
            id: ifmsg::MessageId::of_numbers(1, 1),
            source: self.agent.clone(),
            timestamp: Timestamp::from_unix_millis(0),
            epoch: 1,
            sequence: 1,
        };
        let message = draft.stamp(stamp, &self.limits.message)?;
        let bytes = message.body().len();
        let rules = &self.router.rules;
        let class = rules.class_of(message.header(), bytes);
        Ok(Explanation {
            config: self,
            plan: rules.plan(class),
            rule: rules.rule(class),
            delivery,
            bytes,
            trusted,
        })
    }
}

impl fmt::Display for Explanation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<&str> = self.config.transports.iter().map(|table| &*table.name).collect();
        let order: Vec<&str> = if self.plan.order.is_empty() {
            all
        } else {
            self.plan.order.iter().map(|name| &**name).collect()
        };
        match self.trusted {
            Some(true) => writeln!(f, "The destination's key is known.")?,
            Some(false) => writeln!(
                f,
                "No key is known for the destination: unless the trust policy learns one, it is refused."
            )?,
            None => writeln!(f, "It goes to every peer, to each by whichever road leads there.")?,
        }
        match self.rule {
            Some(rule) => writeln!(f, "Rule {:?} decides.", rule.name)?,
            None => writeln!(f, "No rule matches; the router's own policy decides.")?,
        }
        match (self.plan.policy, &order[..]) {
            (_, [only]) => writeln!(f, "It goes by {only}; there is no other road.")?,
            (Policy::FanOut { roads }, _) => {
                let count = roads.unwrap_or(order.len()).min(order.len());
                writeln!(
                    f,
                    "Fan-out: a copy goes by each of the first {count} of {} that are up; the first to arrive counts.",
                    order.join(", ")
                )?;
            }
            (Policy::Hedged { budget_permille }, [first, ..]) => writeln!(
                f,
                "Hedged: it goes by {first}; if no acknowledgement comes in the time in which 95 of 100 come, a copy goes by the next of {}, as long as copies stay under {} % of the traffic.",
                order.join(", "),
                f64::from(budget_permille) / 10.0
            )?,
            (_, [first, rest @ ..]) => writeln!(
                f,
                "Failover: it goes by {first} while that is up, else by the first that is up of {}.",
                rest.join(", ")
            )?,
            (_, []) => writeln!(f, "There is no road.")?,
        }
        match self.delivery {
            Delivery::Reliable => write!(
                f,
                "Reliable: of its {} bytes nothing is lost; it is sent again, by another road than before, until the peer has taken it, it expires, or is refused.",
                self.bytes
            ),
            Delivery::BestEffort => write!(
                f,
                "Best effort: its {} bytes are sent once, and dropped if there is no room.",
                self.bytes
            ),
        }
    }
}
