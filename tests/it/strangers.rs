//! Failures of the gateway's own name nothing that is inside: strangers learn what kind of thing failed, the operator and
//! callers on trusted listeners why.

use std::path::PathBuf;

use nexus_gateway::admission::Trust;
use nexus_gateway::callback::CallbackSettings;
use nexus_gateway::config::Settings;
use nexus_gateway::nexus::BaseUrl;
use nexus_gateway::server::ListenerSettings;
use nexus_gateway::telemetry::LogTarget;
use serde_json::Value;

use crate::harness::*;

/// What a request comes to on a listener of this trust: the message that the caller gets, and the detail in the access
/// log.
async fn told(settings: &Settings, trust: Trust, request: &Request, reason: &str) -> (String, String) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let log: PathBuf = folder.path().join("access.log");
    let mut settings = settings.clone();
    settings.listen = vec![ListenerSettings::plain(([127, 0, 0, 1], 0).into(), trust)];
    settings.log.access_log = Some(LogTarget::File(log.clone()));
    let gateway = Gateway::start(settings).await;
    let answer = gateway.call(request).await;
    assert_eq!(answer.header("nexus-gateway-failure"), Some(reason), "{answer:?} {}", answer.text());
    let line = || std::fs::read_to_string(&log).unwrap_or_default();
    eventually(|| line().contains(reason)).await;
    let line: Value = serde_json::from_str(line().lines().next().unwrap_or_default()).expect("a line of JSON");
    let failure: Value = serde_json::from_slice(&answer.body).expect("a failure");
    (failure["message"].as_str().unwrap_or_default().into(), line["detail"].as_str().unwrap_or_default().into())
}

/// Fails unless `request` fails for `reason`, and `why` is in what the operator and trusted callers are told, but none of
/// `inside` in what strangers are.
async fn assert_discreet(settings: &Settings, request: &Request, reason: &str, why: &str, inside: &[&str]) {
    let (message, detail) = told(settings, Trust::Untrusted, request, reason).await;
    assert!(!message.is_empty() && detail.contains(why), "{reason}: {message:?}, {detail:?}");
    for inside in inside.iter().chain(&[why, "127.0.0.1", "http:", "https:"]) {
        assert!(!message.contains(inside), "{reason}: a stranger is told of {inside:?}: {message}");
    }
    let (message, _) = told(settings, Trust::Trusted, request, reason).await;
    assert!(message.contains(why), "{reason}: {message}");
}

#[tokio::test]
async fn where_a_target_is_and_how_it_failed_is_not_told_to_strangers() {
    let pay = start("pay");
    let lost = Reserved::new();
    let port = lost.address.port().to_string();
    let down = unheld(Settings { endpoints: vec![external("pay", &format!("http://{}", lost.address))], ..settings() });
    assert_discreet(&down, &pay, "upstream_unreachable", &port, &[]).await;

    for (act, reason) in [(Act::Close, "upstream_reset"), ("nonsense\r\n\r\n".into(), "upstream_malformed")] {
        let handler = Handler::acting(vec![act]);
        let port = handler.address.port().to_string();
        assert_discreet(&unheld(leading_to(&handler)), &pay, reason, &port, &[]).await;
    }

    let plain = Handler::answering(ok());
    let url = format!("https://{}", plain.address);
    let no_tls = unheld(Settings { endpoints: vec![external("pay", &url)], ..settings() });
    let port = plain.address.port().to_string();
    assert_discreet(&no_tls, &pay, "upstream_unreachable", "TLS handshake", &[&port]).await;

    let cluster = Cluster::serving(vec![listed("pay", 1)]).answering(answer("404 Not Found", &[], "sorry"));
    let settings = Settings { clusters: vec![discovered("home", cluster.url())], ..settings() };
    assert_discreet(&settings, &pay, "upstream_not_nexus", "Temporal frontend", &["home"]).await;
}

#[tokio::test]
async fn which_registry_could_not_be_asked_is_not_told_to_strangers() {
    let cluster = Cluster::serving(vec![]);
    cluster.state().mood = Mood::Gone;
    let settings = Settings { clusters: vec![discovered("home", cluster.url())], ..settings() };
    let reason = "registry_unavailable";
    assert_discreet(&settings, &start("pay"), reason, "cluster home", &["/api/v1"]).await;
}

#[tokio::test]
async fn where_completions_may_go_is_not_told_to_strangers() {
    let handler = Handler::answering(json("201 Created", "{\"token\":\"planted-token\",\"state\":\"running\"}"));
    let public_url = Some(BaseUrl::parse("http://gateway.test:7280").expect("a URL"));
    let callbacks = CallbackSettings { public_url, keys: vec![seal_key("one")], ..CallbackSettings::default() };
    let settings = Settings { callbacks, ..leading_to(&handler) };
    let request = to("/nexus/endpoints/pay/services/Svc/op?callback=http%3A%2F%2Flocalhost%3A1%2Fx").body(PAYLOAD);
    assert_discreet(&settings, &request, "bad_callback", "callbacks.allow", &["localhost", "loopback"]).await;
}
