//! What a request is told by a rate limit.

use std::fmt;
use std::time::Duration;

use crate::resilience::rate_limit::Rate;

/// A request may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Turn {
    /// How long it waited for that.
    pub waited: Duration,
    /// What is left of the limit.
    pub left: Left,
}

/// What is left of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// The limit.
    pub rate: Rate,
    /// Requests that may go at once when nothing went lately.
    pub burst: u32,
    /// Requests that may go at once now.
    pub remaining: u32,
    /// Time until that is `burst` again, if nothing goes meanwhile.
    pub reset: Duration,
}

impl Left {
    /// The values of `RateLimit-Policy` and `RateLimit` for a limit of this name
    /// (draft-ietf-httpapi-ratelimit-headers-10). Times are in whole seconds, rounded up. Characters that a quoted
    /// string cannot have become `_`.
    pub fn headers(&self, policy: &str) -> (String, String) {
        let name: String = policy.chars().map(quotable).collect();
        let (quota, window) = (self.rate.requests, seconds(self.rate.every));
        let (remaining, reset) = (self.remaining, seconds(self.reset));
        (format!("\"{name}\";q={quota};w={window}"), format!("\"{name}\";r={remaining};t={reset}"))
    }
}

fn quotable(c: char) -> char {
    let plain = (c == ' ' || c.is_ascii_graphic()) && c != '"' && c != '\\';
    if plain { c } else { '_' }
}

fn seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// A request may not go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why not.
    pub why: Why,
    /// Time after which it is likely to have a turn; never zero.
    pub retry_after: Duration,
    /// What is left of the limit.
    pub left: Left,
    /// How long it waited in vain.
    pub waited: Duration,
}

/// Why a request may not go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// As many requests as may wait do.
    QueueFull,
    /// Its turn comes later than it could wait.
    TooLong,
    /// Its turn did not come while it waited.
    TimedOut,
    /// The store of the limit cannot be asked, and nothing goes without it.
    StoreUnavailable,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Rate { requests, every } = self.left.rate;
        let (waited, again) = (self.waited, self.retry_after);
        match self.why {
            Why::StoreUnavailable => write!(f, "the store of the rate limit cannot be asked")?,
            _ => write!(f, "the rate limit of {requests} requests in {every:?} is used up")?,
        }
        match self.why {
            Why::QueueFull => write!(f, " and no more requests may wait for their turn")?,
            Why::TooLong => write!(f, " and the turn of this one would come too late for it")?,
            Why::TimedOut => write!(f, " and this one waited {waited:.1?} for its turn in vain")?,
            Why::StoreUnavailable => {}
        }
        write!(f, "; try again in {again:.1?}")
    }
}

/// What a limit did so far, and how many wait.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Requests that wait for their turn now.
    pub waiting: usize,
    /// Requests that had their turn.
    pub admitted: u64,
    /// Those among them that had to wait for it.
    pub delayed: u64,
    /// Requests refused with [`Why::QueueFull`].
    pub queue_full: u64,
    /// Requests refused with [`Why::TooLong`].
    pub too_long: u64,
    /// Requests refused with [`Why::TimedOut`].
    pub timed_out: u64,
    /// Requests refused with [`Why::StoreUnavailable`].
    pub store_unavailable: u64,
}
