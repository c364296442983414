//! One agent of the demo: a process of its own that speaks in lines, or the same lines from inside this process.

use std::{
    collections::{BTreeMap, VecDeque},
    path::Path,
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ifmesh::{AgentId, Identity, Observer, Witness, WitnessConfig, WitnessPolicy};
use ifmesh_transport::{
    Clock as _, ObserverError, Session, SessionConfig, SessionEvent, SystemClock, next_epoch,
};
use ifmesh_transport_mem::{Mesh, MeshConfig};
use ifmsg::{Permissions, TrustPolicy, TrustStore, canonical::Limits};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader},
    process::{Child, Command},
    sync::mpsc,
    task::JoinHandle,
};

use super::witness::Logs;
use crate::cli::{
    Failure,
    agent::{self, Console, Output},
};

/// What an agent reported.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) member: usize,
    /// Which of its lives: an agent that is killed is started again.
    pub(super) life: u64,
    pub(super) event: Event,
}

#[derive(Debug)]
pub(super) enum Event {
    PeerUp {
        peer: String,
    },
    PeerDown {
        peer: String,
    },
    Accepted {
        id: String,
        at_us: u64,
    },
    /// It has its outcome: acknowledged, or one that is not.
    Outcome {
        id: String,
        acknowledged: bool,
    },
    Message {
        id: String,
        at_us: u64,
    },
    Refused {
        error: String,
    },
    Closed {
        duplicates: u64,
        rejected: u64,
        /// Messages sent again, for each peer.
        resent: Vec<(String, u64)>,
    },
    /// Its sockets fell silent, or speak again.
    Drill {
        on: bool,
        at_us: u64,
    },
    /// First attempts to a peer take another road.
    Switched {
        peer: String,
        from: String,
        to: String,
        at_us: u64,
        resent: u64,
    },
    Ended,
}

/// A running agent, and what it was given.
pub(super) struct Member {
    life: u64,
    body: Body,
    /// Lines on their way to it; dropped to say that there are no more.
    lines: Option<mpsc::Sender<String>>,
    tasks: Vec<JoinHandle<()>>,
    connected: bool,
    /// Items that were given to it and have no outcome, oldest first.
    given: VecDeque<usize>,
}

enum Body {
    Process(Box<Child>),
    Task(JoinHandle<()>),
}

static LIVES: AtomicU64 = AtomicU64::new(0);

impl Member {
    /// Starts `ifmesh agent` in a process of its own.
    pub(super) fn spawn(
        index: usize,
        config: &Path,
        drills: bool,
        reports: mpsc::Sender<Report>,
    ) -> Result<Self, Failure> {
        let failed =
            |error: &dyn std::fmt::Display| Failure::unavailable(format!("cannot start an agent: {error}"));
        let program = std::env::current_exe().map_err(|error| failed(&error))?;
        let mut command = Command::new(program);
        command
            .arg("agent")
            .arg("--config")
            .arg(config)
            .arg("--exit-at-eof");
        if drills {
            command.arg("--drills");
        }
        // It ends when our end of its input is gone, even if we are killed; Ctrl-C in the terminal is ours alone to handle.
        #[cfg(unix)]
        command.process_group(0);
        let spawned = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn();
        let mut child = spawned.map_err(|error| failed(&error))?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(failed(&"its input and output are not there"));
        };
        Ok(Self::with(
            index,
            Body::Process(Box::new(child)),
            input,
            output,
            reports,
        ))
    }

    fn with(
        index: usize,
        body: Body,
        input: impl AsyncWrite + Unpin + Send + 'static,
        output: impl AsyncRead + Unpin + Send + 'static,
        reports: mpsc::Sender<Report>,
    ) -> Self {
        let life = LIVES.fetch_add(1, Ordering::Relaxed);
        let (lines, to_write) = mpsc::channel(512);
        let tasks = vec![
            tokio::spawn(write_lines(to_write, input)),
            tokio::spawn(read_events(index, life, output, reports)),
        ];
        Self {
            life,
            body,
            lines: Some(lines),
            tasks,
            connected: false,
            given: VecDeque::new(),
        }
    }

    pub(super) fn life(&self) -> u64 {
        self.life
    }

    pub(super) fn pid(&self) -> Option<u32> {
        match &self.body {
            Body::Process(child) => child.id(),
            Body::Task(_) => None,
        }
    }

    /// Every other agent is up: from now on broadcasts reach all of them.
    pub(super) fn set_connected(&mut self, connected: bool) {
        self.connected |= connected;
    }

    pub(super) fn may_send(&self, in_flight: usize) -> bool {
        self.connected && self.given.len() < in_flight
    }

    /// Gives it a line. Whether there was room.
    pub(super) fn try_send(&mut self, item: usize, line: &str) -> bool {
        let sent = self
            .lines
            .as_ref()
            .is_some_and(|lines| lines.try_send(line.to_owned()).is_ok());
        if sent {
            self.given.push_back(item);
        }
        sent
    }

    /// Tells it something that is no message. There is room for it: of messages there are never so many.
    pub(super) fn tell(&self, line: String) {
        if let Some(lines) = &self.lines {
            let _ = lines.try_send(line);
        }
    }

    pub(super) fn settled(&mut self, item: usize) {
        self.given.retain(|given| *given != item);
    }

    /// What it was given and has no outcome.
    pub(super) fn give_back(&mut self) -> VecDeque<usize> {
        std::mem::take(&mut self.given)
    }

    /// No more lines: it closes once everything is acknowledged.
    pub(super) fn end(&mut self) {
        self.lines = None;
    }

    pub(super) fn is_ending(&self) -> bool {
        self.lines.is_none()
    }

    pub(super) async fn close(mut self) {
        self.end();
        let grace = Duration::from_secs(5);
        match &mut self.body {
            Body::Process(child) => {
                if tokio::time::timeout(grace, child.wait()).await.is_err() {
                    // It is ours, and it had its time.
                    let _ = child.kill().await;
                }
            }
            Body::Task(task) => {
                if tokio::time::timeout(grace, &mut *task).await.is_err() {
                    task.abort();
                }
            }
        }
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn write_lines(mut lines: mpsc::Receiver<String>, mut input: impl AsyncWrite + Unpin) {
    while let Some(mut line) = lines.recv().await {
        line.push('\n');
        if input.write_all(line.as_bytes()).await.is_err() {
            // It died; what it was given is given again.
            return;
        }
    }
    let _ = input.shutdown().await;
}

async fn read_events(
    member: usize,
    life: u64,
    output: impl AsyncRead + Unpin,
    reports: mpsc::Sender<Report>,
) {
    let mut output = BufReader::new(output);
    let mut line = Vec::new();
    loop {
        line.clear();
        // A last line without its end was cut off by the process's death: it was not said.
        let whole = output.read_until(b'\n', &mut line).await.is_ok() && line.last() == Some(&b'\n');
        let event = if whole { parse(&line) } else { Some(Event::Ended) };
        if let Some(event) = event
            && reports.send(Report { member, life, event }).await.is_err()
        {
            return;
        }
        if !whole {
            return;
        }
    }
}

fn parse(line: &[u8]) -> Option<Event> {
    let value: Value = serde_json::from_slice(line).ok()?;
    let text = |name: &str| value[name].as_str().unwrap_or_default().to_owned();
    let number = |name: &str| value[name].as_u64().unwrap_or_default();
    Some(match value["event"].as_str()? {
        "peer-up" => Event::PeerUp { peer: text("peer") },
        "peer-down" => Event::PeerDown { peer: text("peer") },
        "accepted" => Event::Accepted {
            id: text("id"),
            at_us: number("at_us"),
        },
        "acknowledged" | "unconfirmed" => Event::Outcome {
            id: text("id"),
            acknowledged: true,
        },
        "not-acknowledged" => Event::Outcome {
            id: text("id"),
            acknowledged: false,
        },
        "message" => Event::Message {
            id: value["message"]["id"].as_str()?.to_owned(),
            at_us: number("at_us"),
        },
        "drill" => Event::Drill {
            on: value["on"].as_bool()?,
            at_us: number("at_us"),
        },
        "road" => {
            let [from, to] = value["switched"].as_array()?.first_chunk()?;
            Event::Switched {
                peer: text("peer"),
                from: from.as_str()?.to_owned(),
                to: to.as_str()?.to_owned(),
                at_us: number("at_us"),
                resent: number("resent"),
            }
        }
        "line-refused" => Event::Refused { error: text("error") },
        "closed" => {
            let reasons = value["rejected"].as_object()?;
            let harmless = ["duplicate", "too-old"];
            let rejected = reasons
                .iter()
                .filter(|(name, _)| !harmless.contains(&name.as_str()));
            let rejected = rejected.filter_map(|(_, count)| count.as_u64()).sum();
            let resent = value["resent_to"].as_object().into_iter().flatten();
            Event::Closed {
                duplicates: number("duplicates"),
                rejected,
                resent: resent
                    .filter_map(|(peer, count)| Some((peer.clone(), count.as_u64()?)))
                    .collect(),
            }
        }
        _ => return None,
    })
}

/// Adds to an agent's file that nothing leaves this machine, and where its witness log goes.
pub(super) fn on_loopback(config: &Path, log: &Path) -> Result<(), Failure> {
    let failed = |error| Failure::usage(format!("{}: {error}", config.display()));
    let text = std::fs::read_to_string(config).map_err(failed)?;
    let folder = toml::Value::String(log.display().to_string());
    let lines = text.lines().map(|line| match line {
        "addresses = []" => "addresses = [\"127.0.0.1\"]".to_owned(),
        line if line.starts_with("folder = ") => format!("folder = {folder}"),
        line => line.to_owned(),
    });
    let text: Vec<String> = lines.collect();
    std::fs::write(config, text.join("\n")).map_err(failed)
}

/// The in-memory mesh, its agents' keys and whom they trust.
pub(super) struct MemGround {
    mesh: Mesh,
    identities: BTreeMap<AgentId, Identity>,
    trust: TrustStore,
    logs: Logs,
}

impl MemGround {
    pub(super) fn new(agents: &[AgentId], logs: &Logs) -> Result<Self, Failure> {
        let mut random = ifmesh::random();
        let identities: BTreeMap<_, _> = agents
            .iter()
            .map(|agent| (agent.clone(), Identity::generate(&mut *random)))
            .collect();
        let mut trust = TrustStore::new(TrustPolicy::Allowlist);
        for (agent, identity) in &identities {
            trust
                .bind(agent.clone(), *identity.public_key(), Permissions::ALL)
                .map_err(Failure::usage)?;
        }
        let mesh = Mesh::with(0, MeshConfig::reliable()).map_err(Failure::usage)?;
        Ok(Self {
            mesh,
            identities,
            trust,
            logs: logs.clone(),
        })
    }

    pub(super) fn trust(&self) -> &TrustStore {
        &self.trust
    }

    pub(super) fn start(
        &mut self,
        index: usize,
        agent: &AgentId,
        reports: mpsc::Sender<Report>,
    ) -> Result<Member, Failure> {
        let transport = self.mesh.join(agent).map_err(Failure::usage)?;
        let epoch = next_epoch(None, SystemClock.now());
        let mut config = SessionConfig::new(
            agent.clone(),
            self.identities[agent].clone(),
            self.trust.clone(),
            epoch,
        );
        let (output, lines) = agent::output();
        let (agent, identity) = (agent.clone(), self.identities[agent].clone());
        let wanted = WitnessConfig::new(self.logs.folder(&agent), WitnessPolicy::BestEffort);
        // The same lines as a process of its own would speak, through pipes of this process.
        let (our_input, its_input) = tokio::io::duplex(64 * 1024);
        let (its_output, our_output) = tokio::io::duplex(64 * 1024);
        let console = Console {
            limits: Limits::default(),
            linger: Duration::from_secs(5),
            exit_at_eof: true,
            output: output.clone(),
            lines,
            drill: None,
        };
        let task = tokio::spawn(async move {
            let clock = Arc::new(SystemClock);
            let opened = Witness::open(&wanted, &agent, &identity, "mem", clock.clone()).await;
            let witness = match opened {
                Ok((witness, _)) => Arc::new(witness),
                // It ends here, and its end is told.
                Err(error) => return eprintln!("{agent}: witness: {error}"),
            };
            config.keepalive = match witness.keepalive(&agent, &identity, &config.trust) {
                Ok(keepalive) => Some(keepalive),
                Err(error) => return eprintln!("{agent}: witness: {error}"),
            };
            config.observer = Some(Arc::new(Both(witness.clone(), output)));
            let session = Session::start(transport, config, clock, ifmesh::random());
            let served = agent::serve(
                &session,
                console,
                BufReader::new(its_input),
                its_output,
                std::future::pending(),
            );
            // The pipes are this process's own.
            let _ = served.await;
            drop(session);
            if let Err(error) = witness.close().await {
                eprintln!("{agent}: witness: {error}");
            }
        });
        Ok(Member::with(
            index,
            Body::Task(task),
            our_input,
            our_output,
            reports,
        ))
    }
}

/// The witness first: nothing is told to anybody that is not on record.
#[derive(Debug)]
struct Both(Arc<Witness>, Output);

#[async_trait]
impl Observer for Both {
    fn on_event(&self, event: &SessionEvent) {
        self.0.on_event(event);
        self.1.on_event(event);
    }

    async fn settle(&self) -> Result<(), ObserverError> {
        self.0.settle().await
    }

    fn progress(&self) -> (u64, u64) {
        self.0.progress()
    }
}
