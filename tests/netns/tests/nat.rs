//! Each kind of NAT maps and filters as RFC 4787 describes it, asked as RFC 5780 asks: from one inside socket to three outside ones, two
//! of them at one address.
//!
//! Falsified by a kind that lets in what it must keep out, keeps out what it must let in, or shows one outside port where it
//! must show several or the reverse.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use ifmesh_testnet::{Cut, Host, NatKind, Network};

/// What the outside sees of one inside socket that has sent to the first outside socket alone, and then to the others.
#[derive(Debug, PartialEq, Eq)]
struct Behaviour {
    /// Who gets in before anything was sent to them: the first's other port, and the other address.
    same_address: bool,
    other_address: bool,
    /// Whether all see the same outside port.
    one_port: bool,
}

#[test]
fn each_kind_maps_and_filters_by_its_name() {
    for (kind, same_address, other_address, one_port) in [
        (NatKind::FullCone, true, true, true),
        (NatKind::AddressRestricted, true, false, true),
        (NatKind::PortRestricted, false, false, true),
        (NatKind::Symmetric, false, false, false),
    ] {
        let expected = Behaviour {
            same_address,
            other_address,
            one_port,
        };
        assert_eq!(behaviour(kind), expected, "{kind:?}");
    }
}

#[test]
fn without_udp_nothing_passes_and_tcp_does() {
    let network = Network::new().unwrap();
    let (server, nat, laptop) = behind(&network, NatKind::PortRestricted);
    nat.cut(Cut::Udp).unwrap();
    let (inside, outside) = (
        socket(&laptop, "10.0.0.2:5000"),
        socket(&server, "203.0.113.10:1"),
    );
    assert_eq!(exchange(&inside, &outside, outside.local_addr().unwrap()), None);
    let listener = {
        let _there = server.enter().unwrap();
        std::net::TcpListener::bind("203.0.113.10:443").unwrap()
    };
    let _here = laptop.enter().unwrap();
    std::net::TcpStream::connect_timeout(&listener.local_addr().unwrap(), Duration::from_secs(5)).unwrap();
}

fn behaviour(kind: NatKind) -> Behaviour {
    let network = Network::new().unwrap();
    let (server, _nat, laptop) = behind(&network, kind);
    let inside = socket(&laptop, "10.0.0.2:5000");
    let [first, same, other] =
        ["203.0.113.10:1", "203.0.113.10:2", "203.0.113.11:1"].map(|address| socket(&server, address));

    let seen = exchange(&inside, &first, first.local_addr().unwrap()).expect("what goes out arrives");
    assert_eq!(seen.ip(), Ipv4Addr::new(203, 0, 113, 2));
    assert!(
        exchange(&first, &inside, seen).is_some(),
        "who was asked may answer"
    );

    let same_address = exchange(&same, &inside, seen).is_some();
    let other_address = exchange(&other, &inside, seen).is_some();
    let ports = [&first, &same, &other].map(|outside| {
        let seen = exchange(&inside, outside, outside.local_addr().unwrap()).expect("what goes out arrives");
        assert!(
            exchange(outside, &inside, seen).is_some(),
            "who was asked may answer"
        );
        seen.port()
    });
    Behaviour {
        same_address,
        other_address,
        one_port: ports.iter().all(|port| *port == seen.port()),
    }
}

/// A server with two addresses, a NAT, and a laptop behind it.
fn behind(network: &Network, kind: NatKind) -> (Host, Host, Host) {
    let (internet, home) = (network.lan().unwrap(), network.lan().unwrap());
    let server = network.host("server").unwrap();
    server.join(&internet, "203.0.113.10/24").unwrap();
    server.join(&internet, "203.0.113.11/24").unwrap();
    let nat = network
        .nat("nat", kind, (&internet, "203.0.113.2/24"), (&home, "10.0.0.1/24"))
        .unwrap();
    let laptop = network.host("laptop").unwrap();
    laptop.join(&home, "10.0.0.2/24").unwrap();
    laptop.route("default", "10.0.0.1").unwrap();
    (server, nat, laptop)
}

fn socket(host: &Host, address: &str) -> UdpSocket {
    let _here = host.enter().unwrap();
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    socket
}

/// Sends one packet, and says from where it came if it arrives.
fn exchange(from: &UdpSocket, to: &UdpSocket, address: SocketAddr) -> Option<SocketAddr> {
    from.send_to(b"hole", address).unwrap();
    let mut buffer = [0; 16];
    to.recv_from(&mut buffer).ok().map(|(_, sender)| sender)
}
