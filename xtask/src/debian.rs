//! What the tests need of the system: programs, each from a Debian package.

use crate::run::{Result, Step};

/// A program, how to ask whether it works, and the packages that bring it.
pub(crate) struct Program {
    pub(crate) name: &'static str,
    pub(crate) probe: &'static [&'static str],
    pub(crate) packages: &'static [&'static str],
}

/// Networks with NATs and loss, the STUN and TURN server in them, a browser as a peer, and a verifier of logs.
pub(crate) const PROGRAMS: &[Program] = &[
    Program {
        name: "ip",
        probe: &["-Version"],
        packages: &["iproute2"],
    },
    Program {
        name: "nft",
        probe: &["--version"],
        packages: &["nftables"],
    },
    Program {
        name: "nsenter",
        probe: &["--version"],
        packages: &["util-linux"],
    },
    Program {
        name: "turnserver",
        probe: &["--version"],
        packages: &["coturn"],
    },
    Program {
        name: "chromium",
        probe: &["--version"],
        packages: &["chromium"],
    },
    // Of Go, asked whether the package is there that witness logs are checked with.
    Program {
        name: "gofmt",
        probe: &["-l", "/usr/share/gocode/src/golang.org/x/mod/sumdb/tlog"],
        packages: &["golang-go", "golang-golang-x-mod-dev"],
    },
];

/// Makes sure that all of them work. On Debian root gets what is missing from `apt-get`; everybody else is told.
pub(crate) fn need(programs: &[Program]) -> Result<()> {
    let missing: Vec<_> = programs.iter().filter(|program| !program.works()).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages: Vec<_> = missing
        .iter()
        .flat_map(|program| program.packages.iter().copied())
        .collect();
    if is_root() && Step::new("apt-get").args(["--version"]).succeeds() {
        Step::new("apt-get").args(["update", "-qq"]).run()?;
        Step::new("apt-get")
            .args(["install", "-qq", "--yes", "--no-install-recommends"])
            .args(&packages)
            .env("DEBIAN_FRONTEND", "noninteractive")
            .run()?;
    }
    match missing.iter().find(|program| !program.works()) {
        None => Ok(()),
        Some(program) => Err(format!(
            "`{}` is missing, which tests need. Install it (Debian, as root: `apt-get install {}`) and run this \
             again, or run `cargo test -p` with the crates that you work on",
            program.name,
            packages.join(" ")
        )
        .into()),
    }
}

/// Network namespaces are root's.
pub(crate) fn is_root() -> bool {
    Step::new("sh").args(["-c", "test \"$(id -u)\" = 0"]).succeeds()
}

impl Program {
    fn works(&self) -> bool {
        Step::new(self.name).args(self.probe).succeeds()
    }
}
