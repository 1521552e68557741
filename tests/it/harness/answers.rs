//! Answers as bytes.

use nexus_gateway::nexus::ErrorType;

use super::message::Message;
use super::planted::RESULT;

/// An answer with a length; `headers` are whole lines without their ends.
pub(crate) fn answer(status: &str, headers: &[&str], body: &str) -> String {
    let lines = headers.iter().fold(String::new(), |lines, line| lines + line + "\r\n");
    format!("HTTP/1.1 {status}\r\n{lines}Content-Length: {}\r\n\r\n{body}", body.len())
}

/// An answer with a JSON body.
pub(crate) fn json(status: &str, body: &str) -> String {
    answer(status, &["Content-Type: application/json"], body)
}

/// A result.
pub(crate) fn ok() -> String {
    json("200 OK", RESULT)
}

/// A handler error as a Nexus handler writes it; `headers` are whole lines.
pub(crate) fn handler_error(status: &str, kind: &str, retryable: Option<bool>, headers: &[&str]) -> String {
    let retryable = retryable.map_or(String::new(), |retryable| format!(",\"retryableOverride\":{retryable}"));
    let details = format!("{{\"type\":\"{kind}\"{retryable}}}");
    let body = format!(
        "{{\"message\":\"said by the handler\",\"metadata\":{{\"type\":\"nexus.HandlerError\"}},\"details\":{details}}}"
    );
    answer(status, &[&["Content-Type: application/json"], headers].concat(), &body)
}

/// A failure of the gateway's own, by the reason in its marker header.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expected {
    pub(crate) reason: &'static str,
    pub(crate) kind: ErrorType,
    pub(crate) retryable: bool,
}

/// What a caller must get for `reason`.
pub(crate) const fn failure(reason: &'static str, kind: ErrorType, retryable: bool) -> Expected {
    Expected { reason, kind, retryable }
}

impl Expected {
    /// Fails unless `answer` is this failure in every form in which callers read it, and names the setting `rule`.
    #[track_caller]
    pub(crate) fn assert_by(self, rule: &str, answer: &Message) {
        let marker = format!("{}; rule=\"{rule}\"", self.reason);
        self.assert_marked(&marker, answer, rule);
        assert!(answer.text().contains(rule), "{}", answer.text());
        let after = answer.header("retry-after").and_then(|after| after.parse::<u64>().ok());
        assert!(after.is_some_and(|seconds| seconds >= 1), "{answer:?}");
    }

    /// Fails unless `answer` is this failure in every form in which callers read it.
    #[track_caller]
    pub(crate) fn assert_is(self, answer: &Message, context: &str) {
        self.assert_marked(self.reason, answer, context);
    }

    #[track_caller]
    fn assert_marked(self, marker: &str, answer: &Message, context: &str) {
        let Self { kind, retryable, .. } = self;
        let got = format!("{context}: got {answer:?} {:?}", answer.text());
        assert_eq!(answer.header("nexus-gateway-failure"), Some(marker), "{got}");
        assert_eq!(answer.status(), kind.status().as_u16(), "{got}");
        assert_eq!(answer.header("nexus-request-retryable"), Some(if retryable { "true" } else { "false" }), "{got}");
        assert_eq!(answer.all("content-type"), ["application/json"], "{got}");
        assert_eq!(answer.header("content-length"), Some(&*answer.body.len().to_string()), "{got}");
        assert_eq!(answer.header("temporal-nexus-failure-source"), None, "{got}");
        let body: serde_json::Value = serde_json::from_slice(&answer.body).expect("the body is JSON");
        let message = body["message"].as_str().unwrap_or_default().to_owned();
        assert!(!message.is_empty(), "{got}");
        let expected = serde_json::json!({
            "message": message,
            "metadata": { "type": "nexus.HandlerError" },
            "details": { "type": kind.name(), "retryableOverride": retryable },
        });
        assert_eq!(body, expected, "{got}");
    }
}

/// Fails unless `got` is the answer `sent`: status, headers and body.
#[track_caller]
pub(crate) fn assert_passed(sent: &str, got: &Message) {
    let (head, body) = sent.split_once("\r\n\r\n").expect("an answer has a head");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    assert_eq!(status, Some(&*got.status().to_string()), "{sent}");
    let mut expected: Vec<_> = lines.filter_map(|line| line.split_once(": ")).map(lower_name).collect();
    let mut headers: Vec<_> = got.headers.iter().map(|(name, value)| lower_name((name, value))).collect();
    // Any proxy adds the date where there is none.
    headers.retain(|(name, _)| name != "date");
    expected.sort();
    headers.sort();
    assert_eq!(headers, expected, "{sent}");
    assert_eq!(got.text(), body);
}

fn lower_name((name, value): (&str, &str)) -> (String, String) {
    (name.to_ascii_lowercase(), value.to_owned())
}
