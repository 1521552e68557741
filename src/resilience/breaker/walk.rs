//! Random walks of the breaker beside a model that keeps every single event.

use std::collections::VecDeque;
use std::time::Duration;

use fastrand::Rng;
use tokio::time::Instant;

use super::{BreakerSettings, Cause, Core, State, Ticket, Transition, Verdict, Why};

const STEPS: u32 = 100_000;

#[test]
fn no_walk_breaks_a_rule() {
    let mut tally = Tally::default();
    (1..=6).for_each(|seed| walk(seed, &mut tally));
    assert!(tally.everything(), "the walks did not come everywhere: {tally:?}");
    walk(fastrand::u64(..), &mut tally);
}

/// Where the walks came.
#[derive(Debug, Default)]
struct Tally {
    closed: u32,
    by_rate: u32,
    in_a_row: u32,
    stragglers: u32,
    given_back: u32,
}

impl Tally {
    fn everything(&self) -> bool {
        [self.closed, self.by_rate, self.in_a_row, self.stragglers, self.given_back].iter().all(|count| *count > 100)
    }
}

/// A request that is under way, with the state and the generation by the model's count in which it was let through.
struct Sent {
    ticket: Ticket,
    state: State,
    generation: u64,
}

struct Walk<'a> {
    seed: u64,
    rng: Rng,
    settings: BreakerSettings,
    core: Core,
    now: Instant,
    sent: Vec<Sent>,
    generation: u64,
    /// Verdicts since it was closed: when, and whether it was a failure.
    verdicts: VecDeque<(Instant, bool)>,
    in_a_row: u32,
    probe_successes: u32,
    failed_probes: u32,
    /// Share of requests that fail, in percent; changes now and then, as targets do.
    failing: u32,
    tally: &'a mut Tally,
}

fn walk(seed: u64, tally: &mut Tally) {
    let mut rng = Rng::with_seed(seed);
    let settings = BreakerSettings {
        failure_rate: (!seed.is_multiple_of(3)).then(|| rng.u32(1..=100)),
        min_requests: rng.u32(1..30),
        window: Duration::from_millis(rng.u64(100..10_000)),
        consecutive: (seed % 3 != 1).then(|| rng.u32(1..8)),
        open_for: Duration::from_millis(rng.u64(1..2_000)),
        max_open_for: Duration::from_millis(rng.u64(2_000..20_000)),
        probes: rng.u32(1..4),
        ..BreakerSettings::default()
    };
    let mut walk = Walk {
        seed,
        core: Core::new(settings.clone(), rng.u64(..)),
        rng,
        settings,
        now: Instant::now(),
        sent: Vec::new(),
        generation: 0,
        verdicts: VecDeque::new(),
        in_a_row: 0,
        probe_successes: 0,
        failed_probes: 0,
        failing: 50,
        tally,
    };
    for step in 0..STEPS {
        walk.step();
        walk.check(step);
    }
}

impl Walk<'_> {
    fn step(&mut self) {
        let reset_once_in = if self.core.state().is_by_hand() { 50 } else { 1000 };
        if self.rng.u32(0..reset_once_in) == 0 {
            self.steer(State::Closed, Core::reset);
        }
        match self.rng.u32(0..1000) {
            0..300 => self.now += Duration::from_millis(self.rng.u64(0..40)),
            300..310 => self.now += Duration::from_millis(self.rng.u64(0..10_000)),
            310..640 => self.admit(),
            640..940 => self.record(),
            940..985 => self.give_back(),
            985..998 => self.failing = [0, 5, 50, 100][self.rng.usize(0..4)],
            998 => self.steer(State::Tripped, Core::trip),
            _ => self.steer(State::Held, Core::hold),
        }
    }

    fn admit(&mut self) {
        // Some requests never end: the oldest are forgotten without a word.
        if self.sent.len() > 30 {
            self.give_back();
        }
        let (before, over) = (self.core.state(), self.core.next_probe());
        let admitted = self.core.admit(self.now);
        let seed = self.seed;
        match before {
            State::Closed => assert!(admitted.is_ok(), "seed {seed}: closed lets all through"),
            State::Open => assert_eq!(admitted.is_ok(), over.unwrap() <= self.now, "seed {seed}: open"),
            State::HalfOpen => assert_eq!(admitted.is_ok(), self.probes_out() < self.settings.probes, "seed {seed}"),
            State::Tripped | State::Held => assert!(admitted.is_err(), "seed {seed}: by hand"),
        }
        let Ok((ticket, transition)) = admitted else { return };
        assert_eq!(transition.is_some(), before == State::Open, "seed {seed}");
        if transition.is_some() {
            self.generation += 1;
            self.probe_successes = 0;
        }
        assert_eq!(ticket.is_probe(), self.core.state() == State::HalfOpen, "seed {seed}");
        self.sent.push(Sent { ticket, state: self.core.state(), generation: self.generation });
    }

    fn record(&mut self) {
        let Some(sent) = self.take() else { return };
        let failed = self.rng.u32(0..100) < self.failing;
        let verdict = if failed { Verdict::Failure(Cause::Handler) } else { Verdict::Success };
        let before = self.core.state();
        let straggler = sent.generation != self.generation;
        let counts = self.core.counts(self.now);
        let transition = self.core.record(self.now, sent.ticket, verdict);
        if straggler {
            self.tally.stragglers += 1;
            assert_eq!(transition, None, "seed {}: a straggler changed the state", self.seed);
            assert_eq!((self.core.state(), self.core.counts(self.now)), (before, counts), "seed {}", self.seed);
            return;
        }
        assert_eq!(sent.state, before, "seed {}: the model's generation is right", self.seed);
        if before == State::Closed {
            self.recorded_closed(failed, transition);
        } else {
            self.recorded_probe(failed, transition);
        }
        if transition.is_some() {
            self.generation += 1;
        }
    }

    fn recorded_closed(&mut self, failed: bool, transition: Option<Transition>) {
        let seed = self.seed;
        self.verdicts.push_back((self.now, failed));
        self.in_a_row = if failed { self.in_a_row + 1 } else { 0 };
        let too_many = self.settings.consecutive.is_some_and(|limit| self.in_a_row >= limit);
        match transition.map(|transition| transition.why) {
            None => {
                assert!(!too_many, "seed {seed}: {} failures in a row", self.in_a_row);
                let [requests, failures] = self.core.counts(self.now);
                let enough = failed && requests >= self.settings.min_requests.into();
                let over = self.settings.failure_rate.is_some_and(|rate| failures * 100 >= requests * u64::from(rate));
                assert!(!(enough && over), "seed {seed}: closed at {failures} of {requests}");
            }
            Some(Why::Consecutive { failures, .. }) => {
                self.tally.in_a_row += 1;
                assert!(too_many && failures == self.in_a_row, "seed {seed}");
            }
            Some(Why::Rate { failures, requests, .. }) => {
                self.tally.by_rate += 1;
                assert!(requests >= self.settings.min_requests.into(), "seed {seed}: below the minimum");
                let rate = self.settings.failure_rate.expect("the rate is a reason only where it is set");
                assert!(failures * 100 >= requests * u64::from(rate), "seed {seed}: {failures} of {requests}");
            }
            Some(why) => panic!("seed {seed}: {why:?}"),
        }
        if transition.is_some() {
            self.check_open_time();
        }
    }

    fn recorded_probe(&mut self, failed: bool, transition: Option<Transition>) {
        let seed = self.seed;
        self.probe_successes += u32::from(!failed);
        let to = transition.map(|transition| transition.to);
        if failed {
            self.failed_probes += 1;
            assert_eq!(to, Some(State::Open), "seed {seed}: a failed probe opens it");
            self.check_open_time();
        } else if self.probe_successes == self.settings.probes {
            self.tally.closed += 1;
            assert_eq!(to, Some(State::Closed), "seed {seed}: enough probes succeeded");
            self.forget();
        } else {
            assert_eq!(to, None, "seed {seed}: {} probes succeeded", self.probe_successes);
        }
    }

    fn check_open_time(&self) {
        let nominal = self.settings.open_for.saturating_mul(2u32.saturating_pow(self.failed_probes));
        let nominal = nominal.min(self.settings.max_open_for);
        let time = self.core.next_probe().expect("it is open") - self.now;
        assert!(time >= nominal.mul_f64(0.799), "seed {}: {time:?} of {nominal:?}", self.seed);
        assert!(time <= nominal.mul_f64(1.201), "seed {}: {time:?} of {nominal:?}", self.seed);
        assert!(time <= self.settings.max_open_for.mul_f64(1.2), "seed {}: {time:?}", self.seed);
    }

    fn give_back(&mut self) {
        let Some(sent) = self.take() else { return };
        let before = self.core.state();
        self.tally.given_back += 1;
        self.core.give_back(sent.ticket);
        assert_eq!(self.core.state(), before, "seed {}: giving back changes no state", self.seed);
    }

    fn steer(&mut self, to: State, steer: fn(&mut Core, Instant) -> Option<Transition>) {
        let before = self.core.state();
        let transition = steer(&mut self.core, self.now);
        assert_eq!(self.core.state(), to, "seed {}", self.seed);
        assert_eq!(transition.is_some(), before != to, "seed {}", self.seed);
        self.generation += 1;
        if to == State::Closed {
            self.forget();
            assert_eq!(self.core.counts(self.now), [0, 0], "seed {}: a reset forgets", self.seed);
        }
    }

    fn forget(&mut self) {
        self.verdicts.clear();
        self.in_a_row = 0;
        self.failed_probes = 0;
    }

    fn take(&mut self) -> Option<Sent> {
        let at = self.rng.usize(0..self.sent.len().max(1));
        (at < self.sent.len()).then(|| self.sent.swap_remove(at))
    }

    fn probes_out(&self) -> u32 {
        let current = |sent: &&Sent| sent.generation == self.generation && sent.state == State::HalfOpen;
        u32::try_from(self.sent.iter().filter(current).count()).unwrap()
    }

    fn check(&mut self, step: u32) {
        let place = format_args!("seed {} step {step}", self.seed).to_string();
        assert!(self.probes_out() <= self.settings.probes, "{place}: {} probes are out", self.probes_out());

        while self.verdicts.front().is_some_and(|(at, _)| self.now - *at >= self.settings.window) {
            self.verdicts.pop_front();
        }
        let surely = self.settings.window.mul_f64(0.9).saturating_sub(Duration::from_micros(1));
        let young = self.verdicts.iter().filter(|(at, _)| self.now - *at < surely);
        let [requests, failures] = self.core.counts(self.now);
        assert!(requests >= young.clone().count() as u64, "{place}: the window forgot a request");
        assert!(failures >= young.filter(|(_, failed)| *failed).count() as u64, "{place}: it forgot a failure");
        assert!(requests <= self.verdicts.len() as u64, "{place}: the window counts what is older than it");
        let failed = self.verdicts.iter().filter(|(_, failed)| *failed).count() as u64;
        assert!(failures <= failed, "{place}: the window counts failures that are older than it");

        let is_open = self.core.state() == State::Open;
        assert_eq!(self.core.next_probe().is_some(), is_open, "{place}");
        assert_eq!(self.core.closed().is_some(), self.core.state() == State::Closed, "{place}");
        assert_eq!(self.core.reason().is_none(), self.core.state() == State::Closed, "{place}");
        assert_ne!(self.core.closed(), Some(0), "{place}");
    }
}
