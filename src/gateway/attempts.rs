//! Attempts: each waits until it may go, is made, and is judged; then perhaps another one.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::response;
use tokio::time::{Instant, timeout_at};

use super::judge::{Judgement, Shaped};
use super::trial::Trial;
use super::{Gateway, Visit, asked, crossing, late};
use crate::admission::Authorized;
use crate::gates::Account;
use crate::gates::breaker::{self, Pass};
use crate::gates::concurrency::{self, Permit};
use crate::nexus::{Call, Method};
use crate::registry::LookUp;
use crate::resilience::Deadline;
use crate::resilience::concurrency::Urgency;
use crate::resilience::park::{ParkOn, ParkReason};
use crate::resilience::retry::Loss;
use crate::response::{Failure, Outcome, Reason, shape};
use crate::route::{Endpoint, Governed, Operation};
use crate::telemetry::{Stage, Withheld};
use crate::upstream::{Exchange, Outgoing};

/// One request on its way to its target.
pub(super) struct Journey<'a> {
    /// That its caller may go it.
    pub(super) _authorized: Authorized,
    pub(super) call: &'a Call,
    pub(super) endpoint: &'a Arc<Endpoint>,
    pub(super) operation: &'a Operation,
    pub(super) governed: &'a Governed,
    pub(super) deadline: Deadline,
    /// The ends that lead to parking: those it does not wait to see the end of.
    pub(super) parks: Option<ParkOn>,
}

impl Journey<'_> {
    pub(super) fn names(&self) -> [&str; 3] {
        [self.endpoint.name(), &self.operation.service, &self.operation.operation]
    }

    fn parks(&self, reason: ParkReason) -> bool {
        self.parks.is_some_and(|parks| parks.covers(reason))
    }

    /// What an attempt needs, where it need not wait for anything: nearly always.
    fn leave_at_once(&self, caller: &Account, now: Instant) -> Option<Leave> {
        let Governed { policy, concurrency, breaker, .. } = self.governed;
        if policy.hold && !self.endpoint.upstream().is_usable() {
            return None;
        }
        let permit = match concurrency {
            Some(concurrency) => Some(concurrency.gate(caller, now).try_enter()?),
            None => None,
        };
        let pass = match breaker.as_ref().map(|breaker| breaker.gate(caller, now)) {
            Some(breaker) => Some(breaker.is_closed().then(|| breaker.try_pass(now).ok())??),
            None => None,
        };
        Some((pass, permit))
    }
}

/// What lets an attempt go.
type Leave = (Option<Pass>, Option<Permit>);

/// Whether another attempt is made.
enum Next {
    Again,
    Enough,
}

impl Gateway {
    /// Makes attempts until one is the caller's answer. Its permit stays with the visit.
    pub(super) async fn attempts(&self, visit: &mut Visit, journey: &Journey<'_>, request: &mut Outgoing) -> Shaped {
        if let Some(budget) = &journey.governed.budget {
            budget.gate(&visit.account(), visit.record.started()).request(visit.record.started());
        }
        let mut answered = None;
        for made in 1.. {
            let leave = match journey.leave_at_once(&visit.account(), visit.record.started()) {
                Some(leave) => Ok(leave),
                None => Box::pin(self.leave(visit, journey)).await,
            };
            let trial = match leave.and_then(|leave| Trial::begin(&self.telemetry, journey, leave)) {
                Ok(trial) => trial,
                // What the handler said says more than why it is not asked again.
                Err(refused) => return answered.map_or(Err(refused), |answered: Box<Shaped>| *answered),
            };
            let attempt = self.attempt(visit, journey, request, trial.began).await;
            let judgement = Judgement::of(&attempt, trial.has_time());
            let permit = trial.end(judgement);
            let Some(loss) = judgement.loss else {
                visit.permit = permit;
                return attempt;
            };
            drop(permit);
            if matches!(Box::pin(self.next(visit, journey, loss, made)).await, Next::Enough) {
                return attempt;
            }
            answered = attempt.is_ok().then(|| Box::new(attempt));
        }
        unreachable!("attempts are counted from 1 and never end by themselves")
    }

    /// Waits until the target is up, the operation's breaker lets the request pass and there is a place for it.
    async fn leave(&self, visit: &mut Visit, journey: &Journey<'_>) -> Result<Leave, Failure> {
        let (governed, until) = (journey.governed, journey.deadline.waits_until());
        let breaker =
            governed.breaker.as_ref().map(|ruled| (ruled.gate(&visit.account(), visit.record.started()), &ruled.rule));
        let concurrency = governed
            .concurrency
            .as_ref()
            .map(|ruled| (ruled.gate(&visit.account(), visit.record.started()), &ruled.rule));
        loop {
            self.hold(visit, journey).await?;
            if let Some((breaker, rule)) = &breaker {
                let place = self.gates.held.try_enter().filter(|_| !journey.parks(ParkReason::BreakerOpen));
                let until = if place.is_some() { until } else { visit.record.started() };
                let ready = self.wait(visit, Stage::Breaker, breaker.ready(until)).await;
                ready.map_err(|refused| breaker_open(rule, refused))?;
            }
            let permit = match &concurrency {
                None => None,
                Some((concurrency, rule)) => {
                    let entering = concurrency.enter(urgency(journey.call.path.method), until);
                    let entered = self.wait(visit, Stage::Concurrency, entering).await;
                    Some(entered.map_err(|refused| saturated(rule, refused))?.0)
                }
            };
            match breaker.as_ref().map(|(breaker, _)| breaker.try_pass(Instant::now())).transpose() {
                Ok(pass) => {
                    if let Some(transition) = pass.as_ref().and_then(Pass::transition) {
                        self.telemetry.breaker_changed(journey.names(), &transition);
                    }
                    return Ok((pass, permit));
                }
                // It opened while the request waited for its place.
                Err(_) => drop(permit),
            }
        }
    }

    /// Waits while the target is down, where the policy says so. With no time to wait, or with too many that wait
    /// already, the request goes: it fails at once, or finds that the mark was stale.
    async fn hold(&self, visit: &mut Visit, journey: &Journey<'_>) -> Result<(), Failure> {
        let (upstream, until) = (journey.endpoint.upstream(), journey.deadline.waits_until());
        if !journey.governed.policy.hold || upstream.is_usable() || Instant::now() >= until {
            return Ok(());
        }
        if journey.parks(ParkReason::Unreachable) {
            return Ok(upstream.usable(Instant::now()).await.map(drop)?);
        }
        let Some(_place) = self.gates.held.try_enter() else { return Ok(()) };
        self.wait(visit, Stage::Upstream, upstream.usable(until)).await?;
        Ok(())
    }

    /// One attempt, with the time that is left.
    async fn attempt(
        &self,
        visit: &mut Visit,
        journey: &Journey<'_>,
        request: &mut Outgoing,
        began: Instant,
    ) -> Shaped {
        let Journey { call, endpoint, governed, deadline, .. } = journey;
        let sent = AtomicBool::new(false);
        let answered = async {
            let (head, exchange) = self.ask(visit, journey, request, began, &sent).await?;
            let (status, socket) = (head.status, exchange.socket());
            let shaped = shape(head, exchange, asked(call, endpoint, &governed.policy, deadline)).await;
            if matches!(status.as_u16(), 502..=504) {
                endpoint.upstream().report(socket, began, address_answered(&shaped));
            }
            shaped
        };
        let in_time = timeout_at(deadline.at(), pin!(answered)).await;
        in_time.unwrap_or_else(|_| Err(late(deadline, sent.load(Ordering::Relaxed))))
    }

    /// Sends the request. Where the cluster does not know the endpoint's id any more, the endpoint may have been
    /// deleted and created again since the registry was read: then once more, to the one that there is now, if it leads
    /// to the same target.
    async fn ask(
        &self,
        visit: &mut Visit,
        journey: &Journey<'_>,
        request: &mut Outgoing,
        began: Instant,
        sent: &AtomicBool,
    ) -> Result<(response::Parts, Exchange), Failure> {
        let Journey { call, endpoint, deadline, .. } = journey;
        let answer = send(visit, call, endpoint, request, began, deadline, sent).await?;
        if !visit.by_name || !may_be_gone(endpoint, &answer.0) || Instant::now() > deadline.last_start() {
            return Ok(answer);
        }
        let Some(now) = self.instead_of(endpoint, &visit.account()).await? else { return Ok(answer) };
        // Seals, and what passes of the caller's credentials, were made for the target that there was.
        if now.target_ref() != endpoint.target_ref() {
            let message = format!("endpoint {:?} was given another target a moment ago", endpoint.name());
            return Err(Failure::new(Reason::RegistryUnavailable, message));
        }
        // The look-up took its time.
        if Instant::now() > deadline.last_start() {
            return Ok(answer);
        }
        request.redirect(crossing(&now, &visit.caller));
        Box::pin(send(visit, call, &now, request, Instant::now(), deadline, sent)).await
    }

    /// The endpoint that took the place of one that seems to be gone. Where there are too many look-ups to find out, the
    /// answer stays what the cluster said.
    async fn instead_of(&self, gone: &Endpoint, by: &Account) -> Result<Option<Arc<Endpoint>>, Failure> {
        let name = gone.name();
        let instead = || self.router.find(name).filter(|now| is_instead_of(now, gone));
        let is_settled = || instead().is_some();
        let looked_up = Box::pin(self.registry.look_up_since(name, by, Instant::now(), is_settled)).await;
        match (instead(), looked_up) {
            (None, LookUp::Unavailable(why)) => {
                let message = format!("nobody could be asked whether endpoint {name:?} still exists");
                Err(Failure::new(Reason::RegistryUnavailable, message).because(why))
            }
            (instead, _) => Ok(instead),
        }
    }

    /// Whether there is another attempt after a loss; waits for it.
    async fn next(&self, visit: &mut Visit, journey: &Journey<'_>, loss: Loss, made: u32) -> Next {
        let Journey { call, endpoint, governed, deadline, .. } = journey;
        let retry = &governed.policy.retry;
        // Nothing was sent, and the target is down: the request waits for it like those that come now.
        let held = loss == Loss::Connect && governed.policy.hold;
        // A cancel may be taken twice.
        let safe = loss == Loss::Reset && call.path.method != Method::Start && retry.on.connect;
        if !held && (made >= retry.attempts || !(safe || retry.on.covers(loss))) {
            return Next::Enough;
        }
        let wait = retry.backoff(made, &mut fastrand::Rng::new());
        if Instant::now() + wait >= deadline.waits_until() {
            self.telemetry.count_withheld(endpoint.name(), Withheld::Deadline);
            return Next::Enough;
        }
        let budget = governed
            .budget
            .as_ref()
            .filter(|_| !held)
            .map(|budget| budget.gate(&visit.account(), visit.record.started()));
        if budget.is_some_and(|budget| !budget.take(Instant::now())) {
            self.telemetry.count_withheld(endpoint.name(), Withheld::Budget);
            return Next::Enough;
        }
        self.telemetry.count_retry(endpoint.name(), loss);
        self.wait(visit, Stage::Backoff, tokio::time::sleep(wait)).await;
        Next::Again
    }
}

/// Sends a request once.
async fn send(
    visit: &mut Visit,
    call: &Call,
    endpoint: &Endpoint,
    request: &mut Outgoing,
    began: Instant,
    deadline: &Deadline,
    sent: &AtomicBool,
) -> Result<(response::Parts, Exchange), Failure> {
    let mut shown = match endpoint.purse().at_once() {
        Some(shown) => shown,
        None => Box::pin(endpoint.purse().open(deadline.waits_until())).await?,
    };
    endpoint.purse().name_caller(&mut shown, visit.caller.identity().map(|identity| &**identity), endpoint.name());
    request.show(shown);
    visit.record.attempt();
    request.set_deadline(call.timeout, *deadline);
    let (head, exchange) = endpoint.upstream().send(visit.worker, request, deadline.last_start(), sent).await?;
    visit.record.upstream(began.elapsed(), exchange.socket());
    if head.status == http::StatusCode::UNAUTHORIZED {
        endpoint.purse().refused();
    }
    Ok((head, exchange))
}

/// Whether an answer may mean that the cluster does not know the endpoint's id, rather than that a worker does not
/// know the operation.
fn may_be_gone(endpoint: &Endpoint, answer: &response::Parts) -> bool {
    answer.status == http::StatusCode::NOT_FOUND
        && endpoint.is_dispatched_by_id()
        && !answer.headers.contains_key(&crate::nexus::headers::FAILURE_SOURCE)
}

/// Whether an endpoint took the place of one that is gone. What the caller may call was decided by the name.
fn is_instead_of(now: &Endpoint, gone: &Endpoint) -> bool {
    now.name() == gone.name() && now.entry().source == gone.entry().source && now.prefix() != gone.prefix()
}

/// Whether a 502, 503 or 504 came from whom the request was for, or else, why it is the address's own.
fn address_answered(shaped: &Shaped) -> Result<(), &'static str> {
    match shaped {
        Ok((_, Outcome::HandlerError(answered))) if !answered.from_nexus => Err("503 without a Nexus failure"),
        Ok(_) => Ok(()),
        Err(failure) => Err(failure.reason.name()),
    }
}

/// What frees capacity, or ends what is done already, goes before what begins something new.
pub(super) fn urgency(method: Method) -> Urgency {
    match method {
        Method::Start => Urgency::Normal,
        Method::Cancel | Method::LegacyCancel | Method::Complete => Urgency::Urgent,
    }
}

fn breaker_open(rule: &Arc<str>, refused: breaker::Refused) -> Failure {
    Failure::refused(Reason::BreakerOpen, Arc::clone(rule), refused.retry_after, refused)
}

fn saturated(rule: &Arc<str>, refused: concurrency::Refused) -> Failure {
    Failure::refused(Reason::Saturated, Arc::clone(rule), refused.retry_after, refused)
}
