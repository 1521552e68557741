//! Policies in file order.

use crate::config::file;
use crate::config::problem::quoted_list;
use crate::config::report::Report;
use crate::config::tree::item_path;
use crate::route::{PolicyRule, Selector};

/// What a policy can set: the key, and whether a rule sets it.
type Setting = (&'static str, fn(&PolicyRule) -> bool);

const SETTINGS: [Setting; 3] = [
    ("timeout", |rule| rule.timeout.is_some()),
    ("max_request_body", |rule| rule.max_request_body.is_some()),
    ("max_response_body", |rule| rule.max_response_body.is_some()),
];

/// The rules; each sets something, and none sets again what one with the same selector sets.
pub(super) fn build(list: Option<Vec<Option<file::Policy>>>, report: &mut Report<'_>) -> Vec<PolicyRule> {
    let list = list.unwrap_or_default();
    let rules: Vec<_> = list.into_iter().map(|policy| rule(policy.unwrap_or_default())).collect();
    refuse_empty(&rules, report);
    refuse_repeated(&rules, report);
    rules
}

fn rule(file: file::Policy) -> PolicyRule {
    let selector = file.r#match.unwrap_or_default();
    PolicyRule {
        selector: Selector {
            endpoint: selector.endpoint.map(|name| name.0),
            service: selector.service.map(|name| name.0),
            operation: selector.operation.map(|name| name.0),
        },
        timeout: file.timeout.map(|value| value.0),
        max_request_body: file.max_request_body.map(|value| value.0),
        max_response_body: file.max_response_body.map(|value| value.0),
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
