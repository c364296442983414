//! An agent that cuts, rewrites or forks its log is caught by the agents that it talks with, through checkpoints in their sessions'
//! keepalives, and both checkpoints stay on their disks for anybody to judge.
//!
//! Real agents with state folders and lives, over the in-memory mesh in real time. Falsified by a dishonest owner that goes on
//! unnoticed, by an honest one that is accused, or by evidence that `ifmesh witness verify` does not show.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use common::{code, run, stdout};
use ifmesh::{
    Agent, AgentId, Backend, BackendContext, BackendError, Backends, Config, Observer, Performative,
    SessionEvent, Timestamp, Witness, WitnessConfig, WitnessPolicy,
    setup::{self, Roads, Swarm},
};
use ifmesh_transport::{Clock, IfTransport, Session, SessionConfig, SystemClock};
use ifmesh_transport_mem::Mesh;
use ifmesh_witness::{
    Entry, Event, Log, NotProved, Settings, Verdict, check_equivocation, equivocations, evidence, held_notes,
};
use ifmsg::canonical::Limits;
use serde_json::{Value, json};
use tokio::time::timeout;

/// For `[transport.mem]`.
#[derive(Debug, Clone)]
struct OverMesh(Mesh);

#[async_trait]
impl Backend for OverMesh {
    async fn start(
        &self,
        _: &toml::Table,
        context: BackendContext,
    ) -> Result<Arc<dyn IfTransport>, BackendError> {
        // The second time it is a new life.
        let joined = self
            .0
            .join(&context.agent)
            .or_else(|_| self.0.restart(&context.agent));
        let transport = joined.map_err(|error| BackendError::Config(error.to_string()))?;
        Ok(transport)
    }
}

/// The agents `ann`, `bob` and `cat`, of whom `ann` is not to be trusted with her log.
struct Town {
    folder: tempfile::TempDir,
    swarm: Swarm,
    mesh: Mesh,
}

impl Town {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let names = ["ann", "bob", "cat"].map(|name| AgentId::new(name).unwrap());
        let swarm = setup::init(folder.path(), &names, &Roads::webrtc(&[])).unwrap();
        for (_, path) in &swarm.agents {
            let text = fs::read_to_string(path).unwrap();
            let (before, _) = text.split_once("[transport.webrtc]").unwrap();
            fs::write(path, format!("{before}[transport.mem]\n")).unwrap();
        }
        let mesh = Mesh::new(1);
        Self { folder, swarm, mesh }
    }

    fn config(&self, name: &str) -> Config {
        let (_, path) = self
            .swarm
            .agents
            .iter()
            .find(|(id, _)| id.as_str() == name)
            .unwrap();
        Config::from_file(path).unwrap()
    }

    fn log(&self, name: &str) -> PathBuf {
        self.config(name).witness.unwrap().folder
    }

    async fn start(&self, name: &str) -> Agent {
        let backends = Backends::default().with("mem", OverMesh(self.mesh.clone()));
        let builder = Agent::builder(self.config(name)).backends(backends);
        builder.start().await.unwrap()
    }

    /// Over how many lines of `ann`'s log this agent holds a checkpoint on its disk.
    fn holds(&self, name: &str) -> u64 {
        let held = held_notes(&self.log(name)).into_iter();
        let of_ann = held.filter(|(agent, _)| agent.as_str() == "ann");
        let sizes = of_ann.map(|(_, path)| fs::read_to_string(path).unwrap());
        sizes
            .map(|note| note.lines().nth(1).unwrap().parse().unwrap())
            .max()
            .unwrap_or(0)
    }

    /// Waits until this agent has evidence against `ann`; its reason, and what `ifmesh witness verify` says of it.
    async fn caught_by(&self, name: &str) -> (String, Value) {
        until(|| !evidence(&self.log(name)).is_empty()).await;
        let (dir, trust) = (self.log(name), self.folder.path().join("trust.toml"));
        let arguments = [
            "witness",
            "verify",
            dir.to_str().unwrap(),
            "--trust",
            trust.to_str().unwrap(),
        ];
        let [(found, file)] = <[_; 1]>::try_from(evidence(&dir)).unwrap();
        let trusted = self.config(name).trust;
        let ann = AgentId::new("ann").unwrap();
        let keys = ifmesh_witness::LogKeys::new(ann.clone(), trusted.binding(&ann).unwrap().key);
        assert_ne!(found.judge(&keys), Verdict::Void);
        // Both checkpoints are there, and not one.
        assert_ne!(found.held, found.shown);
        let text = run(&arguments);
        assert_eq!(code(&text), 1, "{}", stdout(&text));
        assert!(
            stdout(&text).contains("against the log of ann"),
            "{}",
            stdout(&text)
        );
        let output = run(&[&arguments[..], &["--json"]].concat());
        let said: Value = serde_json::from_str(stdout(&output).lines().next().unwrap()).unwrap();
        let [against] = said["against"].as_array().unwrap().as_slice() else {
            panic!("{said}")
        };
        assert_eq!(against["file"], file.to_str().unwrap());
        assert_eq!(against["agent"], "ann");
        (found.reason, against.clone())
    }
}

/// Waits for something on disk that no event tells of.
async fn until(mut so: impl FnMut() -> bool) {
    let poll = async {
        while !so() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(common::PATIENCE, poll).await.unwrap();
}

/// A message from `ann`, which her log and that of the other grow by.
async fn say(ann: &Agent, other: &Agent) {
    let sent = ann
        .send(
            other.id().as_str(),
            Performative::Inform,
            json!({ "text": "all is well" }),
        )
        .await
        .unwrap();
    timeout(common::PATIENCE, other.recv()).await.unwrap().unwrap();
    timeout(common::PATIENCE, sent.acknowledged())
        .await
        .unwrap()
        .unwrap();
}

/// Talks until this agent holds a checkpoint over more lines of `ann`'s log than these, or has caught her before that.
async fn talk_until_held(town: &Town, ann: &Agent, other: &Agent, lines: u64) {
    let talk = async {
        let name = other.id().as_str();
        while town.holds(name) <= lines && evidence(&town.log(name)).is_empty() {
            say(ann, other).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(common::PATIENCE, talk).await.unwrap();
}

/// Talks until this agent has evidence.
async fn talk_until_caught(town: &Town, ann: &Agent, other: &Agent) {
    let talk = async {
        while evidence(&town.log(other.id().as_str())).is_empty() {
            say(ann, other).await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    timeout(common::PATIENCE, talk).await.unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &to);
        } else {
            fs::copy(entry.path(), to).unwrap();
        }
    }
}

/// What `ann` does to her log between two lives, whether she then talks so that it grows again, and for what `bob` catches her.
async fn between_two_lives(tamper: impl FnOnce(&Path, &Config), talks: bool, reason: &str) {
    let town = Town::new();
    let (ann, bob) = (town.start("ann").await, town.start("bob").await);
    talk_until_held(&town, &ann, &bob, 8).await;
    ann.close().await;
    tamper(&town.log("ann"), &town.config("ann"));
    let ann = town.start("ann").await;
    if talks {
        talk_until_caught(&town, &ann, &bob).await;
    }
    let (found, shown) = town.caught_by("bob").await;
    assert_eq!(found, reason, "{shown}");
    assert_eq!(shown["verdict"], "claimed");
    // She goes on talking, and nobody accuses bob.
    say(&ann, &bob).await;
    assert!(evidence(&town.log("ann")).is_empty());
    bob.close().await;
    // It is on the record of him who caught her, too.
    let keys = town.config("bob").identity;
    let keys = ifmesh_witness::LogKeys::new(bob.id().clone(), *keys.public_key());
    let mut events = BTreeSet::new();
    ifmesh_witness::read(&town.log("bob"), &keys, |record| {
        events.insert(record.event.name());
    })
    .unwrap();
    assert!(events.contains("log_forked"), "{events:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_cut_between_two_lives_is_caught() {
    let cut = |dir: &Path, _: &Config| {
        let path = dir.join("00000000.checkpoints");
        let first: Vec<String> = fs::read_to_string(&path)
            .unwrap()
            .lines()
            .take(5)
            .map(|line| format!("{line}\n"))
            .collect();
        let lines: usize = first[1].trim().parse().unwrap();
        fs::write(path, first.concat()).unwrap();
        let path = dir.join("00000000.jsonl");
        let kept: String = fs::read_to_string(&path)
            .unwrap()
            .lines()
            .take(lines)
            .map(|line| format!("{line}\n"))
            .collect();
        fs::write(path, kept).unwrap();
    };
    between_two_lives(cut, false, "shorter").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_rewritten_between_two_lives_is_caught() {
    let rewrite = |dir: &Path, config: &Config| {
        for file in ["00000000.jsonl", "00000000.checkpoints"] {
            fs::remove_file(dir.join(file)).unwrap();
        }
        let settings = Settings::new(dir, config.agent.clone());
        let now = Timestamp::parse("2026-11-22T12:00:00.000Z").unwrap();
        let (mut log, _) = Log::open(settings, config.identity.clone(), now).unwrap();
        for _ in 0..200 {
            log.append(
                now,
                &Entry::new(Event::IfmessageSent).peer("bob".try_into().unwrap()),
            )
            .unwrap();
        }
        log.close(now).unwrap();
    };
    between_two_lives(rewrite, true, "false-proof").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_histories_shown_to_two_peers_are_caught_when_the_peers_talk() {
    let town = Town::new();
    let (ann, bob, cat) = (
        town.start("ann").await,
        town.start("bob").await,
        town.start("cat").await,
    );
    talk_until_held(&town, &ann, &bob, 8).await;
    talk_until_held(&town, &ann, &cat, 8).await;
    ann.close().await;
    let kept = town.folder.path().join("kept");
    copy(&town.log("ann"), &kept);
    let shared = town.holds("bob").max(town.holds("cat"));
    // One history for bob.
    town.mesh.partition(&["ann"], &["cat"]).unwrap();
    let ann = town.start("ann").await;
    talk_until_held(&town, &ann, &bob, shared).await;
    ann.close().await;
    // Another one, from the same beginning, for cat. Each for himself sees a log that only grows.
    fs::remove_dir_all(town.log("ann")).unwrap();
    copy(&kept, &town.log("ann"));
    town.mesh.heal();
    town.mesh.partition(&["ann"], &["bob"]).unwrap();
    let ann = town.start("ann").await;
    talk_until_held(&town, &ann, &cat, shared).await;
    let nobody = |name: &str| evidence(&town.log(name)).is_empty();
    assert!(nobody("bob"), "bob has been shown one history");
    // Bob and cat show each other what they hold. To cat she has only grown: but he has heard of the other history.
    until(|| !nobody("cat")).await;
    town.caught_by("cat").await;
    town.mesh.heal();
    talk_until_caught(&town, &ann, &bob).await;
    town.caught_by("bob").await;
    assert!(nobody("ann"));
    for agent in [ann, bob, cat] {
        agent.close().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_messages_under_one_number_are_kept_and_prove_it_to_anybody() {
    let town = Town::new();
    let bob = town.start("bob").await;
    // An agent whose second life numbers its messages as the first one did.
    for life in 0..2 {
        let transport = match life {
            0 => town.mesh.join("ann").unwrap(),
            _ => town.mesh.restart("ann").unwrap(),
        };
        let ann = town.config("ann");
        let config = SessionConfig::new(ann.agent, ann.identity, ann.trust, 1);
        let ann = Session::start(transport, config, Arc::new(SystemClock), ifmesh::random());
        if life == 0 {
            ann.peers_until(|peers| peers.iter().any(|peer| peer.up))
                .await
                .unwrap();
        } else {
            until(|| !equivocations(&town.log("bob")).is_empty()).await;
        }
    }
    bob.close().await;
    let (dir, trust) = (town.log("bob"), town.config("bob").trust);
    let proofs = equivocations(&dir);
    let content = fs::read(&proofs[0]).unwrap();
    assert_eq!(check_equivocation(&content, &trust).unwrap().as_str(), "ann");
    // Of one message, or of two that are one, or for somebody who knows no key, it proves nothing.
    let first: Vec<u8> = content
        .split_inclusive(|byte| *byte == b'\n')
        .next()
        .unwrap()
        .to_vec();
    assert_eq!(check_equivocation(&first, &trust), Err(NotProved::NotTwo));
    assert_eq!(
        check_equivocation(&[first.clone(), first].concat(), &trust),
        Err(NotProved::NoLie)
    );
    let nobody = ifmsg::TrustStore::new(ifmsg::TrustPolicy::Allowlist);
    assert!(matches!(
        check_equivocation(&content, &nobody),
        Err(NotProved::Message(_))
    ));
    for place in (0..content.len()).step_by(7) {
        let mut changed = content.clone();
        changed[place] ^= 1;
        assert!(check_equivocation(&changed, &trust).is_err(), "{place}");
    }

    let key = *town.config("bob").identity.public_key();
    let keys = ifmesh_witness::LogKeys::new(bob.id().clone(), key);
    let mut named = BTreeSet::new();
    ifmesh_witness::read(&dir, &keys, |record| {
        if let (Event::Equivocation, Some(ifmesh_witness::Detail::Text(file))) =
            (record.event, record.metadata.get("proof"))
        {
            named.insert(file.to_string());
        }
    })
    .unwrap();
    let files = proofs
        .iter()
        .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned());
    assert_eq!(named, files.collect());
    let path = town.folder.path().join("trust.toml");
    let output = run(&[
        "witness",
        "verify",
        dir.to_str().unwrap(),
        "--trust",
        path.to_str().unwrap(),
    ]);
    assert_eq!(code(&output), 1, "{}", stdout(&output));
    let expected = "PROOF against ann: it signed two different messages under one number";
    assert!(stdout(&output).contains(expected), "{}", stdout(&output));
}

/// Room for everything.
struct Open;

impl ifmsg::Host for Open {
    fn has_room(&self, _: &ifmsg::Header) -> bool {
        true
    }
    fn proves_liveness(&self, _: &ifmsg::SignedMessage) -> bool {
        false
    }
}

/// All that happens, happens in one second.
#[derive(Debug)]
struct Still;

impl Clock for Still {
    fn now(&self) -> Timestamp {
        Timestamp::from_unix_millis(1_795_356_600_000)
    }
}

#[tokio::test]
async fn no_flood_of_refusals_keeps_an_equivocation_off_the_record() {
    let folder = tempfile::tempdir().unwrap();
    let [ann, bob] = ["ann", "bob"].map(|name| AgentId::new(name).unwrap());
    let identity = ifmsg::Identity::from_seed(&[1; 32]);
    let mut trust = ifmsg::TrustStore::new(ifmsg::TrustPolicy::Allowlist);
    trust
        .bind(ann.clone(), *identity.public_key(), ifmsg::Permissions::ALL)
        .unwrap();
    let wanted = WitnessConfig::new(folder.path(), WitnessPolicy::Required);
    let own = ifmsg::Identity::from_seed(&[2; 32]);
    let (witness, _) = Witness::open(&wanted, &bob, &own, "mem", Arc::new(Still))
        .await
        .unwrap();
    let witness = Arc::new(witness);
    for _ in 0..2_000 {
        witness.on_event(&SessionEvent::Malformed {
            link: ann.clone(),
            error: ifmsg::DecodeError::Unsigned,
        });
    }
    let now = ifmsg::Now {
        wall: Still.now(),
        elapsed: Duration::ZERO,
    };
    let mut gate = ifmsg::Admission::new(bob.clone(), trust, ifmsg::DEFAULT_MAX_AGE);
    for text in ["yes", "no"] {
        let stamp = ifmsg::Stamp {
            id: text.try_into().unwrap(),
            source: ann.clone(),
            timestamp: now.wall,
            epoch: 1,
            sequence: 1,
        };
        let message =
            ifmsg::Draft::new(bob.clone().into(), json!({ "text": text })).stamp(stamp, &Limits::default());
        let signed = ifmsg::SignedMessage::sign(&identity, message.unwrap());
        let flight = ifmsg::decode(&signed.to_json().into(), &Limits::default()).unwrap();
        for admitted in gate.admit(&flight, now, &Open) {
            if let ifmsg::Admitted::Rejected(rejected) = admitted {
                let rejected = Box::new(rejected);
                witness.on_event(&SessionEvent::Rejected { rejected });
            }
        }
    }
    witness.settle().await.unwrap();
    witness.close().await.unwrap();
    let keys = ifmesh_witness::LogKeys::new(bob, *own.public_key());
    let (mut refusals, mut told) = (0, Vec::new());
    ifmesh_witness::read(folder.path(), &keys, |record| match record.event {
        Event::IfmessageRejected => refusals += 1,
        Event::Equivocation => told.push(record.metadata.contains_key("proof")),
        _ => {}
    })
    .unwrap();
    assert_eq!((refusals, told), (1_000, vec![true]));
    assert_eq!(equivocations(folder.path()).len(), 1);
}
