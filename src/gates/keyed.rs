//! One gate for each of what a rule counts apart: an endpoint, an operation, a caller.
//!
//! A gate is known by its settings and by what it is for, not by its place in the file: a reload that leaves both as they
//! were leaves its state as it was. While an operation has it, it stays, however long no request comes, and there is no
//! second one of its key. Callers choose services and operations, and there may be any number of callers, so what
//! nobody has any more is bounded by number and idle time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use moka::sync::Cache;
use tokio::time::Instant;

use super::Account;
use crate::resilience::Per;

/// Gates that are kept though no operation has them, per kind.
const MAX_GATES: u64 = 100_000;
/// A gate that no operation has had for so long is forgotten, and so is one of a caller that no request asked for.
const MAX_IDLE: Duration = Duration::from_secs(3600);

/// Callers whose gates an operation finds at once.
const MAX_RECENT: usize = 8;
/// How long, until all are looked up again, so that those in use do not count as idle.
const RECENT_FOR: Duration = Duration::from_secs(60);

/// Seeded at random; bounded as the maps are, a faster hash than the standard one will do.
type Hasher = foldhash::quality::RandomState;

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

/// What tells gates of a kind apart.
pub trait Settings: Clone + Eq + Hash + Send + Sync + 'static {}

impl<S: Clone + Eq + Hash + Send + Sync + 'static> Settings for S {}

/// All gates of a kind.
pub struct Keyed<S: Settings, L: Send + Sync + 'static>(Arc<Kept<S, L>>);

struct Kept<S: Settings, L: Send + Sync + 'static> {
    lent: Mutex<HashMap<Arc<Key<S>>, Lent<L>>>,
    idle: Cache<Arc<Key<S>>, Gate<L>>,
    /// Gates of single callers, by their gate's number.
    members: Cache<(u64, Account), Arc<L>, Hasher>,
    next: AtomicU64,
    make: Box<Make<S, L>>,
}

type Make<S, L> = dyn Fn(&Key<S>, Option<&Account>) -> L + Send + Sync;

/// The gate of a key.
struct Gate<L> {
    number: u64,
    /// None where each caller has its own.
    shared: Option<Arc<L>>,
}

/// A gate that somebody has.
struct Lent<L> {
    gate: Gate<L>,
    handles: usize,
    pinned: bool,
}

/// Finds the gate of a request; kept with its operation.
pub struct Handle<S: Settings, L: Send + Sync + 'static> {
    key: Arc<Key<S>>,
    gate: Gate<L>,
    kept: Arc<Kept<S, L>>,
    recent: ArcSwap<Recent<L>>,
}

/// The gates of the last few callers: most requests come from a few, and a look at these is cheaper than one at all.
struct Recent<L> {
    since: Instant,
    gates: Vec<(Account, Arc<L>)>,
}

impl<L> Clone for Gate<L> {
    fn clone(&self) -> Self {
        Self { number: self.number, shared: self.shared.clone() }
    }
}

impl<S: Settings, L: Send + Sync + 'static> Keyed<S, L> {
    /// Gates that `make` makes.
    pub fn new(make: impl Fn(&Key<S>, Option<&Account>) -> L + Send + Sync + 'static) -> Self {
        Self(Arc::new(Kept {
            lent: Mutex::default(),
            idle: Cache::builder().max_capacity(MAX_GATES).time_to_idle(MAX_IDLE).build(),
            members: Cache::builder()
                .max_capacity(MAX_GATES)
                .time_to_idle(MAX_IDLE)
                .build_with_hasher(Hasher::default()),
            next: AtomicU64::new(0),
            make: Box::new(make),
        }))
    }

    /// The gate, or the gates of each caller, for `key`.
    pub fn handle(&self, key: Key<S>, each_caller: bool) -> Handle<S, L> {
        let kept = &self.0;
        let key = Arc::new(key);
        let mut all = kept.lent();
        let lent = all.entry(Arc::clone(&key)).or_insert_with(|| {
            let gate = kept.idle.remove(&key).unwrap_or_else(|| kept.new_gate(&key, each_caller));
            Lent { gate, handles: 0, pinned: false }
        });
        lent.handles += 1;
        let recent = ArcSwap::from_pointee(Recent { since: Instant::now(), gates: Vec::new() });
        Handle { key, gate: lent.gate.clone(), kept: Arc::clone(kept), recent }
    }

    /// Every gate that callers share and that some operation has or that is pinned, with what it is for.
    pub fn shared(&self) -> Vec<(Arc<Key<S>>, Arc<L>)> {
        let all = self.0.lent();
        all.iter().filter_map(|(key, lent)| Some((Arc::clone(key), lent.gate.shared.clone()?))).collect()
    }

    /// Keeps a gate, also when no operation has it, or lets it go again.
    pub fn pin(&self, key: &Key<S>, pinned: bool) {
        let mut all = self.0.lent();
        if let Some(lent) = all.get_mut(key) {
            lent.pinned = pinned;
            self.0.let_go(&mut all, key);
        }
    }

    /// Forgets those that are `unwanted`: who asks from now on finds fresh ones.
    pub fn forget(&self, unwanted: impl Fn(&Key<S>) -> bool) {
        self.0.lent().retain(|key, _| !unwanted(key));
        for (key, _) in &self.0.idle {
            if unwanted(&key) {
                self.0.idle.invalidate(&*key);
            }
        }
    }
}

impl<S: Settings, L: Send + Sync + 'static> Kept<S, L> {
    fn new_gate(&self, key: &Key<S>, each_caller: bool) -> Gate<L> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        Gate { number, shared: (!each_caller).then(|| Arc::new((self.make)(key, None))) }
    }

    /// Puts a gate that nobody has any more among the idle ones.
    fn let_go(&self, all: &mut HashMap<Arc<Key<S>>, Lent<L>>, key: &Key<S>) {
        if all.get(key).is_some_and(|lent| lent.handles == 0 && !lent.pinned)
            && let Some((key, lent)) = all.remove_entry(key)
        {
            self.idle.insert(key, lent.gate);
        }
    }

    fn lent(&self) -> MutexGuard<'_, HashMap<Arc<Key<S>>, Lent<L>>> {
        self.lent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Settings, L: Send + Sync + 'static> Handle<S, L> {
    /// The gate for this caller's request that came at `now`. All addresses of an IPv6 /64 are one caller.
    pub fn of(&self, caller: &Account, now: Instant) -> Arc<L> {
        match &self.gate.shared {
            Some(gate) => Arc::clone(gate),
            None => self.of_caller(caller.network(), now),
        }
    }

    fn of_caller(&self, caller: Account, now: Instant) -> Arc<L> {
        let recent = self.recent.load();
        let is_fresh = now.saturating_duration_since(recent.since) < RECENT_FOR;
        if is_fresh && let Some((_, gate)) = recent.gates.iter().find(|(of, _)| *of == caller) {
            return Arc::clone(gate);
        }
        let Self { key, gate, kept, .. } = self;
        let make = || Arc::new((kept.make)(key, Some(&caller)));
        let found = kept.members.get_with((gate.number, caller.clone()), make);
        self.remember(&recent, is_fresh, caller, &found, now);
        found
    }

    /// Two at the same time lose nothing but a little work.
    fn remember(&self, recent: &Recent<L>, is_fresh: bool, caller: Account, gate: &Arc<L>, now: Instant) {
        let kept = if is_fresh { &recent.gates[recent.gates.len().saturating_sub(MAX_RECENT - 1)..] } else { &[] };
        let gates = kept.iter().cloned().chain([(caller, Arc::clone(gate))]).collect();
        let since = if is_fresh { recent.since } else { now };
        self.recent.store(Arc::new(Recent { since, gates }));
    }
}

impl<S: Settings, L: Send + Sync + 'static> Drop for Handle<S, L> {
    fn drop(&mut self) {
        let mut all = self.kept.lent();
        // Another number: this one was forgotten.
        if let Some(lent) = all.get_mut(&*self.key).filter(|lent| lent.gate.number == self.gate.number) {
            lent.handles -= 1;
            self.kept.let_go(&mut all, &self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn at(address: &str) -> Account {
        address.parse::<IpAddr>().unwrap().into()
    }

    fn key(operation: &str, per: Per) -> Key<u32> {
        Key::new(7, &"endpoint=pay".into(), per, ["pay", "Svc", operation])
    }

    #[test]
    fn what_is_counted_together_shares_a_gate() {
        let gates = Keyed::new(|_: &Key<u32>, _| ());
        let per_endpoint = Per { endpoint: true, ..Per::default() };
        let gate = |operation, per| gates.handle(key(operation, per), false).of(&at("127.0.0.1"), Instant::now());
        assert!(Arc::ptr_eq(&gate("a", per_endpoint), &gate("b", per_endpoint)));
        assert!(!Arc::ptr_eq(&gate("a", Per::OPERATION), &gate("b", Per::OPERATION)));
        assert!(Arc::ptr_eq(&gate("a", Per::OPERATION), &gate("a", Per::OPERATION)));
    }

    #[test]
    fn each_caller_has_its_own_where_the_rule_says_so() {
        let gates = Keyed::new(|_: &Key<u32>, caller| caller.cloned());
        let handle = gates.handle(key("a", Per::OPERATION), true);
        let (one, other) = (at("10.0.0.1"), at("10.0.0.2"));
        let now = Instant::now();
        assert_eq!((&*handle.of(&one, now), &*handle.of(&other, now)), (&Some(one.clone()), &Some(other)));
        assert!(Arc::ptr_eq(&handle.of(&one, now), &gates.handle(key("a", Per::OPERATION), true).of(&one, now)));
        assert!(gates.shared().is_empty());
    }

    #[test]
    fn the_addresses_of_a_network_are_one_caller() {
        let gates = Keyed::new(|_: &Key<u32>, _| ());
        let handle = gates.handle(key("a", Per::OPERATION), true);
        let gate = |address: &str| handle.of(&at(address), Instant::now());
        assert!(Arc::ptr_eq(&gate("2001:db8::1"), &gate("2001:db8::2:3:4:5")));
        assert!(!Arc::ptr_eq(&gate("2001:db8::1"), &gate("2001:db8:0:1::1")));
        assert!(Arc::ptr_eq(&gate("10.0.0.1"), &gate("::ffff:10.0.0.1")));
        assert!(!Arc::ptr_eq(&gate("10.0.0.1"), &gate("10.0.0.2")));
    }

    #[test]
    fn a_name_is_one_caller_in_each_namespace_and_no_address() {
        let gates = Keyed::new(|_: &Key<u32>, _| ());
        let handle = gates.handle(key("a", Per::OPERATION), true);
        let named = |name: &str| handle.of(&Account::named(name.into(), None), Instant::now());
        let of = |name: &str, namespace: &str| {
            handle.of(&Account::named(name.into(), Some(namespace.into())), Instant::now())
        };
        assert!(Arc::ptr_eq(&named("orders"), &named("orders")));
        assert!(!Arc::ptr_eq(&named("orders"), &named("billing")));
        assert!(Arc::ptr_eq(&of("orders", "prod"), &of("orders", "prod")));
        assert!(!Arc::ptr_eq(&of("orders", "prod"), &of("orders", "test")));
        assert!(!Arc::ptr_eq(&of("orders", "prod"), &named("orders")));
        assert!(!Arc::ptr_eq(&named("10.0.0.1"), &handle.of(&at("10.0.0.1"), Instant::now())));
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_keeps_its_gate_among_many_and_over_time() {
        let gates = Keyed::new(|_: &Key<u32>, _| ());
        let handle = gates.handle(key("a", Per::OPERATION), true);
        let first = handle.of(&at("10.0.0.0"), Instant::now());
        for host in 0..100 {
            handle.of(&IpAddr::from([10, 0, 0, host]).into(), Instant::now());
        }
        assert!(Arc::ptr_eq(&first, &handle.of(&at("10.0.0.0"), Instant::now())));
        tokio::time::advance(2 * RECENT_FOR).await;
        assert!(Arc::ptr_eq(&first, &handle.of(&at("10.0.0.0"), Instant::now())));
    }

    #[test]
    fn other_settings_are_another_gate() {
        let gates = Keyed::new(|_: &Key<u32>, _| ());
        let changed = Key { settings: 8, ..key("a", Per::OPERATION) };
        let of = |key: Key<u32>| gates.handle(key, false).of(&at("127.0.0.1"), Instant::now());
        assert!(!Arc::ptr_eq(&of(key("a", Per::OPERATION)), &of(changed)));
    }

    #[test]
    fn a_gate_that_somebody_has_stays_and_is_seen_and_one_that_nobody_has_is_only_kept() {
        let gates = Keyed::new(|_: &Key<u32>, _| ());
        let handle = gates.handle(key("a", Per::OPERATION), false);
        let gate = handle.of(&at("127.0.0.1"), Instant::now());
        // As after an hour without a look at it.
        gates.0.idle.invalidate(&key("a", Per::OPERATION));
        assert!(Arc::ptr_eq(
            &gate,
            &gates.handle(key("a", Per::OPERATION), false).of(&at("127.0.0.1"), Instant::now())
        ));
        assert_eq!(gates.shared().len(), 1);
        drop(handle);
        assert!(gates.shared().is_empty());
        assert!(Arc::ptr_eq(
            &gate,
            &gates.handle(key("a", Per::OPERATION), false).of(&at("127.0.0.1"), Instant::now())
        ));
        gates.0.idle.invalidate(&key("a", Per::OPERATION));
        assert!(!Arc::ptr_eq(
            &gate,
            &gates.handle(key("a", Per::OPERATION), false).of(&at("127.0.0.1"), Instant::now())
        ));
    }

    #[test]
    fn a_pinned_gate_stays_though_nobody_has_it() {
        let gates = Keyed::new(|_: &Key<u32>, _| ());
        let gate = gates.handle(key("a", Per::OPERATION), false).of(&at("127.0.0.1"), Instant::now());
        let handle = gates.handle(key("a", Per::OPERATION), false);
        gates.pin(&key("a", Per::OPERATION), true);
        drop(handle);
        gates.0.idle.invalidate(&key("a", Per::OPERATION));
        assert!(Arc::ptr_eq(&gates.shared()[0].1, &gate));
        gates.pin(&key("a", Per::OPERATION), false);
        assert!(gates.shared().is_empty());
    }

    #[test]
    fn what_was_forgotten_comes_back_afresh_and_not_by_who_still_has_it() {
        let gates = Keyed::new(|_: &Key<u32>, _| ());
        let of = |operation| gates.handle(key(operation, Per::OPERATION), false);
        let (lent, other, idle) = (of("a"), of("b"), of("c").of(&at("127.0.0.1"), Instant::now()));
        gates.forget(|key| key.operation.as_deref() != Some("b"));
        let fresh = of("a");
        assert!(
            !Arc::ptr_eq(&lent.of(&at("127.0.0.1"), Instant::now()), &fresh.of(&at("127.0.0.1"), Instant::now()))
                && !Arc::ptr_eq(&idle, &of("c").of(&at("127.0.0.1"), Instant::now()))
        );
        assert!(Arc::ptr_eq(
            &other.of(&at("127.0.0.1"), Instant::now()),
            &of("b").of(&at("127.0.0.1"), Instant::now())
        ));
        drop(lent);
        assert!(Arc::ptr_eq(
            &fresh.of(&at("127.0.0.1"), Instant::now()),
            &of("a").of(&at("127.0.0.1"), Instant::now())
        ));
    }
}
