//! A rate limit in which requests wait their turn.
//!
//! A request that finds a turn goes at once, by a few atomic steps. Others queue: a fair semaphore of one permit keeps
//! the order of arrival, and who holds it is the head, who alone sleeps until the next turn. A turn belongs to nobody
//! before it is taken, so one who leaves the queue takes nothing along.
//!
//! A global limit takes its turns from a store by leases; while the store is down the settings say what holds. Only
//! the head waits for the store, and only until the store counts as down.
//!
//! Timers have a grain of about a millisecond: where requests queue, a burst below rate × 2 ms loses some of the rate.

mod bucket;
mod leases;
mod outcome;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{Instant, sleep_until, timeout_at};

use self::bucket::Bucket;
use self::leases::{Leases, Share};
pub use self::outcome::{Left, Refused, Status, Turn, Why};
use super::shared::{RETRY, Shared};
use crate::resilience::RateLimitSettings;
use crate::resilience::rate_limit::OnFailure;

/// The shortest time after which anyone is told to come again.
const SOON: Duration = Duration::from_millis(1);

/// Requests that may wait for the store's answer at a time, beside those that wait for their turn.
const MAX_ASKING: usize = 1024;

/// One bucket and its queue.
pub struct RateLimit {
    settings: RateLimitSettings,
    bucket: Bucket,
    global: Option<Global>,
    head: Semaphore,
    waiting: AtomicUsize,
    base: Instant,
    /// When the turn that the head waits for comes, in nanoseconds after `base`; 0 where it is not known.
    next: AtomicU64,
    counts: Counts,
}

struct Global {
    leases: Arc<Leases>,
    /// Kept for as long as a limit uses it.
    _store: Arc<Shared>,
}

#[derive(Default)]
struct Counts {
    admitted: AtomicU64,
    delayed: AtomicU64,
    queue_full: AtomicU64,
    too_long: AtomicU64,
    timed_out: AtomicU64,
    store_unavailable: AtomicU64,
}

/// What the limit has for a request at a moment.
enum Next {
    Go(Left),
    At(Instant),
    /// The store has to be asked; it has nothing before this, where it is known.
    Ask(Option<Instant>),
    Unavailable,
}

impl RateLimit {
    /// A limit of this process alone.
    pub fn new(settings: RateLimitSettings) -> Self {
        let bucket = Bucket::new(settings.rate, settings.burst);
        Self {
            settings,
            bucket,
            global: None,
            head: Semaphore::new(1),
            waiting: AtomicUsize::new(0),
            base: Instant::now(),
            next: AtomicU64::new(0),
            counts: Counts::default(),
        }
    }

    /// A limit that all gateways with the same `key` and the same store have together. A key of any length will do.
    #[expect(clippy::needless_pass_by_value, reason = "callers make it for this")]
    pub fn global(settings: RateLimitSettings, key: String, store: Arc<Shared>) -> Self {
        let limit = Self::new(settings);
        let leases = Leases::new(Arc::clone(store.store()), &key, &limit.bucket, limit.settings.max_wait);
        Self { global: Some(Global { leases: Arc::new(leases), _store: store }), ..limit }
    }

    /// What was asked for.
    pub fn settings(&self) -> &RateLimitSettings {
        &self.settings
    }

    /// A request comes: its turn, or its refusal, where it need not wait for either; then [`Self::wait`] is next.
    pub fn arrive(&self, now: Instant) -> Option<Result<Turn, Refused>> {
        if let Some(global) = &self.global {
            global.leases.arrived();
        }
        if self.waiting.load(Ordering::Acquire) > 0 {
            return None;
        }
        match self.next(now) {
            Next::Go(left) => Some(self.counted(Duration::ZERO, Ok(left))),
            Next::Unavailable => Some(self.counted(Duration::ZERO, Err((Why::StoreUnavailable, RETRY)))),
            Next::At(_) | Next::Ask(_) => None,
        }
    }

    /// Waits for the turn of a request that came, for at most `max_wait` and never beyond `until`.
    pub async fn wait(&self, until: Instant) -> Result<Turn, Refused> {
        let now = Instant::now();
        let outcome = self.queue(now, until).await;
        self.counted(now.elapsed(), outcome)
    }

    /// Both: a request comes, and waits for its turn if it has to.
    pub async fn admit(&self, until: Instant) -> Result<Turn, Refused> {
        match self.arrive(Instant::now()) {
            Some(outcome) => outcome,
            None => self.wait(until).await,
        }
    }

    /// What it did so far.
    pub fn status(&self) -> Status {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Status {
            waiting: self.waiting.load(Ordering::Relaxed),
            admitted: read(&self.counts.admitted),
            delayed: read(&self.counts.delayed),
            queue_full: read(&self.counts.queue_full),
            too_long: read(&self.counts.too_long),
            timed_out: read(&self.counts.timed_out),
            store_unavailable: read(&self.counts.store_unavailable),
        }
    }

    /// Takes a turn, or says what has to happen first.
    fn next(&self, now: Instant) -> Next {
        let Some(Global { leases, .. }) = &self.global else { return self.next_local() };
        match leases.take(now) {
            Share::Turn(remaining) => Next::Go(self.bucket.left(remaining)),
            _ if leases.store().is_down() => match self.settings.on_failure {
                OnFailure::Local => self.next_local(),
                OnFailure::Open => Next::Go(self.bucket.left(self.bucket.burst)),
                OnFailure::Closed => Next::Unavailable,
            },
            Share::At(at) => Next::At(at),
            Share::Spent(not_before) => Next::Ask(not_before),
        }
    }

    fn next_local(&self) -> Next {
        self.bucket.take().map_or_else(Next::At, Next::Go)
    }

    async fn queue(&self, now: Instant, until: Instant) -> Result<Left, (Why, Duration)> {
        let by = until.min(now + self.settings.max_wait);
        let place = Place::new(self);
        if let Some(at) = self.earliest(place.ahead, now)
            && at > by
        {
            return Err((Why::TooLong, at - now));
        }
        let patience = self.patience(place.ahead, now, by, until).ok_or_else(|| self.full(place.ahead))?;
        match timeout_at(patience, self.head.acquire()).await {
            Ok(Ok(permit)) => Head { limit: self, _permit: permit }.turn(by, patience).await,
            _ if place.ahead >= self.settings.max_queue => Err(self.full(place.ahead)),
            _ => Err((Why::TimedOut, self.time_of(place.ahead))),
        }
    }

    /// When one with so many before it has its turn at the earliest, where it is known: turns come one interval apart.
    fn earliest(&self, ahead: usize, now: Instant) -> Option<Instant> {
        let next = self.base + Duration::from_nanos(self.next.load(Ordering::Acquire));
        (next > now).then(|| next + self.time_of(ahead))
    }

    /// How long one with so many before it stays in the queue; none where it has no place there. Where it is not known
    /// whether there are turns at all, all have a place until the store answered.
    fn patience(&self, ahead: usize, now: Instant, by: Instant, until: Instant) -> Option<Instant> {
        let has_place = ahead < self.settings.max_queue;
        let Some(global) = &self.global else { return has_place.then_some(by) };
        let answer = until.min(now + 2 * global.leases.store().timeout());
        let may_ask = ahead < self.settings.max_queue.saturating_add(MAX_ASKING);
        if has_place { Some(by.max(answer)) } else { may_ask.then_some(answer) }
    }

    fn full(&self, ahead: usize) -> (Why, Duration) {
        (Why::QueueFull, self.time_of(ahead))
    }

    fn time_of(&self, turns: usize) -> Duration {
        self.bucket.interval.saturating_mul(u32::try_from(turns).unwrap_or(u32::MAX))
    }

    fn counted(&self, waited: Duration, outcome: Result<Left, (Why, Duration)>) -> Result<Turn, Refused> {
        let count = |count: &AtomicU64| count.fetch_add(1, Ordering::Relaxed);
        match outcome {
            Ok(left) => {
                count(&self.counts.admitted);
                if !waited.is_zero() {
                    count(&self.counts.delayed);
                }
                Ok(Turn { waited, left })
            }
            Err((why, retry_after)) => {
                count(match why {
                    Why::QueueFull => &self.counts.queue_full,
                    Why::TooLong => &self.counts.too_long,
                    Why::TimedOut => &self.counts.timed_out,
                    Why::StoreUnavailable => &self.counts.store_unavailable,
                });
                let retry_after = retry_after.max(self.bucket.interval).max(SOON);
                Err(Refused { why, retry_after, left: self.bucket.left(0), waited })
            }
        }
    }
}

/// A place in the queue.
struct Place<'a> {
    limit: &'a RateLimit,
    /// Requests that were there before.
    ahead: usize,
}

impl<'a> Place<'a> {
    fn new(limit: &'a RateLimit) -> Self {
        Self { limit, ahead: limit.waiting.fetch_add(1, Ordering::AcqRel) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.limit.waiting.fetch_sub(1, Ordering::AcqRel);
    }
}

/// The first of the queue.
struct Head<'a> {
    limit: &'a RateLimit,
    _permit: SemaphorePermit<'a>,
}

impl Head<'_> {
    async fn turn(&self, by: Instant, patience: Instant) -> Result<Left, (Why, Duration)> {
        loop {
            let now = Instant::now();
            match self.limit.next(now) {
                Next::Go(left) => return Ok(left),
                Next::Unavailable => return Err((Why::StoreUnavailable, RETRY)),
                Next::At(at) | Next::Ask(Some(at)) if at > by => return Err((Why::TooLong, at - now)),
                Next::At(at) => {
                    self.waits_for(at);
                    sleep_until(at).await;
                }
                Next::Ask(_) => self.ask(now, by, patience).await?,
            }
        }
    }

    /// Waits for the store's answer.
    async fn ask(&self, now: Instant, by: Instant, patience: Instant) -> Result<(), (Why, Duration)> {
        let Some(Global { leases, .. }) = &self.limit.global else { return Ok(()) };
        let waiting = u32::try_from(self.limit.waiting.load(Ordering::Relaxed)).unwrap_or(u32::MAX);
        let answered = leases.refilled(waiting, by.saturating_duration_since(now), patience).await;
        if answered { Ok(()) } else { Err((Why::TimedOut, SOON)) }
    }

    fn waits_for(&self, at: Instant) {
        let since = at.saturating_duration_since(self.limit.base).as_nanos();
        self.limit.next.store(u64::try_from(since).unwrap_or(u64::MAX), Ordering::Release);
    }
}

impl Drop for Head<'_> {
    fn drop(&mut self) {
        self.limit.next.store(0, Ordering::Release);
    }
}

#[cfg(test)]
mod tests;
