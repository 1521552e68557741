//! Starts that were answered 201 and are finished later: kept, sent, completed, canceled, expired.
//!
//! A start that cannot get through now becomes a row of a [`Store`] before its caller is told that it runs. From then on
//! it is the gateway's: [`Park::run`] claims rows that are due, lane by lane, and has each finished by what implements
//! [`Finish`]; several processes that share a store take over from each other. What a row contains is sealed before it
//! comes here.
//!
//! Knows rows, lanes and leases. Must not know requests, completions or how they are sent.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::resilience::park::ParkSettings;
use crate::resilience::rate_limit::StoreUrl;
use crate::tls::ClientTlsSettings;

mod clock;
mod commit;
mod counts;
mod finisher;
mod health;
mod news;
pub mod postgres;
pub mod sqlite;
pub mod store;

#[cfg(test)]
mod memory;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use clock::{Clock, millis};
use commit::{Orders, PATIENCE, Writer};
use counts::{Book, Limits};
use finisher::{Finisher, Flight};
use health::{Health, PAUSE};
use news::News;
use store::{Count, Id, New, Row, Store, StoreError, Which, Write, Written};

/// Operations whose completion passed through while the store did not take that in. More are forgotten, and expire.
const MOST_REMOVALS: usize = 65_536;
/// The store is counted this often, or as often as keeps it from doing little else.
const COUNT_EVERY: Duration = Duration::from_secs(5);
/// However long that takes.
const COUNT_RARELY: Duration = Duration::from_secs(300);
/// How long counting may take.
const COUNT_PATIENCE: Duration = Duration::from_secs(60);
/// A read that was given up after this long is one that hangs.
const SLOW_READ: Duration = Duration::from_millis(250);
/// Rows that are made due at a time.
const MOST_HURRIED: usize = 5_000;
/// How long the removal of one may take before its completion's sender is told to come again.
const REMOVAL: Duration = Duration::from_secs(2);
/// How long what is left to be removed may take when it is closed.
const LAST_REMOVALS: Duration = Duration::from_secs(2);

/// Where parked operations are kept, and how many of all endpoints together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParkingSettings {
    /// Where.
    pub store: StoreAt,
    /// How a database is met over TLS.
    pub tls: ClientTlsSettings,
    /// Operations that are parked at a time, besides those that their target runs.
    pub max: usize,
    /// Bytes of what is kept of all operations at a time.
    pub max_bytes: usize,
}

/// Where parked operations are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreAt {
    /// In a file of the state folder.
    Embedded,
    /// In a `PostgreSQL` database that replicas share: a `postgres://` URL.
    Postgres(StoreUrl),
}

impl Default for ParkingSettings {
    fn default() -> Self {
        Self { store: StoreAt::Embedded, tls: ClientTlsSettings::default(), max: 1_000_000, max_bytes: 4 << 30 }
    }
}

/// Finishes parked operations. Each method may be dropped at any await, and called again for the same row.
#[async_trait]
pub trait Finish: Send + Sync + 'static {
    /// Whether a row of this lane could get through now. Must not block.
    fn is_ready(&self, lane: &str) -> bool;

    /// Sends a waiting row to its target. A row that its caller canceled is not sent, but ends as canceled.
    async fn send(&self, row: &Row) -> Sent;

    /// Delivers the completion of a row that is done.
    async fn deliver(&self, row: &Row) -> Delivered;

    /// Cancels at its target a started row that its caller canceled while it was on its way there. Whether that is done;
    /// else it is worth trying again.
    async fn cancel(&self, row: &Row) -> bool;

    /// Whether completions can be made at all at present. Must not block.
    fn is_able(&self) -> bool;

    /// Ends a row that waited in vain until it expired, or has a completion that could not be delivered until then.
    async fn expire(&self, row: &Row) -> Sent;
}

/// What came of sending a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It is finished: its caller knows the end.
    Finished,
    /// It ended, and its caller does not know yet.
    Ended(Ending),
    /// Its target runs it.
    Started {
        /// What is needed to cancel it, sealed.
        content: Vec<u8>,
        /// Until when its completion may come, in milliseconds since 1970.
        expires: u64,
    },
    /// It was sent, and its target takes no more now. Its lane waits, and it goes behind those that were not sent.
    Busy {
        /// When it is worth trying again, where that is known.
        after: Option<Duration>,
    },
    /// Its turn has not come: the target is down, or takes no more now. Nothing was sent; it keeps its place.
    NotNow {
        /// When it is worth trying again, where that is known.
        after: Option<Duration>,
    },
    /// It was sent, and is worth sending again later. Others of its lane need not wait for it.
    Failed,
}

/// A completion to be delivered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// The queue that it waits in.
    pub lane: Box<str>,
    /// The completion, sealed.
    pub content: Vec<u8>,
    /// For how long it is worth trying.
    pub holds: Duration,
}

/// What came of delivering a completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivered {
    /// It arrived, or nobody waits for it any more.
    Finished,
    /// It is worth trying again.
    NotNow {
        /// Whether others of its lane need not be tried before: nothing is there to take them.
        down: bool,
    },
}

/// What came of an attempt to park.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parked {
    /// It is kept now.
    Kept,
    /// It was kept before: the token that its caller got then.
    Known(Box<str>),
}

/// Why an operation is not parked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Its endpoint has as many as its policy allows.
    #[error("{0} operations of the endpoint are parked")]
    Endpoint(usize),
    /// Its endpoint has as many bytes as its policy allows.
    #[error("{0} bytes of the endpoint are parked")]
    EndpointBytes(usize),
    /// There are as many as `park.max` allows.
    #[error("{0} operations are parked")]
    All(usize),
    /// There are as many bytes as `park.max_bytes` allows.
    #[error("{0} bytes are parked")]
    AllBytes(usize),
    /// The store does not work.
    #[error("the store does not work: {0}")]
    Store(StoreError),
}

/// Parked operations, as requests and the admin port see them.
pub struct Park {
    clock: Clock,
    limits: RwLock<Limits>,
    book: Arc<Book>,
    health: Arc<Health>,
    writer: Writer,
    orders: Orders,
    store: RwLock<Option<Arc<dyn Store>>>,
    /// Whether the store was opened and counted, or could not be.
    tried: watch::Sender<bool>,
    news: News,
    removals: Mutex<HashSet<Id>>,
    flight: Flight,
}

/// How parking is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// Whether the store works. Once a write failed it does not until one went well, which takes something to write.
    pub up: bool,
    /// What went wrong with it last.
    pub last_error: Option<String>,
    /// What is kept, by endpoint and state, as of the last look plus what changed here since.
    pub counts: Vec<Count>,
    /// Rows that are on their way now.
    pub in_flight: usize,
    /// Lanes that have something to do, now or later.
    pub lanes: usize,
    /// Those of them that wait because their target takes nothing now.
    pub paused_lanes: usize,
    /// Calls of the store that failed.
    pub errors: u64,
    /// Transactions that changed something.
    pub commits: u64,
    /// Changes that these made.
    pub writes: u64,
}

impl Park {
    /// Parking within these bounds, with a store that is yet to be opened by [`run`](Self::run).
    pub fn new(settings: &ParkingSettings) -> Arc<Self> {
        Self::with_clock(settings, Clock::new())
    }

    fn with_clock(settings: &ParkingSettings, clock: Clock) -> Arc<Self> {
        let health = Arc::new(Health::default());
        let (writer, orders) = commit::queue(Arc::clone(&health));
        Arc::new(Self {
            clock,
            limits: RwLock::new(Limits::of(settings)),
            book: Arc::default(),
            health,
            writer,
            orders,
            store: RwLock::default(),
            tried: watch::Sender::new(false),
            news: News::default(),
            removals: Mutex::default(),
            flight: Flight::default(),
        })
    }

    /// Puts other bounds in force.
    pub fn configure(&self, settings: &ParkingSettings) {
        *self.limits.write().unwrap_or_else(PoisonError::into_inner) = Limits::of(settings);
    }

    /// Milliseconds since 1970 by the clock that decides what is due. What is parked must have its times from here.
    pub fn now(&self) -> u64 {
        self.clock.now()
    }

    /// Opens a store by `open`, again and again until that works, and finishes what is in it with `finish`. Returns
    /// soon after `closing` is true: what is on its way then ends, or is let go when this is dropped.
    pub async fn run<F, O>(
        self: Arc<Self>,
        open: impl Fn() -> O + Send + Sync,
        finish: Arc<F>,
        mut closing: watch::Receiver<bool>,
    ) where
        F: Finish,
        O: Future<Output = Result<Arc<dyn Store>, StoreError>> + Send,
    {
        let store = tokio::select! {
            store = self.open(open) => store,
            _ = closing.wait_for(|closing| *closing) => return,
        };
        let _open = Open::new(&self, &store);
        let finisher = Finisher::new(Arc::clone(&self), Arc::clone(&store), finish, closing);
        let to_the_end = async {
            finisher.run().await;
            // What is not removed by then expires.
            let _ = timeout(LAST_REMOVALS, self.removed()).await;
        };
        tokio::select! {
            () = to_the_end => {}
            () = self.orders.make(&*store, &self.book, &self.health) => {}
            () = self.keep_counting(&*store) => {}
            () = self.keep_removing() => {}
            () = self.flight.keep_renewing(&self.writer, self.clock) => {}
        }
    }

    async fn open<O>(&self, open: impl Fn() -> O + Send + Sync) -> Arc<dyn Store>
    where
        O: Future<Output = Result<Arc<dyn Store>, StoreError>> + Send,
    {
        loop {
            match open().await {
                Ok(store) => return store,
                Err(error) => self.health.read_failed(&error),
            }
            self.tried.send_replace(true);
            sleep(PAUSE).await;
        }
    }

    /// Waits until the store is open and its bounds are known, or it is known that something is wrong with it.
    pub async fn tried(&self) {
        // The sender lives as long as this does.
        let _ = self.tried.subscribe().wait_for(|tried| *tried).await;
    }

    async fn keep_counting(&self, store: &dyn Store) {
        loop {
            let counted = self.count(store).await;
            self.tried.send_replace(true);
            let pause = match counted {
                Ok(took) => (took * 50).clamp(COUNT_EVERY, COUNT_RARELY),
                Err(error) => {
                    self.book.give_up();
                    self.health.read_failed(&error);
                    PAUSE
                }
            };
            sleep(pause).await;
        }
    }

    /// How long the store took.
    async fn count(&self, store: &dyn Store) -> Result<Duration, StoreError> {
        let begun = Instant::now();
        self.book.begin();
        let counts = in_time(COUNT_PATIENCE, store.counts()).await?;
        let took = begun.elapsed();
        self.health.read_went();
        let _all_counted = self.orders.uncounted.lock().await;
        self.book.finish(counts);
        Ok(took)
    }

    /// Keeps an operation, within the bounds of its policy and of the process.
    pub async fn park(&self, new: New, rule: &ParkSettings) -> Result<Parked, Refused> {
        let trial = self.health.may_park().map_err(Refused::Store)?;
        if !self.book.is_counted() {
            return Err(Refused::Store(StoreError("it is being counted".to_owned())));
        }
        let limits = *self.limits.read().unwrap_or_else(PoisonError::into_inner);
        let room = self.book.reserve(&new.endpoint, new.content.len(), rule, limits)?;
        let (lane, due) = (new.lane.clone(), new.arrived);
        match self.writer.park(Write::Park(new), room, trial).await.map_err(Refused::Store)? {
            Written::Known(token) => Ok(Parked::Known(token)),
            Written::Parked => {
                self.news.due(&lane, due);
                Ok(Parked::Kept)
            }
            other => Err(Refused::Store(StoreError(format!("it answered {other:?} to what was to be kept")))),
        }
    }

    /// Whether it is worth looking for an operation of the endpoint: one may be parked, as far as is known here, and
    /// reads of the store do not fail or hang. Never waits. Until what the store has was counted, everything may be parked.
    pub fn has_any(&self, endpoint: &str) -> bool {
        self.health.reads_work() && self.book.has_any(endpoint)
    }

    /// Whether an operation of the endpoint may be parked, whether the store works or not; else as
    /// [`has_any`](Self::has_any).
    pub fn may_have(&self, endpoint: &str) -> bool {
        self.book.has_any(endpoint)
    }

    /// The name of the store, while one is open.
    pub fn store_name(&self) -> Option<String> {
        self.opened().ok().map(|store| store.name().to_owned())
    }

    /// The row of this name. Takes up to five seconds; reads are known to hang once this was dropped after a quarter of one.
    pub async fn find(&self, id: Id) -> Result<Option<Row>, StoreError> {
        let store = self.opened()?;
        let mut finding = Finding { health: &self.health, begun: Some(Instant::now()) };
        let found = self.read(store.find(id)).await;
        finding.begun = None;
        found
    }

    /// Ends an operation that waits, with this completion: see [`store::Write::Cancel`].
    pub async fn end(&self, id: Id, ending: Ending) -> Result<Written, StoreError> {
        let now = self.now();
        let expires = now.saturating_add(millis(ending.holds));
        let Ending { lane, content, .. } = ending;
        let cancel = Write::Cancel { id, lane: lane.clone(), content, now, expires };
        let written = self.writer.write(cancel, None).await?;
        if written == Written::Canceled {
            self.news.due(&lane, now);
        }
        Ok(written)
    }

    /// Its completion passed through: forgets the row. Whether that is durable; where it is not within two seconds, or
    /// this is dropped before, it goes on in the background.
    pub async fn forget(&self, id: Id) -> bool {
        self.completed(id);
        let removed = async {
            loop {
                let removed = self.news.removed.notified();
                if !self.removals().contains(&id) {
                    return;
                }
                removed.await;
            }
        };
        self.health.is_open() && timeout(REMOVAL, removed).await.is_ok()
    }

    /// Its completion passed through: forgets the row, soon and in the background.
    pub fn completed(&self, id: Id) {
        let mut removals = self.removals();
        if removals.len() < MOST_REMOVALS {
            removals.insert(id);
            drop(removals);
            self.news.removals.notify_one();
        }
    }

    async fn keep_removing(&self) {
        loop {
            let some: Vec<_> = self.removals().iter().take(commit::BATCH).copied().collect();
            if some.is_empty() {
                self.news.removals.notified().await;
                continue;
            }
            let removed = self.writer.write_all(some.iter().map(|id| Write::Remove(*id)).collect()).await;
            let failed = removed.iter().any(Result::is_err);
            for (id, _) in some.iter().zip(&removed).filter(|(_, removed)| removed.is_ok()) {
                self.removals().remove(id);
            }
            self.news.removed.notify_waiters();
            if failed {
                sleep(PAUSE).await;
            }
        }
    }

    /// Ends when nothing is left to be removed.
    async fn removed(&self) {
        loop {
            let removed = self.news.removed.notified();
            if self.removals().is_empty() {
                return;
            }
            removed.await;
        }
    }

    /// Tries these at once, whatever they wait for. How many of them were not due yet. Where this fails it may have been
    /// done for some.
    pub async fn hurry(&self, which: Which) -> Result<u64, StoreError> {
        // Those that were changed are due then, and not changed again.
        let (now, mut sum) = (self.now(), 0);
        loop {
            let hurry = Write::Hurry { which: which.clone(), now, at_most: MOST_HURRIED };
            let written = self.writer.write(hurry, None).await;
            self.news.hurry();
            let rows = if let Written::Rows(rows) = written? { rows } else { 0 };
            sum += rows;
            if rows < MOST_HURRIED as u64 {
                return Ok(sum);
            }
        }
    }

    /// Up to `at_most` rows without their content, the oldest first; of one endpoint, or of all.
    pub async fn list(&self, endpoint: Option<&str>, at_most: usize) -> Result<Vec<Row>, StoreError> {
        let store = self.opened()?;
        self.read(store.list(endpoint, at_most)).await
    }

    /// How parking is.
    pub fn status(&self) -> Status {
        let health = self.health.look();
        let (in_flight, lanes, paused_lanes) = self.flight.figures();
        Status {
            up: health.is_up(),
            last_error: health.last_error,
            counts: self.book.counts(),
            in_flight,
            lanes,
            paused_lanes,
            errors: health.errors,
            commits: health.commits,
            writes: health.writes,
        }
    }

    fn opened(&self) -> Result<Arc<dyn Store>, StoreError> {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        store.clone().ok_or_else(|| StoreError("it is not open".to_owned()))
    }

    async fn read<T>(&self, read: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let read = in_time(PATIENCE, read).await;
        match &read {
            Ok(_) => self.health.read_went(),
            Err(error) => self.health.read_failed(error),
        }
        read
    }

    fn removals(&self) -> MutexGuard<'_, HashSet<Id>> {
        self.removals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A call of the store that is over after a while, whether it ended or not.
async fn in_time<T>(patience: Duration, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let late = |_| Err(StoreError(format!("no answer within {} s", patience.as_secs())));
    timeout(patience, call).await.unwrap_or_else(late)
}

/// Looks for a row. Who asked may have less patience than the store is given.
struct Finding<'a> {
    health: &'a Health,
    begun: Option<Instant>,
}

impl Drop for Finding<'_> {
    fn drop(&mut self) {
        if self.begun.is_some_and(|begun| begun.elapsed() >= SLOW_READ) {
            self.health.read_failed(&StoreError("it was slow to answer, and given up".to_owned()));
        }
    }
}

/// For as long as this lives the store is open.
struct Open<'a>(&'a Park);

impl<'a> Open<'a> {
    fn new(park: &'a Park, store: &Arc<dyn Store>) -> Self {
        *park.store.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(store));
        park.health.opened(true);
        Self(park)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        *self.0.store.write().unwrap_or_else(PoisonError::into_inner) = None;
        self.0.health.opened(false);
        self.0.orders.forget();
    }
}
