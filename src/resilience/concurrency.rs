//! How many requests may be on their way at the same time, and who waits for a place.
//!
//! [`Queue`] is a state machine: it is told who enters, leaves and gives up, and when; it says who is admitted, who waits
//! and who is refused. It knows how fast places came free lately, so that a request that would wait in vain is refused
//! at once. Must not know what a request is, and holds nothing but numbers and what stands for a waiter; locks and
//! wake-ups are the caller's. Which limit is right where nobody knows it is `adaptive`.

use std::collections::BTreeMap;
use std::iter;
use std::time::Duration;

use tokio::time::Instant;

use super::Per;

/// A concurrency limit with a queue.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConcurrencySettings {
    /// What has a limit of its own.
    pub per: Per,
    /// Requests on their way at a time; the upper bound where the limit is adaptive.
    pub max: usize,
    /// Longest time that a request waits for a place.
    pub max_wait: Duration,
    /// Requests that may wait for a place at a time.
    pub max_queue: usize,
    /// Whether the limit is found by latency.
    pub adaptive: bool,
}

/// Who goes first when places are scarce.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Urgency {
    /// Ends work that exists: a cancel, a completion. Goes before every normal one.
    Urgent,
    /// Begins new work: a start.
    Normal,
}

/// Why a request got no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Why {
    /// As many wait as may.
    QueueFull,
    /// It would have to wait clearly longer than it may.
    TooLong,
    /// It waited as long as it may.
    TimedOut,
    /// An urgent request took its place in a full queue.
    Displaced,
}

impl Why {
    /// All reasons, in the order of their discriminants.
    pub const ALL: [Self; 4] = [Self::QueueFull, Self::TooLong, Self::TimedOut, Self::Displaced];

    /// A short name for metrics and messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::QueueFull => "queue_full",
            Self::TooLong => "too_long",
            Self::TimedOut => "timed_out",
            Self::Displaced => "displaced",
        }
    }
}

/// What became of a request that wants a place.
#[derive(Debug)]
pub enum Entered<W> {
    /// It has one.
    Admitted,
    /// It waits.
    Queued {
        /// To give up by.
        ticket: Ticket,
        /// Who was refused for its sake.
        displaced: Option<W>,
    },
    /// It has none and does not wait.
    Refused(Why),
}

/// Stands for a request in a [`Queue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    number: u64,
    urgency: Urgency,
}

/// Places for requests, and those that wait for one. `W` is what the caller wakes a waiter by.
#[derive(Debug)]
#[expect(clippy::struct_field_names, reason = "max_queue is the setting's name")]
pub struct Queue<W> {
    limit: usize,
    max_queue: usize,
    in_flight: usize,
    // By number of the ticket, which is the order of arrival.
    urgent: BTreeMap<u64, W>,
    normal: BTreeMap<u64, W>,
    tickets: u64,
    pace: Pace,
}

impl<W> Queue<W> {
    /// `limit` places, at least one; at most `max_queue` requests wait for them.
    pub fn new(limit: usize, max_queue: usize) -> Self {
        let limit = limit.max(1);
        let (urgent, normal) = (BTreeMap::new(), BTreeMap::new());
        Self { limit, max_queue, in_flight: 0, urgent, normal, tickets: 0, pace: Pace::default() }
    }

    /// A request that may wait for `patience` wants a place. Makes its `waiter` only where it has to wait.
    pub fn enter(
        &mut self,
        now: Instant,
        urgency: Urgency,
        patience: Duration,
        waiter: impl FnOnce() -> W,
    ) -> Entered<W> {
        if self.in_flight < self.limit {
            self.in_flight += 1;
            return Entered::Admitted;
        }
        if let Some(why) = self.refusal(now, urgency, patience) {
            return Entered::Refused(why);
        }
        let displaced = if self.is_full() { self.normal.pop_last().map(|(_, waiter)| waiter) } else { None };
        let ticket = Ticket { number: self.tickets, urgency };
        self.tickets += 1;
        self.class(urgency).insert(ticket.number, waiter());
        Entered::Queued { ticket, displaced }
    }

    /// Why a request may not even wait.
    fn refusal(&self, now: Instant, urgency: Urgency, patience: Duration) -> Option<Why> {
        if patience.is_zero() {
            return Some(Why::TooLong);
        }
        if self.is_full() && (urgency == Urgency::Normal || self.normal.is_empty()) {
            return Some(Why::QueueFull);
        }
        // Whoever would be first may always wait: it is one request, and without it a queue that was slow once would
        // never learn that it is fast again.
        let is_first = self.ahead_of(urgency) == 0;
        let expected = self.expected_wait(now, urgency)?;
        // An estimate is no promise: only what is clearly too long counts.
        (!is_first && expected > patience + patience / 4).then_some(Why::TooLong)
    }

    /// How long a request that came now would probably wait, if enough is known to say.
    pub fn expected_wait(&self, now: Instant, urgency: Urgency) -> Option<Duration> {
        let in_all = self.pace.mean(now)?.saturating_mul(self.departures_for(self.ahead_of(urgency)));
        Some(match urgency {
            Urgency::Urgent => in_all,
            // Urgent ones that come later will overtake it as well.
            Urgency::Normal => {
                in_all.max(self.pace.mean_for_normal().saturating_mul(self.departures_for(self.normal.len())))
            }
        })
    }

    /// Departures until one comes after `ahead` others.
    fn departures_for(&self, ahead: usize) -> u32 {
        u32::try_from((self.in_flight + ahead + 1).saturating_sub(self.limit)).unwrap_or(u32::MAX)
    }

    /// A request with a place is done. Returns the waiter that has the place now, if one waited.
    pub fn leave(&mut self, now: Instant) -> Option<W> {
        if self.in_flight >= self.limit {
            let is_overtaken = !self.urgent.is_empty() && !self.normal.is_empty();
            self.pace.departed(now, is_overtaken);
        }
        self.decline()
    }

    /// A place comes back unused: its waiter was gone. Returns who has it now; says nothing about how fast places come
    /// free.
    pub fn decline(&mut self) -> Option<W> {
        self.in_flight = self.in_flight.saturating_sub(1);
        let next = self.admit();
        if self.is_slack() {
            self.pace.pause();
        }
        next
    }

    /// The next waiter, if there is a place for it.
    fn admit(&mut self) -> Option<W> {
        if self.in_flight >= self.limit {
            return None;
        }
        let (_, next) = self.urgent.pop_first().or_else(|| self.normal.pop_first())?;
        self.in_flight += 1;
        Some(next)
    }

    /// A waiter gives up. False where it does not wait any more: it was admitted or displaced.
    pub fn abandon(&mut self, ticket: Ticket) -> bool {
        self.class(ticket.urgency).remove(&ticket.number).is_some()
    }

    /// Changes the number of places, at least one, and returns who has one by that. Fewer places take effect as
    /// requests leave.
    pub fn set_limit(&mut self, limit: usize) -> Vec<W> {
        let limit = limit.max(1);
        if limit > self.limit {
            // Waiting can only become shorter; how much is soon seen.
            self.pace.quicken(self.limit, limit);
        }
        self.limit = limit;
        let admitted = iter::from_fn(|| self.admit()).collect();
        if self.is_slack() {
            self.pace.pause();
        }
        admitted
    }

    /// Changes how many may wait. Those that wait already stay.
    pub fn set_max_queue(&mut self, max_queue: usize) {
        self.max_queue = max_queue;
    }

    /// Takes over a count that was kept elsewhere while the queue was [slack](Self::is_slack).
    pub fn resume(&mut self, in_flight: usize) {
        debug_assert!(self.waiting() == 0, "the queue keeps the count itself while somebody waits");
        self.in_flight = in_flight;
    }

    /// Whether a place is free, which implies that nobody waits. To count is then all there is to do.
    pub fn is_slack(&self) -> bool {
        self.in_flight < self.limit
    }

    /// Places.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Requests that have a place; more than there are after the limit was lowered.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// Requests that wait for a place.
    pub fn waiting(&self) -> usize {
        self.urgent.len() + self.normal.len()
    }

    fn is_full(&self) -> bool {
        self.waiting() >= self.max_queue
    }

    /// How many would be served before a request that came now.
    fn ahead_of(&self, urgency: Urgency) -> usize {
        match urgency {
            Urgency::Urgent => self.urgent.len(),
            Urgency::Normal => self.waiting(),
        }
    }

    fn class(&mut self, urgency: Urgency) -> &mut BTreeMap<u64, W> {
        match urgency {
            Urgency::Urgent => &mut self.urgent,
            Urgency::Normal => &mut self.normal,
        }
    }
}

/// How fast places come free while all are taken.
///
/// Time and departures are summed up separately and fade at the same rate. A mean of the single intervals would be off
/// when places come free in bursts, as they do after a stall: nearly every interval is then zero.
#[derive(Debug, Default)]
struct Pace {
    /// Seconds, fading.
    time: f64,
    /// Departures in that time, fading.
    departures: f64,
    /// Those of them after which an urgent request went before a normal one.
    overtaken: f64,
    /// Departures that were counted, not fading.
    counted: u32,
    /// The latest one that was counted.
    latest: Option<Instant>,
    /// The beginning of the current interval; none while places are free, since then it is arrivals that set the pace.
    since: Option<Instant>,
}

/// Departures before their pace says anything.
const WELL_FOUNDED: u32 = 10;

/// A pace older than this says nothing any more, unless places come free more seldom than that.
const STALE: Duration = Duration::from_secs(5);

/// How many seconds the pace remembers.
const MEMORY: f64 = 1.0;

/// Part of the memory that every departure leaves at least, so that slow ones have one.
const KEPT: f64 = 0.9;

impl Pace {
    fn departed(&mut self, now: Instant, is_overtaken: bool) {
        if let Some(since) = self.since.replace(now) {
            self.count(now, now.saturating_duration_since(since).as_secs_f64(), is_overtaken);
        }
    }

    fn count(&mut self, now: Instant, took: f64, is_overtaken: bool) {
        if self.is_stale(now) {
            *self = Self { since: self.since, ..Self::default() };
        }
        let kept = (-took / MEMORY).exp().max(KEPT);
        self.time = self.time * kept + took;
        self.departures = self.departures * kept + 1.0;
        self.overtaken = self.overtaken * kept + f64::from(u8::from(is_overtaken));
        self.counted = self.counted.saturating_add(1);
        self.latest = Some(now);
    }

    fn pause(&mut self) {
        self.since = None;
    }

    fn quicken(&mut self, old: usize, new: usize) {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let factor = old as f64 / new as f64;
        self.time *= factor;
    }

    /// Time from one departure to the next, where it is well founded.
    fn mean(&self, now: Instant) -> Option<Duration> {
        (self.counted >= WELL_FOUNDED && !self.is_stale(now)).then(|| self.interval())
    }

    /// Time from one departure that is not for an urgent request to the next, reckoned as if the next one were such: a
    /// few urgent ones in a row do not mean that it is never a normal one's turn.
    fn mean_for_normal(&self) -> Duration {
        seconds(self.time / (self.departures - self.overtaken + 1.0))
    }

    fn is_stale(&self, now: Instant) -> bool {
        self.latest.is_some_and(|latest| now.saturating_duration_since(latest) > STALE.max(self.interval() * 4))
    }

    fn interval(&self) -> Duration {
        seconds(self.time / self.departures)
    }
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or_default()
}

#[cfg(test)]
mod tests;
