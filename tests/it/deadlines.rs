//! Deadlines: one per request, the caller's or the policy's; the failure says which one ended and where the time went.

use std::time::Duration;

use nexus_gateway::config::Settings;
use nexus_gateway::nexus::ErrorType;
use nexus_gateway::route::PolicyRule;

use crate::harness::*;

const SHORT: Duration = Duration::from_millis(300);
const TIMEOUT: Expected = failure("upstream_timeout", ErrorType::UpstreamTimeout, true);
const NOT_SENT: Expected = failure("deadline_exceeded", ErrorType::RequestTimeout, true);

#[tokio::test]
async fn a_handler_that_does_not_answer_in_time_is_an_upstream_timeout() {
    for (context, acts) in [
        ("before the answer", vec![Act::Stall]),
        ("inside the head", vec!["HTTP/1.1 200 OK\r\nConte".into(), Act::Stall]),
        ("after an interim answer", vec!["HTTP/1.1 100 Continue\r\n\r\n".into(), Act::Stall]),
        ("inside a small body", vec!["HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf".into(), Act::Stall]),
        ("inside an error", vec!["HTTP/1.1 500 x\r\nContent-Length: 9\r\n\r\nhalf".into(), Act::Stall]),
        (
            "inside a body in chunks",
            vec!["HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n".into(), Act::Stall],
        ),
    ] {
        let handler = Handler::acting(acts);
        let gateway = Gateway::start(under(leading_to(&handler), within(SHORT))).await;
        TIMEOUT.assert_is(&gateway.call(&start("pay")).await, context);
    }
}

#[tokio::test]
async fn the_failure_names_the_deadline_that_ended() {
    let handler = Handler::acting(vec![Act::Stall]);
    let gateway = Gateway::start(under(leading_to(&handler), within(SHORT))).await;
    for (given, named) in [(None, "the policy's timeout, 300ms"), (Some("50ms"), "the caller's Request-Timeout, 50ms")]
    {
        let request = given.map_or(start("pay"), |given| start("pay").header("Request-Timeout", given));
        let answer = gateway.call(&request).await;
        TIMEOUT.assert_is(&answer, named);
        assert!(answer.text().contains(named), "{}", answer.text());
    }
}

#[tokio::test]
async fn a_timeout_of_zero_is_no_timeout() {
    let handler = Handler::answering(ok());
    let answer = Gateway::before(&handler).await.call(&start("pay").header("Request-Timeout", "0ms")).await;
    assert_eq!(answer.status(), 200);
}

#[tokio::test]
async fn time_that_ends_while_connecting_ends_before_anything_was_sent() {
    let deaf = Deaf::new().await;
    let endpoints = vec![external("pay", &format!("http://{}", deaf.address))];
    let gateway = Gateway::start(under(Settings { endpoints, ..settings() }, within(SHORT))).await;
    NOT_SENT.assert_is(&gateway.call(&start("pay")).await, "connecting");
}

#[tokio::test]
async fn a_connect_that_takes_too_long_is_a_target_that_cannot_be_reached() {
    let deaf = Deaf::new().await;
    let mut settings = Settings { endpoints: vec![external("pay", &format!("http://{}", deaf.address))], ..settings() };
    settings.upstream.connect_timeout = Duration::from_millis(50);
    let answer = Gateway::start(settings).await.call(&start("pay")).await;
    failure("upstream_unreachable", ErrorType::Unavailable, true).assert_is(&answer, "connecting");
}

#[tokio::test]
async fn time_that_ends_inside_the_request_ends_before_anything_was_sent() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(under(leading_to(&handler), within(SHORT))).await;
    let mut caller = gateway.connect().await;
    caller.send(start("pay").body("{}").head()).await;
    NOT_SENT.assert_is(&caller.answer().await, "the body never came");
    assert!(handler.requests().is_empty());
}

#[tokio::test]
async fn a_stream_that_takes_too_long_is_cut_and_counted() {
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n".to_owned() + &"x".repeat(100_000);
    let handler = Handler::acting(vec![begun.into(), Act::Stall]);
    let gateway = Gateway::start(under(leading_to(&handler), within(SHORT))).await;
    let got = gateway.call(&start("pay")).await;
    assert_eq!((got.status(), got.complete), (200, false));
    gateway.counts("nexus_gateway_failures_total", &[("reason", "upstream_timeout")], 1.0).await;
}

#[tokio::test]
async fn a_caller_that_does_not_read_its_answer_holds_nothing_for_ever() {
    // More than what sockets buffer.
    let body = "x".repeat(32 << 20);
    let handler = Handler::answering(answer("200 OK", &[], &body));
    let rule = PolicyRule { max_response_body: Some(64 << 20), ..within(SHORT) };
    let mut settings = under(leading_to(&handler), rule);
    settings.server.process.body_timeout = Duration::from_secs(1);
    let gateway = Gateway::start(settings).await;
    let mut caller = gateway.connect().await;
    caller.send(start("pay").bytes()).await;
    handler.wait_for(1).await;
    gateway.counts("nexus_gateway_requests_total", &[], 1.0).await;
    gateway.counts("nexus_gateway_connections", &[], 0.0).await;
}

#[tokio::test]
async fn answers_that_nobody_reads_are_bounded_together() {
    let body = format!("\"{}\"", "x".repeat(1 << 20));
    let handler = Handler::answering(json("200 OK", &body));
    let mut settings = leading_to(&handler);
    (settings.server.workers, settings.server.max_unread_bytes) = (1, 1 << 20);
    let gateway = Gateway::start(settings).await;
    let mut unread = Vec::new();
    for _ in 0..20 {
        let mut caller = gateway.connect().await;
        // More than what sockets buffer.
        caller.send(start("pay").bytes().repeat(20)).await;
        unread.push(caller);
    }
    gateway.counts_at_least("nexus_gateway_connections_cut_total", &[("reason", "unread_bytes")], 5.0).await;
    let left = gateway.metrics().await.sum("nexus_gateway_connections", &[]);
    assert!(left > 1.0, "no more are cut than have to be: {left}");
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
}

#[tokio::test]
async fn the_next_request_on_a_connection_has_its_own_time() {
    let handler = Handler::scripted(|seen| match seen.message.text().as_str() {
        "slow" => vec![Act::Stall],
        _ => vec![ok().into()],
    });
    let gateway = Gateway::start(under(leading_to(&handler), within(SHORT))).await;
    let mut caller = gateway.connect().await;
    TIMEOUT.assert_is(&caller.call(&start("pay").body("slow")).await, "the first");
    assert_eq!(caller.call(&start("pay").body("fast")).await.status(), 200);
}

#[tokio::test]
async fn a_look_up_takes_no_more_time_than_the_request_has() {
    let cluster = Cluster::serving(vec![]);
    cluster.state().mood = Mood::Stalled(Gate::new());
    let gateway = Gateway::serving(&cluster).await;
    let answer = gateway.call(&start("pay").header("Request-Timeout", "100ms")).await;
    failure("registry_unavailable", ErrorType::Unavailable, true).assert_is(&answer, "the registry stalls");
}
