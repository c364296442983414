//! Peers that register and negotiate in good order, and then say something else than their hello.
//!
//! Falsified by a link, or by a frame, that comes of it; or by a refusal that is not reported, or for another reason.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ifmesh_signaling::{
    Client, ClientConfig, DescriptionToSign, Event, IceCandidate, Role, Server, ServerConfig, SessionId,
    Sha256Digest, Signal, sdp_identity, sign_description,
};
use ifmesh_transport::{
    Clock as _, DownReason, IfTransport as _, LinkState, Splitter, SystemClock, TransportEvent,
};
use ifmsg::{AgentId, Identity};
use rand::{SeedableRng as _, rngs::StdRng};
use tokio::{sync::mpsc, time::timeout};

use crate::{
    PeerTrust, WebRtcConfig, WebRtcTransport,
    config::MAX_FRAME,
    engine::{Candidate, EngineConfig, Lane, Peer, PeerEvent},
    hello::{self, Facts},
};

const SOON: Duration = Duration::from_secs(20);

fn id(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

fn identity(name: &str) -> Identity {
    let mut seed = [0; 32];
    seed[..name.len()].copy_from_slice(name.as_bytes());
    Identity::from_seed(&seed)
}

fn random() -> StdRng {
    StdRng::seed_from_u64(3)
}

/// Alice is real; bob is played by the test. Keys as everybody expects them.
struct Stage {
    _server: Server,
    alice: Arc<WebRtcTransport>,
    bob: Client,
    engine: EngineConfig,
    /// Of the session ids that bob chooses.
    seed: u64,
}

/// A data channel to alice that is open, and alice's hello.
struct Channel {
    peer: Peer,
    happenings: mpsc::Receiver<PeerEvent>,
    facts: Facts,
    hello: Bytes,
}

impl Stage {
    async fn new() -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        let server = Server::bind(ServerConfig::new(listen, id("server-1")), random())
            .await
            .unwrap();
        let urls = [format!("ws://{}", server.local_addr())];
        let keys = |peer: &AgentId| PeerTrust::Key(*identity(peer.as_str()).public_key());
        let mut config = WebRtcConfig::new(id("alice"), identity("alice"), 1, &urls, Arc::new(keys));
        config.bind = vec![listen];
        config.limits.handshake_timeout = Duration::from_secs(1);
        let engine = config.engine();
        let alice = WebRtcTransport::start(config, Arc::new(SystemClock), Box::new(random()))
            .await
            .unwrap();
        let bob = ClientConfig::new(&urls, id("bob"), identity("bob"), 1);
        let bob = Client::connect(bob, random()).unwrap();
        Self {
            _server: server,
            alice,
            bob,
            engine,
            seed: 3,
        }
    }

    /// Offers, as bob, and negotiates until the channel is open and alice's hello is here.
    async fn channel(&mut self) -> Channel {
        let (to_bob, mut happenings) = mpsc::channel(64);
        let (peer, offer) = Peer::offer(&self.engine, to_bob).await.unwrap();
        let session = SessionId::random(&mut StdRng::seed_from_u64(self.seed));
        let to_sign = DescriptionToSign {
            from: &id("bob"),
            to: &id("alice"),
            session,
            role: Role::Offer,
            epoch: 1,
            sdp: &offer.sdp,
            expires: SystemClock.now().plus_millis(30_000),
        };
        let statement = sign_description(&identity("bob"), &to_sign).unwrap();
        let offer = Signal::Offer {
            sdp: offer.sdp,
            statement: Some(Box::new(statement)),
        };
        self.bob.send(id("alice"), offer).await.unwrap();
        let negotiation = async {
            let mut fingerprint = None;
            loop {
                tokio::select! {
                    event = self.bob.recv() => match event.unwrap() {
                        Event::Signal { signal: Signal::Answer { sdp, statement: Some(statement) }, .. }
                            if serde_json::to_value(&*statement).unwrap()["session"] == session.to_hex() =>
                        {
                            fingerprint = Some(sdp_identity(&sdp).unwrap().0);
                            peer.accept_answer(&sdp).await.unwrap();
                        }
                        Event::Signal { signal: Signal::Candidate(candidate), .. } => {
                            let candidate = Candidate {
                                candidate: candidate.candidate,
                                sdp_mid: candidate.sdp_mid,
                                sdp_m_line_index: candidate.sdp_mline_index,
                                username_fragment: candidate.username_fragment,
                            };
                            peer.add_candidate(candidate).await.unwrap();
                        }
                        _ => {}
                    },
                    happening = happenings.recv() => match happening.unwrap() {
                        PeerEvent::LocalCandidate(candidate) => {
                            let candidate = IceCandidate {
                                candidate: candidate.candidate,
                                sdp_mid: candidate.sdp_mid,
                                sdp_mline_index: candidate.sdp_m_line_index,
                                username_fragment: candidate.username_fragment,
                            };
                            self.bob.send(id("alice"), Signal::Candidate(candidate)).await.unwrap();
                        }
                        PeerEvent::Frame(Lane::Messaging, hello) => break (hello, fingerprint.unwrap()),
                        PeerEvent::Closed(reason) => panic!("closed: {reason:?}"),
                        _ => {}
                    },
                }
            }
        };
        let (hello, peer_fingerprint) = timeout(SOON, negotiation).await.expect("an open channel in time");
        let facts = Facts {
            agent: id("bob"),
            peer: id("alice"),
            key: *identity("alice").public_key(),
            session,
            epoch: 1,
            peer_epoch: 1,
            fingerprint: Sha256Digest::from_bytes(*peer.local_fingerprint().as_bytes()),
            peer_fingerprint,
        };
        Channel {
            peer,
            happenings,
            facts,
            hello,
        }
    }

    /// Alice's next event.
    async fn event(&self) -> TransportEvent {
        timeout(SOON, self.alice.recv())
            .await
            .expect("an event in time")
            .unwrap()
    }

    /// Alice refuses for this reason, closes the connection, and has no link.
    async fn refused(&self, channel: &mut Channel, expected: &str) {
        match self.event().await {
            TransportEvent::Refused { peer, reason, .. } => {
                assert_eq!((peer, reason), (Some(id("bob")), expected));
            }
            other => panic!("{expected} was expected: {other:?}"),
        }
        let closed =
            async { while !matches!(channel.happenings.recv().await, Some(PeerEvent::Closed(_)) | None) {} };
        timeout(SOON, closed).await.expect("a closed connection");
        assert!(self.alice.links().iter().all(|link| link.state != LinkState::Up));
    }
}

impl Channel {
    async fn say(&self, frame: impl Into<Bytes>) {
        self.peer.send(Lane::Messaging, frame.into()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_good_hello_makes_the_link() {
    let mut stage = Stage::new().await;
    let channel = stage.channel().await;
    assert_eq!(hello::read(&channel.hello, &channel.facts), Ok(MAX_FRAME));
    channel
        .say(hello::write(&identity("bob"), &channel.facts, 60_000))
        .await;
    channel.say("a frame").await;
    assert_eq!(stage.event().await, TransportEvent::LinkUp { peer: id("bob") });
    assert!(matches!(stage.event().await, TransportEvent::Frame { frame, .. } if frame == "a frame"));
    // Alice keeps to what bob takes.
    let send = |size| {
        let frame = Bytes::from(vec![0; size]);
        let envelope = ifmesh_transport::Envelope::new(id("bob"), ifmesh_transport::Lane::Reliable, frame);
        stage.alice.send(envelope)
    };
    let too_large = ifmesh_transport::SendError::TooLarge {
        size: 60_001,
        limit: 60_000,
    };
    assert_eq!(send(60_001).await, Err(too_large));
    assert_eq!(send(60_000).await, Ok(()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn anything_but_a_hello_closes_the_connection() {
    let mut stage = Stage::new().await;
    for first in ["a frame", "", "{}", "{\"type\":\"hello\"}", "IFB1"] {
        let mut channel = stage.channel().await;
        channel.say(first).await;
        // A good hello behind it comes too late, whether it still leaves or alice has closed by then.
        let hello = hello::write(&identity("bob"), &channel.facts, 65_536);
        let _ = channel.peer.send(Lane::Messaging, hello).await;
        stage.refused(&mut channel, "hello-malformed").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_hello_closes_the_connection_in_time() {
    let mut stage = Stage::new().await;
    let mut channel = stage.channel().await;
    stage.refused(&mut channel, "hello-missing").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hello_that_proves_something_else_closes_the_connection() {
    let mut stage = Stage::new().await;

    let mut channel = stage.channel().await;
    let former = hello::write(&identity("bob"), &channel.facts, 65_536);
    channel
        .say(hello::write(&identity("mallory"), &channel.facts, 65_536))
        .await;
    stage.refused(&mut channel, "hello-bad-signature").await;

    // Alice's own, sent back.
    let mut channel = stage.channel().await;
    channel.say(channel.hello.clone()).await;
    stage.refused(&mut channel, "hello-bad-signature").await;

    // Bob's own, of a connection before; the session is the same.
    let mut channel = stage.channel().await;
    channel.say(former).await;
    stage.refused(&mut channel, "hello-wrong-fingerprint").await;

    let mut channel = stage.channel().await;
    channel.facts.session = SessionId::from_bytes([9; 16]);
    channel
        .say(hello::write(&identity("bob"), &channel.facts, 65_536))
        .await;
    stage.refused(&mut channel, "hello-wrong-session").await;
}

/// After a good hello: chunks that lie, one after the other. Fails if a frame comes of one, if one is not refused by name, if
/// what is in order between them is lost, or if they go on for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chunks_that_lie_are_refused_by_name_and_then_end_the_link() {
    let mut stage = Stage::new().await;
    let mut channel = stage.channel().await;
    channel
        .say(hello::write(&identity("bob"), &channel.facts, MAX_FRAME))
        .await;
    assert_eq!(stage.event().await, TransportEvent::LinkUp { peer: id("bob") });
    let lie = |number| {
        let mut chunk = Splitter::new(number, Bytes::from(vec![7; 300]), 16_384)
            .next_chunk()
            .unwrap()
            .to_vec();
        chunk[300] ^= 1;
        chunk
    };
    let mut refused = 0;
    for number in 0..63 {
        channel.say(lie(number)).await;
        channel.say("a frame").await;
        loop {
            match stage.event().await {
                TransportEvent::Refused { peer, reason, .. } => {
                    assert_eq!((peer, reason), (Some(id("bob")), "chunk-wrong-digest"));
                    refused += 1;
                }
                TransportEvent::Frame { frame, .. } => {
                    assert_eq!(frame, "a frame");
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(refused > 0);
    assert_eq!(stage.alice.metrics().refused, 63);
    channel.say(lie(64)).await;
    let down = async {
        loop {
            match stage.event().await {
                TransportEvent::LinkDown { reason, .. } => return reason,
                TransportEvent::Refused { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    };
    assert_eq!(timeout(SOON, down).await, Ok(DownReason::Misbehaved));
    let closed =
        async { while !matches!(channel.happenings.recv().await, Some(PeerEvent::Closed(_)) | None) {} };
    timeout(SOON, closed).await.expect("a closed connection");
}

/// A peer with a good key does everything wrong: offers that it never follows up, ten thousand candidates, and, over a link, a
/// hundred thousand frames that it begins and never ends. Fails if another peer cannot link and talk meanwhile, if what is kept
/// of it has no bound, or if it is not told why it is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hostile_peer_is_bounded_and_harms_nobody_else() {
    let mut stage = Stage::new().await;
    let files = || std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
    let at_first = files();

    // Half-open: each offer verifies, and nothing follows.
    let (to_bob, _happenings) = mpsc::channel(64);
    let (_peer, offer) = Peer::offer(&stage.engine, to_bob).await.unwrap();
    for number in 0..200 {
        let to_sign = DescriptionToSign {
            from: &id("bob"),
            to: &id("alice"),
            session: SessionId::random(&mut StdRng::seed_from_u64(1_000 + number)),
            role: Role::Offer,
            epoch: 1,
            sdp: &offer.sdp,
            expires: SystemClock.now().plus_millis(30_000),
        };
        let statement = sign_description(&identity("bob"), &to_sign).unwrap();
        let offer = Signal::Offer {
            sdp: offer.sdp.clone(),
            statement: Some(Box::new(statement)),
        };
        stage.bob.send(id("alice"), offer).await.unwrap();
    }
    for number in 0..10_000 {
        let candidate = IceCandidate {
            candidate: format!("candidate:1 1 udp 1 127.0.0.1 {} typ host", 1_024 + number),
            ..IceCandidate::default()
        };
        stage
            .bob
            .send(id("alice"), Signal::Candidate(candidate))
            .await
            .unwrap();
    }

    // Meanwhile carol comes.
    let urls = [format!("ws://{}", stage._server.local_addr())];
    let keys = |peer: &AgentId| PeerTrust::Key(*identity(peer.as_str()).public_key());
    let mut config = WebRtcConfig::new(id("carol"), identity("carol"), 1, &urls, Arc::new(keys));
    config.bind = vec!["127.0.0.1:0".parse().unwrap()];
    let carol = WebRtcTransport::start(config, Arc::new(SystemClock), Box::new(random()))
        .await
        .unwrap();
    let mut reasons = std::collections::BTreeSet::new();
    loop {
        match stage.event().await {
            TransportEvent::LinkUp { peer } if peer == id("carol") => break,
            TransportEvent::Refused { peer, reason, .. } => {
                assert_eq!(peer, Some(id("bob")));
                reasons.insert(reason);
            }
            other => panic!("{other:?}"),
        }
    }
    // Neither sockets nor connections grow with what bob sends.
    assert!(files() < at_first + 60, "{} and {at_first} at first", files());

    // A channel, for once, over which frames begin.
    let mut channel = loop {
        // Until alice takes an offer of bob's again.
        match timeout(Duration::from_secs(3), Box::pin(stage.channel())).await {
            Ok(channel) => break channel,
            Err(_) => stage.seed += 1,
        }
    };
    channel
        .say(hello::write(&identity("bob"), &channel.facts, MAX_FRAME))
        .await;
    let frame = Bytes::from(vec![7; 2_000]);
    for number in 0..100_000 {
        let begun = Splitter::new(number, frame.clone(), 1_024).next_chunk().unwrap();
        if channel.peer.send(Lane::Messaging, begun).await.is_err() {
            break;
        }
    }
    loop {
        match stage.event().await {
            TransportEvent::LinkDown { peer, reason } => {
                assert_eq!((peer, reason), (id("bob"), DownReason::Misbehaved));
                break;
            }
            TransportEvent::Refused { peer, reason, .. } => {
                assert_eq!(peer, Some(id("bob")));
                reasons.insert(reason);
            }
            TransportEvent::LinkUp { peer } => assert_eq!(peer, id("bob")),
            other => panic!("{other:?}"),
        }
    }
    for reason in [
        "too-many-offers",
        "handshake-unfinished",
        "too-many-candidates",
        "chunk-too-many",
    ] {
        assert!(reasons.contains(reason), "{reason} is not among {reasons:?}");
    }
    assert!(stage.alice.metrics().signals_dropped > 1_000);
    let closed =
        async { while !matches!(channel.happenings.recv().await, Some(PeerEvent::Closed(_)) | None) {} };
    timeout(SOON, closed).await.expect("a closed connection");

    let envelope =
        ifmesh_transport::Envelope::new(id("carol"), ifmesh_transport::Lane::Reliable, "still here");
    stage.alice.send(envelope).await.unwrap();
    let heard = async {
        loop {
            if let TransportEvent::Frame { frame, .. } = carol.recv().await.unwrap() {
                return frame;
            }
        }
    };
    assert_eq!(timeout(SOON, heard).await.unwrap(), "still here");
}
