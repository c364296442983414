//! cargo-deny, kept under the target folder.

use std::path::PathBuf;

use crate::run::{Result, Step, cargo, target};

/// Licences, bans and sources: what our own deny.toml says, so the same commit always gets the same verdict.
pub(crate) fn policy(_: &[String]) -> Result<()> {
    Step::new(install()?)
        .args(["--workspace", "check", "bans", "licenses", "sources"])
        .run()
}

/// Known vulnerabilities. Apart from `deny`: the database is fetched from GitHub, which not every build reaches, and it
/// grows every day, so an old commit's verdict changes.
pub(crate) fn advisories(_: &[String]) -> Result<()> {
    Step::new(install()?)
        .args(["--workspace", "check", "advisories"])
        .run()
}

fn install() -> Result<PathBuf> {
    const VERSION: &str = "0.20.2";
    let folder = target().join("tools");
    let program = folder.join(format!("bin/cargo-deny{}", std::env::consts::EXE_SUFFIX));
    let marker = folder.join(format!("cargo-deny-{VERSION}"));
    if !program.exists() || !marker.exists() {
        // Unoptimised: it is used for two seconds, and optimising it takes minutes. Its objects are of no use after.
        let objects = folder.join("objects");
        cargo(["install", "--quiet", "--debug", "--locked", "--force"])
            .args([&format!("cargo-deny@{VERSION}")])
            .args(["--root".as_ref(), folder.as_path()])
            .args(["--target-dir".as_ref(), objects.as_path()])
            .env("CARGO_PROFILE_DEV_DEBUG", "false")
            .run()?;
        std::fs::remove_dir_all(&objects)
            .and_then(|()| std::fs::write(&marker, ""))
            .map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    Ok(program)
}
