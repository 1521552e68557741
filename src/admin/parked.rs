//! Parked operations as an operator sees and steers them.

use std::time::SystemTime;

use axum::Router;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Admin, refuse};
use crate::park::Park;
use crate::park::store::{self, Id, Row, StoreError, Written};

/// Rows that are listed where the request does not say how many.
const LISTED: usize = 100;
/// Rows that are listed at most, and failed in one round.
const MOST: usize = 10_000;

pub(super) fn routes() -> Router<Admin> {
    Router::new().route("/parked", get(list)).route("/parked/{verb}", post(steer))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Listing {
    endpoint: Option<String>,
    limit: Option<usize>,
}

/// What is parked: in all, and the oldest operations.
async fn list(State(admin): State<Admin>, Query(listing): Query<Listing>) -> Response {
    let Some(park) = admin.gateway.park() else { return parks_nothing() };
    let status = park.status();
    let endpoints = status.counts.iter().map(|count| {
        json!({
            "endpoint": count.endpoint,
            "state": count.state.name(),
            "operations": count.rows,
            "bytes": count.bytes,
            "oldest_seconds": seconds_since(count.oldest),
        })
    });
    let endpoints: Vec<_> = endpoints.collect();
    let limit = listing.limit.unwrap_or(LISTED).min(MOST);
    let operations = match park.list(listing.endpoint.as_deref(), limit).await {
        Ok(rows) => rows.iter().map(describe).collect::<Vec<_>>(),
        Err(error) => return broken(&error),
    };
    Json(json!({
        "store": { "up": status.up, "last_error": status.last_error },
        "in_flight": status.in_flight,
        "endpoints": endpoints,
        "parked": operations,
    }))
    .into_response()
}

fn describe(row: &Row) -> Value {
    let operation = row.lane.strip_prefix("s/").and_then(|lane| lane.split_once('/')).map(|(_, key)| key);
    json!({
        "id": row.id.to_string(),
        "endpoint": row.endpoint,
        "operation": operation,
        "state": row.state.name(),
        "reason": row.reason.name(),
        "parked_seconds": seconds_since(row.arrived),
        "due_seconds": seconds_until(row.due),
        "expires_seconds": seconds_until(row.expires),
        "tries": row.tries,
        "canceled": row.cancel,
    })
}

/// Which operations: one, or those of an endpoint that wait.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    id: Option<String>,
    endpoint: Option<String>,
    message: Option<String>,
}

/// `release` tries them at once; `fail` ends those that wait, and lets their callers see `message`. One that is on its way
/// to its target ends as canceled, unless it gets through.
async fn steer(State(admin): State<Admin>, Path(verb): Path<String>, Query(which): Query<Which>) -> Response {
    let Some(park) = admin.gateway.park() else { return parks_nothing() };
    let id = match which.id.as_deref().map(Id::parse) {
        Some(None) => return refuse(StatusCode::BAD_REQUEST, "an id has 32 hexadecimal digits, as /parked shows it"),
        Some(Some(id)) => Some(id),
        None => None,
    };
    match (verb.as_str(), id, which.endpoint, which.message) {
        ("release", Some(id), None, None) => count("released", park.hurry(store::Which::One(id)).await),
        ("release", None, Some(endpoint), None) => {
            count("released", park.hurry(store::Which::Endpoint(endpoint.into())).await)
        }
        ("release", None, None, None) => count("released", park.hurry(store::Which::All).await),
        ("release", ..) => refuse(StatusCode::BAD_REQUEST, "release takes an id, an endpoint, or neither for all"),
        ("fail", Some(id), None, Some(message)) => failed(fail(&admin, &park, &[id], &message).await),
        ("fail", None, Some(endpoint), Some(message)) => failed(fail_all(&admin, &park, &endpoint, &message).await),
        ("fail", ..) => refuse(StatusCode::BAD_REQUEST, "fail takes a message, and an id or an endpoint"),
        _ => refuse(StatusCode::NOT_FOUND, "parked operations can be told to release or fail"),
    }
}

async fn fail_all(admin: &Admin, park: &Park, endpoint: &str, message: &str) -> Result<(u64, u64), StoreError> {
    let rows = park.list(Some(endpoint), MOST).await?;
    let ids: Vec<_> = rows.iter().filter(|row| row.state == store::State::Waiting).map(|row| row.id).collect();
    fail(admin, park, &ids, message).await
}

/// How many were failed, and how many are on their way.
async fn fail(admin: &Admin, park: &Park, ids: &[Id], message: &str) -> Result<(u64, u64), StoreError> {
    let (mut failed, mut marked) = (0, 0);
    for id in ids {
        let row = park.find(*id).await?.filter(|row| row.state == store::State::Waiting);
        let Some(ending) = row.and_then(|row| admin.gateway.failed_by_hand(&row, message)) else { continue };
        match park.end(*id, ending).await? {
            Written::Canceled => failed += 1,
            Written::Marked => marked += 1,
            _ => {}
        }
    }
    Ok((failed, marked))
}

fn failed(result: Result<(u64, u64), StoreError>) -> Response {
    match result {
        Ok((failed, marked)) => Json(json!({ "failed": failed, "on_their_way": marked })).into_response(),
        Err(error) => broken(&error),
    }
}

fn count(what: &str, result: Result<u64, StoreError>) -> Response {
    match result {
        Ok(rows) => Json(json!({ what: rows })).into_response(),
        Err(error) => broken(&error),
    }
}

fn broken(error: &StoreError) -> Response {
    refuse(StatusCode::SERVICE_UNAVAILABLE, &format!("the store of parked operations does not work: {error}"))
}

fn parks_nothing() -> Response {
    refuse(StatusCode::NOT_FOUND, "this gateway parks nothing: no policy says `park`")
}

pub(super) fn seconds_since(then: u64) -> u64 {
    now().saturating_sub(then) / 1000
}

fn seconds_until(then: u64) -> u64 {
    then.saturating_sub(now()) / 1000
}

fn now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}
