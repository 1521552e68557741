//! Failures that the gateway makes itself: each condition has its status, type, retryability and reason, and header
//! and body agree.

use nexus_gateway::nexus::ErrorType;
use nexus_gateway::route::PolicyRule;

use crate::harness::*;

const START: &str = "/nexus/endpoints/pay/services/Svc/op";

#[tokio::test]
async fn requests_that_cannot_be_forwarded_are_refused_with_their_reason() {
    let handler = Handler::answering(ok());
    let rule = PolicyRule { max_request_body: Some(1000), ..PolicyRule::default() };
    let gateway = Gateway::start(under(leading_to(&handler), rule)).await;
    let bad = |reason| failure(reason, ErrorType::BadRequest, false);
    let not_found = |reason| failure(reason, ErrorType::NotFound, false);
    for (context, request, expected) in [
        ("no such endpoint", start("none"), not_found("unknown_endpoint")),
        ("a name that no endpoint can have", start("no_ne"), not_found("unknown_endpoint")),
        ("an id that no endpoint has", start(&id(1)), not_found("unknown_endpoint")),
        ("the root", to("/"), not_found("unknown_route")),
        ("get-result, gone from the specification", get(&format!("{START}/result")), not_found("unknown_route")),
        ("another prefix", to("/api/v1/nexus/endpoints"), not_found("unknown_route")),
        ("GET", get(START), bad("bad_method")),
        ("PUT", start("pay").method("PUT"), bad("bad_method")),
        ("a broken escape", to(format!("{START}%2")), bad("bad_path")),
        ("an escape that is not UTF-8", to(format!("{START}%ff")), bad("bad_path")),
        ("dots", to("/nexus/endpoints/pay/services/../op"), bad("bad_path")),
        ("escaped dots", to("/nexus/endpoints/pay/services/Svc/%2e%2e"), bad("bad_path")),
        ("Go's form of a time-out", start("pay").header("Request-Timeout", "1m30s"), bad("bad_timeout")),
        ("a time-out without a unit", start("pay").header("Request-Timeout", "10"), bad("bad_timeout")),
        ("a link without a type", start("pay").header("Nexus-Link", "<http://a>"), bad("bad_link")),
        (
            "a bad link after a good one",
            start("pay").headers([("Nexus-Link", "<http://a>; type=\"a.B\""), ("Nexus-Link", "nonsense")]),
            bad("bad_link"),
        ),
        ("a cancel without a token", to(format!("{START}/cancel")), bad("missing_token")),
        ("a cancel with an empty token", to(format!("{START}/cancel?token=")), bad("missing_token")),
        ("too large a request", start("pay").body(vec![b'x'; 1001]), bad("request_too_large")),
        ("too large a request in chunks", start("pay").body(vec![b'x'; 1001]).chunked(), bad("request_too_large")),
    ] {
        expected.assert_is(&gateway.call(&request).await, context);
    }
    assert!(handler.requests().is_empty(), "the handler sees nothing of it");
}

/// What a Temporal cluster, or another handler, answers; and what the caller is told instead.
struct Row {
    answer: String,
    from_cluster: Expected,
    from_external: Told,
}

/// What a caller gets for an answer from outside of any cluster.
enum Told {
    /// The same as from a cluster.
    Same,
    /// The answer as it is.
    AsItIs,
}

fn row(answer: String, from_cluster: Expected, from_external: Told) -> Row {
    Row { answer, from_cluster, from_external }
}

/// Answers that no Nexus handler gives, and what callers are told.
fn answers_that_are_not_nexus() -> Vec<Row> {
    let malformed = failure("upstream_malformed", ErrorType::Internal, true);
    let not_nexus = failure("upstream_not_nexus", ErrorType::Unavailable, true);
    let bad_gateway = failure("upstream_bad_gateway", ErrorType::Unavailable, true);
    let timeout = failure("upstream_gateway_timeout", ErrorType::UpstreamTimeout, true);
    let status = failure("upstream_status", ErrorType::Internal, true);
    let html = |status: &str| answer(status, &["Content-Type: text/html"], "<html><body>sorry</body></html>");
    let plain = |status: &str| answer(status, &["Content-Type: text/plain"], "sorry");
    let redirect = |status: &str| answer(status, &["Location: http://elsewhere/"], "");
    let started = |body: &str| json("201 Created", body);
    vec![
        row(html("502 Bad Gateway"), bad_gateway, Told::Same),
        row(answer("504 Gateway Timeout", &[], ""), timeout, Told::Same),
        row(answer("413 Payload Too Large", &[], ""), status, Told::Same),
        row(html("418 I'm a teapot"), status, Told::Same),
        row(plain("505 HTTP Version Not Supported"), status, Told::Same),
        row(plain("599 Odd"), status, Told::Same),
        row(plain("401 Unauthorized"), not_nexus, Told::AsItIs),
        row(html("403 Forbidden"), not_nexus, Told::AsItIs),
        row(plain("404 Not Found"), not_nexus, Told::AsItIs),
        row(json("404 Not Found", r#"{"code":5,"message":"Not Found","details":[]}"#), not_nexus, Told::AsItIs),
        row(redirect("301 Moved Permanently"), malformed, Told::Same),
        row(redirect("302 Found"), malformed, Told::Same),
        row(redirect("307 Temporary Redirect"), malformed, Told::Same),
        row("HTTP/1.1 304 Not Modified\r\n\r\n".into(), malformed, Told::Same),
        row(answer("202 Accepted", &[], ""), malformed, Told::Same),
        row("HTTP/1.1 204 No Content\r\n\r\n".into(), malformed, Told::Same),
        row(answer("206 Partial Content", &[], "half"), malformed, Told::Same),
        row(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: upgrade\r\n\r\n".into(),
            malformed,
            Told::Same,
        ),
        row(started(""), malformed, Told::Same),
        row(started("nonsense"), malformed, Told::Same),
        row(started(r#"{"state":"running"}"#), malformed, Told::Same),
        row(started(r#"["t","t","running"]"#), malformed, Told::Same),
        row(started(r#"{"token":"","state":"running"}"#), malformed, Told::Same),
        row(started(r#"{"token":"t","state":"succeeded"}"#), malformed, Told::Same),
        row(answer("201 Created", &[], r#"{"token":"t","state":"running"}"#), malformed, Told::Same),
        row(json("424 Failed Dependency", r#"{"message":"m"}"#), malformed, Told::Same),
        row(
            answer("424 Failed Dependency", &["Nexus-Operation-State: running"], r#"{"message":"m"}"#),
            malformed,
            Told::Same,
        ),
    ]
}

#[tokio::test]
async fn a_clusters_answer_that_is_not_nexus_becomes_a_failure_that_tells_whether_to_retry() {
    for Row { answer, from_cluster, .. } in answers_that_are_not_nexus() {
        let cluster = Cluster::serving(vec![listed("pay", 1)]).answering(answer.clone());
        let gateway = Gateway::serving(&cluster).await;
        from_cluster.assert_is(&gateway.call(&start("pay")).await, &answer);
    }
}

#[tokio::test]
async fn an_external_targets_answer_that_is_not_nexus_passes_only_where_its_status_is_true() {
    for Row { answer, from_cluster, from_external } in answers_that_are_not_nexus() {
        let handler = Handler::answering(answer.clone());
        let got = Gateway::before(&handler).await.call(&start("pay")).await;
        match from_external {
            Told::Same => from_cluster.assert_is(&got, &answer),
            Told::AsItIs => assert_passed(&answer, &got),
        }
    }
}

#[tokio::test]
async fn a_cancel_is_accepted_by_202_only() {
    for status in ["200 OK", "201 Created", "204 No Content", "424 Failed Dependency"] {
        let handler = Handler::answering(format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n"));
        let answer = Gateway::before(&handler).await.call(&cancel("pay")).await;
        let expected = match status {
            "424 Failed Dependency" => failure("upstream_status", ErrorType::Internal, true),
            _ => failure("upstream_malformed", ErrorType::Internal, true),
        };
        expected.assert_is(&answer, status);
    }
}
