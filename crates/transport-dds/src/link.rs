//! One link to one life of one peer: its queues, its credit, and the two tasks that move frames.
//!
//! DDS keeps the reliable lane in order and whole as long as no cache overflows. So a sender never has more under way than
//! the receiver's window; only strangers, who share the inbox, can make it overflow. A receiver counts: a number that is
//! missing is told of, and left to the session to mend.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ifmesh_transport::{
    Assembler, ChunkLimits, DownReason, Events, Lane, Splitter, TransportEvent, awaited, is_chunk,
};
use ifmsg::{AgentId, Identity, PublicKey};
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, timeout_at},
};

use crate::{
    board::{Board, count},
    config::DdsLimits,
    engine::Writers,
    queues::{Loose, Outbound, Waiting},
    sending::{SAMPLE_COST, Sending, cost},
    statement::{Alive, Hello, Said},
    wire::{Frame, Kind},
};

/// The first repetition of a heartbeat that brought news; each further one waits twice as long.
const TELL_AGAIN: Duration = Duration::from_millis(30);
/// Samples that were sent, and of which none came for so long, are lost.
const LOST_AFTER: Duration = Duration::from_secs(2);
/// How much of a large frame is hashed before others may run.
const HASH_AT_ONCE: usize = 256 << 10;

/// What all links of a transport have in common.
pub(crate) struct Common {
    pub(crate) agent: AgentId,
    pub(crate) name: Arc<str>,
    pub(crate) identity: Identity,
    pub(crate) limits: DdsLimits,
    pub(crate) max_sample: usize,
    pub(crate) events: Events,
    pub(crate) board: Arc<Board>,
}

impl Common {
    pub(crate) fn refused(&self, peer: Option<AgentId>, reason: &'static str, detail: String) {
        count(&self.board.counters.refused);
        tracing::info!(?peer, reason, detail, "refused");
        self.events
            .offer_aside(TransportEvent::Refused { peer, reason, detail });
    }
}

/// A link that is up, or was.
pub(crate) struct Link {
    common: Arc<Common>,
    pub(crate) peer: AgentId,
    pub(crate) key: PublicKey,
    /// Our id for it, and the peer's.
    pub(crate) local: u64,
    pub(crate) remote: u64,
    pub(crate) outbound: Arc<Outbound>,
    /// The number of the last of its heartbeats.
    heard: AtomicU64,
    incoming: mpsc::Sender<Arrival>,
    inward: Mutex<Inward>,
    /// Credit that came in, and that was taken out.
    arrived: AtomicU64,
    returned: AtomicU64,
    /// The last sample that was taken, or given up.
    taken: AtomicU64,
    awaited: Mutex<Awaited>,
    told: Mutex<Told>,
    loose_in: Loose,
    /// Set once, when it is over.
    end: watch::Sender<Option<DownReason>>,
    /// This side closes: flush, then say goodbye.
    closing: watch::Sender<bool>,
}

/// What comes by the reliable lane.
pub(crate) enum Arrival {
    Sample(Frame),
    /// Everything up to this number that did not come is lost.
    GiveUp(u64),
}

/// The receiving end of the reliable lane.
struct Inward {
    numbers: Numbers,
    /// What the link's task has yet to hand over: while there is anything, nothing overtakes it.
    queued: usize,
}

/// Which samples of the reliable lane were taken, or given up: all below the next one.
struct Numbers {
    next: u64,
}

impl Numbers {
    /// The first and the last of those that are lost thereby, and whether what came is new.
    fn take(&mut self, arrival: &Arrival) -> (Option<(u64, u64)>, bool) {
        let (first, next) = match arrival {
            Arrival::Sample(frame) => (frame.number, frame.number.saturating_add(1)),
            Arrival::GiveUp(last) => (last.saturating_add(1), last.saturating_add(1)),
        };
        if first < self.next {
            return (None, false);
        }
        let lost = (first > self.next).then(|| (self.next, first - 1));
        self.next = next;
        (lost, true)
    }
}

/// Where the reliable lane stands.
struct Awaited {
    /// The number of the last sample that came, and when.
    last: u64,
    at: Instant,
    /// What the peer says that it has sent.
    sent: u64,
}

/// What the peer was told.
struct Told {
    count: u64,
    taken: u64,
    /// Of the credit that was taken out.
    returned: u64,
    again: Instant,
    pause: Duration,
}

/// What the tasks of a link read from.
pub(crate) struct Feeds {
    incoming: mpsc::Receiver<Arrival>,
    waiting: mpsc::Receiver<Waiting>,
}

impl Link {
    /// A link after its hellos.
    pub(crate) fn new(
        common: &Arc<Common>,
        key: PublicKey,
        writers: Arc<Writers>,
        local: u64,
        hello: &Hello,
    ) -> (Arc<Self>, Feeds) {
        let limits = &common.limits;
        let peer_limit = usize::try_from(hello.max_frame).unwrap_or(usize::MAX);
        let dropped = common.board.dropped_counter(&hello.from);
        let sending = Sending::new(
            writers,
            [Arc::clone(&common.name), hello.from.as_str().into()],
            hello.link,
            hello.window,
            limits,
            common.max_sample,
        );
        let (outbound, waiting) = Outbound::new(
            peer_limit.min(limits.max_frame),
            limits.queue_bytes,
            Arc::clone(&dropped),
            sending,
        );
        let samples = limits.window_bytes as u64 / SAMPLE_COST + 64;
        let (incoming, receiver) = mpsc::channel(usize::try_from(samples).unwrap_or(usize::MAX));
        let link = Self {
            common: Arc::clone(common),
            peer: hello.from.clone(),
            key,
            local,
            remote: hello.link,
            outbound: Arc::new(outbound),
            heard: AtomicU64::new(0),
            incoming,
            // That the link is up comes first.
            inward: Mutex::new(Inward {
                numbers: Numbers { next: 1 },
                queued: 1,
            }),
            arrived: AtomicU64::new(0),
            returned: AtomicU64::new(0),
            taken: AtomicU64::new(0),
            awaited: Mutex::new(Awaited {
                last: 0,
                at: Instant::now(),
                sent: 0,
            }),
            told: Mutex::new(Told {
                count: 0,
                taken: 0,
                returned: 0,
                again: Instant::now(),
                pause: TELL_AGAIN,
            }),
            loose_in: Loose::new(limits.queue_bytes, dropped),
            end: watch::channel(None).0,
            closing: watch::channel(false).0,
        };
        let feeds = Feeds {
            incoming: receiver,
            waiting,
        };
        (Arc::new(link), feeds)
    }

    /// It is over. Only the first reason counts.
    pub(crate) fn end(&self, reason: DownReason) {
        self.end.send_if_modified(|end| {
            let first = end.is_none();
            end.get_or_insert(reason);
            first
        });
        self.outbound.close();
    }

    /// This side closes.
    pub(crate) fn close(&self) {
        self.closing.send_replace(true);
    }

    /// A sample of the reliable lane came. Never waits: what does not fit is more than was granted.
    pub(crate) fn arrived(&self, frame: Frame) {
        let slack = (64 << 10) + SAMPLE_COST;
        let most = self.common.limits.window_bytes as u64 + slack;
        let cost = cost(&frame.payload);
        let arrived = self.arrived.fetch_add(cost, Ordering::Relaxed) + cost;
        let unread = arrived.saturating_sub(self.returned.load(Ordering::Relaxed));
        let mut awaited = self.awaited();
        awaited.last = awaited.last.max(frame.number);
        awaited.at = Instant::now();
        drop(awaited);
        if unread > most || !self.pass_on(frame) {
            self.misbehaved("window-exceeded", "it sends more than it was granted".to_owned());
        }
    }

    /// Hands a sample to the application at once if nothing waits before it and nothing has to be waited for; otherwise the link's
    /// task does. `false`: not even that has room for it.
    fn pass_on(&self, frame: Frame) -> bool {
        let mut inward = self.inward();
        let cost = cost(&frame.payload);
        let is_whole = frame.kind == Kind::Data
            && frame.payload.len() <= self.common.limits.max_frame
            && !is_chunk(&frame.payload);
        if is_whole && inward.queued == 0 && frame.number == inward.numbers.next {
            let event = self.event(Lane::Reliable, frame.payload.clone());
            if self.common.events.try_push(event).is_ok() {
                let number = frame.number;
                inward.numbers.take(&Arrival::Sample(frame));
                drop(inward);
                self.took(cost, number);
                return true;
            }
        }
        self.queue(&mut inward, Arrival::Sample(frame))
    }

    fn queue(&self, inward: &mut Inward, arrival: Arrival) -> bool {
        let queued = self.incoming.try_send(arrival).is_ok();
        inward.queued += usize::from(queued);
        queued
    }

    fn inward(&self) -> MutexGuard<'_, Inward> {
        self.inward.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A sample of the best-effort lane or a broadcast came.
    pub(crate) fn arrived_loose(&self, payload: Bytes) {
        self.loose_in.push(payload);
    }

    /// A verified heartbeat came.
    pub(crate) fn alive(&self, alive: &Alive) {
        self.heard.store(alive.count, Ordering::Relaxed);
        self.outbound.sending.hear(alive.taken);
        let mut awaited = self.awaited();
        if alive.sent > awaited.sent {
            if awaited.sent <= awaited.last {
                awaited.at = Instant::now();
            }
            awaited.sent = alive.sent;
        }
    }

    /// Gives up what was sent and does not come: a cache threw it away after it had been acknowledged.
    pub(crate) fn give_up_lost(&self, now: Instant) {
        let mut awaited = self.awaited();
        if awaited.sent > awaited.last && now.saturating_duration_since(awaited.at) > LOST_AFTER {
            let sent = awaited.sent;
            // Without room for it there is enough to take first.
            if self.queue(&mut self.inward(), Arrival::GiveUp(sent)) {
                awaited.last = sent;
            }
        }
    }

    fn awaited(&self) -> MutexGuard<'_, Awaited> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a heartbeat is newer than those before.
    pub(crate) fn is_news(&self, alive: &Alive) -> bool {
        alive.count > self.heard.load(Ordering::Relaxed)
    }

    /// Says that it is alive, and how much it has taken, if it is time for that.
    pub(crate) fn tell_in_time(&self, now: Instant) {
        let taken = self.taken.load(Ordering::Relaxed);
        let mut told = self.told();
        if taken == told.taken && now < told.again {
            return;
        }
        if taken > told.taken {
            told.pause = TELL_AGAIN;
        }
        told.again = now + told.pause;
        told.pause = (told.pause * 2).min(self.common.limits.heartbeat);
        self.tell(told, taken);
    }

    fn tell(&self, mut told: MutexGuard<'_, Told>, taken: u64) {
        told.count += 1;
        told.taken = taken;
        told.returned = self.returned.load(Ordering::Relaxed);
        let alive = self.said(told.count, taken, false);
        drop(told);
        let writers = &self.outbound.sending.writers;
        writers.best_effort.try_write(self.statement(&alive, 0));
    }

    fn said(&self, count: u64, taken: u64, goodbye: bool) -> Said {
        Said::Alive(Alive {
            from: self.common.agent.clone(),
            to: self.peer.clone(),
            link: self.local,
            peer_link: self.remote,
            count,
            taken,
            sent: self.outbound.sending.last_sent(),
            goodbye,
        })
    }

    fn statement(&self, said: &Said, number: u64) -> Frame {
        let payload = said.write(&self.common.identity);
        self.outbound.sending.frame(Kind::Statement, number, payload)
    }

    fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn misbehaved(&self, reason: &'static str, detail: String) {
        if self.end.borrow().is_none() {
            self.common.refused(Some(self.peer.clone()), reason, detail);
        }
        self.end(DownReason::Misbehaved);
    }

    async fn ended(&self) -> DownReason {
        let ended = awaited(&mut self.end.subscribe(), |end| end.is_some()).await;
        ended.flatten().unwrap_or(DownReason::Local)
    }

    async fn closed(&self) {
        let _ = awaited(&mut self.closing.subscribe(), |closing| closing).await;
    }

    /// Tells the application that the link is up, hands it what comes, and tells it that the link is down.
    pub(crate) async fn run_in(self: Arc<Self>, mut incoming: mpsc::Receiver<Arrival>) -> DownReason {
        let up = TransportEvent::LinkUp {
            peer: self.peer.clone(),
        };
        let events = &self.common.events;
        events.push(up).await;
        self.inward().queued -= 1;
        let reason = tokio::select! {
            biased;
            reason = self.ended() => reason,
            reason = self.take_reliable(&mut incoming) => reason,
            () = self.take_loose() => DownReason::Local,
        };
        self.end(reason);
        // Nothing comes after the event that follows.
        self.inward().queued += 1;
        reason
    }

    async fn take_reliable(&self, incoming: &mut mpsc::Receiver<Arrival>) -> DownReason {
        let mut assembler = Assembler::new(self.chunks(1));
        while let Some(arrival) = incoming.recv().await {
            if let Some(reason) = self.take_one(&mut assembler, arrival).await {
                return reason;
            }
            self.inward().queued -= 1;
        }
        DownReason::Local
    }

    /// Why the link is over, if it is.
    async fn take_one(&self, assembler: &mut Assembler, arrival: Arrival) -> Option<DownReason> {
        let (lost, is_new, last) = {
            let mut inward = self.inward();
            let (lost, is_new) = inward.numbers.take(&arrival);
            (lost, is_new, inward.numbers.next - 1)
        };
        if let Some((first, last)) = lost {
            let detail = format!("samples {first} to {last} of the reliable lane");
            let peer = Some(self.peer.clone());
            self.common.refused(peer, "samples-lost", detail);
            // What was begun will not be completed.
            *assembler = Assembler::new(self.chunks(1));
        }
        let Arrival::Sample(frame) = arrival else {
            self.took(0, last);
            return None;
        };
        let cost = cost(&frame.payload);
        match frame.kind {
            _ if !is_new => {}
            Kind::Statement => {
                if self.read(&frame.payload).is_some_and(|alive| alive.goodbye) {
                    return Some(DownReason::PeerClosed);
                }
            }
            Kind::Data => match assembler.accept(frame.payload, Instant::now()) {
                Ok(None) => {}
                Ok(Some(whole)) => self.hand_over(Lane::Reliable, whole).await,
                Err(error) => {
                    self.misbehaved(error.name(), error.to_string());
                    return Some(DownReason::Misbehaved);
                }
            },
        }
        self.took(cost, last);
        None
    }

    async fn take_loose(&self) {
        let mut assembler = Assembler::new(self.chunks(4));
        loop {
            let payload = self.loose_in.next().await;
            for error in assembler.expire(Instant::now()) {
                tracing::debug!(peer = %self.peer, %error, "a best-effort frame was not completed");
                self.loose_in.count_dropped();
            }
            match assembler.accept(payload, Instant::now()) {
                Ok(None) => {}
                Ok(Some(whole)) => self.hand_over(Lane::BestEffort, whole).await,
                Err(error) => self
                    .common
                    .refused(Some(self.peer.clone()), error.name(), error.to_string()),
            }
        }
    }

    fn chunks(&self, frames: usize) -> ChunkLimits {
        let max_frame = self.common.limits.max_frame;
        ChunkLimits {
            max_frame,
            max_messages: frames,
            max_bytes: max_frame,
            ..ChunkLimits::default()
        }
    }

    async fn hand_over(&self, lane: Lane, frame: Bytes) {
        if frame.len() > self.common.limits.max_frame {
            return;
        }
        self.common.events.push(self.event(lane, frame)).await;
    }

    fn event(&self, lane: Lane, frame: Bytes) -> TransportEvent {
        TransportEvent::Frame {
            from: self.peer.clone(),
            lane,
            frame,
            road: None,
        }
    }

    /// Gives credit back. The peer is told at once when a quarter of its window is free again.
    fn took(&self, cost: u64, taken: u64) {
        let returned = self.returned.fetch_add(cost, Ordering::Relaxed) + cost;
        self.taken.store(taken, Ordering::Relaxed);
        let mut told = self.told();
        if returned - told.returned >= self.common.limits.window_bytes as u64 / 4 {
            told.pause = TELL_AGAIN * 2;
            told.again = Instant::now() + TELL_AGAIN;
            self.tell(told, taken);
        }
    }

    /// A statement of this link's that the peer signed.
    pub(crate) fn read(&self, payload: &[u8]) -> Option<Alive> {
        let signed = crate::statement::Signed::read(payload)?;
        let Said::Alive(alive) = &signed.said else {
            return None;
        };
        let ours = alive.from == self.peer
            && alive.to == self.common.agent
            && alive.link == self.remote
            && alive.peer_link == self.local;
        if !ours {
            return None;
        }
        match signed.verify(&self.key)? {
            Said::Alive(alive) => Some(alive),
            Said::Hello(_) => None,
        }
    }

    /// Sends what is accepted until the link is over; when this side closes, flushes and says goodbye. Returns how many
    /// accepted frames did not leave.
    pub(crate) async fn run_out(self: Arc<Self>, mut waiting: mpsc::Receiver<Waiting>) -> u64 {
        let mut frames = 0;
        let reliable = async {
            loop {
                let next = tokio::select! {
                    biased;
                    next = waiting.recv() => next,
                    () = self.closed() => waiting.try_recv().ok(),
                };
                let Some((frame, room)) = next else { break };
                self.send_frame(frame, &mut frames).await;
                self.outbound.sending.unqueued();
                drop(room);
            }
            self.goodbye().await;
        };
        tokio::select! {
            biased;
            _ = self.ended() => {}
            () = reliable => {}
            () = self.send_loose() => {}
        }
        let mut left = 0;
        while waiting.try_recv().is_ok() {
            left += 1;
        }
        left
    }

    async fn send_loose(&self) {
        let mut number = 0;
        let mut frames = 0;
        loop {
            let frame = self.outbound.loose.next().await;
            if !Splitter::is_needed(&frame, self.common.max_sample) {
                number += 1;
                self.send_loosely(number, frame).await;
                continue;
            }
            frames += 1;
            let mut splitter = Splitter::new(frames, frame, self.common.max_sample);
            while !splitter.digest_some(HASH_AT_ONCE) {
                tokio::task::yield_now().await;
            }
            while let Some(chunk) = splitter.next_chunk() {
                number += 1;
                self.send_loosely(number, chunk).await;
            }
        }
    }

    async fn send_loosely(&self, number: u64, payload: Bytes) {
        let sending = &self.outbound.sending;
        let frame = sending.frame(Kind::Data, number, payload);
        if !sending
            .writers
            .best_effort
            .write(frame, self.common.limits.write_timeout)
            .await
        {
            self.outbound.loose.count_dropped();
        }
    }

    /// Sends a frame that had to wait, whole or cut; `frames` numbers those that are cut.
    async fn send_frame(&self, frame: Bytes, frames: &mut u64) {
        let max_sample = self.common.max_sample;
        if !Splitter::is_needed(&frame, max_sample) {
            return self.send_sample(frame).await;
        }
        *frames += 1;
        let mut splitter = Splitter::new(*frames, frame, max_sample);
        while !splitter.digest_some(HASH_AT_ONCE) {
            tokio::task::yield_now().await;
        }
        while let Some(chunk) = splitter.next_chunk() {
            self.send_sample(chunk).await;
        }
    }

    async fn send_sample(&self, payload: Bytes) {
        let sending = &self.outbound.sending;
        let number = sending.room(cost(&payload)).await;
        self.write(sending.frame(Kind::Data, number, payload)).await;
    }

    /// Until the library takes it, or for too long: then the link is over.
    async fn write(&self, frame: Frame) {
        let (limits, sending) = (&self.common.limits, &self.outbound.sending);
        let give_up = Instant::now() + limits.stall;
        let writer = &sending.writers.reliable;
        while !writer.write(frame.clone(), limits.write_timeout).await {
            if Instant::now() >= give_up {
                let detail = "a reader of its inbox acknowledges nothing; the link is made anew".to_owned();
                let peer = Some(self.peer.clone());
                self.common.refused(peer, "inbox-stalled", detail);
                self.end(DownReason::Network);
                return std::future::pending().await;
            }
        }
        sending.sent(cost(&frame.payload));
    }

    async fn goodbye(&self) {
        // Everything has to be taken first: what the peer's library has acknowledged may still be thrown away.
        let sending = &self.outbound.sending;
        sending.take_over();
        sending.all_taken().await;
        let (count, taken) = {
            let mut told = self.told();
            told.count += 1;
            (told.count, self.taken.load(Ordering::Relaxed))
        };
        let goodbye = self.said(count, taken, true);
        self.write(self.statement(&goodbye, sending.last_sent() + 1))
            .await;
        sending.writers.reliable.acknowledged(GOODBYE_PATIENCE).await;
    }
}

impl Feeds {
    pub(crate) fn split(self) -> (mpsc::Receiver<Arrival>, mpsc::Receiver<Waiting>) {
        (self.incoming, self.waiting)
    }
}

/// How long a goodbye may take to arrive.
const GOODBYE_PATIENCE: Duration = Duration::from_secs(1);

/// Waits for something until a point in time.
pub(crate) async fn until<T>(deadline: Instant, future: impl Future<Output = T>) -> Option<T> {
    timeout_at(deadline, future).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(number: u64) -> Arrival {
        Arrival::Sample(Frame {
            source: "a".into(),
            destination: "b".into(),
            kind: Kind::Data,
            link: 1,
            number,
            payload: Bytes::new(),
        })
    }

    /// Falsified by a sample that is taken twice, or by one that is missing and not told of.
    #[test]
    fn each_number_is_taken_or_lost_once() {
        let mut numbers = Numbers { next: 1 };
        assert_eq!(numbers.take(&sample(1)), (None, true));
        assert_eq!(numbers.take(&sample(1)), (None, false));
        assert_eq!(numbers.take(&sample(2)), (None, true));
        assert_eq!(numbers.take(&sample(5)), (Some((3, 4)), true));
        // What was given up comes too late.
        assert_eq!(numbers.take(&sample(4)), (None, false));
        assert_eq!(numbers.take(&Arrival::GiveUp(5)), (None, true));
        assert_eq!(numbers.take(&Arrival::GiveUp(8)), (Some((6, 8)), true));
        assert_eq!(numbers.take(&sample(8)), (None, false));
        assert_eq!(numbers.take(&sample(9)), (None, true));
        // Numbers that a peer makes up wrap nowhere.
        assert_eq!(numbers.take(&sample(u64::MAX)), (Some((10, u64::MAX - 1)), true));
        assert_eq!(numbers.take(&Arrival::GiveUp(u64::MAX)), (None, true));
        assert_eq!(numbers.take(&sample(0)), (None, false));
    }
}
