//! The order of the stages, and nothing else.
//!
//! [`Gateway::serve`] cannot fail: it wraps `process`, in which every stage may end the request with a
//! [`Failure`]. Any await may be the last one, since the client may leave; what a request takes is given back when its
//! [`Record`] or its answer's body is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response, StatusCode, response};
use http_body::Body as HttpBody;
use tokio::time::{Instant, timeout_at};

use crate::admission::Caller;
use crate::body::{Body, Collected, Content, collect};
use crate::nexus::path::decode;
use crate::nexus::{Call, headers};
use crate::registry::{LookUp, Registry};
use crate::resilience::Deadline;
use crate::response::{Asked, Failure, Outcome, Reason, shape};
use crate::route::{Endpoint, Policy, Router};
use crate::telemetry::{Record, Telemetry};
use crate::upstream::{Crossing, Exchange, Outgoing};

/// The way of a request through the gateway.
pub struct Gateway {
    router: Arc<Router>,
    registry: Arc<Registry>,
    telemetry: Arc<Telemetry>,
}

/// One request on its way: what is known of it besides its head and body.
struct Visit<'a> {
    worker: usize,
    caller: &'a Caller,
    record: Record,
    /// Whether the endpoint was asked for by its name: only then may another id take the place of one that is gone.
    by_name: bool,
}

impl Gateway {
    /// A gateway over these parts.
    pub fn new(router: Arc<Router>, registry: Arc<Registry>, telemetry: Arc<Telemetry>) -> Self {
        Self { router, registry, telemetry }
    }

    /// Answers `request`, which came from `caller` to the thread `worker`.
    pub async fn serve<B>(&self, worker: usize, caller: &Caller, request: Request<B>) -> Response<Body<Record>>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let (head, body) = request.into_parts();
        let record = Record::begin(&self.telemetry, Instant::now(), caller.peer(), &head.headers);
        let mut visit = Visit { worker, caller, record, by_name: false };
        let answer = match self.process(&mut visit, head, body).await {
            Ok((answer, outcome)) => {
                visit.record.answered(outcome, answer.status());
                answer
            }
            Err(failure) => {
                visit.record.failed(failure.reason);
                failure.into_response()
            }
        };
        answer.map(|content| Body::new(content, visit.record))
    }

    async fn process<B>(
        &self,
        visit: &mut Visit<'_>,
        head: Parts,
        body: B,
    ) -> Result<(Response<Content>, Outcome), Failure>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let call = Call::read(&head)?;
        visit.record.asked(call.path.method);
        let endpoint = self.find(visit, &head, &call).await?;
        visit.by_name =
            decode(&head.uri.path()[call.path.endpoint.clone()]).is_some_and(|name| name == endpoint.name());
        let operation = endpoint.operation(call.path.key(head.uri.path()));
        visit.record.operation(&operation.metrics);
        let policy = operation.policies.of(visit.caller.peer().ip());
        let deadline = Deadline::new(visit.record.started(), call.timeout, policy.timeout);

        let sent = AtomicBool::new(false);
        let forwarded = async {
            let body = read_request(&head.headers, body, policy.max_request_body).await?;
            let request = outgoing(visit, head, &call, &endpoint, body)?;
            let (head, exchange) = self.attempt(visit, &call, &endpoint, request, &deadline, &sent).await?;
            shape(head, exchange, asked(&call, &endpoint, policy, &deadline)).await
        };
        let in_time = timeout_at(deadline.at(), forwarded).await;
        in_time.unwrap_or_else(|_| Err(late(&deadline, sent.load(Ordering::Relaxed))))
    }

    /// The endpoint that the request names. One that the table does not have may have been created a moment ago.
    async fn find(&self, visit: &mut Visit<'_>, head: &Parts, call: &Call) -> Result<Arc<Endpoint>, Failure> {
        let raw = &head.uri.path()[call.path.endpoint.clone()];
        let name = decode(raw).unwrap_or_default();
        describe(visit, &name, head, call);
        if let Some(endpoint) = self.router.find(&name) {
            return Ok(endpoint);
        }
        let allowed = self.router.default_policy(visit.caller.peer().ip()).timeout;
        let deadline = Deadline::new(visit.record.started(), call.timeout, allowed);
        let unavailable = |why: &str| {
            let message = format!("endpoint {name:?} is not known, and the registry could not be asked: {why}");
            Failure::new(Reason::RegistryUnavailable, message)
        };
        let looked_up = timeout_at(deadline.at(), self.look_up(&name)).await;
        match looked_up {
            Err(_) => Err(unavailable("no answer before the request's deadline")),
            Ok(LookUp::Unavailable(why)) => Err(unavailable(&why)),
            Ok(LookUp::Found) => self.router.find(&name).ok_or_else(|| unavailable("it changed a moment ago")),
            Ok(LookUp::Absent) => {
                Err(Failure::new(Reason::UnknownEndpoint, format!("no Nexus endpoint is named {name:?}")))
            }
        }
    }

    /// Asks the registry for a name that the table does not have.
    async fn look_up(&self, name: &str) -> LookUp {
        let looked_up = self.registry.look_up(name).await;
        if looked_up == LookUp::Found && self.router.find(name).is_none() {
            // It was found a moment ago and is gone again, renamed or deleted.
            return self.registry.look_up_since(name, Instant::now()).await;
        }
        looked_up
    }

    /// Sends the request. Where the cluster does not know the endpoint's id any more, the endpoint may have been
    /// deleted and created again since the registry was read: then once more, to the one that there is now.
    async fn attempt(
        &self,
        visit: &mut Visit<'_>,
        call: &Call,
        endpoint: &Arc<Endpoint>,
        mut request: Outgoing,
        deadline: &Deadline,
        sent: &AtomicBool,
    ) -> Result<(response::Parts, Exchange), Failure> {
        let answer = send(visit, call, endpoint, &mut request, deadline, sent).await?;
        if !visit.by_name || !may_be_gone(endpoint, &answer.0) || Instant::now() > deadline.last_start() {
            return Ok(answer);
        }
        if let LookUp::Unavailable(why) = self.registry.look_up_since(endpoint.name(), Instant::now()).await {
            let message = format!(
                "the cluster answered 404, and its registry could not be asked whether endpoint {:?} \
                still exists: {why}",
                endpoint.name()
            );
            return Err(Failure::new(Reason::RegistryUnavailable, message));
        }
        match self.router.find(endpoint.name()) {
            Some(now) if now.entry().source == endpoint.entry().source && now.prefix() != endpoint.prefix() => {
                request.redirect(crossing(&now, visit.caller));
                send(visit, call, &now, &mut request, deadline, sent).await
            }
            _ => Ok(answer),
        }
    }
}

/// Reads the whole request, so that it can be sent more than once.
async fn read_request<B>(headers: &HeaderMap, mut body: B, limit: usize) -> Result<Bytes, Failure>
where
    B: HttpBody<Data = Bytes> + Unpin,
{
    let too_large = || {
        let message = format!("the request is larger than max_request_body, {limit} bytes");
        Failure::new(Reason::RequestTooLarge, message)
    };
    if body.size_hint().lower() > limit as u64 {
        return Err(too_large());
    }
    match collect(&mut body, limit).await {
        Ok(Collected::All(bytes)) => Ok(bytes),
        Ok(Collected::More(_)) => Err(too_large()),
        Err(_) if headers.contains_key(http::header::TRANSFER_ENCODING) => {
            Err(Failure::new(Reason::BadBody, "the request's body ended early, or its chunks are not well-formed"))
        }
        Err(_) => Err(Failure::new(Reason::BadBody, "the request's body ended before its Content-Length")),
    }
}

/// The request as it goes to `endpoint`.
fn outgoing(
    visit: &mut Visit<'_>,
    head: Parts,
    call: &Call,
    endpoint: &Endpoint,
    body: Bytes,
) -> Result<Outgoing, Failure> {
    let size = body.len();
    let request = Outgoing::new(head, call, crossing(endpoint, visit.caller), body)
        .ok_or_else(|| Failure::new(Reason::BadPath, "the path cannot be forwarded"))?;
    if let Some(line) = visit.record.line() {
        line.request_bytes = Some(size);
        if let Some(id) = request.headers.get(&headers::REQUEST_ID).and_then(|id| id.to_str().ok()) {
            line.request_id(id);
        }
    }
    Ok(request)
}

/// One attempt, with the time that is left.
async fn send(
    visit: &mut Visit<'_>,
    call: &Call,
    endpoint: &Endpoint,
    request: &mut Outgoing,
    deadline: &Deadline,
    sent: &AtomicBool,
) -> Result<(response::Parts, Exchange), Failure> {
    let began = Instant::now();
    request.set_timeout(call.timeout, deadline.forwarded(began));
    let (head, exchange) = endpoint.upstream().send(visit.worker, request, deadline.last_start(), sent).await?;
    visit.record.upstream(began.elapsed(), exchange.socket());
    Ok((head, exchange))
}

/// Whether an answer may mean that the cluster does not know the endpoint's id, rather than that a worker does not
/// know the operation.
fn may_be_gone(endpoint: &Endpoint, answer: &response::Parts) -> bool {
    answer.status == StatusCode::NOT_FOUND
        && endpoint.is_dispatched_by_id()
        && !answer.headers.contains_key(&headers::FAILURE_SOURCE)
}

fn crossing<'a>(endpoint: &'a Endpoint, caller: &Caller) -> Crossing<'a> {
    let cluster_id = endpoint.entry().cluster_id.as_deref();
    Crossing { prefix: endpoint.prefix(), cluster_id, may_steer: caller.may_steer() }
}

fn asked(call: &Call, endpoint: &Endpoint, policy: &Policy, deadline: &Deadline) -> Asked {
    Asked {
        method: call.path.method,
        temporal: endpoint.entry().definition.is_temporal(),
        limit: policy.max_response_body,
        deadline: deadline.at(),
    }
}

/// The failure for a deadline that passed; it says which one, and where the time went.
fn late(deadline: &Deadline, sent: bool) -> Failure {
    let whose = if deadline.is_callers() { "the caller's Request-Timeout" } else { "the policy's timeout" };
    let total = deadline.total();
    if sent {
        Failure::new(Reason::UpstreamTimeout, format!("the upstream did not answer within {whose}, {total:?}"))
    } else {
        Failure::new(Reason::DeadlineExceeded, format!("{whose}, {total:?}, passed before the request was sent"))
    }
}

/// Notes for the access log which operation is asked for.
fn describe(visit: &mut Visit<'_>, endpoint: &str, head: &Parts, call: &Call) {
    if let Some(line) = visit.record.line() {
        let path = head.uri.path();
        let decoded =
            |part: &std::ops::Range<usize>| decode(&path[part.clone()]).map(|text| text.chars().take(200).collect());
        line.endpoint = Some(endpoint.chars().take(200).collect());
        line.service = decoded(&call.path.service);
        line.operation = decoded(&call.path.operation);
    }
}
