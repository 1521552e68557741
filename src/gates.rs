//! May it go now, and where does it wait: a place in the process, a turn under a rate limit, a place under a
//! concurrency limit, the recovery of an operation that keeps failing.
//!
//! The rules are pure and live in `resilience`; here are the clock, the queues and the locks. A gate hands out a value
//! (a turn, a permit, a pass) and takes it back when that is dropped; each wait has a bound in time and in number.
//! Knows settings and keys. Must not know requests, answers or the configuration file.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::runtime::Handle;

use crate::resilience::rate_limit::Scope;
use crate::resilience::{BreakerSettings, ConcurrencySettings, RateLimitSettings};

pub mod breaker;
pub mod budget;
pub mod bytes;
mod caller;
pub mod concurrency;
pub mod keyed;
pub mod rate_limit;
pub mod shared;
mod steering;

pub use breaker::Breaker;
pub use budget::Budget;
pub use caller::{Account, CallerKey};
pub use concurrency::Concurrency;
pub use keyed::{Key, Keyed};
pub use rate_limit::RateLimit;
pub use shared::{Shared, StoreSettings};
pub use steering::{Steer, Steered};

use bytes::Held;
use steering::Said;

/// The setting that bounds the requests in flight.
pub const IN_FLIGHT: &str = "server.max_in_flight";
/// The setting that bounds the bytes of bodies.
pub const QUEUED_BYTES: &str = "server.max_queued_bytes";

/// Requests that may wait for a place in flight at a time. Each has a connection of its own, of which there is a bound
/// as well.
const MAX_WAITING: usize = 10_000;

/// Bounds of the whole process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProcessSettings {
    /// Requests in flight at a time.
    pub max_in_flight: usize,
    /// Bytes of request bodies held at a time.
    pub max_queued_bytes: usize,
    /// Longest time that a request waits for its place in flight.
    pub max_wait: Duration,
    /// Longest time for a request's body to arrive, once it is wanted, and for an answer's to be taken.
    pub body_timeout: Duration,
}

impl Default for ProcessSettings {
    fn default() -> Self {
        Self {
            max_in_flight: 10_000,
            max_queued_bytes: 256 << 20,
            max_wait: Duration::from_secs(1),
            body_timeout: Duration::from_secs(30),
        }
    }
}

/// All gates. They outlive the table: what a reload leaves as it was keeps its state.
pub struct Gates {
    /// Places in flight.
    pub in_flight: Arc<Concurrency>,
    /// Places for those among them that wait for a target that is down or an operation that keeps failing: half of all,
    /// so that the others get through. Nobody waits for one of these.
    pub held: Arc<Concurrency>,
    /// Bytes of bodies.
    pub bytes: Arc<Held>,
    /// Longest time for a body to arrive, in milliseconds.
    body_millis: AtomicU64,
    /// Rate limits.
    pub rate_limits: Keyed<RateLimitSettings, RateLimit>,
    /// Concurrency limits.
    pub concurrency: Keyed<ConcurrencySettings, Concurrency>,
    /// Breakers of operations.
    pub breakers: Keyed<BreakerSettings, Breaker>,
    /// Retry budgets of endpoints, by their share in percent.
    pub budgets: Keyed<u32, Budget>,
    said: Arc<Said>,
    store: Arc<ArcSwapOption<Store>>,
    runtime: Handle,
}

/// The store of global limits, with what it was made from.
struct Store {
    settings: StoreSettings,
    shared: Arc<Shared>,
}

impl Gates {
    /// Gates with the bounds of `process`. What looks after a store runs on the current runtime.
    pub fn new(process: &ProcessSettings) -> Arc<Self> {
        let store: Arc<ArcSwapOption<Store>> = Arc::default();
        let said: Arc<Said> = Arc::default();
        let (stored, steered) = (Arc::clone(&store), Arc::clone(&said));
        Arc::new(Self {
            in_flight: Arc::new(Concurrency::process(process.max_in_flight, MAX_WAITING, process.max_wait)),
            held: Arc::new(Concurrency::process(held(process), 0, Duration::ZERO)),
            bytes: Arc::new(Held::new(process.max_queued_bytes)),
            body_millis: AtomicU64::new(millis(process.body_timeout)),
            rate_limits: Keyed::new(move |key, caller| rate_limit(&stored, key, caller)),
            concurrency: Keyed::new(|key: &Key<ConcurrencySettings>, _| Concurrency::new(&key.settings)),
            breakers: Keyed::new(move |key: &Key<BreakerSettings>, _| steered.breaker(key)),
            budgets: Keyed::new(|key: &Key<u32>, _| Budget::new(key.settings)),
            said,
            store,
            runtime: Handle::current(),
        })
    }

    /// Longest time for a request's body to arrive, once it is wanted.
    pub fn body_timeout(&self) -> Duration {
        Duration::from_millis(self.body_millis.load(Ordering::Relaxed))
    }

    /// Puts new bounds and another store in force.
    pub fn configure(&self, process: &ProcessSettings, store: Option<&StoreSettings>) {
        self.in_flight.set_max(process.max_in_flight, MAX_WAITING, process.max_wait);
        self.held.set_max(held(process), 0, Duration::ZERO);
        self.bytes.set_max(process.max_queued_bytes);
        self.body_millis.store(millis(process.body_timeout), Ordering::Relaxed);
        let before = self.store.load();
        if before.as_ref().map(|store| &store.settings) != store {
            self.store.store(store.and_then(|settings| self.open_store(settings)));
            // Global limits hold on to the store that they were made with. Operations get theirs anew with a new plan.
            self.rate_limits.forget(|key| key.settings.scope == Scope::Global);
        }
    }

    fn open_store(&self, settings: &StoreSettings) -> Option<Arc<Store>> {
        match Shared::new(settings, self.runtime.clone()) {
            Ok(shared) => Some(Arc::new(Store { settings: settings.clone(), shared: Arc::new(shared) })),
            Err(error) => {
                // The configuration was checked by the same parser.
                tracing::error!(%error, "global rate limits are kept by this process alone");
                None
            }
        }
    }

    /// The store of global limits, where there is one.
    pub fn shared(&self) -> Option<Arc<Shared>> {
        self.store.load().as_ref().map(|store| Arc::clone(&store.shared))
    }
}

/// The same in every process and version for the same bucket. How long requests wait for it is each one's own matter.
fn bucket_name(key: &Key<RateLimitSettings>, caller: Option<&Account>) -> String {
    let Key { settings, selector, endpoint, service, operation } = key;
    let (requests, every, burst) = (settings.rate.requests, settings.rate.every.as_secs(), settings.burst);
    format!("{requests}/{every}s+{burst} {selector} {endpoint:?} {service:?} {operation:?} {caller:?}")
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn held(process: &ProcessSettings) -> usize {
    (process.max_in_flight / 2).max(1)
}

/// A limit by its key. One that is global is the same for all processes that have the same rule and store.
fn rate_limit(store: &ArcSwapOption<Store>, key: &Key<RateLimitSettings>, caller: Option<&Account>) -> RateLimit {
    let settings = key.settings.clone();
    match &*store.load() {
        Some(store) if settings.scope == Scope::Global => {
            RateLimit::global(settings, bucket_name(key, caller), Arc::clone(&store.shared))
        }
        _ => RateLimit::new(settings),
    }
}
