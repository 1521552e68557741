//! What holds for the body of any 201: two texts, parted by a zero byte, the new token and the body.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use nexus_gateway::nexus::callback::{started_token, with_started_token};
use nexus_gateway::nexus::failure::is_started;
use serde_json::Value;

pub(crate) fn check(input: &[u8]) {
    let at = input.iter().position(|byte| *byte == 0).unwrap_or(0);
    let (new, body) = (String::from_utf8_lossy(&input[..at]), &input[(at + 1).min(input.len())..]);
    let mut json = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);

    let old = started_token(&json, body);
    assert_eq!(old.is_some(), is_started(&json, body), "a start that passes has a token that can be read");
    let after = with_started_token(body, &mut json, &new);
    assert_eq!(after.is_some(), old.is_some() && HeaderValue::from_str(&new).is_ok());
    let (Some(old), Some(after)) = (old, after) else { return };
    if !new.is_empty() {
        assert_eq!(started_token(&json, &after).as_deref(), Some(&*new), "what is put in is read again");
    }
    // Deeper than serde_json reads into a value there is nothing to compare with.
    let (Ok(before), Ok(after)) = (serde_json::from_slice::<Value>(body), serde_json::from_slice::<Value>(&after))
    else {
        return;
    };
    let (before, after) = (before.as_object().expect("an object"), after.as_object().expect("an object"));
    assert!(before.keys().eq(after.keys()), "no member is lost");
    for (name, value) in before {
        let replaced = matches!(&**name, "token" | "id") && *value == *old;
        assert_eq!(after[name], if replaced { Value::from(&*new) } else { value.clone() }, "{name}");
    }
}
