//! Two hundred rounds of clients that come and go in every way leave nothing in the server's process.
//!
//! Falsified by a task, a socket or a name that stays. One test in this file: others in the same process would open files of
//! their own.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use common::*;
use futures::SinkExt as _;
use tokio::{io::AsyncWriteExt as _, net::TcpStream, runtime::Handle, time::timeout};
use tokio_tungstenite::tungstenite::Message;

const ROUNDS: u64 = 200;

#[cfg(target_os = "linux")]
#[tokio::test]
async fn two_hundred_rounds_leave_nothing() {
    let mut settings = config();
    // More than an address usually opens.
    settings.limits.connection_burst_per_address = 10_000;
    let server = start(settings).await;
    let used = || {
        let files = std::fs::read_dir("/proc/self/fd").unwrap().count();
        (files, Handle::current().metrics().num_alive_tasks())
    };
    let mut before = None;
    for epoch in 0..20 + ROUNDS {
        if epoch == 20 {
            before = Some(used());
        }
        // Ours, in good order.
        let mut ours = client(&server, "ours", 1, epoch);
        registered(&mut ours).await;
        ours.close().await;
        // One that is dropped; one with its close frame; one in the middle of a frame.
        let mut dropped = Raw::connect(&server).await;
        dropped.prove("dropped", &identity(2), epoch).await;
        drop(dropped);
        let mut polite = Raw::connect(&server).await;
        polite.prove_relay("polite", &identity(3), epoch).await;
        polite.socket.close(None).await.unwrap();
        let mut halfway = Raw::connect(&server).await;
        halfway.socket.feed(Message::Text("{".into())).await.unwrap();
        drop(halfway);
        // Never a WebSocket.
        let mut tcp = TcpStream::connect(server.local_addr()).await.unwrap();
        tcp.write_all(b"GET / HT").await.unwrap();
        drop((polite, tcp));
        let gone = async {
            while server.metrics().connections > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(SOON, gone).await.expect("all sockets to be closed");
    }
    assert_eq!(Some(used()), before, "open files, tasks");
    let metrics = server.metrics();
    assert_eq!((metrics.agents, metrics.relay_agents), (0, 0));
    assert_eq!(metrics.connections_accepted, (20 + ROUNDS) * 5);
}
