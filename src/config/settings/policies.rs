//! Policies in file order, and what has to fit together among them.

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::Instant;

use crate::config::file;
use crate::config::problem::quoted_list;
use crate::config::report::Report;
use crate::config::tree::item_path;
use crate::config::units::{format_duration, format_size};
use crate::resilience::rate_limit::Scope;
use crate::resilience::{Deadline, FLOOR};
use crate::route::{Policies, Policy, PolicyRule, Selector, Toggle, TokenRule};

mod limits;
mod park;

pub(super) use park::{
    refuse_park_beyond_all, refuse_park_direct, refuse_park_little_room, refuse_park_without_destination,
    refuse_park_without_folder,
};

/// What a policy can set: the key, and whether a rule sets it.
type Setting = (&'static str, fn(&PolicyRule) -> bool);

/// What holds is found out for each pair of a caller and a namespace that rules name, whenever an operation is asked for
/// the first time.
const MAX_PAIRS: usize = 1000;

const SETTINGS: [Setting; 13] = [
    ("timeout", |rule| rule.timeout.is_some()),
    ("max_request_body", |rule| rule.max_request_body.is_some()),
    ("max_response_body", |rule| rule.max_response_body.is_some()),
    ("hold", |rule| rule.hold.is_some()),
    ("rate_limit", |rule| rule.rate_limit.is_some()),
    ("concurrency", |rule| rule.concurrency.is_some()),
    ("retry", |rule| rule.retry.is_some()),
    ("breaker", |rule| rule.breaker.is_some()),
    ("park", |rule| rule.park.is_some()),
    ("callbacks", |rule| rule.relay.is_some()),
    ("sticky", |rule| rule.sticky.is_some()),
    ("tokens", |rule| rule.tokens.is_some()),
    ("redact", |rule| rule.redact.is_some()),
];

/// The rules; each sets something, and none sets again what one with the same selector sets.
pub(super) fn build(list: Option<Vec<Option<file::Policy>>>, report: &mut Report<'_>) -> Vec<PolicyRule> {
    let list = list.unwrap_or_default().into_iter().map(Option::unwrap_or_default).enumerate();
    let rules: Vec<_> = list.map(|(index, policy)| rule(policy, &item_path("policies", index), report)).collect();
    refuse_empty(&rules, report);
    refuse_repeated(&rules, report);
    refuse_many_pairs(&rules, report);
    refuse_long_waits(&rules, report);
    rules
}

fn rule(file: file::Policy, path: &str, report: &mut Report<'_>) -> PolicyRule {
    let selector = file.r#match.unwrap_or_default();
    if selector.caller_namespace.is_some() && selector.caller.as_ref().is_some_and(|caller| caller.0.is_address()) {
        let message =
            "is for nobody: who is known by an address calls from no namespace; remove it, or name the caller";
        report.add_about(&format!("{path}.match.caller_namespace"), message);
    }
    PolicyRule {
        selector: Selector {
            caller: selector.caller.map(|caller| caller.0),
            caller_namespace: selector.caller_namespace.map(|namespace| (*namespace.0).into()),
            endpoint: selector.endpoint.map(|name| name.0),
            service: selector.service.map(|name| name.0),
            operation: selector.operation.map(|name| name.0),
        },
        timeout: file.timeout.map(|value| value.0),
        max_request_body: file.max_request_body.map(|value| value.0),
        max_response_body: file.max_response_body.map(|value| value.0),
        hold: file.hold,
        rate_limit: limits::rate_limit(file.rate_limit, &format!("{path}.rate_limit"), report),
        concurrency: limits::concurrency(file.concurrency, &format!("{path}.concurrency"), report),
        retry: limits::retry(file.retry, &format!("{path}.retry"), report),
        breaker: limits::breaker(file.breaker, &format!("{path}.breaker"), report),
        park: park::park(file.park, &format!("{path}.park"), report),
        relay: file.callbacks.map(|callbacks| matches!(callbacks, file::Callback::Relay)),
        sticky: file.sticky,
        tokens: file.tokens.map(|tokens| match tokens {
            file::Tokens::Sealed => TokenRule::Sealed,
            file::Tokens::Any => TokenRule::Any,
        }),
        redact: file.redact.map(|redact| matches!(redact, file::Redact::On)),
    }
}

fn refuse_empty(rules: &[PolicyRule], report: &mut Report<'_>) {
    let keys = quoted_list(SETTINGS.map(|(key, _)| key));
    for (index, rule) in rules.iter().enumerate() {
        if !SETTINGS.iter().any(|(_, is_set)| is_set(rule)) {
            let message = format!("this policy sets nothing; write one of {keys}, or remove it");
            report.add(&item_path("policies", index), message);
        }
    }
}

fn refuse_repeated(rules: &[PolicyRule], report: &mut Report<'_>) {
    let mut earlier: Vec<(String, &PolicyRule)> = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let path = item_path("policies", index);
        // A selector without its bad parts would be taken for another one.
        if report.is_known_bad(&format!("{path}.match")) {
            continue;
        }
        for (key, is_set) in SETTINGS.iter().filter(|(_, is_set)| is_set(rule)) {
            let same = |first: &&(String, &PolicyRule)| first.1.selector == rule.selector && is_set(first.1);
            if let Some((first, _)) = earlier.iter().find(same) {
                let first = format!("{first}.{key}");
                let place = report.place(&first);
                let message = format!("already set for the same requests by `{first}` ({place}); keep one of them");
                report.add(&format!("{path}.{key}"), message);
            }
        }
        earlier.push((path, rule));
    }
}

fn refuse_many_pairs(rules: &[PolicyRule], report: &mut Report<'_>) {
    let callers: BTreeSet<_> = rules.iter().filter_map(|rule| rule.selector.caller.as_ref()).collect();
    let namespaces: BTreeSet<_> = rules.iter().filter_map(|rule| rule.selector.caller_namespace.as_ref()).collect();
    let (callers, namespaces) = (callers.len(), namespaces.len());
    if callers * namespaces > MAX_PAIRS {
        let message = format!(
            "name {callers} callers and {namespaces} namespaces, and each of those could call from each of these; name so \
            few that there are at most {MAX_PAIRS} pairs"
        );
        report.add("policies", message);
    }
}

/// A wait that does not end before the last moment to send anything would only end in a failure for lateness. The
/// time-out is the one that holds for those requests of the rule that no narrower rule matches.
fn refuse_long_waits(rules: &[PolicyRule], report: &mut Report<'_>) {
    // Without the bad ones another time-out would seem to hold.
    let is_unknown = |index| ["match", "timeout"].map(|key| format!("{}.{key}", item_path("policies", index)));
    if (0..rules.len()).flat_map(is_unknown).any(|path| report.is_known_bad(&path)) {
        return;
    }
    let policies = Policies::new(rules.to_vec());
    for (index, rule) in rules.iter().enumerate() {
        let waits = [
            ("rate_limit", on(rule.rate_limit.as_ref()).map(|limit| limit.max_wait)),
            ("concurrency", on(rule.concurrency.as_ref()).map(|limit| limit.max_wait)),
        ];
        let timeout = policies.explain_selector(&rule.selector).timeout;
        for (key, wait) in waits {
            if let Some(wait) = wait.filter(|wait| !wait.is_zero() && *wait >= time_to_wait(timeout.value)) {
                let path = format!("{}.{key}.max_wait", item_path("policies", index));
                report.add(&path, too_long(wait, timeout.value, timeout.rule, report));
            }
        }
    }
}

fn on<T>(setting: Option<&Toggle<T>>) -> Option<&T> {
    match setting {
        Some(Toggle::On(settings)) => Some(settings),
        Some(Toggle::Off) | None => None,
    }
}

/// The time from a request's begin to the last moment at which something can be sent.
fn time_to_wait(timeout: Duration) -> Duration {
    let now = Instant::now();
    Deadline::new(now, None, timeout).last_start() - now
}

fn too_long(wait: Duration, timeout: Duration, rule: Option<usize>, report: &Report<'_>) -> String {
    let whose = rule.map(|index| format!("{}.timeout", item_path("policies", index)));
    let whose = whose.map_or_else(|| "the default".into(), |path| format!("`{path}`, {}", report.place(&path)));
    let reserved = if timeout > FLOOR { format!("an attempt needs {FLOOR:?}") } else { "an attempt needs half".into() };
    let time = time_to_wait(timeout);
    let timeout = format_duration(timeout);
    format!(
        "a wait of {wait:?} is too long for a timeout of {timeout} ({whose}), of which {reserved}; write less than \
        `{time:?}`"
    )
}

/// Limits that several gateways share need a store.
pub(super) fn refuse_shared_without_store(rules: &[PolicyRule], report: &mut Report<'_>) {
    for (index, rule) in rules.iter().enumerate() {
        if on(rule.rate_limit.as_ref()).is_some_and(|limit| limit.scope == Scope::Global) {
            let path = format!("{}.rate_limit.scope", item_path("policies", index));
            report.add(
                &path,
                "a global limit needs a store; write `redis: { url: redis://HOST:PORT }`, or `scope: local`",
            );
        }
    }
}

/// Completions come back to a public URL.
pub(super) fn refuse_relay_without_url(rules: &[PolicyRule], can_relay: bool, report: &mut Report<'_>) {
    for (index, _) in rules.iter().enumerate().filter(|(_, rule)| rule.relay == Some(true) && !can_relay) {
        let path = format!("{}.callbacks", item_path("policies", index));
        let message = "there is no way to relay without a public URL; write `public_url: http://HOST:PORT` under \
            `callbacks`, or `direct` here";
        report.add(&path, message);
    }
}

/// Only what is relayed can be sticky, unless each token is sealed, and then each is. What is relayed and sealed is said
/// as for [`refuse_long_waits`].
pub(super) fn refuse_sticky(rules: &[PolicyRule], can_relay: bool, is_guarded: bool, report: &mut Report<'_>) {
    let keys = ["match", "callbacks", "tokens"];
    let is_unknown = |index| keys.map(|key| format!("{}.{key}", item_path("policies", index)));
    if (0..rules.len()).flat_map(is_unknown).any(|path| report.is_known_bad(&path)) {
        return;
    }
    let policies = Policies::new(rules.to_vec());
    for (index, rule) in rules.iter().enumerate() {
        let Some(sticky) = rule.sticky else { continue };
        let decision = policies.explain_selector(&rule.selector);
        let relay = decision.relay;
        let why = match (decision.tokens.value, decision.tokens.rule) {
            (Some(TokenRule::Sealed), Some(rule)) => {
                let path = format!("{}.tokens", item_path("policies", rule));
                Some(format!("`{path}`, {}", report.place(&path)))
            }
            (None, _) if is_guarded => Some("there is `authentication`".into()),
            _ => None,
        };
        if let Some(why) = why {
            if !sticky {
                let message = format!(
                    "has no effect, since these tokens are sealed ({why}) and name their target; remove it, or write \
                    `tokens: any` beside it"
                );
                report.add(&format!("{}.sticky", item_path("policies", index)), message);
            }
            continue;
        }
        if !sticky {
            continue;
        }
        let why = match relay.rule.filter(|_| !relay.value) {
            Some(rule) => {
                let path = format!("{}.callbacks", item_path("policies", rule));
                format!("`{path}`, {}", report.place(&path))
            }
            None if !can_relay => "there is no `callbacks.public_url`".into(),
            None => continue,
        };
        let path = format!("{}.sticky", item_path("policies", index));
        report.add(&path, format!("only relayed operations can be sticky, and these are not ({why}); remove it"));
    }
}

/// A body that may come must find room, or it never can be held.
pub(super) fn refuse_little_room(rules: &[PolicyRule], room: usize, report: &mut Report<'_>) {
    let bodies = rules.iter().enumerate().filter_map(|(index, rule)| Some((rule.max_request_body?, Some(index))));
    let default = (Policy::default().max_request_body, None);
    let Some((body, rule)) = bodies.chain([default]).max_by_key(|(body, _)| *body).filter(|(body, _)| *body > room)
    else {
        return;
    };
    let path = rule.map(|index| format!("{}.max_request_body", item_path("policies", index)));
    let whose = path.map_or_else(|| "the default".into(), |path| format!("`{path}`, {}", report.place(&path)));
    let body = format_size(body);
    let message = format!("has no room for the largest request body, {body} ({whose}); write at least `{body}`");
    report.add_about("server.max_queued_bytes", &message);
}
