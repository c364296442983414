//! The opening handshake (RFC 6455, section 4.2), with an answer for whoever does not keep to it.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::{
    handshake::derive_accept_key,
    protocol::{Role, WebSocketConfig},
};

use crate::stream::{ByteStream, Socket};

/// Of a browser with many cookies; of ours, 200 bytes.
const MAX_REQUEST: usize = 16 * 1024;
const MAX_HEADERS: usize = 64;

/// Makes a WebSocket of a byte stream; or says why it did not become one.
pub(super) async fn accept(
    mut stream: Box<dyn ByteStream>,
    config: WebSocketConfig,
) -> Result<Socket, Failed> {
    let mut request = Vec::new();
    let end = loop {
        let searched = request.len().saturating_sub(3);
        if !matches!(stream.read_buf(&mut request).await, Ok(1..)) {
            return Err(Failed::Lost);
        }
        let found = request[searched..].windows(4).position(|end| end == b"\r\n\r\n");
        if let Some(at) = found {
            break searched + at + 4;
        }
        if request.len() > MAX_REQUEST {
            return Err(Failed::Refused(stream, Refused::TooLarge));
        }
    };
    match answer(&request[..end]) {
        Ok(response) => {
            let written = stream.write_all(response.as_bytes()).await;
            written.map_err(|_| Failed::Lost)?;
            let rest = request.split_off(end);
            Ok(Socket::from_partially_read(stream, rest, Role::Server, Some(config)).await)
        }
        Err(refused) => Err(Failed::Refused(stream, refused)),
    }
}

/// Why there is no WebSocket.
pub(super) enum Failed {
    /// The client is gone.
    Lost,
    /// It asked for something else, and is to be told.
    Refused(Box<dyn ByteStream>, Refused),
}

impl Failed {
    /// Tells who waits for an answer.
    pub(super) async fn tell(self) {
        if let Self::Refused(mut stream, refused) = self {
            tracing::debug!(?refused, "websocket handshake refused");
            refuse(&mut stream, refused).await;
        }
    }
}

/// Why a request opens no WebSocket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// Not HTTP/1.1, or not what section 4.2.1 asks for.
    BadRequest,
    /// Not GET.
    Method,
    /// HTTP, but not an upgrade: somebody looks at the port with a browser.
    NoUpgrade,
    /// Another version of the protocol.
    Version,
    /// A head without end.
    TooLarge,
}

/// The response that opens the WebSocket.
fn answer(request: &[u8]) -> Result<String, Refused> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(request) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(Refused::TooLarge),
        _ => return Err(Refused::BadRequest),
    }
    // RFC 6455, 4.2.1: "An HTTP/1.1 or higher GET request".
    if parsed.method != Some("GET") {
        return Err(Refused::Method);
    }
    if parsed.version != Some(1) {
        return Err(Refused::BadRequest);
    }
    let values = |name: &'static str| {
        let named = parsed
            .headers
            .iter()
            .filter(move |header| header.name.eq_ignore_ascii_case(name));
        named.map(|header| header.value.trim_ascii())
    };
    let has_token = |name: &'static str, token: &[u8]| {
        values(name)
            .flat_map(|value| value.split(|&byte| byte == b','))
            .any(|found| found.trim_ascii().eq_ignore_ascii_case(token))
    };
    let single = |name: &'static str| {
        let mut values = values(name);
        values.next().filter(|_| values.next().is_none())
    };
    if !has_token("Upgrade", b"websocket") || !has_token("Connection", b"Upgrade") {
        return Err(Refused::NoUpgrade);
    }
    if single("Host").is_none() {
        return Err(Refused::BadRequest);
    }
    if single("Sec-WebSocket-Version") != Some(b"13") {
        return Err(Refused::Version);
    }
    // "when decoded, is 16 bytes in length"
    let key = single("Sec-WebSocket-Key").ok_or(Refused::BadRequest)?;
    if BASE64_STANDARD.decode(key).ok().is_none_or(|key| key.len() != 16) {
        return Err(Refused::BadRequest);
    }
    Ok(format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
        derive_accept_key(key)
    ))
}

async fn refuse(stream: &mut Box<dyn ByteStream>, refused: Refused) {
    let status = match refused {
        Refused::BadRequest => "400 Bad Request",
        Refused::Method => "405 Method Not Allowed\r\nAllow: GET",
        Refused::NoUpgrade => "426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",
        // RFC 6455, 4.2.2: "an appropriate HTTP error code (such as 426 Upgrade Required) and a |Sec-WebSocket-Version|
        // header field indicating the version(s) the server is capable of understanding".
        Refused::Version => "426 Upgrade Required\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13",
        Refused::TooLarge => "431 Request Header Fields Too Large",
    };
    let body = "This is an ifmesh signaling server: connect with a WebSocket (RFC 6455).\n";
    let response = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    if stream.write_all(response.as_bytes()).await.is_ok() && stream.shutdown().await.is_ok() {
        // What is unread when a socket is closed turns into a reset, which takes the answer away.
        let mut discarded = [0; 4096];
        for _ in 0..16 {
            if !matches!(stream.read(&mut discarded).await, Ok(1..)) {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\n\
        Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

    /// The example of RFC 6455, 1.3.
    #[test]
    fn the_example_of_the_standard_is_accepted() {
        let response = answer(GOOD.as_bytes()).unwrap();
        assert!(response.starts_with("HTTP/1.1 101 "), "{response}");
        assert!(
            response.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
            "{response}"
        );
    }

    /// Fails if anything that section 4.2.1 asks for may be missing or wrong.
    #[test]
    fn everything_that_is_asked_for_is_asked_for() {
        use Refused::*;
        for (from, to, refused) in [
            ("GET ", "POST ", Method),
            ("HTTP/1.1", "HTTP/1.0", BadRequest),
            ("GET /chat", "GET", BadRequest),
            ("Host: server.example.com\r\n", "", BadRequest),
            ("Host: ", "Host: a\r\nHost: ", BadRequest),
            ("Upgrade: websocket\r\n", "", NoUpgrade),
            ("Upgrade: websocket", "Upgrade: h2c", NoUpgrade),
            ("keep-alive, Upgrade", "keep-alive", NoUpgrade),
            ("Version: 13", "Version: 8", Version),
            ("Sec-WebSocket-Version: 13\r\n", "", Version),
            ("dGhlIHNhbXBsZSBub25jZQ==", "", BadRequest),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==", BadRequest),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ=", BadRequest),
        ] {
            let bad = GOOD.replacen(from, to, 1);
            assert_ne!(bad, GOOD);
            assert_eq!(answer(bad.as_bytes()), Err(refused), "{from} -> {to}");
        }
        let headers = "X: y\r\n".repeat(MAX_HEADERS);
        let many = GOOD.replacen("\r\n\r\n", &format!("\r\n{headers}\r\n"), 1);
        assert_eq!(answer(many.as_bytes()), Err(TooLarge));
    }
}
