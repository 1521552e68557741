//! Bodies as Temporal 1.29, 1.30 and 1.32 with a Python worker write them, shortened.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::nexus::failure;

/// A cause that has one, in the form of Temporal's API.
const INNER: &str = r#"{"message":"/srv/secret/middle","stackTrace":"  File \"/srv/secret/m.py\"\n","cause":{"message":"/srv/secret/inner","stackTrace":"  File \"/srv/secret/i.py\"\n","applicationFailureInfo":{"type":"OSError"}},"applicationFailureInfo":{"type":"ValueError"}}"#;

fn cut(body: &str) -> String {
    match redact(body.as_bytes()) {
        Redacted::Unchanged => body.to_owned(),
        Redacted::Cut(left) => String::from_utf8(left).unwrap(),
        Redacted::Unreadable => panic!("{body} is not readable"),
    }
}

/// The same cause in the form of Nexus: the server writes it twice.
fn inner(shown: &str) -> String {
    format!(
        r#"{{"message":"{shown}","stackTrace":"  File \"/srv/secret/x.py\"\n","metadata":{{"type":"temporal.api.failure.v1.Failure"}},"details":{{"cause":{INNER},"applicationFailureInfo":{{"type":"Declined","nonRetryable":true,"details":{{"payloads":[]}}}}}},"cause":{{"message":"/srv/secret/middle","stackTrace":"  File \"/srv/secret/y.py\"\n","metadata":{{"type":"temporal.api.failure.v1.Failure"}},"details":{{"cause":{INNER},"applicationFailureInfo":{{"type":"ValueError"}}}}}}}}"#
    )
}

#[test]
fn a_handler_error_keeps_its_message_and_the_types() {
    let body = format!(
        r#"{{"message":"no such order","stackTrace":"  File \"/srv/secret/h.py\"\n","metadata":{{"type":"nexus.HandlerError"}},"details":{{"type":"NOT_FOUND","retryableOverride":false}},"cause":{}}}"#,
        inner("/srv/secret/cause")
    );
    let left = r#"{"message":"no such order","metadata":{"type":"nexus.HandlerError"},"details":{"type":"NOT_FOUND","retryableOverride":false},"cause":{"message":"","metadata":{"type":"temporal.api.failure.v1.Failure"},"details":{"applicationFailureInfo":{"type":"Declined","nonRetryable":true}}}}"#;
    assert_eq!(cut(&body), left);
}

#[test]
fn an_operation_error_that_only_wraps_a_failure_keeps_that_whole() {
    let body = format!(
        r#"{{"message":"operation error","metadata":{{"type":"nexus.OperationError","unwrap-error":"true"}},"details":{{"state":"failed"}},"cause":{}}}"#,
        inner("card declined")
    );
    let left = r#"{"message":"operation error","metadata":{"type":"nexus.OperationError","unwrap-error":"true"},"details":{"state":"failed"},"cause":{"message":"card declined","metadata":{"type":"temporal.api.failure.v1.Failure"},"details":{"applicationFailureInfo":{"type":"Declined","nonRetryable":true,"details":{"payloads":[]}}}}}"#;
    assert_eq!(cut(&body), left);
    // One with words of its own needs no others.
    let own = body.replace(r#","unwrap-error":"true""#, "");
    assert!(!cut(&own).contains("card declined") && cut(&own).contains("Declined"));
}

#[test]
fn older_servers_write_all_of_it_into_the_details() {
    let body = format!(
        r#"{{"message":"no such order","metadata":{{"type":"temporal.api.failure.v1.Failure"}},"details":{{"stackTrace":"  File \"/srv/secret/h.py\"\n","source":"PythonSDK","cause":{INNER},"nexusHandlerFailureInfo":{{"type":"NOT_FOUND","retryBehavior":"NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE"}}}}}}"#
    );
    let left = r#"{"message":"no such order","metadata":{"type":"temporal.api.failure.v1.Failure"},"details":{"source":"PythonSDK","cause":{"applicationFailureInfo":{"type":"ValueError"}},"nexusHandlerFailureInfo":{"type":"NOT_FOUND","retryBehavior":"NEXUS_HANDLER_ERROR_RETRY_BEHAVIOR_RETRYABLE"}}}"#;
    assert_eq!(cut(&body), left);
}

#[test]
fn a_workflow_that_failed_by_an_activity_fails_as_the_activity_did() {
    let activity = r#""activityFailureInfo":{"scheduledEventId":"5","activityType":{"name":"charge"}}"#;
    let body = format!(
        r#"{{"message":"Activity task failed","metadata":{{"type":"temporal.api.failure.v1.Failure"}},"details":{{"cause":{{"message":"card declined","stackTrace":"  File \"/srv/secret/a.py\"\n","cause":{INNER},"applicationFailureInfo":{{"type":"CardDeclined","nonRetryable":true}}}},{activity}}}}}"#
    );
    let left = format!(
        r#"{{"message":"Activity task failed","metadata":{{"type":"temporal.api.failure.v1.Failure"}},"details":{{"cause":{{"message":"card declined","applicationFailureInfo":{{"type":"CardDeclined","nonRetryable":true}}}},{activity}}}}}"#
    );
    assert_eq!(cut(&body), left);
}

#[test]
fn what_has_nothing_to_hide_stays_as_it_is() {
    for body in [
        r#"{"message":"m"}"#,
        r#" { "message" : "m\u00e9", "details" : { "any" : [1e400, 0.10] } } "#,
        r#"{"message":"m","metadata":{"type":"nexus.HandlerError"},"details":{"type":"TEAPOT"},"cause":null}"#,
        r#"{"code":5,"message":"Not Found","details":[]}"#,
        r#"{"message":"m","metadata":{"type":"temporal.api.failure.v1.Failure"},"details":{"canceledFailureInfo":{}}}"#,
        "{}",
    ] {
        assert_eq!(redact(body.as_bytes()), Redacted::Unchanged, "{body}");
    }
}

#[test]
fn names_are_found_as_their_readers_find_them() {
    for name in ["stackTrace", "STACKTRACE", "\\u0073tackTrace", "\u{17f}tac\u{212a}Trace", "Cause", "trace", "stack"] {
        let left = cut(&format!(r#"{{"message":"m","{name}":"/srv/secret"}}"#));
        assert_eq!(left, r#"{"message":"m"}"#, "{name}");
    }
    let temporal = r#"{"message":"m","metadata":{"type":"temporal.api.failure.v1.Failure"},"details":{"stack_trace":"s","encoded_attributes":{"data":"c2VjcmV0"},"application_failure_info":{"type":"T"}}}"#;
    let left = r#"{"message":"m","metadata":{"type":"temporal.api.failure.v1.Failure"},"details":{"application_failure_info":{"type":"T"}}}"#;
    assert_eq!(cut(temporal), left);
    let other = r#"{"message":"m","metadata":{"type":"other"},"details":{"stack_trace":"s","cause":{},"kept":1}}"#;
    assert_eq!(cut(other), r#"{"message":"m","metadata":{"type":"other"},"details":{"kept":1}}"#);
}

#[test]
fn what_no_two_readers_read_alike_is_not_readable() {
    for body in [
        "",
        "x",
        "[]",
        r#""Traceback""#,
        "\u{feff}{}",
        r#"{"message":"m""#,
        r#"{"message":"m","stack":"only this"} x"#,
        r#"{"message":{"stack":"s"}}"#,
        r#"{"error":"x","stack":"s"}"#,
        r#"{"message":"m","message":"n"}"#,
        r#"{"message":"m","details":{},"Details":{"stackTrace":"s"}}"#,
        r#"{"message":"m","metadata":{"type":"nexus.HandlerError","type":"x"}}"#,
        r#"{"message":"m","metadata":{"type":1},"details":{}}"#,
        r#"{"message":"m","metadata":[]}"#,
        r#"{"message":"m","metadata":{"type":"temporal.api.failure.v1.Failure"},"details":"stack"}"#,
        r#"{"message":"m","metadata":{"type":"nexus.HandlerError"},"details":["stack"]}"#,
    ] {
        assert_eq!(redact(body.as_bytes()), Redacted::Unreadable, "{body}");
    }
    assert_eq!(redact(b"{\"message\":\"\xff\"}"), Redacted::Unreadable);
}

#[test]
fn encoded_attributes_lose_the_trace_or_all() {
    let attributes = |data: &str| {
        let data = encode(&STANDARD, true, data.as_bytes());
        format!(r#"{{"metadata":{{"encoding":"anNvbi9wbGFpbg=="}},"data":"{data}"}}"#)
    };
    let packed = |payload: &str| encode(&URL_SAFE, false, payload.as_bytes());
    let temporal = |payload: &str| {
        format!(
            r#"{{"message":"Encoded failure","metadata":{{"type":"temporal.api.failure.v1.Failure"}},"details":{{"encodedAttributes":{payload},"applicationFailureInfo":{{"type":"T"}}}}}}"#
        )
    };
    let handler = |payload: &str| {
        let packed = packed(payload);
        format!(
            r#"{{"message":"Encoded failure","metadata":{{"type":"nexus.HandlerError"}},"details":{{"type":"INTERNAL","encodedAttributes":"{packed}"}}}}"#
        )
    };
    let told = attributes(r#"{"message":"m","stack_trace":"/srv/secret"}"#);
    let kept = attributes(r#"{"message":"m"}"#);
    assert_eq!(cut(&temporal(&told)), temporal(&kept));
    assert_eq!(cut(&handler(&told)), handler(&kept));
    assert_eq!(redact(temporal(&kept).as_bytes()), Redacted::Unchanged);
    assert_eq!(redact(handler(&kept).as_bytes()), Redacted::Unchanged);
    let sealed = r#"{"metadata":{"encoding":"YmluYXJ5L2VuY3J5cHRlZA=="},"data":"c2VjcmV0"}"#;
    for body in [temporal(sealed), handler(sealed), temporal("7"), temporal(&attributes("no object"))] {
        assert!(!cut(&body).contains("ncodedAttributes"), "{body}");
        assert!(cut(&body).contains("Encoded failure"));
    }
}

#[test]
fn a_chain_of_any_depth_is_cut_in_time() {
    let depth = 20_000;
    for link in [r#"{"message":"","cause":"#, r#"{"message":"/srv/secret","cause":"#] {
        let chain = format!("{}1{}", link.repeat(depth), "}".repeat(depth));
        let left = cut(&format!(r#"{{"message":"","metadata":{{"a":"b"}},"cause":{chain}}}"#));
        assert!(left.len() < 1000 && left.matches("secret").count() < 2, "{left}");
    }
}

/// Anything that may stand in a failure, near enough.
fn failures() -> impl Strategy<Value = Value> {
    let kinds = prop_oneof![
        Just(Value::Null),
        Just(json!({"type": "nexus.HandlerError"})),
        Just(json!({"type": "nexus.OperationError"})),
        Just(json!({"type": "nexus.OperationError", "unwrap-error": "true"})),
        Just(json!({"type": "temporal.api.failure.v1.Failure"})),
    ];
    let infos = prop_oneof![
        Just("applicationFailureInfo"),
        Just("activityFailureInfo"),
        Just("nexusHandlerFailureInfo"),
        Just("timeoutFailureInfo"),
    ];
    let one = move |cause: BoxedStrategy<Value>| {
        (kinds.clone(), infos.clone(), prop_oneof![Just(""), Just("said")], cause).prop_map(
            |(metadata, info, message, cause)| {
                json!({
                    "message": message, "stackTrace": "/srv/secret", "metadata": metadata, "cause": cause,
                    "details": {
                        info: {"type": "INTERNAL", "nonRetryable": true}, "type": "NOT_FOUND", "state": "failed",
                        "retryableOverride": true, "stackTrace": "/srv/secret", "cause": cause,
                    },
                })
            },
        )
    };
    let leaf = one(Just(Value::Null).boxed());
    leaf.prop_recursive(4, 16, 1, move |cause| one(cause.boxed()))
}

proptest! {
    #[test]
    fn type_and_retryability_stay_and_no_trace_does(failure in failures(), status in 400_u16..600) {
        let body = failure.to_string();
        prop_assume!(failure["message"] != "" || !failure["metadata"].is_null());
        let left = cut(&body);
        prop_assert!(!left.contains("/srv/secret"), "{}", left);
        prop_assert_eq!(redact(left.as_bytes()), Redacted::Unchanged, "{}", left);
        let json = http::HeaderMap::from_iter([(
            http::header::CONTENT_TYPE, http::HeaderValue::from_static("application/json"))]);
        let status = http::StatusCode::from_u16(status).unwrap();
        let read = |body: &str| failure::read(status, &json, body.as_bytes());
        prop_assert_eq!(read(&left), read(&body));
        prop_assert_eq!(
            failure::operation_state(&json, left.as_bytes()), failure::operation_state(&json, body.as_bytes()));
    }

    #[test]
    fn bytes_of_any_kind_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = redact(&bytes);
    }
}
