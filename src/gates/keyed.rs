//! One gate for each of what a rule counts apart: an endpoint, an operation, a caller.
//!
//! Callers choose services and operations, and there may be any number of callers, so what is kept is bounded by
//! number and idle time. A gate is known by its settings and by what it is for, not by its place in the file: a reload
//! that leaves both as they were leaves its state as it was.

use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use moka::sync::Cache;
use tokio::time::Instant;

use crate::resilience::Per;

/// Gates that are kept, per kind.
const MAX_GATES: u64 = 100_000;
/// A gate that no request has asked for in so long is forgotten. Longer than any breaker stays open.
const MAX_IDLE: Duration = Duration::from_secs(3600);

/// Callers whose gates are found at once.
const MAX_RECENT: usize = 8;
/// How long, until all are looked up again, so that those in use do not count as idle.
const RECENT_FOR: Duration = Duration::from_secs(60);

/// What a gate is for, besides the caller.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Key<S> {
    /// The settings that made it.
    pub settings: S,
    /// Which requests the rule is for, in words.
    pub selector: Arc<str>,
    /// The endpoint, where each has its own.
    pub endpoint: Option<Arc<str>>,
    /// The service, where each has its own.
    pub service: Option<Arc<str>>,
    /// The operation, where each has its own.
    pub operation: Option<Arc<str>>,
}

impl<S> Key<S> {
    /// Endpoint, service and operation, empty where they are not kept apart.
    pub fn labels(&self) -> [&str; 3] {
        [&self.endpoint, &self.service, &self.operation].map(|part| part.as_deref().unwrap_or_default())
    }

    /// The key of an operation's requests under a rule whose gates are `per`.
    pub fn new(settings: S, selector: &Arc<str>, per: Per, [endpoint, service, operation]: [&str; 3]) -> Self {
        let part = |wanted: bool, name: &str| wanted.then(|| name.into());
        Self {
            settings,
            selector: Arc::clone(selector),
            endpoint: part(per.endpoint, endpoint),
            service: part(per.service, service),
            operation: part(per.operation, operation),
        }
    }
}

impl<S: std::fmt::Debug> Key<S> {
    /// A text that is the same for the same key in every process.
    pub fn name(&self, caller: Option<IpAddr>) -> String {
        format!("{self:?} {caller:?}")
    }
}

type Make<S, L> = dyn Fn(&Key<S>, Option<IpAddr>) -> L + Send + Sync;

/// Seeded at random; bounded as the maps are, a faster hash than the standard one will do.
type Hasher = foldhash::quality::RandomState;

/// Gates of single callers, by their family's number.
type Members<L> = Cache<(u64, IpAddr), Arc<L>, Hasher>;

/// All gates of a kind.
pub struct Keyed<S, L> {
    families: Cache<Key<S>, Handle<S, L>, Hasher>,
    members: Members<L>,
    next: AtomicU64,
    make: Arc<Make<S, L>>,
}

/// Finds the gate of a request; kept with its operation.
pub enum Handle<S, L> {
    /// All callers share it.
    Shared(Arc<L>),
    /// Each caller has its own.
    EachCaller(Arc<Family<S, L>>),
}

/// The gates of all callers of one key.
pub struct Family<S, L> {
    id: u64,
    key: Key<S>,
    members: Members<L>,
    make: Arc<Make<S, L>>,
    recent: ArcSwap<Recent<L>>,
}

/// The gates of the last few callers: most requests come from a few, and a look at these is cheaper than one at all.
struct Recent<L> {
    since: Instant,
    gates: Vec<(IpAddr, Arc<L>)>,
}

impl<S, L> Clone for Handle<S, L> {
    fn clone(&self) -> Self {
        match self {
            Self::Shared(gate) => Self::Shared(Arc::clone(gate)),
            Self::EachCaller(family) => Self::EachCaller(Arc::clone(family)),
        }
    }
}

impl<S, L> Keyed<S, L>
where
    S: Clone + Eq + Hash + Send + Sync + 'static,
    L: Send + Sync + 'static,
{
    /// Gates that `make` makes.
    pub fn new(make: impl Fn(&Key<S>, Option<IpAddr>) -> L + Send + Sync + 'static) -> Self {
        Self {
            families: Cache::builder()
                .max_capacity(MAX_GATES)
                .time_to_idle(MAX_IDLE)
                .build_with_hasher(Hasher::default()),
            members: Cache::builder()
                .max_capacity(MAX_GATES)
                .time_to_idle(MAX_IDLE)
                .build_with_hasher(Hasher::default()),
            next: AtomicU64::new(0),
            make: Arc::new(make),
        }
    }

    /// The gate, or the gates of each caller, for `key`.
    pub fn handle(&self, key: &Key<S>, each_caller: bool) -> Handle<S, L> {
        self.families.get_with_by_ref(key, || {
            if each_caller {
                let id = self.next.fetch_add(1, Ordering::Relaxed);
                let (members, make) = (self.members.clone(), Arc::clone(&self.make));
                let recent = ArcSwap::from_pointee(Recent { since: Instant::now(), gates: Vec::new() });
                Handle::EachCaller(Arc::new(Family { id, key: key.clone(), members, make, recent }))
            } else {
                Handle::Shared(Arc::new((self.make)(key, None)))
            }
        })
    }

    /// Every gate that callers share, with what it is for.
    pub fn shared(&self) -> Vec<(Arc<Key<S>>, Arc<L>)> {
        let shared = |(key, handle)| match handle {
            Handle::Shared(gate) => Some((key, gate)),
            Handle::EachCaller(_) => None,
        };
        self.families.iter().filter_map(shared).collect()
    }

    /// Forgets all of them: requests that come now find fresh ones.
    pub fn clear(&self) {
        self.families.invalidate_all();
        self.members.invalidate_all();
    }
}

impl<S, L> Handle<S, L>
where
    L: Send + Sync + 'static,
{
    /// The gate for this caller's request that came at `now`.
    pub fn of(&self, caller: IpAddr, now: Instant) -> Arc<L> {
        match self {
            Self::Shared(gate) => Arc::clone(gate),
            Self::EachCaller(family) => family.of(caller, now),
        }
    }
}

impl<S, L: Send + Sync + 'static> Family<S, L> {
    fn of(&self, caller: IpAddr, now: Instant) -> Arc<L> {
        let recent = self.recent.load();
        let is_fresh = now.saturating_duration_since(recent.since) < RECENT_FOR;
        if is_fresh && let Some((_, gate)) = recent.gates.iter().find(|(of, _)| *of == caller) {
            return Arc::clone(gate);
        }
        let gate = self.members.get_with((self.id, caller), || Arc::new((self.make)(&self.key, Some(caller))));
        self.remember(&recent, is_fresh, caller, &gate, now);
        gate
    }

    /// Two at the same time lose nothing but a little work.
    fn remember(&self, recent: &Recent<L>, is_fresh: bool, caller: IpAddr, gate: &Arc<L>, now: Instant) {
        let kept = if is_fresh { &recent.gates[recent.gates.len().saturating_sub(MAX_RECENT - 1)..] } else { &[] };
        let gates = kept.iter().cloned().chain([(caller, Arc::clone(gate))]).collect();
        let since = if is_fresh { recent.since } else { now };
        self.recent.store(Arc::new(Recent { since, gates }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(operation: &str, per: Per) -> Key<u32> {
        Key::new(7, &"endpoint=pay".into(), per, ["pay", "Svc", operation])
    }

    #[test]
    fn what_is_counted_together_shares_a_gate() {
        let gates = Keyed::new(|_: &Key<u32>, _| ());
        let per_endpoint = Per { endpoint: true, ..Per::default() };
        let gate =
            |operation, per| gates.handle(&key(operation, per), false).of(IpAddr::from([127, 0, 0, 1]), Instant::now());
        assert!(Arc::ptr_eq(&gate("a", per_endpoint), &gate("b", per_endpoint)));
        assert!(!Arc::ptr_eq(&gate("a", Per::OPERATION), &gate("b", Per::OPERATION)));
        assert!(Arc::ptr_eq(&gate("a", Per::OPERATION), &gate("a", Per::OPERATION)));
    }

    #[test]
    fn each_caller_has_its_own_where_the_rule_says_so() {
        let gates = Keyed::new(|_: &Key<u32>, caller| caller);
        let handle = gates.handle(&key("a", Per::OPERATION), true);
        let now = Instant::now();
        let (one, other) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        assert_eq!((*handle.of(one, now), *handle.of(other, now)), (Some(one), Some(other)));
        assert!(Arc::ptr_eq(&handle.of(one, now), &gates.handle(&key("a", Per::OPERATION), true).of(one, now)));
        assert!(gates.shared().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_keeps_its_gate_among_many_and_over_time() {
        let gates = Keyed::new(|_: &Key<u32>, _| ());
        let handle = gates.handle(&key("a", Per::OPERATION), true);
        let first = handle.of(IpAddr::from([10, 0, 0, 0]), Instant::now());
        for host in 0..100 {
            handle.of(IpAddr::from([10, 0, 0, host]), Instant::now());
        }
        assert!(Arc::ptr_eq(&first, &handle.of(IpAddr::from([10, 0, 0, 0]), Instant::now())));
        tokio::time::advance(2 * RECENT_FOR).await;
        assert!(Arc::ptr_eq(&first, &handle.of(IpAddr::from([10, 0, 0, 0]), Instant::now())));
    }

    #[test]
    fn other_settings_are_another_gate() {
        let gates = Keyed::new(|_: &Key<u32>, _| ());
        let changed = Key { settings: 8, ..key("a", Per::OPERATION) };
        let of = |key: &Key<u32>| gates.handle(key, false).of(IpAddr::from([127, 0, 0, 1]), Instant::now());
        assert!(!Arc::ptr_eq(&of(&key("a", Per::OPERATION)), &of(&changed)));
    }
}
