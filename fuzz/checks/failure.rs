//! What holds for any answer of a handler: two bytes of status, then a body.

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use nexus_gateway::nexus::ErrorType;
use nexus_gateway::nexus::failure::{body, is_started, operation_state, read};
use serde_json::Value;

pub(crate) fn check(input: &[u8]) {
    let Some((status, answer)) = input.split_first_chunk::<2>() else { return };
    let status = StatusCode::from_u16(100 + u16::from_le_bytes(*status) % 900).expect("three digits");
    let json = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);

    let error = read(status, &json, answer);
    let plain = read(status, &HeaderMap::new(), answer);
    assert!(!plain.from_nexus, "only JSON can be a Nexus failure");
    assert_eq!(plain.kind, ErrorType::from_status(status));
    assert!(!is_started(&HeaderMap::new(), answer));

    // Deeper than serde_json reads into a value there is nothing to compare with.
    if let Ok(value) = serde_json::from_slice::<Value>(answer) {
        if error.from_nexus {
            assert!(value.is_object() && value.get("code").is_none_or(Value::is_null) || value["metadata"].is_object());
        }
        if is_started(&json, answer) {
            let token = ["token", "id"].map(|name| value[name].as_str().unwrap_or_default().len());
            assert!(value["state"] == "running" && token != [0, 0], "{value}");
        }
        if let Some(state) = operation_state(&json, answer) {
            assert_eq!(value["details"]["state"], state);
        }
    }
    round_trip(status, &json, &String::from_utf8_lossy(answer));
}

/// What the gateway writes is read as what it meant.
fn round_trip(status: StatusCode, json: &HeaderMap, message: &str) {
    for kind in ErrorType::ALL {
        for retryable in [true, false] {
            let error = read(status, json, &body(kind, retryable, message));
            assert_eq!((error.kind, error.retryable, error.from_nexus), (Some(kind), retryable, true));
        }
    }
}
