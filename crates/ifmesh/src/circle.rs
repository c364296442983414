//! Lets peers witness each other's logs, by what rides along in the session's control messages.

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ifmesh_transport::{Clock, Keepalive};
use ifmesh_witness::{Circle, Effect, prove_growth};
use ifmsg::{AgentId, PublicKey};
use serde_json::Value;
use tokio::{sync::mpsc, task::JoinHandle};

use crate::{Witness, state::replace};

/// What was heard and waits for the disk; more is dropped, and comes again.
const INBOX: usize = 256;

/// How often time alone is looked at.
const TICK: Duration = Duration::from_secs(1);

/// Speaks and hears for a [`Circle`], and carries out what it wants done, off the session's task.
#[derive(Debug)]
pub(crate) struct Companion {
    shared: Arc<Shared>,
    inbox: mpsc::Sender<Heard>,
    worker: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    circle: Mutex<Circle>,
    witness: Arc<Witness>,
    clock: Arc<dyn Clock>,
}

type Heard = (AgentId, PublicKey, Value);

impl Companion {
    pub(crate) fn start(circle: Circle, witness: Arc<Witness>, clock: Arc<dyn Clock>) -> Self {
        let shared = Arc::new(Shared {
            circle: Mutex::new(circle),
            witness,
            clock,
        });
        let (inbox, heard) = mpsc::channel(INBOX);
        let worker = tokio::spawn(shared.clone().work(heard));
        Self {
            shared,
            inbox,
            worker,
        }
    }
}

impl Drop for Companion {
    fn drop(&mut self) {
        self.worker.abort();
    }
}

impl Keepalive for Companion {
    fn say(&self, peer: &AgentId) -> Option<Value> {
        let (tips, now) = (self.shared.witness.tips(), self.shared.clock.now());
        self.shared.circle().say(peer, &tips, now)
    }

    fn hear(&self, peer: &AgentId, key: &PublicKey, said: &Value) -> bool {
        // What has no room is said again.
        let _ = self.inbox.try_send((peer.clone(), *key, said.clone()));
        false
    }
}

impl Shared {
    /// No code of others runs under the lock, and it is never held across an await.
    fn circle(&self) -> MutexGuard<'_, Circle> {
        self.circle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn work(self: Arc<Self>, mut heard: mpsc::Receiver<Heard>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let heard = tokio::select! {
                heard = heard.recv() => match heard {
                    Some(heard) => Some(heard),
                    None => return,
                },
                _ = tick.tick() => None,
            };
            let (tips, now) = (self.witness.tips(), self.clock.now());
            let effects = match heard {
                Some((peer, key, said)) => self.circle().hear(&peer, &key, &said, &tips, now),
                None => self.circle().tick(&tips, now),
            };
            for effect in effects {
                self.carry_out(effect).await;
            }
        }
    }

    async fn carry_out(&self, effect: Effect) {
        if let Some(entry) = effect.entry() {
            self.witness.record(entry);
        }
        match effect {
            Effect::Keep { agent, path, content } => {
                let written = blocking(move || replace(&path, content.as_bytes())).await;
                match written {
                    Some(Ok(())) => self.circle().kept(&agent),
                    failed => {
                        tracing::error!(%agent, ?failed, "a checkpoint of a peer is not on disk, and so not signed");
                        self.circle().not_kept(&agent);
                    }
                }
            }
            Effect::Prove { peer, from, to } => {
                let dir = self.witness.folder().to_owned();
                let proved = blocking(move || prove_growth(Path::new(&dir), from, to)).await;
                let proof = proved.and_then(Result::ok).flatten();
                self.circle().proved(&peer, from, to, proof);
            }
            _ => {}
        }
    }
}

async fn blocking<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(act).await.ok()
}
