//! Falsified by a thread that still reaches the machine's own network after [`isolate`], by multicast that does not come back
//! over loopback, by two threads that share a network, or by a thread that is not put back.
#![cfg(target_os = "linux")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test ends where something is wrong"
)]

use std::{
    net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use ifmesh_testnet::isolate;

#[test]
fn each_thread_has_a_loopback_of_its_own() {
    let outside = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = outside.local_addr().unwrap().port();
    TcpStream::connect(("127.0.0.1", port)).unwrap();
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(move || {
                let _network = isolate().unwrap();
                TcpStream::connect(("127.0.0.1", port)).unwrap_err();
                // Both threads take the same port, and so would a program that they start.
                let here = TcpListener::bind(("127.0.0.1", port)).unwrap();
                thread::spawn(move || TcpStream::connect(("127.0.0.1", port)).unwrap())
                    .join()
                    .unwrap();
                drop(here);
            });
        }
    });
}

#[test]
fn nothing_else_is_reached_and_leaving_restores() {
    let before = interfaces();
    {
        let _network = isolate().unwrap();
        assert_eq!(interfaces(), ["lo"]);
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"out", "192.0.2.1:9").unwrap_err();
    }
    assert_eq!(interfaces(), before);
}

#[test]
fn multicast_comes_back_over_loopback() {
    let _network = isolate().unwrap();
    let group = Ipv4Addr::new(239, 255, 0, 1);
    let receiver = UdpSocket::bind(("0.0.0.0", 7400)).unwrap();
    receiver.join_multicast_v4(&group, &Ipv4Addr::LOCALHOST).unwrap();
    receiver.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    let sender = UdpSocket::bind("0.0.0.0:0").unwrap();
    sender.send_to(b"spdp", (group, 7400)).unwrap();
    let mut buffer = [0; 16];
    let (length, _) = receiver.recv_from(&mut buffer).unwrap();
    assert_eq!(&buffer[..length], b"spdp");
}

fn interfaces() -> Vec<String> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
    let names = table.lines().skip(2).filter_map(|line| line.split(':').next());
    let mut names: Vec<_> = names.map(|name| name.trim().to_owned()).collect();
    names.sort();
    names
}
