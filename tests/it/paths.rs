//! Paths: raw bytes in, raw bytes out, behind the prefix of the target.

use nexus_gateway::config::Settings;

use crate::harness::*;

#[tokio::test]
async fn whatever_follows_the_endpoint_goes_out_as_it_came() {
    for tail in [
        "Svc/op",
        "Ser%2Fvic%20e/op%C3%A4",
        "Ser%2fvic%20e/%6Fp",
        "a:b@c/~!$&'()*+,;=",
        "cancel/cancel",
        "services/services",
        ".../a..b",
        "S/o?callback=http%3A%2F%2Fa%2F%3Fx%3D1&b&c=%zz",
        "S/o?",
        "S/o/cancel?token=a%2Bb",
        "S/o/tok%2Fen/cancel",
    ] {
        let handler = Handler::answering(ok());
        Gateway::before(&handler).await.call(&to(format!("/nexus/endpoints/pay/services/{tail}"))).await;
        assert_eq!(handler.request().target(), format!("/{tail}"));
    }
}

#[tokio::test]
async fn bytes_that_should_have_been_escaped_stay_as_they_are() {
    let handler = Handler::answering(ok());
    let gateway = Gateway::before(&handler).await;
    let request = start("pay").bytes();
    let request = String::from_utf8(request).expect("text").replace("Svc/op", "Sv/{o}|^");
    let mut caller = gateway.connect().await;
    caller.send(request).await;
    assert_eq!(caller.answer().await.status(), 200);
    assert_eq!(handler.request().target(), "/Sv/{o}|^");
}

#[tokio::test]
async fn each_kind_of_target_has_its_route() {
    let cluster = Cluster::serving(vec![listed("by-id", 1)]);
    let endpoints = vec![worker("by-queue"), external("outside", &format!("{}/base/path/", cluster.url()))];
    let clusters = vec![discovered("home", cluster.url())];
    let gateway = Gateway::start(Settings { clusters, endpoints, ..settings() }).await;
    for endpoint in ["by-id", "by-queue", "outside"] {
        assert_eq!(gateway.call(&start(endpoint)).await.status(), 200, "{endpoint}");
    }
    let targets: Vec<_> = cluster.dispatched().iter().map(|request| request.target().to_owned()).collect();
    let by_id = format!("/nexus/endpoints/{}/services/Svc/op", id(1));
    let by_queue = "/namespaces/pay%20ns/task-queues/pay%2Ftq/nexus-services/Svc/op".to_owned();
    assert_eq!(targets, [by_id, by_queue, "/base/path/Svc/op".into()]);
}

#[tokio::test]
async fn a_cluster_behind_a_path_is_asked_behind_it() {
    let handler = Handler::answering(ok());
    let clusters = vec![undiscovered("home", &[format!("{}/temporal", handler.url())])];
    let gateway = Gateway::start(Settings { clusters, endpoints: vec![worker("pay")], ..settings() }).await;
    gateway.call(&start("pay")).await;
    let targets: Vec<_> = handler.requests().iter().map(|request| request.target().to_owned()).collect();
    assert!(targets.iter().all(|target| target.starts_with("/temporal/")), "{targets:?}");
}

#[tokio::test]
async fn cancels_reach_the_handler_in_the_form_they_came() {
    for (request, token) in [
        (cancel("pay"), Some("planted-token")),
        (to("/nexus/endpoints/pay/services/Svc/op/cancel?token=t"), None),
        (to("/nexus/endpoints/pay/services/Svc/op/a%2Fb/cancel"), None),
    ] {
        let handler = Handler::answering(answer("202 Accepted", &[], ""));
        let got = Gateway::before(&handler).await.call(&request).await;
        assert_eq!((got.status(), got.text()), (202, String::new()));
        assert_eq!(handler.request().header("nexus-operation-token"), token);
    }
}

#[tokio::test]
async fn an_absolute_target_is_read_like_any_other() {
    let handler = Handler::answering(ok());
    let request = to("http://gateway.test/nexus/endpoints/pay/services/Svc/op?a=b");
    assert_eq!(Gateway::before(&handler).await.call(&request).await.status(), 200);
    assert_eq!(handler.request().target(), "/Svc/op?a=b");
}

#[tokio::test]
async fn an_endpoint_may_be_named_with_escapes() {
    let handler = Handler::answering(ok());
    let request = to("/nexus/endpoints/p%61y/services/Svc/op");
    assert_eq!(Gateway::before(&handler).await.call(&request).await.status(), 200);
}
