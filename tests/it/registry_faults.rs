//! Registries that fail: at the start, later, by silence or by nonsense.

use std::sync::Arc;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use nexus_gateway::config::Settings;
use nexus_gateway::credentials::{Credentials, Outward};
use nexus_gateway::nexus::ErrorType;
use nexus_gateway::registry::ClusterSettings;
use serde_json::Value;

use crate::harness::*;

const UNAVAILABLE: Expected = failure("registry_unavailable", ErrorType::Unavailable, true);

fn polling(cluster: &Cluster) -> Settings {
    Settings { clusters: vec![polled("home", cluster.url())], ..settings() }
}

/// Ways in which a registry does not answer as it should.
fn faults() -> Vec<(&'static str, Mood)> {
    let listing = |body: &str| Mood::Sends(json("200 OK", body));
    vec![
        ("gone", Mood::Gone),
        ("half a body", Mood::Half),
        ("half of the JSON", listing(r#"{"endpoints":[{"id":"#)),
        ("a list", listing("[]")),
        ("not JSON", Mood::Sends(answer("200 OK", &["Content-Type: text/html"], "<html>"))),
        ("another API", listing(r#"{"status":"ok"}"#)),
        ("endpoints of another shape", listing(r#"{"endpoints":[{"id":5}]}"#)),
        ("not HTTP", Mood::Sends("nonsense\r\n\r\n".into())),
        ("forbidden", Mood::Sends(json("403 Forbidden", r#"{"code":7,"message":"Request unauthorized."}"#))),
        ("no such route", Mood::Sends(json("404 Not Found", r#"{"code":5,"message":"Not Found"}"#))),
        ("moved", Mood::Sends(answer("302 Found", &["Location: /"], ""))),
        ("broken", Mood::Sends(answer("500 x", &[], ""))),
    ]
}

#[tokio::test]
async fn a_registry_that_fails_at_the_start_makes_unknown_names_unavailable_until_it_heals() {
    for (context, mood) in faults() {
        let cluster = Cluster::serving(vec![listed("pay", 1)]);
        cluster.state().mood = mood;
        let gateway = Gateway::start(polling(&cluster)).await;
        UNAVAILABLE.assert_is(&gateway.call(&start("pay")).await, context);
        assert_eq!(gateway.admin("/readyz").await.status(), 503, "{context}");
        gateway.counts_at_least("nexus_gateway_registry_errors_total", &[("source", "home")], 1.0).await;

        cluster.state().mood = Mood::Well;
        gateway.until_status(&start("pay"), 200).await;
        gateway.until_ready().await;
    }
}

#[tokio::test]
async fn other_settings_of_a_cluster_that_is_down_leave_what_it_said_last() {
    let cluster = Cluster::serving(vec![listed("pay", 1)]);
    // No copy on disk can help here.
    let state = Some("/dev/null/none".into());
    let gateway = Gateway::start(Settings { state: state.clone(), ..polling(&cluster) }).await;
    gateway.until_ready().await;
    cluster.state().mood = Mood::Gone;
    let clusters = vec![discovered("home", cluster.url())];
    gateway.running.apply(Settings { state, clusters, ..settings() }).await.expect("it can be applied");
    assert_eq!(gateway.admin("/readyz").await.status(), 200);
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
}

#[tokio::test]
async fn a_registry_that_fails_later_leaves_what_it_said_last() {
    for (context, mood) in faults() {
        let cluster = Cluster::serving(vec![listed("pay", 1)]);
        let gateway = Gateway::start(polling(&cluster)).await;
        gateway.until_ready().await;
        cluster.state().mood = mood;
        gateway.counts_at_least("nexus_gateway_registry_errors_total", &[("source", "home")], 2.0).await;
        assert_eq!(gateway.call(&start("pay")).await.status(), 200, "{context}");
        assert_eq!(gateway.admin("/readyz").await.status(), 200, "{context}");
        UNAVAILABLE.assert_is(&gateway.call(&start("none")).await, context);
    }
}

#[tokio::test]
async fn a_cluster_that_refuses_connections_at_the_start_is_served_once_it_is_up() {
    let reserved = Reserved::new();
    let clusters = vec![polled("home", format!("http://{}", reserved.address))];
    let gateway = Gateway::start(Settings { clusters, ..settings() }).await;
    UNAVAILABLE.assert_is(&gateway.call(&start("pay")).await, "refused");
    let _cluster = Cluster::on(reserved, vec![listed("pay", 1)]);
    gateway.until_status(&start("pay"), 200).await;
}

#[tokio::test]
async fn endpoints_of_the_configuration_are_served_while_a_registry_stalls() {
    let cluster = Cluster::serving(vec![]);
    cluster.state().mood = Mood::Stalled(Gate::new());
    let handler = Handler::answering(ok());
    let settings = Settings { endpoints: leading_to(&handler).endpoints, ..polling(&cluster) };
    assert_eq!(Gateway::start(settings).await.call(&start("pay")).await.status(), 200);
}

#[tokio::test]
async fn requests_for_one_unknown_name_wait_for_one_look_up() {
    let cluster = Cluster::serving(vec![listed("pay", 1)]);
    let gate = Gate::new();
    cluster.state().mood = Mood::Stalled(gate.clone());
    let gateway = Gateway::serving(&cluster).await;
    let mut callers = Vec::new();
    for _ in 0..10 {
        let mut caller = gateway.connect().await;
        caller.send(start("pay").bytes()).await;
        callers.push(caller);
    }
    gateway.counts("nexus_gateway_requests_in_flight", &[], 10.0).await;
    gate.open();
    for caller in &mut callers {
        assert_eq!(caller.answer().await.status(), 200);
    }
    let asked = cluster.asked().iter().filter(|target| target.contains("name=pay")).count();
    assert!(asked <= 1, "{asked} look-ups");
}

#[tokio::test]
async fn a_look_up_that_failed_is_not_made_again_at_once() {
    let cluster = Cluster::serving(vec![]);
    let gateway = Gateway::serving(&cluster).await;
    gateway.until_ready().await;
    cluster.state().mood = Mood::Gone;
    for _ in 0..5 {
        UNAVAILABLE.assert_is(&gateway.call(&start("pay")).await, "gone");
    }
    let asked = cluster.asked().iter().filter(|target| target.contains("name=pay")).count();
    // Two where a slow machine lets the first outcome expire.
    assert!((1..5).contains(&asked), "{asked}");
    cluster.state().mood = Mood::Well;
    cluster.state().endpoints.push(listed("pay", 1));
    gateway.until_status(&start("pay"), 200).await;
}

#[tokio::test]
async fn a_caller_of_many_made_up_names_leaves_look_ups_to_others() {
    let cluster = Cluster::serving(vec![listed("new", 1)]);
    let gateway = Gateway::serving(&cluster).await;
    gateway.until_ready().await;
    let gate = Gate::new();
    cluster.state().mood = Mood::Stalled(gate.clone());
    let mut waiting = Vec::new();
    for number in 0..20 {
        let mut caller = Caller::connect_from([127, 0, 0, 2].into(), gateway.data()).await;
        caller.send(start(&format!("made-up-{number}")).bytes()).await;
        waiting.push(caller);
    }
    // Those beyond its share fail at once, and the rest wait.
    gateway.counts("nexus_gateway_registry_lookups_total", &[("result", "error")], 12.0).await;
    cluster.state().endpoints.push(listed("newer", 2));
    let mut other = gateway.connect().await;
    other.send(start("newer").bytes()).await;
    eventually(|| cluster.asked().iter().any(|target| target.contains("name=newer"))).await;
    gate.open();
    assert_eq!(other.answer().await.status(), 200);
    let mut ends = Vec::new();
    for caller in &mut waiting {
        ends.push(caller.answer().await.status());
    }
    assert_eq!(ends.iter().filter(|status| **status == 404).count(), 8, "{ends:?}");
}

/// Callers of `pay` whose requests have all come to the cluster.
async fn in_flight(gateway: &Gateway, cluster: &Cluster) -> Vec<Caller> {
    let mut callers = Vec::new();
    for _ in 0..30 {
        let mut caller = gateway.connect().await;
        caller.send(start("pay").bytes()).await;
        callers.push(caller);
    }
    eventually(|| cluster.dispatched().len() == 30).await;
    callers
}

fn look_ups_of_pay(cluster: &Cluster) -> usize {
    cluster.asked().iter().filter(|target| target.contains("name=pay")).count()
}

/// As a frontend answers for an id that it does not know: nothing says that a worker did.
fn no_such_id() -> String {
    json("404 Not Found", r#"{"message":"nexus endpoint not found"}"#)
}

#[tokio::test]
async fn requests_in_flight_follow_their_recreated_endpoint_together() {
    let cluster = Cluster::serving(vec![listed("pay", 1)]);
    let (gone, listed_again) = (Gate::new(), Gate::new());
    let closed = gone.clone();
    cluster.state().dispatch = Arc::new(move |seen| {
        let to_the_old_one = seen.message.target().contains(&id(1));
        if to_the_old_one { vec![Act::Wait(closed.clone()), no_such_id().into()] } else { vec![ok().into()] }
    });
    let gateway = Gateway::serving(&cluster).await;
    gateway.until_ready().await;
    let mut callers = in_flight(&gateway, &cluster).await;
    cluster.state().endpoints = vec![listed("pay", 2)];
    cluster.state().mood = Mood::Stalled(listed_again.clone());
    gone.open();
    eventually(|| look_ups_of_pay(&cluster) > 0).await;
    listed_again.open();
    for caller in &mut callers {
        let answer = caller.answer().await;
        assert_eq!(answer.status(), 200, "{answer:?}");
    }
    let followed = cluster.dispatched().iter().filter(|request| request.target().contains(&id(2))).count();
    assert_eq!(followed, 30);
    let asked = look_ups_of_pay(&cluster);
    assert!(asked <= 2, "{asked} look-ups");
}

#[tokio::test]
async fn a_request_follows_its_recreated_endpoint_without_waiting_for_other_clusters() {
    let (cluster, other) = (Cluster::serving(vec![listed("pay", 1)]), Cluster::serving(vec![]));
    let clusters = vec![discovered("home", cluster.url()), discovered("other", other.url())];
    let gateway = Gateway::start(Settings { clusters, ..settings() }).await;
    gateway.until_ready().await;
    cluster.state().endpoints = vec![listed("pay", 2)];
    other.state().mood = Mood::Stalled(Gate::new());
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    // The other one is waited for still.
    gateway.counts("nexus_gateway_registry_lookups_total", &[("result", "found")], 0.0).await;
    assert_eq!(look_ups_of_pay(&cluster), 1);
}

#[tokio::test]
async fn requests_to_an_endpoint_that_only_seems_to_be_gone_share_look_ups_and_get_its_answer() {
    let cluster = Cluster::serving(vec![listed("pay", 1)]);
    let (answered, asked) = (Gate::new(), Gate::new());
    let closed = answered.clone();
    cluster.state().dispatch = Arc::new(move |_| vec![Act::Wait(closed.clone()), no_such_id().into()]);
    let gateway = Gateway::serving(&cluster).await;
    gateway.until_ready().await;
    let mut callers = in_flight(&gateway, &cluster).await;
    cluster.state().mood = Mood::Stalled(asked.clone());
    answered.open();
    eventually(|| look_ups_of_pay(&cluster) > 0).await;
    asked.open();
    for caller in &mut callers {
        assert_passed(&no_such_id(), &caller.answer().await);
    }
    // Two, and a few more where a slow machine answers some requests later.
    let asked = look_ups_of_pay(&cluster);
    assert!(asked <= 8, "{asked} look-ups");
}

#[tokio::test]
async fn a_404_that_cannot_be_looked_into_for_too_many_look_ups_stays_what_it_is() {
    let cluster = Cluster::serving(vec![listed("pay", 1)]).answering(no_such_id());
    let gateway = Gateway::serving(&cluster).await;
    gateway.until_ready().await;
    cluster.state().mood = Mood::Stalled(Gate::new());
    let mut waiting = Vec::new();
    for number in 0..8 {
        let mut caller = gateway.connect().await;
        caller.send(start(&format!("made-up-{number}")).bytes()).await;
        waiting.push(caller);
    }
    eventually(|| cluster.asked().iter().filter(|target| target.contains("name=made")).count() == 8).await;
    assert_passed(&no_such_id(), &gateway.call(&start("pay")).await);
}

#[tokio::test]
async fn a_gateway_that_starts_while_its_cluster_is_down_serves_what_the_last_one_knew() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cluster = Cluster::serving(vec![listed("pay", 1)]);
    let kept = || Settings { state: Some(folder.path().into()), ..polling(&cluster) };
    let before = Gateway::start(kept()).await;
    before.until_ready().await;
    let copy = folder.path().join("registry-home.json");
    eventually(|| copy.exists()).await;
    drop(before);

    cluster.state().mood = Mood::Gone;
    let gateway = Gateway::start(kept()).await;
    assert_eq!(gateway.call(&start("pay")).await.status(), 200);
    let ready = gateway.admin("/readyz").await;
    let shown: Value = serde_json::from_str(&ready.text()).expect("JSON");
    assert_eq!((ready.status(), &shown["sources"][0]["from_copy"]), (200, &Value::Bool(true)));
}

#[tokio::test]
async fn a_copy_that_cannot_be_used_is_as_good_as_none() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let cluster = Cluster::serving(vec![]);
    cluster.state().mood = Mood::Gone;
    for text in ["", "{", r#"{"urls":["http://another:7243"],"saved":1,"endpoints":[{"name":"pay","id":"x"}]}"#] {
        std::fs::write(folder.path().join("registry-home.json"), text).expect("a file can be written");
        let gateway = Gateway::start(Settings { state: Some(folder.path().into()), ..polling(&cluster) }).await;
        UNAVAILABLE.assert_is(&gateway.call(&start("pay")).await, text);
    }
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_written_is_counted_and_nothing_else() {
    let cluster = Cluster::serving(vec![listed("pay", 1)]);
    let settings = Settings { state: Some("/proc/none".into()), ..polling(&cluster) };
    let gateway = Gateway::start(settings).await;
    gateway.until_status(&start("pay"), 200).await;
    gateway.counts_at_least("nexus_gateway_registry_copy_errors", &[], 1.0).await;
}

#[tokio::test]
async fn a_cluster_that_does_not_tell_its_id_is_served_without() {
    let cluster = Cluster::serving(vec![listed("pay", 1)]);
    cluster.state().id = None;
    let gateway = Gateway::serving(&cluster).await;
    gateway.until_ready().await;
    let answer = gateway.call(&start("pay").header("Nexus-Callback-Source", "cluster-home")).await;
    assert_eq!(answer.status(), 200);
    assert_eq!(cluster.dispatched().remove(0).header("nexus-callback-source"), None);
}

#[tokio::test]
async fn a_gateway_is_ready_once_every_source_was_read() {
    let (well, gone) = (Cluster::serving(vec![]), Cluster::serving(vec![]));
    gone.state().mood = Mood::Gone;
    let clusters = vec![polled("well", well.url()), polled("gone", gone.url())];
    let gateway = Gateway::start(Settings { clusters, ..settings() }).await;
    gateway.counts_at_least("nexus_gateway_registry_errors_total", &[("source", "gone")], 2.0).await;
    assert_eq!(gateway.admin("/readyz").await.status(), 503);
    assert_eq!(gateway.admin("/healthz").await.status(), 200);
    gone.state().mood = Mood::Well;
    gateway.until_ready().await;
}

#[tokio::test]
async fn a_registry_that_echoes_what_it_is_shown_gets_it_no_further() {
    let cluster = Cluster::serving(vec![]);
    cluster.state().mood = Mood::Echoes;
    let shown = HeaderValue::from_static("Bearer planted-registry-bearer");
    let outward = Outward { credentials: Some(Credentials::Header(AUTHORIZATION, shown)), ..Outward::default() };
    let gateway = Gateway::start(Settings {
        clusters: vec![ClusterSettings { outward, ..polled("home", cluster.url()) }],
        ..settings()
    })
    .await;
    // The log and the pages of the admin port are looked at when the gateway is dropped.
    gateway.counts_at_least("nexus_gateway_registry_errors_total", &[("source", "home")], 1.0).await;
    for endpoint in ["pay", &id(1)] {
        let told = gateway.call(&start(endpoint)).await;
        UNAVAILABLE.assert_is(&told, endpoint);
        assert!(!told.text().contains("planted-"), "{}", told.text());
    }
    let shown = cluster.registry_requests();
    assert!(shown.iter().all(|asked| asked.header("authorization") == Some("Bearer planted-registry-bearer")));
}

#[tokio::test]
async fn what_callers_ask_for_in_vain_is_no_failure_of_a_source() {
    let cluster = Cluster::serving(vec![]);
    let gateway = Gateway::serving(&cluster).await;
    gateway.until_ready().await;
    cluster.state().mood = Mood::Gone;
    for number in 1..=5 {
        UNAVAILABLE.assert_is(&gateway.call(&start(&id(number))).await, "by id");
    }
    gateway.counts("nexus_gateway_registry_lookups_total", &[("result", "error")], 5.0).await;
    let ready: Value = serde_json::from_str(&gateway.admin("/readyz").await.text()).expect("JSON");
    let source = &ready["sources"][0];
    assert_eq!((&source["errors"], &source["last_error"]), (&Value::from(0), &Value::Null), "no poll failed");
    gateway.counts("nexus_gateway_registry_errors_total", &[("source", "home")], 0.0).await;
}
