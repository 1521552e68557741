//! Where requests wait for a place, with a limit of how many are on their way.
//!
//! [`Queue`] and [`Adaptive`] decide; this gives them a clock, a lock and a way to wake who waits. While places are free
//! there is nothing to decide, and requests only count themselves in and out in one atomic word, without a clock, a lock
//! or an allocation. The first one that finds no place free closes that short way: from then on the queue keeps the count,
//! under the lock, until a place stays free.
//!
//! Whoever drops a [`Permit`], or the future that waits for one, gives back what it took.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::resilience::ConcurrencySettings;
use crate::resilience::adaptive::{Adaptive, Outcome};
use crate::resilience::concurrency::{Entered, Queue, Ticket, Urgency, Why};

/// A limit of how many requests are on their way at a time, and those that wait for a place.
#[derive(Debug)]
pub struct Concurrency {
    places: Places,
    line: Mutex<Line>,
    /// Locked before `line` where both are.
    adaptive: Option<Mutex<Adaptive>>,
    /// By [`Why`].
    refused: [AtomicU64; Why::ALL.len()],
}

#[derive(Debug)]
struct Line {
    queue: Queue<oneshot::Sender<Turn>>,
    max_wait: Duration,
}

/// What a waiter is told.
#[derive(Debug, PartialEq, Eq)]
enum Turn {
    Admitted,
    Displaced,
}

impl Concurrency {
    /// A limit as the policy says.
    pub fn new(settings: &ConcurrencySettings) -> Self {
        let adaptive = settings.adaptive.then(|| Adaptive::new(settings.max));
        let limit = adaptive.as_ref().map_or(settings.max, Adaptive::limit);
        Self { adaptive: adaptive.map(Mutex::new), ..Self::process(limit, settings.max_queue, settings.max_wait) }
    }

    /// A limit for the process: `max_in_flight` places, for which `max_queue` requests wait, each up to `max_wait`.
    pub fn process(max_in_flight: usize, max_queue: usize, max_wait: Duration) -> Self {
        let limit = max_in_flight.clamp(1, Places::MOST);
        Self {
            places: Places::new(limit),
            line: Mutex::new(Line { queue: Queue::new(limit, max_queue), max_wait }),
            adaptive: None,
            refused: Default::default(),
        }
    }

    /// Changes the limits while permits are out. A smaller maximum takes effect as permits come back; who waits already
    /// stays.
    pub fn set_max(&self, max_in_flight: usize, max_queue: usize, max_wait: Duration) {
        let mut adaptive = self.adaptive();
        let limit = adaptive.as_mut().map_or(max_in_flight, |adaptive| adaptive.set_max(max_in_flight));
        let admitted = self.decide(|line| {
            line.max_wait = max_wait;
            line.queue.set_max_queue(max_queue);
            line.queue.set_limit(limit.min(Places::MOST))
        });
        self.hand_over_all(admitted);
    }

    /// A permit, if a place is free and nobody waits for one.
    pub fn try_enter(self: &Arc<Self>) -> Option<Permit> {
        self.places.take().then(|| self.permit())
    }

    /// Waits for a place until `until`, but no longer than the limit's `max_wait`. Returns how long it took as well.
    ///
    /// May be dropped at any time: the place in the queue, or the permit that just came, goes to the next one.
    pub async fn enter(self: &Arc<Self>, urgency: Urgency, until: Instant) -> Result<(Permit, Duration), Refused> {
        if let Some(permit) = self.try_enter() {
            return Ok((permit, Duration::ZERO));
        }
        match self.line_up(urgency, until)? {
            None => Ok((self.permit(), Duration::ZERO)),
            Some(waiting) => waiting.turn().await,
        }
    }

    /// Lines up; there is nothing to wait for where a place came free just now.
    fn line_up(self: &Arc<Self>, urgency: Urgency, until: Instant) -> Result<Option<Waiting>, Refused> {
        let now = Instant::now();
        let mut turn = None;
        let (entered, patience) = self.decide(|line| {
            let patience = line.max_wait.min(until.saturating_duration_since(now));
            let entered = line.queue.enter(now, urgency, patience, || {
                let (tell, told) = oneshot::channel();
                turn = Some(told);
                tell
            });
            (entered, patience)
        });
        let (ticket, displaced) = match entered {
            Entered::Admitted => return Ok(None),
            Entered::Refused(why) => return Err(self.refuse(why, now, now)),
            Entered::Queued { ticket, displaced } => (ticket, displaced),
        };
        if let Some(displaced) = displaced {
            // An error means that it left just now, which is as good.
            let _ = displaced.send(Turn::Displaced);
        }
        Ok(turn.map(|turn| Waiting { gate: Arc::clone(self), ticket: Some(ticket), turn, since: now, patience }))
    }

    /// What is known of the limit now.
    pub fn status(&self) -> Status {
        let line = self.line();
        let refused = Why::ALL.map(|why| (why, self.refused[why as usize].load(Ordering::Relaxed)));
        let (limit, in_flight) = self.places.counts();
        Status { limit, in_flight, waiting: line.queue.waiting(), refused }
    }

    fn permit(self: &Arc<Self>) -> Permit {
        Permit { gate: Arc::clone(self) }
    }

    fn refuse(&self, why: Why, since: Instant, now: Instant) -> Refused {
        self.refused[why as usize].fetch_add(1, Ordering::Relaxed);
        let line = self.line();
        let queue = &line.queue;
        let expected = queue.expected_wait(now, Urgency::Normal).unwrap_or_default();
        Refused {
            why,
            retry_after: expected.clamp(SOONEST, LATEST),
            waited: now - since,
            limit: queue.limit(),
            waiting: queue.waiting(),
        }
    }

    /// A permit came back.
    fn leave(&self) {
        if !self.places.give_back() {
            let next = self.decide(|line| line.queue.leave(Instant::now()));
            self.hand_over(next);
        }
    }

    /// Gives a place to its new owner, or where that has left to the next one.
    fn hand_over(&self, mut next: Option<oneshot::Sender<Turn>>) {
        while let Some(waiter) = next {
            let is_gone = waiter.send(Turn::Admitted).is_err();
            next = if is_gone { self.decide(|line| line.queue.decline()) } else { None };
        }
    }

    fn hand_over_all(&self, admitted: Vec<oneshot::Sender<Turn>>) {
        for waiter in admitted {
            self.hand_over(Some(waiter));
        }
    }

    /// Lets the queue decide something. Who is told of it is told after this, outside the lock, since to wake a task
    /// may take a system call.
    fn decide<R>(&self, decision: impl FnOnce(&mut Line) -> R) -> R {
        let mut line = self.line();
        if let Some(in_flight) = self.places.close() {
            line.queue.resume(in_flight);
        }
        let decided = decision(&mut line);
        self.places.publish(&line.queue);
        decided
    }

    fn sample(&self, latency: Duration, outcome: Outcome) {
        let Some(mut adaptive) = self.adaptive() else { return };
        let (_, in_flight) = self.places.counts();
        if let Some(limit) = adaptive.sample(Instant::now(), latency, in_flight, outcome) {
            let admitted = self.decide(|line| line.queue.set_limit(limit.min(Places::MOST)));
            self.hand_over_all(admitted);
        }
    }

    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn adaptive(&self) -> Option<MutexGuard<'_, Adaptive>> {
        Some(self.adaptive.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The count of requests on their way and the limit, in one word, so that they change together: a bit that says that
/// the queue keeps the count, 31 bits of limit, 32 of requests.
#[derive(Debug)]
struct Places(AtomicU64);

impl Places {
    /// The highest limit. Fewer than twice as many are ever on their way.
    const MOST: usize = 0x7fff_ffff;

    const CLOSED: u64 = 1 << 63;
    const LIMIT: u32 = 32;
    const IN_FLIGHT: u64 = 0xffff_ffff;

    fn new(limit: usize) -> Self {
        Self(AtomicU64::new((limit as u64) << Self::LIMIT))
    }

    /// Takes a place, if one is free and nothing is to decide.
    fn take(&self) -> bool {
        self.change(|word| {
            let (limit, in_flight) = Self::read(word);
            (word & Self::CLOSED == 0 && in_flight < limit).then(|| word + 1)
        })
    }

    /// Gives a place back, if nothing is to decide.
    fn give_back(&self) -> bool {
        self.change(|word| (word & Self::CLOSED == 0 && word & Self::IN_FLIGHT > 0).then(|| word - 1))
    }

    fn change(&self, to: impl FnMut(u64) -> Option<u64>) -> bool {
        self.0.fetch_update(Ordering::AcqRel, Ordering::Relaxed, to).is_ok()
    }

    /// Closes the short way. Returns the count where it was open.
    fn close(&self) -> Option<usize> {
        let word = self.0.fetch_or(Self::CLOSED, Ordering::AcqRel);
        (word & Self::CLOSED == 0).then(|| Self::read(word).1)
    }

    /// Takes over what the queue decided, and opens the short way where nothing is left to decide.
    fn publish<W>(&self, queue: &Queue<W>) {
        let closed = if queue.is_slack() { 0 } else { Self::CLOSED };
        self.0.store(closed | (queue.limit() as u64) << Self::LIMIT | queue.in_flight() as u64, Ordering::Release);
    }

    /// The limit, and the requests on their way.
    fn counts(&self) -> (usize, usize) {
        Self::read(self.0.load(Ordering::Acquire))
    }

    fn read(word: u64) -> (usize, usize) {
        (((word & !Self::CLOSED) >> Self::LIMIT) as usize, (word & Self::IN_FLIGHT) as usize)
    }
}

/// A request that waits. Dropped, it gives up.
struct Waiting {
    gate: Arc<Concurrency>,
    /// Until its turn came.
    ticket: Option<Ticket>,
    turn: oneshot::Receiver<Turn>,
    since: Instant,
    patience: Duration,
}

impl Waiting {
    async fn turn(mut self) -> Result<(Permit, Duration), Refused> {
        let turn = match timeout_at(self.since + self.patience, &mut self.turn).await {
            Ok(turn) => {
                self.ticket = None;
                turn.ok()
            }
            Err(_) => self.give_up(),
        };
        let now = Instant::now();
        match turn {
            Some(Turn::Admitted) => Ok((self.gate.permit(), now - self.since)),
            Some(Turn::Displaced) => Err(self.gate.refuse(Why::Displaced, self.since, now)),
            None => Err(self.gate.refuse(Why::TimedOut, self.since, now)),
        }
    }

    /// Leaves the queue. Returns its turn where that has come meanwhile.
    fn give_up(&mut self) -> Option<Turn> {
        let ticket = self.ticket.take()?;
        if self.gate.decide(|line| line.queue.abandon(ticket)) {
            return None;
        }
        // It was decided already. Either it was told, or whoever wants to tell it now finds this closed.
        self.turn.close();
        self.turn.try_recv().ok()
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.give_up() == Some(Turn::Admitted) {
            let next = self.gate.decide(|line| line.queue.decline());
            self.gate.hand_over(next);
        }
    }
}

/// A place. Dropped, it goes to the next one.
#[derive(Debug)]
#[must_use]
pub struct Permit {
    gate: Arc<Concurrency>,
}

impl Permit {
    /// Tells how an attempt under this permit ended. Only an adaptive limit listens.
    pub fn sample(&self, latency: Duration, outcome: Outcome) {
        self.gate.sample(latency, outcome);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.gate.leave();
    }
}

/// A request got no place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub why: Why,
    /// When to try again: when those that wait now are served, between one second and half a minute.
    pub retry_after: Duration,
    /// How long it waited.
    pub waited: Duration,
    /// Requests that may be on their way at a time.
    pub limit: usize,
    /// Requests that wait for a place.
    pub waiting: usize,
}

const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(30);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { why, waited, limit, waiting, .. } = self;
        write!(f, "as many requests are on their way as may be, {limit}, ")?;
        match why {
            Why::QueueFull => write!(f, "and as many wait as may, {waiting}"),
            Why::TooLong => write!(f, "and with {waiting} waiting none is expected to end in time for this one"),
            Why::TimedOut => write!(f, "and none ended in time for this one, which waited {waited:.1?}"),
            Why::Displaced => {
                write!(f, "and a cancel or completion took this one's place in the full queue after {waited:.1?}")
            }
        }
    }
}

impl std::error::Error for Refused {}

/// What a limit is at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Requests that may be on their way at a time.
    pub limit: usize,
    /// Requests that are; more than the limit for a while after that was lowered.
    pub in_flight: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Requests refused so far, by reason.
    pub refused: [(Why, u64); Why::ALL.len()],
}

#[cfg(test)]
mod tests;
