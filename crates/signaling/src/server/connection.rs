//! One socket, from the handshake to its end.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;

use futures::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use ifmsg::AgentId;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
    time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout, timeout_at},
};
use tokio_tungstenite::tungstenite::{
    Error as WsError, Message, Utf8Bytes,
    error::ProtocolError,
    protocol::{CloseFrame, WebSocketConfig},
};

use super::{
    Shared,
    bucket::TokenBucket,
    close_code,
    config::{RegistrationMode, RelayLimits, ServerLimits},
    handshake,
    metrics::add,
    outbox::{Inbox, Outbox, RelayRoom, outbox},
    registry::{Denied, ProvenKey},
};
use crate::{
    flag::set,
    protocol::{ClientFrame, ErrorCode, FrameError, FrameLimits, Nonce, ServerFrame, SocketRole},
    relay::{self, RelayFrame},
    statement::registration_statement,
    stream::{ByteStream, Socket},
    tls::ServerTls,
};

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ending {
    /// The socket broke.
    Lost,
    /// The client closed.
    Closed,
    /// What came is no WebSocket's frame.
    Protocol,
    /// A text frame that is not UTF-8.
    NotText,
    /// The server shuts down.
    ShuttingDown,
    /// The agent came back with another socket.
    Replaced,
    /// The registration was refused; an error frame said why.
    Refused,
    /// No registration in time.
    RegistrationTimeout,
    /// Nothing was heard in time.
    Idle,
    /// The client does not read.
    TooSlow,
    /// Too many refused frames.
    Violations,
    /// A frame over the limit.
    TooLarge,
}

impl Ending {
    fn close_frame(self) -> Option<CloseFrame> {
        let (code, reason) = match self {
            Self::Lost | Self::Closed => return None,
            // RFC 6455, 7.4.1 and 8.1.
            Self::Protocol => (close_code::PROTOCOL, "not a frame of RFC 6455"),
            Self::NotText => (close_code::NOT_TEXT, "a text frame that is not UTF-8"),
            Self::ShuttingDown => (close_code::GOING_AWAY, "the server is shutting down"),
            Self::Replaced => (close_code::REPLACED, "this agent registered with another socket"),
            Self::Refused => (close_code::REFUSED, "registration refused"),
            Self::RegistrationTimeout => (close_code::REGISTRATION_TIMEOUT, "no registration in time"),
            Self::Idle => (close_code::IDLE, "nothing was heard in time"),
            Self::TooSlow => (close_code::TOO_SLOW, "frames are not read fast enough"),
            Self::Violations => (close_code::POLICY, "too many refused frames"),
            Self::TooLarge => (close_code::TOO_LARGE, "frame too large"),
        };
        Some(CloseFrame {
            code: code.into(),
            reason: Utf8Bytes::from_static(reason),
        })
    }
}

/// Serves one socket until it ends. Reading and writing wait for each other nowhere, so two clients that both read slowly
/// cannot hold each other up.
pub(super) async fn serve(stream: TcpStream, shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let limits = &shared.config.limits;
    let deadline = Instant::now() + limits.registration_timeout;
    let config = WebSocketConfig::default()
        .read_buffer_size(8 * 1024)
        .write_buffer_size(16 * 1024)
        .max_message_size(Some(limits.max_frame_bytes))
        .max_frame_size(Some(limits.max_frame_bytes));
    let socket = tokio::select! {
        () = set(&mut stopping) => return,
        accepted = timeout_at(deadline, accept(stream, shared.config.tls.as_ref(), config)) => match accepted {
            Ok(Ok(socket)) => socket,
            Ok(Err(failed)) => {
                add(&shared.counters.handshakes_failed);
                let _ = timeout_at(deadline, failed.tell()).await;
                return;
            }
            Err(_) => return add(&shared.counters.registration_timeouts),
        },
    };
    let (mut sink, mut source) = socket.split();
    let (heard, heard_by_others) = watch::channel(Instant::now());
    let (outbox, mut inbox) = outbox(limits, shared.config.relay.as_ref(), heard_by_others);
    let mut session = Session::new(Arc::clone(&shared), outbox.clone());

    let ending = tokio::select! {
        () = set(&mut stopping) => Ending::ShuttingDown,
        ending = outbox.ended() => ending,
        ending = read(&mut source, &mut session, &heard, deadline) => ending,
        ending = write(&mut sink, &mut inbox, limits.ping_interval, limits.idle_timeout) => ending,
        ending = watch_idle(heard.subscribe(), limits.idle_timeout) => ending,
    };
    let last_words = session.last_words(ending);
    session.end(ending);
    // Whoever waits for a sign of life learns that none will come.
    drop(heard);

    let closing = async {
        match (ending.close_frame(), ending) {
            (Some(frame), _) => close(sink, source, inbox, frame, ending, last_words).await,
            // RFC 6455, 5.5.1: "the endpoint MUST send a Close frame in response". It is queued already, but for the flush.
            (None, Ending::Closed) => {
                let _ = sink.flush().await;
                hang_up(sink, source).await;
            }
            (None, _) => {}
        }
    };
    let _ = timeout(limits.close_timeout, closing).await;
}

async fn accept(
    stream: TcpStream,
    tls: Option<&ServerTls>,
    config: WebSocketConfig,
) -> Result<Socket, handshake::Failed> {
    let stream: Box<dyn ByteStream> = match tls {
        Some(tls) => match tls.accept(stream).await {
            Ok(stream) => Box::new(stream),
            Err(error) => {
                tracing::debug!(%error, "tls handshake failed");
                return Err(handshake::Failed::Lost);
            }
        },
        None => Box::new(stream),
    };
    handshake::accept(stream, config).await
}

async fn read(
    source: &mut SplitStream<Socket>,
    session: &mut Session,
    heard: &watch::Sender<Instant>,
    deadline: Instant,
) -> Ending {
    let shared = Arc::clone(&session.shared);
    let limits = &shared.config.limits;
    let mut throttle = Throttle::signals(limits, Instant::now());
    let mut relays = false;
    loop {
        let message = if session.is_registered() {
            source.next().await
        } else {
            // A timeout alone never fires over a socket that always has something to read.
            if deadline <= Instant::now() {
                return Ending::RegistrationTimeout;
            }
            match timeout_at(deadline, source.next()).await {
                Ok(message) => message,
                Err(_) => return Ending::RegistrationTimeout,
            }
        };
        let message = match message {
            Some(Ok(message)) => message,
            Some(Err(WsError::Capacity(_))) => return Ending::TooLarge,
            Some(Err(WsError::Utf8(_))) => return Ending::NotText,
            Some(Err(WsError::Protocol(ProtocolError::ResetWithoutClosingHandshake))) | None => {
                return Ending::Lost;
            }
            Some(Err(WsError::Protocol(error))) => {
                tracing::debug!(%error, "not a websocket's frame");
                return Ending::Protocol;
            }
            Some(Err(_)) => return Ending::Lost,
        };
        heard.send_replace(Instant::now());
        add(&shared.counters.frames_received);
        if !relays && let Some(relay) = session.relays() {
            throttle = Throttle::relay(relay, Instant::now());
            relays = true;
        }
        if let Some(ready) = throttle.take(message.len(), Instant::now()) {
            add(&shared.counters.frames_throttled);
            sleep_until(ready).await;
        }
        let outcome = match message {
            Message::Text(text) => {
                if session.is_registered() {
                    session.on_text(text).await
                } else {
                    match timeout_at(deadline, session.on_text(text)).await {
                        Ok(outcome) => outcome,
                        Err(_) => Err(Ending::RegistrationTimeout),
                    }
                }
            }
            Message::Binary(frame) => session.on_binary(&frame),
            Message::Close(_) => Err(Ending::Closed),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Ok(()),
        };
        if let Err(ending) = outcome {
            return ending;
        }
    }
}

async fn write(
    sink: &mut SplitSink<Socket, Message>,
    inbox: &mut Inbox,
    ping_interval: Duration,
    stall: Duration,
) -> Ending {
    let probe = Arc::clone(&inbox.probe);
    let mut ping = interval_at(Instant::now() + ping_interval, ping_interval);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let message = tokio::select! {
            frame = inbox.next() => match frame {
                Some(frame) => frame,
                None => return Ending::Lost,
            },
            _ = ping.tick() => Message::Ping(Default::default()),
            () = probe.notified() => Message::Ping(Default::default()),
        };
        // What has queued up meanwhile goes along, for one system call.
        let batch = async {
            sink.feed(message).await?;
            for _ in 1..MAX_BATCH {
                match inbox.try_next() {
                    Some(frame) => sink.feed(frame).await?,
                    None => break,
                }
            }
            sink.flush().await
        };
        match timeout(stall, batch).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Ending::Lost,
            Err(_) => return Ending::TooSlow,
        }
    }
}

/// Frames that are written before they are flushed.
const MAX_BATCH: usize = 32;

/// How fast a socket is read.
struct Throttle {
    frames: TokenBucket,
    bytes: TokenBucket,
    /// What one token of `bytes` buys.
    bytes_per_token: usize,
}

impl Throttle {
    /// A frame counts once for every 4 KiB that it begins.
    fn signals(limits: &ServerLimits, now: Instant) -> Self {
        Self {
            frames: TokenBucket::new(limits.frames_per_second, limits.frame_burst, now),
            bytes: TokenBucket::new(limits.frames_per_second, limits.frame_burst, now),
            bytes_per_token: 4096,
        }
    }

    fn relay(limits: &RelayLimits, now: Instant) -> Self {
        const BYTES_PER_TOKEN: u32 = 64;
        Self {
            frames: TokenBucket::new(limits.frames_per_second, limits.frame_burst, now),
            bytes: TokenBucket::new(
                limits.bytes_per_second / BYTES_PER_TOKEN,
                limits.byte_burst / BYTES_PER_TOKEN,
                now,
            ),
            bytes_per_token: BYTES_PER_TOKEN as usize,
        }
    }

    /// When the frame may be handled, if not yet.
    fn take(&mut self, len: usize, now: Instant) -> Option<Instant> {
        let tokens = u32::try_from(len / self.bytes_per_token).unwrap_or(u32::MAX);
        let bytes = self.bytes.take(tokens.saturating_add(1), now);
        self.frames.take(1, now).max(bytes)
    }
}

async fn watch_idle(heard: watch::Receiver<Instant>, idle: Duration) -> Ending {
    loop {
        let deadline = *heard.borrow() + idle;
        if deadline <= Instant::now() {
            return Ending::Idle;
        }
        sleep_until(deadline).await;
    }
}

/// Says goodbye, with what was still queued if the client reads at all, and waits for the client to have read it.
///
/// RFC 6455, 7.1.1: "the server MUST close the WebSocket Connection" first; and what a socket has not read when it is
/// closed turns into a TCP reset, which takes the close frame away from the client. So: write, shut down, read to the end.
async fn close(
    mut sink: SplitSink<Socket, Message>,
    source: SplitStream<Socket>,
    mut inbox: Inbox,
    frame: CloseFrame,
    ending: Ending,
    last_words: Option<Utf8Bytes>,
) {
    if !matches!(ending, Ending::TooSlow | Ending::Idle) {
        while let Some(frame) = inbox.try_next() {
            if sink.feed(frame).await.is_err() {
                return;
            }
        }
    }
    if let Some(text) = last_words
        && sink.feed(Message::Text(text)).await.is_err()
    {
        return;
    }
    if sink.send(Message::Close(Some(frame))).await.is_err() {
        return;
    }
    hang_up(sink, source).await;
}

async fn hang_up(sink: SplitSink<Socket, Message>, source: SplitStream<Socket>) {
    let Ok(socket) = sink.reunite(source) else {
        return;
    };
    let mut stream = socket.into_inner();
    if stream.shutdown().await.is_ok() {
        let mut discarded = [0; 4096];
        while matches!(stream.read(&mut discarded).await, Ok(1..)) {}
    }
}

/// What a socket is to the server.
#[derive(Debug)]
enum State {
    New,
    Challenged(Box<Challenge>),
    Registered {
        agent_id: AgentId,
        place: u64,
        proven: bool,
        role: SocketRole,
    },
}

/// What a client claimed, and the nonce it is to prove it with.
#[derive(Debug)]
struct Challenge {
    agent_id: AgentId,
    claimed: ProvenKey,
    nonce: Nonce,
    role: SocketRole,
}

#[derive(Debug)]
struct Session {
    shared: Arc<Shared>,
    outbox: Outbox,
    state: State,
    violations: u32,
    /// What waits of ours at other agents, by agent.
    pairs: HashMap<AgentId, Arc<AtomicUsize>>,
}

impl Session {
    fn new(shared: Arc<Shared>, outbox: Outbox) -> Self {
        Self {
            shared,
            outbox,
            state: State::New,
            violations: 0,
            pairs: HashMap::new(),
        }
    }

    /// What a socket that relays may do.
    fn relays(&self) -> Option<&RelayLimits> {
        match self.state {
            State::Registered {
                role: SocketRole::Relay,
                ..
            } => self.shared.config.relay.as_ref(),
            _ => None,
        }
    }

    fn is_registered(&self) -> bool {
        matches!(self.state, State::Registered { .. })
    }

    async fn on_text(&mut self, text: Utf8Bytes) -> Result<(), Ending> {
        let limits = FrameLimits {
            max_bytes: self.shared.config.limits.max_frame_bytes,
            max_agents: 0,
        };
        match ClientFrame::parse(&text, &limits) {
            Ok(ClientFrame::Register {
                agent_id,
                public_key,
                epoch,
                role,
            }) => match (public_key, epoch) {
                (Some(key), Some(epoch)) => {
                    self.on_register(agent_id, Some(ProvenKey { key, epoch }), role)
                        .await
                }
                (None, None) => self.on_register(agent_id, None, role).await,
                _ => self.violation(
                    ErrorCode::Malformed,
                    "Error: public_key and epoch come together or not at all",
                ),
            },
            Ok(ClientFrame::Proof { signature }) => match std::mem::replace(&mut self.state, State::New) {
                State::Challenged(challenge) => {
                    let Challenge {
                        agent_id,
                        claimed,
                        nonce,
                        role,
                    } = *challenge;
                    let statement = registration_statement(
                        &self.shared.config.server_id,
                        &nonce,
                        &agent_id,
                        claimed.epoch,
                        &claimed.key,
                    );
                    if claimed.key.verify_statement(&statement, &signature).is_err() {
                        return self.refuse(&agent_id, ErrorCode::BadProof);
                    }
                    self.register(agent_id, Some(claimed), role).await
                }
                other => {
                    self.state = other;
                    self.violation(ErrorCode::UnexpectedProof, "Error: a proof needs a challenge")
                }
            },
            Ok(ClientFrame::IceServers {}) => match &self.state {
                State::Registered {
                    agent_id,
                    proven: true,
                    role: SocketRole::Signals,
                    ..
                } => {
                    let ice = self.shared.config.ice.as_ref();
                    let servers = ice.map(|ice| ice.servers(agent_id)).unwrap_or_default();
                    let frame = ServerFrame::IceServers(servers);
                    self.outbox.push(frame.to_text().into());
                    Ok(())
                }
                State::Registered { .. } => self.violation(
                    ErrorCode::WrongRole,
                    "Error: only a socket for signals that proved a key is told of ICE servers",
                ),
                State::New | State::Challenged(_) => {
                    self.violation(ErrorCode::NotRegistered, "Error: register first")
                }
            },
            Ok(frame) => self.on_relay(&frame, text),
            Err(FrameError::UnknownType) => {
                add(&self.shared.counters.frames_malformed);
                self.violation(ErrorCode::UnknownType, "Error: unknown message type")
            }
            Err(error) => {
                add(&self.shared.counters.frames_malformed);
                self.violation(ErrorCode::Malformed, &format!("Error: {error}"))
            }
        }
    }

    /// Passes a relayed frame on, with the author's name in place of the addressee's.
    fn on_binary(&mut self, frame: &Bytes) -> Result<(), Ending> {
        let shared = Arc::clone(&self.shared);
        let counters = &shared.counters;
        let (
            State::Registered {
                agent_id: own,
                role: SocketRole::Relay,
                ..
            },
            Some(limits),
        ) = (&self.state, &shared.config.relay)
        else {
            add(&counters.frames_malformed);
            return self.violation(
                ErrorCode::BinaryFrame,
                "Error: only a socket that registered with the role relay sends binary frames",
            );
        };
        if frame.len() > limits.max_frame_bytes {
            return Err(Ending::TooLarge);
        }
        let Some(RelayFrame { agent: to, body }) = RelayFrame::decode(frame) else {
            add(&counters.frames_malformed);
            return self.violation(ErrorCode::Malformed, "Error: not a relay frame");
        };
        let outbox = shared.registry(SocketRole::Relay).outbox(&to);
        let Some(outbox) = outbox else {
            self.pairs.remove(&to);
            add(&counters.relay_not_found);
            let message = format!("Error: Agent {to} not found");
            self.error(ErrorCode::AgentNotFound, message, Some(to));
            return Ok(());
        };
        if self.pairs.len() > shared.config.limits.max_agents {
            // Names come and go; what nothing waits for any more is forgotten.
            self.pairs.retain(|_, pair| pair.load(Relaxed) > 0);
        }
        let room = RelayRoom {
            pair: self.pairs.entry(to.clone()).or_default(),
            total: &shared.relayed,
            limits,
        };
        if outbox.push_relayed(relay::encode(own, &body), room) {
            add(&counters.relay_frames);
            counters.relay_bytes.fetch_add(body.len() as u64, Relaxed);
        } else {
            add(&counters.relay_overflows);
            let message = format!("Error: too much waits for {to} already");
            self.error(ErrorCode::RelayOverflow, message, Some(to));
        }
        Ok(())
    }

    async fn on_register(
        &mut self,
        agent_id: AgentId,
        key: Option<ProvenKey>,
        role: SocketRole,
    ) -> Result<(), Ending> {
        match &self.state {
            State::New => {}
            // Harmless, and the original allowed it: the answer is the same as before.
            State::Registered {
                agent_id: own,
                proven: false,
                ..
            } if *own == agent_id && key.is_none() => {
                let again = self.shared.registry(role).registered(&agent_id, None);
                self.outbox.push(again.into());
                return Ok(());
            }
            _ => {
                return self.violation(
                    ErrorCode::AlreadyRegistered,
                    "Error: this socket has a name already, or is about to get one",
                );
            }
        }
        let config = &self.shared.config;
        if let Some(allow) = &config.allow {
            let keys = allow.get(&agent_id);
            let allowed = key.is_some_and(|claimed| keys.is_some_and(|keys| keys.contains(&claimed.key)));
            if !allowed {
                return self.refuse(&agent_id, ErrorCode::NotAllowed);
            }
        }
        if role == SocketRole::Relay && config.relay.is_none() {
            return self.refuse(&agent_id, ErrorCode::RelayOff);
        }
        match key {
            Some(claimed) => {
                let nonce = self.shared.nonce();
                let challenge = ServerFrame::Challenge {
                    nonce,
                    server_id: config.server_id.clone(),
                };
                self.outbox.push(challenge.to_text().into());
                self.state = State::Challenged(Box::new(Challenge {
                    agent_id,
                    claimed,
                    nonce,
                    role,
                }));
                Ok(())
            }
            None if config.mode == RegistrationMode::Open && role == SocketRole::Signals => {
                self.register(agent_id, None, role).await
            }
            None => self.refuse(&agent_id, ErrorCode::KeyRequired),
        }
    }

    async fn register(
        &mut self,
        agent_id: AgentId,
        key: Option<ProvenKey>,
        role: SocketRole,
    ) -> Result<(), Ending> {
        let mut denied = match self.try_register(&agent_id, key, role) {
            Ok(()) => return Ok(()),
            Err(denied) => denied,
        };
        // Two clients without keys: nothing tells them apart but whether the first one still lives.
        if let Denied::Held { place, outbox } = denied {
            match timeout(self.shared.config.limits.probe_timeout, outbox.is_alive()).await {
                Ok(true) => return self.refuse(&agent_id, ErrorCode::IdTaken),
                Ok(false) | Err(_) => {
                    self.shared
                        .registry(role)
                        .evict(&agent_id, place, Ending::Idle, Instant::now());
                }
            }
            match self.try_register(&agent_id, key, role) {
                Ok(()) => return Ok(()),
                Err(again) => denied = again,
            }
        }
        match denied {
            Denied::Final(code) => self.refuse(&agent_id, code),
            Denied::Held { .. } => self.refuse(&agent_id, ErrorCode::IdTaken),
        }
    }

    fn try_register(
        &mut self,
        agent_id: &AgentId,
        key: Option<ProvenKey>,
        role: SocketRole,
    ) -> Result<(), Denied> {
        let place = self.shared.registry(role).register(
            agent_id,
            key,
            self.shared.welcome(role, agent_id),
            &self.outbox,
            Instant::now(),
        )?;
        tracing::info!(%agent_id, proven = key.is_some(), ?role, "agent registered");
        self.state = State::Registered {
            agent_id: agent_id.clone(),
            place,
            proven: key.is_some(),
            role,
        };
        Ok(())
    }

    fn on_relay(&mut self, frame: &ClientFrame, text: Utf8Bytes) -> Result<(), Ending> {
        let Some((from, to)) = frame.route() else {
            return Ok(());
        };
        match &self.state {
            State::Registered {
                role: SocketRole::Relay,
                ..
            } => {
                return self.violation(
                    ErrorCode::WrongRole,
                    "Error: a socket with the role relay sends binary frames",
                );
            }
            State::Registered { agent_id, .. } if agent_id == from => {}
            State::Registered { .. } => {
                add(&self.shared.counters.from_mismatches);
                return self.violation(
                    ErrorCode::FromMismatch,
                    "Error: from is not the name this socket is registered with",
                );
            }
            State::New | State::Challenged(_) => {
                return self.violation(ErrorCode::NotRegistered, "Error: register first");
            }
        }
        // The text as it came: members that this version does not know reach the other side.
        let relayed = self.shared.registry(SocketRole::Signals).relay(to, text);
        let counters = &self.shared.counters;
        if relayed {
            add(&counters.frames_relayed);
        } else if matches!(frame, ClientFrame::IceCandidate(_)) {
            add(&counters.candidates_dropped);
        } else {
            add(&counters.agents_not_found);
            self.error(
                ErrorCode::AgentNotFound,
                format!("Error: Agent {to} not found"),
                Some(to.clone()),
            );
        }
        Ok(())
    }

    fn refuse(&mut self, agent_id: &AgentId, code: ErrorCode) -> Result<(), Ending> {
        add(&self.shared.counters.registrations_refused);
        tracing::info!(%agent_id, ?code, "registration refused");
        let why = match code {
            ErrorCode::IdTaken => "belongs to another client",
            ErrorCode::StaleEpoch => "is registered with a higher epoch",
            ErrorCode::BadProof => "was claimed with a proof that does not verify",
            ErrorCode::KeyRequired => "needs public_key and epoch at this server",
            ErrorCode::NotAllowed => "is not allowed to this client",
            ErrorCode::ServerFull => "cannot be registered, the server is full: try later",
            ErrorCode::RelayOff => "cannot relay: this server relays nothing",
            _ => "was refused",
        };
        self.error(
            code,
            format!("Error: Agent {agent_id} {why}"),
            Some(agent_id.clone()),
        );
        Err(Ending::Refused)
    }

    fn violation(&mut self, code: ErrorCode, message: &str) -> Result<(), Ending> {
        self.violations += 1;
        self.error(code, message.to_owned(), None);
        if self.violations >= self.shared.config.limits.max_violations {
            return Err(Ending::Violations);
        }
        Ok(())
    }

    fn error(&self, code: ErrorCode, message: String, agent_id: Option<AgentId>) {
        let original = matches!(self.state, State::Registered { proven: false, .. });
        let frame = ServerFrame::Error {
            message,
            code: (!original).then_some(code),
            agent_id: if original { None } else { agent_id },
        };
        self.outbox.push(frame.to_text().into());
    }

    /// Where else to go, for clients that understand it.
    fn last_words(&self, ending: Ending) -> Option<Utf8Bytes> {
        let understood = matches!(self.state, State::Registered { proven: true, .. });
        let frame = ServerFrame::GoingAway {
            urls: self.shared.config.alternatives.clone(),
        };
        (understood && ending == Ending::ShuttingDown).then(|| frame.to_text().into())
    }

    fn end(&mut self, ending: Ending) {
        let counters = &self.shared.counters;
        match ending {
            Ending::RegistrationTimeout => add(&counters.registration_timeouts),
            Ending::Idle => add(&counters.idle_timeouts),
            Ending::TooSlow => add(&counters.slow_clients),
            Ending::Violations => add(&counters.violators_closed),
            Ending::TooLarge => add(&counters.frames_oversize),
            Ending::Protocol | Ending::NotText => add(&counters.protocol_errors),
            Ending::Lost | Ending::Closed | Ending::ShuttingDown | Ending::Replaced | Ending::Refused => {}
        }
        if let State::Registered {
            agent_id,
            place,
            role,
            ..
        } = &self.state
        {
            tracing::info!(%agent_id, ?role, ?ending, "agent left");
            self.shared
                .registry(*role)
                .leave(agent_id, *place, Instant::now());
        }
    }
}

/// A connection whose task is aborted leaves no name behind.
impl Drop for Session {
    fn drop(&mut self) {
        if let State::Registered {
            agent_id,
            place,
            role,
            ..
        } = &self.state
        {
            self.shared
                .registry(*role)
                .leave(agent_id, *place, Instant::now());
        }
    }
}
