//! One request on one connection, and the answer's body with the connection it comes on.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, StatusCode, header, response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::Instant;

use super::dial::refusal;
use super::http1::Connection;
use super::pool::Turn;
use super::{Outgoing, SendError};

/// A connection in use. It goes back when an answer was read to its end; dropped before that, it is closed.
pub(super) struct Lease {
    connection: Option<Connection>,
    turn: Turn,
    worker: usize,
    max_idle: usize,
    /// Whether it was idle before: then its loss says nothing of the address.
    reused: bool,
    /// Since when an answer is waited for.
    waiting: Option<Instant>,
}

impl Lease {
    pub(super) fn new(turn: Turn, connection: Connection, worker: usize, max_idle: usize, reused: bool) -> Self {
        Self { connection: Some(connection), turn, worker, max_idle, reused, waiting: None }
    }

    /// Sends `request`, now that it is `began`, and waits for the head of the answer.
    pub(super) async fn exchange(
        mut self,
        request: &Outgoing,
        began: Instant,
    ) -> Result<(response::Parts, Exchange), SendError> {
        let socket = self.turn.address().socket();
        let Some(connection) = &mut self.connection else {
            return Err(SendError::Reset(socket, "no connection".into()));
        };
        let mut outgoing = Request::new(Full::new(request.body.clone()));
        *outgoing.method_mut() = http::Method::POST;
        *outgoing.uri_mut() = request.uri.clone();
        *outgoing.headers_mut() = request.headers_at(began);
        outgoing.headers_mut().insert(header::HOST, self.turn.address().host().clone());
        self.waiting = Some(began);
        let answer = connection.send(outgoing).await;
        self.waiting = None;
        let (head, body) = answer.map_err(|error| self.lost(&error, began))?.into_parts();
        self.answered(head.status, began);
        Ok((head, Exchange { body, socket, replayed: false, lease: Some(self) }))
    }

    fn lost(&self, error: &hyper::Error, began: Instant) -> SendError {
        let (address, text) = (self.turn.address(), error.to_string());
        if let Some(refusal) = refusal(error).filter(|_| !self.reused) {
            address.note(|health| health.refused(began, Instant::now(), &refusal));
            return SendError::Unreachable(format!("{}: {refusal}", address.socket()));
        }
        if error.is_parse() {
            return SendError::Malformed(address.socket(), text);
        }
        if !self.reused {
            address.failed(began, Instant::now(), &text);
            // It was closed as soon as it was there, and the request did not go out.
            if error.is_canceled() {
                return SendError::Unreachable(format!("{}: {text}", address.socket()));
            }
        }
        SendError::Reset(address.socket(), text)
    }

    /// Whether the address or a handler behind it means a 502, 503 or 504 is for others to say: see
    /// [`super::Upstream::report`].
    fn answered(&self, status: StatusCode, began: Instant) {
        let (address, now) = (self.turn.address(), Instant::now());
        address.took(now.saturating_duration_since(began), now);
        if !matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT) {
            address.answered_well(began, now);
        }
    }

    fn give_back(mut self) {
        if let Some(mut connection) = self.connection.take() {
            let address = self.turn.address();
            if connection.is_reusable() {
                address.give(self.worker, connection, self.max_idle);
            } else {
                address.closed();
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        if let Some(began) = self.waiting.take() {
            let now = Instant::now();
            self.turn.address().took_at_least(now.saturating_duration_since(began), now);
        }
        if self.connection.take().is_some() {
            self.turn.address().closed();
        }
    }
}

/// Why the body of an answer ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Torn {
    /// The connection was lost.
    #[error("the connection was lost inside the answer")]
    Lost,
    /// What came is not HTTP.
    #[error("the answer's body is not well-formed HTTP")]
    Malformed,
}

impl Torn {
    fn of(error: &hyper::Error) -> Self {
        let decoding = error.source().and_then(|source| source.downcast_ref::<io::Error>());
        let decoding =
            decoding.is_some_and(|error| matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData));
        if error.is_parse() || decoding { Self::Malformed } else { Self::Lost }
    }
}

/// The body of an answer, with the connection it comes on.
pub struct Exchange {
    body: Incoming,
    socket: SocketAddr,
    pub(super) replayed: bool,
    lease: Option<Lease>,
}

impl Exchange {
    /// Whether the request had been sent before, on a connection that died: the first may have arrived.
    pub fn is_replayed(&self) -> bool {
        self.replayed
    }

    /// The address that answered.
    pub fn socket(&self) -> SocketAddr {
        self.socket
    }
}

impl Body for Exchange {
    type Data = Bytes;
    type Error = Torn;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Torn>>> {
        let this = &mut *self;
        let Some(connection) = this.lease.as_mut().and_then(|lease| lease.connection.as_mut()) else {
            return Poll::Ready(None);
        };
        let frame = ready!(connection.poll_frame(&mut this.body, cx));
        match &frame {
            Some(Err(_)) => this.lease = None,
            Some(Ok(_)) if !this.body.is_end_stream() => {}
            Some(Ok(_)) | None => {
                if let Some(lease) = this.lease.take() {
                    lease.give_back();
                }
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(|error| Torn::of(&error))))
    }

    fn is_end_stream(&self) -> bool {
        self.lease.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
