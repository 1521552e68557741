//! The audit log: a line per decision, with who and what and by which rule, and nothing that is a payload or a credential.

use nexus_gateway::admission::AuthorizationSettings;
use nexus_gateway::callback::CallbackSettings;
use nexus_gateway::config::Settings;
use nexus_gateway::telemetry::{LogSettings, LogTarget};
use serde_json::{Value, json as value};

use crate::harness::*;

/// A gateway with an audit log, and the file that holds it.
async fn audited(settings: Settings) -> (Gateway, LogFile) {
    let file = LogFile::new();
    let log = LogSettings { audit_log: Some(file.target()), ..LogSettings::default() };
    (Gateway::start(Settings { log, ..settings }).await, file)
}

#[track_caller]
fn assert_says(line: &Value, expected: &Value) {
    for (field, expected) in expected.as_object().expect("an object") {
        assert_eq!(line[field], *expected, "{field} in {line}");
    }
}

fn anonymous(endpoint: &str) -> AuthorizationSettings {
    let rules = vec![rule(&["anonymous"], &[], &[endpoint], &[])];
    AuthorizationSettings { rules, ..AuthorizationSettings::default() }
}

#[tokio::test]
async fn each_decision_has_a_line() {
    let handler = Handler::answering(ok());
    let endpoints = vec![external("pay", &handler.url()), external("other", &handler.url())];
    let authorization = Some(anonymous("pay"));
    let (gateway, file) = audited(Settings { endpoints, authorization, ..settings() }).await;
    let request = start("pay")
        .header("Nexus-Request-Id", "one")
        .header("Authorization", "planted-secret")
        .body("\"planted-secret\"");
    assert_eq!(gateway.call(&request).await.status(), 200);
    assert_says(
        &file.lines(1).await[0],
        &value!({
            "log": "audit", "caller": "anonymous", "endpoint": "pay", "service": "Svc", "operation": "op",
            "method": "start", "request_id": "one", "decision": "allowed", "rule": "authorization.rules[0]",
            "target": format!("external {}", handler.url()), "outcome": "succeeded", "status": 200,
        }),
    );
    // What nobody may know of and what is not there are denied alike.
    for (count, endpoint) in [(2, "other"), (3, "none")] {
        assert_eq!(gateway.call(&start(endpoint)).await.status(), 404);
        let line = file.lines(count).await.remove(count - 1);
        assert_says(&line, &value!({ "endpoint": endpoint, "decision": "denied", "rule": null, "status": 404 }));
    }
    // What is no request for anything is no decision.
    assert_eq!(gateway.call(&to("/nonsense")).await.status(), 404);
    gateway.counts("nexus_gateway_failures_total", &[("reason", "unknown_route")], 1.0).await;
    assert_eq!(file.lines(3).await.len(), 3);
    assert!(!file.text().contains("planted-secret"));
}

#[tokio::test]
async fn without_rules_everyone_is_allowed_and_it_is_written_down() {
    let handler = Handler::answering(ok());
    let (gateway, file) = audited(leading_to(&handler)).await;
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    assert_says(&file.lines(1).await[0], &value!({ "decision": "allowed", "rule": null, "caller": "anonymous" }));
    assert_eq!(gateway.call(&start("nowhere")).await.status(), 404);
    assert_says(
        &file.lines(2).await[1],
        &value!({ "decision": "allowed", "endpoint": "nowhere", "target": null, "reason": "unknown_endpoint" }),
    );
}

#[tokio::test]
async fn a_completion_for_the_home_cluster_says_where_it_goes() {
    let cluster = Handler::answering(answer("200 OK", &[], ""));
    let clusters = vec![undiscovered("home", &[cluster.url()])];
    let callbacks = CallbackSettings { home: Some("home".into()), ..CallbackSettings::default() };
    let (gateway, file) = audited(Settings { clusters, callbacks, ..settings() }).await;
    let completion = to("/namespaces/shop/nexus/callback").header("Nexus-Operation-State", "succeeded");
    assert_eq!(gateway.call(&completion).await.status(), 200);
    let target = cluster.url();
    assert_says(&file.lines(1).await[0], &value!({ "method": "complete", "decision": "allowed", "target": target }));
}

#[tokio::test]
async fn what_is_changed_by_the_admin_port_has_a_line() {
    let (gateway, file) = audited(settings()).await;
    assert_eq!(gateway.admin("/endpoints").await.status(), 200);
    // Nor what was only looked at, but for what was refused.
    let elsewhere = get("/endpoints").host("rebound.example");
    assert_eq!(Caller::connect(gateway.running.admin_address()).await.call(&elsewhere).await.status(), 403);
    let path = "/breakers/trip?endpoint=pay&message=planted-secret&service=S";
    assert_eq!(gateway.ask_admin(&to(path)).await.status(), 403);
    let steer =
        to(path).header("Nexus-Gateway-Admin", "planted-secret").header("Authorization", "Bearer planted-secret");
    assert_eq!(gateway.ask_admin(&steer).await.status(), 400);
    let lines = file.lines(3).await;
    let asked = "/breakers/trip?endpoint=pay&service=S";
    let looked_at =
        value!({ "admin": "/endpoints", "how": null, "decision": "denied", "method": "GET", "status": 403 });
    assert_says(&lines[0], &looked_at);
    assert_says(&lines[1], &value!({ "admin": asked, "how": null, "decision": "denied", "status": 403 }));
    assert_says(
        &lines[2],
        &value!({ "admin": asked, "how": "loopback", "decision": "allowed", "method": "POST", "status": 400 }),
    );
    gateway.counts("nexus_gateway_admin_refused_total", &[("status", "403")], 2.0).await;
    assert!(lines.len() == 3 && !file.text().contains("planted-secret"));
}

#[tokio::test]
async fn a_log_that_cannot_be_opened_refuses_the_settings() {
    let gateway = Gateway::start(settings()).await;
    let nowhere = Some(LogTarget::File("/no/such/folder/audit.log".into()));
    let log = LogSettings { audit_log: nowhere, ..LogSettings::default() };
    let refused = gateway.running.apply(Settings { log, ..settings() }).await.expect_err("it cannot be opened");
    assert!(refused.to_string().starts_with("cannot open the audit log /no/such/folder/audit.log"), "{refused}");
}

#[tokio::test]
async fn who_is_known_is_named_and_who_shows_a_wrong_key_is_not() {
    let handler = Handler::answering(ok());
    let known = Known::new(&[("orders", Some("shop"))]);
    let key = &known.0[0].1;
    let (gateway, file) = audited(known.under(leading_to(&handler), vec![rule(&["orders"], &[], &[], &[])])).await;
    let with = |key: &str| start("pay").header("X-Api-Key", key);
    assert_eq!(gateway.call(&with(&key.text)).await.status(), 200);
    assert_eq!(gateway.call(&with("planted-secret")).await.status(), 401);
    let lines = file.lines(2).await;
    let known = value!({
        "caller": "orders", "namespace": "shop", "how": "api_key", "decision": "allowed",
        "rule": "authorization.rules[0]",
    });
    assert_says(&lines[0], &known);
    let wrong = value!({
        "caller": "anonymous", "namespace": null, "how": "api_key", "decision": "unauthenticated", "endpoint": "pay",
        "operation": "op", "method": "start", "status": 401,
    });
    assert_says(&lines[1], &wrong);
    let written = file.text();
    assert!(!written.contains("planted-secret") && !written.contains(&key.text), "{written}");
}
