//! Attempts: what is tried again, how often, with what, and what is not.

use std::sync::atomic::{AtomicUsize, Ordering};

use nexus_gateway::nexus::ErrorType;
use nexus_gateway::resilience::RetrySettings;
use nexus_gateway::resilience::retry::RetryOn;
use nexus_gateway::route::{PolicyRule, Toggle};

use crate::harness::*;

const RESET: Expected = failure("upstream_reset", ErrorType::Unavailable, true);

fn unavailable() -> String {
    handler_error("503 Service Unavailable", "UNAVAILABLE", None, &[])
}

/// A handler that answers the first `failing` requests with `failure`, and the others well.
fn recovering(failing: usize, failure: impl Into<Act>) -> Handler {
    let (asked, failure) = (AtomicUsize::new(0), failure.into());
    Handler::scripted(move |_| {
        let fails = asked.fetch_add(1, Ordering::Relaxed) < failing;
        vec![if fails { failure.clone() } else { ok().into() }]
    })
}

fn retrying(handler: &Handler, settings: RetrySettings) -> nexus_gateway::config::Settings {
    under(leading_to(handler), PolicyRule { retry: Some(Toggle::On(settings)), ..PolicyRule::default() })
}

#[tokio::test]
async fn an_unavailable_handler_is_asked_once_more_with_the_same_request() {
    let handler = recovering(1, unavailable());
    let gateway = Gateway::before(&handler).await;
    let answer = gateway.call(&start("pay").header("Request-Timeout", "9999ms").body("{\"a\":1}")).await;
    assert_eq!((answer.status(), answer.text()), (200, RESULT.into()));
    let requests = handler.requests();
    let [first, second] = &requests[..] else { panic!("two requests") };
    assert_eq!(second.text(), "{\"a\":1}");
    assert!(first.header("nexus-request-id").is_some_and(|id| id.len() == 36));
    assert_eq!(first.header("nexus-request-id"), second.header("nexus-request-id"));
    let left = |request: &Message| -> f64 {
        request.header("request-timeout").and_then(|text| text.strip_suffix("ms")?.parse().ok()).expect("milliseconds")
    };
    assert!(left(second) <= left(first), "{first:?} {second:?}");
    gateway.counts("nexus_gateway_retries_total", &[("on", "unavailable")], 1.0).await;
    gateway.counts("nexus_gateway_requests_total", &[("outcome", "succeeded")], 1.0).await;
}

#[tokio::test]
async fn after_the_last_attempt_the_handlers_own_answer_passes() {
    let handler = Handler::answering(unavailable());
    let settings = RetrySettings { attempts: 3, ..RetrySettings::default() };
    let gateway = Gateway::start(retrying(&handler, settings)).await;
    assert_passed(&unavailable(), &gateway.call(&start("pay")).await);
    assert_eq!(handler.requests().len(), 3);
}

#[tokio::test]
async fn what_the_policy_does_not_name_is_not_tried_again() {
    let off = PolicyRule { retry: Some(Toggle::Off), ..PolicyRule::default() };
    for (answer, rule) in [
        (handler_error("500 Internal Server Error", "INTERNAL", None, &[]), PolicyRule::default()),
        (handler_error("429 Too Many Requests", "RESOURCE_EXHAUSTED", None, &[]), PolicyRule::default()),
        (handler_error("520 Upstream Timeout", "UPSTREAM_TIMEOUT", None, &[]), PolicyRule::default()),
        (unavailable(), off),
    ] {
        let handler = Handler::answering(answer.clone());
        let gateway = Gateway::start(under(leading_to(&handler), rule)).await;
        assert_passed(&answer, &gateway.call(&start("pay")).await);
        assert_eq!(handler.requests().len(), 1, "{answer}");
    }
}

#[tokio::test]
async fn the_body_beats_the_header_and_the_header_the_status() {
    let says = |header: &str| format!("Nexus-Request-Retryable: {header}");
    for (attempts, answer) in [
        (1, handler_error("503 Service Unavailable", "UNAVAILABLE", Some(false), &[&says("true")])),
        (2, handler_error("503 Service Unavailable", "UNAVAILABLE", Some(true), &[&says("false")])),
        (1, answer("503 Service Unavailable", &[&says("false")], "no")),
        (2, answer("503 Service Unavailable", &[], "no")),
    ] {
        let handler = Handler::answering(answer.clone());
        Gateway::before(&handler).await.call(&start("pay")).await;
        assert_eq!(handler.requests().len(), attempts, "{answer}");
    }
}

#[tokio::test]
async fn a_lost_start_is_sent_again_only_where_the_policy_says_so() {
    let on = RetryOn { reset: true, ..RetryOn::NOTHING };
    for (attempts, settings) in [(1, RetrySettings::default()), (2, RetrySettings { on, ..RetrySettings::default() })] {
        let handler = recovering(1, Act::Close);
        let gateway = Gateway::start(retrying(&handler, settings)).await;
        let answer = gateway.call(&start("pay")).await;
        assert_eq!(handler.requests().len(), attempts);
        if attempts == 1 {
            RESET.assert_is(&answer, "lost");
        } else {
            assert_eq!(answer.status(), 200);
        }
    }
}

#[tokio::test]
async fn a_lost_cancel_is_sent_again() {
    let asked = AtomicUsize::new(0);
    let handler = Handler::scripted(move |_| match asked.fetch_add(1, Ordering::Relaxed) {
        0 => vec![Act::Close],
        _ => vec![answer("202 Accepted", &[], "").into()],
    });
    let gateway = Gateway::before(&handler).await;
    assert_eq!(gateway.call(&cancel("pay")).await.status(), 202);
    assert_eq!(handler.requests().len(), 2);
}

#[tokio::test]
async fn an_answer_that_has_begun_is_never_tried_again() {
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n".to_owned() + &"x".repeat(100_000);
    let gate = Gate::new();
    let handler = Handler::acting(vec![begun.into(), Act::Wait(gate.clone()), Act::Close]);
    let on = RetryOn { reset: true, unavailable: true, internal: true, ..RetryOn::NOTHING };
    let gateway = Gateway::start(retrying(&handler, RetrySettings { on, ..RetrySettings::default() })).await;
    let mut caller = gateway.connect().await;
    caller.send(start("pay").bytes()).await;
    let head = caller.head().await;
    gate.open();
    assert!(!caller.rest(head).await.complete);
    gateway.counts("nexus_gateway_failures_total", &[("reason", "upstream_reset")], 1.0).await;
    assert_eq!(handler.requests().len(), 1);
}

#[tokio::test]
async fn with_less_than_the_floor_left_nothing_is_tried_again() {
    let handler = Handler::answering(unavailable());
    let gateway = Gateway::before(&handler).await;
    assert_passed(&unavailable(), &gateway.call(&start("pay").header("Request-Timeout", "2s")).await);
    assert_eq!(handler.requests().len(), 1);
    gateway.counts("nexus_gateway_retries_withheld_total", &[("why", "deadline")], 1.0).await;
}

#[tokio::test]
async fn the_budget_bounds_retries_of_an_endpoint() {
    let handler = Handler::answering(unavailable());
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    for _ in 0..15 {
        assert_eq!(caller.call(&start("pay")).await.status(), 503);
    }
    // The least that a budget allows in ten seconds.
    assert_eq!(handler.requests().len(), 15 + 10);
    gateway.counts("nexus_gateway_retries_withheld_total", &[("endpoint", "pay"), ("why", "budget")], 5.0).await;
}
