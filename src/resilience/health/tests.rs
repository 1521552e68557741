//! Tables and a random walk.

use super::*;
use fastrand::Rng;
use proptest::prelude::*;

const SETTINGS: HealthSettings =
    HealthSettings { probe_every: Duration::from_millis(250), eject_after: 5, eject_for: Duration::from_secs(5) };
const SECOND: Duration = Duration::from_secs(1);

/// An address that is up, and a moment after it came to be.
fn up() -> (Health, Instant) {
    let now = Instant::now();
    (Health::new(now, SETTINGS, 1), now + SECOND)
}

fn eject(health: &mut Health, now: Instant) -> Option<Change> {
    (0..SETTINGS.eject_after).filter_map(|_| health.failed(now, now, "reset", false)).last()
}

#[test]
fn a_failed_connect_marks_it_down_and_a_good_one_up_again() {
    let (mut health, now) = up();
    let change = health.refused(now, now, "refused").unwrap();
    assert_eq!((change.from, change.to, change.lasted), (State::Up, State::Down, SECOND));
    assert_eq!((health.reason(), health.since()), ("refused", now));
    assert_eq!(health.refused(now, now + SECOND, "again"), None);
    let change = health.connected(now, now + 3 * SECOND).unwrap();
    assert_eq!((change.to, change.lasted), (State::Up, 3 * SECOND));
}

#[test]
fn what_began_before_the_present_state_changes_nothing() {
    let (mut health, now) = up();
    let before = now - SECOND / 2;
    health.refused(now, now, "refused");
    assert_eq!(health.connected(before, now), None);
    assert_eq!(health.probed(before, now, Probed::Answered, false), None);
    health.connected(now, now + SECOND);
    assert_eq!(health.refused(now, now + SECOND, "timed out"), None);
    for _ in 0..10 {
        assert_eq!(health.failed(now, now + SECOND, "reset", false), None);
    }
    assert_eq!(health.state(), State::Up);
}

#[test]
fn one_that_hangs_is_down_after_two_probes_and_needs_an_answer_to_come_back() {
    let (mut health, now) = up();
    assert_eq!(health.probed(now, now + SECOND, Probed::Silent("timed out"), false), None);
    let again = health.due(false).unwrap();
    assert!(again <= now + SECOND + SETTINGS.probe_every, "asked again soon");
    let change = health.probed(again, again + SECOND, Probed::Silent("timed out"), false).unwrap();
    assert_eq!(change.to, State::Down);
    let later = again + 2 * SECOND;
    assert_eq!(health.connected(later, later), None, "the kernel takes connections for a process that hangs");
    assert_eq!(health.answered(later, later).unwrap().to, State::Up);
}

#[test]
fn a_good_probe_between_two_failed_ones_forgives() {
    let (mut health, now) = up();
    for outcome in [Probed::Silent("x"), Probed::Answered, Probed::Silent("x")] {
        assert_eq!(health.probed(now, now, outcome, false), None);
    }
    assert_eq!(health.probed(now, now, Probed::Refused("refused"), false).unwrap().to, State::Down);
}

#[test]
fn failures_in_a_row_eject_and_an_answer_between_them_forgives() {
    let (mut health, now) = up();
    for _ in 0..4 {
        assert_eq!(health.failed(now, now, "reset", false), None);
    }
    health.answered(now, now);
    assert_eq!(eject(&mut health, now).unwrap().to, State::Ejected);
    assert_eq!(health.reason(), "5 failures in a row, the last one: reset");
    assert_eq!(health.tick(now + 4 * SECOND), None);
    assert_eq!(health.tick(now + 5 * SECOND).unwrap().to, State::Up);
}

#[test]
fn repeated_ejections_last_longer_up_to_a_minute_and_are_forgotten() {
    let (mut health, mut now) = up();
    let mut lengths = Vec::new();
    for calm in [0, 0, 0, 600, 0].into_iter().chain([0; 20]) {
        now += calm * SECOND;
        eject(&mut health, now).unwrap();
        let began = now;
        while health.tick(now).is_none() {
            now += SECOND;
        }
        lengths.push((now - began).as_secs());
    }
    assert_eq!(lengths[..6], [5, 10, 15, 5, 10, 15]);
    assert_eq!(lengths.last(), Some(&60));
    assert_eq!(health.counts().ejections, 25);
}

#[test]
fn a_lone_address_is_never_ejected_and_zero_turns_ejection_off() {
    let (mut health, now) = up();
    assert!((0..100).all(|_| health.failed(now, now, "reset", true).is_none()));
    let mut off = Health::new(now, HealthSettings { eject_after: 0, ..SETTINGS }, 1);
    assert!((0..100).all(|_| off.failed(now, now, "reset", false).is_none()));
}

#[test]
fn an_ejected_one_that_fails_its_probes_is_down_and_then_a_good_probe_is_enough() {
    let (mut health, now) = up();
    eject(&mut health, now);
    assert_eq!(health.probed(now, now, Probed::Answered, false), None, "the probe does not see what is wrong");
    health.probed(now, now, Probed::Silent("timed out"), false);
    assert_eq!(health.probed(now, now, Probed::Silent("timed out"), false).unwrap().to, State::Down);
    assert_eq!(health.probed(now, now, Probed::Answered, false).unwrap().to, State::Up);
}

#[test]
fn one_that_answers_badly_stays_up_and_one_that_was_down_waits_a_little() {
    let (mut health, now) = up();
    assert!((0..20).all(|_| health.probed(now, now, Probed::Unwilling("503"), false).is_none()));
    health.refused(now, now, "refused");
    for _ in 1..BAD_ANSWERS {
        assert_eq!(health.probed(now, now, Probed::Unwilling("503"), true), None);
    }
    assert_eq!(health.probed(now, now, Probed::Unwilling("503"), true).unwrap().to, State::Up);
}

#[test]
fn a_lone_one_that_takes_connections_again_is_used_even_if_probes_stay_unanswered() {
    for is_alone in [false, true] {
        let (mut health, now) = up();
        health.refused(now, now, "refused");
        for outcome in [Probed::Silent("x"), Probed::Refused("x"), Probed::Silent("x"), Probed::Silent("x")] {
            assert_eq!(health.state(), State::Down);
            health.probed(now, now, outcome, is_alone);
        }
        assert_eq!(health.state() == State::Up, is_alone);
    }
}

#[test]
fn a_request_that_is_answered_outweighs_a_probe_that_is_not() {
    let (mut health, now) = up();
    for _ in 0..10 {
        assert_eq!(health.probed(now, now, Probed::Silent("timed out"), false), None);
        assert!(health.is_troubled());
        health.answered(now, now);
    }
    assert_eq!(health.state(), State::Up);
}

#[test]
fn a_hand_overrules_and_what_was_found_out_meanwhile_holds_afterwards() {
    let (mut health, now) = up();
    assert_eq!(health.set_by_hand(Some(ByHand::Down), now).unwrap().to, State::Down);
    assert_eq!(health.reason(), "by hand");
    assert_eq!(health.set_by_hand(Some(ByHand::Up), now).unwrap().to, State::Up);
    assert_eq!(health.refused(now, now, "refused"), None);
    assert_eq!(health.state(), State::Up);
    assert_eq!(health.set_by_hand(None, now).unwrap().to, State::Down);
}

#[test]
fn one_that_is_alone_and_up_is_not_probed() {
    let (mut health, now) = up();
    assert_eq!(health.due(true), None);
    assert!(health.due(false).is_some());
    health.refused(now, now, "refused");
    assert!(health.due(true).unwrap() <= now + SETTINGS.probe_every);
}

#[test]
fn panic_begins_below_the_threshold() {
    for (up, ejected, threshold, expected) in [
        (1, 1, 50, false),
        (1, 2, 50, true),
        (2, 0, 50, false),
        (0, 3, 0, true),
        (0, 0, 50, true),
        (9, 1, 100, true),
        (1, 99, 0, false),
    ] {
        assert_eq!(panics(up, ejected, threshold), expected, "{up} up, {ejected} ejected, {threshold} %");
    }
}

/// Some addresses, of which each really works, refuses, hangs or answers badly, and requests and probes to them.
struct Walk {
    rng: Rng,
    now: Instant,
    threshold: u32,
    addresses: Vec<(Health, Reality)>,
    /// Probes and requests that are not over: which address, when they began.
    probes: Vec<(usize, Instant)>,
    requests: Vec<(usize, Instant)>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Reality {
    Works,
    Refuses,
    Hangs,
    Fails,
}

impl Walk {
    fn new(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let now = Instant::now();
        let count = rng.usize(1..6);
        let addresses = (0..count).map(|_| (Health::new(now, SETTINGS, rng.u64(..)), Reality::Works)).collect();
        let threshold = rng.u32(0..=100);
        Self { rng, now, threshold, addresses, probes: Vec::new(), requests: Vec::new() }
    }

    fn count(&self, state: State) -> usize {
        self.addresses.iter().filter(|(health, _)| health.state() == state).count()
    }

    fn usable(&self) -> Vec<usize> {
        let panics = panics(self.count(State::Up), self.count(State::Ejected), self.threshold);
        let is_usable = |state| state == State::Up || (state == State::Ejected && panics);
        (0..self.addresses.len()).filter(|i| is_usable(self.addresses[*i].0.state())).collect()
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(self.rng.u64(0..60));
        let is_alone = self.addresses.len() == 1;
        let i = self.rng.usize(..self.addresses.len());
        match self.rng.u32(..100) {
            0 => {
                let all = [Reality::Works, Reality::Refuses, Reality::Hangs, Reality::Fails];
                self.addresses[i].1 = self.rng.choice(all).unwrap();
            }
            1 => {
                let hand = self.rng.choice([None, None, Some(ByHand::Up), Some(ByHand::Down)]).unwrap();
                self.addresses[i].0.set_by_hand(hand, self.now);
            }
            2..50 => self.request(),
            50..80 if !self.requests.is_empty() => {
                let which = self.rng.usize(..self.requests.len());
                let (i, began) = self.requests.swap_remove(which);
                self.end_request(i, began, is_alone);
            }
            _ => {}
        }
        self.probe(is_alone);
    }

    fn request(&mut self) {
        if let Some(i) = self.rng.choice(self.usable()) {
            let (health, reality) = &mut self.addresses[i];
            if *reality == Reality::Refuses {
                health.refused(self.now, self.now, "refused");
            } else {
                health.connected(self.now, self.now);
                self.requests.push((i, self.now));
            }
        }
    }

    fn end_request(&mut self, i: usize, began: Instant, is_alone: bool) {
        let (health, reality) = &mut self.addresses[i];
        match reality {
            Reality::Works => drop(health.answered(began, self.now)),
            Reality::Hangs => {}
            Reality::Fails | Reality::Refuses => {
                let (before, settled) = (health.clone(), health.settled);
                let change = health.failed(began, self.now, "reset", is_alone);
                assert!(change.is_none() || began >= settled, "a straggler ejected {before:?}");
            }
        }
    }

    fn probe(&mut self, is_alone: bool) {
        for (i, (health, _)) in self.addresses.iter_mut().enumerate() {
            health.tick(self.now);
            if health.due(is_alone).is_some_and(|due| due <= self.now) {
                health.probing(self.now);
                self.probes.push((i, self.now));
            }
        }
        let (now, rng) = (self.now, &mut self.rng);
        for (i, began) in std::mem::take(&mut self.probes) {
            let (health, reality) = &mut self.addresses[i];
            let outcome = match reality {
                Reality::Works if rng.bool() => Probed::Answered,
                Reality::Fails if rng.bool() => rng.choice([Probed::Answered, Probed::Unwilling("503")]).unwrap(),
                Reality::Refuses => Probed::Refused("refused"),
                _ if now >= began + PROBE_TIMEOUT => Probed::Silent("timed out"),
                _ => {
                    self.probes.push((i, began));
                    continue;
                }
            };
            health.probed(began, now, outcome, is_alone);
        }
    }

    fn check(&self, seed: u64, step: usize) {
        let place = format!("seed {seed}, step {step}");
        let (up, ejected) = (self.count(State::Up), self.count(State::Ejected));
        let usable = self.usable();
        assert_eq!(usable.is_empty(), up + ejected == 0, "{place}: usable unless all are down");
        for i in &usable {
            assert_ne!(self.addresses[*i].0.state(), State::Down, "{place}");
        }
        let left = usable.len() * 100 >= usize::try_from(self.threshold).unwrap() * (up + ejected);
        assert!(left, "{place}: too many ejected");
        for (health, _) in &self.addresses {
            assert!(self.addresses.len() > 1 || health.state() != State::Ejected, "{place}: a lone one was ejected");
            if let Condition::Ejected { until } = health.condition {
                assert!(until > self.now && until <= health.settled + MAX_EJECTION, "{place}");
            }
            let within = match health.condition {
                Condition::Up if health.failed_probes == 0 => WATCH_EVERY,
                _ => SETTINGS.probe_every,
            };
            let within = within.max(PROBE_TIMEOUT + SETTINGS.probe_every);
            if health.condition != Condition::Up {
                assert!(health.due(true).unwrap() <= self.now + within, "{place}: not probed in time: {health:?}");
            }
            assert!(health.failures < SETTINGS.eject_after || self.addresses.len() == 1, "{place}");
        }
    }
}

#[test]
fn a_random_walk_keeps_the_rules() {
    for seed in [1, 2, 3, fastrand::u64(..)] {
        let mut walk = Walk::new(seed);
        for step in 0..100_000 {
            walk.step();
            walk.check(seed, step);
        }
        // However it went, what works again is found to be up within a minute.
        for (health, reality) in &mut walk.addresses {
            *reality = Reality::Works;
            health.set_by_hand(None, walk.now);
        }
        for _ in 0..61_000 / 10 {
            walk.now += Duration::from_millis(10);
            walk.probe(walk.addresses.len() == 1);
        }
        assert_eq!(walk.count(State::Up), walk.addresses.len(), "seed {seed}");
    }
}

proptest! {
    #[test]
    fn panic_leaves_enough(up in 0usize..1000, ejected in 0usize..1000, threshold in 0u32..=100) {
        let usable = if panics(up, ejected, threshold) { up + ejected } else { up };
        prop_assert!(usable * 100 >= threshold as usize * (up + ejected));
        prop_assert!(usable > 0 || up + ejected == 0);
    }
}
