//! Failures on their way to callers, where a policy has them cut: those in answers, and those in completions.
//!
//! A body that cannot be read as a failure, JSON or not, is replaced by one that says no more than its status: it may tell
//! anything.

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, Response, StatusCode};

use super::Gateway;
use crate::body::Content;
use crate::callback::seal::Origin;
use crate::nexus::callback::State;
use crate::nexus::callback::answer::{canceled_failure, describe_failure, failed_failure};
use crate::nexus::failure::redact::{Redacted, redact};
use crate::nexus::path::decode;
use crate::nexus::{ErrorType, failure, headers};
use crate::response::{Answered, Outcome};

/// Cuts the failure of a handler or of its operation.
pub(super) fn redact_answer(answer: &mut Response<Content>, outcome: Outcome) {
    let status = answer.status();
    let plain = || match outcome {
        Outcome::HandlerError(answered) => Some(plain_error(status, answered)),
        Outcome::OperationFailed => Some(failed_failure()),
        Outcome::OperationCanceled => Some(canceled_failure()),
        _ => None,
    };
    // A failure was read in one piece, since it decided what becomes of its request.
    let Content::Whole(body) = answer.body() else { return };
    let body = body.clone();
    if let Some(plain) = plain() {
        *answer.body_mut() = Content::Whole(cut(answer.headers_mut(), body, plain));
    }
}

/// Cuts the failure of a completion.
pub(super) fn redact_completion(head: &mut HeaderMap, body: Bytes) -> Bytes {
    let state = head.get(&headers::OPERATION_STATE);
    let is = |one: State| state.is_some_and(|state| state == one.name());
    if is(State::Failed) {
        cut(head, body, failed_failure())
    } else if is(State::Canceled) {
        cut(head, body, canceled_failure())
    } else {
        body
    }
}

fn cut(head: &mut HeaderMap, body: Bytes, plain: Bytes) -> Bytes {
    if body.is_empty() {
        return body;
    }
    let redacted = if failure::is_json(head) { redact(&body) } else { Redacted::Unreadable };
    match redacted {
        Redacted::Unchanged => body,
        Redacted::Cut(left) => {
            // It is written anew by whoever sends it.
            head.remove(CONTENT_LENGTH);
            left.into()
        }
        Redacted::Unreadable => {
            describe_failure(head);
            plain
        }
    }
}

fn plain_error(status: StatusCode, answered: Answered) -> Bytes {
    let kind = ErrorType::from_status(status).unwrap_or(ErrorType::Internal);
    failure::body(kind, answered.retryable, "the handler answered an error").into()
}

impl Gateway {
    /// Whether the failure of a completion is cut of which nobody can tell whose operation it is: where a policy says so of
    /// any.
    pub(super) fn redacts_any(&self) -> bool {
        self.router.table().policies().redact_any()
    }

    /// Whether the failure of this operation's completion is cut. Its sender is not its caller, who is not known by an
    /// address here: what holds for any of them holds.
    pub(super) fn redacts(&self, origin: &Origin) -> bool {
        let (name, key) = origin.endpoint.split_once('/').unwrap_or((&origin.endpoint, ""));
        if let Some(endpoint) = self.router.find(name) {
            return endpoint.operation(key).governed.any(|governed| governed.policy.redact);
        }
        let (service, operation) = key.split_once('/').unwrap_or((key, ""));
        let decoded = |part| decode(part).unwrap_or_default();
        let table = self.router.table();
        let policies = table.policies().decide_all([name, &decoded(service), &decoded(operation)]);
        policies.any(|policy| policy.redact)
    }
}
