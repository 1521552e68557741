//! Whether an address can be used: what is concluded from its connects, its answers and its probes.
//!
//! Up, down when it takes no connection or hangs, or ejected: it takes connections, but answers fail at it again and
//! again while they do not at others. Knows nothing of the other addresses; [`panics`] is the one rule over all of them.
//! What began before the present state says nothing about it: a straggler neither ends an outage nor begins one.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

/// Time between two probes of an address that is up, where there are others to take its place.
pub const WATCH_EVERY: Duration = Duration::from_secs(5);
/// Time in which a probe has to be answered.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// Probes that must stay without an answer in a row before an address that takes connections is down.
const SILENT_PROBES: u32 = 2;
/// Bad answers to probes in a row after which an address that was down is used all the same: it may be that only probes
/// are answered badly.
const BAD_ANSWERS: u32 = 8;
/// The longest that ejections become by being repeated.
const MAX_EJECTION: Duration = Duration::from_secs(60);
/// For each such time without trouble one ejection is forgotten.
const CALM: Duration = Duration::from_secs(60);

/// When an address is down or ejected, and how it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthSettings {
    /// Longest time between two probes of an address that is not up.
    pub probe_every: Duration,
    /// Failed answers without a good one between them that eject an address; zero: it is never ejected.
    pub eject_after: u32,
    /// How long the first ejection lasts; the second one twice as long, and so on up to a minute.
    pub eject_for: Duration,
}

/// Whether an address can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It can.
    Up,
    /// It takes no connections, or hangs.
    Down,
    /// It can, but others are better.
    Ejected,
}

impl State {
    /// Its name, as in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Ejected => "ejected",
        }
    }
}

/// What somebody said by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ByHand {
    /// Use it, whatever happens.
    Up,
    /// Do not use it.
    Down,
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probed<'a> {
    /// It was answered.
    Answered,
    /// No connection was taken.
    Refused(&'a str),
    /// A connection was taken, but nothing came on it in time.
    Silent(&'a str),
    /// An answer came that says that something is wrong.
    Unwilling(&'a str),
}

/// An address's state changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// What it was.
    pub from: State,
    /// What it is now.
    pub to: State,
    /// How long it was that.
    pub lasted: Duration,
}

/// The health of one address.
#[derive(Clone, Debug)]
pub struct Health {
    settings: HealthSettings,
    rng: Rng,
    condition: Condition,
    /// Since when the condition holds.
    settled: Instant,
    by_hand: Option<ByHand>,
    /// Since when the state is what it is, by hand or not.
    since: Instant,
    reason: String,
    /// Failed answers since the last good one.
    failures: u32,
    failed_probes: u32,
    next_probe: Instant,
    /// Ejections that are not forgotten yet.
    remembered: u32,
    counts: HealthCounts,
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HealthCounts {
    /// Ejections.
    pub ejections: u64,
    /// Probes that were answered.
    pub probes_ok: u64,
    /// Probes that were not.
    pub probes_failed: u64,
}

/// What was found out, whatever somebody says by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    Up,
    /// A connection that it takes ends this.
    Refusing,
    /// Takes connections and does not answer: only an answer ends this.
    Hanging,
    Ejected {
        until: Instant,
    },
}

impl Health {
    /// An address that nothing is known of counts as up. `seed` spreads its probes in time.
    pub fn new(now: Instant, settings: HealthSettings, seed: u64) -> Self {
        let mut health = Self {
            settings,
            rng: Rng::with_seed(seed),
            condition: Condition::Up,
            settled: now,
            by_hand: None,
            since: now,
            reason: "new".into(),
            failures: 0,
            failed_probes: 0,
            next_probe: now,
            remembered: 0,
            counts: HealthCounts::default(),
        };
        health.plan_probe(now);
        health
    }

    /// Whether it can be used.
    pub fn state(&self) -> State {
        match (self.by_hand, self.condition) {
            (Some(ByHand::Up), _) | (None, Condition::Up) => State::Up,
            (Some(ByHand::Down), _) | (None, Condition::Refusing | Condition::Hanging) => State::Down,
            (None, Condition::Ejected { .. }) => State::Ejected,
        }
    }

    /// Since when.
    pub fn since(&self) -> Instant {
        self.since
    }

    /// Why.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// What happened so far.
    pub fn counts(&self) -> HealthCounts {
        self.counts
    }

    /// What somebody said by hand.
    pub fn by_hand(&self) -> Option<ByHand> {
        self.by_hand
    }

    /// Whether a good answer or connect would change anything.
    pub fn is_troubled(&self) -> bool {
        self.condition != Condition::Up || self.failures > 0 || self.failed_probes > 0
    }

    /// A connect that began at `began` succeeded.
    pub fn connected(&mut self, began: Instant, now: Instant) -> Option<Change> {
        if self.condition == Condition::Refusing && began >= self.settled {
            return self.settle(Condition::Up, now, "it took a connection");
        }
        None
    }

    /// A connect that began at `began` failed.
    pub fn refused(&mut self, began: Instant, now: Instant, why: &str) -> Option<Change> {
        let takes_connections = !matches!(self.condition, Condition::Refusing | Condition::Hanging);
        if takes_connections && began >= self.settled {
            return self.settle(Condition::Refusing, now, why);
        }
        None
    }

    /// A request that went out at `began` was answered.
    pub fn answered(&mut self, began: Instant, now: Instant) -> Option<Change> {
        if began < self.settled {
            return None;
        }
        self.failures = 0;
        // Requests are the better probes.
        self.failed_probes = 0;
        if self.condition == Condition::Hanging { self.settle(Condition::Up, now, "it answered") } else { None }
    }

    /// A request that went out at `began` was not answered, or not by who should have. Where there is no other address
    /// it is never ejected: `is_alone`.
    pub fn failed(&mut self, began: Instant, now: Instant, why: &str, is_alone: bool) -> Option<Change> {
        if self.condition != Condition::Up || began < self.settled || self.settings.eject_after == 0 {
            return None;
        }
        self.failures = self.failures.saturating_add(1);
        if is_alone || self.failures < self.settings.eject_after {
            return None;
        }
        let reason = format!("{} failures in a row, the last one: {why}", self.failures);
        let until = now + self.next_ejection(now);
        self.settle(Condition::Ejected { until }, now, &reason)
    }

    /// An ejection that is over ends.
    pub fn tick(&mut self, now: Instant) -> Option<Change> {
        match self.condition {
            Condition::Ejected { until } if until <= now => self.settle(Condition::Up, now, "its ejection is over"),
            _ => None,
        }
    }

    /// Somebody takes it out, keeps it in, or leaves it to what is found out.
    pub fn set_by_hand(&mut self, hand: Option<ByHand>, now: Instant) -> Option<Change> {
        let from = self.state();
        self.by_hand = hand;
        // Said even where it changes nothing for now.
        self.reason = if hand.is_some() { "by hand" } else { "no longer by hand" }.into();
        let reason = self.reason.clone();
        self.changed(from, now, &reason)
    }

    /// When it wants a probe or, at the end of an ejection, a [`Health::tick`]. An address that `is_alone` and up is left
    /// alone: there is no choice to make.
    pub fn due(&self, is_alone: bool) -> Option<Instant> {
        match self.condition {
            Condition::Up => (!is_alone).then_some(self.next_probe),
            Condition::Refusing | Condition::Hanging => Some(self.next_probe),
            Condition::Ejected { until } => Some(until.min(self.next_probe)),
        }
    }

    /// When the next probe goes out.
    pub fn next_probe(&self, is_alone: bool) -> Option<Instant> {
        self.due(is_alone).map(|_| self.next_probe)
    }

    /// A probe goes out. One that is never heard of again is followed by another.
    pub fn probing(&mut self, now: Instant) {
        self.next_probe = now + PROBE_TIMEOUT + self.settings.probe_every;
    }

    /// A probe that went out at `began` has ended. One that `is_alone` is not kept from its requests only because it
    /// does not answer probes.
    pub fn probed(&mut self, began: Instant, now: Instant, outcome: Probed<'_>, is_alone: bool) -> Option<Change> {
        match outcome {
            Probed::Answered => self.counts.probes_ok += 1,
            _ => self.counts.probes_failed += 1,
        }
        if began < self.settled {
            return None;
        }
        let is_down = matches!(self.condition, Condition::Refusing | Condition::Hanging);
        // A refusal says by itself what there is to say.
        let is_well = matches!(outcome, Probed::Answered | Probed::Refused(_))
            || (!is_down && matches!(outcome, Probed::Unwilling(_)));
        self.failed_probes = if is_well { 0 } else { self.failed_probes.saturating_add(1) };
        self.plan_probe(now);
        match outcome {
            Probed::Answered if is_down => self.settle(Condition::Up, now, "a probe was answered"),
            Probed::Refused(why) if self.condition != Condition::Refusing => self.settle(Condition::Refusing, now, why),
            Probed::Silent(_) if self.failed_probes >= SILENT_PROBES && is_down && is_alone => {
                self.settle(Condition::Up, now, "it takes connections, though it does not answer probes")
            }
            Probed::Silent(why) if self.failed_probes >= SILENT_PROBES && self.condition != Condition::Hanging => {
                self.settle(Condition::Hanging, now, why)
            }
            Probed::Unwilling(why) if self.failed_probes >= BAD_ANSWERS && is_down => {
                self.settle(Condition::Up, now, &format!("it answers, even if only so: {why}"))
            }
            _ => None,
        }
    }

    fn settle(&mut self, condition: Condition, now: Instant, reason: &str) -> Option<Change> {
        let from = self.state();
        self.condition = condition;
        self.settled = now;
        self.failures = 0;
        self.failed_probes = 0;
        self.plan_probe(now);
        self.changed(from, now, reason)
    }

    fn changed(&mut self, from: State, now: Instant, reason: &str) -> Option<Change> {
        let to = self.state();
        if from == to {
            return None;
        }
        let lasted = now.saturating_duration_since(self.since);
        self.since = now;
        reason.clone_into(&mut self.reason);
        Some(Change { from, to, lasted })
    }

    /// One that is up and missed a probe is asked again soon.
    fn plan_probe(&mut self, now: Instant) {
        let calm = self.condition == Condition::Up && self.failed_probes == 0;
        let every = if calm { WATCH_EVERY } else { self.settings.probe_every };
        // Many gateways that saw it fail at the same time do not ask at the same time.
        self.next_probe = now + every.mul_f64(0.75 + 0.25 * self.rng.f64());
    }

    fn next_ejection(&mut self, now: Instant) -> Duration {
        let calm = now.saturating_duration_since(self.settled).as_secs() / CALM.as_secs();
        let forgotten = u32::try_from(calm).unwrap_or(u32::MAX);
        self.remembered = self.remembered.saturating_sub(forgotten).saturating_add(1);
        self.counts.ejections += 1;
        let longest = MAX_EJECTION.max(self.settings.eject_for);
        self.settings.eject_for.checked_mul(self.remembered).map_or(longest, |time| time.min(longest))
    }
}

/// Whether ejections are ignored: less than `threshold` percent of the addresses that are not down would be left.
/// When so many fail in the same way, it is not they who are at fault.
pub fn panics(up: usize, ejected: usize, threshold: u32) -> bool {
    let share = |percent: usize| (up + ejected).saturating_mul(percent);
    up == 0 || up.saturating_mul(100) < share(usize::try_from(threshold).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests;
