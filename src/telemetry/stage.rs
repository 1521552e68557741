//! What is decided on a request: whether it may go, where it waits and how long it did, why it was not sent again.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use prometheus::IntGauge;
use tokio::time::Instant;

use super::Telemetry;

/// A stage at which a request may wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// For a place among the requests that the process has in flight.
    Admission,
    /// For its turn under a rate limit.
    RateLimit,
    /// For an address of the target that is up.
    Upstream,
    /// For an operation that keeps failing to recover.
    Breaker,
    /// For a place under a concurrency limit.
    Concurrency,
    /// Between two attempts.
    Backoff,
}

impl Stage {
    /// All of them, in the order in which a request comes to them.
    pub const ALL: [Self; 6] =
        [Self::Admission, Self::RateLimit, Self::Upstream, Self::Breaker, Self::Concurrency, Self::Backoff];

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admission => "admission",
            Self::RateLimit => "rate_limit",
            Self::Upstream => "upstream",
            Self::Breaker => "breaker",
            Self::Concurrency => "concurrency",
            Self::Backoff => "backoff",
        }
    }
}

/// What was decided on a request of a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// A rule allows it.
    Allowed,
    /// No rule does.
    Forbidden,
    /// No rule does, and the caller is told that there is nothing.
    Hidden,
    /// The caller shows no credential, and no rule is for such.
    Unauthenticated,
}

impl Decision {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Allowed, Self::Forbidden, Self::Hidden, Self::Unauthenticated];

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Forbidden => "forbidden",
            Self::Hidden => "hidden",
            Self::Unauthenticated => "unauthenticated",
        }
    }
}

/// Why an attempt that the policy would have made again was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// The endpoint's budget of retries is used up.
    Budget,
    /// Too little time is left.
    Deadline,
}

impl Withheld {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Budget, Self::Deadline];

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Deadline => "deadline",
        }
    }
}

/// Lets a request wait at `stage`, and says for how long it did. One that need not wait costs no look at the clock.
pub async fn waited_at<T>(telemetry: &Telemetry, stage: Stage, wait: impl Future<Output = T>) -> (T, Duration) {
    let mut wait = pin!(wait);
    if let Poll::Ready(done) = poll_fn(|cx| Poll::Ready(wait.as_mut().poll(cx))).await {
        return (done, Duration::ZERO);
    }
    let began = Instant::now();
    let _waiting = Waiting::begin(&telemetry.waiting[stage as usize]);
    let done = wait.await;
    let waited = began.elapsed();
    telemetry.waits[stage as usize].observe(waited.as_secs_f64());
    (done, waited)
}

/// One request that waits. The caller may leave at any time.
struct Waiting<'a>(&'a IntGauge);

impl<'a> Waiting<'a> {
    fn begin(gauge: &'a IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.dec();
    }
}
