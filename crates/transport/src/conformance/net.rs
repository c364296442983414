//! What the cases have in common: a mesh, and waiting with patience.

use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use ifmsg::AgentId;
use tokio::time::timeout;

use super::{Failure, Fixture, Member};
use crate::{Capabilities, Closed, Envelope, IfTransport, Lane, LinkState, SendError, TransportEvent};

/// What most cases return.
pub(super) type Verdict = Result<(), Failure>;

/// A `send` on its way.
pub(super) type Sending = Pin<Box<dyn Future<Output = Result<(), SendError>> + Send>>;

/// The mesh of one case.
pub(super) struct Net<'f> {
    case: &'static str,
    fixture: &'f mut dyn Fixture,
    members: Vec<Member>,
    /// What was sent: a link may repeat it at any time.
    sent: Mutex<HashSet<Bytes>>,
}

impl<'f> Net<'f> {
    /// A mesh whose members have all read that their links are up.
    pub(super) async fn linked(
        case: &'static str,
        fixture: &'f mut dyn Fixture,
        agents: usize,
    ) -> Result<Self, Failure> {
        let members = fixture.start(agents).await;
        let net = Self {
            case,
            fixture,
            members,
            sent: Mutex::default(),
        };
        if net.members.len() != agents {
            let found = net.members.len();
            return Err(net.failure(format!("`Fixture::start` to start {agents} agents"), found));
        }
        for member in 0..agents {
            let mut missing: Vec<_> = (0..agents)
                .filter(|&peer| peer != member)
                .map(|peer| net.id(peer))
                .collect();
            while !missing.is_empty() {
                let expected = format!("LinkUp at {} for each of {missing:?}", net.id(member));
                match net.event(member, &expected).await? {
                    TransportEvent::LinkUp { peer } if missing.contains(&peer) => {
                        missing.retain(|other| *other != peer);
                    }
                    TransportEvent::Refused { .. } => {}
                    other => return Err(net.failure(expected, Shown(&other))),
                }
            }
        }
        Ok(net)
    }

    pub(super) fn id(&self, member: usize) -> AgentId {
        self.members[member].id.clone()
    }

    pub(super) fn transport(&self, member: usize) -> Arc<dyn IfTransport> {
        Arc::clone(&self.members[member].transport)
    }

    pub(super) fn capabilities(&self) -> Capabilities {
        self.members[0].transport.capabilities()
    }

    pub(super) fn medium_loses(&self) -> bool {
        self.fixture.medium_loses()
    }

    pub(super) fn copies(&self) -> usize {
        self.fixture.copies()
    }

    pub(super) fn most_accepted(&self) -> usize {
        self.fixture.most_accepted()
    }

    pub(super) fn patience(&self) -> Duration {
        self.fixture.patience()
    }

    /// Who does nothing for this long is waiting for something. Only for what must not be taken for progress: never decides
    /// that a promise was broken.
    pub(super) fn pause(&self) -> Duration {
        (self.patience() / 20).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }

    pub(super) fn failure(&self, expected: impl fmt::Display, found: impl fmt::Display) -> Failure {
        Failure {
            case: self.case,
            expected: expected.to_string(),
            found: found.to_string(),
        }
    }

    pub(super) fn ensure(
        &self,
        holds: bool,
        expected: impl fmt::Display,
        found: impl fmt::Display,
    ) -> Verdict {
        if holds {
            Ok(())
        } else {
            Err(self.failure(expected, found))
        }
    }

    /// Waits, with patience.
    pub(super) async fn within<T>(
        &self,
        expected: impl fmt::Display,
        future: impl Future<Output = T>,
    ) -> Result<T, Failure> {
        let patience = self.patience();
        timeout(patience, future)
            .await
            .map_err(|_| self.failure(expected, format!("nothing for {patience:?}")))
    }

    pub(super) async fn event(&self, member: usize, expected: &str) -> Result<TransportEvent, Failure> {
        let transport = &self.members[member].transport;
        match self.within(expected, next(transport.as_ref())).await? {
            Ok(event) => Ok(event),
            Err(Closed) => Err(self.failure(expected, "Closed")),
        }
    }

    /// The next frame; links must stay as they are meanwhile.
    pub(super) async fn frame(
        &self,
        member: usize,
        expected: &str,
    ) -> Result<(AgentId, Lane, Bytes), Failure> {
        loop {
            match self.event(member, expected).await? {
                TransportEvent::Frame {
                    from, lane, frame, ..
                } => return Ok((from, lane, frame)),
                TransportEvent::Refused { .. } => {}
                other => return Err(self.failure(expected, Shown(&other))),
            }
        }
    }

    pub(super) async fn link_event(
        &self,
        member: usize,
        expected: &str,
        is_it: impl Fn(&TransportEvent) -> bool,
    ) -> Verdict {
        loop {
            match self.event(member, expected).await? {
                event if is_it(&event) => return Ok(()),
                TransportEvent::Refused { .. } => {}
                other => return Err(self.failure(expected, Shown(&other))),
            }
        }
    }

    pub(super) fn sending(&self, from: usize, to: usize, lane: Lane, frame: &Bytes) -> Sending {
        self.sent
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(frame.clone());
        let (transport, envelope) = (
            self.transport(from),
            Envelope::new(self.id(to), lane, frame.clone()),
        );
        Box::pin(async move { transport.send(envelope).await })
    }

    /// Must be accepted.
    pub(super) async fn send(&self, from: usize, to: usize, lane: Lane, frame: &Bytes) -> Verdict {
        let expected = format!(
            "{lane:?} send of {} bytes from {} to {} to be accepted",
            frame.len(),
            self.id(from),
            self.id(to)
        );
        match self
            .within(&expected, self.sending(from, to, lane, frame))
            .await?
        {
            Ok(()) => Ok(()),
            Err(error) => Err(self.failure(expected, format!("{error:?}"))),
        }
    }

    /// Sends on the reliable lane until a send waits, and returns what was accepted and the one that waits.
    pub(super) async fn fill(
        &self,
        from: usize,
        to: usize,
        size: usize,
    ) -> Result<(Vec<Bytes>, Bytes, Sending), Failure> {
        let expected = format!(
            "sends to a peer that reads nothing to wait, at the latest after {} bytes",
            self.most_accepted()
        );
        let mut accepted = Vec::new();
        loop {
            let frame = numbered(accepted.len(), size);
            let mut sending = self.sending(from, to, Lane::Reliable, &frame);
            match timeout(self.pause(), &mut sending).await {
                Ok(Ok(())) => accepted.push(frame),
                Ok(Err(error)) => return Err(self.failure(expected, format!("{error:?}"))),
                Err(_) => return Ok((accepted, frame, sending)),
            }
            if accepted.len() * size > self.most_accepted() {
                return Err(self.failure(expected, "all of them accepted"));
            }
        }
    }

    /// Reads at `to` until all of these frames of `from` came: without loss if the lane is reliable, in this order if it is
    /// ordered, and nothing else.
    pub(super) async fn collect(&self, to: usize, from: usize, frames: &[Bytes]) -> Verdict {
        self.collect_slowly(to, from, frames, 0).await
    }

    /// As `collect`, by a reader that lets others run `yields` times after each frame.
    pub(super) async fn collect_slowly(
        &self,
        to: usize,
        from: usize,
        frames: &[Bytes],
        yields: usize,
    ) -> Verdict {
        let capabilities = self.capabilities();
        let numbers: BTreeMap<&Bytes, usize> = frames.iter().zip(0..).collect();
        let (mut seen, mut missing, mut last) = (vec![false; frames.len()], frames.len(), None);
        while missing > 0 {
            let expected = format!(
                "{missing} of {} frames at {} still to come",
                frames.len(),
                self.id(to)
            );
            let (source, lane, frame) = match self.frame(to, &expected).await {
                Ok(arrival) => arrival,
                // Without the promise some may be lost, but not all.
                Err(failure) if capabilities.reliable || missing == frames.len() => return Err(failure),
                Err(_) => return Ok(()),
            };
            let Some(&number) = numbers.get(&frame) else {
                let is_repeated = self
                    .sent
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .contains(&frame);
                if is_repeated && !capabilities.ordered {
                    continue;
                }
                return Err(self.failure(expected, format!("a frame that was not sent: {}", shown(&frame))));
            };
            self.ensure(
                source == self.id(from),
                format!("it from {}", self.id(from)),
                &source,
            )?;
            self.ensure(lane == Lane::Reliable, "it on the reliable lane", "BestEffort")?;
            if capabilities.ordered {
                let expected = format!("order: more than number {last:?}");
                self.ensure(last < Some(number), expected, format!("number {number}"))?;
            }
            last = Some(number);
            missing -= usize::from(!std::mem::replace(&mut seen[number], true));
            for _ in 0..yields {
                tokio::task::yield_now().await;
            }
        }
        Ok(())
    }

    /// A frame there and one back.
    pub(super) async fn exchange(&self, a: usize, b: usize) -> Verdict {
        for (from, to) in [(a, b), (b, a)] {
            let frame = Bytes::from(format!("from {} to {}", self.id(from), self.id(to)));
            for attempt in 0.. {
                self.send(from, to, Lane::Reliable, &frame).await?;
                match self.collect(to, from, std::slice::from_ref(&frame)).await {
                    Err(failure) if self.capabilities().reliable || attempt == 4 => return Err(failure),
                    Err(_) => {}
                    Ok(()) => break,
                }
            }
        }
        Ok(())
    }

    /// Whether `links()` is sorted and calls this peer `Up`.
    pub(super) fn sees_up(&self, member: usize, peer: &AgentId) -> Result<bool, Failure> {
        let links = self.members[member].transport.links();
        let sorted = links.windows(2).all(|pair| pair[0].peer < pair[1].peer);
        self.ensure(sorted, "links() sorted by peer, each once", format!("{links:?}"))?;
        Ok(links
            .iter()
            .any(|link| link.peer == *peer && link.state == LinkState::Up))
    }

    pub(super) async fn kill(&mut self, member: usize) -> AgentId {
        let Member { id, transport } = self.members.remove(member);
        drop(transport);
        self.fixture.kill(&id).await;
        id
    }

    /// The member comes back as the last one.
    pub(super) async fn restart(&mut self, id: AgentId) -> usize {
        let transport = self.fixture.restart(&id).await;
        self.members.push(Member { id, transport });
        self.members.len() - 1
    }

    /// Closes what is still there.
    pub(super) async fn finish(self) -> Verdict {
        for member in &self.members {
            let expected = format!("{} to close", member.id);
            // What it could not flush is no longer this case's concern.
            let _ = self.within(expected, member.transport.close()).await?;
        }
        Ok(())
    }
}

/// The next event; what a router says about its roads is its own affair. Cancel safe, as `recv` is.
pub(super) async fn next(transport: &dyn IfTransport) -> Result<TransportEvent, Closed> {
    loop {
        match transport.recv().await {
            Ok(TransportEvent::Road(_) | TransportEvent::Lost { .. }) => {}
            other => return other,
        }
    }
}

/// A frame of `size` bytes, at least 4, that no other number gives.
pub(super) fn numbered(number: usize, size: usize) -> Bytes {
    let mut frame = vec![0x5a; size.max(4)];
    frame[..4].copy_from_slice(&(number as u32).to_be_bytes());
    frame.into()
}

/// `size` bytes without a pattern: a linear congruential generator's upper bytes.
pub(super) fn noise(seed: u64, size: usize) -> Bytes {
    let mut state = seed;
    std::iter::repeat_with(|| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    })
    .take(size)
    .collect()
}

/// Polls a future this often, then drops it.
pub(super) async fn give_up_after<T>(polls: usize, future: impl Future<Output = T>) -> Option<T> {
    let mut future = std::pin::pin!(future);
    for _ in 0..polls {
        if let std::task::Poll::Ready(value) = futures::poll!(&mut future) {
            return Some(value);
        }
        tokio::task::yield_now().await;
    }
    None
}

/// An event for people: frames can be large.
pub(super) struct Shown<'e>(pub(super) &'e TransportEvent);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            TransportEvent::Frame {
                from, lane, frame, ..
            } => {
                write!(f, "a frame from {from} on {lane:?}: {}", shown(frame))
            }
            other => write!(f, "{other:?}"),
        }
    }
}

pub(super) fn shown(frame: &Bytes) -> String {
    let start = &frame[..frame.len().min(16)];
    format!("{} bytes, starting {start:02x?}", frame.len())
}
