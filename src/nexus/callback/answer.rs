//! The completion that a start's answer amounts to, for an operation whose caller was told already that it runs.
//!
//! The caller's cluster has to read from it what it would have read from the answer: the same payload, or the same
//! failure.

use std::time::SystemTime;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderName, HeaderValue, USER_AGENT};
use http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::State;
use crate::nexus::failure::{self, ErrorType};
use crate::nexus::headers;

/// Who says that it sends a completion. Temporal looks for the versions of its own SDKs there, and takes any other.
const AGENT: &str = concat!("nexus-gateway/", env!("CARGO_PKG_VERSION"));

/// What a completion says besides its payload.
#[derive(Clone, Copy, Debug)]
pub struct Ended<'a> {
    /// How the operation ended.
    pub state: State,
    /// The token that the caller knows.
    pub token: &'a str,
    /// When the operation started.
    pub started: SystemTime,
    /// When it ended.
    pub closed: SystemTime,
}

/// The head of the completion of a start with these headers, answered with `answer`: what the start wants back, the
/// `Content-*` and `Nexus-Link` of the answer, and how the operation ended.
pub fn completion_head(start: &HeaderMap, answer: &HeaderMap, ended: Ended<'_>) -> HeaderMap {
    let mut head = HeaderMap::new();
    for (name, value) in start {
        let wanted = name.as_str().strip_prefix(headers::CALLBACK_PREFIX);
        let wanted = wanted.filter(|wanted| !matches!(*wanted, "source" | "content-length"));
        if let Some(name) = wanted.and_then(|name| HeaderName::try_from(name).ok()) {
            head.append(name, value.clone());
        }
    }
    let described = |name: &HeaderName| name.as_str().starts_with("content-") && *name != CONTENT_LENGTH;
    for name in answer.keys().filter(|name| described(name) || **name == headers::LINK) {
        head.remove(name);
        for value in answer.get_all(name) {
            head.append(name, value.clone());
        }
    }
    let dates = [
        (&headers::OPERATION_START_TIME, httpdate::fmt_http_date(ended.started)),
        (&headers::OPERATION_CLOSE_TIME, humantime::format_rfc3339_millis(ended.closed).to_string()),
        (&headers::OPERATION_TOKEN, ended.token.to_owned()),
    ];
    for (name, text) in dates {
        if let Ok(value) = HeaderValue::try_from(text) {
            head.insert(name, value);
        }
    }
    head.insert(&headers::OPERATION_STATE, HeaderValue::from_static(ended.state.name()));
    head.insert(USER_AGENT, HeaderValue::from_static(AGENT));
    head
}

/// Makes `head` that of a completion whose payload is a failure.
pub fn describe_failure(head: &mut HeaderMap) {
    let described: Vec<_> = head.keys().filter(|name| name.as_str().starts_with("content-")).cloned().collect();
    for name in described {
        head.remove(name);
    }
    head.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
}

/// The failure of a completion, from the body of a 424.
///
/// An operation error with a cause is an empty wrapper, which Temporal leaves out of completions: servers before 1.31 do
/// not know it (temporalio/temporal, `common/nexus/nexusrpc/completion.go`).
pub fn operation_failure(answer: &HeaderMap, body: &Bytes) -> Bytes {
    if !failure::is_json(answer) {
        return failure_of(&String::from_utf8_lossy(body));
    }
    match serde_json::from_slice::<Wrapper<'_>>(body) {
        Ok(Wrapper { metadata: Some(Kind { r#type: "nexus.OperationError" }), cause: Some(cause) }) => {
            body.slice_ref(cause.get().as_bytes())
        }
        Ok(_) => body.clone(),
        Err(_) => failure_of(&String::from_utf8_lossy(body)),
    }
}

/// The failure of a completion, from a handler error that is not worth trying again.
///
/// Servers before 1.31 say what kind it is by the status alone; then it becomes the cause of a failure that says it.
pub fn handler_failure(status: StatusCode, answer: &HeaderMap, body: &Bytes) -> Bytes {
    let read = failure::is_json(answer).then(|| serde_json::from_slice::<Wrapper<'_>>(body).ok()).flatten();
    if let Some(Wrapper { metadata: Some(Kind { r#type: "nexus.HandlerError" | TEMPORAL }), .. }) = read {
        return body.clone();
    }
    let said = failure::read(status, answer, body);
    let cause = read.is_some().then(|| serde_json::from_slice::<&RawValue>(body).ok()).flatten();
    let text = String::from_utf8_lossy(body);
    let message = if cause.is_some() { "handler error" } else { &text };
    failure::body_with(said.kind.unwrap_or(ErrorType::Internal), false, message, cause).into()
}

/// The failure of an operation of which no more is to be told.
pub fn failed_failure() -> Bytes {
    Bytes::from_static(
        br#"{"message":"operation failed","metadata":{"type":"nexus.OperationError"},"details":{"state":"failed"}}"#,
    )
}

/// The failure of an operation that was canceled before anyone ran it, or of which no more is to be told.
pub fn canceled_failure() -> Bytes {
    Bytes::from_static(
        br#"{"message":"operation canceled","metadata":{"type":"nexus.OperationError"},"details":{"state":"canceled"}}"#,
    )
}

/// How a failure says that it is a Temporal one.
const TEMPORAL: &str = "temporal.api.failure.v1.Failure";

/// A failure, as far as it matters here.
#[derive(Deserialize)]
struct Wrapper<'a> {
    #[serde(borrow)]
    metadata: Option<Kind<'a>>,
    #[serde(borrow)]
    cause: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow, default)]
    r#type: &'a str,
}

fn failure_of(message: &str) -> Bytes {
    serde_json::to_vec(&serde_json::json!({ "message": message })).unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in entries {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    fn ended(state: State) -> Ended<'static> {
        let started = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_700_000_000);
        Ended { state, token: "tok", started, closed: started + std::time::Duration::from_millis(1_500) }
    }

    #[test]
    fn a_completion_has_what_the_start_wants_and_what_the_answer_says() {
        let start = map(&[
            ("nexus-callback-temporal-callback-token", "t"),
            ("nexus-callback-source", "cluster"),
            ("nexus-callback-traceparent", "tp"),
            ("nexus-callback-content-type", "made up"),
            ("nexus-callback-content-length", "1"),
            ("content-type", "application/x"),
            ("authorization", "secret"),
        ]);
        let answer = map(&[
            ("content-type", "application/json"),
            ("content-custom", "a"),
            ("content-length", "5"),
            ("nexus-link", "<http://a>; type=\"x.Y\""),
            ("nexus-link", "<http://b>; type=\"x.Y\""),
            ("date", "today"),
        ]);
        let agent = AGENT;
        let expected = map(&[
            ("temporal-callback-token", "t"),
            ("traceparent", "tp"),
            ("content-type", "application/json"),
            ("content-custom", "a"),
            ("nexus-link", "<http://a>; type=\"x.Y\""),
            ("nexus-link", "<http://b>; type=\"x.Y\""),
            ("nexus-operation-start-time", "Tue, 14 Nov 2023 22:13:20 GMT"),
            ("nexus-operation-close-time", "2023-11-14T22:13:21.500Z"),
            ("nexus-operation-token", "tok"),
            ("nexus-operation-state", "succeeded"),
            ("user-agent", agent),
        ]);
        assert_eq!(completion_head(&start, &answer, ended(State::Succeeded)), expected);
    }

    #[test]
    fn a_failure_is_described_as_json_and_as_nothing_else() {
        let answer = map(&[("content-type", "text/plain"), ("content-language", "en")]);
        let mut head = completion_head(&HeaderMap::new(), &answer, ended(State::Failed));
        describe_failure(&mut head);
        assert_eq!(head["content-type"], "application/json");
        assert!(!head.contains_key("content-language"));
    }

    #[test]
    fn an_operation_error_leaves_its_empty_wrapper() {
        let json = map(&[("content-type", "application/json")]);
        let cause = r#"{"message":"boom","metadata":{"type":"temporal.api.failure.v1.Failure"},"details":{"a":1}}"#;
        for (body, expected) in [
            (format!(r#"{{"message":"w","metadata":{{"type":"nexus.OperationError"}},"cause": {cause} }}"#), cause),
            (cause.to_owned(), cause),
            (r#"{"message":"bare"}"#.to_owned(), r#"{"message":"bare"}"#),
        ] {
            assert_eq!(operation_failure(&json, &Bytes::from(body)), expected);
        }
        let text = operation_failure(&HeaderMap::new(), &Bytes::from_static(b"plain \"text\""));
        assert_eq!(text, r#"{"message":"plain \"text\""}"#);
    }

    #[test]
    fn a_handler_error_says_its_kind_in_its_body() {
        let json = map(&[("content-type", "application/json")]);
        let full = r#"{"message":"no","metadata":{"type":"nexus.HandlerError"},"details":{"type":"NOT_FOUND"}}"#;
        assert_eq!(handler_failure(StatusCode::NOT_FOUND, &json, &Bytes::from(full)), full);
        let old = handler_failure(StatusCode::BAD_REQUEST, &json, &Bytes::from_static(br#"{"message":"bad input"}"#));
        assert_eq!(
            old,
            r#"{"message":"handler error","metadata":{"type":"nexus.HandlerError"},"details":{"type":"BAD_REQUEST","retryableOverride":false},"cause":{"message":"bad input"}}"#
        );
        let text = handler_failure(StatusCode::FORBIDDEN, &HeaderMap::new(), &Bytes::from_static(b"nope"));
        assert_eq!(
            text,
            r#"{"message":"nope","metadata":{"type":"nexus.HandlerError"},"details":{"type":"UNAUTHORIZED","retryableOverride":false}}"#
        );
    }
}
