//! What `resolve` says of policies.

use std::net::IpAddr;

use nexus_gateway::config::Settings;
use nexus_gateway::resolve::{Question, Resolved, asker, resolve};

use crate::load_text;

#[tokio::test]
async fn each_setting_is_told_with_the_rule_that_decides() {
    let settings = load_text(
        "
endpoints: { pay: { external: { url: 'http://127.0.0.1:1' } } }
policies: [{ timeout: 5s, breaker: {} }, { match: { caller: 10.0.0.7 }, breaker: off }]",
    )
    .unwrap();
    let ask = async |caller| {
        let question = Question { service: "S", operation: "o", caller, who: None };
        let Resolved::Found(text) = resolve(settings.clone(), "pay", question).await else { panic!("not found") };
        text
    };
    let others = ask(None).await;
    let expected = ["5s (policies[0])", "opens when 50% of", "off (the default)", "2 attempts", "about 10.0.0.7"];
    for part in expected {
        assert!(others.contains(part), "{part} in {others}");
    }
    let named = ask(Some(IpAddr::from([10, 0, 0, 7]))).await;
    for part in ["5s (policies[0])", "breaker            off (policies[1])"] {
        assert!(named.contains(part), "{part} in {named}");
    }
    assert!(!named.contains("other callers"), "{named}");
}

#[tokio::test]
async fn what_holds_for_a_namespace_is_told() {
    let settings = load_text(
        "
endpoints: { pay: { external: { url: 'http://127.0.0.1:1' } } }
policies: [{ timeout: 5s }, { match: { caller_namespace: prod }, timeout: 6s }]",
    )
    .unwrap();
    let ask = async |namespace| {
        let who = Some(asker("orders", namespace));
        let question = Question { service: "S", operation: "o", caller: None, who };
        let Resolved::Found(text) = resolve(settings.clone(), "pay", question).await else { panic!("not found") };
        text
    };
    let others = ask(None).await;
    assert!(others.contains("5s (policies[0])"), "{others}");
    assert!(others.contains("other namespaces   ask with --as-namespace about \"prod\"\n"), "{others}");
    let prod = ask(Some("prod")).await;
    assert!(prod.contains("6s (policies[1])") && !prod.contains("other namespaces"), "{prod}");
}

#[tokio::test]
async fn how_completions_come_back_is_told() {
    let ends = "endpoints: { pay: { external: { url: 'http://127.0.0.1:1' } } }";
    let guarded = "authentication: { api_keys: { keys: [{ name: orders, sha256: \
        8bb0cf6eb9b17d0f7d22b456f121257dc1254e1f01665370476383ea776df414 }] } }";
    for (text, callbacks, sticky, tokens) in [
        (
            guarded,
            "direct (there is no callbacks.public_url)",
            "true (tokens are sealed)",
            "sealed (there is authentication)",
        ),
        (
            &format!("{guarded}\npolicies: [tokens: any]"),
            "direct (there is no callbacks.public_url)",
            "false (callbacks are direct)",
            "any (policies[0])",
        ),
        (
            "policies: [tokens: sealed]",
            "direct (there is no callbacks.public_url)",
            "true (tokens are sealed)",
            "sealed (policies[0])",
        ),
        ("", "direct (there is no callbacks.public_url)", "false (callbacks are direct)", "any (the default)"),
        ("callbacks: { public_url: 'http://g' }", "relay (the default)", "true (the default)", "any (the default)"),
        (
            "callbacks: { public_url: 'http://g' }\npolicies: [sticky: false, callbacks: relay]",
            "relay (policies[1])",
            "false (policies[0])",
            "any (the default)",
        ),
        (
            "callbacks: { public_url: 'http://g' }\npolicies: [callbacks: direct]",
            "direct (policies[0])",
            "false (callbacks are direct)",
            "any (the default)",
        ),
    ] {
        let settings = load_text(&format!("{ends}\n{text}")).unwrap();
        let question = Question { service: "S", operation: "o", caller: None, who: None };
        let Resolved::Found(said) = resolve(settings, "pay", question).await else { panic!("not found") };
        for line in [
            format!("callbacks          {callbacks}\n"),
            format!("sticky             {sticky}\n"),
            format!("tokens             {tokens}\n"),
        ] {
            assert!(said.contains(&line), "{line} in {said}");
        }
    }
}

#[tokio::test]
async fn what_is_parked_is_told() {
    let settings = load_text(
        "
endpoints: { pay: { external: { url: 'http://127.0.0.1:1' } } }
callbacks: { public_url: 'http://g', allow: ['http://a.example'] }
state: { directory: /s }
policies:
  - park: on
  - { match: { service: Off }, park: off }
  - { match: { service: Few }, park: { on: [rate_limited, breaker_open], max: 7, max_bytes: 4MiB, max_age: 90m } }
  - { match: { service: Direct }, callbacks: direct }",
    )
    .unwrap();
    let ask = async |settings: Settings, service| {
        let question = Question { service, operation: "o", caller: None, who: None };
        let Resolved::Found(said) = resolve(settings, "pay", question).await else { panic!("not found") };
        said
    };
    for (service, expected) in [
        (
            "S",
            "on: unreachable, breaker_open, rate_limited, saturated, retryable_failure; up to 100000 operations, 256MiB, 1d \
            (policies[0])",
        ),
        ("Off", "off (policies[1])"),
        ("Few", "on: breaker_open, rate_limited; up to 7 operations, 4MiB, 90m (policies[2])"),
        ("Direct", "off (callbacks are direct)"),
    ] {
        let said = ask(settings.clone(), service).await;
        assert!(said.contains(&format!("park               {expected}\n")), "{expected} in {said}");
    }
    let ends = "endpoints: { pay: { external: { url: 'http://127.0.0.1:1' } } }";
    let said = ask(load_text(ends).unwrap(), "S").await;
    assert!(said.contains("park               off (the default)\n"), "{said}");
}
