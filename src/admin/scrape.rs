//! Metrics whose values their owners keep, taken when they are asked for.

use std::sync::atomic::Ordering;

use prometheus::{IntCounterVec, IntGauge};
use tokio::time::Instant;

use super::Admin;
use super::parked::seconds_since;
use crate::park::store::State as RowState;
use crate::registry::CONFIGURATION;
use crate::resilience::breaker::State;

/// Breakers and limits that have series of their own. Those that are not closed come first, so that none that matters
/// is left out.
const MAX_SERIES: usize = 5_000;

impl Admin {
    /// All metrics as Prometheus reads them, with the values that others keep as they are now.
    pub(super) fn scrape(&self) -> String {
        let scraped = &self.telemetry.scraped;
        // Of two scrapes at a time one would see what the other has just reset.
        let _one = scraped.begin();
        for vec in [
            &scraped.upstream_connects,
            &scraped.upstream_replays,
            &scraped.upstream_resolve_errors,
            &scraped.upstream_ejections,
            &scraped.upstream_probes,
        ] {
            vec.reset();
        }
        scraped.upstream_connections.reset();
        scraped.upstream_addresses.reset();
        let now = Instant::now();
        for upstream in self.router.table().upstreams() {
            let (name, counts, (open, idle)) = (upstream.name(), upstream.counts(), upstream.connections());
            let connections = |state| scraped.upstream_connections.with_label_values(&[name, state]);
            connections("idle").add(gauge(idle));
            connections("busy").add(gauge(open.saturating_sub(idle)));
            for address in upstream.addresses_status(now) {
                scraped.upstream_addresses.with_label_values(&[name, address.state.as_str()]).inc();
                add(&scraped.upstream_ejections, &[name], address.ejections);
                add(&scraped.upstream_probes, &[name, "ok"], address.probes_ok);
                add(&scraped.upstream_probes, &[name, "error"], address.probes_failed);
            }
            add(&scraped.upstream_connects, &[name, "ok"], counts.connected.load(Ordering::Relaxed));
            add(&scraped.upstream_connects, &[name, "error"], counts.refused.load(Ordering::Relaxed));
            add(&scraped.upstream_replays, &[name], counts.replayed.load(Ordering::Relaxed));
            add(&scraped.upstream_resolve_errors, &[name], counts.unresolved.load(Ordering::Relaxed));
        }
        self.scrape_registry();
        self.scrape_credentials();
        self.scrape_key_sets();
        self.scrape_breakers();
        self.scrape_concurrency();
        self.scrape_store();
        self.scrape_parked();
        scraped.queued_bytes.set(gauge(self.gates.bytes.held()));
        self.telemetry.encode()
    }

    fn scrape_parked(&self) {
        let metrics = &self.telemetry.parking;
        for vec in [&metrics.rows, &metrics.bytes, &metrics.oldest, &metrics.store_up] {
            vec.reset();
        }
        let Some(park) = self.gateway.park() else { return };
        let status = park.status();
        for count in &status.counts {
            metrics.rows.with_label_values(&[&*count.endpoint, count.state.name()]).set(whole(count.rows));
            metrics.bytes.with_label_values(&[&*count.endpoint]).add(whole(count.bytes));
            if count.state != RowState::Started {
                let oldest = metrics.oldest.with_label_values(&[&*count.endpoint]);
                oldest.set(oldest.get().max(whole(seconds_since(count.oldest))));
            }
        }
        metrics.store_up.with_label_values::<&str>(&[]).set(i64::from(status.up));
        metrics.in_flight.set(gauge(status.in_flight));
        for (counter, value) in [
            (&metrics.store_errors, status.errors),
            (&metrics.commits, status.commits),
            (&metrics.writes, status.writes),
        ] {
            counter.reset();
            counter.inc_by(value);
        }
    }

    fn scrape_breakers(&self) {
        let (scraped, now) = (&self.telemetry.scraped, Instant::now());
        for gauges in [&scraped.breaker_state, &scraped.breaker_next_probe, &scraped.breaker_changed] {
            gauges.reset();
        }
        let mut breakers = self.gates.breakers.shared();
        breakers.sort_by_cached_key(|(_, breaker)| breaker.status(now).state == State::Closed);
        for (key, breaker) in breakers.iter().take(MAX_SERIES) {
            // Rules for different callers may keep breakers of the same operation: the one that lets the least through.
            let gauge = scraped.breaker_state.with_label_values(&key.labels());
            let status = breaker.status(now);
            gauge.set(gauge.get().max(number(status.state)));
            if let Some(next) = status.next_probe {
                let seconds = next.saturating_duration_since(now).as_secs();
                scraped.breaker_next_probe.with_label_values(&key.labels()).set(seconds.try_into().unwrap_or(i64::MAX));
            }
            if let Some(since) = status.since {
                let seconds = now.saturating_duration_since(since).as_secs();
                scraped.breaker_changed.with_label_values(&key.labels()).set(seconds.try_into().unwrap_or(i64::MAX));
            }
        }
    }

    fn scrape_store(&self) {
        let scraped = &self.telemetry.scraped;
        scraped.store_up.reset();
        scraped.store_decisions.reset();
        let Some(store) = self.gates.shared() else { return };
        let status = store.status();
        scraped.store_up.with_label_values::<&str>(&[]).set(status.up.into());
        add(&scraped.store_decisions, &["ok"], status.decisions);
        add(&scraped.store_decisions, &["error"], status.errors);
    }

    fn scrape_key_sets(&self) {
        let scraped = &self.telemetry.scraped;
        scraped.jwks_fetches.reset();
        scraped.jwks_age.reset();
        let Some(authentication) = self.gateway.authentication() else { return };
        for set in authentication.key_sets() {
            add(&scraped.jwks_fetches, &[&set.issuer, "ok"], set.ok);
            add(&scraped.jwks_fetches, &[&set.issuer, "error"], set.failed);
            if let Some(age) = set.age {
                scraped.jwks_age.with_label_values(&[&*set.issuer]).set(age.as_secs_f64());
            }
        }
    }

    fn scrape_credentials(&self) {
        let refreshes = &self.telemetry.scraped.credentials_refreshes;
        refreshes.reset();
        for of in self.router.wallet().refreshes() {
            add(refreshes, &[&of.target, "ok"], of.ok);
            add(refreshes, &[&of.target, "error"], of.failed);
        }
    }

    fn scrape_concurrency(&self) {
        let scraped = &self.telemetry.scraped;
        for gauges in [&scraped.concurrency_limit, &scraped.concurrency_in_flight] {
            gauges.reset();
        }
        for (key, limit) in self.gates.concurrency.shared().iter().take(MAX_SERIES) {
            let status = limit.status();
            scraped.concurrency_limit.with_label_values(&key.labels()).add(gauge(status.limit));
            scraped.concurrency_in_flight.with_label_values(&key.labels()).add(gauge(status.in_flight));
        }
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
        let dropped = self.telemetry.audit_log().map_or(0, |log| log.dropped());
        scraped.audit_log_dropped.set(gauge(dropped));
    }
}

fn add(vec: &IntCounterVec, labels: &[&str], value: u64) {
    vec.with_label_values(labels).inc_by(value);
}

fn set(metric: &IntGauge, value: u64) {
    metric.set(whole(value));
}

fn whole(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn gauge(value: usize) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// The larger, the less goes.
fn number(state: State) -> i64 {
    match state {
        State::Closed => 0,
        State::HalfOpen => 1,
        State::Open => 2,
        State::Tripped => 3,
        State::Held => 4,
    }
}
