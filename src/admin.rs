//! The admin port: health, readiness, metrics, and what is served. It changes nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json};
use axum::routing::get;
use prometheus::{IntCounterVec, IntGauge};
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::registry::{CONFIGURATION, Registry};
use crate::route::Router;
use crate::server::Phase;
use crate::telemetry::Telemetry;

/// What the admin port shows.
#[derive(Clone)]
pub struct Admin {
    /// Endpoints and upstreams.
    pub router: Arc<Router>,
    /// Sources of endpoints.
    pub registry: Arc<Registry>,
    /// Metrics.
    pub telemetry: Arc<Telemetry>,
    /// Whether the process is on its way out.
    pub phase: watch::Receiver<Phase>,
}

impl Admin {
    /// Answers on `socket` until dropped.
    pub async fn serve(self, socket: TcpListener) -> std::io::Result<()> {
        let routes = axum::Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .route("/endpoints", get(endpoints))
            .with_state(self);
        axum::serve(socket, routes).await
    }

    /// Takes the values that others keep.
    fn scrape(&self) {
        let scraped = &self.telemetry.scraped;
        // Two scrapes at a time would count double.
        let _one = scraped.begin();
        for vec in [&scraped.upstream_connects, &scraped.upstream_replays, &scraped.upstream_resolve_errors] {
            vec.reset();
        }
        scraped.upstream_connections.reset();
        for upstream in self.router.table().upstreams() {
            let (name, counts, (open, idle)) = (upstream.name(), upstream.counts(), upstream.connections());
            let connections = |state| scraped.upstream_connections.with_label_values(&[name, state]);
            connections("idle").add(gauge(idle));
            connections("busy").add(gauge(open.saturating_sub(idle)));
            add(&scraped.upstream_connects, &[name, "ok"], counts.connected.load(Ordering::Relaxed));
            add(&scraped.upstream_connects, &[name, "error"], counts.refused.load(Ordering::Relaxed));
            add(&scraped.upstream_replays, &[name], counts.replayed.load(Ordering::Relaxed));
            add(&scraped.upstream_resolve_errors, &[name], counts.unresolved.load(Ordering::Relaxed));
        }
        self.scrape_registry();
    }

    fn scrape_registry(&self) {
        let scraped = &self.telemetry.scraped;
        scraped.registry_endpoints.reset();
        scraped.registry_age.reset();
        scraped.registry_errors.reset();
        scraped.registry_lookups.reset();
        scraped.registry_endpoints.with_label_values(&[CONFIGURATION]).set(gauge(self.registry.configured()));
        for source in self.registry.sources() {
            scraped.registry_endpoints.with_label_values(&[&source.name]).set(gauge(source.endpoints));
            if let Some(age) = source.age {
                scraped.registry_age.with_label_values(&[&source.name]).set(age.as_secs_f64());
            }
            add(&scraped.registry_errors, &[&source.name], source.errors);
        }
        let look_ups = self.registry.look_up_counts();
        add(&scraped.registry_lookups, &["found"], look_ups.found.load(Ordering::Relaxed));
        add(&scraped.registry_lookups, &["absent"], look_ups.absent.load(Ordering::Relaxed));
        add(&scraped.registry_lookups, &["error"], look_ups.error.load(Ordering::Relaxed));
        scraped.registry_conflicts.set(gauge(self.registry.conflicts()));
        set(&scraped.registry_copy_errors, self.registry.copy_errors());
        let dropped = self.telemetry.access_log().map_or(0, |log| log.dropped());
        scraped.access_log_dropped.set(gauge(dropped));
    }
}

fn add(vec: &IntCounterVec, labels: &[&str], value: u64) {
    vec.with_label_values(labels).inc_by(value);
}

fn set(metric: &IntGauge, value: u64) {
    metric.set(i64::try_from(value).unwrap_or(i64::MAX));
}

fn gauge(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// 200 where requests may be sent here; with the reason for the answer either way.
async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    let draining = *admin.phase.borrow() != Phase::Serving;
    let sources: Vec<_> = admin.registry.sources().iter().map(source).collect();
    let ready = !draining && admin.registry.is_ready();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "draining": draining, "sources": sources })))
}

fn source(source: &crate::registry::SourceStatus) -> serde_json::Value {
    json!({
        "name": *source.name,
        "endpoints": source.endpoints,
        "age_seconds": source.age.map(|age| age.as_secs()),
        "from_copy": source.from_copy,
        "errors": source.errors,
        "last_error": source.last_error,
    })
}

async fn metrics(State(admin): State<Admin>) -> impl IntoResponse {
    admin.scrape();
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], admin.telemetry.encode())
}

/// Every endpoint that is served, with its source and target.
async fn endpoints(State(admin): State<Admin>) -> impl IntoResponse {
    let table = admin.router.table();
    let endpoints: Vec<_> = table
        .endpoints()
        .into_iter()
        .map(|endpoint| {
            let entry = endpoint.entry();
            json!({
                "name": endpoint.name(),
                "id": entry.definition.id,
                "source": *entry.source,
                "target": entry.definition.target.to_string(),
                "path": endpoint.prefix(),
                "addresses": endpoint.upstream().addresses(),
            })
        })
        .collect();
    let conflicts: Vec<_> = table
        .conflicts()
        .iter()
        .map(|conflict| json!({ "name": conflict.name, "served": *conflict.winner, "hidden": *conflict.loser }))
        .collect();
    Json(json!({ "endpoints": endpoints, "conflicts": conflicts }))
}
