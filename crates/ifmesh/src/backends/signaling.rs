//! What the tables of all backends with a signaling server have in common: the server, and bounds.

use std::{fs, path::Path, time::Duration};

use ifmesh_signaling::ClientTls;

use super::BackendError;

/// Whether these can be servers.
pub(super) fn check_urls(urls: &[String]) -> Result<(), BackendError> {
    if urls.is_empty() {
        let text = "signaling names no server: signaling = [\"ws://127.0.0.1:8443\"]";
        return Err(BackendError::Config(text.to_owned()));
    }
    let odd = urls
        .iter()
        .find(|url| !url.starts_with("ws://") && !url.starts_with("wss://"));
    odd.map_or(Ok(()), |url| {
        let text = format!("signaling: {url:?} does not begin with ws:// or wss://");
        Err(BackendError::Config(text))
    })
}

/// The authorities in this file, or those that the web trusts.
pub(super) fn tls(ca: Option<&Path>, urls: &[String]) -> Result<ClientTls, BackendError> {
    let Some(path) = ca else {
        return Ok(ClientTls::web());
    };
    let refused = |reason: String| BackendError::Config(format!("ca: {}: {reason}", path.display()));
    if let Some(url) = urls.iter().find(|url| !url.starts_with("wss://")) {
        return Err(BackendError::Config(format!(
            "ca is for wss:// servers, and {url:?} is none: nothing would protect what is said there"
        )));
    }
    let pem = fs::read(path).map_err(|error| refused(error.to_string()))?;
    ClientTls::from_ca_pem(&pem).map_err(|error| refused(error.to_string()))
}

/// Takes a value over if it is within bounds.
pub(super) fn bounded<T>(
    key: &str,
    value: Option<T>,
    least: T,
    most: T,
    set: impl FnOnce(T),
) -> Result<(), BackendError>
where
    T: PartialOrd + std::fmt::Display,
{
    let Some(value) = value else { return Ok(()) };
    if value < least || value > most {
        let text = format!("limits.{key} is {value}; {least} to {most} is allowed");
        return Err(BackendError::Config(text));
    }
    set(value);
    Ok(())
}

/// The same for a time.
pub(super) fn seconds(
    key: &str,
    value: Option<u64>,
    most: u64,
    set: &mut Duration,
) -> Result<(), BackendError> {
    bounded(key, value, 1, most, |value| *set = Duration::from_secs(value))
}
