//! One connection: the requests that come on it, one after the other or at the same time, go to the gateway.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::Request;
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use hyper_util::server::graceful::Watcher;
use tokio::io::{AsyncRead, AsyncWrite};

use super::ServerSettings;
use super::pulse::{Beat, Pulse, Watched};
use crate::admission::Peer;
use crate::gateway::Gateway;

/// What the requests of a connection have in common.
pub(super) struct Connection {
    pub(super) worker: usize,
    pub(super) gateway: Arc<Gateway>,
    pub(super) peer: Peer,
    pub(super) settings: Arc<ServerSettings>,
    pub(super) pulse: Arc<Pulse>,
}

impl Connection {
    /// Serves what comes on `stream` until it ends, or `graceful` says that it is enough.
    pub(super) async fn serve<S>(self, stream: S, graceful: Watcher)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Self { worker, gateway, peer, settings, pulse } = self;
        let address = peer.address;
        let io = TokioIo::new(Watched { stream, pulse: Arc::clone(&pulse) });
        let peer = Arc::new(peer);
        let service = service_fn(move |request: Request<Incoming>| {
            let (gateway, peer) = (Arc::clone(&gateway), Arc::clone(&peer));
            let beat = Beat::begin(&pulse);
            async move {
                let answer = gateway.serve(worker, &peer, request).await;
                Ok::<_, Infallible>(answer.map(|body| Answering { body, _beat: beat }))
            }
        });
        // Timers are the reaper's: see `pulse`.
        let connection = http1::Builder::new().max_header_size(settings.max_head).serve_connection(io, service);
        if let Err(error) = graceful.watch(connection).await {
            tracing::debug!(peer = %address, %error, "connection ended");
        }
    }
}

/// An answer's body; its connection is busy as long as it lives.
struct Answering<B> {
    body: B,
    _beat: Beat,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Answering<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
