//! What a completion is, and what a caller's cluster says to one that comes a second time.

use http::request::Parts;
use http::{HeaderMap, Method, StatusCode};

use crate::nexus::{failure, headers};

/// A well-formed completion, as far as its head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Completion<'a> {
    /// How the operation ended.
    pub state: State,
    /// The operation's token, for a completion that comes before its start's answer.
    pub token: Option<&'a str>,
    /// When the operation started, an HTTP date as it was written.
    pub start_time: Option<&'a str>,
    /// When the operation ended, RFC 3339 as it was written.
    pub close_time: Option<&'a str>,
}

/// How an operation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// With a result.
    Succeeded,
    /// With a failure.
    Failed,
    /// On request.
    Canceled,
}

impl State {
    /// The name on the wire, and in metrics and logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}

/// Why a request is no completion. Temporal refuses the same for good, so the sender loses nothing by a 400.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// The method is not POST.
    #[error("invalid request method: expected POST")]
    BadMethod,
    /// There is no operation state, or none that an ended operation has.
    #[error("invalid Nexus-Operation-State: expected succeeded, failed or canceled")]
    BadState,
}

/// Reads the head of a completion. What it does not need it does not judge: that is for the caller's cluster.
pub fn completion_of(head: &Parts) -> Result<Completion<'_>, Invalid> {
    if head.method != Method::POST {
        return Err(Invalid::BadMethod);
    }
    let text = |name| head.headers.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
    let given = |name| text(name).filter(|text| !text.is_empty());
    let state = text(&headers::OPERATION_STATE);
    let state = [State::Succeeded, State::Failed, State::Canceled].into_iter().find(|one| state == Some(one.name()));
    Ok(Completion {
        state: state.ok_or(Invalid::BadState)?,
        token: given(&headers::OPERATION_TOKEN),
        start_time: given(&headers::OPERATION_START_TIME),
        close_time: given(&headers::OPERATION_CLOSE_TIME),
    })
}

/// Drops from a completion what ends at this hop. All else goes on byte for byte, `Content-*` and `Nexus-Link` too.
///
/// What steers Temporal ends here whoever sends it: a caller can have any header back on its completion by asking for it
/// as `Nexus-Callback-…` on its start.
pub fn clean_completion(headers: &mut HeaderMap) {
    headers::clean_request(headers, false);
}

/// Whether an answer to a completion says that nothing waits for it any more, as a caller's cluster does once the
/// operation is completed.
///
/// It is no proof of that: an operation that timed out or a workflow that ended gets the same answer. So it counts as
/// delivered only where an earlier attempt may have arrived.
pub fn is_stale_reference(status: StatusCode, answer: &HeaderMap, body: &[u8]) -> bool {
    status == StatusCode::NOT_FOUND
        && (contains(body, "stale reference")
            || failure::read(status, answer, body).from_nexus && GONE.iter().any(|text| contains(body, text)))
}

/// How Temporal 1.29 to 1.32 say it besides `stale reference`, by where the operation was kept and what came of it
/// (history's completion handler, `components/nexusoperations` and `chasm`).
const GONE: [&str; 4] =
    ["operation not found", "component not found", "workflow execution already completed", "tree is closed for writes"];

fn contains(body: &[u8], text: &str) -> bool {
    body.windows(text.len()).any(|window| window.eq_ignore_ascii_case(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::header::{CONTENT_TYPE, HeaderValue};

    fn head(method: &str, entries: &[(&'static str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri("/nexus/callback/sealed");
        for (name, value) in entries {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn a_completion_says_how_the_operation_ended() {
        for (text, state) in [("succeeded", State::Succeeded), ("failed", State::Failed), ("canceled", State::Canceled)]
        {
            let head = head("POST", &[("nexus-operation-state", text)]);
            let expected = Completion { state, token: None, start_time: None, close_time: None };
            assert_eq!(completion_of(&head), Ok(expected));
            assert_eq!(state.name(), text);
        }
        for entries in [
            &[][..],
            &[("nexus-operation-state", "")],
            &[("nexus-operation-state", "running")],
            &[("nexus-operation-state", "Succeeded")],
            &[("nexus-operation-state", "running"), ("nexus-operation-state", "failed")],
        ] {
            assert_eq!(completion_of(&head("POST", entries)), Err(Invalid::BadState), "{entries:?}");
        }
        assert_eq!(completion_of(&head("GET", &[("nexus-operation-state", "failed")])), Err(Invalid::BadMethod));
    }

    #[test]
    fn what_a_completion_tells_of_the_start_is_read_as_written() {
        let head = head(
            "POST",
            &[
                ("nexus-operation-state", "succeeded"),
                ("nexus-operation-token", "tök"),
                ("nexus-operation-start-time", "Tue, 24 Nov 2026 12:00:00 GMT"),
                ("nexus-operation-close-time", ""),
            ],
        );
        let completion = completion_of(&head).unwrap();
        assert_eq!(completion.token, Some("tök"));
        assert_eq!(completion.start_time, Some("Tue, 24 Nov 2026 12:00:00 GMT"));
        assert_eq!(completion.close_time, None);
    }

    #[test]
    fn a_completion_keeps_all_that_is_not_this_hop_s() {
        let kept = [
            ("content-type", "application/json; charset=utf-8"),
            ("content-encoding", "x"),
            ("content-custom", "x"),
            ("content-length", "7"),
            ("nexus-link", "<http://a>; type=\"a.B\""),
            ("nexus-link", "<http://b>; type=\"a.B\""),
            ("nexus-operation-state", "succeeded"),
            ("temporal-callback-token", "t"),
            ("traceparent", "t"),
            ("user-agent", "temporal"),
            ("x-anything", "\t odd  spacing"),
        ];
        let mut entries = kept.to_vec();
        entries.extend([("host", "gateway"), ("connection", "x-hop"), ("x-hop", "1"), ("caller-name", "steer")]);
        let mut headers = head("POST", &entries).headers;
        clean_completion(&mut headers);
        assert_eq!(headers, head("POST", &kept).headers);
    }

    #[test]
    fn a_second_completion_is_known_by_its_answer() {
        let json = HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static("application/json"))]);
        let stale =
            |status: u16, body: &str| is_stale_reference(StatusCode::from_u16(status).unwrap(), &json, body.as_bytes());
        for body in [
            r#"{"message":"stale reference"}"#,
            r#"{"message":"Stale Reference: operation already in terminal state"}"#,
            r#"{"message":"handler error (NOT_FOUND): stale reference","metadata":{"type":"nexus.HandlerError"},"details":{"type":"NOT_FOUND"}}"#,
            r#"{"message":"","metadata":{"type":"nexus.HandlerError"},"cause":{"message":"stale reference"}}"#,
            r#"{"message":"operation not found"}"#,
            r#"{"message":"workflow execution already completed"}"#,
            "stale reference",
        ] {
            assert!(stale(404, body), "{body}");
            assert!(!stale(400, body) && !stale(503, body) && !stale(200, body), "{body}");
        }
        for body in [
            "",
            "Not Found",
            r#"{"message":"not found"}"#,
            r#"{"message":"namespace \"a\" not found"}"#,
            r#"{"code":5,"message":"operation not found"}"#,
            "<html>operation not found</html>",
        ] {
            assert!(!stale(404, body), "{body}");
        }
    }
}
