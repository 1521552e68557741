//! JSON Web Tokens: who is let in as whom by one, and where the keys that check them come from.

use std::num::NonZeroU32;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::hmac;
use http::header::AUTHORIZATION;
use nexus_gateway::admission::authenticate::{
    Algorithm, ClaimPath, IdentityPattern, JwksUrl, JwtSettings, KeySet, KeySource,
};
use nexus_gateway::admission::authorize::{Callers, Pattern, Rule};
use nexus_gateway::admission::{AuthenticationSettings, AuthorizationSettings};
use nexus_gateway::config::Settings;
use nexus_gateway::telemetry::LogSettings;
use nexus_gateway::tls::{ClientAuth, ClientTlsSettings, Protocol, Roots, ServerTls};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use crate::authentication::{assert_unauthenticated, open_to_all};
use crate::certificates::{Authority, For};
use crate::harness::*;
use crate::tokens::{Signer, base64, jwks};

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

/// The claims of a good token, but for this.
fn but(name: &str, value: impl Into<Value>) -> Value {
    let mut claims = json!({
        "iss": "https://issuer.example", "aud": "gateway", "exp": 4_000_000_000_u64, "sub": "shop:orders",
    });
    claims[name] = value.into();
    claims
}

#[tokio::test]
async fn no_token_that_is_not_the_issuers_for_here_and_now_reaches_the_handler() {
    let (handler, signer) = (Handler::answering(ok()), Signer::new("one", "ES256"));
    let gateway = Gateway::start(issuing(leading_to(&handler), &[&signer])).await;
    let mut caller = gateway.connect().await;
    let good = but("jti", 1);
    let with_header = |header: Value| signer.token_with(&header, &good);
    let by_public_key = |secret: &[u8]| {
        let header = json!({ "alg": "HS256", "kid": "one" }).to_string();
        let message = format!("{}.{}", base64(header.as_bytes()), base64(good.to_string().as_bytes()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), message.as_bytes());
        format!("{message}.{}", base64(tag.as_ref()))
    };
    let none = with_header(json!({ "alg": "none", "kid": "one" }));
    for (what, token) in [
        ("wrong issuer", signer.token(&but("iss", "https://other.example"))),
        ("wrong audience", signer.token(&but("aud", "other"))),
        ("expired", signer.token(&but("exp", 1_000_000_000))),
        ("never expires", signer.token(&but("exp", Value::Null))),
        ("not yet valid", signer.token(&but("nbf", 3_900_000_000_u64))),
        ("unknown key", with_header(json!({ "alg": "ES256", "kid": "two" }))),
        ("another algorithm", with_header(json!({ "alg": "ES384", "kid": "one" }))),
        ("no algorithm", none.clone()),
        ("no algorithm and no signature", format!("{}.", none.rsplit_once('.').expect("a token").0)),
        ("the public key as a secret", by_public_key(&signer.der())),
        ("the key set as a secret", by_public_key(jwks(&[&signer]).as_bytes())),
        ("a key of its own", with_header(json!({ "alg": "ES256", "kid": "two", "jwk": signer.jwk() }))),
        ("huge", signer.token(&but("x", "x".repeat(20_000)))),
    ] {
        let answer = caller.call(&start("pay").header("Authorization", &format!("Bearer {token}"))).await;
        assert_eq!(answer.status(), 401, "{what}");
        assert_unauthenticated(&answer);
    }
    assert!(handler.requests().is_empty());
    let good = format!("Bearer {}", signer.token(&good));
    assert_eq!(caller.call(&start("pay").header("Authorization", &good)).await.status(), 200);
}

#[tokio::test]
async fn who_makes_tokens_up_is_turned_away_and_those_who_are_known_go_on() {
    let (handler, signer, thief) = (Handler::answering(ok()), Signer::new("one", "ES256"), Signer::new("one", "ES256"));
    let mut settings = issuing(leading_to(&handler), &[&signer]);
    settings.authentication.as_mut().expect("it is configured").max_wrong_per_peer = NonZeroU32::new(1);
    let file = LogFile::new();
    settings.log = LogSettings { audit_log: Some(file.target()), ..LogSettings::default() };
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
    let line = file.lines(1 + statuses.len()).await.remove(statuses.len());
    assert_eq!(
        (&line["decision"], &line["how"], &line["status"]),
        (&json!("unauthenticated"), &json!("jwt"), &json!(429))
    );
    assert!(statuses.len() > 2 && statuses[..statuses.len() - 1].iter().all(|status| *status == 401), "{statuses:?}");
    assert_eq!(caller.call(&with(&known)).await.status(), 200);
    let mut neighbour = Caller::connect_from([127, 0, 0, 2].into(), gateway.data()).await;
    let fresh = with(&token(&signer, "shop:orders"));
    assert_eq!(neighbour.call(&fresh).await.status(), 200, "another peer has no part in it");
    assert_eq!(handler.requests().len(), 3);
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

    let issuer = Handler::answering(keys("200 OK", &jwks(&[&signer])));
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

/// What an issuer answers.
fn keys(status: &str, text: &str) -> String {
    crate::harness::json(status, text)
}

/// The place of an issuer behind TLS, which passes on to it whatever comes, or is down.
struct Front {
    url: String,
    tls: Arc<Mutex<Option<ServerTls>>>,
    _serving: JoinSet<()>,
}

impl Front {
    async fn of(issuer: &Handler, tls: ServerTls) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("https://{}/jwks.json", listener.local_addr().expect("it is bound"));
        let tls = Arc::new(Mutex::new(Some(tls)));
        let (address, shown) = (issuer.address, Arc::clone(&tls));
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.expect("connections can be accepted");
                let Some(tls) = shown.lock().unwrap_or_else(PoisonError::into_inner).clone() else { continue };
                open.spawn(async move {
                    let Ok(accepted) = tls.accept(stream).await else { return };
                    let mut near = accepted.stream;
                    let mut far = TcpStream::connect(address).await.expect("the issuer is there");
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
        Self { url, tls, _serving: serving }
    }

    /// What it shows from now on; none: it cuts connections.
    fn show(&self, tls: Option<ServerTls>) {
        *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = tls;
    }
}

fn shown_by(authority: &Authority) -> ServerTls {
    let issued = authority.issue(For { hosts: &["127.0.0.1"], ..For::default() });
    ServerTls::new(&server_tls(&[&issued], ClientAuth::Off), &[Protocol::Http1]).expect("it can be used")
}

/// The keys at this URL, whose server is believed by `authority`, fetched in quick succession.
fn issuing_over_tls(url: &str, authority: &Authority, settings: Settings) -> Settings {
    let mut settings = issuing_at(url, settings);
    let KeySource::Url(source) = &mut settings.authentication.as_mut().expect("it is configured").jwt[0].keys else {
        panic!("keys are fetched")
    };
    source.every = Duration::from_millis(20);
    let roots = Some(Roots::read(&authority.pem).expect("an authority"));
    source.tls = ClientTlsSettings { roots, ..ClientTlsSettings::default() };
    settings
}

const FETCHES: &str = "nexus_gateway_jwks_fetches_total";

#[tokio::test]
async fn keys_come_over_tls_and_the_last_good_ones_hold_whatever_becomes_of_their_server() {
    let (handler, authority, stranger) = (Handler::answering(ok()), Authority::new("ours"), Authority::new("others"));
    let [old, new] = ["old", "new"].map(|id| Signer::new(id, "ES256"));
    let answer = Arc::new(Mutex::new(Act::from(keys("200 OK", &jwks(&[&old])))));
    let says = Arc::clone(&answer);
    let issuer =
        Handler::scripted(move |_| vec![says.lock().unwrap_or_else(PoisonError::into_inner).clone(), Act::Close]);
    let front = Front::of(&issuer, shown_by(&authority)).await;
    let gateway = Gateway::start(issuing_over_tls(&front.url, &stranger, leading_to(&handler))).await;
    let call = async |signer: &Signer| {
        let token = token(signer, "shop:orders");
        let answer = gateway.call(&start("pay").header("Authorization", &token)).await;
        (answer.status(), answer.header("nexus-gateway-failure").map(str::to_owned))
    };
    assert_eq!(call(&old).await, (503, Some("authentication_unavailable".into())), "who is that server?");
    assert!(issuer.requests().is_empty());

    let settings = issuing_over_tls(&front.url, &authority, leading_to(&handler));
    gateway.running.apply(settings).await.expect("it can be applied");
    assert_eq!(call(&old).await, (200, None));
    let fetches = |result| [("issuer", "https://issuer.example"), ("result", result)];
    let set = |act: Act| *answer.lock().unwrap_or_else(PoisonError::into_inner) = act;
    let huge = jwks(&[&new]) + &" ".repeat(2 << 20);
    let bad: [&dyn Fn(); 6] = [
        &|| set(keys("200 OK", "<html>").into()),
        &|| set(keys("200 OK", &huge).into()),
        &|| set(keys("500 Internal Server Error", &jwks(&[&new])).into()),
        &|| set(Act::Close),
        &|| front.show(Some(shown_by(&stranger))),
        &|| front.show(None),
    ];
    for (number, becomes) in bad.iter().enumerate() {
        becomes();
        let failed = gateway.metrics().await.sum(FETCHES, &fetches("error"));
        gateway.counts_at_least(FETCHES, &fetches("error"), failed + 2.0).await;
        assert_eq!(call(&old).await, (200, None), "{number}");
    }
    set(keys("200 OK", &jwks(&[&new])).into());
    front.show(Some(shown_by(&authority)));
    let good = gateway.metrics().await.sum(FETCHES, &fetches("ok"));
    gateway.counts_at_least(FETCHES, &fetches("ok"), good + 2.0).await;
    assert_eq!(call(&new).await, (200, None));
    // Whether it is gone is known by a fetch that began after it was asked for.
    assert_ne!(call(&old).await.0, 200);
    let good = gateway.metrics().await.sum(FETCHES, &fetches("ok"));
    gateway.counts_at_least(FETCHES, &fetches("ok"), good + 2.0).await;
    assert_eq!(call(&old).await, (401, Some("unauthenticated".into())), "its key is gone");
}
