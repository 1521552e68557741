//! Callers with names: what their rules allow, what is theirs alone, and what is counted for each of them.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use nexus_gateway::admission::authorize::Callers;
use nexus_gateway::config::Settings;
use nexus_gateway::gates::CallerKey;
use nexus_gateway::nexus::ErrorType;
use nexus_gateway::resilience::Per;
use nexus_gateway::resilience::park::ParkSettings;
use nexus_gateway::resilience::rate_limit::{OnFailure, Rate, RateLimitSettings, Scope};
use nexus_gateway::route::{PolicyRule, Selector, Toggle};
use nexus_gateway::telemetry::LogSettings;

use crate::harness::*;

const UNKNOWN_TOKEN: Expected = failure("unknown_token", ErrorType::NotFound, false);
const NO_COMPLETIONS: Expected = failure("completion_forbidden", ErrorType::Unavailable, true);

fn operation(endpoint: &str, operation: &str) -> Request {
    to(format!("/nexus/endpoints/{endpoint}/services/Svc/{operation}")).body(PAYLOAD)
}

#[tokio::test]
async fn each_caller_may_do_what_its_rules_say() {
    let handler = Handler::answering(ok());
    let known = Known::new(&[("orders", Some("shop")), ("orders-test", Some("test")), ("team-a", None)]);
    let endpoints = ["pay", "ship", "public"].map(|name| external(name, &handler.url()));
    let settings = Settings { endpoints: endpoints.into(), ..settings() };
    let rules = vec![
        rule(&["orders*"], &["shop"], &["pay"], &["quote", "get-*"]),
        rule(&["team-?"], &[], &["pay", "s*"], &[]),
        rule(&["anonymous"], &[], &["public"], &["read"]),
    ];
    let gateway = Gateway::start(known.under(settings, rules)).await;
    for (caller, endpoint, asked, expected) in [
        ("orders", "pay", "quote", "200"),
        ("orders", "pay", "get-all", "200"),
        ("orders", "pay", "refund", "403 forbidden"),
        ("orders", "ship", "quote", "404 unknown_endpoint"),
        ("orders", "public", "read", "404 unknown_endpoint"),
        ("orders-test", "pay", "quote", "404 unknown_endpoint"),
        ("team-a", "pay", "refund", "200"),
        ("team-a", "ship", "anything", "200"),
        ("team-a", "none", "anything", "404 unknown_endpoint"),
        ("nobody", "public", "read", "200"),
        ("nobody", "public", "write", "403 forbidden"),
        ("nobody", "pay", "quote", "404 unknown_endpoint"),
    ] {
        let answer = gateway.call(&known.by(caller, operation(endpoint, asked))).await;
        let reason = answer.header("nexus-gateway-failure").unwrap_or_default();
        assert_eq!(format!("{} {reason}", answer.status()).trim(), expected, "{caller} {endpoint} {asked}");
    }
    assert_eq!(handler.requests().len(), 5);
}

#[tokio::test]
async fn known_callers_may_do_nothing_before_there_are_rules() {
    let (handler, known) = (Handler::answering(ok()), Known::new(&[("orders", None)]));
    let settings = Settings { authorization: None, ..known.under(leading_to(&handler), Vec::new()) };
    let gateway = Gateway::start(settings).await;
    assert_eq!(gateway.call(&known.by("orders", start("pay"))).await.status(), 404);
    assert_eq!(gateway.call(&start("pay")).await.status(), 401);
    assert!(handler.requests().is_empty());
}

/// A policy for some callers.
fn policy(caller: Option<&str>, rule: PolicyRule) -> PolicyRule {
    let caller = caller.map(|name| CallerKey::from(Arc::<str>::from(name)));
    PolicyRule { selector: Selector { caller, ..Selector::default() }, ..rule }
}

/// One request an hour for each caller.
fn one_each() -> PolicyRule {
    let limit = RateLimitSettings {
        per: Per { caller: true, ..Per::default() },
        rate: Rate { requests: NonZeroU32::MIN, every: Duration::from_secs(3600) },
        burst: NonZeroU32::MIN,
        max_wait: Duration::ZERO,
        max_queue: 0,
        headers: false,
        scope: Scope::Local,
        on_failure: OnFailure::default(),
    };
    PolicyRule { rate_limit: Some(Toggle::On(limit)), ..PolicyRule::default() }
}

#[tokio::test]
async fn limits_count_callers_by_their_names() {
    let handler = Handler::answering(ok());
    let known = Known::new(&[("orders", None), ("team-a", None), ("orders", None)]);
    let rules = vec![everybody(), rule(&["anonymous"], &[], &[], &[])];
    let settings = known.under(leading_to(&handler), rules);
    let gateway = Gateway::start(Settings { policies: vec![one_each()], ..settings }).await;
    for caller in ["orders", "team-a", "nobody"] {
        assert_eq!(gateway.call(&known.by(caller, start("pay"))).await.status(), 200, "{caller}");
        assert_eq!(gateway.call(&known.by(caller, start("pay"))).await.status(), 429, "{caller} again");
    }
    let other_key = start("pay").header("X-Api-Key", &known.0[2].1.text);
    assert_eq!(gateway.call(&other_key).await.status(), 429, "a second key is no second share");
}

/// As where `default` is a service account of every namespace.
#[tokio::test]
async fn callers_of_one_name_in_two_namespaces_are_two() {
    let (handler, home) = (starting(), Handler::answering(answer("200 OK", &[], "")));
    let known = Known::new(&[("default", Some("prod")), ("default", Some("evil")), ("default", None)]);
    let by = |at: usize, request: Request| request.header("X-Api-Key", &known.0[at].1.text);
    let start = |id| start_of(&home, id);
    let settings = known.under(relaying(&handler.url()), vec![everybody()]);
    let gateway = Gateway::start(Settings { policies: vec![one_each()], ..settings.clone() }).await;
    let mut tokens = Vec::new();
    for caller in 0..3 {
        tokens.push(token_of(&gateway.call(&by(caller, start("one"))).await));
        assert_eq!(gateway.call(&by(caller, start("one"))).await.status(), 429, "{caller} again");
    }
    gateway.running.apply(settings).await.expect("it can be applied");
    for (at, token) in tokens.iter().enumerate() {
        for caller in (0..3).filter(|caller| *caller != at) {
            UNKNOWN_TOKEN.assert_is(&gateway.call(&by(caller, cancel_of(token))).await, &format!("{caller} of {at}"));
        }
        assert_eq!(gateway.call(&by(at, cancel_of(token))).await.status(), 202, "{at}");
    }
}

#[tokio::test]
async fn what_is_parked_is_found_by_no_caller_of_the_same_name_elsewhere() {
    let (reserved, home) = (Reserved::new(), Handler::answering(answer("200 OK", &[], "")));
    let known = Known::new(&[("default", Some("prod")), ("default", Some("evil")), ("default", None)]);
    let by = |at: usize, request: Request| request.header("X-Api-Key", &known.0[at].1.text);
    let park = PolicyRule { park: Some(Toggle::On(ParkSettings::default())), ..PolicyRule::default() };
    let settings = known.under(relaying(&format!("http://{}", reserved.address)), vec![everybody()]);
    let gateway = Gateway::start(unheld_beside(Settings { policies: vec![park], ..settings })).await;
    let mut tokens = Vec::new();
    for caller in 0..3 {
        let token = token_of(&gateway.call(&by(caller, start_of(&home, "one"))).await);
        assert_eq!(token_of(&gateway.call(&by(caller, start_of(&home, "one"))).await), token, "its own is found");
        assert!(!tokens.contains(&token), "{caller}: {tokens:?}");
        tokens.push(token);
    }
    UNKNOWN_TOKEN.assert_is(&gateway.call(&by(1, cancel_of(&tokens[0]))).await, "of another namespace");
    for (caller, token) in tokens.iter().enumerate() {
        assert_eq!(gateway.call(&by(caller, cancel_of(token))).await.status(), 202, "{caller}");
    }
}

#[tokio::test]
async fn policies_are_for_callers_by_their_names() {
    let (handler, known) = (Handler::answering(ok()), Known::new(&[("orders", None), ("team-a", None)]));
    let small = PolicyRule { max_request_body: Some(1), ..PolicyRule::default() };
    let settings = known.under(leading_to(&handler), vec![everybody()]);
    let gateway = Gateway::start(Settings { policies: vec![policy(Some("orders"), small)], ..settings }).await;
    assert_eq!(gateway.call(&known.by("orders", start("pay"))).await.status(), 400);
    assert_eq!(gateway.call(&known.by("team-a", start("pay"))).await.status(), 200);
}

#[tokio::test]
async fn policies_are_for_callers_by_the_namespaces_they_call_from() {
    let handler = Handler::answering(ok());
    let known =
        Known::new(&[("orders", Some("prod")), ("team-a", Some("prod")), ("stock", Some("test")), ("odd", None)]);
    let selector = Selector { caller_namespace: Some("prod".into()), ..Selector::default() };
    let small = PolicyRule { selector, max_request_body: Some(1), ..PolicyRule::default() };
    let rules = vec![everybody(), rule(&["anonymous"], &[], &[], &[])];
    let settings = known.under(leading_to(&handler), rules);
    let gateway = Gateway::start(Settings { policies: vec![small], ..settings }).await;
    for (caller, status) in [("orders", 400), ("team-a", 400), ("stock", 200), ("odd", 200), ("nobody", 200)] {
        assert_eq!(gateway.call(&known.by(caller, start("pay"))).await.status(), status, "{caller}");
    }
}

/// An endpoint `pay` whose completions come back through the gateway.
#[tokio::test]
async fn an_operation_is_canceled_by_nobody_but_who_started_it() {
    let (handler, home) = (starting(), Handler::answering(answer("200 OK", &[], "")));
    let known = Known::new(&[("orders", None), ("team-a", None)]);
    let gateway = Gateway::start(relaying(&handler.url())).await;
    let anybodys = token_of(&gateway.call(&start_of(&home, "zero")).await);

    let settings = known.under(relaying(&handler.url()), vec![everybody()]);
    gateway.running.apply(settings).await.expect("it can be applied");
    let token = token_of(&gateway.call(&known.by("orders", start_of(&home, "one"))).await);
    UNKNOWN_TOKEN.assert_is(&gateway.call(&known.by("team-a", cancel_of(&token))).await, "of another caller");
    assert_eq!(gateway.call(&known.by("orders", cancel_of(&token))).await.status(), 202);
    let canceled = gateway.call(&known.by("team-a", cancel_of(&anybodys))).await;
    assert_eq!(canceled.status(), 202, "what was started before callers had names is not lost");
}

#[tokio::test]
async fn completions_come_from_whoever_has_the_seal_unless_the_rules_name_somebody() {
    let (handler, home) = (starting(), Handler::answering(answer("200 OK", &[], "")));
    let known = Known::new(&[("orders", None), ("handlers", None)]);
    let settings = known.under(relaying(&handler.url()), vec![everybody()]);
    let gateway = Gateway::start(settings.clone()).await;
    token_of(&gateway.call(&known.by("orders", start_of(&home, "one"))).await);
    let path = sealed_path(&handler.requests()[0]);
    let completion = || to(path.clone()).header("Nexus-Operation-State", "succeeded").body(PAYLOAD);
    assert_eq!(gateway.call(&completion()).await.status(), 200);

    let mut named = settings;
    let completions = Callers { names: names(&["handlers"]), namespaces: None };
    named.authorization.as_mut().expect("there are rules").completions = Some(completions);
    gateway.running.apply(named).await.expect("it can be applied");
    NO_COMPLETIONS.assert_is(&gateway.call(&completion()).await, "from nobody in particular");
    NO_COMPLETIONS.assert_is(&gateway.call(&known.by("orders", completion())).await, "from another caller");
    assert_eq!(gateway.call(&known.by("handlers", completion())).await.status(), 200);
    assert_eq!(home.requests().len(), 2);
}

#[tokio::test]
async fn what_is_parked_is_sent_as_its_callers() {
    let (reserved, home) = (Reserved::new(), Handler::answering(answer("200 OK", &[], "")));
    let file = LogFile::new();
    let known = Known::new(&[("the orders", Some("shop")), ("team-a", None)]);
    let park = PolicyRule { park: Some(Toggle::On(ParkSettings::default())), ..PolicyRule::default() };
    let log = LogSettings { access_log: Some(file.target()), ..LogSettings::default() };
    let settings = known.under(relaying(&format!("http://{}", reserved.address)), vec![everybody()]);
    let settings = Settings { policies: vec![policy(Some("the orders"), park)], log, ..settings };
    let gateway = Gateway::start(unheld_beside(settings)).await;
    let token = token_of(&gateway.call(&known.by("the orders", start_of(&home, "one"))).await);
    assert_eq!(
        gateway.call(&known.by("team-a", start_of(&home, "two"))).await.status(),
        503,
        "its starts are not parked"
    );
    UNKNOWN_TOKEN.assert_is(&gateway.call(&known.by("team-a", cancel_of(&token))).await, "of another caller");

    // That rules have changed is no reason to break a promise.
    let handler = Handler::on(reserved, |_| vec![json("200 OK", "\"result\"").into()]);
    home.wait_for(1).await;
    let sent = handler.request();
    let told = ["nexus-gateway-caller", "nexus-gateway-caller-namespace"].map(|name| sent.header(name));
    assert_eq!(told, [Some("the%20orders"), Some("shop")], "{sent:?}");
    assert_eq!(sent.header("x-api-key"), None, "{sent:?}");
    eventually(|| file.text().contains("\"deliver\"")).await;
    let lines = file.lines(1).await;
    for method in ["resend", "deliver"] {
        let line = lines.iter().find(|line| line["method"] == method).expect("a line");
        assert_eq!((&line["caller"], &line["namespace"]), (&"the orders".into(), &"shop".into()), "{line}");
    }
}

/// Starts do not wait for their target.
fn unheld_beside(settings: Settings) -> Settings {
    let mut policies = settings.policies.clone();
    policies.push(PolicyRule { hold: Some(false), ..PolicyRule::default() });
    Settings { policies, ..settings }
}
