use bytes::Bytes;
use futures::future::join_all;

use super::{
    Failure, Fixture,
    net::{Net, next, numbered},
};
use crate::{Closed, DownReason, Lane, SendError, TransportEvent};

/// Falsified by an accepted frame that a peer who reads does not get because its sender closed (where the lane is
/// reliable); by a peer who is not told that it did.
pub async fn close_flushes_then_says_goodbye(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let net = Net::linked("close_flushes_then_says_goodbye", fixture, 2).await?;
    let capabilities = net.capabilities();
    let frames: Vec<Bytes> = (0..50).map(|number| numbered(number, 4_096)).collect();
    let sender = net.transport(0);
    let send_and_close = async {
        for frame in &frames {
            net.send(0, 1, Lane::Reliable, frame).await?;
        }
        let outcome = net.within("close to end", sender.close()).await?;
        net.ensure(
            outcome.is_ok(),
            "close to flush everything",
            format!("{outcome:?}"),
        )
    };
    let receive = async {
        if capabilities.reliable {
            net.collect(1, 0, &frames).await?;
        }
        let expected = "LinkDown of the peer that closed";
        loop {
            match net.event(1, expected).await? {
                TransportEvent::LinkDown { peer, reason } => {
                    net.ensure(peer == net.id(0), expected, &peer)?;
                    let told = reason == DownReason::PeerClosed || !capabilities.reliable;
                    return net.ensure(told, "the reason peer-closed", reason.as_str());
                }
                TransportEvent::Frame { .. } if !capabilities.reliable => {}
                TransportEvent::Refused { .. } => {}
                other => return Err(net.failure(expected, format!("{other:?}"))),
            }
        }
    };
    futures::try_join!(send_and_close, receive)?;
    let up = net.sees_up(1, &net.id(0))?;
    net.ensure(!up, "links() not to say Up after LinkDown", "Up")?;
    let outcome = net
        .within("a send", net.sending(1, 0, Lane::Reliable, &frames[0]))
        .await?;
    let expected = Err(SendError::NoLink(net.id(0)));
    net.ensure(
        outcome == expected,
        format!("{expected:?} after LinkDown"),
        format!("{outcome:?}"),
    )?;
    drop(sender);
    net.finish().await
}

/// Falsified by a second `close`, at the same time or later, that fails or does not end.
pub async fn close_is_idempotent(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let net = Net::linked("close_is_idempotent", fixture, 2).await?;
    let transport = net.transport(0);
    let outcomes = net
        .within(
            "four closes at once to end",
            join_all((0..4).map(|_| transport.close())),
        )
        .await?;
    net.ensure(
        outcomes.iter().all(Result::is_ok),
        "each close to be Ok",
        format!("{outcomes:?}"),
    )?;
    let outcome = net.within("a late close to end", transport.close()).await?;
    net.ensure(outcome.is_ok(), "a late close to be Ok", format!("{outcome:?}"))?;
    drop(transport);
    net.finish().await
}

/// Falsified by a `recv` or a `send` that still waits after its own side closed, or by a `close` without end because a peer
/// reads nothing.
pub async fn close_ends_waiting_calls(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let net = Net::linked("close_ends_waiting_calls", fixture, 2).await?;
    let (_, _, waiting) = net.fill(0, 1, 16_384).await?;
    let transport = net.transport(0);
    let close = net.within("close to end though the peer reads nothing", transport.close());
    let send = net.within("the waiting send to end by close", waiting);
    let receive = async {
        // Events that were queued may still come.
        while net
            .within("the waiting recv to end by close", next(transport.as_ref()))
            .await?
            .is_ok()
        {}
        Ok(())
    };
    // The send starts first: it has been waiting since `fill`.
    let (sent, _, ()) = futures::try_join!(send, close, receive)?;
    net.ensure(
        matches!(sent, Ok(()) | Err(SendError::Closed)),
        "the waiting send to say Closed, or Ok",
        format!("{sent:?}"),
    )?;
    drop(transport);
    net.finish().await
}

/// Falsified by a closed transport that accepts a frame, hands out events without end, or still calls a link up.
pub async fn closed_stays_closed(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let net = Net::linked("closed_stays_closed", fixture, 2).await?;
    let transport = net.transport(0);
    let sent: Vec<Bytes> = (0..5).map(|number| numbered(number, 300)).collect();
    for frame in &sent {
        net.send(1, 0, Lane::Reliable, frame).await?;
    }
    let outcome = net.within("close to end", transport.close()).await?;
    net.ensure(outcome.is_ok(), "close to be Ok", format!("{outcome:?}"))?;
    // What is still queued: at most the five, and the link's end.
    let mut frames = 0;
    while let Ok(event) = net
        .within("recv to drain and say Closed", next(transport.as_ref()))
        .await?
    {
        match event {
            TransportEvent::Frame { frame, .. } if sent.contains(&frame) => frames += 1,
            TransportEvent::LinkDown { .. } | TransportEvent::Refused { .. } => {}
            other => return Err(net.failure("what was queued before close", format!("{other:?}"))),
        }
        net.ensure(
            frames <= sent.len() * net.copies(),
            "no more frames than were sent",
            frames,
        )?;
    }
    let again = net
        .within("recv to say Closed again", next(transport.as_ref()))
        .await?;
    net.ensure(again == Err(Closed), "Closed again", format!("{again:?}"))?;
    for lane in [Lane::Reliable, Lane::BestEffort] {
        let outcome = net
            .within("a send to say Closed", net.sending(0, 1, lane, &sent[0]))
            .await?;
        net.ensure(
            outcome == Err(SendError::Closed),
            format!("Closed on {lane:?}"),
            format!("{outcome:?}"),
        )?;
    }
    let up = net.sees_up(0, &net.id(1))?;
    net.ensure(!up, "a closed transport to have no link Up", "one")?;
    drop(transport);
    net.finish().await
}

/// Falsified by a peer's abrupt death that the others do not notice, or that harms the links among them.
pub async fn death_is_noticed(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let mut net = Net::linked("death_is_noticed", fixture, 3).await?;
    let dead = net.kill(2).await;
    for member in 0..2 {
        let expected = format!("LinkDown of {dead}, which was killed, at {}", net.id(member));
        net.link_event(
            member,
            &expected,
            |event| matches!(event, TransportEvent::LinkDown { peer, .. } if *peer == dead),
        )
        .await?;
        let up = net.sees_up(member, &dead)?;
        net.ensure(!up, "links() not to say Up after LinkDown", "Up")?;
        let envelope = crate::Envelope::new(dead.clone(), Lane::Reliable, Bytes::from_static(b"?"));
        let outcome = net
            .within("NoLink at once", net.transport(member).send(envelope))
            .await?;
        let expected = Err(SendError::NoLink(dead.clone()));
        net.ensure(
            outcome == expected,
            format!("{expected:?}"),
            format!("{outcome:?}"),
        )?;
    }
    net.exchange(0, 1).await?;
    net.finish().await
}

/// Falsified by a send that waits for a peer's room and goes on waiting after the peer has died.
pub async fn death_ends_a_waiting_send(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let mut net = Net::linked("death_ends_a_waiting_send", fixture, 2).await?;
    let (_, _, waiting) = net.fill(0, 1, 16_384).await?;
    let dead = net.kill(1).await;
    let outcome = net
        .within("the waiting send to end when its peer dies", waiting)
        .await?;
    let expected = Err(SendError::NoLink(dead.clone()));
    net.ensure(
        outcome.is_ok() || outcome == expected,
        format!("{expected:?}, or Ok"),
        format!("{outcome:?}"),
    )?;
    let expected = format!("LinkDown of {dead}, which was killed");
    net.link_event(
        0,
        &expected,
        |event| matches!(event, TransportEvent::LinkDown { peer, .. } if *peer == dead),
    )
    .await?;
    net.finish().await
}

/// Falsified by an agent that dies, comes back under the same name, and is not linked again, with a `LinkDown` before the
/// second `LinkUp`; or whose new link carries nothing.
pub async fn restart_links_again(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let mut net = Net::linked("restart_links_again", fixture, 3).await?;
    let id = net.kill(1).await;
    let back = net.restart(id.clone()).await;
    for member in 0..back {
        let down = format!("LinkDown of the former life of {id} at {}", net.id(member));
        let is_down =
            |event: &TransportEvent| matches!(event, TransportEvent::LinkDown { peer, .. } if *peer == id);
        net.link_event(member, &down, is_down).await?;
        let up = format!("LinkUp of the new life of {id} at {}", net.id(member));
        let is_up = |event: &TransportEvent| matches!(event, TransportEvent::LinkUp { peer } if *peer == id);
        net.link_event(member, &up, is_up).await?;
    }
    for _ in 0..back {
        let up = "LinkUp of each other agent at the restarted one";
        net.link_event(back, up, |event| matches!(event, TransportEvent::LinkUp { .. }))
            .await?;
    }
    for member in 0..back {
        net.exchange(member, back).await?;
    }
    net.exchange(0, 1).await?;
    net.finish().await
}
