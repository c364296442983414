//! Environment variables that override keys of the file: `IFMESH_CONFIG__TABLE__KEY=value`.

use std::ffi::OsString;

use super::{ConfigError, nearest};

const PREFIX: &str = "IFMESH_CONFIG__";

/// What begins like this is meant for us, even where it is written wrong.
const OURS: &str = "IFMESH_CONFIG";

/// One key and its value.
#[derive(Debug)]
pub(super) struct Override {
    variable: String,
    path: Vec<String>,
    value: toml::Value,
}

/// All of them, in order of their names. A value is TOML where it reads as such, and else a string.
pub(super) fn overrides(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Vec<Override>, ConfigError> {
    let mut found = Vec::new();
    for (variable, text) in environment {
        let variable = variable.to_string_lossy().into_owned();
        if !variable.starts_with(OURS) {
            continue;
        }
        let path = variable.strip_prefix(PREFIX).unwrap_or_default();
        let path: Vec<String> = path.split("__").map(str::to_ascii_lowercase).collect();
        if path.iter().any(String::is_empty) {
            let reason = format!(
                "names no key; there are two underscores before each table and key, as in {PREFIX}SESSION__WINDOW_MESSAGES"
            );
            return Err(ConfigError::Environment { variable, reason });
        }
        let Ok(text) = text.into_string() else {
            let reason = "its value is not UTF-8".to_owned();
            return Err(ConfigError::Environment { variable, reason });
        };
        let read: Result<toml::Table, _> = toml::from_str(&format!("value = {text}"));
        let value = read
            .ok()
            .filter(|table| table.len() == 1)
            .and_then(|mut table| table.remove("value"));
        let value = value.unwrap_or(toml::Value::String(text));
        found.push(Override {
            variable,
            path,
            value,
        });
    }
    found.sort_by(|a, b| a.variable.cmp(&b.variable));
    Ok(found)
}

impl Override {
    /// The variable's name.
    pub(super) fn variable(&self) -> &str {
        &self.variable
    }

    /// Puts the value in its place. Tables on the way to it must be there: a new transport needs a file.
    pub(super) fn apply(self, table: &mut toml::Table) -> Result<(), ConfigError> {
        let Self {
            variable,
            path,
            value,
        } = self;
        let mut table = table;
        let Some((key, tables)) = path.split_last() else {
            return Ok(());
        };
        for name in tables {
            let known: Vec<String> = table.keys().cloned().collect();
            let optional = ["session", "router", "witness", "limits"].contains(&name.as_str());
            // Names in a file may have capitals, variables have nothing else.
            let place = match known.iter().find(|other| other.to_ascii_lowercase() == *name) {
                Some(other) => other.clone(),
                None if optional => name.clone(),
                None => {
                    let known: Vec<&str> = known.iter().map(String::as_str).collect();
                    let near = nearest(name, &known)
                        .map_or_else(String::new, |near| format!("; did you mean {near}?"));
                    let reason = format!("the file has no table {name}{near}");
                    return Err(ConfigError::Environment { variable, reason });
                }
            };
            let entry = table
                .entry(place)
                .or_insert_with(|| toml::Value::Table(toml::Table::new()));
            let toml::Value::Table(inner) = entry else {
                let reason = format!("{name} is no table");
                return Err(ConfigError::Environment { variable, reason });
            };
            table = inner;
        }
        table.insert(key.clone(), value);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt as _;

    use super::*;

    fn apply(file: &str, variable: &str, value: &str) -> Result<toml::Table, String> {
        let mut table = toml::from_str(file).unwrap();
        let environment = [
            (variable.into(), value.into()),
            // What others put there is none of our business.
            ("HOME".into(), OsString::from_vec(vec![0xff])),
        ];
        let overrides = overrides(environment).map_err(|error| error.to_string())?;
        for one in overrides {
            one.apply(&mut table).map_err(|error| error.to_string())?;
        }
        Ok(table)
    }

    #[test]
    fn values_are_toml_or_else_strings() {
        let file = "[session]\nwindow_messages = 1\n[transport.webrtc]\nsignaling = []";
        let table = apply(file, "IFMESH_CONFIG__SESSION__WINDOW_MESSAGES", "7").unwrap();
        assert_eq!(table["session"]["window_messages"].as_integer(), Some(7));
        let table = apply(
            file,
            "IFMESH_CONFIG__TRANSPORT__WEBRTC__SIGNALING",
            "[\"ws://a\"]",
        )
        .unwrap();
        assert_eq!(
            table["transport"]["webrtc"]["signaling"][0].as_str(),
            Some("ws://a")
        );
        let variable = "IFMESH_CONFIG__TRANSPORT__WEBRTC__LIMITS__SILENCE_SECONDS";
        let table = apply(file, variable, "5").unwrap();
        let limits = &table["transport"]["webrtc"]["limits"];
        assert_eq!(limits["silence_seconds"].as_integer(), Some(5));
        let table = apply(file, "IFMESH_CONFIG__ROUTER__POLICY", "fan-out").unwrap();
        assert_eq!(table["router"]["policy"].as_str(), Some("fan-out"));
    }

    #[test]
    fn what_leads_nowhere_is_refused_by_name() {
        let error = apply(
            "[session]\n[transport.webrtc]",
            "IFMESH_CONFIG__TRANSPORT__WEBRCT__MESH",
            "full",
        )
        .unwrap_err();
        assert!(
            error.contains("WEBRCT") && error.contains("did you mean webrtc?"),
            "{error}"
        );
        for one_underscore in ["IFMESH_CONFIG__", "IFMESH_CONFIG_ROUTER_POLICY", "IFMESH_CONFIG"] {
            let error = apply("", one_underscore, "1").unwrap_err();
            assert!(error.contains("two underscores"), "{error}");
        }
        let bytes = (
            PREFIX.to_owned() + "ROUTER__POLICY",
            OsString::from_vec(vec![0xff]),
        );
        let error = overrides([(bytes.0.into(), bytes.1)]).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("ROUTER__POLICY: its value is not UTF-8"),
            "{error}"
        );
    }
}
