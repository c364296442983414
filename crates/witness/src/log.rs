//! Writes the log.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use ifmsg::{AgentId, Identity, PublicKey, Timestamp, TraceId};

use crate::{
    checkpoint::{Checkpoint, LogKeys},
    record::{Entry, Event, Place, trace_of, write_line},
    tree::{Frontier, Growth, Hash},
    walk::{VerifyError, checkpoints_path, segment_path, walk},
};

/// [`Log::tick`] makes a checkpoint so often at most, and no line waits for one longer.
pub const CHECKPOINT_MILLIS: i64 = 100;

/// A checkpoint is made after so many lines at the latest.
pub const CHECKPOINT_LINES: u64 = 1_000;

/// A checkpoint is given to peers so often at most.
pub const PUBLISH_MILLIS: i64 = 2_000;

/// Lines go to the operating system when so many bytes of them have queued up.
const QUEUE_BYTES: usize = 256 << 10;

/// Checkpoints wait until the lines they cover are durable; so many bytes of them call for that at once.
const CHECKPOINT_BYTES: usize = 64 << 10;

/// Whose log, where, and how it is cut up.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The folder. Made if it does not exist. Nothing else should live in it.
    pub dir: PathBuf,
    /// Whose log it is.
    pub agent: AgentId,
    /// Keys that signed earlier checkpoints in it: without them, a log from before a rotation does not open.
    pub former_keys: Vec<PublicKey>,
    /// A segment that has this many bytes is closed and the next begun.
    pub segment_bytes: u64,
}

impl Settings {
    /// Segments of 64 MiB, no former keys.
    pub fn new(dir: impl Into<PathBuf>, agent: AgentId) -> Self {
        Self {
            dir: dir.into(),
            agent,
            former_keys: Vec::new(),
            segment_bytes: 64 << 20,
        }
    }

    /// What verifies this log, with the identity's key.
    pub fn keys(&self, identity: &Identity) -> LogKeys {
        let keys = LogKeys::new(self.agent.clone(), *identity.public_key());
        self.former_keys.iter().fold(keys, |keys, key| keys.also(*key))
    }
}

/// A checkpoint to give away, with the proof that the log has only grown since the one that was given away before.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Tip {
    /// Durable.
    pub checkpoint: Checkpoint,
    /// How many lines the one before covers; `None` for the first of a life.
    pub grew_from: Option<u64>,
    /// The proof (RFC 9162, section 2.1.4). Empty without `grew_from`.
    pub proof: Vec<Hash>,
}

/// What opening found and mended.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Recovered {
    /// Lines from former lives.
    pub lines: u64,
    /// Bytes of an unfinished line that were cut off.
    pub torn_line: u64,
    /// Bytes of an unfinished checkpoint that were cut off.
    pub torn_checkpoint: u64,
    /// Whole lines that no checkpoint covered. They are kept, and the next checkpoint covers them.
    pub unsigned_lines: u64,
}

/// The log could not be opened or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// What is there is not a log of this agent in good order. It is not written to, and not mended: it may be evidence.
    #[error(
        "the log in {dir} cannot be continued: {error}; move it away (do not delete it) and start a new one"
    )]
    Damaged {
        /// The folder.
        dir: PathBuf,
        /// What is wrong.
        error: VerifyError,
    },
    /// Another process, or another `Log` in this one, writes it.
    #[error("the log in {0} is open elsewhere; one agent has one log")]
    InUse(PathBuf),
    /// No room. Free some, and open the log again.
    #[error("no room to write {0}; free some, then open the log again")]
    DiskFull(PathBuf),
    /// The file system failed.
    #[error("cannot write {path}: {kind}; mend that, then open the log again")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        kind: io::ErrorKind,
    },
    /// An earlier write failed, so nobody knows what is on disk. Open the log again, which finds out.
    #[error("an earlier write failed; open the log again")]
    Failed,
    /// 2^53 lines or 2^32 segments.
    #[error("the log has no numbers left; start a new one")]
    Exhausted,
}

/// A log that is open for writing: the one place where lines, tree and checkpoints grow together.
///
/// Does no waiting of its own and has no clock: time comes with the calls. Blocks for the disk, so keep it off an async
/// thread: [`Witness`](crate::Witness) does.
///
/// What is on disk is at each moment a log that [`Log::open`] takes up again, whenever the process dies: lines are made durable
/// before the checkpoint that covers them is written. After an error nothing more is written.
///
/// Dropping it keeps what was committed; [`close`](Self::close) commits and signs the rest.
#[derive(Debug)]
pub struct Log {
    settings: Settings,
    identity: Identity,
    origin: String,
    run: TraceId,
    frontier: Frontier,
    prev: Hash,
    segment: u32,
    segment_len: u64,
    lines: Sink,
    checkpoints: Sink,
    last: Option<Checkpoint>,
    committed: u64,
    /// Of this life: how many were taken in, and how many of these are known to be durable.
    events: u64,
    committed_events: u64,
    /// When the clock last made a checkpoint.
    ticked: Timestamp,
    clock_text: (Timestamp, String),
    failed: bool,
    /// A commit is under way elsewhere.
    committing: bool,
    /// How the log grows since the last tip; only once somebody wants tips.
    growth: Option<Growth>,
    // Held until the log is dropped.
    _lock: File,
}

impl Log {
    /// Opens the log in `settings.dir` or begins one. Reads all of it: the time is that of [`verify`](crate::verify).
    ///
    /// A line or checkpoint that a death left unfinished is cut off, and the `log_opened` line says so. That line is on
    /// disk, under a checkpoint, when this returns.
    ///
    /// # Errors
    /// [`LogError::Damaged`] for everything that a death alone does not explain, such as fewer lines than were signed.
    pub fn open(
        settings: Settings,
        identity: Identity,
        now: Timestamp,
    ) -> Result<(Self, Recovered), LogError> {
        let dir = &settings.dir;
        fs::create_dir_all(dir).map_err(|error| io_error(dir, &error))?;
        let lock = lock(dir)?;
        let keys = settings.keys(&identity);
        let walked = walk(dir, &keys, Vec::new(), |_| {}).map_err(|error| LogError::Damaged {
            dir: dir.clone(),
            error,
        })?;
        let segment = walked.segments.saturating_sub(1);
        let recovered = Recovered {
            lines: walked.frontier.size(),
            torn_line: walked.torn_line,
            torn_checkpoint: walked.torn_checkpoint,
            unsigned_lines: walked.frontier.size() - walked.last.as_ref().map_or(0, Checkpoint::size),
        };
        let lines = Sink::open(segment_path(dir, segment), walked.tail_bytes)?;
        let checkpoints = Sink::open(checkpoints_path(dir, segment), walked.checkpoint_bytes)?;
        sync_dir(dir)?;
        let run = Hash::of_leaf(format!("{}\n{}\n{now}", keys.origin(), walked.frontier.root()).as_bytes());
        let mut log = Self {
            origin: keys.origin().to_owned(),
            run: trace_of(run.as_bytes()),
            prev: walked.prev.unwrap_or(Hash::ZERO),
            committed: walked.frontier.size(),
            events: 0,
            committed_events: 0,
            frontier: walked.frontier,
            segment,
            segment_len: walked.tail_bytes,
            lines,
            checkpoints,
            last: walked.last,
            ticked: now,
            clock_text: (now, now.to_string()),
            failed: false,
            committing: false,
            growth: None,
            settings,
            identity,
            _lock: lock,
        };
        let opened = Entry::new(Event::LogOpened)
            .with("lines", recovered.lines)
            .with("torn_line_bytes", recovered.torn_line)
            .with("torn_checkpoint_bytes", recovered.torn_checkpoint)
            .with("unsigned_lines", recovered.unsigned_lines);
        log.append(now, &opened)?;
        log.checkpoint()?;
        Ok((log, recovered))
    }

    /// Adds a line and gives its number.
    ///
    /// An event that [is durable at once](Event::is_durable_at_once) is on disk when this returns. Any other waits
    /// for [`commit`](Self::commit), [`tick`](Self::tick) or the next durable event: until then a crash may take it. Every
    /// [`CHECKPOINT_LINES`] lines a checkpoint is signed, and written with the next commit.
    ///
    /// # Errors
    /// Of the disk: then the log has failed.
    pub fn append(&mut self, now: Timestamp, entry: &Entry) -> Result<u64, LogError> {
        let seq = self.queue(now, entry)?;
        if entry.event.is_durable_at_once() {
            self.commit()?;
        }
        Ok(seq)
    }

    /// Adds a line as [`append`](Self::append) does, but leaves it to the caller when it becomes durable: several that matter may
    /// share one commit.
    ///
    /// # Errors
    /// Of the disk: then the log has failed.
    pub fn queue(&mut self, now: Timestamp, entry: &Entry) -> Result<u64, LogError> {
        if self.failed {
            return Err(LogError::Failed);
        }
        let seq = self.frontier.size();
        if seq >= 1 << 53 {
            return Err(LogError::Exhausted);
        }
        if self.segment_len >= self.settings.segment_bytes && !self.committing {
            self.rotate()?;
        }
        if self.clock_text.0 != now {
            self.clock_text = (now, now.to_string());
        }
        let start = self.lines.queue.len();
        let place = Place {
            seq,
            timestamp: &self.clock_text.1,
            agent: &self.settings.agent,
            run: self.run,
            prev: &self.prev,
        };
        write_line(&mut self.lines.queue, entry, &place);
        let leaf = Hash::of_leaf(&self.lines.queue[start..]);
        self.lines.queue.push(b'\n');
        self.segment_len += (self.lines.queue.len() - start) as u64;
        match &mut self.growth {
            Some(growth) => growth.push(&mut self.frontier, leaf),
            None => self.frontier.push(leaf),
        }
        self.prev = leaf;
        self.events += entry.events();
        if self.unsigned() >= CHECKPOINT_LINES {
            self.sign();
        }
        if self.checkpoints.queue.len() >= CHECKPOINT_BYTES && !self.committing {
            self.commit()?;
        } else if self.lines.queue.len() >= QUEUE_BYTES {
            self.write()?;
        }
        Ok(seq)
    }

    /// Hands every line so far to the operating system: they survive the death of this process, and not that of the machine.
    ///
    /// # Errors
    /// Of the disk: then the log has failed.
    pub fn write(&mut self) -> Result<(), LogError> {
        self.guard(|log| log.lines.write())
    }

    /// Makes every line so far durable, and the checkpoints that have been signed.
    ///
    /// # Errors
    /// Of the disk: then the log has failed. A failed sync is not tried again, for it may report success and have lost data.
    pub fn commit(&mut self) -> Result<(), LogError> {
        let commit = self.begin_commit()?;
        let synced = commit.sync();
        self.end_commit(&commit, synced)
    }

    /// Writes what waits, and gives what is left to do: [`Commit::sync`], which needs no log, and so may be done while lines go on
    /// coming in; then [`end_commit`](Self::end_commit).
    ///
    /// # Errors
    /// Of the disk: then the log has failed.
    pub(crate) fn begin_commit(&mut self) -> Result<Commit, LogError> {
        self.guard(|log| {
            log.lines.write()?;
            let notes = std::mem::take(&mut log.checkpoints.queue);
            let commit = Commit {
                size: log.frontier.size(),
                events: log.events,
                sync_lines: std::mem::take(&mut log.lines.unsynced),
                sync_checkpoints: std::mem::take(&mut log.checkpoints.unsynced) || !notes.is_empty(),
                lines: log.lines.handle(),
                checkpoints: log.checkpoints.handle(),
                notes,
            };
            log.committing = true;
            Ok(commit)
        })
    }

    pub(crate) fn end_commit(
        &mut self,
        commit: &Commit,
        synced: Result<(), LogError>,
    ) -> Result<(), LogError> {
        self.committing = false;
        self.guard(|log| {
            synced?;
            (log.committed, log.committed_events) = (commit.size, commit.events);
            Ok(())
        })
    }

    /// Signs and commits, if a line waits for that and [`CHECKPOINT_MILLIS`] have passed since it last did. `None` if not.
    ///
    /// Call it at least that often while lines come in. A clock that is set back makes it due at once. When lines say that they
    /// were taken does not matter: they may have waited in a queue.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn tick(&mut self, now: Timestamp) -> Result<Option<&Checkpoint>, LogError> {
        if !self.is_due(now) {
            return Ok(None);
        }
        self.checkpoint().map(Some)
    }

    /// Whether [`tick`](Self::tick) has something to do; asked once, it is not due again for [`CHECKPOINT_MILLIS`].
    pub(crate) fn is_due(&mut self, now: Timestamp) -> bool {
        let is_durable = self.unsigned() == 0 && self.committed == self.frontier.size();
        if is_durable || (0..CHECKPOINT_MILLIS).contains(&now.millis_since(self.ticked)) {
            return false;
        }
        self.ticked = now;
        true
    }

    /// Signs a checkpoint over every line and commits both. The one to give away.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn checkpoint(&mut self) -> Result<&Checkpoint, LogError> {
        self.sign();
        self.commit()?;
        self.last.as_ref().ok_or(LogError::Failed)
    }

    /// Signs, commits, and makes a checkpoint to give away; `None` if there is nothing new since the last one.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn publish(&mut self) -> Result<Option<Tip>, LogError> {
        let tip = self.sign_tip();
        self.commit()?;
        Ok(tip)
    }

    /// As [`publish`](Self::publish), but nothing of it is durable before the next commit.
    pub(crate) fn sign_tip(&mut self) -> Option<Tip> {
        let grew_from = self.growth.as_ref().map(Growth::old_size);
        if grew_from == Some(self.frontier.size()) {
            return None;
        }
        self.sign();
        let checkpoint = self.last.clone()?;
        let growth = self.growth.replace(Growth::since(self.frontier.clone()));
        Some(Tip {
            checkpoint,
            grew_from,
            proof: growth
                .map(|growth| growth.proof(&self.frontier))
                .unwrap_or_default(),
        })
    }

    /// Writes `log_closed`, signs, commits.
    ///
    /// # Errors
    /// As [`commit`](Self::commit).
    pub fn close(mut self, now: Timestamp) -> Result<(), LogError> {
        self.append(now, &Entry::new(Event::LogClosed))?;
        self.checkpoint().map(drop)
    }

    /// How many lines there are.
    pub fn size(&self) -> u64 {
        self.frontier.size()
    }

    /// How many lines are known to be durable.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// Bytes of lines that were not handed to the operating system yet.
    pub(crate) fn queued(&self) -> usize {
        self.lines.queue.len()
    }

    /// How many [events](Entry::events) it took in since it was opened, and how many of these are not known to be durable.
    pub(crate) fn events(&self) -> (u64, u64) {
        (self.events, self.events - self.committed_events)
    }

    /// The last checkpoint that was signed. On disk since the last commit.
    pub fn last_checkpoint(&self) -> Option<&Checkpoint> {
        self.last.as_ref()
    }

    fn unsigned(&self) -> u64 {
        self.frontier.size() - self.last.as_ref().map_or(0, Checkpoint::size)
    }

    pub(crate) fn sign(&mut self) {
        if self.unsigned() == 0 {
            return;
        }
        let (size, root) = (self.frontier.size(), self.frontier.root());
        // An origin is made of an agent id, so the text is always that of a note.
        if let Some(checkpoint) = Checkpoint::sign(&self.origin, &self.identity, size, root) {
            self.checkpoints
                .queue
                .extend_from_slice(checkpoint.note().as_bytes());
            self.last = Some(checkpoint);
        }
    }

    /// Ends the segment under a checkpoint and begins the next.
    fn rotate(&mut self) -> Result<(), LogError> {
        self.checkpoint()?;
        let next = self.segment.checked_add(1).ok_or(LogError::Exhausted)?;
        self.guard(|log| {
            let dir = &log.settings.dir;
            let lines = Sink::open(segment_path(dir, next), 0)?;
            let checkpoints = Sink::open(checkpoints_path(dir, next), 0)?;
            sync_dir(dir)?;
            (log.lines, log.checkpoints) = (lines, checkpoints);
            (log.segment, log.segment_len) = (next, 0);
            Ok(())
        })
    }

    fn guard<T>(&mut self, act: impl FnOnce(&mut Self) -> Result<T, LogError>) -> Result<T, LogError> {
        if self.failed {
            return Err(LogError::Failed);
        }
        let done = act(self);
        self.failed = done.is_err();
        done
    }
}

/// A file and what is to be written to it next.
#[derive(Debug)]
struct Sink {
    path: PathBuf,
    file: Arc<File>,
    queue: Vec<u8>,
    unsynced: bool,
}

impl Sink {
    /// Opens the file to append after its first `len` bytes; what follows them is cut off.
    fn open(path: PathBuf, len: u64) -> Result<Self, LogError> {
        let open = || {
            let file = OpenOptions::new().create(true).append(true).open(&path)?;
            if file.metadata()?.len() > len {
                file.set_len(len)?;
                file.sync_all()?;
            }
            Ok(file)
        };
        match open() {
            Ok(file) => Ok(Self {
                path,
                file: Arc::new(file),
                queue: Vec::new(),
                unsynced: len > 0,
            }),
            Err(error) => Err(io_error(&path, &error)),
        }
    }

    fn write(&mut self) -> Result<(), LogError> {
        if !self.queue.is_empty() {
            (&*self.file)
                .write_all(&self.queue)
                .map_err(|error| io_error(&self.path, &error))?;
            self.queue.clear();
            self.unsynced = true;
        }
        Ok(())
    }

    fn handle(&self) -> (PathBuf, Arc<File>) {
        (self.path.clone(), Arc::clone(&self.file))
    }
}

/// What is left of a commit once the lines are written.
#[derive(Debug)]
pub(crate) struct Commit {
    size: u64,
    events: u64,
    sync_lines: bool,
    sync_checkpoints: bool,
    lines: (PathBuf, Arc<File>),
    checkpoints: (PathBuf, Arc<File>),
    notes: Vec<u8>,
}

impl Commit {
    /// Makes the lines durable, and then the checkpoints over them: never a checkpoint on disk over lines that a power cut may
    /// still take, for such a log would not open again.
    pub(crate) fn sync(&self) -> Result<(), LogError> {
        let (path, file) = &self.lines;
        if self.sync_lines {
            file.sync_data().map_err(|error| io_error(path, &error))?;
        }
        let (path, mut file) = (&self.checkpoints.0, &*self.checkpoints.1);
        if self.sync_checkpoints {
            file.write_all(&self.notes)
                .and_then(|()| file.sync_data())
                .map_err(|error| io_error(path, &error))?;
        }
        Ok(())
    }
}

fn lock(dir: &Path) -> Result<File, LogError> {
    let path = dir.join("lock");
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|error| io_error(&path, &error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LogError::InUse(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(io_error(&path, &error)),
    }
}

/// A new file is there after a power cut only if its folder is durable too.
fn sync_dir(dir: &Path) -> Result<(), LogError> {
    // Windows has no such call and needs none.
    if cfg!(unix) {
        File::open(dir)
            .and_then(|dir| dir.sync_all())
            .map_err(|error| io_error(dir, &error))?;
    }
    Ok(())
}

fn io_error(path: &Path, error: &io::Error) -> LogError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => LogError::DiskFull(path.to_owned()),
        kind => LogError::Io {
            path: path.to_owned(),
            kind,
        },
    }
}
