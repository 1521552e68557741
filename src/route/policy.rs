//! Which policy holds for a request: the first rule that matches decides each setting, the most specific rule first.
//!
//! This is what can be said in a rule and what comes of the rules; how they are ordered and decide is `rules`. Must not
//! know how limits, retries and breakers work, only their settings.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::gates::CallerKey;
use crate::resilience::park::ParkSettings;
use crate::resilience::{BreakerSettings, ConcurrencySettings, RateLimitSettings, RetrySettings};

mod rules;

pub use rules::{Decided, Decision, ForCallers, Policies};

/// What a policy rule applies to; an absent part matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Name of the caller, or the address of one that has no name.
    pub caller: Option<CallerKey>,
    /// The namespace that a caller with a name calls from.
    pub caller_namespace: Option<Box<str>>,
    /// Endpoint name.
    pub endpoint: Option<Box<str>>,
    /// Service name, decoded.
    pub service: Option<Box<str>>,
    /// Operation name, decoded.
    pub operation: Option<Box<str>>,
}

/// One entry of `policies`: what it sets for the requests it matches.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyRule {
    /// Which requests.
    pub selector: Selector,
    /// See [`Policy::timeout`].
    pub timeout: Option<Duration>,
    /// See [`Policy::max_request_body`].
    pub max_request_body: Option<usize>,
    /// See [`Policy::max_response_body`].
    pub max_response_body: Option<usize>,
    /// See [`Policy::hold`].
    pub hold: Option<bool>,
    /// See [`Policy::rate_limit`].
    pub rate_limit: Option<Toggle<RateLimitSettings>>,
    /// See [`Policy::concurrency`].
    pub concurrency: Option<Toggle<ConcurrencySettings>>,
    /// See [`Policy::retry`].
    pub retry: Option<Toggle<RetrySettings>>,
    /// See [`Policy::breaker`].
    pub breaker: Option<Toggle<BreakerSettings>>,
    /// See [`Policy::park`].
    pub park: Option<Toggle<ParkSettings>>,
    /// See [`Policy::relay`].
    pub relay: Option<bool>,
    /// See [`Policy::sticky`].
    pub sticky: Option<bool>,
    /// See [`Policy::tokens`].
    pub tokens: Option<TokenRule>,
    /// See [`Policy::redact`].
    pub redact: Option<bool>,
}

/// Which tokens operations have, and cancels may come with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenRule {
    /// Only those that a gateway sealed for the same operation and caller.
    Sealed,
    /// Those of handlers as well.
    Any,
}

/// A setting that a more specific rule can switch off again.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Toggle<T> {
    /// Not at all.
    Off,
    /// With these settings.
    On(T),
}

/// What holds for a request, after all rules.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Policy {
    /// Longest time from the request's head to the answer's last byte. Default 10 s, what Temporal callers give.
    pub timeout: Duration,
    /// Largest request body in bytes. Default 2 MiB, Temporal's own limit.
    pub max_request_body: usize,
    /// Largest answer body in bytes. Default 2 MiB, Temporal's own limit.
    pub max_response_body: usize,
    /// Whether requests wait while every address of the target is down. Default yes.
    pub hold: bool,
    /// How many requests may go in a time. Default any number.
    pub rate_limit: Option<Arc<Ruled<RateLimitSettings>>>,
    /// How many requests may be on their way at a time. Default any number.
    pub concurrency: Option<Arc<Ruled<ConcurrencySettings>>>,
    /// What is sent again; one attempt where retries are off. Default [`RetrySettings::default`].
    pub retry: Arc<RetrySettings>,
    /// When an operation that keeps failing is not asked for a while. Default never.
    pub breaker: Option<Arc<Ruled<BreakerSettings>>>,
    /// Which starts are answered 201 and finished later, where completions are relayed. Default none.
    pub park: Option<Arc<Ruled<ParkSettings>>>,
    /// Whether completions come back through the gateway, where it has a public URL. Default yes.
    pub relay: bool,
    /// Whether operation tokens name the target that they came from, where completions are relayed. Default yes.
    pub sticky: bool,
    /// Which tokens operations have. Where no rule says so: sealed ones where callers are authenticated, else any.
    pub tokens: Option<TokenRule>,
    /// Whether stack traces and causes are cut from the failures that callers get. Default no.
    pub redact: bool,
}

/// Settings together with the rule that they come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ruled<T> {
    /// What the rule says.
    pub settings: T,
    /// Which of `policies` it is, counted from 0.
    pub rule: usize,
    /// What a refusal calls it, such as `policies[2].rate_limit`.
    pub name: Arc<str>,
    /// The requests that the rule matches: they share what is limited or broken.
    pub selector: Selector,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            max_request_body: 2 << 20,
            max_response_body: 2 << 20,
            hold: true,
            rate_limit: None,
            concurrency: None,
            retry: Arc::default(),
            breaker: None,
            park: None,
            relay: true,
            sticky: true,
            tokens: None,
            redact: false,
        }
    }
}

impl<T> Toggle<T> {
    /// The settings, if it is on.
    pub fn on(self) -> Option<T> {
        match self {
            Self::Off => None,
            Self::On(settings) => Some(settings),
        }
    }

    /// A toggle of what `change` makes of the settings.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Toggle<U> {
        self.on().map_or(Toggle::Off, |settings| Toggle::On(change(settings)))
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { caller, caller_namespace, endpoint, service, operation } = self;
        write!(f, "caller={caller:?} endpoint={endpoint:?} service={service:?} operation={operation:?}")?;
        // Gateways that share limits know them by this text; those from before there were namespaces have none here.
        caller_namespace.as_ref().map_or(Ok(()), |namespace| write!(f, " caller_namespace={namespace:?}"))
    }
}

impl Selector {
    /// Whether it matches every request that `other` matches.
    pub fn covers(&self, other: &Self) -> bool {
        fn fits<T: PartialEq>(part: Option<&T>, other: Option<&T>) -> bool {
            part.is_none_or(|part| other == Some(part))
        }
        fits(self.caller.as_ref(), other.caller.as_ref())
            && fits(self.caller_namespace.as_ref(), other.caller_namespace.as_ref())
            && fits(self.endpoint.as_ref(), other.endpoint.as_ref())
            && fits(self.service.as_ref(), other.service.as_ref())
            && fits(self.operation.as_ref(), other.operation.as_ref())
    }

    /// Whether it matches this operation, whoever calls.
    fn matches(&self, endpoint: &str, service: &str, operation: &str) -> bool {
        let fits = |part: &Option<Box<str>>, value: &str| part.as_deref().is_none_or(|part| part == value);
        fits(&self.endpoint, endpoint) && fits(&self.service, service) && fits(&self.operation, operation)
    }

    /// Whether it matches this caller from this namespace; without one every caller, or namespace, that no rule names.
    fn matches_caller(&self, caller: Option<&CallerKey>, namespace: Option<&str>) -> bool {
        (self.caller.is_none() || self.caller.as_ref() == caller)
            && (self.caller_namespace.is_none() || self.caller_namespace.as_deref() == namespace)
    }

    /// More parts are more specific; of as many, the one that names the operation, then the service, then the
    /// endpoint, then the caller. So a rule for one namespace alone comes last before the rules for everything.
    fn specificity(&self) -> (usize, [bool; 4]) {
        let Self { caller, caller_namespace, endpoint, service, operation } = self;
        let named = [operation.is_some(), service.is_some(), endpoint.is_some(), caller.is_some()];
        (named.into_iter().chain([caller_namespace.is_some()]).filter(|is_named| *is_named).count(), named)
    }
}
