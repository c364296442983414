//! The task that owns everything about one peer: feeds the negotiation and does what it says.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ifmesh_signaling::{
    DEFAULT_DESCRIPTION_TTL_MILLIS, DescriptionRejected, DescriptionToSign, ExpectedDescription,
    IceCandidate, IceServers, Role, SessionId, Sha256Digest, Signal, SignalSender, SignedDescription,
    VerifiedDescription, sign_description, verify_description,
};
use ifmesh_transport::{
    Clock, DownReason, Events, LinkNotice, PeerTrust, SharedRandom, TransportEvent, awaited,
};
use ifmsg::{AgentId, PublicKey};
use rand_core::Rng as _;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch},
    task::{self, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout},
};

use crate::{
    board::{Board, Wish, count},
    config::{MeshMode, WebRtcConfig},
    connection::{Connection, Order, Report},
    engine::{self, Candidate, EngineConfig, MAX_CANDIDATES},
    hello::Facts,
    negotiation::{Action, Attempt, Input, Negotiation, RefusedOffer},
    notices::Notices,
};

/// How long a description waits for the signaling server.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(5);
/// What the engine reports and nobody has looked at yet, for each connection: frames of up to 256 KiB.
const HAPPENINGS: usize = 16;
/// How often trust and use are looked at.
const REVIEW: Duration = Duration::from_secs(1);
/// Refusals that are reported at once, and after which time one more is; all are counted.
const REPORT_BURST: u32 = 8;
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// What all peers of a transport have in common.
pub(crate) struct Common {
    pub(crate) config: WebRtcConfig,
    pub(crate) engine: EngineConfig,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: SharedRandom,
    pub(crate) signals: SignalSender,
    pub(crate) events: Events,
    pub(crate) board: Arc<Board>,
    pub(crate) notices: Notices,
    /// What the signaling server hands out.
    pub(crate) ice: watch::Receiver<IceServers>,
    /// Set-ups that may be under way at once, begun by us and by others.
    pub(crate) offers: Arc<Semaphore>,
    pub(crate) answers: Arc<Semaphore>,
}

impl Common {
    /// With the STUN and TURN servers and credentials of now.
    fn engine(&self) -> EngineConfig {
        let mut engine = self.engine.clone();
        if self.config.take_ice_servers {
            let handed_out = self.ice.borrow();
            engine
                .ice_servers
                .extend(handed_out.ice_servers.iter().map(|server| engine::IceServer {
                    urls: server.urls.clone(),
                    username: server.username.clone(),
                    credential: server.credential.clone(),
                }));
        }
        engine
    }
}

/// What the signaling server says of a peer. Each change is looked at, the last one always.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Presence {
    /// Counts the registrations that the server told of.
    pub(crate) registration: u64,
    pub(crate) present: bool,
    pub(crate) epoch: Option<u64>,
    pub(crate) key: Option<PublicKey>,
    /// Counts how often somebody wanted a link.
    pub(crate) wanted: u64,
    /// Counts how often the link was to make room for others.
    pub(crate) unused: u64,
}

/// Everything about one peer.
pub(crate) struct PeerTask {
    id: AgentId,
    common: Arc<Common>,
    negotiation: Negotiation,
    connections: BTreeMap<Attempt, Handle>,
    tasks: JoinSet<()>,
    running: HashMap<task::Id, Attempt>,
    closing: watch::Receiver<bool>,
    presence: Presence,
    reports: mpsc::Sender<(Attempt, Report)>,
    /// The offer that is being answered.
    offer: Option<Offer>,
    /// The server's word.
    claimed_key: Option<PublicKey>,
    reports_left: u32,
    reports_since: Option<Instant>,
    /// Candidates that nothing came of, since a negotiation or a restart began.
    strays: usize,
}

/// A connection that runs in a task of its own.
struct Handle {
    peer: Arc<engine::Peer>,
    orders: watch::Sender<Order>,
    facts: Arc<OnceLock<Facts>>,
    session: SessionId,
    /// The digest of our offer's statement; `None` on the answering side.
    offer: Option<Sha256Digest>,
    /// Candidates belong to this, once it is known.
    remote_ufrag: Option<String>,
    /// Candidates that came before that.
    early: Vec<IceCandidate>,
    /// The digest of the offer by which we restart it.
    restart: Option<Sha256Digest>,
    /// Until it is set up.
    _setup: Option<OwnedSemaphorePermit>,
}

impl Handle {
    fn is_cut(&self) -> bool {
        matches!(*self.orders.borrow(), Order::Cut(_) | Order::Close)
    }
}

/// An offer that verified.
struct Offer {
    sdp: String,
    verified: VerifiedDescription,
    key: PublicKey,
}

impl PeerTask {
    /// Runs until the transport closes, or the sender of `presence` is gone.
    pub(crate) async fn run(
        id: AgentId,
        common: Arc<Common>,
        mut presence: watch::Receiver<Presence>,
        mut signals: mpsc::Receiver<Signal>,
        idle: Arc<AtomicBool>,
        mut closing: watch::Receiver<bool>,
    ) {
        let first = common.config.agent > id;
        let on_demand = common.config.mesh.is_on_demand();
        let (reports, mut reported) = mpsc::channel(16);
        let mut task = Self {
            negotiation: Negotiation::new(first, on_demand, common.config.limits),
            id,
            common,
            connections: BTreeMap::new(),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            closing: closing.clone(),
            presence: Presence::default(),
            reports,
            offer: None,
            claimed_key: None,
            reports_left: REPORT_BURST,
            reports_since: None,
            strays: 0,
        };
        presence.mark_changed();
        let beat = task.common.engine.beat;
        let mut review = interval_at(beat.next(REVIEW), REVIEW);
        review.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            let deadline = task.negotiation.deadline();
            tokio::select! {
                biased;
                _ = awaited(&mut closing, |closing| closing) => break,
                Some((attempt, report)) = reported.recv() => task.on_report(attempt, report).await,
                Some(ended) = task.tasks.join_next_with_id() => task.on_task_ended(ended).await,
                changed = presence.changed() => {
                    if changed.is_err() {
                        break;
                    }
                    let presence = presence.borrow_and_update().clone();
                    task.on_presence(presence).await;
                }
                () = sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    task.put_in(Input::Tick).await;
                }
                Some(signal) = signals.recv() => task.on_signal(signal).await,
                _ = review.tick() => task.review().await,
            }
            task.common
                .board
                .connecting(&task.id, task.negotiation.is_connecting());
            let is_idle = task.negotiation.is_idle() && task.connections.is_empty();
            idle.store(is_idle, Ordering::Relaxed);
        }
        task.close(&mut reported).await;
    }

    /// Lets every connection end in good order.
    async fn close(mut self, reported: &mut mpsc::Receiver<(Attempt, Report)>) {
        for handle in self.connections.values() {
            handle.orders.send_replace(Order::Close);
        }
        loop {
            tokio::select! {
                _ = reported.recv() => {}
                ended = self.tasks.join_next() => if ended.is_none() {
                    break;
                },
            }
        }
        self.common.board.connecting(&self.id, false);
        self.common
            .board
            .forget(&self.id, self.common.config.limits.max_peers);
    }

    async fn on_presence(&mut self, presence: Presence) {
        if presence.key.is_some() {
            self.claimed_key = presence.key;
        }
        let former = std::mem::replace(&mut self.presence, presence);
        let changed = |of: fn(&Presence) -> (u64, bool, Option<u64>)| of(&former) != of(&self.presence);
        if changed(|presence| (presence.registration, presence.present, presence.epoch)) {
            self.put_in(self.presence_input()).await;
        }
        if former.wanted != self.presence.wanted {
            self.put_in(Input::Wanted).await;
        }
        if former.unused != self.presence.unused {
            self.put_in(Input::Unused).await;
        }
    }

    fn presence_input(&self) -> Input {
        if self.presence.present && self.key().is_some() {
            Input::Present {
                epoch: self.presence.epoch,
            }
        } else {
            Input::Absent
        }
    }

    /// What no event tells: that trust has changed, and that a link is not used.
    async fn review(&mut self) {
        let trusted = match self.common.config.keys.trust(&self.id) {
            PeerTrust::Refuse => Some(None),
            PeerTrust::Key(key) => Some(Some(key)),
            // The server's word begins links and ends none.
            PeerTrust::AcceptClaimed => None,
        };
        if let Some(trusted) = trusted {
            let withdrawn =
                |handle: &Handle| handle.facts.get().is_some_and(|facts| Some(facts.key) != trusted);
            let cut: Vec<Attempt> = self
                .connections
                .iter()
                .filter(|(_, handle)| withdrawn(handle) && !handle.is_cut())
                .map(|(attempt, _)| *attempt)
                .collect();
            if !cut.is_empty() {
                self.refuse(
                    "trust-withdrawn",
                    "the key that this link was made with is no longer trusted",
                );
            }
            for attempt in cut {
                self.cut(attempt, DownReason::Untrusted);
            }
            let is_here = self.negotiation.is_present();
            if is_here != (self.presence.present && trusted.is_some()) {
                self.put_in(self.presence_input()).await;
            }
        }
        if let MeshMode::OnDemand { idle, .. } = self.common.config.mesh
            && self.negotiation.link().is_some()
            && self
                .common
                .board
                .unused_for(&self.id)
                .is_some_and(|unused| unused >= idle)
        {
            self.put_in(Input::Unused).await;
        }
    }

    async fn on_report(&mut self, attempt: Attempt, report: Report) {
        match report {
            Report::Verified => {
                if let Some(handle) = self.connections.get_mut(&attempt) {
                    handle._setup = None;
                }
                self.put_in(Input::Verified { attempt }).await;
            }
            Report::Up => {
                if let MeshMode::OnDemand { max_connections, .. } = self.common.config.mesh {
                    for peer in self.common.board.superfluous(max_connections, &self.id) {
                        self.common.board.wish(Wish::Rest(peer));
                    }
                }
            }
            Report::Silent => {
                // What is wrong with the link may be wrong with the way to the server.
                self.common.signals.doubt();
                self.put_in(Input::Silent { attempt }).await;
            }
            Report::Heard => self.put_in(Input::Heard { attempt }).await,
            Report::Ended => {
                self.connections.remove(&attempt);
                self.put_in(Input::Ended { attempt }).await;
            }
        }
    }

    /// A connection's task ended: after its last report, or in a panic.
    async fn on_task_ended(&mut self, ended: Result<(task::Id, ()), JoinError>) {
        let id = match &ended {
            Ok((id, ())) => *id,
            Err(error) => error.id(),
        };
        let Some(attempt) = self.running.remove(&id) else {
            return;
        };
        if ended.is_ok() {
            return;
        }
        tracing::error!(peer = %self.id, attempt, "a connection's task fell");
        if self.negotiation.link() == Some(attempt) && self.common.board.down(&self.id) {
            let down = TransportEvent::LinkDown {
                peer: self.id.clone(),
                reason: DownReason::Local,
            };
            self.common.events.push(down).await;
        }
        self.connections.remove(&attempt);
        self.put_in(Input::Ended { attempt }).await;
    }

    async fn on_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Offer { sdp, statement } => self.on_offer(sdp, statement).await,
            Signal::Answer { sdp, statement } => self.on_answer(&sdp, statement.as_deref()).await,
            Signal::Candidate(candidate) => self.on_candidate(candidate).await,
            _ => {}
        }
    }

    async fn on_offer(&mut self, sdp: String, statement: Option<Box<SignedDescription>>) {
        let Some((verified, key)) = self.verify(&sdp, statement.as_deref(), Role::Offer, None) else {
            return;
        };
        let link = self.negotiation.link();
        let restarts = link.filter(|attempt| {
            let handle = self.connections.get(attempt);
            handle.is_some_and(|handle| {
                handle.session == verified.session
                    && handle
                        .facts
                        .get()
                        .is_some_and(|facts| facts.peer_epoch == verified.epoch && facts.key == key)
            })
        });
        self.offer = Some(Offer { sdp, verified, key });
        if let Some(attempt) = restarts {
            let digest = verified.digest;
            self.put_in(Input::RestartOffer { attempt, digest }).await;
            self.offer = None;
            return;
        }
        self.put_in(Input::Offer {
            digest: verified.digest,
            epoch: verified.epoch,
        })
        .await;
        self.offer = None;
    }

    async fn on_answer(&mut self, sdp: &str, statement: Option<&SignedDescription>) {
        if let Some(attempt) = self.negotiation.restarting() {
            return self.on_restart_answer(attempt, sdp, statement).await;
        }
        let offered = self.negotiation.offered();
        let handle = offered.and_then(|attempt| Some((attempt, self.connections.get(&attempt)?)));
        let Some((attempt, session, digest)) =
            handle.and_then(|(attempt, handle)| Some((attempt, handle.session, handle.offer?)))
        else {
            return self.refuse("unexpected-answer", "no offer of ours waits for an answer");
        };
        let role = Role::Answer { to: digest };
        let Some((verified, key)) = self.verify(sdp, statement, role, Some(session)) else {
            return;
        };
        let Some(handle) = self.connections.get_mut(&attempt) else {
            return;
        };
        let facts = facts(&self.common.config, &self.id, &handle.peer, &verified, key);
        let _ = handle.facts.set(facts);
        let ufrag = ifmesh_signaling::sdp_identity(sdp).map(|(_, ufrag)| ufrag.to_owned());
        handle.remote_ufrag = ufrag.ok();
        let early = std::mem::take(&mut handle.early);
        let peer = Arc::clone(&handle.peer);
        self.put_in(Input::Answered {
            attempt,
            epoch: verified.epoch,
        })
        .await;
        if self.negotiation.current() != Some(attempt) {
            return;
        }
        if let Err(error) = peer.accept_answer(sdp).await {
            self.refuse("description-refused", &error.to_string());
            self.cut(attempt, DownReason::Misbehaved);
            return self.put_in(Input::Ended { attempt }).await;
        }
        for candidate in early {
            self.on_candidate(candidate).await;
        }
    }

    async fn on_restart_answer(
        &mut self,
        attempt: Attempt,
        sdp: &str,
        statement: Option<&SignedDescription>,
    ) {
        let handle = self.connections.get(&attempt);
        let Some((session, digest)) = handle.and_then(|handle| Some((handle.session, handle.restart?)))
        else {
            return;
        };
        let role = Role::Answer { to: digest };
        if self.verify(sdp, statement, role, Some(session)).is_none() {
            return;
        }
        let Some(handle) = self.connections.get_mut(&attempt) else {
            return;
        };
        handle.restart = None;
        let ufrag = ifmesh_signaling::sdp_identity(sdp).map(|(_, ufrag)| ufrag.to_owned());
        handle.remote_ufrag = ufrag.ok();
        let early = std::mem::take(&mut handle.early);
        let peer = Arc::clone(&handle.peer);
        if let Err(error) = peer.accept_restart(sdp).await {
            self.refuse("description-refused", &error.to_string());
            return self.cut(attempt, DownReason::Network);
        }
        self.put_in(Input::Restarted { attempt }).await;
        for candidate in early {
            self.on_candidate(candidate).await;
        }
    }

    async fn on_candidate(&mut self, candidate: IceCandidate) {
        let current = self.negotiation.current();
        let Some(handle) = current.and_then(|attempt| self.connections.get_mut(&attempt)) else {
            return self.on_stray();
        };
        let Some(ufrag) = &handle.remote_ufrag else {
            if handle.early.len() < MAX_CANDIDATES {
                return handle.early.push(candidate);
            }
            return self.on_stray();
        };
        if candidate
            .username_fragment
            .as_ref()
            .is_some_and(|of| !of.is_empty() && of != ufrag)
        {
            return self.on_stray();
        }
        let candidate = Candidate {
            candidate: candidate.candidate,
            sdp_mid: candidate.sdp_mid,
            sdp_m_line_index: candidate.sdp_mline_index,
            username_fragment: candidate.username_fragment,
        };
        if let Err(error) = handle.peer.add_candidate(candidate).await {
            tracing::debug!(peer = %self.id, %error, "candidate refused");
            self.on_stray();
        }
    }

    /// A candidate for nothing, or of no use. A few are late; of no negotiation as many as it may have.
    fn on_stray(&mut self) {
        count(&self.common.board.counters.signals_dropped);
        self.strays += 1;
        if self.strays > MAX_CANDIDATES {
            self.refuse(
                "too-many-candidates",
                "candidates that no negotiation takes go on coming",
            );
        }
    }

    /// Feeds the negotiation, and what comes of it, until there is nothing to do.
    async fn put_in(&mut self, input: Input) {
        let mut inputs = vec![input];
        while let Some(input) = inputs.pop() {
            let dice = self.common.random.clone().next_u64();
            for action in self.negotiation.handle(input, Instant::now(), dice) {
                tracing::trace!(peer = %self.id, ?action, "negotiation");
                match action {
                    Action::Offer { attempt } => {
                        if !self.offer(attempt).await {
                            inputs.push(Input::Ended { attempt });
                        }
                    }
                    Action::Answer { attempt } => {
                        if !self.answer(attempt).await {
                            inputs.push(Input::Ended { attempt });
                        }
                    }
                    Action::Drop { attempt } => self.cut(attempt, DownReason::Replaced),
                    Action::Replace { attempt } => self.cut(attempt, DownReason::Replaced),
                    Action::Adopt { attempt } => {
                        if let Some(handle) = self.connections.get(&attempt) {
                            handle.orders.send_replace(Order::Adopt);
                        }
                    }
                    Action::Restart { attempt } => {
                        if !self.restart(attempt).await {
                            inputs.push(Input::Restarted { attempt });
                        }
                    }
                    Action::AnswerRestart { attempt } => self.answer_restart(attempt).await,
                    Action::Rest { attempt } => {
                        if let Some(handle) = self.connections.get(&attempt) {
                            handle.orders.send_replace(Order::Rest);
                        }
                    }
                    Action::Refuse(RefusedOffer::OutOfTurn) => {
                        self.refuse("restart-out-of-turn", "restarts of this link are ours to make");
                    }
                    Action::Refuse(RefusedOffer::Replayed) => {
                        self.refuse("replayed-offer", "this very offer came before");
                    }
                    Action::Refuse(RefusedOffer::TooMany) => {
                        self.refuse(
                            "too-many-offers",
                            "offers come faster than negotiations need them",
                        );
                    }
                }
            }
        }
    }

    /// Makes a connection and offers it. `false`: nothing came of it.
    async fn offer(&mut self, attempt: Attempt) -> bool {
        let Some(setup) = self.setup(Arc::clone(&self.common.offers)).await else {
            return false;
        };
        let (to_us, happenings) = mpsc::channel(HAPPENINGS);
        let (peer, description) = match engine::Peer::offer(&self.common.engine(), to_us).await {
            Ok(made) => made,
            Err(error) => {
                tracing::warn!(peer = %self.id, %error, "no connection to offer");
                return false;
            }
        };
        let session = SessionId::random(&mut self.common.random.clone());
        let Some(statement) = self.sign(Role::Offer, session, &description.sdp) else {
            return false;
        };
        let digest = statement.digest();
        self.notice(LinkNotice::OfferCreated {
            peer: self.id.clone(),
            sdp_hash: sdp_hash(&description.sdp),
        });
        let offer = Signal::Offer {
            sdp: description.sdp,
            statement: Some(Box::new(statement)),
        };
        if !self.send(offer).await {
            return false;
        }
        count(&self.common.board.counters.offers_sent);
        self.start(
            attempt,
            peer,
            happenings,
            session,
            Some(digest),
            None,
            None,
            setup,
        );
        true
    }

    /// Looks for another path for the link. `false`: nothing came of it.
    async fn restart(&mut self, attempt: Attempt) -> bool {
        let Some(handle) = self.connections.get_mut(&attempt) else {
            return false;
        };
        tracing::debug!(peer = %self.id, attempt, "the link is silent; looking for another path");
        // The peer's candidates are of the former path until its answer comes.
        handle.remote_ufrag = None;
        handle.early.clear();
        self.strays = 0;
        let (peer, session) = (Arc::clone(&handle.peer), handle.session);
        let description = match peer.restart(&self.common.engine()).await {
            Ok(description) => description,
            Err(error) => {
                tracing::warn!(peer = %self.id, %error, "the link cannot look for another path");
                return false;
            }
        };
        let Some(statement) = self.sign(Role::Offer, session, &description.sdp) else {
            return false;
        };
        if let Some(handle) = self.connections.get_mut(&attempt) {
            handle.restart = Some(statement.digest());
        }
        let sdp_hash = sdp_hash(&description.sdp);
        let offer = Signal::Offer {
            sdp: description.sdp,
            statement: Some(Box::new(statement)),
        };
        self.notice(LinkNotice::OfferCreated {
            peer: self.id.clone(),
            sdp_hash,
        });
        if !self.send(offer).await {
            return false;
        }
        count(&self.common.board.counters.offers_sent);
        count(&self.common.board.counters.restarts);
        true
    }

    /// Follows the peer's restart of the link.
    async fn answer_restart(&mut self, attempt: Attempt) {
        let (Some(Offer { sdp, verified, .. }), Some(handle)) =
            (self.offer.take(), self.connections.get_mut(&attempt))
        else {
            return;
        };
        let ufrag = ifmesh_signaling::sdp_identity(&sdp).map(|(_, ufrag)| ufrag.to_owned());
        handle.remote_ufrag = ufrag.ok();
        let peer = Arc::clone(&handle.peer);
        self.strays = 0;
        let description = match peer.follow_restart(&self.common.engine(), &sdp).await {
            Ok(description) => description,
            Err(error) => return self.refuse("description-refused", &error.to_string()),
        };
        let role = Role::Answer { to: verified.digest };
        let Some(statement) = self.sign(role, verified.session, &description.sdp) else {
            return;
        };
        self.notice(LinkNotice::AnswerCreated {
            peer: self.id.clone(),
            sdp_hash: sdp_hash(&description.sdp),
        });
        let answer = Signal::Answer {
            sdp: description.sdp,
            statement: Some(Box::new(statement)),
        };
        if self.send(answer).await {
            count(&self.common.board.counters.answers_sent);
        }
    }

    /// A place among the set-ups that are under way; hundreds at once would all be late.
    async fn setup(&mut self, setups: Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
        let patience = self.common.config.limits.handshake_timeout;
        let mut closing = self.closing.clone();
        tokio::select! {
            biased;
            permit = setups.acquire_owned() => permit.ok(),
            () = sleep(patience) => None,
            _ = awaited(&mut closing, |closing| closing) => None,
        }
    }

    fn notice(&self, notice: LinkNotice) {
        self.common.notices.tell(|| notice);
    }

    /// Makes a connection for the offer that came, and answers. `false`: nothing came of it.
    async fn answer(&mut self, attempt: Attempt) -> bool {
        let Some(Offer { sdp, verified, key }) = self.offer.take() else {
            return false;
        };
        let Some(setup) = self.setup(Arc::clone(&self.common.answers)).await else {
            return false;
        };
        let (to_us, happenings) = mpsc::channel(HAPPENINGS);
        let (peer, description) = match engine::Peer::answer(&self.common.engine(), &sdp, to_us).await {
            Ok(made) => made,
            Err(error @ (engine::EngineError::Description(_) | engine::EngineError::Candidate(_))) => {
                self.refuse("description-refused", &error.to_string());
                return false;
            }
            Err(error) => {
                tracing::warn!(peer = %self.id, %error, "no connection to answer with");
                return false;
            }
        };
        let role = Role::Answer { to: verified.digest };
        let Some(statement) = self.sign(role, verified.session, &description.sdp) else {
            return false;
        };
        let facts = facts(&self.common.config, &self.id, &peer, &verified, key);
        self.notice(LinkNotice::AnswerCreated {
            peer: self.id.clone(),
            sdp_hash: sdp_hash(&description.sdp),
        });
        let answer = Signal::Answer {
            sdp: description.sdp,
            statement: Some(Box::new(statement)),
        };
        if !self.send(answer).await {
            return false;
        }
        count(&self.common.board.counters.answers_sent);
        let ufrag = ifmesh_signaling::sdp_identity(&sdp).map(|(_, ufrag)| ufrag.to_owned());
        self.start(
            attempt,
            peer,
            happenings,
            verified.session,
            None,
            Some(facts),
            ufrag.ok(),
            setup,
        );
        true
    }

    #[allow(clippy::too_many_arguments, reason = "called twice, from right above")]
    fn start(
        &mut self,
        attempt: Attempt,
        peer: engine::Peer,
        happenings: mpsc::Receiver<engine::PeerEvent>,
        session: SessionId,
        offer: Option<Sha256Digest>,
        facts: Option<Facts>,
        remote_ufrag: Option<String>,
        setup: OwnedSemaphorePermit,
    ) {
        self.strays = 0;
        let peer = Arc::new(peer);
        let facts = Arc::new(facts.map_or_else(OnceLock::new, OnceLock::from));
        let (orders, ordered) = watch::channel(Order::Connect);
        let connection = Connection {
            attempt,
            peer_id: self.id.clone(),
            identity: self.common.config.identity.clone(),
            limits: self.common.config.limits,
            on_demand: self.common.config.mesh.is_on_demand(),
            peer: Arc::clone(&peer),
            happenings,
            facts: Arc::clone(&facts),
            orders: ordered,
            reports: self.reports.clone(),
            signals: self.common.signals.clone(),
            events: self.common.events.clone(),
            board: Arc::clone(&self.common.board),
            notices: self.common.notices.clone(),
            beat: self.common.engine.beat,
        };
        let task = self.tasks.spawn(connection.run());
        self.running.insert(task.id(), attempt);
        let handle = Handle {
            peer,
            orders,
            facts,
            session,
            offer,
            remote_ufrag,
            early: Vec::new(),
            restart: None,
            _setup: Some(setup),
        };
        self.connections.insert(attempt, handle);
    }

    fn cut(&self, attempt: Attempt, reason: DownReason) {
        if let Some(handle) = self.connections.get(&attempt) {
            handle.orders.send_replace(Order::Cut(reason));
        }
    }

    async fn send(&self, signal: Signal) -> bool {
        let sent = self.common.signals.send(self.id.clone(), signal);
        matches!(timeout(SIGNAL_PATIENCE, sent).await, Ok(Ok(())))
    }

    fn sign(&self, role: Role, session: SessionId, sdp: &str) -> Option<SignedDescription> {
        let config = &self.common.config;
        let to_sign = DescriptionToSign {
            from: &config.agent,
            to: &self.id,
            session,
            role,
            epoch: config.epoch,
            sdp,
            expires: self
                .common
                .clock
                .now()
                .plus_millis(DEFAULT_DESCRIPTION_TTL_MILLIS),
        };
        sign_description(&config.identity, &to_sign)
            .inspect_err(|error| tracing::error!(%error, "our own description cannot be signed"))
            .ok()
    }

    fn verify(
        &mut self,
        sdp: &str,
        statement: Option<&SignedDescription>,
        role: Role,
        session: Option<SessionId>,
    ) -> Option<(VerifiedDescription, PublicKey)> {
        let Some(key) = self.key() else {
            self.refuse(
                "untrusted-peer",
                "no key is known for this agent, or it is not to be linked",
            );
            return None;
        };
        let expected = ExpectedDescription {
            key: &key,
            from: &self.id,
            to: &self.common.config.agent,
            role,
            session,
            min_epoch: self.common.board.epoch(&self.id),
            now: self.common.clock.now(),
        };
        match verify_description(statement, sdp, &expected) {
            Ok(verified) => {
                self.common.board.verified_epoch(&self.id, verified.epoch);
                Some((verified, key))
            }
            Err(rejected) => {
                self.refuse(name(rejected), &rejected.to_string());
                None
            }
        }
    }

    /// The key to hold the peer to. Asked each time: trust may change.
    fn key(&self) -> Option<PublicKey> {
        match self.common.config.keys.trust(&self.id) {
            PeerTrust::Key(key) => Some(key),
            PeerTrust::AcceptClaimed => self.claimed_key,
            PeerTrust::Refuse => None,
        }
    }

    fn refuse(&mut self, reason: &'static str, detail: &str) {
        count(&self.common.board.counters.refused);
        let now = Instant::now();
        let since = *self.reports_since.get_or_insert(now);
        if now.saturating_duration_since(since) >= REPORT_INTERVAL {
            self.reports_since = Some(now);
            self.reports_left = (self.reports_left + 1).min(REPORT_BURST);
        }
        if self.reports_left == 0 {
            return;
        }
        self.reports_left -= 1;
        tracing::info!(peer = %self.id, reason, detail, "refused");
        self.common.events.offer_aside(TransportEvent::Refused {
            peer: Some(self.id.clone()),
            reason,
            detail: detail.to_owned(),
        });
    }
}

fn sdp_hash(sdp: &str) -> [u8; 32] {
    *Sha256Digest::of(sdp.as_bytes()).as_bytes()
}

fn facts(
    config: &WebRtcConfig,
    id: &AgentId,
    peer: &engine::Peer,
    verified: &VerifiedDescription,
    key: PublicKey,
) -> Facts {
    Facts {
        agent: config.agent.clone(),
        peer: id.clone(),
        key,
        session: verified.session,
        epoch: config.epoch,
        peer_epoch: verified.epoch,
        fingerprint: Sha256Digest::from_bytes(*peer.local_fingerprint().as_bytes()),
        peer_fingerprint: verified.fingerprint,
    }
}

/// For metrics and the witness.
fn name(rejected: DescriptionRejected) -> &'static str {
    match rejected {
        DescriptionRejected::Unsigned => "unsigned-description",
        DescriptionRejected::BadSignature => "bad-signature",
        DescriptionRejected::WrongFrom => "wrong-from",
        DescriptionRejected::WrongTo => "wrong-to",
        DescriptionRejected::WrongRole => "wrong-role",
        DescriptionRejected::WrongSession => "wrong-session",
        DescriptionRejected::WrongOffer => "wrong-offer",
        DescriptionRejected::StaleEpoch { .. } => "stale-epoch",
        DescriptionRejected::Expired => "expired-description",
        DescriptionRejected::TtlTooLong => "ttl-too-long",
        DescriptionRejected::FingerprintMismatch => "fingerprint-mismatch",
        DescriptionRejected::UfragMismatch => "ufrag-mismatch",
        DescriptionRejected::SdpMismatch => "sdp-mismatch",
        _ => "description-refused",
    }
}
