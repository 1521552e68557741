//! Which endpoints are served: from the configuration and from clusters, by name and by id, as they come and go.

use std::time::Duration;

use nexus_gateway::config::Settings;
use nexus_gateway::credentials::Pass;
use nexus_gateway::nexus::ErrorType;
use nexus_gateway::registry::{ClusterSettings, DiscoverSettings};
use serde_json::Value;

use crate::harness::*;

const ABSENT: Expected = failure("unknown_endpoint", ErrorType::NotFound, false);
const CHANGED: Expected = failure("registry_unavailable", ErrorType::Unavailable, true);

async fn gateway_of(clusters: Vec<ClusterSettings>) -> Gateway {
    Gateway::start(Settings { clusters, ..settings() }).await
}

#[tokio::test]
async fn an_endpoint_is_served_by_its_name_and_by_its_id() {
    let cluster = Cluster::serving(vec![listed("pay", 1), listed("ship", 2)]);
    let gateway = Gateway::serving(&cluster).await;
    for endpoint in ["ship", &id(2)] {
        assert_eq!(gateway.call(&start(endpoint)).await.status(), 200);
    }
    let expected = format!("/nexus/endpoints/{}/services/Svc/op", id(2));
    assert!(cluster.dispatched().iter().all(|request| request.target() == expected));
}

#[tokio::test]
async fn all_pages_of_a_registry_are_read() {
    let endpoints: Vec<_> = (0..25).map(|n| listed(&format!("e{n}x"), n)).collect();
    let cluster = Cluster::serving(endpoints);
    cluster.state().page = 10;
    let gateway = Gateway::serving(&cluster).await;
    gateway.counts("nexus_gateway_registry_endpoints", &[("source", "home")], 25.0).await;
}

#[tokio::test]
async fn an_endpoint_created_a_moment_ago_is_found_at_once() {
    let cluster = Cluster::serving(vec![]);
    let gateway = Gateway::serving(&cluster).await;
    gateway.until_ready().await;
    cluster.state().endpoints.push(listed("new-one", 7));
    assert_eq!(gateway.call(&start("new-one")).await.status(), 200);
    gateway.counts("nexus_gateway_registry_lookups_total", &[("result", "found")], 1.0).await;
}

#[tokio::test]
async fn a_look_up_by_id_finds_an_endpoint_created_a_moment_ago() {
    let cluster = Cluster::serving(vec![]);
    let gateway = Gateway::serving(&cluster).await;
    gateway.until_ready().await;
    cluster.state().endpoints.push(listed("new", 7));
    assert_eq!(gateway.call(&start(&id(7))).await.status(), 200);
}

#[tokio::test]
async fn many_misses_of_one_name_cost_a_cluster_one_request() {
    let cluster = Cluster::serving(vec![]);
    let gateway = Gateway::serving(&cluster).await;
    for _ in 0..5 {
        ABSENT.assert_is(&gateway.call(&start("none")).await, "no such endpoint");
    }
    let asked = cluster.asked().iter().filter(|target| target.contains("name=none")).count();
    // Two where a slow machine lets the first outcome expire.
    assert!((1..5).contains(&asked), "{asked}");
    gateway
        .counts("nexus_gateway_failures_total", &[("reason", "unknown_endpoint"), ("endpoint", "_unknown")], 5.0)
        .await;
}

#[tokio::test]
async fn names_that_no_endpoint_can_have_cost_a_cluster_nothing() {
    let cluster = Cluster::serving(vec![]);
    let gateway = Gateway::serving(&cluster).await;
    gateway.until_ready().await;
    let before = cluster.asked().len();
    for name in ["a", "no_ne", "a%2fb", "1a", &"a".repeat(201)] {
        ABSENT.assert_is(&gateway.call(&start(name)).await, name);
    }
    assert_eq!(cluster.asked().len(), before);
}

#[tokio::test]
async fn a_request_follows_an_endpoint_that_was_deleted_and_created_again() {
    let cluster = Cluster::serving(vec![listed("pay", 1)]);
    let gateway = Gateway::serving(&cluster).await;
    gateway.until_ready().await;
    // Twice: the second time right after a look-up, whose outcome is not to be believed any more.
    for now in [1, 2, 3] {
        cluster.state().endpoints = vec![listed("pay", now)];
        assert_eq!(gateway.call(&start("pay")).await.status(), 200);
        let last = cluster.dispatched().pop().expect("a request came");
        assert!(last.target().contains(&id(now)), "{}", last.target());
    }
}

/// What was decided for its old target, such as which of the caller's credentials pass, is not decided for the new one.
#[tokio::test]
async fn a_request_follows_its_endpoint_to_no_other_target() {
    let elsewhere = Handler::answering(ok());
    let mut queue = listed("pay", 2);
    queue["spec"]["target"]["worker"]["taskQueue"] = "another".into();
    for moved in [queue, listed_external("pay", 2, &elsewhere.url())] {
        let cluster = Cluster::serving(vec![listed("pay", 1)]);
        let mut home = discovered("home", cluster.url());
        home.discover.as_mut().expect("it is discovered").externals = true;
        home.outward.pass = Pass { authorization: true, cookie: true };
        let gateway = gateway_of(vec![home]).await;
        gateway.until_ready().await;
        cluster.state().endpoints = vec![moved.clone()];
        let request =
            start("pay").header("Authorization", "Bearer planted-callers").header("Cookie", "a=planted-cookie");
        CHANGED.assert_is(&gateway.call(&request).await, &moved.to_string());
        assert!(elsewhere.requests().is_empty(), "{moved}");
        assert!(cluster.dispatched().iter().all(|request| request.target().contains(&id(1))), "{moved}");
        assert_eq!(gateway.call(&request).await.status(), 200, "{moved}: the next one goes there");
    }
    let seen = elsewhere.request();
    assert_eq!([seen.header("authorization"), seen.header("cookie")], [None; 2]);
}

#[tokio::test]
async fn a_request_by_an_id_that_is_gone_goes_to_no_other_endpoint() {
    let a = Cluster::serving(vec![listed("both", 1)]);
    let b = Cluster::serving(vec![listed("both", 2), listed("moved", 3)]);
    let gateway = gateway_of(vec![discovered("a", a.url()), discovered("b", b.url())]).await;
    gateway.counts("nexus_gateway_registry_conflicts", &[], 1.0).await;
    b.state().endpoints = vec![listed("moved", 4)];
    for gone in [2, 3] {
        assert_eq!(gateway.call(&start(&id(gone))).await.status(), 404);
    }
    assert!(a.dispatched().is_empty());
    assert!(b.dispatched().iter().all(|request| !request.target().contains(&id(4))));
}

#[tokio::test]
async fn a_deleted_endpoint_is_told_as_the_cluster_tells_it_and_then_forgotten() {
    let cluster = Cluster::serving(vec![listed("pay", 1)]);
    let gateway = gateway_of(vec![polled("home", cluster.url())]).await;
    gateway.until_status(&start("pay"), 200).await;
    cluster.state().endpoints.clear();
    let answer = gateway.until_status(&start("pay"), 404).await;
    assert!(matches!(answer.header("nexus-gateway-failure"), None | Some("unknown_endpoint")), "{answer:?}");
    gateway.counts("nexus_gateway_registry_endpoints", &[("source", "home")], 0.0).await;
}

#[tokio::test]
async fn a_handlers_own_404_is_not_mistaken_for_a_deleted_endpoint() {
    let lines = ["Content-Type: application/json", "Temporal-Nexus-Failure-Source: worker"];
    let not_found = answer("404 Not Found", &lines, r#"{"message":"no such operation"}"#);
    let cluster = Cluster::serving(vec![listed("pay", 1)]).answering(not_found.clone());
    let gateway = Gateway::serving(&cluster).await;
    gateway.until_ready().await;
    assert_passed(&not_found, &gateway.call(&start("pay")).await);
    assert!(!cluster.asked().iter().any(|target| target.contains("name=")), "{:?}", cluster.asked());
}

#[tokio::test]
async fn the_configuration_wins_over_clusters_and_earlier_clusters_over_later_ones() {
    let own = Handler::answering(json("200 OK", "\"own\""));
    let names = ["own", "both", "only-b"];
    let a = Cluster::serving(vec![listed(names[0], 1), listed(names[1], 2)]).answering(json("200 OK", "\"a\""));
    let b = Cluster::serving(vec![listed(names[1], 3), listed(names[2], 4)]).answering(json("200 OK", "\"b\""));
    let clusters = vec![discovered("a", a.url()), discovered("b", b.url())];
    let endpoints = vec![external("own", &own.url())];
    let gateway = Gateway::start(Settings { clusters, endpoints, ..settings() }).await;
    gateway.counts("nexus_gateway_registry_conflicts", &[], 2.0).await;
    for (endpoint, expected) in [("own", "\"own\""), ("both", "\"a\""), ("only-b", "\"b\"")] {
        assert_eq!(gateway.call(&start(endpoint)).await.text(), expected, "{endpoint}");
    }
    // What lost its name can still be called by its id.
    assert_eq!(gateway.call(&start(&id(1))).await.text(), "\"a\"");
    assert_eq!(gateway.call(&start(&id(3))).await.text(), "\"b\"");

    let shown: Value = serde_json::from_str(&gateway.admin("/endpoints").await.text()).expect("JSON");
    assert_eq!(shown["conflicts"][0]["name"], "own");
    assert_eq!(shown["conflicts"][0]["served"], "configuration");
    assert_eq!(shown["conflicts"][1]["hidden"], "b");
}

#[tokio::test]
async fn a_cluster_takes_over_no_id_of_another_one() {
    // It begins with a letter, so that it may be a name as well.
    let id_of_pay = id(1).replacen('7', "c", 1);
    let mut pay = listed("pay", 1);
    pay["id"] = id_of_pay.clone().into();
    let mut same_id = listed("other", 3);
    same_id["id"] = id_of_pay.clone().into();
    let a = Cluster::serving(vec![pay]).answering(json("200 OK", "\"a\""));
    let b = Cluster::serving(vec![listed(&id_of_pay, 2), same_id]).answering(json("200 OK", "\"b\""));
    let clusters = vec![discovered("a", a.url()), discovered("b", b.url())];
    // Its name is the configuration's, so that it is served by its id only.
    let own = Handler::answering(json("200 OK", "\"own\""));
    let endpoints = vec![external("pay", &own.url())];
    let gateway = Gateway::start(Settings { clusters, endpoints, ..settings() }).await;
    gateway.counts("nexus_gateway_registry_conflicts", &[], 3.0).await;
    for (endpoint, expected) in [("pay", "\"own\""), (&*id_of_pay, "\"a\""), ("other", "\"b\"")] {
        assert_eq!(gateway.call(&start(endpoint)).await.text(), expected, "{endpoint}");
    }
    ABSENT.assert_is(&gateway.call(&start(&id(2))).await, "what is left out is not served by its id");
    let shown: Value = serde_json::from_str(&gateway.admin("/endpoints").await.text()).expect("JSON");
    let left_out = serde_json::json!({ "name": id_of_pay, "served": "ids", "hidden": "b" });
    assert!(shown["conflicts"].as_array().expect("a list").contains(&left_out), "{shown}");
}

#[tokio::test]
async fn external_targets_of_a_cluster_are_served_only_where_that_is_allowed() {
    let outside = Handler::answering(ok());
    for (externals, status) in [(false, 404), (true, 200)] {
        let cluster = Cluster::serving(vec![listed_external("pay", 1, &format!("{}/x", outside.url()))]);
        let discover = Some(DiscoverSettings { every: Duration::from_secs(60), externals });
        let gateway = gateway_of(vec![ClusterSettings { discover, ..discovered("home", cluster.url()) }]).await;
        assert_eq!(gateway.call(&start("pay")).await.status(), status);
    }
    assert_eq!(outside.request().target(), "/x/Svc/op");
}

#[tokio::test]
async fn what_a_cluster_lists_that_cannot_be_served_is_left_out_and_the_rest_is_served() {
    let odd = serde_json::json!({ "id": id(9), "spec": { "name": "odd", "target": { "nebula": {} } } });
    let bad_url = listed_external("bad-url", 8, "ftp://x");
    let cluster = Cluster::serving(vec![odd, bad_url, listed("no_name", 3), listed("pay", 1)]);
    let discover = Some(DiscoverSettings { every: Duration::from_secs(60), externals: true });
    let gateway = gateway_of(vec![ClusterSettings { discover, ..discovered("home", cluster.url()) }]).await;
    gateway.counts("nexus_gateway_registry_endpoints", &[("source", "home")], 1.0).await;
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
}

#[tokio::test]
async fn the_endpoints_page_shows_name_id_source_and_target() {
    let cluster = Cluster::serving(vec![listed("pay", 1)]);
    let gateway = Gateway::serving(&cluster).await;
    gateway.until_ready().await;
    let shown: Value = serde_json::from_str(&gateway.admin("/endpoints").await.text()).expect("JSON");
    let expected = serde_json::json!({
        "name": "pay",
        "id": id(1),
        "source": "home",
        "target": format!("cluster home, namespace ns, task queue tq, by endpoint id {}", id(1)),
        "path": format!("/nexus/endpoints/{}/services/", id(1)),
        "addresses": [cluster.url().replace("http://", "")],
    });
    assert_eq!(shown["endpoints"], serde_json::json!([expected]));
}
