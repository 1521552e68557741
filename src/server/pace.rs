//! Turns for what can wait, so that what else is ready on a thread goes on between two of them.
//!
//! A thread does what is ready in the order in which it became so. With many connections that end at once, or many large
//! answers, each of which copies what its buffers hold, a small request would wait for all of them. So these ask for turns.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::sync::{mpsc, oneshot};

/// Bytes of an answer that pass without a turn, and then in each.
const AT_ONCE: usize = 16 << 10;

/// Gives turns of one kind on one thread.
#[derive(Clone)]
pub(super) struct Pace(mpsc::UnboundedSender<oneshot::Sender<()>>);

impl Pace {
    /// Begins to give turns, in the order in which they are asked for, until nobody can ask any more: between two turns of
    /// everything else to one, and to one more of each `share` that wait.
    pub(super) fn begin(share: usize) -> Self {
        let (pace, mut waiting) = mpsc::unbounded_channel::<oneshot::Sender<()>>();
        tokio::spawn(async move {
            while let Some(first) = waiting.recv().await {
                let (mut next, mut left) = (Some(first), 1 + waiting.len() / share);
                while let Some(turn) = next {
                    // Who is gone takes none.
                    left -= usize::from(turn.send(()).is_ok());
                    next = if left > 0 { waiting.try_recv().ok() } else { None };
                }
                tokio::task::yield_now().await;
            }
        });
        Self(pace)
    }

    /// The next turn that is free. Where it is not taken, since its owner waits for something else, it holds up nobody.
    pub(super) fn turn(&self) -> Turn {
        let (turn, taken) = oneshot::channel();
        // Where nobody gives turns any more the thread is ending, and nobody waits.
        let _ = self.0.send(turn);
        Turn(taken)
    }

    /// An answer, which may be large.
    pub(super) fn paced(&self) -> Paced {
        Paced { pace: self.clone(), passed: 0, turn: None }
    }
}

/// Ready when it is somebody's turn.
pub(super) struct Turn(oneshot::Receiver<()>);

impl Future for Turn {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.0).poll(cx).map(|_| ())
    }
}

/// The parts of one answer.
pub(super) struct Paced {
    pace: Pace,
    /// Bytes that passed since the last turn.
    passed: usize,
    turn: Option<Turn>,
}

impl Paced {
    /// Waits until the next part may pass.
    pub(super) fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.passed < AT_ONCE {
            return Poll::Ready(());
        }
        let turn = self.turn.get_or_insert_with(|| self.pace.turn());
        ready!(Pin::new(turn).poll(cx));
        (self.turn, self.passed) = (None, 0);
        Poll::Ready(())
    }

    pub(super) fn passed(&mut self, bytes: usize) {
        self.passed += bytes;
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[tokio::test]
    async fn what_is_small_waits_for_no_turn() {
        let mut small = Pace::begin(1).paced();
        for _ in 0..AT_ONCE {
            assert!(small.poll_turn(&mut Context::from_waker(std::task::Waker::noop())).is_ready());
            small.passed(1);
        }
        assert!(small.poll_turn(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
    }

    /// Each of several large ones goes on once, then whatever else is ready does.
    #[tokio::test]
    async fn large_ones_take_turns() {
        let (pace, order) = (Pace::begin(100), Arc::new(Mutex::new(Vec::new())));
        let said = |what: u32| {
            let order = Arc::clone(&order);
            move || order.lock().unwrap().push(what)
        };
        let large = (0..3).map(|id| {
            let (mut paced, say) = (pace.paced(), said(id));
            tokio::spawn(async move {
                for _ in 0..2 {
                    paced.passed(AT_ONCE);
                    poll_fn(|cx| paced.poll_turn(cx)).await;
                    say();
                }
            })
        });
        let large: Vec<_> = large.collect();
        let say = said(9);
        for _ in 0..10 {
            tokio::task::yield_now().await;
            say();
        }
        for large in large {
            large.await.unwrap();
        }
        let order = order.lock().unwrap().clone();
        let without: Vec<_> = order.iter().filter(|id| **id != 9).collect();
        assert_eq!(without, [&0, &1, &2, &0, &1, &2]);
        assert!(order.windows(2).all(|two| two[0] == 9 || two[1] == 9), "{order:?}");
    }

    #[tokio::test]
    async fn where_many_wait_they_take_more_turns() {
        let pace = Pace::begin(10);
        let turns: Vec<_> = (0..25).map(|_| pace.turn()).collect();
        let taken = Arc::new(Mutex::new(0));
        for turn in turns {
            let taken = Arc::clone(&taken);
            tokio::spawn(async move {
                turn.await;
                *taken.lock().unwrap() += 1;
            });
        }
        let mut before = 0;
        for expected in [3, 3, 2, 2, 2, 2, 2, 1] {
            tokio::task::yield_now().await;
            let now = *taken.lock().unwrap();
            assert_eq!(now - before, expected);
            before = now;
        }
    }

    #[tokio::test]
    async fn a_turn_that_is_not_taken_holds_up_nobody() {
        let pace = Pace::begin(100);
        let (mut stuck, mut gone, mut next) = (pace.paced(), pace.paced(), pace.paced());
        for paced in [&mut stuck, &mut gone, &mut next] {
            paced.passed(AT_ONCE);
            assert!(paced.poll_turn(&mut Context::from_waker(std::task::Waker::noop())).is_pending());
        }
        drop(gone);
        poll_fn(|cx| next.poll_turn(cx)).await;
        assert!(stuck.poll_turn(&mut Context::from_waker(std::task::Waker::noop())).is_ready());
    }
}
