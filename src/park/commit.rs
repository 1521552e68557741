//! Group commit: changes by many callers are made in one transaction.
//!
//! While one batch is being written the next one gathers in the queue; a caller that finds it full waits. What the
//! changes did is counted here, since a caller may have left before its change was made.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::timeout;

use super::counts::{Book, Counted, Effect, Room};
use super::health::{Health, Try};
use super::store::{Store, StoreError, Write, Written};

/// Changes that wait to be written.
const QUEUE: usize = 4_096;
/// Changes of one transaction.
pub(super) const BATCH: usize = 256;
/// Bytes of what they keep; one of them may have more.
const BATCH_BYTES: usize = 16 << 20;
/// After this a call of the store has failed, whether it does something yet or not. Shorter than a lease, so that a row
/// is not lost to others by one slow call.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// A change to be made.
pub(super) struct Order {
    write: Write,
    effect: Effect,
    room: Option<Room>,
    trial: Option<Try>,
    answer: oneshot::Sender<Result<Written, StoreError>>,
}

/// Where changes are ordered.
#[derive(Clone)]
pub(super) struct Writer {
    orders: mpsc::Sender<Order>,
    health: Arc<Health>,
}

/// Where orders come out.
pub(super) struct Orders {
    orders: Mutex<mpsc::Receiver<Order>>,
    /// Held from before changes are made until they are counted.
    pub(super) uncounted: Mutex<()>,
}

pub(super) fn queue(health: Arc<Health>) -> (Writer, Orders) {
    let (sender, receiver) = mpsc::channel(QUEUE);
    (Writer { orders: sender, health }, Orders { orders: Mutex::new(receiver), uncounted: Mutex::new(()) })
}

impl Writer {
    /// Makes a change, of a row that is known to be like `before`.
    pub(super) async fn write(&self, write: Write, before: Option<Counted>) -> Result<Written, StoreError> {
        answer_of(self.order(write, before, None, None).await).await
    }

    /// Makes a change for which there is room.
    pub(super) async fn park(&self, write: Write, room: Room, trial: Option<Try>) -> Result<Written, StoreError> {
        answer_of(self.order(write, None, Some(room), trial).await).await
    }

    /// Makes some changes, each of which may fail by itself.
    pub(super) async fn write_all(&self, writes: Vec<Write>) -> Vec<Result<Written, StoreError>> {
        let mut ordered = Vec::with_capacity(writes.len());
        for write in writes {
            ordered.push(self.order(write, None, None, None).await);
        }
        let mut written = Vec::with_capacity(ordered.len());
        for answer in ordered {
            written.push(answer_of(answer).await);
        }
        written
    }

    async fn order(
        &self,
        write: Write,
        before: Option<Counted>,
        room: Option<Room>,
        trial: Option<Try>,
    ) -> Result<Answer, StoreError> {
        if !self.health.is_open() {
            return Err(closed());
        }
        let (answer, answered) = oneshot::channel();
        let effect = Effect::of(&write, before);
        self.orders.send(Order { write, effect, room, trial, answer }).await.map_err(|_| closed())?;
        // Who closes forgets what was ordered before; what is ordered later is not made.
        if self.health.is_open() { Ok(answered) } else { Err(closed()) }
    }
}

type Answer = oneshot::Receiver<Result<Written, StoreError>>;

async fn answer_of(ordered: Result<Answer, StoreError>) -> Result<Written, StoreError> {
    ordered?.await.map_err(|_| closed())?
}

fn closed() -> StoreError {
    StoreError("it is not open".to_owned())
}

impl Orders {
    /// Makes the changes that are ordered, for ever.
    pub(super) async fn make(&self, store: &dyn Store, book: &Book, health: &Health) {
        let mut orders = self.orders.lock().await;
        let mut batch = Vec::with_capacity(BATCH);
        while orders.recv_many(&mut batch, BATCH).await > 0 {
            batch.retain(|order| !order.is_abandoned());
            let _uncounted = self.uncounted.lock().await;
            while !batch.is_empty() {
                let rest = batch.split_off(fitting(&batch));
                self::make(store, book, health, std::mem::replace(&mut batch, rest)).await;
            }
        }
    }

    /// Forgets what was ordered and not made; who ordered it is told.
    pub(super) fn forget(&self) {
        if let Ok(mut orders) = self.orders.try_lock() {
            while orders.try_recv().is_ok() {}
        }
    }
}

/// How many of them fit into one transaction; at least one. What changes many rows has one of its own: it may take long,
/// or fail for that, and nobody's operation should fail with it.
fn fitting(orders: &[Order]) -> usize {
    let mut bytes = 0;
    let fits = |order: &&Order| {
        bytes += order.write.content_len();
        bytes <= BATCH_BYTES && !matches!(order.write, Write::Hurry { .. })
    };
    orders.iter().take_while(fits).count().max(1)
}

impl Order {
    /// Nobody waits for the operation to be parked any more, so nobody will say that it is.
    fn is_abandoned(&self) -> bool {
        self.answer.is_closed() && matches!(self.write, Write::Park(_))
    }
}

/// An order whose change is being made. Where that is interrupted nobody knows whether it was made.
struct Pending<'a> {
    book: &'a Book,
    effect: Effect,
    room: Option<Room>,
    answer: oneshot::Sender<Result<Written, StoreError>>,
    /// Kept until it is known whether writes work.
    _trial: Option<Try>,
}

async fn make(store: &dyn Store, book: &Book, health: &Health, batch: Vec<Order>) {
    let mut writes = Vec::with_capacity(batch.len());
    let mut pending = Vec::with_capacity(batch.len());
    for Order { write, effect, room, trial, answer } in batch {
        writes.push(write);
        pending.push(Pending { book, effect, room, answer, _trial: trial });
    }
    let late = || Err(StoreError(format!("no answer within {} s", PATIENCE.as_secs())));
    let written = timeout(PATIENCE, store.write(writes)).await.unwrap_or_else(|_| late());
    let written = written.and_then(|written| {
        let is_whole = written.len() == pending.len();
        is_whole.then_some(written).ok_or_else(|| StoreError("it answered something else than was asked".to_owned()))
    });
    match written {
        Ok(written) => {
            health.write_went(written.len());
            for (order, written) in pending.into_iter().zip(written) {
                order.done(written);
            }
        }
        Err(error) => {
            health.write_failed(&error);
            for order in pending {
                order.failed(&error);
            }
        }
    }
}

impl Pending<'_> {
    fn done(mut self, written: Written) {
        self.book.done(&self.effect, &written);
        self.room = None;
        let _ = self.answer.send(Ok(written));
    }

    fn failed(self, error: &StoreError) {
        if let Some(room) = &self.room {
            room.doubt();
        }
        let _ = self.answer.send(Err(error.clone()));
    }
}
