//! The order of the stages, and nothing else.
//!
//! [`Gateway::serve`] cannot fail: it wraps `process`, in which every stage may end the request with a
//! [`Failure`]. Any await may be the last one, since the client may leave; what a request takes is given back when its
//! [`Record`] or its answer's body is dropped.

use std::pin::{Pin, pin};
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use http_body::Body as HttpBody;
use tokio::time::{Instant, timeout_at};

use crate::admission::{Authentication, Authorization, Caller, Identity, Peer};
use crate::body::{Body, Broken, OnEnd};
use crate::callback::Completions;
use crate::callback::tokens::Tokens;
use crate::gates::concurrency::{Permit, Refused};
use crate::gates::rate_limit::Why;
use crate::gates::{Account, CallerKey, Gates, IN_FLIGHT};
use crate::nexus::path::decode;
use crate::nexus::{Call, Method, headers};
use crate::park::Park;
use crate::registry::{LookUp, Registry};
use crate::resilience::Deadline;
use crate::response::{Asked, Failure, Outcome, Reason};
use crate::route::{Endpoint, Governed, Policy, Router};
use crate::telemetry::{Record, Stage, Telemetry, waited_at};
use crate::upstream::{Crossing, Outgoing};

mod admit;
mod attempts;
mod authenticating;
mod callbacks;
mod completion;
mod finishing;
mod judge;
mod parking;
mod reading;
mod redacting;
mod trial;

use admit::unknown;
use attempts::{Journey, urgency};
use callbacks::{about, leaves_home};
use completion::completion_route;
pub use finishing::Finisher;
use judge::Shaped;
use parking::{Parking, Start};
use reading::read_request;
use redacting::redact_answer;

/// The way of a request through the gateway.
pub struct Gateway {
    router: Arc<Router>,
    registry: Arc<Registry>,
    telemetry: Arc<Telemetry>,
    gates: Arc<Gates>,
    authentication: ArcSwapOption<Authentication>,
    authorization: ArcSwap<Authorization>,
    completions: ArcSwapOption<Completions>,
    park: ArcSwapOption<Park>,
}

/// One request on its way: what is known of it besides its head and body, and what it holds.
struct Visit {
    worker: usize,
    caller: Caller,
    record: Record,
    /// Whether the endpoint was asked for by its name: only then may another id take the place of one that is gone.
    by_name: bool,
    /// Whether the failure of a handler is cut before its caller gets it.
    redact: bool,
    /// Its place among the requests that the process has in flight.
    place: Option<Permit>,
    /// Its place among the requests on their way to the operation.
    permit: Option<Permit>,
    /// Its rate limit and what is left of it, where its answer shall say so.
    left: Option<(String, String)>,
}

impl Visit {
    /// By what rules name its caller.
    fn caller_key(&self) -> CallerKey {
        caller_key(&self.caller)
    }

    /// By what limits tell its caller apart.
    fn account(&self) -> Account {
        let named = |identity: &Arc<Identity>| Account::named(Arc::clone(&identity.name), identity.namespace.clone());
        self.caller.identity().map_or_else(|| self.caller.ip().into(), named)
    }
}

fn caller_key(caller: &Caller) -> CallerKey {
    caller.identity().map_or_else(|| caller.ip().into(), |identity| Arc::clone(&identity.name).into())
}

/// What a request holds until the last byte of its answer.
pub struct Holding {
    record: Record,
    _place: Option<Permit>,
    _permit: Option<Permit>,
}

impl OnEnd for Holding {
    fn complete(&mut self, bytes: u64) {
        self.record.complete(bytes);
    }

    fn broken(&mut self, why: Broken) {
        self.record.broken(why);
    }
}

impl Gateway {
    /// A gateway over these parts.
    pub fn new(router: Arc<Router>, registry: Arc<Registry>, telemetry: Arc<Telemetry>, gates: Arc<Gates>) -> Self {
        Self {
            router,
            registry,
            telemetry,
            gates,
            authentication: ArcSwapOption::empty(),
            authorization: ArcSwap::default(),
            completions: ArcSwapOption::empty(),
            park: ArcSwapOption::empty(),
        }
    }

    /// From now on it is found out so who sends a request, or not at all.
    pub fn authenticate_by(&self, authentication: Option<Arc<Authentication>>) {
        self.authentication.store(authentication);
    }

    /// What finds out who sends a request, if anything does.
    pub fn authentication(&self) -> Option<Arc<Authentication>> {
        self.authentication.load_full()
    }

    /// From now on completions go so, and tokens of operations are sealed so.
    pub fn complete_by(&self, completions: Completions) {
        let any = completions.tokens.is_some() || completions.home.is_some();
        self.completions.store(any.then(|| Arc::new(completions)));
    }

    /// Answers `request`, which came from `peer` to the thread `worker`.
    pub async fn serve<B>(&self, worker: usize, peer: &Peer, request: Request<B>) -> Response<Body<Holding>>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let (head, body) = request.into_parts();
        let record = Record::begin(&self.telemetry, Instant::now(), peer.address, &head.headers);
        let caller = Caller::anonymous(peer);
        let mut visit =
            Visit { worker, caller, record, by_name: false, redact: false, place: None, permit: None, left: None };
        let mut answer = match self.process(&mut visit, peer, head, body).await {
            Ok((mut answer, outcome)) => {
                visit.record.answered(outcome, answer.status());
                if visit.redact {
                    redact_answer(&mut answer, outcome);
                }
                answer
            }
            Err(failure) => {
                visit.record.failed(&failure);
                if visit.caller.may_look_inside() { failure.in_full() } else { failure }.into_response()
            }
        };
        if let Some((policy, left)) = visit.left {
            headers::tell_limit(answer.headers_mut(), &policy, &left);
        }
        let holding = Holding { record: visit.record, _place: visit.place, _permit: visit.permit };
        answer.map(|content| Body::new(content, holding))
    }

    /// Answers a request of `peer` that may not go through the stages.
    pub fn turn_away(&self, peer: &Peer, headers: &HeaderMap, failure: Failure) -> Response<Body<Holding>> {
        let mut record = Record::begin(&self.telemetry, Instant::now(), peer.address, headers);
        record.failed(&failure);
        let holding = Holding { record, _place: None, _permit: None };
        failure.into_response().map(|content| Body::new(content, holding))
    }

    async fn process<B>(&self, visit: &mut Visit, peer: &Peer, mut head: Parts, body: B) -> Shaped
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let route = completion_route(head.uri.path());
        if let Some(authentication) = self.authentication.load_full() {
            let known = Box::pin(self.authenticate(&authentication, visit, peer, &mut head, route.is_some())).await;
            known.inspect_err(|_| describe_refused(visit, &head))?;
        }
        if let Some(route) = route {
            return Box::pin(self.carry_completion(visit, head, body, route)).await;
        }
        let mut call = Call::read(&head)?;
        visit.record.asked(call.path.method);
        describe(visit, &head, &call);
        self.let_in(visit)?;
        let mut endpoint = self.find(visit, &head, &call).await?;
        let authorized = self.authorize(visit, &endpoint, &head, &call)?;
        visit.by_name =
            decode(&head.uri.path()[call.path.endpoint.clone()]).is_some_and(|name| name == endpoint.name());
        let operation = endpoint.operation(call.path.key(head.uri.path()));
        visit.record.operation(&operation.metrics);
        let governed = operation.governed.of(&visit.caller_key(), visit.caller.namespace());
        visit.redact = governed.policy.redact;
        let terms = self.token_terms(&governed.policy);
        if call.path.method != Method::Start
            && let Some(answer) = self.follow_token(visit, &mut head, &mut call, &mut endpoint, terms).await?
        {
            return Ok((answer, Outcome::CancelAccepted));
        }
        let deadline = Deadline::new(visit.record.started(), call.timeout, governed.policy.timeout);

        self.enter(visit, call.path.method, &deadline).await?;
        let reading = read_request(&head.headers, body, governed.policy.max_request_body, &self.gates);
        let in_time = timeout_at(deadline.at(), pin!(reading)).await;
        let (body, _held) = in_time.unwrap_or_else(|_| Err(late(&deadline, false)))?;
        let completions = if governed.policy.relay || terms.sealed { self.completions.load_full() } else { None };
        let relay = completions.as_ref().and_then(|completions| completions.relay.as_ref());
        let relay = relay.filter(|_| governed.policy.relay);
        let sealing = relay.filter(|_| call.path.method == Method::Start && leaves_home(&head.headers, &endpoint));
        let parking = Parking::of(self, (&head, &call), &endpoint, &governed.policy, relay);
        let key = if sealing.is_some() || parking.is_some() || terms.sealed {
            call.path.key(head.uri.path()).to_owned()
        } else {
            String::new()
        };
        // It says whose `temporal://system` is meant, and ends at this gateway.
        let wraps = sealing.is_some() && terms.sticky;
        let source = sealing.and_then(|_| head.headers.get(&headers::CALLBACK_SOURCE).cloned());
        let mut request = outgoing(visit, head, &call, &endpoint, body)?;
        let sealed = match sealing {
            Some(relay) => {
                let about = about(&visit.caller, &endpoint, &key, terms.sticky);
                self.seal_start(relay, about, source.as_ref(), &mut request)?
            }
            None => false,
        };
        let parks = parking.as_ref().map(|parking| parking.rule.on);
        let (endpoint, operation) = (&endpoint, &operation);
        let journey = Journey { _authorized: authorized, call: &call, endpoint, operation, governed, deadline, parks };
        let (answer, outcome) = match parking {
            None => self.get_through(visit, &journey, &mut request).await?,
            Some(parking) => {
                let start = Start { key: &key, sealed, source: source.as_ref() };
                Box::pin(self.get_through_or_park(visit, parking, journey, start, request)).await?
            }
        };
        let tokens = completions.as_ref().and_then(|completions| completions.tokens.as_ref());
        let seals = || sealed || terms.sealed || wraps && Tokens::looks_sealed(&answer);
        let answer = match tokens.filter(|_| outcome == Outcome::Started && seals()) {
            Some(tokens) => tokens.seal_started(answer, &about(&visit.caller, endpoint, &key, terms.sticky)),
            None => answer,
        };
        Ok((answer, outcome))
    }

    /// Waits for the request's turn and makes attempts.
    async fn get_through(&self, visit: &mut Visit, journey: &Journey<'_>, request: &mut Outgoing) -> Shaped {
        self.await_turn(visit, journey.governed, &journey.deadline).await?;
        self.attempts(visit, journey, request).await
    }

    /// The endpoint that the request names. One that the table does not have may have been created a moment ago.
    async fn find(&self, visit: &mut Visit, head: &Parts, call: &Call) -> Result<Arc<Endpoint>, Failure> {
        let raw = &head.uri.path()[call.path.endpoint.clone()];
        let name = decode(raw).unwrap_or_default();
        if let Some(endpoint) = self.router.find(&name) {
            return Ok(endpoint);
        }
        self.may_know(visit, &name)?;
        let allowed = self.router.default_policy(&visit.caller_key(), visit.caller.namespace()).timeout;
        let deadline = Deadline::new(visit.record.started(), call.timeout, allowed);
        let unavailable = |why: &str| {
            let message = format!("endpoint {name:?} is not known, and {why}");
            Failure::new(Reason::RegistryUnavailable, message)
        };
        let by = visit.account();
        match timeout_at(deadline.at(), Box::pin(self.look_up(&name, &by))).await {
            Err(_) => Err(unavailable("no registry answered before the request's deadline")),
            Ok(LookUp::Unavailable(why)) => Err(unavailable("a registry could not be asked").because(why)),
            Ok(LookUp::TooMany) => Err(unavailable("too many look-ups wait for the registries")),
            Ok(LookUp::Found) => self.router.find(&name).ok_or_else(|| unavailable("it changed a moment ago")),
            Ok(LookUp::Absent) => Err(unknown(&name)),
        }
    }

    /// Asks the registry for a name that the table does not have.
    async fn look_up(&self, name: &str, by: &Account) -> LookUp {
        let looked_up = self.registry.look_up(name, by).await;
        let is_settled = || self.router.find(name).is_some();
        if looked_up == LookUp::Found && !is_settled() {
            // It was found a moment ago and is gone again, renamed or deleted.
            return self.registry.look_up_since(name, by, Instant::now(), is_settled).await;
        }
        looked_up
    }

    /// Takes a place among the requests that the process has in flight.
    async fn enter(&self, visit: &mut Visit, method: Method, deadline: &Deadline) -> Result<(), Failure> {
        if let Some(place) = self.gates.in_flight.try_enter() {
            visit.place = Some(place);
            return Ok(());
        }
        let entering = self.gates.in_flight.enter(urgency(method), deadline.waits_until());
        let entered = self.wait(visit, Stage::Admission, entering).await;
        let refused = |refused: Refused| Failure::refused(Reason::Overloaded, IN_FLIGHT, refused.retry_after, refused);
        visit.place = Some(entered.map_err(refused)?.0);
        Ok(())
    }

    /// Waits for the request's turn under its rate limit.
    async fn await_turn(&self, visit: &mut Visit, governed: &Governed, deadline: &Deadline) -> Result<(), Failure> {
        let Some(limit) = &governed.rate_limit else { return Ok(()) };
        let gate = limit.gate(&visit.account(), visit.record.started());
        let turn = match gate.arrive(visit.record.started()) {
            Some(turn) => turn,
            None => self.wait(visit, Stage::RateLimit, gate.wait(deadline.waits_until())).await,
        };
        if gate.settings().headers {
            let left = turn.as_ref().map_or_else(|refused| refused.left, |turn| turn.left);
            visit.left = Some(left.headers(&limit.rule));
        }
        turn.map(|_| ()).map_err(|refused| {
            let unavailable = refused.why == Why::StoreUnavailable;
            let reason = if unavailable { Reason::LimitUnavailable } else { Reason::RateLimited };
            Failure::refused(reason, Arc::clone(&limit.rule), refused.retry_after, refused)
        })
    }

    /// Lets the request wait at a stage. Boxed, since most requests need not wait, and the room for it would make the
    /// future of every request larger.
    fn wait<'a, T: Send>(
        &'a self,
        visit: &'a mut Visit,
        stage: Stage,
        wait: impl Future<Output = T> + Send + 'a,
    ) -> Pin<Box<dyn Future<Output = T> + Send + 'a>> {
        Box::pin(async move {
            let (done, waited) = waited_at(&self.telemetry, stage, wait).await;
            visit.record.waited(waited);
            done
        })
    }
}

/// The request as it goes to `endpoint`.
fn outgoing(
    visit: &mut Visit,
    head: Parts,
    call: &Call,
    endpoint: &Endpoint,
    body: Bytes,
) -> Result<Outgoing, Failure> {
    let size = body.len();
    let request = Outgoing::new(head, call, crossing(endpoint, &visit.caller), body)
        .ok_or_else(|| Failure::new(Reason::BadPath, "the path cannot be forwarded"))?;
    if let Some(line) = visit.record.line() {
        line.request_bytes = Some(size);
        if let Some(id) = request.headers.get(&headers::REQUEST_ID).and_then(|id| id.to_str().ok()) {
            line.request_id(id);
        }
    }
    Ok(request)
}

fn crossing<'a>(endpoint: &'a Endpoint, caller: &Caller) -> Crossing<'a> {
    let cluster_id = endpoint.entry().cluster_id.as_deref();
    Crossing { prefix: endpoint.prefix(), cluster_id, may_steer: caller.may_steer(), pass: endpoint.purse().pass() }
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

/// Notes for the logs what was asked for by somebody who was refused before anything was read.
fn describe_refused(visit: &mut Visit, head: &Parts) {
    if visit.record.line().is_some()
        && let Ok(call) = Call::read(head)
    {
        visit.record.asked(call.path.method);
        describe(visit, head, &call);
    }
}

/// Notes for the logs which operation is asked for.
fn describe(visit: &mut Visit, head: &Parts, call: &Call) {
    if let Some(line) = visit.record.line() {
        let path = head.uri.path();
        let decoded =
            |part: &std::ops::Range<usize>| decode(&path[part.clone()]).map(|text| text.chars().take(200).collect());
        line.endpoint = decoded(&call.path.endpoint);
        line.service = decoded(&call.path.service);
        line.operation = decoded(&call.path.operation);
    }
}
