//! A link that is up: credit both ways, frames put together, pings. Pure: what came and `now` go in.
//!
//! Credit is end to end. The receiver says how much it has taken since the link came up; the sender lets no more than the
//! window be outstanding. So whoever does not read stops those who write to it, and nobody else, and what waits at the server
//! and at the receiver is bounded for each pair.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ifmesh_signaling::RELAY_FRAME_COST;
use ifmesh_transport::{Assembler, ChunkError, ChunkLimits, Lane};
use ifmsg::Timestamp;
use tokio::time::Instant;

use crate::{
    hello::Nonce,
    outbound::{Gate, Outbound},
    wire::{Linked, Tag},
};

/// A link, from the hello that proved it to its end.
#[derive(Debug)]
pub(crate) struct Link {
    /// Distinguishes it from others of the same peer.
    pub(crate) number: u64,
    pub(crate) my_nonce: Nonce,
    pub(crate) peer_nonce: Nonce,
    pub(crate) gate: Arc<Gate>,
    pub(crate) outbound: Outbound,
    pub(crate) since: Timestamp,
    pub(crate) up_at: Instant,
    pub(crate) round_trip: Option<Duration>,
    /// A hello is to be sent: the peer waits for one that echoes its nonce.
    pub(crate) answer: bool,
    /// Something came over the link, so the peer has it up, too.
    pub(crate) is_mutual: bool,
    /// We said, or are about to say, that no more comes.
    pub(crate) goodbye: Goodbye,
    /// What may be outstanding, and what was sent and taken in all.
    window: u64,
    sent: u64,
    taken: u64,
    inbound: Inbound,
    pings: Pings,
    pong: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Goodbye {
    Not,
    /// After everything else that is queued.
    Due,
    Said,
}

/// What came, and what of it was read.
#[derive(Debug)]
struct Inbound {
    window: u64,
    came: u64,
    taken: u64,
    told: u64,
    /// What frames that wait for `recv` would take up of the window.
    unread: u64,
    /// What is told as taken when `unread` has gone down.
    deferred: u64,
    reliable: Assembler,
    loose: Assembler,
}

#[derive(Debug)]
struct Pings {
    heard: Instant,
    due: Instant,
    /// The number of the last one, and when it was sent, while no answer came.
    number: u64,
    waiting: Option<Instant>,
}

/// What a link needs to know when it comes up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Terms {
    pub(crate) number: u64,
    /// Of the peer, and what the server lets wait.
    pub(crate) window: u64,
    pub(crate) my_window: u64,
    pub(crate) my_nonce: Nonce,
    pub(crate) peer_nonce: Nonce,
    pub(crate) max_frame: usize,
    pub(crate) since: Timestamp,
}

/// What a data frame brought.
#[derive(Debug)]
pub(crate) enum Arrived {
    /// A whole frame.
    Frame(Bytes),
    /// Part of one.
    Nothing,
    /// The frame that it was a part of was given up.
    Bad(ChunkError),
    /// More than this side's window.
    TooMuch,
}

impl Link {
    pub(crate) fn new(terms: Terms, gate: Arc<Gate>, now: Instant) -> Self {
        let assembler = || {
            Assembler::new(ChunkLimits {
                max_frame: terms.max_frame,
                max_messages: 2,
                max_bytes: terms.max_frame,
                ..ChunkLimits::default()
            })
        };
        Self {
            number: terms.number,
            my_nonce: terms.my_nonce,
            peer_nonce: terms.peer_nonce,
            gate,
            outbound: Outbound::default(),
            since: terms.since,
            up_at: now,
            round_trip: None,
            answer: false,
            is_mutual: false,
            goodbye: Goodbye::Not,
            window: terms.window,
            sent: 0,
            taken: 0,
            inbound: Inbound {
                window: terms.my_window,
                came: 0,
                taken: 0,
                told: 0,
                unread: 0,
                deferred: 0,
                reliable: assembler(),
                loose: assembler(),
            },
            pings: Pings {
                heard: now,
                // The first one measures the round trip.
                due: now,
                number: 0,
                waiting: None,
            },
            pong: None,
        }
    }

    /// What the peer's frames bear.
    pub(crate) fn my_tag(&self) -> Tag {
        self.my_nonce.tag()
    }

    /// Takes in a data frame.
    pub(crate) fn on_data(&mut self, lane: Lane, payload: Bytes, now: Instant) -> Arrived {
        self.pings.heard = now;
        let inbound = &mut self.inbound;
        let cost = cost(payload.len());
        inbound.came += cost;
        if inbound.came - inbound.taken > inbound.window {
            return Arrived::TooMuch;
        }
        let assembler = match lane {
            Lane::Reliable => &mut inbound.reliable,
            Lane::BestEffort => &mut inbound.loose,
        };
        let accepted = assembler.accept(payload, now);
        // What this frame held of the window is given back when what it brought has been read; at once, if it brought nothing
        // yet and little waits. Otherwise a frame larger than the window could never come.
        match &accepted {
            Ok(Some(frame)) => {
                inbound.unread += self::cost(frame.len());
                inbound.deferred += cost;
            }
            Ok(None) | Err(_) => inbound.deferred += cost,
        }
        inbound.settle();
        match accepted {
            Ok(Some(frame)) => Arrived::Frame(frame),
            Ok(None) => Arrived::Nothing,
            Err(error) => Arrived::Bad(error),
        }
    }

    /// A frame of `len` bytes was read, or dropped.
    pub(crate) fn on_read(&mut self, len: usize) {
        self.inbound.unread = self.inbound.unread.saturating_sub(cost(len));
        self.inbound.settle();
    }

    /// `false`: the peer claims to have taken what was never sent.
    pub(crate) fn on_credit(&mut self, taken: u64, now: Instant) -> bool {
        self.pings.heard = now;
        self.taken = self.taken.max(taken);
        taken <= self.sent
    }

    pub(crate) fn on_ping(&mut self, number: u64, now: Instant) {
        self.pings.heard = now;
        self.pong = Some(number);
    }

    pub(crate) fn on_pong(&mut self, number: u64, now: Instant) {
        self.pings.heard = now;
        if number == self.pings.number
            && let Some(sent) = self.pings.waiting.take()
        {
            self.round_trip = Some(now - sent);
        }
    }

    /// What to send now, if anything.
    pub(crate) fn next(&mut self, ping_interval: Duration, now: Instant) -> Option<Linked> {
        if let Some(number) = self.pong.take() {
            return Some(Linked::Pong(number));
        }
        if let Some(taken) = self.inbound.news() {
            return Some(Linked::Credit(taken));
        }
        if self.pings.due <= now && self.goodbye == Goodbye::Not {
            self.pings.due = now + ping_interval;
            self.pings.number += 1;
            self.pings.waiting = Some(now);
            return Some(Linked::Ping(self.pings.number));
        }
        if self.goodbye == Goodbye::Said {
            return None;
        }
        let room = self.window.saturating_sub(self.sent - self.taken);
        // A window that is too small for a piece still lets one through at a time.
        let idle = self.sent == self.taken;
        if let Some((lane, piece)) = self.outbound.next(|len| cost(len) <= room || idle) {
            self.sent += cost(piece.len());
            return Some(Linked::Data(lane, piece));
        }
        if self.goodbye == Goodbye::Due && self.outbound.is_empty() {
            self.goodbye = Goodbye::Said;
            return Some(Linked::Goodbye);
        }
        None
    }

    /// Gives up what stays unfinished.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<ChunkError> {
        let mut errors = self.inbound.reliable.expire(now);
        errors.extend(self.inbound.loose.expire(now));
        errors
    }

    pub(crate) fn is_silent(&self, silence: Duration, now: Instant) -> bool {
        now.duration_since(self.pings.heard) >= silence
    }

    /// When something is to be done though nothing happens.
    pub(crate) fn deadline(&self, silence: Duration) -> Instant {
        let expiry = [&self.inbound.reliable, &self.inbound.loose]
            .into_iter()
            .filter_map(|assembler| assembler.next_expiry());
        let deadline = self.pings.due.min(self.pings.heard + silence);
        expiry.fold(deadline, Instant::min)
    }

    /// When the peer was last heard, and when it was sent a ping that it has not answered.
    pub(crate) fn heard_and_asked(&self) -> (Instant, Option<Instant>) {
        (self.pings.heard, self.pings.waiting)
    }

    /// Whether a ping is to be sent.
    pub(crate) fn is_ping_due(&self, now: Instant) -> bool {
        self.pings.due <= now
    }
}

impl Inbound {
    /// Gives back what was held back, once little enough waits.
    fn settle(&mut self) {
        if self.unread < self.window / 2 {
            self.taken += std::mem::take(&mut self.deferred);
        }
    }

    /// What the peer should hear: when a quarter of the window is free again.
    fn news(&mut self) -> Option<u64> {
        if self.taken - self.told < self.window / 4 {
            return None;
        }
        self.told = self.taken;
        Some(self.taken)
    }
}

/// What a payload takes up of the window.
fn cost(len: usize) -> u64 {
    (len + RELAY_FRAME_COST) as u64
}
