//! Answers that wait for their callers to take them: how much there is of them, and whose go where it is too much.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use super::pulse::LEAST_RATE;

/// Bytes that a caller takes in a tick of half a second at the least, over HTTP/2 of all its answers together.
const PER_TICK: usize = LEAST_RATE / 2;
/// Ticks in which a caller takes at the least as much as waits for it.
const PATIENT: usize = 60;

/// What of answers waits for a caller, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unread {
    pub(super) ticks: u32,
    pub(super) bytes: usize,
}

/// What of a connection's answers waits for its caller.
#[derive(Default)]
pub(super) struct Waiting {
    /// Bytes that could not be written; over HTTP/2, those that were not handed over to be.
    here: AtomicUsize,
    /// Bytes that were, and are not written, about: of streams that were reset some are never.
    handed: AtomicUsize,
    debt: Debt,
}

impl Waiting {
    /// Another answer begins, for which nobody has been waited for yet. For HTTP/1.1.
    pub(super) fn begins(&self) {
        self.debt.clear();
    }

    /// So many bytes could not be written at the tick `now`. For HTTP/1.1.
    pub(super) fn blocks(&self, bytes: usize, now: u32) {
        self.here.store(bytes, Ordering::Relaxed);
        self.debt.run(now);
    }

    /// So many bytes were written after all. For HTTP/1.1.
    pub(super) fn goes_on(&self, bytes: usize, now: u32) {
        self.here.store(0, Ordering::Relaxed);
        self.debt.pay(bytes, PER_TICK, now);
        self.debt.stop(now);
    }

    /// So many more bytes are here. For HTTP/2, as what follows.
    pub(super) fn holds(&self, bytes: usize, now: u32) {
        if bytes > 0 {
            self.here.fetch_add(bytes, Ordering::Relaxed);
            self.debt.run(now);
        }
    }

    /// So many of them were handed over.
    pub(super) fn hands_over(&self, bytes: usize) {
        self.here.fetch_sub(bytes, Ordering::Relaxed);
        self.handed.fetch_add(bytes, Ordering::Relaxed);
    }

    /// So many of those that are here, and of those that were handed over, are not wanted any more.
    pub(super) fn gives_up(&self, here: usize, handed: usize) {
        self.here.fetch_sub(here, Ordering::Relaxed);
        self.less_handed(handed);
        self.clear_if_none();
    }

    /// So many bytes were written, most of them of answers.
    pub(super) fn wrote(&self, bytes: usize, now: u32) {
        self.less_handed(bytes);
        self.debt.pay(bytes, PER_TICK.max(self.bytes() / PATIENT), now);
        self.clear_if_none();
    }

    /// There is no request any more. What is left of answers is small; see [`super::http2::LAST_PIECE`].
    pub(super) fn rests(&self) {
        self.handed.store(0, Ordering::Relaxed);
        self.clear_if_none();
    }

    /// How much waits, and for how long nothing can be shown that was taken.
    pub(super) fn unread(&self, now: u32) -> Unread {
        Unread { ticks: self.debt.ticks(now), bytes: self.bytes() }
    }

    fn bytes(&self) -> usize {
        self.here.load(Ordering::Relaxed) + self.handed.load(Ordering::Relaxed)
    }

    fn less_handed(&self, bytes: usize) {
        // One thread writes it.
        self.handed.store(self.handed.load(Ordering::Relaxed).saturating_sub(bytes), Ordering::Relaxed);
    }

    fn clear_if_none(&self) {
        if self.bytes() == 0 {
            self.debt.clear();
        }
    }
}

/// Ticks that somebody was waited for, less those that are paid for by what was taken. There is no credit.
#[derive(Default)]
struct Debt {
    owed: AtomicU32,
    /// The tick since which it grows; none of both while it does not.
    since: AtomicU32,
    runs: AtomicBool,
    /// Bytes that have not paid for a tick yet.
    paid: AtomicUsize,
}

impl Debt {
    fn run(&self, now: u32) {
        if !self.runs.swap(true, Ordering::Relaxed) {
            self.since.store(now, Ordering::Relaxed);
        }
    }

    fn stop(&self, now: u32) {
        self.owed.store(self.ticks(now), Ordering::Relaxed);
        self.runs.store(false, Ordering::Relaxed);
    }

    fn pay(&self, bytes: usize, per_tick: usize, now: u32) {
        let paid = self.paid.load(Ordering::Relaxed) + bytes;
        let ticks = u32::try_from(paid / per_tick).unwrap_or(u32::MAX);
        self.paid.store(paid % per_tick, Ordering::Relaxed);
        self.owed.store(self.ticks(now).saturating_sub(ticks), Ordering::Relaxed);
        self.since.store(now, Ordering::Relaxed);
    }

    fn clear(&self) {
        self.owed.store(0, Ordering::Relaxed);
        self.paid.store(0, Ordering::Relaxed);
        self.runs.store(false, Ordering::Relaxed);
    }

    fn ticks(&self, now: u32) -> u32 {
        let runs = self.runs.load(Ordering::Relaxed);
        let more = if runs { now.wrapping_sub(self.since.load(Ordering::Relaxed)) } else { 0 };
        self.owed.load(Ordering::Relaxed).saturating_add(more)
    }
}

/// Bytes of answers that wait, on all threads together, of which each has an equal share at the least.
#[derive(Default)]
pub(super) struct AllUnread {
    all: Arc<AtomicUsize>,
    /// What this thread said last.
    own: usize,
}

impl AllUnread {
    /// Another thread's.
    pub(super) fn other(&self) -> Self {
        Self { all: Arc::clone(&self.all), own: 0 }
    }

    /// So many wait on this thread now. Of `max` in all it may have what the others leave, or its share of as many
    /// `threads`.
    pub(super) fn room(&mut self, own: usize, max: usize, threads: usize) -> usize {
        // What is taken away was added before, so that it wraps to what is right.
        let change = own.wrapping_sub(self.own);
        let all = self.all.fetch_add(change, Ordering::Relaxed).wrapping_add(change);
        self.own = own;
        max.saturating_sub(all.wrapping_sub(own)).max(max / threads.max(1))
    }
}

impl Drop for AllUnread {
    fn drop(&mut self) {
        self.all.fetch_sub(self.own, Ordering::Relaxed);
    }
}

/// Which of these have to go so that no more than `max` bytes are left: those that have waited longest.
pub(super) fn beyond(mut waiting: Vec<(Unread, usize)>, max: usize) -> impl Iterator<Item = usize> {
    waiting.sort_unstable_by_key(|(unread, _)| std::cmp::Reverse(unread.ticks));
    let mut left = waiting.iter().map(|(unread, _)| unread.bytes).sum::<usize>();
    waiting.into_iter().map_while(move |(unread, index)| {
        let is_too_much = left > max;
        left -= unread.bytes;
        is_too_much.then_some(index)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(waiting: &Waiting, now: u32) -> (u32, usize) {
        let Unread { ticks, bytes } = waiting.unread(now);
        (ticks, bytes)
    }

    #[test]
    fn what_is_taken_pays_for_the_time_before_it_only() {
        let waiting = Waiting::default();
        waiting.blocks(50_000, 10);
        assert_eq!(waits(&waiting, 13), (3, 50_000));
        waiting.goes_on(2 * PER_TICK, 13);
        assert_eq!(waits(&waiting, 20), (1, 0), "it is not the caller that is waited for");
        waiting.blocks(1000, 20);
        waiting.goes_on(100 * PER_TICK, 22);
        waiting.blocks(1000, 22);
        assert_eq!(waits(&waiting, 25), (3, 1000), "there is no credit");
        for now in 25..35 {
            waiting.goes_on(1, now);
            waiting.blocks(1000, now);
        }
        assert_eq!(waits(&waiting, 35), (13, 1000), "a byte now and then is nothing");
        waiting.begins();
        waiting.blocks(1000, 35);
        assert_eq!(waits(&waiting, 36), (1, 1000));
    }

    #[test]
    fn what_windows_hold_back_waits_until_it_is_written() {
        let waiting = Waiting::default();
        waiting.holds(0, 1);
        waiting.holds(30_000, 5);
        waiting.hands_over(20_000);
        assert_eq!(waits(&waiting, 7), (2, 30_000), "what is handed over is not gone");
        waiting.wrote(PER_TICK, 7);
        assert_eq!(waits(&waiting, 7), (1, 30_000 - PER_TICK));
        waiting.gives_up(10_000, 0);
        assert_eq!(waits(&waiting, 9), (3, 20_000 - PER_TICK), "what is given up pays for nothing");
        // With the heads of frames it is more than was handed over.
        waiting.wrote(20_000, 9);
        assert_eq!(waits(&waiting, 20), (0, 0));
        waiting.holds(10, 20);
        assert_eq!(waits(&waiting, 21), (1, 10), "it begins anew");
        waiting.hands_over(10);
        waiting.rests();
        assert_eq!(waits(&waiting, 30), (0, 0), "of streams that were reset nothing is left");
    }

    #[test]
    fn who_holds_more_takes_more() {
        let waiting = Waiting::default();
        waiting.holds(600 * PER_TICK, 0);
        waiting.wrote(5 * PER_TICK, 1);
        assert_eq!(waits(&waiting, 1).0, 1);
        waiting.wrote(5 * PER_TICK, 1);
        assert_eq!(waits(&waiting, 1).0, 0);
    }

    #[test]
    fn of_what_nobody_reads_the_oldest_goes_where_it_is_too_much() {
        let of = |ticks, bytes| Unread { ticks, bytes };
        let waiting = vec![(of(3, 10), 0), (of(9, 20), 1), (of(5, 30), 2)];
        for (max, gone) in [(60, &[][..]), (59, &[1]), (40, &[1]), (39, &[1, 2]), (9, &[1, 2, 0]), (0, &[1, 2, 0])] {
            assert_eq!(beyond(waiting.clone(), max).collect::<Vec<_>>(), gone, "{max}");
        }
    }

    #[test]
    fn a_thread_has_the_room_that_others_leave_and_its_share_at_the_least() {
        let mut one = AllUnread::default();
        let (mut two, mut three) = (one.other(), one.other());
        assert_eq!((one.room(0, 300, 3), two.room(290, 300, 3)), (300, 300), "nobody else has any");
        assert_eq!((one.room(10, 300, 3), three.room(0, 300, 3)), (100, 100));
        assert_eq!((two.room(120, 300, 3), three.room(50, 300, 3)), (290, 170));
        drop((two, three));
        assert_eq!(one.room(0, 300, 3), 300);
    }
}
