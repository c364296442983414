//! What a session costs, beside signing and verifying: `cargo bench -p ifmesh-transport`.
//!
//! Two sessions on one thread, with nothing between them but a channel, take turns: a message of 300 B is sent, signed, verified,
//! handed out, and answered by one like it. Beside that, in the same run, turn by turn: `ed25519-dalek` signs 300 B and verifies them
//! by `verify_strict`, twice. What is printed last is the ratio of the medians; below 1 a session costs less than the library's
//! signatures alone would, since it verifies by a table.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a benchmark"
)]
#![allow(clippy::disallowed_methods, reason = "a bench reads the clock")]

use std::{hint::black_box, sync::Arc, time::Duration};

use async_trait::async_trait;
use ed25519_dalek::{Signer as _, SigningKey};
use ifmesh_transport::{
    Capabilities, CloseError, Closed, Envelope, IfTransport, LinkStatus, SendError, Session, SessionConfig,
    SystemClock, TransportEvent,
};
use ifmsg::{AgentId, Draft, Identity, Permissions, TrustPolicy, TrustStore};
use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::json;
use tokio::{
    sync::{Mutex, mpsc},
    time::Instant,
};

const TURNS: usize = 50;
const TRIPS: usize = 400;
/// The text in a message whose body has 300 bytes.
const TEXT: usize = 112;

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let (to_alice, from_bob) = mpsc::channel(64);
    let (to_bob, from_alice) = mpsc::channel(64);
    let alice = session("alice", "bob", to_bob, from_bob).await;
    let bob = session("bob", "alice", to_alice, from_alice).await;
    let answer = draft("alice");
    let answers = tokio::spawn(async move {
        while bob.recv().await.is_some() {
            bob.send(answer.clone()).await.unwrap();
        }
    });
    let question = draft("bob");
    let (mut trips, mut signatures) = (Vec::new(), Vec::new());
    let key = SigningKey::from_bytes(&[7; 32]);
    let mut body = [7; 300];
    for turn in 0..=TURNS {
        let started = Instant::now();
        for _ in 0..TRIPS {
            alice.send(question.clone()).await.unwrap();
            assert!(alice.recv().await.is_some());
        }
        let trip = started.elapsed();
        let started = Instant::now();
        for _ in 0..2 * TRIPS {
            body[0] ^= 1;
            let signature = key.sign(black_box(&body));
            key.verifying_key().verify_strict(&body, &signature).unwrap();
        }
        let signed = started.elapsed();
        // The first one warms up.
        if turn > 0 {
            trips.push(trip);
            signatures.push(signed);
        }
    }
    let [trip, signed] = [trips, signatures].map(|mut turns| {
        turns.sort_unstable();
        turns[TURNS / 2].as_secs_f64() * 1e6 / TRIPS as f64
    });
    println!("two messages there and back by a session: {trip:.1} us");
    println!("two signatures by ed25519-dalek, made and strictly verified: {signed:.1} us");
    println!("ratio: {:.2}", trip / signed);
    alice.close(Duration::ZERO).await;
    answers.abort();
}

fn draft(to: &str) -> Draft {
    let payload = json!({ "echo": true, "text": "x".repeat(TEXT) });
    Draft::new(to.try_into().unwrap(), payload)
}

fn id(name: &str) -> AgentId {
    AgentId::new(name).unwrap()
}

fn identity(name: &str) -> Identity {
    let mut seed = [0; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    Identity::from_seed(&seed)
}

async fn session(
    name: &str,
    peer: &str,
    to: mpsc::Sender<TransportEvent>,
    from: mpsc::Receiver<TransportEvent>,
) -> Session {
    let mut trust = TrustStore::new(TrustPolicy::Allowlist);
    trust
        .bind(id(peer), *identity(peer).public_key(), Permissions::ALL)
        .unwrap();
    to.send(TransportEvent::LinkUp { peer: id(name) }).await.unwrap();
    let pipe = Pipe {
        name: id(name),
        to,
        from: Mutex::new(from),
    };
    let config = SessionConfig::new(id(name), identity(name), trust, 1);
    let random = Box::new(StdRng::seed_from_u64(name.len() as u64));
    Session::start(Arc::new(pipe), config, Arc::new(SystemClock), random)
}

/// The least that can be between two sessions.
#[derive(Debug)]
struct Pipe {
    name: AgentId,
    to: mpsc::Sender<TransportEvent>,
    from: Mutex<mpsc::Receiver<TransportEvent>>,
}

#[async_trait]
impl IfTransport for Pipe {
    fn name(&self) -> &str {
        "pipe"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            max_frame: 1 << 20,
            ordered: true,
            reliable: true,
            broadcast: false,
        }
    }

    async fn send(&self, envelope: Envelope) -> Result<(), SendError> {
        let event = TransportEvent::Frame {
            from: self.name.clone(),
            lane: envelope.lane,
            frame: envelope.frame,
            road: None,
        };
        self.to.send(event).await.map_err(|_| SendError::Closed)
    }

    async fn recv(&self) -> Result<TransportEvent, Closed> {
        self.from.lock().await.recv().await.ok_or(Closed)
    }

    fn links(&self) -> Vec<LinkStatus> {
        Vec::new()
    }

    async fn close(&self) -> Result<(), CloseError> {
        self.from.lock().await.close();
        Ok(())
    }
}
