//! One address of a target and its idle connections.
//!
//! Each worker thread has a shelf of its own, so that a connection stays on the thread whose event loop knows it and
//! the lock on a shelf is never contended.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use http::HeaderValue;
use tokio::time::Instant;

use super::connection::Connection;

/// How long an address that refused a connection is tried last.
const AVOID_FOR: Duration = Duration::from_secs(1);

/// One socket address of a target.
pub struct Address {
    socket: SocketAddr,
    host: HeaderValue,
    shelves: Box<[Mutex<Vec<Idle>>]>,
    open: AtomicUsize,
    created: Instant,
    /// Milliseconds after `created` until which the address is avoided.
    avoid_until: AtomicU64,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Address {
    /// An address without connections; `host` is what a `Host` header says to it.
    pub(super) fn new(socket: SocketAddr, host: HeaderValue, workers: usize) -> Self {
        Self {
            socket,
            host,
            shelves: (0..workers.max(1)).map(|_| Mutex::default()).collect(),
            open: AtomicUsize::new(0),
            created: Instant::now(),
            avoid_until: AtomicU64::new(0),
        }
    }

    /// The socket address.
    pub fn socket(&self) -> SocketAddr {
        self.socket
    }

    /// What a `Host` header says to it.
    pub(super) fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// The idle connection used last that still lives, if any.
    pub(super) fn take(&self, worker: usize) -> Option<Connection> {
        loop {
            let mut idle = self.shelf(worker).pop()?;
            if idle.connection.is_reusable() {
                return Some(idle.connection);
            }
            self.closed();
        }
    }

    /// Puts a connection back that can be used again.
    pub(super) fn give(&self, worker: usize, connection: Connection, max_idle: usize) {
        let mut idle = self.shelf(worker);
        if idle.len() < max_idle {
            idle.push(Idle { connection, since: Instant::now() });
        } else {
            drop(idle);
            self.closed();
        }
    }

    /// Closes idle connections that are dead or older than `idle_timeout`.
    pub(super) fn sweep(&self, now: Instant, idle_timeout: Duration) {
        for worker in 0..self.shelves.len() {
            let mut idle = self.shelf(worker);
            let before = idle.len();
            idle.retain_mut(|one| {
                now.saturating_duration_since(one.since) < idle_timeout && one.connection.is_reusable()
            });
            self.open.fetch_sub(before - idle.len(), Ordering::Relaxed);
        }
    }

    /// A connection was opened.
    pub(super) fn opened(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.avoid_until.store(0, Ordering::Relaxed);
    }

    /// A connection was closed.
    pub(super) fn closed(&self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }

    /// A connection could not be opened.
    pub(super) fn refused(&self, now: Instant) {
        self.avoid_until.store(self.millis(now + AVOID_FOR), Ordering::Relaxed);
    }

    /// Whether a connection was refused a moment ago.
    pub(super) fn is_avoided(&self, now: Instant) -> bool {
        self.avoid_until.load(Ordering::Relaxed) > self.millis(now)
    }

    /// Connections: all that are open, and those of them that are idle.
    pub fn connections(&self) -> (usize, usize) {
        let idle = (0..self.shelves.len()).map(|worker| self.shelf(worker).len()).sum();
        (self.open.load(Ordering::Relaxed), idle)
    }

    fn shelf(&self, worker: usize) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.shelves[worker % self.shelves.len()].lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn millis(&self, at: Instant) -> u64 {
        u64::try_from(at.saturating_duration_since(self.created).as_millis()).unwrap_or(u64::MAX)
    }
}
