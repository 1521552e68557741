//! How many requests may be on their way at the same time.

use std::time::Duration;

use super::Per;

/// A concurrency limit with a queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConcurrencySettings {
    /// What has a limit of its own.
    pub per: Per,
    /// Requests on their way at a time; the upper bound where the limit is adaptive.
    pub max: usize,
    /// Longest time that a request waits for a place.
    pub max_wait: Duration,
    /// Requests that may wait for a place at a time.
    pub max_queue: usize,
    /// Whether the limit is found by latency.
    pub adaptive: bool,
}
