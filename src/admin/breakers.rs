//! Breakers and addresses as an operator sees and steers them.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Admin, refuse};
use crate::gates::{Breaker, Key, Steer, Steered};
use crate::resilience::BreakerSettings;
use crate::resilience::breaker::Cause;
use crate::upstream::ByHand;

pub(super) fn routes() -> Router<Admin> {
    Router::new()
        .route("/breakers", get(list))
        .route("/breakers/{verb}", post(steer))
        .route("/addresses/{verb}", post(steer_address))
}

/// All breakers: those of operations, and the state of each address.
async fn list(State(admin): State<Admin>) -> Json<Value> {
    let now = Instant::now();
    let mut breakers = admin.gates.breakers.shared();
    breakers.sort_by_cached_key(|(key, _)| key.labels().map(str::to_owned));
    let operations: Vec<_> = breakers.iter().map(|(key, breaker)| describe(key, breaker, now)).collect();
    Json(json!({ "operations": operations, "addresses": addresses(&admin, now) }))
}

fn describe(key: &Key<BreakerSettings>, breaker: &Breaker, now: Instant) -> Value {
    let status = breaker.status(now);
    let seconds = |at: Instant| at.saturating_duration_since(now).as_secs_f64();
    json!({
        "endpoint": key.endpoint,
        "service": key.service,
        "operation": key.operation,
        "state": status.state.as_str(),
        "by_hand": status.state.is_by_hand(),
        "since_seconds": status.since.map(|since| (now - since).as_secs_f64()),
        "why": status.reason.map(|why| why.to_string()),
        "cause": status.reason.and_then(|why| why.cause()).map(Cause::as_str),
        "next_probe_seconds": status.next_probe.map(seconds),
        "requests": status.requests,
        "failures": status.failures,
        "opened": status.opened,
        "waiting": status.waiting,
    })
}

fn addresses(admin: &Admin, now: Instant) -> Vec<Value> {
    let table = admin.router.table();
    let mut upstreams: Vec<_> = table.upstreams().collect();
    upstreams.sort_by(|a, b| a.name().cmp(b.name()));
    upstreams
        .into_iter()
        .flat_map(|upstream| upstream.addresses_status(now).into_iter().map(move |status| (upstream.name(), status)))
        .map(|(upstream, status)| {
            json!({
                "upstream": upstream,
                "address": status.socket,
                "state": status.state.as_str(),
                "by_hand": status.by_hand.is_some(),
                "since_seconds": status.since.as_secs_f64(),
                "why": status.reason,
                "next_probe_seconds": status.next_probe.map(|next| next.as_secs_f64()),
                "in_flight": status.in_flight,
                "latency_seconds": status.latency.map(|latency| latency.as_secs_f64()),
                "ejections": status.ejections,
            })
        })
        .collect()
}

/// Which breaker. What a breaker is not kept apart by is left out.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    endpoint: Option<Arc<str>>,
    service: Option<Arc<str>>,
    operation: Option<Arc<str>>,
}

impl Which {
    fn is(&self, key: &Key<BreakerSettings>) -> bool {
        (&self.endpoint, &self.service, &self.operation) == (&key.endpoint, &key.service, &key.operation)
    }
}

/// `trip` refuses everything, `hold` keeps everything waiting, both until `reset`.
async fn steer(State(admin): State<Admin>, Path(verb): Path<String>, Query(which): Query<Which>) -> Response {
    let steer = match verb.as_str() {
        "trip" => Steer::Trip,
        "hold" => Steer::Hold,
        "reset" => Steer::Reset,
        _ => return refuse(StatusCode::NOT_FOUND, "a breaker can be told to trip, hold or reset"),
    };
    let now = Instant::now();
    let steered = admin.gates.steer(|key| which.is(key), steer, now);
    if steered.is_empty() {
        return refuse(
            StatusCode::NOT_FOUND,
            "there is no such breaker; one comes with the first request to an operation whose policy has one, \
            and again after the configuration or the endpoint changed",
        );
    }
    for Steered { key, transition, .. } in &steered {
        if let Some(transition) = transition {
            admin.telemetry.breaker_changed(key.labels(), transition);
        }
    }
    let described = steered.iter().map(|steered| describe(&steered.key, &steered.breaker, now));
    Json(described.collect::<Value>()).into_response()
}

/// Which address.
#[derive(Deserialize)]
struct WhichAddress {
    upstream: Box<str>,
    address: SocketAddr,
}

/// `down` takes an address out, `up` keeps it in, whatever happens; `auto` leaves it to what happens again.
async fn steer_address(
    State(admin): State<Admin>,
    Path(verb): Path<String>,
    Query(which): Query<WhichAddress>,
) -> Response {
    let hand = match verb.as_str() {
        "down" => Some(ByHand::Down),
        "up" => Some(ByHand::Up),
        "auto" => None,
        _ => return refuse(StatusCode::NOT_FOUND, "an address can be told to be down, up or auto"),
    };
    let table = admin.router.table();
    let mut upstreams = table.upstreams().filter(|upstream| upstream.name() == &*which.upstream);
    if !upstreams.any(|upstream| upstream.set_by_hand(which.address, hand)) {
        return refuse(StatusCode::NOT_FOUND, "there is no such upstream, or it has no such address");
    }
    Json(json!({ "addresses": addresses(&admin, Instant::now()) })).into_response()
}
