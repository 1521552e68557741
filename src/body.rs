//! Bodies: the one that answers have, and reading one whole within a bound.
//!
//! What a request takes (its place among those in flight, its record) lives in its answer's body and is given back
//! when the body ended or was dropped, whichever comes first.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Instant, Sleep};

/// What happens when an answer's body ended. Dropped without either call, the client left.
pub trait OnEnd: Send + Unpin {
    /// The last of `bytes` bytes was handed over.
    fn complete(&mut self, bytes: u64);
    /// The body could not be sent to its end.
    fn broken(&mut self, why: Broken);
}

/// Why a body that streams through ended early. The connection to the client is closed, so that it notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// The upstream's connection was lost.
    #[error("the upstream closed the connection inside its answer")]
    Lost,
    /// More bytes came than the policy allows.
    #[error("the answer is larger than the limit")]
    TooLarge,
    /// The request's deadline passed.
    #[error("the deadline passed inside the answer")]
    Late,
}

/// The body of every answer.
pub struct Body<E: OnEnd> {
    content: Content,
    sent: u64,
    on_end: Option<E>,
}

/// What an answer's body is made of.
pub enum Content {
    /// All of it is here.
    Whole(Bytes),
    /// It comes from upstream while it is sent.
    Streamed(Pin<Box<dyn HttpBody<Data = Bytes, Error = Broken> + Send>>),
}

impl Content {
    /// Streams `begun` and then the rest of `body`: at most `limit` bytes in all, and not beyond `deadline`.
    pub fn streamed<B>(begun: Bytes, body: B, limit: usize, deadline: Instant) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    {
        let sleep = tokio::time::sleep_until(deadline);
        Self::Streamed(Box::pin(Streamed { left: limit - begun.len(), begun, body, deadline: Box::pin(sleep) }))
    }
}

impl<E: OnEnd> Body<E> {
    /// A body that tells `on_end` how it ended.
    pub fn new(content: Content, on_end: E) -> Self {
        Self { content, sent: 0, on_end: Some(on_end) }
    }

    /// Bytes of it that are here already.
    pub fn here(&self) -> usize {
        match &self.content {
            Content::Whole(bytes) => bytes.len(),
            Content::Streamed(_) => 0,
        }
    }

    fn complete(&mut self) {
        if let Some(mut on_end) = self.on_end.take() {
            on_end.complete(self.sent);
        }
    }
}

impl<E: OnEnd> HttpBody for Body<E> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let frame = match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => None,
            Content::Whole(bytes) => Some(Ok(Frame::data(std::mem::take(bytes)))),
            Content::Streamed(body) => ready!(body.as_mut().poll_frame(cx)),
        };
        match &frame {
            Some(Ok(frame)) => {
                self.sent += frame.data_ref().map_or(0, |data| data.len() as u64);
                if self.is_end_stream() {
                    self.complete();
                }
            }
            Some(Err(why)) => {
                if let Some(mut on_end) = self.on_end.take() {
                    on_end.broken(*why);
                }
            }
            None => self.complete(),
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Streamed(body) => body.size_hint(),
        }
    }
}

impl<E: OnEnd> Drop for Body<E> {
    fn drop(&mut self) {
        // An empty body is never polled: it is complete as soon as it is no longer needed.
        if self.is_end_stream() {
            self.complete();
        }
    }
}

/// The bounded rest of an upstream's answer.
struct Streamed<B> {
    begun: Bytes,
    body: B,
    left: usize,
    deadline: Pin<Box<Sleep>>,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Streamed<B> {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        if !this.begun.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut this.begun)))));
        }
        loop {
            let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
                ready!(this.deadline.as_mut().poll(cx));
                return Poll::Ready(Some(Err(Broken::Late)));
            };
            return Poll::Ready(match frame {
                None => None,
                Some(Err(_)) => Some(Err(Broken::Lost)),
                Some(Ok(frame)) => match frame.into_data() {
                    // Trailers end at this hop.
                    Err(_) => continue,
                    Ok(data) if data.len() > this.left => Some(Err(Broken::TooLarge)),
                    Ok(data) => {
                        this.left -= data.len();
                        Some(Ok(Frame::data(data)))
                    }
                },
            });
        }
    }

    fn size_hint(&self) -> SizeHint {
        let begun = self.begun.len() as u64;
        self.body.size_hint().exact().map_or_else(SizeHint::default, |rest| SizeHint::with_exact(begun + rest))
    }
}

/// What was read of a body.
#[derive(Debug, PartialEq, Eq)]
pub enum Collected {
    /// All of it.
    All(Bytes),
    /// More than the bound; this is what came so far.
    More(Bytes),
}

/// Reads `body` until it ends or is larger than `bound` bytes. A body that comes in one piece is not copied.
pub async fn collect<B>(body: &mut B, bound: usize) -> Result<Collected, B::Error>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if first.is_empty() {
            first = data;
        } else {
            if joined.is_empty() {
                joined.extend_from_slice(&first);
            }
            joined.extend_from_slice(&data);
        }
        if first.len().max(joined.len()) > bound {
            return Ok(Collected::More(one_of(first, joined)));
        }
        if body.is_end_stream() {
            break;
        }
    }
    Ok(Collected::All(one_of(first, joined)))
}

fn one_of(first: Bytes, joined: BytesMut) -> Bytes {
    if joined.is_empty() { first } else { joined.freeze() }
}
