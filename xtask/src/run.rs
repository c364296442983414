//! Running other programs: said before, judged after.

use std::{
    env,
    ffi::OsStr,
    fmt,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
};

/// What a verb ends with.
pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a verb failed, for the person who called it.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl<T: Into<String>> From<T> for Failure {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

/// The top of the workspace.
pub(crate) fn root() -> PathBuf {
    // Cargo says where this package is; the path of the build would be wrong once a target folder is shared or moved.
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package)
        .parent()
        .map(Path::to_path_buf)
        .unwrap_or_default()
}

/// Where cargo builds, and where we keep what we install.
pub(crate) fn target() -> PathBuf {
    root().join(env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// A cargo command in the workspace.
pub(crate) fn cargo<'a>(arguments: impl IntoIterator<Item = &'a str>) -> Step {
    Step::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into())).args(arguments)
}

/// A program to run from the top of the workspace.
#[derive(Debug)]
pub(crate) struct Step(Command);

impl Step {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        let mut command = Command::new(program);
        command.current_dir(root());
        Self(command)
    }

    pub(crate) fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.0.args(arguments);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs it to its end. Says the command first, so that everyone can repeat it without xtask.
    pub(crate) fn run(mut self) -> Result<()> {
        self.say();
        let status = self.0.status();
        self.judge(status)
    }

    /// In this folder instead.
    pub(crate) fn within(mut self, folder: &Path) -> Self {
        self.0.current_dir(folder);
        self
    }

    /// Whether it succeeds, and what it says.
    pub(crate) fn output(mut self) -> Result<(bool, String)> {
        let output = self.0.stdin(Stdio::null()).output();
        let output = output.map_err(|error| self.cannot_start(&error))?;
        let said = [output.stdout, output.stderr].concat();
        Ok((
            output.status.success(),
            String::from_utf8_lossy(&said).into_owned(),
        ))
    }

    /// Whether it runs and succeeds, in silence.
    pub(crate) fn succeeds(mut self) -> bool {
        let status = self
            .0
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.is_ok_and(|status| status.success())
    }

    /// Runs `cargo test`, passes its output on, and adds up the totals of its many test programs in a last line.
    pub(crate) fn run_and_count_tests(mut self) -> Result<()> {
        self.say();
        let broken = |error| format!("cannot read the output of cargo test: {error}");
        let mut child = self
            .0
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| self.cannot_start(&error))?;
        let mut totals = Totals::default();
        if let Some(output) = child.stdout.take() {
            let mut screen = std::io::stdout();
            for line in BufReader::new(output).split(b'\n') {
                let line = line.map_err(broken)?;
                totals.add(&String::from_utf8_lossy(&line));
                screen
                    .write_all(&[&line, b"\n".as_slice()].concat())
                    .map_err(broken)?;
            }
        }
        let status = child.wait();
        println!("\n{totals}");
        self.judge(status)
    }

    fn say(&self) {
        let words = std::iter::once(self.0.get_program()).chain(self.0.get_args());
        let line: Vec<_> = words.map(OsStr::to_string_lossy).collect();
        let program = Path::new(&*line[0])
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        println!("$ {program} {}", line[1..].join(" "));
    }

    fn judge(&self, status: std::io::Result<ExitStatus>) -> Result<()> {
        match status {
            Ok(status) if status.success() => Ok(()),
            Ok(status) => Err(format!("{} ended with {status}", self.program()).into()),
            Err(error) => Err(self.cannot_start(&error)),
        }
    }

    fn cannot_start(&self, error: &std::io::Error) -> Failure {
        format!("cannot start {}: {error}", self.program()).into()
    }

    fn program(&self) -> String {
        Path::new(self.0.get_program()).display().to_string()
    }
}

/// The sums of libtest's `test result:` lines.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Totals {
    fn add(&mut self, line: &str) {
        let Some(result) = line.strip_prefix("test result: ") else {
            return;
        };
        for part in result.split([';', '.']) {
            match part.trim().split_once(' ') {
                Some((number, "passed")) => self.passed += number.parse().unwrap_or(0),
                Some((number, "failed")) => self.failed += number.parse().unwrap_or(0),
                Some((number, "ignored")) => self.ignored += number.parse().unwrap_or(0),
                _ => (),
            }
        }
    }
}

impl fmt::Display for Totals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            ignored,
        } = self;
        write!(formatter, "{passed} passed, {failed} failed, {ignored} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Falsified by a line of libtest that is missed, or by any other line that is counted.
    #[test]
    fn totals_add_up() {
        let mut totals = Totals::default();
        totals.add(
            "test result: ok. 30 passed; 0 failed; 2 ignored; 0 measured; 1 filtered out; finished in 0.31s",
        );
        totals.add("test result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 2.00s");
        totals.add("test 7 passed; 7 failed ... ok");
        assert_eq!(
            totals,
            Totals {
                passed: 34,
                failed: 1,
                ignored: 2
            }
        );
        assert_eq!(totals.to_string(), "34 passed, 1 failed, 2 skipped");
    }
}
