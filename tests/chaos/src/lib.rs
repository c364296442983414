//! Chaos: a random story of agents, faults, deaths and attacks, then peace, and the question whether every promise was kept.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::needless_range_loop,
    reason = "a test ends where something is wrong"
)]

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use ifmesh_transport::{
    Clock as _, Envelope, IfTransport, Lane, Observer, Outcome, Policy, Receipt, Refusal, Road, RoadHealth,
    Router, RouterConfig, SessionEvent, SubmitError,
};
use ifmesh_transport_mem::{Agents, Faults, MemTransport, Mesh, Trace, draft, simulate};
use ifmsg::{
    AgentId, Delivery, Destination, Draft, Mark, SignedMessage, Stamp, Stream, canonical::Limits,
    encode_binary, sign_flight,
};
use proptest::{
    prelude::*,
    test_runner::{FileFailurePersistence, RngSeed, TestRunner},
};
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};

/// The agents; the last two of a story's cast are nobody's friends.
const NAMES: [&str; 8] = ["ada", "bea", "cyd", "dan", "eli", "fay", "gus", "hal"];
/// Linked to everyone, its key trusted by nobody.
const STRANGER: &str = "mallory";
/// Linked to everyone, its key trusted; its program is not ours.
const TRAITOR: &str = "trudy";

/// Small bounds, so that every story meets them.
const WINDOW: usize = 24;
const INBOX: usize = 16;
const BEST_EFFORT: usize = 12;

/// Milliseconds, many times the longest timer of a session, 5 s. A router on top waits no longer than 60 s before it trusts a road
/// again; until then it has another.
const PEACE: u64 = 25_000;

/// One thing that happens. Numbers are taken modulo what there is.
#[derive(Debug, Clone)]
pub enum Op {
    /// Some messages from one agent to another, or to everyone.
    Send {
        /// From and to.
        pair: (u8, u8),
        /// To everyone.
        broadcast: bool,
        /// Reliable or best effort.
        reliable: bool,
        /// Milliseconds until they expire.
        ttl: Option<u16>,
        /// How many.
        count: u8,
    },
    /// One agent goes on talking to another: so many messages, milliseconds apart.
    Chatter((u8, u8), u8, u8),
    /// Milliseconds pass.
    Pass(u16),
    /// Faults on one road, for one direction between two agents, or for all.
    Faults(u8, Option<(u8, u8)>, Weather),
    /// On one road the agents whose bit is set are cut off from the rest.
    Partition(u8, u8, bool),
    /// Undoes all partitions and faults of a road.
    Heal(u8),
    /// A link of a road fails, and is set up again.
    Break(u8, u8, u8),
    /// An agent dies.
    Crash(u8),
    /// An agent starts again, with what its disk remembers, or with an empty one.
    Restart(u8, bool),
    /// An agent sends again, under the same ids, what a former life of it left without an outcome.
    Again(u8),
    /// An agent's disk fails, or works again.
    Disk(u8, bool),
    /// An agent's application stops reading, or goes on.
    Pause(u8, bool),
    /// An agent's transport on one road becomes slow (milliseconds for an event).
    Slow(u8, u8, u8),
    /// Somebody attacks an agent; the number chooses what is captured, changed, claimed.
    Attack(Attack, u8, u32),
}

/// What a link does.
#[derive(Debug, Clone)]
pub struct Weather {
    /// Percent.
    pub loss: u8,
    /// Percent.
    pub duplication: u8,
    /// Percent.
    pub corruption: u8,
    /// Percent.
    pub reordering: u8,
    /// Milliseconds.
    pub latency: (u8, u8),
    /// Kilobytes per second.
    pub bandwidth: Option<u8>,
}

/// What attackers do.
#[derive(Debug, Clone, Copy)]
pub enum Attack {
    /// Sends a captured message again, unchanged.
    Replay,
    /// Sends a captured message again, with one bit changed.
    Flip,
    /// Signs with a key that nobody trusts, under a trusted name.
    UnknownKey,
    /// Signs with a trusted key, under another agent's name.
    WrongSource,
    /// Says two things under one number.
    Equivocate,
    /// Keeps back what an agent sends, and hands it over after that agent's restart, again and again.
    Withhold,
}

/// Which things happen how often.
#[derive(Debug, Clone, Copy)]
pub struct Mix {
    /// Bad links.
    pub weather: u32,
    /// Partitions and broken links.
    pub partitions: u32,
    /// Crashes and restarts.
    pub deaths: u32,
    /// Slow applications and transports, broken disks.
    pub slowness: u32,
    /// Attacks.
    pub attacks: u32,
    /// Long talks.
    pub chatter: u32,
}

/// A whole story.
#[derive(Debug, Clone)]
pub struct Story {
    /// Of the mesh.
    pub seed: u64,
    /// 2 to 8.
    pub agents: usize,
    /// How each of them uses its roads; empty: there is one road, and no router.
    pub policies: Vec<Policy>,
    /// 1 to 3.
    pub roads: usize,
    /// What happens.
    pub ops: Vec<Op>,
}

/// A kind of stories: what tests and `cargo xtask chaos` play.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// Its name, for people.
    pub name: &'static str,
    /// Over two or three roads, with routers; or over one, without.
    pub routed: bool,
    /// What happens in it.
    pub mix: Mix,
}

const CALM: Mix = Mix {
    weather: 2,
    partitions: 2,
    deaths: 1,
    slowness: 1,
    attacks: 1,
    chatter: 1,
};

/// All kinds of stories.
pub const KINDS: [Kind; 9] = [
    kind("router-weather", true, Mix { weather: 8, ..CALM }),
    kind(
        "router-partitions",
        true,
        Mix {
            partitions: 8,
            ..CALM
        },
    ),
    kind("router-deaths", true, Mix { deaths: 8, ..CALM }),
    kind(
        "router-everything",
        true,
        Mix {
            weather: 5,
            partitions: 5,
            deaths: 5,
            slowness: 5,
            attacks: 5,
            chatter: 2,
        },
    ),
    kind(
        "router-talks",
        true,
        Mix {
            weather: 6,
            chatter: 14,
            ..CALM
        },
    ),
    kind(
        "session-weather",
        false,
        Mix {
            weather: 8,
            slowness: 3,
            partitions: 1,
            ..CALM
        },
    ),
    kind(
        "session-partitions",
        false,
        Mix {
            partitions: 8,
            ..CALM
        },
    ),
    kind(
        "session-deaths",
        false,
        Mix {
            deaths: 8,
            partitions: 1,
            ..CALM
        },
    ),
    kind(
        "session-attack",
        false,
        Mix {
            attacks: 10,
            deaths: 2,
            weather: 1,
            partitions: 1,
            ..CALM
        },
    ),
];

const fn kind(name: &'static str, routed: bool, mix: Mix) -> Kind {
    Kind { name, routed, mix }
}

/// The kind of this name, which must be one.
pub fn kind_named(name: &str) -> Kind {
    KINDS.into_iter().find(|kind| kind.name == name).unwrap()
}

/// Random stories of a kind: over one road; or over two or three, each with faults of its own, and at the end only one heals.
pub fn stories(kind: Kind) -> BoxedStrategy<Story> {
    if kind.routed {
        routed_stories(kind.mix).boxed()
    } else {
        plain_stories(kind.mix).boxed()
    }
}

/// What [`run`] plays.
#[derive(Debug, Clone, Copy)]
pub struct Batch {
    /// Which stories.
    pub kind: Kind,
    /// How many.
    pub cases: u32,
    /// Of all of them; `None` takes a seed of its own each time.
    pub seed: Option<u64>,
    /// Makes a story that fails as small as it can, and writes its seed to the regressions, which are played first.
    pub record: bool,
}

/// Plays a batch of random stories. `Err` is the story that failed, for people, and why.
pub fn run(batch: Batch) -> Result<(), String> {
    let file = format!(
        "{}/regressions/{}.txt",
        env!("CARGO_MANIFEST_DIR"),
        batch.kind.name
    );
    let file: &'static str = Box::leak(file.into_boxed_str());
    let persistence = FileFailurePersistence::Direct(file);
    let config = ProptestConfig {
        cases: batch.cases,
        rng_seed: batch.seed.map_or(RngSeed::Random, RngSeed::Fixed),
        failure_persistence: batch.record.then(|| Box::new(persistence) as _),
        max_shrink_iters: if batch.record { 4_000 } else { 0 },
        ..ProptestConfig::default()
    };
    let outcome = TestRunner::new(config).run(&stories(batch.kind), |story| {
        play(&story);
        Ok(())
    });
    outcome.map_err(|error| error.to_string())
}

/// For tests: plays that many stories of a kind, or as many as `PROPTEST_CASES` says, and panics with the one that fails.
pub fn check(kind: &str, usual: u32) {
    let kind = kind_named(kind);
    let batch = Batch {
        kind,
        cases: cases(usual),
        seed: None,
        record: true,
    };
    if let Err(failure) = run(batch) {
        panic!("{failure}");
    }
}

/// As many cases as `PROPTEST_CASES` says; without it, `usual`.
pub fn cases(usual: u32) -> u32 {
    let given = std::env::var("PROPTEST_CASES").ok();
    given.and_then(|cases| cases.parse().ok()).unwrap_or(usual)
}

fn plain_stories(mix: Mix) -> impl Strategy<Value = Story> {
    let agents = prop_oneof![6 => 2..=3usize, 2 => 4..=5usize, 1 => 6..=8usize];
    (any::<u64>(), agents, prop::collection::vec(op(mix), 1..40)).prop_map(|(seed, agents, ops)| Story {
        seed,
        agents,
        policies: Vec::new(),
        roads: 1,
        ops,
    })
}

fn routed_stories(mix: Mix) -> impl Strategy<Value = Story> {
    let agents = prop_oneof![8 => 2..=3usize, 2 => 4..=5usize, 1 => 6..=8usize];
    let policy = prop_oneof![
        3 => Just(Policy::Failover),
        2 => Just(Policy::HEDGED),
        1 => Just(Policy::FanOut { roads: None }),
        1 => Just(Policy::FanOut { roads: Some(2) }),
    ];
    let policies = prop::collection::vec(policy, 8);
    let ops = prop::collection::vec(op(mix), 1..24);
    (any::<u64>(), agents, 2..=3usize, policies, ops).prop_map(|(seed, agents, roads, policies, ops)| Story {
        seed,
        agents,
        policies,
        roads,
        ops,
    })
}

fn op(mix: Mix) -> impl Strategy<Value = Op> {
    let pair = || (any::<u8>(), any::<u8>());
    let send = (
        pair(),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.8),
        prop::option::weighted(0.2, 1..2_000u16),
        1..20u8,
    )
        .prop_map(|(pair, broadcast, reliable, ttl, count)| Op::Send {
            pair,
            broadcast,
            reliable,
            ttl,
            count,
        });
    let weather = (
        0..60u8,
        0..40u8,
        0..30u8,
        0..50u8,
        (0..60u8, 0..120u8),
        prop::option::weighted(0.2, 20..200u8),
    )
        .prop_map(
            |(loss, duplication, corruption, reordering, latency, bandwidth)| Weather {
                loss,
                duplication,
                corruption,
                reordering,
                latency,
                bandwidth,
            },
        );
    let attack = prop_oneof![
        3 => Just(Attack::Replay),
        2 => Just(Attack::Flip),
        1 => Just(Attack::UnknownKey),
        1 => Just(Attack::WrongSource),
        1 => Just(Attack::Equivocate),
        1 => Just(Attack::Withhold),
    ];
    prop_oneof![
        14 => send,
        6 => prop_oneof![3 => 1..100u16, 2 => 100..3_000u16, 1 => 3_000..40_000u16].prop_map(Op::Pass),
        mix.chatter => (pair(), 10..60u8, 1..30u8).prop_map(|(pair, count, gap)| Op::Chatter(pair, count, gap)),
        mix.weather => (any::<u8>(), prop::option::of(pair()), weather)
            .prop_map(|(road, at, weather)| Op::Faults(road, at, weather)),
        mix.partitions => prop_oneof![
            3 => (any::<u8>(), any::<u8>(), any::<bool>())
                .prop_map(|(road, mask, one_way)| Op::Partition(road, mask, one_way)),
            2 => any::<u8>().prop_map(Op::Heal),
            2 => (any::<u8>(), pair()).prop_map(|(road, (a, b))| Op::Break(road, a, b)),
        ],
        mix.deaths => prop_oneof![
            2 => any::<u8>().prop_map(Op::Crash),
            2 => any::<u8>().prop_map(Op::Again),
            3 => (any::<u8>(), prop::bool::weighted(0.8)).prop_map(|(who, disk)| Op::Restart(who, disk)),
        ],
        mix.slowness => prop_oneof![
            2 => any::<u8>().prop_map(|who| Op::Pause(who, true)),
            2 => any::<u8>().prop_map(|who| Op::Pause(who, false)),
            1 => (any::<u8>(), any::<u8>(), 0..30u8).prop_map(|(road, who, pace)| Op::Slow(road, who, pace)),
            1 => (any::<u8>(), any::<bool>()).prop_map(|(who, broken)| Op::Disk(who, broken)),
        ],
        mix.attacks => (attack, any::<u8>(), any::<u32>()).prop_map(|(kind, who, n)| Op::Attack(kind, who, n)),
    ]
}

/// Plays a story to its end, and panics if a promise was broken. Returns the traces of its roads.
pub fn play(story: &Story) -> Vec<Trace> {
    let story = story.clone();
    simulate(story.seed, async move |mesh| {
        let mut world = World::new(mesh, &story);
        for op in &story.ops {
            world.act(op).await;
            world.check_bounds();
        }
        world.make_peace(story.seed).await;
        world.judge();
        world.check_budgets(&story.policies);
        world.check_idle().await;
        world.check_failback(story.seed);
        world.roads.iter().map(Mesh::trace).collect()
    })
    .unwrap()
}

/// The routers of all lives, and whose they are.
type Routers = Arc<Mutex<Vec<(usize, Arc<Router>)>>>;

/// A message that was handed to a session.
struct Sent {
    from: usize,
    /// Which life of the sender.
    life: usize,
    to: Option<usize>,
    /// Its number: that of the message which it repeats, or its own.
    number: usize,
    reliable: bool,
    expires: bool,
    /// Peers that were up when it was broadcast, and must be among its recipients.
    audience: BTreeSet<AgentId>,
    receipt: Option<Receipt>,
    outcomes: Option<Vec<(AgentId, Outcome)>>,
}

/// A message that an application got.
#[derive(Debug, Clone)]
struct Got {
    by: usize,
    life: usize,
    source: AgentId,
    epoch: u64,
    stream: Stream,
    sequence: u64,
    payload: Value,
}

/// The end of a life: what its disk held.
struct Death {
    marks: Vec<([u8; 32], Mark)>,
}

struct World {
    mesh: Mesh,
    /// The mesh, and others beside it.
    roads: Vec<Mesh>,
    routers: Routers,
    agents: Agents,
    count: usize,
    /// For each agent, what its disk held at the start of each life but the first.
    deaths: Vec<Vec<Death>>,
    running: Vec<bool>,
    paused: Vec<watch::Sender<bool>>,
    readers: Vec<Option<JoinHandle<()>>>,
    sent: Vec<Sent>,
    got: Arc<Mutex<Vec<Got>>>,
    captured: Arc<Tap>,
    stranger: Vec<Arc<MemTransport>>,
    traitor: Vec<Arc<MemTransport>>,
    lies: u64,
}

/// Hears all that is sent.
#[derive(Debug, Default)]
struct Tap(Mutex<Vec<SignedMessage>>);

impl Observer for Tap {
    fn on_event(&self, event: &SessionEvent) {
        if let SessionEvent::Sent { flight, .. } = event {
            let messages = flight.messages.iter().map(|(message, _)| message.clone());
            self.0.lock().unwrap().extend(messages);
        }
    }
}

impl World {
    fn new(mesh: Mesh, story: &Story) -> Self {
        let count = story.agents;
        let captured = Arc::new(Tap::default());
        let tap = captured.clone();
        let key = *mesh.identity(TRAITOR).public_key();
        let others: Vec<Mesh> = (1..story.roads as u64)
            .map(|road| Mesh::new(story.seed ^ road))
            .collect();
        let roads: Vec<Mesh> = std::iter::once(&mesh).chain(&others).cloned().collect();
        let routers: Routers = Arc::default();
        let (made, policies, dice) = (routers.clone(), story.policies.clone(), mesh.clone());
        let connect = move |name: &str, mut transports: Vec<Arc<MemTransport>>| {
            let who = NAMES.iter().position(|known| *known == name).unwrap();
            let Some(&policy) = policies.get(who) else {
                return transports.remove(0) as Arc<dyn IfTransport>;
            };
            let roads = transports.into_iter().enumerate();
            let roads = roads
                .map(|(road, transport)| Road::new(format!("road-{road}"), transport))
                .collect();
            let life = made.lock().unwrap().len();
            let random = Box::new(dice.rng(&format!("router {life}")));
            let router = Router::start(roads, RouterConfig::new(policy), random).unwrap();
            made.lock().unwrap().push((who, router.clone()));
            router
        };
        let agents = mesh
            .agents_over(
                &others,
                &NAMES[..count],
                move |_, config| {
                    config.observer = Some(tap.clone());
                    config.limits.window_messages = WINDOW;
                    config.limits.inbox_messages = INBOX;
                    config.limits.best_effort_queue = BEST_EFFORT;
                    let all = ifmsg::Permissions::ALL;
                    config
                        .trust
                        .bind(AgentId::new(TRAITOR).unwrap(), key, all)
                        .unwrap();
                },
                connect,
            )
            .unwrap();
        let join = |name| roads.iter().map(|road| road.join(name).unwrap()).collect();
        let (stranger, traitor) = (join(STRANGER), join(TRAITOR));
        let mut world = Self {
            agents,
            readers: (0..count).map(|_| None).collect(),
            count,
            deaths: (0..count).map(|_| Vec::new()).collect(),
            running: vec![true; count],
            paused: (0..count).map(|_| watch::channel(false).0).collect(),
            sent: Vec::new(),
            got: Arc::default(),
            captured,
            stranger,
            traitor,
            lies: 0,
            mesh,
            roads,
            routers,
        };
        (0..count).for_each(|who| world.read(who));
        world
    }

    /// An application that reads, unless it is paused.
    fn read(&mut self, who: usize) {
        let session = self.agents.session(NAMES[who]).unwrap();
        let life = self.deaths[who].len();
        let (got, mut paused) = (self.got.clone(), self.paused[who].subscribe());
        let reader = tokio::spawn(async move {
            while paused.wait_for(|paused| !paused).await.is_ok() {
                let taken = tokio::select! {
                    biased;
                    _ = paused.wait_for(|paused| *paused) => continue,
                    taken = session.next() => taken,
                };
                let Some(taken) = taken else { return };
                let message = taken.commit();
                let header = message.header();
                got.lock().unwrap().push(Got {
                    by: who,
                    life,
                    source: message.source().clone(),
                    epoch: header.epoch,
                    stream: header.stream(),
                    sequence: header.sequence,
                    payload: message.payload(),
                });
            }
        });
        self.readers[who] = Some(reader);
    }

    async fn act(&mut self, op: &Op) {
        let who = |n: u8| usize::from(n) % self.count;
        let two = |(a, b): (u8, u8)| {
            let a = usize::from(a) % self.count;
            (a, (a + 1 + usize::from(b) % (self.count - 1)) % self.count)
        };
        let road = |n: u8| &self.roads[usize::from(n) % self.roads.len()];
        match *op {
            Op::Send {
                pair,
                broadcast,
                reliable,
                ttl,
                count,
            } => {
                let (from, to) = two(pair);
                for _ in 0..count {
                    self.send(from, (!broadcast).then_some(to), reliable, ttl);
                }
            }
            Op::Chatter(pair, count, gap) => {
                let (from, to) = two(pair);
                for _ in 0..count {
                    self.send(from, Some(to), true, None);
                    pass(gap.into()).await;
                }
            }
            Op::Pass(millis) => pass(millis.into()).await,
            Op::Faults(n, at, ref weather) => {
                let faults = weather.faults();
                match at.map(two) {
                    Some((a, b)) => road(n).faults_from(NAMES[a], NAMES[b], faults).unwrap(),
                    None => road(n).faults(faults).unwrap(),
                }
            }
            Op::Partition(n, mask, one_way) => {
                let inside = |at: &usize| mask & (1 << at) != 0;
                let (a, b): (Vec<usize>, Vec<usize>) = (0..self.count).partition(inside);
                let names = |them: Vec<usize>| them.into_iter().map(|at| NAMES[at]).collect::<Vec<_>>();
                let (a, b) = (names(a), names(b));
                if one_way {
                    road(n).partition_one_way(&a, &b).unwrap();
                } else {
                    road(n).partition(&a, &b).unwrap();
                }
            }
            Op::Heal(n) => road(n).heal(),
            Op::Break(n, a, b) => {
                let (a, b) = two((a, b));
                road(n).break_link(NAMES[a], NAMES[b]).unwrap();
            }
            Op::Crash(n) => {
                let who = who(n);
                if self.running[who] {
                    self.crash(who);
                }
            }
            Op::Restart(n, with_disk) => {
                let who = who(n);
                if self.running[who] {
                    self.crash(who);
                }
                if !with_disk {
                    self.agents.disk(NAMES[who]).unwrap().wipe();
                }
                self.restart(who);
            }
            Op::Again(n) => {
                let (who, life) = (who(n), self.deaths[who(n)].len());
                let left = self
                    .sent
                    .iter()
                    .filter(|sent| sent.from == who && sent.life < life && sent.reliable);
                let left: Vec<_> = left
                    .filter(|sent| !sent.expires)
                    .map(|sent| (sent.number, sent.to))
                    .collect();
                for (number, to) in left.into_iter().rev().take(8) {
                    if to.is_some() {
                        self.send_again(number, who, to, true, None);
                    }
                }
            }
            Op::Disk(n, broken) => self.agents.disk(NAMES[who(n)]).unwrap().set_broken(broken),
            Op::Pause(n, paused) => _ = self.paused[who(n)].send_replace(paused),
            Op::Slow(at, n, pace) => {
                let pace = Duration::from_millis(pace.into());
                road(at).slow_receiver(NAMES[who(n)], pace).unwrap();
            }
            Op::Attack(attack, n, number) => {
                let victim = who(n);
                self.attack(attack, victim, number).await;
            }
        }
    }

    fn send(&mut self, from: usize, to: Option<usize>, reliable: bool, ttl: Option<u16>) {
        self.send_again(self.sent.len(), from, to, reliable, ttl);
    }

    fn send_again(
        &mut self,
        number: usize,
        from: usize,
        to: Option<usize>,
        reliable: bool,
        ttl: Option<u16>,
    ) {
        if !self.running[from] {
            return;
        }
        let session = self.agents.session(NAMES[from]).unwrap();
        let expires = ttl.map(|ttl| self.agents.clock().now().plus_millis(ttl.into()));
        let id = format!("m-{number}").as_str().try_into().unwrap();
        let mut draft = draft(to.map_or("*", |to| NAMES[to]), json!({ "n": number }))
            .unwrap()
            .id(id);
        if let Some(at) = expires {
            draft = draft.expires(at);
        }
        if !reliable {
            draft = draft.delivery(Delivery::BestEffort);
        }
        let up = session.peers().into_iter().filter(|peer| peer.up);
        let audience = up.map(|peer| peer.peer).collect();
        let receipt = match session.try_send(draft) {
            Err(SubmitError::WindowFull) => return,
            receipt => receipt.unwrap(),
        };
        self.sent.push(Sent {
            from,
            life: self.deaths[from].len(),
            to,
            number,
            reliable,
            expires: ttl.is_some(),
            audience,
            receipt: Some(receipt),
            outcomes: None,
        });
    }

    fn crash(&mut self, who: usize) {
        self.running[who] = false;
        // The application dies as well.
        self.readers[who].take().unwrap().abort();
        self.agents.crash(NAMES[who]).unwrap();
    }

    fn restart(&mut self, who: usize) {
        let marks = self.agents.disk(NAMES[who]).unwrap().marks();
        let marks = marks
            .into_iter()
            .map(|(key, mark)| (*key.as_bytes(), mark))
            .collect();
        self.deaths[who].push(Death { marks });
        self.agents.restart(NAMES[who]).unwrap();
        self.running[who] = true;
        self.read(who);
    }

    async fn attack(&mut self, attack: Attack, victim: usize, number: u32) {
        let other = NAMES[(victim + 1) % self.count];
        let lie = |source: &str, signer: &str, sequence: u64, payload: Value| {
            let stamp = Stamp {
                id: format!("lie-{number}").as_str().try_into().unwrap(),
                source: AgentId::new(source).unwrap(),
                timestamp: self.agents.clock().now(),
                // As it is now, or as it may be after a restart.
                epoch: u64::try_from(self.agents.clock().now().unix_millis()).unwrap(),
                sequence,
            };
            let to = Destination::new(NAMES[victim]).unwrap();
            let delivery = if number.is_multiple_of(2) || signer == TRAITOR && source == TRAITOR {
                Delivery::BestEffort
            } else {
                Delivery::Reliable
            };
            let message = Draft::new(to, payload)
                .delivery(delivery)
                .stamp(stamp, &Limits::default());
            sign_flight(&self.mesh.identity(signer), vec![message.unwrap()])
                .unwrap()
                .remove(0)
        };
        let frames: Vec<Bytes> = match attack {
            Attack::Replay | Attack::Flip => {
                let captured = self.captured.0.lock().unwrap();
                let Some(message) = captured.get(number as usize % captured.len().max(1)) else {
                    return;
                };
                let mut frame = match number % 3 {
                    0 => message.to_json(),
                    _ => encode_binary(std::slice::from_ref(message)).unwrap().to_vec(),
                };
                if matches!(attack, Attack::Flip) {
                    let at = number as usize / 7 % frame.len();
                    frame[at] ^= 1 << (number % 8);
                }
                vec![frame.into()]
            }
            Attack::UnknownKey => vec![lie(other, STRANGER, 1, json!({ "forged": 1 })).to_json().into()],
            Attack::WrongSource => vec![
                lie(other, TRAITOR, number.max(1).into(), json!({ "forged": 2 }))
                    .to_json()
                    .into(),
            ],
            Attack::Equivocate => {
                self.lies += 1;
                let one = lie(TRAITOR, TRAITOR, self.lies, json!({ "said": 1 })).to_json();
                let two = lie(TRAITOR, TRAITOR, self.lies, json!({ "said": 2 })).to_json();
                vec![one.into(), two.into()]
            }
            Attack::Withhold => return self.withhold(victim, number).await,
        };
        self.deliver_by_attackers(victim, number, frames).await;
    }

    /// What another agent tells the victim is lost; when that agent has died and lives again, it comes after all.
    async fn withhold(&mut self, victim: usize, number: u32) {
        let other = (victim + 1) % self.count;
        for road in &self.roads {
            let silence = Faults::none().loss(1.0);
            road.faults_from(NAMES[other], NAMES[victim], silence).unwrap();
        }
        (0..3).for_each(|_| self.send(other, Some(victim), true, None));
        pass(20).await;
        if self.running[other] {
            self.crash(other);
        }
        self.restart(other);
        for road in &self.roads {
            road.faults_from(NAMES[other], NAMES[victim], Faults::none())
                .unwrap();
        }
        for _ in 0..5 {
            pass(300).await;
            let frames = self.withheld(other, victim);
            self.deliver_by_attackers(victim, number, frames).await;
            self.send(other, Some(victim), true, None);
        }
    }

    /// Reliable messages of former lives of an agent that another has never got.
    fn withheld(&self, from: usize, to: usize) -> Vec<Bytes> {
        let got = self.got.lock().unwrap();
        let known: BTreeSet<(u64, u64)> = got
            .iter()
            .filter(|got| {
                got.by == to && got.source.as_str() == NAMES[from] && got.stream == Stream::Reliable
            })
            .map(|got| (got.epoch, got.sequence))
            .collect();
        let captured = self.captured.0.lock().unwrap();
        let from_here = |message: &&SignedMessage| {
            let header = message.header();
            let is_there =
                matches!(&header.destination, Destination::Agent(agent) if agent.as_str() == NAMES[to]);
            header.source.as_str() == NAMES[from] && is_there && header.stream() == Stream::Reliable
        };
        let present = captured
            .iter()
            .filter(from_here)
            .map(|message| message.header().epoch)
            .max();
        let unknown = |message: &&SignedMessage| {
            let header = message.header();
            Some(header.epoch) != present && !known.contains(&(header.epoch, header.sequence))
        };
        let mut withheld: Vec<&SignedMessage> = captured.iter().filter(from_here).filter(unknown).collect();
        withheld.sort_by_key(|message| (message.header().epoch, message.header().sequence));
        withheld.dedup_by_key(|message| (message.header().epoch, message.header().sequence));
        withheld
            .iter()
            .rev()
            .take(8)
            .rev()
            .map(|message| message.to_json().into())
            .collect()
    }

    async fn deliver_by_attackers(&self, victim: usize, number: u32, frames: Vec<Bytes>) {
        let links = if number % 5 < 2 {
            &self.stranger
        } else {
            &self.traitor
        };
        let link = &links[number as usize / 3 % links.len()];
        for frame in frames {
            let lane = if number.is_multiple_of(4) {
                Lane::Reliable
            } else {
                Lane::BestEffort
            };
            // Whether there is a link now is the network's business.
            let sending = link.send(Envelope::new(AgentId::new(NAMES[victim]).unwrap(), lane, frame));
            _ = tokio::time::timeout(Duration::from_millis(100), sending).await;
        }
    }

    /// Nobody makes a session keep more than its limits allow.
    fn check_bounds(&self) {
        let got = self.got.lock().unwrap();
        for who in (0..self.count).filter(|who| self.running[*who]) {
            let session = self.agents.session(NAMES[who]).unwrap();
            for peer in session.peers() {
                assert!(peer.unacknowledged <= 2 * WINDOW, "{who}: {peer:?}");
            }
            let life = self.deaths[who].len();
            let taken = got.iter().filter(|got| got.by == who && got.life == life).count() as u64;
            // One more for each of a peer's two streams: the next one in order always fits.
            let most = self.count * (INBOX + 2) + BEST_EFFORT;
            let waiting = session.metrics().received - taken;
            assert!(
                waiting <= most as u64 + session.metrics().dropped,
                "{who}: {waiting} wait in the inbox"
            );
        }
    }

    /// Everybody lives, one road is perfect, attackers are gone; waits until nothing happens any more. The other roads stay as they
    /// are, or fall silent without a word.
    async fn make_peace(&mut self, seed: u64) {
        let healed = seed as usize % self.roads.len();
        self.roads[healed].heal();
        if falls_silent(seed) {
            for (_, road) in self.roads.iter().enumerate().filter(|(at, _)| *at != healed) {
                road.heal();
                road.faults(Faults::none().loss(1.0)).unwrap();
            }
        }
        for road in &self.roads {
            for name in [STRANGER, TRAITOR] {
                road.crash(name).unwrap();
            }
            for name in &NAMES[..self.count] {
                road.slow_receiver(name, Duration::ZERO).unwrap();
            }
        }
        for who in 0..self.count {
            self.agents.disk(NAMES[who]).unwrap().set_broken(false);
            self.paused[who].send_replace(false);
            if !self.running[who] {
                self.restart(who);
            }
        }
        pass(PEACE).await;
        // And everybody can still speak to everybody.
        for from in 0..self.count {
            for to in (0..self.count).filter(|to| *to != from) {
                self.send(from, Some(to), true, None);
            }
            self.send(from, None, true, None);
        }
        pass(PEACE).await;
        for sent in &mut self.sent {
            let outcomes = sent.receipt.take().unwrap().outcomes();
            sent.outcomes = tokio::time::timeout(Duration::from_millis(1), outcomes)
                .await
                .ok();
        }
    }

    fn judge(&self) {
        let got = self.got.lock().unwrap().clone();
        let id = |who: usize| AgentId::new(NAMES[who]).unwrap();
        let mut deliveries: BTreeMap<(usize, usize), Vec<&Got>> = BTreeMap::new();
        let mut order: BTreeMap<(usize, usize, AgentId, Stream), (u64, u64)> = BTreeMap::new();
        let mut said = BTreeMap::new();
        for one in &got {
            if one.source.as_str() == TRAITOR {
                let place = (one.by, one.life, one.epoch, one.sequence);
                let twice = said.insert(place, one.payload.clone());
                assert!(twice.is_none(), "two things under one number: {one:?}, {twice:?}");
                continue;
            }
            let number = one.payload["n"].as_u64();
            let number = number.unwrap_or_else(|| panic!("forged: {one:?}")) as usize;
            let sent = self
                .sent
                .get(number)
                .unwrap_or_else(|| panic!("never sent: {one:?}"));
            assert_eq!(one.payload, json!({ "n": number }), "changed: {one:?}");
            assert_eq!(one.source, id(sent.from), "under another name: {one:?}");
            assert!(
                sent.to.is_none_or(|to| to == one.by),
                "for somebody else: {one:?}"
            );
            assert_eq!(one.stream.is_reliable(), sent.reliable);
            deliveries.entry((one.by, number)).or_default().push(one);
            if sent.reliable {
                let stream = (one.by, one.life, one.source.clone(), one.stream);
                let place = (one.epoch, one.sequence);
                let before = order.insert(stream, place);
                assert!(before < Some(place), "out of order: {one:?} after {before:?}");
            }
        }
        for ((by, number), copies) in &deliveries {
            for pair in copies.windows(2) {
                let (first, second) = (pair[0], pair[1]);
                assert!(
                    first.life < second.life,
                    "{number} came twice to {by}: {first:?}, {second:?}"
                );
                // Only a life that knew nothing of the former delivery may get it again. Ids are remembered for one life.
                if (first.epoch, first.sequence) != (second.epoch, second.sequence) {
                    continue;
                }
                let covered = self.deaths[*by][second.life - 1].covers(&self.mesh, first);
                assert!(
                    !covered,
                    "{number} came twice to {by}, though it was on record: {first:?}, {second:?}"
                );
            }
        }
        for sent in self.sent.iter().filter(|sent| sent.reliable) {
            let number = sent.number;
            let alive = sent.life == self.deaths[sent.from].len();
            let who = id(sent.from);
            let Some(outcomes) = &sent.outcomes else {
                panic!("{number} of {who} has no outcome");
            };
            let recipients: BTreeSet<AgentId> = outcomes.iter().map(|(peer, _)| peer.clone()).collect();
            match sent.to {
                Some(to) => assert_eq!(recipients, BTreeSet::from([id(to)])),
                None => assert!(sent.audience.is_subset(&recipients), "{number}: {recipients:?}"),
            }
            for (peer, outcome) in outcomes {
                let to = NAMES.iter().position(|name| *name == peer.as_str()).unwrap();
                let copies = deliveries.get(&(to, number)).map_or(0, Vec::len);
                let is_fair = match outcome {
                    Outcome::Acknowledged => copies > 0,
                    Outcome::Expired => sent.expires,
                    // A receiver that has lost its memory may refuse what its former life took.
                    Outcome::Refused(Refusal::ByPeer(reason)) => {
                        let forgot = deliveries.get(&(to, number)).is_none_or(|copies| {
                            copies.iter().all(|copy| {
                                self.deaths[to][copy.life..]
                                    .iter()
                                    .any(|death| !death.covers(&self.mesh, copy))
                            })
                        });
                        sent.expires && reason == "expired" && forgot
                    }
                    Outcome::Refused(Refusal::SessionClosed) => !alive,
                    _ => false,
                };
                assert!(
                    is_fair,
                    "{number} of {who} to {peer}: {outcome:?}, with {copies} copies delivered"
                );
            }
        }
    }

    /// Copies that hedging makes stay within a tenth of what is sent.
    fn check_budgets(&self, policies: &[Policy]) {
        for (who, router) in self.routers.lock().unwrap().iter() {
            let metrics = router.metrics();
            let hedges = matches!(policies[*who], Policy::Hedged { .. });
            // Hellos go by every road.
            let first = metrics.bytes - metrics.copied_bytes.min(metrics.bytes);
            assert!(
                !hedges || metrics.copied_bytes * 10 <= first,
                "{who}: {metrics:?}"
            );
        }
    }

    /// The road that was healed is trusted again, by everybody, and used where it is the first; one that has fallen silent is not.
    fn check_failback(&self, seed: u64) {
        let healed = seed as usize % self.roads.len();
        let latest = |who: usize| -> Option<Arc<Router>> {
            let routers = self.routers.lock().unwrap();
            let mut of = routers.iter().filter(|(of, _)| *of == who);
            of.next_back().map(|(_, router)| router.clone())
        };
        for who in 0..self.count {
            let Some(router) = latest(who) else { return };
            for link in router.links() {
                let others = &NAMES[..self.count];
                if others.contains(&link.peer.as_str()) {
                    let road = &link.roads[healed];
                    assert_eq!(road.health, RoadHealth::Up, "{who}: {link:?}");
                    assert!(healed > 0 || road.preferred, "{who}: {link:?}");
                    let mut others = link.roads.iter().enumerate().filter(|(at, _)| *at != healed);
                    let trusted = others.any(|(_, road)| road.health == RoadHealth::Up || road.preferred);
                    assert!(!falls_silent(seed) || !trusted, "{who}: {link:?}");
                }
            }
        }
    }

    /// When all is said, nobody goes on talking.
    async fn check_idle(&self) {
        let frames = || -> Vec<u64> {
            let sessions = (0..self.count).map(|who| self.agents.session(NAMES[who]).unwrap());
            sessions.map(|session| session.metrics().frames_sent).collect()
        };
        let before = frames();
        // Routers go on asking whether their roads are there, which takes its time to simulate.
        let long = if self.roads.len() == 1 {
            3 * 3_600_000
        } else {
            PEACE
        };
        pass(long).await;
        assert_eq!(before, frames(), "frames go on for ever");
        for who in 0..self.count {
            for peer in self.agents.session(NAMES[who]).unwrap().peers() {
                assert_eq!(peer.unacknowledged, 0, "{who}: {peer:?}");
            }
        }
    }
}

impl Death {
    /// Whether the life that began here knew that this had been delivered.
    fn covers(&self, mesh: &Mesh, got: &Got) -> bool {
        let key = *mesh.identity(got.source.as_str()).public_key().as_bytes();
        self.marks.iter().any(|(of, mark)| {
            *of == key
                && (mark.epoch > got.epoch
                    || mark.epoch == got.epoch && mark.floors[got.stream as usize] >= got.sequence)
        })
    }
}

impl Weather {
    fn faults(&self) -> Faults {
        let share = |percent: u8| f64::from(percent) / 100.0;
        let ms = |millis: u8| Duration::from_millis(millis.into());
        let (least, more) = self.latency;
        let faults = Faults::none()
            .loss(share(self.loss))
            .duplication(share(self.duplication))
            .corruption(share(self.corruption))
            .reordering(share(self.reordering), ms(100))
            .latency(ms(least)..=ms(least) + ms(more));
        match self.bandwidth {
            Some(rate) => faults.bandwidth(u64::from(rate) * 1_000),
            None => faults,
        }
    }
}

/// Whether at the end of the story with this seed the roads that are not healed carry nothing any more.
fn falls_silent(seed: u64) -> bool {
    (seed / 8).is_multiple_of(2)
}

async fn pass(millis: u64) {
    tokio::time::sleep(Duration::from_millis(millis)).await;
}
