//! What holds for an operation's requests, with the gates that see to it.

use std::sync::Arc;

use tokio::time::Instant;

use super::policy::{Policy, Ruled};
use crate::gates::keyed::{Handle, Settings};
use crate::gates::{Account, Breaker, Budget, Concurrency, Gates, Key, Keyed, RateLimit};
use crate::resilience::{BreakerSettings, ConcurrencySettings, Per, RateLimitSettings};

/// A policy with its gates.
pub struct Governed {
    /// What holds.
    pub policy: Arc<Policy>,
    /// The rate limit.
    pub rate_limit: Option<Gated<RateLimitSettings, RateLimit>>,
    /// The concurrency limit.
    pub concurrency: Option<Gated<ConcurrencySettings, Concurrency>>,
    /// The breaker.
    pub breaker: Option<Gated<BreakerSettings, Breaker>>,
    /// The endpoint's retry budget.
    pub budget: Option<Gated<u32, Budget>>,
}

/// The gate of a rule.
pub struct Gated<S: Settings, L: Send + Sync + 'static> {
    /// The rule's name, such as `policies[2].breaker`.
    pub rule: Arc<str>,
    handle: Handle<S, L>,
}

impl<S: Settings, L: Send + Sync + 'static> Gated<S, L> {
    /// The gate for a caller's request that came at `now`.
    pub fn gate(&self, caller: &Account, now: Instant) -> Arc<L> {
        self.handle.of(caller, now)
    }
}

impl Governed {
    /// The policy of an operation (`names` are its endpoint's, its service's and its own) with its gates.
    pub(super) fn new(policy: &Arc<Policy>, gates: &Gates, names: [&str; 3]) -> Self {
        let budget = policy.retry.budget.filter(|_| policy.retry.attempts > 1);
        Self {
            rate_limit: gated(&gates.rate_limits, policy.rate_limit.as_ref(), |limit| limit.per, names),
            concurrency: gated(&gates.concurrency, policy.concurrency.as_ref(), |limit| limit.per, names),
            breaker: gated(&gates.breakers, policy.breaker.as_ref(), |breaker| breaker.per, names),
            budget: budget.map(|percent| self::budget(gates, percent, names)),
            policy: Arc::clone(policy),
        }
    }
}

fn gated<S: Settings, L: Send + Sync + 'static>(
    gates: &Keyed<S, L>,
    ruled: Option<&Arc<Ruled<S>>>,
    per: impl Fn(&S) -> Per,
    names: [&str; 3],
) -> Option<Gated<S, L>> {
    let ruled = ruled?;
    let per = per(&ruled.settings);
    let selector = ruled.selector.to_string().into();
    let key = Key::new(ruled.settings.clone(), &selector, per, names);
    Some(Gated { rule: Arc::clone(&ruled.name), handle: gates.handle(key, per.caller) })
}

/// All requests to an endpoint that have the same share have one budget.
fn budget(gates: &Gates, percent: u32, names: [&str; 3]) -> Gated<u32, Budget> {
    let per = Per { endpoint: true, ..Per::default() };
    let key = Key::new(percent, &"".into(), per, names);
    Gated { rule: "retry.budget".into(), handle: gates.budgets.handle(key, false) }
}
