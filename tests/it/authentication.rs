//! Authentication: who is let in as whom, and what becomes of the credential.

use http::HeaderName;
use nexus_gateway::admission::authenticate::{ApiKeySettings, CertificateRule, Field, IdentityPattern, NewApiKey};
use nexus_gateway::admission::authorize::{Callers, Pattern, Rule};
use nexus_gateway::admission::{AuthenticationSettings, AuthorizationSettings};
use nexus_gateway::config::Settings;
use rustls::version::TLS13;

use crate::certificates::{Authority, For};
use crate::harness::*;

/// Settings that know the caller `orders` by this key.
fn keyed(settings: Settings, header: &'static str, key: &NewApiKey) -> Settings {
    let api_keys = ApiKeySettings { header: HeaderName::from_static(header), keys: vec![key.key.clone()] };
    let authentication = AuthenticationSettings { api_keys: Some(api_keys), ..AuthenticationSettings::default() };
    Settings { authentication: Some(authentication), authorization: Some(open_to_all()), ..settings }
}

/// Rules by which everybody may do everything.
pub(crate) fn open_to_all() -> AuthorizationSettings {
    let all = ["*", "anonymous"].map(|name| Pattern::new(name).expect("a pattern"));
    let callers = Callers { names: Some(all.into()), namespaces: None };
    let rules = vec![Rule { callers: callers.clone(), ..Rule::default() }];
    AuthorizationSettings { rules, completions: Some(callers), ..AuthorizationSettings::default() }
}

fn orders() -> NewApiKey {
    NewApiKey::generate("orders", Some("shop")).expect("a good name")
}

/// What a caller gets whose credential is wrong. It does not say what is wrong with it.
pub(crate) fn assert_unauthenticated(answer: &Message) {
    assert_eq!((answer.status(), answer.header("nexus-gateway-failure")), (401, Some("unauthenticated")));
    assert_eq!(answer.header("nexus-request-retryable"), Some("false"));
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    let body: serde_json::Value = serde_json::from_str(&answer.text()).expect("JSON");
    assert_eq!(body["details"]["type"], "UNAUTHENTICATED");
    assert_eq!(body["message"], "no valid credential");
}

#[tokio::test]
async fn a_wrong_credential_is_refused_and_a_right_one_does_not_reach_the_handler() {
    let (handler, key) = (Handler::answering(ok()), orders());
    let gateway = Gateway::start(keyed(leading_to(&handler), "x-api-key", &key)).await;
    let with = |key: &str| start("pay").header("X-Api-Key", key).header("Nexus-Gateway-Caller", "admin");
    assert_unauthenticated(&gateway.call(&with("planted-wrong")).await);
    assert_unauthenticated(&gateway.call(&with(&key.text).header("x-api-key", &key.text)).await);
    assert_eq!(handler.requests().len(), 0, "nothing reached the handler");

    assert_eq!(gateway.call(&with(&key.text)).await.status(), 200);
    let seen = handler.request();
    assert_eq!(seen.header("x-api-key"), None);
    assert_eq!(seen.all("nexus-gateway-caller"), ["orders"], "the gateway alone says who calls");
    assert_eq!(gateway.call(&start("pay")).await.status(), 200, "who shows nothing is anonymous");
    for (how, result, count) in [("api_key", "wrong", 2.0), ("api_key", "known", 1.0), ("none", "anonymous", 1.0)] {
        let labels = [("how", how), ("result", result)];
        gateway.counts("nexus_gateway_authentications_total", &labels, count).await;
    }
    gateway.counts("nexus_gateway_failures_total", &[("reason", "unauthenticated")], 2.0).await;
}

#[tokio::test]
async fn a_wrong_credential_learns_nothing_of_endpoints() {
    let (handler, key) = (Handler::answering(ok()), orders());
    let gateway = Gateway::start(keyed(leading_to(&handler), "authorization", &key)).await;
    for request in [start("pay"), start("none"), cancel("pay"), to("/elsewhere"), get("/")] {
        for wrong in ["Bearer planted-wrong", "Basic b3JkZXJzOg==", "", &key.text] {
            assert_unauthenticated(&gateway.call(&request.clone().header("Authorization", wrong)).await);
        }
    }
    assert_eq!(
        gateway.call(&start("pay").header("Authorization", &format!("Bearer {}", key.text))).await.status(),
        200
    );
    assert_eq!(handler.request().header("authorization"), None);
}

#[tokio::test]
async fn keys_change_without_a_restart() {
    let (handler, [old, new]) = (Handler::answering(ok()), [orders(), orders()]);
    let gateway = Gateway::start(keyed(leading_to(&handler), "x-api-key", &old)).await;
    let mut caller = gateway.connect().await;
    let with = |key: &NewApiKey| start("pay").header("X-Api-Key", &key.text);
    assert_eq!(caller.call(&with(&old)).await.status(), 200);
    assert_unauthenticated(&caller.call(&with(&new)).await);
    gateway.running.apply(keyed(leading_to(&handler), "x-api-key", &new)).await.expect("it can be applied");
    assert_unauthenticated(&caller.call(&with(&old)).await);
    assert_eq!(caller.call(&with(&new)).await.status(), 200);
    gateway.running.apply(leading_to(&handler)).await.expect("it can be applied");
    assert_eq!(caller.call(&with(&old)).await.status(), 200, "nobody asks any more");
    assert_eq!(handler.requests()[2].header("x-api-key"), Some(&*old.text), "and the header is none of the gateway's");
}

#[tokio::test]
async fn a_completion_is_not_lost_for_a_header_that_is_meant_for_its_destination() {
    let (home, key) = (Cluster::serving(Vec::new()), orders());
    let mut settings = keyed(settings(), "authorization", &key);
    settings.clusters = vec![undiscovered("home", &[home.url()])];
    settings.callbacks.home = Some("home".into());
    let gateway = Gateway::start(settings).await;
    let completion = |credential: &str| {
        let request = to("/nexus/callback").header("Nexus-Operation-State", "succeeded");
        request.header("Authorization", &format!("Bearer {credential}"))
    };
    for credential in ["planted-of-home", &key.text] {
        let answer = gateway.call(&completion(credential)).await;
        assert_ne!(answer.header("nexus-gateway-failure"), Some("unauthenticated"), "{credential}: {}", answer.text());
    }
    for (how, result) in [("api_key", "wrong"), ("api_key", "known")] {
        let labels = [("how", how), ("result", result)];
        gateway.counts("nexus_gateway_authentications_total", &labels, 1.0).await;
    }
}

/// Whoever is at the destination could use it.
#[tokio::test]
async fn a_right_key_never_passes_on_with_a_completion_whatever_else_is_wrong() {
    let (home, key) = (Handler::answering(answer("200 OK", &[], "")), orders());
    let authority = Authority::new("ours");
    let server = authority.issue(For { hosts: &["gateway.test"], ..For::default() });
    let odd = authority.issue(For { common_name: "odd", ..For::default() });
    let mut settings = over_tls(keyed(settings(), "x-api-key", &key), server_tls(&[&server], of(&authority, false)));
    let pattern = IdentityPattern::new("spiffe://a.example/{name}").expect("a pattern");
    settings.authentication.as_mut().expect("it is configured").certificates =
        vec![CertificateRule { field: Field::Spiffe, pattern }];
    let names = Some(vec![Pattern::new("orders").expect("a pattern")]);
    let completions = Some(Callers { names, namespaces: None });
    settings.authorization = Some(AuthorizationSettings { completions, ..AuthorizationSettings::default() });
    settings.clusters = vec![undiscovered("home", &[home.url()])];
    settings.callbacks.home = Some("home".into());
    let gateway = Gateway::start(settings).await;
    let completion = || to("/nexus/callback").header("Nexus-Operation-State", "succeeded");
    for (certificate, shown, status, passed) in [
        (Some(&odd), &[&*key.text][..], 200, &[][..]),
        (None, &["planted-of-home", &key.text], 200, &["planted-of-home"]),
        (None, &[&key.text, &key.text], 200, &[]),
        (Some(&odd), &["planted-of-home"], 503, &[]),
    ] {
        let client = tls_client(&authority, certificate, &[&TLS13]);
        let mut caller = TlsCaller::connect(gateway.data(), "gateway.test", &client).await.expect("a connection");
        let request = shown.iter().fold(completion(), |request, line| request.header("X-Api-Key", line));
        let before = completions_at(&home).len();
        let answer = caller.call(&request).await.expect("an answer");
        assert_eq!(answer.status(), status, "{shown:?}: {}", answer.text());
        let arrived = completions_at(&home).split_off(before);
        assert_eq!(arrived.len(), usize::from(status == 200), "{shown:?}");
        assert!(arrived.iter().all(|lines| lines == passed), "{arrived:?}");
    }
}

/// The `X-Api-Key` lines of each completion that arrived.
fn completions_at(home: &Handler) -> Vec<Vec<String>> {
    let requests = home.requests();
    let completions = requests.iter().filter(|seen| seen.target() == "/nexus/callback");
    completions.map(|seen| seen.all("x-api-key").into_iter().map(str::to_owned).collect()).collect()
}

#[tokio::test]
async fn a_caller_is_known_by_its_certificate_unless_its_request_says_more() {
    let (handler, key) = (Handler::answering(ok()), NewApiKey::generate("by key", None).expect("a good name"));
    let authority = Authority::new("ours");
    let server = authority.issue(For { hosts: &["gateway.test"], ..For::default() });
    let mesh = authority.issue(For { uris: &["spiffe://a.example/ns/shop/sa/orders"], ..For::default() });
    let odd = authority.issue(For { common_name: "odd", ..For::default() });
    let pattern = IdentityPattern::new("spiffe://a.example/ns/{namespace}/sa/{name}").expect("a pattern");
    let mut settings =
        over_tls(keyed(leading_to(&handler), "x-api-key", &key), server_tls(&[&server], of(&authority, false)));
    let certificates = vec![CertificateRule { field: Field::Spiffe, pattern }];
    settings.authentication.as_mut().expect("it is configured").certificates = certificates;
    let names = |name: &str| Some(vec![Pattern::new(name).expect("a pattern")]);
    let only =
        |name: &str, namespace: Option<&str>| Callers { names: names(name), namespaces: namespace.and_then(names) };
    let rules = [only("orders", Some("shop")), only("by key", None)];
    let rules = rules.map(|callers| Rule { callers, ..Rule::default() }).into();
    settings.authorization = Some(AuthorizationSettings { rules, ..AuthorizationSettings::default() });
    let gateway = Gateway::start(settings).await;
    for (certificate, shown, expected) in [
        (Some(&mesh), None, 200),
        (Some(&mesh), Some(&*key.text), 200),
        (Some(&mesh), Some("planted-wrong"), 401),
        (Some(&odd), None, 401),
        (Some(&odd), Some(&*key.text), 401),
        (None, None, 401),
        (None, Some(&*key.text), 200),
    ] {
        let client = tls_client(&authority, certificate, &[&TLS13]);
        let mut caller = TlsCaller::connect(gateway.data(), "gateway.test", &client).await.expect("a connection");
        let mut request = start("pay");
        if let Some(key) = shown {
            request = request.header("X-Api-Key", key);
        }
        let answer = caller.call(&request).await.expect("an answer");
        assert_eq!(answer.status(), expected, "{shown:?}: {}", answer.text());
    }
    for (how, result, count) in
        [("certificate", "known", 1.0), ("certificate", "wrong", 2.0), ("api_key", "known", 2.0)]
    {
        let labels = [("how", how), ("result", result)];
        gateway.counts("nexus_gateway_authentications_total", &labels, count).await;
    }
}
