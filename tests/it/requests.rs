//! Request bodies: read whole in any framing, bounded, forwarded byte for byte.

use nexus_gateway::config::Settings;
use nexus_gateway::nexus::ErrorType;
use nexus_gateway::route::PolicyRule;

use crate::harness::*;

/// As much as Temporal takes, nearly.
const BIG: usize = 19 * (1 << 20) / 10;

fn bytes(length: usize) -> Vec<u8> {
    (0..length).map(|at| u8::try_from(at % 251).unwrap_or_default()).collect()
}

fn bounded(handler: &Handler, max_request_body: usize, max_response_body: usize) -> Settings {
    let rule = PolicyRule {
        max_request_body: Some(max_request_body),
        max_response_body: Some(max_response_body),
        ..PolicyRule::default()
    };
    under(leading_to(handler), rule)
}

#[tokio::test]
async fn bodies_arrive_whole_in_either_framing_with_their_length() {
    for length in [0, 1, 70_000, BIG] {
        for chunked in [false, true] {
            let handler = Handler::answering(ok());
            let mut request = start("pay").body(bytes(length));
            if chunked {
                request = request.chunked();
            }
            assert_eq!(Gateway::before(&handler).await.call(&request).await.status(), 200);
            let seen = handler.request();
            assert!(seen.body == bytes(length), "{length} bytes, chunked {chunked}");
            // Where there is neither length nor coding there is no body.
            assert_eq!(seen.header("content-length").unwrap_or("0"), length.to_string());
            assert_eq!(seen.header("transfer-encoding"), None);
        }
    }
}

#[tokio::test]
async fn trailers_of_an_answer_end_at_the_gateway() {
    let chunks = "2\r\n{}\r\n0\r\nX-After: 1\r\n\r\n";
    let handler = Handler::answering(format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"));
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    let answer = caller.call(&start("pay")).await;
    assert_eq!((answer.text(), answer.header("x-after")), ("{}".into(), None));
    assert_eq!(caller.call(&start("pay")).await.text(), "{}", "the connection is still in step");
}

#[tokio::test]
async fn a_request_of_exactly_the_limit_passes() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(bounded(&handler, 100, 100)).await;
    for request in [start("pay").body(bytes(100)), start("pay").body(bytes(100)).chunked()] {
        assert_eq!(gateway.call(&request).await.status(), 200);
    }
}

#[tokio::test]
async fn too_large_a_request_is_refused_before_it_was_sent() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(bounded(&handler, 100, 100)).await;
    let mut caller = gateway.connect().await;
    caller.send(start("pay").body(bytes(101)).head()).await;
    failure("request_too_large", ErrorType::BadRequest, false).assert_is(&caller.answer().await, "by its length");
}

#[tokio::test]
async fn two_framings_at_once_never_reach_the_handler_as_they_came() {
    let lengths = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n";
    let swapped = "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n";
    for framing in [lengths, swapped] {
        let handler = Handler::answering(ok());
        let gateway = Gateway::before(&handler).await;
        let mut caller = gateway.connect().await;
        let head = "POST /nexus/endpoints/pay/services/Svc/op HTTP/1.1\r\nHost: h\r\n";
        caller.send(format!("{head}{framing}\r\n6\r\nabcdef\r\n0\r\n\r\n")).await;
        let status = caller.any_answer().await.map_or(0, |answer| answer.status());
        for seen in handler.requests() {
            assert_eq!(seen.text(), "abcdef", "{framing}");
            assert_eq!(seen.all("content-length"), ["6"], "{framing}");
            assert_eq!(seen.header("transfer-encoding"), None, "{framing}");
        }
        assert!(status == 200 || status == 400, "{status} for {framing}");
    }
}

#[tokio::test]
async fn framings_that_cannot_be_trusted_are_refused() {
    for framing in [
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: +4\r\n",
        "Content-Length: 4, 5\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: \u{b}chunked\r\n",
        "Content-Length : 4\r\n",
    ] {
        let handler = Handler::answering(ok());
        let gateway = Gateway::before(&handler).await;
        let mut caller = gateway.connect().await;
        let head = "POST /nexus/endpoints/pay/services/Svc/op HTTP/1.1\r\nHost: h\r\n";
        caller.send(format!("{head}{framing}\r\nabcdefgh")).await;
        let answer = caller.any_answer().await.expect("an answer comes");
        assert_eq!((answer.status(), handler.requests().len()), (400, 0), "{framing}");
    }
}

#[tokio::test]
async fn a_request_whose_body_is_not_well_formed_is_refused_and_not_sent() {
    let chunked = start("pay").chunked();
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    caller.send(chunked.head()).await;
    caller.send("nonsense\r\n").await;
    failure("bad_body", ErrorType::BadRequest, false).assert_is(&caller.answer().await, "a chunk without a size");
    assert!(handler.requests().is_empty());
}

#[tokio::test]
async fn a_caller_that_leaves_inside_its_request_is_counted_and_nothing_is_sent() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    caller.send(start("pay").body(bytes(1000)).head()).await;
    caller.send(bytes(10)).await;
    gateway.counts("nexus_gateway_requests_in_flight", &[], 1.0).await;
    drop(caller);
    gateway.counts("nexus_gateway_requests_in_flight", &[], 0.0).await;
    gateway.counts("nexus_gateway_requests_total", &[("endpoint", "pay")], 1.0).await;
    assert!(handler.requests().is_empty());
}

#[tokio::test]
async fn big_answers_arrive_whole_in_either_framing() {
    let body = "x".repeat(BIG);
    let chunks: String = body.as_bytes().chunks(50_000).map(chunk).collect();
    let chunked = format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}0\r\n\r\n");
    for answer in [answer("200 OK", &[], &body), chunked] {
        let handler = Handler::answering(answer);
        let got = Gateway::before(&handler).await.call(&start("pay")).await;
        assert!(got.complete && got.text() == body, "{:?}, {} bytes", got.headers, got.body.len());
    }
}

fn chunk(bytes: &[u8]) -> String {
    format!("{:x}\r\n{}\r\n", bytes.len(), String::from_utf8_lossy(bytes))
}

#[tokio::test]
async fn a_big_answer_streams_before_its_end_is_there() {
    let gate = Gate::new();
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 200000\r\n\r\n".to_owned() + &"x".repeat(100_000);
    let handler = Handler::acting(vec![head.into(), Act::Wait(gate.clone()), "y".repeat(100_000).into()]);
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    caller.send(start("pay").bytes()).await;
    let head = caller.head().await;
    assert_eq!(head.header("content-length"), Some("200000"));
    gate.open();
    assert_eq!(caller.rest(head).await.body.len(), 200_000);
}

#[tokio::test]
async fn too_large_an_answer_becomes_a_failure_where_that_is_known_in_time() {
    let too_large = failure("upstream_too_large", ErrorType::Internal, false);
    let chunks = format!("{}0\r\n\r\n", chunk(&[b'x'; 101]));
    for (context, answer) in [
        ("a result with a length", answer("200 OK", &[], &"x".repeat(101))),
        ("a result in chunks", format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")),
        ("an error", answer("500 x", &[], &"x".repeat(101))),
        ("a started operation", json("201 x", &format!(r#"{{"token":"{}","state":"running"}}"#, "t".repeat(101)))),
    ] {
        let handler = Handler::answering(answer);
        let gateway = Gateway::start(bounded(&handler, 100, 100)).await;
        too_large.assert_is(&gateway.call(&start("pay")).await, context);
    }
}

#[tokio::test]
async fn a_big_answer_that_announces_too_much_becomes_a_failure_before_it_streams() {
    let handler = Handler::answering(answer("200 OK", &[], &"x".repeat(200_000)));
    let gateway = Gateway::start(bounded(&handler, 100, 100_000)).await;
    let expected = failure("upstream_too_large", ErrorType::Internal, false);
    expected.assert_is(&gateway.call(&start("pay")).await, "by its length");
}

#[tokio::test]
async fn an_answer_that_grows_too_large_while_it_streams_is_cut_and_counted() {
    let gate = Gate::new();
    let begun =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned() + &chunk("x".repeat(90_000).as_bytes());
    let handler =
        Handler::acting(vec![begun.into(), Act::Wait(gate.clone()), chunk("x".repeat(90_000).as_bytes()).into()]);
    let gateway = Gateway::start(bounded(&handler, 100, 100_000)).await;
    let mut caller = gateway.connect().await;
    caller.send(start("pay").bytes()).await;
    let head = caller.head().await;
    gate.open();
    let got = caller.rest(head).await;
    assert!(!got.complete && got.body.len() <= 100_000, "{} bytes", got.body.len());
    gateway.counts("nexus_gateway_failures_total", &[("reason", "upstream_too_large")], 1.0).await;
}
