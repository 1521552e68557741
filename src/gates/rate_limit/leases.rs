//! A gateway's share of a bucket in the store: turns taken ahead, so that the common request needs no round trip.
//!
//! At most two leases are held: the one in use, and the one that follows it. Taking a turn is one atomic step. Asking
//! for a lease is a task of its own, one at a time: a request that leaves while it is under way loses nothing.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::Bucket;
use crate::gates::shared::{Ask, Store, Taken, bucket_name};
use crate::resilience::rate_limit::{Demand, Lease, Pick, SPAN};

/// How long the store's word that a bucket is empty is believed: it may have been cleared since.
const TRUST: Duration = Duration::from_secs(1);

pub(super) struct Leases {
    store: Arc<Store>,
    bucket: String,
    interval: Duration,
    burst: u32,
    furthest: Duration,
    current: ArcSwap<Held>,
    following: ArcSwap<Held>,
    /// Requests that came since demand was last looked at.
    arrived: AtomicU64,
    demand: Mutex<Demand>,
    asking: AtomicBool,
    answered: Notify,
    base: Instant,
    /// No turn is to be had from the store before this, in nanoseconds after `base`; believed until then.
    empty_until: AtomicU64,
    believed_until: AtomicU64,
}

struct Held {
    lease: Lease,
    used: AtomicU32,
    /// Turns that were left in the store.
    left: u32,
}

impl Held {
    fn new(lease: Lease, left: u32) -> Arc<Self> {
        Arc::new(Self { lease, used: AtomicU32::new(0), left })
    }

    /// Takes a turn whose time has come, or says when one's comes.
    fn take(&self, now: Instant) -> Pick {
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let Pick::Turn(turn) = self.lease.pick(used, now) else { return self.lease.pick(used, now) };
            match self.used.compare_exchange_weak(used, turn + 1, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Pick::Turn(turn),
                Err(meanwhile) => used = meanwhile,
            }
        }
    }

    fn unused(&self, now: Instant) -> u32 {
        self.lease.unused(self.used.load(Ordering::Relaxed), now)
    }
}

/// What the leases have at a moment.
pub(super) enum Share {
    /// A turn, and how many are left.
    Turn(u32),
    /// A turn's time comes then.
    At(Instant),
    /// Nothing; the store has nothing before this either, where it is known.
    Spent(Option<Instant>),
}

impl Leases {
    pub(super) fn new(store: Arc<Store>, key: &str, bucket: &Bucket, max_wait: Duration) -> Self {
        let now = Instant::now();
        Self {
            store,
            bucket: bucket_name(key),
            interval: bucket.interval,
            burst: bucket.burst,
            furthest: max_wait + SPAN,
            current: ArcSwap::new(Held::new(Lease::none(now), 0)),
            following: ArcSwap::new(Held::new(Lease::none(now), 0)),
            arrived: AtomicU64::new(0),
            demand: Mutex::new(Demand::new(now)),
            asking: AtomicBool::new(false),
            answered: Notify::new(),
            base: now,
            empty_until: AtomicU64::new(0),
            believed_until: AtomicU64::new(0),
        }
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// Counts a request: how many come says how many turns the next lease should have.
    pub(super) fn arrived(&self) {
        self.arrived.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a turn, if the time of one has come.
    pub(super) fn take(self: &Arc<Self>, now: Instant) -> Share {
        let (current, following) = (self.current.load(), self.following.load());
        let mut soonest = None;
        for held in [&*current, &*following] {
            match held.take(now) {
                Pick::Turn(_) => {
                    let unused = [current.unused(now), following.unused(now)];
                    self.refill(held, unused);
                    return Share::Turn(unused.iter().sum::<u32>().saturating_add(held.left));
                }
                Pick::At(at) => soonest = Some(soonest.map_or(at, |soonest: Instant| soonest.min(at))),
                Pick::Spent => {}
            }
        }
        soonest.map_or_else(|| Share::Spent(self.empty_until(now)), Share::At)
    }

    /// Asks for the next lease when half of this one is used and there is a place for it. Not where it was of one turn:
    /// demand is so low that the next turn would be lost more often than not.
    fn refill(self: &Arc<Self>, held: &Held, unused: [u32; 2]) {
        let turns = held.lease.turns();
        let low = turns >= 2 && unused.contains(&0) && unused.iter().sum::<u32>() <= turns / 2;
        if low && !self.asking.load(Ordering::Relaxed) && !self.store.is_down() {
            self.ask(0, SPAN);
        }
    }

    /// Asks for a lease, with turns up to `ahead` in the future, and waits for the answer; false where it did not come
    /// before `by`.
    pub(super) async fn refilled(self: &Arc<Self>, waiting: u32, ahead: Duration, by: Instant) -> bool {
        let mut answered = std::pin::pin!(self.answered.notified());
        answered.as_mut().enable();
        self.ask(waiting, ahead);
        timeout_at(by, answered).await.is_ok()
    }

    fn ask(self: &Arc<Self>, waiting: u32, ahead: Duration) {
        if self.asking.swap(true, Ordering::AcqRel) {
            return;
        }
        let asking = Asking { leases: Arc::clone(self), decided: false };
        self.store.handle().spawn(asking.run(waiting, ahead));
    }

    async fn fetch(&self, waiting: u32, ahead: Duration) {
        let want = self.wanted(waiting);
        // Those who would not wait for turns of the next moment are followed by others, where many come. If they asked
        // for what there is now, other gateways would always have taken it before.
        let ahead = if want >= 2 { ahead.max(SPAN) } else { ahead };
        let (interval, burst, furthest) = (self.interval, self.burst, self.furthest);
        let ask = Ask { bucket: &self.bucket, interval, burst, want, ahead, furthest };
        let asked = Instant::now();
        if let Ok(taken) = self.store.take(ask).await {
            self.install(taken, asked);
        }
    }

    fn wanted(&self, waiting: u32) -> u32 {
        // A task that panicked between these lines left a number that is as good as any.
        let mut demand = self.demand.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        demand.observe(self.arrived.swap(0, Ordering::Relaxed), Instant::now());
        demand.lease(waiting, self.interval)
    }

    fn install(&self, taken: Taken, asked: Instant) {
        if taken.turns == 0 {
            let until = asked + Duration::from_micros(u64::try_from(taken.first).unwrap_or(0));
            self.empty_until.store(self.since_base(until), Ordering::Relaxed);
            self.believed_until.store(self.since_base(until.min(asked + TRUST)), Ordering::Release);
            return;
        }
        let lease = Lease::new(Instant::now(), taken.first.saturating_mul(1000), self.interval, taken.turns);
        // Nothing is asked while both have turns.
        let new = Held::new(lease, taken.left);
        if self.current.load().unused(asked) == 0 {
            self.current.store(self.following.swap(new));
        } else {
            self.following.store(new);
        }
    }

    fn empty_until(&self, now: Instant) -> Option<Instant> {
        let believed = self.believed_until.load(Ordering::Acquire) > self.since_base(now);
        believed.then(|| self.base + Duration::from_nanos(self.empty_until.load(Ordering::Relaxed)))
    }

    fn since_base(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.base).as_nanos()).unwrap_or(u64::MAX)
    }
}

/// A question under way. However it ends, those who wait for it go on.
struct Asking {
    leases: Arc<Leases>,
    decided: bool,
}

impl Asking {
    async fn run(mut self, waiting: u32, ahead: Duration) {
        self.leases.fetch(waiting, ahead).await;
        self.decided = true;
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if !self.decided {
            self.leases.store.abandoned();
        }
        self.leases.asking.store(false, Ordering::Release);
        self.leases.answered.notify_waiters();
    }
}
