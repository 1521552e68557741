//! Which policy holds for a request: the first rule that matches decides each setting, the most specific rule first.

use std::time::Duration;

/// What a policy rule applies to; an absent part matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
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
}

/// What holds for a request, after all rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Longest time from the request's head to the answer's last byte. Default 10 s, what Temporal callers give.
    pub timeout: Duration,
    /// Largest request body in bytes. Default 2 MiB, Temporal's own limit.
    pub max_request_body: usize,
    /// Largest answer body in bytes. Default 2 MiB, Temporal's own limit.
    pub max_response_body: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), max_request_body: 2 << 20, max_response_body: 2 << 20 }
    }
}

impl Selector {
    fn matches(&self, endpoint: &str, service: &str, operation: &str) -> bool {
        let fits = |part: &Option<Box<str>>, value: &str| part.as_deref().is_none_or(|part| part == value);
        fits(&self.endpoint, endpoint) && fits(&self.service, service) && fits(&self.operation, operation)
    }

    /// More parts are more specific; of as many, the one that names the operation, then the service.
    fn specificity(&self) -> (usize, bool, bool) {
        let parts = [&self.endpoint, &self.service, &self.operation];
        let named = parts.iter().filter(|part| part.is_some()).count();
        (named, self.operation.is_some(), self.service.is_some())
    }
}

/// The rules in the order in which they decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    /// Each with its place in the configuration.
    rules: Vec<(usize, PolicyRule)>,
}

/// A setting's value and the place in the configuration of the rule that set it; none where it is the default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decided<T> {
    /// What holds.
    pub value: T,
    /// Which of `policies` says so, counted from 0.
    pub rule: Option<usize>,
}

/// A policy with the reason for each setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// See [`Policy::timeout`].
    pub timeout: Decided<Duration>,
    /// See [`Policy::max_request_body`].
    pub max_request_body: Decided<usize>,
    /// See [`Policy::max_response_body`].
    pub max_response_body: Decided<usize>,
}

impl Policies {
    /// Puts rules into the order in which they decide.
    pub fn new(rules: Vec<PolicyRule>) -> Self {
        let mut rules: Vec<_> = rules.into_iter().enumerate().collect();
        rules.sort_by_key(|(_, rule)| std::cmp::Reverse(rule.selector.specificity()));
        Self { rules }
    }

    /// What holds for an operation, and why.
    pub fn explain(&self, endpoint: &str, service: &str, operation: &str) -> Decision {
        let matching = || self.rules.iter().filter(|(_, rule)| rule.selector.matches(endpoint, service, operation));
        let default = Policy::default();
        Decision {
            timeout: first(matching(), |rule| rule.timeout, default.timeout),
            max_request_body: first(matching(), |rule| rule.max_request_body, default.max_request_body),
            max_response_body: first(matching(), |rule| rule.max_response_body, default.max_response_body),
        }
    }

    /// What holds for an operation.
    pub fn decide(&self, endpoint: &str, service: &str, operation: &str) -> Policy {
        let decision = self.explain(endpoint, service, operation);
        Policy {
            timeout: decision.timeout.value,
            max_request_body: decision.max_request_body.value,
            max_response_body: decision.max_response_body.value,
        }
    }
}

fn first<'a, T>(
    mut rules: impl Iterator<Item = &'a (usize, PolicyRule)>,
    setting: impl Fn(&PolicyRule) -> Option<T>,
    default: T,
) -> Decided<T> {
    let found = rules.find_map(|(place, rule)| Some(Decided { value: setting(rule)?, rule: Some(*place) }));
    found.unwrap_or(Decided { value: default, rule: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(endpoint: &str, service: &str, operation: &str, seconds: u64) -> PolicyRule {
        let part = |text: &str| (!text.is_empty()).then(|| text.into());
        let selector = Selector { endpoint: part(endpoint), service: part(service), operation: part(operation) };
        PolicyRule { selector, timeout: Some(Duration::from_secs(seconds)), ..PolicyRule::default() }
    }

    fn timeout(policies: &Policies, endpoint: &str, service: &str, operation: &str) -> u64 {
        policies.decide(endpoint, service, operation).timeout.as_secs()
    }

    #[test]
    fn the_most_specific_rule_decides() {
        let policies = Policies::new(vec![
            rule("", "", "", 1),
            rule("pay", "", "", 2),
            rule("", "", "op", 3),
            rule("pay", "Svc", "", 4),
            rule("pay", "Svc", "op", 5),
        ]);
        assert_eq!(timeout(&policies, "x", "y", "z"), 1);
        assert_eq!(timeout(&policies, "pay", "y", "z"), 2);
        assert_eq!(timeout(&policies, "pay", "y", "op"), 3);
        assert_eq!(timeout(&policies, "pay", "Svc", "z"), 4);
        assert_eq!(timeout(&policies, "pay", "Svc", "op"), 5);
    }

    #[test]
    fn of_equals_the_first_decides_and_each_setting_by_itself() {
        let mut size_only = rule("pay", "", "", 0);
        (size_only.timeout, size_only.max_request_body) = (None, Some(7));
        let policies = Policies::new(vec![size_only, rule("pay", "", "", 2), rule("pay", "", "", 3)]);
        let decision = policies.explain("pay", "Svc", "op");
        assert_eq!(decision.timeout, Decided { value: Duration::from_secs(2), rule: Some(1) });
        assert_eq!(decision.max_request_body, Decided { value: 7, rule: Some(0) });
        assert_eq!(decision.max_response_body, Decided { value: 2 << 20, rule: None });
    }
}
