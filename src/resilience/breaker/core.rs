//! The rules of a breaker: when it opens, what probes it, when it closes.
//!
//! A request that is let through gets a [`Ticket`] of the generation that let it through; each change of state begins
//! another generation, and a verdict of an older one changes nothing. So a request that was sent before the breaker
//! opened neither closes nor opens it when its answer comes late.

use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use super::{BreakerSettings, Cause, State, Transition, Verdict, Why};
use crate::resilience::window::Window;

/// A breaker without a clock or a lock.
#[derive(Debug)]
pub struct Core {
    settings: BreakerSettings,
    rng: Rng,
    phase: Phase,
    generation: u64,
    /// When the state last changed.
    since: Option<Instant>,
    /// Why it is not closed.
    reason: Option<Why>,
    /// Requests and failures.
    window: Window<2>,
    consecutive: u32,
    /// Since it was closed.
    failed_probes: u32,
    opened: u64,
}

#[derive(Debug)]
enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen { out: u32, successes: u32 },
    Tripped,
    Held,
}

/// One request may go. It ends in [`Core::record`] or [`Core::give_back`].
#[derive(Debug)]
#[must_use]
pub struct Ticket {
    generation: u64,
    probe: bool,
}

impl Ticket {
    /// What [`Core::admit`] gives while [`Core::closed`] is this generation.
    pub fn closed(generation: u64) -> Self {
        Self { generation, probe: false }
    }

    /// Whether it takes a place that others may be waiting for.
    pub fn is_probe(&self) -> bool {
        self.probe
    }
}

/// No request may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shut {
    /// When one may; unknown while probes are out or when only a hand can tell.
    pub until: Option<Instant>,
}

impl Core {
    /// A closed breaker. The seed is of the jitter.
    pub fn new(settings: BreakerSettings, seed: u64) -> Self {
        Self {
            rng: Rng::with_seed(seed),
            phase: Phase::Closed,
            generation: 1,
            since: None,
            reason: None,
            window: Window::new(settings.window),
            consecutive: 0,
            failed_probes: 0,
            opened: 0,
            settings,
        }
    }

    /// Lets a request through or not. After the open time the first one finds the breaker half-open.
    pub fn admit(&mut self, now: Instant) -> Result<(Ticket, Option<Transition>), Shut> {
        self.check(now)?;
        let over = matches!(self.phase, Phase::Open { .. });
        let transition = if over { self.enter(now, Phase::HalfOpen { out: 0, successes: 0 }, Why::Over) } else { None };
        let probe = if let Phase::HalfOpen { out, .. } = &mut self.phase {
            *out += 1;
            true
        } else {
            false
        };
        Ok((Ticket { generation: self.generation, probe }, transition))
    }

    /// Whether [`Self::admit`] would let a request through. Takes nothing.
    pub fn check(&self, now: Instant) -> Result<(), Shut> {
        match self.phase {
            Phase::Closed => Ok(()),
            Phase::Open { until } if until <= now => Ok(()),
            Phase::Open { until } => Err(Shut { until: Some(until) }),
            Phase::HalfOpen { out, .. } if out < self.probes() => Ok(()),
            Phase::HalfOpen { .. } | Phase::Tripped | Phase::Held => Err(Shut { until: None }),
        }
    }

    /// Takes the verdict on a request.
    pub fn record(&mut self, now: Instant, Ticket { generation, .. }: Ticket, verdict: Verdict) -> Option<Transition> {
        if generation != self.generation {
            return None;
        }
        match self.phase {
            Phase::Closed => self.record_closed(now, verdict),
            Phase::HalfOpen { out, successes } => self.record_probe(now, out, successes, verdict),
            // No generation of these let anything through.
            Phase::Open { .. } | Phase::Tripped | Phase::Held => None,
        }
    }

    fn record_closed(&mut self, now: Instant, verdict: Verdict) -> Option<Transition> {
        let Verdict::Failure(cause) = verdict else {
            self.window.add(now, [1, 0]);
            self.consecutive = 0;
            return None;
        };
        self.window.add(now, [1, 1]);
        self.consecutive = self.consecutive.saturating_add(1);
        // Only a failure opens it: a success is no reason, even where it completes the minimum of requests.
        let why = self.too_many_in_a_row(cause).or_else(|| self.too_many_of_all(now, cause))?;
        self.open(now, why)
    }

    fn too_many_in_a_row(&self, cause: Cause) -> Option<Why> {
        let failures = self.consecutive;
        (failures >= self.settings.consecutive?).then_some(Why::Consecutive { failures, cause })
    }

    fn too_many_of_all(&mut self, now: Instant, cause: Cause) -> Option<Why> {
        let rate = u64::from(self.settings.failure_rate?);
        let [requests, failures] = self.window.totals(now);
        let enough = requests >= u64::from(self.settings.min_requests);
        (enough && failures * 100 >= requests * rate).then_some(Why::Rate { failures, requests, cause })
    }

    fn record_probe(&mut self, now: Instant, out: u32, successes: u32, verdict: Verdict) -> Option<Transition> {
        match verdict {
            Verdict::Failure(cause) => {
                self.failed_probes = self.failed_probes.saturating_add(1);
                self.open(now, Why::Probe { failures: self.failed_probes, cause })
            }
            Verdict::Success if successes + 1 >= self.probes() => self.close(now, Why::Recovered),
            Verdict::Success => {
                self.phase = Phase::HalfOpen { out: out.saturating_sub(1), successes: successes + 1 };
                None
            }
        }
    }

    /// A request ended without a verdict: if it was a probe, another may go in its place.
    pub fn give_back(&mut self, Ticket { generation, .. }: Ticket) {
        if generation != self.generation {
            return;
        }
        if let Phase::HalfOpen { out, .. } = &mut self.phase {
            *out = out.saturating_sub(1);
        }
    }

    /// Lets nothing through until [`Self::reset`].
    pub fn trip(&mut self, now: Instant) -> Option<Transition> {
        self.steer(now, Phase::Tripped)
    }

    /// Lets nothing through until [`Self::reset`]; requests are to wait for it.
    pub fn hold(&mut self, now: Instant) -> Option<Transition> {
        self.steer(now, Phase::Held)
    }

    /// Closes, and forgets all that came before.
    pub fn reset(&mut self, now: Instant) -> Option<Transition> {
        self.close(now, Why::ByHand)
    }

    fn steer(&mut self, now: Instant, phase: Phase) -> Option<Transition> {
        self.reason = Some(Why::ByHand);
        self.enter(now, phase, Why::ByHand)
    }

    fn open(&mut self, now: Instant, why: Why) -> Option<Transition> {
        let until = now + self.open_time();
        self.reason = Some(why);
        self.opened += 1;
        self.enter(now, Phase::Open { until }, why)
    }

    /// Doubled for each failed probe up to the longest, then a fifth more or less at random, so that the breakers of
    /// many gateways do not probe at the same moment.
    fn open_time(&mut self) -> Duration {
        let doubled = self.settings.open_for.saturating_mul(2u32.saturating_pow(self.failed_probes));
        doubled.min(self.settings.max_open_for).mul_f64(0.8 + 0.4 * self.rng.f64())
    }

    fn close(&mut self, now: Instant, why: Why) -> Option<Transition> {
        self.reason = None;
        self.window.clear();
        self.consecutive = 0;
        self.failed_probes = 0;
        self.enter(now, Phase::Closed, why)
    }

    /// Begins a generation, also where the state is the same as before.
    fn enter(&mut self, now: Instant, phase: Phase, why: Why) -> Option<Transition> {
        let from = self.state();
        self.phase = phase;
        self.generation += 1;
        let to = self.state();
        if from == to {
            return None;
        }
        self.since = Some(now);
        Some(Transition { from, to, why })
    }

    /// What it does with requests.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
            Phase::Tripped => State::Tripped,
            Phase::Held => State::Held,
        }
    }

    /// The generation, never zero, in which everything goes; none while not everything does.
    pub fn closed(&self) -> Option<u64> {
        matches!(self.phase, Phase::Closed).then_some(self.generation)
    }

    /// When the state last changed; never yet where there is nothing.
    pub fn since(&self) -> Option<Instant> {
        self.since
    }

    /// Why it is not closed: while half-open, why it had opened.
    pub fn reason(&self) -> Option<Why> {
        self.reason
    }

    /// When the open time ends, while open.
    pub fn next_probe(&self) -> Option<Instant> {
        if let Phase::Open { until } = self.phase { Some(until) } else { None }
    }

    /// Requests and failures in the window. Probes do not count.
    pub fn counts(&mut self, now: Instant) -> [u64; 2] {
        self.window.totals(now)
    }

    /// How often it opened by itself, failed probes included, since it was made.
    pub fn opened(&self) -> u64 {
        self.opened
    }

    fn probes(&self) -> u32 {
        self.settings.probes.max(1)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const OK: Verdict = Verdict::Success;
    const BAD: Verdict = Verdict::Failure(Cause::Handler);

    fn settings() -> BreakerSettings {
        BreakerSettings { min_requests: 4, ..BreakerSettings::default() }
    }

    fn core(settings: BreakerSettings) -> (Core, Instant) {
        (Core::new(settings, 7), Instant::now())
    }

    /// Sends a request that ends at once.
    fn send(core: &mut Core, now: Instant, verdict: Verdict) -> Option<Transition> {
        let (ticket, _) = core.admit(now).expect("it may go");
        core.record(now, ticket, verdict)
    }

    /// Opens it; returns when the open time is over.
    fn opened(core: &mut Core, now: Instant) -> Instant {
        while core.closed().is_some() {
            send(core, now, BAD);
        }
        core.next_probe().expect("it is open")
    }

    #[test]
    fn it_opens_at_the_rate_but_not_below_the_minimum_of_requests() {
        let (mut core, now) = core(settings());
        assert_eq!(send(&mut core, now, BAD), None);
        assert_eq!(send(&mut core, now, BAD), None);
        assert_eq!(send(&mut core, now, OK), None);
        let why = Why::Rate { failures: 3, requests: 4, cause: Cause::Handler };
        let transition = Transition { from: State::Closed, to: State::Open, why };
        assert_eq!(send(&mut core, now, BAD), Some(transition));
        assert_eq!((core.reason(), core.since(), core.opened()), (Some(why), Some(now), 1));
        assert_eq!(core.admit(now).unwrap_err(), Shut { until: core.next_probe() });
    }

    #[test]
    fn it_stays_closed_below_the_rate() {
        let (mut core, now) = core(settings());
        for _ in 0..100 {
            send(&mut core, now, OK);
            send(&mut core, now, OK);
            assert_eq!(send(&mut core, now, BAD), None);
        }
        assert_eq!(core.counts(now), [300, 100]);
    }

    #[test]
    fn failures_older_than_the_window_do_not_open_it() {
        let (mut core, now) = core(settings());
        for second in 0..100 {
            assert_eq!(send(&mut core, now + 4 * second * SECOND, BAD), None);
        }
    }

    #[test]
    fn it_opens_after_failures_in_a_row_whatever_the_rate() {
        let (mut core, now) = core(BreakerSettings { consecutive: Some(3), failure_rate: None, ..settings() });
        for _ in 0..100 {
            send(&mut core, now, OK);
            send(&mut core, now, BAD);
            assert_eq!(send(&mut core, now, BAD), None);
        }
        send(&mut core, now, OK);
        send(&mut core, now, BAD);
        send(&mut core, now + 3600 * SECOND, BAD);
        let transition = send(&mut core, now + 3600 * SECOND, Verdict::Failure(Cause::Timeout)).unwrap();
        assert_eq!(transition.why, Why::Consecutive { failures: 3, cause: Cause::Timeout });
    }

    #[test]
    fn as_many_successes_as_probes_close_it_and_it_begins_anew() {
        let (mut core, now) = core(BreakerSettings { probes: 2, ..settings() });
        let over = opened(&mut core, now);
        let (first, transition) = core.admit(over).unwrap();
        assert_eq!(transition, Some(Transition { from: State::Open, to: State::HalfOpen, why: Why::Over }));
        let (second, transition) = core.admit(over).unwrap();
        assert_eq!(transition, None);
        assert_eq!(core.admit(over).unwrap_err(), Shut { until: None });
        assert_eq!(core.record(over, first, OK), None);
        assert_eq!(core.record(over, second, OK).unwrap().to, State::Closed);
        assert_eq!((core.counts(over), core.reason(), core.opened()), ([0, 0], None, 1));
    }

    #[test]
    fn a_failed_probe_doubles_the_open_time_up_to_the_longest_and_closing_starts_over() {
        let (mut core, mut now) = core(settings());
        let mut over = opened(&mut core, now);
        for (failures, expected) in (1..).zip([10, 20, 40, 60, 60, 60]) {
            now = over;
            let transition = send(&mut core, now, BAD).unwrap();
            assert_eq!(transition.why, Why::Probe { failures, cause: Cause::Handler });
            over = core.next_probe().unwrap();
            let (least, most) = (SECOND * expected * 4 / 5, SECOND * expected * 6 / 5);
            assert!((least..=most).contains(&(over - now)), "{failures}: {:?}", over - now);
        }
        send(&mut core, over, OK);
        let start = opened(&mut core, over) - over;
        assert!((4 * SECOND..=6 * SECOND).contains(&start), "{start:?}");
    }

    #[test]
    fn a_success_that_was_sent_before_it_opened_does_not_close_it() {
        let (mut core, now) = core(settings());
        let (early, _) = core.admit(now).unwrap();
        let (late, _) = core.admit(now).unwrap();
        let over = opened(&mut core, now);
        assert_eq!(core.record(now, early, OK), None);
        let (probe, _) = core.admit(over).unwrap();
        assert_eq!(core.record(over, late, OK), None);
        assert_eq!(core.state(), State::HalfOpen);
        assert_eq!(core.record(over, probe, OK).unwrap().to, State::Closed);
    }

    #[test]
    fn a_probe_without_a_verdict_gives_its_place_back() {
        let (mut core, now) = core(settings());
        let (straggler, _) = core.admit(now).unwrap();
        let over = opened(&mut core, now);
        let (probe, _) = core.admit(over).unwrap();
        core.give_back(straggler);
        assert_eq!(core.check(over), Err(Shut { until: None }), "only the probe has a place to give back");
        core.give_back(probe);
        assert_eq!(core.check(over), Ok(()));
    }

    #[test]
    fn by_hand_it_is_shut_until_it_is_reset_by_hand() {
        for steer in [Core::trip, Core::hold] {
            let (mut core, now) = core(settings());
            let (straggler, _) = core.admit(now).unwrap();
            send(&mut core, now, BAD);
            assert!(steer(&mut core, now).unwrap().to.is_by_hand());
            assert_eq!(steer(&mut core, now), None);
            assert_eq!(core.record(now, straggler, BAD), None);
            assert_eq!(core.check(now + 86_400 * SECOND), Err(Shut { until: None }));
            assert_eq!(core.reset(now).unwrap().to, State::Closed);
            assert_eq!((core.counts(now), core.reason()), ([0, 0], None));
        }
    }

    #[test]
    fn a_reset_forgets_what_a_closed_breaker_had_counted_and_sent() {
        let (mut core, now) = core(BreakerSettings { consecutive: Some(2), ..settings() });
        let (straggler, _) = core.admit(now).unwrap();
        send(&mut core, now, BAD);
        assert_eq!(core.reset(now), None);
        assert_eq!(core.record(now, straggler, BAD), None);
        assert_eq!(send(&mut core, now, BAD), None);
        assert_eq!(core.counts(now), [1, 1]);
    }

    #[test]
    fn two_breakers_do_not_probe_at_the_same_moment() {
        let now = Instant::now();
        let probes: Vec<_> = (0..2).map(|seed| opened(&mut Core::new(settings(), seed), now)).collect();
        assert_ne!(probes[0], probes[1]);
    }

    #[test]
    fn a_reason_can_be_read() {
        let cause = Cause::NoWorker;
        for (why, text) in [
            (Why::Rate { failures: 12, requests: 20, cause }, "12 of the last 20 requests failed (no_worker)"),
            (Why::Consecutive { failures: 1, cause }, "a request failed (no_worker)"),
            (Why::Consecutive { failures: 5, cause }, "5 requests in a row failed (no_worker)"),
            (Why::Probe { failures: 1, cause }, "a probe failed (no_worker)"),
            (Why::Probe { failures: 3, cause }, "3 probes in a row failed (no_worker)"),
            (Why::ByHand, "by hand"),
        ] {
            assert_eq!(why.to_string(), text);
        }
    }

    proptest! {
        #[test]
        fn the_open_time_is_within_a_fifth_of_what_is_set(
            open_for in 1u64..100_000, max in 1u64..1_000_000, failed in 0u32..100, seed: u64,
        ) {
            let (open_for, max_open_for) = (Duration::from_millis(open_for), Duration::from_millis(max));
            let mut core = Core::new(BreakerSettings { open_for, max_open_for, ..settings() }, seed);
            core.failed_probes = failed;
            let nominal = open_for.saturating_mul(2u32.saturating_pow(failed)).min(max_open_for);
            let time = core.open_time();
            prop_assert!(time >= nominal.mul_f64(0.799) && time <= nominal.mul_f64(1.201), "{time:?} of {nominal:?}");
        }
    }
}
