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
