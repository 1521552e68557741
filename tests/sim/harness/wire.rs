//! Connections from a gateway to handlers, on which it is seen what is sent when.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nexus_gateway::upstream::{Connect, Connecting, Stream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::TcpStream;

use super::{lock, now};

/// Names the request in all logs; handlers see it.
pub(crate) const ID: &str = "x-request";

/// A request that went out to a handler.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) id: u64,
    /// When its first byte went out.
    pub(crate) at: Duration,
    /// When the attempt began: with the connect, where there was one for it.
    pub(crate) began: Duration,
    /// What it says of the time left.
    pub(crate) forwarded: Option<Duration>,
}

/// Opens connections and notes what goes out on them.
#[derive(Clone, Default)]
pub(crate) struct Wire(Arc<Mutex<Vec<Sent>>>);

impl Wire {
    pub(crate) fn sent(&self) -> Vec<Sent> {
        lock(&self.0).clone()
    }
}

impl Connect for Wire {
    fn connect(&self, address: SocketAddr) -> Connecting<'_> {
        let began = now();
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            let tapped = Tapped { stream, connecting: Some(began), wire: self.clone() };
            Ok(Stream::Other(Box::pin(tapped)))
        })
    }
}

struct Tapped {
    stream: TcpStream,
    /// Since when the first request waits for the connection.
    connecting: Option<Duration>,
    wire: Wire,
}

impl AsyncWrite for Tapped {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
        // A head is written in one piece.
        let text = String::from_utf8_lossy(&bytes[..written]).to_ascii_lowercase();
        if let Some(id) = header(&text, ID).and_then(|id| id.parse().ok()) {
            let at = now();
            let began = self.connecting.take().unwrap_or(at);
            let forwarded = header(&text, "request-timeout").map(timeout);
            lock(&self.wire.0).push(Sent { id, at, began, forwarded });
        }
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl AsyncRead for Tapped {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// A `Request-Timeout` as the gateway writes it.
fn timeout(text: &str) -> Duration {
    let number = |unit| text.strip_suffix(unit).and_then(|number| number.parse::<f64>().ok());
    let seconds = number("ms").map(|millis| millis / 1e3).or_else(|| number("s"));
    Duration::from_secs_f64(seconds.unwrap_or_else(|| panic!("a timeout in seconds or milliseconds: {text:?}")))
}
