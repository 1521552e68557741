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
        let held = body.here();
        beat.holds(held);
        Pieces { body, rest: Bytes::new(), held, out: [0, 0], paced, progress, beat }
    })
}

/// An answer's body in pieces, of which the next one is asked for when the one before was begun to be taken.
pub(super) struct Pieces<B> {
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
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::task::Waker;
    use std::time::Duration;

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
