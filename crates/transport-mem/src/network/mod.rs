//! The mesh as a discrete-event machine. Time comes in with each call, randomness from [`Dice`]; there is no task, no timer
//! and no clock in here. Semaphores and notifiers are used as what wakes the handles, nothing more.
//!
//! A frame's way: `accept` -> queue -> wire (bandwidth) -> air (latency, faults) -> inbox -> `take`.

mod frames;
mod links;
mod lives;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use ifmesh_transport::{DownReason, Lane, LinkState, LinkStatus, Path, SendError, TransportEvent};
use ifmsg::AgentId;
use sha2::{Digest, Sha256};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};

use crate::{
    Counts, Faults, MeshConfig, MeshError, Trace,
    config::FRAME_OVERHEAD,
    dice::{Dice, Fate},
    trace::{Log, hex},
};

/// An agent's place in [`Network::agents`]; agents are never removed.
pub(crate) type Node = usize;

/// Room in a link's window, shared by a frame and its copy; given back when the last of them is gone.
pub(crate) type Charge = Arc<OwnedSemaphorePermit>;

/// When, and which of those that are due at the same time.
type Moment = (Duration, u64);

/// Link events that one peer may leave unread in an inbox. From there on, a link that went up and down again while nobody
/// read is forgotten, together with what it brought.
const MAX_UNREAD_LINK_EVENTS: u32 = 64;

#[derive(Debug)]
pub(crate) struct Network {
    seed: u64,
    config: MeshConfig,
    now: Duration,
    /// Counts agenda entries, flights and inbox items: what came first has the smaller number.
    sequence: u64,
    agents: Vec<Agent>,
    names: BTreeMap<AgentId, Node>,
    /// One direction each: what the first sends to the second, and how the first sees the second.
    links: BTreeMap<(Node, Node), Link>,
    /// Both directions together; the smaller node first.
    pairs: BTreeMap<(Node, Node), Pair>,
    flights: BTreeMap<u64, Flight>,
    agenda: BTreeMap<Moment, Action>,
    faults: Faults,
    closing: BTreeSet<Node>,
    log: Log,
}

#[derive(Debug)]
struct Agent {
    id: AgentId,
    life: Life,
    incarnation: u64,
    inbox: BTreeMap<u64, Item>,
    /// Something is in the inbox, or the agent's life has ended.
    news: Arc<Notify>,
    /// The agent's life has ended.
    ended: Arc<Notify>,
    /// The least time between two events that are handed out.
    pace: Duration,
    ready_at: Duration,
    ready_is_scheduled: bool,
    /// Flights of this agent that are in no inbox yet.
    outgoing: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    Closing { give_up: Moment },
    Closed { unsent: usize },
    Crashed,
}

#[derive(Debug)]
enum Item {
    Frame(u64),
    Up(Node),
    Down(Node, DownReason),
}

#[derive(Debug)]
struct Link {
    /// There while the first sees the second as up. Dropping it ends the sends that wait.
    gate: Option<watch::Sender<()>>,
    /// When the first will give the second up, if it stays silent.
    detect: Option<Moment>,
    cut: bool,
    faults: Option<Faults>,
    dice: Dice,
    /// Bytes of the reliable lane that may still be accepted.
    window: Arc<Semaphore>,
    /// Frames that were accepted, ever.
    accepted: u64,
    queue: BTreeSet<u64>,
    wire: Option<u64>,
    /// Reliable frames that wait for a partition to end.
    held: BTreeSet<u64>,
    /// Room that a reliable link does not get back from a dead peer, until the first notices that it is dead.
    stranded: Vec<Charge>,
    /// When the last frame of an ordered lane arrives.
    last_arrival: Duration,
    last_latency: Option<Duration>,
    /// Best-effort flights, oldest first, and their cost.
    best_effort: BTreeSet<u64>,
    best_effort_bytes: usize,
    dropped: u64,
    /// Link events about the second that wait in the first's inbox.
    unread: u32,
}

#[derive(Debug, Default)]
struct Pair {
    /// Counts the links between these two; a frame belongs to one of them.
    generation: u64,
    incarnations: (u64, u64),
    setup: Option<Moment>,
}

#[derive(Debug)]
struct Flight {
    from: Node,
    to: Node,
    lane: Lane,
    frame: Bytes,
    number: u64,
    fate: Fate,
    generation: u64,
    is_copy: bool,
    place: Place,
    charge: Option<Charge>,
}

#[derive(Debug, Clone, Copy)]
enum Place {
    Queue,
    Wire,
    Air(Moment),
    Held,
    Inbox(u64),
}

#[derive(Debug)]
enum Action {
    /// The wire is free again; this flight has left it.
    Leave(Node, Node, u64),
    Arrive(u64),
    SetUp(Node, Node),
    Detect(Node, Node),
    Ready(Node),
    GiveUp(Node),
}

/// What `take` found.
#[derive(Debug)]
pub(crate) enum Taken {
    Event(TransportEvent),
    Nothing,
    Closed,
}

/// How far a `close` has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Closing {
    Underway,
    Done { unsent: usize },
}

/// What a waiting `send` needs: room in the window, and to know when the link is gone.
pub(crate) type Ticket = (Arc<Semaphore>, watch::Receiver<()>);

impl Network {
    pub(crate) fn new(seed: u64, config: MeshConfig) -> Self {
        let log = Log::new(config.trace_lines);
        Self {
            seed,
            config,
            now: Duration::ZERO,
            sequence: 0,
            agents: Vec::new(),
            names: BTreeMap::new(),
            links: BTreeMap::new(),
            pairs: BTreeMap::new(),
            flights: BTreeMap::new(),
            agenda: BTreeMap::new(),
            faults: Faults::none(),
            closing: BTreeSet::new(),
            log,
        }
    }

    // Time.

    /// Everything that is due until `now` happens, each thing at its own time.
    pub(crate) fn advance(&mut self, now: Duration) {
        while let Some(entry) = self.agenda.first_entry() {
            if entry.key().0 > now {
                break;
            }
            let ((due, _), action) = entry.remove_entry();
            self.now = self.now.max(due);
            match action {
                Action::Leave(from, to, flight) => self.leave_wire(from, to, flight),
                Action::Arrive(flight) => self.arrive(flight),
                Action::SetUp(a, b) => self.set_up(a, b),
                Action::Detect(from, to) => self.detect(from, to),
                Action::Ready(node) => {
                    self.agents[node].ready_is_scheduled = false;
                    self.agents[node].news.notify_one();
                }
                Action::GiveUp(node) => self.give_up(node),
            }
            self.finish_closing();
        }
        self.now = self.now.max(now);
    }

    /// When something will happen by itself.
    pub(crate) fn next(&self) -> Option<Duration> {
        self.agenda.first_key_value().map(|(&(due, _), _)| due)
    }

    // What the mesh's owner does. Each ends with `settle`, so that what is due at once happens at once.

    pub(crate) fn join(&mut self, id: AgentId) -> Result<(Node, u64), MeshError> {
        if self.names.contains_key(&id) {
            return Err(MeshError::AlreadyJoined(id));
        }
        let node = self.agents.len();
        self.write("join", format_args!("{id}"));
        for peer in 0..node {
            for (from, to) in [(node, peer), (peer, node)] {
                let name = |node: Node| self.agents.get(node).map_or(&id, |agent| &agent.id);
                let dice = Dice::new(self.seed, name(from), name(to));
                self.links.insert((from, to), Link::new(dice, self.config.window));
            }
            self.pairs.insert((peer, node), Pair::default());
        }
        self.names.insert(id.clone(), node);
        self.agents.push(Agent::new(id));
        self.reconsider_all(node);
        self.settle();
        Ok((node, 0))
    }

    pub(crate) fn crash(&mut self, node: Node) -> Result<(), MeshError> {
        if !self.agents[node].is_alive() {
            return Err(MeshError::NotRunning(self.agents[node].id.clone()));
        }
        self.end(node);
        self.settle();
        Ok(())
    }

    /// As `crash`, but for one life only: a handle that is dropped after a restart harms nobody.
    pub(crate) fn abandon(&mut self, node: Node, incarnation: u64) {
        if self.agents[node].incarnation == incarnation && self.agents[node].is_alive() {
            self.end(node);
            self.settle();
        }
    }

    pub(crate) fn restart(&mut self, node: Node) -> u64 {
        if self.agents[node].is_alive() {
            self.end(node);
        }
        self.clear_inbox(node);
        let agent = &mut self.agents[node];
        agent.incarnation += 1;
        agent.life = Life::Running;
        agent.ready_at = self.now;
        let incarnation = agent.incarnation;
        let id = agent.id.clone();
        self.write("restart", format_args!("{id}"));
        self.reconsider_all(node);
        self.settle();
        incarnation
    }

    pub(crate) fn cut(&mut self, from: Node, to: Node) {
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        if link.cut {
            return;
        }
        link.cut = true;
        self.write_pair("cut", from, to, "");
        self.reconsider(from, to);
        self.settle();
    }

    pub(crate) fn mend(&mut self, from: Node, to: Node) {
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        if !link.cut {
            return;
        }
        link.cut = false;
        let held = std::mem::take(&mut link.held);
        self.write_pair("mend", from, to, "");
        for flight in held {
            self.take_off(flight);
        }
        self.reconsider(from, to);
        self.settle();
    }

    pub(crate) fn mend_all(&mut self) {
        let cut: Vec<_> = self
            .links
            .iter()
            .filter(|(_, link)| link.cut)
            .map(|(&pair, _)| pair)
            .collect();
        for (from, to) in cut {
            self.mend(from, to);
        }
    }

    /// The link between these two fails at once and both are told; it comes back as soon as it can.
    pub(crate) fn break_link(&mut self, a: Node, b: Node) {
        if !self.links.contains_key(&(a, b)) {
            return;
        }
        self.write_pair("break", a, b, "");
        self.close_gate(a, b, DownReason::Network);
        self.close_gate(b, a, DownReason::Network);
        self.reconsider(a, b);
        self.settle();
    }

    pub(crate) fn set_faults(&mut self, faults: Faults) {
        self.write("faults", format_args!("* {faults:?}"));
        self.faults = faults;
    }

    /// `None` makes the link follow the mesh's faults again.
    pub(crate) fn set_link_faults(&mut self, from: Node, to: Node, faults: Option<Faults>) {
        if let Some(link) = self.links.get_mut(&(from, to)) {
            link.faults = faults.clone();
            self.write_pair("faults", from, to, format_args!(" {faults:?}"));
        }
    }

    pub(crate) fn heal(&mut self) {
        self.set_faults(Faults::none());
        for link in self.links.values_mut() {
            link.faults = None;
        }
        self.mend_all();
    }

    pub(crate) fn set_pace(&mut self, node: Node, pace: Duration) {
        let id = self.agents[node].id.clone();
        self.write("slow", format_args!("{id} {pace:?}"));
        let agent = &mut self.agents[node];
        agent.pace = pace;
        agent.ready_at = self.now;
        agent.news.notify_one();
    }

    // What a handle does.

    /// Whether this handle can still send.
    pub(crate) fn is_running(&self, node: Node, incarnation: u64) -> bool {
        let agent = &self.agents[node];
        agent.incarnation == incarnation && agent.life == Life::Running
    }

    pub(crate) fn ticket(&self, from: Node, incarnation: u64, to: Node) -> Result<Ticket, SendError> {
        if !self.is_running(from, incarnation) {
            return Err(SendError::Closed);
        }
        match self.links.get(&(from, to)) {
            Some(link) => match &link.gate {
                Some(gate) => Ok((Arc::clone(&link.window), gate.subscribe())),
                None => Err(SendError::NoLink(self.agents[to].id.clone())),
            },
            None => Err(SendError::NoLink(self.agents[to].id.clone())),
        }
    }

    /// The peers that this one sees as up.
    pub(crate) fn linked(&self, from: Node) -> Vec<Node> {
        let row = self.links.range((from, 0)..=(from, Node::MAX));
        row.filter(|(_, link)| link.gate.is_some())
            .map(|(&(_, to), _)| to)
            .collect()
    }

    pub(crate) fn accept(
        &mut self,
        from: Node,
        incarnation: u64,
        to: Node,
        lane: Lane,
        frame: Bytes,
        charge: Option<Charge>,
    ) -> Result<(), SendError> {
        if !self.is_running(from, incarnation) {
            return Err(SendError::Closed);
        }
        let generation = self.pair(from, to).map_or(0, |pair| pair.generation);
        let (number, fate) = match self.links.get_mut(&(from, to)) {
            Some(link) if link.gate.is_some() => {
                link.accepted += 1;
                (link.accepted, link.dice.throw(link.accepted))
            }
            _ => return Err(SendError::NoLink(self.agents[to].id.clone())),
        };
        let digest = hex(&Sha256::digest(&frame)[..4]);
        let size = frame.len();
        let word = word(lane);
        self.write_pair(
            "sent",
            from,
            to,
            format_args!(" #{number} {word} {size} {digest}"),
        );
        let flight = self.launch(Flight {
            from,
            to,
            lane,
            frame,
            number,
            fate,
            generation,
            is_copy: false,
            place: Place::Queue,
            charge,
        });
        if let Some(link) = self.links.get_mut(&(from, to)) {
            link.queue.insert(flight);
        }
        self.pump(from, to);
        self.settle();
        Ok(())
    }

    pub(crate) fn take(&mut self, node: Node, incarnation: u64) -> Taken {
        let now = self.now;
        let agent = &mut self.agents[node];
        if agent.incarnation != incarnation || agent.life == Life::Crashed {
            return Taken::Closed;
        }
        if agent.inbox.is_empty() {
            return if agent.life == Life::Running {
                Taken::Nothing
            } else {
                Taken::Closed
            };
        }
        if now < agent.ready_at {
            let (due, wanted) = (agent.ready_at, !agent.ready_is_scheduled);
            agent.ready_is_scheduled = true;
            if wanted {
                self.schedule(due, Action::Ready(node));
            }
            return Taken::Nothing;
        }
        agent.ready_at = now.saturating_add(agent.pace);
        let Some((_, item)) = agent.inbox.pop_first() else {
            return Taken::Nothing;
        };
        if !agent.inbox.is_empty() {
            // For a second caller, if there is one.
            agent.news.notify_one();
        }
        match item {
            Item::Up(peer) => {
                self.read_link_event(node, peer);
                Taken::Event(TransportEvent::LinkUp {
                    peer: self.agents[peer].id.clone(),
                })
            }
            Item::Down(peer, reason) => {
                self.read_link_event(node, peer);
                Taken::Event(TransportEvent::LinkDown {
                    peer: self.agents[peer].id.clone(),
                    reason,
                })
            }
            Item::Frame(flight) => match self.forget(flight) {
                Some(flight) => Taken::Event(TransportEvent::Frame {
                    from: self.agents[flight.from].id.clone(),
                    lane: flight.lane,
                    frame: flight.frame,
                    road: None,
                }),
                None => Taken::Nothing,
            },
        }
    }

    /// Starts closing. `false` if that had been done before.
    pub(crate) fn close(&mut self, node: Node, incarnation: u64) -> bool {
        if !self.is_running(node, incarnation) {
            return false;
        }
        let give_up = self.schedule(self.now.saturating_add(self.config.closing), Action::GiveUp(node));
        self.agents[node].life = Life::Closing { give_up };
        self.closing.insert(node);
        self.shut_gates(node);
        self.reconsider_all(node);
        self.settle();
        true
    }

    pub(crate) fn closing(&self, node: Node, incarnation: u64) -> Closing {
        let agent = &self.agents[node];
        match agent.life {
            _ if agent.incarnation != incarnation => Closing::Done { unsent: 0 },
            Life::Closed { unsent } => Closing::Done { unsent },
            Life::Crashed => Closing::Done { unsent: 0 },
            Life::Running | Life::Closing { .. } => Closing::Underway,
        }
    }

    // What can be looked at.

    pub(crate) fn node(&self, id: &AgentId) -> Option<Node> {
        self.names.get(id).copied()
    }

    pub(crate) fn nodes(&self) -> usize {
        self.agents.len()
    }

    pub(crate) fn config(&self) -> &MeshConfig {
        &self.config
    }

    pub(crate) fn news(&self, node: Node) -> Arc<Notify> {
        Arc::clone(&self.agents[node].news)
    }

    pub(crate) fn ended(&self, node: Node) -> Arc<Notify> {
        Arc::clone(&self.agents[node].ended)
    }

    pub(crate) fn links(&self, node: Node, incarnation: u64) -> Vec<LinkStatus> {
        let running = self.is_running(node, incarnation);
        let mut all: Vec<_> = self
            .links
            .range((node, 0)..=(node, Node::MAX))
            .map(|(&(_, to), link)| {
                let connecting = self.pair(node, to).is_some_and(|pair| pair.setup.is_some());
                let state = match link.gate {
                    Some(_) if running => LinkState::Up,
                    None if running && connecting => LinkState::Connecting,
                    _ => LinkState::Down,
                };
                let mut status = LinkStatus::new(self.agents[to].id.clone(), state);
                status.path = Some(Path::InProcess);
                let back = self.links.get(&(to, node)).and_then(|back| back.last_latency);
                status.round_trip = link.last_latency.zip(back).map(|(there, back)| there + back);
                status.dropped = link.dropped;
                status
            })
            .collect();
        all.sort_by(|a, b| a.peer.cmp(&b.peer));
        all
    }

    pub(crate) fn trace(&self) -> Trace {
        self.log.read()
    }

    pub(crate) fn counts(&self) -> Counts {
        self.log.counts()
    }

    // Small things.

    fn settle(&mut self) {
        self.finish_closing();
        self.advance(self.now);
    }

    fn schedule(&mut self, due: Duration, action: Action) -> Moment {
        let moment = (due.max(self.now), self.ticks());
        self.agenda.insert(moment, action);
        moment
    }

    fn ticks(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }

    fn pair(&self, a: Node, b: Node) -> Option<&Pair> {
        self.pairs.get(&(a.min(b), a.max(b)))
    }

    fn write(&mut self, event: &'static str, rest: fmt::Arguments<'_>) {
        self.log.write(self.now, event, rest);
    }

    fn write_pair(&mut self, event: &'static str, from: Node, to: Node, rest: impl fmt::Display) {
        let (from, to) = (&self.agents[from].id, &self.agents[to].id);
        self.log.write(self.now, event, format_args!("{from}>{to}{rest}"));
    }
}

impl Agent {
    fn new(id: AgentId) -> Self {
        Self {
            id,
            life: Life::Running,
            incarnation: 0,
            inbox: BTreeMap::new(),
            news: Arc::default(),
            ended: Arc::default(),
            pace: Duration::ZERO,
            ready_at: Duration::ZERO,
            ready_is_scheduled: false,
            outgoing: 0,
        }
    }

    fn is_alive(&self) -> bool {
        matches!(self.life, Life::Running | Life::Closing { .. })
    }
}

impl Link {
    fn new(dice: Dice, window: usize) -> Self {
        Self {
            gate: None,
            detect: None,
            cut: false,
            faults: None,
            dice,
            window: Arc::new(Semaphore::new(window)),
            accepted: 0,
            queue: BTreeSet::new(),
            wire: None,
            held: BTreeSet::new(),
            stranded: Vec::new(),
            last_arrival: Duration::ZERO,
            last_latency: None,
            best_effort: BTreeSet::new(),
            best_effort_bytes: 0,
            dropped: 0,
            unread: 0,
        }
    }
}

impl Flight {
    fn cost(&self) -> usize {
        self.frame.len() + FRAME_OVERHEAD
    }
}

fn word(lane: Lane) -> &'static str {
    match lane {
        Lane::Reliable => "reliable",
        Lane::BestEffort => "best-effort",
    }
}
