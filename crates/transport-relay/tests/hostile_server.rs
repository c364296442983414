//! A signaling server that invents peers, repeats and changes what it carries, and peers that lie. All that gains them is that a
//! link does not come up, or goes down.
//!
//! Falsified by a link that a server makes by itself; by a lie that is not told of by its name; by memory that a stranger fills.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test")]

mod common;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use common::*;
use futures::{SinkExt as _, StreamExt as _};
use ifmesh_signaling::RelayFrame;
use ifmesh_transport::{DownReason, IfTransport as _, LinkState, TransportEvent};
use ifmesh_transport_relay::RelayTransport;
use ifmsg::{Identity, Statement, StatementKind};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, accept_async, tungstenite::Message};

/// The server that alice is registered with. It has no key of bob's, but for those tests that play an honest bob.
struct Puppet {
    socket: WebSocketStream<TcpStream>,
    alice: Arc<RelayTransport>,
}

/// What a hello says; each test changes what it wants to lie about.
#[derive(Clone)]
struct Hello {
    from: &'static str,
    to: &'static str,
    epoch: u64,
    nonce: String,
    echo: String,
    window: u64,
    max_frame: u64,
}

fn hello(echo: &str) -> Hello {
    Hello {
        from: "bob",
        to: "alice",
        epoch: 7,
        nonce: "b0".repeat(16),
        echo: echo.to_owned(),
        window: 262_144,
        max_frame: 1 << 20,
    }
}

impl Hello {
    /// Written out from PROTOCOL.md, not by the code under test.
    fn signed_by(&self, signer: &Identity) -> Vec<u8> {
        let statement = Statement::new(StatementKind::RelayHello)
            .part("1")
            .part(self.from)
            .part(self.to)
            .number(self.epoch)
            .part(&self.nonce)
            .part(&self.echo)
            .number(self.window)
            .number(self.max_frame);
        let hello = json!({"type": "relay-hello", "version": "1", "from": self.from, "to": self.to, "epoch": self.epoch,
            "nonce": self.nonce, "echo": self.echo, "window": self.window, "max_frame": self.max_frame,
            "signature": signer.sign_statement(&statement).to_hex()});
        [b"\x03".to_vec(), hello.to_string().into_bytes()].concat()
    }

    fn by_bob(&self) -> Vec<u8> {
        self.signed_by(&identity("bob"))
    }
}

impl Puppet {
    /// Alice has just registered, and is told that these are there.
    async fn new(agents: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let (alice, socket) = tokio::join!(join(&url, "alice", 1), welcome(&listener, agents));
        Self { socket, alice }
    }

    /// The next thing that alice says to somebody: to whom, and what.
    async fn heard(&mut self) -> (String, Bytes) {
        loop {
            match timeout(SOON, self.socket.next()).await.unwrap().unwrap().unwrap() {
                Message::Binary(frame) => {
                    let frame = RelayFrame::decode(&frame).unwrap();
                    return (frame.agent.to_string(), frame.body);
                }
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn heard_hello(&mut self) -> Value {
        loop {
            let (_, body) = self.heard().await;
            if body[0] == 3 {
                return serde_json::from_slice(&body[1..]).unwrap();
            }
        }
    }

    async fn say_as(&mut self, from: &str, body: Vec<u8>) {
        let frame = RelayFrame {
            agent: id(from),
            body: body.into(),
        };
        let frame = Message::Binary(frame.encode());
        timeout(SOON, self.socket.send(frame)).await.unwrap().unwrap();
    }

    async fn say(&mut self, body: Vec<u8>) {
        self.say_as("bob", body).await;
    }

    /// Over the link with alice: the first eight bytes of her nonce go with it.
    async fn say_linked(&mut self, nonce: &str, kind: u8, rest: &[u8]) {
        let tag = (0..16)
            .step_by(2)
            .map(|at| u8::from_str_radix(&nonce[at..at + 2], 16).unwrap());
        let body = [vec![kind], tag.collect(), rest.to_vec()].concat();
        self.say(body).await;
    }

    /// Plays an honest bob until alice has the link; her nonce.
    async fn link(&mut self) -> String {
        let nonce = self.heard_hello().await["nonce"].as_str().unwrap().to_owned();
        self.say(hello(&nonce).by_bob()).await;
        up(&*self.alice, "bob").await;
        nonce
    }

    async fn refusal(&mut self) -> &'static str {
        match event(&*self.alice).await {
            TransportEvent::Refused { peer, reason, .. } => {
                assert_eq!(peer, Some(id("bob")));
                reason
            }
            other => panic!("a refusal was expected: {other:?}"),
        }
    }

    async fn down(&mut self) -> DownReason {
        match event(&*self.alice).await {
            TransportEvent::LinkDown { reason, .. } => reason,
            other => panic!("a LinkDown was expected: {other:?}"),
        }
    }

    fn no_link(&self) {
        assert_eq!(self.alice.metrics().links_up, 0);
        assert!(self.alice.links().iter().all(|link| link.state != LinkState::Up));
    }
}

/// Takes a registration of alice's, and tells her that these are there.
async fn welcome(listener: &TcpListener, agents: &[&str]) -> WebSocketStream<TcpStream> {
    let (stream, _) = listener.accept().await.unwrap();
    let mut socket = accept_async(stream).await.unwrap();
    let register = socket.next().await.unwrap().unwrap().into_text().unwrap();
    assert!(register.contains(r#""role":"relay""#), "{register}");
    let registered = json!({"type": "registered", "agent_id": "alice", "connected_agents": agents,
        "relay": {"max_frame": 66_560, "pair_bytes": 524_288}});
    let registered = Message::Text(registered.to_string().into());
    socket.send(registered).await.unwrap();
    socket
}

/// The premise of all tests here: with bob's key it works.
#[tokio::test]
async fn who_has_the_key_and_echoes_the_nonce_is_linked() {
    let mut puppet = Puppet::new(&["bob"]).await;
    puppet.link().await;
    // And alice proves herself in turn.
    assert_eq!(puppet.heard_hello().await["echo"], "b0".repeat(16));
}

#[tokio::test]
async fn a_server_cannot_invent_a_peer() {
    let mut puppet = Puppet::new(&["bob"]).await;
    let mine = puppet.heard_hello().await;
    let nonce = mine["nonce"].as_str().unwrap().to_owned();
    let stranger = identity("mallory");
    let by = |change: &dyn Fn(&mut Hello)| {
        let mut hello = hello(&nonce);
        change(&mut hello);
        hello
    };
    let own = [b"\x03".to_vec(), mine.to_string().into_bytes()].concat();
    let mut changed = hello(&nonce).by_bob();
    let at = changed.windows(7).position(|w| w == b"epoch\":").unwrap() + 7;
    changed[at] = b'8';
    let mut more = hello(&nonce).by_bob();
    more.truncate(more.len() - 1);
    more.extend(br#","more":1}"#);
    for (lie, reason) in [
        (hello(&nonce).signed_by(&stranger), "hello-bad-signature"),
        (own, "hello-bad-signature"),
        (changed, "hello-bad-signature"),
        (by(&|hello| hello.to = "carol").by_bob(), "hello-wrong-names"),
        (by(&|hello| hello.from = "carol").by_bob(), "hello-wrong-names"),
        (by(&|hello| hello.max_frame = 0).by_bob(), "hello-malformed"),
        (
            by(&|hello| hello.nonce = "B0".repeat(16)).by_bob(),
            "hello-malformed",
        ),
        (more, "hello-malformed"),
        (b"\x03{}".to_vec(), "hello-malformed"),
        (b"\x08what".to_vec(), "relay-malformed"),
        (b"".to_vec(), "relay-malformed"),
    ] {
        let shown = String::from_utf8_lossy(&lie).into_owned();
        puppet.say(lie).await;
        assert_eq!(puppet.refusal().await, reason, "{shown}");
    }
    puppet.no_link();
}

/// A hello of bob's from yesterday echoes a nonce of yesterday.
#[tokio::test]
async fn an_old_hello_makes_no_link_and_gets_an_answer() {
    let mut puppet = Puppet::new(&["bob"]).await;
    let nonce = puppet.heard_hello().await["nonce"].clone();
    for echo in ["", &"a1".repeat(16)] {
        puppet.say(hello(echo).by_bob()).await;
        let answer = puppet.heard_hello().await;
        assert_eq!(
            (&answer["nonce"], &answer["echo"]),
            (&nonce, &json!("b0".repeat(16)))
        );
    }
    puppet.no_link();
    // Frames that were never preceded by a link are nothing.
    puppet.say_linked(&"a1".repeat(16), 1, b"frame").await;
    puppet.say_linked(nonce.as_str().unwrap(), 1, b"frame").await;
    // Still open to the true one.
    puppet.say(hello(nonce.as_str().unwrap()).by_bob()).await;
    up(&*puppet.alice, "bob").await;
    assert_eq!(puppet.alice.metrics().ignored, 2);
}

/// Fails if what belongs to a former link is taken for the present one.
#[tokio::test]
async fn frames_of_a_former_link_are_nothing() {
    let mut puppet = Puppet::new(&["bob"]).await;
    let former = puppet.link().await;
    // Bob begins anew, as after a loss of his connection.
    let later = Hello {
        nonce: "b1".repeat(16),
        ..hello("")
    };
    puppet.say(later.by_bob()).await;
    let answer = loop {
        let answer = puppet.heard_hello().await;
        if answer["echo"] == later.nonce {
            break answer;
        }
    };
    let nonce = answer["nonce"].as_str().unwrap().to_owned();
    // Unproven, it has not touched the link that is up.
    puppet.say_linked(&former, 1, b"one").await;
    receives(&*puppet.alice, "bob", b"one").await;
    puppet
        .say(
            Hello {
                echo: nonce.clone(),
                ..later
            }
            .by_bob(),
        )
        .await;
    assert_eq!(puppet.down().await, DownReason::Replaced);
    up(&*puppet.alice, "bob").await;
    puppet.say_linked(&former, 1, b"two").await;
    puppet.say_linked(&former, 5, b"").await;
    puppet.say_linked(&nonce, 1, b"three").await;
    receives(&*puppet.alice, "bob", b"three").await;
    assert_eq!(puppet.alice.metrics().ignored, 2);
    // A hello of an earlier life, however well signed, changes nothing.
    let early = Hello {
        epoch: 6,
        nonce: "b2".repeat(16),
        ..hello(&nonce)
    };
    puppet.say(early.by_bob()).await;
    assert_eq!(puppet.refusal().await, "hello-stale-epoch");
    puppet.say_linked(&nonce, 1, b"four").await;
    receives(&*puppet.alice, "bob", b"four").await;
}

#[tokio::test]
async fn who_takes_more_than_was_sent_or_sends_more_than_was_granted_is_cut_off() {
    let mut puppet = Puppet::new(&["bob"]).await;
    let nonce = puppet.link().await;
    puppet.say_linked(&nonce, 4, &1u64.to_be_bytes()).await;
    assert_eq!(puppet.refusal().await, "credit-beyond-sent");
    assert_eq!(puppet.down().await, DownReason::Misbehaved);

    let mut puppet = Puppet::new(&["bob"]).await;
    let nonce = puppet.link().await;
    // Nobody reads: half a window may wait unread, then a window be on its way.
    for _ in 0..30 {
        puppet.say_linked(&nonce, 1, &[0; 16_000]).await;
    }
    let cut_off = async {
        while puppet.alice.metrics().refused == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, cut_off).await.unwrap();
    let mut frames = 0;
    loop {
        match event(&*puppet.alice).await {
            TransportEvent::Frame { .. } => frames += 1,
            TransportEvent::Refused { reason, .. } => break assert_eq!(reason, "window-exceeded"),
            other => panic!("{other:?}"),
        }
    }
    assert!((16..=25).contains(&frames), "{frames}");
    assert_eq!(puppet.down().await, DownReason::Misbehaved);
}

#[tokio::test]
async fn chunks_that_lie_are_refused_and_the_link_stays() {
    let mut puppet = Puppet::new(&["bob"]).await;
    let nonce = puppet.link().await;
    let chunk = |total: u32, part: &[u8]| {
        [
            &b"IFC1"[..],
            &1u64.to_be_bytes(),
            &0u32.to_be_bytes(),
            &1u32.to_be_bytes(),
            &total.to_be_bytes(),
            &[0; 32],
            part,
        ]
        .concat()
    };
    puppet.say_linked(&nonce, 1, &chunk(4, b"liar")).await;
    assert_eq!(puppet.refusal().await, "chunk-wrong-digest");
    puppet.say_linked(&nonce, 2, &chunk(u32::MAX, b"liar")).await;
    let reason = puppet.refusal().await;
    assert!(reason.starts_with("chunk-"), "{reason}");
    puppet.say_linked(&nonce, 1, b"truth").await;
    receives(&*puppet.alice, "bob", b"truth").await;
}

/// Each hello costs a verification: of one peer, few are looked at.
#[tokio::test]
async fn a_flood_of_hellos_is_looked_at_in_small_part() {
    let mut puppet = Puppet::new(&["bob"]).await;
    let bad = hello("").signed_by(&identity("mallory"));
    for _ in 0..2_000 {
        puppet.say(bad.clone()).await;
    }
    let nonce = puppet.heard_hello().await["nonce"].as_str().unwrap().to_owned();
    let waited = async {
        while puppet.alice.metrics().ignored + puppet.alice.metrics().refused < 2_000 {
            tokio::task::yield_now().await;
        }
    };
    timeout(SOON, waited).await.unwrap();
    let refused = puppet.alice.metrics().refused;
    assert!(refused < 200, "{refused} of 2000 were verified");
    // And the true one gets through, if later.
    let linked = async {
        while puppet.alice.metrics().links_up == 0 {
            puppet.say(hello(&nonce).by_bob()).await;
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    timeout(SOON, linked).await.unwrap();
}

#[tokio::test]
async fn a_crowd_of_invented_peers_is_bounded() {
    let mut puppet = Puppet::new(&[]).await;
    for n in 0..5_000 {
        puppet.say_as(&format!("nobody-{n}"), hello("").by_bob()).await;
    }
    puppet.say_as("bob", b"\x08".to_vec()).await;
    let told = async {
        loop {
            if let TransportEvent::Refused {
                reason: "relay-malformed",
                ..
            } = event(&*puppet.alice).await
            {
                break;
            }
        }
    };
    // The last one may find no room to be told of: what counts is that there are no more than may be.
    let _ = timeout(std::time::Duration::from_secs(2), told).await;
    assert!(
        puppet.alice.links().len() <= 256,
        "{}",
        puppet.alice.links().len()
    );
    puppet.no_link();
}

/// As after a change of address: what goes out reaches nobody, and TCP tells nobody. Left alone, the client would find out after
/// 30 s, and a link is given up after 20: longer than the test waits.
#[tokio::test]
async fn a_server_from_which_nothing_comes_any_more_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let mut config = config(&url, "alice", 1);
    config.limits.ping_interval = Duration::from_millis(500);
    let (alice, socket) = tokio::join!(start(config), welcome(&listener, &["bob"]));
    let mut puppet = Puppet { socket, alice };
    puppet.link().await;
    // And now it neither reads nor writes.
    let mut again = timeout(SOON / 2, welcome(&listener, &["bob"])).await.unwrap();
    assert_eq!(puppet.down().await, DownReason::Network);
    std::mem::swap(&mut puppet.socket, &mut again);
    puppet.link().await;
}

/// A server that answers what it is asked is kept, though its only peer is silent.
#[tokio::test]
async fn a_silent_peer_is_no_reason_to_leave_the_server() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}", listener.local_addr().unwrap());
    let mut config = config(&url, "alice", 1);
    config.limits.ping_interval = Duration::from_millis(500);
    config.limits.silence = Duration::from_secs(6);
    let (alice, socket) = tokio::join!(start(config), welcome(&listener, &["bob"]));
    let mut puppet = Puppet { socket, alice };
    puppet.link().await;
    let deadline = tokio::time::Instant::now() + SOON;
    // The puppet reads on, so that alice's questions to it are answered; bob answers nothing.
    let reason = loop {
        tokio::select! {
            event = event(&*puppet.alice) => if let TransportEvent::LinkDown { reason, .. } = event {
                break reason;
            },
            message = puppet.socket.next() => {
                message.unwrap().unwrap();
            }
            () = tokio::time::sleep_until(deadline) => panic!("the link stays"),
        }
    };
    assert_eq!(
        reason,
        DownReason::Timeout,
        "the link ended by itself, not with the server"
    );
}
