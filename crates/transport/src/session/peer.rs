//! One peer: its link, its hello, its streams both ways.

use std::{
    collections::{HashMap, VecDeque, hash_map::Entry},
    time::Duration,
};

use bytes::Bytes;
use ifmsg::{AgentId, Mark, MessageId, PublicKey, SignedMessage, Stream, UnsignedMessage};

use super::{
    SessionLimits,
    control::{Ack, Control, Floor, Hello, Reliable},
    inbound::Inbound,
    outbound::Outbound,
    rtt::RoundTrip,
};
use crate::Lane;

/// Most message ids that are remembered for each peer, so that a message sent again by the peer's next run is known.
const REMEMBERED_IDS: usize = 1_024;

/// How long a hello waits for its answer, at first and at most.
const HELLO_AGAIN: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(5));

/// How long a stream may be without news before it asks for some, at most.
const MOST_NEWS_WAIT: Duration = Duration::from_secs(5);

/// The least time without news after which a stream asks.
const LEAST_NEWS_WAIT: Duration = Duration::from_millis(500);

/// How long the transport is not asked again for a link.
const WAKE_AGAIN: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Peer {
    pub(super) agent: AgentId,
    /// The transport has a link.
    pub(super) linked: bool,
    /// A best-effort message was dropped for want of a link.
    pub(super) missed: bool,
    /// Without a link: when to ask for one again.
    wake_at: Option<Duration>,
    /// The peer echoed the nonce of this link: it is live, has opened our epoch, and knows our floors.
    pub(super) confirmed: bool,
    /// It was up once in this run: broadcasts are for it too.
    pub(super) member: bool,
    /// Known from its first verified message.
    pub(super) key: Option<PublicKey>,
    pub(super) epoch: Option<u64>,
    pub(super) rtt: RoundTrip,
    pub(super) direct: Outbound,
    pub(super) broadcast: Outbound,
    /// Messages for this peer alone that nobody has signed yet.
    pub(super) unsigned: VecDeque<(u64, UnsignedMessage)>,
    /// The same, best effort.
    pub(super) best_effort: VecDeque<UnsignedMessage>,
    /// Broadcast flights that were encoded once, for all peers.
    pub(super) shared: VecDeque<SharedFlight>,
    next_best_effort: u64,
    inbound: [Inbound; 2],
    /// Messages and bytes of its former runs that still wait for the application.
    former_inbox: (usize, usize),
    /// A message of one of its streams had no room here, and none of that stream has come since.
    pub(super) turned_away: [bool; 2],
    hello: HelloState,
    ack: AckState,
    /// When to ask for news of messages that the peer holds, and how often that was done.
    ask_at: Option<Duration>,
    asked: u32,
    /// When our keepalive may speak next, and what it said last.
    pub(super) keepalive_at: Option<Duration>,
    pub(super) say: Option<serde_json::Value>,
    remembered: VecDeque<MessageId>,
    /// Which of them the application took.
    remembered_taken: HashMap<MessageId, bool>,
}

/// The last number of a stream, and how many, that a frame brings.
pub(super) type Claimed = (u64, usize);

/// What is known of a message by its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Known {
    /// Nothing.
    New,
    /// It came, and waits for the application to take it.
    Waiting,
    /// The application took it.
    Taken,
}

/// A broadcast flight on its way to one peer.
#[derive(Debug, Clone)]
pub(super) struct SharedFlight {
    pub(super) frame: Bytes,
    pub(super) messages: std::sync::Arc<[SignedMessage]>,
    pub(super) reliable: bool,
}

#[derive(Debug, Default)]
struct HelloState {
    nonce: String,
    /// The peer's nonce that is still to be echoed.
    echo_due: Option<String>,
    echoed: Option<String>,
    again_at: Option<Duration>,
    first_asked: Duration,
    tries: u32,
}

#[derive(Debug, Default)]
struct AckState {
    due: Option<Duration>,
    /// Messages that the application took since the last one.
    taken: u64,
    last: Option<Duration>,
}

impl Peer {
    /// A peer whose best-effort stream begins with this number.
    pub(super) fn new(agent: AgentId, limits: &SessionLimits, next_best_effort: u64) -> Self {
        Self {
            agent,
            linked: false,
            missed: false,
            wake_at: None,
            confirmed: false,
            member: false,
            key: None,
            epoch: None,
            rtt: RoundTrip::new(limits.least_timeout, limits.most_timeout),
            direct: Outbound::starting_at(1),
            broadcast: Outbound::starting_at(1),
            unsigned: VecDeque::new(),
            best_effort: VecDeque::new(),
            shared: VecDeque::new(),
            next_best_effort,
            inbound: Default::default(),
            former_inbox: (0, 0),
            turned_away: [false; 2],
            hello: HelloState::default(),
            ack: AckState::default(),
            ask_at: None,
            asked: 0,
            keepalive_at: None,
            say: None,
            remembered: VecDeque::new(),
            remembered_taken: HashMap::new(),
        }
    }

    // ---------------------------------------------------------------------------------------------------- the link

    /// A new link: greet the peer, with a nonce of this link's own.
    pub(super) fn link_up(&mut self, nonce: String, now: Duration) {
        self.linked = true;
        (self.missed, self.wake_at) = (false, None);
        self.greet(nonce, now);
    }

    pub(super) fn link_down(&mut self) {
        self.linked = false;
        self.confirmed = false;
        self.shared.clear();
        (self.keepalive_at, self.say) = (None, None);
        self.hello.again_at = None;
        self.ask_at = None;
    }

    /// There are messages for this peer and no link to it.
    fn wants_link(&self) -> bool {
        !self.linked && (self.missed || self.direct.load().0 > 0 || self.broadcast.load().0 > 0)
    }

    /// The transport is to be asked for a link now. It is not asked again for a while.
    pub(super) fn wakes(&mut self, now: Duration) -> bool {
        if !self.wants_link() || self.wake_at.is_some_and(|at| at > now) {
            return false;
        }
        self.missed = false;
        self.wake_at = Some(now + WAKE_AGAIN);
        true
    }

    /// From now on broadcasts are for this peer too, beginning with this number, which the peer must be told.
    pub(super) fn join(&mut self, next_broadcast: u64, now: Duration) {
        self.member = true;
        self.broadcast = Outbound::starting_at(next_broadcast);
        self.ask_at = Some(now);
    }

    /// Whether a lane has something to send.
    pub(super) fn has_work(&mut self, lane: Lane, now: Duration) -> bool {
        let reliable = lane == Lane::Reliable;
        let shared = |flight: &SharedFlight| flight.reliable == reliable;
        match lane {
            Lane::Reliable if self.reliable_control_due(now) => true,
            Lane::BestEffort if self.ack_due(now) || self.has_said() => true,
            _ if !self.confirmed => false,
            _ if self.shared.iter().any(shared) => true,
            Lane::Reliable => {
                !self.unsigned.is_empty() || self.direct.has_due(now) || self.broadcast.has_due(now)
            }
            Lane::BestEffort => !self.best_effort.is_empty(),
        }
    }

    /// Says hello (again), and holds messages back until it is echoed.
    pub(super) fn greet(&mut self, nonce: String, now: Duration) {
        self.confirmed = false;
        self.hello = HelloState {
            nonce,
            echo_due: self.hello.echo_due.take(),
            again_at: Some(now),
            ..HelloState::default()
        };
    }

    /// Takes the peer's hello. Whether it proves for the first time that the peer is live.
    pub(super) fn hear_hello(&mut self, hello: &Hello, now: Duration) -> bool {
        // Ours have 32 digits; a longer one is not kept, whoever sent it.
        if let Some(nonce) = hello.nonce.as_ref().filter(|nonce| nonce.len() <= 32) {
            self.hello.echo_due = Some(nonce.clone());
        }
        let is_answer = self.is_our_nonce(hello.echo.as_deref());
        if is_answer {
            self.hello.again_at = None;
        }
        let confirms = is_answer && !self.confirmed;
        if confirms {
            self.confirmed = true;
            if self.hello.tries == 1 {
                self.rtt.sample(now.saturating_sub(self.hello.first_asked));
            }
            // What was in flight over the former link may be lost, and what never was can go now.
            self.direct.resend_all(false);
            self.broadcast.resend_all(false);
        }
        confirms
    }

    pub(super) fn is_our_nonce(&self, echo: Option<&str>) -> bool {
        self.linked && !self.hello.nonce.is_empty() && echo == Some(&self.hello.nonce)
    }

    /// The peer began a new run: its streams start anew, and it has forgotten what it held. Returns how many messages of the
    /// former run waited for an earlier one that will never come.
    pub(super) fn begin_epoch(&mut self, epoch: u64, mark: Option<&Mark>) -> usize {
        self.epoch = Some(epoch);
        let mut dropped = 0;
        for inbound in &self.inbound {
            let (waiting, messages, bytes) = inbound.left_over();
            dropped += waiting;
            self.former_inbox.0 += messages;
            self.former_inbox.1 += bytes;
        }
        self.inbound = match mark.filter(|mark| mark.epoch == epoch) {
            Some(mark) => Reliable::BOTH.map(|which| Inbound::resumed(mark.floors[which.stream() as usize])),
            None => Default::default(),
        };
        self.direct.resend_all(true);
        self.broadcast.resend_all(true);
        dropped
    }

    /// The application took a message of a former run.
    pub(super) fn former_taken(&mut self, bytes: usize) {
        self.former_inbox.0 = self.former_inbox.0.saturating_sub(1);
        self.former_inbox.1 = self.former_inbox.1.saturating_sub(bytes);
    }

    // ---------------------------------------------------------------------------------------------------- outbound

    pub(super) fn next_best_effort(&mut self) -> u64 {
        self.next_best_effort += 1;
        self.next_best_effort - 1
    }

    /// The number that comes next.
    pub(super) fn upcoming_best_effort(&self) -> u64 {
        self.next_best_effort
    }

    /// Nothing was ever verified of it, and no message was ever meant for it.
    pub(super) fn is_stranger(&self) -> bool {
        let untouched = self.direct.next() == 1 && self.wake_at.is_none() && !self.missed;
        self.key.is_none() && !self.member && untouched
    }

    pub(super) fn outbound(&mut self, which: Reliable) -> &mut Outbound {
        match which {
            Reliable::Direct => &mut self.direct,
            Reliable::Broadcast => &mut self.broadcast,
        }
    }

    /// The control message that is due on the reliable lane: a hello, an echo, or a question for news.
    pub(super) fn reliable_control_due(&self, now: Duration) -> bool {
        self.linked && (self.hello.echo_due.is_some() || self.hello_due(now) || self.ask_due(now))
    }

    fn hello_due(&self, now: Duration) -> bool {
        self.hello.again_at.is_some_and(|at| at <= now)
    }

    fn ask_due(&self, now: Duration) -> bool {
        self.confirmed && self.ask_at.is_some_and(|at| at <= now)
    }

    pub(super) fn ack_due(&self, now: Duration) -> bool {
        self.linked && self.epoch.is_some() && self.ack.due.is_some_and(|due| due <= now)
    }

    /// The keepalive has said something.
    pub(super) fn has_said(&self) -> bool {
        self.confirmed && self.say.is_some()
    }

    pub(super) fn ack_pending(&self) -> bool {
        self.epoch.is_some() && self.ack.due.is_some()
    }

    /// Whether an acknowledgement that is owed goes with messages that leave now. Not with each of a quick exchange, where to write and
    /// to read it would take longer than the message itself: then with the first one after the usual delay.
    pub(super) fn ack_rides(&self, now: Duration, limits: &SessionLimits) -> bool {
        let rested = self.ack.last.is_none_or(|last| last + limits.ack_delay <= now);
        self.ack_pending() && (rested || self.ack_due(now))
    }

    /// Writes all that is due into one control message.
    pub(super) fn control(&mut self, now: Duration, limits: &SessionLimits) -> Control {
        let mut control = Control {
            acks: self.acks(),
            room: self.has_turned_away() && self.has_room_again(limits),
            witness: self.say.take(),
            ..Control::default()
        };
        let (greet, ask) = (self.hello_due(now), self.ask_due(now));
        if greet || self.hello.echo_due.is_some() {
            let echo = self.hello.echo_due.take().or_else(|| self.hello.echoed.clone());
            self.hello.echoed.clone_from(&echo);
            control.hello = Some(Hello {
                nonce: greet.then(|| self.hello.nonce.clone()),
                echo,
            });
            if greet {
                let (least, most) = HELLO_AGAIN;
                self.hello.again_at =
                    Some(now + least.saturating_mul(1 << self.hello.tries.min(8)).min(most));
                if self.hello.tries == 0 {
                    self.hello.first_asked = now;
                }
                self.hello.tries += 1;
            }
        }
        if control.hello.is_some() || ask {
            control.floors = vec![
                Floor {
                    stream: Reliable::Direct,
                    floor: self.direct.floor(),
                },
                Floor {
                    stream: Reliable::Broadcast,
                    floor: self.broadcast.floor(),
                },
            ];
        }
        if ask {
            self.asked += 1;
            self.plan_question(now);
        }
        control
    }

    /// The peer turned messages away, and has room again: what it has not got is due.
    pub(super) fn hear_of_room(&mut self, now: Duration) {
        let round_trip = self.rtt.smoothed().unwrap_or_default();
        self.direct.resend_settled(round_trip, now);
        self.broadcast.resend_settled(round_trip, now);
    }

    /// An acknowledgement came.
    pub(super) fn heard_news(&mut self, now: Duration) {
        let news = [self.direct.take_news(), self.broadcast.take_news()];
        let lags = self.direct.peer_lags() || self.broadcast.peer_lags();
        let awaits = self.direct.awaits_news() || self.broadcast.awaits_news();
        if !awaits || news.contains(&true) {
            self.asked = 0;
        }
        if lags && self.asked == 0 {
            // The peer waits for numbers that are finished: it must be told. If telling does not help, because its
            // application is slow, it is told again ever more rarely.
            self.ask_at = Some(now + self.rtt.smoothed().unwrap_or_default() / 2);
        } else {
            self.plan_question(now);
        }
    }

    /// If the peer holds messages, asks after them in a while: the last acknowledgement may have been lost.
    fn plan_question(&mut self, now: Duration) {
        let awaits = self.direct.awaits_news() || self.broadcast.awaits_news();
        let wait = (self.rtt.timeout(1).max(LEAST_NEWS_WAIT))
            .saturating_mul(1 << self.asked.min(8))
            .min(MOST_NEWS_WAIT);
        self.ask_at = awaits.then_some(now + wait);
    }

    /// Forgets what nobody wants any more: it has expired before it was sent.
    pub(super) fn drop_finished(&mut self) {
        self.unsigned
            .retain(|(sequence, _)| self.direct.is_outstanding(*sequence));
        let wanted = |message: &SignedMessage| self.broadcast.is_outstanding(message.header().sequence);
        self.shared
            .retain(|flight| !flight.reliable || flight.messages.iter().any(wanted));
    }

    pub(super) fn question_if_unplanned(&mut self, now: Duration) {
        if self.ask_at.is_none() {
            self.plan_question(now);
        }
    }

    /// When something will be due that is not due now. What is due already waits for its lane, not for a time.
    pub(super) fn next_timeout(&self, now: Duration) -> Option<Duration> {
        let expiry = [self.direct.next_expiry(), self.broadcast.next_expiry()];
        let linked = [self.hello.again_at, self.ack.due.filter(|_| self.epoch.is_some())];
        let confirmed = [self.direct.next_due(), self.broadcast.next_due(), self.ask_at];
        let linked = linked.into_iter().filter(|_| self.linked);
        let confirmed = confirmed.into_iter().filter(|_| self.confirmed);
        let wake = self.wake_at.filter(|_| self.wants_link());
        expiry
            .into_iter()
            .chain([wake])
            .chain(linked)
            .chain(confirmed)
            .flatten()
            .filter(|at| *at > now)
            .min()
    }

    // ----------------------------------------------------------------------------------------------------- inbound

    pub(super) fn inbound(&mut self, which: Reliable) -> &mut Inbound {
        &mut self.inbound[which as usize]
    }

    pub(super) fn inbound_ref(&self, which: Reliable) -> &Inbound {
        &self.inbound[which as usize]
    }

    /// A message came: its acknowledgement is owed, at the latest after the usual delay.
    pub(super) fn owe_ack(&mut self, now: Duration, limits: &SessionLimits) {
        self.advance_ack(now + limits.ack_delay);
    }

    /// The application took messages, which gives the peer room for more: say so at once if this peer has heard nothing for a while,
    /// or if they are many, else with the others. So an idle conversation is not delayed, and a busy one neither
    /// waits with its window full nor signs an acknowledgement for each message.
    fn owe_ack_for_taken(&mut self, messages: u64, now: Duration, limits: &SessionLimits) {
        self.ack.taken += messages;
        let many = self.ack.taken >= limits.ack_every as u64;
        let earliest = match self.ack.last {
            Some(last) if !many => (last + limits.ack_delay).max(now),
            _ => now,
        };
        self.advance_ack(earliest);
    }

    pub(super) fn owe_ack_now(&mut self, now: Duration) {
        self.advance_ack(now);
    }

    fn advance_ack(&mut self, at: Duration) {
        self.ack.due = Some(self.ack.due.map_or(at, |due| due.min(at)));
    }

    pub(super) fn ack_sent(&mut self, now: Duration) {
        self.ack = AckState {
            due: None,
            taken: 0,
            last: Some(now),
        };
    }

    fn acks(&self) -> Vec<Ack> {
        let Some(epoch) = self.epoch else {
            return Vec::new();
        };
        let ack = |stream: Reliable| {
            let inbound = self.inbound_ref(stream);
            Ack {
                epoch,
                stream,
                cumulative: inbound.cumulative(),
                held: inbound.held(),
                refused: inbound.refused(),
            }
        };
        Reliable::BOTH.map(ack).into()
    }

    /// How far this peer's streams were taken, as the journal keeps it.
    pub(super) fn mark(&self, best_effort: [u64; 2]) -> Option<Mark> {
        let epoch = self.epoch?;
        let mut floors = [0; 4];
        floors[Stream::BestEffort as usize] = best_effort[0];
        floors[Stream::BestEffortBroadcast as usize] = best_effort[1];
        for which in Reliable::BOTH {
            floors[which.stream() as usize] = self.inbound_ref(which).taken_up_to();
        }
        Some(Mark { epoch, floors })
    }

    /// The mark is on record: it may be acknowledged, and is if it says anything new.
    pub(super) fn recorded(&mut self, mark: &Mark, now: Duration, limits: &SessionLimits) {
        if self.epoch != Some(mark.epoch) {
            return;
        }
        let news =
            Reliable::BOTH.map(|which| self.inbound(which).record(mark.floors[which.stream() as usize]));
        if news != [0, 0] || self.has_turned_away() && self.has_room_again(limits) {
            self.owe_ack_for_taken(news.iter().sum(), now, limits);
        }
    }

    /// It is waiting for a word that there is room.
    pub(super) fn has_turned_away(&self) -> bool {
        self.turned_away.contains(&true)
    }

    /// Half of the inbox is free, or whatever is in it waits for the next message: worth a word to a peer whose messages were turned
    /// away.
    fn has_room_again(&self, limits: &SessionLimits) -> bool {
        let (messages, bytes) = self.load_in();
        let half = messages <= limits.inbox_messages / 2 && bytes <= limits.inbox_bytes / 2;
        half || self.inbox_is_empty()
    }

    /// Messages and bytes of this peer that wait for an earlier one or for the application.
    pub(super) fn load_in(&self) -> (usize, usize) {
        let [(a, b), (c, d)] = [self.inbound[0].load(), self.inbound[1].load()];
        let (e, f) = self.former_inbox;
        (a + c + e, b + d + f)
    }

    /// The same with a frame's messages, and with the room that is kept for what is missing between them. What comes of another
    /// epoch than the present one finds only what that leaves behind.
    pub(super) fn load_with(&self, claimed: [Claimed; 2], in_epoch: bool) -> (usize, usize) {
        let (messages, bytes) = self.load_in();
        if !in_epoch {
            return (messages + claimed[0].1 + claimed[1].1, bytes);
        }
        let span = |at: usize| self.inbound[at].span(claimed[at].0, claimed[at].1);
        (span(0) + span(1) + self.former_inbox.0, bytes)
    }

    /// Nothing of this peer waits for the application.
    pub(super) fn inbox_is_empty(&self) -> bool {
        self.former_inbox.0 == 0 && self.inbound.iter().all(Inbound::inbox_is_empty)
    }

    /// Nothing of this stream, nor of the peer's former runs, waits for the application.
    pub(super) fn nothing_else_waits(&self, which: Reliable) -> bool {
        self.former_inbox.0 == 0 && self.inbound_ref(which).inbox_is_empty()
    }

    /// Answers the hello of a peer that has yet to prove that it is live, and asks it in turn. Takes nothing else from it.
    pub(super) fn owe_echo(&mut self, nonce: String, now: Duration) {
        self.hello.echo_due = Some(nonce).filter(|nonce| nonce.len() <= 32);
        // It may be a new run behind a link that never went down, where nobody would ask it otherwise.
        if self.confirmed {
            self.hello.again_at = Some(now);
        }
    }

    /// Remembers a message's id.
    pub(super) fn remember(&mut self, id: &MessageId) -> Known {
        match self.remembered_taken.entry(id.clone()) {
            Entry::Occupied(taken) if *taken.get() => return Known::Taken,
            Entry::Occupied(_) => return Known::Waiting,
            Entry::Vacant(place) => _ = place.insert(false),
        }
        self.remembered.push_back(id.clone());
        if self.remembered.len() > REMEMBERED_IDS
            && let Some(oldest) = self.remembered.pop_front()
        {
            self.remembered_taken.remove(&oldest);
        }
        Known::New
    }

    /// The application took the message with this id. Whether another number of the peer's streams waited for that.
    pub(super) fn settle(&mut self, id: &MessageId) -> bool {
        if let Some(taken) = self.remembered_taken.get_mut(id) {
            *taken = true;
        }
        let settled = self.inbound.each_mut().map(|inbound| inbound.taken_elsewhere(id));
        settled.contains(&true)
    }
}
