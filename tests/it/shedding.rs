//! A process that is full: what ends work goes before what begins it, and bodies have a bound in all.

use std::time::Duration;

use nexus_gateway::config::Settings;
use nexus_gateway::gates::ProcessSettings;
use nexus_gateway::nexus::ErrorType;
use nexus_gateway::server::ServerSettings;

use crate::harness::*;

const OVERLOADED: Expected = failure("overloaded", ErrorType::Unavailable, true);

fn bounded(handler: &Handler, max_in_flight: usize, max_queued_bytes: usize) -> Settings {
    let max_wait = Duration::from_secs(5);
    let process = ProcessSettings { max_in_flight, max_queued_bytes, max_wait, ..ProcessSettings::default() };
    let server = ServerSettings { process, ..settings().server };
    Settings { server, ..leading_to(handler) }
}

#[tokio::test]
async fn a_cancel_goes_before_starts_that_came_earlier() {
    let gate = Gate::new();
    let opened = gate.clone();
    let handler = Handler::scripted(move |seen| {
        let answer = if seen.message.target().ends_with("cancel") { answer("202 Accepted", &[], "") } else { ok() };
        vec![Act::Wait(opened.clone()), answer.into()]
    });
    let gateway = Gateway::start(bounded(&handler, 1, 1 << 20)).await;
    let waiting = |count: f64| gateway.counts("nexus_gateway_waiting", &[("stage", "admission")], count);
    let (mut first, mut second, mut third) =
        (gateway.connect().await, gateway.connect().await, gateway.connect().await);
    first.send(start("pay").bytes()).await;
    handler.wait_for(1).await;
    second.send(start("pay").bytes()).await;
    waiting(1.0).await;
    third.send(cancel("pay").bytes()).await;
    waiting(2.0).await;
    gate.open();
    let statuses = (first.answer().await.status(), second.answer().await.status(), third.answer().await.status());
    assert_eq!(statuses, (200, 200, 202));
    let targets: Vec<_> = handler.requests().iter().map(|request| request.target().ends_with("cancel")).collect();
    assert_eq!(targets, [false, true, false]);
}

#[tokio::test]
async fn bodies_beyond_what_the_process_may_hold_are_refused_and_given_back() {
    let gate = Gate::new();
    let handler = Handler::acting(vec![Act::Wait(gate.clone()), ok().into()]);
    let gateway = Gateway::start(bounded(&handler, 100, 1000)).await;
    let mut first = gateway.connect().await;
    first.send(start("pay").body(vec![b'x'; 800]).bytes()).await;
    handler.wait_for(1).await;
    for request in [start("pay").body(vec![b'x'; 300]), start("pay").body(vec![b'x'; 300]).chunked()] {
        OVERLOADED.assert_by("server.max_queued_bytes", &gateway.call(&request).await);
    }
    gate.open();
    assert_eq!(first.answer().await.status(), 200);
    gateway.until_status(&start("pay").body(vec![b'x'; 800]), 200).await;
}
