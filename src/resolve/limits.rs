//! Rate limits, concurrency limits, retries, breakers and parking in one readable line each.

use std::time::Duration;

use crate::config::{format_duration, format_size};
use crate::resilience::park::{ParkReason, ParkSettings};
use crate::resilience::rate_limit::{OnFailure, Scope};
use crate::resilience::{BreakerSettings, ConcurrencySettings, Per, RateLimitSettings, RetrySettings};

pub(super) fn rate_limit(settings: &RateLimitSettings) -> String {
    let RateLimitSettings { rate, burst, max_wait, max_queue, .. } = settings;
    let every = match rate.every.as_secs() {
        1 => "s".to_owned(),
        60 => "m".to_owned(),
        3600 => "h".to_owned(),
        _ => format!("{:?}", rate.every),
    };
    let scope = match (settings.scope, settings.on_failure) {
        (Scope::Local, _) => "",
        (Scope::Global, OnFailure::Local) => ", shared by all gateways, kept by each one while the store is away",
        (Scope::Global, OnFailure::Open) => ", shared by all gateways, open while the store is away",
        (Scope::Global, OnFailure::Closed) => ", shared by all gateways, closed while the store is away",
    };
    let headers = if settings.headers { ", told in headers" } else { "" };
    let (per, wait) = (per(settings.per), wait(*max_wait, *max_queue));
    format!("{}/{every} {per}, burst {burst}, {wait}{scope}{headers}", rate.requests)
}

pub(super) fn concurrency(settings: &ConcurrencySettings) -> String {
    let ConcurrencySettings { max, max_wait, max_queue, .. } = *settings;
    let at_most = if settings.adaptive { "adaptive up to" } else { "at most" };
    format!("{at_most} {max} at a time {}, {}", per(settings.per), wait(max_wait, max_queue))
}

pub(super) fn retry(settings: &RetrySettings) -> String {
    let RetrySettings { attempts, initial, max, on, budget } = *settings;
    if attempts < 2 {
        return "off".to_owned();
    }
    let on = [
        ("connect", on.connect),
        ("reset", on.reset),
        ("unavailable", on.unavailable),
        ("timeout", on.timeout),
        ("resource_exhausted", on.resource_exhausted),
        ("internal", on.internal),
    ];
    let on = named(&on).join(", ");
    let budget = budget.map_or_else(|| "no budget".to_owned(), |percent| format!("budget {percent}%"));
    format!("{attempts} attempts, after {on}; waits below {initial:?} at first, {max:?} at most; {budget}")
}

pub(super) fn breaker(settings: &BreakerSettings) -> String {
    let BreakerSettings { min_requests, window, open_for, max_open_for, probes, .. } = settings;
    let rate = settings.failure_rate.map(|rate| format!("{rate}% of at least {min_requests} requests in {window:?}"));
    let row = settings.consecutive.map(|failures| format!("{failures} in a row"));
    let opens: Vec<_> = rate.into_iter().chain(row).collect();
    let meanwhile = if settings.hold { "requests wait" } else { "requests are refused" };
    format!(
        "opens when {} fail {}; for {open_for:?} at first, {max_open_for:?} at most; {meanwhile}; {probes} at a time \
        may probe",
        opens.join(" or "),
        per(settings.per),
    )
}

pub(super) fn park(settings: &ParkSettings) -> String {
    let on: Vec<_> = settings.on.reasons().map(ParkReason::name).collect();
    let (max, bytes, age) = (settings.max, format_size(settings.max_bytes), format_duration(settings.max_age));
    format!("on: {}; up to {max} operations, {bytes}, {age}", on.join(", "))
}

fn wait(max_wait: Duration, max_queue: usize) -> String {
    if max_wait.is_zero() || max_queue == 0 {
        return "no waiting".to_owned();
    }
    format!("up to {max_queue} wait {max_wait:?} at most")
}

fn per(per: Per) -> String {
    let parts =
        [("caller", per.caller), ("endpoint", per.endpoint), ("service", per.service), ("operation", per.operation)];
    let parts = named(&parts);
    if parts.is_empty() { "in all".to_owned() } else { format!("per {}", parts.join(", ")) }
}

fn named(parts: &[(&'static str, bool)]) -> Vec<&'static str> {
    parts.iter().filter_map(|(name, is_set)| is_set.then_some(*name)).collect()
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;
    use crate::resilience::park::ParkOn;
    use crate::resilience::rate_limit::Rate;

    #[test]
    fn each_setting_is_one_line() {
        let limit = RateLimitSettings {
            per: Per { caller: true, endpoint: true, ..Per::default() },
            rate: Rate { requests: NonZeroU32::MIN.saturating_add(499), every: Duration::from_secs(1) },
            burst: NonZeroU32::MIN,
            max_wait: Duration::from_millis(500),
            max_queue: 9,
            headers: true,
            scope: Scope::Global,
            on_failure: OnFailure::Open,
        };
        assert_eq!(
            rate_limit(&limit),
            "500/s per caller, endpoint, burst 1, up to 9 wait 500ms at most, shared by all gateways, open while the \
            store is away, told in headers"
        );
        let (per, max_wait) = (Per::default(), Duration::ZERO);
        let concurrent = ConcurrencySettings { per, max: 7, max_wait, max_queue: 9, adaptive: true };
        assert_eq!(concurrency(&concurrent), "adaptive up to 7 at a time in all, no waiting");
        assert_eq!(
            retry(&RetrySettings::default()),
            "2 attempts, after connect, unavailable; waits below 50ms at first, 1s at most; budget 20%"
        );
        assert_eq!(retry(&RetrySettings { attempts: 1, ..RetrySettings::default() }), "off");
        assert_eq!(
            breaker(&BreakerSettings { consecutive: Some(5), ..BreakerSettings::default() }),
            "opens when 50% of at least 20 requests in 10s or 5 in a row fail per endpoint, service, operation; for 5s \
            at first, 60s at most; requests are refused; 1 at a time may probe"
        );
        let (on, max_age) = (ParkOn::of([ParkReason::Saturated, ParkReason::Unreachable]), Duration::from_secs(5400));
        assert_eq!(
            park(&ParkSettings { on, max: 7, max_bytes: 3 << 20, max_age }),
            "on: unreachable, saturated; up to 7 operations, 3MiB, 90m"
        );
    }
}
