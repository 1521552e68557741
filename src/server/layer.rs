//! Streams with something between: it sees, and may change, what comes, and sees what goes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What lies between a stream and its reader. What goes out passes as it is.
pub(super) trait Layer: Unpin {
    /// Reads of `stream` what its reader gets.
    fn poll_read<S>(&mut self, stream: &mut S, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncRead + Unpin;

    /// So many bytes were taken to be sent, or none could be.
    fn wrote(&mut self, _taken: Option<usize>) {}
}

/// A stream behind a layer.
pub(super) struct Layered<S, L> {
    pub(super) stream: S,
    pub(super) layer: L,
}

impl<S: AsyncRead + Unpin, L: Layer> AsyncRead for Layered<S, L> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, layer } = &mut *self;
        layer.poll_read(stream, cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin, L: Layer> AsyncWrite for Layered<S, L> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.layer.wrote(taken(&wrote));
        wrote
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.layer.wrote(taken(&wrote));
        wrote
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

fn taken(wrote: &Poll<io::Result<usize>>) -> Option<usize> {
    match wrote {
        Poll::Pending => None,
        Poll::Ready(wrote) => Some(*wrote.as_ref().unwrap_or(&0)),
    }
}
