//! What goes on beside the requests as long as an upstream exists: look-ups of addresses, probes, the closing of idle
//! connections.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode, Uri};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use super::balancer::Balancer;
use super::connection::{Connection, Failed, Head};
use super::dial::{Dialed, Dialer};
use super::pool::Address;
use super::{Upstream, UpstreamSettings};
use crate::resilience::health::{PROBE_TIMEOUT, Probed};

/// Time between two looks for idle connections that died or are too old.
const SWEEP_EVERY: Duration = Duration::from_secs(5);
/// Time between two look-ups while no address can be used: what came back may have another one.
const SEARCH_EVERY: Duration = Duration::from_secs(1);

/// Looks after `upstream` until it is dropped.
pub(super) fn begin(upstream: &Arc<Upstream>) {
    tokio::spawn(keep_house(Arc::downgrade(upstream)));
    let Upstream { balancer, dialer, settings, .. } = &**upstream;
    tokio::spawn(keep_probing(Arc::downgrade(balancer), Arc::clone(dialer), settings.clone()));
}

/// Looks addresses up again and closes what is idle for too long.
async fn keep_house(upstream: Weak<Upstream>) {
    let mut next_look_up = Instant::now();
    loop {
        let Some(upstream) = upstream.upgrade() else { return };
        let (balancer, settings) = (&upstream.balancer, &upstream.settings);
        if !balancer.is_literal() && (Instant::now() >= next_look_up || !balancer.is_usable()) {
            look_up(&upstream).await;
            next_look_up = Instant::now() + settings.resolve_every;
        }
        for address in balancer.addresses().iter() {
            address.sweep(Instant::now(), settings.idle_timeout);
        }
        let (is_literal, is_usable) = (balancer.is_literal(), balancer.is_usable());
        let mut usable = balancer.usable();
        let pause = SWEEP_EVERY.min(settings.resolve_every);
        drop(upstream);
        if is_literal {
            sleep(pause).await;
        } else if !is_usable {
            sleep(SEARCH_EVERY.min(pause)).await;
        } else {
            // A host name whose addresses are lost is looked up at once.
            let _ = timeout(pause, usable.wait_for(|usable| !usable)).await;
        }
    }
}

async fn look_up(upstream: &Upstream) {
    let outcome = upstream.balancer.resolve().await.map_err(|error| error.to_string());
    if let Err(error) = &outcome {
        upstream.counts.unresolved.fetch_add(1, Ordering::Relaxed);
        let is_new = upstream.looked_up.borrow().as_ref() != Some(&outcome);
        if is_new {
            tracing::warn!(
                upstream = upstream.name(),
                error,
                "cannot look up the addresses; the last ones stay in use"
            );
        }
    }
    upstream.looked_up.send_replace(Some(outcome));
}

/// Probes each address when it wants it, and ends ejections. The probes under way end with this.
async fn keep_probing(balancer: Weak<Balancer>, dialer: Arc<Dialer>, settings: UpstreamSettings) {
    let Some(mut chosen) = balancer.upgrade().map(|balancer| balancer.chosen()) else { return };
    let mut probes = JoinSet::new();
    loop {
        chosen.mark_unchanged();
        let Some(next) = balancer.upgrade().map(|balancer| {
            let all = balancer.addresses();
            let due = |address| take_care(address, all.len() < 2, &mut probes, &dialer, &settings);
            all.iter().filter_map(due).min()
        }) else {
            return;
        };
        let next_due = async {
            match next {
                Some(next) => sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = chosen.changed() => if changed.is_err() { return },
            Some(_) = probes.join_next() => {}
            () = next_due => {}
        }
    }
}

/// Does what is due at an address. When is there something again?
fn take_care(
    address: &Arc<Address>,
    is_alone: bool,
    probes: &mut JoinSet<()>,
    dialer: &Arc<Dialer>,
    settings: &UpstreamSettings,
) -> Option<Instant> {
    let now = Instant::now();
    address.note(|health| health.tick(now));
    let mut health = address.health();
    if health.next_probe(is_alone).is_some_and(|next| next <= now) {
        health.probing(now);
        let patience = PROBE_TIMEOUT.min(settings.connect_timeout);
        probes.spawn(probe(Arc::clone(address), Arc::clone(dialer), patience));
    }
    health.due(is_alone)
}

/// Finds out whether the address is well, and notes it.
async fn probe(address: Arc<Address>, dialer: Arc<Dialer>, patience: Duration) {
    let began = Instant::now();
    let note = |outcome: Probed<'_>| {
        let (now, is_alone) = (Instant::now(), address.is_alone());
        address.note(|health| health.probed(began, now, outcome, is_alone));
    };
    let connection = match dialer.dial(&address, patience).await {
        Ok(connection) => connection,
        Err(error) => return note(Probed::Refused(&format!("a probe could not connect: {error}"))),
    };
    let Some(uri) = address.probe() else { return note(Probed::Answered) };
    match timeout_at(began + PROBE_TIMEOUT, ask(connection, &address, uri)).await {
        Ok(Ok(status)) if status.as_u16() < 500 => note(Probed::Answered),
        Ok(Ok(status)) => note(Probed::Unwilling(&format!("a probe was answered {status}"))),
        Ok(Err(failed)) => note(Probed::Silent(&format!("a probe was not answered: {}", failed.text))),
        Err(_) => note(Probed::Silent(&format!("a probe was not answered within {PROBE_TIMEOUT:?}"))),
    }
}

async fn ask(dialed: Dialed, address: &Address, uri: &Uri) -> Result<StatusCode, Failed> {
    let mut connection = match dialed {
        Dialed::Http1(connection) => Connection::Http1(connection),
        Dialed::Http2(connection) => Connection::Http2(connection.enter().ok_or_else(Failed::closed)?),
    };
    let head = Head { method: Method::GET, uri: uri.clone(), headers: HeaderMap::new() };
    let (head, _) = connection.send(head, Bytes::new(), address).await?;
    Ok(head.status)
}
