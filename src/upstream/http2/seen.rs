//! What was seen of a connection's peer, beside what the library tells.
//!
//! The library gives every request that ends with the connection the same error after a GOAWAY, whether the peer's last
//! stream id is below the request's or not. The difference is whether the request may be sent again, so the frames that
//! come are looked at on their way in: their heads, and the first bytes of a GOAWAY (RFC 9113 §4.1, §6.8).

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::super::dial::refusal;
use super::super::stream::Stream;

/// Bytes of a frame's head, and those with the last stream id of a GOAWAY.
const HEAD: usize = 9;
const GOAWAY_HEAD: usize = HEAD + 4;
/// Types of frames.
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;

/// No GOAWAY came: every stream id is below.
const NONE: u32 = u32::MAX;

/// What was seen so far.
#[derive(Debug)]
pub(super) struct Seen {
    began: Instant,
    reads: AtomicU64,
    /// Milliseconds after `began`.
    last_read: AtomicU64,
    settings: AtomicBool,
    last_stream: AtomicU32,
    suspect: AtomicBool,
    wanted: Notify,
    ended: OnceLock<String>,
    told: AtomicBool,
}

impl Default for Seen {
    fn default() -> Self {
        Self {
            began: Instant::now(),
            reads: AtomicU64::new(0),
            last_read: AtomicU64::new(0),
            settings: AtomicBool::new(false),
            last_stream: AtomicU32::new(NONE),
            suspect: AtomicBool::new(false),
            wanted: Notify::new(),
            ended: OnceLock::new(),
            told: AtomicBool::new(false),
        }
    }
}

impl Seen {
    /// How often something was read.
    pub(super) fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// When something was read last.
    pub(super) fn last_read(&self) -> Instant {
        self.began + Duration::from_millis(self.last_read.load(Ordering::Relaxed))
    }

    /// Whether the peer's SETTINGS came.
    pub(super) fn has_settings(&self) -> bool {
        self.settings.load(Ordering::Relaxed)
    }

    /// Whether the peer said that it will not act on this stream, nor did.
    pub(super) fn is_beyond_last(&self, stream: u32) -> bool {
        stream > self.last_stream.load(Ordering::Relaxed)
    }

    /// Whether no new stream can be opened.
    pub(super) fn is_over(&self) -> bool {
        self.ended.get().is_some() || self.last_stream.load(Ordering::Relaxed) != NONE
    }

    /// The connection takes no more requests, and why; the first reason counts.
    pub(super) fn end(&self, why: String) {
        let _ = self.ended.set(why);
    }

    /// Why it ended, if it did.
    pub(super) fn why(&self) -> Option<&str> {
        self.ended.get().map(String::as_str)
    }

    /// Whether nobody told of its end yet.
    pub(super) fn tell(&self) -> bool {
        !self.told.swap(true, Ordering::Relaxed)
    }

    /// Somebody waited in vain, and nothing came. Holds until something comes.
    pub(super) fn suspect(&self) {
        self.suspect.store(true, Ordering::Relaxed);
        self.ask();
    }

    /// Somebody wants to know whether the peer is there.
    pub(super) fn ask(&self) {
        self.wanted.notify_one();
    }

    /// Whether nothing came since somebody waited in vain.
    pub(super) fn is_suspect(&self) -> bool {
        self.suspect.load(Ordering::Relaxed)
    }

    /// Waits until somebody wants to know whether the peer is there.
    pub(super) async fn asked(&self) {
        self.wanted.notified().await;
    }

    fn read(&self) {
        let millis = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_read.store(millis, Ordering::Relaxed);
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.suspect.store(false, Ordering::Relaxed);
    }

    fn frame(&self, head: &[u8; GOAWAY_HEAD]) {
        match head[3] {
            SETTINGS => self.settings.store(true, Ordering::Relaxed),
            GOAWAY => {
                // The first bit is reserved. A second GOAWAY can only name an earlier stream.
                let last = u32::from_be_bytes([head[9] & 0x7f, head[10], head[11], head[12]]);
                self.last_stream.fetch_min(last, Ordering::Relaxed);
            }
            _ => {}
        }
    }
}

/// Finds the frames in what is read, in whichever pieces it comes.
#[derive(Debug, Default)]
struct Frames {
    head: [u8; GOAWAY_HEAD],
    /// Bytes of the head that are there.
    have: usize,
    /// Bytes to skip until the next head.
    skip: usize,
}

impl Frames {
    fn feed(&mut self, mut bytes: &[u8], mut frame: impl FnMut(&[u8; GOAWAY_HEAD])) {
        while !bytes.is_empty() {
            let skipped = self.skip.min(bytes.len());
            self.skip -= skipped;
            bytes = &bytes[skipped..];
            let taken = (self.wanted() - self.have).min(bytes.len());
            self.head[self.have..self.have + taken].copy_from_slice(&bytes[..taken]);
            self.have += taken;
            bytes = &bytes[taken..];
            if self.have >= HEAD && self.have == self.wanted() {
                frame(&self.head);
                self.skip = self.length() + HEAD - self.have;
                self.have = 0;
            }
        }
    }

    fn wanted(&self) -> usize {
        let is_go_away = self.have >= HEAD && self.head[3] == GOAWAY && self.length() >= GOAWAY_HEAD - HEAD;
        if is_go_away { GOAWAY_HEAD } else { HEAD }
    }

    fn length(&self) -> usize {
        usize::from(self.head[0]) << 16 | usize::from(self.head[1]) << 8 | usize::from(self.head[2])
    }
}

/// A stream whose reads are looked at.
pub(super) struct Watched {
    stream: Stream,
    frames: Frames,
    seen: Arc<Seen>,
}

impl Watched {
    /// Tells `seen` what comes on `stream`.
    pub(super) fn new(stream: Stream, seen: Arc<Seen>) -> Self {
        Self { stream, frames: Frames::default(), seen }
    }
}

impl AsyncRead for Watched {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        if let Err(error) = ready!(Pin::new(&mut this.stream).poll_read(cx, into)) {
            // The library keeps no more of it than a text.
            if let Some(why) = refusal(&error) {
                this.seen.end(why);
            }
            return Poll::Ready(Err(error));
        }
        let new = &into.filled()[before..];
        if !new.is_empty() {
            this.seen.read();
            this.frames.feed(new, |head| this.seen.frame(head));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let mut bytes = vec![length[1], length[2], length[3], kind, 0, 0, 0, 0, 0];
        bytes.extend_from_slice(payload);
        bytes
    }

    proptest! {
        #[test]
        fn every_frame_is_found_in_whichever_pieces_it_comes(
            frames in prop::collection::vec((0..10_u8, prop::collection::vec(any::<u8>(), 0..40)), 0..12),
            piece in 1..30_usize,
        ) {
            let bytes: Vec<u8> = frames.iter().flat_map(|(kind, payload)| frame(*kind, payload)).collect();
            let (mut found, mut watcher) = (Vec::new(), Frames::default());
            for piece in bytes.chunks(piece) {
                watcher.feed(piece, |head| found.push((head[3], head[HEAD..].to_vec())));
            }
            prop_assert_eq!(found.len(), frames.len());
            for ((kind, payload), (found, start)) in frames.iter().zip(&found) {
                prop_assert_eq!(kind, found);
                prop_assert!(*kind != GOAWAY || payload.len() < 4 || start[..] == payload[..4]);
            }
        }
    }

    #[test]
    fn the_last_stream_of_a_goaway_is_the_lowest_that_was_named() {
        let seen = Seen::default();
        assert!(!seen.is_beyond_last(u32::MAX >> 1) && !seen.is_over());
        for (last, beyond) in [(0x7fff_ffff_u32, [false, false]), (5, [false, true]), (9, [false, true])] {
            let mut head = [0, 0, 8, GOAWAY, 0, 0, 0, 0, 0, 0, 0, 0, 0];
            head[HEAD..].copy_from_slice(&last.to_be_bytes());
            seen.frame(&head);
            assert_eq!([5, 7].map(|stream| seen.is_beyond_last(stream)), beyond, "{last}");
            assert!(seen.is_over());
        }
    }
}
