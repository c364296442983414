//! The task that owns one connection to one peer: hands out candidates, exchanges hellos, and, once it is the link, moves
//! frames both ways until its end.

use std::{
    pin::pin,
    sync::{Arc, OnceLock, atomic::Ordering},
    time::Duration,
};

use bytes::Bytes;
use ifmesh_signaling::{IceCandidate, Signal, SignalSender};
use ifmesh_transport::{
    Assembler, ChunkLimits, DownReason, Events, Lane, LinkNotice, Splitter, TransportEvent, awaited,
    is_chunk, is_upkeep,
};
use ifmsg::{AgentId, Identity};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, watch},
    task::yield_now,
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    board::{Accepted, Board, CUT_ABOVE, Outbound, count},
    config::{MAX_FRAME, MAX_MESSAGE, WebRtcLimits},
    engine::{self, Beat, CloseReason, Peer, PeerEvent},
    hello::{self, Facts},
    negotiation::Attempt,
    notices::Notices,
    pacing::Pacing,
    probing::{PROBE, probe},
};

/// How long a candidate waits for the signaling server.
const SIGNAL_PATIENCE: Duration = Duration::from_secs(1);
/// How long best-effort frames wait for their channel, which opens right after the first. A peer that has none gets them by
/// the other.
const LOOSE_PATIENCE: Duration = Duration::from_millis(500);
/// The longest chunk of the reliable lane, header included. Small, because whatever comes next waits for it.
const CHUNK: usize = 16 * 1024;
/// Bytes of whole frames that go between two chunks at most, so that a long frame gets on under any load.
const BETWEEN_CHUNKS: usize = 64 * 1024;
/// How long to wait for news of what is on its way.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// Bytes that are hashed before others get a turn.
const DIGEST_STEP: usize = 32 * 1024;
/// How often the path is looked at.
const MEASURE: Duration = Duration::from_secs(5);
/// Bad chunks after which a peer is cut off.
const MAX_BAD_CHUNKS: u32 = 64;

/// What the owner wants of a connection. Later orders supersede.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order {
    /// Set up.
    Connect,
    /// Be the link.
    Adopt,
    /// Get rid of what was accepted, say goodbye, end; the transport goes on.
    Rest,
    /// End at once.
    Cut(DownReason),
    /// Get rid of what was accepted, say goodbye, end.
    Close,
}

/// What a connection tells its owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Report {
    /// The peer's hello verified; waits for `Order::Adopt`.
    Verified,
    /// It is the link, and up.
    Up,
    /// The peer has not been heard for a while.
    Silent,
    /// The peer is heard again.
    Heard,
    /// Over. The last report; the link's events are all out.
    Ended,
}

/// One connection, before it runs.
pub(crate) struct Connection {
    pub(crate) attempt: Attempt,
    pub(crate) peer_id: AgentId,
    pub(crate) identity: Identity,
    pub(crate) limits: WebRtcLimits,
    pub(crate) on_demand: bool,
    pub(crate) peer: Arc<Peer>,
    pub(crate) happenings: mpsc::Receiver<PeerEvent>,
    /// Filled when both descriptions have verified, which is before a channel can open.
    pub(crate) facts: Arc<OnceLock<Facts>>,
    pub(crate) orders: watch::Receiver<Order>,
    pub(crate) reports: mpsc::Sender<(Attempt, Report)>,
    pub(crate) signals: SignalSender,
    pub(crate) events: Events,
    pub(crate) board: Arc<Board>,
    pub(crate) notices: Notices,
    /// When the path is looked at.
    pub(crate) beat: Beat,
}

/// A connection that is set up and proven.
struct Proven {
    max_frame: usize,
    /// The peer takes frames in chunks.
    chunks: bool,
    loose_open: bool,
}

impl Connection {
    /// Runs to the end.
    pub(crate) async fn run(mut self) {
        let deadline = Instant::now() + self.limits.handshake_timeout;
        if let Some(proven) = self.set_up(deadline).await {
            self.report(Report::Verified).await;
            if self.adopted().await {
                self.serve(proven).await;
            }
        }
        let order = *self.orders.borrow();
        if matches!(order, Order::Close | Order::Rest) {
            self.peer.close().await;
        }
        self.report(Report::Ended).await;
    }

    /// Until the peer's hello has verified. `None`: the connection is of no use.
    async fn set_up(&mut self, deadline: Instant) -> Option<Proven> {
        let mut loose_open = false;
        let mut opened = false;
        loop {
            let happening = tokio::select! {
                biased;
                _ = over(&mut self.orders) => return None,
                () = sleep_until(deadline) => {
                    if opened {
                        self.refuse("hello-missing", "the channel opened and no hello came in time");
                    } else {
                        self.refuse_unfinished("no channel came of it in time");
                    }
                    return None;
                }
                happening = self.happenings.recv() => happening?,
            };
            match happening {
                PeerEvent::LocalCandidate(candidate) => self.signal(candidate).await,
                PeerEvent::ChannelOpen(engine::Lane::BestEffort) => loose_open = true,
                PeerEvent::ChannelOpen(engine::Lane::Messaging) => {
                    opened = true;
                    let facts = self.facts.get()?;
                    let proved = self.peer.remote_fingerprint();
                    if proved.is_none_or(|proved| proved.as_bytes() != facts.peer_fingerprint.as_bytes()) {
                        self.refuse(
                            "fingerprint-mismatch",
                            "the certificate is not the one in the signed description",
                        );
                        return None;
                    }
                    let hello = hello::write(&self.identity, facts, MAX_FRAME);
                    self.peer.send(engine::Lane::Messaging, hello).await.ok()?;
                }
                PeerEvent::Frame(engine::Lane::Messaging, frame) => {
                    return match hello::read(&frame, self.facts.get()?) {
                        Ok(theirs) => {
                            // Who takes more than any message can have takes chunks.
                            let chunks = theirs > MAX_MESSAGE;
                            let most = if chunks { MAX_FRAME } else { self.peer.max_frame() };
                            Some(Proven {
                                max_frame: theirs.min(most),
                                chunks,
                                loose_open,
                            })
                        }
                        Err(rejected) => {
                            self.refuse(rejected.name(), &rejected.to_string());
                            None
                        }
                    };
                }
                // The peer has our hello, and its own is still on its way: this lane overtakes.
                PeerEvent::Frame(engine::Lane::BestEffort, _) => {}
                PeerEvent::Closed(reason) => {
                    tracing::debug!(peer = %self.peer_id, attempt = self.attempt, ?reason, "set-up failed");
                    if matches!(reason, CloseReason::Failed | CloseReason::Misbehaved) {
                        self.refuse_unfinished("the connection failed before a channel opened");
                    }
                    return None;
                }
                PeerEvent::State(_) | PeerEvent::GatheringDone => {}
            }
        }
    }

    /// `false`: it is not to be.
    async fn adopted(&mut self) -> bool {
        let order = awaited(&mut self.orders, |order| order != Order::Connect).await;
        order == Some(Order::Adopt)
    }

    /// As the link, from `LinkUp` to `LinkDown`.
    async fn serve(&mut self, proven: Proven) {
        let dropped = self.board.dropped_counter(&self.peer_id);
        let (outbound, mut accepted) = Outbound::new(
            proven.max_frame,
            proven.chunks,
            self.limits.queue_bytes,
            self.limits.bulk_bytes,
            dropped,
        );
        if self.board.is_closing() {
            return;
        }
        count(&self.board.counters.links_up);
        self.board.up(&self.peer_id, Arc::clone(&outbound));
        measure(&self.peer, &self.peer_id, &self.board).await;
        tracing::debug!(peer = %self.peer_id, attempt = self.attempt, "link up");
        for lane in [engine::Lane::Messaging, engine::Lane::BestEffort] {
            if lane == engine::Lane::Messaging || proven.loose_open {
                self.notices.tell(|| LinkNotice::ChannelOpen {
                    peer: self.peer_id.clone(),
                    label: lane.label(),
                });
            }
        }
        self.report(Report::Up).await;

        let up = TransportEvent::LinkUp {
            peer: self.peer_id.clone(),
        };
        let announced = tokio::select! {
            biased;
            () = self.events.push(up) => true,
            _ = over(&mut self.orders) => false,
        };
        if announced {
            let reason = self.carry(proven, &outbound, &mut accepted).await;
            self.board.down(&self.peer_id);
            tracing::debug!(peer = %self.peer_id, attempt = self.attempt, reason = reason.as_str(), "link down");
            self.link_down(reason).await;
        } else {
            self.board.down(&self.peer_id);
        }
    }

    /// Moves frames both ways until the end, and says why it ended.
    async fn carry(&mut self, proven: Proven, outbound: &Outbound, accepted: &mut Accepted) -> DownReason {
        let (loose_open, loose_opened) = watch::channel(proven.loose_open);
        let flushed = {
            let candidates = Candidates {
                peer_id: &self.peer_id,
                signals: &self.signals,
                notices: &self.notices,
                reports: Some((&self.reports, self.attempt)),
            };
            let write_loose = write_loose(&self.peer, outbound, loose_opened);
            let refusals = Refusals {
                peer_id: &self.peer_id,
                events: &self.events,
                board: &self.board,
            };
            let mut write = pin!(write(
                &self.peer,
                outbound,
                accepted,
                self.orders.clone(),
                &refusals,
                &self.limits
            ));
            let pump = pump(
                &refusals,
                self.limits.chunks,
                &mut self.happenings,
                &candidates,
                &loose_open,
                outbound,
                self.on_demand,
            );
            let watch_path = watch_path(&self.peer, &self.peer_id, &self.board, self.beat);
            let mut probe = pin!(probe(&self.peer, outbound, &self.board, &self.peer_id));
            let flushed = tokio::select! {
                biased;
                order = over(&mut self.orders) => match order {
                    Order::Cut(reason) => return reason,
                    _ => false,
                },
                reason = pump => return reason,
                written = &mut write => match written {
                    Written::All => true,
                    Written::Stalled => return DownReason::Stalled,
                },
                () = write_loose => false,
                () = watch_path => false,
                () = &mut probe => return DownReason::Timeout,
            };
            outbound.close();
            // A lone frame is acknowledged after 200 ms, unless a probe comes behind it.
            let rest = async {
                tokio::select! {
                    written = write => matches!(written, Written::All),
                    () = probe => false,
                }
            };
            flushed || timeout(self.limits.close_timeout, rest).await.unwrap_or(false)
        };
        while let Some(frame) = outbound.try_next_loose() {
            let _ = self.peer.try_send(engine::Lane::BestEffort, frame).await;
        }
        let mut unsent = 0;
        accepted.close();
        while accepted.frames.recv().await.is_some() || accepted.bulk.recv().await.is_some() {
            unsent += 1;
        }
        if !flushed {
            // How many frames the peer has not acknowledged, SCTP does not tell: at least one.
            unsent += 1;
        }
        self.board.counters.unsent.fetch_add(unsent, Ordering::Relaxed);
        DownReason::Local
    }

    async fn link_down(&mut self, reason: DownReason) {
        let down = TransportEvent::LinkDown {
            peer: self.peer_id.clone(),
            reason,
        };
        // Closing waits for no reader.
        let closing = async {
            awaited(&mut self.orders, |order| order == Order::Close).await;
        };
        tokio::select! {
            biased;
            () = self.events.push(down.clone()) => {}
            () = closing => self.events.offer(down),
        }
    }

    async fn signal(&self, candidate: engine::Candidate) {
        let candidates = Candidates {
            peer_id: &self.peer_id,
            signals: &self.signals,
            notices: &self.notices,
            reports: None,
        };
        candidates.hand_out(candidate).await;
    }

    fn refuse(&self, reason: &'static str, detail: &str) {
        let refusals = Refusals {
            peer_id: &self.peer_id,
            events: &self.events,
            board: &self.board,
        };
        refusals.refuse(reason, detail);
    }

    /// A set-up that the peer's own signed description began, and that led nowhere. Whether the peer or the network is at fault
    /// nobody can tell.
    fn refuse_unfinished(&self, detail: &str) {
        if self.facts.get().is_some() {
            self.refuse("handshake-unfinished", detail);
        }
    }

    async fn report(&self, report: Report) {
        let _ = self.reports.send((self.attempt, report)).await;
    }
}

/// Where what a peer did wrong is told.
struct Refusals<'a> {
    peer_id: &'a AgentId,
    events: &'a Events,
    board: &'a Board,
}

impl Refusals<'_> {
    fn refuse(&self, reason: &'static str, detail: &str) {
        count(&self.board.counters.refused);
        tracing::info!(peer = %self.peer_id, reason, "refused");
        self.events.offer_aside(TransportEvent::Refused {
            peer: Some(self.peer_id.clone()),
            reason,
            detail: detail.to_owned(),
        });
    }
}

/// Frames from the peer, until the connection ends.
async fn pump(
    peer: &Refusals<'_>,
    limits: ChunkLimits,
    happenings: &mut mpsc::Receiver<PeerEvent>,
    candidates: &Candidates<'_>,
    loose_open: &watch::Sender<bool>,
    outbound: &Outbound,
    on_demand: bool,
) -> DownReason {
    let mut assemblers = [Assembler::new(limits), Assembler::new(limits)];
    let mut bad_chunks = 0;
    loop {
        let expiry = assemblers.iter().filter_map(Assembler::next_expiry).min();
        let happening = tokio::select! {
            biased;
            happening = happenings.recv() => happening,
            () = sleep_until(expiry.unwrap_or_else(Instant::now)), if expiry.is_some() => {
                for expired in assemblers.iter_mut().flat_map(|lane| lane.expire(Instant::now())) {
                    peer.refuse(expired.name(), &expired.to_string());
                }
                continue;
            }
        };
        match happening {
            Some(PeerEvent::Frame(engine::Lane::BestEffort, message)) if message == PROBE => {}
            Some(PeerEvent::Frame(lane, message)) => {
                if on_demand && !is_upkeep(&message) {
                    peer.board.used(outbound);
                }
                let (lane, assembler) = match lane {
                    engine::Lane::Messaging => (Lane::Reliable, &mut assemblers[0]),
                    engine::Lane::BestEffort => (Lane::BestEffort, &mut assemblers[1]),
                };
                match assembler.accept(message, Instant::now()) {
                    Ok(Some(frame)) => {
                        #[cfg(test)]
                        crate::healing_tests::fall_if_asked(&frame);
                        let event = TransportEvent::Frame {
                            from: peer.peer_id.clone(),
                            lane,
                            frame,
                            road: None,
                        };
                        peer.events.push(event).await;
                    }
                    Ok(None) => {}
                    Err(error) => {
                        peer.refuse(error.name(), &error.to_string());
                        bad_chunks += 1;
                        if bad_chunks == MAX_BAD_CHUNKS {
                            return DownReason::Misbehaved;
                        }
                    }
                }
            }
            Some(PeerEvent::LocalCandidate(candidate)) => candidates.hand_out(candidate).await,
            Some(PeerEvent::State(engine::LinkState::Disconnected)) => {
                candidates.report(Report::Silent).await
            }
            Some(PeerEvent::State(engine::LinkState::Connected)) => candidates.report(Report::Heard).await,
            Some(PeerEvent::ChannelOpen(engine::Lane::BestEffort)) => {
                loose_open.send_replace(true);
            }
            Some(PeerEvent::Closed(reason)) => {
                return match reason {
                    CloseReason::Remote => DownReason::PeerClosed,
                    CloseReason::Failed => DownReason::Timeout,
                    CloseReason::Misbehaved => DownReason::Misbehaved,
                    CloseReason::Local => DownReason::Local,
                };
            }
            None => return DownReason::Network,
            Some(_) => {}
        }
    }
}

/// The reliable lane. Ends only after `Order::Close`, when the peer has everything that was accepted.
///
/// Frames go in the order in which they were accepted. Long ones go in chunks, one long frame at a time, and only while
/// little else is on its way.
async fn write(
    peer: &Peer,
    outbound: &Outbound,
    accepted: &mut Accepted,
    mut orders: watch::Receiver<Order>,
    refusals: &Refusals<'_>,
    limits: &WebRtcLimits,
) -> Written {
    let mut closing = pin!(over(&mut orders));
    let mut open = true;
    let (mut frames, mut bulk) = (true, true);
    let mut cutting: Option<(Splitter, OwnedSemaphorePermit)> = None;
    let mut pacing = Pacing::new(CHUNK);
    let mut number = 0;
    let mut between = 0;
    let stall = Stall::new(refusals, limits);
    while frames || bulk || cutting.is_some() {
        let sent = tokio::select! {
            biased;
            next = accepted.frames.recv(), if frames && between < BETWEEN_CHUNKS => match next {
                Some((mut frame, _room)) => {
                    if cutting.is_some() {
                        between += frame.len().max(1);
                    }
                    if outbound.takes_chunks() && is_chunk(&frame) {
                        number += 1;
                        frame = Splitter::new(number, frame.clone(), CHUNK).next_chunk().unwrap_or(frame);
                    }
                    pacing.frame_sent(frame.len());
                    outbound.sent(frame.len());
                    stall.bounds(peer.send(engine::Lane::Messaging, frame)).await
                }
                None => {
                    frames = false;
                    Ok(Ok(()))
                }
            },
            _ = &mut closing, if open => {
                open = false;
                accepted.close();
                Ok(Ok(()))
            }
            next = accepted.bulk.recv(), if bulk && cutting.is_none() => {
                match next {
                    Some((frame, room)) => {
                        number += 1;
                        pacing.restart();
                        cutting = Some((Splitter::new(number, frame, CHUNK), room));
                    }
                    None => bulk = false,
                }
                Ok(Ok(()))
            }
            room = stall.bounds(room(peer, &mut pacing, between)), if cutting.is_some() => {
                if room.is_err() {
                    return Written::Stalled;
                }
                between = 0;
                let Some((splitter, _room)) = &mut cutting else {
                    continue;
                };
                if !splitter.digest_some(DIGEST_STEP) {
                    yield_now().await;
                    Ok(Ok(()))
                } else if let Some(chunk) = splitter.next_chunk() {
                    pacing.chunk_sent(chunk.len(), Instant::now());
                    outbound.sent(chunk.len());
                    stall.bounds(peer.send(engine::Lane::Messaging, chunk)).await
                } else {
                    cutting = None;
                    Ok(Ok(()))
                }
            }
        };
        let Ok(sent) = sent else {
            return Written::Stalled;
        };
        if sent.is_err() {
            // Who waits for room learns it now; that the link is down, the pump will say, after the frames that still came.
            outbound.close();
            break;
        }
    }
    if open {
        closing.await;
    }
    while peer.buffered_amount(engine::Lane::Messaging).await > 0 {
        sleep(Duration::from_millis(1)).await;
    }
    Written::All
}

/// How writing ended.
enum Written {
    /// The peer has everything that was accepted.
    All,
    /// The peer took nothing for too long.
    Stalled,
}

/// The peer took nothing for too long.
struct Stalled;

/// What to do about a peer that takes nothing: wait, tell, end.
struct Stall<'a> {
    refusals: &'a Refusals<'a>,
    report: Duration,
    limit: Duration,
}

impl<'a> Stall<'a> {
    fn new(refusals: &'a Refusals<'a>, limits: &WebRtcLimits) -> Self {
        Self {
            refusals,
            report: limits.stall_report.min(limits.stall_limit),
            limit: limits.stall_limit,
        }
    }

    async fn bounds<T>(&self, sending: impl Future<Output = T>) -> Result<T, Stalled> {
        let mut sending = pin!(sending);
        if let Ok(done) = timeout(self.report, &mut sending).await {
            return Ok(done);
        }
        self.refusals.refuse(
            "peer-stalled",
            "the peer has taken nothing for a while; those who send to it wait",
        );
        timeout(self.limit - self.report, sending)
            .await
            .map_err(|_| Stalled)
    }
}

/// Until there is room for a chunk, or whole frames have had their turn.
async fn room(peer: &Peer, pacing: &mut Pacing, between: usize) {
    if between >= BETWEEN_CHUNKS {
        return;
    }
    loop {
        let unacknowledged = peer.buffered_amount(engine::Lane::Messaging).await;
        if pacing.may_send(unacknowledged, Instant::now()) {
            break;
        }
        let _ = timeout(LOOK_AGAIN, peer.drained(engine::Lane::Messaging)).await;
    }
}

/// The best-effort lane.
async fn write_loose(peer: &Peer, outbound: &Outbound, mut open: watch::Receiver<bool>) {
    let lane = match timeout(LOOSE_PATIENCE, awaited(&mut open, |open| open)).await {
        Ok(Some(_)) => engine::Lane::BestEffort,
        _ => engine::Lane::Messaging,
    };
    let mut number = 0;
    loop {
        let frame = outbound.next_loose().await;
        let parts: &mut (dyn Iterator<Item = Bytes> + Send) =
            if outbound.takes_chunks() && (Splitter::is_needed(&frame, CUT_ABOVE) || frame == PROBE) {
                number += 1;
                &mut Splitter::new(number, frame, CHUNK)
            } else {
                &mut std::iter::once(frame)
            };
        // While this waits, the queue drops its oldest.
        for part in parts {
            if peer.send(lane, part).await.is_err() {
                outbound.count_dropped();
                break;
            }
        }
    }
}

/// The way to the peer by the signaling server, and to the owner.
struct Candidates<'a> {
    peer_id: &'a AgentId,
    signals: &'a SignalSender,
    notices: &'a Notices,
    reports: Option<(&'a mpsc::Sender<(Attempt, Report)>, Attempt)>,
}

impl Candidates<'_> {
    /// A candidate that finds no server is lost; another attempt will have others.
    async fn hand_out(&self, candidate: engine::Candidate) {
        let candidate = IceCandidate {
            candidate: candidate.candidate,
            sdp_mid: candidate.sdp_mid,
            sdp_mline_index: candidate.sdp_m_line_index,
            username_fragment: candidate.username_fragment,
        };
        let sent = self
            .signals
            .send(self.peer_id.clone(), Signal::Candidate(candidate));
        if let Ok(Ok(())) = timeout(SIGNAL_PATIENCE, sent).await {
            self.notices.tell(|| LinkNotice::CandidateSent {
                peer: self.peer_id.clone(),
            });
        }
    }

    async fn report(&self, report: Report) {
        if let Some((reports, attempt)) = &self.reports {
            let _ = reports.send((*attempt, report)).await;
        }
    }
}

/// Keeps what `links` says of the path up to date, for as long as it is polled.
async fn watch_path(peer: &Peer, peer_id: &AgentId, board: &Board, beat: Beat) {
    loop {
        sleep_until(beat.next(MEASURE)).await;
        measure(peer, peer_id, board).await;
    }
}

async fn measure(peer: &Peer, peer_id: &AgentId, board: &Board) {
    let (path, round_trip) = (peer.path().await, peer.round_trip().await);
    board.measured(peer_id, path, round_trip);
}

/// The order that ends the connection, once it is given. An owner that is gone wants nothing more.
async fn over(orders: &mut watch::Receiver<Order>) -> Order {
    awaited(orders, |order| {
        matches!(order, Order::Cut(_) | Order::Close | Order::Rest)
    })
    .await
    .unwrap_or(Order::Cut(DownReason::Local))
}
