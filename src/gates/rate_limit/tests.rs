use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Mutex;

use fastrand::Rng;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::{advance, sleep};

use super::*;
use crate::gates::StoreSettings;
use crate::resilience::Per;
use crate::resilience::rate_limit::{Rate, Scope, StoreUrl};
use crate::tls::ClientTlsSettings;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

fn settings(requests: u32, burst: u32, max_wait: Duration, max_queue: usize) -> RateLimitSettings {
    RateLimitSettings {
        per: Per::OPERATION,
        rate: Rate { requests: NonZeroU32::new(requests).unwrap(), every: SECOND },
        burst: NonZeroU32::new(burst).unwrap(),
        max_wait,
        max_queue,
        headers: true,
        scope: Scope::Local,
        on_failure: OnFailure::Local,
    }
}

fn limit(requests: u32, burst: u32, max_wait: Duration, max_queue: usize) -> Arc<RateLimit> {
    Arc::new(RateLimit::new(settings(requests, burst, max_wait, max_queue)))
}

fn later() -> Instant {
    Instant::now() + 3600 * SECOND
}

/// Starts a request and lets it get as far as it gets without time passing.
async fn arrive(limit: &Arc<RateLimit>, until: Instant) -> tokio::task::JoinHandle<Result<Turn, Refused>> {
    let limit = Arc::clone(limit);
    let request = tokio::spawn(async move { limit.admit(until).await });
    tokio::task::yield_now().await;
    request
}

#[tokio::test(start_paused = true)]
async fn a_burst_goes_at_once_and_the_next_waits_its_turn() {
    let limit = limit(10, 3, SECOND, 10);
    for remaining in [2, 1, 0] {
        let turn = limit.admit(later()).await.unwrap();
        assert_eq!((turn.waited, turn.left.remaining, turn.left.burst), (Duration::ZERO, remaining, 3));
        assert_eq!(turn.left.reset, (3 - remaining) * 100 * MS);
    }
    let turn = limit.admit(later()).await.unwrap();
    assert_eq!((turn.waited, turn.left.remaining), (100 * MS, 0));
    let Status { admitted, delayed, waiting, .. } = limit.status();
    assert_eq!((admitted, delayed, waiting), (4, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_surely_comes_too_late_is_refused_at_once_and_told_when_to_come() {
    let limit = limit(10, 1, 250 * MS, 10);
    limit.admit(later()).await.unwrap();
    let waiting = [arrive(&limit, later()).await, arrive(&limit, later()).await];
    let refused = limit.admit(later()).await.unwrap_err();
    assert_eq!((refused.why, refused.waited), (Why::TooLong, Duration::ZERO));
    assert_eq!(refused.retry_after, 300 * MS);
    for request in waiting {
        request.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_beyond_its_deadline() {
    let limit = limit(10, 1, 10 * SECOND, 10);
    limit.admit(later()).await.unwrap();
    let refused = limit.admit(Instant::now() + 99 * MS).await.unwrap_err();
    assert_eq!((refused.why, refused.waited), (Why::TooLong, Duration::ZERO));
    limit.admit(Instant::now() + 100 * MS).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses() {
    let limit = limit(10, 1, 10 * SECOND, 2);
    limit.admit(later()).await.unwrap();
    let waiting = [arrive(&limit, later()).await, arrive(&limit, later()).await];
    let refused = limit.admit(later()).await.unwrap_err();
    assert_eq!((refused.why, refused.retry_after, limit.status().waiting), (Why::QueueFull, 200 * MS, 2));
    assert!(refused.to_string().contains("no more requests may wait"), "{refused}");
    for request in waiting {
        request.await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_leaves_costs_no_turn_and_those_behind_move_up() {
    let limit = limit(10, 1, SECOND, 10);
    let began = Instant::now();
    limit.admit(later()).await.unwrap();
    let [head, second, third] =
        [arrive(&limit, later()).await, arrive(&limit, later()).await, arrive(&limit, later()).await];
    advance(50 * MS).await;
    head.abort();
    second.abort();
    third.await.unwrap().unwrap();
    assert_eq!(began.elapsed(), 100 * MS, "the turn of the one that left");
    assert_eq!(limit.status().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn extreme_settings_do_no_harm() {
    for (requests, burst, every) in [(u32::MAX, u32::MAX, SECOND), (1, u32::MAX, 3600 * SECOND), (1, 1, 3600 * SECOND)]
    {
        let mut settings = settings(requests, burst, 10 * MS, 10);
        settings.rate.every = every;
        let limit = RateLimit::new(settings);
        limit.admit(later()).await.unwrap();
        let _ = limit.admit(later()).await;
    }
}

#[test]
fn the_headers_are_structured_fields() {
    let rate = Rate { requests: NonZeroU32::new(500).unwrap(), every: SECOND };
    let left = Left { rate, burst: 100, remaining: 42, reset: 116 * MS };
    let both = |policy: &str, limit: &str| (policy.to_owned(), limit.to_owned());
    assert_eq!(left.headers("orders"), both(r#""orders";q=500;w=1"#, r#""orders";r=42;t=1"#));
    assert_eq!(left.headers("a\"\\ü\r\nb").0, r#""a_____b";q=500;w=1"#);
}

/// Nothing answers at this address: connections are taken by the kernel, and nobody reads from them.
async fn silent_store(timeout: Duration) -> (Arc<Shared>, tokio::net::TcpListener) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", listener.local_addr().unwrap());
    let settings = StoreSettings { url: StoreUrl::new(url), tls: ClientTlsSettings::default(), timeout };
    (Arc::new(Shared::new(&settings, Handle::current()).unwrap()), listener)
}

#[tokio::test(start_paused = true)]
async fn a_store_that_does_not_answer_costs_one_timeout_and_not_one_for_each_request() {
    let (store, _listener) = silent_store(50 * MS).await;
    let settings = RateLimitSettings { scope: Scope::Global, ..settings(1000, 1000, SECOND, 1000) };
    let limit = Arc::new(RateLimit::global(settings, "a".into(), Arc::clone(&store)));
    let began = Instant::now();
    let mut requests = JoinSet::new();
    for _ in 0..50 {
        let limit = Arc::clone(&limit);
        requests.spawn(async move { limit.admit(later()).await });
    }
    while let Some(request) = requests.join_next().await {
        request.unwrap().unwrap();
    }
    for _ in 0..100 {
        limit.admit(later()).await.unwrap();
    }
    assert!(began.elapsed() <= 51 * MS, "{:?}", began.elapsed());
    assert!(!store.status().up && store.status().errors == 1, "{:?}", store.status());
}

#[tokio::test(start_paused = true)]
async fn without_its_store_a_limit_does_as_the_settings_say() {
    for (on_failure, go) in [(OnFailure::Local, 2), (OnFailure::Open, 20), (OnFailure::Closed, 0)] {
        let (store, _listener) = silent_store(50 * MS).await;
        let settings = RateLimitSettings { on_failure, ..settings(1, 2, MS, 1000) };
        let limit = RateLimit::global(settings, "a".into(), store);
        let mut went = 0;
        for _ in 0..20 {
            match limit.admit(later()).await {
                Ok(_) => went += 1,
                Err(refused) if on_failure == OnFailure::Closed => assert_eq!(refused.why, Why::StoreUnavailable),
                Err(refused) => assert_eq!(refused.why, Why::TooLong),
            }
        }
        assert_eq!(went, go, "{on_failure:?}");
    }
}

/// What a bucket may let through in any time: a level that falls by the rate and never exceeds the burst.
struct Witness {
    interval: u128,
    burst: u128,
    empty_at: u128,
}

impl Witness {
    fn went(&mut self, now: u128) -> bool {
        self.empty_at = self.empty_at.max(now) + self.interval;
        self.empty_at - now <= self.burst * self.interval
    }
}

/// Requests arrive, leave and run out of time at random.
async fn walk(seed: u64, steps: u32) {
    let mut rng = Rng::with_seed(seed);
    let (requests, burst, max_queue) = (rng.u32(1..300), rng.u32(1..20), rng.usize(0..30));
    let limit = limit(requests, burst, Duration::from_millis(rng.u64(0..400)), max_queue);
    let interval = limit.bucket.interval;
    let base = Instant::now();
    let ended: Arc<Mutex<Vec<_>>> = Arc::default();
    let mut witness = Witness { interval: interval.as_nanos(), burst: burst.into(), empty_at: 0 };
    let mut tasks = VecDeque::new();
    let mut newest = None;
    for step in 0..steps {
        match rng.u32(0..10) {
            0..6 => {
                let (limit, ended) = (Arc::clone(&limit), Arc::clone(&ended));
                let until = Instant::now() + Duration::from_millis(rng.u64(0..600));
                tasks.push_back(tokio::spawn(async move {
                    let outcome = limit.admit(until).await;
                    // Timers have a grain of a millisecond.
                    let in_time = Instant::now() <= until + MS;
                    ended.lock().unwrap().push((step, base.elapsed().as_nanos(), in_time, outcome));
                }));
                tokio::task::yield_now().await;
            }
            6 if !tasks.is_empty() => tasks.remove(rng.usize(0..tasks.len())).unwrap().abort(),
            _ => sleep(Duration::from_micros(rng.u64(0..20_000))).await,
        }
        tasks.retain(|task| !task.is_finished());
        assert!(limit.status().waiting <= max_queue, "seed {seed} step {step}: {:?}", limit.status());
        for (arrival, at, in_time, outcome) in ended.lock().unwrap().drain(..) {
            assert!(in_time, "seed {seed} step {step}: beyond its deadline");
            match outcome {
                Ok(_) => {
                    assert!(witness.went(at), "seed {seed} step {step}: more than burst and rate allow");
                    assert!(newest < Some(arrival), "seed {seed} step {step}: {arrival} overtook {newest:?}");
                    newest = Some(arrival);
                }
                Err(refused) => assert!(refused.retry_after >= interval, "seed {seed} step {step}: {refused}"),
            }
        }
    }
    sleep(SECOND).await;
    assert_eq!(limit.status().waiting, 0, "seed {seed}");
}

#[tokio::test(start_paused = true)]
async fn any_arrivals_keep_rate_order_and_queue_bound() {
    for seed in 0..20 {
        walk(seed, 5_000).await;
    }
    walk(rand_seed(), 100_000).await;
}

fn rand_seed() -> u64 {
    Rng::new().u64(..)
}

#[tokio::test(start_paused = true)]
async fn a_queue_that_never_empties_uses_every_turn_though_many_leave() {
    let limit = limit(100, 5, 3600 * SECOND, 1000);
    let mut rng = Rng::with_seed(7);
    let began = Instant::now();
    let mut staying = Vec::new();
    for _ in 0..600 {
        let request = arrive(&limit, later()).await;
        if rng.bool() {
            request.abort();
        } else {
            staying.push(request);
        }
    }
    let taken = limit.status().admitted;
    let stay = u64::try_from(staying.iter().filter(|request| !request.is_finished()).count()).unwrap();
    for request in staying {
        request.await.unwrap().unwrap();
    }
    assert_eq!((taken, limit.status().admitted), (5, 5 + stay));
    assert_eq!(began.elapsed(), 10 * MS * u32::try_from(stay).unwrap());
}

#[tokio::test(start_paused = true)]
async fn all_may_wait_for_the_store_but_only_the_queue_for_a_turn() {
    let (store, _listener) = silent_store(50 * MS).await;
    let limit = Arc::new(RateLimit::global(settings(10, 1, SECOND, 2), "a".into(), store));
    let began = Instant::now();
    let mut requests = Vec::new();
    for _ in 0..10 {
        requests.push(arrive(&limit, later()).await);
    }
    assert_eq!(limit.status().waiting, 10, "nobody knows yet whether there are turns");
    for (number, request) in requests.into_iter().enumerate() {
        let why = request.await.unwrap().err().map(|refused| refused.why);
        assert_eq!(why, (number >= 2).then_some(Why::QueueFull), "request {number}");
    }
    assert!(began.elapsed() <= 151 * MS, "{:?}", began.elapsed());
}
