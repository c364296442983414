//! The foreign peers: other people's implementations that tests talk to, in a Python environment under the target folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{
    debian::{self, Program},
    run::{Result, Step, root, target},
};

/// Tells tests where the Python is that has the foreign peers.
pub(crate) const VARIABLE: &str = "IFMESH_PYTHON";

/// Installs what tests/foreign/requirements.txt pins, unless it is there already, checks that it works, and returns the
/// Python that has it.
pub(crate) fn install() -> Result<PathBuf> {
    let folder = target().join("foreign");
    let python = folder.join(if cfg!(windows) {
        "Scripts/python.exe"
    } else {
        "bin/python"
    });
    let requirements = root().join("tests/foreign/requirements.txt");
    let wanted =
        fs::read_to_string(&requirements).map_err(|error| format!("{}: {error}", requirements.display()))?;

    // Written last, so an installation that was cut short is made anew.
    let mark = folder.join("installed.txt");
    if fs::read_to_string(&mark).ok().as_ref() != Some(&wanted) || !python.exists() {
        debian::need(&[PYTHON])?;
        Step::new("python3")
            .args(["-m", "venv", "--clear"])
            .args([&folder])
            .run()?;
        Step::new(&python)
            .args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--only-binary",
                ":all:",
            ])
            .args([Path::new("-r"), &requirements])
            .run()?;
        fs::write(&mark, wanted).map_err(|error| format!("{}: {error}", mark.display()))?;
    }
    Step::new(&python).args(["tests/foreign/smoke.py"]).run()?;
    // A second implementation of the message format, in Python, over the vectors that PROTOCOL.md refers to.
    Step::new(&python).args(["crates/ifmsg/vectors/check.py"]).run()?;
    Ok(python)
}

/// Python with `venv` and `pip`. On Debian these are packages of their own.
const PYTHON: Program = Program {
    name: "python3",
    probe: &["-c", "import venv, ensurepip"],
    packages: &["python3", "python3-venv"],
};
