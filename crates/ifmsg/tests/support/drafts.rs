//! Any message that can be made: strategies for drafts, and what a receiver must read out of them.
#![allow(dead_code, reason = "each test binary uses its own part")]

use ifmsg::{
    AgentId, Delivery, Destination, Draft, Level, MessageId, Performative, Stamp, Timestamp, TraceId,
    UnsignedMessage, canonical::Limits,
};
use proptest::{collection, option, prelude::*, sample};
use serde_json::{Map, Number, Value};

use crate::world::{NOW_MILLIS, id};

/// A draft and its stamp, field by field, so that what is read can be compared with what was meant.
#[derive(Debug, Clone)]
pub(crate) struct Meant {
    pub(crate) id: MessageId,
    pub(crate) timestamp: Timestamp,
    pub(crate) level: Level,
    pub(crate) destination: Destination,
    pub(crate) performative: Option<Performative>,
    pub(crate) conversation_id: Option<MessageId>,
    pub(crate) in_reply_to: Option<MessageId>,
    pub(crate) trace_id: Option<TraceId>,
    pub(crate) citation_ids: Vec<String>,
    pub(crate) delivery: Delivery,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) payload: Map<String, Value>,
    pub(crate) extensions: Vec<(String, Value)>,
}

impl Meant {
    /// Alice's message to Bob or to everyone.
    pub(crate) fn unsigned(&self, epoch: u64, sequence: u64) -> UnsignedMessage {
        let mut draft = Draft::new(self.destination.clone(), Value::Object(self.payload.clone()))
            .level(self.level)
            .delivery(self.delivery);
        if let Some(performative) = &self.performative {
            draft = draft.performative(performative.clone());
        }
        if let Some(id) = &self.conversation_id {
            draft = draft.conversation(id.clone());
        }
        if let Some(id) = &self.in_reply_to {
            draft = draft.in_reply_to(id.clone());
        }
        if let Some(id) = self.trace_id {
            draft = draft.trace(id);
        }
        for uri in &self.citation_ids {
            draft = draft.citation(uri);
        }
        if let Some(at) = self.expires {
            draft = draft.expires(at);
        }
        for (name, value) in &self.extensions {
            draft = draft.extension(name, value.clone());
        }
        let stamp = Stamp {
            id: self.id.clone(),
            source: id("alice"),
            timestamp: self.timestamp,
            epoch,
            sequence,
        };
        draft.stamp(stamp, &Limits::default()).expect("a message")
    }
}

prop_compose! {
    pub(crate) fn meant()(
        (id, timestamp, level, destination, performative) in (message_id(), near_now(), level(), destination(), option::of(performative())),
        (conversation_id, in_reply_to, trace_id) in (option::of(message_id()), option::of(message_id()), option::of(any::<[u8; 12]>())),
        citation_ids in collection::vec("if://citation/[ -~äé€😀]{1,40}", 0..3),
        (delivery, expires) in (delivery(), option::of(1i64..1_000_000)),
        payload in collection::btree_map(name(), value(), 0..6),
        extensions in collection::btree_map("x_[A-Za-z0-9._:/@+-]{1,20}", value(), 0..3),
    ) -> Meant {
        Meant {
            id,
            timestamp,
            level,
            destination,
            performative,
            conversation_id,
            in_reply_to,
            trace_id: trace_id.map(TraceId::from_bytes),
            citation_ids,
            delivery,
            expires: expires.map(|millis| Timestamp::from_unix_millis(NOW_MILLIS + millis)),
            payload: payload.into_iter().collect(),
            extensions: extensions.into_iter().collect(),
        }
    }
}

fn message_id() -> impl Strategy<Value = MessageId> {
    "[A-Za-z0-9._:/@+-]{1,128}".prop_map(|text| MessageId::new(text).expect("an id"))
}

fn near_now() -> impl Strategy<Value = Timestamp> {
    (-300_000i64..=300_000).prop_map(|millis| Timestamp::from_unix_millis(NOW_MILLIS + millis))
}

fn level() -> impl Strategy<Value = Level> {
    sample::select(vec![Level::Function, Level::Module])
}

fn delivery() -> impl Strategy<Value = Delivery> {
    sample::select(vec![Delivery::Reliable, Delivery::BestEffort])
}

fn destination() -> impl Strategy<Value = Destination> {
    sample::select(vec![
        Destination::Agent(AgentId::new("bob").expect("an id")),
        Destination::Everyone,
    ])
}

fn performative() -> impl Strategy<Value = Performative> {
    prop_oneof![
        sample::select(Performative::FIPA.to_vec()),
        "x-[A-Za-z0-9._:/@+-]{1,30}".prop_map(|name| Performative::new(&name).expect("an act")),
    ]
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{0,8}", "\\PC{0,6}", any::<String>()]
}

/// Any value that has a canonical form, doubles of every size among them.
pub(crate) fn value() -> impl Strategy<Value = Value> {
    let safe = (1i64 << 53) - 1;
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-safe..=safe).prop_map(Value::from),
        any::<f64>()
            .prop_filter("no canonical form", |double| {
                double.is_finite() && !(9_007_199_254_740_992.0..1e21).contains(&double.abs())
            })
            .prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "\\PC{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 6, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            collection::btree_map(name(), inner, 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

/// Equal to the last bit; `1.0` and `1` are one number, as are `-0` and `0`.
pub(crate) fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => Number::as_f64(a) == Number::as_f64(b),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(name, a)| b.get(name).is_some_and(|b| same(a, b)))
        }
        (a, b) => a == b,
    }
}

/// The same document in another spelling: members in any order, whitespace, escapes, `1` as `1.0`.
pub(crate) fn respell(value: &Value, mut seed: u64) -> String {
    let mut out = String::new();
    write_spelled(value, &mut out, &mut seed);
    out
}

fn write_spelled(value: &Value, out: &mut String, seed: &mut u64) {
    space(out, seed);
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            for at in (1..members.len()).rev() {
                members.swap(at, dice(seed, at as u64 + 1) as usize);
            }
            out.push('{');
            for (n, (name, value)) in members.into_iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                space(out, seed);
                write_text(name, out, seed);
                space(out, seed);
                out.push(':');
                write_spelled(value, out, seed);
            }
            space(out, seed);
            out.push('}');
        }
        Value::Array(elements) => {
            out.push('[');
            for (n, value) in elements.iter().enumerate() {
                if n > 0 {
                    out.push(',');
                }
                write_spelled(value, out, seed);
            }
            space(out, seed);
            out.push(']');
        }
        Value::String(text) => write_text(text, out, seed),
        Value::Number(number) if (number.is_i64() || number.is_u64()) && dice(seed, 3) == 0 => {
            out.push_str(&format!("{number}.0"));
        }
        other => out.push_str(&other.to_string()),
    }
    space(out, seed);
}

fn write_text(text: &str, out: &mut String, seed: &mut u64) {
    out.push('"');
    for char in text.chars() {
        if dice(seed, 5) == 0 || char < ' ' || char == '"' || char == '\\' {
            for unit in char.encode_utf16(&mut [0; 2]) {
                out.push_str(&format!("\\u{unit:04X}"));
            }
        } else {
            out.push(char);
        }
    }
    out.push('"');
}

fn space(out: &mut String, seed: &mut u64) {
    if let Some(space) = [" ", "\n", "\t", "\r\n"].get(dice(seed, 12) as usize) {
        out.push_str(space);
    }
}

/// xorshift64: repeatable, and good enough to spell with.
fn dice(seed: &mut u64, sides: u64) -> u64 {
    *seed = (*seed).max(1);
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    *seed % sides
}
