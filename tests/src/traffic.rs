//! Reliable messages between real agents that may be killed, judged by what the applications at both ends have seen.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde_json::{Value, json};

use crate::program::Running;

/// The application of one agent, through all its lives.
#[derive(Debug)]
pub struct Application {
    name: &'static str,
    peer: &'static str,
    agent: Option<Running>,
    /// What was handed to the agent, by id, in order.
    sent: Vec<String>,
    lines: BTreeMap<String, Value>,
    acknowledged: BTreeSet<String>,
    /// The ids that each life of the agent handed over, in order.
    lives: Vec<Vec<String>>,
    /// Links that have come up.
    ups: usize,
}

impl Application {
    /// With an agent that runs, and one peer.
    pub fn new(name: &'static str, peer: &'static str, agent: Running) -> Self {
        Self {
            name,
            peer,
            agent: Some(agent),
            sent: Vec::new(),
            lines: BTreeMap::new(),
            acknowledged: BTreeSet::new(),
            lives: vec![Vec::new()],
            ups: 0,
        }
    }

    /// Sends the next message, with a text of this length, under an id of its own. Returns how many were sent before.
    pub fn send(&mut self, length: usize) -> usize {
        let number = self.sent.len();
        let id = format!("{}-{number}", self.name);
        let line = json!({"to": self.peer, "id": id, "payload": {"text": "x".repeat(length)}});
        if let Some(agent) = &mut self.agent {
            agent.say(&line);
        }
        self.sent.push(id.clone());
        self.lines.insert(id, line);
        number
    }

    /// Takes what the agent says, until it says nothing for this long.
    pub fn listen(&mut self, patience: Duration) {
        while let Some(event) = self.agent.as_mut().and_then(|agent| agent.next(patience)) {
            self.heard(&event);
        }
    }

    fn heard(&mut self, event: &Value) {
        let id = |value: &Value| value.as_str().unwrap().to_owned();
        match event["event"].as_str().unwrap() {
            "message" => self.lives.last_mut().unwrap().push(id(&event["message"]["id"])),
            "acknowledged" => {
                self.acknowledged.insert(id(&event["id"]));
            }
            "peer-up" => self.ups += 1,
            "line-refused" | "not-acknowledged" | "unconfirmed" | "missed" | "error" => {
                panic!("{}: {event}", self.name)
            }
            _ => {}
        }
    }

    /// How often the link has come up.
    pub fn ups(&self) -> usize {
        self.ups
    }

    /// Whether the message with this number is acknowledged.
    pub fn is_acknowledged(&self, number: usize) -> bool {
        self.acknowledged.contains(&self.sent[number])
    }

    /// Whether all are.
    pub fn is_done(&self) -> bool {
        self.acknowledged.len() == self.sent.len()
    }

    /// Whether some life of this one was handed each of the messages that `from` has sent.
    pub fn has_all_of(&self, from: &Self) -> bool {
        let seen: BTreeSet<_> = self.lives.iter().flatten().collect();
        from.sent.iter().all(|id| seen.contains(id))
    }

    /// How many were sent, and how many acknowledged.
    pub fn progress(&self) -> (usize, usize) {
        (self.sent.len(), self.acknowledged.len())
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut agent = self.agent.take().unwrap();
        agent.kill();
        for event in agent.last_words() {
            self.heard(&event);
        }
    }

    /// The next life: what the application was not told that it is acknowledged it sends again, under the same ids.
    pub fn restart(&mut self, mut agent: Running) {
        self.lives.push(Vec::new());
        for id in &self.sent {
            if !self.acknowledged.contains(id) {
                agent.say(&self.lines[id]);
            }
        }
        self.agent = Some(agent);
    }

    /// Everything that `from` sent was handed over here, in order within each life, and once: but for what a life that was
    /// killed had printed and not yet put on record, which is what its sender had no acknowledgement of. Returns how many such
    /// repetitions there were.
    ///
    /// `told` is what the sender knew to be acknowledged when each life but the last was killed.
    pub fn judge(&self, from: &Self, told: &[BTreeSet<String>]) -> usize {
        let mut seen = BTreeSet::new();
        let mut repeated = 0;
        for (life, ids) in self.lives.iter().enumerate() {
            let mut here = BTreeSet::new();
            for id in ids {
                assert!(here.insert(id), "{}: {id} came twice to one life", self.name);
                if !seen.insert(id) {
                    assert!(
                        !told[life - 1].contains(id),
                        "{}: {id} was acknowledged, and came again to the next life",
                        self.name
                    );
                    repeated += 1;
                }
            }
            if from.lives.len() == 1 {
                let numbers: Vec<usize> = ids.iter().map(|id| number(id)).collect();
                assert!(numbers.is_sorted(), "{}: out of order: {numbers:?}", self.name);
            }
        }
        let lost: Vec<_> = from.sent.iter().filter(|id| !seen.contains(id)).collect();
        assert!(lost.is_empty(), "{}: lost {lost:?}", self.name);
        assert_eq!(seen.len(), from.sent.len());
        repeated
    }

    /// What is known to be acknowledged now.
    pub fn acknowledged(&self) -> BTreeSet<String> {
        self.acknowledged.clone()
    }
}

fn number(id: &str) -> usize {
    id.rsplit_once('-').unwrap().1.parse().unwrap()
}
