//! How many requests at a time suit an upstream, found by latency.
//!
//! A gradient, not additive increase with multiplicative decrease: that needs a threshold beyond which a latency counts
//! as bad, and Nexus operations take from milliseconds to seconds, so that no threshold fits. A gradient compares the
//! latency of now with the usual one and needs no unit. After `Gradient2` of Netflix's concurrency-limits, written anew,
//! with two differences. Its long-term latency follows an overload that lasts and then takes it for usual; here it is
//! learned only while few requests are on their way, for which the limit dips now and then. And means are those of
//! logarithms, so that a few slow operations do not outweigh many quick ones.
//!
//! Knows times, latencies and outcomes; must not know what a request is, or who waits.

use std::time::Duration;

use tokio::time::Instant;

/// What a finished request says about load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It was answered; its latency counts.
    Ok,
    /// It timed out, was reset or was refused for load (429, 503).
    Dropped,
}

/// A limit that follows latency, between 1 and a maximum.
#[derive(Debug)]
pub struct Adaptive {
    max: f64,
    limit: f64,
    /// The usual latency: the logarithm of its seconds.
    usual: Option<f64>,
    window: Window,
    phase: Phase,
    /// The highest limit since the usual latency was last learned in a dip.
    peak: f64,
}

/// A fair start where nothing is known.
const INITIAL: f64 = 20.0;

/// Latency above the usual one that is noise, not load.
const TOLERANCE: f64 = 1.2;

/// Part of the way to a new limit that one window goes.
const SMOOTHING: f64 = 0.2;

/// What a dropped request leaves of the limit.
const AFTER_DROP: f64 = 0.9;

/// Part of the limit that must be on its way for a window to say anything about the limit, and that is left in a dip.
const HALF: f64 = 0.5;

/// How far the usual latency goes towards that of one window while few requests are on their way.
const LEARN: f64 = 0.1;

/// The same for a window that was made for it.
const LEARN_IN_DIP: f64 = 0.5;

/// Windows of load from one dip to the next: about one percent of the time is spent in dips.
const STEADY: u32 = 60;

/// The same while the usual latency is still unsettled.
const UNSETTLED: u32 = 10;

/// How far, in logarithms, a dip moves a usual latency that is unsettled.
const MOVED: f64 = 0.05;

/// Whether the limit is at its best, or low for a moment to see what the upstream takes without a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// So many windows of load until the next dip.
    Steady(u32),
    /// In a dip. The first window only lets what was on its way drain.
    Dip { drained: bool },
}

impl Adaptive {
    /// Begins at 20, or at `max` if that is less. A `max` of 0 counts as 1.
    pub fn new(max: usize) -> Self {
        let max = as_float(max.max(1));
        let limit = INITIAL.min(max);
        Self { max, limit, usual: None, window: Window::default(), phase: Phase::Steady(UNSETTLED), peak: limit }
    }

    /// The limit in force.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at least one, at most a usize")]
    pub fn limit(&self) -> usize {
        let limit = if matches!(self.phase, Phase::Dip { .. }) { self.limit * HALF } else { self.limit };
        limit.max(1.0) as usize
    }

    /// Changes the upper bound; returns the limit in force.
    pub fn set_max(&mut self, max: usize) -> usize {
        self.max = as_float(max.max(1));
        self.set_limit(self.limit);
        self.limit()
    }

    /// A request ended after `latency`, while `in_flight` were on their way, itself included. Returns the limit in
    /// force where it changed.
    pub fn sample(&mut self, now: Instant, latency: Duration, in_flight: usize, outcome: Outcome) -> Option<usize> {
        let before = self.limit();
        match outcome {
            Outcome::Ok => self.window.answered(now, latency, in_flight),
            // However many are dropped at once, they tell of one overload.
            Outcome::Dropped if self.window.dropped(now) => self.set_limit(self.limit * AFTER_DROP),
            Outcome::Dropped => {}
        }
        // One step at a time: what lowered the limit by itself does not end the window as well.
        if self.limit() == before && self.window.is_over(now) {
            let window = std::mem::take(&mut self.window);
            self.close(&window);
        }
        let after = self.limit();
        (after != before).then_some(after)
    }

    /// A window is over: learn from it, and change the limit by it.
    fn close(&mut self, window: &Window) {
        let Some(recent) = window.mean() else { return };
        let usual = *self.usual.get_or_insert(recent);
        match self.phase {
            Phase::Dip { drained: false } => self.phase = Phase::Dip { drained: true },
            Phase::Dip { drained: true } => self.end_dip(usual, recent),
            Phase::Steady(_) if !self.was_used(window) => self.learn(recent, LEARN),
            Phase::Steady(left) if left == 0 || self.limit <= self.peak * HALF => {
                // It is due; or the limit fell far, and either the load is to blame or the usual latency is outdated.
                self.phase = Phase::Dip { drained: false };
            }
            Phase::Steady(left) => {
                self.phase = Phase::Steady(left - 1);
                if recent < usual {
                    self.learn(recent, LEARN);
                }
                self.follow(usual - recent, window.has_drop);
            }
        }
    }

    /// What was measured in a dip is close to the latency without load, however long an overload has lasted.
    fn end_dip(&mut self, usual: f64, recent: f64) {
        self.learn(recent, LEARN_IN_DIP);
        let is_settled = ((recent - usual) * LEARN_IN_DIP).abs() < MOVED;
        self.phase = Phase::Steady(if is_settled { STEADY } else { UNSETTLED });
        self.peak = self.limit;
    }

    /// Changes the limit by how much quicker (above zero) or slower answers came than usual, in logarithms.
    fn follow(&mut self, quicker: f64, has_drop: bool) {
        let gradient = (TOLERANCE * quicker.exp()).clamp(HALF, 1.0);
        let target = self.limit * gradient + head_room(self.limit);
        let limit = self.limit + (target - self.limit) * SMOOTHING;
        self.set_limit(if has_drop { limit.min(self.limit) } else { limit });
    }

    fn learn(&mut self, recent: f64, weight: f64) {
        self.usual = self.usual.map(|usual| usual + (recent - usual) * weight);
    }

    /// Whether the limit mattered. If not, it says nothing about the upstream, which takes what it takes.
    fn was_used(&self, window: &Window) -> bool {
        as_float(window.busiest) >= self.limit * HALF
    }

    fn set_limit(&mut self, limit: f64) {
        self.limit = limit.clamp(1.0, self.max);
        self.peak = self.peak.max(self.limit);
    }
}

/// What may queue at the upstream: enough to find out that there is room, little beside what is on its way.
fn head_room(limit: f64) -> f64 {
    limit.sqrt() * HALF
}

#[expect(clippy::cast_precision_loss, reason = "nobody has so many requests")]
fn as_float(count: usize) -> f64 {
    count as f64
}

/// The samples since the last decision.
#[derive(Debug, Default)]
struct Window {
    began: Option<Instant>,
    samples: u32,
    answers: u32,
    /// Sum of the logarithms of the answers' latencies in seconds.
    logarithms: f64,
    /// The most that were on their way.
    busiest: usize,
    has_drop: bool,
}

/// A window lasts at least so long, and at least as long as its requests take, so that they began within it or shortly
/// before.
const SHORTEST: Duration = Duration::from_millis(100);

/// Samples that a window needs at the least.
const ENOUGH: u32 = 10;

impl Window {
    fn answered(&mut self, now: Instant, latency: Duration, in_flight: usize) {
        self.begin(now);
        self.answers += 1;
        // No clock tells less than a microsecond from nothing.
        self.logarithms += latency.as_secs_f64().max(1e-6).ln();
        self.busiest = self.busiest.max(in_flight);
    }

    /// Whether it is the first one of the window.
    fn dropped(&mut self, now: Instant) -> bool {
        self.begin(now);
        !std::mem::replace(&mut self.has_drop, true)
    }

    fn begin(&mut self, now: Instant) {
        self.began.get_or_insert(now);
        self.samples += 1;
    }

    fn is_over(&self, now: Instant) -> bool {
        let lasted = self.began.map_or(Duration::ZERO, |began| now.saturating_duration_since(began));
        let latency = self.mean().map_or(0.0, f64::exp);
        self.samples >= ENOUGH && lasted >= SHORTEST && lasted.as_secs_f64() >= latency
    }

    /// The mean of the logarithms.
    fn mean(&self) -> Option<f64> {
        (self.answers > 0).then(|| self.logarithms / f64::from(self.answers))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// An upstream that takes `capacity` requests at a time; more than that wait within it.
    struct Upstream {
        service: Duration,
        capacity: usize,
        /// Latencies vary by so much of themselves, up and down.
        noise: f64,
    }

    impl Upstream {
        fn latency(&self, in_flight: usize, rng: &mut fastrand::Rng) -> Duration {
            let load = (as_float(in_flight) / as_float(self.capacity)).max(1.0);
            self.service.mul_f64(load * (1.0 + self.noise * (2.0 * rng.f64() - 1.0)))
        }

        /// Keeps as many requests on their way as the limit and `demand` allow, for `samples` answers. Returns the lowest
        /// and the highest limit of the second half.
        fn load(
            &self,
            adaptive: &mut Adaptive,
            now: &mut Instant,
            rng: &mut fastrand::Rng,
            demand: usize,
            samples: usize,
        ) -> (usize, usize) {
            let (mut lowest, mut highest) = (usize::MAX, 0);
            for sample in 0..samples {
                let in_flight = adaptive.limit().min(demand);
                let latency = self.latency(in_flight, rng);
                *now += latency / u32::try_from(in_flight).unwrap();
                adaptive.sample(*now, latency, in_flight, Outcome::Ok);
                if sample >= samples / 2 {
                    lowest = lowest.min(adaptive.limit());
                    highest = highest.max(adaptive.limit());
                }
            }
            (lowest, highest)
        }
    }

    fn assert_suits(capacity: usize, (lowest, highest): (usize, usize), context: &str) {
        // Of few places one more is a large part.
        let suits = lowest >= capacity / 2 && highest <= capacity * 3 / 2 + 1;
        assert!(suits, "{lowest} to {highest} for {capacity}; {context}");
    }

    #[tokio::test(start_paused = true)]
    async fn it_finds_the_capacity_whatever_the_latency_is() {
        for seed in [1, 2, fastrand::u64(..)] {
            for service in [5 * MS, 100 * MS, 2000 * MS] {
                for (capacity, noise) in [(5, 0.0), (10, 0.1), (20, 0.3), (50, 0.5), (100, 0.5)] {
                    let mut rng = fastrand::Rng::with_seed(seed);
                    let mut adaptive = Adaptive::new(1000);
                    let upstream = Upstream { service, capacity, noise };
                    let found = upstream.load(&mut adaptive, &mut Instant::now(), &mut rng, 1000, 250_000);
                    assert_suits(capacity, found, &format!("service {service:?}, noise {noise}, seed {seed}"));
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn it_follows_when_the_capacity_changes() {
        for seed in [1, 2, fastrand::u64(..)] {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut now = Instant::now();
            let mut adaptive = Adaptive::new(1000);
            for capacity in [40, 10, 80, 20] {
                let upstream = Upstream { service: 50 * MS, capacity, noise: 0.2 };
                let found = upstream.load(&mut adaptive, &mut now, &mut rng, 1000, 200_000);
                assert_suits(capacity, found, &format!("seed {seed}"));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn operations_that_become_slower_by_themselves_are_soon_usual() {
        let mut rng = fastrand::Rng::with_seed(1);
        let mut now = Instant::now();
        let mut adaptive = Adaptive::new(40);
        let mut upstream = Upstream { service: 20 * MS, capacity: 1000, noise: 0.1 };
        assert_eq!(upstream.load(&mut adaptive, &mut now, &mut rng, 1000, 50_000).1, 40);
        while !matches!(adaptive.phase, Phase::Steady(left) if left > 50) {
            upstream.load(&mut adaptive, &mut now, &mut rng, 1000, 10);
        }
        upstream.service *= 3;
        let began = now;
        let mut limits = Vec::new();
        while now - began < Duration::from_secs(20) {
            limits.push(upstream.load(&mut adaptive, &mut now, &mut rng, 1000, 100).0);
        }
        assert!(limits.iter().any(|limit| *limit < 30), "it notices nothing: {limits:?}");
        assert!(limits.iter().all(|limit| *limit >= 5), "it falls too far: {limits:?}");
        assert!(limits[limits.len() - 5..].contains(&40), "it does not recover: {limits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_limit_that_is_not_used_stays_where_it_is() {
        let mut adaptive = Adaptive::new(1000);
        let upstream = Upstream { service: 20 * MS, capacity: 1000, noise: 0.0 };
        let mut rng = fastrand::Rng::with_seed(1);
        let found = upstream.load(&mut adaptive, &mut Instant::now(), &mut rng, 9, 100_000);
        assert_eq!(found, (20, 20));
    }

    #[tokio::test(start_paused = true)]
    async fn dropped_requests_lower_it_by_a_tenth_once_per_window() {
        let mut now = Instant::now();
        let mut adaptive = Adaptive::new(1000);
        assert_eq!(adaptive.sample(now, MS, 20, Outcome::Dropped), Some(18));
        for _ in 0..100 {
            assert_eq!(adaptive.sample(now, MS, 18, Outcome::Dropped), None);
        }
        now += SHORTEST;
        assert_eq!(adaptive.sample(now, MS, 18, Outcome::Dropped), None, "the end of the window");
        assert_eq!(adaptive.sample(now, MS, 18, Outcome::Dropped), Some(16));
    }

    #[tokio::test(start_paused = true)]
    async fn it_begins_at_a_fair_value_and_obeys_a_new_maximum() {
        assert_eq!(Adaptive::new(0).limit(), 1);
        assert_eq!(Adaptive::new(7).limit(), 7);
        let mut adaptive = Adaptive::new(500);
        assert_eq!(adaptive.limit(), 20);
        assert_eq!(adaptive.set_max(10), 10);
        assert_eq!(adaptive.set_max(500), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn at_random_it_stays_within_its_bounds_and_never_falls_by_more_than_half_at_once() {
        for seed in [1, 2, 3, fastrand::u64(..)] {
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut now = Instant::now();
            let mut max = 100;
            let mut adaptive = Adaptive::new(max);
            let mut highest = 0;
            for _ in 0..100_000 {
                now += MS * rng.u32(0..30);
                let before = adaptive.limit();
                let latency = Duration::from_micros(1 << rng.u32(0..24));
                let outcome = if rng.u32(0..50) == 0 { Outcome::Dropped } else { Outcome::Ok };
                let changed = adaptive.sample(now, latency, rng.usize(0..before * 2), outcome);
                let after = adaptive.limit();
                assert_eq!(changed, (after != before).then_some(after), "seed {seed}");
                assert!((1..=max).contains(&after), "seed {seed}: {after} of {max}");
                assert!(after >= before / 2, "seed {seed}: from {before} to {after}");
                highest = highest.max(after);
                if rng.u32(0..1000) == 0 {
                    max = rng.usize(1..200);
                    adaptive.set_max(max);
                }
            }
            assert!(highest > 5, "seed {seed}: it did not get around, {highest}");
        }
    }
}
