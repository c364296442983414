//! From a configuration to a WebRTC transport.

use std::{net::SocketAddr, sync::Arc};

use ifmesh_transport::Clock;
use ifmesh_transport_webrtc::{IceServer, PeerTrust, StartError, WebRtcConfig, WebRtcTransport};
use ifmsg::{AgentId, PublicKey, TrustPolicy, TrustStore};

use crate::{Config, IceTransportPolicy};

pub(crate) async fn start(
    config: &Config,
    trust: &TrustStore,
    epoch: u64,
    clock: Arc<dyn Clock>,
) -> Result<Arc<WebRtcTransport>, StartError> {
    let keys = Arc::new(peer_keys(trust.clone()));
    let signaling = &config.webrtc.signaling;
    let mut webrtc = WebRtcConfig::new(
        config.agent.clone(),
        config.identity.clone(),
        epoch,
        signaling,
        keys,
    );
    if !config.webrtc.addresses.is_empty() {
        webrtc.bind = config
            .webrtc
            .addresses
            .iter()
            .map(|address| SocketAddr::new(*address, 0))
            .collect();
    }
    webrtc.ice_servers = config
        .webrtc
        .ice_servers
        .iter()
        .map(|server| IceServer {
            urls: server.urls.clone(),
            username: server.username.clone(),
            credential: server.credential.clone(),
        })
        .collect();
    webrtc.relay_only = config.webrtc.ice_transport_policy == IceTransportPolicy::Relay;
    WebRtcTransport::start(webrtc, clock, crate::random()).await
}

/// Whom to connect with. A link proves a key and no more: the session decides by each message's own signature.
fn peer_keys(trust: TrustStore) -> impl Fn(&AgentId) -> PeerTrust + Send + Sync {
    move |peer| match trust.binding(peer) {
        Some(binding) => PeerTrust::Key(binding.key),
        None => match trust.policy() {
            TrustPolicy::Allowlist => PeerTrust::Refuse,
            TrustPolicy::Tofu => PeerTrust::AcceptClaimed,
            TrustPolicy::SelfCertifying => {
                PublicKey::from_did_key(peer.as_str()).map_or(PeerTrust::Refuse, PeerTrust::Key)
            }
        },
    }
}
