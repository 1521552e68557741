//! What callers get: a target's answer shaped, or a failure of the gateway's own.
//!
//! A handler's Nexus answer passes byte for byte. What is no Nexus answer becomes a failure whose type tells the
//! caller the truth about retrying: a Temporal caller gives up for good on a load balancer's 404 and retries its 502
//! page for ever.

use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use http::response::Parts;
use http::{HeaderMap, Response, StatusCode};
use tokio::time::Instant;

use crate::body::{Collected, Content, collect};
use crate::credentials::NoCredentials;
use crate::nexus::failure::{self, HandlerError, OPERATION_UNSUCCESSFUL};
use crate::nexus::{ErrorType, Invalid, Method, headers};
use crate::upstream::{Exchange, SendError, Torn};

/// Answers up to this many bytes are read in one piece before their head goes out, so that one that breaks off
/// becomes a failure instead of a torn answer.
const ONE_PIECE: usize = 64 << 10;

/// Why the gateway itself failed a request; the value of the `nexus-gateway-failure` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No credential, or none that is valid, where one is needed.
    Unauthenticated,
    /// The caller may know of the endpoint, but not call that operation.
    Forbidden,
    /// The caller may not send completions as long as the rules are what they are.
    CompletionForbidden,
    /// No endpoint has this name, and every source says so; or the caller must not know of it.
    UnknownEndpoint,
    /// No endpoint of this name is known, and a source could not be asked.
    RegistryUnavailable,
    /// The path is no route.
    UnknownRoute,
    /// The method is not POST.
    BadMethod,
    /// A broken escape or a dot segment.
    BadPath,
    /// The `Request-Timeout` cannot be read.
    BadTimeout,
    /// A `Nexus-Link` cannot be read.
    BadLink,
    /// What the sender shows of who it is cannot be checked at present.
    AuthenticationUnavailable,
    /// A cancel without a token.
    MissingToken,
    /// The request's head is not well-formed, or could mean two things.
    BadHead,
    /// The request's head is larger than the server allows.
    HeadTooLarge,
    /// The request's body took too long.
    SlowBody,
    /// The request's body broke off or is not well-formed.
    BadBody,
    /// The request is larger than the policy allows.
    RequestTooLarge,
    /// The deadline passed before anything was sent.
    DeadlineExceeded,
    /// More requests than a rate limit allows, and the wait for a turn was in vain.
    RateLimited,
    /// The store of a rate limit that replicas share cannot be asked, and the limit says that nothing goes then.
    LimitUnavailable,
    /// More requests on their way than a concurrency limit allows, and the wait for a place was in vain.
    Saturated,
    /// The process has more requests, or more bytes of them, than it may hold.
    Overloaded,
    /// The operation kept failing: its breaker is open.
    BreakerOpen,
    /// A start's callback cannot be relayed.
    BadCallback,
    /// A completion without what every completion has.
    BadCompletion,
    /// A sealed callback that is forged, broken or expired.
    BadSeal,
    /// A sealed callback of a key that is not among those that are configured.
    UnknownKey,
    /// A sealed operation token that is forged, or another endpoint's or caller's.
    UnknownToken,
    /// A completion came to a gateway that relays none.
    RelayOff,
    /// Completions may not be sent to where one goes.
    DestinationForbidden,
    /// What became of a parked operation cannot be looked up.
    ParkUnavailable,
    /// The target did not answer in time.
    UpstreamTimeout,
    /// No connection to the target.
    UpstreamUnreachable,
    /// The connection was lost before a complete answer.
    UpstreamReset,
    /// The gateway has no credentials to show the target.
    NoCredentials,
    /// It answered 502.
    UpstreamBadGateway,
    /// It answered 504.
    UpstreamGatewayTimeout,
    /// It answered a status that Nexus does not have.
    UpstreamStatus,
    /// A Temporal cluster answered 401, 403 or 404 that does not come from Nexus.
    UpstreamNotNexus,
    /// It answered what no Nexus handler does.
    UpstreamMalformed,
    /// Its answer is larger than the policy allows.
    UpstreamTooLarge,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 41] = [
        Self::Unauthenticated,
        Self::Forbidden,
        Self::CompletionForbidden,
        Self::UnknownEndpoint,
        Self::RegistryUnavailable,
        Self::UnknownRoute,
        Self::BadMethod,
        Self::BadPath,
        Self::BadTimeout,
        Self::BadLink,
        Self::AuthenticationUnavailable,
        Self::MissingToken,
        Self::BadHead,
        Self::HeadTooLarge,
        Self::SlowBody,
        Self::BadBody,
        Self::RequestTooLarge,
        Self::DeadlineExceeded,
        Self::RateLimited,
        Self::LimitUnavailable,
        Self::Saturated,
        Self::Overloaded,
        Self::BreakerOpen,
        Self::BadCallback,
        Self::BadCompletion,
        Self::BadSeal,
        Self::UnknownKey,
        Self::UnknownToken,
        Self::RelayOff,
        Self::DestinationForbidden,
        Self::ParkUnavailable,
        Self::UpstreamTimeout,
        Self::UpstreamUnreachable,
        Self::UpstreamReset,
        Self::NoCredentials,
        Self::UpstreamBadGateway,
        Self::UpstreamGatewayTimeout,
        Self::UpstreamStatus,
        Self::UpstreamNotNexus,
        Self::UpstreamMalformed,
        Self::UpstreamTooLarge,
    ];

    /// The name in the header and in metrics.
    pub fn name(self) -> &'static str {
        self.row().0
    }

    /// The handler error type that a caller sees.
    pub fn kind(self) -> ErrorType {
        self.row().1
    }

    /// Whether a caller should try again.
    pub fn retryable(self) -> bool {
        self.row().2
    }

    fn row(self) -> (&'static str, ErrorType, bool) {
        match self {
            Self::Unauthenticated => ("unauthenticated", ErrorType::Unauthenticated, false),
            Self::Forbidden => ("forbidden", ErrorType::Unauthorized, false),
            Self::CompletionForbidden => ("completion_forbidden", ErrorType::Unavailable, true),
            Self::UnknownEndpoint => ("unknown_endpoint", ErrorType::NotFound, false),
            Self::RegistryUnavailable => ("registry_unavailable", ErrorType::Unavailable, true),
            Self::UnknownRoute => ("unknown_route", ErrorType::NotFound, false),
            Self::BadMethod => ("bad_method", ErrorType::BadRequest, false),
            Self::BadPath => ("bad_path", ErrorType::BadRequest, false),
            Self::BadTimeout => ("bad_timeout", ErrorType::BadRequest, false),
            Self::BadLink => ("bad_link", ErrorType::BadRequest, false),
            Self::AuthenticationUnavailable => ("authentication_unavailable", ErrorType::Unavailable, true),
            Self::MissingToken => ("missing_token", ErrorType::BadRequest, false),
            Self::BadHead => ("bad_head", ErrorType::BadRequest, false),
            Self::HeadTooLarge => ("head_too_large", ErrorType::BadRequest, false),
            Self::SlowBody => ("slow_body", ErrorType::RequestTimeout, true),
            Self::BadBody => ("bad_body", ErrorType::BadRequest, false),
            Self::RequestTooLarge => ("request_too_large", ErrorType::BadRequest, false),
            Self::DeadlineExceeded => ("deadline_exceeded", ErrorType::RequestTimeout, true),
            Self::RateLimited => ("rate_limited", ErrorType::ResourceExhausted, true),
            Self::LimitUnavailable => ("limit_unavailable", ErrorType::Unavailable, true),
            Self::Saturated => ("saturated", ErrorType::ResourceExhausted, true),
            Self::Overloaded => ("overloaded", ErrorType::Unavailable, true),
            Self::BreakerOpen => ("breaker_open", ErrorType::Unavailable, true),
            Self::BadCallback => ("bad_callback", ErrorType::BadRequest, false),
            Self::BadCompletion => ("bad_completion", ErrorType::BadRequest, false),
            Self::BadSeal => ("bad_seal", ErrorType::BadRequest, false),
            Self::UnknownKey => ("unknown_key", ErrorType::Unavailable, true),
            Self::UnknownToken => ("unknown_token", ErrorType::NotFound, false),
            Self::RelayOff => ("relay_off", ErrorType::Unavailable, true),
            Self::DestinationForbidden => ("destination_forbidden", ErrorType::Unavailable, true),
            Self::ParkUnavailable => ("park_unavailable", ErrorType::Unavailable, true),
            Self::UpstreamTimeout => ("upstream_timeout", ErrorType::UpstreamTimeout, true),
            Self::UpstreamUnreachable => ("upstream_unreachable", ErrorType::Unavailable, true),
            Self::UpstreamReset => ("upstream_reset", ErrorType::Unavailable, true),
            Self::NoCredentials => ("no_credentials", ErrorType::Unavailable, true),
            Self::UpstreamBadGateway => ("upstream_bad_gateway", ErrorType::Unavailable, true),
            Self::UpstreamGatewayTimeout => ("upstream_gateway_timeout", ErrorType::UpstreamTimeout, true),
            Self::UpstreamStatus => ("upstream_status", ErrorType::Internal, true),
            Self::UpstreamNotNexus => ("upstream_not_nexus", ErrorType::Unavailable, true),
            Self::UpstreamMalformed => ("upstream_malformed", ErrorType::Internal, true),
            Self::UpstreamTooLarge => ("upstream_too_large", ErrorType::Internal, false),
        }
    }
}

/// A failure that the gateway makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// What a person should know of it; goes to the caller, whoever that is.
    pub message: String,
    /// Why, with addresses and names that are nobody's business outside: for logs, and for callers on trusted listeners.
    pub detail: Option<String>,
    /// The setting that refused the request, such as `policies[2].rate_limit`.
    pub rule: Option<Arc<str>>,
    /// When it is worth trying again. Temporal callers do not read it; others do.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// A failure for `reason`.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), detail: None, rule: None, retry_after: None }
    }

    /// The same, for this reason that not everybody is told.
    #[must_use]
    pub fn because(self, detail: impl Into<String>) -> Self {
        Self { detail: Some(detail.into()), ..self }
    }

    /// The same, telling all that is known of it.
    #[must_use]
    pub fn in_full(mut self) -> Self {
        if let Some(detail) = self.detail.take() {
            self.message = format!("{}: {detail}", self.message);
        }
        self
    }

    /// A refusal by the setting `rule`, which is worth trying again in `retry_after`.
    pub fn refused(reason: Reason, rule: impl Into<Arc<str>>, retry_after: Duration, why: impl Display) -> Self {
        let rule = rule.into();
        let message = format!("refused by {rule}: {why}");
        Self { reason, message, detail: None, rule: Some(rule), retry_after: Some(retry_after) }
    }

    /// Status, headers and body as a caller gets them: header and body agree on retryability.
    pub fn into_response(self) -> Response<Content> {
        let retryable = self.reason.retryable();
        let body = failure::body(self.reason.kind(), retryable, &self.message);
        let mut response = Response::new(Content::Whole(body.into()));
        *response.status_mut() = self.reason.kind().status();
        let map = response.headers_mut();
        map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        map.insert(&headers::REQUEST_RETRYABLE, HeaderValue::from_static(if retryable { "true" } else { "false" }));
        map.insert(&headers::GATEWAY_FAILURE, self.marker());
        if self.reason == Reason::Unauthenticated {
            // RFC 9110 §15.5.2: there has to be one. It says nothing of what is configured.
            map.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(after) = self.retry_after {
            // Whole seconds, rounded up: one that comes a little late is served, one too early is not.
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            map.insert(RETRY_AFTER, HeaderValue::from(seconds.max(1)));
        }
        response
    }

    fn marker(&self) -> HeaderValue {
        let reason = self.reason.name();
        let with_rule =
            self.rule.as_ref().and_then(|rule| HeaderValue::try_from(format!("{reason}; rule=\"{rule}\"")).ok());
        with_rule.unwrap_or_else(|| HeaderValue::from_static(reason))
    }
}

impl From<Invalid> for Failure {
    fn from(invalid: Invalid) -> Self {
        let reason = match invalid {
            Invalid::UnknownRoute => Reason::UnknownRoute,
            Invalid::BadPath(_) => Reason::BadPath,
            Invalid::BadMethod(_) => Reason::BadMethod,
            Invalid::BadTimeout(_) => Reason::BadTimeout,
            Invalid::BadLink => Reason::BadLink,
            Invalid::MissingToken => Reason::MissingToken,
        };
        Self::new(reason, invalid.to_string())
    }
}

impl From<NoCredentials> for Failure {
    fn from(NoCredentials: NoCredentials) -> Self {
        Self::new(Reason::NoCredentials, "the gateway has no credentials for the target at present")
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        let (reason, message) = match error {
            SendError::Unresolved(_) | SendError::Unreachable(_) => {
                (Reason::UpstreamUnreachable, "the upstream could not be reached")
            }
            SendError::Reset(..) => (Reason::UpstreamReset, "the upstream closed the connection before it answered"),
            SendError::Malformed(..) => {
                (Reason::UpstreamMalformed, "the upstream did not answer with well-formed HTTP")
            }
        };
        Self::new(reason, message).because(error.to_string())
    }
}

/// What a target's answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The operation succeeded at once.
    Succeeded,
    /// The operation runs and will complete later.
    Started,
    /// It is kept, and will be sent and complete later.
    Parked,
    /// The cancellation was taken.
    CancelAccepted,
    /// A completion arrived.
    Delivered,
    /// The operation failed.
    OperationFailed,
    /// The operation was canceled.
    OperationCanceled,
    /// The handler, or the server before it, answered an error.
    HandlerError(Answered),
}

/// What an error answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Its type; none where Nexus does not know it.
    pub kind: Option<ErrorType>,
    /// Whether it is worth trying again: the body's word, else the header's, else the status's.
    pub retryable: bool,
    /// Whether it is the worker's own answer, rather than the infrastructure's before it.
    pub from_worker: bool,
    /// Whether it is a Nexus failure, rather than what a load balancer wrote.
    pub from_nexus: bool,
}

/// What is known of the request whose answer is shaped.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// What was asked.
    pub method: Method,
    /// Whether a Temporal cluster was asked, rather than any Nexus handler.
    pub temporal: bool,
    /// Largest body that may pass, in bytes.
    pub limit: usize,
    /// When to stop streaming.
    pub deadline: Instant,
}

/// Turns a target's answer into what the caller gets.
pub async fn shape(mut head: Parts, exchange: Exchange, asked: Asked) -> Result<(Response<Content>, Outcome), Failure> {
    headers::clean_response(&mut head.headers);
    let (content, outcome) = match (asked.method, head.status) {
        (Method::Start, StatusCode::OK) => (pass(&head.headers, exchange, asked).await?, Outcome::Succeeded),
        (Method::Start, StatusCode::CREATED) => {
            let body = read_whole(exchange, asked.limit).await?;
            if !failure::is_started(&head.headers, &body) {
                return Err(malformed("201 without an operation token and the state running"));
            }
            (Content::Whole(body), Outcome::Started)
        }
        (Method::Cancel | Method::LegacyCancel, StatusCode::ACCEPTED) => {
            (Content::Whole(read_whole(exchange, asked.limit).await?), Outcome::CancelAccepted)
        }
        (Method::Start, OPERATION_UNSUCCESSFUL) => {
            let body = read_whole(exchange, asked.limit).await?;
            let outcome = unsuccessful(&head.headers, &body)
                .ok_or_else(|| malformed("424 without the operation state failed or canceled"))?;
            (Content::Whole(body), outcome)
        }
        (Method::Complete, status) if status.is_success() => {
            (Content::Whole(read_whole(exchange, asked.limit).await?), Outcome::Delivered)
        }
        (_, status) if status.is_client_error() || status.as_u16() >= 500 => {
            let body = read_whole(exchange, asked.limit).await?;
            let error = failure::read(status, &head.headers, &body);
            check_error(status, &error, asked.temporal)?;
            let from_worker = head.headers.get(&headers::FAILURE_SOURCE).is_some_and(|source| source == "worker");
            let HandlerError { kind, retryable, from_nexus } = error;
            let answered = Answered { kind, retryable, from_worker, from_nexus };
            (Content::Whole(body), Outcome::HandlerError(answered))
        }
        (_, status) => return Err(malformed(&format!("status {}", status.as_u16()))),
    };
    Ok((Response::from_parts(head, content), outcome))
}

/// A result: small ones in one piece, large ones as they come.
async fn pass(answer: &HeaderMap, mut exchange: Exchange, asked: Asked) -> Result<Content, Failure> {
    let length = answer.get(http::header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > asked.limit) {
        return Err(too_large(asked.limit));
    }
    let bound = if length.is_some_and(|length| length > ONE_PIECE) { 0 } else { ONE_PIECE.min(asked.limit) };
    match collect(&mut exchange, bound).await.map_err(torn)? {
        Collected::All(bytes) => Ok(Content::Whole(bytes)),
        Collected::More(begun) if begun.len() > asked.limit => Err(too_large(asked.limit)),
        Collected::More(begun) => Ok(Content::streamed(begun, exchange, asked.limit, asked.deadline)),
    }
}

async fn read_whole(mut exchange: Exchange, limit: usize) -> Result<Bytes, Failure> {
    match collect(&mut exchange, limit).await.map_err(torn)? {
        Collected::All(bytes) => Ok(bytes),
        Collected::More(_) => Err(too_large(limit)),
    }
}

/// How a 424 says the operation ended: by its header, or else by its body.
fn unsuccessful(answer: &HeaderMap, body: &[u8]) -> Option<Outcome> {
    let state = match answer.get(&headers::OPERATION_STATE) {
        Some(state) => state.to_str().ok()?.to_owned(),
        None => failure::operation_state(answer, body)?,
    };
    match state.as_str() {
        "failed" => Some(Outcome::OperationFailed),
        "canceled" => Some(Outcome::OperationCanceled),
        _ => None,
    }
}

/// Refuses errors whose status would mislead a Temporal caller. A Nexus body always speaks for itself.
fn check_error(status: StatusCode, error: &HandlerError, temporal: bool) -> Result<(), Failure> {
    let answered = || format!("the upstream answered {} without a Nexus failure", status.as_u16());
    if error.from_nexus {
        return Ok(());
    }
    match status.as_u16() {
        502 => Err(Failure::new(Reason::UpstreamBadGateway, answered())),
        504 => Err(Failure::new(Reason::UpstreamGatewayTimeout, answered())),
        401 | 403 | 404 if temporal => {
            let hint = "is its address the HTTP port of a Temporal frontend with Nexus enabled?";
            Err(Failure::new(Reason::UpstreamNotNexus, answered()).because(hint))
        }
        _ if ErrorType::from_status(status).is_some() => Ok(()),
        _ => Err(Failure::new(Reason::UpstreamStatus, answered())),
    }
}

fn malformed(what: &str) -> Failure {
    Failure::new(Reason::UpstreamMalformed, format!("the upstream's answer is not a Nexus answer: {what}"))
}

fn torn(torn: Torn) -> Failure {
    match torn {
        Torn::Malformed => malformed("its body is not well-formed HTTP"),
        Torn::Lost => Failure::new(Reason::UpstreamReset, "the upstream closed the connection inside its answer"),
    }
}

fn too_large(limit: usize) -> Failure {
    let message = format!("the upstream's answer is larger than max_response_body, {limit} bytes");
    Failure::new(Reason::UpstreamTooLarge, message)
}
