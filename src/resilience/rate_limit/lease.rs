//! Turns taken from a shared bucket before they are used, and how many to take.
//!
//! A turn keeps the time at which the bucket had it, so that turns of the near future can be taken as well and requests
//! of several gateways go in the order in which they asked. A turn that nobody used within [`LIFE`] is lost. Hence, in
//! any time t, all gateways together let through at most burst + rate × (t + [`LIFE`]).

use std::time::Duration;

use tokio::time::Instant;

/// How long a turn can be used once its time has come.
pub const LIFE: Duration = Duration::from_millis(100);

/// The demand that one lease is made for. A fifth of [`LIFE`]: turns are nearly always used before they are lost.
pub const SPAN: Duration = Duration::from_millis(20);

/// Over how long demand is averaged.
const MEMORY: Duration = Duration::from_millis(50);

/// The shortest time that says anything about demand.
const SAMPLE: Duration = Duration::from_millis(5);

/// Several turns of a shared bucket, one interval apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    granted: Instant,
    /// When the first turn's time comes, in nanoseconds after `granted`; negative where the bucket had turns saved.
    first: i64,
    interval: Duration,
    turns: u32,
}

/// What a lease has at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// This turn, counted from 0; those before it are used or lost.
    Turn(u32),
    /// The next turn's time comes then.
    At(Instant),
    /// Nothing.
    Spent,
}

impl Lease {
    /// A lease of `turns`, granted at `granted`, the first of which conforms `first` nanoseconds later.
    pub fn new(granted: Instant, first: i64, interval: Duration, turns: u32) -> Self {
        Self { granted, first, interval, turns }
    }

    /// A lease without turns.
    pub fn none(now: Instant) -> Self {
        Self::new(now, 0, Duration::from_nanos(1), 0)
    }

    /// How many turns it had.
    pub fn turns(&self) -> u32 {
        self.turns
    }

    /// What there is at `now`, when the first `used` turns are gone.
    pub fn pick(&self, used: u32, now: Instant) -> Pick {
        let turn = used.max(self.lost(now));
        if turn >= self.turns {
            return Pick::Spent;
        }
        let at = self.granted + Duration::from_nanos(u64::try_from(self.offset(turn)).unwrap_or(0));
        if at <= now { Pick::Turn(turn) } else { Pick::At(at) }
    }

    /// Turns not used and not lost at `now`, when the first `used` are gone.
    pub fn unused(&self, used: u32, now: Instant) -> u32 {
        self.turns.saturating_sub(used.max(self.lost(now)))
    }

    /// How many of the first turns are too old to be used.
    fn lost(&self, now: Instant) -> u32 {
        let age = now.saturating_duration_since(self.granted);
        // Saved turns live from the grant on.
        if age <= LIFE {
            return 0;
        }
        let behind = nanos(age) - nanos(LIFE) - i128::from(self.first);
        let interval = nanos(self.interval).max(1);
        let lost = if behind <= 0 { 0 } else { (behind + interval - 1) / interval };
        u32::try_from(lost).unwrap_or(u32::MAX)
    }

    /// When a turn's time comes, in nanoseconds after the grant.
    fn offset(&self, turn: u32) -> i128 {
        i128::from(self.first) + nanos(self.interval) * i128::from(turn)
    }
}

fn nanos(time: Duration) -> i128 {
    i128::try_from(time.as_nanos()).unwrap_or(i128::MAX)
}

/// How many requests come to a gateway, lately.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    since: Instant,
    requests: u64,
    per_second: f64,
}

impl Demand {
    /// None so far.
    pub fn new(now: Instant) -> Self {
        Self { since: now, requests: 0, per_second: 0.0 }
    }

    /// Counts the `requests` that came since the last call.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn observe(&mut self, requests: u64, now: Instant) {
        self.requests += requests;
        let elapsed = now.saturating_duration_since(self.since);
        if elapsed < SAMPLE {
            return;
        }
        let seconds = elapsed.as_secs_f64();
        let weight = 1.0 - (-seconds / MEMORY.as_secs_f64()).exp();
        self.per_second += weight * (self.requests as f64 / seconds - self.per_second);
        (self.since, self.requests) = (now, 0);
    }

    /// How many turns the next lease asks for: what comes in [`SPAN`], or what waits now, but not more than the
    /// whole limit gives in [`SPAN`], so that no gateway takes everything.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is not negative")]
    pub fn lease(&self, waiting: u32, interval: Duration) -> u32 {
        let most = u32::try_from(SPAN.as_nanos() / interval.as_nanos().max(1)).unwrap_or(u32::MAX).max(1);
        let coming = (self.per_second * SPAN.as_secs_f64()).round() as u32;
        coming.max(waiting).clamp(1, most)
    }
}

#[cfg(test)]
mod tests;
