//! Metrics: what a request came to is counted once, under labels that a caller cannot make up without bound.

use nexus_gateway::nexus::ErrorType;

use crate::harness::*;

#[tokio::test]
async fn each_outcome_has_its_name() {
    let failed = |state: &str| answer("424 x", &[&format!("Nexus-Operation-State: {state}")], "{}");
    for (request, answer, method, outcome) in [
        (start("pay"), ok(), "start", "succeeded"),
        (start("pay"), json("201 x", r#"{"token":"t","state":"running"}"#), "start", "started"),
        (start("pay"), failed("failed"), "start", "operation_failed"),
        (start("pay"), failed("canceled"), "start", "operation_canceled"),
        (start("pay"), json("400 x", r#"{"message":"m"}"#), "start", "handler_error"),
        (start("pay"), answer("502 x", &[], ""), "start", "gateway_error"),
        (cancel("pay"), answer("202 x", &[], ""), "cancel", "cancel_accepted"),
        (to("/nexus/endpoints/pay/services/Svc/op/t/cancel"), answer("202 x", &[], ""), "cancel", "cancel_accepted"),
        (cancel("pay"), json("404 x", r#"{"message":"m"}"#), "cancel", "handler_error"),
    ] {
        let handler = Handler::answering(answer);
        let gateway = Gateway::before(&handler).await;
        gateway.call(&request).await;
        let labels = [("endpoint", "pay"), ("service", "Svc"), ("operation", "op"), ("method", method)];
        let with_outcome: Vec<_> = labels.into_iter().chain([("outcome", outcome)]).collect();
        gateway.counts("nexus_gateway_requests_total", &with_outcome, 1.0).await;
        gateway.counts("nexus_gateway_requests_total", &[], 1.0).await;
        gateway.counts("nexus_gateway_request_duration_seconds_count", &labels, 1.0).await;
        gateway.counts("nexus_gateway_upstream_duration_seconds_count", &labels, 1.0).await;
        gateway.counts("nexus_gateway_requests_in_flight", &[], 0.0).await;
    }
}

#[tokio::test]
async fn handler_errors_are_counted_by_the_type_that_the_body_names() {
    let typed = |name: &str| {
        format!(r#"{{"message":"m","metadata":{{"type":"nexus.HandlerError"}},"details":{{"type":"{name}"}}}}"#)
    };
    let mut rows: Vec<_> = ErrorType::ALL.map(|kind| (json("500 x", &typed(kind.name())), kind.name())).into();
    rows.push((json("409 x", r#"{"message":"m"}"#), "CONFLICT"));
    rows.push((json("500 x", &typed("TEAPOT")), "unknown"));
    for (answer, kind) in rows {
        let handler = Handler::answering(answer);
        let gateway = Gateway::before(&handler).await;
        gateway.call(&start("pay")).await;
        gateway.counts("nexus_gateway_handler_errors_total", &[("endpoint", "pay"), ("type", kind)], 1.0).await;
    }
}

#[tokio::test]
async fn requests_to_no_endpoint_share_one_set_of_labels() {
    let gateway = Gateway::start(settings()).await;
    for request in [start("none"), start("another-one"), to("/"), get("/x")] {
        gateway.call(&request).await;
    }
    let labels = ["endpoint", "service", "operation"].map(|label| (label, "_unknown"));
    gateway.counts("nexus_gateway_requests_total", &labels, 4.0).await;
    gateway.counts("nexus_gateway_requests_total", &[], 4.0).await;
}

#[tokio::test]
async fn operations_beyond_the_bound_share_their_labels() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    for n in 0..210 {
        caller.call(&to(format!("/nexus/endpoints/pay/services/Svc/op{n}"))).await;
    }
    gateway.counts("nexus_gateway_requests_total", &[("operation", "_other")], 10.0).await;
    gateway.counts("nexus_gateway_requests_total", &[("endpoint", "pay")], 210.0).await;
}

#[tokio::test]
async fn labels_are_escaped() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    gateway.call(&to("/nexus/endpoints/pay/services/a%22%5C%0Ab/op")).await;
    gateway.counts("nexus_gateway_requests_total", &[("service", r#"a\"\\\nb"#)], 1.0).await;
}

#[tokio::test]
async fn connections_are_counted_on_both_sides() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let mut caller = gateway.connect().await;
    caller.call(&start("pay")).await;
    gateway.counts("nexus_gateway_connections", &[], 1.0).await;
    gateway.counts("nexus_gateway_upstream_connections", &[("state", "idle")], 1.0).await;
    gateway.counts("nexus_gateway_upstream_connections", &[("state", "busy")], 0.0).await;
    gateway.counts("nexus_gateway_upstream_connects_total", &[("result", "ok")], 1.0).await;
    drop(caller);
    gateway.counts("nexus_gateway_connections", &[], 0.0).await;
    gateway.counts("nexus_gateway_connections_total", &[], 1.0).await;
}

#[tokio::test]
async fn what_is_counted_of_an_endpoint_ends_with_it() {
    let handler = Handler::answering(answer("502 x", &[], ""));
    let gateway = Gateway::before(&handler).await;
    gateway.call(&start("pay")).await;
    gateway.counts("nexus_gateway_failures_total", &[("endpoint", "pay")], 1.0).await;
    gateway.running.apply(settings()).await.expect("it can be applied");
    assert!(!gateway.admin("/metrics").await.text().contains("\"pay\""));
}

#[tokio::test]
async fn everything_that_is_documented_is_there() {
    let cluster = Cluster::serving(vec![listed("pay", 1)]);
    let gateway = Gateway::serving(&cluster).await;
    gateway.until_ready().await;
    gateway.call(&start("pay")).await;
    gateway.call(&start("none")).await;
    cluster.state().dispatch = std::sync::Arc::new(|_| vec![json("400 x", r#"{"message":"m"}"#).into()]);
    gateway.call(&start("pay")).await;
    gateway.counts("nexus_gateway_requests_total", &[], 3.0).await;
    let metrics = gateway.metrics().await;
    for name in [
        "requests_total",
        "request_duration_seconds_bucket",
        "upstream_duration_seconds_bucket",
        "handler_errors_total",
        "failures_total",
        "requests_in_flight",
        "wait_seconds_bucket",
        "waiting",
        "queued_bytes",
        "upstream_addresses",
        "connections",
        "connections_total",
        "connections_refused_total",
        "connections_reaped_total",
        "upstream_connections",
        "upstream_connects_total",
        "upstream_replays_total",
        "upstream_resolve_errors_total",
        "registry_endpoints",
        "registry_age_seconds",
        "registry_errors_total",
        "registry_conflicts",
        "registry_copy_errors",
        "registry_lookups_total",
        "config_last_reload_successful",
        "build_info",
        "access_log_dropped",
        "audit_log_dropped",
    ] {
        assert!(metrics.has(&format!("nexus_gateway_{name}")), "{name}");
    }
}
