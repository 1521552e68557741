//! May they? Rules say who may call what; where no rule fits, nobody may.
//!
//! The first rule that fits allows; there are no rules that forbid, so their order decides nothing but which one is
//! named. An endpoint that no rule shows to a caller is hidden from it: it must not be told apart from one that does not
//! exist. Pure: names in, a verdict out. Knows no requests, no registry and no way of telling who calls.

use std::sync::Arc;

mod pattern;

pub use pattern::{MAX_PATTERN, Pattern};

use super::Caller;

/// How rules call whoever shows no credential. Only this very name stands for it: neither `*` nor a rule that leaves
/// callers out does.
pub const ANONYMOUS: &str = "anonymous";

/// Who may call what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuthorizationSettings {
    /// Who may call which operations.
    pub rules: Vec<Rule>,
    /// Who may send completions. None: sealed ones come from anybody who has the seal, others from nobody.
    pub completions: Option<Callers>,
    /// Whether a caller is told that it may not call an endpoint, in place of that there is none.
    pub tell_forbidden: bool,
}

/// Lets some callers call some operations. What is none fits every name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// Who.
    pub callers: Callers,
    /// Which endpoints, by their names.
    pub endpoints: Option<Vec<Pattern>>,
    /// Which services.
    pub services: Option<Vec<Pattern>>,
    /// Which operations.
    pub operations: Option<Vec<Pattern>>,
}

/// Some callers. What is none fits every name, and also callers without a namespace, but never one without a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Callers {
    /// Their names.
    pub names: Option<Vec<Pattern>>,
    /// The namespaces that they call from.
    pub namespaces: Option<Vec<Pattern>>,
}

/// A caller, as rules see it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who<'a> {
    /// Its name; none for whoever shows no credential.
    pub name: Option<&'a str>,
    /// The namespace that it calls from, where that is known.
    pub namespace: Option<&'a str>,
}

impl<'a> From<&'a Caller> for Who<'a> {
    fn from(caller: &'a Caller) -> Self {
        Self { name: caller.identity().map(|identity| &*identity.name), namespace: caller.namespace() }
    }
}

/// What a request asks for; service and operation decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The endpoint's name, also where it was asked for by its id.
    pub endpoint: &'a str,
    /// The service.
    pub service: &'a str,
    /// The operation.
    pub operation: &'a str,
}

/// The part of a rule that a request does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its callers.
    Caller,
    /// The namespaces of its callers.
    Namespace,
    /// Its endpoints.
    Endpoint,
    /// Its services.
    Service,
    /// Its operations.
    Operation,
}

/// What a request that may go has: whoever carries it on asks for it. Made here only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorized {
    rule: Option<Arc<str>>,
}

impl Authorized {
    /// Where no rules decide, and for what was decided on before it was kept to be sent later.
    pub fn by_nobody() -> Self {
        Self { rule: None }
    }

    /// The rule that says so, such as `authorization.rules[2]`; none where there are no rules.
    pub fn rule(&self) -> Option<&Arc<str>> {
        self.rule.as_ref()
    }
}

/// Why a request may not go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denied {
    /// The caller shows no credential, and no rule is for such.
    Unauthenticated,
    /// The caller must not know whether there is such an endpoint.
    Hidden,
    /// It may know, but not call that operation.
    Forbidden,
}

/// The two ways of completions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// It came to a callback that a gateway has sealed, which only its handler's cluster was given.
    Sealed,
    /// It is passed on to the home cluster as it is.
    Home,
}

/// The rules in force.
#[derive(Clone, Debug, Default)]
pub struct Authorization {
    /// None where everybody may do everything.
    rules: Option<Rules>,
}

#[derive(Clone, Debug)]
struct Rules {
    named: Box<[(Rule, Arc<str>)]>,
    completions: Option<(Callers, Arc<str>)>,
    tell_forbidden: bool,
    any_anonymous: bool,
}

impl Authorization {
    /// Puts these in force. Without any everybody may do everything, unless callers are `authenticated`: then nobody may
    /// do anything.
    pub fn new(settings: Option<&AuthorizationSettings>, authenticated: bool) -> Self {
        let none = authenticated.then(AuthorizationSettings::default);
        Self { rules: settings.or(none.as_ref()).map(Rules::new) }
    }

    /// Whether rules decide, so that not everybody may do everything.
    pub fn decides(&self) -> bool {
        self.rules.is_some()
    }

    /// Whether the caller may come in at all.
    pub fn admits(&self, who: Who<'_>) -> Result<(), Denied> {
        let admits = self.rules.as_ref().is_none_or(|rules| who.name.is_some() || rules.any_anonymous);
        admits.then_some(()).ok_or(Denied::Unauthenticated)
    }

    /// Whether the caller may know of an endpoint of this name: some rule for it fits that. To be asked before anybody
    /// looks whether there is one.
    pub fn shows(&self, who: Who<'_>, endpoint: &str) -> Result<(), Denied> {
        self.admits(who)?;
        match &self.rules {
            Some(rules) if !rules.named.iter().any(|(rule, _)| rule.shows(who, endpoint)) => {
                Err(if rules.tell_forbidden { Denied::Forbidden } else { Denied::Hidden })
            }
            _ => Ok(()),
        }
    }

    /// Whether the caller may call the operation.
    pub fn decide(&self, who: Who<'_>, asked: Asked<'_>) -> Result<Authorized, Denied> {
        let Some(rules) = &self.rules else { return Ok(Authorized { rule: None }) };
        match rules.named.iter().find(|(rule, _)| rule.misfit(who, asked).is_none()) {
            Some((_, name)) => Ok(Authorized { rule: Some(Arc::clone(name)) }),
            None => self.shows(who, asked.endpoint).and(Err(Denied::Forbidden)),
        }
    }

    /// Whether the caller may send a completion.
    pub fn decide_completion(&self, who: Who<'_>, way: Completion) -> Option<Authorized> {
        match self.rules.as_ref().map(|rules| &rules.completions) {
            None => Some(Authorized { rule: None }),
            Some(None) => (way == Completion::Sealed).then_some(Authorized { rule: None }),
            Some(Some((callers, name))) => {
                callers.misfit(who).is_none().then(|| Authorized { rule: Some(Arc::clone(name)) })
            }
        }
    }
}

impl Rules {
    fn new(settings: &AuthorizationSettings) -> Self {
        let name = |(index, rule): (usize, &Rule)| (rule.clone(), format!("authorization.rules[{index}]").into());
        let completions = settings.completions.clone();
        Self {
            named: settings.rules.iter().enumerate().map(name).collect(),
            completions: completions.map(|callers| (callers, "authorization.completions".into())),
            tell_forbidden: settings.tell_forbidden,
            any_anonymous: settings.rules.iter().any(|rule| rule.callers.misfit(NOBODY).is_none()),
        }
    }
}

/// Whoever shows no credential.
const NOBODY: Who<'_> = Who { name: None, namespace: None };

impl Rule {
    /// The first part that a request does not fit; none where the rule allows it.
    pub fn misfit(&self, who: Who<'_>, asked: Asked<'_>) -> Option<Part> {
        self.callers.misfit(who).or_else(|| {
            let parts = [
                (self.endpoints.as_ref(), asked.endpoint, Part::Endpoint),
                (self.services.as_ref(), asked.service, Part::Service),
                (self.operations.as_ref(), asked.operation, Part::Operation),
            ];
            parts.into_iter().find_map(|(patterns, name, part)| (!fits(patterns, name)).then_some(part))
        })
    }

    fn shows(&self, who: Who<'_>, endpoint: &str) -> bool {
        self.callers.misfit(who).is_none() && fits(self.endpoints.as_ref(), endpoint)
    }
}

impl Callers {
    /// The first part that a caller does not fit; none where it is one of them.
    pub fn misfit(&self, who: Who<'_>) -> Option<Part> {
        if !self.has_name(who.name) {
            return Some(Part::Caller);
        }
        let namespace = self.namespaces.as_ref();
        let fits = namespace.is_none_or(|patterns| who.namespace.is_some_and(|namespace| any(patterns, namespace)));
        (!fits).then_some(Part::Namespace)
    }

    fn has_name(&self, name: Option<&str>) -> bool {
        match (&self.names, name) {
            (None, name) => name.is_some(),
            (Some(patterns), None) => patterns.iter().any(is_anonymous),
            // Nobody becomes anonymous by being called so.
            (Some(patterns), Some(name)) => patterns.iter().any(|pattern| !is_anonymous(pattern) && pattern.fits(name)),
        }
    }
}

fn is_anonymous(pattern: &Pattern) -> bool {
    pattern.exact() == Some(ANONYMOUS)
}

fn fits(patterns: Option<&Vec<Pattern>>, name: &str) -> bool {
    patterns.is_none_or(|patterns| any(patterns, name))
}

fn any(patterns: &[Pattern], name: &str) -> bool {
    patterns.iter().any(|pattern| pattern.fits(name))
}

#[cfg(test)]
mod tests;
