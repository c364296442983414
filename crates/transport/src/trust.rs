use ifmsg::{AgentId, PublicKey, TrustPolicy, TrustStore};

/// Which key a transport holds a peer to before it calls their link up. Asked anew for each handshake, from the transport's
/// own tasks: must answer at once.
///
/// Closures `Fn(&AgentId) -> PeerTrust` implement it.
pub trait PeerKeys: Send + Sync {
    /// What is known of `peer`.
    fn trust(&self, peer: &AgentId) -> PeerTrust;
}

impl<F: Fn(&AgentId) -> PeerTrust + Send + Sync> PeerKeys for F {
    fn trust(&self, peer: &AgentId) -> PeerTrust {
        self(peer)
    }
}

/// An answer of [`PeerKeys`]. Exhaustive: a backend that did not know an answer could only guess what it means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerTrust {
    /// This agent has this key, and no other will do.
    Key(PublicKey),
    /// Hold it to the key that whoever introduces it (a signaling server, a discovery) says it proved. For trust on first
    /// use: the *introducer* can then put somebody else in its place, who still gets no message past the session above,
    /// which decides by the messages' own signatures.
    AcceptClaimed,
    /// No link with this agent, in either direction.
    Refuse,
}

impl PeerTrust {
    /// What a trust store says. A link proves a key and no more: the session decides by each message's own signature.
    pub fn of(trust: &TrustStore, peer: &AgentId) -> Self {
        match trust.binding(peer) {
            Some(binding) => Self::Key(binding.key),
            None => match trust.policy() {
                TrustPolicy::Allowlist => Self::Refuse,
                TrustPolicy::Tofu => Self::AcceptClaimed,
                TrustPolicy::SelfCertifying => {
                    PublicKey::from_did_key(peer.as_str()).map_or(Self::Refuse, Self::Key)
                }
            },
        }
    }
}
