//! What targets are shown of the gateway's own, and that nobody else is.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderValue;
use http::header::{AUTHORIZATION, HeaderName};
use nexus_gateway::callback::CallbackSettings;
use nexus_gateway::callback::destination::Allowed;
use nexus_gateway::callback::seal::Key;
use nexus_gateway::config::Settings;
use nexus_gateway::credentials::{ClientAuth, Credentials, OAuth2Settings, Outward, Pass};
use nexus_gateway::nexus::{BaseUrl, ErrorType};
use nexus_gateway::secret::Secret;
use nexus_gateway::tls::ClientTlsSettings;
use percent_encoding::{NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

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
    let request = start("pay").header("Authorization", "Bearer callers").header("Cookie", "a=b");
    let outward = Outward { pass: Pass { authorization: true, cookie: false }, ..bearer("own") };
    let seen = seen_by(&handler, outward, request).await;
    assert_eq!((seen.all("authorization"), seen.header("cookie")), (vec!["Bearer own"], None));
}

#[tokio::test]
async fn the_callers_own_pass_where_that_is_asked_for() {
    let handler = Handler::answering(ok());
    let request = start("pay").header("Authorization", "Bearer callers").header("Cookie", "a=b");
    let outward = Outward { pass: Pass { authorization: true, cookie: true }, ..Outward::default() };
    let seen = seen_by(&handler, outward, request).await;
    assert_eq!((seen.all("authorization"), seen.header("cookie")), (vec!["Bearer callers"], Some("a=b")));
}

#[tokio::test]
async fn further_headers_go_along_in_the_place_of_the_callers() {
    let handler = Handler::answering(ok());
    let name = HeaderName::from_static("x-tenant");
    let outward = Outward { headers: vec![(name, HeaderValue::from_static("edge"))], ..Outward::default() };
    let seen = seen_by(&handler, outward, start("pay").header("X-Tenant", "forged")).await;
    assert_eq!(seen.all("x-tenant"), ["edge"]);
}

#[tokio::test]
async fn a_clusters_registry_and_dispatches_carry_its_credentials_and_other_targets_none() {
    let (cluster, other, registry) =
        (Cluster::serving(vec![listed("pay", 1)]), Handler::answering(ok()), bearer("own"));
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
        assert_eq!(message.header("authorization"), Some("Bearer own"), "{message:?}");
    }
    assert_eq!(other.request().header("authorization"), None);
}

#[tokio::test]
async fn an_external_of_a_registry_has_no_credentials_of_an_endpoint_of_its_name() {
    let (own, foreign) = (Handler::answering(ok()), Handler::answering(ok()));
    let cluster = Cluster::serving(vec![listed_external("pay", 1, &foreign.url())]);
    let mut home = polled("home", cluster.url());
    home.discover.as_mut().expect("it is discovered").externals = true;
    let gateway = Gateway::start(Settings { clusters: vec![home], ..meeting(&own, bearer("own")) }).await;
    gateway.counts("nexus_gateway_registry_endpoints", &[("source", "home")], 1.0).await;
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    let by_id = to(format!("/nexus/endpoints/{}/services/S/o", id(1))).body("{}");
    assert_eq!(gateway.call(&by_id).await.status(), 200);
    assert_eq!(own.request().header("authorization"), Some("Bearer own"));
    assert_eq!(foreign.request().header("authorization"), None);
}

/// Has an operation completed to `path` at a cluster with credentials; what that cluster gets.
async fn completed_at(path: &str, is_cluster: bool) -> Message {
    let home = Handler::answering(answer("200 OK", &[], ""));
    let handler = Handler::answering(json("201 Created", "{\"token\":\"t\",\"state\":\"running\"}"));
    let public_url = Some(BaseUrl::parse("http://gateway.test:7280").expect("a URL"));
    let allow = vec![Allowed::new("http://127.0.0.1:*", true).expect("an entry")];
    let callbacks = CallbackSettings { public_url, allow, keys: vec![Key::new("k", [1; 32])], ..Default::default() };
    let url = if is_cluster { home.url() } else { "http://127.0.0.1:9".into() };
    let mut cluster = undiscovered("home", &[url]);
    cluster.outward = bearer("own");
    let gateway = Gateway::start(Settings { callbacks, clusters: vec![cluster], ..leading_to(&handler) }).await;
    let callback = utf8_percent_encode(&format!("{}{path}", home.url()), NON_ALPHANUMERIC).to_string();
    let started = gateway.call(&to(format!("/nexus/endpoints/pay/services/S/o?callback={callback}")).body("{}")).await;
    assert_eq!(started.status(), 201);
    let query = handler.request().target().split_once("callback=").expect("a callback").1.to_owned();
    let sealed = percent_decode_str(&query).decode_utf8().expect("text").into_owned();
    let sealed = sealed.strip_prefix("http://gateway.test:7280").expect("the gateway's").to_owned();
    let request = to(sealed).header("Nexus-Operation-State", "succeeded").header("Authorization", "handlers");
    assert_eq!(gateway.call(&request.body("{}")).await.status(), 200);
    let delivered = home.requests().into_iter().find(|message| message.target() == path);
    delivered.expect("a completion")
}

#[tokio::test]
async fn a_completion_carries_the_credentials_of_the_cluster_it_goes_to() {
    let seen = completed_at("/namespaces/pay/nexus/callback", true).await;
    assert_eq!(seen.all("authorization"), ["Bearer own"]);
}

#[tokio::test]
async fn a_completion_to_anywhere_else_carries_none() {
    let seen = completed_at("/namespaces/pay/nexus/callback", false).await;
    assert_eq!(seen.all("authorization"), ["handlers"], "what a start asked for comes back");
    let seen = completed_at("/api/v1/namespaces/pay/workflows/w", true).await;
    assert_eq!(seen.all("authorization"), ["handlers"], "a caller's text does not make the gateway act for it");
}

fn oauth2(server: &Handler) -> Outward {
    let settings = OAuth2Settings {
        token_url: format!("{}/token", server.url()).parse().expect("a URL"),
        client_id: "edge".into(),
        client_secret: Secret::new("s3cret"),
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
    let (server, handler) = (Handler::answering(token("t1")), Handler::answering(ok()));
    let settings = meeting(&handler, oauth2(&server));
    let gateway = Gateway::start(settings.clone()).await;
    for _ in 0..3 {
        assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    }
    let reloaded = under(settings, within(std::time::Duration::from_secs(7)));
    gateway.running.apply(reloaded).await.expect("good settings");
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    for seen in handler.requests() {
        assert_eq!(seen.header("authorization"), Some("Bearer t1"));
    }
    let asked = server.request();
    assert_eq!((asked.target(), asked.text()), ("/token", "grant_type=client_credentials&scope=nexus".into()));
    let labels = [("target", "endpoints.pay"), ("result", "ok")];
    gateway.counts("nexus_gateway_credentials_refreshes_total", &labels, 1.0).await;
}

#[tokio::test]
async fn a_request_waits_for_the_first_token() {
    let gate = Gate::new();
    let server = Handler::acting(vec![Act::Wait(gate.clone()), token("t1").into()]);
    let handler = Handler::answering(ok());
    let gateway = Gateway::start(meeting(&handler, oauth2(&server))).await;
    server.wait_for(1).await;
    let request = start("pay");
    let (answer, ()) = tokio::join!(gateway.call(&request), async { gate.open() });
    assert_eq!(answer.status(), 200);
    assert_eq!(handler.request().header("authorization"), Some("Bearer t1"));
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
    let server = Handler::scripted(move |_| vec![token(&counting.fetch_add(1, Ordering::Relaxed).to_string()).into()]);
    let handler = Handler::answering(answer("401 Unauthorized", &[], "no"));
    let gateway = Gateway::start(meeting(&handler, oauth2(&server))).await;
    for _ in 0..5 {
        assert_eq!(gateway.call(&start("pay")).await.status(), 401);
    }
    assert_eq!(handler.requests().len(), 5, "the gateway does not try again by itself");
    assert_eq!(asked.load(Ordering::Relaxed), 1, "the token is young");
}
