//! Real processes: the `ifmesh` program as it was built, and others, with what they print line by line.

use std::{
    fmt, fs,
    io::{BufRead as _, BufReader, Write as _},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    time::Duration,
};

use serde_json::Value;

/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// The program under test, out of the folder that this test was built into.
///
/// `cargo test --workspace` and `cargo xtask test` build it first. Building this package alone does not, so a program that is
/// older than its sources is refused.
pub fn ifmesh() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().unwrap().parent().unwrap();
    let program = folder.join("ifmesh");
    let built = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let mend = "run `cargo build --bin ifmesh --all-features --workspace`";
    let Ok(age) = built(&program) else {
        panic!("{} is missing: {mend}", program.display());
    };
    // Cargo lists each source beside it: `program: source source`.
    // Not where `cargo test` alone has built it; then it is as new as the test.
    let sources = fs::read_to_string(folder.join("ifmesh.d")).unwrap_or_default();
    for source in sources.split_whitespace().skip(1) {
        assert!(
            built(Path::new(source)).is_ok_and(|changed| changed <= age),
            "{} is older than {source}: {mend}",
            program.display()
        );
    }
    program
}

/// Runs `ifmesh` with these arguments to its end.
pub fn run(arguments: &[&str]) {
    let output = Command::new(ifmesh()).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "ifmesh {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// Makes keys, trust and configuration of a swarm.
pub fn init(folder: &Path, names: &[&str], signaling: &str) {
    let folder = folder.to_str().unwrap();
    run(&[
        "init",
        folder,
        "--names",
        &names.join(","),
        "--signaling",
        signaling,
    ]);
}

/// A program that is running. Killed when dropped.
pub struct Running {
    name: String,
    child: Child,
    input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Running {
    /// Starts it. `name` is for messages.
    pub fn start(name: &str, command: &mut Command) -> Self {
        Self::start_with(name, command, Stdio::inherit())
    }

    /// Starts it, and does not want to hear what it says on standard error.
    pub fn start_quietly(name: &str, command: &mut Command) -> Self {
        Self::start_with(name, command, Stdio::null())
    }

    fn start_with(name: &str, command: &mut Command, errors: Stdio) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = sync_channel(1_000_000);
        std::thread::spawn(move || {
            // A test harness that speaks first is not listened to.
            let is_event = |line: &String| line.starts_with('{');
            for line in output.lines().map_while(Result::ok).filter(is_event) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let input = child.stdin.take();
        Self {
            name: name.to_owned(),
            child,
            input,
            lines,
        }
    }

    /// A signaling server that takes only agents of this trust file, and its address.
    pub fn signaling(mut command: Command, listen: &str, trust: &Path) -> (Self, String) {
        command
            .args(["signaling", "--json", "--listen", listen, "--allow"])
            .arg(trust);
        let mut server = Self::start("signaling", &mut command);
        let url = server.event("listening")["url"].as_str().unwrap().to_owned();
        (server, url)
    }

    /// An agent of the swarm in `folder`, once it is registered.
    pub fn agent(mut command: Command, folder: &Path, name: &str) -> Self {
        command
            .args(["agent", "--config"])
            .arg(folder.join(format!("{name}.toml")));
        let mut agent = Self::start(name, &mut command);
        assert_eq!(agent.event("ready")["agent"], name);
        agent
    }

    /// Says a line to it. That it has died is noticed when its answer does not come.
    pub fn say(&mut self, line: &Value) {
        if let Some(input) = &mut self.input {
            let _ = writeln!(input, "{line}");
        }
    }

    /// The next event, if one comes in this time.
    pub fn next(&mut self, patience: Duration) -> Option<Value> {
        match self.lines.recv_timeout(patience) {
            Ok(line) => Some(
                serde_json::from_str(&line).unwrap_or_else(|error| panic!("{}: {error}: {line}", self.name)),
            ),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => panic!("{} has ended", self.name),
        }
    }

    /// Reads on until this event.
    pub fn event(&mut self, name: &str) -> Value {
        self.event_where(name, |_| true)
    }

    /// Reads on until this event with this property.
    pub fn event_where(&mut self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut passed = Vec::new();
        loop {
            let Some(event) = self.next(PATIENCE) else {
                panic!("{} did not say {name:?} in time, but: {passed:#?}", self.name);
            };
            if event["event"] == name && wanted(&event) {
                return event;
            }
            passed.push(event.to_string());
        }
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Ends it at once, as `kill -9` does.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What a program that was killed had still said. A line that it did not finish is nothing that it said.
    pub fn last_words(&mut self) -> Vec<Value> {
        let mut said = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            said.extend(serde_json::from_str::<Value>(&line));
        }
        said
    }

    /// Ends its input.
    pub fn end_input(&mut self) {
        self.input = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

impl fmt::Debug for Running {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.name, self.child.id())
    }
}

/// The time, for messages.
#[allow(
    clippy::disallowed_methods,
    reason = "real programs compare it with their own clocks"
)]
pub fn now_millis() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    i64::try_from(since.unwrap().as_millis()).unwrap()
}
