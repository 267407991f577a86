//! A WebSocket to a system: connecting with TLS and limits, frames in and out, and pings that
//! find a dead peer. It understands nothing of what the frames say.

use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::{HeaderName, HeaderValue};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message};
use url::Url;

use super::tls::Tls;

/// From the first packet to the end of the upgrade.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// The most bytes of a message. A list of all devices of a large Indigo home takes some 10 MB.
const MESSAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// A peer that does not take our bytes for so long is gone.
const SEND_WITHIN: Duration = Duration::from_secs(10);
/// How often a ping is sent.
const PING_EVERY: Duration = Duration::from_secs(20);
/// Silence after a ping, or since the last frame: then the peer is gone. With [`PING_EVERY`] a
/// half-open socket is found within 35 s.
const PONG_WITHIN: Duration = Duration::from_secs(15);
/// A frame is read into pieces of this size.
const READ_BYTES: usize = 16 * 1024;

/// A connection.
pub struct Socket {
    stream: WebSocketStream<Box<dyn Stream>>,
    /// When the next ping goes out.
    ping_at: Instant,
    /// When the peer counts as gone, while a ping is unanswered.
    dead_at: Option<Instant>,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A text.
    Text(String),
    /// Bytes that are no text.
    Binary(Vec<u8>),
    /// A ping or a pong: a sign of life and nothing else.
    Alive,
}

/// No connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SocketError {
    /// It could not be made.
    #[error("cannot connect: {0}")]
    Connect(String),
    /// The server answered the upgrade with this HTTP status.
    #[error("the server refuses the connection: HTTP {0}")]
    Refused(u16),
    /// It ended; the peer's reason, if it gave one.
    #[error("the connection ended: {0}")]
    Ended(String),
    /// The peer sent what no WebSocket peer may, a text that is no UTF-8 or a frame without end.
    /// It is gone with the connection, so that only this is left to be kept.
    #[error("the connection ended: {0}")]
    Broken(String),
    /// The peer does not answer any more.
    #[error("the peer does not answer")]
    Dead,
}

/// Why a connection ended, and whether what came over it is to blame.
fn ended(error: &tungstenite::Error) -> SocketError {
    use tungstenite::Error;
    use tungstenite::error::ProtocolError;
    match error {
        // Mere ends.
        Error::Protocol(
            ProtocolError::ResetWithoutClosingHandshake | ProtocolError::SendAfterClosing,
        ) => SocketError::Ended(error.to_string()),
        Error::Protocol(_) | Error::Utf8(_) | Error::Capacity(_) | Error::AttackAttempt => {
            SocketError::Broken(error.to_string())
        }
        _ => SocketError::Ended(error.to_string()),
    }
}

// === impl Socket ===

impl Socket {
    /// Connects to a `ws://` or `wss://` address. Neither the address nor the headers get into
    /// errors.
    pub async fn connect(
        url: &Url,
        headers: &[(&'static str, String)],
        tls: &Tls,
    ) -> Result<Socket, SocketError> {
        match timeout(CONNECT_WITHIN, Socket::open(url, headers, tls)).await {
            Ok(result) => result,
            Err(_) => Err(SocketError::Connect("it takes too long".into())),
        }
    }

    async fn open(
        url: &Url,
        headers: &[(&'static str, String)],
        tls: &Tls,
    ) -> Result<Socket, SocketError> {
        let cannot = |what: &str| SocketError::Connect(what.to_string());
        let host = url.host_str().ok_or_else(|| cannot("the address has no host"))?;
        let secure = matches!(url.scheme(), "wss" | "https");
        let port = url.port_or_known_default().unwrap_or(if secure { 443 } else { 80 });
        let plain_host = host.trim_start_matches('[').trim_end_matches(']');
        let tcp = TcpStream::connect((plain_host, port)).await;
        let tcp = tcp.map_err(|error| cannot(&error.to_string()))?;
        // Small frames must not wait for each other.
        let _ = tcp.set_nodelay(true);
        let stream: Box<dyn Stream> = if secure {
            let name = ServerName::try_from(plain_host.to_string());
            let name = name.map_err(|_| cannot("the host is no name for TLS"))?;
            let connector = TlsConnector::from(tls.config());
            let stream = connector.connect(name, tcp).await;
            Box::new(stream.map_err(|error| cannot(&error.to_string()))?)
        } else {
            Box::new(tcp)
        };
        let socket = Socket::upgrade(url, headers, stream).await?;
        if secure {
            tls.connected();
        }
        Ok(socket)
    }

    async fn upgrade(
        url: &Url,
        headers: &[(&'static str, String)],
        stream: Box<dyn Stream>,
    ) -> Result<Socket, SocketError> {
        let cannot = |_| SocketError::Connect("the address or a header cannot be sent".into());
        let mut request = url.as_str().into_client_request().map_err(cannot)?;
        for (name, value) in headers {
            let value = HeaderValue::from_str(value);
            let value =
                value.map_err(|_| SocketError::Connect(format!("{name} cannot be sent")))?;
            request.headers_mut().insert(HeaderName::from_static(name), value);
        }
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BYTES)
            .write_buffer_size(0)
            .max_message_size(Some(MESSAGE_BYTES_MAX))
            .max_frame_size(Some(MESSAGE_BYTES_MAX));
        let upgraded =
            tokio_tungstenite::client_async_with_config(request, stream, Some(config)).await;
        match upgraded {
            Ok((stream, _)) => {
                Ok(Socket { stream, ping_at: Instant::now() + PING_EVERY, dead_at: None })
            }
            Err(tungstenite::Error::Http(answer)) => {
                Err(SocketError::Refused(answer.status().as_u16()))
            }
            Err(error) => Err(SocketError::Connect(error.to_string())),
        }
    }

    /// Sends a text. On an error it may have left all the same.
    pub async fn send(&mut self, text: String) -> Result<(), SocketError> {
        self.put(Message::text(text)).await
    }

    /// The next frame. It pings by itself, and can be dropped while waiting without losing
    /// anything.
    pub async fn next(&mut self) -> Result<Frame, SocketError> {
        loop {
            let wake = self.dead_at.map_or(self.ping_at, |dead| dead.min(self.ping_at));
            tokio::select! {
                biased;
                message = self.stream.next() => return self.heard(message),
                () = tokio::time::sleep_until(wake) => self.look().await?,
            }
        }
    }

    /// Says goodbye; the peer may not hear it.
    pub async fn close(mut self) {
        let _ = timeout(Duration::from_secs(1), self.stream.close(None)).await;
    }

    async fn look(&mut self) -> Result<(), SocketError> {
        let now = Instant::now();
        if self.dead_at.is_some_and(|dead| dead <= now) {
            return Err(SocketError::Dead);
        }
        if self.ping_at <= now {
            self.ping_at = now + PING_EVERY;
            self.dead_at.get_or_insert(now + PONG_WITHIN);
            self.put(Message::Ping(tungstenite::Bytes::new())).await?;
        }
        Ok(())
    }

    fn heard(
        &mut self,
        message: Option<Result<Message, tungstenite::Error>>,
    ) -> Result<Frame, SocketError> {
        let message = match message {
            None => return Err(SocketError::Ended("without a word".into())),
            Some(Err(error)) => return Err(ended(&error)),
            Some(Ok(message)) => message,
        };
        self.dead_at = None;
        Ok(match message {
            Message::Text(text) => Frame::Text(text.as_str().to_string()),
            Message::Binary(bytes) => Frame::Binary(bytes.to_vec()),
            Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => Frame::Alive,
            Message::Close(frame) => {
                let why = frame.map_or_else(String::new, |frame| frame.reason.to_string());
                return Err(SocketError::Ended(format!("closed by the peer {why}")));
            }
        })
    }

    async fn put(&mut self, message: Message) -> Result<(), SocketError> {
        match timeout(SEND_WITHIN, self.stream.send(message)).await {
            Err(_) => Err(SocketError::Dead),
            Ok(Err(error)) => Err(SocketError::Ended(error.to_string())),
            Ok(Ok(())) => Ok(()),
        }
    }
}
