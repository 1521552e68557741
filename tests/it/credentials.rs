//! What targets are shown of the gateway's own, and that nobody else is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderValue;
use http::header::{AUTHORIZATION, HeaderName};
use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
use nexus_gateway::admission::authenticate::{ApiKeySettings, NewApiKey};
use nexus_gateway::admission::authorize::{Callers, Pattern, Rule};
use nexus_gateway::admission::{AuthenticationSettings, AuthorizationSettings};
use nexus_gateway::callback::CallbackSettings;
use nexus_gateway::callback::destination::Allowed;
use nexus_gateway::config::Settings;
use nexus_gateway::credentials::{
    CallerHeader, ClientAuth, Credentials, OAuth2Settings, Outward, Pass, PublicKey, SignerSettings, SigningKey,
};
use nexus_gateway::nexus::{BaseUrl, ErrorType};
use nexus_gateway::secret::Secret;
use nexus_gateway::tls::ClientTlsSettings;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::harness::*;

const NO_CREDENTIALS: Expected = failure("no_credentials", ErrorType::Unavailable, true);

fn bearer(token: &str) -> Outward {
    let value = HeaderValue::try_from(format!("Bearer {token}")).expect("a header");
    Outward { credentials: Some(Credentials::Header(AUTHORIZATION, value)), ..Outward::default() }
}

/// The endpoint `pay` at `handler`, which is met so.
fn meeting(handler: &Handler, outward: Outward) -> Settings {
    Settings { externals: [("pay".into(), outward)].into(), ..leading_to(handler) }
}

async fn seen_by(handler: &Handler, outward: Outward, request: Request) -> Message {
    let answer = Gateway::start(meeting(handler, outward)).await.call(&request).await;
    assert_eq!(answer.status(), 200, "{}", answer.text());
    handler.request()
}

#[tokio::test]
async fn a_target_is_shown_its_credentials_in_the_place_of_the_callers() {
    let handler = Handler::answering(ok());
    let request = start("pay").header("Authorization", "Bearer planted-callers").header("Cookie", "a=planted-cookie");
    let outward = Outward { pass: Pass { authorization: true, cookie: false }, ..bearer("planted-own") };
    let seen = seen_by(&handler, outward, request).await;
    assert_eq!((seen.all("authorization"), seen.header("cookie")), (vec!["Bearer planted-own"], None));
}

#[tokio::test]
async fn the_callers_own_pass_where_that_is_asked_for() {
    let handler = Handler::answering(ok());
    let request = start("pay").header("Authorization", "Bearer planted-callers").header("Cookie", "a=planted-cookie");
    let outward = Outward { pass: Pass { authorization: true, cookie: true }, ..Outward::default() };
    let seen = seen_by(&handler, outward, request).await;
    assert_eq!(
        (seen.all("authorization"), seen.header("cookie")),
        (vec!["Bearer planted-callers"], Some("a=planted-cookie"))
    );
}

#[tokio::test]
async fn further_headers_go_along_in_the_place_of_the_callers() {
    let handler = Handler::answering(ok());
    let name = HeaderName::from_static("x-tenant");
    let outward = Outward { headers: vec![(name, HeaderValue::from_static("planted-tenant"))], ..Outward::default() };
    let seen = seen_by(&handler, outward, start("pay").header("X-Tenant", "planted-forged")).await;
    assert_eq!(seen.all("x-tenant"), ["planted-tenant"]);
}

#[tokio::test]
async fn a_clusters_registry_and_dispatches_carry_its_credentials_and_other_targets_none() {
    let (cluster, other, registry) =
        (Cluster::serving(vec![listed("pay", 1)]), Handler::answering(ok()), bearer("planted-own"));
    let home = nexus_gateway::registry::ClusterSettings { outward: registry, ..discovered("home", cluster.url()) };
    let settings = Settings {
        clusters: vec![home],
        endpoints: vec![worker("queue"), external("elsewhere", &other.url())],
        ..settings()
    };
    let gateway = Gateway::start(settings).await;
    gateway.until_ready().await;
    for name in ["pay", "queue", "elsewhere"] {
        assert_eq!(gateway.call(&start(name)).await.status(), 200);
    }
    for message in cluster.dispatched().iter().chain(&cluster.registry_requests()) {
        assert_eq!(message.header("authorization"), Some("Bearer planted-own"), "{message:?}");
    }
    assert_eq!(other.request().header("authorization"), None);
}

#[tokio::test]
async fn an_external_of_a_registry_has_no_credentials_of_an_endpoint_of_its_name() {
    let (own, foreign) = (Handler::answering(ok()), Handler::answering(ok()));
    let cluster = Cluster::serving(vec![listed_external("pay", 1, &foreign.url())]);
    let mut home = polled("home", cluster.url());
    home.discover.as_mut().expect("it is discovered").externals = true;
    let gateway = Gateway::start(Settings { clusters: vec![home], ..meeting(&own, bearer("planted-own")) }).await;
    gateway.counts("nexus_gateway_registry_endpoints", &[("source", "home")], 1.0).await;
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    let by_id = to(format!("/nexus/endpoints/{}/services/S/o", id(1))).body(PAYLOAD);
    assert_eq!(gateway.call(&by_id).await.status(), 200);
    assert_eq!(own.request().header("authorization"), Some("Bearer planted-own"));
    assert_eq!(foreign.request().header("authorization"), None);
}

/// Has an operation completed to `path` at a cluster with credentials; what that cluster gets.
async fn completed_at(path: &str, is_cluster: bool) -> Message {
    let home = Handler::answering(answer("200 OK", &[], ""));
    let handler = Handler::answering(json("201 Created", "{\"token\":\"planted-token\",\"state\":\"running\"}"));
    let public_url = Some(BaseUrl::parse("http://gateway.test:7280").expect("a URL"));
    let allow = vec![Allowed::new("http://127.0.0.1:*", true).expect("an entry")];
    let callbacks = CallbackSettings { public_url, allow, keys: vec![seal_key("k")], ..Default::default() };
    let url = if is_cluster { home.url() } else { "http://127.0.0.1:9".into() };
    let mut cluster = undiscovered("home", &[url]);
    cluster.outward = bearer("planted-own");
    let gateway = Gateway::start(Settings { callbacks, clusters: vec![cluster], ..leading_to(&handler) }).await;
    let callback = utf8_percent_encode(&format!("{}{path}", home.url()), NON_ALPHANUMERIC).to_string();
    let started =
        gateway.call(&to(format!("/nexus/endpoints/pay/services/S/o?callback={callback}")).body(PAYLOAD)).await;
    assert_eq!(started.status(), 201);
    let request = to(sealed_path(&handler.request()))
        .header("Nexus-Operation-State", "succeeded")
        .header("Authorization", "planted-handlers");
    assert_eq!(gateway.call(&request.body(PAYLOAD)).await.status(), 200);
    let delivered = home.requests().into_iter().find(|message| message.target() == path);
    delivered.expect("a completion")
}

#[tokio::test]
async fn a_completion_carries_the_credentials_of_the_cluster_it_goes_to() {
    let seen = completed_at("/namespaces/pay/nexus/callback", true).await;
    assert_eq!(seen.all("authorization"), ["Bearer planted-own"]);
}

#[tokio::test]
async fn a_completion_to_anywhere_else_carries_none() {
    let seen = completed_at("/namespaces/pay/nexus/callback", false).await;
    assert_eq!(seen.all("authorization"), ["planted-handlers"], "what a start asked for comes back");
    let seen = completed_at("/api/v1/namespaces/pay/workflows/w", true).await;
    assert_eq!(seen.all("authorization"), ["planted-handlers"], "a caller's text does not make the gateway act for it");
}

/// The settings, for which `key` is that of the caller `orders` of the namespace `shop`.
fn knowing(settings: Settings, key: &NewApiKey) -> Settings {
    let all = ["*", "anonymous"].map(|name| Pattern::new(name).expect("a pattern"));
    let callers = Callers { names: Some(all.into()), namespaces: None };
    let rules = vec![Rule { callers, ..Rule::default() }];
    let authorization = Some(AuthorizationSettings { rules, ..AuthorizationSettings::default() });
    let api_keys = ApiKeySettings { header: HeaderName::from_static("x-api-key"), keys: vec![key.key.clone()] };
    let authentication = Some(AuthenticationSettings { api_keys: Some(api_keys), ..AuthenticationSettings::default() });
    Settings { authentication, authorization, ..settings }
}

#[tokio::test]
async fn the_handler_is_told_who_calls_and_nobody_else_can_say_so() {
    let (handler, key) = (Handler::answering(ok()), NewApiKey::generate("orders", Some("shop")).expect("a name"));
    let gateway = Gateway::start(knowing(leading_to(&handler), &key)).await;
    let forged = start("pay").header("Nexus-Gateway-Caller", "admin").header("Nexus-Gateway-Caller-Namespace", "x");
    assert_eq!(gateway.call(&forged.clone().header("X-Api-Key", &key.text)).await.status(), 200);
    assert_eq!(gateway.call(&forged).await.status(), 200);
    let [known, anonymous] = &handler.requests()[..] else { panic!("two requests") };
    assert_eq!(known.all("nexus-gateway-caller"), ["orders"]);
    assert_eq!(known.all("nexus-gateway-caller-namespace"), ["shop"]);
    assert_eq!(anonymous.beginning_with("nexus-gateway-"), []);
}

#[tokio::test]
async fn a_handler_can_check_a_signed_caller_by_the_keys_of_the_admin_port() {
    let (handler, key) = (Handler::answering(ok()), NewApiKey::generate("orders", Some("shop")).expect("a name"));
    let pem = rcgen::KeyPair::generate().expect("a key").serialize_pem();
    let key_of_callers = SigningKey::read(&pem).expect("a key");
    let signer = SignerSettings { key: key_of_callers, published: Vec::new(), issuer: "edge".into() };
    let outward = Outward { caller: CallerHeader::Signed, ..Outward::default() };
    let settings = Settings { callers: Some(signer), ..knowing(meeting(&handler, outward), &key) };
    let gateway = Gateway::start(settings).await;
    assert_eq!(gateway.call(&start("pay").header("X-Api-Key", &key.text)).await.status(), 200);
    let seen = handler.request();
    assert_eq!(seen.header("nexus-gateway-caller-namespace"), None);
    let keys: JwkSet = serde_json::from_str(&gateway.admin("/.well-known/jwks.json").await.text()).expect("a key set");
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&["pay"]);
    validation.set_issuer(&["edge"]);
    let checking = DecodingKey::from_jwk(&keys.keys[0]).expect("a key");
    let token = seen.header("nexus-gateway-caller").expect("a token");
    let claims = decode::<serde_json::Value>(token, &checking, &validation).expect("a good token").claims;
    assert_eq!((&claims["sub"], &claims["namespace"]), (&"orders".into(), &"shop".into()));
}

#[tokio::test]
async fn tokens_can_be_checked_all_the_time_while_the_key_that_signs_changes() {
    let (handler, key) = (Handler::answering(ok()), NewApiKey::generate("orders", None).expect("a name"));
    let [old, new] = [(); 2].map(|()| rcgen::KeyPair::generate().expect("a key"));
    let outward = Outward { caller: CallerHeader::Signed, ..Outward::default() };
    let base = knowing(meeting(&handler, outward), &key);
    let step = |signs: &rcgen::KeyPair, published: &[String]| {
        let signs = SigningKey::read(&signs.serialize_pem()).expect("a key");
        let published = published.iter().map(|pem| PublicKey::read(pem).expect("a key")).collect();
        Settings { callers: Some(SignerSettings { key: signs, published, issuer: "edge".into() }), ..base.clone() }
    };
    let gateway = Gateway::start(base.clone()).await;
    let mut stages = Vec::new();
    for settings in [
        step(&old, &[]),
        step(&old, &[new.public_key_pem()]),
        step(&new, &[old.public_key_pem(), new.serialize_pem()]),
        step(&new, &[]),
    ] {
        gateway.running.apply(settings).await.expect("it can be applied");
        let told = gateway.admin("/.well-known/jwks.json").await.text();
        assert_eq!(gateway.call(&start("pay").header("X-Api-Key", &key.text)).await.status(), 200);
        let seen = handler.requests().pop().expect("a request");
        let token = seen.header("nexus-gateway-caller").expect("a token").to_owned();
        stages.push((serde_json::from_str::<JwkSet>(&told).expect("a key set"), token));
    }
    let signers = stages.iter().map(|(_, token)| kid(token)).collect::<Vec<_>>();
    assert!(signers[0] == signers[1] && signers[1] != signers[2] && signers[2] == signers[3]);
    for two in stages.windows(2) {
        let [(before, earlier), (after, later)] = two else { unreachable!() };
        assert!(checks(before, earlier) && checks(after, later));
        assert!(checks(before, later), "by a handler that did not read the set again");
        assert!(checks(after, earlier), "signed before the step, and checked after it");
    }
    assert!(!checks(&stages[3].0, &stages[0].1), "in the end the old key is nobody's");
}

fn kid(token: &str) -> String {
    decode_header(token).expect("a token").kid.expect("it says which key")
}

fn checks(set: &JwkSet, token: &str) -> bool {
    let mut validation = Validation::new(Algorithm::ES256);
    validation.set_audience(&["pay"]);
    let key = set.find(&kid(token)).map(|key| DecodingKey::from_jwk(key).expect("a key"));
    key.is_some_and(|key| decode::<serde_json::Value>(token, &key, &validation).is_ok())
}

fn oauth2(server: &Handler) -> Outward {
    let settings = OAuth2Settings {
        token_url: format!("{}/token", server.url()).parse().expect("a URL"),
        client_id: "edge".into(),
        client_secret: Secret::new("planted-client-secret"),
        client_auth: ClientAuth::Basic,
        scope: Some("nexus".into()),
        audience: None,
        tls: ClientTlsSettings::default(),
    };
    Outward { credentials: Some(Credentials::OAuth2(Box::new(settings))), ..Outward::default() }
}

fn token(text: &str) -> String {
    json("200 OK", &format!("{{\"access_token\":\"{text}\",\"token_type\":\"Bearer\",\"expires_in\":3600}}"))
}

#[tokio::test]
async fn a_token_is_fetched_once_and_outlives_a_reload() {
    let (server, handler) = (Handler::answering(token("planted-t1")), Handler::answering(ok()));
    let settings = meeting(&handler, oauth2(&server));
    let gateway = Gateway::start(settings.clone()).await;
    for _ in 0..3 {
        assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    }
    let reloaded = under(settings, within(std::time::Duration::from_secs(7)));
    gateway.running.apply(reloaded).await.expect("good settings");
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    for seen in handler.requests() {
        assert_eq!(seen.header("authorization"), Some("Bearer planted-t1"));
    }
    let asked = server.request();
    assert_eq!((asked.target(), asked.text()), ("/token", "grant_type=client_credentials&scope=nexus".into()));
    let labels = [("target", "endpoints.pay"), ("result", "ok")];
    gateway.counts("nexus_gateway_credentials_refreshes_total", &labels, 1.0).await;
}

#[tokio::test]
async fn a_request_waits_for_the_first_token() {
    let gate = Gate::new();
    let server = Handler::acting(vec![Act::Wait(gate.clone()), token("planted-t1").into()]);
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(meeting(&handler, oauth2(&server))).await;
    server.wait_for(1).await;
    let request = start("pay");
    let (answer, ()) = tokio::join!(gateway.call(&request), async { gate.open() });
    assert_eq!(answer.status(), 200);
    assert_eq!(handler.request().header("authorization"), Some("Bearer planted-t1"));
}

#[tokio::test]
async fn without_a_token_nothing_is_sent() {
    let server = Handler::answering(json("400 Bad Request", "{\"error\":\"invalid_client\"}"));
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(meeting(&handler, oauth2(&server))).await;
    let answer = gateway.call(&start("pay")).await;
    NO_CREDENTIALS.assert_is(&answer, "no token");
    assert!(answer.text().contains("has no credentials for the target at present"), "{}", answer.text());
    assert!(handler.requests().is_empty());
    let labels = [("target", "endpoints.pay"), ("result", "error")];
    gateway.counts_at_least("nexus_gateway_credentials_refreshes_total", &labels, 1.0).await;
}

#[tokio::test]
async fn a_refusal_by_the_target_is_handed_on_and_does_not_storm_the_token_server() {
    let asked = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&asked);
    let server = Handler::scripted(move |_| {
        vec![token(&format!("planted-{}", counting.fetch_add(1, Ordering::Relaxed))).into()]
    });
    let handler = Handler::answering(answer("401 Unauthorized", &[], "no"));
    let gateway = Gateway::start(meeting(&handler, oauth2(&server))).await;
    for _ in 0..5 {
        assert_eq!(gateway.call(&start("pay")).await.status(), 401);
    }
    assert_eq!(handler.requests().len(), 5, "the gateway does not try again by itself");
    assert_eq!(asked.load(Ordering::Relaxed), 1, "the token is young");
}
