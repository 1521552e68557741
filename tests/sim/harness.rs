//! A simulated network of callers, gateways and handlers, in which all time is simulated and chance has a seed.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fastrand::Rng;
use nexus_gateway::route::PolicyRule;
use nexus_gateway::upstream::UpstreamSettings;

pub(crate) mod caller;
pub(crate) mod check;
pub(crate) mod gateway;
pub(crate) mod handler;
pub(crate) mod wire;

pub(crate) use caller::{Call, Load, Outcome, Request};
pub(crate) use check::check;
pub(crate) use gateway::Gateway;
pub(crate) use handler::{Handler, Reply};

/// Replays one seed instead of the usual ones.
const REPLAY: &str = "NEXUS_GATEWAY_SEED";
/// Seeds that are always tried, besides one that is drawn.
const SEEDS: [u64; 2] = [1, 2];
/// Grain of the simulated network.
const TICK: Duration = Duration::from_millis(2);
/// The longest that anything takes; reached only where something hangs.
const LONGEST: Duration = Duration::from_secs(300);

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// What Temporal callers give.
pub(crate) const TEMPORAL: Duration = Duration::from_millis(9_999);

/// What is simulated.
#[derive(Clone)]
pub(crate) struct Setting {
    pub(crate) gateways: usize,
    pub(crate) handlers: usize,
    pub(crate) policy: PolicyRule,
    pub(crate) upstream: UpstreamSettings,
    /// Time that bytes take from one host to another, at the least and at the most.
    pub(crate) latency: [Duration; 2],
}

impl Default for Setting {
    fn default() -> Self {
        Self {
            gateways: 1,
            handlers: 1,
            policy: PolicyRule::default(),
            upstream: UpstreamSettings::default(),
            latency: [0, 6].map(Duration::from_millis),
        }
    }
}

/// A simulation as its script sees it.
pub(crate) struct Scene {
    pub(crate) seed: u64,
    pub(crate) rng: Rng,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) handlers: Vec<Handler>,
}

/// Simulated time since the beginning.
pub(crate) fn now() -> Duration {
    turmoil::sim_elapsed().expect("inside a simulation")
}

/// A panic elsewhere fails the test by itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// Runs `script` in simulations of `setting`, once for each seed.
pub(crate) fn simulate<F, Fut>(name: &str, setting: &Setting, script: F)
where
    F: Fn(Scene) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    let replayed = std::env::var(REPLAY).ok().map(|seed| seed.parse().expect("a seed is a number"));
    let drawn = Rng::new().u64(1_000..1_000_000);
    let seeds = replayed.map_or_else(|| SEEDS.into_iter().chain([drawn]).collect(), |seed: u64| vec![seed]);
    println!("{name}: seeds {seeds:?}; {REPLAY} replays one");
    for seed in seeds {
        run(seed, setting, &script);
    }
}

fn run<F, Fut>(seed: u64, setting: &Setting, script: F)
where
    F: Fn(Scene) -> Fut,
    Fut: Future<Output = ()> + 'static,
{
    // The gateway draws its jitter from this thread's generator.
    fastrand::seed(seed);
    let [shortest, longest] = setting.latency;
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .tick_duration(TICK)
        .simulation_duration(LONGEST)
        .min_message_latency(shortest)
        .max_message_latency(longest)
        .tcp_capacity(4_096)
        .build();
    let handlers: Vec<_> = (0..setting.handlers).map(|n| Handler::new(&mut sim, n)).collect();
    let gateways: Vec<_> = (0..setting.gateways).map(|n| Gateway::new(&mut sim, n, setting)).collect();
    let scene = Scene { seed, rng: Rng::with_seed(seed), gateways, handlers: handlers.clone() };
    let failed = Rc::new(RefCell::new(None));
    sim.client("callers", {
        let (script, failed) = (script(scene), Rc::clone(&failed));
        async move {
            // A moment for the listeners.
            tokio::time::sleep(SECOND / 20).await;
            if let Err(error) = tokio::task::spawn_local(script).await {
                *failed.borrow_mut() = Some(error.to_string());
            }
            Ok(())
        }
    });
    loop {
        for handler in &handlers {
            handler.obey(&mut sim);
        }
        match sim.step() {
            Ok(false) => {}
            Ok(true) => break,
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    let failed = failed.borrow_mut().take();
    assert!(failed.is_none(), "seed {seed}: {failed:?}");
}

impl Scene {
    /// Some time between these.
    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        least + most.saturating_sub(least).mul_f64(self.rng.f64())
    }
}
