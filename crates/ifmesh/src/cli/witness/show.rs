use std::{
    collections::BTreeSet,
    fs::File,
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use ifmesh::{AgentId, Timestamp};
use ifmesh_witness::{Detail, Event, MAX_LINE, Record};
use ifmsg::TraceId;

use super::{logs::no_log_in, say};
use crate::cli::{Failure, exit};

/// How often a log that is followed is looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// Print the records of a log, as they stand. Does not verify it: `ifmesh witness verify` does.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ifmesh witness show logs/agent-finance --event ifmessage_rejected --event key_refused
  ifmesh witness show logs/agent-finance --peer agent-legal --after 2026-11-22T12:00:00.000Z --json
  ifmesh witness show logs/agent-finance --conversation settle-1 --follow

Exit codes: 0 shown, 2 a flag or a file is wrong.")]
pub(super) struct Show {
    /// The log's folder.
    dir: PathBuf,
    /// Only this event; may be repeated.
    #[arg(long, value_parser = event)]
    event: Vec<Event>,
    /// Only records about this peer.
    #[arg(long, value_parser = |text: &str| AgentId::new(text))]
    peer: Option<AgentId>,
    /// Only this trace, 24 hexadecimal digits.
    #[arg(long, value_parser = trace)]
    trace: Option<TraceId>,
    /// Only messages of this conversation, and what became of them.
    #[arg(long)]
    conversation: Option<String>,
    /// Only from this time on, such as 2026-11-22T12:00:00.000Z.
    #[arg(long, value_parser = |text: &str| Timestamp::parse(text))]
    after: Option<Timestamp>,
    /// Only before this time.
    #[arg(long, value_parser = |text: &str| Timestamp::parse(text))]
    before: Option<Timestamp>,
    /// Go on as the log grows, until Ctrl-C.
    #[arg(long)]
    follow: bool,
    /// Print each record in JSON: the line as it is in the log; of one that is about several messages, one record for each.
    #[arg(long)]
    json: bool,
}

impl Show {
    pub(super) async fn run(self) -> Result<u8, Failure> {
        let mut reader = Reader::new(&self.dir)?;
        let mut filter = Filter {
            show: &self,
            digests: BTreeSet::new(),
        };
        let end = exit::asked_to_end();
        tokio::pin!(end);
        loop {
            while let Some(line) = reader.next()? {
                let record = Record::parse(line.as_bytes()).map_err(|error| {
                    Failure::usage(format!(
                        "{}: {error}; see `ifmesh witness verify`",
                        reader.place()
                    ))
                })?;
                for part in record.each() {
                    if filter.wants(&part) {
                        say(if self.json { part.to_line() } else { human(&part) });
                    }
                }
            }
            if !self.follow {
                return Ok(exit::DONE);
            }
            tokio::select! {
                () = &mut end => return Ok(exit::DONE),
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }
}

struct Filter<'a> {
    show: &'a Show,
    /// Messages of the conversation, so that what became of them is shown too.
    digests: BTreeSet<[u8; 32]>,
}

impl Filter<'_> {
    fn wants(&mut self, record: &Record) -> bool {
        let show = self.show;
        if let Some(wanted) = &show.conversation {
            let named =
                matches!(record.metadata.get("conversation"), Some(Detail::Text(text)) if **text == **wanted);
            let digest = record.digest.map(|digest| *digest.as_bytes());
            if named {
                self.digests.extend(digest);
            }
            if !named && !digest.is_some_and(|digest| self.digests.contains(&digest)) {
                return false;
            }
        }
        (show.event.is_empty() || show.event.contains(&record.event))
            && show
                .peer
                .as_ref()
                .is_none_or(|peer| record.peer.as_ref() == Some(peer))
            && show.trace.is_none_or(|trace| record.trace == trace)
            && show.after.is_none_or(|after| record.timestamp >= after)
            && show.before.is_none_or(|before| record.timestamp < before)
    }
}

/// A record for people.
pub(super) fn human(record: &Record) -> String {
    use std::fmt::Write as _;
    let mut text = format!("{} {:>7} {:<22}", record.timestamp, record.seq, record.event);
    if let Some(peer) = &record.peer {
        let _ = write!(text, " {peer}");
    }
    if let Some(transport) = &record.transport {
        let _ = write!(text, " by {}", transport.escape_debug());
    }
    for (name, value) in &record.metadata {
        let _ = match value {
            Detail::Number(number) => write!(text, " {name}={number}"),
            // What peers wrote must not move the cursor.
            Detail::Text(value) => write!(text, " {name}={}", value.escape_debug()),
            _ => Ok(()),
        };
    }
    if let Some(digest) = &record.digest {
        let _ = write!(text, " sha256:{}", digest.to_hex());
    }
    if let Some(hash) = &record.sdp_hash {
        let _ = write!(text, " sdp:{}", ifmsg::hex::encode(hash));
    }
    text
}

/// Reads whole lines, segment by segment, and goes on when there are more.
struct Reader {
    dir: PathBuf,
    segment: u32,
    line: u64,
    file: Option<BufReader<File>>,
    part: Vec<u8>,
}

impl Reader {
    fn new(dir: &Path) -> Result<Self, Failure> {
        let mut reader = Self {
            dir: dir.to_owned(),
            segment: 0,
            line: 0,
            file: None,
            part: Vec::new(),
        };
        reader.file = reader.open(0);
        if reader.file.is_none() {
            return Err(no_log_in(dir));
        }
        Ok(reader)
    }

    fn open(&self, segment: u32) -> Option<BufReader<File>> {
        let path = self.dir.join(format!("{segment:08}.jsonl"));
        File::open(path).ok().map(BufReader::new)
    }

    fn place(&self) -> String {
        format!(
            "{}: segment {:08}, line {}",
            self.dir.display(),
            self.segment,
            self.line
        )
    }

    /// The next whole line; `None` if there is none yet.
    fn next(&mut self) -> Result<Option<String>, Failure> {
        loop {
            let Some(file) = &mut self.file else {
                return Ok(None);
            };
            let read = file
                .read_until(b'\n', &mut self.part)
                .map_err(|error| super::logs::cannot_read(&self.dir, &error))?;
            if self.part.pop_if(|byte| *byte == b'\n').is_some() {
                self.line += 1;
                let line = String::from_utf8_lossy(&self.part).into_owned();
                self.part.clear();
                return Ok(Some(line));
            }
            if self.part.len() > MAX_LINE {
                return Err(Failure::usage(format!("{}: a line without end", self.place())));
            }
            // A segment is closed before the next begins, so nothing more comes to this one.
            match self.open(self.segment + 1) {
                Some(next) if read == 0 => {
                    (self.segment, self.line, self.file) = (self.segment + 1, 0, Some(next));
                }
                Some(_) => {}
                None => return Ok(None),
            }
        }
    }
}

fn event(name: &str) -> Result<Event, String> {
    Event::from_name(name).ok_or_else(|| {
        let names: Vec<&str> = Event::ALL.iter().map(|event| event.name()).collect();
        format!("one of {} is needed", names.join(", "))
    })
}

fn trace(text: &str) -> Result<TraceId, String> {
    TraceId::from_hex(text).ok_or_else(|| "24 lowercase hexadecimal digits are needed".to_owned())
}
