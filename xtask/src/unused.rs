//! Dependencies that no source file names.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::run::{Result, root};

/// Compares each package's dependency tables with its source. Plain text is enough: a crate that is used is named somewhere,
/// and one that is named in a comment alone is found by reading.
pub(crate) fn check(_: &[String]) -> Result<()> {
    let mut unused = Vec::new();
    let mut packages = vec![root().join("tests"), root().join("xtask")];
    packages.extend(entries(&root().join("crates"))?);
    packages
        .extend(["tests/chaos", "tests/netns", "examples/udp-backend"].map(|package| root().join(package)));
    for package in packages {
        let manifest = read(&package.join("Cargo.toml"))?;
        let source = sources(&package)?;
        for name in dependencies(&manifest) {
            if !names(&source, &name.replace('-', "_")) {
                unused.push(format!(
                    "{} does not use {name}",
                    package.join("Cargo.toml").display()
                ));
            }
        }
    }
    if unused.is_empty() {
        Ok(())
    } else {
        Err(unused.join("\n").into())
    }
}

/// The keys of all `[...dependencies]` tables, in the plain form that this workspace writes: one dependency a line.
fn dependencies(manifest: &str) -> Vec<&str> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            inside = line.ends_with("dependencies]");
        } else if inside && !line.starts_with([' ', '#', ']', '}']) {
            names.extend(line.split(['.', ' ', '=']).next().filter(|name| !name.is_empty()));
        }
    }
    names
}

/// Whether a whole word of the source is this name.
fn names(source: &str, name: &str) -> bool {
    let of_word = |character: char| character.is_alphanumeric() || character == '_';
    source
        .match_indices(name)
        .any(|(at, _)| !source[..at].ends_with(of_word) && !source[at + name.len()..].starts_with(of_word))
}

/// All Rust source under a folder, as one text.
fn sources(folder: &Path) -> Result<String> {
    let mut text = String::new();
    for path in entries(folder)? {
        if path.is_dir() {
            text += &sources(&path)?;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &read(&path)?;
        }
    }
    Ok(text)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let broken = |error| format!("{}: {error}", folder.display());
    let entries = fs::read_dir(folder).map_err(broken)?;
    let mut paths = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<std::result::Result<Vec<_>, _>>()
        .map_err(broken)?;
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<String> {
    Ok(fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Falsified by a table or a spelling that is not read, or by a name found inside another name.
    #[test]
    fn names_are_found_as_whole_words() {
        let manifest = "[package]\nname = \"x\"\n[dependencies]\n# Why.\nserde_json.workspace = true\nrand-core = \"1\"\n\n\
                        [dev-dependencies]\nrand = { version = \"1\" }\n[lints]\nworkspace = true\n";
        assert_eq!(dependencies(manifest), ["serde_json", "rand-core", "rand"]);
        assert!(names("use rand_core::Rng;", "rand_core"));
        assert!(!names("use rand_core::Rng;", "rand"));
        assert!(names("fn f() -> rand::Rng", "rand"));
    }
}
