//! What an operator sees: one record per request, from which metrics and the access log are made.
//!
//! Every metric name of the request path is here. Label values come from the table and from operations seen under
//! it, with a bound on how many a caller can make up; the handles are resolved once per operation and kept with it.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use prometheus::{
    GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
};

pub mod access_log;
mod audit;
mod connections;
mod lines;
mod operations;
mod parking;
mod record;
mod stage;
mod tls;

use crate::nexus::ErrorType;
use crate::resilience::breaker::{State, Transition};
use crate::resilience::retry::Loss;
use crate::response::Reason;
pub use audit::AdminAct;
pub use connections::{Refused, RefusedConnections};
pub use lines::LineWriter;
use operations::Interned;
pub use operations::{EndpointMetrics, MethodLabel, OperationMetrics};
pub use parking::ParkMetrics;
use record::Details;
pub use record::Record;
pub use stage::{Decision, Stage, Withheld, waited_at};
pub use tls::{Handshake, TlsMetrics};

/// Upper bounds of the latency buckets in seconds: from a local hop to beyond a caller's 10 s.
const LATENCY: [f64; 14] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Upper bounds of the buckets for the time from a start to its completion, in seconds: operations run for weeks.
const LAG: [f64; 9] = [1.0, 5.0, 15.0, 60.0, 300.0, 3600.0, 21_600.0, 86_400.0, 604_800.0];

/// Where the access log or the audit log goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output, one JSON object a line.
    Stdout,
    /// Appended to a file.
    File(PathBuf),
}

/// Form of the process's own log lines (on standard error).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// What is logged how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSettings {
    /// A filter as `tracing-subscriber` reads it: `info`, or `info,nexus_gateway=debug`.
    pub level: String,
    /// Form of the lines.
    pub format: LogFormat,
    /// Access log; none by default.
    pub access_log: Option<LogTarget>,
    /// Audit log; none by default.
    pub audit_log: Option<LogTarget>,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { level: "info".into(), format: LogFormat::Text, access_log: None, audit_log: None }
    }
}

/// All metrics, and the access log.
pub struct Telemetry {
    registry: Registry,
    requests: IntCounterVec,
    duration: HistogramVec,
    upstream_duration: HistogramVec,
    failures: IntCounterVec,
    refusals: IntCounterVec,
    sealed: IntCounterVec,
    completion_lag: HistogramVec,
    handler_errors: IntCounterVec,
    retries: IntCounterVec,
    retries_withheld: IntCounterVec,
    authorizations: [IntCounter; Decision::ALL.len()],
    waits: [Histogram; Stage::ALL.len()],
    waiting: [IntGauge; Stage::ALL.len()],
    breaker_transitions: IntCounterVec,
    authentications: IntCounterVec,
    admin_refused: IntCounterVec,
    /// Parked operations.
    pub parking: ParkMetrics,
    /// Requests between their head and the last byte of their answer.
    pub in_flight: IntGauge,
    /// Connections from callers.
    pub connections: IntGauge,
    /// Connections taken from callers.
    pub connections_total: IntCounter,
    /// Connections from callers that were closed at once, because there were too many.
    pub connections_refused: RefusedConnections,
    /// Connections from callers that were closed because a request head took too long, or none came.
    pub connections_reaped: IntCounter,
    /// Connections, and streams of HTTP/2, that were ended for what their callers did, by reason.
    connections_cut: IntCounterVec,
    /// Configurations taken, by result: `applied` or `refused`.
    pub reloads: IntCounterVec,
    /// TLS with clients.
    pub tls: TlsMetrics,
    /// Keys of callbacks that a reload took away.
    pub callback_keys_dropped: IntCounter,
    /// 1 where the configuration last read is in force, 0 where it was refused.
    pub last_reload_successful: IntGauge,
    /// Metrics whose values are taken from their owners when they are asked for.
    pub scraped: Scraped,
    details: Details,
    access_log: ArcSwapOption<LineWriter>,
    audit_log: ArcSwapOption<LineWriter>,
    operations: Interned,
}

/// Metrics whose values are taken from their owners when they are asked for.
pub struct Scraped {
    taking: Mutex<()>,
    /// Connections to targets by upstream and state, `idle` or `busy`.
    pub upstream_connections: IntGaugeVec,
    /// Connections to targets opened, or not, by upstream and result.
    pub upstream_connects: IntCounterVec,
    /// Requests sent again because an idle connection had died, by upstream.
    pub upstream_replays: IntCounterVec,
    /// Look-ups of addresses that failed, by upstream.
    pub upstream_resolve_errors: IntCounterVec,
    /// State of each breaker: 0 closed, 1 half open, 2 open, 3 tripped by hand, 4 held by hand.
    pub breaker_state: IntGaugeVec,
    /// Seconds until an open breaker lets a probe through.
    pub breaker_next_probe: IntGaugeVec,
    /// Seconds since a breaker last changed its state.
    pub breaker_changed: IntGaugeVec,
    /// 1 where the store of global limits can be asked, 0 where not; nothing where there is none.
    pub store_up: IntGaugeVec,
    /// Decisions of the store, by result.
    pub store_decisions: IntCounterVec,
    /// Times that a token for a target was asked for, by result.
    pub credentials_refreshes: IntCounterVec,
    /// Bytes of request bodies that the process holds.
    pub queued_bytes: IntGauge,
    /// Requests that may be on their way at a time, as it is now.
    pub concurrency_limit: IntGaugeVec,
    /// Requests that are on their way under a limit.
    pub concurrency_in_flight: IntGaugeVec,
    /// Times that an address was ejected, by upstream.
    pub upstream_ejections: IntCounterVec,
    /// Probes by upstream and result.
    pub upstream_probes: IntCounterVec,
    /// Addresses by upstream and state.
    pub upstream_addresses: IntGaugeVec,
    /// Endpoints by source.
    pub registry_endpoints: IntGaugeVec,
    /// Seconds since a source was last read.
    pub registry_age: GaugeVec,
    /// Polls that failed, by source.
    pub registry_errors: IntCounterVec,
    /// Names and ids that more than one source defines.
    pub registry_conflicts: IntGauge,
    /// Copies of a registry that could not be written.
    pub registry_copy_errors: IntGauge,
    /// One-name look-ups by what they found.
    pub registry_lookups: IntCounterVec,
    /// Fetches of the keys of tokens, by issuer and result.
    pub jwks_fetches: IntCounterVec,
    /// Seconds since the keys of an issuer were fetched.
    pub jwks_age: GaugeVec,
    /// Access log lines dropped because the writer could not keep up.
    pub access_log_dropped: IntGauge,
    /// Audit log lines dropped because the writer could not keep up.
    pub audit_log_dropped: IntGauge,
}

impl Telemetry {
    /// Fresh metrics, without an access log.
    #[must_use]
    pub fn new() -> Arc<Self> {
        let make = Maker { registry: Registry::new() };
        let operation = &["endpoint", "service", "operation", "method"];
        let build_info = make.gauges("build_info", "Version of the gateway; always 1.", &["version"]);
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        make.process();
        Arc::new(Self {
            requests: make.counters(
                "requests_total",
                "Requests by endpoint, service, operation, method and outcome.",
                &["endpoint", "service", "operation", "method", "outcome"],
            ),
            duration: make.histograms(
                "request_duration_seconds",
                "Time from a request's head to its answer's last byte.",
                operation,
            ),
            upstream_duration: make.histograms(
                "upstream_duration_seconds",
                "Time from sending a request to the head of the answer.",
                operation,
            ),
            failures: make.counters(
                "failures_total",
                "Failures that the gateway itself made, by reason.",
                &["endpoint", "reason"],
            ),
            refusals: make.counters(
                "refusals_total",
                "Requests that a setting refused, by that setting and the failure's reason.",
                &["rule", "reason"],
            ),
            sealed: make.counters("callbacks_sealed_total", "Starts whose callback was sealed.", &["endpoint"]),
            completion_lag: make.histograms_of(
                "completion_lag_seconds",
                "Time from a start to the delivery of its completion.",
                &["endpoint", "service", "operation"],
                &LAG,
            ),
            retries: make.counters("retries_total", "Attempts made again, by what came before.", &["endpoint", "on"]),
            retries_withheld: make.counters(
                "retries_withheld_total",
                "Attempts that a policy would have made again but for its budget or the deadline.",
                &["endpoint", "why"],
            ),
            authorizations: authorizations(&make),
            waits: waits(&make),
            waiting: waiting(&make),
            breaker_transitions: make.counters(
                "breaker_transitions_total",
                "Changes of breakers' states, by the state they came to.",
                &["endpoint", "to"],
            ),
            authentications: make.counters(
                "authentications_total",
                "Requests by what their senders showed of who they are, and what came of it.",
                &["how", "result"],
            ),
            admin_refused: make.counters(
                "admin_refused_total",
                "Requests that the admin port did not let in, by the status of their answer.",
                &["status"],
            ),
            handler_errors: make.counters(
                "handler_errors_total",
                "Handler errors that passed through, by type.",
                &["endpoint", "type"],
            ),
            parking: ParkMetrics::new(&make),
            in_flight: make.gauge("requests_in_flight", "Requests between their head and their answer's last byte."),
            connections: make.gauge("connections", "Connections from callers."),
            connections_total: make.counter("connections_total", "Connections taken from callers."),
            connections_refused: RefusedConnections::new(&make),
            connections_reaped: make.counter(
                "connections_reaped_total",
                "Connections closed over server.head_timeout, idle_timeout or body_timeout.",
            ),
            connections_cut: make.counters(
                "connections_cut_total",
                "Connections, and streams of HTTP/2, ended for what their callers did, by reason.",
                &["reason"],
            ),
            tls: TlsMetrics::new(&make),
            reloads: make.counters("config_reloads_total", "Changed configurations read, by result.", &["result"]),
            callback_keys_dropped: make.counter(
                "callback_keys_dropped_total",
                "Keys of callbacks that a reload took away: what was started under them cannot complete.",
            ),
            last_reload_successful: make.gauge(
                "config_last_reload_successful",
                "1 where the configuration last read is in force, 0 where it was refused.",
            ),
            scraped: Scraped::new(&make),
            details: Details::new(),
            access_log: ArcSwapOption::empty(),
            audit_log: ArcSwapOption::empty(),
            operations: Interned::default(),
            registry: make.registry,
        })
    }

    /// All metrics in the text format of Prometheus.
    pub fn encode(&self) -> String {
        let encoder = prometheus::TextEncoder::new();
        encoder.encode_to_string(&self.registry.gather()).unwrap_or_else(|error| {
            tracing::error!(%error, "cannot encode the metrics");
            String::new()
        })
    }

    /// From now on writes the access log there, or none.
    pub fn log_to(&self, access_log: Option<LineWriter>) {
        self.access_log.store(access_log.map(Arc::new));
    }

    /// The access log in force, if any.
    pub fn access_log(&self) -> Option<Arc<LineWriter>> {
        self.access_log.load_full()
    }

    /// From now on decisions are written there.
    pub fn audit_to(&self, audit_log: Option<LineWriter>) {
        self.audit_log.store(audit_log.map(Arc::new));
    }

    /// The audit log, where there is one.
    pub fn audit_log(&self) -> Option<Arc<LineWriter>> {
        self.audit_log.load_full()
    }

    /// Writes to the audit log what was asked of the admin port.
    pub fn audit(&self, act: &AdminAct<'_>) {
        if let Some(log) = &*self.audit_log.load() {
            log.write(&act.line());
        }
    }

    /// The metrics of an endpoint of the table.
    pub fn endpoint(&self, name: &str) -> Arc<EndpointMetrics> {
        self.operations.endpoint(name)
    }

    /// Forgets the metrics of endpoints that are not in the table any more.
    pub fn retain(&self, exists: impl Fn(&str) -> bool) {
        self.operations.retain(self, exists);
    }

    /// A connection, or a stream, was ended for what its caller did.
    pub fn cut(&self, reason: &str) {
        self.connections_cut.with_label_values(&[reason]).inc();
    }

    /// Counts a failure that the gateway made.
    fn count_failure(&self, endpoint: &str, reason: Reason) {
        self.failures.with_label_values(&[endpoint, reason.name()]).inc();
    }

    /// Counts a request that a setting refused.
    fn count_refusal(&self, rule: &str, reason: Reason) {
        self.refusals.with_label_values(&[rule, reason.name()]).inc();
    }

    /// Counts what rules decided on a request.
    pub fn decided(&self, decision: Decision) {
        self.authorizations[decision as usize].inc();
    }

    /// Counts a start whose callback was sealed.
    pub fn sealed(&self, endpoint: &str) {
        self.sealed.with_label_values(&[endpoint]).inc();
    }

    /// Counts a completion of an operation that arrived, so long after its start.
    pub fn completed(&self, operation: &OperationMetrics, lag: Duration) {
        self.completion_lag.with_label_values(&operation.labels()).observe(lag.as_secs_f64());
    }

    /// Counts a request whose sender showed `how` who it is, with this result.
    pub fn count_authentication(&self, how: &str, result: &str) {
        self.authentications.with_label_values(&[how, result]).inc();
    }

    /// Counts a request that the admin port does not let in, and says how many there were with this status.
    pub fn admin_refused(&self, status: http::StatusCode) -> u64 {
        let refused = self.admin_refused.with_label_values(&[status.as_str()]);
        refused.inc();
        refused.get()
    }

    /// Counts an attempt made again.
    pub fn count_retry(&self, endpoint: &str, on: Loss) {
        self.retries.with_label_values(&[endpoint, on.name()]).inc();
    }

    /// Counts an attempt that would have been made again but for `why`.
    pub fn count_withheld(&self, endpoint: &str, why: Withheld) {
        self.retries_withheld.with_label_values(&[endpoint, why.name()]).inc();
    }

    /// A breaker of this endpoint, service and operation changed its state.
    pub fn breaker_changed(&self, [endpoint, service, operation]: [&str; 3], transition: &Transition) {
        let Transition { from, to, why } = transition;
        self.breaker_transitions.with_label_values(&[endpoint, to.as_str()]).inc();
        let (from, to) = (from.as_str(), to.as_str());
        if *to == *State::Closed.as_str() {
            tracing::info!(endpoint, service, operation, from, to, %why, "breaker changed");
        } else {
            tracing::warn!(endpoint, service, operation, from, to, %why, "breaker changed");
        }
    }

    /// Counts a handler error that passed through.
    fn count_handler_error(&self, endpoint: &str, kind: Option<ErrorType>) {
        let kind = kind.map_or("unknown", ErrorType::name);
        self.handler_errors.with_label_values(&[endpoint, kind]).inc();
    }
}

impl Scraped {
    /// Keeps others from taking values at the same time.
    pub fn begin(&self) -> MutexGuard<'_, ()> {
        self.taking.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn new(make: &Maker) -> Self {
        Self {
            taking: Mutex::new(()),
            upstream_connections: make.gauges(
                "upstream_connections",
                "Connections to targets, idle or busy.",
                &["upstream", "state"],
            ),
            upstream_connects: make.counters(
                "upstream_connects_total",
                "Connections to targets opened, or not.",
                &["upstream", "result"],
            ),
            upstream_replays: make.counters(
                "upstream_replays_total",
                "Requests sent again on a fresh connection because an idle one had died.",
                &["upstream"],
            ),
            upstream_resolve_errors: make.counters(
                "upstream_resolve_errors_total",
                "Failed look-ups of a target's addresses.",
                &["upstream"],
            ),
            breaker_state: make.gauges(
                "breaker_state",
                "0 closed, 1 half open, 2 open, 3 tripped by hand, 4 held by hand.",
                &["endpoint", "service", "operation"],
            ),
            breaker_next_probe: make.gauges(
                "breaker_next_probe_seconds",
                "Time until an open breaker lets a probe through.",
                &["endpoint", "service", "operation"],
            ),
            breaker_changed: make.gauges(
                "breaker_state_age_seconds",
                "Time since a breaker last changed its state; none where it never did.",
                &["endpoint", "service", "operation"],
            ),
            store_up: make.gauges("limit_store_up", "1 where the store of global rate limits can be asked.", &[]),
            store_decisions: make.counters(
                "limit_store_decisions_total",
                "Decisions of the store of global rate limits, and those that it owed.",
                &["result"],
            ),
            credentials_refreshes: make.counters(
                "credentials_refreshes_total",
                "Times that a token for a target was asked for.",
                &["target", "result"],
            ),
            queued_bytes: make.gauge("queued_bytes", "Bytes of request bodies that the process holds."),
            concurrency_limit: make.gauges(
                "concurrency_limit",
                "Requests that may be on their way at a time, as it is now.",
                &["endpoint", "service", "operation"],
            ),
            concurrency_in_flight: make.gauges(
                "concurrency_in_flight",
                "Requests on their way under a concurrency limit.",
                &["endpoint", "service", "operation"],
            ),
            upstream_ejections: make.counters(
                "upstream_ejections_total",
                "Times that an address was ejected as an outlier, of the addresses that there are.",
                &["upstream"],
            ),
            upstream_probes: make.counters(
                "upstream_probes_total",
                "Probes of the addresses that there are, by result.",
                &["upstream", "result"],
            ),
            upstream_addresses: make.gauges(
                "upstream_addresses",
                "Addresses of targets by state.",
                &["upstream", "state"],
            ),
            registry_endpoints: make.gauges("registry_endpoints", "Endpoints by source.", &["source"]),
            registry_age: make.seconds("registry_age_seconds", "Time since a source was last read.", &["source"]),
            registry_errors: make.counters("registry_errors_total", "Polls of a source that failed.", &["source"]),
            registry_conflicts: make.gauge("registry_conflicts", "Names and ids that more than one source defines."),
            registry_copy_errors: make
                .gauge("registry_copy_errors", "Copies of a registry that could not be written since the start."),
            registry_lookups: make.counters(
                "registry_lookups_total",
                "One-name look-ups after a miss, by what they found.",
                &["result"],
            ),
            jwks_fetches: make.counters(
                "jwks_fetches_total",
                "Fetches of the keys of tokens, by issuer and result.",
                &["issuer", "result"],
            ),
            jwks_age: make.seconds("jwks_age_seconds", "Seconds since the keys of tokens were fetched.", &["issuer"]),
            access_log_dropped: make.gauge("access_log_dropped", "Access log lines dropped since the log was opened."),
            audit_log_dropped: make.gauge("audit_log_dropped", "Audit log lines dropped since the log was opened."),
        }
    }
}

/// By stage: one histogram for each, so that none is looked up per request.
fn authorizations(make: &Maker) -> [IntCounter; Decision::ALL.len()] {
    let help = "Decisions on whether a caller may do what it asks for, where rules decide.";
    let vec = make.counters("authorizations_total", help, &["decision"]);
    Decision::ALL.map(|decision| vec.with_label_values(&[decision.name()]))
}

fn waits(make: &Maker) -> [Histogram; Stage::ALL.len()] {
    let help = "Time that requests waited, of those that did, by the stage at which they waited.";
    let vec = make.histograms("wait_seconds", help, &["stage"]);
    Stage::ALL.map(|stage| vec.with_label_values(&[stage.name()]))
}

fn waiting(make: &Maker) -> [IntGauge; Stage::ALL.len()] {
    let vec = make.gauges("waiting", "Requests that wait now, by stage.", &["stage"]);
    Stage::ALL.map(|stage| vec.with_label_values(&[stage.name()]))
}

/// Makes metrics with the common prefix. Names and labels are constants: a bad one fails the first test.
struct Maker {
    registry: Registry,
}

impl Maker {
    fn counter(&self, name: &str, help: &str) -> IntCounter {
        self.add(IntCounter::with_opts(options(name, help)))
    }

    fn gauge(&self, name: &str, help: &str) -> IntGauge {
        self.add(IntGauge::with_opts(options(name, help)))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        self.add(IntCounterVec::new(options(name, help), labels))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
        self.add(IntGaugeVec::new(options(name, help), labels))
    }

    fn seconds(&self, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
        self.add(GaugeVec::new(options(name, help), labels))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
        self.histograms_of(name, help, labels, &LATENCY)
    }

    fn histograms_of(&self, name: &str, help: &str, labels: &[&str], buckets: &[f64]) -> HistogramVec {
        let options = HistogramOpts::from(options(name, help)).buckets(buckets.to_vec());
        self.add(HistogramVec::new(options, labels))
    }

    fn process(&self) {
        let collector = prometheus::process_collector::ProcessCollector::for_self();
        if let Err(error) = self.registry.register(Box::new(collector)) {
            tracing::error!(%error, "no process metrics");
        }
    }

    fn add<M: prometheus::core::Collector + Clone + 'static>(&self, metric: prometheus::Result<M>) -> M {
        let added = metric.and_then(|metric| self.registry.register(Box::new(metric.clone())).map(|()| metric));
        added.expect("metric names are valid and unique")
    }
}

fn options(name: &str, help: &str) -> Opts {
    Opts::new(format!("nexus_gateway_{name}"), help)
}
