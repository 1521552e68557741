//! The breaker of an operation.

use std::time::Duration;

use nexus_gateway::resilience::BreakerSettings;
use nexus_gateway::resilience::breaker::State;
use nexus_gateway::route::{PolicyRule, Toggle};
use tokio::task::spawn_local;
use tokio::time::sleep;

use crate::harness::*;

fn with(breaker: BreakerSettings) -> Setting {
    let policy = PolicyRule { breaker: Some(Toggle::On(breaker)), ..PolicyRule::default() };
    Setting { policy, ..Setting::default() }
}

fn state(scene: &Scene) -> State {
    scene.gateways[0].breakers()[0].status(tokio::time::Instant::now()).state
}

#[test]
fn a_straggler_neither_closes_a_breaker_nor_opens_it_again() {
    let setting = with(BreakerSettings { failure_rate: None, consecutive: Some(1), ..BreakerSettings::default() });
    simulate("straggler", &setting, |scene| async move {
        let seed = scene.seed;
        let mut nth = 0;
        scene.handlers[0].answers(move |_| {
            nth += 1;
            match nth {
                1 => Reply::after(3 * SECOND),
                2 => Reply::after(9 * SECOND).status(500),
                3 => Reply::after(millis(10)).status(500),
                _ => Reply::after(millis(10)),
            }
        });
        let ask = || Request::new(TEMPORAL).send();
        let slow_success = spawn_local(ask());
        sleep(millis(100)).await;
        let slow_failure = spawn_local(ask());
        sleep(millis(100)).await;
        let mut calls = vec![ask().await];
        assert_eq!(state(&scene), State::Open, "seed {seed}");

        calls.push(slow_success.await.unwrap());
        assert_eq!(calls[1].status(), Some(200), "seed {seed}: the straggler itself is answered");
        assert_eq!(state(&scene), State::Open, "seed {seed}: a straggler closed it");
        calls.push(ask().await);
        let refused = calls[2].reason().is_some_and(|reason| reason.starts_with("breaker_open"));
        assert!(refused, "seed {seed}: {:?}", calls[2]);

        sleep((7 * SECOND).saturating_sub(now())).await;
        calls.push(ask().await);
        assert_eq!((calls[3].status(), state(&scene)), (Some(200), State::Closed), "seed {seed}: the probe closes it");
        calls.push(slow_failure.await.unwrap());
        assert_eq!(
            (calls[4].status(), state(&scene)),
            (Some(500), State::Closed),
            "seed {seed}: a straggler opened it"
        );
        calls.push(ask().await);
        assert_eq!(calls[5].status(), Some(200), "seed {seed}");
        check(&scene, &calls).await;
        assert_eq!(scene.handlers[0].arrivals().len(), 5, "seed {seed}: one was refused");
    });
}

#[test]
fn a_straggler_does_not_speak_for_the_probe() {
    let setting = with(BreakerSettings { failure_rate: None, consecutive: Some(1), ..BreakerSettings::default() });
    simulate("straggler beside a probe", &setting, |scene| async move {
        let seed = scene.seed;
        let mut nth = 0;
        scene.handlers[0].answers(move |_| {
            nth += 1;
            match nth {
                1 => Reply::after(8 * SECOND),
                2 => Reply::after(millis(10)).status(500),
                _ => Reply::after(3 * SECOND).status(500),
            }
        });
        let ask = || Request::new(TEMPORAL).send();
        let straggler = spawn_local(ask());
        sleep(millis(100)).await;
        let mut calls = vec![ask().await];
        sleep((7 * SECOND).saturating_sub(now())).await;
        let probe = spawn_local(ask());
        calls.push(straggler.await.unwrap());
        assert_eq!(
            (calls[1].status(), state(&scene)),
            (Some(200), State::HalfOpen),
            "seed {seed}: a straggler counted"
        );
        calls.push(probe.await.unwrap());
        assert_eq!((calls[2].status(), state(&scene)), (Some(500), State::Open), "seed {seed}: the probe failed");
        check(&scene, &calls).await;
    });
}

#[test]
fn requests_that_wait_for_an_operation_go_when_it_has_healed() {
    let open_for = SECOND;
    let setting = with(BreakerSettings {
        failure_rate: None,
        consecutive: Some(5),
        open_for,
        max_open_for: open_for,
        hold: true,
        ..BreakerSettings::default()
    });
    simulate("held breaker", &setting, |mut scene| async move {
        let heals = scene.between(4 * SECOND, 6 * SECOND);
        scene.handlers[0].answers(move |asked| {
            let fails = asked.at > SECOND && asked.at < heals && asked.operation == "op";
            Reply::after(millis(20)).status(if fails { 500 } else { 200 })
        });
        let load = Load { per_second: 30.0, lasts: 10 * SECOND, leaving: 5, ..Load::default() };
        let healthy = Load { operation: "healthy", ..load };
        let load = load.begin(&scene.gateways, scene.rng.fork());
        let healthy = healthy.begin(&scene.gateways, scene.rng.fork());
        let (calls, healthy) = (load.await.unwrap(), healthy.await.unwrap());
        check(&scene, &[&calls[..], &healthy[..]].concat()).await;

        let seed = scene.seed;
        let neighbours = healthy.iter().all(|call| call.status().is_none_or(|status| status == 200));
        assert!(neighbours && healthy.iter().all(|call| call.took() < SECOND), "seed {seed}: the neighbour noticed");
        // Those that opened it, and the probes.
        let failed = calls.iter().filter(|call| call.status() == Some(500)).count();
        assert!((5..20).contains(&failed), "seed {seed}: {failed} failed");
        for call in calls.iter().filter(|call| call.status() != Some(500) && call.status().is_some()) {
            assert_eq!(call.status(), Some(200), "seed {seed}: {call:?}");
            let latest = call.began.max(heals + open_for.mul_f64(1.2)) + SECOND / 2;
            assert!(call.ended < latest, "seed {seed}: healed at {heals:?}: {call:?}");
        }
        let held = calls.iter().filter(|call| call.began < heals && call.ended > heals).count();
        assert!(held > 50, "seed {seed}: {held} waited");
    });
}

#[test]
fn callers_whose_clocks_are_a_little_ahead_still_tell_that_an_operation_hangs() {
    let setting = with(BreakerSettings { failure_rate: None, consecutive: Some(3), ..BreakerSettings::default() });
    simulate("hanging", &setting, |scene| async move {
        let seed = scene.seed;
        scene.handlers[0].answers(|_| Reply::after(60 * SECOND));
        let leaving =
            |left: Duration| Request { leaves: Some(TEMPORAL.saturating_sub(left)), ..Request::new(TEMPORAL) }.send();
        for _ in 0..3 {
            leaving(5 * SECOND).await;
        }
        assert_eq!(state(&scene), State::Closed, "seed {seed}: those who leave early say nothing");
        for _ in 0..3 {
            leaving(millis(100)).await;
        }
        // Time for the gateway to see the last one leave.
        sleep(millis(50)).await;
        assert_eq!(state(&scene), State::Open, "seed {seed}");
    });
}
