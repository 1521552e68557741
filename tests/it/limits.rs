//! What a connection may take: time for a head, time without a request, a place among the others.

use std::time::Duration;

use nexus_gateway::config::Settings;
use nexus_gateway::server::ServerSettings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::*;

/// As short as the reaper can tell apart.
const SHORT: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(3600);

fn bounded(handler: &Handler, head_timeout: Duration, idle_timeout: Duration) -> Settings {
    let server = ServerSettings { head_timeout, idle_timeout, ..settings().server };
    Settings { server, ..leading_to(handler) }
}

#[tokio::test]
async fn a_head_that_takes_too_long_ends_its_connection() {
    let handler = Handler::answering(ok());
    for beginning in ["P", "POST /nexus/endpoints/pay/services/Svc/op HTTP/1.1\r\nHost: h\r\nX-Slow: "] {
        let gateway = Gateway::start(bounded(&handler, SHORT, LONG)).await;
        let mut caller = gateway.connect().await;
        caller.send(beginning).await;
        caller.closed().await;
        gateway.counts("nexus_gateway_connections_reaped_total", &[], 1.0).await;
        gateway.counts("nexus_gateway_connections", &[], 0.0).await;
    }
}

#[tokio::test]
async fn a_connection_without_a_request_is_ended() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(bounded(&handler, LONG, SHORT)).await;
    gateway.connect().await.closed().await;
    let mut used = gateway.connect().await;
    assert_eq!(used.call(&start("pay")).await.status(), 200);
    used.closed().await;
    gateway.counts("nexus_gateway_connections_reaped_total", &[], 2.0).await;
}

#[tokio::test]
async fn a_connection_whose_request_is_being_answered_stays() {
    let gate = Gate::new();
    let handler = Handler::acting(vec![Act::Wait(gate.clone()), ok().into()]);
    let gateway = Gateway::start(bounded(&handler, SHORT, SHORT)).await;
    let mut busy = gateway.connect().await;
    busy.send(start("pay").bytes()).await;
    handler.wait_for(1).await;
    for _ in 0..2 {
        gateway.connect().await.closed().await;
    }
    gate.open();
    assert_eq!(busy.answer().await.status(), 200);
}

#[tokio::test]
async fn connections_beyond_the_limit_are_closed_at_once_until_one_leaves() {
    let handler = Handler::answering(ok());
    let server = ServerSettings { max_connections: 2, ..settings().server };
    let gateway = Gateway::start(Settings { server, ..leading_to(&handler) }).await;
    let (mut first, second) = (gateway.connect().await, gateway.connect().await);
    gateway.counts("nexus_gateway_connections", &[], 2.0).await;
    gateway.connect().await.closed().await;
    gateway.counts("nexus_gateway_connections_refused_total", &[("reason", "max_connections")], 1.0).await;
    assert_eq!(first.call(&start("pay")).await.status(), 200);

    drop(second);
    gateway.counts("nexus_gateway_connections", &[], 1.0).await;
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
}

#[tokio::test]
async fn a_head_beyond_the_limit_is_refused() {
    let handler = Handler::answering(ok());
    let server = ServerSettings { max_head: 8 << 10, ..settings().server };
    let gateway = Gateway::start(Settings { server, ..leading_to(&handler) }).await;
    let fits = start("pay").header("X-Long", &"x".repeat(7 << 10));
    assert_eq!(gateway.call(&fits).await.status(), 200);
    let too_long = start("pay").header("X-Long", &"x".repeat(9 << 10));
    let refused = gateway.call(&too_long).await;
    assert_eq!((refused.status(), refused.header("nexus-gateway-failure")), (400, Some("head_too_large")));
    assert_eq!(handler.requests().len(), 1);
}

#[tokio::test]
async fn what_is_not_a_request_is_refused_and_its_connection_closed() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    for garbage in [
        "nonsense\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\0\u{1}\0\u{1}\u{fc}\u{3}\u{3}\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "POST /nexus/endpoints/pay/services/Svc/op HTTP/1.1\r\nHost: h\r\nX Y: 1\r\n\r\n",
        "POST /nexus/endpoints/pay/services/Svc/op HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n",
    ] {
        let mut caller = gateway.connect().await;
        caller.send(garbage).await;
        if let Some(answer) = caller.any_answer().await {
            assert!((400..500).contains(&answer.status()), "{garbage}: {answer:?}");
        }
        caller.closed().await;
    }
    assert!(handler.requests().is_empty());
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
}

/// A reset could overtake the answer.
#[tokio::test]
async fn a_caller_that_goes_on_sending_after_its_last_answer_is_not_reset() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let mut caller = TcpStream::connect(gateway.data()).await.expect("the port is open");
    caller.write_all(b"nonsense\r\n\r\n").await.expect("it is sent");
    let mut answer = Vec::new();
    caller.read_to_end(&mut answer).await.expect("it is answered, and that is the end");
    assert!(answer.starts_with(b"HTTP/1.1 400"), "{answer:?}");
    for _ in 0..3 {
        caller.write_all(b"more nonsense").await.expect("it is taken, and thrown away");
    }
    drop(caller);
    gateway.counts("nexus_gateway_connections", &[], 0.0).await;
}

#[tokio::test]
async fn a_caller_of_http_1_0_is_answered_and_its_connection_closed() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    caller.send("POST /nexus/endpoints/pay/services/Svc/op HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}").await;
    assert_eq!(caller.answer().await.text(), RESULT);
    caller.closed().await;
    assert_eq!(handler.request().first, "POST /Svc/op HTTP/1.1");
}
