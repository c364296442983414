//! Peers with unlike roads, and one that passes frames on. Falsified by a message that does not arrive where a relay could
//! carry it, by one that arrives where it was not allowed, by a frame that circles.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use ifmesh_transport::{IfTransport, PeerTrust, Policy, Relays, Road, Router, RouterConfig};
use ifmesh_transport_mem::{Agents, MemTransport, Mesh, simulate};
use ifmsg::AgentId;
use serde_json::json;
use tokio::time::timeout;

/// Whose, through whom, and whether for others.
type Wish = (&'static str, &'static [&'static str], bool);
type Routers = Arc<Mutex<BTreeMap<String, Arc<Router>>>>;

/// Agents over two meshes; `relays` says who uses whom, and who is one.
fn agents(meshes: &[Mesh], names: &[&str], relays: &'static [Wish]) -> (Agents, Routers) {
    let routers = Routers::default();
    let (made, dice) = (routers.clone(), meshes[0].clone());
    let connect = move |name: &str, transports: Vec<Arc<MemTransport>>| {
        let roads = transports.into_iter().enumerate();
        let roads = roads
            .map(|(road, transport)| Road::new(format!("road-{road}"), transport))
            .collect();
        let mut config = RouterConfig::new(Policy::Failover);
        if let Some((_, through, for_others)) = relays.iter().find(|(of, ..)| *of == name) {
            let keys = |peer: &AgentId| match peer.as_str() {
                "mallory" => PeerTrust::Refuse,
                _ => PeerTrust::AcceptClaimed,
            };
            config.relays = Some(Relays {
                agent: AgentId::new(name).unwrap(),
                through: through.iter().map(|relay| AgentId::new(relay).unwrap()).collect(),
                for_others: *for_others,
                max_hops: 3,
                keys: Arc::new(keys),
            });
        }
        let random = Box::new(dice.rng(&format!("router of {name}")));
        let router = Router::start(roads, config, random).unwrap();
        made.lock().unwrap().insert(name.to_owned(), router.clone());
        router as Arc<dyn IfTransport>
    };
    let agents = meshes[0]
        .agents_over(&meshes[1..], names, |_, _| {}, connect)
        .unwrap();
    (agents, routers)
}

/// Nothing passes between the two on any road.
fn apart(meshes: &[Mesh], a: &[&str], b: &[&str]) {
    meshes.iter().for_each(|mesh| mesh.partition(a, b).unwrap());
}

async fn arrives(agents: &Agents, from: &str, to: &str, number: u64) {
    let receipt = agents.send(from, to, json!({ "n": number })).await.unwrap();
    let message = timeout(Duration::from_secs(60), agents.recv(to))
        .await
        .expect("it arrives")
        .unwrap();
    assert_eq!(
        (message.source().as_str(), &message.payload()["n"]),
        (from, &json!(number))
    );
    timeout(Duration::from_secs(60), receipt.acknowledged())
        .await
        .expect("it is acknowledged")
        .unwrap();
}

#[test]
fn two_with_nothing_in_common_talk_through_a_third() {
    simulate(1, async |mesh| {
        let meshes = [mesh.clone(), Mesh::new(2)];
        let relays: &'static [Wish] = &[
            ("ada", &["bea"], false),
            ("bea", &[], true),
            ("cyd", &["bea"], false),
        ];
        let (agents, routers) = agents(&meshes, &["ada", "bea", "cyd"], relays);
        // Ada has the first road, Cyd the second, Bea both.
        apart(&meshes, &["ada"], &["cyd"]);
        meshes[1].partition(&["ada"], &["bea"]).unwrap();
        meshes[0].partition(&["cyd"], &["bea"]).unwrap();
        for number in 0..20 {
            arrives(&agents, "ada", "cyd", number).await;
            arrives(&agents, "cyd", "ada", number).await;
        }
        let relayed = routers.lock().unwrap()["bea"].metrics().relayed;
        assert!(relayed >= 40, "{relayed} frames were passed on");
        // The relay dies: they wait. It comes back: nothing was lost.
        agents.crash("bea").unwrap();
        let waiting = agents.send("ada", "cyd", json!({ "n": 99 })).await.unwrap();
        assert!(
            timeout(Duration::from_secs(30), agents.recv("cyd"))
                .await
                .is_err()
        );
        agents.restart("bea").unwrap();
        let message = timeout(Duration::from_secs(60), agents.recv("cyd"))
            .await
            .expect("it arrives")
            .unwrap();
        assert_eq!(message.payload()["n"], 99);
        waiting.acknowledged().await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_chain_of_relays_carries_as_far_as_hops_go() {
    simulate(2, async |mesh| {
        let meshes = [mesh.clone()];
        let relays: &'static [Wish] = &[
            ("ada", &["bea"], false),
            ("bea", &["cyd"], true),
            ("cyd", &["bea"], true),
            ("dan", &["cyd"], false),
        ];
        let (agents, _) = agents(&meshes, &["ada", "bea", "cyd", "dan"], relays);
        apart(&meshes, &["ada"], &["cyd", "dan"]);
        apart(&meshes, &["bea"], &["dan"]);
        for number in 0..5 {
            arrives(&agents, "ada", "dan", number).await;
            arrives(&agents, "dan", "ada", number).await;
        }
    })
    .unwrap();
}

#[test]
fn nobody_relays_unasked_and_nobody_is_relayed_to_unasked() {
    simulate(3, async |mesh| {
        let meshes = [mesh.clone()];
        // Bea relays. Ada would use her; Cyd has not said that Bea may pass anything on to it.
        let relays: &'static [Wish] = &[("ada", &["bea"], false), ("bea", &[], true), ("cyd", &[], false)];
        let (agents, _) = agents(&meshes, &["ada", "bea", "cyd"], relays);
        apart(&meshes, &["ada"], &["cyd"]);
        let _receipt = agents.send("ada", "cyd", json!({ "n": 1 })).await.unwrap();
        assert!(
            timeout(Duration::from_secs(60), agents.recv("cyd"))
                .await
                .is_err()
        );
    })
    .unwrap();
    simulate(4, async |mesh| {
        let meshes = [mesh.clone()];
        // Bea is no relay, whatever the others think.
        let relays: &'static [Wish] = &[
            ("ada", &["bea"], false),
            ("bea", &[], false),
            ("cyd", &["bea"], false),
        ];
        let (agents, routers) = agents(&meshes, &["ada", "bea", "cyd"], relays);
        apart(&meshes, &["ada"], &["cyd"]);
        let _receipt = agents.send("ada", "cyd", json!({ "n": 1 })).await.unwrap();
        assert!(
            timeout(Duration::from_secs(60), agents.recv("cyd"))
                .await
                .is_err()
        );
        assert_eq!(routers.lock().unwrap()["bea"].metrics().relayed, 0);
    })
    .unwrap();
}

#[test]
fn relays_in_a_ring_do_not_circle() {
    simulate(5, async |mesh| {
        let meshes = [mesh.clone()];
        let relays: &'static [Wish] = &[
            ("ada", &["bea", "cyd"], true),
            ("bea", &["ada", "cyd"], true),
            ("cyd", &["ada", "bea"], true),
            ("dan", &["ada"], false),
        ];
        let (agents, routers) = agents(&meshes, &["ada", "bea", "cyd", "dan"], relays);
        apart(&meshes, &["dan"], &["bea", "cyd"]);
        for number in 0..5 {
            arrives(&agents, "dan", "bea", number).await;
        }
        // Dan is gone: what the others still believe of it must not keep frames going round.
        agents.crash("dan").unwrap();
        let _receipt = agents.send("bea", "dan", json!({ "n": 9 })).await.unwrap();
        tokio::time::sleep(Duration::from_secs(120)).await;
        let relayed = || -> u64 {
            routers
                .lock()
                .unwrap()
                .values()
                .map(|router| router.metrics().relayed)
                .sum()
        };
        let before = relayed();
        tokio::time::sleep(Duration::from_secs(120)).await;
        assert_eq!(relayed(), before, "frames go round");
    })
    .unwrap();
}
