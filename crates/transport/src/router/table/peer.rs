//! What a router knows of one peer.

use std::{collections::VecDeque, time::Duration};

use super::{FORGOTTEN_AFTER, HealthConfig, Roads, bit};
use crate::router::{copies::Copies, health::Health, recent::Recent};

pub(super) struct Peer {
    pub(super) roads: Vec<Health>,
    /// It has answered a ping, or sent one: it has a router too.
    pub(super) has_router: bool,
    /// The session was told that there is a link.
    pub(super) up: bool,
    /// Where first attempts of the default class go.
    pub(super) current: Option<usize>,
    /// By which road it last sent messages: acknowledgements go back the same way.
    pub(super) answers_by: Option<usize>,
    pub(super) transmissions: VecDeque<Transmission>,
    pub(super) copies: Copies,
    pub(super) recent: Recent,
    pub(super) unlinked_since: Option<Duration>,
}

/// An envelope on its way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transmission {
    pub(super) number: u64,
    pub(super) roads: Roads,
    pub(super) at: Duration,
}

impl Peer {
    pub(super) fn new(roads: usize, health: HealthConfig) -> Self {
        Self {
            roads: vec![Health::new(health); roads],
            has_router: false,
            up: false,
            current: None,
            answers_by: None,
            transmissions: VecDeque::new(),
            copies: Copies::default(),
            recent: Recent::default(),
            unlinked_since: None,
        }
    }

    /// With one road there is nothing to choose, and a peer without a router would take a ping for garbage. With two roads it
    /// has a router.
    pub(super) fn may_be_pinged(&self) -> bool {
        self.has_router || self.roads_that(Health::is_linked).count_ones() >= 2
    }

    pub(super) fn roads_that(&self, wanted: impl Fn(&Health) -> bool) -> Roads {
        let wanted = self.roads.iter().enumerate().filter(|(_, health)| wanted(health));
        wanted.fold(0, |roads, (road, _)| roads | bit(road))
    }

    /// Whether something that went by another road since then has been answered.
    pub(super) fn another_answers(&self, road: usize, since: Duration) -> bool {
        let mut others = self.roads.iter().enumerate().filter(|(other, _)| *other != road);
        others.any(|(_, health)| health.has_answered_since(since))
    }

    /// Pings the other roads, to compare them with one that is doubted.
    pub(super) fn ask_others(&mut self, road: usize, since: Duration) {
        let others = self
            .roads
            .iter_mut()
            .enumerate()
            .filter(|(other, _)| *other != road);
        others.for_each(|(_, health)| health.ask(since));
    }

    /// Where a transmission is, or where it belongs: they are sorted by number.
    pub(super) fn transmission(&self, number: u64) -> Result<usize, usize> {
        self.transmissions
            .binary_search_by_key(&number, |known| known.number)
    }

    /// The roads that a transmission took.
    pub(super) fn roads_of(&self, number: u64) -> Roads {
        self.transmission(number)
            .map_or(0, |at| self.transmissions[at].roads)
    }

    pub(super) fn next_timeout(&self) -> Option<Duration> {
        let pinged = self.may_be_pinged();
        let health = self
            .roads
            .iter()
            .filter(|_| pinged)
            .filter_map(Health::next_timeout)
            .min();
        let forgotten = self.unlinked_since.map(|since| since + FORGOTTEN_AFTER);
        [health, self.copies.next_due(), forgotten]
            .into_iter()
            .flatten()
            .min()
    }
}
