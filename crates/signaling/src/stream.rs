//! The byte streams that WebSockets run over: TCP, or TLS over TCP.

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;

/// TCP or TLS.
pub(crate) trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// A WebSocket over either.
pub(crate) type Socket = WebSocketStream<Box<dyn ByteStream>>;
