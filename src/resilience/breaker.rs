//! Whether a target that keeps failing is asked at all.

use std::time::Duration;

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
