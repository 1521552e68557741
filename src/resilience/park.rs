//! Which ends of a start lead to parking, and how much may be parked.

use std::time::Duration;

/// When a start that did not get through is kept, to be finished later.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ParkSettings {
    /// The ends that lead to it.
    pub on: ParkOn,
    /// Operations of an endpoint that are parked at a time.
    pub max: usize,
    /// Bytes of requests of an endpoint that are parked at a time.
    pub max_bytes: usize,
    /// How long an operation stays parked; its `Operation-Timeout` may be shorter.
    pub max_age: Duration,
}

/// Why a start did not get through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ParkReason {
    /// The target could not be reached, or the connection to it was lost.
    Unreachable,
    /// Its operation's breaker is open.
    BreakerOpen,
    /// It had no turn under its rate limit.
    RateLimited,
    /// It had no place under its concurrency limit.
    Saturated,
    /// The target answered that it is worth trying again, or answered nothing in time.
    RetryableFailure,
}

/// The ends that lead to parking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParkOn([bool; ParkReason::ALL.len()]);

impl Default for ParkSettings {
    fn default() -> Self {
        Self { on: ParkOn::default(), max: 100_000, max_bytes: 256 << 20, max_age: Duration::from_secs(24 * 3600) }
    }
}

impl ParkReason {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::Unreachable, Self::BreakerOpen, Self::RateLimited, Self::Saturated, Self::RetryableFailure];

    /// The name in the configuration, in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::BreakerOpen => "breaker_open",
            Self::RateLimited => "rate_limited",
            Self::Saturated => "saturated",
            Self::RetryableFailure => "retryable_failure",
        }
    }

    /// The reason of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.name() == name)
    }
}

/// All of them.
impl Default for ParkOn {
    fn default() -> Self {
        Self([true; ParkReason::ALL.len()])
    }
}

impl ParkOn {
    /// These ends.
    pub fn of(reasons: impl IntoIterator<Item = ParkReason>) -> Self {
        let mut on = [false; ParkReason::ALL.len()];
        for reason in reasons {
            on[reason as usize] = true;
        }
        Self(on)
    }

    /// Whether this end leads to parking.
    pub fn covers(self, reason: ParkReason) -> bool {
        self.0[reason as usize]
    }

    /// The ends in their order.
    pub fn reasons(self) -> impl Iterator<Item = ParkReason> {
        ParkReason::ALL.into_iter().filter(move |reason| self.covers(*reason))
    }
}
