use bytes::Bytes;
use ifmsg::{AgentId, Destination};

use super::{
    Failure, Fixture,
    net::{Net, Shown},
};
use crate::{Envelope, Lane, SendError, TransportEvent};

/// Falsified by a name that is no lowercase word, a `max_frame` below 65,536, or members that differ in either.
pub async fn name_and_capabilities_are_sane(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let net = Net::linked("name_and_capabilities_are_sane", fixture, 2).await?;
    let (one, two) = (net.transport(0), net.transport(1));
    let is_word = |name: &str| {
        !name.is_empty()
            && name
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
    };
    net.ensure(
        is_word(one.name()),
        "a name of a-z, 0-9 and -",
        format!("{:?}", one.name()),
    )?;
    net.ensure(
        one.name() == two.name(),
        "the same name everywhere",
        format!("{:?}", two.name()),
    )?;
    let capabilities = one.capabilities();
    net.ensure(
        capabilities.max_frame >= 65_536,
        "max_frame of at least 65536",
        capabilities.max_frame,
    )?;
    net.ensure(
        capabilities == one.capabilities() && capabilities == two.capabilities(),
        "the same capabilities everywhere and always",
        format!("{capabilities:?} and {:?}", two.capabilities()),
    )?;
    drop((one, two));
    net.finish().await
}

/// Falsified by a peer whose `LinkUp` does not come, or comes twice, or while `links()` does not say `Up`; by `links()`
/// unsorted; by a link that is up and carries nothing.
pub async fn each_link_comes_up_once(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let agents = 4;
    let net = Net::linked("each_link_comes_up_once", fixture, agents).await?;
    for a in 0..agents {
        for b in (0..agents).filter(|&b| b != a) {
            let up = net.sees_up(a, &net.id(b))?;
            net.ensure(
                up,
                format!("{} Up in links() of {}", net.id(b), net.id(a)),
                "it is not",
            )?;
        }
    }
    for a in 0..agents {
        for b in a + 1..agents {
            net.exchange(a, b).await?;
        }
    }
    net.finish().await
}

/// Falsified by anything but `NoLink` with the peer's name when sending to a peer that does not exist.
pub async fn unknown_peers_have_no_link(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let net = Net::linked("unknown_peers_have_no_link", fixture, 2).await?;
    let transport = net.transport(0);
    let Ok(nobody) = AgentId::new("conformance/nobody") else {
        return Err(net.failure("an id to be an id", "InvalidId"));
    };
    for lane in [Lane::Reliable, Lane::BestEffort] {
        let envelope = Envelope::new(nobody.clone(), lane, Bytes::from_static(b"anybody there?"));
        let outcome = net.within("NoLink at once", transport.send(envelope)).await?;
        let expected = Err(SendError::NoLink(nobody.clone()));
        net.ensure(
            outcome == expected,
            format!("{expected:?} on {lane:?}"),
            format!("{outcome:?}"),
        )?;
    }
    drop(transport);
    net.exchange(0, 1).await?;
    net.finish().await
}

/// Falsified, where broadcast is promised, by a peer whom it does not reach or by the sender whom it does; where it is not,
/// by anything but `NoBroadcast`.
pub async fn broadcast_is_kept_or_refused(fixture: &mut dyn Fixture) -> Result<(), Failure> {
    let net = Net::linked("broadcast_is_kept_or_refused", fixture, 4).await?;
    let transport = net.transport(0);
    let frame = Bytes::from_static(b"to everyone");
    let capabilities = net.capabilities();
    for lane in [Lane::Reliable, Lane::BestEffort] {
        let envelope = Envelope::new(Destination::Everyone, lane, frame.clone());
        let outcome = net
            .within("a broadcast to be accepted or refused", transport.send(envelope))
            .await?;
        let expected = if capabilities.broadcast {
            Ok(())
        } else {
            Err(SendError::NoBroadcast)
        };
        net.ensure(
            outcome == expected,
            format!("{expected:?} on {lane:?}"),
            format!("{outcome:?}"),
        )?;
        if lane == Lane::Reliable && capabilities.broadcast && capabilities.reliable {
            for member in 1..4 {
                net.collect(member, 0, std::slice::from_ref(&frame)).await?;
            }
        }
    }
    // The sender's first frame is not its own.
    let answer = Bytes::from_static(b"to you");
    net.send(1, 0, Lane::Reliable, &answer).await?;
    if capabilities.reliable {
        match net.event(0, "the answer to a broadcast").await? {
            TransportEvent::Frame { frame, .. } if frame == answer => {}
            other => return Err(net.failure("a broadcast not to come back", Shown(&other))),
        }
    }
    drop(transport);
    net.finish().await
}
