//! A network namespace, held by a file descriptor.

use std::{
    fs::File,
    io::Write as _,
    marker::PhantomData,
    os::fd::AsRawFd as _,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns, unshare},
};

use crate::Error;

/// It lasts while this is held, a thread stands in it or a program runs in it.
#[derive(Debug)]
pub(crate) struct Namespace(File);

impl Namespace {
    /// A fresh one, with nothing in it but a loopback interface that is down.
    pub(crate) fn new() -> Result<Self, Error> {
        let made = thread::spawn(|| {
            leave()?;
            Self::current()
        });
        made.join()
            .map_err(|_| Error::refused("a new namespace", "the thread that makes it panicked"))?
    }

    /// The one that the calling thread stands in.
    pub(crate) fn current() -> Result<Self, Error> {
        File::open("/proc/thread-self/ns/net")
            .map(Self)
            .map_err(|error| Error::refused("/proc/thread-self/ns/net", error))
    }

    /// Puts the calling thread into it.
    pub(crate) fn enter(&self) -> Result<Entered, Error> {
        let before = Self::current()?;
        setns(&self.0, CloneFlags::CLONE_NEWNET).map_err(|errno| permission("setns", errno))?;
        Ok(Entered::from(before))
    }

    /// A command in it. What is started is the program itself, under the process id that the caller sees.
    pub(crate) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command
            .arg(format!("--net={}", self.path()))
            .arg("--")
            .arg(program);
        command
    }

    /// For programs that take a namespace by its path, while this is held.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Commands of `ip`, one on each line.
    pub(crate) fn ip(&self, lines: &str) -> Result<(), Error> {
        let mut command = self.command("ip");
        command.args(["-batch", "-"]);
        feed(command, "ip", lines)
    }

    /// A script of `nft`: takes effect as a whole or not at all.
    pub(crate) fn nft(&self, script: &str) -> Result<(), Error> {
        let mut command = self.command("nft");
        command.args(["-f", "-"]);
        feed(command, "nft", script)
    }

    /// Sets a value under /proc/sys/net, which shows each thread those of its own namespace.
    pub(crate) fn sysctl(&self, name: &str, value: &str) -> Result<(), Error> {
        let path = Path::new("/proc/sys/net").join(name);
        thread::scope(|scope| {
            let written = scope.spawn(|| {
                let _here = self.enter()?;
                std::fs::write(&path, value)
                    .map_err(|error| Error::refused(path.display().to_string(), error))
            });
            written
                .join()
                .map_err(|_| Error::refused(path.display().to_string(), "the thread panicked"))?
        })
    }
}

/// The calling thread stands in another network, and what it starts does too: threads, programs, runtimes. Dropping
/// this puts it back; sockets, threads and programs stay where they were made.
#[derive(Debug)]
#[must_use = "dropping this puts the thread back at once"]
pub struct Entered {
    before: Namespace,
    /// It is this thread that must go back.
    _not_send: PhantomData<*const ()>,
}

impl From<Namespace> for Entered {
    fn from(before: Namespace) -> Self {
        Self {
            before,
            _not_send: PhantomData,
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        // It came from there, so it may go there. Were it refused, the thread would stay where nothing outside is reached.
        let _ = setns(&self.before.0, CloneFlags::CLONE_NEWNET);
    }
}

/// Takes the calling thread into a fresh namespace.
pub(crate) fn leave() -> Result<(), Error> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| permission("unshare", errno))
}

/// Runs a command with `input`. What it says on standard error is the reason why it failed.
pub(crate) fn feed(mut command: Command, program: &str, input: &str) -> Result<(), Error> {
    let missing = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => Error::Missing {
            program: program.to_owned(),
        },
        _ => Error::refused(program, error),
    };
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(missing)?;
    if let Some(mut stdin) = child.stdin.take() {
        // If it ended before it had read everything, its exit status and words say why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child
        .wait_with_output()
        .map_err(|error| Error::refused(program, error))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        return Ok(());
    }
    // 127: `nsenter` is there and what it was to start is not.
    if output.status.code() == Some(127) {
        return Err(Error::Missing {
            program: program.to_owned(),
        });
    }
    Err(Error::refused(format!("{program}: {}", input.trim()), said))
}

fn permission(what: &str, errno: Errno) -> Error {
    match errno {
        Errno::EPERM => Error::NotRoot,
        errno => Error::refused(what, errno),
    }
}
