//! The access log: a line per request, and nothing in it that is a payload or a credential.

use nexus_gateway::admission::AuthorizationSettings;
use nexus_gateway::admission::authorize::Rule;
use nexus_gateway::config::Settings;
use nexus_gateway::telemetry::LogSettings;
use serde_json::Value;

use crate::harness::*;

/// A gateway with an access log, and the file that holds it.
async fn logging(settings: Settings) -> (Gateway, LogFile) {
    let file = LogFile::new();
    let log = LogSettings { access_log: Some(file.target()), ..LogSettings::default() };
    (Gateway::start(Settings { log, ..settings }).await, file)
}

#[tokio::test]
async fn a_line_says_who_asked_for_what_and_what_came_of_it() {
    let handler = Handler::answering(ok());
    let (gateway, file) = logging(leading_to(&handler)).await;
    let request = to("/nexus/endpoints/pay/services/Ser%2Fvic%20e/op")
        .header("Nexus-Request-Id", "id-1")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
        .body("12345");
    gateway.call(&request).await;
    let line = file.lines(1).await.remove(0);
    for (field, expected) in [
        ("endpoint", "pay".into()),
        ("service", "Ser/vic e".into()),
        ("operation", "op".into()),
        ("method", "start".into()),
        ("outcome", "succeeded".into()),
        ("status", 200.into()),
        ("request_id", "id-1".into()),
        ("trace_id", "4bf92f3577b34da6a3ce929d0e0e4736".into()),
        ("request_bytes", 5.into()),
        ("response_bytes", RESULT.len().into()),
        ("upstream", handler.address.to_string().into()),
    ] {
        let expected: Value = expected;
        assert_eq!(line[field], expected, "{field} in {line}");
    }
    for measured in ["duration_ms", "upstream_ms"] {
        assert!(line[measured].as_f64().is_some_and(|time| time > 0.0), "{measured} in {line}");
    }
    assert!(line["time"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
    assert!(line["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{line}");
    assert_eq!(line.get("reason"), None);
}

#[tokio::test]
async fn a_line_names_the_rule_that_allows() {
    let handler = Handler::answering(ok());
    let rules = vec![Rule::default(), rule(&["anonymous"], &[], &[], &[])];
    let authorization = Some(AuthorizationSettings { rules, ..AuthorizationSettings::default() });
    let (gateway, file) = logging(Settings { authorization, ..leading_to(&handler) }).await;
    gateway.call(&start("pay")).await;
    let line = file.lines(1).await.remove(0);
    assert_eq!(line["allowed_by"], "authorization.rules[1]");
}

#[tokio::test]
async fn a_failure_of_the_gateway_is_logged_with_its_reason() {
    let (gateway, file) = logging(settings()).await;
    gateway.call(&start("none")).await;
    gateway.call(&to("/elsewhere?token=x")).await;
    let logged = file.lines(2).await;
    assert_eq!((&logged[0]["reason"], &logged[0]["endpoint"]), (&"unknown_endpoint".into(), &"none".into()));
    assert_eq!((&logged[0]["status"], &logged[0]["outcome"]), (&404.into(), &"gateway_error".into()));
    assert_eq!((&logged[1]["reason"], logged[1].get("endpoint")), (&"unknown_route".into(), None));
}

#[tokio::test]
async fn the_request_id_that_the_gateway_makes_is_logged() {
    let handler = Handler::answering(ok());
    let (gateway, file) = logging(leading_to(&handler)).await;
    gateway.call(&start("pay")).await;
    let line = file.lines(1).await.remove(0);
    assert_eq!(line["request_id"].as_str(), handler.request().header("nexus-request-id"));
}

#[tokio::test]
async fn a_caller_that_is_known_is_logged_by_its_name() {
    let handler = Handler::answering(ok());
    let known = Known::new(&[("orders", Some("shop"))]);
    let key = &known.0[0].1;
    let rules = vec![rule(&["*", "anonymous"], &[], &[], &[])];
    let (gateway, file) = logging(known.under(leading_to(&handler), rules)).await;
    for credential in [&*key.text, "planted-secret"] {
        gateway.call(&start("pay").header("X-Api-Key", credential)).await;
    }
    gateway.call(&start("pay")).await;
    let logged = file.lines(3).await;
    assert_eq!((&logged[0]["caller"], &logged[0]["namespace"]), (&"orders".into(), &"shop".into()));
    assert_eq!((&logged[1]["reason"], logged[1].get("caller")), (&"unauthenticated".into(), None));
    assert_eq!((&logged[2]["outcome"], logged[2].get("caller")), (&"succeeded".into(), None));
    let logged = file.text();
    assert!(!logged.contains(&key.text) && !logged.contains("planted-secret"), "{logged}");
}

#[tokio::test]
async fn a_caller_that_left_is_logged() {
    let handler = Handler::acting(vec![Act::Stall]);
    let (gateway, file) = logging(leading_to(&handler)).await;
    let mut caller = gateway.connect().await;
    caller.send(start("pay").bytes()).await;
    handler.wait_for(1).await;
    drop(caller);
    let line = file.lines(1).await.remove(0);
    assert_eq!((&line["outcome"], &line["status"]), (&"abandoned".into(), &Value::Null));
}

#[tokio::test]
async fn what_callers_choose_cannot_break_a_line_or_make_it_long() {
    let handler = Handler::answering(ok());
    let (gateway, file) = logging(leading_to(&handler)).await;
    let service = "%0A%22%7B".repeat(800);
    let request =
        to(format!("/nexus/endpoints/pay/services/{service}/op")).header("Nexus-Request-Id", &"i".repeat(5000));
    assert_eq!(gateway.call(&request).await.status(), 200);
    let logged = file.lines(1).await;
    assert_eq!(logged.len(), 1);
    assert!(file.text().len() < 2000);
}

#[tokio::test]
async fn neither_payloads_nor_credentials_are_logged() {
    let leaking = answer("200 OK", &["Set-Cookie: a=planted-secret", "X-Token: planted-secret"], "\"planted-secret\"");
    let failing = json("500 x", r#"{"message":"planted-secret"}"#);
    let handler = Handler::scripted(move |seen| {
        let answer = if seen.message.target().contains("fail") { &failing } else { &leaking };
        vec![answer.clone().into()]
    });
    let (gateway, file) = logging(leading_to(&handler)).await;
    let credentials = [
        "Authorization",
        "Cookie",
        "Proxy-Authorization",
        "Nexus-Callback-Token",
        "Nexus-Operation-Token",
        "X-Api-Key",
    ];
    let planted = |request: Request| {
        request
            .headers(credentials.map(|name| (name, "planted-secret")))
            .header("Request-Timeout", "5s")
            .body("\"planted-secret\"")
    };
    let base = "/nexus/endpoints/pay/services/Svc";
    let requests = [
        to(format!("{base}/op?callback=http%3A%2F%2Fplanted-secret%2F")),
        to(format!("{base}/fail")),
        to(format!("{base}/op/cancel?token=planted-secret")),
        to(format!("{base}/op/planted-secret/cancel")),
        to("/elsewhere/planted-secret?planted-secret"),
        to(format!("{base}/op")).header("Nexus-Link", "planted-secret"),
        to(format!("{base}/op")).method("SECRET"),
    ];
    for request in &requests {
        gateway.call(&planted(request.clone())).await;
    }
    file.lines(requests.len()).await;
    let logged = file.text();
    assert!(!logged.contains("planted-secret") && !logged.contains("SECRET"), "{logged}");
}

#[tokio::test]
async fn a_log_that_is_switched_on_and_off_holds_what_came_between() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let file = LogFile::new();
    let log = LogSettings { access_log: Some(file.target()), ..LogSettings::default() };
    gateway.call(&start("pay")).await;
    gateway.running.apply(Settings { log, ..leading_to(&handler) }).await.expect("it can be applied");
    gateway.call(&start("pay").header("Nexus-Request-Id", "logged")).await;
    file.lines(1).await;
    gateway.running.apply(leading_to(&handler)).await.expect("it can be applied");
    gateway.call(&start("pay")).await;
    let logged = file.lines(1).await;
    assert_eq!((logged.len(), &logged[0]["request_id"]), (1, &"logged".into()));
}
