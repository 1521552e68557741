//! The life of parked operations in random interleavings: targets and callers that come and go, stores that fail,
//! processes that die at any await.
//!
//! `NEXUS_GATEWAY_SEED=7` runs that seed alone. The order in which maps are walked is not part of it.

use std::collections::{BTreeMap, HashSet};

use tokio::task::{JoinHandle, JoinSet, yield_now};

use super::memory::{Fault, MemoryStore};
use super::store::State;
use super::*;
use crate::resilience::park::ParkReason;

const SEEDS: u64 = 150;
const OPERATIONS: u8 = 30;
/// Of the one endpoint that has a bound that matters.
const MOST: usize = 8;

#[test]
fn nothing_is_lost_whatever_happens() {
    let replay = std::env::var("NEXUS_GATEWAY_SEED").ok().map(|seed| seed.parse().expect("a seed is a number"));
    let first = replay.unwrap_or_else(|| fastrand::u64(..1 << 40));
    let seeds = if replay.is_some() { first..first + 1 } else { first..first + SEEDS };
    let mut tally = BTreeMap::new();
    for seed in seeds {
        println!("NEXUS_GATEWAY_SEED={seed}");
        fastrand::seed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        let world = runtime.unwrap().block_on(run());
        for (what, times) in &world.lock().tally {
            *tally.entry(*what).or_insert(0) += times;
        }
    }
    println!("{tally:?}");
    if replay.is_none() {
        let everywhere = [
            "result", "failure", "later", "canceled", "expired", "crash", "marked", "known", "full", "reached", "stuck",
        ];
        for what in everywhere {
            assert!(tally.get(what).is_some_and(|times| *times > 20), "the walks did not come everywhere: {tally:?}");
        }
    }
}

/// What is outside of the processes, and survives them.
struct World {
    outside: Mutex<Outside>,
    store: Arc<MemoryStore>,
    clock: Clock,
    processes: Mutex<Vec<Option<Process>>>,
    alone: bool,
}

#[derive(Default)]
struct Outside {
    operations: BTreeMap<Id, Operation>,
    target_is_down: bool,
    callers_are_down: bool,
    keys_are_missing: bool,
    tally: BTreeMap<&'static str, u32>,
}

/// An operation, as its caller and its target see it.
struct Operation {
    kind: Kind,
    expires: u64,
    tokens: Vec<Box<str>>,
    is_parked: bool,
    is_canceled: bool,
    /// Its cancel was answered as one that is taken care of.
    is_marked: bool,
    sent: u32,
    fails: u32,
    got: Vec<Vec<u8>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Sync,
    /// Delivered by who sends it.
    SyncAtOnce,
    Fails,
    Async,
    /// Until it is canceled.
    Forever,
}

#[derive(Clone)]
struct Process {
    park: Arc<Park>,
    run: Arc<JoinHandle<()>>,
    crashed: watch::Receiver<bool>,
    crash: Arc<watch::Sender<bool>>,
    _closing: Arc<watch::Sender<bool>>,
}

/// The gateway's part, of one process.
struct Gateway {
    world: Arc<World>,
    sending: Mutex<HashSet<Id>>,
}

impl World {
    fn lock(&self) -> MutexGuard<'_, Outside> {
        self.outside.lock().unwrap()
    }

    fn count(&self, what: &'static str) {
        *self.lock().tally.entry(what).or_insert(0) += 1;
    }

    fn any_process(&self) -> Option<Process> {
        let processes = self.processes.lock().unwrap();
        let at = fastrand::usize(0..processes.len());
        processes[at].clone()
    }

    fn start(self: &Arc<Self>, at: usize) {
        let settings = ParkingSettings { max: 1000, ..ParkingSettings::default() };
        let park = Park::with_clock(&settings, self.clock);
        let gateway = Arc::new(Gateway { world: Arc::clone(self), sending: Mutex::default() });
        let (closing, closes) = watch::channel(false);
        let (crash, crashed) = watch::channel(false);
        let store = Arc::clone(&self.store);
        let open = move || {
            let store: Arc<dyn Store> = store.clone();
            async { Ok(store) }
        };
        let run = Arc::new(tokio::spawn(Arc::clone(&park).run(open, gateway, closes)));
        let (crash, closing) = (Arc::new(crash), Arc::new(closing));
        self.processes.lock().unwrap()[at] = Some(Process { park, run, crashed, crash, _closing: closing });
    }

    /// A completion arrives at the caller.
    fn deliver(&self, id: Id, content: &[u8]) {
        let now = self.clock.now();
        let mut outside = self.lock();
        let operation = outside.operations.get_mut(&id).expect("it was started");
        let is_right = match content {
            b"result" => matches!(operation.kind, Kind::Sync | Kind::SyncAtOnce) && operation.sent > 0,
            b"failure" => operation.kind == Kind::Fails && operation.sent > 0,
            b"later" => operation.kind == Kind::Async && operation.sent > 0,
            b"canceled" => operation.is_canceled,
            b"expired" => operation.expires <= now,
            _ => false,
        };
        assert!(is_right, "{id}: {} is not what happened", String::from_utf8_lossy(content));
        operation.got.push(content.to_vec());
        let what = ["result", "failure", "later", "canceled", "expired"].into_iter();
        let what = what.filter(|what| what.as_bytes() == content);
        what.for_each(|what| *outside.tally.entry(what).or_insert(0) += 1);
    }

    /// A cancel arrives at the target, unless it is down.
    fn cancel(self: &Arc<Self>, id: Id, content: &[u8]) -> bool {
        assert_eq!(content, b"real token");
        let mut outside = self.lock();
        if outside.target_is_down {
            return false;
        }
        let operation = outside.operations.get_mut(&id).expect("it was started");
        assert!(operation.is_canceled && operation.sent > 0);
        if operation.kind == Kind::Forever {
            tokio::spawn(complete(Arc::clone(self), id, b"canceled"));
        }
        *outside.tally.entry("reached").or_insert(0) += 1;
        true
    }

    /// Where nobody else parks and no process forgets, bounds hold exactly.
    fn check_bounds(&self) {
        let rows = self.store.rows();
        let parked = rows.iter().filter(|row| row.state != State::Started && &*row.endpoint == "small").count();
        assert!(!self.alone || parked <= MOST, "{parked} are parked");
    }
}

async fn some_steps() {
    for _ in 0..fastrand::u32(0..4) {
        yield_now().await;
    }
    if fastrand::u32(0..4) == 0 {
        sleep(Duration::from_millis(fastrand::u64(0..3_000))).await;
    }
}

fn ending(content: &str) -> Ending {
    let lane = format!("d/{}", fastrand::u32(0..2)).into();
    Ending { lane, content: content.into(), holds: Duration::from_secs(7200) }
}

#[async_trait]
impl Finish for Gateway {
    fn is_ready(&self, lane: &str) -> bool {
        assert!(self.is_able(), "{lane}");
        // What goes to callers is found to be down only by trying.
        !lane.starts_with("s/") || !self.world.lock().target_is_down || fastrand::u32(0..4) == 0
    }

    async fn send(&self, row: &Row) -> Sent {
        let _alone = Alone::new(&self.sending, row.id);
        assert_eq!(row.state, State::Waiting);
        some_steps().await;
        if row.cancel {
            return Sent::Ended(ending("canceled"));
        }
        let (kind, is_down) = {
            let mut outside = self.world.lock();
            if outside.target_is_down {
                return Sent::NotNow { after: fastrand::bool().then(|| Duration::from_millis(fastrand::u64(0..3000))) };
            }
            let operation = outside.operations.get_mut(&row.id).expect("it was started");
            operation.sent += 1;
            if operation.sent <= operation.fails {
                return if fastrand::bool() { Sent::Failed } else { Sent::Busy { after: None } };
            }
            (operation.kind, outside.callers_are_down)
        };
        some_steps().await;
        match kind {
            Kind::SyncAtOnce if !is_down => {
                self.world.deliver(row.id, b"result");
                Sent::Finished
            }
            Kind::Sync | Kind::SyncAtOnce => Sent::Ended(ending("result")),
            Kind::Fails => Sent::Ended(ending("failure")),
            Kind::Async | Kind::Forever => {
                if kind == Kind::Async {
                    tokio::spawn(complete(Arc::clone(&self.world), row.id, b"later"));
                }
                // Longer than all that goes wrong.
                Sent::Started { content: b"real token".to_vec(), expires: self.world.clock.now() + 1_000_000 }
            }
        }
    }

    async fn deliver(&self, row: &Row) -> Delivered {
        let _alone = Alone::new(&self.sending, row.id);
        assert_eq!(row.state, State::Done);
        some_steps().await;
        if self.world.lock().callers_are_down {
            return Delivered::NotNow { down: fastrand::bool() };
        }
        self.world.deliver(row.id, &row.content);
        some_steps().await;
        Delivered::Finished
    }

    async fn cancel(&self, row: &Row) -> bool {
        let _alone = Alone::new(&self.sending, row.id);
        some_steps().await;
        assert!(row.state == State::Started && row.cancel);
        let reached = self.world.cancel(row.id, &row.content);
        some_steps().await;
        reached
    }

    fn is_able(&self) -> bool {
        !self.world.lock().keys_are_missing
    }

    async fn expire(&self, row: &Row) -> Sent {
        let _alone = Alone::new(&self.sending, row.id);
        some_steps().await;
        assert_eq!(row.state, State::Waiting);
        let is_bad = {
            let outside = self.world.lock();
            outside.target_is_down || outside.callers_are_down
        };
        if is_bad {
            self.world.count("stuck");
            return if fastrand::bool() { Sent::NotNow { after: None } } else { Sent::Failed };
        }
        Sent::Ended(ending("expired"))
    }
}

/// Nothing else of this process works at the same row.
struct Alone<'a>(&'a Mutex<HashSet<Id>>, Id);

impl<'a> Alone<'a> {
    fn new(all: &'a Mutex<HashSet<Id>>, id: Id) -> Self {
        assert!(all.lock().unwrap().insert(id), "{id} is sent twice at the same time");
        Self(all, id)
    }
}

impl Drop for Alone<'_> {
    fn drop(&mut self) {
        self.0.lock().unwrap().remove(&self.1);
    }
}

/// The target completes what it started, through a process that lives.
async fn complete(world: Arc<World>, id: Id, content: &'static [u8]) {
    loop {
        sleep(Duration::from_millis(fastrand::u64(0..20_000))).await;
        let Some(process) = world.any_process().filter(|_| !world.lock().callers_are_down) else { continue };
        world.deliver(id, content);
        process.park.completed(id);
        return;
    }
}

/// A caller starts an operation until it is told that it runs; perhaps once more than that, and perhaps cancels it.
async fn call(world: Arc<World>, id: Id) {
    sleep(Duration::from_millis(fastrand::u64(0..30_000))).await;
    for attempt in 0..fastrand::u32(5..40) {
        sleep(Duration::from_millis(fastrand::u64(0..2_000))).await;
        let Some(process) = world.any_process() else { continue };
        let parked = start(&world, &process, id, attempt).await;
        world.check_bounds();
        if parked && fastrand::u32(0..10) > 0 {
            break;
        }
    }
    if fastrand::u32(0..3) == 0 {
        some_steps().await;
        cancel(&world, id).await;
    }
}

async fn start(world: &World, process: &Process, id: Id, attempt: u32) -> bool {
    let token: Box<str> = format!("{id} {attempt}").into();
    let small = id.0[0].is_multiple_of(2);
    let endpoint = if small { "small" } else { "large" };
    let new = {
        let mut outside = world.lock();
        let operation = outside.operations.get_mut(&id).expect("it is there");
        operation.tokens.push(token.clone());
        New {
            id,
            endpoint: endpoint.into(),
            lane: format!("s/{endpoint}/service/{}", fastrand::u32(0..2)).into(),
            token,
            content: vec![0; fastrand::usize(0..100)],
            reason: ParkReason::Unreachable,
            arrived: process.park.now(),
            expires: operation.expires,
        }
    };
    let rule = ParkSettings { max: if small { MOST } else { 1000 }, ..ParkSettings::default() };
    let mut crashed = process.crashed.clone();
    let parked = tokio::select! {
        parked = process.park.park(new, &rule) => parked,
        _ = crashed.wait_for(|crashed| *crashed) => return false,
    };
    let mut outside = world.lock();
    match parked {
        Ok(Parked::Kept) => {}
        Ok(Parked::Known(token)) => {
            *outside.tally.entry("known").or_insert(0) += 1;
            assert!(outside.operations[&id].tokens.contains(&token), "{token} was never given to a caller");
        }
        Err(Refused::Endpoint(_)) => {
            *outside.tally.entry("full").or_insert(0) += 1;
            return false;
        }
        Err(_) => return false,
    }
    outside.operations.get_mut(&id).expect("it is there").is_parked = true;
    true
}

async fn cancel(world: &World, id: Id) {
    world.lock().operations.get_mut(&id).expect("it is there").is_canceled = true;
    for _ in 0..5 {
        let Some(process) = world.any_process() else { continue };
        let mut crashed = process.crashed.clone();
        let canceled = tokio::select! {
            canceled = process.park.end(id, ending("canceled")) => canceled,
            _ = crashed.wait_for(|crashed| *crashed) => continue,
        };
        match canceled {
            Ok(Written::Marked) => {
                world.lock().operations.get_mut(&id).expect("it is there").is_marked = true;
                return world.count("marked");
            }
            Ok(_) => return,
            Err(_) => sleep(Duration::from_secs(1)).await,
        }
    }
}

/// Ends processes at any await, and starts them anew.
async fn crash(world: Arc<World>) {
    loop {
        world.store.calls(fastrand::u32(1..150)).await;
        for _ in 0..fastrand::u32(0..10) {
            yield_now().await;
        }
        let at = fastrand::usize(0..world.processes.lock().unwrap().len());
        let Some(process) = world.processes.lock().unwrap()[at].take() else { continue };
        process.run.abort();
        process.crash.send_replace(true);
        world.count("crash");
        drop(process);
        let world = Arc::clone(&world);
        let _restart = tokio::spawn(async move {
            sleep(Duration::from_millis(fastrand::u64(0..15_000))).await;
            world.start(at);
        });
    }
}

async fn weather(world: Arc<World>) {
    loop {
        sleep(Duration::from_millis(fastrand::u64(0..8_000))).await;
        let fault = match fastrand::u32(0..10) {
            0..5 => Fault::None,
            5..7 => Fault::Some(20),
            7 => Fault::NextWrite,
            8 => Fault::All,
            _ => Fault::Hang,
        };
        world.store.fail(fault);
        let mut outside = world.lock();
        outside.target_is_down = fastrand::u32(0..3) == 0;
        outside.callers_are_down = fastrand::u32(0..3) == 0;
        outside.keys_are_missing = fastrand::u32(0..8) == 0;
    }
}

async fn run() -> Arc<World> {
    let processes = fastrand::usize(1..=2);
    let world = Arc::new(World {
        outside: Mutex::default(),
        store: Arc::default(),
        clock: Clock::of_tokio(),
        processes: Mutex::new(vec![None; processes]),
        alone: processes == 1,
    });
    (0..processes).for_each(|at| world.start(at));
    let mut callers = JoinSet::new();
    for number in 0..OPERATIONS {
        let id = Id([number; 16]);
        let operation = Operation {
            kind: [Kind::Sync, Kind::SyncAtOnce, Kind::Fails, Kind::Async, Kind::Forever][fastrand::usize(0..5)],
            expires: world.clock.now() + fastrand::u64(30_000..300_000),
            tokens: Vec::new(),
            is_parked: false,
            is_canceled: false,
            is_marked: false,
            sent: 0,
            fails: fastrand::u32(0..6).saturating_sub(3),
            got: Vec::new(),
        };
        world.lock().operations.insert(id, operation);
        callers.spawn(call(Arc::clone(&world), id));
    }
    let bad = [tokio::spawn(crash(Arc::clone(&world))), tokio::spawn(weather(Arc::clone(&world)))];
    while let Some(called) = callers.join_next().await {
        called.expect("a caller ends");
    }
    sleep(Duration::from_secs(fastrand::u64(0..60))).await;
    bad.iter().for_each(JoinHandle::abort);
    calm_down(&world).await;
    world
}

/// When all is well again everything comes to an end.
async fn calm_down(world: &Arc<World>) {
    yield_now().await;
    world.store.fail(Fault::None);
    {
        let mut outside = world.lock();
        (outside.target_is_down, outside.callers_are_down, outside.keys_are_missing) = (false, false, false);
        // What runs until it is canceled, and is not, completes at last.
        for (id, operation) in &mut outside.operations {
            if operation.kind == Kind::Forever && !operation.is_marked {
                operation.kind = Kind::Async;
                if operation.sent > 0 {
                    tokio::spawn(complete(Arc::clone(world), *id, b"later"));
                }
            }
        }
    }
    for _ in 0..200 {
        sleep(Duration::from_secs(10)).await;
        if world.store.rows().is_empty() {
            break;
        }
    }
    // What hangs is given up, processes that died are started, and all are counted once more.
    sleep(Duration::from_secs(100)).await;
    for process in world.processes.lock().unwrap().iter().flatten() {
        assert!(!process.run.is_finished(), "a process ended by itself");
        assert_eq!((process.park.status().in_flight, process.park.status().counts), (0, Vec::new()));
        assert!(!process.park.has_any("small"));
    }
    assert_eq!(world.store.rows(), [], "everything comes to an end");
    for (id, operation) in &world.lock().operations {
        assert!(!operation.is_parked || !operation.got.is_empty(), "{id} is lost");
    }
}
