//! What holds for any `Request-Timeout`.

use std::time::Duration;

use nexus_gateway::nexus::timeout::{format, parse};

pub(crate) fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let parsed = parse(text);
    assert_eq!(parsed.is_some(), is_timeout(input), "{text:?}");
    let Some(timeout) = parsed else { return };
    let written = format(timeout);
    let again = parse(&written).expect("what is written can be read");
    assert!(!again.is_zero(), "zero would mean no limit");
    // Whole milliseconds, and what a floating point number makes of long ones.
    let slack = Duration::from_millis(1) + timeout.mul_f64(1e-12);
    assert!(again.abs_diff(timeout) <= slack, "{text:?} became {written:?}");
}

/// `^(\d+(?:\.\d+)?)(ms|s|m)$`, one byte at a time.
fn is_timeout(bytes: &[u8]) -> bool {
    let mut state = 0;
    for byte in bytes {
        state = match (state, byte) {
            (0 | 1, b'0'..=b'9') => 1,
            (1, b'.') => 2,
            (2 | 3, b'0'..=b'9') => 3,
            (1 | 3, b'm') => 4,
            (1 | 3 | 4, b's') => 5,
            _ => return false,
        };
    }
    state == 4 || state == 5
}
