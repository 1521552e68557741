//! How a parked operation is finished: sent like a request that comes now, through the same stages, and completed as its
//! target's cluster would complete it.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::time::{Instant, timeout};
use tracing::{Instrument, Span};

use super::attempts::Journey;
use super::callbacks::leaves_home;
use super::judge::Shaped;
use super::parking::{reason_of, since};
use super::redacting::redact_completion;
use super::{Gateway, Visit, caller_key, crossing, outgoing};
use crate::admission::{Authorized, Caller};
use crate::body::{Broken, Collected, Content, OnEnd, collect};
use crate::callback::destination::Destination;
use crate::callback::parked::{KeptCompletion, KeptStart};
use crate::callback::seal::{Operation, Refused};
use crate::callback::{Callbacks, Completions};
use crate::nexus::callback::answer::{
    Ended, canceled_failure, completion_head, describe_failure, handler_failure, operation_failure,
};
use crate::nexus::callback::{State as EndState, is_stale_reference, started_token};
use crate::nexus::timeout::{self as timeouts, parse_operation};
use crate::nexus::{Call, ErrorType, Method, call, failure, headers};
use crate::park::store::Row;
use crate::park::{Delivered, Ending, Finish, Sent};
use crate::resilience::breaker::State as BreakerState;
use crate::resilience::park::{ParkOn, ParkReason};
use crate::resilience::{Deadline, park::ParkSettings};
use crate::response::{Answered, Failure, Outcome, Reason};
use crate::route::{Endpoint, Operation as Routed, Router};
use crate::telemetry::Record;
use crate::upstream::Outgoing;

/// Where nobody in particular calls from.
const NOBODY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// How soon to look again for what should be there.
const SOON: Duration = Duration::from_secs(1);

/// How soon to look again whether a key is there that was not.
const LATER: Duration = Duration::from_secs(60);

/// How long the first delivery of a completion may take while others of its operation wait to be sent.
const FIRST_DELIVERY: Duration = Duration::from_secs(3);

/// Finishes parked operations through the stages of a gateway.
pub struct Finisher {
    gateway: Arc<Gateway>,
    /// Whose shelf of connections it uses.
    worker: usize,
}

impl Finisher {
    /// A finisher with a shelf of connections of its own, whose event loop it must run in.
    pub fn new(gateway: Arc<Gateway>, worker: usize) -> Self {
        Self { gateway, worker }
    }

    fn relaying(&self) -> Option<Relaying<'_>> {
        let completions = self.gateway.completions.load_full()?;
        completions.relay.is_some().then_some(Relaying { gateway: &self.gateway, worker: self.worker, completions })
    }
}

#[async_trait]
impl Finish for Finisher {
    fn is_ready(&self, lane: &str) -> bool {
        let Some(relaying) = self.relaying() else { return false };
        match lane.split_once('/') {
            Some(("d", origin)) => relaying.can_deliver(origin),
            Some(("s", operation)) => operation.split_once('/').is_some_and(|(endpoint, key)| {
                let endpoint = self.gateway.router.find(endpoint);
                endpoint.is_some_and(|endpoint| is_able(&endpoint, &endpoint.operation(key)))
            }),
            _ => false,
        }
    }

    async fn send(&self, row: &Row) -> Sent {
        match self.relaying() {
            Some(relaying) => relaying.send(row).instrument(span(row)).await,
            None => Sent::NotNow { after: None },
        }
    }

    async fn deliver(&self, row: &Row) -> Delivered {
        let Some(relaying) = self.relaying() else { return Delivered::NotNow { down: true } };
        let completion = match relaying.relay().open_kept_completion(&row.id.to_string(), &row.content) {
            Ok(completion) => completion,
            Err(refused) => {
                unreadable(row, refused);
                return Delivered::NotNow { down: false };
            }
        };
        let carrying = relaying.carry(row, &completion, state_name(&completion.headers));
        match carrying.instrument(span(row)).await {
            Carried::Finished => Delivered::Finished,
            Carried::NotNow { down } => Delivered::NotNow { down },
        }
    }

    async fn cancel(&self, row: &Row) -> bool {
        let Some(relaying) = self.relaying() else { return false };
        match relaying.relay().open_started(&row.id.to_string(), &row.content) {
            Ok(operation) => relaying.cancel(row, &operation).await,
            Err(refused) => {
                unreadable(row, refused);
                false
            }
        }
    }

    fn is_able(&self) -> bool {
        self.relaying().is_some()
    }

    async fn expire(&self, row: &Row) -> Sent {
        let Some(relaying) = self.relaying() else { return Sent::NotNow { after: None } };
        let id = row.id.to_string();
        let Ok(start) = relaying.relay().open_start(&id, &row.content).map_err(|refused| unreadable(row, refused))
        else {
            return Sent::NotNow { after: None };
        };
        let message = format!("the operation was parked ({}) and expired before its target took it", row.reason.name());
        let body = failure::body(ErrorType::UpstreamTimeout, false, &message).into();
        relaying.end(row, &start, EndState::Failed, Some("expired"), &HeaderMap::new(), body).await
    }
}

/// What logs say of an operation besides what happens to it.
fn span(row: &Row) -> Span {
    let parked = since(row.arrived).as_secs_f64();
    tracing::info_span!("parked", endpoint = &*row.endpoint, id = %row.id, reason = row.reason.name(), seconds = parked)
}

/// Whether the operation's target could be asked now, as far as is known here.
fn is_able(endpoint: &Endpoint, operation: &Routed) -> bool {
    let nobody = NOBODY.into();
    if !endpoint.upstream().is_usable() {
        return false;
    }
    let Some(breaker) = &operation.governed.of(&nobody, None).breaker else { return true };
    let now = Instant::now();
    let breaker = breaker.gate(&NOBODY.into(), now);
    if breaker.is_closed() {
        return true;
    }
    let status = breaker.status(now);
    match status.state {
        BreakerState::Closed | BreakerState::HalfOpen => true,
        BreakerState::Open => status.next_probe.is_none_or(|next| next <= now),
        BreakerState::Tripped | BreakerState::Held => false,
    }
}

/// A gateway that relays completions, for as long as one operation takes.
struct Relaying<'a> {
    gateway: &'a Gateway,
    worker: usize,
    completions: Arc<Completions>,
}

/// What came of carrying a completion home.
enum Carried {
    Finished,
    NotNow { down: bool },
}

impl Relaying<'_> {
    fn relay(&self) -> &Callbacks {
        self.completions.relay.as_ref().expect("it is only made where there is one")
    }

    fn can_deliver(&self, origin: &str) -> bool {
        let Ok(destination) = Destination::parse(origin) else { return false };
        self.completions.destinations.find(&destination).is_ok_and(|upstream| upstream.is_usable())
    }

    async fn send(&self, row: &Row) -> Sent {
        let start = match self.relay().open_start(&row.id.to_string(), &row.content) {
            Ok(start) => start,
            Err(refused) => {
                unreadable(row, refused);
                return Sent::NotNow { after: Some(LATER) };
            }
        };
        if row.cancel {
            return self.end(row, &start, EndState::Canceled, None, &HeaderMap::new(), canceled_failure()).await;
        }
        let Some(endpoint) = self.gateway.router.find(&row.endpoint) else {
            return Sent::NotNow { after: Some(SOON) };
        };
        let (answer, outcome) = match self.resend(row, &start, &endpoint).await {
            Ok(answered) => answered,
            Err(failure) => return self.failed(row, &start, failure).await,
        };
        let (status, body) = (answer.status(), answer.body());
        let (state, body) = match outcome {
            Outcome::Started => return self.started(row, &start, &endpoint, &answer),
            Outcome::HandlerError(Answered { kind: Some(ErrorType::ResourceExhausted), retryable: true, .. }) => {
                return Sent::Busy { after: None };
            }
            Outcome::HandlerError(answered) if answered.retryable => return Sent::Failed,
            Outcome::OperationFailed => (EndState::Failed, operation_failure(answer.headers(), body)),
            Outcome::OperationCanceled => (EndState::Canceled, operation_failure(answer.headers(), body)),
            Outcome::HandlerError(_) => (EndState::Failed, handler_failure(status, answer.headers(), body)),
            _ => (EndState::Succeeded, body.clone()),
        };
        self.end(row, &start, state, None, answer.headers(), body).await
    }

    fn started(&self, row: &Row, start: &KeptStart, endpoint: &Endpoint, answer: &Response<Bytes>) -> Sent {
        // An answer that was shaped has one.
        let Some(token) = started_token(answer.headers(), answer.body()) else { return Sent::Failed };
        let operation = Operation { target: endpoint.target_ref(), token };
        self.gateway.telemetry.parking.ended(&row.endpoint, "started", since(row.arrived));
        let content = self.relay().keep_started(&row.id.to_string(), &operation);
        // As long as its completion can come home.
        let origin = self.relay().open_origin(&start.sealed);
        let expires = origin.map_or(row.expires, |origin| origin.expires.saturating_mul(1000));
        Sent::Started { content, expires }
    }

    async fn failed(&self, row: &Row, start: &KeptStart, failure: Failure) -> Sent {
        if failure.reason.retryable() {
            return match (failure.reason, reason_of(failure.reason)) {
                // It may have been what brought the target down.
                (Reason::UpstreamReset | Reason::UpstreamBadGateway, _) => Sent::Busy { after: None },
                (Reason::Overloaded, _) => Sent::NotNow { after: failure.retry_after },
                (_, None | Some(ParkReason::RetryableFailure)) => Sent::Failed,
                (_, Some(_)) => Sent::NotNow { after: failure.retry_after },
            };
        }
        let answer = failure.into_response();
        let Content::Whole(body) = answer.body() else { return Sent::Failed };
        self.end(row, start, EndState::Failed, None, &HeaderMap::new(), body.clone()).await
    }

    /// Sends the start, and reads its answer to the end.
    async fn resend(
        &self,
        row: &Row,
        start: &KeptStart,
        endpoint: &Arc<Endpoint>,
    ) -> Result<(Response<Bytes>, Outcome), Failure> {
        let head = head_of(&format!("/nexus/endpoints/{}/services/{}", row.endpoint, start.tail));
        let call = Call { timeout: call::read_timeout(&start.headers)?, ..Call::read(&head)? };
        let operation = endpoint.operation(call.path.key(head.uri.path()));
        let caller = start.caller.clone();
        let governed = operation.governed.of(&caller_key(&caller), caller.namespace());
        let mut visit = self.visit(caller, &start.headers);
        visit.by_name = true;
        visit.record.operation(&operation.metrics);
        visit.record.resumed(Method::Start, since(row.arrived));
        if let Some(line) = visit.record.line() {
            line.endpoint = Some(endpoint.name().into());
            line.service = Some(operation.service.to_string());
            line.operation = Some(operation.operation.to_string());
            line.request_bytes = Some(start.body.len());
        }
        // What is sealed says nothing of where it comes from. What is not was to stay in one cluster, and its callback, with
        // what opens it, is nobody else's business.
        if start.headers.contains_key(&headers::CALLBACK_SOURCE) && leaves_home(&start.headers, endpoint) {
            let message = "the endpoint has left the cluster in which its operation was parked";
            let moved = Failure::new(Reason::RegistryUnavailable, message);
            visit.record.failed(&moved);
            return Err(moved);
        }
        let full = || Failure::new(Reason::Overloaded, "too many bytes of requests are held");
        let _held = self.gateway.gates.bytes.reserve(start.body.len()).ok_or_else(full)?;
        let deadline = Deadline::new(visit.record.started(), call.timeout, governed.policy.timeout);
        let headers = headers_now(start, row);
        let request = Outgoing::again(&start.tail, headers, start.body.clone(), crossing(endpoint, &visit.caller));
        let mut request = request.ok_or_else(|| Failure::new(Reason::BadPath, "the path cannot be forwarded"))?;
        let parks = Some(ParkOn::default());
        // Who may call it was decided before it was parked, and the caller was told that it runs.
        let (authorized, operation) = (Authorized::by_nobody(), &operation);
        let journey = Journey { _authorized: authorized, call: &call, endpoint, operation, governed, deadline, parks };
        let ended = self.gateway.get_through(&mut visit, &journey, &mut request).await;
        read_whole(&mut visit.record, ended, governed.policy.max_response_body).await
    }

    /// Delivers the end of an operation, or says what is to be kept of it until that works.
    async fn end(
        &self,
        row: &Row,
        start: &KeptStart,
        state: EndState,
        end: Option<&'static str>,
        answer: &HeaderMap,
        body: Bytes,
    ) -> Sent {
        let completion = complete(row, start, state, answer, body);
        let carrying = self.carry(row, &completion, end.unwrap_or(state.name()));
        match timeout(FIRST_DELIVERY, carrying).await {
            Ok(Carried::Finished) => Sent::Finished,
            Ok(Carried::NotNow { .. }) | Err(_) => {
                keep(&self.gateway.router, self.relay(), row, &completion).map_or(Sent::Failed, Sent::Ended)
            }
        }
    }

    /// Sends a completion to its caller's cluster, once.
    async fn carry(&self, row: &Row, completion: &KeptCompletion, end: &str) -> Carried {
        let mut headers = completion.headers.clone();
        let (gateway, ended) = (self.gateway, |end: &str| {
            self.gateway.telemetry.parking.ended(&row.endpoint, end, since(row.arrived));
            Carried::Finished
        });
        let home = match self.relay().open_completion(&completion.sealed, &mut headers) {
            Ok(home) => home,
            Err(Refused::UnknownKey) => {
                unreadable(row, Refused::UnknownKey);
                return Carried::NotNow { down: false };
            }
            Err(_) => return ended("undeliverable"),
        };
        let upstream = match self.completions.destinations.find(&home.destination) {
            Ok(upstream) => upstream,
            Err(forbidden) => {
                tracing::warn!(endpoint = &*row.endpoint, %forbidden, "a completion waits: callbacks.allow has changed");
                return Carried::NotNow { down: true };
            }
        };
        if !upstream.is_usable() {
            return Carried::NotNow { down: true };
        }
        let caller = completion.caller.clone();
        let policy = gateway.router.default_policy(&caller_key(&caller), caller.namespace());
        let mut visit = self.visit(caller, &headers);
        gateway.describe_completion(&mut visit, &home.origin);
        visit.record.resumed(Method::Complete, since(row.arrived));
        let deadline = Deadline::new(visit.record.started(), None, policy.timeout);
        let mut body = completion.body.clone();
        if gateway.redacts(&home.origin) {
            body = redact_completion(&mut headers, body);
        }
        let request = Outgoing::raw(home.destination.uri(), headers, body);
        let purse = self.completions.purse(&home.destination);
        let shaped = gateway.send_home(&mut visit, (&upstream, purse), request, &policy, &deadline).await;
        match read_whole(&mut visit.record, shaped, policy.max_response_body).await {
            Ok((_, Outcome::Delivered)) => ended(end),
            Ok((answer, _)) if is_stale_reference(answer.status(), answer.headers(), answer.body()) => ended("stale"),
            Ok((_, Outcome::HandlerError(answered))) if answered.retryable => Carried::NotNow { down: false },
            Ok((answer, _)) => {
                let (status, id) = (answer.status().as_u16(), row.id);
                tracing::warn!(endpoint = &*row.endpoint, %id, status, "a completion was refused for good");
                match instead(completion, status) {
                    // Told nothing, its caller would wait for what never comes.
                    Some(failed) => Box::pin(self.carry(row, &failed, "undeliverable")).await,
                    None => ended("undeliverable"),
                }
            }
            Err(failure) => Carried::NotNow { down: failure.reason == Reason::UpstreamUnreachable },
        }
    }

    /// Cancels an operation at its target, once. Whether that got through.
    async fn cancel(&self, row: &Row, running: &Operation) -> bool {
        let key = row.lane.splitn(3, '/').nth(2).unwrap_or_default();
        let mut head = head_of(&format!("/nexus/endpoints/{}/services/{key}/cancel", row.endpoint));
        if let Some(token) = headers::sensitive(running.token.as_bytes()) {
            head.headers.insert(&headers::OPERATION_TOKEN, token);
        }
        let (Ok(call), Some(endpoint)) = (Call::read(&head), self.gateway.router.find(&row.endpoint)) else {
            return false;
        };
        let there = endpoint.target_ref() == running.target;
        let elsewhere = || self.gateway.router.leading_to(&endpoint, &running.target);
        let Some(endpoint) = there.then(|| Arc::clone(&endpoint)).or_else(elsewhere) else { return false };
        let operation = endpoint.operation(key);
        let caller = Caller::absent(NOBODY, None);
        let governed = operation.governed.of(&caller_key(&caller), caller.namespace());
        let mut visit = self.visit(caller, &head.headers);
        visit.record.asked(Method::Cancel);
        visit.record.operation(&operation.metrics);
        let deadline = Deadline::new(visit.record.started(), None, governed.policy.timeout);
        let Ok(mut request) = outgoing(&mut visit, head, &call, &endpoint, Bytes::new()) else { return false };
        let (authorized, endpoint, operation) = (Authorized::by_nobody(), &endpoint, &operation);
        let journey =
            Journey { _authorized: authorized, call: &call, endpoint, operation, governed, deadline, parks: None };
        let ended = self.gateway.get_through(&mut visit, &journey, &mut request).await;
        match read_whole(&mut visit.record, ended, governed.policy.max_response_body).await {
            Ok((_, Outcome::HandlerError(answered))) => !answered.retryable,
            Ok(_) => true,
            Err(_) => false,
        }
    }

    fn visit(&self, caller: Caller, head: &HeaderMap) -> Visit {
        let mut record = Record::begin(&self.gateway.telemetry, Instant::now(), caller.peer(), head);
        if let Some(identity) = caller.identity() {
            record.known_as(&identity.name, identity.namespace.as_ref(), identity.how.name());
        }
        let (worker, place, permit, left) = (self.worker, None, None, None);
        Visit { worker, caller, record, by_name: false, redact: false, place, permit, left }
    }
}

impl Gateway {
    /// The completion of an operation that its caller cancels while nobody runs it.
    pub(super) fn canceled(&self, relay: &Callbacks, row: &Row) -> Option<Ending> {
        let start = relay.open_start(&row.id.to_string(), &row.content).ok()?;
        let completion = complete(row, &start, EndState::Canceled, &HeaderMap::new(), canceled_failure());
        keep(&self.router, relay, row, &completion)
    }

    /// The completion of an operation that an operator ends with a message.
    pub fn failed_by_hand(&self, row: &Row, message: &str) -> Option<Ending> {
        let completions = self.completions.load_full()?;
        let relay = completions.relay.as_ref()?;
        let start = relay.open_start(&row.id.to_string(), &row.content).ok()?;
        let body = failure::body(ErrorType::Internal, false, message).into();
        let completion = complete(row, &start, EndState::Failed, &HeaderMap::new(), body);
        keep(&self.router, relay, row, &completion)
    }
}

/// A completion as it is kept until it is delivered.
fn keep(router: &Router, relay: &Callbacks, row: &Row, completion: &KeptCompletion) -> Option<Ending> {
    let origin = relay.open_origin(&completion.sealed).ok()?;
    let destination = Destination::parse(&origin.url).ok()?;
    let policy = router.default_policy(&caller_key(&completion.caller), completion.caller.namespace());
    let holds = policy.park.as_ref().map_or_else(|| ParkSettings::default().max_age, |park| park.settings.max_age);
    let content = relay.keep_completion(&row.id.to_string(), completion);
    Some(Ending { lane: format!("d/{destination}").into(), content, holds })
}

/// The completion of an operation that ended so.
fn complete(row: &Row, start: &KeptStart, state: EndState, answer: &HeaderMap, body: Bytes) -> KeptCompletion {
    let started = SystemTime::UNIX_EPOCH + Duration::from_millis(row.arrived);
    let ended = Ended { state, token: &row.token, started, closed: SystemTime::now() };
    let mut headers = completion_head(&start.headers, answer, ended);
    if state != EndState::Succeeded {
        describe_failure(&mut headers);
    }
    KeptCompletion { sealed: start.sealed.clone(), headers, body, caller: start.caller.clone() }
}

/// Its headers with what is left of the time that the caller gives the whole operation.
fn headers_now(start: &KeptStart, row: &Row) -> HeaderMap {
    let mut out = start.headers.clone();
    let given = out.get(&headers::OPERATION_TIMEOUT).and_then(|value| value.to_str().ok());
    if let Some(given) = given.and_then(parse_operation) {
        let left = given.saturating_sub(since(row.arrived)).max(Duration::from_millis(1));
        if let Ok(value) = timeouts::format(left).try_into() {
            out.insert(&headers::OPERATION_TIMEOUT, value);
        }
    }
    out
}

/// Reads an answer to its end, and notes what it is.
async fn read_whole(record: &mut Record, ended: Shaped, limit: usize) -> Result<(Response<Bytes>, Outcome), Failure> {
    let (answer, outcome) = ended.inspect_err(|failure| record.failed(failure))?;
    let (head, content) = answer.into_parts();
    let body = match content {
        Content::Whole(body) => body,
        Content::Streamed(mut body) => match collect(&mut body, limit).await {
            Ok(Collected::All(body)) => body,
            Ok(Collected::More(_)) => return Err(broken(record, Broken::TooLarge)),
            Err(why) => return Err(broken(record, why)),
        },
    };
    record.answered(outcome, head.status);
    record.complete(body.len() as u64);
    Ok((Response::from_parts(head, body), outcome))
}

/// The failure that takes the place of a result which its caller's cluster does not take.
fn instead(refused: &KeptCompletion, status: u16) -> Option<KeptCompletion> {
    if state_name(&refused.headers) != EndState::Succeeded.name() {
        return None;
    }
    let mut head = refused.headers.clone();
    describe_failure(&mut head);
    head.insert(&headers::OPERATION_STATE, HeaderValue::from_static(EndState::Failed.name()));
    let message = format!("the operation succeeded, but the caller's cluster refused its result with status {status}");
    let body = failure::body(ErrorType::Internal, false, &message).into();
    Some(KeptCompletion { headers: head, body, ..refused.clone() })
}

fn broken(record: &mut Record, why: Broken) -> Failure {
    let reason = match why {
        Broken::Lost => Reason::UpstreamReset,
        Broken::TooLarge => Reason::UpstreamTooLarge,
        Broken::Late => Reason::UpstreamTimeout,
    };
    let failure = Failure::new(reason, why.to_string());
    record.failed(&failure);
    failure
}

fn head_of(path: &str) -> Parts {
    let mut head = Request::new(()).into_parts().0;
    head.method = http::Method::POST;
    head.uri = path.parse().unwrap_or_default();
    head
}

fn state_name(completion: &HeaderMap) -> &'static str {
    let state = completion.get(&headers::OPERATION_STATE);
    let states = [EndState::Succeeded, EndState::Failed, EndState::Canceled].map(EndState::name);
    states.into_iter().find(|name| state.is_some_and(|state| state == name)).unwrap_or("unknown")
}

/// It stays where it is: a key that a reload took away may come back, and another replica may have it.
fn unreadable(row: &Row, refused: Refused) {
    let (endpoint, id) = (&*row.endpoint, row.id);
    tracing::error!(endpoint, %id, ?refused, "what is kept of a parked operation cannot be opened: is its key gone?");
}
