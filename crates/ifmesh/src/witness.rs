//! Puts what an agent's session and transport do on record.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ifmesh_transport::{
    Clock, Flight, Keepalive, Lane, LinkNotice, LinkObserver, Observer, ObserverError, Outcome, Refusal,
    SessionEvent,
};
use ifmesh_witness::{
    Circle, CircleError, Entry, Equivocations, Event, LogError, Mention, Metadata, NotRecorded, Policy,
    Recovered, Settings, Status, Tip, When, Witness as WitnessLog,
};
use ifmsg::{
    AgentId, Destination, Header, Identity, MessageDigest, Performative, RejectedMessage, Rejection,
    TrustError, TrustStore,
};

use crate::{circle::Companion, state::replace};

/// How long an action waits for the disk at most. Longer, and the disk counts as failed until it answers.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long it waits before it looks again for room in the witness's queue.
const ROOM_AGAIN: Duration = Duration::from_millis(1);

/// Refusals that are recorded in one second; the rest of that second is counted. So nobody fills a disk, or keeps it busy, with
/// messages that are refused. Equivocations whose proof is kept, which are few, are recorded beyond that.
const REFUSALS_PER_SECOND: u32 = 1_000;

/// Refusals that are on disk before anything goes on, in one second; the rest of that second is durable within 100 ms, as traffic
/// is.
const URGENT_REFUSALS_PER_SECOND: u32 = 20;

/// What is to be kept, and how strictly: the table `[witness]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct WitnessConfig {
    /// The folder of the log.
    pub folder: PathBuf,
    /// What becomes of an action that cannot be recorded.
    pub policy: Policy,
}

impl WitnessConfig {
    /// A log in this folder.
    pub fn new(folder: impl Into<PathBuf>, policy: Policy) -> Self {
        let folder = folder.into();
        Self { folder, policy }
    }
}

/// An agent's witness: an observer of its session and of its transports that writes the log.
///
/// - A message is recorded before it leaves, and before it is handed out.
/// - A key that was pinned, exchanged, revoked or refused, an equivocation and a false signature are on disk before the session goes
///   on; of refusals the first 20 in each second.
/// - What was received is with the operating system before it is acknowledged: neither a kill nor a crash of the process
///   takes it from the log.
/// - What was sent, and what became of it, is with the operating system within 20 ms under [`Policy::BestEffort`], which makes
///   fewer calls of it; under [`Policy::Required`] at once, unless the log's own thread is at work.
/// - What happened to several messages, one after the other, is one line.
/// - Under [`Policy::Required`] the session halts while the log cannot be written. Under [`Policy::BestEffort`] it goes on, and
///   what is lost is counted, logged as an error, and put on record as soon as that works again.
/// - Of an equivocation both messages are kept, whole, in a file beside the log, for nothing less proves it: at most 8 of an agent,
///   256 in all, of 1 MiB each.
/// - Everything else is digests only: no payload and no key material. The session's own control messages are not recorded.
#[derive(Debug)]
pub struct Witness {
    log: WitnessLog,
    clock: Arc<dyn Clock>,
    folder: PathBuf,
    transport: Arc<str>,
    /// The events of one step of the session, which go to the log together; under `Required` the session waits until they have.
    waiting: Mutex<Vec<Entry>>,
    urgent: AtomicBool,
    /// Something else than sent and finished messages waits.
    hurried: AtomicBool,
    /// How many events the log had accepted with the last step that is to be safe before it has its consequences.
    must_be_safe: AtomicU64,
    refusals: Mutex<Refusals>,
    equivocations: Mutex<Equivocations>,
    /// Files of proof that are to be on disk before the record that speaks of them.
    proofs: Mutex<Vec<(PathBuf, Vec<u8>)>>,
    late: Mutex<Option<Late>>,
    behind_since: Mutex<Option<tokio::time::Instant>>,
}

type Late = tokio::sync::oneshot::Receiver<Result<(), LogError>>;

#[derive(Debug, Default)]
struct Refusals {
    second: i64,
    recorded: u32,
    urgent: u32,
}

impl Witness {
    /// Opens the log and starts its writer. Reads all of it first, in a thread of its own.
    ///
    /// `transport` is the name in records of messages, where the session does not know the road.
    ///
    /// # Errors
    /// Those of [`ifmesh_witness::Log::open`].
    pub async fn open(
        config: &WitnessConfig,
        agent: &AgentId,
        identity: &Identity,
        transport: &str,
        clock: Arc<dyn Clock>,
    ) -> Result<(Self, Recovered), LogError> {
        let (policy, folder) = (config.policy, config.folder.clone());
        let settings = Settings::new(&folder, agent.clone());
        let (identity, time) = (identity.clone(), clock.clone());
        let opening = tokio::task::spawn_blocking(move || {
            let equivocations = Equivocations::open(&settings.dir);
            let opened = WitnessLog::open(settings, identity, policy, Arc::new(move || time.now()));
            opened.map(|opened| (opened, equivocations))
        });
        let ((log, recovered), equivocations) = opening.await.unwrap_or(Err(LogError::Failed))?;
        let witness = Self {
            log,
            clock,
            folder,
            transport: transport.into(),
            waiting: Mutex::default(),
            urgent: AtomicBool::new(false),
            hurried: AtomicBool::new(false),
            must_be_safe: AtomicU64::new(0),
            refusals: Mutex::default(),
            equivocations: Mutex::new(equivocations),
            proofs: Mutex::default(),
            late: Mutex::default(),
            behind_since: Mutex::default(),
        };
        Ok((witness, recovered))
    }

    /// Writes what waits, under a last checkpoint. Idempotent.
    ///
    /// # Errors
    /// Of the disk.
    pub async fn close(self: Arc<Self>) -> Result<(), LogError> {
        let closing = tokio::task::spawn_blocking(move || self.log.close());
        closing.await.unwrap_or(Err(LogError::Failed))
    }

    /// How the log is doing.
    pub fn status(&self) -> Status {
        self.log.status()
    }

    pub(crate) fn tips(&self) -> Vec<Arc<Tip>> {
        self.log.tips()
    }

    /// Shows checkpoints to peers, demands proof that their logs only grow, and signs what it holds: for
    /// [`SessionConfig::keepalive`](ifmesh_transport::SessionConfig::keepalive). Must be called within a tokio runtime.
    ///
    /// `trust` knows the keys of the agents whose checkpoints former runs held.
    ///
    /// # Errors
    /// If the log's folder cannot be read.
    pub fn keepalive(
        self: &Arc<Self>,
        agent: &AgentId,
        identity: &Identity,
        trust: &TrustStore,
    ) -> Result<Arc<dyn Keepalive>, CircleError> {
        let known = |agent: &AgentId| trust.binding(agent).map(|binding| binding.key);
        let circle = Circle::open(&self.folder, agent.clone(), identity.clone(), known)?;
        Ok(Arc::new(Companion::start(
            circle,
            self.clone(),
            self.clock.clone(),
        )))
    }

    /// Where the log is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Puts an event on record that is none of the session's, at once.
    pub(crate) fn record(&self, entry: Entry) {
        // No message hangs on these, and they come from other tasks: counted, if there is no room.
        let _counted = self.log.try_record(entry);
    }

    fn push(&self, entry: Entry) {
        lock(&self.waiting).push(entry);
    }

    /// Something happened to a message. What happened to several, one after the other, becomes one line.
    fn push_about(
        waiting: &mut Vec<Entry>,
        event: Event,
        peer: &AgentId,
        road: Option<&Arc<str>>,
        mut metadata: Metadata,
        (header, digest): (&Header, MessageDigest),
    ) {
        if let Some(act) = &header.performative {
            metadata = metadata.with("performative", act.as_str());
        }
        if header.destination == Destination::Everyone {
            metadata = metadata.with("broadcast", 1u32);
        }
        if let Some(last) = waiting.last_mut()
            && last.also(event, peer, road, &metadata, (header, digest))
        {
            return;
        }
        let mut entry = Entry::new(event)
            .peer(peer.clone())
            .message(Mention::of(header, digest))
            .metadata(metadata);
        if let Some(road) = road {
            entry = entry.transport(road.clone());
        }
        waiting.push(entry);
    }

    /// Whether a refusal is recorded, and whether at once.
    fn admit_refusal(&self, urgent: bool) -> bool {
        let second = self.clock.now().unix_millis().div_euclid(1_000);
        let mut refusals = lock(&self.refusals);
        if refusals.second != second {
            *refusals = Refusals {
                second,
                ..Refusals::default()
            };
        }
        if refusals.recorded >= REFUSALS_PER_SECOND {
            self.log.count_dropped(1);
            return false;
        }
        refusals.recorded += 1;
        if urgent && refusals.urgent < URGENT_REFUSALS_PER_SECOND {
            refusals.urgent += 1;
            self.urgent.store(true, Ordering::Relaxed);
        }
        true
    }

    /// Hands the events of this step to the log; under `Required`, waits until it has room for them.
    async fn hand_over(&self) -> Result<(), NotRecorded> {
        let mut entries = {
            let mut waiting = lock(&self.waiting);
            if waiting.is_empty() {
                return Ok(());
            }
            std::mem::take(&mut *waiting)
        };
        let when = match self.log.policy() {
            Policy::BestEffort if !self.hurried.swap(false, Ordering::Relaxed) => When::Soon,
            _ => When::Now,
        };
        let mut deadline = None;
        while let Err(refused) = self.log.offer(&mut entries, when) {
            if self.log.policy() == Policy::BestEffort {
                self.log.count_dropped(entries.iter().map(Entry::events).sum());
                break;
            }
            let now = tokio::time::Instant::now();
            if refused != NotRecorded::Full || now >= *deadline.get_or_insert(now + PATIENCE) {
                // They keep their place before whatever comes.
                let mut waiting = lock(&self.waiting);
                entries.append(&mut waiting);
                *waiting = entries;
                return Err(refused);
            }
            tokio::time::sleep(ROOM_AGAIN).await;
        }
        if when == When::Now {
            let (accepted, _) = self.log.progress();
            self.must_be_safe.store(accepted, Ordering::Relaxed);
        }
        // The next step finds its room made.
        entries.clear();
        let mut waiting = lock(&self.waiting);
        if waiting.is_empty() {
            *waiting = entries;
        }
        Ok(())
    }

    /// Puts on disk what proves an equivocation, before the record of it.
    async fn keep_proofs(&self) -> Result<(), String> {
        let proofs = std::mem::take(&mut *lock(&self.proofs));
        if proofs.is_empty() {
            return Ok(());
        }
        let keeping = tokio::task::spawn_blocking(move || {
            let keep = |(path, content): &(PathBuf, Vec<u8>)| {
                let made = path.parent().map_or(Ok(()), std::fs::create_dir_all);
                made.and_then(|()| replace(path, content))
                    .map_err(|error| (path.clone(), error))
            };
            let kept = proofs.iter().try_for_each(keep);
            (kept, proofs)
        });
        match keeping.await {
            Ok((Ok(()), _)) => Ok(()),
            Ok((Err((path, error)), mut proofs)) => {
                let error = format!("{}: {error}", path.display());
                if self.log.policy() == Policy::Required {
                    let mut waiting = lock(&self.proofs);
                    proofs.append(&mut waiting);
                    *waiting = proofs;
                    return Err(error);
                }
                tracing::error!(error, "the proof of an equivocation is not on disk");
                Ok(())
            }
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits until everything that was recorded is on disk.
    async fn sync(&self) -> Result<(), String> {
        let slow = || "the disk does not answer".to_owned();
        // One that did not answer is asked again only once it has.
        let late = lock(&self.late).take();
        if let Some(mut late) = late
            && matches!(
                late.try_recv(),
                Err(tokio::sync::oneshot::error::TryRecvError::Empty)
            )
        {
            *lock(&self.late) = Some(late);
            return Err(slow());
        }
        let (sender, mut answer) = tokio::sync::oneshot::channel();
        let done = Box::new(move |result| drop(sender.send(result)));
        self.log.sync(true, done).map_err(|error| error.to_string())?;
        match tokio::time::timeout(PATIENCE, &mut answer).await {
            Ok(Ok(result)) => result.map_err(|error| error.to_string()),
            Ok(Err(_)) => Err(NotRecorded::Closed.to_string()),
            Err(_) => {
                *lock(&self.late) = Some(answer);
                Err(slow())
            }
        }
    }

    /// Whether the log has been behind, or failed, for too long to wait for it.
    fn is_late(&self, is_behind: bool) -> bool {
        let mut behind = lock(&self.behind_since);
        if !is_behind {
            *behind = None;
            return false;
        }
        let since = behind.get_or_insert_with(tokio::time::Instant::now);
        self.log.failure().is_some() || lock(&self.late).is_some() || since.elapsed() >= PATIENCE
    }

    fn on_rejected(&self, rejected: &RejectedMessage) {
        let (header, reason) = (&rejected.header, &rejected.reason);
        let event = match reason {
            Rejection::Equivocation => Event::Equivocation,
            Rejection::Untrusted(TrustError::KeyChanged | TrustError::Revoked | TrustError::WrongSource) => {
                Event::KeyRefused
            }
            _ => Event::IfmessageRejected,
        };
        let first = rejected.proof.as_ref().and_then(|proof| proof.first.as_ref());
        let kept = rejected.proof.as_ref().zip(first).and_then(|(proof, first)| {
            let mut kept = lock(&self.equivocations);
            kept.keep(first.as_signed(), &proof.second)
        });
        let urgent = event != Event::IfmessageRejected || *reason == Rejection::BadSignature;
        if kept.is_some() {
            // Proofs have their own, smaller bound: no flood of other refusals keeps one off the record.
            self.urgent.store(true, Ordering::Relaxed);
        } else if !self.admit_refusal(urgent) {
            return;
        }
        let mut metadata = Metadata::default()
            .with("reason", reason.name())
            .with("key_id", rejected.key.to_hex())
            .with("authentic", u32::from(rejected.authentic));
        if let Some(first) = first {
            metadata = metadata.with("first_digest", first.digest().to_hex());
        }
        if let Some((path, content)) = kept {
            metadata = metadata.with("proof", &*path.file_name().unwrap_or_default().to_string_lossy());
            lock(&self.proofs).push((path, content));
        }
        let about = (&**header, rejected.digest);
        let mut waiting = lock(&self.waiting);
        Self::push_about(
            &mut waiting,
            event,
            &header.source,
            Some(&self.transport),
            metadata,
            about,
        );
    }

    /// Acknowledgements that ride along are the session's own, and the other side does not record them either.
    fn on_sent(&self, sent: &Flight, road: Option<&Arc<str>>, instead_of: Option<&Arc<str>>) {
        let mut every = Metadata::default();
        if sent.lane == Lane::BestEffort {
            every = every.with("lane", "best-effort");
        }
        if let Some(named) = instead_of {
            every = every.with("instead_of", &**named);
        }
        let road = Some(road.unwrap_or(&self.transport));
        let mut waiting = lock(&self.waiting);
        for (message, attempt) in &sent.messages {
            if is_control(message.header()) {
                continue;
            }
            let mut metadata = every.clone();
            if *attempt > 1 {
                metadata = metadata.with("attempt", *attempt);
            }
            let about = (message.header(), message.digest());
            Self::push_about(
                &mut waiting,
                Event::IfmessageSent,
                &sent.peer,
                road,
                metadata,
                about,
            );
        }
    }
}

#[async_trait]
impl Observer for Witness {
    fn on_event(&self, event: &SessionEvent) {
        let is_ours = matches!(
            event,
            SessionEvent::Sent { .. } | SessionEvent::Carried { .. } | SessionEvent::Finished { .. }
        );
        self.hurried.fetch_or(!is_ours, Ordering::Relaxed);
        let entry = match event {
            SessionEvent::PeerUp { peer, epoch } => Entry::new(Event::PeerConnected)
                .peer(peer.clone())
                .transport(self.transport.clone())
                .with("epoch", *epoch),
            SessionEvent::PeerDown { peer, reason } => Entry::new(Event::PeerDisconnected)
                .peer(peer.clone())
                .transport(self.transport.clone())
                .with("reason", reason.as_str()),
            SessionEvent::Pinned { agent, key } => {
                self.urgent.store(true, Ordering::Relaxed);
                Entry::new(Event::KeyPinned)
                    .peer(agent.clone())
                    .with("key", key.to_hex())
            }
            SessionEvent::TrustChanged { agent, from, to } => {
                self.urgent.store(true, Ordering::Relaxed);
                let event = match (from, to) {
                    (Some(_), Some(_)) => Event::KeyRotated,
                    (_, None) => Event::KeyRevoked,
                    (None, Some(_)) => Event::KeyPinned,
                };
                let mut entry = Entry::new(event).peer(agent.clone());
                for (name, key) in [("former_key", from), ("key", to)] {
                    if let Some(key) = key {
                        entry = entry.with(name, key.to_hex());
                    }
                }
                entry
            }
            SessionEvent::Sent { flight, road } => return self.on_sent(flight, road.as_ref(), None),
            SessionEvent::Carried {
                flight,
                road,
                instead_of,
            } => return self.on_sent(flight, Some(road), instead_of.as_ref()),
            SessionEvent::Received { messages, road } => {
                let (event, road) = (Event::IfmessageReceived, road.as_ref().unwrap_or(&self.transport));
                let mut waiting = lock(&self.waiting);
                for message in messages {
                    let (header, metadata) = (message.header(), Metadata::default());
                    let about = (header, message.digest());
                    Self::push_about(&mut waiting, event, &header.source, Some(road), metadata, about);
                }
                return;
            }
            SessionEvent::Rejected { rejected } => return self.on_rejected(rejected),
            SessionEvent::Malformed { link, error } => {
                if !self.admit_refusal(false) {
                    return;
                }
                Entry::new(Event::IfmessageRejected)
                    .peer(link.clone())
                    .transport(self.transport.clone())
                    .with("reason", Rejection::from(error.clone()).name())
            }
            SessionEvent::Finished {
                messages,
                peer,
                outcome,
            } => {
                let event = match outcome {
                    Outcome::Acknowledged => Event::IfmessageAcknowledged,
                    Outcome::Expired => Event::IfmessageExpired,
                    Outcome::Refused(_) | Outcome::Unconfirmed => Event::IfmessageDropped,
                };
                let mut metadata = Metadata::default();
                if let Outcome::Refused(refusal) = outcome {
                    metadata = metadata.with("reason", reason_of(refusal));
                }
                let mut waiting = lock(&self.waiting);
                for message in messages {
                    let about = (message.header(), message.digest());
                    Self::push_about(&mut waiting, event, peer, None, metadata.clone(), about);
                }
                return;
            }
            SessionEvent::Dropped { digest, peer, reason } => {
                let entry = Entry::new(Event::IfmessageDropped)
                    .peer(peer.clone())
                    .with("reason", *reason);
                match digest {
                    Some(digest) => entry.message(Mention::new(*digest)),
                    None => entry,
                }
            }
            SessionEvent::Road { change } => {
                let entry = Entry::new(Event::RoadChanged)
                    .peer(change.peer.clone())
                    .transport(change.road.clone())
                    .with("from", change.from.as_str())
                    .with("to", change.to.as_str())
                    .with("reason", change.reason);
                match &change.switched {
                    Some((from, to)) => entry.with("switched_from", &**from).with("switched_to", &**to),
                    None => entry,
                }
            }
            SessionEvent::TransportRefused { peer, reason, detail } => {
                if !self.admit_refusal(false) {
                    return;
                }
                let entry = Entry::new(Event::LinkRefused)
                    .transport(self.transport.clone())
                    .with("reason", *reason)
                    .with("detail", detail.as_str());
                match peer {
                    Some(peer) => entry.peer(peer.clone()),
                    None => entry,
                }
            }
            SessionEvent::JournalFailed { error } => {
                Entry::new(Event::JournalFailed).with("reason", error.0.as_str())
            }
            _ => return,
        };
        self.push(entry);
    }

    async fn settle(&self) -> Result<(), ObserverError> {
        let required = self.log.policy() == Policy::Required;
        self.keep_proofs().await.map_err(ObserverError)?;
        self.hand_over()
            .await
            .map_err(|error| ObserverError(error.to_string()))?;
        if self.urgent.swap(false, Ordering::Relaxed) {
            match self.sync().await {
                Ok(()) => {}
                Err(error) if required => {
                    self.urgent.store(true, Ordering::Relaxed);
                    return Err(ObserverError(error));
                }
                Err(error) => {
                    tracing::warn!(%error, folder = %self.folder.display(), "going on without the witness");
                }
            }
        }
        match self.log.failure() {
            Some(error) if required => Err(ObserverError(error.to_string())),
            _ => Ok(()),
        }
    }

    fn progress(&self) -> (u64, u64) {
        let told = self.must_be_safe.load(Ordering::Relaxed);
        let safe = self.log.progress().1.min(told);
        // Best effort waits for no disk.
        match self.log.policy() {
            Policy::BestEffort if self.is_late(safe < told) => (told, told),
            _ => (told, safe),
        }
    }
}

impl LinkObserver for Witness {
    fn on_notice(&self, transport: &str, notice: &LinkNotice) {
        let entry = match notice {
            LinkNotice::SignalingConnected { server } => {
                Entry::new(Event::SignalingConnected).with("server", server.as_str())
            }
            LinkNotice::SignalingLost { server, reason } => Entry::new(Event::SignalingDisconnected)
                .with("server", server.as_str())
                .with("reason", reason.as_str()),
            LinkNotice::OfferCreated { peer, sdp_hash } => Entry::new(Event::WebrtcOfferCreated)
                .peer(peer.clone())
                .sdp_hash(*sdp_hash),
            LinkNotice::AnswerCreated { peer, sdp_hash } => Entry::new(Event::WebrtcAnswerCreated)
                .peer(peer.clone())
                .sdp_hash(*sdp_hash),
            LinkNotice::CandidateSent { peer } => Entry::new(Event::IceCandidateSent).peer(peer.clone()),
            LinkNotice::ChannelOpen { peer, label } => Entry::new(Event::DatachannelOpen)
                .peer(peer.clone())
                .with("label", *label),
            _ => return,
        };
        self.record(entry.transport(transport));
    }
}

fn is_control(header: &Header) -> bool {
    header
        .performative
        .as_ref()
        .is_some_and(Performative::is_reserved)
}

fn reason_of(refusal: &Refusal) -> String {
    match refusal {
        Refusal::ByPeer(name) => format!("by-peer:{name}"),
        Refusal::SessionClosed => "session-closed".to_owned(),
        Refusal::PeerForgotten => "peer-forgotten".to_owned(),
        _ => "refused".to_owned(),
    }
}
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Several observers as one: each is told, and each is waited for, in turn.
pub(crate) struct Observers(pub(crate) Vec<Arc<dyn Observer>>);

#[async_trait]
impl Observer for Observers {
    fn on_event(&self, event: &SessionEvent) {
        self.0.iter().for_each(|observer| observer.on_event(event));
    }

    async fn settle(&self) -> Result<(), ObserverError> {
        for observer in &self.0 {
            observer.settle().await?;
        }
        Ok(())
    }

    fn progress(&self) -> (u64, u64) {
        let all = self.0.iter().map(|observer| observer.progress());
        all.fold((0, 0), |(told, safe), (more, of_it)| (told + more, safe + of_it))
    }
}

impl fmt::Debug for Observers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}
