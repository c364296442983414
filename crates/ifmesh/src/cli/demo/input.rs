//! What the demo sends: a file of messages, checked line by line before anything is started.

use std::{collections::BTreeMap, fs, path::Path};

use ifmesh::{AgentId, Destination};
use ifmsg::canonical::Limits;
use serde_json::Value;

use crate::cli::{Failure, lines};

const BUILT_IN: &str = include_str!("../../../../../examples/messages.ndjson");

/// Most errors that are shown; the rest is counted.
const SHOWN_ERRORS: usize = 20;

/// Agents, and every message that is to be sent.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) agents: Vec<AgentId>,
    pub(super) items: Vec<Item>,
}

/// One message to send.
#[derive(Debug)]
pub(super) struct Item {
    /// Its id, unique in the whole demo.
    pub(super) id: String,
    pub(super) source: usize,
    /// Whom it must reach.
    pub(super) recipients: Vec<usize>,
    /// The line that its source is given.
    pub(super) line: String,
}

/// A line of the input that was found good.
struct Message {
    source: AgentId,
    destination: Destination,
    members: serde_json::Map<String, Value>,
}

impl Plan {
    /// Reads a file, or the built-in messages; refuses all of it if any line is bad, and says which and why.
    pub(super) fn read(file: Option<&Path>, agents: Option<usize>, repeat: u32) -> Result<Self, Failure> {
        let text = match file {
            Some(path) => fs::read_to_string(path)
                .map_err(|error| Failure::usage(format!("cannot read {}: {error}", path.display())))?,
            None => BUILT_IN.to_owned(),
        };
        let name = file.map_or_else(
            || "the built-in input".to_owned(),
            |path| path.display().to_string(),
        );
        let (mut messages, mut errors) = read_messages(&text);
        let mut names = names_in_order(messages.iter().map(|(_, message)| message));
        let wanted = agents.unwrap_or(names.len()).max(2);
        if names.len() > wanted && file.is_none() {
            // Ours: leave out what names agents that are not there.
            names.truncate(wanted);
            messages.retain(|(_, message)| message.agents().all(|agent| names.contains(agent)));
        }
        for (number, message) in &messages {
            let stranger = message
                .agents()
                .find(|agent| !names[..names.len().min(wanted)].contains(agent));
            if let Some(stranger) = stranger {
                errors.push((*number, format!("{stranger} is not among the first {wanted} agents that the input names (--agents {wanted})")));
            }
        }
        if !errors.is_empty() {
            return Err(Failure::usage(describe(&name, errors)));
        }
        if messages.is_empty() {
            return Err(Failure::usage(format!("{name}: there is no message in it")));
        }
        let mut number = 0;
        while names.len() < wanted {
            number += 1;
            let agent = AgentId::new(format!("agent-{number}")).map_err(Failure::usage)?;
            if !names.contains(&agent) {
                names.push(agent);
            }
        }
        Self::unroll(names, messages, repeat)
    }

    fn unroll(agents: Vec<AgentId>, messages: Vec<(usize, Message)>, repeat: u32) -> Result<Self, Failure> {
        let index: BTreeMap<AgentId, usize> = agents.iter().cloned().zip(0..).collect();
        let mut items = Vec::with_capacity(messages.len() * repeat as usize);
        for round in 0..repeat {
            for (number, message) in &messages {
                let source = index[&message.source];
                let recipients = match &message.destination {
                    Destination::Agent(agent) => vec![index[agent]],
                    Destination::Everyone => (0..agents.len()).filter(|agent| *agent != source).collect(),
                };
                // One id for each sending, known before it is sent: the key to its account, and to sending it again.
                let id = format!("demo-{}-{number}", round + 1);
                let mut members = message.members.clone();
                members.insert("id".to_owned(), id.clone().into());
                items.push(Item {
                    id,
                    source,
                    recipients,
                    line: Value::Object(members).to_string(),
                });
            }
        }
        Ok(Self { agents, items })
    }

    pub(super) fn pairs(&self) -> usize {
        self.agents.len() * (self.agents.len() - 1) / 2
    }
}

impl Message {
    fn agents(&self) -> impl Iterator<Item = &AgentId> {
        let destination = match &self.destination {
            Destination::Agent(agent) => Some(agent),
            Destination::Everyone => None,
        };
        std::iter::once(&self.source).chain(destination)
    }
}

type Errors = Vec<(usize, String)>;

fn read_messages(text: &str) -> (Vec<(usize, Message)>, Errors) {
    let (mut messages, mut errors) = (Vec::new(), Vec::new());
    let mut ids: BTreeMap<String, usize> = BTreeMap::new();
    for (index, line) in text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
    {
        let number = index + 1;
        match read_message(line) {
            Ok(message) => {
                let id = message
                    .members
                    .get("id")
                    .and_then(Value::as_str)
                    .map(str::to_owned);
                if let Some(former) = id.and_then(|id| ids.insert(id, number)) {
                    errors.push((number, format!("its id stands on line {former} already")));
                    continue;
                }
                messages.push((number, message));
            }
            Err(error) => errors.push((number, error)),
        }
    }
    (messages, errors)
}

fn read_message(line: &str) -> Result<Message, String> {
    let checked = lines::read(line, &Limits::default())?;
    let source = checked
        .source
        .ok_or("source is missing: the agent that is to send it")?;
    let destination = checked.draft.destination().clone();
    if destination == Destination::Agent(source.clone()) {
        return Err(format!("{source} would send to itself"));
    }
    // It was read strictly above.
    let members = serde_json::from_str(line).map_err(|error| error.to_string())?;
    Ok(Message {
        source,
        destination,
        members,
    })
}

fn names_in_order<'a>(messages: impl Iterator<Item = &'a Message>) -> Vec<AgentId> {
    let mut names: Vec<AgentId> = Vec::new();
    for agent in messages.flat_map(Message::agents) {
        if !names.contains(agent) {
            names.push(agent.clone());
        }
    }
    names
}

fn describe(name: &str, mut errors: Errors) -> String {
    errors.sort();
    let (count, more) = (errors.len(), errors.len().saturating_sub(SHOWN_ERRORS));
    let shown = errors.iter().take(SHOWN_ERRORS);
    let lines: String = shown
        .map(|(number, error)| format!("\n  line {number}: {error}"))
        .collect();
    let rest = if more > 0 {
        format!("\n  and {more} more")
    } else {
        String::new()
    };
    format!("{name}: {count} lines are refused, and nothing was started:{lines}{rest}")
}
