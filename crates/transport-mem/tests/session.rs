//! The session over a mesh: what it promises, told as short stories in virtual time.
//!
//! Each story would be falsified by a message that is lost, repeated, out of order, or without an honest outcome.
#![allow(clippy::unwrap_used, reason = "a test ends where something is wrong")]

use std::time::Duration;

use ifmesh_transport::{Outcome, Refusal};
use ifmesh_transport_mem::{Agents, Faults, draft, simulate};
use ifmsg::{AgentId, Stream, Timestamp};
use serde_json::json;

const MS: fn(u64) -> Duration = Duration::from_millis;

async fn number(agents: &Agents, name: &str) -> u64 {
    agents.recv(name).await.unwrap().payload()["n"].as_u64().unwrap()
}

#[test]
fn a_thousand_messages_cross_a_bad_network_once_and_in_order() {
    simulate(1, async |mesh| {
        mesh.faults(
            Faults::none()
                .loss(0.2)
                .duplication(0.1)
                .corruption(0.05)
                .latency(MS(1)..=MS(80)),
        )
        .unwrap();
        let agents = mesh.agents(["alice", "bob"]).unwrap();
        let sender = async {
            let mut receipts = Vec::new();
            for n in 0..1_000 {
                receipts.push(agents.send("alice", "bob", json!({ "n": n })).await.unwrap());
            }
            for receipt in receipts {
                receipt.acknowledged().await.unwrap();
            }
        };
        let receiver = async {
            for n in 0..1_000 {
                assert_eq!(number(&agents, "bob").await, n);
            }
        };
        tokio::join!(sender, receiver);
    })
    .unwrap();
}

#[test]
fn a_broadcast_reaches_every_peer_once_and_waits_for_all_of_them() {
    simulate(2, async |mesh| {
        mesh.faults(Faults::none().loss(0.3).latency(MS(1)..=MS(30)))
            .unwrap();
        let agents = mesh.agents(["alice", "bob", "carol", "dave"]).unwrap();
        agents.all_up().await;
        let mut receipts = Vec::new();
        for n in 0..100 {
            receipts.push(agents.send("alice", "*", json!({ "n": n })).await.unwrap());
        }
        for name in ["bob", "carol", "dave"] {
            for n in 0..100 {
                assert_eq!(number(&agents, name).await, n);
            }
        }
        for receipt in receipts {
            let outcomes = receipt.outcomes().await;
            assert_eq!(outcomes.len(), 3);
            assert!(
                outcomes
                    .iter()
                    .all(|(_, outcome)| *outcome == Outcome::Acknowledged)
            );
        }
    })
    .unwrap();
}

#[test]
fn a_crashed_peer_goes_on_after_its_restart_where_it_was() {
    simulate(3, async |mesh| {
        let agents = mesh.agents(["alice", "bob"]).unwrap();
        agents.send("alice", "bob", json!({ "n": 0 })).await.unwrap();
        assert_eq!(number(&agents, "bob").await, 0);
        // Long enough for the record, and for no acknowledgement to be needed.
        tokio::time::sleep(MS(1)).await;
        agents.crash("bob").unwrap();
        let mut receipts = Vec::new();
        for n in 1..3 {
            receipts.push(agents.send("alice", "bob", json!({ "n": n })).await.unwrap());
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        agents.restart("bob").unwrap();
        assert_eq!(
            (number(&agents, "bob").await, number(&agents, "bob").await),
            (1, 2)
        );
        for receipt in receipts {
            receipt.acknowledged().await.unwrap();
        }
    })
    .unwrap();
}

#[test]
fn an_expired_message_says_so_and_holds_up_nobody() {
    simulate(4, async |mesh| {
        let agents = mesh.agents(["alice", "bob"]).unwrap();
        agents.all_up().await;
        mesh.partition(&["alice"], &["bob"]).unwrap();
        let soon = Timestamp::parse("2026-11-22T12:00:05.000Z").unwrap();
        let doomed = draft("bob", json!({ "n": 1 })).unwrap().expires(soon);
        let doomed = agents.submit("alice", doomed).await.unwrap();
        let lasting = agents.send("alice", "bob", json!({ "n": 2 })).await.unwrap();
        assert_eq!(
            doomed.outcomes().await,
            [(AgentId::new("bob").unwrap(), Outcome::Expired)]
        );
        mesh.heal();
        assert_eq!(number(&agents, "bob").await, 2);
        lasting.acknowledged().await.unwrap();
    })
    .unwrap();
}

/// What was handed out is on disk, and what a crash interrupts is not.
#[test]
fn a_dead_life_writes_nothing_to_the_disk() {
    simulate(5, async |mesh| {
        let agents = mesh.agents(["alice", "bob"]).unwrap();
        agents.send("alice", "bob", json!({ "n": 0 })).await.unwrap();
        assert_eq!(number(&agents, "bob").await, 0);
        // At this very instant nothing has been recorded yet.
        agents.crash("bob").unwrap();
        tokio::time::sleep(MS(10)).await;
        let marks = agents.disk("bob").unwrap().marks();
        assert!(
            marks
                .iter()
                .all(|(_, mark)| mark.floors[Stream::Reliable as usize] == 0)
        );
        agents.restart("bob").unwrap();
        assert_eq!(
            number(&agents, "bob").await,
            0,
            "it was taken, but neither recorded nor acknowledged"
        );
    })
    .unwrap();
}

#[test]
fn a_request_gets_its_reply_and_nobody_else_does() {
    simulate(6, async |mesh| {
        let agents = mesh.agents(["alice", "bob"]).unwrap();
        let alice = agents.session("alice").unwrap();
        let asking = alice.request(draft("bob", json!({ "n": 1 })).unwrap());
        let answering = async {
            let question = agents.recv("bob").await.unwrap();
            agents.send("bob", "alice", json!({ "n": 8 })).await.unwrap();
            let reply = draft("alice", json!({ "n": 2 })).unwrap();
            let reply = reply.in_reply_to(question.header().id.clone());
            agents.submit("bob", reply).await.unwrap();
        };
        let (reply, ()) = tokio::join!(asking, answering);
        assert_eq!(reply.unwrap().payload()["n"], 2);
        assert_eq!(number(&agents, "alice").await, 8);
    })
    .unwrap();
}

#[test]
fn closing_lingers_for_what_is_on_its_way_and_tells_of_the_rest() {
    simulate(7, async |mesh| {
        mesh.faults(Faults::none().latency(MS(50)..=MS(50))).unwrap();
        let agents = mesh.agents(["alice", "bob", "carol"]).unwrap();
        agents.all_up().await;
        let to_bob = agents.send("alice", "bob", json!({ "n": 1 })).await.unwrap();
        let to_carol = agents.send("alice", "carol", json!({ "n": 2 })).await.unwrap();
        let alice = agents.session("alice").unwrap();
        let closing = alice.close(Duration::from_secs(2));
        // Carol does not read.
        let (number, ()) = tokio::join!(number(&agents, "bob"), closing);
        assert_eq!(number, 1);
        to_bob.acknowledged().await.unwrap();
        let carol = AgentId::new("carol").unwrap();
        let closed = Outcome::Refused(Refusal::SessionClosed);
        assert_eq!(to_carol.outcomes().await, [(carol, closed)]);
        assert!(alice.recv().await.is_none());
    })
    .unwrap();
}

/// Falsified by a transport that is told what was trusted at the start, and not what is trusted now.
#[test]
fn transports_are_told_whom_the_session_trusts_now() {
    use ifmesh_transport::PeerTrust;
    use ifmsg::{AgentId, Permissions};

    simulate(9, async |mesh| {
        let agents = mesh.agents(["alice", "bob"]).unwrap();
        let session = agents.session("alice").unwrap();
        let (keys, carol) = (session.keys(), AgentId::new("carol").unwrap());
        let key = *mesh.identity("carol").public_key();
        assert_eq!(keys.trust(&carol), PeerTrust::Refuse);
        session
            .change_trust(|trust| trust.bind(carol.clone(), key, Permissions::ALL))
            .unwrap();
        assert_eq!(keys.trust(&carol), PeerTrust::Key(key));
    })
    .unwrap();
}
