//! A disk that is full neither blocks nor crashes messaging without a word: under `required` the session halts, says why, and goes on
//! when there is room; under `best-effort` messages go on, and the log says afterwards how many events it lost.
//!
//! Falsified by a message that is accepted while the log cannot be written and has to be, by one that is held up where it need not
//! be, by a loss that is on no record, or by a log that does not verify afterwards. Needs root, to mount a small file system.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

use std::{fs, path::Path, process::Command, sync::Arc, time::Duration};

use ifmesh::{
    AgentId, Destination, Draft, Identity, Observer, Session, SubmitError, Witness, WitnessConfig,
    WitnessPolicy,
};
use ifmesh_transport::{SessionConfig, SystemClock};
use ifmesh_transport_mem::{Mesh, MeshConfig};
use ifmesh_witness::{Detail, Event, LogKeys, read};
use ifmsg::{Permissions, TrustPolicy, TrustStore};
use serde_json::json;
use tokio::time::timeout;

/// A file system of 512 KiB, gone when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=512k", "tmpfs"])
            .arg(dir.path())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&mounted.stderr);
        assert!(
            mounted.status.success(),
            "root is needed to mount a small file system: {error}"
        );
        Self(dir)
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    /// Takes all the room there is.
    fn fill(&self) {
        let _full = fs::write(self.path().join("ballast"), vec![1; 1 << 20]);
    }

    fn free(&self) {
        fs::remove_file(self.path().join("ballast")).unwrap();
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

fn id(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

fn identity(name: &str) -> Identity {
    Identity::from_seed(&[name.as_bytes()[0]; 32])
}

async fn pair(disk: &Small, policy: WitnessPolicy) -> (Session, Session, Arc<Witness>) {
    let mut trust = TrustStore::new(TrustPolicy::Allowlist);
    for name in ["ann", "bob"] {
        trust
            .bind(id(name), *identity(name).public_key(), Permissions::ALL)
            .unwrap();
    }
    let mesh = Mesh::with(1, MeshConfig::reliable()).unwrap();
    let wanted = WitnessConfig::new(disk.path().join("log"), policy);
    let opened = Witness::open(
        &wanted,
        &id("ann"),
        &identity("ann"),
        "mem",
        Arc::new(SystemClock),
    )
    .await;
    let witness = Arc::new(opened.unwrap().0);
    let start = |name: &str, observer: Option<Arc<dyn Observer>>| {
        let mut config = SessionConfig::new(id(name), identity(name), trust.clone(), 1);
        config.observer = observer;
        let transport = mesh.join(id(name)).unwrap();
        Session::start(transport, config, Arc::new(SystemClock), ifmesh::random())
    };
    let ann = start("ann", Some(witness.clone()));
    let bob = start("bob", None);
    ann.peers_until(|peers| peers.iter().any(|peer| peer.up))
        .await
        .unwrap();
    (ann, bob, witness)
}

fn draft(n: u64) -> Draft {
    Draft::new(Destination::new("bob").unwrap(), json!({ "n": n }))
}

/// Verifies the log; how many events it says were lost.
fn lost(disk: &Small) -> i64 {
    let keys = LogKeys::new(id("ann"), *identity("ann").public_key());
    let mut lost = 0;
    read(&disk.path().join("log"), &keys, |record| {
        if record.event == Event::EventsDropped
            && let Some(Detail::Number(count)) = record.metadata.get("count")
        {
            lost += count;
        }
    })
    .unwrap();
    lost
}

#[tokio::test(flavor = "multi_thread")]
async fn required_halts_says_why_and_goes_on() {
    let disk = Small::mount();
    let (ann, bob, witness) = pair(&disk, WitnessPolicy::Required).await;
    let receiving = tokio::spawn(async move { while bob.recv().await.is_some() {} });
    ann.send(draft(0)).await.unwrap().acknowledged().await.unwrap();
    disk.fill();
    let halted = async {
        for n in 1.. {
            if let Err(error) = ann.send(draft(n)).await {
                return error;
            }
        }
        panic!("numbers have no end")
    };
    let error = timeout(Duration::from_secs(30), halted).await.unwrap();
    assert!(matches!(&error, SubmitError::OffTheRecord(_)), "{error}");
    assert!(error.to_string().contains("no room to write"), "{error}");
    assert!(witness.status().failure.is_some());
    disk.free();
    let goes_on = async {
        loop {
            match ann.send(draft(1_000_000)).await {
                Ok(receipt) => return receipt.acknowledged().await,
                Err(SubmitError::OffTheRecord(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    timeout(Duration::from_secs(30), goes_on).await.unwrap().unwrap();
    ann.close(Duration::from_secs(1)).await;
    witness.close().await.unwrap();
    receiving.abort();
    lost(&disk);
}

#[tokio::test(flavor = "multi_thread")]
async fn best_effort_goes_on_and_counts() {
    let disk = Small::mount();
    let (ann, bob, witness) = pair(&disk, WitnessPolicy::BestEffort).await;
    let receiving = tokio::spawn(async move { while bob.recv().await.is_some() {} });
    disk.fill();
    let mut last = None;
    for n in 0..5_000 {
        let sent = timeout(Duration::from_secs(30), ann.send(draft(n))).await;
        last = Some(sent.unwrap().unwrap());
    }
    timeout(Duration::from_secs(30), last.unwrap().acknowledged())
        .await
        .unwrap()
        .unwrap();
    assert!(witness.status().failure.is_some() && witness.status().dropped > 0);
    disk.free();
    let mended = async {
        while witness.status().failure.is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(30), mended).await.unwrap();
    ann.close(Duration::from_secs(1)).await;
    let dropped = witness.status().dropped;
    witness.close().await.unwrap();
    receiving.abort();
    assert_eq!(lost(&disk), i64::try_from(dropped).unwrap());
}
