//! Two agents behind every pair of NATs, with coturn for STUN and TURN, and, where UDP is blocked, the signaling server as a
//! relay: real programs, in network namespaces.
//! `cargo xtask nat` shows the table.
//!
//! Falsified by a pair that fails while the TURN server or the relay is reachable for both; by one that is relayed though its NATs let it go direct; by
//! one that is said to be direct though its NATs cannot let it (then the NATs are not what they are said to be); by a
//! message that is not acknowledged over what is up.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

use std::{
    fmt,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use ifmesh_testnet::{Cut, NatKind};
use ifmesh_tests::{
    internet::{Internet, now},
    program::Running,
};
use serde_json::{Value, json};

/// How an agent is connected to the world.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Access {
    Behind(NatKind),
    /// A port-restricted NAT that drops all UDP.
    NoUdp,
}

const ALL: [Access; 5] = [
    Access::Behind(NatKind::FullCone),
    Access::Behind(NatKind::AddressRestricted),
    Access::Behind(NatKind::PortRestricted),
    Access::Behind(NatKind::Symmetric),
    Access::NoUdp,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Direct,
    Relayed,
    Failed,
}

/// Two agents, behind one NAT or each behind its own.
#[derive(Debug, Clone, Copy)]
enum Pair {
    Two(Access, Access),
    Same(NatKind),
}

/// Longer than anything that succeeds takes, even if several negotiations are needed.
const HOPELESS: Duration = Duration::from_secs(8);

#[test]
fn every_pair_goes_direct_if_it_can_and_by_the_relay_if_not() {
    let mut pairs: Vec<Pair> = Vec::new();
    for (number, one) in ALL.into_iter().enumerate() {
        pairs.extend(ALL[number..].iter().map(|other| Pair::Two(one, *other)));
    }
    pairs.extend([NatKind::PortRestricted, NatKind::Symmetric].map(Pair::Same));

    let results: Mutex<Vec<Option<Result>>> = Mutex::new(pairs.iter().map(|_| None).collect());
    let next = AtomicUsize::new(0);
    // Each has a network of its own. Most of the time goes by waiting.
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while let Some(pair) = pairs.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = connect(*pair);
                    let place = pairs.iter().position(|other| std::ptr::eq(other, pair));
                    results.lock().unwrap()[place.unwrap()] = Some(result);
                }
            });
        }
    });
    let results: Vec<Result> = results.into_inner().unwrap().into_iter().flatten().collect();
    assert_eq!(results.len(), pairs.len());
    println!("{:<19}{:<19}{:<9}{:>8}  by", "one", "other", "", "ms");
    for result in &results {
        println!("{result}");
    }
    let wrong: Vec<_> = results
        .iter()
        .filter(|result| result.outcome != result.pair.expected())
        .collect();
    assert!(wrong.is_empty(), "not as expected:\n{}", join(&wrong));
}

/// What became of a pair.
#[derive(Debug)]
struct Result {
    pair: Pair,
    outcome: Outcome,
    /// From the start of the second program until both sides' sessions were up.
    time: Duration,
    ends: String,
}

impl Pair {
    /// Two NATs can be passed if one of them lets in a packet from a port that it has not heard of, or both show the port that they
    /// show to the STUN server.
    fn expected(self) -> Outcome {
        use NatKind::{FullCone, PortRestricted, Symmetric};
        match self {
            Self::Same(_) => Outcome::Direct,
            Self::Two(Access::NoUdp, _) | Self::Two(_, Access::NoUdp) => Outcome::Relayed,
            Self::Two(Access::Behind(one), Access::Behind(other)) => match (one, other) {
                (FullCone, _) | (_, FullCone) => Outcome::Direct,
                (Symmetric, Symmetric | PortRestricted) | (PortRestricted, Symmetric) => Outcome::Relayed,
                _ => Outcome::Direct,
            },
        }
    }
}

impl Pair {
    /// Whether neither ICE nor TURN can help: agents with such networks relay by the signaling server.
    fn is_without_udp(self) -> bool {
        matches!(self, Self::Two(Access::NoUdp, _) | Self::Two(_, Access::NoUdp))
    }
}

fn connect(pair: Pair) -> Result {
    let internet = Internet::new(&["one", "other"]);
    let _signaling = internet.signaling();
    let _turn = internet.turn();
    if pair.is_without_udp() {
        internet.relay("one");
        internet.relay("other");
    }
    let (homes, hosts) = match pair {
        Pair::Two(one, other) => {
            let homes = [(1, one), (2, other)].map(|(number, access)| {
                let Access::Behind(kind) = access else {
                    let home = internet.home(number, NatKind::PortRestricted);
                    home.nat.cut(Cut::Udp).unwrap();
                    return home;
                };
                internet.home(number, kind)
            });
            let hosts = [homes[0].host("one", 2), homes[1].host("other", 3)];
            (Vec::from(homes), hosts)
        }
        Pair::Same(kind) => {
            let home = internet.home(1, kind);
            let hosts = [home.host("one", 2), home.host("other", 3)];
            (vec![home], hosts)
        }
    };
    let mut one = internet.agent(&hosts[0], "one");
    let started = now();
    let mut other = internet.agent(&hosts[1], "other");
    let up = |agent: &mut Running| loop {
        let left = HOPELESS.checked_sub(started.elapsed());
        match left.and_then(|left| agent.next(left)) {
            None => break false,
            Some(event) if event["event"] == "peer-up" => break true,
            Some(_) => {}
        }
    };
    let both = up(&mut one) && up(&mut other);
    let time = started.elapsed();
    if !both {
        return Result {
            pair,
            outcome: Outcome::Failed,
            time,
            ends: String::new(),
        };
    }
    exchange(&mut one, &mut other, "other");
    exchange(&mut other, &mut one, "one");
    let [here, there] = [path(&mut one), path(&mut other)];
    assert_eq!(here["path"], there["path"], "{pair:?}: {here} {there}");
    drop(homes);
    Result {
        pair,
        outcome: if here["path"] == "direct" {
            Outcome::Direct
        } else {
            Outcome::Relayed
        },
        time,
        ends: if pair.is_without_udp() {
            "the signaling server".to_owned()
        } else {
            format!("{} - {}", text(&here["local"]), text(&there["local"]))
        },
    }
}

/// A message there, and its acknowledgement back.
fn exchange(from: &mut Running, to: &mut Running, name: &str) {
    from.say(&json!({"to": name, "payload": {"hello": name}}));
    to.event_where("message", |event| event["message"]["payload"]["hello"] == name);
    from.event("acknowledged");
}

/// How an agent reaches its one peer.
fn path(agent: &mut Running) -> Value {
    agent.say(&json!({"ask": "links"}));
    agent.event("links")["links"][0].clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

fn join(results: &[&Result]) -> String {
    results.iter().map(|result| format!("{result}\n")).collect()
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Behind(NatKind::FullCone) => "full cone",
            Self::Behind(NatKind::AddressRestricted) => "address-restricted",
            Self::Behind(NatKind::PortRestricted) => "port-restricted",
            Self::Behind(_) => "symmetric",
            Self::NoUdp => "no UDP",
        })
    }
}

impl fmt::Display for Result {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (one, other) = match self.pair {
            Pair::Two(one, other) => (one, other.to_string()),
            Pair::Same(kind) => (Access::Behind(kind), "the same".to_owned()),
        };
        let outcome = match self.outcome {
            Outcome::Direct => "direct",
            Outcome::Relayed => "relayed",
            Outcome::Failed => "failed",
        };
        let time = self.time.as_millis();
        write!(f, "{one:<19}{other:<19}{outcome:<9}{time:>8}  {}", self.ends)
    }
}
