//! What is thought of a road, step by step. Falsified by traffic that moves without cause, or stays in spite of one.

use std::time::Duration;

use proptest::prelude::*;

use super::health::{Changed, Health, HealthConfig};
use crate::RoadHealth::{self, Degraded, Down, Up};

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A road that was up from the beginning, with a round trip of a millisecond.
fn road() -> Health {
    let mut road = Health::new(HealthConfig::default());
    road.link_up(ms(0), true);
    road.proved(ms(0), ms(1), ms(1));
    road
}

/// Lets time pass as the router does, millisecond by millisecond; `answers` pings after so many milliseconds.
fn pass(road: &mut Health, from: u64, to: u64, answers: Option<u64>) -> Vec<(u64, RoadHealth)> {
    let (mut changes, mut pings, mut nonce) = (Vec::new(), Vec::new(), from * 1_000);
    for now in from..to {
        let mut note = |changed: Option<Changed>| changes.extend(changed.map(|changed| (now, changed.to)));
        pings.retain(|&(at, nonce): &(u64, u64)| {
            let is_back = answers.is_some_and(|after| at + after <= now);
            if is_back {
                note(road.pong(nonce, ms(now)));
            }
            !is_back
        });
        if road.next_timeout().is_some_and(|due| due <= ms(now)) {
            note(road.on_timeout(ms(now), true));
            nonce += 1;
            pings.extend(road.ping(ms(now), || nonce).map(|nonce| (now, nonce)));
        }
    }
    changes
}

#[test]
fn one_overdue_message_moves_nothing_while_the_road_answers() {
    let mut road = road();
    for start in [1_000, 1_100, 1_200] {
        road.overdue(ms(start - 100), ms(start));
        assert_eq!(pass(&mut road, start, start + 100, Some(5)), []);
    }
    assert_eq!(road.verdict(), Up);
}

#[test]
fn silence_degrades_within_grace_and_ends_as_down() {
    let mut road = road();
    road.overdue(ms(900), ms(1_000));
    assert_eq!(
        pass(&mut road, 1_000, 3_000, None),
        [(1_050, Degraded), (1_550, Down)]
    );
}

#[test]
fn word_without_proof_gets_four_times_as_long() {
    let mut road = road();
    road.overdue(ms(900), ms(1_000));
    road.heard(ms(1_001));
    assert_eq!(pass(&mut road, 1_001, 1_400, None), [(1_200, Degraded)]);
}

#[test]
fn a_later_answer_clears_an_earlier_doubt() {
    let mut road = road();
    road.proved(ms(990), ms(1), ms(991));
    road.overdue(ms(900), ms(1_000));
    assert_eq!(pass(&mut road, 1_000, 1_200, None), []);
}

#[test]
fn while_no_other_road_answers_it_is_the_peer_that_is_slow() {
    let mut road = road();
    road.overdue(ms(900), ms(1_000));
    for now in 1_000..1_540 {
        if road.next_timeout().is_some_and(|due| due <= ms(now)) {
            assert_eq!(road.on_timeout(ms(now), false), None);
            road.ping(ms(now), || now);
        }
    }
    assert_eq!(
        road.on_timeout(ms(1_550), false).map(|changed| changed.to),
        Some(Degraded)
    );
}

/// A process that had no CPU for a moment answers by one road first. That is no reason to leave the other.
#[test]
fn a_peer_that_stood_still_has_time_to_answer_by_the_second_road() {
    let judged = |other_answers_at: u64| {
        let mut road = road();
        road.overdue(ms(900), ms(1_000));
        (1_000..3_000).find(|&now| road.on_timeout(ms(now), now >= other_answers_at).is_some())
    };
    assert_eq!(judged(1_005), Some(1_055));
    assert_eq!(judged(1_200), Some(1_400));
    assert_eq!(judged(1_400), Some(1_550));
    assert_eq!(judged(1_540), Some(1_590));
    assert_eq!(judged(3_000), Some(1_550));
}

/// Falsified by timers that stand still: with two doubted roads the third was asked by each in turn, and never pinged.
#[test]
fn of_two_questions_the_latest_counts() {
    let mut road = road();
    road.ask(ms(500));
    assert_eq!(road.ping(ms(500), || 1), Some(1));
    road.ask(ms(540));
    road.ask(ms(500));
    assert_eq!(road.ping(ms(540), || 2), Some(2));
    road.ask(ms(500));
    assert!(road.next_timeout().is_some_and(|due| due > ms(540)));
}

#[test]
fn idle_roads_are_asked_and_found_dead() {
    let mut road = road();
    let changes = pass(&mut road, 1, 4_000, None);
    assert_eq!(
        changes.iter().map(|(_, to)| *to).collect::<Vec<_>>(),
        [Degraded, Down]
    );
    assert!(changes[0].0 <= 1_200, "{changes:?}");
}

#[test]
fn an_idle_road_that_answers_stays_up() {
    let mut road = road();
    assert_eq!(pass(&mut road, 1, 60_000, Some(20)), []);
}

#[test]
fn a_road_that_comes_back_has_to_prove_itself_and_each_failure_makes_that_longer() {
    let mut road = road();
    let mut served = Vec::new();
    let mut now = 1_000;
    for _ in 0..4 {
        assert_eq!(road.link_down(ms(now)).map(|changed| changed.to), Some(Down));
        assert_eq!(
            road.link_up(ms(now + 10), false).map(|changed| changed.to),
            Some(Degraded)
        );
        let changes = pass(&mut road, now + 10, now + 20_000, Some(3));
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert_eq!(changes[0].1, Up);
        served.push(changes[0].0 - now - 10);
        now += 10_000;
    }
    assert!(served[0] >= 1_000 && served[0] < 1_500, "{served:?}");
    assert!(
        served.windows(2).all(|pair| pair[1] > pair[0] * 3 / 2),
        "{served:?}"
    );
}

#[test]
fn probation_begins_anew_with_each_missed_answer() {
    let mut road = road();
    road.link_down(ms(1_000));
    road.link_up(ms(1_010), false);
    // Answers stop before the time is served: no way up.
    assert_eq!(pass(&mut road, 1_010, 1_800, Some(3)), []);
    let changes = pass(&mut road, 1_800, 8_000, None);
    assert!(changes.iter().all(|(_, to)| *to == Down), "{changes:?}");
}

#[test]
fn from_degraded_any_proof_leads_back_from_down_only_probation() {
    let mut degraded = road();
    degraded.overdue(ms(900), ms(1_000));
    assert_eq!(pass(&mut degraded, 1_000, 1_100, None), [(1_050, Degraded)]);
    assert_eq!(
        degraded
            .proved(ms(1_090), ms(5), ms(1_100))
            .map(|changed| changed.to),
        Some(Up)
    );

    let mut down = road();
    down.overdue(ms(900), ms(1_000));
    pass(&mut down, 1_000, 1_600, None);
    assert_eq!(down.verdict(), Down);
    assert_eq!(down.proved(ms(1_590), ms(5), ms(1_600)), None);
    let changes = pass(&mut down, 1_600, 10_000, Some(2));
    assert_eq!(
        changes.iter().map(|(_, to)| *to).collect::<Vec<_>>(),
        [Degraded, Up]
    );
}

/// Falsified by a road that was called down beside another one, and stays so when it is the only one and carries everything.
#[test]
fn the_last_road_is_taken_at_its_word() {
    let mut road = road();
    road.overdue(ms(900), ms(1_000));
    pass(&mut road, 1_000, 1_600, None);
    assert_eq!(road.verdict(), Down);
    assert_eq!(road.is_alone().map(|changed| changed.to), Some(Up));
    road.link_down(ms(2_000));
    assert_eq!(road.is_alone(), None);
}

#[test]
fn a_standstill_of_this_process_is_nobody_elses_fault() {
    let mut road = road();
    road.overdue(ms(900), ms(1_000));
    road.on_timeout(ms(1_000), true);
    road.ping(ms(1_000), || 7);
    // Nothing ran for 300 ms. The pong waits to be read.
    road.stood_still(ms(250));
    assert_eq!(road.on_timeout(ms(1_290), true), None);
    assert_eq!(road.pong(7, ms(1_291)), None);
    assert_eq!(pass(&mut road, 1_291, 1_400, Some(1)), []);
}

proptest! {
    /// Whatever happens, no time is asked for twice in vain: a timer that is due and changes nothing would be due for ever.
    #[test]
    fn time_never_stands_still(facts in prop::collection::vec((0..6_u8, 0..700_u64), 1..60)) {
        let mut road = Health::new(HealthConfig::default());
        let (mut now, mut nonce, mut asked) = (0, 0, Vec::new());
        for (fact, wait) in facts {
            let until = now + wait;
            for _ in 0..10_000 {
                let Some(due) = road.next_timeout().filter(|due| *due <= ms(until)) else { break };
                now = now.max(due.as_millis() as u64 + u64::from(due.subsec_nanos() % 1_000_000 > 0));
                road.on_timeout(ms(now), wait % 3 == 0);
                nonce += 1;
                asked.extend(road.ping(ms(now), || nonce).map(|nonce| (now, nonce)));
                prop_assert!(road.next_timeout().is_none_or(|due| due > ms(now)), "{road:?} at {now}");
            }
            now = until;
            match fact {
                0 => _ = road.link_up(ms(now), wait % 2 == 0),
                1 => _ = road.link_down(ms(now)),
                2 => road.heard(ms(now)),
                3 => road.overdue(ms(now.saturating_sub(wait)), ms(now)),
                4 => _ = road.proved(ms(now.saturating_sub(wait)), ms(wait), ms(now)),
                _ => if let Some((_, nonce)) = asked.pop() {
                    road.pong(nonce, ms(now));
                },
            }
        }
    }

    /// Whatever happened, a road that has a link and answers can be used within two keepalives, and is trusted at the latest after
    /// the longest probation. Falsified by one that was called down on probation, and whose answers then led nowhere.
    #[test]
    fn a_road_that_answers_is_not_called_down_for_long(facts in prop::collection::vec((0..5_u8, 0..2_000_u64), 1..30)) {
        let mut road = road();
        let mut now = 2_u64;
        for (fact, wait) in facts {
            match fact {
                0 => road.overdue(ms(now.saturating_sub(wait)), ms(now)),
                1 => {
                    road.link_down(ms(now));
                    road.link_up(ms(now), false);
                }
                _ => for start in (now..now + wait).step_by(100) {
                    let one_direction_is_dead = fact == 2;
                    if one_direction_is_dead {
                        road.heard(ms(start));
                    }
                    pass(&mut road, start, start + 100, (fact == 3).then_some(20));
                    now = start + 100;
                },
            }
            let mut answers = road.clone();
            pass(&mut answers, now, now + 2_000, Some(1));
            prop_assert_ne!(answers.verdict(), Down);
        }
        pass(&mut road, now, now + 80_000, Some(1));
        prop_assert_eq!(road.verdict(), Up);
    }
}
