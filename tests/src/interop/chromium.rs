use std::{
    cell::Cell,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    thread::JoinHandle,
    time::Duration,
};

use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_tungstenite::{connect_async, tungstenite::Message};

use super::Foreign;

/// A page in a headless Chromium, driven over the browser's debugging protocol.
///
/// It needs no library of anybody's: a WebSocket, and commands that the protocol numbers.
#[derive(Debug)]
pub struct Chromium {
    browser: Child,
    commands: Option<mpsc::Sender<String>>,
    events: Receiver<Value>,
    driver: Option<JoinHandle<()>>,
    _profile: TempDir,
}

/// Nothing of this reaches for the network by itself, and candidates are plain loopback addresses.
const FLAGS: &[&str] = &[
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-features=WebRtcHideLocalIpsWithMdns",
    "--allow-loopback-in-peer-connection",
    "--remote-debugging-port=0",
];

impl Chromium {
    /// Starts a browser, opens the page, and starts the agent in it.
    pub fn start(settings: &Value) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let mut browser = Command::new("chromium")
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("chromium: {error}. Install it (Debian: `apt-get install chromium`)")
            });
        let mut said = BufReader::new(browser.stderr.take().unwrap()).lines();
        let address = loop {
            let line = said
                .next()
                .expect("chromium says where it listens before it ends")
                .unwrap();
            if let Some(address) = line.strip_prefix("DevTools listening on ") {
                break address.to_owned();
            }
        };
        // A full pipe would stop it.
        std::thread::spawn(move || said.for_each(drop));
        let (commands, inbox) = mpsc::channel(1_024);
        let (outbox, events) = sync_channel(100_000);
        let page = concat!(
            "file://",
            env!("CARGO_MANIFEST_DIR"),
            "/interop/chromium_peer.html"
        );
        let driver = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(drive(address, page, inbox, outbox));
        });
        let chromium = Self {
            browser,
            commands: Some(commands),
            events,
            driver: Some(driver),
            _profile: profile,
        };
        let loaded = chromium.events.recv_timeout(crate::program::PATIENCE);
        assert_eq!(loaded, Ok(json!({"event": "loaded", "secure": true})));
        chromium.call("start", settings);
        chromium
    }

    fn call(&self, function: &str, argument: &Value) {
        // As text: what JSON calls `__proto__` is no member of an object that is written down in JavaScript.
        let text = Value::from(argument.to_string());
        if let Some(commands) = &self.commands {
            let _ = commands.blocking_send(format!("{function}(JSON.parse({text}))"));
        }
    }
}

impl Foreign for Chromium {
    fn command(&mut self, command: &Value) {
        self.call("command", command);
    }

    fn next(&mut self, patience: Duration) -> Option<Value> {
        self.events.recv_timeout(patience).ok()
    }
}

impl Drop for Chromium {
    fn drop(&mut self) {
        // Asked to close, it takes its helper processes along. It is given the time that this takes, and no more.
        self.commands = None;
        if let Some(driver) = self.driver.take() {
            let _ = driver.join();
        }
        let _ = self.browser.kill();
        let _ = self.browser.wait();
    }
}

/// Speaks the debugging protocol: <https://chromedevtools.github.io/devtools-protocol/>.
async fn drive(address: String, page: &str, mut commands: mpsc::Receiver<String>, events: SyncSender<Value>) {
    let (mut socket, _) = connect_async(address).await.unwrap();
    let number = Cell::new(0);
    let request = |method: &str, params: Value, session: Option<&Value>| {
        number.set(number.get() + 1);
        let mut request = json!({"id": number.get(), "method": method, "params": params});
        if let Some(session) = session {
            request["sessionId"] = session.clone();
        }
        Message::from(request.to_string())
    };
    socket
        .send(request(
            "Target.createTarget",
            json!({"url": "about:blank"}),
            None,
        ))
        .await
        .unwrap();
    let target = answer(&mut socket, "targetId").await;
    let attach = json!({"targetId": target, "flatten": true});
    socket
        .send(request("Target.attachToTarget", attach, None))
        .await
        .unwrap();
    let session = answer(&mut socket, "sessionId").await;
    for (method, params) in [
        ("Runtime.enable", json!({})),
        ("Runtime.addBinding", json!({"name": "tell"})),
    ] {
        let message = request(method, params, Some(&session));
        socket.send(message).await.unwrap();
    }
    // The page may get a process of its own, which knows the binding only if the former one had it by then.
    message_where(&mut socket, |message| message["id"] == number.get()).await;
    let navigate = request("Page.navigate", json!({"url": page}), Some(&session));
    socket.send(navigate).await.unwrap();
    loop {
        tokio::select! {
            command = commands.recv() => {
                let Some(script) = command else { break };
                let params = json!({"expression": script});
                socket.send(request("Runtime.evaluate", params, Some(&session))).await.unwrap();
            }
            message = socket.next() => {
                let Some(Ok(message)) = message else { return };
                let Some(event) = told(&message) else { continue };
                let _ = events.send(event);
            }
        }
    }
    let _ = socket.send(request("Browser.close", json!({}), None)).await;
    let closed = async { while let Some(Ok(_)) = socket.next().await {} };
    let _ = tokio::time::timeout(Duration::from_secs(5), closed).await;
}

/// What the page said, or what went wrong in it.
fn told(message: &Message) -> Option<Value> {
    let message: Value = serde_json::from_str(message.to_text().ok()?).ok()?;
    match message["method"].as_str() {
        Some("Runtime.bindingCalled") => {
            serde_json::from_str(message["params"]["payload"].as_str().unwrap_or_default()).ok()
        }
        Some("Runtime.exceptionThrown") => Some(json!({"event": "error", "error": message["params"]})),
        _ if message["result"]["exceptionDetails"].is_object() => {
            Some(json!({"event": "error", "error": message["result"]["exceptionDetails"]}))
        }
        _ => None,
    }
}

/// Reads on until an answer has this member.
async fn answer<S>(socket: &mut S, member: &str) -> Value
where
    S: futures::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    let message = message_where(socket, |message| !message["result"][member].is_null()).await;
    message["result"][member].clone()
}

/// Reads on until such a message.
async fn message_where<S>(socket: &mut S, is_it: impl Fn(&Value) -> bool) -> Value
where
    S: futures::Stream<Item = Result<Message, tokio_tungstenite::tungstenite::Error>> + Unpin,
{
    loop {
        let message = socket.next().await.expect("the browser answers").unwrap();
        let message = serde_json::from_str(message.to_text().unwrap()).unwrap();
        if is_it(&message) {
            return message;
        }
    }
}
