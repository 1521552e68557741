//! The bucket of this process: GCRA by governor, with tokio's time.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, Reference};
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tokio::time::Instant;

use super::Left;
use crate::resilience::rate_limit::Rate;

/// The longest that a full bucket may last: an overflow of 64 bits of nanoseconds stays far away.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

pub(super) struct Bucket {
    limiter: RateLimiter<NotKeyed, InMemoryState, SinceBase, StateInformationMiddleware>,
    clock: SinceBase,
    rate: Rate,
    pub(super) interval: Duration,
    pub(super) burst: u32,
}

impl Bucket {
    pub(super) fn new(rate: Rate, burst: NonZeroU32) -> Self {
        let interval = rate.interval().max(Duration::from_nanos(1));
        let most = u32::try_from(LONGEST.as_nanos() / interval.as_nanos()).unwrap_or(u32::MAX);
        let burst = burst.min(NonZeroU32::new(most).unwrap_or(NonZeroU32::MIN));
        let quota = Quota::with_period(interval).unwrap_or_else(|| Quota::per_second(rate.requests)).allow_burst(burst);
        let clock = SinceBase(Instant::now());
        let limiter = RateLimiter::direct_with_clock(quota, clock).with_middleware();
        Self { limiter, clock, rate, interval, burst: burst.get() }
    }

    /// Takes a turn, or says when there is one at the earliest.
    pub(super) fn take(&self) -> Result<Left, Instant> {
        match self.limiter.check() {
            Ok(after) => Ok(self.left(after.remaining_burst_capacity())),
            Err(not_until) => {
                let at = not_until.earliest_possible().duration_since(Nanos::default());
                Err(self.clock.0 + Duration::from(at))
            }
        }
    }

    /// What to say where so many turns are left.
    pub(super) fn left(&self, remaining: u32) -> Left {
        let remaining = remaining.min(self.burst);
        let reset = self.interval.saturating_mul(self.burst - remaining);
        Left { rate: self.rate, burst: self.burst, remaining, reset }
    }
}

/// Tokio's time as governor reads it, so that one clock governs everything.
#[derive(Clone, Copy, Debug)]
struct SinceBase(Instant);

impl Clock for SinceBase {
    type Instant = Nanos;

    fn now(&self) -> Nanos {
        Nanos::from(self.0.elapsed())
    }
}
