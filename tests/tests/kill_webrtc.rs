//! `kill -9` of a peer, of the signaling server and of coturn, in every order, while two real agents behind symmetric NATs talk over the
//! relay. Each comes back a second later.
//!
//! Falsified by a reliable message that is lost; by one that an application gets twice, but for what its killed agent had printed and
//! nobody was told of; by a pair that does not find each other again.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

use std::{collections::BTreeSet, thread, time::Duration};

use ifmesh_testnet::{Host, NatKind};
use ifmesh_tests::{
    internet::{Internet, now},
    program::{PATIENCE, Running},
    traffic::Application,
};

#[derive(Debug, Clone, Copy)]
enum Victim {
    Peer,
    Signaling,
    Turn,
}

use Victim::{Peer, Signaling, Turn};

const ORDERS: [[Victim; 3]; 6] = [
    [Peer, Signaling, Turn],
    [Peer, Turn, Signaling],
    [Signaling, Peer, Turn],
    [Signaling, Turn, Peer],
    [Turn, Peer, Signaling],
    [Turn, Signaling, Peer],
];

#[test]
fn nothing_is_lost_or_doubled_whoever_dies_in_whatever_order() {
    // Most of the time goes by waiting for links to be given up.
    thread::scope(|scope| {
        for order in ORDERS {
            scope.spawn(move || play(order));
        }
    });
}

struct Story<'a> {
    internet: &'a Internet,
    host: &'a Host,
    signaling: Running,
    turn: Running,
    one: Application,
    other: Application,
    /// What `one` knew to be acknowledged before each further life of `other`.
    told: Vec<BTreeSet<String>>,
}

fn play(order: [Victim; 3]) {
    let internet = Internet::new(&["one", "other"]);
    let (signaling, turn) = (internet.signaling(), internet.turn());
    let homes = [1, 2].map(|number| internet.home(number, NatKind::Symmetric));
    let hosts = [homes[0].host("one", 2), homes[1].host("other", 3)];
    let mut story = Story {
        internet: &internet,
        host: &hosts[1],
        signaling,
        turn,
        one: Application::new("one", "other", internet.agent(&hosts[0], "one")),
        other: Application::new("other", "one", internet.agent(&hosts[1], "other")),
        told: Vec::new(),
    };
    let started = now();
    let mut times = vec![story.flow()];
    for victim in order {
        story.talk(Duration::from_millis(500));
        story.kill(victim);
        story.talk(Duration::from_secs(1));
        story.restart(victim);
        times.push(story.flow());
    }
    while !story.is_done() {
        story.listen();
        assert!(
            started.elapsed() < 3 * PATIENCE,
            "{order:?}: {}",
            story.progress()
        );
    }
    let Story { one, other, told, .. } = &story;
    let repeated = (one.judge(other, &[]), other.judge(one, told));
    assert_eq!(repeated.0, 0);
    println!(
        "{order:?}: {:?} messages; links after {:.1?}; {} printed and not recorded before the kill, and handed over again",
        (one.progress().0, other.progress().0),
        times,
        repeated.1
    );
}

impl Story<'_> {
    /// Both send and receive for this long.
    fn talk(&mut self, time: Duration) {
        let started = now();
        while started.elapsed() < time {
            self.step();
        }
    }

    /// Waits until messages that are sent from now on pass both ways, and says how long that took.
    fn flow(&mut self) -> Duration {
        let started = now();
        let (here, there) = (self.one.send(100), self.other.send(100));
        while !self.one.is_acknowledged(here) || !self.other.is_acknowledged(there) {
            self.step();
            assert!(started.elapsed() < PATIENCE, "no way back: {}", self.progress());
        }
        started.elapsed()
    }

    fn step(&mut self) {
        for application in [&mut self.one, &mut self.other] {
            let (sent, acknowledged) = application.progress();
            // Fewer than a window: the agent must not stop reading.
            if sent - acknowledged < 300 {
                application.send(100);
            }
        }
        self.listen();
    }

    fn listen(&mut self) {
        self.one.listen(Duration::from_millis(10));
        self.other.listen(Duration::from_millis(10));
    }

    fn kill(&mut self, victim: Victim) {
        match victim {
            Peer => self.other.kill(),
            Signaling => self.signaling.kill(),
            Turn => self.turn.kill(),
        }
    }

    fn restart(&mut self, victim: Victim) {
        match victim {
            Peer => {
                self.told.push(self.one.acknowledged());
                self.other.restart(self.internet.agent(self.host, "other"));
            }
            Signaling => self.signaling = self.internet.signaling(),
            Turn => self.turn = self.internet.turn(),
        }
    }

    fn is_done(&self) -> bool {
        self.one.is_done()
            && self.other.is_done()
            && self.one.has_all_of(&self.other)
            && self.other.has_all_of(&self.one)
    }

    fn progress(&self) -> String {
        format!("{:?} {:?}", self.one.progress(), self.other.progress())
    }
}
