//! One request on one connection, and the answer's body with the connection it comes on.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Method, StatusCode, response};
use http_body::{Body, Frame, SizeHint};
use tokio::time::Instant;

use super::connection::{Connection, Failed, Head, Incoming, Kind, Torn};
use super::pool::{Address, Turn};
use super::{Outgoing, SendError};

/// A connection in use. It goes back when an answer was read to its end; dropped before that, it is closed, or where it
/// is shared, the request is taken off it.
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

/// A request that was not answered, and what can be done about it here.
pub(super) struct Unanswered {
    pub(super) error: SendError,
    pub(super) again: Option<Again>,
}

/// How a request may be sent once more, although the policy says nothing of it.
pub(super) enum Again {
    /// It was lost with a connection that had been idle.
    Afresh(Arc<Address>),
    /// Whoever got it says that it did not act on it.
    Elsewhere,
}

impl Lease {
    pub(super) fn new(turn: Turn, connection: Connection, worker: usize, max_idle: usize, kept: bool) -> Self {
        let reused = match &connection {
            Connection::Http1(_) => kept,
            Connection::Http2(place) => place.was_idle(),
        };
        Self { connection: Some(connection), turn, worker, max_idle, reused, waiting: None }
    }

    /// Sends `request`, now that it is `began`, and waits for the head of the answer.
    pub(super) async fn exchange(
        mut self,
        request: &Outgoing,
        began: Instant,
    ) -> Result<(response::Parts, Exchange), Unanswered> {
        let address = self.turn.address();
        let socket = address.socket();
        let Some(connection) = &mut self.connection else {
            return Err(SendError::Reset(socket, "no connection".into()).into());
        };
        let head = Head { method: Method::POST, uri: request.uri.clone(), headers: request.headers_at(began) };
        self.waiting = Some(began);
        let answer = connection.send(head, request.body.clone(), address).await;
        self.waiting = None;
        let (head, body) = answer.map_err(|failed| self.unanswered(failed, began))?;
        self.answered(head.status, began);
        Ok((head, Exchange { body, socket, replayed: false, lease: Some(self) }))
    }

    fn unanswered(&self, failed: Failed, began: Instant) -> Unanswered {
        let (address, now) = (self.turn.address(), Instant::now());
        let Failed { kind, text, repeated } = failed;
        let socket = address.socket();
        let unreachable = || SendError::Unreachable(format!("{socket}: {text}"));
        match kind {
            Kind::Malformed => SendError::Malformed(socket, text).into(),
            Kind::Unprocessed => Unanswered { error: unreachable(), again: Some(Again::Elsewhere) },
            _ if self.reused => {
                let again = Some(Again::Afresh(Arc::clone(address)));
                Unanswered { error: SendError::Reset(socket, text), again }
            }
            Kind::Refused => {
                address.note(|health| health.refused(began, now, &text));
                unreachable().into()
            }
            Kind::Unsent | Kind::Lost => {
                if !repeated {
                    address.failed(began, now, &text);
                }
                // It was closed as soon as it was there, and the request did not go out.
                if kind == Kind::Unsent { unreachable() } else { SendError::Reset(socket, text) }.into()
            }
        }
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
        if let Some(Connection::Http1(mut connection)) = self.connection.take() {
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
        if let Some(Connection::Http1(_)) = self.connection.take() {
            self.turn.address().closed();
        }
    }
}

impl From<SendError> for Unanswered {
    /// Whether it is sent again is for the policy to say.
    fn from(error: SendError) -> Self {
        Self { error, again: None }
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
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.lease.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
