//! STUN and TURN servers for whoever registers, with credentials that expire.
//!
//! The scheme is that of draft-uberti-behave-turn-rest-00, section 2.2, which coturn calls `use-auth-secret`: the TURN server
//! and this one share a secret and need not talk. The username is the time at which it expires (in seconds since 1970), a colon
//! and the agent's id; the password is the Base64 of the HMAC-SHA-1 of the username under the secret.

use std::{fmt, sync::Arc, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ifmsg::{AgentId, Timestamp};
use ring::hmac;

use crate::protocol::{IceServer, IceServers};

/// The STUN and TURN servers that a signaling server hands out. `Debug` does not show the secret.
#[derive(Clone)]
pub struct IceConfig {
    stun: Vec<String>,
    turn: Vec<String>,
    key: Option<hmac::Key>,
    ttl: Duration,
    now: Arc<dyn Fn() -> Timestamp + Send + Sync>,
}

impl IceConfig {
    /// Hands out these STUN servers, `stun:host:port`. `now` is the time of the day, as the TURN servers have it.
    pub fn new(
        stun: impl IntoIterator<Item = impl Into<String>>,
        now: impl Fn() -> Timestamp + Send + Sync + 'static,
    ) -> Self {
        Self {
            stun: stun.into_iter().map(Into::into).collect(),
            turn: Vec::new(),
            key: None,
            ttl: Duration::ZERO,
            now: Arc::new(now),
        }
    }

    /// Hands out these TURN servers as well, `turn:host:port?transport=udp`, with credentials that are good for `ttl`: a minute
    /// at least. `secret` is coturn's `static-auth-secret`.
    #[must_use]
    pub fn turn(
        mut self,
        urls: impl IntoIterator<Item = impl Into<String>>,
        secret: &[u8],
        ttl: Duration,
    ) -> Self {
        self.turn = urls.into_iter().map(Into::into).collect();
        self.key = Some(hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, secret));
        self.ttl = ttl.max(Duration::from_secs(60));
        self
    }

    pub(super) fn servers(&self, agent: &AgentId) -> IceServers {
        let mut servers = IceServers::default();
        if !self.stun.is_empty() {
            servers.ice_servers.push(IceServer {
                urls: self.stun.clone(),
                username: String::new(),
                credential: String::new(),
            });
        }
        if let Some(key) = &self.key
            && !self.turn.is_empty()
        {
            let now = (self.now)().unix_millis() / 1_000;
            let expires = u64::try_from(now).unwrap_or(0) + self.ttl.as_secs();
            let username = format!("{expires}:{agent}");
            let credential = BASE64_STANDARD.encode(hmac::sign(key, username.as_bytes()));
            servers.ice_servers.push(IceServer {
                urls: self.turn.clone(),
                username,
                credential,
            });
            servers.ice_expires_in = self.ttl.as_secs();
        }
        servers
    }
}

impl fmt::Debug for IceConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceConfig")
            .field("stun", &self.stun)
            .field("turn", &self.turn)
            .field("ttl", &self.ttl)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by Python: base64.b64encode(hmac.new(b"north", b"1795357200:alice", "sha1").digest()).
    #[test]
    fn credentials_are_those_that_coturn_computes() {
        let now = Timestamp::parse("2026-11-22T14:10:00.000Z").unwrap();
        let config = IceConfig::new(["stun:stun.example:3478"], move || now).turn(
            ["turn:turn.example:3478"],
            b"north",
            Duration::from_secs(600),
        );
        let servers = config.servers(&AgentId::new("alice").unwrap());
        assert_eq!(servers.ice_expires_in, 600);
        assert_eq!(servers.ice_servers[0].urls, ["stun:stun.example:3478"]);
        let turn = &servers.ice_servers[1];
        assert_eq!(turn.username, "1795357200:alice");
        assert_eq!(turn.credential, "DXSiYUi6PyMp+egH4X4aPnWiafI=");
    }

    /// Fails if a log could show what opens a TURN server.
    #[test]
    fn nothing_that_opens_a_turn_server_is_shown() {
        let now = Timestamp::parse("2026-11-22T14:10:00.000Z").unwrap();
        let config =
            IceConfig::new([""; 0], move || now).turn(["turn:x:1"], b"very-secret", Duration::from_secs(60));
        let servers = config.servers(&AgentId::new("alice").unwrap());
        let shown = format!("{config:?} {servers:?}");
        assert!(!shown.contains("very-secret"), "{shown}");
        assert!(!shown.contains(&servers.ice_servers[0].credential), "{shown}");
    }
}
