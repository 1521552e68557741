//! Rate limits, concurrency limits, retries and breakers: defaults, what is mandatory, what contradicts itself.
//!
//! Where something mandatory is missing, the setting counts as switched off: it was said, and nothing follows from it.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::config::file::{self, Cause, Level, Part, Setting};
use crate::config::report::Report;
use crate::config::settings::narrow;
use crate::config::shape::Toggled;
use crate::config::tree::item_path;
use crate::config::units::format_duration;
use crate::resilience::rate_limit::{OnFailure, Rate, Scope};
use crate::resilience::retry::RetryOn;
use crate::resilience::{BreakerSettings, ConcurrencySettings, Per, RateLimitSettings, RetrySettings};
use crate::route::Toggle;

const MAX_WAIT: Duration = Duration::from_millis(500);
const MAX_QUEUE: usize = 1000;

pub(super) fn rate_limit(
    setting: Setting<file::RateLimit>,
    path: &str,
    report: &mut Report<'_>,
) -> Option<Toggle<RateLimitSettings>> {
    let Some(file) = keys(setting)? else { return Some(Toggle::Off) };
    let scope = match file.scope {
        Some(file::Scope::Global) => Scope::Global,
        Some(file::Scope::Local) | None => Scope::Local,
    };
    let on_failure = match file.on_failure {
        Some(file::OnFailure::Open) => OnFailure::Open,
        Some(file::OnFailure::Closed) => OnFailure::Closed,
        Some(file::OnFailure::Local) | None => OnFailure::Local,
    };
    if file.on_failure.is_some() && scope == Scope::Local && !report.is_known_bad(path) {
        let message = "is for limits that gateways share; write `scope: global` beside it, or remove it";
        report.add(&format!("{path}.on_failure"), message);
    }
    let per = per(file.per, Per { endpoint: true, ..Per::default() }, path, report);
    let Some(rate) = file.rate else {
        report.add(path, "has no rate; write `rate: 500/s`, or `rate_limit: off`");
        return Some(Toggle::Off);
    };
    Some(Toggle::On(RateLimitSettings {
        per,
        rate: rate.0,
        burst: file.burst.and_then(|burst| NonZeroU32::new(narrow(burst.0))).unwrap_or_else(|| burst(rate.0)),
        max_wait: file.max_wait.map_or(MAX_WAIT, |value| value.0),
        max_queue: file.max_queue.map_or(MAX_QUEUE, |value| value.0),
        headers: file.headers.unwrap_or(false),
        scope,
        on_failure,
    }))
}

/// What the rate gives in 100 ms, at least one.
fn burst(rate: Rate) -> NonZeroU32 {
    let tenths = rate.every.as_secs().saturating_mul(10);
    let requests = u64::from(rate.requests.get()).checked_div(tenths).and_then(|burst| u32::try_from(burst).ok());
    requests.and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN)
}

pub(super) fn concurrency(
    setting: Setting<file::Concurrency>,
    path: &str,
    report: &mut Report<'_>,
) -> Option<Toggle<ConcurrencySettings>> {
    let Some(file) = keys(setting)? else { return Some(Toggle::Off) };
    let adaptive = file.adaptive.unwrap_or(false);
    let per = per(file.per, Per::OPERATION, path, report);
    let Some(max) = file.max else {
        report.add(path, "has no maximum; write `max: 256`, or `concurrency: off`");
        return Some(Toggle::Off);
    };
    if adaptive && max.0 == 1 {
        let message = "there is no limit to find up to `max: 1`; write a larger `max`, or `adaptive: false`";
        report.add(&format!("{path}.adaptive"), message);
    }
    Some(Toggle::On(ConcurrencySettings {
        per,
        max: max.0,
        max_wait: file.max_wait.map_or(MAX_WAIT, |value| value.0),
        max_queue: file.max_queue.map_or(MAX_QUEUE, |value| value.0),
        adaptive,
    }))
}

pub(super) fn retry(
    setting: Setting<file::Retry>,
    path: &str,
    report: &mut Report<'_>,
) -> Option<Toggle<RetrySettings>> {
    let Some(file) = keys(setting)? else { return Some(Toggle::Off) };
    let default = RetrySettings::default();
    let backoff = file.backoff.unwrap_or_default();
    let settings = RetrySettings {
        attempts: file.attempts.map_or(default.attempts, |value| narrow(value.0)),
        initial: backoff.initial.map_or(default.initial, |value| value.0),
        max: backoff.max.map_or(default.max, |value| value.0),
        on: retry_on(file.on, path, report).unwrap_or(default.on),
        budget: file.budget.map_or(default.budget, |value| value.0),
    };
    if settings.initial > settings.max {
        let [initial, max] = [settings.initial, settings.max].map(format_duration);
        let message = format!("{initial} is beyond `max`, {max}; write no more than that");
        report.add(&format!("{path}.backoff.initial"), message);
    }
    if settings.budget == Some(0) {
        report
            .add_about(&format!("{path}.budget"), "leaves no retry; write `retry: off`, or `budget: off` for no bound");
    }
    Some(Toggle::On(settings))
}

fn retry_on(list: Option<Vec<Option<Cause>>>, path: &str, report: &mut Report<'_>) -> Option<RetryOn> {
    let path = format!("{path}.on");
    let causes = distinct(list?, &path, report);
    if causes.is_empty() {
        report.add(&path, "lists nothing that is retried; write `retry: off`");
    }
    let mut on = RetryOn::NOTHING;
    for cause in causes {
        match cause {
            Cause::Connect => on.connect = true,
            Cause::Reset => on.reset = true,
            Cause::Unavailable => on.unavailable = true,
            Cause::Timeout => on.timeout = true,
            Cause::ResourceExhausted => on.resource_exhausted = true,
            Cause::Internal => on.internal = true,
        }
    }
    Some(on)
}

pub(super) fn breaker(
    setting: Setting<file::Breaker>,
    path: &str,
    report: &mut Report<'_>,
) -> Option<Toggle<BreakerSettings>> {
    let Some(file) = keys(setting)? else { return Some(Toggle::Off) };
    let default = BreakerSettings::default();
    let settings = BreakerSettings {
        per: file.per.map_or(default.per, level),
        failure_rate: file.failure_rate.map_or(default.failure_rate, |value| value.0),
        min_requests: file.min_requests.map_or(default.min_requests, |value| narrow(value.0)),
        window: file.window.map_or(default.window, |value| value.0),
        consecutive: file.consecutive.map_or(default.consecutive, |value| value.0.map(narrow)),
        open_for: file.open_for.map_or(default.open_for, |value| value.0),
        max_open_for: file.max_open_for.map_or(default.max_open_for, |value| value.0),
        probes: file.probes.map_or(default.probes, |value| narrow(value.0)),
        hold: file.hold.unwrap_or(default.hold),
    };
    if settings.failure_rate.is_none() && settings.consecutive.is_none() {
        report.add(path, "can never open; write `failure_rate: 50%` or `consecutive: 5`, or `breaker: off`");
    }
    if settings.open_for > settings.max_open_for {
        let [open_for, max] = [settings.open_for, settings.max_open_for].map(format_duration);
        let message = format!("{open_for} is beyond `max_open_for`, {max}; write no more than that");
        report.add(&format!("{path}.open_for"), message);
    }
    Some(Toggle::On(settings))
}

fn level(level: Level) -> Per {
    match level {
        Level::Operation => Per::OPERATION,
        Level::Service => Per { operation: false, ..Per::OPERATION },
        Level::Endpoint => Per { operation: false, service: false, ..Per::OPERATION },
    }
}

/// The keys of a setting that is not off; none where the file does not say.
#[expect(clippy::option_option, reason = "not said, off, on")]
fn keys<T>(setting: Setting<T>) -> Option<Option<T>> {
    Some(match setting? {
        Toggled::Off => None,
        Toggled::Keys(keys) => Some(keys),
    })
}

fn per(list: Option<Vec<Option<Part>>>, default: Per, path: &str, report: &mut Report<'_>) -> Per {
    let Some(list) = list else { return default };
    let mut per = Per::default();
    for part in distinct(list, &format!("{path}.per"), report) {
        match part {
            Part::Caller => per.caller = true,
            Part::Endpoint => per.endpoint = true,
            Part::Service => per.service = true,
            Part::Operation => per.operation = true,
        }
    }
    per
}

/// The items of a list, each of which may stand there once.
pub(super) fn distinct<T: Copy + PartialEq>(list: Vec<Option<T>>, path: &str, report: &mut Report<'_>) -> Vec<T> {
    let mut known = Vec::new();
    for (index, item) in list.into_iter().enumerate() {
        let path = item_path(path, index);
        match item {
            None => report.add(&path, "is empty; remove it"),
            Some(item) if known.contains(&item) => report.add_about(&path, "stands in this list already; remove it"),
            Some(item) => known.push(item),
        }
    }
    known
}
