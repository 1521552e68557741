//! One connection: the requests that come on it, one after the other or at the same time, go to the gateway.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HeaderValue};
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::cuts::Conduct;
use super::drain::Watcher;
use super::frames::Counted;
use super::http2::{self, LAST_PIECE, PIECE, Progress, Queue};
use super::layer::Layered;
use super::linger::Lingering;
use super::pace::{Pace, Paced};
use super::pulse::{Beat, Pulse, Watched};
use super::strict::{Guard, Limits};
use super::{OpenConnection, ServerSettings, message, preface};
use crate::admission::Peer;
use crate::body::Body;
use crate::gateway::{Gateway, Holding};
use crate::telemetry::Telemetry;

/// How many headers hyper takes by itself.
const HEADERS: usize = 100;
/// How far hyper's own bounds lie beyond those of the guard before it.
const MARGIN: usize = 16 << 10;

/// What a connection may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Speaks {
    /// HTTP/1.1 only.
    Http1,
    /// HTTP/2 only.
    Http2,
    /// The first bytes tell.
    Either,
}

/// What the requests of a connection have in common.
pub(super) struct Connection {
    pub(super) worker: usize,
    pub(super) gateway: Arc<Gateway>,
    pub(super) telemetry: Arc<Telemetry>,
    pub(super) peer: Peer,
    pub(super) settings: Arc<ServerSettings>,
    pub(super) conduct: Arc<Conduct>,
    pub(super) pulse: Arc<Pulse>,
    /// Of large answers, and of connections that end.
    pub(super) answers: Pace,
    pub(super) ends: Pace,
}

impl Connection {
    /// Serves what comes on `stream` until it ends, or `watcher` says that it is enough. Its place among those that are
    /// `open` it has for longer.
    pub(super) async fn serve<S>(self, stream: S, speaks: Speaks, mut watcher: Watcher, open: OpenConnection)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let address = self.peer.address;
        let stream = Lingering::new(stream, (open, watcher.remains()), self.ends.clone());
        let stream = Layered { stream, layer: Watched(Arc::clone(&self.pulse)) };
        let ended = match speaks {
            Speaks::Http1 => self.http1(stream, &mut watcher).await,
            Speaks::Http2 => self.http2(stream, &mut watcher).await,
            Speaks::Either => {
                let told = tokio::select! {
                    biased;
                    told = preface::is_http2(stream) => told,
                    () = watcher.enough() => return,
                };
                match told {
                    Ok((true, stream)) => self.http2(stream, &mut watcher).await,
                    Ok((false, stream)) => self.http1(stream, &mut watcher).await,
                    Err(error) => return tracing::debug!(peer = %address, %error, "connection lost"),
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(peer = %address, %error, "connection ended");
        }
    }

    async fn http1<S>(self, stream: S, watcher: &mut Watcher) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { worker, gateway, peer, settings, pulse, answers, .. } = self;
        let ServerSettings { max_head, max_headers, max_uri, .. } = *settings;
        let (layer, refusals) = Guard::new(Limits { max_head, max_headers, max_uri });
        let stream = Layered { stream, layer };
        let (peer, served) = (Arc::new(peer), AtomicUsize::new(0));
        let ServerSettings { max_requests_per_connection: max_requests, grace, .. } = *settings;
        let service = service_fn(move |request: Request<Incoming>| {
            let (gateway, peer) = (Arc::clone(&gateway), Arc::clone(&peer));
            let beat = Beat::begin(&pulse);
            let is_last = served.fetch_add(1, Ordering::Relaxed) + 1 >= max_requests;
            let (refused, paced) = (refusals.of(&request), answers.paced());
            async move {
                let mut answer = match refused {
                    None => gateway.serve(worker, &peer, request).await,
                    Some(failure) => gateway.turn_away(&peer, request.headers(), failure),
                };
                if is_last {
                    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
                }
                Ok::<_, Infallible>(answer.map(|body| Answering { body, paced, _beat: beat }))
            }
        });
        // Timers are the reaper's, see `pulse`; bounds are the guard's, and hyper's lie a little beyond. As much as is read
        // ahead is kept of an answer that is not taken, and hyper would have it be 400 KiB.
        let mut builder = http1::Builder::new();
        builder.max_header_size(max_head + MARGIN).max_buf_size(max_head + MARGIN);
        if max_headers > HEADERS {
            // Said or not, it is the same, but for the room for them, which is taken anew for each request then.
            builder.max_headers(max_headers);
        }
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let spent = std::future::pending();
        until_done(connection, watcher, spent, grace, http1::Connection::graceful_shutdown).await
    }

    async fn http2<S>(self, stream: S, watcher: &mut Watcher) -> hyper::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { worker, gateway, telemetry, peer, settings, conduct, pulse, answers, .. } = self;
        pulse.framed();
        let layer = Counted::new(http2::frame_limits(&settings), Arc::clone(&conduct), Arc::clone(&pulse));
        let stream = Layered { stream, layer };
        let builder = http2::builder(&settings, &telemetry);
        let peer = Arc::new(peer);
        let (served, spent, grace) = (AtomicUsize::new(0), Arc::new(Notify::new()), settings.grace);
        let (tell_spent, queue) = (Arc::clone(&spent), Queue::default());
        let service = service_fn(move |mut request: Request<Incoming>| {
            let (gateway, peer) = (Arc::clone(&gateway), Arc::clone(&peer));
            let beat = Beat::begin(&pulse);
            if served.fetch_add(1, Ordering::Relaxed) + 1 == settings.max_requests_per_connection {
                tell_spent.notify_one();
            }
            let (settings, paced, queued) = (Arc::clone(&settings), answers.paced(), queue.enter());
            async move {
                queued.ahead().await;
                let answer = match message::check_http2(&mut request, &settings) {
                    Ok(()) => gateway.serve(worker, &peer, request).await,
                    Err(failure) => gateway.turn_away(&peer, request.headers(), failure),
                };
                Ok::<_, Infallible>(in_pieces(answer, paced, beat))
            }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let end = hyper::server::conn::http2::Connection::graceful_shutdown;
        let ended = until_done(connection, watcher, spent.notified(), grace, end).await;
        if let Some(reason) = ended.as_ref().err().and_then(http2::cut_for) {
            conduct.cut(reason);
        }
        ended
    }
}

/// Runs a connection to its end, and tells it by `end` to begin nothing more when it is `spent` or `watcher` says so. On
/// terms that hold no more it has so much `grace`, whatever its caller makes of what it is told.
async fn until_done<C: Future<Output = hyper::Result<()>>>(
    connection: C,
    watcher: &mut Watcher,
    spent: impl Future<Output = ()>,
    grace: Duration,
    end: fn(Pin<&mut C>),
) -> hyper::Result<()> {
    let mut connection = pin!(connection);
    tokio::select! {
        // First what came already: the last bytes before it was told may be a request, which is answered, too.
        biased;
        done = &mut connection => return done,
        () = watcher.enough() => {}
        () = spent => {}
    }
    end(connection.as_mut());
    tokio::select! {
        biased;
        done = &mut connection => done,
        () = watcher.is_late(grace) => Ok(()),
    }
}

/// An answer's body; its connection is busy as long as it lives.
struct Answering<B> {
    body: B,
    paced: Paced,
    _beat: Beat,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Answering<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        ready!(self.paced.poll_turn(cx));
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.paced.passed(frame.data_ref().map_or(0, Bytes::len));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

fn in_pieces(answer: Response<Body<Holding>>, paced: Paced, beat: Beat) -> Response<Pieces<Body<Holding>>> {
    let progress = Progress::begin();
    answer.map(|body| {
        let held = body.here();
        beat.holds(held);
        Pieces { body, rest: Bytes::new(), held, out: [0, 0], paced, progress, beat }
    })
}

/// An answer's body in pieces, of which the next one is asked for when the one before was begun to be taken.
struct Pieces<B> {
    body: B,
    rest: Bytes,
    /// Bytes that the beat was told of, and those of them that are in the last two pieces: one waits in hyper until the
    /// caller's window allows any more, the one before in `h2` until it allows all of it.
    held: usize,
    out: [usize; 2],
    paced: Paced,
    progress: Option<Arc<Progress>>,
    beat: Beat,
}

impl<B: HttpBody> Pieces<B> {
    /// A piece of what is here.
    fn next_piece(&mut self) -> Bytes {
        let later = if self.body.is_end_stream() && self.rest.len() > LAST_PIECE { LAST_PIECE } else { 0 };
        let count = PIECE.min(self.rest.len() - later);
        self.out = [count, self.out[0]];
        self.rest.split_to(count)
    }
}

impl<B> Pieces<B> {
    fn let_go(&mut self, bytes: usize) {
        self.beat.let_go(bytes);
        self.held -= bytes;
    }
}

impl<B> Drop for Pieces<B> {
    fn drop(&mut self) {
        self.let_go(self.held);
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Pieces<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(progress) = &self.progress {
            progress.taken();
        }
        let taken = std::mem::take(&mut self.out[1]);
        self.let_go(taken);
        if self.rest.is_empty() {
            ready!(self.paced.poll_turn(cx));
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.paced.passed(data.len());
                        // What was here already is told of.
                        let here = self.held - self.out[0];
                        let more = data.len().saturating_sub(here);
                        self.beat.holds(more);
                        self.held += more;
                        self.rest = data;
                    }
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                ended => return Poll::Ready(ended),
            }
        }
        Poll::Ready(Some(Ok(Frame::data(self.next_piece()))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.len() as u64;
        self.body.size_hint().exact().map_or_else(SizeHint::default, |more| SizeHint::with_exact(rest + more))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Waker;

    use http_body_util::{BodyExt, Full};

    use super::super::pulse::Ticks;
    use super::*;

    /// A body that always has more.
    struct Endless;

    impl HttpBody for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(Some(Ok(Frame::data(Bytes::from(vec![0; 64 << 10])))))
        }
    }

    #[tokio::test]
    async fn all_but_the_last_bytes_wait_until_they_are_asked_for() {
        let (pace, ticks, tick) = (Pace::begin(), Arc::new(Ticks::default()), Duration::from_secs(1));
        for (size, pieces) in [
            (1, &[1][..]),
            (LAST_PIECE, &[LAST_PIECE]),
            (LAST_PIECE + 1, &[1, LAST_PIECE]),
            (PIECE, &[PIECE - LAST_PIECE, LAST_PIECE]),
            (2 * PIECE + 1, &[PIECE, PIECE + 1 - LAST_PIECE, LAST_PIECE]),
        ] {
            let pulse = Arc::new(Pulse::new(&ticks));
            let (paced, beat) = (pace.paced(), Beat::begin(&pulse));
            beat.holds(size);
            let body = Full::new(Bytes::from(vec![b'x'; size]));
            let (rest, held, out) = (Bytes::new(), size, [0, 0]);
            let mut body = Pieces { body, rest, held, out, paced, progress: None, beat };
            for (number, piece) in pieces.iter().enumerate() {
                assert!(!body.is_end_stream());
                let frame = body.frame().await.expect("there is more").expect("it cannot fail");
                assert_eq!(frame.into_data().expect("it is data").len(), *piece, "of {size}");
                (0..2).for_each(|_| ticks.advance());
                let taken: usize = pieces[..number.saturating_sub(1)].iter().sum();
                assert_eq!(pulse.unread(tick).map(|unread| unread.bytes), Some(size - taken), "of {size}");
            }
            assert!(body.is_end_stream());
            drop(body);
            assert_eq!(pulse.unread(tick), None);
        }
    }

    async fn waits_for_its_turn(mut body: impl HttpBody<Data = Bytes, Error = Infallible> + Unpin) {
        for _ in 0..3 {
            let mut now = || Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
            while now().is_ready() {}
            assert!(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.is_some());
        }
    }

    #[tokio::test]
    async fn a_large_answer_lets_others_have_their_turn() {
        let (pace, pulse) = (Pace::begin(), Arc::new(Pulse::new(&Arc::new(Ticks::default()))));
        let (paced, beat) = (pace.paced(), Beat::begin(&pulse));
        waits_for_its_turn(Answering { body: Endless, paced, _beat: beat }).await;
        let (paced, beat) = (pace.paced(), Beat::begin(&pulse));
        let (rest, held, out) = (Bytes::new(), 0, [0, 0]);
        waits_for_its_turn(Pieces { body: Endless, rest, held, out, paced, progress: None, beat }).await;
    }
}
