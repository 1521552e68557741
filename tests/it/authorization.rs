//! Who may call what: no rule, no entry, and what a caller must not know of does not exist for it.

use nexus_gateway::admission::AuthorizationSettings;
use nexus_gateway::admission::authorize::{Callers, Rule};
use nexus_gateway::callback::CallbackSettings;
use nexus_gateway::config::Settings;
use nexus_gateway::nexus::ErrorType;
use nexus_gateway::registry::Definition;

use crate::harness::*;

const UNAUTHENTICATED: Expected = failure("unauthenticated", ErrorType::Unauthenticated, false);
const FORBIDDEN: Expected = failure("forbidden", ErrorType::Unauthorized, false);
const UNKNOWN: Expected = failure("unknown_endpoint", ErrorType::NotFound, false);
const UNAVAILABLE: Expected = failure("registry_unavailable", ErrorType::Unavailable, true);
const NO_COMPLETIONS: Expected = failure("completion_forbidden", ErrorType::Unavailable, true);

fn callers(texts: &[&str]) -> Callers {
    Callers { names: names(texts), namespaces: None }
}

/// The same settings with these rules.
fn ruled(settings: Settings, rules: Vec<Rule>) -> Settings {
    Settings { authorization: Some(AuthorizationSettings { rules, ..AuthorizationSettings::default() }), ..settings }
}

fn operation(endpoint: &str, operation: &str) -> Request {
    to(format!("/nexus/endpoints/{endpoint}/services/Svc/{operation}")).body(PAYLOAD)
}

/// An answer with all that could tell the name that was asked for from another one.
fn nameless(answer: &Message, name: &str) -> String {
    let mut headers = answer.headers.clone();
    headers.retain(|(name, _)| !name.eq_ignore_ascii_case("date"));
    format!("{} {headers:?} {}", answer.first, answer.text()).replace(name, "NAME")
}

#[tokio::test]
async fn a_request_goes_by_a_rule_that_fits_and_by_none_it_does_not() {
    let handler = Handler::answering(ok());
    let settings = ruled(leading_to(&handler), vec![rule(&["anonymous"], &[], &["pay"], &["quote", "get-*"])]);
    let gateway = Gateway::start(settings).await;
    assert_eq!(gateway.call(&operation("pay", "quote")).await.status(), 200);
    assert_eq!(gateway.call(&operation("pay", "get-%61")).await.status(), 200);
    assert_eq!(gateway.call(&operation("pay", "quot%65")).await.status(), 200, "as it is meant, not as it is written");
    FORBIDDEN.assert_is(&gateway.call(&operation("pay", "refund")).await, "another operation");
    assert_eq!(handler.requests().len(), 3);
    for (decision, count) in [("allowed", 3.0), ("forbidden", 1.0), ("hidden", 0.0), ("unauthenticated", 0.0)] {
        gateway.counts("nexus_gateway_authorizations_total", &[("decision", decision)], count).await;
    }
    // Names that nobody may call are no labels.
    assert!(!gateway.metrics().await.lines("nexus_gateway_requests_total").contains("refund"));
}

#[tokio::test]
async fn cancels_are_decided_on_like_their_starts() {
    let handler = Handler::answering(answer("202 Accepted", &[], ""));
    let settings = ruled(leading_to(&handler), vec![rule(&["anonymous"], &[], &["pay"], &["quote"])]);
    let gateway = Gateway::start(settings).await;
    let cancel = |operation: &str| {
        to(format!("/nexus/endpoints/pay/services/Svc/{operation}/cancel")).header("Nexus-Operation-Token", "token")
    };
    assert_eq!(gateway.call(&cancel("quote")).await.status(), 202);
    FORBIDDEN.assert_is(&gateway.call(&cancel("refund")).await, "another operation");
    FORBIDDEN.assert_is(&gateway.call(&to("/nexus/endpoints/pay/services/Svc/refund/token/cancel")).await, "legacy");
    assert_eq!(handler.requests().len(), 1);
}

#[tokio::test]
async fn a_hidden_endpoint_is_answered_as_if_there_were_none() {
    let cluster = Cluster::serving(vec![listed("hidden", 1), listed("shown", 2)]);
    let rules = vec![rule(&["anonymous"], &[], &["shown"], &[])];
    let settings = Settings { clusters: vec![discovered("home", cluster.url())], ..settings() };
    let gateway = Gateway::start(ruled(settings, rules)).await;
    gateway.until_ready().await;
    assert_eq!(gateway.call(&start("shown")).await.status(), 200);
    let asked = cluster.asked().len();
    for mood in [Mood::Well, Mood::Gone] {
        cluster.state().mood = mood;
        for [there, absent] in [["hidden", "absent"], [&id(1), &id(9)]] {
            let (hidden, unknown) = (gateway.call(&start(there)).await, gateway.call(&start(absent)).await);
            UNKNOWN.assert_is(&hidden, "there, but not for this caller");
            assert_eq!(nameless(&hidden, there), nameless(&unknown, absent));
        }
    }
    assert_eq!(cluster.asked().len(), asked, "nobody looks for what the caller must not know of");
    gateway.counts("nexus_gateway_registry_lookups_total", &[], 0.0).await;
    assert_eq!(gateway.call(&operation(&id(2), "op")).await.status(), 200, "what an id leads to is known by its name");
}

#[tokio::test]
async fn a_name_that_the_caller_may_know_of_is_looked_up() {
    let cluster = Cluster::serving(vec![]);
    let settings = Settings { clusters: vec![discovered("home", cluster.url())], ..settings() };
    let gateway = Gateway::start(ruled(settings, vec![rule(&["anonymous"], &[], &["new-*"], &[])])).await;
    gateway.until_ready().await;
    UNKNOWN.assert_is(&gateway.call(&start("new-one")).await, "not yet");
    cluster.state().endpoints.push(listed("new-two", 1));
    assert_eq!(gateway.call(&start("new-two")).await.status(), 200);
    cluster.state().mood = Mood::Gone;
    UNAVAILABLE.assert_is(&gateway.call(&start("new-three")).await, "nobody can say");
}

#[tokio::test]
async fn that_an_endpoint_is_forbidden_is_told_where_the_rules_say_so() {
    let handler = Handler::answering(ok());
    let mut settings = ruled(leading_to(&handler), vec![rule(&["anonymous"], &[], &["other"], &[])]);
    settings.authorization.as_mut().expect("there are rules").tell_forbidden = true;
    let gateway = Gateway::start(settings).await;
    let (there, absent) = (gateway.call(&start("pay")).await, gateway.call(&start("none")).await);
    FORBIDDEN.assert_is(&there, "it is there");
    assert_eq!(nameless(&there, "pay"), nameless(&absent, "none"), "still nobody learns which names there are");
}

#[tokio::test]
async fn who_shows_no_credential_has_no_business_where_no_rule_is_for_such() {
    let cluster = Cluster::serving(vec![listed("pay", 1)]);
    let settings = Settings { clusters: vec![discovered("home", cluster.url())], ..settings() };
    let gateway = Gateway::start(ruled(settings, vec![rule(&["*"], &[], &[], &[])])).await;
    gateway.until_ready().await;
    let asked = cluster.asked().len();
    let (there, absent) = (gateway.call(&start("pay")).await, gateway.call(&start("none")).await);
    UNAUTHENTICATED.assert_is(&there, "it is there");
    assert_eq!(nameless(&there, "pay"), nameless(&absent, "none"));
    assert_eq!(cluster.asked().len(), asked);
    gateway.counts("nexus_gateway_authorizations_total", &[("decision", "unauthenticated")], 2.0).await;
}

#[tokio::test]
async fn other_rules_take_effect_at_once_and_none_let_everybody_in() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(leading_to(&handler)).await;
    let mut caller = gateway.connect().await;
    assert_eq!(caller.call(&start("pay")).await.status(), 200);
    let other = vec![rule(&["anonymous"], &[], &["other"], &[])];
    gateway.running.apply(ruled(leading_to(&handler), other)).await.expect("it can be applied");
    UNKNOWN.assert_is(&caller.call(&start("pay")).await, "rules for another endpoint");
    gateway.running.apply(ruled(leading_to(&handler), Vec::new())).await.expect("it can be applied");
    UNAUTHENTICATED.assert_is(&caller.call(&start("pay")).await, "no rules at all");
    gateway.running.apply(leading_to(&handler)).await.expect("it can be applied");
    assert_eq!(caller.call(&start("pay")).await.status(), 200);
}

#[tokio::test]
async fn completions_for_the_home_cluster_need_a_rule() {
    let cluster = Cluster::serving(vec![]);
    let completion = to("/nexus/callback").header("Nexus-Operation-State", "succeeded");
    let with = |completions: Option<Callers>| Settings {
        clusters: vec![discovered("home", cluster.url())],
        endpoints: Vec::<Definition>::new(),
        callbacks: CallbackSettings { home: Some("home".into()), ..CallbackSettings::default() },
        authorization: Some(AuthorizationSettings { completions, ..AuthorizationSettings::default() }),
        ..settings()
    };
    let gateway = Gateway::start(with(None)).await;
    NO_COMPLETIONS.assert_is(&gateway.call(&completion).await, "its sender tries again when the rules have changed");
    gateway.running.apply(with(Some(callers(&["*"])))).await.expect("it can be applied");
    NO_COMPLETIONS.assert_is(&gateway.call(&completion).await, "a rule for others");
    assert!(cluster.asked().iter().all(|path| !path.contains("callback")));
    gateway.running.apply(with(Some(callers(&["anonymous"])))).await.expect("it can be applied");
    let answer = gateway.call(&completion).await;
    assert_ne!(answer.header("nexus-gateway-failure"), Some("completion_forbidden"), "{answer:?}");
}
