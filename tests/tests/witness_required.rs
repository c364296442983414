//! A session under an observer that cannot record: nothing leaves and nothing is handed out, it says so, and it goes on by itself.
//!
//! Falsified by a message that leaves or is handed out while the observer refuses, by a submission that is accepted then, by one that
//! is lost when it no longer refuses, or by a close that waits for it.
#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ifmesh_transport::{
    Observer, ObserverError, Session, SessionConfig, SessionEvent, SubmitError, SystemClock,
};
use ifmesh_transport_mem::{Mesh, MeshConfig};
use ifmsg::{AgentId, Destination, Draft, Identity, Permissions, TrustPolicy, TrustStore};
use rand::{SeedableRng, rngs::StdRng};
use serde_json::json;
use tokio::time::timeout;

#[derive(Debug, Default)]
struct Disk {
    full: AtomicBool,
    told: Mutex<Vec<&'static str>>,
}

#[async_trait::async_trait]
impl Observer for Disk {
    fn on_event(&self, event: &SessionEvent) {
        self.told.lock().unwrap().push(match event {
            SessionEvent::Sent { .. } => "sent",
            SessionEvent::Received { .. } => "received",
            _ => "other",
        });
    }

    async fn settle(&self) -> Result<(), ObserverError> {
        match self.full.load(Ordering::Relaxed) {
            true => Err(ObserverError("the disk is full".to_owned())),
            false => Ok(()),
        }
    }
}

fn id(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

fn start(mesh: &Mesh, name: &str, observer: Option<Arc<Disk>>) -> Session {
    let identity = |name: &str| Identity::from_seed(&[name.as_bytes()[0]; 32]);
    let mut trust = TrustStore::new(TrustPolicy::Allowlist);
    for peer in ["ann", "bob"] {
        trust
            .bind(id(peer), *identity(peer).public_key(), Permissions::ALL)
            .unwrap();
    }
    let mut config = SessionConfig::new(id(name), identity(name), trust, 1);
    config.observer = observer.map(|observer| observer as Arc<dyn Observer>);
    let random = Box::new(StdRng::seed_from_u64(7));
    Session::start(
        mesh.join(id(name)).unwrap(),
        config,
        Arc::new(SystemClock),
        random,
    )
}

fn draft(to: &str, n: u64) -> Draft {
    Draft::new(Destination::new(to).unwrap(), json!({ "n": n }))
}

async fn up(session: &Session) {
    session
        .peers_until(|peers| peers.iter().any(|peer| peer.up))
        .await
        .unwrap();
}

async fn halted(session: &Session) {
    while session.metrics().halts == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_halted_receiver_hands_nothing_out_and_goes_on() {
    let mesh = Mesh::with(1, MeshConfig::reliable()).unwrap();
    let disk = Arc::new(Disk::default());
    let (ann, bob) = (start(&mesh, "ann", None), start(&mesh, "bob", Some(disk.clone())));
    up(&ann).await;
    up(&bob).await;
    disk.full.store(true, Ordering::Relaxed);
    let receipt = ann.send(draft("bob", 1)).await.unwrap();
    halted(&bob).await;
    assert!(disk.told.lock().unwrap().contains(&"received"));
    let early = timeout(Duration::from_millis(300), bob.recv()).await;
    assert!(early.is_err(), "handed out off the record: {early:?}");
    let refused = bob.send(draft("ann", 2)).await.map(|receipt| receipt.sequence());
    assert_eq!(
        refused,
        Err(SubmitError::OffTheRecord(ObserverError(
            "the disk is full".to_owned()
        )))
    );
    disk.full.store(false, Ordering::Relaxed);
    let message = timeout(Duration::from_secs(5), bob.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(message.payload()["n"], 1);
    timeout(Duration::from_secs(5), receipt.acknowledged())
        .await
        .unwrap()
        .unwrap();
    bob.send(draft("ann", 3)).await.unwrap();
    assert_eq!(ann.recv().await.unwrap().payload()["n"], 3);
}

#[tokio::test]
async fn a_halted_sender_sends_nothing_and_closes_without_waiting() {
    let mesh = Mesh::with(1, MeshConfig::reliable()).unwrap();
    let disk = Arc::new(Disk::default());
    let (ann, bob) = (start(&mesh, "ann", Some(disk.clone())), start(&mesh, "bob", None));
    up(&ann).await;
    up(&bob).await;
    disk.full.store(true, Ordering::Relaxed);
    let receipt = ann.send(draft("bob", 1)).await.unwrap();
    halted(&ann).await;
    assert!(disk.told.lock().unwrap().contains(&"sent"));
    let early = timeout(Duration::from_millis(300), bob.recv()).await;
    assert!(early.is_err(), "sent off the record: {early:?}");
    timeout(Duration::from_secs(5), ann.close(Duration::from_millis(10)))
        .await
        .unwrap();
    assert!(receipt.acknowledged().await.is_err());
    let late = timeout(Duration::from_millis(100), bob.recv()).await;
    assert!(late.is_err(), "sent off the record while closing: {late:?}");
}
