//! The admin port: health, readiness, metrics, what is served, and the breakers and parked operations, which can be
//! steered here. Who may is `guard`'s, what a connection may take `port`'s.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::gates::Gates;
use crate::gateway::Gateway;
use crate::registry::Registry;
use crate::route::Router;
use crate::server::Phase;
use crate::telemetry::Telemetry;
use crate::tls::{ClientAuth, ServerTlsSettings};

mod breakers;
mod guard;
mod parked;
mod port;
mod scrape;

pub use guard::AdminToken;
pub use port::{Live, Rules};

/// Where the admin port is, and who may ask it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminSettings {
    /// Where to listen; port 0 takes a free one.
    pub address: SocketAddr,
    /// What opens all of it.
    pub token: Option<AdminToken>,
    /// TLS, and clients that are let in by their certificates.
    pub tls: Option<ServerTlsSettings>,
}

impl AdminSettings {
    /// A port without a token and without TLS.
    pub fn at(address: SocketAddr) -> Self {
        Self { address, token: None, tls: None }
    }

    /// Whether it shows health and metrics only: it listens beyond loopback, and nothing opens the rest.
    pub fn is_closed(&self) -> bool {
        let asks = self.tls.as_ref().is_some_and(|tls| tls.clients != ClientAuth::Off);
        !self.address.ip().to_canonical().is_loopback() && self.token.is_none() && !asks
    }
}

/// What the admin port shows.
#[derive(Clone)]
pub struct Admin {
    /// Endpoints and upstreams.
    pub router: Arc<Router>,
    /// Sources of endpoints.
    pub registry: Arc<Registry>,
    /// Metrics.
    pub telemetry: Arc<Telemetry>,
    /// Limits and breakers.
    pub gates: Arc<Gates>,
    /// Parked operations.
    pub gateway: Arc<Gateway>,
    /// Whether the process is on its way out.
    pub phase: watch::Receiver<Phase>,
}

impl Admin {
    /// Answers on `socket` until dropped, whom `live` lets in.
    pub async fn serve(self, socket: TcpListener, live: Arc<Live>) {
        let telemetry = Arc::clone(&self.telemetry);
        let routes = axum::Router::new()
            .route("/healthz", get(|| async { "ok\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .route("/endpoints", get(endpoints))
            .route("/.well-known/jwks.json", get(key_set))
            .merge(breakers::routes())
            .merge(parked::routes())
            .with_state(self);
        port::serve(socket, routes, live, telemetry).await;
    }
}

fn refuse(status: StatusCode, why: &str) -> Response {
    (status, Json(json!({ "error": why }))).into_response()
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
    ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], admin.scrape())
}

/// The public keys that callers' names are signed with, or were, or will be; an empty set where none is.
async fn key_set(State(admin): State<Admin>) -> Json<serde_json::Value> {
    Json(admin.router.wallet().signer().map_or_else(|| json!({ "keys": [] }), |signer| signer.key_set()))
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
