//! Callers that speak HTTP/2: what they send means the same as in HTTP/1.1.

use std::future::pending;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use http::{HeaderMap, Request as Http, Response};
use nexus_gateway::config::Settings;
use nexus_gateway::credentials::{Outward, Pass};
use nexus_gateway::run::Drained;
use nexus_gateway::server::{Http2Settings, ServerSettings};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::harness::*;

const LONG: Duration = Duration::from_secs(3600);

/// A connection of HTTP/2 with prior knowledge.
struct Http2 {
    send: SendRequest<Bytes>,
    ended: JoinHandle<Result<(), h2::Error>>,
}

impl Http2 {
    async fn connect(address: SocketAddr) -> Self {
        Self::with(address, &h2::client::Builder::new()).await
    }

    async fn with(address: SocketAddr, builder: &h2::client::Builder) -> Self {
        let stream = TcpStream::connect(address).await.expect("the port is open");
        let (send, connection) = builder.handshake(stream).await.expect("HTTP/2 is spoken");
        Self { send, ended: tokio::spawn(connection) }
    }

    /// Sends a head and a body, and waits for the answer's head.
    async fn answer(&mut self, request: Http<()>, body: &'static str) -> Result<Response<h2::RecvStream>, h2::Error> {
        let mut send = self.send.clone().ready().await?;
        let (answer, mut stream) = send.send_request(request, body.is_empty())?;
        if !body.is_empty() {
            stream.send_data(Bytes::from_static(body.as_bytes()), true)?;
        }
        answer.await
    }

    async fn call(&mut self, request: Http<()>, body: &'static str) -> Result<(u16, HeaderMap, String), h2::Error> {
        let (head, mut stream) = self.answer(request, body).await?.into_parts();
        let mut text = Vec::new();
        while let Some(data) = stream.data().await {
            let data = data?;
            text.extend(&data);
            stream.flow_control().release_capacity(data.len())?;
        }
        Ok((head.status.as_u16(), head.headers, String::from_utf8(text).expect("it is text")))
    }

    /// Waits until the gateway closed the connection.
    async fn closed(self) {
        let ended = tokio::time::timeout(Duration::from_secs(30), self.ended).await.expect("it is closed");
        drop(ended.expect("the task ends"));
    }
}

fn speaking(handler: &Handler) -> Settings {
    with_http2(leading_to(handler))
}

fn with_http2(mut settings: Settings) -> Settings {
    settings.listen[0].http2 = true;
    settings
}

fn start_at(path: &str) -> http::request::Builder {
    Http::post(format!("http://gateway.test{path}")).header("content-type", "application/json")
}

fn start() -> http::request::Builder {
    start_at("/nexus/endpoints/pay/services/Svc/op")
}

#[tokio::test]
async fn a_request_means_the_same_as_in_http_1_1() {
    let handler = Handler::answering(answer("200 OK", &["Content-Type: application/json", "X-Own: 1"], "\"done\""));
    let outward = Outward { pass: Pass { cookie: true, authorization: false }, ..Outward::default() };
    let settings = Settings { externals: [("pay".into(), outward)].into(), ..speaking(&handler) };
    let gateway = Gateway::start(settings).await;
    let mut caller = Http2::connect(gateway.data()).await;
    let request = start()
        .header("nexus-request-id", "3f1c")
        .header("nexus-link", r#"<http://a>; type="a.B""#)
        .header("te", "trailers")
        .body(())
        .expect("a request");
    let (status, headers, text) = caller.call(request, "{}").await.expect("an answer");
    assert_eq!((status, &*text), (200, "\"done\""));
    assert_eq!(headers.get("x-own").map(http::HeaderValue::as_bytes), Some(&b"1"[..]));

    let seen = handler.request();
    assert_eq!((seen.first.as_str(), seen.text()), ("POST /Svc/op HTTP/1.1", "{}".into()));
    assert_eq!(seen.all("host"), [handler.address.to_string()]);
    assert_eq!((seen.header("nexus-request-id"), seen.header("te")), (Some("3f1c"), None));
    assert_eq!((seen.header("content-length"), seen.header("transfer-encoding")), (Some("2"), None));
}

#[tokio::test]
async fn http_1_1_is_spoken_on_the_same_port() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(speaking(&handler)).await;
    assert_eq!(gateway.call(&crate::harness::start("pay")).await.status(), 200);
    // Even by one who begins with what could be either.
    let mut caller = gateway.connect().await;
    caller.send("P").await;
    caller.send("OST /nexus/endpoints/pay/services/Svc/op HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\n{}").await;
    assert_eq!(caller.answer().await.status(), 200);
}

#[tokio::test]
async fn failures_are_the_same() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(speaking(&handler)).await;
    let mut caller = Http2::connect(gateway.data()).await;
    let unknown = start_at("/nexus/endpoints/none/services/Svc/op").body(()).expect("a request");
    let (status, headers, text) = caller.call(unknown, "{}").await.expect("an answer");
    assert_eq!((status, &headers["nexus-gateway-failure"]), (404, &"unknown_endpoint".parse().expect("a value")));
    assert!(text.contains("nexus.HandlerError"), "{text}");
}

#[tokio::test]
async fn a_request_that_could_mean_two_hosts_is_refused() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(speaking(&handler)).await;
    let mut caller = Http2::connect(gateway.data()).await;
    for hosts in [&["other.test"][..], &["gateway.test", "gateway.test"]] {
        let request = hosts.iter().fold(start(), |request, host| request.header("host", *host));
        let (status, headers, _) = caller.call(request.body(()).expect("a request"), "{}").await.expect("an answer");
        assert_eq!((status, &headers["nexus-gateway-failure"]), (400, &"bad_head".parse().expect("a value")));
    }
    let same = start().header("host", "gateway.test").body(()).expect("a request");
    assert_eq!(caller.call(same, "{}").await.expect("an answer").0, 200);
    assert_eq!(handler.requests().len(), 1);
    gateway.counts("nexus_gateway_failures_total", &[("reason", "bad_head")], 2.0).await;
}

#[tokio::test]
async fn requests_go_at_the_same_time_up_to_a_limit() {
    let gate = Gate::new();
    let handler = Handler::acting(vec![Act::Wait(gate.clone()), ok().into()]);
    let mut settings = speaking(&handler);
    settings.server.http2 = Http2Settings { max_streams: 3, ..Http2Settings::default() };
    let gateway = Gateway::start(settings).await;
    let mut caller = Http2::connect(gateway.data()).await;
    let unknown = start_at("/nexus/endpoints/none/services/Svc/op").body(()).expect("a request");
    // With the answer it knows of the limit.
    assert_eq!(caller.call(unknown, "{}").await.expect("an answer").0, 404);
    let calls: Vec<_> = (0..5)
        .map(|_| {
            let mut caller = Http2 { send: caller.send.clone(), ended: tokio::spawn(pending()) };
            tokio::spawn(async move { caller.call(start().body(()).expect("a request"), "{}").await })
        })
        .collect();
    handler.wait_for(3).await;
    gateway.counts("nexus_gateway_requests_in_flight", &[], 3.0).await;
    gate.open();
    for call in calls {
        assert_eq!(call.await.expect("it ends").expect("an answer").0, 200);
    }
}

#[tokio::test]
async fn a_large_answer_comes_whole() {
    let body = format!("\"{}\"", "x".repeat(1 << 20));
    let handler = Handler::answering(json("200 OK", &body));
    let gateway = Gateway::start(speaking(&handler)).await;
    let mut caller = Http2::connect(gateway.data()).await;
    let (status, _, text) = caller.call(start().body(()).expect("a request"), "{}").await.expect("an answer");
    assert_eq!((status, text.len()), (200, body.len()));
}

#[tokio::test]
async fn after_so_many_requests_the_caller_is_told_to_open_another_connection() {
    let handler = Handler::answering(ok());
    let mut settings = speaking(&handler);
    settings.server.max_requests_per_connection = 3;
    let gateway = Gateway::start(settings).await;
    let mut caller = Http2::connect(gateway.data()).await;
    for _ in 0..3 {
        assert_eq!(caller.call(start().body(()).expect("a request"), "{}").await.expect("an answer").0, 200);
    }
    caller.closed().await;

    let mut caller = gateway.connect().await;
    for left in [2, 1, 0] {
        let answer = caller.call(&crate::harness::start("pay")).await;
        assert_eq!((answer.status(), answer.header("connection")), (200, (left == 0).then_some("close")));
    }
    caller.closed().await;
}

#[tokio::test]
async fn who_was_let_in_on_other_terms_is_told_to_go_after_what_it_asked_for() {
    let gate = Gate::new();
    let handler = Handler::acting(vec![Act::Wait(gate.clone()), ok().into()]);
    let mut settings = speaking(&handler);
    let gateway = Gateway::start(settings.clone()).await;
    let mut caller = Http2::connect(gateway.data()).await;
    let call = tokio::spawn(async move {
        let answer = caller.call(start().body(()).expect("a request"), "{}").await;
        (answer, caller)
    });
    handler.wait_for(1).await;
    let idle = Http2::connect(gateway.data()).await;
    gateway.counts("nexus_gateway_connections", &[], 2.0).await;
    settings.listen[0].trust = nexus_gateway::admission::Trust::Untrusted;
    gateway.running.apply(settings).await.expect("it can be applied");
    idle.closed().await;
    gate.open();
    let (answer, caller) = call.await.expect("it ends");
    assert_eq!(answer.expect("an answer").0, 200);
    caller.closed().await;
}

#[tokio::test]
async fn a_drain_lets_requests_end_and_begins_no_more() {
    let gate = Gate::new();
    let handler = Handler::acting(vec![Act::Wait(gate.clone()), ok().into()]);
    let gateway = Gateway::start(speaking(&handler)).await;
    let address = gateway.data();
    let mut caller = Http2::connect(address).await;
    let mut same = caller.send.clone();
    let call = tokio::spawn(async move {
        let answer = caller.call(start().body(()).expect("a request"), "{}").await;
        (answer, caller)
    });
    handler.wait_for(1).await;
    let drained = tokio::spawn(gateway.running.drain(pending()));
    refused_at(address).await;
    // It is told by GOAWAY, after which nothing is begun.
    while let Ok(ready) = same.ready().await {
        same = ready;
        if same.send_request(start().body(()).expect("a request"), true).is_err() {
            break;
        }
        tokio::time::sleep(PAUSE).await;
    }
    gate.open();
    let (answer, caller) = call.await.expect("it ends");
    assert_eq!(answer.expect("an answer").0, 200);
    assert_eq!(drained.await.expect("it ends"), Drained::Clean);
    caller.closed().await;
}

#[tokio::test]
async fn a_connection_without_a_request_is_ended_and_one_with_a_request_stays() {
    let short = Duration::from_millis(500);
    let gate = Gate::new();
    let handler = Handler::acting(vec![Act::Wait(gate.clone()), ok().into()]);
    let server = ServerSettings { head_timeout: LONG, idle_timeout: short, ..settings().server };
    let gateway = Gateway::start(Settings { server, ..speaking(&handler) }).await;
    let mut busy = Http2::connect(gateway.data()).await;
    let call = tokio::spawn(async move { busy.call(start().body(()).expect("a request"), "{}").await });
    handler.wait_for(1).await;
    for _ in 0..2 {
        Http2::connect(gateway.data()).await.closed().await;
    }
    gate.open();
    assert_eq!(call.await.expect("it ends").expect("an answer").0, 200);
}

#[tokio::test]
async fn a_caller_that_leaves_a_request_ends_it() {
    let handler = Handler::acting(vec![Act::Stall]);
    let gateway = Gateway::start(speaking(&handler)).await;
    let mut caller = Http2::connect(gateway.data()).await;
    let mut send = caller.send.clone().ready().await.expect("it is open");
    let (answer, mut stream) = send.send_request(start().body(()).expect("a request"), false).expect("it is sent");
    stream.send_data(Bytes::from_static(b"{}"), true).expect("it is sent");
    handler.wait_for(1).await;
    stream.send_reset(h2::Reason::CANCEL);
    drop(answer);
    gateway.counts("nexus_gateway_requests_in_flight", &[], 0.0).await;
    let unknown = start_at("/nexus/endpoints/none/services/Svc/op").body(()).expect("a request");
    assert_eq!(caller.call(unknown, "{}").await.expect("the connection goes on").0, 404);
}

#[tokio::test]
async fn a_target_may_take_its_time_inside_an_answer() {
    let (short, gate) = (Duration::from_millis(500), Gate::new());
    let body = format!("\"{}\"", "x".repeat(100 << 10));
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n\"", body.len());
    let handler = Handler::acting(vec![head.into(), Act::Wait(gate.clone()), body[1..].into()]);
    let mut settings = speaking(&handler);
    settings.server.process.body_timeout = short;
    settings.server.idle_timeout = short;
    let gateway = Gateway::start(settings).await;
    let mut caller = Http2::connect(gateway.data()).await;
    let call = tokio::spawn(async move { caller.call(start().body(()).expect("a request"), "{}").await });
    handler.wait_for(1).await;
    for _ in 0..3 {
        Http2::connect(gateway.data()).await.closed().await;
    }
    gate.open();
    let (status, _, text) = call.await.expect("it ends").expect("an answer");
    assert_eq!((status, text), (200, body));
}

#[tokio::test]
async fn answers_that_windows_do_not_let_go_are_bounded_together() {
    let body = format!("\"{}\"", "x".repeat(10 << 10));
    let handler = Handler::answering(json("200 OK", &body));
    let mut settings = speaking(&handler);
    (settings.server.workers, settings.server.max_unread_bytes) = (1, 1 << 20);
    let gateway = Gateway::start(settings).await;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1);
    let mut held = Vec::new();
    for _ in 0..20 {
        let mut caller = Http2::with(gateway.data(), &builder).await;
        for _ in 0..10 {
            let answer = caller.answer(start().body(()).expect("a request"), "{}").await.expect("an answer");
            held.push(answer.into_body());
        }
    }
    gateway.counts_at_least("nexus_gateway_connections_cut_total", &[("reason", "unread_bytes")], 8.0).await;
    let left = gateway.metrics().await.sum("nexus_gateway_connections", &[]);
    assert!(left > 5.0, "no more are cut than have to be: {left}");
}

#[tokio::test]
async fn a_caller_that_does_not_read_its_answer_is_cut() {
    let body = format!("\"{}\"", "x".repeat(1 << 20));
    let handler = Handler::answering(json("200 OK", &body));
    let mut settings = speaking(&handler);
    settings.server.process.body_timeout = Duration::from_millis(500);
    let gateway = Gateway::start(settings).await;
    let mut caller = Http2::connect(gateway.data()).await;
    // Nothing gives the window back.
    let mut answer = caller.answer(start().body(()).expect("a request"), "{}").await.expect("an answer").into_body();
    gateway.counts("nexus_gateway_connections_cut_total", &[("reason", "unread")], 1.0).await;
    gateway.counts("nexus_gateway_requests_in_flight", &[], 0.0).await;
    // What was on its way still comes, and then the reset.
    let ended = loop {
        let data = answer.data().await.expect("what was sent is not the whole answer");
        match data {
            Ok(data) => answer.flow_control().release_capacity(data.len()).expect("as much as came"),
            Err(error) => break error,
        }
    };
    assert_eq!(ended.reason(), Some(h2::Reason::CANCEL));
}
