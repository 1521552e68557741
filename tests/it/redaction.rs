//! Failures without stack traces and causes, where a policy says so: in answers, in completions, and at the end of what
//! was parked.

use std::sync::atomic::{AtomicUsize, Ordering};

use nexus_gateway::callback::CallbackSettings;
use nexus_gateway::config::Settings;
use nexus_gateway::resilience::RetrySettings;
use nexus_gateway::resilience::park::ParkSettings;
use nexus_gateway::route::{PolicyRule, Selector, Toggle};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::harness::*;

const TOLD: &str = r#"{"message":"no such order","stackTrace":"at /srv/secret","metadata":{"type":"nexus.HandlerError"},"details":{"type":"NOT_FOUND"},"cause":{"message":"/srv/secret"}}"#;
const LEFT: &str =
    r#"{"message":"no such order","metadata":{"type":"nexus.HandlerError"},"details":{"type":"NOT_FOUND"}}"#;

fn redacting() -> PolicyRule {
    let selector = Selector { endpoint: Some("pay".into()), ..Selector::default() };
    let retry = Some(Toggle::On(RetrySettings { attempts: 1, ..RetrySettings::default() }));
    PolicyRule { selector, redact: Some(true), retry, ..PolicyRule::default() }
}

fn relaying(handler: &Handler, rule: PolicyRule) -> Settings {
    under(crate::harness::relaying(&handler.url()), rule)
}

fn start_from(home: &Handler) -> Request {
    let callback = utf8_percent_encode(&format!("{}/callback", home.url()), NON_ALPHANUMERIC).to_string();
    to(format!("/nexus/endpoints/pay/services/Svc/op?callback={callback}"))
        .header("Content-Type", "application/json")
        .header("Nexus-Request-Id", "one")
        .body(PAYLOAD)
}

fn home() -> Handler {
    Handler::answering(answer("200 OK", &[], ""))
}

#[tokio::test]
async fn a_handler_s_failure_is_cut_only_where_its_policy_says_so() {
    for (status, told, left) in [
        ("404 Not Found", TOLD, LEFT),
        ("424 Failed Dependency", TOLD, LEFT),
        // Not to be read, it says what its status says.
        (
            "503 Service Unavailable",
            r#"{"error":"x","trace":"/srv/secret"}"#,
            r#"{"message":"the handler answered an error","metadata":{"type":"nexus.HandlerError"},"details":{"type":"UNAVAILABLE","retryableOverride":false}}"#,
        ),
        (
            "424 Failed Dependency",
            r#"["/srv/secret"]"#,
            r#"{"message":"operation failed","metadata":{"type":"nexus.OperationError"},"details":{"state":"failed"}}"#,
        ),
    ] {
        let headers =
            ["Content-Type: application/json", "Nexus-Operation-State: failed", "Nexus-Request-Retryable: false"];
        let handler = Handler::answering(answer(status, &headers, told));
        let rule = redacting();
        let gateway = Gateway::start(under(leading_to(&handler), rule.clone())).await;
        let got = gateway.call(&start("pay")).await;
        assert_eq!((got.text(), got.complete), (left.to_owned(), true), "{status} {told}");
        assert_eq!(got.header("content-length"), Some(&*left.len().to_string()));
        assert_eq!(got.all("content-type"), ["application/json"]);
        assert_eq!(got.header("nexus-request-retryable"), Some("false"));
        assert_eq!(got.header("nexus-gateway-failure"), None, "it is still the handler's");
        assert!(!gateway.call(&cancel("pay")).await.text().contains("/srv/secret"));

        let off = PolicyRule { redact: Some(false), ..rule };
        gateway.running.apply(under(leading_to(&handler), off)).await.expect("it can be applied");
        assert_passed(&answer(status, &headers, told), &gateway.call(&start("pay")).await);
    }
}

#[tokio::test]
async fn an_error_that_is_no_failure_says_no_more_than_its_status() {
    let handler =
        Handler::answering(answer("500 Internal Server Error", &["Content-Type: text/plain"], "at /srv/secret"));
    let gateway = Gateway::start(under(leading_to(&handler), redacting())).await;
    let got = gateway.call(&start("pay")).await;
    let left = r#"{"message":"the handler answered an error","metadata":{"type":"nexus.HandlerError"},"details":{"type":"INTERNAL","retryableOverride":true}}"#;
    assert_eq!((got.status(), &*got.text()), (500, left));
    assert_eq!(got.all("content-type"), ["application/json"]);
}

#[tokio::test]
async fn what_is_no_failure_or_has_nothing_to_cut_passes_byte_for_byte() {
    let json = ["Content-Type: application/json; charset=utf-8"];
    for sent in [
        answer("200 OK", &json, TOLD),
        answer("404 Not Found", &json, r#" {"message" : "m", "details": 0.10} "#),
        answer("500 Internal Server Error", &[], ""),
    ] {
        let handler = Handler::answering(sent.clone());
        let gateway = Gateway::start(under(leading_to(&handler), redacting())).await;
        assert_passed(&sent, &gateway.call(&start("pay")).await);
    }
}

#[tokio::test]
async fn a_failed_completion_is_cut_on_its_way_home() {
    let started = json("201 Created", "{\"token\":\"planted-token\",\"state\":\"running\"}");
    let (handler, home) = (Handler::answering(started), home());
    let gateway = Gateway::start(relaying(&handler, redacting())).await;
    assert_eq!(gateway.call(&start_from(&home)).await.status(), 201);
    let path = sealed_path(&handler.request());
    let completion = |state: &str, body: &str| {
        to(path.clone())
            .header("Nexus-Operation-State", state)
            .header("Content-Type", "application/json")
            .body(body.to_owned())
            .chunked()
    };
    for (state, told, left) in [
        ("failed", TOLD, LEFT),
        ("canceled", TOLD, LEFT),
        ("succeeded", TOLD, TOLD),
        (
            "failed",
            "\"/srv/secret\"",
            r#"{"message":"operation failed","metadata":{"type":"nexus.OperationError"},"details":{"state":"failed"}}"#,
        ),
    ] {
        let before = home.requests().len();
        assert_eq!(gateway.call(&completion(state, told)).await.status(), 200);
        let arrived = home.requests()[before].clone();
        assert_eq!((arrived.text(), arrived.complete), (left.to_owned(), true), "{state} {told}");
        assert_eq!(arrived.all("content-type"), ["application/json"]);
    }
    // The endpoint is gone; what its policy says is not.
    let gone = Settings { endpoints: Vec::new(), ..relaying(&handler, redacting()) };
    gateway.running.apply(gone).await.expect("it can be applied");
    assert_eq!(gateway.call(&completion("failed", TOLD)).await.status(), 200);
    assert_eq!(home.requests().last().expect("a completion").text(), LEFT);
}

/// Which endpoint it is of, nobody can tell there.
#[tokio::test]
async fn a_failed_completion_for_the_home_cluster_is_cut_where_a_policy_says_so_of_any_endpoint() {
    let cluster = home();
    let clusters = vec![undiscovered("home", &[cluster.url()])];
    let callbacks = CallbackSettings { home: Some("home".into()), ..CallbackSettings::default() };
    let settings = Settings { clusters, callbacks, ..settings() };
    let gateway = Gateway::start(under(settings.clone(), redacting())).await;
    let completion = to("/namespaces/ns/nexus/callback")
        .headers([("Nexus-Operation-State", "failed"), ("Content-Type", "application/json")])
        .body(TOLD);
    let is_completion = |seen: &Message| seen.target().ends_with("/nexus/callback");
    let arrived = || cluster.requests().into_iter().rfind(is_completion).expect("a completion").text();
    assert_eq!(gateway.call(&completion).await.status(), 200);
    assert_eq!(arrived(), LEFT);
    let off = PolicyRule { redact: Some(false), ..redacting() };
    gateway.running.apply(under(settings, off)).await.expect("it can be applied");
    assert_eq!(gateway.call(&completion).await.status(), 200);
    assert_eq!(arrived(), TOLD);
}

#[tokio::test]
async fn the_failure_of_a_parked_operation_is_cut_when_it_is_delivered() {
    let tries = AtomicUsize::new(0);
    let handler = Handler::scripted(move |_: &crate::harness::handler::Seen| {
        let first = tries.fetch_add(1, Ordering::Relaxed) == 0;
        let busy = || handler_error("503 Service Unavailable", "UNAVAILABLE", Some(true), &[]);
        vec![if first { busy() } else { json("404 Not Found", TOLD) }.into()]
    });
    let home = home();
    let rule = PolicyRule { park: Some(Toggle::On(ParkSettings::default())), ..redacting() };
    let gateway = Gateway::start(relaying(&handler, rule)).await;
    assert_eq!(gateway.call(&start_from(&home)).await.status(), 201);
    home.wait_for(1).await;
    let arrived = home.request();
    assert_eq!(arrived.header("nexus-operation-state"), Some("failed"));
    assert_eq!(arrived.text(), LEFT);
}
