//! The library's view of the operating system, wrapped: timers that return early while that saves 600 ms, a clock that can be
//! put forward, sockets with buffers that hold a burst, and a way to make the library look at what it has left lying.

use std::future::Future;
use std::io::{self, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::task::AtomicWaker;
use webrtc::runtime::{
    AsyncInterval, AsyncTcpListener, AsyncTcpStream, AsyncUdpSocket, JoinHandle, RecvMeta, Runtime,
    TokioRuntime, Transmit,
};

use super::Beat;

tokio::task_local! {
    /// Set in the tasks that the library spawns, of which only the connection's driver sleeps. The library also sleeps
    /// in *our* tasks, to bound its own waits; those must last as long as they were meant to.
    static DRIVER: ();
    /// Set where a connection is closed: the library's own wait is to last for this long.
    static PARTING: Duration;
}

/// Closes a connection, and gives its driver up to `patience` to say so to the peer.
///
/// webrtc 0.21.1 gives it 100 ms, and then stops it with the goodbye unsent: on a busy machine, or where the socket takes nothing
/// for a moment, the peer would learn by silence alone, ten seconds later.
pub(super) async fn parting<T>(patience: Duration, close: impl Future<Output = T>) -> T {
    PARTING.scope(patience, close).await
}

/// The longest the driver sleeps while [`Pace`] hurries it.
const HURRY: Duration = Duration::from_millis(1);
/// And at most, however long setting up takes.
const LEISURELY: Duration = Duration::from_millis(20);
/// A connection over which nothing but connectivity checks went for this long is at rest.
const AT_REST: Duration = Duration::from_secs(1);

/// How a connection's driver is driven. Shared between its runtime, its sockets and its pump.
#[derive(Debug)]
pub(super) struct Pace {
    started: tokio::time::Instant,
    hurried: AtomicBool,
    /// It is set up, and hurried all the same.
    relayed: AtomicBool,
    nudged: AtomicBool,
    waker: AtomicWaker,
    /// How far the connection's clock is ahead, in microseconds.
    ahead: AtomicU64,
    /// When it was put forward, when the last datagram came, and the last one with a bare acknowledgement: microseconds since
    /// `started`.
    advanced_at: AtomicU64,
    heard_at: AtomicU64,
    answered_at: AtomicU64,
    /// When the last datagram that is no connectivity check came or went, and when the last check of ours went.
    busy_at: AtomicU64,
    checked_at: AtomicU64,
    keepalive: Duration,
    beat: Beat,
}

impl Pace {
    /// Starts hurried.
    ///
    /// webrtc 0.21.1 takes a constant 604 ms to set up a connection on loopback: its driver writes packets *before* it
    /// polls events, so a packet that an event gives birth to (the next DTLS flight, the SCTP INIT, the DCEP OPEN)
    /// waits until some timer of 200 ms ends the sleep. Through a TURN relay every round trip pays that price.
    pub(super) fn new(keepalive: Duration, beat: Beat) -> Arc<Self> {
        Arc::new(Self {
            started: tokio::time::Instant::now(),
            hurried: AtomicBool::new(true),
            relayed: AtomicBool::new(false),
            nudged: AtomicBool::new(false),
            waker: AtomicWaker::new(),
            ahead: AtomicU64::new(0),
            advanced_at: AtomicU64::new(0),
            heard_at: AtomicU64::new(0),
            answered_at: AtomicU64::new(0),
            busy_at: AtomicU64::new(0),
            checked_at: AtomicU64::new(0),
            keepalive,
            beat,
        })
    }

    /// Whether the driver wakes every millisecond. It costs 0.19 % of a core, so only until the connection is open, or
    /// for as long as it is relayed.
    pub(super) fn hurry(&self, hurried: bool) {
        self.relayed.store(hurried, Ordering::Relaxed);
        self.hurried.store(hurried, Ordering::Relaxed);
    }

    /// The longest the driver may sleep. A set-up that takes long is hurried ever less: it waits for something else, or hundreds
    /// are under way and keep each other from getting on.
    fn longest_sleep(&self) -> Option<Duration> {
        if !self.hurried.load(Ordering::Relaxed) {
            return None;
        }
        if self.relayed.load(Ordering::Relaxed) {
            return Some(HURRY);
        }
        Some((self.started.elapsed() / 50).clamp(HURRY, LEISURELY))
    }

    /// How long a driver sleeps that wants to sleep for `wanted`.
    fn sleep(&self, wanted: Duration) -> Duration {
        match self.longest_sleep() {
            Some(longest) => wanted.min(longest),
            None => wanted.max(self.rest(wanted).unwrap_or_default()),
        }
    }

    /// Until the next keepalive, if there is nothing to do before.
    ///
    /// The ICE agent of webrtc 0.21.1 wakes every 200 ms, whatever its settings, only to see that no keepalive is due. While
    /// the peer answers and nothing but connectivity checks comes and goes, it is left asleep. SCTP's timers then have
    /// either nothing to do or a second and more to run; while another path is looked for, the agent wants to sleep for less than
    /// is lengthened here.
    fn rest(&self, wanted: Duration) -> Option<Duration> {
        let at_rest = wanted > super::CHECK_INTERVAL
            && self.since(&self.busy_at) > AT_REST
            && self.silent_for() < 2 * self.keepalive
            && !self.was_advanced(AT_REST);
        at_rest.then(|| {
            // The beat that is nearest to when the next keepalive is due.
            let checked_at = self.started + Duration::from_micros(self.checked_at.load(Ordering::Relaxed));
            let due = self
                .beat
                .not_before(checked_at + self.keepalive / 2, self.keepalive);
            due.saturating_duration_since(tokio::time::Instant::now())
        })
    }

    /// Makes the driver take up messages that it has parked.
    ///
    /// webrtc 0.21.1 stops reading its SCTP streams at 256 messages that nobody has taken yet, and takes them up again
    /// only when a datagram arrives: with nothing arriving, because the peer waits for us, everything stands still for
    /// 1 to 2 s (a retransmission or a keepalive ends it). So a datagram arrives: one byte that no protocol claims, from
    /// the mDNS port, which the ICE agent ignores in silence when mDNS is off. It never touches the network.
    pub(super) fn nudge(&self) {
        self.nudged.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// The time by the connection's own clock, which all its timers go by.
    fn now(&self) -> std::time::Instant {
        // The same clock as `sleep`, so that virtual time moves both.
        let ahead = Duration::from_micros(self.ahead.load(Ordering::Relaxed));
        tokio::time::Instant::now().into_std() + ahead
    }

    /// Puts the connection's clock forward, and so makes its timers run out earlier.
    ///
    /// webrtc 0.21.1 never lets SCTP's retransmission timer be less than 1 s, and doubles it up to 60 s: no setting changes that.
    /// ICE measures silence by the same clock. So this does nothing unless the peer was heard since the last time, and a
    /// step must be short next to the silence after which ICE gives up.
    pub(super) fn advance(&self, step: Duration) -> bool {
        if self.heard_at.load(Ordering::Relaxed) <= self.advanced_at.load(Ordering::Relaxed) {
            return false;
        }
        self.advanced_at.store(self.elapsed(), Ordering::Relaxed);
        let step = u64::try_from(step.as_micros()).unwrap_or(0);
        self.ahead.fetch_add(step, Ordering::Relaxed);
        self.nudge();
        true
    }

    /// Something is under way that may need the driver soon.
    pub(super) fn stir(&self) {
        self.busy_at.store(self.elapsed(), Ordering::Relaxed);
    }

    /// Whether the clock was put forward within this time.
    pub(super) fn was_advanced(&self, within: Duration) -> bool {
        let ever = self.ahead.load(Ordering::Relaxed) > 0;
        ever && self.since(&self.advanced_at) < within
    }

    /// How long nothing has come.
    pub(super) fn silent_for(&self) -> Duration {
        self.since(&self.heard_at)
    }

    /// How long no bare acknowledgement has come: one that names no gap.
    pub(super) fn unanswered_for(&self) -> Duration {
        self.since(&self.answered_at)
    }

    fn since(&self, at: &AtomicU64) -> Duration {
        Duration::from_micros(self.elapsed().saturating_sub(at.load(Ordering::Relaxed)))
    }

    fn elapsed(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn heard(&self, first: u8, length: usize) {
        let now = self.elapsed();
        self.heard_at.store(now, Ordering::Relaxed);
        let relayed = if CHANNEL_DATA.contains(&first) { 4 } else { 0 };
        if STUN.contains(&first) {
            return;
        }
        self.stir();
        if length == BARE_ACKNOWLEDGEMENT + relayed {
            self.answered_at.store(now, Ordering::Relaxed);
        }
    }

    fn said(&self, datagrams: &[u8]) {
        if datagrams.starts_with(&CHECK) {
            self.checked_at.store(self.elapsed(), Ordering::Relaxed);
        } else if datagrams.first().is_some_and(|first| !STUN.contains(first)) {
            self.stir();
        }
    }
}

/// How a connectivity check begins (RFC 8489, section 18.2: method Binding, class request).
const CHECK: [u8; 2] = [0x00, 0x01];
/// The first byte of STUN, and of TURN's ChannelData with its header of four bytes (RFC 7983, section 7).
const STUN: std::ops::RangeInclusive<u8> = 0..=3;
const CHANNEL_DATA: std::ops::RangeInclusive<u8> = 64..=79;
/// A SACK without a gap has 16 bytes, behind 12 of SCTP's header, and AES-GCM in DTLS 1.2 adds 37. A FORWARD TSN has less, a SACK
/// with a gap and the shortest DATA have more.
const BARE_ACKNOWLEDGEMENT: usize = 16 + 12 + 37;

/// Neither STUN (0..=3), nor DTLS (20..=63), nor RTP (128..=191): RFC 7983, section 7.
const NUDGE: u8 = 64;
/// The mDNS port, see [`Pace::nudge`].
const NUDGE_FROM: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 5353);

/// What goes wrong with datagrams on their way out, in the same way each time for the same seed.
#[derive(Debug)]
pub(crate) struct Faults {
    lost_per_million: AtomicU32,
    /// Sockets that were made in an earlier generation send nothing.
    generation: AtomicU64,
    dice: AtomicU64,
    held: Mutex<Option<tokio::time::Instant>>,
}

impl Faults {
    pub(crate) fn new(seed: u64) -> Arc<Self> {
        Arc::new(Self {
            lost_per_million: AtomicU32::new(0),
            generation: AtomicU64::new(0),
            dice: AtomicU64::new(seed),
            held: Mutex::default(),
        })
    }

    /// So many of a million datagrams are lost from here on.
    pub(crate) fn lose(&self, per_million: u32) {
        self.lost_per_million.store(per_million, Ordering::Relaxed);
    }

    /// Nothing is taken from here on for this long, as by a socket whose buffer is full.
    pub(crate) fn hold(&self, time: Duration) {
        *self.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(tokio::time::Instant::now() + time);
    }

    fn holds(&self, cx: &Context<'_>) -> bool {
        let held = *self.held.lock().unwrap_or_else(PoisonError::into_inner);
        let until = held.filter(|until| tokio::time::Instant::now() < *until);
        if let Some(until) = until {
            let waker = cx.waker().clone();
            // Ends by itself.
            tokio::spawn(async move {
                tokio::time::sleep_until(until).await;
                waker.wake();
            });
        }
        until.is_some()
    }

    fn is_blackhole(&self) -> bool {
        self.lost_per_million.load(Ordering::Relaxed) >= 1_000_000
    }

    /// Whatever sockets there are send nothing any more: as when an address is gone. New ones are not affected.
    pub(crate) fn change_network(&self) {
        self.generation.fetch_add(1, Ordering::Relaxed);
    }

    fn born(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    fn strikes(&self, born: u64) -> bool {
        if born < self.generation.load(Ordering::Relaxed) {
            return true;
        }
        let lost = self.lost_per_million.load(Ordering::Relaxed);
        if lost == 0 {
            return false;
        }
        // SplitMix64.
        let mut dice = self.dice.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        dice = (dice ^ (dice >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        dice = (dice ^ (dice >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (dice ^ (dice >> 31)) % 1_000_000 < u64::from(lost)
    }
}

/// Tokio, with a [`Pace`] and larger socket buffers.
#[derive(Debug)]
pub(super) struct PacedRuntime {
    tokio: TokioRuntime,
    pace: Arc<Pace>,
    socket_buffer: usize,
    faults: Option<Arc<Faults>>,
}

impl PacedRuntime {
    pub(super) fn new(pace: Arc<Pace>, socket_buffer: usize, faults: Option<Arc<Faults>>) -> Arc<Self> {
        Arc::new(Self {
            tokio: TokioRuntime,
            pace,
            socket_buffer,
            faults,
        })
    }
}

impl Runtime for PacedRuntime {
    fn spawn(&self, future: Pin<Box<dyn Future<Output = ()> + Send>>) -> Box<dyn JoinHandle> {
        self.tokio.spawn(Box::pin(DRIVER.scope((), future)))
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        // Without it the kernel drops datagrams of a burst, and each costs an SCTP retransmission time-out of at least
        // 1 s: bulk runs at 6 MB/s with the machine idle.
        let granted = widen(&socket, self.socket_buffer);
        if granted < self.socket_buffer {
            tracing::debug!(
                asked = self.socket_buffer,
                granted,
                "the system limits UDP receive buffers (net.core.rmem_max)"
            );
        }
        let inner = self.tokio.wrap_udp_socket(socket)?;
        Ok(Arc::new(PacedSocket {
            inner,
            pace: Arc::clone(&self.pace),
            faults: self
                .faults
                .as_ref()
                .map(|faults| (Arc::clone(faults), faults.born())),
        }))
    }

    fn wrap_tcp_listener(&self, listener: std::net::TcpListener) -> io::Result<Arc<dyn AsyncTcpListener>> {
        self.tokio.wrap_tcp_listener(listener)
    }

    fn connect_tcp<'a>(
        &'a self,
        remote_addr: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = io::Result<Arc<dyn AsyncTcpStream>>> + Send + 'a>> {
        self.tokio.connect_tcp(remote_addr)
    }

    fn resolve_host<'a>(
        &'a self,
        host: &'a str,
    ) -> Pin<Box<dyn Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'a>> {
        self.tokio.resolve_host(host)
    }

    fn now(&self) -> std::time::Instant {
        self.pace.now()
    }

    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        let in_driver = DRIVER.try_with(|()| ()).is_ok();
        self.tokio.sleep(if in_driver {
            self.pace.sleep(duration)
        } else {
            PARTING
                .try_with(|patience| duration.max(*patience))
                .unwrap_or(duration)
        })
    }

    fn interval(&self, period: Duration) -> Box<dyn AsyncInterval> {
        self.tokio.interval(period)
    }

    fn block_on(&self, future: Pin<Box<dyn Future<Output = ()> + '_>>) {
        self.tokio.block_on(future);
    }

    fn yield_now(&self) -> Pin<Box<dyn Future<Output = ()> + Send + 'static>> {
        self.tokio.yield_now()
    }

    fn name(&self) -> &'static str {
        "tokio, paced"
    }
}

#[derive(Debug)]
struct PacedSocket {
    inner: Arc<dyn AsyncUdpSocket>,
    pace: Arc<Pace>,
    /// And in which generation it was born.
    faults: Option<(Arc<Faults>, u64)>,
}

impl AsyncUdpSocket for PacedSocket {
    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }

    fn poll_send(&self, cx: &mut Context<'_>, transmit: &Transmit<'_>) -> Poll<io::Result<usize>> {
        if let Some((faults, _)) = &self.faults
            && faults.holds(cx)
        {
            return Poll::Pending;
        }
        self.pace.said(transmit.contents);
        if let Some((faults, generation)) = &self.faults
            && faults.strikes(*generation)
        {
            return Poll::Ready(Ok(transmit.contents.len()));
        }
        self.inner.poll_send(cx, transmit)
    }

    fn poll_recv(
        &self,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        while let ready @ Poll::Ready(_) = self.inner.poll_recv(cx, bufs, meta) {
            let is_lost = self
                .faults
                .as_ref()
                .is_some_and(|(faults, _)| faults.is_blackhole());
            if !is_lost {
                if let Poll::Ready(Ok(count)) = ready {
                    for (datagrams, meta) in bufs.iter().zip(meta.iter()).take(count) {
                        let first = datagrams.first().copied().unwrap_or_default();
                        self.pace.heard(first, meta.stride.min(meta.len));
                    }
                }
                return ready;
            }
        }
        // Several sockets share the slot: the last one that was polled is woken, and whichever is polled next takes the
        // nudge. Registered before the flag is read, so that a nudge in between is not lost.
        self.pace.waker.register(cx.waker());
        if !self.pace.nudged.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        let (Some(byte), Some(meta)) = (bufs.first_mut().and_then(|buf| buf.first_mut()), meta.first_mut())
        else {
            return Poll::Pending;
        };
        *byte = NUDGE;
        *meta = RecvMeta::default();
        meta.addr = NUDGE_FROM;
        meta.len = 1;
        meta.stride = 1;
        Poll::Ready(Ok(1))
    }

    fn max_gso_segments(&self) -> usize {
        self.inner.max_gso_segments()
    }

    fn max_gro_segments(&self) -> usize {
        self.inner.max_gro_segments()
    }
}

/// Asks for socket buffers of `bytes` and says how much the system grants for receiving.
pub(super) fn widen(socket: &std::net::UdpSocket, bytes: usize) -> usize {
    let socket = socket2::SockRef::from(socket);
    // What is not granted shows in the value that is read back; there is nothing else to do about it.
    let _ = socket.set_recv_buffer_size(bytes);
    let _ = socket.set_send_buffer_size(bytes);
    let reported = socket.recv_buffer_size().unwrap_or(0);
    // Linux reports twice what it was asked for, its own bookkeeping included (socket(7), SO_RCVBUF).
    if cfg!(target_os = "linux") {
        reported / 2
    } else {
        reported
    }
}

#[cfg(test)]
mod tests {
    //! Falsified by a driver that sleeps longer than the library asks while anything but keepalives goes on, or that does
    //! not while nothing does; and by connections of one transport that wake one after the other.

    use tokio::time::advance;

    use super::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;
    const CHECK_OF_OURS: &[u8] = &[0x00, 0x01, 0x00, 0x00];
    const RECORD: u8 = 23;

    /// Set up, and at rest for 1.1 s; then a keepalive goes and is answered.
    async fn at_rest(beat: Beat) -> Arc<Pace> {
        let pace = Pace::new(MS(500), beat);
        assert_eq!(pace.sleep(MS(200)), HURRY);
        pace.hurry(false);
        advance(MS(1_100)).await;
        pace.said(CHECK_OF_OURS);
        pace.heard(0x01, 64);
        pace
    }

    #[tokio::test(start_paused = true)]
    async fn at_rest_the_driver_sleeps_until_the_beat_that_is_nearest_to_the_next_keepalive() {
        let beat = Beat::start();
        let pace = at_rest(beat).await;
        assert_eq!(pace.sleep(MS(200)), MS(400), "1.5 s is nearest to 1.6 s");
        advance(MS(50)).await;
        // The peer's own keepalive.
        pace.heard(0x00, 112);
        assert_eq!(pace.sleep(MS(150)), MS(350));
        assert_eq!(pace.sleep(MS(900)), MS(900), "never less than it asks for");
        advance(MS(350)).await;
        assert_eq!(pace.sleep(MS(200)), MS(200), "the keepalive is due");
        pace.said(CHECK_OF_OURS);
        assert_eq!(pace.sleep(MS(200)), MS(500), "and from here on it is on the beat");
    }

    #[tokio::test(start_paused = true)]
    async fn whatever_goes_on_is_not_slept_through() {
        type Stir = fn(&Pace);
        let stirred: [(&str, Stir); 5] = [
            ("something is sent", |pace| pace.said(&[RECORD, 0])),
            ("through a relay", |pace| pace.said(&[*CHANNEL_DATA.start(), 0])),
            ("something comes", |pace| pace.heard(RECORD, 100)),
            ("another path is looked for", Pace::stir),
            ("the clock is put forward", |pace| assert!(pace.advance(MS(300)))),
        ];
        for (what, stir) in stirred {
            let pace = at_rest(Beat::start()).await;
            stir(&pace);
            assert_eq!(pace.sleep(MS(200)), MS(200), "{what}");
            advance(MS(990)).await;
            pace.said(CHECK_OF_OURS);
            pace.heard(0x01, 64);
            assert_eq!(pace.sleep(MS(200)), MS(200), "{what}, 990 ms ago");
            advance(MS(20)).await;
            assert!(pace.sleep(MS(200)) > MS(200), "{what}, 1.01 s ago");
        }
        let pace = at_rest(Beat::start()).await;
        let checks = super::super::CHECK_INTERVAL;
        assert_eq!(pace.sleep(checks), checks, "between connectivity checks");
        advance(MS(1_000)).await;
        pace.said(CHECK_OF_OURS);
        assert_eq!(pace.sleep(MS(200)), MS(200), "two keepalives without an answer");
    }

    #[tokio::test(start_paused = true)]
    async fn connections_of_one_transport_wake_together() {
        let beat = Beat::start();
        let mut wake = Vec::new();
        for apart in [0, 130, 260] {
            advance(MS(apart)).await;
            let pace = at_rest(beat).await;
            wake.push(tokio::time::Instant::now() + pace.sleep(MS(200)));
        }
        for at in wake {
            assert_eq!(at, beat.not_before(at, MS(500)), "on the beat");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_at_different_times_is_woken_at_the_same() {
        let (beat, start) = (Beat::start(), tokio::time::Instant::now());
        assert_eq!(beat.not_before(start, MS(500)), start);
        for at in [1, 250, 499, 500] {
            assert_eq!(beat.not_before(start + MS(at), MS(500)), start + MS(500), "{at}");
        }
        assert_eq!(beat.next(MS(500)), start + MS(500), "a beat that is now is over");
        advance(MS(700)).await;
        assert_eq!(beat.next(MS(500)), start + MS(1_000));
        assert_eq!(
            beat.next(Duration::ZERO),
            start + MS(700) + Duration::from_micros(1)
        );
    }
}
