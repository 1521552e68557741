//! A target that is gone for five seconds, again and again, under a steady load.

use std::time::Duration;

use tokio::time::sleep;

use crate::harness::check::lost_in_flight;
use crate::harness::*;

#[test]
fn an_outage_of_five_seconds_costs_nothing_but_what_was_in_flight() {
    simulate("outage", &Setting::default(), |mut scene| async move {
        let handler = scene.handlers[0].clone();
        let load = Load { lasts: 40 * SECOND, ..Load::default() };
        let load = load.begin(&scene.gateways, scene.rng.fork());
        let mut recoveries = Vec::new();
        for _ in 0..3 {
            let calm = scene.between(2 * SECOND, 6 * SECOND);
            sleep(calm).await;
            handler.set_up(false);
            sleep(5 * SECOND).await;
            handler.set_up(true);
            recoveries.push(now());
        }
        let calls = load.await.unwrap();
        check(&scene, &calls).await;

        let seed = scene.seed;
        let lost = lost_in_flight(&scene);
        for call in calls.iter().filter(|call| call.status() != Some(200)) {
            assert!(lost.contains(&call.request.id), "seed {seed}: was not lost in flight: {call:?}");
        }
        assert!(lost.len() <= 12, "seed {seed}: {} lost", lost.len());
        for back in recoveries {
            flows_again(&scene, &calls, back);
        }
    });
}

/// What waited is served within a second of the recovery, and so is what comes then.
fn flows_again(scene: &Scene, calls: &[Call], back: Duration) {
    let waited = calls.iter().filter(|call| call.began < back && call.ended > back);
    let late: Vec<_> = waited.filter(|call| call.ended > back + SECOND).collect();
    assert!(late.is_empty(), "seed {}: back at {back:?}, but {late:?}", scene.seed);
    let held = calls.iter().filter(|call| call.took() > SECOND && call.ended > back && call.ended < back + SECOND);
    assert!(held.count() > 100, "seed {}: nothing was held before {back:?}", scene.seed);
}
