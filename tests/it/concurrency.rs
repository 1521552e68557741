//! Concurrency limits: a place is held until the last byte, and waited for in turn.

use std::time::Duration;

use nexus_gateway::config::Settings;
use nexus_gateway::nexus::ErrorType;
use nexus_gateway::resilience::{ConcurrencySettings, Per};
use nexus_gateway::route::{PolicyRule, Toggle};

use crate::harness::*;

const SATURATED: Expected = failure("saturated", ErrorType::ResourceExhausted, true);
const RULE: &str = "policies[0].concurrency";

/// One at a time, and `max_queue` that wait.
fn one_at_a_time(handler: &Handler, max_queue: usize) -> Settings {
    let (max, max_wait) = (1, Duration::from_secs(5));
    let settings = ConcurrencySettings { per: Per::OPERATION, max, max_wait, max_queue, adaptive: false };
    under(leading_to(handler), PolicyRule { concurrency: Some(Toggle::On(settings)), ..PolicyRule::default() })
}

#[tokio::test]
async fn a_request_waits_until_there_is_a_place_and_more_than_may_wait_are_refused() {
    let gate = Gate::new();
    let handler = Handler::acting(vec![Act::Wait(gate.clone()), ok().into()]);
    let gateway = Gateway::start(one_at_a_time(&handler, 1)).await;
    let (mut first, mut second) = (gateway.connect().await, gateway.connect().await);
    first.send(start("pay").bytes()).await;
    handler.wait_for(1).await;
    second.send(start("pay").bytes()).await;
    gateway.counts("nexus_gateway_waiting", &[("stage", "concurrency")], 1.0).await;
    SATURATED.assert_by(RULE, &gateway.call(&start("pay")).await);
    assert_eq!(handler.requests().len(), 1);
    gate.open();
    assert_eq!((first.answer().await.status(), second.answer().await.status()), (200, 200));
}

#[tokio::test]
async fn a_place_is_held_until_the_last_byte_of_the_answer() {
    let gate = Gate::new();
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n".to_owned() + &"x".repeat(100_000);
    let handler = Handler::acting(vec![begun.into(), Act::Wait(gate.clone()), "x".repeat(100_000).into()]);
    let gateway = Gateway::start(one_at_a_time(&handler, 0)).await;
    let mut streaming = gateway.connect().await;
    streaming.send(start("pay").bytes()).await;
    let head = streaming.head().await;
    SATURATED.assert_by(RULE, &gateway.call(&start("pay")).await);
    gate.open();
    assert!(streaming.rest(head).await.complete);
    gateway.until_status(&start("pay"), 200).await;
}

#[tokio::test]
async fn a_caller_that_leaves_gives_its_place_back() {
    let handler = Handler::acting(vec![Act::Stall]);
    let gateway = Gateway::start(one_at_a_time(&handler, 1)).await;
    let (mut first, mut second) = (gateway.connect().await, gateway.connect().await);
    first.send(start("pay").bytes()).await;
    handler.wait_for(1).await;
    second.send(start("pay").bytes()).await;
    gateway.counts("nexus_gateway_waiting", &[("stage", "concurrency")], 1.0).await;
    drop(first);
    handler.wait_for(2).await;
}
