//! What `resolve` says of policies.

use std::net::IpAddr;

use nexus_gateway::resolve::{Question, Resolved, resolve};

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
        let question = Question { service: "S", operation: "o", caller };
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
async fn how_completions_come_back_is_told() {
    let ends = "endpoints: { pay: { external: { url: 'http://127.0.0.1:1' } } }";
    for (text, callbacks, sticky) in [
        ("", "direct (there is no callbacks.public_url)", "false (callbacks are direct)"),
        ("callbacks: { public_url: 'http://g' }", "relay (the default)", "true (the default)"),
        (
            "callbacks: { public_url: 'http://g' }\npolicies: [sticky: false, callbacks: relay]",
            "relay (policies[1])",
            "false (policies[0])",
        ),
        (
            "callbacks: { public_url: 'http://g' }\npolicies: [callbacks: direct]",
            "direct (policies[0])",
            "false (callbacks are direct)",
        ),
    ] {
        let settings = load_text(&format!("{ends}\n{text}")).unwrap();
        let question = Question { service: "S", operation: "o", caller: None };
        let Resolved::Found(said) = resolve(settings, "pay", question).await else { panic!("not found") };
        for line in [format!("callbacks          {callbacks}\n"), format!("sticky             {sticky}\n")] {
            assert!(said.contains(&line), "{line} in {said}");
        }
    }
}
