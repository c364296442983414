use std::{pin::pin, sync::Arc};

use async_trait::async_trait;
use ifmesh_transport::{
    Capabilities, CloseError, Closed, Envelope, IfTransport, Lane, LinkStatus, SendError, TransportEvent,
};
use ifmsg::{AgentId, Destination};
use tokio::sync::Notify;

use crate::{
    config::FRAME_OVERHEAD,
    mesh::Shared,
    network::{Charge, Closing, Node, Taken},
};

/// One life of one agent on a [`Mesh`](crate::Mesh). Dropping the last handle without `close` is a crash.
///
/// Events are bounded by the window of each peer: what a slow reader has not taken holds up its senders, each on its own.
pub struct MemTransport {
    shared: Arc<Shared>,
    id: AgentId,
    node: Node,
    incarnation: u64,
    capabilities: Capabilities,
    news: Arc<Notify>,
    ended: Arc<Notify>,
}

impl MemTransport {
    pub(crate) fn new(shared: Arc<Shared>, id: AgentId, node: Node, incarnation: u64) -> Self {
        let (capabilities, news, ended) = shared.with(|network| {
            (
                network.config().capabilities,
                network.news(node),
                network.ended(node),
            )
        });
        Self {
            shared,
            id,
            node,
            incarnation,
            capabilities,
            news,
            ended,
        }
    }

    /// The agent's name.
    pub fn id(&self) -> &AgentId {
        &self.id
    }

    /// Waits for room towards each of `peers`, then sends to all of them at once. Of everyone, those whose link is gone
    /// are left out.
    async fn send_reliably(&self, peers: &[Node], envelope: &Envelope) -> Result<(), SendError> {
        let to_everyone = envelope.to == Destination::Everyone;
        let cost = u32::try_from(envelope.frame.len() + FRAME_OVERHEAD).unwrap_or(u32::MAX);
        let mut charges: Vec<(Node, Charge)> = Vec::with_capacity(peers.len());
        for &peer in peers {
            let (window, mut gone) = match self
                .shared
                .with(|network| network.ticket(self.node, self.incarnation, peer))
            {
                Ok(ticket) => ticket,
                Err(SendError::NoLink(_)) if to_everyone => continue,
                Err(error) => return Err(error),
            };
            let permit = tokio::select! {
                biased;
                _ = gone.changed() => None,
                permit = window.acquire_many_owned(cost) => permit.ok(),
            };
            // Without a permit the link went down meanwhile.
            if let Some(permit) = permit {
                charges.push((peer, Arc::new(permit)));
            }
        }
        self.shared.with(|network| {
            if !network.is_running(self.node, self.incarnation) {
                return Err(SendError::Closed);
            }
            if let (Destination::Agent(peer), []) = (&envelope.to, &charges[..]) {
                return Err(SendError::NoLink(peer.clone()));
            }
            for (peer, charge) in charges {
                let frame = envelope.frame.clone();
                match network.accept(
                    self.node,
                    self.incarnation,
                    peer,
                    Lane::Reliable,
                    frame,
                    Some(charge),
                ) {
                    Err(SendError::NoLink(_)) if to_everyone => {}
                    other => other?,
                }
            }
            Ok(())
        })
    }
}

#[async_trait]
impl IfTransport for MemTransport {
    fn name(&self) -> &str {
        "mem"
    }

    fn capabilities(&self) -> Capabilities {
        self.capabilities
    }

    async fn send(&self, envelope: Envelope) -> Result<(), SendError> {
        if !self
            .shared
            .with(|network| network.is_running(self.node, self.incarnation))
        {
            return Err(SendError::Closed);
        }
        let (size, limit) = (envelope.frame.len(), self.capabilities.max_frame);
        if size > limit {
            return Err(SendError::TooLarge { size, limit });
        }
        let peers = match &envelope.to {
            Destination::Agent(peer) => match self.shared.with(|network| network.node(peer)) {
                Some(node) => vec![node],
                None => return Err(SendError::NoLink(peer.clone())),
            },
            Destination::Everyone if self.capabilities.broadcast => {
                self.shared.with(|network| network.linked(self.node))
            }
            Destination::Everyone => return Err(SendError::NoBroadcast),
        };
        if envelope.lane == Lane::Reliable {
            return self.send_reliably(&peers, &envelope).await;
        }
        // Never waits for the link, but a loop that only sends must let others run now and then.
        tokio::task::consume_budget().await;
        self.shared.with(|network| {
            for &peer in &peers {
                let frame = envelope.frame.clone();
                match network.accept(self.node, self.incarnation, peer, Lane::BestEffort, frame, None) {
                    Err(SendError::NoLink(_)) if envelope.to == Destination::Everyone => {}
                    other => other?,
                }
            }
            Ok(())
        })
    }

    async fn recv(&self) -> Result<TransportEvent, Closed> {
        loop {
            tokio::task::consume_budget().await;
            match self
                .shared
                .with(|network| network.take(self.node, self.incarnation))
            {
                Taken::Event(event) => return Ok(event),
                Taken::Closed => {
                    // For a second caller, if there is one.
                    self.news.notify_one();
                    return Err(Closed);
                }
                Taken::Nothing => self.news.notified().await,
            }
        }
    }

    fn links(&self) -> Vec<LinkStatus> {
        self.shared
            .with(|network| network.links(self.node, self.incarnation))
    }

    async fn close(&self) -> Result<(), CloseError> {
        let first = self
            .shared
            .with(|network| network.close(self.node, self.incarnation));
        loop {
            let mut ended = pin!(self.ended.notified());
            ended.as_mut().enable();
            match self
                .shared
                .with(|network| network.closing(self.node, self.incarnation))
            {
                Closing::Done { unsent: envelopes } if first && envelopes > 0 => {
                    return Err(CloseError::Unsent { envelopes });
                }
                Closing::Done { .. } => return Ok(()),
                Closing::Underway => ended.await,
            }
        }
    }
}

impl Drop for MemTransport {
    fn drop(&mut self) {
        self.shared
            .with_care(|network| network.abandon(self.node, self.incarnation));
    }
}

impl std::fmt::Debug for MemTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MemTransport")
            .field("id", &self.id)
            .field("life", &self.incarnation)
            .finish_non_exhaustive()
    }
}
