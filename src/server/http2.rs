//! HTTP/2 on a connection: its bounds, and streams whose callers do not read.
//!
//! What the `h2` crate bounds by itself is only set here: streams and header lists, resets before a request was looked at
//! (CVE-2023-44487), resets that the peer provokes, CONTINUATION frames, small and empty DATA frames.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper_util::rt::TokioTimer;
use tokio::sync::Notify;

use super::ServerSettings;
use super::frames::FrameLimits;
use crate::telemetry::Telemetry;

/// Pieces in which answers are handed to a stream: so much is buffered for a caller that does not read.
pub(super) const PIECE: usize = 16 << 10;
/// Requests of a connection that begin at once, where many come together: others on the thread have their turn before more
/// do.
const AT_ONCE: usize = 4;
/// Streams that the peer may reset before they were looked at, as many as in `h2`.
const MAX_PENDING_RESETS: usize = 20;
/// Streams that the peer's mistakes may reset before its connection ends. A caller makes none; one that makes them on purpose
/// gets a request each that is begun and thrown away.
const MAX_LOCAL_RESETS: usize = 32;

/// Bounds of HTTP/2 connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Http2Settings {
    /// Requests at a time on one connection.
    pub max_streams: u32,
    /// Bytes of a request's body that a caller may send ahead.
    pub stream_window: u32,
    /// The same for all requests of a connection.
    pub connection_window: u32,
    /// Time between two pings, which tell whether the caller is still there.
    pub ping_every: Duration,
    /// Longest time for a ping to be answered.
    pub ping_timeout: Duration,
}

impl Default for Http2Settings {
    fn default() -> Self {
        Self {
            max_streams: 100,
            stream_window: 64 << 10,
            connection_window: 256 << 10,
            ping_every: Duration::from_secs(30),
            ping_timeout: Duration::from_secs(20),
        }
    }
}

/// How a connection under `settings` is served.
pub(super) fn builder(settings: &ServerSettings, telemetry: &Arc<Telemetry>) -> http2::Builder<Streams> {
    let Http2Settings { max_streams, stream_window, connection_window, ping_every, ping_timeout } = settings.http2;
    let streams = Streams { longest: settings.process.body_timeout, telemetry: Arc::clone(telemetry) };
    let mut builder = http2::Builder::new(streams);
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams)
        .initial_stream_window_size(stream_window)
        .initial_connection_window_size(connection_window)
        .max_header_list_size(u32::try_from(settings.max_head).unwrap_or(u32::MAX))
        .max_send_buf_size(PIECE)
        .max_pending_accept_reset_streams(MAX_PENDING_RESETS)
        .max_local_error_reset_streams(MAX_LOCAL_RESETS)
        .keep_alive_interval(ping_every)
        .keep_alive_timeout(ping_timeout);
    builder
}

/// Bounds of what `h2` takes any number of.
pub(super) fn frame_limits(settings: &ServerSettings) -> FrameLimits {
    let max_streams = settings.http2.max_streams;
    FrameLimits {
        resets: max_streams,
        block: settings.max_head.saturating_mul(2),
        // A caller that does not heed a GOAWAY is cut.
        streams: settings.max_requests_per_connection.saturating_add(10 * max_streams as usize),
    }
}

/// What a connection was cut for, where it was this side that cut it.
pub(super) fn cut_for(error: &hyper::Error) -> Option<&'static str> {
    let error = std::error::Error::source(error)?.downcast_ref::<h2::Error>()?;
    if !error.is_library() {
        return None;
    }
    Some(if error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM) { "excess" } else { "protocol" })
}

/// Requests of a connection that have not begun yet.
#[derive(Clone, Default)]
pub(super) struct Queue(Arc<AtomicUsize>);

impl Queue {
    /// The last place in it.
    pub(super) fn enter(&self) -> Queued {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        Queued { queue: self.clone(), turns: before.div_ceil(AT_ONCE) }
    }
}

/// A place in the queue.
pub(super) struct Queued {
    queue: Queue,
    turns: usize,
}

impl Queued {
    /// Lets others on the thread have their turn for as long as there are requests before. hyper ends one there that was
    /// taken back meanwhile.
    pub(super) async fn ahead(self) {
        for _ in 0..self.turns {
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.queue.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs each stream as a task of its own, and ends one whose caller does not read its answer.
#[derive(Clone)]
pub(super) struct Streams {
    /// Longest time without a piece of the answer that is taken.
    longest: Duration,
    telemetry: Arc<Telemetry>,
}

tokio::task_local! {
    /// How far the answer of this task's stream is.
    static PROGRESS: Arc<Progress>;
}

/// How far an answer is.
#[derive(Default)]
pub(super) struct Progress {
    begun: Notify,
    pieces: AtomicUsize,
}

impl Progress {
    /// That of the stream whose task calls this; its answer begins now.
    pub(super) fn begin() -> Option<Arc<Self>> {
        let progress = PROGRESS.try_with(Arc::clone).ok()?;
        progress.begun.notify_one();
        Some(progress)
    }

    /// A piece of the answer was taken.
    pub(super) fn taken(&self) {
        self.pieces.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits until the answer has begun and nothing of it was taken for so long. A stream whose caller takes all that comes
    /// asks for more each time it is polled, which it is when this wakes up, too.
    async fn stalled(&self, longest: Duration) {
        self.begun.notified().await;
        loop {
            let before = self.pieces.load(Ordering::Relaxed);
            tokio::time::sleep(longest).await;
            if self.pieces.load(Ordering::Relaxed) == before {
                return;
            }
        }
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, stream: F) {
        let Self { longest, telemetry } = self.clone();
        tokio::spawn(async move {
            let progress = Arc::<Progress>::default();
            // Dropped, a stream is reset.
            let mut stream = pin!(PROGRESS.scope(Arc::clone(&progress), stream));
            tokio::select! {
                biased;
                () = &mut stream => {}
                () = progress.stalled(longest) => telemetry.cut("unread"),
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn of_many_requests_of_a_connection_a_few_begin_at_a_time() {
        let queue = Queue::default();
        for _ in 0..2 {
            let begun = Arc::new(AtomicUsize::new(0));
            for number in 0..=4 * AT_ONCE {
                let (queued, begun) = (queue.enter(), Arc::clone(&begun));
                let begins = tokio::spawn(async move {
                    queued.ahead().await;
                    begun.fetch_add(1, Ordering::Relaxed);
                });
                if number > 3 * AT_ONCE {
                    begins.abort();
                }
            }
            for turn in 0..=3 {
                tokio::task::yield_now().await;
                assert_eq!(begun.load(Ordering::Relaxed), 1 + turn * AT_ONCE);
            }
            assert_eq!(queue.0.load(Ordering::Relaxed), 0, "nobody waits any more");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_an_answer_that_does_not_move_is_stalled() {
        let longest = Duration::from_secs(10);
        let progress = Arc::<Progress>::default();
        let watched = Arc::clone(&progress);
        let stalled = tokio::spawn(async move { watched.stalled(longest).await });
        tokio::time::sleep(100 * longest).await;
        assert!(!stalled.is_finished(), "it has not begun");
        progress.begun.notify_one();
        for _ in 0..5 {
            tokio::time::sleep(longest / 2).await;
            progress.taken();
        }
        assert!(!stalled.is_finished());
        tokio::time::sleep(2 * longest).await;
        assert!(stalled.is_finished());
    }
}
