use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use ifmesh::{Backends, Config, Drill, Observer, Outcome, Receipt, Session, SessionEvent, Taken, WebRtc};
use ifmesh_transport::{LinkState, LinkStatus, Path, RoadStatus};
use ifmsg::canonical::Limits;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, BufWriter},
    sync::mpsc,
    task::JoinSet,
};

use super::{Failure, exit, lines};

/// Run an agent: lines of JSON in on standard input, lines of JSON out on standard output.
///
/// In, one message on each line: {"to":"agent-legal","payload":{...}}, and, if wanted, id, level, performative,
/// conversation_id, in_reply_to, traceId, citation_ids, delivery, expires and x_ extensions.
///
/// {"ask":"links"} asks how each peer is reached: the event links says for each whether it is direct or relayed, by which
/// two ends, its last round trip in microseconds, and since when.
///
/// Out, one event on each line: ready, peer-up, peer-down, road (which of several transports carries), message (the whole signed message, verified), accepted,
/// acknowledged, not-acknowledged, unconfirmed, line-refused, rejected, links, closed. A message is acknowledged to its sender once its
/// line has been written.
#[derive(Debug, Args)]
#[command(after_help = "\
Example:
  ifmesh agent --config swarm/agent-1.toml
  {\"to\":\"agent-2\",\"performative\":\"query-if\",\"payload\":{\"open\":true}}")]
pub(crate) struct Agent {
    /// The agent's file; `ifmesh init` writes one.
    #[arg(long)]
    config: PathBuf,
    /// End when standard input ends, once everything that was sent is acknowledged. Otherwise go on receiving.
    #[arg(long)]
    exit_at_eof: bool,
    /// Take lines that break the network on purpose, to rehearse failures: {"drill":"blackhole","transport":"webrtc","on":true} makes
    /// every WebRTC socket of this agent fall silent, without closing it.
    #[arg(long)]
    drills: bool,
}

impl Agent {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        let config = Config::from_file(&self.config).map_err(Failure::usage)?;
        let (linger, limits) = (config.linger, config.limits.message);
        let (output, lines) = output();
        let drill = self.drills.then(Drill::default);
        let backends = Backends::default().with("webrtc", WebRtc { drill: drill.clone() });
        let builder = ifmesh::Agent::builder(config).backends(backends);
        let agent = builder.observer(Arc::new(output.clone())).start().await?;
        let ready = json!({ "event": "ready", "agent": agent.id(), "pid": std::process::id() });
        output.line(ready).await;
        let console = Console {
            limits,
            linger,
            exit_at_eof: self.exit_at_eof,
            output,
            lines,
            drill,
        };
        let (input, to) = (BufReader::new(tokio::io::stdin()), tokio::io::stdout());
        let served = serve(agent.session(), console, input, to, exit::asked_to_end()).await;
        agent.close().await;
        served.map_err(|error| Failure::unavailable(format!("standard output: {error}")))?;
        // A read of standard input cannot be called off: do not wait for the next key.
        std::process::exit(exit::DONE.into());
    }
}

/// How an agent speaks in lines.
pub(crate) struct Console {
    pub(crate) limits: Limits,
    pub(crate) linger: Duration,
    pub(crate) exit_at_eof: bool,
    pub(crate) output: Output,
    pub(crate) lines: Lines,
    /// Breaks the network, where that is allowed.
    pub(crate) drill: Option<Drill>,
}

/// Serves a session over lines, until the input ends (if that is wanted), `end` comes, the session ends, or nobody reads the
/// output any more. The session is closed by then.
pub(crate) async fn serve(
    session: &Session,
    console: Console,
    input: impl AsyncBufRead + Unpin,
    to: impl AsyncWrite + Unpin,
    end: impl Future<Output = ()>,
) -> std::io::Result<()> {
    let Console {
        limits,
        linger,
        exit_at_eof,
        output,
        lines,
        drill,
    } = console;
    let dialogue = async move {
        let reading = async {
            read_lines(session, &limits, drill.as_ref(), input, &output).await;
            if !exit_at_eof {
                std::future::pending::<()>().await;
            }
        };
        let receiving = receive(session, &output);
        tokio::pin!(receiving);
        let session_ended = tokio::select! {
            () = reading => false,
            () = end => false,
            () = &mut receiving => true,
        };
        if !session_ended {
            // What comes while the last acknowledgements are on their way is received as well.
            tokio::join!(session.close(linger), receiving);
        }
        output.line(closed(session, &output)).await;
    };
    let writing = write_lines(lines, to);
    tokio::pin!(writing);
    tokio::select! {
        biased;
        written = &mut writing => written,
        // All handles of the output are gone once every outcome is told: then the writer ends as well.
        () = dialogue => writing.await,
    }
}

fn closed(session: &Session, output: &Output) -> Value {
    let metrics = session.metrics();
    json!({
        "event": "closed",
        "submitted": metrics.submitted,
        "received": metrics.received,
        "acknowledged": metrics.acknowledged,
        "resent": metrics.resent,
        "resent_to": *output.resent(),
        "duplicates": metrics.duplicates,
        "rejected": metrics.rejected,
        "dropped": metrics.dropped,
    })
}

async fn read_lines(
    session: &Session,
    limits: &Limits,
    drill: Option<&Drill>,
    mut input: impl AsyncBufRead + Unpin,
    output: &Output,
) {
    let mut outcomes = JoinSet::new();
    let mut number = 0u64;
    loop {
        let mut line = String::new();
        // A line that never ends must not fill the memory.
        let most = limits.max_bytes as u64 + 64 * 1024;
        let read = read_line(&mut input, &mut line, most).await;
        // Their number is bounded by the windows; those that are done are taken away.
        while outcomes.try_join_next().is_some() {}
        number += 1;
        let refused = match read {
            Ok(0) => break,
            Ok(_) if line.trim().is_empty() => continue,
            Ok(_) if is_question(&line) => {
                output.line(links(session)).await;
                continue;
            }
            Ok(_) if let (Some(drill), Some(on)) = (drill, drill_in(&line)) => {
                drill.blackhole(on);
                output
                    .line(json!({ "event": "drill", "transport": "webrtc", "on": on, "at_us": now_us() }))
                    .await;
                continue;
            }
            Ok(_) => {
                match lines::read(&line, limits) {
                    Ok(line) => match session.send(line.draft).await {
                        Ok(receipt) => {
                            let id = receipt.id().to_string();
                            output.line(json!({ "event": "accepted", "line": number, "id": id, "at_us": now_us() })).await;
                            outcomes.spawn(report_outcome(receipt, output.clone()));
                            continue;
                        }
                        Err(error) => error.to_string(),
                    },
                    Err(error) => error,
                }
            }
            Err(error) => {
                let _ = output
                    .line(json!({ "event": "line-refused", "line": number, "error": error.to_string() }))
                    .await;
                break;
            }
        };
        output
            .line(json!({ "event": "line-refused", "line": number, "error": refused }))
            .await;
    }
    // They end when the session does, at the latest.
    outcomes.detach_all();
}

/// Whether a line asks how peers are reached.
fn is_question(line: &str) -> bool {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Question {
        ask: String,
    }
    // Messages are far more common, and longer.
    line.len() < 64 && serde_json::from_str::<Question>(line).is_ok_and(|question| question.ask == "links")
}

/// Whether a line is a drill, and if so, whether sockets fall silent.
fn drill_in(line: &str) -> Option<bool> {
    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Line {
        drill: String,
        transport: String,
        on: bool,
    }
    let line: Line = (line.len() < 128).then(|| serde_json::from_str(line).ok())??;
    (line.drill == "blackhole" && line.transport == "webrtc").then_some(line.on)
}

/// How each peer is reached.
fn links(session: &Session) -> Value {
    let links: Vec<_> = session.transport().links().iter().map(link).collect();
    json!({ "event": "links", "links": links })
}

fn link(link: &LinkStatus) -> Value {
    json!({
        "peer": link.peer,
        "up": link.state == LinkState::Up,
        "path": link.path.map(Path::as_str),
        "local": link.local,
        "remote": link.remote,
        "round_trip_us": link.round_trip.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
        "since": link.since.map(|since| since.to_string()),
        "roads": link.roads.iter().map(road).collect::<Vec<_>>(),
    })
}

fn road(road: &RoadStatus) -> Value {
    json!({
        "road": &*road.road,
        "health": road.health.as_str(),
        "preferred": road.preferred,
        "up": road.link == LinkState::Up,
        "path": road.path.map(Path::as_str),
        "round_trip_us": road.round_trip.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX)),
    })
}

/// Reads a line of at most `most` bytes. Not cancel safe.
async fn read_line(
    input: &mut (impl AsyncBufRead + Unpin),
    line: &mut String,
    most: u64,
) -> std::io::Result<usize> {
    use tokio::io::AsyncReadExt as _;
    let read = input.take(most).read_line(line).await?;
    if read as u64 == most && !line.ends_with('\n') {
        return Err(std::io::Error::other(format!(
            "the line is longer than {most} bytes"
        )));
    }
    Ok(read)
}

async fn report_outcome(receipt: Receipt, output: Output) {
    let id = receipt.id().to_string();
    let outcomes = receipt.outcomes().await;
    let failed = outcomes
        .iter()
        .find(|(_, outcome)| *outcome != Outcome::Acknowledged);
    let event = match failed {
        None => json!({ "event": "acknowledged", "id": id, "by": outcomes.len() }),
        Some((_, Outcome::Unconfirmed)) => json!({ "event": "unconfirmed", "id": id }),
        Some((peer, outcome)) => {
            json!({ "event": "not-acknowledged", "id": id, "peer": peer, "outcome": outcome.to_string() })
        }
    };
    output.line(event).await;
}

async fn receive(session: &Session, output: &Output) {
    while let Some(taken) = session.next().await {
        output.message(taken).await;
    }
}

/// Where lines for the output are gathered. Cheap to clone; the last one to go ends the output.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    lines: mpsc::Sender<OutputLine>,
    /// Events of the session that found no room, since they must not block it.
    missed: Arc<AtomicU64>,
    /// Messages sent again, for each peer.
    resent: Arc<Mutex<BTreeMap<String, u64>>>,
}

pub(crate) type Lines = mpsc::Receiver<OutputLine>;

/// A line, and the message that is acknowledged once the line has been written.
#[derive(Debug)]
pub(crate) struct OutputLine {
    text: String,
    taken: Option<Taken>,
}

/// The two ends of an output.
pub(crate) fn output() -> (Output, Lines) {
    let (sender, receiver) = mpsc::channel(1_024);
    (
        Output {
            lines: sender,
            missed: Arc::default(),
            resent: Arc::default(),
        },
        receiver,
    )
}

impl Output {
    pub(crate) async fn line(&self, value: Value) {
        // If the writer is gone, so is whoever listened.
        let _ = self
            .lines
            .send(OutputLine {
                text: value.to_string(),
                taken: None,
            })
            .await;
    }

    async fn message(&self, taken: Taken) {
        let message = String::from_utf8_lossy(&taken.message().as_signed().to_json()).into_owned();
        // The message is canonical JSON already: it goes in as it is.
        let text = format!(
            "{{\"event\":\"message\",\"at_us\":{},\"message\":{message}}}",
            now_us()
        );
        let _ = self
            .lines
            .send(OutputLine {
                text,
                taken: Some(taken),
            })
            .await;
    }

    fn resent(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.resent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_line(&self, value: &Value) {
        if self
            .lines
            .try_send(OutputLine {
                text: value.to_string(),
                taken: None,
            })
            .is_err()
        {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Observer for Output {
    fn on_event(&self, event: &SessionEvent) {
        let value = match event {
            SessionEvent::PeerUp { peer, .. } => json!({ "event": "peer-up", "peer": peer }),
            SessionEvent::PeerDown { peer, reason } => {
                json!({ "event": "peer-down", "peer": peer, "reason": reason.as_str() })
            }
            // A second copy is no news: the first one was delivered.
            SessionEvent::Rejected { rejected }
                if matches!(
                    rejected.reason,
                    ifmsg::Rejection::Duplicate | ifmsg::Rejection::TooOld
                ) =>
            {
                return;
            }
            SessionEvent::Rejected { rejected } => json!({
                "event": "rejected",
                "reason": rejected.reason.name(),
                "claimed_source": rejected.header.source,
                "claimed_id": rejected.header.id,
            }),
            SessionEvent::Malformed { link, error } => {
                json!({ "event": "rejected", "reason": "malformed", "link": link, "detail": error.to_string() })
            }
            SessionEvent::TransportRefused { peer, reason, detail } => {
                json!({ "event": "rejected", "reason": reason, "peer": peer, "detail": detail })
            }
            SessionEvent::Sent { flight, .. } => {
                let again = flight.messages.iter().filter(|(_, attempt)| *attempt > 1).count();
                if again > 0 {
                    *self.resent().entry(flight.peer.to_string()).or_default() += again as u64;
                }
                return;
            }
            SessionEvent::Road { change } => json!({
                "event": "road",
                "peer": change.peer,
                "road": &*change.road,
                "from": change.from.as_str(),
                "to": change.to.as_str(),
                "reason": change.reason,
                "switched": change.switched.as_ref().map(|(from, to)| [&**from, &**to]),
                "resent": self.resent().get(change.peer.as_str()).copied().unwrap_or(0),
                "at_us": now_us(),
            }),
            SessionEvent::Pinned { agent, key } => {
                json!({ "event": "pinned", "agent": agent, "key": key.to_hex() })
            }
            SessionEvent::JournalFailed { error } => json!({ "event": "error", "error": error.to_string() }),
            _ => return,
        };
        let missed = self.missed.swap(0, Ordering::Relaxed);
        if missed > 0 {
            self.try_line(&json!({ "event": "missed", "events": missed }));
        }
        self.try_line(&value);
    }
}

async fn write_lines(mut lines: Lines, to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut to = BufWriter::new(to);
    let mut batch = Vec::new();
    while lines.recv_many(&mut batch, 64).await > 0 {
        for line in &batch {
            to.write_all(line.text.as_bytes()).await?;
            to.write_all(b"\n").await?;
        }
        to.flush().await?;
        // Only now: a message whose line was not written is delivered again after a crash.
        for line in batch.drain(..) {
            line.taken.map(Taken::commit);
        }
    }
    Ok(())
}

/// Microseconds since the Unix epoch, to compare events of several agents on one machine.
#[allow(clippy::disallowed_methods, reason = "a program's own clock, for its reports")]
pub(crate) fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
