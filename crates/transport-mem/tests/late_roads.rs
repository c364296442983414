//! A road that opens late carries what it then can. Falsified by a long message that does not arrive by such a road, once it is
//! the only one.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ifmesh_transport::{
    Capabilities, CloseError, Closed, Envelope, IfTransport, LinkStatus, Policy, Road, Router, RouterConfig,
    SendError, TransportEvent,
};
use ifmesh_transport_mem::{MemTransport, Mesh, simulate};
use serde_json::json;
use tokio::time::timeout;

/// A road that knows nothing of its sizes before it has a link.
#[derive(Debug)]
struct Late {
    road: Arc<MemTransport>,
    is_open: AtomicBool,
}

#[async_trait]
impl IfTransport for Late {
    fn name(&self) -> &str {
        self.road.name()
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.road.capabilities();
        if !self.is_open.load(Ordering::Relaxed) {
            capabilities.max_frame = 65_536;
        }
        capabilities
    }

    async fn send(&self, envelope: Envelope) -> Result<(), SendError> {
        self.road.send(envelope).await
    }

    async fn recv(&self) -> Result<TransportEvent, Closed> {
        let event = self.road.recv().await;
        self.is_open.store(true, Ordering::Relaxed);
        event
    }

    fn links(&self) -> Vec<LinkStatus> {
        self.road.links()
    }

    async fn close(&self) -> Result<(), CloseError> {
        self.road.close().await
    }
}

#[test]
fn a_late_road_carries_long_messages_when_it_is_the_only_one() {
    simulate(1, async |mesh| {
        let other = Mesh::new(2);
        let dice = mesh.clone();
        let connect = move |name: &str, transports: Vec<Arc<MemTransport>>| {
            let [first, late] = <[Arc<MemTransport>; 2]>::try_from(transports).unwrap();
            let late = Late {
                road: late,
                is_open: AtomicBool::new(false),
            };
            let roads = vec![Road::new("first", first), Road::new("late", Arc::new(late))];
            let random = Box::new(dice.rng(&format!("router of {name}")));
            Router::start(roads, RouterConfig::new(Policy::Failover), random).unwrap() as Arc<dyn IfTransport>
        };
        let agents = mesh
            .agents_over(std::slice::from_ref(&other), ["ada", "bea"], |_, _| {}, connect)
            .unwrap();
        mesh.partition(&["ada"], &["bea"]).unwrap();
        let long = json!({ "text": "x".repeat(100_000) });
        let receipt = agents.send("ada", "bea", long.clone()).await.unwrap();
        let minute = Duration::from_secs(60);
        let message = timeout(minute, agents.recv("bea")).await.unwrap().unwrap();
        assert_eq!(message.payload(), long);
        timeout(minute, receipt.acknowledged()).await.unwrap().unwrap();
    })
    .unwrap();
}
