//! Rate limits: a turn is waited for, in vain only where it does not come in time.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use nexus_gateway::config::Settings;
use nexus_gateway::gates::StoreSettings;
use nexus_gateway::nexus::ErrorType;
use nexus_gateway::resilience::Per;
use nexus_gateway::resilience::rate_limit::{OnFailure, Rate, RateLimitSettings, Scope, StoreUrl};
use nexus_gateway::route::{PolicyRule, Selector, Toggle};
use nexus_gateway::tls::ClientTlsSettings;

use crate::harness::*;

const LIMITED: Expected = failure("rate_limited", ErrorType::ResourceExhausted, true);
const RULE: &str = "policies[0].rate_limit";
const HOUR: Duration = Duration::from_secs(3600);

fn number(number: u32) -> NonZeroU32 {
    NonZeroU32::new(number).expect("not zero")
}

/// `burst` requests at once, and then `rate` in an hour; nobody waits.
fn limit(burst: u32, rate: u32) -> RateLimitSettings {
    RateLimitSettings {
        per: Per { endpoint: true, ..Per::default() },
        rate: Rate { requests: number(rate), every: HOUR },
        burst: number(burst),
        max_wait: Duration::ZERO,
        max_queue: 1000,
        headers: false,
        scope: Scope::Local,
        on_failure: OnFailure::Local,
    }
}

fn limited(handler: &Handler, settings: RateLimitSettings) -> Settings {
    under(leading_to(handler), PolicyRule { rate_limit: Some(Toggle::On(settings)), ..PolicyRule::default() })
}

#[tokio::test]
async fn more_than_the_limit_is_refused_by_name_and_never_sent() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(limited(&handler, limit(3, 1))).await;
    for _ in 0..3 {
        assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    }
    LIMITED.assert_by(RULE, &gateway.call(&start("pay")).await);
    assert_eq!(handler.requests().len(), 3);
    gateway.counts("nexus_gateway_refusals_total", &[("rule", RULE), ("reason", "rate_limited")], 1.0).await;
}

#[tokio::test]
async fn a_request_waits_for_its_turn() {
    let handler = Handler::answering(ok());
    let settings = RateLimitSettings { max_wait: Duration::from_secs(5), ..limit(1, 3600 * 20) };
    let gateway = Gateway::start(limited(&handler, settings)).await;
    let mut callers = Vec::new();
    for _ in 0..6 {
        let mut caller = gateway.connect().await;
        caller.send(start("pay").bytes()).await;
        callers.push(caller);
    }
    for mut caller in callers {
        assert_eq!(caller.answer().await.status(), 200);
    }
    let metrics = gateway.metrics().await;
    let waited = metrics.sum("nexus_gateway_wait_seconds_count", &[("stage", "rate_limit")]);
    assert!(waited >= 3.0, "{waited} of six waited");
}

#[tokio::test]
async fn each_caller_has_a_limit_of_its_own_where_the_policy_says_so() {
    let handler = Handler::answering(ok());
    let per = Per { caller: true, endpoint: true, ..Per::default() };
    let gateway = Gateway::start(limited(&handler, RateLimitSettings { per, ..limit(1, 1) })).await;
    for host in [2, 3] {
        let mut caller = Caller::connect_from([127, 0, 0, host].into(), gateway.data()).await;
        assert_eq!(caller.call(&start("pay")).await.status(), 200);
        LIMITED.assert_by(RULE, &caller.call(&start("pay")).await);
    }
}

#[tokio::test]
async fn a_rule_may_be_for_one_caller() {
    let handler = Handler::answering(ok());
    let mut settings = limited(&handler, limit(1, 1));
    settings.policies[0].selector.caller = Some(IpAddr::from([127, 0, 0, 2]).into());
    let gateway = Gateway::start(settings).await;
    let mut named = Caller::connect_from([127, 0, 0, 2].into(), gateway.data()).await;
    assert_eq!(named.call(&start("pay")).await.status(), 200);
    LIMITED.assert_by(RULE, &named.call(&start("pay")).await);
    for _ in 0..3 {
        assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    }
}

#[tokio::test]
async fn a_reload_keeps_what_a_limit_has_counted() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(limited(&handler, limit(1, 1))).await;
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    let mut settings = limited(&handler, limit(1, 1));
    settings.policies.insert(0, within(Duration::from_secs(9)));
    gateway.running.apply(settings).await.expect("it can be applied");
    LIMITED.assert_by("policies[1].rate_limit", &gateway.call(&start("pay")).await);
    gateway.running.apply(limited(&handler, limit(2, 1))).await.expect("it can be applied");
    assert_eq!(gateway.call(&start("pay")).await.status(), 200, "a changed limit starts afresh");
}

#[tokio::test]
async fn answers_say_what_is_left_where_the_policy_says_so() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(limited(&handler, RateLimitSettings { headers: true, ..limit(2, 1) })).await;
    let left = |answer: &Message| answer.header("ratelimit").expect("it says what is left").to_owned();
    let first = gateway.call(&start("pay")).await;
    assert!(left(&first).contains("r=1"), "{first:?}");
    assert!(first.header("ratelimit-policy").is_some_and(|policy| policy.contains("q=1;w=3600")), "{first:?}");
    assert!(left(&gateway.call(&start("pay")).await).contains("r=0"));
    let refused = gateway.call(&start("pay")).await;
    assert!(left(&refused).contains("r=0") && refused.status() == 429, "{refused:?}");
    let quiet = Gateway::start(limited(&handler, limit(2, 1))).await;
    assert_eq!(quiet.call(&start("pay")).await.header("ratelimit"), None);
}

#[tokio::test]
async fn another_store_is_asked_from_then_on_and_limits_of_the_process_keep_what_they_counted() {
    let handler = Handler::answering(ok());
    let global = RateLimitSettings { scope: Scope::Global, on_failure: OnFailure::Closed, ..limit(9, 1) };
    let rule = |endpoint: &str, settings| PolicyRule {
        selector: Selector { endpoint: Some(endpoint.into()), ..Selector::default() },
        rate_limit: Some(Toggle::On(settings)),
        ..PolicyRule::default()
    };
    let of_store = |url: Option<&str>| Settings {
        endpoints: vec![external("pay", &handler.url()), external("ship", &handler.url())],
        policies: vec![rule("pay", global.clone()), rule("ship", limit(1, 1))],
        redis: url.map(|url| StoreSettings {
            url: StoreUrl::new(url),
            tls: ClientTlsSettings::default(),
            timeout: Duration::from_millis(50),
        }),
        ..settings()
    };
    let gateway = Gateway::start(of_store(Some("redis://127.0.0.1:1"))).await;
    let unavailable = failure("limit_unavailable", ErrorType::Unavailable, true);
    unavailable.assert_by(RULE, &gateway.call(&start("pay")).await);
    assert_eq!(gateway.call(&start("ship")).await.status(), 200);
    gateway.running.apply(of_store(None)).await.expect("it can be applied");
    assert_eq!(gateway.call(&start("pay")).await.status(), 200, "nobody asks the old store any more");
    LIMITED.assert_by("policies[1].rate_limit", &gateway.call(&start("ship")).await);
}
