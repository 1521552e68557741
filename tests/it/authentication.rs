//! Authentication: who is let in as whom, and what becomes of the credential.

use std::num::NonZeroU32;
use std::time::Duration;

use http::HeaderName;
use http::header::AUTHORIZATION;
use nexus_gateway::admission::authenticate::{
    Algorithm, ApiKeySettings, CertificateRule, ClaimPath, Field, IdentityPattern, JwksUrl, JwtSettings, KeySet,
    KeySource, NewApiKey,
};
use nexus_gateway::admission::authorize::{Callers, Pattern, Rule};
use nexus_gateway::admission::{AuthenticationSettings, AuthorizationSettings};
use nexus_gateway::config::Settings;
use nexus_gateway::tls::ClientTlsSettings;
use rustls::version::TLS13;
use serde_json::json;

use crate::certificates::{Authority, For};
use crate::harness::*;
use crate::tokens::{Signer, jwks};

/// Settings that know the caller `orders` by this key.
fn keyed(settings: Settings, header: &'static str, key: &NewApiKey) -> Settings {
    let api_keys = ApiKeySettings { header: HeaderName::from_static(header), keys: vec![key.key.clone()] };
    let authentication = AuthenticationSettings { api_keys: Some(api_keys), ..AuthenticationSettings::default() };
    Settings { authentication: Some(authentication), authorization: Some(open_to_all()), ..settings }
}

/// Rules by which everybody may do everything.
fn open_to_all() -> AuthorizationSettings {
    let all = ["*", "anonymous"].map(|name| Pattern::new(name).expect("a pattern"));
    let callers = Callers { names: Some(all.into()), namespaces: None };
    let rules = vec![Rule { callers: callers.clone(), ..Rule::default() }];
    AuthorizationSettings { rules, completions: Some(callers), ..AuthorizationSettings::default() }
}

fn orders() -> NewApiKey {
    NewApiKey::generate("orders", Some("shop")).expect("a good name")
}

/// What a caller gets whose credential is wrong. It does not say what is wrong with it.
fn assert_unauthenticated(answer: &Message) {
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

/// An issuer whose tokens say `sub`, in a running gateway.
fn issuing(settings: Settings, signers: &[&Signer]) -> Settings {
    let issuer = JwtSettings {
        issuer: "https://issuer.example".into(),
        audience: vec!["gateway".into()],
        algorithms: vec![Algorithm::Es256],
        keys: KeySource::Set(KeySet::read(&jwks(signers)).expect("a good set")),
        header: AUTHORIZATION,
        name: ClaimPath::new(["sub".into()]),
        pattern: IdentityPattern::new("{namespace}:{name}").expect("a pattern"),
        namespace: None,
        leeway: Duration::ZERO,
    };
    let authentication = AuthenticationSettings { jwt: vec![issuer], ..AuthenticationSettings::default() };
    let shop = Callers {
        names: Some(vec![Pattern::new("orders").expect("a pattern")]),
        namespaces: Some(vec![Pattern::new("shop").expect("a pattern")]),
    };
    let rules = vec![Rule { callers: shop, ..Rule::default() }];
    let authorization = AuthorizationSettings { rules, ..AuthorizationSettings::default() };
    Settings { authentication: Some(authentication), authorization: Some(authorization), ..settings }
}

fn token(signer: &Signer, sub: &str) -> String {
    let claims = json!({ "iss": "https://issuer.example", "aud": ["gateway"], "exp": 4_000_000_000_u64, "sub": sub });
    format!("Bearer {}", signer.token(&claims))
}

#[tokio::test]
async fn a_token_says_who_calls_and_does_not_reach_the_handler() {
    let (handler, signer, next) = (Handler::answering(ok()), Signer::new("one", "ES256"), Signer::new("two", "ES256"));
    let gateway = Gateway::start(issuing(leading_to(&handler), &[&signer])).await;
    let mut caller = gateway.connect().await;
    let with = |token: &str| start("pay").header("Authorization", token);
    let orders = token(&signer, "shop:orders");
    for again in 0..2 {
        assert_eq!(caller.call(&with(&orders)).await.status(), 200);
        assert_eq!(handler.requests()[again].header("authorization"), None);
    }
    assert_eq!(caller.call(&with(&token(&signer, "other:orders"))).await.status(), 404, "no rule is for it");
    let unsigned = orders.rsplit_once('.').expect("a token").0.to_owned() + ".";
    for wrong in [&token(&next, "shop:orders"), &token(&signer, "orders"), &unsigned, "Bearer planted-text"] {
        assert_unauthenticated(&caller.call(&with(wrong)).await);
    }
    for (result, count) in [("known", 3.0), ("wrong", 4.0)] {
        gateway.counts("nexus_gateway_authentications_total", &[("how", "jwt"), ("result", result)], count).await;
    }

    gateway.running.apply(issuing(leading_to(&handler), &[&next])).await.expect("it can be applied");
    assert_unauthenticated(&caller.call(&with(&orders)).await);
    assert_eq!(caller.call(&with(&token(&next, "shop:orders"))).await.status(), 200);
}

#[tokio::test]
async fn who_makes_tokens_up_is_turned_away_and_those_who_are_known_go_on() {
    let (handler, signer, thief) = (Handler::answering(ok()), Signer::new("one", "ES256"), Signer::new("one", "ES256"));
    let mut settings = issuing(leading_to(&handler), &[&signer]);
    settings.authentication.as_mut().expect("it is configured").max_wrong_per_peer = NonZeroU32::new(1);
    let gateway = Gateway::start(settings).await;
    let mut caller = gateway.connect().await;
    let with = |token: &str| start("pay").header("Authorization", token);
    let known = token(&signer, "shop:orders");
    assert_eq!(caller.call(&with(&known)).await.status(), 200);
    let mut statuses = Vec::new();
    while statuses.last() != Some(&429) && statuses.len() < 100 {
        let answer = caller.call(&with(&token(&thief, &format!("shop:{}", statuses.len())))).await;
        statuses.push(answer.status());
        if answer.status() == 429 {
            let marker = "rate_limited; rule=\"authentication.max_wrong_per_peer\"";
            assert_eq!(answer.header("nexus-gateway-failure"), Some(marker));
            assert_eq!(
                (answer.header("nexus-request-retryable"), answer.header("retry-after")),
                (Some("true"), Some("1"))
            );
        }
    }
    assert!(statuses.len() > 2 && statuses[..statuses.len() - 1].iter().all(|status| *status == 401), "{statuses:?}");
    assert_eq!(caller.call(&with(&known)).await.status(), 200);
    assert_eq!(handler.requests().len(), 2);
    let labels = [("how", "jwt"), ("result", "too_many_wrong")];
    gateway.counts("nexus_gateway_authentications_total", &labels, 1.0).await;
    gateway.counts("nexus_gateway_failures_total", &[("reason", "rate_limited")], 1.0).await;
}

/// The same with keys from this URL.
fn issuing_at(url: &str, settings: Settings) -> Settings {
    let mut settings = issuing(settings, &[&Signer::new("any", "ES256")]);
    let issuer = &mut settings.authentication.as_mut().expect("it is configured").jwt[0];
    issuer.keys = KeySource::Url(JwksUrl {
        url: url.parse().expect("a URL"),
        every: Duration::from_secs(300),
        max_age: Duration::from_secs(3600),
        tls: ClientTlsSettings::default(),
        bearer: None,
    });
    settings
}

#[tokio::test]
async fn keys_of_tokens_are_fetched_and_outlive_a_reload() {
    let (handler, signer) = (Handler::answering(ok()), Signer::new("one", "ES256"));
    let gateway = Gateway::start(issuing_at("http://127.0.0.1:1/", leading_to(&handler))).await;
    let mut caller = gateway.connect().await;
    let request = start("pay").header("Authorization", &token(&signer, "shop:orders"));
    let answer = caller.call(&request).await;
    let said = (answer.status(), answer.header("nexus-gateway-failure"), answer.header("nexus-request-retryable"));
    assert_eq!(said, (503, Some("authentication_unavailable"), Some("true")));
    let fetches = |result| [("issuer", "https://issuer.example"), ("result", result)];
    gateway.counts("nexus_gateway_jwks_fetches_total", &fetches("error"), 1.0).await;

    let issuer = Handler::answering(crate::harness::json("200 OK", &jwks(&[&signer])));
    let settings = issuing_at(&issuer.url(), leading_to(&handler));
    gateway.running.apply(settings.clone()).await.expect("it can be applied");
    assert_eq!(caller.call(&request).await.status(), 200);
    gateway
        .running
        .apply(Settings { authorization: Some(open_to_all()), ..settings })
        .await
        .expect("it can be applied");
    assert_eq!(caller.call(&request).await.status(), 200);
    assert_eq!(issuer.requests().len(), 1, "what was fetched stays");
    gateway.counts("nexus_gateway_jwks_fetches_total", &fetches("ok"), 1.0).await;
    assert!(gateway.metrics().await.has("nexus_gateway_jwks_age_seconds"));
}
