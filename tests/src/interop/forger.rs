use std::{path::Path, sync::Arc};

use ifmesh_transport::{Envelope, IfTransport as _, Lane, SystemClock, TransportEvent};
use ifmesh_transport_webrtc::{PeerTrust, WebRtcConfig, WebRtcTransport};
use ifmsg::{
    AgentId, Delivery, Destination, Draft, Identity, MessageId, SignedMessage, Stamp, Timestamp,
    canonical::Limits,
};
use serde_json::json;
use tokio::{runtime::Runtime, time::timeout};

use crate::program::PATIENCE;

/// An agent with a link and no session: it says whatever bytes it is given.
pub(super) struct Forger {
    identity: Identity,
    agent: AgentId,
    to: AgentId,
    transport: Arc<WebRtcTransport>,
    runtime: Runtime,
}

impl Forger {
    /// Joins as `agent` of the swarm and waits for its link with `to`. It knows nobody else.
    pub(super) fn start(swarm: &Path, agent: &str, to: &str, url: &str) -> Self {
        let trust = ifmesh::read_trust(&swarm.join("trust.toml")).unwrap();
        let identity = ifmesh::read_identity(&swarm.join(format!("keys/{agent}.pem"))).unwrap();
        let (agent, to) = (AgentId::new(agent).unwrap(), AgentId::new(to).unwrap());
        let only = to.clone();
        let keys = move |peer: &AgentId| match trust.binding(peer) {
            Some(binding) if *peer == only => PeerTrust::Key(binding.key),
            _ => PeerTrust::Refuse,
        };
        let mut config = WebRtcConfig::new(agent.clone(), identity.clone(), 1, [url], Arc::new(keys));
        config.bind = vec!["127.0.0.1:0".parse().unwrap()];
        let runtime = Runtime::new().unwrap();
        let transport = runtime.block_on(async {
            let transport = WebRtcTransport::start(config, Arc::new(SystemClock), ifmesh::random())
                .await
                .unwrap();
            timeout(PATIENCE, async {
                while !matches!(transport.recv().await.unwrap(), TransportEvent::LinkUp { .. }) {}
            })
            .await
            .expect("a link in time");
            transport
        });
        Self {
            identity,
            agent,
            to,
            transport,
            runtime,
        }
    }

    /// A message that was changed after it was signed, and what was signed.
    pub(super) fn message(&self, to: &str) -> (Vec<u8>, Vec<u8>) {
        let draft = Draft::new(Destination::new(to).unwrap(), json!({ "forged": false }))
            .delivery(Delivery::BestEffort);
        let stamp = Stamp {
            id: MessageId::new("forged-1").unwrap(),
            source: self.agent.clone(),
            timestamp: Timestamp::from_unix_millis(crate::program::now_millis()),
            epoch: 1,
            sequence: 1,
        };
        let message = draft.stamp(stamp, &Limits::default()).unwrap();
        let genuine = SignedMessage::sign(&self.identity, message).to_json();
        let text = String::from_utf8(genuine.clone()).unwrap();
        let forged = text.replace("\"forged\":false", "\"forged\":true");
        assert_ne!(forged, text);
        (forged.into_bytes(), genuine)
    }

    pub(super) fn send(&self, frame: Vec<u8>) {
        let envelope = Envelope::new(self.to.clone(), Lane::Reliable, frame);
        self.runtime.block_on(self.transport.send(envelope)).unwrap();
    }
}
