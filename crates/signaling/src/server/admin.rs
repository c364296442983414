//! `/healthz` and `/metrics`, over plain HTTP on an address of their own: what an operator asks is not for everybody who can
//! reach the signaling port.

use std::{sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

use super::metrics::Counters;

const MAX_REQUEST: usize = 8 * 1024;
const MAX_CONNECTIONS: usize = 32;
const PATIENCE: Duration = Duration::from_secs(5);

/// Answers until it is aborted.
pub(super) async fn serve(listener: TcpListener, counters: Arc<Counters>, stopping: watch::Receiver<bool>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    let (counters, stopping) = (Arc::clone(&counters), stopping.clone());
                    connections.spawn(async move {
                        let _ = timeout(PATIENCE, answer(stream, &counters, &stopping)).await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection for administration");
                    sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
}

/// One request, one answer, and the end (RFC 9112, 9.6).
async fn answer(
    mut stream: TcpStream,
    counters: &Counters,
    stopping: &watch::Receiver<bool>,
) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() >= MAX_REQUEST || stream.read_buf(&mut request).await? == 0 {
            return Ok(());
        }
    }
    let line = request.split(|&byte| byte == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&byte| byte == b' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let path = target.split(|&byte| byte == b'?').next().unwrap_or_default();
    let (status, kind, body) = match (method, path) {
        (b"GET" | b"HEAD", b"/healthz") if *stopping.borrow() => (
            "503 Service Unavailable",
            "text/plain",
            "shutting down\n".to_owned(),
        ),
        (b"GET" | b"HEAD", b"/healthz") => ("200 OK", "text/plain", "ok\n".to_owned()),
        (b"GET" | b"HEAD", b"/metrics") => (
            "200 OK",
            // As https://prometheus.io/docs/instrumenting/exposition_formats says.
            "text/plain; version=0.0.4; charset=utf-8",
            counters.snapshot().to_prometheus(),
        ),
        (b"GET" | b"HEAD", _) => (
            "404 Not Found",
            "text/plain",
            "there are /healthz and /metrics\n".to_owned(),
        ),
        _ => (
            "405 Method Not Allowed\r\nAllow: GET, HEAD",
            "text/plain",
            "GET it\n".to_owned(),
        ),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    if method != b"HEAD" {
        stream.write_all(body.as_bytes()).await?;
    }
    stream.shutdown().await
}
