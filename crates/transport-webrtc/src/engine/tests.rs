//! Two engines on loopback. Each test names what would falsify it.

use super::*;
use tokio::time::{Instant, timeout};

const PATIENCE: Duration = Duration::from_secs(20);

fn loopback() -> EngineConfig {
    EngineConfig {
        bind: vec![SocketAddr::from(([127, 0, 0, 1], 0))],
        ..EngineConfig::default()
    }
}

struct End {
    peer: Peer,
    events: mpsc::Receiver<PeerEvent>,
}

impl End {
    async fn next(&mut self) -> PeerEvent {
        timeout(PATIENCE, self.events.recv())
            .await
            .expect("an event in time")
            .expect("a pump that runs")
    }

    /// The next frame, whatever else happens.
    async fn frame(&mut self) -> (Lane, Bytes) {
        loop {
            match self.next().await {
                PeerEvent::Frame(lane, frame) => return (lane, frame),
                PeerEvent::Closed(reason) => panic!("closed: {reason:?}"),
                _ => {}
            }
        }
    }

    async fn closed(&mut self) -> CloseReason {
        loop {
            if let PeerEvent::Closed(reason) = self.next().await {
                return reason;
            }
        }
    }
}

/// Negotiated, not yet open: (offering, answering).
async fn negotiated(config: &EngineConfig) -> (End, End) {
    let (to_a, a_events) = mpsc::channel(64);
    let (to_b, b_events) = mpsc::channel(64);
    let (a, offer) = Peer::offer(config, to_a).await.expect("an offer");
    let (b, answer) = Peer::answer(config, &offer.sdp, to_b).await.expect("an answer");
    a.accept_answer(&answer.sdp).await.expect("an accepted answer");
    (
        End {
            peer: a,
            events: a_events,
        },
        End {
            peer: b,
            events: b_events,
        },
    )
}

async fn connected(config: &EngineConfig) -> (End, End) {
    let (mut a, mut b) = negotiated(config).await;
    let End {
        peer: a_peer,
        events: a_events,
    } = &mut a;
    let End {
        peer: b_peer,
        events: b_events,
    } = &mut b;
    tokio::join!(open(a_events, b_peer), open(b_events, a_peer));
    (a, b)
}

async fn open(events: &mut mpsc::Receiver<PeerEvent>, other: &Peer) {
    let mut open = 0;
    while open < 2 {
        match timeout(PATIENCE, events.recv())
            .await
            .expect("an event in time")
            .expect("a pump that runs")
        {
            PeerEvent::LocalCandidate(candidate) => {
                other.add_candidate(candidate).await.expect("a good candidate")
            }
            PeerEvent::ChannelOpen(_) => open += 1,
            PeerEvent::Closed(reason) => panic!("closed: {reason:?}"),
            _ => {}
        }
    }
}

/// Until the other side has acknowledged everything on the messaging lane.
async fn acknowledged(peer: &Peer) {
    let all = async {
        while peer.buffered_amount(Lane::Messaging).await > 0 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(PATIENCE, all).await.expect("acknowledgements in time");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn opens_and_carries_a_frame_each_way() {
    let started = Instant::now();
    let (mut a, mut b) = connected(&loopback()).await;
    eprintln!("open after {:?}", started.elapsed());
    a.peer
        .send(Lane::Messaging, Bytes::from_static(b"ping"))
        .await
        .unwrap();
    assert_eq!(b.frame().await, (Lane::Messaging, Bytes::from_static(b"ping")));
    b.peer
        .send(Lane::BestEffort, Bytes::from_static(b"pong"))
        .await
        .unwrap();
    assert_eq!(a.frame().await, (Lane::BestEffort, Bytes::from_static(b"pong")));
    a.peer.close().await;
    assert_eq!(b.closed().await, CloseReason::Remote);
}

/// 10,000 frames each way at once. Falsified by a stall (webrtc parks streams at 256 unread messages), a loss, a reordering.
async fn flood(size: usize, count: u32) -> Duration {
    let (a, b) = connected(&loopback()).await;
    let started = Instant::now();
    let mut longest = Duration::ZERO;
    let (a_peer, b_peer) = (Arc::new(a.peer), Arc::new(b.peer));
    let mut tasks = Vec::new();
    for (peer, mut events) in [(Arc::clone(&a_peer), b.events), (Arc::clone(&b_peer), a.events)] {
        tasks.push(tokio::spawn(async move {
            for n in 0..count {
                let mut frame = BytesMut::zeroed(size);
                let len = size.min(4);
                frame[..len].copy_from_slice(&n.to_be_bytes()[4 - len..]);
                peer.send(Lane::Messaging, frame.freeze()).await.unwrap();
            }
            Duration::ZERO
        }));
        tasks.push(tokio::spawn(async move {
            let mut longest = Duration::ZERO;
            let mut last = Instant::now();
            for n in 0..count {
                let frame = loop {
                    match timeout(PATIENCE, events.recv())
                        .await
                        .expect("no stall")
                        .expect("open")
                    {
                        PeerEvent::Frame(_, frame) => break frame,
                        PeerEvent::Closed(reason) => panic!("closed: {reason:?}"),
                        _ => {}
                    }
                };
                longest = longest.max(last.elapsed());
                last = Instant::now();
                let len = size.min(4);
                assert_eq!(frame.len(), size);
                assert_eq!(frame[..len], n.to_be_bytes()[4 - len..], "in order");
            }
            longest
        }));
    }
    for task in tasks {
        longest = longest.max(task.await.unwrap());
    }
    eprintln!(
        "{count} x {size} B each way in {:?}, longest gap {longest:?}",
        started.elapsed()
    );
    longest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_small_frames_each_way_without_a_stall() {
    assert!(flood(300, 10_000).await < Duration::from_millis(500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_one_byte_frames_does_not_stall() {
    assert!(flood(1, 10_000).await < Duration::from_millis(500));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_of_200_kib_comes_back_whole() {
    let config = EngineConfig {
        max_message_size: MAX_MESSAGE_SIZE,
        ..loopback()
    };
    let (mut a, mut b) = connected(&config).await;
    let frame: Bytes = (0..200 * 1024_u32).map(|n| (n % 251) as u8).collect();
    a.peer.send(Lane::Messaging, frame.clone()).await.unwrap();
    let (_, echo) = b.frame().await;
    b.peer.send(Lane::Messaging, echo).await.unwrap();
    assert!(a.frame().await.1 == frame);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_above_the_smaller_limit_is_refused_by_the_sender() {
    let (to_a, a_events) = mpsc::channel(64);
    let (to_b, b_events) = mpsc::channel(64);
    let large = EngineConfig {
        max_message_size: MAX_MESSAGE_SIZE,
        ..loopback()
    };
    let (a, offer) = Peer::offer(&large, to_a).await.unwrap();
    let (b, answer) = Peer::answer(&loopback(), &offer.sdp, to_b).await.unwrap();
    a.accept_answer(&answer.sdp).await.unwrap();
    let (mut a_events, mut b_events) = (a_events, b_events);
    tokio::join!(open(&mut a_events, &b), open(&mut b_events, &a));
    assert_eq!(a.max_frame(), 65_536);
    let refused = a.send(Lane::Messaging, Bytes::from(vec![0; 65_537])).await;
    assert_eq!(
        refused,
        Err(EngineError::TooLarge {
            size: 65_537,
            limit: 65_536
        })
    );
    a.send(Lane::Messaging, Bytes::from(vec![0; 65_536]))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_sent_before_the_channel_is_open() {
    let (to_a, _a_events) = mpsc::channel(64);
    let (a, _offer) = Peer::offer(&loopback(), to_a).await.unwrap();
    assert_eq!(
        a.send(Lane::Messaging, Bytes::new()).await,
        Err(EngineError::NotOpen(Lane::Messaging))
    );
    assert_eq!(
        a.try_send(Lane::BestEffort, Bytes::new()).await,
        Err(EngineError::NotOpen(Lane::BestEffort))
    );
    a.close().await;
    assert_eq!(
        a.send(Lane::Messaging, Bytes::new()).await,
        Err(EngineError::Closed)
    );
}

/// Falsified when DTLS accepts a certificate that the description did not announce.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_was_not_announced_is_refused() {
    let config = EngineConfig {
        setup_timeout: Duration::from_secs(1),
        ..loopback()
    };
    let (to_a, mut a_events) = mpsc::channel(64);
    let (to_b, mut b_events) = mpsc::channel(64);
    let (a, offer) = Peer::offer(&config, to_a).await.unwrap();
    let (b, answer) = Peer::answer(&EngineConfig::default(), &offer.sdp, to_b)
        .await
        .unwrap();
    // The same answer, ICE credentials and all, with one digit of the fingerprint changed.
    let at = answer.sdp.find("sha-256 ").unwrap() + "sha-256 ".len();
    let digit = if answer.sdp.as_bytes()[at] == b'0' {
        "1"
    } else {
        "0"
    };
    let forged = format!("{}{digit}{}", &answer.sdp[..at], &answer.sdp[at + 1..]);
    a.accept_answer(&forged).await.unwrap();

    let started = Instant::now();
    let reason = loop {
        tokio::select! {
            event = a_events.recv() => match event.expect("open") {
                PeerEvent::LocalCandidate(candidate) => b.add_candidate(candidate).await.unwrap(),
                PeerEvent::Closed(reason) => break reason,
                PeerEvent::ChannelOpen(_) | PeerEvent::Frame(..) => panic!("accepted"),
                _ => {}
            },
            event = b_events.recv() => match event {
                Some(PeerEvent::LocalCandidate(candidate)) => a.add_candidate(candidate).await.unwrap(),
                Some(PeerEvent::ChannelOpen(_)) => panic!("opened on the other side"),
                None => panic!("the other side's pump is gone without a word"),
                _ => {}
            },
            () = tokio::time::sleep(PATIENCE) => panic!("neither accepted nor refused"),
        }
    };
    assert_eq!(reason, CloseReason::Failed);
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(a.remote_fingerprint(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn both_sides_know_both_certificates() {
    let (a, b) = connected(&loopback()).await;
    assert_eq!(a.peer.remote_fingerprint(), Some(b.peer.local_fingerprint()));
    assert_eq!(b.peer.remote_fingerprint(), Some(a.peer.local_fingerprint()));
    assert_ne!(a.peer.local_fingerprint(), b.peer.local_fingerprint());
    let path = a.peer.path().await.unwrap();
    assert!(
        path.local.contains(" udp 127.0.0.1:") && !path.relayed,
        "{path:?}"
    );
    assert!(path.remote.contains(" udp 127.0.0.1:"), "{path:?}");
    let round_trip = a.peer.round_trip().await.expect("a measured round trip");
    assert!(round_trip < Duration::from_secs(1), "{round_trip:?}");
}

/// Falsified by a restart that loses or repeats what was on its way, needs longer than a connection that is made anew, or works
/// for only one of the sides.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_after_a_change_of_network_keeps_what_was_sent() {
    let faults = Faults::new(1);
    let config = EngineConfig {
        faults: Some(Arc::clone(&faults)),
        disconnected_after: Duration::from_millis(400),
        ..loopback()
    };
    let (mut a, mut b) = connected(&config).await;
    for round in 0..4_u32 {
        faults.change_network();
        for (from, n) in [(&a, 2 * round), (&b, 2 * round + 1)] {
            let frame = Bytes::copy_from_slice(&n.to_be_bytes());
            from.peer.send(Lane::Messaging, frame).await.unwrap();
        }
        // The side that offered in the beginning, and the other one, in turns.
        let (first, second) = if round % 2 == 0 {
            (&mut a, &mut b)
        } else {
            (&mut b, &mut a)
        };
        loop {
            match first.next().await {
                PeerEvent::State(LinkState::Disconnected) => break,
                PeerEvent::Closed(reason) => panic!("closed: {reason:?}"),
                _ => {}
            }
        }
        let started = Instant::now();
        let offer = first.peer.restart(&config).await.unwrap();
        let answer = second.peer.follow_restart(&config, &offer.sdp).await.unwrap();
        first.peer.accept_restart(&answer.sdp).await.unwrap();
        let mut frames = [Vec::new(), Vec::new()];
        let both = async {
            while frames.iter().any(Vec::is_empty) {
                let (event, from) = tokio::select! {
                    event = first.events.recv() => (event, 0),
                    event = second.events.recv() => (event, 1),
                };
                match event.expect("a pump that runs") {
                    PeerEvent::LocalCandidate(candidate) => {
                        let to = if from == 0 { &second.peer } else { &first.peer };
                        let _ = to.add_candidate(candidate).await;
                    }
                    PeerEvent::Frame(_, frame) => frames[from].push(frame),
                    PeerEvent::Closed(reason) => panic!("closed: {reason:?}"),
                    _ => {}
                }
            }
        };
        timeout(PATIENCE, both).await.expect("what was sent, in time");
        eprintln!("round {round}: {:?} after the restart", started.elapsed());
        let sent = |n: u32| vec![Bytes::copy_from_slice(&n.to_be_bytes())];
        let (from_a, from_b) = (sent(2 * round), sent(2 * round + 1));
        let expected = if round % 2 == 0 {
            [from_b, from_a]
        } else {
            [from_a, from_b]
        };
        assert_eq!(frames, expected);
    }
}

/// Falsified by a restart that lets in another certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_by_somebody_else_is_refused() {
    let (a, b) = connected(&loopback()).await;
    let (to_c, _events) = mpsc::channel(64);
    let (_c, offer) = Peer::offer(&loopback(), to_c).await.unwrap();
    let refused = b.peer.follow_restart(&loopback(), &offer.sdp).await;
    assert!(matches!(refused, Err(EngineError::Description(_))), "{refused:?}");
    let frame = Bytes::from_static(b"still here");
    a.peer.send(Lane::Messaging, frame.clone()).await.unwrap();
    let mut b = b;
    assert_eq!(b.frame().await.1, frame);
}

/// Falsified when the other side learns of it by a time-out only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_is_noticed_at_once_and_loses_nothing() {
    let (a, mut b) = connected(&loopback()).await;
    for n in 0..200_u32 {
        a.peer
            .send(Lane::Messaging, Bytes::copy_from_slice(&n.to_be_bytes()))
            .await
            .unwrap();
    }
    a.peer.close().await;
    let started = Instant::now();
    for n in 0..200_u32 {
        assert_eq!(b.frame().await.1, Bytes::copy_from_slice(&n.to_be_bytes()));
    }
    assert_eq!(b.closed().await, CloseReason::Remote);
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(
        b.peer.send(Lane::Messaging, Bytes::new()).await,
        Err(EngineError::Closed)
    );
    a.peer.close().await;
}

/// Falsified by a goodbye that is given up because the socket, or a busy machine, does not take it within 100 ms: the other side
/// would see a connection that failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_goodbye_waits_for_a_socket_that_is_full() {
    let faults = Faults::new(0);
    let (a, mut b) = connected(&EngineConfig {
        faults: Some(Arc::clone(&faults)),
        ..loopback()
    })
    .await;
    faults.hold(Duration::from_millis(300));
    a.peer.close().await;
    assert_eq!(b.closed().await, CloseReason::Remote);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_peer_is_noticed_at_once() {
    let (a, mut b) = connected(&loopback()).await;
    drop(a);
    let started = Instant::now();
    assert_eq!(b.closed().await, CloseReason::Remote);
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
}

/// The peer's process dies: its tasks and sockets vanish without a word.
#[test]
fn a_killed_peer_is_noticed_within_four_seconds() {
    let runtime = || {
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap()
    };
    let (ours, theirs) = (runtime(), runtime());
    ours.block_on(async {
        let config = loopback();
        let (to_a, mut a_events) = mpsc::channel(64);
        let (to_b, mut b_events) = mpsc::channel(64);
        let (a, offer) = Peer::offer(&config, to_a).await.unwrap();
        let b_config = config.clone();
        let (b, answer) = theirs
            .spawn(async move { Box::pin(Peer::answer(&b_config, &offer.sdp, to_b)).await })
            .await
            .unwrap()
            .unwrap();
        a.accept_answer(&answer.sdp).await.unwrap();
        tokio::join!(open(&mut a_events, &b), open(&mut b_events, &a));

        theirs.shutdown_background();
        let started = Instant::now();
        let noticed = loop {
            match timeout(PATIENCE, a_events.recv()).await.unwrap().unwrap() {
                PeerEvent::State(LinkState::Disconnected) => break started.elapsed(),
                PeerEvent::Closed(reason) => panic!("closed: {reason:?}"),
                _ => {}
            }
        };
        eprintln!("disconnected after {noticed:?}");
        assert!(noticed < Duration::from_secs(4), "{noticed:?}");
        let reason = loop {
            if let PeerEvent::Closed(reason) = timeout(PATIENCE, a_events.recv()).await.unwrap().unwrap() {
                break reason;
            }
        };
        eprintln!("closed after {:?}", started.elapsed());
        assert_eq!(reason, CloseReason::Failed);
        // Returns although the peer acknowledges nothing any more.
        timeout(Duration::from_secs(2), a.close()).await.unwrap();
    });
}

/// Falsified by a task, socket or timer that survives its connection. Other tests open descriptors, too, so the counting is
/// done in a process of its own.
#[test]
fn thirty_connections_leave_nothing_behind() {
    const NAME: &str = "engine::tests::thirty_connections_leave_nothing_behind";
    const CHILD: &str = "IFMESH_TEST_COUNTS_DESCRIPTORS";
    if std::env::var_os(CHILD).is_none() {
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(CHILD, "1")
            .output()
            .unwrap();
        assert!(
            child.status.success(),
            "{}",
            String::from_utf8_lossy(&child.stderr)
        );
        return;
    }

    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let cycle = async || {
        let (a, mut b) = connected(&loopback()).await;
        a.peer
            .send(Lane::Messaging, Bytes::from_static(b"hello"))
            .await
            .unwrap();
        b.frame().await;
        a.peer.close().await;
        // One side closes, the other one learns of it and is merely dropped.
        assert_eq!(b.closed().await, CloseReason::Remote);
    };
    runtime.block_on(async {
        let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
        let descriptors = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        cycle().await;
        // The first cycle's tasks may still be leaving, which only makes these larger by a few.
        let before = (tasks(), descriptors());
        for _ in 0..30 {
            cycle().await;
        }
        let left = async {
            while tasks() > before.0 || descriptors() > before.1 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let settled = timeout(PATIENCE, left).await.is_ok();
        assert!(
            settled,
            "{} tasks and {} descriptors, before {before:?}",
            tasks(),
            descriptors()
        );
    });
}

/// webrtc parks what comes when 256 messages are unread, and takes it up again when a datagram happens to arrive. Here only
/// keepalives could, every 5 s: falsified when one of them is what it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_parked_flows_as_soon_as_it_is_read() {
    const COUNT: u32 = 5_000;
    let config = EngineConfig {
        keepalive: Duration::from_secs(5),
        disconnected_after: Duration::from_secs(20),
        ..loopback()
    };
    let (a, mut b) = connected(&config).await;
    // An acknowledgement that is still due would be such a datagram.
    b.peer
        .send(Lane::Messaging, Bytes::from_static(b"acknowledge me"))
        .await
        .unwrap();
    acknowledged(&b.peer).await;
    for n in 0..COUNT {
        a.peer
            .send(Lane::Messaging, Bytes::copy_from_slice(&n.to_be_bytes()))
            .await
            .unwrap();
    }
    acknowledged(&a.peer).await;

    let started = Instant::now();
    for n in 0..COUNT {
        assert_eq!(b.frame().await.1[..], n.to_be_bytes());
    }
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
}

/// A reader that takes nothing. Falsified when the sender can go on and on, its memory with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_holds_the_sender_and_then_gets_everything() {
    const FRAME: usize = 16 * 1024;
    let (a, mut b) = connected(&loopback()).await;
    let mut sent = 0_u32;
    // 64 events, 2 x 256 messages in the library, 1 MiB of receive window, 64 KiB of ours: about 10 MiB.
    let held = loop {
        let mut frame = BytesMut::zeroed(FRAME);
        frame[..4].copy_from_slice(&sent.to_be_bytes());
        if timeout(
            Duration::from_millis(1_500),
            a.peer.send(Lane::Messaging, frame.freeze()),
        )
        .await
        .is_err()
        {
            break true;
        }
        sent += 1;
        if sent > 4_000 {
            break false;
        }
    };
    assert!(held, "64 MiB went to nobody");
    let buffered = a.peer.buffered_amount(Lane::Messaging).await;
    eprintln!("held after {sent} frames, {buffered} bytes buffered");
    assert!(
        buffered <= EngineConfig::default().send_limit + FRAME,
        "{buffered}"
    );

    let resumed = Instant::now();
    for n in 0..sent {
        let (_, frame) = b.frame().await;
        assert_eq!(frame[..4], n.to_be_bytes(), "after {:?}", resumed.elapsed());
    }
    eprintln!("all {sent} frames after {:?}", resumed.elapsed());
    a.peer
        .send(Lane::Messaging, Bytes::from_static(b"on we go"))
        .await
        .unwrap();
    b.frame().await;
    eprintln!("going on after {:?}", resumed.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn best_effort_says_when_it_has_no_room() {
    let (a, _b) = connected(&loopback()).await;
    let frame = Bytes::from(vec![0; 16 * 1024]);
    let mut taken = 0;
    while a.peer.try_send(Lane::BestEffort, frame.clone()).await.unwrap() {
        taken += 1;
        assert!(taken < 10_000, "it always has room");
    }
    assert!(a.peer.buffered_amount(Lane::BestEffort).await <= EngineConfig::default().send_limit);
}

/// Candidates may overtake the answer. Falsified when the early ones are lost, since no others are sent here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn candidates_that_come_before_the_answer_are_kept() {
    let (to_a, mut a_events) = mpsc::channel(64);
    let (to_b, mut b_events) = mpsc::channel(64);
    let (a, offer) = Peer::offer(&loopback(), to_a).await.unwrap();
    let (_b, answer) = Peer::answer(&loopback(), &offer.sdp, to_b).await.unwrap();
    loop {
        match timeout(PATIENCE, b_events.recv()).await.unwrap().unwrap() {
            PeerEvent::LocalCandidate(candidate) => {
                // As the browser's JSON, there and back.
                let json = serde_json::to_string(&candidate).unwrap();
                assert!(
                    json.contains(r#""sdpMid":"0","sdpMLineIndex":0,"usernameFragment":""#),
                    "{json}"
                );
                a.add_candidate(serde_json::from_str(&json).unwrap())
                    .await
                    .unwrap();
            }
            PeerEvent::GatheringDone => break,
            _ => {}
        }
    }
    a.accept_answer(&answer.sdp).await.unwrap();
    assert_eq!(a.accept_answer(&answer.sdp).await, Err(EngineError::Unexpected));
    // The answering side hears of none of ours: it learns our address from our checks.
    let mut open = 0;
    while open < 2 {
        match timeout(PATIENCE, a_events.recv()).await.unwrap().unwrap() {
            PeerEvent::ChannelOpen(_) => open += 1,
            PeerEvent::Closed(reason) => panic!("closed: {reason:?}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn useless_and_excess_candidates_are_counted_and_bounded() {
    let candidate = |text: &str| Candidate {
        candidate: text.to_owned(),
        sdp_mid: None,
        sdp_m_line_index: None,
        username_fragment: None,
    };
    let (to_a, _events) = mpsc::channel(64);
    let (to_b, _b_events) = mpsc::channel(64);
    let (a, offer) = Peer::offer(&loopback(), to_a).await.unwrap();
    let (b, _answer) = Peer::answer(&loopback(), &offer.sdp, to_b).await.unwrap();
    b.add_candidate(candidate("")).await.unwrap();
    b.add_candidate(candidate("candidate:1 1 udp 1 0e1d3c5a.local 9 typ host"))
        .await
        .unwrap();
    b.add_candidate(candidate(
        "candidate:1 1 tcp 1 127.0.0.1 9 typ host tcptype passive",
    ))
    .await
    .unwrap();
    assert_eq!(b.drops().remote_candidates, 2);
    let refused = b
        .add_candidate(candidate("candidate:1 1 udp one 127.0.0.1 9 typ host"))
        .await;
    assert!(matches!(refused, Err(EngineError::Candidate(_))), "{refused:?}");

    for n in 0..MAX_CANDIDATES {
        a.add_candidate(candidate(&format!(
            "candidate:1 1 udp 1 127.0.0.1 {} typ host",
            1_000 + n
        )))
        .await
        .unwrap();
    }
    let refused = a
        .add_candidate(candidate("candidate:1 1 udp 1 127.0.0.1 9 typ host"))
        .await;
    assert!(matches!(refused, Err(EngineError::Candidate(_))), "{refused:?}");
}

/// A foreign peer with one channel of ours, one that nobody asked for, and no best effort.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn channels_with_other_labels_are_closed_and_counted() {
    let config = loopback();
    let foreign = Box::pin(Setup::new(&config)).await.unwrap();
    let strange = foreign
        .connection
        .create_data_channel("something-else", None)
        .await
        .unwrap();
    let known = foreign
        .connection
        .create_data_channel(Lane::Messaging.label(), None)
        .await
        .unwrap();
    let offer = foreign.connection.create_offer(None).await.unwrap();
    foreign
        .connection
        .set_local_description(offer.clone())
        .await
        .unwrap();

    let (to_b, events) = mpsc::channel(64);
    let (peer, answer) = Peer::answer(&config, &offer.sdp, to_b).await.unwrap();
    let mut b = End { peer, events };
    let answer = RTCSessionDescription::answer(answer.sdp).unwrap();
    foreign.connection.set_remote_description(answer).await.unwrap();
    loop {
        match b.next().await {
            PeerEvent::LocalCandidate(candidate) => {
                let init = RTCIceCandidateInit {
                    candidate: candidate.candidate,
                    ..RTCIceCandidateInit::default()
                };
                foreign.connection.add_ice_candidate(init).await.unwrap();
            }
            PeerEvent::ChannelOpen(lane) => {
                assert_eq!(lane, Lane::Messaging);
                break;
            }
            PeerEvent::Closed(reason) => panic!("closed: {reason:?}"),
            _ => {}
        }
    }
    use webrtc::data_channel::DataChannelEvent;
    let ended = async { while !matches!(strange.poll().await, Some(DataChannelEvent::OnClose) | None) {} };
    timeout(PATIENCE, ended)
        .await
        .expect("the strange channel is closed");
    assert_eq!(b.peer.drops().foreign_channels, 1);
    assert_eq!(
        b.peer.send(Lane::BestEffort, Bytes::new()).await,
        Err(EngineError::NotOpen(Lane::BestEffort))
    );

    // The other one works; text is taken as its bytes.
    while !matches!(known.poll().await, Some(DataChannelEvent::OnOpen)) {}
    known.send_text("{}").await.unwrap();
    assert_eq!(b.frame().await, (Lane::Messaging, Bytes::from_static(b"{}")));
    foreign.connection.close().await.unwrap();
    assert_eq!(b.closed().await, CloseReason::Remote);
}

/// The caller gives up while the set-up runs: on one thread, which it cannot have finished at the first poll.
#[tokio::test]
async fn a_cancelled_offer_leaves_nothing_behind() {
    let (to_a, mut events) = mpsc::channel(64);
    let config = loopback();
    let mut offer = Box::pin(Peer::offer(&config, to_a));
    assert!(futures::poll!(&mut offer).is_pending());
    drop(offer);
    // The pump holds the last sender; it goes when the connection is freed.
    while timeout(PATIENCE, events.recv())
        .await
        .expect("freed in time")
        .is_some()
    {}
}

#[tokio::test]
async fn descriptions_are_read_strictly() {
    let (to_a, _events) = mpsc::channel(64);
    let (a, offer) = Peer::offer(&loopback(), to_a).await.unwrap();
    let sdp = offer.sdp;
    let line = |name: &str| {
        sdp.lines()
            .find(|line| line.starts_with(name))
            .unwrap()
            .to_owned()
    };
    let fingerprint = line("a=fingerprint:sha-256 ");
    let other = "a=fingerprint:sha-256 ".to_owned() + &["AB"; 32].join(":");
    assert_eq!(
        Description::parse(&sdp).unwrap().fingerprint,
        a.local_fingerprint()
    );
    assert_eq!(
        Description::parse(&sdp.to_uppercase().replace("A=", "a=")).ok(),
        None
    );

    let refused = |text: String| {
        assert!(
            matches!(Description::parse(&text), Err(EngineError::Description(_))),
            "{text}"
        )
    };
    refused(String::new());
    refused(format!("{sdp}m=audio 9 UDP/TLS/RTP/SAVPF 111\r\n"));
    refused(format!("{sdp}{}\r\n", line("m=application")));
    refused(format!("{sdp}{other}\r\n"));
    refused(format!("{sdp}a=ice-ufrag:other\r\n"));
    refused(sdp.replace(&fingerprint, "a=fingerprint:sha-256 AB:CD"));
    refused(sdp.replace(&fingerprint, "a=x"));
    refused(format!(
        "{sdp}{}",
        "a=candidate:1 1 udp 1 127.0.0.1 9 typ host\r\n".repeat(65)
    ));
    refused(format!("{sdp}a=x:{}\r\n", "x".repeat(32 * 1024)));

    // aiortc announces its certificate three times; the library would refuse the handshake.
    let three = format!("a=fingerprint:sha-512 {}\r\n{fingerprint}", ["AB"; 64].join(":"));
    let read = Description::parse(&sdp.replace(&fingerprint, &three)).unwrap();
    assert!(!read.sdp.contains("sha-512") && read.fingerprint == a.local_fingerprint());
    // The same certificate twice, at session and at media level, is one.
    Description::parse(&format!("{sdp}{fingerprint}\r\n")).unwrap();
}
