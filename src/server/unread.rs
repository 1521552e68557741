//! Answers that wait for their callers to take them: how much there is of them, and whose go where it is too much.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};

/// What of answers waits for a caller, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unread {
    pub(super) ticks: u32,
    pub(super) bytes: usize,
}

/// Bytes of a connection's answers over HTTP/2 that are here and not sent, which is for the caller's windows to allow.
#[derive(Default)]
pub(super) struct Held {
    bytes: AtomicUsize,
    /// The tick since which there are any.
    since: AtomicU32,
    /// The tick at which some of them were taken last.
    taken_at: AtomicU32,
    /// Bytes that were taken since there are any.
    taken: AtomicUsize,
}

impl Held {
    /// So many more are here at the tick `now`.
    pub(super) fn more(&self, bytes: usize, now: u32) {
        if bytes > 0 && self.bytes.fetch_add(bytes, Ordering::Relaxed) == 0 {
            self.since.store(now, Ordering::Relaxed);
            self.taken_at.store(now, Ordering::Relaxed);
            self.taken.store(0, Ordering::Relaxed);
        }
    }

    /// So many were taken, or given up.
    pub(super) fn less(&self, bytes: usize, now: u32) {
        if bytes > 0 {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.taken.fetch_add(bytes, Ordering::Relaxed);
            self.taken_at.store(now, Ordering::Relaxed);
        }
    }

    /// How much waits and for how long, of which a caller may take a tick for each `per_tick` bytes.
    pub(super) fn waits(&self, now: u32, per_tick: usize) -> Unread {
        let bytes = self.bytes.load(Ordering::Relaxed);
        if bytes == 0 {
            return Unread { ticks: 0, bytes };
        }
        let since = |tick: &AtomicU32| now.wrapping_sub(tick.load(Ordering::Relaxed));
        let in_all = in_debt(since(&self.since), self.taken.load(Ordering::Relaxed), per_tick);
        Unread { ticks: in_all.max(since(&self.taken_at)), bytes }
    }
}

/// For how many of so many ticks nothing can be shown that was taken: what was may take one for each `per_tick` bytes.
pub(super) fn in_debt(ticks: u32, taken: usize, per_tick: usize) -> u32 {
    ticks.saturating_sub(u32::try_from(taken / per_tick.max(1)).unwrap_or(u32::MAX))
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

    #[test]
    fn what_is_held_waits_since_it_was_taken_or_while_too_little_of_it_is() {
        let held = Held::default();
        let waits = |now| held.waits(now, 10).ticks;
        held.more(100, 5);
        assert_eq!(held.waits(7, 10), Unread { ticks: 2, bytes: 100 });
        held.less(20, 8);
        assert_eq!((waits(8), waits(9)), (1, 2), "of the first three ticks two are paid for");
        held.more(30, 9);
        held.less(100, 9);
        assert_eq!((waits(9), waits(10), held.waits(10, 10).bytes), (0, 1, 10), "it is well ahead, but stands still");
        (10..30).for_each(|now| {
            held.more(1, now);
            held.less(1, now);
        });
        assert_eq!(waits(30), 25 - 14, "little that is taken now and then is not enough");
        held.less(10, 30);
        assert_eq!(held.waits(40, 10), Unread { ticks: 0, bytes: 0 });
        held.more(1, 50);
        assert_eq!(held.waits(50, 10), Unread { ticks: 0, bytes: 1 }, "it begins anew");
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
