//! Answers that wait for their callers to take them: how much there is of them, and whose go where it is too much.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};

use super::pulse::LEAST_RATE;

/// Bytes that a caller takes in a tick of half a second at the least, of all its answers together.
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
    /// Bytes that are here and not written.
    bytes: AtomicUsize,
    debt: Debt,
}

impl Waiting {
    /// So many more bytes are here at the tick `now`.
    pub(super) fn more(&self, bytes: usize, now: u32) {
        if bytes > 0 {
            self.bytes.fetch_add(bytes, Ordering::Relaxed);
            self.debt.run(now);
        }
    }

    /// So many of them do not wait any more: they are on their way, or not wanted.
    pub(super) fn less(&self, bytes: usize) {
        if self.bytes.fetch_sub(bytes, Ordering::Relaxed) == bytes {
            self.debt.clear();
        }
    }

    /// So many bytes were written, most of them of answers.
    pub(super) fn wrote(&self, bytes: usize, now: u32) {
        let waiting = self.bytes.load(Ordering::Relaxed);
        if waiting > 0 {
            self.debt.pay(bytes, PER_TICK.max(waiting / PATIENT), now);
        }
    }

    /// How much waits, and for how long nothing can be shown that was taken.
    pub(super) fn unread(&self, now: u32) -> Unread {
        Unread { ticks: self.debt.ticks(now), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

/// Ticks that somebody was waited for, less those that are paid for by what was taken. There is no credit.
#[derive(Default)]
struct Debt {
    owed: AtomicU32,
    /// The tick since which it grows, where it does.
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
        waiting.more(0, 1);
        waiting.more(50_000, 10);
        assert_eq!(waits(&waiting, 13), (3, 50_000));
        waiting.wrote(2 * PER_TICK, 13);
        assert_eq!(waits(&waiting, 13), (1, 50_000));
        waiting.wrote(100 * PER_TICK, 14);
        assert_eq!(waits(&waiting, 17), (3, 50_000), "there is no credit");
        (17..27).for_each(|now| waiting.wrote(1, now));
        assert_eq!(waits(&waiting, 27).0, 13, "a byte now and then is nothing");
        waiting.less(49_000);
        assert_eq!(waits(&waiting, 27), (13, 1000), "nor is what is given up");
        waiting.less(1000);
        waiting.wrote(1, 30);
        assert_eq!(waits(&waiting, 35), (0, 0), "it is not the caller that is waited for");
        waiting.more(10, 40);
        assert_eq!(waits(&waiting, 41), (1, 10), "it begins anew");
    }

    #[test]
    fn who_holds_more_takes_more() {
        let waiting = Waiting::default();
        waiting.more(600 * PER_TICK, 0);
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
