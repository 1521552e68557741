//! Tells HTTP/2 with prior knowledge from HTTP/1.1 by the first bytes of a connection.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::layer::{Layer, Layered};

/// What every HTTP/2 connection begins with (RFC 9113 §3.4). No HTTP/1.1 request does.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Reads the first bytes of `stream`; true where they are those of HTTP/2. The stream then begins with them again.
pub(super) async fn is_http2<S: AsyncRead + Unpin>(mut stream: S) -> io::Result<(bool, Layered<S, Begun>)> {
    let mut first = [0; PREFACE.len()];
    let mut count = 0;
    while count < first.len() && first[..count] == PREFACE[..count] {
        match stream.read(&mut first[count..]).await? {
            0 => break,
            more => count += more,
        }
    }
    Ok((first == *PREFACE, Layered { stream, layer: Begun { first, unread: 0..count } }))
}

/// The first bytes of a stream, which were read and come again.
pub(super) struct Begun {
    first: [u8; PREFACE.len()],
    unread: std::ops::Range<usize>,
}

impl Layer for Begun {
    fn poll_read<S>(&mut self, stream: &mut S, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncRead + Unpin,
    {
        if self.unread.is_empty() {
            return Pin::new(stream).poll_read(cx, buf);
        }
        let count = self.unread.len().min(buf.remaining());
        let end = self.unread.start + count;
        buf.put_slice(&self.first[self.unread.start..end]);
        self.unread.start = end;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that come one at a time.
    struct Slow(&'static [u8]);

    impl AsyncRead for Slow {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if let Some((byte, rest)) = self.0.split_first() {
                buf.put_slice(&[*byte]);
                self.0 = rest;
            }
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn the_preface_is_known_and_nothing_is_lost() {
        for (bytes, expected) in [
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0"[..], true),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", false),
            (b"PRI * HTTP/1.1\r\n\r\n", false),
            (b"POST / HTTP/1.1\r\n\r\n and more than twenty-four bytes", false),
            (b"", false),
        ] {
            let (told, mut begun) = is_http2(Slow(bytes)).await.expect("it can be read");
            let mut all = Vec::new();
            begun.read_to_end(&mut all).await.expect("it can be read");
            assert_eq!((told, &*all), (expected, bytes));
        }
    }
}
