//! Whether the store works, as far as the calls of it tell.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::store::StoreError;

/// For how long nothing is parked after a write failed, and how long everything else waits before it tries again.
pub(super) const PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug, Default)]
pub(super) struct Health {
    inner: Mutex<Inner>,
}

/// Reads and writes are told apart: on a full disk the reads go well.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "independent of each other")]
pub(super) struct Inner {
    pub(super) open: bool,
    pub(super) last_error: Option<String>,
    pub(super) errors: u64,
    pub(super) commits: u64,
    pub(super) writes: u64,
    bad_reads: bool,
    bad_writes: bool,
    down_until: Option<Instant>,
    trying: bool,
}

/// One may try whether writes work again.
#[derive(Debug)]
pub(super) struct Try(Arc<Health>);

impl Drop for Try {
    fn drop(&mut self) {
        self.0.lock().trying = false;
    }
}

impl Inner {
    pub(super) fn is_up(&self) -> bool {
        self.open && !self.bad_reads && !self.bad_writes
    }
}

impl Health {
    pub(super) fn look(&self) -> Inner {
        self.lock().clone()
    }

    pub(super) fn is_open(&self) -> bool {
        self.lock().open
    }

    /// Whether reads work, as far as is known.
    pub(super) fn reads_work(&self) -> bool {
        !self.lock().bad_reads
    }

    /// Whether it makes sense to park something: the store is open, and writes work or one may try.
    pub(super) fn may_park(self: &Arc<Self>) -> Result<Option<Try>, StoreError> {
        let mut inner = self.lock();
        if !inner.open {
            return Err(inner.why("it is not open"));
        }
        let Some(until) = inner.down_until else { return Ok(None) };
        if inner.trying || Instant::now() < until {
            return Err(inner.why("it does not take writes"));
        }
        inner.trying = true;
        Ok(Some(Try(Arc::clone(self))))
    }

    pub(super) fn opened(&self, open: bool) {
        self.change(|inner| {
            inner.open = open;
            (inner.bad_reads, inner.bad_writes, inner.down_until) = (false, false, None);
        });
    }

    /// A call failed that changes nothing.
    pub(super) fn read_failed(&self, error: &StoreError) {
        self.change(|inner| {
            inner.failed(error);
            inner.bad_reads = true;
        });
    }

    pub(super) fn read_went(&self) {
        self.change(|inner| inner.bad_reads = false);
    }

    pub(super) fn write_failed(&self, error: &StoreError) {
        self.change(|inner| {
            inner.failed(error);
            inner.bad_writes = true;
            inner.down_until = Some(Instant::now() + PAUSE);
        });
    }

    /// So many changes are made, or some rows are claimed.
    pub(super) fn write_went(&self, changes: usize) {
        self.change(|inner| {
            inner.commits += u64::from(changes > 0);
            inner.writes += changes as u64;
            (inner.bad_reads, inner.bad_writes, inner.down_until) = (false, false, None);
        });
    }

    /// Says once that it is up or down now.
    fn change(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.lock();
        let (before, errors) = (inner.is_up(), inner.errors);
        change(&mut inner);
        // It was never up where it cannot be opened at first.
        let is_first_error = errors == 0 && inner.errors > 0;
        if inner.is_up() == before && (before || !is_first_error) {
            return;
        }
        if inner.is_up() {
            tracing::info!("the store of parked operations works");
        } else if let Some(error) = &inner.last_error {
            tracing::error!(%error, "the store of parked operations does not work: nothing is parked");
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn failed(&mut self, error: &StoreError) {
        self.errors += 1;
        self.last_error = Some(error.0.clone());
    }

    fn why(&self, otherwise: &str) -> StoreError {
        StoreError(self.last_error.clone().unwrap_or_else(|| otherwise.to_owned()))
    }
}
