//! Everything that the transport and its hub share, under one lock that is held for moments: who is there, which links are up,
//! what waits to be sent and to be read. No I/O, no cryptography, no clock: what came and `now` go in.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use ifmesh_signaling::{AgentInfo, RelayFrame, RelayTerms};
use ifmesh_transport::{
    CHUNK_HEADER, DownReason, Lane, LinkState, LinkStatus, MAX_CHUNKED_FRAME, Path, TransportEvent,
};
use ifmsg::{AgentId, PublicKey, Timestamp};
use rand_core::CryptoRng;
use tokio::time::Instant;

use crate::{
    config::RelayLinkLimits,
    hello::{Hello, HelloRejected, Nonce},
    link::{Arrived, Goodbye, Link, Terms},
    outbound::{Gate, Item},
    transport::RelayMetrics,
    wire::{DATA_HEADER, Linked, Tag},
};

/// The largest payload of one relayed frame, as long as the server takes that much: so a large frame leaves gaps for small ones.
const PIECE: usize = 16 * 1_024;
/// Events that wait, beside the bytes of their frames.
const MAX_EVENTS: usize = 64 * 1_024;
/// Refusals are reported as long as fewer events wait.
const MAX_EVENTS_ASIDE: usize = 256;
/// Hellos of one peer that are looked at: at once, and then per second. Each costs a verification.
const HELLO_BURST: u32 = 16;
const HELLO_INTERVAL: Duration = Duration::from_millis(250);

#[derive(Debug)]
pub(crate) struct State {
    me: AgentId,
    limits: RelayLinkLimits,
    terms: RelayTerms,
    peers: BTreeMap<AgentId, Peer>,
    /// Peers that may have something to send, each once.
    ready: VecDeque<AgentId>,
    events: VecDeque<Queued>,
    event_bytes: usize,
    links_made: u64,
    /// The ping over whose missing answer the server was last doubted.
    doubted: Option<Instant>,
    pub(crate) closing: bool,
    /// Nothing comes any more.
    pub(crate) finished: bool,
    pub(crate) metrics: RelayMetrics,
}

#[derive(Debug)]
struct Queued {
    event: TransportEvent,
    /// Whose credit it holds, and of which link.
    link: Option<u64>,
}

#[derive(Debug)]
struct Peer {
    present: bool,
    /// The key that the server says it proved.
    claimed: Option<PublicKey>,
    /// The highest one of a hello that was proved fresh.
    epoch: u64,
    link: Option<Link>,
    attempt: Option<Attempt>,
    tries: u32,
    dropped: u64,
    is_ready: bool,
    /// Since when it is in the state that it is in.
    since: Timestamp,
    hellos: HelloBudget,
}

/// A link on its way up.
#[derive(Debug)]
struct Attempt {
    nonce: Nonce,
    /// The peer's, once we know it.
    peer_nonce: Option<Nonce>,
    /// When a hello is sent, for the first time or again.
    due: Option<Instant>,
    /// Only answers, and is given up after a while: the server does not say that the peer is there, or there is a link.
    passive: bool,
    begun: Instant,
}

#[derive(Debug)]
struct HelloBudget {
    left: u32,
    since: Instant,
}

/// What to send next. What needs cryptography is done without the lock.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Hello(AgentId, Hello),
    Linked(AgentId, Tag, Linked),
}

impl State {
    pub(crate) fn new(me: AgentId, limits: RelayLinkLimits) -> Self {
        Self {
            me,
            limits,
            terms: RelayTerms::least(),
            peers: BTreeMap::new(),
            ready: VecDeque::new(),
            events: VecDeque::new(),
            event_bytes: 0,
            links_made: 0,
            doubted: None,
            closing: false,
            finished: false,
            metrics: RelayMetrics::default(),
        }
    }

    // What the server says.

    /// Registered anew: whatever was before is over.
    pub(crate) fn on_registered(
        &mut self,
        agents: Vec<AgentInfo>,
        terms: Option<RelayTerms>,
        trusted: &BTreeSet<AgentId>,
        random: &mut dyn CryptoRng,
        at: (Instant, Timestamp),
    ) {
        self.on_disconnected(at);
        self.terms = terms.unwrap_or_else(RelayTerms::least);
        for agent in agents {
            let is_trusted = trusted.contains(&agent.agent_id);
            self.on_present(agent, is_trusted, random, at);
        }
    }

    pub(crate) fn on_disconnected(&mut self, at: (Instant, Timestamp)) {
        let ids: Vec<AgentId> = self.peers.keys().cloned().collect();
        for id in ids {
            self.on_absent(&id, DownReason::Network, at);
        }
    }

    /// A peer registered, for the first time or again.
    pub(crate) fn on_present(
        &mut self,
        agent: AgentInfo,
        is_trusted: bool,
        random: &mut dyn CryptoRng,
        at: (Instant, Timestamp),
    ) {
        let id = agent.agent_id;
        self.down(&id, DownReason::Network, at);
        if !is_trusted || self.closing || !self.known(&id, at) {
            return;
        }
        let Some(peer) = self.peers.get_mut(&id) else {
            return;
        };
        peer.present = true;
        // A link takes two.
        peer.hellos.left = HELLO_BURST.min(peer.hellos.left + 4);
        peer.claimed = agent.public_key;
        peer.tries = 0;
        peer.attempt = Some(Attempt::new(random, at.0));
        peer.since = at.1;
        self.ready(&id);
    }

    /// A peer is gone, or cannot be reached.
    pub(crate) fn on_absent(&mut self, id: &AgentId, reason: DownReason, at: (Instant, Timestamp)) {
        self.down(id, reason, at);
        if let Some(peer) = self.peers.get_mut(id) {
            peer.present = false;
            peer.attempt = None;
        }
    }

    /// The server dropped something of ours: the link has a hole, and begins anew.
    pub(crate) fn on_overflow(&mut self, id: &AgentId, random: &mut dyn CryptoRng, at: (Instant, Timestamp)) {
        self.metrics.overflows += 1;
        self.begin_anew(id, DownReason::Network, random, at);
    }

    // What the peer says.

    /// The key that the server says this peer proved, and whether one more hello of it may be looked at.
    pub(crate) fn hello_from(&mut self, id: &AgentId, at: (Instant, Timestamp)) -> Option<Option<PublicKey>> {
        if self.closing || !self.known(id, at) {
            self.metrics.ignored += 1;
            return None;
        }
        let peer = self.peers.get_mut(id)?;
        if !peer.hellos.take(at.0) {
            self.metrics.ignored += 1;
            return None;
        }
        Some(peer.claimed)
    }

    /// A hello that verified.
    pub(crate) fn on_hello(
        &mut self,
        id: &AgentId,
        hello: Hello,
        random: &mut dyn CryptoRng,
        at: (Instant, Timestamp),
    ) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        if hello.epoch < peer.epoch {
            let stale = HelloRejected::StaleEpoch;
            return self.refused(Some(id), stale.name(), stale.to_string());
        }
        if let Some(link) = &mut peer.link
            && link.peer_nonce == hello.nonce
        {
            // Repeated, because our answer was lost; unless the peer has it.
            link.answer = !link.is_mutual;
            return self.ready(id);
        }
        let attempt = peer.attempt.get_or_insert_with(|| Attempt {
            passive: true,
            ..Attempt::new(random, at.0)
        });
        let answered = attempt.peer_nonce == Some(hello.nonce);
        attempt.peer_nonce = Some(hello.nonce);
        if hello.echo == Some(attempt.nonce) {
            let nonce = attempt.nonce;
            return self.up(id, nonce, hello, !answered, at);
        }
        // Not proved fresh: it gets an answer, and changes nothing else.
        attempt.due = Some(at.0);
        self.ready(id);
    }

    /// What came over a link.
    pub(crate) fn on_linked(
        &mut self,
        id: &AgentId,
        tag: Tag,
        linked: Linked,
        random: &mut dyn CryptoRng,
        at: (Instant, Timestamp),
    ) {
        let Some(link) = self.peers.get_mut(id).and_then(|peer| peer.link.as_mut()) else {
            self.metrics.ignored += 1;
            return;
        };
        if link.my_tag() != tag {
            // Of a link that is over.
            self.metrics.ignored += 1;
            return;
        }
        link.is_mutual = true;
        match linked {
            Linked::Data(lane, payload) => self.on_data(id, lane, payload, random, at),
            Linked::Credit(taken) => {
                if link.on_credit(taken, at.0) {
                    self.ready(id);
                } else {
                    self.misbehaved(id, "credit-beyond-sent", random, at);
                }
            }
            Linked::Goodbye => self.on_absent(id, DownReason::PeerClosed, at),
            Linked::Ping(number) => {
                link.on_ping(number, at.0);
                self.ready(id);
            }
            Linked::Pong(number) => link.on_pong(number, at.0),
        }
    }

    fn on_data(
        &mut self,
        id: &AgentId,
        lane: Lane,
        payload: Bytes,
        random: &mut dyn CryptoRng,
        at: (Instant, Timestamp),
    ) {
        let closing = self.closing;
        let Some(link) = self.peers.get_mut(id).and_then(|peer| peer.link.as_mut()) else {
            return;
        };
        let number = link.number;
        match link.on_data(lane, payload, at.0) {
            Arrived::Frame(frame) if closing => link.on_read(frame.len()),
            Arrived::Frame(frame) => {
                self.metrics.frames_received += 1;
                self.event_bytes += frame.len();
                self.events.push_back(Queued {
                    event: TransportEvent::Frame {
                        from: id.clone(),
                        lane,
                        frame,
                        road: None,
                    },
                    link: Some(number),
                });
            }
            Arrived::Nothing => {}
            Arrived::Bad(error) => self.refused(Some(id), error.name(), error.to_string()),
            Arrived::TooMuch => return self.misbehaved(id, "window-exceeded", random, at),
        }
        self.ready(id);
    }

    /// Nothing that this transport knows.
    pub(crate) fn on_garbage(&mut self, id: &AgentId) {
        self.refused(Some(id), "relay-malformed", "a frame of no known kind".to_owned());
    }

    fn misbehaved(
        &mut self,
        id: &AgentId,
        reason: &'static str,
        random: &mut dyn CryptoRng,
        at: (Instant, Timestamp),
    ) {
        self.refused(Some(id), reason, "the link is cut and begins anew".to_owned());
        self.begin_anew(id, DownReason::Misbehaved, random, at);
    }

    // What this side does.

    /// What `send` needs, if there is a link.
    pub(crate) fn gate(&self, id: &AgentId) -> Option<(u64, Arc<Gate>)> {
        let link = self.peers.get(id)?.link.as_ref()?;
        Some((link.number, Arc::clone(&link.gate)))
    }

    /// Queues on the reliable lane. `false`: that link is gone.
    pub(crate) fn push(
        &mut self,
        id: &AgentId,
        number: u64,
        item: Item,
        room: tokio::sync::OwnedSemaphorePermit,
    ) -> bool {
        let Some(link) = self.link(id, number) else {
            return false;
        };
        link.outbound.push(item, room);
        self.metrics.frames_sent += 1;
        self.ready(id);
        true
    }

    /// Queues on the best-effort lane. `false`: that link is gone.
    pub(crate) fn push_loose(&mut self, id: &AgentId, number: u64, item: Item) -> bool {
        let queue_bytes = self.limits.queue_bytes;
        let Some(link) = self.link(id, number) else {
            return false;
        };
        let dropped = link.outbound.push_loose(item, queue_bytes);
        if let Some(peer) = self.peers.get_mut(id) {
            peer.dropped += dropped;
        }
        self.metrics.frames_sent += 1;
        self.ready(id);
        true
    }

    /// Whether there may be something to send.
    pub(crate) fn has_work(&self) -> bool {
        !self.ready.is_empty()
    }

    /// What to send next: peers take turns.
    pub(crate) fn next(&mut self, now: Instant) -> Option<Outgoing> {
        while let Some(id) = self.ready.pop_front() {
            let (limits, terms) = (self.limits, self.terms);
            let Some(peer) = self.peers.get_mut(&id) else {
                continue;
            };
            peer.is_ready = false;
            let next = peer.next(&id, &limits, &terms, now);
            if next.is_some() {
                self.ready(&id);
                return next;
            }
        }
        None
    }

    /// What the passing of time brings. `true`: the way to the server is to be doubted.
    pub(crate) fn tick(&mut self, random: &mut dyn CryptoRng, at: (Instant, Timestamp)) -> bool {
        let now = at.0;
        let has_room = self.has_room();
        let unanswered = self.unanswered();
        let doubts = unanswered.is_some_and(|asked| self.doubts_at(asked) <= now);
        if doubts {
            self.doubted = unanswered;
        }
        let ids: Vec<AgentId> = self.peers.keys().cloned().collect();
        for id in ids {
            let Some(peer) = self.peers.get_mut(&id) else {
                continue;
            };
            let mut expired = Vec::new();
            if let Some(link) = &mut peer.link {
                expired = link.expire(now);
                // While nothing is taken from the socket, silence says nothing.
                if has_room && link.is_silent(self.limits.silence, now) {
                    self.begin_anew(&id, DownReason::Timeout, random, at);
                } else if link.is_ping_due(now) {
                    self.ready(&id);
                }
            }
            for error in expired {
                self.refused(Some(&id), error.name(), error.to_string());
            }
            let Some(peer) = self.peers.get_mut(&id) else {
                continue;
            };
            if let Some(attempt) = &peer.attempt {
                if attempt.passive && now.duration_since(attempt.begun) >= self.limits.silence {
                    peer.attempt = None;
                } else if attempt.due.is_some_and(|due| due <= now) {
                    self.ready(&id);
                }
            }
        }
        // While nothing is taken from the socket, silence says nothing.
        doubts && has_room
    }

    /// The first ping after which no peer was heard, once for each. One silent peer may be gone; when all are silent, what is
    /// wrong may be the way to the server that they have in common: after a change of address nobody tells.
    fn unanswered(&self) -> Option<Instant> {
        let links = || self.peers.values().filter_map(|peer| peer.link.as_ref());
        let (heard, _) = links().map(Link::heard_and_asked).max()?;
        links()
            .filter_map(|link| link.heard_and_asked().1)
            .filter(|asked| *asked > heard && self.doubted.is_none_or(|doubted| *asked > doubted))
            .min()
    }

    /// Long before a link is given up, and before the next ping.
    fn doubts_at(&self, asked: Instant) -> Instant {
        asked + self.limits.ping_interval / 2
    }

    /// When `tick` has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let silence = self.limits.silence;
        let links = self
            .peers
            .values()
            .filter_map(|peer| peer.link.as_ref())
            .map(|link| link.deadline(silence));
        let attempts = self
            .peers
            .values()
            .filter_map(|peer| peer.attempt.as_ref())
            .map(|attempt| attempt.due.unwrap_or(attempt.begun + silence));
        let doubt = self.unanswered().map(|asked| self.doubts_at(asked));
        links.chain(attempts).chain(doubt).min()
    }

    /// Nothing is taken any more; what was goes out, then a goodbye.
    pub(crate) fn close(&mut self) {
        self.closing = true;
        let ids: Vec<AgentId> = self.peers.keys().cloned().collect();
        for id in ids {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.attempt = None;
                if let Some(link) = &mut peer.link {
                    link.gate.close();
                    link.goodbye = Goodbye::Due;
                    self.ready(&id);
                }
            }
        }
    }

    /// Whether every peer with a link was told.
    pub(crate) fn is_drained(&self) -> bool {
        let mut links = self.peers.values().filter_map(|peer| peer.link.as_ref());
        links.all(|link| link.goodbye == Goodbye::Said)
    }

    /// The end. How many frames of the reliable lane did not get out.
    pub(crate) fn finish(&mut self) -> u64 {
        self.closing = true;
        self.finished = true;
        let mut unsent = 0;
        for peer in self.peers.values_mut() {
            peer.attempt = None;
            if let Some(link) = peer.link.take() {
                link.gate.close();
                unsent += link.outbound.unsent();
            }
        }
        unsent
    }

    // What the application sees.

    /// The next event.
    pub(crate) fn read(&mut self) -> Option<TransportEvent> {
        let Queued { event, link } = self.events.pop_front()?;
        if let (TransportEvent::Frame { from, frame, .. }, Some(number)) = (&event, link) {
            self.event_bytes -= frame.len();
            if let Some(link) = self.link(from, number) {
                link.on_read(frame.len());
                self.ready(from);
            }
        }
        Some(event)
    }

    /// Whether what comes can be taken. The socket is not read meanwhile.
    pub(crate) fn has_room(&self) -> bool {
        self.closing || (self.events.len() < MAX_EVENTS && self.event_bytes < self.limits.event_bytes)
    }

    pub(crate) fn links(&self) -> Vec<LinkStatus> {
        let status = |(id, peer): (&AgentId, &Peer)| {
            let state = match (&peer.link, &peer.attempt) {
                _ if self.closing => LinkState::Down,
                (Some(_), _) => LinkState::Up,
                (None, Some(_)) => LinkState::Connecting,
                (None, None) => LinkState::Down,
            };
            let mut status = LinkStatus::new(id.clone(), state);
            status.dropped = peer.dropped;
            status.since = Some(peer.since);
            if let (Some(link), LinkState::Up) = (&peer.link, state) {
                status.path = Some(Path::Relayed);
                status.round_trip = link.round_trip;
                status.since = Some(link.since);
            }
            status
        };
        self.peers.iter().map(status).collect()
    }

    pub(crate) fn refused(&mut self, peer: Option<&AgentId>, reason: &'static str, detail: String) {
        self.metrics.refused += 1;
        if self.events.len() < MAX_EVENTS_ASIDE {
            self.event(TransportEvent::Refused {
                peer: peer.cloned(),
                reason,
                detail,
            });
        }
    }

    // Helpers.

    /// Makes room for a peer, if need be by forgetting one that is not there. `false`: there is none.
    fn known(&mut self, id: &AgentId, at: (Instant, Timestamp)) -> bool {
        if *id == self.me {
            return false;
        }
        if self.peers.contains_key(id) {
            return true;
        }
        if self.peers.len() >= self.limits.max_peers {
            let idle = |peer: &Peer| peer.link.is_none() && peer.attempt.is_none() && !peer.present;
            let evicted = self.peers.iter().find(|(_, peer)| idle(peer));
            let Some(evicted) = evicted.map(|(id, _)| id.clone()) else {
                tracing::warn!(peer = %id, "too many peers");
                self.refused(Some(id), "too-many-peers", "nothing of it is taken".to_owned());
                return false;
            };
            self.peers.remove(&evicted);
        }
        self.peers.insert(id.clone(), Peer::new(at));
        true
    }

    fn link(&mut self, id: &AgentId, number: u64) -> Option<&mut Link> {
        let link = self.peers.get_mut(id)?.link.as_mut()?;
        (link.number == number).then_some(link)
    }

    /// The peer has proved itself: its hello echoes the nonce of our attempt.
    fn up(&mut self, id: &AgentId, nonce: Nonce, hello: Hello, answer: bool, at: (Instant, Timestamp)) {
        self.down(id, DownReason::Replaced, at);
        let terms = self.terms;
        let header = RelayFrame::header_len(id).max(RelayFrame::header_len(&self.me)) + DATA_HEADER;
        let most = terms
            .max_frame
            .saturating_sub(header)
            .clamp(2 * CHUNK_HEADER, PIECE);
        self.links_made += 1;
        let max_frame = usize::try_from(hello.max_frame).unwrap_or(usize::MAX);
        let mut link = Link::new(
            Terms {
                number: self.links_made,
                window: hello.window.min(terms.pair_bytes as u64 / 2),
                my_window: self.limits.window(&terms),
                my_nonce: nonce,
                peer_nonce: hello.nonce,
                max_frame: MAX_CHUNKED_FRAME,
                since: at.1,
            },
            Gate::new(self.limits.queue_bytes, most, max_frame.min(MAX_CHUNKED_FRAME)),
            at.0,
        );
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        peer.epoch = hello.epoch;
        link.answer = answer;
        peer.link = Some(link);
        peer.since = at.1;
        peer.attempt = None;
        self.metrics.links_up += 1;
        self.event(TransportEvent::LinkUp { peer: id.clone() });
        self.ready(id);
    }

    fn down(&mut self, id: &AgentId, reason: DownReason, at: (Instant, Timestamp)) {
        let Some(peer) = self.peers.get_mut(id) else {
            return;
        };
        let Some(link) = peer.link.take() else {
            return;
        };
        link.gate.close();
        if at.0.duration_since(link.up_at) >= self.limits.backoff_max {
            peer.tries = 0;
        }
        peer.since = at.1;
        self.metrics.unsent += link.outbound.unsent();
        self.event(TransportEvent::LinkDown {
            peer: id.clone(),
            reason,
        });
    }

    /// The link is over, though the peer is there: after a while, another hello.
    fn begin_anew(
        &mut self,
        id: &AgentId,
        reason: DownReason,
        random: &mut dyn CryptoRng,
        at: (Instant, Timestamp),
    ) {
        self.down(id, reason, at);
        let limits = self.limits;
        if let Some(peer) = self.peers.get_mut(id)
            && peer.present
            && !self.closing
        {
            let mut attempt = Attempt::new(random, at.0);
            let wait = backoff(&limits, peer.tries);
            let jitter = random.next_u64() % (u64::try_from(wait.as_micros()).unwrap_or(u64::MAX) / 2).max(1);
            attempt.due = Some(at.0 + wait / 2 + Duration::from_micros(jitter));
            peer.tries = peer.tries.saturating_add(1);
            peer.attempt = Some(attempt);
        }
    }

    fn event(&mut self, event: TransportEvent) {
        self.events.push_back(Queued { event, link: None });
    }

    fn ready(&mut self, id: &AgentId) {
        if let Some(peer) = self.peers.get_mut(id)
            && !peer.is_ready
        {
            peer.is_ready = true;
            self.ready.push_back(id.clone());
        }
    }
}

impl Peer {
    fn new(at: (Instant, Timestamp)) -> Self {
        Self {
            present: false,
            claimed: None,
            epoch: 0,
            link: None,
            attempt: None,
            tries: 0,
            dropped: 0,
            is_ready: false,
            since: at.1,
            hellos: HelloBudget {
                left: HELLO_BURST,
                since: at.0,
            },
        }
    }

    fn next(
        &mut self,
        id: &AgentId,
        limits: &RelayLinkLimits,
        terms: &RelayTerms,
        now: Instant,
    ) -> Option<Outgoing> {
        // The epoch is filled in by whoever signs.
        let hello = |nonce, echo| Hello {
            epoch: 0,
            nonce,
            echo,
            window: limits.window(terms),
            max_frame: MAX_CHUNKED_FRAME as u64,
        };
        if let Some(attempt) = &mut self.attempt
            && attempt.due.is_some_and(|due| due <= now)
        {
            attempt.due = (!attempt.passive).then(|| now + backoff(limits, self.tries));
            self.tries = self.tries.saturating_add(1);
            return Some(Outgoing::Hello(
                id.clone(),
                hello(attempt.nonce, attempt.peer_nonce),
            ));
        }
        if let Some(link) = &mut self.link
            && std::mem::take(&mut link.answer)
        {
            return Some(Outgoing::Hello(
                id.clone(),
                hello(link.my_nonce, Some(link.peer_nonce)),
            ));
        }
        let link = self.link.as_mut()?;
        let linked = link.next(limits.ping_interval, now)?;
        Some(Outgoing::Linked(id.clone(), link.peer_nonce.tag(), linked))
    }
}

impl Attempt {
    fn new(random: &mut dyn CryptoRng, now: Instant) -> Self {
        Self {
            nonce: Nonce::random(random),
            peer_nonce: None,
            due: Some(now),
            passive: false,
            begun: now,
        }
    }
}

impl HelloBudget {
    fn take(&mut self, now: Instant) -> bool {
        let back = now.duration_since(self.since).as_millis() / HELLO_INTERVAL.as_millis();
        if back > 0 {
            self.left = HELLO_BURST.min(self.left.saturating_add(u32::try_from(back).unwrap_or(u32::MAX)));
            self.since = now;
        }
        let may = self.left > 0;
        self.left = self.left.saturating_sub(1);
        may
    }
}

fn backoff(limits: &RelayLinkLimits, tries: u32) -> Duration {
    limits
        .backoff_min
        .saturating_mul(2u32.saturating_pow(tries))
        .min(limits.backoff_max)
}
