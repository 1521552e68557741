//! One connection: the requests that come on it, one after the other or at the same time, go to the gateway.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::Request;
use http::header::{CONNECTION, HeaderValue};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;

use super::cuts::Conduct;
use super::drain::Watcher;
use super::frames::Counted;
use super::http2::{self, Queue};
use super::layer::Layered;
use super::linger::{self, Lingering};
use super::pace::Pace;
use super::pulse::{Beat, Pulse, Watched};
use super::strict::{Guard, Limits};
use super::{OpenConnection, ServerSettings, answer, message, preface};
use crate::admission::Peer;
use crate::gateway::Gateway;
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
        let patience = linger::Patience::new(self.settings.grace, self.settings.process.body_timeout);
        let stream = Lingering::new(stream, (open, watcher.remains()), self.ends.clone(), patience);
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
                Ok::<_, Infallible>(answer::whole(answer, paced, beat))
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
                Ok::<_, Infallible>(answer::in_pieces(answer, paced, beat))
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
