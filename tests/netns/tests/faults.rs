//! Falsified by a packet that does not arrive on a whole network, by loss that is far from what was asked for, by a cut that lets
//! packets through or stops others, or by a host that stays cut after it was mended.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

use std::{
    net::UdpSocket,
    time::{Duration, Instant},
};

use ifmesh_testnet::{Cut, Host, Lan, Network};

#[test]
fn packets_arrive_unless_they_are_lost() {
    let (_network, _lan, alice, bob) = two();
    let (from, to) = (socket(&alice, "10.0.0.1:1000"), socket(&bob, "10.0.0.2:2000"));
    assert_eq!(arrivals(&from, &to, 200), 200);
    alice.loss(20.0).unwrap();
    // 2,000 throws: the standard deviation is 0.9 per cent.
    let arrived = arrivals(&from, &to, 2_000);
    assert!((1_500..1_700).contains(&arrived), "{arrived} of 2000");
    bob.loss(20.0).unwrap();
    let arrived = arrivals(&from, &to, 2_000);
    assert!((1_170..1_390).contains(&arrived), "{arrived} of 2000");
    alice.loss(0.0).unwrap();
    bob.loss(0.0).unwrap();
    assert_eq!(arrivals(&from, &to, 200), 200);
}

#[test]
fn a_cut_stops_what_it_names_in_both_directions() {
    let (_network, _lan, alice, bob) = two();
    let (here, there) = (socket(&alice, "10.0.0.1:1000"), socket(&bob, "10.0.0.2:2000"));
    let other = socket(&bob, "10.0.0.2:2001");
    for cut in [Cut::All, Cut::Udp, Cut::UdpPort(2000)] {
        alice.cut(cut).unwrap();
        assert_eq!(arrivals(&here, &there, 3), 0, "{cut:?}");
        assert_eq!(arrivals(&there, &here, 3), 0, "{cut:?}");
        let spared = if matches!(cut, Cut::UdpPort(_)) { 3 } else { 0 };
        assert_eq!(arrivals(&here, &other, 3), spared, "{cut:?}");
        alice.mend().unwrap();
        assert_eq!(arrivals(&here, &there, 3), 3, "{cut:?}");
        assert_eq!(arrivals(&there, &here, 3), 3, "{cut:?}");
    }
    alice.cut(Cut::TcpPort(2000)).unwrap();
    assert_eq!(arrivals(&here, &there, 3), 3);
}

#[test]
fn a_narrow_link_delays_what_it_cannot_lose() {
    let (_network, _lan, alice, bob) = two();
    let (from, to) = (socket(&alice, "10.0.0.1:1000"), socket(&bob, "10.0.0.2:2000"));
    bob.narrow(1_000, Duration::from_millis(500)).unwrap();
    // 30 packets of 1,000 bytes take 240 ms at this rate, less those that pass at once.
    to.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let started = now();
    for _ in 0..30 {
        from.send_to(&[0; 1_000], to.local_addr().unwrap()).unwrap();
    }
    for _ in 0..30 {
        to.recv_from(&mut [0; 1_000]).unwrap();
    }
    let took = started.elapsed();
    assert!(
        (Duration::from_millis(150)..Duration::from_secs(2)).contains(&took),
        "{took:?}"
    );
}

#[test]
fn a_program_runs_on_its_host_under_its_own_process_id() {
    let (_network, _lan, alice, _bob) = two();
    let output = alice
        .command("sh")
        .args(["-c", "echo $$; ip -brief address show dev eth0"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let id = output.id();
    let output = String::from_utf8(output.wait_with_output().unwrap().stdout).unwrap();
    assert!(output.starts_with(&format!("{id}\n")), "{output}");
    assert!(output.contains("10.0.0.1/24"), "{output}");
}

fn two() -> (Network, Lan, Host, Host) {
    let network = Network::new().unwrap();
    let lan = network.lan().unwrap();
    let (alice, bob) = (network.host("alice").unwrap(), network.host("bob").unwrap());
    alice.join(&lan, "10.0.0.1/24").unwrap();
    bob.join(&lan, "10.0.0.2/24").unwrap();
    (network, lan, alice, bob)
}

fn socket(host: &Host, address: &str) -> UdpSocket {
    let _here = host.enter().unwrap();
    UdpSocket::bind(address).unwrap()
}

/// Sends so many packets, one at a time, and says how many arrive.
fn arrivals(from: &UdpSocket, to: &UdpSocket, count: usize) -> usize {
    let mut buffer = [0; 16];
    let mut take = |patience| {
        to.set_read_timeout(Some(patience)).unwrap();
        to.recv_from(&mut buffer).is_ok()
    };
    let mut arrived = 0;
    let address = to.local_addr().unwrap();
    // The receiver's buffer holds 64 of them with ease.
    for sent in 0..count {
        from.send_to(b"packet", address).unwrap();
        if sent % 64 == 63 || sent + 1 == count {
            while take(Duration::from_millis(50)) {
                arrived += 1;
            }
        }
    }
    arrived
}

#[allow(clippy::disallowed_methods, reason = "packets take real time")]
fn now() -> Instant {
    Instant::now()
}

#[test]
fn a_delay_takes_its_time_and_lets_packets_overtake_each_other() {
    const PACKETS: u32 = 200;
    let (least, spread) = (Duration::from_millis(20), Duration::from_millis(15));
    let (_network, _lan, alice, bob) = two();
    let (from, to) = (socket(&alice, "10.0.0.1:1000"), socket(&bob, "10.0.0.2:2000"));
    alice.delay(least, spread, 1).unwrap();
    for (from, to, address) in [(&from, &to, "10.0.0.2:2000"), (&to, &from, "10.0.0.1:1000")] {
        to.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let started = now();
        for number in 0..PACKETS {
            from.send_to(&number.to_be_bytes(), address).unwrap();
        }
        let (mut order, mut buffer) = (Vec::new(), [0; 4]);
        for _ in 0..PACKETS {
            to.recv(&mut buffer).unwrap();
            assert!(started.elapsed() >= least);
            order.push(u32::from_be_bytes(buffer));
        }
        assert!(!order.is_sorted(), "nothing was overtaken");
        order.sort_unstable();
        assert!(order.into_iter().eq(0..PACKETS), "each arrives once");
    }
}
