//! The task that owns a connection: takes what the library reports, hands it on, and frees everything at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use futures::stream::{BoxStream, SelectAll};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use webrtc::data_channel::{DataChannel, DataChannelEvent};
pub(super) use webrtc::peer_connection::RTCPeerConnectionState as ConnectionState;
use webrtc::peer_connection::{PeerConnectionEventHandler, RTCIceGatheringState, RTCPeerConnectionIceEvent};

use super::runtime::{Pace, parting};
use super::{
    CONTROL_QUEUE, Candidate, CloseReason, Fingerprint, LITTLE_ON_ITS_WAY, Lane, LinkState, PeerEvent, Shared,
};

/// A peer may open a few channels that we do not know; one that opens more than these is attacking.
const MAX_FOREIGN_CHANNELS: u64 = 16;
/// Messages of a lane that may come before it is open.
const MAX_EARLY: usize = 16;
/// Messages between two nudges, a quarter of what the library parks (see `Pace::nudge`). After a nudge that left
/// something parked, at least 256 messages follow, and so does the next nudge; so nothing stays parked.
const NUDGE_EVERY: u32 = 64;
/// How long setting up goes on after messaging opened, when best effort does not open.
const SETTLE: Duration = Duration::from_millis(500);

/// What the library's callbacks leave for the pump.
pub(super) enum Control {
    Candidate(RTCPeerConnectionIceEvent),
    GatheringDone,
    Channel(Arc<dyn DataChannel>),
}

/// Control events that found the queue full.
#[derive(Default)]
pub(super) struct HandlerCounters {
    dropped: AtomicU64,
}

/// The callbacks. The library awaits them on the connection's driver, which also answers the peer's keepalives and drives
/// every timer: so nothing here waits, whatever the application does.
pub(super) struct Handler {
    control: mpsc::Sender<Control>,
    /// Only the last state matters, so it cannot overflow.
    state: watch::Sender<ConnectionState>,
    counters: Arc<HandlerCounters>,
}

pub(super) fn handler() -> (
    Handler,
    mpsc::Receiver<Control>,
    watch::Receiver<ConnectionState>,
    Arc<HandlerCounters>,
) {
    let (control, controls) = mpsc::channel(CONTROL_QUEUE);
    let (state, states) = watch::channel(ConnectionState::New);
    let counters = Arc::<HandlerCounters>::default();
    (
        Handler {
            control,
            state,
            counters: Arc::clone(&counters),
        },
        controls,
        states,
        counters,
    )
}

impl Handler {
    fn leave(&self, control: Control) {
        if self.control.try_send(control).is_err() {
            self.counters.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

#[async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_ice_candidate(&self, event: RTCPeerConnectionIceEvent) {
        self.leave(Control::Candidate(event));
    }

    async fn on_ice_gathering_state_change(&self, state: RTCIceGatheringState) {
        if state == RTCIceGatheringState::Complete {
            self.leave(Control::GatheringDone);
        }
    }

    async fn on_connection_state_change(&self, state: ConnectionState) {
        self.state.send_replace(state);
    }

    async fn on_data_channel(&self, channel: Arc<dyn DataChannel>) {
        self.leave(Control::Channel(channel));
    }
}

/// A lane's events, ending with `None`.
type LaneEvents = BoxStream<'static, (Lane, Option<DataChannelEvent>)>;

/// How far a connection has come.
#[derive(Debug, Clone, Copy)]
enum SetupState {
    /// Waiting for the other description, for as long as the caller likes.
    Described,
    /// Has both. The library never reports that the DTLS handshake failed (a certificate that is not the announced one, for
    /// example): the state stays `connecting` until its retransmissions are exhausted, after 17 s.
    Connecting { until: Instant },
    /// Messaging is open; best effort may follow.
    Open { until: Instant },
    /// Nothing more to wait for.
    Settled,
}

impl SetupState {
    fn deadline(self) -> Option<Instant> {
        match self {
            Self::Connecting { until } | Self::Open { until } => Some(until),
            Self::Described | Self::Settled => None,
        }
    }
}

pub(super) struct Pump {
    shared: Arc<Shared>,
    lanes: SelectAll<LaneEvents>,
    /// Messages that came before their lane was open.
    early: [Vec<Bytes>; 2],
    /// Lanes whose channel exists, by index; open when `shared.lanes` has it too.
    channels: [Option<Arc<dyn DataChannel>>; 2],
    control: mpsc::Receiver<Control>,
    state: watch::Receiver<ConnectionState>,
    counters: Arc<HandlerCounters>,
    pace: Arc<Pace>,
    stop: watch::Receiver<bool>,
    events: mpsc::Sender<PeerEvent>,
    since_nudge: u32,
    setup: SetupState,
}

impl Pump {
    #[allow(clippy::too_many_arguments)] // Called once.
    pub(super) fn new(
        shared: Arc<Shared>,
        offered: Vec<(Lane, Arc<dyn DataChannel>)>,
        control: mpsc::Receiver<Control>,
        state: watch::Receiver<ConnectionState>,
        counters: Arc<HandlerCounters>,
        pace: Arc<Pace>,
        stop: watch::Receiver<bool>,
        events: mpsc::Sender<PeerEvent>,
    ) -> Self {
        let mut pump = Self {
            shared,
            lanes: SelectAll::new(),
            early: Default::default(),
            channels: [None, None],
            control,
            state,
            counters,
            pace,
            stop,
            events,
            since_nudge: 0,
            setup: SetupState::Described,
        };
        for (lane, channel) in offered {
            pump.watch_lane(lane, channel);
        }
        pump
    }

    /// Serves until the end, then frees everything. A connection whose handle is merely dropped lives on in its driver, and
    /// tells the peer nothing; so it is always closed here.
    pub(super) async fn run(mut self) {
        let reason = match self.serve().await {
            Ok(never) => match never {},
            Err(reason) => reason,
        };
        self.shared.closing.store(true, Ordering::Release);
        tracing::debug!(?reason, "connection ends");
        let close = self.shared.connection.close();
        if let Err(error) = parting(self.shared.flush_timeout, close).await {
            tracing::debug!(%error, "closing failed");
        }
        let closed = PeerEvent::Closed(reason);
        if reason == CloseReason::Local {
            // Whoever closes need not go on taking events.
            let _ = self.events.try_send(closed);
        } else {
            let _ = self.emit(closed).await;
        }
    }

    async fn serve(&mut self) -> Result<std::convert::Infallible, CloseReason> {
        loop {
            let deadline = self.setup.deadline();
            tokio::select! {
                biased;
                // Ends with the `Peer`, too.
                () = stopped(&mut self.stop) => return Err(CloseReason::Local),
                Some(control) = self.control.recv() => self.on_control(control).await?,
                Ok(()) = self.state.changed() => self.on_state().await?,
                () = tokio::time::sleep_until(deadline.unwrap_or_else(Instant::now)), if deadline.is_some() => {
                    self.on_deadline().await?;
                }
                Some((lane, event)) = self.lanes.next() => self.on_lane(lane, event).await?,
            }
        }
    }

    async fn on_control(&mut self, control: Control) -> Result<(), CloseReason> {
        let dropped = self.counters.dropped.load(Ordering::Relaxed);
        self.shared.drops.control_events.store(dropped, Ordering::Relaxed);
        match control {
            Control::Candidate(event) => {
                let Ok(init) = event.candidate.to_json() else {
                    return Ok(());
                };
                // The library leaves both empty. An empty `sdpMid` names no section, which browsers may refuse.
                let local = &self.shared.local;
                let candidate = Candidate {
                    candidate: init.candidate,
                    sdp_mid: Some(local.mid.clone()),
                    sdp_m_line_index: Some(0),
                    username_fragment: Some(self.shared.local_ufrag()),
                };
                self.emit(PeerEvent::LocalCandidate(candidate)).await
            }
            Control::GatheringDone => self.emit(PeerEvent::GatheringDone).await,
            Control::Channel(channel) => self.on_channel(channel).await,
        }
    }

    /// The peer opened a channel: one of the two that we know, once each, or it is closed again.
    async fn on_channel(&mut self, channel: Arc<dyn DataChannel>) -> Result<(), CloseReason> {
        let label = channel.label().await.unwrap_or_default();
        let lane = Lane::ALL.into_iter().find(|lane| lane.label() == label);
        match lane {
            Some(lane) if self.channels[lane.index()].is_none() => {
                self.watch_lane(lane, channel);
                Ok(())
            }
            _ => {
                let _ = channel.close().await;
                let foreign = self.shared.drops.foreign_channels.fetch_add(1, Ordering::Relaxed) + 1;
                if foreign > MAX_FOREIGN_CHANNELS {
                    Err(CloseReason::Misbehaved)
                } else {
                    Ok(())
                }
            }
        }
    }

    fn watch_lane(&mut self, lane: Lane, channel: Arc<dyn DataChannel>) {
        self.channels[lane.index()] = Some(Arc::clone(&channel));
        let events = futures::stream::unfold(Some(channel), move |channel| async move {
            let channel = channel?;
            let event = channel.poll().await;
            let rest = event.is_some().then_some(channel);
            Some(((lane, event), rest))
        });
        self.lanes.push(events.boxed());
    }

    async fn on_state(&mut self) -> Result<(), CloseReason> {
        let state = *self.state.borrow_and_update();
        match state {
            ConnectionState::Connecting => {
                if matches!(self.setup, SetupState::Described) {
                    self.setup = SetupState::Connecting {
                        until: Instant::now() + self.shared.setup_timeout,
                    };
                }
                self.emit(PeerEvent::State(LinkState::Connecting)).await
            }
            ConnectionState::Connected => {
                // After a restart the path may be another.
                if matches!(self.setup, SetupState::Settled) {
                    self.settle().await;
                }
                self.emit(PeerEvent::State(LinkState::Connected)).await
            }
            ConnectionState::Disconnected => self.emit(PeerEvent::State(LinkState::Disconnected)).await,
            ConnectionState::Failed => Err(CloseReason::Failed),
            ConnectionState::Closed => Err(CloseReason::Remote),
            _ => Ok(()),
        }
    }

    async fn on_lane(&mut self, lane: Lane, event: Option<DataChannelEvent>) -> Result<(), CloseReason> {
        match event {
            Some(DataChannelEvent::OnMessage(message)) => {
                self.since_nudge += 1;
                if self.since_nudge == NUDGE_EVERY {
                    self.since_nudge = 0;
                    self.pace.nudge();
                }
                let frame = message.data.freeze();
                if self.shared.lanes[lane.index()].get().is_none() {
                    return self.keep_early(lane, frame);
                }
                self.emit(PeerEvent::Frame(lane, frame)).await
            }
            Some(DataChannelEvent::OnOpen) => self.on_open(lane).await,
            Some(DataChannelEvent::OnBufferedAmountLow) => {
                self.shared.drained[lane.index()].notify_one();
                Ok(())
            }
            Some(DataChannelEvent::OnClose | DataChannelEvent::OnClosing) | None => match lane {
                Lane::Messaging => Err(CloseReason::Remote),
                // Best effort ends first when the peer closes both, and frames of the other may still wait.
                Lane::BestEffort => Ok(()),
            },
            Some(_) => Ok(()),
        }
    }

    async fn on_open(&mut self, lane: Lane) -> Result<(), CloseReason> {
        self.check_certificate().await?;
        if let Some(sctp) = self.shared.connection.sctp().await
            && let Ok(limit) = sctp.max_message_size().await
        {
            self.shared.max_frame.store(limit as usize, Ordering::Relaxed);
        }
        let Some(channel) = &self.channels[lane.index()] else {
            return Ok(());
        };
        if lane == Lane::Messaging {
            // Without it, waiting takes a millisecond longer.
            let _ = channel.set_buffered_amount_low_threshold(LITTLE_ON_ITS_WAY).await;
        }
        if self.shared.lanes[lane.index()].set(Arc::clone(channel)).is_err() {
            return Ok(());
        }
        // Data that came in one datagram with the end of the handshake is parked as well.
        self.pace.nudge();
        if self.shared.lanes.iter().all(|lane| lane.get().is_some()) {
            self.settle().await;
        } else if lane == Lane::Messaging {
            self.setup = SetupState::Open {
                until: Instant::now() + SETTLE,
            };
        }
        self.emit(PeerEvent::ChannelOpen(lane)).await?;
        for frame in std::mem::take(&mut self.early[lane.index()]) {
            self.emit(PeerEvent::Frame(lane, frame)).await?;
        }
        Ok(())
    }

    /// The library may hand over the peer's first message before it says that the channel is open (seen through a relay). To
    /// answer it then would be to say something into a channel that drops it.
    fn keep_early(&mut self, lane: Lane, frame: Bytes) -> Result<(), CloseReason> {
        let early = &mut self.early[lane.index()];
        if early.len() < MAX_EARLY {
            early.push(frame);
            return Ok(());
        }
        match lane {
            Lane::Messaging => Err(CloseReason::Misbehaved),
            Lane::BestEffort => Ok(()),
        }
    }

    /// DTLS enforces the fingerprint of the description. What we sign and report is computed here from the certificate that
    /// the handshake used, so that the two cannot drift apart unnoticed.
    async fn check_certificate(&mut self) -> Result<(), CloseReason> {
        if self.shared.certificate.get().is_some() {
            return Ok(());
        }
        let sctp = self.shared.connection.sctp().await.ok_or(CloseReason::Failed)?;
        let chain = sctp
            .transport()
            .get_remote_certificates()
            .await
            .map_err(|_| CloseReason::Failed)?;
        let used = Fingerprint::of_certificate(chain.first().ok_or(CloseReason::Failed)?);
        match self.shared.remote.get() {
            Some(remote) if remote.fingerprint == used => {
                let _ = self.shared.certificate.set(used);
                Ok(())
            }
            _ => {
                tracing::warn!(%used, "the peer's certificate is not the announced one");
                Err(CloseReason::Failed)
            }
        }
    }

    async fn on_deadline(&mut self) -> Result<(), CloseReason> {
        match self.setup {
            SetupState::Connecting { .. } => Err(CloseReason::Failed),
            SetupState::Open { .. } => {
                self.settle().await;
                Ok(())
            }
            SetupState::Described | SetupState::Settled => Ok(()),
        }
    }

    /// Ends the hurry of setting up, unless the path is relayed.
    async fn settle(&mut self) {
        self.setup = SetupState::Settled;
        let relayed = self.shared.path().await.is_some_and(|path| path.relayed);
        self.pace.hurry(relayed);
    }

    async fn emit(&mut self, event: PeerEvent) -> Result<(), CloseReason> {
        tokio::select! {
            biased;
            () = stopped(&mut self.stop) => Err(CloseReason::Local),
            sent = self.events.send(event) => sent.map_err(|_| CloseReason::Local),
        }
    }
}

/// Resolves once `true` was sent, or the sender is gone.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
