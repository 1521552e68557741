//! One request's record: begun with its head, written when its answer ended or nobody wants it any more.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::time::Instant;

use super::access_log::Line;
use super::audit::Audit;
use super::operations::{MethodLabel, OperationMetrics, OutcomeLabel, UNKNOWN};
use super::{Decision, Telemetry};
use crate::body::{Broken, OnEnd};
use crate::nexus::Method;
use crate::resilience::park::ParkReason;
use crate::response::{Failure, Outcome, Reason};

/// Longest detail of a failure in a line, in characters: it has a part for each address of a target.
const MAX_DETAIL: usize = 500;

/// What becomes of a request. Dropping it writes it.
pub struct Record {
    telemetry: Arc<Telemetry>,
    started: Instant,
    method: MethodLabel,
    operation: Option<Arc<OperationMetrics>>,
    end: End,
    complete: bool,
    upstream: Option<Duration>,
    waited: Duration,
    attempts: u32,
    line: Option<Box<Line>>,
    audit: Option<Box<Audit>>,
}

/// What the request came to, so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Pending,
    Answered(Outcome),
    Failed(Reason),
}

impl Record {
    /// Begins the record of a request whose head arrived at `started`.
    pub fn begin(telemetry: &Arc<Telemetry>, started: Instant, peer: SocketAddr, head: &HeaderMap) -> Self {
        telemetry.in_flight.inc();
        let audit = telemetry.audit_log.load().is_some().then(Box::default);
        let is_logged = audit.is_some() || telemetry.access_log.load().is_some();
        let line = is_logged.then(|| Box::new(Line::new(peer, head)));
        Self {
            telemetry: Arc::clone(telemetry),
            started,
            method: MethodLabel::Unknown,
            operation: None,
            end: End::Pending,
            complete: false,
            upstream: None,
            waited: Duration::ZERO,
            attempts: 0,
            line,
            audit,
        }
    }

    /// When the request's head arrived.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// Whether a line will be written, so that its parts are worth gathering.
    pub fn line(&mut self) -> Option<&mut Line> {
        self.line.as_deref_mut()
    }

    /// What is asked.
    pub fn asked(&mut self, method: Method) {
        self.method = match method {
            Method::Start => MethodLabel::Start,
            Method::Cancel | Method::LegacyCancel => MethodLabel::Cancel,
            Method::Complete => MethodLabel::Complete,
        };
    }

    /// It is sent by the gateway itself, for an operation that was parked for so long: a start, or its completion.
    pub fn resumed(&mut self, method: Method, parked: Duration) {
        self.method = if method == Method::Complete { MethodLabel::Deliver } else { MethodLabel::Resend };
        if let Some(line) = &mut self.line {
            line.parked_ms = Some(millis(parked));
        }
    }

    /// Why it is parked.
    pub fn parked(&mut self, reason: ParkReason) {
        if let Some(line) = &mut self.line {
            line.reason = Some(reason.name());
        }
    }

    /// Which operation it is for.
    pub fn operation(&mut self, operation: &Arc<OperationMetrics>) {
        self.operation = Some(Arc::clone(operation));
    }

    /// The target answered, after this time.
    pub fn upstream(&mut self, took: Duration, socket: SocketAddr) {
        self.upstream = Some(took);
        if let Some(line) = &mut self.line {
            line.upstream = Some(socket);
        }
    }

    /// The target's answer passes.
    pub fn answered(&mut self, outcome: Outcome, status: StatusCode) {
        self.end = End::Answered(outcome);
        if let Some(line) = &mut self.line {
            line.status = Some(status.as_u16());
        }
    }

    /// The gateway answers a failure of its own.
    pub fn failed(&mut self, failure: &Failure) {
        self.end = End::Failed(failure.reason);
        if let Some(rule) = &failure.rule {
            self.telemetry.count_refusal(rule, failure.reason);
        }
        if let Some(detail) = &failure.detail {
            self.telemetry.details.note(failure.reason, detail);
        }
        if let Some(line) = &mut self.line {
            line.status = Some(failure.reason.kind().status().as_u16());
            line.rule.clone_from(&failure.rule);
            line.detail = failure.detail.as_deref().map(|detail| detail.chars().take(MAX_DETAIL).collect());
        }
    }

    /// Whether the caller may go, and by which rule, where one says so.
    pub fn decided(&mut self, decision: Decision, rule: Option<&Arc<str>>) {
        if let Some(line) = &mut self.line {
            line.allowed_by = rule.cloned();
        }
        if let Some(audit) = &mut self.audit {
            audit.decision = Some(decision);
        }
    }

    /// Who calls, and by what that is known.
    pub fn known_as(&mut self, name: &Arc<str>, namespace: Option<&Arc<str>>, how: &'static str) {
        if let Some(line) = &mut self.line {
            line.caller = Some(Arc::clone(name));
            line.namespace = namespace.cloned();
        }
        if let Some(audit) = &mut self.audit {
            audit.caller = Some(Arc::clone(name));
            audit.namespace = namespace.cloned();
            audit.how = Some(how);
        }
    }

    /// What the caller showed of who it is, which did not tell.
    pub fn shown(&mut self, how: &'static str) {
        if let Some(audit) = &mut self.audit {
            audit.how = Some(how);
        }
    }

    /// Where it goes, for the audit log.
    pub fn target(&mut self, target: impl Display) {
        if let Some(audit) = &mut self.audit {
            audit.target = Some(target.to_string());
        }
    }

    /// The request waited.
    pub fn waited(&mut self, waited: Duration) {
        self.waited += waited;
    }

    /// The request is sent, for the first time or again.
    pub fn attempt(&mut self) {
        self.attempts += 1;
    }

    fn outcome(&self) -> OutcomeLabel {
        match self.end {
            End::Failed(_) => OutcomeLabel::GatewayError,
            _ if !self.complete => OutcomeLabel::Abandoned,
            End::Pending => OutcomeLabel::Abandoned,
            End::Answered(outcome) => match outcome {
                Outcome::Succeeded => OutcomeLabel::Succeeded,
                Outcome::Started => OutcomeLabel::Started,
                Outcome::Parked => OutcomeLabel::Parked,
                Outcome::CancelAccepted => OutcomeLabel::CancelAccepted,
                Outcome::Delivered => OutcomeLabel::Delivered,
                Outcome::OperationFailed => OutcomeLabel::OperationFailed,
                Outcome::OperationCanceled => OutcomeLabel::OperationCanceled,
                Outcome::HandlerError(_) => OutcomeLabel::HandlerError,
            },
        }
    }
}

/// Counts failures that have more to them than all callers are told.
pub(super) struct Details([AtomicU64; Reason::ALL.len()]);

impl Details {
    pub(super) fn new() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }

    /// Logs each power of two of a reason for everybody: enough to be seen, too little for callers to fill a disk.
    fn note(&self, reason: Reason, detail: &str) {
        let so_far = self.0[reason as usize].fetch_add(1, Ordering::Relaxed) + 1;
        let reason = reason.name();
        if so_far.is_power_of_two() {
            tracing::warn!(reason, detail, so_far, "requests failed");
        } else {
            tracing::debug!(reason, detail, so_far, "requests failed");
        }
    }
}

impl OnEnd for Record {
    fn complete(&mut self, bytes: u64) {
        self.complete = true;
        if let Some(line) = &mut self.line {
            line.response_bytes = Some(bytes);
        }
    }

    fn broken(&mut self, why: Broken) {
        self.end = End::Failed(match why {
            Broken::Lost => Reason::UpstreamReset,
            Broken::TooLarge => Reason::UpstreamTooLarge,
            Broken::Late => Reason::UpstreamTimeout,
        });
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let telemetry = &*self.telemetry;
        telemetry.in_flight.dec();
        let outcome = self.outcome();
        let whole = self.started.elapsed();
        let unknown = || telemetry.endpoint(UNKNOWN).operation(UNKNOWN, UNKNOWN);
        let operation = self.operation.take().unwrap_or_else(unknown);
        operation.observe(telemetry, self.method, outcome, whole, self.upstream);
        match self.end {
            End::Failed(reason) => telemetry.count_failure(operation.endpoint(), reason),
            End::Answered(Outcome::HandlerError(answered)) => {
                telemetry.count_handler_error(operation.endpoint(), answered.kind);
            }
            _ => {}
        }
        if let Some(mut line) = self.line.take() {
            line.method = Some(self.method.name());
            line.outcome = Some(outcome.name());
            line.duration_ms = millis(whole);
            line.upstream_ms = self.upstream.map(millis);
            line.waited_ms = (!self.waited.is_zero()).then(|| millis(self.waited));
            line.attempts = self.attempts;
            if let End::Failed(reason) = self.end {
                line.reason = Some(reason.name());
            }
            if let Some(log) = &*telemetry.access_log.load() {
                log.write(&line);
            }
            if let Some(line) = self.audit.as_ref().and_then(|audit| audit.line(&line))
                && let Some(log) = &*telemetry.audit_log.load()
            {
                log.write(&line);
            }
        }
    }
}

fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}
