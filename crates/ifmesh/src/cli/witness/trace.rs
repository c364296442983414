use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    path::PathBuf,
};

use clap::Args;
use ifmesh_witness::{Detail, Event, Record, read};
use serde_json::{Value, json};

use super::{
    logs::{FoundLog, Keys},
    say,
    show::human,
};
use crate::cli::{Failure, exit, print_json};

/// Join several agents' logs into the one story of a conversation, causes before effects, and say what one side claims and the
/// other lacks.
///
/// Each log is verified first. Order: within a log as recorded; a message is sent before it is received, and received before it
/// is acknowledged; clocks decide only between events that did not influence each other.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ifmesh witness trace settle-1 logs
  ifmesh witness trace settle-1 a/witness b/witness --trust swarm/trust.toml --json

Exit codes: 0 both sides of everything are there, 1 a side is missing or a log does not verify, 2 a flag or a file is wrong.")]
pub(super) struct Trace {
    /// The conversation's id.
    conversation: String,
    /// The logs' folders, or folders that hold several.
    #[arg(required = true)]
    dirs: Vec<PathBuf>,
    #[command(flatten)]
    keys: Keys,
    /// Print one JSON object for each event, then one for each thing that is missing.
    #[arg(long)]
    json: bool,
}

impl Trace {
    pub(super) fn run(self) -> Result<u8, Failure> {
        let mut logs = Vec::new();
        for dir in &self.dirs {
            logs.extend(self.keys.logs(dir)?);
        }
        let mut sides = Vec::new();
        for log in &logs {
            sides.push(self.read(log)?);
        }
        let story = Story::tell(&sides);
        for record in &story.records {
            if self.json {
                print_json(&to_json(record));
            } else {
                say(format_args!("{:<16} {}", record.agent, human(record)));
            }
        }
        for missing in &story.missing {
            if self.json {
                print_json(&json!({ "missing": missing }));
            } else {
                say(format_args!("MISSING: {missing}"));
            }
        }
        if story.records.is_empty() {
            return Err(Failure::not_all_well(format!(
                "no log here knows of conversation {:?}",
                self.conversation
            )));
        }
        Ok(if story.missing.is_empty() {
            exit::DONE
        } else {
            exit::NOT_ALL_WELL
        })
    }

    /// The records of the conversation, and those about its messages.
    fn read(&self, log: &FoundLog) -> Result<Vec<Record>, Failure> {
        let (mut digests, mut found) = (BTreeSet::new(), Vec::new());
        read(&log.dir, &log.keys, |record| {
            let named = text(record, "conversation") == Some(&self.conversation);
            let digest = record.digest.map(|digest| *digest.as_bytes());
            if named {
                digests.extend(digest);
            }
            if named || digest.is_some_and(|digest| digests.contains(&digest)) {
                found.push(record.clone());
            }
        })
        .map_err(|error| Failure::not_all_well(format!("{}: NOT as signed: {error}", log.dir.display())))?;
        Ok(found)
    }
}

/// A message, its sender and its receiver.
type Passage<'a> = ([u8; 32], &'a str, &'a str);

/// One story out of several logs.
struct Story {
    records: Vec<Record>,
    missing: Vec<String>,
}

impl Story {
    fn tell(sides: &[Vec<Record>]) -> Self {
        let agents: BTreeSet<&str> = sides
            .iter()
            .flat_map(|records| records.first())
            .map(|record| record.agent.as_str())
            .collect();
        let all: Vec<&Record> = sides.iter().flatten().collect();
        // By message, sender and receiver: where it was first sent, received and acknowledged.
        let mut steps: BTreeMap<Passage<'_>, [Option<usize>; 3]> = BTreeMap::new();
        let mut refused = BTreeSet::new();
        for (at, record) in all.iter().enumerate() {
            let (Some(digest), Some(peer)) = (record.digest, &record.peer) else {
                continue;
            };
            let (digest, me, peer) = (*digest.as_bytes(), record.agent.as_str(), peer.as_str());
            let (step, from, to) = match record.event {
                Event::IfmessageSent => (0, me, peer),
                Event::IfmessageReceived => (1, peer, me),
                Event::IfmessageAcknowledged => (2, me, peer),
                Event::IfmessageRejected | Event::IfmessageDropped | Event::IfmessageExpired => {
                    refused.insert((digest, peer, me));
                    refused.insert((digest, me, peer));
                    continue;
                }
                _ => continue,
            };
            steps.entry((digest, from, to)).or_default()[step].get_or_insert(at);
        }
        let (mut edges, mut missing) = (Vec::new(), Vec::new());
        for ((digest, from, to), [sent, received, acknowledged]) in &steps {
            edges.extend(sent.zip(*received));
            edges.extend(received.zip(*acknowledged));
            let id = sent
                .or(*received)
                .or(*acknowledged)
                .and_then(|at| text(all[at], "message_id"));
            let name = format!(
                "{} (sha256:{})",
                id.unwrap_or("a message"),
                ifmsg::hex::encode(digest)
            );
            let has = |agent: &str| agents.contains(agent);
            if received.is_none() && has(to) && !refused.contains(&(*digest, *from, *to)) {
                let claim = if acknowledged.is_some() {
                    "says was acknowledged by"
                } else {
                    "sent to"
                };
                missing.push(format!(
                    "{name}, which {from} {claim} {to}: the log of {to} did not receive it"
                ));
            }
            if received.is_some() && sent.is_none() && has(from) {
                missing.push(format!(
                    "{name}, which {to} received from {from}: the log of {from} did not send it"
                ));
            }
            for agent in [from, to].into_iter().filter(|agent| !has(agent)) {
                missing.push(format!(
                    "{name}, from {from} to {to}: there is no log of {agent} here"
                ));
            }
        }
        let mut at = 0;
        for records in sides {
            edges.extend((at + 1..at + records.len()).map(|next| (next - 1, next)));
            at += records.len();
        }
        let (order, tangled) = in_order(&all, &edges);
        if tangled {
            missing.push("an order: these logs contradict each other about what came first".to_owned());
        }
        Self {
            records: order.into_iter().map(|at| all[at].clone()).collect(),
            missing,
        }
    }
}

/// Causes before effects, the earlier timestamp first where neither is the other's cause. Whether that was impossible.
fn in_order(all: &[&Record], edges: &[(usize, usize)]) -> (Vec<usize>, bool) {
    let mut causes = vec![0u32; all.len()];
    let mut effects = vec![Vec::new(); all.len()];
    for (cause, effect) in edges {
        causes[*effect] += 1;
        effects[*cause].push(*effect);
    }
    let key = |at: usize| Reverse((all[at].timestamp, at));
    let mut ready: BinaryHeap<_> = (0..all.len()).filter(|at| causes[*at] == 0).map(key).collect();
    let mut order = Vec::with_capacity(all.len());
    while let Some(Reverse((_, at))) = ready.pop() {
        order.push(at);
        for effect in &effects[at] {
            causes[*effect] -= 1;
            if causes[*effect] == 0 {
                ready.push(key(*effect));
            }
        }
    }
    let tangled = order.len() < all.len();
    let mut rest: Vec<usize> = (0..all.len()).filter(|at| causes[*at] > 0).collect();
    rest.sort_by_key(|at| all[*at].timestamp);
    order.extend(rest);
    (order, tangled)
}

fn text<'a>(record: &'a Record, name: &str) -> Option<&'a str> {
    match record.metadata.get(name) {
        Some(Detail::Text(text)) => Some(text),
        _ => None,
    }
}

fn to_json(record: &Record) -> Value {
    json!({
        "agent": record.agent, "seq": record.seq, "timestamp": record.timestamp.to_string(),
        "event": record.event.name(), "peer": record.peer,
        "digest": record.digest.map(|digest| digest.to_hex()),
        "message_id": text(record, "message_id"), "reason": text(record, "reason"),
    })
}
