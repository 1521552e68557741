//! Counts of the last while, in slots.
//!
//! Time is cut into slots; the window is the slot of now and the nine before it. So it never counts what is older than
//! its span, forgets a tenth of it at a time, and surely counts what is younger than nine tenths of it. Adding costs the
//! same however much was counted, and the memory is fixed.

use std::time::Duration;

use tokio::time::Instant;

/// Slots that the span is cut into.
const SLOTS: u32 = 10;

/// Counts of `N` things over the last `span`.
#[derive(Clone, Debug)]
pub struct Window<const N: usize> {
    /// How long a slot is.
    slot: Duration,
    /// When the newest slot began; nothing was counted yet where there is none.
    newest_began: Option<Instant>,
    /// Which one is the newest; the next one round is the oldest.
    newest: usize,
    slots: [[u64; N]; SLOTS as usize],
    totals: [u64; N],
}

impl<const N: usize> Window<N> {
    /// Nothing was counted yet. A span below ten nanoseconds is ten.
    pub fn new(span: Duration) -> Self {
        Self {
            slot: (span / SLOTS).max(Duration::from_nanos(1)),
            newest_began: None,
            newest: 0,
            slots: [[0; N]; SLOTS as usize],
            totals: [0; N],
        }
    }

    /// Counts. A `now` from before the newest slot counts as one in it, since clocks of threads differ a little.
    pub fn add(&mut self, now: Instant, counts: [u64; N]) {
        self.advance(now);
        for (place, count) in counts.into_iter().enumerate() {
            self.slots[self.newest][place] += count;
            self.totals[place] += count;
        }
    }

    /// What was counted within the span before `now`.
    pub fn totals(&mut self, now: Instant) -> [u64; N] {
        self.advance(now);
        self.totals
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.newest_began = None;
        self.slots = [[0; N]; SLOTS as usize];
        self.totals = [0; N];
    }

    fn advance(&mut self, now: Instant) {
        let began = *self.newest_began.get_or_insert(now);
        let passed = now.saturating_duration_since(began);
        if passed < self.slot {
            return;
        }
        let steps = u32::try_from(passed.as_nanos() / self.slot.as_nanos()).unwrap_or(u32::MAX);
        if steps >= SLOTS {
            self.clear();
            self.newest_began = Some(now);
            return;
        }
        (0..steps).for_each(|_| self.forget_oldest());
        self.newest_began = Some(began + self.slot * steps);
    }

    fn forget_oldest(&mut self) {
        self.newest = (self.newest + 1) % self.slots.len();
        let forgotten = std::mem::replace(&mut self.slots[self.newest], [0; N]);
        for (total, count) in self.totals.iter_mut().zip(forgotten) {
            *total -= count;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_count_is_forgotten_by_the_end_of_the_span() {
        let start = Instant::now();
        let mut window = Window::new(10 * SECOND);
        window.add(start, [3, 1]);
        window.add(start + 5 * SECOND, [2, 0]);
        assert_eq!(window.totals(start + 9 * SECOND), [5, 1]);
        assert_eq!(window.totals(start + 10 * SECOND), [2, 0]);
        assert_eq!(window.totals(start + 14 * SECOND), [2, 0]);
        assert_eq!(window.totals(start + 15 * SECOND), [0, 0]);
        window.add(start + 1000 * SECOND, [1, 1]);
        assert_eq!(window.totals(start + 1000 * SECOND), [1, 1]);
    }

    #[test]
    fn a_clock_that_lags_a_little_loses_nothing() {
        let start = Instant::now() + SECOND;
        let mut window = Window::new(10 * SECOND);
        window.add(start, [1]);
        window.add(start - SECOND, [1]);
        assert_eq!(window.totals(start - SECOND), [2]);
    }

    #[test]
    fn what_is_cleared_is_gone() {
        let now = Instant::now();
        let mut window = Window::new(SECOND);
        window.add(now, [1]);
        window.clear();
        assert_eq!(window.totals(now), [0]);
    }

    #[test]
    fn a_span_of_nothing_still_works() {
        let now = Instant::now();
        let mut window = Window::new(Duration::ZERO);
        window.add(now, [1]);
        assert_eq!(window.totals(now + SECOND), [0]);
    }

    proptest! {
        #[test]
        fn nothing_older_than_the_span_counts_and_all_of_its_first_nine_tenths_do(
            span in 1u64..20_000,
            steps in prop::collection::vec((0u64..4_000, 0u64..3), 1..200),
        ) {
            let span = Duration::from_millis(span);
            let mut window = Window::new(span);
            let mut now = Instant::now();
            let mut counted: Vec<(Instant, u64)> = Vec::new();
            for (step, count) in steps {
                now += Duration::from_millis(step);
                window.add(now, [count]);
                counted.push((now, count));
                let younger = |age: Duration| -> u64 {
                    counted.iter().filter(|(at, _)| now - *at < age).map(|(_, count)| count).sum()
                };
                let [total] = window.totals(now);
                prop_assert!(total <= younger(span), "{total} of {}", younger(span));
                prop_assert!(total >= younger(span * 9 / 10), "{total} of {}", younger(span * 9 / 10));
            }
        }
    }
}
