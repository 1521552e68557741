use fastrand::Rng;

use super::*;

const MS: Duration = Duration::from_millis(1);

#[tokio::test(start_paused = true)]
async fn turns_come_one_interval_apart_and_live_for_a_while() {
    let now = Instant::now();
    // Two were saved, the third comes in 10 ms, the fourth in 20 ms.
    let lease = Lease::new(now, -10_000_000, 10 * MS, 4);
    assert_eq!((lease.pick(0, now), lease.pick(1, now)), (Pick::Turn(0), Pick::Turn(1)));
    assert_eq!(lease.pick(2, now), Pick::At(now + 10 * MS));
    assert_eq!(lease.pick(2, now + 10 * MS), Pick::Turn(2));
    assert_eq!(lease.pick(4, now + 20 * MS), Pick::Spent);
    // Saved turns live from the grant on, others from their time on.
    assert_eq!(lease.pick(0, now + LIFE), Pick::Turn(0));
    assert_eq!(lease.pick(0, now + LIFE + MS), Pick::Turn(2));
    assert_eq!(lease.pick(0, now + LIFE + 10 * MS), Pick::Turn(2));
    assert_eq!(lease.unused(0, now + LIFE + 11 * MS), 1);
    assert_eq!(lease.pick(0, now + LIFE + 21 * MS), Pick::Spent);
    assert_eq!(Lease::none(now).pick(0, now), Pick::Spent);
}

#[tokio::test(start_paused = true)]
async fn a_lease_follows_demand_within_what_the_limit_gives() {
    let mut now = Instant::now();
    let mut demand = Demand::new(now);
    let interval = Duration::from_micros(100);
    assert_eq!(demand.lease(0, interval), 1);
    for _ in 0..50 {
        now += 10 * MS;
        demand.observe(10, now);
    }
    assert_eq!(demand.lease(0, interval), 20, "1000/s for 20 ms");
    assert_eq!(demand.lease(55, interval), 55, "as many wait");
    assert_eq!(demand.lease(1_000_000, interval), 200, "the whole limit for 20 ms");
    assert_eq!(demand.lease(1_000_000, 1000 * MS), 1);
    demand.observe(0, now + 1000 * MS);
    assert_eq!(demand.lease(0, interval), 1, "it ended");
}

/// The bucket as the store keeps it, in nanoseconds.
struct Bucket {
    interval: i64,
    burst: i64,
    tat: i64,
}

impl Bucket {
    /// Turns taken, and when the first conforms.
    fn take(&mut self, now: i64, want: i64, ahead: i64) -> (i64, i64) {
        let tat = self.tat.max(now);
        let first = tat + self.interval - self.interval * self.burst - now;
        let turns = ((ahead - first).div_euclid(self.interval) + 1).clamp(0, want);
        self.tat = if turns > 0 { tat + turns * self.interval } else { self.tat };
        (turns, first)
    }
}

/// Three gateways with one bucket ask, use turns and forget them at random.
fn walk(seed: u64, base: Instant) {
    let mut rng = Rng::with_seed(seed);
    let (interval, burst) = (rng.i64(1000..50_000_000), rng.i64(1..200));
    let every = Duration::from_nanos(interval.unsigned_abs());
    let mut bucket = Bucket { interval, burst, tat: 0 };
    let life = i64::try_from(LIFE.as_nanos()).unwrap();
    let (mut now, mut empty_at) = (0, 0);
    let mut leases = [(Lease::none(base), 0); 3];
    let at = |now: i64| base + Duration::from_nanos(now.unsigned_abs());
    for step in 0..100_000 {
        let (lease, used) = &mut leases[rng.usize(0..3)];
        match rng.u32(0..8) {
            0 => now += rng.i64(0..40_000_000),
            1 => now += rng.i64(0..interval),
            2 => {
                let (turns, first) = bucket.take(now, rng.i64(1..50), rng.i64(0..30_000_000));
                let turns = u32::try_from(turns).unwrap();
                (*lease, *used) = (Lease::new(at(now), first, every, turns), 0);
            }
            _ => {
                let before = *used;
                if let Pick::Turn(turn) = lease.pick(*used, at(now)) {
                    assert!(turn >= before && turn < lease.turns(), "seed {seed} step {step}");
                    *used = turn + 1;
                    empty_at = now.max(empty_at) + interval;
                }
            }
        }
        let most = burst * interval + life;
        assert!(empty_at - now <= most, "seed {seed} step {step}: more than burst + rate × (t + life)");
    }
}

#[tokio::test(start_paused = true)]
async fn gateways_together_never_exceed_the_limit() {
    for seed in (0..10).chain([Rng::new().u64(..)]) {
        walk(seed, Instant::now());
    }
}
