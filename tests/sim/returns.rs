//! A target whose machine dies, which does not even refuse, and is started again.

use tokio::time::sleep;

use crate::harness::check::lost_in_flight;
use crate::harness::*;

#[test]
fn what_came_while_the_machine_was_gone_is_served_when_it_is_back() {
    simulate("returns", &Setting::default(), |mut scene| async move {
        let handler = scene.handlers[0].clone();
        let load = Load { lasts: 20 * SECOND, leaving: 5, ..Load::default() };
        let load = load.begin(&scene.gateways, scene.rng.fork());
        let mut recoveries = Vec::new();
        for _ in 0..2 {
            let phases = [false, true].map(|on| (on, scene.between(2 * SECOND, 5 * SECOND)));
            sleep(SECOND).await;
            for (on, lasts) in phases {
                handler.set_power(on);
                recoveries.extend(on.then(now));
                sleep(lasts).await;
            }
        }
        let calls = load.await.unwrap();
        check(&scene, &calls).await;

        let (seed, lost) = (scene.seed, lost_in_flight(&scene));
        for call in &calls {
            let is_well = matches!(call.status(), Some(200) | None) || lost.contains(&call.request.id);
            assert!(is_well, "seed {seed}: was not lost in flight: {call:?}");
        }
        for back in recoveries {
            let late = |call: &&Call| call.status() == Some(200) && call.began < back && call.ended > back + SECOND;
            assert_eq!(calls.iter().filter(late).count(), 0, "seed {seed}: back at {back:?}");
        }
    });
}
