//! Whether to try again, and when.

use std::time::Duration;

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

/// What may be retried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "a set")]
pub struct RetryOn {
    /// No connection: nothing was sent.
    pub connect: bool,
    /// The connection was lost before an answer: the handler may have run.
    pub reset: bool,
    /// A retryable 503, a bare 502, or a cluster's answer that is not from Nexus.
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
}
