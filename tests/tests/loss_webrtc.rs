//! Two real agents over WebRTC, on a network that loses 1, 5 and 20 per cent of all packets each way, on a narrow one whose queue
//! makes every packet wait for another time, on one where packets take 20 ms and up to 15 ms more or less and so overtake each
//! other, on one that is dead for three seconds, and on one on which one of the two gets another address.
//!
//! Falsified by a reliable message that does not arrive, arrives twice or out of order, or is not acknowledged.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

use std::{cell::Cell, time::Duration};

use ifmesh_testnet::{Cut, Host};
use ifmesh_tests::{
    internet::{Internet, now},
    program::PATIENCE,
    traffic::Application,
};

/// Two packets each. They are sent in bursts of ten, both ways.
const LENGTH: usize = 2_000;

#[test]
fn everything_arrives_once_at_one_per_cent_loss() {
    exchange(300, |host| host.loss(1.0).unwrap(), |_, _| {});
}

#[test]
fn everything_arrives_once_at_five_per_cent_loss() {
    exchange(150, |host| host.loss(5.0).unwrap(), |_, _| {});
}

#[test]
fn everything_arrives_once_at_twenty_per_cent_loss() {
    exchange(20, |host| host.loss(20.0).unwrap(), |_, _| {});
}

#[test]
fn everything_arrives_once_through_a_narrow_link_with_jitter_and_loss() {
    exchange(
        300,
        |host| {
            host.narrow(4_000, Duration::from_millis(100)).unwrap();
            host.loss(1.0).unwrap();
        },
        |_, _| {},
    );
}

#[test]
fn everything_arrives_once_and_in_order_where_packets_overtake_each_other() {
    exchange(
        300,
        |host| {
            let (least, spread) = (Duration::from_millis(5), Duration::from_millis(30));
            host.delay(least, spread, 1).unwrap();
            host.loss(1.0).unwrap();
        },
        |_, _| {},
    );
}

#[test]
fn everything_arrives_once_when_the_network_is_dead_for_three_seconds() {
    exchange(
        300,
        |_| {},
        |[host, _], elapsed| {
            if (Duration::from_millis(500)..Duration::from_millis(3_500)).contains(&elapsed) {
                host.cut(Cut::All).unwrap();
            } else {
                host.mend().unwrap();
            }
        },
    );
}

#[test]
fn everything_arrives_once_when_the_address_changes_of_who_answers() {
    let moved = Cell::new(false);
    exchange(300, |_| {}, |[host, _], elapsed| readdress(host, elapsed, &moved));
}

#[test]
fn everything_arrives_once_when_the_address_changes_of_who_offers() {
    let moved = Cell::new(false);
    exchange(300, |_| {}, |[_, host], elapsed| readdress(host, elapsed, &moved));
}

/// Once, after half a second. The agent's connections die with the address, to its peer and to the signaling server.
///
/// Measured on two busy cores, from the change until everything was acknowledged: 4.9 to 5.9 s by the same link in six runs (2.5 s
/// until the link is called silent, 2 s until the server's socket is called dead); 33 s and a new link when the server's socket
/// was not doubted.
fn readdress(host: &Host, elapsed: Duration, moved: &Cell<bool>) {
    if elapsed > Duration::from_millis(500) && !moved.replace(true) {
        host.readdress("eth0", "203.0.113.21/24").unwrap();
    }
}

/// Spoils the network once the link is up; `meanwhile` is called all the time, with the time since then.
fn exchange(messages: usize, spoil: impl FnOnce(&Host), meanwhile: impl Fn(&[Host; 2], Duration)) {
    let internet = Internet::new(&["one", "other"]);
    let _signaling = internet.signaling();
    let hosts = [internet.public("one", 11), internet.public("other", 12)];
    let mut one = Application::new("one", "other", internet.agent(&hosts[0], "one"));
    let mut other = Application::new("other", "one", internet.agent(&hosts[1], "other"));
    while one.ups() == 0 || other.ups() == 0 {
        one.listen(Duration::from_millis(10));
        other.listen(Duration::from_millis(10));
    }
    spoil(&hosts[0]);
    let started = now();
    let mut bursts = 0;
    let done = |one: &Application, other: &Application| {
        one.is_done() && other.is_done() && one.has_all_of(other) && other.has_all_of(one)
    };
    while bursts < messages / 10 || !done(&one, &other) {
        if bursts < messages / 10 {
            bursts += 1;
            for _ in 0..10 {
                one.send(LENGTH);
                other.send(LENGTH);
            }
        }
        meanwhile(&hosts, started.elapsed());
        one.listen(Duration::from_millis(10));
        other.listen(Duration::from_millis(10));
        let progress = (one.progress(), other.progress());
        assert!(started.elapsed() < 2 * PATIENCE, "not done in time: {progress:?}");
    }
    assert_eq!((one.judge(&other, &[]), other.judge(&one, &[])), (0, 0));
    println!(
        "{} messages each way in {:.1} s, {} links",
        messages,
        started.elapsed().as_secs_f64(),
        one.ups()
    );
}
