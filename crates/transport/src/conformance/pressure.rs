use bytes::Bytes;
use tokio::time::timeout;

use super::{
    Failure, Fixture,
    net::{Net, give_up_after, next, numbered},
};
use crate::{Lane, TransportEvent};

/// Falsified by a peer that reads nothing and for which reliable sends are accepted without end; or by one that, once it
/// reads, does not get what was accepted, or does not set the waiting send free.
pub async fn slow_receiver_presses_back(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let net = Net::linked("slow_receiver_presses_back", fixture, 2).await?;
    let (mut frames, last, waiting) = net.fill(0, 1, 16_384).await?;
    net.ensure(
        !frames.is_empty(),
        "something to be accepted before sends wait",
        "nothing",
    )?;
    frames.push(last);
    let waiting = async {
        let outcome = net
            .within("the waiting send to end once the peer reads", waiting)
            .await?;
        net.ensure(
            outcome.is_ok(),
            "the waiting send to be accepted",
            format!("{outcome:?}"),
        )
    };
    futures::try_join!(waiting, net.collect(1, 0, &frames))?;
    net.exchange(0, 1).await?;
    net.finish().await
}

/// Falsified by a peer that reads nothing and thereby holds up traffic with a third one, in either direction.
pub async fn slow_receiver_stalls_nobody_else(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let net = Net::linked("slow_receiver_stalls_nobody_else", fixture, 3).await?;
    let (mut frames, last, waiting) = net.fill(0, 1, 16_384).await?;
    for _ in 0..20 {
        net.exchange(0, 2).await?;
    }
    frames.push(last);
    let waiting = async { net.within("the waiting send to end", waiting).await.map(drop) };
    futures::try_join!(waiting, net.collect(1, 0, &frames))?;
    net.finish().await
}

/// Falsified by a best-effort send that waits though nobody reads; by frames that vanish uncounted, or old ones that stay
/// where new ones go (where the medium itself loses nothing); by more frames than were sent.
pub async fn best_effort_never_waits(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    const SENT: usize = 8_192;
    let net = Net::linked("best_effort_never_waits", fixture, 2).await?;
    for number in 0..SENT {
        net.send(0, 1, Lane::BestEffort, &numbered(number, 1_024)).await?;
    }
    let receiver = net.transport(1);
    let (mut arrived, mut newest) = (0usize, 0);
    while let Ok(event) = timeout(net.pause(), next(receiver.as_ref())).await {
        match event {
            Ok(TransportEvent::Frame {
                frame,
                lane: Lane::BestEffort,
                ..
            }) if frame.len() == 1_024 => {
                arrived += 1;
                let header = [frame[0], frame[1], frame[2], frame[3]];
                newest = newest.max(u32::from_be_bytes(header) as usize);
            }
            Ok(TransportEvent::Refused { .. }) => {}
            other => return Err(net.failure("best-effort frames", format!("{other:?}"))),
        }
    }
    let dropped = |member: usize, peer: usize| -> u64 {
        let links = net.transport(member).links();
        links
            .iter()
            .filter(|link| link.peer == net.id(peer))
            .map(|link| link.dropped)
            .sum()
    };
    let counted = arrived + (dropped(0, 1) + dropped(1, 0)) as usize;
    if net.medium_loses() {
        net.ensure(arrived > 0, "some of the frames to arrive", "none")?;
    } else {
        let expected =
            format!("arrived and dropped to be {SENT} together, and no more than that for each copy");
        net.ensure(
            counted == SENT || net.copies() > 1 && (1..=SENT * net.copies()).contains(&counted),
            expected,
            format!("{arrived} arrived, {} dropped", counted - arrived),
        )?;
        net.ensure(
            newest == SENT - 1,
            "the newest frame to be kept",
            format!("{newest} as the newest"),
        )?;
    }
    drop(receiver);
    net.exchange(0, 1).await?;
    net.finish().await
}

/// Falsified by two peers that flood each other, each reading slowly, until neither gets on.
pub async fn floods_both_ways_end(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let net = Net::linked("floods_both_ways_end", fixture, 2).await?;
    let frames: Vec<Bytes> = (0..512).map(|number| numbered(number, 8_192)).collect();
    let flood = async |from, to| {
        for frame in &frames {
            net.send(from, to, Lane::Reliable, frame).await?;
        }
        Ok(())
    };
    futures::try_join!(
        flood(0, 1),
        flood(1, 0),
        net.collect_slowly(0, 1, &frames, 8),
        net.collect_slowly(1, 0, &frames, 8),
    )?;
    net.finish().await
}

/// Falsified by a `recv` that is dropped halfway and takes an event with it.
pub async fn recv_is_cancel_safe(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    const FRAMES: usize = 300;
    let net = Net::linked("recv_is_cancel_safe", fixture, 2).await?;
    let send = async {
        for number in 0..FRAMES {
            net.send(0, 1, Lane::Reliable, &numbered(number, 200)).await?;
            tokio::task::yield_now().await;
        }
        Ok(())
    };
    let receive = async {
        let receiver = net.transport(1);
        let mut seen = [false; FRAMES];
        for round in 0.. {
            let missing = seen.iter().filter(|seen| !**seen).count();
            if missing == 0 {
                break;
            }
            let expected =
                format!("{missing} of {FRAMES} frames, though each recv before was dropped halfway");
            let frame = match give_up_after(round % 4, next(receiver.as_ref())).await {
                Some(Ok(TransportEvent::Frame { frame, .. })) => frame,
                Some(Ok(TransportEvent::Refused { .. })) => continue,
                Some(other) => return Err(net.failure(expected, format!("{other:?}"))),
                // Waits in earnest now, so that time can pass.
                None => match net.frame(1, &expected).await {
                    Ok((_, _, frame)) => frame,
                    Err(failure) if net.capabilities().reliable || missing == FRAMES => return Err(failure),
                    Err(_) => break,
                },
            };
            let known = (0..FRAMES).find(|&number| frame == numbered(number, 200));
            let Some(number) = known else {
                return Err(net.failure(expected, "a frame that was not sent"));
            };
            seen[number] = true;
        }
        Ok(())
    };
    futures::try_join!(send, receive)?;
    net.finish().await
}

/// Falsified by a `send` that was dropped while it waited, and whose frame arrives; or by an accepted one that does not.
pub async fn send_is_cancel_safe(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let size = 16_384;
    let net = Net::linked("send_is_cancel_safe", fixture, 2).await?;
    let (mut accepted, _, waiting) = net.fill(0, 1, size).await?;
    drop(waiting);
    // The numbers of dropped sends are missing from `accepted`: `collect` refuses what it does not know.
    let start = accepted.len() + 1;
    for number in start..start + 40 {
        let frame = numbered(number, size);
        let sending = net.sending(0, 1, Lane::Reliable, &frame);
        match give_up_after(1 + number % 3, sending).await {
            Some(Ok(())) => accepted.push(frame),
            Some(other) => return Err(net.failure("a send that waits or is accepted", format!("{other:?}"))),
            None => {}
        }
    }
    let last = numbered(start + 40, size);
    accepted.push(last.clone());
    futures::try_join!(
        net.send(0, 1, Lane::Reliable, &last),
        net.collect(1, 0, &accepted)
    )?;
    net.exchange(0, 1).await?;
    net.finish().await
}
