//! From the request that came to the request that goes out.

use std::time::Duration;

use bytes::Bytes;
use http::header::HeaderValue;
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Uri};
use tokio::time::Instant;

use super::Outgoing;
use crate::credentials::Pass;
use crate::nexus::{Call, Method, headers, timeout};
use crate::resilience::Deadline;

/// Time-outs that differ by less than this are the same to whoever reads them.
const SAME: Duration = Duration::from_micros(500);

/// What is known of the caller and the target when a request is rewritten.
#[derive(Clone, Copy, Debug)]
pub struct Crossing<'a> {
    /// Path before `{service}/{operation}` at the target.
    pub prefix: &'a str,
    /// Id of the cluster that the request goes to, where known.
    pub cluster_id: Option<&'a str>,
    /// Whether the caller may steer Temporal's internals.
    pub may_steer: bool,
    /// What of the caller's own credentials the target gets.
    pub pass: Pass,
}

impl Outgoing {
    /// The request `call` for a target. None where prefix and path together are no URI, which cannot be for a path
    /// that was read.
    pub fn new(head: Parts, call: &Call, crossing: Crossing<'_>, body: Bytes) -> Option<Self> {
        let uri = uri(crossing.prefix, call.path.tail(head.uri.path()), head.uri.query())?;
        let mut headers = head.headers;
        headers::clean_request(&mut headers, crossing.may_steer);
        crossing.pass.clean(&mut headers);
        strip_callback_source(&mut headers, crossing.cluster_id);
        if call.path.method == Method::Start {
            ensure_request_id(&mut headers);
        }
        Some(Self { uri, headers, body, prefix: crossing.prefix.len(), timeout: None, shown: HeaderMap::new() })
    }

    /// A request that goes out as it is: `uri` is path and query, `headers` lack `Host` and whatever else ends at this
    /// hop.
    pub fn raw(uri: Uri, headers: HeaderMap, body: Bytes) -> Self {
        Self { uri, headers, body, prefix: 0, timeout: None, shown: HeaderMap::new() }
    }

    /// A request that was on its way before: `tail` is what [`tail`](Self::tail) gave then. None where prefix and tail
    /// together are no URI.
    pub fn again(tail: &str, mut headers: HeaderMap, body: Bytes, crossing: Crossing<'_>) -> Option<Self> {
        let (path, query) = tail.split_once('?').map_or((tail, None), |(path, query)| (path, Some(query)));
        let uri = uri(crossing.prefix, path, query)?;
        crossing.pass.clean(&mut headers);
        strip_callback_source(&mut headers, crossing.cluster_id);
        Some(Self { uri, headers, body, prefix: crossing.prefix.len(), timeout: None, shown: HeaderMap::new() })
    }

    /// What follows the target's own part of the path, query included.
    pub fn tail(&self) -> &str {
        let whole = self.uri.path_and_query().map_or("", PathAndQuery::as_str);
        whole.get(self.prefix..).unwrap_or_default()
    }

    /// The same request for another target. Of what the last one got it takes along only what the new one gets as well, and
    /// nothing that the gateway showed there.
    pub fn redirect(&mut self, crossing: Crossing<'_>) {
        let tail = self.uri.path().get(self.prefix..).unwrap_or_default();
        if let Some(uri) = uri(crossing.prefix, tail, self.uri.query()) {
            self.uri = uri;
            self.prefix = crossing.prefix.len();
        }
        self.shown = HeaderMap::new();
        crossing.pass.clean(&mut self.headers);
        strip_callback_source(&mut self.headers, crossing.cluster_id);
    }

    /// From now on the request says how much time is left until `deadline`, where the caller gave any: `given`.
    pub fn set_deadline(&mut self, given: Option<Duration>, deadline: Deadline) {
        self.timeout = given.map(|given| (given, deadline));
    }

    /// From now on the request carries `headers`, and no others that were shown before, in the place of the caller's own
    /// of the same names.
    pub fn show(&mut self, headers: HeaderMap) {
        self.shown = headers;
    }

    /// Its headers as they go out now: a connection may have been long in coming, or lost after a while.
    pub(super) fn headers_at(&self, now: Instant) -> HeaderMap {
        let mut out = self.headers.clone();
        for (name, value) in &self.shown {
            out.insert(name, value.clone());
        }
        let Some((given, deadline)) = self.timeout else { return out };
        let left = deadline.forwarded(now).filter(|left| given.abs_diff(*left) >= SAME);
        if let Some(value) = left.and_then(|left| HeaderValue::try_from(timeout::format(left)).ok()) {
            out.insert(&headers::REQUEST_TIMEOUT, value);
        }
        out
    }
}

/// Joins raw bytes: nothing is decoded, normalised or collapsed on the way.
fn uri(prefix: &str, tail: &str, query: Option<&str>) -> Option<Uri> {
    let mut joined = String::with_capacity(prefix.len() + tail.len() + query.map_or(0, |query| query.len() + 1));
    joined.push_str(prefix);
    joined.push_str(tail);
    if let Some(query) = query {
        joined.push('?');
        joined.push_str(query);
    }
    PathAndQuery::from_maybe_shared(Bytes::from(joined)).ok().map(Uri::from)
}

/// A cluster that sees its own id there completes internally and ignores the callback URL; any other has no use for
/// it, and one that copied its id from this cluster would lose the completion.
fn strip_callback_source(headers: &mut HeaderMap, cluster_id: Option<&str>) {
    let Some(source) = headers.get(&headers::CALLBACK_SOURCE) else { return };
    if cluster_id.is_none_or(|id| source.as_bytes() != id.as_bytes()) {
        headers.remove(&headers::CALLBACK_SOURCE);
    }
}

/// A start without an id would run again on each retry: handlers see an empty one.
fn ensure_request_id(headers: &mut HeaderMap) {
    if headers.get(&headers::REQUEST_ID).is_some_and(|id| !id.is_empty()) {
        return;
    }
    let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
    let id = uuid::Uuid::new_v4().hyphenated().encode_lower(&mut text);
    if let Ok(value) = HeaderValue::from_str(id) {
        headers.insert(&headers::REQUEST_ID, value);
    }
}

#[cfg(test)]
mod tests {
    use http::header::{AUTHORIZATION, COOKIE};

    use super::*;

    const CROSSING: Crossing<'_> = Crossing {
        prefix: "/nexus/endpoints/ID/services/",
        cluster_id: Some("here"),
        may_steer: false,
        pass: Pass { authorization: false, cookie: false },
    };

    fn outgoing(uri: &str, headers: &[(&'static str, &str)]) -> Outgoing {
        outgoing_to(CROSSING, uri, headers)
    }

    fn outgoing_to(crossing: Crossing<'_>, uri: &str, headers: &[(&'static str, &str)]) -> Outgoing {
        let mut request = http::Request::post(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let head = request.body(()).unwrap().into_parts().0;
        let call = Call::read(&head).unwrap();
        Outgoing::new(head, &call, crossing, Bytes::new()).unwrap()
    }

    #[test]
    fn the_path_goes_out_as_it_came() {
        for tail in [
            "Ser%2Fvic%20e/op%C3%A4",
            "S/o/cancel?token=a%2Bb",
            "S/o/tok%2Fen/cancel",
            "S/o?callback=http%3A%2F%2Fa%2F%3Fx%3D1&b",
            "a:b@c/~!$&'()*+,;=",
            "S/o?",
        ] {
            let out = outgoing(&format!("/nexus/endpoints/pay/services/{tail}"), &[("nexus-operation-token", "t")]);
            assert_eq!(out.uri.to_string(), format!("/nexus/endpoints/ID/services/{tail}"));
        }
    }

    #[test]
    fn a_redirected_request_keeps_its_tail() {
        let mut out = outgoing("/nexus/endpoints/pay/services/S%20/o/cancel?token=t", &[]);
        out.redirect(Crossing { prefix: "/p/", ..CROSSING });
        out.redirect(Crossing { prefix: "/other/", ..CROSSING });
        assert_eq!(out.uri.to_string(), "/other/S%20/o/cancel?token=t");
        assert_eq!(out.tail(), "S%20/o/cancel?token=t");
        let again = Outgoing::again(out.tail(), out.headers.clone(), out.body.clone(), CROSSING).unwrap();
        assert_eq!(again.uri.to_string(), "/nexus/endpoints/ID/services/S%20/o/cancel?token=t");
    }

    #[test]
    fn a_redirected_request_takes_along_only_what_the_new_target_gets() {
        let shown = |first: Pass, then: Pass| {
            let headers = [("authorization", "planted"), ("cookie", "planted"), ("nexus-callback-source", "here")];
            let mut out =
                outgoing_to(Crossing { pass: first, ..CROSSING }, "/nexus/endpoints/pay/services/S/o", &headers);
            out.show(HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_static("own"))]));
            out.redirect(Crossing { cluster_id: Some("there"), pass: then, ..CROSSING });
            let sent = out.headers_at(Instant::now());
            [AUTHORIZATION, COOKIE, headers::CALLBACK_SOURCE.clone()].map(|name| sent.contains_key(name))
        };
        let pass = |authorization, cookie| Pass { authorization, cookie };
        assert_eq!(shown(pass(true, true), pass(true, true)), [true, true, false]);
        assert_eq!(shown(pass(true, true), pass(false, true)), [false, true, false]);
        assert_eq!(shown(pass(true, true), pass(true, false)), [true, false, false]);
        assert_eq!(shown(pass(false, false), pass(false, false)), [false, false, false]);
    }

    #[test]
    fn a_start_without_a_request_id_gets_one() {
        let id = |headers: &[(&'static str, &str)]| {
            let out = outgoing("/nexus/endpoints/pay/services/S/o", headers);
            out.headers.get(&headers::REQUEST_ID).map(|id| id.to_str().unwrap().to_owned())
        };
        assert_eq!(id(&[("nexus-request-id", "own")]), Some("own".into()));
        assert_eq!(id(&[]).unwrap().len(), 36);
        assert_eq!(id(&[("nexus-request-id", "")]).unwrap().len(), 36);
        assert_ne!(id(&[]), id(&[]));
        let cancel = outgoing("/nexus/endpoints/pay/services/S/o/cancel?token=t", &[]);
        assert!(!cancel.headers.contains_key(&headers::REQUEST_ID));
    }

    #[test]
    fn the_callback_source_stays_within_its_cluster() {
        let kept = |source| {
            let out = outgoing("/nexus/endpoints/pay/services/S/o", &[("nexus-callback-source", source)]);
            out.headers.contains_key(&headers::CALLBACK_SOURCE)
        };
        assert!(kept("here"));
        assert!(!kept("elsewhere"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_timeout_is_rewritten_only_where_it_changed() {
        let now = Instant::now();
        let after = |given: Option<&'static str>, micros: u64| {
            let given = given.map(|given| ("request-timeout", given));
            let mut out = outgoing("/nexus/endpoints/pay/services/S/o", given.as_slice());
            let given = given.and_then(|(_, given)| timeout::parse(given));
            out.set_deadline(given, Deadline::new(now, given, Duration::from_secs(20)));
            let headers = out.headers_at(now + Duration::from_micros(micros));
            headers.get(&headers::REQUEST_TIMEOUT).map(|left| left.to_str().unwrap().to_owned())
        };
        assert_eq!(after(Some("10s"), 300).as_deref(), Some("10s"));
        assert_eq!(after(Some("10s"), 10_000).as_deref(), Some("9990ms"));
        assert_eq!(after(Some("30s"), 0).as_deref(), Some("20000ms"), "the policy's is shorter");
        assert_eq!(after(None, 10_000), None);
    }
}
