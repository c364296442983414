//! `ifmesh demo`: a signaling server, N agents in N processes, a file of messages, and an account of every one of them.

mod hybrid;
mod input;
mod member;
mod score;
mod witness;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, ValueEnum};
use ifmesh::{AgentId, setup};
use ifmesh_signaling::{Server, ServerConfig};
use ifmsg::TrustStore;
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

use super::{Failure, exit, print_json};
use input::Plan;
use member::{Member, Report};
use score::Score;

/// Messages of one agent that are not acknowledged yet: far below the 1,024 ids that a receiver remembers of each sender,
/// so that what a killed agent sends again after its restart is known.
const IN_FLIGHT: usize = 256;

/// How long the mesh may take to form, or to form again.
const MESH_TIME: Duration = Duration::from_secs(60);

/// How often agents that died are started again, in all.
const MOST_RESTARTS: u32 = 100;

/// How long nothing at all may happen while messages are on their way.
const QUIET_TIME: Duration = Duration::from_secs(30);

/// See it work: agents in processes of their own find each other and exchange a file of signed messages.
///
/// Starts a signaling server on a free loopback port and the agents, waits until every pair is connected, sends each message from
/// its source to its destination, waits until each is acknowledged, and gives an account. An agent that is killed meanwhile is
/// started again and goes on.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  ifmesh demo
  ifmesh demo --agents 3 --repeat 100
  ifmesh demo --input messages.ndjson --json

  ifmesh demo --witness logs && ifmesh witness verify logs

At the end every agent's witness log is verified, and every record of a message that was sent is held against the receiver's.

Exit code 0 only if every message arrived exactly once and verified, and the logs agree.")]
pub(crate) struct Demo {
    /// How many agents; as many as the input names (5 for the built-in one), if left out.
    #[arg(long, value_parser = clap::value_parser!(u16).range(2..=100))]
    agents: Option<u16>,
    /// Messages to send, one JSON object on each line: source, destination (* is everyone), payload, and what else
    /// `ifmesh agent` takes. Left out: examples/messages.ndjson, which is built in.
    #[arg(long)]
    input: Option<PathBuf>,
    /// Send the whole input so many times: once, if left out; with --hybrid a hundred times.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    repeat: Option<u32>,
    /// Keep each agent's witness log in a folder of this one, which must be new or empty. Left out: they are checked and thrown
    /// away.
    #[arg(long)]
    witness: Option<PathBuf>,
    /// What carries the messages.
    #[arg(long, value_enum, default_value_t = Transport::Webrtc)]
    transport: Transport,
    /// WebRTC with DDS behind it, and a failure: in mid-stream the WebRTC sockets of two agents fall silent, without being
    /// closed, and three seconds later they speak again. Says for each switch how long it took and what it cost.
    #[arg(long, conflicts_with = "transport")]
    hybrid: bool,
    /// Print one JSON object and nothing else.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Transport {
    /// WebRTC DataChannels between processes.
    Webrtc,
    /// DDS/RTPS between processes, on this machine alone, with no server.
    Dds,
    /// By way of the signaling server, as where UDP is blocked.
    Relay,
    /// The in-memory mesh, inside this process.
    Mem,
}

impl Demo {
    pub(crate) async fn run(self) -> Result<u8, Failure> {
        let repeat = self
            .repeat
            .unwrap_or(if self.hybrid { hybrid::REPEAT } else { 1 });
        let plan = Plan::read(self.input.as_deref(), self.agents.map(usize::from), repeat)?;
        let folder = tempfile::tempdir()
            .map_err(|error| Failure::unavailable(format!("no temporary folder: {error}")))?;
        let (reports_sender, reports) = mpsc::channel(4_096);
        let logs = witness::Logs::prepare(self.witness.as_deref(), folder.path())?;
        let roads = self.roads();
        let ground = Ground::prepare(&roads, folder.path(), &plan.agents, &logs).await?;
        let mut stage = Stage {
            say: Say { quiet: self.json },
            score: Score::new(&plan),
            script: self.hybrid.then(|| hybrid::Script::new(&plan)),
            members: Vec::new(),
            reports,
            reports_sender,
            ground,
            plan,
        };
        let result = tokio::select! {
            result = stage.play() => result,
            () = exit::asked_to_end() => Err(Failure::interrupted()),
        };
        stage.close().await;
        result?;
        let account = stage.score.account(&stage.plan);
        let failovers = stage
            .script
            .as_ref()
            .map(|script| script.account(&stage.plan, &stage.score));
        let trust = stage.ground.trust()?;
        let agents = stage.plan.agents.clone();
        let checking = tokio::task::spawn_blocking(move || logs.check(&agents, &trust));
        let found = checking.await.map_err(Failure::unavailable)?;
        if self.json {
            let mut json = account.to_json();
            json["witness"] = found.to_json();
            if let Some(failovers) = &failovers {
                json["failovers"] = failovers.to_json();
            }
            print_json(&json);
        } else {
            print!("{account}");
            if let Some(failovers) = &failovers {
                print!("{failovers}");
            }
            print!("{found}");
        }
        let switched = failovers.is_none_or(|failovers| failovers.is_perfect());
        Ok(if account.is_perfect() && found.is_perfect() && switched {
            exit::DONE
        } else {
            exit::NOT_ALL_WELL
        })
    }
}

impl Demo {
    /// The transports of the agents' files; none for those inside this process.
    fn roads(&self) -> Vec<String> {
        let roads: &[&str] = match self.transport {
            _ if self.hybrid => &[hybrid::ROAD, "dds"],
            Transport::Webrtc => &["webrtc"],
            Transport::Dds => &["dds"],
            Transport::Relay => &["relay"],
            Transport::Mem => &[],
        };
        roads.iter().map(|&road| road.to_owned()).collect()
    }
}

/// What the agents stand on.
enum Ground {
    Processes {
        server: Option<Server>,
        configs: Vec<PathBuf>,
        trust: PathBuf,
        /// Agents take drills.
        drills: bool,
    },
    Mem(Box<member::MemGround>),
}

impl Ground {
    async fn prepare(
        roads: &[String],
        folder: &Path,
        agents: &[AgentId],
        logs: &witness::Logs,
    ) -> Result<Self, Failure> {
        if roads.is_empty() {
            let ground = member::MemGround::new(agents, logs)?;
            logs.keep_trust(ground.trust())?;
            return Ok(Self::Mem(Box::new(ground)));
        }
        let server = if roads.iter().any(|road| road != "dds") {
            let listen = ([127, 0, 0, 1], 0).into();
            let name = AgentId::new("demo").map_err(Failure::usage)?;
            let bound = Server::bind(ServerConfig::new(listen, name), ifmesh::random()).await;
            Some(bound.map_err(Failure::unavailable)?)
        } else {
            None
        };
        let urls = server
            .iter()
            .map(|server| format!("ws://{}", server.local_addr()));
        let ways = setup::Roads {
            transports: roads.to_vec(),
            signaling: urls.collect(),
            // Two demos at the same time need not see each other.
            domain: 1 + u16::try_from(std::process::id() % 200).unwrap_or(0),
        };
        let swarm = setup::init(folder, agents, &ways).map_err(Failure::usage)?;
        for (agent, path) in &swarm.agents {
            member::on_loopback(path, &logs.folder(agent))?;
        }
        let configs: Vec<PathBuf> = swarm.agents.into_iter().map(|(_, path)| path).collect();
        logs.keep_trust(&ifmesh::read_trust(&swarm.trust).map_err(Failure::usage)?)?;
        Ok(Self::Processes {
            server,
            configs,
            trust: swarm.trust,
            drills: roads.len() > 1,
        })
    }

    /// The public keys of all agents.
    fn trust(&self) -> Result<TrustStore, Failure> {
        match self {
            Self::Processes { trust, .. } => ifmesh::read_trust(trust).map_err(Failure::usage),
            Self::Mem(ground) => Ok(ground.trust().clone()),
        }
    }

    fn start(
        &mut self,
        index: usize,
        agent: &AgentId,
        reports: &mpsc::Sender<Report>,
    ) -> Result<Member, Failure> {
        match self {
            Self::Processes { configs, drills, .. } => {
                Member::spawn(index, &configs[index], *drills, reports.clone())
            }
            Self::Mem(ground) => ground.start(index, agent, reports.clone()),
        }
    }
}

/// The demo while it runs.
struct Stage {
    say: Say,
    plan: Plan,
    ground: Ground,
    members: Vec<Member>,
    reports: mpsc::Receiver<Report>,
    reports_sender: mpsc::Sender<Report>,
    score: Score,
    /// What is done to them meanwhile.
    script: Option<hybrid::Script>,
}

impl Stage {
    async fn play(&mut self) -> Result<(), Failure> {
        self.score.started();
        for index in 0..self.plan.agents.len() {
            self.start(index)?;
        }
        self.form_mesh().await?;
        self.say.line(format_args!(
            "{} connections in {} ms; {} messages to send",
            self.score.connections(),
            self.score.setup_ms(),
            self.plan.items.len()
        ));
        self.exchange().await?;
        self.settle().await
    }

    fn start(&mut self, index: usize) -> Result<(), Failure> {
        let agent = &self.plan.agents[index];
        let member = self.ground.start(index, agent, &self.reports_sender)?;
        let place = member
            .pid()
            .map_or_else(|| "in this process".to_owned(), |pid| format!("process {pid}"));
        self.say.line(format_args!("{agent:<16} {place}"));
        if index < self.members.len() {
            self.members[index] = member;
        } else {
            self.members.push(member);
        }
        Ok(())
    }

    /// Waits until every agent has every other.
    async fn form_mesh(&mut self) -> Result<(), Failure> {
        let deadline = Instant::now() + MESH_TIME;
        while !self.score.mesh_is_full() {
            let Ok(report) = timeout_at(deadline, self.reports.recv()).await else {
                return Err(Failure::unavailable(format!(
                    "the mesh did not form within {} s: {}",
                    MESH_TIME.as_secs(),
                    self.score.missing_connections(&self.plan)
                )));
            };
            if let Some(index) = self.take(report)? {
                self.start(index)?;
            }
            let (up, all) = (self.score.connections(), self.plan.pairs());
            self.say.progress(format_args!("connecting: {up} of {all}"));
        }
        self.score.mesh_formed();
        Ok(())
    }

    async fn exchange(&mut self) -> Result<(), Failure> {
        let mut queues = self.score.queues(&self.plan);
        if let Some(script) = &mut self.script {
            script.begin();
        }
        let mut quiet_since = Instant::now();
        loop {
            self.drill();
            let allowed = self.script.as_ref().map_or(usize::MAX, hybrid::Script::allowed);
            for (member, queue) in self.members.iter_mut().zip(&mut queues) {
                while member.may_send(IN_FLIGHT)
                    && let Some(&item) = queue.front()
                    && item < allowed
                    && member.try_send(item, &self.plan.items[item].line)
                {
                    queue.pop_front();
                }
            }
            let over = self.script.as_ref().is_none_or(hybrid::Script::is_over);
            if over && self.score.all_settled() && queues.iter().all(std::collections::VecDeque::is_empty) {
                return Ok(());
            }
            let deadline = quiet_since + QUIET_TIME;
            let until = self.script.as_ref().map_or(deadline, hybrid::Script::next_tick);
            let Ok(report) = timeout_at(until, self.reports.recv()).await else {
                if until < deadline {
                    continue;
                }
                // Whatever is missing now is lost, and the account says so.
                let missing = self.score.missing_connections(&self.plan);
                self.say.line(format_args!(
                    "nothing happened for {} s; {missing}",
                    QUIET_TIME.as_secs()
                ));
                return Ok(());
            };
            quiet_since = Instant::now();
            if let Some(index) = self.take(report)? {
                // It lost what it had in memory: all that was not acknowledged goes again, first and in order.
                let again = self.members[index].give_back();
                self.start(index)?;
                let unsettled = again
                    .into_iter()
                    .filter(|item| !self.score.is_settled(*item))
                    .rev();
                unsettled.for_each(|item| queues[index].push_front(item));
            }
            let (done, all) = (self.score.settled(), self.plan.items.len());
            self.say.progress(format_args!("acknowledged: {done} of {all}"));
        }
    }

    /// Does to the agents what the script says.
    fn drill(&mut self) {
        let Some((members, on)) = self.script.as_mut().and_then(hybrid::Script::drill) else {
            return;
        };
        for &member in members {
            self.members[member].tell(hybrid::Script::line(on));
            let what = if on { "falls silent" } else { "speaks again" };
            let (agent, road) = (&self.plan.agents[member], hybrid::ROAD);
            self.say.line(format_args!("{agent:<16} {road} {what}"));
        }
    }

    /// Everything is acknowledged; the lines that say what arrived may still be in the pipes.
    async fn settle(&mut self) -> Result<(), Failure> {
        for member in &mut self.members {
            member.end();
        }
        let deadline = Instant::now() + Duration::from_secs(15);
        while self.score.open_members() > 0 {
            let Ok(report) = timeout_at(deadline, self.reports.recv()).await else {
                break;
            };
            self.take(report)?;
        }
        self.say.end();
        Ok(())
    }

    /// Takes a report in. The number of a member that died, if one did.
    fn take(&mut self, report: Option<Report>) -> Result<Option<usize>, Failure> {
        // We hold a sender ourselves, so there is always one more.
        let Some(report) = report else { return Ok(None) };
        let (index, event) = (report.member, report.event);
        if report.life != self.members[index].life() {
            // The last words of a former life still count as deliveries, and as nothing else.
            self.score.late(index, &event);
            return Ok(None);
        }
        match event {
            member::Event::Outcome { ref id, .. } => {
                if let Some(item) = self.score.item(id) {
                    self.members[index].settled(item);
                }
            }
            member::Event::Refused { ref error, .. } => {
                return Err(Failure::usage(format!(
                    "{} refused a line: {error}",
                    self.plan.agents[index]
                )));
            }
            member::Event::Ended if !self.members[index].is_ending() => {
                if self.score.restarts() >= MOST_RESTARTS {
                    return Err(Failure::unavailable(
                        "agents die again and again; see their messages above",
                    ));
                }
                self.say.line(format_args!(
                    "{} died; starting it again",
                    self.plan.agents[index]
                ));
                self.score.died(index);
                return Ok(Some(index));
            }
            member::Event::Drill { on, at_us } => {
                if let Some(script) = &mut self.script {
                    script.drilled(index, on, at_us);
                }
            }
            member::Event::Switched {
                ref peer,
                ref from,
                ref to,
                at_us,
                resent,
            } => {
                // When all of them close, roads go down as well.
                if let Some(script) = &mut self.script
                    && !self.members[index].is_ending()
                {
                    script.switched(index, peer.clone(), from.clone(), to.clone(), at_us, resent);
                }
            }
            member::Event::Closed { ref resent, .. } => {
                if let Some(script) = &mut self.script {
                    for (peer, resent) in resent {
                        script.resent(index, peer.clone(), *resent);
                    }
                }
            }
            _ => {}
        }
        if matches!(event, member::Event::PeerUp { .. }) {
            self.score.peer_up(index, &event, &self.plan);
            let full = self.score.has_all_peers(index);
            self.members[index].set_connected(full);
        } else {
            self.score.take(index, &event, &self.plan);
        }
        Ok(None)
    }

    async fn close(&mut self) {
        for member in self.members.drain(..) {
            member.close().await;
        }
        if let Ground::Processes { server, .. } = &mut self.ground
            && let Some(server) = server.take()
        {
            server.shutdown().await;
        }
    }
}

/// Talks to a person; silent with `--json`.
struct Say {
    quiet: bool,
}

impl Say {
    fn line(&self, text: std::fmt::Arguments<'_>) {
        if !self.quiet {
            self.end();
            println!("{text}");
        }
    }

    /// A line that the next one replaces; only on a terminal.
    fn progress(&self, text: std::fmt::Arguments<'_>) {
        use std::io::{IsTerminal as _, Write as _};
        let mut error = std::io::stderr();
        if !self.quiet && error.is_terminal() {
            let _ = write!(error, "\r\x1b[2K{text}");
        }
    }

    fn end(&self) {
        self.progress(format_args!(""));
    }
}
