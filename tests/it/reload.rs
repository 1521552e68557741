//! New settings on a gateway that runs: in force whole or not at all, and no request is lost on the way.

use std::net::SocketAddr;

use http::{HeaderName, HeaderValue};
use nexus_gateway::admin::AdminSettings;
use nexus_gateway::admission::Trust;
use nexus_gateway::config::Settings;
use nexus_gateway::nexus::ErrorType;
use nexus_gateway::route::{PolicyRule, TokenRule};
use nexus_gateway::run::ApplyError;
use nexus_gateway::server::ListenerSettings;
use nexus_gateway::telemetry::{LogSettings, LogTarget};

use crate::harness::*;

const TOO_LARGE: Expected = failure("request_too_large", ErrorType::BadRequest, false);
const ABSENT: Expected = failure("unknown_endpoint", ErrorType::NotFound, false);

fn small_requests() -> PolicyRule {
    PolicyRule { max_request_body: Some(1), ..PolicyRule::default() }
}

fn listener(address: SocketAddr) -> ListenerSettings {
    ListenerSettings::plain(address, Trust::Trusted)
}

/// Another loopback address than the one that tests listen on at first.
fn elsewhere() -> SocketAddr {
    ([127, 0, 0, 2], 0).into()
}

#[tokio::test]
async fn a_new_policy_holds_for_the_next_request_and_connections_to_targets_stay() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    assert_eq!(caller.call(&start("pay")).await.status(), 200);
    gateway.running.apply(under(leading_to(&handler), small_requests())).await.expect("it can be applied");
    TOO_LARGE.assert_is(&caller.call(&start("pay")).await, "two bytes");
    assert_eq!(caller.call(&start("pay").body("1")).await.status(), 200);
    assert_eq!(handler.connections(), 1);
}

#[tokio::test]
async fn endpoints_come_and_go() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let endpoints = vec![external("ship", &handler.url())];
    gateway.running.apply(Settings { endpoints, ..settings() }).await.expect("it can be applied");
    ABSENT.assert_is(&gateway.call(&start("pay")).await, "gone");
    assert_eq!(gateway.call(&start("ship")).await.status(), 200);
}

#[tokio::test]
async fn clusters_come_and_go() {
    let (a, b) = (Cluster::serving(vec![listed("of-a", 1)]), Cluster::serving(vec![listed("of-b", 2)]));
    let gateway = Gateway::serving(&a).await;
    assert_eq!(gateway.call(&start("of-a")).await.status(), 200);
    let clusters = vec![discovered("b", b.url())];
    gateway.running.apply(Settings { clusters, ..settings() }).await.expect("it can be applied");
    assert_eq!(gateway.call(&start("of-b")).await.status(), 200);
    let answer = gateway.call(&start(&id(1))).await;
    ABSENT.assert_is(&answer, "its cluster is gone");
}

#[tokio::test]
async fn a_request_in_flight_ends_as_it_began() {
    let gate = Gate::new();
    let handler = Handler::acting(vec![Act::Wait(gate.clone()), ok().into()]);
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    caller.send(start("pay").bytes()).await;
    handler.wait_for(1).await;
    let moved = Settings { listen: vec![listener(elsewhere())], ..settings() };
    gateway.running.apply(moved).await.expect("it can be applied");
    gate.open();
    assert_eq!(caller.answer().await.status(), 200);
    // Its listener is gone. Whether the answer says so already depends on which of the two comes first.
    caller.closed().await;
}

#[tokio::test]
async fn who_was_let_in_on_other_terms_is_let_go() {
    let gate = Gate::new();
    let handler = Handler::acting(vec![Act::Wait(gate.clone()), ok().into()]);
    let mut settings = leading_to(&handler);
    settings.listen.push(listener(elsewhere()));
    // What closes the idle ones has told the other one, too.
    settings.server.workers = 1;
    let gateway = Gateway::start(settings.clone()).await;
    let other = *gateway.running.data_addresses().last().expect("there are two");
    let (mut busy, idle, silent) = (gateway.connect().await, gateway.connect().await, gateway.connect().await);
    let mut elsewhere = Caller::connect(other).await;
    busy.send(start("pay").bytes()).await;
    handler.wait_for(1).await;
    gateway.counts("nexus_gateway_connections", &[], 4.0).await;
    settings.listen[0].trust = Trust::Untrusted;
    gateway.running.apply(settings).await.expect("it can be applied");
    idle.closed().await;
    silent.closed().await;
    gate.open();
    let answer = busy.answer().await;
    assert_eq!((answer.status(), answer.header("connection")), (200, Some("close")), "what is in flight is answered");
    busy.closed().await;
    assert_eq!(elsewhere.call(&start("pay")).await.status(), 200, "the other listener is as it was");
}

#[tokio::test]
async fn who_does_not_go_is_cut_when_its_grace_is_over() {
    let handler = Handler::acting(vec![Act::Stall]);
    let mut settings = leading_to(&handler);
    settings.server.grace = std::time::Duration::from_millis(100);
    let gateway = Gateway::start(settings.clone()).await;
    let mut stuck = gateway.connect().await;
    stuck.send(start("pay").bytes()).await;
    handler.wait_for(1).await;
    settings.listen[0].trust = Trust::Untrusted;
    gateway.running.apply(settings).await.expect("it can be applied");
    stuck.closed().await;
    gateway.counts("nexus_gateway_requests_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn a_listener_can_move() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let before = gateway.data();
    let moved = Settings { listen: vec![listener(elsewhere())], ..leading_to(&handler) };
    gateway.running.apply(moved).await.expect("it can be applied");
    assert_eq!(gateway.data().ip(), elsewhere().ip());
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    refused_at(before).await;
}

#[tokio::test]
async fn the_admin_port_can_move() {
    let gateway = Gateway::start(settings()).await;
    gateway
        .running
        .apply(Settings { admin: AdminSettings::at(elsewhere()), ..settings() })
        .await
        .expect("it can be applied");
    assert_eq!(gateway.running.admin_address().ip(), elsewhere().ip());
    assert_eq!(gateway.admin("/healthz").await.status(), 200);
}

#[tokio::test]
async fn a_listeners_trust_can_change() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let mut distrusting = leading_to(&handler);
    distrusting.listen[0].trust = Trust::Untrusted;
    gateway.running.apply(distrusting).await.expect("it can be applied");
    gateway.call(&start("pay").header("caller-name", "x")).await;
    assert_eq!(handler.request().header("caller-name"), None);
}

#[tokio::test]
async fn settings_that_cannot_be_put_in_force_change_nothing() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let (data, admin) = (gateway.data(), gateway.running.admin_address());
    // Each wants a small limit and another listener, too.
    let changed = || Settings { listen: vec![listener(elsewhere())], ..under(leading_to(&handler), small_requests()) };
    let taken = listener(handler.address);
    let nowhere = LogTarget::File("/no/such/folder/access.log".into());
    for refused in [
        Settings { listen: vec![listener(elsewhere()), taken], ..changed() },
        Settings { admin: AdminSettings::at(handler.address), ..changed() },
        Settings { log: LogSettings { access_log: Some(nowhere), ..LogSettings::default() }, ..changed() },
        Settings { admin: AdminSettings::at(elsewhere()), listen: vec![listener(handler.address)], ..changed() },
    ] {
        let outcome = gateway.running.apply(refused).await;
        assert!(matches!(outcome, Err(ApplyError::Bind { .. } | ApplyError::Log { .. })), "{outcome:?}");
        assert_eq!((gateway.running.data_addresses(), gateway.running.admin_address()), (vec![data], admin));
        assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    }
}

#[tokio::test]
async fn what_needs_a_key_that_cannot_be_read_changes_no_log() {
    let (handler, state) = (Handler::answering(ok()), tempfile::tempdir().expect("a temporary folder"));
    std::fs::write(state.path().join("callback-key"), "damaged").expect("it can be written");
    let (before, after) = (LogFile::new(), LogFile::new());
    let logging = |log: &LogFile, settings: Settings| {
        let log = LogSettings { access_log: Some(log.target()), ..LogSettings::default() };
        Settings { state: Some(state.path().into()), log, ..settings }
    };
    let gateway = Gateway::start(logging(&before, leading_to(&handler))).await;
    let sealed = PolicyRule { tokens: Some(TokenRule::Sealed), ..PolicyRule::default() };
    let outcome = gateway.running.apply(logging(&after, under(leading_to(&handler), sealed))).await;
    assert!(matches!(outcome, Err(ApplyError::Key(_))), "{outcome:?}");
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    before.lines(1).await;
    assert_eq!(after.text(), "");
}

/// As whenever a certificate that is shown to a cluster is changed.
#[tokio::test]
async fn a_key_that_was_made_for_lack_of_one_outlives_what_changes_beside_it() {
    let handler = starting();
    let known = Known::new(&[("orders", None)]);
    let shown = |value: &'static str| {
        let mut cluster = undiscovered("home", &[handler.url()]);
        cluster.outward.headers = vec![(HeaderName::from_static("x-shown"), HeaderValue::from_static(value))];
        known.under(Settings { clusters: vec![cluster], ..leading_to(&handler) }, vec![everybody()])
    };
    let gateway = Gateway::stateless(shown("one")).await;
    let token = token_of(&gateway.call(&known.by("orders", start("pay"))).await);
    for other in ["two", "three"] {
        gateway.running.apply(shown(other)).await.expect("it can be applied");
        assert_eq!(gateway.call(&known.by("orders", cancel_of(&token))).await.status(), 202);
    }
    let mut configured = shown("four");
    configured.callbacks.keys = vec![seal_key("k1")];
    gateway.running.apply(configured).await.expect("it can be applied");
    gateway.counts("nexus_gateway_callback_keys_dropped_total", &[], 1.0).await;
}

#[tokio::test]
async fn no_request_fails_while_settings_change_all_the_time() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let address = gateway.data();
    let calling = tokio::spawn(async move {
        let mut caller = Caller::connect(address).await;
        for _ in 0..300 {
            let answer = caller.call(&start("pay")).await;
            assert_eq!(answer.status(), 200, "{}", answer.text());
        }
    });
    let mut limit = 1000;
    while !calling.is_finished() {
        limit += 1;
        let rule = PolicyRule { max_response_body: Some(limit), ..PolicyRule::default() };
        let mut settings = under(leading_to(&handler), rule);
        settings.upstream.max_idle = limit;
        gateway.running.apply(settings).await.expect("it can be applied");
        tokio::task::yield_now().await;
    }
    calling.await.expect("every request is answered");
}
