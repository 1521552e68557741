//! The bodies of answers as a connection sends them: a part at a time, counted while they wait for their caller.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::http2::{LAST_PIECE, PIECE, Progress};
use super::pace::Paced;
use super::pulse::Beat;
use crate::body::Body;
use crate::gateway::Holding;

/// An answer over HTTP/1.1.
pub(super) fn whole(answer: Response<Body<Holding>>, paced: Paced, beat: Beat) -> Response<Answering<Body<Holding>>> {
    answer.map(|body| Answering { body, paced, _beat: beat })
}

/// An answer's body; its connection is busy as long as it lives.
pub(super) struct Answering<B> {
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

/// An answer over HTTP/2.
pub(super) fn in_pieces(answer: Response<Body<Holding>>, paced: Paced, beat: Beat) -> Response<Pieces<Body<Holding>>> {
    let progress = Progress::begin();
    answer.map(|body| {
        let here = body.here();
        beat.holds(here);
        Pieces { body, rest: Bytes::new(), here, out: [0, 0], is_over: false, paced, progress, beat }
    })
}

/// An answer's body in pieces, of which the next one is asked for when the one before was begun to be taken.
pub(super) struct Pieces<B> {
    body: B,
    rest: Bytes,
    /// Bytes that the beat was told to be here.
    here: usize,
    /// Those of the last two pieces. One waits in hyper until the caller's window allows any more, the one before in `h2` until
    /// it allows all of it.
    out: [usize; 2],
    is_over: bool,
    paced: Paced,
    progress: Option<Arc<Progress>>,
    beat: Beat,
}

impl<B: HttpBody> Pieces<B> {
    /// A piece of what is here.
    fn next_piece(&mut self) -> Bytes {
        let (left, ends) = (self.rest.len(), self.body.size_hint().exact() == Some(0));
        let later = if ends && left > LAST_PIECE { LAST_PIECE.min(left / 2) } else { 0 };
        let count = PIECE.min(left - later);
        self.beat.hands_over(count);
        self.here -= count;
        self.out = [count, self.out[0]];
        self.is_over = count == left && self.body.is_end_stream();
        self.rest.split_to(count)
    }
}

impl<B> Drop for Pieces<B> {
    fn drop(&mut self) {
        let handed = if self.is_over { 0 } else { self.out[0] + self.out[1] };
        self.beat.gives_up(self.here, handed);
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Pieces<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
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
                        self.beat.holds(more);
                        self.here += more;
                        self.rest = data;
                    }
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                ended => {
                    self.is_over = ended.is_none();
                    return Poll::Ready(ended);
                }
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
    async fn the_last_piece_is_small_and_what_is_not_written_is_known() {
        let (pace, ticks) = (Pace::begin(1), Arc::new(Ticks::default()));
        for (size, pieces) in [
            (1, &[1][..]),
            (LAST_PIECE, &[LAST_PIECE]),
            (LAST_PIECE + 1, &[LAST_PIECE / 2 + 1, LAST_PIECE / 2]),
            (PIECE, &[PIECE - LAST_PIECE, LAST_PIECE]),
            (2 * PIECE + 1, &[PIECE, PIECE + 1 - LAST_PIECE, LAST_PIECE]),
        ] {
            let pulse = Arc::new(Pulse::new(&ticks));
            pulse.framed();
            let (paced, beat, _other) = (pace.paced(), Beat::begin(&pulse), Beat::begin(&pulse));
            beat.holds(size);
            let body = Full::new(Bytes::from(vec![b'x'; size]));
            let (rest, here, out) = (Bytes::new(), size, [0, 0]);
            let mut body = Pieces { body, rest, here, out, is_over: false, paced, progress: None, beat };
            for piece in pieces {
                assert!(!body.is_end_stream());
                let frame = body.frame().await.expect("there is more").expect("it cannot fail");
                assert_eq!(frame.into_data().expect("it is data").len(), *piece, "of {size}");
            }
            assert!(body.is_end_stream());
            drop(body);
            (0..2).for_each(|_| ticks.advance());
            assert_eq!(pulse.unread().map(|unread| unread.bytes), Some(size), "all of it is in h2");
        }
    }

    #[tokio::test]
    async fn of_an_answer_that_nobody_wants_any_more_nothing_waits() {
        let (pace, ticks) = (Pace::begin(1), Arc::new(Ticks::default()));
        let pulse = Arc::new(Pulse::new(&ticks));
        pulse.framed();
        let (paced, beat, _other) = (pace.paced(), Beat::begin(&pulse), Beat::begin(&pulse));
        let (rest, out) = (Bytes::new(), [0, 0]);
        let mut body = Pieces { body: Endless, rest, here: 0, out, is_over: false, paced, progress: None, beat };
        assert!(body.frame().await.is_some());
        (0..2).for_each(|_| ticks.advance());
        assert_eq!(pulse.unread().map(|unread| unread.bytes), Some(64 << 10));
        drop(body);
        assert_eq!(pulse.unread(), None);
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
        let (pace, pulse) = (Pace::begin(1), Arc::new(Pulse::new(&Arc::new(Ticks::default()))));
        let (paced, beat) = (pace.paced(), Beat::begin(&pulse));
        waits_for_its_turn(Answering { body: Endless, paced, _beat: beat }).await;
        let (paced, beat) = (pace.paced(), Beat::begin(&pulse));
        let (rest, here, out) = (Bytes::new(), 0, [0, 0]);
        waits_for_its_turn(Pieces { body: Endless, rest, here, out, is_over: false, paced, progress: None, beat })
            .await;
    }
}
