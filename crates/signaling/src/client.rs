//! The client: registers, reconnects, and turns a server's frames into events.

use std::{
    fmt,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures::{SinkExt as _, StreamExt as _};
use ifmsg::{AgentId, Identity};
use rand_core::CryptoRng;
use tokio::{
    net::TcpStream,
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout},
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async_with_config,
    tungstenite::{
        Error as WsError, Message, Utf8Bytes,
        client::IntoClientRequest as _,
        protocol::{CloseFrame, WebSocketConfig},
    },
};

use crate::{
    flag::set,
    protocol::{AgentInfo, ClientFrame, ErrorCode, FrameLimits, MAX_SAFE_INTEGER, ServerFrame, Signal},
    server::close_code,
    statement::registration_statement,
};

/// A connection to one signaling server at a time, kept up until [`close`](Self::close) or until dropped.
///
/// The server is not trusted: what it sends is bounded, and [`Event::Signal`] is what somebody *claims* to have said.
pub struct Client {
    events: mpsc::Receiver<Event>,
    sender: SignalSender,
    closing: watch::Sender<bool>,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// What a [`Client`] is told.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientConfig {
    /// `ws://host:port`, one or more. After a failure the next one is tried.
    pub urls: Vec<String>,
    /// The name to register.
    pub agent_id: AgentId,
    /// The key to prove.
    pub identity: Identity,
    /// Grows with each start of the agent, stays for as long as it runs; at most 2^53-1.
    pub epoch: u64,
    /// If set: only a server of this name is registered with. Keeps a server from having its challenge answered on behalf of
    /// another.
    pub server_id: Option<AgentId>,
    /// Bounds and timers.
    pub limits: ClientLimits,
}

impl ClientConfig {
    /// The defaults.
    pub fn new(
        urls: impl IntoIterator<Item = impl Into<String>>,
        agent_id: AgentId,
        identity: Identity,
        epoch: u64,
    ) -> Self {
        Self {
            urls: urls.into_iter().map(Into::into).collect(),
            agent_id,
            identity,
            epoch,
            server_id: None,
            limits: ClientLimits::default(),
        }
    }
}

/// What a server may use up, and how long it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientLimits {
    /// Bytes in a frame: 1 MiB, room for a `registered` frame of a full server.
    pub max_frame_bytes: usize,
    /// Agents in a `registered` frame: 4,096.
    pub max_agents: usize,
    /// From the first TCP packet to `registered`: 10 s.
    pub connect_timeout: Duration,
    /// Between pings: 10 s.
    pub ping_interval: Duration,
    /// Without any frame, pongs included: 30 s. Also how long one write may take.
    pub idle_timeout: Duration,
    /// The shortest wait before a reconnection: 100 ms.
    pub backoff_min: Duration,
    /// The longest: 10 s.
    pub backoff_max: Duration,
    /// Signals waiting to be sent: 256.
    pub queue_signals: usize,
    /// Events waiting to be taken: 256. A full queue stops the reading of the socket.
    pub queue_events: usize,
    /// A signal that could not be sent for so long is dropped and counted: 30 s, after which an offer has expired anyway.
    pub max_signal_age: Duration,
}

impl Default for ClientLimits {
    fn default() -> Self {
        Self {
            max_frame_bytes: 1024 * 1024,
            max_agents: 4_096,
            connect_timeout: Duration::from_secs(10),
            ping_interval: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(30),
            backoff_min: Duration::from_millis(100),
            backoff_max: Duration::from_secs(10),
            queue_signals: 256,
            queue_events: 256,
            max_signal_age: Duration::from_secs(30),
        }
    }
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Event {
    /// Registered, for the first time or again. `agents` is everybody else and replaces every earlier list.
    Registered {
        /// With which of the configured servers.
        url: String,
        /// The server's name; the original's has none.
        server_id: Option<AgentId>,
        /// Everybody else.
        agents: Vec<AgentInfo>,
    },
    /// Somebody registered, for the first time or again: a connection of theirs from before is over.
    Joined(AgentInfo),
    /// Somebody's connection to the server is over. Says nothing about connections between agents.
    Left(AgentId),
    /// An offer, an answer or a candidate.
    Signal {
        /// Who sent it, if the server is honest.
        from: AgentId,
        /// What.
        signal: Signal,
    },
    /// The server refused a frame.
    ServerError {
        /// For programs; the original's server sends none.
        code: Option<ErrorCode>,
        /// For people; the server's words.
        message: String,
        /// Whom it is about: for [`ErrorCode::AgentNotFound`] the addressee.
        agent_id: Option<AgentId>,
    },
    /// The connection is gone, or did not come up. The client tries again by itself.
    Disconnected {
        /// Why.
        reason: DisconnectReason,
        /// When.
        retry_in: Duration,
    },
    /// Every configured server refused the registration for good. The last event.
    Refused(Refusal),
}

/// Why a connection ended. Each is worth a retry, and gets one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// No connection, or no WebSocket.
    #[error("cannot connect to {url}: {error}")]
    Unreachable {
        /// The server.
        url: String,
        /// What the operating system or the handshake says.
        error: String,
    },
    /// No registration in time.
    #[error("{url} did not complete the registration in time")]
    RegistrationTimeout {
        /// The server.
        url: String,
    },
    /// The server refused for now.
    #[error("{url} cannot take this agent now: {message}")]
    Busy {
        /// The server.
        url: String,
        /// Its words.
        message: String,
    },
    /// This server refused for good; others are still tried.
    #[error("{0}")]
    Refused(Refusal),
    /// The server closed.
    #[error("the server closed the connection (code {code}): {reason}")]
    Closed {
        /// RFC 6455, 7.4; 1005 if it gave none.
        code: u16,
        /// Its words.
        reason: String,
    },
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(String),
    /// Nothing was heard in time.
    #[error("nothing was heard from the server in time")]
    Idle,
}

/// Why a registration will not succeed at a server, however often it is repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The server said so.
    #[error("{url} refused the registration ({code:?}): {message}")]
    ByServer {
        /// The server.
        url: String,
        /// Why.
        code: ErrorCode,
        /// Its words.
        message: String,
    },
    /// Another process runs with this agent's key and took the name over. Stop one of the two.
    #[error("another process with this agent's key registered at {url}: stop one of the two")]
    Replaced {
        /// The server.
        url: String,
    },
    /// The server has another name than the configured one: check the url, or who answers there.
    #[error("{url} calls itself {found}, {expected} is configured")]
    WrongServer {
        /// The server.
        url: String,
        /// Its name.
        found: AgentId,
        /// The configured name.
        expected: AgentId,
    },
}

/// The configuration cannot work. The caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidClientConfig {
    /// No url.
    #[error("no signaling server is configured: at least one url is needed")]
    NoUrls,
    /// Not `ws://host:port`.
    #[error("{0:?} is not the url of a signaling server: ws://host:port is needed")]
    BadUrl(String),
    /// Over 2^53-1.
    #[error("the epoch {0} is larger than 2^53-1")]
    BadEpoch(u64),
}

/// The client is closed, or was refused for good: nothing will be sent. The signal comes back.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the signaling client is closed")]
pub struct SendError {
    /// What was to be sent.
    pub signal: Signal,
}

/// Sends signals; a [`Client`] has any number of them.
#[derive(Debug, Clone)]
pub struct SignalSender {
    queue: mpsc::Sender<Queued>,
}

impl SignalSender {
    /// Queues a signal for `to`. Waits while the queue is full; cancel safe: a cancelled call has queued nothing.
    ///
    /// `Ok` is "accepted", never "delivered": signals wait through a reconnection (for at most
    /// [`ClientLimits::max_signal_age`]), and what was being written when a connection broke is lost.
    pub async fn send(&self, to: AgentId, signal: Signal) -> Result<(), SendError> {
        match self.queue.reserve().await {
            Ok(permit) => {
                permit.send(Queued {
                    to,
                    signal,
                    since: Instant::now(),
                });
                Ok(())
            }
            Err(_) => Err(SendError { signal }),
        }
    }
}

impl Client {
    /// Starts to connect, in a task of its own; how that goes is told by [`recv`](Self::recv). Must be called within a tokio
    /// runtime. `random` spreads the reconnections of many clients over time.
    pub fn connect(
        config: ClientConfig,
        random: impl CryptoRng + Send + 'static,
    ) -> Result<Self, InvalidClientConfig> {
        if config.urls.is_empty() {
            return Err(InvalidClientConfig::NoUrls);
        }
        for url in &config.urls {
            let valid = url
                .as_str()
                .into_client_request()
                .is_ok_and(|request| request.uri().scheme_str() == Some("ws"));
            if !valid {
                return Err(InvalidClientConfig::BadUrl(url.clone()));
            }
        }
        if config.epoch > MAX_SAFE_INTEGER {
            return Err(InvalidClientConfig::BadEpoch(config.epoch));
        }
        let (queue, signals) = mpsc::channel(config.limits.queue_signals.max(1));
        let (events_in, events) = mpsc::channel(config.limits.queue_events.max(1));
        let (closing, close) = watch::channel(false);
        let shared = Arc::new(Shared::default());
        let driver = Driver {
            refused: vec![None; config.urls.len()],
            config,
            random: Box::new(random),
            events: events_in,
            signals,
            closing: close,
            shared: Arc::clone(&shared),
        };
        Ok(Self {
            events,
            sender: SignalSender { queue },
            closing,
            shared,
            task: tokio::spawn(driver.run()),
        })
    }

    /// The next event, in the order in which things happened; `None` after [`Event::Refused`]. Cancel safe.
    ///
    /// Must be called on: while events wait untaken the socket is not read, and a server drops a client that does not read.
    pub async fn recv(&mut self) -> Option<Event> {
        self.events.recv().await
    }

    /// [`SignalSender::send`].
    pub async fn send(&self, to: AgentId, signal: Signal) -> Result<(), SendError> {
        self.sender.send(to, signal).await
    }

    /// A handle that sends, for other tasks.
    pub fn sender(&self) -> SignalSender {
        self.sender.clone()
    }

    /// Closes with a close frame (1000), so that the others learn at once; takes at most two seconds. Signals that still wait
    /// are dropped.
    pub async fn close(mut self) {
        self.closing.send_replace(true);
        let _ = timeout(CLOSE_TIMEOUT * 2, &mut self.task).await;
    }

    /// Frames from servers that were no frames, or not for this agent. They are skipped.
    pub fn ignored_frames(&self) -> u64 {
        self.shared.ignored_frames.load(Relaxed)
    }

    /// Signals that were dropped because no server could be reached for too long.
    pub fn expired_signals(&self) -> u64 {
        self.shared.expired_signals.load(Relaxed)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

#[derive(Debug)]
struct Queued {
    to: AgentId,
    signal: Signal,
    since: Instant,
}

#[derive(Debug, Default)]
struct Shared {
    ignored_frames: AtomicU64,
    expired_signals: AtomicU64,
}

struct Driver {
    config: ClientConfig,
    random: Box<dyn CryptoRng + Send>,
    events: mpsc::Sender<Event>,
    signals: mpsc::Receiver<Queued>,
    closing: watch::Receiver<bool>,
    shared: Arc<Shared>,
    /// What each url refused for good.
    refused: Vec<Option<Refusal>>,
}

/// How an attempt or a connection ended.
enum Outcome {
    /// Try again.
    Lost(DisconnectReason),
    /// Not at this server.
    Refused(Refusal),
    /// The owner wants no more.
    Closed,
}

impl Driver {
    async fn run(mut self) {
        let mut at = 0;
        let mut attempt = 0;
        loop {
            let url = self.config.urls[at].clone();
            let started = Instant::now();
            let outcome = self.connection(&url).await;
            let reason = match outcome {
                Outcome::Closed => return,
                Outcome::Lost(reason) => reason,
                Outcome::Refused(refusal) => {
                    self.refused[at] = Some(refusal.clone());
                    DisconnectReason::Refused(refusal)
                }
            };
            // A connection that held for a while starts the backoff afresh; one that a server drops at once does not.
            if started.elapsed() >= self.config.limits.backoff_max {
                attempt = 0;
            }
            let count = self.config.urls.len();
            let next = (1..=count)
                .map(|step| (at + step) % count)
                .find(|&i| self.refused[i].is_none());
            let Some(next) = next else {
                if let DisconnectReason::Refused(refusal) = reason {
                    self.emit(Event::Refused(refusal)).await;
                }
                return;
            };
            at = next;
            let retry_in = self.backoff(attempt);
            attempt = attempt.saturating_add(1);
            tracing::debug!(%reason, ?retry_in, "signaling connection lost");
            if !self.emit(Event::Disconnected { reason, retry_in }).await || !self.pause(retry_in).await {
                return;
            }
        }
    }

    /// From the first packet to the last.
    async fn connection(&mut self, url: &str) -> Outcome {
        let mut closing = self.closing.clone();
        let limit = self.config.limits.connect_timeout;
        let registered = {
            let register = pin!(timeout(limit, self.register(url)));
            tokio::select! {
                () = set(&mut closing) => return Outcome::Closed,
                registered = register => registered,
            }
        };
        match registered {
            Ok(Ok((socket, event))) => self.session(url, socket, event).await,
            Ok(Err(outcome)) => outcome,
            Err(_) => Outcome::Lost(DisconnectReason::RegistrationTimeout { url: url.to_owned() }),
        }
    }

    /// Connects and registers.
    async fn register(&mut self, url: &str) -> Result<(Socket, Event), Outcome> {
        let limits = &self.config.limits;
        let config = WebSocketConfig::default()
            .read_buffer_size(16 * 1024)
            .write_buffer_size(16 * 1024)
            .max_message_size(Some(limits.max_frame_bytes))
            .max_frame_size(Some(limits.max_frame_bytes));
        let (mut socket, _) = connect_async_with_config(url, Some(config), true)
            .await
            .map_err(|error| {
                Outcome::Lost(DisconnectReason::Unreachable {
                    url: url.to_owned(),
                    error: error.to_string(),
                })
            })?;
        let identity = &self.config.identity;
        let register = ClientFrame::Register {
            agent_id: self.config.agent_id.clone(),
            public_key: Some(*identity.public_key()),
            epoch: Some(self.config.epoch),
        };
        send(&mut socket, &register).await?;
        let mut proved = false;
        loop {
            let text = next_text(&mut socket, url).await?;
            match self.parse(&text) {
                Some(ServerFrame::Challenge { nonce, server_id }) if !proved => {
                    self.check_server(url, &server_id)?;
                    let statement = registration_statement(
                        &server_id,
                        &nonce,
                        &self.config.agent_id,
                        self.config.epoch,
                        identity.public_key(),
                    );
                    let signature = identity.sign_statement(&statement);
                    send(&mut socket, &ClientFrame::Proof { signature }).await?;
                    proved = true;
                }
                Some(ServerFrame::Registered {
                    agent_id,
                    connected_agents,
                    agents,
                    server_id,
                }) if agent_id == self.config.agent_id => {
                    if let Some(server_id) = &server_id {
                        self.check_server(url, server_id)?;
                    }
                    let mut agents: Vec<_> = if agents.is_empty() {
                        connected_agents.into_iter().map(AgentInfo::unproven).collect()
                    } else {
                        agents
                    };
                    agents.retain(|agent| agent.agent_id != self.config.agent_id);
                    let event = Event::Registered {
                        url: url.to_owned(),
                        server_id,
                        agents,
                    };
                    return Ok((socket, event));
                }
                Some(ServerFrame::Error {
                    code: Some(code),
                    message,
                    ..
                }) if code.is_final() => {
                    return Err(Outcome::Refused(Refusal::ByServer {
                        url: url.to_owned(),
                        code,
                        message,
                    }));
                }
                Some(ServerFrame::Error { message, .. }) => {
                    return Err(Outcome::Lost(DisconnectReason::Busy {
                        url: url.to_owned(),
                        message,
                    }));
                }
                Some(_) => self.ignore("frame before registration"),
                None => {}
            }
        }
    }

    /// Registered: signals out, events in, until something ends it.
    ///
    /// An event that finds no room waits in `pending`; meanwhile signals go out all the same, so that an owner who waits in `send`
    /// instead of `recv` gets on.
    async fn session(&mut self, url: &str, mut socket: Socket, registered: Event) -> Outcome {
        let limits = self.config.limits;
        let events = self.events.clone();
        let mut closing = self.closing.clone();
        let mut pending = Some(registered);
        let mut heard = Instant::now();
        let mut ping = interval_at(heard + limits.ping_interval, limits.ping_interval);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                () = set(&mut closing) => {
                    say_goodbye(&mut socket).await;
                    return Outcome::Closed;
                }
                permit = events.reserve(), if pending.is_some() => match permit {
                    Ok(permit) => {
                        if let Some(event) = pending.take() {
                            permit.send(event);
                        }
                        // The time in which nothing was read is not the server's.
                        heard = Instant::now();
                        continue;
                    }
                    Err(_) => return Outcome::Closed,
                },
                message = socket.next(), if pending.is_none() => {
                    heard = Instant::now();
                    match message {
                        Some(Ok(message)) => {
                            match message {
                                Message::Text(text) => pending = self.event(&text),
                                Message::Close(frame) => return closed(url, frame),
                                Message::Binary(_) => self.ignore("binary frame"),
                                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => {}
                            }
                            continue;
                        }
                        Some(Err(error)) => return broken(&error),
                        None => return closed(url, None),
                    }
                }
                queued = self.signals.recv() => match queued {
                    Some(queued) if queued.since.elapsed() > limits.max_signal_age => {
                        self.shared.expired_signals.fetch_add(1, Relaxed);
                        continue;
                    }
                    Some(Queued { to, signal, .. }) => {
                        let frame = signal.into_frame(self.config.agent_id.clone(), to);
                        Message::Text(frame.to_text().into())
                    }
                    None => return Outcome::Closed,
                },
                _ = ping.tick() => Message::Ping(Default::default()),
                () = sleep_until(heard + limits.idle_timeout), if pending.is_none() => {
                    return Outcome::Lost(DisconnectReason::Idle);
                }
            };
            match timeout(limits.idle_timeout, socket.send(message)).await {
                Ok(Ok(())) => {}
                // The server closed while this was being sent: its reason is in what it sent before.
                Ok(Err(error)) => return last_words(url, &mut socket, &error).await,
                Err(_) => return Outcome::Lost(DisconnectReason::Idle),
            }
        }
    }

    fn event(&self, text: &str) -> Option<Event> {
        match self.parse(text)? {
            ServerFrame::Offer(frame) => self.signal(frame.into_signal()),
            ServerFrame::Answer(frame) => self.signal(frame.into_signal()),
            ServerFrame::IceCandidate(frame) => self.signal(frame.into_signal()),
            ServerFrame::AgentJoined(agent) if agent.agent_id != self.config.agent_id => {
                Some(Event::Joined(agent))
            }
            ServerFrame::AgentLeft { agent_id } if agent_id != self.config.agent_id => {
                Some(Event::Left(agent_id))
            }
            ServerFrame::Error {
                message,
                code,
                agent_id,
            } => Some(Event::ServerError {
                code,
                message,
                agent_id,
            }),
            _ => {
                self.ignore("frame out of place");
                None
            }
        }
    }

    fn signal(&self, (from, to, signal): (AgentId, AgentId, Signal)) -> Option<Event> {
        if to != self.config.agent_id || from == self.config.agent_id {
            self.ignore("signal that is not for this agent");
            return None;
        }
        Some(Event::Signal { from, signal })
    }

    fn parse(&self, text: &str) -> Option<ServerFrame> {
        let limits = FrameLimits {
            max_bytes: self.config.limits.max_frame_bytes,
            max_agents: self.config.limits.max_agents,
        };
        match ServerFrame::parse(text, &limits) {
            Ok(frame) => Some(frame),
            Err(error) => {
                tracing::debug!(%error, "frame ignored");
                self.shared.ignored_frames.fetch_add(1, Relaxed);
                None
            }
        }
    }

    fn ignore(&self, what: &'static str) {
        tracing::debug!(what, "frame ignored");
        self.shared.ignored_frames.fetch_add(1, Relaxed);
    }

    fn check_server(&self, url: &str, found: &AgentId) -> Result<(), Outcome> {
        match &self.config.server_id {
            Some(expected) if expected != found => Err(Outcome::Refused(Refusal::WrongServer {
                url: url.to_owned(),
                found: found.clone(),
                expected: expected.clone(),
            })),
            _ => Ok(()),
        }
    }

    /// Exponential with full jitter: anything from the minimum to the minimum times 2^(attempt+1), at most the maximum.
    fn backoff(&mut self, attempt: u32) -> Duration {
        let limits = &self.config.limits;
        let ceiling = limits
            .backoff_min
            .saturating_mul(2u32.saturating_pow(attempt.saturating_add(1)))
            .min(limits.backoff_max);
        let spread = ceiling.saturating_sub(limits.backoff_min);
        let micros = u64::try_from(spread.as_micros()).unwrap_or(u64::MAX);
        let jitter = self.random.next_u64() % micros.saturating_add(1).max(1);
        limits.backoff_min + Duration::from_micros(jitter)
    }

    /// `false`: nobody listens any more.
    async fn emit(&mut self, event: Event) -> bool {
        tokio::select! {
            () = set(&mut self.closing) => false,
            sent = self.events.send(event) => sent.is_ok(),
        }
    }

    async fn pause(&mut self, time: Duration) -> bool {
        tokio::select! {
            () = set(&mut self.closing) => false,
            () = sleep(time) => true,
        }
    }
}

async fn send(socket: &mut Socket, frame: &ClientFrame) -> Result<(), Outcome> {
    socket
        .send(Message::Text(frame.to_text().into()))
        .await
        .map_err(|error| broken(&error))
}

async fn next_text(socket: &mut Socket, url: &str) -> Result<Utf8Bytes, Outcome> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(text),
            Some(Ok(Message::Close(frame))) => return Err(closed(url, frame)),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(broken(&error)),
            None => return Err(closed(url, None)),
        }
    }
}

/// What the server still said before a write to it failed; its close frame is the better reason.
async fn last_words(url: &str, socket: &mut Socket, error: &WsError) -> Outcome {
    let read = async {
        while let Some(Ok(message)) = socket.next().await {
            if let Message::Close(frame) = message {
                return Some(closed(url, frame));
            }
        }
        None
    };
    match timeout(CLOSE_TIMEOUT, read).await {
        Ok(Some(outcome)) => outcome,
        Ok(None) | Err(_) => broken(error),
    }
}

async fn say_goodbye(socket: &mut Socket) {
    let goodbye = async {
        let frame = CloseFrame {
            code: 1000.into(),
            reason: Utf8Bytes::default(),
        };
        if socket.send(Message::Close(Some(frame))).await.is_ok() {
            while let Some(Ok(_)) = socket.next().await {}
        }
    };
    let _ = timeout(CLOSE_TIMEOUT, goodbye).await;
}

fn closed(url: &str, frame: Option<CloseFrame>) -> Outcome {
    let (code, reason) = match frame {
        Some(frame) => (u16::from(frame.code), frame.reason.as_str().to_owned()),
        // RFC 6455, 7.1.5: no status code was present.
        None => (1005, String::new()),
    };
    if code == close_code::REPLACED {
        return Outcome::Refused(Refusal::Replaced { url: url.to_owned() });
    }
    Outcome::Lost(DisconnectReason::Closed { code, reason })
}

fn broken(error: &WsError) -> Outcome {
    Outcome::Lost(DisconnectReason::Broken(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::ServerLimits;

    /// Fails if an agent could be locked out of a full server by the size of its welcome.
    #[test]
    fn the_welcome_of_a_full_server_fits() {
        let agents: Vec<_> = (0..ServerLimits::default().max_agents)
            .map(|n| AgentInfo {
                agent_id: AgentId::new(format!("{n:x>128}")).unwrap(),
                public_key: Some(*Identity::from_seed(&[1; 32]).public_key()),
                epoch: Some(MAX_SAFE_INTEGER),
            })
            .collect();
        let welcome = ServerFrame::Registered {
            agent_id: AgentId::new("a").unwrap(),
            connected_agents: agents.iter().map(|agent| agent.agent_id.clone()).collect(),
            agents,
            server_id: None,
        };
        let limits = ClientLimits::default();
        let limits = FrameLimits {
            max_bytes: limits.max_frame_bytes,
            max_agents: limits.max_agents,
        };
        assert_eq!(ServerFrame::parse(&welcome.to_text(), &limits), Ok(welcome));
    }
}
