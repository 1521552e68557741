//! Why a breaker let a request not through, in words for a caller's developer.

use std::fmt;
use std::time::Duration;

use crate::resilience::breaker::{Cause, State, Why};

/// A request may not go.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Refused {
    /// What the breaker does with requests.
    pub state: State,
    /// For how long it has done so.
    pub lasted: Duration,
    /// Why.
    pub reason: Option<Why>,
    /// When to come again: when the open time is over, or after `open_for` where nobody knows.
    pub retry_after: Duration,
    /// How long this request waited in vain.
    pub waited: Duration,
}

impl Refused {
    /// The cause of the failure that opened it; there is none where it was shut by hand.
    pub fn cause(&self) -> Option<Cause> {
        self.reason.and_then(|reason| reason.cause())
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lasted = Seconds(self.lasted);
        match self.state {
            // Refuses nothing.
            State::Closed => f.write_str("closed")?,
            State::Open => write!(f, "open for {lasted}")?,
            State::HalfOpen => write!(f, "half-open for {lasted}")?,
            State::Tripped => write!(f, "opened by hand {lasted} ago")?,
            State::Held => write!(f, "held by hand for {lasted}")?,
        }
        if let Some(reason) = self.reason.filter(|reason| reason.cause().is_some()) {
            write!(f, ": {reason}")?;
        }
        match self.state {
            State::Closed => {}
            State::Open => write!(f, "; next probe in {}", Seconds(self.retry_after))?,
            State::HalfOpen => f.write_str("; a probe is under way")?,
            State::Tripped | State::Held => f.write_str(" and not yet reset")?,
        }
        if self.waited.is_zero() { Ok(()) } else { write!(f, "; waited {} in vain", Seconds(self.waited)) }
    }
}

/// A time as in `2.1s`.
struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1}s", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_refusal_says_what_happened_and_when_to_come_again() {
        let refused = |state, reason, waited| {
            let (lasted, retry_after) = (Duration::from_millis(2140), Duration::from_millis(2900));
            Refused { state, lasted, reason, retry_after, waited }.to_string()
        };
        let rate = Some(Why::Rate { failures: 12, requests: 20, cause: Cause::Handler });
        let none = Duration::ZERO;
        for (text, expected) in [
            (
                refused(State::Open, rate, none),
                "open for 2.1s: 12 of the last 20 requests failed (handler); next probe in 2.9s",
            ),
            (
                refused(State::HalfOpen, rate, 2 * SECOND),
                "half-open for 2.1s: 12 of the last 20 requests failed (handler); a probe is under way; \
                 waited 2.0s in vain",
            ),
            (refused(State::Tripped, Some(Why::ByHand), none), "opened by hand 2.1s ago and not yet reset"),
            (
                refused(State::Held, Some(Why::ByHand), 5 * SECOND),
                "held by hand for 2.1s and not yet reset; waited 5.0s in vain",
            ),
        ] {
            assert_eq!(text, expected);
        }
    }
}
