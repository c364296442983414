//! What an agent must remember across a restart: its epoch, and how far it has received from whom.
//!
//! One folder for each agent, locked by the process that runs it. The receive journal is written with one `write` for each
//! record: it survives the process (kill -9). It is synced to the disk when it is written anew, for which nobody waits, and when
//! the agent closes. After a power cut its last moments may be missing; then messages of those moments are delivered once more.

use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    thread::{self, JoinHandle},
};

use ifmesh_transport::{Journal, JournalError, next_epoch};
use ifmsg::{Mark, PublicKey, Timestamp};
use tempfile::NamedTempFile;

/// Bytes after which the journal is written anew with only the last record of each key.
const COMPACT_AT: u64 = 1024 * 1024;

/// How the name of a file begins that is being written.
const UNFINISHED: &str = ".unfinished-";

/// An agent's state folder, locked.
#[derive(Debug)]
pub(crate) struct State {
    folder: PathBuf,
    /// Held for its lock.
    lock: File,
    /// This run's epoch.
    pub(crate) epoch: u64,
    /// What former runs received.
    pub(crate) marks: Vec<(PublicKey, Mark)>,
}

/// Why a state folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StateError {
    /// Another process runs this agent.
    #[error("{} is in use: this agent is running already", .0.display())]
    InUse(PathBuf),
    /// A file cannot be read or written.
    #[error("{}: {error}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// A file's content makes no sense. It was damaged, and nothing is guessed: without it a replay could pass.
    #[error("{}: {problem}; restore it, or give the agent a new key and an empty state folder", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
}

impl State {
    /// Locks the folder (made if missing), and opens the next epoch: it is on disk before anything is sent in it.
    pub(crate) fn open(folder: &Path, now: Timestamp) -> Result<Self, StateError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| StateError::Io { path, error }
        };
        fs::create_dir_all(folder).map_err(at(folder))?;
        let lock_path = folder.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(StateError::InUse(folder.to_owned())),
            Err(fs::TryLockError::Error(error)) => {
                return Err(StateError::Io {
                    path: lock_path,
                    error,
                });
            }
        }
        remove_leftovers(folder);
        let epoch_path = folder.join("epoch");
        let last = match fs::read_to_string(&epoch_path) {
            Ok(text) => Some(text.trim().parse().map_err(|_| StateError::Damaged {
                path: epoch_path.clone(),
                problem: "it does not hold a number".to_owned(),
            })?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                return Err(StateError::Io {
                    path: epoch_path,
                    error,
                });
            }
        };
        let epoch = next_epoch(last, now);
        replace(&epoch_path, format!("{epoch}\n").as_bytes()).map_err(at(&epoch_path))?;
        let marks = read_journal(&folder.join("received"))?;
        Ok(Self {
            folder: folder.to_owned(),
            lock,
            epoch,
            marks,
        })
    }

    /// The journal that goes on where the former runs' ended. The folder stays locked as long as it lives.
    pub(crate) fn into_journal(self) -> Result<FileJournal, StateError> {
        let path = self.folder.join("received");
        let marks = self
            .marks
            .iter()
            .map(|(key, mark)| (*key.as_bytes(), (*key, *mark)))
            .collect();
        let at = |error| StateError::Io {
            path: path.clone(),
            error,
        };
        let (file, written) = write_all(&path, &marks).map_err(at)?;
        Ok(FileJournal {
            path,
            file,
            written,
            marks,
            rewrite: None,
            _lock: self.lock,
        })
    }
}

/// Keeps marks in a file, one line each; the last line of a key holds.
#[derive(Debug)]
pub(crate) struct FileJournal {
    path: PathBuf,
    file: File,
    written: u64,
    marks: Marks,
    rewrite: Option<Rewrite>,
    _lock: File,
}

/// The journal as it is written anew, beside the old one, by a thread of its own: a disk may take seconds to sync, and whoever
/// records must not wait for it.
#[derive(Debug)]
struct Rewrite {
    thread: JoinHandle<io::Result<NamedTempFile>>,
    /// What has been recorded since it began.
    since: Vec<u8>,
}

type Marks = BTreeMap<[u8; 32], (PublicKey, Mark)>;

impl Journal for FileJournal {
    fn record(&mut self, key: &PublicKey, mark: &Mark) -> Result<(), JournalError> {
        let failed = |error: io::Error| JournalError(error.to_string());
        self.marks.insert(*key.as_bytes(), (*key, *mark));
        let line = line(key, mark);
        self.file.write_all(line.as_bytes()).map_err(failed)?;
        self.written += line.len() as u64;
        match &mut self.rewrite {
            Some(rewrite) => {
                rewrite.since.extend_from_slice(line.as_bytes());
                self.finish_rewrite();
            }
            None if self.written > COMPACT_AT => self.begin_rewrite(),
            None => {}
        }
        Ok(())
    }
}

impl FileJournal {
    fn begin_rewrite(&mut self) {
        let (text, path) = (lines(&self.marks), self.path.clone());
        let thread = thread::spawn(move || written_beside(&path, text.as_bytes()));
        let since = Vec::new();
        self.rewrite = Some(Rewrite { thread, since });
    }

    /// Puts the new journal in the place of the old one once it is on disk. If that fails the old one goes on, which has everything
    /// as well, and it is tried again after as many bytes.
    fn finish_rewrite(&mut self) {
        let is_late = |rewrite: &mut Rewrite| rewrite.since.len() as u64 > COMPACT_AT;
        let Some(rewrite) = self
            .rewrite
            .take_if(|rewrite| rewrite.thread.is_finished() || is_late(rewrite))
        else {
            return;
        };
        self.written = 0;
        if !rewrite.thread.is_finished() {
            return;
        }
        let replaced = rewrite.thread.join().map_or(Ok(None), |written| {
            let mut file = written?;
            file.write_all(&rewrite.since)?;
            io::Result::Ok(Some(file.persist(&self.path)?))
        });
        if let Ok(Some(file)) = replaced {
            self.file = file;
        }
    }
}

impl Drop for FileJournal {
    fn drop(&mut self) {
        // Best effort: what was written survives this process anyway.
        let _ = self.file.sync_data();
    }
}

fn line(key: &PublicKey, mark: &Mark) -> String {
    let [a, b, c, d] = mark.floors;
    format!("{key} {} {a} {b} {c} {d}\n", mark.epoch)
}

fn lines(marks: &Marks) -> String {
    marks.values().map(|(key, mark)| line(key, mark)).collect()
}

fn read_journal(path: &Path) -> Result<Vec<(PublicKey, Mark)>, StateError> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => {
            return Err(StateError::Io {
                path: path.to_owned(),
                error,
            });
        }
    };
    let mut marks = BTreeMap::new();
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    // A line without its end was being written when the process died; nothing was acknowledged on its strength.
    for (number, line) in text[..whole].lines().enumerate() {
        let (key, mark) = parse_line(line).ok_or_else(|| StateError::Damaged {
            path: path.to_owned(),
            problem: format!("line {} is not a record", number + 1),
        })?;
        marks.insert(*key.as_bytes(), (key, mark));
    }
    Ok(marks.into_values().collect())
}

fn parse_line(line: &str) -> Option<(PublicKey, Mark)> {
    let mut words = line.split(' ');
    let key = PublicKey::from_hex(words.next()?).ok()?;
    let mut numbers = [0; 5];
    for number in &mut numbers {
        *number = words.next()?.parse().ok()?;
    }
    let [epoch, a, b, c, d] = numbers;
    words.next().is_none().then_some((
        key,
        Mark {
            epoch,
            floors: [a, b, c, d],
        },
    ))
}

/// Writes all marks to a new file in place of the old one, and leaves it open at its end.
fn write_all(path: &Path, marks: &Marks) -> io::Result<(File, u64)> {
    let text = lines(marks);
    replace(path, text.as_bytes())?;
    let file = OpenOptions::new().append(true).create(true).open(path)?;
    Ok((file, text.len() as u64))
}

/// Writes a file so that a crash leaves the old or the new content, never a part.
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    written_beside(path, content)?.persist(path)?;
    // The rename itself is on disk only once the folder is.
    File::open(folder_of(path))?.sync_all()
}

/// A file in the same folder that holds this, on disk.
fn written_beside(path: &Path, content: &[u8]) -> io::Result<NamedTempFile> {
    let mut file = tempfile::Builder::new()
        .prefix(UNFINISHED)
        .tempfile_in(folder_of(path))?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    Ok(file)
}

/// What former runs were writing when they were killed. The folder is locked: nobody else is writing there.
fn remove_leftovers(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let leftovers = entries.filter(|entry| {
        entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(UNFINISHED.as_bytes())
    });
    for leftover in leftovers {
        // It is in nobody's way.
        let _ = fs::remove_file(leftover.path());
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ifmsg::Identity;

    fn now() -> Timestamp {
        Timestamp::from_unix_millis(1_000)
    }

    #[test]
    fn the_epoch_grows_even_if_the_clock_runs_backwards() {
        let folder = tempfile::tempdir().unwrap();
        let first = State::open(folder.path(), now()).unwrap().epoch;
        let second = State::open(folder.path(), Timestamp::from_unix_millis(-5))
            .unwrap()
            .epoch;
        assert_eq!((first, second), (1_000, 1_001));
    }

    #[test]
    fn a_folder_has_one_owner() {
        let folder = tempfile::tempdir().unwrap();
        let journal = State::open(folder.path(), now()).unwrap().into_journal().unwrap();
        assert!(matches!(
            State::open(folder.path(), now()),
            Err(StateError::InUse(_))
        ));
        drop(journal);
        State::open(folder.path(), now()).unwrap();
    }

    #[test]
    fn what_was_recorded_is_there_again_and_a_torn_line_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let key = *Identity::from_seed(&[1; 32]).public_key();
        let mark = |n| Mark {
            epoch: 7,
            floors: [n, 0, n, 0],
        };
        let mut journal = State::open(folder.path(), now()).unwrap().into_journal().unwrap();
        for n in 0..100 {
            journal.record(&key, &mark(n)).unwrap();
        }
        drop(journal);
        let path = folder.path().join("received");
        let killed = folder.path().join(format!("{UNFINISHED}1"));
        fs::write(&killed, "half").unwrap();
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&line(&key, &mark(100)).as_bytes()[..70]).unwrap();
        let state = State::open(folder.path(), now()).unwrap();
        assert_eq!(state.marks, [(key, mark(99))]);
        assert!(!killed.exists());
        drop(state.into_journal().unwrap());
        assert_eq!(fs::read_to_string(&path).unwrap(), line(&key, &mark(99)));
        fs::write(&path, "nonsense\n").unwrap();
        assert!(matches!(
            State::open(folder.path(), now()),
            Err(StateError::Damaged { .. })
        ));
    }

    #[test]
    fn a_journal_that_grew_long_is_written_anew_while_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let keys = [1, 2].map(|seed| *Identity::from_seed(&[seed; 32]).public_key());
        let mark = |n| Mark {
            epoch: 7,
            floors: [n, 0, n, 0],
        };
        let mut journal = State::open(folder.path(), now()).unwrap().into_journal().unwrap();
        let mut n = 0;
        let mut record = |journal: &mut FileJournal| {
            n += 1;
            journal.record(&keys[n as usize % 2], &mark(n)).unwrap();
            n
        };
        let mut rewrites = 0;
        while rewrites < 3 {
            while journal.rewrite.is_none() {
                record(&mut journal);
            }
            while journal.rewrite.is_some() {
                record(&mut journal);
            }
            rewrites += 1;
        }
        // It ends while it is written anew.
        while journal.rewrite.is_none() {
            record(&mut journal);
        }
        let last = record(&mut journal);
        drop(journal);
        let mut marks = State::open(folder.path(), now()).unwrap().marks;
        marks.sort_by_key(|(_, mark)| mark.floors[0]);
        let expected = [last - 1, last].map(|n| (keys[n as usize % 2], mark(n)));
        assert_eq!(marks, expected);
    }
}
