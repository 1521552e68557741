//! The access log: one JSON line per request, never with a payload or a credential. Lines that the disk cannot take are
//! dropped and counted: see `lines`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::HeaderMap;
use serde::Serialize;

use crate::nexus::headers;

/// One line.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
pub struct Line {
    pub(super) time: String,
    pub(super) peer: SocketAddr,
    /// Who the caller is known to be.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) caller: Option<Arc<str>>,
    /// The namespace that it is known to call from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) namespace: Option<Arc<str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    /// The endpoint as the caller names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// The service, decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The operation, decoded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub operation: Option<String>,
    pub(super) method: Option<&'static str>,
    pub(super) outcome: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<&'static str>,
    /// Why the gateway failed it, as callers on trusted listeners are told.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) detail: Option<String>,
    /// The setting that refused the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<Arc<str>>,
    /// The rule by which its caller may call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) allowed_by: Option<Arc<str>>,
    pub(super) status: Option<u16>,
    pub(super) duration_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upstream_ms: Option<f64>,
    /// Time spent waiting for a turn, a place, a recovery or another attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) waited_ms: Option<f64>,
    /// Time that the operation was parked so far.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) parked_ms: Option<f64>,
    pub(super) attempts: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upstream: Option<SocketAddr>,
    /// Size of the request's body.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) response_bytes: Option<u64>,
}

impl Line {
    pub(super) fn new(peer: SocketAddr, head: &HeaderMap) -> Self {
        let text = |name: &str| head.get(name).and_then(|value| value.to_str().ok());
        Self {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            peer,
            caller: None,
            namespace: None,
            request_id: text(headers::REQUEST_ID.as_str()).map(shorten),
            trace_id: text("traceparent").and_then(|parent| parent.split('-').nth(1)).map(shorten),
            endpoint: None,
            service: None,
            operation: None,
            method: None,
            outcome: None,
            reason: None,
            detail: None,
            rule: None,
            allowed_by: None,
            status: None,
            duration_ms: 0.0,
            upstream_ms: None,
            waited_ms: None,
            parked_ms: None,
            attempts: 0,
            upstream: None,
            request_bytes: None,
            response_bytes: None,
        }
    }

    /// The id that the gateway gave a request without one.
    pub fn request_id(&mut self, id: &str) {
        self.request_id = Some(shorten(id));
    }
}

/// What a caller chose, within what a line can bear.
fn shorten(text: &str) -> String {
    text.chars().take(200).collect()
}
