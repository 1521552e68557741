//! What a connection is doing and since when, so that those that hold on without a request can be closed.
//!
//! The alternative is a timer per request head. A tick that looks at all connections now and then costs a request
//! two relaxed stores and no allocation.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, ReadBuf};

use super::layer::Layer;
use super::unread::{Unread, Waiting};

/// Bytes a second that a caller takes of an answer at the least.
pub(super) const LEAST_RATE: usize = 16 << 10;

/// A clock that only ticks, shared by the connections of a worker.
#[derive(Default)]
pub(super) struct Ticks(AtomicU32);

impl Ticks {
    pub(super) fn advance(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn now(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nothing has come since the last answer.
    Idle,
    /// A request head has begun to arrive.
    Head,
    /// Requests are being answered.
    Busy,
    /// An answer waits for the caller to read what was sent before.
    Unread,
}

/// How long a caller is waited for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Without a request.
    pub(super) idle: Duration,
    /// For a request's head.
    pub(super) head: Duration,
    /// For an answer to be taken, in all, besides what its bytes may take at the least rate.
    pub(super) answer: Duration,
}

/// The pulse of one connection.
pub(super) struct Pulse {
    ticks: Arc<Ticks>,
    /// The state in the upper half, the tick at which it began in the lower.
    since: AtomicU64,
    /// Requests that are being answered.
    beats: AtomicU32,
    /// Ticks for which the answer of this request had to wait for its caller until it went on. An answer that is read
    /// a byte at a time waits as well.
    blocked: AtomicU32,
    /// Bytes that were taken of the answer of this request.
    taken: AtomicUsize,
    waiting: Waiting,
    /// Whether bytes alone say nothing: HTTP/2 has more than requests.
    framed: AtomicBool,
    /// Whether the head of another request is coming, there.
    head: AtomicBool,
}

impl Pulse {
    pub(super) fn new(ticks: &Arc<Ticks>) -> Self {
        let pulse = Self {
            ticks: Arc::clone(ticks),
            since: AtomicU64::new(0),
            beats: AtomicU32::new(0),
            taken: AtomicUsize::new(0),
            waiting: Waiting::default(),
            blocked: AtomicU32::new(0),
            framed: AtomicBool::new(false),
            head: AtomicBool::new(false),
        };
        pulse.enter(State::Idle);
        pulse
    }

    /// From now on the connection speaks HTTP/2: what comes is no head unless that is said.
    pub(super) fn framed(&self) {
        self.framed.store(true, Ordering::Relaxed);
        self.enter(State::Idle);
    }

    /// A request's head is complete.
    fn begin(&self) {
        if self.beats.fetch_add(1, Ordering::Relaxed) == 0 {
            self.blocked.store(0, Ordering::Relaxed);
            self.taken.store(0, Ordering::Relaxed);
            self.enter(State::Busy);
        }
    }

    /// A request's answer is complete.
    fn end(&self) {
        if self.beats.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.rest();
        }
    }

    /// Bytes of HTTP/2 came, after which a head is incomplete or none is.
    pub(super) fn head(&self, comes: bool) {
        self.head.store(comes, Ordering::Relaxed);
        if matches!((self.state().0, comes), (State::Idle, true) | (State::Head, false)) {
            self.rest();
        }
    }

    /// No request is being answered.
    fn rest(&self) {
        self.enter(if self.head.load(Ordering::Relaxed) { State::Head } else { State::Idle });
    }

    /// Bytes came.
    fn read(&self) {
        if self.state().0 == State::Idle && !self.framed.load(Ordering::Relaxed) {
            self.enter(State::Head);
        }
    }

    /// So many bytes were taken to be sent, or none could be.
    fn wrote(&self, taken: Option<usize>) {
        let (state, since) = self.state();
        self.waiting.wrote(taken.unwrap_or_default(), self.ticks.now());
        self.taken.fetch_add(taken.unwrap_or_default(), Ordering::Relaxed);
        match (state, taken.is_some()) {
            // What is left of an answer waits after its request ended, too.
            (State::Busy | State::Idle, false) => self.enter(State::Unread),
            (State::Unread, true) => {
                // Of the answers of HTTP/2 there is always one that waits, where a caller is busy.
                if !self.framed.load(Ordering::Relaxed) {
                    self.blocked.fetch_add(self.ticks.now().wrapping_sub(since), Ordering::Relaxed);
                }
                if self.beats.load(Ordering::Relaxed) > 0 {
                    self.enter(State::Busy);
                } else {
                    self.rest();
                }
            }
            _ => {}
        }
    }

    /// Bytes of answers that have been waiting for their caller for longer than from one tick to the next, and for how
    /// many; none where it goes on, and takes enough.
    pub(super) fn unread(&self) -> Option<Unread> {
        Some(self.waiting.unread(self.ticks.now())).filter(|unread| unread.ticks > 1 && unread.bytes > 0)
    }

    /// Whether the connection has been waiting for what its caller has to do longer than it may.
    pub(super) fn is_overdue(&self, tick: Duration, limits: Patience) -> bool {
        let (state, since) = self.state();
        let waits = match state {
            State::Unread => self.blocked.load(Ordering::Relaxed),
            _ => 0,
        };
        // The first tick may have come right after the state began.
        let waited = tick * self.ticks.now().wrapping_sub(since).saturating_add(waits).saturating_sub(1);
        match state {
            State::Idle => waited >= limits.idle,
            State::Head => waited >= limits.head,
            State::Unread => waited >= limits.answer + self.time_for_taken(),
            State::Busy => false,
        }
    }

    /// How long the bytes that were taken may have taken. Of HTTP/2 it is counted from the last of them anyway.
    fn time_for_taken(&self) -> Duration {
        let is_framed = self.framed.load(Ordering::Relaxed);
        let taken = if is_framed { 0 } else { self.taken.load(Ordering::Relaxed) };
        Duration::from_secs(u64::try_from(taken / LEAST_RATE).unwrap_or(u64::MAX))
    }

    fn enter(&self, state: State) {
        self.since.store((state as u64) << 32 | u64::from(self.ticks.now()), Ordering::Relaxed);
    }

    fn state(&self) -> (State, u32) {
        let since = self.since.load(Ordering::Relaxed);
        let state = match since >> 32 {
            0 => State::Idle,
            1 => State::Head,
            2 => State::Busy,
            _ => State::Unread,
        };
        // The lower half is the tick.
        #[allow(clippy::cast_possible_truncation)]
        (state, since as u32)
    }
}

/// Tells a pulse when bytes come and go.
pub(super) struct Watched(pub(super) Arc<Pulse>);

impl Layer for Watched {
    fn poll_read<S>(&mut self, stream: &mut S, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>>
    where
        S: AsyncRead + Unpin,
    {
        let before = buf.filled().len();
        let read = Pin::new(stream).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.0.read();
        }
        read
    }

    fn wrote(&mut self, taken: Option<usize>) {
        self.0.wrote(taken);
    }
}

/// While this lives, a request is being answered.
pub(super) struct Beat(Arc<Pulse>);

impl Beat {
    pub(super) fn begin(pulse: &Arc<Pulse>) -> Self {
        pulse.begin();
        Self(Arc::clone(pulse))
    }

    /// So many more bytes of its answer are here, and wait for the caller.
    pub(super) fn more(&self, bytes: usize) {
        self.0.waiting.more(bytes, self.0.ticks.now());
    }

    /// So many of them are not wanted any more.
    pub(super) fn less(&self, bytes: usize) {
        self.0.waiting.less(bytes);
    }

    /// A part of its answer, of the bytes that wait: they do until it is on its way, whatever becomes of the request.
    pub(super) fn part(&self, bytes: Bytes) -> Part {
        Part { bytes, pulse: Arc::clone(&self.0) }
    }
}

/// A part of an answer, which waits until it is written, or dropped.
pub(super) struct Part {
    bytes: Bytes,
    pulse: Arc<Pulse>,
}

impl Buf for Part {
    fn remaining(&self) -> usize {
        self.bytes.remaining()
    }

    fn chunk(&self) -> &[u8] {
        self.bytes.chunk()
    }

    fn advance(&mut self, count: usize) {
        self.bytes.advance(count);
        self.pulse.waiting.less(count);
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            self.pulse.waiting.less(self.bytes.len());
        }
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.0.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn overdue(pulse: &Pulse) -> bool {
        pulse.is_overdue(SECOND, Patience { idle: 5 * SECOND, head: 2 * SECOND, answer: 4 * SECOND })
    }

    #[test]
    fn heads_and_idleness_have_their_own_limits() {
        let ticks = Arc::new(Ticks::default());
        let pulse = Arc::new(Pulse::new(&ticks));
        (0..5).for_each(|_| ticks.advance());
        assert!(!overdue(&pulse));
        ticks.advance();
        assert!(overdue(&pulse));

        pulse.read();
        assert!(!overdue(&pulse));
        (0..2).for_each(|_| ticks.advance());
        pulse.read();
        assert!(!overdue(&pulse));
        ticks.advance();
        assert!(overdue(&pulse), "more bytes of the same head give no more time");

        let beat = Beat::begin(&pulse);
        (0..100).for_each(|_| ticks.advance());
        pulse.read();
        assert!(!overdue(&pulse));
        drop(beat);
        assert!(!overdue(&pulse));
        (0..6).for_each(|_| ticks.advance());
        assert!(overdue(&pulse));
    }

    #[test]
    fn of_many_requests_at_a_time_the_last_one_ends_the_connections_work() {
        let ticks = Arc::new(Ticks::default());
        let pulse = Arc::new(Pulse::new(&ticks));
        pulse.framed();
        let (first, second) = (Beat::begin(&pulse), Beat::begin(&pulse));
        drop(first);
        (0..100).for_each(|_| ticks.advance());
        assert!(!overdue(&pulse));
        drop(second);
        (0..5).for_each(|_| ticks.advance());
        pulse.read();
        assert!(!overdue(&pulse));
        ticks.advance();
        assert!(overdue(&pulse), "frames without a request give no more time");
    }

    #[test]
    fn a_head_of_http2_has_its_time_whatever_came_before_it() {
        let ticks = Arc::new(Ticks::default());
        let pulse = Arc::new(Pulse::new(&ticks));
        pulse.framed();
        pulse.head(true);
        (0..2).for_each(|_| ticks.advance());
        pulse.head(true);
        assert!(!overdue(&pulse));
        ticks.advance();
        assert!(overdue(&pulse), "more frames of the same block give no more time");
        pulse.head(false);
        assert!(!overdue(&pulse));

        let beat = Beat::begin(&pulse);
        pulse.head(true);
        (0..100).for_each(|_| ticks.advance());
        assert!(!overdue(&pulse), "another request is being answered");
        drop(beat);
        (0..3).for_each(|_| ticks.advance());
        assert!(overdue(&pulse));
    }

    #[test]
    fn what_waits_is_known() {
        let ticks = Arc::new(Ticks::default());
        let pulse = Arc::new(Pulse::new(&ticks));
        let (one, two) = (Beat::begin(&pulse), Beat::begin(&pulse));
        one.more(10);
        two.more(20);
        let mut part = one.part(Bytes::from_static(b"0123456789"));
        ticks.advance();
        assert_eq!(pulse.unread(), None, "it may have waited for no time at all");
        ticks.advance();
        assert_eq!(pulse.unread(), Some(Unread { ticks: 2, bytes: 30 }));
        part.advance(4);
        two.less(20);
        drop((one, two));
        assert_eq!(pulse.unread(), Some(Unread { ticks: 2, bytes: 6 }), "whether or not its request has ended");
        drop(part);
        assert_eq!(pulse.unread(), None);
    }

    #[test]
    fn an_answer_has_its_time_to_be_read() {
        let ticks = Arc::new(Ticks::default());
        let pulse = Arc::new(Pulse::new(&ticks));
        let beat = Beat::begin(&pulse);
        pulse.wrote(None);
        (0..4).for_each(|_| ticks.advance());
        pulse.wrote(None);
        assert!(!overdue(&pulse));
        ticks.advance();
        assert!(overdue(&pulse), "to try again gives no more time");
        pulse.wrote(Some(1));
        assert!(!overdue(&pulse));
        pulse.wrote(None);
        assert!(overdue(&pulse), "a little that is taken gives no more time");
        drop(beat);

        let beat = Beat::begin(&pulse);
        pulse.wrote(None);
        assert!(!overdue(&pulse), "the next answer has its own");
        pulse.wrote(Some(1));
        (0..100).for_each(|_| ticks.advance());
        pulse.wrote(None);
        assert!(!overdue(&pulse), "it was not the caller that was waited for");
        pulse.wrote(Some(1));
        for _ in 0..100 {
            pulse.wrote(None);
            (0..3).for_each(|_| ticks.advance());
            assert!(!overdue(&pulse), "steady is fast enough");
            pulse.wrote(Some(3 * LEAST_RATE));
        }
        drop(beat);

        drop(Beat::begin(&pulse));
        pulse.wrote(None);
        (0..5).for_each(|_| ticks.advance());
        assert!(overdue(&pulse), "what is left of an answer is one, too");
    }

    #[test]
    fn answers_of_http2_have_theirs_from_the_last_bytes_that_were_taken() {
        let ticks = Arc::new(Ticks::default());
        let pulse = Arc::new(Pulse::new(&ticks));
        pulse.framed();
        let _beat = Beat::begin(&pulse);
        for _ in 0..100 {
            pulse.wrote(None);
            (0..3).for_each(|_| ticks.advance());
            assert!(!overdue(&pulse));
            pulse.wrote(Some(1));
        }
        pulse.wrote(None);
        (0..5).for_each(|_| ticks.advance());
        assert!(overdue(&pulse));
    }
}
