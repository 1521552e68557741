//! A network between gateway and target that stops for some seconds.

use std::time::Duration;

use tokio::time::sleep;

use crate::harness::*;

/// Begins a load and stops the network twice while it lasts. Returns the calls and when it stopped.
async fn stopped(scene: &mut Scene, stop: fn(&str, &str), resume: fn(&str, &str)) -> (Vec<Call>, Vec<[Duration; 2]>) {
    let (gateway, handler) = (scene.gateways[0].name.clone(), scene.handlers[0].name.clone());
    let load = Load { lasts: 20 * SECOND, ..Load::default() }.begin(&scene.gateways, scene.rng.fork());
    let mut stops = Vec::new();
    for _ in 0..2 {
        let (calm, still) = (scene.between(2 * SECOND, 4 * SECOND), scene.between(SECOND, 5 * SECOND));
        sleep(calm).await;
        let began = now();
        stop(&gateway, &handler);
        sleep(still).await;
        resume(&gateway, &handler);
        stops.push([began, now()]);
    }
    let calls = load.await.expect("callers end");
    check(scene, &calls).await;
    (calls, stops)
}

#[test]
fn a_network_that_only_delays_loses_nothing() {
    simulate("delaying partition", &Setting::default(), |mut scene| async move {
        // As TCP does where it can send again.
        let (calls, stops) = stopped(&mut scene, |a, b| turmoil::hold(a, b), |a, b| turmoil::release(a, b)).await;
        let seed = scene.seed;
        for call in &calls {
            assert_eq!(call.status(), Some(200), "seed {seed}: {call:?}");
            let back = stops.iter().find(|[began, ended]| call.began < *ended && call.ended > *began);
            let latest = back.map_or(call.began, |[_, ended]| *ended) + SECOND;
            assert!(call.ended < latest, "seed {seed}: {stops:?}: {call:?}");
        }
    });
}

#[test]
fn a_network_that_loses_what_is_sent_loses_no_more_than_that() {
    simulate("losing partition", &Setting::default(), |mut scene| async move {
        let (calls, stops) = stopped(&mut scene, |a, b| turmoil::partition(a, b), |a, b| turmoil::repair(a, b)).await;
        let (seed, sent) = (scene.seed, scene.gateways[0].sent());
        for call in calls.iter().filter(|call| call.status() != Some(200)) {
            // A connection that lost bytes never comes back here. Each idle one costs a request, and no more.
            let is_lost = |at| stops.iter().any(|[began, ended]| at + millis(10) > *began && at < *ended + millis(10));
            let was_lost = sent.iter().any(|sent| sent.id == call.request.id && is_lost(sent.at));
            assert!(was_lost, "seed {seed}: was not lost in {stops:?}: {call:?}");
        }
        // A probe that was under way is lost as well, which is known after a second.
        let soon = SECOND + SECOND / 2;
        for [_, ended] in stops {
            let came = |call: &&Call| call.began > ended && call.began < ended + soon;
            let late = calls.iter().filter(came).find(|call| call.ended > ended.max(call.began) + soon);
            assert!(late.is_none(), "seed {seed}: back at {ended:?}: {late:?}");
            assert!(calls.iter().filter(came).count() > 20, "seed {seed}");
        }
    });
}
