use bytes::Bytes;
use tokio::{task::JoinSet, time::timeout};

use super::{
    Failure, Fixture,
    net::{Net, next, noise, numbered, shown},
};
use crate::{Envelope, Lane, SendError, TransportEvent};

/// Falsified by a frame of 0 bytes, 1 byte, some usual sizes or exactly `max_frame` that does not arrive, or not as it was.
pub async fn frame_sizes_arrive_unchanged(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let net = Net::linked("frame_sizes_arrive_unchanged", fixture, 2).await?;
    let most = net.capabilities().max_frame;
    let sizes = [0, 1, 2, 300, 1_200, 16_384, 65_535, 65_536, most - 1, most];
    for size in sizes {
        let frame = noise(size as u64, size);
        net.send(0, 1, Lane::Reliable, &frame).await?;
        net.collect(1, 0, std::slice::from_ref(&frame)).await?;
    }
    net.finish().await
}

/// Falsified by a frame of `max_frame` + 1 that is not refused with both numbers, on either lane, or that harms the link.
pub async fn too_large_is_refused(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let net = Net::linked("too_large_is_refused", fixture, 2).await?;
    let limit = net.capabilities().max_frame;
    let frame = Bytes::from(vec![0; limit + 1]);
    for lane in [Lane::Reliable, Lane::BestEffort] {
        let outcome = net
            .within("TooLarge at once", net.sending(0, 1, lane, &frame))
            .await?;
        let expected = Err(SendError::TooLarge {
            size: limit + 1,
            limit,
        });
        net.ensure(
            outcome == expected,
            format!("{expected:?} on {lane:?}"),
            format!("{outcome:?}"),
        )?;
    }
    net.exchange(0, 1).await?;
    net.finish().await
}

/// Frames are opaque. Falsified by one that is taken for something of the transport's own: a header, a keepalive, JSON.
pub async fn hostile_bytes_pass_unchanged(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let net = Net::linked("hostile_bytes_pass_unchanged", fixture, 2).await?;
    let mut frames = vec![
        Bytes::from_static(b"\0"),
        Bytes::from_static(b"\xff"),
        Bytes::from_static(b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        Bytes::from_static(b"{\"type\":\"hello\"}"),
        Bytes::from_static(b"{\"type\":\"close\",\"reason\":\"\"}"),
        Bytes::from_static(b"IFB1\xff\xff\xff\xff\xff\xff\xff\xff"),
        // A chunk's header, and nothing like it.
        Bytes::from_static(b"IFC1\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\xff"),
        Bytes::from_static(b"IFC1"),
        Bytes::from_static(b"ping"),
        Bytes::from_static(b"close"),
        Bytes::from(vec![0; 4_096]),
        Bytes::from(vec![0xff; 4_096]),
    ];
    // Each byte first, so that no first byte means anything; then noise.
    frames.extend((0..=255).map(|first| Bytes::from(vec![first, 1, 0, 0, 0, 0, 0, 0, 0, 1])));
    frames.extend((0..64).map(|seed| noise(seed, 17 + 61 * seed as usize)));
    for (from, to) in [(0, 1), (1, 0)] {
        let send = async {
            for frame in &frames {
                net.send(from, to, Lane::Reliable, frame).await?;
            }
            Ok(())
        };
        futures::try_join!(send, net.collect(to, from, &frames))?;
    }
    net.finish().await
}

/// Falsified by frames of many sizes that overtake each other (where order is promised) or get lost (where reliability is).
pub async fn reliable_lane_keeps_order(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let net = Net::linked("reliable_lane_keeps_order", fixture, 3).await?;
    let frames: Vec<Bytes> = (0..600)
        .map(|number| numbered(number, 4 + number * 7919 % 9_001))
        .collect();
    let send = async |to| {
        for frame in &frames {
            net.send(0, to, Lane::Reliable, frame).await?;
        }
        Ok(())
    };
    // Two receivers at once: order holds for each peer.
    futures::try_join!(
        send(1),
        send(2),
        net.collect(1, 0, &frames),
        net.collect(2, 0, &frames)
    )?;
    net.finish().await
}

/// Falsified by an idle link on which, of many best-effort frames sent one by one, none arrives as it was sent.
pub async fn best_effort_frames_arrive(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let net = Net::linked("best_effort_frames_arrive", fixture, 2).await?;
    for (from, to) in [(0, 1), (1, 0)] {
        let frame = noise(from as u64, 300);
        let receiver = net.transport(to);
        let mut arrived = false;
        for _ in 0..40 {
            net.send(from, to, Lane::BestEffort, &frame).await?;
            if let Ok(event) = timeout(net.pause(), next(receiver.as_ref())).await {
                let same = matches!(&event, Ok(TransportEvent::Frame { from: sender, lane: Lane::BestEffort, frame: found, .. })
                    if *sender == net.id(from) && *found == frame);
                net.ensure(same, shown(&frame), format!("{event:?}"))?;
                arrived = true;
                break;
            }
        }
        net.ensure(arrived, "one of 40 best-effort frames to arrive", "none")?;
    }
    net.finish().await
}

/// Falsified by frames of eight tasks, sent to one peer at once, of which one is lost or, within a task, overtaken.
pub async fn concurrent_senders_lose_nothing(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    const TASKS: usize = 8;
    const EACH: usize = 50;
    let net = Net::linked("concurrent_senders_lose_nothing", fixture, 2).await?;
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let (transport, to) = (net.transport(0), net.id(1));
        tasks.spawn(async move {
            for number in 0..EACH {
                let frame = numbered(task * EACH + number, 1_000);
                transport
                    .send(Envelope::new(to.clone(), Lane::Reliable, frame))
                    .await?;
                tokio::task::yield_now().await;
            }
            Ok::<_, SendError>(())
        });
    }
    let capabilities = net.capabilities();
    let mut next = [0; TASKS];
    let mut seen = [false; TASKS * EACH];
    while seen.iter().any(|seen| !seen) {
        let missing = seen.iter().filter(|seen| !**seen).count();
        let expected = format!("{missing} frames of concurrent senders still to come");
        let (_, _, frame) = match net.frame(1, &expected).await {
            Ok(arrival) => arrival,
            Err(failure) if capabilities.reliable || missing == seen.len() => return Err(failure),
            Err(_) => break,
        };
        let header = frame.get(..4).and_then(|header| header.try_into().ok());
        let number = header.map_or(usize::MAX, |header| u32::from_be_bytes(header) as usize);
        let intact = number < seen.len() && frame == numbered(number, 1_000);
        net.ensure(intact, "a frame that was sent", shown(&frame))?;
        let (task, number_of_task) = (number / EACH, number % EACH);
        if capabilities.ordered {
            let expected = format!("task {task}'s number {} or later", next[task]);
            net.ensure(number_of_task >= next[task], expected, number_of_task)?;
        }
        next[task] = number_of_task + 1;
        seen[number] = true;
    }
    while let Some(task) = net.within("the senders to end", tasks.join_next()).await? {
        net.ensure(
            matches!(task, Ok(Ok(()))),
            "every send accepted",
            format!("{task:?}"),
        )?;
    }
    net.finish().await
}
