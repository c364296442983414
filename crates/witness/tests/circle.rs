//! Peers are witnesses of each other's logs: an owner that cuts, forks or rewrites its log is caught by any peer that ever saw a
//! checkpoint, and an honest one never is.
//!
//! Falsified by an honest owner that is accused, by a dishonest one that is not, by a cosignature under anything that was not on
//! disk before, or by evidence that does not hold both checkpoints.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use common::{at, sent};
use ifmesh_witness::{
    Circle, Cosigned, Detail, Effect, Event, Log, LogKeys, Settings, Tip, Verdict, cosigned, evidence,
    held_notes, prove_growth, verify_against,
};
use ifmsg::{AgentId, Identity, PublicKey};
use serde_json::Value;

fn id(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

fn identity(name: &str) -> Identity {
    let mut seed = [9; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    Identity::from_seed(&seed)
}

fn key(name: &str) -> PublicKey {
    *identity(name).public_key()
}

fn known(agent: &AgentId) -> Option<PublicKey> {
    Some(key(agent.as_str()))
}

/// An agent with its log; what its circle wants done is done at once.
struct Node {
    name: &'static str,
    dir: PathBuf,
    log: Option<Log>,
    tips: Vec<Arc<Tip>>,
    circle: Circle,
    records: Vec<(Event, String)>,
    disk_works: bool,
}

impl Node {
    fn start(name: &'static str, dir: &Path) -> Self {
        let settings = Settings::new(dir, id(name));
        let (log, _) = Log::open(settings, identity(name), at(0)).unwrap();
        let mut node = Self {
            name,
            dir: dir.to_owned(),
            log: Some(log),
            tips: Vec::new(),
            circle: Circle::open(dir, id(name), identity(name), known).unwrap(),
            records: Vec::new(),
            disk_works: true,
        };
        node.publish();
        node
    }

    fn grow(&mut self, lines: u64) {
        let log = self.log.as_mut().unwrap();
        for number in 0..lines {
            log.append(at(1), &sent(number)).unwrap();
        }
        self.publish();
    }

    fn publish(&mut self) {
        let tip = self.log.as_mut().unwrap().publish().unwrap();
        self.tips.extend(tip.map(Arc::new));
    }

    fn run(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            if let Some(entry) = effect.entry() {
                let dir = tempfile::tempdir().unwrap();
                let (mut log, _) = Log::open(
                    Settings::new(dir.path(), id(self.name)),
                    identity(self.name),
                    at(0),
                )
                .unwrap();
                log.append(at(0), &entry).unwrap();
                ifmesh_witness::read(
                    dir.path(),
                    &LogKeys::new(id(self.name), key(self.name)),
                    |record| {
                        if let Some(Detail::Text(reason)) = record.metadata.get("reason") {
                            self.records.push((record.event, reason.to_string()));
                        }
                    },
                )
                .unwrap_or_else(|error| panic!("{error}"));
            }
            match effect {
                Effect::Keep { agent, path, content } if self.disk_works => {
                    fs::write(path, content).unwrap();
                    self.circle.kept(&agent);
                }
                Effect::Keep { agent, .. } => self.circle.not_kept(&agent),
                Effect::Prove { peer, from, to } => {
                    let proof = prove_growth(&self.dir, from, to).unwrap();
                    self.circle.proved(&peer, from, to, proof);
                }
                _ => {}
            }
        }
    }
}

struct World {
    nodes: BTreeMap<&'static str, Node>,
    millis: i64,
    said: Vec<(&'static str, Value)>,
}

impl World {
    fn of(nodes: Vec<Node>) -> Self {
        Self {
            nodes: nodes.into_iter().map(|node| (node.name, node)).collect(),
            millis: 0,
            said: Vec::new(),
        }
    }

    fn node(&mut self, name: &str) -> &mut Node {
        self.nodes.get_mut(name).unwrap()
    }

    /// So many seconds, in each of which everybody that is linked says what it has to say.
    fn pass(&mut self, seconds: u32, links: &[(&'static str, &'static str)]) {
        for _ in 0..seconds {
            self.millis += 1_000;
            let now = at(self.millis);
            for (a, b) in links.iter().flat_map(|(a, b)| [(*a, *b), (*b, *a)]) {
                let speaker = self.node(a);
                let tips = speaker.tips.clone();
                let Some(said) = speaker.circle.say(&id(b), &tips, now) else {
                    continue;
                };
                assert!(said.to_string().len() <= 8 * 1024, "{said}");
                self.said.push((a, said.clone()));
                let hearer = self.node(b);
                let tips = hearer.tips.clone();
                let effects = hearer.circle.hear(&id(a), &key(a), &said, &tips, now);
                hearer.run(effects);
            }
            for node in self.nodes.values_mut() {
                let tips = node.tips.clone();
                let effects = node.circle.tick(&tips, now);
                node.run(effects);
            }
        }
    }

    fn forked(&self, at: &str) -> Vec<String> {
        self.nodes[at].circle.forked().map(ToString::to_string).collect()
    }
}

const PAIR: &[(&str, &str)] = &[("alice", "bob")];

#[test]
fn honest_peers_cosign_each_other_and_nobody_is_accused() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let names = ["alice", "bob", "carol"];
    let nodes = names
        .iter()
        .zip(&dirs)
        .map(|(name, dir)| Node::start(name, dir.path()));
    let mut world = World::of(nodes.collect());
    let all = &[("alice", "bob"), ("alice", "carol"), ("bob", "carol")];
    for round in 0..20 {
        for name in names {
            world.node(name).grow(round * 7 % 11);
        }
        world.pass(2, all);
    }
    world.pass(10, all);
    for (name, dir) in names.iter().zip(&dirs) {
        assert_eq!(world.forked(name), Vec::<String>::new());
        let keys = LogKeys::new(id(name), key(name));
        let note = cosigned(dir.path()).unwrap();
        let found = Cosigned::open(&note, &keys, known).unwrap();
        assert_eq!((found.cosigners.len(), found.others), (2, 0), "{name}: {note}");
        let size = world.nodes[name].tips.last().unwrap().checkpoint.size();
        assert_eq!(found.checkpoint.size(), size);
        verify_against(dir.path(), &keys, [note.as_str()]).unwrap();
        assert_eq!(held_notes(dir.path()).len(), 2);
        // Nobody whose key is not known counts.
        assert_eq!(Cosigned::open(&note, &keys, |_| None).unwrap().cosigners.len(), 0);
    }
}

/// Where nothing changes nothing is said, but once in a while; what is new of an agent's log is shown by all to all.
#[test]
fn what_others_were_shown_is_gossip_while_it_is_new() {
    let dirs = [(); 3].map(|()| tempfile::tempdir().unwrap());
    let names = ["alice", "bob", "carol"];
    let nodes = names.iter().zip(&dirs);
    let mut world = World::of(nodes.map(|(name, dir)| Node::start(name, dir.path())).collect());
    let all = &[("alice", "bob"), ("alice", "carol"), ("bob", "carol")];
    let gossip = |world: &World| {
        let seen = world.said.iter().filter(|(_, said)| said["seen"].is_object());
        let mut seen: Vec<_> = seen
            .map(|(by, said)| format!("{by} of {}", said["seen"]["agent"].as_str().unwrap()))
            .collect();
        seen.sort();
        seen
    };
    for name in names {
        world.node(name).grow(5);
    }
    world.pass(30, all);
    world.said.clear();
    world.pass(120, all);
    assert_eq!(world.said, []);

    world.node("alice").grow(1);
    world.pass(15, all);
    let mut shown = gossip(&world);
    // Twice at most: in the round in which it changed, and in the next.
    assert!(shown.len() <= 4, "{shown:?}");
    shown.dedup();
    assert_eq!(shown, ["bob of alice", "carol of alice"]);

    // Somebody may have missed it.
    world.said.clear();
    world.pass(600, all);
    let others = |by| {
        names
            .iter()
            .filter(move |of| **of != by)
            .map(move |of| format!("{by} of {of}"))
    };
    assert_eq!(
        gossip(&world),
        names.into_iter().flat_map(others).collect::<Vec<_>>()
    );
}

#[test]
fn a_log_that_goes_on_after_a_restart_is_proved_from_disk() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut world = World::of(vec![Node::start("alice", a.path()), Node::start("bob", b.path())]);
    world.node("alice").grow(50);
    world.pass(4, PAIR);
    // Both begin a new life; what bob held is held still.
    for (name, dir) in [("alice", &a), ("bob", &b)] {
        world.node(name).log = None;
        let node = Node::start(name, dir.path());
        world.nodes.insert(name, node);
    }
    world.node("alice").grow(1_000);
    world.pass(20, PAIR);
    assert_eq!(world.forked("bob"), Vec::<String>::new());
    let size = world.nodes["alice"].tips.last().unwrap().checkpoint.size();
    assert_eq!(world.nodes["alice"].circle.cosigners(size), 1);
}

/// What an owner may do to its log between two lives, and the reason for which it is caught.
fn tampered(tamper: impl FnOnce(&Path), reason: &str) {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut world = World::of(vec![Node::start("alice", a.path()), Node::start("bob", b.path())]);
    world.node("alice").grow(30);
    world.pass(6, PAIR);
    world.node("alice").log = None;
    assert_eq!(world.forked("bob"), Vec::<String>::new());
    let held = world.nodes["alice"]
        .tips
        .last()
        .unwrap()
        .checkpoint
        .note()
        .to_owned();
    tamper(a.path());
    world.nodes.insert("alice", Node::start("alice", a.path()));
    world.pass(60, PAIR);
    assert_eq!(world.forked("bob"), ["alice"], "{reason}");
    assert_eq!(
        world.nodes["bob"].records,
        [(Event::LogForked, reason.to_owned())]
    );
    let kept = evidence(b.path());
    let [(kept, _)] = kept.as_slice() else {
        panic!("{kept:?}")
    };
    assert_eq!(kept.reason, reason);
    assert_eq!(kept.held, held);
    let keys = LogKeys::new(id("alice"), key("alice"));
    let proved = if reason == "two-roots" {
        Verdict::Proved
    } else {
        Verdict::Claimed
    };
    assert_eq!(kept.judge(&keys), proved);
    assert_eq!(kept.judge(&LogKeys::new(id("alice"), key("bob"))), Verdict::Void);
    let mut innocent = kept.clone();
    innocent.shown = kept.held.clone();
    assert_eq!(innocent.judge(&keys), Verdict::Void);
    let shown = ifmesh_witness::Checkpoint::open(&kept.shown, &keys).unwrap();
    let held = ifmesh_witness::Checkpoint::open(&held, &keys).unwrap();
    assert_ne!(shown.root(), held.root());
    // It is remembered, and nothing of it is signed any more.
    let before = world.said.len();
    world
        .nodes
        .insert("bob", Node::start("bob", tempfile::tempdir().unwrap().path()));
    let again = Circle::open(b.path(), id("bob"), identity("bob"), known).unwrap();
    assert_eq!(again.forked().count(), 1);
    assert!(before > 0);
}

/// Another log of the same owner, of so many lines.
fn rewritten(dir: &Path, lines: u64) {
    fs::remove_dir_all(dir).unwrap();
    let (mut log, _) = Log::open(Settings::new(dir, id("alice")), identity("alice"), at(0)).unwrap();
    for number in 0..lines {
        log.append(at(1), &sent(1_000 + number)).unwrap();
    }
    log.checkpoint().unwrap();
}

#[test]
fn a_log_that_was_cut_is_caught() {
    tampered(
        |dir| {
            let text = fs::read_to_string(dir.join("00000000.jsonl")).unwrap();
            let kept: String = text.lines().take(1).map(|line| format!("{line}\n")).collect();
            fs::write(dir.join("00000000.jsonl"), kept).unwrap();
            let notes = fs::read_to_string(dir.join("00000000.checkpoints")).unwrap();
            let first: String = notes.lines().take(5).map(|line| format!("{line}\n")).collect();
            fs::write(dir.join("00000000.checkpoints"), first).unwrap();
        },
        "shorter",
    );
}

#[test]
fn a_log_that_was_rewritten_to_the_same_length_is_caught() {
    // 31 lines were signed; opening adds one line.
    tampered(|dir| rewritten(dir, 29), "two-roots");
}

#[test]
fn a_log_that_was_rewritten_and_is_longer_is_caught() {
    tampered(|dir| rewritten(dir, 60), "false-proof");
}

/// Two logs of one owner, each shown to another peer, show when the two peers talk.
#[test]
fn a_forked_log_shown_to_two_peers_is_caught() {
    let dirs = [(); 4].map(|()| tempfile::tempdir().unwrap());
    let mut world = World::of(vec![
        Node::start("alice", dirs[0].path()),
        Node::start("bob", dirs[1].path()),
        Node::start("carol", dirs[2].path()),
    ]);
    world.node("alice").grow(30);
    world.pass(4, &[("alice", "bob")]);
    // To carol alice shows another history, from a second folder.
    let mut other = Node::start("alice", dirs[3].path());
    other.log.as_mut().unwrap().append(at(1), &sent(7_777)).unwrap();
    other.grow(44);
    let one = world.nodes.insert("alice", other).unwrap();
    world.pass(4, &[("alice", "carol")]);
    assert!(world.forked("bob").is_empty() && world.forked("carol").is_empty());
    world.pass(12, &[("bob", "carol")]);
    // Each now asks alice, who can show to neither how the one grew into the other.
    let two = world.nodes.insert("alice", one).unwrap();
    world.pass(20, &[("alice", "bob")]);
    assert_eq!(world.forked("bob"), ["alice"]);
    world.nodes.insert("alice", two);
    world.pass(20, &[("alice", "carol")]);
    assert_eq!(world.forked("carol"), ["alice"]);
    for dir in &dirs[1..3] {
        assert_eq!(evidence(dir.path()).len(), 1);
    }
}

#[test]
fn nothing_is_signed_that_is_not_on_disk() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut world = World::of(vec![Node::start("alice", a.path()), Node::start("bob", b.path())]);
    world.node("bob").disk_works = false;
    world.node("alice").grow(5);
    world.pass(10, PAIR);
    assert!(
        world
            .said
            .iter()
            .all(|(who, said)| *who != "bob" || said.get("holds").is_none())
    );
    world.node("bob").disk_works = true;
    world.pass(10, PAIR);
    assert!(
        world
            .said
            .iter()
            .any(|(who, said)| *who == "bob" && said.get("holds").is_some())
    );
}

#[test]
fn nonsense_is_ignored() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut world = World::of(vec![Node::start("alice", a.path()), Node::start("bob", b.path())]);
    world.pass(4, PAIR);
    let good = world.said.clone();
    for (_, said) in good {
        for (from, to) in [("1", "2"), ("a", "b"), ("\"", "\"\"")] {
            if let Ok(said) = serde_json::from_str::<Value>(&said.to_string().replace(from, to)) {
                let node = world.nodes.get_mut("bob").unwrap();
                let tips = node.tips.clone();
                let effects = node
                    .circle
                    .hear(&id("alice"), &key("alice"), &said, &tips, at(99_000));
                node.run(effects);
            }
        }
    }
    assert_eq!(world.forked("bob"), Vec::<String>::new());
}
