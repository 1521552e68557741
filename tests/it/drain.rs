//! Draining: no new connections, requests in flight end, within a time of grace.

use std::future::{pending, ready};
use std::time::Duration;

use nexus_gateway::run::Drained;

use crate::harness::*;

/// A gateway with one request in flight, whose handler waits for the gate.
async fn busy(grace: Duration) -> (Gateway, Handler, Caller, Gate) {
    let gate = Gate::new();
    let handler = Handler::acting(vec![Act::Wait(gate.clone()), ok().into()]);
    let mut settings = leading_to(&handler);
    settings.server.grace = grace;
    let gateway = Gateway::start(settings).await;
    let mut caller = gateway.connect().await;
    caller.send(start("pay").bytes()).await;
    handler.wait_for(1).await;
    (gateway, handler, caller, gate)
}

const LONG: Duration = Duration::from_secs(600);

#[tokio::test]
async fn a_request_in_flight_is_answered() {
    let (gateway, _handler, mut caller, gate) = busy(LONG).await;
    let address = gateway.data();
    let drained = tokio::spawn(gateway.running.drain(pending()));
    refused_at(address).await;
    assert!(!drained.is_finished());
    gate.open();
    assert_eq!(caller.answer().await.status(), 200);
    caller.closed().await;
    assert_eq!(drained.await.expect("it ends"), Drained::Clean);
}

#[tokio::test]
async fn the_admin_port_says_so() {
    let (gateway, _handler, _caller, gate) = busy(LONG).await;
    let admin = gateway.running.admin_address();
    let drained = tokio::spawn(gateway.running.drain(pending()));
    let shown = loop {
        let answer = Caller::connect(admin).await.call(&get("/readyz").host("localhost")).await;
        if answer.status() == 503 {
            break answer.text();
        }
        tokio::time::sleep(PAUSE).await;
    };
    assert!(shown.contains("\"draining\":true"), "{shown}");
    gate.open();
    assert_eq!(drained.await.expect("it ends"), Drained::Clean);
}

#[tokio::test]
async fn connections_without_a_request_are_closed() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let fresh = gateway.connect().await;
    let mut used = gateway.connect().await;
    assert_eq!(used.call(&start("pay")).await.status(), 200);
    gateway.counts("nexus_gateway_connections", &[], 2.0).await;
    assert_eq!(gateway.running.drain(pending()).await, Drained::Clean);
    fresh.closed().await;
    used.closed().await;
}

#[tokio::test]
async fn requests_that_outlast_the_grace_are_cut() {
    let (gateway, _handler, caller, _gate) = busy(Duration::from_millis(100)).await;
    assert_eq!(gateway.running.drain(pending()).await, Drained::Cut(1));
    caller.closed().await;
}

#[tokio::test]
async fn a_second_signal_cuts_at_once() {
    let (gateway, _handler, caller, _gate) = busy(LONG).await;
    assert_eq!(gateway.running.drain(ready(())).await, Drained::Cut(1));
    caller.closed().await;
}

#[tokio::test]
async fn a_request_whose_body_still_comes_is_answered() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    let request = start("pay").body("\"body\"");
    caller.send(request.head()).await;
    gateway.counts("nexus_gateway_requests_in_flight", &[], 1.0).await;
    let address = gateway.data();
    let drained = tokio::spawn(gateway.running.drain(pending()));
    refused_at(address).await;
    caller.send("\"body\"").await;
    assert_eq!(caller.answer().await.status(), 200);
    assert_eq!(drained.await.expect("it ends"), Drained::Clean);
}
