//! More than a slow target can bear.

use std::time::Duration;

use nexus_gateway::resilience::{ConcurrencySettings, Per};
use nexus_gateway::route::{PolicyRule, Toggle};

use crate::harness::*;

/// Requests that the handler serves at a time, and how long it takes for each: together a hundred a second.
const PLACES: usize = 20;
const SERVICE: Duration = Duration::from_millis(200);
const CAPACITY: f64 = 100.0;
const MAX_WAIT: Duration = SECOND;

#[test]
fn at_four_times_its_capacity_a_target_serves_as_much_as_it_can() {
    overload("overload", PLACES, false);
}

#[test]
fn a_limit_that_is_found_by_latency_does_as_well() {
    overload("overload, adaptive", 10 * PLACES, true);
}

fn overload(name: &str, max: usize, adaptive: bool) {
    let per = Per { endpoint: true, ..Per::default() };
    let limit = ConcurrencySettings { per, max, max_wait: MAX_WAIT, max_queue: 1_000, adaptive };
    let policy = PolicyRule { concurrency: Some(Toggle::On(limit)), ..PolicyRule::default() };
    simulate(name, &Setting { policy, ..Setting::default() }, |mut scene| async move {
        let handler = scene.handlers[0].clone();
        handler.serves_at_most(PLACES);
        handler.answers(|_| Reply::after(SERVICE));
        let starts = Load { per_second: 4.0 * CAPACITY, lasts: 6 * SECOND, leaving: 3, ..Load::default() };
        let cancels = Load { per_second: 10.0, cancels: true, leaving: 0, ..starts };
        let began = now();
        let starts = starts.begin(&scene.gateways, scene.rng.fork());
        let cancels = cancels.begin(&scene.gateways, scene.rng.fork());
        let (starts, cancels) = (starts.await.expect("callers end"), cancels.await.expect("callers end"));
        check(&scene, &[&starts[..], &cancels[..]].concat()).await;

        let seed = scene.seed;
        let refused = cancels.iter().find(|call| call.status() != Some(202));
        assert!(refused.is_none(), "seed {seed}: {refused:?}");
        let served: Vec<_> = starts.iter().filter(|call| call.status() == Some(200)).chain(&cancels).collect();
        // As soon as there is a queue, and as long as more comes.
        let (from, to) = (began + SECOND, began + 6 * SECOND);
        let goodput = served.iter().filter(|call| call.ended > from && call.ended <= to).count();
        let goodput = f64::from(u32::try_from(goodput).expect("few")) / to.saturating_sub(from).as_secs_f64();
        assert!(goodput >= 0.9 * CAPACITY, "seed {seed}: {goodput} a second");

        let mut took: Vec<_> = served.iter().map(|call| call.took()).collect();
        took.sort();
        let p99 = took[took.len() * 99 / 100];
        assert!(p99 < 2 * (MAX_WAIT + SERVICE), "seed {seed}: p99 {p99:?}");
        let refusals = starts.iter().filter(|call| call.status() == Some(429)).count();
        assert!(refusals > starts.len() / 2, "seed {seed}: {refusals} of {}", starts.len());
        println!("seed {seed}: goodput {goodput:.1} of {CAPACITY} a second, p99 {p99:?}");
    });
}
