//! The task that knows everybody: reads presence, greets, routes samples to links, and notices silence.

use std::{
    collections::{BTreeMap, HashMap},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures::{
    StreamExt as _,
    stream::{self, BoxStream, SelectAll},
};
use ifmesh_transport::{Clock, DownReason, PeerKeys, PeerTrust, SharedRandom, TransportEvent, awaited};
use ifmsg::{AgentId, PublicKey};
use rand_core::Rng as _;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    board::count,
    config::DdsConfig,
    engine::{Engine, Failure, FrameReader, Inputs, Writers},
    link::{Common, Link, until},
    meter::Meter,
    record::Record,
    statement::{Guid, Hello, Said, Signed},
    wire::{Frame, Kind, Presence},
};

/// Samples of one topic that are taken in one turn.
const AT_ONCE: usize = 64;
/// How often things that are due are looked for.
const TICK: Duration = Duration::from_millis(20);
/// Presence is said again this often, for readers that lost it.
const ANNOUNCE: Duration = Duration::from_secs(2);
/// The first hello is repeated after this, each further one after twice as long,
const HELLO_MIN: Duration = Duration::from_millis(20);
/// up to this.
const HELLO_MAX: Duration = Duration::from_secs(1);
/// A peer that answers no hello, and of which nothing new is heard, is forgotten after this.
const FORGET: Duration = Duration::from_secs(60);
/// The same refusal is told again after this.
const REFUSE_AGAIN: Duration = Duration::from_secs(10);
/// Refusals that are remembered.
const REFUSALS: usize = 256;

/// What a sample came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Reliable,
    BestEffort,
    Broadcast,
}

/// Broadcasts on their way to the bus, from `send`.
#[derive(Debug)]
pub(crate) enum ToBus {
    /// For all, best effort.
    Broadcast(Frame),
    /// For the record.
    Record(Frame),
}

pub(crate) struct Hub {
    common: Arc<Common>,
    config: DdsConfig,
    keys: Arc<dyn PeerKeys>,
    clock: Arc<dyn Clock>,
    random: SharedRandom,
    presence: Presence,
    peers: BTreeMap<AgentId, Peer>,
    /// Whose endpoint it is, by verified hellos.
    endpoints: HashMap<Guid, (AgentId, Way)>,
    meter: Meter,
    record: Record,
    refusals: HashMap<(String, &'static str), Instant>,
    /// Writers into the inbox of this life of a peer, while they are made.
    opening: JoinSet<(AgentId, u64, Result<Writers, Failure>)>,
    ins: JoinSet<(AgentId, u64, DownReason)>,
    outs: JoinSet<u64>,
    attempts: u32,
    warn_at: Option<Instant>,
    found: u64,
}

struct Peer {
    key: PublicKey,
    presence: Presence,
    /// When its presence was last heard.
    heard: Instant,
    /// The DDS participant that its last link's samples came from.
    participant: Option<[u8; 12]>,
    state: State,
}

enum State {
    /// Its writers are being made.
    Opening {
        /// The peer's hello, if it came first.
        hello: Option<Hello>,
    },
    Greeting(Greeting),
    Up {
        link: Arc<Link>,
        writers: Arc<Writers>,
        heard: Instant,
        endpoints: [Guid; 3],
    },
    /// The link's last event is on its way to the application.
    Ending,
    /// This life said goodbye, or does not answer.
    Gone,
}

struct Greeting {
    writers: Arc<Writers>,
    local: u64,
    /// The peer's hello, once it came.
    hello: Option<Hello>,
    next: Instant,
    pause: Duration,
    since: Instant,
}

impl Hub {
    pub(crate) fn new(
        common: Arc<Common>,
        config: DdsConfig,
        keys: Arc<dyn PeerKeys>,
        clock: Arc<dyn Clock>,
        random: SharedRandom,
        presence: Presence,
    ) -> Self {
        let warn = config.discovery_warning;
        Self {
            common,
            keys,
            clock,
            random,
            presence,
            peers: BTreeMap::new(),
            endpoints: HashMap::new(),
            meter: Meter::new(Instant::now()),
            record: Record::new(&config, Instant::now()),
            refusals: HashMap::new(),
            opening: JoinSet::new(),
            ins: JoinSet::new(),
            outs: JoinSet::new(),
            attempts: 0,
            warn_at: (!warn.is_zero()).then(|| Instant::now() + warn),
            found: 0,
            config,
        }
    }

    /// Runs until `closing`, then flushes and ends. Tells `done` how many accepted frames did not leave.
    pub(crate) async fn run(
        mut self,
        engine: Engine,
        inputs: Inputs,
        bus: mpsc::Receiver<ToBus>,
        mut closing: watch::Receiver<bool>,
        done: watch::Sender<Option<u64>>,
    ) {
        engine.announce(&self.presence);
        let mut announce_at = Instant::now() + ANNOUNCE / 8;
        let mut sources = Sources::new(inputs, bus);
        // Outlive each turn, which for a sample alone costs less than to make them anew.
        let mut tick = pin!(sleep_until(Instant::now()));
        let mut closing = pin!(awaited(&mut closing, |closing| closing));
        loop {
            tokio::select! {
                biased;
                _ = &mut closing => break,
                () = &mut tick => {
                    let now = Instant::now();
                    tick.as_mut().reset(now + TICK);
                    self.tick(&engine, now);
                    if now >= announce_at {
                        announce_at = now + ANNOUNCE;
                        engine.announce(&self.presence);
                    }
                }
                Some(opened) = self.opening.join_next() => if let Ok((peer, life, writers)) = opened {
                    self.on_opened(&engine, &peer, life, writers);
                },
                Some(over) = self.ins.join_next() => if let Ok((peer, local, reason)) = over {
                    self.on_over(&engine, &peer, local, reason);
                },
                Some(_) = self.outs.join_next() => {}
                input = sources.next() => self.on_input(&engine, &sources, input),
            }
        }
        let unsent = self.close(&engine, &mut sources).await;
        // Its endpoints, before the participant.
        self.opening.shutdown().await;
        drop(sources);
        self.peers.clear();
        self.common.board.clear();
        self.ins.shutdown().await;
        self.outs.shutdown().await;
        engine.withdraw(&self.presence);
        engine.close().await;
        done.send_replace(Some(unsent));
    }

    /// Flushes what was accepted, for as long as closing may take.
    async fn close(&mut self, engine: &Engine, sources: &mut Sources) -> u64 {
        for peer in self.peers.values() {
            if let State::Up { link, .. } = &peer.state {
                link.close();
            }
        }
        let deadline = Instant::now() + self.common.limits.close_timeout;
        let mut unsent = 0;
        let mut tick_at = Instant::now();
        // Meanwhile the peers go on saying what they have taken.
        let flush = async {
            while !self.outs.is_empty() {
                tokio::select! {
                    biased;
                    Some(out) = self.outs.join_next() => unsent += out.unwrap_or(0),
                    () = sleep_until(tick_at) => {
                        tick_at = Instant::now() + TICK;
                        self.tick(engine, Instant::now());
                    }
                    input = sources.next() => self.on_input(engine, sources, input),
                }
            }
        };
        if until(deadline, flush).await.is_none() {
            // What is left says how much there was.
            for peer in self.peers.values() {
                if let State::Up { link, .. } = &peer.state {
                    link.end(DownReason::Local);
                }
            }
            while let Some(out) = self.outs.join_next().await {
                unsent += out.unwrap_or(0);
            }
        }
        unsent
    }

    fn on_input(&mut self, engine: &Engine, sources: &Sources, input: Input) {
        match input {
            Input::Presence(Some((writer, presence))) => self.on_presence(engine, writer, presence),
            Input::Presence(None) => count(&self.common.board.counters.unread),
            Input::Sample(way, sample) => {
                self.on_sample(engine, way, sample);
                // What else is there, without the cost of waiting for each sample, but not so much that nothing else gets its
                // turn.
                let reader = &sources.readers[way as usize];
                for sample in std::iter::from_fn(|| reader.take()).take(AT_ONCE) {
                    self.on_sample(engine, way, sample);
                }
            }
            Input::ToBus(to_bus) => {
                let taken = match to_bus {
                    ToBus::Broadcast(frame) => engine.broadcast(frame),
                    ToBus::Record(frame) => {
                        self.record.admits(&frame.payload, Instant::now()) && engine.record(frame)
                    }
                };
                if !taken {
                    count(&self.common.board.counters.bus_dropped);
                }
            }
        }
    }

    fn on_presence(&mut self, engine: &Engine, writer: Guid, presence: Presence) {
        let now = Instant::now();
        if let Some(known) = AgentId::new(&presence.agent)
            .ok()
            .and_then(|agent| self.peers.get_mut(&agent))
            && known.presence == presence
        {
            known.heard = now;
            return;
        }
        if presence == self.presence {
            return;
        }
        let Ok(agent) = AgentId::new(&presence.agent) else {
            return self.refuse(None, "presence-malformed", "its name is no agent id");
        };
        let claimed = PublicKey::from_bytes(&presence.public_key);
        let key = match (self.keys.trust(&agent), claimed) {
            (PeerTrust::Refuse, _) => {
                return self.refuse(Some(agent), "untrusted-peer", "it is there, and gets no traffic");
            }
            (PeerTrust::Key(key), Ok(claimed)) if key == claimed => key,
            (PeerTrust::Key(_), _) => {
                return self.refuse(
                    Some(agent),
                    "wrong-key",
                    "it shows another key than the one trusted for its name",
                );
            }
            (PeerTrust::AcceptClaimed, Ok(claimed)) => match self.peers.get(&agent) {
                Some(known) if known.key != claimed && !matches!(known.state, State::Gone) => {
                    return self.refuse(
                        Some(agent),
                        "wrong-key",
                        "another key than that of the link with this name",
                    );
                }
                _ => claimed,
            },
            (PeerTrust::AcceptClaimed, Err(_)) => {
                return self.refuse(Some(agent), "presence-malformed", "its key is none");
            }
        };
        if !self.meter.admits(&writer, now) {
            return self.refuse(
                Some(agent),
                "too-many-statements",
                "statements faster than they are checked",
            );
        }
        if presence.version != crate::statement::VERSION || !presence.verify(&key) {
            return self.refuse(
                Some(agent),
                "presence-bad-signature",
                "its presence does not verify",
            );
        }
        if agent == self.common.agent {
            let detail =
                "another program on this domain runs under this agent's name and key; stop one of the two";
            return self.refuse(Some(agent), "own-name", detail);
        }
        if let Some(known) = self.peers.get_mut(&agent) {
            if presence.epoch < known.presence.epoch
                || presence.epoch == known.presence.epoch && presence.life != known.presence.life
            {
                return self.refuse(
                    Some(agent),
                    "stale-epoch",
                    "an earlier life, or a second one at the same time",
                );
            }
            known.heard = now;
            if presence.life == known.presence.life {
                known.presence = presence;
                return;
            }
            known.presence = presence;
            known.key = key;
            if let State::Up { link, .. } = &known.state {
                link.end(DownReason::Replaced);
                known.state = State::Ending;
            }
            if !matches!(known.state, State::Ending) {
                self.greet(engine, &agent, None);
            }
            return;
        }
        if !self.has_room() {
            return self.refuse(Some(agent), "too-many-peers", "as many peers are known as may be");
        }
        let peer = Peer {
            key,
            presence,
            heard: now,
            participant: None,
            state: State::Gone,
        };
        self.peers.insert(agent.clone(), peer);
        self.greet(engine, &agent, None);
    }

    /// Whether there is room for one more peer, if need be in the place of one that is gone.
    fn has_room(&mut self) -> bool {
        if self.peers.len() < self.common.limits.max_peers {
            return true;
        }
        let gone = self
            .peers
            .iter()
            .find(|(_, peer)| matches!(peer.state, State::Gone));
        let Some(gone) = gone.map(|(id, _)| id.clone()) else {
            return false;
        };
        self.peers.remove(&gone);
        self.common.board.forget(&gone);
        true
    }

    /// Begins to greet a peer, with endpoints of its own: what an earlier link left in theirs ends with them.
    fn greet(&mut self, engine: &Engine, id: &AgentId, hello: Option<Hello>) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let opening = matches!(peer.state, State::Opening { .. });
        peer.state = State::Opening { hello };
        if opening {
            // For an earlier life, which will be noticed.
            return;
        }
        let (peer, life) = (id.clone(), peer.presence.life);
        let writers = engine.writers(&peer, life);
        self.opening.spawn(async move { (peer, life, writers.await) });
    }

    /// Writers into the inbox of a life of a peer were made, or not.
    fn on_opened(&mut self, engine: &Engine, id: &AgentId, life: u64, writers: Result<Writers, Failure>) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let State::Opening { hello } = &mut peer.state else {
            return;
        };
        let hello = hello.take();
        peer.state = State::Gone;
        if peer.presence.life != life {
            return self.greet(engine, id, hello);
        }
        let writers = match writers {
            Ok(writers) => writers,
            Err(error) => return tracing::warn!(peer = %id, %error, "no DDS writers for a peer"),
        };
        self.attempts += 1;
        let mut random = [0; 4];
        self.random.fill_bytes(&mut random);
        let local = u64::from(self.attempts) << 32 | u64::from(u32::from_be_bytes(random));
        let now = Instant::now();
        peer.state = State::Greeting(Greeting {
            writers: Arc::new(writers),
            local,
            hello,
            next: now,
            pause: HELLO_MIN,
            since: now,
        });
        self.common.board.connecting(id, self.clock.now());
    }

    fn on_sample(&mut self, engine: &Engine, way: Way, sample: Option<(Guid, Frame)>) {
        let Some((writer, frame)) = sample else {
            return count(&self.common.board.counters.unread);
        };
        if frame.kind == Kind::Statement && frame.number == 0 {
            return self.on_statement(engine, way, writer, &frame);
        }
        let link = match self.endpoints.get(&writer) {
            Some((peer, theirs)) if *theirs == way => match self.peers.get(peer).map(|peer| &peer.state) {
                Some(State::Up { link, .. }) => link,
                // Sent before its sender knew of the end.
                _ => return,
            },
            _ => return self.on_stray(engine, way, &writer),
        };
        match way {
            Way::Reliable if frame.link == link.local => link.arrived(frame),
            Way::BestEffort if frame.link == link.local => link.arrived_loose(frame.payload),
            Way::Broadcast if frame.link == 0 => link.arrived_loose(frame.payload),
            // Of an earlier link of the same life.
            _ => {}
        }
    }

    /// A sample from an endpoint that no link has.
    fn on_stray(&mut self, engine: &Engine, way: Way, writer: &Guid) {
        if *writer == engine.broadcast_guid() {
            return;
        }
        count(&self.common.board.counters.stray_samples);
        let participant = &writer[..12];
        // Broadcasts are for everybody, and what a peer sent before an end may come after it.
        let expected = way == Way::Broadcast
            || self
                .peers
                .values()
                .any(|peer| peer.participant.is_some_and(|known| known == participant));
        if !expected {
            let detail = "samples from an endpoint that no trusted agent has named as its own";
            self.refuse(None, "stray-samples", detail);
        }
    }

    fn on_statement(&mut self, engine: &Engine, way: Way, writer: Guid, frame: &Frame) {
        let now = Instant::now();
        let Some(signed) = Signed::read(&frame.payload) else {
            return self.refuse(None, "statement-malformed", "a statement that cannot be read");
        };
        if *signed.said.to() != self.common.agent {
            return;
        }
        let id = signed.said.from().clone();
        let Some(peer) = self.peers.get_mut(&id) else {
            // Its presence may be on its way; it will say hello again.
            return;
        };
        match &signed.said {
            Said::Alive(_) => {
                let State::Up {
                    link,
                    heard,
                    endpoints,
                    ..
                } = &mut peer.state
                else {
                    return;
                };
                if !endpoints.contains(&writer) {
                    return;
                }
                let Said::Alive(alive) = &signed.said else { return };
                if !link.is_news(alive) || !self.meter.admits_known(now) {
                    return;
                }
                if let Some(alive) = link.read(&frame.payload) {
                    link.alive(&alive);
                    *heard = now;
                }
            }
            Said::Hello(hello) => {
                // Cheap things first: a signature costs more than all of them together.
                let expected = hello.life == peer.presence.life
                    && hello.peer_life == self.presence.life
                    && hello.link != 0
                    && hello.reliable == writer
                    && way == Way::Reliable;
                let stale = match &peer.state {
                    State::Up { link, .. } => hello.link < link.remote,
                    State::Greeting(greeting) => greeting
                        .hello
                        .as_ref()
                        .is_some_and(|known| hello.link < known.link),
                    State::Opening { hello: known } => {
                        known.as_ref().is_some_and(|known| hello.link < known.link)
                    }
                    State::Ending | State::Gone => false,
                };
                if !expected || stale {
                    return;
                }
                if !self.meter.admits(&writer, now) {
                    return self.refuse(
                        Some(id),
                        "too-many-statements",
                        "statements faster than they are checked",
                    );
                }
                let key = peer.key;
                match signed.verify(&key) {
                    Some(Said::Hello(hello)) => self.on_hello(engine, &id, hello, now),
                    _ => self.refuse(Some(id), "hello-bad-signature", "a hello that does not verify"),
                }
            }
        }
    }

    /// A verified hello of a trusted peer's present life.
    fn on_hello(&mut self, engine: &Engine, id: &AgentId, hello: Hello, now: Instant) {
        if !self.still_trusted(id) {
            return self.refuse(Some(id.clone()), "untrusted-peer", "it is trusted no more");
        }
        let broadcast = engine.broadcast_guid();
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        peer.heard = now;
        match &mut peer.state {
            State::Greeting(greeting) => {
                let answered = hello.peer_link == greeting.local;
                let news = greeting
                    .hello
                    .as_ref()
                    .is_none_or(|known| known.link != hello.link);
                greeting.hello = Some(hello.clone());
                if news || answered {
                    // So that the peer hears an answer to its own, whether or not ours came through before.
                    say_hello(
                        &self.common,
                        &self.presence,
                        broadcast,
                        greeting,
                        &peer.presence,
                        id,
                    );
                }
                if answered {
                    self.link_up(id, &hello, now);
                }
            }
            State::Up { link, writers, .. } => {
                if hello.link > link.remote {
                    // It has begun anew: its link was lost, so ours is.
                    link.end(DownReason::Network);
                    peer.state = State::Ending;
                } else if hello.peer_link != link.local {
                    // Our answer has not reached it yet.
                    let again = Greeting {
                        writers: Arc::clone(writers),
                        local: link.local,
                        hello: Some(hello),
                        next: now,
                        pause: HELLO_MIN,
                        since: now,
                    };
                    say_hello(
                        &self.common,
                        &self.presence,
                        broadcast,
                        &again,
                        &peer.presence,
                        id,
                    );
                }
            }
            State::Opening { hello: known } => *known = Some(hello),
            State::Ending => {}
            State::Gone => self.greet(engine, id, Some(hello)),
        }
    }

    fn still_trusted(&self, id: &AgentId) -> bool {
        let known = self.peers.get(id).map(|peer| peer.key);
        match self.keys.trust(id) {
            PeerTrust::Refuse => false,
            PeerTrust::Key(key) => known == Some(key),
            PeerTrust::AcceptClaimed => true,
        }
    }

    fn link_up(&mut self, id: &AgentId, hello: &Hello, now: Instant) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let State::Greeting(greeting) = &peer.state else {
            return;
        };
        let writers = Arc::clone(&greeting.writers);
        let (link, feeds) = Link::new(
            &self.common,
            peer.key,
            Arc::clone(&writers),
            greeting.local,
            hello,
        );
        let endpoints = [hello.reliable, hello.best_effort, hello.bus];
        peer.participant = hello.reliable.first_chunk().copied();
        for (guid, way) in endpoints
            .iter()
            .zip([Way::Reliable, Way::BestEffort, Way::Broadcast])
        {
            self.endpoints.insert(*guid, (id.clone(), way));
        }
        peer.state = State::Up {
            link: Arc::clone(&link),
            writers,
            heard: now,
            endpoints,
        };
        let board = &self.common.board;
        board.up(id, Arc::clone(&link.outbound), self.clock.now());
        count(&board.counters.links_up);
        self.warn_at = None;
        tracing::info!(peer = %id, "DDS link up");
        let (incoming, waiting) = feeds.split();
        let (peer, local) = (id.clone(), link.local);
        let common = Arc::clone(&self.common);
        let clock = Arc::clone(&self.clock);
        let inward = Arc::clone(&link);
        self.ins.spawn(async move {
            let reason = inward.run_in(incoming).await;
            common.board.down(&peer, clock.now());
            let down = TransportEvent::LinkDown {
                peer: peer.clone(),
                reason,
            };
            common.events.push(down).await;
            (peer, local, reason)
        });
        self.outs.spawn(link.run_out(waiting));
    }

    /// A link's last event was handed over.
    fn on_over(&mut self, engine: &Engine, id: &AgentId, local: u64, reason: DownReason) {
        tracing::info!(peer = %id, reason = reason.as_str(), "DDS link down");
        self.endpoints.retain(|_, (peer, _)| peer != id);
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        if let State::Up { link, .. } = &peer.state
            && link.local != local
        {
            return;
        }
        peer.state = State::Gone;
        if reason != DownReason::PeerClosed {
            self.greet(engine, id, None);
        }
    }

    fn tick(&mut self, engine: &Engine, now: Instant) {
        let silence = self.common.limits.silence;
        let broadcast = engine.broadcast_guid();
        let mut forgotten = Vec::new();
        for (id, peer) in &mut self.peers {
            match &mut peer.state {
                State::Greeting(greeting) if now >= greeting.next => {
                    if now.saturating_duration_since(greeting.since.max(peer.heard)) > FORGET {
                        forgotten.push(id.clone());
                        continue;
                    }
                    greeting.next = now + greeting.pause;
                    greeting.pause = (greeting.pause * 2).min(HELLO_MAX);
                    say_hello(
                        &self.common,
                        &self.presence,
                        broadcast,
                        greeting,
                        &peer.presence,
                        id,
                    );
                }
                State::Up { link, heard, .. } => {
                    if now.saturating_duration_since(*heard) > silence {
                        link.end(DownReason::Timeout);
                        peer.state = State::Ending;
                    } else {
                        link.tell_in_time(now);
                        link.give_up_lost(now);
                    }
                }
                State::Opening { .. } | State::Greeting(_) | State::Ending | State::Gone => {}
            }
        }
        for id in forgotten {
            self.peers.remove(&id);
            self.common.board.forget(&id);
        }
        self.warn_if_alone(engine, now);
    }

    fn warn_if_alone(&mut self, engine: &Engine, now: Instant) {
        let found = engine.newly_found();
        self.found += found;
        for _ in 0..found {
            count(&self.common.board.counters.participants);
        }
        if self.warn_at.is_none_or(|at| now < at) {
            return;
        }
        self.warn_at = None;
        let detail = crate::warning::nobody(
            &self.config,
            self.found,
            self.peers.len(),
            engine.participant_id(),
        );
        tracing::warn!("{detail}");
        self.common.refused(None, "nobody-found", detail);
    }

    /// Tells of it, but not of the same thing again and again.
    fn refuse(&mut self, peer: Option<AgentId>, reason: &'static str, detail: &str) {
        count(&self.common.board.counters.refused);
        let now = Instant::now();
        let key = (peer.as_ref().map(ToString::to_string).unwrap_or_default(), reason);
        if self.refusals.get(&key).is_some_and(|at| now < *at + REFUSE_AGAIN) {
            return;
        }
        if self.refusals.len() >= REFUSALS {
            self.refusals.retain(|_, at| now < *at + REFUSE_AGAIN);
            if self.refusals.len() >= REFUSALS {
                return;
            }
        }
        self.refusals.insert(key, now);
        self.common.refused(peer, reason, detail.to_owned());
    }
}

/// All that comes in. A source is asked only when it has something: to ask all of them for each sample costs several microseconds.
struct Sources {
    all: SelectAll<BoxStream<'static, Input>>,
    /// By [`Way`].
    readers: [Arc<FrameReader>; 3],
}

enum Input {
    Presence(Option<(Guid, Presence)>),
    Sample(Way, Option<(Guid, Frame)>),
    ToBus(ToBus),
}

impl Sources {
    fn new(inputs: Inputs, mut bus: mpsc::Receiver<ToBus>) -> Self {
        let mut presence = inputs.presence;
        let presence =
            stream::poll_fn(move |context| presence.poll_next(context).map(Input::Presence).map(Some));
        // Its senders may be gone; that ends nothing.
        let bus = stream::poll_fn(move |context| bus.poll_recv(context).map(|out| out.map(Input::ToBus)));
        let mut all = SelectAll::new();
        all.push(presence.boxed());
        all.push(bus.boxed());
        let readers = [
            (Way::Reliable, inputs.reliable),
            (Way::BestEffort, inputs.best_effort),
            (Way::Broadcast, inputs.broadcast),
        ];
        let readers = readers.map(|(way, reader)| {
            let reader = Arc::new(reader);
            let samples = Arc::clone(&reader);
            let samples = stream::poll_fn(move |context| {
                samples
                    .poll_next(context)
                    .map(|sample| Some(Input::Sample(way, sample)))
            });
            all.push(samples.boxed());
            reader
        });
        Self { all, readers }
    }

    /// Cancel safe.
    async fn next(&mut self) -> Input {
        // A flood must not keep other tasks from running. Sources take turns, so it does not keep others from being read either.
        tokio::task::consume_budget().await;
        match self.all.next().await {
            Some(input) => input,
            None => std::future::pending().await,
        }
    }
}

fn say_hello(
    common: &Common,
    own: &Presence,
    broadcast: Guid,
    greeting: &Greeting,
    theirs: &Presence,
    id: &AgentId,
) {
    let hello = Said::Hello(Hello {
        from: common.agent.clone(),
        to: id.clone(),
        life: own.life,
        peer_life: theirs.life,
        link: greeting.local,
        peer_link: greeting.hello.as_ref().map_or(0, |hello| hello.link),
        window: common.limits.window_bytes as u64,
        max_frame: common.limits.max_frame as u64,
        reliable: greeting.writers.reliable.guid(),
        best_effort: greeting.writers.best_effort.guid(),
        bus: broadcast,
    });
    greeting.writers.reliable.try_write(Frame {
        source: Arc::clone(&common.name),
        destination: id.as_str().into(),
        kind: Kind::Statement,
        link: 0,
        number: 0,
        payload: hello.write(&common.identity),
    });
}
