//! The one deadline of a request, and the floor below which nothing is begun.

use std::time::Duration;

use tokio::time::Instant;

/// Time that an attempt needs at the least. A Temporal frontend keeps one second of the time it is given for itself,
/// two when the request lands on a partition that is not the root; with less than this left a healthy worker is
/// seldom reached.
pub const FLOOR: Duration = Duration::from_millis(2100);

/// The one deadline of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    started: Instant,
    at: Instant,
    given: Option<Duration>,
    is_callers: bool,
}

impl Deadline {
    /// The deadline of a request that began at `started`: the sooner of what the caller gave and what the policy
    /// allows.
    pub fn new(started: Instant, given: Option<Duration>, allowed: Duration) -> Self {
        let time = given.map_or(allowed, |given| given.min(allowed));
        Self { started, at: started + time, given, is_callers: given.is_some_and(|given| given <= allowed) }
    }

    /// The same, `reserve` sooner, so that there is time for something else then. With too little time it stays.
    #[must_use]
    pub fn sooner(self, reserve: Duration) -> Self {
        if self.total() > FLOOR + reserve { Self { at: self.at - reserve, ..self } } else { self }
    }

    /// When it passes.
    pub fn at(&self) -> Instant {
        self.at
    }

    /// All the time there was.
    pub fn total(&self) -> Duration {
        self.at - self.started
    }

    /// Whether the caller gave it, rather than the policy.
    pub fn is_callers(&self) -> bool {
        self.is_callers
    }

    /// What a forwarded time-out says: the time left, where the caller gave one at all.
    pub fn forwarded(&self, now: Instant) -> Option<Duration> {
        self.given.map(|_| self.at.saturating_duration_since(now))
    }

    /// Until when the request may wait, for anything: [`FLOOR`] before the deadline. What arrived with less than the
    /// floor does not wait at all.
    pub fn waits_until(&self) -> Instant {
        if self.total() > FLOOR { self.at - FLOOR } else { self.started }
    }

    /// The latest moment to send a request again that was lost with an idle connection: [`FLOOR`] before the deadline.
    /// What arrived with less than the floor gets a second try in the first half of its time.
    pub fn last_start(&self) -> Instant {
        if self.total() > FLOOR { self.at - FLOOR } else { self.started + self.total() / 2 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn the_sooner_of_two_limits_counts() {
        let now = Instant::now();
        let callers = Deadline::new(now, Some(3 * SECOND), 10 * SECOND);
        assert_eq!((callers.at(), callers.is_callers()), (now + 3 * SECOND, true));
        let policys = Deadline::new(now, Some(30 * SECOND), 10 * SECOND);
        assert_eq!((policys.at(), policys.is_callers()), (now + 10 * SECOND, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_reserve_is_kept_only_where_enough_is_left() {
        let now = Instant::now();
        let sooner = |seconds| Deadline::new(now, Some(seconds * SECOND), 60 * SECOND).sooner(SECOND).at() - now;
        assert_eq!((sooner(10), sooner(3), sooner(4)), (9 * SECOND, 3 * SECOND, 3 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_is_forwarded_only_where_one_came() {
        let now = Instant::now();
        let with = Deadline::new(now, Some(30 * SECOND), 10 * SECOND);
        assert_eq!(with.forwarded(now + 4 * SECOND), Some(6 * SECOND));
        assert_eq!(with.forwarded(now + 40 * SECOND), Some(Duration::ZERO));
        assert_eq!(Deadline::new(now, None, 10 * SECOND).forwarded(now), None);
    }

    proptest! {
        #[test]
        fn nothing_is_tried_again_with_less_than_the_floor_left(given in 1u64..60_000, allowed in 1u64..60_000) {
            let now = Instant::now();
            let deadline = Deadline::new(now, Some(Duration::from_millis(given)), Duration::from_millis(allowed));
            let left = deadline.at() - deadline.last_start();
            prop_assert!(left >= FLOOR || deadline.total() <= FLOOR);
            prop_assert!(deadline.last_start() >= now && deadline.last_start() <= deadline.at());
            prop_assert!(deadline.waits_until() == now || deadline.at() - deadline.waits_until() == FLOOR);
        }
    }
}
