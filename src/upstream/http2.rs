//! One HTTP/2 connection to a target, shared by the requests of one worker thread.
//!
//! A task drives it, since no single request could; it ends with the last request after the connection was let go. A
//! request has a [`Place`] on it, never more of them than the peer allows. What the peer surely did not act on is told
//! from what may have arrived: RFC 9113 §6.8 and §8.7. A connection that is silent is asked by a PING, and dropped where
//! none is answered; until then a request that waited in vain keeps others away from it.

use std::future::{pending, poll_fn};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Builder, Connection as Driver, SendRequest};
use h2::{Ping, PingPong, Reason, RecvStream};
use http::{Request, response};
use http_body::{Frame, SizeHint};
use tokio::time::{Instant, timeout, timeout_at};

use super::UpstreamSettings;
use super::connection::{Failed, Kind};
use super::stream::Stream;
use seen::{Seen, Watched};

mod seen;

/// Bytes of one answer that may be on their way before somebody reads them.
const STREAM_WINDOW: u32 = 256 << 10;
/// So many answers that nobody reads do not keep the others from arriving.
const STALLED: u32 = 100;
/// Longest head of an answer.
const MAX_HEAD: u32 = 64 << 10;
/// Longest time for the answer to a PING.
pub(super) const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// An open connection.
pub(super) struct Connection {
    sender: SendRequest<Bytes>,
    seen: Arc<Seen>,
    max_streams: usize,
    /// Requests that have a place on it.
    taken: AtomicUsize,
    was_used: AtomicBool,
    opened: Instant,
    /// Milliseconds after `opened` when the last place became free.
    idle_since: AtomicU64,
}

/// Counts a connection as open until it is dropped.
pub(super) struct Open(Arc<AtomicUsize>);

impl Open {
    /// One more of those that `count` counts.
    pub(super) fn count(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    /// Speaks HTTP/2 on `stream`, and waits for the peer's first word: it says how many requests it takes at a time, and
    /// that it takes the certificate shown to it. Whoever calls this bounds its time.
    pub(super) async fn open(stream: Stream, settings: &UpstreamSettings, open: Open) -> io::Result<Arc<Self>> {
        let seen = Arc::<Seen>::default();
        let begun = Self::begin(stream, settings, open, Arc::clone(&seen)).await;
        begun.map_err(|error| seen.why().map_or(error, io::Error::other))
    }

    async fn begin(stream: Stream, settings: &UpstreamSettings, open: Open, seen: Arc<Seen>) -> io::Result<Arc<Self>> {
        let mut builder = Builder::new();
        builder.enable_push(false).max_header_list_size(MAX_HEAD);
        builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(STREAM_WINDOW * STALLED);
        let handshake = builder.handshake(Watched::new(stream, Arc::clone(&seen))).await;
        let (sender, mut driver) = handshake.map_err(into_io)?;
        poll_fn(|cx| match Pin::new(&mut driver).poll(cx) {
            Poll::Ready(ended) => Poll::Ready(ended.map_err(into_io).and_then(|()| Err(closed()))),
            Poll::Pending if seen.has_settings() => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        })
        .await?;
        tokio::spawn(drive(driver, Arc::clone(&seen), settings.ping_every, open));
        Ok(Arc::new(Self {
            sender,
            seen,
            max_streams: settings.max_streams,
            taken: AtomicUsize::new(0),
            was_used: AtomicBool::new(false),
            opened: Instant::now(),
            idle_since: AtomicU64::new(0),
        }))
    }

    /// A place for a request, if there is one. Of two that ask at the same time both may get the last one: whoever calls
    /// this holds the lock on the shelf.
    pub(super) fn enter(self: &Arc<Self>) -> Option<Place> {
        let limit = self.max_streams.min(self.sender.current_max_send_streams()).max(1);
        if self.is_over() || self.seen.is_suspect() || self.taken.load(Ordering::Relaxed) >= limit {
            return None;
        }
        // What was silent for long may be dead: then the request need not find that out alone.
        if self.idle_for(Instant::now()).is_some_and(|idle| idle >= PING_TIMEOUT) {
            self.seen.ask();
        }
        let was_empty = self.taken.fetch_add(1, Ordering::Relaxed) == 0;
        let was_idle = self.was_used.swap(true, Ordering::Relaxed) && was_empty;
        Some(Place { connection: Arc::clone(self), was_idle, waiting: None })
    }

    /// Whether it takes no more requests. Those that it has may still be answered.
    pub(super) fn is_over(&self) -> bool {
        self.seen.is_over()
    }

    /// How long it has been without any request; none while it has some.
    pub(super) fn idle_for(&self, now: Instant) -> Option<Duration> {
        let since = self.opened + Duration::from_millis(self.idle_since.load(Ordering::Relaxed));
        (self.taken.load(Ordering::Relaxed) == 0).then(|| now.saturating_duration_since(since))
    }
}

/// Lets the connection read and write until it ends, or does not answer a PING.
async fn drive(mut driver: Driver<Watched, Bytes>, seen: Arc<Seen>, ping_every: Duration, open: Open) {
    let pings = driver.ping_pong();
    let why = tokio::select! {
        ended = Pin::new(&mut driver) => ended.err().map_or_else(|| "it was closed".to_owned(), |error| error.to_string()),
        () = keep_alive(pings, &seen, ping_every) => format!("it did not answer a PING within {PING_TIMEOUT:?}"),
    };
    seen.end(why);
    // With the driver its requests end, which then find it counted as closed.
    drop(open);
    drop(driver);
}

/// Ends when a PING is not answered.
async fn keep_alive(pings: Option<PingPong>, seen: &Seen, every: Duration) {
    let Some(mut pings) = pings else { return pending().await };
    loop {
        let due = seen.last_read() + every;
        let is_asked = timeout_at(due, seen.asked()).await.is_ok();
        if !is_asked && seen.last_read() + every > due {
            continue;
        }
        if pings.send_ping(Ping::opaque()).is_err() {
            return pending().await;
        }
        loop {
            let before = seen.reads();
            match timeout(PING_TIMEOUT, poll_fn(|cx| pings.poll_pong(cx))).await {
                Ok(Ok(_)) => break,
                // The driver says why.
                Ok(Err(_)) => return pending().await,
                // A busy connection may take its time.
                Err(_) if seen.reads() != before => {}
                Err(_) => return,
            }
        }
    }
}

fn into_io(error: h2::Error) -> io::Error {
    if error.is_io() { error.into_io().unwrap_or_else(closed) } else { io::Error::other(error) }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection")
}

/// A request's place on a connection. Dropped before the answer's end, the stream is reset, and nothing else.
pub(super) struct Place {
    connection: Arc<Connection>,
    /// Whether no request was on the connection before this one, though some had been.
    was_idle: bool,
    /// How much had been read when the request went out, while its answer is waited for.
    waiting: Option<u64>,
}

impl Place {
    /// Whether no request was on the connection before this one, though some had been.
    pub(super) fn was_idle(&self) -> bool {
        self.was_idle
    }

    /// Sends `request` and waits for the head of its answer.
    pub(super) async fn send(
        &mut self,
        request: Request<()>,
        body: Bytes,
    ) -> Result<(response::Parts, RecvStream), Failed> {
        let seen = Arc::clone(&self.connection.seen);
        let mut sender = self.connection.sender.clone();
        let is_empty = body.is_empty();
        let (answer, mut stream) = sender.send_request(request, is_empty).map_err(|error| {
            // It is closing, or has no number left for a stream.
            seen.end(error.to_string());
            Failed::new(Kind::Unprocessed, error.to_string())
        })?;
        self.waiting = Some(seen.reads());
        let id = answer.stream_id().as_u32();
        // What cannot be sent has a reason that the answer tells.
        let _ = is_empty || stream.send_data(body, true).is_ok();
        let answered = answer.await;
        self.waiting = None;
        let (head, body) = answered.map_err(|error| self.failed(&error, id))?.into_parts();
        Ok((head, body))
    }

    fn failed(&self, error: &h2::Error, stream: u32) -> Failed {
        let seen = &self.connection.seen;
        if error.is_reset() {
            let kind = match error.reason() {
                _ if error.is_library() => Kind::Malformed,
                Some(Reason::REFUSED_STREAM) => Kind::Unprocessed,
                _ => Kind::Lost,
            };
            return Failed::new(kind, error.to_string());
        }
        if seen.is_beyond_last(stream) {
            return Failed::new(Kind::Unprocessed, format!("it is closing: {error}"));
        }
        let kind = if error.is_go_away() && error.is_library() { Kind::Malformed } else { Kind::Lost };
        let why = seen.why().map_or_else(|| error.to_string(), str::to_owned);
        // All requests on it are lost at once, which happened once.
        Failed { repeated: !seen.tell(), ..Failed::new(kind, why) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let connection = &self.connection;
        // Nothing came since the request went out: this may be the connection's fault.
        if self.waiting.is_some_and(|reads| reads == connection.seen.reads()) {
            connection.seen.suspect();
        }
        let idle_since = u64::try_from(connection.opened.elapsed().as_millis()).unwrap_or(u64::MAX);
        connection.idle_since.store(idle_since, Ordering::Relaxed);
        connection.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer.
pub(super) struct Body {
    stream: RecvStream,
    /// Bytes still to come, where that is known.
    left: Option<u64>,
}

impl Body {
    /// The body that follows `head`.
    pub(super) fn new(head: &response::Parts, stream: RecvStream) -> Self {
        let length = head.headers.get(http::header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        Self { left: if stream.is_end_stream() { Some(0) } else { length }, stream }
    }

    /// The next frame; trailers end at this hop.
    pub(super) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let data = ready!(self.stream.poll_data(cx)).map(|data| {
            let data = data?;
            self.left = self.left.map(|left| left.saturating_sub(data.len() as u64));
            // It is the next hop's now, which takes no more than it has room for.
            self.stream.flow_control().release_capacity(data.len())?;
            Ok(Frame::data(data))
        });
        Poll::Ready(data)
    }

    /// Whether all of it was read.
    pub(super) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    /// How much is to come.
    pub(super) fn size_hint(&self) -> SizeHint {
        self.left.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
