use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, Waker};

use tokio::task::JoinSet;
use tokio::time::{advance, sleep, sleep_until};

use super::*;
use crate::resilience::concurrency::Urgency::{Normal, Urgent};

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

type Entering = Pin<Box<dyn Future<Output = Result<(Permit, Duration), Refused>>>>;

fn gate(limit: usize, max_queue: usize) -> Arc<Concurrency> {
    Arc::new(Concurrency::process(limit, max_queue, SECOND))
}

/// A request that is on its way through the gate, and was polled once.
fn begin(gate: &Arc<Concurrency>, urgency: Urgency) -> Entering {
    let gate = Arc::clone(gate);
    let mut entering: Entering = Box::pin(async move { gate.enter(urgency, Instant::now() + HOUR).await });
    assert!(poll(&mut entering).is_none(), "nothing to wait for");
    entering
}

fn poll(entering: &mut Entering) -> Option<Result<(Permit, Duration), Refused>> {
    match entering.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(entered) => Some(entered),
        Poll::Pending => None,
    }
}

async fn admitted(gate: &Arc<Concurrency>) -> Permit {
    let (permit, waited) = gate.enter(Normal, Instant::now()).await.expect("a place is free");
    assert_eq!(waited, Duration::ZERO);
    permit
}

fn counts(gate: &Concurrency) -> (usize, usize) {
    let status = gate.status();
    (status.in_flight, status.waiting)
}

fn refused(gate: &Concurrency, why: Why) -> u64 {
    gate.status().refused[why as usize].1
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_as_long_as_the_policy_lets_it() {
    let gate = gate(1, 10);
    let _permit = admitted(&gate).await;
    let refusal = gate.enter(Normal, Instant::now() + HOUR).await.unwrap_err();
    assert_eq!((refusal.why, refusal.waited, refusal.limit, refusal.waiting), (Why::TimedOut, SECOND, 1, 0));
    assert_eq!(refusal.retry_after, SECOND);
    assert_eq!(refused(&gate, Why::TimedOut), 1);
    assert_eq!(counts(&gate), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_no_longer_than_its_deadline_allows() {
    let gate = gate(1, 10);
    let permit = admitted(&gate).await;
    let refusal = gate.enter(Normal, Instant::now() + 300 * MS).await.unwrap_err();
    assert_eq!((refusal.why, refusal.waited), (Why::TimedOut, 300 * MS));

    let late = Instant::now() - MS;
    let refusal = gate.enter(Urgent, late).await.unwrap_err();
    assert_eq!((refusal.why, refusal.waited), (Why::TooLong, Duration::ZERO));
    drop(permit);
    assert!(gate.enter(Normal, late).await.is_ok(), "with a free place there is nothing to wait for");
}

#[tokio::test(start_paused = true)]
async fn a_place_that_comes_free_goes_to_the_urgent_and_then_to_the_first() {
    let gate = gate(1, 10);
    let permit = admitted(&gate).await;
    let (mut first, mut second, mut urgent) = (begin(&gate, Normal), begin(&gate, Normal), begin(&gate, Urgent));
    advance(100 * MS).await;
    drop(permit);
    assert!(poll(&mut first).is_none() && poll(&mut second).is_none());
    let (permit, waited) = poll(&mut urgent).unwrap().unwrap();
    assert_eq!(waited, 100 * MS);
    drop(permit);
    assert!(poll(&mut second).is_none());
    let first = poll(&mut first).unwrap().unwrap();
    assert_eq!(counts(&gate), (1, 1));
    drop(first);
    drop(poll(&mut second).unwrap().unwrap());
    assert_eq!(counts(&gate), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_leaves_gives_the_place_in_the_queue_to_the_next_at_once() {
    let gate = gate(1, 1);
    let permit = admitted(&gate).await;
    let gone = begin(&gate, Normal);
    let refusal = gate.enter(Normal, Instant::now() + HOUR).await.unwrap_err();
    assert_eq!((refusal.why, refusal.waited), (Why::QueueFull, Duration::ZERO));
    drop(gone);
    let mut next = begin(&gate, Normal);
    drop(permit);
    assert!(poll(&mut next).unwrap().is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_permit_for_a_waiter_that_has_just_left_goes_to_the_next_one() {
    let gate = gate(1, 10);
    let permit = admitted(&gate).await;
    let (gone, gone_too, mut next) = (begin(&gate, Normal), begin(&gate, Normal), begin(&gate, Normal));
    drop(permit);
    assert_eq!(counts(&gate), (1, 2), "the place has a new owner, which does not know of it yet");
    drop(gone);
    drop(gone_too);
    drop(poll(&mut next).unwrap().unwrap());
    assert_eq!(counts(&gate), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_permit_for_a_waiter_that_leaves_while_it_is_handed_over_goes_to_the_next_one() {
    let gate = gate(1, 10);
    std::mem::forget(admitted(&gate).await);
    let mut late = gate.line_up(Normal, Instant::now() + HOUR).unwrap().unwrap();
    let (gone, mut next) = (begin(&gate, Normal), begin(&gate, Normal));
    // Two threads at once, step by step: one decides whose turn it is and tells it, the other leaves between these.
    let turn = gate.decide(|line| line.queue.leave(Instant::now()));
    assert_eq!(late.give_up(), None);
    let second_turn = gate.decide(|line| line.queue.decline());
    drop(gone);
    gate.hand_over(second_turn);
    assert!(turn.unwrap().send(Turn::Admitted).is_err(), "it would be lost");
    drop(poll(&mut next).unwrap().unwrap());
    assert_eq!(counts(&gate), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_permit_that_comes_together_with_the_end_of_patience_is_used() {
    let gate = gate(1, 10);
    let permit = admitted(&gate).await;
    let mut last = begin(&gate, Normal);
    advance(2 * SECOND).await;
    drop(permit);
    assert!(poll(&mut last).unwrap().is_ok());
    drop(last);
    assert_eq!(counts(&gate), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn in_a_full_queue_the_youngest_start_makes_room_for_a_cancel() {
    let gate = gate(1, 2);
    let _permit = admitted(&gate).await;
    let (mut old, mut young) = (begin(&gate, Normal), begin(&gate, Normal));
    advance(MS).await;
    let _urgent = begin(&gate, Urgent);
    let refusal = poll(&mut young).unwrap().unwrap_err();
    assert_eq!((refusal.why, refusal.waited, refusal.waiting), (Why::Displaced, MS, 2));
    assert!(poll(&mut old).is_none());
    assert_eq!(refused(&gate, Why::Displaced), 1);
}

#[tokio::test(start_paused = true)]
async fn new_limits_hold_while_permits_are_out() {
    let gate = gate(3, 10);
    let mut permits = vec![admitted(&gate).await, admitted(&gate).await, admitted(&gate).await];
    gate.set_max(1, 10, SECOND);
    let mut waiter = begin(&gate, Normal);
    permits.truncate(1);
    assert!(poll(&mut waiter).is_none());
    assert_eq!(counts(&gate), (1, 1));
    gate.set_max(2, 0, 2 * SECOND);
    let second = poll(&mut waiter).unwrap().unwrap();
    let refusal = gate.enter(Normal, Instant::now() + HOUR).await.unwrap_err();
    assert_eq!((refusal.why, refusal.limit), (Why::QueueFull, 2));
    drop((permits, second));
    assert_eq!(counts(&gate), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn only_an_adaptive_limit_listens_to_how_requests_end() {
    for (adaptive, limits) in [(true, (20, 18)), (false, (50, 50))] {
        let per = crate::resilience::Per::default();
        let settings = ConcurrencySettings { per, max: 50, max_wait: SECOND, max_queue: 10, adaptive };
        let gate = Arc::new(Concurrency::new(&settings));
        assert_eq!(gate.status().limit, limits.0);
        admitted(&gate).await.sample(SECOND, Outcome::Dropped);
        assert_eq!(gate.status().limit, limits.1);
    }
}

#[tokio::test(start_paused = true)]
async fn an_adaptive_limit_that_grows_admits_who_waits() {
    let per = crate::resilience::Per::default();
    let settings = ConcurrencySettings { per, max: 50, max_wait: HOUR, max_queue: 100, adaptive: true };
    let gate = Arc::new(Concurrency::new(&settings));
    let mut permits = Vec::new();
    for _ in 0..20 {
        permits.push(admitted(&gate).await);
    }
    let mut waiter = begin(&gate, Normal);
    for _ in 0..1000 {
        advance(20 * MS).await;
        permits[0].sample(10 * MS, Outcome::Ok);
        if poll(&mut waiter).is_some_and(|entered| entered.is_ok()) {
            return;
        }
    }
    panic!("still at {:?}", gate.status());
}

#[tokio::test(start_paused = true)]
async fn a_refusal_says_what_to_do_about_it() {
    let mut refusal = Refused { why: Why::QueueFull, retry_after: SECOND, waited: 250 * MS, limit: 4, waiting: 7 };
    let mut says = |why, end| {
        refusal.why = why;
        assert_eq!(refusal.to_string(), format!("as many requests are on their way as may be, 4, {end}"));
    };
    says(Why::QueueFull, "and as many wait as may, 7");
    says(Why::TooLong, "and with 7 waiting none is expected to end in time for this one");
    says(Why::TimedOut, "and none ended in time for this one, which waited 250.0ms");
    says(Why::Displaced, "and a cancel or completion took this one's place in the full queue after 250.0ms");
}

/// What became of a request of [`overload`].
struct Served {
    urgency: Urgency,
    took: Duration,
    entered: Result<(), Refused>,
}

/// Ten places, each good for ten requests a second, and four times as many requests as that for 20 s.
async fn overload(gate: &Arc<Concurrency>, seed: u64) -> Vec<Served> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut requests = JoinSet::new();
    let mut next = Instant::now();
    let end = next + 20 * SECOND;
    while next < end {
        next += Duration::from_micros(rng.u64(0..5000));
        sleep_until(next).await;
        let gate = Arc::clone(gate);
        let urgency = if rng.u32(0..10) == 0 { Urgent } else { Normal };
        let service = MS * rng.u32(50..150);
        requests.spawn(async move {
            let began = Instant::now();
            let entered = match gate.enter(urgency, began + 10 * SECOND).await {
                Ok((_permit, _)) => {
                    sleep(service).await;
                    Ok(())
                }
                Err(refused) => Err(refused),
            };
            Served { urgency, took: began.elapsed(), entered }
        });
    }
    requests.join_all().await
}

#[tokio::test(start_paused = true)]
async fn four_times_the_capacity_leaves_goodput_and_latency_as_they_should_be() {
    for seed in [1, 2, fastrand::u64(..)] {
        let gate = Arc::new(Concurrency::process(10, 1000, 500 * MS));
        let began = Instant::now();
        let requests = overload(&gate, seed).await;
        let capacity = began.elapsed().as_secs_f64() * 100.0;
        assert!(requests.len() > 7000, "seed {seed}: {} requests are no overload", requests.len());

        let mut served: Vec<_> = requests.iter().filter(|one| one.entered.is_ok()).map(|one| one.took).collect();
        served.sort_unstable();
        let goodput = f64::from(u32::try_from(served.len()).unwrap()) / capacity;
        assert!(goodput >= 0.9, "seed {seed}: goodput is {goodput} of the capacity");
        let p99 = served[served.len() * 99 / 100];
        assert!(p99 < 2 * (500 * MS + 100 * MS), "seed {seed}: p99 of what was served is {p99:?}");

        let refusals: Vec<_> = requests.iter().filter_map(|one| Some((one, one.entered.as_ref().err()?))).collect();
        assert!(refusals.iter().all(|(one, _)| one.urgency == Normal), "seed {seed}: an urgent request was refused");
        let at_once = refusals.iter().filter(|(one, _)| one.took.is_zero()).count();
        assert!(at_once * 10 > refusals.len() * 8, "seed {seed}: {at_once} of {} refused at once", refusals.len());
        assert!(refusals.iter().all(|(one, _)| one.took <= 500 * MS), "seed {seed}: waited longer than it may");
        assert_eq!(counts(&gate), (0, 0), "seed {seed}: something is left");
    }
}

/// Counts who is in, and notes the most that ever were.
#[derive(Default)]
struct Inside {
    now: AtomicUsize,
    most: AtomicUsize,
}

impl Inside {
    fn enter(&self) {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(now, Ordering::SeqCst);
    }

    fn leave(&self) {
        self.now.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn callers_that_leave_at_random_moments_lose_nothing_for_the_others() {
    for seed in [1, 2, 3, fastrand::u64(..)] {
        let mut rng = fastrand::Rng::with_seed(seed);
        let gate = Arc::new(Concurrency::process(3, 20, 200 * MS));
        let inside = Arc::new(Inside::default());
        let mut requests = JoinSet::new();
        for step in 0..5000 {
            sleep(MS * rng.u32(0..10)).await;
            if step % 500 == 499 {
                gate.set_max(rng.usize(1..=4), rng.usize(0..30), MS * rng.u32(0..300));
            }
            let (gate, inside) = (Arc::clone(&gate), Arc::clone(&inside));
            let urgency = if rng.bool() { Urgent } else { Normal };
            let (patience, service) = (MS * rng.u32(0..400), MS * rng.u32(0..40));
            let handle = requests.spawn(async move {
                if let Ok((_permit, _)) = gate.enter(urgency, Instant::now() + patience).await {
                    inside.enter();
                    let _count = Leave(inside);
                    sleep(service).await;
                }
            });
            if rng.u32(0..3) == 0 {
                let leaves = sleep(MS * rng.u32(0..100));
                requests.spawn(async move {
                    leaves.await;
                    handle.abort();
                });
            }
        }
        while requests.join_next().await.is_some() {}
        assert!((3..=4).contains(&inside.most.load(Ordering::SeqCst)), "seed {seed}");
        assert_eq!(counts(&gate), (0, 0), "seed {seed}");
        let free = gate.status().limit;
        let mut permits = Vec::new();
        for _ in 0..free {
            permits.push(admitted(&gate).await);
        }
    }
}

struct Leave(Arc<Inside>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.leave();
    }
}

/// Real threads, each with its event loop, as the gateway's workers: the short way is taken and closed all the time.
#[test]
fn workers_share_the_places_without_losing_one() {
    let gate = Arc::new(Concurrency::process(3, 100, HOUR));
    let inside = Arc::new(Inside::default());
    std::thread::scope(|scope| {
        for seed in 0..4 {
            let (gate, inside) = (Arc::clone(&gate), Arc::clone(&inside));
            scope.spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
                runtime.block_on(tokio::task::LocalSet::new().run_until(visits(seed, gate, inside)));
            });
        }
    });
    assert_eq!(inside.most.load(Ordering::SeqCst), 3);
    assert_eq!(counts(&gate), (0, 0));
    assert!(gate.places.take(), "the short way is open again");
}

/// Five tasks that go in and out, and now and then leave while they wait.
async fn visits(seed: u64, gate: Arc<Concurrency>, inside: Arc<Inside>) {
    let mut tasks = JoinSet::new();
    for task in 0..5 {
        let (gate, inside) = (Arc::clone(&gate), Arc::clone(&inside));
        let mut rng = fastrand::Rng::with_seed(seed * 100 + task);
        tasks.spawn_local(async move {
            for _ in 0..2000 {
                let urgency = if rng.bool() { Urgent } else { Normal };
                let mut entering = Box::pin(gate.enter(urgency, Instant::now() + HOUR));
                let first = std::future::poll_fn(|cx| Poll::Ready(entering.as_mut().poll(cx))).await;
                let entered = match first {
                    Poll::Ready(entered) => entered,
                    Poll::Pending if rng.u32(0..4) == 0 => continue,
                    Poll::Pending => entering.await,
                };
                let (_permit, _) = entered.expect("there is room to wait, and time");
                inside.enter();
                let _count = Leave(Arc::clone(&inside));
                for _ in 0..rng.u32(0..3) {
                    tokio::task::yield_now().await;
                }
            }
        });
    }
    tasks.join_all().await;
}
