//! What is right in a configuration, and good to know before it is put in force.

use std::collections::BTreeSet;
use std::time::SystemTime;

use super::Settings;
use super::expiry::expiring;
use super::problem::quoted_list;
use crate::admission::authorize::{ANONYMOUS, Callers, Pattern, Rule};
use crate::admission::{AuthenticationSettings, AuthorizationSettings};
use crate::route::{Policies, Toggle};

const COMPLETIONS: &str = "authorization.completions";

/// What `check` says of settings that are right, one line each.
pub fn notes(settings: &Settings) -> Vec<String> {
    let parks = settings.policies.iter().any(|rule| matches!(rule.park, Some(Toggle::On(_))));
    let parking = if parks { of_parking(settings) } else { Vec::new() };
    let expiring = expiring(settings, SystemTime::now());
    let (admin, authorization, redaction) = (of_admin(settings), of_authorization(settings), of_redaction(settings));
    let admin = admin.into_iter().chain(of_keys(settings));
    admin.chain(expiring).chain(parking).chain(authorization).chain(redaction).collect()
}

/// Keys that seal nothing.
fn of_keys(settings: &Settings) -> Option<String> {
    let callbacks = &settings.callbacks;
    let seals = callbacks.public_url.is_some() || settings.seals_tokens();
    let note = "`callbacks.keys` seal nothing, since there is no `callbacks.public_url` and no token is sealed: they open \
        tokens that were sealed before";
    (!callbacks.keys.is_empty() && !seals).then(|| note.into())
}

/// What an operator finds closed.
fn of_admin(settings: &Settings) -> Option<String> {
    let closed = "the admin port listens beyond loopback and shows health and metrics only; `admin.token`, or `admin.tls` \
        with `clients`, opens the rest";
    settings.admin.is_closed().then(|| closed.into())
}

/// Rules that let nobody in, though they are right.
fn of_authorization(settings: &Settings) -> Vec<String> {
    let authenticated = settings.authentication.is_some();
    let Some(authorization) = &settings.authorization else {
        let note = "nobody may call anything: callers are authenticated, and there are no `authorization.rules`";
        return authenticated.then(|| note.into()).into_iter().collect();
    };
    if authorization.rules.is_empty() {
        return vec!["nobody may call anything: `authorization` has no `rules`".into()];
    }
    let mut notes = Vec::new();
    let is_anonymous = |names: &Vec<Pattern>| names.iter().any(|name| name.exact() == Some(ANONYMOUS));
    if !authenticated && authorization.rules.iter().any(|rule| !rule.callers.names.as_ref().is_some_and(is_anonymous)) {
        notes.push("callers are not authenticated, so all are `anonymous`: only rules that list that can fit".into());
    }
    if settings.authentication.as_ref().is_some_and(AuthenticationSettings::tell_namespaces) {
        notes.extend(of_any_namespace(authorization));
    }
    // What a cluster's registry has is not known here.
    if settings.clusters.iter().all(|cluster| cluster.discover.is_none()) {
        notes.extend(without_endpoint(settings, &authorization.rules));
    }
    notes
}

/// Rules for names that somebody else may have in another namespace.
fn of_any_namespace(authorization: &AuthorizationSettings) -> Option<String> {
    let names_some = |callers: &Callers| {
        let is_name = |name: &Pattern| name.exact() != Some(ANONYMOUS) && name.to_string() != "*";
        callers.namespaces.is_none() && callers.names.iter().flatten().any(is_name)
    };
    let rules = authorization.rules.iter().enumerate().filter(|(_, rule)| names_some(&rule.callers));
    let mut places: Vec<_> = rules.map(|(index, _)| format!("authorization.rules[{index}]")).collect();
    places.extend(authorization.completions.as_ref().filter(|callers| names_some(callers)).map(|_| COMPLETIONS.into()));
    let named = quoted_list(places.iter().map(String::as_str));
    let note = "callers are named without `namespaces`: whoever is called so in any namespace fits";
    (!places.is_empty()).then(|| format!("{named}: {note}"))
}

fn without_endpoint(settings: &Settings, rules: &[Rule]) -> Vec<String> {
    let is_defined = |name: &str| settings.endpoints.iter().any(|endpoint| *endpoint.name == *name);
    let exact = |rule: &Rule| -> Vec<String> {
        let endpoints = rule.endpoints.iter().flatten().filter_map(Pattern::exact);
        endpoints.filter(|name| !is_defined(name)).map(ToOwned::to_owned).collect()
    };
    let note = |(index, names): (usize, Vec<String>)| {
        let names = quoted_list(names.iter().map(String::as_str));
        format!("`authorization.rules[{index}]` is for {names}, which `endpoints` does not define")
    };
    rules.iter().map(exact).enumerate().filter(|(_, names)| !names.is_empty()).map(note).collect()
}

/// Policies that cut failures, of which those of asynchronous operations do not come this way.
fn of_redaction(settings: &Settings) -> Option<String> {
    let policies = Policies::new(settings.policies.clone());
    let is_relayed = settings.callbacks.public_url.is_some();
    let decided = settings.policies.iter().map(|rule| policies.explain_selector(&rule.selector));
    let direct = decided.filter(|decision| decision.redact.value && !(is_relayed && decision.relay.value));
    let rules: BTreeSet<_> = direct.filter_map(|decision| decision.redact.rule).collect();
    let places: Vec<_> = rules.iter().map(|rule| format!("policies[{rule}].redact")).collect();
    let named = quoted_list(places.iter().map(String::as_str));
    let why = if is_relayed { "`callbacks: direct`" } else { "there is no `callbacks.public_url`" };
    let home = settings.callbacks.home.as_ref().map_or("", |_| ", but for those that come by way of `callbacks.home`");
    let note = "only failures in answers are cut where completions go straight to their callers' clusters";
    (!places.is_empty())
        .then(|| format!("{named}: {note} ({why}); those of asynchronous operations do not cross this gateway{home}"))
}

/// Which callers parking is for: a start is parked only if its completion may be sent to its callback.
fn of_parking(settings: &Settings) -> Vec<String> {
    let clusters = quoted_list(settings.clusters.iter().map(|cluster| &*cluster.name));
    let allowed: Vec<_> = settings.callbacks.allow.iter().map(ToString::to_string).collect();
    let allowed = quoted_list(allowed.iter().map(String::as_str));
    let mut destinations = Vec::new();
    if !clusters.is_empty() {
        destinations.push(format!("the configured clusters ({clusters})"));
    }
    if !allowed.is_empty() {
        destinations.push(format!("what `callbacks.allow` lists ({allowed})"));
    }
    let system = if clusters.is_empty() { "no cluster: none is configured" } else { "the configured clusters only" };
    vec![
        format!(
            "parked operations can be completed at {}; starts with a callback elsewhere are not parked",
            destinations.join(" and ")
        ),
        format!("parked operations with the callback temporal://system can be completed for {system}"),
    ]
}
