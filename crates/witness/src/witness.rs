//! The front: takes events from anywhere, and writes them on a thread of its own.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError, TryLockError,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{SyncSender, sync_channel},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use ifmsg::{Identity, Timestamp};

use crate::{
    checkpoint::Checkpoint,
    log::{CHECKPOINT_MILLIS, Log, LogError, PUBLISH_MILLIS, Recovered, Settings, Tip},
    record::{Entry, Event},
};

/// Events that wait for the writer. At 300,000 a second that is a fifth of a second of a disk that stands still.
const QUEUE: usize = 65_536;

/// Checkpoints to give away that are kept, so that a peer that missed some can be shown each step.
const TIPS: usize = 64;

/// Batches of events that the writer takes in one go, before it writes them and looks at the clock.
const BATCH: usize = 1_024;

/// Events that wait when the writer is called; until then it comes by itself.
const HURRY: u64 = 1_024;

/// Bytes of lines that are [held](When::Soon) back until they are worth a call of the operating system.
const HELD: usize = 128 << 10;

/// How often the writer looks at the clock and the queue, and writes what is held back.
const TICK: Duration = Duration::from_millis(20);

/// How often it tries to open a log again that has failed.
const REOPEN_MILLIS: i64 = 1_000;

/// Tells the time of day.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// What becomes of an action whose event cannot be recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Policy {
    /// Nothing happens off the record: [`Witness::try_record`] says that it could not, and the caller lets the action be.
    Required,
    /// Actions go on. Events that are lost are counted, and the count goes on record.
    BestEffort,
}

/// When events are handed to the operating system, and so are safe from the death of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Before [`Witness::offer`] returns, unless the writer is at work.
    Now,
    /// Within 20 ms, or once enough of them have gathered, or with the next that go at once: fewer calls of it, which cost as much
    /// as everything else that makes a line.
    Soon,
}

/// The event is not, and will not be, on record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotRecorded {
    /// The writer cannot keep up. Try again in a moment.
    #[error("the witness has more events waiting than it can hold; try again in a moment")]
    Full,
    /// The log has failed. It is opened again each second; until then, nothing is recorded.
    #[error("the witness cannot write: {0}")]
    Failed(LogError),
    /// The witness is closed.
    #[error("the witness is closed")]
    Closed,
}

/// How the witness is doing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Status {
    /// Lines in the log, of former lives too.
    pub lines: u64,
    /// Events lost in this life, of which the log may not have heard yet. After a failure of the disk this is an upper bound.
    pub dropped: u64,
    /// The last checkpoint that is durable: give it to others.
    pub checkpoint: Option<Checkpoint>,
    /// Why it does not write, if it does not.
    pub failure: Option<LogError>,
}

/// An open log with a thread that writes it.
///
/// Events of one caller keep their order. Each is handed to the operating system as soon as the writer comes to it, or
/// [as offered](Self::offer); one that [is durable at once](Event::is_durable_at_once) is synced then, the others ten times a
/// second. [`sync`](Self::sync) and [`flush`](Self::flush) tell when.
///
/// Dropping it is [`close`](Self::close) without the answer: both wait for the disk.
pub struct Witness {
    shared: Arc<Shared>,
    policy: Policy,
    clock: Clock,
    queue: u64,
    writer: Mutex<Option<JoinHandle<Result<(), LogError>>>>,
}

impl Witness {
    /// Opens the log ([`Log::open`]) and starts the writer. Blocks while the log is read.
    ///
    /// # Errors
    /// Those of [`Log::open`].
    pub fn open(
        settings: Settings,
        identity: Identity,
        policy: Policy,
        clock: Clock,
    ) -> Result<(Self, Recovered), LogError> {
        Self::open_with_queue(settings, identity, policy, clock, QUEUE)
    }

    fn open_with_queue(
        settings: Settings,
        identity: Identity,
        policy: Policy,
        clock: Clock,
        queue: usize,
    ) -> Result<(Self, Recovered), LogError> {
        let (log, recovered) = Log::open(settings.clone(), identity.clone(), clock())?;
        let path = settings.dir.clone();
        let facts = Facts::default();
        facts.progress(&log);
        let core = Core {
            settings,
            identity,
            clock: Arc::clone(&clock),
            log: Some(log),
            held: 0,
            urgent: false,
            reopen_at: clock(),
            told: 0,
            told_at: clock(),
            published_at: None,
        };
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            ready: Condvar::new(),
            core: Mutex::new(core),
            facts,
        });
        let writers = Arc::clone(&shared);
        let writer = thread::Builder::new()
            .name("ifmesh-witness".into())
            .spawn(move || writers.run())
            .map_err(|error| LogError::Io {
                path,
                kind: error.kind(),
            })?;
        let witness = Self {
            shared,
            policy,
            clock,
            queue: queue as u64,
            writer: Mutex::new(Some(writer)),
        };
        Ok((witness, recovered))
    }

    /// Puts an event on record. Never waits. `Ok` under [`Policy::Required`] is "in the queue of a log that works": a crash may still
    /// take it, until [`flush`](Self::flush) has returned.
    ///
    /// # Errors
    /// Under [`Policy::Required`] only. Under [`Policy::BestEffort`] what does not fit is counted.
    pub fn try_record(&self, entry: Entry) -> Result<(), NotRecorded> {
        let events = entry.events();
        let outcome = self.put(&mut vec![entry], events);
        if outcome.is_err() {
            self.count_dropped(events);
        }
        match self.policy {
            Policy::Required => outcome,
            Policy::BestEffort => Ok(()),
        }
    }

    /// Waits until every event that was recorded before is durable and under a checkpoint, and gives that. Blocks.
    ///
    /// # Errors
    /// [`NotRecorded`], whatever the policy.
    pub fn flush(&self) -> Result<Checkpoint, NotRecorded> {
        let (reply, answer) = sync_channel(1);
        self.shared.push(Job::Flush(reply))?;
        answer
            .recv()
            .map_err(|_| NotRecorded::Closed)?
            .map_err(NotRecorded::Failed)
    }

    /// Puts events on record, whatever the policy: all of them, which empties `entries`, or none; and then they are not counted as
    /// lost, for they may be offered again.
    ///
    /// Does the work here and now, which is quick as long as the disk keeps up. If the writer is at work, perhaps because it waits
    /// for the disk, they are left to it. Many at once cost less than each alone.
    ///
    /// # Errors
    /// [`NotRecorded`].
    pub fn offer(&self, entries: &mut Vec<Entry>, when: When) -> Result<(), NotRecorded> {
        let events = entries.iter().map(Entry::events).sum();
        match self.shared.take_now((self.clock)(), entries, events, when) {
            Some(done) => done,
            None => self.put(entries, events),
        }
    }

    /// Leaves events to the writer.
    fn put(&self, entries: &mut Vec<Entry>, events: u64) -> Result<(), NotRecorded> {
        if let Some(error) = self.failure() {
            return Err(NotRecorded::Failed(error));
        }
        let facts = &self.shared.facts;
        let mut queue = lock(&self.shared.queue);
        if queue.closed {
            return Err(NotRecorded::Closed);
        }
        let waiting = facts.waiting();
        // What is larger than the queue finds room in an empty one.
        if waiting > 0 && waiting + events > self.queue {
            return Err(NotRecorded::Full);
        }
        let is_urgent = entries.iter().any(|entry| entry.event().is_durable_at_once());
        facts.accepted.fetch_add(events, Ordering::AcqRel);
        queue
            .jobs
            .push_back(Job::Record((self.clock)(), std::mem::take(entries)));
        drop(queue);
        // Otherwise the writer comes by itself.
        if is_urgent || waiting + events > HURRY {
            self.shared.ready.notify_one();
        }
        Ok(())
    }

    /// Calls `done`, from the writer's thread, once every event that was recorded before is with the operating system, or, if
    /// `durable`, on disk. Never waits.
    ///
    /// # Errors
    /// If it cannot even be asked; then `done` is dropped uncalled.
    pub fn sync(&self, durable: bool, done: Done) -> Result<(), NotRecorded> {
        self.failure()
            .map_or(Ok(()), |error| Err(NotRecorded::Failed(error)))?;
        self.shared.push(Job::Sync { durable, done })
    }

    /// How many events were accepted so far, and how many of these the writer is done with: they are with the operating system, and
    /// survive the death of this process, or they are lost and counted.
    pub fn progress(&self) -> (u64, u64) {
        let facts = &self.shared.facts;
        let accepted = facts.accepted.load(Ordering::Acquire);
        (accepted, facts.written.load(Ordering::Acquire))
    }

    /// Counts events that a caller had to leave out: the log tells how many.
    pub fn count_dropped(&self, events: u64) {
        self.shared.facts.dropped.fetch_add(events, Ordering::Relaxed);
    }

    /// The last checkpoints to give away, the oldest first: at most 64, one every [`PUBLISH_MILLIS`] while the log grows. They are
    /// made from the first call on.
    pub fn tips(&self) -> Vec<Arc<Tip>> {
        self.shared.facts.tips_wanted.store(true, Ordering::Relaxed);
        lock(&self.shared.facts.tips).iter().cloned().collect()
    }

    /// Why it does not write, if it does not.
    pub fn failure(&self) -> Option<LogError> {
        let facts = &self.shared.facts;
        let failed = facts.failed.load(Ordering::Relaxed) != 0;
        failed.then(|| facts.failure())
    }

    /// What becomes of an action whose event cannot be recorded.
    pub fn policy(&self) -> Policy {
        self.policy
    }

    /// How it is doing.
    pub fn status(&self) -> Status {
        Status {
            dropped: self.shared.facts.dropped.load(Ordering::Relaxed),
            ..lock(&self.shared.facts.status).clone()
        }
    }

    /// Writes what waits, then `log_closed`, under a last checkpoint; what is recorded later is refused. Blocks. Idempotent.
    ///
    /// # Errors
    /// Of the disk.
    pub fn close(&self) -> Result<(), LogError> {
        let writer = lock(&self.writer).take();
        // If it is closed already, there is nobody to tell.
        let _closed = self.shared.push(Job::Close);
        match writer {
            // A writer that panicked has left a log in an unknown state.
            Some(writer) => writer.join().unwrap_or(Err(LogError::Failed)),
            None => Ok(()),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Witness {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::error!(%error, "the witness log was not closed in good order");
        }
    }
}

impl fmt::Debug for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Witness")
            .field("policy", &self.policy)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

/// Is told when events are written.
pub type Done = Box<dyn FnOnce(Result<(), LogError>) + Send>;

enum Job {
    Record(Timestamp, Vec<Entry>),
    Sync { durable: bool, done: Done },
    Flush(SyncSender<Result<Checkpoint, LogError>>),
    Close,
}

/// What waits for the writer, in order. Events are bounded by [`Witness::offer`]; of other jobs each caller has one.
#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    ready: Condvar,
    /// Whoever holds it takes from the queue and writes: so lines keep the order of the queue. Locked before the queue.
    core: Mutex<Core>,
    facts: Facts,
}

#[derive(Default)]
struct Facts {
    /// Events that were put in the queue, and that the writer is done with: they are with the operating system, or lost and counted.
    accepted: AtomicU64,
    written: AtomicU64,
    dropped: AtomicU64,
    failed: AtomicU64,
    tips_wanted: AtomicBool,
    tips: Mutex<VecDeque<Arc<Tip>>>,
    status: Mutex<Status>,
}

impl Facts {
    fn waiting(&self) -> u64 {
        let accepted = self.accepted.load(Ordering::Acquire);
        accepted.saturating_sub(self.written.load(Ordering::Acquire))
    }

    fn progress(&self, log: &Log) {
        let mut status = lock(&self.status);
        status.lines = log.size();
        status.checkpoint = log.last_checkpoint().cloned();
        status.failure = None;
        self.failed.store(0, Ordering::Relaxed);
    }

    fn fail(&self, error: &LogError) {
        lock(&self.status).failure = Some(error.clone());
        self.failed.store(1, Ordering::Relaxed);
    }

    fn failure(&self) -> LogError {
        lock(&self.status).failure.clone().unwrap_or(LogError::Failed)
    }
}

impl Shared {
    fn push(&self, job: Job) -> Result<(), NotRecorded> {
        let mut queue = lock(&self.queue);
        if queue.closed {
            return Err(NotRecorded::Closed);
        }
        queue.closed = matches!(job, Job::Close);
        queue.jobs.push_back(job);
        drop(queue);
        self.ready.notify_one();
        Ok(())
    }

    fn run(&self) -> Result<(), LogError> {
        let facts = &self.facts;
        loop {
            {
                let queue = lock(&self.queue);
                if queue.jobs.is_empty() {
                    // Woken or not, it is time to look.
                    drop(self.ready.wait_timeout(queue, TICK));
                }
            }
            let mut core = lock(&self.core);
            let mut taken = 0;
            loop {
                for (at, entries) in self.records() {
                    taken += core.take(at, &entries, facts);
                }
                // A statement of its own, so that the queue is free meanwhile.
                let next = lock(&self.queue)
                    .jobs
                    .pop_front_if(|job| !matches!(job, Job::Record(..)));
                match next {
                    None => break,
                    Some(job) => {
                        core.write(std::mem::take(&mut taken), facts);
                        match job {
                            Job::Sync { durable: false, done } => done(core.health(facts)),
                            Job::Sync { durable: true, done } => {
                                let synced;
                                (core, synced) = self.commit(core);
                                done(synced);
                            }
                            Job::Flush(reply) => {
                                core.tell(facts);
                                core.sign();
                                let synced;
                                (core, synced) = self.commit(core);
                                // Whoever asked may have gone.
                                let _gone = reply.send(synced.and_then(|()| core.last_checkpoint(facts)));
                            }
                            Job::Close | Job::Record(..) => return core.close(facts),
                        }
                    }
                }
            }
            core.write(taken, facts);
            if std::mem::take(&mut core.urgent) {
                core = self.commit(core).0;
            }
            core.tick(facts);
            let tip = core.due(facts);
            if let Some(tip) = tip {
                let synced;
                (core, synced) = self.commit(core);
                if let (Ok(()), Some(tip)) = (synced, tip) {
                    let mut tips = lock(&facts.tips);
                    tips.push_back(Arc::new(tip));
                    if tips.len() > TIPS {
                        tips.pop_front();
                    }
                }
            }
            drop(core);
        }
    }

    /// Makes durable what has been taken in. The disk is waited for without the lock, so that others can go on writing.
    fn commit<'a>(&'a self, mut core: MutexGuard<'a, Core>) -> (MutexGuard<'a, Core>, Result<(), LogError>) {
        let begun = match &mut core.log {
            Some(log) => log.begin_commit(),
            None => Err(self.facts.failure()),
        };
        let mut done = match begun {
            Err(error) => Err(error),
            Ok(commit) => {
                drop(core);
                let synced = commit.sync();
                core = lock(&self.core);
                match &mut core.log {
                    Some(log) => log.end_commit(&commit, synced),
                    // It failed meanwhile.
                    None => Err(self.facts.failure()),
                }
            }
        };
        match (&mut done, &core.log) {
            (Ok(()), Some(log)) => self.facts.progress(log),
            (Err(error), Some(_)) => {
                let error = error.clone();
                core.fail(&error, &self.facts);
            }
            (_, None) => {}
        }
        (core, done)
    }

    /// Takes events from the head of the queue, up to the first job that is something else. Whoever calls it holds the core.
    fn records(&self) -> Vec<(Timestamp, Vec<Entry>)> {
        let mut queue = lock(&self.queue);
        let mut records = Vec::new();
        while records.len() < BATCH
            && let Some(Job::Record(at, entries)) =
                queue.jobs.pop_front_if(|job| matches!(job, Job::Record(..)))
        {
            records.push((at, entries));
        }
        records
    }

    /// Takes these events in, after those that wait, if the writer is not at it and has nothing else to do first. `None` if it is.
    fn take_now(
        &self,
        now: Timestamp,
        entries: &mut Vec<Entry>,
        events: u64,
        when: When,
    ) -> Option<Result<(), NotRecorded>> {
        let facts = &self.facts;
        let mut core = match self.core.try_lock() {
            Ok(core) => core,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        let mut taken = 0;
        for (at, entries) in self.records() {
            taken += core.take(at, &entries, facts);
        }
        let (is_closed, is_empty) = {
            let queue = lock(&self.queue);
            (queue.closed, queue.jobs.is_empty())
        };
        let outcome = if is_closed {
            Some(Err(NotRecorded::Closed))
        } else if let Err(error) = core.health(facts) {
            Some(Err(NotRecorded::Failed(error)))
        } else if is_empty {
            facts.accepted.fetch_add(events, Ordering::AcqRel);
            taken += core.take(now, entries, facts);
            entries.clear();
            Some(Ok(()))
        } else {
            // It is the writer's turn.
            None
        };
        match when {
            When::Soon if core.may_hold() => core.held += taken,
            _ => core.write(taken, facts),
        }
        if core.urgent {
            self.ready.notify_one();
        }
        outcome
    }
}

/// What writes: the log, and what is known of its health.
struct Core {
    settings: Settings,
    identity: Identity,
    clock: Clock,
    log: Option<Log>,
    /// Events that were taken in, and not handed to the operating system yet.
    held: u64,
    /// An event that matters for trust waits for its sync.
    urgent: bool,
    reopen_at: Timestamp,
    /// Of the events that were dropped, how many the log has been told of.
    told: u64,
    told_at: Timestamp,
    published_at: Option<Timestamp>,
}

impl Core {
    /// How many events that were.
    fn take(&mut self, at: Timestamp, entries: &[Entry], facts: &Facts) -> u64 {
        for entry in entries {
            self.urgent |= entry.event().is_durable_at_once();
            self.record(at, entry, facts);
        }
        entries.iter().map(Entry::events).sum()
    }

    /// Hands what was taken to the operating system.
    fn write(&mut self, taken: u64, facts: &Facts) {
        if let Some(log) = &mut self.log
            && let Err(error) = log.write()
        {
            self.fail(&error, facts);
        }
        let held = std::mem::take(&mut self.held);
        facts.written.fetch_add(taken + held, Ordering::AcqRel);
    }

    /// Whether what was taken in need not be written yet.
    fn may_hold(&self) -> bool {
        self.log.as_ref().is_some_and(|log| log.queued() < HELD)
    }

    fn health(&self, facts: &Facts) -> Result<(), LogError> {
        match &self.log {
            Some(_) => Ok(()),
            None => Err(facts.failure()),
        }
    }

    fn sign(&mut self) {
        if let Some(log) = &mut self.log {
            log.sign();
        }
    }

    fn last_checkpoint(&self, facts: &Facts) -> Result<Checkpoint, LogError> {
        let last = self.log.as_ref().and_then(Log::last_checkpoint);
        last.cloned().ok_or_else(|| facts.failure())
    }

    fn close(&mut self, facts: &Facts) -> Result<(), LogError> {
        self.tell(facts);
        match self.log.take() {
            Some(log) => log.close((self.clock)()),
            None => Err(facts.failure()),
        }
    }

    fn record(&mut self, at: Timestamp, entry: &Entry, facts: &Facts) {
        let Some(log) = &mut self.log else {
            facts.dropped.fetch_add(entry.events(), Ordering::Relaxed);
            return;
        };
        let (before, _) = log.events();
        if let Err(error) = log.queue(at, entry) {
            // What the log took in is among what `fail` counts.
            let taken = log.events().0 - before;
            facts.dropped.fetch_add(entry.events() - taken, Ordering::Relaxed);
            self.fail(&error, facts);
        }
    }

    fn tick(&mut self, facts: &Facts) {
        let now = (self.clock)();
        if self.log.is_none() && now >= self.reopen_at {
            self.reopen(now, facts);
        }
        // Each telling is a sync: a flood must not turn into a flood of those.
        if !(0..CHECKPOINT_MILLIS).contains(&now.millis_since(self.told_at)) {
            self.told_at = now;
            self.tell(facts);
        }
    }

    /// If a checkpoint is due, signs it: a commit is to follow. With it, perhaps, one to give away.
    fn due(&mut self, facts: &Facts) -> Option<Option<Tip>> {
        let now = (self.clock)();
        let log = self.log.as_mut()?;
        let is_early = |at: Timestamp| (0..PUBLISH_MILLIS).contains(&now.millis_since(at));
        let publishes = facts.tips_wanted.load(Ordering::Relaxed) && !self.published_at.is_some_and(is_early);
        let is_due = log.is_due(now);
        if !publishes {
            if is_due {
                log.sign();
            }
            return is_due.then_some(None);
        }
        self.published_at = Some(now);
        match log.sign_tip() {
            None if !is_due => None,
            tip => Some(tip),
        }
    }

    /// Puts on record how many events were lost.
    fn tell(&mut self, facts: &Facts) {
        let dropped = facts.dropped.load(Ordering::Relaxed);
        let Some(log) = self.log.as_mut().filter(|_| dropped > self.told) else {
            return;
        };
        let entry = Entry::new(Event::EventsDropped).with("count", dropped - self.told);
        match log.append((self.clock)(), &entry) {
            Ok(_) => self.told = dropped,
            Err(error) => self.fail(&error, facts),
        }
    }

    fn fail(&mut self, error: &LogError, facts: &Facts) {
        tracing::error!(%error, dir = %self.settings.dir.display(), "the witness log failed");
        facts.fail(error);
        if let Some(log) = self.log.take() {
            // Nobody knows which of these reached the disk, so all of them count as lost.
            let (_, lost) = log.events();
            facts.dropped.fetch_add(lost, Ordering::Relaxed);
        }
        self.reopen_at = (self.clock)().plus_millis(REOPEN_MILLIS);
    }

    fn reopen(&mut self, now: Timestamp, facts: &Facts) {
        match Log::open(self.settings.clone(), self.identity.clone(), now) {
            Ok((log, recovered)) => {
                tracing::info!(?recovered, "the witness log is open again");
                facts.progress(&log);
                self.log = Some(log);
            }
            Err(error) => self.fail(&error, facts),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::atomic::AtomicI64};

    use ifmsg::AgentId;

    use super::*;
    use crate::{
        record::{Detail, Record},
        verify::verify,
    };

    fn settings(dir: &Path) -> Settings {
        Settings::new(dir, AgentId::new("alice").unwrap())
    }

    fn identity() -> Identity {
        Identity::from_seed(&[15; 32])
    }

    fn sent(number: u64) -> Entry {
        Entry::new(Event::IfmessageSent).with("number", number)
    }

    fn records(dir: &Path) -> Vec<Record> {
        verify(dir, &settings(dir).keys(&identity())).unwrap();
        let mut all = Vec::new();
        for segment in 0.. {
            let Ok(text) = fs::read_to_string(dir.join(format!("{segment:08}.jsonl"))) else {
                return all;
            };
            all.extend(text.lines().map(|line| Record::parse(line.as_bytes()).unwrap()));
        }
        all
    }

    fn numbers(records: &[Record]) -> Vec<Detail> {
        let sent = records
            .iter()
            .filter(|record| record.event == Event::IfmessageSent);
        sent.map(|record| record.metadata["number"].clone()).collect()
    }

    fn told(records: &[Record]) -> i64 {
        let told = records
            .iter()
            .filter(|record| record.event == Event::EventsDropped);
        told.map(|record| match record.metadata["count"] {
            Detail::Number(count) => count,
            Detail::Text(_) => panic!("a number"),
        })
        .sum()
    }

    fn clock() -> (Arc<AtomicI64>, Clock) {
        let millis = Arc::new(AtomicI64::new(1_795_356_600_000));
        let handle = Arc::clone(&millis);
        let clock = move || Timestamp::from_unix_millis(millis.load(Ordering::Relaxed));
        (handle, Arc::new(clock))
    }

    #[test]
    fn what_is_recorded_is_on_disk_in_order_and_the_log_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let (_, clock) = clock();
        let (witness, _) = Witness::open(settings(dir.path()), identity(), Policy::Required, clock).unwrap();
        for number in 0..500 {
            witness.try_record(sent(number)).unwrap();
        }
        let checkpoint = witness.flush().unwrap();
        assert_eq!(checkpoint.size(), 501);
        assert_eq!(witness.status().checkpoint, Some(checkpoint));
        assert_eq!(numbers(&records(dir.path())).len(), 500);
        // Dropped without `close`: closed all the same.
        drop(witness);
        let records = records(dir.path());
        assert_eq!(
            numbers(&records),
            (0..500u64).map(Detail::from).collect::<Vec<_>>()
        );
        assert_eq!(records.last().map(|record| record.event), Some(Event::LogClosed));
    }

    #[test]
    fn a_checkpoint_comes_by_the_clock_alone() {
        let dir = tempfile::tempdir().unwrap();
        let (millis, clock) = clock();
        let (witness, _) = Witness::open(settings(dir.path()), identity(), Policy::Required, clock).unwrap();
        witness.try_record(sent(0)).unwrap();
        millis.fetch_add(CHECKPOINT_MILLIS, Ordering::Relaxed);
        while witness.status().checkpoint.map(|checkpoint| checkpoint.size()) != Some(2) {
            thread::yield_now();
        }
    }

    /// The writer stands still, for it waits for its clock; nobody else does.
    #[test]
    fn a_full_queue_refuses_or_counts_and_the_count_goes_on_record() {
        for policy in [Policy::Required, Policy::BestEffort] {
            let dir = tempfile::tempdir().unwrap();
            let gate = Arc::new(Mutex::new(()));
            let (_, time) = clock();
            let writers = Arc::clone(&gate);
            let clock: Clock = Arc::new(move || {
                if thread::current().name() == Some("ifmesh-witness") {
                    drop(writers.lock().unwrap());
                }
                time()
            });
            let (witness, _) =
                Witness::open_with_queue(settings(dir.path()), identity(), policy, clock, 4).unwrap();
            let closed = gate.lock().unwrap();
            let mut tried = 0;
            while witness.status().dropped < 10 {
                let outcome = witness.try_record(sent(tried));
                let full = policy == Policy::Required && outcome.is_err();
                assert_eq!(outcome, if full { Err(NotRecorded::Full) } else { Ok(()) });
                tried += 1;
            }
            drop(closed);
            witness.close().unwrap();
            let records = records(dir.path());
            assert_eq!(told(&records), 10);
            assert_eq!(numbers(&records).len() as u64 + 10, tried);
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_full_disk_is_said_counted_and_outlived() {
        let dir = tempfile::tempdir().unwrap();
        let (millis, clock) = clock();
        let settings = Settings {
            segment_bytes: 2_000,
            ..settings(dir.path())
        };
        let (witness, _) = Witness::open(settings, identity(), Policy::Required, clock).unwrap();
        let full = dir.path().join("00000001.checkpoints");
        std::os::unix::fs::symlink("/dev/full", &full).unwrap();
        let mut tried = 0;
        let error = loop {
            let outcome = witness.try_record(sent(tried));
            tried += 1;
            match outcome {
                Ok(()) => drop(witness.flush()),
                Err(error) => break error,
            }
        };
        assert_eq!(error, NotRecorded::Failed(LogError::DiskFull(full.clone())));
        assert!(witness.status().failure.is_some());
        fs::remove_file(full).unwrap();
        while witness.flush().is_err() {
            millis.fetch_add(REOPEN_MILLIS, Ordering::Relaxed);
        }
        assert_eq!(witness.status().failure, None);
        witness.try_record(sent(tried)).unwrap();
        tried += 1;
        witness.close().unwrap();
        let records = records(dir.path());
        let (kept, lost) = (numbers(&records).len() as i64, told(&records));
        assert!(
            lost > 0 && kept + lost >= tried as i64,
            "{kept} kept, {lost} lost, {tried} tried"
        );
    }
}
