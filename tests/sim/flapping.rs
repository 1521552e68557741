//! A target that comes and goes faster than anybody can follow.

use tokio::time::sleep;

use crate::harness::check::lost_in_flight;
use crate::harness::*;

#[test]
fn a_target_that_flaps_costs_only_what_was_in_flight() {
    simulate("flapping", &Setting::default(), |mut scene| async move {
        let handler = scene.handlers[0].clone();
        handler.answers(|_| Reply::after(millis(20)));
        let patient = Load { lasts: 14 * SECOND, leaving: 10, ..Load::default() };
        let hasty = Load { per_second: 10.0, timeout: millis(1_500), ..patient };
        let patient = patient.begin(&scene.gateways, scene.rng.fork());
        let hasty = hasty.begin(&scene.gateways, scene.rng.fork());
        for _ in 0..12 {
            let phases = [false, true].map(|up| (up, scene.between(millis(20), SECOND)));
            for (up, lasts) in phases {
                handler.set_up(up);
                sleep(lasts).await;
            }
        }
        let back = now();
        let patient = patient.await.unwrap();
        let calls = [&patient[..], &hasty.await.unwrap()[..]].concat();
        check(&scene, &calls).await;

        let (seed, lost) = (scene.seed, lost_in_flight(&scene));
        for call in &patient {
            let is_well = matches!(call.status(), Some(200) | None) || lost.contains(&call.request.id);
            assert!(is_well, "seed {seed}: was not lost in flight: {call:?}");
            assert!(call.began > back || call.ended < back + SECOND, "seed {seed}: back at {back:?}: {call:?}");
        }
        let served = patient.iter().filter(|call| call.status() == Some(200)).count();
        assert!(served * 10 > patient.len() * 7, "seed {seed}: {served} of {}", patient.len());
    });
}
