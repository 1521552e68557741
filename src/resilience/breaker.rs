//! Whether a target that keeps failing is asked at all.
//!
//! Here are the settings and the words; the rules are [`Core`].

mod core;
#[cfg(test)]
mod walk;

use std::fmt;
use std::time::Duration;

pub use self::core::{Core, Shut, Ticket};
use super::Per;

/// When a breaker opens, and how it closes again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BreakerSettings {
    /// What has a breaker of its own.
    pub per: Per,
    /// Opens when at least so many percent of the requests of the window failed.
    pub failure_rate: Option<u32>,
    /// Requests that the window must hold before the rate says anything.
    pub min_requests: u32,
    /// How far back the rate looks.
    pub window: Duration,
    /// Opens after so many failures without a success between them.
    pub consecutive: Option<u32>,
    /// How long it stays open the first time, give or take a fifth; doubled each time that a probe fails.
    pub open_for: Duration,
    /// The longest that doubling makes of it.
    pub max_open_for: Duration,
    /// Requests let through at a time to see whether it can close; so many successes close it.
    pub probes: u32,
    /// Whether requests wait for the recovery instead of being refused.
    pub hold: bool,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            per: Per::OPERATION,
            failure_rate: Some(50),
            min_requests: 20,
            window: Duration::from_secs(10),
            consecutive: None,
            open_for: Duration::from_secs(5),
            max_open_for: Duration::from_secs(60),
            probes: 1,
            hold: false,
        }
    }
}

/// What a breaker does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// All go.
    Closed,
    /// None goes until the open time is over. It stays so beyond that time until a request comes, which is a probe.
    Open,
    /// A few go, to see whether it can close.
    HalfOpen,
    /// None goes until it is reset by hand.
    Tripped,
    /// All wait until it is reset by hand.
    Held,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Closed, Self::Open, Self::HalfOpen, Self::Tripped, Self::Held];

    /// Its name, as in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
            Self::Tripped => "tripped",
            Self::Held => "held",
        }
    }

    /// Whether only a reset by hand ends it.
    pub fn is_by_hand(self) -> bool {
        matches!(self, Self::Tripped | Self::Held)
    }
}

/// How a request went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Whoever was asked is able to answer, whatever the answer says.
    Success,
    /// Whoever was asked is not.
    Failure(Cause),
}

/// What made a request fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// The handler answered with an error that may heal.
    Handler,
    /// No worker took it: a 520 without `Temporal-Nexus-Failure-Source: worker`.
    NoWorker,
    /// No answer came in time.
    Timeout,
    /// What stands before the handler answered with an error.
    Infrastructure,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Handler, Self::NoWorker, Self::Timeout, Self::Infrastructure];

    /// Its name, as in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Handler => "handler",
            Self::NoWorker => "no_worker",
            Self::Timeout => "timeout",
            Self::Infrastructure => "infrastructure",
        }
    }
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transition {
    /// What it was.
    pub from: State,
    /// What it is.
    pub to: State,
    /// Why it changed.
    pub why: Why,
}

/// Why a breaker changed its state. A cause is that of the last failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Too large a share of the requests in the window failed.
    Rate {
        /// Failures in the window.
        failures: u64,
        /// Requests in the window.
        requests: u64,
        /// Of the last failure.
        cause: Cause,
    },
    /// Too many requests failed without a success between them.
    Consecutive {
        /// How many.
        failures: u32,
        /// Of the last failure.
        cause: Cause,
    },
    /// A probe failed.
    Probe {
        /// Failed probes since it was closed.
        failures: u32,
        /// Of this one.
        cause: Cause,
    },
    /// The open time is over.
    Over,
    /// Enough probes succeeded.
    Recovered,
    /// Someone steered it.
    ByHand,
}

impl Why {
    /// The cause of the failure, where it was one.
    pub fn cause(&self) -> Option<Cause> {
        match self {
            Self::Rate { cause, .. } | Self::Consecutive { cause, .. } | Self::Probe { cause, .. } => Some(*cause),
            Self::Over | Self::Recovered | Self::ByHand => None,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rate { failures, requests, .. } => write!(f, "{failures} of the last {requests} requests failed")?,
            Self::Consecutive { failures: 1, .. } => f.write_str("a request failed")?,
            Self::Consecutive { failures, .. } => write!(f, "{failures} requests in a row failed")?,
            Self::Probe { failures: 1, .. } => f.write_str("a probe failed")?,
            Self::Probe { failures, .. } => write!(f, "{failures} probes in a row failed")?,
            Self::Over => f.write_str("the open time is over")?,
            Self::Recovered => f.write_str("the probes succeeded")?,
            Self::ByHand => f.write_str("by hand")?,
        }
        self.cause().map_or(Ok(()), |cause| write!(f, " ({})", cause.as_str()))
    }
}
