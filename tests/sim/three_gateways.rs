//! Three gateways before one target that fails in several ways.

use tokio::time::sleep;

use crate::harness::check::lost_in_flight;
use crate::harness::*;

#[test]
fn three_gateways_hold_for_the_same_target_and_all_come_back() {
    let setting = Setting { gateways: 3, ..Setting::default() };
    simulate("three gateways", &setting, |mut scene| async move {
        let handler = scene.handlers[0].clone();
        handler.answers(|_| Reply::after(millis(10)));
        let load = Load { per_second: 60.0, lasts: 14 * SECOND, leaving: 5, ..Load::default() };
        let load = load.begin(&scene.gateways, scene.rng.fork());
        sleep(2 * SECOND).await;
        // One gateway loses it alone.
        turmoil::hold("gateway-0", &*handler.name);
        sleep(3 * SECOND).await;
        turmoil::release("gateway-0", &*handler.name);
        sleep(SECOND).await;
        let outage = scene.between(2 * SECOND, 5 * SECOND);
        handler.set_up(false);
        sleep(outage).await;
        handler.set_up(true);
        let back = now();
        let calls = load.await.unwrap();
        check(&scene, &calls).await;

        let (seed, lost) = (scene.seed, lost_in_flight(&scene));
        for call in &calls {
            let is_well = matches!(call.status(), Some(200) | None) || lost.contains(&call.request.id);
            assert!(is_well, "seed {seed}: was not lost in flight: {call:?}");
            assert!(call.began > back || call.ended < back + SECOND, "seed {seed}: back at {back:?}: {call:?}");
        }
        for gateway in &scene.gateways {
            let held = |call: &&Call| call.request.gateway == gateway.name && call.took() > SECOND && call.ended > back;
            assert!(calls.iter().filter(held).count() > 10, "seed {seed}: {} held nothing", gateway.name);
        }
    });
}
