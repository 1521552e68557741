//! The bodies of answers as a connection sends them: a part at a time, counted while they wait for their caller.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::http2::{PIECE, Progress};
use super::pace::Paced;
use super::pulse::{Beat, Part};
use crate::body::Body;
use crate::gateway::Holding;

/// An answer over HTTP/1.1.
pub(super) fn whole(answer: Response<Body<Holding>>, paced: Paced, beat: Beat) -> Response<Answering<Body<Holding>>> {
    answer.map(|body| Answering { body, paced, beat })
}

/// An answer's body; its connection is busy as long as it lives.
pub(super) struct Answering<B> {
    body: B,
    paced: Paced,
    beat: Beat,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Answering<B> {
    type Data = Part;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Part>, B::Error>>> {
        ready!(self.paced.poll_turn(cx));
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| {
            frame.map(|frame| {
                frame.map_data(|data| {
                    self.paced.passed(data.len());
                    self.beat.more(data.len());
                    self.beat.part(data)
                })
            })
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// An answer over HTTP/2.
pub(super) fn in_pieces(answer: Response<Body<Holding>>, paced: Paced, beat: Beat) -> Response<Pieces<Body<Holding>>> {
    let progress = Progress::begin();
    answer.map(|body| {
        let here = body.here();
        beat.more(here);
        Pieces { body, rest: Bytes::new(), here, paced, progress, beat }
    })
}

/// An answer's body in pieces, of which the next one is asked for when the one before was begun to be taken.
pub(super) struct Pieces<B> {
    body: B,
    rest: Bytes,
    /// Bytes that the beat was told to be here, and that are in no piece.
    here: usize,
    paced: Paced,
    progress: Option<Arc<Progress>>,
    beat: Beat,
}

impl<B> Pieces<B> {
    /// A piece of what is here.
    fn next_piece(&mut self) -> Part {
        let count = self.rest.len().min(PIECE);
        self.here -= count;
        self.beat.part(self.rest.split_to(count))
    }
}

impl<B> Drop for Pieces<B> {
    fn drop(&mut self) {
        self.beat.less(self.here);
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Pieces<B> {
    type Data = Part;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Part>, B::Error>>> {
        if let Some(progress) = &self.progress {
            progress.taken();
        }
        if self.rest.is_empty() {
            ready!(self.paced.poll_turn(cx));
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        self.paced.passed(data.len());
                        let more = data.len().saturating_sub(self.here);
                        self.beat.more(more);
                        self.here += more;
                        self.rest = data;
                    }
                    // Trailers end at this gateway.
                    Err(_) => return Poll::Ready(None),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => return Poll::Ready(None),
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
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::task::Waker;

    use bytes::Buf;
    use http_body_util::{BodyExt, Full};

    use super::super::pace::Pace;
    use super::super::pulse::{Pulse, Ticks};
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
    async fn an_answer_waits_until_it_is_written() {
        let (pace, ticks) = (Pace::begin(1), Arc::new(Ticks::default()));
        let pulse = Arc::new(Pulse::new(&ticks));
        let waits = || {
            (0..2).for_each(|_| ticks.advance());
            pulse.unread().map_or(0, |unread| unread.bytes)
        };
        let (paced, beat, size) = (pace.paced(), Beat::begin(&pulse), 2 * PIECE + 1);
        beat.more(size);
        let body = Full::new(Bytes::from(vec![b'x'; size]));
        let mut body = Pieces { body, rest: Bytes::new(), here: size, paced, progress: None, beat };
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.extend(frame.expect("it cannot fail").into_data());
        }
        assert!(body.is_end_stream());
        drop(body);
        assert_eq!(waits(), size, "all of it is with whoever sends it");
        pieces[0].advance(PIECE);
        assert_eq!(waits(), PIECE + 1);
        drop(pieces);
        assert_eq!(waits(), 0);

        let (paced, beat) = (pace.paced(), Beat::begin(&pulse));
        let mut body = Pieces { body: Endless, rest: Bytes::new(), here: 0, paced, progress: None, beat };
        let piece = body.frame().await;
        assert_eq!(waits(), 64 << 10);
        drop(body);
        assert_eq!(waits(), PIECE, "the rest is not wanted any more");
        drop(piece);
        let (paced, beat) = (pace.paced(), Beat::begin(&pulse));
        let frame = Answering { body: Endless, paced, beat }.frame().await;
        assert_eq!(waits(), 64 << 10);
        drop(frame);
        assert_eq!(waits(), 0);
    }

    async fn waits_for_its_turn(mut body: impl HttpBody<Data = Part, Error = Infallible> + Unpin) {
        for _ in 0..3 {
            let mut now = || Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
            while now().is_ready() {}
            assert!(poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await.is_some());
        }
    }

    #[tokio::test]
    async fn a_large_answer_lets_others_have_their_turn() {
        let (pace, pulse) = (Pace::begin(1), Arc::new(Pulse::new(&Arc::new(Ticks::default()))));
        let (paced, beat) = (pace.paced(), Beat::begin(&pulse));
        waits_for_its_turn(Answering { body: Endless, paced, beat }).await;
        let (paced, beat) = (pace.paced(), Beat::begin(&pulse));
        waits_for_its_turn(Pieces { body: Endless, rest: Bytes::new(), here: 0, paced, progress: None, beat }).await;
    }
}
