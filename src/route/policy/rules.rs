//! The rules in the order in which they decide, and what they decide for an operation and a caller.

use std::cmp::Reverse;
use std::sync::Arc;
use std::time::Duration;

use super::{CallerKey, Policy, PolicyRule, Ruled, Selector, Toggle, TokenRule};
use crate::resilience::park::ParkSettings;
use crate::resilience::retry::RetryOn;
use crate::resilience::{BreakerSettings, ConcurrencySettings, RateLimitSettings, RetrySettings};

/// The rules in the order in which they decide.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Policies {
    rules: Vec<Rule>,
}

/// A rule with its place in the configuration. What requests share is made once, here.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rule {
    place: usize,
    selector: Selector,
    timeout: Option<Duration>,
    max_request_body: Option<usize>,
    max_response_body: Option<usize>,
    hold: Option<bool>,
    rate_limit: Option<Toggle<Arc<Ruled<RateLimitSettings>>>>,
    concurrency: Option<Toggle<Arc<Ruled<ConcurrencySettings>>>>,
    retry: Option<Arc<RetrySettings>>,
    breaker: Option<Toggle<Arc<Ruled<BreakerSettings>>>>,
    park: Option<Toggle<Arc<Ruled<ParkSettings>>>>,
    relay: Option<bool>,
    sticky: Option<bool>,
    tokens: Option<TokenRule>,
    redact: Option<bool>,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// See [`Policy::timeout`].
    pub timeout: Decided<Duration>,
    /// See [`Policy::max_request_body`].
    pub max_request_body: Decided<usize>,
    /// See [`Policy::max_response_body`].
    pub max_response_body: Decided<usize>,
    /// See [`Policy::hold`].
    pub hold: Decided<bool>,
    /// See [`Policy::rate_limit`].
    pub rate_limit: Decided<Option<Arc<Ruled<RateLimitSettings>>>>,
    /// See [`Policy::concurrency`].
    pub concurrency: Decided<Option<Arc<Ruled<ConcurrencySettings>>>>,
    /// See [`Policy::retry`].
    pub retry: Decided<Arc<RetrySettings>>,
    /// See [`Policy::breaker`].
    pub breaker: Decided<Option<Arc<Ruled<BreakerSettings>>>>,
    /// See [`Policy::park`].
    pub park: Decided<Option<Arc<Ruled<ParkSettings>>>>,
    /// See [`Policy::relay`].
    pub relay: Decided<bool>,
    /// See [`Policy::sticky`].
    pub sticky: Decided<bool>,
    /// See [`Policy::tokens`].
    pub tokens: Decided<Option<TokenRule>>,
    /// See [`Policy::redact`].
    pub redact: Decided<bool>,
}

/// What holds for an operation, by caller and the namespace that it calls from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForCallers<T = Arc<Policy>> {
    /// Callers that a rule names, in order.
    callers: Box<[CallerKey]>,
    /// Namespaces that a rule names, in order.
    namespaces: Box<[Box<str>]>,
    /// What may hold.
    all: Box<[T]>,
    /// Which of that does: a row for each caller and one for all others, in it a place for each namespace and one for all
    /// others.
    which: Box<[usize]>,
}

impl Policies {
    /// Puts rules into the order in which they decide.
    pub fn new(rules: Vec<PolicyRule>) -> Self {
        let mut rules: Vec<_> = rules.into_iter().enumerate().map(|(place, rule)| Rule::new(place, rule)).collect();
        rules.sort_by_key(|rule| Reverse(rule.selector.specificity()));
        Self { rules }
    }

    /// What holds for an operation, and why; without a caller, or without a namespace, for all that no rule names.
    pub fn explain(
        &self,
        [endpoint, service, operation]: [&str; 3],
        caller: Option<&CallerKey>,
        namespace: Option<&str>,
    ) -> Decision {
        self.decide_by(|selector| {
            selector.matches(endpoint, service, operation) && selector.matches_caller(caller, namespace)
        })
    }

    /// What holds, and why, for those requests of a selector that no rule with a narrower one matches.
    pub fn explain_selector(&self, of: &Selector) -> Decision {
        self.decide_by(|selector| selector.covers(of))
    }

    /// What holds for an operation and a caller that calls from this namespace, where that is known.
    pub fn decide(&self, operation: [&str; 3], caller: &CallerKey, namespace: Option<&str>) -> Policy {
        self.explain(operation, Some(caller), namespace).into()
    }

    /// What holds for an operation, whoever calls: found once, so that a request only looks its caller up.
    pub fn decide_all(&self, operation: [&str; 3]) -> ForCallers {
        let (callers, namespaces) = (self.callers(operation), self.namespaces(operation));
        let (mut all, mut which) = (Vec::<Arc<Policy>>::new(), Vec::new());
        for caller in callers.iter().map(Some).chain([None]) {
            for namespace in namespaces.iter().map(|namespace| Some(&**namespace)).chain([None]) {
                let policy = self.explain(operation, caller, namespace).into();
                let known = all.iter().position(|known| **known == policy);
                which.push(known.unwrap_or(all.len()));
                if known.is_none() {
                    all.push(Arc::new(policy));
                }
            }
        }
        ForCallers { callers: callers.into(), namespaces: namespaces.into(), all: all.into(), which: which.into() }
    }

    /// The callers for which something else may hold than for others, in order.
    pub fn callers(&self, operation: [&str; 3]) -> Vec<CallerKey> {
        self.named(operation, |selector| selector.caller.clone())
    }

    /// The namespaces of callers for which something else may hold than for others, in order.
    pub fn namespaces(&self, operation: [&str; 3]) -> Vec<Box<str>> {
        self.named(operation, |selector| selector.caller_namespace.clone())
    }

    fn named<T: Ord>(
        &self,
        [endpoint, service, operation]: [&str; 3],
        part: impl Fn(&Selector) -> Option<T>,
    ) -> Vec<T> {
        let matching = self.rules.iter().filter(|rule| rule.selector.matches(endpoint, service, operation));
        let mut named: Vec<_> = matching.filter_map(|rule| part(&rule.selector)).collect();
        named.sort_unstable();
        named.dedup();
        named
    }

    /// Whether failures are cut of any operation and caller.
    pub fn redact_any(&self) -> bool {
        self.rules.iter().any(|rule| rule.redact == Some(true))
    }

    fn decide_by(&self, applies: impl Fn(&Selector) -> bool) -> Decision {
        let rules: Vec<_> = self.rules.iter().filter(|rule| applies(&rule.selector)).collect();
        let default = Policy::default();
        Decision {
            timeout: first(&rules, |rule| rule.timeout, default.timeout),
            max_request_body: first(&rules, |rule| rule.max_request_body, default.max_request_body),
            max_response_body: first(&rules, |rule| rule.max_response_body, default.max_response_body),
            hold: first(&rules, |rule| rule.hold, default.hold),
            rate_limit: first(&rules, |rule| rule.rate_limit.clone().map(Toggle::on), default.rate_limit),
            concurrency: first(&rules, |rule| rule.concurrency.clone().map(Toggle::on), default.concurrency),
            retry: first(&rules, |rule| rule.retry.clone(), default.retry),
            breaker: first(&rules, |rule| rule.breaker.clone().map(Toggle::on), default.breaker),
            park: first(&rules, |rule| rule.park.clone().map(Toggle::on), default.park),
            relay: first(&rules, |rule| rule.relay, default.relay),
            sticky: first(&rules, |rule| rule.sticky, default.sticky),
            tokens: first(&rules, |rule| rule.tokens.map(Some), default.tokens),
            redact: first(&rules, |rule| rule.redact, default.redact),
        }
    }
}

fn first<T>(rules: &[&Rule], setting: impl Fn(&Rule) -> Option<T>, default: T) -> Decided<T> {
    let found = rules.iter().find_map(|rule| Some(Decided { value: setting(rule)?, rule: Some(rule.place) }));
    found.unwrap_or(Decided { value: default, rule: None })
}

impl Rule {
    fn new(place: usize, rule: PolicyRule) -> Self {
        let PolicyRule { selector, timeout, max_request_body, max_response_body, hold, .. } = rule;
        let PolicyRule { relay, sticky, tokens, redact, .. } = rule;
        let never = || RetrySettings { attempts: 1, on: RetryOn::NOTHING, ..RetrySettings::default() };
        Self {
            rate_limit: rule.rate_limit.map(|setting| ruled(setting, place, "rate_limit", &selector)),
            concurrency: rule.concurrency.map(|setting| ruled(setting, place, "concurrency", &selector)),
            retry: rule.retry.map(|setting| Arc::new(setting.on().unwrap_or_else(never))),
            breaker: rule.breaker.map(|setting| ruled(setting, place, "breaker", &selector)),
            park: rule.park.map(|setting| ruled(setting, place, "park", &selector)),
            place,
            selector,
            timeout,
            max_request_body,
            max_response_body,
            hold,
            relay,
            sticky,
            tokens,
            redact,
        }
    }
}

fn ruled<T>(setting: Toggle<T>, rule: usize, key: &str, selector: &Selector) -> Toggle<Arc<Ruled<T>>> {
    let name = format!("policies[{rule}].{key}").into();
    setting.map(|settings| Arc::new(Ruled { settings, rule, name, selector: selector.clone() }))
}

impl From<Decision> for Policy {
    fn from(decision: Decision) -> Self {
        Self {
            timeout: decision.timeout.value,
            max_request_body: decision.max_request_body.value,
            max_response_body: decision.max_response_body.value,
            hold: decision.hold.value,
            rate_limit: decision.rate_limit.value,
            concurrency: decision.concurrency.value,
            retry: decision.retry.value,
            breaker: decision.breaker.value,
            park: decision.park.value,
            relay: decision.relay.value,
            sticky: decision.sticky.value,
            tokens: decision.tokens.value,
            redact: decision.redact.value,
        }
    }
}

impl<T> ForCallers<T> {
    /// The same for what `make` makes of each.
    pub fn map<U>(&self, make: impl Fn(&T) -> U) -> ForCallers<U> {
        ForCallers {
            callers: self.callers.clone(),
            namespaces: self.namespaces.clone(),
            all: self.all.iter().map(make).collect(),
            which: self.which.clone(),
        }
    }

    /// Whether it is so for any caller.
    pub fn any(&self, is: impl Fn(&T) -> bool) -> bool {
        self.all.iter().any(is)
    }

    /// What holds for this caller, which calls from this namespace, where that is known.
    pub fn of(&self, caller: &CallerKey, namespace: Option<&str>) -> &T {
        if let [only] = &*self.all {
            return only;
        }
        let row = self.callers.binary_search(caller).unwrap_or(self.callers.len());
        let known =
            namespace.and_then(|namespace| self.namespaces.binary_search_by(|known| (**known).cmp(namespace)).ok());
        let place = known.unwrap_or(self.namespaces.len());
        &self.all[self.which[row * (self.namespaces.len() + 1) + place]]
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;
    use proptest::prelude::*;

    fn caller() -> CallerKey {
        IpAddr::from([10, 0, 0, 5]).into()
    }

    fn other() -> CallerKey {
        IpAddr::from([10, 0, 0, 6]).into()
    }

    fn selector(caller: Option<CallerKey>, endpoint: &str, service: &str, operation: &str) -> Selector {
        let part = |text: &str| (!text.is_empty()).then(|| text.into());
        Selector {
            caller,
            caller_namespace: None,
            endpoint: part(endpoint),
            service: part(service),
            operation: part(operation),
        }
    }

    fn rule(endpoint: &str, service: &str, operation: &str, seconds: u64) -> PolicyRule {
        let selector = selector(None, endpoint, service, operation);
        PolicyRule { selector, timeout: Some(Duration::from_secs(seconds)), ..PolicyRule::default() }
    }

    fn of_caller(rule: PolicyRule) -> PolicyRule {
        PolicyRule { selector: Selector { caller: Some(caller()), ..rule.selector }, ..rule }
    }

    fn timeout(policies: &Policies, endpoint: &str, service: &str, operation: &str) -> u64 {
        policies.decide([endpoint, service, operation], &caller(), None).timeout.as_secs()
    }

    fn breaker(selector: Selector, breaker: Toggle<BreakerSettings>) -> PolicyRule {
        PolicyRule { selector, breaker: Some(breaker), ..PolicyRule::default() }
    }

    #[test]
    fn the_most_specific_rule_decides() {
        let policies = Policies::new(vec![
            rule("", "", "", 1),
            of_caller(rule("", "", "", 2)),
            rule("pay", "", "", 3),
            rule("", "", "op", 4),
            of_caller(rule("pay", "", "", 5)),
            rule("pay", "Svc", "", 6),
            rule("pay", "Svc", "op", 7),
            of_caller(rule("pay", "Svc", "op2", 8)),
        ]);
        assert_eq!(timeout(&policies, "x", "y", "z"), 2);
        assert_eq!(timeout(&policies, "x", "y", "op"), 4);
        assert_eq!(timeout(&policies, "pay", "y", "z"), 5);
        assert_eq!(timeout(&policies, "pay", "Svc", "z"), 6);
        assert_eq!(timeout(&policies, "pay", "Svc", "op"), 7);
        assert_eq!(timeout(&policies, "pay", "Svc", "op2"), 8);
        let others = |endpoint| policies.decide([endpoint, "y", "z"], &other(), None).timeout.as_secs();
        assert_eq!((others("x"), others("pay")), (1, 3));
    }

    #[test]
    fn of_as_many_parts_the_operation_counts_most_and_the_caller_least() {
        let order = [
            of_caller(rule("", "", "op", 1)),
            rule("pay", "Svc", "", 2),
            of_caller(rule("", "Svc", "", 3)),
            of_caller(rule("pay", "", "", 4)),
            rule("", "", "op", 5),
            rule("", "Svc", "", 6),
            rule("pay", "", "", 7),
            of_caller(rule("", "", "", 8)),
        ];
        for (expected, from) in (1..).zip(0..order.len()) {
            let rules = order[from..].iter().rev().cloned().collect();
            assert_eq!(timeout(&Policies::new(rules), "pay", "Svc", "op"), expected);
        }
    }

    #[test]
    fn of_equals_the_first_decides_and_each_setting_by_itself() {
        let mut size_only = rule("pay", "", "", 0);
        (size_only.timeout, size_only.max_request_body) = (None, Some(7));
        let policies = Policies::new(vec![size_only, rule("pay", "", "", 2), rule("pay", "", "", 3)]);
        let decision = policies.explain(["pay", "Svc", "op"], None, None);
        assert_eq!(decision.timeout, Decided { value: Duration::from_secs(2), rule: Some(1) });
        assert_eq!(decision.max_request_body, Decided { value: 7, rule: Some(0) });
        assert_eq!(decision.max_response_body, Decided { value: 2 << 20, rule: None });
        assert_eq!(decision.hold, Decided { value: true, rule: None });
    }

    #[test]
    fn a_more_specific_rule_switches_off() {
        let everything = breaker(Selector::default(), Toggle::On(BreakerSettings::default()));
        let off = breaker(selector(None, "pay", "", ""), Toggle::Off);
        let no_retry = PolicyRule { retry: Some(Toggle::Off), ..PolicyRule::default() };
        let policies = Policies::new(vec![everything, off, no_retry]);
        assert_eq!(policies.explain(["pay", "S", "o"], None, None).breaker, Decided { value: None, rule: Some(1) });
        let other = policies.decide(["other", "S", "o"], &caller(), None);
        let (on, retry) = (other.breaker.unwrap(), other.retry);
        assert_eq!((&*on.name, on.rule), ("policies[0].breaker", 0));
        assert_eq!((retry.attempts, retry.on), (1, RetryOn::NOTHING));
    }

    #[test]
    fn how_completions_come_back_is_decided_like_the_rest() {
        let of = |endpoint: &str, relay, sticky| PolicyRule {
            selector: selector(None, endpoint, "", ""),
            relay,
            sticky,
            ..PolicyRule::default()
        };
        let policies = Policies::new(vec![of("", Some(false), Some(false)), of("pay", Some(true), None)]);
        let decided = |endpoint| {
            let policy = policies.decide([endpoint, "S", "o"], &caller(), None);
            (policy.relay, policy.sticky)
        };
        assert_eq!((decided("pay"), decided("other")), ((true, false), (false, false)));
        let default = Policies::default().decide(["pay", "S", "o"], &caller(), None);
        assert_eq!((default.relay, default.sticky), (true, true));
    }

    #[test]
    fn parking_is_decided_like_the_rest() {
        let of = |endpoint: &str, park| PolicyRule {
            selector: selector(None, endpoint, "", ""),
            park: Some(park),
            ..PolicyRule::default()
        };
        let few = ParkSettings { max: 5, ..ParkSettings::default() };
        let rules =
            vec![of("", Toggle::On(ParkSettings::default())), of("pay", Toggle::Off), of("buy", Toggle::On(few))];
        let policies = Policies::new(rules);
        let decided = |endpoint| {
            let park = policies.decide([endpoint, "S", "o"], &caller(), None).park;
            park.map(|park| (park.settings.max, park.name.to_string(), park.selector.endpoint.is_some()))
        };
        assert_eq!(decided("other"), Some((100_000, "policies[0].park".into(), false)));
        assert_eq!(decided("pay"), None);
        assert_eq!(decided("buy"), Some((5, "policies[2].park".into(), true)));
        assert_eq!(policies.explain(["pay", "S", "o"], None, None).park, Decided { value: None, rule: Some(1) });
        assert_eq!(
            Policies::default().explain(["pay", "S", "o"], None, None).park,
            Decided { value: None, rule: None }
        );
    }

    #[test]
    fn requests_of_one_rule_share_its_settings() {
        let policies = Policies::new(vec![breaker(Selector::default(), Toggle::On(BreakerSettings::default()))]);
        let of = |operation| policies.decide_all(["pay", "S", operation]).of(&caller(), None).breaker.clone().unwrap();
        assert!(Arc::ptr_eq(&of("a"), &of("b")));
    }

    #[test]
    fn a_limit_is_known_again_after_its_rule_moved() {
        let limit = breaker(selector(None, "pay", "", ""), Toggle::On(BreakerSettings::default()));
        let key = |rules| {
            let ruled = Policies::new(rules).decide(["pay", "S", "o"], &caller(), None).breaker.unwrap();
            (ruled.settings.clone(), ruled.selector.clone())
        };
        let before = key(vec![limit.clone()]);
        assert_eq!(before, key(vec![rule("", "", "", 1), limit.clone()]));
        let everything = PolicyRule { selector: Selector::default(), ..limit.clone() };
        assert_ne!(before, key(vec![everything]));
        let changed = BreakerSettings { probes: 2, ..BreakerSettings::default() };
        assert_ne!(before, key(vec![PolicyRule { breaker: Some(Toggle::On(changed)), ..limit }]));
    }

    #[test]
    fn an_ipv4_caller_is_the_same_inside_ipv6() {
        let mapped = || CallerKey::from("::ffff:10.0.0.5".parse::<IpAddr>().unwrap());
        for (named, asks) in [(caller(), mapped()), (mapped(), caller()), (mapped(), mapped())] {
            let mut rule = rule("", "", "", 3);
            rule.selector.caller = Some(named);
            let policies = Policies::new(vec![rule]);
            assert_eq!(policies.decide(["e", "s", "o"], &asks, None).timeout.as_secs(), 3);
            let all = policies.decide_all(["e", "s", "o"]);
            assert_eq!((all.of(&asks, None).timeout.as_secs(), all.of(&other(), None).timeout.as_secs()), (3, 10));
        }
    }

    #[test]
    fn a_namespace_is_a_part_like_any_other_and_counts_least() {
        let from = |rule: PolicyRule, namespace: &str| PolicyRule {
            selector: Selector { caller_namespace: Some(namespace.into()), ..rule.selector },
            ..rule
        };
        let policies = Policies::new(vec![
            rule("", "", "", 1),
            from(rule("", "", "", 2), "prod"),
            of_caller(rule("", "", "", 3)),
            from(of_caller(rule("", "", "", 4)), "prod"),
            rule("pay", "", "", 5),
            from(rule("pay", "", "", 6), "test"),
        ]);
        let timeout = |endpoint, caller: &CallerKey, namespace| {
            let all = policies.decide_all([endpoint, "S", "o"]);
            all.of(caller, namespace).timeout.as_secs()
        };
        for (endpoint, caller, namespace, expected) in [
            ("x", other(), None, 1),
            ("x", other(), Some("elsewhere"), 1),
            ("x", other(), Some("prod"), 2),
            ("x", caller(), Some("elsewhere"), 3),
            ("x", caller(), Some("prod"), 4),
            ("pay", other(), Some("prod"), 5),
            ("pay", caller(), Some("prod"), 4),
            ("pay", other(), Some("test"), 6),
            ("pay", caller(), Some("test"), 6),
        ] {
            assert_eq!(timeout(endpoint, &caller, namespace), expected, "{endpoint} {caller} {namespace:?}");
        }
    }

    #[test]
    fn what_holds_for_a_selector_is_said_by_rules_that_cover_it() {
        let policies = Policies::new(vec![rule("", "", "", 9), rule("pay", "", "", 5), rule("pay", "S", "", 1)]);
        let of = |endpoint: &str| policies.explain_selector(&selector(Some(caller()), endpoint, "", "")).timeout;
        assert_eq!(of("pay"), Decided { value: Duration::from_secs(5), rule: Some(1) });
        assert_eq!(of("other"), Decided { value: Duration::from_secs(9), rule: Some(0) });
    }

    /// An address, or else a name.
    fn key(text: &str) -> CallerKey {
        text.parse::<IpAddr>().map_or_else(|_| Arc::<str>::from(text).into(), Into::into)
    }

    /// A rule over few names and callers, so that many match.
    fn any_rule() -> impl Strategy<Value = PolicyRule> {
        let caller = prop::option::of(prop::sample::select(vec!["10.0.0.5", "::ffff:10.0.0.5", "::1", "orders"]));
        let name = || prop::option::of(prop::sample::select(vec!["a", "b"]));
        (caller, name(), name(), name(), name(), prop::option::of(1_u64..100)).prop_map(
            |(caller, n, e, s, o, seconds)| {
                let part = |text: Option<&str>| text.map(Into::into);
                let (caller, caller_namespace) = (caller.map(key), part(n));
                let selector =
                    Selector { caller, caller_namespace, endpoint: part(e), service: part(s), operation: part(o) };
                PolicyRule { selector, timeout: seconds.map(Duration::from_secs), ..PolicyRule::default() }
            },
        )
    }

    proptest! {
        #[test]
        fn looking_a_caller_up_is_the_same_as_deciding_for_it(rules in prop::collection::vec(any_rule(), 0..12)) {
            let policies = Policies::new(rules);
            let all = policies.decide_all(["a", "b", "a"]);
            for caller in ["10.0.0.5", "::ffff:10.0.0.6", "::1", "10.0.0.7", "orders", "billing"].map(key) {
                for namespace in [None, Some("a"), Some("b"), Some("c")] {
                    let decided = policies.decide(["a", "b", "a"], &caller, namespace);
                    prop_assert_eq!(&**all.of(&caller, namespace), &decided, "{} {:?}", caller, namespace);
                }
            }
        }
    }
}
