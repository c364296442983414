//! The rules one by one, and then two sides in a world that loses, delays, kills and lies.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn digest(seed: u64) -> Sha256Digest {
    Sha256Digest::of(&seed.to_be_bytes())
}

fn offer(seed: u64, epoch: u64) -> Input {
    Input::Offer {
        digest: digest(seed),
        epoch,
    }
}

struct Side {
    negotiation: Negotiation,
    now: Instant,
}

impl Side {
    fn new(first: bool) -> Self {
        Self {
            negotiation: Negotiation::new(first, false, WebRtcLimits::default()),
            now: Instant::now(),
        }
    }

    /// The one that offers first.
    fn larger() -> Self {
        Self::new(true)
    }

    fn smaller() -> Self {
        Self::new(false)
    }

    fn put(&mut self, input: Input) -> Vec<Action> {
        self.negotiation.handle(input, self.now, 0)
    }

    fn after(&mut self, time: Duration) -> Vec<Action> {
        self.now += time;
        self.put(Input::Tick)
    }

    /// With attempt 1 as the link to epoch 1.
    fn linked(mut self) -> Self {
        assert_eq!(self.put(offer(1, 1)), [Action::Answer { attempt: 1 }]);
        assert_eq!(
            self.put(Input::Verified { attempt: 1 }),
            [Action::Adopt { attempt: 1 }]
        );
        assert_eq!(self.put(Input::Present { epoch: Some(1) }), []);
        self
    }
}

#[test]
fn the_larger_id_offers_at_once() {
    let mut side = Side::larger();
    assert_eq!(
        side.put(Input::Present { epoch: Some(1) }),
        [Action::Offer { attempt: 1 }]
    );
    assert_eq!(side.put(Input::Present { epoch: Some(1) }), []);
}

#[test]
fn the_smaller_id_waits_and_then_offers_all_the_same() {
    let mut side = Side::smaller();
    assert_eq!(side.put(Input::Present { epoch: Some(1) }), []);
    assert_eq!(side.after(SECOND), []);
    assert_eq!(side.after(SECOND), [Action::Offer { attempt: 1 }]);
}

#[test]
fn in_a_glare_the_smaller_id_yields() {
    let mut side = Side::smaller();
    side.put(Input::Present { epoch: Some(1) });
    assert_eq!(side.after(3 * SECOND), [Action::Offer { attempt: 1 }]);
    let yields = [Action::Drop { attempt: 1 }, Action::Answer { attempt: 2 }];
    assert_eq!(side.put(offer(1, 1)), yields);
}

#[test]
fn in_a_glare_the_larger_id_insists_but_not_for_ever() {
    let mut side = Side::larger();
    side.put(Input::Present { epoch: Some(1) });
    assert_eq!(side.put(offer(1, 1)), []);
    side.now += 2 * SECOND;
    let gives_in = [Action::Drop { attempt: 1 }, Action::Answer { attempt: 2 }];
    assert_eq!(side.put(offer(2, 1)), gives_in);
}

#[test]
fn an_offer_to_an_earlier_life_is_no_glare() {
    let mut side = Side::larger();
    side.put(Input::Present { epoch: Some(1) });
    let answers = [Action::Drop { attempt: 1 }, Action::Answer { attempt: 2 }];
    assert_eq!(side.put(offer(1, 2)), answers);
}

#[test]
fn a_second_registration_in_a_new_life_is_offered_anew() {
    let mut side = Side::larger();
    side.put(Input::Present { epoch: Some(1) });
    let anew = [Action::Drop { attempt: 1 }, Action::Offer { attempt: 2 }];
    assert_eq!(side.put(Input::Present { epoch: Some(2) }), anew);
}

#[test]
fn a_repeated_offer_is_refused_and_harms_nothing() {
    let mut side = Side::smaller().linked();
    let refused = [Action::Refuse(RefusedOffer::Replayed)];
    assert_eq!(side.put(offer(1, 1)), refused);
    assert!(side.negotiation.link.is_some());
}

#[test]
fn an_offer_of_the_same_life_replaces_the_link_only_once_it_is_proven() {
    let mut side = Side::larger().linked();
    assert_eq!(side.put(offer(2, 1)), [Action::Answer { attempt: 2 }]);
    assert_eq!(
        side.put(Input::Verified { attempt: 2 }),
        [Action::Replace { attempt: 1 }]
    );
    assert_eq!(
        side.put(Input::Ended { attempt: 1 }),
        [Action::Adopt { attempt: 2 }]
    );
}

#[test]
fn an_offer_that_nobody_stands_behind_harms_no_link() {
    let mut side = Side::larger().linked();
    assert_eq!(side.put(offer(2, 1)), [Action::Answer { attempt: 2 }]);
    assert_eq!(side.put(Input::Ended { attempt: 2 }), []);
    assert_eq!(side.after(60 * SECOND), []);
    assert_eq!(side.negotiation.current(), Some(1));
}

#[test]
fn a_verified_later_life_ends_the_earlier_one_at_once() {
    let mut side = Side::larger().linked();
    let evicts = [Action::Replace { attempt: 1 }, Action::Answer { attempt: 2 }];
    assert_eq!(side.put(offer(2, 2)), evicts);
    assert_eq!(side.put(Input::Verified { attempt: 2 }), []);
    assert_eq!(
        side.put(Input::Ended { attempt: 1 }),
        [Action::Adopt { attempt: 2 }]
    );
}

/// Fails if a server's lie about an epoch costs the link, or is tried more than once.
#[test]
fn a_server_that_invents_a_later_life_harms_no_link() {
    let mut side = Side::larger().linked();
    assert_eq!(
        side.put(Input::Present { epoch: Some(9) }),
        [Action::Offer { attempt: 2 }]
    );
    assert_eq!(side.put(Input::Ended { attempt: 2 }), []);
    assert_eq!(side.after(60 * SECOND), []);
    assert_eq!(side.put(Input::Absent), []);
    assert_eq!(side.negotiation.current(), Some(1));
}

/// Fails if the agent, which knows nothing of the lie and answers in good faith, loses its link over it.
#[test]
fn an_answer_that_proves_the_server_wrong_is_dropped() {
    let mut side = Side::larger().linked();
    assert_eq!(
        side.put(Input::Present { epoch: Some(9) }),
        [Action::Offer { attempt: 2 }]
    );
    let answered = Input::Answered { attempt: 2, epoch: 1 };
    assert_eq!(side.put(answered), [Action::Drop { attempt: 2 }]);
    assert_eq!(side.after(60 * SECOND), []);
    assert_eq!(side.negotiation.current(), Some(1));
}

#[test]
fn who_left_is_offered_nothing() {
    let mut side = Side::larger();
    side.put(Input::Present { epoch: Some(1) });
    assert_eq!(side.put(Input::Absent), [Action::Drop { attempt: 1 }]);
    assert_eq!(side.after(60 * SECOND), []);
    assert!(side.negotiation.is_idle());
}

#[test]
fn a_lost_link_is_set_up_again_soon_and_a_failing_one_less_and_less_often() {
    let mut side = Side::larger();
    side.put(Input::Present { epoch: Some(1) });
    let (mut attempt, mut waits) = (1, Vec::new());
    for _ in 0..12 {
        let dice = u64::MAX / 2 + 1;
        side.negotiation.handle(Input::Ended { attempt }, side.now, dice);
        let at = side.negotiation.deadline().unwrap();
        waits.push(at - side.now);
        side.now = at;
        attempt += 1;
        assert_eq!(side.put(Input::Tick), [Action::Offer { attempt }]);
    }
    assert!(waits[0] <= Duration::from_millis(200), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait <= 20 * SECOND), "{waits:?}");
    assert!(waits[11] >= 10 * SECOND, "{waits:?}");
}

/// Fails if a peer or a server can have us make connections as fast as it can write.
#[test]
fn floods_of_offers_and_of_registrations_are_bounded() {
    let mut side = Side::smaller();
    let taken = |actions: &[Action]| {
        actions
            .iter()
            .any(|action| matches!(action, Action::Answer { .. }))
    };
    let answers = (0..1_000)
        .filter(|seed| taken(&side.put(offer(*seed, 1))))
        .count();
    assert_eq!(answers, 8);
    side.now += 10 * SECOND;
    let answers = (1_000..2_000)
        .filter(|seed| taken(&side.put(offer(*seed, 1))))
        .count();
    assert_eq!(answers, 8);

    let mut side = Side::larger();
    let offers: usize = (0..1_000)
        .map(|epoch| side.put(Input::Present { epoch: Some(epoch) }))
        .map(|actions| {
            actions
                .iter()
                .filter(|action| matches!(action, Action::Offer { .. }))
                .count()
        })
        .sum();
    assert_eq!(offers, 8);
    // And the last one is not forgotten.
    assert_eq!(side.after(SECOND).len(), 1);
}

#[test]
fn the_larger_id_restarts_a_silent_link_once() {
    let mut side = Side::larger().linked();
    let restart = [Action::Restart { attempt: 1 }];
    assert_eq!(side.put(Input::Silent { attempt: 1 }), restart);
    assert_eq!(side.put(Input::Silent { attempt: 1 }), []);
    assert_eq!(side.negotiation.restarting(), Some(1));
    assert_eq!(side.put(Input::Restarted { attempt: 1 }), []);
    assert_eq!(side.put(Input::Heard { attempt: 1 }), []);
    assert_eq!(side.put(Input::Silent { attempt: 1 }), restart);

    let mut side = Side::smaller().linked();
    assert_eq!(side.put(Input::Silent { attempt: 1 }), []);
    let offer = |seed| Input::RestartOffer {
        attempt: 1,
        digest: digest(seed),
    };
    assert_eq!(side.put(offer(2)), [Action::AnswerRestart { attempt: 1 }]);
    let refused = [Action::Refuse(RefusedOffer::Replayed)];
    assert_eq!(side.put(offer(2)), refused);
    let mut side = Side::larger().linked();
    assert_eq!(side.put(offer(2)), [Action::Refuse(RefusedOffer::OutOfTurn)]);
}

/// Fails if an offer to restart that went to a peer's dead socket is its last.
#[test]
fn a_silent_link_is_restarted_once_more_when_the_peer_registers_anew() {
    let mut side = Side::larger().linked();
    let restart = [Action::Restart { attempt: 1 }];
    assert_eq!(side.put(Input::Silent { attempt: 1 }), restart);
    assert_eq!(side.put(Input::Present { epoch: Some(1) }), restart);
    assert_eq!(side.negotiation.restarting(), Some(1));
    assert_eq!(side.put(Input::Restarted { attempt: 1 }), []);
    assert_eq!(side.put(Input::Heard { attempt: 1 }), []);
    assert_eq!(side.put(Input::Present { epoch: Some(1) }), []);
}

/// Fails if a link is restarted behind the back of a server that is not there, or not at all once it is.
#[test]
fn a_link_that_falls_silent_without_a_server_is_restarted_when_it_is_back() {
    let mut side = Side::larger().linked();
    assert_eq!(side.put(Input::Absent), []);
    assert_eq!(side.put(Input::Silent { attempt: 1 }), []);
    assert_eq!(
        side.put(Input::Present { epoch: Some(1) }),
        [Action::Restart { attempt: 1 }]
    );
}

/// Fails if anything is offered that nobody wants, or if somebody who wants to send has to wait for the other side.
#[test]
fn on_demand_either_side_offers_at_once_and_only_then() {
    for first in [true, false] {
        let mut side = Side::new(first);
        side.negotiation = Negotiation::new(first, true, WebRtcLimits::default());
        assert_eq!(side.put(Input::Present { epoch: Some(1) }), []);
        assert_eq!(side.after(60 * SECOND), []);
        assert_eq!(side.put(Input::Wanted), [Action::Offer { attempt: 1 }]);
        assert_eq!(side.put(Input::Wanted), []);
        let answered = Input::Answered { attempt: 1, epoch: 1 };
        assert_eq!(side.put(answered), []);
        assert_eq!(
            side.put(Input::Verified { attempt: 1 }),
            [Action::Adopt { attempt: 1 }]
        );
        assert_eq!(side.put(Input::Unused), [Action::Rest { attempt: 1 }]);
        assert_eq!(side.put(Input::Unused), []);
        assert_eq!(side.put(Input::Ended { attempt: 1 }), []);
        assert_eq!(side.after(60 * SECOND), []);
        // Tried again for as long as it is wanted, and not for ever.
        assert_eq!(side.put(Input::Wanted), [Action::Offer { attempt: 2 }]);
        assert_eq!(side.put(Input::Ended { attempt: 2 }), []);
        assert_eq!(side.after(SECOND), [Action::Offer { attempt: 3 }]);
        side.now += 60 * SECOND;
        assert_eq!(side.put(Input::Ended { attempt: 3 }), []);
        assert_eq!(side.after(60 * SECOND), []);
        assert!(side.negotiation.is_idle());
    }
}

/// Two sides, a server and a network between them. Fails if a side ever has two links, or if a world that has calmed down
/// is left with none, with different ones, or with links that come and go.
#[test]
fn two_sides_agree_on_one_connection_whatever_happened_before() {
    for seed in 0..3_000 {
        let mut world = World::new(seed);
        world.run_until(40, true);
        world.calm();
        world.run_until(140, false);
        let adopted = world.adopted;
        world.run_until(200, false);
        let links = world
            .sides
            .each_ref()
            .map(|side| side.link.map(|attempt| side.connections[&attempt]));
        assert!(
            links[0].is_some() && links[0] == links[1],
            "seed {seed}: {links:?}\n{:#?}",
            world.sides
        );
        assert_eq!(world.adopted, adopted, "seed {seed}: links come and go");
    }
}

#[derive(Debug)]
struct End {
    negotiation: Negotiation,
    epoch: u64,
    online: bool,
    /// Which session each attempt is of, and whether it is still open on this side.
    connections: BTreeMap<Attempt, (u64, bool)>,
    link: Option<Attempt>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Offer {
        session: u64,
        epoch: u64,
    },
    Answer {
        session: u64,
        epoch: u64,
    },
    Present {
        epoch: u64,
    },
    Absent,
    Verified {
        session: u64,
    },
    /// Of this side's end of a session. `known` after the handshake.
    Ended {
        session: u64,
        unless_verified: bool,
    },
    Tick,
}

type Due = (Instant, u64, usize, u64, Happening);

struct World {
    random: StdRng,
    start: Instant,
    now: Instant,
    sides: [End; 2],
    /// When, which side in which life, what. The earliest first.
    queue: BinaryHeap<Reverse<Due>>,
    order: u64,
    sessions: u64,
    verified: std::collections::BTreeSet<(usize, u64)>,
    loss: f64,
    adopted: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let start = Instant::now();
        let side = |first| End {
            negotiation: Negotiation::new(first, false, WebRtcLimits::default()),
            epoch: 1,
            online: false,
            connections: BTreeMap::new(),
            link: None,
        };
        Self {
            random: StdRng::seed_from_u64(seed),
            start,
            now: start,
            sides: [side(true), side(false)],
            queue: BinaryHeap::new(),
            order: 0,
            sessions: 0,
            verified: Default::default(),
            loss: 0.2,
            adopted: 0,
        }
    }

    fn at(&mut self, side: usize, millis: std::ops::Range<u64>, what: Happening) {
        let at = self.now + Duration::from_millis(self.random.random_range(millis));
        self.order += 1;
        let life = self.sides[side].epoch;
        self.queue.push(Reverse((at, self.order, side, life, what)));
    }

    /// Signals of one side arrive in order; so they all take equally long.
    fn signal(&mut self, to: usize, what: Happening) {
        let both = self.sides[0].online && self.sides[1].online;
        if both && !self.random.random_bool(self.loss) {
            self.at(to, 5..6, what);
        }
    }

    fn run_until(&mut self, second: u64, chaos: bool) {
        let end = self.start + Duration::from_secs(second);
        let mut next_chaos = self.now;
        loop {
            if chaos && next_chaos <= self.now {
                self.disturb();
                next_chaos = self.now + Duration::from_millis(self.random.random_range(1..4_000));
            }
            let due = self.queue.peek().map(|next| next.0.0).unwrap_or(end);
            let until = if chaos { next_chaos.min(end) } else { end };
            if due > until || self.queue.is_empty() {
                self.now = until;
                if self.now >= end {
                    return;
                }
                continue;
            }
            let Some(Reverse((at, _, side, life, what))) = self.queue.pop() else {
                continue;
            };
            self.now = self.now.max(at);
            if self.sides[side].epoch == life {
                self.happen(side, what);
            }
        }
    }

    fn disturb(&mut self) {
        let side = self.random.random_range(0..2);
        match self.random.random_range(0..6) {
            0 | 1 => self.go_online(side),
            2 => self.go_offline(side),
            // A path breaks; each side notices in its own time, or one does not.
            3 => {
                if let Some(session) = self.sides[side]
                    .link
                    .map(|link| self.sides[side].connections[&link].0)
                {
                    for side in 0..2 {
                        self.at(
                            side,
                            1..10_000,
                            Happening::Ended {
                                session,
                                unless_verified: false,
                            },
                        );
                    }
                }
            }
            4 => self.restart(side),
            // The server lies.
            _ => {
                let epoch = self.random.random_range(0..9);
                self.at(side, 0..10, Happening::Present { epoch });
            }
        }
    }

    fn go_online(&mut self, side: usize) {
        self.sides[side].online = true;
        if self.sides[1 - side].online {
            for (to, of) in [(side, 1 - side), (1 - side, side)] {
                let epoch = self.sides[of].epoch;
                self.at(to, 5..6, Happening::Present { epoch });
            }
        }
    }

    fn go_offline(&mut self, side: usize) {
        self.sides[side].online = false;
        for side in 0..2 {
            self.at(side, 5..6, Happening::Absent);
        }
    }

    fn restart(&mut self, side: usize) {
        let sessions: Vec<_> = self.sides[side]
            .connections
            .values()
            .map(|(session, _)| *session)
            .collect();
        for session in sessions {
            self.at(
                1 - side,
                9_000..10_000,
                Happening::Ended {
                    session,
                    unless_verified: false,
                },
            );
        }
        let end = &mut self.sides[side];
        end.epoch += 1;
        end.negotiation = Negotiation::new(side == 0, false, WebRtcLimits::default());
        end.connections.clear();
        end.link = None;
        self.go_online(side);
    }

    fn calm(&mut self) {
        self.loss = 0.0;
        for side in 0..2 {
            self.go_offline(side);
        }
        for side in 0..2 {
            self.go_online(side);
        }
    }

    fn attempt(&self, side: usize, session: u64) -> Option<Attempt> {
        let connections = &self.sides[side].connections;
        connections
            .iter()
            .find(|(_, (of, open))| *of == session && *open)
            .map(|(attempt, _)| *attempt)
    }

    fn happen(&mut self, side: usize, what: Happening) {
        let input = match what {
            Happening::Present { epoch } => Input::Present { epoch: Some(epoch) },
            Happening::Absent => Input::Absent,
            Happening::Offer { session, epoch } => Input::Offer {
                digest: digest(session),
                epoch,
            },
            Happening::Answer { session, epoch } => {
                let offered = self.sides[side].negotiation.offered();
                let Some(attempt) = offered.filter(|attempt| self.attempt(side, session) == Some(*attempt))
                else {
                    return;
                };
                for side in 0..2 {
                    self.at(side, 1..500, Happening::Verified { session });
                }
                Input::Answered { attempt, epoch }
            }
            Happening::Verified { session } => {
                // A handshake needs both ends.
                if self.attempt(1 - side, session).is_none() {
                    return;
                }
                let Some(attempt) = self.attempt(side, session) else {
                    return;
                };
                self.verified.insert((side, session));
                Input::Verified { attempt }
            }
            Happening::Ended {
                session,
                unless_verified,
            } => {
                let connections = &self.sides[side].connections;
                let Some(attempt) = connections
                    .iter()
                    .find(|(_, (of, _))| *of == session)
                    .map(|(attempt, _)| *attempt)
                else {
                    return;
                };
                if unless_verified && self.verified.contains(&(side, session)) {
                    return;
                }
                self.close(side, attempt);
                self.sides[side].connections.remove(&attempt);
                if self.sides[side].link == Some(attempt) {
                    self.sides[side].link = None;
                }
                Input::Ended { attempt }
            }
            Happening::Tick => Input::Tick,
        };
        let dice = self.random.random();
        let actions = self.sides[side].negotiation.handle(input, self.now, dice);
        for action in actions {
            self.act(side, action, what);
        }
        if let Some(at) = self.sides[side].negotiation.deadline() {
            self.order += 1;
            let life = self.sides[side].epoch;
            self.queue.push(Reverse((
                at.max(self.now),
                self.order,
                side,
                life,
                Happening::Tick,
            )));
        }
    }

    fn act(&mut self, side: usize, action: Action, cause: Happening) {
        let epoch = self.sides[side].epoch;
        match action {
            Action::Offer { attempt } => {
                self.sessions += 1;
                let session = self.sessions;
                self.begin(side, attempt, session);
                self.signal(1 - side, Happening::Offer { session, epoch });
            }
            Action::Answer { attempt } => {
                let Happening::Offer { session, .. } = cause else {
                    panic!("{cause:?}")
                };
                self.begin(side, attempt, session);
                self.signal(1 - side, Happening::Answer { session, epoch });
            }
            Action::Drop { attempt } | Action::Replace { attempt } => {
                assert_eq!(
                    matches!(action, Action::Replace { .. }),
                    self.sides[side].link == Some(attempt)
                );
                self.close(side, attempt);
            }
            Action::Adopt { attempt } => {
                assert_eq!(self.sides[side].link, None, "two links");
                self.sides[side].link = Some(attempt);
                self.adopted += 1;
            }
            Action::Refuse(_) => {}
            // Nothing falls silent here, and nothing rests.
            Action::Restart { .. } | Action::AnswerRestart { .. } | Action::Rest { .. } => {
                panic!("{action:?}")
            }
        }
    }

    fn begin(&mut self, side: usize, attempt: Attempt, session: u64) {
        self.sides[side].connections.insert(attempt, (session, true));
        self.at(
            side,
            10_000..10_001,
            Happening::Ended {
                session,
                unless_verified: true,
            },
        );
    }

    /// Both ends learn of it, in their own time.
    fn close(&mut self, side: usize, attempt: Attempt) {
        if let Some((session, open)) = self.sides[side].connections.get_mut(&attempt)
            && std::mem::replace(open, false)
        {
            let session = *session;
            self.at(
                side,
                1..50,
                Happening::Ended {
                    session,
                    unless_verified: false,
                },
            );
            if self.verified.contains(&(1 - side, session)) {
                self.at(
                    1 - side,
                    1..50,
                    Happening::Ended {
                        session,
                        unless_verified: false,
                    },
                );
            }
        }
    }
}
