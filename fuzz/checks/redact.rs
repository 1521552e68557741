//! What holds for any failure that is cut: two bytes of status, then a body.

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use nexus_gateway::nexus::failure::redact::{Redacted, redact};
use nexus_gateway::nexus::failure::{operation_state, read};
use serde_json::Value;

pub(crate) fn check(input: &[u8]) {
    let Some((status, body)) = input.split_first_chunk::<2>() else { return };
    let status = StatusCode::from_u16(100 + u16::from_le_bytes(*status) % 900).expect("three digits");
    let json = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
    let left = match redact(body) {
        Redacted::Unreadable => return,
        Redacted::Unchanged => body.to_vec(),
        Redacted::Cut(left) => left,
    };
    assert_eq!(redact(&left), Redacted::Unchanged, "nothing is left to cut");
    assert!(left.len() <= body.len() + 100, "a shell is all that is ever added");

    // Deeper than serde_json reads into a value there is nothing to compare with.
    if let (Ok(before), Ok(after)) = (serde_json::from_slice::<Value>(body), serde_json::from_slice::<Value>(&left)) {
        // To those who read it, it is the same failure.
        assert_eq!(read(status, &json, &left), read(status, &json, body));
        assert_eq!(operation_state(&json, &left), operation_state(&json, body));
        assert_eq!(before["message"], after["message"]);
        assert_eq!(before["metadata"], after["metadata"]);
        for name in ["stackTrace", "stack_trace"] {
            assert!(after.get(name).is_none() && after["details"].get(name).is_none(), "{after}");
        }
    }
}
