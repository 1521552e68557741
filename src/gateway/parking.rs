//! Starts that are answered 201 because they did not get through, and cancels of these.
//!
//! A caller that is told 201 counts a success, and waits for the completion: an outage, a limit or a failing handler
//! does not reach it as a failure. What is parked is finished in [`super::finishing`].

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::request::Parts;
use http::{Response, StatusCode};
use tokio::time::{timeout, timeout_at};

use super::attempts::Journey;
use super::callbacks::about;
use super::judge::Shaped;
use super::{Gateway, Visit};
use crate::admission::Caller;
use crate::body::Content;
use crate::callback::{Callbacks, parked};
use crate::nexus::callback::{callback_of, with_cancel_token};
use crate::nexus::timeout::parse_operation;
use crate::nexus::{Call, Method, headers};
use crate::park::store::{Id, New, Row, State, StoreError, Written};
use crate::park::{Park, Parked, Refused};
use crate::resilience::park::{ParkReason, ParkSettings};
use crate::response::{Failure, Outcome, Reason};
use crate::route::{Endpoint, Policy};
use crate::upstream::Outgoing;

/// What is kept of a start's time for parking it: an answer that comes later than the caller waits is none.
const RESERVE: Duration = Duration::from_millis(500);

/// Longest time to look for a start among those that are parked.
const LOOK_UP: Duration = Duration::from_millis(300);

/// Longest request id of a start that can be parked, in bytes: what goes along in a sealed callback.
const MAX_REQUEST_ID: usize = 64;

/// A start that may be parked.
pub(super) struct Parking<'a> {
    park: Arc<Park>,
    relay: &'a Callbacks,
    pub(super) rule: &'a ParkSettings,
}

impl<'a> Parking<'a> {
    /// How `start` is parked, if it may be: it has a callback, a request id of its caller's own, and a policy that says so.
    pub(super) fn of(
        gateway: &Gateway,
        (start, call): (&Parts, &Call),
        endpoint: &Endpoint,
        policy: &'a Policy,
        relay: Option<&'a Callbacks>,
    ) -> Option<Self> {
        let rule = &policy.park.as_ref()?.settings;
        let (relay, park) = (relay?, gateway.park.load_full()?);
        let request_id = start.headers.get(&headers::REQUEST_ID)?.to_str().ok()?;
        let fits = call.path.method == Method::Start && (1..=MAX_REQUEST_ID).contains(&request_id.len());
        // It is sent by name: one that is served by its id only would end at another endpoint.
        let named = gateway.router.find(endpoint.name())?;
        let fits = fits && named.entry().source == endpoint.entry().source;
        let callback = callback_of(start.uri.query()).filter(|callback| fits && !relay.is_of_parked(callback));
        callback.map(|_| Self { park, relay, rule })
    }

    /// Its name: the same for each start with the same request id.
    fn id(caller: &Caller, endpoint: &Endpoint, start: &Start<'_>, request: &Outgoing) -> Id {
        let request_id = request.headers.get(&headers::REQUEST_ID).and_then(|id| id.to_str().ok());
        Id(parked::parked_id(&about(caller, endpoint, start.key, false), request_id.unwrap_or_default()))
    }

    /// The answer to a start that is parked already.
    async fn known(
        &self,
        caller: &Caller,
        endpoint: &Endpoint,
        start: &Start<'_>,
        request: &Outgoing,
    ) -> Option<(Response<Content>, Outcome)> {
        if !self.park.has_any(endpoint.name()) {
            return None;
        }
        match timeout(LOOK_UP, self.park.find(Self::id(caller, endpoint, start, request))).await {
            Ok(Ok(row)) => Some((started(&row?.token), Outcome::Parked)),
            // It is sent, perhaps a second time: its handler knows it by its request id.
            Ok(Err(_)) | Err(_) => None,
        }
    }
}

/// What there is to know of a start besides its request, once it did not get through.
pub(super) struct Start<'a> {
    /// `{service}/{operation}` as the caller wrote it.
    pub(super) key: &'a str,
    /// Whether its callback is sealed already.
    pub(super) sealed: bool,
    /// The id of its caller's cluster.
    pub(super) source: Option<&'a HeaderValue>,
}

impl Gateway {
    /// From now on starts are parked there.
    pub fn park_in(&self, park: Option<Arc<Park>>) {
        self.park.store(park);
    }

    /// Where starts are parked, if they are.
    pub fn park(&self) -> Option<Arc<Park>> {
        self.park.load_full()
    }

    /// Makes attempts, with a little less time, and parks the start if they end in what leads to parking.
    pub(super) async fn get_through_or_park(
        &self,
        visit: &mut Visit,
        parking: Parking<'_>,
        journey: Journey<'_>,
        start: Start<'_>,
        mut request: Outgoing,
    ) -> Shaped {
        if let Some(known) = parking.known(&visit.caller, journey.endpoint, &start, &request).await {
            return Ok(known);
        }
        let (until, name) = (journey.deadline.at(), journey.endpoint.name());
        let journey = Journey { deadline: journey.deadline.sooner(RESERVE), ..journey };
        let ended = self.get_through(visit, &journey, &mut request).await;
        let Some(reason) = reason(&ended).filter(|reason| parking.rule.on.covers(*reason)) else { return ended };
        let parked = timeout_at(until, self.park_start(visit, &parking, &journey, &start, &request, reason)).await;
        match parked.unwrap_or(Err("late")) {
            Ok(token) => {
                visit.record.parked(reason);
                Ok((started(&token), Outcome::Parked))
            }
            Err(why) => {
                self.telemetry.parking.refused(name, why);
                ended
            }
        }
    }

    /// Keeps a start. The token for its caller, or why it is not kept.
    async fn park_start(
        &self,
        visit: &Visit,
        parking: &Parking<'_>,
        journey: &Journey<'_>,
        start: &Start<'_>,
        request: &Outgoing,
        reason: ParkReason,
    ) -> Result<Box<str>, &'static str> {
        let new = self.new_row(visit, parking, journey, start, request, reason)?;
        let token = new.token.clone();
        match parking.park.park(new, parking.rule).await {
            Ok(Parked::Kept) => {
                self.telemetry.parking.parked(journey.endpoint.name(), reason);
                Ok(token)
            }
            Ok(Parked::Known(token)) => Ok(token),
            Err(refused) => {
                tracing::debug!(endpoint = journey.endpoint.name(), %refused, "a start is not parked");
                Err(label(&refused))
            }
        }
    }

    fn new_row(
        &self,
        visit: &Visit,
        parking: &Parking<'_>,
        journey: &Journey<'_>,
        start: &Start<'_>,
        request: &Outgoing,
        reason: ParkReason,
    ) -> Result<New, &'static str> {
        let endpoint = journey.endpoint;
        let id = Parking::id(&visit.caller, endpoint, start, request);
        let about = about(&visit.caller, endpoint, start.key, false);
        let home = || {
            let source = start.source.or_else(|| request.headers.get(&headers::CALLBACK_SOURCE));
            let id = source?.to_str().ok()?;
            self.router.url_of_cluster(&self.registry.cluster_of_id(id)?)
        };
        let (store, name) = (parking.park.store_name().ok_or("store")?, id.to_string());
        let kept = parking.relay.keep_start((&store, &name), request, &about, start.sealed, &visit.caller, home);
        let (content, token) = kept.map_err(|error| {
            tracing::debug!(endpoint = endpoint.name(), %error, "a start cannot be parked");
            "callback"
        })?;
        let operation = request.headers.get(&headers::OPERATION_TIMEOUT).and_then(|value| value.to_str().ok());
        let operation = operation.and_then(parse_operation).unwrap_or(Duration::MAX);
        let arrived = parking.park.now();
        let holds = u64::try_from(operation.min(parking.rule.max_age).as_millis()).unwrap_or(u64::MAX);
        Ok(New {
            id,
            endpoint: endpoint.name().into(),
            lane: lane(endpoint.name(), start.key),
            token: token.into(),
            content,
            reason,
            arrived,
            expires: arrived.saturating_add(holds),
        })
    }

    /// Cancels an operation that was parked: here, as long as its target does not run it. The operation at its target is
    /// returned where it does.
    pub(super) async fn cancel_parked(
        &self,
        visit: &mut Visit,
        head: &mut Parts,
        call: &mut Call,
        endpoint: &mut Arc<Endpoint>,
        name: &str,
    ) -> Result<Option<Response<Content>>, Failure> {
        let completions = self.completions.load_full();
        let relay = completions.as_ref().and_then(|completions| completions.relay.as_ref());
        let (store, id) = name.split_once('.').unwrap_or_default();
        let (Some(relay), Some(park), Some(key)) = (relay, self.park.load_full(), Id::parse(id)) else {
            return Err(unavailable("this gateway parks nothing"));
        };
        if park.store_name().is_none_or(|ours| ours != store) {
            return Err(unavailable("it is not kept in the store that this gateway has open"));
        }
        let Some(content) = self.cancel_waiting(relay, &park, key).await? else { return Ok(Some(accepted())) };
        let operation = relay.open_started(id, &content).map_err(|_| unavailable("its key is not known at present"))?;
        let gone = || Failure::new(Reason::UnknownToken, "the target of this operation is not known any more");
        call.path = with_cancel_token(&call.path, head, &operation.token).ok_or_else(gone)?;
        if endpoint.target_ref() != operation.target {
            *endpoint = self.router.leading_to(endpoint, &operation.target).ok_or_else(gone)?;
            visit.by_name = false;
        }
        Ok(None)
    }

    /// What is kept of an operation that its target runs; none where the cancel ends here.
    async fn cancel_waiting(&self, relay: &Callbacks, park: &Park, id: Id) -> Result<Option<Vec<u8>>, Failure> {
        let broken = |error: StoreError| unavailable("its store does not answer").because(error.to_string());
        let row = match park.find(id).await.map_err(broken)? {
            Some(row) if row.state == State::Waiting => row,
            Some(Row { state: State::Started, content, .. }) => return Ok(Some(content)),
            // It ended. A handler takes a cancel then, too.
            Some(_) | None => return Ok(None),
        };
        let ending = self.canceled(relay, &row).ok_or_else(|| unavailable("its key is not known at present"))?;
        match park.end(id, ending).await.map_err(broken)? {
            Written::Was(State::Started, content) => Ok(Some(content)),
            _ => Ok(None),
        }
    }
}

/// Why a start that ended so did not get through; none where it did, or will not ever.
fn reason(ended: &Shaped) -> Option<ParkReason> {
    match ended {
        Ok((_, Outcome::HandlerError(answered))) if answered.retryable => Some(ParkReason::RetryableFailure),
        Ok(_) => None,
        Err(failure) => reason_of(failure.reason),
    }
}

pub(super) fn reason_of(reason: Reason) -> Option<ParkReason> {
    match reason {
        Reason::UpstreamUnreachable
        | Reason::NoCredentials
        | Reason::UpstreamReset
        | Reason::UpstreamBadGateway
        | Reason::RegistryUnavailable => Some(ParkReason::Unreachable),
        Reason::BreakerOpen => Some(ParkReason::BreakerOpen),
        Reason::RateLimited | Reason::LimitUnavailable => Some(ParkReason::RateLimited),
        Reason::Saturated => Some(ParkReason::Saturated),
        Reason::UpstreamTimeout
        | Reason::UpstreamGatewayTimeout
        | Reason::UpstreamStatus
        | Reason::UpstreamMalformed
        | Reason::UpstreamNotNexus
        | Reason::DeadlineExceeded => Some(ParkReason::RetryableFailure),
        _ => None,
    }
}

/// The queue of the starts of an operation.
pub(super) fn lane(endpoint: &str, key: &str) -> Box<str> {
    ["s/", endpoint, "/", key].concat().into()
}

fn started(token: &str) -> Response<Content> {
    let body = serde_json::json!({ "token": token, "state": "running" }).to_string();
    let mut answer = Response::new(Content::Whole(body.into()));
    *answer.status_mut() = StatusCode::CREATED;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn accepted() -> Response<Content> {
    let mut answer = Response::new(Content::Whole(Bytes::new()));
    *answer.status_mut() = StatusCode::ACCEPTED;
    answer
}

fn unavailable(why: &str) -> Failure {
    let message = format!("what became of the operation cannot be looked up: {why}");
    Failure::new(Reason::ParkUnavailable, message)
}

fn label(refused: &Refused) -> &'static str {
    match refused {
        Refused::Endpoint(_) => "endpoint_max",
        Refused::EndpointBytes(_) => "endpoint_bytes",
        Refused::All(_) => "max",
        Refused::AllBytes(_) => "bytes",
        Refused::Store(_) => "store",
    }
}

/// The time from then, in milliseconds since 1970, until now.
pub(super) fn since(then: u64) -> Duration {
    let then = SystemTime::UNIX_EPOCH + Duration::from_millis(then);
    SystemTime::now().duration_since(then).unwrap_or_default()
}
