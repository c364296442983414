//! Runs the program as a user would.
#![allow(dead_code, reason = "each test file uses a part")]
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub, reason = "tests")]

use std::{
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, ChildStdin, Command, Output, Stdio},
    sync::mpsc::{Receiver, sync_channel},
    time::Duration,
};

use serde_json::Value;

/// How long anything may take before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn ifmesh() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ifmesh"))
}

pub fn run(arguments: &[&str]) -> Output {
    ifmesh().args(arguments).stdin(Stdio::null()).output().unwrap()
}

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// A program that is running, with its output line by line. Killed when dropped.
pub struct Running {
    pub child: Child,
    pub input: Option<ChildStdin>,
    lines: Receiver<String>,
}

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (sender, lines) = sync_channel(100_000);
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let input = child.stdin.take();
        Self { child, input, lines }
    }

    pub fn line(&self) -> String {
        self.lines
            .recv_timeout(PATIENCE)
            .expect("the program said nothing more in time")
    }

    /// Reads on until a line of JSON has this event.
    pub fn event(&self, name: &str) -> Value {
        self.event_where(name, |_| true)
    }

    pub fn event_where(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        loop {
            let value: Value = serde_json::from_str(&self.line()).unwrap();
            if value["event"] == name && wanted(&value) {
                return value;
            }
        }
    }

    pub fn say(&mut self, line: &str) {
        writeln!(self.input.as_mut().unwrap(), "{line}").unwrap();
    }

    /// Everything that it still says, until it ends; and its exit code.
    pub fn rest(mut self) -> (Vec<String>, i32) {
        self.input = None;
        let mut rest = Vec::new();
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            rest.push(line);
        }
        (rest, self.child.wait().unwrap().code().unwrap_or(-1))
    }

    /// Sends it a signal by its name.
    pub fn signal(&self, name: &str) {
        signal(self.child.id(), name);
    }
}

pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("kill")
        .args([&format!("-{name}"), &pid.to_string()])
        .status()
        .unwrap();
    assert!(sent.success(), "kill -{name} {pid}");
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A signaling server on a free port, for a swarm in `folder` that is made for it.
pub fn swarm(folder: &Path, names: &str) -> (Running, String) {
    let server = Running::start(ifmesh().args(["signaling", "--listen", "127.0.0.1:0", "--json"]));
    let url = server.event("listening")["url"].as_str().unwrap().to_owned();
    let made = run(&[
        "init",
        folder.to_str().unwrap(),
        "--names",
        names,
        "--signaling",
        &url,
    ]);
    assert_eq!(code(&made), 0, "{}", stderr(&made));
    (server, url)
}

/// Starts an agent of a swarm, and waits until it is registered.
pub fn agent(folder: &Path, name: &str) -> Running {
    let config = folder.join(format!("{name}.toml"));
    let agent = Running::start(ifmesh().args(["agent", "--exit-at-eof", "--config"]).arg(config));
    assert_eq!(agent.event("ready")["agent"], name);
    agent
}
