//! Starts that do not get through: answered 201, kept, finished when their target is able, completed at the caller's.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use nexus_gateway::callback::destination::Allowed;
use nexus_gateway::config::Settings;
use nexus_gateway::nexus::ErrorType;
use nexus_gateway::resilience::RetrySettings;
use nexus_gateway::resilience::park::{ParkOn, ParkReason, ParkSettings};
use nexus_gateway::route::{PolicyRule, Toggle};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::harness::handler::Seen;
use crate::harness::*;

const TOKEN: &str = "{\"v\":1,\"d\":\"planted-callback-token\"}";
const UNREACHABLE: Expected = failure("upstream_unreachable", ErrorType::Unavailable, true);

/// An endpoint `pay` that leads to `target`, under a policy that parks.
fn parking_at(target: &str, park: ParkSettings) -> Settings {
    let retry = Toggle::On(RetrySettings { attempts: 1, ..RetrySettings::default() });
    let rule = PolicyRule { park: Some(Toggle::On(park)), retry: Some(retry), ..PolicyRule::default() };
    under(relaying(target), rule)
}

fn parking(handler: &Handler) -> Settings {
    parking_at(&handler.url(), ParkSettings::default())
}

fn start_of(home: &Handler, id: &str) -> Request {
    start_at("pay", home, id)
}

fn start_at(endpoint: &str, home: &Handler, id: &str) -> Request {
    start_from("somewhere", endpoint, home, id)
}

fn start_from(source: &str, endpoint: &str, home: &Handler, id: &str) -> Request {
    let callback = utf8_percent_encode(&format!("{}/callback?x=1", home.url()), NON_ALPHANUMERIC).to_string();
    to(format!("/nexus/endpoints/{endpoint}/services/Svc/op?callback={callback}&more=1"))
        .header("Content-Type", "application/json")
        .header("Nexus-Request-Id", id)
        .header("Nexus-Callback-Temporal-Callback-Token", TOKEN)
        .header("Nexus-Callback-Source", source)
        .header("Nexus-Callback-Traceparent", "tp")
        .header("Operation-Timeout", "1h")
        .body(PAYLOAD)
}

fn caller_home() -> Handler {
    Handler::answering(answer("200 OK", &[], ""))
}

/// A handler that answers the first `failures` requests 503, and then `then`.
fn failing(failures: usize, then: String) -> Handler {
    let count = AtomicUsize::new(0);
    Handler::scripted(move |_: &Seen| {
        let failed = count.fetch_add(1, Ordering::Relaxed) < failures;
        let busy = || handler_error("503 Service Unavailable", "UNAVAILABLE", Some(true), &[]);
        vec![if failed { busy() } else { then.clone() }.into()]
    })
}

/// A handler that answers the first start of each request id 503, and then what `then` says.
fn failing_first(then: impl Fn(&Seen) -> String + Send + Sync + 'static) -> Handler {
    let known = Mutex::new(HashSet::new());
    Handler::scripted(move |seen: &Seen| {
        let id = seen.message.header("nexus-request-id").unwrap_or_default().to_owned();
        let first = known.lock().expect("no test panics with it").insert(id);
        let busy = || handler_error("503 Service Unavailable", "UNAVAILABLE", Some(true), &[]);
        vec![if first { busy() } else { then(seen) }.into()]
    })
}

#[tokio::test]
async fn an_operation_that_could_not_be_started_completes_once_its_target_is_back() {
    let (reserved, home) = (Reserved::new(), caller_home());
    let gateway = Gateway::start(parking_at(&format!("http://{}", reserved.address), ParkSettings::default())).await;
    let token = token_of(&gateway.call(&start_of(&home, "one")).await);
    assert!(token.starts_with("ngw1."));
    gateway.counts("nexus_gateway_parked", &[("endpoint", "pay"), ("state", "waiting")], 1.0).await;
    assert!(home.requests().is_empty());

    let handler = Handler::on(reserved, |_| vec![json("200 OK", "\"result\"").into()]);
    home.wait_for(1).await;
    let sent = handler.request();
    assert_eq!((sent.header("nexus-request-id"), sent.text()), (Some("one"), PAYLOAD.into()));
    assert!(sent.target().starts_with("/Svc/op?callback=http%3A%2F%2Fgateway.test%3A7280%2Fnexus%2Fcallback%2F"));
    assert!(sent.header("operation-timeout").is_some_and(|left| left != "1h"), "what is left of it");

    let arrived = home.request();
    assert_eq!(arrived.target(), "/callback?x=1");
    assert_eq!(arrived.header("nexus-operation-state"), Some("succeeded"));
    assert_eq!(arrived.header("nexus-operation-token"), Some(&*token));
    assert_eq!(arrived.header("temporal-callback-token"), Some(TOKEN));
    assert_eq!(arrived.header("traceparent"), Some("tp"));
    assert_eq!((arrived.all("content-type"), arrived.text()), (vec!["application/json"], "\"result\"".into()));
    gateway.counts("nexus_gateway_parked", &[], 0.0).await;
    gateway.counts("nexus_gateway_parked_total", &[("endpoint", "pay"), ("reason", "unreachable")], 1.0).await;
    gateway.counts("nexus_gateway_unparked_total", &[("endpoint", "pay"), ("end", "succeeded")], 1.0).await;
    for (method, outcome) in [("start", "parked"), ("resend", "succeeded"), ("deliver", "delivered")] {
        let labels = [("operation", "op"), ("method", method), ("outcome", outcome)];
        gateway.counts("nexus_gateway_requests_total", &labels, 1.0).await;
    }
}

#[tokio::test]
async fn only_starts_that_can_be_completed_and_known_again_are_parked() {
    let (reserved, home) = (Reserved::new(), caller_home());
    let target = format!("http://{}", reserved.address);
    let long = "x".repeat(65);
    let gateway = Gateway::start(parking_at(&target, ParkSettings::default())).await;
    for (request, why) in [
        (start("pay").header("Nexus-Request-Id", "one"), "no callback"),
        (start_of(&home, &long), "an id that does not fit into a seal"),
        (start_of(&home, ""), "an id that is the gateway's own"),
    ] {
        let answer = gateway.connect().await.call(&request.header("Request-Timeout", "100ms")).await;
        UNREACHABLE.assert_is(&answer, why);
    }
    token_of(&gateway.call(&start_of(&home, "one")).await);
}

#[tokio::test]
async fn only_the_ends_that_the_policy_names_lead_to_parking() {
    let home = caller_home();
    let on = |reasons: &[ParkReason]| ParkSettings { on: ParkOn::of(reasons.to_vec()), ..ParkSettings::default() };
    let busy = failing(usize::MAX, ok());
    let gateway = Gateway::start(parking_at(&busy.url(), on(&[ParkReason::Unreachable]))).await;
    assert_eq!(gateway.call(&start_of(&home, "one")).await.status(), 503);
    let gateway = Gateway::start(parking_at(&busy.url(), on(&[ParkReason::RetryableFailure]))).await;
    token_of(&gateway.call(&start_of(&home, "one")).await);
    let refusing = Handler::answering(handler_error("400 Bad Request", "BAD_REQUEST", None, &[]));
    let gateway = Gateway::start(parking(&refusing)).await;
    assert_eq!(gateway.call(&start_of(&home, "one")).await.status(), 400);
}

#[tokio::test]
async fn the_same_start_again_gets_the_same_token_and_is_not_sent_again() {
    let (handler, home) = (failing(usize::MAX, ok()), caller_home());
    let gateway = Gateway::start(parking(&handler)).await;
    let first = token_of(&gateway.call(&start_of(&home, "one")).await);
    gateway.counts("nexus_gateway_parked", &[("state", "waiting")], 1.0).await;
    let sent = handler.requests().len();
    assert_eq!(token_of(&gateway.call(&start_of(&home, "one")).await), first);
    assert_ne!(token_of(&gateway.call(&start_of(&home, "two")).await), first);
    let starts = [("method", "start"), ("outcome", "parked")];
    gateway.counts("nexus_gateway_requests_total", &starts, 3.0).await;
    gateway.counts("nexus_gateway_parked_total", &[], 2.0).await;
    assert!(handler.requests().len() > sent, "the second one was asked for");
}

#[tokio::test]
async fn each_end_of_an_operation_reaches_its_caller_as_what_it_is() {
    let error = |status: &str, state: &str, body: &str| {
        answer(status, &["Content-Type: application/json", &format!("Nexus-Operation-State: {state}")], body)
    };
    let wrapped = r#"{"message":"w","metadata":{"type":"nexus.OperationError"},"details":{"state":"failed"},"cause":{"message":"boom"}}"#;
    for (then, state, expected) in [
        (error("424 Failed Dependency", "failed", wrapped), "failed", "boom"),
        (error("424 Failed Dependency", "canceled", "{\"message\":\"stopped\"}"), "canceled", "stopped"),
        (handler_error("404 Not Found", "NOT_FOUND", None, &[]), "failed", "said by the handler"),
        (handler_error("500 Internal", "INTERNAL", Some(false), &[]), "failed", "said by the handler"),
    ] {
        let (handler, home) = (failing(1, then), caller_home());
        let gateway = Gateway::start(parking(&handler)).await;
        token_of(&gateway.call(&start_of(&home, "one")).await);
        home.wait_for(1).await;
        let arrived = home.request();
        assert_eq!(arrived.header("nexus-operation-state"), Some(state));
        assert_eq!(arrived.all("content-type"), ["application/json"]);
        let failure: serde_json::Value = serde_json::from_slice(&arrived.body).expect("JSON");
        assert_eq!(failure["message"], expected);
        gateway.counts("nexus_gateway_unparked_total", &[("end", state)], 1.0).await;
    }
}

#[tokio::test]
async fn an_operation_that_its_target_runs_completes_under_the_token_that_its_caller_knows() {
    let running = json("201 Created", "{\"token\":\"planted-handlers-own\",\"state\":\"running\"}");
    let (handler, home) = (failing(1, running), caller_home());
    let gateway = Gateway::start(parking(&handler)).await;
    let token = token_of(&gateway.call(&start_of(&home, "one")).await);
    gateway.counts("nexus_gateway_parked", &[("state", "started")], 1.0).await;
    assert!(home.requests().is_empty());

    let sent = handler.requests().pop().expect("a request");
    let completion = to(sealed_path(&sent))
        .header("Nexus-Operation-State", "succeeded")
        .header("Nexus-Operation-Token", "planted-handlers-own")
        .header("Temporal-Callback-Token", sent.header("nexus-callback-temporal-callback-token").expect("a token"))
        .body("\"late\"");
    assert_eq!(gateway.call(&completion).await.status(), 200);
    let arrived = home.request();
    assert_eq!((arrived.header("nexus-operation-token"), arrived.text()), (Some(&*token), "\"late\"".into()));
    assert_eq!(arrived.header("temporal-callback-token"), Some(TOKEN));
    // Its sender was told only when nothing was kept any more: a gateway that dies then leaves nothing behind.
    let listed: serde_json::Value = serde_json::from_slice(&gateway.admin("/parked").await.body).expect("JSON");
    assert_eq!(listed["parked"], serde_json::json!([]));
    gateway.counts("nexus_gateway_parked", &[], 0.0).await;
}

#[tokio::test]
async fn a_cancel_ends_what_waits_and_follows_what_was_sent() {
    let (reserved, home) = (Reserved::new(), caller_home());
    let gateway = Gateway::start(parking_at(&format!("http://{}", reserved.address), ParkSettings::default())).await;
    let waiting = token_of(&gateway.call(&start_of(&home, "one")).await);
    let mut answer = gateway.call(&cancel_of(&waiting)).await;
    assert_eq!((answer.status(), answer.text()), (202, String::new()));
    home.wait_for(1).await;
    assert_eq!(home.request().header("nexus-operation-state"), Some("canceled"));
    gateway.counts("nexus_gateway_parked", &[], 0.0).await;
    assert_eq!(gateway.call(&cancel_of(&waiting)).await.status(), 202, "again, after it ended");

    let sent = token_of(&gateway.call(&start_of(&home, "two")).await);
    let handler = Handler::on(reserved, |seen| {
        let canceled = seen.message.target().contains("/cancel");
        let started = || json("201 Created", "{\"token\":\"planted-handlers-own\",\"state\":\"running\"}");
        vec![if canceled { crate::harness::answer("202 Accepted", &[], "") } else { started() }.into()]
    });
    gateway.counts("nexus_gateway_parked", &[("state", "started")], 1.0).await;
    answer = gateway.call(&cancel_of(&sent)).await;
    assert_eq!(answer.status(), 202);
    assert_eq!(handler.requests()[1].header("nexus-operation-token"), Some("planted-handlers-own"));
    assert_eq!(home.requests().len(), 1);
}

#[tokio::test]
async fn a_completion_waits_for_its_caller_and_nobody_waits_for_one_that_is_stale() {
    let (reserved, handler) = (Reserved::new(), failing_first(|_| ok()));
    let down = format!("http://{}", reserved.address);
    let callback = utf8_percent_encode(&format!("{down}/callback"), NON_ALPHANUMERIC).to_string();
    let request = |id: &str| {
        to(format!("/nexus/endpoints/pay/services/Svc/op?callback={callback}")).header("Nexus-Request-Id", id).body("1")
    };
    let gateway = Gateway::start(parking(&handler)).await;
    token_of(&gateway.call(&request("one")).await);
    token_of(&gateway.call(&request("two")).await);
    gateway.counts("nexus_gateway_parked", &[("state", "done")], 2.0).await;
    let taken = AtomicUsize::new(0);
    let home = Handler::on(reserved, move |_| {
        let stale = json("404 Not Found", "{\"message\":\"stale reference\"}");
        let first = taken.fetch_add(1, Ordering::Relaxed) == 0;
        vec![if first { answer("200 OK", &[], "") } else { stale }.into()]
    });
    home.wait_for(2).await;
    gateway.counts("nexus_gateway_parked", &[], 0.0).await;
    gateway.counts("nexus_gateway_unparked_total", &[("end", "succeeded")], 1.0).await;
    gateway.counts("nexus_gateway_unparked_total", &[("end", "stale")], 1.0).await;
    assert_eq!(handler.requests().len(), 4, "each was asked twice, and its result kept");
}

#[tokio::test]
async fn what_is_parked_outlives_the_gateway_and_is_unreadable_at_rest() {
    let (reserved, home) = (Reserved::new(), caller_home());
    let state = tempfile::tempdir().expect("a temporary folder");
    let settings = || Settings {
        state: Some(state.path().into()),
        ..parking_at(&format!("http://{}", reserved.address), ParkSettings::default())
    };
    let gateway = Gateway::start(settings()).await;
    let token = token_of(&gateway.call(&start_of(&home, "one")).await);
    gateway.running.drain(std::future::pending()).await;
    for file in state.path().read_dir().expect("a folder") {
        // What was written last may move from its log into the database just now.
        let Ok(bytes) = std::fs::read(file.expect("a file").path()) else { continue };
        for secret in ["planted-secret", "c2VjcmV0", &home.address.to_string()] {
            assert!(!bytes.windows(secret.len()).any(|window| window == secret.as_bytes()), "{secret} is there");
        }
    }
    let gateway = Gateway::start(settings()).await;
    gateway.counts("nexus_gateway_parked", &[("state", "waiting")], 1.0).await;
    assert_eq!(token_of(&gateway.call(&start_of(&home, "one")).await), token);
    let _handler = Handler::on(reserved, |_| vec![ok().into()]);
    home.wait_for(1).await;
    assert_eq!(home.request().header("nexus-operation-token"), Some(&*token));
}

#[tokio::test]
async fn what_does_not_fit_is_refused_as_before() {
    let (handler, home) = (failing(usize::MAX, ok()), caller_home());
    let few = ParkSettings { max: 1, ..ParkSettings::default() };
    let gateway = Gateway::start(parking_at(&handler.url(), few)).await;
    token_of(&gateway.call(&start_of(&home, "one")).await);
    assert_eq!(gateway.call(&start_of(&home, "two")).await.status(), 503);
    gateway.counts("nexus_gateway_park_refused_total", &[("endpoint", "pay"), ("why", "endpoint_max")], 1.0).await;
}

#[tokio::test]
async fn a_start_of_an_endpoint_that_has_lost_its_name_is_not_parked_for_the_one_that_has_it() {
    let (own, home) = (Handler::answering(ok()), caller_home());
    let busy = handler_error("503 Service Unavailable", "UNAVAILABLE", Some(true), &[]);
    let cluster = Cluster::serving(vec![listed("pay", 1)]).answering(busy);
    let clusters = vec![discovered("home", cluster.url())];
    let gateway = Gateway::start(Settings { clusters, ..parking(&own) }).await;
    gateway.counts("nexus_gateway_registry_conflicts", &[], 1.0).await;
    assert_eq!(gateway.call(&start_at(&id(1), &home, "one")).await.status(), 503);
    assert!(own.requests().is_empty() && cluster.dispatched().len() == 1);
}

#[tokio::test]
async fn what_was_parked_within_a_cluster_does_not_follow_its_endpoint_out_of_it() {
    let (own, home) = (Handler::answering(ok()), caller_home());
    let busy = handler_error("503 Service Unavailable", "UNAVAILABLE", Some(true), &[]);
    let cluster = Cluster::serving(vec![listed("pay", 1)]).answering(busy);
    let clusters = vec![discovered("home", cluster.url())];
    let within = Settings { clusters: clusters.clone(), endpoints: Vec::new(), ..parking(&own) };
    let gateway = Gateway::start(within).await;
    gateway.counts("nexus_gateway_registry_endpoints", &[("source", "home")], 1.0).await;
    token_of(&gateway.call(&start_from("cluster-home", "pay", &home, "one")).await);
    let dispatched = cluster.dispatched().remove(0);
    assert!(dispatched.target().contains(&home.address.port().to_string()), "{}", dispatched.target());

    gateway.running.apply(Settings { clusters, ..parking(&own) }).await.expect("it can be applied");
    let refused = [("endpoint", "pay"), ("method", "resend"), ("outcome", "gateway_error")];
    gateway.counts_at_least("nexus_gateway_requests_total", &refused, 1.0).await;
    assert!(own.requests().is_empty());
}

#[tokio::test]
async fn an_operator_lists_releases_and_fails_what_is_parked() {
    let (reserved, home) = (Reserved::new(), caller_home());
    let gateway = Gateway::start(parking_at(&format!("http://{}", reserved.address), ParkSettings::default())).await;
    token_of(&gateway.call(&start_of(&home, "one")).await);
    let listed: serde_json::Value = serde_json::from_slice(&gateway.admin("/parked").await.body).expect("JSON");
    let row = &listed["parked"][0];
    assert_eq!((&row["endpoint"], &row["operation"]), (&"pay".into(), &"Svc/op".into()));
    assert_eq!((&row["state"], &row["reason"]), (&"waiting".into(), &"unreachable".into()));
    let id = row["id"].as_str().expect("an id");

    let path = format!("/parked/fail?id={id}&message=given%20up");
    assert_eq!(gateway.ask_admin(&to(path.clone())).await.status(), 403, "without the header");
    let released = gateway.ask_admin(&to("/parked/release?endpoint=pay").header("Nexus-Gateway-Admin", "1")).await;
    assert_eq!(released.status(), 200, "{}", released.text());
    let failed = gateway.ask_admin(&to(path).header("Nexus-Gateway-Admin", "1")).await;
    assert_eq!((failed.status(), failed.text()), (200, "{\"failed\":1,\"on_their_way\":0}".into()));
    home.wait_for(1).await;
    let arrived = home.request();
    assert_eq!(arrived.header("nexus-operation-state"), Some("failed"));
    assert!(arrived.text().contains("given up"));
}

#[tokio::test]
async fn an_operation_that_expires_while_it_is_parked_fails() {
    let (handler, home) = (failing(usize::MAX, ok()), caller_home());
    let brief = ParkSettings { max_age: std::time::Duration::from_millis(100), ..ParkSettings::default() };
    let gateway = Gateway::start(parking_at(&handler.url(), brief)).await;
    token_of(&gateway.call(&start_of(&home, "one")).await);
    home.wait_for(1).await;
    assert_eq!(home.request().header("nexus-operation-state"), Some("failed"));
    assert!(home.request().text().contains("UPSTREAM_TIMEOUT"));
    gateway.counts("nexus_gateway_unparked_total", &[("end", "expired")], 1.0).await;
    gateway.counts("nexus_gateway_parked", &[], 0.0).await;
}

#[tokio::test]
async fn a_request_that_brings_its_target_down_does_not_hold_up_those_behind_it() {
    let home = caller_home();
    let handler = failing_first(|seen| match seen.message.header("nexus-request-id") {
        Some("poison") => answer("502 Bad Gateway", &["Content-Type: text/html"], "<html>"),
        _ => ok(),
    });
    let gateway = Gateway::start(parking(&handler)).await;
    token_of(&gateway.call(&start_of(&home, "poison")).await);
    token_of(&gateway.call(&start_of(&home, "other")).await);
    home.wait_for(1).await;
    gateway.counts("nexus_gateway_unparked_total", &[("end", "succeeded")], 1.0).await;
    gateway.counts("nexus_gateway_parked", &[("state", "waiting")], 1.0).await;
}

#[tokio::test]
async fn a_result_that_its_caller_s_cluster_does_not_take_becomes_a_failure() {
    let handler = failing(1, ok());
    let home = Handler::scripted(|seen: &Seen| {
        let succeeded = seen.message.header("nexus-operation-state") == Some("succeeded");
        let refusal = || handler_error("400 Bad Request", "BAD_REQUEST", None, &[]);
        vec![if succeeded { refusal() } else { answer("200 OK", &[], "") }.into()]
    });
    let gateway = Gateway::start(parking(&handler)).await;
    token_of(&gateway.call(&start_of(&home, "one")).await);
    home.wait_for(2).await;
    let failed = home.requests().pop().expect("a request");
    assert_eq!(failed.header("nexus-operation-state"), Some("failed"));
    assert!(failed.text().contains("refused its result with status 400"), "{}", failed.text());
    gateway.counts("nexus_gateway_unparked_total", &[("end", "undeliverable")], 1.0).await;
    gateway.counts("nexus_gateway_parked", &[], 0.0).await;
}

#[tokio::test]
async fn a_cancel_that_meets_the_start_on_its_way_reaches_the_target() {
    let (home, gate) = (caller_home(), Gate::new());
    let (asked, opened) = (AtomicUsize::new(0), gate.clone());
    let handler = Handler::scripted(move |seen: &Seen| {
        if seen.message.target().contains("/cancel") {
            return vec![answer("202 Accepted", &[], "").into()];
        }
        let running = json("201 Created", "{\"token\":\"planted-handlers-own\",\"state\":\"running\"}");
        match asked.fetch_add(1, Ordering::Relaxed) {
            0 => vec![handler_error("503 Service Unavailable", "UNAVAILABLE", Some(true), &[]).into()],
            _ => vec![Act::Wait(opened.clone()), running.into()],
        }
    });
    let gateway = Gateway::start(parking(&handler)).await;
    let token = token_of(&gateway.call(&start_of(&home, "one")).await);
    handler.wait_for(2).await;
    assert_eq!(gateway.call(&cancel_of(&token)).await.status(), 202);
    assert_eq!(handler.requests().len(), 2, "its target has not said yet what to cancel");
    gate.open();
    handler.wait_for(3).await;
    let cancel = handler.requests().pop().expect("a request");
    assert_eq!(cancel.header("nexus-operation-token"), Some("planted-handlers-own"));
    gateway.counts("nexus_gateway_parked", &[("state", "started")], 1.0).await;
    assert!(home.requests().is_empty());
}

#[tokio::test]
async fn a_cancel_of_what_another_store_keeps_is_worth_trying_elsewhere() {
    let (handler, home) = (failing(usize::MAX, ok()), caller_home());
    let (here, elsewhere) = (Gateway::start(parking(&handler)).await, Gateway::start(parking(&handler)).await);
    let token = token_of(&here.call(&start_of(&home, "one")).await);
    let refused = elsewhere.call(&cancel_of(&token)).await;
    failure("park_unavailable", ErrorType::Unavailable, true).assert_is(&refused, "another store");
    assert_eq!(here.call(&cancel_of(&token)).await.status(), 202);
    home.wait_for(1).await;
}

#[tokio::test]
async fn a_start_that_a_gateway_with_the_same_keys_has_parked_is_not_parked_again() {
    let (reserved, home) = (Reserved::new(), caller_home());
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port");
    let endpoints = format!("http://{free}/nexus/endpoints/pay/services");
    let outer = Gateway::start(parking_at(&endpoints, ParkSettings::default())).await;
    token_of(&outer.call(&start_of(&home, "one")).await);

    let mut behind = parking_at(&format!("http://{}", reserved.address), ParkSettings::default());
    behind.listen[0].address = free;
    behind.callbacks.allow.push(Allowed::new("http://gateway.test:7280", true).expect("an entry"));
    let inner = Gateway::start(behind).await;
    outer.counts_at_least("nexus_gateway_requests_total", &[("method", "resend")], 1.0).await;
    inner.counts("nexus_gateway_parked_total", &[], 0.0).await;
    outer.counts("nexus_gateway_parked", &[("state", "waiting")], 1.0).await;
    let _handler = Handler::on(reserved, |_| vec![ok().into()]);
    home.wait_for(1).await;
    assert_eq!(home.request().text(), RESULT);
}
