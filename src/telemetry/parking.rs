//! The metrics of parked operations.

use std::time::Duration;

use prometheus::{HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{LAG, Maker};
use crate::resilience::park::ParkReason;

/// What operators see of parked operations. Some are counted as they happen, others taken when they are asked for.
pub struct ParkMetrics {
    parked: IntCounterVec,
    refused: IntCounterVec,
    ended: IntCounterVec,
    seconds: HistogramVec,
    /// Rows by endpoint and state: `waiting`, `started` or `done`.
    pub rows: IntGaugeVec,
    /// Bytes of rows by endpoint.
    pub bytes: IntGaugeVec,
    /// Age of the oldest row that is not started, by endpoint.
    pub oldest: IntGaugeVec,
    /// Rows that are on their way.
    pub in_flight: IntGauge,
    /// 1 where the store works, 0 where not; nothing where there is none.
    pub store_up: IntGaugeVec,
    /// Calls of the store that failed.
    pub store_errors: IntCounter,
    /// Transactions.
    pub commits: IntCounter,
    /// Changes made by them.
    pub writes: IntCounter,
}

impl ParkMetrics {
    pub(super) fn new(make: &Maker) -> Self {
        Self {
            parked: make.counters(
                "parked_total",
                "Starts that were parked, by what kept them from getting through.",
                &["endpoint", "reason"],
            ),
            refused: make.counters(
                "park_refused_total",
                "Starts that would have been parked, but for a bound or the store.",
                &["endpoint", "why"],
            ),
            ended: make.counters(
                "unparked_total",
                "Ends of parked operations: delivered, or not, and `started` where the target runs them now.",
                &["endpoint", "end"],
            ),
            seconds: make.histograms_of(
                "parked_seconds",
                "Time from parking an operation until its target took it or it ended.",
                &["endpoint"],
                &LAG,
            ),
            rows: make.gauges("parked", "Operations that are parked, by state.", &["endpoint", "state"]),
            bytes: make.gauges("parked_bytes", "Bytes of what is kept of parked operations.", &["endpoint"]),
            oldest: make.gauges(
                "parked_oldest_seconds",
                "Age of the oldest operation that waits, or whose completion does.",
                &["endpoint"],
            ),
            in_flight: make.gauge("park_in_flight", "Parked operations, or their completions, that are on their way."),
            store_up: make.gauges("park_store_up", "1 where the store of parked operations works.", &[]),
            store_errors: make.counter("park_store_errors_total", "Calls of the store that failed."),
            commits: make.counter("park_store_commits_total", "Transactions of the store."),
            writes: make.counter("park_store_writes_total", "Changes that these made."),
        }
    }

    /// Counts a start that was parked.
    pub fn parked(&self, endpoint: &str, reason: ParkReason) {
        self.parked.with_label_values(&[endpoint, reason.name()]).inc();
    }

    /// Counts a start that was not parked for `why`.
    pub fn refused(&self, endpoint: &str, why: &str) {
        self.refused.with_label_values(&[endpoint, why]).inc();
    }

    /// Counts an operation that was parked for so long and came to this end.
    pub fn ended(&self, endpoint: &str, end: &str, parked: Duration) {
        self.ended.with_label_values(&[endpoint, end]).inc();
        self.seconds.with_label_values(&[endpoint]).observe(parked.as_secs_f64());
    }
}
