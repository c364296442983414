//! The session over a mesh: what it promises, told as short stories in virtual time.
//!
//! Each story would be falsified by a message that is lost, repeated, out of order, or without an honest outcome.

use std::{sync::Arc, time::Duration};

use ifmesh_transport::{Outcome, Session, SessionConfig, VirtualClock};
use ifmesh_transport_mem::{Faults, Mesh, simulate};
use ifmsg::{AgentId, Draft, Identity, Permissions, Timestamp, TrustPolicy, TrustStore};
use serde_json::json;

const NAMES: [&str; 4] = ["alice", "bob", "carol", "dave"];

fn identity(name: &str) -> Identity {
    let mut seed = [0; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    Identity::from_seed(&seed)
}

fn start(mesh: &Mesh, name: &str, epoch: u64) -> Session {
    let mut trust = TrustStore::new(TrustPolicy::Allowlist);
    for peer in NAMES {
        trust
            .bind(
                AgentId::new(peer).unwrap(),
                *identity(peer).public_key(),
                Permissions::ALL,
            )
            .unwrap();
    }
    let transport = if epoch == 1 {
        mesh.join(name)
    } else {
        mesh.restart(name)
    }
    .unwrap();
    let config = SessionConfig::new(AgentId::new(name).unwrap(), identity(name), trust, epoch);
    let clock = VirtualClock::starting_at(Timestamp::parse("2026-11-22T12:00:00.000Z").unwrap());
    Session::start(transport, config, Arc::new(clock), Box::new(mesh.rng(name)))
}

fn draft(to: &str, n: u64) -> Draft {
    Draft::new(to.try_into().unwrap(), json!({ "n": n }))
}

async fn number(session: &Session) -> u64 {
    let message = session.recv().await.expect("the session ended");
    message.payload()["n"].as_u64().unwrap()
}

#[test]
fn a_thousand_messages_cross_a_bad_network_once_and_in_order() {
    simulate(1, async |mesh| {
        mesh.faults(
            Faults::none()
                .loss(0.2)
                .duplication(0.1)
                .corruption(0.05)
                .latency(Duration::from_millis(1)..=Duration::from_millis(80)),
        )
        .unwrap();
        let (alice, bob) = (start(&mesh, "alice", 1), start(&mesh, "bob", 1));
        let sender = async {
            let mut receipts = Vec::new();
            for n in 0..1_000 {
                receipts.push(alice.send(draft("bob", n)).await.unwrap());
            }
            for receipt in receipts {
                receipt.acknowledged().await.unwrap();
            }
        };
        let receiver = async {
            for n in 0..1_000 {
                assert_eq!(number(&bob).await, n);
            }
        };
        tokio::join!(sender, receiver);
        eprintln!("{:?} {:?}\n{:?}", mesh.now(), alice.metrics(), bob.metrics());
    })
    .unwrap();
}

#[test]
fn a_broadcast_reaches_every_peer_once_and_waits_for_all_of_them() {
    simulate(2, async |mesh| {
        mesh.faults(
            Faults::none()
                .loss(0.3)
                .latency(Duration::from_millis(1)..=Duration::from_millis(30)),
        )
        .unwrap();
        let sessions: Vec<_> = NAMES.iter().map(|name| start(&mesh, name, 1)).collect();
        for session in &sessions {
            session
                .peers_until(|peers| peers.iter().filter(|peer| peer.up).count() == 3)
                .await
                .unwrap();
        }
        let mut receipts = Vec::new();
        for n in 0..100 {
            receipts.push(sessions[0].send(draft("*", n)).await.unwrap());
        }
        for session in &sessions[1..] {
            for n in 0..100 {
                assert_eq!(number(session).await, n);
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
        eprintln!("{:?} {:?}", mesh.now(), sessions[0].metrics());
    })
    .unwrap();
}

#[test]
fn a_crashed_peer_gets_after_its_restart_what_was_sent_meanwhile() {
    simulate(3, async |mesh| {
        let (alice, bob) = (start(&mesh, "alice", 1), start(&mesh, "bob", 1));
        alice.send(draft("bob", 0)).await.unwrap();
        assert_eq!(number(&bob).await, 0);
        mesh.crash("bob").unwrap();
        drop(bob);
        let receipts = [
            alice.send(draft("bob", 1)).await.unwrap(),
            alice.send(draft("bob", 2)).await.unwrap(),
        ];
        tokio::time::sleep(Duration::from_secs(60)).await;
        let bob = start(&mesh, "bob", 2);
        let first = number(&bob).await;
        // The acknowledgement of 0 may have died with bob's first run; without a journal its second run gets it again.
        let rest = if first == 0 { number(&bob).await } else { first };
        assert_eq!((rest, number(&bob).await), (1, 2));
        for receipt in receipts {
            receipt.acknowledged().await.unwrap();
        }
    })
    .unwrap();
}

#[test]
fn an_expired_message_says_so_and_holds_up_nobody() {
    simulate(4, async |mesh| {
        let (alice, bob) = (start(&mesh, "alice", 1), start(&mesh, "bob", 1));
        alice
            .peers_until(|peers| peers.iter().any(|peer| peer.up))
            .await
            .unwrap();
        mesh.partition(&["alice"], &["bob"]).unwrap();
        let soon = Timestamp::parse("2026-11-22T12:00:05.000Z").unwrap();
        let doomed = alice.send(draft("bob", 1).expires(soon)).await.unwrap();
        let lasting = alice.send(draft("bob", 2)).await.unwrap();
        assert_eq!(
            doomed.outcomes().await,
            [(AgentId::new("bob").unwrap(), Outcome::Expired)]
        );
        mesh.heal();
        assert_eq!(number(&bob).await, 2);
        lasting.acknowledged().await.unwrap();
    })
    .unwrap();
}
