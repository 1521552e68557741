use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::memory::{Fault, MemoryStore};
use super::store::State;
use super::*;
use crate::resilience::park::ParkReason;

mod troubles;

const SECOND: Duration = Duration::from_secs(1);

type Answer<T> = Box<dyn Fn(&Row) -> T + Send>;

/// A target that answers what it is told to, and callers that take what they get.
struct Script {
    ready: Mutex<bool>,
    sends: Mutex<Vec<Id>>,
    answer: Mutex<Answer<Sent>>,
    delivers: Mutex<Answer<Delivered>>,
    delivered: Mutex<Vec<Vec<u8>>>,
    canceled: Mutex<Vec<Vec<u8>>>,
    /// Cancels of started rows that fail before one gets through.
    failing_cancels: AtomicUsize,
    able: Mutex<bool>,
    expires: Mutex<Answer<Sent>>,
    expired: AtomicUsize,
    /// Lets sends through.
    gate: Semaphore,
}

impl Script {
    fn new(answer: impl Fn(&Row) -> Sent + Send + 'static) -> Arc<Self> {
        Arc::new(Self {
            ready: Mutex::new(true),
            sends: Mutex::default(),
            answer: Mutex::new(Box::new(answer)),
            delivers: Mutex::new(Box::new(|_| Delivered::Finished)),
            delivered: Mutex::default(),
            canceled: Mutex::default(),
            failing_cancels: AtomicUsize::new(0),
            able: Mutex::new(true),
            expires: Mutex::new(Box::new(|_| Sent::Ended(ending("expired")))),
            expired: AtomicUsize::new(0),
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        })
    }

    fn set(&self, answer: impl Fn(&Row) -> Sent + Send + 'static) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(answer);
    }

    fn sends(&self) -> usize {
        self.sends.lock().unwrap().len()
    }
}

#[async_trait]
impl Finish for Script {
    fn is_ready(&self, _: &str) -> bool {
        *self.ready.lock().unwrap()
    }

    async fn send(&self, row: &Row) -> Sent {
        if row.cancel {
            return Sent::Ended(ending("canceled"));
        }
        self.sends.lock().unwrap().push(row.id);
        self.gate.acquire().await.unwrap().forget();
        self.answer.lock().unwrap_or_else(PoisonError::into_inner)(row)
    }

    async fn deliver(&self, row: &Row) -> Delivered {
        let delivered = self.delivers.lock().unwrap()(row);
        if delivered == Delivered::Finished {
            self.delivered.lock().unwrap().push(row.content.clone());
        }
        delivered
    }

    async fn cancel(&self, row: &Row) -> bool {
        assert_eq!((row.state, row.cancel), (State::Started, true));
        self.canceled.lock().unwrap().push(row.content.clone());
        let fewer = |left: usize| left.checked_sub(1);
        self.failing_cancels.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fewer).is_err()
    }

    fn is_able(&self) -> bool {
        *self.able.lock().unwrap()
    }

    async fn expire(&self, row: &Row) -> Sent {
        self.expired.fetch_add(1, Ordering::Relaxed);
        self.expires.lock().unwrap()(row)
    }
}

fn ending(content: &str) -> Ending {
    Ending { lane: "d/caller".into(), content: content.into(), holds: Duration::from_secs(3600) }
}

fn started(row: &Row, content: &str) -> Sent {
    Sent::Started { content: content.into(), expires: row.expires + 60_000 }
}

struct Bench {
    park: Arc<Park>,
    store: Arc<MemoryStore>,
    closing: watch::Sender<bool>,
    run: JoinHandle<()>,
}

/// Parking that runs, once it is open and counted.
async fn bench(finish: &Arc<Script>) -> Bench {
    bench_with(finish, Arc::default(), &ParkingSettings::default()).await
}

async fn bench_with(finish: &Arc<Script>, store: Arc<MemoryStore>, settings: &ParkingSettings) -> Bench {
    bench_by(Clock::of_tokio(), finish, store, settings).await
}

async fn bench_by(clock: Clock, finish: &Arc<Script>, store: Arc<MemoryStore>, settings: &ParkingSettings) -> Bench {
    let park = Park::with_clock(settings, clock);
    let (closing, closes) = watch::channel(false);
    let opened = Arc::clone(&store);
    let open = move || {
        let store: Arc<dyn Store> = opened.clone();
        async { Ok(store) }
    };
    let run = tokio::spawn(Arc::clone(&park).run(open, Arc::clone(finish), closes));
    sleep(Duration::from_millis(1)).await;
    Bench { park, store, closing, run }
}

fn new(park: &Park, number: u8, endpoint: &str) -> New {
    New {
        id: Id([number; 16]),
        endpoint: endpoint.into(),
        lane: format!("s/{endpoint}/service/operation").into(),
        token: format!("token {number}").into(),
        content: vec![number; 100],
        reason: ParkReason::Unreachable,
        arrived: park.now(),
        expires: park.now() + 3_600_000,
    }
}

impl Bench {
    /// Another process with the same store.
    async fn beside(&self, finish: &Arc<Script>) -> Self {
        bench_by(self.park.clock, finish, Arc::clone(&self.store), &ParkingSettings::default()).await
    }

    async fn park(&self, number: u8) -> Result<Parked, Refused> {
        self.park.park(new(&self.park, number, "e"), &ParkSettings::default()).await
    }

    fn state(&self, number: u8) -> Option<State> {
        self.store.rows().into_iter().find(|row| row.id == Id([number; 16])).map(|row| row.state)
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_parked_is_sent_at_once_and_its_completion_delivered() {
    let finish = Script::new(|_| Sent::Ended(ending("result")));
    let bench = bench(&finish).await;
    assert_eq!(bench.park(1).await, Ok(Parked::Kept));
    sleep(Duration::from_millis(20)).await;
    assert_eq!(*finish.delivered.lock().unwrap(), [b"result".to_vec()]);
    assert_eq!(bench.store.rows(), []);
    assert!(!bench.park.has_any("e"));
    assert_eq!(bench.park.status().counts, []);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_start_gets_the_token_of_the_first() {
    let finish = Script::new(|_| Sent::NotNow { after: None });
    let bench = bench(&finish).await;
    assert_eq!(bench.park(1).await, Ok(Parked::Kept));
    let again = New { token: "another".into(), ..new(&bench.park, 1, "e") };
    let again = bench.park.park(again, &ParkSettings::default()).await;
    assert_eq!(again, Ok(Parked::Known("token 1".into())));
    assert_eq!(bench.park.status().counts[0].rows, 1);
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_down_gets_nothing_and_one_that_is_back_gets_it_at_once() {
    let finish = Script::new(|_| Sent::Finished);
    *finish.ready.lock().unwrap() = false;
    let bench = bench(&finish).await;
    for number in 0..20 {
        bench.park(number).await.unwrap();
    }
    sleep(60 * SECOND).await;
    assert_eq!(finish.sends(), 0);
    assert_eq!((bench.park.status().lanes, bench.park.status().paused_lanes), (1, 1));
    *finish.ready.lock().unwrap() = true;
    sleep(SECOND / 2).await;
    assert_eq!(finish.sends(), 20);
    let sends = finish.sends.lock().unwrap().clone();
    assert!(sends[..1] == [Id([0; 16])], "in the order of arrival: {sends:?}");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_fails_is_sent_again_and_does_not_hold_up_others() {
    let finish = Script::new(|row| if row.id == Id([1; 16]) { Sent::Failed } else { Sent::Finished });
    let bench = bench(&finish).await;
    for number in 0..5 {
        bench.park(number).await.unwrap();
    }
    sleep(SECOND / 4).await;
    assert_eq!(bench.store.rows().len(), 1);
    assert_eq!(finish.sends(), 5);
    sleep(10 * SECOND).await;
    assert!((7..=9).contains(&finish.sends()), "1, 2 and 4 s, with jitter, and a second to notice: {}", finish.sends());
    finish.set(|_| Sent::Finished);
    sleep(20 * SECOND).await;
    assert_eq!(bench.store.rows(), []);
}

#[tokio::test(start_paused = true)]
async fn a_started_operation_is_kept_until_its_completion_passes_through() {
    let finish = Script::new(|row| started(row, "for cancels"));
    let bench = bench(&finish).await;
    bench.park(1).await.unwrap();
    sleep(SECOND).await;
    assert_eq!(bench.state(1), Some(State::Started));
    assert_eq!(bench.park.find(Id([1; 16])).await.unwrap().unwrap().content, b"for cancels");
    let counts = bench.park.status().counts;
    assert_eq!((counts.len(), counts[0].state, counts[0].bytes), (1, State::Started, 11));
    bench.park.completed(Id([1; 16]));
    sleep(SECOND).await;
    assert_eq!(bench.store.rows(), []);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_crosses_the_answer_goes_to_the_target() {
    let finish = Script::new(|row| started(row, "real token"));
    finish.gate.forget_permits(Semaphore::MAX_PERMITS);
    let bench = bench(&finish).await;
    bench.park(1).await.unwrap();
    sleep(SECOND).await;
    assert_eq!(bench.park.end(Id([1; 16]), ending("canceled")).await, Ok(Written::Marked));
    finish.gate.add_permits(1);
    sleep(SECOND).await;
    assert_eq!(*finish.canceled.lock().unwrap(), [b"real token".to_vec()]);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_that_crosses_a_failure_ends_the_operation_at_once() {
    let finish = Script::new(|_| Sent::NotNow { after: Some(600 * SECOND) });
    finish.gate.forget_permits(Semaphore::MAX_PERMITS);
    let bench = bench(&finish).await;
    bench.park(1).await.unwrap();
    sleep(SECOND).await;
    assert_eq!(bench.park.end(Id([1; 16]), ending("canceled")).await, Ok(Written::Marked));
    finish.gate.add_permits(1);
    sleep(SECOND).await;
    assert_eq!(*finish.delivered.lock().unwrap(), [b"canceled".to_vec()]);
    assert_eq!(bench.store.rows(), []);
}

#[tokio::test(start_paused = true)]
async fn a_cancel_of_what_waits_is_delivered_at_once() {
    let finish = Script::new(|_| Sent::Finished);
    *finish.ready.lock().unwrap() = false;
    let bench = bench(&finish).await;
    bench.park(1).await.unwrap();
    assert_eq!(bench.park.end(Id([1; 16]), ending("canceled")).await, Ok(Written::Canceled));
    *finish.ready.lock().unwrap() = true;
    sleep(SECOND).await;
    assert_eq!(*finish.delivered.lock().unwrap(), [b"canceled".to_vec()]);
    assert_eq!(finish.sends(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_expires_ends_as_expired() {
    let finish = Script::new(|_| Sent::NotNow { after: None });
    *finish.ready.lock().unwrap() = false;
    let bench = bench(&finish).await;
    bench.park(1).await.unwrap();
    sleep(3_602 * SECOND).await;
    assert_eq!(bench.state(1), Some(State::Done));
    assert_eq!(finish.expired.load(Ordering::Relaxed), 1);
    sleep(3_602 * SECOND).await;
    assert_eq!(bench.store.rows(), [], "a completion that nobody took is given up");
}

#[tokio::test(start_paused = true)]
async fn bounds_hold_also_for_what_is_parked_at_the_same_time() {
    let finish = Script::new(|_| Sent::NotNow { after: None });
    let settings = ParkingSettings { max: 10, ..ParkingSettings::default() };
    let bench = bench_with(&finish, Arc::default(), &settings).await;
    let rule = ParkSettings { max: 7, ..ParkSettings::default() };
    let mut parks = tokio::task::JoinSet::new();
    for number in 0..30 {
        let endpoint = ["a", "b"][usize::from(number % 2)];
        let (park, new, rule) = (Arc::clone(&bench.park), new(&bench.park, number, endpoint), rule.clone());
        parks.spawn(async move { park.park(new, &rule).await });
    }
    let parked = parks.join_all().await;
    assert_eq!(parked.iter().filter(|parked| **parked == Ok(Parked::Kept)).count(), 10);
    assert!(parked.contains(&Err(Refused::All(10))));
    assert_eq!(bench.store.rows().len(), 10);

    bench.park.configure(&ParkingSettings::default());
    let mut refused = Vec::new();
    for (number, rule) in [(40, rule.clone()), (41, ParkSettings { max_bytes: 750, ..ParkSettings::default() })] {
        for number in [number, number + 10, number + 20] {
            let parked = bench.park.park(new(&bench.park, number, "a"), &rule).await;
            refused.extend(parked.err());
        }
    }
    assert_eq!(refused[0], Refused::Endpoint(7));
    assert_eq!(refused.last(), Some(&Refused::EndpointBytes(700)));
}

#[tokio::test(start_paused = true)]
async fn changes_that_come_together_are_one_transaction() {
    let finish = Script::new(|_| Sent::NotNow { after: None });
    *finish.ready.lock().unwrap() = false;
    let bench = bench(&finish).await;
    let mut parks = tokio::task::JoinSet::new();
    for number in 0..200 {
        let (park, new) = (Arc::clone(&bench.park), new(&bench.park, number, "e"));
        parks.spawn(async move { park.park(new, &ParkSettings::default()).await });
    }
    assert!(parks.join_all().await.into_iter().all(|parked| parked == Ok(Parked::Kept)));
    let batches = bench.store.batches();
    assert!(batches.len() <= 3, "{batches:?}");
    let status = bench.park.status();
    assert_eq!((status.commits, status.writes), (batches.len() as u64, 200));
}

#[tokio::test(start_paused = true)]
async fn while_writes_fail_parking_is_refused_at_once_and_one_tries_again() {
    let finish = Script::new(|_| Sent::NotNow { after: None });
    let bench = bench(&finish).await;
    *finish.ready.lock().unwrap() = false;
    bench.store.fail(Fault::All);
    assert!(matches!(bench.park(1).await, Err(Refused::Store(_))));
    bench.store.fail(Fault::None);
    let begun = Instant::now();
    assert!(matches!(bench.park(2).await, Err(Refused::Store(_))), "it does not even try");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(!bench.park.status().up);
    sleep(SECOND + SECOND / 10).await;
    let both = tokio::join!(bench.park(3), bench.park(4));
    assert_eq!(both.0, Ok(Parked::Kept));
    assert!(matches!(both.1, Err(Refused::Store(_))), "only one tries");
    assert_eq!(bench.park(5).await, Ok(Parked::Kept));
    assert!(bench.park.status().up);
    assert!(bench.park.status().errors > 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_one_that_fails() {
    let finish = Script::new(|_| Sent::Finished);
    let bench = bench(&finish).await;
    bench.store.fail(Fault::Hang);
    assert!(matches!(bench.park(1).await, Err(Refused::Store(_))));
    bench.store.fail(Fault::None);
    sleep(10 * SECOND).await;
    assert_eq!(bench.park(2).await, Ok(Parked::Kept));
    sleep(10 * SECOND).await;
    assert_eq!(bench.store.rows(), []);
}

#[tokio::test(start_paused = true)]
async fn what_came_of_a_row_is_written_once_the_store_is_back() {
    let finish = Script::new(|_| Sent::Ended(ending("result")));
    finish.gate.forget_permits(Semaphore::MAX_PERMITS);
    let bench = bench(&finish).await;
    bench.park(1).await.unwrap();
    sleep(SECOND).await;
    bench.store.fail(Fault::All);
    finish.gate.add_permits(1);
    sleep(5 * SECOND).await;
    assert_eq!(bench.state(1), Some(State::Waiting));
    bench.store.fail(Fault::None);
    sleep(5 * SECOND).await;
    assert_eq!(finish.sends(), 1);
    assert_eq!(*finish.delivered.lock().unwrap(), [b"result".to_vec()]);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_takes_long_stays_with_who_sends_it() {
    let finish = Script::new(|_| Sent::Finished);
    finish.gate.forget_permits(Semaphore::MAX_PERMITS);
    let store: Arc<MemoryStore> = Arc::default();
    let one = bench_with(&finish, Arc::clone(&store), &ParkingSettings::default()).await;
    let _other = bench_with(&finish, store, &ParkingSettings::default()).await;
    one.park(1).await.unwrap();
    sleep(120 * SECOND).await;
    assert_eq!(finish.sends(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_takes_over_from_one_that_died() {
    let finish = Script::new(|_| Sent::Finished);
    finish.gate.forget_permits(Semaphore::MAX_PERMITS);
    let store: Arc<MemoryStore> = Arc::default();
    let one = bench_with(&finish, Arc::clone(&store), &ParkingSettings::default()).await;
    one.park(1).await.unwrap();
    sleep(SECOND).await;
    one.run.abort();
    let finish = Script::new(|_| Sent::Finished);
    let other = bench_with(&finish, store, &ParkingSettings::default()).await;
    assert!(other.park.has_any("e"));
    sleep(12 * SECOND).await;
    assert_eq!((finish.sends(), other.store.rows().len()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_panic_costs_a_lease_and_no_row() {
    let finish = Script::new(|_| panic!("made to fail"));
    let bench = bench(&finish).await;
    bench.park(1).await.unwrap();
    sleep(SECOND).await;
    finish.set(|_| Sent::Finished);
    // Others are on their way all the time.
    for number in 2..20 {
        bench.park(number).await.unwrap();
        sleep(SECOND).await;
    }
    assert_eq!(bench.store.rows(), []);
}

#[tokio::test(start_paused = true)]
async fn what_was_claimed_without_an_answer_comes_due_again_while_others_are_renewed() {
    let finish = Script::new(|_| Sent::Finished);
    let bench = bench(&finish).await;
    *finish.ready.lock().unwrap() = false;
    bench.park(1).await.unwrap();
    sleep(SECOND / 5).await;
    bench.store.fail(Fault::NextAnswer);
    *finish.ready.lock().unwrap() = true;
    sleep(SECOND / 5).await;
    assert_eq!(bench.park.status().errors, 1, "the claim");
    finish.gate.forget_permits(Semaphore::MAX_PERMITS);
    sleep(2 * SECOND).await;
    bench.park(2).await.unwrap();
    sleep(60 * SECOND).await;
    let claimed = bench.store.rows().into_iter().find(|row| row.id == Id([1; 16])).unwrap();
    assert!(claimed.due <= bench.park.now(), "nobody renews it");
    finish.gate.add_permits(2);
    sleep(15 * SECOND).await;
    assert_eq!(*finish.sends.lock().unwrap(), [Id([2; 16]), Id([1; 16])]);
    assert_eq!(bench.store.rows(), []);
}

#[tokio::test(start_paused = true)]
async fn closing_waits_for_what_is_on_its_way_and_takes_nothing_on() {
    let finish = Script::new(|_| Sent::Finished);
    finish.gate.forget_permits(Semaphore::MAX_PERMITS);
    let bench = bench(&finish).await;
    bench.park(1).await.unwrap();
    sleep(SECOND).await;
    bench.closing.send(true).unwrap();
    sleep(2 * SECOND).await;
    bench.park(2).await.unwrap();
    sleep(60 * SECOND).await;
    assert!(!bench.run.is_finished());
    finish.gate.add_permits(2);
    bench.park.completed(Id([2; 16]));
    bench.run.await.unwrap();
    assert_eq!((finish.sends(), bench.store.rows().len()), (1, 0));
    assert!(!bench.park.status().up);
    assert!(bench.park.find(Id([1; 16])).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_cannot_be_opened_is_opened_later() {
    let park = Park::with_clock(&ParkingSettings::default(), Clock::of_tokio());
    let (_closing, closes) = watch::channel(false);
    let tries = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tries);
    let open = move || {
        let opened = counted.fetch_add(1, Ordering::Relaxed) >= 3;
        let store: Arc<dyn Store> = Arc::new(MemoryStore::default());
        async move { if opened { Ok(store) } else { Err(StoreError("locked".to_owned())) } }
    };
    tokio::spawn(Arc::clone(&park).run(open, Script::new(|_| Sent::Finished), closes));
    sleep(SECOND / 2).await;
    let refused = park.park(new(&park, 1, "e"), &ParkSettings::default()).await;
    assert_eq!(refused, Err(Refused::Store(StoreError("locked".to_owned()))));
    assert!(park.may_have("e"), "nobody knows");
    assert!(!park.has_any("e"), "nobody can look");
    sleep(3 * SECOND).await;
    assert_eq!(park.park(new(&park, 1, "e"), &ParkSettings::default()).await, Ok(Parked::Kept));
    assert!(!park.has_any("other"));
}

#[tokio::test(start_paused = true)]
async fn hurry_ends_waits() {
    let finish = Script::new(|_| Sent::Busy { after: Some(200 * SECOND) });
    let bench = bench(&finish).await;
    bench.park(1).await.unwrap();
    sleep(SECOND / 4).await;
    assert_eq!(finish.sends(), 1);
    finish.set(|_| Sent::Finished);
    assert_eq!(bench.park.hurry(Which::All).await, Ok(1));
    sleep(SECOND / 10).await;
    assert_eq!((finish.sends(), bench.store.rows().len()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn completions_wait_longer_each_time_while_their_caller_is_down() {
    let finish = Script::new(|_| Sent::Ended(ending("result")));
    let tried = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&tried);
    *finish.delivers.lock().unwrap() = Box::new(move |_| {
        counted.fetch_add(1, Ordering::Relaxed);
        Delivered::NotNow { down: true }
    });
    let bench = bench(&finish).await;
    bench.park(1).await.unwrap();
    sleep(600 * SECOND).await;
    let tried = tried.load(Ordering::Relaxed);
    assert!((12..=24).contains(&tried), "{tried} tries in ten minutes");
    *finish.delivers.lock().unwrap() = Box::new(|_| Delivered::Finished);
    sleep(62 * SECOND).await;
    assert_eq!((finish.sends(), bench.store.rows().len()), (1, 0));
}
