//! Ends a connection so that its caller gets the last answer: by a reset, it may not.
//!
//! The operating system resets a connection that is closed while bytes of its peer are unread, or come later, and a reset can
//! overtake what was sent before. So what still comes is read and thrown away until the peer closes as well, but not for long.
//! An end costs as much as a request, and many peers may go at once: each takes a turn.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::pace::{Pace, Turn};

/// Longest time for the peer to close, too: some round trips around the world.
const LONGEST: Duration = Duration::from_secs(1);
/// Bytes that are read at a time, and most of them in all.
const PIECE: usize = 4 << 10;
const MOST: usize = 64 * PIECE;

/// A stream that is not done with its last byte.
pub(super) struct Lingering<S> {
    stream: S,
    pace: Pace,
    end: End,
}

/// How far the end of a stream is.
enum End {
    Not,
    Waits(Turn),
    /// The last byte was sent.
    Told(Told),
}

struct Told {
    /// Bytes that may still come.
    left: usize,
    until: Pin<Box<Sleep>>,
}

impl<S> Lingering<S> {
    /// Ends `stream` at the given pace.
    pub(super) fn new(stream: S, pace: Pace) -> Self {
        Self { stream, pace, end: End::Not }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Lingering<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Lingering<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, pace, end } = &mut *self;
        loop {
            match end {
                End::Not => *end = End::Waits(pace.turn()),
                End::Waits(turn) => {
                    ready!(Pin::new(turn).poll(cx));
                    ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
                    *end = End::Told(Told { left: MOST, until: Box::pin(tokio::time::sleep(LONGEST)) });
                }
                End::Told(told) => return told.poll_peer(stream, cx).map(Ok),
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl Told {
    /// Waits until the peer closes, or it is enough.
    fn poll_peer<S: AsyncRead + Unpin>(&mut self, stream: &mut S, cx: &mut Context<'_>) -> Poll<()> {
        let mut piece = [0; PIECE];
        loop {
            let mut piece = ReadBuf::new(&mut piece);
            match Pin::new(&mut *stream).poll_read(cx, &mut piece) {
                Poll::Pending => return self.until.as_mut().poll(cx),
                Poll::Ready(read) => {
                    let count = piece.filled().len();
                    self.left = self.left.saturating_sub(count);
                    if read.is_err() || count == 0 || self.left == 0 {
                        return Poll::Ready(());
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::time::Instant;

    use super::*;

    /// Both ends of a connection of which one is ending; its task ends when it is done with it.
    async fn ending() -> (DuplexStream, tokio::task::JoinHandle<io::Result<()>>) {
        let (near, mut far) = tokio::io::duplex(PIECE);
        let mut lingering = Lingering::new(near, Pace::begin());
        let ended = tokio::spawn(async move { lingering.shutdown().await });
        let mut nothing = Vec::new();
        far.read_to_end(&mut nothing).await.expect("it is told at once");
        (far, ended)
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_its_peer_closes() {
        let (mut far, ended) = ending().await;
        far.write_all(b"what comes late").await.expect("it is read");
        tokio::time::sleep(LONGEST / 2).await;
        assert!(!ended.is_finished());
        drop(far);
        let since = Instant::now();
        ended.await.expect("no panic").expect("it is closed");
        assert_eq!(since.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_never_closes_is_not_waited_for() {
        let (mut far, ended) = ending().await;
        let since = Instant::now();
        let drips = tokio::spawn(async move {
            while far.write_all(b"x").await.is_ok() {
                tokio::time::sleep(LONGEST / 10).await;
            }
        });
        ended.await.expect("no panic").expect("it is closed");
        assert_eq!(since.elapsed(), LONGEST);
        drips.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_peer_that_sends_on_no_more_than_so_much_is_read() {
        let (mut far, ended) = ending().await;
        let since = Instant::now();
        let mut sent = 0;
        while let Ok(count) = far.write(&[0; PIECE]).await {
            sent += count;
        }
        ended.await.expect("no panic").expect("it is closed");
        assert!((MOST..=MOST + PIECE).contains(&sent), "{sent} bytes");
        assert_eq!(since.elapsed(), Duration::ZERO);
    }
}
