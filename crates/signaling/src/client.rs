//! The client: registers, reconnects, and turns a server's frames into events.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _, future::BoxFuture};
use ifmsg::{AgentId, Identity};
use rand_core::CryptoRng;
use tokio::{
    net::TcpStream,
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval_at, sleep, sleep_until, timeout},
};
use tokio_tungstenite::{
    client_async_with_config,
    tungstenite::{
        Error as WsError, Message, Utf8Bytes,
        client::IntoClientRequest as _,
        protocol::{CloseFrame, WebSocketConfig},
    },
};

use crate::{
    flag::set,
    protocol::{
        AgentInfo, ClientFrame, ErrorCode, FrameLimits, IceServers, MAX_SAFE_INTEGER, RelayTerms,
        ServerFrame, Signal, SocketRole,
    },
    relay::RelayFrame,
    server::close_code,
    statement::registration_statement,
    stream::{ByteStream, Socket},
    tls::ClientTls,
};

/// A connection to one signaling server at a time, kept up until [`close`](Self::close) or until dropped.
///
/// The server is not trusted: what it sends is bounded, and [`Event::Signal`] is what somebody *claims* to have said.
pub struct Client {
    events: mpsc::Receiver<Event>,
    sender: SignalSender,
    relay: RelaySender,
    closing: watch::Sender<bool>,
    ice: watch::Receiver<IceServers>,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// What a [`Client`] is told.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClientConfig {
    /// `ws://host:port` or `wss://host:port`, one or more, best first. After a failure the next one is tried; a better one is
    /// gone back to when it takes registrations again.
    pub urls: Vec<String>,
    /// Whose certificates are taken for those of a `wss://` server.
    pub tls: ClientTls,
    /// What the connection is for. One agent may have a client of each role.
    pub role: SocketRole,
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
            tls: ClientTls::default(),
            role: SocketRole::default(),
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
    /// Without any frame, pongs included: 30 s. Also how long one write may take, unless the server is doubted meanwhile.
    pub idle_timeout: Duration,
    /// The shortest wait before a reconnection: 100 ms.
    pub backoff_min: Duration,
    /// The longest: 10 s.
    pub backoff_max: Duration,
    /// Between two tries to get back to a server that stands further up in the list: 30 s, and up to half of it more or less.
    pub return_interval: Duration,
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
            return_interval: Duration::from_secs(30),
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
        /// Everybody else with a socket of the same role.
        agents: Vec<AgentInfo>,
        /// What this socket may relay: given to the role [`SocketRole::Relay`], and to no other.
        relay: Option<RelayTerms>,
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
    /// Something came by the relay: who sent it, if the server is honest, and what.
    Relayed(RelayFrame),
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
    /// A server further up in the list takes this agent again. The registration there has succeeded, and comes next.
    #[error("{url}, which is preferred, is back")]
    Returned {
        /// That server.
        url: String,
    },
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
    /// Not `ws://host:port` or `wss://host:port`.
    #[error("{0:?} is not the url of a signaling server: ws://host:port or wss://host:port is needed")]
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
    doubt: Arc<Notify>,
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

    /// Asks the server at once whether it is still there: if nothing comes from it for 2 s, or it takes nothing of what is being
    /// sent, the connection counts as lost, and the next one is made. For whoever has lost another way into the network: after a change of address a connection is dead, and TCP
    /// tells nobody.
    pub fn doubt(&self) {
        self.doubt.notify_one();
    }
}

/// Sends [`RelayFrame`]s; a [`Client`] of the role [`SocketRole::Relay`] has any number of them.
#[derive(Debug, Clone)]
pub struct RelaySender {
    queue: mpsc::Sender<Bytes>,
}

/// Room for one frame. Dropped unused, it gives the room back.
#[derive(Debug)]
pub struct RelayPermit<'a>(mpsc::Permit<'a, Bytes>);

impl RelaySender {
    /// Waits for room for one frame: the queue is short, so that what is sent is decided late. `None`: the client is closed.
    /// Cancel safe.
    ///
    /// What is queued when a connection breaks goes out by the next one, or is lost.
    pub async fn reserve(&self) -> Option<RelayPermit<'_>> {
        self.queue.reserve().await.ok().map(RelayPermit)
    }
}

impl RelayPermit<'_> {
    /// Queues an encoded [`RelayFrame`]. Must keep to the [`RelayTerms`].
    pub fn send(self, frame: Bytes) {
        self.0.send(frame);
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
            if Address::parse(url).is_none() {
                return Err(InvalidClientConfig::BadUrl(url.clone()));
            }
        }
        if config.epoch > MAX_SAFE_INTEGER {
            return Err(InvalidClientConfig::BadEpoch(config.epoch));
        }
        let (queue, signals) = mpsc::channel(config.limits.queue_signals.max(1));
        let (relay, relayed) = mpsc::channel(QUEUE_RELAYED);
        let (events_in, events) = mpsc::channel(config.limits.queue_events.max(1));
        let (closing, close) = watch::channel(false);
        let doubt = Arc::new(Notify::new());
        let (ice, ice_servers) = watch::channel(IceServers::default());
        let shared = Arc::new(Shared::default());
        let driver = Driver {
            refused: vec![None; config.urls.len()],
            config: Arc::new(config),
            random: Box::new(random),
            events: events_in,
            signals,
            relayed,
            alternatives: VecDeque::new(),
            closing: close,
            doubt: Arc::clone(&doubt),
            ice,
            shared: Arc::clone(&shared),
        };
        Ok(Self {
            events,
            sender: SignalSender { queue, doubt },
            relay: RelaySender { queue: relay },
            closing,
            ice: ice_servers,
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

    /// A handle that sends relayed frames.
    pub fn relay_sender(&self) -> RelaySender {
        self.relay.clone()
    }

    /// The STUN and TURN servers that the server hands out, with credentials: none before the registration, and from a server
    /// that hands none out. Asked for anew when three quarters of their time are over, and by each registration; the last ones
    /// stay through a disconnection. Changes when new ones came.
    ///
    /// The server is not trusted: these hosts see this agent's address, and can carry its connections or not.
    pub fn ice_servers(&self) -> watch::Receiver<IceServers> {
        self.ice.clone()
    }

    /// Closes with a close frame (1000), so that the others learn at once; takes at most two seconds. Signals that still wait
    /// are dropped, relayed frames go out.
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
/// How long a server that is doubted has for an answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// Relayed frames between their scheduler and the socket, and how many of them are written before they are flushed.
const QUEUE_RELAYED: usize = 8;
/// Of the urls that a server names when it goes away, so many are tried.
const MAX_ALTERNATIVES: usize = 8;
/// Of what a server hands out, so much is taken.
const MAX_ICE_SERVERS: usize = 16;
/// In seconds. Credentials are not asked for more often, whatever the server says.
const MIN_ICE_LIFETIME: u64 = 4;

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

impl Shared {
    fn parse(&self, text: &str, config: &ClientConfig) -> Option<ServerFrame> {
        let limits = FrameLimits {
            max_bytes: config.limits.max_frame_bytes,
            max_agents: config.limits.max_agents,
        };
        match ServerFrame::parse(text, &limits) {
            Ok(frame) => Some(frame),
            Err(error) => {
                tracing::debug!(%error, "frame ignored");
                self.ignored_frames.fetch_add(1, Relaxed);
                None
            }
        }
    }

    fn ignore(&self, what: &'static str) {
        tracing::debug!(what, "frame ignored");
        self.ignored_frames.fetch_add(1, Relaxed);
    }
}

struct Driver {
    config: Arc<ClientConfig>,
    random: Box<dyn CryptoRng + Send>,
    events: mpsc::Sender<Event>,
    signals: mpsc::Receiver<Queued>,
    relayed: mpsc::Receiver<Bytes>,
    /// Where the last server said to go. Each is tried once, before the configured ones.
    alternatives: VecDeque<String>,
    closing: watch::Receiver<bool>,
    doubt: Arc<Notify>,
    ice: watch::Sender<IceServers>,
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
    /// A better server took the registration.
    Returned(usize, Box<Registered>),
    /// The owner wants no more.
    Closed,
}

/// A connection that is registered.
struct Registered {
    socket: Socket,
    event: Event,
    ice: IceServers,
}

/// Registering at better servers, while the connection to a worse one goes on.
type Returning = BoxFuture<'static, Option<(usize, Box<Registered>)>>;

impl Driver {
    async fn run(mut self) {
        // Of the configured urls.
        let mut at = 0;
        let mut attempt = 0;
        let mut returned = None;
        loop {
            let is_return = returned.is_some();
            let elsewhere = self.alternatives.pop_front().filter(|_| !is_return);
            let is_configured = elsewhere.is_none();
            let url = elsewhere.unwrap_or_else(|| self.config.urls[at].clone());
            // Whatever a server named is worse than what is configured.
            let better = if is_configured { at } else { self.config.urls.len() };
            let started = Instant::now();
            let outcome = self.connection(&url, better, returned.take()).await;
            let reason = match outcome {
                Outcome::Closed => return,
                Outcome::Returned(to, registered) => {
                    let url = self.config.urls[to].clone();
                    let reason = DisconnectReason::Returned { url };
                    let retry_in = Duration::ZERO;
                    if !self.emit(Event::Disconnected { reason, retry_in }).await {
                        return;
                    }
                    (at, attempt, returned) = (to, 0, Some(registered));
                    self.alternatives.clear();
                    continue;
                }
                Outcome::Lost(reason) => reason,
                Outcome::Refused(refusal) => {
                    if is_configured {
                        self.refused[at] = Some(refusal.clone());
                    }
                    DisconnectReason::Refused(refusal)
                }
            };
            // A connection that held for a while starts the backoff afresh; one that a server drops at once does not.
            if started.elapsed() >= self.config.limits.backoff_max {
                attempt = 0;
            }
            if is_configured {
                let count = self.config.urls.len();
                let next = (1..=count)
                    .map(|step| (at + step) % count)
                    .find(|&i| self.refused[i].is_none());
                match next {
                    Some(next) => at = next,
                    None => {
                        if let DisconnectReason::Refused(refusal) = reason {
                            self.emit(Event::Refused(refusal)).await;
                        }
                        return;
                    }
                }
            }
            let retry_in = self.backoff(attempt);
            attempt = attempt.saturating_add(1);
            tracing::debug!(%reason, ?retry_in, "signaling connection lost");
            if !self.emit(Event::Disconnected { reason, retry_in }).await || !self.pause(retry_in).await {
                return;
            }
        }
    }

    /// From the first packet to the last, or from a registration that is there already. The first `better` of the configured
    /// servers are preferred to this one.
    async fn connection(&mut self, url: &str, better: usize, registered: Option<Box<Registered>>) -> Outcome {
        let mut closing = self.closing.clone();
        let registered = match registered {
            Some(registered) => Ok(registered),
            None => tokio::select! {
                () = set(&mut closing) => return Outcome::Closed,
                registered = register_in_time(&self.config, &self.shared, url) => registered,
            },
        };
        match registered {
            Ok(registered) => self.session(url, better, *registered).await,
            Err(outcome) => outcome,
        }
    }

    /// After a while: the first of the `better` servers that takes the registration, if any does.
    fn returning(&mut self, better: usize) -> Option<Returning> {
        let candidates: Vec<usize> = (0..better).filter(|&i| self.refused[i].is_none()).collect();
        if candidates.is_empty() {
            return None;
        }
        let interval = self.config.limits.return_interval;
        let pause = interval / 2 + self.up_to(interval);
        let (config, shared) = (Arc::clone(&self.config), Arc::clone(&self.shared));
        Some(Box::pin(async move {
            sleep(pause).await;
            for at in candidates {
                match register_in_time(&config, &shared, &config.urls[at]).await {
                    Ok(registered) => return Some((at, registered)),
                    Err(_) => tracing::debug!(url = config.urls[at], "not back yet"),
                }
            }
            None
        }))
    }

    /// Registered: signals out, events in, until something ends it.
    ///
    /// An event that finds no room waits in `pending`; meanwhile signals go out all the same, so that an owner who waits in `send`
    /// instead of `recv` gets on.
    async fn session(&mut self, url: &str, better: usize, registered: Registered) -> Outcome {
        let limits = self.config.limits;
        let events = self.events.clone();
        let mut closing = self.closing.clone();
        let Registered {
            mut socket,
            event,
            ice,
        } = registered;
        self.ice.send_replace(ice);
        let mut pending = Some(event);
        let mut returning = self.returning(better);
        let mut heard = Instant::now();
        let mut answer_by = None;
        let mut ping = interval_at(heard + limits.ping_interval, limits.ping_interval);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ice = self.ice.subscribe();
        let mut refresh = refresh_at(&mut ice);
        loop {
            let message = tokio::select! {
                () = set(&mut closing) => {
                    say_goodbye(&mut socket, &mut self.relayed).await;
                    return Outcome::Closed;
                }
                returned = async { returning.as_mut()?.await }, if returning.is_some() => match returned {
                    Some((at, registered)) => {
                        say_goodbye(&mut socket, &mut self.relayed).await;
                        return Outcome::Returned(at, registered);
                    }
                    None => {
                        returning = self.returning(better);
                        continue;
                    }
                },
                permit = events.reserve(), if pending.is_some() => match permit {
                    Ok(permit) => {
                        if let Some(event) = pending.take() {
                            permit.send(event);
                        }
                        // The time in which nothing was read is not the server's.
                        heard = Instant::now();
                        answer_by = answer_by.map(|_| heard + ANSWER_TIMEOUT);
                        continue;
                    }
                    Err(_) => return Outcome::Closed,
                },
                message = socket.next(), if pending.is_none() => {
                    heard = Instant::now();
                    answer_by = None;
                    match message {
                        Some(Ok(message)) => {
                            match message {
                                Message::Text(text) => pending = self.event(&text, url),
                                Message::Close(frame) => {
                                    let outcome = closed(url, frame);
                                    // Two urls may lead to one server: then we have replaced ourselves.
                                    if matches!(outcome, Outcome::Refused(Refusal::Replaced { .. }))
                                        && let Some(returning) = returning
                                        && let Ok(Some((at, registered))) = timeout(CLOSE_TIMEOUT, returning).await
                                    {
                                        return Outcome::Returned(at, registered);
                                    }
                                    return outcome;
                                }
                                Message::Binary(frame) => pending = self.relayed_event(&frame),
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
                Some(frame) = self.relayed.recv() => Message::Binary(frame),
                _ = ping.tick() => Message::Ping(Default::default()),
                () = self.doubt.notified() => {
                    answer_by = answer_by.or(Some(Instant::now() + ANSWER_TIMEOUT));
                    Message::Ping(Default::default())
                }
                () = sleep_until(answer_by.unwrap_or(heard)), if answer_by.is_some() && pending.is_none() => {
                    return Outcome::Lost(DisconnectReason::Idle);
                }
                _ = ice.changed() => {
                    refresh = refresh_at(&mut ice);
                    continue;
                }
                () = sleep_until(refresh.unwrap_or(heard)), if refresh.is_some() => {
                    refresh = None;
                    Message::Text(ClientFrame::IceServers {}.to_text().into())
                }
                () = sleep_until(heard + limits.idle_timeout), if pending.is_none() => {
                    return Outcome::Lost(DisconnectReason::Idle);
                }
            };
            let relayed = &mut self.relayed;
            let batch = async {
                socket.feed(message).await?;
                for _ in 1..QUEUE_RELAYED {
                    match relayed.try_recv() {
                        Ok(frame) => socket.feed(Message::Binary(frame)).await?,
                        Err(_) => break,
                    }
                }
                socket.flush().await
            };
            let written = tokio::select! {
                biased;
                written = timeout(limits.idle_timeout, batch) => written.ok(),
                // Whoever is doubted has to take what is sent, too.
                () = doubt_is_over(&self.doubt, answer_by.filter(|_| pending.is_none())) => None,
            };
            match written {
                Some(Ok(())) => {}
                // The server closed while this was being sent: its reason is in what it sent before.
                Some(Err(error)) => return last_words(url, &mut socket, &error).await,
                None => return Outcome::Lost(DisconnectReason::Idle),
            }
        }
    }

    fn relayed_event(&self, frame: &Bytes) -> Option<Event> {
        if self.config.role == SocketRole::Relay
            && let Some(frame) = RelayFrame::decode(frame)
            && frame.agent != self.config.agent_id
        {
            return Some(Event::Relayed(frame));
        }
        self.shared.ignore("binary frame");
        None
    }

    /// The server's hint where to go. It is as little trusted as the server itself, but must not take TLS away.
    fn going_away(&mut self, urls: Vec<String>, from: &str) {
        tracing::info!(?urls, "the signaling server is going away");
        let plain = Address::parse(from).is_some_and(|address| !address.tls);
        self.alternatives = urls
            .into_iter()
            .filter(|url| url != from && Address::parse(url).is_some_and(|address| address.tls || plain))
            .take(MAX_ALTERNATIVES)
            .collect();
    }

    fn event(&mut self, text: &str, url: &str) -> Option<Event> {
        match self.shared.parse(text, &self.config)? {
            ServerFrame::GoingAway { urls } => {
                self.going_away(urls, url);
                None
            }
            ServerFrame::IceServers(servers) => {
                self.ice.send_replace(bounded(servers));
                None
            }
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
                self.shared.ignore("frame out of place");
                None
            }
        }
    }

    fn signal(&self, (from, to, signal): (AgentId, AgentId, Signal)) -> Option<Event> {
        if to != self.config.agent_id || from == self.config.agent_id {
            self.shared.ignore("signal that is not for this agent");
            return None;
        }
        Some(Event::Signal { from, signal })
    }

    /// Exponential with full jitter: anything from the minimum to the minimum times 2^(attempt+1), at most the maximum.
    fn backoff(&mut self, attempt: u32) -> Duration {
        let limits = &self.config.limits;
        let ceiling = limits
            .backoff_min
            .saturating_mul(2u32.saturating_pow(attempt.saturating_add(1)))
            .min(limits.backoff_max);
        let least = limits.backoff_min;
        least + self.up_to(ceiling.saturating_sub(least))
    }

    /// Anything from nothing to this.
    fn up_to(&mut self, most: Duration) -> Duration {
        let micros = u64::try_from(most.as_micros()).unwrap_or(u64::MAX);
        Duration::from_micros(self.random.next_u64() % micros.saturating_add(1).max(1))
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

/// Until the time is over that a doubted server has for an answer: `answer_by`, or, if it is not doubted yet, from the next doubt.
/// Dropped before, it leaves the doubt to whoever looks next.
async fn doubt_is_over(doubt: &Notify, answer_by: Option<Instant>) {
    let until = match answer_by {
        Some(until) => until,
        None => {
            doubt.notified().await;
            // Once more, for the ping that is still to be sent if this write comes to an end.
            doubt.notify_one();
            Instant::now() + ANSWER_TIMEOUT
        }
    };
    sleep_until(until).await;
}

/// As [`register`], within the time that it may take.
async fn register_in_time(
    config: &ClientConfig,
    shared: &Shared,
    url: &str,
) -> Result<Box<Registered>, Outcome> {
    let registered = timeout(config.limits.connect_timeout, register(config, shared, url)).await;
    let url = || url.to_owned();
    registered.unwrap_or_else(|_| {
        Err(Outcome::Lost(DisconnectReason::RegistrationTimeout {
            url: url(),
        }))
    })
}

/// Connects and registers.
async fn register(config: &ClientConfig, shared: &Shared, url: &str) -> Result<Box<Registered>, Outcome> {
    let limits = &config.limits;
    let web_socket = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(16 * 1024)
        .max_message_size(Some(limits.max_frame_bytes))
        .max_frame_size(Some(limits.max_frame_bytes));
    let mut socket = connect(url, &config.tls, web_socket).await.map_err(|error| {
        Outcome::Lost(DisconnectReason::Unreachable {
            url: url.to_owned(),
            error,
        })
    })?;
    let identity = &config.identity;
    let register = ClientFrame::Register {
        agent_id: config.agent_id.clone(),
        public_key: Some(*identity.public_key()),
        epoch: Some(config.epoch),
        role: config.role,
    };
    send(&mut socket, &register).await?;
    let mut proved = false;
    loop {
        let text = next_text(&mut socket, url).await?;
        match shared.parse(&text, config) {
            Some(ServerFrame::Challenge { nonce, server_id }) if !proved => {
                check_server(config, url, &server_id)?;
                let statement = registration_statement(
                    &server_id,
                    &nonce,
                    &config.agent_id,
                    config.epoch,
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
                relay,
                ice,
            }) if agent_id == config.agent_id => {
                if let Some(server_id) = &server_id {
                    check_server(config, url, server_id)?;
                }
                let mut agents: Vec<_> = if agents.is_empty() {
                    connected_agents.into_iter().map(AgentInfo::unproven).collect()
                } else {
                    agents
                };
                agents.retain(|agent| agent.agent_id != config.agent_id);
                let ice = bounded(ice.unwrap_or_default());
                let event = Event::Registered {
                    url: url.to_owned(),
                    server_id,
                    agents,
                    relay,
                };
                return Ok(Box::new(Registered { socket, event, ice }));
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
            Some(_) => shared.ignore("frame before registration"),
            None => {}
        }
    }
}

/// What is taken of a server's list.
fn bounded(mut servers: IceServers) -> IceServers {
    servers.ice_servers.truncate(MAX_ICE_SERVERS);
    for server in &mut servers.ice_servers {
        server.urls.truncate(MAX_ICE_SERVERS);
    }
    servers
}

/// When to ask for new credentials; never for those that do not expire.
fn refresh_at(servers: &mut watch::Receiver<IceServers>) -> Option<Instant> {
    let lifetime = servers.borrow_and_update().ice_expires_in;
    // A server that says "none at all" is not asked without end; a day is more than any TURN server grants.
    let after = Duration::from_secs(lifetime.clamp(MIN_ICE_LIFETIME, 24 * 3_600)) * 3 / 4;
    (lifetime > 0).then(|| Instant::now() + after)
}

fn check_server(config: &ClientConfig, url: &str, found: &AgentId) -> Result<(), Outcome> {
    match &config.server_id {
        Some(expected) if expected != found => Err(Outcome::Refused(Refusal::WrongServer {
            url: url.to_owned(),
            found: found.clone(),
            expected: expected.clone(),
        })),
        _ => Ok(()),
    }
}

/// Where a url points to.
struct Address {
    tls: bool,
    host: String,
    port: u16,
}

impl Address {
    /// `None`: not a url of a WebSocket.
    fn parse(url: &str) -> Option<Self> {
        let request = url.into_client_request().ok()?;
        let uri = request.uri();
        let tls = match uri.scheme_str()? {
            "ws" => false,
            "wss" => true,
            _ => return None,
        };
        let host = uri.host()?;
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        Some(Self {
            tls,
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(if tls { 443 } else { 80 }),
        })
    }
}

/// TCP, TLS if the url asks for it, and the WebSocket's handshake; or, for people, why not.
async fn connect(url: &str, tls: &ClientTls, config: WebSocketConfig) -> Result<Socket, String> {
    let text = |error: std::io::Error| error.to_string();
    let address = Address::parse(url).ok_or("not the url of a WebSocket")?;
    let stream = TcpStream::connect((address.host.as_str(), address.port))
        .await
        .map_err(text)?;
    // Small frames, each of which somebody waits for.
    stream.set_nodelay(true).map_err(text)?;
    let stream: Box<dyn ByteStream> = if address.tls {
        Box::new(tls.connect(&address.host, stream).await.map_err(text)?)
    } else {
        Box::new(stream)
    };
    let (socket, _) = client_async_with_config(url, stream, Some(config))
        .await
        .map_err(|error| error.to_string())?;
    Ok(socket)
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

async fn say_goodbye(socket: &mut Socket, relayed: &mut mpsc::Receiver<Bytes>) {
    let goodbye = async {
        while let Ok(frame) = relayed.try_recv() {
            if socket.feed(Message::Binary(frame)).await.is_err() {
                return;
            }
        }
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
            relay: None,
            ice: None,
        };
        let limits = ClientLimits::default();
        let limits = FrameLimits {
            max_bytes: limits.max_frame_bytes,
            max_agents: limits.max_agents,
        };
        assert_eq!(ServerFrame::parse(&welcome.to_text(), &limits), Ok(welcome));
    }
}
