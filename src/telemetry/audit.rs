//! The audit log: one JSON line per decision who may do what, never with a payload or a credential.
//!
//! Decisions are those on requests of the data port, and by the admin port on what changes something and on what is refused. Lines that the disk
//! cannot take are dropped and counted: see `lines`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use serde::Serialize;

use super::Decision;
use super::access_log::Line;

/// What is known of a request for the audit log, besides what the access log's line has.
#[derive(Default)]
pub(super) struct Audit {
    pub(super) caller: Option<Arc<str>>,
    pub(super) namespace: Option<Arc<str>>,
    pub(super) how: Option<&'static str>,
    pub(super) decision: Option<Decision>,
    pub(super) target: Option<String>,
}

impl Audit {
    /// The line for a request that was decided on.
    pub(super) fn line<'a>(&'a self, line: &'a Line) -> Option<impl Serialize + 'a> {
        Some(AuditLine {
            log: "audit",
            time: &line.time,
            caller: self.caller.as_deref().unwrap_or("anonymous"),
            namespace: self.namespace.as_deref(),
            how: self.how,
            peer: line.peer,
            endpoint: line.endpoint.as_deref(),
            service: line.service.as_deref(),
            operation: line.operation.as_deref(),
            method: line.method,
            request_id: line.request_id.as_deref(),
            decision: word(self.decision?),
            rule: line.allowed_by.as_deref(),
            target: self.target.as_deref(),
            outcome: line.outcome,
            reason: line.reason,
            status: line.status,
        })
    }
}

/// What becomes of a request by a decision. That nobody may know of an endpoint is no other than that nobody may call it.
fn word(decision: Decision) -> &'static str {
    match decision {
        Decision::Allowed => "allowed",
        Decision::Forbidden | Decision::Hidden => "denied",
        Decision::Unauthenticated => "unauthenticated",
    }
}

#[derive(Serialize)]
struct AuditLine<'a> {
    /// Tells it from a line of the access log, where both go to one place.
    log: &'static str,
    time: &'a str,
    caller: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    how: Option<&'static str>,
    peer: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    operation: Option<&'a str>,
    method: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    decision: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<&'a str>,
    outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    status: Option<u16>,
}

/// Something that was asked of the admin port and changes something, or was refused.
#[derive(Clone, Copy, Debug)]
pub struct AdminAct<'a> {
    /// Where it was asked from.
    pub peer: SocketAddr,
    /// By what it was let in: `loopback`, `token` or `certificate`; none where it was not.
    pub how: Option<&'static str>,
    /// The subject of the certificate.
    pub caller: Option<&'a str>,
    /// The method.
    pub method: &'a str,
    /// The path, and what it is about.
    pub asked: &'a str,
    /// What was answered.
    pub status: u16,
}

impl AdminAct<'_> {
    pub(super) fn line(&self) -> impl Serialize {
        serde_json::json!({
            "log": "audit",
            "time": humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            "caller": self.caller,
            "how": self.how,
            "peer": self.peer,
            "method": self.method,
            "admin": self.asked,
            "decision": match (self.how, self.status) {
                (Some(_), _) => "allowed",
                (None, 401) => "unauthenticated",
                (None, _) => "denied",
            },
            "status": self.status,
        })
    }
}
