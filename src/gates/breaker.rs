//! A breaker that many requests share, and where they wait while it is open.
//!
//! Closed, it costs a request one atomic load on the way in and one short lock on the way out. Waiters look for
//! themselves whenever something changed, and once more when the open time is over; the first that then asks for a
//! [`Pass`] is the probe, and the others go on waiting for its end.
//!
//! Logs nothing: who owns the breaker knows its name, and gets each [`Transition`].

mod refused;

use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

pub use self::refused::Refused;
use crate::resilience::BreakerSettings;
use crate::resilience::breaker::{Core, Shut, State, Ticket, Transition, Verdict, Why};

/// A breaker.
#[derive(Debug)]
pub struct Breaker {
    settings: BreakerSettings,
    /// The generation of the core while it lets everything through, else 0.
    closed: AtomicU64,
    core: Mutex<Core>,
    /// Another request may have become able to go, or to know that it will not.
    changed: Notify,
    waiting: AtomicUsize,
}

impl Breaker {
    /// A closed breaker. Those with different seeds do not probe at the same moment.
    pub fn new(settings: BreakerSettings, seed: u64) -> Self {
        let core = Core::new(settings.clone(), seed);
        Self {
            settings,
            closed: AtomicU64::new(core.closed().unwrap_or(0)),
            core: Mutex::new(core),
            changed: Notify::new(),
            waiting: AtomicUsize::new(0),
        }
    }

    /// The settings that it was made with.
    pub fn settings(&self) -> &BreakerSettings {
        &self.settings
    }

    /// Whether it lets everything pass.
    pub fn is_closed(&self) -> bool {
        self.closed().is_some()
    }

    /// Waits until a request may try to pass, at the longest until `until`. Refuses at once where requests do not wait:
    /// neither by the settings nor because it is held by hand. Takes nothing: [`Self::try_pass`] may still refuse, when
    /// another was first; then wait again. Tells how long it waited.
    pub async fn ready(&self, until: Instant) -> Result<Duration, Refused> {
        if self.closed().is_some() { Ok(Duration::ZERO) } else { self.wait(until).await }
    }

    async fn wait(&self, until: Instant) -> Result<Duration, Refused> {
        let arrived = Instant::now();
        let mut waiting = None;
        let mut timer = pin!(sleep_until(until));
        loop {
            // Made before the look at the core, so that no change falls between the look and the wait.
            let changed = self.changed.notified();
            let now = Instant::now();
            let Some((shut, refused)) = self.look(arrived, now) else { return Ok(now - arrived) };
            if now >= until || !self.holds(refused.state) {
                return Err(refused);
            }
            waiting.get_or_insert_with(|| Waiting::begin(&self.waiting));
            timer.as_mut().reset(shut.until.map_or(until, |over| over.min(until)));
            tokio::select! {
                () = changed => {}
                () = timer.as_mut() => {}
            }
        }
    }

    /// What keeps a request from going, if anything does.
    fn look(&self, arrived: Instant, now: Instant) -> Option<(Shut, Refused)> {
        let core = self.lock();
        let shut = core.check(now).err()?;
        Some((shut, self.refused(&core, shut, arrived, now)))
    }

    fn holds(&self, state: State) -> bool {
        self.settings.hold || state == State::Held
    }

    /// Lets a request through or not, at once.
    pub fn try_pass(self: &Arc<Self>, now: Instant) -> Result<Pass, Refused> {
        let (ticket, transition) = match self.closed() {
            Some(generation) => (Ticket::closed(generation), None),
            None => self.admit(now)?,
        };
        Ok(Pass { breaker: Arc::clone(self), ticket: Some(ticket), transition })
    }

    fn admit(&self, now: Instant) -> Result<(Ticket, Option<Transition>), Refused> {
        let mut core = self.lock();
        let admitted = core.admit(now);
        self.publish(&core);
        admitted.map_err(|shut| self.refused(&core, shut, now, now))
    }

    /// Lets nothing through until [`Self::reset`]; whether requests wait is up to the settings.
    pub fn trip(&self, now: Instant) -> Option<Transition> {
        self.change(|core| core.trip(now))
    }

    /// Keeps all requests waiting until [`Self::reset`], whatever the settings say.
    pub fn hold(&self, now: Instant) -> Option<Transition> {
        self.change(|core| core.hold(now))
    }

    /// Closes, and forgets all that came before.
    pub fn reset(&self, now: Instant) -> Option<Transition> {
        self.change(|core| core.reset(now))
    }

    /// What it is doing.
    pub fn status(&self, now: Instant) -> Status {
        let mut core = self.lock();
        let [requests, failures] = core.counts(now);
        Status {
            state: core.state(),
            since: core.since(),
            reason: core.reason(),
            next_probe: core.next_probe(),
            requests,
            failures,
            opened: core.opened(),
            waiting: self.waiting.load(Ordering::Relaxed),
        }
    }

    fn record(&self, now: Instant, ticket: Ticket, verdict: Verdict) -> Option<Transition> {
        let probe = ticket.is_probe();
        let mut core = self.lock();
        let transition = core.record(now, ticket, verdict);
        if transition.is_some() || probe {
            self.publish(&core);
            drop(core);
            self.changed.notify_waiters();
        }
        transition
    }

    fn give_back(&self, ticket: Ticket) {
        // Any other holds no place.
        if ticket.is_probe() {
            self.change(|core| core.give_back(ticket));
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Core) -> T) -> T {
        let mut core = self.lock();
        let changed = change(&mut core);
        self.publish(&core);
        drop(core);
        self.changed.notify_waiters();
        changed
    }

    /// Under the lock, so that generations are published in their order.
    fn publish(&self, core: &Core) {
        self.closed.store(core.closed().unwrap_or(0), Ordering::Release);
    }

    fn closed(&self) -> Option<u64> {
        Some(self.closed.load(Ordering::Acquire)).filter(|generation| *generation != 0)
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn refused(&self, core: &Core, shut: Shut, arrived: Instant, now: Instant) -> Refused {
        Refused {
            state: core.state(),
            lasted: core.since().map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
            reason: core.reason(),
            retry_after: shut.until.map_or(self.settings.open_for, |over| over.saturating_duration_since(now)),
            waited: now.saturating_duration_since(arrived),
        }
    }
}

/// While this lives, a request counts as waiting.
struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    fn begin(waiting: &'a AtomicUsize) -> Self {
        waiting.fetch_add(1, Ordering::Relaxed);
        Self(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// One request may go. Dropped without a verdict it counts as if it never went.
#[derive(Debug)]
#[must_use]
pub struct Pass {
    breaker: Arc<Breaker>,
    ticket: Option<Ticket>,
    transition: Option<Transition>,
}

impl Pass {
    /// How the state changed to let this request through: the open time was over.
    pub fn transition(&self) -> Option<Transition> {
        self.transition
    }

    /// Tells how the request went; tells how that changed the state.
    pub fn record(mut self, now: Instant, verdict: Verdict) -> Option<Transition> {
        self.ticket.take().and_then(|ticket| self.breaker.record(now, ticket, verdict))
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket.take() {
            self.breaker.give_back(ticket);
        }
    }
}

/// What a breaker is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// What it does with requests.
    pub state: State,
    /// Since when; always, where there is nothing.
    pub since: Option<Instant>,
    /// Why it is not closed.
    pub reason: Option<Why>,
    /// While open, when the open time is over; the next request after that is the probe.
    pub next_probe: Option<Instant>,
    /// Requests in the window, probes not counted.
    pub requests: u64,
    /// Those of them that failed.
    pub failures: u64,
    /// How often it opened by itself, failed probes included, since it was made.
    pub opened: u64,
    /// Requests that wait now.
    pub waiting: usize,
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};

    use tokio::task::{JoinHandle, yield_now};
    use tokio::time::advance;

    use super::*;
    use crate::resilience::breaker::Cause;

    const SECOND: Duration = Duration::from_secs(1);
    const OK: Verdict = Verdict::Success;
    const BAD: Verdict = Verdict::Failure(Cause::Handler);

    fn breaker(hold: bool) -> Arc<Breaker> {
        let settings = BreakerSettings { min_requests: 2, hold, ..BreakerSettings::default() };
        Arc::new(Breaker::new(settings, 7))
    }

    /// Opens it; returns when the open time is over.
    fn open(breaker: &Arc<Breaker>) -> Instant {
        let now = Instant::now();
        while let Ok(pass) = breaker.try_pass(now) {
            pass.record(now, BAD);
        }
        breaker.status(now).next_probe.expect("it is open")
    }

    /// What became of a request, and when.
    type Sent = JoinHandle<(Result<Duration, Refused>, Instant)>;

    /// A request as the gateway sends it: it takes `time`, ends with `verdict`, and may start at the latest `until`.
    fn send(breaker: &Arc<Breaker>, until: Instant, time: Duration, verdict: Verdict) -> Sent {
        let breaker = Arc::clone(breaker);
        tokio::spawn(async move {
            loop {
                match breaker.ready(until).await {
                    Err(refused) => return (Err(refused), Instant::now()),
                    Ok(waited) => {
                        let started = Instant::now();
                        let Ok(pass) = breaker.try_pass(started) else { continue };
                        tokio::time::sleep(time).await;
                        pass.record(Instant::now(), verdict);
                        return (Ok(waited), started);
                    }
                }
            }
        })
    }

    /// Lets all tasks run as far as they can now.
    async fn settle() {
        for _ in 0..20 {
            yield_now().await;
        }
    }

    fn near(at: Instant, expected: Instant) -> bool {
        at >= expected && at - expected <= Duration::from_millis(2)
    }

    #[tokio::test(start_paused = true)]
    async fn a_closed_breaker_keeps_nobody_waiting() {
        let breaker = breaker(true);
        let now = Instant::now();
        assert_eq!(breaker.ready(now).await, Ok(Duration::ZERO));
        assert_eq!(breaker.try_pass(now).unwrap().record(now, OK), None);
        drop(breaker.try_pass(now).unwrap());
        let status = breaker.status(now);
        assert_eq!((status.state, status.requests, status.failures), (State::Closed, 1, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn without_hold_an_open_breaker_refuses_at_once() {
        let breaker = breaker(false);
        let over = open(&breaker);
        let arrived = Instant::now();
        let refused = breaker.ready(arrived + 60 * SECOND).await.unwrap_err();
        assert_eq!(Instant::now(), arrived);
        assert_eq!((refused.state, refused.cause()), (State::Open, Some(Cause::Handler)));
        assert_eq!((refused.retry_after, refused.waited), (over - arrived, Duration::ZERO));

        advance(over - arrived).await;
        assert_eq!(breaker.ready(over).await, Ok(Duration::ZERO));
        let _probe = breaker.try_pass(Instant::now()).unwrap();
        assert_eq!(breaker.ready(over + SECOND).await.unwrap_err().state, State::HalfOpen);
        assert_eq!(breaker.try_pass(Instant::now()).unwrap_err().state, State::HalfOpen);
    }

    #[tokio::test(start_paused = true)]
    async fn with_hold_one_probes_when_the_open_time_is_over_and_all_go_when_it_succeeded() {
        let breaker = breaker(true);
        let over = open(&breaker);
        let sent: Vec<_> = (0..50).map(|_| send(&breaker, over + 10 * SECOND, SECOND, OK)).collect();
        settle().await;
        assert_eq!(breaker.status(Instant::now()).waiting, 50);
        let mut starts = Vec::new();
        for sent in sent {
            let (waited, started) = sent.await.unwrap();
            waited.unwrap();
            starts.push(started);
        }
        starts.sort();
        assert!(near(starts[0], over), "the probe goes when the open time is over");
        assert!(starts[1..].iter().all(|start| near(*start, starts[0] + SECOND)), "the others when it succeeded");
        let status = breaker.status(Instant::now());
        assert_eq!((status.state, status.waiting, status.requests), (State::Closed, 0, 49));
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_waited_in_vain_is_refused_at_its_last_moment() {
        let breaker = breaker(true);
        let until = open(&breaker) - SECOND;
        let arrived = Instant::now();
        let refused = breaker.ready(until).await.unwrap_err();
        assert!(near(Instant::now(), until));
        assert_eq!((refused.state, refused.waited), (State::Open, Instant::now() - arrived));
        assert_eq!(breaker.status(Instant::now()).waiting, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_ends_at_the_last_moment_also_while_a_probe_is_out() {
        let breaker = breaker(true);
        let over = open(&breaker);
        advance(over - Instant::now()).await;
        let _probe = breaker.try_pass(Instant::now()).unwrap();
        let until = Instant::now() + SECOND;
        let refused = breaker.ready(until).await.unwrap_err();
        assert!(near(Instant::now(), until));
        assert_eq!(refused.state, State::HalfOpen);
    }

    #[tokio::test(start_paused = true)]
    async fn waiters_wait_on_after_a_failed_probe() {
        let breaker = breaker(true);
        let over = open(&breaker);
        advance(over - Instant::now()).await;
        let probe = breaker.try_pass(Instant::now()).unwrap();
        assert_eq!(probe.transition().unwrap().to, State::HalfOpen);
        let sent = send(&breaker, over + 60 * SECOND, SECOND, OK);
        settle().await;
        assert_eq!(probe.record(Instant::now(), BAD).unwrap().to, State::Open);
        let next = breaker.status(Instant::now()).next_probe.unwrap();
        let (waited, started) = sent.await.unwrap();
        waited.unwrap();
        assert!(near(started, next));
    }

    #[tokio::test(start_paused = true)]
    async fn when_the_caller_of_the_probe_leaves_a_waiter_becomes_the_probe() {
        let breaker = breaker(true);
        let over = open(&breaker);
        let first = send(&breaker, over + 10 * SECOND, 60 * SECOND, OK);
        settle().await;
        let second = send(&breaker, over + 10 * SECOND, SECOND, OK);
        settle().await;
        tokio::time::sleep_until(over + 2 * SECOND).await;
        assert!(breaker.try_pass(Instant::now()).is_err(), "the probe is out");
        first.abort();
        let left = Instant::now();
        let (waited, started) = second.await.unwrap();
        waited.unwrap();
        assert!(near(started, left));
        assert_eq!(breaker.status(Instant::now()).state, State::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_leaves_waits_no_longer() {
        let breaker = breaker(true);
        let over = open(&breaker);
        let sent = send(&breaker, over + SECOND, SECOND, OK);
        settle().await;
        assert_eq!(breaker.status(Instant::now()).waiting, 1);
        sent.abort();
        settle().await;
        assert_eq!(breaker.status(Instant::now()).waiting, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn held_by_hand_requests_wait_for_the_reset_whatever_the_settings_say() {
        let breaker = breaker(false);
        let start = Instant::now();
        let straggler = breaker.try_pass(start).unwrap();
        assert_eq!(breaker.hold(start).unwrap().to, State::Held);
        let sent: Vec<_> = (0..10).map(|_| send(&breaker, start + 60 * SECOND, SECOND, OK)).collect();
        let impatient = send(&breaker, start + SECOND, SECOND, OK);
        tokio::time::sleep(30 * SECOND).await;
        assert_eq!(impatient.await.unwrap().0.unwrap_err().waited.as_secs(), 1);
        assert_eq!(breaker.status(Instant::now()).waiting, 10);
        straggler.record(Instant::now(), BAD);
        assert_eq!(breaker.reset(Instant::now()).unwrap().to, State::Closed);
        let reset = Instant::now();
        for sent in sent {
            let (waited, started) = sent.await.unwrap();
            assert_eq!((waited.unwrap().as_secs(), started), (30, reset));
        }
        assert_eq!(breaker.status(Instant::now()).failures, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn tripped_by_hand_it_refuses_and_those_who_waited_learn_it_at_once() {
        let breaker = breaker(false);
        let start = Instant::now();
        breaker.hold(start);
        let sent = send(&breaker, start + 60 * SECOND, SECOND, OK);
        settle().await;
        breaker.trip(start);
        let (refused, at) = sent.await.unwrap();
        assert_eq!((refused.unwrap_err().state, at), (State::Tripped, start));
        assert!(breaker.try_pass(start + 3600 * SECOND).is_err());
        breaker.reset(start);
        assert!(breaker.try_pass(start).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_waiter_sleeps_while_nothing_changes() {
        let breaker = breaker(true);
        let over = open(&breaker);
        let mut polls = 0;
        let mut ready = pin!(breaker.ready(over + SECOND));
        let waited = poll_fn(|context| {
            polls += 1;
            ready.as_mut().poll(context)
        });
        assert!(waited.await.is_ok());
        assert_eq!(polls, 2, "on arrival and when the open time is over");
    }

    #[test]
    fn no_wake_up_is_lost_between_threads() {
        const ROUNDS: usize = 20_000;
        let breaker = breaker(false);
        let round = std::sync::Barrier::new(3);
        let wait = || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            for _ in 0..ROUNDS {
                round.wait();
                runtime.block_on(breaker.ready(Instant::now() + 60 * SECOND)).expect("the reset is noticed");
                round.wait();
            }
        };
        std::thread::scope(|scope| {
            scope.spawn(wait);
            scope.spawn(wait);
            for _ in 0..ROUNDS {
                breaker.hold(Instant::now());
                round.wait();
                // To meet the waiters at each point of their way.
                (0..fastrand::u32(0..300)).for_each(|_| std::hint::spin_loop());
                breaker.reset(Instant::now());
                round.wait();
            }
        });
    }
}
