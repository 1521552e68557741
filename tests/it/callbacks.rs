//! Completions through the gateway: sealed on the start, opened on the way back, and carried to the caller's cluster.

use nexus_gateway::callback::CallbackSettings;
use nexus_gateway::callback::seal::Key;
use nexus_gateway::config::Settings;
use nexus_gateway::credentials::Pass;
use nexus_gateway::nexus::ErrorType;
use nexus_gateway::route::PolicyRule;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::harness::*;

const BAD_SEAL: Expected = failure("bad_seal", ErrorType::BadRequest, false);
const BAD_CALLBACK: Expected = failure("bad_callback", ErrorType::BadRequest, false);
const UNKNOWN_KEY: Expected = failure("unknown_key", ErrorType::Unavailable, true);
const UNKNOWN_TOKEN: Expected = failure("unknown_token", ErrorType::NotFound, false);
const RELAY_OFF: Expected = failure("relay_off", ErrorType::Unavailable, true);
const UNREACHABLE: Expected = failure("upstream_unreachable", ErrorType::Unavailable, true);
const TOKEN: &str = "{\"v\":1,\"d\":\"planted-callback-token\"}";

fn key(id: &str) -> Key {
    seal_key(id)
}

fn relaying(handler: &Handler, keys: Vec<Key>) -> Settings {
    let mut settings = crate::harness::relaying(&handler.url());
    settings.callbacks.keys = keys;
    settings
}

/// A start whose callback is `path` at `home`.
fn start_from(home: &Handler, path: &str) -> Request {
    let callback = utf8_percent_encode(&format!("{}{path}", home.url()), NON_ALPHANUMERIC).to_string();
    to(format!("/nexus/endpoints/pay/services/Svc/op?callback={callback}&more=1"))
        .header("Content-Type", "application/json")
        .header("Nexus-Callback-Temporal-Callback-Token", TOKEN)
        .header("Nexus-Callback-Source", "somewhere")
        .body(PAYLOAD)
}

fn started() -> String {
    json("201 Created", "{\"token\":\"planted-handlers-own\",\"state\":\"running\"}")
}

/// What the handler's cluster sends when the operation has ended.
fn completion(handler: &Handler) -> Request {
    let start = &handler.requests()[0];
    let token = start.header("nexus-callback-temporal-callback-token").expect("a token").to_owned();
    to(sealed_path(start))
        .header("Nexus-Operation-State", "succeeded")
        .header("Nexus-Operation-Token", "planted-handlers-own")
        .header("Temporal-Callback-Token", &token)
        .header("Nexus-Link", "<temporal:///a>; type=\"a.B\"")
        .header("Content-Type", "application/json")
        .body(RESULT)
}

#[tokio::test]
async fn a_completion_comes_home_as_it_was_meant_to() {
    let (handler, home) = (Handler::answering(started()), Handler::answering(answer("200 OK", &[], "")));
    let gateway = Gateway::start(relaying(&handler, vec![key("one")])).await;
    let first = gateway.call(&start_from(&home, "/namespaces/ns/nexus/callback?x=1")).await;
    assert_eq!(first.status(), 201);
    let seen = handler.request();
    let shown = format!("{} {seen:?}", seen.target());
    for secret in [&home.address.to_string(), "namespaces", "c2VjcmV0", "somewhere"] {
        assert!(!shown.contains(secret), "the handler is shown {secret}: {shown}");
    }
    assert!(seen.target().ends_with("&more=1"));

    assert_eq!(gateway.call(&completion(&handler)).await.status(), 200);
    let arrived = home.request();
    assert_eq!(arrived.target(), "/namespaces/ns/nexus/callback?x=1");
    assert_eq!(arrived.header("temporal-callback-token"), Some(TOKEN));
    assert_eq!(arrived.header("nexus-link"), Some("<temporal:///a>; type=\"a.B\""));
    assert_eq!((arrived.header("content-type"), arrived.text()), (Some("application/json"), RESULT.into()));
    let told: serde_json::Value = serde_json::from_slice(&first.body).expect("JSON");
    assert_eq!(arrived.header("nexus-operation-token"), told["token"].as_str(), "the token that the caller knows");
    gateway.counts("nexus_gateway_callbacks_sealed_total", &[("endpoint", "pay")], 1.0).await;
    let labels = [("endpoint", "pay"), ("operation", "op"), ("method", "complete"), ("outcome", "delivered")];
    gateway.counts("nexus_gateway_requests_total", &labels, 1.0).await;
    gateway
        .counts("nexus_gateway_completion_lag_seconds_count", &[("endpoint", "pay"), ("operation", "op")], 1.0)
        .await;
}

#[tokio::test]
async fn a_cancel_goes_where_its_operation_was_started() {
    let (first, second) = (starting(), starting());
    let gateway = Gateway::start(relaying(&first, vec![key("one")])).await;
    let token = &*token_of(&gateway.call(&start_from(&first, "/callback")).await);
    assert_ne!(token, "planted-handlers-own");

    gateway.running.apply(relaying(&second, vec![key("one")])).await.expect("it can be applied");
    assert_eq!(gateway.call(&cancel_of(token)).await.status(), 202);
    assert_eq!((first.requests().len(), second.requests().len()), (2, 0));
    assert_eq!(first.requests()[1].header("nexus-operation-token"), Some("planted-handlers-own"));

    assert_eq!(gateway.call(&cancel_of("planted-somebody-elses")).await.status(), 202);
    assert_eq!(second.requests()[0].header("nexus-operation-token"), Some("planted-somebody-elses"), "it is not ours");
    let mut forged = token.to_owned();
    forged.replace_range(forged.len() - 1.., if forged.ends_with('A') { "B" } else { "A" });
    UNKNOWN_TOKEN.assert_is(&gateway.call(&cancel_of(&forged)).await, "forged");
}

#[tokio::test]
async fn what_was_not_sealed_here_is_refused_without_a_hint() {
    let (handler, home) = (Handler::answering(started()), Handler::answering(answer("200 OK", &[], "")));
    let gateway = Gateway::start(relaying(&handler, vec![key("one")])).await;
    gateway.call(&start_from(&home, "/callback")).await;
    let good = sealed_path(&handler.requests()[0]);
    let mut flipped = good.clone();
    flipped
        .replace_range(good.len() - 3..good.len() - 2, if good.as_bytes()[good.len() - 3] == b'A' { "B" } else { "A" });
    let mut said = Vec::new();
    for path in [flipped, "/nexus/callback/nonsense".into(), good[..good.len() - 4].to_owned()] {
        let refused = gateway.call(&to(path.clone()).header("Nexus-Operation-State", "succeeded")).await;
        BAD_SEAL.assert_is(&refused, &path);
        said.push(refused.text());
    }
    assert!(said.windows(2).all(|two| two[0] == two[1]), "{said:?}");
    assert!(home.requests().is_empty());
}

#[tokio::test]
async fn keys_are_changed_without_losing_a_completion() {
    let (handler, home) = (Handler::answering(started()), Handler::answering(answer("200 OK", &[], "")));
    let gateway = Gateway::start(relaying(&handler, vec![key("one")])).await;
    gateway.call(&start_from(&home, "/callback")).await;
    gateway.running.apply(relaying(&handler, vec![key("other"), key("one")])).await.expect("it can be applied");
    assert_eq!(gateway.call(&completion(&handler)).await.status(), 200);
    // A replica that has not read the new keys yet: the sender tries again.
    gateway.running.apply(relaying(&handler, vec![key("other")])).await.expect("it can be applied");
    UNKNOWN_KEY.assert_is(&gateway.call(&completion(&handler)).await, "the key is not here");
    gateway.counts("nexus_gateway_callback_keys_dropped_total", &[], 1.0).await;
}

#[tokio::test]
async fn a_destination_that_is_down_is_no_reason_to_give_up() {
    let (handler, reserved) = (Handler::answering(started()), Reserved::new());
    let gateway = Gateway::start(relaying(&handler, vec![key("one")])).await;
    let callback = utf8_percent_encode(&format!("http://{}/callback", reserved.address), NON_ALPHANUMERIC).to_string();
    let start = to(format!("/nexus/endpoints/pay/services/Svc/op?callback={callback}"))
        .header("Nexus-Callback-Temporal-Callback-Token", TOKEN);
    assert_eq!(gateway.call(&start).await.status(), 201);
    let hasty = completion(&handler).header("Request-Timeout", "2s");
    UNREACHABLE.assert_is(&gateway.call(&hasty).await, "nobody listens");
    let mut waiting = gateway.connect().await;
    waiting.send(completion(&handler).bytes()).await;
    gateway.counts("nexus_gateway_waiting", &[("stage", "upstream")], 1.0).await;
    let home = Handler::on(reserved, |_| vec![answer("200 OK", &[], "").into()]);
    assert_eq!(waiting.answer().await.status(), 200);
    assert_eq!(home.requests().len(), 1);
}

#[tokio::test]
async fn what_the_callers_cluster_says_of_a_completion_passes() {
    let gone = handler_error("404 Not Found", "NOT_FOUND", None, &[]);
    let busy = handler_error("503 Service Unavailable", "UNAVAILABLE", None, &[]);
    for said in [gone, busy] {
        let (handler, home) = (Handler::answering(started()), Handler::answering(said.clone()));
        let gateway = Gateway::start(relaying(&handler, vec![key("one")])).await;
        gateway.call(&start_from(&home, "/callback")).await;
        assert_passed(&said, &gateway.call(&completion(&handler)).await);
        assert_eq!(home.requests().len(), 1);
    }
}

#[tokio::test]
async fn a_callback_that_may_not_be_sent_to_is_refused_at_the_start() {
    let handler = Handler::answering(started());
    let gateway = Gateway::start(relaying(&handler, vec![key("one")])).await;
    for url in
        ["http://10.0.0.1/", "http://user@127.0.0.1/", "ftp://127.0.0.1/", "temporal://system", "http://2130706433/"]
    {
        let callback = utf8_percent_encode(url, NON_ALPHANUMERIC).to_string();
        let refused = gateway.call(&to(format!("/nexus/endpoints/pay/services/Svc/op?callback={callback}"))).await;
        BAD_CALLBACK.assert_is(&refused, url);
    }
    let long = utf8_percent_encode(&format!("http://127.0.0.1:1/{}", "x".repeat(800)), NON_ALPHANUMERIC).to_string();
    let refused = gateway.call(&to(format!("/nexus/endpoints/pay/services/Svc/op?callback={long}"))).await;
    BAD_CALLBACK.assert_is(&refused, "too long");
    assert!(handler.requests().is_empty());
}

/// Else a caller could have the gateway's own rights there.
#[tokio::test]
async fn a_cluster_is_sent_completions_at_its_callback_routes_only() {
    let (handler, home) = (Handler::answering(started()), Handler::answering(answer("200 OK", &[], "")));
    let clusters = vec![undiscovered("home", &[format!("{}/base", home.url())])];
    let open = Settings { clusters, ..relaying(&handler, vec![key("one")]) };
    let mut strict = open.clone();
    strict.callbacks.allow = Vec::new();
    let gateway = Gateway::start(strict.clone()).await;
    let other = "/base/api/v1/namespaces/pay/workflows/w/terminate";
    BAD_CALLBACK.assert_is(&gateway.call(&start_from(&home, other)).await, "at the start");
    assert!(handler.requests().is_empty());

    gateway.running.apply(open).await.expect("it can be applied");
    assert_eq!(gateway.call(&start_from(&home, other)).await.status(), 201, "an entry is for any path");
    gateway.running.apply(strict.clone()).await.expect("it can be applied");
    let refused = gateway.call(&completion(&handler)).await;
    assert_eq!(refused.header("nexus-gateway-failure"), Some("destination_forbidden"), "{}", refused.text());
    assert!(home.requests().iter().all(|seen| seen.target() != other));

    let sealed = Handler::answering(started());
    let settings = Settings { endpoints: leading_to(&sealed).endpoints, ..strict };
    gateway.running.apply(settings).await.expect("it can be applied");
    assert_eq!(gateway.call(&start_from(&home, "/base/namespaces/pay/nexus/callback")).await.status(), 201);
    assert_eq!(gateway.call(&completion(&sealed)).await.status(), 200);
    assert!(home.requests().iter().any(|seen| seen.target() == "/base/namespaces/pay/nexus/callback"));
}

#[tokio::test]
async fn completions_are_left_alone_where_the_policy_says_so() {
    let (handler, home) = (Handler::answering(started()), Handler::answering(answer("200 OK", &[], "")));
    let rule = PolicyRule { relay: Some(false), ..PolicyRule::default() };
    let gateway = Gateway::start(under(relaying(&handler, vec![key("one")]), rule)).await;
    assert_passed(&started(), &gateway.call(&start_from(&home, "/callback")).await);
    assert!(handler.request().target().contains(&home.address.port().to_string()));
}

#[tokio::test]
async fn completions_for_the_home_cluster_pass_as_they_are_where_there_is_one() {
    let cluster = Handler::answering(answer("200 OK", &[], ""));
    let clusters = vec![undiscovered("home", &[format!("{}/base", cluster.url())])];
    let paths = ["/nexus/callback", "/namespaces/a%20b/nexus/callback?x=%2F"];
    let without = Gateway::start(Settings { clusters: clusters.clone(), ..settings() }).await;
    let request = |path: &str| {
        let token = ("Temporal-Callback-Token", TOKEN);
        to(path).headers([("Nexus-Operation-State", "succeeded"), token]).body(RESULT)
    };
    for path in paths {
        RELAY_OFF.assert_is(&without.call(&request(path)).await, path);
    }
    let callbacks = CallbackSettings { home: Some("home".into()), ..CallbackSettings::default() };
    let gateway = Gateway::start(Settings { clusters, callbacks, ..settings() }).await;
    for path in paths {
        assert_eq!(gateway.call(&request(path)).await.status(), 200);
    }
    // Whoever asks for the cluster's id is no completion.
    let is_completion = |request: &Message| !request.target().contains("/api/");
    let seen: Vec<_> = cluster.requests().into_iter().filter(is_completion).collect();
    let targets: Vec<_> = seen.iter().map(|request| request.target().to_owned()).collect();
    assert_eq!(targets, paths.map(|path| format!("/base{path}")));
    assert!(seen.iter().all(|request| request.header("temporal-callback-token") == Some(TOKEN)));
}

#[tokio::test]
async fn what_the_sender_of_a_completion_shows_reaches_the_home_cluster_only_where_that_is_asked_for() {
    let cluster = Handler::answering(answer("200 OK", &[], ""));
    let callbacks = CallbackSettings { home: Some("home".into()), ..CallbackSettings::default() };
    let completion = to("/namespaces/ns/nexus/callback?x=1")
        .headers([("Nexus-Operation-State", "succeeded"), ("Temporal-Callback-Token", TOKEN)])
        .headers([("Authorization", "Bearer planted-senders"), ("Cookie", "a=planted-cookie")])
        .body(RESULT);
    for pass in [(false, false), (true, false), (false, true), (true, true)] {
        let mut home = undiscovered("home", &[cluster.url()]);
        home.outward.pass = Pass { authorization: pass.0, cookie: pass.1 };
        let settings = Settings { clusters: vec![home], callbacks: callbacks.clone(), ..settings() };
        let gateway = Gateway::start(settings).await;
        assert_eq!(gateway.call(&completion).await.status(), 200);
        let is_completion = |request: &Message| !request.target().contains("/api/");
        let seen = cluster.requests().into_iter().rfind(is_completion).expect("a completion");
        let shown = |name| seen.header(name).is_some();
        assert_eq!((shown("authorization"), shown("cookie")), pass);
        assert_eq!(seen.header("temporal-callback-token"), Some(TOKEN));
    }
}

#[tokio::test]
async fn the_access_log_joins_a_completion_with_its_start() {
    let (handler, home) = (Handler::answering(started()), Handler::answering(answer("200 OK", &[], "")));
    let file = LogFile::new();
    let mut settings = relaying(&handler, vec![key("one")]);
    settings.log.access_log = Some(file.target());
    let gateway = Gateway::start(settings).await;
    gateway.call(&start_from(&home, "/callback").header("Nexus-Request-Id", "id-of-the-start")).await;
    gateway.call(&completion(&handler)).await;
    let lines = file.lines(2).await;
    assert_eq!(lines.len(), 2);
    for (line, method) in lines.iter().zip(["start", "complete"]) {
        let told = [&line["method"], &line["request_id"], &line["endpoint"], &line["operation"]];
        assert_eq!(told, [method, "id-of-the-start", "pay", "op"]);
    }
}

#[tokio::test]
async fn a_known_cluster_may_mean_itself_by_its_system_callback() {
    let (handler, cluster) = (Handler::answering(started()), Cluster::serving(vec![listed("own", 1)]));
    let arrived = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&arrived);
    cluster.state().dispatch = std::sync::Arc::new(move |asked| {
        seen.lock().expect("not poisoned").push(asked.message.target().to_owned());
        vec![answer("200 OK", &[], "").into()]
    });
    let clusters = vec![discovered("home", cluster.url())];
    let gateway = Gateway::start(Settings { clusters, ..relaying(&handler, vec![key("one")]) }).await;
    gateway.until_ready().await;
    let callback = utf8_percent_encode("temporal://system", NON_ALPHANUMERIC).to_string();
    let start = |source: &str| {
        to(format!("/nexus/endpoints/pay/services/Svc/op?callback={callback}"))
            .header("Nexus-Callback-Temporal-Callback-Token", TOKEN)
            .header("Nexus-Callback-Source", source)
    };
    BAD_CALLBACK.assert_is(&gateway.call(&start("a-stranger")).await, "whose system?");
    assert_eq!(gateway.call(&start("cluster-home")).await.status(), 201);
    assert_eq!(gateway.call(&completion(&handler)).await.status(), 200);
    assert_eq!(*arrived.lock().expect("not poisoned"), ["/nexus/callback"]);
}

#[tokio::test]
async fn a_cancel_waits_for_a_replica_that_has_not_read_its_key_yet() {
    let handler = Handler::answering(started());
    let gateway = Gateway::start(relaying(&handler, vec![key("one")])).await;
    let token = token_of(&gateway.call(&start_from(&handler, "/callback")).await);
    gateway.running.apply(relaying(&handler, vec![key("other")])).await.expect("it can be applied");
    UNKNOWN_KEY.assert_is(&gateway.call(&cancel_of(&token)).await, "the key is not here");
}
