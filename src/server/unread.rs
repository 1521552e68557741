//! Answers that wait for their callers to take them: how much there is of them, and whose go where it is too much.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What of answers waits for a caller, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Unread {
    pub(super) ticks: u32,
    pub(super) bytes: usize,
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
