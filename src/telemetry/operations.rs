//! The metrics of each operation, resolved once and kept.
//!
//! Which services and operations exist is the callers' word, so there is a bound on how many become label values of
//! their own; the rest share `_other`.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use prometheus::{Histogram, IntCounter};

use super::Telemetry;
use super::stage::Withheld;
use crate::resilience::breaker::State;
use crate::resilience::retry::Loss;

/// Operations with label values of their own under one endpoint.
const MAX_PER_ENDPOINT: usize = 200;
/// Operations with label values of their own in all.
const MAX_IN_ALL: usize = 5_000;
/// Service and operation label of those beyond.
const OTHER: &str = "_other";
/// Endpoint, service and operation label of requests that name no endpoint.
pub(super) const UNKNOWN: &str = "_unknown";

/// What a request's `outcome` label says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OutcomeLabel {
    Succeeded,
    Started,
    Parked,
    CancelAccepted,
    Delivered,
    OperationFailed,
    OperationCanceled,
    HandlerError,
    GatewayError,
    Abandoned,
}

impl OutcomeLabel {
    const COUNT: usize = 10;

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Started => "started",
            Self::Parked => "parked",
            Self::CancelAccepted => "cancel_accepted",
            Self::Delivered => "delivered",
            Self::OperationFailed => "operation_failed",
            Self::OperationCanceled => "operation_canceled",
            Self::HandlerError => "handler_error",
            Self::GatewayError => "gateway_error",
            Self::Abandoned => "abandoned",
        }
    }
}

/// What a request's `method` label says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodLabel {
    /// A start.
    Start,
    /// A cancel, in either form.
    Cancel,
    /// A completion.
    Complete,
    /// A start that was parked, sent by the gateway.
    Resend,
    /// A completion of a start that was parked, sent by the gateway.
    Deliver,
    /// None of these: the request could not be read.
    Unknown,
}

impl MethodLabel {
    const COUNT: usize = 6;

    /// The label's value.
    pub fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Cancel => "cancel",
            Self::Complete => "complete",
            Self::Resend => "resend",
            Self::Deliver => "deliver",
            Self::Unknown => UNKNOWN,
        }
    }
}

/// The metrics of one operation.
pub struct OperationMetrics {
    endpoint: Arc<str>,
    service: Box<str>,
    operation: Box<str>,
    methods: [MethodMetrics; MethodLabel::COUNT],
}

#[derive(Default)]
struct MethodMetrics {
    outcomes: [OnceLock<IntCounter>; OutcomeLabel::COUNT],
    duration: OnceLock<Histogram>,
    upstream_duration: OnceLock<Histogram>,
}

impl OperationMetrics {
    fn new(endpoint: &Arc<str>, service: &str, operation: &str) -> Self {
        let endpoint = Arc::clone(endpoint);
        Self { endpoint, service: service.into(), operation: operation.into(), methods: Default::default() }
    }

    /// Its label values: endpoint, service and operation.
    pub(super) fn labels(&self) -> [&str; 3] {
        [&self.endpoint, &self.service, &self.operation]
    }

    /// The endpoint's label value.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub(super) fn observe(
        &self,
        telemetry: &Telemetry,
        method: MethodLabel,
        outcome: OutcomeLabel,
        whole: Duration,
        upstream: Option<Duration>,
    ) {
        let labels = || [&*self.endpoint, &*self.service, &*self.operation, method.name()];
        let metrics = &self.methods[method as usize];
        let counted = metrics.outcomes[outcome as usize].get_or_init(|| {
            let [endpoint, service, operation, method] = labels();
            telemetry.requests.with_label_values(&[endpoint, service, operation, method, outcome.name()])
        });
        counted.inc();
        let duration = metrics.duration.get_or_init(|| telemetry.duration.with_label_values(&labels()));
        duration.observe(whole.as_secs_f64());
        if let Some(upstream) = upstream {
            let vec = &telemetry.upstream_duration;
            let duration = metrics.upstream_duration.get_or_init(|| vec.with_label_values(&labels()));
            duration.observe(upstream.as_secs_f64());
        }
    }

    /// Takes what was counted out of the exposition; counters that are not there make no difference.
    fn remove(&self, telemetry: &Telemetry) {
        let _ = telemetry.completion_lag.remove_label_values(&self.labels());
        for method in [MethodLabel::Start, MethodLabel::Cancel, MethodLabel::Complete, MethodLabel::Unknown] {
            let labels = [&*self.endpoint, &*self.service, &*self.operation, method.name()];
            let _ = telemetry.duration.remove_label_values(&labels);
            let _ = telemetry.upstream_duration.remove_label_values(&labels);
            for outcome in [
                OutcomeLabel::Succeeded,
                OutcomeLabel::Started,
                OutcomeLabel::CancelAccepted,
                OutcomeLabel::Delivered,
                OutcomeLabel::OperationFailed,
                OutcomeLabel::OperationCanceled,
                OutcomeLabel::HandlerError,
                OutcomeLabel::GatewayError,
                OutcomeLabel::Abandoned,
            ] {
                let [endpoint, service, operation, method] = labels;
                let labels = [endpoint, service, operation, method, outcome.name()];
                let _ = telemetry.requests.remove_label_values(&labels);
            }
        }
    }
}

/// By service and operation.
type Operations = HashMap<(Box<str>, Box<str>), Arc<OperationMetrics>>;

/// The metrics of one endpoint, which outlive changes of its target.
pub struct EndpointMetrics {
    name: Arc<str>,
    operations: Mutex<Operations>,
    in_all: Arc<AtomicUsize>,
}

impl EndpointMetrics {
    /// The metrics of an operation, or those of all the rest once there are too many.
    pub fn operation(&self, service: &str, operation: &str) -> Arc<OperationMetrics> {
        let mut operations = self.lock();
        let key = (service.into(), operation.into());
        if let Some(known) = operations.get(&key) {
            return Arc::clone(known);
        }
        let full = operations.len() >= MAX_PER_ENDPOINT || self.in_all.load(Ordering::Relaxed) >= MAX_IN_ALL;
        let key = if full { (OTHER.into(), OTHER.into()) } else { key };
        let add = || {
            self.in_all.fetch_add(1, Ordering::Relaxed);
            Arc::new(OperationMetrics::new(&self.name, &key.0, &key.1))
        };
        Arc::clone(operations.entry(key.clone()).or_insert_with(add))
    }

    fn lock(&self) -> MutexGuard<'_, Operations> {
        self.operations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn remove(&self, telemetry: &Telemetry) {
        let operations = std::mem::take(&mut *self.lock());
        self.in_all.fetch_sub(operations.len(), Ordering::Relaxed);
        for operation in operations.values() {
            operation.remove(telemetry);
        }
        for reason in crate::response::Reason::ALL {
            let _ = telemetry.failures.remove_label_values(&[&self.name, reason.name()]);
        }
        for loss in Loss::ALL {
            let _ = telemetry.retries.remove_label_values(&[&self.name, loss.name()]);
        }
        let _ = telemetry.sealed.remove_label_values(&[&self.name]);
        for why in Withheld::ALL {
            let _ = telemetry.retries_withheld.remove_label_values(&[&self.name, why.name()]);
        }
        for state in State::ALL {
            let _ = telemetry.breaker_transitions.remove_label_values(&[&self.name, state.as_str()]);
        }
        let kinds = crate::nexus::ErrorType::ALL.into_iter().map(crate::nexus::ErrorType::name);
        for kind in kinds.chain(["unknown"]) {
            let _ = telemetry.handler_errors.remove_label_values(&[&self.name, kind]);
        }
    }
}

/// The metrics of all endpoints by name.
#[derive(Default)]
pub(super) struct Interned {
    endpoints: Mutex<HashMap<Arc<str>, Arc<EndpointMetrics>>>,
    in_all: Arc<AtomicUsize>,
}

impl Interned {
    pub(super) fn endpoint(&self, name: &str) -> Arc<EndpointMetrics> {
        let mut endpoints = self.lock();
        if let Some(known) = endpoints.get(name) {
            return Arc::clone(known);
        }
        let name: Arc<str> = name.into();
        let operations = Mutex::default();
        let metrics =
            Arc::new(EndpointMetrics { name: Arc::clone(&name), operations, in_all: Arc::clone(&self.in_all) });
        endpoints.insert(name, Arc::clone(&metrics));
        metrics
    }

    pub(super) fn retain(&self, telemetry: &Telemetry, exists: impl Fn(&str) -> bool) {
        self.lock().retain(|name, metrics| {
            let kept = &**name == UNKNOWN || exists(name);
            if !kept {
                metrics.remove(telemetry);
            }
            kept
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Arc<EndpointMetrics>>> {
        self.endpoints.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_cannot_make_up_labels_without_end() {
        let telemetry = Telemetry::new();
        let endpoint = telemetry.endpoint("pay");
        for i in 0..MAX_PER_ENDPOINT + 50 {
            let operation = endpoint.operation("Svc", &format!("op{i}"));
            operation.observe(&telemetry, MethodLabel::Start, OutcomeLabel::Succeeded, Duration::ZERO, None);
        }
        let text = telemetry.encode();
        let lines = text.lines().filter(|line| line.starts_with("nexus_gateway_requests_total{"));
        assert_eq!(lines.clone().count(), MAX_PER_ENDPOINT + 1);
        assert!(lines.into_iter().any(|line| line.contains("_other") && line.ends_with(" 50")));
    }

    #[test]
    fn an_endpoint_that_is_gone_leaves_no_series() {
        let telemetry = Telemetry::new();
        for name in ["gone", "kept"] {
            let operation = telemetry.endpoint(name).operation("Svc", "op");
            let took = Some(Duration::ZERO);
            operation.observe(&telemetry, MethodLabel::Start, OutcomeLabel::Succeeded, Duration::ZERO, took);
            telemetry.count_failure(name, crate::response::Reason::UpstreamReset);
            telemetry.count_handler_error(name, None);
        }
        telemetry.retain(|name| name == "kept");
        let text = telemetry.encode();
        assert!(text.contains("\"kept\"") && !text.contains("\"gone\""), "{text}");
    }
}
