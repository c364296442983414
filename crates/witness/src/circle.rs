//! Peers as witnesses of each other's logs: they show each other checkpoints, demand proof that each log has only grown, and sign what
//! they hold.
//!
//! Pure but for the reading of its folder at the start: what a peer said goes in, what to say comes out, and what must reach the disk
//! is an [`Effect`] that the caller carries out in order.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use ifmsg::{AgentId, Identity, PublicKey, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

use crate::{
    checkpoint::{Checkpoint, LogKeys, cosigner_of, origin, verify_cosignature},
    log::Tip,
    record::{Entry, Event, MAX_LINE},
    tree::{Frontier, Growth, Hash, verify_consistency},
    walk::{VerifyError, io_error, segment_path},
};

/// Peers whose checkpoints are held; those that come later are not watched.
const MAX_PEERS: usize = 1_024;

/// Checkpoints of one peer that are remembered, to compare with what others were shown.
const HISTORY: usize = 64;

/// How often a peer must have failed to answer, a second apart at least, before its log counts as another one.
const PATIENCE: u32 = 10;

/// No peer is told the same again sooner.
const REPEAT_MILLIS: i64 = 5_000;

/// A third agent's checkpoint is shown to a peer so often at most,
const GOSSIP_MILLIS: i64 = 5_000;

/// and one that is still the same, so often.
const GOSSIP_AGAIN_MILLIS: i64 = 600_000;

/// No peer makes this agent read its log from disk more often.
const PROVE_MILLIS: i64 = 5_000;

/// Longest proof, in hashes.
const MAX_PATH: usize = 130;

/// Longest note that is kept of a peer.
const MAX_NOTE: usize = 1_024;

/// Checkpoints of our own whose cosignatures are gathered.
const GATHERED: usize = 8;

/// Most cosignatures of one checkpoint.
const MAX_COSIGNATURES: usize = 64;

/// What one peer tells another about logs. Every member is optional, unknown ones are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Said {
    /// A checkpoint of the speaker's own log, and the proof that it follows from the one over `from` lines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tip: Option<SaidTip>,
    /// What the speaker holds of the hearer's log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holds: Option<Holds>,
    /// A checkpoint of a third agent's log that the speaker holds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    seen: Option<Seen>,
    /// A demand for proof that the hearer's log at `to` begins with the one at `from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ask: Option<Span>,
    /// The answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grew: Option<Grew>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct SaidTip {
    note: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    from: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    proof: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Holds {
    size: u64,
    root: String,
    cosignature: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    agent: AgentId,
    note: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Span {
    from: u64,
    to: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Grew {
    from: u64,
    to: u64,
    proof: Vec<String>,
}

/// Something for the caller to do, in order, before it goes on with the next thing that is heard.
#[derive(Debug)]
#[non_exhaustive]
pub enum Effect {
    /// Put this on disk, and then call [`Circle::kept`]. The file is replaced as a whole.
    Keep {
        /// Whose log it is about.
        agent: AgentId,
        /// The file.
        path: PathBuf,
        /// Its content.
        content: String,
    },
    /// Prove from disk how the log grew ([`prove_growth`]), and then call [`Circle::proved`].
    Prove {
        /// Who asks.
        peer: AgentId,
        /// From how many lines.
        from: u64,
        /// To how many.
        to: u64,
    },
}

/// Two checkpoints of one log that do not go together: what is kept of a log owner that was caught.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Evidence {
    /// Whose log.
    pub agent: AgentId,
    /// What is wrong: `two-roots` (proof in itself), `false-proof` (the owner's proof does not verify), `shorter` (it shows fewer lines
    /// than it signed before), `unproven` (it never showed that the one grew into the other).
    pub reason: String,
    /// The checkpoint that is held.
    pub held: String,
    /// The one that was shown.
    pub shown: String,
    /// The proof that was given, if any.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub proof: Vec<String>,
}

/// What [`Evidence`] is worth to somebody who was not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// Both checkpoints are signed by the owner and cannot both be of one log: proof in itself.
    Proved,
    /// Both are signed by the owner. That it never showed how the one grew into the other is the word of whoever kept them.
    Claimed,
    /// Not what it says: a checkpoint is not signed with the owner's key, or the two go together.
    Void,
}

impl Evidence {
    /// Judges it with the owner's keys alone.
    pub fn judge(&self, keys: &LogKeys) -> Verdict {
        let open = |note: &str| Checkpoint::open(note, keys).ok();
        let (Some(held), Some(shown)) = (open(&self.held), open(&self.shown)) else {
            return Verdict::Void;
        };
        if held.size() == shown.size() {
            let differ = held.root() != shown.root();
            return if differ { Verdict::Proved } else { Verdict::Void };
        }
        let follows = || {
            from_hex(&self.proof).is_some_and(|proof| {
                verify_consistency(held.size(), held.root(), shown.size(), shown.root(), &proof)
            })
        };
        if follows() {
            Verdict::Void
        } else {
            Verdict::Claimed
        }
    }

    /// Over how many lines the two checkpoints are: that which was held, and that which was shown.
    pub fn sizes(&self) -> (Option<u64>, Option<u64>) {
        (size_in(&self.held), size_in(&self.shown))
    }
}

/// The circle's folder could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CircleError {
    /// The file system failed.
    #[error("cannot read {path}: {kind}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// Why.
        kind: io::ErrorKind,
    },
}

#[derive(Debug, Default)]
struct Peer {
    key: Option<PublicKey>,
    /// Of its log: the last checkpoint that was proved to follow from the ones before. On disk.
    held: Option<Checkpoint>,
    /// The next one, on its way to disk.
    keeping: Option<Checkpoint>,
    history: VecDeque<Checkpoint>,
    /// Caught: nothing of it is signed any more.
    is_forked: bool,
    /// It showed checkpoints without the proof that follows from what is held.
    unproven: u32,
    shorter: u32,
    judged_at: Option<Timestamp>,
    owe_holds: bool,
    /// What it has to prove: two of its checkpoints, the smaller first.
    question: Option<(Checkpoint, Checkpoint)>,
    asked: u32,
    asked_at: Option<Timestamp>,
    /// What it says that it holds of ours.
    holds_ours: Option<(u64, Hash)>,
    told: Option<(u64, Timestamp)>,
    proof_for: Option<(Span, Vec<Hash>)>,
    answer: Option<Grew>,
    proved_at: Option<Timestamp>,
    gossiped_at: Option<Timestamp>,
    round: Round,
    /// Which of [`Circle::changes`] brought `held`.
    changed: u64,
}

/// A peer is shown what is held of third agents' logs in rounds, by name: whoever signs often is not shown later for it.
#[derive(Debug, Clone, Default)]
struct Round {
    /// Who was shown last.
    cursor: Option<AgentId>,
    /// The round is about what changed after this change: it has been shown before otherwise.
    since: u64,
    /// The last change before the round began.
    began: u64,
    /// When a round about everything began.
    whole_at: Option<Timestamp>,
}

/// What this agent knows of its peers' logs, and they of its own.
///
/// For each peer it keeps 64 checkpoints of at most 1 KiB, and no more, whatever the peer does.
#[derive(Debug)]
pub struct Circle {
    me: AgentId,
    identity: Identity,
    keys: LogKeys,
    folder: PathBuf,
    peers: BTreeMap<AgentId, Peer>,
    /// Our own checkpoints, by size, with cosignature lines.
    gathered: BTreeMap<u64, (Checkpoint, BTreeMap<AgentId, String>)>,
    /// How often what is held of a peer was replaced.
    changes: u64,
}

impl Circle {
    /// Takes up what is held in the log's folder.
    ///
    /// `known` gives the keys of the agents whose checkpoints are held.
    ///
    /// # Errors
    /// If the folder cannot be read.
    pub fn open(
        dir: &Path,
        me: AgentId,
        identity: Identity,
        known: impl Fn(&AgentId) -> Option<PublicKey>,
    ) -> Result<Self, CircleError> {
        let folder = dir.join("peers");
        let at = |path: &Path, error: &io::Error| CircleError::Io {
            path: path.to_owned(),
            kind: error.kind(),
        };
        fs::create_dir_all(&folder).map_err(|error| at(&folder, &error))?;
        let (mut peers, mut changes) = (BTreeMap::new(), 0);
        let mut entries: Vec<PathBuf> = fs::read_dir(&folder)
            .map_err(|error| at(&folder, &error))?
            .filter_map(|entry| entry.ok().map(|entry| entry.path()))
            .collect();
        entries.sort();
        for path in entries {
            let Ok(text) = fs::read_to_string(&path) else {
                continue;
            };
            if let Some((agent, held)) = read_held(&path, &text, &known) {
                let peer: &mut Peer = peers.entry(agent).or_default();
                peer.history.push_back(held.clone());
                changes += 1;
                (peer.held, peer.changed) = (Some(held), changes);
            } else if let Ok(evidence) = serde_json::from_str::<Evidence>(&text) {
                let peer: &mut Peer = peers.entry(evidence.agent).or_default();
                peer.is_forked = true;
            }
        }
        Ok(Self {
            keys: LogKeys::new(me.clone(), *identity.public_key()),
            me,
            identity,
            folder,
            peers,
            gathered: BTreeMap::new(),
            changes,
        })
    }

    /// What to tell a peer now, if anything.
    pub fn say(&mut self, peer: &AgentId, tips: &[Arc<Tip>], now: Timestamp) -> Option<Value> {
        self.gather(tips);
        let said = Said {
            tip: self.tip_for(peer, tips, now),
            holds: self.holds_of(peer, now),
            seen: self.gossip(peer, now),
            ask: self.question_for(peer, now),
            grew: self.peers.get_mut(peer)?.answer.take(),
        };
        (said != Said::default())
            .then(|| serde_json::to_value(said).ok())
            .flatten()
    }

    /// Takes in what a peer said, over its own signature with this key.
    pub fn hear(
        &mut self,
        peer: &AgentId,
        key: &PublicKey,
        said: &Value,
        tips: &[Arc<Tip>],
        now: Timestamp,
    ) -> Vec<Effect> {
        if !self.peers.contains_key(peer) && self.peers.len() >= MAX_PEERS {
            return Vec::new();
        }
        let state = self.peers.entry(peer.clone()).or_default();
        state.key = Some(*key);
        let Ok(said) = serde_json::from_value::<Said>(said.clone()) else {
            return Vec::new();
        };
        self.gather(tips);
        let mut effects = Vec::new();
        if let Some(holds) = said.holds {
            effects.extend(self.on_holds(peer, key, &holds));
        }
        if let Some(tip) = said.tip {
            effects.extend(self.on_tip(peer, key, tip, now));
        }
        if let Some(seen) = said.seen {
            effects.extend(self.on_seen(peer, &seen));
        }
        if let Some(grew) = said.grew {
            effects.extend(self.on_grew(peer, &grew));
        }
        if let Some(ask) = said.ask {
            effects.extend(self.on_ask(peer, ask, now));
        }
        effects.extend(self.prove_for(peer, tips, now));
        effects
    }

    /// What [`Effect::Keep`] wanted kept about an agent is on disk: only now is it signed.
    pub fn kept(&mut self, agent: &AgentId) {
        if let Some(peer) = self.peers.get_mut(agent)
            && let Some(next) = peer.keeping.take()
        {
            peer.history.push_back(next.clone());
            if peer.history.len() > HISTORY {
                peer.history.pop_front();
            }
            self.changes += 1;
            (peer.held, peer.changed) = (Some(next), self.changes);
            (peer.owe_holds, peer.unproven, peer.shorter) = (true, 0, 0);
        }
    }

    /// What [`Effect::Keep`] wanted kept could not be: it is not signed, and may come again.
    pub fn not_kept(&mut self, agent: &AgentId) {
        if let Some(peer) = self.peers.get_mut(agent) {
            peer.keeping = None;
        }
    }

    /// The proof that [`Effect::Prove`] wanted. `None` if the log does not go so far, or could not be read.
    pub fn proved(&mut self, peer: &AgentId, from: u64, to: u64, proof: Option<Vec<Hash>>) {
        let (Some(peer), Some(proof)) = (self.peers.get_mut(peer), proof) else {
            return;
        };
        peer.answer = Some(Grew {
            from,
            to,
            proof: proof.iter().map(Hash::to_string).collect(),
        });
        peer.proof_for = Some((Span { from, to }, proof));
    }

    /// The agents whose logs were caught.
    pub fn forked(&self) -> impl Iterator<Item = &AgentId> {
        self.peers
            .iter()
            .filter(|(_, peer)| peer.is_forked)
            .map(|(agent, _)| agent)
    }

    /// How many peers have cosigned our checkpoint over so many lines, of those that are still gathered.
    pub fn cosigners(&self, size: u64) -> usize {
        self.gathered.get(&size).map_or(0, |(_, lines)| lines.len())
    }

    // ------------------------------------------------------------------------------------------------- our own log

    fn gather(&mut self, tips: &[Arc<Tip>]) {
        for tip in tips.iter().rev().take(GATHERED) {
            self.gathered
                .entry(tip.checkpoint.size())
                .or_insert_with(|| (tip.checkpoint.clone(), BTreeMap::new()));
        }
        while self.gathered.len() > GATHERED {
            self.gathered.pop_first();
        }
    }

    /// The next checkpoint that this peer has not seen, with the proof from the one that it holds.
    fn tip_for(&mut self, peer: &AgentId, tips: &[Arc<Tip>], now: Timestamp) -> Option<SaidTip> {
        let last = tips.last()?;
        if !self.peers.contains_key(peer) && self.peers.len() >= MAX_PEERS {
            return None;
        }
        let state = self.peers.entry(peer.clone()).or_default();
        let held = state.holds_ours.map(|(size, _)| size);
        if held == Some(last.checkpoint.size()) {
            return None;
        }
        let (tip, proof) = match held {
            None => (last, None),
            // Fewer lines than a peer holds a checkpoint of: it will ask how that can be.
            Some(size) if size > last.checkpoint.size() => (last, None),
            Some(size) => {
                let next = tips.iter().find(|tip| tip.grew_from == Some(size));
                let proved = state.proof_for.as_ref().filter(|(span, _)| span.from == size);
                match (next, proved) {
                    (Some(next), _) => (next, Some((size, next.proof.clone()))),
                    (None, Some((span, proof))) => {
                        let tip = tips.iter().find(|tip| tip.checkpoint.size() == span.to)?;
                        (tip, Some((size, proof.clone())))
                    }
                    // `prove_for` sees to it.
                    (None, None) => return None,
                }
            }
        };
        let size = tip.checkpoint.size();
        let told_lately =
            |(told, at): (u64, Timestamp)| told == size && (0..REPEAT_MILLIS).contains(&now.millis_since(at));
        if state.told.is_some_and(told_lately) {
            return None;
        }
        state.told = Some((size, now));
        let (from, proof) = proof.unzip();
        Some(SaidTip {
            note: tip.checkpoint.note().to_owned(),
            from,
            proof: proof.unwrap_or_default().iter().map(Hash::to_string).collect(),
        })
    }

    /// If a peer holds a checkpoint from which no kept tip follows, the proof comes from disk.
    fn prove_for(&mut self, peer: &AgentId, tips: &[Arc<Tip>], now: Timestamp) -> Option<Effect> {
        let state = self.peers.get_mut(peer)?;
        let (from, _) = state.holds_ours?;
        let to = tips.last()?.checkpoint.size();
        let known = tips.iter().any(|tip| tip.grew_from == Some(from))
            || state.proof_for.as_ref().is_some_and(|(span, _)| {
                span.from == from && tips.iter().any(|tip| tip.checkpoint.size() == span.to)
            });
        if known || from >= to || !may_prove(state, now) {
            return None;
        }
        let peer = peer.clone();
        Some(Effect::Prove { peer, from, to })
    }

    fn on_holds(&mut self, peer: &AgentId, key: &PublicKey, holds: &Holds) -> Option<Effect> {
        let root = Hash::from_hex(&holds.root)?;
        let origin = self.keys.origin().to_owned();
        verify_cosignature(&holds.cosignature, &origin, holds.size, &root, peer, key).ok()?;
        let state = self.peers.get_mut(peer)?;
        if state.holds_ours != Some((holds.size, root)) {
            (state.holds_ours, state.told) = (Some((holds.size, root)), None);
        }
        let (checkpoint, lines) = self.gathered.get_mut(&holds.size)?;
        if *checkpoint.root() != root || lines.len() >= MAX_COSIGNATURES {
            return None;
        }
        let line = holds.cosignature.trim_end().to_owned() + "\n";
        if lines.insert(peer.clone(), line).is_some() {
            return None;
        }
        // The file has one checkpoint: that which most have signed, and of two such the newer.
        let (size, (checkpoint, lines)) = self
            .gathered
            .iter()
            .max_by_key(|(size, (_, lines))| (lines.len(), **size))?;
        if *size != holds.size {
            return None;
        }
        let lines: String = lines.values().map(String::as_str).collect();
        Some(Effect::Keep {
            agent: self.me.clone(),
            path: self.folder.join("cosigned"),
            content: format!("{}{lines}", checkpoint.note()),
        })
    }

    fn on_ask(&mut self, peer: &AgentId, ask: Span, now: Timestamp) -> Option<Effect> {
        let state = self.peers.get_mut(peer)?;
        if ask.from >= ask.to || state.answer.is_some() || !may_prove(state, now) {
            return None;
        }
        let (peer, Span { from, to }) = (peer.clone(), ask);
        Some(Effect::Prove { peer, from, to })
    }

    // ------------------------------------------------------------------------------------------------ others' logs

    fn on_tip(&mut self, peer: &AgentId, key: &PublicKey, tip: SaidTip, now: Timestamp) -> Option<Effect> {
        let keys = LogKeys::new(peer.clone(), *key);
        if tip.note.len() > MAX_NOTE {
            return None;
        }
        let shown = Checkpoint::open(&tip.note, &keys).ok()?;
        let state = self.peers.get_mut(peer)?;
        if state.is_forked || state.keeping.is_some() {
            return None;
        }
        let Some(held) = state.held.clone() else {
            return self.keep(peer, shown);
        };
        if shown.size() == held.size() {
            if shown.root() != held.root() {
                return self.caught(peer, "two-roots", &held, &shown, Vec::new());
            }
            state.owe_holds = true;
            return None;
        }
        let judged_lately = |at: Timestamp| (0..900).contains(&now.millis_since(at));
        if shown.size() > held.size() && tip.from == Some(held.size()) {
            let proof = from_hex(&tip.proof);
            let follows = proof.is_some_and(|proof| {
                verify_consistency(held.size(), held.root(), shown.size(), shown.root(), &proof)
            });
            if follows {
                return self.keep(peer, shown);
            }
            return self.caught(peer, "false-proof", &held, &shown, tip.proof);
        }
        // It may not know what we hold; and what it says may have overtaken something else that it said.
        state.owe_holds = true;
        if state.judged_at.is_some_and(judged_lately) {
            return None;
        }
        state.judged_at = Some(now);
        let is_shorter = shown.size() < held.size();
        let count = if is_shorter {
            &mut state.shorter
        } else {
            &mut state.unproven
        };
        *count += 1;
        if *count >= PATIENCE.min(if is_shorter { 3 } else { PATIENCE }) {
            let reason = if is_shorter { "shorter" } else { "unproven" };
            return self.caught(peer, reason, &held, &shown, Vec::new());
        }
        None
    }

    /// What somebody else was shown of an agent's log has to go together with what this agent was shown.
    fn on_seen(&mut self, by: &AgentId, seen: &Seen) -> Option<Effect> {
        if seen.agent == self.me || seen.agent == *by || seen.note.len() > MAX_NOTE {
            return None;
        }
        let state = self.peers.get_mut(&seen.agent)?;
        let keys = LogKeys::new(seen.agent.clone(), state.key?);
        let (held, shown) = (state.held.clone()?, Checkpoint::open(&seen.note, &keys).ok()?);
        if state.is_forked {
            return None;
        }
        if let Some(ours) = state.history.iter().find(|ours| ours.size() == shown.size()) {
            if ours.root() == shown.root() {
                return None;
            }
            let ours = ours.clone();
            return self.caught(&seen.agent, "two-roots", &ours, &shown, Vec::new());
        }
        if state.question.is_none() {
            let pair = if shown.size() < held.size() {
                (shown, held)
            } else {
                (held, shown)
            };
            (state.question, state.asked, state.asked_at) = (Some(pair), 0, None);
        }
        None
    }

    fn on_grew(&mut self, peer: &AgentId, grew: &Grew) -> Option<Effect> {
        let state = self.peers.get_mut(peer)?;
        let (old, new) = state.question.clone()?;
        if (old.size(), new.size()) != (grew.from, grew.to) {
            return None;
        }
        state.question = None;
        let proof = from_hex(&grew.proof);
        let follows = proof
            .is_some_and(|proof| verify_consistency(old.size(), old.root(), new.size(), new.root(), &proof));
        if follows {
            return None;
        }
        self.caught(peer, "false-proof", &old, &new, grew.proof.clone())
    }

    fn keep(&mut self, peer: &AgentId, next: Checkpoint) -> Option<Effect> {
        let content = next.note().to_owned();
        self.peers.get_mut(peer)?.keeping = Some(next);
        Some(Effect::Keep {
            agent: peer.clone(),
            path: self.folder.join(format!("{}.note", file_name(peer))),
            content,
        })
    }

    fn caught(
        &mut self,
        peer: &AgentId,
        reason: &str,
        held: &Checkpoint,
        shown: &Checkpoint,
        proof: Vec<String>,
    ) -> Option<Effect> {
        let state = self.peers.get_mut(peer)?;
        (state.is_forked, state.question) = (true, None);
        let evidence = Evidence {
            agent: peer.clone(),
            reason: reason.to_owned(),
            held: held.note().to_owned(),
            shown: shown.note().to_owned(),
            proof: proof.into_iter().take(MAX_PATH).collect(),
        };
        tracing::error!(%peer, reason, held = held.size(), shown = shown.size(), "a peer's witness log is not the one it signed");
        // The record is made with the file: both or, after a crash in between, the file again at the next sight.
        Some(Effect::Keep {
            agent: peer.clone(),
            path: self.folder.join(format!("{}.forked", file_name(peer))),
            content: serde_json::to_string(&evidence).unwrap_or_default() + "\n",
        })
    }

    fn holds_of(&mut self, peer: &AgentId, now: Timestamp) -> Option<Holds> {
        let state = self.peers.get_mut(peer)?;
        if state.is_forked || !std::mem::take(&mut state.owe_holds) {
            return None;
        }
        let held = state.held.as_ref()?;
        let seconds = u64::try_from(now.unix_millis() / 1_000).ok()?;
        Some(Holds {
            size: held.size(),
            root: held.root().to_string(),
            cosignature: held.cosign(&origin(peer), &self.me, &self.identity, seconds)?,
        })
    }

    fn question_for(&mut self, peer: &AgentId, now: Timestamp) -> Option<Span> {
        let state = self.peers.get_mut(peer)?;
        let (old, new) = state.question.as_ref()?;
        let span = Span {
            from: old.size(),
            to: new.size(),
        };
        if state
            .asked_at
            .is_some_and(|at| (0..900).contains(&now.millis_since(at)))
        {
            return None;
        }
        (state.asked, state.asked_at) = (state.asked + 1, Some(now));
        Some(span)
    }

    /// What time alone brings: proofs that peers wait for, and questions that were never answered. To be called once a second or so.
    pub fn tick(&mut self, tips: &[Arc<Tip>], now: Timestamp) -> Vec<Effect> {
        let agents: Vec<AgentId> = self.peers.keys().cloned().collect();
        let mut effects: Vec<Effect> = agents
            .iter()
            .filter_map(|agent| self.prove_for(agent, tips, now))
            .collect();
        for agent in agents {
            if let Some(state) = self.peers.get(&agent)
                && let Some((old, new)) = state.question.clone()
                && state.asked > PATIENCE
            {
                effects.extend(self.caught(&agent, "unproven", &old, &new, Vec::new()));
            }
        }
        effects
    }

    /// A third agent's checkpoint, each in its turn, that this peer may not have been shown yet.
    fn gossip(&mut self, peer: &AgentId, now: Timestamp) -> Option<Seen> {
        let state = self.peers.get(peer)?;
        let is_within = |at: Option<Timestamp>, millis| {
            at.is_some_and(|at: Timestamp| (0..millis).contains(&now.millis_since(at)))
        };
        if is_within(state.gossiped_at, GOSSIP_MILLIS) {
            return None;
        }
        let next = |round: &Round| {
            let is_due = |agent: &AgentId, other: &Peer| {
                agent != peer
                    && other.changed > round.since
                    && round.cursor.as_ref().is_none_or(|cursor| agent > cursor)
            };
            self.peers
                .iter()
                .filter(|(agent, other)| is_due(agent, other))
                .find_map(|(agent, other)| Some((agent.clone(), other.held.as_ref()?.note().to_owned())))
        };
        let mut round = state.round.clone();
        let mut found = next(&round).filter(|_| round.whole_at.is_some());
        if found.is_none() {
            let is_whole = !is_within(round.whole_at, GOSSIP_AGAIN_MILLIS);
            round = Round {
                cursor: None,
                since: if is_whole { 0 } else { round.began },
                began: self.changes,
                whole_at: if is_whole { Some(now) } else { round.whole_at },
            };
            found = next(&round);
        }
        if let Some((agent, _)) = &found {
            round.cursor = Some(agent.clone());
        }
        let state = self.peers.get_mut(peer)?;
        (state.gossiped_at, state.round) = (Some(now), round);
        found.map(|(agent, note)| Seen { agent, note })
    }
}

impl Effect {
    /// The record that goes with what is kept: evidence is put on record as well.
    pub fn entry(&self) -> Option<Entry> {
        let Self::Keep { agent, path, content } = self else {
            return None;
        };
        path.extension().filter(|extension| *extension == "forked")?;
        let evidence: Evidence = serde_json::from_str(content).ok()?;
        let root = |note: &str| note.lines().nth(2).unwrap_or_default().to_owned();
        let mut entry = Entry::new(Event::LogForked)
            .peer(agent.clone())
            .with("reason", evidence.reason.as_str())
            .with("held_root", root(&evidence.held))
            .with("shown_root", root(&evidence.shown));
        let (held, shown) = evidence.sizes();
        for (name, size) in [("held_size", held), ("shown_size", shown)] {
            if let Some(size) = size {
                entry = entry.with(name, size);
            }
        }
        Some(entry)
    }
}

/// Proves from disk that the log in `dir` at `to` lines begins with the one at `from`. Verifies nothing: whoever gets the proof does.
/// `None` if there are fewer lines. Memory: one line.
///
/// # Errors
/// If the disk cannot be read.
pub fn prove_growth(dir: &Path, from: u64, to: u64) -> Result<Option<Vec<Hash>>, VerifyError> {
    use io::{BufRead as _, Read as _};
    let mut frontier = Frontier::default();
    let mut growth = (from == 0).then(|| Growth::since(frontier.clone()));
    for segment in 0.. {
        let path = segment_path(dir, segment);
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => break,
            Err(error) => return Err(io_error(&path, &error)),
        };
        let mut file = io::BufReader::with_capacity(64 << 10, file);
        let mut line = Vec::new();
        loop {
            if frontier.size() == to {
                return Ok(growth.map(|growth| growth.proof(&frontier)));
            }
            line.clear();
            file.by_ref()
                .take(MAX_LINE as u64 + 1)
                .read_until(b'\n', &mut line)
                .map_err(|error| io_error(&path, &error))?;
            if line.pop_if(|byte| *byte == b'\n').is_none() {
                break;
            }
            let leaf = Hash::of_leaf(&line);
            match &mut growth {
                Some(growth) => growth.push(&mut frontier, leaf),
                None => frontier.push(leaf),
            }
            if frontier.size() == from {
                growth = Some(Growth::since(frontier.clone()));
            }
        }
    }
    let whole = frontier.size() == to;
    Ok(growth.filter(|_| whole).map(|growth| growth.proof(&frontier)))
}

/// A checkpoint of a log with the peers that signed it.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Cosigned {
    /// The checkpoint; its note has the cosignatures.
    pub checkpoint: Checkpoint,
    /// Who signed it, whose key is known and whose signature verifies; and when, in seconds since the Unix epoch.
    pub cosigners: Vec<(AgentId, u64)>,
    /// Cosignatures that do not verify, or whose signer's key is not known.
    pub others: usize,
}

impl Cosigned {
    /// Reads a note with cosignatures.
    ///
    /// # Errors
    /// Of the checkpoint itself; a bad cosignature is counted.
    pub fn open(
        note: &str,
        keys: &LogKeys,
        known: impl Fn(&AgentId) -> Option<PublicKey>,
    ) -> Result<Self, crate::CheckpointError> {
        let checkpoint = Checkpoint::open(note, keys)?;
        let (mut cosigners, mut others) = (Vec::new(), 0);
        let lines = note.rfind("\n\n").map_or("", |at| &note[at + 2..]);
        // The first line is the log's own.
        for line in lines.lines().skip(1) {
            let verified = cosigner_of(line).and_then(|agent| {
                let key = known(&agent)?;
                let (size, root) = (checkpoint.size(), checkpoint.root());
                let time = verify_cosignature(line, keys.origin(), size, root, &agent, &key).ok()?;
                Some((agent, time))
            });
            match verified {
                Some(cosigner) if !cosigners.contains(&cosigner) => cosigners.push(cosigner),
                _ => others += 1,
            }
        }
        Ok(Self {
            checkpoint,
            cosigners,
            others,
        })
    }
}

/// The checkpoint of the log in `dir` that peers have signed, as it lies there; `None` if there is none.
pub fn cosigned(dir: &Path) -> Option<String> {
    fs::read_to_string(dir.join("peers/cosigned")).ok()
}

/// The checkpoints of other agents' logs that are held in the folder of this log: whose, and the file.
pub fn held_notes(dir: &Path) -> Vec<(AgentId, PathBuf)> {
    let Ok(entries) = fs::read_dir(dir.join("peers")) else {
        return Vec::new();
    };
    let mut held: Vec<_> = entries
        .filter_map(|entry| {
            let path = entry.ok()?.path();
            path.extension().filter(|extension| *extension == "note")?;
            let text = fs::read_to_string(&path).ok()?;
            Some((crate::agent_of_origin(text.lines().next()?)?, path))
        })
        .collect();
    held.sort();
    held
}

/// The evidence in the folder of this log against other agents' logs: each with its file.
pub fn evidence(dir: &Path) -> Vec<(Evidence, PathBuf)> {
    let Ok(entries) = fs::read_dir(dir.join("peers")) else {
        return Vec::new();
    };
    let mut paths: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "forked"))
        .collect();
    paths.sort();
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).ok()?;
        Some((serde_json::from_str(&text).ok()?, path))
    };
    paths.into_iter().filter_map(read).collect()
}

fn size_in(note: &str) -> Option<u64> {
    note.lines().nth(1)?.parse().ok()
}

fn may_prove(state: &mut Peer, now: Timestamp) -> bool {
    let lately = |at: Timestamp| (0..PROVE_MILLIS).contains(&now.millis_since(at));
    if state.proved_at.is_some_and(lately) {
        return false;
    }
    state.proved_at = Some(now);
    true
}

fn read_held(
    path: &Path,
    text: &str,
    known: impl Fn(&AgentId) -> Option<PublicKey>,
) -> Option<(AgentId, Checkpoint)> {
    path.extension().filter(|extension| *extension == "note")?;
    let agent = crate::agent_of_origin(text.lines().next()?)?;
    let keys = LogKeys::new(agent.clone(), known(&agent)?);
    Some((agent, Checkpoint::open(text, &keys).ok()?))
}

/// A file name that no two agents share and every file system takes.
pub(crate) fn file_name(agent: &AgentId) -> String {
    let readable: String = agent
        .as_str()
        .chars()
        .take(64)
        .map(|char| {
            if char.is_ascii_alphanumeric() || "-.".contains(char) {
                char
            } else {
                '_'
            }
        })
        .collect();
    let hash: [u8; 32] = Sha256::digest(agent.as_str()).into();
    format!("{readable}-{}", &ifmsg::hex::encode(&hash)[..16])
}

fn from_hex(path: &[String]) -> Option<Vec<Hash>> {
    if path.len() > MAX_PATH {
        return None;
    }
    path.iter().map(|hash| Hash::from_hex(hash)).collect()
}
