//! The suite against backends that are broken in one way each. Falsified by a defect that its case does not report: a
//! conformance case that cannot fail is worth nothing.

#![allow(clippy::unwrap_used, reason = "a test")]

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use ifmesh_transport::{
    Capabilities, CloseError, Closed, Envelope, IfTransport, Lane, LinkStatus, SendError, TransportEvent,
    conformance::{self, Failure, Fixture, Member},
};
use ifmesh_transport_mem::{MemTransport, Mesh, MeshConfig};
use ifmsg::{AgentId, Destination};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Defect {
    BoastsOfBroadcast,
    SmallFrames,
    SecondLinkUp,
    NoLinkUp,
    UnsortedLinks,
    LiesAboutLinks,
    SwallowsUnknownPeers,
    EatsLeadingZeros,
    AnswersHello,
    CutsOffLargest,
    WrongLimit,
    LosesOneIn100,
    SwapsNeighbours,
    NoBestEffort,
    BestEffortWaits,
    DropsUncounted,
    AcceptsWithoutEnd,
    OneQueueForAll,
    RecvLosesWhenDropped,
    SendsWhenDropped,
    CloseForgets,
    CloseWithoutGoodbye,
    SecondCloseFails,
    CloseWaitsForever,
    OpenAfterClose,
    OverlooksDeath,
    SendOutlivesPeer,
    OverlooksRestart,
}

use Defect::*;

/// A sound transport with one defect.
#[derive(Debug)]
struct Broken {
    inner: Arc<MemTransport>,
    mesh: Mesh,
    defect: Defect,
    sends: AtomicU64,
    closes: AtomicU64,
    held_back: Mutex<Option<Envelope>>,
    again: Mutex<Option<TransportEvent>>,
    ups: Mutex<BTreeMap<AgentId, u32>>,
    line: tokio::sync::Mutex<()>,
}

impl Broken {
    fn new(inner: Arc<MemTransport>, mesh: &Mesh, defect: Defect) -> Arc<Self> {
        Arc::new(Self {
            inner,
            mesh: mesh.clone(),
            defect,
            sends: AtomicU64::new(0),
            closes: AtomicU64::new(0),
            held_back: Mutex::default(),
            again: Mutex::default(),
            ups: Mutex::default(),
            line: tokio::sync::Mutex::default(),
        })
    }
}

#[async_trait]
impl IfTransport for Broken {
    fn name(&self) -> &str {
        "broken"
    }

    fn capabilities(&self) -> Capabilities {
        let mut capabilities = self.inner.capabilities();
        match self.defect {
            BoastsOfBroadcast => capabilities.broadcast = true,
            SmallFrames => capabilities.max_frame = 1_000,
            _ => {}
        }
        capabilities
    }

    async fn send(&self, mut envelope: Envelope) -> Result<(), SendError> {
        let number = self.sends.fetch_add(1, Ordering::Relaxed);
        let reliable = envelope.lane == Lane::Reliable;
        match self.defect {
            SwallowsUnknownPeers => {
                return match self.inner.send(envelope).await {
                    Err(SendError::NoLink(_)) => Ok(()),
                    other => other,
                };
            }
            EatsLeadingZeros => {
                let zeros = envelope.frame.iter().take_while(|&&byte| byte == 0).count();
                envelope.frame = envelope.frame.slice(zeros.min(1)..);
            }
            AnswersHello if envelope.frame.starts_with(b"{\"type\":\"hello\"") => return Ok(()),
            CutsOffLargest if envelope.frame.len() == self.inner.capabilities().max_frame => {
                envelope.frame = envelope.frame.slice(1..);
            }
            WrongLimit => {
                return self.inner.send(envelope).await.map_err(|error| match error {
                    SendError::TooLarge { size, limit } => SendError::TooLarge {
                        size,
                        limit: limit + 1,
                    },
                    other => other,
                });
            }
            LosesOneIn100 if number % 100 == 99 => return Ok(()),
            SwapsNeighbours if reliable && number % 50 == 48 => {
                *self.held_back.lock().unwrap() = Some(envelope);
                return Ok(());
            }
            SwapsNeighbours if reliable => {
                self.inner.send(envelope).await?;
                let held_back = self.held_back.lock().unwrap().take();
                return match held_back {
                    Some(envelope) => self.inner.send(envelope).await,
                    None => Ok(()),
                };
            }
            NoBestEffort if !reliable => return Ok(()),
            BestEffortWaits => envelope.lane = Lane::Reliable,
            AcceptsWithoutEnd => {
                let inner = self.inner.clone();
                tokio::spawn(async move { inner.send(envelope).await });
                return Ok(());
            }
            OneQueueForAll if reliable => {
                let _line = self.line.lock().await;
                return self.inner.send(envelope).await;
            }
            SendsWhenDropped => {
                let inner = self.inner.clone();
                return tokio::spawn(async move { inner.send(envelope).await })
                    .await
                    .unwrap();
            }
            OpenAfterClose => {
                return match self.inner.send(envelope).await {
                    Err(SendError::Closed) => Ok(()),
                    other => other,
                };
            }
            SendOutlivesPeer => {
                return match self.inner.send(envelope).await {
                    Err(SendError::NoLink(_)) => std::future::pending().await,
                    other => other,
                };
            }
            BoastsOfBroadcast if envelope.to == Destination::Everyone => return Ok(()),
            _ => {}
        }
        self.inner.send(envelope).await
    }

    async fn recv(&self) -> Result<TransportEvent, Closed> {
        loop {
            if let Some(event) = self.again.lock().unwrap().take() {
                return Ok(event);
            }
            let event = self.inner.recv().await?;
            let times_up = match &event {
                TransportEvent::LinkUp { peer } => {
                    let mut ups = self.ups.lock().unwrap();
                    let times = ups.entry(peer.clone()).or_default();
                    *times += 1;
                    *times
                }
                _ => 0,
            };
            match (self.defect, &event) {
                (NoLinkUp, TransportEvent::LinkUp { .. }) if times_up == 1 => continue,
                (SecondLinkUp, TransportEvent::LinkUp { .. }) => {
                    *self.again.lock().unwrap() = Some(event.clone());
                }
                (RecvLosesWhenDropped, _) => tokio::task::yield_now().await,
                (OverlooksDeath, TransportEvent::LinkDown { .. }) => continue,
                (OverlooksRestart, TransportEvent::LinkUp { .. }) if times_up > 1 => continue,
                _ => {}
            }
            return Ok(event);
        }
    }

    fn links(&self) -> Vec<LinkStatus> {
        let mut links = self.inner.links();
        match self.defect {
            UnsortedLinks => links.reverse(),
            LiesAboutLinks => _ = links.pop(),
            DropsUncounted => links.iter_mut().for_each(|link| link.dropped = 0),
            _ => {}
        }
        links
    }

    async fn close(&self) -> Result<(), CloseError> {
        let number = self.closes.fetch_add(1, Ordering::Relaxed);
        match self.defect {
            CloseForgets => _ = self.mesh.break_link(self.inner.id(), "agent-1"),
            CloseWithoutGoodbye => return Ok(_ = self.mesh.crash(self.inner.id())),
            SecondCloseFails if number > 0 => return Err(no_flush()),
            CloseWaitsForever => std::future::pending().await,
            _ => {}
        }
        self.inner.close().await
    }
}

fn no_flush() -> CloseError {
    CloseError::Unsent { envelopes: 1 }
}

struct BrokenFixture {
    mesh: Mesh,
    defect: Defect,
    kept: Vec<Arc<dyn IfTransport>>,
}

impl BrokenFixture {
    fn new(defect: Defect) -> Self {
        let mesh = Mesh::with(1, MeshConfig::reliable()).unwrap();
        if defect == CloseForgets {
            // So that there is something on the way that can be forgotten.
            let ms = Duration::from_millis;
            mesh.faults(ifmesh_transport_mem::Faults::none().latency(ms(5)..=ms(5)))
                .unwrap();
        }
        Self {
            mesh,
            defect,
            kept: Vec::new(),
        }
    }

    fn wrap(&mut self, transport: Arc<MemTransport>) -> Arc<dyn IfTransport> {
        let transport = Broken::new(transport, &self.mesh, self.defect);
        self.kept.push(transport.clone());
        transport
    }
}

#[async_trait]
impl Fixture for BrokenFixture {
    async fn start(&mut self, agents: usize) -> Vec<Member> {
        let mut members = Vec::new();
        for number in 0..agents {
            let transport = self.mesh.join(format!("agent-{number}")).unwrap();
            let id = transport.id().clone();
            members.push(Member {
                id,
                transport: self.wrap(transport),
            });
        }
        members
    }

    async fn kill(&mut self, agent: &AgentId) {
        self.mesh.crash(agent).unwrap();
    }

    async fn restart(&mut self, agent: &AgentId) -> Arc<dyn IfTransport> {
        let transport = self.mesh.restart(agent).unwrap();
        self.wrap(transport)
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(10)
    }

    fn medium_loses(&self) -> bool {
        false
    }

    /// Four windows.
    fn most_accepted(&self) -> usize {
        4 << 20
    }
}

async fn failures(defect: Defect) -> Vec<Failure> {
    let fixture = async || BrokenFixture::new(defect);
    conformance::run_all(fixture).await.err().unwrap_or_default()
}

/// Each defect, and a case that must report it.
const DEFECTS: [(Defect, &str); 28] = [
    (BoastsOfBroadcast, "broadcast_is_kept_or_refused"),
    (SmallFrames, "name_and_capabilities_are_sane"),
    (SecondLinkUp, "each_link_comes_up_once"),
    (NoLinkUp, "each_link_comes_up_once"),
    (UnsortedLinks, "each_link_comes_up_once"),
    (LiesAboutLinks, "each_link_comes_up_once"),
    (SwallowsUnknownPeers, "unknown_peers_have_no_link"),
    (EatsLeadingZeros, "hostile_bytes_pass_unchanged"),
    (AnswersHello, "hostile_bytes_pass_unchanged"),
    (CutsOffLargest, "frame_sizes_arrive_unchanged"),
    (WrongLimit, "too_large_is_refused"),
    (LosesOneIn100, "concurrent_senders_lose_nothing"),
    (SwapsNeighbours, "reliable_lane_keeps_order"),
    (NoBestEffort, "best_effort_frames_arrive"),
    (BestEffortWaits, "best_effort_never_waits"),
    (DropsUncounted, "best_effort_never_waits"),
    (AcceptsWithoutEnd, "slow_receiver_presses_back"),
    (OneQueueForAll, "slow_receiver_stalls_nobody_else"),
    (RecvLosesWhenDropped, "recv_is_cancel_safe"),
    (SendsWhenDropped, "send_is_cancel_safe"),
    (CloseForgets, "close_flushes_then_says_goodbye"),
    (CloseWithoutGoodbye, "close_flushes_then_says_goodbye"),
    (SecondCloseFails, "close_is_idempotent"),
    (CloseWaitsForever, "close_is_idempotent"),
    (OpenAfterClose, "closed_stays_closed"),
    (OverlooksDeath, "death_is_noticed"),
    (SendOutlivesPeer, "death_ends_a_waiting_send"),
    (OverlooksRestart, "restart_links_again"),
];

#[tokio::test(start_paused = true)]
async fn each_defect_is_reported_by_its_case() {
    for (defect, case) in DEFECTS {
        let failures = failures(defect).await;
        let cases: Vec<_> = failures.iter().map(|failure| failure.case).collect();
        assert!(
            cases.contains(&case),
            "{defect:?} was not reported by {case}, only by {cases:?}"
        );
        // A report says which case, what it expected and what it found.
        let report = failures
            .iter()
            .find(|failure| failure.case == case)
            .unwrap()
            .to_string();
        println!("{defect:?}: {report}");
        assert!(report.contains(case) && report.contains("expected") && report.contains("found"));
    }
}
