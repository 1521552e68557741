//! Header names, and which headers must not cross a proxy.
//!
//! Everything else passes unchanged. `Content-*` in particular describes the payload: adding, dropping or changing
//! one makes a Temporal caller's workflow stick.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

/// Idempotency key of a start, the same on each retry of the caller.
pub static REQUEST_ID: HeaderName = HeaderName::from_static("nexus-request-id");
/// Time that the caller gives the whole operation.
pub static OPERATION_TIMEOUT: HeaderName = HeaderName::from_static("operation-timeout");
/// Time that the caller gives this attempt.
pub static REQUEST_TIMEOUT: HeaderName = HeaderName::from_static("request-timeout");
/// Links to what caused the request, or to what it caused.
pub static LINK: HeaderName = HeaderName::from_static("nexus-link");
/// Token of an asynchronous operation.
pub static OPERATION_TOKEN: HeaderName = HeaderName::from_static("nexus-operation-token");
/// How an operation ended: `failed` or `canceled` on a 424, on a completion `succeeded` as well.
pub static OPERATION_STATE: HeaderName = HeaderName::from_static("nexus-operation-state");
/// Overrides the retryability of a handler error's type; the only signal that callers up to Temporal 1.30 read.
pub static REQUEST_RETRYABLE: HeaderName = HeaderName::from_static("nexus-request-retryable");
/// Id of the caller's cluster. A handler's cluster of the same id completes internally and ignores the callback URL.
pub static CALLBACK_SOURCE: HeaderName = HeaderName::from_static("nexus-callback-source");
/// Token that the caller's cluster wants back on the completion, as a start carries it.
pub static CALLBACK_TOKEN_SENT: HeaderName = HeaderName::from_static("nexus-callback-temporal-callback-token");
/// The same token, as the completion carries it.
pub static CALLBACK_TOKEN: HeaderName = HeaderName::from_static("temporal-callback-token");
/// Begins the names of what a start wants back on its completion, without this prefix.
pub const CALLBACK_PREFIX: &str = "nexus-callback-";
/// When an operation started, an HTTP date, on a completion that may come before its start's answer.
pub static OPERATION_START_TIME: HeaderName = HeaderName::from_static("nexus-operation-start-time");
/// When an operation ended, RFC 3339, on a completion.
pub static OPERATION_CLOSE_TIME: HeaderName = HeaderName::from_static("nexus-operation-close-time");
/// `worker` where the worker and not the infrastructure failed.
pub static FAILURE_SOURCE: HeaderName = HeaderName::from_static("temporal-nexus-failure-source");
/// Names the reason on every failure that the gateway itself makes.
pub static GATEWAY_FAILURE: HeaderName = HeaderName::from_static("nexus-gateway-failure");

/// The same, as it came in an answer: whoever answered says of itself that it is a gateway that failed.
pub static UPSTREAM_FAILURE: HeaderName = HeaderName::from_static("nexus-gateway-upstream-failure");

/// Begins the names of what only a gateway says.
pub const OWN_PREFIX: &str = "nexus-gateway-";

/// Longest value of [`UPSTREAM_FAILURE`], in bytes: a reason, and the setting that refused.
const MAX_UPSTREAM_FAILURE: usize = 256;

/// `text` as a header's value that no log shows; none where it has a byte that no header can carry.
pub fn sensitive(text: &[u8]) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_bytes(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// Puts `token` in the place of the `Nexus-Operation-Token`, where there is one. False, and nothing is changed, where
/// no header can carry `token`.
pub fn replace_operation_token(headers: &mut HeaderMap, token: &str) -> bool {
    let Some(value) = sensitive(token.as_bytes()) else { return false };
    if headers.contains_key(&OPERATION_TOKEN) {
        headers.insert(&OPERATION_TOKEN, value);
    }
    true
}

/// Drops every `Nexus-Operation-Token`, also those with `_` for `-` (see [`clean_request`]).
pub fn remove_operation_tokens(headers: &mut HeaderMap) {
    remove(headers, |name| with_hyphens(name, |name| name == OPERATION_TOKEN.as_str()));
}

/// Says on an answer which rate limit there is and what is left of it (draft-ietf-httpapi-ratelimit-headers).
pub fn tell_limit(answer: &mut HeaderMap, policy: &str, left: &str) {
    for (name, value) in [("ratelimit-policy", policy), ("ratelimit", left)] {
        if let Ok(value) = HeaderValue::try_from(value) {
            answer.insert(name, value);
        }
    }
}

/// Drops from a request what ends at this hop: hop-by-hop headers and what they name, `Host` and `Expect`, and what only
/// the gateway says; unless `internal`, also what steers priority and forwarding inside Temporal. With `_` for `-` as well,
/// since handlers that read headers as CGI does (RFC 3875 §4.1.18) take one for the other.
pub fn clean_request(headers: &mut HeaderMap, internal: bool) {
    remove_named_by_connection(headers);
    remove_overridden_length(headers);
    let ends_here = |name: &str| {
        is_hop_by_hop(name)
            || matches!(name, "host" | "expect")
            || name.starts_with(OWN_PREFIX)
            || (!internal && steers_temporal(name))
    };
    remove(headers, |name| with_hyphens(name, ends_here));
}

/// Drops from an answer what ends at this hop, and what only this gateway says, with `_` for `-` as well. A gateway behind
/// may have failed: what it says of that stays, under another name.
pub fn clean_response(headers: &mut HeaderMap) {
    remove_named_by_connection(headers);
    remove_overridden_length(headers);
    let failed = headers.get(&GATEWAY_FAILURE).or_else(|| headers.get(&UPSTREAM_FAILURE)).cloned();
    remove(headers, |name| with_hyphens(name, |name| is_hop_by_hop(name) || name.starts_with(OWN_PREFIX)));
    if let Some(failed) = failed.filter(|failed| failed.len() <= MAX_UPSTREAM_FAILURE) {
        headers.insert(&UPSTREAM_FAILURE, failed);
    }
}

/// Whether it is so of a name, or of the same one with `-` for each `_`.
fn with_hyphens(name: &str, is: impl Fn(&str) -> bool) -> bool {
    is(name) || name.contains('_') && is(&name.replace('_', "-"))
}

/// Whether a header, its name in lower case, belongs to one connection.
pub fn is_hop_by_hop(name: &str) -> bool {
    matches!(name, "connection" | "keep-alive" | "te" | "trailer" | "transfer-encoding" | "upgrade" | "http2-settings")
        || name.starts_with("proxy-")
}

/// Whether a header, its name in lower case, steers priority and forwarding inside Temporal.
pub fn steers_temporal(name: &str) -> bool {
    matches!(name, "caller-name" | "caller-type" | "call-initiation")
        || name.starts_with("xdc-redirection")
        || name.starts_with("temporal-principal-")
}

/// RFC 9110 §7.6.1: what `Connection` names is hop-by-hop too. Framing stays: it is not the sender's to remove.
fn remove_named_by_connection(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONNECTION) {
        return;
    }
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|b| *b == b','))
        .filter_map(|token| HeaderName::from_bytes(token.trim_ascii()).ok())
        .filter(|name| name != header::CONTENT_LENGTH && name != header::TRANSFER_ENCODING)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

/// RFC 9112 §6.3: beside a transfer coding a length says nothing, and is not to be forwarded.
fn remove_overridden_length(headers: &mut HeaderMap) {
    if headers.contains_key(header::TRANSFER_ENCODING) {
        headers.remove(header::CONTENT_LENGTH);
    }
}

/// One pass over the names, since most requests have few or none to drop.
fn remove(headers: &mut HeaderMap, unwanted: impl Fn(&str) -> bool) {
    let found: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name.as_str())).cloned().collect();
    for name in found {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(names: &[&'static str]) -> HeaderMap {
        names.iter().map(|name| (HeaderName::from_static(name), HeaderValue::from_static("x"))).collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn hop_by_hop_headers_end_here() {
        let hops = ["te", "trailer", "transfer-encoding", "upgrade", "keep-alive", "proxy-authorization", "proxy-x"];
        let mut request = map(&hops);
        request.extend(map(&[
            "host",
            "expect",
            "content-type",
            "user-agent",
            "authorization",
            "cookie",
            "traceparent",
        ]));
        clean_request(&mut request, true);
        assert_eq!(names(&request), ["authorization", "content-type", "cookie", "traceparent", "user-agent"]);

        let mut answer = map(&hops);
        answer.extend(map(&["content-type", "temporal-nexus-failure-source"]));
        clean_response(&mut answer);
        assert_eq!(names(&answer), ["content-type", "temporal-nexus-failure-source"]);
    }

    #[test]
    fn what_a_gateway_behind_says_is_not_taken_for_what_this_one_says() {
        let cleaned = |lines: &[(&'static str, &'static str)]| {
            let line = |(name, value): &(&'static str, &'static str)| {
                (HeaderName::from_static(name), HeaderValue::from_static(value))
            };
            let mut answer: HeaderMap = lines.iter().map(line).collect();
            clean_response(&mut answer);
            answer
        };
        let (own, behind) = ("nexus-gateway-failure", "nexus-gateway-upstream-failure");
        for lines in [
            &[(own, "breaker_open")][..],
            &[(behind, "breaker_open")],
            &[(behind, "of one further behind"), (own, "breaker_open")],
            &[(own, "breaker_open"), (own, "another"), ("nexus-gateway-caller", "x"), ("nexus_gateway-failure", "x")],
        ] {
            let answer = cleaned(lines);
            assert_eq!(names(&answer), [behind], "{lines:?}");
            assert_eq!(answer[behind], "breaker_open", "{lines:?}");
        }
        let long = "x".repeat(MAX_UPSTREAM_FAILURE + 1).leak();
        for lines in
            [&[(own, &*long)][..], &[("nexus-gateway-caller-namespace", "x")], &[("nexus_gateway_failure", "x")]]
        {
            assert!(cleaned(lines).is_empty(), "{lines:?}");
        }
    }

    #[test]
    fn what_connection_names_ends_here_except_framing() {
        let mut headers = map(&["x-one", "x-two", "content-length", "x-three"]);
        headers.append(header::CONNECTION, HeaderValue::from_static("close, X-One"));
        headers.append(header::CONNECTION, HeaderValue::from_static("x-two,content-length, ,bad name"));
        clean_request(&mut headers, true);
        assert_eq!(names(&headers), ["content-length", "x-three"]);
    }

    #[test]
    fn strangers_do_not_steer_temporal() {
        let steering =
            ["caller-name", "caller-type", "call-initiation", "xdc-redirection-api", "temporal-principal-name"];
        let mut stranger = map(&steering);
        clean_request(&mut stranger, false);
        assert!(stranger.is_empty());
        let mut own = map(&steering);
        clean_request(&mut own, true);
        assert_eq!(own.len(), steering.len());
    }
}
