//! A server on loopback, and a client so plain that it can misbehave.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "shared by all tests; each uses a part"
)]

use std::{net::SocketAddr, time::Duration};

use futures::{SinkExt as _, StreamExt as _};
use ifmesh_signaling::{
    Client, ClientConfig, Event, FrameLimits, RegistrationMode, Server, ServerConfig, ServerFrame,
    registration_statement,
};
use ifmsg::{AgentId, Identity};
use rand::{SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async, tungstenite::Message};

/// Nothing here takes longer unless it never happens.
pub(crate) const SOON: Duration = Duration::from_secs(10);

pub(crate) fn id(text: &str) -> AgentId {
    AgentId::new(text).unwrap()
}

pub(crate) fn identity(seed: u8) -> Identity {
    Identity::from_seed(&[seed; 32])
}

pub(crate) fn random() -> StdRng {
    StdRng::from_seed([9; 32])
}

pub(crate) fn config() -> ServerConfig {
    ServerConfig::new("127.0.0.1:0".parse().unwrap(), id("server-1"))
}

pub(crate) fn open() -> ServerConfig {
    let mut config = config();
    config.mode = RegistrationMode::Open;
    config
}

pub(crate) async fn start(config: ServerConfig) -> Server {
    Server::bind(config, random()).await.unwrap()
}

pub(crate) fn url(address: SocketAddr) -> String {
    format!("ws://{address}")
}

/// Our own client, reconnecting fast.
pub(crate) fn client(server: &Server, name: &str, seed: u8, epoch: u64) -> Client {
    let config = ClientConfig::new([url(server.local_addr())], id(name), identity(seed), epoch);
    Client::connect(config, random()).unwrap()
}

pub(crate) async fn event(client: &mut Client) -> Event {
    timeout(SOON, client.recv())
        .await
        .expect("an event")
        .expect("not the end")
}

/// Events until one fits.
pub(crate) async fn event_where(client: &mut Client, fits: impl Fn(&Event) -> bool) -> Event {
    loop {
        let event = event(client).await;
        if fits(&event) {
            return event;
        }
    }
}

pub(crate) async fn registered(client: &mut Client) -> Vec<AgentId> {
    match event_where(client, |event| matches!(event, Event::Registered { .. })).await {
        Event::Registered { agents, .. } => agents.into_iter().map(|agent| agent.agent_id).collect(),
        _ => unreachable!(),
    }
}

/// A WebSocket without manners.
pub(crate) struct Raw {
    pub(crate) socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

impl Raw {
    pub(crate) async fn connect(server: &Server) -> Self {
        Self::connect_to(&url(server.local_addr())).await
    }

    pub(crate) async fn connect_to(url: &str) -> Self {
        let (socket, _) = timeout(SOON, connect_async(url)).await.unwrap().unwrap();
        Self { socket }
    }

    pub(crate) async fn send(&mut self, text: impl Into<String>) {
        self.send_message(Message::Text(text.into().into())).await;
    }

    pub(crate) async fn send_message(&mut self, message: Message) {
        timeout(SOON, self.socket.send(message)).await.unwrap().unwrap();
    }

    /// The next text frame.
    pub(crate) async fn text(&mut self) -> String {
        loop {
            match timeout(SOON, self.socket.next()).await.expect("a frame") {
                Some(Ok(Message::Text(text))) => return text.as_str().to_owned(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("a text frame was expected: {other:?}"),
            }
        }
    }

    pub(crate) async fn frame(&mut self) -> ServerFrame {
        let text = self.text().await;
        let limits = FrameLimits {
            max_bytes: 1 << 20,
            max_agents: 4096,
        };
        ServerFrame::parse(&text, &limits).unwrap()
    }

    pub(crate) async fn json(&mut self) -> Value {
        serde_json::from_str(&self.text().await).unwrap()
    }

    /// The `code` of the next frame, which is an error.
    pub(crate) async fn error_code(&mut self) -> String {
        let frame = self.json().await;
        assert_eq!(frame["type"], "error", "{frame}");
        frame["code"].as_str().unwrap_or_default().to_owned()
    }

    /// The code of the close frame, whatever comes before it; `None` if the connection just ended.
    pub(crate) async fn close_code(&mut self) -> Option<u16> {
        loop {
            match timeout(SOON, self.socket.next()).await.expect("the end") {
                Some(Ok(Message::Close(frame))) => return frame.map(|frame| frame.code.into()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return None,
            }
        }
    }

    /// Registers as the original did.
    pub(crate) async fn register_plain(&mut self, name: &str) -> Value {
        self.send(json!({"type": "register", "agent_id": name}).to_string())
            .await;
        self.json().await
    }

    /// Registers with a proof; the frame that answers it.
    pub(crate) async fn prove(&mut self, name: &str, identity: &Identity, epoch: u64) -> Value {
        self.prove_as(name, identity, identity, epoch).await
    }

    /// Registers a socket that relays, with a proof.
    pub(crate) async fn prove_relay(&mut self, name: &str, identity: &Identity, epoch: u64) -> Value {
        let key = identity.public_key().to_hex();
        let register =
            json!({"type": "register", "agent_id": name, "public_key": key, "epoch": epoch, "role": "relay"});
        self.answer_challenge(register, name, identity, identity, epoch)
            .await
    }

    /// The next binary frame; no other must come before it.
    pub(crate) async fn binary(&mut self) -> Vec<u8> {
        loop {
            match timeout(SOON, self.socket.next()).await.expect("a frame") {
                Some(Ok(Message::Binary(frame))) => return frame.to_vec(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("a binary frame was expected: {other:?}"),
            }
        }
    }

    /// Claims one key and signs with another.
    pub(crate) async fn prove_as(
        &mut self,
        name: &str,
        claimed: &Identity,
        signer: &Identity,
        epoch: u64,
    ) -> Value {
        let key = claimed.public_key().to_hex();
        let register = json!({"type": "register", "agent_id": name, "public_key": key, "epoch": epoch});
        self.answer_challenge(register, name, claimed, signer, epoch)
            .await
    }

    async fn answer_challenge(
        &mut self,
        register: Value,
        name: &str,
        claimed: &Identity,
        signer: &Identity,
        epoch: u64,
    ) -> Value {
        let key = claimed.public_key();
        self.send(register.to_string()).await;
        match self.frame().await {
            ServerFrame::Challenge { nonce, server_id } => {
                let statement = registration_statement(&server_id, &nonce, &id(name), epoch, key);
                let signature = signer.sign_statement(&statement).to_hex();
                self.send(json!({"type": "proof", "signature": signature}).to_string())
                    .await;
                self.json().await
            }
            other => serde_json::from_str(&other.to_text()).unwrap(),
        }
    }
}
