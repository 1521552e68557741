//! Breakers: an operation that keeps failing is asked no more, its neighbours are, and it comes back.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nexus_gateway::config::Settings;
use nexus_gateway::nexus::ErrorType;
use nexus_gateway::resilience::BreakerSettings;
use nexus_gateway::route::{PolicyRule, Toggle};

use crate::harness::*;

const OPEN: Expected = failure("breaker_open", ErrorType::Unavailable, true);
const RULE: &str = "policies[0].breaker";
const HOUR: Duration = Duration::from_secs(3600);

/// Opens after three failures, for an hour.
fn three_strikes() -> BreakerSettings {
    let open_for = HOUR;
    BreakerSettings { consecutive: Some(3), failure_rate: None, open_for, max_open_for: HOUR, ..Default::default() }
}

fn breaking(handler: &Handler, settings: BreakerSettings) -> Settings {
    let rule = PolicyRule { breaker: Some(Toggle::On(settings)), retry: Some(Toggle::Off), ..PolicyRule::default() };
    under(leading_to(handler), rule)
}

fn internal() -> String {
    handler_error("500 Internal Server Error", "INTERNAL", None, &[])
}

fn other_operation() -> Request {
    to("/nexus/endpoints/pay/services/Svc/other").body(PAYLOAD)
}

/// Fails `Svc/op` as long as the switch is on; everything else is well.
fn switched() -> (Handler, Arc<AtomicBool>) {
    let failing = Arc::new(AtomicBool::new(true));
    let switch = Arc::clone(&failing);
    let handler = Handler::scripted(move |seen| {
        let fails = seen.message.target().contains("Svc/op") && switch.load(Ordering::Relaxed);
        vec![if fails { internal() } else { ok() }.into()]
    });
    (handler, failing)
}

#[tokio::test]
async fn an_operation_that_keeps_failing_is_asked_no_more_and_its_neighbour_is() {
    let (handler, _) = switched();
    let gateway = Gateway::start(breaking(&handler, three_strikes())).await;
    for _ in 0..3 {
        assert_passed(&internal(), &gateway.call(&start("pay")).await);
    }
    OPEN.assert_by(RULE, &gateway.call(&start("pay")).await);
    assert_eq!(handler.requests().len(), 3);
    assert_eq!(gateway.call(&other_operation()).await.status(), 200);
    let labels = [("endpoint", "pay"), ("service", "Svc"), ("operation", "op")];
    gateway.counts("nexus_gateway_breaker_state", &labels, 2.0).await;
    gateway.counts("nexus_gateway_breaker_state", &[("operation", "other")], 0.0).await;
    gateway.counts_at_least("nexus_gateway_breaker_next_probe_seconds", &labels, 2000.0).await;
    gateway.counts("nexus_gateway_breaker_transitions_total", &[("endpoint", "pay"), ("to", "open")], 1.0).await;
    gateway.counts("nexus_gateway_refusals_total", &[("rule", RULE), ("reason", "breaker_open")], 1.0).await;
}

#[tokio::test]
async fn an_operation_that_recovered_is_asked_again() {
    let (handler, failing) = switched();
    let open_for = Duration::from_millis(100);
    let gateway = Gateway::start(breaking(&handler, BreakerSettings { open_for, ..three_strikes() })).await;
    for _ in 0..3 {
        gateway.call(&start("pay")).await;
    }
    failing.store(false, Ordering::Relaxed);
    gateway.until_status(&start("pay"), 200).await;
    gateway.counts("nexus_gateway_breaker_state", &[("operation", "op")], 0.0).await;
}

#[tokio::test]
async fn what_is_no_failure_of_the_operation_opens_nothing() {
    for answer in [
        json(
            "424 Failed Dependency",
            "{\"message\":\"m\",\"metadata\":{\"type\":\"nexus.OperationError\"},\"details\":{\"state\":\"failed\"}}",
        ),
        handler_error("404 Not Found", "NOT_FOUND", None, &[]),
        handler_error("429 Too Many Requests", "RESOURCE_EXHAUSTED", None, &[]),
        handler_error("500 Internal Server Error", "INTERNAL", Some(false), &[]),
    ] {
        let handler = Handler::answering(answer.clone());
        let gateway = Gateway::start(breaking(&handler, three_strikes())).await;
        for _ in 0..5 {
            assert_passed(&answer, &gateway.call(&start("pay")).await);
        }
    }
}

#[tokio::test]
async fn connections_that_fail_are_not_the_operations_fault() {
    let handler = Handler::acting(vec![Act::Close]);
    let gateway = Gateway::start(breaking(&handler, three_strikes())).await;
    for _ in 0..5 {
        assert_eq!(gateway.call(&start("pay")).await.header("nexus-gateway-failure"), Some("upstream_reset"));
    }
}

#[tokio::test]
async fn no_worker_and_a_failing_worker_are_told_apart() {
    let timeout = |headers: &[&str]| handler_error("520 Upstream Timeout", "UPSTREAM_TIMEOUT", None, headers);
    for (answer, cause) in [
        (timeout(&[]), "no_worker"),
        (
            handler_error("500 Internal Server Error", "INTERNAL", None, &["Temporal-Nexus-Failure-Source: worker"]),
            "handler",
        ),
    ] {
        let handler = Handler::answering(answer);
        let gateway = Gateway::start(breaking(&handler, three_strikes())).await;
        for _ in 0..3 {
            gateway.call(&start("pay")).await;
        }
        let breakers: serde_json::Value = serde_json::from_slice(&gateway.admin("/breakers").await.body).expect("JSON");
        assert_eq!(breakers["operations"][0]["cause"], cause, "{breakers}");
    }
}

#[tokio::test]
async fn requests_wait_for_the_recovery_where_the_policy_holds_them() {
    let (handler, failing) = switched();
    let open_for = Duration::from_millis(500);
    let gateway = Gateway::start(breaking(&handler, BreakerSettings { open_for, hold: true, ..three_strikes() })).await;
    for _ in 0..3 {
        gateway.call(&start("pay")).await;
    }
    failing.store(false, Ordering::Relaxed);
    let mut callers = Vec::new();
    for _ in 0..5 {
        let mut caller = gateway.connect().await;
        caller.send(start("pay").bytes()).await;
        callers.push(caller);
    }
    for mut caller in callers {
        assert_eq!(caller.answer().await.status(), 200);
    }
    assert_eq!(handler.requests().len(), 3 + 5);
}

/// What an operator asks for at the admin port.
fn steer(verb: &str) -> Request {
    to(format!("/breakers/{verb}?endpoint=pay&service=Svc&operation=op")).header("Nexus-Gateway-Admin", "true")
}

#[tokio::test]
async fn a_breaker_is_tripped_held_and_reset_by_hand() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(breaking(&handler, three_strikes())).await;
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    assert_eq!(gateway.ask_admin(&steer("trip")).await.status(), 200);
    OPEN.assert_by(RULE, &gateway.call(&start("pay")).await);
    assert_eq!(gateway.ask_admin(&steer("hold")).await.status(), 200);
    let mut held = gateway.connect().await;
    held.send(start("pay").bytes()).await;
    gateway.counts("nexus_gateway_waiting", &[("stage", "breaker")], 1.0).await;
    assert_eq!(gateway.ask_admin(&steer("reset")).await.status(), 200);
    assert_eq!(held.answer().await.status(), 200);
}

#[tokio::test]
async fn what_was_said_by_hand_holds_when_the_settings_change() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(breaking(&handler, three_strikes())).await;
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    assert_eq!(gateway.ask_admin(&steer("trip")).await.status(), 200);
    let changed = BreakerSettings { consecutive: Some(4), ..three_strikes() };
    gateway.running.apply(breaking(&handler, changed)).await.expect("it can be applied");
    OPEN.assert_by(RULE, &gateway.call(&start("pay")).await);
    assert_eq!(gateway.ask_admin(&steer("reset")).await.status(), 200);
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    gateway.counts("nexus_gateway_breaker_state", &[("operation", "op")], 0.0).await;
}

#[tokio::test]
async fn steering_needs_its_header_and_a_breaker() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(breaking(&handler, three_strikes())).await;
    let trip = to("/breakers/trip?endpoint=pay&service=Svc&operation=op");
    assert_eq!(gateway.ask_admin(&trip).await.status(), 403);
    let unknown = gateway.ask_admin(&trip.header("Nexus-Gateway-Admin", "true")).await;
    assert_eq!(unknown.status(), 404, "nothing was asked of it yet: {}", unknown.text());
}

#[tokio::test]
async fn a_reload_keeps_an_open_breaker_and_a_changed_one_starts_afresh() {
    let (handler, _) = switched();
    let gateway = Gateway::start(breaking(&handler, three_strikes())).await;
    for _ in 0..3 {
        gateway.call(&start("pay")).await;
    }
    // Another rule before it: the place in the file has nothing to do with it.
    let mut settings = breaking(&handler, three_strikes());
    settings.policies.insert(0, within(Duration::from_secs(9)));
    gateway.running.apply(settings).await.expect("it can be applied");
    OPEN.assert_by("policies[1].breaker", &gateway.call(&start("pay")).await);
    let changed = BreakerSettings { consecutive: Some(4), ..three_strikes() };
    gateway.running.apply(breaking(&handler, changed)).await.expect("it can be applied");
    assert_passed(&internal(), &gateway.call(&start("pay")).await);
}

#[tokio::test]
async fn a_caller_that_gives_too_little_time_opens_nothing() {
    // A frontend that is left with less than it needs answers this of a healthy worker.
    let answer = handler_error("520 Upstream Timeout", "UPSTREAM_TIMEOUT", None, &[]);
    let handler = Handler::answering(answer.clone());
    let gateway = Gateway::start(breaking(&handler, three_strikes())).await;
    for _ in 0..5 {
        assert_passed(&answer, &gateway.call(&start("pay").header("Request-Timeout", "1800ms")).await);
    }
}

#[tokio::test]
async fn an_answer_that_opened_the_breaker_passes_where_no_other_attempt_may_go() {
    let answer = handler_error("503 Service Unavailable", "UNAVAILABLE", None, &[]);
    let handler = Handler::answering(answer.clone());
    let settings = BreakerSettings { consecutive: Some(1), ..three_strikes() };
    let rule = PolicyRule { breaker: Some(Toggle::On(settings)), ..PolicyRule::default() };
    let gateway = Gateway::start(under(leading_to(&handler), rule)).await;
    assert_passed(&answer, &gateway.call(&start("pay")).await);
    OPEN.assert_by(RULE, &gateway.call(&start("pay")).await);
    assert_eq!(handler.requests().len(), 1);
}
