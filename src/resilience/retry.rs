//! Whether to try again, and when.
//!
//! A Temporal caller retries by itself and for ever, so the gateway makes one or two extra attempts, not more; the
//! budget keeps them from multiplying the load of a target that is failing already.

use std::time::Duration;

use tokio::time::Instant;

use super::window::Window;

/// How far back a budget looks.
const BUDGET_WINDOW: Duration = Duration::from_secs(10);
/// Retries that a budget allows within its window however few requests there are.
const BUDGET_MINIMUM: u64 = 10;

/// How often and after what a request is sent again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RetrySettings {
    /// Attempts in all; 1 never retries.
    pub attempts: u32,
    /// Upper bound of the first wait; each next one doubles. The wait is drawn evenly from zero to the bound.
    pub initial: Duration,
    /// Upper bound of every wait.
    pub max: Duration,
    /// What is retried.
    pub on: RetryOn,
    /// Share of retries among all requests of the last ten seconds, per endpoint, in percent; none where there is no
    /// bound.
    pub budget: Option<u32>,
}

/// What one attempt came to, as far as retrying goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Loss {
    /// See [`RetryOn::connect`].
    Connect,
    /// See [`RetryOn::reset`].
    Reset,
    /// See [`RetryOn::unavailable`].
    Unavailable,
    /// See [`RetryOn::timeout`].
    Timeout,
    /// See [`RetryOn::resource_exhausted`].
    ResourceExhausted,
    /// See [`RetryOn::internal`].
    Internal,
}

impl Loss {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Connect, Self::Reset, Self::Unavailable, Self::Timeout, Self::ResourceExhausted, Self::Internal];

    /// The name in the configuration and in metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Reset => "reset",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
            Self::ResourceExhausted => "resource_exhausted",
            Self::Internal => "internal",
        }
    }
}

/// What may be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "a set")]
pub struct RetryOn {
    /// No connection: nothing was sent.
    pub connect: bool,
    /// The connection was lost before an answer, or a bare 502 says so: the handler may have run.
    pub reset: bool,
    /// A retryable 503, or a cluster's answer that is not from Nexus.
    pub unavailable: bool,
    /// A retryable 520 or 408, or a 504.
    pub timeout: bool,
    /// A retryable 429.
    pub resource_exhausted: bool,
    /// A retryable 500, or a retryable error of an unknown type.
    pub internal: bool,
}

impl Default for RetrySettings {
    fn default() -> Self {
        Self {
            attempts: 2,
            initial: Duration::from_millis(50),
            max: Duration::from_secs(1),
            on: RetryOn { connect: true, unavailable: true, ..RetryOn::NOTHING },
            budget: Some(20),
        }
    }
}

impl RetryOn {
    /// Nothing is retried.
    pub const NOTHING: Self = Self {
        connect: false,
        reset: false,
        unavailable: false,
        timeout: false,
        resource_exhausted: false,
        internal: false,
    };

    /// Whether this is retried.
    pub fn covers(self, loss: Loss) -> bool {
        match loss {
            Loss::Connect => self.connect,
            Loss::Reset => self.reset,
            Loss::Unavailable => self.unavailable,
            Loss::Timeout => self.timeout,
            Loss::ResourceExhausted => self.resource_exhausted,
            Loss::Internal => self.internal,
        }
    }
}

impl RetrySettings {
    /// The wait before the attempt that follows `made` others, with full jitter. Another attempt is not implied.
    pub fn backoff(&self, made: u32, random: &mut fastrand::Rng) -> Duration {
        let doubled = self.initial.saturating_mul(1 << made.saturating_sub(1).min(20));
        doubled.min(self.max).mul_f64(random.f64())
    }
}

/// How many retries there may be beside the requests of the last ten seconds.
#[derive(Clone, Debug)]
pub struct Budget {
    percent: u32,
    /// Requests and retries.
    window: Window<2>,
}

impl Budget {
    /// A budget of so many percent.
    pub fn new(percent: u32) -> Self {
        Self { percent, window: Window::new(BUDGET_WINDOW) }
    }

    /// A request came; its retries do not count as requests.
    pub fn request(&mut self, now: Instant) {
        self.window.add(now, [1, 0]);
    }

    /// Takes one retry out, if there is one. It counts from now on, while it still waits in its backoff.
    pub fn take(&mut self, now: Instant) -> bool {
        let [requests, retries] = self.window.totals(now);
        let within = retries < (requests * u64::from(self.percent) / 100).max(BUDGET_MINIMUM);
        if within {
            self.window.add(now, [0, 1]);
        }
        within
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    #[tokio::test(start_paused = true)]
    async fn a_budget_lets_a_share_of_the_requests_be_retried() {
        let now = Instant::now();
        let mut budget = Budget::new(20);
        (0..1_000).for_each(|_| budget.request(now));
        assert_eq!((0..1_000).filter(|_| budget.take(now)).count(), 200);
        let later = now + 2 * BUDGET_WINDOW;
        assert_eq!((0..1_000).filter(|_| budget.take(later)).count(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn retries_stay_within_the_budget_at_every_step_of_a_random_walk() {
        for seed in 0..4 {
            let mut random = fastrand::Rng::with_seed(seed);
            let mut now = Instant::now();
            let mut budget = Budget::new(20);
            let (mut requests, mut retries) = (VecDeque::new(), VecDeque::new());
            for step in 0..100_000 {
                now += Duration::from_millis(random.u64(0..200));
                // The window's slots are a tenth of it wide, so that it may look back that much less or more.
                let recent = |times: &VecDeque<Instant>, back: Duration| {
                    times.iter().filter(|at| now.saturating_duration_since(**at) <= back).count()
                };
                if random.u8(0..10) < 7 {
                    budget.request(now);
                    requests.push_back(now);
                } else if budget.take(now) {
                    let most = (recent(&requests, BUDGET_WINDOW * 11 / 10) / 5).max(10);
                    let taken = recent(&retries, BUDGET_WINDOW * 9 / 10);
                    assert!(taken < most, "seed {seed}, step {step}: {taken} of {most}");
                    retries.push_back(now);
                }
                for times in [&mut requests, &mut retries] {
                    while times.front().is_some_and(|at| now.saturating_duration_since(*at) > 2 * BUDGET_WINDOW) {
                        times.pop_front();
                    }
                }
            }
        }
    }

    proptest! {
        #[test]
        fn backoff_stays_below_its_doubling_bound(made in 1u32..50, seed: u64) {
            let settings = RetrySettings::default();
            let wait = settings.backoff(made, &mut fastrand::Rng::with_seed(seed));
            prop_assert!(wait <= settings.max);
            prop_assert!(made > 1 || wait <= settings.initial);
        }
    }
}
