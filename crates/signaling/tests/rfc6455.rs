//! RFC 6455, frame by frame, against a client that writes bytes.
//!
//! Falsified by a frame that the standard allows and the server does not understand; by one that it forbids and the server takes,
//! or answers with another close code than the standard names; by a server whose own frames are masked, or have reserved bits.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod common;

use common::*;
use ifmesh_signaling::Server;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// How a frame spells its length (5.2).
#[derive(Clone, Copy)]
enum Length {
    Shortest,
    Two,
    Eight,
    /// Of a payload that does not come.
    Claimed(u64),
}

struct Bytes {
    stream: TcpStream,
}

impl Bytes {
    async fn open(server: &Server) -> Self {
        let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
        let request = "GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
            Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
        // In pieces, as networks may deliver it.
        for piece in request.as_bytes().chunks(7) {
            stream.write_all(piece).await.unwrap();
        }
        let mut response = Vec::new();
        while !response.ends_with(b"\r\n\r\n") {
            response.push(timeout(SOON, stream.read_u8()).await.unwrap().unwrap());
        }
        let response = String::from_utf8(response).unwrap();
        assert!(
            response.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"),
            "{response}"
        );
        Self { stream }
    }

    async fn send(&mut self, first: u8, payload: &[u8]) {
        self.send_with(first, payload, true, Length::Shortest).await;
    }

    async fn send_with(&mut self, first: u8, payload: &[u8], masked: bool, length: Length) {
        let mask_bit = if masked { 0x80 } else { 0 };
        let mut frame = vec![first];
        let len = payload.len() as u64;
        match length {
            Length::Shortest if len < 126 => frame.push(mask_bit | len as u8),
            Length::Shortest if len < 65_536 => {
                frame.push(mask_bit | 126);
                frame.extend((len as u16).to_be_bytes());
            }
            Length::Two => {
                frame.push(mask_bit | 126);
                frame.extend((len as u16).to_be_bytes());
            }
            Length::Shortest | Length::Eight => {
                frame.push(mask_bit | 127);
                frame.extend(len.to_be_bytes());
            }
            Length::Claimed(len) => {
                frame.push(mask_bit | 127);
                frame.extend(len.to_be_bytes());
            }
        }
        let mask = [0x37, 0xfa, 0x21, 0x3d];
        if masked {
            frame.extend(mask);
        }
        let key = if masked { mask } else { [0; 4] };
        frame.extend(
            payload
                .iter()
                .zip(key.iter().cycle())
                .map(|(byte, key)| byte ^ key),
        );
        // A server that has closed already may reset what comes late.
        let _ = self.stream.write_all(&frame).await;
    }

    /// The first byte and the payload of the next frame.
    async fn frame(&mut self) -> (u8, Vec<u8>) {
        let read = async {
            let first = self.stream.read_u8().await.ok()?;
            let second = self.stream.read_u8().await.ok()?;
            // 5.1: "A server MUST NOT mask any frames".
            assert_eq!(second & 0x80, 0, "a masked frame from the server");
            let len = match second {
                126 => u64::from(self.stream.read_u16().await.ok()?),
                127 => self.stream.read_u64().await.ok()?,
                len => u64::from(len),
            };
            let mut payload = vec![0; usize::try_from(len).unwrap()];
            self.stream.read_exact(&mut payload).await.ok()?;
            Some((first, payload))
        };
        let (first, payload) = timeout(SOON, read)
            .await
            .expect("a frame in time")
            .expect("a frame");
        // 5.2: reserved bits "MUST be 0 unless an extension is negotiated"; none is.
        assert_eq!(first & 0x70, 0, "reserved bits from the server");
        (first, payload)
    }

    async fn json(&mut self) -> Value {
        loop {
            let (first, payload) = self.frame().await;
            if first == FIN | TEXT {
                return serde_json::from_slice(&payload).unwrap();
            }
            assert_eq!(first, FIN | PING, "{payload:?}");
        }
    }

    /// The close code, and that nothing comes after it.
    async fn close_code(&mut self) -> Option<u16> {
        loop {
            let (first, payload) = self.frame().await;
            if first == FIN | CLOSE {
                // 5.5.1: after it "the server MUST close the underlying TCP connection".
                let mut rest = Vec::new();
                let _ = timeout(SOON, self.stream.read_to_end(&mut rest)).await.unwrap();
                assert!(rest.is_empty(), "{rest:?}");
                return payload.first_chunk().map(|code| u16::from_be_bytes(*code));
            }
        }
    }
}

fn register(name: &str) -> Vec<u8> {
    json!({"type": "register", "agent_id": name})
        .to_string()
        .into_bytes()
}

async fn opened() -> (Server, Bytes) {
    let server = start(open()).await;
    let client = Bytes::open(&server).await;
    (server, client)
}

/// 5.4: fragments, with control frames between them; 5.2: each way to spell a length.
#[tokio::test]
async fn what_the_standard_allows_is_understood() {
    let (_server, mut client) = opened().await;
    let text = register("a");
    client.send(TEXT, &text[..3]).await;
    client.send(FIN | PING, b"between").await;
    assert_eq!(client.frame().await, (FIN | PONG, b"between".to_vec()));
    client.send(CONTINUATION, b"").await;
    client.send(FIN | PONG, b"unasked").await;
    client.send(FIN | CONTINUATION, &text[3..]).await;
    assert_eq!(client.json().await["type"], "registered");
    for length in [Length::Two, Length::Eight] {
        client.send_with(FIN | TEXT, &text, true, length).await;
        assert_eq!(client.json().await["type"], "registered");
    }
    // 125 bytes are the most that a control frame may have.
    client.send(FIN | PING, &[7; 125]).await;
    assert_eq!(client.frame().await, (FIN | PONG, vec![7; 125]));
    // A frame of 70,000 bytes has its length in eight bytes.
    let large = json!({"type": "register", "agent_id": "a", "x": "y".repeat(70_000)}).to_string();
    client.send(FIN | TEXT, large.as_bytes()).await;
    assert_eq!(client.json().await["type"], "registered");
}

/// 7.1.5 and 5.5.1: the same code comes back.
#[tokio::test]
async fn a_close_frame_is_answered() {
    for (payload, answer) in [
        (&b""[..], None),
        (&[0x03, 0xe8][..], Some(1000)),
        (&[0x03, 0xe9, b'b', b'y', b'e'][..], Some(1001)),
        (&[0x0f, 0xa0][..], Some(4000)),
        // 7.4: codes that are never sent; 7.4.2: codes of nobody.
        (&[0x03, 0xed][..], Some(1002)),
        (&[0x03, 0xee][..], Some(1002)),
        (&[0x03, 0xe7][..], Some(1002)),
        (&[0x00, 0x00][..], Some(1002)),
        // 5.5.1: a body has a code of two bytes, then UTF-8.
        (&[0x03][..], Some(1002)),
        (&[0x03, 0xe8, 0xff][..], Some(1007)),
    ] {
        let (_server, mut client) = opened().await;
        client.send(FIN | CLOSE, payload).await;
        assert_eq!(client.close_code().await, answer, "{payload:?}");
    }
}

/// 7.1.7, "Fail the WebSocket Connection", with the code that 7.4.1 gives.
#[tokio::test]
async fn what_the_standard_forbids_ends_the_connection() {
    let text = register("a");
    let shortest = Length::Shortest;
    /// What it is, first byte, payload, masked, length, close code.
    type Case<'a> = (&'a str, u8, &'a [u8], bool, Length, u16);
    let cases: &[Case<'_>] = &[
        ("unmasked text (5.1)", FIN | TEXT, &text, false, shortest, 1002),
        ("unmasked ping (5.1)", FIN | PING, b"", false, shortest, 1002),
        ("RSV1 (5.2)", FIN | 0x40 | TEXT, &text, true, shortest, 1002),
        ("RSV2 (5.2)", FIN | 0x20 | TEXT, &text, true, shortest, 1002),
        (
            "RSV3 on a ping (5.2)",
            FIN | 0x10 | PING,
            b"",
            true,
            shortest,
            1002,
        ),
        ("opcode 3 (5.2)", FIN | 0x3, b"", true, shortest, 1002),
        ("opcode 7 (5.2)", FIN | 0x7, b"", true, shortest, 1002),
        ("opcode 11 (5.2)", FIN | 0xb, b"", true, shortest, 1002),
        ("opcode 15 (5.2)", FIN | 0xf, b"", true, shortest, 1002),
        (
            "a ping of 126 bytes (5.5)",
            FIN | PING,
            &[7; 126],
            true,
            shortest,
            1002,
        ),
        ("a fragmented ping (5.5)", PING, b"", true, shortest, 1002),
        ("a fragmented close (5.5)", CLOSE, b"", true, shortest, 1002),
        (
            "a continuation of nothing (5.4)",
            FIN | CONTINUATION,
            &text,
            true,
            shortest,
            1002,
        ),
        (
            "text that is not UTF-8 (8.1)",
            FIN | TEXT,
            b"\xff\xfe",
            true,
            shortest,
            1007,
        ),
        (
            "a frame over the limit (7.4.1)",
            FIN | TEXT,
            b"",
            true,
            Length::Claimed(1 << 40),
            1009,
        ),
        (
            "a length with its first bit (5.2)",
            FIN | TEXT,
            b"",
            true,
            Length::Claimed(u64::MAX),
            1009,
        ),
    ];
    let server = start(open()).await;
    for (what, first, payload, masked, length, code) in cases {
        let mut client = Bytes::open(&server).await;
        client.send_with(*first, payload, *masked, *length).await;
        assert_eq!(client.close_code().await, Some(*code), "{what}");
    }
    // 5.4: a message inside another one; and one whose fragments are too much together.
    let mut client = Bytes::open(&server).await;
    client.send(TEXT, &text[..3]).await;
    client.send(FIN | TEXT, &text).await;
    assert_eq!(client.close_code().await, Some(1002));
    let mut client = Bytes::open(&server).await;
    client.send(TEXT, b"").await;
    for _ in 0..3 {
        client.send(CONTINUATION, &[b' '; 100_000]).await;
    }
    assert_eq!(client.close_code().await, Some(1009));
    let metrics = server.metrics();
    assert_eq!((metrics.registrations, metrics.agents), (0, 0));
    assert_eq!((metrics.protocol_errors, metrics.frames_oversize), (15, 3));
}

/// A binary frame from who does not relay is refused by name, and is no error of the WebSocket.
#[tokio::test]
async fn a_binary_frame_without_the_role_is_refused_and_the_connection_stays() {
    let (_server, mut client) = opened().await;
    client.send(FIN | TEXT, &register("a")).await;
    assert_eq!(client.json().await["type"], "registered");
    client.send(FIN | BINARY, b"\x01\x01bhello").await;
    assert_eq!(client.json().await["type"], "error");
    client.send(FIN | TEXT, &register("a")).await;
    assert_eq!(client.json().await["type"], "registered");
}

/// 4.2: who asks for something else than a WebSocket is told so.
#[tokio::test]
async fn what_is_no_opening_handshake_gets_an_answer_in_http() {
    let server = start(open()).await;
    let head = "Host: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (request, status) in [
        ("GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(), "426 "),
        (
            format!("GET / HTTP/1.1\r\n{head}{key}Sec-WebSocket-Version: 7\r\n\r\n"),
            "426 ",
        ),
        (
            format!("POST / HTTP/1.1\r\n{head}{key}Sec-WebSocket-Version: 13\r\n\r\n"),
            "405 ",
        ),
        (
            format!("GET / HTTP/1.1\r\n{head}Sec-WebSocket-Version: 13\r\n\r\n"),
            "400 ",
        ),
        ("\x16\x03\x01 nonsense\r\n\r\n".to_owned(), "400 "),
        (format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(17_000)), "431 "),
    ] {
        let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(SOON, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status}")),
            "{request}: {answer}"
        );
        if status == "426 " {
            assert!(answer.contains("\r\nSec-WebSocket-Version: 13\r\n"), "{answer}");
        }
    }
    assert_eq!(server.metrics().handshakes_failed, 6);
}
