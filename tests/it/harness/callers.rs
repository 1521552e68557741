//! Callers with names, and rules for them.

use http::HeaderName;
use nexus_gateway::admission::authenticate::{ApiKeySettings, NewApiKey};
use nexus_gateway::admission::authorize::{Callers, Pattern, Rule};
use nexus_gateway::admission::{AuthenticationSettings, AuthorizationSettings};
use nexus_gateway::config::Settings;

use super::caller::Request;

/// Callers with a key each.
pub(crate) struct Known(pub(crate) Vec<(&'static str, NewApiKey)>);

impl Known {
    /// By name and namespace.
    pub(crate) fn new(callers: &[(&'static str, Option<&str>)]) -> Self {
        let key = |(name, namespace): &(&'static str, Option<&str>)| {
            (*name, NewApiKey::generate(name, *namespace).expect("a name"))
        };
        Self(callers.iter().map(key).collect())
    }

    /// The same settings with these callers and rules.
    pub(crate) fn under(&self, settings: Settings, rules: Vec<Rule>) -> Settings {
        let keys = self.0.iter().map(|(_, key)| key.key.clone()).collect();
        let header = HeaderName::from_static("x-api-key");
        let authentication = AuthenticationSettings {
            api_keys: Some(ApiKeySettings { header, keys }),
            ..AuthenticationSettings::default()
        };
        let authorization = AuthorizationSettings { rules, ..AuthorizationSettings::default() };
        Settings { authentication: Some(authentication), authorization: Some(authorization), ..settings }
    }

    /// The request as this caller sends it.
    pub(crate) fn by(&self, name: &str, request: Request) -> Request {
        match self.0.iter().find(|(of, _)| *of == name) {
            Some((_, key)) => request.header("X-Api-Key", &key.text),
            None => request,
        }
    }
}

/// Patterns of names; none where there are no texts.
pub(crate) fn names(texts: &[&str]) -> Option<Vec<Pattern>> {
    (!texts.is_empty()).then(|| texts.iter().map(|text| Pattern::new(text).expect("a pattern")).collect())
}

/// A rule for these; what is empty is for all.
pub(crate) fn rule(callers: &[&str], namespaces: &[&str], endpoints: &[&str], operations: &[&str]) -> Rule {
    let callers = Callers { names: names(callers), namespaces: names(namespaces) };
    Rule { callers, endpoints: names(endpoints), operations: names(operations), ..Rule::default() }
}

/// A rule for every known caller and whatever it calls.
pub(crate) fn everybody() -> Rule {
    rule(&["*"], &[], &[], &[])
}
