//! Reads a request's body whole, so that it can be sent more than once, within two bounds: the policy's for one
//! request, and the process's for all that it holds.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::timeout;

use crate::body::{Collected, collect};
use crate::gates::bytes::Reservation;
use crate::gates::{Gates, QUEUED_BYTES};
use crate::response::{Failure, Reason};

/// When a process that holds too many bytes is worth asking again: bodies are held for as long as requests take.
const AGAIN: Duration = Duration::from_secs(1);

/// Reads `body`, of at most `limit` bytes, within the time that any body has. As long as the second part of the answer lives, the bytes count among those
/// that the process holds.
pub(super) async fn read_request<B>(
    headers: &HeaderMap,
    body: B,
    limit: usize,
    gates: &Gates,
) -> Result<(Bytes, Reservation), Failure>
where
    B: Body<Data = Bytes> + Unpin,
{
    let too_large = || {
        let message = format!("the request is larger than max_request_body, {limit} bytes");
        Failure::new(Reason::RequestTooLarge, message)
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    let held = &gates.bytes;
    let full = || {
        Failure::refused(Reason::Overloaded, QUEUED_BYTES, AGAIN, format!("{} bytes of requests are held", held.held()))
    };
    let reserved = held.reserve(0).ok_or_else(full)?;
    let mut body = Counted { body, reserved };
    let longest = gates.body_timeout();
    let Ok(collected) = timeout(longest, collect(&mut body, limit)).await else {
        let message = format!("the request's body did not arrive within body_timeout, {longest:?}");
        return Err(Failure::new(Reason::SlowBody, message));
    };
    match collected {
        Ok(Collected::All(bytes)) => Ok((bytes, body.reserved)),
        Ok(Collected::More(_)) => Err(too_large()),
        Err(Ended::Full) => Err(full()),
        Err(Ended::Broken) if headers.contains_key(http::header::TRANSFER_ENCODING) => {
            Err(Failure::new(Reason::BadBody, "the request's body ended early, or its chunks are not well-formed"))
        }
        Err(Ended::Broken) => Err(Failure::new(Reason::BadBody, "the request's body ended before its Content-Length")),
    }
}

/// Why a body could not be read.
enum Ended {
    /// The sender's fault.
    Broken,
    /// The process holds as many bytes as it may.
    Full,
}

/// A body whose bytes are counted as they come.
struct Counted<B> {
    body: B,
    reserved: Reservation,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Counted<B> {
    type Data = Bytes;
    type Error = Ended;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Ended>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            let frame = frame.map_err(|_| Ended::Broken)?;
            let size = frame.data_ref().map_or(0, Bytes::len);
            if self.reserved.grow(size) { Ok(frame) } else { Err(Ended::Full) }
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
