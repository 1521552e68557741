//! An open connection, whichever HTTP is spoken on it.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header, response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::Full;

use super::dial::refusal;
use super::pool::Address;
use super::{http1, http2};

/// A connection for one request at a time: of its own, or a place on one that others use as well.
pub(super) enum Connection {
    /// HTTP/1.1.
    Http1(http1::Connection),
    /// HTTP/2.
    Http2(http2::Place),
}

/// A request but for what its connection adds.
pub(super) struct Head {
    pub(super) method: Method,
    /// Path and query.
    pub(super) uri: Uri,
    /// All but `Host` and what frames the body.
    pub(super) headers: HeaderMap,
}

impl Connection {
    /// Sends a request and waits for the head of its answer.
    pub(super) async fn send(
        &mut self,
        head: Head,
        body: Bytes,
        address: &Address,
    ) -> Result<(response::Parts, Incoming), Failed> {
        match self {
            Self::Http1(connection) => {
                let mut request = Request::new(Full::new(body));
                *request.method_mut() = head.method;
                *request.uri_mut() = head.uri;
                *request.headers_mut() = head.headers;
                request.headers_mut().insert(header::HOST, address.host().clone());
                let (head, body) = connection.send(request).await.map_err(|error| Failed::of(&error))?.into_parts();
                Ok((head, Incoming::Http1(body)))
            }
            Self::Http2(place) => {
                let (mut head, body) = place.send(absolute(head, &body, address), body).await?;
                // What it is on its way here is no matter of the next hop.
                head.version = http::Version::HTTP_11;
                let body = http2::Body::new(&head, body);
                Ok((head, Incoming::Http2(body)))
            }
        }
    }

    /// The next frame of an answer's body.
    pub(super) fn poll_frame(
        &mut self,
        body: &mut Incoming,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Torn>>> {
        match (self, body) {
            (Self::Http1(connection), Incoming::Http1(body)) => {
                connection.poll_frame(body, cx).map(|frame| frame.map(|frame| frame.map_err(|error| Torn::of(&error))))
            }
            (Self::Http2(_), Incoming::Http2(body)) => {
                body.poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(|error| Torn::of_http2(&error))))
            }
            _ => Poll::Ready(Some(Err(Torn::Lost))),
        }
    }
}

/// As HTTP/2 has it: with scheme and authority in the target (RFC 9113 §8.3.1), and a length that tells the body's.
fn absolute(head: Head, body: &Bytes, address: &Address) -> Request<()> {
    let mut request = Request::new(());
    let mut parts = head.uri.into_parts();
    if let Some(authority) = address.authority() {
        parts.scheme = Some(http::uri::Scheme::HTTPS);
        parts.authority = Some(authority.clone());
    }
    // All three are there.
    *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
    *request.headers_mut() = head.headers;
    if head.method != Method::GET {
        request.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    *request.method_mut() = head.method;
    request
}

/// The body of an answer, without its connection.
pub(super) enum Incoming {
    /// HTTP/1.1.
    Http1(hyper::body::Incoming),
    /// HTTP/2.
    Http2(http2::Body),
}

impl Incoming {
    /// Whether all of it was read.
    pub(super) fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    /// How much is to come.
    pub(super) fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}

/// A request that was not answered.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) kind: Kind,
    pub(super) text: String,
    /// Whether another request told of the same event.
    pub(super) repeated: bool,
}

/// What can be said of a request that was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// What came instead is not HTTP.
    Malformed,
    /// The other side says that it did not act on it.
    Unprocessed,
    /// It did not go out.
    Unsent,
    /// The other side does not take the certificate shown to it: it read nothing.
    Refused,
    /// It may have arrived.
    Lost,
}

impl Failed {
    /// A request's own failure.
    pub(super) fn new(kind: Kind, text: String) -> Self {
        Self { kind, text, repeated: false }
    }

    /// The connection was closed before it was used.
    pub(super) fn closed() -> Self {
        Self::new(Kind::Unsent, "the connection was closed at once".into())
    }

    fn of(error: &hyper::Error) -> Self {
        if let Some(refusal) = refusal(error) {
            return Self::new(Kind::Refused, refusal);
        }
        let kind = match () {
            () if error.is_parse() => Kind::Malformed,
            () if error.is_canceled() => Kind::Unsent,
            () => Kind::Lost,
        };
        Self::new(kind, error.to_string())
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
        let is_decoding = |error: &io::Error| matches!(error.kind(), ErrorKind::InvalidInput | ErrorKind::InvalidData);
        if error.is_parse() || decoding.is_some_and(is_decoding) { Self::Malformed } else { Self::Lost }
    }

    fn of_http2(error: &h2::Error) -> Self {
        if error.is_library() { Self::Malformed } else { Self::Lost }
    }
}
