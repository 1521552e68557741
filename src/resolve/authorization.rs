//! Why a caller may call an endpoint, or not: each rule in order.

use std::fmt::Write;

use super::{Question, line};
use crate::admission::Authorization;
use crate::admission::authorize::{ANONYMOUS, Asked, AuthorizationSettings, Denied, Part, Pattern, Rule, Who};
use crate::config::Settings;

/// The caller that is called so in rules.
pub fn asker<'a>(name: &'a str, namespace: Option<&'a str>) -> Who<'a> {
    let name = (name != ANONYMOUS).then_some(name);
    Who { name, namespace: namespace.filter(|_| name.is_some()) }
}

/// What rules say of the question.
pub(super) fn explain(text: &mut String, settings: &Settings, endpoint: &str, question: Question<'_>) {
    let rules = settings.authorization.as_ref();
    let authorization = authorization(settings);
    if !authorization.decides() {
        line(
            text,
            "authorization",
            "everybody may call everything (there is neither authentication nor authorization)",
        );
        return;
    }
    let Some(who) = question.who else {
        line(text, "authorization", "ask with --as about a caller");
        return;
    };
    line(text, "caller", described(who));
    let Question { service, operation, .. } = question;
    let asked = Asked { endpoint, service, operation };
    for (index, rule) in rules.map_or(&[][..], |rules| &rules.rules).iter().enumerate() {
        line(text, &format!("rules[{index}]"), of_rule(rule, who, asked));
    }
    line(text, "authorization", verdict(rules, &authorization, who, asked));
}

/// As the gateway makes it.
fn authorization(settings: &Settings) -> Authorization {
    Authorization::new(settings.authorization.as_ref(), settings.authentication.is_some())
}

fn described(who: Who<'_>) -> String {
    match (who.name, who.namespace) {
        (None, _) => format!("{ANONYMOUS}: shows no credential"),
        (Some(name), None) => format!("{name}, of no known namespace"),
        (Some(name), Some(namespace)) => format!("{name}, of namespace {namespace}"),
    }
}

/// Why a rule fits, or which part of it does not. What was not asked for fits, under the condition that is named.
fn of_rule(rule: &Rule, who: Who<'_>, asked: Asked<'_>) -> String {
    let is_open = |part| match part {
        Part::Service => asked.service.is_empty(),
        Part::Operation => asked.operation.is_empty(),
        Part::Caller | Part::Namespace | Part::Endpoint => false,
    };
    let services = rule.services.as_ref().filter(|_| is_open(Part::Service));
    let operations = rule.operations.as_ref().filter(|_| is_open(Part::Operation));
    let relaxed = Rule {
        services: rule.services.clone().filter(|_| services.is_none()),
        operations: rule.operations.clone().filter(|_| operations.is_none()),
        ..rule.clone()
    };
    if let Some(part) = relaxed.misfit(who, asked) {
        return misfit(rule, part, who, asked);
    }
    let mut text = "fits".to_owned();
    for (what, patterns) in [("services", services), ("operations", operations)] {
        if let Some(patterns) = patterns {
            // Writing to a string does not fail.
            let _ = write!(text, ", for {what} {}", listed(patterns));
        }
    }
    text
}

fn misfit(rule: &Rule, part: Part, who: Who<'_>, asked: Asked<'_>) -> String {
    let (key, patterns, name) = match part {
        Part::Caller => ("callers", &rule.callers.names, Some(who.name.unwrap_or(ANONYMOUS))),
        Part::Namespace => ("namespaces", &rule.callers.namespaces, who.namespace),
        Part::Endpoint => ("endpoints", &rule.endpoints, Some(asked.endpoint)),
        Part::Service => ("services", &rule.services, Some(asked.service)),
        Part::Operation => ("operations", &rule.operations, Some(asked.operation)),
    };
    let patterns = patterns.as_deref().map_or_else(|| "every known caller".into(), listed);
    match name {
        Some(name) => format!("does not fit: `{key}`, {patterns}, has no {name}"),
        None => format!("does not fit: `{key}`, {patterns}, and the caller has none"),
    }
}

fn verdict(
    rules: Option<&AuthorizationSettings>,
    authorization: &Authorization,
    who: Who<'_>,
    asked: Asked<'_>,
) -> String {
    let shown = authorization.shows(who, asked.endpoint);
    if shown.is_ok() && (asked.service.is_empty() || asked.operation.is_empty()) {
        return "ask with --service and --operation: the endpoint is there for this caller".into();
    }
    match authorization.decide(who, asked) {
        Ok(authorized) => match authorized.rule() {
            Some(rule) => format!("allowed by {rule}"),
            None => "allowed".into(),
        },
        Err(Denied::Unauthenticated) => "401 unauthenticated: no rule is for anonymous callers".into(),
        Err(Denied::Hidden) => "404 unknown_endpoint: no rule shows the endpoint to this caller".into(),
        Err(Denied::Forbidden) if shown.is_ok() => "403 forbidden: no rule allows the operation".into(),
        Err(Denied::Forbidden) => {
            let told = rules.is_some_and(|rules| rules.tell_forbidden);
            let why = if told { " (authorization.tell_forbidden)" } else { "" };
            format!("403 forbidden: no rule shows the endpoint to this caller{why}")
        }
    }
}

fn listed(patterns: &[Pattern]) -> String {
    let patterns: Vec<_> = patterns.iter().map(ToString::to_string).collect();
    format!("[{}]", patterns.join(", "))
}
