//! The one place that names the `webrtc` crate (and `rtc`, its core): a connection to one peer with its two channels, in our own words.
//!
//! ```text
//! offering side                      signaling                      answering side
//! Peer::offer  -> (peer, offer)   ---- offer ------>   Peer::answer(offer) -> (peer, answer)
//! peer.accept_answer(answer)      <--- answer ------
//! peer.add_candidate(c)           <--- candidates -->  peer.add_candidate(c)
//! PeerEvent::ChannelOpen(lane)                         PeerEvent::ChannelOpen(lane)
//! peer.send(lane, frame)          ==== DataChannels ==>  PeerEvent::Frame(lane, frame)
//! ```
//!
//! A [`Peer`] negotiates once, and then only to find another path ([`Peer::restart`]). Simultaneous offers are settled by whoever yields: it closes its offering `Peer` and makes
//! an answering one. (The library could roll its offer back, but channels that it had already created would then open
//! beside the other side's.)
//!
//! What the library does wrong is worked around here, each time with the defect named beside the code.

mod beat;
mod error;
mod pump;
mod runtime;
mod sdp;
#[cfg(test)]
mod tests;

use std::fmt;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use webrtc::data_channel::{DataChannel, RTCDataChannelInit};
use webrtc::peer_connection::{
    PeerConnection, PeerConnectionBuilder, RTCConfiguration, RTCConfigurationBuilder, RTCIceCandidate,
    RTCIceCandidateInit, RTCIceServer, RTCIceTransportPolicy, RTCSessionDescription, SettingEngineBuilder,
    StatsSelector,
};

pub(crate) use beat::Beat;
pub(crate) use error::EngineError;
pub(crate) use sdp::{Description, Fingerprint};

pub(crate) use runtime::Faults;
use runtime::{Pace, PacedRuntime};

/// Candidates that one connection takes from its peer, before and after the description together. A browser on a laptop
/// sends about ten. Each costs a socket's worth of connectivity checks.
pub(crate) const MAX_CANDIDATES: usize = 64;
/// The library refuses to go higher, whatever it is told (`SctpMaxMessageSize::MAX_MESSAGE_SIZE`).
pub(crate) const MAX_MESSAGE_SIZE: u32 = 262_144;
/// Time between rounds of ICE checks, well above the 5 ms of RFC 8445, section 14.2.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);
/// Rounds after which a pair of candidates is given up: 5 s.
const CHECKS_PER_PAIR: u16 = 250;
/// How far the connection's clock is put forward at a time, at most. SCTP's timer begins at 1 s.
const STEP: Duration = Duration::from_secs(1);
/// A round trip that was measured while the clock was put forward is wrong; after so long there is a newer one.
const MEASURED_ANEW: Duration = Duration::from_secs(2);
/// When the unacknowledged bytes of the messaging lane fall below this, [`Peer::drained`] tells.
const LITTLE_ON_ITS_WAY: u32 = 8 * 1024;
/// Events of the library itself (candidates, new channels) that wait for the pump.
const CONTROL_QUEUE: usize = 128;

/// How to connect. The defaults suit the Internet and one machine alike.
#[derive(Debug, Clone)]
pub(crate) struct EngineConfig {
    /// STUN and TURN servers. Empty: host candidates only.
    pub(crate) ice_servers: Vec<IceServer>,
    /// Use relayed candidates only, so that the peer does not learn our addresses. Needs a TURN server.
    pub(crate) relay_only: bool,
    /// Local addresses, one socket each. A wildcard stands for every interface but loopback, port 0 for a free one. An IPv6
    /// wildcard stands for nothing where no interface has an IPv6 address beyond its own link.
    pub(crate) bind: Vec<SocketAddr>,
    /// Time from knowing both descriptions to the messaging channel being open.
    pub(crate) setup_timeout: Duration,
    /// Silence (not even an answer to a keepalive) after which the connection counts as disconnected.
    pub(crate) disconnected_after: Duration,
    /// *Further* silence after which it is given up. Both together also bound the time that ICE has to connect.
    pub(crate) failed_after: Duration,
    /// Time between keepalives on an idle connection, once up to half of it more or less: then all connections that have this
    /// beat send theirs together.
    pub(crate) keepalive: Duration,
    pub(crate) beat: Beat,
    /// Largest message we take, and send if the peer takes it; at most [`MAX_MESSAGE_SIZE`].
    pub(crate) max_message_size: u32,
    /// Bytes that a lane may have handed to SCTP and not yet acknowledged. Above it, `send` waits.
    pub(crate) send_limit: usize,
    /// Receive and send buffer of each socket, in bytes.
    pub(crate) socket_buffer: usize,
    /// How long `close` waits for the peer to acknowledge what was sent.
    pub(crate) flush_timeout: Duration,
    /// What goes wrong with what is sent. For tests and benches.
    pub(crate) faults: Option<Arc<Faults>>,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            ice_servers: Vec::new(),
            relay_only: false,
            // The library skips loopback when it expands a wildcard, and agents on one machine may have nothing else.
            bind: vec![
                SocketAddr::from(([0, 0, 0, 0], 0)),
                SocketAddr::from(([0_u16; 8], 0)),
                SocketAddr::from(([127, 0, 0, 1], 0)),
            ],
            setup_timeout: Duration::from_secs(10),
            // The library's 5 s and 25 s are made for calls: "a killed peer never ends `poll()`", only these do. A dead
            // peer shows after 2.5 s to 3 s; a hand-over between networks of up to 10 s is survived.
            disconnected_after: Duration::from_millis(2_500),
            failed_after: Duration::from_millis(7_500),
            keepalive: Duration::from_millis(400),
            beat: Beat::start(),
            // RFC 8841, section 6.1: the value that a peer assumes when none is given.
            max_message_size: 65_536,
            // On one machine 64 KiB are as fast as more. A path of 100 ms carries no more than ten times this a second.
            send_limit: 262_144,
            socket_buffer: 4 * 1024 * 1024,
            flush_timeout: Duration::from_secs(1),
            faults: None,
        }
    }
}

/// One STUN or TURN server, as in `RTCIceServer`.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct IceServer {
    /// `stun:host:port`, `turn:host:port?transport=udp`. The library does not implement TURN over TCP or TLS.
    pub(crate) urls: Vec<String>,
    /// Empty for STUN.
    pub(crate) username: String,
    /// Empty for STUN. Never shown.
    pub(crate) credential: String,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer")
            .field("urls", &self.urls)
            .finish_non_exhaustive()
    }
}

/// One of the two channels between peers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// `if-agent-messaging`: ordered, reliable.
    Messaging,
    /// `if-agent-best-effort`: unordered, never sent again.
    BestEffort,
}

impl Lane {
    const ALL: [Self; 2] = [Self::Messaging, Self::BestEffort];

    /// The channel's label on the wire.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Messaging => "if-agent-messaging",
            Self::BestEffort => "if-agent-best-effort",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Messaging => 0,
            Self::BestEffort => 1,
        }
    }

    fn init(self) -> RTCDataChannelInit {
        match self {
            Self::Messaging => RTCDataChannelInit::default(),
            Self::BestEffort => RTCDataChannelInit {
                ordered: false,
                max_retransmits: Some(0),
                ..RTCDataChannelInit::default()
            },
        }
    }
}

impl fmt::Display for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// An ICE candidate as browsers write it (`RTCIceCandidateInit`). Fields beyond these are ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Candidate {
    /// `candidate:<foundation> <component> udp <priority> <address> <port> typ <type> ...`; empty ends the list.
    pub(crate) candidate: String,
    /// The section it belongs to.
    #[serde(default)]
    pub(crate) sdp_mid: Option<String>,
    /// The section it belongs to, as a number.
    #[serde(default, rename = "sdpMLineIndex")]
    pub(crate) sdp_m_line_index: Option<u16>,
    /// The ICE credentials it belongs to.
    #[serde(default)]
    pub(crate) username_fragment: Option<String>,
}

/// What happened on a connection. In order: candidates and states as they come, then for each lane `ChannelOpen` before its
/// frames, frames of a lane as they arrived, and `Closed` exactly once, last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PeerEvent {
    /// Hand this to the peer.
    LocalCandidate(Candidate),
    /// All local candidates were reported.
    GatheringDone,
    /// ICE and DTLS together.
    State(LinkState),
    /// The lane takes frames now. The peer's certificate is known and is the announced one.
    ChannelOpen(Lane),
    /// One message from the peer, at most `max_message_size` bytes.
    Frame(Lane, Bytes),
    /// It is over; sockets and tasks are gone, or go with this.
    Closed(CloseReason),
}

/// The state of a connection between its beginning and `Closed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// ICE checks and the DTLS handshake are under way.
    Connecting,
    /// The peer answers.
    Connected,
    /// The peer has been silent for `disconnected_after`. It may come back; route around it meanwhile.
    Disconnected,
}

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub(crate) enum CloseReason {
    /// We closed it.
    Local,
    /// The peer closed it, or its messaging channel.
    Remote,
    /// No path, no handshake (a certificate that is not the announced one, too), or silence for too long.
    Failed,
    /// The peer opened channel after channel that nobody asked for.
    Misbehaved,
}

/// The two ends that ICE chose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Path {
    /// Our candidate: `host udp 192.0.2.1:5000`.
    pub(crate) local: String,
    /// The peer's candidate.
    pub(crate) remote: String,
    /// Whether a TURN server stands between, on either side.
    pub(crate) relayed: bool,
}

/// What was dropped, since the connection began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Drops {
    /// Channels with other labels, or a second of ours, that the peer opened; they were closed.
    pub(crate) foreign_channels: u64,
    /// The peer's candidates that were of no use, malformed, or too many.
    pub(crate) remote_candidates: u64,
    /// Our own candidates or announced channels that found the queue full, because nobody took events.
    pub(crate) control_events: u64,
}

/// One connection to one peer, with its two channels.
///
/// Dropping it closes the connection without waiting for what was sent; [`Peer::close`] waits.
pub(crate) struct Peer {
    shared: Arc<Shared>,
    /// `true` asks the pump to end. The pump also ends when this is dropped.
    stop: watch::Sender<bool>,
    /// Closes when the pump has ended and everything is freed.
    done: watch::Receiver<()>,
}

/// What the handle and the pump have in common.
struct Shared {
    connection: Arc<dyn PeerConnection>,
    /// Filled when a lane opens, so that nothing can be sent before.
    ///
    /// In webrtc 0.21.1 a `send` before the channel is open can say `Ok` and drop the message (its issue 826).
    lanes: [OnceLock<Arc<dyn DataChannel>>; 2],
    /// A lane has little on its way.
    drained: [Notify; 2],
    /// One permit each: senders of a lane take turns, first come, first served.
    turns: [Semaphore; 2],
    closing: AtomicBool,
    max_frame: AtomicUsize,
    setup_timeout: Duration,
    flush_timeout: Duration,
    pace: Arc<Pace>,
    /// How far the clock is put forward at a time.
    step: Duration,
    local: Description,
    /// The ICE user fragment of our last description.
    local_ufrag: Mutex<String>,
    remote: OnceLock<Description>,
    /// The certificate that the handshake showed.
    certificate: OnceLock<Fingerprint>,
    candidates: Mutex<Candidates>,
    drops: Counters,
}

/// The peer's candidates.
struct Candidates {
    /// How many came.
    taken: usize,
    /// Those that wait for the peer's description; `None` once the library has it.
    waiting: Option<Vec<Candidate>>,
    /// Address and port of those that are relays. The library knows a candidate whose packets overtook its announcement as
    /// peer-reflexive, whatever it is.
    relays: Vec<(String, u16)>,
}

#[derive(Default)]
struct Counters {
    foreign_channels: AtomicU64,
    remote_candidates: AtomicU64,
    control_events: AtomicU64,
}

impl Peer {
    /// Opens a connection with both channels and describes it. The first event is usually a candidate.
    ///
    /// `events` is the connection's only way to press back: while it is full, nothing is read, SCTP's receive window
    /// closes, and the peer's `send` waits. When its receiver is dropped, the connection closes.
    ///
    /// Cancel safe: what a dropped call had begun is closed.
    ///
    /// # Errors
    /// `Config` and `Library`. Needs a Tokio runtime with time and I/O.
    pub(crate) async fn offer(
        config: &EngineConfig,
        events: mpsc::Sender<PeerEvent>,
    ) -> Result<(Self, Description), EngineError> {
        let config = config.clone();
        spawned(async move {
            let setup = Setup::new(&config).await?;
            let described = setup.describe_offer().await;
            setup.start(&config, events, described, None).await
        })
        .await
    }

    /// Answers an offer. The peer's channels open as it announces them; those with other labels are closed and counted.
    ///
    /// Cancel safe: what a dropped call had begun is closed.
    ///
    /// # Errors
    /// `Description` when the offer is refused, `Config`, `Library`. Needs a Tokio runtime with time and I/O.
    pub(crate) async fn answer(
        config: &EngineConfig,
        offer: &str,
        events: mpsc::Sender<PeerEvent>,
    ) -> Result<(Self, Description), EngineError> {
        let offer = Description::parse(offer)?;
        let config = config.clone();
        spawned(async move {
            let setup = Setup::new(&config).await?;
            let described = setup.describe_answer(&offer).await;
            setup.start(&config, events, described, Some(offer)).await
        })
        .await
    }

    /// Gives the offering side its answer, and then the candidates that came before it.
    ///
    /// # Errors
    /// `Description` when it is refused (the connection is of no more use), `Unexpected` on the answering side and the
    /// second time.
    pub(crate) async fn accept_answer(&self, answer: &str) -> Result<(), EngineError> {
        let answer = Description::parse(answer)?;
        let sdp = answer.sdp.clone();
        self.shared
            .remote
            .set(answer)
            .map_err(|_| EngineError::Unexpected)?;
        self.accept(sdp).await
    }

    /// Looks for a path anew, by new sockets and new candidates, and describes that. What is on its way is kept; SCTP sends it
    /// again over the new path. Until the answer is taken nothing flows, so this is for connections that are silent anyway.
    ///
    /// # Errors
    /// `Library`; `Description` when it describes what cannot be read.
    pub(crate) async fn restart(&self, config: &EngineConfig) -> Result<Description, EngineError> {
        let connection = &self.shared.connection;
        // Credentials of TURN servers do not last.
        connection.set_configuration(configuration(config)).await?;
        connection.restart_ice().await?;
        let offer = connection.create_offer(None).await?;
        let description = Description::parse(&offer.sdp)?;
        self.shared.begin_generation(&description, Some(Vec::new()));
        connection.set_local_description(offer).await?;
        Ok(description)
    }

    /// Follows the peer's [`restart`](Self::restart), and describes that.
    ///
    /// # Errors
    /// `Description` when it is refused, for one with another certificate as well: then nothing has changed. `Library`.
    pub(crate) async fn follow_restart(
        &self,
        config: &EngineConfig,
        offer: &str,
    ) -> Result<Description, EngineError> {
        let offer = self.same_peer(offer)?;
        let connection = &self.shared.connection;
        connection.set_configuration(configuration(config)).await?;
        let offer = RTCSessionDescription::offer(offer.sdp).map_err(refused)?;
        connection.set_remote_description(offer).await.map_err(refused)?;
        let answer = connection.create_answer(None).await.map_err(refused)?;
        let description = Description::parse(&answer.sdp)?;
        self.shared.begin_generation(&description, None);
        connection.set_local_description(answer).await?;
        Ok(description)
    }

    /// Gives the side that restarted its answer.
    ///
    /// # Errors
    /// `Description` when it is refused.
    pub(crate) async fn accept_restart(&self, answer: &str) -> Result<(), EngineError> {
        let answer = self.same_peer(answer)?;
        self.accept(answer.sdp).await
    }

    /// A description that names the peer's one certificate.
    fn same_peer(&self, sdp: &str) -> Result<Description, EngineError> {
        let description = Description::parse(sdp)?;
        let known = self.shared.remote.get().map(|remote| remote.fingerprint);
        if known != Some(description.fingerprint) {
            return Err(EngineError::Description(
                "it names another certificate than this connection's".to_owned(),
            ));
        }
        Ok(description)
    }

    async fn accept(&self, answer: String) -> Result<(), EngineError> {
        self.shared.pace.stir();
        let described = RTCSessionDescription::answer(answer).map_err(refused)?;
        self.shared
            .connection
            .set_remote_description(described)
            .await
            .map_err(refused)?;
        let waiting = self.shared.candidates().waiting.take();
        for candidate in waiting.into_iter().flatten() {
            // A bad candidate does not spoil the answer; it was counted.
            let _ = self.shared.use_candidate(candidate).await;
        }
        Ok(())
    }

    /// Takes one of the peer's candidates; before its description came, keeps it. At most 64 per connection.
    ///
    /// An empty candidate ends the list, which changes nothing. A candidate that cannot help here (TCP, mDNS) is counted and
    /// is no error.
    ///
    /// # Errors
    /// `Candidate` when it is malformed or the 65th; the connection goes on without it.
    pub(crate) async fn add_candidate(&self, candidate: Candidate) -> Result<(), EngineError> {
        if candidate.candidate.is_empty() {
            return Ok(());
        }
        {
            let mut candidates = self.shared.candidates();
            if candidates.taken == MAX_CANDIDATES {
                drop(candidates);
                self.shared
                    .drops
                    .remote_candidates
                    .fetch_add(1, Ordering::Relaxed);
                return Err(EngineError::Candidate(format!(
                    "it is one more than {MAX_CANDIDATES}"
                )));
            }
            candidates.taken += 1;
            candidates.relays.extend(sdp::relay_of(&candidate.candidate));
            if let Some(waiting) = &mut candidates.waiting {
                waiting.push(candidate);
                return Ok(());
            }
        }
        self.shared.use_candidate(candidate).await
    }

    /// The fingerprint of our certificate, as our description announces it.
    pub(crate) fn local_fingerprint(&self) -> Fingerprint {
        self.shared.local.fingerprint
    }

    /// The fingerprint of the certificate that the peer *proved* to hold. `None` until a channel is open.
    ///
    /// Equal to the one in the peer's description: DTLS refuses any other, and it is compared once more before the first
    /// `ChannelOpen`.
    pub(crate) fn remote_fingerprint(&self) -> Option<Fingerprint> {
        self.shared.certificate.get().copied()
    }

    /// The largest frame that both sides take, in bytes.
    pub(crate) fn max_frame(&self) -> usize {
        self.shared.max_frame.load(Ordering::Relaxed)
    }

    /// Sends one frame as one message, waiting while more than `send_limit` bytes of the lane are unacknowledged.
    ///
    /// Frames of one lane leave in the order in which their `send` was first polled. `Ok` is "accepted", never "arrived".
    /// Cancel safe in that a dropped call has sent the frame whole or not at all; which, it cannot say.
    ///
    /// # Errors
    /// `NotOpen`, `TooLarge`, `Closed` (also while waiting), `Library`.
    pub(crate) async fn send(&self, lane: Lane, frame: Bytes) -> Result<(), EngineError> {
        let channel = self.shared.channel(lane, frame.len())?;
        // The library's own wait lets every waiting sender through at once, each with a message above the limit.
        let _turn = self.shared.turns[lane.index()]
            .acquire()
            .await
            .map_err(|_| EngineError::Closed)?;
        Ok(channel.send(owned(frame)).await?)
    }

    /// Sends one frame if the lane has room for it. `false`: it has not, and the frame is dropped; count it.
    ///
    /// Never waits for the peer. Overtakes senders that wait in [`Peer::send`].
    ///
    /// # Errors
    /// As [`Peer::send`].
    pub(crate) async fn try_send(&self, lane: Lane, frame: Bytes) -> Result<bool, EngineError> {
        let channel = self.shared.channel(lane, frame.len())?;
        match channel.try_send(owned(frame)).await {
            Ok(()) => Ok(true),
            Err(webrtc::error::Error::ErrSendBufferFull) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Bytes of the lane that were sent and are not acknowledged (or, on best effort, given up). 0 before it opens.
    pub(crate) async fn buffered_amount(&self, lane: Lane) -> usize {
        match self.shared.lanes[lane.index()].get() {
            Some(channel) => channel.outstanding_bytes().await.unwrap_or(0),
            None => 0,
        }
    }

    /// Waits until the unacknowledged bytes of the messaging lane fall below 8 KiB, those of best effort to nothing. May also
    /// have done so before the call, and says nothing of a lane that stays below. Cancel safe.
    pub(crate) async fn drained(&self, lane: Lane) {
        self.shared.drained[lane.index()].notified().await;
    }

    /// The path that ICE chose, once it has.
    pub(crate) async fn path(&self) -> Option<Path> {
        self.shared.path().await
    }

    /// The last round trip of a connectivity check over the path in use, if one was measured.
    pub(crate) async fn round_trip(&self) -> Option<Duration> {
        if self.shared.pace.was_advanced(MEASURED_ANEW) {
            return None;
        }
        let now = tokio::time::Instant::now().into_std();
        let report = self.shared.connection.get_stats(now, StatsSelector::None).await;
        let measured = report
            .candidate_pairs()
            .filter(|pair| pair.nominated)
            .max_by_key(|pair| pair.responses_received)?;
        let seconds = measured.current_round_trip_time;
        Duration::try_from_secs_f64(seconds)
            .ok()
            .filter(|time| !time.is_zero())
    }

    /// Makes SCTP's retransmission timer run out earlier, by at most a second: so much was gained. Nothing, if nothing came from
    /// the peer since the last time, for then there is nobody to send to again.
    pub(crate) fn hasten(&self) -> Option<Duration> {
        let Shared { pace, step, .. } = &*self.shared;
        pace.advance(*step).then_some(*step)
    }

    /// How long nothing has come from the peer, and how long no acknowledgement that names no gap.
    pub(crate) fn silent_for(&self) -> (Duration, Duration) {
        let pace = &self.shared.pace;
        (pace.silent_for(), pace.unanswered_for())
    }

    /// What was dropped so far.
    pub(crate) fn drops(&self) -> Drops {
        let drops = &self.shared.drops;
        Drops {
            foreign_channels: drops.foreign_channels.load(Ordering::Relaxed),
            remote_candidates: drops.remote_candidates.load(Ordering::Relaxed),
            control_events: drops.control_events.load(Ordering::Relaxed),
        }
    }

    /// Waits until the peer has acknowledged what was sent, for `flush_timeout` at most; then tells the peer, and frees
    /// sockets and tasks before it returns. Refuses new frames from its first poll on. Idempotent.
    ///
    /// `Closed(Local)` follows as an event if there is room for it.
    pub(crate) async fn close(&self) {
        if !self.shared.closing.swap(true, Ordering::AcqRel) {
            // Not flushed in time: the peer is gone or slow, and close must not hang on it.
            let _ = tokio::time::timeout(self.shared.flush_timeout, self.flushed()).await;
        }
        self.stop.send_replace(true);
        // An error is the end of the pump; a value never comes.
        let mut done = self.done.clone();
        while done.changed().await.is_ok() {}
    }

    async fn flushed(&self) {
        while self.buffered_amount(Lane::Messaging).await + self.buffered_amount(Lane::BestEffort).await > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peer")
            .field("local_fingerprint", &self.local_fingerprint())
            .field("remote_fingerprint", &self.remote_fingerprint())
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn channel(&self, lane: Lane, size: usize) -> Result<&Arc<dyn DataChannel>, EngineError> {
        if self.closing.load(Ordering::Acquire) {
            return Err(EngineError::Closed);
        }
        let channel = self.lanes[lane.index()].get().ok_or(EngineError::NotOpen(lane))?;
        let limit = self.max_frame.load(Ordering::Relaxed);
        if size > limit {
            return Err(EngineError::TooLarge { size, limit });
        }
        Ok(channel)
    }

    /// From here on our candidates belong to this description, and the peer's to one that is here, or, with `waiting`, yet to
    /// come.
    fn begin_generation(&self, local: &Description, waiting: Option<Vec<Candidate>>) {
        self.pace.stir();
        *self.local_ufrag.lock().unwrap_or_else(PoisonError::into_inner) = local.ice_ufrag.clone();
        *self.candidates() = Candidates {
            taken: 0,
            waiting,
            relays: Vec::new(),
        };
    }

    fn local_ufrag(&self) -> String {
        self.local_ufrag
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    fn candidates(&self) -> std::sync::MutexGuard<'_, Candidates> {
        self.candidates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn use_candidate(&self, candidate: Candidate) -> Result<(), EngineError> {
        self.pace.stir();
        if !sdp::usable_candidate(&candidate.candidate) {
            self.drops.remote_candidates.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        let candidate = RTCIceCandidateInit {
            candidate: candidate.candidate,
            sdp_mid: candidate.sdp_mid,
            sdp_mline_index: candidate.sdp_m_line_index,
            username_fragment: candidate.username_fragment,
            url: None,
        };
        self.connection
            .add_ice_candidate(candidate)
            .await
            .map_err(|error| {
                self.drops.remote_candidates.fetch_add(1, Ordering::Relaxed);
                EngineError::Candidate(error.to_string())
            })
    }

    async fn path(&self) -> Option<Path> {
        use webrtc::peer_connection::RTCIceCandidateType::Relay;
        let ice = self.connection.sctp().await?.transport().ice_transport();
        let pair = ice.get_selected_candidate_pair().await.ok()??;
        let (local, remote) = (pair.local(), pair.remote());
        let shown = |candidate: &RTCIceCandidate| {
            let (kind, port) = (candidate.typ, candidate.port);
            match candidate.address.parse::<std::net::IpAddr>() {
                Ok(address) => format!("{kind} udp {}", SocketAddr::new(address, port)),
                Err(_) => format!("{kind} udp {}:{port}", candidate.address),
            }
        };
        let is_relay = |(address, port): &(String, u16)| *address == remote.address && *port == remote.port;
        let peer_relays = remote.typ == Relay || self.candidates().relays.iter().any(is_relay);
        Some(Path {
            local: shown(local),
            remote: shown(remote),
            relayed: local.typ == Relay || peer_relays,
        })
    }
}

/// A connection without a description yet.
struct Setup {
    connection: Arc<dyn PeerConnection>,
    control: mpsc::Receiver<pump::Control>,
    state: watch::Receiver<pump::ConnectionState>,
    counters: Arc<pump::HandlerCounters>,
    pace: Arc<Pace>,
    /// The offering side's channels; they open later.
    channels: Mutex<Vec<(Lane, Arc<dyn DataChannel>)>>,
}

impl Setup {
    async fn new(config: &EngineConfig) -> Result<Self, EngineError> {
        if config.bind.is_empty() {
            return Err(EngineError::Config("no address to bind".to_owned()));
        }
        if config.max_message_size == 0 || config.max_message_size > MAX_MESSAGE_SIZE {
            return Err(EngineError::Config(format!(
                "max_message_size must be 1 to {MAX_MESSAGE_SIZE}"
            )));
        }
        if config.send_limit == 0 {
            return Err(EngineError::Config(
                "send_limit must not be 0, which the library takes for no limit".to_owned(),
            ));
        }

        let pace = Pace::new(config.keepalive, config.beat);
        let (handler, control, state, counters) = pump::handler();
        let builder = PeerConnectionBuilder::new()
            .with_configuration(configuration(config))
            .with_setting_engine(settings(config)?)
            .with_runtime(PacedRuntime::new(
                Arc::clone(&pace),
                config.socket_buffer,
                config.faults.clone(),
            ))
            .with_handler(Arc::new(handler))
            .with_udp_addrs(usable(&config.bind))
            .with_data_channel_send_buffer_limit(config.send_limit);
        let connection = Box::pin(builder.build()).await?;
        Ok(Self {
            connection: Arc::new(connection),
            control,
            state,
            counters,
            pace,
            channels: Mutex::default(),
        })
    }

    async fn describe_offer(&self) -> Result<Description, EngineError> {
        for lane in Lane::ALL {
            let channel = self
                .connection
                .create_data_channel(lane.label(), Some(lane.init()))
                .await?;
            self.channels
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((lane, channel));
        }
        let offer = self.connection.create_offer(None).await?;
        let description = Description::parse(&offer.sdp)?;
        self.connection.set_local_description(offer).await?;
        Ok(description)
    }

    async fn describe_answer(&self, offer: &Description) -> Result<Description, EngineError> {
        let offer = RTCSessionDescription::offer(offer.sdp.clone()).map_err(refused)?;
        self.connection
            .set_remote_description(offer)
            .await
            .map_err(refused)?;
        let answer = self.connection.create_answer(None).await.map_err(refused)?;
        let description = Description::parse(&answer.sdp)?;
        self.connection.set_local_description(answer).await?;
        Ok(description)
    }

    /// Starts the pump, or closes the connection that could not be described: its driver would run for ever.
    async fn start(
        self,
        config: &EngineConfig,
        events: mpsc::Sender<PeerEvent>,
        described: Result<Description, EngineError>,
        remote: Option<Description>,
    ) -> Result<(Peer, Description), EngineError> {
        let local = match described {
            Ok(local) => local,
            Err(error) => {
                let _ = self.connection.close().await;
                return Err(error);
            }
        };
        let shared = Arc::new(Shared {
            connection: self.connection,
            lanes: Default::default(),
            drained: [Notify::new(), Notify::new()],
            turns: [Semaphore::new(1), Semaphore::new(1)],
            closing: AtomicBool::new(false),
            max_frame: AtomicUsize::new(config.max_message_size as usize),
            setup_timeout: config.setup_timeout,
            flush_timeout: config.flush_timeout,
            pace: Arc::clone(&self.pace),
            step: STEP.min(config.disconnected_after / 3),
            local: local.clone(),
            local_ufrag: Mutex::new(local.ice_ufrag.clone()),
            candidates: Mutex::new(Candidates {
                taken: 0,
                waiting: remote.is_none().then(Vec::new),
                relays: Vec::new(),
            }),
            remote: remote.map(OnceLock::from).unwrap_or_default(),
            certificate: OnceLock::new(),
            drops: Counters::default(),
        });
        let (stop, stopped) = watch::channel(false);
        let (ended, done) = watch::channel(());
        let channels = self.channels.into_inner().unwrap_or_else(PoisonError::into_inner);
        let pump = pump::Pump::new(
            Arc::clone(&shared),
            channels,
            self.control,
            self.state,
            self.counters,
            self.pace,
            stopped,
            events,
        );
        // Owned through `stop`: it ends when the `Peer` closes or is dropped, and `done` tells.
        tokio::spawn(async move {
            pump.run().await;
            drop(ended);
        });
        Ok((Peer { shared, stop, done }, local))
    }
}

/// Runs the set-up to its end even when the caller stops waiting: a half-built connection whose future is dropped leaves its
/// driver running for ever, while a finished `Peer` that nobody takes closes itself.
async fn spawned<T: Send + 'static>(
    setup: impl Future<Output = Result<T, EngineError>> + Send + 'static,
) -> Result<T, EngineError> {
    match tokio::spawn(setup).await {
        Ok(result) => result,
        Err(error) => Err(EngineError::Library(error.to_string())),
    }
}

/// Without an IPv6 wildcard where no interface has an address that a peer could use: the library would offer `::` itself.
fn usable(bind: &[SocketAddr]) -> Vec<SocketAddr> {
    use rtc::shared::ifaces::ifaces;

    // What the library itself leaves out when it expands a wildcard.
    let reachable =
        |ip: std::net::Ipv6Addr| !ip.is_loopback() && !ip.is_unspecified() && !ip.is_unicast_link_local();
    let has_ipv6 = ifaces().is_ok_and(|interfaces| {
        let mut addresses = interfaces.iter().filter_map(|interface| interface.addr);
        addresses.any(|address| matches!(address.ip(), std::net::IpAddr::V6(ip) if reachable(ip)))
    });
    let usable = |address: &&SocketAddr| !(address.is_ipv6() && address.ip().is_unspecified()) || has_ipv6;
    let some: Vec<SocketAddr> = bind.iter().filter(usable).copied().collect();
    if some.is_empty() { bind.to_vec() } else { some }
}

fn configuration(config: &EngineConfig) -> RTCConfiguration {
    let servers = config.ice_servers.iter().map(|server| RTCIceServer {
        urls: server.urls.clone(),
        username: server.username.clone(),
        credential: server.credential.clone(),
    });
    let policy = if config.relay_only {
        RTCIceTransportPolicy::Relay
    } else {
        RTCIceTransportPolicy::All
    };
    RTCConfigurationBuilder::default()
        .with_ice_servers(servers.collect())
        .with_ice_transport_policy(policy)
        .build()
}

/// The library's knobs, set where its defaults do harm.
fn settings(config: &EngineConfig) -> Result<webrtc::peer_connection::SettingEngine, EngineError> {
    use rtc::ice::mdns::MulticastDnsMode;
    use rtc::peer_connection::configuration::setting_engine::SctpMaxMessageSize;
    use rtc::peer_connection::transport::RTCDtlsRole;

    let probe = std::net::UdpSocket::bind(SocketAddr::new(config.bind[0].ip(), 0))
        .map_err(|error| EngineError::Library(format!("cannot bind {}: {error}", config.bind[0].ip())))?;
    let granted = runtime::widen(&probe, config.socket_buffer);
    let mut engine = SettingEngineBuilder::new()
        .with_ice_timeouts(
            Some(config.disconnected_after),
            Some(config.failed_after),
            // A keepalive is sent when it is due, or when the peer's own comes and half of that time is over: so both sides
            // wake for them at the same times.
            Some(config.keepalive / 2),
        )
        // Every 200 ms, seven times, by default: a candidate that comes late waits, and a peer whose answer takes longer
        // than 1.4 s is given up.
        .with_ice_connection_attempts(Some(CHECK_INTERVAL), Some(CHECKS_PER_PAIR))
        .with_host_acceptance_min_wait(None)
        .with_srflx_acceptance_min_wait(Some(Duration::from_millis(100)))
        .with_prflx_acceptance_min_wait(Some(Duration::ZERO))
        // A straight path takes some round trips to find, on a slow or busy machine too; a relay that is taken stays.
        .with_relay_acceptance_min_wait(Some(if config.relay_only {
            Duration::ZERO
        } else {
            Duration::from_secs(1)
        }))
        // As DTLS client the library refuses the SCTP INIT of a peer that sends its own (werift); as server it takes it.
        .with_answering_dtls_role(RTCDtlsRole::Server)
        // Else a restart keeps the sockets whose network is gone.
        .with_discard_local_candidates_during_ice_restart(true)
        .with_multicast_dns_mode(MulticastDnsMode::Disabled)
        .with_include_loopback_candidate(true)
        .with_sctp_max_message_size(SctpMaxMessageSize::Bounded(config.max_message_size));
    if granted < 1024 * 1024 {
        // The default window of 1 MiB in flight does not fit into such a socket buffer, and what the kernel drops costs
        // 1 s each. A window must hold the largest message, or that message never completes.
        engine = engine.with_sctp_max_receive_buffer_size(config.max_message_size.max(64 * 1024));
    }
    Ok(engine.build())
}

/// The library is particular about descriptions in its own ways; whatever it refuses came from the peer.
fn refused(error: webrtc::error::Error) -> EngineError {
    EngineError::Description(error.to_string())
}

/// Without a copy when nobody else holds the frame.
fn owned(frame: Bytes) -> BytesMut {
    frame
        .try_into_mut()
        .unwrap_or_else(|shared| BytesMut::from(&shared[..]))
}
