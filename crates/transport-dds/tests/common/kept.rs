//! How much memory a sender takes for what it has sent.

use bytes::Bytes;
use ifmsg::Destination;

use super::*;

const FRAME: usize = 16 << 10;
const FRAMES: usize = 8_192;
/// May be kept of the 128 MiB that are sent.
pub(crate) const KEPT: usize = 64 << 20;
/// The reader's thousand samples, windows, queues, and what the allocator has not given back.
const MORE: usize = 40 << 20;

/// Sends 128 MiB with [`KEPT`] of `kept_bytes`. The process must not grow by more than `kept` and what everything else takes, so
/// nothing else may run in it.
pub(crate) async fn keeps_no_more(to: Destination, kept: usize) -> Arc<DdsTransport> {
    let mut processes = Processes::new(1);
    let mut config = processes.net.config(0);
    config.limits.kept_bytes = KEPT;
    let alice = processes.start_with(0, "alice", 1, config).await;
    let bob = processes.start(0, "bob", 1).await;
    up(&*alice, "bob").await;
    up(&*bob, "alice").await;
    exchange(&alice, &bob).await;
    let before = resident_kb();
    let sender = tokio::spawn(async move {
        for _ in 0..FRAMES {
            // Its own memory for each, as of a real sender.
            let envelope = Envelope::new(to.clone(), Lane::Reliable, Bytes::from(vec![7; FRAME]));
            alice.send(envelope).await.unwrap();
        }
        alice
    });
    let (mut came, mut most) = (0, before);
    while came < FRAMES {
        if let TransportEvent::Frame { frame, .. } = bob.recv().await.unwrap() {
            assert_eq!(frame.len(), FRAME);
            came += 1;
        }
        if came % 64 == 0 {
            most = most.max(resident_kb());
        }
    }
    eprintln!("{before} kB resident before, {most} at most");
    assert!((most - before) << 10 < kept + MORE, "{before} kB became {most}");
    sender.await.unwrap()
}
