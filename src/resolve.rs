//! `nexus-gateway resolve`: where an endpoint leads, by which source, under which policy, and why.

use std::fmt::{Display, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use crate::admission::authorize::Who;
use crate::config::Settings;
use crate::gates::{CallerKey, Gates};
use crate::registry::{CONFIGURATION, LookUp, Registry};
use crate::route::{Decided, Decision, Endpoint, Plan, Router, Table, TokenRule};
use crate::telemetry::Telemetry;

mod authorization;
mod limits;

pub use authorization::asker;

/// What there is to say of a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Resolved {
    /// The endpoint exists: several lines of text.
    Found(String),
    /// Every source says that there is none.
    Absent,
    /// A source that might have it did not answer.
    Unavailable(String),
}

/// Whose request it is that policies are asked about.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// Service name; empty: one that no rule names.
    pub service: &'a str,
    /// Operation name; empty: one that no rule names.
    pub operation: &'a str,
    /// Address of the caller; none: one that no rule names. One with a name has no need of it.
    pub caller: Option<IpAddr>,
    /// The caller that rules are asked about; none: rules are not asked.
    pub who: Option<Who<'a>>,
}

/// Asks the sources of `settings` for `name`.
pub async fn resolve(settings: Settings, name: &str, question: Question<'_>) -> Resolved {
    let ways =
        Ways { can_relay: settings.callbacks.public_url.is_some(), is_guarded: settings.authentication.is_some() };
    let router = Arc::new(Router::new(Telemetry::new(), Gates::new(&settings.server.process), 1));
    let publish_to = Arc::clone(&router);
    let registry = Registry::new(move |snapshot| publish_to.apply(snapshot), None, Arc::clone(router.wallet()));
    let (policies, upstream) = (settings.policies.clone(), settings.upstream.clone());
    router.configure(Plan::new(
        &settings.clusters,
        settings.externals.clone(),
        policies,
        upstream,
        settings.redis.clone(),
    ));
    registry.configure(&settings.clusters, settings.endpoints.clone());

    // Also where the configuration has the name: a cluster may have it, too.
    let looked_up = registry.look_up(name, &IpAddr::from(Ipv4Addr::UNSPECIFIED).into()).await;
    let table = router.table();
    match (router.find(name), looked_up) {
        (Some(endpoint), looked_up) => {
            let mut text = describe(&table, &endpoint, question, ways);
            authorization::explain(&mut text, &settings, endpoint.name(), question);
            if let LookUp::Unavailable(why) = looked_up {
                line(&mut text, "warning", format!("not every source could be asked: {why}"));
            }
            Resolved::Found(text)
        }
        (None, LookUp::Unavailable(why)) => Resolved::Unavailable(why),
        (None, _) => Resolved::Absent,
    }
}

/// What else than policies says how completions come back and which tokens operations have.
#[derive(Clone, Copy)]
struct Ways {
    can_relay: bool,
    is_guarded: bool,
}

fn describe(table: &Table, endpoint: &Endpoint, question: Question<'_>, ways: Ways) -> String {
    let entry = endpoint.entry();
    let mut text = String::new();
    line(&mut text, "endpoint", endpoint.name());
    if let Some(id) = &entry.definition.id {
        line(&mut text, "id", id);
    }
    let from_configuration = &*entry.source == CONFIGURATION;
    line(
        &mut text,
        "source",
        if from_configuration {
            "the configuration".into()
        } else {
            format!("the registry of cluster {}", entry.source)
        },
    );
    for conflict in table.conflicts().iter().filter(|conflict| *conflict.name == *endpoint.name()) {
        line(
            &mut text,
            "hidden",
            format!("cluster {} defines this name too; {} comes first", conflict.loser, conflict.winner),
        );
    }
    line(&mut text, "target", &entry.definition.target);
    let addresses: Vec<_> = endpoint.upstream().addresses().iter().map(ToString::to_string).collect();
    let addresses = if addresses.is_empty() { endpoint.upstream().name().to_owned() } else { addresses.join(", ") };
    line(&mut text, "goes to", format!("{}{{service}}/{{operation}} at {addresses}", endpoint.prefix()));

    let Question { service, operation, .. } = question;
    let policies = table.policies();
    let caller = caller_of(question);
    let namespace = question.who.and_then(|who| who.namespace);
    let asked = [endpoint.name(), service, operation];
    let decision = policies.explain(asked, caller.as_ref(), namespace);
    decisions(&mut text, &decision);
    completions(&mut text, &decision, ways);
    line(&mut text, "park", parking(&decision, ways.can_relay));
    line(&mut text, "redact", because(&decision.redact, |redact| if *redact { "on".into() } else { "off".into() }));
    let named = policies.callers(asked);
    if caller.is_none() && !named.is_empty() {
        let named: Vec<_> = named.iter().map(ToString::to_string).collect();
        line(&mut text, "other callers", format!("ask with --caller or --as about {}", named.join(", ")));
    }
    let named = policies.namespaces(asked);
    if namespace.is_none() && !named.is_empty() {
        let named: Vec<_> = named.iter().map(|name| format!("{name:?}")).collect();
        line(&mut text, "other namespaces", format!("ask with --as-namespace about {}", named.join(", ")));
    }
    text
}

/// As limits and policies tell it apart.
fn caller_of(question: Question<'_>) -> Option<CallerKey> {
    let name = question.who.and_then(|who| who.name).map(Arc::<str>::from);
    name.map(CallerKey::from).or(question.caller.map(CallerKey::from))
}

/// Each setting with the rule that decides.
fn decisions(text: &mut String, decision: &Decision) {
    let Decision {
        timeout, max_request_body, max_response_body, hold, rate_limit, concurrency, retry, breaker, ..
    } = decision;
    line(text, "timeout", because(timeout, |timeout| format!("{timeout:?}")));
    line(text, "max_request_body", because(max_request_body, |bytes| format!("{bytes} bytes")));
    line(text, "max_response_body", because(max_response_body, |bytes| format!("{bytes} bytes")));
    line(text, "hold", because(hold, ToString::to_string));
    line(
        text,
        "rate_limit",
        because(rate_limit, |limit| or_off(limit.as_deref(), |it| limits::rate_limit(&it.settings))),
    );
    line(
        text,
        "concurrency",
        because(concurrency, |limit| or_off(limit.as_deref(), |it| limits::concurrency(&it.settings))),
    );
    line(text, "retry", because(retry, |retry| limits::retry(retry)));
    line(text, "breaker", because(breaker, |breaker| or_off(breaker.as_deref(), |it| limits::breaker(&it.settings))));
}

/// How completions come back, and which tokens operations have.
fn completions(text: &mut String, decision: &Decision, Ways { can_relay, is_guarded }: Ways) {
    let Decision { relay, sticky, tokens, .. } = decision;
    let sealed = tokens.value.map_or(is_guarded, |rule| rule == TokenRule::Sealed);
    if can_relay {
        line(text, "callbacks", because(relay, |relay| if *relay { "relay".into() } else { "direct".into() }));
    } else {
        line(text, "callbacks", "direct (there is no callbacks.public_url)");
    }
    if sealed {
        line(text, "sticky", "true (tokens are sealed)");
    } else if can_relay && relay.value {
        line(text, "sticky", because(sticky, ToString::to_string));
    } else {
        line(text, "sticky", "false (callbacks are direct)");
    }
    let named = if sealed { "sealed" } else { "any" };
    if tokens.value.is_none() && is_guarded {
        line(text, "tokens", "sealed (there is authentication)");
    } else {
        line(text, "tokens", because(tokens, |_| named.into()));
    }
}

/// Only what is relayed is parked.
fn parking(decision: &Decision, can_relay: bool) -> String {
    if decision.park.value.is_some() && !(can_relay && decision.relay.value) {
        return "off (callbacks are direct)".into();
    }
    because(&decision.park, |park| or_off(park.as_deref(), |it| limits::park(&it.settings)))
}

fn because<T>(decided: &Decided<T>, show: impl Fn(&T) -> String) -> String {
    let why = decided.rule.map_or("the default".into(), |rule| format!("policies[{rule}]"));
    format!("{} ({why})", show(&decided.value))
}

fn or_off<T>(setting: Option<&T>, show: impl Fn(&T) -> String) -> String {
    setting.map_or_else(|| "off".into(), show)
}

fn line(text: &mut String, label: &str, value: impl Display) {
    // Writing to a string does not fail.
    let _ = writeln!(text, "{label:<18} {value}");
}
