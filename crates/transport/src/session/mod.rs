//! The session: where all promises are made.
//!
//! Links may lose, repeat, delay, reorder and forge. The session signs and verifies, numbers and puts in order, acknowledges
//! and sends again, and tells each sender what became of its message. It does so once, over any [`IfTransport`].
//!
//! # What it guarantees
//! - A [`VerifiedMessage`] comes from the agent that it names, unchanged, and comes once.
//! - Reliable messages of one sender to one destination are handed out in the order they were accepted.
//! - A reliable message is sent again, over whatever link there is, until its peer's application has taken it, it expires, or
//!   the peer refuses it: [`Outcome`] says which.
//! - Nothing that a peer does makes it use more memory than [`SessionLimits`] allow for that peer.
//!
//! # What it does not
//! - Outcomes and unsent messages live in memory: a sender that is killed forgets them. Send them again with the same
//!   [`ifmsg::Draft::id`]; a receiver that is still there delivers each id once.
//! - A receiver that is killed between taking a message and recording that in the [`Journal`] gets it once more after its
//!   restart. Without a journal its next run gets everything that was not acknowledged.
//! - Order holds within a sender and destination, not between senders, nor between broadcast and direct messages.

mod config;
mod control;
mod event;
mod inbound;
mod inbox;
mod machine;
mod metrics;
mod outbound;
mod outcome;
mod peer;
mod rtt;
#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test ends where something is wrong"
)]
mod tests;

use std::{
    collections::BTreeSet,
    future::poll_fn,
    pin::pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use futures::{
    FutureExt as _, StreamExt as _,
    future::{BoxFuture, poll_immediate},
    stream::FuturesUnordered,
};
use ifmsg::{AgentId, Draft, MessageId, Now, TrustStore, VerifiedMessage};
use rand_core::CryptoRng;
use tokio::{
    sync::{Notify, watch},
    task::JoinHandle,
    time::Instant,
};

pub(crate) use control::PERFORMATIVE as CONTROL;

pub use config::{SessionConfig, SessionLimits, next_epoch};
pub use event::{Flight, Journal, JournalError, Keepalive, Observer, ObserverError, SessionEvent};
pub use metrics::{PeerStatus, SessionMetrics};
pub use outcome::{NotAcknowledged, Outcome, Receipt, Refusal, SubmitError};
pub use rtt::RoundTrip;

use crate::{Clock, IfTransport, Lane, PeerKeys, PeerTrust, SendError, TransportEvent};
use inbox::InboxItem;
use machine::{Departure, Machine};

/// Envelopes that are handed over in one turn as soon as they are due. Who submits faster than a transport takes must not keep the
/// session from hearing what comes.
const AT_ONCE: usize = 64;

/// How soon a session looks again whether what it has to acknowledge is safe.
const SAFE_AGAIN: Duration = Duration::from_millis(1);

/// How often a halted session asks whether it may go on.
const HALT_AGAIN: Duration = Duration::from_millis(500);

/// One agent's conversations, over one transport. Ends when it is closed or dropped.
///
/// All methods take `&self`, so it can be shared between tasks.
#[derive(Debug)]
pub struct Session {
    shared: Arc<Shared>,
    transport: Arc<dyn IfTransport>,
    peers: watch::Receiver<Vec<PeerStatus>>,
    driver: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    machine: Mutex<Machine>,
    clock: Arc<dyn Clock>,
    started: Instant,
    /// Something is to be transmitted, or a timer changed.
    wake: Notify,
    /// A window opened, or the inbox has something, or the session became idle or closed.
    changed: watch::Sender<u64>,
    /// The session is closed and its linger has passed: nothing is worth waiting for.
    closing: AtomicBool,
}

impl Session {
    /// Starts a session over a transport. Must be called within a tokio runtime.
    ///
    /// `random` makes the nonces that peers must echo to prove that they are live.
    pub fn start(
        transport: Arc<dyn IfTransport>,
        mut config: SessionConfig,
        clock: Arc<dyn Clock>,
        random: Box<dyn CryptoRng + Send>,
    ) -> Self {
        let (journal, observer) = (config.journal.take(), config.observer.clone());
        let keepalive = config.keepalive.clone();
        let below = transport.clone();
        let classify = Box::new(move |header: &ifmsg::Header, size| below.class_of(header, size));
        let machine = Machine::new(config, transport.capabilities(), classify, random);
        let (peers_sender, peers) = watch::channel(Vec::new());
        let shared = Arc::new(Shared {
            machine: Mutex::new(machine),
            clock,
            started: Instant::now(),
            wake: Notify::new(),
            changed: watch::channel(0).0,
            closing: AtomicBool::new(false),
        });
        let driver = Driver {
            shared: shared.clone(),
            transport: transport.clone(),
            journal,
            observer,
            keepalive,
            unsafe_marks: None,
            peers: peers_sender,
            sending: FuturesUnordered::new(),
            busy: BTreeSet::new(),
            told: Vec::new(),
        };
        let driver = Mutex::new(Some(tokio::spawn(driver.run())));
        Self {
            shared,
            transport,
            peers,
            driver,
        }
    }

    /// Accepts a message: it is numbered, and will be signed and sent. Waits while the stream's window is full, that is,
    /// while its peer is slower than the sender or away.
    ///
    /// Cancel safe: a message whose `send` was dropped before it was ready was not accepted.
    pub async fn send(&self, draft: Draft) -> Result<Receipt, SubmitError> {
        // A loop that only sends must let the driver sign and send meanwhile, not only once its window is full.
        tokio::task::consume_budget().await;
        let mut draft = Some(draft);
        let mut waiting = None;
        loop {
            match self.try_submit(&mut draft) {
                Err(SubmitError::WindowFull) => {}
                decided => return decided,
            }
            let Some(changed) = &mut waiting else {
                // From now on an opening is seen, and one just before is by the next look at the window.
                waiting = Some(self.shared.changed.subscribe());
                continue;
            };
            if changed.changed().await.is_err() {
                return Err(SubmitError::Closed);
            }
        }
    }

    /// Accepts a message at once, or says [`SubmitError::WindowFull`].
    pub fn try_send(&self, draft: Draft) -> Result<Receipt, SubmitError> {
        self.try_submit(&mut Some(draft))
    }

    /// Looks at the window and takes its place in it under one lock. Leaves the draft where it is if there is no room.
    fn try_submit(&self, draft: &mut Option<Draft>) -> Result<Receipt, SubmitError> {
        let now = self.shared.now();
        let mut machine = self.shared.machine();
        if let Some(draft) = draft {
            machine.may_submit(draft, now.wall)?;
        }
        // It is gone only once it was accepted, and then nobody asks again.
        let draft = draft.take().ok_or(SubmitError::Closed)?;
        let receipt = machine.submit(draft, now)?;
        drop(machine);
        self.shared.wake.notify_one();
        Ok(receipt)
    }

    /// The next message for the application; `None` once the session is closed and everything was handed out. A reliable
    /// message that is returned here counts as taken, and is acknowledged to its sender.
    ///
    /// Cancel safe: no message is lost. May be called from several tasks; each message goes to one of them.
    pub async fn recv(&self) -> Option<VerifiedMessage> {
        self.next().await.map(Taken::commit)
    }

    /// Like [`recv`](Self::recv), but the message is acknowledged only when it is [committed](Taken::commit): for those who
    /// must have put it somewhere safe first.
    pub async fn next(&self) -> Option<Taken> {
        self.take(Machine::take).await
    }

    /// Sends a message and waits for the first message that answers it (`in_reply_to`), which goes to nobody else.
    ///
    /// Waits without limit: put a `timeout` around it. Cancel safe in that a late reply goes to [`recv`](Self::recv).
    pub async fn request(&self, draft: Draft) -> Result<VerifiedMessage, SubmitError> {
        let id = match draft.message_id() {
            Some(id) => id.clone(),
            None => self.shared.machine().new_id(),
        };
        // Before it is sent, so that no reply can slip by.
        let awaited = Awaited {
            shared: &self.shared,
            id,
        };
        self.shared.machine().await_reply(awaited.id.clone());
        self.send(draft.id(awaited.id.clone())).await?;
        let reply = self.take(|machine| machine.take_reply(&awaited.id)).await;
        reply.map(Taken::commit).ok_or(SubmitError::Closed)
    }

    async fn take(&self, mut take: impl FnMut(&mut Machine) -> Option<InboxItem>) -> Option<Taken> {
        let mut changed = self.shared.changed.subscribe();
        loop {
            changed.borrow_and_update();
            let (item, ended) = {
                let mut machine = self.shared.machine();
                (take(&mut machine), machine.has_ended())
            };
            if let Some(InboxItem { message, origin }) = item {
                return Some(Taken {
                    message,
                    origin,
                    shared: self.shared.clone(),
                });
            }
            if ended || changed.changed().await.is_err() {
                return None;
            }
        }
    }

    /// Waits until the peers are as wanted, and returns them; `None` if the session ends first.
    ///
    /// ```no_run
    /// # async fn f(session: ifmesh_transport::Session) {
    /// session.peers_until(|peers| peers.iter().filter(|peer| peer.up).count() == 4).await;
    /// # }
    /// ```
    pub async fn peers_until(
        &self,
        mut wanted: impl FnMut(&[PeerStatus]) -> bool,
    ) -> Option<Vec<PeerStatus>> {
        let mut peers = self.peers.clone();
        let found = peers.wait_for(|peers| wanted(peers)).await.ok()?;
        Some(found.clone())
    }

    /// Every known peer, sorted.
    pub fn peers(&self) -> Vec<PeerStatus> {
        self.shared.machine().peers()
    }

    /// Counters.
    pub fn metrics(&self) -> SessionMetrics {
        self.shared.machine().metrics()
    }

    /// The transport below.
    pub fn transport(&self) -> &Arc<dyn IfTransport> {
        &self.transport
    }

    /// A copy of the trust store as it is now, learnt bindings included.
    pub fn trust(&self) -> TrustStore {
        self.shared.machine().trust().clone()
    }

    /// The trust store as it is whenever it is asked, for transports: what is withdrawn later counts. After the session's end
    /// nobody is trusted.
    pub fn keys(&self) -> Arc<dyn PeerKeys> {
        // Weak: the session holds its transport, which holds these.
        let shared = Arc::downgrade(&self.shared);
        Arc::new(move |peer: &AgentId| match shared.upgrade() {
            Some(shared) => PeerTrust::of(shared.machine().trust(), peer),
            None => PeerTrust::Refuse,
        })
    }

    /// Changes the trust store: binds, revokes, rotates.
    pub fn change_trust<T>(&self, change: impl FnOnce(&mut TrustStore) -> T) -> T {
        // The change works on a copy, so that no code of the caller's runs under the lock.
        let mut trust = self.trust();
        let result = change(&mut trust);
        self.shared.machine().set_trust(trust);
        self.shared.wake.notify_one();
        result
    }

    /// Gives up on a peer: broadcasts are no longer for it, and what it has not acknowledged is refused.
    pub fn forget(&self, peer: &AgentId) {
        self.shared.machine().forget(peer);
        self.shared.notify_changed();
    }

    /// Ends the session: no more messages are accepted, those that are on their way get `linger` to be acknowledged, then the
    /// transport is closed. What has no outcome by then is [`Refusal::SessionClosed`]. Idempotent.
    pub async fn close(&self, linger: Duration) {
        let mut changed = self.shared.changed.subscribe();
        self.shared.machine().stop_accepting();
        self.shared.wake.notify_one();
        let idle = async {
            loop {
                changed.borrow_and_update();
                if self.shared.machine().is_idle() || changed.changed().await.is_err() {
                    return;
                }
            }
        };
        // Whether all of it came through is in the outcomes.
        let _ = tokio::time::timeout(linger, idle).await;
        self.shared.closing.store(true, Ordering::Relaxed);
        self.shared.wake.notify_one();
        // What the transport could not flush has an outcome already, or is best effort.
        let _ = self.transport.close().await;
        let driver = self.driver.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(driver) = driver {
            // The driver ends when the transport says that it is closed; it cannot be cancelled or panic in between.
            let _ = driver.await;
        }
    }
}

/// A message that was taken out of the inbox and is not acknowledged yet.
///
/// Dropped without [`commit`](Self::commit) it is never acknowledged, and the agent's next run gets it again.
#[derive(Debug)]
#[must_use = "a message that is not committed is never acknowledged"]
pub struct Taken {
    message: VerifiedMessage,
    origin: Option<inbox::Origin>,
    shared: Arc<Shared>,
}

impl Taken {
    /// The message.
    pub fn message(&self) -> &VerifiedMessage {
        &self.message
    }

    /// Acknowledges it to its sender.
    pub fn commit(self) -> VerifiedMessage {
        self.shared.machine().commit(&self.message, self.origin);
        self.shared.wake.notify_one();
        self.message
    }
}

/// Somebody waits for the reply to a message.
struct Awaited<'a> {
    shared: &'a Shared,
    id: MessageId,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        self.shared.machine().forget_reply(&self.id);
        self.shared.notify_changed();
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let driver = self
            .driver
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(driver) = driver {
            driver.abort();
            self.shared.machine().end();
        }
    }
}

impl Shared {
    /// The lock is never held across an await, and no code of others runs under it, so it is poisoned only by a bug of ours;
    /// then the state is as good as it was.
    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Now {
        Now {
            wall: self.clock.now(),
            elapsed: self.started.elapsed(),
        }
    }

    fn notify_changed(&self) {
        self.changed
            .send_modify(|version| *version = version.wrapping_add(1));
    }
}

/// Lets tasks that were woken before run before this one goes on. Unlike [`tokio::task::yield_now`] without a look at the network.
async fn give_way() {
    let mut given = false;
    poll_fn(|context| {
        if std::mem::replace(&mut given, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// How far a peer's streams were taken.
type TakenMark = (AgentId, ifmsg::PublicKey, ifmsg::Mark);

type Sending = BoxFuture<'static, HandedOver>;

/// The transport has taken an envelope, or has not.
struct HandedOver {
    flight: Arc<Flight>,
    /// The road of a router that was named before it left.
    named: Option<Arc<str>>,
    result: Result<Vec<Arc<str>>, SendError>,
}

/// Drives the machine: the only task of a session.
struct Driver {
    shared: Arc<Shared>,
    transport: Arc<dyn IfTransport>,
    journal: Option<Box<dyn Journal>>,
    observer: Option<Arc<dyn Observer>>,
    keepalive: Option<Arc<dyn Keepalive>>,
    /// What was taken and may be acknowledged once the observer's progress has come so far.
    unsafe_marks: Option<(u64, Vec<TakenMark>)>,
    peers: watch::Sender<Vec<PeerStatus>>,
    /// At most one envelope for each peer and lane, so that a peer that takes nothing holds up nobody else; meanwhile its
    /// messages gather, and go as one flight.
    sending: FuturesUnordered<Sending>,
    busy: BTreeSet<(AgentId, Lane)>,
    /// What the observer is about to be told: kept for its room.
    told: Vec<SessionEvent>,
}

impl Driver {
    async fn run(mut self) {
        let mut timer = pin!(tokio::time::sleep_until(self.shared.started));
        loop {
            // Whatever it stands for is seen to in this turn.
            let _ = self.shared.wake.notified().now_or_never();
            // Nothing is acknowledged before it is on record.
            self.record_marks();
            self.keep_alive();
            let mut timeout = self.transmit().await;
            self.publish().await;
            if self.unsafe_marks.is_some() {
                let again = self.shared.now().elapsed + SAFE_AGAIN;
                timeout = Some(timeout.map_or(again, |at| at.min(again)));
            }
            // Moved to an earlier time alone: that it goes off too early now and then costs less than to move it for each message.
            if let Some(at) = timeout.map(|at| self.shared.started + at)
                && (at < timer.deadline() || timer.is_elapsed())
            {
                timer.as_mut().reset(at);
            }
            tokio::select! {
                biased;
                Some(done) = self.sending.next(), if !self.sending.is_empty() => self.on_handed_over(done),
                event = self.transport.recv() => match event {
                    Ok(event) => self.on_transport(event).await,
                    Err(crate::Closed) => break,
                },
                () = self.shared.wake.notified() => {}
                () = &mut timer, if timeout.is_some() => {}
            }
        }
        self.record_marks();
        self.shared.machine().end();
        self.publish().await;
    }

    async fn on_transport(&mut self, event: TransportEvent) {
        let now = self.shared.now();
        self.shared.machine().on_transport(event, now);
        // Who observes is told once for what comes and what goes, before either has consequences.
        if self.observer.is_none() && self.publish().await {
            // The application goes first: its answer leaves before this task looks after anything else.
            give_way().await;
        }
    }

    fn on_handed_over(&mut self, done: HandedOver) {
        let Flight { peer, lane, .. } = &*done.flight;
        self.busy.remove(&(peer.clone(), *lane));
        match &done.result {
            Ok(roads) => self.shared.machine().carried(&done, roads),
            Err(error) => {
                // The link is gone or going; its LinkDown and the retransmission timer do the rest.
                tracing::debug!(%peer, ?lane, %error, "not sent");
            }
        }
    }

    fn record_marks(&mut self) {
        let (told, safe) = self
            .observer
            .as_ref()
            .map_or((0, 0), |observer| observer.progress());
        let (needed, marks) = self.unsafe_marks.take().unwrap_or_else(|| {
            let marks = self.shared.machine().marks();
            (told, marks)
        });
        if marks.is_empty() {
            return;
        }
        if safe < needed {
            self.unsafe_marks = Some((needed, marks));
            return;
        }
        for (agent, key, mark) in marks {
            let result = self
                .journal
                .as_mut()
                .map_or(Ok(()), |journal| journal.record(&key, &mark));
            let now = self.shared.now();
            let mut machine = self.shared.machine();
            match result {
                Ok(()) => machine.recorded(&agent, &mark, now.elapsed),
                Err(error) => machine.not_recorded(agent, error),
            }
        }
    }

    /// Hands all that is due to the transport, and says when more will be. Where somebody observes, it leaves only after that was told.
    async fn transmit(&mut self) -> Option<Duration> {
        let mut at_once = AT_ONCE;
        loop {
            let mut sending = match self.next_departure() {
                Ok(departure) => self.hand_over(departure),
                Err(timeout) => return timeout,
            };
            if self.observer.is_none()
                && at_once > 0
                && let Some(done) = poll_immediate(&mut sending).await
            {
                at_once -= 1;
                self.on_handed_over(done);
            } else {
                self.sending.push(sending);
            }
        }
    }

    /// What is due, or when something will be.
    fn next_departure(&mut self) -> Result<Departure, Option<Duration>> {
        let now = self.shared.now();
        let mut machine = self.shared.machine();
        // With the same `now`, so that nothing falls due between the two and waits for the next event.
        machine.on_timeout(now.elapsed);
        if let Some(departure) = machine.poll_transmit(now, &self.busy) {
            return Ok(departure);
        }
        let asleep = machine.asleep(now.elapsed);
        let timeout = machine.next_timeout(now.elapsed);
        drop(machine);
        asleep.iter().for_each(|peer| self.transport.wake(peer));
        Err(timeout)
    }

    /// Does nothing until it is polled.
    fn hand_over(&mut self, departure: Departure) -> Sending {
        let road = self.transport.road_of(&departure.envelope);
        self.shared.machine().departs(&departure, road.as_ref());
        let Departure { envelope, flight } = departure;
        self.busy.insert((flight.peer.clone(), flight.lane));
        let transport = self.transport.clone();
        Box::pin(async move {
            let result = transport.send_by_roads(envelope).await;
            HandedOver {
                flight,
                named: road,
                result,
            }
        })
    }

    /// Tells what happened, and then lets it have its consequences. Whether there are any for those who wait.
    async fn publish(&mut self) -> bool {
        let feedback = {
            let mut machine = self.shared.machine();
            machine.events(&mut self.told);
            machine.feedback()
        };
        for (peer, news) in feedback {
            self.transport.feedback(&peer, news);
        }
        let mut may_go_on = true;
        if let Some(observer) = &self.observer
            && !self.told.is_empty()
        {
            // Gone before the application gets the messages they hold, which then has them alone.
            for event in self.told.drain(..) {
                observer.on_event(&event);
            }
            may_go_on = self.settle().await;
        }
        let (peers, progress, much) = {
            let mut machine = self.shared.machine();
            if may_go_on {
                machine.release();
            } else {
                self.sending.clear();
            }
            (
                machine.peers_if_changed(),
                machine.take_progress(),
                machine.much_waits(),
            )
        };
        if let Some(peers) = peers {
            self.peers.send_replace(peers);
        }
        if progress {
            self.shared.notify_changed();
        }
        if much {
            // Frames that wait below must not keep the application from taking what is here: that gives the peer room for more.
            tokio::task::yield_now().await;
        }
        progress
    }

    /// Waits for the observer; the session is halted for as long as it cannot go on. `false` if it was closed meanwhile.
    async fn settle(&mut self) -> bool {
        let Some(observer) = self.observer.clone() else {
            return true;
        };
        let mut halted = false;
        while let Err(error) = observer.settle().await {
            if !halted {
                tracing::error!(%error, "halted: nothing may happen off the record");
                halted = true;
            }
            self.shared.machine().halt(Some(error));
            self.shared.notify_changed();
            // Whoever closes a session that is halted does not wait for a disk.
            if self.shared.closing.load(Ordering::Relaxed) {
                return false;
            }
            // A wake-up is for `transmit`, which comes next: it looks at everything anyway.
            let _ = tokio::time::timeout(HALT_AGAIN, self.shared.wake.notified()).await;
        }
        if halted {
            tracing::info!("on record again: going on");
            self.shared.machine().halt(None);
            self.shared.notify_changed();
        }
        true
    }

    fn keep_alive(&mut self) {
        let Some(keepalive) = &self.keepalive else {
            return;
        };
        let said = self.shared.machine().take_said();
        for (peer, key, value) in said {
            if keepalive.hear(&peer, &key, &value) {
                self.shared.machine().ask_keepalive(&peer);
            }
        }
        let now = self.shared.now().elapsed;
        let due = self.shared.machine().keepalives_due(now);
        for peer in due {
            if let Some(value) = keepalive.say(&peer) {
                self.shared.machine().say(&peer, value);
            }
        }
    }
}
