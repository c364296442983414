//! A message as a person or a program writes it on a line: the draft's members, without number, date and signature.

use std::collections::BTreeMap;

use ifmsg::{
    AgentId, Delivery, Destination, Draft, InvalidId, Level, MessageId, Performative, Stamp, Timestamp,
    TraceId,
    canonical::{self, Limits},
};
use serde::Deserialize;
use serde_json::Value;

/// One input line, read and checked.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    /// Who is to send it, where the line says so.
    pub(crate) source: Option<AgentId>,
    /// The message.
    pub(crate) draft: Draft,
}

/// The members of an input line. Those of an IFMessage keep their names.
#[derive(Debug, Deserialize)]
struct Members {
    source: Option<String>,
    #[serde(alias = "to")]
    destination: String,
    payload: Value,
    id: Option<String>,
    level: Option<u8>,
    performative: Option<String>,
    conversation_id: Option<String>,
    in_reply_to: Option<String>,
    #[serde(rename = "traceId")]
    trace_id: Option<String>,
    citation_ids: Option<Vec<String>>,
    delivery: Option<String>,
    expires: Option<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, Value>,
}

/// Reads a line. The error says what to mend.
pub(crate) fn read(line: &str, limits: &Limits) -> Result<Line, String> {
    // Strict JSON first: duplicate members, lone surrogates, numbers that would be rounded.
    let text = canonical::canonicalise(line.as_bytes(), limits)
        .map_err(|error| format!("not JSON that can be signed: {error}"))?;
    let members: Members = serde_json::from_slice(&text).map_err(|error| plain(&error))?;
    let line = members.into_line()?;
    // The session would refuse the same draft later: better now, before anything is started.
    let source = line
        .source
        .clone()
        .map_or_else(|| AgentId::new("nobody"), Ok)
        .map_err(|error| error.to_string())?;
    let stamp = Stamp {
        id: MessageId::of_numbers(0, 0),
        source,
        timestamp: Timestamp::from_unix_millis(0),
        epoch: 0,
        sequence: 1,
    };
    line.draft
        .clone()
        .stamp(stamp, limits)
        .map_err(|error| error.to_string())?;
    Ok(line)
}

/// serde's message without "at line 1 column 23": the caller knows the line, and the columns are the canonical form's.
fn plain(error: &serde_json::Error) -> String {
    let text = error.to_string();
    text.split(" at line ").next().unwrap_or_default().to_owned()
}

impl Members {
    fn into_line(self) -> Result<Line, String> {
        let id = |name: &'static str| move |error: InvalidId| format!("{name}: {error}");
        let source = self
            .source
            .map(|text| AgentId::new(text).map_err(id("source")))
            .transpose()?;
        let destination = Destination::new(&self.destination).map_err(id("destination"))?;
        let mut draft = Draft::new(destination, self.payload);
        if let Some(text) = self.id {
            draft = draft.id(MessageId::new(text).map_err(id("id"))?);
        }
        draft = match self.level {
            None | Some(1) => draft,
            Some(2) => draft.level(Level::Module),
            Some(_) => return Err("level: 1 or 2 is needed".to_owned()),
        };
        if let Some(text) = self.performative {
            draft = draft
                .performative(Performative::new(&text).map_err(|error| format!("performative: {error}"))?);
        }
        if let Some(text) = self.conversation_id {
            draft = draft.conversation(MessageId::new(text).map_err(id("conversation_id"))?);
        }
        if let Some(text) = self.in_reply_to {
            draft = draft.in_reply_to(MessageId::new(text).map_err(id("in_reply_to"))?);
        }
        if let Some(text) = self.trace_id {
            let trace =
                TraceId::from_hex(&text).ok_or("traceId: 24 lowercase hexadecimal digits are needed")?;
            draft = draft.trace(trace);
        }
        for citation in self.citation_ids.into_iter().flatten() {
            draft = draft.citation(citation);
        }
        draft = match self.delivery.as_deref() {
            None | Some("reliable") => draft,
            Some("best-effort") => draft.delivery(Delivery::BestEffort),
            Some(_) => return Err("delivery: \"reliable\" or \"best-effort\" is needed".to_owned()),
        };
        if let Some(text) = self.expires {
            draft = draft.expires(Timestamp::parse(&text).map_err(|error| format!("expires: {error}"))?);
        }
        for (name, value) in self.rest {
            if !name.starts_with("x_") {
                return Err(format!(
                    "member {name:?} is not known; a line has source, destination, payload, id, level, performative, \
                     conversation_id, in_reply_to, traceId, citation_ids, delivery, expires and x_ extensions"
                ));
            }
            draft = draft.extension(name, value);
        }
        Ok(Line { source, draft })
    }
}
