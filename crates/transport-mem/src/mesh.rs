use std::{
    collections::BTreeMap,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, OnceLock, PoisonError, Weak},
    time::Duration,
};

use ifmsg::{AgentId, InvalidId};
use rand::{SeedableRng, rngs::StdRng};
use tokio::{sync::Notify, task::AbortHandle, time::Instant};

use crate::{
    Counts, Faults, MemTransport, MeshConfig, MeshError, Trace,
    dice::derive,
    network::{Network, Node},
};

/// Runs `story` with a new [`Mesh`] on a runtime of its own, with virtual time: an hour of it takes as long as what happens
/// in that hour.
///
/// `Err` only if the operating system refuses the runtime.
///
/// # Panics
/// Where `story` or a scheduled action does, and inside another runtime, as tokio's `block_on`.
pub fn simulate<T>(seed: u64, story: impl AsyncFnOnce(Mesh) -> T) -> Result<T, MeshError> {
    simulate_with(seed, MeshConfig::default(), story)
}

/// As [`simulate`], on a mesh with these properties; they must make sense.
///
/// # Panics
/// As [`simulate`].
pub fn simulate_with<T>(
    seed: u64,
    config: MeshConfig,
    story: impl AsyncFnOnce(Mesh) -> T,
) -> Result<T, MeshError> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .map_err(|error| MeshError::Runtime(error.kind()))?;
    runtime.block_on(async {
        let mesh = Mesh::with(seed, config)?;
        let answer = story(mesh.clone()).await;
        // A scheduled action that panicked is heard here at the latest.
        Ok(mesh.shared.with(|_| answer))
    })
}

/// The network, and the hand that breaks it. Cheap to clone; lives until the last clone and the last transport are gone.
///
/// Every two agents on it are linked as soon as they can reach each other. Agents are named by text; a name that no agent
/// has ever joined under is an error, so that a typing error in a test does not pass for a healthy network.
#[derive(Clone)]
pub struct Mesh {
    shared: Arc<Shared>,
}

impl Mesh {
    /// A perfect network that promises nothing: see [`MeshConfig::default`].
    ///
    /// # Panics
    /// Outside of a tokio runtime, as [`tokio::spawn`]: one task moves the mesh through time.
    pub fn new(seed: u64) -> Self {
        Self::start(seed, MeshConfig::default())
    }

    /// A perfect network with these properties.
    ///
    /// # Panics
    /// Outside of a tokio runtime, as [`Mesh::new`].
    pub fn with(seed: u64, config: MeshConfig) -> Result<Self, MeshError> {
        config.check()?;
        Ok(Self::start(seed, config))
    }

    fn start(seed: u64, config: MeshConfig) -> Self {
        let shared = Arc::new(Shared {
            seed,
            origin: Instant::now(),
            state: Mutex::new(State {
                network: Network::new(seed, config),
                schedule: BTreeMap::new(),
                scheduled: 0,
                driver_sleeps_until: None,
                panicked: None,
            }),
            driver_wake: Arc::default(),
            driver: OnceLock::new(),
        });
        let driver = tokio::spawn(drive(Arc::downgrade(&shared), Arc::clone(&shared.driver_wake)));
        let _ = shared.driver.set(driver.abort_handle());
        Self { shared }
    }

    // Agents.

    /// A new agent. Links to all others come up after [`MeshConfig::setup`].
    pub fn join(&self, id: impl AsRef<str>) -> Result<Arc<MemTransport>, MeshError> {
        let id = AgentId::new(id)?;
        let (node, incarnation) = self.shared.with(|network| network.join(id.clone()))?;
        Ok(self.transport(id, node, incarnation))
    }

    /// The agent dies: its handle says `Closed`, what had not left it is lost, nobody is told. Its peers notice after
    /// [`MeshConfig::detection`].
    pub fn crash(&self, id: impl AsRef<str>) -> Result<(), MeshError> {
        self.at_node(id, |network, node| network.crash(node))?
    }

    /// A new life for an agent that joined before; if it is still alive, it crashes first. Its peers see the old link go
    /// down and a new one come up.
    pub fn restart(&self, id: impl AsRef<str>) -> Result<Arc<MemTransport>, MeshError> {
        let id = AgentId::new(id)?;
        let (node, incarnation) = self.at_node(&id, |network, node| (node, network.restart(node)))?;
        Ok(self.transport(id, node, incarnation))
    }

    /// The agent's `recv` hands out at most one event in `pace`. Zero makes it quick again.
    pub fn slow_receiver(&self, id: impl AsRef<str>, pace: Duration) -> Result<(), MeshError> {
        self.at_node(id, |network, node| network.set_pace(node, pace))
    }

    // Faults.

    /// From now on all links have these faults, except those that have faults of their own.
    pub fn faults(&self, faults: Faults) -> Result<(), MeshError> {
        faults.check()?;
        self.shared.with(|network| network.set_faults(faults));
        Ok(())
    }

    /// From now on the direction from `from` to `to` has faults of its own.
    pub fn faults_from(
        &self,
        from: impl AsRef<str>,
        to: impl AsRef<str>,
        faults: Faults,
    ) -> Result<(), MeshError> {
        faults.check()?;
        self.between(&[from.as_ref()], &[to.as_ref()], |network, from, to| {
            network.set_link_faults(from, to, Some(faults.clone()));
        })
    }

    /// Nothing passes between the two groups, in either direction, until [`Mesh::mend`] or [`Mesh::heal`]. Both sides
    /// notice after [`MeshConfig::detection`]. What is on its way is cut off too.
    pub fn partition(&self, some: &[&str], others: &[&str]) -> Result<(), MeshError> {
        self.between(some, others, |network, a, b| {
            network.cut(a, b);
            network.cut(b, a);
        })
    }

    /// Nothing passes from the first group to the second; the other direction works.
    pub fn partition_one_way(&self, from: &[&str], to: &[&str]) -> Result<(), MeshError> {
        self.between(from, to, Network::cut)
    }

    /// Undoes what partitions did between the two groups, in both directions.
    pub fn mend(&self, some: &[&str], others: &[&str]) -> Result<(), MeshError> {
        self.between(some, others, |network, a, b| {
            network.mend(a, b);
            network.mend(b, a);
        })
    }

    /// The link between two agents fails, both are told at once ([`DownReason::Network`](ifmesh_transport::DownReason)),
    /// and it is set up again. What was on its way is lost.
    pub fn break_link(&self, a: impl AsRef<str>, b: impl AsRef<str>) -> Result<(), MeshError> {
        self.between(&[a.as_ref()], &[b.as_ref()], Network::break_link)
    }

    /// A perfect network again: no partition, no faults. Crashed agents stay crashed, slow ones slow.
    pub fn heal(&self) {
        self.shared.with(Network::heal);
    }

    // Time.

    /// Virtual time since the mesh was made.
    pub fn now(&self) -> Duration {
        self.shared.origin.elapsed()
    }

    /// Calls `action` when `after` has passed, after what the network itself does at that instant. Actions of the same
    /// instant are called in the order of these calls.
    ///
    /// What is still scheduled when the mesh goes is not called. A panic in an action comes back in every later call on
    /// the mesh and its transports: an assertion that fails there fails the test.
    pub fn at(&self, after: Duration, action: impl FnOnce(&Self) + Send + 'static) {
        let due = self.now().saturating_add(after);
        self.shared.with_state(|state| {
            state.scheduled += 1;
            state.schedule.insert((due, state.scheduled), Box::new(action));
        });
    }

    // What happened.

    /// Everything that happened until now.
    pub fn trace(&self) -> Trace {
        self.shared.with(|network| network.trace())
    }

    /// How often each thing happened until now.
    pub fn counts(&self) -> Counts {
        self.shared.with(|network| network.counts())
    }

    /// The seed.
    pub fn seed(&self) -> u64 {
        self.shared.seed
    }

    /// A random source for whoever else needs one in this test. Depends on the seed and on `purpose` alone; the same
    /// purpose gives the same numbers again.
    pub fn rng(&self, purpose: &str) -> StdRng {
        StdRng::from_seed(derive(self.shared.seed, &["rng", purpose]))
    }

    fn transport(&self, id: AgentId, node: Node, incarnation: u64) -> Arc<MemTransport> {
        Arc::new(MemTransport::new(Arc::clone(&self.shared), id, node, incarnation))
    }

    fn at_node<T>(
        &self,
        id: impl AsRef<str>,
        action: impl FnOnce(&mut Network, Node) -> T,
    ) -> Result<T, MeshError> {
        let id = AgentId::new(id)?;
        self.shared.with(|network| match network.node(&id) {
            Some(node) => Ok(action(network, node)),
            None => Err(MeshError::UnknownAgent(id)),
        })
    }

    /// All of it or, if a name is wrong, nothing.
    fn between(
        &self,
        some: &[&str],
        others: &[&str],
        action: impl Fn(&mut Network, Node, Node),
    ) -> Result<(), MeshError> {
        let parse = |names: &[&str]| {
            names
                .iter()
                .map(AgentId::new)
                .collect::<Result<Vec<_>, InvalidId>>()
        };
        let (some, others) = (parse(some)?, parse(others)?);
        self.shared.with(|network| {
            let find = |ids: Vec<AgentId>| -> Result<Vec<Node>, MeshError> {
                let known = ids
                    .into_iter()
                    .map(|id| network.node(&id).ok_or(MeshError::UnknownAgent(id)));
                known.collect()
            };
            let (some, others) = (find(some)?, find(others)?);
            for &a in &some {
                for &b in &others {
                    action(network, a, b);
                }
            }
            Ok(())
        })
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let agents = self.shared.with(|network| network.nodes());
        f.debug_struct("Mesh")
            .field("seed", &self.shared.seed)
            .field("agents", &agents)
            .finish_non_exhaustive()
    }
}

/// What the mesh and its transports have in common.
pub(crate) struct Shared {
    seed: u64,
    origin: Instant,
    state: Mutex<State>,
    driver_wake: Arc<Notify>,
    driver: OnceLock<AbortHandle>,
}

struct State {
    network: Network,
    schedule: BTreeMap<(Duration, u64), Scheduled>,
    scheduled: u64,
    driver_sleeps_until: Option<Duration>,
    /// What a scheduled action said when it panicked.
    panicked: Option<String>,
}

type Scheduled = Box<dyn FnOnce(&Mesh) + Send>;

impl Shared {
    /// Brings the network up to now, then lets `action` at it.
    pub(crate) fn with<T>(&self, action: impl FnOnce(&mut Network) -> T) -> T {
        let answer = self.with_state(|state| match state.panicked.clone() {
            None => Ok(action(&mut state.network)),
            Some(message) => Err(message),
        });
        answer.unwrap_or_else(|message| {
            panic!("an action that was scheduled with `Mesh::at` panicked: {message}")
        })
    }

    /// As `with`, but never panics: for those who clean up.
    pub(crate) fn with_care(&self, action: impl FnOnce(&mut Network)) {
        self.with_state(|state| action(&mut state.network));
    }

    fn with_state<T>(&self, action: impl FnOnce(&mut State) -> T) -> T {
        let now = self.origin.elapsed();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.network.advance(now);
        let answer = action(&mut state);
        let next = state.next();
        let is_sooner = match (next, state.driver_sleeps_until) {
            (Some(next), Some(planned)) => next < planned,
            (Some(_), None) => true,
            (None, _) => false,
        };
        if is_sooner {
            state.driver_sleeps_until = next;
            self.driver_wake.notify_one();
        }
        answer
    }

    /// The next scheduled action that is due, with the network brought to exactly its time.
    fn due(&self) -> Option<Scheduled> {
        let now = self.origin.elapsed();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *state;
        let entry = state
            .schedule
            .first_entry()
            .filter(|entry| entry.key().0 <= now)?;
        let ((due, _), action) = entry.remove_entry();
        state.network.advance(due);
        Some(action)
    }

    /// Brings everything up to now; says when to come back.
    fn turn(self: &Arc<Self>) -> Option<Instant> {
        while let Some(action) = self.due() {
            let mesh = Mesh {
                shared: Arc::clone(self),
            };
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| action(&mesh))) {
                let message = panic.downcast_ref::<&str>().map(|&text| text.to_owned());
                let message = message
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_default();
                self.with_state(|state| {
                    state.panicked = Some(message);
                    state.network.wake_everybody();
                });
            }
        }
        let now = self.origin.elapsed();
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.network.advance(now);
        state.driver_sleeps_until = state.next();
        // Beyond what the clock can say is never.
        state
            .driver_sleeps_until
            .and_then(|due| self.origin.checked_add(due))
    }
}

impl State {
    fn next(&self) -> Option<Duration> {
        let scheduled = self.schedule.first_key_value().map(|(&(due, _), _)| due);
        self.network.next().into_iter().chain(scheduled).min()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Some(driver) = self.driver.get() {
            driver.abort();
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("seed", &self.seed)
            .finish_non_exhaustive()
    }
}

/// Moves the mesh through time, for as long as anybody holds it.
async fn drive(shared: Weak<Shared>, wake: Arc<Notify>) {
    loop {
        let next = match shared.upgrade() {
            Some(shared) => shared.turn(),
            None => return,
        };
        match next {
            Some(due) => tokio::select! {
                biased;
                () = wake.notified() => {}
                () = tokio::time::sleep_until(due) => {}
            },
            None => wake.notified().await,
        }
    }
}
