//! Links so slow that the time on the wire matters.

use nexus_gateway::resilience::FLOOR;

use crate::harness::*;

#[test]
fn time_on_the_wire_is_time_that_is_gone() {
    let setting = Setting { latency: [millis(200), millis(800)], ..Setting::default() };
    simulate("slow link", &setting, |mut scene| async move {
        // Each third attempt is answered 503, which is worth another one if there is time.
        let mut nth = 0;
        scene.handlers[0].answers(move |_| {
            nth += 1;
            Reply::after(millis(100)).status(if nth % 3 == 0 { 503 } else { 200 })
        });
        let mut loads = Vec::new();
        for timeout in [1_000, 1_900, 2_500, 4_000, 9_999] {
            let load = Load { per_second: 6.0, lasts: 15 * SECOND, timeout: millis(timeout), ..Load::default() };
            loads.push(load.begin(&scene.gateways, scene.rng.fork()));
        }
        let mut calls = Vec::new();
        for load in loads {
            calls.extend(load.await.unwrap());
        }
        check(&scene, &calls).await;

        let (seed, sent, entered) = (scene.seed, scene.gateways[0].sent(), scene.gateways[0].entered());
        for call in calls.iter().filter(|call| call.request.timeout <= FLOOR) {
            let first = sent.iter().find(|sent| sent.id == call.request.id);
            let at_once = first.is_none_or(|sent| sent.began <= entered[&sent.id] + millis(2));
            assert!(at_once, "seed {seed}: too little time to wait, and still it did: {first:?}");
        }
        let patient: Vec<_> = calls.iter().filter(|call| call.request.timeout == TEMPORAL).collect();
        let served = patient.iter().filter(|call| call.status() == Some(200)).count();
        assert!(served * 10 >= patient.len() * 6, "seed {seed}: {served} of {}", patient.len());
        assert!(patient.iter().all(|call| matches!(call.status(), Some(200 | 503))), "seed {seed}");
    });
}
