//! A target that is down: requests wait for it, as long as their time allows.

use nexus_gateway::config::Settings;
use nexus_gateway::nexus::ErrorType;
use nexus_gateway::route::PolicyRule;

use crate::harness::*;

const UNREACHABLE: Expected = failure("upstream_unreachable", ErrorType::Unavailable, true);
const WAITING: [(&str, &str); 1] = [("stage", "upstream")];

fn leading_nowhere(reserved: &Reserved) -> Settings {
    Settings { endpoints: vec![external("pay", &format!("http://{}", reserved.address))], ..settings() }
}

#[tokio::test]
async fn requests_wait_for_a_target_that_is_down_and_go_when_it_is_back() {
    let reserved = Reserved::new();
    let gateway = Gateway::start(leading_nowhere(&reserved)).await;
    let mut callers = Vec::new();
    for _ in 0..20 {
        let mut caller = gateway.connect().await;
        caller.send(start("pay").bytes()).await;
        callers.push(caller);
    }
    gateway.counts("nexus_gateway_waiting", &WAITING, 20.0).await;
    let handler = Handler::on(reserved, |_| vec![ok().into()]);
    for mut caller in callers {
        assert_eq!(caller.answer().await.status(), 200);
    }
    assert_eq!(handler.requests().len(), 20, "each was sent once");
    gateway.counts("nexus_gateway_waiting", &WAITING, 0.0).await;
    gateway.counts("nexus_gateway_wait_seconds_count", &WAITING, 20.0).await;
}

#[tokio::test]
async fn a_caller_that_leaves_waits_no_more() {
    let reserved = Reserved::new();
    let gateway = Gateway::start(leading_nowhere(&reserved)).await;
    let mut caller = gateway.connect().await;
    caller.send(start("pay").bytes()).await;
    gateway.counts("nexus_gateway_waiting", &WAITING, 1.0).await;
    drop(caller);
    gateway.counts("nexus_gateway_waiting", &WAITING, 0.0).await;
    gateway.counts("nexus_gateway_requests_in_flight", &[], 0.0).await;
}

#[tokio::test]
async fn a_policy_may_refuse_instead() {
    let reserved = Reserved::new();
    let rule = PolicyRule { hold: Some(false), ..PolicyRule::default() };
    let gateway = Gateway::start(under(leading_nowhere(&reserved), rule)).await;
    for _ in 0..2 {
        UNREACHABLE.assert_is(&gateway.call(&start("pay")).await, "refused");
    }
    gateway.counts("nexus_gateway_wait_seconds_count", &WAITING, 0.0).await;
}

#[tokio::test]
async fn a_request_with_less_than_the_floor_is_not_held() {
    let reserved = Reserved::new();
    let gateway = Gateway::start(leading_nowhere(&reserved)).await;
    UNREACHABLE.assert_is(&gateway.call(&start("pay").header("Request-Timeout", "2s")).await, "little time");
    gateway.counts("nexus_gateway_wait_seconds_count", &WAITING, 0.0).await;
}

#[tokio::test]
async fn an_address_is_taken_out_by_hand_and_given_back() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    let steer = |verb: &str| {
        let (upstream, address) = (handler.address, handler.address);
        to(format!("/addresses/{verb}?upstream={upstream}&address={address}")).header("Nexus-Gateway-Admin", "true")
    };
    assert_eq!(gateway.ask_admin(&steer("down")).await.status(), 200);
    gateway.counts("nexus_gateway_upstream_addresses", &[("state", "down")], 1.0).await;
    let mut held = gateway.connect().await;
    held.send(start("pay").bytes()).await;
    gateway.counts("nexus_gateway_waiting", &WAITING, 1.0).await;
    assert_eq!(gateway.ask_admin(&steer("auto")).await.status(), 200);
    assert_eq!(held.answer().await.status(), 200);
}

#[tokio::test]
async fn a_target_that_is_down_does_not_use_up_what_its_neighbours_need() {
    let (reserved, handler) = (Reserved::new(), Handler::answering(ok()));
    let mut settings = leading_nowhere(&reserved);
    settings.endpoints.push(external("ship", &handler.url()));
    settings.server.process.max_in_flight = 4;
    let gateway = Gateway::start(settings).await;
    let mut held = Vec::new();
    for waiting in [1.0, 2.0] {
        let mut caller = gateway.connect().await;
        caller.send(start("pay").bytes()).await;
        gateway.counts("nexus_gateway_waiting", &WAITING, waiting).await;
        held.push(caller);
    }
    UNREACHABLE.assert_is(&gateway.call(&start("pay")).await, "half of all places are taken by those that wait");
    assert_eq!(gateway.call(&start("ship")).await.status(), 200);
}
