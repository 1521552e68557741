//! The names under which rows are claimed, and how many rows each has.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::sleep;

use crate::park::clock::{Clock, millis};
use crate::park::commit::Writer;
use crate::park::store::{Owner, Write};

use super::LEASE;

/// How often claims are renewed.
const RENEW_EVERY: Duration = Duration::from_secs(3);

/// What is on its way.
#[derive(Debug, Default)]
pub(in crate::park) struct Flight {
    names: Mutex<Names>,
    rows: AtomicUsize,
    lanes: AtomicUsize,
    paused_lanes: AtomicUsize,
}

#[derive(Debug)]
struct Names {
    newest: Owner,
    /// Rows and claims under way. Those without any are not here.
    held: HashMap<Owner, usize>,
}

impl Default for Names {
    fn default() -> Self {
        Self { newest: new_name(), held: HashMap::new() }
    }
}

impl Flight {
    /// The name for a new claim.
    pub(super) fn hold_newest(&self) -> Owner {
        let newest = self.names().newest;
        self.hold(newest);
        newest
    }

    /// A name for one claim alone.
    pub(super) fn hold_new(&self) -> Owner {
        let new = new_name();
        self.hold(new);
        new
    }

    pub(super) fn hold(&self, owner: Owner) {
        *self.names().held.entry(owner).or_default() += 1;
    }

    pub(super) fn let_go(&self, owner: Owner) {
        let mut names = self.names();
        if let Some(held) = names.held.get_mut(&owner) {
            *held -= 1;
            if *held == 0 {
                names.held.remove(&owner);
            }
        }
    }

    /// Claims from now on have another name. What was claimed under the old one and nobody holds is not renewed any
    /// more once the last one that is held ended.
    pub(super) fn rename(&self) {
        self.names().newest = new_name();
    }

    /// Puts off what is claimed, for ever.
    pub(in crate::park) async fn keep_renewing(&self, writer: &Writer, clock: Clock) {
        loop {
            sleep(RENEW_EVERY).await;
            let owners: Vec<_> = self.names().held.keys().copied().collect();
            let until = clock.now().saturating_add(millis(LEASE));
            // One that failed is made up for by the next one, which still comes before the lease ends.
            let _ = writer.write_all(owners.into_iter().map(|owner| Write::Renew { owner, until }).collect()).await;
        }
    }

    pub(super) fn report(&self, rows: usize, lanes: usize) {
        self.rows.store(rows, Ordering::Relaxed);
        self.lanes.store(lanes, Ordering::Relaxed);
    }

    pub(super) fn report_paused(&self, lanes: usize) {
        self.paused_lanes.store(lanes, Ordering::Relaxed);
    }

    /// Rows on their way, lanes, and paused lanes.
    pub(in crate::park) fn figures(&self) -> (usize, usize, usize) {
        let [rows, lanes, paused] = [&self.rows, &self.lanes, &self.paused_lanes].map(|n| n.load(Ordering::Relaxed));
        (rows, lanes, paused)
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn new_name() -> Owner {
    Owner(*uuid::Uuid::new_v4().as_bytes())
}
