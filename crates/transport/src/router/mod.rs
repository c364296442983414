//! One conversation over many roads.
//!
//! A [`Router`] is an [`IfTransport`] over other transports, its *roads*. The session above signs a message once; the router
//! decides by which road each envelope goes, and by which it goes again. It never looks into messages: rules are applied when
//! the session asks [`IfTransport::class_of`], and facts come back by [`IfTransport::feedback`].
//!
//! # What it guarantees
//! - While any road to a peer carries, what the session sends and sends again reaches the peer: attempt *n* takes another
//!   road than attempt *n - 1* did, whatever is thought of either.
//! - A peer is up while any road leads to it. The session hears of a link going down when the last one is gone.
//! - What went by a road that has failed is handed back to the session at once ([`TransportEvent::Lost`]), and goes by the
//!   next one. Nothing is decided by a single lost message.
//! - No road can hold up another: an envelope that waits for a road which fails meanwhile takes the next.
//!
//! # What it does not
//! - Copies (fan-out, hedging, resends) reach the peer more than once, and order between roads is nobody's: the session above
//!   sees to both.
//! - Keepalives are not signed. See `frame.rs` for what that allows and what not.
//!
//! # What bounds the gap when a road dies
//! Closed: the time until its `LinkDown`, then nothing. Blackholed under load: the session's retransmission time (100 ms at
//! least) for the messages in flight, [`HealthConfig::grace`] more for those sent meanwhile. Blackholed while idle: one
//! [`HealthConfig::keepalive`] more, but then nobody waits.

mod copies;
mod frame;
mod health;
mod metrics;
mod policy;
mod recent;
mod relay;
mod table;
#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is wrong"
)]
mod tests;

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use ifmsg::{AgentId, Header};
use rand_core::CryptoRng;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::Instant,
};

pub use health::HealthConfig;
pub use metrics::RouterMetrics;
pub use policy::{Match, Plan, Policy, Rule, Rules};
pub use relay::Relays;

use crate::{
    Capabilities, Class, CloseError, Closed, Envelope, Feedback, IfTransport, Lane, LinkStatus, SendError,
    TransportEvent,
};
pub(crate) use frame::{Parsed, RouterFrame};

use frame::RELAY_ROOM;
use relay::Ways;
use table::{Choice, Outgoing, Table};

/// Events that wait for the session.
const EVENTS: usize = 256;
/// Road events taken in a row before timers are looked at.
const IN_A_ROW: usize = 32;
/// Pings, answers and copies that wait to be taken by one road to one peer.
const MOST_OUTGOING: usize = 64;
/// The name of the road that leads through other agents.
const RELAYS: &str = "relays";
/// The most roads.
const MOST_ROADS: usize = 16;

/// One road.
#[derive(Debug, Clone)]
pub struct Road {
    /// Its name in rules, metrics and the witness.
    pub name: Arc<str>,
    /// What carries.
    pub transport: Arc<dyn IfTransport>,
}

impl Road {
    /// A road of this name.
    pub fn new(name: impl Into<Arc<str>>, transport: Arc<dyn IfTransport>) -> Self {
        Self {
            name: name.into(),
            transport,
        }
    }
}

/// How a router decides.
#[derive(Debug, Clone)]
pub struct RouterConfig {
    /// Which messages take which roads.
    pub rules: Rules,
    /// How roads are judged.
    pub health: HealthConfig,
    /// Whether peers pass frames on for each other. `None`: each pair needs a road of its own.
    pub relays: Option<Relays>,
}

impl RouterConfig {
    /// One policy for everything, over all roads.
    pub fn new(policy: Policy) -> Self {
        Self {
            rules: Rules::only(policy),
            health: HealthConfig::default(),
            relays: None,
        }
    }
}

/// Why a router was not made. Always the caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RouterError {
    /// There is no road, or more than sixteen.
    #[error("a router has 1 to 16 roads, not {0}")]
    Roads(usize),
    /// Two roads have one name.
    #[error("two roads are named {0}; give each a name of its own")]
    TwoNames(Arc<str>),
    /// A rule, or the default, names a road that there is not.
    #[error("{rule} names the road {road}, and there is none of that name; there are {known}")]
    UnknownRoad {
        /// The rule's name.
        rule: String,
        /// What it names.
        road: Arc<str>,
        /// The roads that there are.
        known: String,
    },
    /// More rules than the router can number.
    #[error("{0} rules are too many; 1,000 are allowed")]
    Rules(usize),
}

/// Several transports as one. See the module's documentation for what it promises.
pub struct Router {
    shared: Arc<Shared>,
    events: tokio::sync::Mutex<mpsc::Receiver<TransportEvent>>,
    driver: JoinHandle<()>,
}

struct Shared {
    roads: Vec<Road>,
    rules: Rules,
    capabilities: Capabilities,
    table: Mutex<Table>,
    started: Instant,
    /// The table has something for the driver.
    wake: Notify,
    /// Roads have changed: who waits for one should choose again.
    changed: watch::Sender<u64>,
    closed: AtomicBool,
}

impl Router {
    /// Starts a router; the first road is preferred unless a plan says otherwise. Must be called within a tokio runtime.
    ///
    /// `random` makes the numbers that peers send back in answer to keepalives.
    pub fn start(
        roads: Vec<Road>,
        config: RouterConfig,
        random: Box<dyn CryptoRng + Send>,
    ) -> Result<Arc<Self>, RouterError> {
        let mut orders = check(&roads, &config.rules)?;
        let sizes = roads.iter().map(|road| road.transport.capabilities().max_frame);
        let mut named: Vec<(Arc<str>, usize)> =
            roads.iter().map(|road| road.name.clone()).zip(sizes).collect();
        if config.relays.is_some() {
            // After all others, whatever a plan prefers: it is for those whom no other road reaches.
            let largest = named.iter().map(|(_, size)| *size).max().unwrap_or(0);
            orders.iter_mut().for_each(|order| order.push(named.len()));
            named.push((RELAYS.into(), largest.saturating_sub(RELAY_ROOM)));
        }
        let ways = config.relays.map(Ways::new);
        let table = Table::new(named, config.rules.clone(), orders, config.health, ways, random);
        let shared = Arc::new(Shared {
            capabilities: capabilities(&roads),
            roads,
            rules: config.rules,
            table: Mutex::new(table),
            started: Instant::now(),
            wake: Notify::new(),
            changed: watch::channel(0).0,
            closed: AtomicBool::new(false),
        });
        let (sender, events) = mpsc::channel(EVENTS);
        let driver = Driver {
            shared: shared.clone(),
            events: sender,
            sending: FuturesUnordered::new(),
        };
        Ok(Arc::new(Self {
            shared,
            events: tokio::sync::Mutex::new(events),
            driver: tokio::spawn(driver.run()),
        }))
    }

    /// Counters.
    pub fn metrics(&self) -> RouterMetrics {
        self.shared.table().metrics()
    }

    /// The roads.
    pub fn roads(&self) -> &[Road] {
        &self.shared.roads
    }

    fn choose(&self, envelope: &Envelope) -> Result<Choice, SendError> {
        if self.shared.closed.load(Ordering::Acquire) {
            return Err(SendError::Closed);
        }
        self.shared.table().choose(envelope)
    }

    /// By one road, whatever becomes of it; or, if it fails while the envelope waits, by the next. Gives the one that took it.
    async fn send_by_one(&self, envelope: Envelope, mut road: usize) -> Result<usize, SendError> {
        let shared = &self.shared;
        let mut changed = shared.changed.subscribe();
        let mut refused: Option<SendError> = None;
        // Each road gets its chance, and one more in case that the first comes back.
        for _ in 0..=shared.roads.len() {
            shared.table().sending(&envelope, road, shared.now());
            let mut sending = shared.send_by(road, envelope.clone());
            let next = loop {
                tokio::select! {
                    biased;
                    result = &mut sending => match result {
                        Ok(()) => return Ok(road),
                        Err(error @ (SendError::NoLink(_) | SendError::Closed)) => {
                            shared.table().send_failed(&envelope, road, shared.now());
                            shared.wake.notify_one();
                            refused = Some(error);
                            break None;
                        }
                        Err(error) => return Err(error),
                    },
                    Ok(()) = changed.changed() => {
                        if let Choice::One(better) = self.choose(&envelope)?
                            && better != road
                        {
                            break Some(better);
                        }
                    }
                }
            };
            road = match next {
                Some(better) => better,
                None => match self.choose(&envelope)? {
                    Choice::One(better) if better != road => better,
                    // Nothing else is there.
                    _ => break,
                },
            };
        }
        self.choose(&envelope)?;
        // It is gone, and the table has yet to hear of it.
        let Envelope { to, .. } = envelope;
        Err(match (refused, to) {
            (Some(error), _) => error,
            (None, ifmsg::Destination::Agent(agent)) => SendError::NoLink(agent),
            (None, ifmsg::Destination::Everyone) => SendError::NoBroadcast,
        })
    }

    /// A copy by each road. Waits until one of them takes it; a road whose queue is full then goes without. Gives those that
    /// took one.
    async fn send_by_each(&self, envelope: Envelope, roads: Vec<usize>) -> Result<Vec<usize>, SendError> {
        let shared = &self.shared;
        let mut copies: FuturesUnordered<_> = roads
            .iter()
            .map(|&road| {
                shared.table().sending(&envelope, road, shared.now());
                let sending = shared.send_by(road, envelope.clone());
                async move { (road, sending.await) }
            })
            .collect();
        let mut outcome: Result<Vec<usize>, SendError> = Err(SendError::Closed);
        let mut settle = |road: usize, result: Result<(), SendError>| {
            if result.is_err() {
                shared.table().send_failed(&envelope, road, shared.now());
                shared.wake.notify_one();
            }
            match (&mut outcome, result) {
                (Ok(taken), Ok(())) => taken.push(road),
                (Ok(_), Err(_)) => {}
                (Err(_), result) => outcome = result.map(|()| vec![road]),
            }
            outcome.is_ok()
        };
        while let Some((road, result)) = copies.next().await {
            // Best effort waits for nobody, so each can be asked.
            if settle(road, result) && envelope.lane == Lane::Reliable {
                break;
            }
        }
        // The others, as far as they take it at once.
        while let std::task::Poll::Ready(Some((road, result))) = futures::poll!(copies.next()) {
            settle(road, result);
        }
        if !copies.is_empty() {
            shared.table().skipped(copies.len());
        }
        outcome
    }
}

#[async_trait]
impl IfTransport for Router {
    fn name(&self) -> &str {
        "router"
    }

    /// The largest frame is that of its most capable road; smaller roads are passed over by larger frames.
    fn capabilities(&self) -> Capabilities {
        self.shared.capabilities
    }

    async fn send(&self, envelope: Envelope) -> Result<(), SendError> {
        self.send_by_roads(envelope).await.map(drop)
    }

    async fn send_by_roads(&self, envelope: Envelope) -> Result<Vec<Arc<str>>, SendError> {
        let roads = match self.choose(&envelope)? {
            Choice::One(road) => vec![self.send_by_one(envelope, road).await?],
            Choice::Each(roads) => self.send_by_each(envelope, roads).await?,
        };
        let table = self.shared.table();
        Ok(roads.into_iter().map(|road| table.name(road)).collect())
    }

    fn road_of(&self, envelope: &Envelope) -> Option<Arc<str>> {
        let table = self.shared.table();
        match table.choose(envelope).ok()? {
            Choice::One(road) => Some(table.name(road)),
            Choice::Each(roads) => roads.first().map(|&road| table.name(road)),
        }
    }

    async fn recv(&self) -> Result<TransportEvent, Closed> {
        self.events.lock().await.recv().await.ok_or(Closed)
    }

    fn links(&self) -> Vec<LinkStatus> {
        let of_roads = self
            .shared
            .roads
            .iter()
            .map(|road| road.transport.links())
            .collect();
        self.shared.table().links(of_roads)
    }

    fn wake(&self, peer: &AgentId) {
        for road in self.shared.roads.iter() {
            road.transport.wake(peer);
        }
    }

    fn class_of(&self, header: &Header, size: usize) -> Class {
        self.shared.rules.class_of(header, size)
    }

    fn feedback(&self, peer: &AgentId, feedback: Feedback) {
        let now = self.shared.now();
        let mut table = self.shared.table();
        table.feedback(peer, feedback, now);
        let idle = table.next_timeout().is_none_or(|due| due > now);
        drop(table);
        if !idle {
            self.shared.wake.notify_one();
        }
    }

    async fn close(&self) -> Result<(), CloseError> {
        self.shared.closed.store(true, Ordering::Release);
        let closing = self.shared.roads.iter().map(|road| road.transport.close());
        let mut unsent = 0;
        for result in futures::future::join_all(closing).await {
            if let Err(CloseError::Unsent { envelopes }) = result {
                unsent += envelopes;
            }
        }
        match unsent {
            0 => Ok(()),
            envelopes => Err(CloseError::Unsent { envelopes }),
        }
    }
}

impl Drop for Router {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Router")
            .field("roads", &self.shared.roads)
            .finish_non_exhaustive()
    }
}

impl Shared {
    /// No code of others runs under it, and it is never held across an await.
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Hands an envelope to a road; relays are the one after the last transport.
    fn send_by(&self, road: usize, envelope: Envelope) -> BoxFuture<'_, Result<(), SendError>> {
        if let Some(road) = self.roads.get(road) {
            let transport = &road.transport;
            return Box::pin(async move { transport.send(envelope).await });
        }
        let wrapped = self.table().wrap(&envelope);
        Box::pin(async move {
            let Some(Outgoing {
                road,
                envelope: wrapped,
            }) = wrapped
            else {
                return Err(match envelope.to {
                    ifmsg::Destination::Agent(agent) => SendError::NoLink(agent),
                    ifmsg::Destination::Everyone => SendError::NoBroadcast,
                });
            };
            self.roads[road].transport.send(wrapped).await
        })
    }
}

type Receiving = BoxFuture<'static, (usize, Result<TransportEvent, Closed>)>;

type Sending = BoxFuture<'static, (usize, Envelope, Result<(), SendError>)>;

/// Reads all roads, keeps time, and sends what the table wants sent. The only task of a router.
struct Driver {
    shared: Arc<Shared>,
    events: mpsc::Sender<TransportEvent>,
    /// Pings and copies on their way into a road.
    sending: FuturesUnordered<Sending>,
}

impl Driver {
    async fn run(mut self) {
        let mut receiving: FuturesUnordered<Receiving> = FuturesUnordered::new();
        for road in 0..self.shared.roads.len() {
            receiving.push(receive(self.shared.clone(), road));
        }
        let mut waiting: HashMap<(usize, AgentId), usize> = HashMap::new();
        let mut in_a_row = 0;
        while !receiving.is_empty() || self.shared.table().has_events() {
            let (due, event) = self.turn(&mut waiting, in_a_row >= IN_A_ROW);
            if in_a_row >= IN_A_ROW {
                in_a_row = 0;
            }
            if let Some(event) = event {
                // While the session takes nothing, nothing is read: the roads press back, each as it can.
                if self.events.send(event).await.is_err() {
                    return;
                }
                continue;
            }
            let sleep = async {
                match due {
                    Some(due) => tokio::time::sleep_until(self.shared.started + due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                Some((road, envelope, result)) = self.sending.next(), if !self.sending.is_empty() => {
                    if let ifmsg::Destination::Agent(agent) = &envelope.to
                        && let Some(count) = waiting.get_mut(&(road, agent.clone()))
                    {
                        *count -= 1;
                        if *count == 0 {
                            waiting.remove(&(road, agent.clone()));
                        }
                    }
                    if result.is_err() {
                        self.shared.table().send_failed(&envelope, road, self.shared.now());
                    }
                }
                Some((road, event)) = receiving.next(), if !receiving.is_empty() => {
                    in_a_row += 1;
                    let now = self.shared.now();
                    match event {
                        Ok(event) => {
                            if let TransportEvent::LinkUp { .. } = event {
                                let carries = self.shared.roads[road].transport.capabilities();
                                self.shared.table().on_size(road, carries.max_frame);
                            }
                            self.shared.table().on_road(road, event, now);
                            receiving.push(receive(self.shared.clone(), road));
                        }
                        Err(Closed) => self.shared.table().on_road_closed(road, now),
                    }
                }
                () = self.shared.wake.notified() => in_a_row = IN_A_ROW,
                () = sleep => in_a_row = IN_A_ROW,
            }
        }
    }

    /// Takes out of the table what it wants done: timers only if `judge`, so that nobody is late for what has come and has
    /// yet to be read.
    fn turn(
        &mut self,
        waiting: &mut HashMap<(usize, AgentId), usize>,
        judge: bool,
    ) -> (Option<Duration>, Option<TransportEvent>) {
        let mut table = self.shared.table();
        if judge {
            table.on_timeout(self.shared.now());
        }
        let outgoing = table.take_outgoing();
        let (changed, due, event) = (table.take_changed(), table.next_timeout(), table.poll_event());
        drop(table);
        let mut skipped = 0;
        for Outgoing { road, envelope } in outgoing {
            let ifmsg::Destination::Agent(agent) = envelope.to.clone() else {
                continue;
            };
            let count = waiting.entry((road, agent)).or_default();
            if *count >= MOST_OUTGOING {
                // A road that takes nothing gathers nothing here. A ping or a copy more or less does no harm.
                skipped += 1;
                continue;
            }
            *count += 1;
            let shared = self.shared.clone();
            self.sending.push(Box::pin(async move {
                let result = shared.send_by(road, envelope.clone()).await;
                (road, envelope, result)
            }));
        }
        if skipped > 0 {
            self.shared.table().skipped(skipped);
        }
        if changed {
            self.shared
                .changed
                .send_modify(|version| *version = version.wrapping_add(1));
        }
        (due, event)
    }
}

fn receive(shared: Arc<Shared>, road: usize) -> Receiving {
    Box::pin(async move { (road, shared.roads[road].transport.recv().await) })
}

/// Checks names and rules; for each class the roads by preference.
fn check(roads: &[Road], rules: &Rules) -> Result<Vec<Vec<usize>>, RouterError> {
    if roads.is_empty() || roads.len() > MOST_ROADS {
        return Err(RouterError::Roads(roads.len()));
    }
    for (at, road) in roads.iter().enumerate() {
        if roads[..at].iter().any(|other| other.name == road.name) {
            return Err(RouterError::TwoNames(road.name.clone()));
        }
    }
    if rules.rules.len() > 1_000 {
        return Err(RouterError::Rules(rules.rules.len()));
    }
    let find = |rule: &str, name: &Arc<str>| {
        roads
            .iter()
            .position(|road| road.name == *name)
            .ok_or_else(|| RouterError::UnknownRoad {
                rule: rule.to_owned(),
                road: name.clone(),
                known: roads
                    .iter()
                    .map(|road| &*road.name)
                    .collect::<Vec<_>>()
                    .join(", "),
            })
    };
    let order = |rule: &str, plan: &Plan| {
        if plan.order.is_empty() {
            return Ok((0..roads.len()).collect());
        }
        plan.order
            .iter()
            .map(|name| find(rule, name))
            .collect::<Result<Vec<usize>, _>>()
    };
    let default = order("the default", &rules.default);
    let others = rules
        .rules
        .iter()
        .map(|rule| order(&format!("rule \"{}\"", rule.name), &rule.plan));
    std::iter::once(default).chain(others).collect()
}

fn capabilities(roads: &[Road]) -> Capabilities {
    let each = || roads.iter().map(|road| road.transport.capabilities());
    let is_alone = roads.len() == 1;
    Capabilities {
        max_frame: each().map(|road| road.max_frame).max().unwrap_or(0),
        ordered: is_alone && each().all(|road| road.ordered),
        reliable: is_alone && each().all(|road| road.reliable),
        broadcast: false,
    }
}
