//! What a session tells of the roads that its messages took is what became of them.
//!
//! Falsified by a message that is told to have gone by a road which did not take it, without a correction, or by a road that took
//! one and is not named.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ifmesh_transport::{
    Capabilities, CloseError, Closed, Envelope, IfTransport, LinkStatus, Observer, Policy, Road, Router,
    RouterConfig, SendError, SessionEvent, TransportEvent,
};
use ifmesh_transport_mem::{Agents, MemTransport, Mesh, simulate};
use serde_json::json;
use tokio::time::timeout;

/// Attempt, road, and the road that it was taken instead of.
type Told = (u32, Option<String>, Option<String>);

/// What was told of the application's messages.
#[derive(Debug, Default)]
struct Ear(Mutex<Vec<Told>>);

impl Ear {
    fn take(&self) -> Vec<Told> {
        std::mem::take(&mut *self.0.lock().unwrap())
    }
}

#[async_trait]
impl Observer for Ear {
    fn on_event(&self, event: &SessionEvent) {
        let (flight, road, named) = match event {
            SessionEvent::Sent { flight, road } => (flight, road.as_deref(), None),
            SessionEvent::Carried {
                flight,
                road,
                instead_of,
            } => (flight, Some(&**road), instead_of.as_deref()),
            _ => return,
        };
        for (message, attempt) in &flight.messages {
            let act = message.header().performative.as_ref();
            if !act.is_some_and(ifmsg::Performative::is_reserved) {
                let told = (*attempt, road.map(str::to_owned), named.map(str::to_owned));
                self.0.lock().unwrap().push(told);
            }
        }
    }
}

/// A road that takes nothing while it is told to.
#[derive(Debug)]
struct Stubborn {
    road: Arc<MemTransport>,
    takes_nothing: Arc<AtomicBool>,
}

#[async_trait]
impl IfTransport for Stubborn {
    fn name(&self) -> &str {
        self.road.name()
    }

    fn capabilities(&self) -> Capabilities {
        self.road.capabilities()
    }

    async fn send(&self, envelope: Envelope) -> Result<(), SendError> {
        if self.takes_nothing.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
        self.road.send(envelope).await
    }

    async fn recv(&self) -> Result<TransportEvent, Closed> {
        self.road.recv().await
    }

    fn links(&self) -> Vec<LinkStatus> {
        self.road.links()
    }

    async fn close(&self) -> Result<(), CloseError> {
        self.road.close().await
    }
}

struct Pair {
    meshes: [Mesh; 2],
    agents: Agents,
    /// What the session of `ada` told.
    ear: Arc<Ear>,
    /// Her first road takes nothing.
    takes_nothing: Arc<AtomicBool>,
}

/// `ada` and `bea` over the roads `first` and `second`.
fn pair(mesh: &Mesh, policy: Policy) -> Pair {
    let meshes = [mesh.clone(), Mesh::new(mesh.seed() + 1)];
    let (ear, takes_nothing) = (Arc::new(Ear::default()), Arc::new(AtomicBool::new(false)));
    let (told, stubborn, dice) = (ear.clone(), takes_nothing.clone(), mesh.clone());
    let configure = move |name: &str, config: &mut ifmesh_transport::SessionConfig| {
        if name == "ada" {
            config.observer = Some(told.clone());
        }
    };
    let connect = move |name: &str, transports: Vec<Arc<MemTransport>>| {
        let [first, second] = <[Arc<MemTransport>; 2]>::try_from(transports).unwrap();
        let first = Stubborn {
            road: first,
            takes_nothing: if name == "ada" {
                stubborn.clone()
            } else {
                Arc::default()
            },
        };
        let roads = vec![Road::new("first", Arc::new(first)), Road::new("second", second)];
        let random = Box::new(dice.rng(&format!("router of {name}")));
        Router::start(roads, RouterConfig::new(policy), random).unwrap() as Arc<dyn IfTransport>
    };
    let agents = meshes[0]
        .agents_over(&meshes[1..], ["ada", "bea"], configure, connect)
        .unwrap();
    Pair {
        meshes,
        agents,
        ear,
        takes_nothing,
    }
}

impl Pair {
    /// Sends a message, waits until it is acknowledged, and gives what was told of it.
    async fn sent(&self) -> Vec<Told> {
        self.ear.take();
        let receipt = self.agents.send("ada", "bea", json!({ "n": 1 })).await.unwrap();
        self.acknowledged(receipt).await
    }

    async fn acknowledged(&self, receipt: ifmesh_transport::Receipt) -> Vec<Told> {
        let minute = Duration::from_secs(60);
        timeout(minute, self.agents.recv("bea")).await.unwrap().unwrap();
        timeout(minute, receipt.acknowledged()).await.unwrap().unwrap();
        self.ear.take()
    }

    /// Both roads are known to be there.
    async fn warm(&self) {
        tokio::time::sleep(Duration::from_secs(5)).await;
        self.sent().await;
    }
}

fn by(attempt: u32, road: &str) -> Told {
    (attempt, Some(road.to_owned()), None)
}

#[test]
fn the_road_that_takes_a_message_is_named() {
    simulate(1, async |mesh| {
        let pair = pair(&mesh, Policy::Failover);
        pair.warm().await;
        assert_eq!(pair.sent().await, [by(1, "first")]);
        // Closed: the router knows, and takes the other.
        pair.meshes[0].partition(&["ada"], &["bea"]).unwrap();
        pair.meshes[0].break_link("ada", "bea").unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(pair.sent().await, [by(1, "second")]);
    })
    .unwrap();
}

#[test]
fn a_resend_names_the_road_of_its_own() {
    simulate(2, async |mesh| {
        let pair = pair(&mesh, Policy::Failover);
        pair.warm().await;
        // A black hole: nobody knows yet.
        pair.meshes[0].partition(&["ada"], &["bea"]).unwrap();
        let told = pair.sent().await;
        assert_eq!(told[0], by(1, "first"));
        assert_eq!(told.last(), Some(&by(told.len() as u32, "second")), "{told:?}");
        assert!(told.len() > 1);
    })
    .unwrap();
}

#[test]
fn a_road_that_fails_while_a_message_waits_for_it_is_corrected() {
    simulate(3, async |mesh| {
        let pair = pair(&mesh, Policy::Failover);
        pair.warm().await;
        pair.ear.take();
        pair.takes_nothing.store(true, Ordering::Relaxed);
        let receipt = pair.agents.send("ada", "bea", json!({ "n": 1 })).await.unwrap();
        // It waits for the first road, as its record says, for less than it takes to be sent again.
        tokio::time::sleep(Duration::from_millis(10)).await;
        pair.meshes[0].partition(&["ada"], &["bea"]).unwrap();
        pair.meshes[0].break_link("ada", "bea").unwrap();
        let told = pair.acknowledged(receipt).await;
        let corrected = (1, Some("second".to_owned()), Some("first".to_owned()));
        assert_eq!(told[..2], [by(1, "first"), corrected]);
        // What the road may have taken with it goes again.
        assert!(told[2..].iter().all(|told| *told == by(2, "second")), "{told:?}");
    })
    .unwrap();
}

#[test]
fn copies_by_several_roads_are_each_named() {
    simulate(4, async |mesh| {
        let pair = pair(&mesh, Policy::FanOut { roads: None });
        pair.warm().await;
        assert_eq!(pair.sent().await, [by(1, "first"), by(1, "second")]);
        // One that is full goes without, and is not named.
        pair.takes_nothing.store(true, Ordering::Relaxed);
        let corrected = (1, Some("second".to_owned()), Some("first".to_owned()));
        assert_eq!(pair.sent().await, [by(1, "first"), corrected]);
    })
    .unwrap();
}
