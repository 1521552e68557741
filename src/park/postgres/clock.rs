//! How far the database's clock is from this process's own.
//!
//! Replicas put leases on rows by the time that they are given, so clocks that differ would end each other's leases.
//! Hence rows have the database's time: what goes in is moved by the difference, what comes out is moved back.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use tokio_postgres::{Client, Error};
use tracing::warn;

/// A smaller difference than this is none: it costs a lease nothing, and measuring is no better. Milliseconds.
const NEGLIGIBLE: i64 = 500;

/// A difference that is worth a warning. Milliseconds.
const REMARKABLE: i64 = 1000;

/// How often the difference is measured; the quickest answer is the most exact one.
const MEASUREMENTS: usize = 3;

/// The difference, as it was measured last.
#[derive(Debug, Default)]
pub(super) struct Clock {
    skew: AtomicI64,
}

impl Clock {
    /// Measures the difference, and warns where it is large and new.
    pub(super) async fn measure(&self, client: &Client) -> Result<(), Error> {
        let mut best = (i64::MAX, 0);
        for _ in 0..MEASUREMENTS {
            let before = local();
            // Not qualified, so that a test can put a clock of its own in front.
            let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint";
            let there: i64 = client.query_one(sql, &[]).await?.try_get(0)?;
            let took = local() - before;
            best = best.min((took, there - before - took / 2));
        }
        self.set(best.1);
        Ok(())
    }

    fn set(&self, measured: i64) {
        let skew = if measured.abs() < NEGLIGIBLE { 0 } else { measured };
        let last = self.skew.swap(skew, Ordering::Relaxed);
        if skew.abs() > REMARKABLE && (skew - last).abs() > REMARKABLE {
            warn!(
                milliseconds = skew,
                "the clock of the database of parked operations is ahead of this one by so much"
            );
        }
    }

    /// A time of this process, as rows have it.
    pub(super) fn outwards(&self, time: u64) -> i64 {
        i64::try_from(time).unwrap_or(i64::MAX).saturating_add(self.skew.load(Ordering::Relaxed)).max(0)
    }

    /// A time of a row, as this process has it.
    pub(super) fn inwards(&self, time: i64) -> u64 {
        u64::try_from(time.saturating_sub(self.skew.load(Ordering::Relaxed))).unwrap_or(0)
    }
}

/// Now, by this machine's clock: what the callers' times come from.
fn local() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::Clock;

    #[test]
    fn a_small_difference_is_none() {
        let clock = Clock::default();
        for measured in [0, 499, -499] {
            clock.set(measured);
            assert_eq!((clock.outwards(7), clock.inwards(7)), (7, 7), "{measured}");
        }
    }

    #[test]
    fn times_go_in_by_the_clock_of_the_database_and_come_out_by_this_one() {
        let clock = Clock::default();
        clock.set(3000);
        assert_eq!(clock.outwards(10_000), 13_000);
        clock.set(-3000);
        assert_eq!(clock.outwards(10_000), 7000);
        assert_eq!(clock.inwards(7000), 10_000);
    }

    #[test]
    fn the_ends_of_time_stay_where_they_are() {
        let clock = Clock::default();
        clock.set(3000);
        assert_eq!(clock.outwards(u64::MAX), i64::MAX);
        assert_eq!(clock.inwards(0), 0);
        clock.set(-3000);
        assert_eq!(clock.outwards(0), 0);
    }
}
