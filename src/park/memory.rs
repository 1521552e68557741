//! A store in memory, for tests, that can be made to fail.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Mutex, MutexGuard};

use async_trait::async_trait;
use tokio::sync::Semaphore;
use tokio::task::yield_now;

use super::store::{Count, Id, New, Next, Owner, Row, State, Store, StoreError, Which, Write, Written};

/// How calls fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fault {
    #[default]
    None,
    /// The next call that may change something, before it does.
    NextWrite,
    /// The next call that may change something, after it did.
    NextAnswer,
    /// Each call, before it does anything.
    All,
    /// No call ever ends.
    Hang,
    /// Changes that put claims off, before they do.
    Renewals,
    /// Changes that make rows due, before they do.
    Hurries,
    /// Calls that may change something, in so many of a hundred cases; half of them after it did.
    Some(u32),
}

pub(super) struct MemoryStore {
    inner: Mutex<Inner>,
    called: Semaphore,
}

#[derive(Default)]
struct Inner {
    rows: BTreeMap<Id, Kept>,
    fault: Fault,
    kept: u64,
    batches: Vec<usize>,
}

struct Kept {
    row: Row,
    owner: Option<Owner>,
    order: u64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self { inner: Mutex::default(), called: Semaphore::new(0) }
    }
}

impl MemoryStore {
    /// Waits for this many calls.
    pub(super) async fn calls(&self, calls: u32) {
        self.called.forget_permits(usize::MAX >> 4);
        self.called.acquire_many(calls).await.unwrap().forget();
    }

    pub(super) fn fail(&self, fault: Fault) {
        self.lock().fault = fault;
    }

    pub(super) fn rows(&self) -> Vec<Row> {
        self.lock().rows.values().map(|kept| kept.row.clone()).collect()
    }

    /// How many changes each transaction had.
    pub(super) fn batches(&self) -> Vec<usize> {
        self.lock().batches.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    async fn read(&self) -> Result<MutexGuard<'_, Inner>, StoreError> {
        self.called.add_permits(1);
        yield_now().await;
        let fault = self.lock().fault;
        match fault {
            Fault::All => Err(failed()),
            Fault::Hang => pending().await,
            _ => Ok(self.lock()),
        }
    }

    async fn change<T>(&self, change: impl FnOnce(&mut Inner) -> T) -> Result<T, StoreError> {
        self.called.add_permits(1);
        yield_now().await;
        let fault = self.lock().fault;
        let fails = match fault {
            Fault::Hang => pending().await,
            Fault::None | Fault::Renewals | Fault::Hurries => None,
            Fault::All => Some(false),
            Fault::NextWrite => {
                self.lock().fault = Fault::None;
                Some(false)
            }
            Fault::NextAnswer => {
                self.lock().fault = Fault::None;
                Some(true)
            }
            Fault::Some(percent) => (fastrand::u32(0..100) < percent).then(fastrand::bool),
        };
        if fails == Some(false) {
            return Err(failed());
        }
        let changed = change(&mut self.lock());
        yield_now().await;
        if fails.is_some() { Err(failed()) } else { Ok(changed) }
    }
}

/// Whether it waits in its lane.
fn is_queued(row: &Row) -> bool {
    row.state != State::Started || row.cancel
}

/// Until its target completes it.
fn rest(row: &mut Row) {
    (row.lane, row.due) = ("".into(), row.expires);
}

fn failed() -> StoreError {
    StoreError("made to fail".to_owned())
}

#[async_trait]
impl Store for MemoryStore {
    fn name(&self) -> &'static str {
        "memory"
    }

    async fn write(&self, writes: Vec<Write>) -> Result<Vec<Written>, StoreError> {
        let is_faulty = |write: &Write| match self.lock().fault {
            Fault::Renewals => matches!(write, Write::Renew { .. }),
            Fault::Hurries => matches!(write, Write::Hurry { .. }),
            _ => false,
        };
        if writes.iter().any(is_faulty) {
            return Err(failed());
        }
        self.change(|inner| {
            inner.batches.push(writes.len());
            writes.into_iter().map(|write| inner.write(write)).collect()
        })
        .await
    }

    async fn claim(
        &self,
        lane: &str,
        at_most: usize,
        owner: Owner,
        now: u64,
        lease: u64,
    ) -> Result<Vec<Row>, StoreError> {
        let is_due = |row: &Row| is_queued(row) && &*row.lane == lane && row.due <= now && row.expires > now;
        self.change(|inner| inner.claim(at_most, owner, lease, |kept| is_due(&kept.row), |row| row.due)).await
    }

    async fn claim_expired(&self, at_most: usize, owner: Owner, now: u64, lease: u64) -> Result<Vec<Row>, StoreError> {
        let is_over = |kept: &Kept| kept.row.expires <= now && (kept.owner.is_none() || kept.row.due <= now);
        self.change(|inner| inner.claim(at_most, owner, lease, is_over, |row| row.expires)).await
    }

    async fn find(&self, id: Id) -> Result<Option<Row>, StoreError> {
        Ok(self.read().await?.rows.get(&id).map(|kept| kept.row.clone()))
    }

    async fn lanes(&self) -> Result<Vec<(Box<str>, u64)>, StoreError> {
        let inner = self.read().await?;
        let mut lanes: BTreeMap<Box<str>, u64> = BTreeMap::new();
        for Kept { row, .. } in inner.rows.values().filter(|kept| is_queued(&kept.row)) {
            let due = lanes.entry(row.lane.clone()).or_insert(row.due);
            *due = row.due.min(*due);
        }
        Ok(lanes.into_iter().collect())
    }

    async fn counts(&self) -> Result<Vec<Count>, StoreError> {
        let inner = self.read().await?;
        let mut counts: BTreeMap<(Box<str>, State), Count> = BTreeMap::new();
        for Kept { row, .. } in inner.rows.values() {
            let (endpoint, state) = (row.endpoint.clone(), row.state);
            let new = || Count { endpoint: row.endpoint.clone(), state, rows: 0, bytes: 0, oldest: row.arrived };
            let count = counts.entry((endpoint, state)).or_insert_with(new);
            count.rows += 1;
            count.bytes += row.content.len() as u64;
            count.oldest = count.oldest.min(row.arrived);
        }
        Ok(counts.into_values().collect())
    }

    async fn list(&self, endpoint: Option<&str>, at_most: usize) -> Result<Vec<Row>, StoreError> {
        let inner = self.read().await?;
        let meant = inner.rows.values().map(|kept| &kept.row);
        let meant = meant.filter(|row| endpoint.is_none_or(|endpoint| *row.endpoint == *endpoint));
        let mut rows: Vec<_> = meant.map(|row| Row { content: Vec::new(), ..row.clone() }).collect();
        rows.sort_by_key(|row| row.arrived);
        rows.truncate(at_most);
        Ok(rows)
    }
}

impl Inner {
    fn claim(
        &mut self,
        at_most: usize,
        owner: Owner,
        lease: u64,
        which: impl Fn(&Kept) -> bool,
        since: impl Fn(&Row) -> u64,
    ) -> Vec<Row> {
        let mut due: Vec<_> = self.rows.values_mut().filter(|kept| which(kept)).collect();
        due.sort_by_key(|kept| (since(&kept.row), kept.order));
        due.truncate(at_most);
        let claim = |kept: &mut Kept| {
            let row = kept.row.clone();
            (kept.owner, kept.row.due) = (Some(owner), lease);
            row
        };
        due.into_iter().map(claim).collect()
    }

    fn write(&mut self, write: Write) -> Written {
        match write {
            Write::Park(new) => self.park(new),
            Write::Settle { id, owner, next } => self.settle(id, owner, next),
            Write::Cancel { id, lane, content, now, expires } => self.cancel(id, lane, content, now, expires),
            Write::Remove(id) => self.remove(id),
            Write::Renew { owner, until } => {
                self.each(usize::MAX, |kept| kept.owner == Some(owner), |kept| kept.row.due = until)
            }
            Write::Hurry { which, now, at_most } => {
                let meant = |row: &Row| match &which {
                    Which::All => true,
                    Which::Endpoint(endpoint) => row.endpoint == *endpoint,
                    Which::One(id) => row.id == *id,
                };
                let is_late = |row: &Row| row.state != State::Started && row.due > now;
                let meant = |kept: &Kept| kept.owner.is_none() && is_late(&kept.row) && meant(&kept.row);
                self.each(at_most, meant, |kept| kept.row.due = now)
            }
        }
    }

    fn each(&mut self, at_most: usize, which: impl Fn(&Kept) -> bool, change: impl Fn(&mut Kept)) -> Written {
        let meant = self.rows.values_mut().filter(|kept| which(kept));
        Written::Rows(meant.take(at_most).map(change).count() as u64)
    }

    fn park(&mut self, new: New) -> Written {
        if let Some(kept) = self.rows.get(&new.id) {
            return Written::Known(kept.row.token.clone());
        }
        let New { id, endpoint, lane, token, content, reason, arrived, expires } = new;
        let state = State::Waiting;
        let row = Row {
            id,
            endpoint,
            lane,
            state,
            token,
            content,
            reason,
            arrived,
            due: arrived,
            expires,
            tries: 0,
            cancel: false,
        };
        self.kept += 1;
        self.rows.insert(id, Kept { row, owner: None, order: self.kept });
        Written::Parked
    }

    fn settle(&mut self, id: Id, owner: Owner, next: Next) -> Written {
        let Some(kept) = self.rows.get_mut(&id).filter(|kept| kept.owner == Some(owner)) else { return Written::Gone };
        kept.owner = None;
        let row = &mut kept.row;
        match next {
            Next::Again { due, tries } => (row.due, row.tries) = (due, tries),
            Next::Started { content, expires, now } => {
                (row.state, row.content, row.expires, row.tries) = (State::Started, content, expires, 0);
                if row.cancel {
                    row.due = now;
                } else {
                    rest(row);
                }
            }
            Next::Done { lane, content, due, expires } => {
                (row.state, row.lane, row.content) = (State::Done, lane, content);
                (row.due, row.expires, row.tries) = (due, expires, 0);
            }
            Next::CancelSent => {
                row.cancel = false;
                if row.state == State::Started {
                    rest(row);
                }
            }
            Next::Remove => return self.remove(id),
        }
        Written::Changed { cancel: row.cancel }
    }

    fn cancel(&mut self, id: Id, lane: Box<str>, content: Vec<u8>, now: u64, expires: u64) -> Written {
        let Some(Kept { row, owner, .. }) = self.rows.get_mut(&id) else { return Written::Gone };
        if row.state != State::Waiting {
            return Written::Was(row.state, row.content.clone());
        }
        if owner.is_some() {
            row.cancel = true;
            return Written::Marked;
        }
        (row.state, row.lane, row.content) = (State::Done, lane, content);
        (row.due, row.expires, row.tries) = (now, expires, 0);
        Written::Canceled
    }

    fn remove(&mut self, id: Id) -> Written {
        let gone = self.rows.remove(&id).map(|kept| kept.row);
        gone.map_or(Written::Gone, |row| Written::Removed(row.endpoint, row.state, row.content.len(), row.arrived))
    }
}
