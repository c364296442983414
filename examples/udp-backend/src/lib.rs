//! A backend in one file: unicast UDP between agents whose addresses are known. It promises little; the session mends it.
//!
//! A datagram is `kind u8 | life u64 | sent u64 | seen u64 | body`, of kind A (alive), R (reliable), B (best effort) or
//! G (goodbye). A peer is up while it is heard. `sent` and `seen` count bytes: who reads nothing is sent nothing more that
//! is reliable.
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use ifmesh_transport::{Assembler, Capabilities, ChunkLimits, CloseError, Closed, DownReason, Envelope, IfTransport};
use ifmesh_transport::{Lane, LinkState, LinkStatus, SendError, Splitter, TransportEvent as Event};
use tokio::{net::UdpSocket, sync::Mutex, sync::mpsc, sync::watch, task::AbortHandle, time, time::Instant};

const LIMIT: usize = 65_536; // the least that a backend carries in a frame,
const PART: usize = 16_384; // and what we put into a datagram
const WINDOW: u64 = 65_536; // bytes on their way to a peer: a socket's buffer holds them
const BEAT: Duration = Duration::from_millis(50);

/// Envelopes by UDP.
#[derive(Debug)]
pub struct Udp(Arc<watch::Sender<Option<Open>>>, Mutex<mpsc::Receiver<Event>>, AbortHandle);

/// The state until `close`.
#[derive(Debug)]
struct Open {
    socket: Arc<UdpSocket>,
    life: u64,
    peers: BTreeMap<ifmsg::AgentId, Peer>,
}

#[derive(Debug)]
struct Peer {
    address: SocketAddr,
    life: u64,
    heard: Option<Instant>, // None: the link is down
    ours: (u64, u64),       // sent by us, and seen by the peer
    theirs: u64,            // sent by the peer, and read here
    parts: Assembler,
}

impl Udp {
    /// `life` is greater at each start of an agent, as its epoch is. Must be called within a tokio runtime.
    pub fn start(socket: UdpSocket, life: u64, peers: Vec<(ifmsg::AgentId, SocketAddr)>) -> Self {
        let (socket, (sender, events)) = (Arc::new(socket), mpsc::channel(256));
        let limits = ChunkLimits { max_frame: LIMIT, ..ChunkLimits::default() };
        let peer =
            |address| Peer { address, life: 0, heard: None, ours: (0, 0), theirs: 0, parts: Assembler::new(limits) };
        let peers = peers.into_iter().map(|(id, address)| (id, peer(address))).collect();
        let shared = Arc::new(watch::Sender::new(Some(Open { socket: socket.clone(), life, peers })));
        let task = tokio::spawn(drive(shared.clone(), socket, sender)).abort_handle();
        Self(shared, events.into(), task)
    }
}

#[async_trait::async_trait]
impl IfTransport for Udp {
    fn name(&self) -> &str {
        "udp"
    }
    fn capabilities(&self) -> Capabilities {
        Capabilities { max_frame: LIMIT, ordered: false, reliable: false, broadcast: false }
    }
    async fn send(&self, envelope: Envelope) -> Result<(), SendError> {
        tokio::task::consume_budget().await; // a loop that only sends lets others run
        let (mut changed, mut sent) = (self.0.subscribe(), Ok(false));
        loop {
            self.0.send_if_modified(|open| {
                sent = open.as_mut().map_or(Err(SendError::Closed), |open| open.send(&envelope));
                false
            });
            match sent {
                Ok(false) => _ = changed.changed().await,
                _ => return sent.map(|_| ()),
            }
        }
    }
    async fn recv(&self) -> Result<Event, Closed> {
        self.1.lock().await.recv().await.ok_or(Closed)
    }
    fn links(&self) -> Vec<LinkStatus> {
        let state = |peer: &Peer| peer.heard.map_or(LinkState::Down, |_| LinkState::Up);
        let link = |(id, peer): (&ifmsg::AgentId, &Peer)| LinkStatus::new(id.clone(), state(peer));
        self.0.borrow().iter().flat_map(|open| &open.peers).map(link).collect()
    }
    async fn close(&self) -> Result<(), CloseError> {
        let open = self.0.send_replace(None); // what was accepted has left
        open.iter()
            .for_each(|open| open.peers.values().for_each(|peer| peer.write(&open.socket, open.life, b'G', &[])));
        self.2.abort();
        Ok(())
    }
}

impl Drop for Udp {
    fn drop(&mut self) {
        self.2.abort();
    }
}

impl Open {
    /// Whether there was room for it.
    fn send(&mut self, envelope: &Envelope) -> Result<bool, SendError> {
        let (to, kind) = (envelope.peer(LIMIT)?, if envelope.lane == Lane::Reliable { b'R' } else { b'B' });
        let peer = self.peers.get_mut(to).filter(|peer| peer.heard.is_some()).ok_or(SendError::NoLink(to.clone()))?;
        if kind == b'R' && peer.ours.0.saturating_sub(peer.ours.1) >= WINDOW {
            return Ok(false);
        }
        peer.ours.0 += envelope.frame.len() as u64 + 1_024;
        let parts = Splitter::cut(peer.ours.0, envelope.frame.clone(), PART);
        parts.for_each(|part| peer.write(&self.socket, self.life, kind, &part));
        Ok(true)
    }

    fn on_datagram(&mut self, from: SocketAddr, bytes: &[u8], events: &mut Vec<Event>) {
        let Some((head, body)) = bytes.split_first_chunk::<25>() else { return };
        let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|byte| head[at + byte]));
        let (kind, life, now) = (head[0], number(1), Instant::now());
        let mut peers = self.peers.iter_mut(); // strangers, and lives that are over, are not heard
        let Some((id, peer)) = peers.find(|(_, peer)| peer.address == from && peer.life <= life) else { return };
        if life > peer.life || kind == b'G' {
            let reason = if kind == b'G' { DownReason::PeerClosed } else { DownReason::Replaced };
            events.extend(peer.heard.take().map(|_| Event::LinkDown { peer: id.clone(), reason }));
            (peer.life, peer.ours.1, peer.theirs) = (life.saturating_add((kind == b'G').into()), 0, 0);
        }
        if kind != b'G' && peer.heard.replace(now).is_none() {
            events.push(Event::LinkUp { peer: id.clone() });
        }
        (peer.ours.1, peer.theirs) = (peer.ours.1.max(number(17)), peer.theirs.max(number(9)));
        if matches!(kind, b'R' | b'B')
            && let Ok(Some(frame)) = peer.parts.accept(bytes::Bytes::copy_from_slice(body), now)
        {
            peer.write(&self.socket, self.life, b'A', &[]);
            let lane = if kind == b'R' { Lane::Reliable } else { Lane::BestEffort };
            events.push(Event::Frame { from: id.clone(), lane, frame, road: None });
        }
    }

    fn on_beat(&mut self, was_away: bool, events: &mut Vec<Event>) {
        for (id, peer) in &mut self.peers {
            if was_away {
                peer.heard = peer.heard.map(|_| Instant::now()); // who does not listen calls nobody silent
            } else if peer.heard.is_some_and(|heard| heard.elapsed() > 30 * BEAT) {
                peer.heard = None;
                events.push(Event::LinkDown { peer: id.clone(), reason: DownReason::Timeout });
            }
            peer.parts.expire(Instant::now());
            peer.write(&self.socket, self.life, b'A', &[]);
        }
    }
}

impl Peer {
    fn write(&self, socket: &UdpSocket, life: u64, kind: u8, body: &[u8]) {
        let numbers = [life, self.ours.0, self.theirs].map(u64::to_be_bytes).concat();
        _ = socket.try_send_to(&[&[kind], &numbers[..], body].concat(), self.address); // or it is lost, as on the wire
    }
}

/// While events wait for the application nothing is read, so that peers wait as well.
async fn drive(shared: Arc<watch::Sender<Option<Open>>>, socket: Arc<UdpSocket>, events: mpsc::Sender<Event>) {
    let (mut bytes, mut waiting, mut beat) = (vec![0; 65_536], Vec::new(), time::interval(BEAT));
    loop {
        tokio::select! {
            Ok(room) = events.reserve(), if !waiting.is_empty() => room.send(waiting.remove(0)),
            Ok((size, from)) = socket.recv_from(&mut bytes), if waiting.is_empty() => shared.send_modify(|open| {
                open.iter_mut().for_each(|open| open.on_datagram(from, &bytes[..size], &mut waiting));
            }),
            due = beat.tick() => shared.send_modify(|open| {
                let away = due.elapsed() > 4 * BEAT || !waiting.is_empty();
                open.iter_mut().for_each(|open| open.on_beat(away, &mut waiting));
            }),
        }
    }
}
