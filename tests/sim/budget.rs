//! A handler that fails: attempts are made again within the budget.

use std::collections::HashSet;

use crate::harness::*;

#[test]
fn a_handler_that_fails_is_asked_again_within_the_budget() {
    simulate("budget", &Setting::default(), |mut scene| async move {
        let handler = scene.handlers[0].clone();
        let mut rng = scene.rng.fork();
        handler.answers(move |asked| {
            let fails = asked.at.as_secs() / 4 % 2 == 1 || rng.u8(0..10) == 0;
            Reply::after(millis(10)).status(if fails { 503 } else { 200 })
        });
        let load = Load { per_second: 40.0, lasts: 20 * SECOND, ..Load::default() };
        let calls = load.begin(&scene.gateways, scene.rng.fork()).await.unwrap();
        check(&scene, &calls).await;

        let (seed, arrivals, mut known) = (scene.seed, handler.arrivals(), HashSet::new());
        let again: Vec<_> = arrivals.iter().filter(|arrival| !known.insert(arrival.id)).collect();
        assert!(again.len() > 100, "seed {seed}: {} sent again", again.len());
        for last in &again {
            // The budget's window is ten seconds, give or take a tenth; an attempt begins a little after it was granted.
            let granted = again.iter().filter(|one| one.at <= last.at && one.at + 8 * SECOND > last.at).count();
            let requests = calls.iter().filter(|call| call.began <= last.at && call.began + 12 * SECOND > last.at);
            let most = (requests.count() / 5).max(10);
            assert!(granted <= most, "seed {seed}: {granted} of {most} until {:?}", last.at);
        }
    });
}
