//! A backend in one file: unicast UDP between agents whose addresses are known. It promises little; the session mends it.
//!
//! A datagram is `kind u8 | life u64 | sent u64 | seen u64 | body`, of kind A (alive), R (reliable), B (best effort) or G
//! (goodbye). A peer is up while it is heard. `sent` and `seen` count bytes: who reads nothing gets nothing reliable more.
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, sync::Weak, time::Duration};

use ifmesh_transport::{Assembler, Capabilities, ChunkLimits, CloseError, Closed, DownReason, Envelope, IfTransport};
use ifmesh_transport::{Lane, LinkState, LinkStatus, SendError, Splitter, TransportEvent as Event};
use tokio::{net::UdpSocket, sync::Mutex, sync::mpsc, sync::watch, time, time::Instant};

const LIMIT: usize = 65_536; // the least that a backend carries in a frame,
const PART: usize = 16_384; // and what we put into a datagram
const WINDOW: u64 = 65_536; // bytes on their way to a peer: a socket's buffer holds them
const BEAT: Duration = Duration::from_millis(50);

/// Envelopes by UDP.
#[derive(Debug)]
pub struct Udp(Arc<watch::Sender<Peers>>, Mutex<mpsc::Receiver<Event>>);
type Peers = Option<BTreeMap<ifmsg::AgentId, Peer>>; // None: closed

#[derive(Debug)]
struct Peer {
    socket: Arc<UdpSocket>,
    address: SocketAddr,
    lives: (u64, u64),      // ours, and the peer's
    heard: Option<Instant>, // None: the link is down
    sent: AtomicU64,        // bytes to the peer,
    seen: u64,              // how many of them it says it read,
    read: u64,              // and how many of its own we did
    parts: Assembler,
}

impl Udp {
    /// `life` is greater at each start of an agent, as its epoch is. Must be called within a tokio runtime.
    pub fn start(socket: UdpSocket, life: u64, peers: Vec<(ifmsg::AgentId, SocketAddr)>) -> Self {
        let (socket, (sender, events)) = (Arc::new(socket), mpsc::channel(256));
        let limits = ChunkLimits { max_frame: LIMIT, ..ChunkLimits::default() };
        let peer = |(id, address)| {
            let (socket, lives, parts) = (socket.clone(), (life, 0), Assembler::new(limits));
            (id, Peer { socket, address, lives, heard: None, sent: 0.into(), seen: 0, read: 0, parts })
        };
        let shared = Arc::new(watch::Sender::new(Some(peers.into_iter().map(peer).collect())));
        tokio::spawn(drive(Arc::downgrade(&shared), socket, sender));
        Self(shared, events.into())
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
        let mut sent = Ok(false);
        let room = |peers: &Peers| {
            sent = send(peers, &envelope);
            !matches!(sent, Ok(false))
        };
        _ = self.0.subscribe().wait_for(room).await;
        sent.map(drop)
    }
    async fn recv(&self) -> Result<Event, Closed> {
        self.1.lock().await.recv().await.ok_or(Closed)
    }
    fn links(&self) -> Vec<LinkStatus> {
        let state = |peer: &Peer| peer.heard.map_or(LinkState::Down, |_| LinkState::Up);
        self.0.borrow().iter().flatten().map(|(id, peer)| LinkStatus::new(id.clone(), state(peer))).collect()
    }
    async fn close(&self) -> Result<(), CloseError> {
        let peers = self.0.send_replace(None); // what was accepted has left
        peers.iter().flatten().for_each(|(_, peer)| write(peer, b'G', &[]));
        Ok(())
    }
}

/// Whether there was room for it.
fn send(peers: &Peers, envelope: &Envelope) -> Result<bool, SendError> {
    let (to, kind) = (envelope.peer(LIMIT)?, if envelope.lane == Lane::Reliable { b'R' } else { b'B' });
    let peers = peers.as_ref().ok_or(SendError::Closed)?;
    let peer = peers.get(to).filter(|peer| peer.heard.is_some()).ok_or(SendError::NoLink(to.clone()))?;
    if kind == b'R' && peer.sent.load(Relaxed).saturating_sub(peer.seen) >= WINDOW {
        return Ok(false);
    }
    let number = peer.sent.fetch_add(envelope.frame.len() as u64 + 1_024, Relaxed);
    Splitter::cut(number, envelope.frame.clone(), PART).for_each(|part| write(peer, kind, &part));
    Ok(true)
}

fn on_datagram(peers: &mut Peers, from: SocketAddr, bytes: &[u8], events: &mut Vec<Event>) {
    let Some((head, body)) = bytes.split_first_chunk::<25>() else { return };
    let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|byte| head[at + byte]));
    let (kind, life, now) = (head[0], number(1), Instant::now());
    let known = |(_, peer): &(_, &mut Peer)| peer.address == from && peer.lives.1 <= life;
    let Some((id, peer)) = peers.iter_mut().flatten().find(known) else { return }; // a stranger, or a life that is over
    if life > peer.lives.1 || kind == b'G' {
        let reason = if kind == b'G' { DownReason::PeerClosed } else { DownReason::Replaced };
        events.extend(peer.heard.take().map(|_| Event::LinkDown { peer: id.clone(), reason }));
        (peer.lives.1, peer.seen, peer.read) = (life.saturating_add((kind == b'G').into()), 0, 0);
    }
    if kind != b'G' && peer.heard.replace(now).is_none() {
        events.push(Event::LinkUp { peer: id.clone() });
    }
    (peer.seen, peer.read) = (peer.seen.max(number(17)), peer.read.max(number(9)));
    if matches!(kind, b'R' | b'B')
        && let Ok(Some(frame)) = peer.parts.accept(bytes::Bytes::copy_from_slice(body), now)
    {
        write(peer, b'A', &[]);
        let lane = if kind == b'R' { Lane::Reliable } else { Lane::BestEffort };
        events.push(Event::Frame { from: id.clone(), lane, frame, road: None });
    }
}

fn on_beat(peers: &mut Peers, was_away: bool, events: &mut Vec<Event>) {
    for (id, peer) in peers.iter_mut().flatten() {
        if was_away {
            peer.heard = peer.heard.map(|_| Instant::now()); // who does not listen calls nobody silent
        } else if peer.heard.is_some_and(|heard| heard.elapsed() > 30 * BEAT) {
            peer.heard = None;
            events.push(Event::LinkDown { peer: id.clone(), reason: DownReason::Timeout });
        }
        peer.parts.expire(Instant::now());
        write(peer, b'A', &[]);
    }
}

fn write(peer: &Peer, kind: u8, body: &[u8]) {
    let numbers = [peer.lives.0, peer.sent.load(Relaxed), peer.read].map(u64::to_be_bytes).concat();
    _ = peer.socket.try_send_to(&[&[kind], &numbers[..], body].concat(), peer.address); // or it is lost, as on the wire
}

/// While events wait for the application nothing is read, so that peers wait as well.
async fn drive(shared: Weak<watch::Sender<Peers>>, socket: Arc<UdpSocket>, events: mpsc::Sender<Event>) {
    let (mut bytes, mut waiting, mut beat) = (vec![0; 65_536], Vec::new(), time::interval(BEAT));
    while let Some(shared) = shared.upgrade().filter(|open| open.borrow().is_some()) {
        tokio::select! {
            Ok(room) = events.reserve(), if !waiting.is_empty() => room.send(waiting.remove(0)),
            Ok((size, from)) = socket.recv_from(&mut bytes), if waiting.is_empty() =>
                shared.send_modify(|peers| on_datagram(peers, from, &bytes[..size], &mut waiting)),
            due = beat.tick() => // late, or with events that wait: we were away
                shared.send_modify(|peers| on_beat(peers, due.elapsed() > 4 * BEAT || !waiting.is_empty(), &mut waiting)),
        }
    }
}
