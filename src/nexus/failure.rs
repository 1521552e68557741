//! Handler errors: their types, status codes and retryability, and the JSON bodies that carry them.

use std::borrow::Cow;
use std::collections::HashMap;

use http::{HeaderMap, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::headers;

pub mod redact;

/// `metadata.type` of a failure that is Temporal's own, in the JSON form of its API.
const TEMPORAL_FAILURE: &str = "temporal.api.failure.v1.Failure";

/// Status of an operation that failed or was canceled; not an error of the call.
pub const OPERATION_UNSUCCESSFUL: StatusCode = StatusCode::FAILED_DEPENDENCY;

/// The handler error types of the Nexus specification.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorType {
    /// The request is wrong in itself.
    BadRequest,
    /// The caller is not known.
    Unauthenticated,
    /// The caller is known and may not do this.
    Unauthorized,
    /// The endpoint, service, operation or token does not exist.
    NotFound,
    /// The time given ran out before the handler was asked or done.
    RequestTimeout,
    /// The operation conflicts with another one.
    Conflict,
    /// A limit was reached.
    ResourceExhausted,
    /// Something is broken.
    Internal,
    /// The handler does not know how to do this.
    NotImplemented,
    /// The target cannot be reached or does not work now.
    Unavailable,
    /// The target did not answer in time.
    UpstreamTimeout,
}

impl ErrorType {
    /// All of them, in the order of their status codes.
    pub const ALL: [Self; 11] = [
        Self::BadRequest,
        Self::Unauthenticated,
        Self::Unauthorized,
        Self::NotFound,
        Self::RequestTimeout,
        Self::Conflict,
        Self::ResourceExhausted,
        Self::Internal,
        Self::NotImplemented,
        Self::Unavailable,
        Self::UpstreamTimeout,
    ];

    /// The name on the wire, `details.type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::BadRequest => "BAD_REQUEST",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::NotFound => "NOT_FOUND",
            Self::RequestTimeout => "REQUEST_TIMEOUT",
            Self::Conflict => "CONFLICT",
            Self::ResourceExhausted => "RESOURCE_EXHAUSTED",
            Self::Internal => "INTERNAL",
            Self::NotImplemented => "NOT_IMPLEMENTED",
            Self::Unavailable => "UNAVAILABLE",
            Self::UpstreamTimeout => "UPSTREAM_TIMEOUT",
        }
    }

    /// The status code that goes with it.
    pub fn status(self) -> StatusCode {
        match self {
            Self::BadRequest => StatusCode::BAD_REQUEST,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::Unauthorized => StatusCode::FORBIDDEN,
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::Conflict => StatusCode::CONFLICT,
            Self::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal => StatusCode::INTERNAL_SERVER_ERROR,
            Self::NotImplemented => StatusCode::NOT_IMPLEMENTED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::UpstreamTimeout => upstream_timeout_status(),
        }
    }

    /// Whether a caller tries again by default.
    pub fn retryable(self) -> bool {
        match self {
            Self::BadRequest
            | Self::Unauthenticated
            | Self::Unauthorized
            | Self::NotFound
            | Self::Conflict
            | Self::NotImplemented => false,
            Self::RequestTimeout
            | Self::ResourceExhausted
            | Self::Internal
            | Self::Unavailable
            | Self::UpstreamTimeout => true,
        }
    }

    /// The type that a status code stands for, where the specification has one.
    pub fn from_status(status: StatusCode) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.status() == status)
    }

    /// The type of this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

fn upstream_timeout_status() -> StatusCode {
    // 520 has no name in the registry, but every number from 100 to 999 is a status code to the http crate.
    StatusCode::from_u16(520).unwrap_or(StatusCode::SERVICE_UNAVAILABLE)
}

/// Writes the body of a handler error: message, type and retryability; no cause and no stack trace.
pub fn body(kind: ErrorType, retryable: bool, message: &str) -> Vec<u8> {
    body_with(kind, retryable, message, None)
}

/// The same with what caused it, where that is a failure.
pub fn body_with(kind: ErrorType, retryable: bool, message: &str, cause: Option<&RawValue>) -> Vec<u8> {
    #[derive(Serialize)]
    struct Body<'a> {
        message: &'a str,
        metadata: Metadata,
        details: Details,
        #[serde(skip_serializing_if = "Option::is_none")]
        cause: Option<&'a RawValue>,
    }
    #[derive(Serialize)]
    struct Metadata {
        r#type: &'static str,
    }
    #[derive(Serialize)]
    #[serde(rename_all = "camelCase")]
    struct Details {
        r#type: &'static str,
        retryable_override: bool,
    }
    let body = Body {
        message,
        metadata: Metadata { r#type: "nexus.HandlerError" },
        details: Details { r#type: kind.name(), retryable_override: retryable },
        cause,
    };
    serde_json::to_vec(&body).unwrap_or_default()
}

/// What an error answer says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HandlerError {
    /// The type, from the body or else from the status; none where neither is known to Nexus.
    pub kind: Option<ErrorType>,
    /// Whether the caller should try again.
    pub retryable: bool,
    /// Whether the body is a Nexus failure, rather than what a load balancer or another API wrote.
    pub from_nexus: bool,
}

/// Reads an error answer. Order of precedence: the body's `retryableOverride`, the body's type, the
/// `Nexus-Request-Retryable` header, the status.
pub fn read(status: StatusCode, answer_headers: &HeaderMap, body: &[u8]) -> HandlerError {
    let failure = is_json(answer_headers).then(|| Wire::read(body)).flatten();
    let by_header = match answer_headers.get(&headers::REQUEST_RETRYABLE).map(http::HeaderValue::as_bytes) {
        Some(b"true") => Some(true),
        Some(b"false") => Some(false),
        _ => None,
    };
    let by_status = ErrorType::from_status(status);
    let said = failure.as_ref().and_then(Wire::said);
    let kind = said.as_ref().map_or(by_status, |said| said.kind);
    let retryable = match &said {
        // A type that is not known is retryable, as a Temporal caller has it.
        Some(said) => said.retryable.unwrap_or_else(|| said.kind.is_none_or(ErrorType::retryable)),
        None => by_header.unwrap_or_else(|| by_status.is_none_or(ErrorType::retryable)),
    };
    HandlerError { kind, retryable, from_nexus: failure.is_some() }
}

/// Whether the answer's media type is `application/json`, with any parameters.
pub fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    value.split(';').next().is_some_and(|media| media.trim().eq_ignore_ascii_case("application/json"))
}

/// Whether a 201 says what its caller needs: an operation token, and that the operation is running.
pub fn is_started(answer_headers: &HeaderMap, body: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Info<'a> {
        #[serde(borrow, default)]
        token: Cow<'a, str>,
        // The token's name before Nexus 0.1.
        #[serde(borrow, default)]
        id: Cow<'a, str>,
        #[serde(borrow, default)]
        state: Cow<'a, str>,
    }
    is_json(answer_headers)
        && object::<Info<'_>>(body)
            .is_some_and(|info| info.state == "running" && !(info.token.is_empty() && info.id.is_empty()))
}

/// Reads a JSON object; a list of the same values would be read as well.
fn object<'a, T: Deserialize<'a>>(body: &'a [u8]) -> Option<T> {
    body.trim_ascii_start().starts_with(b"{").then(|| serde_json::from_slice(body).ok())?
}

/// The operation state that the body of a 424 gives, where it is an operation error.
pub fn operation_state(answer_headers: &HeaderMap, body: &[u8]) -> Option<String> {
    let failure = is_json(answer_headers).then(|| Wire::read(body)).flatten()?;
    let kind = failure.metadata?.get("type")?.clone();
    let state = failure.details?.get("state")?.as_str()?.to_owned();
    (kind == "nexus.OperationError").then_some(state)
}

/// A failure body, as far as it matters here. Unknown members are skipped without recursion, so the depth of
/// a `cause` is no matter.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow, default)]
    message: Cow<'a, str>,
    #[serde(borrow, default)]
    metadata: Option<HashMap<Cow<'a, str>, Cow<'a, str>>>,
    #[serde(default)]
    details: Option<serde_json::Value>,
    /// gRPC-gateway errors have one, Nexus failures do not.
    #[serde(default)]
    code: Option<serde::de::IgnoredAny>,
}

/// What a failure body says of the handler error.
struct Said {
    kind: Option<ErrorType>,
    retryable: Option<bool>,
}

impl<'a> Wire<'a> {
    fn read(body: &'a [u8]) -> Option<Self> {
        let wire: Self = object(body)?;
        (wire.code.is_none() && !wire.message.is_empty() || wire.metadata.is_some()).then_some(wire)
    }

    /// The handler error in the body; none where the body is a failure of another sort.
    fn said(&self) -> Option<Said> {
        let details = self.details.as_ref()?;
        let kind = self.metadata.as_ref()?.get("type")?;
        let (name, retryable) = match &**kind {
            "nexus.HandlerError" => {
                (details.get("type"), details.get("retryableOverride").and_then(serde_json::Value::as_bool))
            }
            TEMPORAL_FAILURE => {
                let info = details.get("nexusHandlerFailureInfo")?;
                (info.get("type"), retry_behavior(info))
            }
            _ => return None,
        };
        let name = name.and_then(serde_json::Value::as_str);
        Some(Said { kind: name.and_then(ErrorType::from_name), retryable })
    }
}

/// `retryBehavior` of a Temporal failure, an enum of its API in its JSON form.
fn retry_behavior(info: &serde_json::Value) -> Option<bool> {
    match info.get("retryBehavior")?.as_str()? {
        "NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE" => Some(true),
        "NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_NON_RETRYABLE" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use proptest::prelude::*;

    fn json() -> HeaderMap {
        HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"))])
    }

    fn read_json(status: u16, body: &str) -> HandlerError {
        read(StatusCode::from_u16(status).unwrap(), &json(), body.as_bytes())
    }

    #[test]
    fn types_statuses_and_retryability_are_those_of_the_specification() {
        let table = [
            ("BAD_REQUEST", 400, false),
            ("UNAUTHENTICATED", 401, false),
            ("UNAUTHORIZED", 403, false),
            ("NOT_FOUND", 404, false),
            ("REQUEST_TIMEOUT", 408, true),
            ("CONFLICT", 409, false),
            ("RESOURCE_EXHAUSTED", 429, true),
            ("INTERNAL", 500, true),
            ("NOT_IMPLEMENTED", 501, false),
            ("UNAVAILABLE", 503, true),
            ("UPSTREAM_TIMEOUT", 520, true),
        ];
        for (kind, (name, status, retryable)) in ErrorType::ALL.into_iter().zip(table) {
            assert_eq!((kind.name(), kind.status().as_u16(), kind.retryable()), (name, status, retryable));
            assert_eq!(ErrorType::from_name(name), Some(kind));
            assert_eq!(ErrorType::from_status(kind.status()), Some(kind));
        }
    }

    #[test]
    fn the_body_beats_the_header_and_the_header_the_status() {
        let full = r#"{"message":"m","metadata":{"type":"nexus.HandlerError"},"details":{"type":"NOT_FOUND","retryableOverride":true}}"#;
        assert_eq!(
            read_json(503, full),
            HandlerError { kind: Some(ErrorType::NotFound), retryable: true, from_nexus: true }
        );
        let typed = r#"{"message":"m","metadata":{"type":"nexus.HandlerError"},"details":{"type":"BAD_REQUEST"}}"#;
        let mut headers = json();
        headers.insert(&headers::REQUEST_RETRYABLE, HeaderValue::from_static("true"));
        assert!(!read(StatusCode::INTERNAL_SERVER_ERROR, &headers, typed.as_bytes()).retryable);
        assert!(read(StatusCode::BAD_REQUEST, &headers, br#"{"message":"m"}"#).retryable);
        assert!(!read_json(400, r#"{"message":"m"}"#).retryable);
    }

    #[test]
    fn an_unknown_type_is_retryable() {
        let body = r#"{"message":"m","metadata":{"type":"nexus.HandlerError"},"details":{"type":"TEAPOT"}}"#;
        assert_eq!(read_json(400, body), HandlerError { kind: None, retryable: true, from_nexus: true });
        assert!(read_json(418, "{}").retryable);
    }

    #[test]
    fn temporal_failures_name_the_type_deeper_down() {
        let body = r#"{"message":"m","metadata":{"type":"temporal.api.failure.v1.Failure"},"details":{"nexusHandlerFailureInfo":
            {"type":"CONFLICT","retryBehavior":"NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE"}}}"#;
        assert_eq!(
            read_json(409, body),
            HandlerError { kind: Some(ErrorType::Conflict), retryable: true, from_nexus: true }
        );
    }

    #[test]
    fn what_load_balancers_and_other_apis_write_is_no_nexus_body() {
        assert!(!read_json(404, r#"{"code":5,"message":"Not Found","details":[]}"#).from_nexus);
        assert!(!read_json(404, "Not Found").from_nexus);
        assert!(!read_json(404, "[]").from_nexus);
        assert!(!read_json(404, "{}").from_nexus);
        let plain = read(StatusCode::NOT_FOUND, &HeaderMap::new(), br#"{"message":"m"}"#);
        assert_eq!(plain, HandlerError { kind: Some(ErrorType::NotFound), retryable: false, from_nexus: false });
    }

    #[test]
    fn a_cause_of_any_depth_is_read_past() {
        let depth = 10_000;
        let body = format!(r#"{{"message":"m","cause":{}{}}}"#, r#"{"cause":"#.repeat(depth) + "1", "}".repeat(depth));
        assert!(read_json(404, &body).from_nexus);
    }

    #[test]
    fn what_is_written_is_read_again() {
        for kind in ErrorType::ALL {
            for retryable in [true, false] {
                let written = body(kind, retryable, "quote \" and \u{1} control");
                let expected = HandlerError { kind: Some(kind), retryable, from_nexus: true };
                assert_eq!(read(kind.status(), &json(), &written), expected);
            }
        }
    }

    #[test]
    fn a_started_operation_has_a_token_and_runs() {
        for good in [
            r#"{"token":"t","state":"running"}"#,
            r#"{"id":"t","state":"running"}"#,
            r#"{"token":"a\"b","state":"running","more":1}"#,
        ] {
            assert!(is_started(&json(), good.as_bytes()), "{good}");
        }
        for bad in ["", "{}", r#"["t","t","running"]"#, r#"{"token":"","state":"running"}"#, r#"{"token":"t"}"#] {
            assert!(!is_started(&json(), bad.as_bytes()), "{bad}");
        }
        assert!(!is_started(&HeaderMap::new(), br#"{"token":"t","state":"running"}"#));
    }

    proptest! {
        #[test]
        fn never_panics(status in 100u16..1000, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(StatusCode::from_u16(status).unwrap(), &json(), &bytes);
            let _ = is_started(&json(), &bytes);
        }
    }
}
