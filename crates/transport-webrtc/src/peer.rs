//! The task that owns everything about one peer: feeds the negotiation and does what it says.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use ifmesh_signaling::{
    DEFAULT_DESCRIPTION_TTL_MILLIS, DescriptionRejected, DescriptionToSign, ExpectedDescription,
    IceCandidate, Role, SessionId, Sha256Digest, Signal, SignalSender, SignedDescription,
    VerifiedDescription, sign_description, verify_description,
};
use ifmesh_transport::{Clock, DownReason, PeerTrust, TransportEvent};
use ifmsg::{AgentId, PublicKey};
use rand_core::Rng as _;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

use crate::{
    awaited::awaited,
    board::{Board, Events, count},
    config::WebRtcConfig,
    connection::{Connection, Order, Report},
    engine::{self, Candidate, EngineConfig, MAX_CANDIDATES},
    hello::Facts,
    negotiation::{Action, Attempt, Input, Negotiation, RefusedOffer},
    random::SharedRandom,
};

/// How long a description waits for the signaling server.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(5);
/// What the engine reports and nobody has looked at yet, for each connection: frames of up to 256 KiB.
const HAPPENINGS: usize = 16;
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
}

/// What the signaling server says of a peer. Each change is looked at, the last one always.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Presence {
    /// Counts the registrations that the server told of.
    pub(crate) registration: u64,
    pub(crate) present: bool,
    pub(crate) epoch: Option<u64>,
    pub(crate) key: Option<PublicKey>,
}

/// Everything about one peer.
pub(crate) struct PeerTask {
    id: AgentId,
    common: Arc<Common>,
    negotiation: Negotiation,
    connections: BTreeMap<Attempt, Handle>,
    tasks: JoinSet<()>,
    reports: mpsc::Sender<(Attempt, Report)>,
    /// The offer that is being answered.
    offer: Option<Offer>,
    /// The server's word.
    claimed_key: Option<PublicKey>,
    reports_left: u32,
    reports_since: Option<Instant>,
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
        let (reports, mut reported) = mpsc::channel(16);
        let mut task = Self {
            negotiation: Negotiation::new(first, common.config.limits),
            id,
            common,
            connections: BTreeMap::new(),
            tasks: JoinSet::new(),
            reports,
            offer: None,
            claimed_key: None,
            reports_left: REPORT_BURST,
            reports_since: None,
        };
        presence.mark_changed();
        loop {
            let deadline = task.negotiation.deadline();
            tokio::select! {
                biased;
                _ = awaited(&mut closing, |closing| closing) => break,
                Some((attempt, report)) = reported.recv() => task.on_report(attempt, report).await,
                Some(_) = task.tasks.join_next() => {}
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
        let input = if presence.present && self.key().is_some() {
            Input::Present {
                epoch: presence.epoch,
            }
        } else {
            Input::Absent
        };
        self.put_in(input).await;
    }

    async fn on_report(&mut self, attempt: Attempt, report: Report) {
        match report {
            Report::Verified => self.put_in(Input::Verified { attempt }).await,
            Report::Ended => {
                self.connections.remove(&attempt);
                self.put_in(Input::Ended { attempt }).await;
            }
        }
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
        self.offer = Some(Offer { sdp, verified, key });
        self.put_in(Input::Offer {
            digest: verified.digest,
            epoch: verified.epoch,
        })
        .await;
        self.offer = None;
    }

    async fn on_answer(&mut self, sdp: &str, statement: Option<&SignedDescription>) {
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

    async fn on_candidate(&mut self, candidate: IceCandidate) {
        let current = self.negotiation.current();
        let Some(handle) = current.and_then(|attempt| self.connections.get_mut(&attempt)) else {
            return count(&self.common.board.counters.signals_dropped);
        };
        let Some(ufrag) = &handle.remote_ufrag else {
            if handle.early.len() < MAX_CANDIDATES {
                handle.early.push(candidate);
            } else {
                count(&self.common.board.counters.signals_dropped);
            }
            return;
        };
        if candidate
            .username_fragment
            .as_ref()
            .is_some_and(|of| !of.is_empty() && of != ufrag)
        {
            return count(&self.common.board.counters.signals_dropped);
        }
        let candidate = Candidate {
            candidate: candidate.candidate,
            sdp_mid: candidate.sdp_mid,
            sdp_m_line_index: candidate.sdp_mline_index,
            username_fragment: candidate.username_fragment,
        };
        if let Err(error) = handle.peer.add_candidate(candidate).await {
            tracing::debug!(peer = %self.id, %error, "candidate refused");
            count(&self.common.board.counters.signals_dropped);
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
        let (to_us, happenings) = mpsc::channel(HAPPENINGS);
        let (peer, description) = match engine::Peer::offer(&self.common.engine, to_us).await {
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
        let offer = Signal::Offer {
            sdp: description.sdp,
            statement: Some(Box::new(statement)),
        };
        if !self.send(offer).await {
            return false;
        }
        count(&self.common.board.counters.offers_sent);
        self.start(attempt, peer, happenings, session, Some(digest), None, None);
        true
    }

    /// Makes a connection for the offer that came, and answers. `false`: nothing came of it.
    async fn answer(&mut self, attempt: Attempt) -> bool {
        let Some(Offer { sdp, verified, key }) = self.offer.take() else {
            return false;
        };
        let (to_us, happenings) = mpsc::channel(HAPPENINGS);
        let (peer, description) = match engine::Peer::answer(&self.common.engine, &sdp, to_us).await {
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
    ) {
        let peer = Arc::new(peer);
        let facts = Arc::new(facts.map_or_else(OnceLock::new, OnceLock::from));
        let (orders, ordered) = watch::channel(Order::Connect);
        let connection = Connection {
            attempt,
            peer_id: self.id.clone(),
            identity: self.common.config.identity.clone(),
            limits: self.common.config.limits,
            peer: Arc::clone(&peer),
            happenings,
            facts: Arc::clone(&facts),
            orders: ordered,
            reports: self.reports.clone(),
            signals: self.common.signals.clone(),
            events: self.common.events.clone(),
            board: Arc::clone(&self.common.board),
        };
        self.tasks.spawn(connection.run());
        let handle = Handle {
            peer,
            orders,
            facts,
            session,
            offer,
            remote_ufrag,
            early: Vec::new(),
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
