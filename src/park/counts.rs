//! How much is parked, by endpoint and state, and whether more may be.
//!
//! The store is counted now and then; between two counts the changes made here are added. What was added while the store
//! was being counted is added once more, and what was removed meanwhile is not removed: the next count sets it right, and
//! until then there may seem to be more than there is, never less. The same holds for a write of which nobody knows
//! whether it was done.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::store::{Count, Next, Row, State, Write, Written};
use super::{ParkingSettings, Refused};
use crate::resilience::park::ParkSettings;

/// How many of all endpoints together may be parked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) max: usize,
    pub(super) max_bytes: usize,
}

#[derive(Debug, Default)]
pub(super) struct Book {
    pages: RwLock<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    endpoints: HashMap<Box<str>, Page>,
    /// What counts against the bounds of the process: rows that wait or are done, and bytes of all.
    all: Sum,
    counted: bool,
    counting: bool,
}

/// What is known of an endpoint.
#[derive(Debug, Default)]
struct Page {
    states: [Cell; 3],
    /// Added while the store is being counted.
    meanwhile: [Cell; 3],
    /// About to be written.
    reserved: Sum,
    /// Perhaps written: before the current count began, and since.
    doubtful: [Sum; 2],
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    rows: u64,
    bytes: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    sum: Sum,
    oldest: u64,
}

/// Room for an operation about to be parked; given back when dropped.
#[derive(Debug)]
pub(super) struct Room {
    book: Arc<Book>,
    endpoint: Box<str>,
    bytes: u64,
}

/// A row as far as counting goes.
#[derive(Clone, Debug)]
pub(super) struct Counted {
    pub(super) endpoint: Box<str>,
    pub(super) state: State,
    pub(super) bytes: usize,
    pub(super) arrived: u64,
}

/// What a write changes, if it is done.
#[derive(Debug)]
pub(super) enum Effect {
    Parks(Counted),
    /// What there is of the row before and after.
    Settles(Counted, Option<(State, usize)>),
    Other,
}

impl Limits {
    pub(super) fn of(settings: &ParkingSettings) -> Self {
        Self { max: settings.max, max_bytes: settings.max_bytes }
    }
}

impl Counted {
    pub(super) fn of(row: &Row) -> Self {
        Self { endpoint: row.endpoint.clone(), state: row.state, bytes: row.content.len(), arrived: row.arrived }
    }
}

impl Effect {
    /// Of this write to a row that is known to be like that.
    pub(super) fn of(write: &Write, before: Option<Counted>) -> Self {
        match (write, before) {
            (Write::Park(new), _) => Self::Parks(Counted {
                endpoint: new.endpoint.clone(),
                state: State::Waiting,
                bytes: new.content.len(),
                arrived: new.arrived,
            }),
            (Write::Settle { next, .. }, Some(before)) => {
                let after = match next {
                    Next::Again { .. } | Next::CancelSent => Some((before.state, before.bytes)),
                    Next::Started { content, .. } => Some((State::Started, content.len())),
                    Next::Done { content, .. } => Some((State::Done, content.len())),
                    Next::Remove => None,
                };
                Self::Settles(before, after)
            }
            _ => Self::Other,
        }
    }
}

impl Book {
    /// Room for an operation of `bytes`, within the bounds of its policy and of the process.
    pub(super) fn reserve(
        self: &Arc<Self>,
        endpoint: &str,
        bytes: usize,
        rule: &ParkSettings,
        limits: Limits,
    ) -> Result<Room, Refused> {
        let more = bytes as u64;
        let mut pages = self.write();
        let parked = pages.endpoints.get(endpoint).map(Page::parked).unwrap_or_default();
        if parked.rows >= rule.max as u64 {
            return Err(Refused::Endpoint(as_usize(parked.rows)));
        }
        if parked.bytes + more > rule.max_bytes as u64 {
            return Err(Refused::EndpointBytes(as_usize(parked.bytes)));
        }
        if pages.all.rows >= limits.max as u64 {
            return Err(Refused::All(as_usize(pages.all.rows)));
        }
        if pages.all.bytes + more > limits.max_bytes as u64 {
            return Err(Refused::AllBytes(as_usize(pages.all.bytes)));
        }
        pages.all.add(1, more);
        pages.endpoints.entry(endpoint.into()).or_default().reserved.add(1, more);
        Ok(Room { book: Arc::clone(self), endpoint: endpoint.into(), bytes: more })
    }

    /// Whether there may be anything of this endpoint. Until the store was counted there may.
    pub(super) fn has_any(&self, endpoint: &str) -> bool {
        let pages = self.read();
        !pages.counted || pages.endpoints.contains_key(endpoint)
    }

    /// Whether the store was counted since it was opened.
    pub(super) fn is_counted(&self) -> bool {
        self.read().counted
    }

    /// A write was done, with this result.
    pub(super) fn done(&self, effect: &Effect, written: &Written) {
        let mut pages = self.write();
        match (written, effect) {
            (Written::Parked, Effect::Parks(new)) => pages.add(&new.endpoint, new.state, new.bytes, new.arrived),
            (Written::Removed(endpoint, state, bytes, _), _) => pages.remove(endpoint, *state, *bytes),
            (Written::Changed { .. }, Effect::Settles(row, after)) => {
                if let Some((state, bytes)) = after {
                    pages.add(&row.endpoint, *state, *bytes, row.arrived);
                }
                pages.remove(&row.endpoint, row.state, row.bytes);
            }
            _ => {}
        }
    }

    /// The store is being counted from now on.
    pub(super) fn begin(&self) {
        let mut pages = self.write();
        pages.counting = true;
        for page in pages.endpoints.values_mut() {
            page.meanwhile = Default::default();
            let since = std::mem::take(&mut page.doubtful[1]);
            page.doubtful[0].add(since.rows, since.bytes);
        }
    }

    /// The store was not counted after all.
    pub(super) fn give_up(&self) {
        self.write().counting = false;
    }

    /// The store was counted. No write may be between being done and being reported to [`done`](Self::done).
    pub(super) fn finish(&self, counts: Vec<Count>) {
        let mut pages = self.write();
        (pages.counting, pages.counted) = (false, true);
        for page in pages.endpoints.values_mut() {
            page.states = std::mem::take(&mut page.meanwhile);
            page.doubtful[0] = Sum::default();
        }
        for count in counts {
            let page = pages.endpoints.entry(count.endpoint).or_default();
            page.states[count.state as usize].add(count.rows, count.bytes, count.oldest);
        }
        pages.endpoints.retain(|_, page| !page.is_empty());
        let mut all = Sum::default();
        for page in pages.endpoints.values() {
            let (parked, started) = (page.parked(), page.states[State::Started as usize].sum);
            all.add(parked.rows, parked.bytes + started.bytes);
        }
        pages.all = all;
    }

    /// Bytes of a row that is to be sent or delivered, on average, of the endpoint that has the largest.
    pub(super) fn row_bytes(&self) -> u64 {
        let average = |page: &Page| {
            let mut sum = Sum::default();
            for state in [State::Waiting, State::Done] {
                let cell = page.states[state as usize].sum;
                sum.add(cell.rows, cell.bytes);
            }
            sum.bytes.checked_div(sum.rows)
        };
        self.read().endpoints.values().filter_map(average).max().unwrap_or_default()
    }

    /// What is kept, by endpoint and state, sorted.
    pub(super) fn counts(&self) -> Vec<Count> {
        let pages = self.read();
        let counts = pages.endpoints.iter().flat_map(|(endpoint, page)| {
            let cells = State::ALL.into_iter().map(|state| (state, page.states[state as usize]));
            cells.filter(|(_, cell)| cell.sum.rows > 0).map(|(state, cell)| Count {
                endpoint: endpoint.clone(),
                state,
                rows: cell.sum.rows,
                bytes: cell.sum.bytes,
                oldest: cell.oldest,
            })
        });
        let mut counts: Vec<_> = counts.collect();
        counts.sort_by(|a, b| (&a.endpoint, a.state).cmp(&(&b.endpoint, b.state)));
        counts
    }

    fn read(&self) -> RwLockReadGuard<'_, Pages> {
        self.pages.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Pages> {
        self.pages.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pages {
    fn add(&mut self, endpoint: &str, state: State, bytes: usize, arrived: u64) {
        let (counting, bytes) = (self.counting, bytes as u64);
        self.all.add(weight(state), bytes);
        let page = self.endpoints.entry(endpoint.into()).or_default();
        page.states[state as usize].add(1, bytes, arrived);
        if counting {
            page.meanwhile[state as usize].add(1, bytes, arrived);
        }
    }

    fn remove(&mut self, endpoint: &str, state: State, bytes: usize) {
        let bytes = bytes as u64;
        let Some(page) = self.endpoints.get_mut(endpoint) else { return };
        let sum = &mut page.states[state as usize].sum;
        // What was counted already may be less than what is removed.
        let (rows, bytes) = (sum.rows.min(1), sum.bytes.min(bytes));
        sum.remove(rows, bytes);
        self.all.remove(rows * weight(state), bytes);
        self.tidy(endpoint);
    }

    fn tidy(&mut self, endpoint: &str) {
        if self.endpoints.get(endpoint).is_some_and(Page::is_empty) {
            self.endpoints.remove(endpoint);
        }
    }
}

impl Page {
    /// What counts against the policy.
    fn parked(&self) -> Sum {
        let mut parked = Sum::default();
        let states = [State::Waiting, State::Done].map(|state| self.states[state as usize].sum);
        for sum in states.into_iter().chain([self.reserved]).chain(self.doubtful) {
            parked.add(sum.rows, sum.bytes);
        }
        parked
    }

    fn sums(&self) -> impl Iterator<Item = Sum> {
        self.states.into_iter().map(|cell| cell.sum).chain([self.reserved]).chain(self.doubtful)
    }

    fn is_empty(&self) -> bool {
        self.sums().chain(self.meanwhile.map(|cell| cell.sum)).all(|sum| sum.rows == 0)
    }
}

impl Sum {
    fn add(&mut self, rows: u64, bytes: u64) {
        self.rows += rows;
        self.bytes += bytes;
    }

    fn remove(&mut self, rows: u64, bytes: u64) {
        self.rows = self.rows.saturating_sub(rows);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

impl Cell {
    fn add(&mut self, rows: u64, bytes: u64, oldest: u64) {
        self.oldest = if self.sum.rows == 0 { oldest } else { self.oldest.min(oldest) };
        self.sum.add(rows, bytes);
    }
}

impl Room {
    /// Nobody knows whether the operation was parked: the room is kept until the store is counted again.
    pub(super) fn doubt(&self) {
        let mut pages = self.book.write();
        pages.all.add(1, self.bytes);
        if let Some(page) = pages.endpoints.get_mut(&self.endpoint) {
            page.doubtful[1].add(1, self.bytes);
        }
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut pages = self.book.write();
        pages.all.remove(1, self.bytes);
        if let Some(page) = pages.endpoints.get_mut(&self.endpoint) {
            page.reserved.remove(1, self.bytes);
        }
        pages.tidy(&self.endpoint);
    }
}

/// How many rows a row counts as, against bounds: an operation that its target runs does not wait here, and may run for
/// months.
fn weight(state: State) -> u64 {
    u64::from(state != State::Started)
}

fn as_usize(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
