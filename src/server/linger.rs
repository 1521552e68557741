//! Ends a connection so that its caller gets the last answer: by a reset, it may not.
//!
//! The operating system resets a connection that is closed while bytes of its peer are unread, or come later, and a reset can
//! overtake what was sent before. So what still comes is read and thrown away until the peer closes as well, but not for long.
//! An end costs as much as a request, and many peers may go at once: each takes a turn. Who served the connection, and the
//! memory for it, is gone by then.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;

use super::pace::{Pace, Turn};

/// Longest time for the peer to close, too: some round trips around the world.
const LONGEST: Duration = Duration::from_secs(1);
/// Bytes that are read at a time, and most of them in all: more than most callers have of a body that is not wanted.
const PIECE: usize = 4 << 10;
const MOST: usize = 4 << 20;

/// How long the end of a stream may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Until the last bytes went, of which TLS has some.
    last: Duration,
    /// Until the peer closed.
    closed: Duration,
}

impl Patience {
    /// For a process that ends within `grace`, and waits so long for its callers to take `answers`.
    pub(super) fn new(grace: Duration, answers: Duration) -> Self {
        Self { last: answers.min(grace / 2), closed: LONGEST.min(grace / 2) }
    }
}

/// A stream whose end goes on when whoever used it is done with it.
pub(super) struct Lingering<S, H> {
    /// What is held until the end of the stream; none of both after its last byte.
    open: Option<(S, H)>,
    pace: Pace,
    patience: Patience,
}

impl<S, H> Lingering<S, H> {
    /// Ends `stream` at the given pace, and holds `held` until then.
    pub(super) fn new(stream: S, held: H, pace: Pace, patience: Patience) -> Self {
        Self { open: Some((stream, held)), pace, patience }
    }
}

impl<S: Unpin, H> Lingering<S, H> {
    fn stream(&mut self) -> io::Result<Pin<&mut S>> {
        let open = self.open.as_mut().ok_or(io::ErrorKind::NotConnected)?;
        Ok(Pin::new(&mut open.0))
    }
}

impl<S: AsyncRead + Unpin, H: Unpin> AsyncRead for Lingering<S, H> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_read(cx, buf)
    }
}

impl<S, H> AsyncWrite for Lingering<S, H>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Unpin + Send + 'static,
{
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some((stream, held)) = self.open.take() {
            tokio::spawn(end(stream, self.pace.turn(), held, self.patience));
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream()?.poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.open.as_ref().is_some_and(|(stream, _)| stream.is_write_vectored())
    }
}

async fn end<S: AsyncRead + AsyncWrite + Unpin, H>(mut stream: S, turn: Turn, _held: H, patience: Patience) {
    turn.await;
    if let Ok(Ok(())) = timeout(patience.last, stream.shutdown()).await {
        let mut left = MOST;
        let _ = timeout(patience.closed, poll_fn(|cx| poll_closed(&mut stream, &mut left, cx))).await;
    }
}

/// Waits until the peer closes, or sent more than `left`.
fn poll_closed<S: AsyncRead + Unpin>(stream: &mut S, left: &mut usize, cx: &mut Context<'_>) -> Poll<()> {
    let mut piece = [0; PIECE];
    loop {
        let mut piece = ReadBuf::new(&mut piece);
        let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut piece));
        *left = left.saturating_sub(piece.filled().len());
        if read.is_err() || piece.filled().is_empty() || *left == 0 {
            return Poll::Ready(());
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
    use tokio::sync::oneshot;
    use tokio::sync::oneshot::error::TryRecvError;
    use tokio::time::Instant;

    use super::*;

    /// The far end of a connection whose near end is ending; and what is dropped when it is done with.
    async fn ending() -> (DuplexStream, oneshot::Receiver<()>) {
        let (near, mut far) = tokio::io::duplex(PIECE);
        let (held, ended) = oneshot::channel();
        let patience = Patience::new(10 * LONGEST, LONGEST);
        let mut lingering = Lingering::new(near, held, Pace::begin(1), patience);
        lingering.shutdown().await.expect("it is told");
        drop(lingering);
        let mut nothing = Vec::new();
        far.read_to_end(&mut nothing).await.expect("it is told at once");
        (far, ended)
    }

    #[tokio::test(start_paused = true)]
    async fn it_ends_when_its_peer_closes() {
        let (mut far, mut ended) = ending().await;
        far.write_all(b"what comes late").await.expect("it is read");
        tokio::time::sleep(LONGEST / 2).await;
        assert_eq!(ended.try_recv(), Err(TryRecvError::Empty));
        drop(far);
        let since = Instant::now();
        ended.await.expect_err("it is dropped");
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
        ended.await.expect_err("it is dropped");
        assert_eq!(since.elapsed(), LONGEST);
        drips.abort();
    }

    #[test]
    fn who_waits_for_the_end_of_the_process_does_not_wait_for_peers() {
        let closed = |grace| Patience::new(grace, LONGEST).closed;
        assert_eq!((closed(2 * LONGEST), closed(LONGEST)), (LONGEST, LONGEST / 2));
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_peer_that_sends_on_no_more_than_so_much_is_read() {
        let (mut far, ended) = ending().await;
        let since = Instant::now();
        let mut sent = 0;
        while let Ok(count) = far.write(&[0; PIECE]).await {
            sent += count;
        }
        ended.await.expect_err("it is dropped");
        assert!((MOST..=MOST + PIECE).contains(&sent), "{sent} bytes");
        assert_eq!(since.elapsed(), Duration::ZERO);
    }
}
