//! Which of several addresses takes the next request: the better of two drawn at random.
//!
//! An address is as bad as its smoothed time to an answer times the requests it would then have. The time follows a
//! slow answer at once and a fast one slowly ("peak EWMA", as in Finagle and Linkerd), and fades while nothing is
//! measured, so that an address that was slow is tried again. One that is new or came back gets its share little by
//! little. Two at random instead of the best of all: many gateways would all pick the same best one.

use std::time::Duration;

use fastrand::Rng;

/// Time in which what is known of an address fades to 1/e.
const DECAY_SECONDS: f32 = 10.0;

/// Share of its turns that an address keeps right after it came.
pub const FIRST_WEIGHT: f32 = 0.1;

/// The smoothed time to an answer; zero where nothing is known. Fits into one word, which can be an atomic.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Latency {
    seconds: f32,
    /// When it was measured, in milliseconds on the clock of whoever keeps it. Wraps after 49 days.
    at: u32,
}

/// What is known of an address whose turn it may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Smoothed time to an answer in seconds, if any was measured.
    pub latency: Option<f32>,
    /// Requests on their way to it.
    pub in_flight: usize,
    /// Its [`weight`].
    pub weight: f32,
}

impl Latency {
    /// What [`Latency::to_word`] made.
    #[expect(clippy::cast_possible_truncation, reason = "the lower half is wanted")]
    pub fn from_word(word: u64) -> Self {
        Self { seconds: f32::from_bits((word >> 32) as u32), at: word as u32 }
    }

    /// As one word; zero where nothing is known.
    pub fn to_word(self) -> u64 {
        u64::from(self.seconds.to_bits()) << 32 | u64::from(self.at)
    }

    /// With an answer that took `sample`, at `at` milliseconds.
    #[must_use]
    pub fn observed(self, sample: Duration, at: u32) -> Self {
        let sample = sample.as_secs_f32().max(f32::EPSILON);
        let known = self.seconds;
        if sample >= known {
            return Self { seconds: sample, at };
        }
        let old = self.age(at);
        Self { seconds: known * old + sample * (1.0 - old), at }
    }

    /// In seconds at `at` milliseconds, less what faded since it was measured; none where nothing is known.
    pub fn seconds(self, at: u32) -> Option<f32> {
        (self.seconds > 0.0).then(|| self.seconds * self.age(at))
    }

    /// What is left of a measurement, from 1 down to 0.
    #[expect(clippy::cast_precision_loss, reason = "milliseconds need no more")]
    fn age(self, at: u32) -> f32 {
        // Threads may bring their measurements in another order than they took them.
        let elapsed = at.wrapping_sub(self.at);
        let elapsed = if elapsed > u32::MAX / 2 { 0 } else { elapsed };
        (elapsed as f32 / -1000.0 / DECAY_SECONDS).exp()
    }
}

/// How much of its turns an address keeps that is usable since `age`: from a tenth, rising to all after `slow_start`.
pub fn weight(age: Duration, slow_start: Duration) -> f32 {
    if age >= slow_start {
        return 1.0;
    }
    FIRST_WEIGHT + (1.0 - FIRST_WEIGHT) * (age.as_secs_f32() / slow_start.as_secs_f32())
}

/// Whose turn it is of `count`; none where there is none. `candidate` is asked only where there is a choice.
pub fn pick(count: usize, rng: &mut Rng, candidate: impl Fn(usize) -> Candidate) -> Option<usize> {
    if count < 2 {
        return count.checked_sub(1);
    }
    let first = rng.usize(..count);
    let second = (first + rng.usize(1..count)) % count;
    let (one, two) = (candidate(first), candidate(second));
    let ((winner, winners), (loser, losers)) =
        if is_better(two, one) { ((second, two), (first, one)) } else { ((first, one), (second, two)) };
    // Among equally new ones nobody gives way.
    if winners.weight < losers.weight && rng.f32() >= winners.weight / losers.weight {
        return Some(loser);
    }
    Some(winner)
}

/// Where one of them was never measured, only the requests on their way count.
#[expect(clippy::cast_precision_loss, reason = "no address has that many requests")]
fn is_better(one: Candidate, other: Candidate) -> bool {
    let load = |candidate: Candidate, latency: f32| latency * (candidate.in_flight + 1) as f32;
    match (one.latency, other.latency) {
        (Some(ones), Some(others)) => load(one, ones) < load(other, others),
        _ => one.in_flight < other.in_flight,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fastrand::Rng;
    use proptest::prelude::*;

    const SLOW_START: Duration = Duration::from_secs(10);

    fn candidate(latency: Option<f32>, in_flight: usize) -> Candidate {
        Candidate { latency, in_flight, weight: 1.0 }
    }

    /// How often each of `candidates` is picked, in percent.
    fn shares(candidates: &[Candidate]) -> Vec<usize> {
        let mut rng = Rng::with_seed(7);
        let mut picked = vec![0; candidates.len()];
        for _ in 0..10_000 {
            picked[pick(candidates.len(), &mut rng, |i| candidates[i]).unwrap()] += 1;
        }
        picked.into_iter().map(|count| (count + 50) / 100).collect()
    }

    #[test]
    fn a_slow_answer_counts_at_once_and_a_fast_one_slowly() {
        let slow = Latency::default().observed(Duration::from_millis(10), 0).observed(Duration::from_secs(1), 100);
        assert_eq!(slow.seconds(100), Some(1.0));
        let fast = slow.observed(Duration::from_millis(10), 200);
        assert!(fast.seconds(200).unwrap() > 0.98);
        let later = slow.observed(Duration::from_millis(10), 60_000);
        assert!(later.seconds(60_000).unwrap() < 0.02);
    }

    #[test]
    fn what_is_known_fades() {
        let latency = Latency::default().observed(Duration::from_secs(1), 0);
        assert!((latency.seconds(10_000).unwrap() - 0.368).abs() < 0.001);
        assert_eq!(Latency::default().seconds(5), None);
    }

    #[test]
    fn the_one_with_less_to_do_is_picked() {
        assert_eq!(shares(&[candidate(Some(0.1), 0), candidate(Some(0.1), 1)]), [100, 0]);
        assert_eq!(shares(&[candidate(Some(0.1), 0), candidate(Some(0.01), 5)]), [0, 100]);
        assert_eq!(shares(&[candidate(None, 3), candidate(Some(9.0), 2)]), [0, 100]);
        let even = shares(&[candidate(None, 0), candidate(None, 0)]);
        assert!(even[0].abs_diff(50) < 3, "{even:?}");
    }

    #[test]
    fn a_new_one_gives_most_of_its_turns_away_unless_all_are_new() {
        let new = Candidate { weight: FIRST_WEIGHT, ..candidate(None, 0) };
        let with_old = shares(&[new, candidate(Some(0.1), 0)]);
        assert!((3..=7).contains(&with_old[0]), "{with_old:?}");
        let all_new = shares(&[new, new]);
        assert!(all_new[0].abs_diff(50) < 3, "{all_new:?}");
    }

    #[test]
    fn one_alone_is_not_even_looked_at() {
        let mut rng = Rng::with_seed(1);
        assert_eq!(pick(1, &mut rng, |_| unreachable!()), Some(0));
        assert_eq!(pick(0, &mut rng, |_| unreachable!()), None);
    }

    /// Requests every 5 ms for 100 s of simulated time; how many each address takes.
    fn simulate(millis: &[u32], seed: u64) -> Vec<usize> {
        let mut rng = Rng::with_seed(seed);
        let mut latencies = vec![Latency::default(); millis.len()];
        let mut flying: Vec<Vec<u32>> = vec![Vec::new(); millis.len()];
        let mut taken = vec![0; millis.len()];
        for now in (0..100_000).step_by(5) {
            for (i, ends) in flying.iter_mut().enumerate() {
                let before = ends.len();
                ends.retain(|end| *end > now);
                for _ in ends.len()..before {
                    latencies[i] = latencies[i].observed(Duration::from_millis(millis[i].into()), now);
                }
            }
            let picked = pick(millis.len(), &mut rng, |i| candidate(latencies[i].seconds(now), flying[i].len()));
            let picked = picked.unwrap();
            flying[picked].push(now + millis[picked]);
            taken[picked] += 1;
        }
        taken
    }

    #[test]
    fn a_slow_address_gets_a_small_share_but_is_not_forgotten() {
        for seed in 0..10 {
            let taken = simulate(&[10, 10, 100], seed);
            let all: usize = taken.iter().sum();
            assert!(taken[2] > 0 && taken[2] * 20 < all, "seed {seed}: {taken:?}");
            assert!(taken[0].abs_diff(taken[1]) * 5 < all, "seed {seed}: {taken:?}");
        }
    }

    proptest! {
        #[test]
        fn weights_stay_within_bounds_and_only_rise(age in 0u64..100_000, more in 0u64..100_000, slow in 0u64..60_000) {
            let slow = Duration::from_millis(slow);
            let (young, old) = (weight(Duration::from_millis(age), slow), weight(Duration::from_millis(age + more), slow));
            prop_assert!((FIRST_WEIGHT..=1.0).contains(&young) && young <= old && old <= 1.0);
            prop_assert!((weight(SLOW_START, SLOW_START) - 1.0).abs() < f32::EPSILON);
        }

        #[test]
        fn latency_stays_between_the_fastest_and_the_slowest_answer(
            samples in prop::collection::vec((1u64..100_000, 0u32..60_000), 1..50), start: u32,
        ) {
            let (mut latency, mut now) = (Latency::default(), start);
            for (micros, pause) in &samples {
                now = now.wrapping_add(*pause);
                latency = Latency::from_word(latency.observed(Duration::from_micros(*micros), now).to_word());
            }
            let micros = f64::from(latency.seconds(now).unwrap()) * 1e6;
            let all = samples.iter().map(|(micros, _)| f64::from(u32::try_from(*micros).unwrap()));
            let (least, most) = (all.clone().fold(f64::MAX, f64::min), all.fold(0.0, f64::max));
            prop_assert!(micros >= least * 0.999 && micros <= most * 1.001, "{least} {micros} {most}");
            prop_assert!(f64::from(latency.seconds(now.wrapping_add(1_000)).unwrap()) * 1e6 < most);
        }

        #[test]
        fn whoever_is_picked_exists(count in 1usize..40, seed: u64) {
            let mut rng = Rng::with_seed(seed);
            let picked = pick(count, &mut rng, |i| { assert!(i < count); candidate(None, i) });
            prop_assert!(picked.unwrap() < count);
        }
    }
}
