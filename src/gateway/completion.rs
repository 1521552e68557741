//! Completions: opened, sent home, answered as their destination answers.
//!
//! The handler's cluster sends a completion again until it is answered with anything but a 5xx, and gives up for good on
//! a 400, 401, 403, 404, 409 or 501. So whatever may heal is a 503 here, and only what will never open is a 400.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use http::request::Parts;
use http::{Response, StatusCode};
use http_body::Body as HttpBody;
use tokio::time::{Instant, timeout_at};

use super::judge::Shaped;
use super::reading::read_request;
use super::redacting::redact_completion;
use super::{Gateway, Visit, late};
use crate::admission::authorize::Completion;
use crate::body::Content;
use crate::callback::destination::{Destination, Forbidden};
use crate::callback::parked::{is_parked, parked_id_of};
use crate::callback::seal::{Origin, Refused};
use crate::credentials::{Pass, Purse};
use crate::nexus::callback::{clean_completion, completion_of, is_stale_reference};
use crate::nexus::{Method, Route, call};
use crate::park::store::Id;
use crate::resilience::Deadline;
use crate::response::{Asked, Failure, Outcome, Reason, shape};
use crate::route::Policy;
use crate::telemetry::Stage;
use crate::upstream::{Outgoing, SendError, Upstream};

/// Where a completion goes; none for a path that is not one's.
pub(super) fn completion_route(path: &str) -> Option<Route> {
    // What most requests are for is told apart at a glance.
    let route = if path.starts_with("/nexus/endpoints/") { return None } else { Route::parse(path).ok()? };
    Some(route).filter(|route| !matches!(route, Route::Operation(_)))
}

impl Gateway {
    pub(super) async fn carry_completion<B>(&self, visit: &mut Visit, head: Parts, body: B, route: Route) -> Shaped
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        visit.record.asked(Method::Complete);
        completion_of(&head).map_err(|invalid| Failure::new(Reason::BadCompletion, invalid.to_string()))?;
        match route {
            Route::Relay { sealed } => {
                let sealed = head.uri.path()[sealed].to_owned();
                self.complete(visit, head, body, &sealed).await
            }
            _ => self.complete_at_home(visit, head, body).await,
        }
    }

    /// Carries a completion that was sealed by this gateway, or another one with its keys.
    async fn complete<B>(&self, visit: &mut Visit, mut head: Parts, body: B, sealed: &str) -> Shaped
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let completions = self.completions.load_full();
        let Some((completions, relay)) = completions.as_ref().and_then(|all| Some((all, all.relay.as_ref()?))) else {
            return Err(relays_nothing());
        };
        self.authorize_completion(visit, Completion::Sealed)?;
        let policy = self.router.default_policy(&visit.caller_key(), visit.caller.namespace());
        let home = relay.open_completion(sealed, &mut head.headers).map_err(unopened)?;
        self.describe_completion(visit, &home.origin);
        visit.record.target(&home.destination);
        let deadline = deadline(visit, &head, &policy)?;
        let (mut body, _held) = self.take_in(visit, &head, body, &policy, &deadline).await?;
        if self.redacts(&home.origin) {
            body = redact_completion(&mut head.headers, body);
        }

        let upstream = completions.destinations.find(&home.destination).map_err(|why| forbidden(&why))?;
        let request = Outgoing::raw(home.destination.uri(), head.headers, body);
        let purse = completions.purse(&home.destination);
        let answer = self.send_home(visit, (&upstream, purse), request, &policy, &deadline).await?;
        // Its sender gives up on an error that is not worth trying again.
        if !matches!(answer.1, Outcome::HandlerError(answered) if answered.retryable) {
            self.forget_parked(&home.origin).await?;
        }
        if answer.1 == Outcome::Delivered {
            // Labels come from the table, and from operations that have labels of their own.
            let (name, key) = home.origin.endpoint.split_once('/').unwrap_or((&home.origin.endpoint, ""));
            if let Some(endpoint) = self.router.find(name) {
                self.telemetry.completed(&endpoint.operation(key).metrics, home.lag);
            }
        }
        Ok(answer)
    }

    /// An operation that was parked needs nothing more once its completion is at home. One that its target took before it
    /// was parked completes under another seal.
    ///
    /// Until that is durable the sender of the completion is not told that it arrived: should this process die before, the
    /// completion comes again, is stale, and what is kept of the operation is forgotten then.
    async fn forget_parked(&self, origin: &Origin) -> Result<(), Failure> {
        let Some(park) = self.park.load_full() else { return Ok(()) };
        let (endpoint, _) = origin.endpoint.split_once('/').unwrap_or_default();
        let was_parked = is_parked(origin);
        if !was_parked && !park.may_have(endpoint) {
            return Ok(());
        }
        let Some(id) = parked_id_of(origin) else { return Ok(()) };
        if park.forget(Id(id)).await || !was_parked {
            return Ok(());
        }
        let message = "the completion arrived, but what is kept of the operation could not be forgotten";
        Err(Failure::new(Reason::ParkUnavailable, message))
    }

    /// Passes a completion on to the home cluster as it is.
    async fn complete_at_home<B>(&self, visit: &mut Visit, mut head: Parts, body: B) -> Shaped
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        let completions = self.completions.load_full();
        let Some((completions, home)) = completions.as_ref().and_then(|all| Some((all, all.home.as_ref()?))) else {
            let message = "this gateway passes no completions on: callbacks.home is not set";
            return Err(Failure::new(Reason::RelayOff, message));
        };
        self.authorize_completion(visit, Completion::Home)?;
        let policy = self.router.default_policy(&visit.caller_key(), visit.caller.namespace());
        let deadline = deadline(visit, &head, &policy)?;
        let (mut body, _held) = self.take_in(visit, &head, body, &policy, &deadline).await?;
        clean_completion(&mut head.headers);
        if self.redacts_any() {
            body = redact_completion(&mut head.headers, body);
        }
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let destination = Destination::parse(&format!("{home}{path}")).map_err(|why| forbidden(&why))?;
        let upstream = completions.destinations.find(&destination).map_err(|why| forbidden(&why))?;
        visit.record.target(&destination);
        let purse = completions.purse(&destination);
        purse.map_or_else(Pass::default, Purse::pass).clean(&mut head.headers);
        let request = Outgoing::raw(destination.uri(), head.headers, body);
        self.send_home(visit, (&upstream, purse), request, &policy, &deadline).await
    }

    async fn take_in<B>(
        &self,
        visit: &mut Visit,
        head: &Parts,
        body: B,
        policy: &Policy,
        deadline: &Deadline,
    ) -> Result<(Bytes, crate::gates::bytes::Reservation), Failure>
    where
        B: HttpBody<Data = Bytes> + Unpin,
    {
        self.enter(visit, Method::Complete, deadline).await?;
        let reading = read_request(&head.headers, body, policy.max_request_body, &self.gates);
        let in_time = timeout_at(deadline.at(), pin!(reading)).await;
        in_time.unwrap_or_else(|_| Err(late(deadline, false)))
    }

    /// Waits for a destination that is down, and sends once, with what it is shown of the gateway's own: what may have arrived is for the sender to repeat.
    pub(super) async fn send_home(
        &self,
        visit: &mut Visit,
        (upstream, purse): (&Upstream, Option<&Purse>),
        mut request: Outgoing,
        policy: &Policy,
        deadline: &Deadline,
    ) -> Shaped {
        if !upstream.is_usable()
            && let Some(_place) = self.gates.held.try_enter()
        {
            let usable = self.wait(visit, Stage::Upstream, upstream.usable(deadline.waits_until())).await;
            usable.map_err(|error| unreached(upstream, error))?;
        }
        if let Some(purse) = purse {
            request.show(Box::pin(purse.open(deadline.waits_until())).await?);
        }
        let (began, sent) = (Instant::now(), AtomicBool::new(false));
        visit.record.attempt();
        request.set_deadline(None, *deadline);
        // A load balancer's 404 is no destination's word: the completion would be lost for good.
        let asked = Asked {
            method: Method::Complete,
            temporal: true,
            limit: policy.max_response_body,
            deadline: deadline.at(),
        };
        let answered = async {
            let answer = upstream.send(visit.worker, &request, deadline.last_start(), &sent).await;
            let (head, exchange) = answer.map_err(|error| unreached(upstream, error))?;
            visit.record.upstream(began.elapsed(), exchange.socket());
            if let Some(purse) = purse.filter(|_| head.status == StatusCode::UNAUTHORIZED) {
                purse.refused();
            }
            let replayed = exchange.is_replayed();
            shape(head, exchange, asked).await.map(|answer| delivered_before(answer, replayed))
        };
        let in_time = timeout_at(deadline.at(), pin!(answered)).await;
        in_time.unwrap_or_else(|_| Err(late(deadline, sent.load(Ordering::Relaxed))))
    }

    /// Says which operation completes, for metrics and the access log.
    pub(super) fn describe_completion(&self, visit: &mut Visit, origin: &Origin) {
        let (name, key) = origin.endpoint.split_once('/').unwrap_or((&origin.endpoint, ""));
        if let Some(endpoint) = self.router.find(name) {
            visit.record.operation(&endpoint.operation(key).metrics);
        }
        if let Some(line) = visit.record.line() {
            let (service, operation) = key.split_once('/').unwrap_or((key, ""));
            line.endpoint = Some(name.into());
            line.service = Some(service.into());
            line.operation = Some(operation.into());
            line.request_id(&origin.request_id);
        }
    }
}

fn deadline(visit: &Visit, head: &Parts, policy: &Policy) -> Result<Deadline, Failure> {
    let given = call::read_timeout(&head.headers)?;
    Ok(Deadline::new(visit.record.started(), given, policy.timeout))
}

/// A completion that was sent twice, since its connection had died, and is not known any more was delivered the first
/// time.
fn delivered_before((answer, outcome): (Response<Content>, Outcome), replayed: bool) -> (Response<Content>, Outcome) {
    let Content::Whole(body) = answer.body() else { return (answer, outcome) };
    if replayed && is_stale_reference(answer.status(), answer.headers(), body) {
        let mut delivered = Response::new(Content::Whole(Bytes::new()));
        *delivered.status_mut() = StatusCode::OK;
        return (delivered, Outcome::Delivered);
    }
    (answer, outcome)
}

/// Its sender will try again.
fn unreached(upstream: &Upstream, error: SendError) -> Failure {
    let detail = format!("{}: {error}", upstream.name());
    Failure { message: "the destination of the completion could not be reached".into(), ..Failure::from(error) }
        .because(detail)
}

/// It waits with its sender: `callbacks.allow` may be changed back.
fn forbidden(forbidden: &Forbidden) -> Failure {
    let message = "completions may not be sent there at present";
    Failure::new(Reason::DestinationForbidden, message).because(forbidden.to_string())
}

fn relays_nothing() -> Failure {
    Failure::new(Reason::RelayOff, "this gateway relays no completions: callbacks.public_url is not set")
}

/// One message for all that will never open, so that nobody learns why by trying.
pub(super) fn unopened(refused: Refused) -> Failure {
    match refused {
        // The replica that sealed it may have read the new keys before this one.
        Refused::UnknownKey => Failure::new(Reason::UnknownKey, "this gateway does not have the key at present"),
        _ => Failure::new(Reason::BadSeal, "the callback is not valid, or not any more"),
    }
}
