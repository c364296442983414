//! Sessions over the mesh: agents with keys, a disk, and lives.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ifmesh_transport::{
    Clock, IfTransport, Journal, JournalError, Receipt, Session, SessionConfig, VirtualClock, next_epoch,
};
use ifmsg::{
    AgentId, Destination, Draft, Identity, Mark, Permissions, PublicKey, Timestamp, TrustPolicy, TrustStore,
    VerifiedMessage,
};

use crate::{MemTransport, Mesh, MeshError, dice::derive};

/// What the wall clocks of all agents read when the mesh was made: 2026-11-22T12:00:00.000Z.
const BEGINNING: Timestamp = Timestamp::from_unix_millis(1_795_348_800_000);

/// A few agents on a [`Mesh`], who all trust each other: one [`Session`] each, named by text.
///
/// ```
/// # use ifmesh_transport_mem::{Faults, simulate};
/// # use serde_json::json;
/// simulate(42, async |mesh| {
///     let agents = mesh.agents(["alice", "bob"])?;
///     mesh.faults(Faults::none().loss(0.3))?;
///     let receipt = agents.send("alice", "bob", json!({ "n": 1 })).await?;
///     agents.crash("bob")?;
///     agents.restart("bob")?;
///     assert_eq!(agents.recv("bob").await?.payload()["n"], 1);
///     receipt.acknowledged().await.unwrap();
/// #   Ok::<_, ifmesh_transport_mem::MeshError>(())
/// })
/// # .unwrap().unwrap();
/// ```
///
/// All of it is deterministic: keys come of seed and name, nonces of seed, name and life, clocks are virtual. An agent's
/// [`Disk`] survives its crashes. Cheap to clone; its sessions end with the last clone.
#[derive(Clone)]
pub struct Agents {
    /// The first of them gives keys, randomness and time.
    meshes: Vec<Mesh>,
    connect: Arc<Connect>,
    clock: VirtualClock,
    trust: TrustStore,
    configure: Arc<Configure>,
    rooms: Arc<Mutex<BTreeMap<AgentId, Room>>>,
}

/// Makes one transport of an agent's transports, one on each mesh.
type Connect = dyn Fn(&str, Vec<Arc<MemTransport>>) -> Arc<dyn IfTransport> + Send + Sync;

type Configure = dyn Fn(&str, &mut SessionConfig) + Send + Sync;

/// One agent: what it is in all of its lives, and the life that it is in.
#[derive(Debug, Default)]
struct Room {
    lives: u64,
    disk: Disk,
    session: Option<Arc<Session>>,
}

impl Mesh {
    /// Agents with a session each, who all trust each other, for everything. They start now.
    pub fn agents<N: AsRef<str>>(&self, names: impl IntoIterator<Item = N>) -> Result<Agents, MeshError> {
        self.agents_with(names, |_, _| {})
    }

    /// As [`agents`](Self::agents); `configure` is called with name and config at the start of each life, and may change
    /// everything: limits, trust, observer, journal.
    pub fn agents_with<N: AsRef<str>>(
        &self,
        names: impl IntoIterator<Item = N>,
        configure: impl Fn(&str, &mut SessionConfig) + Send + Sync + 'static,
    ) -> Result<Agents, MeshError> {
        // There is one, and it is taken.
        let only = |_: &str, mut roads: Vec<Arc<MemTransport>>| roads.remove(0) as Arc<dyn IfTransport>;
        self.agents_over(&[], names, configure, only)
    }

    /// Agents that are on this mesh and on `others` at the same time, as on several roads: `connect` is called with an agent's
    /// name and its transports, this mesh's first, at the start of each life, and makes the transport of its session; most
    /// often a [`Router`](ifmesh_transport::Router).
    pub fn agents_over<N: AsRef<str>>(
        &self,
        others: &[Mesh],
        names: impl IntoIterator<Item = N>,
        configure: impl Fn(&str, &mut SessionConfig) + Send + Sync + 'static,
        connect: impl Fn(&str, Vec<Arc<MemTransport>>) -> Arc<dyn IfTransport> + Send + Sync + 'static,
    ) -> Result<Agents, MeshError> {
        let mut trust = TrustStore::new(TrustPolicy::Allowlist);
        let mut rooms = BTreeMap::new();
        for name in names {
            let id = AgentId::new(name)?;
            let key = *self.identity(id.as_str()).public_key();
            trust.bind(id.clone(), key, Permissions::ALL)?;
            rooms.insert(id, Room::default());
        }
        let ids: Vec<AgentId> = rooms.keys().cloned().collect();
        let agents = Agents {
            meshes: std::iter::once(self).chain(others).cloned().collect(),
            connect: Arc::new(connect),
            clock: VirtualClock::starting_at(BEGINNING.plus_millis(millis(self))),
            trust,
            configure: Arc::new(configure),
            rooms: Arc::new(Mutex::new(rooms)),
        };
        for id in &ids {
            agents.start(id)?;
        }
        Ok(agents)
    }

    /// The key of an agent of this name. Depends on the seed and the name alone.
    pub fn identity(&self, name: &str) -> Identity {
        Identity::from_seed(&derive(self.seed(), &["identity", name]))
    }
}

impl Agents {
    /// Sends a reliable message to an agent, or to everyone (`*`). Waits while the window is full.
    pub async fn send(
        &self,
        from: impl AsRef<str>,
        to: impl AsRef<str>,
        payload: serde_json::Value,
    ) -> Result<Receipt, MeshError> {
        self.submit(from, draft(to, payload)?).await
    }

    /// Sends any draft; see [`draft`].
    pub async fn submit(&self, from: impl AsRef<str>, draft: Draft) -> Result<Receipt, MeshError> {
        Ok(self.session(from)?.send(draft).await?)
    }

    /// The next message for an agent.
    pub async fn recv(&self, name: impl AsRef<str>) -> Result<VerifiedMessage, MeshError> {
        let session = self.session(&name)?;
        let message = session.recv().await;
        message.ok_or(MeshError::NotRunning(AgentId::new(name)?))
    }

    /// Waits until each running agent has proven itself to each other one.
    pub async fn all_up(&self) {
        let sessions: Vec<_> = self
            .rooms()
            .values()
            .filter_map(|room| room.session.clone())
            .collect();
        for session in &sessions {
            session
                .peers_until(|peers| peers.iter().filter(|peer| peer.up).count() + 1 >= sessions.len())
                .await;
        }
    }

    /// The agent dies as [`Mesh::crash`] says. Nothing of it is left but what is on its disk.
    pub fn crash(&self, name: impl AsRef<str>) -> Result<(), MeshError> {
        let id = AgentId::new(name)?;
        let session = self.room(&id, |room| {
            // From here on nothing that its last life had still in hand gets to the disk.
            room.disk.detach();
            room.session.take()
        })?;
        if session.is_none() {
            return Err(MeshError::NotRunning(id));
        }
        self.meshes.iter().try_for_each(|mesh| mesh.crash(&id))
    }

    /// A new life, with the next epoch and what the disk remembers. If the agent is still alive, it crashes first.
    pub fn restart(&self, name: impl AsRef<str>) -> Result<Arc<Session>, MeshError> {
        self.start(&AgentId::new(name)?)
    }

    /// The session of an agent that is running.
    pub fn session(&self, name: impl AsRef<str>) -> Result<Arc<Session>, MeshError> {
        let id = AgentId::new(name)?;
        let session = self.room(&id, |room| room.session.clone())?;
        session.ok_or(MeshError::NotRunning(id))
    }

    /// What the agent remembers across crashes.
    pub fn disk(&self, name: impl AsRef<str>) -> Result<Disk, MeshError> {
        self.room(&AgentId::new(name)?, |room| room.disk.clone())
    }

    /// The time of day, as all agents see it.
    pub fn clock(&self) -> VirtualClock {
        self.clock
    }

    /// The mesh below; of several the first.
    pub fn mesh(&self) -> &Mesh {
        &self.meshes[0]
    }

    fn start(&self, id: &AgentId) -> Result<Arc<Session>, MeshError> {
        // The transport first: it knows whether the name can be used.
        let (lives, disk) = self.room(id, |room| {
            room.session = None;
            room.lives += 1;
            (room.lives, room.disk.clone())
        })?;
        let join = |mesh: &Mesh| {
            if lives == 1 {
                mesh.join(id)
            } else {
                mesh.restart(id)
            }
        };
        let transports = self.meshes.iter().map(join).collect::<Result<_, _>>()?;
        let transport = (self.connect)(id.as_str(), transports);
        let (epoch, journal) = disk.attach(self.clock.now());
        let name = id.as_str();
        let mut config =
            SessionConfig::new(id.clone(), self.mesh().identity(name), self.trust.clone(), epoch);
        config.marks = disk.marks();
        config.journal = Some(Box::new(journal));
        (self.configure)(name, &mut config);
        let random = self.mesh().rng(&format!("session of {name}, life {lives}"));
        let session = Arc::new(Session::start(
            transport,
            config,
            Arc::new(self.clock),
            Box::new(random),
        ));
        self.room(id, |room| room.session = Some(session.clone()))?;
        Ok(session)
    }

    fn room<T>(&self, id: &AgentId, action: impl FnOnce(&mut Room) -> T) -> Result<T, MeshError> {
        let mut rooms = self.rooms();
        let room = rooms
            .get_mut(id)
            .ok_or_else(|| MeshError::UnknownAgent(id.clone()))?;
        Ok(action(room))
    }

    fn rooms(&self) -> MutexGuard<'_, BTreeMap<AgentId, Room>> {
        self.rooms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Agents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Agents")
            .field("meshes", &self.meshes)
            .finish_non_exhaustive()
    }
}

/// A reliable message to an agent, or to everyone (`*`).
pub fn draft(to: impl AsRef<str>, payload: serde_json::Value) -> Result<Draft, MeshError> {
    Ok(Draft::new(Destination::new(to)?, payload))
}

/// An agent's memory of former lives: its last epoch, and a [`Mark`] for each peer that it took messages from. Cheap to
/// clone; all clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct Disk(Arc<Mutex<DiskState>>);

#[derive(Debug, Default)]
struct DiskState {
    epoch: Option<u64>,
    marks: BTreeMap<[u8; 32], (PublicKey, Mark)>,
    broken: bool,
    /// Which life writes here. What a former one still wants to write does not arrive.
    writer: u64,
}

impl Disk {
    /// What is on record.
    pub fn marks(&self) -> Vec<(PublicKey, Mark)> {
        self.state().marks.values().copied().collect()
    }

    /// Loses all marks, as if there had been no journal. The epoch stays: an agent without a disk takes it from the clock.
    pub fn wipe(&self) {
        self.state().marks.clear();
    }

    /// From now on nothing can be recorded, or it can again.
    pub fn set_broken(&self, broken: bool) {
        self.state().broken = broken;
    }

    fn attach(&self, now: Timestamp) -> (u64, Pen) {
        let mut state = self.state();
        let epoch = next_epoch(state.epoch, now);
        state.epoch = Some(epoch);
        state.writer += 1;
        let pen = Pen {
            disk: self.clone(),
            writer: state.writer,
        };
        (epoch, pen)
    }

    fn detach(&self) {
        self.state().writer += 1;
    }

    fn state(&self) -> MutexGuard<'_, DiskState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One life's hold on its disk.
#[derive(Debug)]
struct Pen {
    disk: Disk,
    writer: u64,
}

impl Journal for Pen {
    fn record(&mut self, key: &PublicKey, mark: &Mark) -> Result<(), JournalError> {
        let mut state = self.disk.state();
        if state.broken || state.writer != self.writer {
            return Err(JournalError("the disk is gone".to_owned()));
        }
        state.marks.insert(*key.as_bytes(), (*key, *mark));
        Ok(())
    }
}

/// How far the mesh is in time already.
fn millis(mesh: &Mesh) -> i64 {
    i64::try_from(mesh.now().as_millis()).unwrap_or(i64::MAX)
}
